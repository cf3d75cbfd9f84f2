//! `bench verifier`: nanoseconds per instruction processed, ours beside the kernel's, at log level 0 on one thread.
//!
//! The accepted programs of one set of the corpus, beside the times recorded with them (another day: it tells the order) and, where bpf(2)
//! is permitted, beside the running kernel, which loads each program in turns with ours. The same for the fixtures. A load is more than
//! verification (the JIT, a descriptor), hence a row less the kernel's load of a program of two instructions; what both count is the
//! instructions processed. Times are processor times of the thread, so that other work on the machine counts little. Sums weigh long
//! programs; the rows `per program` are geometric means, where each program counts once.

use std::{collections::BTreeMap, path::Path};

use ring3::{
    LoadOptions,
    objects::Object,
    spec::{LoadRequest, Registry},
    verifier,
};
use ring3_os::time::thread_cpu_ns;
use ring3_testkit::{corpus::Corpus, fixture::elf_fixtures, kernel_request::KernelRequest};

use crate::{
    Outcome, heap, kernel, programs,
    report::{Report, Row},
};

const CORPUS_SET: &str = "selftests-6.18";
const RECORDED: &str = "kernel, recorded load";
/// Longer programs are measured fewer times.
const SHORT_NS: f64 = 20e6;
const ROUNDS_SHORT: usize = 7;
const ROUNDS_LONG: usize = 2;
/// Below that, memory is that of the program, not of its states.
const MANY_STATES: u64 = 100;

/// Runs the bench; without a corpus folder, over the fixtures alone.
pub(crate) fn bench(corpus: Option<&Path>) -> Outcome<Report> {
    let mut report = Report::default();
    let empty_ns = if kernel::is_permitted() {
        Some(empty_load_ns()?)
    } else {
        report.note("bpf(2) is not permitted here: no row of the running kernel");
        None
    };
    match corpus {
        Some(dir) => selftests(dir, empty_ns, &mut report)?,
        None => report.note("no corpus folder given: fixtures only"),
    }
    if let Some(empty_ns) = empty_ns {
        fixtures(empty_ns, &mut report)?;
        report.note(format!(
            "the kernel loads an empty program in {empty_ns:.0} ns"
        ));
    }
    let rates: Vec<String> = report
        .rows
        .iter()
        .map(|row| {
            format!(
                "{}: {:.2} million insns/s, {} {:.2}: {:.1} times as fast",
                row.name,
                1e3 / row.ours_ns,
                row.reference,
                1e3 / row.reference_ns,
                1.0 / row.ratio()
            )
        })
        .collect();
    report.notes.extend(rates);
    Ok(report)
}

/// The least that a load costs the kernel.
fn empty_load_ns() -> Outcome<f64> {
    let object = programs::pure()?;
    let options = LoadOptions {
        programs: Some(vec![programs::EMPTY.to_owned()]),
        ..LoadOptions::default()
    };
    let verified = object.verify_in(&ring3::system(), &options)?;
    let Some((_, Ok(empty))) = verified.into_iter().next() else {
        return Err("the bench programs have no empty one".into());
    };
    let request = KernelRequest::create(&empty.request)?;
    let mut best = f64::INFINITY;
    for _ in 0..200 {
        best = best.min(request.load_ns(&empty.request)? as f64);
    }
    Ok(best)
}

/// Nanoseconds and instructions processed; `None` if it is not accepted.
fn verify_ns(request: &LoadRequest, registry: &Registry) -> Option<(f64, u64)> {
    let mut log = verifier::Log::new(0);
    let begin = thread_cpu_ns();
    let verified = verifier::verify(request, registry, &mut log);
    let took = (thread_cpu_ns() - begin) as f64;
    verified
        .ok()
        .map(|program| (took, program.stats.insns_processed.max(1)))
}

/// Bytes that a verification held at most, and what it held them for; sums over programs add up.
#[derive(Clone, Copy, Default)]
struct Memory {
    peak_bytes: u64,
    /// As the kernel counts: checkpoints.
    peak_states: u64,
    /// Checkpoints and paths that wait to be walked.
    peak_held: u64,
    slots: u64,
}

