//! The elements of a hash table: memory that stays typed and mapped, and who may use which element next.
//!
//! ```text
//! element   | state u64 | next u32 | current u32 | key, padded to 8 | value slot 0 | (value slot 1) |
//! ```
//!
//! `state`: [`super::state`].
//! `current`: where the current value slot lies, in words of 8 bytes from the element: all that a look-up needs.
//! `next`: index + 1 of the next element of an overflow chain, or of a free list.
//!
//! Value slot 1 lies inside the element where both fit into 64 bytes, so that no two elements share a cache line; else in a second region
//! of the same shape, which stays untouched memory until a value is replaced. Per-CPU values lie in one region a CPU.
//!
//! Free elements wait in one lock-free list a CPU. Elements never used before come from counters, so that memory is touched when it is needed: every
//! CPU has a part of its own, because processors fetch lines in pairs, and elements that two CPUs write should not be neighbours.
//! In a map that is not preallocated a deleted element goes through [`super::limbo`] first.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ring3_os::cpu::{page_bytes, possible_cpus};
use ring3_os::map::{Prot, Region};
use ring3_sync::PerCpu;
use ring3_sync::interleave::point;
use ring3_sync::percpu::current_cpu;
use ring3_uapi::Errno;

use super::limbo::Limbo;
use super::state::StateWord;

/// Where the key lies in an element.
pub(crate) const KEY_OFFSET: usize = 16;

/// Index of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ElemIdx(pub(crate) u32);

impl ElemIdx {
    /// As chains and lists store it.
    #[inline(always)]
    pub(crate) fn link(self) -> u32 {
        self.0 + 1
    }

    #[inline(always)]
    pub(crate) fn from_link(link: u32) -> Option<ElemIdx> {
        link.checked_sub(1).map(ElemIdx)
    }
}

/// Sizes and offsets of elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) stride: usize,
    /// Of value slot 0, from the element's start; unused for per-CPU values.
    pub(crate) value_offset: usize,
    /// From value slot 0 to slot 1, or from one CPU's value to the next CPU's.
    pub(crate) value_delta: usize,
    /// From one element's value to the next one's, in the per-CPU regions.
    pub(crate) percpu_stride: usize,
}

/// What the pool is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolConfig {
    pub(crate) key_bytes: usize,
    pub(crate) key_kind: super::key::KeyKind,
    pub(crate) value_bytes: usize,
    pub(crate) elements: u32,
    pub(crate) lru: bool,
    pub(crate) percpu: bool,
    /// Deleted elements wait for a grace period.
    pub(crate) deferred: bool,
    /// Elements belong to a CPU's list for good (`BPF_F_NO_COMMON_LRU`).
    pub(crate) partitioned: bool,
}

/// One CPU's list of free elements: generation in the high half, link in the low one.
#[derive(Debug, Default)]
struct FreeList(AtomicU64);

/// Elements that [`Fresh`] hands out in another order than they lie in; a power of two.
const SPREAD: u32 = 64;

/// One CPU's part of the elements that were never used.
#[derive(Debug)]
struct Fresh {
    next: AtomicU32,
    begin: u32,
    end: u32,
    is_spread: bool,
}

impl Fresh {
    fn take(&self) -> Option<ElemIdx> {
        // One at a time: what a thread took and not yet gave back must not be missing elsewhere.
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < self.end).then(|| next + 1)
            })
            .ok()
            .map(|next| ElemIdx(self.place_of(next)))
    }

    /// Where the element is that is handed out as number `next`. Processors fetch lines in pairs: of each [`SPREAD`] elements the even ones come first,
    /// so that a pair has two that were inserted [`SPREAD`] / 2 insertions apart, and threads that share a sequence of keys share no pair.
    fn place_of(&self, next: u32) -> u32 {
        let at = (next - self.begin) % SPREAD;
        let block = next - at;
        if !self.is_spread || self.end - block < SPREAD {
            return next;
        }
        let half = SPREAD / 2;
        block
            + if at < half {
                2 * at
            } else {
                2 * (at - half) + 1
            }
    }
}

/// A CPU's part of `elements`; parts begin at even elements.
fn fresh_part(elements: u32, cpu: usize, is_spread: bool) -> Fresh {
    let cpus = possible_cpus() as u64;
    let begin = |cpu: u64| {
        if cpu == cpus {
            elements
        } else {
            (u64::from(elements) * cpu / cpus) as u32 & !1
        }
    };
    Fresh {
        next: AtomicU32::new(begin(cpu as u64)),
        begin: begin(cpu as u64),
        end: begin(cpu as u64 + 1),
        is_spread,
    }
}

