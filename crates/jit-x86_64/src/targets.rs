//! The slots where jumps end, one bit each.

/// A set of slots.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// One word more than the slots need, for looks across words.
    words: Vec<u64>,
}

impl Targets {
    /// None of `slot_count` slots.
    pub(crate) fn clear(&mut self, slot_count: usize) {
        self.words.clear();
        self.words.resize(slot_count / 64 + 2, 0);
    }

    /// # Panics
    /// If there is no such slot.
    #[inline(always)]
    pub(crate) fn insert(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
    }

    #[inline(always)]
    pub(crate) fn contains(&self, slot: usize) -> bool {
        self.from(slot) & 1 != 0
    }

    /// How many slots behind `slot` are no targets; at most 63 are looked at.
    #[inline(always)]
    pub(crate) fn free_behind(&self, slot: usize) -> usize {
        (self.from(slot) >> 1 | 1 << 63).trailing_zeros() as usize
    }

    /// The set from `slot` on, its bit lowest.
    #[inline(always)]
    fn from(&self, slot: usize) -> u64 {
        match self.words.get(slot / 64..slot / 64 + 2) {
            Some(&[low, high]) => {
                let by = slot % 64;
                // Two shifts: by 64 in one is none.
                low >> by | high << 1 << (63 - by)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_go_across_words() {
        let mut targets = Targets::default();
        targets.clear(200);
        for slot in [0, 3, 63, 64, 130, 199] {
            targets.insert(slot);
        }
        let found: Vec<usize> = (0..300).filter(|slot| targets.contains(*slot)).collect();
        assert_eq!(found, [0, 3, 63, 64, 130, 199]);
        let behind: Vec<usize> = [0, 2, 3, 62, 63, 64, 129, 130]
            .map(|slot| targets.free_behind(slot))
            .into();
        assert_eq!(behind, [2, 0, 59, 0, 0, 63, 0, 63]);
        assert_eq!(targets.free_behind(150), 48);
        targets.clear(64);
        assert!((0..200).all(|slot| !targets.contains(slot)));
    }
}
