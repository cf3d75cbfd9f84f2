//! Questions to a cgroup: devices, sysctls, socket options.

use ring3_uapi::AttachType as A;

use super::rows::{at, field, load, sized, store};
use super::{
    CtxField,
    CtxReg::{Packet, PacketEnd, Sock},
    Narrow, Step,
    Who::{Ctx, Dst, Tmp, Val},
};

const DEVICE_ACCESS_TYPE: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("bpf_cgroup_dev_ctx", "access_type", 0),
)];
const DEVICE_MAJOR: &[Step] = &[load(4, Dst, Ctx, at("bpf_cgroup_dev_ctx", "major", 0))];
const DEVICE_MINOR: &[Step] = &[load(4, Dst, Ctx, at("bpf_cgroup_dev_ctx", "minor", 0))];
const SYSCTL_WRITE: &[Step] = &[load(4, Dst, Ctx, at("bpf_sysctl_kern", "write", 0))];
const SYSCTL_FILE_POS: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sysctl_kern", "ppos", 0)),
    load(4, Dst, Dst, at("", "", 0)),
];
const SYSCTL_FILE_POS_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sysctl_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sysctl_kern", "ppos", 0)),
    store(4, Tmp, at("", "", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sysctl_kern", "tmp_reg", 0)),
];
const SOCKOPT_SK: &[Step] = &[load(8, Dst, Ctx, at("bpf_sockopt_kern", "sk", 0))];
const SOCKOPT_OPTVAL: &[Step] = &[load(8, Dst, Ctx, at("bpf_sockopt_kern", "optval", 0))];
const SOCKOPT_OPTVAL_END: &[Step] = &[load(8, Dst, Ctx, at("bpf_sockopt_kern", "optval_end", 0))];
const SOCKOPT_LEVEL: &[Step] = &[load(4, Dst, Ctx, at("bpf_sockopt_kern", "level", 0))];
const SOCKOPT_LEVEL_STORE: &[Step] = &[store(4, Ctx, at("bpf_sockopt_kern", "level", 0), Val)];
const SOCKOPT_OPTNAME: &[Step] = &[load(4, Dst, Ctx, at("bpf_sockopt_kern", "optname", 0))];
const SOCKOPT_OPTNAME_STORE: &[Step] = &[store(4, Ctx, at("bpf_sockopt_kern", "optname", 0), Val)];
const SOCKOPT_OPTLEN: &[Step] = &[load(4, Dst, Ctx, at("bpf_sockopt_kern", "optlen", 0))];
const SOCKOPT_OPTLEN_STORE: &[Step] = &[store(4, Ctx, at("bpf_sockopt_kern", "optlen", 0), Val)];
const SOCKOPT_RETVAL: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sockopt_kern", "current_task", 0)),
    load(8, Dst, Dst, at("task_struct", "bpf_ctx", 0)),
    load(4, Dst, Dst, at("bpf_cg_run_ctx", "retval", 0)),
];
const SOCKOPT_RETVAL_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sockopt_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sockopt_kern", "current_task", 0)),
    load(8, Tmp, Tmp, at("task_struct", "bpf_ctx", 0)),
    store(4, Tmp, at("bpf_cg_run_ctx", "retval", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sockopt_kern", "tmp_reg", 0)),
];

pub(super) const CGROUP_DEVICE: &[CtxField] = &[
    field("access_type", 0, 4, sized(1, 4))
        .loaded(DEVICE_ACCESS_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("major", 4, 4, sized(4, 4)).loaded(DEVICE_MAJOR),
    field("minor", 8, 4, sized(4, 4)).loaded(DEVICE_MINOR),
];

pub(super) const SYSCTL: &[CtxField] = &[
    field("write", 0, 4, sized(1, 4))
        .loaded(SYSCTL_WRITE)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("file_pos", 4, 4, sized(1, 4))
        .stored(sized(4, 4), SYSCTL_FILE_POS_STORE)
        .loaded(SYSCTL_FILE_POS)
        .narrow(Narrow { unit: 4, target: 4 }),
];

pub(super) const SOCKOPT: &[CtxField] = &[
    field("sk", 0, 8, sized(8, 8))
        .yields(Sock)
        .loaded(SOCKOPT_SK),
    field("optval", 8, 8, sized(8, 8))
        .yields(Packet)
        .loaded(SOCKOPT_OPTVAL),
    field("optval_end", 16, 8, sized(8, 8))
        .yields(PacketEnd)
        .loaded(SOCKOPT_OPTVAL_END),
    field("level", 24, 4, sized(4, 4))
        .loaded(SOCKOPT_LEVEL)
        .only(&[A::CgroupGetsockopt]),
    field("level", 24, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_LEVEL_STORE)
        .loaded(SOCKOPT_LEVEL)
        .only(&[A::CgroupSetsockopt]),
    field("optname", 28, 4, sized(4, 4))
        .loaded(SOCKOPT_OPTNAME)
        .only(&[A::CgroupGetsockopt]),
    field("optname", 28, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_OPTNAME_STORE)
        .loaded(SOCKOPT_OPTNAME)
        .only(&[A::CgroupSetsockopt]),
    field("optlen", 32, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_OPTLEN_STORE)
        .loaded(SOCKOPT_OPTLEN),
    field("retval", 36, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_RETVAL_STORE)
        .loaded(SOCKOPT_RETVAL)
        .only(&[A::CgroupGetsockopt]),
];
