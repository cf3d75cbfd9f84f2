//! The kernel's log: the sink, states, instructions, source lines.

pub(crate) mod insn;
pub(crate) mod sink;
pub(crate) mod state;

pub(crate) use sink::vlog;
pub use sink::{Log, LogKeep};
