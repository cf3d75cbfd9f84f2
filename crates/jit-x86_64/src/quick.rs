//! The common instructions straight from their slots.
//!
//! Most of what compiling costs is mispredicted branches: decoding branches on the instruction, and so does every match on the result. For the
//! forms that make up nine tenths of programs (arithmetic, moves, shifts by constants, loads, stores, conditional jumps) a table of 256 rows,
//! made once from `isa`'s decoder, says all that encoding needs, and one branch per instruction is left. Forms with variants in other
//! fields, reserved fields that are set, and everything rare go the long way (`emit`), which means the same.

use std::sync::LazyLock;

use ring3_isa::{AluOp, Insn, JmpOp, LoadMode, MemSize, Operand, RawInsn, Width, decode};

use crate::asm::{
    Arith, Cond, Mem, Op, Shift, arith_op, imul_op, load_op, load_sx_op, mov_op, store_op,
};
use crate::emit::{Emitter, Src};
use crate::jmp::condition;
use crate::regs::{Pair, X};

/// What to write.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Nothing: go the long way.
    Long,
    /// Between registers, by its operation code.
    Regs(Op),
    /// A move of 64 bits.
    Mov,
    MovImm,
    AddImm(Arith),
    AndImm,
    OrImm(Arith),
    Mul(Op),
    MulImm,
    ShiftImm(Shift),
    Load(Op),
    Store(Op),
    StoreImm(MemSize),
    JmpReg(Cond),
    JmpImm(Cond),
}

#[derive(Clone, Copy, Debug)]
struct Row {
    kind: Kind,
    width: Width,
    /// Bits of the slot that must be zero.
    zero: u64,
}

const SRC: u64 = 0xf000;
const OFF: u64 = 0xffff_0000;
const IMM: u64 = 0xffff_ffff << 32;

static ROWS: LazyLock<[Row; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| {
        let long = Row {
            kind: Kind::Long,
            width: Width::W64,
            zero: 0,
        };
        decode(&[RawInsn::new(code as u8, 0, 0, 0, 0)], 0)
            .map_or(long, |(insn, _)| row(&insn).unwrap_or(long))
    })
});

fn row(insn: &Insn) -> Option<Row> {
    let arith = |op| match op {
        AluOp::Add => Some(Arith::Add),
        AluOp::Sub => Some(Arith::Sub),
        AluOp::Or => Some(Arith::Or),
        AluOp::And => Some(Arith::And),
        AluOp::Xor => Some(Arith::Xor),
        AluOp::Mul
        | AluOp::Div
        | AluOp::Sdiv
        | AluOp::Lsh
        | AluOp::Rsh
        | AluOp::Mod
        | AluOp::Smod
        | AluOp::Mov
        | AluOp::Arsh => None,
    };
    let row = match *insn {
        Insn::Alu {
            width,
            op: AluOp::Mov,
            src: Operand::Reg(_),
            ..
        } => Row {
            kind: match width {
                Width::W64 => Kind::Mov,
                Width::W32 => Kind::Regs(mov_op(width)),
            },
            width,
            zero: OFF | IMM,
        },
        Insn::Alu {
            width,
            op: AluOp::Mul,
            src: Operand::Reg(_),
            ..
        } => Row {
            kind: Kind::Mul(imul_op(width)),
            width,
            zero: OFF | IMM,
        },
        Insn::Alu {
            width,
            op,
            src: Operand::Reg(_),
            ..
        } => Row {
            kind: Kind::Regs(arith_op(arith(op)?, width)),
            width,
            zero: OFF | IMM,
        },
        Insn::Alu {
            width,
            op,
            src: Operand::Imm(_),
            ..
        } => {
            let kind = match op {
                AluOp::Lsh => Kind::ShiftImm(Shift::Shl),
                AluOp::Rsh => Kind::ShiftImm(Shift::Shr),
                AluOp::Arsh => Kind::ShiftImm(Shift::Sar),
                AluOp::Mov => Kind::MovImm,
                AluOp::Mul => Kind::MulImm,
                _ => match arith(op)? {
                    Arith::And => Kind::AndImm,
                    arith @ (Arith::Add | Arith::Sub) => Kind::AddImm(arith),
                    arith => Kind::OrImm(arith),
                },
            };
            Row {
                kind,
                width,
                zero: OFF | SRC,
            }
        }
        Insn::Load { size, mode, .. } => {
            let op = match mode {
                LoadMode::ZeroExtend => load_op(size),
                LoadMode::SignExtend => load_sx_op(size),
            };
            Row {
                kind: Kind::Load(op),
                width: Width::W64,
                zero: IMM,
            }
        }
        Insn::Store {
            size,
            src: Operand::Reg(_),
            ..
        } => Row {
            kind: Kind::Store(store_op(size)),
            width: Width::W64,
            zero: IMM,
        },
        Insn::Store {
            size,
            src: Operand::Imm(_),
            ..
        } => Row {
            kind: Kind::StoreImm(size),
            width: Width::W64,
            zero: SRC,
        },
        // `test` has encodings of its own.
        Insn::Jmp { op: JmpOp::Set, .. } => return None,
        Insn::Jmp {
            width,
            op,
            src: Operand::Reg(_),
            ..
        } => Row {
            kind: Kind::JmpReg(condition(op)),
            width,
            zero: IMM,
        },
        Insn::Jmp {
            width,
            op,
            src: Operand::Imm(_),
            ..
        } => Row {
            kind: Kind::JmpImm(condition(op)),
            width,
            zero: SRC,
        },
        _ => return None,
    };
    Some(row)
}

