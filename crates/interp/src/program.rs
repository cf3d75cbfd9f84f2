//! `Program`: a linked program ready to be interpreted. It owns the steps and the side tables; its address is the program's word in prog
//! arrays and what its callbacks point back to, so it never moves. Neighbours: `predecode` fills it, `step` runs it.

use std::any::Any;
use std::sync::{Arc, Weak};

use ring3_isa::{Insn, MemSize};
use ring3_runtime::{Arena, Callback, Entry, GivenHelperFn, LoadPacketFn, TailCallTable};

use crate::op::Step;

/// A program ready to be interpreted; clones share it.
///
/// Whoever makes it keeps alive what the [`ring3_runtime::Linked`] program refers to: maps, helpers, prog arrays.
#[derive(Clone)]
pub struct Program {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("steps", &self.inner.steps.len())
            .finish()
    }
}

impl Program {
    /// How to call the program, unchecked: for programs that the verifier accepted. The program outlives every call.
    pub fn entry(&self) -> Entry {
        Entry {
            code: crate::run::run_entry,
            data: Arc::as_ptr(&self.inner).cast(),
        }
    }

    /// As [`Program::entry`]; inside of [`watch`](crate::watch) the run is checked.
    pub fn watched_entry(&self) -> Entry {
        Entry {
            code: crate::checked::run_watched,
            data: Arc::as_ptr(&self.inner).cast(),
        }
    }

    /// Says who keeps the program alive, for callbacks that run after the program's run.
    pub fn set_owner(&self, owner: &Weak<dyn Any + Send + Sync>) {
        for record in &self.inner.callbacks {
            record.head.set_owner(owner);
        }
    }

    /// The word that prog arrays of interpreted programs hold for this program.
    pub fn tail_target(&self) -> usize {
        Arc::as_ptr(&self.inner).expose_provenance()
    }
}

/// Operands of an atomic instruction beyond those in its step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtomicSite {
    pub(crate) op: ring3_isa::AtomicOp,
    pub(crate) size: MemSize,
}

/// An array lookup in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookupSite {
    pub(crate) base: u64,
    pub(crate) stride: u32,
    pub(crate) max_entries: u32,
}

/// A legacy packet load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketSite {
    pub(crate) code: LoadPacketFn,
    pub(crate) size: MemSize,
    /// The offset is `src + imm` rather than `imm`.
    pub(crate) indirect: bool,
    pub(crate) imm: i32,
}

/// What a function pointer of an interpreted program points to. The head is the ABI's; `code` finds the rest behind it.
#[repr(C)]
pub(crate) struct CallbackRecord {
    pub(crate) head: Callback,
    /// The program that this record belongs to.
    pub(crate) program: *const Inner,
    /// First step of the function.
    pub(crate) start: usize,
}

pub(crate) struct Inner {
    pub(crate) steps: Box<[Step]>,
    /// Instruction slot of each step.
    pub(crate) slots: Box<[u32]>,
    pub(crate) atomics: Box<[AtomicSite]>,
    pub(crate) lookups: Box<[LookupSite]>,
    pub(crate) packet_loads: Box<[PacketSite]>,
    pub(crate) tail_calls: Box<[TailCallTable]>,
    /// Functions that take a sixth argument, and which.
    pub(crate) given: Box<[(GivenHelperFn, u64)]>,
    /// Instructions whose operands do not fit a step: probe and arena accesses.
    pub(crate) rare: Box<[Insn]>,
    /// One record for each function whose address is taken; steps hold their addresses.
    pub(crate) callbacks: Box<[CallbackRecord]>,
    /// First step of the exception callback.
    pub(crate) exception_callback: Option<usize>,
    pub(crate) arena: Option<Arena>,
}

// SAFETY: 1. everything but the records' `program` pointers is shared immutable data; 2. those point to the very `Inner` they are in.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Inner {
    /// The instruction slot that `step` was made from.
    pub(crate) fn slot_of(&self, step: *const Step) -> u32 {
        let offset = (step.addr().wrapping_sub(self.steps.as_ptr().addr())) / size_of::<Step>();
        self.slots.get(offset).copied().unwrap_or(u32::MAX)
    }
}
