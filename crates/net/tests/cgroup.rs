//! Programs of cgroups: which rules allow what, what runs in which order; and sockets with filters.

use std::sync::Arc;

use ring3_isa::RawInsn;
use ring3_net::{Cgroup, CgroupAttach, CgroupPlace, Direction, Net, PacketPath};
use ring3_objects::{LinkDetail, ProgAttr, Program, System};
use ring3_uapi::{AttachType, Errno, ProgType, flags::mprog as bits};

const IN: Direction = Direction::Ingress;
const OVERRIDE: u32 = bits::ALLOW_OVERRIDE;
const MULTI: u32 = bits::ALLOW_MULTI;
const FRAME: [u8; 64] = {
    let mut frame = [0; 64];
    frame[12] = 8;
    frame[14] = 0x45;
    frame
};

struct World {
    system: Arc<System>,
    net: Net,
    /// `/`, `/a`, `/a/b`
    groups: [Arc<Cgroup>; 3],
}

fn world() -> World {
    let system = System::new();
    ring3_net::register(&system);
    let net = Net::new(&system);
    let root = Arc::clone(net.root_cgroup());
    let a = net.add_cgroup(&root, "a").unwrap();
    let b = net.add_cgroup(&a, "b").unwrap();
    assert_eq!(b.path(), "/a/b");
    World {
        system,
        net,
        groups: [root, a, b],
    }
}

