//! The way that led to the current instruction, walked backwards: over the history of the path, then over those of its
//! checkpoints.

use alloc::vec::Vec;

use ring3_isa::{AtomicOp, CallTarget, Insn, Reg};

use crate::env::{Env, Facts, InsnFlags, Slot};
use crate::state::VerifierState;

/// Instructions that are looked at, at most: a rejection shall not take longer than the walk that found it.
const STEPS_MAX: u32 = 1_000_000;

/// One conditional jump.
pub(super) struct Step {
    pub(super) at: u32,
    /// The instruction behind it on the path.
    pub(super) to: u32,
}

/// What is told of the way.
pub(super) struct Trace {
    /// Newest first.
    pub(super) decisions: Vec<Step>,
    /// There were more.
    pub(super) is_cut: bool,
    /// Per register, the instruction of the innermost frame that wrote it last.
    set_at: [Option<u32>; 10],
}

impl Trace {
    pub(super) fn of(env: &Env<'_>, decisions_max: usize) -> Trace {
        let facts = env.facts;
        let mut trace = Trace {
            decisions: Vec::new(),
            is_cut: false,
            set_at: [None; 10],
        };
        // Frames above the innermost one of the rejected instruction; below 0 in its callers.
        let mut depth = 0;
        let mut unset: u32 = 0x3ff;
        walk(env, |at, next| {
            let slot = &facts.slots[at as usize];
            depth += frames_entered(facts, at, next);
            if depth == 0 {
                let written = unset & written_by(slot);
                for number in (0..10).filter(|number| written & 1 << number != 0) {
                    trace.set_at[number] = Some(at);
                }
                unset &= !written;
            } else if depth < 0 {
                // What is left was an argument.
                unset = 0;
            }
            if matches!(slot, Slot::Insn(Insn::Jmp { .. } | Insn::MayGoto { .. })) {
                if trace.decisions.len() < decisions_max {
                    trace.decisions.push(Step { at, to: next });
                } else {
                    trace.is_cut = true;
                }
            }
            !(trace.is_cut && unset == 0)
        });
        trace
    }

    /// The instruction that gave the register its value.
    pub(super) fn set_at(&self, reg: Reg) -> Option<u32> {
        self.set_at.get(reg.index()).copied().flatten()
    }
}

/// Calls `step` with each instruction on the way and the one behind it, newest first, as long as it says so.
fn walk(env: &Env<'_>, mut step: impl FnMut(u32, u32) -> bool) {
    let mut st: &VerifierState = &env.cur;
    let mut history = st.history.cursor();
    let mut at = st.insn_idx;
    for _ in 0..STEPS_MAX {
        let next = at;
        let is_first = at == st.first_insn_idx
            && (history.len() == 0 || history.len() == 1 && history.at(at).is_some());
        if is_first {
            let Some(parent) = st.parent else { return };
            st = env.states.get(parent);
            history = st.history.cursor();
            at = st.last_insn_idx;
        } else if let Some(entry) = history.at(at) {
            at = entry.prev_idx;
            history.pop();
        } else {
            at = at.wrapping_sub(1);
        }
        if at as usize >= env.facts.slots.len() {
            return;
        }
        if !matches!(env.facts.slots[at as usize], Slot::SecondHalf) && !step(at, next) {
            return;
        }
    }
}

/// Backwards from `next` to `at`: 1 into a function that returned, -1 out of one to its caller.
fn frames_entered(facts: &Facts, at: u32, next: u32) -> i32 {
    match &facts.slots[at as usize] {
        Slot::Insn(Insn::Exit) => 1,
        Slot::Insn(Insn::Call(CallTarget::Subprog(_))) if next != at + 1 => -1,
        Slot::Insn(Insn::Call(_))
            if next != at + 1 && facts.has_flag(at, InsnFlags::CALLS_CALLBACK) =>
        {
            -1
        }
        Slot::Insn(_) | Slot::LoadImm64 { .. } | Slot::SecondHalf | Slot::Bad => 0,
    }
}

/// Registers that an instruction writes, bit per register.
fn written_by(slot: &Slot) -> u32 {
    let bit = |reg: &Reg| 1 << reg.number();
    let insn = match slot {
        Slot::LoadImm64 { dst, .. } => return bit(dst),
        Slot::SecondHalf | Slot::Bad => return 0,
        Slot::Insn(insn) => insn,
    };
    match insn {
        Insn::Alu { dst, .. }
        | Insn::Neg { dst, .. }
        | Insn::Movsx { dst, .. }
        | Insn::Endian { dst, .. }
        | Insn::AddrSpaceCast { dst, .. }
        | Insn::LoadImm64 { dst, .. }
        | Insn::Load { dst, .. }
        | Insn::Atomic {
            op: AtomicOp::LoadAcquire,
            dst,
            ..
        } => bit(dst),
        Insn::Call(_) | Insn::LoadAbs { .. } | Insn::LoadInd { .. } => 0b11_1111,
        // What an atomic operation fetches is not told: its source register keeps the label it had.
        Insn::Store { .. }
        | Insn::Atomic { .. }
        | Insn::Jmp { .. }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::MayGoto { .. }
        | Insn::Exit
        | Insn::Internal(_) => 0,
    }
}
