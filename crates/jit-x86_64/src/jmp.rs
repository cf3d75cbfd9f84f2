//! Conditional jumps, `goto`, `may_goto`.

use ring3_isa::{JmpOp, Width};

use crate::asm::{Arith, Cond};
use crate::emit::{Emitter, Src};
use crate::frame::Mode;
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
        self.jump_to(slot, target, None);
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
