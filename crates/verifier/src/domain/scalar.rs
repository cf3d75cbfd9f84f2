//! The product of bits and ranges, and its reduction.
//!
//! A [`ScalarN`] describes the number in a register of `W` bits by a tnum, by ranges of the whole register, and by
//! ranges of its low half (`H = W / 2` bits; for the verifier 64 and 32). A number is a member if it satisfies all of
//! them.
//!
//! With `lo(x)`, `hi(x)` the halves of a word, [`ScalarN::sync`] carries knowledge along these edges:
//!
//! ```text
//!           var_off ----------> full range, half range          least and greatest member of the bits
//!        full range ----------> half range     if hi(min) == hi(max), or lo() crosses zero once between them
//!   half u <-> half s, full u <-> full s       if the bounds keep their order in the other reading
//!        half range ----------> full range     put lo() under hi(umin), hi(umax), hi(smin), hi(smax)
//!        full range, half range ------> var_off               their common leading bits
//! ```
//!
//! The middle three run three times; one round more could tighten some ranges still, but then the log would differ.
//!
//! Kernel counterpart: `reg_bounds_sync`, `reg_bounds_sanity_check`. Neighbours: `alu`, `branch` and `extend` compute the
//! parts and call [`ScalarN::sync`].

use core::fmt;

use super::plant::{Plant, any_planted, planted, planted_at};
use super::range::Range;
use super::tnum::TnumN;

/// The scalar of the verifier's registers.
pub type Scalar = ScalarN<64, 32>;

/// What is known of a number of `W` bits whose low half has `H` bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScalarN<const W: u32, const H: u32> {
    /// The known bits.
    pub var_off: TnumN<W>,
    /// Least value, signed.
    pub smin: i64,
    /// Greatest value, signed.
    pub smax: i64,
    /// Least value, unsigned.
    pub umin: u64,
    /// Greatest value, unsigned.
    pub umax: u64,
    /// Least value of the low half, signed.
    pub s32_min: i32,
    /// Greatest value of the low half, signed.
    pub s32_max: i32,
    /// Least value of the low half, unsigned.
    pub u32_min: u32,
    /// Greatest value of the low half, unsigned.
    pub u32_max: u32,
}

/// How the parts of a scalar contradict each other; the words are the log's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BoundsViolation {
    /// Some minimum is above its maximum.
    Range,
    /// All bits are known, but the ranges differ from that number.
    ConstTnum,
    /// All bits of the low half are known, but its ranges differ from that number.
    ConstSubregTnum,
}

impl BoundsViolation {
    /// The log's words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Range => "range bounds violation",
            Self::ConstTnum => "const tnum out of sync with range bounds",
            Self::ConstSubregTnum => "const subreg tnum out of sync with range bounds",
        }
    }
}

/// The contradiction and the parts, in the log's words.
#[derive(Clone, Copy, Debug)]
pub struct BrokenBounds {
    /// What contradicts.
    pub violation: BoundsViolation,
    /// The scalar.
    pub scalar: Scalar,
}

impl fmt::Display for BrokenBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scalar {
            var_off,
            smin,
            smax,
            umin,
            umax,
            s32_min,
            s32_max,
            u32_min,
            u32_max,
        } = self.scalar;
        write!(
            f,
            "{} u64=[{umin:#x}, {umax:#x}] s64=[{smin:#x}, {smax:#x}]",
            self.violation.as_str()
        )?;
        write!(
            f,
            " u32=[{u32_min:#x}, {u32_max:#x}] s32=[{s32_min:#x}, {s32_max:#x}]"
        )?;
        write!(f, " var_off=({:#x}, {:#x})", var_off.value, var_off.mask)
    }
}

impl<const W: u32, const H: u32> ScalarN<W, H> {
    /// Nothing known.
    pub const UNKNOWN: Self = Self::of_parts(TnumN::UNKNOWN, Range::UNKNOWN, Range::UNKNOWN);
    /// The number zero.
    pub const ZERO: Self = Self::known(0);

    /// The number `bits`.
    #[inline]
    pub const fn known(bits: u64) -> Self {
        Self::of_parts(
            TnumN::constant(bits),
            Range::known(bits),
            Range::known(bits),
        )
    }

