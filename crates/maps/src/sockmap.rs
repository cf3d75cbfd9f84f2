//! Socket maps: `sockmap` (by index) and `sockhash` (by any key). Values are descriptors in, socket cookies out.
//!
//! The programs attached to such a map, and what they do to a socket's data, belong to `net`.

use std::any::Any;
use std::sync::Arc;

use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::array::{index_of, next_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Socket, SocketKind};
use crate::hash::objects::ObjectTable;
use crate::ops::MapOps;
use crate::slots::Slots;

const FLAGS: u32 = map_create::NUMA_NODE | map_create::RDONLY | map_create::WRONLY;
/// The longest key: a program has it on its stack.
const KEY_BYTES_MAX: u32 = 512;

#[derive(Debug)]
enum Sockets {
    Array(Slots<Socket>),
    Hash(Box<ObjectTable<Socket>>),
}

/// `BPF_MAP_TYPE_SOCKMAP` and `BPF_MAP_TYPE_SOCKHASH`.
#[derive(Debug)]
pub struct SockMap {
    sockets: Sockets,
    key_bytes: usize,
    value_bytes: usize,
    max_entries: u32,
}

/// The descriptor in a value of a socket map.
fn socket_fd(value: &[u8]) -> Result<u32, Errno> {
    let fd = match value.first_chunk::<8>() {
        Some(wide) => u64::from_ne_bytes(*wide),
        None => u64::from(index_of(value)),
    };
    if fd > i32::MAX as u64 {
        Err(Errno::EINVAL)
    } else {
        Ok(fd as u32)
    }
}

impl SockMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        let hash = attr.map_type == MapType::Sockhash;
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(
            if hash {
                attr.key_size != 0
            } else {
                attr.key_size == 4
            },
            "key_size",
            attr.key_size,
        )?;
        attr.require(
            matches!(attr.value_size, 4 | 8),
            "value_size",
            attr.value_size,
        )?;
        attr.check_flags(FLAGS)?;
        attr.require_or(
            attr.key_size <= KEY_BYTES_MAX,
            Errno::E2BIG,
            "key_size",
            attr.key_size,
        )?;
        let sockets = if hash {
            let table = ObjectTable::sparse(attr, attr.key_size, attr.max_entries)?;
            Sockets::Hash(Box::new(table))
        } else {
            Sockets::Array(Slots::new(attr)?)
        };
        Ok(SockMap {
            sockets,
            key_bytes: attr.key_size as usize,
            value_bytes: attr.value_size as usize,
            max_entries: attr.max_entries,
        })
    }

    /// The socket of a key (in the map's own byte form), to redirect to.
    pub fn socket(&self, key: &[u8]) -> Option<Arc<Socket>> {
        match &self.sockets {
            Sockets::Array(slots) => slots.get(index_of(key)),
            Sockets::Hash(table) => table.get(key),
        }
    }

    /// The socket of a key, for as long as a read section lasts.
    fn peek<'section>(
        &self,
        key: &[u8],
        section: &'section rcu::Guard,
    ) -> Option<&'section Socket> {
        match &self.sockets {
            Sockets::Array(slots) => slots.peek(index_of(key), section),
            Sockets::Hash(table) => table.peek(key, section),
        }
    }

    /// Adds a socket: the system call's update, `bpf_sock_map_update` and `bpf_sock_hash_update`.
    ///
    /// # Errors
    /// `EINVAL`: flags. `E2BIG`: beyond the end or full. `EEXIST`, `ENOENT` by flags. `EOPNOTSUPP`: a socket in the wrong state.
    pub fn add(&self, key: &[u8], socket: Socket, flags: u64) -> Result<(), Errno> {
        if flags > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        if !state_is_allowed(socket.kind) {
            return Err(Errno::ENOTSUP);
        }
        match &self.sockets {
            Sockets::Array(slots) => {
                let index = index_of(key);
                if index >= self.max_entries {
                    return Err(Errno::E2BIG);
                }
                match (slots.is_set(index), flags) {
                    (true, map_elem::NOEXIST) => Err(Errno::EEXIST),
                    (false, map_elem::EXIST) => Err(Errno::ENOENT),
                    _ => slots.set(index, Some(Arc::new(socket))).map(drop),
                }
            }
            Sockets::Hash(table) => table.set(key, Arc::new(socket), flags),
        }
    }

    /// Forgets a socket that is closed.
    ///
    /// # Errors
    /// `EBUSY`: inside of a change of this map by the same thread.
    pub fn remove_socket(&self, cookie: u64) -> Result<(), Errno> {
        match &self.sockets {
            Sockets::Array(slots) => {
                slots.retain(|socket| socket.cookie != cookie);
                Ok(())
            }
            Sockets::Hash(table) => table.retain(|socket| socket.cookie != cookie),
        }
    }

    fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        match &self.sockets {
            // Beyond the end or empty, the answer is the same.
            Sockets::Array(slots) => slots.delete(key).map_err(|_| Errno::EINVAL),
            Sockets::Hash(table) => table.remove(key),
        }
    }
}

/// TCP connected or listening, UDP, Unix.
fn state_is_allowed(kind: SocketKind) -> bool {
    match kind {
        SocketKind::Tcp {
            established,
            listening,
        } => established || listening,
        SocketKind::Udp { .. } | SocketKind::Unix => true,
        SocketKind::Xdp | SocketKind::Other => false,
    }
}

impl MapOps for SockMap {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        let key = unsafe { std::slice::from_raw_parts(key, self.key_bytes) };
        let section = rcu::read();
        let socket = self.peek(key, &section);
        socket.map_or(0, |socket| socket.program_ptr) as *mut u8
    }

    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        self.remove(unsafe { std::slice::from_raw_parts(key, self.key_bytes) })
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        // A cookie has 8 bytes.
        if self.value_bytes != 8 {
            return Err(Errno::ENOSPC);
        }
        let section = rcu::read();
        let socket = self.peek(key, &section).ok_or(Errno::ENOENT)?;
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
        let socket = fds.socket(socket_fd(value)?)?;
        self.add(key, socket, flags)
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.remove(key)
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        match &self.sockets {
            Sockets::Array(_) => next_index(self.max_entries, key, next),
            Sockets::Hash(table) => {
                let known = key.filter(|key| table.contains(key));
                let found = table.key_after(known)?;
                next.copy_from_slice(&found);
                Ok(())
            }
        }
    }

    fn mem_usage(&self) -> u64 {
        u64::from(self.max_entries) * 8
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
