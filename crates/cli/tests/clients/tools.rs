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
