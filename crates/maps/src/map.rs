//! `Map`: one map object, its header as programs see it, its system calls, freezing and mappings.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, NoFds};
use crate::fields::{FieldKind, ValueRecord};
use crate::mem;
use crate::ops::{self, ArrayLayout, CopyFn, HelperFn, MapOps, Visit};

mod header;
mod mapping;

use header::MapHeader;
pub use mapping::{Mapping, MappingAccess, WriteActive};

/// Which system calls a descriptor of the map allows (`BPF_F_RDONLY`, `BPF_F_WRONLY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look-ups and updates.
    ReadWrite,
    /// Look-ups.
    ReadOnly,
    /// Updates.
    WriteOnly,
}

impl Access {
    /// The access of a descriptor from `BPF_F_RDONLY` and `BPF_F_WRONLY` of `flags`.
    ///
    /// # Errors
    /// `EINVAL`: both.
    pub fn from_flags(flags: u32) -> Result<Access, Errno> {
        match (
            flags & map_create::RDONLY != 0,
            flags & map_create::WRONLY != 0,
        ) {
            (true, true) => Err(Errno::EINVAL),
            (true, false) => Ok(Access::ReadOnly),
            (false, true) => Ok(Access::WriteOnly),
            (false, false) => Ok(Access::ReadWrite),
        }
    }

    pub(crate) fn can_read(self) -> bool {
        self != Access::WriteOnly
    }

    pub(crate) fn can_write(self) -> bool {
        self != Access::ReadOnly
    }
}

/// Who uses a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Descriptors or pins.
    Counted,
    /// There were descriptors or pins, and there are none: only programs hold it.
    Gone,
    /// There was never one: the host holds it in its own way.
    Uncounted,
}

/// A map. It lives at a stable address behind an [`Arc`]; programs know it by [`Map::program_ptr`].
///
/// Whoever drops the last `Arc` of a map that a program may have found without holding one (an inner map) does so through
/// `ring3_sync::rcu::drop_rcu`.
#[repr(C)]
pub struct Map {
    header: MapHeader,
    lookup_fn: HelperFn,
    update_fn: HelperFn,
    delete_fn: HelperFn,
    copy_fn: Option<CopyFn>,
    hot: *const (),
    ops: Box<dyn MapOps>,
    attr: MapAttr,
    /// Serialises freezing against new writable mappings.
    freeze: Mutex<()>,
    user_refs: AtomicI64,
    /// Whether there was ever a user reference: hosts that hold maps by themselves count none.
    had_users: AtomicBool,
}

