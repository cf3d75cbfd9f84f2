//! Cgroup arrays: cgroups that programs test packets and tasks against.

use std::any::Any;
use std::sync::Arc;

use ring3_uapi::Errno;

use crate::array::{check_fd_array, index_of, next_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Object};
use crate::ops::MapOps;
use crate::slots::Slots;

/// A cgroup: its id and what keeps it alive.
struct Cgroup {
    id: u64,
    _keep: Object,
}

impl std::fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cgroup {}", self.id)
    }
}

/// `BPF_MAP_TYPE_CGROUP_ARRAY`.
#[derive(Debug)]
pub struct CgroupArray {
    slots: Slots<Cgroup>,
}

impl CgroupArray {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_fd_array(attr)?;
        Ok(CgroupArray {
            slots: Slots::new(attr)?,
        })
    }

    /// Puts a cgroup into a slot; for hosts without descriptors.
    ///
    /// # Errors
    /// `E2BIG`: beyond the end.
    pub fn set(&self, index: u32, id: u64, keep: Object) -> Result<(), Errno> {
        self.slots
            .set(index, Some(Arc::new(Cgroup { id, _keep: keep })))
            .map(drop)
    }

    /// The id of a slot's cgroup.
    ///
    /// # Errors
    /// `E2BIG`: beyond the end. `EAGAIN`: empty; both as the helpers that test against a slot.
    pub fn cgroup_id(&self, index: u32) -> Result<u64, Errno> {
        if index >= self.slots.len() {
            return Err(Errno::E2BIG);
        }
        self.slots
            .get(index)
            .map(|cgroup| cgroup.id)
            .ok_or(Errno::EAGAIN)
    }
}

impl MapOps for CgroupArray {
    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        self.slots.update(key, flags, || {
            let (id, keep) = fds.cgroup(index_of(value))?;
            Ok(Arc::new(Cgroup { id, _keep: keep }))
        })
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.slots.delete(key)
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

    fn release_user_refs(&self) {
        self.slots.clear();
    }
}
