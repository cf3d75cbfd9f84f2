//! Rules that look at several instructions at once.
//!
//! Each rule knows a run of slots, none of which but the first may be the target of a jump, writes code that leaves every register as the run
//! would (no rule needs to know which are still wanted), and says how many slots it has covered. Rules look at raw slots first: most
//! instructions begin no rule and cost one table-free match. A rule has a name in [`Rule`], so that fuzzing can show that each one was used.
//!
//! | rule | before | after |
//! |-|-|-|
//! | `lea` | `r2 = r10; r2 += -16` | `lea rsi, [rbp-16]` |
//! | `multiply-into` | `r2 = r1; r2 *= 10` | `imul rsi, rdi, 10` |
//! | `extend` | `r1 <<= 32; r1 s>>= 32` | `movsxd rdi, edi` |
//! | `rotate` | `r2 = r1; r2 <<= 13; r1 >>= 51; r1 \|= r2` | `mov rsi, rdi; shl rsi, 13; rol rdi, 13` |
//! | `swap-load` | `r1 = *(u32 *)(r2 +4); r1 = be32 r1` | `movbe edi, [rsi+4]` |
//! | `drop-zext` | `w1 += w2; w1 = w1` | `add edi, esi` |
//! | `flags` | `r1 &= 7; if r1 == 0 goto` | `and edi, 7; je` |
//! | `load-operand` | `r2 = *(u64 *)(r1 +8); r3 += r2` | `add rdx, [rdi+8]` |
//! | `indexed` | `r2 = r1; r2 += r3; r4 = *(u8 *)(r2 +1)` | `movzx ecx, byte [rdi+rdx+1]` |
//! | `byte-compare` | `r1 &= 255; if r1 > 9 goto` | `cmp dil, 9; ja` |
//! | `select` | `if r1 > r2 goto +1; r1 = r2` | `cmp rdi, rsi; cmovbe rdi, rsi` |
//! | `range` | `if w1 < 97 goto a; if w1 > 122 goto a` | `lea r9d, [rdi-97]; cmp r9d, 25; ja a` |
//! | `set-condition` | `r1 = 1; if r2 == 5 goto +1; r1 = 0` | `xor edi, edi; cmp rsi, 5; sete dil` |
//!
//! Those that leave out a register's last value ask `live` whether anybody reads it.

mod operands;
mod rotate;
mod select;

use ring3_isa::{AluOp, JmpOp, MemSize, RawInsn, Reg, Width};

pub(crate) use operands::comparison;

use crate::asm::Mem;
use crate::emit::{Emitter, Src};
use crate::jmp::condition;
use crate::regs::X;

/// The rules, including those of other files that replace a whole instruction's template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Rule {
    /// Division or remainder by a constant as a multiplication (`alu`).
    ConstantDivisor,
    /// Array lookup as address arithmetic (`call`).
    ArrayLookup,
    /// Lookup with a constant key as a constant (`call`).
    ConstLookup,
    /// The read section's CPU by a load (`call`).
    SectionCpu,
    /// The next random number from the thread's state (`call`).
    Random,
    /// Move and addition.
    Lea,
    /// Move and multiplication.
    MultiplyInto,
    /// Two shifts by the same count.
    Extend,
    /// Two shifts and an or.
    Rotate,
    /// Load and byte swap.
    SwapLoad,
    /// A zero extension of what is zero-extended.
    DropZext,
    /// A comparison with zero of what has just set the flags.
    Flags,
    /// A load whose value is an operand once.
    LoadOperand,
    /// An addition that makes one address.
    Indexed,
    /// A comparison of a low byte.
    ByteCompare,
    /// A move that a condition skips.
    Select,
    /// 0 or 1 by a condition.
    SetCondition,
    /// Two comparisons with the ends of a range.
    Range,
    /// A computation whose result nobody reads (`emit`).
    Unread,
    /// A small function in place of its call (`emit`).
    InlineLeaf,
    /// A jump to a condition as that condition (`jmp`).
    ThreadedJump,
    /// A tail call as a jump that the prog array patches (`tail_call`).
    DirectTailCall,
}

/// Number of rules.
pub(crate) const RULES: usize = NAMES.len();

/// Names of the rules, in their order.
pub(crate) const NAMES: [&str; 22] = [
    "constant-divisor",
    "array-lookup",
    "const-lookup",
    "section-cpu",
    "random",
    "lea",
    "multiply-into",
    "extend",
    "rotate",
    "swap-load",
    "drop-zext",
    "flags",
    "load-operand",
    "indexed",
    "byte-compare",
    "select",
    "set-condition",
    "range",
    "unread",
    "inline-leaf",
    "threaded-jump",
    "direct-tail-call",
];

