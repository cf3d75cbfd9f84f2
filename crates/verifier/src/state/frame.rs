//! `FuncState`: registers and stack of one call frame.

use ring3_isa::Reg;

use super::reg::RegState;
use super::shared::Shared;
use super::stack::{SLOT_BYTES, Stack};

/// Registers of a frame, r0..r10.
pub(crate) const REGS: usize = 11;

/// Bounds on the value a callback returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetvalRange {
    pub(crate) min: i32,
    pub(crate) max: i32,
}

/// States of one path differ in few registers.
pub(crate) type SharedReg = Shared<RegState>;

/// How a frame was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// By a call, or from outside.
    Called,
    /// A helper calls it.
    Callback,
    /// It runs later, on its own.
    AsyncCallback,
    /// As `AsyncCallback`, and what it returns is not looked at.
    TaskWork,
    ExceptionCallback,
}

impl FrameKind {
    #[inline]
    pub(crate) fn is_async(self) -> bool {
        matches!(self, FrameKind::AsyncCallback | FrameKind::TaskWork)
    }

    /// What a callback may return.
    pub(crate) fn result_range(self) -> RetvalRange {
        match self {
            FrameKind::Callback => RetvalRange { min: 0, max: 1 },
            FrameKind::TaskWork => RetvalRange {
                min: i32::MIN,
                max: i32::MAX,
            },
            FrameKind::Called | FrameKind::AsyncCallback | FrameKind::ExceptionCallback => {
                RetvalRange { min: 0, max: 0 }
            }
        }
    }
}

/// One call frame. With the counters before it, it takes 120 bytes: heaps give such blocks out, and back, faster than greater ones.
#[derive(Clone, Debug)]
pub(crate) struct FuncState {
    pub(crate) regs: [SharedReg; REGS],
    /// Slots from the frame pointer down.
    pub(crate) stack: Stack,
    /// Instruction that called this frame; the main frame has [`MAIN_CALLSITE`].
    pub(crate) callsite: u32,
    subprogno: u16,
    pub(crate) frameno: u8,
    pub(crate) kind: FrameKind,
}

const _: () = assert!(size_of::<FuncState>() <= 104);

/// `callsite` of the frame that nothing calls.
pub(crate) const MAIN_CALLSITE: u32 = u32::MAX;

impl FuncState {
    /// A frame at its function's entry: no register has a value but the frame pointer.
    pub(crate) fn new(callsite: u32, frameno: u8, subprogno: u32) -> Self {
        let unset = SharedReg::new(RegState::NOT_INIT);
        let mut regs = core::array::from_fn(|_| unset.clone());
        regs[Reg::FP.index()] = SharedReg::new(RegState {
            frameno,
            ..RegState::pointer(super::reg::RegType::STACK, super::reg::Extra::None)
        });
        FuncState {
            regs,
            stack: Stack::EMPTY,
            callsite,
            // A program has at most 256 functions.
            subprogno: subprogno as u16,
            frameno,
            kind: FrameKind::Called,
        }
    }

    /// The function that runs.
    #[inline]
    pub(crate) fn subprogno(&self) -> u32 {
        u32::from(self.subprogno)
    }

    #[inline]
    pub(crate) fn reg(&self, reg: Reg) -> &RegState {
        &self.regs[reg.index()]
    }

    #[inline]
    pub(crate) fn reg_mut(&mut self, reg: Reg) -> &mut RegState {
        &mut self.regs[reg.index()]
    }

    /// Bytes of stack that have slots.
    #[inline]
    pub(crate) fn allocated_stack(&self) -> i32 {
        (self.stack.len() * SLOT_BYTES) as i32
    }

    /// Makes slots for `bytes` below the frame pointer.
    pub(crate) fn grow_stack(&mut self, bytes: i32) {
        self.stack
            .grow((bytes.max(0) as usize).div_ceil(SLOT_BYTES));
    }
}
