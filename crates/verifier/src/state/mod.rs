//! What the verifier knows on one path: registers, stack slots, frames, acquired references.

pub(crate) mod frame;
pub(crate) mod history;
pub(crate) mod refs;
pub(crate) mod reg;
pub(crate) mod shared;
pub(crate) mod stack;
pub(crate) mod verifier_state;

pub(crate) use frame::{FrameKind, FuncState, MAIN_CALLSITE, REGS, RetvalRange, SharedReg};
pub(crate) use history::{Cursor, HistFlags, JmpHistoryEntry};
pub(crate) use refs::{LockOwner, RefKind, RefState, Refs};
pub(crate) use reg::{
    AT_PKT_END, BEYOND_PKT_END, BPF_ADD_CONST, BPF_ADD_CONST32, BPF_ADD_CONST64, BtfIdx,
    DEF_NOT_SUBREG, DynptrType, Extra, IrqClass, IterState, MapIdx, RegBase, RegState, RegType,
    TypeFlags,
};
pub(crate) use stack::{SLOT_BYTES, SlotType, Stack, StackSlot, bits};
pub(crate) use verifier_state::{StateId, VerifierState};
