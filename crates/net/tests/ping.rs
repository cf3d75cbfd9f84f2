//! A ping of the host through the model: out of a TAP device, through a program that rewrites addresses and redirects, into a veth device whose other end is a
//! host of its own, and back. Two network namespaces of their own; where they are not permitted the test says why and passes.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ring3_mprog::Anchor;
use ring3_net::{Device, Direction, Net, PacketPath, Wire};
use ring3_objects::{LoadOptions, Object, System};
use ring3_os::icmp::EchoSocket;

/// Set in the process inside the namespace.
const INSIDE: &str = "RING3_TEST_INSIDE_NAMESPACE";
const NAME: &str = "a_ping_goes_through_a_program_that_rewrites_and_redirects";
const PINGS: u16 = 10;
const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn a_ping_goes_through_a_program_that_rewrites_and_redirects() {
    if std::env::var_os(INSIDE).is_some() {
        return ping();
    }
    if let Err(reason) = is_permitted() {
        println!("skipped: {reason}");
        return;
    }
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("10 of 10 answered"),
        "{text}"
    );
}

/// Whether this host lets us make namespaces with TAP and veth devices, else why not.
fn is_permitted() -> Result<(), String> {
    for device in [
        "tuntap add tap0 mode tap",
        "link add va type veth peer name vb",
    ] {
        let output = Command::new("unshare")
            .args(["--net", "ip"])
            .args(device.split(' '))
            .output()
            .map_err(|error| format!("unshare: {error}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!(
                "ip {device} in a namespace of its own: {}",
                why.trim()
            ));
        }
    }
    Ok(())
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// A namespace with nothing in it, alive as long as its process.
struct Namespace(Child);

impl Namespace {
    fn new() -> Namespace {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "60"])
            .spawn()
            .unwrap();
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let begin = Instant::now();
        while namespace(&child.id().to_string()) == namespace("self") {
            assert!(begin.elapsed() < TIMEOUT, "no namespace");
            std::thread::yield_now();
        }
        Namespace(child)
    }

    fn ip(&self, words: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("nsenter")
            .args(["--net", "--target", &pid, "ip"])
            .args(words.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {words}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The model: `tap0`, number 2, and `veth0`, number 3, each with a program at tcx ingress.
fn model() -> (Net, [Arc<Device>; 2], ring3_objects::LoadedObject) {
    let system = System::new();
    ring3_net::register(&system);
    let net = Net::new(&system);
    let devices = ["tap0", "veth0"].map(|name| net.add_device(name).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/elf/net/nat.o");
    let object = Object::open(path).unwrap();
    let loaded = object.load_in(&system, &LoadOptions::default()).unwrap();
    for (device, name) in devices.iter().zip(["inward", "outward"]) {
        let program = loaded.program(name).unwrap();
        net.attach_tcx(device, Direction::Ingress, program, &Anchor::none(), None)
            .unwrap();
    }
    (net, devices, loaded)
}

fn ping() {
    let (net, [tap, veth], _loaded) = model();
    tap.connect(Wire::tap("tap0").unwrap()).unwrap();
    ip("link set tap0 address 02:00:00:00:01:01 up");
    ip("addr add 10.9.1.1/24 dev tap0");
    ip("neigh add 10.9.1.2 lladdr 02:00:00:00:01:02 dev tap0");
    let far = Namespace::new();
    let pid = far.0.id();
    ip(&format!(
        "link add veth0 type veth peer name veth1 address 02:00:00:00:02:02 netns {pid}"
    ));
    ip("link set veth0 up");
    far.ip("link set veth1 up");
    far.ip("addr add 10.9.2.2/24 dev veth1");
    far.ip("route add 10.9.1.0/24 dev veth1");
    far.ip("neigh add 10.9.1.1 lladdr 02:00:00:00:02:01 dev veth1");
    veth.connect(Wire::packet_socket("veth0").unwrap()).unwrap();
    let again = veth.connect(Wire::packet_socket("veth0").unwrap());
    assert_eq!(again.unwrap_err().errno, ring3_uapi::Errno::EBUSY);

    let mut path = PacketPath::new(&net);
    let is_done = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                path.pump(&tap, Duration::from_millis(1)).unwrap();
                path.pump(&veth, Duration::from_millis(1)).unwrap();
            }
        });
        let socket = EchoSocket::open().unwrap();
        let ping = |number: u16| {
            let payload = vec![number as u8; 56 + usize::from(number) * 100];
            socket.ping(Ipv4Addr::new(10, 9, 1, 2), number, &payload, TIMEOUT)
        };
        let answers: Vec<_> = (1..=PINGS).map(ping).collect();
        is_done.store(true, Ordering::Relaxed);
        answers.iter().filter(|answer| **answer == Ok(true)).count()
    });
    println!(
        "{answered} of {PINGS} answered, {:?}, {:?}",
        tap.stats(),
        veth.stats()
    );
    assert!(veth.stats().tc_redirect >= u64::from(PINGS) && veth.stats().wire_failed == 0);
}
