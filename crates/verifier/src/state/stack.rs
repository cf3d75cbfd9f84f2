//! The stack of a frame: 8-byte slots, each with a type per byte and, if a register was spilled there, its state.
//!
//! Slot `spi` covers `fp-8*(spi+1) .. fp-8*spi`; `types[0]` is the highest byte (the last of memory), `types[7]` the byte
//! the slot's address names.
//!
//! Copies of a [`Stack`] share what neither has changed, on three levels: the table of pages, pages of six slots, and
//! spilled registers. So a copy costs one counter, and a write copies the page it goes to.

use alloc::rc::Rc;
use core::cell::Cell;
use core::ops::{Index, IndexMut};

use super::frame::SharedReg;
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
    spilled: Option<SharedReg>,
}

/// Slots of the greatest stack.
const SLOTS_MAX: usize = ring3_uapi::limits::STACK_BYTES_MAX / SLOT_BYTES;
/// Slots of a page: so many that it and the table of pages take at most 120 bytes each, as `FuncState`.
const PAGE_SLOTS: usize = 6;
/// Pages of the greatest stack, 512 bytes.
const PAGES_MAX: usize = SLOTS_MAX.div_ceil(PAGE_SLOTS);

type Slots = [StackSlot; PAGE_SLOTS];

/// Neighbouring slots.
#[derive(Clone, Debug)]
struct Page {
    slots: Slots,
    /// Whether no register spilled here is related to another; `None`: not known since the last change.
    is_unrelated: Cell<Option<bool>>,
}

impl Page {
    fn is_unrelated(&self) -> bool {
        if let Some(known) = self.is_unrelated.get() {
            return known;
        }
        let regs = self.slots.iter().filter_map(|slot| slot.spilled.as_ref());
        let unrelated = regs.into_iter().all(|reg| reg.is_unrelated());
        self.is_unrelated.set(Some(unrelated));
        unrelated
    }
}

/// What frames that share it have in common.
#[derive(Clone, Debug, Default)]
struct Table {
    /// A page that was never written is `None`.
    pages: [Option<Rc<Page>>; PAGES_MAX],
    slots: u8,
    callbacks: Callbacks,
}

const _: () = assert!(size_of::<Page>() <= 104 && size_of::<Table>() <= 104);

/// What is counted of a frame's callbacks. It changes as seldom as the table of pages, and most frames have none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Callbacks {
    /// How often a callback was simulated by this frame.
    pub(crate) depth: u32,
    /// How many frames that run on their own were entered on the way here.
    pub(crate) async_entries: u32,
}

const EMPTY_SLOTS: &Slots = &[const { StackSlot::EMPTY }; PAGE_SLOTS];

/// The slots of a frame, from the frame pointer down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stack {
    table: Option<Rc<Table>>,
}

impl Stack {
    /// A stack without slots.
    pub(crate) const EMPTY: Stack = Stack { table: None };

