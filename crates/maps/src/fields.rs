//! Special fields of map values: spin locks, timers, kernel pointers, list heads and so on.
//!
//! A map copies values around the special fields: it never writes them from a user's bytes, zeroes them in what a user reads, and
//! releases what they own when a value is replaced or deleted. Where the fields lie comes from BTF; what owning means
//! is known to `helpers` (timers, workqueues) and `objects` (kptrs), through [`FieldHooks`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ring3_sync::spin::Backoff;

use crate::mem;

/// What a special field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// `struct bpf_spin_lock`
    SpinLock,
    /// `struct bpf_res_spin_lock`
    ResSpinLock,
    /// `struct bpf_timer`
    Timer,
    /// `struct bpf_wq`
    Workqueue,
    /// `struct bpf_task_work`
    TaskWork,
    /// `__kptr_untrusted`
    KptrUnref,
    /// `__kptr`
    KptrRef,
    /// `__percpu_kptr`
    KptrPercpu,
    /// `__uptr`
    Uptr,
    /// `struct bpf_list_head`
    ListHead,
    /// `struct bpf_list_node`
    ListNode,
    /// `struct bpf_rb_root`
    RbRoot,
    /// `struct bpf_rb_node`
    RbNode,
    /// `struct bpf_refcount`
    Refcount,
}

/// One special field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub kind: FieldKind,
    /// Bytes from the start of the value.
    pub offset: u32,
    /// Bytes of the field.
    pub size: u32,
}

/// Releases what fields own.
pub trait FieldHooks: Send + Sync {
    /// Releases what the field at `field` owns and leaves it zero. Called once the value is out of the map, or in place when it is replaced; may
    /// race with programs that still hold the value, so it takes the content out atomically.
    ///
    /// # Safety
    /// `field_ptr` is the address of the field in a value of this record, valid for its size.
    unsafe fn release(&self, field: &Field, field_ptr: *mut u8);
}

/// Where the special fields of a value type lie.
#[derive(Clone)]
pub struct ValueRecord {
    fields: Vec<Field>,
    hooks: Option<Arc<dyn FieldHooks>>,
}

impl fmt::Debug for ValueRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.fields).finish()
    }
}

impl ValueRecord {
    /// A record of fields that do not overlap, in any order; `hooks` may be `None` where no field owns anything.
    pub fn new(mut fields: Vec<Field>, hooks: Option<Arc<dyn FieldHooks>>) -> Self {
        fields.sort_by_key(|field| field.offset);
        ValueRecord { fields, hooks }
    }

    /// The fields, by offset.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The first field of a kind.
    pub fn find(&self, kind: FieldKind) -> Option<&Field> {
        self.fields.iter().find(|field| field.kind == kind)
    }

    /// The largest end of a field, for checks against the value size.
    pub(crate) fn end(&self) -> u64 {
        self.fields
            .iter()
            .map(|field| u64::from(field.offset) + u64::from(field.size))
            .max()
            .unwrap_or(0)
    }
}

/// How values of one map are copied; cheap to ask when there are no special fields.
#[derive(Clone, Debug)]
pub(crate) struct ValueCopy {
    pub(crate) value_bytes: usize,
    record: Option<Arc<ValueRecord>>,
}

impl ValueCopy {
    pub(crate) fn new(value_bytes: usize, record: Option<Arc<ValueRecord>>) -> Self {
        let record =
            record.filter(|record| !record.fields.is_empty() && record.end() <= value_bytes as u64);
        ValueCopy {
            value_bytes,
            record,
        }
    }

