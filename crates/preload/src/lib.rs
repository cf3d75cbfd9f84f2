//! bpf(2) inside of this process: [`bpf`] for Rust, `ring3_bpf` for C, and with the feature `interpose` libc's own functions.
//!
//! One system per process, made at the first call. Descriptors are memfds (`ring3_syscall_shim::ObjectFiles`), each told by its inode at every use, so
//! that dup, dup3 over a number, fork and the passing of descriptors need no hook. Pins are in memory and end with the process.
//!
//! Neighbours: `ring3-syscall-shim` knows what bpf(2) means; `ring3-supervisor` serves programs that this cannot reach.

mod host;
#[cfg(feature = "interpose")]
mod interpose;
mod memory;

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_uint},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ring3::tracing::agent::{Agent, default_path};
use ring3_spec::Privilege;
use ring3_syscall_shim::Caller;
use ring3_uapi::Errno;

use crate::{host::Process, memory::OwnMemory};

/// Bytes of attributes that bpf(2) looks at. Source: one page.
const ATTR_BYTES_MAX: usize = 4096;

/// bpf(2) against this process's own objects.
///
/// # Errors
/// As bpf(2).
///
/// # Safety
/// `attr` is readable and writable for `size` bytes, and every address in it that the command uses is 0 or valid for what it reads or writes there.
pub unsafe fn bpf(cmd: u32, attr: *mut u8, size: u32) -> Result<i64, Errno> {
    let size = size as usize;
    if size > ATTR_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    if memory::is_null(attr as u64) && size > 0 {
        return Err(Errno::EFAULT);
    }
    let attr = if size == 0 {
        &mut [][..]
    } else {
        // SAFETY: 1. the caller's promise; 2. nobody else refers to the attributes during the call, as bpf(2) demands too.
        unsafe { std::slice::from_raw_parts_mut(attr, size) }
    };
    let process = Process::get()?;
    process
        .shim
        .bpf(&process.caller, cmd, attr, &mut OwnMemory::new())
}

/// The caller that this process is.
fn caller() -> Caller {
    Caller::with_host(Privilege::FULL, Box::new(host::OwnHost))
}

/// bpf(2) for C, see `include/ring3.h`.
///
/// # Safety
/// As [`bpf`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring3_bpf(cmd: c_int, attr: *mut u8, size: c_uint) -> c_int {
    // SAFETY: 1. the caller's promise.
    match unsafe { bpf(cmd as u32, attr, size) } {
        Ok(value) => value as c_int,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

fn set_errno(errno: Errno) {
    // SAFETY: 1. libc gives this thread's errno.
    unsafe { *libc::__errno_location() = errno.raw() };
}

/// Lets others of this user trace this process, see `include/ring3.h`.
///
/// # Safety
/// `path` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring3_trace_listen(path: *const c_char) -> c_int {
    let path = if path.is_null() {
        default_path(std::process::id())
    } else {
        // SAFETY: 1. the caller's promise.
        let path = unsafe { CStr::from_ptr(path) };
        PathBuf::from(OsStr::from_bytes(path.to_bytes()))
    };
    match listen(&path) {
        Ok(()) => 0,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

fn listen(path: &Path) -> Result<(), Errno> {
    static AGENT: Mutex<Option<Agent>> = Mutex::new(None);
    let mut agent = AGENT.lock().unwrap_or_else(PoisonError::into_inner);
    if agent.is_some() {
        return Err(Errno::EALREADY);
    }
    let process = Process::get()?;
    let started = Agent::start(process.shim.tracing(), path).map_err(|error| {
        error
            .raw_os_error()
            .map_or(Errno::EADDRINUSE, Errno::from_raw)
    })?;
    *agent = Some(started);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(cmd: u32, fields: &[(usize, u64)], size: u32) -> Result<i64, Errno> {
        let mut attr = [0u8; 168];
        for &(at, value) in fields {
            let bytes = value.to_ne_bytes();
            attr[at..at + 8].copy_from_slice(&bytes);
        }
        // SAFETY: the attributes are ours, addresses in them are of live locals.
        unsafe { bpf(cmd, attr.as_mut_ptr(), size) }
    }

    #[test]
    fn a_map_is_used_through_its_memfd_and_goes_with_it() {
        let fd = call(0, &[(0, 1 | 4 << 32), (8, 8 | 16 << 32)], 72).unwrap();
        let (key, mut value) = (7u32, 42u64);
        let key_at = (&raw const key).expose_provenance() as u64;
        let value_at = (&raw mut value).expose_provenance() as u64;
        let elem = [(0, fd as u64), (8, key_at), (16, value_at)];
        assert_eq!(call(2, &elem, 32), Ok(0));
        value = 0;
        assert_eq!(call(1, &elem, 32), Ok(0));
        assert_eq!(value, 42);
        assert_eq!(
            call(1, &[(0, fd as u64), (16, value_at)], 32),
            Err(Errno::EFAULT)
        );
        // SAFETY: plain numbers on a descriptor of ours.
        let copy = unsafe { libc::dup(fd as i32) };
        // SAFETY: as above.
        unsafe { libc::close(fd as i32) };
        assert_eq!(call(1, &elem, 32), Err(Errno::EBADF));
        let elem = [(0, copy as u64), (8, key_at), (16, value_at)];
        assert_eq!(call(1, &elem, 32), Ok(0));
        let mut first = [0u8; 8];
        // SAFETY: the attributes are ours.
        assert_eq!(unsafe { bpf(12, first.as_mut_ptr(), 8) }, Ok(0));
        // SAFETY: plain numbers on a descriptor of ours.
        unsafe { libc::close(copy) };
        Process::get().unwrap().files.sweep();
        let mut first = [0u8; 8];
        // SAFETY: the attributes are ours.
        let next = unsafe { bpf(12, first.as_mut_ptr(), 8) };
        assert_eq!(next, Err(Errno::ENOENT));
    }

    #[test]
    fn c_callers_get_errno() {
        // SAFETY: no command.
        assert_eq!(unsafe { ring3_bpf(9999, std::ptr::null_mut(), 0) }, -1);
        // SAFETY: this thread's errno.
        assert_eq!(unsafe { *libc::__errno_location() }, libc::EINVAL);
    }
}
