//! What a comparison decides and teaches.
//!
//! [`ScalarN::branch_taken`] says whether `lhs op rhs` is the same for all members. Where it is not,
//! [`ScalarN::refine`] narrows both operands, once for the way where the comparison holds and once (with the negated
//! comparison) for the way where it does not. A 32-bit comparison looks at and refines the low halves only.
//!
//! Kernel counterpart: `is_scalar_branch_taken`, `regs_refine_cond_op`. Neighbours: `check/jmp` handles pointers, ids
//! and precision.

use ring3_isa::{JmpOp, Width};

use super::plant::{Plant, planted, planted_at};
use super::range::Range;
use super::scalar::ScalarN;
use super::tnum::TnumN;

/// A comparison that holds on one way of a conditional jump. `Clear` is the negation of `Set`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CondOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `lhs & rhs` is not zero
    Set,
    /// `lhs & rhs` is zero
    Clear,
    /// unsigned `>`
    Gt,
    /// unsigned `>=`
    Ge,
    /// unsigned `<`
    Lt,
    /// unsigned `<=`
    Le,
    /// signed `>`
    Sgt,
    /// signed `>=`
    Sge,
    /// signed `<`
    Slt,
    /// signed `<=`
    Sle,
}

impl CondOp {
    /// The comparison that holds where this one does not.
    #[inline]
    #[must_use]
    pub const fn negate(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Set => Self::Clear,
            Self::Clear => Self::Set,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Sgt => Self::Sle,
            Self::Sge => Self::Slt,
            Self::Slt => Self::Sge,
            Self::Sle => Self::Sgt,
        }
    }

    /// The comparison with its operands exchanged.
    #[inline]
    #[must_use]
    pub const fn flip(self) -> Self {
        match self {
            Self::Eq | Self::Ne | Self::Set | Self::Clear => self,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Sgt => Self::Slt,
            Self::Sge => Self::Sle,
            Self::Slt => Self::Sgt,
            Self::Sle => Self::Sge,
        }
    }
}

impl From<JmpOp> for CondOp {
    /// The comparison that holds where the jump is taken.
    #[inline]
    fn from(op: JmpOp) -> Self {
        match op {
            JmpOp::Eq => Self::Eq,
            JmpOp::Ne => Self::Ne,
            JmpOp::Set => Self::Set,
            JmpOp::Gt => Self::Gt,
            JmpOp::Ge => Self::Ge,
            JmpOp::Lt => Self::Lt,
            JmpOp::Le => Self::Le,
            JmpOp::Sgt => Self::Sgt,
            JmpOp::Sge => Self::Sge,
            JmpOp::Slt => Self::Slt,
            JmpOp::Sle => Self::Sle,
        }
    }
}

/// What is known of the direction of a conditional jump.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Taken {
    /// The comparison holds for all members.
    Always,
    /// The comparison holds for no member.
    Never,
    /// Both ways have to be explored.
    Unknown,
}

