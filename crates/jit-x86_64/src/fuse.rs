//! Rules that look at several instructions at once.
//!
//! Each rule takes the longest run of slots it knows, none of which but the first may be the target of a jump, and says how many it has
//! written. A rule has a name in [`Rule`], so that fuzzing can show that each one was used.

use crate::emit::Emitter;

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
}

/// Number of rules.
pub(crate) const RULES: usize = 3;

impl Emitter<'_> {
    /// Emits a fused run that begins at `slot`; the number of slots it covers.
    pub(crate) fn fused(&mut self, _slot: usize) -> Option<usize> {
        None
    }
}

/// Names of the rules, in their order.
pub(crate) const NAMES: [&str; RULES] = ["constant-divisor", "array-lookup", "const-lookup"];
