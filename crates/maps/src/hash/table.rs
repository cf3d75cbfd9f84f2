//! The concurrent table: buckets of one cache line, look-ups without locks, updates that lock one element or one bucket.
//!
//! ```text
//! bucket    | 8 tags of a byte | 8 element indices | overflow link | lock | seq | spare | ends |      64 bytes
//! tag       the hash's highest byte, made odd; 0 marks an empty place
//! ```
//!
//! Look-up: compare all tags at once, compare the key of each element whose tag fits, then the overflow chain. An element stays in its place as
//! long as it is in the table (replacing a value writes the element's other value slot and flips a bit), so a look-up of a key that is there throughout
//! finds it. Only chains move: from a chain to a freed place (first in, then `seq`, then out) and by deletion (out, then `seq`, then
//! reuse); a look-up that went through a chain in vain tries again if `seq` has changed.
//!
//! Locks: a bucket's before an element's; never two buckets. Both know their owner, so that the same thread is refused (`EBUSY`); see
//! [`super::lock`]. Deleting ends an element's life before it leaves its place.
//!
//! Spares: a bucket keeps the element that was last deleted in it for its next insertion, so that the two touch no free list. When the map has run
//! full once, all spares are collected and none are kept any more ([`super::spare`]).
//!
//! Neighbours: [`super::write`] updates and deletes, [`super::evict`] is the LRU part, [`super::walk`] what system calls need.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ring3_os::map::{Prot, Region};
use ring3_sync::interleave::point;
use ring3_sync::percpu::current_cpu;
use ring3_sync::spin::OwnedSpin;
use ring3_uapi::Errno;

use super::key::{Key, KeyKind};
use super::pool::{ElemIdx, KEY_OFFSET, Pool, PoolConfig};
use super::spare::Spares;
use super::state::State;
use crate::fields::ValueCopy;

/// Places of a bucket.
pub(crate) const PLACES: usize = 8;
/// Times that a look-up restarts because chains moved under it.
pub(super) const RESTARTS_MAX: u32 = 1000;

/// A bucket.
#[repr(C, align(64))]
pub(super) struct Bucket {
    pub(super) tags: AtomicU64,
    pub(super) elems: [AtomicU32; PLACES],
    pub(super) overflow: AtomicU32,
    pub(super) lock: OwnedSpin,
    pub(super) seq: AtomicU32,
    /// Link of an element that is out of the table and kept for this bucket; 0: none. Under the lock.
    pub(super) spare: AtomicU32,
    /// Elements that ended their life here ([`super::lock`]).
    pub(super) ends: AtomicU32,
    _pad: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    #[inline(always)]
    pub(super) fn tag(&self, place: usize) -> u8 {
        (self.tags.load(Ordering::Acquire) >> (place * 8)) as u8
    }

    /// A place without an element. Under the lock.
    pub(super) fn free_place(&self) -> Option<usize> {
        let free = match_tags(self.tags.load(Ordering::Relaxed), 0);
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    /// Under the lock.
    pub(super) fn set_tag(&self, place: usize, tag: u8) {
        let shift = place * 8;
        let old = self.tags.load(Ordering::Relaxed);
        self.tags.store(
            old & !(0xff << shift) | u64::from(tag) << shift,
            Ordering::Release,
        );
    }

    /// Whether elements lie in an overflow chain.
    #[inline(always)]
    pub(super) fn has_chain(&self) -> bool {
        self.overflow.load(Ordering::Relaxed) != 0
    }

    /// Under the lock.
    #[inline(always)]
    pub(super) fn count_end(&self) {
        let ends = self.ends.load(Ordering::Relaxed);
        self.ends.store(ends.wrapping_add(1), Ordering::Release);
    }

    /// Under the lock.
    pub(super) fn bump_seq(&self) {
        self.seq.store(
            self.seq.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
        fence(Ordering::Release);
    }
}

/// A bit for each place whose tag is `tag`.
#[inline(always)]
fn match_tags(tags: u64, tag: u8) -> u32 {
    const EVERY_BYTE: u64 = 0x0101_0101_0101_0101;
    let wanted = u64::from(tag) * EVERY_BYTE;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_cvtsi64_si128, _mm_movemask_epi8};
        // SAFETY: 1. SSE2 is part of x86-64.
        let mask = unsafe {
            let equal = _mm_cmpeq_epi8(
                _mm_cvtsi64_si128(tags as i64),
                _mm_cvtsi64_si128(wanted as i64),
            );
            _mm_movemask_epi8(equal) as u32
        };
        // The upper eight lanes compared zero with zero.
        mask & 0xff
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let differ = tags ^ wanted;
        (0..PLACES as u32)
            .filter(|place| (differ >> (place * 8)) as u8 == 0)
            .fold(0, |mask, place| mask | 1 << place)
    }
}

/// What kind of values a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// One value an element.
    Plain,
    /// One a CPU.
    Percpu,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// A program: one value, of this CPU.
    Program(*const u8),
    /// A system call: the values of all CPUs for per-CPU tables.
    Syscall(*const u8),
}

