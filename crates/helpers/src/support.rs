//! What each helper works on here, and why some do not run: the words of docs/support.md.
//!
//! Key types: [`Support`], [`support`]. A test holds the table and the implementations together.

use ring3_uapi::{AttachType, FuncId, ProgType};

use crate::find_for;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As in the kernel: on maps, memory, the host's process, clocks and processors.
    Runs,
    /// On a model of something that a process does not have.
    RunsOn(&'static str),
    /// The program is refused before it starts, with ENOTSUPP.
    Refused(&'static str),
}

/// Whether some program gets an implementation.
fn runs(id: FuncId) -> bool {
    let attach_types = || AttachType::ALL.iter().copied().map(Some).chain([None]);
    // Engines make tail calls themselves.
    id == FuncId::TailCall
        || ProgType::ALL.iter().any(|&prog_type| {
            attach_types().any(|attach| find_for(prog_type, attach, id).is_some())
        })
}

/// What becomes of calls of a helper.
pub fn support(id: FuncId) -> Support {
    let listed = |table: &[(&'static str, &[FuncId])]| {
        let row = table.iter().find(|(_, ids)| ids.contains(&id))?;
        Some(row.0)
    };
    if runs(id) {
        listed(MODELS).map_or(Support::Runs, Support::RunsOn)
    } else {
        Support::Refused(listed(REFUSALS).unwrap_or("no implementation"))
    }
}

use FuncId::*;

/// What helpers work on where it is not the real thing.
#[rustfmt::skip]
const MODELS: &[(&str, &[FuncId])] = &[
    (
        "modelled packets",
        &[
            SkbStoreBytes, L3CsumReplace, L4CsumReplace, SkbVlanPush, SkbVlanPop, SkbLoadBytes, SkbChangeProto, SkbChangeType, GetHashRecalc,
            SkbChangeTail, SkbPullData, CsumUpdate, SetHashInvalid, SkbChangeHead, XdpAdjustHead, SetHash, SkbAdjustRoom, XdpAdjustMeta,
            XdpAdjustTail, SkbLoadBytesRelative, SkbEcnSetCe, CsumLevel, CheckMtu, XdpGetBuffLen, XdpLoadBytes, XdpStoreBytes, SkbSetTstamp,
            SkbGetTunnelKey, SkbSetTunnelKey, SkbGetTunnelOpt, SkbSetTunnelOpt,
        ],
    ),
    (
        "modelled devices and routes",
        &[CloneRedirect, Redirect, RedirectMap, RedirectNeigh, RedirectPeer, FibLookup, GetRouteRealm],
    ),
    (
        "modelled sockets",
        &[
            GetSocketCookie, GetSocketUid, GetNetnsCookie, Getsockopt, SkLookupTcp, SkLookupUdp, SkcLookupTcp, SkRelease, SkFullsock, TcpSock,
            GetListenerSock, SkStorageGet, SkStorageDelete, SkcToTcp6Sock, SkcToTcpSock, SkcToTcpTimewaitSock, SkcToTcpRequestSock,
            SkcToUdp6Sock, SkcToUnixSock, SkcToMptcpSock, SkCgroupId, SkAssign, SkAncestorCgroupId, TcpCheckSyncookie, TcpGenSyncookie,
        ],
    ),
    (
        "modelled cgroups",
        &[
            GetCgroupClassid, SkbUnderCgroup, CurrentTaskUnderCgroup, GetCurrentCgroupId, GetCurrentAncestorCgroupId, SkbCgroupId,
            SkbAncestorCgroupId, SkbCgroupClassid, GetLocalStorage, CgrpStorageGet, CgrpStorageDelete, GetRetval, SetRetval,
        ],
    ),
    (
        "a modelled task_struct of the host's thread",
        &[GetCurrentTask, GetCurrentTaskBtf, TaskStorageGet, TaskStorageDelete],
    ),
    ("modelled files", &[DPath, InodeStorageGet, InodeStorageDelete, SockFromFile]),
    (
        "system controls that the host has",
        &[SysctlGetName, SysctlGetCurrentValue, SysctlGetNewValue, SysctlSetNewValue],
    ),
    ("files that nobody measures", &[ImaInodeHash, ImaFileHash]),
    ("packets that were never in IPsec", &[SkbGetXfrmState]),
    ("modelled mappings of the host's process", &[FindVma]),
    ("the host's frames", &[GetStack, GetStackid, GetTaskStack]),
    (
        "sinks and counters that the host offers",
        &[PerfEventOutput, PerfEventRead, PerfEventReadValue, TracePrintk, TraceVprintk],
    ),
    ("zeroed copies of the kernel's variables", &[PerCpuPtr, ThisCpuPtr]),
    ("functions of the host on trampolines", &[GetFuncIp, GetFuncArg, GetFuncRet, GetFuncArgCnt, GetAttachCookie]),
    ("a processor without branch records", &[GetBranchSnapshot]),
    ("the process as far as the host permits", &[SendSignal, SendSignalThread, ProbeWriteUser]),
    ("the types that the system was given", &[BtfFindByNameKind, SnprintfBtf]),
    ("a kernel without symbols", &[KallsymsLookupName]),
    ("the descriptors of the caller of bpf(2)", &[SysBpf, SysClose]),
    ("the text of an iterator", &[SeqPrintf, SeqWrite, SeqPrintfBtf]),
];

/// Why calls are refused.
#[rustfmt::skip]
const REFUSALS: &[(&str, &[FuncId])] = &[
    (
        "options of modelled sockets are their host's to set",
        &[Setsockopt, Bind, SockOpsCbFlagsSet, LoadHdrOpt, StoreHdrOpt, ReserveHdrOpt],
    ),
    (
        "socket maps move no data here",
        &[
            SkRedirectMap, SockMapUpdate, MsgRedirectMap, MsgApplyBytes, MsgCorkBytes, MsgPullData, SockHashUpdate, MsgRedirectHash,
            SkRedirectHash, MsgPushData, MsgPopData,
        ],
    ),
    ("no hook delivers packets to sockets", &[SkSelectReuseport]),
    ("connections have no handshake here", &[TcpSendAck]),
    (
        "lightweight tunnels end packets at their hook here",
        &[LwtPushEncap, LwtSeg6StoreBytes, LwtSeg6AdjustSrh, LwtSeg6Action],
    ),
    ("there is no infrared receiver here", &[RcRepeat, RcKeydown, RcPointerRel]),
    ("programs of perf events have no context here", &[PerfProgReadValue, ReadBranchRecords]),
    ("functions cannot be left before they begin here, and the reference kernel has no such option", &[OverrideReturn]),
    ("registers of the host's tasks are not kept", &[TaskPtRegs]),
    ("there is no exec hook here", &[BprmOptsSet]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_force_and_every_refusal_has_a_reason() {
        for (what, ids) in MODELS {
            for &id in *ids {
                assert_eq!(support(id), Support::RunsOn(what), "{id}");
            }
        }
        for (why, ids) in REFUSALS {
            for &id in *ids {
                assert_eq!(support(id), Support::Refused(why), "{id}");
            }
        }
        let all = FuncId::ALL.iter().filter(|&&id| id != Unspec);
        let running = all.filter(|&&id| match support(id) {
            Support::Runs | Support::RunsOn(_) => true,
            Support::Refused(why) => {
                assert_ne!(why, "no implementation", "{id}");
                false
            }
        });
        assert!(running.count() >= 140);
    }
}
