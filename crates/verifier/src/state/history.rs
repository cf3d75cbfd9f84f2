//! How a path came from its last checkpoint to here: [`JmpHistory`], what cannot be told from the program text alone.
//!
//! A path that splits seals what it has, if that is much: both ways refer to the sealed part and add to tails of their own. Readers go
//! backwards, newest entry first ([`JmpHistory::cursor`]).

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JmpHistoryEntry {
    pub(crate) idx: u32,
    pub(crate) prev_idx: u32,
    /// See [`HistFlags`].
    pub(crate) flags: HistFlags,
    /// Registers and slots that shared an id at this instruction, packed by `backtrack`; 0 if none.
    pub(crate) linked_regs: u64,
}

/// What a history entry says besides the jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistFlags(pub(crate) u16);

impl HistFlags {
    pub(crate) const NONE: HistFlags = HistFlags(0);
    /// The instruction reads or writes the stack, though not through r10: frame in bits 0..3, slot in bits 3..9.
    pub(crate) const STACK_ACCESS: HistFlags = HistFlags(1 << 9);
    /// Destination of a conditional jump held a scalar... was one of its operands' kinds (6.18: `INSN_F_DST_REG_STACK`).
    pub(crate) const DST_REG_STACK: HistFlags = HistFlags(1 << 10);
    /// As above, for the source.
    pub(crate) const SRC_REG_STACK: HistFlags = HistFlags(1 << 11);

    #[inline]
    pub(crate) const fn stack(frame: u8, spi: u32) -> HistFlags {
        HistFlags(Self::STACK_ACCESS.0 | (frame as u16 & 7) | ((spi as u16 & 0x3f) << 3))
    }

    #[inline]
    pub(crate) const fn has(self, flags: HistFlags) -> bool {
        self.0 & flags.0 != 0
    }

    #[inline]
    pub(crate) const fn with(self, flags: HistFlags) -> HistFlags {
        HistFlags(self.0 | flags.0)
    }

    #[inline]
    pub(crate) const fn frame(self) -> u8 {
        (self.0 & 7) as u8
    }

    #[inline]
    pub(crate) const fn spi(self) -> u32 {
        (self.0 >> 3 & 0x3f) as u32
    }
}

/// Bits of an instruction index: programs have at most a million.
const IDX_BITS: u32 = 20;
const IDX_MASK: u64 = (1 << IDX_BITS) - 1;
/// Where an entry's flags begin; they have 12 bits.
const FLAGS_AT: u32 = IDX_BITS;
/// Where `prev_idx` begins; all ones stand for none.
const PREV_AT: u32 = 32;
/// The word before is the entry's `linked_regs`.
const IS_LINKED: u64 = 1 << 52;
/// Shorter tails are copied rather than sealed: a segment has a cost of its own.
const SEAL_WORDS: usize = 8;

fn is_linked(word: u64) -> bool {
    word & IS_LINKED != 0
}

/// Words no path changes any more.
struct Segment {
    before: Option<Rc<Segment>>,
    words: Box<[u64]>,
}

impl Drop for Segment {
    /// Frees the chain without recursion.
    fn drop(&mut self) {
        let mut before = self.before.take();
        while let Some(segment) = before {
            before = Rc::into_inner(segment).and_then(|mut segment| segment.before.take());
        }
    }
}

/// The steps of a path since its last checkpoint: one word an entry, two if registers were linked.
#[derive(Clone, Default)]
pub(crate) struct JmpHistory {
    sealed: Option<Rc<Segment>>,
    tail: Vec<u64>,
    count: u32,
}

impl JmpHistory {
    /// Number of entries.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) fn push(&mut self, entry: JmpHistoryEntry) {
        let prev_idx = u64::from(entry.prev_idx) & IDX_MASK;
        let mut word =
            u64::from(entry.idx) | u64::from(entry.flags.0) << FLAGS_AT | prev_idx << PREV_AT;
        if entry.linked_regs != 0 {
            self.tail.push(entry.linked_regs);
            word |= IS_LINKED;
        }
        self.tail.push(word);
        self.count += 1;
    }

    /// Adds to the newest entry.
    pub(crate) fn amend_last(&mut self, flags: HistFlags, linked_regs: u64) {
        if self.tail.is_empty()
            && let Some(last) = self.sealed.take()
        {
            // Another path shares it: from here on this one has its own.
            self.tail.extend_from_slice(&last.words);
            self.sealed.clone_from(&last.before);
        }
        let Some(newest) = self.cursor().newest() else {
            return;
        };
        if self.tail.pop().is_some_and(is_linked) {
            self.tail.pop();
        }
        self.count -= 1;
        self.push(JmpHistoryEntry {
            flags: newest.flags.with(flags),
            linked_regs,
            ..newest
        });
    }

    /// Before a copy is made: a long tail is shared with it.
    pub(crate) fn seal(&mut self) {
        if self.tail.len() < SEAL_WORDS {
            return;
        }
        self.sealed = Some(Rc::new(Segment {
            before: self.sealed.take(),
            words: self.tail.as_slice().into(),
        }));
        self.tail.clear();
    }

    /// What there is, in no more memory than it needs; the history goes on empty.
    pub(crate) fn take(&mut self) -> JmpHistory {
        let taken = JmpHistory {
            sealed: self.sealed.take(),
            tail: self.tail.as_slice().to_vec(),
            count: self.count,
        };
        self.tail.clear();
        self.count = 0;
        taken
    }

    /// The entries from the newest to the oldest.
    #[inline]
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        let mut cursor = Cursor {
            words: &self.tail,
            before: self.sealed.as_deref(),
            len: self.len(),
            newest_idx: u32::MAX,
        };
        cursor.settle();
        cursor
    }
}

