//! The ring of a record, by the record's address: submit and discard get nothing else, and what stands before a record is a client's to change.
//!
//! A thread remembers its last reservation, which is the one it ends as a rule; all others are looked up among the rings that are alive.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::RingBuf;

/// Rings by the first byte of their data: its end, and the ring's address.
static RINGS: RwLock<BTreeMap<usize, (usize, usize)>> = RwLock::new(BTreeMap::new());
/// How many rings are gone: what a thread remembers may be one of them.
static GONE: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Last {
    sample: u64,
    ring: *const RingBuf,
    gone: u64,
}

thread_local! {
    static LAST: Cell<Last> = const {
        Cell::new(Last {
            sample: 0,
            ring: std::ptr::null(),
            gone: 0,
        })
    };
}

pub(super) fn add(ring: &RingBuf) {
    let (start, end) = ring.data_range();
    let mut rings = RINGS.write().unwrap_or_else(PoisonError::into_inner);
    rings.insert(start, (end, std::ptr::from_ref(ring) as usize));
}

pub(super) fn remove(ring: &RingBuf) {
    let mut rings = RINGS.write().unwrap_or_else(PoisonError::into_inner);
    rings.remove(&ring.data_range().0);
    GONE.fetch_add(1, Ordering::Release);
}

/// This thread reserved a record.
#[inline]
pub(super) fn note(sample: u64, ring: &RingBuf) {
    let gone = GONE.load(Ordering::Acquire);
    // A thread that ends remembers nothing; its records are looked up.
    let _ = LAST.try_with(|last| last.set(Last { sample, ring, gone }));
}

/// The ring that a record lies in.
#[inline]
pub(super) fn find(sample: u64) -> Option<*const RingBuf> {
    let gone = GONE.load(Ordering::Acquire);
    match LAST.try_with(Cell::get) {
        Ok(last) if last.sample == sample && last.gone == gone => Some(last.ring),
        _ => look_up(sample as usize),
    }
}

#[cold]
fn look_up(address: usize) -> Option<*const RingBuf> {
    let rings = RINGS.read().unwrap_or_else(PoisonError::into_inner);
    let (_, &(end, ring)) = rings.range(..=address).next_back()?;
    (address < end).then_some(ring as *const RingBuf)
}
