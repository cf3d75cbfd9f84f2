//! `RcuCell`: a shared value that readers borrow without a lock, for host-side structures that no program sees.
//!
//! It uses crossbeam-epoch, not [`crate::rcu`]: its readers may be many short borrows on host threads that never run a program.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use crossbeam_epoch::{self as epoch, Atomic, Guard, Owned, Shared};
use parking_lot::Mutex;

/// A value that is replaced as a whole and read without a lock.
pub struct RcuCell<T> {
    value: Atomic<T>,
    writer: Mutex<()>,
}

/// A borrow of the value that was current when it was made.
pub struct Ref<'cell, T> {
    guard: Guard,
    value: *const T,
    _cell: std::marker::PhantomData<&'cell T>,
}

impl<T> RcuCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: T) -> Self {
        RcuCell {
            value: Atomic::new(value),
            writer: Mutex::new(()),
        }
    }

    /// Borrows the current value.
    pub fn load(&self) -> Ref<'_, T> {
        let guard = epoch::pin();
        let value = self.value.load(Ordering::Acquire, &guard).as_raw();
        Ref {
            guard,
            value,
            _cell: std::marker::PhantomData,
        }
    }
}

impl<T: Send + Sync + 'static> RcuCell<T> {
    /// Replaces the value; borrows of the old one stay valid.
    pub fn store(&self, value: T) {
        let _writer = self.writer.lock();
        self.replace(value);
    }

    /// Replaces the value by what `edit` makes of it; writers take turns, so no edit is lost.
    pub fn update<R>(&self, edit: impl FnOnce(&T) -> (T, R)) -> R {
        let _writer = self.writer.lock();
        let (value, result) = edit(&self.load());
        self.replace(value);
        result
    }

    fn replace(&self, value: T) {
        let guard = epoch::pin();
        let old = self.value.swap(Owned::new(value), Ordering::AcqRel, &guard);
        // SAFETY: 1. `old` was just unlinked, and only here, under the writer lock; 2. T is Send, so any thread may drop it.
        unsafe { guard.defer_destroy(old) };
    }
}

impl<T> Drop for RcuCell<T> {
    fn drop(&mut self) {
        // SAFETY: 1. `&mut self`: no reader borrows the cell; 2. the current value was never retired.
        unsafe {
            let current = std::mem::replace(&mut self.value, Atomic::null());
            if !current
                .load(Ordering::Relaxed, epoch::unprotected())
                .eq(&Shared::null())
            {
                drop(current.into_owned());
            }
        }
    }
}

impl<T: Default> Default for RcuCell<T> {
    fn default() -> Self {
        RcuCell::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for RcuCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RcuCell").field(&*self.load()).finish()
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        let _pinned = &self.guard;
        // SAFETY: 1. loaded under this guard, so not destroyed before it is dropped; 2. a cell always holds a value.
        unsafe { &*self.value }
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrow_outlives_the_replacement() {
        let cell = RcuCell::new(String::from("one"));
        let one = cell.load();
        cell.store(String::from("two"));
        assert_eq!((&**one, &**cell.load()), ("one", "two"));
    }

    #[test]
    fn concurrent_updates_are_not_lost() {
        let cell = RcuCell::new(0usize);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| cell.update(|value| (value + 1, ()))));
            }
        });
        assert_eq!(*cell.load(), 2000);
    }
}
