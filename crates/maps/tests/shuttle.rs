//! Interleavings of hash, LRU, ring buffer and prog array under shuttle: threads switch at the points of `ring3_sync::interleave`,
//! which release builds do not have.
#![cfg(debug_assertions)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_maps::{Access, Map, MapAttr, MapType, OwnerKey, ProgArray, ProgSlot, RingBuf, abi};
use ring3_sync::{interleave, rcu};
use ring3_uapi::ProgType;
use ring3_uapi::flags::map_create;
use shuttle::thread;

/// Schedules tried for each test.
const SCHEDULES: usize = 400;

fn explore(test: impl Fn() + Send + Sync + 'static) {
    interleave::install(interleave::Hooks {
        point: thread::yield_now,
        thread: || shuttle::current::get_current_task().map(usize::from),
    });
    let test = Arc::new(test);
    let again = test.clone();
    shuttle::check_random(move || test(), SCHEDULES);
    shuttle::check_pct(move || again(), SCHEDULES, 3);
}

fn update(map: &Map, key: u64, value: u64) -> i64 {
    let _run = rcu::read();
    let value = [value; 4];
    // SAFETY: keys of 8 and values of 32 bytes, as all maps here.
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
    // SAFETY: as above.
    unsafe { abi::delete_elem(map.program_ptr(), (&raw const key) as u64, 0, 0, 0) as i64 }
}

fn prog_has(map: &Map, key: u64) -> bool {
    let _run = rcu::read();
    // SAFETY: as above.
    unsafe { abi::lookup_elem(map.program_ptr(), (&raw const key) as u64, 0, 0, 0) != 0 }
}

/// The value, which must be whole.
fn read(map: &Map, key: u64) -> Option<u64> {
    let mut value = [0; 32];
    map.sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut value, 0)
        .ok()?;
    let words: Vec<u64> = value
        .chunks(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
        .collect();
    assert!(
        words.iter().all(|word| *word == words[0]),
        "torn: {words:?}"
    );
    Some(words[0])
}

/// Keys of one bucket: with one bucket, all are.
fn small_hash(entries: u32) -> Arc<Map> {
    Map::create(&MapAttr::new(MapType::Hash, 8, 32, entries)).unwrap()
}

#[test]
fn a_key_that_stays_is_found_while_others_come_and_go() {
    explore(|| {
        let map = small_hash(4);
        assert_eq!(update(&map, 1, 10), 0);
        let other = map.clone();
        let churn = thread::spawn(move || {
            for round in 0..3 {
                assert_eq!(update(&other, 2, round), 0);
                assert_eq!(update(&other, 1, 20 + round), 0);
                assert_eq!(delete(&other, 2), 0);
            }
        });
        for _ in 0..4 {
            assert!(prog_has(&map, 1));
            assert!(matches!(read(&map, 1), Some(10 | 20..23)));
        }
        churn.join().unwrap();
        assert_eq!((read(&map, 1), read(&map, 2)), (Some(22), None));
    });
}

/// `count` keys of one bucket of a map with 4 buckets and the constant seed.
fn keys_of_one_bucket(count: usize) -> Vec<u64> {
    // The hash of `hash::key` without a seed.
    let hash = |key: u64| {
        let product = u128::from(key) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    };
    (1..)
        .filter(|key| hash(*key) & 3 == 0)
        .take(count)
        .collect()
}

/// A map of 4 buckets, of which one holds 11 elements: 8 in its places, 3 in its chain.
fn chained(flags: u32) -> (Arc<Map>, Vec<u64>) {
    let flags = flags | map_create::ZERO_SEED;
    let map = Map::create(&MapAttr::new(MapType::Hash, 8, 32, 16).with_flags(flags)).unwrap();
    let keys = keys_of_one_bucket(14);
    for key in &keys[..11] {
        assert_eq!(update(&map, *key, *key), 0);
    }
    (map, keys)
}

