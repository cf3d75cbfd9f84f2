//! `fuzz TARGET [--runs N] [--seed N] [--plant jit|interp]`: long differential and mutation tests.
//!
//! - `engines`: generated programs on both engines, each over several packets; prints hits per opcode, rule of the compiler and helper, and
//!   fails on a zero. `--plant RULE` makes the code of a rule wrong, which must be found; so do `jit` and `interp`, which exchange an operation.
//! - `verifier`: what runs of accepted programs hold lies in the states the verifier walked; prints how often each operation code, pointer
//!   kind and helper was run, fails on a zero. `--plant NAME` puts a fault into the scalar domain, which must be found; `--plant list`
//!   names them, `--plant all` tries each.
//! - `elf`: mutated objects through the ELF and BTF readers.
//! - `insns`: mutated instruction streams through the verifier.
//! - `btf`: mutated and deeply nested BTF through the parser, the checker and the dumps.
//! - `core`: mutated types, records and instructions through CO-RE relocation.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ring3_elf::ObjectSpec;
use ring3_isa::is_known_opcode;
use ring3_spec::{LoadRequest, Registry};
use ring3_testkit::{
    btf_fuzz::{self, Tally},
    containment::{Campaign, Finding, plants},
    engine_fuzz::{Counts, Difference, Fuzz, program_of, random_packet},
    engines::{Compared, Hits, Plant, compare},
    fixture::elf_fixtures,
    generate::{Rng, helpers, program},
    syscall_fuzz,
};
use ring3_uapi::ProgType;
use ring3_verifier::{Log, LogKeep, verify};

/// Operation codes that no generated program has: `callx`, which no kernel accepts.
const NOT_GENERATED: &[u8] = &[0x8d];

struct Options {
    target: String,
    runs: u64,
    minutes: f64,
    seed: u64,
    plant: Plant,
    /// A fault of the scalar domain, `list` or `all`.
    domain_plant: Option<String>,
}

