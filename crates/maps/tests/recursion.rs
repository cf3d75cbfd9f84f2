//! A program that interrupts another one of the same thread inside a map operation: refused or served, never stuck.
//!
//! The points of `ring3_sync::interleave` stand for the interruption: in each run the nested operations come at another one of them.
#![cfg(debug_assertions)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use ring3_maps::fd::{Socket, SocketKind};
use ring3_maps::{Errno, LocalStorage, Map, MapAttr, MapType, SockMap, abi};
use ring3_sync::{interleave, rcu};
use ring3_uapi::flags::map_create;

thread_local! {
    /// Whose operations interrupt.
    static MAP: RefCell<Option<Arc<Map>>> = const { RefCell::new(None) };
    /// Points until the interruption.
    static POINTS: Cell<u64> = const { Cell::new(u64::MAX) };
    static BUSY: Cell<u32> = const { Cell::new(0) };
    static SERVED: Cell<u32> = const { Cell::new(0) };
}

/// Keys of one bucket: the maps have one.
const KEYS: [u64; 3] = [1, 2, 3];
/// What an operation may answer beside `EBUSY`: the key gone or there, the map full of others' keys, a queue empty.
const USUAL: [Errno; 4] = [Errno::ENOENT, Errno::EEXIST, Errno::E2BIG, Errno::ENOSPC];

/// A key of 8 bytes as the type has it.
fn key_of(map: &Map, number: u64) -> u64 {
    match map.map_type() {
        MapType::LpmTrie => number << 32 | 32,
        _ => number,
    }
}

fn negated(result: Result<(), Errno>) -> i64 {
    result.map_or_else(Errno::negated, |()| 0)
}

/// One that adds and one that takes away, as programs do them.
fn operations(map: &Map, number: u64) -> [i64; 2] {
    let _run = rcu::read();
    let (key, mut value) = (key_of(map, number), number);
    let (ptr, key_ptr, value_ptr) = (
        map.program_ptr(),
        (&raw const key) as u64,
        (&raw mut value) as u64,
    );
    // SAFETY: keys and values of 8 bytes; inside a read section.
    unsafe {
        match map.map_type() {
            MapType::Queue | MapType::Stack => [
                abi::push_elem(ptr, value_ptr, 0, 0, 0) as i64,
                abi::pop_elem(ptr, value_ptr, 0, 0, 0) as i64,
            ],
            MapType::Ringbuf => {
                let record = abi::ringbuf_reserve(ptr, 8, 0, 0, 0);
                if record == 0 {
                    return [Errno::EBUSY.negated(); 2];
                }
                abi::ringbuf_submit(record, 0, 0, 0, 0);
                [0, 0]
            }
            MapType::Sockhash => {
                let sockets = map.downcast::<SockMap>().unwrap();
                let socket = Socket {
                    object: Arc::new(()),
                    cookie: number,
                    program_ptr: 0,
                    kind: SocketKind::Unix,
                };
                [
                    negated(sockets.add(&key.to_ne_bytes(), socket, 0)),
                    abi::delete_elem(ptr, key_ptr, 0, 0, 0) as i64,
                ]
            }
            MapType::TaskStorage => {
                let storage = map.downcast::<LocalStorage>().unwrap();
                let made = storage.get(number, std::ptr::null(), 1);
                let answer = if made.is_null() {
                    Errno::EBUSY.negated()
                } else {
                    0
                };
                [answer, negated(storage.remove(number))]
            }
            _ => [
                abi::update_elem(ptr, key_ptr, value_ptr, 0, 0) as i64,
                abi::delete_elem(ptr, key_ptr, 0, 0, 0) as i64,
            ],
        }
    }
}

fn interrupt() {
    let left = POINTS.get();
    POINTS.set(left.wrapping_sub(1));
    // Below zero it does not come to zero again.
    if left != 0 {
        return;
    }
    let Some(map) = MAP.with_borrow(Clone::clone) else {
        return;
    };
    for key in KEYS {
        for answer in operations(&map, key) {
            if answer == Errno::EBUSY.negated() {
                BUSY.set(BUSY.get() + 1);
            } else {
                SERVED.set(SERVED.get() + 1);
                check(&map, answer);
            }
        }
    }
}

fn check(map: &Map, answer: i64) {
    let usual = answer == 0 || USUAL.iter().any(|errno| answer == errno.negated());
    assert!(usual, "{}: {answer}", map.map_type());
}

#[test]
fn nested_operations_are_refused_where_they_would_wait_for_themselves() {
    interleave::install(interleave::Hooks {
        point: interrupt,
        thread: || Some(0),
    });
    let plain = |map_type, flags| MapAttr::new(map_type, 8, 8, 4).with_flags(flags);
    let keyless = |map_type, value_size, entries| MapAttr::new(map_type, 0, value_size, entries);
    let mut storage = plain(MapType::TaskStorage, map_create::NO_PREALLOC);
    (storage.key_size, storage.max_entries) = (4, 0);
    (storage.btf_key_type_id, storage.btf_value_type_id) = (1, 1);
    for attr in [
        plain(MapType::Hash, 0),
        plain(MapType::Hash, map_create::NO_PREALLOC),
        plain(MapType::PercpuHash, 0),
        plain(MapType::LruHash, 0),
        plain(MapType::LruHash, map_create::NO_COMMON_LRU),
        plain(MapType::LruPercpuHash, 0),
        plain(MapType::LpmTrie, map_create::NO_PREALLOC),
        plain(MapType::Sockhash, 0),
        keyless(MapType::Queue, 8, 4),
        keyless(MapType::Stack, 8, 4),
        keyless(MapType::Ringbuf, 0, 1 << 16),
        storage,
    ] {
        let map = Map::create(&attr).unwrap();
        let name = format!("{} flags {:#x}", map.map_type(), attr.map_flags);
        MAP.set(Some(map.clone()));
        BUSY.set(0);
        SERVED.set(0);
        for points in 0..60 {
            POINTS.set(points);
            // The second time the element may be there.
            for answer in [operations(&map, 1), operations(&map, 1)].concat() {
                check(&map, answer);
            }
        }
        POINTS.set(u64::MAX);
        MAP.set(None);
        let (busy, served) = (BUSY.get(), SERVED.get());
        assert!(
            busy > 0 && served > 0,
            "{name}: {busy} refused, {served} served"
        );
        // Nothing is locked or lost for good.
        for key in 1..5 {
            assert_eq!(operations(&map, key), [0, 0], "{name}");
        }
    }
}
