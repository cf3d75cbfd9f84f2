//! `bench maps`: nanoseconds of one map operation, from a JITed program beside the kernel's from the same program, and from Rust beside
//! the crates dashmap and papaya (`rust_maps`).
//!
//! A run of a program is 1024 operations; the same loop without one is taken off. Its 1024 keys are hot; the walks from Rust visit every key.
//! Samples are short and many: the minimum is what an operation costs when nothing else runs. Each follows a run that is not counted, since
//! contenders take turns and find caches and predictors as the others left them.

use std::time::Instant;

use ring3::{
    LoadOptions,
    maps::{Plain, TypedMap},
    objects::LoadedObject,
};

use crate::{
    Outcome,
    kernel::{self, KernelObject, KernelProgram, WARM_RUNS},
    measure::{Contender, minima, together},
    programs::{self, Ours},
    report::{Report, Row},
    rust_maps,
};

const ROUNDS: usize = 400;
/// Wall time of a sample of ours.
const SAMPLE_NS: f64 = 40_000.0;
const OPS: f64 = 1024.0;
/// The loop without an operation.
const BASELINE: &str = "baseline";
/// Program, and what its row is called.
const OPERATIONS: &[(&str, &str)] = &[
    ("array_lookup", "array lookup"),
    ("array_increment", "array lookup and increment"),
    ("hash_lookup", "hash lookup, 10,000 entries"),
    ("hash_lookup_1m", "hash lookup, 1,000,000 entries"),
    ("hash_update", "hash update"),
    ("hash_update_delete", "hash insert and delete"),
    ("lru_lookup", "LRU lookup"),
    ("lru_update", "LRU update"),
    ("lpm_lookup", "LPM lookup"),
];
/// Keys that `KEY` of the programs can give, and those of `WIDE`.
const KEYS: u32 = 8192;
const KEYS_MANY: u32 = 1_000_000;
/// Maps with 32-bit keys and 64-bit values, filled with the keys below the number.
const FILLED: &[(&str, u32)] = &[
    ("array", KEYS),
    ("hash", KEYS),
    ("hash_many", KEYS_MANY),
    ("lru", KEYS),
];

/// Runs the bench.
pub(crate) fn bench() -> Outcome<Report> {
    let mut report = Report::default();
    let packet = programs::packet();
    let object = programs::maps()?;
    let loaded = object
        .load_in(&ring3::system(), &LoadOptions::default())
        .map_err(|error| error.to_string())?;
    fill_ours(&loaded)?;
    let in_kernel = match kernel::is_permitted() {
        true => {
            let in_kernel = KernelObject::create(object.spec())?;
            fill_kernel(&in_kernel)?;
            Some(in_kernel)
        }
        false => {
            report.note("bpf(2) is not permitted here: no row of the running kernel");
            None
        }
    };
    for (program, name) in OPERATIONS {
        operation(
            program,
            name,
            &loaded,
            in_kernel.as_ref(),
            &packet,
            &mut report,
        )?;
    }
    for (program, name) in [
        ("hash_lookup", "hash lookup"),
        ("hash_update", "hash update"),
        // Elements that one thread inserted in turn share pairs of cache lines, which processors fetch together.
        ("hash_update_near", "hash update of neighbours"),
        ("lru_lookup", "LRU lookup"),
    ] {
        two_threads(program, name, &loaded, &packet, &mut report)?;
    }
    rust_maps::bench(&mut report)?;
    memory(&loaded, in_kernel.as_ref(), &mut report)?;
    Ok(report)
}

/// Operations that `bench engines` shows too: address arithmetic in place of a call, and a call of a function for one kind of map.
pub(crate) fn lookups(report: &mut Report) -> Outcome<()> {
    let packet = programs::packet();
    let object = programs::maps()?;
    let loaded = object
        .load_in(&ring3::system(), &LoadOptions::default())
        .map_err(|error| error.to_string())?;
    fill_ours(&loaded)?;
    let in_kernel = match kernel::is_permitted() {
        true => Some(KernelObject::create(object.spec())?),
        false => None,
    };
    if let Some(in_kernel) = &in_kernel {
        fill_kernel(in_kernel)?;
    }
    for program in ["array_increment", "hash_lookup"] {
        operation(
            program,
            program,
            &loaded,
            in_kernel.as_ref(),
            &packet,
            report,
        )?;
    }
    Ok(())
}

/// Bytes of memory per entry, as `fdinfo` of the map's descriptor says on both sides.
fn memory(
    loaded: &LoadedObject,
    in_kernel: Option<&KernelObject<'_>>,
    report: &mut Report,
) -> Outcome<()> {
    for name in ["array", "hash", "hash_many", "lru", "lpm"] {
        let map = loaded.map_object(name)?.map();
        let entries = f64::from(map.max_entries());
        let ours = map.mem_usage() as f64 / entries;
        let theirs = match in_kernel {
            Some(object) => format!("{:.1}", object.mem_usage(name)? as f64 / entries),
            None => "not asked".to_owned(),
        };
        report.note(format!(
            "{name}, {entries} entries: {ours:.1} bytes an entry, kernel {theirs}"
        ));
    }
    Ok(())
}

