//! The data side of struct_ops maps: one value, written once, and the state of its registration.
//!
//! Which members are functions, and what registering means, is known to `objects`; it drives the state by [`StructOps::set_state`].

use std::any::Any;

use parking_lot::Mutex;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use crate::array::index_of;
use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::ops::MapOps;

/// State of a struct_ops value: `enum bpf_struct_ops_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StructOpsState {
    /// Not written yet.
    Init = 0,
    /// Registered.
    InUse = 1,
    /// Unregistered, still used.
    ToBeFree = 2,
    /// Written, to be registered by a link.
    Ready = 3,
}

/// `BPF_MAP_TYPE_STRUCT_OPS`.
#[derive(Debug)]
pub struct StructOps {
    inner: Mutex<Inner>,
    by_link: bool,
}

#[derive(Debug)]
struct Inner {
    state: StructOpsState,
    refcnt: u32,
    value: Vec<u8>,
}

/// Bytes of `struct bpf_struct_ops_common_value` (reference count and state) before the data.
const COMMON_BYTES: usize = 8;

impl StructOps {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
        attr.require(attr.max_entries == 1, "max_entries", attr.max_entries)?;
        attr.check_flags(map_create::LINK | map_create::VTYPE_BTF_OBJ_FD)?;
        attr.require(
            attr.btf_vmlinux_value_type_id != 0,
            "btf_vmlinux_value_type_id",
            attr.btf_vmlinux_value_type_id,
        )?;
        attr.require(
            attr.value_size as usize >= COMMON_BYTES,
            "value_size",
            attr.value_size,
        )?;
        let inner = Inner {
            state: StructOpsState::Init,
            refcnt: 0,
            value: vec![0; attr.value_size as usize],
        };
        Ok(StructOps {
            inner: Mutex::new(inner),
            by_link: attr.has_flag(map_create::LINK),
        })
    }

    /// The state.
    pub fn state(&self) -> StructOpsState {
        self.inner.lock().state
    }

    /// Moves to a state; `objects` does, with registration.
    pub fn set_state(&self, state: StructOpsState) {
        self.inner.lock().state = state;
    }

    /// The value's bytes, the common header included.
    pub fn value(&self) -> Vec<u8> {
        self.inner.lock().value.clone()
    }

    /// Replaces the value's bytes after `objects` has put function addresses in.
    pub fn set_value(&self, value: &[u8]) {
        let mut inner = self.inner.lock();
        let len = inner.value.len().min(value.len());
        inner.value[..len].copy_from_slice(&value[..len]);
    }
}

impl MapOps for StructOps {
    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        if index_of(key) != 0 {
            return Err(Errno::ENOENT);
        }
        let inner = self.inner.lock();
        if inner.state == StructOpsState::Init {
            value.fill(0);
            return Ok(());
        }
        value.copy_from_slice(&inner.value);
        value[..4].copy_from_slice(&inner.refcnt.to_ne_bytes());
        value[4..8].copy_from_slice(&(inner.state as u32).to_ne_bytes());
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        if index_of(key) != 0 {
            return Err(Errno::E2BIG);
        }
        // State and reference count are the kernel's.
        if value.iter().take(COMMON_BYTES).any(|byte| *byte != 0) {
            return Err(Errno::EINVAL);
        }
        let mut inner = self.inner.lock();
        if inner.state != StructOpsState::Init {
            return Err(Errno::EBUSY);
        }
        inner.value.copy_from_slice(value);
        inner.state = if self.by_link {
            StructOpsState::Ready
        } else {
            StructOpsState::InUse
        };
        Ok(())
    }

    fn sys_delete(&self, _key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        if self.by_link {
            return Err(Errno::ENOTSUP);
        }
        let mut inner = self.inner.lock();
        match inner.state {
            StructOpsState::InUse => {
                inner.state = StructOpsState::ToBeFree;
                Ok(())
            }
            StructOpsState::ToBeFree => Err(Errno::EINPROGRESS),
            StructOpsState::Init | StructOpsState::Ready => Err(Errno::ENOENT),
        }
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        if key.map(index_of) == Some(0) {
            return Err(Errno::ENOENT);
        }
        next.copy_from_slice(&0u32.to_ne_bytes());
        Ok(())
    }

    fn mem_usage(&self) -> u64 {
        self.inner.lock().value.len() as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
