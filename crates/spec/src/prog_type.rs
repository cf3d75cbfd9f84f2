//! One row per program type: context, helpers, attach types, return values, privilege, packet access, test runs.
//!
//! Probed on Linux 6.18 (attach types at load, capabilities, return ranges); see fixtures/oracle/spec.

use ring3_uapi::{AttachType as A, ProgType};

use crate::ctx::CtxTable;
use crate::grants::{self as g, AttachSet, Grant, Need};

/// The view of a context that programs of a type have; [`crate::ctx::table`] gives its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtxView {
    /// `__sk_buff` of socket filters.
    SocketFilter,
    /// `__sk_buff` of classifiers and actions.
    TcClsAct,
    /// `__sk_buff` of cgroup hooks.
    CgroupSkb,
    /// `__sk_buff` of lightweight tunnels.
    Lwt,
    /// `__sk_buff` of socket maps.
    SkSkb,
    /// `__sk_buff` of the flow dissector.
    FlowDissector,
    /// `xdp_md`
    Xdp,
    /// `bpf_sock` of cgroup hooks.
    CgroupSock,
    /// `bpf_sock_addr`
    SockAddr,
    /// `bpf_sock_ops`
    SockOps,
    /// `sk_msg_md`
    SkMsg,
    /// `sk_reuseport_md`
    SkReuseport,
    /// `bpf_sk_lookup`
    SkLookup,
    /// `bpf_cgroup_dev_ctx`
    CgroupDevice,
    /// `bpf_sysctl`
    Sysctl,
    /// `bpf_sockopt`
    Sockopt,
    /// `pt_regs` of a probe.
    Kprobe,
    /// Record of a tracepoint.
    Tracepoint,
    /// `bpf_perf_event_data`
    PerfEvent,
    /// Arguments of a raw tracepoint.
    RawTracepoint,
    /// Arguments of a raw tracepoint whose first one is a writable buffer.
    RawTracepointWritable,
    /// Arguments of a function, typed by BTF.
    BtfArgs,
    /// `bpf_nf_ctx`
    Netfilter,
    /// Infrared sample.
    Lirc,
    /// Buffer of a system call program.
    Syscall,
    /// What the extended program has.
    Extended,
    /// The type is reserved and has no context.
    None,
    /// What a host application described.
    Custom(&'static CtxTable),
}

/// Direct access to packet data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PktAccess {
    /// None.
    None,
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// `expected_attach_type` at BPF_PROG_LOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachRule {
    /// Not looked at: any number is taken.
    Any,
    /// One of these, else EINVAL.
    OneOf(AttachSet),
    /// One of these, 0 standing for the given one.
    OneOfOr(AttachSet, A),
    /// Must be 0.
    Zero,
    /// Decided by what `attach_btf_id` names.
    ByBtf,
}

/// Values a program may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetRange {
    /// Anything, not even initialised where the kernel does not ask.
    Any,
    /// A scalar within these bounds.
    In(i32, i32),
    /// Bounds, of which this part makes the attach type binding for links
    /// (`enforce_expected_attach_type`).
    InEnforcing {
        /// Bounds.
        range: (i32, i32),
        /// Values that only this attach type may return.
        enforcing: (i32, i32),
    },
    /// ENOTSUPP
    Unsupported,
    /// What the hook's function returns (LSM, struct_ops): the verifier asks BTF and the hook list.
    ByHook,
}

/// Return range for some attach types.
#[derive(Clone, Copy, Debug)]
pub struct RetRule {
    /// Attach types; the first rule that contains the program's wins.
    pub attach: AttachSet,
    /// The range.
    pub range: RetRange,
}

/// Whether a program type may be loaded with BPF_F_SLEEPABLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleepable {
    /// No.
    Never,
    /// Must be.
    Always,
    /// With these attach types.
    For(AttachSet),
    /// Any attach type (`kprobe`: uprobes; struct_ops).
    May,
    /// Hooks in a list.
    ByHook,
}

/// A program type.
#[derive(Clone, Copy, Debug)]
pub struct ProgTypeRow {
    /// Which.
    pub prog_type: ProgType,
    /// Context.
    pub ctx: CtxView,
    /// Helpers, searched in order.
    pub helpers: &'static [&'static [Grant]],
    /// Attach types at load.
    pub attach: AttachRule,
    /// Return values by attach type; none: anything.
    pub ret: &'static [RetRule],
    /// Capability to load, beside CAP_BPF.
    pub need: Need,
    /// May be loaded without CAP_BPF (where the sysctl permits).
    pub unprivileged: bool,
    /// Takes `attach_btf_id`.
    pub btf_attach: bool,
    /// Direct packet access.
    pub pkt: PktAccess,
    /// Legacy packet loads.
    pub ld_abs: bool,
    /// BPF_F_SLEEPABLE.
    pub sleepable: Sleepable,
    /// BPF_PROG_TEST_RUN is answered.
    pub test_run: bool,
    /// May be bound to a device (BPF_F_XDP_DEV_BOUND_ONLY).
    pub dev_bound: bool,
    /// Why the reference kernel refuses the type at load, if it does.
    pub refused: Option<&'static str>,
}