/// The elements and their free lists.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) base: *mut u8,
    pub(crate) shape: Shape,
    /// First per-CPU value; null for plain values.
    pub(crate) percpu_base: *mut u8,
    elements: u32,
    fresh: PerCpu<Fresh>,
    free: PerCpu<FreeList>,
    limbo: Option<PerCpu<Limbo>>,
    partitioned: bool,
    /// Owns the memory.
    _regions: Vec<Region>,
    bytes: u64,
}

// SAFETY: 1. the pointers lead into regions that the pool owns; 2. elements are accessed atomically.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// Lays elements out.
fn shape_of(config: &PoolConfig) -> Option<(Shape, usize)> {
    let head = KEY_OFFSET + config.key_bytes.checked_next_multiple_of(8)?;
    let value = config.value_bytes.checked_next_multiple_of(8)?;
    let elements = config.elements as usize;
    let page = page_bytes();
    let line = |bytes: usize| {
        if bytes <= 128 {
            bytes.next_multiple_of(64)
        } else {
            bytes.next_multiple_of(16)
        }
    };
    if config.percpu {
        let stride = line(head);
        let cpu_region = elements
            .checked_mul(value)?
            .checked_next_multiple_of(page)?;
        let shape = Shape {
            stride,
            value_offset: head,
            value_delta: cpu_region,
            percpu_stride: value,
        };
        let total = elements
            .checked_mul(stride)?
            .checked_add(cpu_region.checked_mul(possible_cpus())?)?;
        return Some((shape, total));
    }
    let inline = head + 2 * value <= 64;
    let stride = if inline {
        64
    } else {
        line(head.checked_add(value)?)
    };
    let region = elements
        .checked_mul(stride)?
        .checked_next_multiple_of(page)?;
    let value_delta = if inline { value } else { region };
    // A slot is found by 32 bits of words.
    if value_delta + head >= 1 << 34 {
        return None;
    }
    let shape = Shape {
        stride,
        value_offset: head,
        value_delta,
        percpu_stride: 0,
    };
    Some((shape, region.checked_mul(if inline { 1 } else { 2 })?))
}

impl Pool {
    pub(crate) fn new(config: &PoolConfig) -> Result<Pool, Errno> {
        let (shape, total) = shape_of(config)
            .filter(|(_, total)| *total < 1 << 46)
            .ok_or(Errno::ENOMEM)?;
        let main_bytes = if config.percpu {
            config.elements as usize * shape.stride
        } else {
            total
        };
        let region = Region::anonymous(main_bytes.next_multiple_of(page_bytes()), Prot::ReadWrite)?;
        // A map that is not preallocated may stay sparse: huge pages would fill it.
        if region.len_bytes() >= 4 << 20 && !config.deferred {
            region.advise_huge();
        }
        let base = region.as_ptr();
        let mut regions = vec![region];
        let mut percpu_base = std::ptr::null_mut();
        if config.percpu {
            let values = Region::anonymous(shape.value_delta * possible_cpus(), Prot::ReadWrite)?;
            percpu_base = values.as_ptr();
            regions.push(values);
        }
        Ok(Pool {
            base,
            shape,
            percpu_base,
            elements: config.elements,
            fresh: PerCpu::new_with(|cpu| {
                // Partitions are handed out whole, by `fill_partitions`.
                fresh_part(
                    if config.partitioned {
                        0
                    } else {
                        config.elements
                    },
                    cpu,
                    // Eviction goes by place, in the order of insertion.
                    !config.lru,
                )
            }),
            free: PerCpu::default(),
            limbo: config.deferred.then(PerCpu::default),
            partitioned: config.partitioned,
            _regions: regions,
            bytes: total as u64,
        })
    }

    pub(crate) fn elements(&self) -> u32 {
        self.elements
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline(always)]
    pub(crate) fn element(&self, idx: ElemIdx) -> *mut u8 {
        debug_assert!(idx.0 < self.elements);
        self.base.wrapping_add(idx.0 as usize * self.shape.stride)
    }

    #[inline(always)]
    pub(crate) fn key(&self, idx: ElemIdx) -> *mut u8 {
        self.element(idx).wrapping_add(KEY_OFFSET)
    }

