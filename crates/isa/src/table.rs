//! The instruction table: what exists, how it is encoded, how it reads, what it computes.
//!
//! Two levels. An *operation* row ([`AluOp`], [`JmpOp`], [`EndianOp`], [`AtomicOp`]) gives the operation's bits, its symbol
//! and its evaluation at both widths. A *form* row ([`FormRow`]) gives for one shape of instruction the opcodes it covers,
//! the fields that must be zero and the kernel's message for those that are not. From these rows come the decoder
//! (`decode`), the encoder (`encode`), the kernel's text (`disasm`), the assembler's text (`text`, `asm`) and the
//! evaluation (`eval`). A new operation is a new row; every `match` on it then asks for its answer.
//!
//! # Source
//! RFC 9669 sections 3 to 5; Linux `Documentation/bpf/standardization`; Linux 6.18 `include/uapi/linux/bpf.h` for the numbers.

use crate::{AtomicOp, LoadMode, MemSize, Width};

// Classes.
pub(crate) const LD: u8 = 0x00;
pub(crate) const LDX: u8 = 0x01;
pub(crate) const ST: u8 = 0x02;
pub(crate) const STX: u8 = 0x03;
pub(crate) const ALU: u8 = 0x04;
pub(crate) const JMP: u8 = 0x05;
pub(crate) const JMP32: u8 = 0x06;
pub(crate) const ALU64: u8 = 0x07;
// Modes of the four memory classes.
pub(crate) const IMM: u8 = 0x00;
pub(crate) const ABS: u8 = 0x20;
pub(crate) const IND: u8 = 0x40;
pub(crate) const MEM: u8 = 0x60;
pub(crate) const MEMSX: u8 = 0x80;
pub(crate) const ATOMIC: u8 = 0xc0;
/// Internal: `LDX` only.
pub(crate) const PROBE_MEM: u8 = 0x20;
/// Internal: `LDX` only.
pub(crate) const PROBE_MEMSX: u8 = 0x40;
/// Internal: `LDX`, `ST`, `STX`.
pub(crate) const PROBE_MEM32: u8 = 0xa0;
/// Internal: `LDX` only, sign-extending (6.18 runs it by its JIT only).
pub(crate) const PROBE_MEM32SX: u8 = 0xc0;
/// Internal: `STX` only.
pub(crate) const PROBE_ATOMIC: u8 = 0xe0;
/// Internal: `ST` only.
pub(crate) const NOSPEC: u8 = 0xc0;
// Second operand is the source register.
pub(crate) const X: u8 = 0x08;
// Operation codes outside the operation tables.
pub(crate) const OP_NEG: u8 = 0x80;
pub(crate) const OP_MOV: u8 = 0xb0;
pub(crate) const OP_END: u8 = 0xd0;
pub(crate) const OP_JA: u8 = 0x00;
pub(crate) const OP_CALL: u8 = 0x80;
pub(crate) const OP_EXIT: u8 = 0x90;
pub(crate) const OP_JCOND: u8 = 0xe0;
/// Internal.
pub(crate) const OP_TAIL_CALL: u8 = 0xf0;
/// Atomic operations return the old value when this bit of the immediate is set.
pub(crate) const FETCH: i32 = 0x01;
/// Offset of a move that casts between address spaces.
pub(crate) const OFF_ADDR_SPACE_CAST: i16 = 1;
/// Offset of a move that takes the address of a per-CPU variable (internal).
pub(crate) const OFF_PERCPU: i16 = -1;
// Source-register variants of the two-slot load and of calls.
pub(crate) const PSEUDO_MAP_FD: u8 = 1;
pub(crate) const PSEUDO_MAP_VALUE: u8 = 2;
pub(crate) const PSEUDO_BTF_ID: u8 = 3;
pub(crate) const PSEUDO_FUNC: u8 = 4;
pub(crate) const PSEUDO_MAP_IDX: u8 = 5;
pub(crate) const PSEUDO_MAP_IDX_VALUE: u8 = 6;
pub(crate) const PSEUDO_CALL: u8 = 1;
pub(crate) const PSEUDO_KFUNC_CALL: u8 = 2;

