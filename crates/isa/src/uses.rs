//! What an instruction reads, writes and where it goes: register sets and control flow, one answer per [`Insn`] variant.
//! Liveness, the control-flow graph and the JIT's register choice ask here. Facts of the instruction alone: a call of a
//! helper reads as many of r1 to r5 as its prototype has arguments, which only a caller with prototypes knows.

use core::fmt;

use crate::table;
use crate::{AluOp, AtomicOp, CallTarget, Insn, InternalInsn, JmpOp, Operand, RawInsn, Reg, Width};

/// A set of registers, r0 to r11.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RegSet(u16);

impl RegSet {
    /// No register.
    pub const EMPTY: RegSet = RegSet(0);
    /// The arguments of calls: r1 to r5.
    pub const ARGS: RegSet = RegSet(0b11_1110);
    /// What calls leave undefined, r0 (their result) included: r0 to r5.
    pub const CALLER_SAVED: RegSet = RegSet(0b11_1111);
    /// What calls preserve: r6 to r9.
    pub const CALLEE_SAVED: RegSet = RegSet(0b11_1100_0000);

    /// The set of one register.
    pub const fn of(reg: Reg) -> RegSet {
        RegSet(1 << reg.number())
    }

    /// The first `count` argument registers, at most five.
    pub const fn first_args(count: usize) -> RegSet {
        let count = if count > 5 { 5 } else { count };
        RegSet(((1 << count) - 1) << 1)
    }

    /// The set with bit `n` for register `n`; bits above 11 are dropped.
    pub const fn from_bits(bits: u16) -> RegSet {
        RegSet(bits & 0xfff)
    }

    /// Bit `n` for register `n`.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether no register is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `reg` is in the set.
    pub const fn contains(self, reg: Reg) -> bool {
        self.0 & (1 << reg.number()) != 0
    }

    /// The set with `reg`.
    #[must_use]
    pub const fn with(self, reg: Reg) -> RegSet {
        RegSet(self.0 | (1 << reg.number()))
    }

    /// Registers in either set.
    #[must_use]
    pub const fn union(self, other: RegSet) -> RegSet {
        RegSet(self.0 | other.0)
    }

    /// Registers of this set that are not in the other.
    #[must_use]
    pub const fn minus(self, other: RegSet) -> RegSet {
        RegSet(self.0 & !other.0)
    }

    /// The registers, lowest first.
    pub fn iter(self) -> impl Iterator<Item = Reg> {
        (0..12)
            .filter_map(Reg::new)
            .filter(move |reg| self.contains(*reg))
    }
}

impl fmt::Debug for RegSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The registers that an instruction reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Uses {
    /// Registers read.
    pub reads: RegSet,
    /// Registers written; those a call leaves undefined included.
    pub writes: RegSet,
    /// Of `reads`, those of which the low 32 bits suffice.
    pub reads_low: RegSet,
    /// Of `writes`, those whose upper half becomes zero by the instruction's definition.
    pub writes_low: RegSet,
}

impl Uses {
    const fn new(reads: RegSet, writes: RegSet) -> Uses {
        Uses {
            reads,
            writes,
            reads_low: RegSet::EMPTY,
            writes_low: RegSet::EMPTY,
        }
    }

    const fn at_width(self, width: Width) -> Uses {
        match width {
            Width::W32 => Uses {
                reads_low: self.reads,
                writes_low: self.writes,
                ..self
            },
            Width::W64 => self,
        }
    }
}

/// Where control goes after an instruction. Distances count slots from the slot after the instruction's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// To the next instruction.
    Next,
    /// To one place.
    Goto(i32),
    /// To the next instruction or to the place at this distance.
    Branch(i32),
    /// Out of the function.
    Exit,
}

const fn operand(src: Operand) -> RegSet {
    match src {
        Operand::Reg(reg) => RegSet::of(reg),
        Operand::Imm(_) => RegSet::EMPTY,
    }
}

