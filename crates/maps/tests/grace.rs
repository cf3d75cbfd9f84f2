//! Maps that are not preallocated: a deleted element is reused once nobody can hold it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring3_maps::fd::NoFds;
use ring3_maps::{Access, Errno, Map, MapAttr, MapType, abi};
use ring3_sync::rcu;
use ring3_uapi::flags::map_create;

/// Values so large that a map has 1024 spare elements.
const LARGE: usize = 100_000;
const SPARE: u64 = 1024;

fn sparse(value_bytes: usize, entries: u32) -> Arc<Map> {
    let attr = MapAttr::new(MapType::Hash, 8, value_bytes as u32, entries);
    Map::create(&attr.with_flags(map_create::NO_PREALLOC)).unwrap()
}

/// The caller is in a read section, or begins one for this.
fn update(map: &Map, key: u64, value: &[u8]) -> i64 {
    assert_eq!(value.len(), map.value_size() as usize);
    let _run = rcu::read();
    let (key, value) = ((&raw const key) as u64, value.as_ptr() as u64);
    // SAFETY: a key of 8 bytes and a whole value.
    unsafe { abi::update_elem(map.program_ptr(), key, value, 0, 0) as i64 }
}

fn delete(map: &Map, key: u64) -> i64 {
    let _run = rcu::read();
    // SAFETY: a key of 8 bytes.
    unsafe { abi::delete_elem(map.program_ptr(), (&raw const key) as u64, 0, 0, 0) as i64 }
}

/// The first word of a value, for as long as the caller's section lasts.
fn word(map: &Map, key: u64) -> &AtomicU64 {
    let _run = rcu::read();
    // SAFETY: a key of 8 bytes; values begin with an aligned word.
    unsafe {
        let value = abi::lookup_elem(map.program_ptr(), (&raw const key) as u64, 0, 0, 0);
        AtomicU64::from_ptr(value as *mut u64)
    }
}

#[test]
fn what_a_program_holds_stays_as_it_was_deleted() {
    let map = sparse(8, 16);
    assert_eq!(update(&map, 1, &7u64.to_ne_bytes()), 0);
    let (holding, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _run = rcu::read();
            let held = word(&map, 1);
            holding.store(true, Ordering::Release);
            while !done.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            held.load(Ordering::Relaxed)
        });
        while !holding.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        assert_eq!(delete(&map, 1), 0);
        for round in 0..20_000u64 {
            assert_eq!(update(&map, round, &[0xff; 8]), 0);
            assert_eq!(delete(&map, round), 0);
        }
        done.store(true, Ordering::Release);
        assert_eq!(reader.join().unwrap(), 7);
    });
}

#[test]
fn one_run_uses_all_spare_elements_and_the_next_one_has_them_again() {
    let map = sparse(LARGE, 2);
    let value = vec![1; LARGE];
    for _ in 0..3 {
        let run = rcu::read();
        let mut rounds = 0;
        let answer = loop {
            match update(&map, 1, &value) {
                0 => assert_eq!(delete(&map, 1), 0),
                answer => break answer,
            }
            rounds += 1;
        };
        assert_eq!(answer, Errno::ENOMEM.negated());
        assert!(rounds >= SPARE, "{rounds}");
        // The map is not full, and a system call that cannot wait says the same.
        let again = map.sys_update(Access::ReadWrite, &[0; 8], &value, 0, &NoFds);
        assert_eq!(again, Err(Errno::ENOMEM));
        drop(run);
        // Outside of a run it waits.
        let again = map.sys_update(Access::ReadWrite, &[0; 8], &value, 0, &NoFds);
        assert_eq!(again, Ok(()));
        assert_eq!(delete(&map, 0), 0);
        rcu::synchronize().unwrap();
    }
}

#[test]
fn two_threads_that_delete_and_insert_lose_no_element() {
    let map = sparse(LARGE, 8);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let map = &map;
            scope.spawn(move || {
                let value = vec![thread as u8; LARGE];
                for round in 0..4 * SPARE {
                    let key = thread + 2 * (round % 4);
                    map.sys_update(Access::ReadWrite, &key.to_ne_bytes(), &value, 0, &NoFds)
                        .unwrap();
                    assert_eq!(word(map, key).load(Ordering::Relaxed) as u8, thread as u8);
                    assert_eq!(delete(map, key), 0);
                }
            });
        }
    });
    rcu::synchronize().unwrap();
    let value = vec![9; LARGE];
    for key in 0..8 {
        assert_eq!(update(&map, key, &value), 0);
    }
    assert_eq!(update(&map, 8, &value), Errno::E2BIG.negated());
}
