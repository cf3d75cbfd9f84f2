//! `ring3 trace`: attaches the programs of an object file to functions of a program that runs, and prints what they write to ring buffers.
//!
//! The other program has an agent (`ring3::tracing::agent`, or `ring3_trace_listen` of `ring3.h`). When this command ends, everything is detached.

use std::{fmt::Write as _, fs, io::Write as _, path::PathBuf};

use clap::ValueEnum;
use ring3::tracing::agent::{Client, Event, default_path};

use crate::{Failure, Outcome};

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Object file with programs on functions (fentry/NAME, fexit/NAME) and raw tracepoints (raw_tp/NAME)
    object: PathBuf,
    /// Process to trace, whose agent listens at its usual place
    #[arg(long, required_unless_present = "socket")]
    pid: Option<u32>,
    /// Where the agent listens
    #[arg(long, conflicts_with = "pid")]
    socket: Option<PathBuf>,
    /// End after so many records
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// How records are printed
    #[arg(long, value_enum, default_value_t = Format::Hex)]
    format: Format,
}

/// How a record becomes a line.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Bytes
    Hex,
    /// Words of eight bytes, decimal; what is left as bytes
    U64,
    /// UTF-8, up to the first zero byte
    Text,
}

impl Format {
    fn line(self, map: &str, data: &[u8]) -> String {
        let mut line = map.to_owned();
        let hex = |line: &mut String, bytes: &[u8]| {
            for byte in bytes {
                let _ = write!(line, " {byte:02x}");
            }
        };
        match self {
            Format::Hex => hex(&mut line, data),
            Format::U64 => {
                let (words, rest) = data.as_chunks::<8>();
                for word in words {
                    let _ = write!(line, " {}", u64::from_ne_bytes(*word));
                }
                hex(&mut line, rest);
            }
            Format::Text => {
                let text = data.split(|&byte| byte == 0).next().unwrap_or_default();
                let _ = write!(line, " {}", String::from_utf8_lossy(text).trim_end());
            }
        }
        line
    }
}

/// The verb.
pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let object =
        fs::read(&args.object).map_err(|error| format!("{}: {error}", args.object.display()))?;
    let path = match (&args.socket, args.pid) {
        (Some(path), _) => path.clone(),
        (None, pid) => default_path(pid.unwrap_or_default()),
    };
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut client = Client::trace(&path, &object).map_err(failed)?;
    let mut left = args.count;
    let mut out = std::io::stdout().lock();
    while left != Some(0) {
        match client.next_event().map_err(failed)? {
            Some(Event::Attached(what)) => eprintln!("attached {what}"),
            Some(Event::Going) => {}
            Some(Event::Refused(why)) => {
                eprintln!("{}: {why}", args.object.display());
                return Ok(Outcome::Rejected);
            }
            Some(Event::Record { map, data }) => {
                let line = args.format.line(&map, &data);
                writeln!(out, "{line}").map_err(|error| error.to_string())?;
                left = left.map(|left| left - 1);
            }
            None => return Err(format!("{}: the program ended", path.display())),
        }
    }
    Ok(Outcome::Done)
}
