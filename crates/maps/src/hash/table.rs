//! The concurrent table: buckets of one cache line, look-ups without locks, updates that lock one element or one bucket.
//!
//! ```text
//! bucket    | 8 tags of 16 bits | 8 element indices | overflow link | lock | seq |        64 bytes
//! tag       15 bits of the hash, shifted left, and 1; 0 marks an empty place
//! ```
//!
//! Look-up: compare all tags at once, compare the key of each element whose tag fits, then the overflow chain. An element stays in its place as
//! long as it is in the table (replacing a value writes the element's other value slot and flips a bit), so a look-up of a key that is there throughout
//! finds it. Only chains move: from a chain to a freed place (first in, then `seq`, then out) and by deletion (out, then `seq`, then
//! reuse); a look-up that went through a chain in vain tries again if `seq` has changed.
//!
//! Locks: a bucket's before an element's; never two buckets. Both know their owner, so that the same thread is refused (`EBUSY`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ring3_os::map::{Prot, Region};
use ring3_sync::percpu::current_cpu;
use ring3_sync::rcu;
use ring3_sync::spin::{Backoff, OwnedSpin};
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use super::key::{Key, KeyKind, store_key, with_key};
use super::pool::{
    ElemIdx, Pool, PoolConfig, STATE_CONTENT, STATE_LIVE, STATE_OWNER_SHIFT, STATE_SLOT,
    STATE_VERSION,
};
use crate::fields::ValueCopy;
use crate::mem;

/// Places of a bucket.
pub(crate) const PLACES: usize = 8;
/// Times that a look-up restarts because chains moved under it.
const RESTARTS_MAX: u32 = 1000;

/// A bucket.
#[repr(C, align(64))]
struct Bucket {
    tags: [AtomicU64; 2],
    elems: [AtomicU32; PLACES],
    overflow: AtomicU32,
    lock: OwnedSpin,
    seq: AtomicU32,
    _pad: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    #[inline(always)]
    fn tag(&self, place: usize) -> u16 {
        (self.tags[place / 4].load(Ordering::Acquire) >> (place % 4 * 16)) as u16
    }

    /// Under the lock.
    fn set_tag(&self, place: usize, tag: u16) {
        let word = &self.tags[place / 4];
        let shift = place % 4 * 16;
        let old = word.load(Ordering::Relaxed);
        word.store(
            old & !(0xffff << shift) | u64::from(tag) << shift,
            Ordering::Release,
        );
    }

