//! The BPF instruction set of RFC 9669 and Linux 6.18.
//!
//! Two forms of an instruction: [`RawInsn`], the 8-byte slot of the ABI, and [`Insn`], its typed meaning. One table
//! (`table`) relates them; decoder, encoder, assembler text, kernel-style disassembly and evaluation are its consumers.
//! No knowledge of programs: jumps are relative offsets, maps and functions are numbers.
//!
//! ```
//! use ring3_isa::{AluOp, Insn, Operand, Reg, Width, decode, disasm, eval_alu64, NoNames, RawInsn};
//!
//! let slots = [RawInsn::from_bytes([0x07, 0x01, 0, 0, 8, 0, 0, 0])];
//! let (insn, slot_count) = decode(&slots, 0)?;
//! assert_eq!(insn, Insn::Alu { width: Width::W64, op: AluOp::Add, dst: Reg::R1, src: Operand::Imm(8) });
//! assert_eq!(slot_count, 1);
//! assert_eq!(disasm(&slots, &NoNames).to_string(), "(07) r1 += 8");
//! assert_eq!(eval_alu64(AluOp::Add, 1, 8), 9);
//! # Ok::<(), ring3_isa::DecodeError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod asm;
mod asm_cursor;
mod asm_line;
mod asm_memory;
mod decode;
mod disasm;
mod encode;
mod eval;
mod insn;
mod raw;
mod table;
mod text;
mod uses;

pub use asm::{AsmError, AsmResolve, Assembly, format_asm, parse_asm};
pub use decode::{DecodeError, DecodeErrorKind, Field, decode, decode_xlated};
pub use disasm::{Disasm, Names, NoNames, disasm};
pub use encode::{EncodeError, Encoded, encode};
pub use eval::{AtomicResult, eval_alu, eval_atomic, eval_extend, eval_jmp, eval_movsx, eval_neg};
pub use insn::{
    AtomicOp, CallTarget, Imm64, Insn, InternalInsn, LoadMode, MemSize, Operand, Reg, Width,
};
pub use raw::RawInsn;
pub use table::{
    AluOp, EndianOp, JmpOp, eval_alu32, eval_alu64, eval_endian, eval_jmp32, eval_jmp64,
    is_known_opcode, reserved_fields_text,
};
pub use text::{AsmNames, AsmText, asm_text};
pub use uses::{DistanceField, Flow, RegSet, Uses};

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
