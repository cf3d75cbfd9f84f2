//! Two threads on one map: no lost update, no torn value, no leaked element.
//!
//! `cargo xtask stress maps --seconds 60` repeats every scenario until its part of the time is over and then looks at the memory of the process.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ring3_maps::fd::{FdTable, NoFds};
use ring3_maps::{Access, Map, MapAttr, MapType, OwnerKey, ProgArray, ProgSlot, RingBuf, abi};
use ring3_sync::rcu;
use ring3_uapi::flags::map_create;
use ring3_uapi::{Errno, ProgType};

/// Updates of a thread in one run of a scenario.
const ROUNDS: u64 = 60_000;
/// Scenarios of this file, which share the time.
const SCENARIOS: u32 = 10;
/// Memory that a process may gain from the first repetition of a scenario to the last.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// Runs a scenario once, or for as long as the command says.
fn repeat(name: &str, scenario: impl Fn()) {
    scenario();
    let Ok(seconds) = std::env::var("RING3_STRESS_SECONDS") else {
        return;
    };
    let seconds: u32 = seconds.parse().expect("RING3_STRESS_SECONDS is a number");
    let end = Instant::now() + Duration::from_secs(seconds.into()) / SCENARIOS;
    let before = resident_bytes();
    let mut runs = 1u64;
    while Instant::now() < end {
        scenario();
        runs += 1;
    }
    rcu::barrier().unwrap();
    let after = resident_bytes();
    println!(
        "{name}: {runs} runs, {} KiB before, {} KiB after",
        before >> 10,
        after >> 10
    );
    assert!(
        after < before + GROWTH_BYTES_MAX,
        "{name} leaks: {before} bytes before, {after} after"
    );
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * ring3_os::cpu::page_bytes() as u64
}

fn update(map: &Map, key: u64, value: &[u64; 4]) -> i64 {
    let _run = rcu::read();
    // SAFETY: sizes are those of the maps below.
    unsafe {
        abi::update_elem(
            map.program_ptr(),
            (&raw const key) as u64,
            value.as_ptr() as u64,
            0,
            0,
        ) as i64
    }
}

fn delete(map: &Map, key: u64) -> i64 {
    let _run = rcu::read();
    // SAFETY: sizes are those of the maps below.
    unsafe { abi::delete_elem(map.program_ptr(), (&raw const key) as u64, 0, 0, 0) as i64 }
}

fn count(map: &Map) -> usize {
    let mut keys = 0;
    let mut last: Option<[u8; 8]> = None;
    let mut next = [0; 8];
    while map
        .sys_next_key(
            Access::ReadWrite,
            last.as_ref().map(|key| &key[..]),
            &mut next,
        )
        .is_ok()
    {
        keys += 1;
        last = Some(next);
    }
    keys
}

fn hammer(attr: MapAttr) {
    let map = Map::create(&attr).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2u64)
        .map(|writer| {
            let map = map.clone();
            std::thread::spawn(move || {
                // Each writer owns half of the keys and knows what they must hold.
                let mut expected = [None; 20];
                let mut random = 88172645463325252 + writer;
                for round in 0..ROUNDS {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let own = (random % 20) as usize;
                    let key = own as u64 * 2 + writer;
                    if random & 0x300 == 0 {
                        assert_eq!(
                            delete(&map, key) == 0,
                            expected[own].is_some(),
                            "writer {writer} round {round}"
                        );
                        expected[own] = None;
                    } else {
                        assert_eq!(
                            update(&map, key, &[round; 4]),
                            0,
                            "writer {writer} round {round}"
                        );
                        expected[own] = Some(round);
                    }
                    let mut value = [0u8; 32];
                    let seen = map
                        .sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut value, 0)
                        .ok();
                    let seen = seen.map(|()| u64::from_ne_bytes(value[24..].try_into().unwrap()));
                    assert_eq!(seen, expected[own], "writer {writer} round {round}");
                }
                expected.iter().flatten().count()
            })
        })
        .collect();
    let reader = std::thread::spawn({
        let (map, stop) = (map.clone(), stop.clone());
        move || {
            let mut key = 0u64;
            while !stop.load(Ordering::Relaxed) {
                key = (key + 1) % 40;
                let mut value = [0u8; 32];
                if map
                    .sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut value, 0)
                    .is_ok()
                {
                    let words: Vec<_> = value.chunks(8).collect();
                    assert!(
                        words.iter().all(|word| *word == words[0]),
                        "torn: {value:?}"
                    );
                }
            }
        }
    });
    let live: usize = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .sum();
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert_eq!(count(&map), live);
    // Nothing leaked: the map takes exactly max_entries elements.
    for key in 0..40 {
        let _ = delete(&map, key);
    }
    let fits = (1000..2000)
        .take_while(|key| update(&map, *key, &[0; 4]) == 0)
        .count();
    assert_eq!(fits as u32, attr.max_entries);
}