// One line per operation: name, bits in the opcode, selecting offset, symbol, evaluation. `U` and `S` are the unsigned and
// signed integer of the width at hand.
macro_rules! alu_table {
    ($($(#[$doc:meta])* $name:ident = $bits:literal, $off:literal, $symbol:literal, |$a:ident, $b:ident| $eval:expr;)*) => {
        /// Two-operand arithmetic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum AluOp { $($(#[$doc])* $name,)* }

        impl AluOp {
            /// Every operation, in the order of the table.
            pub const ALL: &[AluOp] = &[$(AluOp::$name),*];

            pub(crate) const fn bits(self) -> u8 {
                match self { $(AluOp::$name => $bits,)* }
            }

            /// The offset field that selects this operation among those with the same bits.
            pub(crate) const fn selector(self) -> i16 {
                match self { $(AluOp::$name => $off,)* }
            }

            /// The operator as text: `+=`, `s/=`, `=`.
            pub const fn symbol(self) -> &'static str {
                match self { $(AluOp::$name => $symbol,)* }
            }
        }

        /// What `op` gives at 64 bits for the destination's and the source's value.
        ///
        /// # Source
        /// RFC 9669 section 4.1.
        #[inline(always)]
        pub const fn eval_alu64(op: AluOp, dst: u64, src: u64) -> u64 {
            type S = i64;
            type U = u64;
            match op { $(AluOp::$name => { let ($a, $b): (U, U) = (dst, src); $eval })* }
        }

        /// What `op` gives at 32 bits; the upper half of the destination becomes zero.
        ///
        /// # Source
        /// RFC 9669 section 4.1.
        #[inline(always)]
        pub const fn eval_alu32(op: AluOp, dst: u32, src: u32) -> u32 {
            type S = i32;
            type U = u32;
            match op { $(AluOp::$name => { let ($a, $b): (U, U) = (dst, src); $eval })* }
        }
    };
}

alu_table! {
    /// `dst += src`
    Add  = 0x00, 0, "+=",   |a, b| a.wrapping_add(b);
    /// `dst -= src`
    Sub  = 0x10, 0, "-=",   |a, b| a.wrapping_sub(b);
    /// `dst *= src`
    Mul  = 0x20, 0, "*=",   |a, b| a.wrapping_mul(b);
    /// Unsigned division, 0 for a zero divisor.
    Div  = 0x30, 0, "/=",   |a, b| match a.checked_div(b) { Some(quotient) => quotient, None => 0 };
    /// Signed division, 0 for a zero divisor, no trap on overflow.
    Sdiv = 0x30, 1, "s/=",  |a, b| if b == 0 { 0 } else { (a as S).wrapping_div(b as S) as U };
    /// `dst |= src`
    Or   = 0x40, 0, "|=",   |a, b| a | b;
    /// `dst &= src`
    And  = 0x50, 0, "&=",   |a, b| a & b;
    /// Left shift by `src` modulo the width.
    Lsh  = 0x60, 0, "<<=",  |a, b| a.wrapping_shl(b as u32);
    /// Logical right shift.
    Rsh  = 0x70, 0, ">>=",  |a, b| a.wrapping_shr(b as u32);
    /// Unsigned remainder, `dst` for a zero divisor.
    Mod  = 0x90, 0, "%=",   |a, b| if b == 0 { a } else { a % b };
    /// Signed remainder, `dst` for a zero divisor.
    Smod = 0x90, 1, "s%=",  |a, b| if b == 0 { a } else { (a as S).wrapping_rem(b as S) as U };
    /// `dst ^= src`
    Xor  = 0xa0, 0, "^=",   |a, b| a ^ b;
    /// `dst = src`
    Mov  = 0xb0, 0, "=",    |_a, b| b;
    /// Arithmetic right shift.
    Arsh = 0xc0, 0, "s>>=", |a, b| (a as S).wrapping_shr(b as u32) as U;
}

macro_rules! jmp_table {
    ($($(#[$doc:meta])* $name:ident = $bits:literal, $symbol:literal, $not:ident, |$a:ident, $b:ident| $eval:expr;)*) => {
        /// Conditions of jumps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum JmpOp { $($(#[$doc])* $name,)* }

        impl JmpOp {
            /// Every condition, in the order of the table.
            pub const ALL: &[JmpOp] = &[$(JmpOp::$name),*];

            pub(crate) const fn bits(self) -> u8 {
                match self { $(JmpOp::$name => $bits,)* }
            }

            /// The operator as text: `==`, `s<`, `&`.
            pub const fn symbol(self) -> &'static str {
                match self { $(JmpOp::$name => $symbol,)* }
            }

            /// The condition that holds exactly when this one does not; `Set` has none.
            pub const fn negated(self) -> Option<JmpOp> {
                match self { $(JmpOp::$name => negation!($not),)* }
            }
        }

        /// Whether the condition holds for two 64-bit values.
        #[inline(always)]
        pub const fn eval_jmp64(op: JmpOp, dst: u64, src: u64) -> bool {
            type S = i64;
            match op { $(JmpOp::$name => { let ($a, $b) = (dst, src); $eval })* }
        }

        /// Whether the condition holds for two 32-bit values.
        #[inline(always)]
        pub const fn eval_jmp32(op: JmpOp, dst: u32, src: u32) -> bool {
            type S = i32;
            match op { $(JmpOp::$name => { let ($a, $b) = (dst, src); $eval })* }
        }
    };
}

macro_rules! negation {
    (none) => {
        None
    };
    ($name:ident) => {
        Some(JmpOp::$name)
    };
}

jmp_table! {
    /// `==`
    Eq  = 0x10, "==",  Ne,   |a, b| a == b;
    /// unsigned `>`
    Gt  = 0x20, ">",   Le,   |a, b| a > b;
    /// unsigned `>=`
    Ge  = 0x30, ">=",  Lt,   |a, b| a >= b;
    /// `dst & src != 0`
    Set = 0x40, "&",   none, |a, b| a & b != 0;
    /// `!=`
    Ne  = 0x50, "!=",  Eq,   |a, b| a != b;
    /// signed `>`
    Sgt = 0x60, "s>",  Sle,  |a, b| (a as S) > (b as S);
    /// signed `>=`
    Sge = 0x70, "s>=", Slt,  |a, b| (a as S) >= (b as S);
    /// unsigned `<`
    Lt  = 0xa0, "<",   Ge,   |a, b| a < b;
    /// unsigned `<=`
    Le  = 0xb0, "<=",  Gt,   |a, b| a <= b;
    /// signed `<`
    Slt = 0xc0, "s<",  Sge,  |a, b| (a as S) < (b as S);
    /// signed `<=`
    Sle = 0xd0, "s<=", Sgt,  |a, b| (a as S) <= (b as S);
}

macro_rules! endian_table {
    ($($(#[$doc:meta])* $name:ident = $code:expr, $symbol:literal, |$v:ident| $eval:expr;)*) => {
        /// Byte-order operations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum EndianOp { $($(#[$doc])* $name,)* }

        impl EndianOp {
            /// Every operation, in the order of the table.
            pub const ALL: &[EndianOp] = &[$(EndianOp::$name),*];

            pub(crate) const fn code(self) -> u8 {
                match self { $(EndianOp::$name => $code,)* }
            }

            /// The operation's name before its width: `le`, `be`, `bswap`.
            pub const fn symbol(self) -> &'static str {
                match self { $(EndianOp::$name => $symbol,)* }
            }
        }

        /// The byte-order operation on the low `size` bytes; the rest of the result is zero. The host is little-endian.
        ///
        /// # Source
        /// RFC 9669 section 4.2.
        #[inline(always)]
        pub const fn eval_endian(op: EndianOp, size: MemSize, value: u64) -> u64 {
            match (op, size) {
                // No such instruction; identity of the byte keeps the function total.
                (_, MemSize::B) => value as u8 as u64,
                $((EndianOp::$name, MemSize::H) => { let $v = value as u16; $eval as u64 })*
                $((EndianOp::$name, MemSize::W) => { let $v = value as u32; $eval as u64 })*
                $((EndianOp::$name, MemSize::Dw) => { let $v = value; $eval })*
            }
        }
    };
}

endian_table! {
    /// Truncate to the width (little-endian host).
    ToLe = ALU | OP_END,     "le",    |v| v;
    /// Swap to big-endian, truncating.
    ToBe = ALU | OP_END | X, "be",    |v| v.swap_bytes();
    /// Unconditional swap (`bswap`).
    Swap = ALU64 | OP_END,   "bswap", |v| v.swap_bytes();
}

macro_rules! atomic_table {
    ($($pattern:tt $fields:tt = $imm:expr, $symbol:literal, $sizes:expr;)*) => {
        impl AtomicOp {
            /// Every operation, in the order of the table.
            pub const ALL: &[AtomicOp] = &[$(atomic_value!($pattern $fields)),*];

            /// The immediate that selects the operation.
            pub(crate) const fn bits(self) -> i32 {
                match self { $(atomic_value!($pattern $fields) => $imm,)* }
            }

            /// The operator (`+=`) without fetch, the name (`fetch_add`, `xchg`) with it.
            pub const fn symbol(self) -> &'static str {
                match self { $(atomic_value!($pattern $fields) => $symbol,)* }
            }

            /// The sizes in which the operation exists.
            pub const fn sizes(self) -> &'static [MemSize] {
                match self { $(atomic_value!($pattern $fields) => $sizes,)* }
            }
        }
    };
}

macro_rules! atomic_value {
    ($name:ident ()) => {
        AtomicOp::$name
    };
    ($name:ident ($fetch:literal)) => {
        AtomicOp::$name { fetch: $fetch }
    };
}

const WORDS: &[MemSize] = &[MemSize::W, MemSize::Dw];
const ALL_SIZES: &[MemSize] = &[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw];

atomic_table! {
    Add (false)     = 0x00, "+=", WORDS;
    Or (false)      = 0x40, "|=", WORDS;
    And (false)     = 0x50, "&=", WORDS;
    Xor (false)     = 0xa0, "^=", WORDS;
    Add (true)      = FETCH, "fetch_add", WORDS;
    Or (true)       = 0x40 | FETCH, "fetch_or", WORDS;
    And (true)      = 0x50 | FETCH, "fetch_and", WORDS;
    Xor (true)      = 0xa0 | FETCH, "fetch_xor", WORDS;
    Xchg ()         = 0xe0 | FETCH, "xchg", WORDS;
    Cmpxchg ()      = 0xf0 | FETCH, "cmpxchg", WORDS;
    LoadAcquire ()  = 0x100, "load_acquire", ALL_SIZES;
    StoreRelease () = 0x110, "store_release", ALL_SIZES;
}

impl MemSize {
    /// Every size, by its bits in the opcode divided by 8.
    pub const ALL: &[MemSize] = &[MemSize::W, MemSize::H, MemSize::B, MemSize::Dw];

    pub(crate) const fn code_bits(self) -> u8 {
        match self {
            MemSize::W => 0x00,
            MemSize::H => 0x08,
            MemSize::B => 0x10,
            MemSize::Dw => 0x18,
        }
    }

    /// Width in bits: 8, 16, 32 or 64.
    pub const fn bits(self) -> u32 {
        self as u32 * 8
    }

    /// The size of this many bits, if there is one.
    pub const fn from_bits(bits: i32) -> Option<MemSize> {
        match bits {
            8 => Some(MemSize::B),
            16 => Some(MemSize::H),
            32 => Some(MemSize::W),
            64 => Some(MemSize::Dw),
            _ => None,
        }
    }

    pub(crate) const fn of_code(code: u8) -> MemSize {
        match code & 0x18 {
            0x00 => MemSize::W,
            0x08 => MemSize::H,
            0x10 => MemSize::B,
            _ => MemSize::Dw,
        }
    }
}

impl LoadMode {
    /// `u` or `s`, the letter before the size in type names.
    pub const fn letter(self) -> char {
        match self {
            LoadMode::ZeroExtend => 'u',
            LoadMode::SignExtend => 's',
        }
    }
}

impl Width {
    /// 32 or 64.
    pub const fn bits(self) -> u32 {
        match self {
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }

    /// `w` or `r`, the letter of registers used at this width.
    pub const fn letter(self) -> char {
        match self {
            Width::W32 => 'w',
            Width::W64 => 'r',
        }
    }
}

/// A set of instruction fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) u8);

pub(crate) const DST: Fields = Fields(1);
pub(crate) const SRC: Fields = Fields(2);
pub(crate) const OFFSET: Fields = Fields(4);
pub(crate) const IMMEDIATE: Fields = Fields(8);

impl Fields {
    const NONE: Fields = Fields(0);

    const fn and(self, other: Fields) -> Fields {
        Fields(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Fields) -> bool {
        self.0 & other.0 != 0
    }
}

/// The shape that an opcode byte selects; the operands of each are in its row and in `decode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    AluImm,
    AluReg,
    MovImm,
    MovReg,
    Neg,
    Endian,
    LoadImm64,
    LoadAbs,
    LoadInd,
    Load,
    LoadSx,
    StoreImm,
    StoreReg,
    Atomic,
    JmpImm,
    JmpReg,
    Ja,
    Jal,
    MayGoto,
    Call,
    Exit,
    Nospec,
    ProbeLoad,
    ProbeLoadSx,
    ArenaLoad,
    ArenaLoadSx,
    ArenaStoreImm,
    ArenaStoreReg,
    ArenaAtomic,
    TailCall,
}

/// Which opcodes a form covers, beside `code` itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// The code alone.
    One,
    /// Every arithmetic operation of both classes, moves excepted.
    AluOps,
    /// Both arithmetic classes.
    AluClasses,
    /// The three byte-order codes.
    EndianOps,
    /// Every condition of both jump classes.
    JmpOps,
    /// Sizes 1, 2, 4.
    UpToWord,
    /// All four sizes.
    Sizes,
}

/// Who may write a form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Program,
    Rewrite,
}