impl Memory {
    fn of(request: &LoadRequest, registry: &Registry) -> Option<Memory> {
        let mut log = verifier::Log::new(0);
        let (verified, peak_bytes) =
            heap::peak_of(|| verifier::verify(request, registry, &mut log));
        let stats = verified.ok()?.stats;
        Some(Memory {
            peak_bytes,
            peak_states: u64::from(stats.peak_states),
            peak_held: u64::from(stats.peak_held),
            slots: request.insns.len() as u64,
        })
    }

    fn add(&mut self, other: Memory) {
        self.peak_bytes += other.peak_bytes;
        self.peak_states += other.peak_states;
        self.peak_held += other.peak_held;
        self.slots += other.slots;
    }

    fn line(&self) -> String {
        let per = |count: u64| self.peak_bytes as f64 / count.max(1) as f64;
        format!(
            "peak {} bytes: {:.0} per stored state ({} checkpoints and waiting paths), {:.0} per checkpoint ({}), {:.0} per instruction of the program",
            self.peak_bytes,
            per(self.peak_held),
            self.peak_held,
            per(self.peak_states),
            self.peak_states,
            per(self.slots)
        )
    }
}

/// One program, measured.
struct Measured {
    insns: u64,
    memory: Memory,
    ours_ns: f64,
    /// The running kernel's load; why there is none.
    live_ns: Result<f64, String>,
}

/// Minima of ours and, in turns with it, of the kernel's; `None` if we do not accept the program.
fn measure(request: &LoadRequest, registry: &Registry, is_live: bool) -> Option<Measured> {
    let (mut ours_ns, insns) = verify_ns(request, registry)?;
    let in_kernel = match is_live {
        true => KernelRequest::create(request),
        false => Err("bpf(2) is not permitted".to_owned()),
    };
    let mut live_ns = in_kernel
        .as_ref()
        .map(|_| f64::INFINITY)
        .map_err(String::clone);
    let rounds = if ours_ns < SHORT_NS {
        ROUNDS_SHORT
    } else {
        ROUNDS_LONG
    };
    for _ in 0..rounds {
        if let Some((took, _)) = verify_ns(request, registry) {
            ours_ns = ours_ns.min(took);
        }
        if let (Ok(in_kernel), Ok(best)) = (&in_kernel, &live_ns) {
            let took = in_kernel.load_ns(request);
            live_ns = took
                .map(|took| best.min(took as f64))
                .map_err(|errno| errno.to_string());
        }
    }
    Some(Measured {
        insns,
        memory: Memory::of(request, registry)?,
        ours_ns,
        live_ns,
    })
}

/// Sums over a group of programs, ours beside one reference.
#[derive(Default)]
struct Sums {
    programs: usize,
    insns: u64,
    ours_ns: f64,
    reference_ns: f64,
    /// Sums of logarithms of nanoseconds per instruction.
    ours_log: f64,
    reference_log: f64,
}

impl Sums {
    fn add(&mut self, insns: u64, ours_ns: f64, reference_ns: f64) {
        self.programs += 1;
        self.insns += insns;
        self.ours_ns += ours_ns;
        self.reference_ns += reference_ns;
        self.ours_log += (ours_ns / insns as f64).ln();
        self.reference_log += (reference_ns / insns as f64).ln();
    }

    fn push(&self, name: &str, reference: &str, report: &mut Report) {
        if self.programs == 0 {
            return;
        }
        let (insns, programs) = (self.insns as f64, self.programs as f64);
        for (name, ours_ns, reference_ns) in [
            (
                format!("{name}, {} programs", self.programs),
                self.ours_ns / insns,
                self.reference_ns / insns,
            ),
            (
                format!("{name}, per program"),
                (self.ours_log / programs).exp(),
                (self.reference_log / programs).exp(),
            ),
        ] {
            report.rows.push(Row {
                name,
                ours_ns,
                reference: reference.to_owned(),
                reference_ns,
                per: "insn",
            });
        }
    }
}

/// Ours beside the kernel's loads, whole and less an empty one.
#[derive(Default)]
struct LiveSums {
    whole: Sums,
    less_empty: Sums,
    left_out: BTreeMap<String, usize>,
}

