//! Tristate numbers: which bits of a word are known.
//!
//! A tnum is a pair `(value, mask)`. Bit `i` is unknown where `mask` has it set, and otherwise equals bit `i` of
//! `value`; `value & mask == 0` always holds. The set of words a tnum stands for is
//! `{ x | x & !mask == value }`.
//!
//! Addition and subtraction are optimal (no tnum describes the results more tightly), multiplication is a sum of
//! partial products joined bit by bit. See H. Vishwanathan, M. Shachnai, S. Narayana, S. Nagarakatte, "Sound, Precise,
//! and Fast Abstract Interpretation with Tristate Numbers", CGO 2022, for the proofs.
//!
//! Kernel counterpart: `kernel/bpf/tnum.c`. Neighbours: `scalar` combines a tnum with ranges.

use core::fmt;

use super::plant::{Plant, planted};

/// The tnum of the verifier's registers.
pub type Tnum = TnumN<64>;

/// A tristate number of `W` bits (an even number from 4 to 64).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TnumN<const W: u32> {
    /// The known bits' values; zero where the bit is unknown.
    pub value: u64,
    /// The unknown bits.
    pub mask: u64,
}

impl<const W: u32> TnumN<W> {
    /// All `W` bits.
    pub const BITS: u64 = u64::MAX >> (64 - W);
    /// The bits of the low half (the subregister).
    const HALF: u64 = Self::BITS >> (W / 2);

    /// Nothing known.
    pub const UNKNOWN: Self = Self {
        value: 0,
        mask: Self::BITS,
    };
    /// The number zero.
    pub const ZERO: Self = Self { value: 0, mask: 0 };

    /// The tnum with exactly these parts; bits of `value` under `mask` are dropped.
    #[inline]
    pub const fn new(value: u64, mask: u64) -> Self {
        Self {
            value: value & !mask & Self::BITS,
            mask: mask & Self::BITS,
        }
    }

    /// The number `value`, all bits known.
    #[inline]
    pub const fn constant(value: u64) -> Self {
        Self {
            value: value & Self::BITS,
            mask: 0,
        }
    }

    /// The tightest tnum that holds every number from `min` to `max`: their common leading bits are known.
    #[inline]
    pub fn range(min: u64, max: u64) -> Self {
        let differing = (min ^ max) & Self::BITS;
        if planted(Plant::TnumRange) {
            return Self::new(min, differing);
        }
        if differing == 0 {
            return Self::constant(min);
        }
        let unknown = u64::MAX >> differing.leading_zeros();
        Self::new(min, unknown)
    }

    /// Whether every bit is known.
    #[inline]
    pub const fn is_const(self) -> bool {
        self.mask == 0
    }

    /// Whether this is the number `value`.
    #[inline]
    pub const fn equals_const(self, value: u64) -> bool {
        self.mask == 0 && self.value == value
    }

    /// Whether no bit is known.
    #[inline]
    pub const fn is_unknown(self) -> bool {
        self.mask == Self::BITS
    }

    /// The smallest member as an unsigned number.
    #[inline]
    pub const fn umin(self) -> u64 {
        self.value
    }

    /// The largest member as an unsigned number.
    #[inline]
    pub const fn umax(self) -> u64 {
        self.value | self.mask
    }

    /// Whether the number `x` is a member.
    #[inline]
    pub const fn contains_value(self, x: u64) -> bool {
        x & !self.mask & Self::BITS == self.value
    }

    /// Whether every member of `inner` is a member of `self`.
    #[inline]
    pub const fn contains(self, inner: Self) -> bool {
        inner.mask & !self.mask == 0 && inner.value & !self.mask == self.value
    }

