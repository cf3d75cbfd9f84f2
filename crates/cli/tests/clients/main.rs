//! Unmodified clients under `ring3 run-client`, dynamic and static. Skipped, with the reason, where a C compiler, user namespaces or seccomp
//! notifications lack.

mod rig;
mod tools;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Instant,
};

use rig::{Rig, TIMEOUT, can_run, command};

/// The client, compiled once, dynamic and where possible static.
fn clients() -> &'static [PathBuf] {
    static CLIENTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        if let Err(reason) = can_run() {
            eprintln!("skipped: {reason}");
            return Vec::new();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/client.c");
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let mut clients = Vec::new();
        for (name, flags) in [("dynamic", &[][..]), ("static", &["-static"][..])] {
            // Tests are processes of their own: each makes a file of its own.
            let client = dir.join(format!("client-{name}-{}", std::process::id()));
            let compiled = Command::new("gcc")
                .args(["-O1", "-Wall", "-o"])
                .args([&client, &source])
                .args(flags)
                .status();
            match compiled {
                Ok(status) if status.success() => clients.push(client),
                result => eprintln!("skipped: no {name} client: {result:?}"),
            }
        }
        clients
    })
}

#[test]
fn a_client_sees_what_the_kernel_shows() {
    for client in clients() {
        let rig = Rig::new("steps");
        let steps = [
            "map", "copies", "mmap", "ring", "signals", "bad", "fdinfo", "load", "freeze",
            "hostile",
        ];
        let expected = "\
map 1 update 0 lookup 0 42 missing -2
dup 0 closed -9 child 0
mmap 42 7 plain 524
ring add 0 idle 0 run 0 event 1 data 77 at 0 of 16 value 99
signals wrong 0
bad -22 -22 -14 -7 -14
map_type:\t1 memlock:\t2320 fdinfo
load 1 rejected -13
freeze mapped -16 child -16 gone 0 again 1 read 0 protect 13
hostile cut 1 run 0 constant 1 update 0
";
        let mut text = rig.run(client, &steps);
        if ring3_os::cpu::possible_cpus() != 2 {
            // Spare elements are counted by CPU.
            let memlock = text.split("memlock:\t").nth(1).unwrap();
            let memlock = memlock.split(' ').next().unwrap().to_owned();
            text = text.replace(&memlock, "2320");
        }
        assert_eq!(text, expected, "{}", client.display());
        rig.wait_for("files=0");
        rig.wait_for("clients=0");
    }
}

#[test]
fn pins_outlive_processes_and_end_with_their_last_name() {
    for client in clients() {
        let rig = Rig::new("pins");
        let pinned = rig.run(client, &["map", "pin"]);
        assert!(pinned.ends_with("pin 0 again -17 outside -1\n"), "{pinned}");
        let got = rig.run(client, &["first", "get", "unpin", "first"]);
        assert_eq!(
            got,
            "first 1\nget 1 lookup 0 42 foreign -13 missing -2\nmagic 0 cafe4a11 rename 0 unlink 0\nfirst 1\n"
        );
        assert_eq!(rig.run(client, &["none"]), "none -2\n");
        rig.wait_for("pins=0");
    }
}

