//! This process as a caller: its descriptors, its pins. Key types: [`Process`], [`OwnHost`].

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::OnceLock,
};

use ring3_bpffs::Pinned;
use ring3_runtime::Task;
use ring3_syscall_shim::{Caller, FileId, Host, ObjectFiles, OpenFile, PathAt, Shim};
use ring3_uapi::Errno;

/// What there is once per process.
pub(crate) struct Process {
    pub(crate) shim: Shim,
    pub(crate) caller: Caller,
    pub(crate) files: ObjectFiles,
}

impl Process {
    /// Made at the first call.
    ///
    /// # Errors
    /// EMFILE: the host has no inotify instance left.
    pub(crate) fn get() -> Result<&'static Process, Errno> {
        static PROCESS: OnceLock<Result<Process, Errno>> = OnceLock::new();
        let process = PROCESS.get_or_init(|| {
            Ok(Process {
                shim: Shim::new(ring3::system()),
                caller: crate::caller(),
                files: ObjectFiles::new()?,
            })
        });
        process.as_ref().map_err(|errno| *errno)
    }

    /// What a descriptor names; `None` for files that are no objects.
    ///
    /// # Errors
    /// EBADF: not open.
    pub(crate) fn object(&self, fd: i32) -> Result<Option<OpenFile>, Errno> {
        if fd < 0 {
            return Err(Errno::EBADF);
        }
        // SAFETY: 1. the number is only asked about; one that is not open gives EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        Ok(self.files.find(FileId::of(borrowed.as_fd())?))
    }
}

/// See [`Process`].
pub(crate) struct OwnHost;

/// The path as text: no name in the tree is anything else.
fn text<'a>(at: PathAt<'a>) -> Result<&'a str, Errno> {
    if at.dir.is_some() {
        return Err(Errno::ENOTDIR);
    }
    std::str::from_utf8(at.path).map_err(|_| Errno::ENOENT)
}

impl Host for OwnHost {
    fn file(&self, fd: i32) -> Result<OpenFile, Errno> {
        Ok(Process::get()?.object(fd)?.unwrap_or(OpenFile::Other))
    }

    fn open(&self, file: OpenFile) -> Result<i32, Errno> {
        let files = &Process::get()?.files;
        files.release_closed();
        let fd = files.open(file, None)?;
        debug_assert!(fd.as_raw_fd() >= 0);
        Ok(fd.into_raw_fd())
    }

    fn close(&self, fd: i32) -> Result<(), Errno> {
        // Files of the process itself are none of a program's.
        Process::get()?.object(fd)?.ok_or(Errno::EBADF)?;
        // SAFETY: 1. an object's descriptor, which the process owns and has lent to the program that closes it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(())
    }

    fn pin(&self, at: PathAt<'_>, object: Pinned) -> Result<(), Errno> {
        Process::get()?.shim.bpffs().pin(text(at)?, object)
    }

    fn get(&self, at: PathAt<'_>) -> Result<Pinned, Errno> {
        Process::get()?.shim.bpffs().get(text(at)?)
    }

    fn task(&self) -> Task {
        Task::host()
    }

    fn check_memory(&self, _bytes: u64) -> Result<(), Errno> {
        Ok(())
    }
}
