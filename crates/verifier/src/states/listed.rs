//! The list of an instruction's checkpoints, with what is asked of every one, so that most are passed by without being read.
//!
//! States of one place tend to differ in the same: a counter in a register or a slot. Where two states differed last is kept as
//! [`Difference`], with the number or the pointer that stood there.

use alloc::vec::Vec;

use crate::env::Env;
use crate::state::{REGS, RegBase, RegState, SlotType, StateId, VerifierState};

/// A register or slot of some frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) frame: u8,
    /// Register, or [`REGS`] and the index of the slot.
    pub(super) index: u8,
}

/// What the checkpoint holds at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Other,
    /// A number nobody relied on.
    Number,
    PreciseNumber,
    /// A pointer that covers none of another type or fixed offset.
    Pointer,
}

/// Where a checkpoint and a state differed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// The number, or type and offset of the pointer; as bytes, so that lists stay short.
    word: [u8; 8],
    pub(super) place: Place,
    held: Held,
}

impl Difference {
    /// At a place of `old`.
    pub(super) fn at(old: &VerifierState, place: Place) -> Difference {
        let reg = old.get_frame(place.frame).and_then(|frame| {
            match usize::from(place.index).checked_sub(REGS) {
                None => Some(&*frame.regs[usize::from(place.index)]),
                Some(spi) => {
                    let slot = frame.stack.get(spi)?;
                    slot.is_all(SlotType::Spill).then(|| slot.spilled())
                }
            }
        });
        let (held, word) = reg.map_or((Held::Other, 0), held_in);
        Difference {
            word: word.to_le_bytes(),
            place,
            held,
        }
    }

    /// Whether the number or pointer alone tells the checkpoint from the current state: its values matter, and the other's at this place may
    /// be others. Where `all_matter`, numbers nobody relied on do too.
    #[inline]
    pub(super) fn tells(&self, env: &Env<'_>, all_matter: bool) -> bool {
        match self.held {
            Held::PreciseNumber | Held::Pointer => {}
            Held::Number if all_matter => {}
            Held::Number | Held::Other => return false,
        }
        let Some(frame) = env.cur.get_frame(self.place.frame) else {
            return true;
        };
        let index = usize::from(self.place.index);
        let reg = match frame.regs.get(index) {
            Some(reg) => reg,
            None => match frame.stack.get(index - REGS) {
                Some(slot) if slot.is_all(SlotType::Spill) => slot.spilled(),
                Some(_) | None => return true,
            },
        };
        let (held, word) = held_in(reg);
        let is_pointer = |held: Held| held == Held::Pointer;
        held == Held::Other
            || is_pointer(held) != is_pointer(self.held)
            || word != u64::from_le_bytes(self.word)
    }
}

/// What a register holds, with the word that stands for it.
#[inline]
fn held_in(reg: &RegState) -> (Held, u64) {
    if reg.ty.is_scalar() {
        return match reg.scalar.const_value() {
            Some(number) if reg.precise => (Held::PreciseNumber, number),
            Some(number) => (Held::Number, number),
            None => (Held::Other, 0),
        };
    }
    // Of arena pointers nothing is compared.
    if !reg.ty.is_init() || reg.ty.base == RegBase::PtrToArena {
        return (Held::Other, 0);
    }
    let ty = u64::from(reg.ty.base as u8) << 56 | u64::from(reg.ty.flags.0) << 32;
    (Held::Pointer, ty | u64::from(reg.off as u32))
}

/// A checkpoint in its list.
#[derive(Clone, Copy)]
pub(super) struct Listed {
    pub(super) id: StateId,
    pub(super) insn_idx: u32,
    pub(super) misses: u32,
    pub(super) hits: u32,
    pub(super) differed: Difference,
    /// What nobody will read was forgotten.
    pub(super) cleaned: bool,
}

/// The checkpoints of some instructions, oldest first.
#[derive(Default)]
pub(super) struct List {
    pub(super) entries: Vec<Listed>,
    /// Of them: those whose paths have ended and that were not cleaned.
    pub(super) to_clean: u32,
}

impl List {
    /// Adds the newest. Most lists stay at one or two: they grow from one.
    pub(super) fn push(&mut self, listed: Listed) {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.reserve_exact(len.max(1));
        }
        self.entries.push(listed);
    }
}