impl LiveSums {
    fn add(&mut self, measured: &Measured, empty_ns: f64) {
        match &measured.live_ns {
            Ok(live_ns) => {
                self.whole.add(measured.insns, measured.ours_ns, *live_ns);
                let less_empty = (live_ns - empty_ns).max(1.0);
                self.less_empty
                    .add(measured.insns, measured.ours_ns, less_empty);
            }
            Err(cause) => *self.left_out.entry(cause.clone()).or_default() += 1,
        }
    }

    fn push(&self, name: &str, report: &mut Report) {
        let reference = format!("{}, load", kernel::name());
        self.whole.push(name, &reference, report);
        let reference = format!("{reference} less an empty one");
        self.less_empty.push(name, &reference, report);
        if !self.left_out.is_empty() {
            report.note(format!(
                "{name}: left out of the live rows, by cause: {:?}",
                self.left_out
            ));
        }
    }
}

fn selftests(dir: &Path, empty_ns: Option<f64>, report: &mut Report) -> Outcome<()> {
    let corpus = Corpus::open(dir);
    let registry = Registry::linux_6_18();
    let mut recorded = Sums::default();
    let mut live = LiveSums::default();
    let (mut rejected, mut untimed) = (0, 0);
    let mut longest: BTreeMap<u64, String> = BTreeMap::new();
    let mut biggest: BTreeMap<u64, String> = BTreeMap::new();
    let (mut memory, mut memory_of_many) = (Memory::default(), Memory::default());
    for row in corpus.rows()? {
        if row.set != CORPUS_SET || row.errno != 0 || row.reference.is_some() {
            continue;
        }
        let request = corpus.request(&row)?;
        let Some(measured) = measure(&request, &registry, empty_ns.is_some()) else {
            rejected += 1;
            continue;
        };
        memory.add(measured.memory);
        if measured.memory.peak_states >= MANY_STATES {
            memory_of_many.add(measured.memory);
        }
        biggest.insert(
            measured.memory.peak_bytes,
            format!("{}: {}", row.path, measured.memory.line()),
        );
        if biggest.len() > 5 {
            biggest.pop_first();
        }
        let per_insn = |ns: f64| ns / measured.insns as f64;
        longest.insert(
            measured.ours_ns as u64,
            format!(
                "{}: {} insns, {:.0} ns/insn, kernel {:.0} recorded, {:.0} now",
                row.path,
                measured.insns,
                per_insn(measured.ours_ns),
                per_insn(row.load_ns as f64),
                per_insn(measured.live_ns.as_ref().copied().unwrap_or(f64::NAN))
            ),
        );
        if longest.len() > 5 {
            longest.pop_first();
        }
        if row.load_ns == 0 {
            untimed += 1;
        } else {
            recorded.add(measured.insns, measured.ours_ns, row.load_ns as f64);
        }
        if let Some(empty_ns) = empty_ns {
            live.add(&measured, empty_ns);
        }
    }
    if recorded.programs == 0 {
        let message = format!(
            "{}: no accepted and timed program of set {CORPUS_SET}",
            dir.display()
        );
        return Err(message.into());
    }
    report.note(format!(
        "{CORPUS_SET}: of the accepted programs {rejected} are rejected by us and left out, {untimed} have no recorded time"
    ));
    report.note(format!("memory, all: {}", memory.line()));
    report.note(format!(
        "memory, programs of {MANY_STATES} states and more: {}",
        memory_of_many.line()
    ));
    let lines = biggest.values().rev();
    report
        .notes
        .extend(lines.map(|line| format!("  biggest: {line}")));
    let lines = longest.values().rev();
    report
        .notes
        .extend(lines.map(|line| format!("  longest: {line}")));
    recorded.push(CORPUS_SET, RECORDED, report);
    live.push(CORPUS_SET, report);
    Ok(())
}

fn fixtures(empty_ns: f64, report: &mut Report) -> Outcome<()> {
    let mut objects = vec![programs::pure()?, programs::maps()?];
    for fixture in elf_fixtures()? {
        objects.push(Object::open(&fixture.path)?);
    }
    let mut live = LiveSums::default();
    for object in &objects {
        let system = ring3::system();
        for (_, verification) in object.verify_in(&system, &LoadOptions::default())? {
            let Ok(verification) = verification else {
                continue;
            };
            if let Some(measured) = measure(&verification.request, system.registry(), true) {
                live.add(&measured, empty_ns);
            }
        }
    }
    live.push("fixtures and bench programs", report);
    Ok(())
}
