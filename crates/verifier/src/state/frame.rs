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

/// One call frame.
#[derive(Clone, Debug)]
pub(crate) struct FuncState {
    pub(crate) regs: [SharedReg; REGS],
    /// Slots from the frame pointer down.
    pub(crate) stack: Stack,
    /// Instruction that called this frame; the main frame has [`MAIN_CALLSITE`].
    pub(crate) callsite: u32,
    pub(crate) frameno: u8,
    pub(crate) subprogno: u32,
    pub(crate) async_entry_cnt: u32,
    pub(crate) callback_ret_range: RetvalRange,
    pub(crate) in_callback_fn: bool,
    pub(crate) in_async_callback_fn: bool,
    pub(crate) in_exception_callback_fn: bool,
    /// How often a callback was simulated by its caller's frame.
    pub(crate) callback_depth: u32,
}

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
            frameno,
            subprogno,
            async_entry_cnt: 0,
            callback_ret_range: RetvalRange { min: 0, max: 0 },
            in_callback_fn: false,
            in_async_callback_fn: false,
            in_exception_callback_fn: false,
            callback_depth: 0,
        }
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
