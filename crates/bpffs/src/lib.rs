//! Pins: a tree of paths that hold BPF objects, with the semantics of the BPF file system.
//!
//! A [`BpfFs`] is one mounted tree in memory. A pin holds its object: the object lives until the pin is unlinked, or until the tree is dropped.
//! "Pins outlive the process" therefore means: **pins belong to the owner of the tree**. A tree inside of one process dies with it; a daemon
//! that owns the tree keeps the pins of clients that have exited. Nothing is written to disk, in the reference kernel neither.
//!
//! Neighbours: `ring3-objects` below (what is pinned); `ring3-syscall-shim` above (BPF_OBJ_PIN, BPF_OBJ_GET).
//!
//! ```
//! use ring3_bpffs::{BpfFs, Pinned};
//! use ring3_maps::{MapAttr, MapType};
//! use ring3_objects::{MapObject, System};
//!
//! let system = System::new();
//! let map = MapObject::create(&system, &MapAttr::new(MapType::Hash, 4, 8, 16), None, None)?;
//! let fs = BpfFs::mounted_at("/sys/fs/bpf");
//! fs.mkdir("/sys/fs/bpf/app")?;
//! fs.pin("/sys/fs/bpf/app/flows", Pinned::Map(map))?;
//! assert!(matches!(fs.get("/sys/fs/bpf/app/flows")?, Pinned::Map(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod path;
mod tree;

pub use tree::{BpfFs, DirEntry, EntryKind, Pinned};
