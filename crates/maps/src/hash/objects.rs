//! `ObjectTable`: a hash table of shared objects that programs look up without a lock.
//!
//! The table's values are addresses; beside it, under a lock that only writers and walks take, lies what keeps the objects alive. They are
//! released a grace period after they left the table. The lock knows its owner: a program that interrupts a writer of the same thread is refused
//! (`EBUSY`).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use ring3_sync::rcu;
use ring3_sync::spin::{OwnedGuard, OwnedMutex};
use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use super::create_table;
use super::key::with_key;
use super::table::{Source, Table};
use crate::attr::{MapAttr, MapError};

/// A table of objects by keys of the map's size.
pub(crate) struct ObjectTable<T: Send + Sync + 'static> {
    table: Table,
    kept: OwnedMutex<Kept<T>>,
}

/// What keeps the objects of a table alive.
type Kept<T> = BTreeMap<Vec<u8>, Arc<T>>;

impl<T: Send + Sync + 'static> ObjectTable<T> {
    /// An empty table with the attributes' key size, entries and flags.
    pub(crate) fn new(attr: &MapAttr) -> Result<Self, MapError> {
        let (table, _) = create_table(attr, size_of::<u64>())?;
        Ok(ObjectTable {
            table,
            kept: OwnedMutex::default(),
        })
    }

    /// The same, whose memory is used as objects come, with keys of `key_bytes`.
    pub(crate) fn sparse(
        attr: &MapAttr,
        key_bytes: u32,
        max_entries: u32,
    ) -> Result<Self, MapError> {
        let mut attr = attr.clone();
        attr.map_flags = map_create::NO_PREALLOC;
        (attr.key_size, attr.max_entries) = (key_bytes, max_entries);
        attr.record = None;
        ObjectTable::new(&attr)
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// `EBUSY`: this thread is writing already.
    fn kept(&self) -> Result<OwnedGuard<'_, Kept<T>>, Errno> {
        self.kept.lock().map_err(|_| Errno::EBUSY)
    }

    /// The address of a key's object, null if there is none.
    ///
    /// # Safety
    /// `key` is readable for the key size; the caller is in a read section for as long as it uses the object.
    #[inline]
    pub(crate) unsafe fn address(&self, key: *const u8) -> *mut T {
        // SAFETY: 1. the caller's promise; 2. values of this table are 8-aligned words that only `set` writes.
        unsafe {
            let found = with_key!(self.table, K => {
                let (key, hash) = self.table.load::<K>(key);
                self.table.find::<K>(key, hash)
            });
            match found {
                Some(idx) => {
                    AtomicPtr::from_ptr(self.table.value_ptr(idx).cast()).load(Ordering::Acquire)
                }
                None => std::ptr::null_mut(),
            }
        }
    }

    /// The object of a key, for as long as a read section lasts.
    #[inline]
    pub(crate) fn peek<'section>(
        &self,
        key: &[u8],
        _section: &'section rcu::Guard,
    ) -> Option<&'section T> {
        debug_assert_eq!(key.len(), self.table.key_bytes);
        // SAFETY: 1. the slice has the key's size; 2. released only a grace period after it left the table, and the section outlives the result.
        unsafe { self.address(key.as_ptr()).as_ref() }
    }

    /// The object of a key, to keep.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<T>> {
        let section = rcu::read();
        let object = std::ptr::from_ref(self.peek(key, &section)?);
        // SAFETY: 1. the address is that of an object in an Arc, which is alive for the section; 2. the count is raised before the result owns one.
        unsafe {
            Arc::increment_strong_count(object);
            Some(Arc::from_raw(object))
        }
    }

    /// Gives a key an object. `EEXIST` and `ENOENT` by flags, `E2BIG`: full.
    pub(crate) fn set(&self, key: &[u8], object: Arc<T>, flags: u64) -> Result<(), Errno> {
        let mut kept = self.kept()?;
        let pointer = Arc::as_ptr(&object);
        {
            let _section = rcu::read();
            let source = Source::Syscall((&raw const pointer).cast());
            // SAFETY: 1. the slice has the key's size, the value is a word.
            with_key!(self.table, K => unsafe { self.table.update::<K>(key.as_ptr(), source, flags)? });
        }
        let old = kept.insert(key.to_vec(), object);
        drop(kept);
        release(old);
        Ok(())
    }

    /// Takes a key's object out. `ENOENT`: there is none.
    pub(crate) fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let mut kept = self.kept()?;
        self.unlink(key)?;
        let old = kept.remove(key);
        drop(kept);
        release(old);
        Ok(())
    }

    fn unlink(&self, key: &[u8]) -> Result<(), Errno> {
        let _section = rcu::read();
        // SAFETY: 1. the slice has the key's size.
        with_key!(self.table, K => unsafe { self.table.delete::<K>(key.as_ptr()) })
    }

    /// Takes out all objects that `stays` says no to. `EBUSY`: this thread is writing already.
    pub(crate) fn retain(&self, stays: impl Fn(&T) -> bool) -> Result<(), Errno> {
        let mut kept = self.kept()?;
        let gone: Vec<_> = kept.extract_if(.., |_, object| !stays(object)).collect();
        for (key, _) in &gone {
            // It was kept, so it is there.
            let _ = self.unlink(key);
        }
        drop(kept);
        release(Some(gone));
        Ok(())
    }

    /// All objects, by key. `EBUSY`: this thread is writing.
    pub(crate) fn all(&self) -> Result<Vec<Arc<T>>, Errno> {
        Ok(self.kept()?.values().cloned().collect())
    }

    /// Objects of a sparse table.
    pub(crate) fn len(&self) -> u32 {
        let count = self.table.count.as_ref();
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.peek(key, &rcu::read()).is_some()
    }

    /// The key after `key`, the first one for none. `ENOENT`: the end. `EBUSY`: this thread is writing.
    pub(crate) fn key_after(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let kept = self.kept()?;
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let next = kept.range::<[u8], _>((from, Bound::Unbounded)).next();
        next.map(|(key, _)| key.clone()).ok_or(Errno::ENOENT)
    }
}

/// A program may be looking at it right now.
fn release<T: Send + 'static>(old: Option<T>) {
    if let Some(old) = old {
        rcu::drop_rcu(old);
    }
}

impl<T: Send + Sync + 'static> Drop for ObjectTable<T> {
    fn drop(&mut self) {
        let kept = std::mem::take(self.kept.get_mut());
        release((!kept.is_empty()).then_some(kept));
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for ObjectTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kept.fmt(f)
    }
}
