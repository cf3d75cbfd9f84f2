//! Slots to [`Insn`]: exact, so that whatever decodes encodes to the same bytes. What the opcode's row in `table` says must
//! be zero is an error here; where Linux 6.18 looks away from such a field (or says so later) is the verifier's business,
//! (6.18 takes an `exit` with any offset, and a subprogram's address with any second immediate), which finds the field in [`DecodeErrorKind`] and the kernel's words in [`reserved_fields_text`](crate::reserved_fields_text).

use core::fmt;

use crate::table::{self, Form, FormRow, Origin};
use crate::{
    CallTarget, Imm64, Insn, InternalInsn, LoadMode, MemSize, Operand, RawInsn, Reg, Width,
};

/// A field of an instruction slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The operation code.
    Opcode,
    /// The destination register's number.
    Dst,
    /// The source register's number.
    Src,
    /// The 16-bit offset.
    Offset,
    /// The 32-bit immediate.
    Immediate,
}

impl Field {
    /// The field's name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Opcode => "opcode",
            Field::Dst => "destination register",
            Field::Src => "source register",
            Field::Offset => "offset",
            Field::Immediate => "immediate",
        }
    }

    const fn value(self, raw: RawInsn) -> i32 {
        match self {
            Field::Opcode => raw.code as i32,
            Field::Dst => raw.dst() as i32,
            Field::Src => raw.src() as i32,
            Field::Offset => raw.off as i32,
            Field::Immediate => raw.imm,
        }
    }
}

/// What is wrong with an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeErrorKind {
    /// There is no such slot.
    NoInsn,
    /// No instruction has this operation code.
    UnknownOpcode,
    /// A register number above 11.
    BadRegister {
        /// `Dst` or `Src`.
        field: Field,
        /// The number, 12..=15.
        number: u8,
    },
    /// A field that must be zero is not.
    Reserved {
        /// The field.
        field: Field,
        /// Its value.
        value: i32,
    },
    /// A field selects a variant that does not exist, such as a swap of 24 bits or an atomic operation 0x33.
    BadVariant {
        /// The field.
        field: Field,
        /// Its value.
        value: i32,
    },
    /// The atomic operation does not exist in the opcode's size.
    BadAtomicSize,
    /// A two-slot load without a second slot.
    NoSecondSlot,
    /// The second slot of a two-slot load has a field other than its immediate set, or an immediate that its variant
    /// does not use.
    SecondSlot {
        /// The field.
        field: Field,
        /// Its value.
        value: i32,
    },
}

/// Why a slot is not an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeError {
    /// Index of the slot.
    pub slot: usize,
    /// Its operation code (0 for `NoInsn`).
    pub code: u8,
    /// The field at fault.
    pub kind: DecodeErrorKind,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "insn {}: ", self.slot)?;
        if self.kind != DecodeErrorKind::NoInsn {
            write!(f, "opcode {:#04x}: ", self.code)?;
        }
        match self.kind {
            DecodeErrorKind::NoInsn => f.write_str("the program has no such instruction"),
            DecodeErrorKind::UnknownOpcode => f.write_str("unknown opcode"),
            DecodeErrorKind::BadRegister { field, number } => {
                write!(f, "{} r{number} does not exist", field.name())
            }
            DecodeErrorKind::Reserved { field, value } => {
                write!(f, "reserved {} {value} must be zero", field.name())
            }
            DecodeErrorKind::BadVariant { field, value } => {
                write!(
                    f,
                    "{} {value} ({value:#x}) names no variant of this opcode",
                    field.name()
                )
            }
            DecodeErrorKind::BadAtomicSize => {
                f.write_str("this atomic operation needs a size of 4 or 8 bytes")
            }
            DecodeErrorKind::NoSecondSlot => {
                f.write_str("a 64-bit immediate needs two slots, and the program ends here")
            }
            DecodeErrorKind::SecondSlot { field, value } => {
                write!(
                    f,
                    "second slot: reserved {} {value} must be zero",
                    field.name()
                )
            }
        }
    }
}

impl core::error::Error for DecodeError {}

