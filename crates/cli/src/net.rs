//! `ring3 net`, `ring3 ip`, `ring3 tc`, `ring3 tcx`: lines over the daemon's devices, scripts over devices of their own, and plans of attach requests.

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
};

use ring3::{
    EngineKind, LoadOptions,
    net::{Script, simulate},
};

use crate::{Failure, Outcome, client};

/// Arguments of `ring3 net`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

/// The words of a line of `ring3 ip`, `ring3 tc` or `ring3 tcx`.
#[derive(clap::Args)]
pub(crate) struct Words {
    /// As in the lines of `ring3 net run`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Programs of the daemon's devices in the order they run, with what each did
    Show {
        /// dev NAME: only this device
        words: Vec<OsString>,
    },
    /// Counters of the daemon's devices
    Stats {
        /// dev NAME: only this device
        words: Vec<OsString>,
    },
    /// Packets come in at a device of the daemon
    Inject {
        /// NAME pcap FILE, or NAME hex DIGITS
        #[arg(required = true)]
        words: Vec<OsString>,
    },
    /// Packets are sent out of a device of the daemon
    Send {
        /// NAME pcap FILE, or NAME hex DIGITS
        #[arg(required = true)]
        words: Vec<OsString>,
    },
    /// Write down packets that leave the daemon's devices from now on
    Capture {
        /// pcap file
        file: OsString,
    },
    /// Execute ip, tc, tcx and net lines over a model of devices
    #[command(after_help = "Example:
  ip link add eth0
  tc filter add dev eth0 ingress bpf da obj classify.o sec tc
  inject eth0 pcap in.pcap
  net show")]
    Run {
        /// Text file; object and capture files are named relative to it
        script: PathBuf,
        /// jit or interp
        #[arg(long, default_value = "jit")]
        engine: EngineKind,
        /// Over the daemon's devices, not over a network of the script's own
        #[arg(long, conflicts_with = "engine")]
        daemon: bool,
    },
    /// Replay the attach requests of several tools: the final order, and which program never runs
    #[command(after_help = "Example:
  program firewall.drop_bad returns drop
  monitor: attach ingress count
  firewall: link ingress drop_bad before monitor.count")]
    Simulate {
        /// Text file
        plan: PathBuf,
    },
}

/// The verb.
pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::Show { words } => return line(&["net", "show"], words),
        Verb::Stats { words } => return line(&["net", "stats"], words),
        Verb::Inject { words } => return line(&["inject"], words),
        Verb::Send { words } => return line(&["send"], words),
        Verb::Capture { file } => return line(&["capture"], std::slice::from_ref(file)),
        Verb::Run {
            script,
            daemon: true,
            ..
        } => return run_in_daemon(script),
        Verb::Run { script, engine, .. } => {
            let text = read(script)?;
            let options = LoadOptions {
                engine: *engine,
                ..LoadOptions::default()
            };
            let mut out = std::io::stdout().lock();
            let result =
                Script::new(&ring3::system(), &options, folder_of(script)).run(&text, &mut out);
            result.map_err(|error| format!("{}: {error}", script.display()))?;
            out.flush().map_err(|error| error.to_string())?;
        }
        Verb::Simulate { plan } => {
            let text = read(plan)?;
            let result = simulate(&text).map_err(|error| format!("{}: {error}", plan.display()))?;
            print!("{result}");
        }
    }
    Ok(Outcome::Done)
}

/// One line over the daemon's devices: `ring3 ip`, `ring3 tc`, `ring3 tcx`.
pub(crate) fn words(first: &str, words: &Words) -> Result<Outcome, Failure> {
    line(&[first], &words.words)
}

fn line(first: &[&str], rest: &[OsString]) -> Result<Outcome, Failure> {
    let folder = std::env::current_dir().map_err(|error| error.to_string())?;
    let mut words: Vec<OsString> = first.iter().map(OsString::from).collect();
    words.extend_from_slice(rest);
    client::console(&folder, &words)
}

fn run_in_daemon(script: &Path) -> Result<Outcome, Failure> {
    let folder = std::path::absolute(folder_of(script)).map_err(|error| error.to_string())?;
    for (number, line) in read(script)?.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        client::console(&folder, &words)
            .map_err(|error| format!("{}: line {}: {error}", script.display(), number + 1))?;
    }
    Ok(Outcome::Done)
}

/// What the files of a script are named relative to.
fn folder_of(script: &Path) -> &Path {
    script.parent().unwrap_or(Path::new("."))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
