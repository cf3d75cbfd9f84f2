//! Random operation sequences on ring buffers, in both directions, each against a model.

use ring3_maps::{Access, Errno, Map, MapAttr, MapType, MappingAccess, RingBuf, UserRingBuf};
use ring3_os::cpu::page_bytes;
use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::random::{bytes, random};

/// A record that a program has reserved.
struct Open {
    sample: u64,
    content: Vec<u8>,
}

#[test]
fn ring_buffers_follow_the_model() {
    let map = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
    let ring = map.downcast::<RingBuf>().unwrap();
    let mut state = 5;
    // Records in order: content, or `None` once discarded; the second says whether it is open still. And the bytes of each with its header.
    let mut records: VecDeque<(Option<Vec<u8>>, bool, u64)> = VecDeque::new();
    let mut open: Vec<(usize, Open)> = Vec::new();
    let (mut taken, mut produced, mut consumed) = (0, 0, 0);
    for step in 0..20_000 {
        let number = random(&mut state);
        match number & 7 {
            0..3 => {
                let len = (number >> 8) % 700;
                let total = (len + 8).next_multiple_of(8);
                let sample = ring.reserve(len, 0);
                let room = 4096 - (produced - consumed);
                assert_eq!(
                    sample != 0,
                    total < room,
                    "step {step}: {total} into {room}"
                );
                if sample != 0 {
                    let content = bytes(number, len as usize);
                    // SAFETY: a reserved record of `len` bytes.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            content.as_ptr(),
                            sample as *mut u8,
                            content.len(),
                        );
                    }
                    open.push((taken + records.len(), Open { sample, content }));
                    records.push_back((None, true, total));
                    produced += total;
                }
            }
            3 | 4 if !open.is_empty() => {
                // In any order.
                let (at, record) = open.swap_remove((number >> 8) as usize % open.len());
                let entry = &mut records[at - taken];
                entry.1 = false;
                // SAFETY: reserved and not yet ended.
                unsafe {
                    if number >> 40 & 3 == 0 {
                        RingBuf::discard(record.sample, 0);
                    } else {
                        RingBuf::submit(record.sample, 0);
                        entry.0 = Some(record.content);
                    }
                }
            }
            5 => {
                let mut seen = Vec::new();
                ring.consume(|record| seen.push(record.to_vec()));
                let mut expected = Vec::new();
                while let Some((_, false, _)) = records.front() {
                    let (content, _, total) = records.pop_front().unwrap();
                    expected.extend(content);
                    taken += 1;
                    consumed += total;
                }
                assert_eq!(seen, expected, "step {step}");
            }
            _ => {
                let answers = [0, 1, 2, 3, 4].map(|what| ring.query(what));
                assert_eq!(answers, [produced - consumed, 4096, consumed, produced, 0]);
            }
        }
    }
    assert!(taken > 1000);
}

#[test]
fn user_ring_buffers_follow_the_model() {
    let map = Map::create(&MapAttr::new(MapType::UserRingbuf, 0, 0, 4096)).unwrap();
    let ring = map.downcast::<UserRingBuf>().unwrap();
    let page = page_bytes();
    // Producer page, then the data twice.
    let client = map
        .mmap(
            Access::ReadWrite,
            page,
            page + 2 * 4096,
            MappingAccess::Write,
        )
        .unwrap();
    let mut state = 9;
    let (mut produced, mut consumed) = (0u64, 0u64);
    // Samples in order: content (`None`: discarded), and whether it is still being written; bytes with the header.
    let mut samples: VecDeque<(Option<Vec<u8>>, bool, u64)> = VecDeque::new();
    let mut drained = 0;
    for step in 0..8000 {
        let number = random(&mut state);
        let len = (number >> 8) % 500;
        let total = (len + 8).next_multiple_of(8);
        match number & 3 {
            0 | 1 if produced - consumed + total <= 4096 => {
                let flags: u32 = match number >> 60 {
                    0 => 1 << 31,
                    1 | 2 => 1 << 30,
                    _ => 0,
                };
                let content = bytes(number, len as usize);
                // SAFETY: inside the mapping, whose second half repeats the data; where libbpf writes.
                unsafe {
                    let at = client.as_ptr().add(page + (produced & 4095) as usize);
                    let sample = client.as_ptr().add(page + ((produced + 8) & 4095) as usize);
                    std::ptr::copy_nonoverlapping(content.as_ptr(), sample, content.len());
                    at.cast::<u32>().write_volatile(len as u32 | flags);
                    produced += total;
                    client.as_ptr().cast::<u64>().write_volatile(produced);
                }
                let content = (flags != 1 << 30).then_some(content);
                samples.push_back((content, flags == 1 << 31, total));
            }
            2 => {
                // The client ends the sample that it is writing.
                if let Some((_, busy @ true, _)) = samples.front_mut() {
                    *busy = false;
                    // SAFETY: as above.
                    unsafe {
                        let at = client.as_ptr().add(page + (consumed & 4095) as usize);
                        let header = at.cast::<u32>().read_volatile();
                        at.cast::<u32>().write_volatile(header & !(1 << 31));
                    }
                }
            }
            _ => {
                let mut limit = 1 + (number >> 20) % 6;
                let mut expected = Vec::new();
                let mut result = Ok(0);
                while limit > 0 {
                    match samples.front() {
                        None => break,
                        Some((_, true, _)) => {
                            result = Err(Errno::EBUSY);
                            break;
                        }
                        Some(_) => {}
                    }
                    let (content, _, total) = samples.pop_front().unwrap();
                    consumed += total;
                    if let Some(content) = content {
                        expected.push(content);
                        limit -= 1;
                    }
                }
                let result = result.map(|_: u32| expected.len() as u32);
                let mut seen = Vec::new();
                let breaks_at = 1 + ((number >> 20) % 6) as usize;
                let answer = ring.drain(0, |at, len| {
                    // SAFETY: the sample has `len` bytes.
                    seen.push(unsafe { std::slice::from_raw_parts(at, len as usize) }.to_vec());
                    if seen.len() == breaks_at {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                assert_eq!((answer, &seen), (result, &expected), "step {step}");
                drained += seen.len();
            }
        }
    }
    assert!(drained > 1000);
}
