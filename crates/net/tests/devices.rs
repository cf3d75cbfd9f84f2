//! Packets through devices: who runs when, where chains stop, where redirects lead, what links do.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ring3_isa::RawInsn;
use ring3_maps::{Access, MapAttr, MapType};
use ring3_mprog::Anchor;
use ring3_net::{
    Device, DeviceSpec, Direction, Exit, LIVE_FRAMES, Net, PacketPath,
    clsact::{FilterAction, FilterSpec, act},
    simulate,
};
use ring3_objects::{LinkDetail, MapObject, ProgAttr, Program, System, TestRun};
use ring3_runtime::ProgObject;
use ring3_uapi::{Errno, ProgType, flags::prog_load};

const FRAME: [u8; 64] = {
    let mut frame = [0; 64];
    frame[12] = 8;
    frame[14] = 0x45;
    frame
};

fn load(system: &Arc<System>, prog_type: ProgType, name: &str, slots: &[[u8; 8]]) -> Arc<Program> {
    let insns = slots
        .iter()
        .map(|slot| RawInsn::from_bytes(*slot))
        .collect();
    let mut attr = ProgAttr::new(prog_type, insns);
    attr.name = name.to_owned();
    Program::load(system, attr).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const fn mov(reg: u8, imm: i32) -> [u8; 8] {
    let [a, b, c, d] = imm.to_le_bytes();
    [0xb7, reg, 0, 0, a, b, c, d]
}

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// A program that always returns this.
fn returns(system: &Arc<System>, prog_type: ProgType, name: &str, value: i32) -> Arc<Program> {
    load(system, prog_type, name, &[mov(0, value), EXIT])
}

/// A classifier that counts its runs in `mark` and returns this.
fn marks(system: &Arc<System>, name: &str, value: i32) -> Arc<Program> {
    let slots = [
        [0x61, 0x12, 8, 0, 0, 0, 0, 0],
        [0x07, 0x02, 0, 0, 1, 0, 0, 0],
        [0x63, 0x21, 8, 0, 0, 0, 0, 0],
        mov(0, value),
        EXIT,
    ];
    load(system, ProgType::SchedCls, name, &slots)
}

/// `return bpf_redirect(ifindex, flags)`, or another redirect helper.
fn redirects(
    system: &Arc<System>,
    prog_type: ProgType,
    helper: u8,
    ifindex: u32,
    flags: i32,
) -> Arc<Program> {
    let slots = [
        mov(1, ifindex as i32),
        mov(2, flags),
        [0x85, 0, 0, 0, helper, 0, 0, 0],
        EXIT,
    ];
    load(system, prog_type, "redirect", &slots)
}

type Exits = Arc<Mutex<Vec<(Exit, String, usize)>>>;

fn world() -> (Arc<System>, Net, PacketPath, Exits) {
    let system = System::new();
    ring3_net::register(&system);
    let net = Net::new(&system);
    let exits = Exits::default();
    let seen = Arc::clone(&exits);
    let path = PacketPath::new(&net).with_sink(Box::new(move |exit, device, frame| {
        seen.lock()
            .unwrap()
            .push((exit, device.name().to_owned(), frame.len()));
    }));
    (system, net, path, exits)
}

fn filter(is_direct: bool) -> FilterSpec {
    FilterSpec {
        priority: None,
        handle: None,
        protocol: None,
        is_direct,
        classid: 0,
        label: "test".to_owned(),
        actions: Vec::new(),
    }
}

#[test]
fn a_chain_runs_in_order_and_stops_where_a_program_decides() {
    let (system, net, mut path, exits) = world();
    let eth = net.add_device("eth0").unwrap();
    let next = marks(&system, "next", -1);
    let pass = marks(&system, "pass", 0);
    let late = marks(&system, "late", 2);
    let ingress = Direction::Ingress;
    net.attach_tcx(&eth, ingress, &late, &Anchor::none(), None)
        .unwrap();
    net.attach_tcx(&eth, ingress, &pass, &Anchor::first(), None)
        .unwrap();
    net.attach_tcx(&eth, ingress, &next, &Anchor::first(), Some(3))
        .unwrap();
    path.inject(&eth, &FRAME).unwrap();
    let slots = eth.tcx(ingress).slots();
    let did: Vec<_> = slots
        .iter()
        .map(|slot| (slot.prog.name(), slot.counts.runs(), slot.counts.stops()))
        .collect();
    assert_eq!(did, [("next", 1, 0), ("pass", 1, 1), ("late", 0, 0)]);
    assert_eq!(
        *exits.lock().unwrap(),
        [(Exit::Stack, "eth0".to_owned(), 64)]
    );
    eth.tcx(ingress)
        .detach(Some(&pass), None, &Anchor::none(), None)
        .unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().ingress_drop, 1);
    assert_eq!(eth.stats().to_stack, 1);
}

