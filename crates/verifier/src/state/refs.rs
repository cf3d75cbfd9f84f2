//! What a path has acquired and must give back: references, locks, saved interrupt flags.

use alloc::vec::Vec;

/// Kind of an acquired thing; a set, because lock searches name several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefKind(pub(crate) u8);

impl RefKind {
    /// A pointer to a reference-counted object.
    pub(crate) const PTR: RefKind = RefKind(1 << 1);
    /// Saved interrupt flags.
    pub(crate) const IRQ: RefKind = RefKind(1 << 2);
    /// `bpf_spin_lock`
    pub(crate) const LOCK: RefKind = RefKind(1 << 3);
    /// `bpf_res_spin_lock`
    pub(crate) const RES_LOCK: RefKind = RefKind(1 << 4);
    /// `bpf_res_spin_lock_irqsave`
    pub(crate) const RES_LOCK_IRQ: RefKind = RefKind(1 << 5);
    /// Any lock.
    pub(crate) const LOCK_MASK: RefKind = RefKind(1 << 3 | 1 << 4 | 1 << 5);

    #[inline]
    pub(crate) const fn has(self, any: RefKind) -> bool {
        self.0 & any.0 != 0
    }
}

/// The object a lock protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockOwner {
    None,
    Map(super::reg::MapIdx),
    Btf(super::reg::BtfIdx),
}

/// One acquired thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefState {
    pub(crate) kind: RefKind,
    pub(crate) id: u32,
    /// Where it was acquired.
    pub(crate) insn_idx: u32,
    pub(crate) owner: LockOwner,
}

/// Everything acquired on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refs {
    pub(crate) list: Vec<RefState>,
    pub(crate) active_locks: u32,
    pub(crate) active_preempt_locks: u32,
    pub(crate) active_irq_id: u32,
    pub(crate) active_lock_id: u32,
    pub(crate) active_lock_owner: Option<LockOwner>,
    pub(crate) active_rcu_locks: u32,
}

impl Refs {
    /// Drops the entry at `index`; the others keep their order, which the log shows.
    pub(crate) fn remove(&mut self, index: usize) {
        self.list.remove(index);
    }

    pub(crate) fn find(&self, id: u32) -> Option<&RefState> {
        self.list
            .iter()
            .find(|r| r.kind == RefKind::PTR && r.id == id)
    }
}
