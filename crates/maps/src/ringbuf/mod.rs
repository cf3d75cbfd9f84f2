//! Ring buffers: records from programs to one consumer, in the kernel's memory layout.
//!
//! ```text
//! pages     private | consumer_pos | producer_pos | data ... | data ... (the same again)
//! record    | len u32: BUSY 1<<31, DISCARD 1<<30 | page of this header from the private one u32 | len bytes, padded to 8 |
//! ```
//!
//! Positions count bytes and only grow. A producer reserves under a lock, fills without one, and commits by clearing BUSY; the consumer stops at
//! a record that is BUSY. `pending_pos` trails behind the oldest record that is not committed yet, so that a reservation never reaches around to
//! it even if the consumer claims to be further. A commit wakes the consumer if it had caught up with this very record.
//!
//! Every page but the private one is the client's to scribble on, whatever it may map. So nothing in them is believed: our own position is kept
//! beside them and only shown there, the ring of a record is found by its address ([`registry`]), and a header that was changed delays or hides records
//! of this ring, no more.
//!
//! The user ring buffer, the other way round, is in [`user`].

use std::any::Any;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ring3_os::cpu::page_bytes;
use ring3_os::eventfd::EventFd;
use ring3_os::map::{RingProducer, RingRegion};
use ring3_sync::interleave::point;
use ring3_sync::spin::OwnedSpin;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use crate::Map;
use crate::attr::{MapAttr, MapError};
use crate::mem;
use crate::ops::{MapOps, MmapRule, MmapSource};

mod registry;
pub(crate) mod user;