#[test]
fn undecided_packets_go_to_the_classifier() {
    let (system, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    let next = returns(&system, ProgType::SchedCls, "next", -1);
    net.attach_tcx(&eth, Direction::Ingress, &next, &Anchor::none(), None)
        .unwrap();
    let clsact = eth.clsact(Direction::Ingress);
    let drop = returns(&system, ProgType::SchedCls, "drop", act::SHOT);
    let no_match = returns(&system, ProgType::SchedCls, "no_match", 0);
    assert_eq!(clsact.add(&drop, filter(true)).unwrap(), (49152, 1));
    // A further filter without a priority comes before; 0 is no match, not a verdict.
    assert_eq!(clsact.add(&no_match, filter(false)).unwrap(), (49151, 1));
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().ingress_drop, 1);
    assert_eq!(clsact.filters()[0].counts.runs(), 1);
    // A filter for another protocol is passed by.
    clsact.remove(Some(49152), None).unwrap();
    let other = FilterSpec {
        protocol: Some([0x86, 0xdd]),
        ..filter(true)
    };
    clsact.add(&drop, other).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().to_stack, 1);
}

#[test]
fn actions_decide_what_matched() {
    let (system, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    let matched = returns(&system, ProgType::SchedCls, "matched", -1);
    let with = |actions: Vec<FilterAction>| FilterSpec {
        actions,
        priority: Some(10),
        ..filter(false)
    };
    let clsact = eth.clsact(Direction::Ingress);
    let mut dropped_after = |actions: Vec<FilterAction>| {
        clsact.remove(None, None).unwrap();
        clsact.add(&matched, with(actions)).unwrap();
        let before = eth.stats().ingress_drop;
        path.inject(&eth, &FRAME).unwrap();
        eth.stats().ingress_drop - before
    };
    let program = |value| FilterAction::Bpf {
        prog: returns(&system, ProgType::SchedAct, "action", value),
        label: String::new(),
        default: act::SHOT,
        counts: Arc::default(),
    };
    assert_eq!(dropped_after(vec![]), 0);
    assert_eq!(dropped_after(vec![FilterAction::Fixed(act::SHOT)]), 1);
    assert_eq!(
        dropped_after(vec![
            FilterAction::Fixed(act::PIPE),
            FilterAction::Fixed(act::SHOT)
        ]),
        1
    );
    assert_eq!(
        dropped_after(vec![
            FilterAction::Fixed(act::OK),
            FilterAction::Fixed(act::SHOT)
        ]),
        0
    );
    assert_eq!(dropped_after(vec![program(-1)]), 1);
    assert_eq!(dropped_after(vec![program(0)]), 0);
    // Classified again and again: dropped in the end, not forever.
    assert_eq!(dropped_after(vec![FilterAction::Fixed(act::RECLASSIFY)]), 1);
    // Not a verdict of a matched filter: on to the next, and there is none.
    assert_eq!(dropped_after(vec![FilterAction::Fixed(act::UNSPEC)]), 0);
}

#[test]
fn xdp_comes_first_and_its_verdicts_hold() {
    let (system, net, mut path, exits) = world();
    let eth = net.add_device("eth0").unwrap();
    let out = net.add_device("out").unwrap();
    let drop = returns(&system, ProgType::SchedCls, "drop", act::SHOT);
    net.attach_tcx(&out, Direction::Egress, &drop, &Anchor::none(), None)
        .unwrap();
    for (value, what) in [
        (0, "aborted"),
        (1, "drop"),
        (2, "pass"),
        (3, "tx"),
        (77, "aborted"),
    ] {
        let prog = returns(&system, ProgType::Xdp, what, value);
        net.set_xdp(&eth, Some(&prog)).unwrap();
        path.inject(&eth, &FRAME).unwrap();
    }
    let stats = eth.stats();
    assert_eq!(
        (
            stats.xdp_aborted,
            stats.xdp_drop,
            stats.xdp_tx,
            stats.to_stack
        ),
        (2, 1, 1, 1)
    );
    // An XDP redirect leaves past the egress hooks of the target.
    let redirect = redirects(&system, ProgType::Xdp, 23, out.ifindex(), 0);
    net.set_xdp(&eth, Some(&redirect)).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(out.stats().tx_packets, 1);
    assert_eq!(
        exits.lock().unwrap().last().unwrap(),
        &(Exit::Sent, "out".to_owned(), 64)
    );
    let nowhere = redirects(&system, ProgType::Xdp, 23, 99, 0);
    net.set_xdp(&eth, Some(&nowhere)).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().redirect_failed, 1);
}