impl Emitter<'_> {
    /// Writes the instruction at `slot` if it is one of the common ones. Not for checked or blinded programs, nor for functions that name other
    /// registers than there are.
    #[inline(always)]
    pub(crate) fn quick(&mut self, slot: usize, raw: RawInsn) -> bool {
        let row = &ROWS[raw.code as usize];
        let bits = u64::from_le_bytes(raw.to_bytes());
        let (dst, src) = (X::of_field(raw.dst()), X::of_field(raw.src()));
        if bits & row.zero != 0 {
            return false;
        }
        match row.kind {
            Kind::Long => return false,
            Kind::Regs(op) => self.asm.registers(op, Pair::source_destination(raw.regs)),
            // To itself it is nothing.
            Kind::Mov if dst == src => {}
            Kind::Mov => {
                let pair = Pair::source_destination(raw.regs);
                self.asm.registers(mov_op(Width::W64), pair);
            }
            Kind::Mul(op) => self.asm.registers(op, Pair::destination_source(raw.regs)),
            Kind::MulImm => self.mul(row.width, dst, Src::Imm(raw.imm)),
            Kind::MovImm => self.mov(row.width, dst, Src::Imm(raw.imm)),
            Kind::AddImm(arith) => self.add_sub(arith, row.width, dst, Src::Imm(raw.imm)),
            Kind::AndImm => self.and(row.width, dst, Src::Imm(raw.imm)),
            Kind::OrImm(arith) => self.or_xor(arith, row.width, dst, Src::Imm(raw.imm)),
            Kind::ShiftImm(shift) => {
                let count = raw.imm as u32 & (row.width.bits() - 1);
                if count == 0 {
                    return false;
                }
                self.asm.shift_ri(shift, row.width, dst, count as u8);
            }
            Kind::Load(op) => {
                if self.is_probe(slot) {
                    return false;
                }
                let pair = Pair::destination_source(raw.regs);
                self.asm.access(op, pair, raw.off);
            }
            Kind::Store(op) => {
                let pair = Pair::source_destination(raw.regs);
                self.asm.access(op, pair, raw.off);
            }
            Kind::StoreImm(size) => self
                .asm
                .store_imm(size, Mem::at(dst, raw.off.into()), raw.imm),
            Kind::JmpReg(_) | Kind::JmpImm(_) if raw.off == 0 => {}
            Kind::JmpReg(cond) => {
                self.asm.arith_rr(Arith::Cmp, row.width, dst, src);
                self.jump_by(slot, raw.off, cond);
            }
            Kind::JmpImm(cond) => {
                if raw.imm == 0 {
                    self.asm.test_rr(row.width, dst, dst);
                } else {
                    self.asm.arith_ri(Arith::Cmp, row.width, dst, raw.imm);
                }
                self.jump_by(slot, raw.off, cond);
            }
        }
        true
    }

    fn jump_by(&mut self, slot: usize, off: i16, cond: Cond) {
        let target = (slot as i64 + 1 + i64::from(off)) as usize;
        self.jump_to(slot, target, Some(cond));
    }
}