    /// Whether some number is a member of both.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        (self.value ^ other.value) & !self.mask & !other.mask == 0
    }

    /// The least member that is not below `x`.
    ///
    /// Let `p` be the highest known bit where `x` differs. If the members have a one there, the answer keeps the bits of
    /// `x` above `p` and is least below. If they have a zero, `x` must first be raised at an unknown bit above `p` where it
    /// has a zero; the lowest such bit is the least rise.
    #[inline]
    pub const fn least_member_from(self, x: u64) -> Option<u64> {
        let differing = (x ^ self.value) & !self.mask & Self::BITS;
        if differing == 0 {
            return Some(x);
        }
        let differing_bit = 1 << differing.ilog2();
        let raised_bit = if self.value & differing_bit != 0 {
            differing_bit
        } else {
            let above = !(differing_bit | (differing_bit - 1));
            let candidates = self.mask & !x & above;
            if candidates == 0 {
                return None;
            }
            candidates & candidates.wrapping_neg()
        };
        Some(x & !(raised_bit | (raised_bit - 1)) | raised_bit | self.value & (raised_bit - 1))
    }

    /// The member that lies in `min..=max`, if it is seen to be the only one.
    ///
    /// The kernel steps from one member to the next and never past the greatest. So the greatest is not found where `min`
    /// itself is the greatest, and is taken for the only one where no other lies above `min`, be it in the range or not.
    #[inline]
    pub fn only_member_in(self, min: u64, max: u64) -> Option<u64> {
        let greatest = self.umax();
        let next = self.step(min);
        if planted(Plant::TnumOnlyMember) && next <= max {
            return Some(next);
        }
        if self.contains_value(min) {
            if next > max { Some(min) } else { None }
        } else if next == greatest || next <= max && self.step(next) > max {
            Some(next)
        } else {
            None
        }
    }

    /// The least member above `x`, or the greatest member.
    #[inline]
    const fn step(self, x: u64) -> u64 {
        let greatest = self.umax();
        if x >= greatest {
            return greatest;
        }
        match self.least_member_from(x + 1) {
            Some(member) => member,
            None => greatest,
        }
    }

    /// Whether all members are multiples of `size`, a power of two (0 asks nothing).
    #[inline]
    pub const fn is_aligned(self, size: u64) -> bool {
        size == 0 || (self.value | self.mask) & (size - 1) == 0
    }

    /// `self << shift`.
    #[inline]
    pub fn lshift(self, shift: u32) -> Self {
        let mask = if planted(Plant::TnumLshift) {
            self.mask
        } else {
            self.mask << shift
        };
        Self::new(self.value << shift, mask)
    }

    /// `self >> shift`, unsigned.
    #[inline]
    pub fn rshift(self, shift: u32) -> Self {
        let mask = if planted(Plant::TnumRshift) {
            self.mask >> shift >> 1
        } else {
            self.mask >> shift
        };
        Self {
            value: self.value >> shift,
            mask,
        }
    }

    /// `self >> shift`, signed over the whole width. An unknown sign bit makes unknown the bits that copy it.
    #[inline]
    pub fn arshift(self, shift: u32) -> Self {
        let spare = 64 - W;
        if planted(Plant::TnumArshift) {
            // The copies of an unknown sign are taken for zeros.
            return Self::new(
                (((self.value << spare) as i64) >> spare >> shift) as u64,
                self.mask >> shift,
            );
        }
        Self {
            value: (((self.value << spare) as i64) >> spare >> shift) as u64 & Self::BITS,
            mask: (((self.mask << spare) as i64) >> spare >> shift) as u64 & Self::BITS,
        }
    }

    /// The low half shifted right, signed at the half's width; the high half becomes zero.
    #[inline]
    pub fn arshift_half(self, shift: u32) -> Self {
        let spare = 64 - W / 2;
        if planted(Plant::TnumArshiftHalf) {
            return self.subreg().rshift(shift);
        }
        Self {
            value: (((self.value << spare) as i64) >> spare >> shift) as u64 & Self::HALF,
            mask: (((self.mask << spare) as i64) >> spare >> shift) as u64 & Self::HALF,
        }
    }

    /// `self + other`.
    ///
    /// The sum of the smallest members and the sum of the largest differ exactly where a carry is uncertain.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn add(self, other: Self) -> Self {
        let least = self.value.wrapping_add(other.value);
        if planted(Plant::TnumAdd) {
            // Carries are forgotten.
            return Self::new(least, self.mask | other.mask);
        }
        let most = least.wrapping_add(self.mask.wrapping_add(other.mask));
        Self::new(least, (least ^ most) | self.mask | other.mask)
    }

    /// `self - other`.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn sub(self, other: Self) -> Self {
        let middle = self.value.wrapping_sub(other.value);
        if planted(Plant::TnumSub) {
            // Borrows are forgotten.
            return Self::new(middle, self.mask | other.mask);
        }
        let most = middle.wrapping_add(self.mask);
        let least = middle.wrapping_sub(other.mask);
        Self::new(middle, (least ^ most) | self.mask | other.mask)
    }

    /// `0 - self`.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn neg(self) -> Self {
        Self::ZERO.sub(self)
    }

    /// `self & other`.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if planted(Plant::TnumAnd) {
            return Self::new(self.value & other.value, self.mask & other.mask);
        }
        let can_be_one = self.umax() & other.umax();
        let is_one = self.value & other.value;
        Self {
            value: is_one,
            mask: can_be_one & !is_one,
        }
    }

    /// `self | other`.
    #[inline]
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if planted(Plant::TnumOr) {
            return Self::new(self.value | other.value, self.mask & other.mask);
        }
        let is_one = self.value | other.value;
        Self {
            value: is_one,
            mask: (self.mask | other.mask) & !is_one,
        }
    }

    /// `self ^ other`.
    #[inline]
    #[must_use]
    pub fn xor(self, other: Self) -> Self {
        let mask = if planted(Plant::TnumXor) {
            self.mask
        } else {
            self.mask | other.mask
        };
        Self::new(self.value ^ other.value, mask)
    }

    /// `self * other`, by long multiplication over the bits of `self`, lowest first.
    ///
    /// A bit known to be 1 adds the shifted multiplicand; an unknown bit either adds it or does not, so the two sums are
    /// joined; a bit known to be 0 adds nothing. The order of the operands matters to the result.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "abstract, not arithmetic")]
    pub fn mul(self, other: Self) -> Self {
        if self.mask == 0 && other.mask == 0 {
            return Self::constant(self.value.wrapping_mul(other.value));
        }
        let mut sum = Self::ZERO;
        let mut bits_left = self.umax();
        while bits_left != 0 {
            let position = bits_left.trailing_zeros();
            let with_partial = sum.add(other.lshift(position));
            sum = if self.value >> position & 1 == 1 || planted(Plant::TnumMul) {
                with_partial
            } else {
                sum.union(with_partial)
            };
            bits_left &= bits_left - 1;
        }
        sum
    }

    /// The tightest tnum that holds the members of both.
    #[inline]
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if planted(Plant::TnumUnion) {
            return Self::new(self.value, self.mask | other.mask);
        }
        Self::new(
            self.value,
            self.mask | other.mask | (self.value ^ other.value),
        )
    }

    /// What is known when both hold. If they contradict each other the result is meaningless, but a valid tnum.
    #[inline]
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let mask = if planted(Plant::TnumIntersect) {
            self.mask & other.mask & !1
        } else {
            self.mask & other.mask
        };
        Self::new(self.value | other.value, mask)
    }

    /// The low `size_bytes` bytes; the rest becomes zero.
    #[inline]
    #[must_use]
    pub fn cast(self, size_bytes: u32) -> Self {
        self.truncate_bits(size_bytes * 8)
    }

    /// The low `bits` bits (at least 1); the rest becomes zero.
    #[inline]
    pub(super) fn truncate_bits(self, bits: u32) -> Self {
        if bits >= W {
            return self;
        }
        let keep = u64::MAX >> (64 - bits);
        if planted(Plant::TnumTruncate) {
            return Self::new(self.value & keep, self.mask & keep >> 1);
        }
        Self {
            value: self.value & keep,
            mask: self.mask & keep,
        }
    }

    /// The low half; the high half becomes zero.
    #[inline]
    #[must_use]
    pub const fn subreg(self) -> Self {
        Self {
            value: self.value & Self::HALF,
            mask: self.mask & Self::HALF,
        }
    }

    /// The high half; the low half becomes zero.
    #[inline]
    #[must_use]
    pub fn clear_subreg(self) -> Self {
        Self {
            value: self.value & !Self::HALF,
            mask: self.mask & !Self::HALF,
        }
    }

    /// The high half of `self` over the low half of `low`.
    #[inline]
    #[must_use]
    pub fn with_subreg(self, low: Self) -> Self {
        if planted(Plant::TnumWithSubreg) {
            return low.subreg();
        }
        self.clear_subreg().or(low.subreg())
    }

    /// The high half of `self` over the known low half `value`.
    #[inline]
    #[must_use]
    pub fn const_subreg(self, value: u64) -> Self {
        self.with_subreg(Self::constant(value))
    }

    /// Whether the low half is known.
    #[inline]
    pub const fn subreg_is_const(self) -> bool {
        self.mask & Self::HALF == 0
    }
}

