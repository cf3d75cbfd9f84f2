//! `cargo xtask test`: the one test command. Snapshots are compared, never written, unless `--bless` is given.

use crate::process;

/// Runs `cargo test --workspace --all-features` with what else was given.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let bless = args.iter().any(|arg| arg == "--bless");
    let rest = args.iter().filter(|arg| *arg != "--bless");
    let mut command = process::cargo(&["test", "--workspace", "--all-features"]);
    command
        .args(rest)
        .env("INSTA_UPDATE", if bless { "always" } else { "no" });
    if bless {
        command.env("RING3_BLESS", "1");
    }
    process::run(&mut command)
}