/// The instruction at slot `at` and its number of slots (1 or 2). Register 11 decodes; programs from outside may not use it.
///
/// # Errors
/// The first of: no such slot, unknown opcode, a reserved field, an unknown variant, the second slot, a register above 11.
///
/// # Source
/// RFC 9669 section 3; Linux 6.18 for load-acquire, store-release, `may_goto`, `addr_space_cast`, `map_idx`.
pub fn decode(insns: &[RawInsn], at: usize) -> Result<(Insn, usize), DecodeError> {
    decode_from(insns, at, Origin::Program)
}

/// As [`decode`], for programs that the verifier rewrote: accepts [`InternalInsn`] too.
///
/// # Errors
/// As [`decode`].
pub fn decode_xlated(insns: &[RawInsn], at: usize) -> Result<(Insn, usize), DecodeError> {
    decode_from(insns, at, Origin::Rewrite)
}

fn decode_from(insns: &[RawInsn], at: usize, origin: Origin) -> Result<(Insn, usize), DecodeError> {
    let Some(&raw) = insns.get(at) else {
        return Err(DecodeError {
            slot: at,
            code: 0,
            kind: DecodeErrorKind::NoInsn,
        });
    };
    let fail = |kind| DecodeError {
        slot: at,
        code: raw.code,
        kind,
    };
    let row = table::form_row(raw.code)
        .filter(|row| row.origin == Origin::Program || origin == Origin::Rewrite)
        .ok_or_else(|| fail(DecodeErrorKind::UnknownOpcode))?;
    if row.form == Form::LoadImm64 {
        return load_imm64(raw, insns.get(at + 1).copied())
            .map(|insn| (insn, 2))
            .map_err(fail);
    }
    one_slot(raw, row, origin)
        .map(|insn| (insn, 1))
        .map_err(fail)
}

fn one_slot(raw: RawInsn, row: &FormRow, origin: Origin) -> Result<Insn, DecodeErrorKind> {
    for (field, mark) in [
        (Field::Dst, table::DST),
        (Field::Src, table::SRC),
        (Field::Offset, table::OFFSET),
        (Field::Immediate, table::IMMEDIATE),
    ] {
        if row.zero.has(mark) && field.value(raw) != 0 {
            return Err(DecodeErrorKind::Reserved {
                field,
                value: field.value(raw),
            });
        }
    }
    // Register numbers are judged last, as 6.18 does; until then any register stands in for one that does not exist.
    let insn = shape(raw, row, origin)?;
    if row.form != Form::Call {
        register(raw, Field::Dst)?;
        register(raw, Field::Src)?;
    }
    Ok(insn)
}

