//! The raw bpf(2) call of the host, for oracles and for loading what must run in a kernel.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::Errno;

/// Calls bpf(2) with `attr` as its argument and returns the call's result.
///
/// Addresses inside `attr` are the caller's business, as with every system call that takes them: the kernel checks that
/// they are mapped, not whose they are.
///
/// # Errors
/// The errno of the call; `EPERM` where bpf(2) is not permitted.
///
/// # Safety
/// Every address in `attr` that the command makes the kernel write through is valid for those writes.
pub unsafe fn bpf(command: u32, attr: &mut [u8]) -> Result<i64, Errno> {
    // SAFETY: 1. `attr` is valid for its length in both directions; 2. the addresses in it are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    crate::check(result)
}

/// Owns a descriptor that [`bpf`] returned.
///
/// # Safety
/// `fd` was returned by a command that creates a descriptor, and nobody else owns it.
pub unsafe fn own_fd(fd: i64) -> OwnedFd {
    // SAFETY: 1. the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
