//! A BPF to x86-64 compiler: a [`ring3_runtime::Linked`] program in, machine code in a pack out.
//!
//! Two passes over the program. `plan` decodes each instruction once and finds what whole functions need (saved registers, frame, jump
//! targets, a size estimate per slot) and `live` which registers are still read where; `emit` walks the plan and writes code, consulting for each instruction the file of its kind (`alu`, `mem`,
//! `jmp`, `atomic`, `call`, `tail_call`) and before that `fuse`, whose rules look at several instructions. `pack` owns memory, `checked` the mode in which
//! memory accesses are checked, `listing` the picture of the result.
//!
//! What is deliberately absent: no knowledge of maps, helpers or program types; no register allocation (BPF's registers map one to one);
//! no third pass (a jump whose short form turns out too short makes the whole program compile once more with near jumps).
//!
//! ```
//! use ring3_isa::{RawInsn, parse_asm, NoNames};
//! use ring3_jit_x86_64::{Options, compile};
//! use ring3_runtime::{Linked, run};
//!
//! let program = parse_asm("r0 = 41\n r0 += 1\n exit", &NoNames).unwrap();
//! let linked = Linked::unverified(program.insns, &|_| None)?;
//! let compiled = compile(&linked, &Options::default())?;
//! // SAFETY: the compiled program lives, touches no memory, ends, and ignores its context.
//! assert_eq!(unsafe { run(&compiled.entry(), 0) }, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alu;
mod asm;
mod atomic;
mod boundary;
mod call;
mod checked;
mod compile;
mod cpu;
mod emit;
mod frame;
mod fuse;
mod jmp;
mod listing;
mod live;
mod mem;
mod observe;
pub mod pack;
mod plan;
mod quick;
mod regs;
mod scratch;
mod stop;
mod tail_call;
mod targets;

#[cfg(test)]
mod tests;

pub use checked::{CheckedError, CheckedProgram, compile_checked};
pub use compile::{Compiled, compile};
pub use cpu::CpuFeatures;
pub use emit::{JitError, Options};
pub use listing::{Listing, ListingLine};
pub use observe::Observe;

/// Names of the rules that make code better than instruction for instruction ([`Compiled::rule_hits`]).
pub fn rule_names() -> impl Iterator<Item = &'static str> {
    fuse::NAMES.into_iter()
}

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
