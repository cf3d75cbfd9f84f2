//! The modelled `task_struct`: memory that programs follow from `bpf_get_current_task` and `bpf_get_current_task_btf`.
//!
//! One object a thread, written anew at each call from the current task: `pid`, `tgid`, `comm`, `group_leader`, `real_parent` and `parent`
//! (the task itself) at the offsets of `ring3_btf::layout`; all else is zero. Its memory is longer than the struct of any kernel,
//! so that a program verified with another kernel's BTF reads zeroes and not a stranger's memory.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use ring3_btf::layout;
use ring3_runtime::current_task;

const BYTES: usize = 64 << 10;

#[repr(C, align(64))]
struct TaskObject([u8; BYTES]);

/// Where the fields that are kept lie, in bytes.
struct Offsets {
    pid: usize,
    tgid: usize,
    comm: usize,
    relatives: [usize; 3],
}

fn offsets() -> &'static Offsets {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    OFFSETS.get_or_init(|| {
        let at = |path| {
            layout::field(None, "task_struct", path).map_or(0, |field| field.offset as usize)
        };
        Offsets {
            pid: at("pid"),
            tgid: at("tgid"),
            comm: at("comm"),
            relatives: ["group_leader", "real_parent", "parent"].map(at),
        }
    })
}

thread_local! {
    static OBJECT: Box<UnsafeCell<TaskObject>> = Box::new(UnsafeCell::new(TaskObject([0; BYTES])));
}

/// The address of this thread's object, describing the current task.
pub(crate) fn current() -> u64 {
    let task = current_task();
    let offsets = offsets();
    OBJECT.with(|object| {
        let start = object.get().cast::<u8>();
        let address = start.expose_provenance() as u64;
        let put = |offset: usize, bytes: &[u8]| {
            debug_assert!(offset + bytes.len() <= BYTES);
            // SAFETY: 1. the layout's offsets lie in the struct, which is shorter than the object; 2. no reference into the object exists;
            // 3. programs of other threads may read it through a stored pointer, as they may a task's in the kernel.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.add(offset), bytes.len())
            };
        };
        put(offsets.pid, &task.pid.to_ne_bytes());
        put(offsets.tgid, &task.tgid.to_ne_bytes());
        put(offsets.comm, &task.comm);
        for relative in offsets.relatives {
            put(relative, &address.to_ne_bytes());
        }
        address
    })
}

/// The pid that a task object holds.
///
/// # Safety
/// `task` came from [`current`] and its thread lives.
pub(crate) unsafe fn pid_of(task: u64) -> u64 {
    let pid = std::ptr::with_exposed_provenance::<u8>(task as usize + offsets().pid);
    // SAFETY: 1. the caller's promise; 2. the offset lies in the object.
    u64::from(unsafe { pid.cast::<u32>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_runtime::{RunContext, Task, with_run_context};

    #[test]
    fn the_object_describes_the_current_task() {
        let host = current();
        // SAFETY: the object of this thread.
        assert_eq!(unsafe { pid_of(host) }, u64::from(current_task().pid));
        let context = RunContext {
            task: Some(Task {
                pid: 77,
                comm: *b"modelled\0\0\0\0\0\0\0\0",
                ..current_task()
            }),
            ..RunContext::default()
        };
        let modelled = with_run_context(&context, current);
        let field = |path| {
            let offset = layout::field(None, "task_struct", path).unwrap().offset as usize;
            assert_ne!(offset, 0, "{path}");
            std::ptr::with_exposed_provenance::<u8>(modelled as usize + offset)
        };
        // SAFETY: fields of the object of this thread.
        unsafe {
            assert_eq!(pid_of(modelled), 77);
            assert_eq!(field("tgid").cast::<u32>().read(), std::process::id());
            assert_eq!(field("comm").cast::<[u8; 8]>().read(), *b"modelled");
            assert_eq!(field("group_leader").cast::<u64>().read(), modelled);
            assert_eq!(field("real_parent").cast::<u64>().read(), modelled);
        }
    }
}
