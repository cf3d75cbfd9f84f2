//! Random operation sequences against simple reference models, through both faces of a map: system calls and program helpers.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring3_maps::fd::NoFds;
use ring3_maps::{Access, Errno, Map, MapAttr, MapType, abi};
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};

/// A small deterministic generator (xorshift64*): failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// One map and how to call it.
struct Subject {
    map: Arc<Map>,
    key_bytes: usize,
    value_bytes: usize,
}

impl Subject {
    fn new(attr: MapAttr) -> Self {
        let map = Map::create(&attr).unwrap();
        Subject {
            key_bytes: attr.key_size as usize,
            value_bytes: attr.value_size as usize,
            map,
        }
    }

    fn key(&self, number: u64) -> Vec<u8> {
        // Keys differ in their last bytes too, so that tails are compared.
        let mut key = vec![0x5a; self.key_bytes];
        let number = number.to_ne_bytes();
        let len = self.key_bytes.min(8);
        key[..len].copy_from_slice(&number[..len]);
        let last = self.key_bytes - 1;
        key[last] ^= number[0];
        key
    }

    fn value(&self, number: u64) -> Vec<u8> {
        number
            .to_ne_bytes()
            .iter()
            .copied()
            .cycle()
            .take(self.value_bytes)
            .collect()
    }

    fn prog_lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        let _run = rcu::read();
        // SAFETY: the key has the map's key size, the value is read inside the section.
        unsafe {
            let value =
                abi::lookup_elem(self.map.program_ptr(), key.as_ptr() as u64, 0, 0, 0) as *const u8;
            (!value.is_null()).then(|| std::slice::from_raw_parts(value, self.value_bytes).to_vec())
        }
    }

    fn prog_update(&self, key: &[u8], value: &[u8], flags: u64) -> i64 {
        let _run = rcu::read();
        // SAFETY: key and value have the map's sizes.
        unsafe {
            abi::update_elem(
                self.map.program_ptr(),
                key.as_ptr() as u64,
                value.as_ptr() as u64,
                flags,
                0,
            ) as i64
        }
    }

    fn prog_delete(&self, key: &[u8]) -> i64 {
        let _run = rcu::read();
        // SAFETY: the key has the map's key size.
        unsafe { abi::delete_elem(self.map.program_ptr(), key.as_ptr() as u64, 0, 0, 0) as i64 }
    }

    fn sys_lookup(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; self.map.sys_value_bytes()];
        self.map.sys_lookup(Access::ReadWrite, key, &mut value, 0)?;
        Ok(value)
    }

    fn sys_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.map
            .sys_update(Access::ReadWrite, key, value, flags, &NoFds)
    }

    fn all_keys(&self) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0; self.key_bytes];
            match self
                .map
                .sys_next_key(Access::ReadWrite, last.as_deref(), &mut next)
            {
                Ok(()) => {
                    keys.push(next.clone());
                    last = Some(next);
                    assert!(
                        keys.len() <= self.map.max_entries() as usize,
                        "the walk does not end"
                    );
                }
                Err(errno) => {
                    assert_eq!(errno, Errno::ENOENT);
                    return keys;
                }
            }
        }
    }
}

fn negative(errno: Errno) -> i64 {
    errno.negated()
}