const fn atomic(op: AtomicOp, dst: Reg, src: Reg) -> Uses {
    let both = RegSet::of(dst).with(src);
    match op {
        AtomicOp::Add { fetch: false }
        | AtomicOp::Or { fetch: false }
        | AtomicOp::And { fetch: false }
        | AtomicOp::Xor { fetch: false }
        | AtomicOp::StoreRelease => Uses::new(both, RegSet::EMPTY),
        AtomicOp::Add { fetch: true }
        | AtomicOp::Or { fetch: true }
        | AtomicOp::And { fetch: true }
        | AtomicOp::Xor { fetch: true }
        | AtomicOp::Xchg => Uses::new(both, RegSet::of(src)),
        AtomicOp::Cmpxchg => Uses::new(both.with(Reg::R0), RegSet::of(Reg::R0)),
        AtomicOp::LoadAcquire => Uses::new(RegSet::of(src), RegSet::of(dst)),
    }
}

impl Insn {
    /// The registers this instruction reads and writes.
    ///
    /// Calls read r1 to r5 and write r0 to r5. Packet loads read r6 (the context), and write as calls do. `exit` reads r0.
    pub const fn uses(&self) -> Uses {
        match *self {
            Insn::Alu {
                width,
                op,
                dst,
                src,
            } => {
                let reads = match op {
                    AluOp::Mov => operand(src),
                    AluOp::Add
                    | AluOp::Sub
                    | AluOp::Mul
                    | AluOp::Div
                    | AluOp::Sdiv
                    | AluOp::Or
                    | AluOp::And
                    | AluOp::Lsh
                    | AluOp::Rsh
                    | AluOp::Mod
                    | AluOp::Smod
                    | AluOp::Xor
                    | AluOp::Arsh => operand(src).with(dst),
                };
                Uses::new(reads, RegSet::of(dst)).at_width(width)
            }
            Insn::Neg { width, dst } => Uses::new(RegSet::of(dst), RegSet::of(dst)).at_width(width),
            Insn::Movsx {
                width, dst, src, ..
            } => {
                let uses = Uses::new(RegSet::of(src), RegSet::of(dst)).at_width(width);
                Uses {
                    reads_low: uses.reads,
                    ..uses
                }
            }
            Insn::Endian { size, dst, .. } => {
                let uses = Uses::new(RegSet::of(dst), RegSet::of(dst));
                match size {
                    crate::MemSize::Dw => uses,
                    _ => uses.at_width(Width::W32),
                }
            }
            Insn::AddrSpaceCast { dst, src, .. } => Uses::new(RegSet::of(src), RegSet::of(dst)),
            Insn::LoadImm64 { dst, .. } => Uses::new(RegSet::EMPTY, RegSet::of(dst)),
            Insn::LoadAbs { .. } => Uses::new(RegSet::of(Reg::R6), RegSet::CALLER_SAVED),
            Insn::LoadInd { src, .. } => {
                Uses::new(RegSet::of(Reg::R6).with(src), RegSet::CALLER_SAVED)
            }
            Insn::Load { dst, src, .. } => Uses::new(RegSet::of(src), RegSet::of(dst)),
            Insn::Store { dst, src, .. } => Uses::new(operand(src).with(dst), RegSet::EMPTY),
            Insn::Atomic { op, dst, src, .. } => atomic(op, dst, src),
            Insn::Jmp {
                width, dst, src, ..
            } => Uses::new(operand(src).with(dst), RegSet::EMPTY).at_width(width),
            Insn::Ja { .. } | Insn::Jal { .. } | Insn::MayGoto { .. } => {
                Uses::new(RegSet::EMPTY, RegSet::EMPTY)
            }
            Insn::Call(_) => Uses::new(RegSet::ARGS, RegSet::CALLER_SAVED),
            Insn::Exit => Uses::new(RegSet::of(Reg::R0), RegSet::EMPTY),
            Insn::Internal(insn) => match insn {
                InternalInsn::Nospec => Uses::new(RegSet::EMPTY, RegSet::EMPTY),
                InternalInsn::ProbeLoad { dst, src, .. }
                | InternalInsn::PercpuAddr { dst, src } => {
                    Uses::new(RegSet::of(src), RegSet::of(dst))
                }
                InternalInsn::ArenaLoad { dst, src, .. } => Uses {
                    reads_low: RegSet::of(src),
                    ..Uses::new(RegSet::of(src), RegSet::of(dst))
                },
                InternalInsn::ArenaStore { dst, src, .. } => {
                    Uses::new(operand(src).with(dst), RegSet::EMPTY)
                }
                InternalInsn::ArenaAtomic { op, dst, src, .. } => atomic(op, dst, src),
                InternalInsn::TailCall => {
                    let args = RegSet::first_args(3);
                    Uses::new(args, RegSet::EMPTY)
                }
            },
        }
    }

