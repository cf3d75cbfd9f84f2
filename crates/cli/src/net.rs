//! `ring3 net`: scripts over the model of devices, and plans of attach requests.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use ring3::{
    EngineKind, LoadOptions,
    net::{Script, simulate},
};

use crate::{Failure, Outcome};

/// Arguments of `ring3 net`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
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
        Verb::Run { script, engine } => {
            let text = read(script)?;
            let options = LoadOptions {
                engine: *engine,
                ..LoadOptions::default()
            };
            let folder = script.parent().unwrap_or(Path::new("."));
            let mut out = std::io::stdout().lock();
            let result = Script::new(&ring3::system(), &options, folder, &mut out).run(&text);
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

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
