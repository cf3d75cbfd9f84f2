//! Assembles the committed native code of the bench programs with gcc, so that native rows exist without clang.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "programs/pure.s";

fn run(command: &mut Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?}: {status:?}"
    );
}

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=programs/pure.o");
    println!("cargo::rerun-if-changed=programs/maps.o");
    println!("cargo::rerun-if-changed=programs/helpers.o");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = out.join("pure_native.o");
    let archive = out.join("libpure_native.a");
    run(Command::new("gcc").args(["-c", SOURCE, "-o"]).arg(&object));
    // `ar` would add to an old archive.
    let _ = std::fs::remove_file(&archive);
    run(Command::new("ar").arg("rcs").arg(&archive).arg(&object));
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=pure_native");
}