fn shape(raw: RawInsn, row: &FormRow, origin: Origin) -> Result<Insn, DecodeErrorKind> {
    let dst = Reg::new(raw.dst()).unwrap_or(Reg::AX);
    let src = Reg::new(raw.src()).unwrap_or(Reg::AX);
    let width = match raw.class() {
        table::ALU64 | table::JMP => Width::W64,
        _ => Width::W32,
    };
    let size = MemSize::of_code(raw.code);
    let RawInsn { off, imm, .. } = raw;
    let insn = match row.form {
        Form::AluImm | Form::AluReg => {
            let op = table::alu_op(raw.code, off).ok_or_else(|| offset_error(raw))?;
            let src = if row.form == Form::AluReg {
                Operand::Reg(src)
            } else {
                Operand::Imm(imm)
            };
            Insn::Alu {
                width,
                op,
                dst,
                src,
            }
        }
        Form::MovImm => Insn::Alu {
            width,
            op: crate::AluOp::Mov,
            dst,
            src: Operand::Imm(imm),
        },
        Form::MovReg => return mov_reg(raw, width, dst, src, origin),
        Form::Neg => Insn::Neg { width, dst },
        Form::Endian => {
            let (Some(op), Some(size)) = (table::endian_op(raw.code), MemSize::from_bits(imm))
            else {
                return Err(DecodeErrorKind::BadVariant {
                    field: Field::Immediate,
                    value: imm,
                });
            };
            if size == MemSize::B {
                return Err(DecodeErrorKind::BadVariant {
                    field: Field::Immediate,
                    value: imm,
                });
            }
            Insn::Endian { op, size, dst }
        }
        Form::LoadImm64 => return Err(DecodeErrorKind::NoSecondSlot),
        Form::LoadAbs => Insn::LoadAbs { size, imm },
        Form::LoadInd => Insn::LoadInd { size, src, imm },
        Form::Load => Insn::Load {
            size,
            mode: LoadMode::ZeroExtend,
            dst,
            src,
            off,
        },
        Form::LoadSx => Insn::Load {
            size,
            mode: LoadMode::SignExtend,
            dst,
            src,
            off,
        },
        Form::StoreImm => Insn::Store {
            size,
            dst,
            off,
            src: Operand::Imm(imm),
        },
        Form::StoreReg => Insn::Store {
            size,
            dst,
            off,
            src: Operand::Reg(src),
        },
        Form::Atomic => Insn::Atomic {
            op: atomic(imm, size)?,
            size,
            dst,
            src,
            off,
        },
        Form::JmpImm | Form::JmpReg => {
            let op = table::jmp_op(raw.code).ok_or(DecodeErrorKind::UnknownOpcode)?;
            let src = if row.form == Form::JmpReg {
                Operand::Reg(src)
            } else {
                Operand::Imm(imm)
            };
            Insn::Jmp {
                width,
                op,
                dst,
                src,
                off,
            }
        }
        Form::Ja => Insn::Ja { off },
        Form::Jal => Insn::Jal { off: imm },
        Form::MayGoto => Insn::MayGoto { off },
        Form::Call => match raw.src() {
            0 | table::PSEUDO_CALL if off != 0 => {
                return Err(DecodeErrorKind::Reserved {
                    field: Field::Offset,
                    value: off.into(),
                });
            }
            0 => Insn::Call(CallTarget::Helper(imm)),
            table::PSEUDO_CALL => Insn::Call(CallTarget::Subprog(imm)),
            table::PSEUDO_KFUNC_CALL => Insn::Call(CallTarget::Kfunc {
                id: imm,
                btf_idx: off,
            }),
            other => {
                return Err(DecodeErrorKind::BadVariant {
                    field: Field::Src,
                    value: other.into(),
                });
            }
        },
        Form::Exit => Insn::Exit,
        Form::Nospec => InternalInsn::Nospec.into(),
        Form::ProbeLoad => InternalInsn::ProbeLoad {
            size,
            mode: LoadMode::ZeroExtend,
            dst,
            src,
            off,
        }
        .into(),
        Form::ProbeLoadSx => InternalInsn::ProbeLoad {
            size,
            mode: LoadMode::SignExtend,
            dst,
            src,
            off,
        }
        .into(),
        Form::ArenaLoad => InternalInsn::ArenaLoad {
            size,
            mode: LoadMode::ZeroExtend,
            dst,
            src,
            off,
        }
        .into(),
        Form::ArenaLoadSx => InternalInsn::ArenaLoad {
            size,
            mode: LoadMode::SignExtend,
            dst,
            src,
            off,
        }
        .into(),
        Form::ArenaStoreImm => InternalInsn::ArenaStore {
            size,
            dst,
            off,
            src: Operand::Imm(imm),
        }
        .into(),
        Form::ArenaStoreReg => InternalInsn::ArenaStore {
            size,
            dst,
            off,
            src: Operand::Reg(src),
        }
        .into(),
        Form::ArenaAtomic => InternalInsn::ArenaAtomic {
            op: atomic(imm, size)?,
            size,
            dst,
            src,
            off,
        }
        .into(),
        Form::TailCall => InternalInsn::TailCall.into(),
    };
    Ok(insn)
}

fn register(raw: RawInsn, field: Field) -> Result<Reg, DecodeErrorKind> {
    let number = match field {
        Field::Dst => raw.dst(),
        _ => raw.src(),
    };
    Reg::new(number).ok_or(DecodeErrorKind::BadRegister { field, number })
}