/// One shape of instruction.
pub(crate) struct FormRow {
    pub(crate) form: Form,
    pub(crate) code: u8,
    pub(crate) spread: Spread,
    /// Fields that must be zero.
    pub(crate) zero: Fields,
    pub(crate) origin: Origin,
    /// What 6.18 says of a reserved field that is set.
    pub(crate) reserved_text: &'static str,
}

const fn row(
    form: Form,
    code: u8,
    spread: Spread,
    zero: Fields,
    reserved_text: &'static str,
) -> FormRow {
    FormRow {
        form,
        code,
        spread,
        zero,
        origin: Origin::Program,
        reserved_text,
    }
}

const fn internal(form: Form, code: u8, spread: Spread, zero: Fields) -> FormRow {
    FormRow {
        form,
        code,
        spread,
        zero,
        origin: Origin::Rewrite,
        reserved_text: "",
    }
}

const ALU_TEXT: &str = "BPF_ALU uses reserved fields";
const MOV_TEXT: &str = "BPF_MOV uses reserved fields";
const LDX_TEXT: &str = "BPF_LDX uses reserved fields";
const LD_ABS_TEXT: &str = "BPF_LD_[ABS|IND] uses reserved fields";
const JMP_TEXT: &str = "BPF_JMP/JMP32 uses reserved fields";

