//! fork(2) and text: a child gets text of its own.
//!
//! Memory that is mapped twice (writable here, executable there) is shared memory, which fork(2) leaves shared: what parent or child writes to it
//! both execute. So before a fork each such memory is copied, and the child maps the copies over its views before fork returns there.
//!
//! A child made without the C library's handlers (the bare system call), or when there was no memory for copies, finds out by a page that such
//! a child sees wiped: [`is_text_shared`]. It may run what there is, and must not write.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::Errno;
use crate::map::{Prot, Region};
use crate::memfd::{Memfd, Seals};

/// Memory mapped twice.
#[derive(Debug)]
struct Twin {
    memfd: Memfd,
    write: usize,
    exec: usize,
    len_bytes: usize,
    /// What the child of the fork in progress gets.
    copy: Option<Memfd>,
}

/// The twins; locked from a fork's beginning to its end, so not by a mutex of the library, which only a guard unlocks.
struct Twins {
    is_locked: AtomicBool,
    list: std::cell::UnsafeCell<Vec<Twin>>,
}

// SAFETY: 1. the list is touched only between `lock` and `unlock`.
unsafe impl Sync for Twins {}

static TWINS: Twins = Twins {
    is_locked: AtomicBool::new(false),
    list: std::cell::UnsafeCell::new(Vec::new()),
};
/// A word that reads 0 in a child.
static MARK: AtomicPtr<u64> = AtomicPtr::new(std::ptr::null_mut());

impl Twins {
    fn lock(&self) {
        while self.is_locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// # Safety
    /// The calling thread, or before a fork its parent's, locked it.
    unsafe fn unlock(&self) {
        self.is_locked.store(false, Ordering::Release);
    }

    fn with<R>(&self, body: impl FnOnce(&mut Vec<Twin>) -> R) -> R {
        self.lock();
        // SAFETY: 1. locked; nothing in the closures below panics or locks again.
        unsafe {
            let result = body(&mut *self.list.get());
            self.unlock();
            result
        }
    }
}

/// What else a child does before fork returns there.
static HOOKS: [AtomicPtr<()>; HOOKS_MAX] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; HOOKS_MAX];
const HOOKS_MAX: usize = 4;

/// Lets every child call `hook` before fork returns there.
///
/// # Errors
/// `ENOSPC`: there are four hooks.
///
/// # Safety
/// `hook` takes no lock that another thread of the parent may hold, and does not allocate.
pub unsafe fn in_child(hook: fn()) -> Result<(), Errno> {
    install();
    let put = |place: &AtomicPtr<()>| {
        let empty = std::ptr::null_mut();
        place
            .compare_exchange(empty, hook as *mut (), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    };
    if HOOKS.iter().any(put) {
        Ok(())
    } else {
        Err(Errno::ENOSPC)
    }
}

/// Whether text of this process is also its parent's. Nothing may be written to it then.
#[inline]
pub fn is_text_shared() -> bool {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: 1. a page that lives for ever, or null.
    !mark.is_null() && unsafe { mark.read_volatile() } == 0
}

/// Says that a descriptor's memory is mapped at both addresses, for their whole lengths.
pub(crate) fn register(memfd: Memfd, write: usize, exec: usize, len_bytes: usize) {
    install();
    TWINS.with(|twins| {
        twins.push(Twin {
            memfd,
            write,
            exec,
            len_bytes,
            copy: None,
        })
    });
}

/// The views at this address are no more.
pub(crate) fn forget(write: usize) {
    let gone = TWINS.with(|twins| {
        let at = twins.iter().position(|twin| twin.write == write)?;
        Some(twins.swap_remove(at))
    });
    drop(gone);
}

fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // SAFETY: 1. the handlers are C functions without arguments that live as long as this library.
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        let page_bytes = crate::cpu::page_bytes();
        let Ok(page) = Region::anonymous(page_bytes, Prot::ReadWrite) else {
            return;
        };
        let mark: *mut u64 = page.as_ptr().cast();
        // SAFETY: 1. the page is ours, writable and aligned.
        let advised = unsafe {
            mark.write_volatile(1);
            libc::madvise(mark.cast(), page_bytes, libc::MADV_WIPEONFORK)
        };
        if advised == 0 {
            std::mem::forget(page);
            MARK.store(mark, Ordering::Release);
        }
    });
}

extern "C" fn prepare() {
    TWINS.lock();
    // SAFETY: 1. locked until `parent` and `child`.
    let twins = unsafe { &mut *TWINS.list.get() };
    for twin in twins {
        twin.copy = copy_of(twin).ok();
    }
}

extern "C" fn parent() {
    // SAFETY: 1. locked by `prepare` on this thread.
    unsafe {
        for twin in &mut *TWINS.list.get() {
            twin.copy = None;
        }
        TWINS.unlock();
    }
}

extern "C" fn child() {
    let mut is_complete = true;
    // SAFETY: 1. locked by `prepare`, and this is the child's only thread.
    unsafe {
        for twin in &mut *TWINS.list.get() {
            is_complete &= adopt(twin).is_ok();
        }
        TWINS.unlock();
    }
    let mark = MARK.load(Ordering::Acquire);
    if is_complete && !mark.is_null() {
        // SAFETY: 1. a page that lives for ever.
        unsafe { mark.write_volatile(1) };
    }
    for hook in &HOOKS {
        let hook = hook.load(Ordering::SeqCst);
        if !hook.is_null() {
            // SAFETY: 1. only `in_child` stores here, and only values of this type.
            unsafe { std::mem::transmute::<*mut (), fn()>(hook)() };
        }
    }
}

/// A copy of the memory, holes left out.
fn copy_of(twin: &Twin) -> Result<Memfd, Errno> {
    let copy = Memfd::create("ring3-forked", twin.len_bytes, Seals::Size)?;
    let (from, to) = (twin.memfd.as_fd().as_raw_fd(), copy.as_fd().as_raw_fd());
    let mut at = 0;
    loop {
        // SAFETY: 1. plain numbers on a descriptor that we own.
        let data = unsafe { libc::lseek(from, at, libc::SEEK_DATA) };
        if data < 0 {
            // ENXIO: no more.
            return Ok(copy);
        }
        // SAFETY: as above.
        let end = unsafe { libc::lseek(from, data, libc::SEEK_HOLE) };
        let end = crate::check(end).map(|end| end as libc::off_t)?;
        at = data;
        while at < end {
            let bytes: *const u8 = std::ptr::with_exposed_provenance(twin.write + at as usize);
            // SAFETY: 1. the range is inside the file, whose every byte is mapped from `write` on.
            let written = unsafe { libc::pwrite(to, bytes.cast(), (end - at) as usize, at) };
            at += crate::check(written as libc::c_long)? as libc::off_t;
        }
    }
}

/// Maps the copy over both views.
fn adopt(twin: &mut Twin) -> Result<(), Errno> {
    let copy = twin.copy.take().ok_or(Errno::ENOMEM)?;
    let views = [(twin.exec, Prot::ReadExec), (twin.write, Prot::ReadWrite)];
    for (address, prot) in views {
        // SAFETY: 1. the views are mappings of the twin's memory, whose bytes the copy holds.
        unsafe { crate::map::map_over(address, copy.as_fd(), twin.len_bytes, prot)? };
    }
    twin.memfd = copy;
    Ok(())
}
