//! Scripts over the committed objects and the committed capture: what is shown, and that both engines give the same packets.

use std::{fs, path::Path};

use ring3_net::Script;
use ring3_objects::{EngineKind, LoadOptions, System};

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
    Script::new(&system, &options, &folder, &mut out)
        .run(&text)
        .unwrap();
    let packets = fs::read(&capture).unwrap();
    fs::remove_file(&capture).unwrap();
    (String::from_utf8(out).unwrap(), packets)
}

#[test]
fn both_engines_show_and_send_the_same() {
    let (shown, sent) = run(EngineKind::Jit);
    assert_eq!(run(EngineKind::Interp), (shown.clone(), sent.clone()));
    assert!(sent.len() > 10_000, "{} bytes captured", sent.len());
    for expected in [
        "filter protocol all pref 7 bpf chain 0 \n",
        "pref 7 bpf chain 0 handle 0x1 flowid 1:2 classify.o:[tc] direct-action not_in_hw id ",
        "filter protocol ip pref 9 bpf chain 0 handle 0x1 second direct-action",
        "eth0(2) driver count_flows id ",
        "veth1(4) tcx/ingress classify prog_id ",
        "veth1(4) tcx/ingress revision 2\n",
        "eth0(2) clsact/ingress second id ",
        "veth0(3): tx_packets 137\n",
    ] {
        assert!(shown.contains(expected), "'{expected}' is not in:\n{shown}");
    }
}

#[test]
fn a_line_that_fails_is_named() {
    let system = System::new();
    let mut out = Vec::new();
    let mut script = Script::new(&system, &LoadOptions::default(), Path::new("."), &mut out);
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
        ("frobnicate", "unknown word 'frobnicate'"),
    ] {
        let error = script.run(text).unwrap_err();
        assert!(error.message.contains(expected), "{text}: {error}");
    }
}
