//! Verbs that are binaries of `ring3-testkit`, built with the `tools` profile: optimised, with overflow checks.

use crate::process::{cargo, root, run};

pub(crate) fn tool(bin: &str, args: &[String]) -> Result<(), String> {
    run(cargo(&[
        "run",
        "--quiet",
        "--profile",
        "tools",
        "--package",
        "ring3-testkit",
        "--all-features",
        "--bin",
        bin,
        "--",
    ])
    .args(args))
}

/// `cargo xtask parity DIR ...`
pub(crate) fn parity(args: &[String]) -> Result<(), String> {
    tool("parity", args)
}

/// `cargo xtask oracle [AREA]`: refused with a message, and nothing changed, where bpf(2) is not permitted.
pub(crate) fn oracle(args: &[String]) -> Result<(), String> {
    tool("oracle", args)
}

/// `cargo xtask fuzz TARGET ...`
pub(crate) fn fuzz(args: &[String]) -> Result<(), String> {
    tool("fuzz", args)
}

/// `cargo xtask bench NAME ...`: peers are compiled in a workspace of their own. `btf [FILE]` has none.
pub(crate) fn bench(args: &[String]) -> Result<(), String> {
    if let [name, files @ ..] = args
        && name == "btf"
    {
        let kernel = ["/sys/kernel/btf/vmlinux".to_owned()];
        let files = if files.is_empty() { &kernel } else { files };
        let example = [
            "run",
            "--quiet",
            "--release",
            "--package",
            "ring3-btf",
            "--example",
        ];
        return run(cargo(&example).args(["parse_time", "--"]).args(files));
    }
    let manifest = root().join("xtask/peers/Cargo.toml");
    let target = root().join("target/peers");
    let mut command = cargo(&["run", "--quiet", "--release", "--manifest-path"]);
    command
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .arg("--")
        .args(args);
    run(&mut command)
}

/// `cargo xtask support`: docs/support.md from the tables of the code.
pub(crate) fn support(args: &[String]) -> Result<(), String> {
    tool("support", args)
}
