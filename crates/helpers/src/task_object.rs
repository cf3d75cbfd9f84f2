//! The modelled `task_struct`: memory that programs follow from `bpf_get_current_task` and `bpf_get_current_task_btf`.
//!
//! ```text
//! task_struct: pid tgid comm; group_leader real_parent parent -> itself; cgroups -> css_set: dfl_cgrp -> cgroup: kn -> kernfs_node: id
//! ```
//! One set of objects a thread, written anew at each call from the current task, at the offsets of `ring3_btf::layout`; all else is zero. The
//! memory of each is longer than the struct of any kernel, so that a program verified with another kernel's BTF reads zeroes and not a
//! stranger's memory.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use ring3_btf::layout;
use ring3_isa::MemSize;
use ring3_runtime::{current_task, extable::probe_load};

const BYTES: usize = 64 << 10;
const SMALL_BYTES: usize = 8 << 10;

#[repr(C, align(64))]
struct Objects {
    task: [u8; BYTES],
    css_set: [u8; SMALL_BYTES],
    cgroup: [u8; SMALL_BYTES],
    kernfs_node: [u8; SMALL_BYTES],
}

/// Where the fields that are kept lie, in bytes.
struct Offsets {
    pid: usize,
    tgid: usize,
    comm: usize,
    relatives: [usize; 3],
    cgroups: usize,
    dfl_cgrp: usize,
    kn: usize,
    id: usize,
}

fn offsets() -> &'static Offsets {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    OFFSETS.get_or_init(|| {
        let at = |object, path| {
            layout::field(None, object, path).map_or(0, |field| field.offset as usize)
        };
        Offsets {
            pid: at("task_struct", "pid"),
            tgid: at("task_struct", "tgid"),
            comm: at("task_struct", "comm"),
            relatives: ["group_leader", "real_parent", "parent"]
                .map(|path| at("task_struct", path)),
            cgroups: at("task_struct", "cgroups"),
            dfl_cgrp: at("css_set", "dfl_cgrp"),
            kn: at("cgroup", "kn"),
            id: at("kernfs_node", "id"),
        }
    })
}

thread_local! {
    static OBJECTS: Box<UnsafeCell<Objects>> = Box::new(UnsafeCell::new(Objects {
        task: [0; BYTES],
        css_set: [0; SMALL_BYTES],
        cgroup: [0; SMALL_BYTES],
        kernfs_node: [0; SMALL_BYTES],
    }));
}

/// The address of this thread's object, describing the current task.
pub(crate) fn current() -> u64 {
    let task = current_task();
    let offsets = offsets();
    OBJECTS.with(|objects| {
        let start = objects.get().cast::<u8>();
        let address = |object: usize| start.expose_provenance() as u64 + object as u64;
        let put = |object: usize, offset: usize, bytes: &[u8]| {
            debug_assert!(object + offset + bytes.len() <= size_of::<Objects>());
            // SAFETY: 1. the layout's offsets lie in their structs, which are shorter than the objects; 2. no reference into the objects
            // exists; 3. programs of other threads may read them through a stored pointer, as they may a task's in the kernel.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    start.add(object + offset),
                    bytes.len(),
                )
            };
        };
        use std::mem::offset_of;
        let [in_task, in_css_set, in_cgroup, in_kernfs_node] = [
            offset_of!(Objects, task),
            offset_of!(Objects, css_set),
            offset_of!(Objects, cgroup),
            offset_of!(Objects, kernfs_node),
        ];
        put(in_task, offsets.pid, &task.pid.to_ne_bytes());
        put(in_task, offsets.tgid, &task.tgid.to_ne_bytes());
        put(in_task, offsets.comm, &task.comm);
        for relative in offsets.relatives {
            put(in_task, relative, &address(in_task).to_ne_bytes());
        }
        put(in_task, offsets.cgroups, &address(in_css_set).to_ne_bytes());
        put(
            in_css_set,
            offsets.dfl_cgrp,
            &address(in_cgroup).to_ne_bytes(),
        );
        put(
            in_cgroup,
            offsets.kn,
            &address(in_kernfs_node).to_ne_bytes(),
        );
        put(in_kernfs_node, offsets.id, &task.cgroup_id.to_ne_bytes());
        address(in_task)
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

/// The id of a cgroup object; `None` for null.
///
/// # Safety
/// `cgroup` is 0 or the address of an object that lives.
pub(crate) unsafe fn cgroup_id_of(cgroup: u64) -> Option<u64> {
    if cgroup == 0 {
        return None;
    }
    let node = probe_load(cgroup + offsets().kn as u64, MemSize::Dw);
    (node != 0).then(|| probe_load(node + offsets().id as u64, MemSize::Dw))
}

#[cfg(test)]
pub(crate) fn current_cgroup() -> u64 {
    let css_set = probe_load(current() + offsets().cgroups as u64, MemSize::Dw);
    probe_load(css_set + offsets().dfl_cgrp as u64, MemSize::Dw)
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
                cgroup_id: 4321,
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
            let cgroup = with_run_context(&context, current_cgroup);
            assert_eq!(cgroup_id_of(cgroup), Some(4321));
            assert_eq!(cgroup_id_of(0), None);
        }
    }
}
