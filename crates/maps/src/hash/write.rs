//! Updates and deletions of the table: one element's lock or one bucket's.

use std::sync::atomic::Ordering;

use ring3_sync::interleave::point;
use ring3_sync::percpu::current_cpu;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use super::key::{Key, store_key, with_key};
use super::pool::{ElemIdx, Pool, STATE_CONTENT, STATE_LIVE, STATE_SLOT, STATE_VERSION};
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
                    && self.replace::<K>(self.pool.element(idx), key, source, flags)?
                {
                    return Ok(());
                }
                // It is about to leave its place: whoever takes it out holds the bucket.
                self.bucket(hash).lock.lock().map_err(|_| Errno::EBUSY)?;
            }
        }
    }

    /// Replaces the value of the element at `element`, as [`Table::update`] does once it has found it; `None` where the whole way is to be gone.
    ///
    /// # Safety
    /// As [`Table::update`]; `element` is of the pool.
    #[inline]
    pub(super) unsafe fn update_found<K: Key>(
        &self,
        element: *mut u8,
        key: K::Loaded,
        source: Source,
        flags: u64,
    ) -> Option<Result<(), Errno>> {
        if flags & map_elem::NOEXIST != 0 {
            return None;
        }
        // SAFETY: 1. the caller's promise.
        match unsafe { self.replace::<K>(element, key, source, flags) } {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Gives a live element a new value; `false` if it is gone.
    #[inline]
    unsafe fn replace<K: Key>(
        &self,
        element: *mut u8,
        key: K::Loaded,
        source: Source,
        flags: u64,
    ) -> Result<bool, Errno> {
        // SAFETY: 1. the caller's promise; 2. under the element's lock nobody else writes its values and state.
        unsafe {
            let Some(content) = self.lock_live::<K>(element, key)? else {
                return Ok(false);
            };
            let mut new_content = content;
            let mut replaced = None;
            match (self.values, source) {
                (Values::Plain, Source::Program(value) | Source::Syscall(value)) => {
                    let current = self.pool.value_at(element, content & STATE_SLOT);
                    if flags & map_elem::LOCK != 0 {
                        self.copy.copy_in_locked(current, value);
                    } else {
                        self.copy.init(
                            self.pool
                                .value_at(element, content & STATE_SLOT ^ STATE_SLOT),
                            value,
                        );
                        new_content =
                            (content ^ STATE_SLOT).wrapping_add(STATE_VERSION) & STATE_CONTENT;
                        self.pool
                            .set_current(element, content & STATE_SLOT ^ STATE_SLOT);
                        replaced = Some(current);
                    }
                }
                (Values::Percpu, _) => {
                    self.store_percpu(self.pool.index_of(element), source, FillOthers::Keep)
                }
            }
            if self.lru {
                let reference = Pool::reference_at(element);
                if reference.load(Ordering::Relaxed) == 0 {
                    reference.store(1, Ordering::Relaxed);
                }
            }
            point();
            Pool::state_at(element).store(new_content, Ordering::Release);
            if let Some(old) = replaced {
                self.copy.release_fields(old);
            }
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
                            self.copy.copy_in(self.pool.percpu_value(idx, cpu), value);
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
                        self.copy
                            .copy_in(self.pool.percpu_value(idx, cpu), values.add(cpu * stride));
                    }
                }
            }
        }
    }

    /// Adds an element; `false` if the key came in meanwhile.
    unsafe fn insert<K: Key>(
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
        let Ok(_lock) = bucket.lock.lock() else {
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
        let Some(idx) = ready.or_else(|| self.pool.alloc()) else {
            if let Some(count) = &self.count {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            return Err(Errno::E2BIG);
        };
        // SAFETY: 1. the element is ours alone: out of the table and of the free lists; 2. the caller's promise.
        unsafe {
            store_key(self.pool.key(idx), key_ptr, self.key_bytes);
            match (self.values, source) {
                (Values::Plain, Source::Program(value) | Source::Syscall(value)) => {
                    let slot = self.pool.state(idx).load(Ordering::Relaxed) & STATE_SLOT;
                    self.copy.init(self.pool.value(idx, slot), value);
                    self.pool.set_current(self.pool.element(idx), slot);
                }
                (Values::Percpu, _) => self.store_percpu(idx, source, FillOthers::Zero),
            }
        }
        // Not live, so ours: nobody else writes the state.
        let state = self.pool.state(idx);
        state.store(
            state.load(Ordering::Relaxed) | STATE_LIVE,
            Ordering::Release,
        );
        if self.lru {
            self.pool.reference(idx).store(0, Ordering::Relaxed);
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

    /// `BPF_MAP_DELETE_ELEM` and its helper. `out` gets the value that was there.
    ///
    /// # Safety
    /// `key_ptr` is readable; the caller is in a read section.
    pub(crate) unsafe fn delete<K: Key>(
        &self,
        key_ptr: *const u8,
        out: Option<(&mut [u8], u64)>,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise, for all of the below.
        unsafe {
            let (key, hash) = self.load::<K>(key_ptr);
            let bucket = self.bucket(hash);
            let idx;
            let content;
            {
                let _lock = bucket.lock.lock().map_err(|_| Errno::EBUSY)?;
                let at;
                match self.find_placed::<K>(bucket, key, hash) {
                    Some((place, found)) => {
                        idx = found;
                        at = Position::Place(place);
                    }
                    None => {
                        idx = self.find::<K>(key, hash).ok_or(Errno::ENOENT)?;
                        at = self.position(bucket, idx).ok_or(Errno::ENOENT)?;
                    }
                }
                content = self.end_life(idx)?;
                point();
                if let Some((out, flags)) = out {
                    self.copy_value_out(idx, content, out, flags);
                }
                self.unlink(bucket, at, idx);
            }
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
