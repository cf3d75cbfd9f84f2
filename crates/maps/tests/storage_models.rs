//! Random operation sequences on the map types that are neither tables of plain keys nor of descriptors: storage of owners, per-CPU values, ring
//! buffers, stack traces, struct_ops, arenas; each against a model.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use ring3_maps::fd::{FdTable, NoFds, StorageKind};
use ring3_maps::stack_trace::stackid;
use ring3_maps::{
    Access, Arena, CgroupStorage, Errno, LocalStorage, Map, MapAttr, MapType, MappingAccess,
    RingBuf, StackTrace, StructOps, StructOpsState, UserRingBuf, abi,
};
use ring3_os::cpu::{page_bytes, possible_cpus};
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Bytes of a value, from a number.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    number
        .to_ne_bytes()
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect()
}

/// Owners are the descriptors below 12.
struct Owners;

impl FdTable for Owners {
    fn storage_owner(&self, _kind: StorageKind, fd: u32) -> Result<u64, Errno> {
        if fd < 12 {
            Ok(0xffff_8000_0000_0000 + u64::from(fd) * 64)
        } else {
            Err(Errno::EBADF)
        }
    }
}

#[test]
fn local_storage_follows_the_model() {
    for (map_type, seed) in [
        (MapType::SkStorage, 1),
        (MapType::InodeStorage, 2),
        (MapType::TaskStorage, 3),
        (MapType::CgrpStorage, 4),
    ] {
        let mut attr = MapAttr::new(map_type, 4, 20, 0).with_flags(map_create::NO_PREALLOC);
        (attr.btf_key_type_id, attr.btf_value_type_id) = (1, 2);
        let map = Map::create(&attr).unwrap();
        let storage = map.downcast::<LocalStorage>().unwrap();
        let mut model: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut state = seed;
        for step in 0..8000 {
            let number = random(&mut state);
            let fd = (number % 14) as u32;
            let owner = Owners.storage_owner(storage.kind(), fd);
            let key = fd.to_ne_bytes();
            let value = bytes(number, 20);
            let context = format!("{map_type:?} step {step} owner {fd}");
            match number >> 8 & 7 {
                0 | 1 => {
                    let flags =
                        [0, map_elem::NOEXIST, map_elem::EXIST, 3, 4][(number >> 12) as usize % 5];
                    let expected = match (owner, flags, model.contains_key(&fd)) {
                        // BPF_F_LOCK without a lock in the value.
                        (_, 4, _) => Err(Errno::EINVAL),
                        (Err(errno), _, _) => Err(errno),
                        (_, 3, _) => Err(Errno::EINVAL),
                        (_, map_elem::NOEXIST, true) => Err(Errno::EEXIST),
                        (_, map_elem::EXIST, false) => Err(Errno::ENOENT),
                        _ => Ok(()),
                    };
                    let answer = map.sys_update(Access::ReadWrite, &key, &value, flags, &Owners);
                    assert_eq!(answer, expected, "{context}: update with {flags}");
                    if expected.is_ok() {
                        model.insert(fd, value);
                    }
                }
                2 => {
                    let expected =
                        owner.and_then(|_| model.remove(&fd).map(drop).ok_or(Errno::ENOENT));
                    let answer = map.sys_delete(Access::ReadWrite, &key, &Owners);
                    assert_eq!(answer, expected, "{context}: delete");
                }
                3 => {
                    // The owner goes away, or a program deletes its value.
                    if let Ok(owner) = owner {
                        let expected = model.remove(&fd).map(drop).ok_or(Errno::ENOENT);
                        assert_eq!(storage.remove(owner), expected, "{context}: remove");
                    }
                }
                4 => {
                    let Ok(owner) = owner else { continue };
                    let create = number >> 12 & 1;
                    let with_value = number >> 13 & 1 == 1;
                    if create == 1 {
                        model.entry(fd).or_insert_with(|| {
                            if with_value {
                                value.clone()
                            } else {
                                vec![0; 20]
                            }
                        });
                    }
                    let initial = if with_value {
                        value.as_ptr()
                    } else {
                        std::ptr::null()
                    };
                    let _run = rcu::read();
                    // SAFETY: the value has 20 bytes; inside a section.
                    let found = unsafe {
                        let at = storage.get(owner, initial, create);
                        (!at.is_null()).then(|| std::slice::from_raw_parts(at, 20).to_vec())
                    };
                    assert_eq!(found.as_ref(), model.get(&fd), "{context}: get");
                }
                _ => {
                    let mut seen = vec![0; 20];
                    let answer =
                        map.sys_lookup_with(Access::ReadWrite, &key, &mut seen, 0, &Owners);
                    let expected = owner.and_then(|_| model.get(&fd).ok_or(Errno::ENOENT));
                    assert_eq!(answer.map(|()| &seen), expected, "{context}: look-up");
                }
            }
        }
    }
}

