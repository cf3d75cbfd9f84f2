//! Arithmetic: BPF's operations in x86-64 instructions, the shortest form for each operand.
//!
//! 32-bit instructions clear the upper half of their destination on both machines, so no zero extension is ever added. Shifts take their
//! count modulo the width on both. Division is where they differ: x86 traps on zero and on overflow, and wants rdx:rax.
//!
//! # Source
//! RFC 9669 section 4.1.

use ring3_isa::{AluOp, MemSize, Width};

use crate::asm::{Arith, Cond, Mem, Shift, Unary};
use crate::emit::{Emitter, Src};
use crate::regs::{R9, R10, R11, RAX, RCX, RDX, X};

impl Emitter<'_> {
    /// `dst op= src`. A register source may be r11 (a blinded immediate).
    pub(crate) fn alu(&mut self, slot: usize, width: Width, op: AluOp, dst: X, src: Src) {
        match op {
            AluOp::Mov => self.mov(width, dst, src),
            AluOp::Add => self.add_sub(Arith::Add, width, dst, src),
            AluOp::Sub => self.add_sub(Arith::Sub, width, dst, src),
            AluOp::And => self.and(width, dst, src),
            AluOp::Or => self.or_xor(Arith::Or, width, dst, src),
            AluOp::Xor => self.or_xor(Arith::Xor, width, dst, src),
            AluOp::Mul => self.mul(width, dst, src),
            AluOp::Lsh => self.shift(Shift::Shl, width, dst, src),
            AluOp::Rsh => self.shift(Shift::Shr, width, dst, src),
            AluOp::Arsh => self.shift(Shift::Sar, width, dst, src),
            AluOp::Div => self.divide(
                slot,
                Division {
                    is_signed: false,
                    wants_remainder: false,
                },
                width,
                dst,
                src,
            ),
            AluOp::Mod => self.divide(
                slot,
                Division {
                    is_signed: false,
                    wants_remainder: true,
                },
                width,
                dst,
                src,
            ),
            AluOp::Sdiv => self.divide(
                slot,
                Division {
                    is_signed: true,
                    wants_remainder: false,
                },
                width,
                dst,
                src,
            ),
            AluOp::Smod => self.divide(
                slot,
                Division {
                    is_signed: true,
                    wants_remainder: true,
                },
                width,
                dst,
                src,
            ),
        }
    }

    pub(crate) fn neg(&mut self, width: Width, dst: X) {
        self.asm.unary(Unary::Neg, width, dst);
    }

    pub(crate) fn mov(&mut self, width: Width, dst: X, src: Src) {
        match (width, src) {
            (Width::W64, Src::Reg(src)) => self.asm.copy(dst, src),
            (Width::W32, Src::Reg(src)) => self.asm.mov_rr(Width::W32, dst, src),
            (Width::W64, Src::Imm(imm)) => self.asm.mov_imm(dst, i64::from(imm) as u64),
            (Width::W32, Src::Imm(imm)) => self.asm.mov_imm(dst, u64::from(imm as u32)),
        }
    }

    /// Clears the upper half and nothing else: what a 32-bit operation with a neutral operand does.
    fn keep(&mut self, width: Width, dst: X) {
        if width == Width::W32 {
            self.asm.mov_rr(Width::W32, dst, dst);
        }
    }

    pub(crate) fn add_sub(&mut self, arith: Arith, width: Width, dst: X, src: Src) {
        let other = if arith == Arith::Add {
            Arith::Sub
        } else {
            Arith::Add
        };
        match src {
            Src::Reg(src) => self.asm.arith_rr(arith, width, dst, src),
            Src::Imm(0) => self.keep(width, dst),
            Src::Imm(1) => self.asm.step(width, dst, arith),
            Src::Imm(-1) => self.asm.step(width, dst, other),
            // 128 needs four bytes, -128 one.
            Src::Imm(128) => self.asm.arith_ri(other, width, dst, -128),
            Src::Imm(imm) => self.asm.arith_ri(arith, width, dst, imm),
        }
    }

    pub(crate) fn and(&mut self, width: Width, dst: X, src: Src) {
        match src {
            Src::Reg(src) => self.asm.arith_rr(Arith::And, width, dst, src),
            Src::Imm(0) => self.asm.mov_imm(dst, 0),
            Src::Imm(-1) => self.keep(width, dst),
            Src::Imm(0xff) => self.asm.movzx_rr(MemSize::B, dst, dst),
            Src::Imm(0xffff) => self.asm.movzx_rr(MemSize::H, dst, dst),
            // With a clear bit 31 the upper half becomes zero at either width.
            Src::Imm(imm) if imm > 0 => self.asm.arith_ri(Arith::And, Width::W32, dst, imm),
            Src::Imm(imm) => self.asm.arith_ri(Arith::And, width, dst, imm),
        }
    }

    pub(crate) fn or_xor(&mut self, arith: Arith, width: Width, dst: X, src: Src) {
        match src {
            Src::Reg(src) => self.asm.arith_rr(arith, width, dst, src),
            Src::Imm(0) => self.keep(width, dst),
            Src::Imm(imm) => self.asm.arith_ri(arith, width, dst, imm),
        }
    }

    pub(crate) fn mul(&mut self, width: Width, dst: X, src: Src) {
        match src {
            Src::Reg(src) => self.asm.imul_rr(width, dst, src),
            Src::Imm(0) => self.asm.mov_imm(dst, 0),
            Src::Imm(1) => self.keep(width, dst),
            Src::Imm(imm @ (3 | 5 | 9)) => {
                let scale = (imm as u32 - 1).trailing_zeros() as u8;
                self.asm.lea(width, dst, Mem::indexed(dst, dst, scale, 0));
            }
            Src::Imm(imm) if imm > 0 && imm.count_ones() == 1 => {
                self.asm
                    .shift_ri(Shift::Shl, width, dst, imm.trailing_zeros() as u8);
            }
            Src::Imm(imm) => self.asm.imul_rri(width, dst, dst, imm),
        }
    }

    fn shift(&mut self, shift: Shift, width: Width, dst: X, src: Src) {
        let count = match src {
            Src::Imm(imm) => {
                let count = imm as u32 & (width.bits() - 1);
                if count == 0 {
                    self.keep(width, dst);
                } else {
                    self.asm.shift_ri(shift, width, dst, count as u8);
                }
                return;
            }
            Src::Reg(count) => count,
        };
        if self.cpu.bmi2 {
            self.asm.shiftx(shift, width, dst, dst, count);
        } else if count == RCX {
            // Also right for dst == rcx: the count is read before the result is written.
            self.asm.shift_cl(shift, width, dst);
        } else if dst == RCX {
            self.asm.copy(R9, RCX);
            self.asm.mov_rr(Width::W32, RCX, count);
            self.asm.shift_cl(shift, width, R9);
            self.asm.copy(RCX, R9);
        } else {
            self.asm.copy(R9, RCX);
            self.asm.mov_rr(Width::W32, RCX, count);
            self.asm.shift_cl(shift, width, dst);
            self.asm.copy(RCX, R9);
        }
    }
}

