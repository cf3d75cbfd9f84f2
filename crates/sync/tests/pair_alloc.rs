//! An edit of an `RcuPair` asks the allocator for nothing: a hook can always let go of a program.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use ring3_sync::{RcuPair, rcu::InReadSection};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: 1. everything is passed on to the system's allocator; 2. the counter is a plain cell, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: 1. the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: 1. the caller's contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_edit_allocates_nothing_and_lets_go_of_what_it_removes() {
    let held: Vec<Arc<u64>> = (0..64).map(Arc::new).collect();
    let pair = RcuPair::new([held.clone(), Vec::with_capacity(64)]);
    let remove = |at: usize| -> Result<(), InReadSection> {
        pair.edit(
            |old, new| {
                let kept = old.iter().enumerate().filter(|(index, _)| *index != at);
                new.extend(kept.map(|(_, value)| Arc::clone(value)));
                Ok(())
            },
            Vec::clear,
        )
    };
    // The first edit registers the thread and chooses the barrier.
    remove(0).unwrap();
    let before = ALLOCATIONS.get();
    for _ in 0..63 {
        remove(0).unwrap();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert!(held.iter().all(|value| Arc::strong_count(value) == 1));
    assert!(before > 0, "the counter counts");
}
