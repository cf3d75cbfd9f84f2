//! One row per helper of Linux 6.18: its prototype and, from the same words, the Rust signature of its implementation.
//!
//! Each row is a zero-size type that implements [`Helper`]. Helpers whose first argument depends on the program type
//! have one row per variant, all with the same id; which program type gets which is said in `grants`.
//!
//! # Source
//! bpf-helpers(7) for meaning; argument and result kinds as the running kernel's errors name them.

use ring3_uapi::FuncId;

use crate::kinds::*;
use crate::{Arg, FuncProto};

/// A helper as a type.
pub trait Helper {
    /// What the verifier checks.
    const PROTO: FuncProto;
    /// The arguments of an implementation, as a tuple of [`Value`]s.
    type Args: Copy;
    /// Its result.
    type Ret: Copy;
}

const fn args(given: &[Arg]) -> [Arg; 5] {
    let mut all = [Arg::NONE; 5];
    let mut i = 0;
    while i < given.len() {
        all[i] = given[i];
        i += 1;
    }
    all
}

macro_rules! helpers {
    ($($name:ident $(= $id:ident)? ($($arg:ident: $kind:ty),*) -> $ret:ty $(, $attr:ident)*;)*) => {
        $(
            #[doc = concat!("`bpf_", helpers!(@name $name $($id)?), "`")]
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Helper for $name {
                const PROTO: FuncProto = FuncProto::new(
                    helpers!(@id $name $($id)?),
                    args(&[$(<$kind as ArgKind>::ARG),*]),
                    <$ret as RetKind>::RET,
                )$(.$attr())*;
                type Args = ($(Value<$kind>,)*);
                type Ret = Value<$ret>;
            }
        )*

        /// Every row, variants beside their helper.
        pub static ROWS: &[FuncProto] = &[$(<$name as Helper>::PROTO),*];
    };
    (@id $name:ident) => { FuncId::$name };
    (@id $name:ident $id:ident) => { FuncId::$id };
    (@name $name:ident) => { stringify!($name) };
    (@name $name:ident $id:ident) => { stringify!($id) };
}