#[test]
fn two_writers_and_a_reader_on_a_roomy_hash() {
    repeat("hash", || hammer(MapAttr::new(MapType::Hash, 8, 32, 64)));
}

#[test]
fn two_writers_and_a_reader_on_a_hash_at_capacity() {
    repeat("full hash", || {
        hammer(MapAttr::new(MapType::Hash, 8, 32, 40));
    });
}

#[test]
fn two_writers_and_a_reader_without_preallocation() {
    repeat("hash without preallocation", || {
        hammer(MapAttr::new(MapType::Hash, 8, 32, 40).with_flags(map_create::NO_PREALLOC));
    });
}

#[test]
fn lru_writers_see_their_own_values() {
    repeat("LRU hash", || lru(0));
}

#[test]
fn lru_writers_with_lists_of_their_own_see_their_own_values() {
    repeat("LRU hash with per-CPU lists", || {
        lru(map_create::NO_COMMON_LRU)
    });
}

fn lru(flags: u32) {
    let map = Map::create(&MapAttr::new(MapType::LruHash, 8, 32, 32).with_flags(flags)).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let map = &map;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let key = (round % 100) * 2 + writer;
                    assert_eq!(update(map, key, &[round; 4]), 0);
                    let mut value = [0u8; 32];
                    if map
                        .sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut value, 0)
                        .is_ok()
                    {
                        assert_eq!(value, [round.to_ne_bytes(); 4].concat()[..]);
                    }
                }
            });
        }
    });
    assert!(count(&map) <= map.max_entries() as usize);
    map.sys_update(Access::ReadWrite, &7u64.to_ne_bytes(), &[1; 32], 0, &NoFds)
        .unwrap();
}