/// The offset selects nothing: reserved where the operation has no variants, unknown where it has.
fn offset_error(raw: RawInsn) -> DecodeErrorKind {
    let value = raw.off.into();
    if table::alu_op(raw.code, 1).is_some() {
        DecodeErrorKind::BadVariant {
            field: Field::Offset,
            value,
        }
    } else {
        DecodeErrorKind::Reserved {
            field: Field::Offset,
            value,
        }
    }
}

fn mov_reg(
    raw: RawInsn,
    width: Width,
    dst: Reg,
    src: Reg,
    origin: Origin,
) -> Result<Insn, DecodeErrorKind> {
    let bad = Err(DecodeErrorKind::BadVariant {
        field: Field::Offset,
        value: raw.off.into(),
    });
    let wide = width == Width::W64;
    if raw.off == table::OFF_ADDR_SPACE_CAST && wide {
        let spaces = raw.imm as u32;
        return Ok(Insn::AddrSpaceCast {
            dst,
            src,
            dst_as: (spaces >> 16) as u16,
            src_as: spaces as u16,
        });
    }
    let insn = match raw.off {
        0 => Insn::Alu {
            width,
            op: crate::AluOp::Mov,
            dst,
            src: Operand::Reg(src),
        },
        8 => Insn::Movsx {
            width,
            from: MemSize::B,
            dst,
            src,
        },
        16 => Insn::Movsx {
            width,
            from: MemSize::H,
            dst,
            src,
        },
        32 if wide => Insn::Movsx {
            width,
            from: MemSize::W,
            dst,
            src,
        },
        table::OFF_PERCPU if wide && origin == Origin::Rewrite => {
            InternalInsn::PercpuAddr { dst, src }.into()
        }
        _ => return bad,
    };
    if raw.imm != 0 {
        return Err(DecodeErrorKind::Reserved {
            field: Field::Immediate,
            value: raw.imm,
        });
    }
    Ok(insn)
}

fn atomic(imm: i32, size: MemSize) -> Result<crate::AtomicOp, DecodeErrorKind> {
    let op = table::atomic_op(imm).ok_or(DecodeErrorKind::BadVariant {
        field: Field::Immediate,
        value: imm,
    })?;
    if op.sizes().contains(&size) {
        Ok(op)
    } else {
        Err(DecodeErrorKind::BadAtomicSize)
    }
}

fn load_imm64(first: RawInsn, second: Option<RawInsn>) -> Result<Insn, DecodeErrorKind> {
    if first.off != 0 {
        return Err(DecodeErrorKind::Reserved {
            field: Field::Offset,
            value: first.off.into(),
        });
    }
    let second = second.ok_or(DecodeErrorKind::NoSecondSlot)?;
    for field in [Field::Opcode, Field::Dst, Field::Src, Field::Offset] {
        if field.value(second) != 0 {
            return Err(DecodeErrorKind::SecondSlot {
                field,
                value: field.value(second),
            });
        }
    }
    let (low, high) = (first.imm, second.imm);
    let unused_high = |value| {
        if high == 0 {
            Ok(value)
        } else {
            Err(DecodeErrorKind::SecondSlot {
                field: Field::Immediate,
                value: high,
            })
        }
    };
    let value = match first.src() {
        0 => Imm64::Value(u64::from(low as u32) | (u64::from(high as u32) << 32)),
        table::PSEUDO_MAP_FD => unused_high(Imm64::MapFd(low))?,
        table::PSEUDO_MAP_VALUE => Imm64::MapValue {
            fd: low,
            off: high as u32,
        },
        table::PSEUDO_BTF_ID => Imm64::BtfId {
            id: low as u32,
            btf_fd: high as u32,
        },
        table::PSEUDO_FUNC => unused_high(Imm64::Func(low))?,
        table::PSEUDO_MAP_IDX => unused_high(Imm64::MapIdx(low))?,
        table::PSEUDO_MAP_IDX_VALUE => Imm64::MapIdxValue {
            idx: low,
            off: high as u32,
        },
        other => {
            return Err(DecodeErrorKind::BadVariant {
                field: Field::Src,
                value: other.into(),
            });
        }
    };
    Ok(Insn::LoadImm64 {
        dst: register(first, Field::Dst)?,
        value,
    })
}
