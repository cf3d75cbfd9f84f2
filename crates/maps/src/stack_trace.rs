//! Stack traces: call chains stored under their hash, written by programs through `bpf_get_stackid` only.

use std::any::Any;

use ring3_sync::rcu;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use crate::array::index_of;
use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::hash::key::{Key, KeyAny};
use crate::ops::MapOps;
use crate::slots::Slots;

/// Frames of a chain. Source: `kernel.perf_event_max_stack`, 127 by default.
pub const FRAMES_MAX: u32 = 127;
/// Bytes of `struct bpf_stack_build_id`.
const BUILD_ID_BYTES: u32 = 32;
const FLAGS: u32 =
    map_create::NUMA_NODE | map_create::RDONLY | map_create::WRONLY | map_create::STACK_BUILD_ID;

/// Flags of `bpf_get_stackid`.
pub mod stackid {
    /// `BPF_F_SKIP_FIELD_MASK`
    pub const SKIP_FIELD_MASK: u64 = 0xff;
    /// `BPF_F_USER_STACK`
    pub const USER_STACK: u64 = 1 << 8;
    /// `BPF_F_FAST_STACK_CMP`
    pub const FAST_STACK_CMP: u64 = 1 << 9;
    /// `BPF_F_REUSE_STACKID`
    pub const REUSE_STACKID: u64 = 1 << 10;
}

/// One stored chain.
#[derive(Debug)]
struct Chain {
    hash: u32,
    frames: Vec<u8>,
}

/// `BPF_MAP_TYPE_STACK_TRACE`.
#[derive(Debug)]
pub struct StackTrace {
    buckets: Slots<Chain>,
    value_bytes: usize,
    frame_bytes: usize,
}

impl StackTrace {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.check_flags(FLAGS)?;
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
        attr.require(
            attr.value_size >= 8 && attr.value_size.is_multiple_of(8),
            "value_size",
            attr.value_size,
        )?;
        let frame_bytes = if attr.has_flag(map_create::STACK_BUILD_ID) {
            BUILD_ID_BYTES
        } else {
            8
        };
        let frames = attr.value_size / frame_bytes;
        attr.require(
            attr.value_size.is_multiple_of(frame_bytes) && frames <= FRAMES_MAX,
            "value_size",
            attr.value_size,
        )?;
        attr.require_or(
            attr.max_entries <= 1 << 31,
            Errno::E2BIG,
            "max_entries",
            attr.max_entries,
        )?;
        let mut rounded = attr.clone();
        rounded.max_entries = attr.max_entries.next_power_of_two();
        Ok(StackTrace {
            buckets: Slots::new(&rounded)?,
            value_bytes: attr.value_size as usize,
            frame_bytes: frame_bytes as usize,
        })
    }

    /// Frames that fit.
    pub fn frames_max(&self) -> usize {
        self.value_bytes / self.frame_bytes
    }

    /// Stores a chain of frames (8 bytes each, or `struct bpf_stack_build_id`) and returns its id: `bpf_get_stackid` after the walk.
    ///
    /// # Errors
    /// `EEXIST`: another chain has the id and `BPF_F_REUSE_STACKID` is not set. `EFAULT`: an empty chain.
    pub fn store(&self, frames: &[u8], flags: u64) -> Result<u32, Errno> {
        if frames.is_empty() {
            return Err(Errno::EFAULT);
        }
        let frames = &frames[..frames.len().min(self.value_bytes)];
        // SAFETY: 1. the slice is readable for its length.
        let hash = unsafe { KeyAny::hash(KeyAny::load(frames.as_ptr(), frames.len()), 0) } as u32;
        let id = hash & (self.buckets.len() - 1);
        {
            let section = rcu::read();
            if let Some(chain) = self.buckets.peek(id, &section) {
                let same_hash = chain.hash == hash;
                if same_hash && (flags & stackid::FAST_STACK_CMP != 0 || chain.frames == frames) {
                    return Ok(id);
                }
                if flags & stackid::REUSE_STACKID == 0 {
                    return Err(Errno::EEXIST);
                }
            }
        }
        self.buckets.set(
            id,
            Some(std::sync::Arc::new(Chain {
                hash,
                frames: frames.to_vec(),
            })),
        )?;
        Ok(id)
    }
}

impl MapOps for StackTrace {
    unsafe fn update(&self, _key: *const u8, _value: *const u8, _flags: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        self.remove(unsafe { crate::array::read_index(key) })
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let section = rcu::read();
        let chain = self
            .buckets
            .peek(index_of(key), &section)
            .ok_or(Errno::ENOENT)?;
        value.fill(0);
        value[..chain.frames.len()].copy_from_slice(&chain.frames);
        Ok(())
    }

    fn sys_update(
        &self,
        _key: &[u8],
        _value: &[u8],
        _flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.remove(index_of(key))
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let from = match key.map(index_of) {
            Some(id) if id < self.buckets.len() => id + 1,
            _ => 0,
        };
        let id = (from..self.buckets.len())
            .find(|id| self.buckets.is_set(*id))
            .ok_or(Errno::ENOENT)?;
        next.copy_from_slice(&id.to_ne_bytes());
        Ok(())
    }

    fn sys_lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        self.sys_lookup(key, value, flags)?;
        self.remove(index_of(key))
    }

    fn mem_usage(&self) -> u64 {
        self.buckets.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl StackTrace {
    fn remove(&self, id: u32) -> Result<(), Errno> {
        if self.buckets.set(id, None)? {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, MapType};

    #[test]
    fn chains_share_ids_by_content() {
        let map = Map::create(&MapAttr::new(MapType::StackTrace, 4, 64, 16)).unwrap();
        let traces = map.downcast::<StackTrace>().unwrap();
        let id = traces.store(&[1; 32], 0).unwrap();
        assert_eq!(traces.store(&[1; 32], 0), Ok(id));
        let mut value = [9; 64];
        map.sys_lookup(crate::Access::ReadWrite, &id.to_ne_bytes(), &mut value, 0)
            .unwrap();
        assert_eq!((&value[..32], &value[32..]), (&[1; 32][..], &[0; 32][..]));
        let clash = (2..=255u8).find(|byte| traces.store(&[*byte; 32], 0) == Err(Errno::EEXIST));
        let byte = clash.expect("254 chains in 16 buckets");
        assert!(traces.store(&[byte; 32], stackid::REUSE_STACKID).is_ok());
        assert_eq!(traces.store(&[], 0), Err(Errno::EFAULT));
    }
}
