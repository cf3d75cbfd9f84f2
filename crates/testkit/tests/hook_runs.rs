//! Test runs of flow dissectors, socket look-ups and netfilter programs, from ELF objects and on both engines, and programs of socket addresses, which have
//! none. What the kernel answers to single programs is in `fixtures/oracle/syscall`.
#![cfg(feature = "engines")]

use std::sync::Arc;

use ring3::{
    EngineKind, LoadOptions, LoadedObject, ProgAttr, Program, System,
    helpers::{
        packet::{Sock, SockOption, SockOptionValue, SockSpec, sock_family, sock_state},
        sock_addr::{SockAddrCall, run_sock_addr},
    },
    maps::Access,
    objects::{Object, TestRun, TestRunResult},
    uapi::{AttachType, Errno, ProgType},
};
use ring3_isa::parse_asm;
use ring3_testkit::{
    filetest::HelperNames,
    fixture::{fixtures_dir, kernel_btf},
};

/// 60 bytes: UDP over IPv4, 10.0.0.1:4660 to 10.0.0.2:80.
const UDP: &str = "ffffffffffff020000000001080045000028000000004011000\
    00a0000010a000002123400500014000000000000000000000000000000000000";
/// TCP over IPv6 with flow label 0xabcde, ports 258 and 772.
const TCP6: &str = "ffffffffffff02000000000186dd600abcde00140640\
    20010db8000000000000000000000001fe80000000000000000000000000000201020304000000000000000050000000";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

fn load(name: &str, engine: EngineKind) -> (Arc<System>, LoadedObject) {
    let options = LoadOptions {
        engine,
        ..LoadOptions::default()
    };
    let system = ring3::system();
    system.set_kernel_btf(kernel_btf("6.18").unwrap());
    let object = Object::open(fixtures_dir().join(format!("elf/hooks/{name}.o"))).unwrap();
    let loaded = object.load_in(&system, &options).unwrap();
    (system, loaded)
}

const ENGINES: [EngineKind; 2] = [EngineKind::Jit, EngineKind::Interp];

/// `struct bpf_flow_keys`
struct Keys(Vec<u8>);

impl Keys {
    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    fn be16(&self, at: usize) -> u16 {
        self.u16(at).swap_bytes()
    }
}

#[test]
fn a_dissector_finds_ports_and_addresses() {
    for engine in ENGINES {
        let (_system, loaded) = load("dissect", engine);
        let program = loaded.program("dissect").unwrap();
        let run = |frame: &[u8], flags: u32| -> (u32, Keys) {
            let mut ctx = vec![0; 56];
            ctx[48..52].copy_from_slice(&flags.to_ne_bytes());
            let run = TestRun {
                ctx_in: ctx,
                repeat: 3,
                ..TestRun::packet(frame)
            };
            let result = program.test_run_with(&run).unwrap();
            (result.retval, Keys(result.data_out))
        };
        let (udp, tcp6) = (bytes(UDP), bytes(TCP6));
        let (retval, keys) = run(&udp, 0);
        assert_eq!((retval, keys.u16(0), keys.u16(2)), (0, 14, 34));
        assert_eq!((keys.u16(4), keys.0[9], keys.be16(10)), (0x800, 17, 0x800));
        assert_eq!((keys.be16(12), keys.be16(14)), (0x1234, 80));
        assert_eq!(&keys.0[16..24], &[10, 0, 0, 1, 10, 0, 0, 2]);

        let (retval, keys) = run(&tcp6, 0);
        assert_eq!((retval, keys.u16(2), keys.0[9]), (0, 54, 6));
        assert_eq!((keys.be16(12), keys.be16(14)), (0x102, 0x304));
        assert_eq!(&keys.0[16..48], &tcp6[22..54]);
        assert_eq!(&keys.0[52..56], &[0, 0xa, 0xbc, 0xde]);
        // Stops at the label, as the flag asks.
        let (retval, keys) = run(&tcp6, 2);
        assert_eq!((retval, keys.be16(12), keys.u16(2)), (0, 0, 54));

        let tagged = [&udp[..12], &[0x81, 0, 0, 42], &udp[12..]].concat();
        let (retval, keys) = run(&tagged, 0);
        assert_eq!((retval, keys.u16(0), keys.u16(2)), (0, 18, 38));
        assert_eq!((keys.be16(10), keys.be16(14)), (0x800, 80));
        let (retval, _) = run(&udp[..33], 0);
        assert_eq!(retval, 2);
        let fragment = [&udp[..20], &[0x20, 0], &udp[22..]].concat();
        let (retval, keys) = run(&fragment, 0);
        assert_eq!((retval, keys.0[6], keys.0[7], keys.be16(14)), (0, 1, 1, 0));
        let arp = [&udp[..12], &[8, 6], &udp[14..]].concat();
        assert_eq!(run(&arp, 0).0, 129);
    }
}