/// Which of the four division instructions.
#[derive(Clone, Copy)]
struct Division {
    is_signed: bool,
    wants_remainder: bool,
}

impl Emitter<'_> {
    fn divide(&mut self, slot: usize, division: Division, width: Width, dst: X, src: Src) {
        let Src::Imm(imm) = src else {
            let is_nonzero = self
                .linked
                .program
                .facts
                .get(slot)
                .is_some_and(|facts| facts.divisor_nonzero);
            return self.divide_by_register(division, width, dst, src, is_nonzero);
        };
        let divisor = match width {
            Width::W32 => u64::from(imm as u32),
            Width::W64 => i64::from(imm) as u64,
        };
        match (division.is_signed, divisor) {
            // No division by zero: the quotient is 0, the remainder the dividend.
            (_, 0) if division.wants_remainder => self.keep(width, dst),
            (_, 0) => self.asm.mov_imm(dst, 0),
            (_, 1) if division.wants_remainder => self.asm.mov_imm(dst, 0),
            (_, 1) => self.keep(width, dst),
            (false, divisor) if divisor.is_power_of_two() => {
                let shift = divisor.trailing_zeros();
                if !division.wants_remainder {
                    self.asm.shift_ri(Shift::Shr, width, dst, shift as u8);
                } else if shift < 32 {
                    self.and(Width::W32, dst, Src::Imm((divisor - 1) as i32));
                } else {
                    self.divide_by_register(division, width, dst, src, true);
                }
            }
            (false, divisor) if self.divides_by_multiplication(width, divisor) => {
                self.divide_by_constant(division, width, dst, divisor);
            }
            (true, _) if imm == -1 => {
                if division.wants_remainder {
                    self.asm.mov_imm(dst, 0);
                } else {
                    self.asm.unary(Unary::Neg, width, dst);
                }
            }
            (false, _) | (true, _) => self.divide_by_register(division, width, dst, src, true),
        }
    }

    /// The general sequence, for any registers. Scratch: r9, r11, and r10 or the stack for rdx.
    fn divide_by_register(
        &mut self,
        division: Division,
        width: Width,
        dst: X,
        src: Src,
        is_nonzero: bool,
    ) {
        let asm = &mut self.asm;
        match src {
            Src::Reg(src) => asm.copy(R11, src),
            Src::Imm(imm) => asm.mov_imm(R11, i64::from(imm) as u64),
        }
        let mut to_end = [None; 2];
        if !is_nonzero {
            asm.test_rr(width, R11, R11);
            let nonzero = asm.jcc8(Cond::Ne);
            if division.wants_remainder {
                if width == Width::W32 {
                    asm.mov_rr(Width::W32, dst, dst);
                }
            } else {
                asm.arith_rr(Arith::Xor, Width::W32, dst, dst);
            }
            to_end[0] = Some(asm.jmp8());
            asm.bind8(nonzero);
        }
        let may_overflow = division.is_signed && !matches!(src, Src::Imm(_));
        if may_overflow {
            // MIN / -1 traps; any x / -1 is -x, and the remainder is 0.
            asm.arith_ri(Arith::Cmp, width, R11, -1);
            let ordinary = asm.jcc8(Cond::Ne);
            if division.wants_remainder {
                asm.arith_rr(Arith::Xor, Width::W32, dst, dst);
            } else {
                asm.unary(Unary::Neg, width, dst);
            }
            to_end[1] = Some(asm.jmp8());
            asm.bind8(ordinary);
        }
        if dst != RAX {
            asm.copy(R9, RAX);
            asm.mov_rr(width, RAX, dst);
        }
        if dst != RDX {
            if self.frame.ax_is_free {
                asm.copy(R10, RDX);
            } else {
                asm.push(RDX);
            }
        }
        if division.is_signed {
            asm.sign_extend_rax(width);
            asm.unary(Unary::Idiv, width, R11);
        } else {
            asm.arith_rr(Arith::Xor, Width::W32, RDX, RDX);
            asm.unary(Unary::Div, width, R11);
        }
        let result = if division.wants_remainder { RDX } else { RAX };
        if result != dst {
            asm.mov_rr(width, dst, result);
        }
        if dst != RAX {
            asm.copy(RAX, R9);
        }
        if dst != RDX {
            if self.frame.ax_is_free {
                asm.copy(RDX, R10);
            } else {
                asm.pop(RDX);
            }
        }
        for patch in to_end.into_iter().flatten() {
            asm.bind8(patch);
        }
    }

    /// Whether [`Emitter::divide_by_constant`] covers this divisor.
    fn divides_by_multiplication(&self, width: Width, divisor: u64) -> bool {
        // The long product needs MULX to leave rax alone; without it the plain sequence is as good.
        match width {
            Width::W32 => Magic32::of(divisor as u32).is_some() || self.cpu.bmi2,
            Width::W64 => self.cpu.bmi2 && Magic64::of(divisor).is_some(),
        }
    }

    /// `x / d` as a multiplication, and the remainder from the quotient. Scratch: r9, r11.
    fn divide_by_constant(&mut self, division: Division, width: Width, dst: X, divisor: u64) {
        self.hit(crate::fuse::Rule::ConstantDivisor);
        if width == Width::W32 {
            self.asm.mov_rr(Width::W32, dst, dst);
        }
        match (width, Magic32::of(divisor as u32)) {
            (Width::W32, Some(magic)) => {
                self.asm.mov_imm32(R9, magic.factor);
                self.asm.imul_rr(Width::W64, R9, dst);
                self.asm.shift_ri(Shift::Shr, Width::W64, R9, magic.shift);
            }
            // For 32-bit x and d, x / d is the upper half of x * ceil(2^64 / d).
            (Width::W32, None) => {
                let factor = (u64::MAX / divisor).wrapping_add(1);
                self.long_product(
                    dst,
                    Magic64 {
                        pre: 0,
                        factor,
                        adds: false,
                        shift: 0,
                    },
                );
            }
            (Width::W64, _) => {
                let Some(magic) = Magic64::of(divisor) else {
                    return;
                };
                self.long_product(dst, magic);
            }
        }
        if division.wants_remainder {
            // dst -= quotient * divisor; the divisor came from a sign-extended immediate.
            self.asm.imul_rri(width, R9, R9, divisor as i32);
            self.asm.arith_rr(Arith::Sub, width, dst, R9);
        } else {
            self.asm.mov_rr(width, dst, R9);
        }
    }

    /// r9 = the quotient of `x` by `magic`. Scratch: r11.
    fn long_product(&mut self, x: X, magic: Magic64) {
        let asm = &mut self.asm;
        let saves_rdx = x != RDX || magic.pre != 0;
        asm.mov_imm(R9, magic.factor);
        if saves_rdx {
            asm.copy(R11, RDX);
            asm.copy(RDX, x);
        }
        if magic.pre != 0 {
            asm.shift_ri(Shift::Shr, Width::W64, RDX, magic.pre);
        }
        // high:low = rdx * r9; where both are one register it gets the high half.
        asm.mulx(Width::W64, R9, R9, R9);
        if saves_rdx {
            asm.copy(RDX, R11);
        }
        if magic.adds {
            // (x * (2^64 + factor)) >> 65 = high + (x - high) / 2, without losing the carry.
            asm.copy(R11, x);
            asm.arith_rr(Arith::Sub, Width::W64, R11, R9);
            asm.shift_ri(Shift::Shr, Width::W64, R11, 1);
            asm.arith_rr(Arith::Add, Width::W64, R9, R11);
        }
        if magic.shift != 0 {
            asm.shift_ri(Shift::Shr, Width::W64, R9, magic.shift);
        }
    }
}

