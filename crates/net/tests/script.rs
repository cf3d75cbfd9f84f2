//! Scripts over the committed objects and the committed capture: what is shown, and that both engines give the same packets.

use std::{fs, path::Path};

use ring3_net::Script;
use ring3_objects::{EngineKind, LoadOptions, SharedMaps, System};

const SCRIPT: &str = "
ip link add eth0
ip link add veth0 type veth peer name veth1
ip route add 127.0.0.0/8 dev veth0
ip neigh add 127.0.0.1 lladdr 02:00:00:00:00:09 dev veth0
ip link set dev eth0 xdp obj elf/xdp/flows.o sec xdp
tc qdisc add dev eth0 clsact
tc filter add dev eth0 ingress prio 7 bpf da obj elf/tc/classify.o sec tc classid 1:2
tc filter add dev eth0 ingress prio 9 protocol ip bpf da obj elf/tc/classify.o sec tc name second
tcx attach dev veth1 ingress obj elf/tc/classify.o sec tc link
capture CAPTURE
inject eth0 pcap pcap/loopback.pcap   # every packet of it
send veth0 pcap pcap/loopback.pcap
tc filter show dev eth0 ingress
net show
net stats
";

fn run(engine: EngineKind) -> (String, Vec<u8>) {
    let system = System::new();
    ring3_net::register(&system);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let capture = std::env::temp_dir().join(format!(
        "ring3-script-{}-{engine:?}.pcap",
        std::process::id()
    ));
    let text = SCRIPT.replace("CAPTURE", &capture.display().to_string());
    let options = LoadOptions {
        engine,
        ..LoadOptions::default()
    };
    let mut out = Vec::new();
    Script::new(&system, &options, &folder)
        .run(&text, &mut out)
        .unwrap();
    let packets = fs::read(&capture).unwrap();
    fs::remove_file(&capture).unwrap();
    (String::from_utf8(out).unwrap(), packets)
}

#[test]
fn both_engines_show_and_send_the_same() {
    let (shown, sent) = run(EngineKind::Jit);
    let (interpreted, sent_interpreted) = run(EngineKind::Interp);
    assert!(interpreted == shown.replace("jited ", ""), "{interpreted}");
    assert!(sent_interpreted == sent, "other packets were sent");
    assert!(sent.len() > 10_000, "{} bytes captured", sent.len());
    for expected in [
        "filter protocol all pref 7 bpf chain 0 \n",
        "pref 7 bpf chain 0 handle 0x1 flowid 1:2 classify.o:[tc] direct-action not_in_hw id ",
        "filter protocol ip pref 9 bpf chain 0 handle 0x1 second direct-action",
        "eth0(2) driver count_flows id ",
        "veth1(4) tcx/ingress classify prog_id ",
        "veth1(4) tcx/ingress revision 2, undecided ",
        "eth0(2) clsact/ingress second id ",
        "veth0(3): tx_packets 137\n",
    ] {
        assert!(shown.contains(expected), "'{expected}' is not in:\n{shown}");
    }
}

/// Runs a script of lines in the fixtures' folder; what it shows, and the maps that its files shared.
fn show(
    text: &str,
) -> (
    String,
    Vec<(String, std::sync::Arc<ring3_objects::MapObject>)>,
) {
    let system = System::new();
    ring3_net::register(&system);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let options = LoadOptions {
        shared_maps: Some(SharedMaps::default()),
        ..LoadOptions::default()
    };
    let mut out = Vec::new();
    Script::new(&system, &options, &folder)
        .run(text, &mut out)
        .unwrap();
    let shared = options.shared_maps.map_or_else(Vec::new, |maps| maps.all());
    (String::from_utf8(out).unwrap(), shared)
}

