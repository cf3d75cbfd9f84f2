//! rtnetlink over the model's devices: messages in, messages out. Devices with their XDP programs (RTM_GETLINK, RTM_SETLINK with IFLA_XDP), and what tc shows
//! of clsact (RTM_GETQDISC, RTM_GETTCLASS, RTM_GETTFILTER). Everything else is EOPNOTSUPP.
//!
//! # Source
//! linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/pkt_cls.h; which answers come when: seen on Linux 6.18.

use std::sync::Arc;

use ring3::net::{Device, Direction, Net, XdpMode, XdpRefusal, XdpRequest};
use ring3_objects::Program;
use ring3_runtime::ProgObject;
use ring3_uapi::Errno;

/// Who asks.
pub(crate) trait Asker {
    /// The program behind a descriptor.
    fn program(&self, fd: i32) -> Result<Arc<Program>, Errno>;
    /// Whether devices may be changed.
    fn may_change(&self) -> bool;
}

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_GETTCLASS: u16 = 42;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;

const F_MULTI: u16 = 2;
const F_ACK: u16 = 4;
const F_DUMP: u16 = 0x300;
const F_CAPPED: u16 = 0x100;
const F_ACK_TLVS: u16 = 0x200;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_XDP: u16 = 43;
const XDP_FD: u16 = 1;
const XDP_ATTACHED: u16 = 2;
const XDP_FLAGS: u16 = 3;
const XDP_PROG_ID: u16 = 4;
const XDP_DRV_PROG_ID: u16 = 5;
const XDP_SKB_PROG_ID: u16 = 6;
const XDP_EXPECTED_FD: u16 = 8;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const BPF_CLASSID: u16 = 3;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_FLAGS_GEN: u16 = 9;
const BPF_TAG: u16 = 10;
const BPF_ID: u16 = 11;
const FLAG_DIRECT: u32 = 1;
const NOT_IN_HARDWARE: u32 = 8;

/// Parents of clsact and of its filters.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Type of a nested attribute.
const TYPE_MASK: u16 = 0x3fff;

/// The answers to one datagram, each a datagram of its own.
pub(crate) fn answer(net: &Net, asker: &dyn Asker, port: u32, datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = datagram;
    while let Some(request) = Request::of(rest) {
        let len = request.bytes.len().next_multiple_of(4).min(rest.len());
        rest = &rest[len..];
        request.answer(net, asker, port, &mut answers);
    }
    answers
}

struct Request<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    /// Header and payload.
    bytes: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_ne_bytes)
}

