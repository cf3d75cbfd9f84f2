//! Two threads on one map: no lost update, no torn value, no leaked element.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ring3_maps::fd::NoFds;
use ring3_maps::{Access, Map, MapAttr, MapType, abi};
use ring3_sync::rcu;
use ring3_uapi::flags::map_create;

/// Updates before the stress ends; the benches run it for long.
const ROUNDS: u64 = 60_000;

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
    hammer(MapAttr::new(MapType::Hash, 8, 32, 64));
}

#[test]
fn two_writers_and_a_reader_on_a_hash_at_capacity() {
    hammer(MapAttr::new(MapType::Hash, 8, 32, 40));
}

#[test]
fn two_writers_and_a_reader_without_preallocation() {
    hammer(MapAttr::new(MapType::Hash, 8, 32, 40).with_flags(map_create::NO_PREALLOC));
}

#[test]
fn lru_writers_see_their_own_values() {
    let map = Map::create(&MapAttr::new(MapType::LruHash, 8, 32, 32)).unwrap();
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
    assert!(count(&map) <= 32);
    map.sys_update(Access::ReadWrite, &7u64.to_ne_bytes(), &[1; 32], 0, &NoFds)
        .unwrap();
}
