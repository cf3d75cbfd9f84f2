//! `bench engines`: the bench programs on our two engines, beside native code, rbpf and the kernel's JIT.
//!
//! Every engine runs the same instructions over the same packet and must return the same value, else the bench fails. A run of ours has its
//! read section, as a hook would; a kernel run is that of BPF_PROG_TEST_RUN less the empty program's.

use std::{path::Path, sync::Arc, time::Instant};

use ring3::{
    EngineKind, LoadOptions, Program, interp,
    jit_x86_64::{self as jit, Compiled},
    objects::{LoadedObject, Object},
    runtime::{CallTarget, Linked, Site, Target},
    spec::{CallFact, Registry, VerifiedProgram},
    verifier::{Log, verify},
};
use ring3_testkit::corpus::Corpus;

use crate::{
    Outcome,
    kernel::{self, KernelObject, KernelProgram},
    measure::{Contender, minima},
    native::{Frame, Native},
    programs::{self, EMPTY, Ours},
    rbpf_peer::{self, Rbpf},
    report::{Report, Row},
    sbpf_peer::{self, Sbpf},
    steps,
};

const ROUNDS: usize = 40;
const NATIVE: &str = "native, clang-19 -O2";
const RBPF: &str = "rbpf, JIT";
const SBPF: &str = "solana-sbpf, JIT, checked";
const RBPF_INTERP: &str = "rbpf, interpreter";
/// Programs of the corpus that are longer are a million times the same instruction, for the verifier's limits.
const CORPUS_INSNS_MAX: usize = 100_000;
/// Calls of the program of that name, and hops of the tail-call chain.
const CALLS: usize = 3000;
const HOPS: usize = 33;

/// Runs the bench; `corpus` is a folder of recorded loads, whose accepted programs are compiled.
pub(crate) fn bench(corpus: Option<&Path>) -> Outcome<Report> {
    let mut report = Report::default();
    let object = programs::pure()?;
    let jitted = load(&object, EngineKind::Jit)?;
    let interpreted = load(&object, EngineKind::Interp)?;
    let packet = programs::packet();
    let in_kernel = match kernel::is_permitted() {
        true => Some(KernelObject::create(object.spec())?),
        false => {
            report.note("bpf(2) is not permitted here: no row of the running kernel");
            None
        }
    };
    for (name, program) in jitted.programs() {
        run_program(name, program, &packet, in_kernel.as_ref(), &mut report)?;
    }
    tail_chain(&packet, &mut report)?;
    crate::maps::lookups(&mut report)?;
    for (name, program) in interpreted.programs() {
        if name != EMPTY {
            interpret(name, program, &packet, &mut report)?;
        }
    }
    crate::watchdog::measure(&mut report)?;
    compile(&jitted, &mut report)?;
    match corpus {
        Some(dir) => compile_corpus(dir, &mut report)?,
        None => report.note("no corpus folder given: no row of its code"),
    }
    summary(&mut report);
    Ok(report)
}

fn load(object: &Object, engine: EngineKind) -> Outcome<LoadedObject> {
    let options = LoadOptions {
        engine,
        ..LoadOptions::default()
    };
    object
        .load_in(&ring3::system(), &options)
        .map_err(|error| error.to_string().into())
}

/// The instructions after rewrites, as bytes.
fn xlated(program: &Program) -> Vec<u8> {
    let insns = &program.verified().insns;
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}

fn same(name: &str, what: &str, ours: u32, theirs: u32) -> Outcome<()> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("{name}: we return {ours:#x}, {what} {theirs:#x}").into())
}

