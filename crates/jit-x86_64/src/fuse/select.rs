//! Conditions without jumps: a move that a jump skips, and 0 or 1 by a condition.

use ring3_isa::{JmpOp, Operand, RawInsn, Reg};

use super::operands::comparison;
use super::{MOV32_IMM, MOV64, MOV64_IMM, Rule, x};
use crate::asm::{Arith, Cond, Mem};
use crate::emit::{Emitter, Src};
use crate::jmp::condition;
use crate::regs::R9;

/// The second operand of a jump.
fn operand(jump: RawInsn) -> Option<Operand> {
    Some(if jump.code & 8 != 0 {
        Operand::Reg(Reg::new(jump.src())?)
    } else {
        Operand::Imm(jump.imm)
    })
}

fn source(operand: Operand) -> Src {
    match operand {
        Operand::Reg(reg) => Src::Reg(crate::regs::X::of(reg)),
        Operand::Imm(imm) => Src::Imm(imm),
    }
}

/// Unsigned comparisons with an immediate, `>` and `<`, of both widths.
pub(super) const RANGE_ENDS: &[u8] = &[0x25, 0x26, 0xa5, 0xa6];

impl Emitter<'_> {
    /// `if a < low goto t; if a > high goto t`, in either order: one comparison of `a - low`.
    pub(super) fn range(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let first = run[0];
        if !RANGE_ENDS.contains(&first.code) {
            return None;
        }
        let second = *run.get(1)?;
        let ((width, one), (other_width, other)) = (comparison(first)?, comparison(second)?);
        let (low, high) = match (one, other) {
            (JmpOp::Lt, JmpOp::Gt) => (first.imm, second.imm),
            (JmpOp::Gt, JmpOp::Lt) => (second.imm, first.imm),
            _ => return None,
        };
        let goes_to = |at: usize, jump: RawInsn| at as i64 + 1 + i64::from(jump.off);
        if width != other_width
            || !RANGE_ENDS.contains(&second.code)
            || first.dst() != second.dst()
            || goes_to(slot, first) != goes_to(slot + 1, second)
            || second.off == 0
            || low < 0
            || high < low
        {
            return None;
        }
        self.hit(Rule::Range);
        self.asm
            .lea(width, R9, Mem::at(x(first.dst())?, low.checked_neg()?));
        self.asm.arith_ri(Arith::Cmp, width, R9, high - low);
        let target = goes_to(slot + 1, second) as usize;
        self.jump_to(slot + 1, target, Some(Cond::A));
        Some(2)
    }

    /// `if a op b goto +1; d = s`: the move if the condition does not hold.
    pub(super) fn select(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let (jump, mov) = (run[0], *run.get(1)?);
        let (width, op) = comparison(jump)?;
        let dst = x(mov.dst())?;
        if jump.off != 1 || mov.off != 0 || self.is_dead(slot + 2, mov.dst()) {
            return None;
        }
        let src = match mov.code {
            MOV64 if mov.dst() != mov.src() => x(mov.src())?,
            MOV64_IMM => {
                self.asm.mov_imm(R9, i64::from(mov.imm) as u64);
                R9
            }
            MOV32_IMM => {
                self.asm.mov_imm(R9, u64::from(mov.imm as u32));
                R9
            }
            _ => return None,
        };
        self.hit(Rule::Select);
        let other = source(operand(jump)?);
        self.compare(width, op, x(jump.dst())?, other);
        self.asm.cmov(condition(op).opposite(), dst, src);
        Some(2)
    }

    /// `d = v; if a op b goto +1; d = 1 - v` with `v` 0 or 1: the condition itself.
    pub(super) fn set_condition(&mut self, run: &[RawInsn]) -> Option<usize> {
        let [first, jump, second, ..] = *run else {
            return None;
        };
        let (width, op) = comparison(jump)?;
        let is_bit = |mov: RawInsn| {
            matches!(mov.code, MOV64_IMM | MOV32_IMM) && mov.off == 0 && matches!(mov.imm, 0 | 1)
        };
        let is_read =
            jump.dst() == first.dst() || (jump.code & 8 != 0 && jump.src() == first.dst());
        if jump.off != 1
            || !is_bit(first)
            || !is_bit(second)
            || first.imm == second.imm
            || first.dst() != second.dst()
            || is_read
        {
            return None;
        }
        let dst = x(first.dst())?;
        // The first value stays where the jump is taken.
        let cond = match first.imm {
            1 => condition(op),
            _ => condition(op).opposite(),
        };
        self.asm.mov_imm(dst, 0);
        let other = source(operand(jump)?);
        self.compare(width, op, x(jump.dst())?, other);
        self.asm.set_byte(cond, dst);
        self.hit(Rule::SetCondition);
        Some(3)
    }
}
