//! Trampolines: fentry, fexit and fmod_ret programs on functions of this process and on compiled BPF programs, for a few cycles.
//!
//! ```text
//!   f:      nop5  <-> jmp gate                      one aligned store attaches and detaches                          site
//!           ...
//!   gate:   store the arguments as u64s, jmp list   immortal: frames, read sections, the call of f behind its nop    gate
//!   list:   call program ... , jmp gate             one before the function, one after it; freed through RCU         list
//! ```
//!
//! [`Target`] is a function that can be traced, [`Target::attach`] generates a list with one program more and publishes it, dropping the
//! [`Attachment`] takes the program out of the running list by one store (no allocation, cannot fail).
//!
//! What replaced the reserve half-page of the kernel's first trampolines (2019): a list is generated completely before it is published, and
//! detaching edits the list in place, so nothing needs room for "the next version".
//!
//! Order, as in Linux: newest first within fentry, fmod_ret and fexit. Up to [`PROGS_PER_TARGET`] programs per target.
//!
//! Panics (and C++ exceptions) of a traced function unwind through its gate, whose frame the unwinder knows; fexit programs do not run then. A helper
//! that panics ends the process ([`ring3_runtime`]): nothing unwinds through a program.
//!
//! What is deliberately absent: BTF lookups and link objects (`tracing`), checks of program types (the verifier). Vector registers beyond their low
//! 16 bytes, and the x87 stack, are not preserved by gates: they are as the programs leave them.

mod attachment;
mod discover;
mod frame;
mod gate;
mod host_function;
mod list;
mod probe;
mod reaper;
mod rows;
mod section;
mod site;
mod target;
mod thread;

#[cfg(test)]
mod tests;

pub use attachment::{AttachError, Attachment, Replacement, attach_all};
pub use discover::{DiscoverError, Patchable, find_patchable, patchable_functions};
pub use frame::{Certainty, arg_slots};
pub use host_function::{FindError, HostFunction};
pub use probe::{Probe, ProbeEnabled, ProbeValue};
pub use site::{NOP5, PatchError, Patching, Site};
pub use target::{PROGS_PER_TARGET, ProgKind, Target};

#[doc(hidden)]
pub use probe::{__Row, __probes};
#[doc(hidden)]
pub use site::__align_entry;

/// Declares functions that can be traced: a stub with an aligned five-byte nop, then a jump to the body.
///
/// ```
/// ring3_trampoline::traceable! {
///     /// Adds.
///     pub fn add(a: u64, b: u64) -> u64 {
///         a + b
///     }
/// }
/// assert_eq!(add(1, 2), 3);
/// ```
///
/// The functions are `extern "C-unwind"`: a panic leaves them, traced or not. [`Site::of_stub`] finds the nop from the function's address.
#[macro_export]
macro_rules! traceable {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        // Unused in the stub, whose arguments pass through it untouched.
        #[unsafe(naked)]
        $vis extern "C-unwind" fn $name($($arg: $ty),*) $(-> $ret)? {
            extern "C-unwind" fn body($($arg: $ty),*) $(-> $ret)? $body
            ::core::arch::naked_asm!(
                ".p2align 4",
                ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
                "jmp {body}",
                body = sym body,
            )
        }
    )*};
}

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