fn value(key: u32) -> u64 {
    u64::from(key) * 3 + 1
}

fn prefix(address: u32) -> [u32; 2] {
    [32, address]
}

fn fill_ours(loaded: &LoadedObject) -> Outcome<()> {
    fn fill<K: Plain>(map: &TypedMap<K, u64>, keys: u32, key: fn(u32) -> K) -> Outcome<()> {
        for number in 0..keys {
            map.insert(&key(number), &value(number))?;
        }
        Ok(())
    }
    for &(name, keys) in FILLED {
        fill(&loaded.map::<u32, u64>(name)?, keys, |number| number)?;
    }
    fill(&loaded.map::<[u32; 2], u64>("lpm")?, KEYS, prefix)
}

fn fill_kernel(object: &KernelObject<'_>) -> Outcome<()> {
    for &(name, keys) in FILLED {
        for key in 0..keys {
            object.update(name, &key.to_ne_bytes(), &value(key).to_ne_bytes())?;
        }
    }
    for key in 0..KEYS {
        let bytes = prefix(key).map(u32::to_ne_bytes);
        object.update("lpm", bytes.as_flattened(), &value(key).to_ne_bytes())?;
    }
    Ok(())
}

fn operation(
    program: &str,
    name: &str,
    loaded: &LoadedObject,
    in_kernel: Option<&KernelObject<'_>>,
    packet: &[u8],
    report: &mut Report,
) -> Outcome<()> {
    let mut ours = Ours::new(loaded.program(program)?, packet)?;
    let mut baseline = Ours::new(loaded.program(BASELINE)?, packet)?;
    let mut run = ours.run()?;
    let expected = run();
    let mut contenders = vec![short("ours", run), short(BASELINE, baseline.run()?)];
    if let Some(in_kernel) = in_kernel {
        let (program, returned) = KernelProgram::new(in_kernel.load(program)?, packet)?;
        if returned != expected {
            // An LRU map may have evicted what another has.
            report.note(format!(
                "{name}: we return {expected:#x}, the kernel {returned:#x}"
            ));
        }
        let program = program.with_short_samples();
        let (baseline, _) = KernelProgram::new(in_kernel.load(BASELINE)?, packet)?;
        let baseline = baseline.with_short_samples();
        contenders.push(Contender::sampled(kernel::name(), move || {
            program.warm_sample_ns()
        }));
        contenders.push(Contender::sampled(BASELINE, move || {
            baseline.warm_sample_ns()
        }));
    }
    let best = minima(ROUNDS, &mut contenders);
    let per_op = |with: f64, without: f64| (with - without) / OPS;
    match best[..] {
        [ours, our_loop, theirs, their_loop] => report.rows.push(Row {
            name: name.to_owned(),
            ours_ns: per_op(ours, our_loop),
            reference: kernel::name(),
            reference_ns: per_op(theirs, their_loop),
            per: "op",
        }),
        [ours, our_loop] => {
            report.note(format!("{name}: {:.2} ns", per_op(ours, our_loop)));
        }
        _ => {}
    }
    Ok(())
}

/// A contender whose sample is a few runs, after some that are not counted.
fn short<'a>(name: &str, mut run: impl FnMut() -> u32 + 'a) -> Contender<'a> {
    let mut batch = move |runs: u32| {
        let begin = Instant::now();
        for _ in 0..runs {
            std::hint::black_box(run());
        }
        begin.elapsed().as_nanos() as f64 / f64::from(runs)
    };
    let runs = (SAMPLE_NS / batch(WARM_RUNS).max(1.0)).clamp(4.0, 1000.0) as u32;
    Contender::sampled(name, move || {
        batch(WARM_RUNS);
        batch(runs)
    })
}

/// The same program on two threads at once, over other keys: the reference is one thread, the loop included in both.
fn two_threads(
    program: &str,
    name: &str,
    loaded: &LoadedObject,
    packet: &[u8],
    report: &mut Report,
) -> Outcome<()> {
    // Short samples and many: both processors must be ours for the length of one.
    const RUNS: usize = 8;
    const ROUNDS: usize = 1500;
    let program = loaded.program(program)?;
    let body = |thread: usize| {
        let mut packet = packet.to_vec();
        // The packet's first word chooses the keys.
        packet[..4].copy_from_slice(&(thread as u32 * 4096).to_ne_bytes());
        let mut ours = Ours::new(program, &packet).ok();
        let mut repeat = move |runs: usize| {
            if let Some(mut run) = ours.as_mut().and_then(|ours| ours.run().ok()) {
                for _ in 0..runs {
                    std::hint::black_box(run());
                }
            }
        };
        repeat(WARM_RUNS as usize);
        move || repeat(RUNS)
    };
    let per_run = (RUNS as f64) * OPS;
    let (mut one, mut two) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        one = one.min(together(1, body) / per_run);
        two = two.min(together(2, body) / per_run / 2.0);
    }
    report.rows.push(Row {
        name: format!("{name} from a program, 2 threads"),
        ours_ns: two,
        reference: "ours, 1 thread".to_owned(),
        reference_ns: one,
        per: "op",
    });
    report.note(format!(
        "{name} from a program: 2 threads do {:.2} times as much as one",
        one / two
    ));
    Ok(())
}