// Operation codes that begin or continue a rule (RFC 9669 section 3).
const MOV64: u8 = 0xbf;
const MOV32: u8 = 0xbc;
const MOV64_IMM: u8 = 0xb7;
const MOV32_IMM: u8 = 0xb4;
const AND64_IMM: u8 = 0x57;
const AND32_IMM: u8 = 0x54;
const LDX_B: u8 = 0x71;
const ADD64_IMM: u8 = 0x07;
const ADD64_REG: u8 = 0x0f;
const SUB64_IMM: u8 = 0x17;
const ADD32_IMM: u8 = 0x04;
const MUL64_IMM: u8 = 0x27;
const MUL32_IMM: u8 = 0x24;
const LSH64_IMM: u8 = 0x67;
const RSH64_IMM: u8 = 0x77;
const ARSH64_IMM: u8 = 0xc7;
const LSH32_IMM: u8 = 0x64;
const RSH32_IMM: u8 = 0x74;
const OR64: u8 = 0x4f;
const OR32: u8 = 0x4c;
const TO_BE: u8 = 0xdc;
const BSWAP: u8 = 0xd7;
const LDX_W: u8 = 0x61;
const LDX_H: u8 = 0x69;
const LDX_DW: u8 = 0x79;
const JEQ_IMM: u8 = 0x15;
const JNE_IMM: u8 = 0x55;
const JEQ32_IMM: u8 = 0x16;
const JNE32_IMM: u8 = 0x56;

/// Pairs of operation codes that may begin a run, as sets of first and second codes: one bit each.
const PAIRS: &[(&[u8], &[u8])] = &[
    // A move and what is done to it: lea, multiply-into, extend, rotate, indexed.
    (
        &[MOV64, MOV32],
        &[
            ADD64_IMM, ADD64_REG, SUB64_IMM, ADD32_IMM, MUL64_IMM, MUL32_IMM, LSH64_IMM, RSH64_IMM,
            LSH32_IMM, RSH32_IMM,
        ],
    ),
    // extend
    (&[LSH64_IMM], &[RSH64_IMM, ARSH64_IMM]),
    // swap-load, drop-zext
    (&[LDX_W, LDX_H, LDX_DW], &[TO_BE, BSWAP, MOV32]),
    // drop-zext, flags
    (ARITHMETIC, &[MOV32, JEQ_IMM, JNE_IMM, JEQ32_IMM, JNE32_IMM]),
    // load-operand
    (
        &[LDX_W, LDX_DW],
        &[
            0x0f, 0x0c, 0x1f, 0x1c, 0x2f, 0x2c, 0x4f, 0x4c, 0x5f, 0x5c, 0xaf, 0xac,
        ],
    ),
    (&[LDX_W, LDX_DW, LDX_B], operands::COMPARE_IMM),
    (&[LDX_W, LDX_DW], operands::COMPARE_REG),
    // indexed
    (
        &[ADD64_REG],
        &[LDX_B, LDX_H, LDX_W, LDX_DW, 0x63, 0x6b, 0x73, 0x7b],
    ),
    // byte-compare
    (&[AND64_IMM, AND32_IMM], operands::COMPARE_IMM),
    // select
    (operands::COMPARE_IMM, &[MOV64, MOV64_IMM, MOV32_IMM]),
    (operands::COMPARE_REG, &[MOV64, MOV64_IMM, MOV32_IMM]),
    // set-condition
    (&[MOV64_IMM, MOV32_IMM], operands::COMPARE_IMM),
    (&[MOV64_IMM, MOV32_IMM], operands::COMPARE_REG),
    // range
    (select::RANGE_ENDS, select::RANGE_ENDS),
];

/// Additions, subtractions, or, and, exclusive or of both classes, by immediate or register.
const ARITHMETIC: &[u8] = &[
    0x04, 0x0c, 0x07, 0x0f, 0x14, 0x1c, 0x17, 0x1f, 0x44, 0x4c, 0x47, 0x4f, 0x54, 0x5c, 0x57, 0x5f,
    0xa4, 0xac, 0xa7, 0xaf,
];

/// Per operation code: bit `n` if it is among the first codes of pair `n`, bit `16 + n` if among the second.
const PLACES: [u32; 256] = {
    let mut places = [0; 256];
    let mut pair = 0;
    while pair < PAIRS.len() {
        let (first, second) = PAIRS[pair];
        let mut at = 0;
        while at < first.len() {
            places[first[at] as usize] |= 1 << pair;
            at += 1;
        }
        at = 0;
        while at < second.len() {
            places[second[at] as usize] |= 0x10000 << pair;
            at += 1;
        }
        pair += 1;
    }
    places
};