fn parse_args() -> Result<Options, String> {
    let mut args = std::env::args().skip(1);
    let target = args
        .next()
        .ok_or("usage: fuzz engines|elf|insns|syscall|btf|core [--runs N] [--seed N] [--plant jit|interp], fuzz verifier [--minutes N] [--seed N] [--plant NAME|list|all]")?;
    let mut options = Options {
        target,
        runs: 100_000,
        minutes: 1.0,
        seed: 1,
        plant: Plant::Nothing,
        domain_plant: None,
    };
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg}: a value is missing"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{arg}: '{value}' is no number"))
        };
        match arg.as_str() {
            "--runs" => options.runs = number()?,
            "--minutes" => {
                options.minutes = value
                    .parse()
                    .ok()
                    .filter(|minutes| (0.0..1e6).contains(minutes))
                    .ok_or(format!("{arg}: '{value}' is no number of minutes"))?;
            }
            "--plant" if options.target == "verifier" => options.domain_plant = Some(value),
            "--seed" => options.seed = number()?,
            "--plant" if value == "jit" => options.plant = Plant::Jit,
            "--plant" if value == "interp" => options.plant = Plant::Interp,
            "--plant" if options.target == "engines" => {
                let rule = ring3::jit_x86_64::rule_names().find(|rule| *rule == value);
                options.plant = Plant::Rule(rule.ok_or(format!("no rule '{value}'"))?);
            }
            _ => return Err(format!("unknown argument '{arg} {value}'")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let result = parse_args().and_then(|options| match options.target.as_str() {
        "engines" => fuzz_engines(&options),
        "verifier" => fuzz_verifier(&options),
        "elf" => fuzz_elf(&options),
        "insns" => fuzz_insns(&options),
        "syscall" => fuzz_calls(&options),
        "btf" => btf_fuzz::fuzz_btf(options.runs, options.seed)
            .map(|tally| report_tally(&tally, "parse", "pass the checker")),
        "core" => btf_fuzz::fuzz_core(options.runs, options.seed)
            .map(|tally| report_tally(&tally, "are relocated", "have a poisoned instruction")),
        other => Err(format!(
            "no target '{other}', there are: engines, verifier, elf, insns, syscall, btf, core"
        )),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("fuzz: {message}");
            ExitCode::from(1)
        }
    }
}

/// `--runs` counts calls.
fn fuzz_calls(options: &Options) -> Result<(), String> {
    use ring3::syscall_shim::SUPPORT;
    let begin = Instant::now();
    let tally = syscall_fuzz::fuzz_syscall(options.runs, options.seed)?;
    for (row, (calls, successes)) in SUPPORT.iter().zip(&tally.by_cmd) {
        println!("{:<28} {calls:>9} calls {successes:>9} succeed", row.cmd);
        if *calls == 0 {
            return Err(format!("{} was never called", row.cmd));
        }
    }
    let slowest = SUPPORT.get(tally.slowest.1 as usize);
    println!(
        "{} calls in {:.0} s, slowest {:.1} ms ({}), seed {}",
        tally.calls,
        begin.elapsed().as_secs_f64(),
        tally.slowest.0.as_secs_f64() * 1e3,
        slowest.map_or("?", |row| row.cmd.name()),
        options.seed
    );
    Ok(())
}

fn report_tally(tally: &Tally, passed: &str, accepted: &str) {
    println!(
        "{} inputs, {} {passed}, {} {accepted}, slowest {:.1} ms (seed {}), {} MiB of memory at most",
        tally.inputs,
        tally.passed,
        tally.accepted,
        tally.slowest.0.as_secs_f64() * 1e3,
        tally.slowest.1,
        tally.memory_kb >> 10
    );
}

/// Programs between two looks at whether another thread has found a difference.
const BATCH: u64 = 256;

/// `--runs` counts programs; as many threads as CPUs share them.
fn fuzz_engines(options: &Options) -> Result<(), String> {
    let plant = match options.plant {
        Plant::Nothing => None,
        Plant::Rule(name) => Some(name),
        Plant::Jit | Plant::Interp => return fuzz_planted(options),
    };
    let begin = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let found: Mutex<Option<Difference>> = Mutex::new(None);
    let counts: Vec<Counts> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|cpu| {
                let (next, found) = (&next, &found);
                scope.spawn(move || {
                    // Without it per-CPU values of the engines may be those of two CPUs.
                    let _ = ring3_os::cpu::bind_to_cpu(cpu);
                    let mut fuzz = Fuzz::new(plant);
                    loop {
                        let first = next.fetch_add(BATCH, Ordering::Relaxed);
                        let is_over = || found.lock().map_or(true, |found| found.is_some());
                        if first >= options.runs || is_over() {
                            return fuzz.counts;
                        }
                        for run in first..(first + BATCH).min(options.runs) {
                            let seed = options.seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
                            if let Err(difference) = fuzz.seed(seed) {
                                if let Ok(mut found) = found.lock() {
                                    found.get_or_insert(difference);
                                }
                                return fuzz.counts;
                            }
                        }
                        if first.is_multiple_of(BATCH * 4000) && first != 0 {
                            println!("{first} programs, {:.0} s", begin.elapsed().as_secs_f64());
                        }
                    }
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    let mut total = Counts::default();
    counts.iter().for_each(|counts| total.merge(counts));
    let found = found.into_inner().unwrap_or_default();
    match (found, plant) {
        (Some(_), Some(rule)) => {
            println!("{rule}: found after {} programs", total.programs + 1);
            return Ok(());
        }
        (None, Some(rule)) => {
            return Err(format!(
                "{rule}: the planted fault was not found in {} programs",
                total.programs
            ));
        }
        (Some(found), None) => {
            let generated = program_of(found.seed, &mut Rng::new(found.seed));
            return Err(format!(
                "engines differ, seed {}: {}\n{}",
                found.seed,
                found.how,
                ring3_isa::disasm(&generated.insns, &ring3_isa::NoNames)
            ));
        }
        (None, None) if counts.len() < threads => {
            return Err("a thread ended in a panic".into());
        }
        (None, None) => {}
    }
    let seconds = begin.elapsed().as_secs_f64();
    let [all, none, blinded] = total.variants;
    println!(
        "{} programs over {} inputs, equal on both engines; {} rejected; {seconds:.0} s, {:.0} programs/s",
        total.programs,
        total.inputs,
        total.rejected,
        total.programs as f64 / seconds
    );
    println!("compiled with all CPU features: {all}, with none: {none}, blinded: {blinded}");
    let mut missing = Vec::new();
    for rule in ring3::jit_x86_64::rule_names() {
        let count = total.rules.get(rule).copied().unwrap_or(0);
        print!("{rule}:{count} ");
        if count == 0 {
            missing.push(format!("rule {rule}"));
        }
    }
    println!();
    report_hits(&total.hits, missing)
}

/// The comparison finds an exchanged operation in either engine.
fn fuzz_planted(options: &Options) -> Result<(), String> {
    let system = ring3::system();
    for run in 0..options.runs {
        let seed = options.seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
        let mut rng = Rng::new(seed);
        let generated = program(&mut rng);
        let packet = random_packet(&mut rng);
        let mut hits = Hits::default();
        if let Compared::Different(how) =
            compare(&system, &generated, &packet, options.plant, &mut hits)
        {
            println!(
                "the planted fault was found after {} programs: {how}",
                run + 1
            );
            return Ok(());
        }
    }
    Err(format!(
        "the planted fault was not found in {} programs",
        options.runs
    ))
}

fn fuzz_verifier(options: &Options) -> Result<(), String> {
    let time = Duration::from_secs_f64(60.0 * options.minutes);
    match options.domain_plant.as_deref() {
        Some("list") => {
            plants::names().for_each(|name| println!("{name}"));
            return Ok(());
        }
        Some("all") => return find_all_plants(options.seed, time),
        Some(name) => plants::plant(name)?,
        None => {}
    }
    let begin = Instant::now();
    let mut campaign = Campaign::new(options.seed);
    let found = campaign.run(time);
    if let Some(Finding { run, what, text }) = found {
        println!(
            "program {run}, {:.1} s: {what}",
            begin.elapsed().as_secs_f64()
        );
        println!("{text}");
        return if options.domain_plant.is_some() {
            Ok(())
        } else {
            Err("a run was not as the verifier knew it".to_owned())
        };
    }
    let report = campaign.report();
    match &options.domain_plant {
        Some(name) => Err(format!("the planted fault '{name}' was not found")),
        None => report,
    }
}

/// Plants each fault in turn and says how long it took to find.
fn find_all_plants(seed: u64, time: Duration) -> Result<(), String> {
    let mut missed = Vec::new();
    for name in plants::names() {
        plants::plant(name)?;
        let begin = Instant::now();
        let mut campaign = Campaign::new(seed);
        let found = campaign.run_until_found(time);
        let seconds = begin.elapsed().as_secs_f64();
        match found {
            Some(what) => {
                let what = what.lines().next().unwrap_or_default();
                println!(
                    "{name:28} {seconds:7.1} s {:8} programs: {what}",
                    campaign.programs
                );
            }
            None => {
                println!(
                    "{name:28} NOT FOUND in {seconds:.1} s, {} programs",
                    campaign.programs
                );
                missed.push(name);
            }
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("not found: {}", missed.join(", ")))
    }
}

fn report_hits(hits: &Hits, mut missing: Vec<String>) -> Result<(), String> {
    for code in (0..=u8::MAX).filter(|code| is_known_opcode(*code) && !NOT_GENERATED.contains(code))
    {
        let count = hits.opcodes.get(&code).copied().unwrap_or(0);
        print!("{code:02x}:{count} ");
        if count == 0 {
            missing.push(format!("opcode {code:#04x}"));
        }
    }
    println!();
    missing.extend(helpers::report(|id| {
        hits.helpers.get(&id).copied().unwrap_or(0)
    }));
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "never in an accepted program: {}",
            missing.join(", ")
        ))
    }
}

/// Changes, cuts or repeats some bytes.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.below(8) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 => bytes[at] = rng.word() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => {
                let edge = rng.pick(&[0u64, u64::MAX, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
                let len = rng.pick(&[2usize, 4, 8]).min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&edge.to_le_bytes()[..len]);
            }
            3 => bytes.truncate(at.max(1)),
            4 => {
                let from = rng.below(bytes.len());
                let len = rng.below(32).min(bytes.len() - at.max(from));
                bytes.copy_within(from..from + len, at);
            }
            _ => bytes.insert(at, rng.word() as u8),
        }
    }
}

