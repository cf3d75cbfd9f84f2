//! `RcuPair`: a value kept twice, both built once. Readers borrow one side inside an [`rcu`] section; an edit writes the other side, swaps, and waits
//! until no reader is left on the old one.
//!
//! In place of allocating a new value for every edit as [`crate::RcuCell`] does: an edit needs no memory, so it cannot fail for want of it, and what an
//! edit removed is released before it returns.

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::rcu::{self, Guard, InReadSection};

/// A value that readers see whole: before or after an edit, never in the middle of one.
pub struct RcuPair<T> {
    sides: [UnsafeCell<T>; 2],
    active: AtomicUsize,
    writer: Mutex<()>,
}

// SAFETY: 1. readers get `&T` on any thread (T: Sync); 2. writers get `&mut` of one side on any thread (T: Send), one at a time, while nobody reads it.
unsafe impl<T: Send + Sync> Sync for RcuPair<T> {}

impl<T> RcuPair<T> {
    /// Two sides that mean the same.
    pub fn new(sides: [T; 2]) -> Self {
        let [first, second] = sides;
        RcuPair {
            sides: [UnsafeCell::new(first), UnsafeCell::new(second)],
            active: AtomicUsize::new(0),
            writer: Mutex::new(()),
        }
    }

    /// The current value, for as long as the section lasts.
    #[inline]
    pub fn read<'a>(&'a self, _section: &'a Guard) -> &'a T {
        let active = self.active.load(Ordering::Acquire);
        // SAFETY: 1. a writer changes a side only while it is not active and after a grace period in which it was not; 2. this section began before
        // the load, so it is waited for if the side is swapped away now.
        unsafe { &*self.sides[active & 1].get() }
    }

    /// Edits: `write` gets the current value and the other side, which holds what an earlier edit left there, and makes it what readers shall
    /// see. After the swap, once nobody reads the old side any more, `retire` may empty it.
    ///
    /// # Errors
    /// What `write` refuses; readers see no change then. [`InReadSection`]: the caller is a reader itself and would wait for itself.
    pub fn edit<R, E: From<InReadSection>>(
        &self,
        write: impl FnOnce(&T, &mut T) -> Result<R, E>,
        retire: impl FnOnce(&mut T),
    ) -> Result<R, E> {
        if rcu::in_read_section() {
            return Err(InReadSection.into());
        }
        let _writer = self.writer.lock();
        let active = self.active.load(Ordering::Relaxed) & 1;
        let spare = 1 - active;
        // SAFETY: 1. the writer lock is held: no other `&mut` exists, and `active` does not change; 2. the spare side is not read: the edit that swapped
        // it away waited for its readers before it released the lock.
        let result = unsafe { write(&*self.sides[active].get(), &mut *self.sides[spare].get()) }?;
        self.active.store(spare, Ordering::Release);
        rcu::synchronize()?;
        // SAFETY: 1. as above; 2. the grace period is over: nobody reads the side that was active.
        retire(unsafe { &mut *self.sides[active].get() });
        Ok(result)
    }
}

impl<T: fmt::Debug> fmt::Debug for RcuPair<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RcuPair")
            .field(self.read(&rcu::read()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn an_edit_that_is_refused_changes_nothing_and_readers_do_not_edit() {
        let pair = RcuPair::new([1, 1]);
        let refused: Result<(), InReadSection> = pair.edit(
            |_, spare| {
                *spare = 9;
                Err(InReadSection)
            },
            |_| unreachable!("nothing was swapped"),
        );
        assert_eq!(refused, Err(InReadSection));
        let section = rcu::read();
        assert_eq!(*pair.read(&section), 1);
        let inside: Result<(), InReadSection> = pair.edit(|_, _| Ok(()), |_| ());
        assert_eq!(inside, Err(InReadSection));
    }

    #[test]
    fn readers_see_whole_values_while_two_threads_edit() {
        let pair = RcuPair::new([[0u64; 16], [0; 16]]);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (pair, is_done) = (&pair, &is_done);
                scope.spawn(move || {
                    for number in (thread..).step_by(2) {
                        let edit: Result<(), InReadSection> = pair.edit(
                            |_, spare| {
                                spare.fill(number);
                                Ok(())
                            },
                            |old| old.fill(u64::MAX),
                        );
                        edit.unwrap();
                        if is_done.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            for _ in 0..20_000 {
                let section = rcu::read();
                let value = pair.read(&section);
                assert!(
                    value
                        .iter()
                        .all(|word| *word == value[0] && *word != u64::MAX)
                );
            }
            is_done.store(true, Ordering::Relaxed);
        });
    }
}
