//! `FdSlots`: numbers of a caller without a transport, found by index.

use std::collections::BTreeMap;

use crate::OpenFile;

/// The first number handed out: 0 to 2 are taken in every process.
const FIRST_FD: usize = 3;
/// Numbers from here on, which only `Caller::install` gives, lie in a tree.
const LOW_FDS: usize = 4096;

/// What numbers name.
#[derive(Default)]
pub(crate) struct FdSlots {
    low: Vec<Option<OpenFile>>,
    high: BTreeMap<i32, OpenFile>,
    open: usize,
}

impl FdSlots {
    /// How many are open.
    pub(crate) fn open_count(&self) -> usize {
        self.open
    }

    /// What a number names.
    #[inline]
    pub(crate) fn get(&self, fd: i32) -> Option<&OpenFile> {
        // A negative number is above all that a table holds.
        match self.low.get(fd as u32 as usize) {
            Some(slot) => slot.as_ref(),
            None if self.high.is_empty() => None,
            None => self.high.get(&fd),
        }
    }

    /// The lowest free number; `None` when there is none.
    pub(crate) fn lowest_free(&self) -> Option<i32> {
        let mut low = FIRST_FD..LOW_FDS;
        if let Some(fd) = low.find(|&fd| self.low.get(fd).is_none_or(Option::is_none)) {
            return Some(fd as i32);
        }
        let mut fd = LOW_FDS as i32;
        for &taken in self.high.keys() {
            if taken != fd {
                break;
            }
            fd = taken.checked_add(1)?;
        }
        Some(fd)
    }

    /// Puts a file at a number that is not negative; what was there.
    pub(crate) fn insert(&mut self, fd: i32, file: OpenFile) -> Option<OpenFile> {
        let index = fd as usize;
        let old = if index < LOW_FDS {
            if self.low.len() <= index {
                self.low.resize_with(index + 1, || None);
            }
            self.low[index].replace(file)
        } else {
            self.high.insert(fd, file)
        };
        self.open += usize::from(old.is_none());
        old
    }

    /// Takes a number out.
    pub(crate) fn remove(&mut self, fd: i32) -> Option<OpenFile> {
        let old = match self.low.get_mut(fd as u32 as usize) {
            Some(slot) => slot.take(),
            None => self.high.remove(&fd),
        };
        self.open -= usize::from(old.is_some());
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_and_high_numbers_are_one_space() {
        let mut slots = FdSlots::default();
        for fd in FIRST_FD as i32..LOW_FDS as i32 + 2 {
            assert_eq!(slots.lowest_free(), Some(fd));
            assert!(slots.insert(fd, OpenFile::Other).is_none());
        }
        assert_eq!(slots.open_count(), LOW_FDS + 2 - FIRST_FD);
        assert!(slots.insert(i32::MAX, OpenFile::Other).is_none());
        assert!(slots.insert(i32::MAX, OpenFile::Other).is_some());
        for fd in [LOW_FDS as i32, 100, i32::MAX] {
            assert!(slots.get(fd).is_some());
            assert!(slots.remove(fd).is_some());
            assert!(slots.remove(fd).is_none());
            assert!(slots.get(fd).is_none());
        }
        assert_eq!(slots.lowest_free(), Some(100));
        for fd in [0, -1, i32::MIN] {
            assert!(slots.get(fd).is_none());
            assert!(slots.remove(fd).is_none());
        }
        assert_eq!(slots.open_count(), LOW_FDS - FIRST_FD);
    }
}
