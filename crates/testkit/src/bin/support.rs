//! `support [--check]`: writes docs/support.md from the tables of the code; `--check` compares only.

use std::{fs, process::ExitCode};

use ring3::helpers;
use ring3_testkit::fixture::fixtures_dir;
use ring3_uapi::{AttachType, FuncId, MapType, ProgType};

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

fn helper_rows(out: &mut String) {
    let ids: Vec<FuncId> = FuncId::ALL
        .iter()
        .copied()
        .filter(|id| *id != FuncId::Unspec)
        .collect();
    let runs = |id: FuncId| {
        id == FuncId::TailCall
            || helpers::find(id).is_some()
            || ProgType::ALL.iter().any(|&ty| runs_in(ty, id))
    };
    let running = ids.iter().filter(|id| runs(**id)).count();
    out.push_str(&format!(
        "## Helpers\n\nCalls of all {} are judged; {running} run. A program that calls another is verified, and refused before it starts.\n\n",
        ids.len()
    ));
    for (heading, state) in [("Run", true), ("Refused (ENOTSUPP)", false)] {
        let names: Vec<String> = ids
            .iter()
            .filter(|id| runs(**id) == state)
            .map(|id| format!("bpf_{id}"))
            .collect();
        out.push_str(&format!("{heading}: {}.\n\n", names.join(", ")));
    }
}

/// Whether programs of this type get an implementation, under some attach type.
fn runs_in(prog_type: ProgType, id: FuncId) -> bool {
    let attach_types = AttachType::ALL.iter().copied().map(Some).chain([None]);
    attach_types
        .into_iter()
        .any(|attach_type| helpers::find_for(prog_type, attach_type, id).is_some())
}