const fn row(
    prog_type: ProgType,
    ctx: CtxView,
    helpers: &'static [&'static [Grant]],
) -> ProgTypeRow {
    ProgTypeRow {
        prog_type,
        ctx,
        helpers,
        attach: AttachRule::Any,
        ret: &[],
        need: Need::Nothing,
        unprivileged: false,
        btf_attach: false,
        pkt: PktAccess::None,
        ld_abs: false,
        sleepable: Sleepable::Never,
        test_run: false,
        dev_bound: false,
        refused: None,
    }
}

const fn always(range: RetRange) -> RetRule {
    RetRule {
        attach: AttachSet::ANY,
        range,
    }
}

const ZERO_ONE: &[RetRule] = &[always(RetRange::In(0, 1))];

const CGROUP_SKB_ATTACH: AttachSet = AttachSet::of(&[A::CgroupInetIngress, A::CgroupInetEgress]);
const CGROUP_SOCK_ATTACH: AttachSet = AttachSet::of(&[
    A::CgroupInetSockCreate,
    A::CgroupInetSockRelease,
    A::CgroupInet4PostBind,
    A::CgroupInet6PostBind,
]);
/// Address hooks that may not refuse.
const SOCK_ADDR_ALWAYS_ONE: AttachSet = AttachSet::of(&[
    A::CgroupUdp4Recvmsg,
    A::CgroupUdp6Recvmsg,
    A::CgroupUnixRecvmsg,
    A::CgroupInet4Getpeername,
    A::CgroupInet6Getpeername,
    A::CgroupUnixGetpeername,
    A::CgroupInet4Getsockname,
    A::CgroupInet6Getsockname,
    A::CgroupUnixGetsockname,
]);
const SOCK_ADDR_BIND: AttachSet = AttachSet::of(&[A::CgroupInet4Bind, A::CgroupInet6Bind]);
const SOCK_ADDR_ATTACH: AttachSet = AttachSet::of(&[
    A::CgroupInet4Bind,
    A::CgroupInet6Bind,
    A::CgroupInet4Connect,
    A::CgroupInet6Connect,
    A::CgroupUnixConnect,
    A::CgroupUdp4Sendmsg,
    A::CgroupUdp6Sendmsg,
    A::CgroupUnixSendmsg,
    A::CgroupUdp4Recvmsg,
    A::CgroupUdp6Recvmsg,
    A::CgroupUnixRecvmsg,
    A::CgroupInet4Getpeername,
    A::CgroupInet6Getpeername,
    A::CgroupUnixGetpeername,
    A::CgroupInet4Getsockname,
    A::CgroupInet6Getsockname,
    A::CgroupUnixGetsockname,
]);

