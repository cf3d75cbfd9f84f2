//! `ring3 daemon`, `ring3 run-client`, `ring3 monitor`: unmodified clients of bpf(2).

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use ring3_supervisor::{ClientOptions, Daemon, DaemonOptions, Dirs, StartDaemon};

use crate::{Failure, Outcome};

/// Arguments of `ring3 daemon`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ring3 daemon &                      own the objects of this user's clients
  ring3 daemon --audit-log loads.txt  and write down every load and unload
  ring3 daemon --stop                 end it, and with it every object")]
pub(crate) struct DaemonArgs {
    /// End the daemon that runs
    #[arg(long, conflicts_with_all = ["status", "audit_log", "btf"])]
    stop: bool,
    /// Say who runs and how much it holds
    #[arg(long, conflicts_with_all = ["audit_log", "btf"])]
    status: bool,
    /// Append each load and unload of a program to this file
    #[arg(long)]
    audit_log: Option<PathBuf>,
    /// BTF that kernel types are looked up in, instead of the host's
    #[arg(long)]
    btf: Option<PathBuf>,
    /// Device that XDP and tcx programs can be attached to; may be given several times
    #[arg(long)]
    device: Vec<String>,
    /// Open objects that one client may have
    #[arg(long, default_value_t = 16384)]
    max_files: usize,
    /// Bytes of maps that one client may have
    #[arg(long, default_value_t = 4 << 30)]
    max_map_bytes: u64,
}

/// The verb.
pub(crate) fn daemon(args: &DaemonArgs) -> Result<Outcome, Failure> {
    let dirs = Dirs::of_user();
    let result = if args.stop {
        ring3_supervisor::stop(&dirs)
    } else if args.status {
        ring3_supervisor::status(&dirs).map(|line| println!("{line}"))
    } else {
        Daemon::new(DaemonOptions {
            audit_log: args.audit_log.clone(),
            kernel_btf: args.btf.clone(),
            devices: args.device.clone(),
            files_max: args.max_files,
            map_bytes_max: args.max_map_bytes,
            ..DaemonOptions::new(dirs)
        })
        .and_then(Daemon::run)
    };
    done(result)
}

/// Arguments of `ring3 run-client`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ring3 run-client -- bpftool prog show
  ring3 run-client -- sh -c 'bpftool map create /sys/fs/bpf/m type hash key 4 value 8 entries 9 name m'

A daemon is started if none runs; it stays, with everything that is pinned, until `ring3 daemon --stop`.")]
pub(crate) struct ClientArgs {
    /// Fail if no daemon runs
    #[arg(long)]
    no_start: bool,
    /// Answer as to a user without capabilities
    #[arg(long)]
    unprivileged: bool,
    /// Show the program its own user number; without this it sees itself as root, as clients of bpf(2) expect
    #[arg(long)]
    keep_user: bool,
    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The verb; returns only if the program could not be started.
pub(crate) fn run_client(args: &ClientArgs) -> Result<Outcome, Failure> {
    let [program, rest @ ..] = &args.command[..] else {
        return Err("no program was named".to_owned());
    };
    let start = own_daemon()?;
    let options = ClientOptions {
        dirs: Dirs::of_user(),
        start_daemon: (!args.no_start).then_some(start),
        is_unprivileged: args.unprivileged,
        keeps_user: args.keep_user,
    };
    Err(ring3_supervisor::run_client(&options, program, rest).to_string())
}

/// This command as a daemon.
fn own_daemon() -> Result<StartDaemon, Failure> {
    Ok(StartDaemon {
        program: std::env::current_exe().map_err(|error| error.to_string())?,
        args: vec!["daemon".into()],
    })
}

/// One line over the daemon's devices; files are named relative to `folder`.
pub(crate) fn console(folder: &Path, words: &[OsString]) -> Result<Outcome, Failure> {
    done(ring3_supervisor::console(
        &Dirs::of_user(),
        Some(&own_daemon()?),
        folder,
        words,
        &mut io::stdout().lock(),
    ))
}

/// The verb of `ring3 monitor`.
pub(crate) fn monitor() -> Result<Outcome, Failure> {
    done(ring3_supervisor::monitor(
        &Dirs::of_user(),
        &mut io::stdout().lock(),
    ))
}

fn done(result: io::Result<()>) -> Result<Outcome, Failure> {
    result
        .map(|()| Outcome::Done)
        .map_err(|error| error.to_string())
}
