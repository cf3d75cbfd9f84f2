//! What an arithmetic instruction does to a scalar.
//!
//! One row per operation. Every row computes bits and both ranges from the operands and leaves the exchange between
//! them to `sync`. A 32-bit operation works on the low half alone, then the high half becomes zero.
//!
//! | operation | bits | ranges |
//! |---|---|---|
//! | add, sub, mul | tnum | end points, unless they overflow |
//! | neg | tnum | those of `0 - x` |
//! | and | tnum | from the bits; unsigned maximum at most that of either operand |
//! | or | tnum | from the bits; unsigned minimum at least that of either operand |
//! | xor | tnum | from the bits |
//! | lsh, rsh, arsh by a known amount below the width | tnum | end points, unless they overflow |
//! | byte swaps | tnum | from the bits |
//! | any other shift; div, mod, sdiv, smod | unknown | unknown |
//!
//! Kernel counterpart: `adjust_scalar_min_max_vals`. Neighbours: `check/alu` decides whether the operation is permitted
//! and what becomes of ids and pointers.

use ring3_isa::{AluOp, EndianOp, MemSize, Width};

use super::plant::{Plant, planted};
use super::range::Range;
use super::scalar::ScalarN;
use super::tnum::TnumN;

/// What a register that holds 0 or -1 is on the two paths of [`ScalarN::fork_of_sign_mask`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignMaskFork<const W: u32, const H: u32> {
    /// The register on the path explored first.
    pub ones: ScalarN<W, H>,
    /// The register on the path explored later.
    pub zero: ScalarN<W, H>,
}

impl<const W: u32, const H: u32> ScalarN<W, H> {
    /// Whether the result of `op` depends on more than its being a scalar. It does not for divisions, and not for shifts
    /// by an amount that is unknown or beyond the width.
    #[inline]
    pub fn is_alu_computable(op: AluOp, src: &Self, width: Width) -> bool {
        match op {
            AluOp::Div | AluOp::Sdiv => planted(Plant::Div),
            AluOp::Mod | AluOp::Smod => planted(Plant::Mod),
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh
                if planted(Plant::ShiftUnknown) && src.umin < u64::from(H) =>
            {
                true
            }
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => match width {
                Width::W32 => {
                    src.subreg_is_const() && src.half().is_const() && src.umax < u64::from(H)
                }
                Width::W64 => src.is_const() && src.full().is_const() && src.umax < u64::from(W),
            },
            AluOp::Add
            | AluOp::Sub
            | AluOp::Mul
            | AluOp::Or
            | AluOp::And
            | AluOp::Xor
            | AluOp::Mov => true,
        }
    }

    /// The two numbers 0 and -1, if they are all that the register can hold and `op` with a known `src` is an `and` or `or`.
    ///
    /// `x >> 63` (signed) selects one of two constants when it is combined with a known mask. The kernel then explores both
    /// outcomes as paths of their own: first the one with -1, later, from the same instruction, the one with 0.
    #[inline]
    pub fn fork_of_sign_mask(&self, op: AluOp, src: &Self) -> Option<SignMaskFork<W, H>> {
        if !matches!(op, AluOp::And | AluOp::Or) || !src.is_const() {
            return None;
        }
        if self.smin == -1 && self.smax == 0 {
            let zero = if planted(Plant::Fork64) {
                Self::known(1)
            } else {
                Self::ZERO
            };
            return Some(SignMaskFork {
                ones: Self::known(u64::MAX),
                zero,
            });
        }
        if self.s32_min == -1 && self.s32_max == 0 {
            return Some(SignMaskFork {
                ones: self.with_subreg_known(u64::MAX),
                zero: if planted(Plant::Fork32) {
                    self.with_subreg_known(1)
                } else {
                    self.with_subreg_known(0)
                },
            });
        }
        None
    }

    /// The low half becomes known, the high half and the ranges of the whole stay.
    #[inline]
    fn with_subreg_known(self, bits: u64) -> Self {
        self.with_var_off(self.var_off.const_subreg(bits))
            .with_half(Range::known(bits))
    }

