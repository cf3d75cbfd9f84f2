//! Floors: a crate depends only on strictly lower ones. Reads every Cargo.toml.

use std::{fs, path::Path};

/// Each crate's folder and floor. A crate that is missing here is a finding.
const FLOORS: &[(&str, u32)] = &[
    ("uapi", 0),
    ("isa", 0),
    ("vectors", 1),
    ("os", 1),
    ("btf", 1),
    ("mprog", 1),
    ("sync", 2),
    ("spec", 2),
    ("verifier", 3),
    ("elf", 3),
    ("runtime", 3),
    ("maps", 4),
    ("interp", 4),
    ("jit-x86_64", 4),
    ("helpers", 5),
    ("trampoline", 5),
    ("objects", 6),
    ("net", 7),
    ("tracing", 7),
    ("bpffs", 7),
    ("syscall-shim", 8),
    ("ring3", 9),
    ("supervisor", 10),
    ("preload", 10),
    ("cli", 11),
    ("testkit", 12),
];

/// The package name of a crate's folder.
pub(super) fn package_name(folder: &str) -> String {
    if folder == "ring3" {
        folder.to_owned()
    } else {
        format!("ring3-{folder}")
    }
}

/// Upward or sideways edges, and crates without a floor.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for folder in crate_folders(root)? {
        let Some(floor) = floor_of(&folder) else {
            findings.push(format!(
                "crates/{folder}: has no floor; add it to xtask/src/tidy/floors.rs"
            ));
            continue;
        };
        let manifest = root.join("crates").join(&folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest)
            .map_err(|error| format!("{}: {error}", manifest.display()))?;
        for dependency in dependencies(&text) {
            let target = FLOORS
                .iter()
                .find(|(folder, _)| package_name(folder) == dependency);
            match target {
                // testkit is for dev-dependencies, whatever the floor.
                Some((target, target_floor)) if *target_floor >= floor => findings.push(format!(
                    "crates/{folder} (floor {floor}) depends on {target} (floor {target_floor})"
                )),
                _ => {}
            }
        }
    }
    Ok(findings)
}

/// The folders below crates/, sorted.
pub(super) fn crate_folders(root: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(root.join("crates")).map_err(|error| format!("crates: {error}"))?;
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("crates: {error}"))?;
        if entry.path().join("Cargo.toml").is_file() {
            folders.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    folders.sort();
    Ok(folders)
}

fn floor_of(folder: &str) -> Option<u32> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == folder)
        .map(|(_, floor)| *floor)
}

/// Names in `[dependencies]` tables; dev- and build-dependencies do not bind.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut in_dependencies = false;
    manifest.lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with('[') {
            in_dependencies = line == "[dependencies]" || line.ends_with(".dependencies]");
            return None;
        }
        if !in_dependencies || line.is_empty() || line.starts_with('#') {
            return None;
        }
        line.split(['.', ' ', '=']).next()
    })
}
