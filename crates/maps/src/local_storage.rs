//! Local storage: a value attached to a socket, inode, task or cgroup (`sk_storage`, `inode_storage`, `task_storage`, `cgrp_storage`).
//!
//! An owner is a 64-bit identity that `objects` gives (the address of the modelled object, a pid, an inode number). The values live in a
//! concurrent table by owner, so that a program's access takes no lock; the system call side names owners by descriptor.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::array::index_of;
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, StorageKind};
use crate::fields::ValueCopy;
use crate::hash::key::{Key8, KeyKind, random_seed};
use crate::hash::pool::PoolConfig;
use crate::hash::table::{Source, Table};
use crate::ops::MapOps;

/// Owners that may have a value in one map; memory is used as they come.
const OWNERS_MAX: u32 = 1 << 20;
/// Address space for the values of one map.
const SPACE_BYTES: u32 = 1 << 31;
/// The largest value. Source: `BPF_LOCAL_STORAGE_MAX_VALUE_SIZE`: 65535 less the kernel's element header of 128 bytes.
pub(crate) const VALUE_BYTES_MAX: u32 = 65535 - 128;
/// `BPF_LOCAL_STORAGE_GET_F_CREATE`
pub const GET_F_CREATE: u64 = 1;

/// A map of local storage of any owner kind.
#[derive(Debug)]
pub struct LocalStorage {
    kind: StorageKind,
    values: Arc<Values>,
    value_bytes: usize,
}

/// The values of one map, which owners that go find through [`ALL`].
#[derive(Debug)]
struct Values(Table);

/// The maps of the process, so that an owner's values go with it.
static ALL: Mutex<Vec<(StorageKind, Weak<Values>)>> = Mutex::new(Vec::new());

/// Removes an owner's values from all maps. Whoever makes owners calls it when one goes.
pub fn forget_owner(kind: StorageKind, owner: u64) {
    let maps: Vec<Arc<Values>> = {
        let mut all = ALL.lock();
        all.retain(|(_, values)| values.strong_count() > 0);
        let of_kind = all.iter().filter(|(of, _)| *of == kind);
        of_kind.filter_map(|(_, values)| values.upgrade()).collect()
    };
    let _section = rcu::read();
    for values in maps {
        // SAFETY: 1. the owner is a key of 8 bytes. An owner without a value is nothing to do.
        let _ = unsafe { values.0.delete::<Key8>((&raw const owner).cast()) };
    }
}

