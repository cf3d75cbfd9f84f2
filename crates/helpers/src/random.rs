//! Random numbers and places: prandom, CPU and NUMA node.

use std::cell::Cell;

use crate::bind::implement;

thread_local! {
    /// xorshift state; 0 until the first use.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// A pseudo-random number per thread: xorshift64*, seeded from the host's entropy. Not for secrets, as the kernel's is not.
fn next_u32() -> u32 {
    STATE.with(|state| {
        let mut x = state.get();
        if x == 0 {
            use std::hash::{BuildHasher, Hasher};
            x = std::hash::RandomState::new().build_hasher().finish() | 1;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    })
}

implement! { ROWS:
    GetPrandomU32() { u64::from(next_u32()) }
    GetSmpProcessorId() { u64::from(ring3_sync::rcu::thread().section_cpu()) }
    /// One node, as on every machine that does not say otherwise.
    GetNumaNodeId() { 0u64 }
}