    /// The bits, and the least and greatest of their members in every reading.
    #[inline]
    const fn of_bits(var_off: TnumN<W>) -> Self {
        let low = var_off.subreg();
        Self::of_parts(
            var_off,
            Range::of_bits(var_off.value, var_off.mask),
            Range::of_bits(low.value, low.mask),
        )
    }

    /// All bits of `var_off`, with the ranges that follow from them.
    #[inline]
    pub fn from_tnum(var_off: TnumN<W>) -> Self {
        Self {
            var_off,
            ..Self::UNKNOWN
        }
        .sync()
    }

    #[inline]
    pub(super) const fn of_parts(var_off: TnumN<W>, full: Range<W>, half: Range<H>) -> Self {
        Self {
            var_off,
            smin: full.smin,
            smax: full.smax,
            umin: full.umin,
            umax: full.umax,
            s32_min: half.smin as i32,
            s32_max: half.smax as i32,
            u32_min: half.umin as u32,
            u32_max: half.umax as u32,
        }
    }

    /// The ranges of the whole register.
    #[inline]
    pub const fn full(&self) -> Range<W> {
        Range {
            umin: self.umin,
            umax: self.umax,
            smin: self.smin,
            smax: self.smax,
        }
    }

    /// The ranges of the low half.
    #[inline]
    pub const fn half(&self) -> Range<H> {
        Range {
            umin: self.u32_min as u64,
            umax: self.u32_max as u64,
            smin: self.s32_min as i64,
            smax: self.s32_max as i64,
        }
    }

    /// Replaces the ranges of the whole register.
    #[inline]
    #[must_use]
    pub const fn with_full(self, full: Range<W>) -> Self {
        Self {
            umin: full.umin,
            umax: full.umax,
            smin: full.smin,
            smax: full.smax,
            ..self
        }
    }

    /// Replaces the ranges of the low half.
    #[inline]
    #[must_use]
    pub const fn with_half(self, half: Range<H>) -> Self {
        Self {
            u32_min: half.umin as u32,
            u32_max: half.umax as u32,
            s32_min: half.smin as i32,
            s32_max: half.smax as i32,
            ..self
        }
    }

    /// Replaces the known bits.
    #[inline]
    #[must_use]
    pub const fn with_var_off(self, var_off: TnumN<W>) -> Self {
        Self { var_off, ..self }
    }

    /// Forgets every range and keeps the bits.
    #[inline]
    #[must_use]
    pub const fn with_ranges_unknown(self) -> Self {
        Self {
            var_off: self.var_off,
            ..Self::UNKNOWN
        }
    }

    /// The number, if all bits are known.
    #[inline]
    pub const fn const_value(&self) -> Option<u64> {
        if self.var_off.is_const() {
            Some(self.var_off.value)
        } else {
            None
        }
    }

    /// Whether all bits are known.
    #[inline]
    pub const fn is_const(&self) -> bool {
        self.var_off.is_const()
    }

    /// Whether all bits of the low half are known.
    #[inline]
    pub const fn subreg_is_const(&self) -> bool {
        self.var_off.subreg_is_const()
    }

    /// Whether nothing at all is known.
    #[inline]
    pub fn is_unknown(&self) -> bool {
        *self == Self::UNKNOWN
    }

    /// Whether the number `bits` is a member.
    #[inline]
    pub const fn contains_value(&self, bits: u64) -> bool {
        self.var_off.contains_value(bits)
            && self.full().contains_value(bits)
            && self.half().contains_value(bits)
    }

    /// Whether every member of `inner` satisfies the parts of `self`, part by part.
    #[inline]
    pub const fn contains(&self, inner: &Self) -> bool {
        self.umin <= inner.umin
            && self.umax >= inner.umax
            && self.smin <= inner.smin
            && self.smax >= inner.smax
            && self.u32_min <= inner.u32_min
            && self.u32_max >= inner.u32_max
            && self.s32_min <= inner.s32_min
            && self.s32_max >= inner.s32_max
            && self.var_off.contains(inner.var_off)
    }

