//! The C and raw dumps of the fixtures' BTF, and of the parts of kernels' BTF, beside bpftool 7.1's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ring3_btf::{Btf, dump};
use ring3_testkit::fixture::fixtures_dir;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn dumps_are_bpftools() {
    let recorded = fixtures_dir().join("oracle/btf");
    let mut texts = Vec::new();
    files(&recorded, &mut texts);
    for text in &texts {
        let blob = fixtures_dir().join(text.strip_prefix(&recorded).unwrap().with_extension(""));
        let bytes = fs::read(&blob).unwrap();
        let btf = if bytes.starts_with(b"\x7fELF") {
            ring3_elf::read_btf(&bytes).unwrap()
        } else {
            Btf::parse(&bytes).unwrap()
        };
        let mut ours = String::new();
        match text.extension().and_then(|extension| extension.to_str()) {
            Some("raw") => dump::raw(&btf, &mut ours).unwrap(),
            Some("h") => dump::c(&btf, &mut ours).unwrap(),
            other => panic!("{}: {other:?}", text.display()),
        }
        assert!(
            ours == fs::read_to_string(text).unwrap(),
            "{}",
            text.display()
        );
    }
    assert!(texts.len() >= 100, "{} texts", texts.len());
}
