//! How maps see the objects that file descriptors name: `FdTable`, implemented by `objects`.
//!
//! The value of some map types is a descriptor on the system call side and an object inside. The kernel resolves the descriptor
//! after its own checks of key and flags, so the table is passed down to where that happens.

use std::any::Any;
use std::sync::Arc;

use ring3_uapi::Errno;

use crate::Map;
use crate::prog_array::ProgSlot;

/// An object of the host kept alive by a map, such as a perf event or a cgroup.
pub type Object = Arc<dyn Any + Send + Sync>;

/// Resolves descriptors of the calling process.
pub trait FdTable {
    /// The program behind `fd`, ready to be stored in a prog array.
    ///
    /// # Errors
    /// `EBADF`: not open. `EINVAL`: not a program.
    fn prog(&self, fd: u32) -> Result<ProgSlot, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The map behind `fd`.
    ///
    /// # Errors
    /// `EBADF`: not open. `EINVAL`: not a map.
    fn map(&self, fd: u32) -> Result<Arc<Map>, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The perf event behind `fd`.
    ///
    /// # Errors
    /// `EBADF`: not open or not a perf event.
    fn perf_event(&self, fd: u32) -> Result<Object, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The cgroup behind `fd`.
    ///
    /// # Errors
    /// `EBADF`: not open or not a cgroup directory.
    fn cgroup(&self, fd: u32) -> Result<(u64, Object), Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The socket behind `fd`, with its description.
    ///
    /// # Errors
    /// `EBADF`: not open. `ENOTSOCK`: not a socket.
    fn socket(&self, fd: u32) -> Result<Socket, Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// The owner of local storage behind `fd` (a pidfd, a cgroup, a file, a socket): a stable identity.
    ///
    /// # Errors
    /// `EBADF`: not open or of the wrong kind.
    fn storage_owner(&self, kind: StorageKind, fd: u32) -> Result<u64, Errno> {
        let _ = (kind, fd);
        Err(Errno::EBADF)
    }

    /// The network device of an index.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    fn net_device(&self, ifindex: u32) -> Result<Object, Errno> {
        let _ = ifindex;
        Err(Errno::EINVAL)
    }
}

/// Whose storage a local storage map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// Sockets.
    Socket,
    /// Inodes.
    Inode,
    /// Tasks.
    Task,
    /// Cgroups.
    Cgroup,
}

/// A socket as socket maps judge it.
#[derive(Clone)]
pub struct Socket {
    /// The object that is kept alive.
    pub object: Object,
    /// `SO_COOKIE`: what a lookup returns.
    pub cookie: u64,
    /// What a program that looks the socket up gets: the address of its `struct sock`.
    pub program_ptr: u64,
    /// Transport and state.
    pub kind: SocketKind,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("cookie", &self.cookie)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Transport and state of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP, in a state that socket maps accept or not.
    Tcp {
        /// Connected.
        established: bool,
        /// Listening.
        listening: bool,
    },
    /// UDP.
    Udp {
        /// Bound (hashed), as reuseport arrays demand.
        bound: bool,
    },
    /// AF_UNIX with a peer or datagram.
    Unix,
    /// AF_XDP.
    Xdp,
    /// Anything else.
    Other,
}

/// A table in which nothing is open.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFds;

impl FdTable for NoFds {}
