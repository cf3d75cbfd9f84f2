//! Memory of other processes, and this process's namespaces.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Errno;

/// A part of another process's memory, as process_vm_readv(2) wants it.
fn remote(address: u64, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: len,
    }
}

/// Copies from the memory of a process; how many bytes could be read.
///
/// # Errors
/// `EFAULT`: none. `ESRCH`: no such thread. `EPERM`: it may not be looked at.
pub fn read_memory(tid: u32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = remote(address, into.len());
    // SAFETY: 1. the local part is ours and writable; 2. the remote part is judged by the kernel, in the other process.
    let read = unsafe {
        libc::process_vm_readv(
            tid as libc::pid_t,
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    };
    crate::check(read as libc::c_long).map(|read| read as usize)
}

/// Copies into the memory of a process; how many bytes could be written.
///
/// # Errors
/// As [`read_memory`].
pub fn write_memory(tid: u32, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = remote(address, bytes.len());
    // SAFETY: 1. the local part is ours and only read; 2. the remote part is judged by the kernel, in the other process.
    let written = unsafe {
        libc::process_vm_writev(
            tid as libc::pid_t,
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    };
    crate::check(written as libc::c_long).map(|written| written as usize)
}

/// A descriptor of a process or, with `PIDFD_THREAD`, of a thread.
///
/// # Errors
/// `ESRCH`: there is none. `EINVAL`: a thread that is no leader, before Linux 6.9.
pub fn pidfd_of_thread(tid: u32) -> Result<OwnedFd, Errno> {
    // Source: linux/pidfd.h, the value of O_EXCL.
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    let open = |flags: libc::c_int| {
        // SAFETY: 1. plain numbers.
        crate::check(unsafe { libc::syscall(libc::SYS_pidfd_open, tid as libc::pid_t, flags) })
    };
    let fd = open(PIDFD_THREAD).or_else(|_| open(0))?;
    // SAFETY: 1. the call above returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A copy of a descriptor of another process.
///
/// # Errors
/// `EBADF`: it is not open there. `EPERM`: the process may not be looked at.
pub fn fd_of(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: 1. plain numbers.
    let copy =
        crate::check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0u32) })?;
    // SAFETY: 1. the call above returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as i32) })
}

/// Which namespaces a process leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Mounts only, for those who may.
    Mounts,
    /// Users and mounts, for everybody else.
    UsersAndMounts,
}

/// Leaves namespaces. The process must have one thread.
///
/// # Errors
/// `EPERM`, `ENOSPC`: the host does not permit it. `EINVAL`: more than one thread.
pub fn leave_namespaces(leave: Leave) -> Result<(), Errno> {
    let flags = match leave {
        Leave::Mounts => libc::CLONE_NEWNS,
        Leave::UsersAndMounts => libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
    };
    // SAFETY: 1. plain numbers; memory and descriptors stay as they are.
    crate::check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Keeps mounts of this namespace from spreading to others.
///
/// # Errors
/// As mount(2).
pub fn keep_mounts_private() -> Result<(), Errno> {
    // SAFETY: 1. the strings are NUL-terminated; the others are not looked at.
    crate::check(
        unsafe {
            libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        }
        .into(),
    )
    .map(drop)
}

/// Shows a folder or file at a second place.
///
/// # Errors
/// As mount(2).
pub fn bind_mount(from: &CStr, to: &CStr) -> Result<(), Errno> {
    // SAFETY: 1. both strings are NUL-terminated; the others are not looked at.
    crate::check(
        unsafe {
            libc::mount(
                from.as_ptr(),
                to.as_ptr(),
                std::ptr::null(),
                libc::MS_BIND,
                std::ptr::null(),
            )
        }
        .into(),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_written_by_address() {
        let mut bytes = [1u8, 2, 3];
        let tid = crate::task::ids().0;
        let mut read = [0; 3];
        let address = bytes.as_mut_ptr().expose_provenance() as u64;
        assert_eq!(read_memory(tid, address, &mut read), Ok(3));
        assert_eq!(read, [1, 2, 3]);
        assert_eq!(write_memory(tid, address, &[9]), Ok(1));
        assert_eq!(bytes, [9, 2, 3]);
        assert_eq!(read_memory(tid, 8, &mut read), Err(Errno::EFAULT));
    }

    #[test]
    fn a_descriptor_is_copied_from_a_process() {
        let pidfd = pidfd_of_thread(std::process::id()).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&pidfd);
        assert!(fd_of(fd, fd.as_raw_fd()).is_ok());
        assert_eq!(fd_of(fd, -1).unwrap_err(), Errno::EBADF);
    }
}
