//! ring3 beside its peers: `cargo xtask bench verifier|engines|maps|helpers|net|shim|trampoline [--json]`.
//!
//! Every row is one of ours beside one reference, both in nanoseconds; `ratio` is ours by the reference's, so below 1 is faster. Rows of
//! the kernel exist where bpf(2) is permitted.

mod engines;
mod heap;
mod helpers;
mod kernel;
mod maps;
mod measure;
mod native;
mod net;
mod programs;
mod rbpf_peer;
mod report;
mod rust_maps;
mod sbpf_peer;
mod shim;
mod steps;
mod trampoline;
mod verifier;
mod watchdog;

use std::{error::Error, path::PathBuf, process::ExitCode};

use report::Report;

const USAGE: &str = "usage: cargo xtask bench NAME [--json]
  verifier [CORPUS_DIR]  verification: recorded loads of the corpus, the fixtures beside the running kernel
  engines [CORPUS_DIR]   bench programs beside native code, rbpf and the kernel's JIT; size of the corpus' code
  maps                   map operations from programs and from Rust, beside dashmap, papaya and the kernel
  helpers                the helpers that programs call most, beside the kernel
  net                    100,000 generated packets through XDP, five classifiers and clsact, beside a million a second
  shim                   map operations by bpf(2): in process, preloaded, under run-client, beside the kernel
  trampoline             what programs add to calls, attaching and detaching, beside the goals";

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Options {
    bench: String,
    corpus: Option<PathBuf>,
    as_json: bool,
}

fn parse_args(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        bench: String::new(),
        corpus: None,
        as_json: false,
    };
    for arg in args {
        if arg == "--json" {
            options.as_json = true;
        } else if options.bench.is_empty() && !arg.starts_with('-') {
            options.bench = arg;
        } else if ["verifier", "engines"].contains(&options.bench.as_str())
            && options.corpus.is_none()
            && !arg.starts_with('-')
        {
            options.corpus = Some(arg.into());
        } else {
            return Err(format!("unknown argument '{arg}'\n{USAGE}"));
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Outcome<Report> {
    match options.bench.as_str() {
        "verifier" => verifier::bench(options.corpus.as_deref()),
        "engines" => engines::bench(options.corpus.as_deref()),
        "maps" => maps::bench(),
        "helpers" => helpers::bench(),
        "net" => net::bench(),
        "shim" => shim::bench(),
        "trampoline" => trampoline::bench(),
        "" => Err(USAGE.into()),
        other => Err(format!("no bench '{other}'\n{USAGE}").into()),
    }
}

fn main() -> ExitCode {
    if let Some(code) = shim::child() {
        return code;
    }
    let outcome = || -> Outcome<(Report, bool)> {
        let options = parse_args(std::env::args().skip(1))?;
        Ok((run(&options)?, options.as_json))
    };
    match outcome() {
        Ok((report, as_json)) => {
            report.print(as_json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}