#[rustfmt::skip]
pub(crate) const FORMS: &[FormRow] = &[
    row(Form::AluImm,    ALU,                  Spread::AluOps,     SRC, ALU_TEXT),
    row(Form::AluReg,    ALU | X,              Spread::AluOps,     IMMEDIATE, ALU_TEXT),
    row(Form::MovImm,    ALU | OP_MOV,         Spread::AluClasses, SRC.and(OFFSET), MOV_TEXT),
    row(Form::MovReg,    ALU | OP_MOV | X,     Spread::AluClasses, Fields::NONE, MOV_TEXT),
    row(Form::Neg,       ALU | OP_NEG,         Spread::AluClasses, SRC.and(OFFSET).and(IMMEDIATE), "BPF_NEG uses reserved fields"),
    row(Form::Endian,    ALU | OP_END,         Spread::EndianOps,  SRC.and(OFFSET), "BPF_END uses reserved fields"),
    row(Form::LoadImm64, LD | IMM | 0x18,      Spread::One,        OFFSET, "BPF_LD_IMM64 uses reserved fields"),
    row(Form::LoadAbs,   LD | ABS,             Spread::UpToWord,   DST.and(SRC).and(OFFSET), LD_ABS_TEXT),
    row(Form::LoadInd,   LD | IND,             Spread::UpToWord,   DST.and(OFFSET), LD_ABS_TEXT),
    row(Form::Load,      LDX | MEM,            Spread::Sizes,      IMMEDIATE, LDX_TEXT),
    row(Form::LoadSx,    LDX | MEMSX,          Spread::UpToWord,   IMMEDIATE, LDX_TEXT),
    row(Form::StoreImm,  ST | MEM,             Spread::Sizes,      SRC, "BPF_ST uses reserved fields"),
    row(Form::StoreReg,  STX | MEM,            Spread::Sizes,      IMMEDIATE, "BPF_STX uses reserved fields"),
    row(Form::Atomic,    STX | ATOMIC,         Spread::Sizes,      Fields::NONE, "BPF_ATOMIC uses invalid atomic opcode"),
    row(Form::JmpImm,    JMP,                  Spread::JmpOps,     SRC, JMP_TEXT),
    row(Form::JmpReg,    JMP | X,              Spread::JmpOps,     IMMEDIATE, JMP_TEXT),
    row(Form::Ja,        JMP | OP_JA,          Spread::One,        DST.and(SRC).and(IMMEDIATE), "BPF_JA uses reserved fields"),
    row(Form::Jal,       JMP32 | OP_JA,        Spread::One,        DST.and(SRC).and(OFFSET), "BPF_JA uses reserved fields"),
    row(Form::MayGoto,   JMP | OP_JCOND,       Spread::One,        DST.and(SRC).and(IMMEDIATE), "invalid may_goto imm"),
    row(Form::Call,      JMP | OP_CALL,        Spread::One,        DST, "BPF_CALL uses reserved fields"),
    row(Form::Exit,      JMP | OP_EXIT,        Spread::One,        DST.and(SRC).and(OFFSET).and(IMMEDIATE), "BPF_EXIT uses reserved fields"),
    internal(Form::Nospec,        ST | NOSPEC,          Spread::One,      DST.and(SRC).and(OFFSET).and(IMMEDIATE)),
    internal(Form::ProbeLoad,     LDX | PROBE_MEM,      Spread::Sizes,    IMMEDIATE),
    internal(Form::ProbeLoadSx,   LDX | PROBE_MEMSX,    Spread::UpToWord, IMMEDIATE),
    internal(Form::ArenaLoad,     LDX | PROBE_MEM32,    Spread::Sizes,    IMMEDIATE),
    internal(Form::ArenaLoadSx,   LDX | PROBE_MEM32SX,  Spread::UpToWord, IMMEDIATE),
    internal(Form::ArenaStoreImm, ST | PROBE_MEM32,     Spread::Sizes,    SRC),
    internal(Form::ArenaStoreReg, STX | PROBE_MEM32,    Spread::Sizes,    IMMEDIATE),
    internal(Form::ArenaAtomic,   STX | PROBE_ATOMIC,   Spread::Sizes,    Fields::NONE),
    internal(Form::TailCall,      JMP | OP_TAIL_CALL,   Spread::One,      DST.and(SRC).and(OFFSET).and(IMMEDIATE)),
];

