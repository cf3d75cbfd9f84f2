//! Conditional jumps, `goto`, `may_goto`.

use ring3_isa::{JmpOp, RawInsn, Reg, Width};

use crate::asm::{Arith, Cond};
use crate::emit::{Emitter, Src};
use crate::frame::Mode;
use crate::fuse::{Rule, comparison};
use crate::regs::X;

/// The hardware's condition after `cmp`, or `test` for `Set`.
pub(crate) const fn condition(op: JmpOp) -> Cond {
    match op {
        JmpOp::Eq => Cond::E,
        JmpOp::Ne | JmpOp::Set => Cond::Ne,
        JmpOp::Gt => Cond::A,
        JmpOp::Ge => Cond::Ae,
        JmpOp::Lt => Cond::B,
        JmpOp::Le => Cond::Be,
        JmpOp::Sgt => Cond::G,
        JmpOp::Sge => Cond::Ge,
        JmpOp::Slt => Cond::L,
        JmpOp::Sle => Cond::Le,
    }
}

/// A comparison's width, operation and operands.
fn operands(jump: RawInsn) -> Option<(Width, JmpOp, X, Src)> {
    let (width, op) = comparison(jump)?;
    let src = if jump.code & 8 != 0 {
        Src::Reg(X::of(Reg::new(jump.src())?))
    } else {
        Src::Imm(jump.imm)
    };
    Some((width, op, X::of(Reg::new(jump.dst())?), src))
}

impl Emitter<'_> {
    pub(crate) fn jmp(&mut self, slot: usize, width: Width, op: JmpOp, dst: X, src: Src, off: i16) {
        if off == 0 {
            return;
        }
        self.count_back_edge(off.into());
        self.compare(width, op, dst, src);
        let target = (slot as i64 + 1 + i64::from(off)) as usize;
        self.jump_to(slot, target, Some(condition(op)));
    }

    /// Sets the flags that [`condition`] reads.
    pub(crate) fn compare(&mut self, width: Width, op: JmpOp, dst: X, src: Src) {
        match (op, src) {
            (JmpOp::Set, Src::Reg(src)) => self.asm.test_rr(width, dst, src),
            (JmpOp::Set, Src::Imm(imm)) => self.asm.test_ri(width, dst, imm),
            // Carry and overflow are clear after `test`, as they are after a comparison with 0.
            (_, Src::Imm(0)) => self.asm.test_rr(width, dst, dst),
            (_, Src::Imm(imm)) => self.asm.arith_ri(Arith::Cmp, width, dst, imm),
            (_, Src::Reg(src)) => self.asm.arith_rr(Arith::Cmp, width, dst, src),
        }
    }

    pub(crate) fn goto(&mut self, slot: usize, distance: i32) {
        if distance == 0 {
            return;
        }
        self.count_back_edge(distance);
        let target = (slot as i64 + 1 + i64::from(distance)) as usize;
        if !self.threaded(slot, target) {
            self.jump_to(slot, target, None);
        }
    }

    /// Instead of a jump in a loop to a condition: the condition, and what little stands before it. One taken jump less, and a
    /// prediction of its own for each way to it.
    fn threaded(&mut self, slot: usize, target: usize) -> bool {
        let Some(jump_slot) = self.condition_after(slot, target) else {
            return false;
        };
        self.hit(Rule::ThreadedJump);
        // The slots have, or will have, code of their own.
        let end = (jump_slot + 4).min(self.insns.len());
        let offsets = self.slot_offsets(target..end).to_vec();
        let mut at = target;
        let jump = self.insns[jump_slot];
        while at <= jump_slot {
            let goes_to = jump_slot as i64 + 1 + i64::from(jump.off);
            if at == jump_slot
                && goes_to == slot as i64 + 1
                && let Some((width, op, dst, src)) = operands(jump)
            {
                // The jump's target comes next: only the other way is a jump.
                self.set_slot_offsets(target, &offsets);
                self.compare(width, op, dst, src);
                self.jump_to(slot, jump_slot + 1, Some(condition(op).opposite()));
                return true;
            }
            let Ok(count) = self.slot_from(at, slot) else {
                // These slots compile elsewhere, or fail there.
                break;
            };
            at += count;
        }
        self.set_slot_offsets(target, &offsets);
        // A rule may have taken what follows the condition too.
        self.jump_to(slot, at, None);
        true
    }

    /// The slot of a conditional jump that is reached from `target` over a few moves and sums, in a loop that goes on by it or to it.
    fn condition_after(&self, slot: usize, target: usize) -> Option<usize> {
        const BETWEEN: usize = 3;
        let insns = self.insns;
        let is_short =
            |at: &usize| crate::live::is_pure(insns[*at].code) && !insns[*at].is_ld_imm64();
        let end = self.function_end(slot)?;
        if !self.is_quick() {
            return None;
        }
        let jump_slot = (target..end.min(target + BETWEEN + 1)).find(|at| !is_short(at))?;
        comparison(insns[jump_slot])?;
        let goes_to = jump_slot as i64 + 1 + i64::from(insns[jump_slot].off);
        let is_loop = target <= slot || goes_to <= jump_slot as i64;
        (is_loop && insns[jump_slot].off != 0 && jump_slot + 1 < end).then_some(jump_slot)
    }

    /// Jumps when the budget is used up, else uses one.
    pub(crate) fn may_goto(&mut self, slot: usize, off: i16) {
        let budget = self.frame.budget();
        self.count_back_edge(off.into());
        self.asm.arith_mi(Arith::Sub, Width::W64, budget, 1);
        let target = (slot as i64 + 1 + i64::from(off)) as usize;
        if off != 0 {
            self.jump_to(slot, target, Some(Cond::B));
        }
    }

    /// Checked programs may loop for ever; each jump back takes from the run's budget.
    fn count_back_edge(&mut self, distance: i32) {
        if self.mode == Mode::Checked && distance < 0 {
            self.check_budget();
        }
    }
}
