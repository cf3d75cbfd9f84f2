//! Updates and deletions of the table: one element's lock or one bucket's.

use std::sync::atomic::Ordering;

use ring3_sync::interleave::point;
use ring3_sync::percpu::current_cpu;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use super::key::{Key, store_key, with_key};
use super::pool::{ElemIdx, KEY_OFFSET, Pool};
use super::state::State;
use super::table::{Bucket, PLACES, Source, Table, Values, tag_of};
use crate::mem;

impl Table {
    /// `BPF_MAP_UPDATE_ELEM` and its helper.
    ///
    /// # Safety
    /// `key_ptr` and the source are readable for their sizes; the caller is in a read section.
    pub(crate) unsafe fn update<K: Key>(
        &self,
        key_ptr: *const u8,
        source: Source,
        flags: u64,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise, for all of the below.
        unsafe {
            let (key, hash) = self.load::<K>(key_ptr);
            self.update_loaded::<K>(key_ptr, key, hash, source, flags)
        }
    }

    /// [`Table::update`] of a key in hand.
    ///
    /// # Safety
    /// As [`Table::update`].
    pub(super) unsafe fn update_loaded<K: Key>(
        &self,
        key_ptr: *const u8,
        key: K::Loaded,
        hash: u64,
        source: Source,
        flags: u64,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise, for all of the below.
        unsafe {
            let bucket = self.bucket(hash);
            // Each round that fails saw another thread succeed.
            loop {
                let Some(idx) = self.find::<K>(key, hash) else {
                    if flags & map_elem::EXIST != 0 {
                        return Err(Errno::ENOENT);
                    }
                    if self.insert::<K>(key_ptr, key, hash, source)? {
                        return Ok(());
                    }
                    continue;
                };
                if flags & map_elem::NOEXIST != 0 && self.is_live(idx) {
                    return Err(Errno::EEXIST);
                }
                if flags & map_elem::NOEXIST == 0
                    && self.replace::<K>(bucket, self.pool.element(idx), key, source, flags)?
                {
                    return Ok(());
                }
                // It is about to leave its place: whoever takes it out holds the bucket.
                bucket.lock.lock().map_err(|_| Errno::EBUSY)?;
            }
        }
    }

    /// Gives a live element of a table of plain values a new one; `false` where the whole way is to be gone: it is busy or no longer this key's.
    ///
    /// # Safety
    /// As [`Table::update`]; `element` is of the pool, `value` readable for the value's size, [`Table::is_simple`].
    #[inline(always)]
    pub(super) unsafe fn replace_simple<K: Key>(
        &self,
        bucket: &Bucket,
        element: *mut u8,
        key: K::Loaded,
        value: *const u8,
    ) -> bool {
        debug_assert!(self.is_simple);
        // SAFETY: 1. the caller's promise; 2. under the element's lock nobody else writes its values and state.
        unsafe {
            let Some(seen) = self.try_lock_live::<K>(bucket, element, key) else {
                return false;
            };
            let target = self.pool.value_at(element, seen.other_slot());
            mem::copy_words(target, value, self.copy.value_bytes);
            self.pool.set_current(element, seen.other_slot());
            point();
            self.unlock_as(element, seen.with_other_slot().next_version());
        }
        true
    }

    /// Lets go of an element's lock, with its new state.
    ///
    /// # Safety
    /// `element` is of the pool, and the caller holds its lock.
    #[inline(always)]
    unsafe fn unlock_as(&self, element: *mut u8, state: State) {
        let state = if self.lru {
            state.with_reference()
        } else {
            state
        };
        // SAFETY: 1. the caller's promise.
        unsafe { Pool::state_at(element).store(state, Ordering::Release) };
    }

    /// Gives a live element a new value; `false` if it is gone.
    unsafe fn replace<K: Key>(
        &self,
        bucket: &Bucket,
        element: *mut u8,
        key: K::Loaded,
        source: Source,
        flags: u64,
    ) -> Result<bool, Errno> {
        // SAFETY: 1. the caller's promise; 2. under the element's lock nobody else writes its values and state.
        unsafe {
            let Some(seen) = self.lock_live::<K>(bucket, element, key)? else {
                return Ok(false);
            };
            let mut new = seen.content();
            let mut replaced = None;
            match (self.values, source) {
                (Values::Plain, Source::Program(value) | Source::Syscall(value)) => {
                    let current = self.pool.value_at(element, seen.slot());
                    if flags & map_elem::LOCK != 0 {
                        self.copy.copy_in_locked(current, value);
                    } else {
                        let other = self.pool.value_at(element, seen.other_slot());
                        self.copy.renew(other, value);
                        self.pool.set_current(element, seen.other_slot());
                        new = seen.with_other_slot().next_version();
                        replaced = Some(current);
                    }
                }
                (Values::Percpu, _) => {
                    self.store_percpu(self.pool.index_of(element), source, FillOthers::Keep)
                }
            }
            // Under the lock: the next replacement writes the slot that is old now.
            if let Some(old) = replaced {
                self.copy.release_fields(old);
            }
            point();
            self.unlock_as(element, new);
        }
        Ok(true)
    }

