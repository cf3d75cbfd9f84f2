//! The raw bpf(2) call of the host, for oracles that ask the running kernel.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::Errno;
use crate::cpu::page_bytes;
use crate::map::{Prot, Region};

/// Memory that a command reads or writes through a pointer in its attributes.
#[derive(Debug)]
pub struct Buffer<'a> {
    /// Where the pointer lies in the attributes, in bytes.
    pub attr_offset: usize,
    /// What it points to; holds the kernel's answer afterwards.
    pub bytes: &'a mut [u8],
}

/// Calls bpf(2).
///
/// Each buffer is copied to memory of its own that ends at an inaccessible page, so that a command which reads or writes more
/// than was given fails with `EFAULT` and touches nothing of ours. Pointer fields without a buffer are to be 0.
///
/// # Errors
/// The errno of the call; `EPERM` where bpf(2) is not permitted; `EINVAL` for a buffer outside of the attributes.
pub fn call(command: u32, attr: &mut [u8], buffers: &mut [Buffer<'_>]) -> Result<i64, Errno> {
    let mut shelters = Vec::with_capacity(buffers.len());
    for buffer in buffers.iter() {
        let shelter = Shelter::of(buffer.bytes)?;
        let field = attr
            .get_mut(buffer.attr_offset..buffer.attr_offset.saturating_add(8))
            .ok_or(Errno::EINVAL)?;
        field.copy_from_slice(&shelter.address().to_ne_bytes());
        shelters.push(shelter);
    }
    // SAFETY: 1. `attr` is valid for its length in both directions; 2. its pointers lead to shelters, which nobody else uses.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    let result = crate::check(result);
    for (shelter, buffer) in shelters.iter().zip(buffers.iter_mut()) {
        shelter.copy_out(buffer.bytes);
    }
    result
}

/// Calls bpf(2) with a command that makes a descriptor, and owns it.
///
/// # Errors
/// As [`call`].
pub fn open(command: u32, attr: &mut [u8], buffers: &mut [Buffer<'_>]) -> Result<OwnedFd, Errno> {
    let fd = call(command, attr, buffers)?;
    if fd < 3 {
        return Err(Errno::EBADF);
    }
    // SAFETY: 1. the commands that callers use here return a fresh descriptor, ours alone; 2. one that does not returns 0, refused above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    Ok(fd)
}

/// Bytes right before an inaccessible page.
struct Shelter {
    region: Region,
    start: usize,
}

impl Shelter {
    fn of(bytes: &[u8]) -> Result<Shelter, Errno> {
        let page = page_bytes();
        let room = bytes.len().next_multiple_of(page);
        let mut region = Region::anonymous(room + page, Prot::ReadWrite)?;
        region.overlay_anonymous(room, page, Prot::None)?;
        let start = room - bytes.len();
        // SAFETY: 1. `bytes.len()` bytes from `start` lie before the guard page, in memory of ours.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.as_ptr().add(start), bytes.len())
        };
        Ok(Shelter { region, start })
    }

    fn address(&self) -> u64 {
        self.region.as_ptr() as u64 + self.start as u64
    }

    fn copy_out(&self, bytes: &mut [u8]) {
        // SAFETY: 1. as in `of`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.region.as_ptr().add(self.start),
                bytes.as_mut_ptr(),
                bytes.len(),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_refused() {
        let mut attr = [0; 16];
        let answer = call(9999, &mut attr, &mut []);
        assert!(
            matches!(answer, Err(Errno::EINVAL | Errno::EPERM | Errno::ENOSYS)),
            "{answer:?}"
        );
        let mut byte = [0];
        let outside = Buffer {
            attr_offset: 12,
            bytes: &mut byte,
        };
        assert_eq!(call(9999, &mut attr, &mut [outside]), Err(Errno::EINVAL));
    }
}
