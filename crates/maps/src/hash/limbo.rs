//! Deleted elements of maps that are not preallocated: programs may still hold them, so they are reused after a grace period only.
//!
//! ```text
//! CPU       | open: number << 32 | link of the youngest |   waiting: link of a list, and the grace period that it waits for   |
//! ```
//!
//! Deleting pushes onto the open list of the CPU, one exchange and no lock. Every [`BATCH`] deletions somebody looks after the lists: what has waited
//! long enough goes to the free list, and the open list begins to wait. Who finds another thread (or itself, interrupted) at that goes on: the next
//! batch comes by again.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ring3_sync::interleave::point;
use ring3_sync::rcu;

use super::pool::{ElemIdx, Pool};

/// Deletions on a CPU between two looks at its lists.
const BATCH: u32 = 64;
const NUMBER_SHIFT: u32 = 32;

/// A list of elements: the link of its first, never 0.
#[derive(Debug)]
struct Waiting {
    cookie: rcu::Cookie,
    first: u32,
}

/// One CPU's deleted elements.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    open: AtomicU64,
    /// Only ever tried, never waited for.
    waiting: Mutex<Option<Waiting>>,
}

impl Pool {
    /// Puts a deleted element behind a grace period.
    pub(super) fn defer(&self, limbo: &Limbo, idx: ElemIdx, cpu: usize) {
        let mut head = limbo.open.load(Ordering::Relaxed);
        let number = loop {
            self.next(idx).store(head as u32, Ordering::Relaxed);
            point();
            let number = (head >> NUMBER_SHIFT) as u32 + 1;
            let new = u64::from(number) << NUMBER_SHIFT | u64::from(idx.link());
            match limbo
                .open
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break number,
                Err(seen) => head = seen,
            }
        };
        if number.is_multiple_of(BATCH) {
            self.look_after(limbo, cpu);
        }
    }

    /// Moves a CPU's elements on: from waiting to its free list if their grace period is over, from open to waiting if that is empty.
    pub(super) fn look_after(&self, limbo: &Limbo, cpu: usize) {
        let Some(mut waiting) = limbo.waiting.try_lock() else {
            return;
        };
        if let Some(list) = waiting.take_if(|list| rcu::poll(list.cookie)) {
            // Still under the lock: who finds nothing waiting finds it free.
            self.push_list(cpu, list.first);
        }
        if waiting.is_some() {
            return;
        }
        let first = limbo.open.swap(0, Ordering::Acquire) as u32;
        if first != 0 {
            *waiting = Some(Waiting {
                cookie: rcu::start_poll(),
                first,
            });
        }
    }
}
