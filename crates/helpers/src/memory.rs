//! Reads of memory that nothing proves valid: `bpf_probe_read*`, `bpf_copy_from_user`. Faults are repaired by `ring3_runtime::extable`.
//!
//! Kernel and user memory are both this process here, so the `_kernel` and `_user` forms do the same; but user memory of a syscall program's run is
//! that of who asked for it ([`SyscallRun`]).

use ring3_runtime::{extable, with_run_extension};
use ring3_uapi::Errno;

use crate::bind::{bytes_mut, implement};
use crate::syscall::SyscallRun;

/// Fills `dst` from any address; zeroes on a fault.
///
/// # Errors
/// EFAULT: some byte cannot be read.
pub(crate) fn read(dst: &mut [u8], src: u64) -> Result<(), Errno> {
    // SAFETY: 1. the slice is writable for its length.
    if unsafe { extable::probe_copy(dst.as_mut_ptr(), src, dst.len()) } {
        return Ok(());
    }
    dst.fill(0);
    Err(Errno::EFAULT)
}

/// As [`read`], from user memory.
///
/// # Errors
/// As [`read`].
fn read_user(dst: &mut [u8], src: u64) -> Result<(), Errno> {
    with_run_extension(|run: Option<&SyscallRun>| match run {
        Some(run) => run.0.read_user(src, dst).inspect_err(|_| dst.fill(0)),
        None => read(dst, src),
    })
}

/// Copies a string with its NUL, cut to fit; the bytes written, 0 if there is no room at all. Bytes behind the NUL stay; on a fault all
/// are zeroed.
///
/// # Errors
/// EFAULT: a byte before the NUL cannot be read.
pub(crate) fn read_str(dst: &mut [u8], src: u64) -> Result<u64, Errno> {
    read_str_by(read, dst, src)
}

/// # Errors
/// As [`read_str`].
fn read_str_by(
    read: fn(&mut [u8], u64) -> Result<(), Errno>,
    dst: &mut [u8],
    src: u64,
) -> Result<u64, Errno> {
    /// A piece lies in one page: memory behind the NUL is touched only where the NUL's page is.
    const PIECE_BYTES: usize = 64;
    let mut done = 0;
    while done < dst.len() {
        let at = src.wrapping_add(done as u64);
        let piece_bytes = PIECE_BYTES - (at as usize % PIECE_BYTES);
        let mut piece = [0; PIECE_BYTES];
        if let Err(errno) = read(&mut piece[..piece_bytes], at) {
            dst.fill(0);
            return Err(errno);
        }
        let len = piece_bytes.min(dst.len() - done);
        let piece = &piece[..len];
        if let Some(nul) = piece.iter().position(|&byte| byte == 0) {
            dst[done..=done + nul].copy_from_slice(&piece[..=nul]);
            return Ok((done + nul + 1) as u64);
        }
        dst[done..done + len].copy_from_slice(piece);
        done += len;
    }
    if let Some(last) = dst.last_mut() {
        *last = 0;
    }
    Ok(dst.len() as u64)
}

/// # Safety
/// `dst` is ARG_PTR_TO_UNINIT_MEM and `size` its size.
unsafe fn read_to(dst: *mut u8, size: u32, src: u64) -> Result<(), Errno> {
    // SAFETY: 1. the caller's promise.
    read(unsafe { bytes_mut(dst, size) }, src)
}

/// # Safety
/// As [`read_to`].
unsafe fn read_str_to(dst: *mut u8, size: u32, src: u64) -> Result<u64, Errno> {
    // SAFETY: 1. the caller's promise.
    read_str(unsafe { bytes_mut(dst, size) }, src)
}

/// # Safety
/// As [`read_to`].
unsafe fn read_user_to(dst: *mut u8, size: u32, src: u64) -> Result<(), Errno> {
    // SAFETY: 1. the caller's promise.
    read_user(unsafe { bytes_mut(dst, size) }, src)
}

/// # Safety
/// As [`read_to`].
unsafe fn read_user_str_to(dst: *mut u8, size: u32, src: u64) -> Result<u64, Errno> {
    // SAFETY: 1. the caller's promise.
    read_str_by(read_user, unsafe { bytes_mut(dst, size) }, src)
}

/// The errno of a fault where the kernel expects one of its own addresses: user addresses and non-canonical ones are out of range.
pub(crate) fn kernel_errno(src: u64) -> Errno {
    const UPPER_HALF: u64 = u64::MAX << 47;
    if src >= UPPER_HALF {
        Errno::EFAULT
    } else {
        Errno::ERANGE
    }
}

/// The errno where the kernel tells the two by the address.
fn compat_errno(src: u64) -> Errno {
    const LOWER_HALF: u64 = 1 << 47;
    if src < LOWER_HALF {
        Errno::EFAULT
    } else {
        kernel_errno(src)
    }
}

