//! The BPF verifier of Linux 6.18 as a pure function from a load request to a verdict and a log.
//!
//! No I/O, no clock, no threads, no map implementation, no JIT type. [`verify`] reads a [`ring3_spec::LoadRequest`] and gives a
//! [`ring3_spec::VerifiedProgram`] or a [`VerifierError`]; what it says on the way goes to a [`Log`].
//!
//! # The modules
//!
//! | modules | what they do |
//! |---|---|
//! | `pipeline` | the passes in order, one line each |
//! | `env`, `aux`, `limits` | immutable facts of the program ([`env::Facts`]), the mutable context of exploration ([`env::Env`]), what exploration learns per instruction ([`aux::InsnAux`]) |
//! | `domain` | numbers: tnum, ranges, their product, transfer functions, branches |
//! | `state` | registers, stack slots, frames, references |
//! | `subprogs` `check_btf` `resolve` `attach` `cfg` `order` `liveness` `fastcall` `stack_depth` | passes before (or just after) exploration; each returns a value |
//! | `explore` | the main loop: worklist, budgets, speculative paths |
//! | `states` | pruning: when is a path covered by one already walked; loops |
//! | `backtrack` | which registers' exact values the proof depends on |
//! | `check` | one file per kind of instruction or pointer |
//! | `fixups` | rewrites, only after acceptance |
//! | `log`, `diagnostics`, `error` | the kernel's text; text for people; how rejections travel |
//!
//! # How to write a check
//!
//! ```ignore
//! // check/foo.rs
//! //! What `foo` instructions may do. Kernel counterpart: `check_foo`. Neighbours: ...
//! pub(crate) fn check_foo(env: &mut Env<'_>, insn: &Insn) -> Check {
//!     let (dst, src) = ...;
//!     check_reg_arg(env, src, RegArg::Src)?;           // check/regs.rs
//!     let reg = *env.cur.reg(src);                     // copies are cheap; `reg_mut` unshares the frame, so ask late
//!     if reg.ty.may_be_null() {
//!         reject!(EACCES, "R{} may be null", src.number());   // the kernel's words, no newline at the end
//!     }
//!     if feature_that_we_lack {
//!         unjudged!("foo with bar");                   // never a silent accept
//!     }
//!     mark_reg_unknown(env, dst);
//!     env.mark_scratched(dst);                         // so that the state line after the instruction shows it
//!     mark_chain_precision(env, src)?;                 // backtrack.rs
//!     vlog!(env.log, "something the kernel prints\n"); // formats only if the log is on
//!     Ok(())
//! }
//! ```
//! A pass is `pub(crate) fn compute_x(...) -> Check<X>`; it gets what it needs as arguments and the log last. Instruction numbers
//! are slots (`u32`), as in the kernel. Nothing recurses over the program. No `_` arms over our own enums.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attach;
mod aux;
mod backtrack;
mod call_traits;
mod cfg;
mod check;
mod check_btf;
pub mod diagnostics;
pub mod domain;
mod env;
mod error;
mod explore;
mod fastcall;
mod fixups;
mod kfunc_calls;
mod limits;
mod liveness;
mod log;
mod order;
mod pipeline;
pub mod recording;
mod resolve;
mod stack_depth;
mod state;
mod states;
mod stop_points;
mod subprogs;

pub use attach::check_attach_target;
pub use diagnostics::Diagnosis;
pub use error::{RejectKind, VerifierError};
pub use log::{Log, LogKeep};
pub use pipeline::{verify, verify_explained, verify_recorded};
pub use recording::Recording;
