//! Types without keys and maps of maps, against simple models.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ring3_maps::fd::{FdTable, NoFds};
use ring3_maps::{Access, Errno, Map, MapAttr, MapType, abi};
use ring3_sync::rcu;
use ring3_uapi::flags::map_elem;

use crate::random::random;

#[test]
fn queue_and_stack_follow_a_deque() {
    for map_type in [MapType::Queue, MapType::Stack] {
        let map = Map::create(&MapAttr::new(map_type, 0, 12, 5)).unwrap();
        let pointer = map.program_ptr();
        let mut model: VecDeque<[u8; 12]> = VecDeque::new();
        let mut state = 99;
        for _ in 0..5000 {
            let number = random(&mut state);
            let mut value = [0; 12];
            value[..8].copy_from_slice(&number.to_ne_bytes());
            let address = value.as_mut_ptr() as u64;
            match number % 3 {
                0 => {
                    let flags = (number >> 8) % 3;
                    // SAFETY: 12 readable bytes.
                    let answer = unsafe { abi::push_elem(pointer, address, flags, 0, 0) } as i64;
                    let full = model.len() == 5;
                    let expected = match flags {
                        map_elem::NOEXIST => Errno::EINVAL.negated(),
                        map_elem::ANY if full => Errno::E2BIG.negated(),
                        _ => 0,
                    };
                    assert_eq!(answer, expected);
                    if answer == 0 {
                        if full {
                            model.pop_front();
                        }
                        model.push_back(value);
                    }
                }
                turn => {
                    let expected = match (turn, map_type) {
                        (1, MapType::Queue) => model.pop_front(),
                        (1, _) => model.pop_back(),
                        (_, MapType::Queue) => model.front().copied(),
                        _ => model.back().copied(),
                    };
                    // SAFETY: 12 writable bytes.
                    let answer = unsafe {
                        if turn == 1 {
                            abi::pop_elem(pointer, address, 0, 0, 0)
                        } else {
                            abi::peek_elem(pointer, address, 0, 0, 0)
                        }
                    };
                    match expected {
                        Some(expected) => assert_eq!((answer, value), (0, expected)),
                        None => {
                            assert_eq!((answer as i64, value), (Errno::ENOENT.negated(), [0; 12]))
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_bloom_filter_never_denies_what_it_has_and_mostly_what_it_has_not() {
    let mut state = 7;
    let held: BTreeSet<u64> = (0..1000).map(|_| random(&mut state)).collect();
    // Each map has a seed of its own.
    for _ in 0..50 {
        let map = Map::create(&MapAttr::new(MapType::BloomFilter, 0, 8, 1000)).unwrap();
        let ask =
            |number: u64| map.sys_lookup(Access::ReadWrite, &[], &mut number.to_ne_bytes(), 0);
        for number in &held {
            map.sys_update(Access::ReadWrite, &[], &number.to_ne_bytes(), 0, &NoFds)
                .unwrap();
        }
        assert!(held.iter().all(|number| ask(*number) == Ok(())));
        // 8192 bits and 5 hashes: 2%, and 14 from there is one standard deviation.
        let wrong = (0..10_000).filter(|number| ask(*number) == Ok(())).count();
        assert!(wrong < 300, "{wrong} of 10000 false");
    }
}

/// Descriptors are indices of a list.
struct Inner(Vec<Arc<Map>>);

impl FdTable for Inner {
    fn map(&self, fd: u32) -> Result<Arc<Map>, Errno> {
        self.0.get(fd as usize).cloned().ok_or(Errno::EBADF)
    }
}

#[test]
fn programs_find_inner_maps_and_replaced_ones_are_released() {
    for map_type in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        let inner: Vec<_> = (0..3)
            .map(|_| Map::create(&MapAttr::new(MapType::Array, 4, 8, 1)).unwrap())
            .collect();
        let outer =
            Map::create(&MapAttr::new(map_type, 4, 4, 4).with_inner(inner[0].clone())).unwrap();
        let fds = Inner(inner.clone());
        let counts: Vec<_> = inner.iter().map(Arc::strong_count).collect();
        let mut state = 3;
        let mut model: [Option<usize>; 4] = [None; 4];
        for _ in 0..2000 {
            let number = random(&mut state);
            let slot = (number % 4) as u32;
            let key = slot.to_ne_bytes();
            if number & 0x30 == 0 {
                let answer = outer.sys_delete(Access::ReadWrite, &key, &fds);
                assert_eq!(
                    answer,
                    model[slot as usize].take().map(drop).ok_or(Errno::ENOENT)
                );
            } else {
                let fd = (number >> 8) as usize % 3;
                outer
                    .sys_update(Access::ReadWrite, &key, &(fd as u32).to_ne_bytes(), 0, &fds)
                    .unwrap();
                model[slot as usize] = Some(fd);
            }
            let _run = rcu::read();
            // SAFETY: the key has 4 bytes.
            let found =
                unsafe { abi::lookup_elem(outer.program_ptr(), key.as_ptr() as u64, 0, 0, 0) };
            assert_eq!(
                found,
                model[slot as usize].map_or(0, |fd| inner[fd].program_ptr())
            );
        }
        drop((outer, fds));
        rcu::barrier().unwrap();
        rcu::barrier().unwrap();
        for (map, count) in inner.iter().zip(counts) {
            // The list of descriptors is gone; the template was not kept at all.
            assert_eq!(Arc::strong_count(map), count - 1);
        }
    }
}
