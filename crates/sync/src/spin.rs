//! Spin locks that know their owner, so that a second taking by the same thread is refused instead of deadlocking.
//!
//! A program may be interrupted by another program of the same thread (a traced function, a signal). The lock word holds the slot of the
//! owner's [`crate::rcu::ThreadCell`].

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
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
        let guard = SpinGuard(self);
        // A program may interrupt this thread while it holds the lock.
        crate::interleave::point();
        Ok(guard)
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

/// A value behind an [`OwnedSpin`].
#[derive(Default)]
pub struct OwnedMutex<T> {
    lock: OwnedSpin,
    value: UnsafeCell<T>,
}

// SAFETY: 1. the value is only reached under the lock, by one thread at a time, as with a mutex of the standard library.
unsafe impl<T: Send> Sync for OwnedMutex<T> {}

/// Holds an [`OwnedMutex`].
#[derive(Debug)]
pub struct OwnedGuard<'lock, T> {
    mutex: &'lock OwnedMutex<T>,
    /// Let go of after the last use of the value.
    _lock: SpinGuard<'lock>,
    /// The lock word names this thread.
    _not_send: std::marker::PhantomData<*const T>,
}

impl<T> OwnedMutex<T> {
    /// A value that nobody holds.
    pub const fn new(value: T) -> Self {
        OwnedMutex {
            lock: OwnedSpin::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock, waiting for other threads.
    ///
    /// # Errors
    /// [`Recursion`]: this thread holds it.
    #[inline]
    pub fn lock(&self) -> Result<OwnedGuard<'_, T>, Recursion> {
        Ok(OwnedGuard {
            _lock: self.lock.lock()?,
            mutex: self,
            _not_send: std::marker::PhantomData,
        })
    }

    /// The value, of which there is no other user.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> Deref for OwnedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. the guard holds the lock, which one guard at a time does; 2. the borrow is the guard's.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for OwnedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: 1. the guard holds the lock, which one guard at a time does; 2. the borrow is the guard's.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: fmt::Debug> fmt::Debug for OwnedMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lock() {
            Ok(value) => value.fmt(f),
            Err(Recursion) => f.write_str("held by this thread"),
        }
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
    fn a_value_has_one_user_at_a_time() {
        let value = OwnedMutex::new(Vec::new());
        let guard = value.lock().unwrap();
        assert_eq!(value.lock().unwrap_err(), Recursion);
        assert_eq!(format!("{value:?}"), "held by this thread");
        drop(guard);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let value = &value;
                scope.spawn(move || {
                    for item in 0..1000 {
                        value.lock().unwrap().push((thread, item));
                    }
                });
            }
        });
        let items = value.lock().unwrap();
        assert_eq!(items.len(), 3000);
        for thread in 0..3 {
            let own = items.iter().filter(|(of, _)| *of == thread);
            assert!(own.map(|(_, item)| *item).eq(0..1000));
        }
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
