//! The calling thread as the kernel names it: ids, owner, name. Ids are kept per thread, so that asking costs two loads; a fork forgets them.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Errno, check};

/// Forks so far in this process's ancestry since the handler stands; kept ids of another count are stale.
static FORKS: AtomicU32 = AtomicU32::new(1);

#[derive(Clone, Copy)]
struct Kept {
    forks: u32,
    tid: u32,
    pid: u32,
}

thread_local! {
    static KEPT: Cell<Kept> = const { Cell::new(Kept { forks: 0, tid: 0, pid: 0 }) };
}

extern "C" fn forget() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[cold]
fn ask() -> Kept {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: 1. the handler only adds to an atomic, which is allowed after a fork of a process with threads.
        unsafe { libc::pthread_atfork(None, None, Some(forget)) };
    });
    let (tid, pid) = ids_now();
    let kept = Kept {
        forks: FORKS.load(Ordering::Relaxed),
        tid,
        pid,
    };
    KEPT.set(kept);
    kept
}

/// As [`ids`], asked anew; may be called between fork(2) and its return in the child.
pub fn ids_now() -> (u32, u32) {
    // SAFETY: 1. neither call takes an argument or can fail.
    unsafe { (libc::gettid() as u32, libc::getpid() as u32) }
}

/// The ids of this thread and of its process, as the kernel's `pid` and `tgid`.
#[inline]
pub fn ids() -> (u32, u32) {
    let mut kept = KEPT.get();
    if kept.forks != FORKS.load(Ordering::Relaxed) {
        kept = ask();
    }
    (kept.tid, kept.pid)
}

/// Real user and group id of this process.
pub fn owner() -> (u32, u32) {
    // SAFETY: 1. neither call takes an argument or can fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// The name of this thread, zero-padded, at most 15 bytes.
pub fn comm() -> [u8; 16] {
    let mut comm = [0u8; 16];
    // SAFETY: 1. PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, comm.as_mut_ptr()) };
    comm
}

/// Sends a signal to this process; 0 only asks.
///
/// # Errors
/// `EINVAL`: no such signal.
pub fn signal_process(signal: u32) -> Result<(), Errno> {
    // SAFETY: 1. plain numbers.
    check(unsafe { libc::kill(libc::getpid(), signal as i32) }.into()).map(drop)
}

/// Sends a signal to this thread; 0 only asks.
///
/// # Errors
/// `EINVAL`: no such signal.
pub fn signal_thread(signal: u32) -> Result<(), Errno> {
    // SAFETY: 1. plain numbers.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            libc::gettid(),
            signal as i32,
        )
    };
    check(sent).map(drop)
}

/// Writes to memory of this process that may not be there.
///
/// # Errors
/// `EFAULT`: a byte cannot be written; bytes before it may have been.
pub fn write_own_memory(address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(address as usize),
        iov_len: bytes.len(),
    };
    // SAFETY: 1. the local part is a live slice, which is only read; 2. the kernel checks the remote part.
    let written = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    if check(written as i64)? as usize == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_ids_of_their_own_and_names() {
        let (tid, pid) = ids();
        assert_eq!(pid, std::process::id());
        let other = std::thread::Builder::new()
            .name("named-thread-of-18".to_owned())
            .spawn(|| (ids(), ids(), comm()))
            .unwrap();
        let (first, again, comm) = other.join().unwrap();
        assert_eq!(first, again);
        assert_eq!(first.1, pid);
        assert_ne!(first.0, tid);
        assert_eq!(&comm, b"named-thread-of\0");
    }

    #[test]
    fn a_forked_child_asks_again() {
        let before = ids();
        // SAFETY: 1. the child calls async-signal-safe functions only and leaves with _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let (tid, pid) = ids();
            // SAFETY: 1. as above.
            unsafe { libc::_exit(i32::from(tid == before.0 || pid == before.1)) };
        }
        let mut status = -1;
        // SAFETY: 1. the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(ids(), before);
    }
}
