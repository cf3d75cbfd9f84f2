//! The `SEC()` table: which program type, attach type and load flags a section name stands for.
//!
//! One row per name; a name that ends in `+` also takes `/ARGUMENT` after it. The first row that matches decides.
//! `libbpf`'s table of 1.6 is complete here; a test asserts that every program type has a row.

use ring3_uapi::flags::prog_load;
use ring3_uapi::{AttachType, ProgType};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecDef {
    /// the section name, with `+` at its end if it takes an argument
    pub pattern: &'static str,
    /// program type
    pub prog_type: ProgType,
    /// expected attach type, none is 0 in the ABI
    pub attach_type: Option<AttachType>,
    /// what else the name says
    pub traits: SecTraits,
}

/// What a section name says beyond types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecTraits {
    /// the program may sleep
    pub sleepable: bool,
    /// the argument names a BTF type (or function of a program) to attach to
    pub attach_btf: bool,
    /// the program takes multi-buffer packets
    pub xdp_frags: bool,
    /// the program attaches to a static user-space probe
    pub usdt: bool,
    /// the attach type must be given to the kernel at load time
    pub attachable: Attachable,
}

/// Whether a program of this section can be attached by its attach type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachable {
    /// it has no attach type of its own
    No,
    /// the attach type may be left out on kernels that do not know it
    Optional,
    /// the attach type must be given
    Yes,
}

const NONE: SecTraits = SecTraits {
    sleepable: false,
    attach_btf: false,
    xdp_frags: false,
    usdt: false,
    attachable: Attachable::No,
};
const SLEEPABLE: SecTraits = SecTraits {
    sleepable: true,
    ..NONE
};
const BTF: SecTraits = SecTraits {
    attach_btf: true,
    ..NONE
};
const BTF_SLEEPABLE: SecTraits = SecTraits {
    attach_btf: true,
    sleepable: true,
    ..NONE
};
const USDT: SecTraits = SecTraits { usdt: true, ..NONE };
const USDT_SLEEPABLE: SecTraits = SecTraits {
    usdt: true,
    sleepable: true,
    ..NONE
};
const FRAGS: SecTraits = SecTraits {
    xdp_frags: true,
    ..NONE
};
const ATTACHABLE: SecTraits = SecTraits {
    attachable: Attachable::Yes,
    ..NONE
};
const OPTIONAL: SecTraits = SecTraits {
    attachable: Attachable::Optional,
    ..NONE
};

macro_rules! sec_defs {
    ($($pattern:literal => $prog_type:ident, $($attach:ident)?, $traits:expr;)*) => {
        &[$(SecDef {
            pattern: $pattern,
            prog_type: ProgType::$prog_type,
            attach_type: sec_defs!(@attach $($attach)?),
            traits: $traits,
        }),*]
    };
    (@attach) => { None };
    (@attach $attach:ident) => { Some(AttachType::$attach) };
}

