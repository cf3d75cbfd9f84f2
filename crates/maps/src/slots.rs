//! `Slots`: an array of objects that programs read without a lock, replaced atomically and released after a grace period.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use ring3_sync::rcu;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use crate::array::index_of;
use crate::attr::{MapAttr, MapError};

/// An array of optional shared objects.
pub(crate) struct Slots<T: Send + Sync + 'static> {
    slots: Box<[AtomicPtr<T>]>,
}

impl<T: Send + Sync + 'static> Slots<T> {
    /// `max_entries` empty slots.
    pub(crate) fn new(attr: &MapAttr) -> Result<Self, MapError> {
        let oom = || attr.error(Errno::ENOMEM, format_args!("{} slots", attr.max_entries));
        if u64::from(attr.max_entries) * 8 >= crate::mem::host_memory_bytes() {
            return Err(oom());
        }
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(attr.max_entries as usize)
            .map_err(|_| oom())?;
        slots.resize_with(attr.max_entries as usize, AtomicPtr::default);
        Ok(Slots {
            slots: slots.into_boxed_slice(),
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The object of a slot, for as long as a read section lasts.
    #[inline]
    pub(crate) fn peek<'section>(
        &self,
        index: u32,
        _section: &'section rcu::Guard,
    ) -> Option<&'section T> {
        let object = self.slots.get(index as usize)?.load(Ordering::Acquire);
        // SAFETY: 1. null or from Arc::into_raw; 2. released only a grace period after it left the slot, and the section outlives the result.
        unsafe { object.as_ref() }
    }

    /// The object of a slot, as an address for programs; the caller is in a read section.
    #[inline]
    pub(crate) fn address(&self, index: u32) -> *mut T {
        self.slots
            .get(index as usize)
            .map_or(std::ptr::null_mut(), |slot| slot.load(Ordering::Acquire))
    }

    /// The object of a slot, to keep.
    pub(crate) fn get(&self, index: u32) -> Option<Arc<T>> {
        let _section = rcu::read();
        let object = self.address(index);
        if object.is_null() {
            return None;
        }
        // SAFETY: 1. from Arc::into_raw, and alive for the section; 2. the count is raised before the result owns one.
        unsafe {
            Arc::increment_strong_count(object);
            Some(Arc::from_raw(object))
        }
    }

    /// Whether a slot holds an object.
    pub(crate) fn is_set(&self, index: u32) -> bool {
        !self.address(index).is_null()
    }

    /// Replaces a slot's object; whether there was one before. `E2BIG` beyond the end.
    pub(crate) fn set(&self, index: u32, object: Option<Arc<T>>) -> Result<bool, Errno> {
        let slot = self.slots.get(index as usize).ok_or(Errno::E2BIG)?;
        let new = object.map_or(std::ptr::null_mut(), |object| {
            Arc::into_raw(object).cast_mut()
        });
        let old = slot.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return Ok(false);
        }
        // SAFETY: 1. from Arc::into_raw of `set`, and out of the slot now: ours alone.
        rcu::drop_rcu(unsafe { Arc::from_raw(old) });
        Ok(true)
    }

    /// `BPF_MAP_UPDATE_ELEM` of types that store descriptors and know no flags: `EINVAL` flags, `E2BIG` beyond the end, then what `resolve` says.
    pub(crate) fn update(
        &self,
        key: &[u8],
        flags: u64,
        resolve: impl FnOnce() -> Result<Arc<T>, Errno>,
    ) -> Result<(), Errno> {
        if flags != map_elem::ANY {
            return Err(Errno::EINVAL);
        }
        let index = index_of(key);
        if index >= self.len() {
            return Err(Errno::E2BIG);
        }
        self.set(index, Some(resolve()?)).map(drop)
    }

    /// `BPF_MAP_DELETE_ELEM`: `E2BIG` beyond the end, `ENOENT` empty.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        if self.set(index_of(key), None)? {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Empties the slots whose object `stays` says no to.
    pub(crate) fn retain(&self, stays: impl Fn(&T) -> bool) {
        for index in 0..self.len() {
            if self.get(index).is_some_and(|object| !stays(&object)) {
                // In range: cannot fail.
                let _ = self.set(index, None);
            }
        }
    }

    /// Empties all slots.
    pub(crate) fn clear(&self) {
        for index in 0..self.len() {
            // In range: cannot fail.
            let _ = self.set(index, None);
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.len() as u64 * 8
    }
}

impl<T: Send + Sync + 'static> Drop for Slots<T> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = (0..self.len()).filter_map(|index| Some((index, self.get(index)?)));
        f.debug_map().entries(set).finish()
    }
}