impl World {
    fn load(&self, prog_type: ProgType, name: &str, slots: &[[u8; 8]]) -> Arc<Program> {
        let insns = slots
            .iter()
            .map(|slot| RawInsn::from_bytes(*slot))
            .collect();
        let mut attr = ProgAttr::new(prog_type, insns);
        attr.name = name.to_owned();
        Program::load(&self.system, attr).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn returns(&self, name: &str, value: u8) -> Arc<Program> {
        let slots = [[0xb7, 0, 0, 0, value, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        self.load(ProgType::CgroupSkb, name, &slots)
    }

    fn attach(&self, group: usize, prog: &Arc<Program>, flags: u32) -> Result<(), Errno> {
        self.attach_at(group, prog, flags, CgroupPlace::Last)
    }

    fn attach_at(
        &self,
        group: usize,
        prog: &Arc<Program>,
        flags: u32,
        place: CgroupPlace,
    ) -> Result<(), Errno> {
        let how = CgroupAttach {
            flags,
            place,
            expected_revision: None,
        };
        let result = self.groups[group].attach(IN, prog, None, &how);
        result.map_err(|error| error.errno)
    }

    /// Names of what runs for a group, in order.
    fn order(&self, group: usize) -> Vec<String> {
        let slots = self.groups[group].effective(IN);
        slots
            .iter()
            .map(|slot| slot.prog.name().to_owned())
            .collect()
    }
}

#[test]
fn without_flags_nobody_below_may_attach() {
    let world = world();
    let [p, q] = ["p", "q"].map(|name| world.returns(name, 1));
    assert_eq!(world.attach(1, &p, 0), Ok(()));
    assert_eq!(world.attach(2, &q, 0), Err(Errno::EPERM));
    assert_eq!(world.attach(2, &q, MULTI), Err(Errno::EPERM));
    assert_eq!(world.attach(0, &q, 0), Ok(()), "above it is free");
    assert_eq!(world.order(2), ["p"]);
    // The same rules replace it; others do not.
    assert_eq!(world.attach(1, &q, OVERRIDE), Err(Errno::EPERM));
    world.groups[0].detach(IN, None, None, None).unwrap();
    assert_eq!(world.attach(1, &q, 0), Ok(()));
    assert_eq!(world.order(1), ["q"]);
    // Whatever is named, the only one is meant; with the last one the rules are gone.
    world.groups[1].detach(IN, Some(&p), None, None).unwrap();
    let again = world.groups[1].detach(IN, Some(&p), None, None);
    assert_eq!(again.unwrap_err().errno, Errno::ENOENT);
    assert_eq!(world.attach(1, &q, MULTI), Ok(()));
}

#[test]
fn override_yields_to_what_is_below() {
    let world = world();
    let [p, q, r] = ["p", "q", "r"].map(|name| world.returns(name, 1));
    assert_eq!(world.attach(0, &p, OVERRIDE), Ok(()));
    assert_eq!(world.order(2), ["p"]);
    assert_eq!(world.attach(1, &q, OVERRIDE), Ok(()));
    assert_eq!(world.attach(2, &r, MULTI), Ok(()));
    assert_eq!(
        (world.order(0), world.order(1)),
        (vec!["p".to_owned()], vec!["q".to_owned()])
    );
    assert_eq!(world.order(2), ["r"]);
    world.groups[2].detach(IN, Some(&r), None, None).unwrap();
    assert_eq!(world.order(2), ["q"]);
}

#[test]
fn many_run_from_the_bottom_up_and_preorder_from_the_top_down() {
    let world = world();
    let progs = ["root", "rootpre", "a1", "a2", "apre", "b1"].map(|name| world.returns(name, 1));
    let [root, rootpre, a1, a2, apre, b1] = &progs;
    let pre = MULTI | bits::PREORDER;
    for (group, prog, flags) in [
        (0, root, MULTI),
        (0, rootpre, pre),
        (1, a1, MULTI),
        (1, apre, pre),
        (1, a2, MULTI),
        (2, b1, MULTI),
    ] {
        assert_eq!(world.attach(group, prog, flags), Ok(()));
    }
    assert_eq!(
        world.order(2),
        ["rootpre", "apre", "b1", "a1", "a2", "root"]
    );
    // Places, and what does not go together.
    let first = world.returns("first", 1);
    assert_eq!(
        world.attach_at(1, &first, MULTI, CgroupPlace::Before(Arc::clone(apre))),
        Err(Errno::EINVAL),
        "of the other order"
    );
    assert_eq!(
        world.attach_at(1, &first, MULTI, CgroupPlace::After(Arc::clone(a1))),
        Ok(())
    );
    assert_eq!(
        world.order(1),
        ["rootpre", "apre", "a1", "first", "a2", "root"]
    );
    assert_eq!(world.attach(1, a1, MULTI), Err(Errno::EINVAL), "twice");
    assert_eq!(world.attach(1, b1, MULTI | OVERRIDE), Err(Errno::EINVAL));
    assert_eq!(
        world.attach_at(2, a1, 0, CgroupPlace::Replace(Arc::clone(b1))),
        Err(Errno::EINVAL),
        "REPLACE needs ALLOW_MULTI"
    );
    assert_eq!(
        world.attach_at(2, a1, MULTI, CgroupPlace::Replace(Arc::clone(a2))),
        Err(Errno::ENOENT)
    );
    assert_eq!(
        world.attach_at(2, a1, MULTI, CgroupPlace::Replace(Arc::clone(b1))),
        Ok(())
    );
    assert_eq!(world.order(2)[2], "a1");
    let own = world.groups[1].query(IN, 0, Some(2)).unwrap();
    assert_eq!(
        (own.attach_flags, own.count, own.prog_ids.len(), own.error),
        (MULTI, 4, 2, Some(Errno::ENOSPC))
    );
    let effective = world.groups[1].query(IN, 1, Some(64)).unwrap();
    assert_eq!((effective.attach_flags, effective.count), (0, 6));
    assert_eq!(
        world.groups[1].query(IN, 2, None).unwrap_err().errno,
        Errno::EINVAL
    );
}

#[test]
fn sixty_four_fit_and_revisions_are_compared() {
    let world = world();
    let extra = world.returns("extra", 1);
    for _ in 0..64 {
        let prog = world.returns("p", 1);
        assert_eq!(world.attach(1, &prog, MULTI), Ok(()));
    }
    assert_eq!(world.attach(1, &extra, MULTI), Err(Errno::E2BIG));
    let how = CgroupAttach {
        flags: MULTI,
        expected_revision: Some(64),
        ..CgroupAttach::default()
    };
    let stale = world.groups[1].attach(IN, &extra, None, &how);
    assert_eq!(stale.unwrap_err().errno, Errno::ESTALE);
    assert_eq!(world.groups[1].query(IN, 0, None).unwrap().revision, 65);
}

#[test]
fn all_run_and_each_may_refuse() {
    let world = world();
    let eth = world.net.add_device("eth0").unwrap();
    let mut path = PacketPath::new(&world.net);
    let [refuses, allows] =
        [("refuses", 0), ("allows", 1)].map(|(name, value)| world.returns(name, value));
    assert_eq!(world.attach(1, &refuses, MULTI), Ok(()));
    assert_eq!(world.attach(0, &allows, MULTI), Ok(()));
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!(
        eth.stats().to_stack,
        1,
        "the root's packets are not those of /a"
    );
    path.set_cgroup(&world.groups[2]);
    path.inject(&eth, &FRAME).unwrap();
    assert_eq!((eth.stats().cgroup_drop, eth.stats().to_stack), (1, 1));
    assert_eq!(world.groups[0].effective(IN)[0].counts.runs(), 2);
}

#[test]
fn links_are_among_many_and_go_with_their_cgroup() {
    let world = world();
    let [p, q] = ["p", "q"].map(|name| world.returns(name, 1));
    let how = CgroupAttach::default();
    let link = world
        .net
        .link_cgroup(&world.groups[2], IN, &p, &how)
        .unwrap();
    let second = world
        .net
        .link_cgroup(&world.groups[2], IN, &p, &how)
        .unwrap();
    assert_eq!(world.order(2), ["p", "p"]);
    second.update(&q, Some(&p)).unwrap();
    assert_eq!(world.order(2), ["p", "q"]);
    drop(second);
    let attach_type = AttachType::CgroupInetIngress.raw();
    let cgroup_id = world.groups[2].id();
    assert_eq!(
        link.info().detail,
        LinkDetail::Cgroup {
            cgroup_id,
            attach_type
        }
    );
    let busy = world.net.remove_cgroup(&world.groups[1]);
    assert_eq!(busy.unwrap_err().errno, Errno::EBUSY);
    world.net.remove_cgroup(&world.groups[2]).unwrap();
    assert!(!link.is_attached());
    assert_eq!(world.order(2), Vec::<String>::new());
    assert!(
        world.net.add_cgroup(&world.groups[1], "b").is_ok(),
        "the name is free"
    );
}

#[test]
fn programs_see_the_cgroup_and_class_of_the_sender() {
    let world = world();
    let out = world.net.add_device("out").unwrap();
    // mark = helper(skb, level)
    let see = |helper: u8| {
        let slots = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
            [0xb7, 2, 0, 0, 1, 0, 0, 0],
            [0x85, 0, 0, 0, helper, 0, 0, 0],
            [0xb7, 1, 0, 0, 0, 0, 0, 0],
            [0x63, 0x06, 8, 0, 0, 0, 0, 0],
            [0xb7, 0, 0, 0, 2, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        world.load(ProgType::SchedCls, "see", &slots)
    };
    // Dropped unless the mark is the number expected: a second program compares.
    let expect = |number: u8| {
        let slots = [
            [0x61, 0x12, 8, 0, 0, 0, 0, 0],
            [0xb7, 0, 0, 0, 0, 0, 0, 0],
            [0x15, 2, 1, 0, number, 0, 0, 0],
            [0xb7, 0, 0, 0, 2, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        world.load(ProgType::SchedCls, "expect", &slots)
    };
    world.groups[2].set_classid(77);
    let ids = world.groups[2].ancestor_ids();
    let mut path = PacketPath::new(&world.net);
    path.set_cgroup(&world.groups[2]);
    let hook = out.tcx(Direction::Egress);
    let none = ring3_mprog::Anchor::none();
    for (helper, number) in [(79, ids[2] as u8), (83, ids[1] as u8), (17, 77)] {
        let see = {
            // TCX_NEXT in place of a drop, so that the second program runs.
            let prog = see(helper);
            let mut attr = prog.attr().clone();
            attr.insns[5].imm = -1;
            Program::load(&world.system, attr).unwrap()
        };
        let expect = expect(number);
        hook.attach(&see, None, &none, None).unwrap();
        hook.attach(&expect, None, &none, None).unwrap();
        path.send(&out, &FRAME).unwrap();
        assert_eq!(out.stats().egress_drop, 0, "helper {helper}");
        hook.detach(None, None, &none, None).unwrap();
        hook.detach(None, None, &none, None).unwrap();
    }
    assert_eq!(out.stats().tx_packets, 3);
}

#[test]
fn a_socket_filter_says_how_much_is_kept() {
    let world = world();
    let eth = world.net.add_device("eth0").unwrap();
    let other = world.net.add_device("eth1").unwrap();
    let socket = world.net.open_socket(Some(eth.ifindex())).unwrap();
    let mut path = PacketPath::new(&world.net);
    path.inject(&eth, &FRAME).unwrap();
    path.inject(&other, &FRAME).unwrap();
    assert_eq!(socket.receive(), Some(FRAME.to_vec()));
    assert_eq!(socket.receive(), None);
    // Keeps 20 bytes of IPv4 (by LD_ABS), nothing of others.
    let slots = [
        [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
        [0x28, 0, 0, 0, 12, 0, 0, 0],
        [0xbf, 0x01, 0, 0, 0, 0, 0, 0],
        [0xb7, 0, 0, 0, 0, 0, 0, 0],
        [0x55, 1, 1, 0, 0, 8, 0, 0],
        [0xb7, 0, 0, 0, 20, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let filter = world.load(ProgType::SocketFilter, "filter", &slots);
    let no_filter = world.returns("cgroup", 1);
    assert_eq!(
        socket.set_filter(Some(&no_filter)).unwrap_err().errno,
        Errno::EINVAL
    );
    socket.set_filter(Some(&filter)).unwrap();
    path.inject(&eth, &FRAME).unwrap();
    path.inject(&eth, &[0; 60]).unwrap();
    assert_eq!(socket.receive(), Some(FRAME[..20].to_vec()));
    assert_eq!(socket.receive(), None);
    let counts = socket.filter_counts().unwrap();
    assert_eq!((counts.runs(), counts.stops()), (2, 1));
    socket.set_filter(None).unwrap();
    assert_eq!(Arc::strong_count(&filter), 1);
    assert!(world.net.open_socket(Some(99)).is_err());
}