/// Every section name that makes a program.
#[rustfmt::skip]
pub const SEC_DEFS: &[SecDef] = sec_defs! {
    "socket" => SocketFilter, , NONE;
    "sk_reuseport/migrate" => SkReuseport, SkReuseportSelectOrMigrate, ATTACHABLE;
    "sk_reuseport" => SkReuseport, SkReuseportSelect, ATTACHABLE;
    "kprobe+" => Kprobe, , NONE;
    "uprobe+" => Kprobe, , NONE;
    "uprobe.s+" => Kprobe, , SLEEPABLE;
    "kretprobe+" => Kprobe, , NONE;
    "uretprobe+" => Kprobe, , NONE;
    "uretprobe.s+" => Kprobe, , SLEEPABLE;
    "kprobe.multi+" => Kprobe, TraceKprobeMulti, NONE;
    "kretprobe.multi+" => Kprobe, TraceKprobeMulti, NONE;
    "kprobe.session+" => Kprobe, TraceKprobeSession, NONE;
    "uprobe.multi+" => Kprobe, TraceUprobeMulti, NONE;
    "uretprobe.multi+" => Kprobe, TraceUprobeMulti, NONE;
    "uprobe.session+" => Kprobe, TraceUprobeSession, NONE;
    "uprobe.multi.s+" => Kprobe, TraceUprobeMulti, SLEEPABLE;
    "uretprobe.multi.s+" => Kprobe, TraceUprobeMulti, SLEEPABLE;
    "uprobe.session.s+" => Kprobe, TraceUprobeSession, SLEEPABLE;
    "ksyscall+" => Kprobe, , NONE;
    "kretsyscall+" => Kprobe, , NONE;
    "usdt+" => Kprobe, , USDT;
    "usdt.s+" => Kprobe, , USDT_SLEEPABLE;
    "tc/ingress" => SchedCls, TcxIngress, NONE;
    "tc/egress" => SchedCls, TcxEgress, NONE;
    "tcx/ingress" => SchedCls, TcxIngress, NONE;
    "tcx/egress" => SchedCls, TcxEgress, NONE;
    "tc" => SchedCls, , NONE;
    "classifier" => SchedCls, , NONE;
    "action" => SchedAct, , NONE;
    "netkit/primary" => SchedCls, NetkitPrimary, NONE;
    "netkit/peer" => SchedCls, NetkitPeer, NONE;
    "tracepoint+" => Tracepoint, , NONE;
    "tp+" => Tracepoint, , NONE;
    "raw_tracepoint+" => RawTracepoint, , NONE;
    "raw_tp+" => RawTracepoint, , NONE;
    "raw_tracepoint.w+" => RawTracepointWritable, , NONE;
    "raw_tp.w+" => RawTracepointWritable, , NONE;
    "tp_btf+" => Tracing, TraceRawTp, BTF;
    "fentry+" => Tracing, TraceFentry, BTF;
    "fmod_ret+" => Tracing, ModifyReturn, BTF;
    "fexit+" => Tracing, TraceFexit, BTF;
    "fentry.s+" => Tracing, TraceFentry, BTF_SLEEPABLE;
    "fmod_ret.s+" => Tracing, ModifyReturn, BTF_SLEEPABLE;
    "fexit.s+" => Tracing, TraceFexit, BTF_SLEEPABLE;
    "freplace+" => Ext, , BTF;
    "lsm+" => Lsm, LsmMac, BTF;
    "lsm.s+" => Lsm, LsmMac, BTF_SLEEPABLE;
    "lsm_cgroup+" => Lsm, LsmCgroup, BTF;
    "iter+" => Tracing, TraceIter, BTF;
    "iter.s+" => Tracing, TraceIter, BTF_SLEEPABLE;
    "syscall" => Syscall, , SLEEPABLE;
    "xdp.frags/devmap" => Xdp, XdpDevmap, FRAGS;
    "xdp/devmap" => Xdp, XdpDevmap, ATTACHABLE;
    "xdp.frags/cpumap" => Xdp, XdpCpumap, FRAGS;
    "xdp/cpumap" => Xdp, XdpCpumap, ATTACHABLE;
    "xdp.frags" => Xdp, Xdp, FRAGS;
    "xdp" => Xdp, Xdp, OPTIONAL;
    "perf_event" => PerfEvent, , NONE;
    "lwt_in" => LwtIn, , NONE;
    "lwt_out" => LwtOut, , NONE;
    "lwt_xmit" => LwtXmit, , NONE;
    "lwt_seg6local" => LwtSeg6local, , NONE;
    "sockops" => SockOps, CgroupSockOps, OPTIONAL;
    "sk_skb/stream_parser" => SkSkb, SkSkbStreamParser, OPTIONAL;
    "sk_skb/stream_verdict" => SkSkb, SkSkbStreamVerdict, OPTIONAL;
    "sk_skb/verdict" => SkSkb, SkSkbVerdict, OPTIONAL;
    "sk_skb" => SkSkb, , NONE;
    "sk_msg" => SkMsg, SkMsgVerdict, OPTIONAL;
    "lirc_mode2" => LircMode2, LircMode2, OPTIONAL;
    "flow_dissector" => FlowDissector, FlowDissector, OPTIONAL;
    "cgroup_skb/ingress" => CgroupSkb, CgroupInetIngress, OPTIONAL;
    "cgroup_skb/egress" => CgroupSkb, CgroupInetEgress, OPTIONAL;
    "cgroup/skb" => CgroupSkb, , NONE;
    "cgroup/sock_create" => CgroupSock, CgroupInetSockCreate, ATTACHABLE;
    "cgroup/sock_release" => CgroupSock, CgroupInetSockRelease, ATTACHABLE;
    "cgroup/sock" => CgroupSock, CgroupInetSockCreate, OPTIONAL;
    "cgroup/post_bind4" => CgroupSock, CgroupInet4PostBind, ATTACHABLE;
    "cgroup/post_bind6" => CgroupSock, CgroupInet6PostBind, ATTACHABLE;
    "cgroup/bind4" => CgroupSockAddr, CgroupInet4Bind, ATTACHABLE;
    "cgroup/bind6" => CgroupSockAddr, CgroupInet6Bind, ATTACHABLE;
    "cgroup/connect4" => CgroupSockAddr, CgroupInet4Connect, ATTACHABLE;
    "cgroup/connect6" => CgroupSockAddr, CgroupInet6Connect, ATTACHABLE;
    "cgroup/connect_unix" => CgroupSockAddr, CgroupUnixConnect, ATTACHABLE;
    "cgroup/sendmsg4" => CgroupSockAddr, CgroupUdp4Sendmsg, ATTACHABLE;
    "cgroup/sendmsg6" => CgroupSockAddr, CgroupUdp6Sendmsg, ATTACHABLE;
    "cgroup/sendmsg_unix" => CgroupSockAddr, CgroupUnixSendmsg, ATTACHABLE;
    "cgroup/recvmsg4" => CgroupSockAddr, CgroupUdp4Recvmsg, ATTACHABLE;
    "cgroup/recvmsg6" => CgroupSockAddr, CgroupUdp6Recvmsg, ATTACHABLE;
    "cgroup/recvmsg_unix" => CgroupSockAddr, CgroupUnixRecvmsg, ATTACHABLE;
    "cgroup/getpeername4" => CgroupSockAddr, CgroupInet4Getpeername, ATTACHABLE;
    "cgroup/getpeername6" => CgroupSockAddr, CgroupInet6Getpeername, ATTACHABLE;
    "cgroup/getpeername_unix" => CgroupSockAddr, CgroupUnixGetpeername, ATTACHABLE;
    "cgroup/getsockname4" => CgroupSockAddr, CgroupInet4Getsockname, ATTACHABLE;
    "cgroup/getsockname6" => CgroupSockAddr, CgroupInet6Getsockname, ATTACHABLE;
    "cgroup/getsockname_unix" => CgroupSockAddr, CgroupUnixGetsockname, ATTACHABLE;
    "cgroup/sysctl" => CgroupSysctl, CgroupSysctl, ATTACHABLE;
    "cgroup/getsockopt" => CgroupSockopt, CgroupGetsockopt, ATTACHABLE;
    "cgroup/setsockopt" => CgroupSockopt, CgroupSetsockopt, ATTACHABLE;
    "cgroup/dev" => CgroupDevice, CgroupDevice, OPTIONAL;
    "struct_ops+" => StructOps, , NONE;
    "struct_ops.s+" => StructOps, , SLEEPABLE;
    "sk_lookup" => SkLookup, SkLookup, ATTACHABLE;
    "netfilter" => Netfilter, Netfilter, NONE;
};

