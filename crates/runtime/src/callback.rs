//! Callbacks: how a helper calls a function of the program that called it (`bpf_loop`, `for_each_map_elem`, timers).
//!
//! The value of a function-pointer argument is the address of a [`Callback`] record, whichever engine runs. The record's code gets the five
//! arguments and, sixth, the record's own address:
//! - JIT: `code` is the subprogram's native code, which ignores the sixth argument;
//! - interpreter: the record is the first field of a larger one (`#[repr(C)]`), from which `code` finds the function to interpret.
//!
//! A record lives as long as its program. Who keeps one beyond the run (timers) keeps a reference to the program too.
//! In a program with exceptions the caller looks at [`crate::exception::is_pending`] after each call and returns early if so.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::{OnceLock, Weak};

/// Code behind a callback: r1 to r5 and the record; r0 back.
pub type CallbackCode = unsafe extern "C" fn(u64, u64, u64, u64, u64, *const Callback) -> u64;

/// What a function pointer in a program points to.
#[repr(C)]
pub struct Callback {
    /// The function to call.
    pub code: CallbackCode,
    owner: OnceLock<Weak<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callback").finish_non_exhaustive()
    }
}

impl Callback {
    /// A record that nobody owns yet.
    pub const fn new(code: CallbackCode) -> Callback {
        Callback {
            code,
            owner: OnceLock::new(),
        }
    }

    /// Says which program the record belongs to; the first call counts. Who keeps a [`CallbackRef`] beyond the run holds the owner while
    /// calling it.
    pub fn set_owner(&self, owner: &Weak<dyn Any + Send + Sync>) {
        self.owner.get_or_init(|| owner.clone());
    }
}

/// A function pointer received from a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallbackRef(NonNull<Callback>);

// SAFETY: 1. records are immutable; 2. calling one is unsafe and restates the lifetime.
unsafe impl Send for CallbackRef {}
// SAFETY: as above.
unsafe impl Sync for CallbackRef {}

impl CallbackRef {
    /// The callback in an argument register; `None` for 0.
    pub fn from_reg(reg: u64) -> Option<CallbackRef> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(reg as usize)).map(CallbackRef)
    }

    /// A record that lives as long as the process.
    pub fn from_static(record: &'static Callback) -> CallbackRef {
        CallbackRef(NonNull::from(record))
    }

    /// The register value that stands for the callback.
    pub fn into_reg(self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// The program that the callback belongs to; `None` if it was loaded without saying so.
    ///
    /// # Safety
    /// The value came from a live program's function-pointer argument.
    pub unsafe fn owner(self) -> Option<Weak<dyn Any + Send + Sync>> {
        // SAFETY: 1. the record lives as long as the program, which the caller vouches for.
        unsafe { self.0.as_ref() }.owner.get().cloned()
    }

    /// Calls the function.
    ///
    /// # Safety
    /// The value came from a live program's function-pointer argument; the arguments fit what the verifier assumed of the callback; an RCU
    /// read section is active.
    #[inline]
    pub unsafe fn call(self, args: [u64; 5]) -> u64 {
        let [a, b, c, d, e] = args;
        let record = self.0.as_ptr();
        // SAFETY: 1. the record lives as long as the program, which the caller vouches for; 2. so do the arguments.
        unsafe { ((*record).code)(a, b, c, d, e, record) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Adder {
        head: Callback,
        plus: u64,
    }

    unsafe extern "C" fn add(
        a: u64,
        b: u64,
        _: u64,
        _: u64,
        _: u64,
        record: *const Callback,
    ) -> u64 {
        // SAFETY: every record with this code is the head of an `Adder`.
        a + b + unsafe { (*record.cast::<Adder>()).plus }
    }

    #[test]
    fn code_finds_its_record() {
        let adder = Adder {
            head: Callback::new(add),
            plus: 100,
        };
        let reg = std::ptr::from_ref(&adder).expose_provenance() as u64;
        let callback = CallbackRef::from_reg(reg).unwrap();
        // SAFETY: `adder` lives and takes any numbers.
        assert_eq!(unsafe { callback.call([1, 2, 0, 0, 0]) }, 103);
        assert_eq!(callback.into_reg(), reg);
        assert_eq!(CallbackRef::from_reg(0), None);
    }
}
