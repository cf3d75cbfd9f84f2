//! `cargo xtask core [--record] [RELEASE=FILE...]`: CO-RE beside libbpf.
//!
//! libbpf (a workspace of its own, `xtask/libbpf`) prepares every ELF fixture for a BTF and prints the instructions; `ring3-testkit` compares
//! ours with them. With `--record` the BTF are the fixtures' own and the texts become `fixtures/oracle/core/RELEASE.txt`, which
//! `cargo xtask test` compares; otherwise each FILE is a whole kernel's BTF, such as those of the corpus. libbpf creates maps, so bpf(2) must
//! be permitted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    process::{cargo, root, run as run_command},
    tools::tool,
};

/// The verb.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (record, targets): (Vec<_>, Vec<_>) = args.iter().partition(|arg| *arg == "--record");
    let folder = root().join("fixtures");
    let targets: Vec<(String, String)> = if record.is_empty() {
        let pair = |arg: &&String| {
            let (release, file) = arg.split_once('=')?;
            Some((release.to_owned(), file.to_owned()))
        };
        targets
            .iter()
            .map(|arg| pair(arg).ok_or(format!("'{arg}' is not RELEASE=FILE")))
            .collect::<Result<_, _>>()?
    } else if targets.is_empty() {
        ["6.12", "6.18"]
            .iter()
            .map(|release| {
                let file = folder.join(format!("btf/vmlinux-{release}.btf"));
                (release.to_string(), file.display().to_string())
            })
            .collect()
    } else {
        return Err("--record takes no RELEASE=FILE".to_owned());
    };
    if targets.is_empty() {
        return Err("nothing to do: give --record or RELEASE=FILE".to_owned());
    }
    for (release, btf) in targets {
        let text = prepare(Path::new(&btf))?;
        let scratch = root().join(format!("target/core-{release}.txt"));
        let recorded = folder.join(format!("oracle/core/{release}.txt"));
        let path = if record.is_empty() { scratch } else { recorded };
        fs::create_dir_all(path.parent().expect("below the root"))
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        tool("core", &[release, path.display().to_string(), btf])?;
    }
    Ok(())
}

/// Builds the program that asks libbpf; where it is.
pub(crate) fn build_libbpf() -> Result<PathBuf, String> {
    let manifest = root().join("xtask/libbpf/Cargo.toml");
    let target = root().join("target/libbpf");
    run_command(
        cargo(&["build", "--quiet", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target),
    )?;
    Ok(target.join("debug/libbpf-oracle"))
}

/// What libbpf makes of every fixture.
fn prepare(btf: &Path) -> Result<String, String> {
    let oracle = build_libbpf()?;
    let fixtures = root().join("fixtures/elf");
    let mut objects: Vec<String> = crate::fixtures::sources()?
        .iter()
        .map(|source| source.with_extension("").with_extension("o"))
        .filter(|object| object.is_file())
        .filter_map(|object| {
            let name = object.strip_prefix(&fixtures).ok()?.with_extension("");
            Some(format!("{}={}", name.display(), object.display()))
        })
        .collect();
    objects.sort();
    let mut command = Command::new(oracle);
    let output = command
        .arg(btf)
        .args(objects)
        .output()
        .map_err(|error| format!("libbpf-oracle: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
