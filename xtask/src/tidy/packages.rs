//! Packages: metadata, README and the shape that `cargo package` wants.

use std::{fs, path::Path};

use super::floors::{crate_folders, package_name};
use crate::process;

/// Fields every published crate states.
const FIELDS: &[&str] = &[
    "name",
    "description",
    "readme",
    "version",
    "edition",
    "rust-version",
    "license",
    "repository",
    "categories",
    "keywords",
];

/// Missing metadata or README, and crates that `cargo package` cannot list.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for folder in crate_folders(root)? {
        let dir = root.join("crates").join(&folder);
        let manifest = fs::read_to_string(dir.join("Cargo.toml"))
            .map_err(|error| format!("{folder}: {error}"))?;
        for field in FIELDS {
            let is_stated = manifest.lines().any(|line| {
                line.starts_with(&format!("{field} ="))
                    || line.starts_with(&format!("{field}.workspace"))
            });
            if !is_stated {
                findings.push(format!("crates/{folder}/Cargo.toml: {field} is missing"));
            }
        }
        if !manifest
            .lines()
            .any(|line| line == format!("name = \"{}\"", package_name(&folder)))
        {
            findings.push(format!(
                "crates/{folder}/Cargo.toml: the package is not named {}",
                package_name(&folder)
            ));
        }
        if !dir.join("README.md").is_file() {
            findings.push(format!("crates/{folder}: README.md is missing"));
        }
        if manifest.contains("publish = false") {
            continue;
        }
        let listing = process::cargo(&[
            "package",
            "--list",
            "--allow-dirty",
            "--quiet",
            "-p",
            &package_name(&folder),
        ])
        .output()
        .map_err(|error| format!("cargo package: {error}"))?;
        if !listing.status.success() {
            findings.push(format!(
                "crates/{folder}: {}",
                String::from_utf8_lossy(&listing.stderr).trim()
            ));
        }
    }
    Ok(findings)
}
