//! Development commands, `cargo xtask VERB`: a table of verbs, one file each.
//!
//! xtask itself stays small and quick to build; verbs that need ring3 start a binary of `ring3-testkit`.

#![forbid(unsafe_code)]

mod clients;
mod core;
mod dumps;
mod fixtures;
mod process;
mod rings;
mod sanitize;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

/// A verb: name, arguments, what it does, the function.
struct Verb {
    name: &'static str,
    args: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<(), String>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "test",
        args: "[--bless] [ARGS]",
        about: "every test of the workspace; --bless accepts snapshots",
        run: test::run,
    },
    Verb {
        name: "tidy",
        args: "",
        about: "format, lints, floors, file headers, unsafe, divergences, packages",
        run: tidy::run,
    },
    Verb {
        name: "fixtures",
        args: "[--check] [--btf RELEASE=FILE]...",
        about: "rebuild the ELF fixtures with clang-19, and the parts of kernel BTF they need; --check compares only",
        run: fixtures::run,
    },
    Verb {
        name: "core",
        args: "[--record] [RELEASE=FILE]...",
        about: "CO-RE relocations of the fixtures beside libbpf's",
        run: core::run,
    },
    Verb {
        name: "rings",
        args: "[--record]",
        about: "libbpf's consumer and producer of ring buffers on ours, beside what they did on a kernel",
        run: rings::run,
    },
    Verb {
        name: "clients",
        args: "",
        about: "clients made of aya and of libbpf 1.7, against a daemon",
        run: clients::run,
    },
    Verb {
        name: "dumps",
        args: "[--record] [FILE]...",
        about: "dumps of BTF beside bpftool's",
        run: dumps::run,
    },
    Verb {
        name: "oracle",
        args: "[AREA]",
        about: "record the running kernel's answers",
        run: tools::oracle,
    },
    Verb {
        name: "parity",
        args: "DIR [OPTIONS]",
        about: "the verifier beside a recorded kernel",
        run: tools::parity,
    },
    Verb {
        name: "fuzz",
        args: "TARGET [OPTIONS]",
        about: "long-running differential and mutation tests",
        run: tools::fuzz,
    },
    Verb {
        name: "bench",
        args: "NAME [--json]",
        about: "benchmarks beside peers and the kernel",
        run: tools::bench,
    },
    Verb {
        name: "stress",
        args: "maps|trampoline [--seconds N]",
        about: "two threads on every kind of map, or on traced functions, for a long time",
        run: sanitize::stress,
    },
    Verb {
        name: "sanitize",
        args: "address|leak [PACKAGE ...]",
        about: "tests of the unsafe crates under a sanitizer",
        run: sanitize::sanitize,
    },
    Verb {
        name: "support",
        args: "[--check]",
        about: "write docs/support.md from the tables",
        run: tools::support,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(verb) = args
        .first()
        .and_then(|name| VERBS.iter().find(|verb| verb.name == name))
    else {
        eprintln!("usage: cargo xtask VERB\n");
        for verb in VERBS {
            eprintln!(
                "  {:28} {}",
                format!("{} {}", verb.name, verb.args),
                verb.about
            );
        }
        return ExitCode::from(2);
    };
    match (verb.run)(&args[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {}: {message}", verb.name);
            ExitCode::from(1)
        }
    }
}