#[test]
fn a_redirect_goes_on_at_the_other_device() {
    let (system, net, mut path, exits) = world();
    let eth = net.add_device("eth0").unwrap();
    let (a, b) = (net.add_device("a").unwrap(), net.add_device("b").unwrap());
    net.join(&a, &b);
    let attach = |device: &Device, prog: &Arc<Program>| {
        device
            .tcx(Direction::Ingress)
            .attach(prog, None, &Anchor::none(), None)
            .unwrap();
    };
    // Out of a: its peer receives it.
    let to_a = redirects(&system, ProgType::SchedCls, 23, a.ifindex(), 0);
    attach(&eth, &to_a);
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(
        (
            a.stats().tx_packets,
            b.stats().rx_packets,
            b.stats().to_stack
        ),
        (1, 1, 1)
    );
    // Into the peer of a at once.
    eth.tcx(Direction::Ingress)
        .detach(None, None, &Anchor::none(), None)
        .unwrap();
    attach(
        &eth,
        &redirects(&system, ProgType::SchedCls, 155, a.ifindex(), 0),
    );
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!((a.stats().tx_packets, b.stats().to_stack), (1, 2));
    // Round and round: dropped after some turns.
    attach(
        &b,
        &redirects(&system, ProgType::SchedCls, 23, b.ifindex(), 1),
    );
    path.inject(&b, &FRAME).unwrap();
    assert_eq!(b.stats().redirect_failed, 1);
    let stacks = exits
        .lock()
        .unwrap()
        .iter()
        .filter(|(exit, ..)| *exit == Exit::Stack)
        .count();
    assert_eq!(stacks, 2);
}

#[test]
fn the_last_reference_of_a_link_detaches() {
    let (system, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    let drop_all = returns(&system, ProgType::SchedCls, "drop", act::SHOT);
    let pass = returns(&system, ProgType::SchedCls, "pass", 0);
    let link = net
        .link_tcx(&eth, Direction::Ingress, &drop_all, &Anchor::none(), None)
        .unwrap();
    assert_eq!(
        system.link_by_id(link.id()).unwrap().info().prog_id,
        drop_all.id()
    );
    let attach_type = ring3_uapi::AttachType::TcxIngress.raw();
    let ifindex = eth.ifindex();
    assert_eq!(
        link.info().detail,
        LinkDetail::Tcx {
            ifindex,
            attach_type
        }
    );
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().ingress_drop, 1);
    assert_eq!(
        link.update(&pass, Some(&pass)).unwrap_err().errno,
        Errno::EPERM
    );
    link.update(&pass, Some(&drop_all)).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().to_stack, 1);
    let by_place = eth
        .tcx(Direction::Ingress)
        .detach(None, None, &Anchor::none(), None);
    assert_eq!(by_place.unwrap_err().errno, Errno::EBUSY);
    let id = link.id();
    drop(link);
    assert!(eth.tcx(Direction::Ingress).slots().is_empty());
    assert!(system.link_by_id(id).is_none());
}

