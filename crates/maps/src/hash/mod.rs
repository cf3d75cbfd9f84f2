//! Hash tables: `hash`, `percpu_hash`, `lru_hash`, `lru_percpu_hash`.
//!
//! [`table`] is the concurrent table, [`pool`] its elements, [`key`] the treatment of keys by size; this file holds the types' rules
//! and the functions that programs call.

use std::any::Any;
use std::ops::ControlFlow;

use ring3_os::cpu::possible_cpus;
use ring3_sync::percpu::current_cpu;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

mod evict;
pub(crate) mod key;
mod limbo;
mod lock;
pub(crate) mod objects;
pub(crate) mod pool;
mod spare;
pub(crate) mod state;
pub(crate) mod table;
pub(crate) mod walk;
mod write;

use key::{Key, Key4, Key8, Key16, KeyAny, KeyKind, with_key};
use pool::{Pool, PoolConfig};
use table::{Bucket, PLACES, Source, Table, Values};
use walk::WALK_STEPS;

use crate::Map;
use crate::array::PERCPU_VALUE_BYTES_MAX;
use crate::attr::{MapAttr, MapError};
use crate::batch::{BatchItem, BatchStyle, BatchWalk};
use crate::fd::FdTable;
use crate::fields::ValueCopy;
use crate::mem;
use crate::ops::{CopyFn, HelperFn, MapOps, Visit};

const HASH_FLAGS: u32 = map_create::NO_PREALLOC
    | map_create::NO_COMMON_LRU
    | map_create::NUMA_NODE
    | map_create::RDONLY
    | map_create::WRONLY
    | map_create::RDONLY_PROG
    | map_create::WRONLY_PROG
    | map_create::ZERO_SEED;

/// Bytes of key and value together that the kernel's allocator refuses: `KMALLOC_MAX_SIZE - sizeof(struct htab_elem)`.
const KEY_VALUE_BYTES_END: u64 = (4 << 20) - 48;
/// Elements that a map may have.
const MAX_ENTRIES_MAX: u32 = 1 << 31;
/// Spare elements of maps that are not preallocated, for those that wait for a grace period and those that threads hold for a moment: address space,
/// touched only as far as a map's deletions need it.
const LIMBO_ELEMENTS_MIN: u32 = 1024;
const LIMBO_ELEMENTS_MAX: u32 = 1 << 20;
/// Address space for spare elements above the minimum.
const LIMBO_BYTES: usize = 64 << 20;

/// A hash map of any of the four types.
#[derive(Debug)]
pub(crate) struct HashMap {
    table: Table,
    max_entries: u32,
}

/// The checks of all hash types, hash of maps included.
pub(crate) fn check_hash(attr: &MapAttr) -> Result<(), MapError> {
    let percpu = matches!(attr.map_type, MapType::PercpuHash | MapType::LruPercpuHash);
    let lru = matches!(attr.map_type, MapType::LruHash | MapType::LruPercpuHash);
    let percpu_lists = attr.has_flag(map_create::NO_COMMON_LRU);
    attr.check_flags(HASH_FLAGS)?;
    attr.check_prog_access()?;
    attr.require(
        lru || !percpu_lists,
        "map_flags",
        format_args!("{:#x}", attr.map_flags),
    )?;
    let prealloc = !attr.has_flag(map_create::NO_PREALLOC);
    attr.require_or(
        !lru || prealloc,
        Errno::ENOTSUPP,
        "map_flags",
        format_args!("{:#x}", attr.map_flags),
    )?;
    let numa = attr.has_flag(map_create::NUMA_NODE) && attr.numa_node != u32::MAX;
    attr.require(
        !(numa && (percpu || percpu_lists)),
        "numa_node of a per-CPU map",
        attr.numa_node,
    )?;
    attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
    attr.require(attr.key_size != 0, "key_size", attr.key_size)?;
    attr.require(attr.value_size != 0, "value_size", attr.value_size)?;
    let bytes = u64::from(attr.key_size) + u64::from(attr.value_size);
    attr.require_or(
        bytes < KEY_VALUE_BYTES_END,
        Errno::E2BIG,
        "key_size + value_size",
        bytes,
    )?;
    let rounded = mem::round_up_8(attr.value_size as usize);
    attr.require_or(
        !percpu || rounded <= PERCPU_VALUE_BYTES_MAX as usize,
        Errno::E2BIG,
        "value_size",
        attr.value_size,
    )?;
    attr.require_or(
        attr.max_entries <= MAX_ENTRIES_MAX,
        Errno::E2BIG,
        "max_entries",
        attr.max_entries,
    )
}

