//! Contexts that are memory as it stands or nearly so: registers, tracepoints, buffers.

use super::rows::{at, field, load, sized};
use super::{
    CtxField,
    CtxReg::TpBuffer,
    Narrow, Step,
    Who::{Ctx, Dst},
};

const NONE: &[Step] = &[];
const PERF_REGS: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_perf_event_data_kern", "regs", 0)),
    load(8, Dst, Dst, at("pt_regs", "r15", 0).each()),
];
const PERF_SAMPLE_PERIOD: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_perf_event_data_kern", "data", 0)),
    load(8, Dst, Dst, at("perf_sample_data", "period", 0)),
];
const PERF_ADDR: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_perf_event_data_kern", "data", 0)),
    load(8, Dst, Dst, at("perf_sample_data", "addr", 0)),
];

pub(super) const PERF_EVENT: &[CtxField] = &[
    field("regs", 0, 168, sized(8, 8)).loaded(PERF_REGS),
    field("sample_period", 168, 8, sized(1, 8))
        .loaded(PERF_SAMPLE_PERIOD)
        .narrow(Narrow { unit: 8, target: 8 }),
    field("addr", 176, 8, sized(1, 8))
        .loaded(PERF_ADDR)
        .narrow(Narrow { unit: 8, target: 8 }),
];

pub(super) const KPROBE: &[CtxField] = &[field("pt_regs", 0, 168, sized(1, 8))];

pub(super) const TRACEPOINT: &[CtxField] = &[field("record", 8, 8184, sized(1, 8))];

pub(super) const RAW_TRACEPOINT: &[CtxField] = &[field("args", 0, 96, sized(1, 8))];

pub(super) const RAW_TRACEPOINT_WRITABLE: &[CtxField] = &[
    field("buffer", 0, 8, sized(8, 8)).yields(TpBuffer),
    field("args", 1, 95, sized(1, 8)),
];

pub(super) const SYSCALL: &[CtxField] = &[
    field("buffer", 0, 65535, sized(1, 8)).stored(sized(1, 8), NONE),
    field("buffer", 65528, 8, sized(2, 8)).stored(sized(2, 8), NONE),
];

pub(super) const LIRC: &[CtxField] = &[field("sample", 0, 4, sized(4, 4))];
