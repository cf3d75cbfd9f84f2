//! `Entry` and `run`: calling a program. One RCU read section per run; the engine's code keeps everything else.
//!
//! An entry is a C function, so a hook, a trampoline image or a helper calls it alike. It saves what the C ABI says is callee-saved, starts
//! its tail-call count at zero, and needs nothing of its caller but the section.

use ring3_sync::rcu;

/// The C function behind a program: context and the entry's data in, r0 out.
pub type EntryCode = unsafe extern "C" fn(u64, *const ()) -> u64;

/// A program ready to be called. The owner of the code keeps it alive through RCU.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Code.
    pub code: EntryCode,
    /// Second argument of `code`; null where the engine needs none.
    pub data: *const (),
}

// SAFETY: 1. `data` is immutable shared data of the engine, read from any thread.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

/// Runs a program in a read section of its own.
///
/// # Safety
/// `entry` belongs to a live program (or one retired after this call began), and `ctx` is a context of the program's type.
#[inline]
pub unsafe fn run(entry: &Entry, ctx: u64) -> u64 {
    let _section = rcu::read();
    // SAFETY: 1. the caller's contract; 2. the section is entered.
    unsafe { run_in_section(entry, ctx) }
}

/// Runs a program inside the caller's read section; for hooks that run several.
///
/// # Safety
/// As [`run`]; the calling thread is inside a read section.
#[inline]
pub unsafe fn run_in_section(entry: &Entry, ctx: u64) -> u64 {
    // SAFETY: 1. the caller's contract is that of the code.
    unsafe { (entry.code)(ctx, entry.data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn depth(ctx: u64, data: *const ()) -> u64 {
        assert!(rcu::in_read_section());
        ctx + data as u64
    }

    #[test]
    fn a_run_is_one_section() {
        let entry = Entry {
            code: depth,
            data: 5 as *const (),
        };
        // SAFETY: the code takes any numbers.
        assert_eq!(unsafe { run(&entry, 10) }, 15);
        assert!(!rcu::in_read_section());
    }
}
