//! What bpf(2) needs of a client beyond its memory: descriptors, pins, who it is. Key type: [`TaskHost`].

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use ring3_bpffs::Pinned;
use ring3_maps::Map;
use ring3_objects::Cancel;
use ring3_os::seccomp::Listener;
use ring3_runtime::Task;
use ring3_syscall_shim::{Host, Keep, OpenFile, PathAt};
use ring3_uapi::Errno;
use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};

use crate::{guest, pins::errno, session::Session};

/// One call of a thread of a client.
#[derive(Clone)]
pub(crate) struct TaskHost {
    pub(crate) session: Arc<Session>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) id: u64,
    pub(crate) tid: u32,
}

/// Takes a file off its client's account.
struct Account {
    session: Arc<Session>,
    bytes: u64,
}

impl Drop for Account {
    fn drop(&mut self) {
        self.session.open_files.fetch_sub(1, Ordering::Relaxed);
        self.session
            .map_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl TaskHost {
    /// Puts a file on the client's account.
    ///
    /// # Errors
    /// EMFILE: it has as many as it may.
    pub(crate) fn account(&self, bytes: u64) -> Result<Keep, Errno> {
        let session = &self.session;
        let account = Account {
            session: Arc::clone(session),
            bytes,
        };
        session.map_bytes.fetch_add(bytes, Ordering::Relaxed);
        if session.open_files.fetch_add(1, Ordering::Relaxed) >= session.limits.files_max {
            return Err(Errno::EMFILE);
        }
        Ok(Box::new(account))
    }

    /// Puts a descriptor into the client.
    ///
    /// # Errors
    /// EMFILE: it has no number left.
    pub(crate) fn give(&self, fd: &OwnedFd) -> Result<i32, Errno> {
        self.listener.add_fd(self.id, fd.as_fd())
    }

    /// Number of the process that the thread belongs to.
    pub(crate) fn task_group(&self) -> u32 {
        guest::task(self.tid).tgid
    }

    /// Opens what a path of the client means, without reading it.
    ///
    /// # Errors
    /// As open(2).
    pub(crate) fn open_path(&self, at: PathAt<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let folder = |path: String| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::open(path, flags, Mode::empty()).map_err(errno)
        };
        let tid = self.tid;
        if at.path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if at.path.starts_with(b"/") {
            let root = folder(format!("/proc/{tid}/root"))?;
            let resolve = ResolveFlags::IN_ROOT;
            return fs::openat2(root, at.path, flags, Mode::empty(), resolve).map_err(errno);
        }
        let start = match at.dir {
            None => folder(format!("/proc/{tid}/cwd"))?,
            Some(fd) => {
                self.session.task_files.id(tid, fd)?;
                folder(format!("/proc/{tid}/fd/{fd}"))?
            }
        };
        fs::openat2(start, at.path, flags, Mode::empty(), ResolveFlags::empty()).map_err(errno)
    }

    /// Whether an open file or folder is one of the tree of pins.
    pub(crate) fn is_in_pins(&self, fd: &OwnedFd) -> bool {
        if self.session.mount_id == 0 {
            // Without a mount of its own the client uses the folder itself.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
            return std::fs::read_link(path)
                .is_ok_and(|path| path.starts_with(&self.session.daemon.pins_path));
        }
        fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .is_ok_and(|stat| stat.stx_mnt_id == self.session.mount_id)
    }
}

/// Cuts a path at its last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b".", path),
    }
}

impl Host for TaskHost {
    fn file(&self, fd: i32) -> Result<OpenFile, Errno> {
        let id = self.session.task_files.id(self.tid, fd)?;
        Ok(self
            .session
            .daemon
            .files
            .find(id)
            .unwrap_or(OpenFile::Other))
    }

    fn open(&self, file: OpenFile) -> Result<i32, Errno> {
        let bytes = match &file {
            OpenFile::Map(map) => map.object().map().mem_usage(),
            _ => 0,
        };
        let keep = self.account(bytes)?;
        let fd = self.session.daemon.files.open(file, Some(keep))?;
        self.give(&fd)
    }

    fn pin(&self, at: PathAt<'_>, object: Pinned) -> Result<(), Errno> {
        let trimmed = at.path.iter().rposition(|&byte| byte != b'/');
        let wants_dir = at.path.ends_with(b"/");
        let Some(end) = trimmed else {
            return Err(if at.path.is_empty() {
                Errno::ENOENT
            } else {
                Errno::EEXIST
            });
        };
        let (folder, name) = split(&at.path[..=end]);
        if matches!(name, b"." | b"..") {
            return Err(Errno::EEXIST);
        }
        let parent = self.open_path(
            PathAt {
                dir: at.dir,
                path: folder,
            },
            OFlags::DIRECTORY,
        )?;
        if fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::EEXIST);
        }
        if wants_dir {
            return Err(Errno::ENOENT);
        }
        if !self.is_in_pins(&parent) || name.contains(&b'.') {
            return Err(Errno::EPERM);
        }
        self.session.daemon.pins.pin(parent.as_fd(), name, object)
    }

    fn get(&self, at: PathAt<'_>) -> Result<Pinned, Errno> {
        let file = self.open_path(at, OFlags::empty())?;
        let id = ring3_syscall_shim::FileId::of(&file)?;
        self.session.daemon.pins.get(id).ok_or(Errno::EACCES)
    }

    fn task(&self) -> Task {
        guest::task(self.tid)
    }

    fn cancel(&self) -> Cancel {
        let (listener, id) = (Arc::clone(&self.listener), self.id);
        Cancel::when(move || !listener.is_waiting(id))
    }

    fn is_mapped_writable(&self, map: &Map) -> bool {
        self.session.daemon.mappings.is_writable(map)
    }

    fn check_memory(&self, bytes: u64) -> Result<(), Errno> {
        let used = self.session.map_bytes.load(Ordering::Relaxed);
        if used.saturating_add(bytes) > self.session.limits.map_bytes_max {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_at_the_last_name() {
        assert_eq!(split(b"/sys/fs/bpf/m"), (&b"/sys/fs/bpf"[..], &b"m"[..]));
        assert_eq!(split(b"/m"), (&b"/"[..], &b"m"[..]));
        assert_eq!(split(b"m"), (&b"."[..], &b"m"[..]));
    }
}
