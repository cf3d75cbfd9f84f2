//! What a narrower reading of a scalar is: truncation, zero extension, sign extension.
//!
//! Where all members share the bits above the narrow width, the bounds are extended like numbers; else all that is known is
//! the narrow type's own range.
//!
//! Kernel counterpart: `zext_32_to_64`, `coerce_reg_to_size`, `coerce_reg_to_size_sx`, `coerce_subreg_to_size_sx`.
//! Neighbours: `scalar`; `check/alu` (moves) and `check/stack` (loads of spilled registers).

use ring3_isa::MemSize;

use super::plant::{Plant, planted};
use super::range::Range;
use super::scalar::ScalarN;
use super::tnum::TnumN;

impl<const W: u32, const H: u32> ScalarN<W, H> {
    /// The low half as a whole register: the high half becomes zero. Not yet synced.
    #[inline]
    #[must_use]
    pub(super) fn zero_extend_unsynced(self) -> Self {
        let half = self.half();
        let (smin, smax) = if half.smin >= 0 && half.smax >= 0 || planted(Plant::ZeroExtend) {
            (half.smin, half.smax)
        } else {
            (0, Range::<H>::U_MAX as i64)
        };
        let full = Range {
            umin: half.umin,
            umax: half.umax,
            smin,
            smax,
        };
        self.with_var_off(self.var_off.subreg()).with_full(full)
    }

    /// The effect of a 32-bit move: the low half stays, the high half becomes zero.
    #[inline]
    #[must_use]
    pub fn zero_extend(self) -> Self {
        self.zero_extend_unsynced().sync()
    }

    /// The effect of loading the low `size` with zero extension.
    #[inline]
    #[must_use]
    pub fn coerce_to_size(self, size: MemSize) -> Self {
        let bits = size.bytes() as u32 * 8;
        if bits >= W {
            self
        } else {
            self.coerce_to_bits(bits)
        }
    }

    #[inline]
    pub(super) fn coerce_to_bits(self, bits: u32) -> Self {
        let keep = u64::MAX >> (64 - bits);
        let (umin, umax) = if (self.umin ^ self.umax) & !keep == 0 || planted(Plant::Coerce) {
            (self.umin & keep, self.umax & keep)
        } else {
            (0, keep)
        };
        let full = Range {
            umin,
            umax,
            smin: umin as i64,
            smax: umax as i64,
        };
        let coerced = self
            .with_var_off(self.var_off.truncate_bits(bits))
            .with_full(full);
        // The low half's ranges still describe a 32-bit load, not a shorter one.
        if bits < H && !planted(Plant::CoerceHalf) {
            coerced.with_half(Range::UNKNOWN)
        } else {
            coerced
        }
        .sync()
    }

    /// The effect of `(s8)`, `(s16)`, `(s32)` extended to the whole register.
    #[inline]
    #[must_use]
    pub fn sign_extend(self, from: MemSize) -> Self {
        let bits = from.bytes() as u32 * 8;
        if bits >= W {
            self
        } else {
            self.sign_extend_bits(bits)
        }
    }

    #[inline]
    pub(super) fn sign_extend_bits(self, bits: u32) -> Self {
        if self.var_off.is_const() {
            return Self::known(sign_extend_word(self.var_off.value, bits) as u64);
        }
        // One sign for all members: the bounds extend like numbers, if no bit above the narrow width differs.
        if self.smin >> bits == self.smax >> bits || planted(Plant::SignExtend) {
            let (a, b) = (
                sign_extend_word(self.smin as u64, bits),
                sign_extend_word(self.smax as u64, bits),
            );
            let (mut smin, smax) = (a.min(b), a.max(b));
            if planted(Plant::SignExtendMixed) {
                smin = smin.max(0).min(smax);
            }
            if (smin >= 0) == (smax >= 0) {
                let full = Range {
                    umin: Range::<W>::unsigned(smin),
                    umax: Range::<W>::unsigned(smax),
                    smin,
                    smax,
                };
                let half = Range {
                    umin: Range::<H>::unsigned(smin),
                    umax: Range::<H>::unsigned(smax),
                    smin: Range::<H>::signed(smin as u64),
                    smax: Range::<H>::signed(smax as u64),
                };
                return Self::of_parts(TnumN::range(smin as u64, smax as u64), full, half);
            }
        }
        let (smin, smax) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
        Self::UNKNOWN
            .with_full(Range {
                smin,
                smax,
                ..Range::UNKNOWN
            })
            .with_half(Range {
                smin,
                smax,
                ..Range::UNKNOWN
            })
    }

    /// The effect of `(s8)`, `(s16)` extended to the low half, the high half becoming zero.
    #[inline]
    #[must_use]
    pub fn sign_extend_half(self, from: MemSize) -> Self {
        self.sign_extend_half_bits(from.bytes() as u32 * 8)
    }

    #[inline]
    pub(super) fn sign_extend_half_bits(self, bits: u32) -> Self {
        self.sign_extend_half_unsynced(bits).zero_extend()
    }

    #[inline]
    fn sign_extend_half_unsynced(self, bits: u32) -> Self {
        if self.var_off.is_const() {
            return Self::known(
                sign_extend_word(self.var_off.value, bits) as u64 & Range::<H>::U_MAX,
            );
        }
        let half = self.half();
        if half.smin >> bits == half.smax >> bits || planted(Plant::SignExtendHalf) {
            let (a, b) = (
                sign_extend_word(half.smin as u64, bits),
                sign_extend_word(half.smax as u64, bits),
            );
            let (smin, smax) = (a.min(b), a.max(b));
            if (smin >= 0) == (smax >= 0) {
                let half = Range {
                    umin: Range::<H>::unsigned(smin),
                    umax: Range::<H>::unsigned(smax),
                    smin,
                    smax,
                };
                return self
                    .with_var_off(TnumN::range(half.umin, half.umax).subreg())
                    .with_half(half);
            }
        }
        let (smin, smax) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
        let smin = if planted(Plant::SignExtendHalfUnknown) {
            0
        } else {
            smin
        };
        self.with_var_off(TnumN::UNKNOWN.subreg()).with_half(Range {
            smin,
            smax,
            ..Range::UNKNOWN
        })
    }
}

/// The low `bits` bits of `word`, as a signed number.
#[inline]
const fn sign_extend_word(word: u64, bits: u32) -> i64 {
    ((word << (64 - bits)) as i64) >> (64 - bits)
}