/// A table for a map of these attributes, with values of `value_bytes`.
pub(crate) fn create_table(attr: &MapAttr, value_bytes: usize) -> Result<(Table, u32), MapError> {
    let percpu = matches!(attr.map_type, MapType::PercpuHash | MapType::LruPercpuHash);
    let lru = matches!(attr.map_type, MapType::LruHash | MapType::LruPercpuHash);
    let partitioned = attr.has_flag(map_create::NO_COMMON_LRU);
    let deferred = attr.has_flag(map_create::NO_PREALLOC);
    let mut max_entries = attr.max_entries;
    if partitioned {
        // Every CPU's list gets the same number of elements.
        let cpus = possible_cpus() as u32;
        let up = max_entries.checked_next_multiple_of(cpus);
        max_entries = up.unwrap_or(max_entries - max_entries % cpus);
    }
    let elements = if deferred {
        let spare = LIMBO_BYTES / (attr.key_size as usize + value_bytes);
        let spare = spare.clamp(LIMBO_ELEMENTS_MIN as usize, LIMBO_ELEMENTS_MAX as usize);
        max_entries.saturating_add(spare as u32)
    } else {
        max_entries
    };
    let config = PoolConfig {
        key_bytes: attr.key_size as usize,
        key_kind: KeyKind::of(attr.key_size as usize),
        value_bytes,
        elements,
        lru,
        percpu,
        deferred,
        partitioned,
    };
    let seed = if attr.has_flag(map_create::ZERO_SEED) {
        0
    } else {
        key::random_seed()
    };
    let copy = ValueCopy::new(value_bytes, attr.record.clone());
    let oom = |errno| attr.error(errno, format_args!("memory for {max_entries} elements"));
    let table = Table::new(&config, max_entries, seed, copy).map_err(oom)?;
    if !deferred && table.bytes() > mem::host_memory_bytes() {
        return Err(oom(Errno::ENOMEM));
    }
    Ok((table, max_entries))
}

impl HashMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_hash(attr)?;
        let (table, max_entries) = create_table(attr, attr.value_size as usize)?;
        Ok(HashMap { table, max_entries })
    }

    fn check_flags(&self, flags: u64) -> Result<(), Errno> {
        let plain_hash = !self.table.lru && self.table.values == Values::Plain;
        let known = if plain_hash {
            flags & !map_elem::LOCK
        } else {
            flags
        };
        if known > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        if flags & map_elem::LOCK != 0 && self.table.copy.spin_lock_offset().is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// # Safety
    /// As [`Table::update`].
    unsafe fn update_from(&self, key: *const u8, source: Source, flags: u64) -> Result<(), Errno> {
        self.check_flags(flags)?;
        // SAFETY: 1. the caller's promise.
        with_key!(self.table, K => unsafe { self.table.update::<K>(key, source, flags) })
    }
}

impl Drop for HashMap {
    fn drop(&mut self) {
        self.table.release_all();
    }
}

/// # Safety
/// `map` is a live hash map with keys that `K` treats, `key` is readable; the caller is in a read section.
#[inline(always)]
unsafe fn lookup_direct<K: Key, const LRU: bool, const PERCPU: bool>(
    map: u64,
    key_ptr: u64,
) -> u64 {
    // SAFETY: 1. the caller's promise; 2. the hot pointer of a hash map is its HashMap.
    unsafe {
        let hash_map = &*Map::from_program_ptr(map).hot().cast::<HashMap>();
        let table = &hash_map.table;
        let (key, hash) = table.load::<K>(key_ptr as *const u8);
        let found = |_: &Bucket, element, idx| {
            if LRU {
                Pool::state_at(element).mark_referenced();
            }
            if PERCPU {
                return table.pool.percpu_value(idx, current_cpu()) as u64;
            }
            Pool::current_value(element) as u64
        };
        let missing = |bucket: &Bucket| {
            if bucket.has_chain() {
                lookup_in_chain(map, key_ptr)
            } else {
                0
            }
        };
        table.find_direct::<K, u64>(key, hash, found, missing)
    }
}