    pub(crate) fn has(&self, kind: FieldKind) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.find(kind).is_some())
    }

    pub(crate) fn has_fields(&self) -> bool {
        self.record.is_some()
    }

    /// The spin lock of a value, for `BPF_F_LOCK`.
    pub(crate) fn spin_lock_offset(&self) -> Option<usize> {
        let field = self.record.as_ref()?.find(FieldKind::SpinLock)?;
        Some(field.offset as usize)
    }

    /// Copies a value into the map around the special fields, which keep their content.
    ///
    /// # Safety
    /// `dst` is an 8-aligned value of this map; `src` is readable for the value's size.
    #[inline(always)]
    pub(crate) unsafe fn copy_in(&self, dst: *mut u8, src: *const u8) {
        // SAFETY: 1. the caller's promise.
        unsafe {
            match &self.record {
                None => mem::copy_words(dst, src, self.value_bytes),
                Some(record) => self.copy_around(record, dst, src),
            }
        }
    }

    #[inline(never)]
    unsafe fn copy_around(&self, record: &ValueRecord, dst: *mut u8, src: *const u8) {
        // SAFETY: 1. the caller's promise; 2. gaps lie inside the value, by the check in `new`.
        unsafe {
            let mut at = 0;
            for field in record.fields() {
                let start = field.offset as usize;
                mem::copy_bytes(dst.add(at), src.add(at), start.saturating_sub(at));
                at = at.max(start + field.size as usize);
            }
            mem::copy_bytes(dst.add(at), src.add(at), self.value_bytes - at);
        }
    }

    /// Copies a value into fresh memory of the map; special fields start as zero.
    ///
    /// # Safety
    /// As [`ValueCopy::copy_in`], and nobody else uses `dst`.
    #[inline(always)]
    pub(crate) unsafe fn init(&self, dst: *mut u8, src: *const u8) {
        // SAFETY: 1. the caller's promise.
        unsafe {
            if self.record.is_some() {
                self.zero_fields(dst);
            }
            self.copy_in(dst, src);
        }
    }

    /// [`ValueCopy::init`] in memory that held values of this map: who still held the last one may have put something into its fields after they
    /// were released, which is released now.
    ///
    /// # Safety
    /// As [`ValueCopy::init`]; `dst` was a value of this map, or zero.
    #[inline(always)]
    pub(crate) unsafe fn renew(&self, dst: *mut u8, src: *const u8) {
        // SAFETY: 1. the caller's promise.
        unsafe {
            if self.record.is_some() {
                self.release_fields(dst);
            }
            self.init(dst, src);
        }
    }

    /// Whether values own what must not outlive the map's last user: it may hold programs, which hold the map.
    pub(crate) fn has_callbacks(&self) -> bool {
        [FieldKind::Timer, FieldKind::Workqueue]
            .into_iter()
            .any(|kind| self.has(kind))
    }

    /// Releases the timers and work items of a value.
    ///
    /// # Safety
    /// `value` is a value of this map, live or not, or zero.
    pub(crate) unsafe fn release_callbacks(&self, value: *mut u8) {
        let Some(record) = &self.record else { return };
        let Some(hooks) = &record.hooks else { return };
        for field in record.fields() {
            if !matches!(field.kind, FieldKind::Timer | FieldKind::Workqueue) {
                continue;
            }
            // SAFETY: 1. fields lie inside the value, by the check in `new`; 2. both begin with a word that is only changed atomically.
            unsafe {
                let field_ptr = value.add(field.offset as usize);
                let word = AtomicU64::from_ptr(field_ptr.cast());
                // Elements that were never used keep their zero pages.
                if word.load(Ordering::Acquire) != 0 {
                    hooks.release(field, field_ptr);
                }
            }
        }
    }

    /// Copies a value out of the map; special fields read as zero.
    ///
    /// # Safety
    /// `src` is a value of this map; `dst` is writable for the value's size.
    #[inline]
    pub(crate) unsafe fn copy_out(&self, dst: *mut u8, src: *const u8) {
        // SAFETY: 1. the caller's promise.
        unsafe {
            mem::copy_bytes(dst, src, self.value_bytes);
            if self.record.is_some() {
                self.zero_fields(dst);
            }
        }
    }

    #[inline(never)]
    unsafe fn zero_fields(&self, value: *mut u8) {
        for field in self.record.iter().flat_map(|record| record.fields()) {
            // SAFETY: 1. fields lie inside the value, by the check in `new`.
            unsafe { mem::zero_bytes(value.add(field.offset as usize), field.size as usize) };
        }
    }

    /// Releases what the special fields of a value own.
    ///
    /// # Safety
    /// `value` is a value of this map.
    #[inline]
    pub(crate) unsafe fn release_fields(&self, value: *mut u8) {
        let Some(record) = &self.record else { return };
        for field in record.fields() {
            // SAFETY: 1. fields lie inside the value, by the check in `new`.
            let field_ptr = unsafe { value.add(field.offset as usize) };
            match field.kind {
                // These own nothing: locks, and links that their lists release.
                FieldKind::SpinLock
                | FieldKind::ResSpinLock
                | FieldKind::ListNode
                | FieldKind::RbNode
                | FieldKind::Refcount => {}
                // SAFETY: 1. as above.
                FieldKind::KptrUnref => unsafe { mem::zero_bytes(field_ptr, field.size as usize) },
                FieldKind::Timer
                | FieldKind::Workqueue
                | FieldKind::TaskWork
                | FieldKind::KptrRef
                | FieldKind::KptrPercpu
                | FieldKind::Uptr
                | FieldKind::ListHead
                | FieldKind::RbRoot => {
                    if let Some(hooks) = &record.hooks {
                        // SAFETY: 1. as above; 2. the value is of this record.
                        unsafe { hooks.release(field, field_ptr) };
                    }
                }
            }
        }
    }

    /// Copies a value in, in place and under its spin lock (`BPF_F_LOCK`).
    ///
    /// # Safety
    /// As [`ValueCopy::copy_in`]; the value has a spin lock.
    pub(crate) unsafe fn copy_in_locked(&self, dst: *mut u8, src: *const u8) {
        let Some(offset) = self.spin_lock_offset() else {
            return;
        };
        // SAFETY: 1. the lock lies inside the value and is 4-aligned by BTF's rules.
        unsafe {
            spin_lock(dst.add(offset).cast());
            self.copy_in(dst, src);
            spin_unlock(dst.add(offset).cast());
        }
    }

    /// Copies a value out under its spin lock.
    ///
    /// # Safety
    /// As [`ValueCopy::copy_out`]; `src` is writable, its lock is taken.
    pub(crate) unsafe fn copy_out_locked(&self, dst: *mut u8, src: *mut u8) {
        let Some(offset) = self.spin_lock_offset() else {
            return;
        };
        // SAFETY: 1. the lock lies inside the value and is 4-aligned by BTF's rules.
        unsafe {
            spin_lock(src.add(offset).cast());
            self.copy_out(dst, src);
            spin_unlock(src.add(offset).cast());
        }
    }
}

/// Takes a `struct bpf_spin_lock`: the word is 0 when free and 1 when held.
///
/// # Safety
/// `lock` is a 4-aligned lock word of a map value.
#[inline]
pub unsafe fn spin_lock(lock: *mut u32) {
    // SAFETY: 1. aligned and valid by the caller's promise; all accesses to it are atomic.
    let word = unsafe { AtomicU32::from_ptr(lock) };
    let mut backoff = Backoff::new();
    while word
        .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        backoff.wait();
    }
}

/// Releases a `struct bpf_spin_lock`.
///
/// # Safety
/// `lock` is a lock word that this thread holds.
#[inline]
pub unsafe fn spin_unlock(lock: *mut u32) {
    // SAFETY: 1. aligned and valid by the caller's promise.
    unsafe { AtomicU32::from_ptr(lock) }.store(0, Ordering::Release);
}