helpers! {
    // Maps
    MapLookupElem(map: Map, key: Key) -> OrNull<MapValue>, pkt;
    MapUpdateElem(map: Map, key: Key, value: MapVal, flags: Any) -> Int, pkt;
    MapDeleteElem(map: Map, key: Key) -> Int, pkt;
    MapPushElem(map: Map, value: MapVal, flags: Any) -> Int, pkt;
    MapPopElem(map: Map, value: MapValOut) -> Int;
    MapPeekElem(map: Map, value: MapValOut) -> Int;
    MapLookupPercpuElem(map: Map, key: Key, cpu: Any) -> OrNull<MapValue>, pkt;
    ForEachMapElem(map: Map, callback: Func, ctx: OrNull<StackPtr>, flags: Any) -> Int;
    TailCall(ctx: Ctx, map: Map, index: Any) -> Void, changes_pkt;
    // Memory of tasks
    ProbeRead(dst: MemOut, size: SizeOrZero, src: Any) -> Int, gpl;
    ProbeReadStr(dst: MemOut, size: SizeOrZero, src: Any) -> Int, gpl;
    ProbeReadUser(dst: MemOut, size: SizeOrZero, src: Any) -> Int, gpl;
    ProbeReadKernel(dst: MemOut, size: SizeOrZero, src: Any) -> Int, gpl;
    ProbeReadUserStr(dst: MemOut, size: SizeOrZero, src: Any) -> Int, gpl;
    ProbeReadKernelStr(dst: MemOut, size: SizeOrZero, src: Any) -> Int, gpl;
    ProbeWriteUser(dst: Any, src: Mem, size: Size) -> Int, gpl;
    CopyFromUser(dst: MemOut, size: SizeOrZero, src: Any) -> Int, sleeps;
    CopyFromUserTask(dst: MemOut, size: SizeOrZero, src: Any, task: Btf<TaskStruct>, flags: Any) -> Int, gpl, sleeps;
    // Time, randomness, place
    KtimeGetNs() -> Int;
    KtimeGetBootNs() -> Int;
    KtimeGetCoarseNs() -> Int;
    KtimeGetTaiNs() -> Int;
    Jiffies64() -> Int;
    GetPrandomU32() -> Int;
    GetSmpProcessorId() -> Int, fastcall;
    GetNumaNodeId() -> Int;
    // Text
    TracePrintk(fmt: Mem, fmt_size: Size) -> Int, gpl;
    TraceVprintk(fmt: Mem, fmt_size: Size, data: OrNull<Mem>, data_len: SizeOrZero) -> Int, gpl;
    Snprintf(out: OrNull<MemInOut>, size: SizeOrZero, fmt: ConstStr, data: OrNull<Mem>, data_len: SizeOrZero) -> Int, gpl;
    SnprintfBtf(out: MemInOut, size: Size, ptr: Mem, ptr_size: Size, flags: Any) -> Int;
    SeqPrintf(seq: Btf<SeqFile>, fmt: Mem, fmt_size: Size, data: OrNull<Mem>, data_len: SizeOrZero) -> Int, gpl;
    SeqWrite(seq: Btf<SeqFile>, data: Mem, len: SizeOrZero) -> Int, gpl;
    SeqPrintfBtf(seq: Btf<SeqFile>, ptr: Mem, ptr_size: SizeOrZero, flags: Any) -> Int, gpl;
    Strtol(buf: Mem, len: Size, flags: Any, result: FixedMemOut<8>) -> Int;
    Strtoul(buf: Mem, len: Size, flags: Any, result: FixedMemOut<8>) -> Int;
    Strncmp(s1: Mem, size: Size, s2: ConstStr) -> Int;
    // Tasks
    GetCurrentPidTgid() -> Int;
    GetCurrentUidGid() -> Int;
    GetCurrentComm(buf: MemOut, size: Size) -> Int;
    GetCurrentTask() -> Int, gpl;
    GetCurrentTaskBtf() -> Trusted<TaskStruct>, gpl;
    GetNsCurrentPidTgid(dev: Any, ino: Any, nsdata: MemOut, size: Size) -> Int;
    TaskPtRegs(task: Btf<TaskStruct>) -> Btf<PtRegs>, gpl;
    FindVma(task: Btf<TaskStruct>, addr: Any, callback: Func, ctx: OrNull<StackPtr>, flags: Any) -> Int;
    SendSignal(sig: Any) -> Int;
    SendSignalThread(sig: Any) -> Int;
    GetCurrentCgroupId() -> Int;
    GetCurrentAncestorCgroupId(level: Any) -> Int;
    CurrentTaskUnderCgroup(map: Map, index: Any) -> Int;
    GetCgroupClassid(ctx: Ctx) -> Int;
    GetCgroupClassidCurr = GetCgroupClassid() -> Int;
    OverrideReturn(regs: Ctx, rc: Any) -> Int, gpl;
    // Performance events and stacks
    PerfEventRead(map: Map, flags: Any) -> Int, gpl;
    PerfEventReadValue(map: Map, flags: Any, buf: MemOut, size: Size) -> Int, gpl;
    PerfProgReadValue(ctx: Ctx, buf: MemOut, size: Size) -> Int, gpl;
    PerfEventOutput(ctx: Ctx, map: Map, flags: Any, data: Mem, size: SizeOrZero) -> Int, gpl;
    ReadBranchRecords(ctx: Ctx, buf: OrNull<MemInOut>, size: SizeOrZero, flags: Any) -> Int, gpl;
    GetBranchSnapshot(buf: MemOut, size: SizeOrZero) -> Int, gpl;
    GetStackid(ctx: Ctx, map: Map, flags: Any) -> Int, gpl;
    GetStack(ctx: Ctx, buf: MemOut, size: SizeOrZero, flags: Any) -> Int, gpl;
    GetTaskStack(task: Btf<TaskStruct>, buf: MemOut, size: SizeOrZero, flags: Any) -> Int;
    GetFuncIp(ctx: Ctx) -> Int, gpl;
    GetAttachCookie(ctx: Ctx) -> Int;
    GetFuncArg(ctx: Ctx, n: Any, value: FixedMemOut<8>) -> Int;
    GetFuncRet(ctx: Ctx, value: FixedMemOut<8>) -> Int;
    GetFuncArgCnt(ctx: Ctx) -> Int;
    SkbOutput(skb: Btf<SkBuff>, map: Map, flags: Any, data: Mem, size: SizeOrZero) -> Int, gpl;
    XdpOutput(xdp: Btf<XdpBuff>, map: Map, flags: Any, data: Mem, size: SizeOrZero) -> Int, gpl;
    DPath(path: Btf<Path>, buf: MemOut, size: SizeOrZero) -> Int, d_path;
    SockFromFile(file: Btf<File>) -> OrNull<Btf<SocketStruct>>;
    // Packets
    SkbStoreBytes(skb: Ctx, offset: Any, from: Mem, len: Size, flags: Any) -> Int, changes_pkt;
    SkbLoadBytes(skb: Ctx, offset: Any, to: MemOut, len: Size) -> Int;
    SkbLoadBytesRelative(skb: Ctx, offset: Any, to: MemOut, len: Size, start: Any) -> Int;
    L3CsumReplace(skb: Ctx, offset: Any, from: Any, to: Any, flags: Any) -> Int, changes_pkt;
    L4CsumReplace(skb: Ctx, offset: Any, from: Any, to: Any, flags: Any) -> Int, changes_pkt;
    CsumDiff(from: OrNull<Mem>, from_size: SizeOrZero, to: OrNull<Mem>, to_size: SizeOrZero, seed: Any) -> Int, pkt;
    CsumUpdate(skb: Ctx, csum: Any) -> Int;
    CsumLevel(skb: Ctx, level: Any) -> Int;
    CloneRedirect(skb: Ctx, ifindex: Any, flags: Any) -> Int, changes_pkt;
    Redirect(ifindex: Any, flags: Any) -> Int;
    RedirectPeer(ifindex: Any, flags: Any) -> Int;
    RedirectNeigh(ifindex: Any, params: OrNull<Mem>, plen: SizeOrZero, flags: Any) -> Int;
    RedirectMap(map: Map, key: Any, flags: Any) -> Int;
    GetRouteRealm(skb: Ctx) -> Int;
    SkbVlanPush(skb: Ctx, proto: Any, tci: Any) -> Int, changes_pkt;
    SkbVlanPop(skb: Ctx) -> Int, changes_pkt;
    SkbGetTunnelKey(skb: Ctx, key: MemOut, size: Size, flags: Any) -> Int;
    SkbSetTunnelKey(skb: Ctx, key: Mem, size: Size, flags: Any) -> Int;
    SkbGetTunnelOpt(skb: Ctx, opt: MemOut, size: Size) -> Int;
    SkbSetTunnelOpt(skb: Ctx, opt: Mem, size: Size) -> Int;
    SkbChangeProto(skb: Ctx, proto: Any, flags: Any) -> Int, changes_pkt;
    SkbChangeType(skb: Ctx, pkt_type: Any) -> Int;
    SkbChangeTail(skb: Ctx, len: Any, flags: Any) -> Int, changes_pkt;
    SkbChangeHead(skb: Ctx, len: Any, flags: Any) -> Int, changes_pkt;
    SkbPullData(skb: Ctx, len: Any) -> Int, changes_pkt;
    SkbAdjustRoom(skb: Ctx, len_diff: Any, mode: Any, flags: Any) -> Int, changes_pkt;
    SkbUnderCgroup(skb: Ctx, map: Map, index: Any) -> Int;
    SkbCgroupClassid(skb: Ctx) -> Int;
    SkbCgroupId(skb: Ctx) -> Int;
    SkbAncestorCgroupId(skb: Ctx, level: Any) -> Int;
    SkbEcnSetCe(skb: Ctx) -> Int;
    SkbGetXfrmState(skb: Ctx, index: Any, state: MemOut, size: Size, flags: Any) -> Int;
    SkbSetTstamp(skb: Ctx, tstamp: Any, tstamp_type: Any) -> Int;
    GetHashRecalc(skb: Ctx) -> Int;
    SetHashInvalid(skb: Ctx) -> Int;
    SetHash(skb: Ctx, hash: Any) -> Int;
    FibLookup(ctx: Ctx, params: MemInOut, plen: Size, flags: Any) -> Int, gpl;
    CheckMtu(ctx: Ctx, ifindex: Any, mtu_len: FixedMemInOut<4>, len_diff: Any, flags: Any) -> Int, gpl;
    LwtPushEncap(skb: Ctx, ty: Any, hdr: Mem, len: Size) -> Int, changes_pkt;
    LwtSeg6StoreBytes(skb: Ctx, offset: Any, from: Mem, len: Size) -> Int, changes_pkt;
    LwtSeg6AdjustSrh(skb: Ctx, offset: Any, delta: Any) -> Int, changes_pkt;
    LwtSeg6Action(skb: Ctx, action: Any, param: Mem, len: Size) -> Int, changes_pkt;
    // XDP
    XdpAdjustHead(xdp: Ctx, delta: Any) -> Int, changes_pkt;
    XdpAdjustTail(xdp: Ctx, delta: Any) -> Int, changes_pkt;
    XdpAdjustMeta(xdp: Ctx, delta: Any) -> Int, changes_pkt;
    XdpGetBuffLen(xdp: Ctx) -> Int;
    XdpGetBuffLenTracing = XdpGetBuffLen(xdp: Btf<XdpBuff>) -> Int;
    XdpLoadBytes(xdp: Ctx, offset: Any, buf: MemOut, len: Size) -> Int;
    XdpStoreBytes(xdp: Ctx, offset: Any, buf: Mem, len: Size) -> Int;
    // Sockets
    GetSocketCookie(ctx: Ctx) -> Int;
    GetSocketCookieTracing = GetSocketCookie(sk: OrNull<BtfSock>) -> Int;
    GetSocketUid(skb: Ctx) -> Int;
    GetNetnsCookie(ctx: OrNull<Ctx>) -> Int;
    Setsockopt(ctx: Ctx, level: Any, optname: Any, optval: Mem, optlen: Size) -> Int;
    SetsockoptSk = Setsockopt(sk: BtfSock, level: Any, optname: Any, optval: Mem, optlen: Size) -> Int;
    SetsockoptIter = Setsockopt(sk: BtfSock, level: Any, optname: Any, optval: Mem, optlen: Size) -> Int, socket_iter;
    Getsockopt(ctx: Ctx, level: Any, optname: Any, optval: MemOut, optlen: Size) -> Int;
    GetsockoptSk = Getsockopt(sk: BtfSock, level: Any, optname: Any, optval: MemOut, optlen: Size) -> Int;
    GetsockoptIter = Getsockopt(sk: BtfSock, level: Any, optname: Any, optval: MemOut, optlen: Size) -> Int, socket_iter;
    Bind(ctx: Ctx, addr: Mem, addr_len: Size) -> Int;
    SockOpsCbFlagsSet(ctx: Ctx, argval: Any) -> Int;
    LoadHdrOpt(ctx: Ctx, searchby_res: MemInOut, len: Size, flags: Any) -> Int;
    StoreHdrOpt(ctx: Ctx, from: Mem, len: Size, flags: Any) -> Int, changes_pkt;
    ReserveHdrOpt(ctx: Ctx, len: Any, flags: Any) -> Int;
    SockMapUpdate(ctx: Ctx, map: Map, key: Key, flags: Any) -> Int, pkt;
    SockHashUpdate(ctx: Ctx, map: Map, key: Key, flags: Any) -> Int, pkt;
    SkRedirectMap(skb: Ctx, map: Map, key: Any, flags: Any) -> Int;
    SkRedirectHash(skb: Ctx, map: Map, key: Key, flags: Any) -> Int;
    MsgRedirectMap(msg: Ctx, map: Map, key: Any, flags: Any) -> Int;
    MsgRedirectHash(msg: Ctx, map: Map, key: Key, flags: Any) -> Int;
    MsgApplyBytes(msg: Ctx, bytes: Any) -> Int;
    MsgCorkBytes(msg: Ctx, bytes: Any) -> Int;
    MsgPullData(msg: Ctx, start: Any, end: Any, flags: Any) -> Int, changes_pkt;
    MsgPushData(msg: Ctx, start: Any, len: Any, flags: Any) -> Int, changes_pkt;
    MsgPopData(msg: Ctx, start: Any, len: Any, flags: Any) -> Int, changes_pkt;
    SkSelectReuseport(reuse: Ctx, map: Map, key: Key, flags: Any) -> Int;
    SkLookupTcp(ctx: Ctx, tuple: Mem, tuple_size: SizeOrZero, netns: Any, flags: Any) -> OrNull<Socket>, pkt;
    SkLookupUdp(ctx: Ctx, tuple: Mem, tuple_size: SizeOrZero, netns: Any, flags: Any) -> OrNull<Socket>, pkt;
    SkcLookupTcp(ctx: Ctx, tuple: Mem, tuple_size: SizeOrZero, netns: Any, flags: Any) -> OrNull<SockCommonRet>, pkt;
    SkRelease(sk: Released<BtfSock>) -> Int;
    SkFullsock(sk: SockCommonPtr) -> OrNull<Socket>;
    TcpSockOf = TcpSock(sk: SockCommonPtr) -> OrNull<TcpSocket>;
    GetListenerSock(sk: SockCommonPtr) -> OrNull<Socket>;
    SkAssign(ctx: Ctx, sk: BtfSock, flags: Any) -> Int;
    SkAssignLookup = SkAssign(ctx: Ctx, sk: OrNull<SocketPtr>, flags: Any) -> Int;
    SkCgroupId(sk: BtfSock) -> Int;
    SkAncestorCgroupId(sk: BtfSock, level: Any) -> Int;
    SkcToTcp6Sock(sk: BtfSock) -> OrNull<Btf<Tcp6Sock>>;
    SkcToTcpSock(sk: BtfSock) -> OrNull<Btf<TcpSock>>;
    SkcToTcpTimewaitSock(sk: BtfSock) -> OrNull<Btf<TcpTimewaitSock>>;
    SkcToTcpRequestSock(sk: BtfSock) -> OrNull<Btf<TcpRequestSock>>;
    SkcToUdp6Sock(sk: BtfSock) -> OrNull<Btf<Udp6Sock>>;
    SkcToUnixSock(sk: BtfSock) -> OrNull<Btf<UnixSock>>;
    SkcToMptcpSock(sk: SockCommonPtr) -> OrNull<Btf<MptcpSock>>;
    TcpSendAck(tp: Btf<TcpSock>, rcv_nxt: Any) -> Int;
    TcpCheckSyncookie(sk: BtfSock, iph: Mem, iph_len: Size, th: Mem, th_len: Size) -> Int, gpl, pkt;
    TcpGenSyncookie(sk: BtfSock, iph: Mem, iph_len: Size, th: Mem, th_len: Size) -> Int, gpl, pkt;
    TcpRawGenSyncookieIpv4(iph: FixedMem<20>, th: Mem, th_len: SizeOrZero) -> Int, gpl, pkt;
    TcpRawGenSyncookieIpv6(iph: FixedMem<40>, th: Mem, th_len: SizeOrZero) -> Int, gpl, pkt;
    TcpRawCheckSyncookieIpv4(iph: FixedMem<20>, th: FixedMem<20>) -> Int, gpl, pkt;
    TcpRawCheckSyncookieIpv6(iph: FixedMem<40>, th: FixedMem<20>) -> Int, gpl, pkt;
    // Storage
    GetLocalStorage(map: Map, flags: Any) -> MapValue;
    SkStorageGet(map: Map, sk: BtfSock, value: OrNull<MapVal>, flags: Any) -> OrNull<MapValue>;
    SkStorageGetCgSock = SkStorageGet(map: Map, sk: Ctx, value: OrNull<MapVal>, flags: Any) -> OrNull<MapValue>;
    SkStorageGetTracing = SkStorageGet(map: Map, sk: OrNull<Btf<SockCommon>>, value: OrNull<MapVal>, flags: Any) -> OrNull<MapValue>, sk_storage_tracing;
    SkStorageDelete(map: Map, sk: BtfSock) -> Int;
    SkStorageDeleteTracing = SkStorageDelete(map: Map, sk: OrNull<Btf<SockCommon>>) -> Int, sk_storage_tracing;
    TaskStorageGet(map: Map, task: OrNull<Btf<TaskStruct>>, value: OrNull<MapVal>, flags: Any) -> OrNull<MapValue>;
    TaskStorageDelete(map: Map, task: OrNull<Btf<TaskStruct>>) -> Int;
    InodeStorageGet(map: Map, inode: OrNull<Btf<Inode>>, value: OrNull<MapVal>, flags: Any) -> OrNull<MapValue>;
    InodeStorageDelete(map: Map, inode: OrNull<Btf<Inode>>) -> Int;
    CgrpStorageGet(map: Map, cgroup: OrNull<Btf<Cgroup>>, value: OrNull<MapVal>, flags: Any) -> OrNull<MapValue>;
    CgrpStorageDelete(map: Map, cgroup: OrNull<Btf<Cgroup>>) -> Int;
    // Ring buffers and dynptrs
    RingbufOutput(map: Map, data: Mem, size: SizeOrZero, flags: Any) -> Int;
    RingbufReserve(map: Map, size: AllocSize, flags: Any) -> OrNull<RingbufRecord>;
    RingbufSubmit(data: Released<RingbufMem>, flags: Any) -> Void;
    RingbufDiscard(data: Released<RingbufMem>, flags: Any) -> Void;
    RingbufQuery(map: Map, flags: Any) -> Int;
    RingbufReserveDynptr(map: Map, size: Any, flags: Any, ptr: DynptrRingbufOut) -> Int;
    RingbufSubmitDynptr(ptr: DynptrRingbufRelease, flags: Any) -> Void;
    RingbufDiscardDynptr(ptr: DynptrRingbufRelease, flags: Any) -> Void;
    UserRingbufDrain(map: Map, callback: Func, ctx: OrNull<StackPtr>, flags: Any) -> Int;
    DynptrFromMem(data: MemOut, size: SizeOrZero, flags: Any, ptr: DynptrLocalOut) -> Int;
    DynptrRead(dst: MemOut, len: SizeOrZero, src: Dynptr, offset: Any, flags: Any) -> Int;
    DynptrWrite(dst: Dynptr, offset: Any, src: Mem, len: SizeOrZero, flags: Any) -> Int;
    DynptrData(ptr: Dynptr, offset: Any, len: AllocSize) -> OrNull<DynptrMem>;
    // Locks, timers, kernel pointers, loops
    SpinLock(lock: SpinLockPtr) -> Void;
    SpinUnlock(lock: SpinLockPtr) -> Void;
    TimerInit(timer: TimerPtr, map: Map, flags: Any) -> Int, gpl;
    TimerSetCallback(timer: TimerPtr, callback: Func) -> Int, gpl;
    TimerStart(timer: TimerPtr, nsecs: Any, flags: Any) -> Int, gpl;
    TimerCancel(timer: TimerPtr) -> Int, gpl;
    KptrXchg(dst: KptrDest, ptr: Released<OrNull<AnyBtf>>) -> OrNull<ExchangedBtf>;
    PerCpuPtr(ptr: PercpuVar, cpu: Any) -> OrNull<MemOrBtf>;
    ThisCpuPtr(ptr: PercpuVar) -> MemOrBtf;
    Loop(iterations: Any, callback: Func, ctx: OrNull<StackPtr>, flags: Any) -> Int;
    // cgroup hooks
    SysctlGetName(ctx: Ctx, buf: MemInOut, size: Size, flags: Any) -> Int;
    SysctlGetCurrentValue(ctx: Ctx, buf: MemOut, size: Size) -> Int;
    SysctlGetNewValue(ctx: Ctx, buf: MemOut, size: Size) -> Int;
    SysctlSetNewValue(ctx: Ctx, buf: Mem, size: Size) -> Int;
    GetRetval() -> Int;
    SetRetval(retval: Any) -> Int;
    // Infrared
    RcRepeat(ctx: Ctx) -> Int, gpl;
    RcKeydown(ctx: Ctx, protocol: Any, scancode: Any, toggle: Any) -> Int, gpl;
    RcPointerRel(ctx: Ctx, dx: Any, dy: Any) -> Int, gpl;
    // Security modules
    BprmOptsSet(bprm: Btf<LinuxBinprm>, flags: Any) -> Int;
    ImaInodeHash(inode: Btf<Inode>, dst: MemOut, size: Size) -> Int, sleeps, ima;
    ImaFileHash(file: Btf<File>, dst: MemOut, size: Size) -> Int, sleeps, ima;
    // bpf(2) from programs
    SysBpf(cmd: Any, attr: Mem, attr_size: Size) -> Int;
    BtfFindByNameKind(name: Mem, name_size: Size, kind: Any, flags: Any) -> Int;
    SysClose(fd: Any) -> Int;
    KallsymsLookupName(name: Mem, name_size: SizeOrZero, flags: Any, res: FixedMemOut<8>) -> Int;
}

