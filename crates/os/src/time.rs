//! The host's clocks, in nanoseconds.

use std::sync::atomic::{AtomicPtr, Ordering};

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

/// A [`ClockGettime`]: at first one that looks for the vDSO's, which libc would call through two more jumps and a check.
static CLOCK_GETTIME: AtomicPtr<()> = AtomicPtr::new(find_and_call as *mut ());

/// # Safety
/// As clock_gettime(2).
unsafe extern "C" fn find_and_call(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let flags = libc::RTLD_LAZY | libc::RTLD_LOCAL | libc::RTLD_NOLOAD;
    // SAFETY: 1. the names are NUL-terminated literals; 2. with RTLD_NOLOAD nothing is loaded: the vDSO is there or it is not; it stays.
    let vdso = unsafe {
        let object = libc::dlopen(c"linux-vdso.so.1".as_ptr(), flags);
        if object.is_null() {
            object
        } else {
            libc::dlsym(object, c"__vdso_clock_gettime".as_ptr())
        }
    };
    let found = if vdso.is_null() {
        libc::clock_gettime as *mut ()
    } else {
        vdso.cast()
    };
    CLOCK_GETTIME.store(found, Ordering::Relaxed);
    // SAFETY: 1. both are functions of this type; 2. the caller's contract.
    unsafe { std::mem::transmute::<*mut (), ClockGettime>(found)(clock, time) }
}

#[inline]
fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let get = CLOCK_GETTIME.load(Ordering::Relaxed);
    // SAFETY: 1. what is stored there has this type; 2. `time` is a live timespec; 3. the clocks below exist on every Linux this crate runs
    // on, so the call cannot fail.
    unsafe { std::mem::transmute::<*mut (), ClockGettime>(get)(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_MONOTONIC.
#[inline]
pub fn monotonic_ns() -> u64 {
    now(libc::CLOCK_MONOTONIC)
}

/// CLOCK_MONOTONIC_COARSE.
pub fn monotonic_coarse_ns() -> u64 {
    now(libc::CLOCK_MONOTONIC_COARSE)
}

/// CLOCK_REALTIME.
pub fn realtime_ns() -> u64 {
    now(libc::CLOCK_REALTIME)
}

/// CLOCK_BOOTTIME.
pub fn boot_ns() -> u64 {
    now(libc::CLOCK_BOOTTIME)
}

/// CLOCK_TAI.
pub fn tai_ns() -> u64 {
    now(libc::CLOCK_TAI)
}

/// CLOCK_THREAD_CPUTIME_ID: processor time of the calling thread, in the kernel as well.
pub fn thread_cpu_ns() -> u64 {
    now(libc::CLOCK_THREAD_CPUTIME_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = thread_cpu_ns();
        let work = (0..1_000_000u64).fold(1, |x: u64, y| std::hint::black_box(x ^ y));
        assert!(thread_cpu_ns() > before, "{work}");
    }

    #[test]
    fn clocks_are_those_of_libc() {
        let libc_ns = |clock| {
            let mut time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: 1. `time` is a live timespec.
            assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
            time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
        };
        let clocks: [(fn() -> u64, _); 4] = [
            (monotonic_ns, libc::CLOCK_MONOTONIC),
            (boot_ns, libc::CLOCK_BOOTTIME),
            (monotonic_coarse_ns, libc::CLOCK_MONOTONIC_COARSE),
            (thread_cpu_ns, libc::CLOCK_THREAD_CPUTIME_ID),
        ];
        for (ours, clock) in clocks {
            let before = libc_ns(clock);
            let between = ours();
            let after = libc_ns(clock);
            assert!((before..=after).contains(&between), "clock {clock}");
        }
    }

    #[test]
    fn monotonic_does_not_go_back() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
        assert!(realtime_ns() > 0 && boot_ns() > 0 && tai_ns() > 0 && monotonic_coarse_ns() > 0);
    }
}
