//! Which program type may call which helper, in which variant, with which privilege.
//!
//! A program type lists [`Grant`] sets (see [`crate::ProgTypeRow::helpers`]); the first grant that fits wins, as the
//! kernel asks the type's own function before the common one. Probed on Linux 6.18 for every loadable program and
//! attach type (recorded in fixtures/oracle/spec/helpers.txt, compared by a test); tracing, LSM, extension and
//! struct_ops programs come from the recorded corpus.

use ring3_uapi::{AttachType, FuncId};

use crate::helpers::{self as h, Helper};
use crate::{FuncProto, HelperId, Privilege};

/// What the loader must hold for a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// CAP_BPF.
    Bpf,
    /// CAP_BPF and CAP_PERFMON.
    Perfmon,
    /// CAP_NET_ADMIN
    NetAdmin,
}

impl Need {
    /// Whether a loader with this privilege has it.
    pub const fn is_met_by(self, privilege: Privilege) -> bool {
        match self {
            Need::Nothing => true,
            Need::Bpf => privilege.may_bpf(),
            Need::Perfmon => privilege.may_bpf() && privilege.may_perfmon(),
            Need::NetAdmin => privilege.net_admin || privilege.sys_admin,
        }
    }
}

/// A set of attach types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachSet(u64);

impl AttachSet {
    /// Any attach type, also numbers without a name.
    pub const ANY: AttachSet = AttachSet(u64::MAX);

    /// The bit of every number from here on.
    const OTHERS: u32 = 63;

    /// These.
    pub const fn of(types: &[AttachType]) -> AttachSet {
        let mut bits = 0;
        let mut i = 0;
        while i < types.len() {
            bits |= 1 << types[i].raw();
            i += 1;
        }
        AttachSet(bits)
    }

    /// All but these, also numbers without a name.
    pub const fn all_but(types: &[AttachType]) -> AttachSet {
        AttachSet(!AttachSet::of(types).0)
    }

    /// Whether this raw attach type is in the set.
    pub const fn contains(self, raw: u32) -> bool {
        let bit = if raw < AttachSet::OTHERS {
            raw
        } else {
            AttachSet::OTHERS
        };
        self.0 >> bit & 1 != 0
    }
}

/// Sleepable programs, others, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Either.
    Either,
    /// Only sleepable programs.
    Only,
}

/// One helper granted.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The prototype (variant) in force.
    pub proto: &'static FuncProto,
    /// Privilege needed.
    pub need: Need,
    /// Attach types at load.
    pub attach: AttachSet,
    /// Sleepability.
    pub sleep: Sleep,
}

impl Grant {
    /// The helper.
    pub const fn id(&self) -> HelperId {
        self.proto.id
    }
}

#[derive(Clone, Copy)]
enum Word {
    Nothing,
    Bpf,
    Perfmon,
    Sleeping,
}

const fn grant(proto: &'static FuncProto, word: Word, attach: AttachSet) -> Grant {
    let (need, sleep) = match word {
        Word::Nothing => (Need::Nothing, Sleep::Either),
        Word::Bpf => (Need::Bpf, Sleep::Either),
        Word::Perfmon => (Need::Perfmon, Sleep::Either),
        Word::Sleeping => (Need::Nothing, Sleep::Only),
    };
    Grant {
        proto,
        need,
        attach,
        sleep,
    }
}