#[test]
fn additions_through_pointers_are_all_there() {
    repeat("counters", || {
        for map_type in [MapType::Hash, MapType::Array, MapType::LruHash] {
            let map = Map::create(&MapAttr::new(map_type, 4, 8, 16)).unwrap();
            for key in 0..16u32 {
                map.sys_update(
                    Access::ReadWrite,
                    &key.to_ne_bytes(),
                    &0u64.to_ne_bytes(),
                    0,
                    &NoFds,
                )
                .unwrap();
            }
            std::thread::scope(|scope| {
                for thread in 0..2u64 {
                    let map = &map;
                    scope.spawn(move || {
                        for round in 0..ROUNDS {
                            let key = ((round + thread) % 16) as u32;
                            let _run = rcu::read();
                            // SAFETY: the key has 4 bytes; values are aligned words.
                            unsafe {
                                let key = (&raw const key) as u64;
                                let found = abi::lookup_elem(map.program_ptr(), key, 0, 0, 0);
                                assert_ne!(found, 0);
                                AtomicU64::from_ptr(found as *mut u64)
                                    .fetch_add(round, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            let sum: u64 = (0..16u32)
                .map(|key| {
                    let mut value = [0; 8];
                    map.sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut value, 0)
                        .unwrap();
                    u64::from_ne_bytes(value)
                })
                .sum();
            assert_eq!(sum, ROUNDS * (ROUNDS - 1), "{map_type:?}");
        }
    });
}

#[test]
fn tries_hold_what_two_writers_put_in() {
    repeat("LPM trie", || {
        let attr = MapAttr::new(MapType::LpmTrie, 8, 32, 64).with_flags(map_create::NO_PREALLOC);
        let map = Map::create(&attr).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..2u8 {
                let map = &map;
                scope.spawn(move || {
                    let mut expected = [None; 24];
                    let mut random = 88172645463325252 + u64::from(writer);
                    for round in 0..ROUNDS / 4 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let own = (random % 24) as usize;
                        // Prefixes of one writer contain each other, and lie between the other's.
                        let bits = 9 + own as u32;
                        let mut key = [0u8; 8];
                        key[..4].copy_from_slice(&bits.to_ne_bytes());
                        key[4] = writer << 7;
                        if random & 0x300 == 0 {
                            let deleted = map.sys_delete(Access::ReadWrite, &key, &NoFds);
                            assert_eq!(deleted.is_ok(), expected[own].is_some());
                            expected[own] = None;
                        } else {
                            let value = [round.to_ne_bytes(); 4].concat();
                            map.sys_update(Access::ReadWrite, &key, &value, 0, &NoFds)
                                .unwrap();
                            expected[own] = Some(round);
                        }
                        // The longest prefix that is there.
                        let longest = expected[..=own].iter().rev().find_map(|value| *value);
                        let mut value = [0u8; 32];
                        let seen = map
                            .sys_lookup(Access::ReadWrite, &key, &mut value, 0)
                            .ok()
                            .map(|()| value);
                        let wanted = longest.map(|round| [round.to_ne_bytes(); 4].concat());
                        assert_eq!(seen.map(|value| value.to_vec()), wanted, "round {round}");
                    }
                    for own in 0..24u32 {
                        let mut key = [0u8; 8];
                        key[..4].copy_from_slice(&(9 + own).to_ne_bytes());
                        key[4] = writer << 7;
                        let _ = map.sys_delete(Access::ReadWrite, &key, &NoFds);
                    }
                });
            }
        });
        let key = |number: u32| {
            let mut key = [0u8; 8];
            key[..4].copy_from_slice(&32u32.to_ne_bytes());
            key[4..].copy_from_slice(&number.to_be_bytes());
            key
        };
        let fits = (0..200)
            .take_while(|number| {
                map.sys_update(Access::ReadWrite, &key(*number), &[0; 32], 0, &NoFds)
                    .is_ok()
            })
            .count();
        assert_eq!(fits, 64);
    });
}

#[test]
fn what_one_thread_pushes_the_other_pops_once() {
    repeat("queue and stack", || {
        for map_type in [MapType::Queue, MapType::Stack] {
            let map = Map::create(&MapAttr::new(map_type, 0, 32, 8)).unwrap();
            let (pushed, popped) = std::thread::scope(|scope| {
                let pushing = scope.spawn(|| {
                    let mut sum = 0;
                    for number in 1..=ROUNDS {
                        let value = [number; 4];
                        let at = value.as_ptr() as u64;
                        // SAFETY: 32 bytes, as the values of the map.
                        while unsafe { abi::push_elem(map.program_ptr(), at, 0, 0, 0) } != 0 {
                            std::thread::yield_now();
                        }
                        sum += number;
                    }
                    sum
                });
                let popping = scope.spawn(|| {
                    let (mut sum, mut taken, mut last) = (0, 0, 0);
                    while taken < ROUNDS {
                        let mut value = [0u64; 4];
                        let at = value.as_mut_ptr() as u64;
                        // SAFETY: as above.
                        if unsafe { abi::pop_elem(map.program_ptr(), at, 0, 0, 0) } != 0 {
                            std::thread::yield_now();
                            continue;
                        }
                        assert!(value.iter().all(|word| *word == value[0]), "{value:?}");
                        assert!(map_type == MapType::Stack || value[0] == last + 1);
                        last = value[0];
                        sum += last;
                        taken += 1;
                    }
                    sum
                });
                (pushing.join().unwrap(), popping.join().unwrap())
            });
            assert_eq!(pushed, popped);
        }
    });
}

#[test]
fn records_arrive_whole_and_in_order() {
    repeat("ring buffer", || {
        let map = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
        let ring = map.downcast::<RingBuf>().unwrap();
        let dropped = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let producer = scope.spawn(|| {
                for number in 0..ROUNDS {
                    // Lengths that end anywhere in the ring; every word is the record's number.
                    let record = vec![number; 1 + (number % 60) as usize];
                    let bytes = record.len() as u64 * 8;
                    // SAFETY: readable for its length.
                    while unsafe { ring.output(record.as_ptr().cast(), bytes, 0) }.is_err() {
                        dropped.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                    }
                }
                done.store(true, Ordering::Release);
            });
            let mut next = 0;
            let mut take = |record: &[u8]| {
                assert_eq!(record.len() as u64, 8 * (1 + next % 60));
                let whole = record.chunks(8).all(|word| word == next.to_ne_bytes());
                assert!(whole, "record {next}: {record:?}");
                next += 1;
            };
            while !done.load(Ordering::Acquire) {
                if ring.consume(&mut take) == 0 {
                    std::thread::yield_now();
                }
            }
            ring.consume(&mut take);
            assert_eq!(next, ROUNDS);
            producer.join().unwrap();
        });
    });
}

/// Descriptors are indices of a list.
struct Inner(Vec<Arc<Map>>);

impl FdTable for Inner {
    fn map(&self, fd: u32) -> Result<Arc<Map>, Errno> {
        self.0.get(fd as usize).cloned().ok_or(Errno::EBADF)
    }
}

#[test]
fn objects_in_slots_live_for_readers_and_not_for_ever() {
    repeat("prog array and maps of maps", || {
        let inner: Vec<_> = (0..3)
            .map(|_| Map::create(&MapAttr::new(MapType::Array, 4, 8, 1)).unwrap())
            .collect();
        let program: Arc<u32> = Arc::new(0);
        let progs = Map::create(&MapAttr::new(MapType::ProgArray, 4, 4, 2)).unwrap();
        progs.downcast::<ProgArray>().unwrap().set_stub(1);
        for map_type in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
            let outer =
                Map::create(&MapAttr::new(map_type, 4, 4, 2).with_inner(inner[0].clone())).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let fds = Inner(inner.clone());
                    let array = progs.downcast::<ProgArray>().unwrap();
                    for round in 0..ROUNDS / 60 {
                        let key = ((round % 2) as u32).to_ne_bytes();
                        let fd = ((round % 3) as u32).to_ne_bytes();
                        outer
                            .sys_update(Access::ReadWrite, &key, &fd, 0, &fds)
                            .unwrap();
                        let slot = ProgSlot {
                            entry: 2,
                            id: 2,
                            owner_key: OwnerKey::new(ProgType::Xdp, true),
                            keep: common::prog_holding(program.clone()),
                        };
                        array.set((round % 2) as u32, slot).unwrap();
                        if round % 5 == 0 {
                            let _ = outer.sys_delete(Access::ReadWrite, &key, &fds);
                            let _ = array.clear((round % 2) as u32);
                        }
                    }
                    array.clear_all();
                });
                scope.spawn(|| {
                    let array = progs.downcast::<ProgArray>().unwrap();
                    for round in 0..ROUNDS {
                        let key = (round % 2) as u32;
                        assert!(matches!(array.entry(key), 1 | 2));
                        let _run = rcu::read();
                        // SAFETY: keys of 4 bytes; an inner map lives for the section.
                        unsafe {
                            let at = (&raw const key) as u64;
                            let found = abi::lookup_elem(outer.program_ptr(), at, 0, 0, 0);
                            if found != 0 {
                                let at = (&raw const key) as u64;
                                let value = abi::lookup_elem(found, at, 0, 0, 0);
                                assert_eq!(value != 0, key == 0);
                            }
                        }
                    }
                });
            });
        }
        rcu::barrier().unwrap();
        rcu::barrier().unwrap();
        assert!(inner.iter().all(|map| Arc::strong_count(map) == 1));
        assert_eq!(Arc::strong_count(&program), 1);
    });
}