/// `x / d == (x * factor) >> shift` for every 32-bit x, with a 64-bit product.
#[derive(Clone, Copy, Debug)]
struct Magic32 {
    factor: u32,
    shift: u8,
}

impl Magic32 {
    /// With `l = ceil(log2 d)` and any `s` such that `e = 2^(32+s) mod -d` is at most `2^s`, `factor = ceil(2^(32+s) / d)` is exact
    /// (Granlund and Montgomery 1994, theorem 4.2). Only factors that fit 32 bits are taken, so that the product fits 64.
    fn of(divisor: u32) -> Option<Magic32> {
        if divisor < 3 {
            return None;
        }
        // If some s will do, a larger one does, as twice its factor has twice its error: only the largest that fits is tried.
        let s = divisor.ilog2();
        let power = 1u64 << (32 + s);
        let factor = power.div_ceil(divisor.into());
        let error = factor.wrapping_mul(divisor.into()).wrapping_sub(power);
        let fits = factor <= u32::MAX.into() && error <= 1 << s;
        let halvings = factor.trailing_zeros().min(s);
        fits.then_some(Magic32 {
            factor: (factor >> halvings) as u32,
            shift: (32 + s - halvings) as u8,
        })
    }
}

/// `x / d == ((x >> pre) * factor) >> (64 + shift)` for every 64-bit x; with `adds`, the factor has a 65th bit and one bit of the shift is
/// taken by the addition.
#[derive(Clone, Copy, Debug)]
struct Magic64 {
    pre: u8,
    factor: u64,
    adds: bool,
    shift: u8,
}

