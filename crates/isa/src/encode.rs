//! [`Insn`] to slots: the inverse of `decode`, refusing the few values of `Insn` that no encoding has.

use core::fmt;
use core::ops::Deref;

use crate::table;
use crate::{
    AluOp, AtomicOp, CallTarget, Imm64, Insn, InternalInsn, LoadMode, MemSize, Operand, RawInsn,
    Reg, Width,
};

/// The one or two slots of an instruction; derefs to a slice of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    slots: [RawInsn; 2],
    count: u8,
}

impl Encoded {
    const fn one(slot: RawInsn) -> Encoded {
        Encoded {
            slots: [slot, RawInsn::new(0, 0, 0, 0, 0)],
            count: 1,
        }
    }
}

impl Deref for Encoded {
    type Target = [RawInsn];

    fn deref(&self) -> &[RawInsn] {
        &self.slots[..usize::from(self.count)]
    }
}

/// A value of [`Insn`] that has no encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncodeError {
    /// Why.
    pub reason: &'static str,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl core::error::Error for EncodeError {}

impl Insn {
    /// Number of slots: 2 for [`Insn::LoadImm64`], else 1.
    pub const fn slots(&self) -> usize {
        match self {
            Insn::LoadImm64 { .. } => 2,
            _ => 1,
        }
    }

    /// The slots of this instruction.
    ///
    /// # Errors
    /// Sizes that an operation does not have: a sign-extending load of 8 bytes, a byte swap of one byte, a packet load of 8
    /// bytes, an atomic addition to one byte, a sign-extending move of 32 bits at 32 bits.
    pub fn encode(&self) -> Result<Encoded, EncodeError> {
        encode(self)
    }
}

/// As [`Insn::encode`].
///
/// # Errors
/// As [`Insn::encode`].
pub fn encode(insn: &Insn) -> Result<Encoded, EncodeError> {
    let slot = match *insn {
        Insn::LoadImm64 { dst, value } => return Ok(load_imm64(dst, value)),
        Insn::Alu {
            width,
            op,
            dst,
            src,
        } => operand_slot(alu_class(width) | op.bits(), dst, op.selector(), src),
        Insn::Neg { width, dst } => {
            RawInsn::new(alu_class(width) | table::OP_NEG, dst.number(), 0, 0, 0)
        }
        Insn::Movsx {
            width,
            from,
            dst,
            src,
        } => {
            let exists = match from {
                MemSize::B | MemSize::H => true,
                MemSize::W => width == Width::W64,
                MemSize::Dw => false,
            };
            check(
                exists,
                "a sign-extending move takes 8, 16 or, at 64 bits, 32 bits",
            )?;
            mov(width, dst, src, from.bits() as i16, 0)
        }
        Insn::Endian { op, size, dst } => {
            check(
                size != MemSize::B,
                "a byte-order operation takes 16, 32 or 64 bits",
            )?;
            RawInsn::new(op.code(), dst.number(), 0, 0, size.bits() as i32)
        }
        Insn::AddrSpaceCast {
            dst,
            src,
            dst_as,
            src_as,
        } => {
            let spaces = (u32::from(dst_as) << 16) | u32::from(src_as);
            mov(
                Width::W64,
                dst,
                src,
                table::OFF_ADDR_SPACE_CAST,
                spaces as i32,
            )
        }
        Insn::LoadAbs { size, imm } => {
            check(size != MemSize::Dw, "a packet load takes at most 4 bytes")?;
            RawInsn::new(table::LD | table::ABS | size.code_bits(), 0, 0, 0, imm)
        }
        Insn::LoadInd { size, src, imm } => {
            check(size != MemSize::Dw, "a packet load takes at most 4 bytes")?;
            RawInsn::new(
                table::LD | table::IND | size.code_bits(),
                0,
                src.number(),
                0,
                imm,
            )
        }
        Insn::Load {
            size,
            mode,
            dst,
            src,
            off,
        } => load([table::MEM, table::MEMSX], size, mode, (dst, src), off)?,
        Insn::Store {
            size,
            dst,
            off,
            src,
        } => store(table::MEM, size, dst, off, src),
        Insn::Atomic {
            op,
            size,
            dst,
            src,
            off,
        } => atomic(table::ATOMIC, op, size, (dst, src), off)?,
        Insn::Jmp {
            width,
            op,
            dst,
            src,
            off,
        } => operand_slot(jmp_class(width) | op.bits(), dst, off, src),
        Insn::Ja { off } => RawInsn::new(table::JMP | table::OP_JA, 0, 0, off, 0),
        Insn::Jal { off } => RawInsn::new(table::JMP32 | table::OP_JA, 0, 0, 0, off),
        Insn::MayGoto { off } => RawInsn::new(table::JMP | table::OP_JCOND, 0, 0, off, 0),
        Insn::Call(target) => {
            let (src, off, imm) = match target {
                CallTarget::Helper(id) => (0, 0, id),
                CallTarget::Subprog(distance) => (table::PSEUDO_CALL, 0, distance),
                CallTarget::Kfunc { id, btf_idx } => (table::PSEUDO_KFUNC_CALL, btf_idx, id),
            };
            RawInsn::new(table::JMP | table::OP_CALL, 0, src, off, imm)
        }
        Insn::Exit => RawInsn::new(table::JMP | table::OP_EXIT, 0, 0, 0, 0),
        Insn::Internal(insn) => internal(insn)?,
    };
    Ok(Encoded::one(slot))
}