fn run_program(
    name: &str,
    program: &Arc<Program>,
    packet: &[u8],
    in_kernel: Option<&KernelObject<'_>>,
    report: &mut Report,
) -> Outcome<()> {
    let insns = xlated(program);
    let mut ours = Ours::new(program, packet)?;
    let mut run = ours.run()?;
    let expected = run();
    let mut contenders = vec![Contender::calls("ours", 1, run)];

    if name == EMPTY {
        entry_in_section(program, packet, report)?;
    }
    let mut frame = Frame::new(packet);
    let native = Native::find(name).ok_or("no native code")?;
    same(name, NATIVE, expected, native.run(&mut frame))?;
    contenders.push(Contender::calls(NATIVE, 1, move || native.run(&mut frame)));

    let rbpf_frame = Frame::new(packet);
    match Rbpf::new(&insns, &rbpf_frame) {
        Ok(mut rbpf) => {
            let theirs = rbpf.run();
            if theirs == expected {
                contenders.push(Contender::calls(RBPF, 1, move || rbpf.run()));
            } else {
                report.note(format!(
                    "{name}: rbpf returns {theirs:#x} instead of {expected:#x}, left out"
                ));
            }
        }
        Err(error) => report.note(format!("{name}: rbpf does not compile it: {error}")),
    }
    match Sbpf::new(&insns, packet) {
        Ok(mut sbpf) => {
            let theirs = sbpf.run();
            if theirs == expected {
                contenders.push(Contender::calls(SBPF, 1, move || sbpf.run()));
            } else {
                report.note(format!(
                    "{name}: solana-sbpf returns {theirs:#x} instead of {expected:#x}, left out"
                ));
            }
        }
        Err(error) => report.note(format!("{name}: solana-sbpf does not compile it: {error}")),
    }
    let kernel = in_kernel.filter(|_| name != EMPTY);
    if let Some(object) = kernel {
        let (program, theirs) = KernelProgram::new(object.load(name)?, packet)?;
        same(name, "the kernel", expected, theirs)?;
        let (empty, _) = KernelProgram::new(object.load(EMPTY)?, packet)?;
        contenders.push(Contender::sampled(kernel::name(), move || {
            program.sample_ns()
        }));
        contenders.push(Contender::sampled("empty", move || empty.sample_ns()));
    }
    let mut best = minima(ROUNDS, &mut contenders);
    if kernel.is_some() {
        let empty_ns = best.pop().unwrap_or_default();
        contenders.pop();
        if let Some(kernel_ns) = best.last_mut() {
            *kernel_ns -= empty_ns;
        }
    }
    if name == "calls3000" {
        let each: Vec<f64> = best.iter().map(|ns| ns / CALLS as f64).collect();
        report.push("subprogram call", "call", &contenders, &each);
    }
    let name = if name == EMPTY {
        "entry and exit"
    } else {
        name
    };
    report.push(name, "run", &contenders, &best);
    Ok(())
}

/// Entry and exit without the read section, which all runs of a sample share.
fn entry_in_section(program: &Arc<Program>, packet: &[u8], report: &mut Report) -> Outcome<()> {
    const RUNS: usize = 1000;
    let mut ours = Ours::new(program, packet)?;
    let mut frame = Frame::new(packet);
    let native = Native::find(EMPTY).ok_or("no native code")?;
    let mut contenders = [
        Contender::calls("ours", RUNS, ours.run_in_section(RUNS)),
        Contender::calls(NATIVE, 1, move || native.run(&mut frame)),
    ];
    let best = minima(ROUNDS, &mut contenders);
    report.push("entry and exit, in a section", "run", &contenders, &best);
    Ok(())
}

/// A program that calls itself through a prog array until the limit; per hop, what the program has without one taken off.
fn tail_chain(packet: &[u8], report: &mut Report) -> Outcome<()> {
    const NAME: &str = "tail_chain";
    let object = programs::maps()?;
    let (with_hops, without) = (
        load(&object, EngineKind::Jit)?,
        load(&object, EngineKind::Jit)?,
    );
    with_hops.set_tail_call("progs", 0, NAME)?;
    let mut ours = Ours::new(with_hops.program(NAME)?, packet)?;
    let mut ours_without = Ours::new(without.program(NAME)?, packet)?;
    // Prog arrays are emptied when their last descriptor goes.
    let objects = match kernel::is_permitted() {
        true => Some([
            KernelObject::create(object.spec())?,
            KernelObject::create(object.spec())?,
        ]),
        false => None,
    };
    let mut contenders = vec![
        Contender::calls("ours", HOPS, ours.run()?),
        Contender::calls("ours, no hop", HOPS, ours_without.run()?),
    ];
    if let Some(objects) = &objects {
        let prog = objects[0].load(NAME)?;
        objects[0].update_prog("progs", 0, &prog)?;
        let (with_hops, _) = KernelProgram::new(prog, packet)?;
        let (without, _) = KernelProgram::new(objects[1].load(NAME)?, packet)?;
        let hops = HOPS as f64;
        contenders.push(Contender::sampled(kernel::name(), move || {
            with_hops.sample_ns() / hops
        }));
        contenders.push(Contender::sampled("no hop", move || {
            without.sample_ns() / hops
        }));
    }
    let best = minima(ROUNDS, &mut contenders);
    match best[..] {
        [ours, ours_without, theirs, theirs_without] => report.rows.push(Row {
            name: "tail-call hop".to_owned(),
            ours_ns: ours - ours_without,
            reference: kernel::name(),
            reference_ns: theirs - theirs_without,
            per: "hop",
        }),
        [ours, ours_without] => {
            report.note(format!("tail-call hop: {:.2} ns", ours - ours_without))
        }
        _ => {}
    }
    Ok(())
}