/// `struct bpf_sk_lookup` of TCP over IPv4.
fn lookup(remote_port: u16, local_ip4: [u8; 4], local_port: u32) -> Vec<u8> {
    let mut ctx = vec![0; 72];
    ctx[8] = 2;
    ctx[12] = 6;
    ctx[36..38].copy_from_slice(&remote_port.to_be_bytes());
    ctx[40..44].copy_from_slice(&local_ip4);
    ctx[60..64].copy_from_slice(&local_port.to_ne_bytes());
    ctx
}

fn with_context(ctx: &[u8]) -> TestRun {
    TestRun {
        ctx_in: ctx.to_owned(),
        ..TestRun::default()
    }
}

#[test]
fn a_look_up_passes_by_port_and_address() {
    for engine in ENGINES {
        let (_system, loaded) = load("select", engine);
        let program = loaded.program("open_ports").unwrap();
        let (_, rules) = loaded.maps().find(|(name, _)| *name == "rules").unwrap();
        for (port, address) in [(80u32, [0; 4]), (443, [10, 0, 0, 2])] {
            let value = [&2u32.to_ne_bytes()[..], &address, &[0; 4]].concat();
            rules
                .map()
                .sys_update(
                    Access::ReadWrite,
                    &port.to_ne_bytes(),
                    &value,
                    0,
                    &ring3::maps::fd::NoFds,
                )
                .unwrap();
        }
        let run = |ctx: &[u8]| program.test_run_with(&with_context(ctx)).unwrap().retval;
        assert_eq!(run(&lookup(99, [10, 0, 0, 9], 80)), 1);
        assert_eq!(run(&lookup(99, [10, 0, 0, 2], 443)), 1);
        assert_eq!(run(&lookup(99, [10, 0, 0, 3], 443)), 0);
        assert_eq!(run(&lookup(99, [10, 0, 0, 3], 5000)), 0);
        assert_eq!(run(&lookup(1024, [10, 0, 0, 3], 5000)), 1);
        let mut of_ipv6 = lookup(99, [0; 4], 1);
        of_ipv6[8] = 10;
        assert_eq!(run(&of_ipv6), 0);
        of_ipv6[20..22].copy_from_slice(&[0xfe, 0x80]);
        assert_eq!(run(&of_ipv6), 1);
        let program = loaded.program("assign_none").unwrap();
        let TestRunResult {
            retval, ctx_out, ..
        } = program.test_run_with(&with_context(&of_ipv6)).unwrap();
        assert_eq!((retval, ctx_out), (1, of_ipv6));
    }
}

#[test]
fn a_filter_reads_where_the_packet_is() {
    for engine in ENGINES {
        let (_system, loaded) = load("filter", engine);
        let program = loaded.program("udp_only").unwrap();
        let (_, seen) = loaded
            .maps()
            .find(|(name, _)| name.ends_with(".bss"))
            .unwrap();
        let run = |data: &[u8], state: &[u8]| {
            let run = TestRun {
                ctx_in: state.to_owned(),
                ..TestRun::packet(data)
            };
            let retval = program.test_run_with(&run).map(|result| result.retval);
            let mut value = vec![0; seen.map().sys_value_bytes()];
            seen.map()
                .sys_lookup(Access::ReadOnly, &0u32.to_ne_bytes(), &mut value, 0)
                .unwrap();
            let mut words: Vec<u32> = value
                .chunks_exact(4)
                .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
                .collect();
            words.sort_unstable();
            (retval.map_err(|error| error.errno), words)
        };
        let frame = bytes(UDP);
        // hook 3, family 2, 46 bytes, IPv4 in network order, no device.
        let packet = &frame[14..];
        let len = packet.len() as u32;
        assert_eq!(run(packet, &[]), (Ok(1), vec![0, 2, 3, 8, len]));
        // A frame that came in on `lo`, behind its link header.
        assert_eq!(run(&frame, &[1, 2]), (Ok(1), vec![1, 1, 2, 8, len]));
        let mut tcp = frame.clone();
        tcp[23] = 6;
        assert_eq!(run(&tcp, &[1, 2]).0, Ok(0));
        assert_eq!(run(&frame, &[1, 10]).0, Err(Errno::EINVAL));
        assert_eq!(run(&frame, &[1, 7]).0, Err(Errno::EINVAL));
        assert_eq!(run(&packet[..19], &[]).0, Err(Errno::EINVAL));
        tcp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(run(&tcp, &[1, 2]).0, Err(Errno::EPROTO));
    }
}