    fn bump_seq(&self) {
        self.seq.store(
            self.seq.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
        fence(Ordering::Release);
    }
}

/// Two bits for each place whose tag is `tag`.
#[inline(always)]
fn match_tags(words: [u64; 2], tag: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi16,
        };
        // SAFETY: 1. SSE2 is part of x86-64.
        unsafe {
            let tags = _mm_set_epi64x(words[1] as i64, words[0] as i64);
            _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16))) as u32
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        (0..PLACES)
            .filter(|place| (words[place / 4] >> (place % 4 * 16)) as u16 == tag)
            .fold(0, |mask, place| mask | 3 << (place * 2))
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
    buckets: *const Bucket,
    mask: u64,
    seed: u64,
    pub(crate) key_bytes: usize,
    /// How keys are treated: all users of one table must agree.
    pub(crate) key_kind: KeyKind,
    pub(crate) pool: Pool,
    pub(crate) values: Values,
    pub(crate) lru: bool,
    partitioned: bool,
    pub(crate) copy: ValueCopy,
    /// Elements in the table of a map that is not preallocated, whose pool is larger than `max_entries`.
    count: Option<AtomicU32>,
    max_entries: u32,
    /// Hands of the eviction clocks: one, or one a CPU.
    hands: Vec<AtomicU32>,
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
fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
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
        if region.len_bytes() >= 4 << 20 {
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
    fn bucket(&self, hash: u64) -> &Bucket {
        self.bucket_at(hash & self.mask)
    }

    #[inline(always)]
    fn bucket_at(&self, index: u64) -> &Bucket {
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
    unsafe fn find_placed<K: Key>(
        &self,
        bucket: &Bucket,
        key: K::Loaded,
        hash: u64,
    ) -> Option<(usize, ElemIdx)> {
        let tags = [
            bucket.tags[0].load(Ordering::Acquire),
            bucket.tags[1].load(Ordering::Acquire),
        ];
        let mut mask = match_tags(tags, tag_of(hash));
        while mask != 0 {
            let place = mask.trailing_zeros() as usize / 2;
            let idx = ElemIdx(bucket.elems[place & (PLACES - 1)].load(Ordering::Acquire));
            // SAFETY: 1. indices in buckets are always of elements of the pool.
            if unsafe { K::eq(self.pool.key(idx), key) } {
                return Some((place, idx));
            }
            mask &= !(3 << (place * 2));
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
            let mut link = bucket.overflow.load(Ordering::Acquire);
            let mut steps = 0;
            while let Some(idx) = ElemIdx::from_link(link) {
                // SAFETY: 1. links are always of elements of the pool.
                if unsafe { K::eq(self.pool.key(idx), key) }
                    && self.pool.state(idx).load(Ordering::Acquire) & STATE_LIVE != 0
                {
                    return Some(idx);
                }
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
            Values::Plain => self.pool.value(
                idx,
                self.pool.state(idx).load(Ordering::Acquire) & STATE_SLOT,
            ),
            Values::Percpu => self.pool.percpu_value(idx, current_cpu()),
        }
    }

    /// Takes an element's lock; the state without the owner.
    fn lock_element(&self, idx: ElemIdx) -> Result<u32, Errno> {
        let me = rcu::thread().slot();
        let state = self.pool.state(idx);
        let mut backoff = Backoff::new();
        loop {
            let seen = state.load(Ordering::Relaxed);
            let owner = seen >> STATE_OWNER_SHIFT;
            if owner == 0 {
                if state
                    .compare_exchange_weak(
                        seen,
                        seen | me << STATE_OWNER_SHIFT,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    )
                    .is_ok()
                {
                    return Ok(seen);
                }
            } else if owner == me {
                return Err(Errno::EBUSY);
            }
            backoff.wait_if(owner != 0);
        }
    }

    /// Releases a live element's lock: nobody else writes the state of a live, locked element.
    fn unlock_live(&self, idx: ElemIdx, content: u32) {
        self.pool.state(idx).store(content, Ordering::Release);
    }

    /// Releases the lock of an element that was not live: its new owner may make it live at the same time.
    fn unlock_stale(&self, idx: ElemIdx) {
        self.pool
            .state(idx)
            .fetch_and(STATE_CONTENT, Ordering::Release);
    }

    /// Locks an element and checks that it is in the table with this key; `None` if not any more.
    unsafe fn lock_live<K: Key>(&self, idx: ElemIdx, key: K::Loaded) -> Result<Option<u32>, Errno> {
        let content = self.lock_element(idx)?;
        // SAFETY: 1. the element is of the pool; 2. the key by the caller's promise.
        if content & STATE_LIVE == 0 || !unsafe { K::eq(self.pool.key(idx), key) } {
            if content & STATE_LIVE == 0 {
                self.unlock_stale(idx)
            } else {
                self.unlock_live(idx, content)
            }
            return Ok(None);
        }
        Ok(Some(content))
    }

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
            // Each round that fails saw another thread succeed.
            loop {
                if let Some(idx) = self.find::<K>(key, hash) {
                    if flags & map_elem::NOEXIST != 0 {
                        return Err(Errno::EEXIST);
                    }
                    if self.replace::<K>(idx, key, source, flags)? {
                        return Ok(());
                    }
                } else {
                    if flags & map_elem::EXIST != 0 {
                        return Err(Errno::ENOENT);
                    }
                    if self.insert::<K>(key_ptr, key, hash, source)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Gives a live element a new value; `false` if it is gone.
    unsafe fn replace<K: Key>(
        &self,
        idx: ElemIdx,
        key: K::Loaded,
        source: Source,
        flags: u64,
    ) -> Result<bool, Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe {
            let Some(content) = self.lock_live::<K>(idx, key)? else {
                return Ok(false);
            };
            let mut new_content = content;
            let mut replaced = None;
            match (self.values, source) {
                (Values::Plain, Source::Program(value) | Source::Syscall(value)) => {
                    let current = self.pool.value(idx, content & STATE_SLOT);
                    if flags & map_elem::LOCK != 0 {
                        self.copy.copy_in_locked(current, value);
                    } else {
                        self.copy.init(
                            self.pool.value(idx, content & STATE_SLOT ^ STATE_SLOT),
                            value,
                        );
                        new_content =
                            (content ^ STATE_SLOT).wrapping_add(STATE_VERSION) & STATE_CONTENT;
                        replaced = Some(current);
                    }
                }
                (Values::Percpu, _) => self.store_percpu(idx, source, FillOthers::Keep),
            }
            if self.lru {
                let reference = self.pool.reference(idx);
                if reference.load(Ordering::Relaxed) == 0 {
                    reference.store(1, Ordering::Relaxed);
                }
            }
            self.unlock_live(idx, new_content);
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
        let counted = match &self.count {
            Some(count) => {
                let within = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                    (count < self.max_entries).then(|| count + 1)
                });
                within.map_err(|_| Errno::E2BIG)?;
                Some(count)
            }
            None => None,
        };
        let uncount = || {
            if let Some(count) = counted {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        };
        // SAFETY: 1. the caller's promise.
        let Some(idx) = (unsafe { self.alloc::<K>() }) else {
            uncount();
            return Err(Errno::E2BIG);
        };
        // SAFETY: 1. the element is ours alone: out of the table and of the free lists; 2. the caller's promise.
        unsafe {
            store_key(self.pool.key(idx), key_ptr, self.key_bytes);
            match (self.values, source) {
                (Values::Plain, Source::Program(value) | Source::Syscall(value)) => {
                    let slot = self.pool.state(idx).load(Ordering::Relaxed) & STATE_SLOT;
                    self.copy.init(self.pool.value(idx, slot), value);
                }
                (Values::Percpu, _) => self.store_percpu(idx, source, FillOthers::Zero),
            }
        }
        let bucket = self.bucket(hash);
        let Ok(_lock) = bucket.lock.lock() else {
            self.pool.free_now(idx);
            uncount();
            return Err(Errno::EBUSY);
        };
        // SAFETY: 1. the caller's promise.
        if unsafe { self.find::<K>(key, hash) }.is_some() {
            self.pool.free_now(idx);
            uncount();
            return Ok(false);
        }
        self.pool.state(idx).fetch_or(STATE_LIVE, Ordering::Release);
        if self.lru {
            self.pool.reference(idx).store(0, Ordering::Relaxed);
        }
        match (0..PLACES).find(|place| bucket.tag(*place) == 0) {
            Some(place) => {
                bucket.elems[place].store(idx.0, Ordering::Release);
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

    /// A free element, from the free lists or, in an LRU table, from whoever was not used for longest.
    unsafe fn alloc<K: Key>(&self) -> Option<ElemIdx> {
        let free = self.pool.alloc();
        if free.is_some() || !self.lru {
            return free;
        }
        // SAFETY: 1. the caller's promise.
        unsafe { self.evict::<K>() }
    }

    /// Second chance: the hand goes round, clears reference bits and takes the first element that has none.
    unsafe fn evict<K: Key>(&self) -> Option<ElemIdx> {
        let cpu = if self.partitioned { current_cpu() } else { 0 };
        let range = self.pool.partition(cpu);
        let hand = self.hands.get(cpu).or(self.hands.first())?;
        let len = range.len() as u32;
        // Two rounds clear every bit and come back; more leave room for other threads' work.
        for step in 0..len.saturating_mul(4) {
            let turn = hand.fetch_add(1, Ordering::Relaxed);
            let idx = ElemIdx(range.start + turn % len.max(1));
            if self.pool.state(idx).load(Ordering::Relaxed) & STATE_LIVE == 0 {
                if step % 64 == 63 {
                    if let Some(freed) = self.pool.alloc() {
                        return Some(freed);
                    }
                }
                continue;
            }
            let reference = self.pool.reference(idx);
            if reference.load(Ordering::Relaxed) != 0 {
                reference.store(0, Ordering::Relaxed);
                continue;
            }
            // SAFETY: 1. the caller's promise.
            if unsafe { self.remove_victim::<K>(idx) } {
                return Some(idx);
            }
        }
        self.pool.alloc()
    }

    /// Takes an element out of the table by its index; `false` if it is busy or no longer there.
    unsafe fn remove_victim<K: Key>(&self, idx: ElemIdx) -> bool {
        // The key may change under us: the hash then leads to a bucket that does not hold the element.
        // SAFETY: 1. elements are mapped and their keys hold key_bytes.
        let (_, hash) = unsafe { self.load::<K>(self.pool.key(idx)) };
        let bucket = self.bucket(hash);
        let Ok(_lock) = bucket.lock.lock() else {
            return false;
        };
        let Some(at) = self.position(bucket, idx) else {
            return false;
        };
        let Ok(content) = self.lock_element(idx) else {
            return false;
        };
        self.unlink(bucket, at, idx);
        self.unlock_live(idx, content & !STATE_LIVE);
        // SAFETY: 1. the element is out of the table and not yet reused.
        unsafe { self.release_fields(idx, content) };
        true
    }

    /// Where a bucket holds an element. Under the bucket's lock.
    fn position(&self, bucket: &Bucket, idx: ElemIdx) -> Option<Position> {
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
    fn unlink(&self, bucket: &Bucket, at: Position, idx: ElemIdx) {
        match at {
            Position::Place(place) => {
                bucket.set_tag(place, 0);
                // An element of the chain takes the place: first in, then the sign, then out.
                if let Some(first) = ElemIdx::from_link(bucket.overflow.load(Ordering::Relaxed)) {
                    let tag = self.tag_of_element(first);
                    bucket.elems[place].store(first.0, Ordering::Release);
                    bucket.set_tag(place, tag);
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

    fn tag_of_element(&self, idx: ElemIdx) -> u16 {
        let key = self.pool.key(idx);
        // SAFETY: 1. elements in the table have stable keys of key_bytes.
        tag_of(with_key!(self, K => unsafe { self.load::<K>(key).1 }))
    }

    unsafe fn release_fields(&self, idx: ElemIdx, content: u32) {
        if !self.copy.has_fields() {
            return;
        }
        // SAFETY: 1. the caller's promise: the values are of this table.
        unsafe {
            match self.values {
                Values::Plain => self
                    .copy
                    .release_fields(self.pool.value(idx, content & STATE_SLOT)),
                Values::Percpu => {
                    for cpu in 0..ring3_os::cpu::possible_cpus() {
                        self.copy.release_fields(self.pool.percpu_value(idx, cpu));
                    }
                }
            }
        }
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
                idx = self.find::<K>(key, hash).ok_or(Errno::ENOENT)?;
                let at = self.position(bucket, idx).ok_or(Errno::ENOENT)?;
                content = self.lock_element(idx)?;
                if let Some((out, flags)) = out {
                    self.copy_value_out(idx, content, out, flags);
                }
                self.unlink(bucket, at, idx);
                self.unlock_live(idx, content & !STATE_LIVE);
            }
            self.release_fields(idx, content);
            if let Some(count) = &self.count {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            self.pool.free(idx);
        }
        Ok(())
    }

    /// Copies an element's value as system calls see it.
    unsafe fn copy_value_out(&self, idx: ElemIdx, content: u32, out: &mut [u8], flags: u64) {
        // SAFETY: 1. the element is of the pool; 2. callers pass buffers of the system call's value size.
        unsafe {
            match self.values {
                Values::Plain => {
                    let value = self.pool.value(idx, content & STATE_SLOT);
                    if flags & map_elem::LOCK != 0 {
                        self.copy.copy_out_locked(out.as_mut_ptr(), value);
                    } else {
                        self.copy.copy_out(out.as_mut_ptr(), value);
                    }
                }
                Values::Percpu => {
                    let stride = mem::round_up_8(self.copy.value_bytes);
                    for (cpu, chunk) in out.chunks_exact_mut(stride).enumerate() {
                        chunk.fill(0);
                        self.copy
                            .copy_out(chunk.as_mut_ptr(), self.pool.percpu_value(idx, cpu));
                    }
                }
            }
        }
    }

    /// `BPF_MAP_LOOKUP_ELEM`: a value that is not torn by replacements.
    pub(crate) fn sys_lookup<K: Key>(
        &self,
        key: &[u8],
        out: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the key's size and lives on; 2. the element is of the pool.
        unsafe {
            let (key, hash) = self.load::<K>(key.as_ptr());
            for _ in 0..RESTARTS_MAX {
                let idx = self.find::<K>(key, hash).ok_or(Errno::ENOENT)?;
                if self.copy_stable::<K>(idx, key, out, flags) {
                    return Ok(());
                }
            }
        }
        Err(Errno::EBUSY)
    }

    /// Copies a value; `false` if it was replaced or deleted meanwhile.
    unsafe fn copy_stable<K: Key>(
        &self,
        idx: ElemIdx,
        key: K::Loaded,
        out: &mut [u8],
        flags: u64,
    ) -> bool {
        let state = self.pool.state(idx);
        let content = state.load(Ordering::Acquire) & STATE_CONTENT;
        // SAFETY: 1. the caller's promise.
        unsafe {
            self.copy_value_out(idx, content, out, flags);
            fence(Ordering::Acquire);
            let again = state.load(Ordering::Relaxed) & STATE_CONTENT;
            content & STATE_LIVE != 0 && again == content && K::eq(self.pool.key(idx), key)
        }
    }

    /// The elements at a position of the walk, and the next position: places one by one, then the chain as one.
    pub(crate) fn walk_step(&self, at: u64, found: &mut Vec<ElemIdx>) -> Option<u64> {
        found.clear();
        let bucket_index = at / WALK_STEPS;
        if bucket_index > self.mask {
            return None;
        }
        let bucket = self.bucket_at(bucket_index);
        let step = (at % WALK_STEPS) as usize;
        if step < PLACES {
            if bucket.tag(step) != 0 {
                found.push(ElemIdx(bucket.elems[step].load(Ordering::Acquire)));
            }
        } else {
            let seq = bucket.seq.load(Ordering::Acquire);
            let mut link = bucket.overflow.load(Ordering::Acquire);
            while let Some(idx) = ElemIdx::from_link(link) {
                // A chain that changes under us may be cut short, as a walk of the kernel's may miss elements.
                if bucket.seq.load(Ordering::Acquire) != seq
                    || found.len() >= self.pool.elements() as usize
                {
                    break;
                }
                found.push(idx);
                link = self.pool.next(idx).load(Ordering::Acquire);
            }
            return Some((bucket_index + 1) * WALK_STEPS);
        }
        Some(at + 1)
    }

    /// The position of a key's element in the walk and, in a chain, the element itself.
    fn walk_position<K: Key>(&self, key: &[u8]) -> Option<(u64, ElemIdx)> {
        // SAFETY: 1. the slice has the key's size.
        let (hash, idx) = unsafe {
            let (key, hash) = self.load::<K>(key.as_ptr());
            (hash, self.find::<K>(key, hash)?)
        };
        let bucket_index = hash & self.mask;
        let bucket = self.bucket_at(bucket_index);
        let place = (0..PLACES).find(|place| {
            bucket.tag(*place) != 0 && bucket.elems[*place].load(Ordering::Relaxed) == idx.0
        });
        Some((
            bucket_index * WALK_STEPS + place.unwrap_or(PLACES) as u64,
            idx,
        ))
    }

    /// `BPF_MAP_GET_NEXT_KEY`: the key after `key` in the walk, the first one if `key` is not there.
    pub(crate) fn next_key<K: Key>(
        &self,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> Result<(), Errno> {
        let mut found = Vec::new();
        let mut at = 0;
        if let Some((position, idx)) = key.and_then(|key| self.walk_position::<K>(key)) {
            at = if position % WALK_STEPS == PLACES as u64 {
                (position / WALK_STEPS + 1) * WALK_STEPS
            } else {
                position + 1
            };
            if position % WALK_STEPS == PLACES as u64 {
                self.walk_step(position, &mut found);
                let after = found
                    .iter()
                    .position(|seen| *seen == idx)
                    .map(|seen| seen + 1);
                if let Some(following) = after.and_then(|after| found.get(after)) {
                    self.copy_key(*following, next);
                    return Ok(());
                }
            }
        }
        while let Some(then) = self.walk_step(at, &mut found) {
            if let Some(first) = found.first() {
                self.copy_key(*first, next);
                return Ok(());
            }
            at = then;
        }
        Err(Errno::ENOENT)
    }

    /// Copies an element's key.
    pub(crate) fn copy_key(&self, idx: ElemIdx, out: &mut [u8]) {
        // SAFETY: 1. the element is of the pool; 2. callers pass the key's size.
        unsafe {
            mem::copy_bytes(
                out.as_mut_ptr(),
                self.pool.key(idx),
                out.len().min(self.key_bytes),
            )
        };
    }

    /// Whether an element is in the table now.
    pub(crate) fn is_live(&self, idx: ElemIdx) -> bool {
        self.pool.state(idx).load(Ordering::Acquire) & STATE_LIVE != 0
    }

    /// Releases everything that the values own; nobody uses the table any more.
    pub(crate) fn release_all(&mut self) {
        if !self.copy.has_fields() {
            return;
        }
        for idx in (0..self.pool.elements()).map(ElemIdx) {
            let content = self.pool.state(idx).load(Ordering::Relaxed);
            if content & STATE_LIVE != 0 {
                // SAFETY: 1. `&mut self`: nobody else uses the values.
                unsafe { self.release_fields(idx, content) };
            }
        }
    }
}

/// Positions of the walk in one bucket: its places and its chain. A power of two keeps positions compact.
pub(crate) const WALK_STEPS: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FillOthers {
    Keep,
    Zero,
}

#[derive(Clone, Copy, Debug)]
enum Position {
    Place(usize),
    Chain { before: Option<ElemIdx> },
}
