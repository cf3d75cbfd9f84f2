//! A thread of a client while its call waits: its memory ([`TaskMemory`]) and its descriptors ([`TaskFiles`]).

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc};

use parking_lot::Mutex;
use ring3_os::{process, seccomp::Listener};
use ring3_runtime::Task;
use ring3_syscall_shim::{FileId, GuestMemory};
use ring3_uapi::Errno;
use rustix::fs::{self, AtFlags, Mode, OFlags};

/// Threads whose descriptor folders are kept open.
const FOLDERS_MAX: usize = 256;

/// The memory of a thread whose call waits.
pub(crate) struct TaskMemory<'a> {
    pub(crate) listener: &'a Listener,
    pub(crate) id: u64,
    pub(crate) tid: u32,
}

impl GuestMemory for TaskMemory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if into.is_empty() {
            return Ok(());
        }
        // Whose memory that was is asked once, before anything is done with it (`is_callers`).
        match process::read_memory(self.tid, address, into) {
            Ok(read) if read == into.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.is_callers() {
            return Err(Errno::EFAULT);
        }
        match process::write_memory(self.tid, address, bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }
}

impl TaskMemory<'_> {
    /// Whether the thread number still is the caller's.
    pub(crate) fn is_callers(&self) -> bool {
        self.listener.is_waiting(self.id)
    }
}

/// Descriptors of threads, by number.
#[derive(Default)]
pub(crate) struct TaskFiles {
    folders: Mutex<HashMap<u32, Arc<OwnedFd>>>,
}

impl TaskFiles {
    /// What a descriptor of a thread is.
    ///
    /// # Errors
    /// EBADF: not open.
    pub(crate) fn id(&self, tid: u32, fd: i32) -> Result<FileId, Errno> {
        if fd < 0 {
            return Err(Errno::EBADF);
        }
        let mut name = [0u8; 16];
        let name = decimal(fd as u32, &mut name);
        let known = self.folders.lock().get(&tid).cloned();
        let stat = known.and_then(|folder| fs::statat(&*folder, name, AtFlags::empty()).ok());
        let stat = match stat {
            Some(stat) => stat,
            None => {
                // Closed, or the number belongs to another thread by now.
                let folder = Arc::new(self.open_folder(tid)?);
                let stat = fs::statat(&*folder, name, AtFlags::empty());
                let mut folders = self.folders.lock();
                if folders.len() >= FOLDERS_MAX {
                    folders.clear();
                }
                folders.insert(tid, folder);
                stat.map_err(|_| Errno::EBADF)?
            }
        };
        Ok(FileId::from_stat(&stat))
    }

    fn open_folder(&self, tid: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::open(format!("/proc/{tid}/fd"), flags, Mode::empty()).map_err(|_| Errno::EBADF)
    }
}

fn decimal(mut number: u32, buffer: &mut [u8; 16]) -> &str {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or_default()
}

/// A copy of a descriptor of a thread.
///
/// # Errors
/// EBADF: not open there.
pub(crate) fn copy_fd(tid: u32, fd: i32) -> Result<OwnedFd, Errno> {
    let process = || {
        let pidfd =
            process::pidfd_of_thread(tid).or_else(|_| process::pidfd_of_thread(task(tid).tgid))?;
        process::fd_of(std::os::fd::AsFd::as_fd(&pidfd), fd)
    };
    process().map_err(|_| Errno::EBADF)
}

/// What `/proc` says of a thread.
pub(crate) fn task(tid: u32) -> Task {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let first = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()
    };
    let number = |key| first(key).and_then(|text| text.parse().ok());
    let mut comm = [0; 16];
    let name = status
        .lines()
        .find_map(|line| line.strip_prefix("Name:\t"))
        .unwrap_or_default();
    for (to, from) in comm.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    Task {
        pid: tid,
        tgid: number("Tgid:").unwrap_or(tid),
        uid: number("Uid:").unwrap_or(u32::MAX),
        gid: number("Gid:").unwrap_or(u32::MAX),
        comm,
        cgroup_id: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 7, 10, 1_234_567_890, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 16]), number.to_string());
        }
    }

    #[test]
    fn own_descriptors_are_found() {
        let files = TaskFiles::default();
        let tid = ring3_os::task::ids().0;
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert_eq!(files.id(tid, fd), FileId::of(&file));
        assert_eq!(files.id(tid, 99_999), Err(Errno::EBADF));
        assert_eq!(files.id(tid, -1), Err(Errno::EBADF));
        assert_eq!(task(tid).tgid, std::process::id());
        assert!(copy_fd(tid, fd).is_ok());
    }
}