#[test]
fn the_keys_of_these_tests_share_a_bucket() {
    // One thread; under the scheduler, since the points ask it.
    let test = || {
        let (map, keys) = chained(0);
        // A walk goes by buckets: the keys of one follow each other, also between keys of others.
        for key in 1_000_000..1_000_005 {
            assert_eq!(update(&map, key, key), 0);
        }
        let mut walk = Vec::new();
        let (mut last, mut next) = (None::<[u8; 8]>, [0; 8]);
        while map
            .sys_next_key(
                Access::ReadWrite,
                last.as_ref().map(|key| &key[..]),
                &mut next,
            )
            .is_ok()
        {
            walk.push(keys[..11].contains(&u64::from_ne_bytes(next)));
            last = Some(next);
        }
        assert_eq!(walk.len(), 16);
        let first = walk.iter().position(|own| *own).unwrap();
        let run = walk[first..].iter().rposition(|own| *own).unwrap() + 1;
        // Others of the same bucket may stand between.
        assert!(
            run < 16 && walk.iter().filter(|own| **own).count() == 11,
            "{walk:?}"
        );
    };
    shuttle::check_random(test, 1);
}

#[test]
fn chained_keys_are_found_while_places_are_freed() {
    for flags in [0, map_create::NO_PREALLOC] {
        explore(move || {
            let (map, keys) = chained(flags);
            let (other, own) = (map.clone(), keys.clone());
            let churn = thread::spawn(move || {
                // From a place, from the head of the chain, from its end.
                for (gone, new) in [(0, 11), (10, 12), (8, 13)] {
                    assert_eq!(delete(&other, own[gone]), 0);
                    assert_eq!(update(&other, own[new], own[new]), 0);
                }
            });
            for at in [7, 9, 1] {
                assert!(prog_has(&map, keys[at]));
                assert_eq!(read(&map, keys[at]), Some(keys[at]));
            }
            churn.join().unwrap();
            for (at, key) in keys.iter().enumerate() {
                let there = ![0, 8, 10].contains(&at);
                assert_eq!(read(&map, *key), there.then_some(*key));
            }
        });
    }
}

#[test]
fn deleted_elements_come_back_without_preallocation() {
    explore(|| {
        let attr = MapAttr::new(MapType::Hash, 8, 32, 4).with_flags(map_create::NO_PREALLOC);
        let map = Map::create(&attr).unwrap();
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let map = map.clone();
                thread::spawn(move || {
                    for round in 0..40 {
                        assert_eq!(update(&map, writer, round), 0);
                        assert_eq!(read(&map, writer), Some(round));
                        assert_eq!(delete(&map, writer), 0);
                    }
                })
            })
            .collect();
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        for key in 0..4 {
            assert_eq!(update(&map, key, key), 0);
        }
        assert_eq!(update(&map, 4, 4), ring3_maps::Errno::E2BIG.negated());
    });
}