/// Whether a run may begin with these, by two looks into a table: nearly always it may not.
#[inline(always)]
pub(crate) fn may_begin(first: RawInsn, next: RawInsn) -> bool {
    PLACES[usize::from(first.code)] & PLACES[usize::from(next.code)] >> 16 != 0
}

fn x(number: u8) -> Option<X> {
    Reg::new(number).map(X::of)
}

impl Emitter<'_> {
    /// Emits a fused run that begins at `slot`; the number of slots it covers. Not for checked programs, whose accesses are checked one by one,
    /// nor for blinded ones.
    pub(crate) fn fused(&mut self, slot: usize) -> Option<usize> {
        // What control enters at `slot` only. A function does not run into the next: the slot before its end is an exit or a jump, which no
        // rule continues.
        let end = slot + 1 + self.plan.targets.free_behind(slot);
        let run = &self.insns[slot..end.min(self.insns.len())];
        let first = *run.first()?;
        match first.code {
            MOV64 | MOV32 if first.off == 0 => self.after_move(slot, run),
            MOV64_IMM | MOV32_IMM => self.set_condition(run),
            LSH64_IMM => self.extend(first, *run.get(1)?, first.dst()).then_some(2),
            LDX_W | LDX_H | LDX_DW | LDX_B => self
                .swap_load(slot, run)
                .or_else(|| self.load_operand(slot, run)),
            0x04 | 0x0c | 0x07 | 0x0f | 0x14 | 0x1c | 0x17 | 0x1f | 0x44 | 0x4c | 0x47 | 0x4f
            | 0x54 | 0x5c | 0x57 | 0x5f | 0xa4 | 0xac | 0xa7 | 0xaf => {
                self.after_arithmetic(slot, run)
            }
            _ => self.range(slot, run).or_else(|| self.select(slot, run)),
        }
    }

    /// Whether nobody reads the register from `slot` on.
    pub(crate) fn is_dead(&self, slot: usize, register: u8) -> bool {
        self.slots[slot].effect.live() >> register & 1 == 0
    }

    fn after_move(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let (mov, next) = (run[0], *run.get(1)?);
        if mov.code == MOV64
            && next.code == ADD64_REG
            && let Some(count) = self.indexed(slot, mov.src(), run, 1)
        {
            return Some(count);
        }
        if let Some(count) = self.rotate_into(slot, run) {
            return Some(count);
        }
        if next.dst() != mov.dst() || mov.dst() == mov.src() {
            // The moved value is the temporary of a rotation, or nothing we know; a rotation continues with either register.
            return self.rotate(slot, run);
        }
        let (dst, src) = (x(mov.dst())?, x(mov.src())?);
        let is_wide = mov.code == MOV64;
        match (is_wide, next.code) {
            (true, ADD64_IMM) if next.off == 0 => {
                self.asm.lea(Width::W64, dst, Mem::at(src, next.imm))
            }
            (true, SUB64_IMM) if next.off == 0 && next.imm != i32::MIN => {
                self.asm.lea(Width::W64, dst, Mem::at(src, -next.imm));
            }
            (false, ADD32_IMM) if next.off == 0 => {
                self.asm.lea(Width::W32, dst, Mem::at(src, next.imm))
            }
            (true, ADD64_REG) if next.off == 0 && next.src() != mov.dst() => {
                self.asm
                    .lea(Width::W64, dst, Mem::indexed(src, x(next.src())?, 0, 0));
            }
            (true, MUL64_IMM) | (false, MUL32_IMM)
                if next.off == 0 && !has_short_multiplication(next.imm) =>
            {
                let width = if is_wide { Width::W64 } else { Width::W32 };
                self.asm.imul_rri(width, dst, src, next.imm);
                self.hit(Rule::MultiplyInto);
                return Some(2);
            }
            (true, LSH64_IMM) => {
                if let Some(last) = run.get(2)
                    && self.extend(next, *last, mov.src())
                {
                    return Some(3);
                }
                return self.rotate(slot, run);
            }
            _ => return self.rotate(slot, run),
        }
        self.hit(Rule::Lea);
        Some(2)
    }

    /// `dst <<= n; dst >>= n` (or `s>>=`) as a zero or sign extension of the low `64 - n` bits of `src`.
    fn extend(&mut self, left: RawInsn, right: RawInsn, src: u8) -> bool {
        let size = match left.imm {
            32 => MemSize::W,
            48 => MemSize::H,
            56 => MemSize::B,
            _ => return false,
        };
        if right.dst() != left.dst() || right.imm != left.imm || right.off != 0 || left.off != 0 {
            return false;
        }
        let (Some(dst), Some(src)) = (x(left.dst()), x(src)) else {
            return false;
        };
        match right.code {
            RSH64_IMM => self.asm.movzx_rr(size, dst, src),
            ARSH64_IMM => self.asm.movsx_rr(size, Width::W64, dst, src),
            _ => return false,
        }
        self.hit(Rule::Extend);
        true
    }

    /// A load whose value is byte-swapped at once.
    fn swap_load(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let (load, swap) = (run[0], *run.get(1)?);
        if swap.dst() != load.dst() {
            return None;
        }
        if swap.code == MOV32 && load.code != LDX_DW && swap.src() == swap.dst() && swap.off == 0 {
            return self.drop_zext(slot, load);
        }
        if !matches!(swap.code, TO_BE | BSWAP) || swap.off != 0 || self.is_probe(slot) {
            return None;
        }
        let mem = Mem::at(x(load.src())?, load.off.into());
        let dst = x(load.dst())?;
        match (load.code, swap.imm) {
            (LDX_H, 16) => {
                // The load clears what lies above, and a 16-bit rotation leaves it.
                self.asm.load(MemSize::H, dst, mem);
                self.asm.swap16(dst);
            }
            (LDX_W, 32) if self.cpu.movbe => self.asm.load_swapped(Width::W32, dst, mem),
            (LDX_DW, 64) if self.cpu.movbe => self.asm.load_swapped(Width::W64, dst, mem),
            _ => return None,
        }
        self.hit(Rule::SwapLoad);
        Some(2)
    }

    pub(crate) fn is_probe(&self, slot: usize) -> bool {
        self.linked
            .program
            .facts
            .get(slot)
            .is_some_and(|facts| facts.probe_mem)
    }

    /// A 4-byte or 2-byte load followed by a zero extension of its destination.
    fn drop_zext(&mut self, slot: usize, load: RawInsn) -> Option<usize> {
        if self.is_probe(slot) {
            return None;
        }
        let size = if load.code == LDX_W {
            MemSize::W
        } else {
            MemSize::H
        };
        self.asm.load(
            size,
            x(load.dst())?,
            Mem::at(x(load.src())?, load.off.into()),
        );
        self.hit(Rule::DropZext);
        Some(2)
    }

    /// Arithmetic followed by a zero extension of its 32-bit result, or by a comparison of its result with zero.
    fn after_arithmetic(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let (first, next) = (run[0], *run.get(1)?);
        if first.code == ADD64_REG
            && let Some(count) = self.indexed(slot, first.dst(), run, 0)
        {
            return Some(count);
        }
        if matches!(first.code, AND64_IMM | AND32_IMM)
            && let Some(count) = self.byte_compare(slot, first, next)
        {
            return Some(count);
        }
        if next.dst() != first.dst() || first.off != 0 {
            return None;
        }
        let is_wide = first.class() == 7;
        let op = match first.code & 0xf0 {
            0x00 => AluOp::Add,
            0x10 => AluOp::Sub,
            0x40 => AluOp::Or,
            0x50 => AluOp::And,
            _ => AluOp::Xor,
        };
        let width = if is_wide { Width::W64 } else { Width::W32 };
        let dst = x(first.dst())?;
        let src = if first.code & 8 != 0 {
            Src::Reg(x(first.src())?)
        } else {
            Src::Imm(first.imm)
        };
        if next.code == MOV32 && !is_wide && next.src() == next.dst() && next.off == 0 {
            self.alu(slot, width, op, dst, src);
            self.hit(Rule::DropZext);
            return Some(2);
        }
        let cond = match (is_wide, next.code) {
            (true, JEQ_IMM) | (false, JEQ32_IMM) => JmpOp::Eq,
            (true, JNE_IMM) | (false, JNE32_IMM) => JmpOp::Ne,
            _ => return None,
        };
        // Some immediates have forms that set no flags: see `alu`.
        let sets_flags = !matches!(
            (op, src),
            (_, Src::Imm(0)) | (AluOp::And, Src::Imm(-1 | 0xff | 0xffff))
        );
        if next.imm != 0 || next.off == 0 || !sets_flags {
            return None;
        }
        self.alu(slot, width, op, dst, src);
        let target = (slot as i64 + 2 + i64::from(next.off)) as usize;
        // The jump's own slot begins behind the arithmetic, which nobody jumps to.
        self.jump_to(slot + 1, target, Some(condition(cond)));
        self.hit(Rule::Flags);
        Some(2)
    }
}

/// Multipliers for which `alu` has something shorter than a multiplication.
fn has_short_multiplication(imm: i32) -> bool {
    imm == 0 || imm == 3 || imm == 5 || imm == 9 || (imm > 0 && imm.count_ones() == 1)
}