    /// The register after `self = self op src`.
    #[inline]
    #[must_use]
    pub fn alu(self, op: AluOp, src: &Self, width: Width) -> Self {
        if !Self::is_alu_computable(op, src, width) {
            return Self::UNKNOWN;
        }
        if let (Some(a), Some(b)) = (self.const_value_at(width), src.const_value_at(width)) {
            return Self::known(Self::alu_of_known(op, a, b, width));
        }
        let result = match op {
            AluOp::Add => Self::of_parts(
                self.var_off.add(src.var_off),
                Self::full_at(width, || self.full().add(src.full())),
                self.half().add(src.half()),
            ),
            AluOp::Sub => self.sub_unsynced(src, width),
            AluOp::Mul => Self::of_parts(
                self.var_off.mul(src.var_off),
                Self::full_at(width, || self.full().mul(src.full())),
                self.half().mul(src.half()),
            ),
            AluOp::And => self.and_unsynced(src, width),
            AluOp::Or => self.or_unsynced(src, width),
            AluOp::Xor => self.xor_unsynced(src, width),
            AluOp::Lsh => self.lsh_unsynced(src.umin as u32, width),
            AluOp::Rsh => self.rsh_unsynced(src.umin as u32, width),
            AluOp::Arsh => self.arsh_unsynced(src.umin as u32, width),
            AluOp::Mov => match width {
                Width::W32 => return src.zero_extend(),
                Width::W64 => return *src,
            },
            AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod => self.div_unsynced(op, src),
        };
        result.finish_alu(width)
    }

    /// Nothing is known of quotients and remainders, unless a fault is planted.
    #[inline]
    fn div_unsynced(self, op: AluOp, src: &Self) -> Self {
        let most = match op {
            AluOp::Div | AluOp::Sdiv if planted(Plant::Div) => self.umax >> 1,
            AluOp::Mod | AluOp::Smod if planted(Plant::Mod) && src.umax > 0 => src.umax - 1,
            _ => return Self::UNKNOWN,
        };
        Self::UNKNOWN.with_full(Range::from_unsigned(0, most))
    }

    /// The register after `self = -self`.
    #[inline]
    #[must_use]
    pub fn neg(self, width: Width) -> Self {
        if planted(Plant::Neg) {
            return self.with_var_off(self.var_off.neg()).finish_alu(width);
        }
        Self::ZERO.sub_unsynced(&self, width).finish_alu(width)
    }

    #[inline]
    fn finish_alu(self, width: Width) -> Self {
        match width {
            Width::W32 if planted(Plant::Alu32KeepsHigh) => self.sync(),
            Width::W32 => self.zero_extend(),
            Width::W64 => self.sync(),
        }
    }

    /// `a op b` of numbers; a shift amount is below the width.
    #[inline]
    fn alu_of_known(op: AluOp, a: u64, b: u64, width: Width) -> u64 {
        let all = match width {
            Width::W32 => Range::<H>::U_MAX,
            Width::W64 => Range::<W>::U_MAX,
        };
        let result = match op {
            AluOp::Add => a.wrapping_add(b),
            AluOp::Sub if planted(Plant::SubOfKnown) => b.wrapping_sub(a),
            AluOp::Sub => a.wrapping_sub(b),
            AluOp::Mul => a.wrapping_mul(b),
            AluOp::And => a & b,
            AluOp::Or => a | b,
            AluOp::Xor => a ^ b,
            AluOp::Mov => b,
            AluOp::Lsh => a << b,
            AluOp::Rsh => a >> b,
            AluOp::Arsh => match width {
                Width::W32 if planted(Plant::ArshOfKnown) => a >> b,
                Width::W32 => (Range::<H>::signed(a) >> b) as u64,
                Width::W64 => (Range::<W>::signed(a) >> b) as u64,
            },
            AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod => return 0,
        };
        result & all
    }

    /// The ranges of the whole register; of an operation on the low half they are not asked for.
    #[inline]
    fn full_at(width: Width, full: impl FnOnce() -> Range<W>) -> Range<W> {
        match width {
            Width::W32 if !planted(Plant::Alu32KeepsHigh) => Range::UNKNOWN,
            Width::W32 | Width::W64 => full(),
        }
    }

    #[inline]
    fn sub_unsynced(self, src: &Self, width: Width) -> Self {
        Self::of_parts(
            self.var_off.sub(src.var_off),
            Self::full_at(width, || self.full().sub(src.full())),
            self.half().sub(src.half()),
        )
    }

    #[inline]
    fn and_unsynced(self, src: &Self, width: Width) -> Self {
        let bits = self.var_off.and(src.var_off);
        self.of_bitwise(src, bits, width, |low, a, b| {
            let umax = if planted(Plant::AndMax) {
                a.min(b) & !1
            } else {
                a.min(b)
            };
            (low.umin(), umax)
        })
    }

    #[inline]
    fn or_unsynced(self, src: &Self, width: Width) -> Self {
        let bits = self.var_off.or(src.var_off);
        let (mut full_min, mut half_min) = (self.umin.max(src.umin), self.u32_min.max(src.u32_min));
        if planted(Plant::OrMin) {
            full_min = self.umin | src.umin;
            half_min = self.u32_min | src.u32_min;
        }
        let low = bits.subreg();
        Self::of_parts(
            bits,
            Self::full_at(width, || Range::from_unsigned(full_min, bits.umax())),
            Range::from_unsigned(u64::from(half_min), low.umax()),
        )
        .known_if_operands_known(src)
    }

