//! Sections and exceptions: RCU, preemption, interrupts, `bpf_throw`.
//!
//! A run is one read section already, and nothing in a process can be kept from preempting it: what the verifier pairs up needs no work here.

// DIVERGES: `bpf_preempt_disable` and `bpf_local_irq_save` keep nobody from interrupting the program: a process has no right to.

use super::kfuncs;

kfuncs! { ROWS(Plain):
    bpf_rcu_read_lock() {}
    bpf_rcu_read_unlock() {}
    bpf_preempt_disable() {}
    bpf_preempt_enable() {}
    bpf_local_irq_save(flags: *mut u64) {
        // SAFETY: 1. the verifier reserved the flags' stack slot.
        unsafe { flags.write(0) }
    }
    bpf_local_irq_restore(_flags: u64) {}
}

kfuncs! { THROWS(Throw):
    /// Engines throw themselves; nothing calls this.
    bpf_throw(_cookie: u64) {}
}