macro_rules! grants {
    ($($(#[$meta:meta])* $set:ident { $($need:ident for $attach:ident: $($name:ident),* ;)* })*) => {
        $(
            $(#[$meta])*
            pub const $set: &[Grant] = &[$($(
                grant(&<h::$name as Helper>::PROTO, Word::$need, $attach),
            )*)*];
        )*
    };
}

use AttachType as A;

const ANY: AttachSet = AttachSet::ANY;
const CONNECT: AttachSet = AttachSet::of(&[A::CgroupInet4Connect, A::CgroupInet6Connect]);
const SETSOCKOPT: AttachSet = AttachSet::of(&[A::CgroupSetsockopt]);
const ITER: AttachSet = AttachSet::of(&[A::TraceIter]);
const RAW_TP: AttachSet = AttachSet::of(&[A::TraceRawTp]);
const FENTRY: AttachSet = AttachSet::of(&[A::TraceFentry, A::TraceFexit, A::ModifyReturn]);
/// Hooks whose return value reaches the system call: all but these.
const RETVAL: AttachSet = AttachSet::all_but(&[
    A::CgroupInetIngress,
    A::CgroupInetEgress,
    A::CgroupSockOps,
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
/// Members of `tcp_congestion_ops` (the expected attach type of a struct_ops program is the member's index) but `release`,
/// which may not set options of a socket that goes.
const NOT_TCP_RELEASE: AttachSet = AttachSet::all_but(&[A::FlowDissector]);
const _: () = assert!(A::FlowDissector.raw() == 17);
const LSM_MAC: AttachSet = AttachSet::of(&[A::LsmMac]);
const LSM_CGROUP: AttachSet = AttachSet::of(&[A::LsmCgroup]);

grants! {
    /// Granted to every program type.
    BASE {
        Nothing for ANY: MapLookupElem, MapUpdateElem, MapDeleteElem, MapPushElem, MapPopElem, MapPeekElem, MapLookupPercpuElem,
            GetPrandomU32, GetSmpProcessorId, GetNumaNodeId, TailCall, KtimeGetNs, KtimeGetBootNs, KtimeGetTaiNs,
            RingbufOutput, RingbufReserve, RingbufSubmit, RingbufDiscard, RingbufQuery, Strncmp, Strtol, Strtoul,
            GetCurrentPidTgid, GetNsCurrentPidTgid, GetCurrentUidGid;
        Bpf for ANY: SpinLock, SpinUnlock, Jiffies64, PerCpuPtr, ThisCpuPtr, TimerInit, TimerSetCallback, TimerStart,
            TimerCancel, KptrXchg, ForEachMapElem, Loop, UserRingbufDrain, RingbufReserveDynptr, RingbufSubmitDynptr,
            RingbufDiscardDynptr, DynptrFromMem, DynptrRead, DynptrWrite, DynptrData, CgrpStorageGet,
            CgrpStorageDelete, TaskStorageGet, TaskStorageDelete, GetCurrentCgroupId, GetCurrentAncestorCgroupId,
            CurrentTaskUnderCgroup, GetCgroupClassidCurr;
        Perfmon for ANY: TracePrintk, TraceVprintk, GetCurrentTask, GetCurrentTaskBtf, GetCurrentComm, ProbeReadUser,
            ProbeReadKernel, ProbeReadUserStr, ProbeReadKernelStr, Snprintf, SnprintfBtf, TaskPtRegs, PerfEventRead,
            PerfEventReadValue, SendSignal, SendSignalThread, GetTaskStack, CopyFromUser, CopyFromUserTask,
            GetBranchSnapshot, FindVma;
    }
    /// Casts of sockets, granted to types that handle sockets.
    SOCK_BASE {
        Perfmon for ANY: SkcToTcp6Sock, SkcToTcpSock, SkcToTcpTimewaitSock, SkcToTcpRequestSock, SkcToUdp6Sock, SkcToUnixSock,
            SkcToMptcpSock;
        Nothing for ANY: KtimeGetCoarseNs;
    }
    /// Only the coarse clock.
    COARSE_CLOCK {
        Nothing for ANY: KtimeGetCoarseNs;
    }
    /// Socket filter.
    SOCKET_FILTER {
        Nothing for ANY: SkbLoadBytes, SkbLoadBytesRelative, GetSocketCookie, GetSocketUid, GetNetnsCookie, PerfEventOutput;
    }
    /// Classifier and action.
    SCHED {
        Nothing for ANY: SkbStoreBytes, SkbLoadBytes, SkbLoadBytesRelative, SkbPullData, CsumDiff, CsumUpdate, CsumLevel,
            L3CsumReplace, L4CsumReplace, CloneRedirect, GetCgroupClassid, SkbVlanPush, SkbVlanPop, SkbChangeProto,
            SkbChangeType, SkbAdjustRoom, SkbChangeTail, SkbChangeHead, SkbGetTunnelKey, SkbSetTunnelKey,
            SkbGetTunnelOpt, SkbSetTunnelOpt, Redirect, RedirectNeigh, RedirectPeer, GetRouteRealm, GetHashRecalc,
            SetHashInvalid, SetHash, PerfEventOutput, SkbUnderCgroup, GetSocketCookie, GetNetnsCookie, GetSocketUid,
            FibLookup, CheckMtu, SkFullsock, SkStorageGet, SkStorageDelete, SkbGetXfrmState, SkbCgroupClassid,
            SkbCgroupId, SkbAncestorCgroupId, SkLookupTcp, SkLookupUdp, SkRelease, TcpSockOf, GetListenerSock,
            SkcLookupTcp, TcpCheckSyncookie, SkbEcnSetCe, TcpGenSyncookie, SkAssign, SkbSetTstamp,
            TcpRawGenSyncookieIpv4, TcpRawGenSyncookieIpv6, TcpRawCheckSyncookieIpv4, TcpRawCheckSyncookieIpv6;
    }
    /// XDP.
    XDP {
        Nothing for ANY: PerfEventOutput, CsumDiff, XdpAdjustHead, XdpAdjustMeta, Redirect, RedirectMap, XdpAdjustTail,
            XdpGetBuffLen, XdpLoadBytes, XdpStoreBytes, FibLookup, CheckMtu, SkLookupUdp, SkLookupTcp, SkRelease,
            SkcLookupTcp, TcpCheckSyncookie, TcpGenSyncookie, TcpRawGenSyncookieIpv4, TcpRawGenSyncookieIpv6,
            TcpRawCheckSyncookieIpv4, TcpRawCheckSyncookieIpv6;
    }
    /// cgroup ingress and egress.
    CGROUP_SKB {
        Nothing for ANY: GetLocalStorage, SkFullsock, SkStorageGet, SkStorageDelete, PerfEventOutput, SkbCgroupId,
            SkbAncestorCgroupId, SkCgroupId, SkAncestorCgroupId, SkLookupTcp, SkLookupUdp, SkRelease, SkcLookupTcp,
            TcpSockOf, GetListenerSock, SkbEcnSetCe;
    }
    /// cgroup socket creation, binding and release.
    CGROUP_SOCK {
        Nothing for ANY: GetRetval, SetRetval, GetLocalStorage, GetSocketCookie, GetNetnsCookie, PerfEventOutput,
            SkStorageGetCgSock, KtimeGetCoarseNs;
    }
    /// Lightweight tunnels.
    LWT_OUT {
        Nothing for ANY: SkbLoadBytes, SkbPullData, CsumDiff, GetCgroupClassid, GetRouteRealm, GetHashRecalc, PerfEventOutput,
            SkbUnderCgroup;
    }
    /// Encapsulation by a tunnel program.
    LWT_ENCAP {
        Nothing for ANY: LwtPushEncap;
    }
    /// Transmission by a tunnel program.
    LWT_XMIT {
        Nothing for ANY: SkbGetTunnelKey, SkbSetTunnelKey, SkbGetTunnelOpt, SkbSetTunnelOpt, Redirect, CloneRedirect,
            SkbChangeTail, SkbChangeHead, SkbStoreBytes, CsumUpdate, CsumLevel, L3CsumReplace, L4CsumReplace,
            SetHashInvalid;
    }
    /// IPv6 segment routing.
    LWT_SEG6LOCAL {
        Nothing for ANY: LwtSeg6StoreBytes, LwtSeg6Action, LwtSeg6AdjustSrh;
    }
    /// TCP socket events.
    SOCK_OPS {
        Nothing for RETVAL: GetRetval, SetRetval;
        Nothing for ANY: Setsockopt, Getsockopt, SockOpsCbFlagsSet, SockMapUpdate, SockHashUpdate, GetSocketCookie,
            GetLocalStorage, PerfEventOutput, SkStorageGet, SkStorageDelete, GetNetnsCookie, LoadHdrOpt, StoreHdrOpt,
            ReserveHdrOpt, TcpSockOf;
    }
    /// Socket map parser and verdict.
    SK_SKB {
        Nothing for ANY: SkbStoreBytes, SkbLoadBytes, SkbPullData, SkbChangeTail, SkbChangeHead, SkbAdjustRoom,
            GetSocketCookie, GetSocketUid, SkRedirectMap, SkRedirectHash, PerfEventOutput, SkLookupTcp, SkLookupUdp,
            SkRelease, SkcLookupTcp;
    }
    /// Socket map message verdict.
    SK_MSG {
        Nothing for ANY: MsgRedirectMap, MsgRedirectHash, MsgApplyBytes, MsgCorkBytes, MsgPullData, MsgPushData, MsgPopData,
            PerfEventOutput, SkStorageGet, SkStorageDelete, GetNetnsCookie;
    }
    /// cgroup device and system control hooks: storage and events.
    CGROUP_EVENTS {
        Nothing for RETVAL: GetRetval, SetRetval;
        Nothing for ANY: GetLocalStorage, PerfEventOutput;
    }
    /// System controls.
    CGROUP_SYSCTL {
        Nothing for ANY: SysctlGetName, SysctlGetCurrentValue, SysctlGetNewValue, SysctlSetNewValue, KtimeGetCoarseNs;
    }
    /// Address hooks.
    CGROUP_SOCK_ADDR {
        Nothing for RETVAL: GetRetval, SetRetval;
        Nothing for CONNECT: Bind;
        Nothing for ANY: GetSocketCookie, GetNetnsCookie, GetLocalStorage, PerfEventOutput, SkLookupTcp, SkLookupUdp,
            SkRelease, SkcLookupTcp, SkStorageGet, SkStorageDelete, Setsockopt, Getsockopt;
    }
    /// Socket options.
    CGROUP_SOCKOPT {
        Nothing for ANY: GetRetval, SetRetval, GetNetnsCookie, GetLocalStorage, SkStorageGet, SkStorageDelete, TcpSockOf,
            PerfEventOutput;
        Nothing for SETSOCKOPT: SetsockoptSk, GetsockoptSk;
    }
    /// Infrared receivers.
    LIRC_MODE2 {
        Nothing for ANY: RcRepeat, RcKeydown, RcPointerRel, MapLookupElem, MapUpdateElem, MapDeleteElem, MapPushElem,
            MapPopElem, MapPeekElem, KtimeGetNs, KtimeGetBootNs, TailCall, GetPrandomU32;
        Perfmon for ANY: TracePrintk, TraceVprintk;
    }
    /// Choice of a socket in a reuseport group.
    SK_REUSEPORT {
        Nothing for ANY: SkSelectReuseport, SkbLoadBytes, SkbLoadBytesRelative, GetSocketCookieTracing, KtimeGetCoarseNs;
    }
    /// Flow dissection.
    FLOW_DISSECTOR {
        Nothing for ANY: SkbLoadBytes;
    }
    /// Socket lookup.
    SK_LOOKUP {
        Nothing for ANY: PerfEventOutput, SkAssignLookup, SkRelease;
    }
    /// Common to all tracing programs.
    TRACING_COMMON {
        Nothing for ANY: ProbeRead, ProbeReadStr, PerfEventOutput, GetStackid, GetStack, GetFuncIp;
    }
    /// Attach cookies.
    ATTACH_COOKIE {
        Nothing for ANY: GetAttachCookie;
    }
    /// Perf events.
    PERF_EVENT {
        Nothing for ANY: PerfProgReadValue, ReadBranchRecords;
    }
    /// Functions, iterators and typed raw tracepoints.
    TRACING {
        Nothing for ANY: SkbOutput, XdpOutput;
        Nothing for ANY: SkcToTcp6Sock, SkcToTcpSock, SkcToTcpTimewaitSock, SkcToTcpRequestSock, SkcToUdp6Sock, SkcToUnixSock,
            SkcToMptcpSock;
        Nothing for ANY: SkStorageGetTracing, SkStorageDeleteTracing, SockFromFile, GetSocketCookieTracing,
            XdpGetBuffLenTracing, DPath;
        Nothing for ITER: SeqPrintf, SeqWrite, SeqPrintfBtf, SetsockoptIter, GetsockoptIter;
        Nothing for FENTRY: GetFuncArg, GetFuncRet, GetFuncArgCnt, GetAttachCookie;
        Nothing for RAW_TP: GetAttachCookie;
    }
    /// Programs of system calls.
    SYSCALL {
        Perfmon for ANY: SysBpf;
        Nothing for ANY: BtfFindByNameKind, SysClose, KallsymsLookupName;
    }
    /// Security hooks.
    LSM {
        Nothing for ANY: InodeStorageGet, InodeStorageDelete, SkStorageGet, SkStorageDelete, BprmOptsSet;
        Sleeping for ANY: ImaInodeHash, ImaFileHash;
        Nothing for LSM_MAC: GetAttachCookie;
        Nothing for LSM_CGROUP: GetLocalStorage, GetRetval, SetRetval, GetNetnsCookie, SetsockoptSk, GetsockoptSk;
    }
    /// Kernel interfaces implemented by programs: what tcp congestion control adds.
    STRUCT_OPS {
        Nothing for ANY: TcpSendAck, SkStorageGet, SkStorageDelete, KtimeGetCoarseNs;
        Nothing for NOT_TCP_RELEASE: SetsockoptSk, GetsockoptSk;
    }
}

/// Helpers of 6.18 that no program type of the reference configuration is granted, with the reason.
pub const UNGRANTED: &[(FuncId, &str)] = &[
    (FuncId::Unspec, "not a helper"),
    (
        FuncId::OverrideReturn,
        "the reference kernel is built without CONFIG_BPF_KPROBE_OVERRIDE",
    ),
    (
        FuncId::ProbeWriteUser,
        "refused since the reference kernel is locked down",
    ),
];
