//! `VerifierState`: one path's knowledge at one instruction.
//!
//! Frames are shared between copies until they change ([`VerifierState::frame_mut`]), so that a copy costs a few counters.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use ring3_isa::Reg;

use super::frame::{FuncState, SharedReg};
use super::history::JmpHistory;
use super::refs::Refs;
use super::reg::RegState;
use super::shared::Shared;

/// A stored state, see `states`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StateId(NonZeroU32);

impl StateId {
    /// The state at an index of the table.
    #[inline]
    pub(crate) fn at(index: u32) -> StateId {
        StateId(NonZeroU32::MIN.saturating_add(index))
    }

    /// Index in the table.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One path's knowledge.
#[derive(Clone, Debug)]
pub(crate) struct VerifierState {
    /// The innermost frame.
    frame: Rc<FuncState>,
    /// Its callers, the main frame first.
    callers: Shared<Vec<Rc<FuncState>>>,
    /// Index of the innermost frame.
    pub(crate) curframe: u8,
    /// The checkpoint this path passed last.
    pub(crate) parent: Option<StateId>,
    pub(crate) insn_idx: u32,
    pub(crate) first_insn_idx: u32,
    pub(crate) last_insn_idx: u32,
    pub(crate) refs: Shared<Refs>,
    /// This path is walked only by the processor's speculation.
    pub(crate) speculative: bool,
    pub(crate) in_sleepable: bool,
    /// For back-edges: the state it was found to be covered by.
    pub(crate) equal_state: Option<StateId>,
    pub(crate) history: JmpHistory,
    pub(crate) dfs_depth: u32,
    pub(crate) callback_unroll_depth: u32,
    pub(crate) may_goto_depth: u32,
}

impl VerifierState {
    /// A path at the entry of a function.
    pub(crate) fn new(frame: FuncState) -> Self {
        VerifierState {
            frame: Rc::new(frame),
            callers: Shared::default(),
            curframe: 0,
            parent: None,
            insn_idx: 0,
            first_insn_idx: 0,
            last_insn_idx: 0,
            refs: Shared::default(),
            speculative: false,
            in_sleepable: false,
            equal_state: None,
            history: JmpHistory::default(),
            dfs_depth: 0,
            callback_unroll_depth: 0,
            may_goto_depth: 0,
        }
    }

    /// The frame with this number; callers name frames that exist (`0..=curframe`).
    #[inline]
    pub(crate) fn frame(&self, frameno: u8) -> &FuncState {
        self.frame_rc(frameno)
    }

    /// The frame with this number, to be kept: it does not change any more.
    pub(crate) fn shared_frame(&self, frameno: u8) -> Rc<FuncState> {
        Rc::clone(self.frame_rc(frameno))
    }

    #[inline]
    fn frame_rc(&self, frameno: u8) -> &Rc<FuncState> {
        if frameno == self.curframe {
            return &self.frame;
        }
        match self.callers.get(frameno as usize) {
            Some(frame) => frame,
            None => unreachable!(
                "frame {frameno} of a state with {} frames",
                self.curframe + 1
            ),
        }
    }

    /// The frame with this number, for a change.
    #[inline]
    pub(crate) fn frame_mut(&mut self, frameno: u8) -> &mut FuncState {
        if frameno == self.curframe {
            return Rc::make_mut(&mut self.frame);
        }
        match self.callers.get_mut(frameno as usize) {
            Some(frame) => Rc::make_mut(frame),
            None => unreachable!(
                "frame {frameno} of a state with {} frames",
                self.curframe + 1
            ),
        }
    }

    /// The innermost frame.
    #[inline]
    pub(crate) fn cur_frame(&self) -> &FuncState {
        &self.frame
    }

    /// The innermost frame, for a change.
    #[inline]
    pub(crate) fn cur_frame_mut(&mut self) -> &mut FuncState {
        Rc::make_mut(&mut self.frame)
    }

    /// A register of the innermost frame.
    #[inline]
    pub(crate) fn reg(&self, reg: Reg) -> &RegState {
        &self.cur_frame().regs[reg.index()]
    }

    /// A register of the innermost frame, for a change.
    #[inline]
    pub(crate) fn reg_mut(&mut self, reg: Reg) -> &mut RegState {
        &mut self.cur_frame_mut().regs[reg.index()]
    }

    /// A register of the innermost frame, to be shared.
    #[inline]
    pub(crate) fn shared_reg(&self, reg: Reg) -> SharedReg {
        self.cur_frame().regs[reg.index()].clone()
    }

    /// A register of the innermost frame becomes another's copy.
    #[inline]
    pub(crate) fn share_reg(&mut self, reg: Reg, from: SharedReg) {
        self.cur_frame_mut().regs[reg.index()] = from;
    }

    /// Replaces a register of the innermost frame.
    #[inline]
    pub(crate) fn set_reg(&mut self, reg: Reg, state: RegState) {
        self.cur_frame_mut().regs[reg.index()].set(state);
    }

    /// The innermost frame simulates no callback any more.
    pub(crate) fn end_callbacks(&mut self) {
        if self.cur_frame().stack.callbacks().depth != 0 {
            self.cur_frame_mut().stack.callbacks_mut().depth = 0;
        }
    }

    /// Enters a callee: `frame.frameno` must be `curframe + 1`, below the limit.
    pub(crate) fn push_frame(&mut self, frame: FuncState) {
        self.curframe += 1;
        let caller = core::mem::replace(&mut self.frame, Rc::new(frame));
        self.callers.push(caller);
    }

    /// Leaves the innermost frame for its caller.
    pub(crate) fn pop_frame(&mut self) {
        if let Some(caller) = self.callers.pop() {
            self.frame = caller;
            self.curframe -= 1;
        }
    }

    /// The frame, if it exists.
    #[inline]
    pub(crate) fn get_frame(&self, frameno: u8) -> Option<&FuncState> {
        (frameno <= self.curframe).then(|| self.frame(frameno))
    }

    /// The instruction at which a frame stands: this path's own, or that of the call into the next frame.
    #[inline]
    pub(crate) fn frame_insn_idx(&self, frameno: u8) -> u32 {
        if frameno == self.curframe {
            self.insn_idx
        } else {
            self.frame(frameno + 1).callsite
        }
    }

    /// Applies `f` to every register and spilled register of all frames for which `pick` holds; the others stay shared
    /// (`bpf_for_each_reg_in_vstate`).
    pub(crate) fn change_regs(
        &mut self,
        pick: impl Fn(&RegState) -> bool,
        mut f: impl FnMut(&mut RegState),
    ) {
        for frameno in 0..=self.curframe {
            let frame = self.frame(frameno);
            let hit = frame.regs.iter().any(|reg| pick(reg))
                || frame
                    .stack
                    .any_written(|slot| slot.is_spilled_reg() && pick(slot.spilled()));
            if !hit {
                continue;
            }
            let frame = self.frame_mut(frameno);
            for reg in &mut frame.regs {
                if pick(reg) {
                    f(reg);
                }
            }
            frame.stack.change(
                |slot| slot.is_spilled_reg() && pick(slot.spilled()),
                |_, slot| f(slot.spilled_mut()),
            );
        }
    }
}
