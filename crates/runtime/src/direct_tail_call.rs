//! Direct tail calls: jumps in compiled code that follow one slot of a prog array.
//!
//! A tail call whose map and index are constant needs no table: its site is a jump to what the slot holds, or falls through while that is
//! empty. The array owns a [`TailCallHub`], compiled programs attach their sites to it, and every change of a slot is written to its sites
//! before the change returns. The table stays, for engines and sites that read it.
//!
//! ```text
//! set, clear   table[i] = word; lock; for sites of i: site.set(word); unlock
//! attach       lock; site.set(table[i]); sites += site; unlock
//! ```
//!
//! One of both sees the other, whichever comes first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A jump that can be changed while threads run through it.
pub trait DirectJump: Send + Sync {
    /// Jumps to this address from now on; 0: falls through.
    fn set(&self, target: usize);
}

struct Attached {
    key: u64,
    index: u32,
    jump: Box<dyn DirectJump>,
}

#[derive(Default)]
struct Sites {
    next_key: u64,
    attached: Vec<Attached>,
}

/// The sites that follow a prog array.
#[derive(Default)]
pub struct TailCallHub {
    sites: Mutex<Sites>,
}

impl std::fmt::Debug for TailCallHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.lock().attached.len();
        f.debug_struct("TailCallHub")
            .field("sites", &count)
            .finish()
    }
}

impl TailCallHub {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sites> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a jump follow a slot, whose word in the table is `entry`, until the result is dropped.
    pub fn attach(
        self: &Arc<Self>,
        index: u32,
        entry: &AtomicUsize,
        jump: Box<dyn DirectJump>,
    ) -> Follower {
        let mut sites = self.lock();
        jump.set(entry.load(Ordering::SeqCst));
        sites.next_key += 1;
        let key = sites.next_key;
        sites.attached.push(Attached { key, index, jump });
        Follower {
            hub: Arc::clone(self),
            key,
        }
    }

    /// Tells the sites of a slot its new word, which is in the table already.
    pub fn changed(&self, index: u32, entry: &AtomicUsize) {
        let sites = self.lock();
        for site in sites.attached.iter().filter(|site| site.index == index) {
            // Not the caller's word: of two changes at once, both end with what the table holds.
            site.jump.set(entry.load(Ordering::SeqCst));
        }
    }
}

/// A jump's place in a hub; dropping it ends the following.
#[derive(Debug)]
pub struct Follower {
    hub: Arc<TailCallHub>,
    key: u64,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut sites = self.hub.lock();
        let at = sites.attached.iter().position(|site| site.key == self.key);
        let removed = at.map(|at| sites.attached.swap_remove(at));
        drop(sites);
        drop(removed);
    }
}

/// A hub as call sites name it: valid as long as the map, which the program's reference keeps.
#[derive(Clone, Copy, Debug)]
pub struct HubRef(*const TailCallHub);

// SAFETY: 1. a hub is shared data behind a lock; 2. using the pointer is unsafe and restates its lifetime.
unsafe impl Send for HubRef {}
// SAFETY: as above.
unsafe impl Sync for HubRef {}

impl HubRef {
    /// The name of a hub.
    pub fn new(hub: &Arc<TailCallHub>) -> HubRef {
        HubRef(Arc::as_ptr(hub))
    }

    /// The hub.
    ///
    /// # Safety
    /// Somebody holds the hub that this was made of.
    pub unsafe fn upgrade(self) -> Arc<TailCallHub> {
        // SAFETY: 1. the pointer is that of an `Arc`, alive by the caller's word; 2. the count is raised for the one made here.
        unsafe {
            Arc::increment_strong_count(self.0);
            Arc::from_raw(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Record(Arc<AtomicUsize>);

    impl DirectJump for Record {
        fn set(&self, target: usize) {
            self.0.store(target, Ordering::SeqCst);
        }
    }

    #[test]
    fn sites_follow_their_slot_until_dropped() {
        let hub = Arc::new(TailCallHub::default());
        let table = [AtomicUsize::new(7), AtomicUsize::new(0)];
        let seen: [Arc<AtomicUsize>; 2] = std::array::from_fn(|_| Arc::default());
        let followers: Vec<Follower> = (0..2)
            .map(|at| {
                let jump = Box::new(Record(Arc::clone(&seen[at])));
                // SAFETY: the hub lives.
                let hub = unsafe { HubRef::new(&hub).upgrade() };
                hub.attach(at as u32, &table[at], jump)
            })
            .collect();
        let now = || seen.each_ref().map(|seen| seen.load(Ordering::SeqCst));
        assert_eq!(now(), [7, 0]);
        table[1].store(9, Ordering::SeqCst);
        hub.changed(1, &table[1]);
        assert_eq!(now(), [7, 9]);
        drop(followers);
        table[0].store(0, Ordering::SeqCst);
        hub.changed(0, &table[0]);
        assert_eq!(now(), [7, 9]);
        assert_eq!(Arc::strong_count(&hub), 1);
    }
}
