//! What special fields own: objects in lists, trees and kernel pointers, of map values and of objects. Key type: [`OwnedFields`]; [`Hooks`] is what a
//! map calls when a value goes.

use std::sync::atomic::{AtomicU64, Ordering};

use ring3_btf::{Btf, FieldKind as Declared, FieldTarget, Record};
use ring3_maps::fields::{Field, FieldHooks, FieldKind, spin_lock, spin_unlock};

use super::{cpumask, list, object, task, tree};
use crate::timer;

/// What one field owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owns {
    /// Objects linked by the node at this offset.
    List { node_offset: u32 },
    /// The same, in a tree.
    Tree { node_offset: u32 },
    /// An object of a program's, per-CPU or not.
    Object,
    /// A task.
    Task,
    /// A CPU mask.
    Cpumask,
}

/// The fields of a struct that own objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnedFields {
    fields: Vec<(u32, Owns)>,
    /// Where the lock of lists and trees is.
    lock_offset: Option<u32>,
}

impl OwnedFields {
    /// The owning fields of a record; `kernel` is what pointers to kernel objects refer to.
    pub(super) fn new(record: &Record, kernel: Option<&Btf>) -> OwnedFields {
        let owns = |field: &ring3_btf::Field| match (field.kind, &field.target) {
            (Declared::ListHead, FieldTarget::Graph { node_offset, .. }) => Some(Owns::List {
                node_offset: *node_offset,
            }),
            (Declared::RbRoot, FieldTarget::Graph { node_offset, .. }) => Some(Owns::Tree {
                node_offset: *node_offset,
            }),
            (Declared::KptrRef | Declared::KptrPercpu, FieldTarget::Local(_)) => Some(Owns::Object),
            (Declared::KptrRef, FieldTarget::Kernel(id)) => match kernel.map(|btf| btf.name(*id)) {
                Some("task_struct") => Some(Owns::Task),
                Some("bpf_cpumask") => Some(Owns::Cpumask),
                // No program can have stored one: nothing that runs makes them.
                _ => None,
            },
            _ => None,
        };
        let owning = |field| owns(field).map(|owned| (field.offset, owned));
        let lock = |kind| record.first(kind).map(|field| field.offset);
        OwnedFields {
            fields: record.fields.iter().filter_map(owning).collect(),
            lock_offset: lock(Declared::SpinLock).or_else(|| lock(Declared::ResSpinLock)),
        }
    }

    /// Takes what all fields of an object own; references to objects go to `dropped`, for the caller to drop.
    ///
    /// # Safety
    /// `object` is the address of a struct with these fields that nobody else changes.
    pub(super) unsafe fn take_all(&self, object: u64, dropped: &mut Vec<u64>) {
        for &(offset, owns) in &self.fields {
            // SAFETY: 1. a field of the struct, by the caller's promise; 2. without other users no lock is needed.
            unsafe { take(owns, object + u64::from(offset), None, dropped) };
        }
    }

    /// Takes and drops what the field at `offset` owns.
    ///
    /// # Safety
    /// `field` is the address of that field in a live value with these fields.
    unsafe fn release(&self, offset: u32, field: u64) {
        let owned = self.fields.iter().find(|(other, _)| *other == offset);
        let Some(&(_, owns)) = owned else { return };
        let lock = self
            .lock_offset
            .map(|lock| field - u64::from(offset) + u64::from(lock));
        let mut dropped = Vec::new();
        // SAFETY: 1. the caller's promise; 2. the lock is in the same value.
        unsafe { take(owns, field, lock, &mut dropped) };
        for object in dropped {
            // SAFETY: 1. a reference that the field owned.
            unsafe { object::drop_reference(object) };
        }
    }
}

