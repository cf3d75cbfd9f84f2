//! Functions of libc that programs reach bpf(2) and its files by: `syscall`, `close`, `statfs`, `statfs64`, `epoll_ctl`.
//!
//! What is not ours goes to the kernel by an instruction, not to libc: its own `syscall` is the one that is replaced. Nothing here is called before
//! the program's first bpf(2), so that a program that makes none pays one comparison.

use std::{
    arch::asm,
    ffi::{CStr, c_char, c_int, c_long},
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use ring3_maps::{RingBuf, UserRingBuf};
use ring3_syscall_shim::OpenFile;
use ring3_uapi::Errno;

use crate::{host::Process, set_errno};

const BPF_FS_MAGIC: c_long = 0xcafe_4a11;

/// Whether the program has called bpf(2).
static IS_USED: AtomicBool = AtomicBool::new(false);

/// The kernel's answer: a value, or a negated errno.
///
/// # Safety
/// As the system call.
unsafe fn raw(number: c_long, args: [c_long; 6]) -> c_long {
    let result: c_long;
    // SAFETY: 1. the caller's promise; 2. the kernel changes rax, rcx and r11 only, and memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// libc's convention: -1 and errno.
fn finish(result: c_long) -> c_long {
    if (-4095..0).contains(&result) {
        set_errno(Errno::from_raw(-result as i32));
        return -1;
    }
    result
}

/// syscall(2).
///
/// # Safety
/// As syscall(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_bpf {
        IS_USED.store(true, Ordering::Relaxed);
        let attr = std::ptr::with_exposed_provenance_mut(b as usize);
        // SAFETY: 1. what bpf(2) demands of its caller.
        return match unsafe { crate::bpf(a as u32, attr, c as u32) } {
            Ok(value) => value,
            Err(errno) => {
                set_errno(errno);
                -1
            }
        };
    }
    // SAFETY: 1. the caller's promise.
    finish(unsafe { raw(number, [a, b, c, d, e, f]) })
}

/// close(2): the last close of an object lets it go at once.
///
/// # Safety
/// As close(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close(fd: c_int) -> c_int {
    let files = IS_USED
        .load(Ordering::Relaxed)
        .then(|| Process::get().ok())
        .flatten()
        .filter(|process| matches!(process.object(fd), Ok(Some(_))));
    // SAFETY: 1. the caller's promise.
    let result = finish(unsafe { raw(libc::SYS_close, [c_long::from(fd), 0, 0, 0, 0, 0]) });
    if let Some(process) = files {
        process.files.release_closed();
    }
    result as c_int
}

/// # Safety
/// As statfs(2).
unsafe fn statfs_any(path: *const c_char, into: *mut libc::statfs) -> c_int {
    if let Ok(process) = Process::get()
        && !path.is_null()
        && !into.is_null()
    {
        // SAFETY: 1. a NUL-terminated path, as statfs(2) demands.
        let path = unsafe { CStr::from_ptr(path) };
        if path
            .to_str()
            .is_ok_and(|path| process.shim.bpffs().contains(path))
        {
            // SAFETY: 1. a structure of numbers, for which zeros are a value.
            let mut told: libc::statfs = unsafe { std::mem::zeroed() };
            told.f_type = BPF_FS_MAGIC;
            told.f_bsize = 4096;
            told.f_namelen = 255;
            // SAFETY: 1. the caller's structure, as statfs(2) demands.
            unsafe { into.write(told) };
            return 0;
        }
    }
    let args = [
        path.expose_provenance() as c_long,
        into.expose_provenance() as c_long,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: 1. the caller's promise.
    finish(unsafe { raw(libc::SYS_statfs, args) }) as c_int
}

/// statfs(2): the tree of pins is a BPF file system.
///
/// # Safety
/// As statfs(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn statfs(path: *const c_char, into: *mut libc::statfs) -> c_int {
    // SAFETY: 1. the caller's promise.
    unsafe { statfs_any(path, into) }
}

/// The same under its other name; the structures are one on x86-64.
///
/// # Safety
/// As statfs(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn statfs64(path: *const c_char, into: *mut libc::statfs) -> c_int {
    // SAFETY: 1. the caller's promise.
    unsafe { statfs_any(path, into) }
}

/// epoll_ctl(2): the eventfd of a ring stands in for it.
///
/// # Safety
/// As epoll_ctl(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut libc::epoll_event,
) -> c_int {
    let control = |fd: c_int, event: *mut libc::epoll_event| {
        let args = [
            c_long::from(epoll),
            c_long::from(operation),
            c_long::from(fd),
            event.expose_provenance() as c_long,
            0,
            0,
        ];
        // SAFETY: 1. the caller's promise, or an event of ours.
        finish(unsafe { raw(libc::SYS_epoll_ctl, args) }) as c_int
    };
    let object = IS_USED
        .load(Ordering::Relaxed)
        .then(|| Process::get().ok()?.object(fd).ok().flatten())
        .flatten();
    if let Some(OpenFile::Map(file)) = object {
        let map = file.object().map();
        let ring = map.downcast::<RingBuf>();
        let own = ring.map(|ring| ring.event().as_fd()).or_else(|| {
            map.downcast::<UserRingBuf>()
                .map(|ring| ring.event().as_fd())
        });
        if let Some(own) = own {
            if let Some(ring) = ring
                && operation == libc::EPOLL_CTL_ADD
                && !ring.has_data()
            {
                ring.event().take();
            }
            // Nobody takes the counter down, so each rise is one event.
            let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
            // SAFETY: 1. the caller's event, as epoll_ctl(2) demands; absent for a removal.
            let data = unsafe { event.as_ref() }.map_or(0, |event| event.u64);
            let mut own_event = libc::epoll_event { events, u64: data };
            return control(own.as_raw_fd(), &raw mut own_event);
        }
    }
    control(fd, event)
}