    /// Where control goes after this instruction. Calls return, so they are [`Flow::Next`]; a tail call may.
    pub const fn flow(&self) -> Flow {
        match *self {
            Insn::Jmp { off, .. } | Insn::MayGoto { off } => Flow::Branch(off as i32),
            Insn::Ja { off } => Flow::Goto(off as i32),
            Insn::Jal { off } => Flow::Goto(off),
            Insn::Exit => Flow::Exit,
            Insn::Alu { .. }
            | Insn::Neg { .. }
            | Insn::Movsx { .. }
            | Insn::Endian { .. }
            | Insn::AddrSpaceCast { .. }
            | Insn::LoadImm64 { .. }
            | Insn::LoadAbs { .. }
            | Insn::LoadInd { .. }
            | Insn::Load { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::Call(_)
            | Insn::Internal(_) => Flow::Next,
        }
    }

    /// The slot that this instruction, at slot `at`, may jump to; `None` for one that does not jump, or out of `i32`'s range.
    pub const fn jump_target(&self, at: usize) -> Option<i64> {
        match self.flow() {
            Flow::Goto(distance) | Flow::Branch(distance) => Some(at as i64 + 1 + distance as i64),
            Flow::Next | Flow::Exit => None,
        }
    }

    /// The slot of the subprogram that this instruction, at slot `at`, calls or takes the address of.
    pub const fn subprog_target(&self, at: usize) -> Option<i64> {
        match *self {
            Insn::Call(CallTarget::Subprog(distance)) => Some(at as i64 + 1 + distance as i64),
            // The kernel counts from the slot after the first half.
            Insn::LoadImm64 {
                value: crate::Imm64::Func(distance),
                ..
            } => Some(at as i64 + 1 + distance as i64),
            _ => None,
        }
    }
}

/// Which field of a slot holds a distance in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DistanceField {
    /// The 16-bit offset: conditional jumps, `goto`, `may_goto`.
    Offset,
    /// The 32-bit immediate: `gotol`, calls of subprograms, addresses of subprograms.
    Immediate,
}

impl RawInsn {
    /// Whether the opcode is of the class of jumps, calls and exits, in either width.
    pub const fn is_jump_class(self) -> bool {
        matches!(self.class(), table::JMP | table::JMP32)
    }

    /// The field that holds the distance of a jump, a subprogram call or a subprogram address; `None` where there is none.
    /// What moves instructions has these to adjust.
    pub const fn distance_field(self) -> Option<DistanceField> {
        let code = self.code;
        if code == table::LD | table::IMM | 0x18 {
            return match self.src() {
                table::PSEUDO_FUNC => Some(DistanceField::Immediate),
                _ => None,
            };
        }
        if !self.is_jump_class() {
            return None;
        }
        match code & 0xf0 {
            table::OP_CALL => match self.src() {
                table::PSEUDO_CALL => Some(DistanceField::Immediate),
                _ => None,
            },
            table::OP_EXIT | table::OP_TAIL_CALL => None,
            table::OP_JA if self.class() == table::JMP32 => Some(DistanceField::Immediate),
            _ => Some(DistanceField::Offset),
        }
    }

