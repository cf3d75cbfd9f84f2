//! The commands as a user starts them: output and exit status.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn ring3(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ring3"))
        .args(args)
        .current_dir(fixtures())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn run_counts_verdicts_and_shows_maps() {
    for engine in ["jit", "interp"] {
        let output = ring3(&[
            "run",
            "elf/xdp/flows.o",
            "--pcap",
            "pcap/loopback.pcap",
            "--engine",
            engine,
        ]);
        let out = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(out.contains("XDP_DROP         20"), "{out}");
        assert!(out.contains("XDP_PASS         117"), "{out}");
        assert!(out.contains("key: 6  value: 72"), "{out}");
        assert!(
            out.contains(
                "\"dport\": 9, \"protocol\": 17}  value: {\"packets\": 20, \"bytes\": 2830}"
            ),
            "{out}"
        );
    }
}

#[test]
fn verify_says_what_is_rejected_and_where() {
    let output = ring3(&["verify", "elf/xdp/pass.o", "elf/reject/packet_oob.o"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out.contains("R2 offset is outside of the packet (EACCES)"),
        "{out}"
    );
    assert!(
        out.contains("packet_oob.bpf.c:12:9: return data[13];"),
        "{out}"
    );
    assert!(
        out.contains("Programs: 3, accepted: 2, not accepted: 1."),
        "{out}"
    );
    assert_eq!(ring3(&["verify", "elf/xdp/pass.o"]).status.code(), Some(0));
    let missing = ring3(&["verify", "no/such/file.o"]);
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(text(&missing.stderr).lines().count(), 1);
}

#[test]
fn verify_writes_csv_json_and_junit() {
    let csv = text(&ring3(&["verify", "-o", "csv", "elf/xdp/pass.o"]).stdout);
    assert!(csv.starts_with("file_name,prog_name,verdict,"), "{csv}");
    assert!(csv.contains("pass.o,drop,success,"), "{csv}");
    let json = text(&ring3(&["verify", "-o", "json", "-f", "drop", "elf/xdp/pass.o"]).stdout);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["verdict"], "success");
    let report = std::env::temp_dir().join(format!("ring3-junit-{}.xml", std::process::id()));
    ring3(&[
        "verify",
        "--junit",
        report.to_str().unwrap(),
        "elf/reject/packet_oob.o",
    ]);
    let junit = std::fs::read_to_string(&report).unwrap();
    std::fs::remove_file(&report).unwrap();
    assert!(junit.contains("tests=\"1\" failures=\"1\""), "{junit}");
}

#[test]
fn dump_shows_rewrites_and_machine_code() {
    let xlated = text(&ring3(&["dump", "xlated", "elf/tc/classify.o"]).stdout);
    assert!(xlated.contains("r2 = *(u64 *)(r1 +200)"), "{xlated}");
    let jited = text(&ring3(&["dump", "jited", "elf/xdp/pass.o", "-p", "drop"]).stdout);
    assert!(jited.contains("mov eax,1"), "{jited}");
}

fn conformance(mode: &str, memory: &str, program: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ring3-conformance"))
        .args([memory, mode])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(program.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_conformance_plugin_runs_and_checks_in_both_modes() {
    // r0 = *(u8 *)(r1 +1); exit
    let program = "71 10 01 00 00 00 00 00 95 00 00 00 00 00 00 00";
    for mode in ["--jit", "--interpret"] {
        let output = conformance(mode, "aa bb", program);
        assert_eq!(text(&output.stdout).trim(), "bb", "{mode}");
        let output = conformance(mode, "aa", program);
        assert_eq!(output.status.code(), Some(1), "{mode}");
        assert!(!output.stderr.is_empty(), "{mode}");
        assert_eq!(
            conformance(mode, "aa", "ff 00").status.code(),
            Some(1),
            "{mode}"
        );
    }
}

#[test]
fn poisoned_instructions_are_explained_in_libbpfs_words() {
    let output = ring3(&[
        "verify",
        "-l",
        "2",
        "--btf",
        "btf/vmlinux-6.18.btf",
        "elf/core/poisoned.o",
    ]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(out.contains(": <invalid CO-RE relocation>\n"), "{out}");
    assert!(
        out.contains("failed to resolve CO-RE relocation <byte_off> ["),
        "{out}"
    );
    assert!(
        out.contains("] struct task_struct___other.no_such_member (0:0 @ offset 0)"),
        "{out}"
    );
}

#[test]
fn types_that_the_btf_lacks_are_named() {
    // BTF of another object: no kernel types in it.
    let output = ring3(&["verify", "--btf", "elf/xdp/pass.o", "elf/typed/tp_btf.o"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(
        out.contains("the kernel BTF has no typedef 'btf_trace_task_newtask' to attach to"),
        "{out}"
    );
}
