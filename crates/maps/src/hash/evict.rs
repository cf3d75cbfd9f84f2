//! Least recently used: where an element comes from when no free one is left.
//!
//! A clock over the elements: the hand clears reference bits and takes the first live element that has none. A look-up by a program sets the bit if
//! it is not yet set, so that hot elements cost no write. With `BPF_F_NO_COMMON_LRU` every CPU has a hand and elements of its own.

use std::sync::atomic::Ordering;

use ring3_sync::interleave::point;
use ring3_sync::percpu::current_cpu;

use super::key::Key;
use super::pool::ElemIdx;
use super::table::Table;

impl Table {
    /// A free element, from the free lists or, in an LRU table, from whoever was not used for longest.
    pub(super) unsafe fn alloc<K: Key>(&self) -> Option<ElemIdx> {
        let free = self.pool.alloc();
        if free.is_some() || !self.lru {
            return free;
        }
        // SAFETY: 1. the caller's promise.
        unsafe { self.evict::<K>() }
    }

    /// Second chance: the hand goes round, clears reference bits and takes the first element that has none.
    unsafe fn evict<K: Key>(&self) -> Option<ElemIdx> {
        let cpu = if self.partitioned { current_cpu() } else { 0 };
        let range = self.pool.partition(cpu);
        let hand = self.hands.get(cpu).or(self.hands.first())?;
        let len = range.len() as u32;
        // Two rounds clear every bit and come back; more leave room for other threads' work.
        for step in 0..len.saturating_mul(4) {
            let turn = hand.fetch_add(1, Ordering::Relaxed);
            let idx = ElemIdx(range.start + turn % len.max(1));
            let word = self.pool.state(idx);
            let state = word.load(Ordering::Relaxed);
            if !state.is_live() {
                if step % 64 == 63
                    && let Some(freed) = self.pool.alloc()
                {
                    return Some(freed);
                }
                continue;
            }
            point();
            if state.is_referenced() {
                word.clear_reference();
                continue;
            }
            // SAFETY: 1. the caller's promise.
            if unsafe { self.remove_victim::<K>(idx) } {
                return Some(idx);
            }
        }
        self.pool.alloc()
    }

    /// Takes an element out of the table by its index; `false` if it is busy or no longer there.
    unsafe fn remove_victim<K: Key>(&self, idx: ElemIdx) -> bool {
        // The key may change under us: the hash then leads to a bucket that does not hold the element.
        // SAFETY: 1. elements are mapped and their keys hold key_bytes.
        let (_, hash) = unsafe { self.load::<K>(self.pool.key(idx)) };
        let bucket = self.bucket(hash);
        let Ok(_lock) = bucket.lock.lock() else {
            return false;
        };
        let Some(at) = self.position(bucket, idx) else {
            return false;
        };
        let Ok(content) = self.end_life(bucket, idx) else {
            return false;
        };
        self.unlink(bucket, at, idx);
        // SAFETY: 1. the element is out of the table and not yet reused.
        unsafe { self.release_fields(idx, content) };
        true
    }
}
