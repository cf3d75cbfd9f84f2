//! Random operation sequences on the map types whose values are descriptors, against a model each: a table of what is stored, and the rules
//! of one update restated.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring3_maps::fd::{FdTable, Object, Socket, SocketKind};
use ring3_maps::{Access, Errno, Map, MapAttr, MapType, OwnerKey, ProgSlot};
use ring3_sync::rcu;
use ring3_uapi::flags::map_elem;
use ring3_uapi::{AttachType, ProgType};

use crate::random::random;

const STEPS: u32 = 6000;
const ENTRIES: u32 = 6;

/// What descriptors name: 1, 2 (for devmaps) and 9 (for cpumaps) are XDP programs, 3 is one of another type, 10 to 15 sockets, 20 an event, 21 a cgroup. Devices are 1 to 3.
struct Host {
    /// Everything a map holds of this host, for counting.
    object: Object,
}

const SOCKETS: [SocketKind; 6] = [
    SocketKind::Tcp {
        established: false,
        listening: true,
    },
    SocketKind::Tcp {
        established: false,
        listening: false,
    },
    SocketKind::Udp { bound: true },
    SocketKind::Udp { bound: false },
    SocketKind::Unix,
    SocketKind::Xdp,
];

impl Host {
    fn new() -> Host {
        Host {
            object: Arc::new(()),
        }
    }
}

impl FdTable for Host {
    fn prog(&self, fd: u32) -> Result<ProgSlot, Errno> {
        let mut owner_key = match fd {
            1 | 2 | 9 => OwnerKey::new(ProgType::Xdp, true),
            3 => OwnerKey::new(ProgType::SchedCls, true),
            _ => return Err(Errno::EBADF),
        };
        owner_key.expected_attach_type = match fd {
            2 => Some(AttachType::XdpDevmap),
            9 => Some(AttachType::XdpCpumap),
            _ => None,
        };
        Ok(ProgSlot {
            entry: fd as usize,
            id: 100 + fd,
            owner_key,
            keep: crate::common::prog_holding(self.object.clone()),
        })
    }

    fn perf_event(&self, fd: u32) -> Result<Object, Errno> {
        if fd == 20 {
            Ok(self.object.clone())
        } else {
            Err(Errno::EBADF)
        }
    }

    fn cgroup(&self, fd: u32) -> Result<(u64, Object), Errno> {
        if fd == 21 {
            Ok((7, self.object.clone()))
        } else {
            Err(Errno::EBADF)
        }
    }

    fn socket(&self, fd: u32) -> Result<Socket, Errno> {
        let index = fd.checked_sub(10).ok_or(Errno::EBADF)?;
        let kind = SOCKETS.get(index as usize).ok_or(Errno::EBADF)?;

        Ok(Socket {
            object: self.object.clone(),
            cookie: 1000 + u64::from(fd),
            program_ptr: 0x1000 + u64::from(fd),
            kind: *kind,
        })
    }

    fn net_device(&self, ifindex: u32) -> Result<Object, Errno> {
        if (1..=3).contains(&ifindex) {
            Ok(self.object.clone())
        } else {
            Err(Errno::EINVAL)
        }
    }
}

type Stored = BTreeMap<u32, Vec<u8>>;

/// Key, the value's two words, flags.
type Update = fn(&Stored, u32, [u32; 2], u64) -> Result<Option<Vec<u8>>, Errno>;

/// The rules of one type.
struct Model {
    map_type: MapType,
    value_bytes: u32,
    /// What an update with a value and flags does: what a look-up shows afterwards (nothing for an emptied slot), or an errno.
    update: Update,
    /// Whether look-ups show what is stored; else their errno.
    lookup: Result<(), Errno>,
    /// Deleting what is not there, and beyond the end.
    delete_empty: Result<(), Errno>,
    delete_beyond: Result<(), Errno>,
    /// Keys are indices, all of which are walked.
    is_array: bool,
}