impl fmt::Debug for JmpHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JmpHistory({} entries)", self.len())
    }
}

/// A place in a history.
pub(crate) struct Cursor<'a> {
    /// The newest entries that are left, oldest first.
    words: &'a [u64],
    before: Option<&'a Segment>,
    len: usize,
    /// The instruction of the newest entry left; no instruction's index if none is left.
    newest_idx: u32,
}

impl Cursor<'_> {
    /// Entries left.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The newest entry left, if it is of this instruction.
    #[inline]
    pub(crate) fn at(&self, idx: u32) -> Option<JmpHistoryEntry> {
        if self.newest_idx() == idx {
            self.newest()
        } else {
            None
        }
    }

    /// See the field.
    #[inline]
    pub(crate) fn newest_idx(&self) -> u32 {
        self.newest_idx
    }

    /// Whether registers were linked at the newest entry left.
    #[inline]
    pub(crate) fn newest_is_linked(&self) -> bool {
        self.words.last().is_some_and(|&word| is_linked(word))
    }

    fn newest(&self) -> Option<JmpHistoryEntry> {
        let (&word, rest) = self.words.split_last()?;
        let prev_idx = word >> PREV_AT & IDX_MASK;
        Some(JmpHistoryEntry {
            idx: (word & IDX_MASK) as u32,
            prev_idx: if prev_idx == IDX_MASK {
                u32::MAX
            } else {
                prev_idx as u32
            },
            flags: HistFlags((word >> FLAGS_AT & 0xfff) as u16),
            linked_regs: match rest.last() {
                Some(&linked_regs) if is_linked(word) => linked_regs,
                _ => 0,
            },
        })
    }

    /// Leaves out the newest entry.
    #[inline]
    pub(crate) fn pop(&mut self) {
        if let Some((&word, rest)) = self.words.split_last() {
            let links = usize::from(is_linked(word));
            self.words = &rest[..rest.len() - links];
            self.len -= 1;
            self.settle();
        }
    }

    #[inline]
    fn settle(&mut self) {
        while self.words.is_empty()
            && let Some(segment) = self.before
        {
            self.words = &segment.words;
            self.before = segment.before.as_deref();
        }
        let idx = |word: &u64| (word & IDX_MASK) as u32;
        self.newest_idx = self.words.last().map_or(u32::MAX, idx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(idx: u32) -> JmpHistoryEntry {
        JmpHistoryEntry {
            idx,
            prev_idx: idx.wrapping_sub(1),
            flags: HistFlags::NONE,
            linked_regs: u64::from(idx % 2),
        }
    }

    fn indices(history: &JmpHistory) -> Vec<u32> {
        let mut cursor = history.cursor();
        let mut found = Vec::new();
        while let Some(newest) = cursor.newest() {
            assert_eq!(newest.linked_regs, u64::from(newest.idx % 2));
            found.push(newest.idx);
            cursor.pop();
        }
        assert_eq!((found.len(), cursor.len()), (history.len(), 0));
        found
    }

    #[test]
    fn both_ways_of_a_split_go_on_for_themselves() {
        let mut falls = JmpHistory::default();
        let mut expected: Vec<u32> = (0..40).collect();
        let mut jumps = falls.clone();
        for idx in 0..40 {
            falls.push(entry(idx));
            falls.seal();
            if idx == 20 {
                jumps = falls.clone();
            }
        }
        jumps.push(entry(99));
        expected.reverse();
        assert_eq!(indices(&falls), expected);
        expected.drain(..18);
        expected[0] = 99;
        assert_eq!(indices(&jumps), expected);
    }

    #[test]
    fn amending_a_shared_entry_leaves_the_other_way_alone() {
        for shared in 1..20 {
            let mut falls = JmpHistory::default();
            (1..=shared).for_each(|idx| falls.push(entry(idx)));
            falls.seal();
            let jumps = falls.clone();
            falls.amend_last(HistFlags::SRC_REG_STACK, 7);
            let of = |history: &JmpHistory| {
                let newest = history.cursor().at(shared);
                newest.map(|e| (e.flags, e.linked_regs, e.prev_idx))
            };
            let prev_idx = shared - 1;
            assert_eq!(of(&falls), Some((HistFlags::SRC_REG_STACK, 7, prev_idx)));
            let linked_regs = u64::from(shared % 2);
            assert_eq!(of(&jumps), Some((HistFlags::NONE, linked_regs, prev_idx)));
            assert_eq!(falls.len(), jumps.len());
        }
    }

    #[test]
    fn the_first_step_has_no_step_before() {
        let mut history = JmpHistory::default();
        history.push(entry(0));
        assert_eq!(history.cursor().at(0).map(|e| e.prev_idx), Some(u32::MAX));
        assert_eq!(history.cursor().at(1), None);
    }

    #[test]
    fn long_chains_are_freed_without_recursion() {
        let mut history = JmpHistory::default();
        for idx in 0..3_000_000 {
            history.push(entry(idx % 1_000_000));
            history.seal();
        }
        assert_eq!(history.len(), 3_000_000);
    }
}
