//! CPU maps: `bpf_redirect_map` to another CPU's queue. A value is `struct bpf_cpumap_val`: queue size and program.

use std::any::Any;
use std::sync::Arc;

use ring3_os::cpu::possible_cpus;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{AttachType, Errno};

use crate::array::{index_of, next_index};
use crate::attr::{MapAttr, MapError};
use crate::devmap::target_prog;
use crate::fd::FdTable;
use crate::ops::MapOps;
use crate::prog_array::ProgSlot;
use crate::slots::Slots;

/// `CONFIG_NR_CPUS` of the reference kernel's build.
const CPUS_MAX: u32 = 256;
/// The longest queue.
const QUEUE_MAX: u32 = 16384;

/// A CPU's queue.
#[derive(Debug)]
pub struct CpuTarget {
    /// The CPU.
    pub cpu: u32,
    /// Packets that may wait.
    pub queue_size: u32,
    /// The program that runs on them there.
    pub prog: Option<ProgSlot>,
}

/// `BPF_MAP_TYPE_CPUMAP`.
#[derive(Debug)]
pub struct CpuMap {
    slots: Slots<CpuTarget>,
    value_bytes: usize,
}

impl CpuMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
        attr.require(
            matches!(attr.value_size, 4 | 8),
            "value_size",
            attr.value_size,
        )?;
        attr.check_flags(map_create::NUMA_NODE)?;
        attr.require_or(
            attr.max_entries <= CPUS_MAX,
            Errno::E2BIG,
            "max_entries",
            attr.max_entries,
        )?;
        Ok(CpuMap {
            slots: Slots::new(attr)?,
            value_bytes: attr.value_size as usize,
        })
    }

    /// The queue of a key, to redirect to.
    pub fn target(&self, key: u32) -> Option<Arc<CpuTarget>> {
        self.slots.get(key)
    }

    fn remove(&self, key: u32) -> Result<(), Errno> {
        self.slots
            .set(key, None)
            .map(drop)
            .map_err(|_| Errno::EINVAL)
    }
}

impl MapOps for CpuMap {
    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        self.remove(unsafe { crate::array::read_index(key) })
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let target = self.target(index_of(key)).ok_or(Errno::ENOENT)?;
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&target.queue_size.to_ne_bytes());
        bytes[4..].copy_from_slice(&target.prog.as_ref().map_or(0, |prog| prog.id).to_ne_bytes());
        value.copy_from_slice(&bytes[..self.value_bytes]);
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        if flags > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        let cpu = index_of(key);
        if cpu >= self.slots.len() {
            return Err(Errno::E2BIG);
        }
        if flags == map_elem::NOEXIST {
            return Err(Errno::EEXIST);
        }
        let queue_size = index_of(value);
        if queue_size > QUEUE_MAX {
            return Err(Errno::EOVERFLOW);
        }
        if cpu as usize >= possible_cpus() {
            return Err(Errno::ENODEV);
        }
        if queue_size == 0 {
            return self.slots.set(cpu, None).map(drop);
        }
        // The kernel reports any failure of making the entry, a bad program included, as out of memory.
        let prog = target_prog(value, AttachType::XdpCpumap, fds).map_err(|_| Errno::ENOMEM)?;
        self.slots
            .set(
                cpu,
                Some(Arc::new(CpuTarget {
                    cpu,
                    queue_size,
                    prog,
                })),
            )
            .map(drop)
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.remove(index_of(key))
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        next_index(self.slots.len(), key, next)
    }

    fn mem_usage(&self) -> u64 {
        self.slots.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
