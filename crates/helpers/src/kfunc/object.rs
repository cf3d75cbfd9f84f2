//! Objects that programs allocate: `bpf_obj_new`, references, `bpf_obj_drop`. Key type: [`ObjectKind`].
//!
//! ```text
//! address of the object
//!         v
//! | kind, references | the program's struct, or one copy of it per CPU |
//! ```
//! The words before an object say what it is, so that whoever drops the last reference (a program, a list, a map) needs nothing else. The memory is
//! given back after a grace period: other programs may still read through pointers that they do not own.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ring3_btf::Record;
use ring3_os::cpu::possible_cpus;
use ring3_sync::rcu;

use super::fields::OwnedFields;
use super::kfuncs;

/// A struct that programs make objects of.
#[derive(Debug)]
pub struct ObjectKind {
    bytes: u32,
    fields: OwnedFields,
}

impl ObjectKind {
    /// A struct of this size with these special fields; `kernel` is what pointers to kernel objects refer to.
    pub fn new(
        bytes: u32,
        record: Option<&Record>,
        kernel: Option<&ring3_btf::Btf>,
    ) -> Arc<ObjectKind> {
        let fields = record.map_or_else(OwnedFields::default, |record| {
            OwnedFields::new(record, kernel)
        });
        ObjectKind::with_fields(bytes, fields)
    }

    pub(super) fn with_fields(bytes: u32, fields: OwnedFields) -> Arc<ObjectKind> {
        Arc::new(ObjectKind { bytes, fields })
    }

    /// What programs hand to kernel functions; the kind must live as long as a program may use it.
    pub fn program_ptr(self: &Arc<Self>) -> u64 {
        Arc::as_ptr(self).expose_provenance() as u64
    }
}

#[repr(C, align(16))]
struct Header {
    /// A reference to the kind.
    kind: *const ObjectKind,
    references: AtomicU32,
    /// Bytes from one CPU's copy to the next, 0 for an object that is no per-CPU one.
    stride: u32,
}

const HEADER_BYTES: usize = size_of::<Header>();

fn layout(bytes: u32, stride: u32) -> Option<Layout> {
    let body = match stride {
        0 => bytes as usize,
        stride => stride as usize * possible_cpus(),
    };
    Layout::from_size_align(HEADER_BYTES + body, align_of::<Header>()).ok()
}

/// A new object, all zero, with one reference; 0 if there is no memory.
fn allocate(kind: &Arc<ObjectKind>, stride: u32) -> u64 {
    let Some(layout) = layout(kind.bytes, stride) else {
        return 0;
    };
    // SAFETY: 1. the layout has at least the header's bytes.
    let start = unsafe { alloc_zeroed(layout) }.cast::<Header>();
    if start.is_null() {
        return 0;
    }
    // SAFETY: 1. fresh memory, aligned for a header.
    unsafe {
        start.write(Header {
            kind: Arc::into_raw(Arc::clone(kind)),
            references: AtomicU32::new(1),
            stride,
        });
    }
    start.expose_provenance() as u64 + HEADER_BYTES as u64
}

/// The words before an object.
///
/// # Safety
/// `object` came from [`allocate`], and its grace period has not ended.
unsafe fn header<'a>(object: u64) -> &'a Header {
    let address = object as usize - HEADER_BYTES;
    // SAFETY: 1. the caller's promise; 2. headers change only through atomics.
    unsafe { &*std::ptr::with_exposed_provenance(address) }
}

/// Gives a reference back. The last one releases what the object owns, and what that owns, and so on.
///
/// # Safety
/// The caller owns a reference of the object at `object`.
pub(crate) unsafe fn drop_reference(object: u64) {
    // Objects may own long chains of others.
    let mut dropped = vec![object];
    while let Some(object) = dropped.pop() {
        // SAFETY: 1. the caller's promise, or a reference that a field owned.
        let header = unsafe { header(object) };
        if header.references.fetch_sub(1, Ordering::AcqRel) != 1 {
            continue;
        }
        // SAFETY: 1. the kind lives as long as the object.
        let kind = unsafe { &*header.kind };
        if header.stride == 0 {
            // SAFETY: 1. an object of the kind, that nobody owns any more.
            unsafe { kind.fields.take_all(object, &mut dropped) };
        }
        rcu::call_rcu(move || {
            // SAFETY: 1. the last reference is gone and a grace period has passed.
            unsafe { free(object) }
        });
    }
}

/// # Safety
/// Nobody uses the object at `object`.
unsafe fn free(object: u64) {
    // SAFETY: 1. the caller's promise.
    let header = unsafe { header(object) };
    // SAFETY: 1. the reference that the header owns.
    let kind = unsafe { Arc::from_raw(header.kind) };
    if let Some(layout) = layout(kind.bytes, header.stride) {
        let start = std::ptr::with_exposed_provenance_mut(object as usize - HEADER_BYTES);
        // SAFETY: 1. allocated with this layout, which follows from the kind.
        unsafe { dealloc(start, layout) };
    }
}