impl Taken {
    #[inline]
    const fn negate(self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl<const W: u32, const H: u32> ScalarN<W, H> {
    /// The number of a constant operand of a comparison of this width.
    #[inline]
    pub const fn const_value_at(&self, width: Width) -> Option<u64> {
        match width {
            Width::W32 if self.subreg_is_const() => Some(self.var_off.subreg().value),
            Width::W64 if self.is_const() => Some(self.var_off.value),
            Width::W32 | Width::W64 => None,
        }
    }

    /// Whether `lhs op rhs` holds, as far as it can be told.
    #[inline]
    pub fn branch_taken(lhs: &Self, rhs: &Self, op: CondOp, width: Width) -> Taken {
        match op {
            CondOp::Eq => Self::equality_taken(lhs, rhs, width),
            CondOp::Ne => Self::equality_taken(lhs, rhs, width).negate(),
            CondOp::Set => Self::set_taken(lhs, rhs, width),
            CondOp::Clear => Self::set_taken(lhs, rhs, width).negate(),
            CondOp::Gt
            | CondOp::Ge
            | CondOp::Lt
            | CondOp::Le
            | CondOp::Sgt
            | CondOp::Sge
            | CondOp::Slt
            | CondOp::Sle => match width {
                Width::W32 => order_taken(&lhs.half(), &rhs.half(), op),
                Width::W64 => order_taken(&lhs.full(), &rhs.full(), op),
            },
        }
    }

    #[inline]
    fn equality_taken(lhs: &Self, rhs: &Self, width: Width) -> Taken {
        if let (Some(a), Some(b)) = (lhs.const_value_at(width), rhs.const_value_at(width)) {
            return if a == b { Taken::Always } else { Taken::Never };
        }
        let apart = match width {
            Width::W32 => {
                !lhs.var_off.subreg().overlaps(rhs.var_off.subreg())
                    || are_disjoint(&lhs.half(), &rhs.half())
                    || planted(Plant::TakenEqual32) && are_disjoint(&lhs.full(), &rhs.full())
            }
            Width::W64 => {
                !lhs.var_off.overlaps(rhs.var_off)
                    || are_disjoint(&lhs.full(), &rhs.full())
                    || are_disjoint(&lhs.half(), &rhs.half())
            }
        };
        if apart { Taken::Never } else { Taken::Unknown }
    }

    #[inline]
    fn set_taken(lhs: &Self, rhs: &Self, width: Width) -> Taken {
        let (tested, bits) = match (rhs.const_value_at(width), lhs.const_value_at(width)) {
            (Some(bits), _) => (lhs, bits),
            (None, Some(bits)) => (rhs, bits),
            (None, None) => return Taken::Unknown,
        };
        if planted(Plant::TakenSet) && tested.var_off.mask & bits == bits {
            return Taken::Always;
        }
        if tested.var_off.value & bits != 0 {
            Taken::Always
        } else if tested.var_off.umax() & bits == 0 {
            Taken::Never
        } else {
            Taken::Unknown
        }
    }

    /// Narrows both operands to the members for which `lhs op rhs` can hold, and syncs them.
    #[inline]
    pub fn refine(lhs: &mut Self, rhs: &mut Self, op: CondOp, width: Width) {
        match op {
            CondOp::Eq => Self::refine_eq(lhs, rhs, width),
            CondOp::Ne => {
                if let Some(value) = rhs.const_value_at(width) {
                    lhs.exclude(value, width);
                } else if let Some(value) = lhs.const_value_at(width) {
                    rhs.exclude(value, width);
                }
            }
            CondOp::Set | CondOp::Clear => {
                if let Some(bits) = rhs.const_value_at(width) {
                    lhs.refine_bits(bits, op, width);
                } else if let Some(bits) = lhs.const_value_at(width) {
                    rhs.refine_bits(bits, op, width);
                }
            }
            CondOp::Gt
            | CondOp::Ge
            | CondOp::Lt
            | CondOp::Le
            | CondOp::Sgt
            | CondOp::Sge
            | CondOp::Slt
            | CondOp::Sle => match width {
                Width::W32 => {
                    let (a, b) = refine_order(lhs.half(), rhs.half(), op);
                    *lhs = lhs.with_half(a);
                    *rhs = rhs.with_half(b);
                }
                Width::W64 => {
                    let (a, b) = refine_order(lhs.full(), rhs.full(), op);
                    *lhs = lhs.with_full(a);
                    *rhs = rhs.with_full(b);
                }
            },
        }
        *lhs = lhs.sync();
        *rhs = rhs.sync();
    }

    /// As [`Self::refine`] where both operands are one register.
    ///
    /// The kernel narrows that register twice, each time by itself: strict comparisons lose both end points, although
    /// they cannot hold at all.
    #[inline]
    #[must_use]
    pub fn refine_by_itself(self, op: CondOp, width: Width) -> Self {
        let is_strict = matches!(op, CondOp::Lt | CondOp::Gt | CondOp::Slt | CondOp::Sgt)
            || planted(Plant::RefineByItself) && op == CondOp::Eq;
        let op = if planted(Plant::RefineByItself) && op == CondOp::Eq {
            CondOp::Lt
        } else {
            op
        };
        match width {
            Width::W32 if is_strict => self.with_half(drop_ends(self.half(), op)),
            Width::W64 if is_strict => self.with_full(drop_ends(self.full(), op)),
            Width::W32 | Width::W64 => self,
        }
        .sync()
    }

    #[inline]
    fn refine_eq(lhs: &mut Self, rhs: &mut Self, width: Width) {
        match width {
            Width::W32 => {
                let half = lhs.half().intersect(rhs.half());
                let low = lhs.var_off.subreg().intersect(rhs.var_off.subreg());
                if planted(Plant::RefineEq32) {
                    *lhs = lhs.with_full(lhs.full().intersect(rhs.full()));
                }
                for side in [lhs, rhs] {
                    *side = side
                        .with_half(half)
                        .with_var_off(side.var_off.with_subreg(low));
                }
            }
            Width::W64 => {
                let full = lhs.full().intersect(rhs.full());
                let bits = if planted(Plant::RefineEq64) {
                    lhs.var_off.subreg().intersect(rhs.var_off.subreg())
                } else {
                    lhs.var_off.intersect(rhs.var_off)
                };
                for side in [lhs, rhs] {
                    *side = side.with_full(full).with_var_off(bits);
                }
            }
        }
    }

    /// The number is not `value`: an end point equal to it moves inwards.
    #[inline]
    fn exclude(&mut self, value: u64, width: Width) {
        *self = match width {
            Width::W32 => self.with_half(exclude_end(self.half(), value)),
            Width::W64 => self.with_full(exclude_end(self.full(), value)),
        };
    }

    /// The number has one of `bits` set (which, is known only if `bits` is a single bit), or none. That none is set is kept
    /// as bits alone: the ranges are forgotten and follow from the bits.
    #[inline]
    fn refine_bits(&mut self, bits: u64, op: CondOp, width: Width) {
        let refined = if op == CondOp::Clear {
            let cleared = if planted(Plant::RefineClear) {
                bits | bits << 1
            } else {
                bits
            };
            self.var_off.and(TnumN::constant(!cleared))
        } else if bits.is_power_of_two() || planted(Plant::RefineSet) {
            self.var_off.or(TnumN::constant(bits))
        } else {
            return;
        };
        self.var_off = match width {
            Width::W32 if planted(Plant::RefineBits32) => refined.subreg(),
            Width::W32 => self.var_off.with_subreg(refined),
            Width::W64 => refined,
        };
        if op == CondOp::Clear {
            *self = self.with_ranges_unknown();
        }
    }
}

#[inline]
fn are_disjoint<const B: u32>(a: &Range<B>, b: &Range<B>) -> bool {
    let touches = planted_at::<B>(Plant::Disjoint64, Plant::Disjoint32);
    touches && a.umin == b.umax && a.umin != a.umax
        || a.umin > b.umax
        || a.umax < b.umin
        || a.smin > b.smax
        || a.smax < b.smin
}

/// Whether an order comparison holds between all pairs of members.
#[inline]
fn order_taken<const B: u32>(a: &Range<B>, b: &Range<B>, op: CondOp) -> Taken {
    if planted_at::<B>(Plant::TakenOrder64, Plant::TakenOrder32) {
        match op {
            CondOp::Gt if a.umin >= b.umax => return Taken::Always,
            CondOp::Sle if a.smax <= b.smin.saturating_add(1) => return Taken::Always,
            _ => {}
        }
    }
    let (always, never) = match op {
        CondOp::Gt => (a.umin > b.umax, a.umax <= b.umin),
        CondOp::Ge => (a.umin >= b.umax, a.umax < b.umin),
        CondOp::Lt => (a.umax < b.umin, a.umin >= b.umax),
        CondOp::Le => (a.umax <= b.umin, a.umin > b.umax),
        CondOp::Sgt => (a.smin > b.smax, a.smax <= b.smin),
        CondOp::Sge => (a.smin >= b.smax, a.smax < b.smin),
        CondOp::Slt => (a.smax < b.smin, a.smin >= b.smax),
        CondOp::Sle => (a.smax <= b.smin, a.smin > b.smax),
        CondOp::Eq | CondOp::Ne | CondOp::Set | CondOp::Clear => (false, false),
    };
    if always {
        Taken::Always
    } else if never {
        Taken::Never
    } else {
        Taken::Unknown
    }
}

/// The comparison that is refined, another if a fault is planted.
#[inline]
fn planted_order<const B: u32>(op: CondOp) -> CondOp {
    match op {
        CondOp::Le if planted_at::<B>(Plant::RefineLe64, Plant::RefineLe32) => CondOp::Lt,
        CondOp::Sle if planted_at::<B>(Plant::RefineSle64, Plant::RefineSle32) => CondOp::Slt,
        CondOp::Lt if planted_at::<B>(Plant::RefineLt64, Plant::RefineLt32) => CondOp::Slt,
        CondOp::Slt if planted_at::<B>(Plant::RefineSlt64, Plant::RefineSlt32) => CondOp::Lt,
        _ => op,
    }
}

/// Narrows both sides of an order comparison that holds.
#[inline]
fn refine_order<const B: u32>(
    mut a: Range<B>,
    mut b: Range<B>,
    op: CondOp,
) -> (Range<B>, Range<B>) {
    let op = planted_order::<B>(op);
    match op {
        CondOp::Gt | CondOp::Ge | CondOp::Sgt | CondOp::Sge => {
            let (b, a) = refine_order(b, a, op.flip());
            return (a, b);
        }
        CondOp::Le => {
            a.narrow_unsigned(0, b.umax);
            b.narrow_unsigned(a.umin, Range::<B>::U_MAX);
        }
        CondOp::Lt => {
            a.narrow_unsigned(0, b.umax.wrapping_sub(1) & Range::<B>::U_MAX);
            b.narrow_unsigned(
                a.umin.wrapping_add(1) & Range::<B>::U_MAX,
                Range::<B>::U_MAX,
            );
        }
        CondOp::Sle => {
            a.narrow_signed(Range::<B>::S_MIN, b.smax);
            b.narrow_signed(a.smin, Range::<B>::S_MAX);
        }
        CondOp::Slt => {
            a.narrow_signed(
                Range::<B>::S_MIN,
                Range::<B>::signed(b.smax.wrapping_sub(1) as u64),
            );
            b.narrow_signed(
                Range::<B>::signed(a.smin.wrapping_add(1) as u64),
                Range::<B>::S_MAX,
            );
        }
        CondOp::Eq | CondOp::Ne | CondOp::Set | CondOp::Clear => {}
    }
    (a, b)
}

/// Moves every end point that equals the number `bits` inwards by one.
#[inline]
fn exclude_end<const B: u32>(mut range: Range<B>, bits: u64) -> Range<B> {
    let number = Range::<B>::known(bits);
    if planted_at::<B>(Plant::Exclude64, Plant::Exclude32) && range.umin < number.umin {
        range.umax = range
            .umax
            .min(number.umin.wrapping_sub(1) & Range::<B>::U_MAX);
    }
    if range.umin == number.umin {
        range.umin = range.umin.wrapping_add(1) & Range::<B>::U_MAX;
    }
    if range.umax == number.umax {
        range.umax = range.umax.wrapping_sub(1) & Range::<B>::U_MAX;
    }
    if range.smin == number.smin {
        range.smin = Range::<B>::signed(range.smin.wrapping_add(1) as u64);
    }
    if range.smax == number.smax {
        range.smax = Range::<B>::signed(range.smax.wrapping_sub(1) as u64);
    }
    range
}

/// Moves both end points inwards by one, in the reading of `op`.
#[inline]
fn drop_ends<const B: u32>(range: Range<B>, op: CondOp) -> Range<B> {
    // One side at a time, as both ends move in one register.
    let (lower, _) = refine_order(range, range, op);
    let (_, narrowed) = refine_order(lower, lower, op);
    narrowed
}
