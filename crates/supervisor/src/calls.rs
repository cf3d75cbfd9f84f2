//! Which system calls of a client come to the daemon, and their numbers.

use ring3_os::seccomp::{Condition, Rule};

pub(crate) const BPF: u32 = 321;
pub(crate) const OPEN: u32 = 2;
pub(crate) const OPENAT: u32 = 257;
pub(crate) const STATFS: u32 = 137;
pub(crate) const FSTATFS: u32 = 138;
pub(crate) const EPOLL_CTL: u32 = 233;
pub(crate) const PERF_EVENT_OPEN: u32 = 298;
pub(crate) const IOCTL: u32 = 16;
pub(crate) const MMAP: u32 = 9;
pub(crate) const MOUNT: u32 = 165;
pub(crate) const SOCKET: u32 = 41;
pub(crate) const BIND: u32 = 49;
pub(crate) const GETSOCKNAME: u32 = 51;
pub(crate) const SETSOCKOPT: u32 = 54;

/// Requests on perf events, and the two that turn names of devices into numbers and back.
pub(crate) mod ioctl {
    pub(crate) const PERF_ENABLE: u32 = 0x2400;
    pub(crate) const PERF_DISABLE: u32 = 0x2401;
    pub(crate) const PERF_ID: u32 = 0x8008_2407;
    pub(crate) const SIOCGIFNAME: u32 = 0x8910;
    pub(crate) const SIOCGIFINDEX: u32 = 0x8933;
}

const O_ACCMODE: u32 = 3;
const O_CREAT: u32 = 0o100;
const O_DIRECTORY: u32 = 0o200_000;
const O_PATH: u32 = 0o10_000_000;
const MAP_SHARED: u32 = 1;
const MAP_SHARED_VALIDATE: u32 = 3;
const MAP_ANONYMOUS: u32 = 0x20;
const AF_NETLINK: u32 = 16;
const SOL_NETLINK: u32 = 270;
/// `struct sockaddr_nl`
const NETLINK_ADDRESS_BYTES: u32 = 12;

/// Files that are read: what is served instead of the host's is only read.
const READS: u32 = O_ACCMODE | O_CREAT | O_DIRECTORY | O_PATH;

/// Every call that is picked.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        nr: BPF,
        conditions: &[],
    },
    Rule {
        nr: OPENAT,
        conditions: &[Condition::MaskedIn {
            arg: 2,
            mask: READS,
            values: &[0],
        }],
    },
    Rule {
        nr: OPEN,
        conditions: &[Condition::MaskedIn {
            arg: 1,
            mask: READS,
            values: &[0],
        }],
    },
    Rule {
        nr: MMAP,
        conditions: &[Condition::MaskedIn {
            arg: 3,
            mask: MAP_SHARED_VALIDATE | MAP_ANONYMOUS,
            values: &[MAP_SHARED, MAP_SHARED_VALIDATE],
        }],
    },
    Rule {
        nr: EPOLL_CTL,
        conditions: &[],
    },
    Rule {
        nr: STATFS,
        conditions: &[],
    },
    Rule {
        nr: FSTATFS,
        conditions: &[],
    },
    Rule {
        nr: IOCTL,
        conditions: &[Condition::MaskedIn {
            arg: 1,
            mask: !0,
            values: &[
                ioctl::PERF_ENABLE,
                ioctl::PERF_DISABLE,
                ioctl::PERF_ID,
                ioctl::SIOCGIFNAME,
                ioctl::SIOCGIFINDEX,
            ],
        }],
    },
    Rule {
        nr: PERF_EVENT_OPEN,
        conditions: &[],
    },
    Rule {
        nr: MOUNT,
        conditions: &[],
    },
    Rule {
        nr: SOCKET,
        conditions: &[Condition::MaskedIn {
            arg: 0,
            mask: !0,
            values: &[AF_NETLINK],
        }],
    },
    Rule {
        nr: BIND,
        conditions: &[Condition::MaskedIn {
            arg: 2,
            mask: !0,
            values: &[NETLINK_ADDRESS_BYTES],
        }],
    },
    Rule {
        nr: GETSOCKNAME,
        conditions: &[],
    },
    Rule {
        nr: SETSOCKOPT,
        conditions: &[Condition::MaskedIn {
            arg: 1,
            mask: !0,
            values: &[SOL_NETLINK],
        }],
    },
];
