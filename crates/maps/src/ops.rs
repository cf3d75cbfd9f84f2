//! What a map type does: the `MapOps` trait, and the table that creates one by type.
//!
//! Methods have the kernel's answer of a type that lacks the operation as default: `ENOTSUPP`. Program-side methods take raw pointers as
//! helpers do; system-call-side ones take slices whose lengths [`crate::Map`] has checked.

use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;

use ring3_os::map::{Prot, Region};
use ring3_os::memfd::Memfd;
use ring3_uapi::{Errno, MapType};

use crate::arena::Arena;
use crate::array::{ArrayMap, PercpuArrayMap};
use crate::attr::{MapAttr, MapError};
use crate::batch::{BatchStyle, BatchWalk};
use crate::bloom::BloomFilter;
use crate::cgroup_array::CgroupArray;
use crate::cgroup_storage::CgroupStorage;
use crate::cpumap::CpuMap;
use crate::devmap::DevMap;
use crate::fd::FdTable;
use crate::hash::HashMap;
use crate::local_storage::LocalStorage;
use crate::lpm_trie::LpmTrie;
use crate::map_in_map::{ArrayOfMaps, HashOfMaps};
use crate::perf_event_array::PerfEventArray;
use crate::prog_array::ProgArray;
use crate::queue_stack::QueueStack;
use crate::reuseport_array::ReuseportArray;
use crate::ringbuf::RingBuf;
use crate::ringbuf::user::UserRingBuf;
use crate::sockmap::SockMap;
use crate::stack_trace::StackTrace;
use crate::struct_ops::StructOps;
use crate::xskmap::XskMap;

/// The C signature of helpers: five arguments, one result.
pub type HelperFn = unsafe extern "C" fn(u64, u64, u64, u64, u64) -> u64;

/// Copies the value of a key, as a system call does: hot pointer, key, room for a value; whether the key is there.
pub(crate) type CopyFn = unsafe fn(*const (), *const u8, *mut u8) -> bool;

/// What an engine needs to inline the lookup of an array: `index < max_entries ? base + (index & index_mask) * stride : NULL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayLayout {
    /// Address of element 0 (of CPU 0's for a per-CPU array).
    pub base: u64,
    /// Bytes from one element to the next.
    pub stride: u32,
    /// Elements.
    pub max_entries: u32,
    /// One less than the next power of two of `max_entries`.
    pub index_mask: u32,
    /// Bytes from one CPU's elements to the next CPU's; 0 for a plain array.
    pub cpu_stride: u64,
}

/// Visits an element: key and value pointers.
pub type Visit<'a> = dyn FnMut(*const u8, *mut u8) -> ControlFlow<()> + 'a;