fn check(model: &Model) {
    let host = Host::new();
    let attr = MapAttr::new(model.map_type, 4, model.value_bytes, ENTRIES);
    let map = Map::create(&attr).unwrap();
    let mut stored = Stored::new();
    let mut most_held = 0;
    let mut state = 0x9e37_79b9 + u64::from(model.map_type.raw());
    for step in 0..STEPS {
        let number = random(&mut state);
        let key = (number % u64::from(ENTRIES + 2)) as u32;
        let key_bytes = key.to_ne_bytes();
        let context = format!("{:?} step {step} key {key}", model.map_type);
        match number >> 8 & 3 {
            0 | 1 => {
                // Descriptors, devices and numbers that mean something to some type, and some that do not.
                let first = [0u32, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16, 20, 21, 16385]
                    [(number >> 12) as usize % 15];
                let second = [0u32, 0, 1, 2, 3, 9][(number >> 20) as usize % 6];
                let flags =
                    [0, 0, 0, map_elem::NOEXIST, map_elem::EXIST, 3][(number >> 28) as usize % 6];
                let mut value = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
                value.truncate(model.value_bytes as usize);
                let second = if model.value_bytes == 8 { second } else { 0 };
                let expected = (model.update)(&stored, key, [first, second], flags);
                let answer = map.sys_update(Access::ReadWrite, &key_bytes, &value, flags, &host);
                assert_eq!(
                    answer,
                    expected.clone().map(drop),
                    "{context}: update to {first}, {second} with {flags}"
                );
                match expected {
                    Ok(Some(shown)) => drop(stored.insert(key, shown)),
                    Ok(None) => drop(stored.remove(&key)),
                    Err(_) => {}
                }
            }
            2 => {
                let expected = if stored.remove(&key).is_some() {
                    Ok(())
                } else if key >= ENTRIES && model.is_array {
                    model.delete_beyond
                } else {
                    model.delete_empty
                };
                let answer = map.sys_delete(Access::ReadWrite, &key_bytes, &host);
                assert_eq!(answer, expected, "{context}: delete");
            }
            _ => {
                let mut value = vec![0; model.value_bytes as usize];
                let answer = map.sys_lookup(Access::ReadWrite, &key_bytes, &mut value, 0);
                let expected = model
                    .lookup
                    .and_then(|()| stored.get(&key).ok_or(Errno::ENOENT));
                assert_eq!(answer.map(|()| &value), expected, "{context}: look-up");
            }
        }
        most_held = most_held.max(Arc::strong_count(&host.object));
        if step % 200 == 0 {
            let mut keys = Vec::new();
            let mut last: Option<[u8; 4]> = None;
            let mut next = [0; 4];
            while map
                .sys_next_key(
                    Access::ReadWrite,
                    last.as_ref().map(|key| &key[..]),
                    &mut next,
                )
                .is_ok()
            {
                keys.push(u32::from_ne_bytes(next));
                last = Some(next);
            }
            keys.sort_unstable();
            let expected: Vec<u32> = if model.is_array {
                (0..ENTRIES).collect()
            } else {
                stored.keys().copied().collect()
            };
            assert_eq!(keys, expected, "{:?} step {step}", model.map_type);
        }
    }
    assert!(most_held > 1, "nothing was ever stored");
    drop(map);
    rcu::barrier().unwrap();
    rcu::barrier().unwrap();
    assert_eq!(Arc::strong_count(&host.object), 1, "{:?}", model.map_type);
}

/// Types that take any descriptor of one kind, and no flags.
fn plain_slot(key: u32, fd: u32, good: u32, flags: u64, shown: Vec<u8>) -> Result<Vec<u8>, Errno> {
    match (flags, key, fd) {
        (1.., _, _) => Err(Errno::EINVAL),
        (_, ENTRIES.., _) => Err(Errno::E2BIG),
        (_, _, fd) if fd == good => Ok(shown),
        _ => Err(Errno::EBADF),
    }
}

#[test]
fn perf_event_arrays_follow_the_model() {
    check(&Model {
        map_type: MapType::PerfEventArray,
        value_bytes: 4,
        update: |_, key, [fd, _], flags| plain_slot(key, fd, 20, flags, vec![]).map(Some),
        lookup: Err(Errno::ENOTSUPP),
        delete_empty: Err(Errno::ENOENT),
        delete_beyond: Err(Errno::E2BIG),
        is_array: true,
    });
}

#[test]
fn cgroup_arrays_follow_the_model() {
    check(&Model {
        map_type: MapType::CgroupArray,
        value_bytes: 4,
        update: |_, key, [fd, _], flags| plain_slot(key, fd, 21, flags, vec![]).map(Some),
        lookup: Err(Errno::ENOTSUPP),
        delete_empty: Err(Errno::ENOENT),
        delete_beyond: Err(Errno::E2BIG),
        is_array: true,
    });
}