fn hash_model(attr: MapAttr, steps: u64, seed: u64) {
    let subject = Subject::new(attr);
    let max_entries = subject.map.max_entries() as usize;
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut random = Random(seed);
    for step in 0..steps {
        let number = random.below(max_entries as u64 * 2);
        let key = subject.key(number);
        match random.below(10) {
            0..4 => {
                let value = subject.value(random.next());
                let flags = [
                    map_elem::ANY,
                    map_elem::ANY,
                    map_elem::NOEXIST,
                    map_elem::EXIST,
                    3,
                ][random.below(5) as usize];
                let expected = match (flags, model.contains_key(&key)) {
                    (3, _) => Err(Errno::EINVAL),
                    (map_elem::NOEXIST, true) => Err(Errno::EEXIST),
                    (map_elem::EXIST, false) => Err(Errno::ENOENT),
                    (_, false) if model.len() == max_entries => Err(Errno::E2BIG),
                    _ => Ok(()),
                };
                if random.below(2) == 0 {
                    assert_eq!(
                        subject.sys_update(&key, &value, flags),
                        expected,
                        "step {step}"
                    );
                } else {
                    assert_eq!(
                        subject.prog_update(&key, &value, flags),
                        expected.map_or_else(negative, |()| 0),
                        "step {step}"
                    );
                }
                if expected.is_ok() {
                    model.insert(key, value);
                }
            }
            4..6 => {
                let expected = model.remove(&key);
                if random.below(2) == 0 {
                    let answer = subject.map.sys_delete(Access::ReadWrite, &key, &NoFds);
                    assert_eq!(answer.is_ok(), expected.is_some(), "step {step}");
                } else {
                    let answer = subject.prog_delete(&key);
                    assert_eq!(
                        answer,
                        if expected.is_some() {
                            0
                        } else {
                            negative(Errno::ENOENT)
                        },
                        "step {step}"
                    );
                }
            }
            6 => {
                let mut value = vec![0; subject.value_bytes];
                let answer =
                    subject
                        .map
                        .sys_lookup_and_delete(Access::ReadWrite, &key, &mut value, 0);
                match model.remove(&key) {
                    Some(expected) => {
                        assert_eq!((answer, value), (Ok(()), expected), "step {step}")
                    }
                    None => assert_eq!(answer, Err(Errno::ENOENT), "step {step}"),
                }
            }
            7 if step % 50 == 0 => {
                let mut keys = subject.all_keys();
                keys.sort();
                assert_eq!(
                    keys,
                    model.keys().cloned().collect::<Vec<_>>(),
                    "step {step}"
                );
            }
            _ => {
                assert_eq!(
                    subject.prog_lookup(&key).as_ref(),
                    model.get(&key),
                    "step {step}"
                );
                assert_eq!(
                    subject.sys_lookup(&key).ok().as_ref(),
                    model.get(&key),
                    "step {step}"
                );
            }
        }
    }
}

#[test]
fn hash_follows_the_model_for_every_key_size() {
    for (key_size, value_size) in [
        (4, 8),
        (8, 8),
        (16, 24),
        (1, 1),
        (3, 5),
        (12, 4),
        (20, 100),
        (7, 300),
    ] {
        let entries = if key_size == 1 { 50 } else { 97 };
        hash_model(
            MapAttr::new(MapType::Hash, key_size, value_size, entries),
            6000,
            0x1234 + u64::from(key_size),
        );
        let attr = MapAttr::new(MapType::Hash, key_size, value_size, entries)
            .with_flags(map_create::NO_PREALLOC);
        hash_model(attr, 6000, 0x987 + u64::from(key_size));
    }
}

#[test]
fn hash_chains_hold_when_buckets_overflow() {
    // One bucket of 8 places for up to 4 entries, 2 for 8: run with many entries in few buckets by choosing the smallest tables.
    for entries in [1, 2, 3, 5, 8, 9, 16, 33] {
        hash_model(
            MapAttr::new(MapType::Hash, 4, 8, entries),
            4000,
            u64::from(entries),
        );
        hash_model(
            MapAttr::new(MapType::Hash, 4, 8, entries).with_flags(map_create::ZERO_SEED),
            4000,
            u64::from(entries),
        );
    }
}

#[test]
fn array_follows_the_model() {
    for flags in [0, map_create::MMAPABLE, map_create::INNER_MAP] {
        let subject = Subject::new(MapAttr::new(MapType::Array, 4, 12, 10).with_flags(flags));
        let mut model = vec![vec![0u8; 12]; 10];
        let mut random = Random(7);
        for _ in 0..3000 {
            let index = random.below(12) as u32;
            let key = index.to_ne_bytes();
            let value = subject.value(random.next());
            let in_range = index < 10;
            match random.below(3) {
                0 => {
                    let flags = random.below(4);
                    let expected = match (flags, in_range) {
                        (3, _) => Err(Errno::EINVAL),
                        (_, false) => Err(Errno::E2BIG),
                        (map_elem::NOEXIST, _) => Err(Errno::EEXIST),
                        _ => Ok(()),
                    };
                    if random.below(2) == 0 {
                        assert_eq!(subject.sys_update(&key, &value, flags), expected);
                    } else {
                        assert_eq!(
                            subject.prog_update(&key, &value, flags),
                            expected.map_or_else(negative, |()| 0)
                        );
                    }
                    if expected.is_ok() {
                        model[index as usize] = value;
                    }
                }
                1 => {
                    assert_eq!(subject.prog_delete(&key), negative(Errno::EINVAL));
                    assert_eq!(
                        subject.prog_lookup(&key).as_ref(),
                        model.get(index as usize)
                    );
                }
                _ => assert_eq!(
                    subject.sys_lookup(&key).as_ref().ok(),
                    model.get(index as usize)
                ),
            }
        }
        assert_eq!(subject.all_keys().len(), 10);
    }
}

