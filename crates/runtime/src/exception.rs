//! Exceptions (`bpf_throw`): how control leaves a program in the middle and where it arrives.
//!
//! A *boundary* is a frame where an exception stops: the main program and every callback. The rules:
//! 1. `bpf_throw(cookie)` inside frames of the engine goes straight to the innermost boundary, skipping the subprogram frames between.
//! 2. At the main program the exception ends: the program's exception callback gets the cookie, its result is the program's; without one
//!    the cookie is.
//! 3. At a callback it stays pending, the callback returns 1 to the helper, the helper sees [`is_pending`] (or the 1, which ends its loop)
//!    and returns, and the engine looks at [`is_pending`] after every call of kind [`crate::CallKind::TakesCallback`] and throws on.
//!
//! So no frame of Rust code is ever skipped, and destructors of helpers run. The kernel unwinds by its stack tables instead.
//!
//! The interpreter unwinds by returning; compiled code links [`Boundary`] records that live in its own frames.

use std::cell::Cell;

thread_local! {
    static PENDING: Cell<Option<u64>> = const { Cell::new(None) };
    static INNERMOST: Cell<*mut Boundary> = const { Cell::new(std::ptr::null_mut()) };
}

/// Whether an exception is on its way on this thread.
#[inline]
pub fn is_pending() -> bool {
    PENDING.get().is_some()
}

/// Makes an exception pending.
#[inline]
pub fn set_pending(cookie: u64) {
    PENDING.set(Some(cookie));
}

/// Ends the pending exception and gives its cookie.
#[inline]
pub fn take_pending() -> Option<u64> {
    PENDING.take()
}

/// A boundary in a frame of compiled code. Offsets are part of the ABI between this crate and code generators.
#[derive(Debug)]
#[repr(C)]
pub struct Boundary {
    /// The boundary around this one.
    pub outer: *mut Boundary,
    /// Frame pointer (rbp) at which the landing code continues; the stack pointer is derived from it there.
    pub frame: u64,
    /// Address of the landing code.
    pub landing: u64,
}

/// C function that compiled code calls when a boundary frame begins: links a record whose `frame` and `landing` are set.
///
/// # Safety
/// `boundary` is in the caller's frame and [`leave`] is called before that frame ends.
pub unsafe extern "C" fn enter(boundary: *mut Boundary) {
    // SAFETY: 1. the record is live and ours to write by the caller's contract.
    unsafe { (*boundary).outer = INNERMOST.get() };
    INNERMOST.set(boundary);
}

/// C function that compiled code calls when a boundary frame ends; keeps `result` and gives it back, so that r0 survives.
///
/// # Safety
/// `boundary` is the record of the innermost frame.
pub unsafe extern "C" fn leave(boundary: *mut Boundary, result: u64) -> u64 {
    // SAFETY: 1. the record is still live.
    INNERMOST.set(unsafe { (*boundary).outer });
    result
}

/// C function for landing code of the main program: the cookie of the exception that arrived.
///
/// # Safety
/// Always safe; `unsafe` because compiled code calls it by address.
pub unsafe extern "C" fn arrive() -> u64 {
    take_pending().unwrap_or(0)
}

/// C function for compiled code after a call of kind `TakesCallback`: 1 if an exception is pending.
///
/// # Safety
/// As [`arrive`].
pub unsafe extern "C" fn pending() -> u64 {
    u64::from(is_pending())
}

/// C function for landing code: frame and address of the innermost boundary, in rax:rdx. Compiled code jumps there itself, so that
/// no frame of ours is left by a jump.
///
/// # Safety
/// A boundary is linked.
pub unsafe extern "C" fn raise(cookie: u64) -> Landing {
    set_pending(cookie);
    // SAFETY: 1. as `rethrow`.
    unsafe { rethrow() }
}

/// As [`raise`], for an exception that is already pending.
///
/// # Safety
/// A boundary is linked.
pub unsafe extern "C" fn rethrow() -> Landing {
    let boundary = INNERMOST.get();
    if boundary.is_null() {
        // Only code that breaks rule 1 gets here; going on would jump to nowhere.
        std::process::abort();
    }
    // SAFETY: 1. linked records are live: their frames have not ended.
    unsafe {
        Landing {
            frame: (*boundary).frame,
            address: (*boundary).landing,
        }
    }
}

/// Where to go on: two registers in the C ABI (rax, rdx).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Landing {
    /// Frame pointer to set.
    pub frame: u64,
    /// Address to jump to.
    pub address: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_nest() {
        let mut outer = Boundary {
            outer: std::ptr::null_mut(),
            frame: 1,
            landing: 10,
        };
        let mut inner = Boundary {
            outer: std::ptr::null_mut(),
            frame: 2,
            landing: 20,
        };
        // SAFETY: both records live to the end of the test and are left in order.
        unsafe {
            enter(&mut outer);
            enter(&mut inner);
            let landing = raise(77);
            assert_eq!((landing.frame, landing.address), (2, 20));
            assert!(is_pending());
            assert_eq!(leave(&mut inner, 1), 1);
            let landing = rethrow();
            assert_eq!((landing.frame, landing.address), (1, 10));
            assert_eq!(arrive(), 77);
            assert!(!is_pending());
            assert_eq!(pending(), 0);
            assert_eq!(leave(&mut outer, 5), 5);
        }
    }
}
