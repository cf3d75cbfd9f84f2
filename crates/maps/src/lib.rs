//! BPF maps: every type a program may use, with the reference kernel's semantics.
//!
//! A [`Map`] is created from a [`MapAttr`] by [`Map::create`], which runs the kernel's creation checks. It has three faces:
//! - system calls: methods of [`Map`] over byte slices ([`Map::sys_lookup`], [`Map::sys_update`], ...), errnos as bpf(2) has them;
//! - programs: [`abi`], C functions over [`Map::program_ptr`] that engines call, and layouts that they inline;
//! - Rust: [`TypedMap`], typed views over plain old data; [`Map::debug`], the elements as text by their BTF types.
//!
//! Memory that programs see stays at stable addresses and is released through `ring3_sync::rcu` only. Neighbours: `os` and `sync`
//! below; `helpers`, `objects`, `net` and `tracing` above, which own programs, file descriptors and events ([`fd::FdTable`]).
//!
//! ```
//! use ring3_maps::{Map, MapAttr, TypedMap};
//! use ring3_uapi::MapType;
//!
//! let map = Map::create(&MapAttr::new(MapType::Hash, 4, 8, 100))?;
//! let counts = TypedMap::<u32, u64>::new(map)?;
//! counts.insert(&7, &42)?;
//! assert_eq!(counts.get(&7), Some(42));
//! # Ok::<(), ring3_maps::MapError>(())
//! ```

pub mod abi;
mod arena;
mod array;
mod attr;
mod batch;
mod bloom;
mod cgroup_array;
mod cgroup_storage;
mod cpumap;
mod debug;
mod devmap;
pub mod fd;
pub mod fields;
mod hash;
pub mod local_storage;
mod lpm_trie;
mod map;
mod map_in_map;
mod mem;
mod missing;
pub mod ops;
mod perf_event_array;
mod prog_array;
mod queue_stack;
mod reuseport_array;
pub mod ringbuf;
mod slots;
mod sockmap;
pub mod stack_trace;
mod struct_ops;
mod typed;
mod xskmap;

pub use arena::Arena;
pub use attr::{MapAttr, MapError};
pub use batch::{BatchArgs, BatchCmd, BatchItem, BatchResult, BatchStyle, BatchWalk};
pub use cgroup_array::CgroupArray;
pub use cgroup_storage::CgroupStorage;
pub use cpumap::{CpuMap, CpuTarget};
pub use debug::MapDebug;
pub use devmap::{DevMap, DevTarget};
pub use local_storage::LocalStorage;
pub use map::{Access, Map, Mapping, MappingAccess, Users, WriteActive};
pub use missing::MISSING;
pub use ops::{ArrayLayout, MapOps};
pub use perf_event_array::PerfEventArray;
pub use prog_array::{OwnerKey, ProgArray, ProgSlot};
pub use reuseport_array::ReuseportArray;
pub use ringbuf::RingBuf;
pub use ringbuf::user::UserRingBuf;
pub use sockmap::SockMap;
pub use stack_trace::StackTrace;
pub use struct_ops::{StructOps, StructOpsState};
pub use typed::{Plain, TypedMap};
pub use xskmap::XskMap;

pub use ring3_uapi::{Errno, MapType};

/// The README's examples, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