    /// Carries knowledge between the parts until the log's precision is reached (see the module's drawing).
    #[inline]
    #[must_use]
    pub fn sync(self) -> Self {
        // Where no range says more than the bits, some member lies at each bound that these give, and some at either value of each unknown
        // bit: nothing can be narrowed. Known numbers and registers of which nothing is known are the most common of these.
        let by_bits = Self::of_bits(self.var_off);
        let is_settled =
            self.full().contains(by_bits.full()) && self.half().contains(by_bits.half());
        let is_plain = self.var_off.is_const() || self.var_off.is_unknown();
        if is_settled && (is_plain || !any_planted()) {
            return by_bits;
        }
        let mut parts = Parts {
            var_off: self.var_off,
            full: self.full(),
            half: self.half(),
        };
        parts.ranges_from_bits();
        match parts.as_small() {
            Some(small) => parts = small,
            None => parts.exchange(),
        }
        parts.ranges_from_bits();
        parts.join()
    }

    /// The ranges that the bits give, without the rest of [`Self::sync`].
    #[inline]
    #[must_use]
    pub fn narrow_ranges_by_bits(self) -> Self {
        let mut parts = Parts {
            var_off: self.var_off,
            full: self.full(),
            half: self.half(),
        };
        parts.ranges_from_bits();
        parts.join()
    }

    /// Looks for a contradiction between the parts. A scalar on a path that cannot happen has one; the verifier then
    /// reports it and forgets the ranges.
    ///
    /// # Errors
    /// The first contradiction found.
    #[inline]
    pub const fn check_bounds(&self) -> Result<(), BoundsViolation> {
        if self.umin > self.umax
            || self.smin > self.smax
            || self.u32_min > self.u32_max
            || self.s32_min > self.s32_max
        {
            return Err(BoundsViolation::Range);
        }
        if self.var_off.is_const() {
            let (known, full) = (Range::<W>::known(self.var_off.value), self.full());
            if full.umin != known.umin
                || full.umax != known.umax
                || full.smin != known.smin
                || full.smax != known.smax
            {
                return Err(BoundsViolation::ConstTnum);
            }
        }
        if self.var_off.subreg_is_const() {
            let (known, half) = (Range::<H>::known(self.var_off.value), self.half());
            if half.umin != known.umin
                || half.umax != known.umax
                || half.smin != known.smin
                || half.smax != known.smax
            {
                return Err(BoundsViolation::ConstSubregTnum);
            }
        }
        Ok(())
    }
}

/// A scalar taken apart for the reduction.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Parts<const W: u32, const H: u32> {
    var_off: TnumN<W>,
    full: Range<W>,
    half: Range<H>,
}

impl<const W: u32, const H: u32> Parts<W, H> {
    const LOW: u64 = Range::<H>::U_MAX;

    #[inline]
    const fn join(&self) -> ScalarN<W, H> {
        ScalarN::of_parts(self.var_off, self.full, self.half)
    }

    #[inline]
    fn ranges_from_bits(&mut self) {
        let low = self.var_off.subreg();
        self.half.narrow_by_bits(low.value, low.mask);
        self.full
            .narrow_by_bits(self.var_off.value, self.var_off.mask);
        if let Some(number) = self.var_off.only_member_in(self.full.umin, self.full.umax) {
            self.var_off = TnumN::constant(number);
            self.full = Range::known(number);
            self.half = Range::known(number);
        }
    }

    /// All edges but those from the bits.
    fn exchange(&mut self) {
        for _ in 0..3 {
            let before = *self;
            self.half_from_full();
            exchange_readings(&mut self.half);
            exchange_readings(&mut self.full);
            self.full_from_half();
            if *self == before {
                break;
            }
        }
        self.bits_from_ranges();
    }