    /// Slots there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.table
            .as_ref()
            .map_or(0, |table| usize::from(table.slots))
    }

    /// What is counted of the frame's callbacks.
    #[inline]
    pub(crate) fn callbacks(&self) -> Callbacks {
        self.table
            .as_ref()
            .map_or(Callbacks::default(), |table| table.callbacks)
    }

    /// The counters, for a change.
    pub(crate) fn callbacks_mut(&mut self) -> &mut Callbacks {
        &mut self.table_mut().callbacks
    }

    #[inline]
    fn table_mut(&mut self) -> &mut Table {
        Rc::make_mut(self.table.get_or_insert_with(Rc::default))
    }

    #[inline]
    pub(crate) fn get(&self, spi: usize) -> Option<&StackSlot> {
        let table = self.table.as_ref()?;
        if spi >= usize::from(table.slots) {
            return None;
        }
        let page = table.pages[spi / PAGE_SLOTS].as_ref();
        let slots = page.map_or(EMPTY_SLOTS, |page| &page.slots);
        Some(&slots[spi % PAGE_SLOTS])
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, spi: usize) -> Option<&mut StackSlot> {
        if spi >= self.len() {
            return None;
        }
        let page = self.table_mut().pages[spi / PAGE_SLOTS].get_or_insert_with(|| {
            Rc::new(Page {
                slots: EMPTY_SLOTS.clone(),
                is_unrelated: Cell::new(None),
            })
        });
        let page = Rc::make_mut(page);
        page.is_unrelated.set(None);
        Some(&mut page.slots[spi % PAGE_SLOTS])
    }

    /// All slots, from the frame pointer down.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &StackSlot> + '_ {
        (0..self.len().div_ceil(PAGE_SLOTS))
            .flat_map(|page| self.page(page))
            .take(self.len())
    }

    /// Applies `f` to the written slots for which `pick` holds; pages without one stay shared.
    #[inline]
    pub(crate) fn change(
        &mut self,
        pick: impl FnMut(&StackSlot) -> bool,
        mut f: impl FnMut(usize, &mut StackSlot),
    ) {
        for spi in bits(self.written_with(pick)) {
            f(spi, &mut self[spi]);
        }
    }

    /// The first slot for which `holds` does not, given those of `other` if it has them. Slots on pages that both share and that hold no
    /// register related to another are not looked at.
    #[inline]
    pub(crate) fn first_without(
        &self,
        other: &Stack,
        mut holds: impl FnMut(&StackSlot, Option<&StackSlot>) -> bool,
    ) -> Option<usize> {
        let all_same = self.len() <= other.len();
        for first in (0..self.len()).step_by(PAGE_SLOTS) {
            let page = first / PAGE_SLOTS;
            if all_same && self.covers_itself_in(other, page) {
                continue;
            }
            let theirs = other.page(page);
            let mine = self.page(page).iter().take(self.len() - first);
            for (i, slot) in mine.enumerate() {
                if !holds(slot, (first + i < other.len()).then(|| &theirs[i])) {
                    return Some(first + i);
                }
            }
        }
        None
    }

    /// Whether `f` holds for some slot on the pages that were written.
    #[inline]
    pub(crate) fn any_written(&self, mut f: impl FnMut(&StackSlot) -> bool) -> bool {
        let pages = self.table.iter().flat_map(|table| table.pages.iter());
        let pages = pages.flatten();
        for page in pages {
            for slot in &page.slots {
                if f(slot) {
                    return true;
                }
            }
        }
        false
    }

    #[inline]
    fn covers_itself_in(&self, other: &Stack, page: usize) -> bool {
        match (self.shared_page(page), other.shared_page(page)) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b) && a.is_unrelated(),
            (None, None) => true,
            _ => false,
        }
    }

    #[inline]
    fn shared_page(&self, page: usize) -> Option<&Rc<Page>> {
        self.table.as_ref()?.pages[page].as_ref()
    }

    /// Slots of which some byte was written, bit per slot.
    pub(crate) fn written_slots(&self) -> u64 {
        self.written_with(|slot| !slot.is_all(SlotType::Invalid))
    }

    /// Slots on the pages that were written for which `f` holds, bit per slot. It does not hold for slots never written.
    #[inline]
    pub(crate) fn written_with(&self, mut f: impl FnMut(&StackSlot) -> bool) -> u64 {
        let Some(table) = &self.table else { return 0 };
        let mut found = 0;
        for (number, page) in table.pages.iter().enumerate() {
            let Some(page) = page else { continue };
            let mut on_page = 0;
            for (spi, slot) in page.slots.iter().enumerate() {
                on_page |= u64::from(f(slot)) << spi;
            }
            found |= on_page << (number * PAGE_SLOTS);
        }
        found
    }

    /// Forgets what is in the slots of a set, bit per slot.
    pub(crate) fn forget(&mut self, slots: u64) {
        if self.table.is_none() {
            return;
        }
        for (number, place) in self.table_mut().pages.iter_mut().enumerate() {
            let dead = slots >> (number * PAGE_SLOTS) & ((1 << PAGE_SLOTS) - 1);
            let Some(page) = place else { continue };
            if dead == 0 {
                continue;
            }
            let stays = |&(spi, slot): &(usize, &StackSlot)| {
                dead & 1 << spi == 0 && !slot.is_all(SlotType::Invalid)
            };
            if !page.slots.iter().enumerate().any(|slot| stays(&slot)) {
                *place = None;
                continue;
            }
            let page = Rc::make_mut(page);
            page.is_unrelated.set(None);
            for (spi, slot) in page.slots.iter_mut().enumerate() {
                if dead & 1 << spi != 0 {
                    *slot = StackSlot::EMPTY;
                }
            }
        }
    }

    /// Makes slots up to `slots`, at most 64.
    pub(crate) fn grow(&mut self, slots: usize) {
        let slots = slots.min(SLOTS_MAX);
        if slots > self.len() {
            self.table_mut().slots = slots as u8;
        }
    }

    #[inline]
    fn page(&self, page: usize) -> &Slots {
        self.shared_page(page)
            .map_or(EMPTY_SLOTS, |page| &page.slots)
    }
}