/// The row of every opcode byte, expanded from `FORMS` at compile time. 255: there is none.
const ROW_OF_CODE: [u8; 256] = expand();

const fn expand() -> [u8; 256] {
    let mut rows = [u8::MAX; 256];
    let mut at = 0;
    while at < FORMS.len() {
        let row = &FORMS[at];
        let mark = at as u8;
        match row.spread {
            Spread::One => rows[row.code as usize] = mark,
            Spread::AluClasses => {
                rows[row.code as usize] = mark;
                rows[(row.code | ALU64) as usize] = mark;
            }
            Spread::AluOps => {
                let mut op = 0;
                while op < AluOp::ALL.len() {
                    if !matches!(AluOp::ALL[op], AluOp::Mov) {
                        let code = row.code | AluOp::ALL[op].bits();
                        rows[code as usize] = mark;
                        rows[(code | ALU64) as usize] = mark;
                    }
                    op += 1;
                }
            }
            Spread::EndianOps => {
                let mut op = 0;
                while op < EndianOp::ALL.len() {
                    rows[EndianOp::ALL[op].code() as usize] = mark;
                    op += 1;
                }
            }
            Spread::JmpOps => {
                let mut op = 0;
                while op < JmpOp::ALL.len() {
                    let code = row.code | JmpOp::ALL[op].bits();
                    rows[code as usize] = mark;
                    rows[(code ^ JMP ^ JMP32) as usize] = mark;
                    op += 1;
                }
            }
            Spread::UpToWord | Spread::Sizes => {
                let mut size = 0;
                while size < 4 {
                    let bits = MemSize::ALL[size].code_bits();
                    if matches!(row.spread, Spread::Sizes) || bits != 0x18 {
                        rows[(row.code | bits) as usize] = mark;
                    }
                    size += 1;
                }
            }
        }
        at += 1;
    }
    rows
}

