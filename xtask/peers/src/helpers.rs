//! `bench helpers`: nanoseconds of one call of the helpers that programs call most, from a JITed program, beside the kernel's from the same
//! program.
//!
//! A run of a program is 1024 turns of a loop with a call, or 32 where the loop would hide a few; the same loop without any is taken off. The ring buffer has room for the kernel's records of all samples, as
//! nobody takes them out there; ours are taken out between samples. No call may fail.

use std::{hint::black_box, sync::Arc, time::Instant};

use ring3::{
    LoadOptions,
    helpers::{PerfRecord, PerfSink},
    maps::{Map, PerfEventArray, RingBuf, TypedMap},
};

use crate::{
    Outcome,
    kernel::{self, KernelObject, KernelProgram},
    measure::{Contender, minima},
    programs::{self, Ours},
    report::{Report, Row},
};

const ROUNDS: usize = 400;
/// Runs in a sample of ours.
const RUNS: u32 = 4;
/// Rounds of the ring buffer, whose records stay in the kernel.
const RING_ROUNDS: usize = 100;
/// Runs in a sample of the kernel's.
const KERNEL_RUNS: u32 = 4;
const TURNS: f64 = 1024.0;
const BASELINE: &str = "baseline";
/// Program, what its row is called, and calls in a turn.
const OPERATIONS: &[(&str, &str, f64)] = &[
    ("array_lookup", "array lookup", 1.0),
    ("hash_lookup", "hash lookup", 1.0),
    ("hash_update", "hash update", 1.0),
    ("ktime", "ktime_get_ns", 1.0),
    ("pid_tgid", "get_current_pid_tgid", 32.0),
    ("cpu_id", "get_smp_processor_id", 32.0),
    ("prandom", "get_prandom_u32", 1.0),
    (RINGBUF, "ringbuf reserve and submit", 1.0),
    (PERF, "perf_event_output of 64 bytes", 1.0),
];
const RINGBUF: &str = "ringbuf";
/// Kernel events to put into the map would have to be opened: ours is shown alone.
const PERF: &str = "perf_event";
/// Keys of the hash.
const KEYS: u32 = 8192;

/// Runs the bench.
pub(crate) fn bench() -> Outcome<Report> {
    let mut report = Report::default();
    let packet = programs::packet();
    let object = programs::helpers()?;
    let loaded = object
        .load_in(&ring3::system(), &LoadOptions::default())
        .map_err(|error| error.to_string())?;
    let hash: TypedMap<u32, u64> = loaded.map("hash")?;
    for key in 0..KEYS {
        hash.insert(&key, &1)?;
    }
    let events = Arc::clone(loaded.map_object("events")?.map());
    fill_events(&events)?;
    let ring = Arc::clone(loaded.map_object("ring")?.map());
    let in_kernel = if kernel::is_permitted() {
        let in_kernel = KernelObject::create(object.spec())?;
        for key in 0..KEYS {
            in_kernel.update("hash", &key.to_ne_bytes(), &1u64.to_ne_bytes())?;
        }
        Some(in_kernel)
    } else {
        report.note("bpf(2) is not permitted here: no row of the running kernel");
        None
    };
    for &(program, name, calls) in OPERATIONS {
        let mut ours = Ours::new(loaded.program(program)?, &packet)?;
        let mut baseline = Ours::new(loaded.program(BASELINE)?, &packet)?;
        let mut run = ours.run()?;
        if run() != 0 {
            return Err(format!("{name}: calls fail").into());
        }
        let mut contenders = vec![
            sampled("ours", run, Some(&ring)),
            sampled(BASELINE, baseline.run()?, None),
        ];
        let in_kernel = in_kernel.as_ref().filter(|_| program != PERF);
        if let Some(in_kernel) = in_kernel {
            for name in [program, BASELINE] {
                let (kernel, returned) = KernelProgram::new(in_kernel.load(name)?, &packet)?;
                if returned != 0 {
                    return Err(format!("{name}: calls fail in the kernel").into());
                }
                let kernel = kernel.with_repeat(KERNEL_RUNS);
                contenders.push(Contender::sampled(kernel::name(), move || {
                    kernel.sample_ns()
                }));
            }
        }
        let rounds = if program == RINGBUF {
            RING_ROUNDS
        } else {
            ROUNDS
        };
        let best = minima(rounds, &mut contenders);
        drop(contenders);
        let per_op = |with: f64, without: f64| (with - without) / (TURNS * calls);
        match best[..] {
            [ours, our_loop, theirs, their_loop] => report.rows.push(Row {
                name: name.to_owned(),
                ours_ns: per_op(ours, our_loop),
                reference: kernel::name(),
                reference_ns: per_op(theirs, their_loop),
                per: "op",
            }),
            [ours, our_loop] => report.note(format!("{name}: {:.2} ns", per_op(ours, our_loop))),
            _ => {}
        }
        if let Some(in_kernel) = in_kernel {
            let (_, returned) = KernelProgram::new(in_kernel.load(program)?, &packet)?;
            if returned != 0 {
                report.note(format!("{name}: calls failed in the kernel at the end"));
            }
        }
    }
    Ok(report)
}

/// A sink in the slot of every CPU.
fn fill_events(map: &Map) -> Outcome<()> {
    let events = map.downcast::<PerfEventArray>().ok_or("no event array")?;
    for slot in 0..map.max_entries() {
        let deliver = |record: &PerfRecord<'_>| {
            black_box(record.data[0]);
        };
        events.set(slot, Arc::new(PerfSink::new(None, Box::new(deliver))))?;
    }
    Ok(())
}

/// A contender whose sample is a few runs; records are taken out afterwards.
fn sampled<'a>(
    name: &str,
    mut run: impl FnMut() -> u32 + 'a,
    ring: Option<&'a Map>,
) -> Contender<'a> {
    Contender::sampled(name, move || {
        let begin = Instant::now();
        for _ in 0..RUNS {
            black_box(run());
        }
        let time = begin.elapsed().as_nanos() as f64 / f64::from(RUNS);
        if let Some(ring) = ring.and_then(|map| map.downcast::<RingBuf>()) {
            ring.consume(|record| {
                black_box(record[0]);
            });
        }
        time
    })
}