impl<'a> Request<'a> {
    fn of(bytes: &'a [u8]) -> Option<Request<'a>> {
        let len = u32_at(bytes, 0)? as usize;
        Some(Request {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            seq: u32_at(bytes, 8)?,
            bytes: bytes.get(..len).filter(|_| len >= HEADER_BYTES)?,
        })
    }

    fn answer(&self, net: &Net, asker: &dyn Asker, port: u32, answers: &mut Vec<Vec<u8>>) {
        let payload = &self.bytes[HEADER_BYTES..];
        let is_dump = self.flags & F_DUMP == F_DUMP;
        let messages = match self.kind {
            RTM_GETLINK => links(net, payload, is_dump),
            RTM_SETLINK => set_link(net, asker, payload).map(|()| Vec::new()),
            RTM_GETQDISC if is_dump => Ok(qdiscs(net)),
            RTM_GETTCLASS if is_dump => Ok(Vec::new()),
            RTM_GETTFILTER if is_dump => filters(net, payload),
            _ => Err(refusal(Errno::EOPNOTSUPP)),
        };
        match messages {
            Ok(messages) => {
                let multi = if is_dump { F_MULTI } else { 0 };
                for (kind, body) in messages {
                    answers.push(self.message(kind, multi, port, &body));
                }
                if is_dump {
                    answers.push(self.message(NLMSG_DONE, F_MULTI, port, &0u32.to_ne_bytes()));
                } else if self.flags & F_ACK != 0 {
                    answers.push(self.status(port, None));
                }
            }
            Err(refusal) => answers.push(self.status(port, Some(refusal))),
        }
    }

    fn message(&self, kind: u16, flags: u16, port: u32, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend_from_slice(&((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.seq.to_ne_bytes());
        message.extend_from_slice(&port.to_ne_bytes());
        message.extend_from_slice(body);
        message
    }

    /// A success carries the request's header; a failure all of it, and the words for it.
    fn status(&self, port: u32, refusal: Option<XdpRefusal>) -> Vec<u8> {
        const MESSAGE: u16 = 1;
        let (errno, words) = refusal.map_or((0, ""), |it| (-it.errno.raw(), it.words));
        let mut body = errno.to_ne_bytes().to_vec();
        let flags = match refusal {
            None => {
                body.extend_from_slice(&self.bytes[..HEADER_BYTES]);
                F_CAPPED
            }
            Some(_) => {
                body.extend_from_slice(self.bytes);
                if words.is_empty() {
                    0
                } else {
                    body.resize(body.len().next_multiple_of(4), 0);
                    put(&mut body, MESSAGE, &[words.as_bytes(), &[0]].concat());
                    F_ACK_TLVS
                }
            }
        };
        self.message(NLMSG_ERROR, flags, port, &body)
    }
}

const fn refusal(errno: Errno) -> XdpRefusal {
    XdpRefusal { errno, words: "" }
}

/// Appends an attribute, padded.
fn put(to: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    to.extend_from_slice(&((4 + bytes.len()) as u16).to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(bytes);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn put_str(to: &mut Vec<u8>, kind: u16, text: &str) {
    put(to, kind, &[text.as_bytes(), &[0]].concat());
}

/// Types and contents of attributes; what is damaged ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let content = bytes.get(4..len)?;
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some((kind, content))
    })
}

/// Bytes of `struct ifinfomsg`, and of `struct tcmsg`.
const IFINFO_BYTES: usize = 16;
const TCMSG_BYTES: usize = 20;

type Messages = Vec<(u16, Vec<u8>)>;

/// The device that an ifinfomsg and its attributes name.
fn named_device(net: &Net, payload: &[u8]) -> Result<Arc<Device>, XdpRefusal> {
    let ifindex = u32_at(payload, 4).ok_or(refusal(Errno::EINVAL))?;
    let rest = payload.get(IFINFO_BYTES..).unwrap_or_default();
    let name = attributes(rest).find(|(kind, _)| *kind == IFLA_IFNAME);
    let device = match name {
        _ if ifindex != 0 => net.device(ifindex),
        Some((_, name)) => {
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let name = std::str::from_utf8(name).unwrap_or_default();
            net.device_by_name(name).ok()
        }
        None => return Err(refusal(Errno::EINVAL)),
    };
    device.ok_or(refusal(Errno::ENODEV))
}

fn links(net: &Net, payload: &[u8], is_dump: bool) -> Result<Messages, XdpRefusal> {
    let devices = if is_dump {
        net.devices()
    } else {
        vec![named_device(net, payload)?]
    };
    let told = |device: &Arc<Device>| (RTM_NEWLINK, link(device));
    Ok(devices.iter().map(told).collect())
}

fn link(device: &Device) -> Vec<u8> {
    const ETHER: u16 = 1;
    const LOOPBACK: u16 = 772;
    /// Up and running, broadcast, multicast, lower up; for `lo` loopback instead of broadcast and multicast.
    const FLAGS: u32 = 0x1_1043;
    const LOOPBACK_FLAGS: u32 = 0x1_0049;
    let is_loopback = device.ifindex() == 1;
    let (kind, flags) = if is_loopback {
        (LOOPBACK, LOOPBACK_FLAGS)
    } else {
        (ETHER, FLAGS)
    };
    let mut body = vec![0; 2];
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&device.ifindex().to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&0u32.to_ne_bytes());
    put_str(&mut body, IFLA_IFNAME, device.name());
    put(&mut body, IFLA_MTU, &device.mtu().to_ne_bytes());
    put(&mut body, IFLA_ADDRESS, &device.mac());
    let mut xdp = Vec::new();
    match device.xdp() {
        None => put(&mut xdp, XDP_ATTACHED, &[0]),
        Some(slot) => {
            let (mode, id_kind) = match device.xdp_mode() {
                XdpMode::Driver => (1, XDP_DRV_PROG_ID),
                XdpMode::Generic => (2, XDP_SKB_PROG_ID),
            };
            let id = slot.prog.id().to_ne_bytes();
            put(&mut xdp, XDP_ATTACHED, &[mode]);
            put(&mut xdp, id_kind, &id);
            put(&mut xdp, XDP_PROG_ID, &id);
        }
    }
    put(&mut body, IFLA_XDP, &xdp);
    body
}

fn set_link(net: &Net, asker: &dyn Asker, payload: &[u8]) -> Result<(), XdpRefusal> {
    if !asker.may_change() {
        return Err(refusal(Errno::EPERM));
    }
    let device = named_device(net, payload)?;
    let rest = payload.get(IFINFO_BYTES..).unwrap_or_default();
    for (kind, content) in attributes(rest) {
        match kind {
            IFLA_XDP => set_xdp(net, asker, &device, content)?,
            IFLA_IFNAME => {}
            _ => return Err(refusal(Errno::EOPNOTSUPP)),
        }
    }
    Ok(())
}

fn set_xdp(net: &Net, asker: &dyn Asker, device: &Device, attrs: &[u8]) -> Result<(), XdpRefusal> {
    let number = |wanted: u16| {
        let found = attributes(attrs).find(|(kind, _)| *kind == wanted);
        found.and_then(|(_, content)| u32_at(content, 0))
    };
    let program = |fd: u32| match fd as i32 {
        fd if fd < 0 => Ok(None),
        fd => asker.program(fd).map(Some).map_err(refusal),
    };
    let Some(fd) = number(XDP_FD) else {
        return Ok(());
    };
    let flags = number(XDP_FLAGS).unwrap_or(0);
    let expected_fd = number(XDP_EXPECTED_FD);
    Net::check_xdp_request(flags, expected_fd.is_some())?;
    let request = XdpRequest {
        flags,
        expected: expected_fd.map(program).transpose()?,
    };
    net.request_xdp(device, program(fd)?.as_ref(), &request)
}

fn tcmsg(device: &Device, handle: u32, parent: u32, info: u32, kind: &str) -> Vec<u8> {
    let mut body = vec![0; 4];
    for field in [device.ifindex(), handle, parent, info] {
        body.extend_from_slice(&field.to_ne_bytes());
    }
    put_str(&mut body, TCA_KIND, kind);
    body
}

/// Devices whose clsact holds filters have shown it.
fn qdiscs(net: &Net) -> Messages {
    let has_filters = |device: &Arc<Device>| {
        let ways = [Direction::Ingress, Direction::Egress];
        ways.iter()
            .any(|&way| !device.clsact(way).filters().is_empty())
    };
    let devices = net.devices().into_iter().filter(has_filters);
    devices
        .map(|device| {
            let body = tcmsg(&device, CLSACT_HANDLE, CLSACT, 1, "clsact");
            (RTM_NEWQDISC, body)
        })
        .collect()
}

fn filters(net: &Net, payload: &[u8]) -> Result<Messages, XdpRefusal> {
    /// `ETH_P_ALL`
    const ALL: [u8; 2] = [0, 3];
    if payload.len() < TCMSG_BYTES {
        return Err(refusal(Errno::EINVAL));
    }
    let (ifindex, parent) = (u32_at(payload, 4), u32_at(payload, 12));
    let direction = match parent {
        Some(INGRESS) => Direction::Ingress,
        Some(EGRESS) => Direction::Egress,
        _ => return Ok(Vec::new()),
    };
    let Some(device) = ifindex.and_then(|ifindex| net.device(ifindex)) else {
        return Ok(Vec::new());
    };
    let parent = parent.unwrap_or_default();
    let mut messages = Vec::new();
    let mut shown = None;
    for filter in device.clsact(direction).filters().iter() {
        let protocol = u16::from_ne_bytes(filter.protocol.unwrap_or(ALL));
        let info = filter.priority << 16 | u32::from(protocol);
        if shown.replace(info) != Some(info) {
            let mut head = tcmsg(&device, 0, parent, info, "bpf");
            put(&mut head, TCA_CHAIN, &0u32.to_ne_bytes());
            messages.push((RTM_NEWTFILTER, head));
        }
        let mut options = Vec::new();
        if filter.classid != 0 {
            put(&mut options, BPF_CLASSID, &filter.classid.to_ne_bytes());
        }
        put_str(&mut options, BPF_NAME, &filter.label);
        put(&mut options, BPF_ID, &filter.prog.id().to_ne_bytes());
        put(&mut options, BPF_TAG, &filter.prog.tag());
        if filter.is_direct {
            put(&mut options, BPF_FLAGS, &FLAG_DIRECT.to_ne_bytes());
        }
        put(&mut options, BPF_FLAGS_GEN, &NOT_IN_HARDWARE.to_ne_bytes());
        let mut body = tcmsg(&device, filter.handle, parent, info, "bpf");
        put(&mut body, TCA_CHAIN, &0u32.to_ne_bytes());
        put(&mut body, TCA_OPTIONS, &options);
        messages.push((RTM_NEWTFILTER, body));
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_isa::RawInsn;
    use ring3_objects::ProgAttr;
    use ring3_uapi::ProgType;

    /// Programs 3 and 4 of XDP, 5 of a classifier.
    struct Progs(Vec<Arc<Program>>);

    impl Asker for Progs {
        fn program(&self, fd: i32) -> Result<Arc<Program>, Errno> {
            let at = usize::try_from(fd - 3).map_err(|_| Errno::EBADF)?;
            self.0.get(at).cloned().ok_or(Errno::EBADF)
        }

        fn may_change(&self) -> bool {
            true
        }
    }

    fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | 1).to_ne_bytes());
        bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(body);
        bytes
    }

    fn set(ifindex: u32, attrs: &[(u16, i32)]) -> Vec<u8> {
        let mut xdp = Vec::new();
        for (kind, value) in attrs {
            put(&mut xdp, *kind, &value.to_ne_bytes());
        }
        let mut body = vec![0; IFINFO_BYTES];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        put(&mut body, IFLA_XDP | 0x8000, &xdp);
        request(RTM_SETLINK, F_ACK, &body)
    }

    /// Errno and words of an answer.
    fn told(answers: &[Vec<u8>]) -> (i32, String) {
        let [answer] = answers else {
            panic!("{} answers", answers.len());
        };
        let errno = u32_at(answer, 16).unwrap() as i32;
        let request_bytes = u32_at(answer, 20).unwrap() as usize;
        let words = match u16_at(answer, 6).unwrap() {
            F_ACK_TLVS => {
                let (_, words) = attributes(&answer[20 + request_bytes..]).next().unwrap();
                String::from_utf8(words[..words.len() - 1].to_vec()).unwrap()
            }
            _ => String::new(),
        };
        (errno, words)
    }

    #[test]
    fn requests_for_xdp_are_judged_as_by_the_kernel() {
        let system = ring3::system();
        let net = Net::new(&system);
        let v = net.add_device("v0").unwrap().ifindex();
        let load = |prog_type| {
            let insns = [0x0000_0000_0000_00b7u64, 0x95].map(u64::to_le_bytes);
            let insns = insns.map(RawInsn::from_bytes).to_vec();
            Program::load(&system, ProgAttr::new(prog_type, insns))
                .map_err(|error| error.to_string())
                .unwrap()
        };
        let progs = Progs(vec![
            load(ProgType::Xdp),
            load(ProgType::Xdp),
            load(ProgType::SchedCls),
        ]);
        let (x, y, t) = (3, 4, 5);
        let (fd, flags, expected) = (XDP_FD, XDP_FLAGS, XDP_EXPECTED_FD);
        let both = "Native and generic XDP can't be active at the same time";
        let unexpected = "Active program does not match expected";
        let present = "XDP program already attached";
        // As Linux 6.18.44 answered over a veth device and `lo`, in this order.
        type Row<'a> = (u32, &'a [(u16, i32)], i32, &'a str);
        let rows: &[Row<'_>] = &[
            (v, &[(fd, -1)], 0, ""),
            (v, &[(fd, x), (flags, 0x20)], -22, ""),
            (v, &[(fd, x), (flags, 6)], -22, ""),
            (v, &[(fd, x), (flags, 8)], -22, ""),
            (v, &[(fd, 999)], -9, ""),
            (v, &[(fd, -2)], 0, ""),
            (v, &[(fd, t)], -22, ""),
            (999, &[(fd, x)], -19, ""),
            (
                1,
                &[(fd, x), (flags, 4)],
                -95,
                "Underlying driver does not support XDP in native mode",
            ),
            (1, &[(fd, x)], 0, ""),
            (1, &[(fd, x), (flags, 4)], -17, both),
            (1, &[(fd, -1)], 0, ""),
            (v, &[(fd, x)], 0, ""),
            (v, &[(fd, x), (flags, 1)], -16, present),
            (v, &[(fd, y)], 0, ""),
            (v, &[(fd, y)], 0, ""),
            (v, &[(fd, x), (flags, 16), (expected, x)], -17, unexpected),
            (v, &[(fd, x), (flags, 16), (expected, y)], 0, ""),
            (v, &[(fd, x), (flags, 16)], -22, ""),
            (v, &[(fd, y), (expected, y)], 0, ""),
            (v, &[(fd, x), (flags, 17), (expected, y)], -16, present),
            (v, &[(fd, x), (flags, 2)], -17, both),
            (v, &[(fd, -1), (flags, 2)], 0, ""),
            (v, &[(fd, -1), (flags, 4)], 0, ""),
            (v, &[(flags, 2)], 0, ""),
            (v, &[(fd, x), (flags, 2)], 0, ""),
            (v, &[(fd, x), (flags, 5)], -17, both),
            (v, &[(fd, x)], -17, both),
            (v, &[(fd, -1)], 0, ""),
            (v, &[(fd, x), (flags, 18), (expected, -1)], -17, unexpected),
            (v, &[(fd, -1), (flags, 2)], 0, ""),
            (v, &[(fd, x), (flags, 16), (expected, x)], -17, unexpected),
        ];
        for (number, (ifindex, attrs, errno, words)) in rows.iter().enumerate() {
            let answers = answer(&net, &progs, 9, &set(*ifindex, attrs));
            let expected = (*errno, (*words).to_owned());
            assert_eq!(told(&answers), expected, "row {number}");
        }
    }

    #[test]
    fn devices_are_listed_and_what_is_damaged_ends_quietly() {
        let system = ring3::system();
        let net = Net::new(&system);
        net.add_device("v0").unwrap();
        let nobody = Progs(Vec::new());
        let dump = request(RTM_GETLINK, F_DUMP, &[0; IFINFO_BYTES]);
        let answers = answer(&net, &nobody, 9, &dump);
        let kinds: Vec<u16> = answers.iter().filter_map(|it| u16_at(it, 4)).collect();
        assert_eq!(kinds, [RTM_NEWLINK, RTM_NEWLINK, NLMSG_DONE]);
        let name = attributes(&answers[1][HEADER_BYTES + IFINFO_BYTES..]).next();
        assert_eq!(name, Some((IFLA_IFNAME, &b"v0\0"[..])));
        for kind in 0..64 {
            for flags in [0, F_DUMP, F_ACK] {
                for len in [0, 3, 4, 16, 20, 24, 40] {
                    let mut bytes = request(kind, flags, &vec![0xff; len]);
                    assert!(!answer(&net, &nobody, 9, &bytes).is_empty());
                    bytes.truncate(bytes.len() - 1);
                    answer(&net, &nobody, 9, &bytes);
                }
            }
        }
    }
}
