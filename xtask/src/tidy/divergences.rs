//! docs/divergences.md: every `// DIVERGES:` comment of the code, collected. A stale file is rewritten and a finding.

use std::{fs, path::Path};

use super::files::{relative, rust_files};

const MARK: &str = "// DIVERGES:";
const HEADER: &str = "# Where ring3 differs from Linux 6.18 on purpose

Collected by `cargo xtask tidy` from the `DIVERGES` comments of the code; do not edit.

";

/// One finding if the committed file is not what the code says.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let file = root.join("docs/divergences.md");
    let text = collect(root)?;
    if fs::read_to_string(&file).ok().as_deref() == Some(&text) {
        return Ok(Vec::new());
    }
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(vec![
        "docs/divergences.md was stale; it has been rewritten".to_owned(),
    ])
}

fn collect(root: &Path) -> Result<String, String> {
    let mut text = HEADER.to_owned();
    for file in rust_files(root)?
        .iter()
        .filter(|file| !file.ends_with("tidy/divergences.rs"))
    {
        let source =
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut lines = source.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            let Some(first) = line.strip_prefix(MARK) else {
                continue;
            };
            let mut reason = first.trim().to_owned();
            while let Some(more) =
                lines.next_if(|line| line.starts_with("// ") && !line.starts_with(MARK))
            {
                reason.push(' ');
                reason.push_str(more.trim_start_matches("// ").trim());
            }
            text.push_str(&format!("- `{}`: {reason}\n", relative(root, file)));
        }
    }
    Ok(text)
}