#[test]
fn prog_arrays_follow_the_model() {
    check(&Model {
        map_type: MapType::ProgArray,
        value_bytes: 4,
        // The first program stored is the owner: the generator begins with any, so the model asks what is there already.
        update: |stored, key, [fd, _], flags| {
            thread_local!(static OWNER: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
            let _ = stored;
            match (flags, key, fd) {
                (1.., _, _) => Err(Errno::EINVAL),
                (_, ENTRIES.., _) => Err(Errno::E2BIG),
                (_, _, 1..=3) => {
                    let owner = OWNER.get();
                    if owner != 0 && owner != fd {
                        // All three differ in type or expected attach type, and the owner stays when the array is empty.
                        return Err(Errno::EINVAL);
                    }
                    OWNER.set(fd);
                    Ok(Some((100 + fd).to_ne_bytes().to_vec()))
                }
                _ => Err(Errno::EBADF),
            }
        },
        lookup: Ok(()),
        delete_empty: Err(Errno::ENOENT),
        delete_beyond: Err(Errno::E2BIG),
        is_array: true,
    });
}

/// The second half of a value of a devmap or cpumap: a program made for it.
fn xdp_target(number: u32, fd: u32, good: u32) -> Option<Vec<u8>> {
    let id = match fd {
        0 => 0,
        fd if fd == good => 100 + fd,
        _ => return None,
    };
    Some([number.to_ne_bytes(), id.to_ne_bytes()].concat())
}

#[test]
fn devmaps_follow_the_model() {
    check(&Model {
        map_type: MapType::Devmap,
        value_bytes: 8,
        update: |_, key, [ifindex, fd], flags| match (flags, key, ifindex) {
            (3.., _, _) => Err(Errno::EINVAL),
            (_, ENTRIES.., _) => Err(Errno::E2BIG),
            (map_elem::NOEXIST, _, _) => Err(Errno::EEXIST),
            (_, _, 0) if fd == 0 => Ok(None),
            (_, _, 1..=3) => xdp_target(ifindex, fd, 2).map(Some).ok_or(Errno::EINVAL),
            _ => Err(Errno::EINVAL),
        },
        lookup: Ok(()),
        delete_empty: Ok(()),
        delete_beyond: Err(Errno::EINVAL),
        is_array: true,
    });
}

#[test]
fn devmap_hashes_follow_the_model() {
    check(&Model {
        map_type: MapType::DevmapHash,
        value_bytes: 8,
        update: |stored, key, [ifindex, fd], flags| {
            let exists = stored.contains_key(&key);
            match (flags, ifindex) {
                (3.., _) | (_, 0) => Err(Errno::EINVAL),
                (map_elem::NOEXIST, _) if exists => Err(Errno::EEXIST),
                (_, 1..=3) => match xdp_target(ifindex, fd, 2) {
                    None => Err(Errno::EINVAL),
                    Some(_) if !exists && stored.len() == ENTRIES as usize => Err(Errno::E2BIG),
                    shown => Ok(shown),
                },
                _ => Err(Errno::EINVAL),
            }
        },
        lookup: Ok(()),
        delete_empty: Err(Errno::ENOENT),
        delete_beyond: Err(Errno::ENOENT),
        is_array: false,
    });
}

#[test]
fn cpumaps_follow_the_model() {
    check(&Model {
        map_type: MapType::Cpumap,
        value_bytes: 8,
        update: |_, key, [queue, fd], flags| match (flags, key, queue) {
            (3.., _, _) => Err(Errno::EINVAL),
            (_, ENTRIES.., _) => Err(Errno::E2BIG),
            (map_elem::NOEXIST, _, _) => Err(Errno::EEXIST),
            (_, _, 16385..) => Err(Errno::EOVERFLOW),
            (_, key, _) if key as usize >= ring3_os::cpu::possible_cpus() => Err(Errno::ENODEV),
            (_, _, 0) => Ok(None),
            _ => xdp_target(queue, fd, 9).map(Some).ok_or(Errno::ENOMEM),
        },
        lookup: Ok(()),
        delete_empty: Ok(()),
        delete_beyond: Err(Errno::EINVAL),
        is_array: true,
    });
}

/// The socket kind of a descriptor.
fn socket_kind(fd: u32) -> Option<SocketKind> {
    SOCKETS.get(fd.checked_sub(10)? as usize).copied()
}

fn cookie(fd: u32) -> Option<Vec<u8>> {
    Some((1000 + u64::from(fd)).to_ne_bytes().to_vec())
}

/// By the flags and whether something is stored.
fn existence(stored: &Stored, key: u32, flags: u64) -> Result<(), Errno> {
    match (stored.contains_key(&key), flags) {
        (true, map_elem::NOEXIST) => Err(Errno::EEXIST),
        (false, map_elem::EXIST) => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

#[test]
fn xskmaps_follow_the_model() {
    check(&Model {
        map_type: MapType::Xskmap,
        value_bytes: 4,
        update: |stored, key, [fd, _], flags| match (flags, key, socket_kind(fd)) {
            (3.., _, _) => Err(Errno::EINVAL),
            (_, ENTRIES.., _) => Err(Errno::E2BIG),
            (_, _, None) => Err(Errno::EBADF),
            (_, _, Some(SocketKind::Xdp)) => existence(stored, key, flags).map(|()| Some(vec![])),
            _ => Err(Errno::ENOTSUP),
        },
        lookup: Err(Errno::ENOTSUP),
        delete_empty: Ok(()),
        delete_beyond: Err(Errno::EINVAL),
        is_array: true,
    });
}

#[test]
fn reuseport_arrays_follow_the_model() {
    check(&Model {
        map_type: MapType::ReuseportSockarray,
        value_bytes: 8,
        update: |stored, key, [fd, high], flags| match (flags, key) {
            (3.., _) => Err(Errno::EINVAL),
            (_, ENTRIES..) => Err(Errno::E2BIG),
            _ if high != 0 => Err(Errno::EINVAL),
            _ => {
                let kind = socket_kind(fd).ok_or(Errno::EBADF)?;
                existence(stored, key, flags)?;
                match kind {
                    SocketKind::Udp { bound: true }
                    | SocketKind::Tcp {
                        listening: true, ..
                    } => Ok(cookie(fd)),
                    SocketKind::Udp { .. } | SocketKind::Tcp { .. } => Err(Errno::EINVAL),
                    _ => Err(Errno::ENOTSUPP),
                }
            }
        },
        lookup: Ok(()),
        delete_empty: Err(Errno::ENOENT),
        delete_beyond: Err(Errno::E2BIG),
        is_array: true,
    });
}

/// What sockmap and sockhash have in common: descriptor, flags, the socket's state.
fn sock_update(fd: u32, high: u32, flags: u64) -> Result<(), Errno> {
    if high != 0 {
        return Err(Errno::EINVAL);
    }
    let kind = socket_kind(fd).ok_or(Errno::EBADF)?;
    match (flags, kind) {
        (3.., _) => Err(Errno::EINVAL),
        (_, SocketKind::Xdp | SocketKind::Other) => Err(Errno::ENOTSUP),
        (
            _,
            SocketKind::Tcp {
                established: false,
                listening: false,
            },
        ) => Err(Errno::ENOTSUP),
        _ => Ok(()),
    }
}

#[test]
fn sockmaps_follow_the_model() {
    check(&Model {
        map_type: MapType::Sockmap,
        value_bytes: 8,
        update: |stored, key, [fd, high], flags| {
            sock_update(fd, high, flags)?;
            if key >= ENTRIES {
                return Err(Errno::E2BIG);
            }
            existence(stored, key, flags)?;
            Ok(cookie(fd))
        },
        lookup: Ok(()),
        delete_empty: Err(Errno::EINVAL),
        delete_beyond: Err(Errno::EINVAL),
        is_array: true,
    });
}

#[test]
fn sockhashes_follow_the_model() {
    check(&Model {
        map_type: MapType::Sockhash,
        value_bytes: 8,
        update: |stored, key, [fd, high], flags| {
            sock_update(fd, high, flags)?;
            existence(stored, key, flags)?;
            if !stored.contains_key(&key) && stored.len() == ENTRIES as usize {
                return Err(Errno::E2BIG);
            }
            Ok(cookie(fd))
        },
        lookup: Ok(()),
        delete_empty: Err(Errno::ENOENT),
        delete_beyond: Err(Errno::ENOENT),
        is_array: false,
    });
}
