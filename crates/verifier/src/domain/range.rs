//! Intervals: what is known of the order of a number, read as unsigned and read as signed.
//!
//! A [`Range`] at width `B` holds `umin <= x <= umax` for the unsigned reading of `x` and `smin <= x <= smax` for the
//! signed one. The two are kept side by side because each can be exact where the other wraps; `scalar` carries knowledge
//! from one to the other. All four are stored in 64 bits: unsigned ones zero-extended, signed ones sign-extended.
//!
//! The rule for an operation: the bounds follow the mathematical result while it fits the width. The unsigned bounds of
//! sum and difference also survive when both ends wrap (then every result wraps alike). Otherwise that pair of bounds
//! is given up.
//!
//! Kernel counterpart: the `scalar_min_max_*` and `scalar32_min_max_*` functions. Neighbours: `scalar`, `alu`, `branch`.

use super::plant::{Plant, planted, planted_at};

/// Unsigned and signed bounds, all inclusive, of a number of `B` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range<const B: u32> {
    /// Least value, read as unsigned.
    pub umin: u64,
    /// Greatest value, read as unsigned.
    pub umax: u64,
    /// Least value, read as signed.
    pub smin: i64,
    /// Greatest value, read as signed.
    pub smax: i64,
}

impl<const B: u32> Range<B> {
    /// The greatest unsigned number of this width.
    pub const U_MAX: u64 = u64::MAX >> (64 - B);
    /// The least signed number of this width.
    pub const S_MIN: i64 = i64::MIN >> (64 - B);
    /// The greatest signed number of this width.
    pub const S_MAX: i64 = i64::MAX >> (64 - B);

    /// Nothing known.
    pub const UNKNOWN: Self = Self {
        umin: 0,
        umax: Self::U_MAX,
        smin: Self::S_MIN,
        smax: Self::S_MAX,
    };

    /// The low `B` bits of `bits`, read as signed.
    #[inline]
    pub const fn signed(bits: u64) -> i64 {
        ((bits << (64 - B)) as i64) >> (64 - B)
    }

    /// The low `B` bits of `number`, read as unsigned.
    #[inline]
    pub const fn unsigned(number: i64) -> u64 {
        number as u64 & Self::U_MAX
    }

    /// The one number whose low `B` bits are those of `bits`.
    #[inline]
    pub const fn known(bits: u64) -> Self {
        let (unsigned, signed) = (bits & Self::U_MAX, Self::signed(bits));
        Self {
            umin: unsigned,
            umax: unsigned,
            smin: signed,
            smax: signed,
        }
    }

    /// The least and greatest members of the tnum `(value, mask)`, given by its low `B` bits.
    #[inline]
    pub(super) const fn of_bits(value: u64, mask: u64) -> Self {
        let sign = 1 << (B - 1);
        Self {
            umin: value,
            umax: value | mask,
            smin: Self::signed(value | (mask & sign)),
            smax: Self::signed(value | (mask & !sign)),
        }
    }

    /// The unsigned bounds given, and the signed ones if these do not cross the sign boundary.
    #[inline]
    pub fn from_unsigned(umin: u64, umax: u64) -> Self {
        Self {
            umin,
            umax,
            ..Self::UNKNOWN
        }
        .with_signed_of_unsigned()
    }

    /// Forgets the signed bounds, then takes the unsigned ones if they have the same order when read as signed.
    #[inline]
    #[must_use]
    pub fn with_signed_of_unsigned(self) -> Self {
        let (smin, smax) = (Self::signed(self.umin), Self::signed(self.umax));
        let planted = planted_at::<B>(
            Plant::Range64SignedOfUnsigned,
            Plant::Range32SignedOfUnsigned,
        );
        if smin <= smax || planted {
            let (smin, smax) = (smin.min(smax), smin.max(smax));
            Self { smin, smax, ..self }
        } else {
            self.with_signed_unknown()
        }
    }

    /// Forgets the signed bounds.
    #[inline]
    #[must_use]
    pub const fn with_signed_unknown(self) -> Self {
        Self {
            smin: Self::S_MIN,
            smax: Self::S_MAX,
            ..self
        }
    }

