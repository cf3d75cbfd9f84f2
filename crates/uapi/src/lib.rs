//! `linux/bpf.h` of Linux 6.18 as Rust: commands, types, helper ids, flags, limits and errnos.
//!
//! Names and numbers are complete: every value the reference kernel knows is a row here, whether ring3 implements it or
//! not. Neighbours: every other crate reads it, it reads none.
//!
//! ```
//! use ring3_uapi::{FuncId, MapType};
//! assert_eq!(MapType::from_raw(1), Some(MapType::Hash));
//! assert_eq!(FuncId::MapLookupElem.name(), "map_lookup_elem");
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod attach_type;
mod cmd;
mod enums;
mod errno;
pub mod flags;
mod func_id;
pub mod limits;
mod link_type;
mod map_type;
mod prog_type;

pub use attach_type::AttachType;
pub use cmd::Cmd;
pub use errno::Errno;
pub use func_id::FuncId;
pub use link_type::LinkType;
pub use map_type::MapType;
pub use prog_type::ProgType;
