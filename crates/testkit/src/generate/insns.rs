//! Short forms of instructions, and the choices among operations.

use ring3_isa::{AluOp, Insn, JmpOp, MemSize, Operand, RawInsn, Reg, Width, encode};

pub(super) fn slots(insn: &Insn) -> Vec<RawInsn> {
    encode(insn)
        .unwrap_or_else(|error| panic!("generated {insn:?}: {error}"))
        .to_vec()
}

pub(super) fn alu(width: Width, op: AluOp, dst: Reg, src: Operand) -> Insn {
    Insn::Alu {
        width,
        op,
        dst,
        src,
    }
}

pub(super) fn mov_imm(dst: Reg, imm: i32) -> Insn {
    alu(Width::W64, AluOp::Mov, dst, Operand::Imm(imm))
}

pub(super) fn mov(dst: Reg, src: Reg) -> Insn {
    alu(Width::W64, AluOp::Mov, dst, Operand::Reg(src))
}

pub(super) const SCALARS: [Reg; 6] = [Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5];
pub(super) const SIZES: [MemSize; 4] = [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw];
pub(super) const ALU_OPS: [AluOp; 13] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Sdiv,
    AluOp::Or,
    AluOp::And,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Mod,
    AluOp::Smod,
    AluOp::Xor,
    AluOp::Arsh,
];
pub(super) const JMP_OPS: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Set,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];