#[test]
fn two_writers_of_one_key_make_one_element() {
    explore(|| {
        let map = small_hash(2);
        let writers: Vec<_> = (1..3)
            .map(|writer| {
                let map = map.clone();
                thread::spawn(move || {
                    assert_eq!(update(&map, 7, writer), 0);
                    let deleted = delete(&map, 7);
                    assert!(deleted == 0 || deleted == -2, "{deleted}");
                    assert_eq!(update(&map, 7, writer + 10), 0);
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(matches!(read(&map, 7), Some(11 | 12)));
        // One element is in use: the other one is free.
        assert_eq!(update(&map, 8, 1), 0);
        assert_eq!(update(&map, 9, 1), -7);
    });
}

#[test]
fn who_deletes_from_a_full_map_can_insert() {
    explore(|| {
        // The first insertion that finds the map full collects what buckets keep for themselves; nobody may be told meanwhile that there is no room.
        let map = small_hash(3);
        for key in 0..3 {
            assert_eq!(update(&map, key, key), 0);
        }
        let writers: Vec<_> = (0..2)
            .map(|writer: u64| {
                let map = map.clone();
                thread::spawn(move || {
                    let mut own = writer;
                    for round in 0..3 {
                        assert_eq!(delete(&map, own), 0);
                        own = 10 + 10 * writer + round;
                        assert_eq!(update(&map, own, own), 0);
                        assert_eq!(read(&map, own), Some(own));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!((read(&map, 12), read(&map, 22)), (Some(12), Some(22)));
        assert_eq!(update(&map, 99, 1), -7);
    });
}

#[test]
fn a_replaced_value_is_whole_while_its_key_comes_and_goes() {
    explore(|| {
        // Replacement, deletion and insertion of one key, which gets the same element again.
        let map = small_hash(4);
        assert_eq!(update(&map, 1, 1), 0);
        let replacing = map.clone();
        let replacer = thread::spawn(move || {
            for round in 2..5 {
                assert_eq!(update(&replacing, 1, round), 0);
            }
        });
        let deleting = map.clone();
        let deleter = thread::spawn(move || {
            for round in 10..12 {
                let deleted = delete(&deleting, 1);
                assert!(deleted == 0 || deleted == -2, "{deleted}");
                assert_eq!(update(&deleting, 1, round), 0);
            }
        });
        for _ in 0..3 {
            assert!(matches!(read(&map, 1), None | Some(1..5 | 10 | 11)));
        }
        replacer.join().unwrap();
        deleter.join().unwrap();
        assert!(matches!(read(&map, 1), Some(4 | 11)));
        // One element is in use.
        for key in 20..23 {
            assert_eq!(update(&map, key, 1), 0);
        }
        assert_eq!(update(&map, 99, 1), -7);
    });
}

#[test]
fn a_full_lru_makes_room_for_both() {
    explore(|| {
        let map = Map::create(&MapAttr::new(MapType::LruHash, 8, 32, 4)).unwrap();
        for key in 0..4 {
            assert_eq!(update(&map, key, key), 0);
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let map = map.clone();
                thread::spawn(move || {
                    for key in 0..3 {
                        let key = 100 + writer * 10 + key;
                        assert_eq!(update(&map, key, key), 0);
                        if let Some(seen) = read(&map, key) {
                            assert_eq!(seen, key);
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let live = (0..200).filter(|key| read(&map, *key).is_some()).count();
        assert_eq!(live, 4);
    });
}

#[test]
fn a_ring_wakes_its_consumer_and_loses_no_record() {
    explore(|| {
        let map = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
        let total = Arc::new(AtomicU64::new(0));
        let producers: Vec<_> = (0..2)
            .map(|producer: u64| {
                let map = map.clone();
                thread::spawn(move || {
                    let ring = map.downcast::<RingBuf>().unwrap();
                    for number in 0..3 {
                        let record = [producer, number];
                        // SAFETY: 16 readable bytes.
                        unsafe { ring.output(record.as_ptr().cast(), 16, 0) }.unwrap();
                    }
                })
            })
            .collect();
        let ring = map.downcast::<RingBuf>().unwrap();
        let mut next = [0; 2];
        let mut take = |record: &[u8]| {
            let producer = usize::from(record[0]);
            assert_eq!(u64::from(record[8]), next[producer], "out of order");
            next[producer] += 1;
            total.fetch_add(1, Ordering::Relaxed);
        };
        // A consumer that sleeps whenever the event says that nothing came must still see everything.
        for _ in 0..20 {
            if ring.event().take() != 0 {
                ring.consume(&mut take);
            }
            thread::yield_now();
        }
        for producer in producers {
            producer.join().unwrap();
        }
        while ring.event().take() != 0 {
            ring.consume(&mut take);
        }
        assert_eq!(
            total.load(Ordering::Relaxed),
            6,
            "asleep with records in the ring"
        );
    });
}

#[test]
fn a_slot_of_a_prog_array_is_always_a_program_or_the_stub() {
    explore(|| {
        let map = Map::create(&MapAttr::new(MapType::ProgArray, 4, 4, 1)).unwrap();
        let array = map.downcast::<ProgArray>().unwrap();
        array.set_stub(1);
        let keep: Arc<u32> = Arc::new(0);
        let writers: Vec<_> = (2..4u32)
            .map(|writer| {
                let (map, keep) = (map.clone(), keep.clone());
                thread::spawn(move || {
                    let array = map.downcast::<ProgArray>().unwrap();
                    let owner_key = OwnerKey::new(ProgType::Xdp, true);
                    array
                        .set(
                            0,
                            ProgSlot {
                                entry: writer as usize,
                                id: writer,
                                owner_key,
                                keep: common::prog_holding(keep),
                            },
                        )
                        .unwrap();
                    thread::yield_now();
                    let _ = array.clear(0);
                })
            })
            .collect();
        for _ in 0..5 {
            let entry = array.entry(0);
            assert!((1..4).contains(&entry), "{entry}");
            thread::yield_now();
        }
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!((array.entry(0), array.slot(0).is_none()), (1, true));
    });
}
