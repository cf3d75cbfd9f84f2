//! `cargo xtask clients`: clients that are built from packages, against a daemon of their own.
//!
//! aya (a workspace of its own, `xtask/aya`) loads the object of `crates/cli/tests/clients/rings.bpf.c` and must print what it prints over the kernel; libbpf 1.7
//! (`xtask/libbpf`) prepares an ELF fixture. clang-19 must be there.

use std::{fs, path::Path, process::Command};

use crate::process::{cargo, root, run as run_command};

/// What the aya client prints over Linux 6.18.
const AYA: &str = "count 2
ring 5 of sum 45
hash 5
entry 7 5
globals true
program Some(Some(\"count\"))
";

/// The verb.
pub(crate) fn run(_args: &[String]) -> Result<(), String> {
    let folder = root().join("target/clients");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let object = folder.join("rings.bpf.o");
    run_command(
        Command::new("clang-19")
            .args(["-O2", "-g", "-target", "bpf"])
            .args(["-I/usr/include/x86_64-linux-gnu", "-c"])
            .arg(root().join("crates/cli/tests/clients/rings.bpf.c"))
            .arg("-o")
            .arg(&object),
    )?;
    let aya = build("aya", "aya-client")?;
    let libbpf = build("libbpf", "libbpf-oracle")?;
    run_command(&mut cargo(&[
        "build",
        "--quiet",
        "--profile",
        "tools",
        "--package",
        "ring3-cli",
    ]))?;
    let object = object.display().to_string();
    let printed = client(&folder, &[&aya, &object])?;
    if printed != AYA {
        return Err(format!("aya printed\n{printed}expected\n{AYA}"));
    }
    let btf = root().join("fixtures/btf/vmlinux-6.18.btf");
    let fixture = format!("rings={object}");
    let printed = client(&folder, &[&libbpf, &btf.display().to_string(), &fixture])?;
    if !printed.contains("program count\n") || printed.contains("error") {
        return Err(format!("libbpf printed\n{printed}"));
    }
    println!(
        "aya and {} agree",
        printed.lines().next().unwrap_or_default()
    );
    Ok(())
}

/// Builds a workspace of its own; its program.
fn build(workspace: &str, program: &str) -> Result<String, String> {
    let target = root().join("target").join(workspace);
    run_command(
        cargo(&["build", "--quiet", "--manifest-path"])
            .arg(root().join(format!("xtask/{workspace}/Cargo.toml")))
            .arg("--target-dir")
            .arg(&target),
    )?;
    Ok(target.join("debug").join(program).display().to_string())
}

/// What a client prints; its daemon ends with it.
fn client(folder: &Path, command: &[&str]) -> Result<String, String> {
    let ring3 = root().join("target/tools/ring3");
    let start = |args: &[&str]| {
        Command::new(&ring3)
            .args(args)
            .env("RING3_RUNTIME_DIR", folder.join("daemon"))
            .output()
            .map_err(|error| format!("{}: {error}", ring3.display()))
    };
    let output = start(&[&["run-client", "--"], command].concat());
    start(&["daemon", "--stop"])?;
    let output = output?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{}: {}: {stderr}",
            command.join(" "),
            output.status
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
