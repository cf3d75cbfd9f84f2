//! One instruction backwards: what is wanted before it, given what is wanted after it. Kernel counterpart: `backtrack_insn`.

use ring3_isa::{AtomicOp, CallTarget, Insn, Operand, Reg};
use ring3_uapi::FuncId;

use super::wanted::{BacktrackState, RegMask, SlotMask, sync_linked};
use crate::env::{Facts, InsnFlags, Linkage, Slot};
use crate::error::{Check, Violation};
use crate::log::insn::log_insn;
use crate::log::{Log, vlog};
use crate::state::{HistFlags, JmpHistoryEntry};

/// r1 to r5.
pub(super) const ARGS: u32 = 0b11_1110;

/// What a step backwards came to.
pub(super) enum Step {
    Done,
    /// The walk cannot follow.
    GiveUp,
}

/// Transforms the wanted set backwards over one instruction.
pub(super) fn backtrack_insn(
    facts: &Facts,
    log: &mut Log,
    idx: u32,
    subseq_idx: i64,
    hist: Option<&JmpHistoryEntry>,
    bt: &mut BacktrackState,
) -> Check<Step> {
    let slot = &facts.slots[idx as usize];
    if let Slot::SecondHalf = slot {
        return Ok(Step::Done);
    }
    if log.is_level2() {
        vlog!(
            log,
            "mark_precise: frame{}: regs={} stack={} before {idx}: ",
            bt.frame,
            RegMask(bt.reg_mask()),
            SlotMask(bt.slot_mask())
        );
        log_insn(log, facts, idx);
    }
    sync_linked(bt, hist);
    let insn = match slot {
        Slot::Insn(insn) => insn,
        Slot::LoadImm64 { dst, .. } => {
            bt.clear(*dst);
            sync_linked(bt, hist);
            return Ok(Step::Done);
        }
        Slot::SecondHalf | Slot::Bad => return Ok(Step::Done),
    };
    let stack_access = hist
        .filter(|h| h.flags.has(HistFlags::STACK_ACCESS))
        .map(|h| h.flags);
    match insn {
        Insn::Alu { op, dst, src, .. } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            if *op == ring3_isa::AluOp::Mov {
                bt.clear(*dst);
            }
            if let Operand::Reg(src) = src
                && *src != Reg::FP
            {
                bt.set(*src);
            }
        }
        Insn::Movsx { dst, src, .. } | Insn::AddrSpaceCast { dst, src, .. } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            bt.clear(*dst);
            if *src != Reg::FP {
                bt.set(*src);
            }
        }
        Insn::Neg { dst, .. } | Insn::Endian { dst, .. } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            return Ok(Step::Done);
        }
        Insn::Load { dst, .. }
        | Insn::Atomic {
            op: AtomicOp::LoadAcquire,
            dst,
            ..
        } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            bt.clear(*dst);
            let Some(flags) = stack_access else {
                return Ok(Step::Done);
            };
            bt.set_frame_slot(flags.frame(), flags.spi());
        }
        Insn::Store { dst, .. } | Insn::Atomic { dst, .. } => {
            if bt.has(*dst) {
                return Ok(Step::GiveUp);
            }
            let Some(flags) = stack_access else {
                return Ok(Step::Done);
            };
            let (frame, bit) = (flags.frame() as usize, 1u64 << flags.spi());
            if bt.slots[frame] & bit == 0 {
                return Ok(Step::Done);
            }
            bt.slots[frame] &= !bit;
            match insn {
                Insn::Store {
                    src: Operand::Reg(src),
                    ..
                }
                | Insn::Atomic { src, .. } => bt.set(*src),
                _ => {}
            }
        }
        Insn::Call(CallTarget::Subprog(distance)) => {
            let entry = (idx + 1).wrapping_add_signed(*distance);
            let Some(subprog) = facts.subprog_at(entry) else {
                return Err(Violation::bug("backtracking: call of no subprog"));
            };
            if facts.subprogs[subprog as usize].linkage == Linkage::Global {
                if bt.reg_mask() & ARGS != 0 {
                    return Err(Violation::bug(format_args!(
                        "global subprog unexpected regs {:x}",
                        bt.reg_mask()
                    )));
                }
                bt.clear(Reg::R0);
                return Ok(Step::Done);
            }
            if bt.reg_mask() & !ARGS != 0 {
                return Err(Violation::bug(format_args!(
                    "static subprog unexpected regs {:x}",
                    bt.reg_mask()
                )));
            }
            if bt.slot_mask() != 0 {
                return Err(Violation::bug(format_args!(
                    "static subprog leftover stack slots {:x}",
                    bt.slot_mask()
                )));
            }
            let args = bt.reg_mask();
            bt.regs[bt.frame as usize] = 0;
            bt.leave()?;
            bt.regs[bt.frame as usize] |= args;
            return Ok(Step::Done);
        }
        Insn::Call(target) => {
            if facts.has_flag(idx, InsnFlags::CALLS_CALLBACK) && i64::from(idx) != subseq_idx - 1 {
                if bt.reg_mask() & !ARGS != 0 {
                    return Err(Violation::bug(format_args!(
                        "callback unexpected regs {:x}",
                        bt.reg_mask()
                    )));
                }
                if bt.slot_mask() != 0 {
                    return Err(Violation::bug(format_args!(
                        "callback leftover stack slots {:x}",
                        bt.slot_mask()
                    )));
                }
                bt.regs[bt.frame as usize] = 0;
                bt.leave()?;
                return Ok(Step::Done);
            }
            if let CallTarget::Kfunc { id: 0, .. } = target {
                return Ok(Step::GiveUp);
            }
            bt.clear(Reg::R0);
            if bt.reg_mask() & ARGS != 0 {
                return Err(Violation::bug(format_args!(
                    "backtracking call unexpected regs {:x}",
                    bt.reg_mask()
                )));
            }
            if let CallTarget::Helper(id) = target
                && *id == FuncId::TailCall.raw() as i32
                && subseq_idx - i64::from(idx) != 1
            {
                bt.enter()?;
            }
        }
        Insn::Exit => {
            let subseq = u32::try_from(subseq_idx).ok();
            if subseq.is_some_and(|next| facts.has_flag(next, InsnFlags::CALLS_CALLBACK)) {
                bt.regs[bt.frame as usize] &= !ARGS;
            }
            if bt.reg_mask() & ARGS != 0 {
                return Err(Violation::bug(format_args!(
                    "backtracking exit unexpected regs {:x}",
                    bt.reg_mask()
                )));
            }
            let from_subprog = subseq
                .and_then(|next| next.checked_sub(1))
                .is_some_and(|call| {
                    matches!(
                        facts.slots[call as usize],
                        Slot::Insn(Insn::Call(CallTarget::Subprog(_)))
                    )
                });
            let r0_precise = from_subprog && bt.has(Reg::R0);
            bt.clear(Reg::R0);
            bt.enter()?;
            if r0_precise {
                bt.set(Reg::R0);
            }
            return Ok(Step::Done);
        }
        Insn::Jmp {
            dst,
            src: Operand::Reg(src),
            ..
        } => {
            if !bt.has(*dst) && !bt.has(*src) {
                return Ok(Step::Done);
            }
            let flags = hist.map_or(HistFlags::NONE, |h| h.flags);
            if !flags.has(HistFlags::SRC_REG_STACK) {
                bt.set(*src);
            }
            if !flags.has(HistFlags::DST_REG_STACK) {
                bt.set(*dst);
            }
        }
        Insn::Jmp {
            src: Operand::Imm(_),
            ..
        }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::MayGoto { .. } => {}
        Insn::LoadImm64 { dst, .. } => bt.clear(*dst),
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => {
            if !bt.has(Reg::R0) {
                return Ok(Step::Done);
            }
            bt.clear(Reg::R0);
            return Ok(Step::GiveUp);
        }
        Insn::Internal(_) => {}
    }
    sync_linked(bt, hist);
    Ok(Step::Done)
}