/// Takes what a field owns, and leaves it empty. `lock` protects lists and trees.
///
/// # Safety
/// `field` is such a field, `lock` the lock word of its value, free or held by others.
unsafe fn take(owns: Owns, field: u64, lock: Option<u64>, dropped: &mut Vec<u64>) {
    let pointer = || {
        let word = std::ptr::with_exposed_provenance_mut::<u64>(field as usize);
        // SAFETY: 1. an aligned pointer field, which all change atomically.
        unsafe { AtomicU64::from_ptr(word) }.swap(0, Ordering::AcqRel)
    };
    match owns {
        Owns::List { .. } | Owns::Tree { .. } => {
            let lock = lock.map(|lock| std::ptr::with_exposed_provenance_mut::<u32>(lock as usize));
            // SAFETY: 1. by the caller's promise the lock's word and, under the lock, the field is ours.
            unsafe {
                if let Some(lock) = lock {
                    spin_lock(lock);
                }
                match owns {
                    Owns::List { node_offset } => list::take_all(field, node_offset, dropped),
                    Owns::Tree { node_offset } => tree::take_all(field, node_offset, dropped),
                    Owns::Object | Owns::Task | Owns::Cpumask => {}
                }
                if let Some(lock) = lock {
                    spin_unlock(lock);
                }
            }
        }
        Owns::Object => dropped.extend(Some(pointer()).filter(|object| *object != 0)),
        // SAFETY: 1. the references that the fields owned.
        Owns::Task => unsafe { task::release(pointer()) },
        // SAFETY: as above.
        Owns::Cpumask => unsafe { cpumask::release(pointer()) },
    }
}

/// What values of a map own: timers, workqueues, and objects.
#[derive(Debug)]
pub struct Hooks {
    owned: OwnedFields,
}

impl Hooks {
    /// Hooks for values with the fields of a record; `kernel` is what pointers to kernel objects refer to.
    pub fn new(record: &Record, kernel: Option<&Btf>) -> Hooks {
        Hooks {
            owned: OwnedFields::new(record, kernel),
        }
    }
}

impl FieldHooks for Hooks {
    unsafe fn release(&self, field: &Field, field_ptr: *mut u8) {
        if matches!(field.kind, FieldKind::Timer | FieldKind::Workqueue) {
            // SAFETY: 1. the caller's promise; both begin with the same word.
            unsafe { timer::release(field_ptr) };
        } else {
            let address = field_ptr.expose_provenance() as u64;
            // SAFETY: 1. the caller's promise.
            unsafe { self.owned.release(field.offset, address) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kfunc::find;
    use crate::kfunc::object::ObjectKind;
    use ring3_sync::rcu;
    use std::sync::Arc;

    /// A value: a lock, a list, a tree and a pointer; objects of `kind` are linked by their first words.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct Value {
        lock: [u32; 2],
        list: [u64; 2],
        tree: [u64; 2],
        object: u64,
    }

    #[test]
    fn a_value_releases_what_it_owns() {
        let kind = ObjectKind::new(64, None, None);
        let node_offset = 8;
        let owned = OwnedFields {
            fields: vec![
                (8, Owns::List { node_offset }),
                (24, Owns::Tree { node_offset }),
                (40, Owns::Object),
            ],
            lock_offset: Some(0),
        };
        let mut value = Value::default();
        let start = (&raw mut value).expose_provenance() as u64;
        let call = |name: &str, args: [u64; 5]| {
            let [a, b, c, d, e] = args;
            // SAFETY: each call below fits its prototype, and value and objects live.
            unsafe { (find(name).unwrap().code)(a, b, c, d, e) }
        };
        let new = || call("bpf_obj_new_impl", [64, kind.program_ptr(), 0, 0, 0]);
        for _ in 0..3 {
            call("bpf_list_push_back_impl", [start + 8, new() + 8, 0, 8, 0]);
        }
        // A chain of pointers, longer than any stack.
        let chained = ObjectKind::with_pointer(64, 0);
        let mut first = 0;
        for _ in 0..100_000 {
            let object = call("bpf_obj_new_impl", [64, chained.program_ptr(), 0, 0, 0]);
            // SAFETY: a live object of 64 bytes.
            unsafe { *std::ptr::with_exposed_provenance_mut::<u64>(object as usize) = first };
            first = object;
        }
        value.object = first;
        for offset in [8, 24, 40] {
            // SAFETY: fields of the value, as `owned` says.
            unsafe { owned.release(offset, start + u64::from(offset)) };
        }
        assert_eq!((value.list, value.object), ([0; 2], 0));
        rcu::barrier().unwrap();
        assert_eq!(
            (Arc::strong_count(&kind), Arc::strong_count(&chained)),
            (1, 1)
        );
    }

    impl ObjectKind {
        /// Objects with a pointer to another object.
        fn with_pointer(bytes: u32, offset: u32) -> Arc<ObjectKind> {
            let fields = OwnedFields {
                fields: vec![(offset, Owns::Object)],
                lock_offset: None,
            };
            ObjectKind::with_fields(bytes, fields)
        }
    }
}
