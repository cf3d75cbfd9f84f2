//! The modelled `task_struct`: memory that programs follow from `bpf_get_current_task` and `bpf_get_current_task_btf`.
//!
//! ```text
//! task_struct: pid tgid comm; group_leader real_parent parent -> itself; cgroups -> css_set: dfl_cgrp -> cgroup: kn -> kernfs_node: id
//! ```
//! One set of objects a thread, written anew at each call from the current task, at the offsets of `ring3_btf::layout`; all else is zero. The
//! memory of each is longer than the struct of any kernel, so that a program verified with another kernel's BTF reads zeroes and not a
//! stranger's memory. A set outlives its thread while programs have references of its task (`kfunc::task`).

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use parking_lot::Mutex;
use ring3_btf::layout;
use ring3_isa::MemSize;
use ring3_runtime::{current_task, extable::probe_load};
use ring3_sync::rcu;

const BYTES: usize = 64 << 10;
const SMALL_BYTES: usize = 8 << 10;

#[repr(C, align(64))]
struct Objects {
    task: [u8; BYTES],
    css_set: [u8; SMALL_BYTES],
    cgroup: [u8; SMALL_BYTES],
    kernfs_node: [u8; SMALL_BYTES],
}

/// Memory of a set: zero at first. Its task is at its start.
const LAYOUT: Layout = Layout::new::<Objects>();

/// References of every task, by address: one of its thread, and those that programs acquired.
static OBJECTS: Mutex<BTreeMap<u64, u32>> = Mutex::new(BTreeMap::new());

/// A thread's task.
struct Own(u64);

impl Own {
    fn new() -> Own {
        // SAFETY: 1. the layout has bytes.
        let start = unsafe { std::alloc::alloc_zeroed(LAYOUT) };
        if start.is_null() {
            std::alloc::handle_alloc_error(LAYOUT);
        }
        let address = start.expose_provenance() as u64;
        OBJECTS.lock().insert(address, 1);
        Own(address)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: 1. the thread's reference, given back once.
        unsafe { release(self.0) }
    }
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
    static OWN: Own = Own::new();
}

/// The address of this thread's object, describing the current task.
pub(crate) fn current() -> u64 {
    let task = current_task();
    let offsets = offsets();
    let own = OWN.with(|own| own.0);
    let address = |object: usize| own + object as u64;
    let put = |object: usize, offset: usize, bytes: &[u8]| {
        debug_assert!(object + offset + bytes.len() <= size_of::<Objects>());
        let field = std::ptr::with_exposed_provenance_mut::<u8>(own as usize + object + offset);
        // SAFETY: 1. the layout's offsets lie in their structs, which are shorter than the objects; 2. no reference into the objects exists;
        // 3. programs of other threads may read them through a stored pointer, as they may a task's in the kernel.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), field, bytes.len()) };
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
    own
}

/// The task with one more reference; 0 if there is no such object any more, or never was: programs also find addresses in memory that is not
/// modelled.
pub(crate) fn acquire(task: u64) -> u64 {
    match OBJECTS.lock().get_mut(&task) {
        Some(references) => {
            *references += 1;
            task
        }
        None => 0,
    }
}

/// Gives a reference back.
///
/// # Safety
/// The caller owns one of the object at `task`.
pub(crate) unsafe fn release(task: u64) {
    let mut objects = OBJECTS.lock();
    let Some(references) = objects.get_mut(&task) else {
        return;
    };
    *references -= 1;
    if *references != 0 {
        return;
    }
    objects.remove(&task);
    drop(objects);
    rcu::call_rcu(move || {
        let start = std::ptr::with_exposed_provenance_mut(task as usize);
        // SAFETY: 1. allocated with this layout; 2. the last reference is gone and a grace period has passed.
        unsafe { std::alloc::dealloc(start, LAYOUT) };
    });
}

/// The task of a pid with one more reference, 0 if there is none: the current one, or another whose thread asked for its object.
pub(crate) fn from_pid(pid: i32) -> u64 {
    let own = current();
    let mut objects = OBJECTS.lock();
    let wanted = u64::from(pid as u32);
    let mut others = objects.keys().copied().filter(|task| *task != own);
    // SAFETY: 1. objects in the list live, and the lock keeps them in it.
    let is_wanted = |task: &u64| unsafe { pid_of(*task) } == wanted;
    let found = Some(own)
        .filter(is_wanted)
        .or_else(|| others.find(is_wanted));
    drop(others);
    match found.and_then(|task| Some((task, objects.get_mut(&task)?))) {
        Some((task, references)) => {
            *references += 1;
            task
        }
        None => 0,
    }
}

/// The pid that a task object holds.
///
/// # Safety
/// `task` came from [`current`] and lives.
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

    #[test]
    fn references_keep_the_object_of_a_thread() {
        let (held, gone) = std::thread::spawn(|| {
            let own = current();
            assert_eq!(acquire(own), own);
            assert_eq!(from_pid(current_task().pid as i32), own);
            // SAFETY: one of the two references above.
            unsafe { release(own) };
            (own, current_task().pid)
        })
        .join()
        .unwrap();
        // SAFETY: the other one keeps the object.
        assert_eq!(unsafe { pid_of(held) }, u64::from(gone));
        assert_eq!(from_pid(gone as i32), held);
        // SAFETY: the two references.
        unsafe {
            release(held);
            release(held);
        }
        assert_eq!(acquire(held), 0);
        assert_eq!(acquire(0), 0);
    }
}
