//! `State`: the word that says what an element of a hash table is, and who holds its lock.
//!
//! ```text
//! bit 0 current value slot | 1 live | 2 referenced (LRU) | 3..31 version | 32..63 slot of the thread that holds the element's lock, 0: free
//! ```
//!
//! The version counts replacements and deletions: who copies a value and finds the same content before and after has copied one value.

use std::sync::atomic::{AtomicU64, Ordering};

const SLOT: u64 = 1;
const LIVE: u64 = 2;
const REFERENCED: u64 = 4;
const VERSION: u64 = 8;
const OWNER_SHIFT: u32 = 32;
const LOW_HALF: u64 = u32::MAX as u64;

/// A value of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(u64);

impl State {
    /// In the table.
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        self.0 & LIVE != 0
    }

    /// In the table now or before.
    pub(crate) fn was_used(self) -> bool {
        self.content().0 != 0
    }

    /// Live, and nobody holds its lock.
    #[inline(always)]
    pub(crate) fn is_free_to_lock(self) -> bool {
        self.0 & (LIVE | !LOW_HALF) == LIVE
    }

    /// The current value slot, 0 or 1.
    #[inline(always)]
    pub(crate) fn slot(self) -> u32 {
        (self.0 & SLOT) as u32
    }

    /// The other value slot.
    #[inline(always)]
    pub(crate) fn other_slot(self) -> u32 {
        self.slot() ^ 1
    }

    /// Slot of the thread that holds the lock, 0: nobody.
    #[inline(always)]
    pub(crate) fn owner(self) -> u32 {
        (self.0 >> OWNER_SHIFT) as u32
    }

    #[inline(always)]
    pub(crate) fn is_referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }

    /// Slot, life and version.
    #[inline(always)]
    pub(crate) fn content(self) -> State {
        State(self.0 & LOW_HALF & !REFERENCED)
    }

    /// The same, locked by a thread.
    #[inline(always)]
    pub(crate) fn locked_by(self, thread: u32) -> State {
        State(self.0 & LOW_HALF | u64::from(thread) << OWNER_SHIFT)
    }

    #[inline(always)]
    pub(crate) fn unlocked(self) -> State {
        State(self.0 & LOW_HALF)
    }

    /// The next version, unlocked.
    #[inline(always)]
    pub(crate) fn next_version(self) -> State {
        State(self.0.wrapping_add(VERSION) & LOW_HALF)
    }

    /// The value is in the other slot.
    #[inline(always)]
    pub(crate) fn with_other_slot(self) -> State {
        State(self.0 ^ SLOT)
    }

    #[inline(always)]
    pub(crate) fn with_reference(self) -> State {
        State(self.0 | REFERENCED)
    }

    /// Out of the table.
    #[inline(always)]
    pub(crate) fn ended(self) -> State {
        State(self.content().next_version().0 & !LIVE)
    }

    /// In the table, not referenced.
    #[inline(always)]
    pub(crate) fn begun(self) -> State {
        State(self.content().0 | LIVE)
    }
}

/// The word in an element.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct StateWord(AtomicU64);

impl StateWord {
    /// The word at an address.
    ///
    /// # Safety
    /// 8 bytes that are valid for the result's life, 8-aligned, and used as nothing else.
    #[inline(always)]
    pub(crate) unsafe fn at<'a>(address: *mut u8) -> &'a StateWord {
        // SAFETY: 1. the caller's promise; 2. transparent over an atomic.
        unsafe { &*address.cast() }
    }

    #[inline(always)]
    pub(crate) fn load(&self, order: Ordering) -> State {
        State(self.0.load(order))
    }

    #[inline(always)]
    pub(crate) fn store(&self, state: State, order: Ordering) {
        self.0.store(state.0, order);
    }

    /// Replaces `seen` by `new`; whether it did.
    #[inline(always)]
    pub(crate) fn exchange(&self, seen: State, new: State) -> bool {
        self.0
            .compare_exchange(seen.0, new.0, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Sets the reference bit, without a store where it is set.
    #[inline(always)]
    pub(crate) fn mark_referenced(&self) {
        if self.0.load(Ordering::Relaxed) & REFERENCED == 0 {
            self.0.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }

    /// Clears the reference bit.
    pub(crate) fn clear_reference(&self) {
        self.0.fetch_and(!REFERENCED, Ordering::Relaxed);
    }
}
