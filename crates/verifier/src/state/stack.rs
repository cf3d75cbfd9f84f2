//! The stack of a frame: 8-byte slots, each with a type per byte and, if a register was spilled there, its state.
//!
//! Slot `spi` covers `fp-8*(spi+1) .. fp-8*spi`; `types[0]` is the highest byte (the last of memory), `types[7]` the byte
//! the slot's address names. Spilled registers are shared between copies of a frame until they change.

use alloc::rc::Rc;

use super::reg::{RegBase, RegState};

/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 8;

/// What one byte of the stack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum SlotType {
    /// Nothing was written.
    Invalid,
    /// Part of a spilled register.
    Spill,
    /// Some number.
    Misc,
    /// Zero.
    Zero,
    Dynptr,
    Iter,
    #[expect(dead_code, reason = "saved interrupt flags are not judged yet")]
    IrqFlag,
}

impl SlotType {
    /// The log's letter.
    pub(crate) const fn letter(self) -> char {
        match self {
            SlotType::Invalid => '?',
            SlotType::Spill => 'r',
            SlotType::Misc => 'm',
            SlotType::Zero => '0',
            SlotType::Dynptr => 'd',
            SlotType::Iter => 'i',
            SlotType::IrqFlag => 'f',
        }
    }
}

/// One slot.
#[derive(Clone, Debug)]
pub(crate) struct StackSlot {
    pub(crate) types: [SlotType; SLOT_BYTES],
    spilled: Option<Rc<RegState>>,
}

static NOT_INIT: RegState = RegState::NOT_INIT;

impl StackSlot {
    /// Never written.
    pub(crate) const EMPTY: StackSlot = StackSlot {
        types: [SlotType::Invalid; SLOT_BYTES],
        spilled: None,
    };

    /// The spilled register; one without a value if there is none.
    #[inline]
    pub(crate) fn spilled(&self) -> &RegState {
        match &self.spilled {
            Some(reg) => reg,
            None => &NOT_INIT,
        }
    }

    /// The spilled register, for a change.
    #[inline]
    pub(crate) fn spilled_mut(&mut self) -> &mut RegState {
        Rc::make_mut(
            self.spilled
                .get_or_insert_with(|| Rc::new(RegState::NOT_INIT)),
        )
    }

    /// Replaces the spilled register.
    #[inline]
    pub(crate) fn set_spilled(&mut self, reg: RegState) {
        if let Some(place) = self.spilled.as_mut().and_then(Rc::get_mut) {
            *place = reg;
        } else {
            self.spilled = Some(Rc::new(reg));
        }
    }

    /// Forgets the spilled register; the byte types stay.
    #[inline]
    pub(crate) fn clear_spilled(&mut self) {
        self.spilled = None;
    }

    /// Whether both share one spilled register.
    #[inline]
    pub(crate) fn shares_spilled(&self, other: &StackSlot) -> bool {
        match (&self.spilled, &other.spilled) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }

    /// A register was spilled here (its high bytes at least).
    #[inline]
    pub(crate) fn is_spilled_reg(&self) -> bool {
        self.types[SLOT_BYTES - 1] == SlotType::Spill
    }

    /// A scalar was spilled here.
    #[inline]
    pub(crate) fn is_spilled_scalar(&self) -> bool {
        self.is_spilled_reg() && self.spilled().ty.base == RegBase::Scalar
    }

    /// A scalar was spilled here with all 8 bytes.
    #[inline]
    pub(crate) fn is_spilled_scalar64(&self) -> bool {
        self.types[0] == SlotType::Spill && self.spilled().ty.base == RegBase::Scalar
    }

    /// Dynptr, iterator or saved flags.
    #[inline]
    pub(crate) fn is_special(&self) -> bool {
        matches!(
            self.types[SLOT_BYTES - 1],
            SlotType::Dynptr | SlotType::Iter | SlotType::IrqFlag
        )
    }

    /// A byte beside a spill becomes some number: `mark_stack_slot_misc`. One never written stays so, whatever the
    /// privilege.
    #[inline]
    pub(crate) fn mark_misc(&mut self, byte: usize) {
        let ty = &mut self.types[byte];
        if !matches!(ty, SlotType::Zero | SlotType::Invalid) {
            *ty = SlotType::Misc;
        }
    }

    /// A byte of a slot that lost its register or object is some number: `scrub_spilled_slot`.
    #[inline]
    pub(crate) fn scrub(&mut self, byte: usize) {
        if self.types[byte] != SlotType::Invalid {
            self.types[byte] = SlotType::Misc;
        }
    }
}
