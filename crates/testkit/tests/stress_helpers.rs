//! Timers, callbacks and ring buffers under two threads: no lost record, no use after free, no deadlock.
//!
//! `cargo xtask stress helpers --seconds 60` runs it for that long and looks at the memory of the process.
#![cfg(feature = "engines")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ring3::maps::{Access, Map, RingBuf};
use ring3::{EngineKind, LoadOptions, LoadedObject, Program, System, TestRun, objects::Object};
use ring3_testkit::fixture::fixtures_dir;

/// Sources of records in the fixture: two threads and the timers.
const PRODUCERS: usize = 3;
/// Every sixteenth record is discarded after it was filled.
const DISCARD: u64 = 16;
/// Memory that the process may gain.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// A thread that does nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(20);

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn run(program: &Program, number: u32) -> u32 {
    let run = TestRun {
        ctx_in: number.to_ne_bytes().to_vec(),
        ..TestRun::default()
    };
    program.test_run_with(&run).unwrap().retval
}

/// What the programs counted, as they lie in `.bss`.
#[derive(Debug)]
struct Counts {
    sent: [u64; PRODUCERS],
    dropped: [u64; PRODUCERS],
    fired: u64,
    armed: u64,
    visited: u64,
}

impl Counts {
    fn read(map: &Map) -> Counts {
        let mut bytes = vec![0; map.sys_value_bytes()];
        map.sys_lookup(Access::ReadOnly, &[0; 4], &mut bytes, 0)
            .unwrap();
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        Counts {
            sent: words[..3].try_into().unwrap(),
            dropped: words[3..6].try_into().unwrap(),
            fired: words[6],
            armed: words[7],
            visited: words[8],
        }
    }
}

/// Records taken out, by producer; each producer's come in order, and only discarded ones are missing.
#[derive(Default)]
struct Taken {
    next: [u64; PRODUCERS],
    records: u64,
}

impl Taken {
    fn take(&mut self, record: &[u8]) {
        let producer = u32::from_ne_bytes(record[..4].try_into().unwrap()) as usize;
        assert_eq!(record[4..8], [0; 4], "a torn record");
        let sequence = u64::from_ne_bytes(record[8..16].try_into().unwrap());
        let next = &mut self.next[producer];
        if *next % DISCARD == DISCARD - 1 {
            *next += 1;
        }
        assert_eq!(
            sequence, *next,
            "producer {producer}: a lost or repeated record"
        );
        *next += 1;
        self.records += 1;
    }
}

fn map(loaded: &LoadedObject, part: &str) -> Arc<Map> {
    let (_, map) = loaded.maps().find(|(name, _)| name.contains(part)).unwrap();
    Arc::clone(map.map())
}

fn stress(engine: EngineKind, time: Duration) {
    let object = Object::open(fixtures_dir().join("elf/stress/helpers.o")).unwrap();
    let system: Arc<System> = ring3::system();
    let options = LoadOptions {
        engine,
        ..LoadOptions::default()
    };
    let loaded = object.load_in(&system, &options).unwrap();
    let (produce, churn) = (
        loaded.program("produce").unwrap(),
        loaded.program("churn").unwrap(),
    );
    let ring = map(&loaded, "records");
    let ring = ring.downcast::<RingBuf>().unwrap();
    let is_over = AtomicBool::new(false);
    let before = resident_bytes();
    let mut taken = Taken::default();
    std::thread::scope(|scope| {
        for thread in 0..2u32 {
            let (is_over, produce, churn) = (&is_over, &produce, &churn);
            scope.spawn(move || {
                let mut number = thread;
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(run(produce, thread), 0);
                    // 1: the other thread was quicker to delete what this one had inserted.
                    assert!(run(churn, number) <= 1);
                    number = number.wrapping_add(1);
                }
            });
        }
        let end = Instant::now() + time;
        let mut last = (taken.records, Instant::now());
        while Instant::now() < end {
            if ring.consume(|record| taken.take(record)) == 0 {
                std::thread::yield_now();
            }
            if taken.records != last.0 {
                last = (taken.records, Instant::now());
            }
            assert!(last.1.elapsed() < STUCK, "no record for {STUCK:?}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    // Timers that still rearm themselves come to their end.
    let mut quiet = 0;
    while quiet < 20 {
        std::thread::sleep(Duration::from_millis(10));
        let count = ring.consume(|record| taken.take(record));
        quiet = if count == 0 { quiet + 1 } else { 0 };
    }
    let counts = Counts::read(&map(&loaded, ".bss"));
    for producer in 0..PRODUCERS {
        let discarded = counts.dropped[producer] >> 32;
        assert_eq!(discarded, counts.sent[producer] / DISCARD);
        let mut reached = taken.next[producer];
        if reached % DISCARD == DISCARD - 1 && reached < counts.sent[producer] {
            reached += 1;
        }
        assert_eq!(
            reached, counts.sent[producer],
            "producer {producer}: {counts:?}"
        );
        assert!(counts.sent[producer] > 0, "{counts:?}");
    }
    assert!(
        counts.fired > 0 && counts.visited > 0 && counts.armed > 0,
        "{counts:?}"
    );
    drop(loaded);
    let after = resident_bytes();
    println!(
        "{engine:?}: {} records taken, {counts:?}, {} KiB before, {} KiB after",
        taken.records,
        before >> 10,
        after >> 10
    );
    assert!(
        after < before + GROWTH_BYTES_MAX,
        "{before} bytes before, {after} after"
    );
}

#[test]
fn records_of_programs_callbacks_and_timers_are_neither_lost_nor_torn() {
    let seconds = std::env::var("RING3_STRESS_SECONDS").ok();
    let time = seconds.map_or(Duration::from_millis(600), |seconds| {
        Duration::from_secs(seconds.parse().expect("RING3_STRESS_SECONDS is a number"))
    });
    for engine in [EngineKind::Jit, EngineKind::Interp] {
        stress(engine, time / 2);
    }
}