fn internal(insn: InternalInsn) -> Result<RawInsn, EncodeError> {
    Ok(match insn {
        InternalInsn::Nospec => RawInsn::new(table::ST | table::NOSPEC, 0, 0, 0, 0),
        InternalInsn::ProbeLoad {
            size,
            mode,
            dst,
            src,
            off,
        } => load(
            [table::PROBE_MEM, table::PROBE_MEMSX],
            size,
            mode,
            (dst, src),
            off,
        )?,
        InternalInsn::ArenaLoad {
            size,
            mode,
            dst,
            src,
            off,
        } => load(
            [table::PROBE_MEM32, table::PROBE_MEM32SX],
            size,
            mode,
            (dst, src),
            off,
        )?,
        InternalInsn::ArenaStore {
            size,
            dst,
            off,
            src,
        } => store(table::PROBE_MEM32, size, dst, off, src),
        InternalInsn::ArenaAtomic {
            op,
            size,
            dst,
            src,
            off,
        } => atomic(table::PROBE_ATOMIC, op, size, (dst, src), off)?,
        InternalInsn::PercpuAddr { dst, src } => mov(Width::W64, dst, src, table::OFF_PERCPU, 0),
        InternalInsn::TailCall => RawInsn::new(table::JMP | table::OP_TAIL_CALL, 0, 0, 0, 0),
    })
}

fn check(exists: bool, reason: &'static str) -> Result<(), EncodeError> {
    if exists {
        Ok(())
    } else {
        Err(EncodeError { reason })
    }
}

fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => table::ALU,
        Width::W64 => table::ALU64,
    }
}

fn jmp_class(width: Width) -> u8 {
    match width {
        Width::W32 => table::JMP32,
        Width::W64 => table::JMP,
    }
}

fn operand_slot(code: u8, dst: Reg, off: i16, src: Operand) -> RawInsn {
    match src {
        Operand::Imm(imm) => RawInsn::new(code, dst.number(), 0, off, imm),
        Operand::Reg(src) => RawInsn::new(code | table::X, dst.number(), src.number(), off, 0),
    }
}

fn mov(width: Width, dst: Reg, src: Reg, off: i16, imm: i32) -> RawInsn {
    let code = alu_class(width) | AluOp::Mov.bits() | table::X;
    RawInsn::new(code, dst.number(), src.number(), off, imm)
}

fn load(
    modes: [u8; 2],
    size: MemSize,
    mode: LoadMode,
    (dst, src): (Reg, Reg),
    off: i16,
) -> Result<RawInsn, EncodeError> {
    let mode = match mode {
        LoadMode::ZeroExtend => modes[0],
        LoadMode::SignExtend => {
            check(
                size != MemSize::Dw,
                "a sign-extending load takes at most 4 bytes",
            )?;
            modes[1]
        }
    };
    let code = table::LDX | mode | size.code_bits();
    Ok(RawInsn::new(code, dst.number(), src.number(), off, 0))
}

fn store(mode: u8, size: MemSize, dst: Reg, off: i16, src: Operand) -> RawInsn {
    match src {
        Operand::Imm(imm) => RawInsn::new(
            table::ST | mode | size.code_bits(),
            dst.number(),
            0,
            off,
            imm,
        ),
        Operand::Reg(src) => RawInsn::new(
            table::STX | mode | size.code_bits(),
            dst.number(),
            src.number(),
            off,
            0,
        ),
    }
}

fn atomic(
    mode: u8,
    op: AtomicOp,
    size: MemSize,
    (dst, src): (Reg, Reg),
    off: i16,
) -> Result<RawInsn, EncodeError> {
    check(
        op.sizes().contains(&size),
        "this atomic operation takes 4 or 8 bytes",
    )?;
    let code = table::STX | mode | size.code_bits();
    Ok(RawInsn::new(
        code,
        dst.number(),
        src.number(),
        off,
        op.bits(),
    ))
}

fn load_imm64(dst: Reg, value: Imm64) -> Encoded {
    let (src, low, high) = match value {
        Imm64::Value(value) => (0, value as i32, (value >> 32) as i32),
        Imm64::MapFd(fd) => (table::PSEUDO_MAP_FD, fd, 0),
        Imm64::MapValue { fd, off } => (table::PSEUDO_MAP_VALUE, fd, off as i32),
        Imm64::BtfId { id, btf_fd } => (table::PSEUDO_BTF_ID, id as i32, btf_fd as i32),
        Imm64::Func(distance) => (table::PSEUDO_FUNC, distance, 0),
        Imm64::MapIdx(idx) => (table::PSEUDO_MAP_IDX, idx, 0),
        Imm64::MapIdxValue { idx, off } => (table::PSEUDO_MAP_IDX_VALUE, idx, off as i32),
    };
    let first = RawInsn::new(table::LD | table::IMM | 0x18, dst.number(), src, 0, low);
    Encoded {
        slots: [first, RawInsn::new(0, 0, 0, 0, high)],
        count: 2,
    }
}
