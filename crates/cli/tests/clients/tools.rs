//! bpftool against the daemon: what it prints is what it printed over the kernel. Skipped, with the reason, where there is no bpftool.

use std::{path::Path, process::Command};

use crate::rig::{Rig, can_run, command};

/// A shell script as one client; its output with numbers that differ from run to run masked.
fn script(rig: &Rig, text: &str) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/elf");
    let args = ["run-client", "--no-start", "--", "sh", "-ec", text];
    let output = command(&rig.dir, &args)
        .env("F", fixtures)
        .env("T", &rig.dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr
}

fn has_bpftool() -> bool {
    let found = Command::new("bpftool").arg("version").output();
    let reason = match (found, can_run()) {
        (Err(error), _) => format!("bpftool: {error}"),
        (_, Err(reason)) => reason,
        (Ok(_), Ok(())) => return true,
    };
    eprintln!("skipped: {reason}");
    false
}

#[test]
fn bpftool_attaches_to_devices_as_over_the_kernel() {
    if !has_bpftool() {
        return;
    }
    let rig = Rig::new("bpftool-net");
    rig.verb(&["ip", "link", "add", "v1"]);
    rig.verb(&["ip", "link", "add", "v0"]);
    let attached = script(
        &rig,
        "bpftool prog load $F/xdp/flows.o /sys/fs/bpf/x type xdp
        bpftool net attach xdp pinned /sys/fs/bpf/x dev v1
        bpftool net attach xdpgeneric pinned /sys/fs/bpf/x dev v0
        bpftool net
        bpftool -j net
        bpftool net attach xdp pinned /sys/fs/bpf/x dev v1 || echo $?
        bpftool net detach xdp dev v1
        bpftool net detach xdp dev v1
        bpftool net show dev v0",
    );
    // As bpftool 7.1 printed it for veth devices of Linux 6.18, but for the id.
    let id = attached.split("driver id ").nth(1).unwrap();
    let id = id.split('\n').next().unwrap();
    let expected = format!(
        "xdp:
v1(2) driver id {id}
v0(3) generic id {id}

tc:

flow_dissector:

[{{\"xdp\":[{{\"devname\":\"v1\",\"ifindex\":2,\"mode\":\"driver\",\"id\":{id}}},{{\"devname\":\"v0\",\"ifindex\":3,\"mode\":\"generic\",\"id\":{id}}}],\"tc\":[],\"flow_dissector\":[]}}]
240
xdp:
v0(3) generic id {id}

tc:

flow_dissector:

libbpf: Kernel error message: XDP program already attached
Error: interface xdp attach failed: Device or resource busy
"
    );
    assert_eq!(attached, expected);
    let shown = rig.verb(&["net", "show"]);
    assert!(shown.contains("v0(3) generic count_flows id "), "{shown}");
}

/// The rows of `bpftool feature probe` without those of some program types.
fn probes(text: &str, without: &[&str]) -> Vec<String> {
    let mut is_without = false;
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("eBPF helpers supported for program type ") {
            is_without = without.contains(&of.trim_end_matches(':'));
        } else if !line.starts_with('\t') {
            let of = line.strip_prefix("eBPF program_type ").unwrap_or_default();
            let of = of.split(' ').next().unwrap_or_default();
            is_without = without.contains(&of);
        }
        if !is_without {
            rows.push(line.to_owned());
        }
    }
    rows
}

#[test]
fn bpftool_finds_every_feature_of_the_kernel() {
    if !has_bpftool() {
        return;
    }
    let recorded = include_str!("../../../../fixtures/oracle/bpftool-feature.txt");
    let (head, recorded) = recorded.split_at(recorded.find("Scanning").unwrap());
    let refused = head.lines().find_map(|line| line.split_once("EPERM:"));
    let refused: Vec<_> = refused.unwrap().1.split_whitespace().collect();
    let rig = Rig::new("bpftool-feature");
    let version = script(&rig, "bpftool version");
    if !version.contains("bpftool v7.1.0") {
        eprintln!("skipped: the probes of bpftool 7.1 are recorded, here is {version}");
        return;
    }
    let found = script(&rig, "bpftool feature probe full");
    let begin = found.find("Scanning system call availability").unwrap();
    let (found, expected) = (
        probes(&found[begin..], &refused),
        probes(recorded, &refused),
    );
    assert!(expected.len() > 5000, "{}", expected.len());
    let wrong: Vec<_> = expected
        .iter()
        .zip(&found)
        .filter(|(a, b)| a != b)
        .collect();
    assert!(
        wrong.is_empty() && found.len() == expected.len(),
        "{wrong:?}"
    );
    // What the recording host refused is served here.
    let all = script(&rig, "bpftool feature probe");
    for of in refused {
        let row = format!("eBPF program_type {of} is available");
        assert!(all.contains(&row), "{row}");
    }
}

/// What the clients of `rings.bpf.c` print, over the kernel as over the daemon.
const SKELETON: &str = "empty 0 0
count 2
ring 5
ring 5 of sum 45
perf 5 of sum 45
drain 3
globals 3 15 60
hash 5
count 2
globals 103
frozen -1
freeze -16
";
const LIGHT: &str = "initial 1 0
loaded 3 40
count 2
globals 3 55
lookup 0
hash 5
count 2
globals 103
frozen -1
";
const GO: &str = "count 2
ring of sum 45
hash 5
entry 7 5
program count XDP
";

/// Runs a tool to its end in a folder; why not, if it fails.
fn tool(dir: &Path, line: &str) -> Result<(), String> {
    let output = Command::new("sh")
        .args(["-ec", line])
        .current_dir(dir)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// The rings object and clients of it that can be built here, each with what it prints.
fn ring_clients(dir: &Path) -> Vec<(&'static str, &'static str)> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let sources = sources.display();
    let object = format!(
        "clang=$(command -v clang-19 clang | head -n 1)
        $clang -O2 -g -target bpf -I/usr/include/x86_64-linux-gnu -c {sources}/rings.bpf.c -o rings.bpf.o
        bpftool gen skeleton rings.bpf.o name rings > rings.skel.h
        bpftool gen skeleton -L rings.bpf.o name rings > rings.lskel.h"
    );
    if let Err(reason) = tool(dir, &object) {
        eprintln!("skipped: {reason}");
        return Vec::new();
    }
    let gcc = format!("gcc -O1 -Wall -I. {sources}/skeleton.c");
    let go = format!(
        "GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$PWD/cache go build -o go-client {sources}/rings.go"
    );
    let builds = [
        ("./skeleton", SKELETON, format!("{gcc} -o skeleton -lbpf")),
        (
            "./skeleton-static",
            SKELETON,
            format!("{gcc} -static -o skeleton-static -lbpf -lelf -lz"),
        ),
        (
            "./light",
            LIGHT,
            format!("gcc -O1 -Wall -I. {sources}/light.c -o light -lbpf"),
        ),
        ("./go-client rings.bpf.o", GO, go),
    ];
    let built = |(client, prints, line): (_, _, String)| match tool(dir, &line) {
        Ok(()) => Some((client, prints)),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    };
    builds.into_iter().filter_map(built).collect()
}

#[test]
fn clients_of_libbpf_and_go_read_rings_events_and_globals() {
    if !has_bpftool() {
        return;
    }
    let rig = Rig::new("rings");
    for (client, prints) in ring_clients(&rig.dir) {
        let printed = script(&rig, &format!("cd $T; {client}"));
        assert_eq!(printed, prints, "{client}");
    }
    rig.wait_for("files=0");
}

#[test]
fn pinned_iterators_are_read_as_files() {
    const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
    if !has_bpftool() {
        return;
    }
    if !Path::new(KERNEL_BTF).exists() {
        eprintln!("skipped: no {KERNEL_BTF}, whose iterators the programs are loaded for");
        return;
    }
    let rig = Rig::with_args("iterators", &["--btf", KERNEL_BTF]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/iter.bpf.c");
    let objects = format!(
        "clang=$(command -v clang-19 clang | head -n 1)
        for over in MAPS ELEMENTS PROGRAMS LINKS TASKS; do
            $clang -O2 -g -target bpf -DOVER_$over -I/usr/include/x86_64-linux-gnu -c {} -o $over.o
        done",
        source.display()
    );
    if let Err(reason) = tool(&rig.dir, &objects) {
        eprintln!("skipped: {reason}");
        return;
    }
    let printed = script(
        &rig,
        "cd /sys/fs/bpf
        bpftool map create m type hash key 4 value 8 entries 9 name counts
        bpftool map create pm type percpu_array key 4 value 8 entries 2 name cells
        bpftool map create q type queue value 8 entries 3 name waiting
        bpftool map create small type hash key 2 value 8 entries 3 name small
        bpftool map update pinned m key 1 0 0 0 value 5 0 0 0 0 0 0 0
        bpftool iter pin $T/MAPS.o maps
        bpftool iter pin $T/PROGRAMS.o programs
        bpftool iter pin $T/LINKS.o links
        bpftool iter pin $T/ELEMENTS.o elements map pinned m
        bpftool iter pin $T/ELEMENTS.o cells map pinned pm
        # What bpftool loaded to look at the kernel goes a moment after it has closed it.
        for turn in $(seq 100); do [ $(cat programs | wc -l) = 5 ] && break; sleep 0.1; done
        cat /sys/fs/bpf/maps | grep -v rodata
        cat programs links elements
        cat elements cells
        bpftool iter pin $T/ELEMENTS.o no map pinned q 2>&1 || true
        bpftool iter pin $T/ELEMENTS.o no map pinned small 2>&1 || true
        bpftool iter pin $T/ELEMENTS.o no 2>&1 || true
        bpftool iter pin $T/TASKS.o no 2>&1 || true
        bpftool link show | cut -d ' ' -f 2,7-",
    );
    let failed = |text: &str| {
        format!(
            "libbpf: prog 'over': failed to attach to iterator: {text}\nError: attach_iter failed for program over\n"
        )
    };
    let expected = [
        "map counts of 9
map cells of 2
map waiting of 3
map small of 3
9 maps
program over type 26
program over type 26
program over type 26
program over type 26
program over type 26
link type 4 of over
link type 4 of over
link type 4 of over
link type 4 of over
link type 4 of over
1: 5
1 of 9
1: 6
1 of 9
0: 0
1: 0
2 of 2
",
        &failed("Invalid argument"),
        &failed("Permission denied"),
        &failed("Bad file descriptor"),
        &failed("ERROR: strerror_r(-524)=22"),
    ]
    .concat();
    let (text, links) = printed.split_at(printed.find("iter target_name").unwrap_or(printed.len()));
    assert_eq!(text, expected);
    assert_eq!(links.matches("target_name bpf_map_elem  map_id").count(), 2);
    assert_eq!(links.matches("target_name bpf_").count(), 5);
}