fn interpret(
    name: &str,
    program: &Arc<Program>,
    packet: &[u8],
    report: &mut Report,
) -> Outcome<()> {
    let insns = xlated(program);
    let mut ours = Ours::new(program, packet)?;
    let mut run = ours.run()?;
    let expected = run();
    let mut frame = Frame::new(packet);
    let steps = steps::count(&bare(program)?, &mut frame)?;
    let mut contenders = vec![Contender::calls("ours", steps, run)];
    if let Ok(mut rbpf) = Rbpf::new(&insns, &frame)
        && rbpf.interpret() == expected
    {
        contenders.push(Contender::calls(RBPF_INTERP, steps, move || {
            rbpf.interpret()
        }));
    }
    let best = minima(ROUNDS / 4, &mut contenders);
    if let [ours_ns] = best[..] {
        report.note(format!(
            "{name}, interpreted: {ours_ns:.2} ns per instruction, no reference"
        ));
    }
    report.push(&format!("{name}, interpreted"), "insn", &contenders, &best);
    Ok(())
}

/// A program without maps and helpers as the engines take it.
fn linked(program: &Program) -> Linked {
    Linked {
        program: Arc::clone(program.verified()),
        sites: Vec::new(),
        arena: None,
        percpu_stride: None,
        stops: None,
    }
}

fn bare(program: &Program) -> Outcome<interp::Program> {
    interp::Program::load(&linked(program)).map_err(|error| error.to_string().into())
}

/// A contender that compiles several times in a row, of which the fastest counts: else each would be measured on the caches and branch
/// predictions that the others leave. What it costs cold is the corpus' row.
fn in_a_row<'a>(name: &str, mut compile_ns: impl FnMut() -> f64 + 'a) -> Contender<'a> {
    const TIMES: usize = 20;
    Contender::sampled(name, move || {
        (0..TIMES)
            .map(|_| compile_ns())
            .fold(f64::INFINITY, f64::min)
    })
}

/// Compilation of all pure programs: time and code per instruction.
fn compile(loaded: &LoadedObject, report: &mut Report) -> Outcome<()> {
    let all: Vec<(Linked, Vec<u8>)> = loaded
        .programs()
        .map(|(_, program)| (linked(program), xlated(program)))
        .collect();
    let insns: usize = all.iter().map(|(_, bytes)| bytes.len() / 8).sum();
    let options = jit::Options::default();
    let mut code_bytes = 0;
    let mut theirs_ns = [0.0; 2];
    let mut ours_beside = [0.0; 2];
    let mut insns_beside = [0; 2];
    let mut all_ns = 0.0;
    for (linked, bytes) in &all {
        let compiled: Compiled =
            jit::compile(linked, &options).map_err(|error| error.to_string())?;
        code_bytes += compiled.len_bytes();
        let mut contenders = [
            in_a_row("ours", || {
                let begin = Instant::now();
                let compiled = jit::compile(linked, &options);
                let took = begin.elapsed().as_nanos() as f64;
                drop(compiled);
                took
            }),
            in_a_row(RBPF, || rbpf_peer::compile_ns(bytes)),
            in_a_row(SBPF, || sbpf_peer::compile_ns(bytes)),
        ];
        let best = minima(ROUNDS, &mut contenders);
        all_ns += best[0];
        // What a peer cannot compile counts for neither.
        for (peer, ns) in best[1..].iter().enumerate() {
            if ns.is_finite() {
                ours_beside[peer] += best[0];
                theirs_ns[peer] += ns;
                insns_beside[peer] += bytes.len() / 8;
            }
        }
    }
    for (peer, name) in [RBPF, SBPF].into_iter().enumerate() {
        report.rows.push(Row {
            name: "compile".to_owned(),
            ours_ns: ours_beside[peer] / insns_beside[peer] as f64,
            reference: name.to_owned(),
            reference_ns: theirs_ns[peer] / insns_beside[peer] as f64,
            per: "insn",
        });
    }
    report.note(format!(
        "compile, all programs: {:.1} ns per instruction",
        all_ns / insns as f64
    ));
    report.note(format!(
        "code: {:.2} bytes per instruction ({code_bytes} bytes of {} programs, {insns} instructions)",
        code_bytes as f64 / insns as f64,
        all.len()
    ));
    Ok(())
}

