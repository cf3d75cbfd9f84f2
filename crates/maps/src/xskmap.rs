//! XSK maps: `bpf_redirect_map` to AF_XDP sockets.

use std::any::Any;
use std::sync::Arc;

use ring3_uapi::Errno;
use ring3_uapi::flags::{map_create, map_elem};

use crate::array::{index_of, next_index, read_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Socket, SocketKind};
use crate::ops::MapOps;
use crate::slots::Slots;

const FLAGS: u32 = map_create::NUMA_NODE | map_create::RDONLY | map_create::WRONLY;

/// `BPF_MAP_TYPE_XSKMAP`.
#[derive(Debug)]
pub struct XskMap {
    slots: Slots<Socket>,
}

impl XskMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
        attr.require(attr.value_size == 4, "value_size", attr.value_size)?;
        attr.check_flags(FLAGS)?;
        Ok(XskMap {
            slots: Slots::new(attr)?,
        })
    }

    /// The socket of a key, to redirect to.
    pub fn target(&self, key: u32) -> Option<Arc<Socket>> {
        self.slots.get(key)
    }

    fn remove(&self, key: u32) -> Result<(), Errno> {
        self.slots
            .set(key, None)
            .map(drop)
            .map_err(|_| Errno::EINVAL)
    }
}

impl MapOps for XskMap {
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

    fn sys_lookup(&self, _key: &[u8], _value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
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
        let socket = fds.socket(index_of(value))?;
        if socket.kind != SocketKind::Xdp {
            return Err(Errno::ENOTSUP);
        }
        match (self.slots.is_set(index), flags) {
            (true, map_elem::NOEXIST) => Err(Errno::EEXIST),
            (false, map_elem::EXIST) => Err(Errno::ENOENT),
            _ => self.slots.set(index, Some(Arc::new(socket))).map(drop),
        }
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