/// One more reference; false: the last one is gone.
///
/// # Safety
/// As [`header`].
pub(super) unsafe fn acquire(object: u64) -> bool {
    // SAFETY: 1. the caller's promise.
    let references = &unsafe { header(object) }.references;
    references
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count != 0).then(|| count + 1)
        })
        .is_ok()
}

/// The copy of a per-CPU object for a CPU; 0 if there is no such CPU.
///
/// # Safety
/// `object` is 0 or a per-CPU object.
pub(crate) unsafe fn percpu_copy(object: u64, cpu: u32) -> u64 {
    if object == 0 || cpu as usize >= possible_cpus() {
        return 0;
    }
    // SAFETY: 1. the caller's promise.
    let stride = unsafe { header(object) }.stride;
    object + u64::from(stride) * u64::from(cpu)
}

/// # Safety
/// `kind` is the address of a kind that lives.
unsafe fn kind_at(kind: u64) -> Arc<ObjectKind> {
    let kind = std::ptr::with_exposed_provenance::<ObjectKind>(kind as usize);
    // SAFETY: 1. the caller's promise: an `Arc` holds it.
    unsafe {
        Arc::increment_strong_count(kind);
        Arc::from_raw(kind)
    }
}

kfuncs! { ROWS(Plain):
    bpf_obj_new_impl(_bytes: u64, kind: u64) {
        // SAFETY: 1. the rewrites give a kind that the program holds.
        allocate(&unsafe { kind_at(kind) }, 0)
    }
    bpf_percpu_obj_new_impl(_bytes: u64, kind: u64) {
        // SAFETY: as above.
        let kind = unsafe { kind_at(kind) };
        allocate(&kind, kind.bytes.next_multiple_of(64))
    }
    bpf_obj_drop_impl(object: u64, _kind: u64) {
        // SAFETY: 1. KF_RELEASE: the program owns a reference, to the start of the object.
        unsafe { drop_reference(object) }
    }
    bpf_percpu_obj_drop_impl(object: u64, _kind: u64) {
        // SAFETY: as above.
        unsafe { drop_reference(object) }
    }
    bpf_refcount_acquire_impl(object: u64, _kind: u64) {
        // SAFETY: 1. the verifier checked the start of an object that is owned, or protected by the lock or read section in which it was found.
        if unsafe { acquire(object) } { object } else { 0 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kfunc::find;

    /// An object of a kind without special fields.
    pub(crate) fn object(bytes: u32) -> u64 {
        allocate(&ObjectKind::new(bytes, None, None), 0)
    }

    #[test]
    fn objects_live_as_long_as_references() {
        let kind = ObjectKind::new(40, None, None);
        let [new, acquire, drop] = [
            "bpf_obj_new_impl",
            "bpf_refcount_acquire_impl",
            "bpf_obj_drop_impl",
        ]
        .map(|name| find(name).unwrap().code);
        // SAFETY: the kind lives; the object is used while it has references.
        unsafe {
            let object = new(40, kind.program_ptr(), 0, 0, 0);
            assert_eq!(object % 16, 0);
            let bytes = std::ptr::with_exposed_provenance::<[u8; 40]>(object as usize);
            assert_eq!(*bytes, [0; 40]);
            assert_eq!(acquire(object, 0, 0, 0, 0), object);
            let section = rcu::read();
            drop(object, 0, 0, 0, 0);
            assert_eq!(header(object).references.load(Ordering::Relaxed), 1);
            drop(object, 0, 0, 0, 0);
            // The memory stays for the section, and nobody gets a reference any more.
            assert_eq!(acquire(object, 0, 0, 0, 0), 0);
            std::mem::drop(section);
        }
        rcu::barrier().unwrap();
        assert_eq!(Arc::strong_count(&kind), 1);
    }

    #[test]
    fn every_cpu_has_a_copy() {
        let kind = ObjectKind::new(70, None, None);
        let new = find("bpf_percpu_obj_new_impl").unwrap().code;
        // SAFETY: the kind lives.
        let object = unsafe { new(70, kind.program_ptr(), 0, 0, 0) };
        // SAFETY: a per-CPU object.
        unsafe {
            assert_eq!(percpu_copy(object, 0), object);
            let cpus = possible_cpus() as u32;
            assert_eq!(
                percpu_copy(object, cpus - 1),
                object + 128 * u64::from(cpus - 1)
            );
            assert_eq!(percpu_copy(object, cpus), 0);
            assert_eq!(percpu_copy(0, 0), 0);
            drop_reference(object);
        }
    }
}
