//! Types as text: [`raw`] lists them as `bpftool btf dump format raw` does, [`c`] declares them in C as
//! `bpftool btf dump format c` does.
//!
//! Both write to a sink as they go, so that a blob made to be long costs its reader no memory.

mod align;
mod c;
mod decl;
mod order;
mod raw;

pub use c::c;
pub use raw::raw;