#[test]
fn cgroup_storage_follows_the_model() {
    for map_type in [
        MapType::CgroupStorageDeprecated,
        MapType::PercpuCgroupStorageDeprecated,
    ] {
        for key_bytes in [8u32, 16] {
            let map = Map::create(&MapAttr::new(map_type, key_bytes, 24, 0)).unwrap();
            let storage = map.downcast::<CgroupStorage>().unwrap();
            let len = map.sys_value_bytes();
            let mut model: BTreeMap<(u64, u32), Vec<u8>> = BTreeMap::new();
            let mut state = u64::from(key_bytes);
            for step in 0..5000 {
                let number = random(&mut state);
                let (cgroup, attach_type) = (1 + (number % 5), (number >> 8) as u32 % 3);
                let place = (cgroup, if key_bytes == 16 { attach_type } else { 0 });
                let mut key = cgroup.to_ne_bytes().to_vec();
                key.extend(attach_type.to_ne_bytes());
                key.resize(16, 0);
                key.truncate(key_bytes as usize);
                let context = format!("{map_type:?} step {step} {place:?}");
                match number >> 16 & 7 {
                    0 => {
                        storage.attach(cgroup, attach_type).unwrap();
                        model.entry(place).or_insert_with(|| vec![0; len]);
                    }
                    1 => {
                        storage.detach(cgroup, attach_type);
                        model.remove(&place);
                    }
                    2 | 3 => {
                        let flags =
                            [0, map_elem::NOEXIST, map_elem::EXIST, 4][(number >> 20) as usize % 4];
                        let value = bytes(number, len);
                        let expected = match flags {
                            map_elem::NOEXIST | 4 => Err(Errno::EINVAL),
                            _ if !model.contains_key(&place) => Err(Errno::ENOENT),
                            _ => Ok(()),
                        };
                        let answer = map.sys_update(Access::ReadWrite, &key, &value, flags, &NoFds);
                        assert_eq!(answer, expected, "{context}: update with {flags}");
                        if expected.is_ok() {
                            model.insert(place, value);
                        }
                    }
                    4 => {
                        let run = rcu::read();
                        let at = storage.value_of(cgroup, attach_type);
                        assert_eq!(at != 0, model.contains_key(&place), "{context}");
                        if let Some(all) = model.get(&place) {
                            let own = if len == 24 { 0 } else { run.cpu() * 24 };
                            // SAFETY: a value of 24 bytes, inside a section.
                            let seen = unsafe { std::slice::from_raw_parts(at as *const u8, 24) };
                            assert_eq!(seen, &all[own..own + 24], "{context}");
                        }
                    }
                    5 => {
                        let answer = map.sys_delete(Access::ReadWrite, &key, &NoFds);
                        assert_eq!(answer, Err(Errno::EINVAL));
                    }
                    _ => {
                        let mut seen = vec![0; len];
                        let answer = map.sys_lookup(Access::ReadWrite, &key, &mut seen, 0);
                        let expected = model.get(&place).ok_or(Errno::ENOENT);
                        assert_eq!(answer.map(|()| &seen), expected, "{context}: look-up");
                    }
                }
            }
        }
    }
}

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