/// The way of a look-up that ends in an overflow chain. `extern "C"`: it cannot unwind, so callers end with a jump to it.
///
/// # Safety
/// As [`lookup_direct`].
#[cold]
#[inline(never)]
unsafe extern "C" fn lookup_in_chain(map: u64, key: u64) -> u64 {
    // SAFETY: 1. the caller's promise.
    unsafe { Map::from_program_ptr(map).ops().lookup(key as *const u8) as u64 }
}

macro_rules! lookup_fns {
    ($($name:ident: $K:ty, $lru:literal, $percpu:literal;)*) => {
        $(unsafe extern "C" fn $name(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
            // SAFETY: 1. engines pass a live map of this type and a readable key (verifier: ARG_CONST_MAP_PTR, ARG_PTR_TO_MAP_KEY), inside a
            // program run, which is a read section.
            unsafe { lookup_direct::<$K, $lru, $percpu>(map, key) }
        })*
    };
}

lookup_fns! {
    hash_lookup_4: Key4, false, false;
    hash_lookup_8: Key8, false, false;
    hash_lookup_16: Key16, false, false;
    hash_lookup_any: KeyAny, false, false;
    percpu_lookup_4: Key4, false, true;
    percpu_lookup_8: Key8, false, true;
    percpu_lookup_16: Key16, false, true;
    percpu_lookup_any: KeyAny, false, true;
    lru_lookup_4: Key4, true, false;
    lru_lookup_8: Key8, true, false;
    lru_lookup_16: Key16, true, false;
    lru_lookup_any: KeyAny, true, false;
    lru_percpu_lookup_4: Key4, true, true;
    lru_percpu_lookup_8: Key8, true, true;
    lru_percpu_lookup_16: Key16, true, true;
    lru_percpu_lookup_any: KeyAny, true, true;
}

/// # Safety
/// `hot` is of a hash map with plain values and keys that `K` treats; `key` is readable and `out` writable for the sizes of the map.
unsafe fn copy_direct<K: Key>(hot: *const (), key: *const u8, out: *mut u8) -> bool {
    // SAFETY: 1. the caller's promise; 2. the hot pointer of a hash map is its HashMap.
    unsafe {
        let table = &(*hot.cast::<HashMap>()).table;
        let key = std::slice::from_raw_parts(key, table.key_bytes);
        let out = std::slice::from_raw_parts_mut(out, table.copy.value_bytes);
        table.sys_lookup::<K>(key, out, 0).is_ok()
    }
}

/// # Safety
/// As [`lookup_direct`], and `value` is readable for the value size.
#[inline(always)]
unsafe fn update_direct<K: Key>(map: u64, key: u64, value: u64, flags: u64) -> u64 {
    // SAFETY: 1. the caller's promise; 2. the hot pointer of a hash map is its HashMap.
    unsafe {
        let table = &(*Map::from_program_ptr(map).hot().cast::<HashMap>()).table;
        if flags & !map_elem::EXIST != 0 || !table.is_simple {
            return update_any_way::<K>(map, key, value, flags);
        }
        // The common case: the element is there, in its place.
        let (loaded, hash) = table.load::<K>(key as *const u8);
        let replace = |bucket: &Bucket, element, _| {
            Some(table.replace_simple::<K>(bucket, element, loaded, value as *const u8))
        };
        match table.find_direct::<K, _>(loaded, hash, replace, |_| None) {
            Some(true) => 0,
            None if flags == 0 => insert_direct::<K>(map, key, value, hash),
            _ => update_any_way::<K>(map, key, value, flags),
        }
    }
}

/// An update that found no element in place.
///
/// # Safety
/// As [`update_direct`]; `hash` is the key's.
#[inline(never)]
unsafe extern "C" fn insert_direct<K: Key>(map: u64, key: u64, value: u64, hash: u64) -> u64 {
    // SAFETY: 1. the caller's promise.
    unsafe {
        let table = &(*Map::from_program_ptr(map).hot().cast::<HashMap>()).table;
        let loaded = K::load(key as *const u8, table.key_bytes);
        let source = Source::Program(value as *const u8);
        match table.insert::<K>(key as *const u8, loaded, hash, source) {
            Ok(true) => 0,
            Ok(false) => update_any_way::<K>(map, key, value, map_elem::ANY),
            Err(errno) => crate::abi::result_of(Err(errno)),
        }
    }
}