/// The operations of a map type.
pub trait MapOps: Any + Send + Sync + fmt::Debug {
    /// Helper `map_lookup_elem`: null where the kernel returns NULL.
    ///
    /// # Safety
    /// `key` is readable for the key size; the caller is in an RCU read section for as long as it uses the result.
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        let _ = key;
        std::ptr::null_mut()
    }

    /// Helper `map_update_elem`.
    ///
    /// # Errors
    /// As the helper's negative results.
    ///
    /// # Safety
    /// `key` and `value` are readable for their sizes; the caller is in an RCU read section.
    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        let _ = (key, value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// Helper `map_delete_elem`.
    ///
    /// # Errors
    /// As the helper's negative results.
    ///
    /// # Safety
    /// `key` is readable for the key size; the caller is in an RCU read section.
    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        let _ = key;
        Err(Errno::ENOTSUPP)
    }

    /// Helper `map_push_elem`.
    ///
    /// # Errors
    /// As the helper's negative results.
    ///
    /// # Safety
    /// `value` is readable for the value size.
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        let _ = (value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// Helper `map_pop_elem`.
    ///
    /// # Errors
    /// As the helper's negative results.
    ///
    /// # Safety
    /// `value` is writable for the value size.
    unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        let _ = value;
        Err(Errno::ENOTSUPP)
    }

    /// Helper `map_peek_elem`.
    ///
    /// # Errors
    /// As the helper's negative results.
    ///
    /// # Safety
    /// `value` is writable for the value size.
    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        let _ = value;
        Err(Errno::ENOTSUPP)
    }

    /// Helper `map_lookup_percpu_elem`.
    ///
    /// # Safety
    /// As [`MapOps::lookup`].
    unsafe fn lookup_percpu(&self, key: *const u8, cpu: u32) -> *mut u8 {
        let _ = (key, cpu);
        std::ptr::null_mut()
    }

    /// The key of the element that holds `value`, for callbacks of timers; an array's index is written to `index`, which the result then points
    /// to. Null: the type has no such elements, or the address is none of its values.
    fn key_of_value(&self, value: *const u8, index: &mut u32) -> *const u8 {
        let _ = (value, index);
        std::ptr::null()
    }

    /// Visits every element in the order of `bpf_for_each_map_elem` and returns how many were visited.
    ///
    /// # Errors
    /// `EINVAL`: the type cannot be walked by programs.
    ///
    /// # Safety
    /// The caller is in an RCU read section for as long as the visitor uses what it is given.
    unsafe fn for_each(&self, visit: &mut Visit<'_>) -> Result<u32, Errno> {
        let _ = visit;
        Err(Errno::EINVAL)
    }

    /// `BPF_MAP_LOOKUP_ELEM`. `value` holds the caller's bytes on entry (a bloom filter reads them).
    ///
    /// # Errors
    /// As bpf(2).
    fn sys_lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let _ = (key, value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_LOOKUP_ELEM` where the key is a descriptor too.
    ///
    /// # Errors
    /// As bpf(2).
    fn sys_lookup_fd(
        &self,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let _ = fds;
        self.sys_lookup(key, value, flags)
    }

    /// `BPF_MAP_UPDATE_ELEM`.
    ///
    /// # Errors
    /// As bpf(2).
    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let _ = (key, value, flags, fds);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    /// As bpf(2).
    fn sys_delete(&self, key: &[u8], fds: &dyn FdTable) -> Result<(), Errno> {
        let _ = (key, fds);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_GET_NEXT_KEY`.
    ///
    /// # Errors
    /// `ENOENT` after the last key; else as bpf(2).
    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let _ = (key, next);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
    ///
    /// # Errors
    /// As bpf(2).
    fn sys_lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let _ = (key, value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// How the batch commands work here.
    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Unsupported
    }

    /// Walks on for a batch lookup; only for [`BatchStyle::Walk`].
    ///
    /// # Errors
    /// `ENOENT`: the walk has reached the end. `ENOSPC`: not even the next elements fit.
    fn batch_walk(&self, walk: &mut BatchWalk<'_>) -> Result<(), Errno> {
        let _ = walk;
        Err(Errno::ENOTSUPP)
    }

    /// Direct function for helper `map_lookup_elem`, specialised for this map; its first argument is the map's program pointer.
    fn lookup_fn(&self) -> HelperFn {
        crate::abi::dyn_lookup
    }

    /// Direct function for helper `map_update_elem`.
    fn update_fn(&self) -> HelperFn {
        crate::abi::dyn_update
    }

    /// Direct function for helper `map_delete_elem`.
    fn delete_fn(&self) -> HelperFn {
        crate::abi::dyn_delete
    }

    /// Direct function for a look-up from Rust, specialised for this map, where one value belongs to a key and the direct functions for programs mean
    /// the same as the system calls.
    fn copy_fn(&self) -> Option<CopyFn> {
        None
    }

    /// What the direct functions find in the map's hot pointer.
    fn hot(&self) -> *const () {
        std::ptr::null()
    }

    /// The layout of arrays, for inlined lookups.
    fn array_layout(&self) -> Option<ArrayLayout> {
        None
    }

    /// The memory that mmap(2) of the map's descriptor shows.
    fn mmap_source(&self) -> Option<MmapSource<'_>> {
        None
    }

    /// Bytes of memory, as `fdinfo` shows them.
    fn mem_usage(&self) -> u64 {
        0
    }

    /// Host object of a type that other crates need whole (ring buffers, prog arrays).
    fn as_any(&self) -> &dyn Any;

    /// The number of elements that `info.max_entries` shows, where creation changed it.
    fn max_entries(&self) -> Option<u32> {
        None
    }

    /// The elements of a plain array, which must be equal to stand in for each other as inner maps.
    fn max_entries_of_array(&self) -> Option<u32> {
        None
    }

    /// Called when the last user reference (descriptor, pin) goes: prog arrays and the like let go of what they hold.
    fn release_user_refs(&self) {}
}

/// Memory of a map that can be mapped.
#[derive(Debug)]
pub struct MmapSource<'map> {
    /// The descriptor to map.
    pub memfd: &'map Memfd,
    /// Bytes that can be mapped from offset 0; more than the memfd has where its end is seen twice.
    pub len_bytes: usize,
    /// Where the second view of a ring's data begins, and how many bytes before that it repeats; `None` if there is no such.
    pub again: Option<(usize, usize)>,
    /// Which pages may be mapped writable.
    pub rule: MmapRule,
}

