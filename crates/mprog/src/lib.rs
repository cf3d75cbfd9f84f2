//! Ordered multi-program attach: programs and links at one hook, placed before or after each other, replaced, detached, queried.
//!
//! Generic over what is attached, and pure: no locks, no I/O. An edit is evaluated against the active array and written to the spare one; the
//! caller publishes it, waits until no reader is left, and releases what was removed. After an error nothing has changed.
//!
//! How a request is placed: each rule of a request (replace, before, after) gives a position on its own; all rules given must agree, else the
//! request is refused. [`Anchor`] says the rules as values; [`Anchor::from_request`] reads them from the bits of bpf(2).
//!
//! ```
//! use ring3_mprog::{Anchor, Entry, Mprog};
//! let mut hook = Mprog::<u32, u32>::new();
//! hook.attach(Entry::program(10), &Anchor::last(), None)?.commit();
//! hook.attach(Entry::program(20), &Anchor::before(Entry::program(10)), None)?.commit();
//! let order: Vec<u32> = hook.entries().iter().map(|entry| entry.prog).collect();
//! assert_eq!(order, [20, 10]);
//! assert_eq!(hook.revision(), 3);
//! # Ok::<(), ring3_uapi::Errno>(())
//! ```
//!
//! # Source
//! tcx and netkit of Linux 6.18, observed: errnos, positions and revisions are recorded in fixtures.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod anchor;
mod entry;
mod query;

pub use anchor::{Anchor, Lookup};
pub use entry::{Entry, Mprog, Pending};
pub use query::{Query, QueryResult};
