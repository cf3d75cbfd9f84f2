//! Random operation sequences on storage of owners and what is no table at all (stack traces, struct_ops, arenas), each against a model.

use ring3_maps::fd::{FdTable, NoFds, StorageKind};
use ring3_maps::stack_trace::stackid;
use ring3_maps::{
    Access, Arena, CgroupStorage, Errno, LocalStorage, Map, MapAttr, MapType, StackTrace,
    StructOps, StructOpsState,
};
use ring3_os::cpu::page_bytes;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use std::collections::BTreeMap;

use crate::random::{bytes, random};

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
