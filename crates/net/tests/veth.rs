//! A packet of the host through the model and back: a veth pair in a network namespace of its own, an AF_PACKET socket at one end, and a program
//! that swaps the addresses and redirects out of the device it came from. Where namespaces are not permitted the test says so and passes.

use std::{
    net::UdpSocket,
    process::Command,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use ring3_isa::RawInsn;
use ring3_mprog::Anchor;
use ring3_net::{Direction, Exit, Net, PacketPath};
use ring3_objects::{ProgAttr, Program, System};
use ring3_os::packet_socket::PacketSocket;
use ring3_uapi::ProgType;

/// Set in the process inside the namespace.
const INSIDE: &str = "RING3_TEST_INSIDE_NAMESPACE";
const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_udp_echo_comes_back_through_a_program_that_rewrites_and_redirects() {
    if std::env::var_os(INSIDE).is_some() {
        return echo();
    }
    let is_permitted = Command::new("unshare")
        .args([
            "--net", "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    if !is_permitted {
        println!("skipped: network namespaces with veth devices are not permitted here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .arg("--net")
        .arg(this)
        .args([
            "--exact",
            "a_udp_echo_comes_back_through_a_program_that_rewrites_and_redirects",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("echoed 10 of 10"),
        "{text}"
    );
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

fn echo() {
    ip("link add veth0 type veth peer name veth1");
    ip("link set veth0 up");
    ip("link set veth1 up");
    ip("addr add 10.9.0.1/24 dev veth0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev veth0");
    let wire = Arc::new(PacketSocket::open("veth1").unwrap());
    wire.set_timeout(Some(Duration::from_millis(200))).unwrap();

    let system = System::new();
    ring3_net::register(&system);
    let net = Net::new(&system);
    let device = net.add_device("veth1").unwrap();
    let prog = swapper(&system, device.ifindex());
    net.attach_tcx(&device, Direction::Ingress, &prog, &Anchor::none(), None)
        .unwrap();
    let out = Arc::clone(&wire);
    let mut path = PacketPath::new(&net).with_sink(Box::new(move |exit, _, frame| {
        if exit == Exit::Sent {
            out.send(frame).unwrap();
        }
    }));

    let (done, is_done) = mpsc::channel();
    let client = std::thread::spawn(move || {
        let socket = UdpSocket::bind("10.9.0.1:4000").unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.connect("10.9.0.2:7000").unwrap();
        let mut echoed = 0;
        for number in 0..10u8 {
            let message = [number; 100];
            socket.send(&message).unwrap();
            let mut answer = [0; 200];
            let len = socket.recv(&mut answer).unwrap();
            echoed += u32::from(answer[..len] == message);
        }
        done.send(echoed).unwrap();
    });
    let begin = Instant::now();
    let mut frame = vec![0; 2048];
    let echoed = loop {
        if let Ok(echoed) = is_done.try_recv() {
            break echoed;
        }
        assert!(begin.elapsed() < TIMEOUT, "no answer; {:?}", device.stats());
        // Nothing within the timeout is no failure: the client may be about to send.
        if let Ok(len) = wire.receive(&mut frame) {
            path.inject(&device, &frame[..len]).unwrap();
        }
    };
    client.join().unwrap();
    println!("echoed {echoed} of 10, {:?}", device.stats());
}

/// Swaps link addresses, IPv4 addresses and ports of UDP packets, drops their checksum (the host left it to a device that does not exist), and
/// redirects them out of the device; everything else passes.
fn swapper(system: &Arc<System>, ifindex: u32) -> Arc<Program> {
    const SIZE_U8: u8 = 0x71;
    const SIZE_U16: u8 = 0x69;
    const SIZE_U32: u8 = 0x61;
    /// Store of the same size: one less.
    const STORE: u8 = 0x02;
    let insn = |code: u8, regs: u8, off: i16, imm: i32| {
        let ([low, high], [a, b, c, d]) = (off.to_le_bytes(), imm.to_le_bytes());
        RawInsn::from_bytes([code, regs, low, high, a, b, c, d])
    };
    let mut insns = vec![
        insn(SIZE_U32, 0x12, 76, 0), // r2 = data
        insn(SIZE_U32, 0x13, 80, 0), // r3 = data_end
        insn(0xbf, 0x24, 0, 0),      // r4 = r2 + 42
        insn(0x07, 0x04, 0, 42),
    ];
    let mut body = vec![
        insn(SIZE_U16, 0x25, 12, 0), // IPv4, no options, UDP?
        insn(0x55, 0x05, i16::MAX, 0x0008),
        insn(SIZE_U8, 0x25, 23, 0),
        insn(0x55, 0x05, i16::MAX, 17),
    ];
    for (size, a, b) in [
        (SIZE_U32, 0, 6),
        (SIZE_U16, 4, 10),
        (SIZE_U32, 26, 30),
        (SIZE_U16, 34, 36),
    ] {
        body.extend([
            insn(size, 0x25, a, 0),
            insn(size, 0x26, b, 0),
            insn(size + STORE, 0x62, a, 0),
            insn(size + STORE, 0x52, b, 0),
        ]);
    }
    body.extend([
        insn(0x6a, 0x02, 40, 0), // no UDP checksum
        insn(0xb7, 0x01, 0, ifindex as i32),
        insn(0xb7, 0x02, 0, 0),
        insn(0x85, 0, 0, 23),
        insn(0x95, 0, 0, 0),
    ]);
    // Jumps that leave go behind the body, where the packet passes.
    let end = body.len() as i16;
    for (at, insn) in (1..).zip(&mut body) {
        if insn.off == i16::MAX {
            insn.off = end - at;
        }
    }
    insns.push(insn(0x2d, 0x34, end, 0)); // if r4 > r3 goto pass
    insns.extend(body);
    insns.extend([insn(0xb7, 0, 0, 0), insn(0x95, 0, 0, 0)]);
    let mut attr = ProgAttr::new(ProgType::SchedCls, insns);
    attr.name = "swapper".to_owned();
    attr.log_level = 1;
    Program::load(system, attr).unwrap_or_else(|error| panic!("{error}\n{}", error.log))
}
