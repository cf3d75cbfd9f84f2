//! Resilient spin locks: `bpf_res_spin_lock`. Taking one may fail instead of blocking for ever.
//!
//! The word is 0 when free and 1 when held. Each thread knows the locks that it holds, so that taking one twice is found at once; locks taken
//! in two orders by two threads are found by time.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use ring3_sync::spin::Backoff;
use ring3_uapi::Errno;

use super::{kfuncs, zero_or};

/// Longest time that taking a lock waits. Source: `RES_DEF_TIMEOUT`.
const WAIT_MAX: Duration = Duration::from_millis(250);

thread_local! {
    static HELD: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// # Errors
/// EDEADLK: this thread holds it. ETIMEDOUT: somebody else does, for too long.
///
/// # Safety
/// `lock` is a 4-aligned lock word of a live value.
unsafe fn take(lock: *mut u32) -> Result<(), Errno> {
    use std::sync::atomic::{AtomicU32, Ordering};
    let address = lock.expose_provenance() as u64;
    if HELD.with_borrow(|held| held.contains(&address)) {
        return Err(Errno::EDEADLK);
    }
    // SAFETY: 1. the caller's promise; all accesses to it are atomic.
    let word = unsafe { AtomicU32::from_ptr(lock) };
    let mut backoff = Backoff::new();
    let mut since = None;
    while word
        .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        if since.get_or_insert_with(Instant::now).elapsed() > WAIT_MAX {
            return Err(Errno::ETIMEDOUT);
        }
        backoff.wait();
    }
    HELD.with_borrow_mut(|held| held.push(address));
    Ok(())
}

/// # Safety
/// As [`take`]; this thread holds the lock.
unsafe fn give_back(lock: *mut u32) {
    let address = lock.expose_provenance() as u64;
    HELD.with_borrow_mut(|held| held.retain(|other| *other != address));
    // SAFETY: 1. the caller's promise.
    unsafe { ring3_maps::fields::spin_unlock(lock) };
}

kfuncs! { ROWS(Plain):
    bpf_res_spin_lock(lock: *mut u32) {
        // SAFETY: 1. the verifier checked the lock of a live value or object.
        zero_or(unsafe { take(lock) })
    }
    bpf_res_spin_unlock(lock: *mut u32) {
        // SAFETY: 1. the verifier checked that the program holds it.
        unsafe { give_back(lock) }
    }
    bpf_res_spin_lock_irqsave(lock: *mut u32, flags: *mut u64) {
        // SAFETY: 1. as above; 2. the verifier reserved the flags' stack slot.
        unsafe {
            flags.write(0);
            zero_or(take(lock))
        }
    }
    bpf_res_spin_unlock_irqrestore(lock: *mut u32, _flags: u64) {
        // SAFETY: as above.
        unsafe { give_back(lock) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_once() {
        let mut words = [0u32; 2];
        let [a, b] = [&raw mut words[0], &raw mut words[1]];
        // SAFETY: two live words.
        unsafe {
            assert_eq!(take(a), Ok(()));
            assert_eq!(take(a), Err(Errno::EDEADLK));
            assert_eq!(take(b), Ok(()));
            give_back(a);
            assert_eq!(take(a), Ok(()));
            give_back(a);
            give_back(b);
        }
        assert_eq!(words, [0; 2]);
    }

    #[test]
    fn a_lock_held_by_another_is_waited_for_in_vain() {
        let mut word = 1u32;
        // SAFETY: a live word.
        assert_eq!(unsafe { take(&raw mut word) }, Err(Errno::ETIMEDOUT));
    }
}