/// Ids that have no row, with the reason.
pub const WITHOUT_ROW: &[(FuncId, &str)] = &[(FuncId::Unspec, "not a helper: id 0 is reserved")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArgBase, HelperId, TypeFlags};

    #[test]
    fn every_id_has_a_row_or_a_reason() {
        for &id in FuncId::ALL {
            let rows = ROWS
                .iter()
                .filter(|proto| proto.id == HelperId::Uapi(id))
                .count();
            let reasons = WITHOUT_ROW.iter().filter(|(other, _)| *other == id).count();
            assert!(
                (rows > 0) != (reasons > 0),
                "{id}: {rows} rows, {reasons} reasons"
            );
        }
    }

    #[test]
    fn sizes_follow_memory_and_arguments_have_no_gap() {
        for proto in ROWS {
            for (i, arg) in proto.args.iter().enumerate() {
                let is_size = matches!(arg.base, ArgBase::ConstSize | ArgBase::ConstSizeOrZero);
                let before = i.checked_sub(1).map(|j| proto.args[j]);
                let sized_mem_before = before.is_some_and(|before| {
                    before.base == ArgBase::PtrToMem && !before.has(TypeFlags::FIXED_SIZE)
                });
                assert_eq!(
                    is_size,
                    sized_mem_before,
                    "{} argument {}",
                    proto.name,
                    i + 1
                );
                if let Some(before) = before {
                    let gap = before.base == ArgBase::DontCare && arg.base != ArgBase::DontCare;
                    assert!(!gap, "{} argument {}", proto.name, i + 1);
                }
            }
        }
    }
}
