//! A pre-decoded BPF interpreter with a checked mode.
//!
//! [`Program::load`] turns a [`ring3_runtime::Linked`] program into steps. Verified programs run unchecked over host addresses through
//! [`Program::entry`]; [`Program::run_checked`] compares every access with the memory a run may touch, counts steps and shows each to a
//! trace; [`run_unverified`] does that for bare instructions.
//!
//! Neighbours: `ring3-isa` has the semantics, `ring3-runtime` the meeting points with the host, `jit-x86_64` is the other engine.
//!
//! ```
//! use ring3_interp::run_unverified;
//! use ring3_isa::{NoNames, parse_asm};
//!
//! let program = parse_asm("r0 = r2\nr0 *= 3\nexit", &NoNames)?;
//! let bytes: Vec<u8> = program.insns.iter().flat_map(|slot| slot.to_bytes()).collect();
//! assert_eq!(run_unverified(&bytes, &mut [0; 14]), Ok(42));
//! # Ok::<(), ring3_isa::AsmError>(())
//! ```

mod atomic;
mod checked;
mod fuse;
mod op;
mod predecode;
mod program;
mod run;
mod simple;
mod stack;
mod step;

pub use checked::{
    Checks, MemoryPolicy, RunError, RunErrorKind, Trace, TraceStep, UnverifiedError,
    run_unverified, run_unverified_with, watch,
};
pub use predecode::LoadError;
pub use program::Program;

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