/// `BPF_RINGBUF_BUSY_BIT`
pub const BUSY_BIT: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`
pub const DISCARD_BIT: u32 = 1 << 30;
/// `BPF_RINGBUF_HDR_SZ`
pub const HEADER_BYTES: usize = 8;
/// The largest record. Source: `RINGBUF_MAX_RECORD_SZ`.
const RECORD_BYTES_MAX: u64 = (u32::MAX / 4) as u64;

/// Flags of submit, discard and output.
pub mod wakeup {
    /// `BPF_RB_NO_WAKEUP`
    pub const NO_WAKEUP: u64 = 1 << 0;
    /// `BPF_RB_FORCE_WAKEUP`
    pub const FORCE_WAKEUP: u64 = 1 << 1;
}

/// What `bpf_ringbuf_query` returns.
pub mod query {
    /// `BPF_RB_AVAIL_DATA`
    pub const AVAIL_DATA: u64 = 0;
    /// `BPF_RB_RING_SIZE`
    pub const RING_SIZE: u64 = 1;
    /// `BPF_RB_CONS_POS`
    pub const CONS_POS: u64 = 2;
    /// `BPF_RB_PROD_POS`
    pub const PROD_POS: u64 = 3;
}

/// Checks that both ring types share; the memory and its eventfd.
fn create_ring(attr: &MapAttr, producer: RingProducer) -> Result<(RingRegion, EventFd), MapError> {
    attr.check_flags(map_create::NUMA_NODE)?;
    attr.require(attr.key_size == 0, "key_size", attr.key_size)?;
    attr.require(attr.value_size == 0, "value_size", attr.value_size)?;
    let bytes = attr.max_entries as usize;
    attr.require(
        bytes.is_power_of_two() && bytes.is_multiple_of(page_bytes()),
        "max_entries",
        attr.max_entries,
    )?;
    let oom = |errno| attr.error(errno, format_args!("ring of {bytes} bytes"));
    Ok((
        RingRegion::create("bpf-map", bytes, producer).map_err(oom)?,
        EventFd::new().map_err(oom)?,
    ))
}

/// What clients of a ring map: both position pages and the data twice.
fn ring_source(ring: &RingRegion, producer: RingProducer) -> MmapSource<'_> {
    let once = 2 * page_bytes() + ring.data_bytes();
    let (again, rule) = match producer {
        RingProducer::Owner => (Some((once, ring.data_bytes())), MmapRule::ConsumerPageOnly),
        RingProducer::Others => (None, MmapRule::AllButFirstPage),
    };
    MmapSource {
        memfd: ring.memfd(),
        len_bytes: once + ring.data_bytes(),
        again,
        rule,
    }
}

/// The word at the start of one of a ring's pages.
fn position(page: *mut u8) -> &'static AtomicU64 {
    // SAFETY: 1. pages are mapped and aligned for as long as the ring, which outlives every use below: the result never leaves a method of it.
    unsafe { AtomicU64::from_ptr(page.cast()) }
}

/// `BPF_MAP_TYPE_RINGBUF`.
#[derive(Debug)]
pub struct RingBuf {
    ring: RingRegion,
    event: EventFd,
    lock: OwnedSpin,
    /// Behind the last reservation.
    produced: AtomicU64,
    pending_pos: AtomicU64,
    mask: u64,
    /// Binary logarithm of the bytes of a page.
    page_shift: u32,
}

impl RingBuf {
    pub(crate) fn create(attr: &MapAttr) -> Result<Box<Self>, MapError> {
        let (ring, event) = create_ring(attr, RingProducer::Owner)?;
        let mask = attr.max_entries as u64 - 1;
        let ringbuf = Box::new(RingBuf {
            ring,
            event,
            lock: OwnedSpin::new(),
            produced: AtomicU64::new(0),
            pending_pos: AtomicU64::new(0),
            mask,
            page_shift: page_bytes().trailing_zeros(),
        });
        // Submit gets nothing but the record.
        registry::add(&ringbuf);
        Ok(ringbuf)
    }

    fn consumer_pos(&self) -> &AtomicU64 {
        position(self.ring.consumer_page())
    }

    /// Shows the consumer how far we are.
    fn publish(&self, pos: u64, ordering: Ordering) {
        self.produced.store(pos, ordering);
        position(self.ring.producer_page()).store(pos, ordering);
    }

    /// Where data begins, and its bytes, the mirror included.
    fn data_range(&self) -> (usize, usize) {
        let start = self.ring.data() as usize;
        (start, start + 2 * self.ring.data_bytes())
    }

    /// The header's length word at a position.
    fn header(&self, pos: u64) -> &AtomicU32 {
        let at = self.ring.data().wrapping_add((pos & self.mask) as usize);
        // SAFETY: 1. positions are multiples of 8; 2. the masked offset lies in the data area.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// The ring of a map of this type.
    #[inline]
    pub(crate) fn of(map: &Map) -> Option<&RingBuf> {
        // SAFETY: 1. what is hot in a map of this type is the map's own `RingBuf`, which lives as long.
        (map.is_ringbuf()).then(|| unsafe { &*map.hot().cast::<RingBuf>() })
    }

    /// `bpf_ringbuf_reserve`: the address of `size` bytes to fill, or 0 where there is no room.
    pub fn reserve(&self, size: u64, flags: u64) -> u64 {
        if flags != 0 || size > RECORD_BYTES_MAX {
            return 0;
        }
        let len = (size + HEADER_BYTES as u64).next_multiple_of(8);
        if len > self.mask + 1 {
            return 0;
        }
        let consumed = self.consumer_pos().load(Ordering::Acquire);
        let Ok(_lock) = self.lock.lock() else {
            return 0;
        };
        let start = self.produced.load(Ordering::Relaxed);
        let end = start.wrapping_add(len);
        let mut pending = self.pending_pos.load(Ordering::Relaxed);
        while pending < start {
            let header = self.header(pending).load(Ordering::Acquire);
            if header & BUSY_BIT != 0 {
                break;
            }
            let record = u64::from(header & !DISCARD_BIT) + HEADER_BYTES as u64;
            pending += record.next_multiple_of(8);
        }
        self.pending_pos.store(pending, Ordering::Relaxed);
        point();
        // Neither the consumer nor the oldest open record may be overtaken. The consumer's word is the client's to scribble on: a position ahead of
        // ours gives a huge difference and so no room.
        if end.wrapping_sub(consumed) > self.mask || end.wrapping_sub(pending) > self.mask {
            return 0;
        }
        let offset = (start & self.mask) as usize;
        let header = self.ring.data().wrapping_add(offset);
        let page = 3 + (offset >> self.page_shift);
        self.header(start)
            .store(size as u32 | BUSY_BIT, Ordering::Relaxed);
        // SAFETY: 1. the second word of the header, in the data area and 4-aligned.
        unsafe { AtomicU32::from_ptr(header.cast::<u32>().add(1)) }
            .store(page as u32, Ordering::Relaxed);
        // The consumer sees the header before the position.
        point();
        self.publish(end, Ordering::Release);
        let sample = header as u64 + HEADER_BYTES as u64;
        registry::note(sample, self);
        sample
    }

    /// Ends a reservation.
    fn commit(&self, sample: u64, flags: u64, discard: bool) {
        let header = (sample as usize).wrapping_sub(HEADER_BYTES);
        let offset = header.wrapping_sub(self.ring.data() as usize) as u64 & self.mask;
        let word = self.header(offset);
        let mut len = word.load(Ordering::Relaxed) ^ BUSY_BIT;
        let end = offset + HEADER_BYTES as u64 + u64::from(len);
        if let Some(beyond) = end.checked_sub(self.mask + 1) {
            // SAFETY: 1. a record is at most as long as the data; 2. its bytes are ours until the header says that they are not.
            unsafe { self.ring.fill_mirror(beyond.min(self.mask + 1) as usize) };
        }
        if discard {
            len |= DISCARD_BIT;
        }
        point();
        if flags & (wakeup::FORCE_WAKEUP | wakeup::NO_WAKEUP) != 0 {
            // What the consumer has read decides nothing.
            word.store(len, Ordering::Release);
            point();
            if flags & wakeup::FORCE_WAKEUP != 0 {
                self.event.signal();
            }
            return;
        }
        // Sequentially consistent: the consumer's position is read after the record is visible, else both could sleep.
        word.swap(len, Ordering::SeqCst);
        point();
        let consumed = self.consumer_pos().load(Ordering::SeqCst) & self.mask;
        if consumed == offset {
            self.event.signal();
        }
    }

    /// The ring of a reserved record.
    ///
    /// # Safety
    /// `sample` came from [`RingBuf::reserve`] of a live ring and was not yet submitted or discarded.
    unsafe fn of_sample<'a>(sample: u64) -> &'a RingBuf {
        let ring = registry::find(sample).expect("a reserved record lies in a live ring");
        // SAFETY: 1. the ring is alive: the caller's promise, and what is not has left the registry.
        unsafe { &*ring }
    }

    /// `bpf_ringbuf_submit`.
    ///
    /// # Safety
    /// `sample` came from [`RingBuf::reserve`] of a live ring and was not yet submitted or discarded (verifier: a referenced record).
    pub unsafe fn submit(sample: u64, flags: u64) {
        // SAFETY: 1. the caller's promise.
        unsafe { RingBuf::of_sample(sample) }.commit(sample, flags, false);
    }

    /// `bpf_ringbuf_discard`.
    ///
    /// # Safety
    /// As [`RingBuf::submit`].
    pub unsafe fn discard(sample: u64, flags: u64) {
        // SAFETY: 1. the caller's promise.
        unsafe { RingBuf::of_sample(sample) }.commit(sample, flags, true);
    }

    /// `bpf_ringbuf_output`.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags. `EAGAIN`: no room.
    ///
    /// # Safety
    /// `data` is readable for `size` bytes.
    pub unsafe fn output(&self, data: *const u8, size: u64, flags: u64) -> Result<(), Errno> {
        if flags & !(wakeup::NO_WAKEUP | wakeup::FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        let record = self.reserve(size, 0);
        if record == 0 {
            return Err(Errno::EAGAIN);
        }
        // SAFETY: 1. the record has `size` bytes, contiguous because the data is mapped twice; 2. the caller's promise.
        unsafe { mem::copy_words(record as *mut u8, data, size as usize) };
        self.commit(record, flags, false);
        Ok(())
    }

    /// `bpf_ringbuf_query`; 0 for an unknown question.
    pub fn query(&self, what: u64) -> u64 {
        let consumed = self.consumer_pos().load(Ordering::Acquire);
        let produced = self.produced.load(Ordering::Acquire);
        match what {
            query::AVAIL_DATA => produced.wrapping_sub(consumed),
            query::RING_SIZE => self.mask + 1,
            query::CONS_POS => consumed,
            query::PROD_POS => produced,
            _ => 0,
        }
    }

    /// The eventfd that a commit raises; what epoll on the map's descriptor waits for.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Whether the consumer has records to look at (committed or not), as poll(2) on the kernel's map says.
    pub fn has_data(&self) -> bool {
        self.query(query::AVAIL_DATA) != 0
    }

    /// Consumes records as libbpf does, in this process: calls `take` for each one until none is ready.
    /// Only one consumer may run at a time, this one or a client's.
    pub fn consume(&self, mut take: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        let mut consumed = self.consumer_pos().load(Ordering::Acquire) & !7;
        loop {
            // Read again after every step: a producer that saw an older position of ours wakes nobody.
            let produced = self.produced.load(Ordering::SeqCst);
            if consumed >= produced {
                break;
            }
            let header = self.header(consumed).load(Ordering::Acquire);
            if header & BUSY_BIT != 0 {
                break;
            }
            let len = (header & !DISCARD_BIT) as usize;
            if header & DISCARD_BIT == 0 {
                let mut record = vec![0; len.min(self.mask as usize + 1)];
                let at = self
                    .ring
                    .data()
                    .wrapping_add((consumed & self.mask) as usize + HEADER_BYTES);
                // SAFETY: 1. a record is contiguous in the twice-mapped data and at most one ring long.
                unsafe { mem::copy_bytes(record.as_mut_ptr(), at, record.len()) };
                take(&record);
                taken += 1;
            }
            consumed += (len + HEADER_BYTES).next_multiple_of(8) as u64;
            point();
            self.consumer_pos().store(consumed, Ordering::SeqCst);
            point();
        }
        taken
    }
}

impl Drop for RingBuf {
    fn drop(&mut self) {
        registry::remove(self);
    }
}

impl MapOps for RingBuf {
    fn hot(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    fn mmap_source(&self) -> Option<MmapSource<'_>> {
        Some(ring_source(&self.ring, RingProducer::Owner))
    }

    fn mem_usage(&self) -> u64 {
        (self.ring.data_bytes() + 3 * page_bytes()) as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, MapType};

    fn ring(bytes: u32) -> std::sync::Arc<Map> {
        Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, bytes)).unwrap()
    }

    #[test]
    fn records_come_out_in_order_and_discarded_ones_do_not() {
        let map = ring(4096);
        let ring = map.downcast::<RingBuf>().unwrap();
        for round in 0..2000u64 {
            let record = ring.reserve(24, 0);
            assert_ne!(record, 0);
            // SAFETY: 24 bytes were reserved; each record is ended once.
            unsafe {
                (record as *mut u64).write(round);
                if round % 3 == 0 {
                    RingBuf::discard(record, 0)
                } else {
                    RingBuf::submit(record, 0)
                }
            }
            let mut seen = Vec::new();
            ring.consume(|record| seen.push(u64::from_ne_bytes(record[..8].try_into().unwrap())));
            assert_eq!(seen, if round % 3 == 0 { vec![] } else { vec![round] });
        }
        assert_eq!(ring.query(query::CONS_POS), 2000 * 32);
        assert_eq!(ring.query(query::AVAIL_DATA), 0);
    }

    #[test]
    fn a_full_ring_refuses_and_an_open_record_blocks() {
        let map = ring(4096);
        let ring = map.downcast::<RingBuf>().unwrap();
        assert_eq!(ring.reserve(4096, 0), 0);
        assert_eq!(ring.reserve(8, 1), 0);
        let first = ring.reserve(2000, 0);
        let second = ring.reserve(2000, 0);
        assert!(first != 0 && second != 0);
        assert_eq!(ring.reserve(2000, 0), 0);
        // SAFETY: each record is ended once.
        unsafe { RingBuf::submit(second, 0) };
        let mut seen = 0;
        ring.consume(|_| seen += 1);
        assert_eq!(seen, 0);
        // A consumer that claims to have read everything does not open the way over the record that is still being written.
        ring.consumer_pos()
            .store(ring.query(query::PROD_POS), Ordering::SeqCst);
        assert_eq!(ring.reserve(2500, 0), 0);
        // SAFETY: as above.
        unsafe { RingBuf::submit(first, 0) };
        assert_ne!(ring.reserve(2500, 0), 0);
    }

    #[test]
    fn commits_wake_a_consumer_that_has_caught_up() {
        let map = ring(4096);
        let ring = map.downcast::<RingBuf>().unwrap();
        let data = 5u64;
        let output = |flags| {
            // SAFETY: 8 readable bytes.
            unsafe { ring.output((&raw const data).cast(), 8, flags) }
        };
        output(wakeup::NO_WAKEUP).unwrap();
        assert_eq!(ring.event().take(), 0);
        output(0).unwrap();
        assert_eq!(
            ring.event().take(),
            0,
            "the consumer is still behind the first record"
        );
        output(wakeup::FORCE_WAKEUP).unwrap();
        assert_eq!(ring.event().take(), 1);
        assert_eq!(ring.consume(|_| ()), 3);
        output(0).unwrap();
        assert_eq!(ring.event().take(), 1);
        assert_eq!(output(4), Err(Errno::EINVAL));
    }

    #[test]
    fn pages_that_a_client_scribbled_on_harm_only_its_ring() {
        let map = ring(4096);
        let ring = map.downcast::<RingBuf>().unwrap();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            state >> 8
        };
        let scribble = |at: usize, value: u64| {
            // A word of the shared pages: positions, data, mirror.
            position(ring.ring.consumer_page().wrapping_add(at)).store(value, Ordering::Relaxed);
        };
        let values = [0, 1, 7, 8, u64::MAX, 1 << 63, u64::from(BUSY_BIT), 4096];
        for _ in 0..2000 {
            let mut open = Vec::new();
            for _ in 0..3 {
                let record = ring.reserve(random() % 512, 0);
                let (start, end) = ring.data_range();
                assert!(record == 0 || (start..end - 512).contains(&(record as usize)));
                open.extend((record != 0).then_some(record));
                let value = values[random() as usize % values.len()];
                scribble((random() as usize % (4 * page_bytes())) & !7, value);
            }
            for record in open {
                // SAFETY: each record is ended once.
                unsafe { RingBuf::submit(record, random() % 2) };
            }
            ring.consume(|record| assert!(record.len() <= 4096));
        }
        // Another ring does not notice.
        let other = self::ring(4096);
        let other = other.downcast::<RingBuf>().unwrap();
        let record = other.reserve(8, 0);
        // SAFETY: each record is ended once.
        unsafe { RingBuf::submit(record, 0) };
        assert_eq!(other.consume(|_| ()), 1);
    }

    #[test]
    fn two_producers_lose_nothing() {
        let map = ring(8192);
        let ring = map.downcast::<RingBuf>().unwrap();
        const RECORDS: u64 = 20_000;
        std::thread::scope(|scope| {
            for producer in 0..2u64 {
                scope.spawn(move || {
                    for number in 0..RECORDS {
                        let data = [producer, number];
                        loop {
                            // SAFETY: 16 readable bytes.
                            match unsafe { ring.output(data.as_ptr().cast(), 16, 0) } {
                                Ok(()) => break,
                                Err(errno) => assert_eq!(errno, Errno::EAGAIN),
                            }
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0u64; 2];
            while next != [RECORDS; 2] {
                ring.consume(|record| {
                    let producer = record[0] as usize;
                    let number = u64::from_ne_bytes(record[8..16].try_into().unwrap());
                    assert_eq!(number, next[producer]);
                    next[producer] += 1;
                });
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn only_the_consumer_page_may_be_mapped_for_writing() {
        use crate::MappingAccess::{Read, Write};
        let map = ring(4096);
        let page = page_bytes();
        assert!(map.mmap(crate::Access::ReadWrite, 0, page, Write).is_ok());
        assert_eq!(
            map.mmap(crate::Access::ReadWrite, page, page, Write)
                .unwrap_err(),
            Errno::EPERM
        );
        assert_eq!(
            map.mmap(crate::Access::ReadWrite, 0, 2 * page, Write)
                .unwrap_err(),
            Errno::EPERM
        );
        let all = map
            .mmap(crate::Access::ReadWrite, 0, 3 * page, Read)
            .unwrap();
        assert_eq!(
            map.mmap(crate::Access::ReadWrite, 0, 5 * page, Read)
                .unwrap_err(),
            Errno::EINVAL
        );
        let twice = map
            .mmap(crate::Access::ReadWrite, page, 3 * page, Read)
            .unwrap();
        let ring = map.downcast::<RingBuf>().unwrap();
        assert_ne!(ring.reserve(8, 0), 0);
        // SAFETY: three pages are mapped each time: consumer, producer, data; then producer, data, data again.
        unsafe {
            assert_eq!(all.as_ptr().add(page).cast::<u64>().read_volatile(), 16);
            let header =
                [1, 2].map(|at| twice.as_ptr().add(at * page).cast::<u32>().read_volatile());
            assert_eq!(header, [BUSY_BIT | 8; 2]);
        }
    }
}
