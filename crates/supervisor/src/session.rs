//! One client and what it starts: takes each call, finds who answers it, answers. Key type: [`Session`].

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    thread,
};

use ring3_os::seccomp::{Listener, Notification};
use ring3_spec::Privilege;
use ring3_syscall_shim::{Caller, GuestMemory, Host, OpenFile, PathAt};
use ring3_uapi::{Cmd, Errno};
use rustix::fs::OFlags;

use crate::{
    calls,
    daemon::Shared,
    events,
    guest::{TaskFiles, TaskMemory},
    host::TaskHost,
    netlink, proc_files,
};

/// Bytes of attributes that bpf(2) looks at. Source: one page.
const ATTR_BYTES_MAX: usize = 4096;
/// Bytes of a path, its NUL included.
const PATH_BYTES_MAX: usize = 4096;
/// `AT_FDCWD`
const AT_FDCWD: i32 = -100;
/// Type of a BPF file system, and the bytes of `struct statfs`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const STATFS_BYTES: usize = 120;

/// What a client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) files_max: usize,
    pub(crate) map_bytes_max: u64,
}

/// A client.
pub(crate) struct Session {
    pub(crate) daemon: Arc<Shared>,
    pub(crate) privilege: Privilege,
    pub(crate) limits: Limits,
    /// Mount of the pins in its namespace; 0 for none.
    pub(crate) mount_id: u64,
    pub(crate) task_files: TaskFiles,
    pub(crate) netlink: netlink::Sockets,
    pub(crate) open_files: AtomicUsize,
    pub(crate) map_bytes: AtomicU64,
}

/// What becomes of a call.
pub(crate) enum Answer {
    /// This result.
    Result(Result<i64, Errno>),
    /// The kernel carries it out.
    Pass,
}

impl Session {
    /// Answers until every process of the client is gone.
    pub(crate) fn serve(self: &Arc<Session>, listener: &Arc<Listener>) {
        listener.wake_in_step();
        let ends_receive = receive_ends_with_the_client();
        loop {
            if !ends_receive && !listener.wait(None) {
                return;
            }
            match listener.receive() {
                Ok(call) if is_slow(&call) => {
                    let (session, own) = (Arc::clone(self), Arc::clone(listener));
                    let started = thread::Builder::new()
                        .name("ring3-call".to_owned())
                        .spawn(move || session.answer(&own, &call));
                    if started.is_err() {
                        let _ = listener.answer(call.id, Err(Errno::EAGAIN));
                    }
                }
                Ok(call) => self.answer(listener, &call),
                Err(Errno::EINTR) => {}
                Err(_) if listener.is_orphan() => return,
                // The caller died before its call could be read.
                Err(Errno::ENOENT) => {}
                Err(_) => return,
            }
        }
    }

    fn answer(self: &Arc<Session>, listener: &Arc<Listener>, call: &Notification) {
        let host = TaskHost {
            session: Arc::clone(self),
            listener: Arc::clone(listener),
            id: call.id,
            tid: call.tid,
        };
        let mut memory = TaskMemory {
            listener,
            id: call.id,
            tid: call.tid,
        };
        // A mistake of ours is one call's failure, not everybody's.
        let answer = catch_unwind(AssertUnwindSafe(|| dispatch(&host, &mut memory, call)))
            .unwrap_or(Answer::Result(Err(Errno::EFAULT)));
        // Fails only if the caller died.
        let _ = match answer {
            Answer::Result(result) => listener.answer(call.id, result),
            Answer::Pass => listener.let_pass(call.id),
        };
    }
}

/// Since Linux 6.11 a wait for calls ends when nobody is left to call.
fn receive_ends_with_the_client() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut parts = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version >= (6, 11)
}

/// Verification and test runs take as long as the program wants.
fn is_slow(call: &Notification) -> bool {
    let slow = [Cmd::ProgLoad, Cmd::BtfLoad, Cmd::ProgTestRun];
    call.nr == calls::BPF && slow.iter().any(|cmd| cmd.raw() == call.args[0] as u32)
}

fn dispatch(host: &TaskHost, memory: &mut TaskMemory<'_>, call: &Notification) -> Answer {
    let args = &call.args;
    match call.nr {
        calls::BPF => Answer::Result(bpf(host, memory, args)),
        calls::OPEN => proc_files::open(host, memory, None, args[0]),
        calls::OPENAT => proc_files::open(host, memory, Some(args[0] as i32), args[1]),
        calls::STATFS => statfs(host, memory, None, args),
        calls::FSTATFS => statfs(host, memory, Some(args[0] as i32), args),
        calls::EPOLL_CTL => events::epoll_ctl(host, memory, args),
        calls::PERF_EVENT_OPEN => events::perf_event_open(host, memory, args),
        calls::IOCTL => events::ioctl(host, memory, args),
        calls::MMAP => events::mmap(host, args),
        calls::MOUNT => mount(memory, args),
        calls::SOCKET => netlink::socket(host, args),
        calls::BIND => netlink::bind(host, memory, args),
        calls::GETSOCKNAME => netlink::getsockname(host, memory, args),
        calls::SETSOCKOPT => netlink::setsockopt(host, args),
        _ => Answer::Pass,
    }
}