/// Every program type, in numeric order.
pub static ROWS: &[ProgTypeRow] = &[
    ProgTypeRow {
        refused: Some("type 0 is reserved"),
        ..row(ProgType::Unspec, CtxView::None, &[])
    },
    ProgTypeRow {
        unprivileged: true,
        ld_abs: true,
        test_run: true,
        ..row(
            ProgType::SocketFilter,
            CtxView::SocketFilter,
            &[g::SOCKET_FILTER, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        sleepable: Sleepable::May,
        ret: &[RetRule {
            attach: AttachSet::of(&[A::TraceKprobeSession, A::TraceUprobeSession]),
            range: RetRange::In(0, 1),
        }],
        ..row(
            ProgType::Kprobe,
            CtxView::Kprobe,
            &[g::TRACING_COMMON, g::ATTACH_COOKIE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::ReadWrite,
        ld_abs: true,
        test_run: true,
        dev_bound: true,
        ..row(
            ProgType::SchedCls,
            CtxView::TcClsAct,
            &[g::SCHED, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::ReadWrite,
        ld_abs: true,
        test_run: true,
        ..row(
            ProgType::SchedAct,
            CtxView::TcClsAct,
            &[g::SCHED, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        ..row(
            ProgType::Tracepoint,
            CtxView::Tracepoint,
            &[g::TRACING_COMMON, g::ATTACH_COOKIE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::ReadWrite,
        test_run: true,
        dev_bound: true,
        ..row(
            ProgType::Xdp,
            CtxView::Xdp,
            &[g::XDP, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        ..row(
            ProgType::PerfEvent,
            CtxView::PerfEvent,
            &[g::PERF_EVENT, g::TRACING_COMMON, g::ATTACH_COOKIE, g::BASE],
        )
    },
    ProgTypeRow {
        unprivileged: true,
        attach: AttachRule::OneOf(CGROUP_SKB_ATTACH),
        ret: &[
            RetRule {
                attach: AttachSet::of(&[A::CgroupInetEgress]),
                range: RetRange::InEnforcing {
                    range: (0, 3),
                    enforcing: (2, 3),
                },
            },
            always(RetRange::In(0, 1)),
        ],
        pkt: PktAccess::Read,
        test_run: true,
        ..row(
            ProgType::CgroupSkb,
            CtxView::CgroupSkb,
            &[g::CGROUP_SKB, g::SOCKET_FILTER, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        attach: AttachRule::OneOfOr(CGROUP_SOCK_ATTACH, A::CgroupInetSockCreate),
        ret: ZERO_ONE,
        ..row(
            ProgType::CgroupSock,
            CtxView::CgroupSock,
            &[g::CGROUP_SOCK, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::Read,
        test_run: true,
        ..row(
            ProgType::LwtIn,
            CtxView::Lwt,
            &[g::LWT_ENCAP, g::LWT_OUT, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::Read,
        test_run: true,
        ..row(
            ProgType::LwtOut,
            CtxView::Lwt,
            &[g::LWT_OUT, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::ReadWrite,
        test_run: true,
        ..row(
            ProgType::LwtXmit,
            CtxView::Lwt,
            &[g::LWT_XMIT, g::LWT_ENCAP, g::LWT_OUT, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        ret: ZERO_ONE,
        ..row(
            ProgType::SockOps,
            CtxView::SockOps,
            &[g::SOCK_OPS, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::ReadWrite,
        ..row(
            ProgType::SkSkb,
            CtxView::SkSkb,
            &[g::SK_SKB, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        ret: ZERO_ONE,
        ..row(
            ProgType::CgroupDevice,
            CtxView::CgroupDevice,
            &[g::CGROUP_EVENTS, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::ReadWrite,
        ..row(
            ProgType::SkMsg,
            CtxView::SkMsg,
            &[g::SK_MSG, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        test_run: true,
        ..row(
            ProgType::RawTracepoint,
            CtxView::RawTracepoint,
            &[g::TRACING_COMMON, g::ATTACH_COOKIE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        attach: AttachRule::OneOf(SOCK_ADDR_ATTACH),
        ret: &[
            RetRule {
                attach: SOCK_ADDR_ALWAYS_ONE,
                range: RetRange::In(1, 1),
            },
            RetRule {
                attach: SOCK_ADDR_BIND,
                range: RetRange::In(0, 3),
            },
            always(RetRange::In(0, 1)),
        ],
        ..row(
            ProgType::CgroupSockAddr,
            CtxView::SockAddr,
            &[g::CGROUP_SOCK_ADDR, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::Read,
        test_run: true,
        ..row(
            ProgType::LwtSeg6local,
            CtxView::Lwt,
            &[g::LWT_SEG6LOCAL, g::LWT_OUT, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        refused: Some("the reference kernel is built without CONFIG_BPF_LIRC_MODE2"),
        ..row(ProgType::LircMode2, CtxView::Lirc, &[g::LIRC_MODE2])
    },
    ProgTypeRow {
        attach: AttachRule::OneOfOr(
            AttachSet::of(&[A::SkReuseportSelect, A::SkReuseportSelectOrMigrate]),
            A::SkReuseportSelect,
        ),
        pkt: PktAccess::Read,
        ..row(
            ProgType::SkReuseport,
            CtxView::SkReuseport,
            &[g::SK_REUSEPORT, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        pkt: PktAccess::Read,
        test_run: true,
        ..row(
            ProgType::FlowDissector,
            CtxView::FlowDissector,
            &[g::FLOW_DISSECTOR, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        ret: ZERO_ONE,
        ..row(
            ProgType::CgroupSysctl,
            CtxView::Sysctl,
            &[g::CGROUP_EVENTS, g::CGROUP_SYSCTL, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        test_run: true,
        ..row(
            ProgType::RawTracepointWritable,
            CtxView::RawTracepointWritable,
            &[g::TRACING_COMMON, g::ATTACH_COOKIE, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        attach: AttachRule::OneOf(AttachSet::of(&[A::CgroupSetsockopt, A::CgroupGetsockopt])),
        ret: ZERO_ONE,
        pkt: PktAccess::ReadWrite,
        ..row(
            ProgType::CgroupSockopt,
            CtxView::Sockopt,
            &[g::CGROUP_SOCKOPT, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        attach: AttachRule::ByBtf,
        btf_attach: true,
        ret: &[
            RetRule {
                attach: AttachSet::of(&[A::TraceFentry, A::TraceFexit]),
                range: RetRange::In(0, 0),
            },
            RetRule {
                attach: AttachSet::of(&[A::TraceRawTp, A::ModifyReturn]),
                range: RetRange::Any,
            },
            RetRule {
                attach: AttachSet::of(&[A::TraceIter]),
                range: RetRange::In(0, 1),
            },
            always(RetRange::Unsupported),
        ],
        sleepable: Sleepable::For(AttachSet::of(&[
            A::TraceFentry,
            A::TraceFexit,
            A::ModifyReturn,
            A::TraceIter,
        ])),
        test_run: true,
        ..row(
            ProgType::Tracing,
            CtxView::BtfArgs,
            &[g::TRACING, g::TRACING_COMMON, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        btf_attach: true,
        attach: AttachRule::ByBtf,
        ret: &[always(RetRange::ByHook)],
        sleepable: Sleepable::May,
        test_run: true,
        ..row(
            ProgType::StructOps,
            CtxView::BtfArgs,
            &[g::STRUCT_OPS, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::Perfmon,
        btf_attach: true,
        attach: AttachRule::Zero,
        ..row(ProgType::Ext, CtxView::Extended, &[])
    },
    ProgTypeRow {
        need: Need::Perfmon,
        btf_attach: true,
        attach: AttachRule::ByBtf,
        ret: &[always(RetRange::ByHook)],
        sleepable: Sleepable::ByHook,
        test_run: true,
        ..row(
            ProgType::Lsm,
            CtxView::BtfArgs,
            &[g::LSM, g::TRACING, g::TRACING_COMMON, g::BASE],
        )
    },
    ProgTypeRow {
        attach: AttachRule::OneOf(AttachSet::of(&[A::SkLookup])),
        ret: ZERO_ONE,
        test_run: true,
        ..row(
            ProgType::SkLookup,
            CtxView::SkLookup,
            &[g::SK_LOOKUP, g::SOCK_BASE, g::BASE],
        )
    },
    ProgTypeRow {
        attach: AttachRule::Zero,
        sleepable: Sleepable::Always,
        test_run: true,
        ..row(
            ProgType::Syscall,
            CtxView::Syscall,
            &[g::SYSCALL, g::TRACING, g::TRACING_COMMON, g::BASE],
        )
    },
    ProgTypeRow {
        need: Need::NetAdmin,
        attach: AttachRule::OneOf(AttachSet::of(&[A::Netfilter])),
        ret: ZERO_ONE,
        test_run: true,
        ..row(ProgType::Netfilter, CtxView::Netfilter, &[g::BASE])
    },
];

impl ProgTypeRow {
    /// A type of a host application's: its context, the helpers that every program may call, any result; no privilege is needed.
    pub const fn custom(id: u32, ctx: &'static CtxTable) -> ProgTypeRow {
        ProgTypeRow {
            unprivileged: true,
            ..row(ProgType::Custom(id), CtxView::Custom(ctx), &[g::BASE])
        }
    }

    /// The attach type in force for what the loader gave: some types take 0 for their first one.
    pub fn effective_attach_type(&self, given: u32) -> u32 {
        match self.attach {
            AttachRule::OneOfOr(_, default) if given == 0 => default.raw(),
            AttachRule::OneOfOr(..)
            | AttachRule::Any
            | AttachRule::OneOf(_)
            | AttachRule::Zero
            | AttachRule::ByBtf => given,
        }
    }

    /// The range that a program with this attach type must return a value in.
    pub fn ret_range(&self, expected_attach_type: u32) -> RetRange {
        self.ret
            .iter()
            .find(|rule| rule.attach.contains(expected_attach_type))
            .map_or(RetRange::Any, |rule| rule.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_type_has_its_row_at_its_number() {
        assert_eq!(ROWS.len(), ProgType::ALL.len());
        for (i, row) in ROWS.iter().enumerate() {
            assert_eq!(row.prog_type.raw() as usize, i);
        }
    }
}
