//! `support [--check]`: writes docs/support.md from the tables of the code; `--check` compares only.

use std::{fs, process::ExitCode};

use ring3::helpers::{self, Support};
use ring3_testkit::fixture::fixtures_dir;
use ring3_uapi::{FuncId, MapType, ProgType};

fn main() -> ExitCode {
    let check_only = std::env::args().nth(1).as_deref() == Some("--check");
    let path = fixtures_dir().join("../docs/support.md");
    let text = support();
    let is_current = fs::read_to_string(&path).is_ok_and(|known| known == text);
    if is_current {
        return ExitCode::SUCCESS;
    }
    if check_only {
        eprintln!("support: docs/support.md is stale; run `cargo xtask support`");
        return ExitCode::from(1);
    }
    if let Err(error) = fs::write(&path, text) {
        eprintln!("support: {}: {error}", path.display());
        return ExitCode::from(2);
    }
    println!("wrote docs/support.md");
    ExitCode::SUCCESS
}

fn support() -> String {
    let mut out = String::from(
        "# What is there and what is missing

Written by `cargo xtask support` from the tables of the code; do not edit. What is missing answers with ENOTSUPP and a message.

",
    );
    prog_types(&mut out);
    map_types(&mut out);
    helper_rows(&mut out);
    kfunc_rows(&mut out);
    commands(&mut out);
    out
}

/// Commands of bpf(2), from the table that serves them.
fn commands(out: &mut String) {
    out.push_str(
        "\n## Commands of bpf(2)\n\nThe same in process, preloaded and under `ring3 run-client`. A part that is missing answers ENOTSUPP unless another errno is said.\n\n| command | state | missing |\n|---|---|---|\n",
    );
    for row in ring3::syscall_shim::SUPPORT {
        let state = if row.missing.is_empty() {
            "whole"
        } else {
            "partly"
        };
        out.push_str(&format!("| {} | {state} | {} |\n", row.cmd, row.missing));
    }
}

fn prog_types(out: &mut String) {
    let system = ring3::system();
    out.push_str("## Program types\n\nEvery type is verified. A test run is there for:\n\n");
    for &prog_type in ProgType::ALL {
        if system.has_test_run(prog_type) {
            out.push_str(&format!("- {prog_type}\n"));
        }
    }
    out.push('\n');
}

fn map_types(out: &mut String) {
    let types: Vec<&str> = MapType::ALL
        .iter()
        .filter(|map_type| **map_type != MapType::Unspec)
        .map(|map_type| map_type.name())
        .collect();
    out.push_str(&format!(
        "## Map types\n\nAll {} create, update, look up and err as in the kernel; those that name kernel devices, sockets or cgroups hold what the \
         object layer models.\n\n{}.\n\n| type | missing |\n|---|---|\n",
        types.len(),
        types.join(", ")
    ));
    for (map_type, missing) in ring3::maps::MISSING {
        out.push_str(&format!("| {} | {missing} |\n", map_type.name()));
    }
    out.push('\n');
}

/// Every helper with what it works on, from the table of `ring3-helpers`.
fn helper_rows(out: &mut String) {
    let ids = || {
        let all = FuncId::ALL.iter().copied();
        all.filter(|id| *id != FuncId::Unspec)
    };
    let running = ids().filter(|&id| !matches!(helpers::support(id), Support::Refused(_)));
    out.push_str(&format!(
        "## Helpers\n\nCalls of all {} are judged; {} run. A program that calls another is verified, and refused with ENOTSUPP before it starts.\n\n\
         | helper | here |\n|---|---|\n",
        ids().count(),
        running.count()
    ));
    for id in ids() {
        let here = match helpers::support(id) {
            Support::Runs => "runs".to_owned(),
            Support::RunsOn(what) => format!("runs on {what}"),
            Support::Refused(why) => format!("refused (ENOTSUPP): {why}"),
        };
        out.push_str(&format!("| bpf_{id} | {here} |\n"));
    }
}

/// Kernel functions, by what happens to a program that calls them. Those that other code calls, such as congestion control's, are not told apart.
fn kfunc_rows(out: &mut String) {
    let rows = ring3_spec::kfunc::ROWS;
    let running = rows.iter().filter(|row| helpers::kfunc::runs(row.name));
    let count = running.count();
    let all = rows.len();
    out.push_str(&format!(
        "## Kernel functions\n\nCalls of all {all} are judged; {count} run, and those that a host registers. A program that calls another is verified, and \
         refused before it starts.\n\n"
    ));
    for (heading, state) in [("Run", true), ("Refused (ENOTSUPP)", false)] {
        let names: Vec<&str> = rows
            .iter()
            .map(|row| row.name)
            .filter(|name| helpers::kfunc::runs(name) == state)
            .collect();
        out.push_str(&format!("{heading}: {}.\n\n", names.join(", ")));
    }
}
