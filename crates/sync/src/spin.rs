//! Spin locks that know their owner, so that a second taking by the same thread is refused instead of deadlocking.
//!
//! A program may be interrupted by another program of the same thread (a traced function, a signal). The lock word holds the slot of the
//! owner's [`crate::rcu::ThreadCell`].

use std::sync::atomic::{AtomicU32, Ordering};

/// The error of taking a lock that this thread already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recursion;

/// A spin lock: 0 is free, else the slot of the owner.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct OwnedSpin(AtomicU32);

/// Holds an [`OwnedSpin`].
#[derive(Debug)]
pub struct SpinGuard<'lock>(&'lock OwnedSpin);

impl OwnedSpin {
    /// A free lock.
    pub const fn new() -> Self {
        OwnedSpin(AtomicU32::new(0))
    }

    /// Takes the lock, waiting for other threads.
    ///
    /// # Errors
    /// [`Recursion`]: this thread holds it.
    #[inline]
    pub fn lock(&self) -> Result<SpinGuard<'_>, Recursion> {
        let me = crate::rcu::thread().slot();
        crate::interleave::point();
        if self
            .0
            .compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed)
            .is_err()
        {
            self.lock_slow(me)?;
        }
        Ok(SpinGuard(self))
    }

    /// Slot of the thread that holds the lock, 0: nobody. Sequentially consistent with taking it.
    #[inline]
    pub fn owner(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    #[cold]
    fn lock_slow(&self, me: u32) -> Result<(), Recursion> {
        let mut backoff = Backoff::new();
        loop {
            let owner = self.0.load(Ordering::Relaxed);
            if owner == me {
                return Err(Recursion);
            }
            if owner == 0
                && self
                    .0
                    .compare_exchange_weak(0, me, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
            {
                return Ok(());
            }
            backoff.wait();
        }
    }
}

impl Drop for SpinGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

/// Waits a little longer each time; gives the CPU away once spinning has not helped, since the owner may not be running.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// A fresh one.
    pub const fn new() -> Self {
        Backoff(0)
    }

    /// Waits.
    pub fn wait(&mut self) {
        if crate::interleave::wait() {
            return;
        }
        if self.0 < 6 {
            for _ in 0..1u32 << self.0 {
                std::hint::spin_loop();
            }
        } else {
            std::thread::yield_now();
        }
        self.0 = self.0.saturating_add(1);
    }

    /// Waits if `held`; else the caller just lost a race and tries again at once.
    pub fn wait_if(&mut self, held: bool) {
        if held {
            self.wait();
        }
    }

    /// How often it has waited.
    pub fn rounds(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_refused_and_others_wait() {
        let lock = OwnedSpin::new();
        let guard = lock.lock().unwrap();
        assert_eq!(lock.lock().unwrap_err(), Recursion);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.lock().map(drop));
            std::thread::sleep(std::time::Duration::from_millis(2));
            drop(guard);
            assert_eq!(waiter.join().unwrap(), Ok(()));
        });
    }

    #[test]
    fn increments_under_the_lock_are_not_lost() {
        let lock = OwnedSpin::new();
        let counter = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _guard = lock.lock().unwrap();
                        let seen = counter.load(Ordering::Relaxed);
                        counter.store(seen + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(counter.load(Ordering::Relaxed), 6000);
    }
}
