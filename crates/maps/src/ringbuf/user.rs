//! User ring buffers: records from a client to a program, which drains them with a callback.
//!
//! The client owns the producer page and the data; everything in them is judged before use.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ring3_os::cpu::page_bytes;
use ring3_os::eventfd::EventFd;
use ring3_os::map::{RingProducer, RingRegion};
use ring3_uapi::Errno;

use super::{BUSY_BIT, DISCARD_BIT, HEADER_BYTES, create_ring, position, ring_source, wakeup};
use crate::attr::{MapAttr, MapError};
use crate::ops::{MapOps, MmapSource};

/// Samples of one drain. Source: `BPF_MAX_USER_RINGBUF_SAMPLES`.
const SAMPLES_MAX: u32 = 128 * 1024;

/// `BPF_MAP_TYPE_USER_RINGBUF`.
#[derive(Debug)]
pub struct UserRingBuf {
    ring: RingRegion,
    event: EventFd,
    busy: AtomicBool,
    /// Behind the last sample taken; what the page says is for the client, who may write to it.
    consumed: AtomicU64,
    mask: u64,
}

/// What lies at the consumer's position.
enum Peek {
    /// A sample: address, bytes, and the position behind it.
    Sample { data: *const u8, len: u32, end: u64 },
    /// To be skipped.
    Discarded { end: u64 },
}

impl UserRingBuf {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        let (ring, event) = create_ring(attr, RingProducer::Others)?;
        Ok(UserRingBuf {
            ring,
            event,
            busy: AtomicBool::new(false),
            consumed: AtomicU64::new(0),
            mask: u64::from(attr.max_entries) - 1,
        })
    }

    /// Shows the client how far we are.
    fn publish(&self, pos: u64) {
        self.consumed.store(pos, Ordering::Relaxed);
        position(self.ring.consumer_page()).store(pos, Ordering::Release);
    }

    fn peek(&self) -> Result<Peek, Errno> {
        let produced = position(self.ring.producer_page()).load(Ordering::Acquire);
        if !produced.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let consumed = self.consumed.load(Ordering::Relaxed);
        if consumed >= produced {
            return Err(Errno::ENODATA);
        }
        let at = self
            .ring
            .data()
            .wrapping_add((consumed & self.mask) as usize);
        // SAFETY: 1. the masked position lies in the data; 2. it is a multiple of 8, because we only add such.
        let header = unsafe { AtomicU32::from_ptr(at.cast()) }.load(Ordering::Acquire);
        let len = header & !(BUSY_BIT | DISCARD_BIT);
        let total = (u64::from(len) + HEADER_BYTES as u64).next_multiple_of(8);
        if total > produced - consumed {
            return Err(Errno::EINVAL);
        }
        if u64::from(len) > self.mask {
            return Err(Errno::E2BIG);
        }
        if header & BUSY_BIT != 0 {
            return Err(Errno::EBUSY);
        }
        let end = consumed + total;
        if header & DISCARD_BIT != 0 {
            return Ok(Peek::Discarded { end });
        }
        // Source: libbpf, `user_ring_buffer__reserve`: behind a header at the very end the sample begins at the start, not in the second view.
        let sample = (consumed + HEADER_BYTES as u64) & self.mask;
        Ok(Peek::Sample {
            data: self.ring.data().wrapping_add(sample as usize),
            len,
            end,
        })
    }

    /// `bpf_user_ringbuf_drain`: calls `take` with each sample's address and bytes until none is left, it breaks, or 131072 are done; the number of
    /// samples taken.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags, or the client's positions or lengths make no sense. `EBUSY`: another drain runs, or the next sample is still being
    /// written. `E2BIG`: a sample longer than the ring.
    pub fn drain(
        &self,
        flags: u64,
        mut take: impl FnMut(*const u8, u32) -> ControlFlow<()>,
    ) -> Result<u32, Errno> {
        if flags & !(wakeup::NO_WAKEUP | wakeup::FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(Errno::EBUSY);
        }
        let mut samples = 0;
        let mut discarded = 0;
        let mut outcome = Ok(());
        while samples + discarded < SAMPLES_MAX {
            match self.peek() {
                Ok(Peek::Sample { data, len, end }) => {
                    samples += 1;
                    let flow = take(data, len);
                    self.publish(end);
                    if flow.is_break() {
                        break;
                    }
                }
                Ok(Peek::Discarded { end }) => {
                    discarded += 1;
                    self.publish(end);
                }
                Err(Errno::ENODATA) => break,
                Err(errno) => {
                    outcome = Err(errno);
                    break;
                }
            }
        }
        self.busy.store(false, Ordering::Release);
        // A client that waits for room is woken if room was made, unless the program asks otherwise.
        let made_room = samples > 0 || discarded > 0;
        if flags & wakeup::FORCE_WAKEUP != 0 || (flags & wakeup::NO_WAKEUP == 0 && made_room) {
            self.event.signal();
        }
        outcome.map(|()| samples)
    }

    /// The eventfd that a client waits on for room.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

impl MapOps for UserRingBuf {
    fn mmap_source(&self) -> Option<MmapSource<'_>> {
        Some(ring_source(&self.ring, RingProducer::Others))
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
    use crate::{Map, MapType, MappingAccess};

    fn words(map: &std::sync::Arc<Map>) -> crate::Mapping {
        map.mmap(
            crate::Access::ReadWrite,
            page_bytes(),
            page_bytes() * 2,
            MappingAccess::Write,
        )
        .unwrap()
    }

    fn put(mapping: &crate::Mapping, offset: usize, word: u64) {
        // SAFETY: inside the two mapped pages, aligned.
        unsafe {
            mapping
                .as_ptr()
                .add(offset)
                .cast::<u64>()
                .write_volatile(word)
        };
    }

    #[test]
    fn drains_what_the_client_wrote_and_refuses_nonsense() {
        let map = Map::create(&MapAttr::new(MapType::UserRingbuf, 0, 0, 4096)).unwrap();
        assert_eq!(
            map.mmap(
                crate::Access::ReadWrite,
                0,
                page_bytes(),
                MappingAccess::Write
            )
            .unwrap_err(),
            Errno::EPERM
        );
        let client = words(&map);
        let ring = map.downcast::<UserRingBuf>().unwrap();
        let data = page_bytes();
        put(&client, data, 8);
        put(&client, data + 8, 0x1234);
        put(&client, data + 16, u64::from(DISCARD_BIT | 8));
        put(&client, data + 32, u64::from(BUSY_BIT | 8));
        put(&client, 0, 48);
        let mut seen = Vec::new();
        let mut drain = |flags| {
            ring.drain(flags, |sample, len| {
                // SAFETY: the sample has `len` bytes.
                seen.push((unsafe { sample.cast::<u64>().read() }, len));
                ControlFlow::Continue(())
            })
        };
        assert_eq!(drain(4), Err(Errno::EINVAL));
        assert_eq!(drain(0), Err(Errno::EBUSY));
        put(&client, data + 32, 8);
        assert_eq!(drain(0), Ok(1));
        assert_eq!(drain(0), Ok(0));
        put(&client, 0, 49);
        assert_eq!(drain(0), Err(Errno::EINVAL));
        put(&client, data + 48, 4096);
        put(&client, 0, 48 + 5000 / 8 * 8);
        assert_eq!(drain(0), Err(Errno::E2BIG));
        put(&client, 0, 56);
        assert_eq!(drain(0), Err(Errno::EINVAL));
        assert_eq!(seen, [(0x1234, 8), (0, 8)]);
    }
}
