//! Requests of bpf(2) to attach: what numbers and flags mean, in which order they are judged, what links tell and when they can be found.

use std::sync::{Arc, Weak};

use ring3_isa::RawInsn;
use ring3_net::{AttachRequest, CallerFds, Net, QueryRequest, Target};
use ring3_objects::{LinkDetail, LinkObject, ProgAttr, Program, System};
use ring3_runtime::ProgObject;
use ring3_uapi::{AttachType, Errno, ProgType, flags::mprog as bits};

const NO_DEVICE: u32 = 9999;

/// Descriptors: programs from 0, links from 100.
#[derive(Default)]
struct Fds {
    programs: Vec<Arc<Program>>,
    links: Vec<Arc<LinkObject>>,
}

impl CallerFds for Fds {
    fn program(&self, fd: u32) -> Result<Arc<Program>, Errno> {
        match self.programs.get(fd as usize) {
            Some(program) => Ok(Arc::clone(program)),
            None if self.link(fd).is_ok() => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    fn link(&self, fd: u32) -> Result<Arc<LinkObject>, Errno> {
        let at = (fd as usize).checked_sub(100).ok_or(Errno::EINVAL)?;
        self.links.get(at).cloned().ok_or(Errno::EBADF)
    }
}

struct World {
    system: Arc<System>,
    net: Net,
    ifindex: u32,
}

fn world() -> World {
    let system = System::new();
    let net = Net::new(&system);
    let ifindex = net.add_device("eth0").unwrap().ifindex();
    World {
        system,
        net,
        ifindex,
    }
}

impl World {
    fn program(&self, prog_type: ProgType) -> Arc<Program> {
        self.program_for(prog_type, 0)
    }

    fn program_for(&self, prog_type: ProgType, attach_type: u32) -> Arc<Program> {
        let slots = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let insns = slots.map(RawInsn::from_bytes).to_vec();
        let mut attr = ProgAttr::new(prog_type, insns);
        attr.expected_attach_type = attach_type;
        Program::load(&self.system, attr).unwrap()
    }

    fn request(&self, attach_type: AttachType) -> AttachRequest {
        AttachRequest::new(Target::Device(self.ifindex), attach_type)
    }

    fn query(&self, room: Option<u32>) -> ring3_net::QueryAnswer {
        self.net.prog_query(&query(self.ifindex, room)).unwrap()
    }
}

fn query(ifindex: u32, room: Option<u32>) -> QueryRequest {
    QueryRequest {
        target: Target::Device(ifindex),
        attach_type: AttachType::TcxIngress,
        query_flags: 0,
        attach_flags: 0,
        room,
    }
}

fn errno<T>(result: Result<T, ring3_objects::Error>) -> Errno {
    result.err().expect("refused").errno
}

#[test]
fn requests_place_programs_and_links_by_numbers() {
    let world = world();
    let [a, b, c] = [(); 3].map(|()| world.program(ProgType::SchedCls));
    let mut fds = Fds {
        programs: vec![a.clone(), b.clone()],
        ..Fds::default()
    };
    let tcx = world.request(AttachType::TcxIngress);
    world.net.prog_attach(&tcx, &a, &fds).unwrap();
    let before_a = AttachRequest {
        flags: bits::BEFORE | bits::ID,
        relative: a.id(),
        expected_revision: 2,
        ..tcx.clone()
    };
    assert_eq!(
        errno(world.net.link_create(
            &AttachRequest {
                expected_revision: 9,
                ..before_a.clone()
            },
            &b,
            &fds
        )),
        Errno::ESTALE
    );
    let link = world.net.link_create(&before_a, &b, &fds).unwrap();
    fds.links.push(link.clone());
    let after_link = AttachRequest {
        flags: bits::AFTER | bits::LINK,
        relative: 100,
        ..tcx.clone()
    };
    world.net.prog_attach(&after_link, &c, &fds).unwrap();
    let answer = world.query(Some(8));
    assert_eq!(answer.prog_ids, [b.id(), c.id(), a.id()]);
    assert_eq!(answer.link_ids, [link.id(), 0, 0]);
    assert_eq!((answer.revision, answer.count, answer.error), (4, 3, None));
    let short = world.query(Some(2));
    assert_eq!(short.prog_ids, [b.id(), c.id()]);
    assert_eq!((short.count, short.error), (3, Some(Errno::ENOSPC)));
    assert_eq!(
        (world.query(None).count, world.query(None).error),
        (3, None)
    );

    // In the place of another; then by position: the last, the first, and not a link's.
    let replace = AttachRequest {
        flags: bits::REPLACE,
        replace_fd: 0,
        ..tcx.clone()
    };
    let d = world.program(ProgType::SchedCls);
    world.net.prog_attach(&replace, &d, &fds).unwrap();
    world.net.prog_detach(&tcx, None, &fds).unwrap();
    assert_eq!(world.query(Some(8)).prog_ids, [b.id(), c.id()]);
    let first = AttachRequest {
        flags: bits::BEFORE,
        ..tcx.clone()
    };
    assert_eq!(
        errno(world.net.prog_detach(&first, None, &fds)),
        Errno::EBUSY
    );
    world.net.prog_detach(&tcx, Some(&c), &fds).unwrap();
    link.detach();
    assert_eq!(
        errno(world.net.prog_detach(&tcx, None, &fds)),
        Errno::ENOENT
    );
    assert_eq!(world.query(Some(8)).revision, 1);
}

#[test]
fn what_is_wrong_first_is_said_first() {
    let world = world();
    let (cls, xdp) = (
        world.program(ProgType::SchedCls),
        world.program(ProgType::Xdp),
    );
    let fds = Fds {
        programs: vec![cls.clone()],
        ..Fds::default()
    };
    let net = &world.net;
    let tcx = world.request(AttachType::TcxIngress);
    let nowhere = AttachRequest::new(Target::Device(NO_DEVICE), AttachType::TcxIngress);
    assert_eq!(errno(net.prog_attach(&nowhere, &xdp, &fds)), Errno::EINVAL);
    assert_eq!(errno(net.prog_attach(&nowhere, &cls, &fds)), Errno::ENODEV);
    assert_eq!(errno(net.link_create(&nowhere, &cls, &fds)), Errno::ENODEV);
    assert_eq!(errno(net.prog_detach(&nowhere, None, &fds)), Errno::ENODEV);
    for flags in [1, 2, 64, 1 << 20] {
        let request = AttachRequest {
            flags,
            ..nowhere.clone()
        };
        assert_eq!(errno(net.prog_attach(&request, &cls, &fds)), Errno::EINVAL);
        assert_eq!(errno(net.prog_detach(&request, None, &fds)), Errno::EINVAL);
    }
    let bad_replace = AttachRequest {
        flags: bits::REPLACE,
        replace_fd: 77,
        ..tcx.clone()
    };
    assert_eq!(
        errno(net.prog_attach(&bad_replace, &cls, &fds)),
        Errno::EBADF
    );
    assert_eq!(
        errno(net.prog_detach(&bad_replace, None, &fds)),
        Errno::ENOENT
    );
    for (query_flags, attach_flags) in [(1, 0), (0, 1)] {
        let request = QueryRequest {
            query_flags,
            attach_flags,
            ..query(world.ifindex, None)
        };
        assert_eq!(errno(net.prog_query(&request)), Errno::EINVAL);
    }
    let request = QueryRequest {
        query_flags: 1,
        ..query(NO_DEVICE, None)
    };
    assert_eq!(errno(net.prog_query(&request)), Errno::ENODEV);
    let other = world.request(AttachType::Netfilter);
    assert_eq!(errno(net.link_create(&other, &cls, &fds)), Errno::ENOTSUPP);
    // XDP is attached by links only, and a device that is not there is an invalid argument to it.
    let xdp_hook = world.request(AttachType::Xdp);
    assert_eq!(errno(net.prog_attach(&xdp_hook, &xdp, &fds)), Errno::EINVAL);
    let nowhere = AttachRequest::new(Target::Device(NO_DEVICE), AttachType::Xdp);
    assert_eq!(errno(net.link_create(&nowhere, &xdp, &fds)), Errno::EINVAL);
    for (flags, expected) in [
        (0, None),
        (2, None),
        (4, None),
        (6, Some(Errno::EINVAL)),
        (1, Some(Errno::EINVAL)),
    ] {
        let request = AttachRequest {
            flags,
            ..xdp_hook.clone()
        };
        assert_eq!(
            net.link_create(&request, &xdp, &fds)
                .err()
                .map(|error| error.errno),
            expected,
            "{flags}"
        );
    }
    let on_lo = AttachRequest {
        flags: 4,
        ..AttachRequest::new(Target::Device(1), AttachType::Xdp)
    };
    assert_eq!(
        errno(net.link_create(&on_lo, &xdp, &fds)),
        Errno::EOPNOTSUPP
    );
}

#[test]
fn a_link_is_found_only_once_it_is_attached_and_goes_with_its_last_reference() {
    let world = world();
    let fds = Fds::default();
    let xdp = world.program(ProgType::Xdp);
    let request = world.request(AttachType::Xdp);
    let link = world.net.link_create(&request, &xdp, &fds).unwrap();
    // The second is refused after it had an id: nobody can find it, nothing holds the program.
    let second = world.program(ProgType::Xdp);
    assert_eq!(
        errno(world.net.link_create(&request, &second, &fds)),
        Errno::EBUSY
    );
    assert_eq!(world.system.next_link_id(0), Some(link.id()));
    assert_eq!(world.system.next_link_id(link.id()), None);
    assert_eq!(Arc::strong_count(&second), 1);
    let info = link.info();
    assert_eq!(info.prog_id, xdp.id());
    assert_eq!(
        info.detail,
        LinkDetail::Xdp {
            ifindex: world.ifindex
        }
    );
    // Another expected attach type is another kind of program.
    let other = world.program_for(ProgType::Xdp, AttachType::Xdp.raw());
    assert_eq!(errno(link.update(&other, None)), Errno::EINVAL);
    assert_eq!(errno(link.update(&second, Some(&other))), Errno::EPERM);
    link.update(&second, Some(&xdp)).unwrap();
    let weak: Weak<Program> = Arc::downgrade(&xdp);
    drop(xdp);
    assert!(
        weak.upgrade().is_none(),
        "the hook let go of what was replaced"
    );
    let id = link.id();
    drop(link);
    assert!(world.system.link_by_id(id).is_none());
    let device = world.net.device(world.ifindex).unwrap();
    assert!(device.xdp().is_none());
}

#[test]
fn a_hook_lets_go_of_what_is_detached() {
    let world = world();
    let fds = Fds::default();
    let tcx = world.request(AttachType::TcxIngress);
    let [a, b] = [(); 2].map(|()| world.program(ProgType::SchedCls));
    world.net.prog_attach(&tcx, &a, &fds).unwrap();
    let link = world.net.link_create(&tcx, &b, &fds).unwrap();
    world.net.prog_detach(&tcx, Some(&a), &fds).unwrap();
    assert_eq!(Arc::strong_count(&a), 1);
    // With the device, the link is detached but stays an object that holds its program.
    world.net.remove_device(world.ifindex).unwrap();
    assert!(!link.is_attached());
    assert_eq!(Arc::strong_count(&b), 2);
    let attach_type = AttachType::TcxIngress.raw();
    assert_eq!(
        link.info().detail,
        LinkDetail::Tcx {
            ifindex: 0,
            attach_type
        }
    );
    assert_eq!(errno(link.update(&a, None)), Errno::ENOLINK);
}