/// An update with all checks.
///
/// # Safety
/// As [`update_direct`].
#[cold]
#[inline(never)]
unsafe extern "C" fn update_any_way<K: Key>(map: u64, key: u64, value: u64, flags: u64) -> u64 {
    // SAFETY: 1. the caller's promise; 2. the hot pointer of a hash map is its HashMap.
    unsafe {
        let hash_map = &*Map::from_program_ptr(map).hot().cast::<HashMap>();
        let source = Source::Program(value as *const u8);
        let result = hash_map.check_flags(flags);
        let result =
            result.and_then(|()| hash_map.table.update::<K>(key as *const u8, source, flags));
        crate::abi::result_of(result)
    }
}

/// # Safety
/// As [`lookup_direct`].
#[inline(always)]
unsafe fn delete_direct<K: Key>(map: u64, key: u64) -> u64 {
    // SAFETY: 1. the caller's promise; 2. the hot pointer of a hash map is its HashMap.
    unsafe {
        let hash_map = &*Map::from_program_ptr(map).hot().cast::<HashMap>();
        crate::abi::result_of(hash_map.table.delete::<K>(key as *const u8))
    }
}

macro_rules! write_fns {
    ($($update:ident, $delete:ident: $K:ty;)*) => {
        $(unsafe extern "C" fn $update(map: u64, key: u64, value: u64, flags: u64, _: u64) -> u64 {
            // SAFETY: 1. engines pass a live map of this type, a readable key and value (verifier), inside a program run.
            unsafe { update_direct::<$K>(map, key, value, flags) }
        }

        unsafe extern "C" fn $delete(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
            // SAFETY: 1. engines pass a live map of this type and a readable key (verifier), inside a program run.
            unsafe { delete_direct::<$K>(map, key) }
        })*
    };
}

write_fns! {
    hash_update_4, hash_delete_4: Key4;
    hash_update_8, hash_delete_8: Key8;
    hash_update_16, hash_delete_16: Key16;
    hash_update_any, hash_delete_any: KeyAny;
}