#[test]
fn ingress_and_egress_share_maps_by_pinned_name() {
    let frame = "00".repeat(60);
    let (_, shared) = show(&format!(
        "ip link add eth0
        tc filter add dev eth0 ingress bpf da obj elf/net/shared.o sec tc/ingress
        tc filter add dev eth0 egress bpf da obj elf/net/shared.o sec tc/egress
        inject eth0 hex {frame}
        send eth0 hex {frame}
        send eth0 hex {frame}"
    ));
    let names: Vec<&str> = shared.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["both"], "the other map is each load's own");
    let mut value = [0; 8];
    let key = 2u32.to_ne_bytes();
    let access = ring3_maps::Access::ReadWrite;
    let map = shared[0].1.map();
    map.sys_lookup(access, &key, &mut value, 0).unwrap();
    assert_eq!(u64::from_ne_bytes(value), 3, "one in, two out");
}

#[test]
fn filters_are_shown_in_the_words_of_tc() {
    // As tc of iproute2 6.1 printed it for the same lines, but for the id.
    let (shown, _) = show(
        "ip link add va
        tc qdisc add dev va clsact
        tc filter add dev va ingress bpf da obj elf/tc/classify.o sec tc
        tc filter add dev va ingress prio 7 handle 3 protocol ip bpf da obj elf/tc/classify.o sec tc classid 1:2
        tc filter show dev va ingress
        tc filter show dev va ingress prio 7",
    );
    let body =
        "classify.o:[tc] direct-action not_in_hw id N name classify tag 6c0bcb0df6500e93 jited \n";
    let expected = [
        "filter protocol ip pref 7 bpf chain 0 \n",
        &format!("filter protocol ip pref 7 bpf chain 0 handle 0x3 flowid 1:2 {body}"),
        "filter protocol all pref 49152 bpf chain 0 \n",
        &format!("filter protocol all pref 49152 bpf chain 0 handle 0x1 {body}"),
        "filter protocol ip bpf chain 0 \n",
        &format!("filter protocol ip bpf chain 0 handle 0x3 flowid 1:2 {body}"),
    ]
    .concat();
    let masked = shown
        .replace("id 1 name", "id N name")
        .replace("id 2 name", "id N name");
    assert_eq!(masked, expected);
}

#[test]
fn actions_and_results_are_shown() {
    let frame = "00".repeat(60);
    let (shown, _) = show(&format!(
        "ip link add va
        tc filter add dev va ingress prio 5 bpf obj elf/tc/classify.o sec tc action continue
        tc filter add dev va ingress prio 6 bpf da obj elf/tc/classify.o sec tc
        tcx attach dev va ingress obj elf/net/pipeline.o sec tc
        inject va hex {frame}
        tc -s filter show dev va ingress
        net show dev va"
    ));
    for expected in [
        "\taction order 1: gact action continue\n\t random type none pass val 0\n\t index 1 ref 1 bind 1\n",
        "\truns 1 decided 0 match 1\n",
        "\truns 1 decided 0 TC_ACT_UNSPEC 1\n",
        "va(2) tcx/ingress by_flow prog_id ",
        "runs 1 stopped 0\nva(2) tcx/ingress revision 2, undecided 1\n",
    ] {
        assert!(shown.contains(expected), "'{expected}' is not in:\n{shown}");
    }
}

#[test]
fn a_line_that_fails_is_named() {
    let system = System::new();
    let mut out = Vec::new();
    let mut script = Script::new(&system, &LoadOptions::default(), Path::new("."));
    for (text, expected) in [
        ("ip link add a\n\nip link add a", "line 3: device 'a'"),
        (
            "tc filter add dev lo ingress bpf da",
            "line 1: obj FILE sec SEC is missing",
        ),
        (
            "tc filter add dev nowhere ingress bpf",
            "no device 'nowhere', there are: lo",
        ),
        ("inject lo hex 0", "hex digits come in pairs"),
        ("inject lo hex 00", "a frame of 1 bytes"),
        ("ip route add 10.0.0.0/33 dev lo", "33 prefix bits"),
        (
            "tcx attach dev lo sideways",
            "'sideways': expected ingress or egress",
        ),
        (
            "tc filter del dev lo ingress prio 9",
            "Filter with specified priority/protocol not found.",
        ),
        ("frobnicate", "unknown word 'frobnicate'"),
    ] {
        let error = script.run(text, &mut out).unwrap_err();
        assert!(error.message.contains(expected), "{text}: {error}");
    }
}