impl MmapSource<'_> {
    /// Refuses writes by the descriptor, and new writable mappings, from now on; a map that was frozen does.
    pub fn seal(&self) {
        // Fails only where memory is sealed against sealing, as rings are: their consumer goes on.
        let _ = self.memfd.seal_future_writes();
    }

    /// The pieces of a mapping: offset in the memfd and bytes, in order.
    pub fn pieces(&self, offset_bytes: usize, len_bytes: usize) -> Vec<(usize, usize)> {
        let Some((second, repeated)) = self.again else {
            return vec![(offset_bytes, len_bytes)];
        };
        let end = offset_bytes + len_bytes;
        let mut pieces = Vec::new();
        if offset_bytes < second {
            pieces.push((offset_bytes, end.min(second) - offset_bytes));
        }
        if end > second {
            let from = offset_bytes.max(second);
            pieces.push((from - repeated, end - from));
        }
        pieces
    }

    /// Maps a part into this process.
    pub(crate) fn map(
        &self,
        offset_bytes: usize,
        len_bytes: usize,
        prot: Prot,
    ) -> Result<Region, Errno> {
        let fd = std::os::fd::AsFd::as_fd(self.memfd);
        let len_bytes = len_bytes.next_multiple_of(ring3_os::cpu::page_bytes());
        let pieces = self.pieces(offset_bytes, len_bytes);
        if let [(offset, len)] = pieces[..] {
            return Region::shared(fd, offset, len, prot);
        }
        let mut region = Region::anonymous(len_bytes, Prot::None)?;
        let mut at = 0;
        for (offset, len) in pieces {
            region.overlay(at, fd, offset, len, prot)?;
            at += len;
        }
        Ok(region)
    }
}

/// Which parts of a map may be mapped for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmapRule {
    /// All (subject to freezing).
    Any,
    /// Only the first page: the consumer position of a ring buffer.
    ConsumerPageOnly,
    /// All but the first page: the consumer position of a user ring buffer is the kernel's.
    AllButFirstPage,
}

/// Creates the operations of a type, after the kernel's checks of the attributes.
pub(crate) fn create(attr: &MapAttr) -> Result<Box<dyn MapOps>, MapError> {
    Ok(match attr.map_type {
        MapType::Unspec => return Err(attr.error(Errno::EINVAL, format_args!("no map type"))),
        MapType::Hash | MapType::PercpuHash | MapType::LruHash | MapType::LruPercpuHash => {
            Box::new(HashMap::create(attr)?)
        }
        MapType::Array => Box::new(ArrayMap::create(attr)?),
        MapType::PercpuArray => Box::new(PercpuArrayMap::create(attr)?),
        MapType::ProgArray => Box::new(ProgArray::create(attr)?),
        MapType::Queue | MapType::Stack => Box::new(QueueStack::create(attr)?),
        MapType::BloomFilter => Box::new(BloomFilter::create(attr)?),
        MapType::ArrayOfMaps => Box::new(ArrayOfMaps::create(attr)?),
        MapType::HashOfMaps => Box::new(HashOfMaps::create(attr)?),
        MapType::Ringbuf => RingBuf::create(attr)?,
        MapType::UserRingbuf => Box::new(UserRingBuf::create(attr)?),
        MapType::PerfEventArray => Box::new(PerfEventArray::create(attr)?),
        MapType::StackTrace => Box::new(StackTrace::create(attr)?),
        MapType::CgroupArray => Box::new(CgroupArray::create(attr)?),
        MapType::LpmTrie => Box::new(LpmTrie::create(attr)?),
        MapType::Devmap | MapType::DevmapHash => Box::new(DevMap::create(attr)?),
        MapType::Cpumap => Box::new(CpuMap::create(attr)?),
        MapType::Xskmap => Box::new(XskMap::create(attr)?),
        MapType::Sockmap | MapType::Sockhash => Box::new(SockMap::create(attr)?),
        MapType::ReuseportSockarray => Box::new(ReuseportArray::create(attr)?),
        MapType::CgroupStorageDeprecated | MapType::PercpuCgroupStorageDeprecated => {
            Box::new(CgroupStorage::create(attr)?)
        }
        MapType::SkStorage
        | MapType::InodeStorage
        | MapType::TaskStorage
        | MapType::CgrpStorage => Box::new(LocalStorage::create(attr)?),
        MapType::StructOps => Box::new(StructOps::create(attr)?),
        MapType::Arena => Box::new(Arena::create(attr)?),
    })
}
