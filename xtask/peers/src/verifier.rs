//! `bench verifier`: instructions processed per second, ours beside the kernel's, at log level 0 on one thread.
//!
//! Two groups. The corpus' accepted programs of one set, beside the times that were recorded with them: that kernel ran on another day, so
//! the ratio tells the order. The fixtures' accepted programs, loaded by the running kernel in turns with ours: that ratio binds. A load is
//! more than verification (the JIT, a descriptor), hence the second row, less the kernel's load of a program of two instructions.

use std::{collections::BTreeMap, path::Path, time::Instant};

use ring3::{LoadOptions, objects::Object, spec::LoadRequest, spec::Registry, verifier};
use ring3_testkit::{corpus::Corpus, fixture::elf_fixtures};

use crate::{
    Outcome,
    kernel::{self, KernelObject},
    programs,
    report::{Report, Row},
};

const CORPUS_SET: &str = "selftests-6.18";
/// Rounds over programs that take less than this each; longer ones are measured twice.
const SHORT_NS: f64 = 20e6;
const ROUNDS_SHORT: usize = 7;
const ROUNDS_LIVE: usize = 15;

/// Runs the bench; without a corpus folder, the fixtures alone.
pub(crate) fn bench(corpus: Option<&Path>) -> Outcome<Report> {
    let mut report = Report::default();
    match corpus {
        Some(dir) => recorded(dir, &mut report)?,
        None => report.note("no corpus folder given: fixtures only"),
    }
    if kernel::is_permitted() {
        live(&mut report)?;
    } else {
        report.note("bpf(2) is not permitted here: no row of the running kernel");
    }
    for row in &report.rows {
        let rate = |ns: f64| 1e3 / ns;
        report.notes.push(format!(
            "{}: {:.2} million insns/s, {} {:.2} million insns/s, {:.1} times as fast",
            row.name,
            rate(row.ours_ns),
            row.reference,
            rate(row.reference_ns),
            1.0 / row.ratio()
        ));
    }
    Ok(report)
}

/// Nanoseconds and instructions processed; `None` if it is not accepted.
fn verify_ns(request: &LoadRequest, registry: &Registry) -> Option<(f64, u64)> {
    let mut log = verifier::Log::new(0);
    let begin = Instant::now();
    let verified = verifier::verify(request, registry, &mut log);
    let took = begin.elapsed().as_nanos() as f64;
    verified
        .ok()
        .map(|program| (took, program.stats.insns_processed))
}

/// Sums over a group of programs.
#[derive(Default)]
struct Sums {
    programs: usize,
    insns: u64,
    ours_ns: f64,
    reference_ns: f64,
}

impl Sums {
    fn row(&self, name: &str, reference: &str, reference_ns: f64) -> Row {
        Row {
            name: name.to_owned(),
            ours_ns: self.ours_ns / self.insns as f64,
            reference: reference.to_owned(),
            reference_ns: reference_ns / self.insns as f64,
            per: "insn",
        }
    }
}

