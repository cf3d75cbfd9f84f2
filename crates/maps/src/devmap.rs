//! Device maps: targets of `bpf_redirect_map`, by index (`devmap`) or by any u32 key (`devmap_hash`).
//!
//! A value is `struct bpf_devmap_val`: an interface index and, in 8-byte values, a program (descriptor in, id out) that runs on what is sent
//! there. Devices belong to `net`.

use std::any::Any;
use std::sync::Arc;

use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{AttachType, Errno, MapType, ProgType};

use crate::array::{index_of, next_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Object};
use crate::hash::objects::ObjectTable;
use crate::ops::MapOps;
use crate::prog_array::ProgSlot;
use crate::slots::Slots;

const FLAGS: u32 = map_create::NUMA_NODE | map_create::RDONLY | map_create::WRONLY;

/// Where a packet goes.
pub struct DevTarget {
    /// Index of the device.
    pub ifindex: u32,
    /// The device, of `net`.
    pub device: Object,
    /// The program that runs on packets sent there.
    pub prog: Option<ProgSlot>,
}

impl std::fmt::Debug for DevTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevTarget")
            .field("ifindex", &self.ifindex)
            .field("prog", &self.prog)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Targets {
    Array(Slots<DevTarget>),
    /// By key, most significant byte first: walks go in the order of the keys, as the kernel's do up to `max_entries`.
    Hash(Box<ObjectTable<DevTarget>>),
}

/// `BPF_MAP_TYPE_DEVMAP` and `BPF_MAP_TYPE_DEVMAP_HASH`.
#[derive(Debug)]
pub struct DevMap {
    targets: Targets,
    value_bytes: usize,
}

/// The program of an 8-byte value; `EINVAL` unless it is an XDP program made for this attach type.
pub(crate) fn target_prog(
    value: &[u8],
    wanted: AttachType,
    fds: &dyn FdTable,
) -> Result<Option<ProgSlot>, Errno> {
    let fd = value.get(4..8).map_or(0, index_of) as i32;
    if fd <= 0 {
        return Ok(None);
    }
    // Whatever is wrong with the descriptor, the answer is the same.
    let prog = fds.prog(fd as u32).map_err(|_| Errno::EINVAL)?;
    let fits = prog.owner_key.prog_type == ProgType::Xdp
        && prog.owner_key.expected_attach_type == Some(wanted);
    if fits {
        Ok(Some(prog))
    } else {
        Err(Errno::EINVAL)
    }
}

impl DevMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
        attr.require(
            matches!(attr.value_size, 4 | 8),
            "value_size",
            attr.value_size,
        )?;
        attr.check_flags(FLAGS)?;
        let targets = if attr.map_type == MapType::DevmapHash {
            attr.require(attr.max_entries <= 1 << 31, "max_entries", attr.max_entries)?;
            Targets::Hash(Box::new(ObjectTable::sparse(attr, 4, attr.max_entries)?))
        } else {
            Targets::Array(Slots::new(attr)?)
        };
        Ok(DevMap {
            targets,
            value_bytes: attr.value_size as usize,
        })
    }

    /// The target of a key, to redirect to.
    pub fn target(&self, key: u32) -> Option<Arc<DevTarget>> {
        match &self.targets {
            Targets::Array(slots) => slots.get(key),
            Targets::Hash(targets) => targets.get(&key.to_be_bytes()),
        }
    }

    /// All targets, for broadcasts, by key.
    ///
    /// # Errors
    /// `EBUSY`: inside of a change of this map by the same thread.
    pub fn all_targets(&self) -> Result<Vec<Arc<DevTarget>>, Errno> {
        match &self.targets {
            Targets::Array(slots) => Ok((0..slots.len())
                .filter_map(|index| slots.get(index))
                .collect()),
            Targets::Hash(targets) => targets.all(),
        }
    }

    /// Drops every target of a device that goes away.
    ///
    /// # Errors
    /// `EBUSY`: inside of a change of this map by the same thread.
    pub fn remove_device(&self, ifindex: u32) -> Result<(), Errno> {
        match &self.targets {
            Targets::Array(slots) => {
                slots.retain(|target| target.ifindex != ifindex);
                Ok(())
            }
            Targets::Hash(targets) => targets.retain(|target| target.ifindex != ifindex),
        }
    }
}

impl MapOps for DevMap {
    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        self.remove(unsafe { crate::array::read_index(key) })
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let target = self.target(index_of(key)).ok_or(Errno::ENOENT)?;
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&target.ifindex.to_ne_bytes());
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
        let key = index_of(key);
        let ifindex = index_of(value);
        match &self.targets {
            Targets::Array(slots) => {
                if key >= slots.len() {
                    return Err(Errno::E2BIG);
                }
                if flags == map_elem::NOEXIST {
                    return Err(Errno::EEXIST);
                }
                if ifindex == 0 {
                    // No device: the slot is emptied. A program without a device makes no sense.
                    let fd = value.get(4..8).map_or(0, index_of) as i32;
                    if fd > 0 {
                        return Err(Errno::EINVAL);
                    }
                    return slots.set(key, None).map(drop);
                }
                let target = Self::resolve(ifindex, value, fds)?;
                slots.set(key, Some(Arc::new(target))).map(drop)
            }
            Targets::Hash(targets) => {
                if ifindex == 0 {
                    return Err(Errno::EINVAL);
                }
                let key = key.to_be_bytes();
                if flags == map_elem::NOEXIST && targets.contains(&key) {
                    return Err(Errno::EEXIST);
                }
                let target = Self::resolve(ifindex, value, fds)?;
                // The kernel does not mind BPF_EXIST without an element.
                targets.set(&key, Arc::new(target), flags & map_elem::NOEXIST)
            }
        }
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.remove(index_of(key))
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        match &self.targets {
            Targets::Array(slots) => next_index(slots.len(), key, next),
            Targets::Hash(targets) => {
                let key = key.map(|key| index_of(key).to_be_bytes());
                let known = key.filter(|key| targets.contains(key));
                let found = targets.key_after(known.as_ref().map(|key| &key[..]))?;
                next.copy_from_slice(&found);
                next.reverse();
                Ok(())
            }
        }
    }

    fn mem_usage(&self) -> u64 {
        match &self.targets {
            Targets::Array(slots) => slots.bytes(),
            Targets::Hash(targets) => u64::from(targets.len()) * 64,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DevMap {
    fn resolve(ifindex: u32, value: &[u8], fds: &dyn FdTable) -> Result<DevTarget, Errno> {
        let device = fds.net_device(ifindex)?;
        let prog = target_prog(value, AttachType::XdpDevmap, fds)?;
        Ok(DevTarget {
            ifindex,
            device,
            prog,
        })
    }

    fn remove(&self, key: u32) -> Result<(), Errno> {
        match &self.targets {
            Targets::Array(slots) => slots.set(key, None).map(drop).map_err(|_| Errno::EINVAL),
            Targets::Hash(targets) => targets.remove(&key.to_be_bytes()),
        }
    }
}