impl Magic64 {
    /// With `factor = ceil(2^(64+s) / d)` and `e = factor * d - 2^(64+s)`, the quotient of every y below `2^n` is exact if `e <= 2^(64+s-n)`.
    /// First for n = 64; an even divisor is halved first, so that y has fewer bits; an odd one without a 64-bit factor has one of 65.
    fn of(divisor: u64) -> Option<Magic64> {
        if divisor < 3 {
            return None;
        }
        // As above: the largest s whose factor has `factor_bits` bits.
        let search = |divisor: u64, spare_bits: u32, factor_bits: u32| {
            let s = divisor.ilog2() + factor_bits - 64;
            let power = 1u128.checked_shl(64 + s)?;
            let factor = power.div_ceil(divisor.into());
            let error = factor.checked_mul(divisor.into())? - power;
            let fits = factor >> factor_bits == 0 && error <= 1u128.checked_shl(s + spare_bits)?;
            let halvings = if factor_bits == 64 {
                factor.trailing_zeros().min(s)
            } else {
                0
            };
            fits.then_some((factor >> halvings, (s - halvings) as u8))
        };
        if let Some((factor, shift)) = search(divisor, 0, 64) {
            return Some(Magic64 {
                pre: 0,
                factor: factor as u64,
                adds: false,
                shift,
            });
        }
        let zeros = divisor.trailing_zeros();
        if zeros != 0 {
            let (factor, shift) = search(divisor >> zeros, zeros, 64)?;
            return Some(Magic64 {
                pre: zeros as u8,
                factor: factor as u64,
                adds: false,
                shift,
            });
        }
        let (factor, shift) = search(divisor, 0, 65)?;
        Some(Magic64 {
            pre: 0,
            factor: factor as u64,
            adds: true,
            shift: shift - 1,
        })
    }