impl LocalStorage {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        let kind = match attr.map_type {
            MapType::InodeStorage => StorageKind::Inode,
            MapType::TaskStorage => StorageKind::Task,
            MapType::CgrpStorage => StorageKind::Cgroup,
            _ => StorageKind::Socket,
        };
        attr.check_flags(map_create::NO_PREALLOC | map_create::CLONE)?;
        attr.require(
            attr.has_flag(map_create::NO_PREALLOC),
            "map_flags without BPF_F_NO_PREALLOC:",
            format_args!("{:#x}", attr.map_flags),
        )?;
        attr.require(attr.max_entries == 0, "max_entries", attr.max_entries)?;
        attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
        attr.require(attr.value_size != 0, "value_size", attr.value_size)?;
        attr.require(
            attr.btf_key_type_id != 0,
            "btf_key_type_id",
            attr.btf_key_type_id,
        )?;
        attr.require(
            attr.btf_value_type_id != 0,
            "btf_value_type_id",
            attr.btf_value_type_id,
        )?;
        attr.require_or(
            attr.value_size <= VALUE_BYTES_MAX,
            Errno::E2BIG,
            "value_size",
            attr.value_size,
        )?;
        let value_bytes = attr.value_size as usize;
        // Large values make do with fewer owners.
        let owners = OWNERS_MAX.min(SPACE_BYTES / attr.value_size.next_multiple_of(64) * 4);
        let config = PoolConfig {
            key_bytes: 8,
            key_kind: KeyKind::Eight,
            value_bytes,
            elements: owners,
            lru: false,
            percpu: false,
            deferred: true,
            partitioned: false,
        };
        let copy = ValueCopy::new(value_bytes, attr.record.clone());
        let table = Table::new(&config, owners, random_seed(), copy);
        let table = table.map_err(|errno| {
            attr.error(
                errno,
                format_args!("address space for values of {value_bytes} bytes"),
            )
        })?;
        let values = Arc::new(Values(table));
        ALL.lock().push((kind, Arc::downgrade(&values)));
        Ok(LocalStorage {
            kind,
            values,
            value_bytes,
        })
    }

    fn table(&self) -> &Table {
        &self.values.0
    }

    /// Whose storage it is.
    pub fn kind(&self) -> StorageKind {
        self.kind
    }

    /// `bpf_*_storage_get`: the owner's value, created from `initial` (or zero) with [`GET_F_CREATE`]; null otherwise.
    ///
    /// # Safety
    /// `initial` is null or readable for the value size; the caller is in a read section for as long as it uses the result.
    pub unsafe fn get(&self, owner: u64, initial: *const u8, flags: u64) -> *mut u8 {
        if flags & !GET_F_CREATE != 0 {
            return std::ptr::null_mut();
        }
        // SAFETY: 1. the owner is a key of 8 bytes; 2. the caller's promise.
        unsafe {
            let owner_key = (&raw const owner).cast();
            let (key, hash) = self.table().load::<Key8>(owner_key);
            if let Some(idx) = self.table().find::<Key8>(key, hash) {
                return self.table().value_ptr(idx);
            }
            if flags & GET_F_CREATE == 0 {
                return std::ptr::null_mut();
            }
            let zeroes;
            let source = if initial.is_null() {
                zeroes = vec![0u8; self.value_bytes];
                zeroes.as_ptr()
            } else {
                initial
            };
            // Another thread's creation wins: both then use that value.
            let made =
                self.table()
                    .update::<Key8>(owner_key, Source::Program(source), map_elem::NOEXIST);
            if !matches!(made, Ok(()) | Err(Errno::EEXIST)) {
                return std::ptr::null_mut();
            }
            self.table()
                .find::<Key8>(key, hash)
                .map_or(std::ptr::null_mut(), |idx| self.table().value_ptr(idx))
        }
    }

    /// `bpf_*_storage_delete`, and what happens when an owner goes away.
    ///
    /// # Errors
    /// `ENOENT`: the owner has no value here.
    pub fn remove(&self, owner: u64) -> Result<(), Errno> {
        let _section = rcu::read();
        // SAFETY: 1. the owner is a key of 8 bytes.
        unsafe { self.table().delete::<Key8>((&raw const owner).cast()) }
    }

    fn owner(&self, key: &[u8], fds: &dyn FdTable) -> Result<u64, Errno> {
        fds.storage_owner(self.kind, index_of(key))
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        self.0.release_all();
    }
}

impl MapOps for LocalStorage {
    fn sys_lookup_fd(
        &self,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let owner = self.owner(key, fds)?;
        self.table()
            .sys_lookup::<Key8>(&owner.to_ne_bytes(), value, flags)
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let owner = self.owner(key, fds)?;
        if flags & !map_elem::LOCK > map_elem::EXIST
            || (flags & map_elem::LOCK != 0 && self.table().copy.spin_lock_offset().is_none())
        {
            return Err(Errno::EINVAL);
        }
        let _section = rcu::read();
        // SAFETY: 1. the owner is a key of 8 bytes; 2. the slice has the value's size.
        unsafe {
            self.table().update::<Key8>(
                (&raw const owner).cast(),
                Source::Syscall(value.as_ptr()),
                flags,
            )
        }
    }

    fn sys_delete(&self, key: &[u8], fds: &dyn FdTable) -> Result<(), Errno> {
        self.remove(self.owner(key, fds)?)
    }

    fn mem_usage(&self) -> u64 {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
