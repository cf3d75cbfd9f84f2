//! bpf(2): attribute bytes in, a result or an errno out.
//!
//! A [`Shim`] serves the commands of one `ring3_objects::System` to any number of [`Caller`]s. It knows no transport: the caller's attribute bytes
//! come as a slice, the caller's memory as a [`GuestMemory`], and descriptors are numbers in a table of the caller's own. `support` is the table of
//! commands; one file per family implements them.
//!
//! Neighbours: `ring3-objects` and `ring3-maps` do the work; `ring3-bpffs` owns pins. A daemon, a preload library or a test stands above.
//!
//! ```
//! use ring3_objects::System;
//! use ring3_syscall_shim::{Caller, Shim, VecMemory};
//!
//! let shim = Shim::new(System::new());
//! let caller = Caller::new();
//! let mut memory = VecMemory::new();
//! // BPF_MAP_CREATE of a hash map: 4 bytes to 8 bytes, 16 elements.
//! let mut create = [0u8; 92];
//! for (at, value) in [(0, 1u32), (4, 4), (8, 8), (12, 16)] {
//!     create[at..at + 4].copy_from_slice(&value.to_ne_bytes());
//! }
//! let fd = shim.bpf(&caller, 0, &mut create, &mut memory)?;
//! // BPF_MAP_UPDATE_ELEM, then BPF_MAP_LOOKUP_ELEM of the same key.
//! let key = memory.add(&7u32.to_ne_bytes());
//! let value = memory.add(&42u64.to_ne_bytes());
//! let mut elem = [0u8; 32];
//! elem[..4].copy_from_slice(&(fd as u32).to_ne_bytes());
//! elem[8..16].copy_from_slice(&key.to_ne_bytes());
//! elem[16..24].copy_from_slice(&value.to_ne_bytes());
//! shim.bpf(&caller, 2, &mut elem, &mut memory)?;
//! let found = memory.add(&[0; 8]);
//! elem[16..24].copy_from_slice(&found.to_ne_bytes());
//! shim.bpf(&caller, 1, &mut elem, &mut memory)?;
//! assert_eq!(memory.bytes_at(found), Some(&42u64.to_ne_bytes()[..]));
//! # Ok::<(), ring3_uapi::Errno>(())
//! ```
#![forbid(unsafe_code)]

mod attach_cmd;
mod attr;
mod batch;
mod btf_cmd;
mod caller;
mod fd_slots;
mod id_cmd;
mod info;
mod link_cmd;
mod log_buf;
mod map_cmd;
mod memory;
mod name;
mod object_files;
mod pin;
mod prog_cmd;
mod program_calls;
mod shim;
mod small_cmd;
mod support;
mod test_run;

pub use caller::{Caller, Host, MapFile, OpenFile, PathAt};
pub use memory::{GuestMemory, VecMemory};
pub use object_files::{FileId, Keep, ObjectFiles};
pub use shim::Shim;
pub use small_cmd::iterated;
pub use support::{CommandSupport, SUPPORT};