#[test]
fn percpu_values_are_apart() {
    let cpus = ring3_os::cpu::possible_cpus();
    for map_type in [
        MapType::PercpuArray,
        MapType::PercpuHash,
        MapType::LruPercpuHash,
    ] {
        let subject = Subject::new(MapAttr::new(map_type, 4, 12, 4));
        let key = 2u32.to_ne_bytes();
        let mut all: Vec<u8> = Vec::new();
        for cpu in 0..cpus {
            let mut one = subject.value(cpu as u64 * 0x0101 + 1);
            one.resize(16, 0);
            all.extend(one);
        }
        subject.sys_update(&key, &all, 0).unwrap();
        assert_eq!(subject.sys_lookup(&key).unwrap(), all);
        let run = rcu::read();
        let cpu = run.cpu();
        assert_eq!(
            subject.prog_lookup(&key).unwrap(),
            all[cpu * 16..cpu * 16 + 12]
        );
        let mine = subject.value(999);
        assert_eq!(subject.prog_update(&key, &mine, 0), 0);
        drop(run);
        let after = subject.sys_lookup(&key).unwrap();
        for other in 0..cpus {
            let chunk = &after[other * 16..other * 16 + 12];
            // The update may have run on another CPU than the lookup above only if the section had ended: it had not.
            let expected = if other == cpu {
                &mine[..]
            } else {
                &all[other * 16..other * 16 + 12]
            };
            assert_eq!(chunk, expected);
        }
        for other in 0..cpus as u32 + 1 {
            let _run = rcu::read();
            // SAFETY: the key has the map's key size.
            let value = unsafe {
                abi::lookup_percpu_elem(
                    subject.map.program_ptr(),
                    key.as_ptr() as u64,
                    u64::from(other),
                    0,
                    0,
                )
            };
            assert_eq!(value != 0, (other as usize) < cpus);
        }
        if map_type == MapType::PercpuArray {
            continue;
        }
        // A new element from a program: the other CPUs start at zero, whatever the memory held.
        assert_eq!(subject.prog_delete(&key), 0);
        for fresh in 10..14u32 {
            assert_eq!(subject.prog_update(&fresh.to_ne_bytes(), &mine, 0), 0);
            let all = subject.sys_lookup(&fresh.to_ne_bytes()).unwrap();
            assert_eq!(
                all.chunks(16)
                    .filter(|chunk| chunk[..12] == mine[..])
                    .count(),
                1
            );
            assert_eq!(
                all.chunks(16)
                    .filter(|chunk| chunk.iter().all(|byte| *byte == 0))
                    .count(),
                cpus - 1
            );
        }
    }
}

#[test]
fn lru_never_fills_and_keeps_what_is_used() {
    for flags in [0, map_create::NO_COMMON_LRU] {
        let subject = Subject::new(MapAttr::new(MapType::LruHash, 4, 8, 64).with_flags(flags));
        ring3_os::cpu::bind_to_cpu(0).unwrap();
        let hot = subject.key(1_000_000);
        subject.sys_update(&hot, &subject.value(1), 0).unwrap();
        for number in 0..10_000u64 {
            let key = subject.key(number);
            assert_eq!(subject.prog_update(&key, &subject.value(number), 0), 0);
            // A system call does not count as a use.
            assert_eq!(subject.sys_lookup(&key).unwrap(), subject.value(number));
            assert_eq!(
                subject.prog_lookup(&hot).unwrap(),
                subject.value(1),
                "round {number}"
            );
        }
        let kept = subject.all_keys().len();
        assert!((32..=64).contains(&kept), "{kept}");
    }
}
