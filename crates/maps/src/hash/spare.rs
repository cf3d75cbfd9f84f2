//! Spares: elements that wait in the bucket they were deleted from.
//!
//! Insertion and deletion hold the bucket's lock anyway, so keeping an element there costs neither of them an exchange. Others cannot take it from there;
//! therefore the first insertion that finds the map full collects all spares, and from then on every deleted element goes to the free lists. Only
//! the first buckets keep spares, which bounds what that insertion has to do.

use std::sync::atomic::{AtomicU8, Ordering};

use ring3_sync::interleave::point;

use super::pool::ElemIdx;
use super::table::{Bucket, Table};
use crate::mem;

/// Buckets that may keep a spare.
const SPARE_BUCKETS_MAX: u64 = 1 << 16;

const KEPT: u8 = 0;
const COLLECTING: u8 = 1;
const NONE: u8 = 2;

/// Whether a table's buckets keep spares.
#[derive(Debug)]
pub(super) struct Spares(AtomicU8);

impl Spares {
    pub(super) fn new(kept: bool) -> Spares {
        Spares(AtomicU8::new(if kept { KEPT } else { NONE }))
    }
}

impl Table {
    /// Keeps an element for the bucket it was taken out of; `false` if it belongs to the free lists. Under the bucket's lock.
    #[inline]
    pub(super) fn keep_spare(&self, bucket: &Bucket, hash: u64, idx: ElemIdx) -> bool {
        let keep = self.spares.0.load(Ordering::Relaxed) == KEPT
            && hash & self.mask < SPARE_BUCKETS_MAX
            && bucket.spare.load(Ordering::Relaxed) == 0;
        if keep {
            bucket.spare.store(idx.link(), Ordering::Relaxed);
        }
        keep
    }

    /// Brings the spare's memory near while the bucket's lock is being taken.
    #[inline(always)]
    pub(super) fn prefetch_spare(&self, bucket: &Bucket) {
        if let Some(idx) = ElemIdx::from_link(bucket.spare.load(Ordering::Relaxed)) {
            mem::prefetch(self.pool.element(idx));
        }
    }

    /// The bucket's spare. Under its lock.
    #[inline]
    pub(super) fn take_spare(&self, bucket: &Bucket) -> Option<ElemIdx> {
        let spare = ElemIdx::from_link(bucket.spare.load(Ordering::Relaxed));
        if spare.is_some() {
            bucket.spare.store(0, Ordering::Relaxed);
        }
        spare
    }

    /// Moves all spares to the free lists, for a thread that found nothing there and holds no lock; `false` if there can be none.
    #[cold]
    pub(super) fn collect_spares(&self) -> bool {
        if self.spares.0.load(Ordering::Acquire) == NONE {
            return false;
        }
        // A deletion that still sees KEPT holds its bucket's lock: it is waited for below.
        self.spares.0.store(COLLECTING, Ordering::Relaxed);
        let mut is_complete = true;
        for index in 0..self.bucket_count().min(SPARE_BUCKETS_MAX) {
            point();
            let bucket = self.bucket_at(index);
            // A program that interrupted this thread in this bucket: the next one that finds the map full comes again.
            let Ok(_lock) = bucket.lock.lock() else {
                is_complete = false;
                continue;
            };
            // Under the lock: who collects at the same time finds the element in one place or the other.
            if let Some(idx) = self.take_spare(bucket) {
                self.pool.free_now(idx);
            }
        }
        if is_complete {
            self.spares.0.store(NONE, Ordering::Release);
        }
        is_complete
    }
}
