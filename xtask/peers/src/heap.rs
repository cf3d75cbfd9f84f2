//! The allocator of the benches: the system's, which counts live bytes while [`peak_of`] runs. Otherwise it costs one load.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed},
};

struct Counting;

static IS_ON: AtomicBool = AtomicBool::new(false);
/// Bytes allocated less bytes freed since counting began; what was there before and is freed counts below 0.
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);
static PEAK_BYTES: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

fn note(bytes: isize) {
    if IS_ON.load(Relaxed) {
        let live = LIVE_BYTES.fetch_add(bytes, Relaxed) + bytes;
        PEAK_BYTES.fetch_max(live, Relaxed);
    }
}

// SAFETY: every call goes to `System` with the caller's arguments; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promise is that of `System::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: `block` is of `System::alloc` with this layout, as all blocks of this allocator are.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs `f` and says how many bytes it held at most beyond what was there; for one thread.
pub(crate) fn peak_of<T>(f: impl FnOnce() -> T) -> (T, u64) {
    LIVE_BYTES.store(0, Relaxed);
    PEAK_BYTES.store(0, Relaxed);
    IS_ON.store(true, Relaxed);
    let result = f();
    IS_ON.store(false, Relaxed);
    (result, PEAK_BYTES.load(Relaxed).max(0) as u64)
}
