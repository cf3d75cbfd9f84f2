//! bpf(2) over a library.
#![forbid(unsafe_code)]