/// A hash table.
pub(crate) struct Table {
    pub(super) buckets: *const Bucket,
    pub(super) mask: u64,
    pub(super) seed: u64,
    pub(crate) key_bytes: usize,
    /// How keys are treated: all users of one table must agree.
    pub(crate) key_kind: KeyKind,
    pub(crate) pool: Pool,
    pub(crate) values: Values,
    pub(crate) lru: bool,
    /// One value an element, without special fields.
    pub(super) is_simple: bool,
    /// Whether buckets keep spares.
    pub(super) spares: Spares,
    pub(super) partitioned: bool,
    pub(crate) copy: ValueCopy,
    /// Elements in the table of a map that is not preallocated, whose pool is larger than `max_entries`.
    pub(super) count: Option<AtomicU32>,
    pub(super) max_entries: u32,
    /// Hands of the eviction clocks: one, or one a CPU.
    pub(super) hands: Vec<AtomicU32>,
    _buckets: Region,
}

// SAFETY: 1. the pointers lead into regions that the table owns; 2. their content is accessed atomically.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("buckets", &(self.mask + 1))
            .field("elements", &self.pool.elements())
            .finish_non_exhaustive()
    }
}

#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u8 {
    (hash >> 56) as u8 | 1
}

impl Table {
    pub(crate) fn new(
        config: &PoolConfig,
        max_entries: u32,
        seed: u64,
        copy: ValueCopy,
    ) -> Result<Table, Errno> {
        let buckets = u64::from(max_entries).next_power_of_two().div_ceil(4);
        let region = Region::anonymous(
            (buckets as usize).checked_mul(64).ok_or(Errno::ENOMEM)?,
            Prot::ReadWrite,
        )?;
        if region.len_bytes() >= 4 << 20 && !config.deferred {
            region.advise_huge();
        }
        let pool = Pool::new(config)?;
        if config.partitioned {
            pool.fill_partitions();
        }
        let hands = if config.partitioned {
            ring3_os::cpu::possible_cpus()
        } else {
            1
        };
        Ok(Table {
            buckets: region.as_ptr().cast(),
            mask: buckets - 1,
            seed,
            key_bytes: config.key_bytes,
            key_kind: config.key_kind,
            values: if config.percpu {
                Values::Percpu
            } else {
                Values::Plain
            },
            lru: config.lru,
            is_simple: !config.percpu && !copy.has_fields(),
            spares: Spares::new(!config.lru && !config.deferred && !copy.has_fields()),
            partitioned: config.partitioned,
            copy,
            count: config.deferred.then(AtomicU32::default),
            max_entries,
            hands: (0..hands).map(|_| AtomicU32::new(0)).collect(),
            pool,
            _buckets: region,
        })
    }

    pub(crate) fn bucket_count(&self) -> u64 {
        self.mask + 1
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.pool.bytes() + self.bucket_count() * 64
    }

    #[inline(always)]
    pub(super) fn bucket(&self, hash: u64) -> &Bucket {
        self.bucket_at(hash & self.mask)
    }

    #[inline(always)]
    pub(super) fn bucket_at(&self, index: u64) -> &Bucket {
        debug_assert!(index <= self.mask);
        // SAFETY: 1. the region holds mask + 1 buckets; 2. zeroed memory is a valid empty bucket; 3. all fields are atomics.
        unsafe { &*self.buckets.add(index as usize) }
    }

    /// # Safety
    /// As [`Key::load`].
    #[inline(always)]
    pub(crate) unsafe fn load<K: Key>(&self, key: *const u8) -> (K::Loaded, u64) {
        // SAFETY: 1. the caller's promise.
        unsafe {
            let key = K::load(key, self.key_bytes);
            (key, K::hash(key, self.seed))
        }
    }

    /// The element with a key.
    ///
    /// # Safety
    /// The key is still readable.
    #[inline(always)]
    pub(crate) unsafe fn find<K: Key>(&self, key: K::Loaded, hash: u64) -> Option<ElemIdx> {
        let bucket = self.bucket(hash);
        // SAFETY: 1. the caller's promise.
        let found = unsafe { self.find_placed::<K>(bucket, key, hash) };
        if found.is_some() || bucket.overflow.load(Ordering::Relaxed) == 0 {
            return found.map(|(_, idx)| idx);
        }
        // SAFETY: 1. the caller's promise.
        unsafe { self.find_in_chain::<K>(bucket, key, hash) }
    }

    #[inline(always)]
    pub(super) unsafe fn find_placed<K: Key>(
        &self,
        bucket: &Bucket,
        key: K::Loaded,
        hash: u64,
    ) -> Option<(usize, ElemIdx)> {
        let mut mask = match_tags(bucket.tags.load(Ordering::Acquire), tag_of(hash));
        while mask != 0 {
            let place = mask.trailing_zeros() as usize;
            point();
            let idx = ElemIdx(bucket.elems[place & (PLACES - 1)].load(Ordering::Acquire));
            point();
            // SAFETY: 1. indices in buckets are always of elements of the pool.
            if unsafe { K::eq(self.pool.key(idx), key) } {
                return Some((place, idx));
            }
            mask &= mask - 1;
        }
        None
    }

