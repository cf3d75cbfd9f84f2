//! Cgroup storage (deprecated): one value for each cgroup and attach type that a program with this map is attached to, shared or per CPU.
//!
//! Elements come and go with attachments ([`CgroupStorage::attach`]); system calls only read and replace values.

use std::any::Any;
use std::sync::Arc;

use ring3_os::cpu::possible_cpus;
use ring3_os::map::{Prot, Region};
use ring3_sync::percpu::current_cpu;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::array::{PERCPU_VALUE_BYTES_MAX, index_of};
use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::fields::{FieldKind, ValueCopy};
use crate::hash::objects::ObjectTable;
use crate::local_storage::VALUE_BYTES_MAX;
use crate::mem;
use crate::ops::MapOps;

const FLAGS: u32 = map_create::NUMA_NODE
    | map_create::RDONLY
    | map_create::WRONLY
    | map_create::RDONLY_PROG
    | map_create::WRONLY_PROG;

/// Attachments that may have a value in one map; memory is used as they come.
const ATTACHMENTS_MAX: u32 = 1 << 20;
/// Cgroup id, attach type, zeroes.
const STORED_BYTES: usize = 16;
type Stored = [u8; STORED_BYTES];

/// `BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED` and `BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED`.
#[derive(Debug)]
pub struct CgroupStorage {
    percpu: bool,
    key_bytes: usize,
    stride: usize,
    copy: ValueCopy,
    /// By cgroup id, then attach type, as the kernel orders them.
    values: ObjectTable<Region>,
}

impl CgroupStorage {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        let percpu = attr.map_type == MapType::PercpuCgroupStorageDeprecated;
        attr.require(matches!(attr.key_size, 8 | 16), "key_size", attr.key_size)?;
        attr.require(attr.value_size != 0, "value_size", attr.value_size)?;
        let max = if percpu {
            PERCPU_VALUE_BYTES_MAX.min(VALUE_BYTES_MAX)
        } else {
            VALUE_BYTES_MAX
        };
        attr.require_or(
            attr.value_size <= max,
            Errno::E2BIG,
            "value_size",
            attr.value_size,
        )?;
        attr.check_flags(FLAGS)?;
        attr.check_prog_access()?;
        attr.require(attr.max_entries == 0, "max_entries", attr.max_entries)?;
        Ok(CgroupStorage {
            percpu,
            key_bytes: attr.key_size as usize,
            stride: mem::round_up_8(attr.value_size as usize),
            copy: ValueCopy::new(attr.value_size as usize, attr.record.clone()),
            values: ObjectTable::sparse(attr, STORED_BYTES as u32, ATTACHMENTS_MAX)?,
        })
    }

    /// The form of a key under which it is stored: bytes that sort as the numbers do. With keys of 8 bytes all attach types of a cgroup share a value.
    fn stored(&self, cgroup_id: u64, attach_type: u32) -> Stored {
        let attach_type = if self.key_bytes == 16 { attach_type } else { 0 };
        let mut stored = [0; STORED_BYTES];
        stored[..8].copy_from_slice(&cgroup_id.to_be_bytes());
        stored[8..12].copy_from_slice(&attach_type.to_be_bytes());
        stored
    }

    fn key(&self, key: &[u8]) -> Stored {
        let cgroup_id = key.first_chunk().copied().map_or(0, u64::from_ne_bytes);
        self.stored(cgroup_id, key.get(8..12).map_or(0, index_of))
    }

    /// Creates the value of an attachment, zeroed, if it is not there yet.
    ///
    /// # Errors
    /// `ENOMEM`: out of memory.
    pub fn attach(&self, cgroup_id: u64, attach_type: u32) -> Result<(), Errno> {
        let cpus = if self.percpu { possible_cpus() } else { 1 };
        let value = Region::anonymous(self.stride * cpus, Prot::ReadWrite)?;
        let key = self.stored(cgroup_id, attach_type);
        match self.values.set(&key, Arc::new(value), map_elem::NOEXIST) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(_) => Err(Errno::ENOMEM),
        }
    }

    /// Removes the value of an attachment; it is freed after a grace period.
    pub fn detach(&self, cgroup_id: u64, attach_type: u32) {
        // Not there: nothing to do.
        let _ = self.values.remove(&self.stored(cgroup_id, attach_type));
    }

    /// `bpf_get_local_storage`: the value of the attachment that runs (of this CPU), 0 where there is none. The caller is in a read section.
    pub fn value_of(&self, cgroup_id: u64, attach_type: u32) -> u64 {
        let offset = if self.percpu {
            current_cpu() * self.stride
        } else {
            0
        };
        let section = rcu::read();
        self.values
            .peek(&self.stored(cgroup_id, attach_type), &section)
            .map_or(0, |value| value.as_ptr() as u64 + offset as u64)
    }
}

impl MapOps for CgroupStorage {
    fn sys_lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let section = rcu::read();
        let region = self.values.peek(&self.key(key), &section);
        let region = region.ok_or(Errno::ENOENT)?;
        for (cpu, chunk) in value
            .chunks_mut(if self.percpu {
                self.stride
            } else {
                self.copy.value_bytes
            })
            .enumerate()
        {
            chunk.fill(0);
            let from = region.as_ptr().wrapping_add(cpu * self.stride);
            // SAFETY: 1. the region holds a value for each CPU; 2. chunks have at least the value's size.
            unsafe {
                if flags & map_elem::LOCK != 0 {
                    self.copy.copy_out_locked(chunk.as_mut_ptr(), from);
                } else {
                    self.copy.copy_out(chunk.as_mut_ptr(), from);
                }
            }
        }
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let allowed = if self.percpu {
            flags == map_elem::ANY || flags == map_elem::EXIST
        } else {
            flags & !(map_elem::LOCK | map_elem::EXIST) == 0
        };
        if !allowed || (flags & map_elem::LOCK != 0 && !self.copy.has(FieldKind::SpinLock)) {
            return Err(Errno::EINVAL);
        }
        let section = rcu::read();
        let region = self.values.peek(&self.key(key), &section);
        let region = region.ok_or(Errno::ENOENT)?;
        for (cpu, chunk) in value
            .chunks(if self.percpu {
                self.stride
            } else {
                self.copy.value_bytes
            })
            .enumerate()
        {
            let to = region.as_ptr().wrapping_add(cpu * self.stride);
            // SAFETY: 1. the region holds a value for each CPU; 2. chunks have at least the value's size.
            unsafe {
                if flags & map_elem::LOCK != 0 {
                    self.copy.copy_in_locked(to, chunk.as_ptr());
                } else {
                    self.copy.copy_in(to, chunk.as_ptr());
                }
            }
        }
        Ok(())
    }

    fn sys_delete(&self, _key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let key = key.map(|key| self.key(key));
        // A key that is not there ends the walk.
        if key.as_ref().is_some_and(|key| !self.values.contains(key)) {
            return Err(Errno::ENOENT);
        }
        let found = self.values.key_after(key.as_ref().map(|key| &key[..]))?;
        let cgroup_id = found.first_chunk().copied().map_or(0, u64::from_be_bytes);
        let attach_type = found.get(8..12).map_or(0, index_of).swap_bytes();
        next.fill(0);
        next[..8].copy_from_slice(&cgroup_id.to_ne_bytes());
        if let Some(rest) = next.get_mut(8..12) {
            rest.copy_from_slice(&attach_type.to_ne_bytes());
        }
        Ok(())
    }

    fn mem_usage(&self) -> u64 {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
