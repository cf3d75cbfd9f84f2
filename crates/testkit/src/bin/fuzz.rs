//! `fuzz TARGET [--runs N] [--seed N] [--plant jit|interp]`: long differential and mutation tests.
//!
//! - `engines`: generated programs on both engines; prints hits per opcode and helper and fails on a zero.
//! - `elf`: mutated objects through the ELF and BTF readers.
//! - `insns`: mutated instruction streams through the verifier.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use ring3_elf::ObjectSpec;
use ring3_isa::is_known_opcode;
use ring3_spec::{LoadRequest, Registry};
use ring3_testkit::{
    engines::{Compared, Hits, Plant, compare},
    fixture::elf_fixtures,
    generate::{Rng, program},
};
use ring3_uapi::{FuncId, ProgType};
use ring3_verifier::{Log, verify};

/// Helpers that generated programs call; each must have been in an accepted program.
const HELPERS: &[FuncId] = &[
    FuncId::MapLookupElem,
    FuncId::MapUpdateElem,
    FuncId::MapDeleteElem,
    FuncId::KtimeGetNs,
    FuncId::GetPrandomU32,
    FuncId::GetSmpProcessorId,
    FuncId::CsumDiff,
    FuncId::SkbLoadBytes,
    FuncId::SkbStoreBytes,
    FuncId::XdpLoadBytes,
    FuncId::XdpStoreBytes,
    FuncId::Loop,
    FuncId::TailCall,
];
/// Operation codes that no generated program has: `callx`, which no kernel accepts.
const NOT_GENERATED: &[u8] = &[0x8d];

struct Options {
    target: String,
    runs: u64,
    seed: u64,
    plant: Plant,
}

fn parse_args() -> Result<Options, String> {
    let mut args = std::env::args().skip(1);
    let target = args
        .next()
        .ok_or("usage: fuzz engines|elf|insns [--runs N] [--seed N] [--plant jit|interp]")?;
    let mut options = Options {
        target,
        runs: 100_000,
        seed: 1,
        plant: Plant::Nothing,
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
            "--seed" => options.seed = number()?,
            "--plant" if value == "jit" => options.plant = Plant::Jit,
            "--plant" if value == "interp" => options.plant = Plant::Interp,
            _ => return Err(format!("unknown argument '{arg} {value}'")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let result = parse_args().and_then(|options| match options.target.as_str() {
        "engines" => fuzz_engines(&options),
        "elf" => fuzz_elf(&options),
        "insns" => fuzz_insns(&options),
        other => Err(format!(
            "no target '{other}', there are: engines, elf, insns"
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

fn random_packet(rng: &mut Rng) -> Vec<u8> {
    // A test run refuses packets shorter than their IP header.
    let len = 64 + rng.below(200);
    (0..len).map(|_| rng.word() as u8).collect()
}

fn fuzz_engines(options: &Options) -> Result<(), String> {
    let system = ring3::system();
    let mut hits = Hits::default();
    let (mut accepted, mut rejected) = (0u64, 0u64);
    let begin = Instant::now();
    for run in 0..options.runs {
        let seed = options.seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
        let mut rng = Rng::new(seed);
        let generated = program(&mut rng);
        let packet = random_packet(&mut rng);
        match compare(&system, &generated, &packet, options.plant, &mut hits) {
            Compared::Equal => accepted += 1,
            Compared::Rejected(error) => {
                if rejected == 0 {
                    println!("first rejected, seed {seed}: {error}");
                }
                rejected += 1;
            }
            Compared::Different(how) if options.plant != Plant::Nothing => {
                println!(
                    "the planted fault was found after {} programs: {how}",
                    run + 1
                );
                return Ok(());
            }
            Compared::Different(how) => {
                return Err(format!(
                    "engines differ, seed {seed}: {how}\n{:?}",
                    generated.insns
                ));
            }
        }
    }
    if options.plant != Plant::Nothing {
        return Err(format!(
            "the planted fault was not found in {} programs",
            options.runs
        ));
    }
    println!(
        "{accepted} accepted and equal, {rejected} rejected, {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    report_hits(&hits)
}

fn report_hits(hits: &Hits) -> Result<(), String> {
    let mut missing = Vec::new();
    for code in (0..=u8::MAX).filter(|code| is_known_opcode(*code) && !NOT_GENERATED.contains(code))
    {
        let count = hits.opcodes.get(&code).copied().unwrap_or(0);
        print!("{code:02x}:{count} ");
        if count == 0 {
            missing.push(format!("opcode {code:#04x}"));
        }
    }
    println!();
    for id in HELPERS {
        let count = hits.helpers.get(id).copied().unwrap_or(0);
        print!("{id}:{count} ");
        if count == 0 {
            missing.push(format!("helper {id}"));
        }
    }
    println!();
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
    let (mut parsed, mut slowest) = (0u64, 0u128);
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
        slowest = slowest.max(start.elapsed().as_millis());
    }
    println!(
        "{} mutated objects, {parsed} still parse, slowest {slowest} ms, {:.1} s",
        options.runs,
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
            let mut log = Log::with_cap(rng.pick(&[0, 0, 2]), 1 << 20);
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
