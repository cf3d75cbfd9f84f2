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

/// CLOCK_BOOTTIME.
pub fn boot_ns() -> u64 {
    now(libc::CLOCK_BOOTTIME)
}

/// CLOCK_TAI.
pub fn tai_ns() -> u64 {
    now(libc::CLOCK_TAI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_does_not_go_back() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
        assert!(boot_ns() > 0 && tai_ns() > 0 && monotonic_coarse_ns() > 0);
    }
}
