//! Trampolines: fentry, fexit and fmod_ret programs on functions of this process and on compiled BPF programs, for a few cycles.
//!
//! ```text
//!   f:      nop5  <-> jmp gate                      one aligned store attaches and detaches        site
//!           ...
//!   gate:   count a thread in, jmp image            immortal; an image is freed only when nobody is counted in    gate
//!   image:  store the arguments as u64s, fentry programs, fmod_ret programs, f behind its nop, fexit programs      image
//! ```
//!
//! [`Target`] is a function that can be traced, [`Target::attach`] generates an image with one program more and publishes it, dropping the
//! [`Attachment`] takes the program out of the running image by one store (no allocation, cannot fail).
//!
//! What replaced the reserve half-page of the kernel's first trampolines (2019): an image is generated completely before it is published, and
//! detaching edits the image in place, so nothing needs room for "the next version".
//!
//! Order, as in Linux: newest first within fentry, fmod_ret and fexit. Up to [`PROGS_PER_TARGET`] programs per target.
//!
//! What is deliberately absent: BTF lookups and link objects (`tracing`), checks of program types (the verifier). Unwinding through an image with
//! fexit or fmod_ret programs ends the process: its frame has no unwind table.
//! With fentry programs only there is no frame left when the function runs.

mod frame;
mod gate;
mod image;
mod site;
mod target;
mod thread;

#[cfg(test)]
mod tests;

pub use frame::{Certainty, arg_slots};
pub use site::{NOP5, PatchError, Site};
pub use target::{AttachError, Attachment, PROGS_PER_TARGET, ProgKind, Replacement, Target};

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
/// The functions are `extern "C"`. [`Site::of_stub`] finds the nop from the function's address.
#[macro_export]
macro_rules! traceable {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        // Unused in the stub, whose arguments pass through it untouched.
        #[unsafe(naked)]
        $vis extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
            extern "C" fn body($($arg: $ty),*) $(-> $ret)? $body
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