    /// The distance in slots from the following slot, for those slots that have one.
    pub const fn distance(self) -> Option<i32> {
        match self.distance_field() {
            Some(DistanceField::Offset) => Some(self.off as i32),
            Some(DistanceField::Immediate) => Some(self.imm),
            None => None,
        }
    }

    /// The slot with another distance; `None` where it has none or the distance does not fit its field.
    pub const fn with_distance(self, distance: i32) -> Option<RawInsn> {
        match self.distance_field() {
            Some(DistanceField::Offset) => {
                let off = distance as i16;
                if off as i32 == distance {
                    Some(RawInsn { off, ..self })
                } else {
                    None
                }
            }
            Some(DistanceField::Immediate) => Some(RawInsn {
                imm: distance,
                ..self
            }),
            None => None,
        }
    }
}

impl JmpOp {
    /// The condition with the operands exchanged: `a < b` is `b > a`.
    pub const fn swapped(self) -> JmpOp {
        match self {
            JmpOp::Eq => JmpOp::Eq,
            JmpOp::Ne => JmpOp::Ne,
            JmpOp::Set => JmpOp::Set,
            JmpOp::Gt => JmpOp::Lt,
            JmpOp::Lt => JmpOp::Gt,
            JmpOp::Ge => JmpOp::Le,
            JmpOp::Le => JmpOp::Ge,
            JmpOp::Sgt => JmpOp::Slt,
            JmpOp::Slt => JmpOp::Sgt,
            JmpOp::Sge => JmpOp::Sle,
            JmpOp::Sle => JmpOp::Sge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemSize, decode};

    #[test]
    fn sets_of_registers() {
        assert_eq!(RegSet::first_args(2), RegSet::of(Reg::R1).with(Reg::R2));
        assert_eq!(RegSet::first_args(9), RegSet::ARGS);
        assert!(
            RegSet::CALLER_SAVED
                .minus(RegSet::ARGS)
                .iter()
                .eq([Reg::R0])
        );
        assert_eq!(RegSet::from_bits(u16::MAX).iter().count(), 12);
    }

    #[test]
    fn a_move_does_not_read_its_destination() {
        let insn = Insn::Alu {
            width: Width::W32,
            op: AluOp::Mov,
            dst: Reg::R1,
            src: Operand::Reg(Reg::R2),
        };
        let uses = insn.uses();
        assert_eq!(
            (uses.reads, uses.writes),
            (RegSet::of(Reg::R2), RegSet::of(Reg::R1))
        );
        assert_eq!((uses.reads_low, uses.writes_low), (uses.reads, uses.writes));
    }

    #[test]
    fn cmpxchg_reads_and_writes_r0() {
        let insn = Insn::Atomic {
            op: AtomicOp::Cmpxchg,
            size: MemSize::Dw,
            dst: Reg::R1,
            src: Reg::R2,
            off: 0,
        };
        let uses = insn.uses();
        assert_eq!(uses.reads, RegSet::from_bits(0b111));
        assert_eq!(uses.writes, RegSet::of(Reg::R0));
    }

    #[test]
    fn distances_count_from_the_next_slot() {
        let goto = RawInsn::new(0x05, 0, 0, -1, 0);
        let (insn, _) = decode(&[goto], 0).unwrap();
        assert_eq!(insn.flow(), Flow::Goto(-1));
        assert_eq!(insn.jump_target(4), Some(4));
        assert_eq!(goto.with_distance(0x8000), None);
        assert_eq!(goto.with_distance(7).and_then(RawInsn::distance), Some(7));
        let gotol = RawInsn::new(0x06, 0, 0, 0, 70000);
        assert_eq!(gotol.distance(), Some(70000));
        assert_eq!(RawInsn::new(0x85, 0, 0, 0, 1).distance(), None);
        assert_eq!(
            RawInsn::new(0x85, 0, 1, 0, 9).distance_field(),
            Some(DistanceField::Immediate)
        );
        assert_eq!(RawInsn::new(0x18, 0, 4, 0, 9).distance(), Some(9));
        assert_eq!(RawInsn::new(0x95, 0, 0, 0, 0).distance(), None);
    }
}
