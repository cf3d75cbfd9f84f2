//! Programs' operations on preallocated maps never call the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ring3_maps::{Map, MapAttr, MapType, abi};
use ring3_sync::rcu;
use ring3_uapi::flags::map_create;

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending counts no more.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: 1. all work is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: 1. the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count();
        // SAFETY: 1. the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Adds, looks up, replaces and removes; more keys than an LRU map holds.
fn operations(map: &Map) {
    let ptr = map.program_ptr();
    for number in 0..500u64 {
        let _run = rcu::read();
        let mut value = [number; 4];
        let key = number % 200;
        let (key, value) = ((&raw const key) as u64, value.as_mut_ptr() as u64);
        // SAFETY: keys of 8 (arrays: 4) and values of 32 bytes; a record is ended once.
        unsafe {
            match map.map_type() {
                MapType::Queue | MapType::Stack => {
                    abi::push_elem(ptr, value, 0, 0, 0);
                    abi::peek_elem(ptr, value, 0, 0, 0);
                    if number % 3 != 0 {
                        abi::pop_elem(ptr, value, 0, 0, 0);
                    }
                }
                MapType::BloomFilter => {
                    abi::push_elem(ptr, value, 0, 0, 0);
                    abi::peek_elem(ptr, value, 0, 0, 0);
                }
                MapType::Ringbuf => {
                    let record = abi::ringbuf_reserve(ptr, 32, 0, 0, 0);
                    if record != 0 {
                        abi::ringbuf_discard(record, 0, 0, 0, 0);
                    }
                    abi::ringbuf_output(ptr, value, 32, 0, 0);
                }
                _ => {
                    abi::update_elem(ptr, key, value, 0, 0);
                    abi::lookup_elem(ptr, key, 0, 0, 0);
                    abi::update_elem(ptr, key, value, 2, 0);
                    if number % 3 == 0 {
                        abi::delete_elem(ptr, key, 0, 0, 0);
                    }
                }
            }
        }
    }
}

#[test]
fn operations_of_programs_on_preallocated_maps_do_not_allocate() {
    for (map_type, key, value, entries, flags) in [
        (MapType::Hash, 8, 32, 100, 0),
        (MapType::PercpuHash, 8, 32, 100, 0),
        (MapType::LruHash, 8, 32, 100, 0),
        (MapType::LruHash, 8, 32, 100, map_create::NO_COMMON_LRU),
        (MapType::LruPercpuHash, 8, 32, 100, 0),
        (MapType::Array, 4, 32, 100, 0),
        (MapType::PercpuArray, 4, 32, 100, 0),
        (MapType::Queue, 0, 32, 100, 0),
        (MapType::Stack, 0, 32, 100, 0),
        (MapType::BloomFilter, 0, 32, 100, 0),
        (MapType::Ringbuf, 0, 0, 4096, 0),
    ] {
        let attr = MapAttr::new(map_type, key, value, entries).with_flags(flags);
        let map = Map::create(&attr).unwrap();
        // What a thread does once.
        drop(rcu::read());
        let before = CALLS.get();
        operations(&map);
        assert_eq!(CALLS.get() - before, 0, "{map_type} flags {flags:#x}");
    }
}

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(CALLS.get() - before, 2);
}
