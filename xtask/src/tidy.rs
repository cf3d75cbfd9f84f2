//! `cargo xtask tidy`: what a reviewer should never have to say. Every check runs; all findings are printed together.

mod divergences;
mod files;
mod floors;
mod packages;

use crate::process::{cargo, root, run as run_command};

/// The verb.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if !args.is_empty() {
        return Err(format!("unknown arguments {args:?}"));
    }
    let mut findings = Vec::new();
    findings.extend(floors::check(&root())?);
    findings.extend(packages::check(&root())?);
    findings.extend(files::check(&root())?);
    findings.extend(divergences::check(&root())?);
    for finding in &findings {
        println!("{finding}");
    }
    let format = run_command(&mut cargo(&["fmt", "--all", "--check"]));
    let clippy = run_command(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]));
    format?;
    clippy?;
    if findings.is_empty() {
        Ok(())
    } else {
        Err(format!("{} findings", findings.len()))
    }
}