/// The numbers of the bits that are set, ascending.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = set.trailing_zeros();
        set &= set.checked_sub(1)?;
        Some(lowest as usize)
    })
}

impl Index<usize> for Stack {
    type Output = StackSlot;

    #[inline]
    fn index(&self, spi: usize) -> &StackSlot {
        match self.get(spi) {
            Some(slot) => slot,
            None => unreachable!("slot {spi} of a stack of {}", self.len()),
        }
    }
}

impl IndexMut<usize> for Stack {
    #[inline]
    fn index_mut(&mut self, spi: usize) -> &mut StackSlot {
        let slots = self.len();
        match self.get_mut(spi) {
            Some(slot) => slot,
            None => unreachable!("slot {spi} of a stack of {slots}"),
        }
    }
}

static NOT_INIT: RegState = RegState::NOT_INIT;

impl StackSlot {
    /// Never written.
    pub(crate) const EMPTY: StackSlot = StackSlot {
        types: [SlotType::Invalid; SLOT_BYTES],
        spilled: None,
    };

    /// The types of all bytes as one word, which is compared at once.
    #[inline]
    fn word(&self) -> u64 {
        u64::from_le_bytes(self.types.map(|ty| ty as u8))
    }

    /// Whether all bytes are of this type.
    #[inline]
    pub(crate) fn is_all(&self, ty: SlotType) -> bool {
        self.word() == u64::from_le_bytes([ty as u8; SLOT_BYTES])
    }

    /// Whether the bytes are of the same types.
    #[inline]
    pub(crate) fn has_types_of(&self, other: &StackSlot) -> bool {
        self.word() == other.word()
    }

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
        self.spilled
            .get_or_insert_with(|| SharedReg::new(RegState::NOT_INIT))
    }

    /// Replaces the spilled register.
    #[inline]
    pub(crate) fn set_spilled(&mut self, reg: RegState) {
        match &mut self.spilled {
            Some(place) => place.set(reg),
            None => self.spilled = Some(SharedReg::new(reg)),
        }
    }

    /// The spilled register becomes another's copy.
    #[inline]
    pub(crate) fn share_spilled(&mut self, reg: SharedReg) {
        self.spilled = Some(reg);
    }

    /// The spilled register, to be shared.
    #[inline]
    pub(crate) fn shared_spilled(&self) -> Option<SharedReg> {
        self.spilled.clone()
    }

    /// Whether there is a register, or an object that has one.
    #[inline]
    pub(crate) fn holds_register(&self) -> bool {
        self.spilled.is_some() || self.is_spilled_reg() || self.is_special()
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
            (Some(a), Some(b)) => a.is_same(b),
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