    /// What [`Self::exchange`] comes to if the number is not negative in any reading, and the signed range of the whole says no more than
    /// the unsigned one: all ranges become the one that they have in common. Most numbers of programs are lengths, offsets and bytes.
    /// `None` for others, for contradictions, and where faults are planted.
    #[inline]
    fn as_small(&self) -> Option<Self> {
        let (full, half) = (&self.full, &self.half);
        let is_small = full.umax <= Range::<H>::S_MAX as u64 && half.smax >= 0;
        let is_signed_alike = full.smin <= full.umin as i64 && full.smax >= full.umax as i64;
        if !is_small || !is_signed_alike || any_planted() {
            return None;
        }
        let min = full.umin.max(half.umin).max(half.smin.max(0) as u64);
        let max = full.umax.min(half.umax).min(half.smax as u64);
        (min <= max).then(|| Parts {
            var_off: self.var_off.intersect(TnumN::range(min, max)),
            full: Range::from_unsigned(min, max),
            half: Range::from_unsigned(min, max),
        })
    }

    /// A run of words `first..=last` has the low halves `lo(first)..=lo(last)` if it stays under one high half, and a
    /// run of signed low halves also if it passes once from the top of one high half to the bottom of the next.
    #[inline]
    fn half_from_full(&mut self) {
        let (umin, umax) = (self.full.umin, self.full.umax);
        if umin >> H == umax >> H || planted(Plant::SyncHalfOfFull) {
            // Even if these contradict each other, so that a complaint about them reads as the kernel's.
            self.half
                .narrow_unsigned(umin & Self::LOW, umax & Self::LOW);
        }
        self.half_from_run(umin, umax);
        self.half_from_run(
            Range::<W>::unsigned(self.full.smin),
            Range::<W>::unsigned(self.full.smax),
        );
    }

    #[inline]
    fn half_from_run(&mut self, first: u64, last: u64) {
        let high_steps = ((last >> H).wrapping_sub(first >> H)) & Self::LOW;
        if planted(Plant::SyncHalfOfRun) && high_steps == 1 {
            self.half
                .narrow_unsigned(0, (last & Self::LOW).max(first & Self::LOW));
        }
        let (smin, smax) = (Range::<H>::signed(first), Range::<H>::signed(last));
        if high_steps == 0 {
            let (umin, umax) = (first & Self::LOW, last & Self::LOW);
            if umin <= umax {
                self.half.narrow_unsigned(umin, umax);
            }
            if smin <= smax {
                self.half.narrow_signed(smin, smax);
            }
        } else if high_steps == 1 && (smin < 0 || planted(Plant::SyncHalfAcrossZero)) && smax >= 0 {
            self.half.narrow_signed(smin, smax);
        }
    }

    #[inline]
    fn full_from_half(&mut self) {
        let (full, half) = (&mut self.full, &self.half);
        full.narrow_unsigned(
            (full.umin & !Self::LOW) | half.umin,
            if planted(Plant::SyncFullOfHalf) {
                (full.umin & !Self::LOW) | half.umax
            } else {
                (full.umax & !Self::LOW) | half.umax
            },
        );
        let (smin, smax) = (
            full.smin as u64 & !Self::LOW | half.umin,
            full.smax as u64 & !Self::LOW | half.umax,
        );
        full.narrow_signed(smin as i64, smax as i64);
        // After a sign extension the high half is all zeros or all ones; with a non-negative low half it is zeros.
        let is_extended = full.smin >= Range::<H>::S_MIN && full.smax <= Range::<H>::S_MAX;
        if half.smin >= 0 && (is_extended || planted(Plant::SyncSignExtended)) {
            *full = Range {
                umin: half.smin as u64,
                umax: half.smax as u64,
                smin: half.smin,
                smax: half.smax,
            };
            self.var_off = self.var_off.intersect(TnumN::range(full.umin, full.umax));
        }
    }

    #[inline]
    fn bits_from_ranges(&mut self) {
        let by_full = self
            .var_off
            .intersect(TnumN::range(self.full.umin, self.full.umax));
        let low = by_full
            .subreg()
            .intersect(TnumN::range(self.half.umin, self.half.umax));
        self.var_off = if planted(Plant::SyncBits) {
            low
        } else {
            by_full.clear_subreg().or(low)
        };
    }
}

