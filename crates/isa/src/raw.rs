//! `RawInsn`: one 8-byte instruction slot as bpf(2) and ELF sections carry it. Neighbour: `insn`, the typed form.

use crate::Reg;

/// One instruction slot: `struct bpf_insn`. A 64-bit immediate load takes two of them.
///
/// # Source
/// RFC 9669 section 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RawInsn {
    /// Operation code: class in the low three bits.
    pub code: u8,
    /// Destination register in the low, source register in the high four bits.
    pub regs: u8,
    /// Signed offset: memory displacement, jump distance in slots, or an operation's variant.
    pub off: i16,
    /// Signed immediate.
    pub imm: i32,
}

impl RawInsn {
    /// A slot from its five fields; `dst` and `src` are taken modulo 16.
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        RawInsn {
            code,
            regs: (dst & 0xf) | (src << 4),
            off,
            imm,
        }
    }

    /// Reads the little-endian form.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        RawInsn {
            code: bytes[0],
            regs: bytes[1],
            off: i16::from_le_bytes([bytes[2], bytes[3]]),
            imm: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    /// The little-endian form.
    pub const fn to_bytes(self) -> [u8; 8] {
        let off = self.off.to_le_bytes();
        let imm = self.imm.to_le_bytes();
        [
            self.code, self.regs, off[0], off[1], imm[0], imm[1], imm[2], imm[3],
        ]
    }

    /// The number in the destination field, 0..=15; only 0..=10 name registers of programs.
    pub const fn dst(self) -> u8 {
        self.regs & 0xf
    }

    /// The number in the source field, 0..=15.
    pub const fn src(self) -> u8 {
        self.regs >> 4
    }

    /// The same slot with another destination field.
    pub const fn with_dst(self, dst: Reg) -> Self {
        RawInsn {
            regs: (self.regs & 0xf0) | dst.number(),
            ..self
        }
    }

    /// The same slot with another source field.
    pub const fn with_src(self, src: Reg) -> Self {
        RawInsn {
            regs: (self.regs & 0x0f) | (src.number() << 4),
            ..self
        }
    }

    /// Instruction class: `code & 7`.
    pub const fn class(self) -> u8 {
        self.code & 0x07
    }

    /// Whether this slot begins a two-slot 64-bit immediate load.
    pub const fn is_ld_imm64(self) -> bool {
        self.code == 0x18
    }
}
