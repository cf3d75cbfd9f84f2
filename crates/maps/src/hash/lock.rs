//! Locks of elements: who replaces a value, and who ends an element's life.
//!
//! ```text
//! replace   e = ends;  exchange(state, free -> mine);     bucket's lock free and ends == e ?  mine  : back off
//! end       exchange(bucket's lock, free -> mine);        state free ?  state = ended, ends += 1    : wait
//! ```
//!
//! Of two that do this at once at least one sees the other: both look after an exchange. An end that has overwritten a replacement's exchange has
//! counted itself in `ends` before the bucket's lock is free again. So a deletion costs no exchange beside the bucket's lock, and a replacement
//! writes the element only. The counter is not in the element, since a load of a word just exchanged has to wait.
//!
//! Only live elements are ever locked, so whoever owns one that is not may write its state freely. Locks know their owner: the same thread is
//! refused (`EBUSY`).

use std::sync::atomic::Ordering;

use ring3_sync::interleave::point;
use ring3_sync::rcu;
use ring3_sync::spin::Backoff;
use ring3_uapi::Errno;

use super::key::Key;
use super::pool::{ElemIdx, KEY_OFFSET, Pool};
use super::state::{State, StateWord};
use super::table::{Bucket, Table};

/// Gives up a lock whose holder may have been overtaken by the element's end.
#[cold]
fn back_off(state: &StateWord, me: u32) {
    loop {
        let seen = state.load(Ordering::Relaxed);
        if seen.owner() != me || state.exchange(seen, seen.unlocked()) {
            return;
        }
    }
}

impl Table {
    /// Takes the lock of an element of `bucket` at once: its state before, if it is live, has this key and nobody is at it or its bucket.
    ///
    /// # Safety
    /// `element` is an element of the pool; the key is still readable.
    #[inline(always)]
    pub(super) unsafe fn try_lock_live<K: Key>(
        &self,
        bucket: &Bucket,
        element: *mut u8,
        key: K::Loaded,
    ) -> Option<State> {
        let me = rcu::thread().slot();
        // SAFETY: 1. the caller's promise.
        unsafe {
            let state = Pool::state_at(element);
            let ends = bucket.ends.load(Ordering::Acquire);
            point();
            let seen = state.load(Ordering::Relaxed);
            point();
            if !seen.is_free_to_lock() || !state.exchange(seen, seen.locked_by(me)) {
                return None;
            }
            point();
            let is_mine = bucket.lock.owner() == 0
                && bucket.ends.load(Ordering::Acquire) == ends
                && K::eq(element.wrapping_add(KEY_OFFSET), key);
            if !is_mine {
                back_off(state, me);
                return None;
            }
            Some(seen)
        }
    }

    /// Takes the lock of an element of `bucket`, waiting for others; `None` if it is not live or has another key.
    ///
    /// # Errors
    /// `EBUSY`: this thread is at the element or its bucket.
    ///
    /// # Safety
    /// As [`Table::try_lock_live`].
    pub(super) unsafe fn lock_live<K: Key>(
        &self,
        bucket: &Bucket,
        element: *mut u8,
        key: K::Loaded,
    ) -> Result<Option<State>, Errno> {
        let me = rcu::thread().slot();
        let mut backoff = Backoff::new();
        loop {
            let holder = bucket.lock.owner();
            if holder == me {
                return Err(Errno::EBUSY);
            }
            // While the bucket is held the lock is not even tried: its holder may be waiting for the element to be free.
            if holder != 0 {
                backoff.wait();
                continue;
            }
            // SAFETY: 1. the caller's promise.
            unsafe {
                let locked = self.try_lock_live::<K>(bucket, element, key);
                if locked.is_some() {
                    return Ok(locked);
                }
                let seen = Pool::state_at(element).load(Ordering::Acquire);
                if seen.owner() == me {
                    return Err(Errno::EBUSY);
                }
                if !seen.is_live() || !K::eq(element.wrapping_add(KEY_OFFSET), key) {
                    return Ok(None);
                }
                backoff.wait_if(seen.owner() != 0);
            }
        }
    }

    /// Ends an element's life, once nobody holds its lock: the state before. Under the lock of the element's bucket.
    ///
    /// # Errors
    /// `EBUSY`: this thread is at the element.
    pub(super) fn end_life(&self, bucket: &Bucket, idx: ElemIdx) -> Result<State, Errno> {
        let me = rcu::thread().slot();
        let state = self.pool.state(idx);
        let mut backoff = Backoff::new();
        loop {
            point();
            let seen = state.load(Ordering::SeqCst);
            point();
            match seen.owner() {
                0 => {
                    state.store(seen.ended(), Ordering::Release);
                    point();
                    bucket.count_end();
                    return Ok(seen);
                }
                owner if owner == me => return Err(Errno::EBUSY),
                _ => backoff.wait(),
            }
        }
    }
}
