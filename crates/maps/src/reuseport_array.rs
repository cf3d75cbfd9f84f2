//! Reuseport arrays: the sockets among which a `sk_reuseport` program selects.

use std::any::Any;
use std::sync::Arc;

use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use crate::array::{check_array, index_of, next_index, read_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Socket, SocketKind};
use crate::ops::MapOps;
use crate::slots::Slots;

/// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`.
#[derive(Debug)]
pub struct ReuseportArray {
    slots: Slots<Socket>,
    value_bytes: usize,
}

impl ReuseportArray {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(
            matches!(attr.value_size, 4 | 8),
            "value_size",
            attr.value_size,
        )?;
        check_array(attr)?;
        Ok(ReuseportArray {
            slots: Slots::new(attr)?,
            value_bytes: attr.value_size as usize,
        })
    }

    /// The socket of an index.
    pub fn socket(&self, index: u32) -> Option<Arc<Socket>> {
        self.slots.get(index)
    }

    fn remove(&self, index: u32) -> Result<(), Errno> {
        if self.slots.set(index, None)? {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }
}

impl MapOps for ReuseportArray {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        let section = ring3_sync::rcu::read();
        // SAFETY: 1. the caller's promise.
        let socket = self.slots.peek(unsafe { read_index(key) }, &section);
        socket.map_or(0, |socket| socket.program_ptr) as *mut u8
    }

    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        self.remove(unsafe { read_index(key) })
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        if self.value_bytes != 8 {
            return Err(Errno::ENOSPC);
        }
        let section = ring3_sync::rcu::read();
        let socket = self
            .slots
            .peek(index_of(key), &section)
            .ok_or(Errno::ENOENT)?;
        value.copy_from_slice(&socket.cookie.to_ne_bytes());
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
        let index = index_of(key);
        if index >= self.slots.len() {
            return Err(Errno::E2BIG);
        }
        let fd = match value.first_chunk::<8>() {
            Some(wide) => u64::from_ne_bytes(*wide),
            None => u64::from(index_of(value)),
        };
        // Only a wide value can be out of range; a narrow one is just not open.
        if value.len() == 8 && fd > i32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let socket = fds.socket(fd as u32)?;
        match (self.slots.is_set(index), flags) {
            (true, map_elem::NOEXIST) => return Err(Errno::EEXIST),
            (false, map_elem::EXIST) => return Err(Errno::ENOENT),
            _ => {}
        }
        match socket.kind {
            SocketKind::Udp { bound: true }
            | SocketKind::Tcp {
                listening: true, ..
            } => {}
            SocketKind::Udp { .. } | SocketKind::Tcp { .. } => return Err(Errno::EINVAL),
            SocketKind::Unix | SocketKind::Xdp | SocketKind::Other => return Err(Errno::ENOTSUPP),
        }
        self.slots.set(index, Some(Arc::new(socket))).map(drop)
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
