//! Times of map operations through the program ABI: `cargo run --release -p ring3-maps --example timing`.
//!
//! Keys are visited in a random order that is fixed before the clock starts; a figure is the best of several rounds.

use std::time::Instant;

use ring3_maps::{Map, MapAttr, MapType, TypedMap};
use ring3_os::cpu::bind_to_cpu;
use ring3_sync::rcu;

/// Short rounds, so that some of them run undisturbed on a busy machine.
const ROUNDS: usize = 300;

fn keys(count: u64) -> Vec<u64> {
    let mut keys: Vec<u64> = (0..count).collect();
    let mut random = 88172645463325252u64;
    for at in (1..keys.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        keys.swap(at, (random % (at as u64 + 1)) as usize);
    }
    keys
}

/// The best time of one call of `work` on one key, in nanoseconds.
fn best(keys: &[u64], mut work: impl FnMut(u64)) -> f64 {
    let repeat = (50_000 / keys.len()).max(1);
    let rounds = (ROUNDS * 50_000 / (repeat * keys.len())).max(5);
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        let _run = rcu::read();
        for _ in 0..repeat {
            for key in keys {
                work(*key);
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (repeat * keys.len()) as f64);
    }
    best
}

fn run(map_type: MapType, entries: u32) {
    let map = Map::create(&MapAttr::new(map_type, 8, 8, entries)).expect("map");
    let (lookup, update, delete) = (
        map.monomorphic_lookup(),
        map.monomorphic_update(),
        map.monomorphic_delete(),
    );
    let pointer = map.program_ptr();
    let all = keys(u64::from(entries));
    for key in &all {
        let _run = rcu::read();
        // SAFETY: key and value have 8 bytes.
        unsafe {
            update(
                pointer,
                (&raw const *key) as u64,
                (&raw const *key) as u64,
                0,
                0,
            )
        };
    }
    let mut found = 0u64;
    let read = best(&all, |key| {
        // SAFETY: the key has 8 bytes; inside a read section. As all calls below.
        let value = unsafe { lookup(pointer, (&raw const key) as u64, 0, 0, 0) };
        found += u64::from(value != 0);
    });
    let write = best(&all, |key| {
        // SAFETY: as above.
        unsafe {
            update(
                pointer,
                (&raw const key) as u64,
                (&raw const key) as u64,
                0,
                0,
            )
        };
    });
    let cycle = best(&all, |key| {
        // SAFETY: as above.
        unsafe {
            delete(pointer, (&raw const key) as u64, 0, 0, 0);
            update(
                pointer,
                (&raw const key) as u64,
                (&raw const key) as u64,
                0,
                0,
            );
        };
    });
    let two = |write: bool| {
        let halves: Vec<Vec<u64>> = (0..2)
            .map(|half| all.iter().copied().filter(|key| key % 2 == half).collect())
            .collect();
        let barrier = std::sync::Barrier::new(2);
        let start = Instant::now();
        let repeat = (4_000_000 / entries as usize).max(1);
        std::thread::scope(|scope| {
            for (cpu, half) in halves.iter().enumerate() {
                let barrier = &barrier;
                scope.spawn(move || {
                    let _ = bind_to_cpu(cpu);
                    barrier.wait();
                    let _run = rcu::read();
                    for _ in 0..repeat {
                        for key in half {
                            // SAFETY: as above.
                            unsafe {
                                if write {
                                    update(
                                        pointer,
                                        (&raw const *key) as u64,
                                        (&raw const *key) as u64,
                                        0,
                                        0,
                                    );
                                } else {
                                    std::hint::black_box(lookup(
                                        pointer,
                                        (&raw const *key) as u64,
                                        0,
                                        0,
                                        0,
                                    ));
                                }
                            }
                        }
                    }
                });
            }
        });
        start.elapsed().as_nanos() as f64 / (repeat * all.len()) as f64
    };
    let (two_read, two_write) = (two(false), two(true));
    println!(
        "{map_type:>16} {entries:>8}: lookup {read:6.2} update {write:6.2} delete+update {cycle:6.2} ns; 2 threads: lookup {two_read:6.2} (x{:.2}) update {two_write:6.2} (x{:.2}); {} bytes/entry",
        read / two_read,
        write / two_write,
        map.mem_usage() / u64::from(entries)
    );
    std::hint::black_box(found);
}

/// Through the Rust API.
fn run_typed(entries: u32) {
    let map = Map::create(&MapAttr::new(MapType::Hash, 8, 8, entries)).expect("map");
    let view = TypedMap::<u64, u64>::new(map).expect("sizes");
    let all = keys(u64::from(entries));
    all.iter()
        .for_each(|key| view.insert(key, key).expect("fits"));
    let mut sum = 0u64;
    let read = best(&all, |key| {
        sum = sum.wrapping_add(view.get(&key).unwrap_or(0))
    });
    let write = best(&all, |key| view.insert(&key, &key).expect("fits"));
    println!(
        "{:>16} {entries:>8}: lookup {read:6.2} update {write:6.2} ns; sum {sum}",
        "TypedMap"
    );
}

/// Random IPv4 routes of 8 to 32 bits, looked up by addresses.
fn run_lpm(entries: u32) {
    let attr = MapAttr::new(MapType::LpmTrie, 8, 8, entries).with_flags(1);
    let map = Map::create(&attr).expect("map");
    let pointer = map.program_ptr();
    let mut random = 88172645463325252u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..entries {
        let number = next();
        let key = (8 + number % 25) | number & 0xffff_ffff_0000_0000;
        let _run = rcu::read();
        // SAFETY: key and value have 8 bytes.
        unsafe {
            map.monomorphic_update()(
                pointer,
                (&raw const key) as u64,
                (&raw const key) as u64,
                0,
                0,
            )
        };
    }
    let addresses: Vec<u64> = (0..10_000)
        .map(|_| 32 | next() & 0xffff_ffff_0000_0000)
        .collect();
    let lookup = map.monomorphic_lookup();
    let mut found = 0u64;
    let read = best(&addresses, |key| {
        // SAFETY: the key has 8 bytes.
        found += u64::from(unsafe { lookup(pointer, (&raw const key) as u64, 0, 0, 0) } != 0);
    });
    println!(
        "{:>16} {entries:>8}: lookup {read:6.2} ns; found {found}",
        "lpm_trie"
    );
}

fn main() {
    let _ = bind_to_cpu(0);
    for entries in [100, 1_000, 10_000, 1_000_000] {
        for map_type in [MapType::Hash, MapType::LruHash, MapType::PercpuHash] {
            run(map_type, entries);
        }
    }
    for entries in [1_000, 10_000, 1_000_000] {
        run_lpm(entries);
        run_typed(entries);
    }
}
