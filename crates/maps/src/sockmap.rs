//! Socket maps: `sockmap` (by index) and `sockhash` (by any key). Values are descriptors in, socket cookies out.
//!
//! The programs attached to such a map, and what they do to a socket's data, belong to `net`.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::array::index_of;
use crate::attr::{MapAttr, MapError};
use crate::fd::{FdTable, Socket, SocketKind};
use crate::ops::MapOps;

const FLAGS: u32 = map_create::NUMA_NODE | map_create::RDONLY | map_create::WRONLY;
/// The longest key: a program has it on its stack.
const KEY_BYTES_MAX: u32 = 512;

/// `BPF_MAP_TYPE_SOCKMAP` and `BPF_MAP_TYPE_SOCKHASH`.
#[derive(Debug)]
pub struct SockMap {
    hash: bool,
    key_bytes: usize,
    value_bytes: usize,
    max_entries: u32,
    sockets: RwLock<BTreeMap<Vec<u8>, Arc<Socket>>>,
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
        if !hash && u64::from(attr.max_entries) * 8 >= crate::mem::host_memory_bytes() {
            return Err(attr.error(Errno::ENOMEM, format_args!("{} slots", attr.max_entries)));
        }
        Ok(SockMap {
            hash,
            key_bytes: attr.key_size as usize,
            value_bytes: attr.value_size as usize,
            max_entries: attr.max_entries,
            sockets: RwLock::default(),
        })
    }

    /// The form of a key under which it is stored: indices sort as numbers.
    fn stored(&self, key: &[u8]) -> Vec<u8> {
        if self.hash {
            key.to_vec()
        } else {
            index_of(key).to_be_bytes().to_vec()
        }
    }

    /// The socket of a key (in the map's own byte form), to redirect to.
    pub fn socket(&self, key: &[u8]) -> Option<Arc<Socket>> {
        self.sockets.read().get(&self.stored(key)).cloned()
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
        if !self.hash && index_of(key) >= self.max_entries {
            return Err(Errno::E2BIG);
        }
        let key = self.stored(key);
        let mut sockets = self.sockets.write();
        match (sockets.contains_key(&key), flags) {
            (true, map_elem::NOEXIST) => return Err(Errno::EEXIST),
            (false, map_elem::EXIST) => return Err(Errno::ENOENT),
            (false, _) if sockets.len() >= self.max_entries as usize => return Err(Errno::E2BIG),
            _ => {}
        }
        sockets.insert(key, Arc::new(socket));
        Ok(())
    }

    /// Forgets a socket that is closed.
    pub fn remove_socket(&self, cookie: u64) {
        self.sockets
            .write()
            .retain(|_, socket| socket.cookie != cookie);
    }

    fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let missing = if self.hash {
            Errno::ENOENT
        } else {
            Errno::EINVAL
        };
        self.sockets
            .write()
            .remove(&self.stored(key))
            .map(drop)
            .ok_or(missing)
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
        self.socket(key).map_or(0, |socket| socket.program_ptr) as *mut u8
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
        let socket = self.socket(key).ok_or(Errno::ENOENT)?;
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
        if !self.hash {
            return crate::array::next_index(self.max_entries, key, next);
        }
        let sockets = self.sockets.read();
        let known = key.filter(|key| sockets.contains_key(*key));
        let found = match known {
            Some(key) => sockets
                .range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded))
                .next(),
            None => sockets.iter().next(),
        };
        let (key, _) = found.ok_or(Errno::ENOENT)?;
        next.copy_from_slice(key);
        Ok(())
    }

    fn mem_usage(&self) -> u64 {
        u64::from(self.max_entries) * 8
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
