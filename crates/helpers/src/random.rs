//! Random numbers and places: prandom, CPU and NUMA node.

use crate::bind::implement;

implement! { ROWS:
    /// Not for secrets, as the kernel's is not.
    GetPrandomU32() { u64::from(ring3_sync::rcu::thread().next_random()) }
    GetSmpProcessorId() { u64::from(ring3_sync::rcu::section_cpu()) }
    /// One node, as on every machine that does not say otherwise.
    GetNumaNodeId() { 0u64 }
}
