//! `cargo xtask fixtures`: compiles `fixtures/elf/AREA/NAME.bpf.c`, and those of the examples, to the committed `NAME.o` beside it.
//!
//! clang-19 with fixed flags gives the same bytes everywhere; `--check` compiles to a scratch folder and compares. `--btf RELEASE=FILE` cuts
//! what the fixtures need out of a whole kernel's BTF, into `fixtures/btf/vmlinux-RELEASE.btf`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process::{root, run as run_command};

const CLANG: &str = "clang-19";

/// The verb.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut check_only = false;
    let mut kernels = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--check" => check_only = true,
            "--btf" => kernels.push(args.next().ok_or("--btf takes RELEASE=FILE")?.clone()),
            _ => return Err(format!("unknown argument '{arg}'")),
        }
    }
    if check_only && !kernels.is_empty() {
        return Err("--check takes no --btf".to_owned());
    }
    let scratch = root().join("target/fixtures");
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let mut different = Vec::new();
    for source in sources()? {
        let object = source.with_extension("").with_extension("o");
        let built = scratch.join(object.file_name().expect("a file name"));
        compile(&source, &built)?;
        let new = fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
        if fs::read(&object).ok().as_deref() == Some(&new) {
            continue;
        }
        if check_only {
            different.push(object.display().to_string());
        } else {
            fs::write(&object, new).map_err(|error| format!("{}: {error}", object.display()))?;
            println!("wrote {}", object.display());
        }
    }
    if different.is_empty() {
        if kernels.is_empty() {
            return Ok(());
        }
        crate::tools::tool("min-btf", &kernels)
    } else {
        Err(format!(
            "differ from their sources: {}",
            different.join(", ")
        ))
    }
}

/// Every fixture's source, sorted.
pub(crate) fn sources() -> Result<Vec<PathBuf>, String> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("fixtures/elf"), root().join("examples")];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(".bpf.c") {
                sources.push(path);
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// Paths are given relative to the source's folder, so that no path of the machine enters the object.
fn compile(source: &Path, object: &Path) -> Result<(), String> {
    let folder = source.parent().expect("a source has a folder");
    let mut command = Command::new(CLANG);
    command
        .current_dir(folder)
        .args([
            "-target",
            "bpf",
            "-mcpu=v4",
            "-O2",
            "-g",
            "-Wall",
            "-Werror",
            "-fno-ident",
        ])
        .arg("-ffile-compilation-dir=.")
        .arg("-I../include")
        .arg("-c")
        .arg(source.file_name().expect("a file name"))
        .arg("-o")
        .arg(object);
    run_command(&mut command)?;
    // DWARF is not needed and would be most of the file; BTF stays.
    run_command(
        Command::new("llvm-strip-19")
            .arg("--strip-debug")
            .arg(object),
    )
}