#[test]
fn stack_traces_follow_the_model() {
    let map = Map::create(&MapAttr::new(MapType::StackTrace, 4, 64, 16)).unwrap();
    let traces = map.downcast::<StackTrace>().unwrap();
    let mut model: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut ids: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut state = 3;
    for step in 0..8000 {
        let number = random(&mut state);
        let frames = bytes(1 + number % 40, 8 * (1 + (number >> 8) as usize % 8));
        let id = (number >> 16) as u32 % 20;
        let key = id.to_ne_bytes();
        match number >> 32 & 3 {
            0 | 1 => {
                let reuse = number >> 36 & 1 == 1;
                let flags = if reuse { stackid::REUSE_STACKID } else { 0 };
                match traces.store(&frames, flags) {
                    Ok(id) => {
                        // An id depends on the frames only.
                        assert_eq!(*ids.entry(frames.clone()).or_insert(id), id);
                        let before = model.insert(id, frames.clone());
                        assert!(reuse || before.is_none_or(|before| before == frames));
                    }
                    Err(errno) => {
                        assert_eq!((errno, reuse), (Errno::EEXIST, false), "step {step}");
                        if let Some(id) = ids.get(&frames) {
                            assert_ne!(model.get(id), Some(&frames));
                        }
                    }
                }
            }
            2 => {
                let mut seen = vec![1; 64];
                let delete = number >> 36 & 1 == 1;
                let answer = if delete {
                    map.sys_lookup_and_delete(Access::ReadWrite, &key, &mut seen, 0)
                } else {
                    map.sys_lookup(Access::ReadWrite, &key, &mut seen, 0)
                };
                let mut expected = model.get(&id).cloned();
                if let Some(frames) = &mut expected {
                    frames.resize(64, 0);
                }
                assert_eq!(
                    answer.map(|()| seen),
                    expected.ok_or(Errno::ENOENT),
                    "step {step}"
                );
                if delete {
                    model.remove(&id);
                }
            }
            _ => {
                let answer = map.sys_delete(Access::ReadWrite, &key, &NoFds);
                let expected = if id >= 16 {
                    Err(Errno::E2BIG)
                } else {
                    model.remove(&id).map(drop).ok_or(Errno::ENOENT)
                };
                assert_eq!(answer, expected, "step {step}");
            }
        }
    }
}

