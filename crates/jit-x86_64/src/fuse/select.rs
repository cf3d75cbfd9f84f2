//! Conditions without jumps: a move that a jump skips, and 0 or 1 by a condition.

use ring3_isa::{Operand, RawInsn, Reg};

use super::operands::comparison;
use super::{MOV32_IMM, MOV64, MOV64_IMM, Rule, x};
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

impl Emitter<'_> {
    /// `if a op b goto +1; d = s`: the move if the condition does not hold.
    pub(super) fn select(&mut self, slot: usize, jump: RawInsn) -> Option<usize> {
        let (width, op) = comparison(jump)?;
        let mov = self.follower(slot, 1)?;
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
    pub(super) fn set_condition(&mut self, slot: usize, first: RawInsn) -> Option<usize> {
        let (jump, second) = (self.follower(slot, 1)?, self.follower(slot, 2)?);
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
