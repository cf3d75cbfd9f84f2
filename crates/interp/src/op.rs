//! `Step`: one pre-decoded instruction, and `Op`, what it does. One `Op` per operation, width and kind of second operand, so that nothing is
//! left to decide when it runs. Neighbours: `predecode` makes steps, `step` has the function behind each `Op`.

use ring3_isa::{AluOp, JmpOp, Operand, Width};

use crate::run::{Handler, Unchecked};

/// One pre-decoded instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Step {
    /// What the unchecked mode calls: the function behind `op`, or one that does this step and some after it (`fuse`).
    pub(crate) handler: Handler<Unchecked>,
    /// Second operand, address of a function, or index into one of the program's side tables.
    pub(crate) imm: u64,
    /// Memory displacement in bytes, or distance of a jump or call in steps from this step.
    pub(crate) off: i32,
    /// Register number below 12.
    pub(crate) dst: u8,
    /// Register number below 12.
    pub(crate) src: u8,
    pub(crate) op: Op,
}

const _: () = assert!(size_of::<Step>() == 24);

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    Add64,
    Add64Imm,
    Add32,
    Add32Imm,
    Sub64,
    Sub64Imm,
    Sub32,
    Sub32Imm,
    Mul64,
    Mul64Imm,
    Mul32,
    Mul32Imm,
    Div64,
    Div64Imm,
    Div32,
    Div32Imm,
    Sdiv64,
    Sdiv64Imm,
    Sdiv32,
    Sdiv32Imm,
    Or64,
    Or64Imm,
    Or32,
    Or32Imm,
    And64,
    And64Imm,
    And32,
    And32Imm,
    Lsh64,
    Lsh64Imm,
    Lsh32,
    Lsh32Imm,
    Rsh64,
    Rsh64Imm,
    Rsh32,
    Rsh32Imm,
    Mod64,
    Mod64Imm,
    Mod32,
    Mod32Imm,
    Smod64,
    Smod64Imm,
    Smod32,
    Smod32Imm,
    Xor64,
    Xor64Imm,
    Xor32,
    Xor32Imm,
    Mov64,
    Mov64Imm,
    Mov32,
    Mov32Imm,
    Arsh64,
    Arsh64Imm,
    Arsh32,
    Arsh32Imm,
    JEq64,
    JEq64Imm,
    JEq32,
    JEq32Imm,
    JGt64,
    JGt64Imm,
    JGt32,
    JGt32Imm,
    JGe64,
    JGe64Imm,
    JGe32,
    JGe32Imm,
    JSet64,
    JSet64Imm,
    JSet32,
    JSet32Imm,
    JNe64,
    JNe64Imm,
    JNe32,
    JNe32Imm,
    JSgt64,
    JSgt64Imm,
    JSgt32,
    JSgt32Imm,
    JSge64,
    JSge64Imm,
    JSge32,
    JSge32Imm,
    JLt64,
    JLt64Imm,
    JLt32,
    JLt32Imm,
    JLe64,
    JLe64Imm,
    JLe32,
    JLe32Imm,
    JSlt64,
    JSlt64Imm,
    JSlt32,
    JSlt32Imm,
    JSle64,
    JSle64Imm,
    JSle32,
    JSle32Imm,
    Neg64,
    Neg32,
    Movsx8To64,
    Movsx16To64,
    Movsx32To64,
    Movsx8To32,
    Movsx16To32,
    Trunc16,
    Trunc32,
    Swap16,
    Swap32,
    Swap64,
    Load8,
    Load16,
    Load32,
    Load64,
    LoadSx8,
    LoadSx16,
    LoadSx32,
    Store8,
    Store16,
    Store32,
    Store64,
    Store8Imm,
    Store16Imm,
    Store32Imm,
    Store64Imm,
    /// imm: index into `atomics`.
    Atomic,
    /// imm: index into `rare`.
    ProbeLoad,
    ArenaLoad,
    ArenaStore,
    /// imm: the user side's upper half.
    CastToUser,
    /// imm: index into `packet_loads`.
    LoadPacket,
    Jump,
    MayGoto,
    /// imm: address of the function.
    CallHelper,
    CallWithCallback,
    /// imm: index into `given`.
    CallGiven,
    Throw,
    /// off: steps from this step to the function.
    CallSubprog,
    /// The same for a function that leaves r6 to r9 as they are.
    CallLeavingKept,
    /// imm: index into `tail_calls`.
    TailCall,
    /// imm: index into `lookups`.
    ArrayLookup,
    /// imm: bytes from one CPU's copy to the next's.
    PercpuAddr,
    /// imm: the address.
    LoadU64,
    Exit,
    Nop,
}

