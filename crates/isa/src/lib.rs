//! The BPF instruction set of RFC 9669 and Linux 6.18.
//!
//! Two forms of an instruction: [`RawInsn`], the 8-byte slot of the ABI, and [`Insn`], its typed meaning. One table
//! (`table`) relates them; decoder, encoder, assembler text, kernel-style disassembly and evaluation are its consumers.
//! No knowledge of programs: jumps are relative offsets, maps and functions are numbers.
#![no_std]
#![forbid(unsafe_code)]

mod insn;
mod raw;

pub use insn::{
    AluOp, AtomicOp, CallTarget, EndianOp, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width,
};
pub use raw::RawInsn;
