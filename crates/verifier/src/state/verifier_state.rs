//! `VerifierState`: one path's knowledge at one instruction, and `JmpHistoryEntry`, how the path came there.
//!
//! Frames are shared between copies until they change ([`VerifierState::frame_mut`]), so that a copy costs a few counters.

use alloc::rc::Rc;
use alloc::vec::Vec;

use ring3_isa::Reg;
use ring3_uapi::limits::CALL_FRAMES_MAX;

use super::frame::FuncState;
use super::refs::Refs;
use super::reg::RegState;

/// A stored state, see `states`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StateId(pub(crate) u32);

/// One step of a path that cannot be told from the program text alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JmpHistoryEntry {
    pub(crate) idx: u32,
    pub(crate) prev_idx: u32,
    /// See [`HistFlags`].
    pub(crate) flags: HistFlags,
    /// Registers and slots that shared an id at this instruction, packed by `backtrack`; 0 if none.
    pub(crate) linked_regs: u64,
}

/// What a history entry says besides the jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistFlags(pub(crate) u16);

impl HistFlags {
    pub(crate) const NONE: HistFlags = HistFlags(0);
    /// The instruction reads or writes the stack, though not through r10: frame in bits 0..3, slot in bits 3..9.
    pub(crate) const STACK_ACCESS: HistFlags = HistFlags(1 << 9);
    /// Destination of a conditional jump held a scalar... was one of its operands' kinds (6.18: `INSN_F_DST_REG_STACK`).
    pub(crate) const DST_REG_STACK: HistFlags = HistFlags(1 << 10);
    /// As above, for the source.
    pub(crate) const SRC_REG_STACK: HistFlags = HistFlags(1 << 11);

    #[inline]
    pub(crate) const fn stack(frame: u8, spi: u32) -> HistFlags {
        HistFlags(Self::STACK_ACCESS.0 | (frame as u16 & 7) | ((spi as u16 & 0x3f) << 3))
    }

    #[inline]
    pub(crate) const fn has(self, flags: HistFlags) -> bool {
        self.0 & flags.0 != 0
    }

    #[inline]
    pub(crate) const fn with(self, flags: HistFlags) -> HistFlags {
        HistFlags(self.0 | flags.0)
    }

    #[inline]
    pub(crate) const fn frame(self) -> u8 {
        (self.0 & 7) as u8
    }

    #[inline]
    pub(crate) const fn spi(self) -> u32 {
        (self.0 >> 3 & 0x3f) as u32
    }
}

/// One path's knowledge.
#[derive(Clone, Debug)]
pub(crate) struct VerifierState {
    frames: [Option<Rc<FuncState>>; CALL_FRAMES_MAX],
    /// Index of the innermost frame.
    pub(crate) curframe: u8,
    /// Paths that started here and have not ended; only of stored states and of the current one.
    pub(crate) branches: u32,
    /// The checkpoint this path passed last.
    pub(crate) parent: Option<StateId>,
    pub(crate) insn_idx: u32,
    pub(crate) first_insn_idx: u32,
    pub(crate) last_insn_idx: u32,
    pub(crate) refs: Refs,
    /// This path is walked only by the processor's speculation.
    pub(crate) speculative: bool,
    pub(crate) in_sleepable: bool,
    pub(crate) cleaned: bool,
    /// For back-edges: the state it was found to be covered by.
    pub(crate) equal_state: Option<StateId>,
    pub(crate) history: Vec<JmpHistoryEntry>,
    pub(crate) dfs_depth: u32,
    pub(crate) callback_unroll_depth: u32,
    pub(crate) may_goto_depth: u32,
}

impl VerifierState {
    /// A path at the entry of a function.
    pub(crate) fn new(frame: FuncState) -> Self {
        let mut frames = [const { None }; CALL_FRAMES_MAX];
        frames[0] = Some(Rc::new(frame));
        VerifierState {
            frames,
            curframe: 0,
            branches: 1,
            parent: None,
            insn_idx: 0,
            first_insn_idx: 0,
            last_insn_idx: 0,
            refs: Refs::default(),
            speculative: false,
            in_sleepable: false,
            cleaned: false,
            equal_state: None,
            history: Vec::new(),
            dfs_depth: 0,
            callback_unroll_depth: 0,
            may_goto_depth: 0,
        }
    }

    /// The frame with this number; callers name frames that exist (`0..=curframe`).
    #[inline]
    pub(crate) fn frame(&self, frameno: u8) -> &FuncState {
        match &self.frames[frameno as usize] {
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
        match &mut self.frames[frameno as usize] {
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
        self.frame(self.curframe)
    }

    /// The innermost frame, for a change.
    #[inline]
    pub(crate) fn cur_frame_mut(&mut self) -> &mut FuncState {
        self.frame_mut(self.curframe)
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

    /// Enters a callee: `frame.frameno` must be `curframe + 1`, below the limit.
    pub(crate) fn push_frame(&mut self, frame: FuncState) {
        self.curframe += 1;
        self.frames[self.curframe as usize] = Some(Rc::new(frame));
    }

    /// Leaves the innermost frame for its caller.
    pub(crate) fn pop_frame(&mut self) {
        self.frames[self.curframe as usize] = None;
        self.curframe -= 1;
    }

    /// The frame, if it exists.
    #[inline]
    pub(crate) fn get_frame(&self, frameno: u8) -> Option<&FuncState> {
        self.frames.get(frameno as usize)?.as_deref()
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
                    .iter()
                    .any(|slot| slot.is_spilled_reg() && pick(slot.spilled()));
            if !hit {
                continue;
            }
            let frame = self.frame_mut(frameno);
            for reg in &mut frame.regs {
                if pick(reg) {
                    f(reg);
                }
            }
            for slot in &mut frame.stack {
                if slot.is_spilled_reg() && pick(slot.spilled()) {
                    f(slot.spilled_mut());
                }
            }
        }
    }
}