    #[cold]
    unsafe fn find_in_chain<K: Key>(
        &self,
        bucket: &Bucket,
        key: K::Loaded,
        hash: u64,
    ) -> Option<ElemIdx> {
        for _ in 0..RESTARTS_MAX {
            let seq = bucket.seq.load(Ordering::Acquire);
            // SAFETY: 1. the caller's promise.
            if let Some((_, idx)) = unsafe { self.find_placed::<K>(bucket, key, hash) } {
                return Some(idx);
            }
            point();
            let mut link = bucket.overflow.load(Ordering::Acquire);
            let mut steps = 0;
            while let Some(idx) = ElemIdx::from_link(link) {
                // SAFETY: 1. links are always of elements of the pool.
                if unsafe { K::eq(self.pool.key(idx), key) }
                    && self.pool.state(idx).load(Ordering::Acquire).is_live()
                {
                    return Some(idx);
                }
                point();
                link = self.pool.next(idx).load(Ordering::Acquire);
                steps += 1;
                // An element that was taken out leads anywhere; a chain never has more elements than the pool.
                if steps > self.pool.elements() || bucket.seq.load(Ordering::Relaxed) != seq {
                    break;
                }
            }
            fence(Ordering::Acquire);
            if bucket.seq.load(Ordering::Relaxed) == seq {
                return None;
            }
        }
        None
    }

    /// The value that a program sees.
    #[inline(always)]
    pub(crate) fn value_ptr(&self, idx: ElemIdx) -> *mut u8 {
        match self.values {
            // SAFETY: 1. an element of the pool.
            Values::Plain => unsafe { Pool::current_value(self.pool.element(idx)) },
            Values::Percpu => self.pool.percpu_value(idx, current_cpu()),
        }
    }

    /// Calls `found` with the element of a key, by address and index, or `missing` if it is in no place of its bucket.
    ///
    /// # Safety
    /// As [`Table::find`].
    #[inline(always)]
    pub(super) unsafe fn find_direct<K: Key, R>(
        &self,
        key: K::Loaded,
        hash: u64,
        found: impl FnOnce(&Bucket, *mut u8, ElemIdx) -> R,
        missing: impl FnOnce(&Bucket) -> R,
    ) -> R {
        let bucket = self.bucket(hash);
        let mut mask = match_tags(bucket.tags.load(Ordering::Acquire), tag_of(hash));
        while mask != 0 {
            let place = mask.trailing_zeros() as usize;
            point();
            let idx = ElemIdx(bucket.elems[place & (PLACES - 1)].load(Ordering::Acquire));
            point();
            let element = self.pool.element(idx);
            // SAFETY: 1. indices in buckets are always of elements of the pool.
            if unsafe { K::eq(element.wrapping_add(KEY_OFFSET), key) } {
                point();
                return found(bucket, element, idx);
            }
            mask &= mask - 1;
        }
        missing(bucket)
    }

    /// Releases everything that the values own, those included that programs filled after their element had gone; nobody uses the table any more.
    pub(crate) fn release_all(&mut self) {
        if !self.copy.has_fields() {
            return;
        }
        for idx in (0..self.pool.elements()).map(ElemIdx) {
            let content = self.pool.state(idx).load(Ordering::Relaxed);
            if content.was_used() {
                // SAFETY: 1. `&mut self`: nobody else uses the values; 2. released fields are zero.
                unsafe { self.release_fields(idx, content) };
                if self.values == Values::Plain {
                    // SAFETY: as above.
                    unsafe { self.release_fields(idx, content.with_other_slot()) };
                }
            }
        }
    }

    /// Releases the timers and work items of all values.
    pub(crate) fn release_callbacks(&self) {
        // Per-CPU values have none.
        if self.values != Values::Plain || !self.copy.has_callbacks() {
            return;
        }
        for idx in (0..self.pool.elements()).map(ElemIdx) {
            if self.pool.state(idx).load(Ordering::Relaxed).was_used() {
                for slot in 0..2 {
                    // SAFETY: 1. both are values of this table, which stay mapped.
                    unsafe { self.copy.release_callbacks(self.pool.value(idx, slot)) };
                }
            }
        }
    }

    /// Releases what an element's values own.
    ///
    /// # Safety
    /// The element is of the pool and out of the table, or the table is going.
    pub(super) unsafe fn release_fields(&self, idx: ElemIdx, content: State) {
        if !self.copy.has_fields() {
            return;
        }
        // SAFETY: 1. the caller's promise: the values are of this table.
        unsafe {
            match self.values {
                Values::Plain => self
                    .copy
                    .release_fields(self.pool.value(idx, content.slot())),
                Values::Percpu => {
                    for cpu in 0..ring3_os::cpu::possible_cpus() {
                        self.copy.release_fields(self.pool.percpu_value(idx, cpu));
                    }
                }
            }
        }
    }
}
