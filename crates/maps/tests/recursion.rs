//! A program that interrupts another one of the same thread inside a map operation: refused or served, never stuck.
//!
//! The points of `ring3_sync::interleave` stand for the interruption: at one of them in each operation the nested operations run.
#![cfg(debug_assertions)]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use ring3_maps::{Errno, Map, MapAttr, MapType, abi};
use ring3_sync::{interleave, rcu};
use ring3_uapi::flags::map_create;

/// What to do at the next points.
#[derive(Clone)]
struct Nested {
    map: Arc<Map>,
    busy: u32,
    served: u32,
}

thread_local! {
    static NESTED: RefCell<Option<Nested>> = const { RefCell::new(None) };
    /// Points until the interruption.
    static POINTS: Cell<u64> = const { Cell::new(u64::MAX) };
}

fn update(map: &Map, key: u64, value: u64) -> i64 {
    let _run = rcu::read();
    // SAFETY: keys and values of 8 bytes.
    unsafe {
        let (key, value) = ((&raw const key) as u64, (&raw const value) as u64);
        abi::update_elem(map.program_ptr(), key, value, 0, 0) as i64
    }
}

fn delete(map: &Map, key: u64) -> i64 {
    let _run = rcu::read();
    // SAFETY: keys of 8 bytes.
    unsafe { abi::delete_elem(map.program_ptr(), (&raw const key) as u64, 0, 0, 0) as i64 }
}

/// Updates and deletes the interrupted key and others of its bucket, which all are in a map with one bucket.
fn interrupt() {
    let left = POINTS.get();
    POINTS.set(left.wrapping_sub(1));
    // Below zero it never comes to zero again in one operation.
    if left != 0 {
        return;
    }
    if let Some(mut nested) = NESTED.take() {
        for key in [1, 2, 3] {
            for answer in [update(&nested.map, key, 9), delete(&nested.map, key)] {
                if answer == Errno::EBUSY.negated() {
                    nested.busy += 1;
                } else {
                    assert!(
                        [0, Errno::ENOENT.negated(), Errno::E2BIG.negated()].contains(&answer),
                        "{answer}"
                    );
                    nested.served += 1;
                }
            }
        }
        NESTED.set(Some(nested));
    }
}

#[test]
fn nested_operations_are_refused_where_they_would_wait_for_themselves() {
    interleave::install(interleave::Hooks {
        point: interrupt,
        thread: || Some(0),
    });
    let no_prealloc = map_create::NO_PREALLOC;
    for (map_type, flags) in [
        (MapType::Hash, 0),
        (MapType::Hash, no_prealloc),
        (MapType::LruHash, 0),
    ] {
        let map = Map::create(&MapAttr::new(map_type, 8, 8, 4).with_flags(flags)).unwrap();
        NESTED.set(Some(Nested {
            map: map.clone(),
            busy: 0,
            served: 0,
        }));
        for round in 0..50 {
            // The interrupted operation may find its key gone, or the map full of the interrupter's.
            for answer in [
                update(&map, 1, round),
                update(&map, 1, round),
                delete(&map, 1),
            ] {
                let fine = [0, Errno::ENOENT.negated(), Errno::E2BIG.negated()];
                assert!(fine.contains(&answer), "{map_type:?}: {answer}");
            }
        }
        let nested = NESTED.take().unwrap();
        assert!(
            nested.busy > 0 && nested.served > 0,
            "{map_type:?}: {} busy, {} served",
            nested.busy,
            nested.served
        );
        // Nothing is locked or lost for good.
        for key in 1..5 {
            assert_eq!(update(&map, key, key), 0);
        }
        if map_type == MapType::Hash {
            assert_eq!(update(&map, 5, 5), Errno::E2BIG.negated());
        }
    }
}
