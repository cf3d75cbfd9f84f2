//! Steps backwards that need nothing but the wanted registers: looked up in a table instead of taken from the instruction.
//!
//! Most instructions of a walk do not define what is wanted. For those of [`QuickStep`] that is one test of a bit.

use alloc::vec::Vec;

use ring3_isa::{AluOp, AtomicOp, CallTarget, Insn, Operand, Reg};
use ring3_uapi::FuncId;

use crate::env::{InsnFlags, Slot};

/// What an instruction does to the wanted registers of its frame, if that depends on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuickStep {
    /// Registers as bits, and flags: nothing changes unless one of them is wanted.
    concerns: u16,
    /// Wanted then; and flags.
    wants: u16,
}

/// What the path's history says of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Nothing,
    /// It has an entry; nothing but registers of the frame is wanted.
    OfNoSlot,
    /// It has an entry, and slots may be wanted.
    Something,
}

impl QuickStep {
    const REGS: u16 = (1 << 11) - 1;
    /// If a note in the history says what was done to the stack, the whole rule must say.
    const HEEDS_NOTES: u16 = 1 << 12;
    /// If a register concerned is wanted, the whole rule must say.
    const IS_GATED: u16 = 1 << 13;
    /// The register that is defined is wanted no more.
    const DROPS: u16 = 1 << 14;
    /// The whole rule must say.
    const IS_WHOLE: u16 = 1 << 15;
    /// In `wants`: with a note in the history, the whole rule must say.
    const IS_UNNOTED: u16 = 1 << 12;
    /// In `wants`: r0 is dropped, and if an argument is wanted, the whole rule must say.
    const IS_CALL: u16 = 1 << 13;
    const CALL_ARGS: u16 = 0b11_1110;

    /// Nothing is wanted or dropped.
    const NOTHING: QuickStep = QuickStep {
        concerns: 0,
        wants: 0,
    };

    const WHOLE: QuickStep = QuickStep {
        concerns: Self::IS_WHOLE,
        wants: 0,
    };

    const fn gated(concerns: u16) -> QuickStep {
        QuickStep {
            concerns: concerns | Self::IS_GATED,
            wants: 0,
        }
    }