/// Size of the code, and time to make it, over the accepted programs of the corpus. What they name outside of themselves stands for itself: calls
/// go to one function, addresses are of the usual width.
fn compile_corpus(dir: &Path, report: &mut Report) -> Outcome<()> {
    let corpus = Corpus::open(dir);
    let registry = Registry::linux_6_18();
    let options = jit::Options::default();
    let (mut programs, mut insns, mut bytes, mut refused) = (0, 0, 0, 0);
    let mut took = 0.0;
    for row in corpus.rows()? {
        if row.errno != 0 {
            continue;
        }
        let Ok(request) = corpus.request(&row) else {
            continue;
        };
        let Ok(verified) = verify(&request, &registry, &mut Log::new(0)) else {
            continue;
        };
        if verified.insns.len() > CORPUS_INSNS_MAX {
            continue;
        }
        let linked = linked_somewhere(verified);
        let begin = Instant::now();
        let Ok(compiled) = jit::compile(&linked, &options) else {
            refused += 1;
            continue;
        };
        took += begin.elapsed().as_nanos() as f64;
        programs += 1;
        insns += linked.program.insns.len();
        bytes += compiled.len_bytes();
    }
    report.note(format!(
        "corpus: {programs} programs, {insns} instructions: {:.2} bytes and {:.1} ns each on first compilation; {refused} not compiled",
        bytes as f64 / insns as f64,
        took / insns as f64
    ));
    Ok(())
}

unsafe extern "C" fn somewhere(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    0
}

unsafe extern "C" fn packet_of_nobody(_: u64, _: i64, _: u64) -> i64 {
    -1
}

/// Targets for every slot that needs one.
fn linked_somewhere(verified: VerifiedProgram) -> Linked {
    let mut sites = Vec::new();
    for (slot, (insn, fact)) in verified.insns.iter().zip(&verified.facts).enumerate() {
        let is_packet_load = insn.class() == 0 && !insn.is_ld_imm64() && insn.code != 0;
        let target = if insn.is_ld_imm64() {
            fact.map.map(|_| Target::Imm64(0x7f12_3456_7890))
        } else if matches!(fact.call, Some(call) if !matches!(call, CallFact::Subprog(_))) {
            Some(Target::Call(CallTarget::plain(somewhere)))
        } else if is_packet_load {
            Some(Target::LoadPacket(packet_of_nobody))
        } else {
            None
        };
        sites.extend(target.map(|target| Site {
            slot: slot as u32,
            target,
        }));
    }
    Linked {
        program: Arc::new(verified),
        sites,
        arena: None,
        percpu_stride: None,
        stops: None,
    }
}

/// Geometric means over the programs that do work.
fn summary(report: &mut Report) {
    let mut lines = Vec::new();
    for reference in [NATIVE, RBPF, SBPF, &kernel::name()] {
        let is_program = |row: &Row| row.per == "run" && !row.name.starts_with("entry and exit");
        if let Some(mean) = report.mean_ratio(reference, is_program) {
            lines.push(format!(
                "geometric mean of the programs, ours by {reference}: {mean:.3}"
            ));
        }
    }
    report.notes.extend(lines);
}