/// Sockets with mark 7 connect to nobody; port 80 is 8080 at 127.0.0.1, if the socket uses "cubic".
const REDIRECT: &str = "
        r6 = r1
        r2 = 1
        r3 = 36
        r4 = r10
        r4 += -16
        r5 = 4
        call bpf_getsockopt
        if r0 != 0 goto no
        r1 = *(u32 *)(r10 -16)
        if r1 == 7 goto no
        r1 = *(u32 *)(r6 +24)
        if r1 != 0x5000 goto yes
        r1 = r6
        r2 = 6
        r3 = 13
        r4 = r10
        r4 += -16
        r5 = 16
        call bpf_getsockopt
        if r0 != 0 goto yes
        r1 = *(u64 *)(r10 -16)
        r2 = 0x6369627563 ll
        if r1 != r2 goto yes
        r1 = 0x901f
        *(u32 *)(r6 +24) = r1
        r1 = 0x0100007f
        *(u32 *)(r6 +4) = r1
yes:    r0 = 1
        exit
no:     r0 = 0
        exit";

#[test]
fn a_connection_is_refused_or_goes_elsewhere() {
    let insns = parse_asm(REDIRECT, &HelperNames).unwrap().insns;
    for engine in ENGINES {
        let system = ring3::system();
        let mut attr = ProgAttr::new(ProgType::CgroupSockAddr, insns.clone());
        attr.expected_attach_type = AttachType::CgroupInet4Connect.raw();
        attr.engine = engine;
        let program = Program::load(&system, attr).unwrap_or_else(|error| panic!("{error}"));
        let there = ([10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 80);
        let connect = |mark: u32, algorithm: &str, port: u16| {
            let spec = SockSpec::tcp(
                sock_family::INET,
                sock_state::CLOSE,
                Default::default(),
                Default::default(),
            );
            let congestion = SockOption {
                level: 6,
                name: 13,
                value: SockOptionValue::Text(algorithm.into()),
            };
            let mut call = SockAddrCall {
                sock: Sock::new(SockSpec {
                    mark,
                    options: vec![congestion],
                    ..spec
                }),
                address: (there.0, port),
                source: [0; 16],
            };
            let verdict = run_sock_addr(&*program, &mut call).unwrap();
            assert!(!verdict.skips_port_capability);
            (verdict.errno, call.address.0[..4].to_vec(), call.address.1)
        };
        assert_eq!(connect(0, "cubic", 80), (0, vec![127, 0, 0, 1], 8080));
        assert_eq!(connect(0, "reno", 80), (0, vec![10, 0, 0, 9], 80));
        assert_eq!(connect(0, "cubic", 81), (0, vec![10, 0, 0, 9], 81));
        let refused = Errno::EPERM.negated() as i32;
        assert_eq!(connect(7, "cubic", 80), (refused, vec![10, 0, 0, 9], 80));
        let local = SockSpec {
            family: sock_family::UNIX,
            ..SockSpec::default()
        };
        let mut call = SockAddrCall {
            sock: Sock::new(local),
            address: there,
            source: [0; 16],
        };
        let error = run_sock_addr(&*program, &mut call).unwrap_err();
        assert_eq!(error, Errno::EAFNOSUPPORT);
    }
}