/// Runs `body` and turns a panic into an error that names the run.
fn guarded(what: &str, seed: u64, body: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| format!("{what}: panic, seed {seed}"))
}

fn fuzz_elf(options: &Options) -> Result<(), String> {
    let fixtures = elf_fixtures().map_err(|error| error.to_string())?;
    let objects: Vec<Vec<u8>> = fixtures
        .iter()
        .map(|fixture| std::fs::read(&fixture.path).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let (mut parsed, mut slowest) = (0u64, (0u128, 0u64));
    for run in 0..options.runs {
        let seed = options.seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
        let mut rng = Rng::new(seed);
        let mut bytes = objects[rng.below(objects.len())].clone();
        mutate(&mut rng, &mut bytes);
        let start = Instant::now();
        guarded("elf", seed, || {
            if let Ok(spec) = ObjectSpec::parse(&bytes, "mutated") {
                parsed += 1;
                let _ = spec.to_string();
                if let Some(btf) = &spec.btf {
                    let _ = ring3_btf::check::check(
                        btf.bytes(),
                        ring3_btf::check::CheckOptions::default(),
                        None,
                    );
                }
            }
        })?;
        slowest = slowest.max((start.elapsed().as_millis(), seed));
    }
    println!(
        "{} mutated objects, {parsed} still parse, slowest {} ms (seed {}), {:.1} s",
        options.runs,
        slowest.0,
        slowest.1,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

fn fuzz_insns(options: &Options) -> Result<(), String> {
    let registry = Registry::linux_6_18();
    let begin = Instant::now();
    let (mut accepted, mut slowest) = (0u64, (0u128, 0u64));
    for run in 0..options.runs {
        let seed = options.seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
        let mut rng = Rng::new(seed);
        let generated = program(&mut rng);
        let mut bytes: Vec<u8> = generated
            .insns
            .iter()
            .flat_map(|insn| insn.to_bytes())
            .collect();
        mutate(&mut rng, &mut bytes);
        let (slots, _) = bytes.as_chunks::<8>();
        let insns = slots
            .iter()
            .map(|slot| ring3_isa::RawInsn::from_bytes(*slot))
            .collect();
        let prog_type = rng.pick(&[generated.prog_type, ProgType::Kprobe, ProgType::CgroupSkb]);
        let request = LoadRequest::new(prog_type, insns);
        let start = Instant::now();
        guarded("insns", seed, || {
            let mut log = Log::keeping(rng.pick(&[0, 0, 2]), LogKeep::Last(1 << 20));
            accepted += u64::from(verify(&request, &registry, &mut log).is_ok());
        })?;
        slowest = slowest.max((start.elapsed().as_millis(), seed));
    }
    println!(
        "{} mutated programs, {accepted} accepted, slowest {} ms (seed {}), {:.1} s",
        options.runs,
        slowest.0,
        slowest.1,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