    #[inline]
    fn xor_unsynced(self, src: &Self, width: Width) -> Self {
        let bits = self.var_off.xor(src.var_off);
        self.of_bitwise(src, bits, width, |bits, a, b| {
            if planted(Plant::XorMax) {
                return (0, a.max(b));
            }
            (bits.umin(), bits.umax())
        })
    }

    /// A result given by its bits; `bounds` takes the bits and the unsigned maxima of both operands, at one width.
    #[inline]
    fn of_bitwise(
        self,
        src: &Self,
        bits: TnumN<W>,
        width: Width,
        bounds: impl Fn(TnumN<W>, u64, u64) -> (u64, u64),
    ) -> Self {
        let full = Self::full_at(width, || {
            let (umin, umax) = bounds(bits, self.umax, src.umax);
            Range::from_unsigned(umin, umax)
        });
        let (half_umin, half_umax) = bounds(
            bits.subreg(),
            u64::from(self.u32_max),
            u64::from(src.u32_max),
        );
        Self::of_parts(bits, full, Range::from_unsigned(half_umin, half_umax))
            .known_if_operands_known(src)
    }

    /// Where result and source are known, the ranges are that number whatever they were.
    #[inline]
    fn known_if_operands_known(self, src: &Self) -> Self {
        let one_is_enough = planted(Plant::BitwiseKnown);
        if src.is_const() && (self.is_const() || one_is_enough) {
            Self::known(self.var_off.value)
        } else if src.subreg_is_const() && self.subreg_is_const() {
            self.with_half(Range::known(self.var_off.value))
        } else {
            self
        }
    }

    #[inline]
    fn lsh_unsynced(self, amount: u32, width: Width) -> Self {
        match width {
            Width::W32 => {
                let bits = self.var_off.subreg().lshift(amount).subreg();
                Self::of_parts(bits, Range::UNKNOWN, self.half().lsh(amount))
            }
            Width::W64 => {
                let mut full = self.full().lsh(amount);
                // `x << 32` before `>> 32` is how compilers extend a half: the half's signs become the register's.
                if amount == H {
                    full.smin = if planted(Plant::Lsh32) {
                        0
                    } else {
                        self.half().smin << H
                    };
                    full.smax = self.half().smax << H;
                }
                let half = if amount < H {
                    self.half().lsh(amount)
                } else {
                    Range::UNKNOWN
                };
                Self::of_parts(self.var_off.lshift(amount), full, half)
            }
        }
    }

    #[inline]
    fn rsh_unsynced(self, amount: u32, width: Width) -> Self {
        match width {
            Width::W32 => Self::of_parts(
                self.var_off.subreg().rshift(amount),
                Range::UNKNOWN,
                self.half().rsh(amount),
            ),
            Width::W64 => Self::of_parts(
                self.var_off.rshift(amount),
                self.full().rsh(amount),
                if planted(Plant::RshHalf) {
                    self.half().rsh(amount % H)
                } else {
                    Range::UNKNOWN
                },
            ),
        }
    }

    #[inline]
    fn arsh_unsynced(self, amount: u32, width: Width) -> Self {
        match width {
            Width::W32 => Self::of_parts(
                self.var_off.arshift_half(amount),
                Range::UNKNOWN,
                self.half().arsh(amount),
            ),
            Width::W64 => Self::of_parts(
                self.var_off.arshift(amount),
                self.full().arsh(amount),
                if planted(Plant::ArshHalf) {
                    self.half().arsh(amount % H)
                } else {
                    Range::UNKNOWN
                },
            ),
        }
    }
}

impl ScalarN<64, 32> {
    /// The register after a byte-order operation on its low `size`. Exchanging bytes leaves only the bits known.
    #[inline]
    #[must_use]
    pub fn endian(self, op: EndianOp, size: MemSize) -> Self {
        let placed = match (op, size) {
            (EndianOp::ToLe, _) | (_, MemSize::B) => self,
            _ if planted(Plant::EndianKeepsRanges) => self.with_var_off(match size {
                MemSize::B | MemSize::H => self.var_off.bswap16(),
                MemSize::W => self.var_off.bswap32(),
                MemSize::Dw => self.var_off.bswap64(),
            }),
            (EndianOp::ToBe | EndianOp::Swap, MemSize::H) => {
                Self::UNKNOWN.with_var_off(self.var_off.bswap16())
            }
            (EndianOp::ToBe | EndianOp::Swap, MemSize::W) => {
                Self::UNKNOWN.with_var_off(self.var_off.bswap32())
            }
            (EndianOp::ToBe | EndianOp::Swap, MemSize::Dw) => {
                Self::UNKNOWN.with_var_off(self.var_off.bswap64())
            }
        };
        placed.coerce_to_size(size).sync()
    }
}