impl MapOps for HashMap {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        unsafe {
            with_key!(self.table, K => {
                let (key, hash) = self.table.load::<K>(key);
                let Some(idx) = self.table.find::<K>(key, hash) else { return std::ptr::null_mut() };
                if self.table.lru {
                    self.table.pool.state(idx).mark_referenced();
                }
                self.table.value_ptr(idx)
            })
        }
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.update_from(key, Source::Program(value), flags) }
    }

    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        with_key!(self.table, K => unsafe { self.table.delete::<K>(key) })
    }

    unsafe fn lookup_percpu(&self, key: *const u8, cpu: u32) -> *mut u8 {
        if self.table.values != Values::Percpu || cpu as usize >= possible_cpus() {
            return std::ptr::null_mut();
        }
        // SAFETY: 1. the caller's promise.
        unsafe {
            with_key!(self.table, K => {
                let (key, hash) = self.table.load::<K>(key);
                let Some(idx) = self.table.find::<K>(key, hash) else { return std::ptr::null_mut() };
                if self.table.lru {
                    self.table.pool.state(idx).mark_referenced();
                }
                self.table.pool.percpu_value(idx, cpu as usize)
            })
        }
    }

    fn release_user_refs(&self) {
        self.table.release_callbacks();
    }

    fn key_of_value(&self, value: *const u8, _index: &mut u32) -> *const u8 {
        let idx = self.table.pool.index_of_value(value);
        idx.map_or(std::ptr::null(), |idx| self.table.pool.key(idx))
    }

    unsafe fn for_each(&self, visit: &mut Visit<'_>) -> Result<u32, Errno> {
        let mut found = Vec::with_capacity(PLACES);
        let mut visited = 0;
        let mut at = 0;
        while let Some(next) = self.table.walk_step(at, &mut found) {
            for idx in &found {
                visited += 1;
                if let ControlFlow::Break(()) =
                    visit(self.table.pool.key(*idx), self.table.value_ptr(*idx))
                {
                    return Ok(visited);
                }
            }
            at = next;
        }
        Ok(visited)
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        with_key!(self.table, K => self.table.sys_lookup::<K>(key, value, flags))
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let update = || {
            let _section = rcu::read();
            // SAFETY: 1. the slices have the sizes that the system call demands.
            unsafe { self.update_from(key.as_ptr(), Source::Syscall(value.as_ptr()), flags) }
        };
        // All spare elements wait for grace periods: a system call waits with them, unless a program made it. Others may be faster
        // in taking what came back.
        const WAITS_MAX: u32 = 1000;
        for _ in 0..WAITS_MAX {
            match update() {
                Err(Errno::ENOMEM) if rcu::synchronize().is_ok() => {}
                result => return result,
            }
        }
        Err(Errno::ENOMEM)
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        let _section = rcu::read();
        // SAFETY: 1. the slice has the key's size.
        with_key!(self.table, K => unsafe { self.table.delete::<K>(key.as_ptr()) })
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        with_key!(self.table, K => self.table.next_key::<K>(key, next))
    }

    fn sys_lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let _section = rcu::read();
        // SAFETY: 1. the slices have the sizes that the system call demands.
        with_key!(self.table, K => unsafe { self.table.delete_into::<K>(key.as_ptr(), value, flags) })
    }

    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Walk { delete: true }
    }

    fn batch_walk(&self, walk: &mut BatchWalk<'_>) -> Result<(), Errno> {
        if u64::from(walk.token) >= self.table.bucket_count() * WALK_STEPS {
            return Err(Errno::ENOENT);
        }
        let mut found = Vec::with_capacity(PLACES);
        let mut key = vec![0; self.table.key_bytes];
        let mut value = vec![0; walk.value_bytes];
        while let Some(next) = self.table.walk_step(u64::from(walk.token), &mut found) {
            if found.len() > walk.room {
                return if walk.items.is_empty() {
                    Err(Errno::ENOSPC)
                } else {
                    Ok(())
                };
            }
            for idx in &found {
                self.table.copy_key(*idx, &mut key);
                let taken = if walk.delete {
                    self.sys_lookup_and_delete(&key, &mut value, walk.elem_flags)
                } else {
                    let _section = rcu::read();
                    self.sys_lookup(&key, &mut value, walk.elem_flags)
                };
                // Gone since the walk saw it: another one's deletion.
                if taken.is_ok() && (walk.delete || self.table.is_live(*idx)) {
                    walk.items.push(BatchItem {
                        key: key.clone(),
                        value: value.clone(),
                    });
                    walk.room -= 1;
                }
            }
            walk.token = u32::try_from(next).unwrap_or(u32::MAX);
        }
        Err(Errno::ENOENT)
    }

    fn lookup_fn(&self) -> HelperFn {
        match (
            self.table.key_kind,
            self.table.lru,
            self.table.values == Values::Percpu,
        ) {
            (KeyKind::Four, false, false) => hash_lookup_4,
            (KeyKind::Eight, false, false) => hash_lookup_8,
            (KeyKind::Sixteen, false, false) => hash_lookup_16,
            (KeyKind::Any, false, false) => hash_lookup_any,
            (KeyKind::Four, false, true) => percpu_lookup_4,
            (KeyKind::Eight, false, true) => percpu_lookup_8,
            (KeyKind::Sixteen, false, true) => percpu_lookup_16,
            (KeyKind::Any, false, true) => percpu_lookup_any,
            (KeyKind::Four, true, false) => lru_lookup_4,
            (KeyKind::Eight, true, false) => lru_lookup_8,
            (KeyKind::Sixteen, true, false) => lru_lookup_16,
            (KeyKind::Any, true, false) => lru_lookup_any,
            (KeyKind::Four, true, true) => lru_percpu_lookup_4,
            (KeyKind::Eight, true, true) => lru_percpu_lookup_8,
            (KeyKind::Sixteen, true, true) => lru_percpu_lookup_16,
            (KeyKind::Any, true, true) => lru_percpu_lookup_any,
        }
    }

    fn copy_fn(&self) -> Option<CopyFn> {
        if self.table.values == Values::Percpu {
            return None;
        }
        Some(with_key!(self.table, K => copy_direct::<K>))
    }

    fn update_fn(&self) -> HelperFn {
        match self.table.key_kind {
            KeyKind::Four => hash_update_4,
            KeyKind::Eight => hash_update_8,
            KeyKind::Sixteen => hash_update_16,
            KeyKind::Any => hash_update_any,
        }
    }

    fn delete_fn(&self) -> HelperFn {
        match self.table.key_kind {
            KeyKind::Four => hash_delete_4,
            KeyKind::Eight => hash_delete_8,
            KeyKind::Sixteen => hash_delete_16,
            KeyKind::Any => hash_delete_any,
        }
    }

    fn hot(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    fn mem_usage(&self) -> u64 {
        self.table.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn max_entries(&self) -> Option<u32> {
        Some(self.max_entries)
    }
}