/// Carries bounds from the unsigned reading to the signed one and back. A signed range across zero is, unsigned, the two
/// ends of the number line; if the unsigned range touches only one of them, both readings are known to stay there.
#[inline]
fn exchange_readings<const B: u32>(range: &mut Range<B>) {
    let (smin, smax) = (
        Range::<B>::signed(range.umin),
        Range::<B>::signed(range.umax),
    );
    if smin <= smax || planted_at::<B>(Plant::SyncSigned64, Plant::SyncSigned32) {
        range.narrow_signed(smin.min(smax), smin.max(smax));
    }
    let (first, last) = (
        Range::<B>::unsigned(range.smin),
        Range::<B>::unsigned(range.smax),
    );
    if first <= last {
        range.narrow_unsigned(first, last);
    } else if planted_at::<B>(Plant::SyncUnsigned64, Plant::SyncUnsigned32) {
        range.narrow_unsigned(0, first);
    } else if range.umax < first {
        range.smin = Range::<B>::signed(range.umin);
        range.umax = range.umax.min(last);
    } else if last < range.umin || planted_at::<B>(Plant::SyncAcross64, Plant::SyncAcross32) {
        range.smax = Range::<B>::signed(range.umax);
        range.umin = range.umin.max(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intervals<const B: u32>() -> impl Iterator<Item = (i64, i64)> + Clone {
        let all = Range::<B>::S_MIN..=Range::<B>::S_MAX;
        all.flat_map(|min| (min..=Range::<B>::S_MAX).map(move |max| (min, max)))
    }

    fn unsigned<const B: u32>((min, max): (i64, i64)) -> Range<B> {
        Range {
            umin: (min - Range::<B>::S_MIN) as u64,
            umax: (max - Range::<B>::S_MIN) as u64,
            ..Range::UNKNOWN
        }
    }

    fn with_signed<const B: u32>(range: Range<B>, (smin, smax): (i64, i64)) -> Range<B> {
        Range {
            smin,
            smax,
            ..range
        }
    }

    /// Every tnum of 4 bits, with ranges that say nothing; wider ones than the bits give are narrowed to these first.
    #[test]
    fn what_the_bits_say_alone_is_settled() {
        for mask in 0..16u64 {
            for value in (0..16u64).filter(|value| value & mask == 0) {
                let by_bits = ScalarN::<4, 2>::of_bits(TnumN { value, mask });
                let members = (0..16).filter(|&x| by_bits.var_off.contains_value(x));
                assert!(members.clone().all(|x| by_bits.contains_value(x)));
                let mut stepwise = Parts {
                    var_off: by_bits.var_off,
                    full: Range::UNKNOWN,
                    half: Range::UNKNOWN,
                };
                stepwise.ranges_from_bits();
                stepwise.exchange();
                stepwise.ranges_from_bits();
                assert_eq!(by_bits, stepwise.join());
            }
        }
    }

    /// Every tnum with every 31st combination of the ranges of 4 and 2 bits.
    #[test]
    fn small_numbers_come_to_what_the_exchange_comes_to() {
        let fulls = intervals::<4>()
            .flat_map(|u| intervals::<4>().map(move |s| with_signed(unsigned::<4>(u), s)));
        let halves = intervals::<2>()
            .flat_map(|u| intervals::<2>().map(move |s| with_signed(unsigned::<2>(u), s)));
        let ranges = fulls.flat_map(|full| halves.clone().map(move |half| (full, half)));
        let mut small_ones = 0;
        for mask in 0..16u64 {
            for value in (0..16u64).filter(|value| value & mask == 0) {
                let skipped = (mask * 7 + value) as usize % 31;
                for (full, half) in ranges.clone().skip(skipped).step_by(31) {
                    let var_off = TnumN::<4> { value, mask };
                    let mut stepwise = Parts {
                        var_off,
                        full,
                        half,
                    };
                    stepwise.ranges_from_bits();
                    let Some(mut small) = stepwise.as_small() else {
                        continue;
                    };
                    let start = stepwise;
                    stepwise.exchange();
                    stepwise.ranges_from_bits();
                    small.ranges_from_bits();
                    assert_eq!(small.join(), stepwise.join(), "from {:?}", start.join());
                    small_ones += 1;
                }
            }
        }
        assert!(small_ones > 10_000, "{small_ones} of the cases are small");
    }
}
