//! `cargo xtask dumps [--record] [FILE...]`: dumps of BTF beside those of Debian's bpftool 7.1, which prints declarations unsorted.
//!
//! With `--record` the texts of every fixture, and of the parts of kernels' BTF, go to `fixtures/oracle/btf`, which `cargo xtask test` compares.
//! Otherwise each FILE, such as /sys/kernel/btf/vmlinux, is dumped by both and compared here.

use std::{fs, path::Path, process::Command};

use crate::{
    fixtures::sources,
    process::{cargo, root},
};

/// Formats of `bpftool btf dump`, and the extension of recorded texts.
const FORMATS: &[(&str, &str)] = &[("raw", "raw"), ("c", "h")];

/// The verb.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let version = output(Command::new("bpftool").arg("version"))?;
    if !version.contains("v7.1") {
        let found = version.lines().next().unwrap_or_default();
        return Err(format!(
            "bpftool v7.1 is needed (later ones sort), this is {found}"
        ));
    }
    match args {
        [] => Err("give --record, or files".to_owned()),
        [arg] if arg == "--record" => record(),
        files => files.iter().try_for_each(|file| compare(file)),
    }
}

fn record() -> Result<(), String> {
    let folder = root().join("fixtures");
    let mut blobs: Vec<_> = sources()?
        .iter()
        .map(|source| source.with_extension("").with_extension("o"))
        .filter(|object| object.starts_with(folder.join("elf")) && object.is_file())
        .collect();
    let kernels = fs::read_dir(folder.join("btf")).map_err(|error| error.to_string())?;
    blobs.extend(kernels.flatten().map(|entry| entry.path()));
    for blob in &blobs {
        for (format, extension) in FORMATS {
            let below = blob
                .strip_prefix(&folder)
                .map_err(|error| error.to_string())?;
            let path = folder
                .join("oracle/btf")
                .join(format!("{}.{extension}", below.display()));
            fs::create_dir_all(path.parent().expect("below the fixtures"))
                .and_then(|()| fs::write(&path, bpftool(blob, format)?.as_bytes()))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    println!("{} blobs recorded", blobs.len());
    Ok(())
}

fn bpftool(blob: &Path, format: &str) -> std::io::Result<String> {
    let mut command = Command::new("bpftool");
    command
        .args(["btf", "dump", "file"])
        .arg(blob)
        .args(["format", format]);
    output(&mut command).map_err(std::io::Error::other)
}

fn compare(file: &str) -> Result<(), String> {
    for (format, _) in FORMATS {
        let theirs = bpftool(Path::new(file), format).map_err(|error| error.to_string())?;
        let example = [
            "run",
            "--quiet",
            "--release",
            "--package",
            "ring3-btf",
            "--example",
            "dump",
            "--",
        ];
        let ours = output(cargo(&example).args([format, file]))?;
        let mut lines = theirs.lines().zip(ours.lines()).enumerate();
        if theirs != ours {
            let at = lines.find(|(_, (their, our))| their != our);
            return Err(format!("{file}: {format} dumps differ: {at:?}"));
        }
        println!(
            "{file}: {format} dumps are equal, {} lines",
            theirs.lines().count()
        );
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
