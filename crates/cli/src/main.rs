//! The `ring3` command. One file per verb; this one parses arguments and turns results into exit statuses.
//!
//! Exit status: 0 done, 1 something was rejected, 2 usage or I/O.

#![forbid(unsafe_code)]

mod client;
mod dump;
mod maps;
mod net;
mod run;
mod source;
mod target;
mod trace;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The Linux BPF subsystem in user space: verify, run and inspect BPF programs without kernel BPF and without root.
#[derive(Parser)]
#[command(name = "ring3", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  ring3 verify prog.bpf.o                       would Linux 6.18 load it?
  ring3 verify -l 2 -f count_flows prog.bpf.o   the verifier's log of one program
  ring3 run prog.bpf.o --pcap in.pcap           run it over a capture, then show its maps
  ring3 dump xlated prog.bpf.o -p count_flows   the program after the verifier's rewrites";

#[derive(Subcommand)]
enum Verb {
    /// Verify the programs of object files
    Verify(verify::Args),
    /// Run a program over packets and show its maps
    Run(run::Args),
    /// Show a program after rewrites, or its machine code
    Dump(dump::Args),
    /// Attach programs to functions of a program that runs, and print their records
    Trace(trace::Args),
    /// Carry packets through devices with XDP, tcx and tc filters
    Net(net::Args),
    /// ip lines over the daemon's devices: link, addr, route, neigh
    Ip(net::Words),
    /// tc lines over the daemon's devices: qdisc, filter
    Tc(net::Words),
    /// tcx lines over the daemon's devices: attach, detach
    Tcx(net::Words),
    /// Own the BPF objects of this user's clients
    Daemon(client::DaemonArgs),
    /// Start an unmodified client of bpf(2) against the daemon
    RunClient(client::ClientArgs),
    /// Print each load and unload of a program by clients of the daemon
    Monitor,
}

impl Verb {
    /// Whether standard output is all it writes to: such a command ends with its reader.
    fn only_prints(&self) -> bool {
        matches!(
            self,
            Verb::Verify(_) | Verb::Run(_) | Verb::Dump(_) | Verb::Trace(_)
        )
    }
}

/// How a verb ended, if it did not fail.
enum Outcome {
    Done,
    Rejected,
}

/// One line with the cause.
type Failure = String;

fn main() -> ExitCode {
    ring3_os::pipe::end_at_closed_pipe();
    let verb = Cli::parse().verb;
    if verb.only_prints() {
        ring3_os::pipe::end_at_closed_pipe();
    }
    let result = match verb {
        Verb::Verify(args) => verify::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Dump(args) => dump::run(&args),
        Verb::Trace(args) => trace::run(&args),
        Verb::Net(args) => net::run(&args),
        Verb::Ip(words) => net::words("ip", &words),
        Verb::Tc(words) => net::words("tc", &words),
        Verb::Tcx(words) => net::words("tcx", &words),
        Verb::Daemon(args) => client::daemon(&args),
        Verb::RunClient(args) => client::run_client(&args),
        Verb::Monitor => client::monitor(),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Rejected) => ExitCode::from(1),
        Err(message) => {
            eprintln!("ring3: {message}");
            ExitCode::from(2)
        }
    }
}