    #[inline(always)]
    pub(crate) fn state(&self, idx: ElemIdx) -> &StateWord {
        // SAFETY: 1. elements are mapped for as long as the pool; 2. the word at offset 0 is 8-aligned and only accessed so.
        unsafe { StateWord::at(self.element(idx)) }
    }

    #[inline(always)]
    pub(crate) fn next(&self, idx: ElemIdx) -> &AtomicU32 {
        // SAFETY: as `state`, offset 8, 4-aligned.
        unsafe { AtomicU32::from_ptr(self.element(idx).add(8).cast()) }
    }

    /// The state of an element by address.
    ///
    /// # Safety
    /// `element` is an element of a pool that lives on.
    #[inline(always)]
    pub(crate) unsafe fn state_at<'a>(element: *mut u8) -> &'a StateWord {
        // SAFETY: 1. the caller's promise; as `state`.
        unsafe { StateWord::at(element) }
    }

    /// A value slot (0 or 1) of the plain values of an element by address.
    #[inline(always)]
    pub(crate) fn value_at(&self, element: *mut u8, slot: u32) -> *mut u8 {
        // Without a branch or a product: the distance, if the slot is 1.
        let delta = self.shape.value_delta & (slot as usize).wrapping_neg();
        element.wrapping_add(self.shape.value_offset + delta)
    }

    /// The current value of an element with plain values.
    ///
    /// # Safety
    /// `element` is an element of a pool that lives on.
    #[inline(always)]
    pub(crate) unsafe fn current_value(element: *mut u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise; as `state`, offset 12.
        let words = unsafe { AtomicU32::from_ptr(element.add(12).cast()) }.load(Ordering::Acquire);
        element.wrapping_add(words as usize * 8)
    }

    /// Makes a value slot the current one of an element that the caller holds.
    ///
    /// # Safety
    /// `element` is an element of this pool.
    #[inline(always)]
    pub(crate) unsafe fn set_current(&self, element: *mut u8, slot: u32) {
        let words = (self.value_at(element, slot) as usize - element as usize) / 8;
        // SAFETY: 1. the caller's promise; as `state`, offset 12.
        unsafe { AtomicU32::from_ptr(element.add(12).cast()) }
            .store(words as u32, Ordering::Release);
    }

    /// The index of an element by address.
    #[inline]
    pub(crate) fn index_of(&self, element: *mut u8) -> ElemIdx {
        ElemIdx(((element as usize - self.base as usize) / self.shape.stride) as u32)
    }

    /// The element that one of its two value slots at `value` belongs to.
    pub(crate) fn index_of_value(&self, value: *const u8) -> Option<ElemIdx> {
        (0..2).find_map(|slot| {
            let first = self.value(ElemIdx(0), slot).addr();
            let offset = value.addr().checked_sub(first)?;
            let idx = offset / self.shape.stride;
            (offset.is_multiple_of(self.shape.stride) && idx < self.elements() as usize)
                .then_some(ElemIdx(idx as u32))
        })
    }

    /// A value slot (0 or 1) of plain values.
    #[inline(always)]
    pub(crate) fn value(&self, idx: ElemIdx, slot: u32) -> *mut u8 {
        self.element(idx)
            .wrapping_add(self.shape.value_offset + slot as usize * self.shape.value_delta)
    }

    /// The value of a CPU below the possible ones.
    #[inline(always)]
    pub(crate) fn percpu_value(&self, idx: ElemIdx, cpu: usize) -> *mut u8 {
        self.percpu_base
            .wrapping_add(idx.0 as usize * self.shape.percpu_stride + cpu * self.shape.value_delta)
    }

    fn list(&self, cpu: usize) -> &FreeList {
        let cpu = if self.free.get(cpu).is_some() { cpu } else { 0 };
        // CPU 0 is always possible.
        self.free.get(cpu).unwrap_or_else(|| self.free.this_cpu())
    }

