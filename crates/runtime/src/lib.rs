//! How BPF programs and their host meet: run function, helper ABI, callbacks, tail calls, fault table, checked memory.
//!
//! What an engine gets is a [`Linked`] program: the verifier's output with every call site and every two-slot load resolved to
//! addresses of this process. What it gives back is an [`Entry`], which [`run`] calls. The two engines (`interp`,
//! `jit-x86_64`) and those who build the input (`objects`, `maps`, `helpers`) know only this crate of each other.
//!
//! # The ABI in one table
//!
//! | who calls | what | signature |
//! |-|-|-|
//! | host | a program | [`EntryCode`]: `(ctx, data) -> r0` |
//! | program | a helper or kfunc | [`HelperFn`]: `(r1, r2, r3, r4, r5) -> r0` |
//! | program | legacy packet load | [`LoadPacketFn`]: `(ctx, offset, size) -> value or negative errno` |
//! | helper | a callback of the program | [`CallbackRef::call`] on the value of its function-pointer argument |
//! | program | a program through a prog array | [`TailCallTable`]: engine-specific words, 0 for an empty slot |
//!
//! All are plain C functions, so that helpers need not know which engine runs. A helper that panics aborts the process: nothing
//! unwinds through a BPF frame, and a half-run helper leaves no state that a program could be ended on.
//!
//! ```
//! use ring3_runtime::{Helper, helper_fn};
//!
//! struct AddOne;
//! impl Helper for AddOne {
//!     type Args = (u32,);
//!     type Ret = i64;
//!     unsafe fn call((value,): (u32,)) -> i64 {
//!         i64::from(value) + 1
//!     }
//! }
//! let code = helper_fn::<AddOne>();
//! // SAFETY: this helper reads no memory; any five numbers will do.
//! assert_eq!(unsafe { code(41, 0, 0, 0, 0) }, 42);
//! ```

mod abi;
mod callback;
mod current;
mod direct_tail_call;
pub mod exception;
pub mod extable;
mod limit;
mod linked;
mod prog_ref;
mod prog_run;
mod region;
mod run_stats;
mod stack;

pub use abi::{AbiArg, AbiArgs, AbiRet, GivenHelperFn, Helper, HelperFn, LoadPacketFn, helper_fn};
pub use callback::{Callback, CallbackCode, CallbackRef};
pub use current::{
    RunContext, Task, current_ids, current_task, with_run_context, with_run_extension,
};
pub use direct_tail_call::{DirectJump, Follower, HubRef, TailCallHub};
pub use limit::{
    Limit, LimitedEntry, StopLayout, StopSite, Stops, confirm_stop, stop_layout, take_stopped,
};
pub use linked::{
    Arena, CallKind, CallTarget, Clobbers, InlineCall, LinkError, Linked, Site, TailCallSite,
    Target,
};
pub use prog_ref::{InArray, IteratorTarget, ProgObject, ProgRef, TailCallTable};
pub use prog_run::{Entry, EntryCode, run, run_in_section};
pub use region::{Access, AccessViolation, MemRegion, Permissions, Regions};
pub use run_stats::{RunStats, StatsSwitch, StatsUser, is_anyone_counting, on_switch};
pub use stack::{MAX_CALL_FRAMES, MAX_STACK_BYTES, MAX_TAIL_CALLS};

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
