//! Programs on functions and tracepoints of a host.

mod common;
mod host;
mod panics;
mod tracepoints;