// SAFETY: 1. `hot` points into `ops`, which is Send and Sync and as long-lived as the map; 2. the header's plain fields are never written after
// creation.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Creates a map after the checks that `BPF_MAP_CREATE` makes.
    ///
    /// # Errors
    /// The errno of bpf(2), with the attribute and its value.
    pub fn create(attr: &MapAttr) -> Result<Arc<Map>, MapError> {
        check_common(attr)?;
        let ops = ops::create(attr)?;
        let name = kernel_name(&attr.name).ok_or_else(|| {
            attr.error(
                Errno::EINVAL,
                format_args!("name is not 1 to 15 of [A-Za-z0-9_.]"),
            )
        })?;
        let mut attr = attr.clone();
        // Only the template's shape is kept.
        attr.inner = None;
        attr.max_entries = ops.max_entries().unwrap_or(attr.max_entries);
        let layout = ops.array_layout();
        let numa_node = if attr.has_flag(map_create::NUMA_NODE) {
            attr.numa_node as i32
        } else {
            -1
        };
        let header = MapHeader {
            sha: [0; 32],
            excl: 0,
            _pad0: 0,
            ops: 0,
            inner_map_meta: 0,
            security: 0,
            map_type: attr.map_type.raw(),
            key_size: attr.key_size,
            value_size: attr.value_size,
            max_entries: attr.max_entries,
            map_extra: attr.map_extra,
            map_flags: attr.map_flags & !map_create::TOKEN_FD,
            id: AtomicU32::new(0),
            record: 0,
            numa_node,
            btf_key_type_id: attr.btf_key_type_id,
            btf_value_type_id: attr.btf_value_type_id,
            btf_vmlinux_value_type_id: attr.btf_vmlinux_value_type_id,
            btf: 0,
            objcg: 0,
            name,
            _freeze_mutex_to_rcu: [0; 10],
            writecnt: AtomicI64::new(0),
            _owner: [0; 2],
            bypass_spec_v1: 1,
            frozen: AtomicBool::new(false),
            _to_end: [0; 38],
            elem_size: layout.map_or(0, |layout| layout.stride),
            index_mask: layout.map_or(0, |layout| layout.index_mask),
            _aux: 0,
        };
        Ok(Arc::new(Map {
            header,
            lookup_fn: ops.lookup_fn(),
            update_fn: ops.update_fn(),
            delete_fn: ops.delete_fn(),
            copy_fn: ops.copy_fn(),
            hot: ops.hot(),
            ops,
            attr,
            freeze: Mutex::new(()),
            user_refs: AtomicI64::new(0),
            had_users: AtomicBool::new(false),
        }))
    }

    /// The value that a program's map pointer has.
    pub fn program_ptr(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// The map behind a program's map pointer.
    ///
    /// # Safety
    /// `program_ptr` came from [`Map::program_ptr`] of a map that lives for as long as the result is used.
    #[inline]
    pub unsafe fn from_program_ptr<'a>(program_ptr: u64) -> &'a Map {
        // SAFETY: 1. the caller's promise.
        unsafe { &*(program_ptr as *const Map) }
    }

    #[inline]
    pub(crate) fn hot(&self) -> *const () {
        self.hot
    }

    /// The type.
    pub fn map_type(&self) -> MapType {
        self.attr.map_type
    }

    /// Bytes of a key.
    pub fn key_size(&self) -> u32 {
        self.attr.key_size
    }

    /// Bytes of a value (of one CPU's for per-CPU types).
    pub fn value_size(&self) -> u32 {
        self.attr.value_size
    }

    /// Elements, as `info.max_entries` shows them.
    pub fn max_entries(&self) -> u32 {
        self.attr.max_entries
    }

    /// Flags of creation.
    pub fn map_flags(&self) -> u32 {
        self.attr.map_flags
    }

    /// The attributes it was created with.
    pub fn attr(&self) -> &MapAttr {
        &self.attr
    }

    /// The id, 0 before [`Map::set_id`].
    pub fn id(&self) -> u32 {
        self.header.id.load(Ordering::Relaxed)
    }

    /// Gives the map its id (`objects` does, once).
    pub fn set_id(&self, id: u32) {
        self.header.id.store(id, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_ringbuf(&self) -> bool {
        self.header.map_type == MapType::Ringbuf.raw()
    }

    /// The operations, for code that knows the type.
    pub fn ops(&self) -> &dyn MapOps {
        &*self.ops
    }

    /// The type's own object, where it is a `T`.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// Bytes of a value in system calls: all CPUs' for per-CPU types, a descriptor or id for maps of objects.
    ///
    /// # Source
    /// Kernel documentation, map_hash.rst and map_array.rst: `round_up(value_size, 8) * num_possible_cpus`.
    pub fn sys_value_bytes(&self) -> usize {
        match self.attr.map_type {
            MapType::PercpuHash
            | MapType::LruPercpuHash
            | MapType::PercpuArray
            | MapType::PercpuCgroupStorageDeprecated => {
                mem::round_up_8(self.attr.value_size as usize) * ring3_os::cpu::possible_cpus()
            }
            MapType::PerfEventArray
            | MapType::CgroupArray
            | MapType::ArrayOfMaps
            | MapType::HashOfMaps
            | MapType::ProgArray => 4,
            _ => self.attr.value_size as usize,
        }
    }

    /// The function for direct calls of helper `map_lookup_elem`, specialised by type and key size.
    pub fn monomorphic_lookup(&self) -> HelperFn {
        self.lookup_fn
    }

    /// The function for direct calls of helper `map_update_elem`.
    pub fn monomorphic_update(&self) -> HelperFn {
        self.update_fn
    }

    /// The function for direct calls of helper `map_delete_elem`.
    pub fn monomorphic_delete(&self) -> HelperFn {
        self.delete_fn
    }

    /// The function for look-ups from Rust; `None` where they take the way of system calls.
    #[inline]
    pub(crate) fn copy_fn(&self) -> Option<CopyFn> {
        self.copy_fn
    }

    /// The layout of an array, for inlined lookups.
    pub fn array_layout(&self) -> Option<ArrayLayout> {
        self.ops.array_layout()
    }

    /// The address of a direct value (`BPF_PSEUDO_MAP_VALUE`) at `offset_bytes`.
    ///
    /// # Errors
    /// `ENOTSUPP`: the type has no direct values. `EINVAL`: not an array of one element, or offset out of it.
    pub fn direct_value_addr(&self, offset_bytes: u32) -> Result<u64, Errno> {
        match (self.attr.map_type, self.ops.array_layout()) {
            (MapType::Array, Some(layout)) => {
                if layout.max_entries != 1 || offset_bytes >= self.attr.value_size {
                    return Err(Errno::EINVAL);
                }
                Ok(layout.base + u64::from(offset_bytes))
            }
            _ => Err(Errno::ENOTSUPP),
        }
    }

    /// Where the special fields of its values lie, if there are any.
    pub fn value_record(&self) -> Option<&ValueRecord> {
        self.attr.record.as_deref()
    }

    /// The key of the element that holds `value`, as callbacks of timers get it; `index` is room for an array's. Null: `value` is no element's
    /// value of this map.
    pub fn key_of_value(&self, value: *const u8, index: &mut u32) -> *const u8 {
        self.ops.key_of_value(value, index)
    }

    /// Visits every element as `bpf_for_each_map_elem` does; returns how many were visited.
    ///
    /// # Errors
    /// `EINVAL`: programs cannot walk this type.
    ///
    /// # Safety
    /// The caller is in an RCU read section for as long as the visitor uses what it is given.
    pub unsafe fn for_each(&self, visit: &mut Visit<'_>) -> Result<u32, Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.ops.for_each(visit) }
    }

    fn has_spin_lock(&self) -> bool {
        self.attr
            .record
            .as_ref()
            .is_some_and(|record| record.find(FieldKind::SpinLock).is_some())
    }

    pub(crate) fn check_sys_flags(&self, flags: u64) -> Result<(), Errno> {
        if flags & map_elem::LOCK != 0 && !self.has_spin_lock() {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    pub(crate) fn check_read(&self, access: Access) -> Result<(), Errno> {
        if access.can_read() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    pub(crate) fn check_write(&self, access: Access) -> Result<(), Errno> {
        if access.can_write() && !self.is_frozen() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() == self.attr.key_size as usize {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Errno> {
        if value.len() == self.sys_value_bytes() {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// `BPF_MAP_LOOKUP_ELEM` into `value` ([`Map::sys_value_bytes`] long).
    ///
    /// # Errors
    /// As bpf(2): `EPERM` by access, `EINVAL` flags or lengths, `ENOENT`, `ENOTSUPP`.
    pub fn sys_lookup(
        &self,
        access: Access,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        self.sys_lookup_with(access, key, value, flags, &NoFds)
    }

    /// [`Map::sys_lookup`] where the key may be a descriptor (local storage).
    ///
    /// # Errors
    /// As [`Map::sys_lookup`], and `EBADF`.
    pub fn sys_lookup_with(
        &self,
        access: Access,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        if flags & !map_elem::LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_read(access)?;
        self.check_sys_flags(flags)?;
        self.check_key(key)?;
        self.check_value(value)?;
        let _section = rcu::read();
        self.ops.sys_lookup_fd(key, value, flags, fds)
    }

    /// `BPF_MAP_UPDATE_ELEM`.
    ///
    /// # Errors
    /// As bpf(2): `EPERM` by access or frozen, `EINVAL`, `E2BIG`, `EEXIST`, `ENOENT`, `ENOTSUPP`, ...
    pub fn sys_update(
        &self,
        access: Access,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        self.check_write(access)?;
        self.check_sys_flags(flags)?;
        self.check_key(key)?;
        self.check_value(value)?;
        self.ops.sys_update(key, value, flags, fds)
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    /// As bpf(2): `EPERM`, `EINVAL`, `ENOENT`, `ENOTSUPP`.
    pub fn sys_delete(&self, access: Access, key: &[u8], fds: &dyn FdTable) -> Result<(), Errno> {
        self.check_write(access)?;
        self.check_key(key)?;
        self.ops.sys_delete(key, fds)
    }

    /// `BPF_MAP_GET_NEXT_KEY`.
    ///
    /// # Errors
    /// As bpf(2): `EPERM`, `ENOENT` after the last key, `ENOTSUPP`.
    pub fn sys_next_key(
        &self,
        access: Access,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> Result<(), Errno> {
        self.check_read(access)?;
        if let Some(key) = key {
            self.check_key(key)?;
        }
        self.check_key(next)?;
        let _section = rcu::read();
        self.ops.sys_next_key(key, next)
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
    ///
    /// # Errors
    /// As bpf(2): `EPERM`, `EINVAL`, `ENOENT`, `ENOTSUPP`.
    pub fn sys_lookup_and_delete(
        &self,
        access: Access,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        if flags & !map_elem::LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_read(access)?;
        self.check_write(access)?;
        if flags != 0 && matches!(self.attr.map_type, MapType::Queue | MapType::Stack) {
            return Err(Errno::EINVAL);
        }
        self.check_sys_flags(flags)?;
        self.check_key(key)?;
        self.check_value(value)?;
        self.ops.sys_lookup_and_delete(key, value, flags)
    }

    /// Counts a user reference (descriptor or pin).
    pub fn user_ref_get(&self) {
        self.user_refs.fetch_add(1, Ordering::SeqCst);
        self.had_users.store(true, Ordering::SeqCst);
    }

    /// Drops a user reference; with the last one, prog arrays and maps of host objects let go of what they hold, and timers and work items in
    /// values end.
    pub fn user_ref_put(&self) {
        if self.user_refs.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.ops.release_user_refs();
        }
    }

    /// Who uses the map now, by its user references.
    pub fn users(&self) -> Users {
        if self.user_refs.load(Ordering::SeqCst) > 0 {
            Users::Counted
        } else if self.had_users.load(Ordering::SeqCst) {
            Users::Gone
        } else {
            Users::Uncounted
        }
    }

    /// Bytes of memory.
    pub fn mem_usage(&self) -> u64 {
        size_of::<Map>() as u64 + self.ops.mem_usage()
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("id", &self.id())
            .field("type", &self.attr.map_type)
            .field("name", &self.attr.name)
            .field("key_size", &self.attr.key_size)
            .field("value_size", &self.attr.value_size)
            .field("max_entries", &self.attr.max_entries)
            .field("flags", &format_args!("{:#x}", self.attr.map_flags))
            .finish_non_exhaustive()
    }
}

/// The checks of `BPF_MAP_CREATE` that come before those of the type.
fn check_common(attr: &MapAttr) -> Result<(), MapError> {
    if attr.map_extra != 0 && !matches!(attr.map_type, MapType::BloomFilter | MapType::Arena) {
        return Err(attr.error(
            Errno::EINVAL,
            format_args!(
                "map_extra {:#x}, only bloom filters and arenas have one",
                attr.map_extra
            ),
        ));
    }
    Access::from_flags(attr.map_flags)
        .map_err(|errno| attr.error(errno, format_args!("both BPF_F_RDONLY and BPF_F_WRONLY")))?;
    if attr.has_flag(map_create::NUMA_NODE)
        && attr.numa_node != u32::MAX
        && !numa_node_is_online(attr.numa_node)
    {
        return Err(attr.error(
            Errno::EINVAL,
            format_args!("numa_node {} is not online", attr.numa_node),
        ));
    }
    Ok(())
}

fn numa_node_is_online(node: u32) -> bool {
    node == 0 || std::path::Path::new(&format!("/sys/devices/system/node/node{node}")).exists()
}

/// The kernel's 16-byte form of a name; `None` if a character is not allowed or it is too long.
fn kernel_name(name: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    if name.len() >= bytes.len() || !name.bytes().all(allowed) {
        return None;
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Some(bytes)
}
