//! bpf(2): attribute bytes in, errno out, independent of transport.

#![forbid(unsafe_code)]