#[test]
fn links_outlive_their_device_without_a_hook() {
    let (system, net, _, _) = world();
    let eth = net.add_device("eth0").unwrap();
    let pass = returns(&system, ProgType::SchedCls, "pass", 0);
    let xdp = returns(&system, ProgType::Xdp, "xdp", 2);
    let tcx_link = net
        .link_tcx(&eth, Direction::Egress, &pass, &Anchor::none(), None)
        .unwrap();
    let xdp_link = net.link_xdp(&eth, &xdp).unwrap();
    assert_eq!(net.set_xdp(&eth, None).unwrap_err().errno, Errno::EBUSY);
    assert_eq!(net.link_xdp(&eth, &xdp).err().unwrap().errno, Errno::EBUSY);
    net.remove_device(eth.ifindex()).unwrap();
    for link in [&tcx_link, &xdp_link] {
        assert!(!link.is_attached());
        assert_eq!(link.info().detail.to_bytes()[..4], [0; 4]);
        assert_eq!(link.update(&pass, None).unwrap_err().errno, Errno::ENOLINK);
    }
    assert_eq!(
        net.device_by_name("eth0").err().unwrap().errno,
        Errno::ENODEV
    );
}

#[test]
fn device_maps_lose_a_device_that_goes() {
    let (system, net, _, _) = world();
    let (gone, kept) = (
        net.add_device("eth0").unwrap(),
        net.add_device("eth1").unwrap(),
    );
    for map_type in [MapType::Devmap, MapType::DevmapHash] {
        let attr = MapAttr::new(map_type, 4, 4, 8);
        let map = MapObject::create(&system, &attr, None, None).unwrap();
        for (key, device) in [(1u32, &gone), (2, &kept)] {
            let ifindex = device.ifindex().to_ne_bytes();
            map.map()
                .sys_update(Access::ReadWrite, &key.to_ne_bytes(), &ifindex, 0, &net)
                .unwrap();
        }
        let lookup = |key: u32| {
            let mut ifindex = [0; 4];
            map.map()
                .sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut ifindex, 0)
                .map(|()| u32::from_ne_bytes(ifindex))
        };
        assert_eq!(
            [lookup(1), lookup(2)],
            [Ok(gone.ifindex()), Ok(kept.ifindex())]
        );
        net.remove_device(gone.ifindex()).unwrap();
        assert_eq!(
            [lookup(1), lookup(2)],
            [Err(Errno::ENOENT), Ok(kept.ifindex())]
        );
        let spec = DeviceSpec {
            ifindex: Some(gone.ifindex()),
            ..DeviceSpec::new("eth0")
        };
        net.add_device_with(&spec).unwrap();
    }
}

#[test]
fn no_packet_sees_a_mixed_array_while_two_threads_edit() {
    const PACKETS: u64 = 20_000;
    const EDITS: u64 = 2_000;
    let (system, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    // Behind the hook everything is dropped: a packet reaches the stack only if exactly the replaced program ran.
    let drop_all = returns(&system, ProgType::SchedCls, "drop", act::SHOT);
    eth.clsact(Direction::Ingress)
        .add(&drop_all, filter(true))
        .unwrap();
    let passes = [0, 1].map(|_| returns(&system, ProgType::SchedCls, "pass", 0));
    let next = returns(&system, ProgType::SchedCls, "next", -1);
    let hook = eth.tcx(Direction::Ingress);
    hook.attach(&passes[0], None, &Anchor::none(), None)
        .unwrap();
    let is_done = AtomicBool::new(false);
    let edits = AtomicU64::new(0);
    let mut packets = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut current = 0;
            while !is_done.load(Ordering::Relaxed) {
                let old = ring3_mprog::Entry {
                    prog: ring3_net::Held(Arc::clone(&passes[current])),
                    link: None,
                };
                current = 1 - current;
                hook.attach(&passes[current], None, &Anchor::replacing(old), None)
                    .unwrap();
                edits.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                hook.attach(&next, None, &Anchor::first(), None).unwrap();
                hook.detach(Some(&next), None, &Anchor::none(), None)
                    .unwrap();
                edits.fetch_add(2, Ordering::Relaxed);
            }
        });
        while packets < PACKETS || edits.load(Ordering::Relaxed) < EDITS {
            path.inject(&eth, &FRAME).unwrap();
            packets += 1;
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(eth.stats().to_stack, packets);
}

