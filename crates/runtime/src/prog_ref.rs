//! `ProgRef`: a program as prog arrays, hooks and trampolines hold it; `TailCallTable`: a prog array as engines read it.
//!
//! A table holds one word per slot, the engine's tail-call target of the program in it, 0 for none. Both engines load the word once and
//! use what they loaded, so update and delete are one atomic store each; the map holds the [`ProgRef`] beside it and drops it through RCU.
//! Engines never meet in one table: the map's owner rule says which, and refuses the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring3_btf::Btf;
use ring3_spec::{BufAccess, ctx::CtxTable};
use ring3_uapi::ProgType;

use crate::{Entry, RunStats};

/// What holders of programs need of them; implemented by the object layer.
pub trait ProgObject: Send + Sync {
    /// Object id.
    fn id(&self) -> u32;

    /// How to call it.
    fn entry(&self) -> Entry;

    /// The word that a [`TailCallTable`] of its engine holds for it; never 0.
    fn tail_target(&self) -> usize;

    /// Its type: what its context is.
    fn prog_type(&self) -> ProgType;

    /// Whether the program sleeps; such programs cannot be tail-called by others that do not.
    fn is_sleepable(&self) -> bool {
        false
    }

    /// The context of a program type that a host application registered, and the types the program was verified with; `None` for the
    /// kernel's program types.
    fn host_context(&self) -> Option<(&'static CtxTable, &Btf)> {
        None
    }

    /// The function of the kernel BTF that it was verified for, by name: a tracing program's or a security hook's.
    fn hook(&self) -> Option<&str> {
        None
    }

    /// Where its runs are counted, if they can be.
    fn run_stats(&self) -> Option<&RunStats> {
        None
    }

    /// What the program was loaded to iterate over; `None` for other programs.
    fn iterates(&self) -> Option<IteratorTarget> {
        None
    }

    /// A prog array took or dropped the program. Extension programs use it: a program in an array cannot be extended and the other
    /// way round (`EBUSY`).
    ///
    /// # Errors
    /// `EBUSY`: the program may not enter prog arrays now; only on `InArray::Added`.
    fn in_array(&self, change: InArray) -> Result<(), ring3_uapi::Errno> {
        let _ = change;
        Ok(())
    }

    /// The object itself, for layers that know its type.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// What an iterator's program was loaded for.
pub struct IteratorTarget {
    /// Its function in the kernel BTF, without `bpf_iter_`.
    pub name: String,
    /// How far it reaches into keys and values.
    pub access: BufAccess,
    /// The kernel BTF.
    pub btf: Btf,
}

/// A change of [`ProgObject::in_array`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InArray {
    /// One more slot holds the program.
    Added,
    /// One less.
    Removed,
}

/// A counted reference to a program.
pub type ProgRef = Arc<dyn ProgObject>;

/// A prog array as engines see it: `max_entries` words at `entries`.
#[derive(Clone, Copy, Debug)]
pub struct TailCallTable {
    /// First word; valid as long as the map, which the program's reference keeps.
    pub entries: *const AtomicUsize,
    /// Number of words.
    pub max_entries: u32,
}

// SAFETY: 1. the words are atomics in memory that outlives every program holding the table.
unsafe impl Send for TailCallTable {}
// SAFETY: as above.
unsafe impl Sync for TailCallTable {}

impl TailCallTable {
    /// The word at `index`; `None` beyond the end or for an empty slot.
    ///
    /// # Safety
    /// The table's memory is alive: the caller runs a program that references the map.
    #[inline]
    pub unsafe fn load(&self, index: u32) -> Option<usize> {
        if index >= self.max_entries {
            return None;
        }
        // SAFETY: 1. index is below the number of words; 2. the memory lives by the caller's contract.
        let word = unsafe { (*self.entries.add(index as usize)).load(Ordering::Acquire) };
        (word != 0).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_slots_and_indices_beyond_the_end_read_nothing() {
        let words = [AtomicUsize::new(0), AtomicUsize::new(64)];
        let table = TailCallTable {
            entries: words.as_ptr(),
            max_entries: 2,
        };
        // SAFETY: `words` outlives the table.
        unsafe {
            assert_eq!(table.load(0), None);
            assert_eq!(table.load(1), Some(64));
            assert_eq!(table.load(2), None);
        }
    }
}
