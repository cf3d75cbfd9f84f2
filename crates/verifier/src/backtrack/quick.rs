//! Steps backwards that need nothing but the wanted registers: looked up in a table instead of taken from the instruction.
//!
//! Most instructions of a walk do not define what is wanted. For those of [`QuickStep`] that is one test of a bit.

use alloc::vec::Vec;

use ring3_isa::{AluOp, Insn, Operand, Reg};

use crate::env::Slot;

/// What an instruction does to the wanted registers of its frame, if that depends on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuickStep {
    /// The register it defines, as a bit, [`QuickStep::DROPS`] or [`QuickStep::IS_WHOLE`]; nothing changes unless it is wanted.
    defines: u16,
    /// Wanted then.
    wants: u16,
}

impl QuickStep {
    /// The register that is defined is wanted no more.
    const DROPS: u16 = 1 << 14;
    /// The whole rule must say.
    const IS_WHOLE: u16 = 1 << 15;

    /// Nothing is wanted or dropped.
    const NOTHING: QuickStep = QuickStep {
        defines: 0,
        wants: 0,
    };

    const WHOLE: QuickStep = QuickStep {
        defines: Self::IS_WHOLE,
        wants: 0,
    };

    fn of(slot: &Slot) -> QuickStep {
        let bit = |reg: Reg| 1u16 << reg.number();
        let wanted = |src: Reg| if src == Reg::FP { 0 } else { bit(src) };
        match slot {
            Slot::SecondHalf | Slot::Bad => QuickStep::NOTHING,
            Slot::LoadImm64 { dst, .. } => QuickStep {
                defines: bit(*dst) | Self::DROPS,
                wants: 0,
            },
            Slot::Insn(Insn::Alu { op, dst, src, .. }) => QuickStep {
                defines: if *op == AluOp::Mov {
                    bit(*dst) | Self::DROPS
                } else {
                    bit(*dst)
                },
                wants: match src {
                    Operand::Reg(src) => wanted(*src),
                    Operand::Imm(_) => 0,
                },
            },
            Slot::Insn(Insn::Movsx { dst, src, .. } | Insn::AddrSpaceCast { dst, src, .. }) => {
                QuickStep {
                    defines: bit(*dst) | Self::DROPS,
                    wants: wanted(*src),
                }
            }
            Slot::Insn(
                Insn::Neg { .. }
                | Insn::Endian { .. }
                | Insn::Ja { .. }
                | Insn::Jal { .. }
                | Insn::MayGoto { .. }
                | Insn::Jmp {
                    src: Operand::Imm(_),
                    ..
                },
            ) => QuickStep::NOTHING,
            Slot::Insn(
                Insn::Load { .. }
                | Insn::Store { .. }
                | Insn::Atomic { .. }
                | Insn::LoadImm64 { .. }
                | Insn::LoadAbs { .. }
                | Insn::LoadInd { .. }
                | Insn::Jmp {
                    src: Operand::Reg(_),
                    ..
                }
                | Insn::Call(_)
                | Insn::Exit
                | Insn::Internal(_),
            ) => QuickStep::WHOLE,
        }
    }

    /// The table of a program.
    pub(crate) fn table(slots: &[Slot]) -> Vec<QuickStep> {
        slots.iter().map(QuickStep::of).collect()
    }

    /// The wanted registers before the instruction; `None`: the whole rule must say.
    #[inline]
    pub(super) fn before(self, wanted: u32) -> Option<u32> {
        if self.defines & Self::IS_WHOLE != 0 {
            return None;
        }
        let defined = u32::from(self.defines & !Self::DROPS);
        if wanted & defined == 0 {
            return Some(wanted);
        }
        let kept = if self.defines & Self::DROPS != 0 {
            wanted & !defined
        } else {
            wanted
        };
        Some(kept | u32::from(self.wants))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_isa::Width;

    #[test]
    fn a_move_moves_the_mark_and_a_sum_adds_one() {
        let alu = |op| {
            Slot::Insn(Insn::Alu {
                width: Width::W64,
                op,
                dst: Reg::R1,
                src: Operand::Reg(Reg::R2),
            })
        };
        let mov = QuickStep::of(&alu(AluOp::Mov));
        let add = QuickStep::of(&alu(AluOp::Add));
        assert_eq!(mov.before(0b10), Some(0b100));
        assert_eq!(add.before(0b10), Some(0b110));
        assert_eq!(add.before(0b1000), Some(0b1000));
        assert_eq!(QuickStep::of(&Slot::Insn(Insn::Exit)).before(1), None);
    }
}
