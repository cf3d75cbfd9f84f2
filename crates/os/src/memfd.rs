//! Memfds: memory that several mappings, and other processes, can share.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Errno;

/// What a memfd refuses from its creation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seals {
    /// Nothing.
    None,
    /// To change its size, and to be sealed further.
    Size,
    /// To change its size; more seals may follow.
    SizeOpen,
}

/// Anonymous memory with a descriptor.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len_bytes: usize,
}

impl Memfd {
    /// Zeroed memory of `len_bytes`; `name` shows in `/proc/PID/maps`.
    ///
    /// # Errors
    /// `EINVAL`: the name has a NUL byte or more than 249 bytes. `EMFILE`, `ENOMEM`, `EFBIG`: out of resources.
    pub fn create(name: &str, len_bytes: usize, seals: Seals) -> Result<Self, Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        // SAFETY: 1. the name is NUL-terminated and outlives the call.
        let fd = unsafe {
            libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        };
        let fd = crate::check(fd.into())? as i32;
        // SAFETY: 1. the call above returned this descriptor to us alone.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let memfd = Memfd {
            fd: owned,
            len_bytes,
        };
        let len = libc::off_t::try_from(len_bytes).map_err(|_| Errno::EFBIG)?;
        // SAFETY: 1. plain numbers on a descriptor that we own.
        crate::check(unsafe { libc::ftruncate(fd, len) }.into())?;
        match seals {
            Seals::None => {}
            Seals::Size => {
                memfd.add_seals(libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?
            }
            Seals::SizeOpen => memfd.add_seals(libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?,
        }
        Ok(memfd)
    }

    fn add_seals(&self, seals: libc::c_int) -> Result<(), Errno> {
        // SAFETY: 1. plain numbers on a descriptor that we own.
        crate::check(unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into())
            .map(drop)
    }

    /// Refuses writable mappings and writes from now on.
    ///
    /// # Errors
    /// `EBUSY`: a writable shared mapping exists. `EPERM`: sealed against sealing.
    pub fn seal_writes(&self) -> Result<(), Errno> {
        self.add_seals(libc::F_SEAL_WRITE)
    }

    /// Refuses new writable mappings and writes from now on; those that exist stay.
    ///
    /// # Errors
    /// `EPERM`: sealed against sealing.
    pub fn seal_future_writes(&self) -> Result<(), Errno> {
        self.add_seals(libc::F_SEAL_FUTURE_WRITE)
    }

    /// Gives pages back to the host: they read as zero until written again, in every mapping.
    ///
    /// # Errors
    /// `EPERM`: sealed against writes.
    pub fn punch_hole(&self, offset_bytes: usize, len_bytes: usize) -> Result<(), Errno> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let offset = libc::off_t::try_from(offset_bytes).map_err(|_| Errno::EINVAL)?;
        let len = libc::off_t::try_from(len_bytes).map_err(|_| Errno::EINVAL)?;
        // SAFETY: 1. plain numbers on a descriptor that we own.
        crate::check(unsafe { libc::fallocate(self.fd.as_raw_fd(), mode, offset, len) }.into())
            .map(drop)
    }

    /// Bytes of memory.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// A second descriptor of the same memory.
    ///
    /// # Errors
    /// `EMFILE`: no descriptor left.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Errno> {
        self.fd
            .try_clone()
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE)))
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_cannot_be_truncated() {
        let memfd = Memfd::create("test", 8192, Seals::Size).unwrap();
        // SAFETY: plain numbers on a descriptor of ours.
        let result = unsafe { libc::ftruncate(memfd.as_fd().as_raw_fd(), 4096) };
        assert_eq!(crate::check(result.into()), Err(Errno::EPERM));
        assert_eq!(memfd.seal_writes(), Err(Errno::EPERM));
    }

    #[test]
    fn names_with_nul_are_refused() {
        assert_eq!(
            Memfd::create("a\0b", 1, Seals::None).unwrap_err(),
            Errno::EINVAL
        );
    }
}