/// The row of an opcode byte.
#[inline]
pub(crate) const fn form_row(code: u8) -> Option<&'static FormRow> {
    let row = ROW_OF_CODE[code as usize];
    if row == u8::MAX {
        None
    } else {
        Some(&FORMS[row as usize])
    }
}

/// Operations by their bits in the opcode.
pub(crate) const fn alu_op(code: u8, selector: i16) -> Option<AluOp> {
    let mut at = 0;
    while at < AluOp::ALL.len() {
        let op = AluOp::ALL[at];
        if op.bits() == code & 0xf0 && op.selector() == selector {
            return Some(op);
        }
        at += 1;
    }
    None
}

pub(crate) const fn jmp_op(code: u8) -> Option<JmpOp> {
    let mut at = 0;
    while at < JmpOp::ALL.len() {
        if JmpOp::ALL[at].bits() == code & 0xf0 {
            return Some(JmpOp::ALL[at]);
        }
        at += 1;
    }
    None
}

pub(crate) const fn endian_op(code: u8) -> Option<EndianOp> {
    let mut at = 0;
    while at < EndianOp::ALL.len() {
        if EndianOp::ALL[at].code() == code {
            return Some(EndianOp::ALL[at]);
        }
        at += 1;
    }
    None
}

pub(crate) const fn atomic_op(imm: i32) -> Option<AtomicOp> {
    let mut at = 0;
    while at < AtomicOp::ALL.len() {
        if AtomicOp::ALL[at].bits() == imm {
            return Some(AtomicOp::ALL[at]);
        }
        at += 1;
    }
    None
}

/// Whether a program from outside may contain this opcode byte (6.18: `unknown opcode %02x` otherwise).
///
/// Of the opcodes that it knows, 6.18 refuses some forms later, by their class's message.
pub const fn is_known_opcode(code: u8) -> bool {
    match form_row(code) {
        Some(row) => matches!(row.origin, Origin::Program),
        None => false,
    }
}

/// What Linux 6.18 says of an instruction with this opcode whose reserved fields are not zero; `None` for an unknown opcode.
/// Loads of an unknown mode count as reserved fields there too.
pub const fn reserved_fields_text(code: u8) -> Option<&'static str> {
    match form_row(code) {
        Some(row) => match row.origin {
            Origin::Program => Some(row.reserved_text),
            Origin::Rewrite if code & 0x07 == LDX => Some(LDX_TEXT),
            Origin::Rewrite => None,
        },
        None if code & 0x07 == LDX => Some(LDX_TEXT),
        None => None,
    }
}
