//! `cargo xtask stress` and `cargo xtask sanitize`: the concurrent tests for a long time, and the unsafe crates' tests under a sanitizer.

use std::process::Command;

use crate::process::{cargo, root, run};

const STRESS_USAGE: &str = "usage: cargo xtask stress maps|helpers|trampoline [--seconds N]";
const SANITIZE_USAGE: &str = "usage: cargo xtask sanitize address|leak [PACKAGE ...]";
const SECONDS_DEFAULT: &str = "60";
/// Crates with memory of their own. Engines and helpers run generated code, which no sanitizer sees.
const PACKAGES: &[&str] = &["ring3-os", "ring3-sync", "ring3-maps"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `cargo xtask stress maps|helpers|trampoline [--seconds N]`: two threads on every kind of map, or on timers, callbacks and ring buffers, or
/// calling traced functions while a third attaches and detaches, for the given time altogether.
pub(crate) fn stress(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (target, seconds) = match args[..] {
        [target] => (target, SECONDS_DEFAULT),
        [target, "--seconds", seconds] if seconds.parse::<u32>().is_ok() => (target, seconds),
        _ => return Err(STRESS_USAGE.to_owned()),
    };
    let mut command = cargo(&["test", "--quiet", "--profile", "tools"]);
    match target {
        "maps" => command.args(["--package", "ring3-maps", "--test", "stress"]),
        "helpers" => command
            .args(["--package", "ring3-testkit", "--features", "engines"])
            .args(["--test", "stress_helpers"]),
        "trampoline" => command.args(["--package", "ring3-trampoline", "--test", "stress"]),
        _ => return Err(STRESS_USAGE.to_owned()),
    };
    command
        // One after the other: two threads each.
        .args(["--", "--nocapture", "--test-threads", "1"])
        .env("RING3_STRESS_SECONDS", seconds);
    run(&mut command)
}

/// `cargo xtask sanitize NAME [PACKAGE ...]`: tests built with a sanitizer of the toolchain.
///
/// The thread sanitizer is not among them: it knows neither membarrier(2), which orders our read sections, nor fences, which order reads of
/// values that may be replaced meanwhile. Miri has no shared mappings. The tests under shuttle explore interleavings instead.
pub(crate) fn sanitize(args: &[String]) -> Result<(), String> {
    let name = match args.first().map(String::as_str) {
        Some(name @ ("address" | "leak")) => name,
        _ => return Err(SANITIZE_USAGE.to_owned()),
    };
    let named = args[1..].iter().map(String::as_str);
    let packages: Vec<&str> = if args.len() > 1 {
        named.collect()
    } else {
        PACKAGES.to_vec()
    };
    let mut command: Command = cargo(&["test", "--quiet", "--target", TARGET]);
    for package in packages {
        command.args(["--package", package]);
    }
    command
        .args(["--lib", "--tests"])
        .arg("--target-dir")
        .arg(root().join("target/sanitize"))
        // Sanitizers are unstable options of every toolchain; the pinned one has their runtime.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-Zsanitizer={name}"));
    run(&mut command)
}