fn recorded(dir: &Path, report: &mut Report) -> Outcome<()> {
    let corpus = Corpus::open(dir);
    let registry = Registry::linux_6_18();
    let mut sums = Sums::default();
    let (mut rejected, mut untimed) = (0, 0);
    let mut slowest: BTreeMap<u64, String> = BTreeMap::new();
    for row in corpus.rows()? {
        if row.set != CORPUS_SET || row.errno != 0 || row.reference.is_some() {
            continue;
        }
        if row.load_ns == 0 {
            untimed += 1;
            continue;
        }
        let request = corpus.request(&row)?;
        let Some((mut best, insns)) = verify_ns(&request, &registry) else {
            rejected += 1;
            continue;
        };
        let rounds = if best < SHORT_NS { ROUNDS_SHORT } else { 1 };
        for _ in 0..rounds {
            if let Some((took, _)) = verify_ns(&request, &registry) {
                best = best.min(took);
            }
        }
        sums.programs += 1;
        sums.insns += insns;
        sums.ours_ns += best;
        sums.reference_ns += row.load_ns as f64;
        slowest.insert(
            best as u64,
            format!(
                "{}: {insns} insns, {:.0} ns/insn, kernel {:.0}",
                row.path,
                best / insns.max(1) as f64,
                row.load_ns as f64 / insns.max(1) as f64
            ),
        );
        if slowest.len() > 5 {
            slowest.pop_first();
        }
    }
    if sums.programs == 0 {
        return Err(format!(
            "{}: no accepted and timed program of set {CORPUS_SET}",
            dir.display()
        )
        .into());
    }
    report.note(format!(
        "{CORPUS_SET}: {} accepted programs, {} insns; left out: {rejected} that we reject, {untimed} without a recorded time",
        sums.programs, sums.insns
    ));
    for line in slowest.values().rev() {
        report.note(format!("  longest: {line}"));
    }
    let reference_ns = sums.reference_ns;
    report
        .rows
        .push(sums.row(CORPUS_SET, "kernel, recorded load", reference_ns));
    Ok(())
}

fn live(report: &mut Report) -> Outcome<()> {
    let empty = programs::pure()?;
    let empty_object = KernelObject::create(empty.spec())?;
    let empty_prog = empty
        .spec()
        .progs
        .iter()
        .find(|prog| prog.name == programs::EMPTY)
        .ok_or("the bench programs have no empty one")?;
    let empty_load = empty_object.prepare(empty_prog);
    let mut empty_ns = f64::INFINITY;
    let mut sums = Sums::default();
    let mut objects: Vec<Object> = Vec::new();
    for fixture in elf_fixtures()? {
        objects.push(Object::open(&fixture.path)?);
    }
    objects.push(programs::pure()?);
    objects.push(programs::maps()?);
    for object in &objects {
        measure_live(object, &mut sums, report)?;
        for _ in 0..ROUNDS_LIVE {
            empty_ns = empty_ns.min(empty_load.load_ns());
        }
    }
    report.note(format!(
        "fixtures and bench programs: {} accepted programs, {} insns; the kernel loads an empty program in {empty_ns:.0} ns",
        sums.programs, sums.insns
    ));
    let reference = format!("{}, load", kernel::name());
    let less_empty = sums.reference_ns - empty_ns * sums.programs as f64;
    for (reference, reference_ns) in [
        (reference.clone(), sums.reference_ns),
        (format!("{reference} less an empty one"), less_empty),
    ] {
        report
            .rows
            .push(sums.row("fixtures", &reference, reference_ns));
    }
    Ok(())
}

fn measure_live(object: &Object, sums: &mut Sums, report: &mut Report) -> Outcome<()> {
    let system = ring3::system();
    let verified = object.verify_in(&system, &LoadOptions::default())?;
    let Ok(in_kernel) = KernelObject::create(object.spec()) else {
        report.note(format!("{}: the kernel refuses its maps", object.spec().name));
        return Ok(());
    };
    for (name, verification) in verified {
        let Ok(verification) = verification else {
            continue;
        };
        let Some((mut ours, insns)) = verify_ns(&verification.request, system.registry()) else {
            continue;
        };
        let Some(prog) = object.spec().progs.iter().find(|prog| prog.name == name) else {
            continue;
        };
        let prepared = in_kernel.prepare(prog);
        let mut theirs = prepared.load_ns();
        for _ in 0..ROUNDS_LIVE {
            if let Some((took, _)) = verify_ns(&verification.request, system.registry()) {
                ours = ours.min(took);
            }
            theirs = theirs.min(prepared.load_ns());
        }
        if theirs.is_infinite() {
            report.note(format!("{name}: the kernel rejects it, left out"));
            continue;
        }
        sums.programs += 1;
        sums.insns += insns;
        sums.ours_ns += ours;
        sums.reference_ns += theirs;
    }
    Ok(())
}