impl TnumN<64> {
    /// The low 16 bits with their bytes exchanged; the rest becomes zero.
    #[inline]
    #[must_use]
    pub fn bswap16(self) -> Self {
        if planted(Plant::TnumBswap16) {
            return Self::new(self.value & 0xffff, self.mask & 0xffff);
        }
        Self {
            value: (self.value as u16).swap_bytes() as u64,
            mask: (self.mask as u16).swap_bytes() as u64,
        }
    }

    /// The low 32 bits with their bytes in reverse order; the rest becomes zero.
    #[inline]
    #[must_use]
    pub fn bswap32(self) -> Self {
        if planted(Plant::TnumBswap32) {
            return Self::new(
                (self.value as u32).swap_bytes().into(),
                self.mask & 0xffff_ffff,
            );
        }
        Self {
            value: (self.value as u32).swap_bytes() as u64,
            mask: (self.mask as u32).swap_bytes() as u64,
        }
    }

    /// The bytes in reverse order.
    #[inline]
    #[must_use]
    pub fn bswap64(self) -> Self {
        if planted(Plant::TnumBswap64) {
            return Self::new(self.value.swap_bytes(), self.mask);
        }
        Self {
            value: self.value.swap_bytes(),
            mask: self.mask.swap_bytes(),
        }
    }
}

/// As the verifier log prints it after `var_off=`: `(0x0; 0xff)`.
impl<const W: u32> fmt::Display for TnumN<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:#x}; {:#x})", self.value, self.mask)
    }
}

impl<const W: u32> fmt::Debug for TnumN<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
