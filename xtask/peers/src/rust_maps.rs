//! Hash maps from Rust: our typed map beside dashmap and papaya, on one thread and on two.
//!
//! All three hash with one multiplication, so that maps are compared and not hash functions; ours keeps its own. Threads work on
//! different keys; two threads are compared with one of the same map too.
//!
//! Rows of hot keys go over the same 2,000 keys twice and count the second time, as the programs' rows do; rows of cold keys of 1,000,000 go over
//! keys that no cache holds.

use std::hash::{BuildHasherDefault, Hasher};

use dashmap::DashMap;
use papaya::HashMap as PapayaMap;
use ring3::maps::{Map, MapAttr, MapType, TypedMap};

use crate::{
    Outcome,
    measure::together,
    report::{Report, Row},
};

/// Rounds, and operations of a thread in a sample: short samples and many, because both processors must be ours for the length of one.
const ROUNDS: usize = 300;
const OPS: u32 = 2_000;
/// Entries, whether keys are hot, and how rows say it.
const CASES: [(u32, bool, &str); 3] = [
    (10_000, true, "10,000 entries"),
    (1_000_000, true, "1,000,000 entries, hot keys"),
    (1_000_000, false, "1,000,000 entries, cold keys"),
];

/// Multiplies and folds, for 32-bit keys.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte) ^ self.0 as u32);
        }
    }

    fn write_u32(&mut self, key: u32) {
        let product = u128::from(u64::from(key) ^ 0x243f_6a88_85a3_08d3) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

type Build = BuildHasherDefault<Mix>;

/// A map that threads share.
trait Shared: Sync {
    const NAME: &'static str;
    fn get(&self, key: u32) -> u64;
    fn set(&self, key: u32, value: u64);
    fn insert_remove(&self, key: u32);
}

struct Ours(TypedMap<u32, u64>);

impl Shared for Ours {
    const NAME: &'static str = "ours";
    fn get(&self, key: u32) -> u64 {
        self.0.get(&key).unwrap_or(0)
    }
    fn set(&self, key: u32, value: u64) {
        // A full map would show in the check before measuring.
        let _ = self.0.insert(&key, &value);
    }
    fn insert_remove(&self, key: u32) {
        let _ = self.0.insert(&key, &1);
        let _ = self.0.remove(&key);
    }
}

impl Shared for DashMap<u32, u64, Build> {
    const NAME: &'static str = "dashmap";
    fn get(&self, key: u32) -> u64 {
        DashMap::get(self, &key).map_or(0, |value| *value)
    }
    fn set(&self, key: u32, value: u64) {
        self.insert(key, value);
    }
    fn insert_remove(&self, key: u32) {
        self.insert(key, 1);
        self.remove(&key);
    }
}

impl Shared for PapayaMap<u32, u64, Build> {
    const NAME: &'static str = "papaya";
    fn get(&self, key: u32) -> u64 {
        self.pin().get(&key).copied().unwrap_or(0)
    }
    fn set(&self, key: u32, value: u64) {
        self.pin().insert(key, value);
    }
    fn insert_remove(&self, key: u32) {
        let map = self.pin();
        map.insert(key, 1);
        map.remove(&key);
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Lookup,
    Update,
    InsertRemove,
}

impl Operation {
    const ALL: [(Operation, &'static str); 3] = [
        (Operation::Lookup, "lookup"),
        (Operation::Update, "update"),
        (Operation::InsertRemove, "insert and remove"),
    ];
}

/// Adds the rows.
pub(crate) fn bench(report: &mut Report) -> Outcome<()> {
    for (size, is_hot, case) in CASES {
        // Room for the keys that come and go.
        let attr = MapAttr::new(MapType::Hash, 4, 8, 2 * size);
        let ours = Ours(TypedMap::new(Map::create(&attr)?)?);
        let dashmap = DashMap::with_capacity_and_hasher(2 * size as usize, Build::default());
        let papaya = PapayaMap::with_capacity_and_hasher(2 * size as usize, Build::default());
        fill(&ours, size)?;
        fill(&dashmap, size)?;
        fill(&papaya, size)?;
        for (operation, name) in Operation::ALL {
            let mut best = [[f64::INFINITY; 2]; 3];
            for round in 0..ROUNDS {
                for (threads, at) in [(1, 0), (2, 1)] {
                    let walk = Walk {
                        operation,
                        size,
                        is_hot,
                        round: round as u32,
                    };
                    best[0][at] = best[0][at].min(walk.sample(&ours, threads));
                    best[1][at] = best[1][at].min(walk.sample(&dashmap, threads));
                    best[2][at] = best[2][at].min(walk.sample(&papaya, threads));
                }
            }
            push(report, &format!("Rust hash {name}, {case}"), best);
        }
    }
    Ok(())
}

fn fill<M: Shared>(map: &M, size: u32) -> Outcome<()> {
    for key in 0..size {
        map.set(key, u64::from(key) + 1);
    }
    let missing = (0..size).find(|&key| map.get(key) != u64::from(key) + 1);
    match missing {
        Some(key) => Err(format!("{}: key {key} is not there after its insertion", M::NAME).into()),
        None => Ok(()),
    }
}

/// A sample: some operations over keys that the rounds before did not use, as far as there are such.
#[derive(Clone, Copy)]
struct Walk {
    operation: Operation,
    size: u32,
    is_hot: bool,
    round: u32,
}

impl Walk {
    /// Nanoseconds per operation, of all threads together.
    fn sample<M: Shared>(self, map: &M, threads: usize) -> f64 {
        let wall = together(threads, |thread| {
            let own = self.size / threads as u32;
            let first = own * thread as u32;
            // What a thread does once, before its first operation on a map.
            std::hint::black_box(map.get(first));
            let pass = move || {
                let mut sum = 0u64;
                for i in 0..OPS {
                    // In an order that no prefetcher sees through.
                    let hash = (self.round * OPS + i).wrapping_mul(2_654_435_761);
                    let key = first + ((u64::from(hash) * u64::from(own)) >> 32) as u32;
                    match self.operation {
                        Operation::Lookup => sum = sum.wrapping_add(map.get(key)),
                        Operation::Update => map.set(key, u64::from(i)),
                        Operation::InsertRemove => map.insert_remove(self.size + key),
                    }
                }
                std::hint::black_box(sum);
            };
            if self.is_hot {
                pass();
            }
            pass
        });
        wall / f64::from(OPS) / threads as f64
    }
}

fn push(report: &mut Report, name: &str, best: [[f64; 2]; 3]) {
    let names = [
        Ours::NAME,
        <DashMap<u32, u64, Build> as Shared>::NAME,
        <PapayaMap<u32, u64, Build> as Shared>::NAME,
    ];
    for (at, suffix) in [(0, ""), (1, ", 2 threads")] {
        for peer in 1..best.len() {
            report.rows.push(Row {
                name: format!("{name}{suffix}"),
                ours_ns: best[0][at],
                reference: names[peer].to_owned(),
                reference_ns: best[peer][at],
                per: "op",
            });
        }
    }
    let gains: Vec<String> = names
        .iter()
        .zip(best)
        .map(|(name, [one, two])| format!("{name} {:.2}", one / two))
        .collect();
    report.note(format!("{name}: 2 threads by one: {}", gains.join(", ")));
}
