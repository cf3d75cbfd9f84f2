//! Seeds from the host's entropy: getrandom(2).

use crate::time;

/// A word that nobody else has; may be called between fork(2) and its return in the child. Where the host has no entropy yet, or permits no
/// getrandom(2), one of time and task.
pub fn seed() -> u64 {
    let mut seed = [0u8; 8];
    // SAFETY: 1. the buffer is as long as it says.
    let filled =
        unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), libc::GRND_NONBLOCK) };
    if filled == seed.len() as isize {
        return u64::from_ne_bytes(seed);
    }
    let (thread, process) = crate::task::ids_now();
    let task = u64::from(process) << 32 | u64::from(thread);
    task.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ time::monotonic_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ() {
        assert_ne!(seed(), seed());
    }
}
