//! Copies of memory that nothing proves valid, into memory of the program and into dynptrs: `bpf_copy_from_user_str`, `bpf_probe_read_*_dynptr`.

use ring3_uapi::Errno;

use super::{OrErrno, kfuncs, zero_or};
use crate::bind::bytes_mut;
use crate::dynptr::DynptrKern;
use crate::memory;

/// `BPF_F_PAD_ZEROS`
const PAD_ZEROS: u64 = 1;

/// Runs a copy that zeroes what it was to fill on a fault; these functions leave it as it was.
///
/// # Errors
/// What the copy answers.
fn keep_on_fault(
    dst: &mut [u8],
    copy: impl FnOnce(&mut [u8]) -> Result<u64, Errno>,
) -> Result<u64, Errno> {
    let mut bytes = vec![0; dst.len()];
    let count = copy(&mut bytes)?;
    let copied = ..count as usize;
    dst[copied].copy_from_slice(&bytes[copied]);
    Ok(count)
}

/// A user's string with its NUL; the rest of `dst` is zeroed if asked for.
///
/// # Errors
/// EINVAL: flags. EFAULT: the string cannot be read.
fn user_str(dst: &mut [u8], src: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !PAD_ZEROS != 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = keep_on_fault(dst, |bytes| memory::read_str(bytes, src))?;
    if flags & PAD_ZEROS != 0 {
        dst[bytes as usize..].fill(0);
    }
    Ok(bytes)
}

/// The errno of a fault at an address.
type FaultErrno = fn(u64) -> Errno;

fn user_errno(_address: u64) -> Errno {
    Errno::EFAULT
}

/// Bytes into a dynptr.
///
/// # Errors
/// EINVAL: read-only. E2BIG: beyond its end. What `errno` says: the bytes cannot be read.
fn read(
    dst: &DynptrKern,
    offset: u32,
    size: u32,
    src: u64,
    errno: FaultErrno,
) -> Result<(), Errno> {
    dst.fill(offset, size, |bytes| {
        let read = |bytes: &mut [u8]| memory::read(bytes, src).map(|()| bytes.len() as u64);
        keep_on_fault(bytes, read).map(drop).map_err(|_| errno(src))
    })
}

/// A string with its NUL into a dynptr, cut to `size`; the bytes written.
///
/// # Errors
/// As [`read`].
fn read_str(
    dst: &DynptrKern,
    offset: u32,
    size: u32,
    src: u64,
    errno: FaultErrno,
) -> Result<u64, Errno> {
    let mut written = 0;
    dst.fill(offset, size, |bytes| {
        let read = |bytes: &mut [u8]| memory::read_str(bytes, src);
        written = keep_on_fault(bytes, read).map_err(|_| errno(src))?;
        Ok(())
    })?;
    Ok(written)
}

/// # Safety
/// `ptr` is a dynptr that the verifier checked.
unsafe fn dynptr<'a>(ptr: *const DynptrKern) -> &'a DynptrKern {
    // SAFETY: 1. the caller's promise; 2. the program is suspended in the call.
    unsafe { &*ptr }
}

kfuncs! { ROWS(Plain):
    bpf_copy_from_user_str(dst: *mut u8, size: u32, src: u64, flags: u64) {
        // SAFETY: 1. memory and its size, by the prototype.
        OrErrno(user_str(unsafe { bytes_mut(dst, size) }, src, flags))
    }
    /// Every task that is modelled lives in this process.
    bpf_copy_from_user_task_str(dst: *mut u8, size: u32, src: u64, _task: u64, flags: u64) {
        // SAFETY: as above.
        OrErrno(user_str(unsafe { bytes_mut(dst, size) }, src, flags))
    }
    bpf_probe_read_kernel_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64) {
        // SAFETY: 1. a dynptr, by the prototype.
        zero_or(read(unsafe { dynptr(ptr) }, offset, size, src, memory::kernel_errno))
    }
    bpf_probe_read_kernel_str_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64) {
        // SAFETY: as above.
        OrErrno(read_str(unsafe { dynptr(ptr) }, offset, size, src, memory::kernel_errno))
    }
    bpf_probe_read_user_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64) {
        // SAFETY: as above.
        zero_or(read(unsafe { dynptr(ptr) }, offset, size, src, user_errno))
    }
    bpf_probe_read_user_str_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64) {
        // SAFETY: as above.
        OrErrno(read_str(unsafe { dynptr(ptr) }, offset, size, src, user_errno))
    }
    bpf_copy_from_user_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64) {
        // SAFETY: as above.
        zero_or(read(unsafe { dynptr(ptr) }, offset, size, src, user_errno))
    }
    bpf_copy_from_user_str_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64) {
        // SAFETY: as above.
        OrErrno(read_str(unsafe { dynptr(ptr) }, offset, size, src, user_errno))
    }
    bpf_copy_from_user_task_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64, _task: u64) {
        // SAFETY: as above.
        zero_or(read(unsafe { dynptr(ptr) }, offset, size, src, user_errno))
    }
    bpf_copy_from_user_task_str_dynptr(ptr: *const DynptrKern, offset: u32, size: u32, src: u64, _task: u64) {
        // SAFETY: as above.
        OrErrno(read_str(unsafe { dynptr(ptr) }, offset, size, src, user_errno))
    }
}
