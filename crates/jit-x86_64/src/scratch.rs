//! Buffers that a thread's compilations hand on to the next: most programs are small, and what allocation and clearing cost would be a
//! fifth of their compilation.

use std::cell::Cell;

use crate::emit::PendingJump;
use crate::plan::Plan;

/// What compilations need and results do not keep.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) plan: Plan,
    /// Where code is written before it has a place; its contents are of no program.
    pub(crate) code: Vec<u8>,
    pub(crate) pending: Vec<PendingJump>,
}

/// Slots of programs whose buffers are kept.
const SLOTS_KEPT: usize = 16 << 10;

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Gives `body` the thread's buffers.
pub(crate) fn with<R>(body: impl FnOnce(&mut Scratch) -> R) -> R {
    // A thread that ends has none.
    let kept = SCRATCH.try_with(Cell::take).unwrap_or_default();
    let mut scratch = kept.unwrap_or_default();
    let result = body(&mut scratch);
    if scratch.plan.slots.capacity() <= SLOTS_KEPT {
        let _ = SCRATCH.try_with(|cell| cell.set(Some(scratch)));
    }
    result
}
