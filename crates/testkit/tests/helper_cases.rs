//! No helper runs without a case: a recorded program, or a test that calls it by name.
#![cfg(feature = "engines")]

use std::path::Path;

use ring3_testkit::fixture::fixtures_dir;
use ring3_testkit::generate::helpers;

/// All text below a folder of files with this ending, of Rust sources only what stands behind their first test.
fn text_below(folder: &Path, ending: &str, into: &mut String) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let is_test = path.components().any(|part| part.as_os_str() == "tests");
                let from = match (ending, is_test) {
                    ("rs", false) => text.find("#[cfg(test)]").unwrap_or(text.len()),
                    _ => 0,
                };
                into.push_str(&text[from..]);
            }
        }
    }
}

#[test]
fn every_helper_that_runs_has_a_case() {
    let crates = fixtures_dir().join("../crates");
    let mut text = String::new();
    text_below(&fixtures_dir().join("elf"), "c", &mut text);
    text_below(&fixtures_dir().join("asm"), "txt", &mut text);
    text_below(&crates.join("../examples/snoop/bpf"), "c", &mut text);
    for name in ["helpers", "net", "objects"] {
        text_below(&crates.join(name), "rs", &mut text);
    }
    // The packet programs of the recorded network answers.
    text.push_str(include_str!("../src/net_oracle/programs.rs"));
    let is_word = |name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let byte = |index: Option<usize>| index.and_then(|index| text.as_bytes().get(index));
            let is_part =
                |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
            !is_part(byte(at.checked_sub(1))) && !is_part(byte(Some(at + name.len())))
        })
    };
    let missing: Vec<_> = helpers::running()
        .filter(|id| {
            let (variant, called) = (format!("{id:?}"), format!("bpf_{id}"));
            !is_word(&variant) && !is_word(&called) && !is_word(id.name())
        })
        .collect();
    assert!(missing.is_empty(), "helpers without a case: {missing:?}");
}
