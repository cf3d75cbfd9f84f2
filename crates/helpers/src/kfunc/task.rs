//! References of tasks: `bpf_task_acquire`, `bpf_task_release`, `bpf_task_from_pid`.
//!
//! The tasks that are modelled are those whose threads ran programs (`crate::task_object`); an object lives as long as its thread or a reference.

use super::kfuncs;
use crate::task_object;

/// Gives a reference back, if there is one.
///
/// # Safety
/// `task` is 0, or the caller owns a reference of it.
pub(super) unsafe fn release(task: u64) {
    if task != 0 {
        // SAFETY: 1. the caller's promise.
        unsafe { task_object::release(task) }
    }
}

// DIVERGES: `bpf_task_from_pid` and `bpf_task_from_vpid` find tasks whose threads ran programs, not every process of the machine.
kfuncs! { ROWS(Plain):
    bpf_task_acquire(task: u64) { task_object::acquire(task) }
    bpf_task_release(task: u64) {
        // SAFETY: 1. KF_RELEASE: the program owns a reference.
        unsafe { release(task) }
    }
    bpf_task_from_pid(pid: i32) { task_object::from_pid(pid) }
    bpf_task_from_vpid(pid: i32) { task_object::from_pid(pid) }
}