#[test]
fn struct_ops_follow_the_model() {
    for by_link in [false, true] {
        let flags = if by_link { map_create::LINK } else { 0 };
        for seed in 1..200u64 {
            let mut attr = MapAttr::new(MapType::StructOps, 4, 24, 1).with_flags(flags);
            attr.btf_vmlinux_value_type_id = 1;
            let map = Map::create(&attr).unwrap();
            let ops = map.downcast::<StructOps>().unwrap();
            let (mut state, mut content) = (StructOpsState::Init, vec![0; 24]);
            let mut number = seed;
            for _ in 0..30 {
                let number = random(&mut number);
                let index = (number % 3 / 2) as u32;
                let key = index.to_ne_bytes();
                match number >> 8 & 3 {
                    0 => {
                        let mut value = bytes(number, 24);
                        if number >> 12 & 3 != 0 {
                            value[..8].fill(0);
                        }
                        let common_is_zero = value[..8].iter().all(|byte| *byte == 0);
                        let flags = number >> 16 & 1;
                        let expected = match (flags, index, state) {
                            (1, _, _) => Err(Errno::EINVAL),
                            (_, 1, _) => Err(Errno::E2BIG),
                            _ if !common_is_zero => Err(Errno::EINVAL),
                            (_, _, StructOpsState::Init) => Ok(()),
                            _ => Err(Errno::EBUSY),
                        };
                        let answer = map.sys_update(Access::ReadWrite, &key, &value, flags, &NoFds);
                        assert_eq!(answer, expected, "seed {seed}");
                        if expected.is_ok() {
                            state = if by_link {
                                StructOpsState::Ready
                            } else {
                                StructOpsState::InUse
                            };
                            content = value;
                        }
                    }
                    1 if index == 0 => {
                        let expected = match state {
                            _ if by_link => Err(Errno::ENOTSUP),
                            StructOpsState::InUse => Ok(()),
                            StructOpsState::ToBeFree => Err(Errno::EINPROGRESS),
                            _ => Err(Errno::ENOENT),
                        };
                        assert_eq!(map.sys_delete(Access::ReadWrite, &key, &NoFds), expected);
                        if expected.is_ok() {
                            state = StructOpsState::ToBeFree;
                        }
                    }
                    _ => {
                        let mut seen = vec![1; 24];
                        let answer = map.sys_lookup(Access::ReadWrite, &key, &mut seen, 0);
                        if index == 1 {
                            assert_eq!(answer, Err(Errno::ENOENT));
                            continue;
                        }
                        let mut expected = content.clone();
                        if state != StructOpsState::Init {
                            expected[4..8].copy_from_slice(&(state as u32).to_ne_bytes());
                        }
                        assert_eq!((answer, seen), (Ok(()), expected), "seed {seed}");
                    }
                }
                assert_eq!(ops.state(), state);
            }
        }
    }
}

#[test]
fn arenas_follow_the_model() {
    const PAGES: u32 = 20;
    let attr = MapAttr::new(MapType::Arena, 0, 0, PAGES).with_flags(map_create::MMAPABLE);
    let map = Map::create(&attr).unwrap();
    let arena = map.downcast::<Arena>().unwrap();
    let page = page_bytes() as u32;
    // What was written to the first word of each page that is allocated.
    let mut model: [Option<u64>; PAGES as usize] = [None; PAGES as usize];
    let word = |index: u32| (arena.base() + u64::from(index * page)) as *mut u64;
    let mut state = 11;
    for step in 0..3000 {
        let number = random(&mut state);
        let count = (number % 5) as u32;
        let first = (number >> 8) as u32 % (PAGES + 2);
        let free = |range: std::ops::Range<u32>| {
            range.end <= PAGES && range.clone().all(|at| model[at as usize].is_none())
        };
        match number >> 16 & 3 {
            0 => {
                let room = count != 0 && (0..PAGES).any(|at| free(at..at + count));
                let got = arena.alloc_pages(None, count);
                assert_eq!(got.is_some(), room, "step {step}: {count} pages");
                if let Some(offset) = got {
                    let begin = offset / page;
                    assert!(free(begin..begin + count), "step {step}");
                    (begin..begin + count).for_each(|at| model[at as usize] = Some(0));
                }
            }
            1 => {
                let fits = count != 0 && free(first..first + count);
                let got = arena.alloc_pages(Some(first * page), count);
                assert_eq!(got, fits.then_some(first * page), "step {step}");
                if fits {
                    (first..first + count).for_each(|at| model[at as usize] = Some(0));
                }
            }
            2 => {
                arena.free_pages(first * page, count);
                (first..(first + count).min(PAGES)).for_each(|at| model[at as usize] = None);
            }
            _ => {
                for (index, content) in model.iter_mut().enumerate() {
                    if let Some(content) = content {
                        // SAFETY: an allocated page.
                        unsafe {
                            assert_eq!(word(index as u32).read_volatile(), *content, "step {step}");
                            *content = number + index as u64;
                            word(index as u32).write_volatile(*content);
                        }
                    }
                }
            }
        }
        let used = model.iter().flatten().count();
        assert_eq!(arena.used_pages(), used, "step {step}");
    }
}