/// `*(u32 *)(fp + off) = imm`
const fn store32(off: i16, imm: i32) -> [u8; 8] {
    let ([a, b, c, d], [low, high]) = (imm.to_le_bytes(), off.to_le_bytes());
    [0x62, 10, low, high, a, b, c, d]
}

const fn call(helper: u8) -> [u8; 8] {
    [0x85, 0, 0, 0, helper, 0, 0, 0]
}

/// `r = fp + off`
const fn stack_address(reg: u8, off: i32) -> [[u8; 8]; 2] {
    let [a, b, c, d] = off.to_le_bytes();
    [
        [0xbf, 0xa0 | reg, 0, 0, 0, 0, 0, 0],
        [0x07, reg, 0, 0, a, b, c, d],
    ]
}

#[test]
fn routes_answer_fib_lookups() {
    let (system, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    let out = net.add_device("out").unwrap();
    let address = |bytes: [u8; 4]| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&bytes);
        address
    };
    let route = |prefix, prefix_bits, kind| ring3_net::Route {
        is_ipv6: false,
        prefix: address(prefix),
        prefix_bits,
        kind,
        ifindex: out.ifindex(),
        gateway: None,
        metric: 0,
    };
    use ring3_net::RouteKind::{Blackhole, Unicast};
    net.add_route(route([10, 0, 0, 0], 8, Unicast)).unwrap();
    net.add_route(route([10, 1, 0, 0], 16, Blackhole)).unwrap();
    net.add_neighbour(out.ifindex(), address([10, 0, 0, 1]), [2, 0, 0, 0, 0, 1]);
    // A filter that is not direct: its program's result matches unless it is 0, and what matches is dropped.
    let mut lookup = |destination: [u8; 4]| {
        let params = |at: i16| -64 + at;
        let mut slots = vec![[0xbf, 0x16, 0, 0, 0, 0, 0, 0]];
        slots.extend((0..16).map(|word| store32(params(word * 4), 0)));
        slots.push(store32(params(0), 2));
        slots.push(store32(params(8), eth.ifindex() as i32));
        slots.push(store32(params(32), i32::from_le_bytes(destination)));
        slots.push([0xbf, 0x61, 0, 0, 0, 0, 0, 0]);
        slots.extend(stack_address(2, -64));
        slots.extend([mov(3, 64), mov(4, 0), call(69)]);
        slots.push(EXIT);
        let prog = load(&system, ProgType::SchedCls, "fib", &slots);
        let hook = eth.clsact(Direction::Ingress);
        hook.remove(None, None).unwrap();
        let matched = FilterSpec {
            actions: vec![FilterAction::Fixed(act::SHOT)],
            ..filter(false)
        };
        hook.add(&prog, matched).unwrap();
        let before = eth.stats().ingress_drop;
        path.inject(&eth, &FRAME).unwrap();
        eth.stats().ingress_drop != before
    };
    assert!(!lookup([10, 0, 0, 1]), "found, with a neighbour: 0");
    assert!(lookup([10, 0, 0, 2]), "no neighbour: 7");
    assert!(lookup([10, 1, 0, 1]), "blackhole: 1");
    assert!(lookup([11, 0, 0, 1]), "no route: 4");
}