/// bpf(2).
fn bpf(host: &TaskHost, memory: &mut TaskMemory<'_>, args: &[u64; 6]) -> Result<i64, Errno> {
    let (cmd, address, size) = (args[0] as u32, args[1], args[2] as u32 as usize);
    if size > ATTR_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    let mut buffer = [0; ATTR_BYTES_MAX];
    let attr = &mut buffer[..size];
    memory.read(address, attr)?;
    if !memory.is_callers() {
        return Err(Errno::ESRCH);
    }
    let before = AttrCopy::of(attr);
    let caller = Caller::with_host(host.session.privilege, Box::new(host.clone()));
    let result = host.session.daemon.shim.bpf(&caller, cmd, attr, memory);
    if let Some((from, to)) = before.changed(attr) {
        memory.write(address + from as u64, &attr[from..to])?;
    }
    result
}

/// The attributes as they came, as far as commands write to them.
struct AttrCopy {
    bytes: [u8; ring3_uapi::limits::ATTR_BYTES],
}

impl AttrCopy {
    fn of(attr: &[u8]) -> AttrCopy {
        let mut bytes = [0; ring3_uapi::limits::ATTR_BYTES];
        let len = attr.len().min(bytes.len());
        bytes[..len].copy_from_slice(&attr[..len]);
        AttrCopy { bytes }
    }

    /// First and one past the last byte that differ.
    fn changed(&self, attr: &[u8]) -> Option<(usize, usize)> {
        let differs = |(old, new): (&u8, &u8)| old != new;
        let from = self.bytes.iter().zip(attr).position(differs)?;
        let len = attr.len().min(self.bytes.len());
        let to = (from..len).rev().find(|&at| self.bytes[at] != attr[at])?;
        Some((from, to + 1))
    }
}

/// The path at an address of the client's.
pub(crate) fn read_path(memory: &TaskMemory<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    const PIECE_BYTES: u64 = 256;
    let mut path = Vec::new();
    while path.len() < PATH_BYTES_MAX {
        let at = address
            .checked_add(path.len() as u64)
            .ok_or(Errno::EFAULT)?;
        // No piece reaches over the end of a page.
        let mut piece = [0; PIECE_BYTES as usize];
        let piece = &mut piece[..(PIECE_BYTES - at % PIECE_BYTES) as usize];
        memory.read(at, piece)?;
        match piece.iter().position(|&byte| byte == 0) {
            Some(end) => {
                path.extend_from_slice(&piece[..end]);
                return Ok(path);
            }
            None => path.extend_from_slice(piece),
        }
    }
    Err(Errno::ENAMETOOLONG)
}

/// The directory that a path begins at.
pub(crate) fn path_at(dir: i32, path: &[u8]) -> PathAt<'_> {
    PathAt {
        dir: (dir != AT_FDCWD).then_some(dir),
        path,
    }
}

/// statfs(2) and fstatfs(2): pins are in a BPF file system.
fn statfs(
    host: &TaskHost,
    memory: &mut TaskMemory<'_>,
    fd: Option<i32>,
    args: &[u64; 6],
) -> Answer {
    let opened = match fd {
        Some(fd) => crate::guest::copy_fd(host.tid, fd),
        None => read_path(memory, args[0])
            .and_then(|path| host.open_path(path_at(AT_FDCWD, &path), OFlags::empty())),
    };
    match opened {
        Ok(file) if host.is_in_pins(&file) => {
            let mut statfs = [0; STATFS_BYTES];
            for (at, value) in [(0, BPF_FS_MAGIC), (8, 4096), (64, 255), (72, 4096)] {
                statfs[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            }
            Answer::Result(memory.write(args[1], &statfs).map(|()| 0))
        }
        _ => Answer::Pass,
    }
}

/// mount(2): the kernel's own BPF file system would hold none of our objects.
fn mount(memory: &TaskMemory<'_>, args: &[u64; 6]) -> Answer {
    match read_path(memory, args[2]) {
        Ok(fstype) if fstype == b"bpf" => Answer::Result(Err(Errno::EPERM)),
        _ => Answer::Pass,
    }
}

impl TaskHost {
    /// The object behind a descriptor of the client; `None` for files of other kinds.
    pub(crate) fn object(&self, fd: i32) -> Option<OpenFile> {
        match self.file(fd) {
            Ok(OpenFile::Other) | Err(_) => None,
            Ok(file) => Some(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_written_back() {
        let mut attr = [1, 2, 3, 4, 5];
        let copy = AttrCopy::of(&attr);
        assert_eq!(copy.changed(&attr), None);
        attr[1] = 9;
        attr[3] = 9;
        assert_eq!(copy.changed(&attr), Some((1, 4)));
    }
}