/// The step's `op` for an arithmetic instruction.
pub(crate) fn alu_op(width: Width, op: AluOp, src: Operand) -> Op {
    let ops = match op {
        AluOp::Add => [Op::Add64, Op::Add64Imm, Op::Add32, Op::Add32Imm],
        AluOp::Sub => [Op::Sub64, Op::Sub64Imm, Op::Sub32, Op::Sub32Imm],
        AluOp::Mul => [Op::Mul64, Op::Mul64Imm, Op::Mul32, Op::Mul32Imm],
        AluOp::Div => [Op::Div64, Op::Div64Imm, Op::Div32, Op::Div32Imm],
        AluOp::Sdiv => [Op::Sdiv64, Op::Sdiv64Imm, Op::Sdiv32, Op::Sdiv32Imm],
        AluOp::Or => [Op::Or64, Op::Or64Imm, Op::Or32, Op::Or32Imm],
        AluOp::And => [Op::And64, Op::And64Imm, Op::And32, Op::And32Imm],
        AluOp::Lsh => [Op::Lsh64, Op::Lsh64Imm, Op::Lsh32, Op::Lsh32Imm],
        AluOp::Rsh => [Op::Rsh64, Op::Rsh64Imm, Op::Rsh32, Op::Rsh32Imm],
        AluOp::Mod => [Op::Mod64, Op::Mod64Imm, Op::Mod32, Op::Mod32Imm],
        AluOp::Smod => [Op::Smod64, Op::Smod64Imm, Op::Smod32, Op::Smod32Imm],
        AluOp::Xor => [Op::Xor64, Op::Xor64Imm, Op::Xor32, Op::Xor32Imm],
        AluOp::Mov => [Op::Mov64, Op::Mov64Imm, Op::Mov32, Op::Mov32Imm],
        AluOp::Arsh => [Op::Arsh64, Op::Arsh64Imm, Op::Arsh32, Op::Arsh32Imm],
    };
    pick(width, src, ops)
}

/// The step's `op` for a conditional jump.
pub(crate) fn jmp_op(width: Width, op: JmpOp, src: Operand) -> Op {
    let ops = match op {
        JmpOp::Eq => [Op::JEq64, Op::JEq64Imm, Op::JEq32, Op::JEq32Imm],
        JmpOp::Gt => [Op::JGt64, Op::JGt64Imm, Op::JGt32, Op::JGt32Imm],
        JmpOp::Ge => [Op::JGe64, Op::JGe64Imm, Op::JGe32, Op::JGe32Imm],
        JmpOp::Set => [Op::JSet64, Op::JSet64Imm, Op::JSet32, Op::JSet32Imm],
        JmpOp::Ne => [Op::JNe64, Op::JNe64Imm, Op::JNe32, Op::JNe32Imm],
        JmpOp::Sgt => [Op::JSgt64, Op::JSgt64Imm, Op::JSgt32, Op::JSgt32Imm],
        JmpOp::Sge => [Op::JSge64, Op::JSge64Imm, Op::JSge32, Op::JSge32Imm],
        JmpOp::Lt => [Op::JLt64, Op::JLt64Imm, Op::JLt32, Op::JLt32Imm],
        JmpOp::Le => [Op::JLe64, Op::JLe64Imm, Op::JLe32, Op::JLe32Imm],
        JmpOp::Slt => [Op::JSlt64, Op::JSlt64Imm, Op::JSlt32, Op::JSlt32Imm],
        JmpOp::Sle => [Op::JSle64, Op::JSle64Imm, Op::JSle32, Op::JSle32Imm],
    };
    pick(width, src, ops)
}

fn pick(width: Width, src: Operand, [reg64, imm64, reg32, imm32]: [Op; 4]) -> Op {
    match (width, src) {
        (Width::W64, Operand::Reg(_)) => reg64,
        (Width::W64, Operand::Imm(_)) => imm64,
        (Width::W32, Operand::Reg(_)) => reg32,
        (Width::W32, Operand::Imm(_)) => imm32,
    }
}