#[test]
fn neighbours_and_clones_leave_through_the_egress_hooks() {
    let (system, net, mut path, exits) = world();
    let eth = net.add_device("eth0").unwrap();
    let out = net.add_device("out").unwrap();
    let ingress = eth.tcx(Direction::Ingress);
    // bpf_redirect_neigh(out, NULL, 0, 0) to 0.0.0.0 of the frame, first without a neighbour.
    let slots = [
        mov(1, out.ifindex() as i32),
        mov(2, 0),
        mov(3, 0),
        mov(4, 0),
        call(152),
        EXIT,
    ];
    let neigh = load(&system, ProgType::SchedCls, "neigh", &slots);
    ingress.attach(&neigh, None, &Anchor::none(), None).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(eth.stats().redirect_failed, 1);
    net.add_route(ring3_net::Route {
        is_ipv6: false,
        prefix: [0; 16],
        prefix_bits: 0,
        kind: ring3_net::RouteKind::Unicast,
        ifindex: out.ifindex(),
        gateway: None,
        metric: 0,
    })
    .unwrap();
    net.add_neighbour(out.ifindex(), [0; 16], [2, 0, 0, 0, 0, 9]);
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(out.stats().tx_packets, 1);
    // bpf_clone_redirect(skb, out, 0): the copy leaves, the packet goes on.
    ingress.detach(None, None, &Anchor::none(), None).unwrap();
    let slots = [mov(2, out.ifindex() as i32), mov(3, 0), call(13), EXIT];
    let clone = load(&system, ProgType::SchedCls, "clone", &slots);
    ingress.attach(&clone, None, &Anchor::none(), None).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!((out.stats().tx_packets, eth.stats().to_stack), (2, 1));
    let left: Vec<_> = exits
        .lock()
        .unwrap()
        .iter()
        .map(|(exit, name, _)| (*exit, name.clone()))
        .collect();
    assert_eq!(
        left[1..],
        [
            (Exit::Stack, "eth0".to_owned()),
            (Exit::Sent, "out".to_owned())
        ]
    );
}

