//! `ring3 run`: a program over a capture or one packet; verdict counts, time per packet, then the maps.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use ring3::{
    EngineKind, LoadOptions, LoadedObject, Program, TestRun,
    net::{CaptureReader, CaptureWriter, CapturedPacket, action_name, run_frame},
    objects::Observe,
    runtime::Limit,
};

use crate::{Failure, Outcome, maps::print_map, target::Target};

/// Packets after which a progress bar is worth showing.
const PROGRESS_FROM: usize = 20_000;

/// Arguments of `ring3 run`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ring3 run flows.bpf.o --pcap in.pcap
  ring3 run flows.bpf.o -p count_flows --pcap in.pcap --pcap-out out.pcap
  ring3 run flows.bpf.o --data 00000000000000000000000000000800 --repeat 1000")]
pub(crate) struct Args {
    /// Object file
    file: PathBuf,
    /// Program to run; not needed if there is only one
    #[arg(short, long)]
    program: Option<String>,
    /// Capture to run over
    #[arg(long, conflicts_with = "data", required_unless_present = "data")]
    pcap: Option<PathBuf>,
    /// Where to write the packets as the program left them, dropped ones excluded
    #[arg(long, requires = "pcap")]
    pcap_out: Option<PathBuf>,
    /// One packet: a file, or hex digits
    #[arg(long)]
    data: Option<String>,
    /// Runs over the whole input
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// jit or interp
    #[arg(long, default_value = "jit")]
    engine: EngineKind,
    /// Jumps back after which a run is stopped
    #[arg(long)]
    budget: Option<u64>,
    /// Milliseconds after which a run is stopped
    #[arg(long)]
    time_limit: Option<u64>,
    /// Name the compiled functions for perf, in /tmp/perf-PID.map
    #[arg(long)]
    perf_map: bool,
    /// Name the compiled functions for a debugger
    #[arg(long)]
    gdb: bool,
    #[command(flatten)]
    target: Target,
}

/// The verb.
pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let object = args.target.open(&args.file)?;
    let options = LoadOptions {
        engine: args.engine,
        keep_going: true,
        limit: Limit {
            jumps_back: args.budget,
            time: args.time_limit.map(Duration::from_millis),
        },
        observe: Observe {
            perf_map: args.perf_map,
            gdb: args.gdb,
        },
        ..LoadOptions::default()
    };
    let loaded = object
        .load_with(&options)
        .map_err(|error| format!("{}: {error}", args.file.display()))?;
    let program = pick(args, &loaded)?;
    match (&args.pcap, &args.data) {
        (Some(pcap), _) => over_capture(args, program, pcap)?,
        (None, Some(data)) => over_packet(args, program, data)?,
        (None, None) => return Err("one of --pcap and --data is needed".to_owned()),
    }
    for (name, map) in loaded.maps() {
        print_map(name, map);
    }
    Ok(Outcome::Done)
}

/// The program asked for, or the only one there is.
fn pick<'a>(args: &Args, loaded: &'a LoadedObject) -> Result<&'a Arc<Program>, Failure> {
    let wanted = args.program.as_deref();
    if let Some((_, error)) = loaded
        .rejected()
        .find(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
    {
        return Err(format!(
            "{error}\n(ring3 verify -l 2 shows the verifier's log)"
        ));
    }
    if let Some(name) = wanted {
        return loaded.program(name).map_err(|error| error.to_string());
    }
    let mut programs = loaded.programs();
    match (programs.next(), programs.next()) {
        (Some((_, program)), None) => Ok(program),
        (None, _) => Err(format!("{}: no program", args.file.display())),
        (Some(_), Some(_)) => {
            let names: Vec<_> = loaded.programs().map(|(name, _)| name).collect();
            Err(format!(
                "several programs, choose one with -p: {}",
                names.join(", ")
            ))
        }
    }
}

fn read_capture(path: &std::path::Path) -> Result<Vec<CapturedPacket>, Failure> {
    let mut reader = CaptureReader::open(path).map_err(|error| error.to_string())?;
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet().map_err(|error| error.to_string())? {
        packets.push(packet);
    }
    Ok(packets)
}

fn over_capture(
    args: &Args,
    program: &Arc<Program>,
    pcap: &std::path::Path,
) -> Result<(), Failure> {
    let packets = read_capture(pcap)?;
    let total = packets.len() * args.repeat as usize;
    let progress = if total >= PROGRESS_FROM {
        ProgressBar::new(total as u64)
    } else {
        ProgressBar::hidden()
    };
    progress.set_style(ProgressStyle::default_bar());
    let mut out = match &args.pcap_out {
        Some(path) => Some(CaptureWriter::create(path).map_err(|error| error.to_string())?),
        None => None,
    };
    let mut verdicts: BTreeMap<u32, u64> = BTreeMap::new();
    let mut short = 0u64;
    let mut spent = Duration::ZERO;
    for round in 0..args.repeat {
        for packet in &packets {
            progress.inc(1);
            let begin = Instant::now();
            let result = run_frame(program, &packet.data);
            spent += begin.elapsed();
            let Ok((retval, data)) = result else {
                short += 1;
                continue;
            };
            *verdicts.entry(retval).or_default() += 1;
            if let Some(out) = &mut out
                && round == 0
                && !is_drop(program, retval)
            {
                let packet = CapturedPacket {
                    time: packet.time,
                    data,
                };
                out.write(&packet).map_err(|error| error.to_string())?;
            }
        }
    }
    progress.finish_and_clear();
    let per_packet = spent.as_nanos() as f64 / total.max(1) as f64;
    println!(
        "{}: {total} packets, {per_packet:.0} ns per packet",
        program.name()
    );
    for (retval, count) in &verdicts {
        println!("    {:16} {count}", verdict_name(program, *retval));
    }
    if short > 0 {
        println!("    {:16} {short}", "(not run: shorter than a link header)");
    }
    Ok(())
}

fn over_packet(args: &Args, program: &Arc<Program>, data: &str) -> Result<(), Failure> {
    let packet = match parse_hex(data) {
        Some(bytes) => bytes,
        None => std::fs::read(data)
            .map_err(|error| format!("{data}: neither hex digits nor a file: {error}"))?,
    };
    let run = TestRun {
        repeat: args.repeat,
        ..TestRun::packet(&packet)
    };
    let result = program
        .test_run_with(&run)
        .map_err(|error| error.to_string())?;
    println!(
        "{}: returned {} ({}), {} ns",
        program.name(),
        result.retval,
        verdict_name(program, result.retval),
        result.duration_ns
    );
    if result.data_out != packet {
        let hex: String = result
            .data_out
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        println!("    data {hex}");
    }
    Ok(())
}

/// Bytes of an even number of hex digits.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

fn verdict_name(program: &Program, retval: u32) -> String {
    action_name(program.prog_type(), retval).map_or_else(|| retval.to_string(), str::to_owned)
}

/// Whether a packet with this verdict goes no further.
fn is_drop(program: &Program, retval: u32) -> bool {
    use ring3::uapi::ProgType;
    match program.prog_type() {
        ProgType::Xdp => !matches!(retval, 2..=4),
        ProgType::SchedCls | ProgType::SchedAct => matches!(retval, 2 | 4 | 5 | 8),
        _ => retval == 0,
    }
}