impl SecDef {
    /// The row for a section name without its `?`, and the argument after the `/` of a `+` row.
    pub fn find(section: &str) -> Option<(&'static SecDef, Option<&str>)> {
        SEC_DEFS
            .iter()
            .find_map(|def| match def.pattern.strip_suffix('+') {
                None => (section == def.pattern).then_some((def, None)),
                Some(prefix) => match section.strip_prefix(prefix)? {
                    "" => Some((def, None)),
                    rest => rest.strip_prefix('/').map(|argument| (def, Some(argument))),
                },
            })
    }

    /// `prog_flags` that the name asks for.
    pub fn load_flags(&self) -> u32 {
        let mut flags = 0;
        if self.traits.sleepable {
            flags |= prog_load::SLEEPABLE;
        }
        if self.traits.xdp_frags {
            flags |= prog_load::XDP_HAS_FRAGS;
        }
        flags
    }

    /// `expected_attach_type` given to the kernel, 0 if none. Static user-space probes attach through multi-uprobe links,
    /// which 6.18 has.
    pub fn load_attach_type(&self) -> u32 {
        match self.attach_type {
            _ if self.traits.usdt => AttachType::TraceUprobeMulti.raw(),
            Some(attach) => attach.raw(),
            None => 0,
        }
    }

    /// The name in the kernel's BTF that a target such as `bpf_prog_put` or `task` stands for, and the kind of type.
    pub fn attach_btf_name(&self, target: &str) -> (String, ring3_btf::Kind) {
        use ring3_btf::Kind;
        match self.attach_type {
            Some(AttachType::TraceRawTp) => (format!("btf_trace_{target}"), Kind::Typedef),
            Some(AttachType::LsmMac | AttachType::LsmCgroup) => {
                (format!("bpf_lsm_{target}"), Kind::Func)
            }
            Some(AttachType::TraceIter) => (format!("bpf_iter_{target}"), Kind::Func),
            _ => (target.to_string(), Kind::Func),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_type_has_a_section() {
        for prog_type in ProgType::ALL
            .iter()
            .filter(|&&prog_type| prog_type != ProgType::Unspec)
        {
            assert!(
                SEC_DEFS.iter().any(|def| def.prog_type == *prog_type),
                "{prog_type}"
            );
        }
    }

    #[test]
    fn arguments_need_a_slash() {
        let row = |name| SecDef::find(name).map(|(def, argument)| (def.pattern, argument));
        assert_eq!(
            row("fentry/tcp_connect"),
            Some(("fentry+", Some("tcp_connect")))
        );
        assert_eq!(row("fentry"), Some(("fentry+", None)));
        assert_eq!(row("fentryx"), None);
        assert_eq!(row("fexit.s/x"), Some(("fexit.s+", Some("x"))));
        assert_eq!(row("xdp"), Some(("xdp", None)));
        assert_eq!(row("xdp/eth0"), None);
        assert_eq!(row("kprobe.multi/a*"), Some(("kprobe.multi+", Some("a*"))));
        assert_eq!(
            row("tp/sched/sched_switch"),
            Some(("tp+", Some("sched/sched_switch")))
        );
        assert_eq!(row("cgroup/skb"), Some(("cgroup/skb", None)));
    }

    #[test]
    fn flags_follow_the_name() {
        let flags = |name| SecDef::find(name).unwrap().0.load_flags();
        assert_eq!(flags("lsm.s/file_open"), prog_load::SLEEPABLE);
        assert_eq!(flags("xdp.frags"), prog_load::XDP_HAS_FRAGS);
        assert_eq!(flags("tc"), 0);
        assert_eq!(
            SecDef::find("usdt").unwrap().0.load_attach_type(),
            AttachType::TraceUprobeMulti.raw()
        );
        let raw_tp = SecDef::find("tp_btf/sys_enter").unwrap().0;
        assert_eq!(raw_tp.attach_btf_name("sys_enter").0, "btf_trace_sys_enter");
    }
}
