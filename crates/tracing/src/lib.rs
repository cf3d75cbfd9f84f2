//! Host functions and BPF programs as fentry/fexit targets, raw tracepoints, perf events.

#![forbid(unsafe_code)]
