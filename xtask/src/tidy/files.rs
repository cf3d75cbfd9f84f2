//! Source files: headers, unsafe only where the design names it, no bare `allow`, no ignored test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::floors::crate_folders;

/// Crates that may contain unsafe code; every other one forbids it.
const UNSAFE_CRATES: &[&str] = &[
    "os",
    "sync",
    "runtime",
    "maps",
    "interp",
    "jit-x86_64",
    "helpers",
    "trampoline",
    "supervisor",
    "preload",
];

/// What stands in a file that should not, or is missing.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for folder in crate_folders(root)? {
        let dir = root.join("crates").join(&folder);
        for entry in ["lib.rs", "main.rs"].map(|name| dir.join("src").join(name)) {
            let Ok(text) = fs::read_to_string(&entry) else {
                continue;
            };
            let forbids = text.contains("#![forbid(unsafe_code)]");
            if forbids == UNSAFE_CRATES.contains(&folder.as_str()) {
                let verb = if forbids {
                    "forbids"
                } else {
                    "does not forbid"
                };
                findings.push(format!(
                    "{}: {verb} unsafe code, against the design",
                    relative(root, &entry)
                ));
            }
        }
    }
    for file in rust_files(root)? {
        let text =
            fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = relative(root, &file);
        if !text.starts_with("//!") {
            findings.push(format!("{name}: does not open with //!"));
        }
        for (line_idx, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let is_bare_allow = line.starts_with("#[allow(") || line.starts_with("#![allow(");
            if is_bare_allow || line.starts_with("#[ignore") {
                findings.push(format!("{name}:{}: {line}", line_idx + 1));
            }
        }
    }
    Ok(findings)
}

/// The path below the root, for messages.
pub(super) fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Every Rust file of the workspace, sorted.
pub(super) fn rust_files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