    unsafe fn store_percpu(&self, idx: ElemIdx, source: Source, others: FillOthers) {
        let cpus = ring3_os::cpu::possible_cpus();
        // SAFETY: 1. CPUs below the possible ones; 2. sources hold the sizes that their kind demands.
        unsafe {
            match source {
                Source::Program(value) => {
                    let this = current_cpu();
                    for cpu in 0..cpus {
                        if cpu == this {
                            let own = self.pool.percpu_value(idx, cpu);
                            self.copy.copy_in(own, value);
                            self.copy.release_fields(own);
                        } else if others == FillOthers::Zero {
                            mem::zero_bytes(
                                self.pool.percpu_value(idx, cpu),
                                self.copy.value_bytes,
                            );
                        }
                    }
                }
                Source::Syscall(values) => {
                    let stride = mem::round_up_8(self.copy.value_bytes);
                    for cpu in 0..cpus {
                        let own = self.pool.percpu_value(idx, cpu);
                        self.copy.copy_in(own, values.add(cpu * stride));
                        self.copy.release_fields(own);
                    }
                }
            }
        }
    }

    /// Adds an element; `false` if the key came in meanwhile or there may be room now.
    pub(super) unsafe fn insert<K: Key>(
        &self,
        key_ptr: *const u8,
        key: K::Loaded,
        hash: u64,
        source: Source,
    ) -> Result<bool, Errno> {
        // An LRU element may have to be taken out of another bucket, so before this one is locked. All others are taken under the lock: a
        // thread that finds the key in place after all has then taken none away from others.
        let mut ready = None;
        if self.lru {
            // SAFETY: 1. the caller's promise.
            ready = unsafe { self.alloc::<K>() };
            if ready.is_none() {
                return Err(Errno::E2BIG);
            }
        }
        let bucket = self.bucket(hash);
        self.prefetch_spare(bucket);
        let Ok(lock) = bucket.lock.lock() else {
            ready.inspect(|idx| self.pool.free_now(*idx));
            return Err(Errno::EBUSY);
        };
        // SAFETY: 1. the caller's promise.
        if unsafe { self.find::<K>(key, hash) }.is_some() {
            ready.inspect(|idx| self.pool.free_now(*idx));
            return Ok(false);
        }
        if let Some(count) = &self.count {
            let within = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.max_entries).then(|| count + 1)
            });
            within.map_err(|_| Errno::E2BIG)?;
        }
        let idx = ready.or_else(|| self.take_spare(bucket));
        let Some(idx) = idx.or_else(|| self.pool.alloc()) else {
            if let Some(count) = &self.count {
                count.fetch_sub(1, Ordering::Relaxed);
                return Err(Errno::ENOMEM);
            }
            drop(lock);
            return if self.collect_spares() {
                Ok(false)
            } else {
                Err(Errno::E2BIG)
            };
        };
        let element = self.pool.element(idx);
        // SAFETY: 1. the element is ours alone: out of the table and of the free lists, not live, so nobody else writes its state; 2. the caller's
        // promise.
        unsafe {
            store_key(element.wrapping_add(KEY_OFFSET), key_ptr, self.key_bytes);
            let state = Pool::state_at(element);
            let seen = state.load(Ordering::Relaxed);
            match (self.values, source) {
                (Values::Plain, Source::Program(value) | Source::Syscall(value)) => {
                    let slot = seen.slot();
                    self.copy.renew(self.pool.value_at(element, slot), value);
                    self.pool.set_current(element, slot);
                }
                (Values::Percpu, _) => self.store_percpu(idx, source, FillOthers::Zero),
            }
            state.store(seen.begun(), Ordering::Release);
        }
        match bucket.free_place() {
            Some(place) => {
                bucket.elems[place].store(idx.0, Ordering::Release);
                point();
                bucket.set_tag(place, tag_of(hash));
            }
            None => {
                self.pool
                    .next(idx)
                    .store(bucket.overflow.load(Ordering::Relaxed), Ordering::Relaxed);
                bucket.overflow.store(idx.link(), Ordering::Release);
            }
        }
        Ok(true)
    }

    /// `BPF_MAP_DELETE_ELEM` and its helper.
    ///
    /// # Safety
    /// `key_ptr` is readable; the caller is in a read section.
    #[inline(always)]
    pub(crate) unsafe fn delete<K: Key>(&self, key_ptr: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.take_out::<K>(key_ptr, |_, _| {}) }
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`: `out` gets the value that was there.
    ///
    /// # Safety
    /// As [`Table::delete`]; `out` has the size of a value in system calls.
    pub(crate) unsafe fn delete_into<K: Key>(
        &self,
        key_ptr: *const u8,
        out: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise; 2. the element's life has ended, so nobody writes its value.
        unsafe {
            self.take_out::<K>(key_ptr, |idx, content| {
                self.copy_value_out(idx, content, out, flags);
            })
        }
    }

    /// Takes a key's element out of the table; `seen` is called with it and its last state, while it still belongs to the caller.
    #[inline(always)]
    unsafe fn take_out<K: Key>(
        &self,
        key_ptr: *const u8,
        seen: impl FnOnce(ElemIdx, State),
    ) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise, for all of the below.
        unsafe {
            let (key, hash) = self.load::<K>(key_ptr);
            let bucket = self.bucket(hash);
            let (idx, content) = {
                let _lock = bucket.lock.lock().map_err(|_| Errno::EBUSY)?;
                let (at, idx) = match self.find_placed::<K>(bucket, key, hash) {
                    Some((place, idx)) => (Position::Place(place), idx),
                    None => {
                        let idx = self.find::<K>(key, hash).ok_or(Errno::ENOENT)?;
                        (self.position(bucket, idx).ok_or(Errno::ENOENT)?, idx)
                    }
                };
                let content = self.end_life(bucket, idx)?;
                point();
                seen(idx, content);
                self.unlink(bucket, at, idx);
                if self.keep_spare(bucket, hash, idx) {
                    return Ok(());
                }
                (idx, content)
            };
            self.release_fields(idx, content);
            if let Some(count) = &self.count {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            self.pool.free(idx);
        }
        Ok(())
    }

    /// Where a bucket holds an element. Under the bucket's lock.
    pub(super) fn position(&self, bucket: &Bucket, idx: ElemIdx) -> Option<Position> {
        let place = (0..PLACES).find(|place| {
            bucket.tag(*place) != 0 && bucket.elems[*place].load(Ordering::Relaxed) == idx.0
        });
        if let Some(place) = place {
            return Some(Position::Place(place));
        }
        let mut before = None;
        let mut link = bucket.overflow.load(Ordering::Relaxed);
        while let Some(at) = ElemIdx::from_link(link) {
            if at == idx {
                return Some(Position::Chain { before });
            }
            before = Some(at);
            link = self.pool.next(at).load(Ordering::Relaxed);
        }
        None
    }

    /// Takes an element out of its bucket. Under the locks of both.
    pub(super) fn unlink(&self, bucket: &Bucket, at: Position, idx: ElemIdx) {
        match at {
            Position::Place(place) => {
                bucket.set_tag(place, 0);
                point();
                // An element of the chain takes the place: first in, then the sign, then out.
                if let Some(first) = ElemIdx::from_link(bucket.overflow.load(Ordering::Relaxed)) {
                    let tag = self.tag_of_element(first);
                    bucket.elems[place].store(first.0, Ordering::Release);
                    point();
                    bucket.set_tag(place, tag);
                    point();
                    bucket.bump_seq();
                    bucket.overflow.store(
                        self.pool.next(first).load(Ordering::Relaxed),
                        Ordering::Release,
                    );
                }
            }
            Position::Chain { before } => {
                let next = self.pool.next(idx).load(Ordering::Relaxed);
                match before {
                    None => bucket.overflow.store(next, Ordering::Release),
                    Some(before) => self.pool.next(before).store(next, Ordering::Release),
                }
                bucket.bump_seq();
            }
        }
    }

    fn tag_of_element(&self, idx: ElemIdx) -> u8 {
        let key = self.pool.key(idx);
        // SAFETY: 1. elements in the table have stable keys of key_bytes.
        tag_of(with_key!(self, K => unsafe { self.load::<K>(key).1 }))
    }
}

/// What happens to the values of the other CPUs when a program writes its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FillOthers {
    Keep,
    Zero,
}

/// Where a bucket holds an element.
#[derive(Clone, Copy, Debug)]
pub(super) enum Position {
    Place(usize),
    Chain { before: Option<ElemIdx> },
}