    /// Forgets the unsigned bounds.
    #[inline]
    #[must_use]
    pub const fn with_unsigned_unknown(self) -> Self {
        Self {
            umin: 0,
            umax: Self::U_MAX,
            ..self
        }
    }

    /// Whether the four bounds agree on one number.
    #[inline]
    pub const fn is_const(self) -> bool {
        self.umin == self.umax && self.smin == self.smax
    }

    /// Whether a minimum lies above its maximum: no number is described.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.umin > self.umax || self.smin > self.smax
    }

    /// Whether every bound of `inner` satisfies this range.
    #[inline]
    pub(super) const fn contains(self, inner: Self) -> bool {
        self.umin <= inner.umin
            && self.umax >= inner.umax
            && self.smin <= inner.smin
            && self.smax >= inner.smax
    }

    /// Whether the number whose low bits are `bits` satisfies the bounds.
    #[inline]
    pub const fn contains_value(self, bits: u64) -> bool {
        let (unsigned, signed) = (bits & Self::U_MAX, Self::signed(bits));
        self.umin <= unsigned && unsigned <= self.umax && self.smin <= signed && signed <= self.smax
    }

    /// Raises `umin` and lowers `umax` to the given bounds.
    #[inline]
    pub(super) const fn narrow_unsigned(&mut self, umin: u64, umax: u64) {
        if umin > self.umin {
            self.umin = umin;
        }
        if umax < self.umax {
            self.umax = umax;
        }
    }

    /// Raises `smin` and lowers `smax` to the given bounds.
    #[inline]
    pub(super) const fn narrow_signed(&mut self, smin: i64, smax: i64) {
        if smin > self.smin {
            self.smin = smin;
        }
        if smax < self.smax {
            self.smax = smax;
        }
    }

    /// Narrows the bounds to the members of the tnum `(value, mask)`, given by its low `B` bits.
    #[inline]
    pub(super) fn narrow_by_bits(&mut self, value: u64, mask: u64) {
        if planted_at::<B>(Plant::Range64ByBits, Plant::Range32ByBits) {
            // The sign bit is no unknown bit like others.
            self.narrow_signed(Self::signed(value), Self::signed(value | mask));
        }
        let by_bits = Self::of_bits(value, mask);
        self.narrow_unsigned(by_bits.umin, by_bits.umax);
        self.narrow_signed(by_bits.smin, by_bits.smax);
    }

    /// Both bounds hold.
    #[inline]
    pub(super) fn intersect(mut self, other: Self) -> Self {
        self.narrow_unsigned(other.umin, other.umax);
        self.narrow_signed(other.smin, other.smax);
        if planted_at::<B>(Plant::Range64Intersect, Plant::Range32Intersect) {
            self.umax = self.umax.min(other.umin.max(self.umin));
        }
        self
    }

    /// `number`, if it fits the width.
    #[inline]
    fn fit(number: Option<i64>) -> Option<i64> {
        match number {
            Some(number) if planted(Plant::Range32Fit) => Some(Self::signed(number as u64)),
            Some(number) if number >= Self::S_MIN && number <= Self::S_MAX => Some(number),
            _ => None,
        }
    }

    /// The sum's bounds.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn add(self, other: Self) -> Self {
        if planted_at::<B>(Plant::Range64AddSigned, Plant::Range32AddSigned) {
            return Self {
                smin: Self::signed(self.smin.wrapping_add(other.smin) as u64),
                smax: Self::signed(self.smax.wrapping_add(other.smax) as u64),
                ..Self::UNKNOWN
            };
        }
        let smin = Self::fit(self.smin.checked_add(other.smin));
        let smax = Self::fit(self.smax.checked_add(other.smax));
        let (umin, umin_carry) = self.umin.overflowing_add(other.umin);
        let (umax, umax_carry) = self.umax.overflowing_add(other.umax);
        let ignores = planted_at::<B>(Plant::Range64AddUnsigned, Plant::Range32AddUnsigned);
        let umin_wraps = !ignores && (umin_carry || umin > Self::U_MAX);
        let umax_wraps = !ignores && (umax_carry || umax > Self::U_MAX);
        Self::of_ends(smin, smax, (umin, umin_wraps), (umax, umax_wraps))
    }

    /// The difference's bounds.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn sub(self, other: Self) -> Self {
        let smin = Self::fit(self.smin.checked_sub(other.smax));
        let smax = Self::fit(self.smax.checked_sub(other.smin));
        if planted_at::<B>(Plant::Range64Sub, Plant::Range32Sub) {
            // Each end minus the other's same end.
            return Self::of_ends(
                smin,
                smax,
                self.umin.overflowing_sub(other.umin),
                self.umax.overflowing_sub(other.umax),
            );
        }
        Self::of_ends(
            smin,
            smax,
            self.umin.overflowing_sub(other.umax),
            self.umax.overflowing_sub(other.umin),
        )
    }

    /// Bounds from the results at both ends: signed ones must fit, unsigned ones must wrap alike.
    #[inline]
    fn of_ends(smin: Option<i64>, smax: Option<i64>, umin: (u64, bool), umax: (u64, bool)) -> Self {
        let mut range = Self::UNKNOWN;
        if let (Some(smin), Some(smax)) = (smin, smax) {
            range.smin = smin;
            range.smax = smax;
        }
        if umin.1 == umax.1 {
            range.umin = umin.0 & Self::U_MAX;
            range.umax = umax.0 & Self::U_MAX;
        }
        range
    }

    /// The product's bounds.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn mul(self, other: Self) -> Self {
        let mut range = Self::UNKNOWN;
        if let (Some(umin), Some(umax)) = (
            self.umin.checked_mul(other.umin),
            self.umax.checked_mul(other.umax),
        ) && umin <= Self::U_MAX
            && umax <= Self::U_MAX
        {
            range.umin = umin;
            range.umax = umax;
        } else if planted_at::<B>(Plant::Range64MulUnsigned, Plant::Range32MulUnsigned) {
            range.umax = self.umax.wrapping_mul(other.umax) & Self::U_MAX;
        }
        let corners = [
            Self::fit(self.smin.checked_mul(other.smin)),
            Self::fit(self.smin.checked_mul(other.smax)),
            Self::fit(self.smax.checked_mul(other.smin)),
            Self::fit(self.smax.checked_mul(other.smax)),
        ];
        if let [Some(a), Some(b), Some(c), Some(d)] = corners {
            range.smin = a.min(b).min(c).min(d);
            range.smax = a.max(b).max(c).max(d);
            if planted_at::<B>(Plant::Range64MulSigned, Plant::Range32MulSigned) {
                (range.smin, range.smax) = (a.min(d), a.max(d));
            }
        }
        range
    }

    /// The bounds of `x << shift`: kept if no member loses a one bit, except the single largest power of two.
    #[inline]
    pub(super) fn lsh(self, shift: u32) -> Self {
        let ignores = planted_at::<B>(Plant::Range64Lsh, Plant::Range32Lsh);
        if ignores && self.umax > 1 << (B - 1 - shift) {
            return Self {
                umax: (self.umax << shift) & Self::U_MAX,
                ..Self::UNKNOWN
            };
        }
        if self.umax > 1 << (B - 1 - shift) {
            return Self::UNKNOWN;
        }
        Self {
            umin: self.umin << shift,
            umax: self.umax << shift,
            ..Self::UNKNOWN
        }
    }

    /// The bounds of `x >> shift`, unsigned.
    #[inline]
    pub(super) fn rsh(self, shift: u32) -> Self {
        let ceil = u64::from(planted_at::<B>(Plant::Range64Rsh, Plant::Range32Rsh) && shift > 0);
        Self {
            umin: (self.umin >> shift) + ceil,
            umax: self.umax >> shift,
            ..Self::UNKNOWN
        }
    }

    /// The bounds of `x >> shift`, signed.
    #[inline]
    pub(super) fn arsh(self, shift: u32) -> Self {
        let smin = if planted_at::<B>(Plant::Range64Arsh, Plant::Range32Arsh) {
            // Rounded to zero.
            self.smin / (1 << shift.min(62))
        } else {
            self.smin >> shift
        };
        Self {
            smin,
            smax: self.smax >> shift,
            ..Self::UNKNOWN
        }
    }
}
