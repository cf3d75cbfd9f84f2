//! `Idr`: numbers for objects, handed out in a cycle as the kernel does for programs, maps, BTF and links.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::RwLock;

/// A table from ids (from 1) to values. A freed id is reused only after the numbers have wrapped.
pub struct Idr<T> {
    inner: RwLock<Inner<T>>,
    last: u32,
}

struct Inner<T> {
    entries: BTreeMap<u32, T>,
    next: u32,
}

impl<T: Clone> Idr<T> {
    /// An empty table with ids `1..=i32::MAX`.
    pub const fn new() -> Self {
        Idr::with_last(i32::MAX as u32)
    }

    /// An empty table with ids `1..=last`.
    pub const fn with_last(last: u32) -> Self {
        Idr {
            inner: RwLock::new(Inner {
                entries: BTreeMap::new(),
                next: 1,
            }),
            last,
        }
    }

    /// Stores what `make` returns for the new id; `None` when all ids are taken.
    pub fn insert_with(&self, make: impl FnOnce(u32) -> T) -> Option<u32> {
        let mut inner = self.inner.write();
        if inner.entries.len() as u64 >= u64::from(self.last) {
            return None;
        }
        let mut id = inner.next;
        // Skips over taken ids; ends because one is free.
        for taken in inner
            .entries
            .range(id..)
            .map(|(taken, _)| *taken)
            .take_while({
                let mut expected = id;
                move |taken| {
                    let run = *taken == expected;
                    expected = expected.wrapping_add(1);
                    run
                }
            })
        {
            id = taken + 1;
        }
        if id > self.last {
            id = 1;
            while inner.entries.contains_key(&id) {
                id += 1;
            }
        }
        inner.next = if id == self.last { 1 } else { id + 1 };
        inner.entries.insert(id, make(id));
        Some(id)
    }

    /// Stores `value`; `None` when all ids are taken.
    pub fn insert(&self, value: T) -> Option<u32> {
        self.insert_with(|_| value)
    }

    /// The value of an id.
    pub fn get(&self, id: u32) -> Option<T> {
        self.inner.read().entries.get(&id).cloned()
    }

    /// Gives an id that is taken another value, and returns the old one; an id that is free stays free.
    pub fn replace(&self, id: u32, value: T) -> Option<T> {
        let mut inner = self.inner.write();
        let entry = inner.entries.get_mut(&id)?;
        Some(std::mem::replace(entry, value))
    }

    /// Takes an id out.
    pub fn remove(&self, id: u32) -> Option<T> {
        self.inner.write().entries.remove(&id)
    }

    /// The lowest id above `id`: how `BPF_*_GET_NEXT_ID` walks.
    pub fn next_id(&self, id: u32) -> Option<u32> {
        let from = id.checked_add(1)?;
        self.inner
            .read()
            .entries
            .range(from..)
            .next()
            .map(|(id, _)| *id)
    }

    /// All values, by id.
    pub fn values(&self) -> Vec<(u32, T)> {
        self.inner
            .read()
            .entries
            .iter()
            .map(|(id, value)| (*id, value.clone()))
            .collect()
    }

    /// How many ids are taken.
    pub fn len(&self) -> usize {
        self.inner.read().entries.len()
    }

    /// Whether no id is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Default for Idr<T> {
    fn default() -> Self {
        Idr::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Idr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.inner.read().entries.iter())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round_before_they_come_back() {
        let idr = Idr::with_last(4);
        assert_eq!(
            [(); 3].map(|()| idr.insert('x')),
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!(idr.remove(2), Some('x'));
        assert_eq!(idr.insert('y'), Some(4));
        assert_eq!(idr.insert('z'), Some(2));
        assert_eq!(idr.insert('-'), None);
        assert_eq!(idr.replace(4, 'Y'), Some('y'));
        assert_eq!(idr.replace(5, '-'), None);
        assert_eq!(idr.remove(3), Some('x'));
        assert_eq!(idr.insert('3'), Some(3));
        assert_eq!(idr.get(3), Some('3'));
    }

    #[test]
    fn walking_skips_holes() {
        let idr = Idr::new();
        for value in 0..5 {
            idr.insert(value);
        }
        idr.remove(2);
        idr.remove(5);
        assert_eq!(idr.next_id(0), Some(1));
        assert_eq!(idr.next_id(1), Some(3));
        assert_eq!(idr.next_id(4), None);
        assert_eq!(idr.next_id(u32::MAX), None);
    }
}