#[test]
fn a_killed_client_leaves_nothing_behind() {
    for client in clients() {
        let rig = Rig::new("kill");
        let mut child = rig.start(client, &["map", "mmap", "hold"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next().unwrap().unwrap() != "hold" {}
        assert!(!rig.status().contains("files=0"), "{}", rig.status());
        child.kill().unwrap();
        child.wait().unwrap();
        rig.wait_for("files=0");
        assert_eq!(rig.run(client, &["none"]), "none -2\n");
    }
}

#[test]
fn a_run_ends_with_its_killed_client() {
    for client in clients() {
        let rig = Rig::new("spin");
        let mut child = rig.start(client, &["spin"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "spin");
        rig.wait_for("files=1");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(rig.run(client, &["none-runs"]), "none -2\n");
        rig.wait_for("files=0");
    }
}

#[test]
fn clients_have_limits_of_their_own() {
    for client in clients() {
        // An array of 64 pages each.
        for (limit, expected) in [
            (["--max-files", "5"], "many 5 -24\n"),
            (["--max-map-bytes", "1100000"], "many 4 -12\n"),
        ] {
            let rig = Rig::with_args("limits", &limit);
            assert_eq!(rig.run(client, &["many"]), expected);
            // The next one begins anew.
            rig.wait_for("files=0");
            assert_eq!(rig.run(client, &["many"]), expected);
        }
    }
}

#[test]
fn without_its_daemon_a_client_gets_enosys_at_once() {
    for client in clients() {
        let mut rig = Rig::new("gone");
        let mut child = rig.start(client, &["map", "hold", "first"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next().unwrap().unwrap() != "hold" {}
        rig.daemon.kill().unwrap();
        rig.daemon.wait().unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "first -38");
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn the_monitor_tells_loads_and_unloads() {
    for client in clients() {
        let rig = Rig::new("monitor");
        let mut monitor = command(&rig.dir, &["monitor"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        // Whether it listens already is not told: loads go on until one is heard.
        let told = std::thread::spawn(move || {
            let load = lines.next().unwrap().unwrap();
            let unload = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("UNLOAD")));
            (load, unload.unwrap().unwrap())
        });
        let begin = Instant::now();
        while !told.is_finished() {
            assert!(begin.elapsed() < TIMEOUT, "nothing is heard");
            rig.run(client, &["load"]);
        }
        let (load, unload) = told.join().unwrap();
        let name: String = client
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .chars()
            .take(15)
            .collect();
        assert!(load.starts_with("prog-id="), "{load}");
        assert!(load.contains(&format!("comm=\"{name}\"")), "{load}");
        assert!(unload.contains("op=UNLOAD"), "{unload}");
        monitor.kill().unwrap();
        monitor.wait().unwrap();
    }
}

#[test]
fn an_unprivileged_client_is_refused_as_by_the_kernel() {
    for client in clients() {
        let rig = Rig::new("unprivileged");
        let args = [
            "run-client",
            "--unprivileged",
            "--",
            client.to_str().unwrap(),
            "load",
        ];
        let output = command(&rig.dir, &args).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "load 0 rejected -1\n"
        );
    }
}

#[test]
fn separate_commands_see_one_network() {
    let rig = Rig::new("console");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let object = fixtures.join("elf/tc/classify.o");
    let object = object.to_str().unwrap();
    rig.verb(&["ip", "link", "add", "eth0"]);
    let mut add = vec!["tc", "filter", "add", "dev", "eth0", "ingress", "bpf", "da"];
    add.extend(["obj", object, "sec", "tc"]);
    rig.verb(&add);
    let capture = rig.dir.join("out.pcap");
    rig.verb(&["net", "capture", capture.to_str().unwrap()]);
    rig.verb(&["net", "inject", "eth0", "hex", &"00".repeat(60)]);
    rig.verb(&["net", "send", "eth0", "hex", &"00".repeat(9000)]);
    let shown = rig.verb(&["net", "show", "dev", "eth0"]);
    assert!(
        shown.contains("eth0(2) clsact/ingress classify.o:[tc] id "),
        "{shown}"
    );
    assert!(shown.ends_with("runs 1 stopped 0\n"), "{shown}");
    let stats = rig.verb(&["net", "stats"]);
    assert!(
        stats.contains("eth0(2): rx_packets 1 to_stack 1"),
        "{stats}"
    );
    let refused = command(&rig.dir, &["tc", "filter", "add"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(said, "ring3: expected 'dev', found 'the end' (EINVAL)\n");
    // What nothing runs any more is gone.
    rig.verb(&["tc", "filter", "del", "dev", "eth0", "ingress"]);
    let script = rig.dir.join("lines");
    std::fs::write(&script, "ip link add eth1 # second\n\nnet show\n").unwrap();
    let shown = rig.verb(&["net", "run", "--daemon", script.to_str().unwrap()]);
    assert_eq!(shown, "xdp:\n\ntc:\n");
    for client in clients() {
        assert_eq!(rig.run(client, &["none"]), "none -2\n");
    }
}