    fn push(&self, list: &FreeList, idx: ElemIdx) {
        let mut head = list.0.load(Ordering::Relaxed);
        loop {
            self.next(idx).store(head as u32, Ordering::Relaxed);
            point();
            let new = ((head >> 32).wrapping_add(1) << 32) | u64::from(idx.link());
            match list
                .0
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Puts a linked list of elements, of which at least one, on a CPU's free list.
    pub(super) fn push_list(&self, cpu: usize, first: u32) {
        let mut link = first;
        while let Some(idx) = ElemIdx::from_link(link) {
            link = self.next(idx).load(Ordering::Relaxed);
            self.push(self.list(cpu), idx);
        }
    }

    fn pop(&self, list: &FreeList) -> Option<ElemIdx> {
        let mut head = list.0.load(Ordering::Acquire);
        loop {
            let idx = ElemIdx::from_link(head as u32)?;
            // The element may be gone already; then the generation has changed and the exchange fails.
            point();
            let next = self.next(idx).load(Ordering::Relaxed);
            point();
            let new = ((head >> 32).wrapping_add(1) << 32) | u64::from(next);
            match list
                .0
                .compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(idx),
                Err(seen) => head = seen,
            }
        }
    }

    /// The CPU whose list an element belongs to, in partitioned pools.
    #[inline]
    pub(crate) fn home_cpu(&self, idx: ElemIdx) -> usize {
        (idx.0 as usize * possible_cpus()) / (self.elements as usize).max(1)
    }

    /// The elements of a CPU in a partitioned pool; all elements otherwise.
    pub(crate) fn partition(&self, cpu: usize) -> std::ops::Range<u32> {
        if !self.partitioned {
            return 0..self.elements;
        }
        let per_cpu = self.elements / possible_cpus() as u32;
        let start = per_cpu * (cpu as u32).min(possible_cpus() as u32 - 1);
        start..start + per_cpu
    }

    /// Takes a free element.
    #[inline]
    pub(crate) fn alloc(&self) -> Option<ElemIdx> {
        let cpu = current_cpu();
        self.pop(self.list(cpu)).or_else(|| self.alloc_slow(cpu))
    }

    #[cold]
    fn alloc_slow(&self, cpu: usize) -> Option<ElemIdx> {
        if self.partitioned {
            // Partitions are handed out whole, once, by `fill_partitions`.
            return None;
        }
        let own = self.fresh.get(cpu).and_then(Fresh::take);
        let found = own.or_else(|| self.steal());
        let Some(limbo) = &self.limbo else {
            return found;
        };
        found.or_else(|| {
            for (cpu, limbo) in limbo.iter().enumerate() {
                self.look_after(limbo, cpu);
            }
            self.steal()
        })
    }

    fn steal(&self) -> Option<ElemIdx> {
        let fresh = || self.fresh.iter().find_map(Fresh::take);
        let given_back = || self.free.iter().find_map(|list| self.pop(list));
        fresh().or_else(given_back)
    }

    /// Puts every element on its own CPU's list; partitioned pools start so.
    pub(crate) fn fill_partitions(&self) {
        for cpu in 0..possible_cpus() {
            for idx in self.partition(cpu).rev() {
                self.push(self.list(cpu), ElemIdx(idx));
            }
        }
    }

    /// Gives an element back that nobody else ever saw, or that may be reused at once.
    #[inline]
    pub(crate) fn free_now(&self, idx: ElemIdx) {
        let cpu = if self.partitioned {
            self.home_cpu(idx)
        } else {
            current_cpu()
        };
        self.push(self.list(cpu), idx);
    }

    /// Gives an element back that programs may still hold.
    #[inline]
    pub(crate) fn free(&self, idx: ElemIdx) {
        match &self.limbo {
            None => self.free_now(idx),
            Some(limbo) => {
                let cpu = current_cpu();
                self.defer(limbo.this_cpu(), idx, cpu);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fresh_element_is_handed_out_once_and_never_beside_the_one_before() {
        for elements in [1, 2, 63, 64, 65, 1000, 10_000] {
            let parts: Vec<_> = (0..possible_cpus())
                .map(|cpu| fresh_part(elements, cpu, true))
                .collect();
            let mut all = Vec::new();
            for part in &parts {
                let own: Vec<u32> = std::iter::from_fn(|| part.take())
                    .map(|idx| idx.0)
                    .collect();
                for pair in own.as_chunks::<2>().0 {
                    let whole = (pair[1] - part.begin) / SPREAD < own.len() as u32 / SPREAD;
                    assert!(
                        !whole || pair[0] / 2 != pair[1] / 2,
                        "{pair:?} of {elements}"
                    );
                }
                all.extend(own);
            }
            all.sort_unstable();
            assert!(all.into_iter().eq(0..elements), "{elements}");
        }
    }
}