    #[cfg(test)]
    fn quotient(self, x: u64) -> u64 {
        let high = ((u128::from(x >> self.pre) * u128::from(self.factor)) >> 64) as u64;
        let sum = if self.adds {
            high + ((x - high) >> 1)
        } else {
            high
        };
        sum >> self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_factors_divide_exactly_at_the_edges() {
        let divisors = (3..2000u64).chain([
            641,
            65537,
            1_000_000_007,
            0x7fff_ffff,
            0xffff_fffe,
            0xffff_ffff,
        ]);
        let mut covered = 0;
        // Powers of two are shifts.
        for divisor in divisors.filter(|divisor| !divisor.is_power_of_two()) {
            if let Some(magic) = Magic32::of(divisor as u32) {
                covered += 1;
                let top = u64::from(u32::MAX);
                let edges = [
                    0,
                    1,
                    divisor - 1,
                    divisor,
                    divisor + 1,
                    top / divisor * divisor,
                    top / divisor * divisor - 1,
                    top,
                ];
                for x in edges.into_iter().filter(|x| *x <= top) {
                    assert_eq!(
                        (x * u64::from(magic.factor)) >> magic.shift,
                        x / divisor,
                        "{x} / {divisor}"
                    );
                }
            }
            if let Some(magic) = Magic64::of(divisor) {
                covered += 1;
                let top = u64::MAX / divisor * divisor;
                for x in [0, 1, divisor - 1, divisor, top - 1, top, u64::MAX] {
                    assert_eq!(magic.quotient(x), x / divisor, "{x} / {divisor}");
                }
            }
        }
        assert!(covered > 3280, "{covered}");
    }
}
