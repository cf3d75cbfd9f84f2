//! Random operation sequences on per-CPU and LRU maps, each against a model.

use ring3_maps::fd::NoFds;
use ring3_maps::{Access, Errno, Map, MapAttr, MapType, abi};
use ring3_os::cpu::possible_cpus;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use std::collections::BTreeMap;

use crate::random::{bytes, random};

#[test]
fn percpu_maps_follow_the_model() {
    for map_type in [MapType::PercpuHash, MapType::PercpuArray] {
        let is_array = map_type == MapType::PercpuArray;
        let map = Map::create(&MapAttr::new(map_type, 4, 12, 6)).unwrap();
        let cpus = possible_cpus();
        // Values by key, one a CPU.
        let mut model: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
        if is_array {
            model.extend((0..6).map(|key| (key, vec![vec![0; 12]; cpus])));
        }
        let mut state = u64::from(map_type.raw());
        for step in 0..6000 {
            let number = random(&mut state);
            let key = (number % 9) as u32;
            let key_bytes = key.to_ne_bytes();
            let full = model.len() == 6 && !model.contains_key(&key);
            let context = format!("{map_type:?} step {step} key {key}");
            match number >> 8 & 7 {
                0 | 1 => {
                    let values: Vec<_> = (0..cpus)
                        .map(|cpu| bytes(number + cpu as u64, 12))
                        .collect();
                    let mut all = Vec::new();
                    for value in &values {
                        all.extend(value);
                        all.resize(all.len().next_multiple_of(8), 0);
                    }
                    let answer = map.sys_update(Access::ReadWrite, &key_bytes, &all, 0, &NoFds);
                    let expected = if full { Err(Errno::E2BIG) } else { Ok(()) };
                    assert_eq!(answer, expected, "{context}: update");
                    if expected.is_ok() {
                        model.insert(key, values);
                    }
                }
                2 | 3 => {
                    let value = bytes(number, 12);
                    let run = rcu::read();
                    // SAFETY: key and value have the map's sizes.
                    let answer = unsafe {
                        let (key, value) = (key_bytes.as_ptr() as u64, value.as_ptr() as u64);
                        abi::update_elem(map.program_ptr(), key, value, 0, 0) as i64
                    };
                    let expected = if full { Errno::E2BIG.negated() } else { 0 };
                    assert_eq!(answer, expected, "{context}: a program's update");
                    if answer == 0 {
                        let values = model.entry(key).or_insert_with(|| vec![vec![0; 12]; cpus]);
                        values[run.cpu()] = value;
                    }
                }
                4 => {
                    let answer = map.sys_delete(Access::ReadWrite, &key_bytes, &NoFds);
                    let expected = match model.get(&key) {
                        _ if is_array => Err(Errno::EINVAL),
                        Some(_) => Ok(()),
                        None => Err(Errno::ENOENT),
                    };
                    assert_eq!(answer, expected, "{context}: delete");
                    if !is_array {
                        model.remove(&key);
                    }
                }
                5 => {
                    let cpu = (number >> 16) % (cpus as u64 + 1);
                    let _run = rcu::read();
                    // SAFETY: the key has the map's size; the value is read inside the section.
                    let seen = unsafe {
                        let key = key_bytes.as_ptr() as u64;
                        let at = abi::lookup_percpu_elem(map.program_ptr(), key, cpu, 0, 0);
                        (at != 0).then(|| std::slice::from_raw_parts(at as *const u8, 12).to_vec())
                    };
                    let expected = model.get(&key).and_then(|values| values.get(cpu as usize));
                    assert_eq!(seen.as_ref(), expected, "{context}: CPU {cpu}");
                }
                _ => {
                    let mut all = vec![0xee; map.sys_value_bytes()];
                    let answer = map.sys_lookup(Access::ReadWrite, &key_bytes, &mut all, 0);
                    assert_eq!(
                        answer.is_ok(),
                        model.contains_key(&key),
                        "{context}: look-up"
                    );
                    if let Some(values) = model.get(&key) {
                        for (value, seen) in values.iter().zip(all.chunks(16)) {
                            assert_eq!(
                                (&value[..], [0; 4]),
                                (&seen[..12], seen[12..].try_into().unwrap())
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn lru_maps_hold_the_last_value_or_none() {
    for (map_type, flags) in [
        (MapType::LruHash, 0),
        (MapType::LruHash, map_create::NO_COMMON_LRU),
        (MapType::LruPercpuHash, 0),
        (MapType::LruPercpuHash, map_create::NO_COMMON_LRU),
    ] {
        let map = Map::create(&MapAttr::new(map_type, 4, 16, 32).with_flags(flags)).unwrap();
        let len = map.sys_value_bytes();
        let mut last: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut state = 77 + u64::from(flags);
        for step in 0..8000 {
            let number = random(&mut state);
            let key = (number % 80) as u32;
            let key_bytes = key.to_ne_bytes();
            let mut seen = vec![0; len];
            let is_there = map
                .sys_lookup(Access::ReadWrite, &key_bytes, &mut seen, 0)
                .is_ok();
            let context = format!("{map_type:?} {flags:#x} step {step} key {key}");
            if is_there {
                assert_eq!(Some(&seen), last.get(&key), "{context}");
            }
            match number >> 8 & 7 {
                0..5 => {
                    let value = bytes(number, len);
                    let flags =
                        [0, map_elem::NOEXIST, map_elem::EXIST][(number >> 12) as usize % 3];
                    let answer =
                        map.sys_update(Access::ReadWrite, &key_bytes, &value, flags, &NoFds);
                    let expected = match (flags, is_there) {
                        (map_elem::NOEXIST, true) => Err(Errno::EEXIST),
                        (map_elem::EXIST, false) => Err(Errno::ENOENT),
                        // There is always room.
                        _ => Ok(()),
                    };
                    assert_eq!(answer, expected, "{context}: update with {flags}");
                    if answer.is_ok() {
                        last.insert(key, value.clone());
                        let mut seen = vec![0; len];
                        map.sys_lookup(Access::ReadWrite, &key_bytes, &mut seen, 0)
                            .unwrap();
                        assert_eq!(seen, value, "{context}");
                    }
                }
                5 => {
                    let answer = map.sys_delete(Access::ReadWrite, &key_bytes, &NoFds);
                    assert_eq!(answer.is_ok(), is_there, "{context}: delete");
                    last.remove(&key);
                }
                _ => {
                    let mut taken = vec![0; len];
                    let answer =
                        map.sys_lookup_and_delete(Access::ReadWrite, &key_bytes, &mut taken, 0);
                    assert_eq!(answer.is_ok(), is_there, "{context}: look-up and delete");
                    if is_there {
                        assert_eq!(Some(taken), last.remove(&key), "{context}");
                    }
                }
            }
        }
        let live = (0..80u32)
            .filter(|key| {
                let mut seen = vec![0; len];
                map.sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut seen, 0)
                    .is_ok()
            })
            .count();
        assert!((1..=map.max_entries() as usize).contains(&live), "{live}");
    }
}