#[test]
fn device_maps_send_to_one_or_to_all() {
    let (system, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    let outs = ["a", "b"].map(|name| net.add_device(name).unwrap());
    let attr = ring3_maps::MapAttr::new(ring3_uapi::MapType::Devmap, 4, 4, 4);
    let map = MapObject::create(&system, &attr, None, None).unwrap();
    let access = ring3_maps::Access::ReadWrite;
    for (key, out) in (1u32..).zip(&outs) {
        let value = out.ifindex().to_ne_bytes();
        map.map()
            .sys_update(access, &key.to_ne_bytes(), &value, 0, &net)
            .unwrap();
    }
    let missing = map
        .map()
        .sys_update(access, &0u32.to_ne_bytes(), &77u32.to_ne_bytes(), 0, &net);
    assert_eq!(missing, Err(Errno::EINVAL));
    let redirect = |key: i32, flags: i32| {
        let slots = [
            [0x18, 0x11, 0, 0, 5, 0, 0, 0],
            [0; 8],
            mov(2, key),
            mov(3, flags),
            call(51),
            EXIT,
        ];
        let insns = slots
            .iter()
            .map(|slot| RawInsn::from_bytes(*slot))
            .collect();
        let mut attr = ProgAttr::new(ProgType::Xdp, insns);
        attr.maps.insert(5, Arc::clone(&map));
        Program::load(&system, attr).unwrap_or_else(|error| panic!("{error}"))
    };
    let mut run = |key, flags| {
        net.set_xdp(&eth, Some(&redirect(key, flags))).unwrap();
        path.inject(&eth, &FRAME).unwrap();
        [&outs[0], &outs[1], &eth]
            .map(|device| (device.stats().tx_packets, device.stats().to_stack))
    };
    assert_eq!(run(2, 0), [(0, 0), (1, 0), (0, 0)]);
    assert_eq!(run(0, 8), [(1, 0), (2, 0), (0, 0)], "BPF_F_BROADCAST");
    // An empty slot: what the low bits of the flags say, XDP_PASS.
    assert_eq!(run(3, 2), [(1, 0), (2, 0), (0, 1)]);
    assert_eq!(run(1, 64), [(1, 0), (2, 0), (0, 1)], "unknown flags abort");
    assert_eq!(eth.stats().xdp_aborted, 1);
}

#[test]
fn a_long_frame_comes_in_fragments_to_programs_that_take_them() {
    let (system, net, mut path, exits) = world();
    let eth = net
        .add_device_with(&DeviceSpec {
            mtu: 9000,
            ..DeviceSpec::new("eth0")
        })
        .unwrap();
    // r0 = data_end - data < 3521 ? XDP_TX : XDP_PASS
    let slots = [
        [0x61, 0x12, 0, 0, 0, 0, 0, 0],
        [0x61, 0x13, 4, 0, 0, 0, 0, 0],
        [0xbf, 0x37, 0, 0, 0, 0, 0, 0],
        [0x1f, 0x27, 0, 0, 0, 0, 0, 0],
        mov(0, 3),
        [0xa5, 0x07, 1, 0, 0xc1, 0x0d, 0, 0],
        mov(0, 2),
        EXIT,
    ];
    let insns: Vec<_> = slots
        .iter()
        .map(|slot| RawInsn::from_bytes(*slot))
        .collect();
    let frame: Vec<u8> = (0..8000u32)
        .map(|at| if at == 12 { 8 } else { at as u8 })
        .collect();
    for (flags, to_stack) in [(prog_load::XDP_HAS_FRAGS, 0), (0, 1)] {
        let mut attr = ProgAttr::new(ProgType::Xdp, insns.clone());
        attr.flags = flags;
        let prog = Program::load(&system, attr).unwrap_or_else(|error| panic!("{error}"));
        net.set_xdp(&eth, Some(&prog)).unwrap();
        path.inject(&eth, &frame).unwrap();
        assert_eq!((eth.stats().xdp_tx, eth.stats().to_stack), (1, to_stack));
    }
    let lengths: Vec<usize> = exits.lock().unwrap().iter().map(|(.., len)| *len).collect();
    assert_eq!(lengths, [8000, 8000]);
}

#[test]
fn short_frames_are_refused() {
    let (_, net, mut path, _) = world();
    let eth = net.add_device("eth0").unwrap();
    assert_eq!(
        path.inject(&eth, &FRAME[..13]).unwrap_err().errno,
        Errno::EINVAL
    );
    assert!(simulate("x").is_err());
}

#[test]
fn live_test_runs_do_what_the_verdicts_say() {
    let (system, net, mut path, exits) = world();
    let eth = net.add_device("eth0").unwrap();
    let out = net.add_device("out0").unwrap();
    let mut ctx = [0; 24];
    ctx[4..8].copy_from_slice(&64u32.to_ne_bytes());
    ctx[12..16].copy_from_slice(&eth.ifindex().to_ne_bytes());
    let run = TestRun {
        data_in: FRAME.to_vec(),
        ctx_in: ctx.to_vec(),
        repeat: 3,
        flags: LIVE_FRAMES,
        ..TestRun::default()
    };
    let redirect = redirects(&system, ProgType::Xdp, 23, out.ifindex(), 0);
    let verdict = |value| load(&system, ProgType::Xdp, "verdict", &[mov(0, value), EXIT]);
    for (prog, expected) in [
        (verdict(1), None),
        (verdict(2), Some((Exit::Stack, "eth0"))),
        (verdict(3), Some((Exit::Sent, "eth0"))),
        (redirect, Some((Exit::Sent, "out0"))),
    ] {
        let result = net.run_live(&mut path, &prog, &run).unwrap();
        assert_eq!((result.retval, &result.data_out[..]), (0, &FRAME[..]));
        let seen: Vec<_> = exits.lock().unwrap().drain(..).collect();
        let expected = expected.map(|(exit, name)| (exit, name.to_owned(), 64));
        assert_eq!(
            seen,
            vec![expected; 3].into_iter().flatten().collect::<Vec<_>>()
        );
    }
    assert_eq!((eth.stats().xdp_drop, eth.stats().rx_packets), (3, 0));
    let gone = TestRun {
        ctx_in: [&ctx[..12], &99u32.to_ne_bytes(), &ctx[16..]].concat(),
        ..run
    };
    let error = net.run_live(&mut path, &verdict(1), &gone).unwrap_err();
    assert_eq!(error.errno, Errno::ENODEV);
}
