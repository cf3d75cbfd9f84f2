//! Registers: which x86-64 register holds which BPF register, and which are free.
//!
//! ```text
//! r0 rax   r1 rdi   r2 rsi   r3 rdx   r4 rcx   r5 r8      results and arguments where the C ABI has them: helper calls move nothing
//! r6 rbx   r7 r13   r8 r14   r9 r15   r10 rbp             callee-saved on both sides
//! r11 r10                                                  the verifier's scratch register
//! r9, r11                                                  scratch inside one instruction
//! r12                                                      tail-call count; run state in checked programs
//! ```

use ring3_isa::Reg;

/// An x86-64 general register by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct X(pub(crate) u8);

pub(crate) const RAX: X = X(0);
pub(crate) const RCX: X = X(1);
pub(crate) const RDX: X = X(2);
pub(crate) const RBX: X = X(3);
pub(crate) const RSP: X = X(4);
pub(crate) const RBP: X = X(5);
pub(crate) const RSI: X = X(6);
pub(crate) const RDI: X = X(7);
pub(crate) const R8: X = X(8);
pub(crate) const R9: X = X(9);
pub(crate) const R10: X = X(10);
pub(crate) const R11: X = X(11);
pub(crate) const R12: X = X(12);
pub(crate) const R13: X = X(13);
pub(crate) const R14: X = X(14);
pub(crate) const R15: X = X(15);

const MAP: [X; 12] = [RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15, RBP, R10];

/// By the number in an instruction's field.
const FIELDS: [X; 16] = {
    let mut fields = [NONE; 16];
    let mut number = 0;
    while number < MAP.len() {
        fields[number] = MAP[number];
        number += 1;
    }
    fields
};
const NONE: X = X(0x80);

impl X {
    /// The register that a field of an instruction names, the lower four bits of `number`; [`X::is_none`] where there is none.
    #[inline(always)]
    pub(crate) const fn of_field(number: u8) -> X {
        FIELDS[number as usize & 15]
    }

    #[inline(always)]
    pub(crate) const fn is_none(self) -> bool {
        self.0 & NONE.0 != 0
    }

    /// The register that holds a BPF register.
    #[inline(always)]
    pub(crate) const fn of(reg: Reg) -> X {
        MAP[reg.index()]
    }

    /// Low three bits, as ModRM and SIB take them.
    #[inline(always)]
    pub(crate) const fn low(self) -> u8 {
        self.0 & 7
    }

    /// The fourth bit, which goes into a REX or VEX prefix.
    #[inline(always)]
    pub(crate) const fn high(self) -> u8 {
        self.0 >> 3
    }
}

/// Two registers as REX and ModRM take them: the first as ModRM.reg, the second as ModRM.rm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    rex: u8,
    modrm: u8,
}

impl Pair {
    /// By the byte of an instruction's register fields: the source field is the first, the destination the second.
    const FIELDS: [Pair; 256] = {
        let mut pairs = [Pair { rex: 0, modrm: 0 }; 256];
        let mut fields = 0;
        while fields < 256 {
            let (dst, src) = (X::of_field(fields as u8), X::of_field(fields as u8 >> 4));
            if !dst.is_none() && !src.is_none() {
                pairs[fields] = Pair {
                    rex: src.high() << 2 | dst.high(),
                    modrm: src.low() << 3 | dst.low(),
                };
            }
            fields += 1;
        }
        pairs
    };

    /// Source and destination of an instruction; both must be registers.
    #[inline(always)]
    pub(crate) const fn source_destination(fields: u8) -> Pair {
        Pair::FIELDS[fields as usize]
    }

    /// The other way round.
    #[inline(always)]
    pub(crate) const fn destination_source(fields: u8) -> Pair {
        Pair::FIELDS[fields.rotate_left(4) as usize]
    }

    #[inline(always)]
    pub(crate) const fn rex(self) -> u8 {
        self.rex
    }

    #[inline(always)]
    pub(crate) const fn modrm(self) -> u8 {
        self.modrm
    }
}

/// Callee-saved registers that hold r6 to r9.
pub(crate) const SAVED: [X; 4] = [RBX, R13, R14, R15];
