//! The host's clocks, in nanoseconds.

fn now(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: 1. `time` is a live timespec; 2. the clocks below exist on every Linux this crate runs on, so the call cannot fail.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_MONOTONIC.
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
    fn monotonic_does_not_go_back() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
        assert!(realtime_ns() > 0 && boot_ns() > 0 && tai_ns() > 0 && monotonic_coarse_ns() > 0);
    }
}