macro_rules! reads {
    ($($row:ident $read:ident $errno:expr;)*) => {
        implement! { ROWS:
            $($row(dst: *mut u8, size: u32, src: u64) {
                // SAFETY: 1. the first two arguments are memory to fill and its size, by the prototype.
                let result = unsafe { $read(dst, size, src) };
                let errno: fn(u64) -> Errno = $errno;
                result.map_err(|_| errno(src))
            })*
        }
    };
}

// DIVERGES: reading no bytes succeeds at any address; the kernel form answers -ERANGE for a user address even then.
reads! {
    ProbeRead read_to compat_errno;
    ProbeReadStr read_str_to compat_errno;
    ProbeReadKernel read_to kernel_errno;
    ProbeReadKernelStr read_str_to kernel_errno;
    ProbeReadUser read_user_to |_| Errno::EFAULT;
    ProbeReadUserStr read_user_str_to |_| Errno::EFAULT;
    CopyFromUser read_user_to |_| Errno::EFAULT;
}

implement! { TASK_ROWS:
    /// Every task that is modelled lives in this process.
    CopyFromUserTask(dst: *mut u8, size: u32, src: u64, task: u64, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let dst = unsafe { bytes_mut(dst, size) };
        if flags != 0 || task == 0 {
            Err(Errno::EINVAL)
        } else {
            read(dst, src)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_os::map::{Prot, Region};

    #[test]
    fn faulting_reads_zero_the_buffer() {
        let mut buffer = [1; 8];
        for bad in [0, 8, u64::MAX - 3, 0xffff_8000_0000_0000] {
            buffer.fill(1);
            assert_eq!(read(&mut buffer, bad), Err(Errno::EFAULT), "{bad:#x}");
            assert_eq!(buffer, [0; 8]);
            buffer.fill(1);
            assert_eq!(read_str(&mut buffer, bad), Err(Errno::EFAULT), "{bad:#x}");
            assert_eq!(buffer, [0; 8]);
        }
        let good = [9u8; 8];
        assert_eq!(
            read(&mut buffer, good.as_ptr().expose_provenance() as u64),
            Ok(())
        );
        assert_eq!(buffer, good);
        assert_eq!(read(&mut [], 0), Ok(()));
        assert_eq!(read_str(&mut [], 0), Ok(0));
    }

    #[test]
    fn the_errno_of_a_fault_depends_on_address_and_form() {
        use ring3_uapi::FuncId;
        let call = |id, src: u64| {
            let mut buffer = [1u8; 8];
            let dst = buffer.as_mut_ptr().expose_provenance() as u64;
            // SAFETY: eight bytes to fill.
            let ret = unsafe { crate::find(id).unwrap()(dst, 8, src, 0, 0) } as i64;
            assert_eq!(buffer, [0; 8], "{id}");
            ret
        };
        let [efault, erange] = [Errno::EFAULT.negated(), Errno::ERANGE.negated()];
        let upper = 0xffff_8000_0000_0000;
        for (id, at_8, at_upper) in [
            (FuncId::ProbeRead, efault, efault),
            (FuncId::ProbeReadStr, efault, efault),
            (FuncId::ProbeReadKernel, erange, efault),
            (FuncId::ProbeReadKernelStr, erange, efault),
            (FuncId::ProbeReadUser, efault, efault),
            (FuncId::ProbeReadUserStr, efault, efault),
            (FuncId::CopyFromUser, efault, efault),
        ] {
            assert_eq!((call(id, 8), call(id, upper)), (at_8, at_upper), "{id}");
        }
    }

    #[test]
    fn strings_end_at_their_nul_their_room_or_a_fault() {
        let page = ring3_os::cpu::page_bytes();
        let region = Region::anonymous(2 * page, Prot::ReadWrite).unwrap();
        region.protect(page, page, Prot::None).unwrap();
        let end = region.as_ptr().wrapping_add(page);
        let put = |text: &[u8]| {
            let start = end.wrapping_sub(text.len());
            // SAFETY: the text fits the first page.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), start, text.len()) };
            start.expose_provenance() as u64
        };
        let mut out = [7; 8];
        assert_eq!(read_str(&mut out, put(b"abc\0")), Ok(4));
        assert_eq!(&out, b"abc\0\x07\x07\x07\x07");
        assert_eq!(read_str(&mut out, put(b"0123456789")), Ok(8));
        assert_eq!(&out, b"0123456\0");
        assert_eq!(read_str(&mut out, put(b"xyz")), Err(Errno::EFAULT));
        assert_eq!(out, [0; 8]);
        let long: Vec<u8> = (0..200).map(|at| b'a' + at % 26).chain([0]).collect();
        let mut out = [0; 300];
        assert_eq!(read_str(&mut out, put(&long)), Ok(201));
        assert_eq!(out[..201], long[..]);
    }
}
