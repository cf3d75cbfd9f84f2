//! Perf event arrays: where `bpf_perf_event_output` sends records, one event a slot, by custom one slot a CPU.
//!
//! The events themselves belong to `tracing`; here they are opaque objects.

use std::any::Any;
use std::sync::Arc;

use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use crate::array::{check_fd_array, index_of, next_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Object};
use crate::ops::MapOps;
use crate::slots::Slots;

/// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`.
pub struct PerfEventArray {
    slots: Slots<Object>,
    preserve: bool,
}

impl std::fmt::Debug for PerfEventArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = (0..self.slots.len()).filter(|index| self.slots.is_set(*index));
        f.debug_set().entries(set).finish()
    }
}

impl PerfEventArray {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_fd_array(attr)?;
        Ok(PerfEventArray {
            slots: Slots::new(attr)?,
            preserve: attr.has_flag(map_create::PRESERVE_ELEMS),
        })
    }

    /// The event of a slot.
    pub fn event(&self, index: u32) -> Option<Object> {
        self.slots.get(index).map(|event| Object::clone(&event))
    }

    /// Puts an event into a slot; for hosts without descriptors.
    ///
    /// # Errors
    /// `E2BIG`: beyond the end.
    pub fn set(&self, index: u32, event: Object) -> Result<(), Errno> {
        self.slots.set(index, Some(Arc::new(event))).map(drop)
    }
}

impl MapOps for PerfEventArray {
    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        self.slots
            .update(key, flags, || fds.perf_event(index_of(value)).map(Arc::new))
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
        // With BPF_F_PRESERVE_ELEMS events stay until the map goes.
        if !self.preserve {
            self.slots.clear();
        }
    }
}