    fn of(slot: &Slot, flags: InsnFlags) -> QuickStep {
        let bit = |reg: Reg| 1u16 << reg.number();
        let wanted = |src: Reg| if src == Reg::FP { 0 } else { bit(src) };
        match slot {
            Slot::SecondHalf | Slot::Bad => QuickStep::NOTHING,
            Slot::LoadImm64 { dst, .. } => QuickStep {
                concerns: bit(*dst) | Self::DROPS,
                wants: 0,
            },
            Slot::Insn(Insn::Alu { op, dst, src, .. }) => QuickStep {
                concerns: if *op == AluOp::Mov {
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
                    concerns: bit(*dst) | Self::DROPS,
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
                Insn::Load { dst, .. }
                | Insn::Atomic {
                    op: AtomicOp::LoadAcquire,
                    dst,
                    ..
                },
            ) => QuickStep {
                concerns: bit(*dst) | Self::DROPS,
                wants: Self::IS_UNNOTED,
            },
            Slot::Insn(Insn::Store { dst, .. } | Insn::Atomic { dst, .. }) => {
                QuickStep::gated(bit(*dst) | Self::HEEDS_NOTES)
            }
            Slot::Insn(Insn::LoadAbs { .. } | Insn::LoadInd { .. }) => {
                QuickStep::gated(bit(Reg::R0))
            }
            Slot::Insn(Insn::Jmp {
                dst,
                src: Operand::Reg(src),
                ..
            }) => QuickStep {
                concerns: bit(*dst) | bit(*src),
                wants: bit(*dst) | bit(*src) | Self::IS_UNNOTED,
            },
            Slot::Insn(Insn::Call(
                CallTarget::Helper(id)
                | CallTarget::Kfunc {
                    id: id @ (..=-1 | 1..),
                    ..
                },
            )) if !flags.has(InsnFlags::CALLS_CALLBACK) && *id != FuncId::TailCall.raw() as i32 => {
                QuickStep {
                    concerns: bit(Reg::R0) | Self::CALL_ARGS,
                    wants: Self::IS_CALL,
                }
            }
            Slot::Insn(Insn::LoadImm64 { .. } | Insn::Call(_) | Insn::Exit | Insn::Internal(_)) => {
                QuickStep::WHOLE
            }
        }
    }

    /// The table of a program.
    pub(crate) fn table(slots: &[Slot], flags: &[InsnFlags]) -> Vec<QuickStep> {
        let steps = slots.iter().zip(flags);
        steps
            .map(|(slot, &flags)| QuickStep::of(slot, flags))
            .collect()
    }

    /// Whether nothing changes where the history has no entry.
    #[inline]
    pub(super) fn is_idle(self, wanted: u32) -> bool {
        u32::from(self.concerns) & (wanted | u32::from(Self::IS_WHOLE)) == 0
    }

    /// The wanted registers before the instruction; `None`: the whole rule must say.
    #[inline]
    pub(super) fn before(self, wanted: u32, noted: Noted) -> Option<u32> {
        let concerned = u32::from(self.concerns & Self::REGS);
        let is_untold = noted == Noted::Something && self.concerns & Self::HEEDS_NOTES != 0;
        if self.concerns & Self::IS_WHOLE != 0 || is_untold {
            return None;
        }
        if wanted & concerned == 0 {
            return Some(wanted);
        }
        let is_noted = noted != Noted::Nothing && self.wants & Self::IS_UNNOTED != 0;
        if self.concerns & Self::IS_GATED != 0 || is_noted {
            return None;
        }
        if self.wants & Self::IS_CALL != 0 {
            let has_args = wanted & u32::from(Self::CALL_ARGS) != 0;
            return (!has_args).then_some(wanted & !1);
        }
        let kept = if self.concerns & Self::DROPS != 0 {
            wanted & !concerned
        } else {
            wanted
        };
        Some(kept | u32::from(self.wants & Self::REGS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_isa::{MemSize, Width};

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
        let mov = QuickStep::of(&alu(AluOp::Mov), InsnFlags::default());
        let add = QuickStep::of(&alu(AluOp::Add), InsnFlags::default());
        let before = |step: QuickStep, wanted| step.before(wanted, Noted::Nothing);
        assert_eq!(before(mov, 0b10), Some(0b100));
        assert_eq!(before(add, 0b10), Some(0b110));
        assert_eq!(before(add, 0b1000), Some(0b1000));
        let exit = QuickStep::of(&Slot::Insn(Insn::Exit), InsnFlags::default());
        assert_eq!(before(exit, 1), None);
    }

    #[test]
    fn a_load_drops_the_mark_unless_it_is_of_the_stack() {
        let load = Slot::Insn(Insn::Load {
            size: MemSize::Dw,
            mode: ring3_isa::LoadMode::ZeroExtend,
            dst: Reg::R1,
            src: Reg::R2,
            off: 0,
        });
        let load = QuickStep::of(&load, InsnFlags::default());
        assert_eq!(load.before(0b1010, Noted::Nothing), Some(0b1000));
        assert_eq!(load.before(0b1010, Noted::OfNoSlot), None);
        assert_eq!(load.before(0b1000, Noted::Something), Some(0b1000));
    }

    #[test]
    fn a_call_drops_the_mark_of_its_result() {
        let call = Slot::Insn(Insn::Call(CallTarget::Helper(1)));
        let step = QuickStep::of(&call, InsnFlags::default());
        assert_eq!(step.before(0b100_0001, Noted::Nothing), Some(0b100_0000));
        assert_eq!(step.before(0b11, Noted::Nothing), None);
        let step = QuickStep::of(&call, InsnFlags::CALLS_CALLBACK);
        assert_eq!(step.before(0b100_0000, Noted::Nothing), None);
    }

    #[test]
    fn a_store_is_passed_by_unless_the_history_knows_of_it() {
        let store = Slot::Insn(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::R1,
            off: 0,
            src: Operand::Reg(Reg::R2),
        });
        let store = QuickStep::of(&store, InsnFlags::default());
        assert_eq!(store.before(0b100, Noted::Nothing), Some(0b100));
        assert_eq!(store.before(0b100, Noted::OfNoSlot), Some(0b100));
        assert_eq!(store.before(0b100, Noted::Something), None);
        assert_eq!(store.before(0b110, Noted::Nothing), None);
    }
}
