//! Linked lists of objects: `bpf_list_*`. A head owns one reference of each object in it.
//!
//! ```text
//! bpf_list_head: first node | last node            both 0 when empty
//! bpf_list_node: next | previous | owner           owner: the head, 0 when in no list
//! ```
//! The verifier holds the lock of the head's value around every call, so that only `owner` is contended: an object with several references
//! may be pushed to two lists at once.

use std::sync::atomic::{AtomicU64, Ordering};

use ring3_uapi::Errno;

use super::{kfuncs, object, zero_or};

/// `struct bpf_list_head`
#[repr(C)]
struct Head {
    /// Nodes at the ends: front, back.
    ends: [*mut Node; 2],
}

/// `struct bpf_list_node`
#[repr(C)]
struct Node {
    /// Neighbours: towards the back, towards the front.
    next: [*mut Node; 2],
    owner: AtomicU64,
}

const FRONT: usize = 0;
const BACK: usize = 1;

/// Links an object, or drops it where it is linked already.
///
/// # Errors
/// EINVAL: the node is in a list.
///
/// # Safety
/// `head` and `node` are such fields, the head's lock is held, and the caller gives up a reference of the object that the node lies in at
/// `node_offset`.
unsafe fn push(
    head: *mut Head,
    node: *mut Node,
    node_offset: u64,
    end: usize,
) -> Result<(), Errno> {
    let address = head.expose_provenance() as u64;
    // SAFETY: 1. the caller's promise: both are live; the lock makes all but `owner` ours.
    unsafe {
        let owner = &(*node).owner;
        if owner
            .compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            object::drop_reference(node.expose_provenance() as u64 - node_offset);
            return Err(Errno::EINVAL);
        }
        let other = 1 - end;
        let old = (*head).ends[end];
        (*node).next[end] = old;
        (*node).next[other] = std::ptr::null_mut();
        if old.is_null() {
            (*head).ends[other] = node;
        } else {
            (*old).next[other] = node;
        }
        (*head).ends[end] = node;
    }
    Ok(())
}

/// Unlinks the node at an end; null if the list is empty.
///
/// # Safety
/// As [`push`], for the head.
unsafe fn pop(head: *mut Head, end: usize) -> *mut Node {
    // SAFETY: 1. as in `push`; nodes in the list are live, since the head owns them.
    unsafe {
        let node = (*head).ends[end];
        if node.is_null() {
            return node;
        }
        let other = 1 - end;
        let next = (*node).next[end];
        (*head).ends[end] = next;
        if next.is_null() {
            (*head).ends[other] = next;
        } else {
            (*next).next[other] = std::ptr::null_mut();
        }
        (*node).owner.store(0, Ordering::Release);
        node
    }
}

/// Empties a list; the objects' references go to `dropped`.
///
/// # Safety
/// As [`push`], for the head at this address; its nodes lie at `node_offset`.
pub(super) unsafe fn take_all(head: u64, node_offset: u32, dropped: &mut Vec<u64>) {
    let head = std::ptr::with_exposed_provenance_mut(head as usize);
    loop {
        // SAFETY: 1. the caller's promise.
        let node = unsafe { pop(head, FRONT) };
        if node.is_null() {
            return;
        }
        dropped.push(node.expose_provenance() as u64 - u64::from(node_offset));
    }
}

kfuncs! { ROWS(Plain):
    bpf_list_push_front_impl(head: *mut Head, node: *mut Node, _kind: u64, node_offset: u64) {
        // SAFETY: 1. the verifier checked a head whose lock is held, and the node of an object that the program owns; 2. the rewrites give
        // its offset.
        zero_or(unsafe { push(head, node, node_offset, FRONT) })
    }
    bpf_list_push_back_impl(head: *mut Head, node: *mut Node, _kind: u64, node_offset: u64) {
        // SAFETY: as above.
        zero_or(unsafe { push(head, node, node_offset, BACK) })
    }
    bpf_list_pop_front(head: *mut Head) {
        // SAFETY: 1. the verifier checked a head whose lock is held.
        unsafe { pop(head, FRONT) }
    }
    bpf_list_pop_back(head: *mut Head) {
        // SAFETY: as above.
        unsafe { pop(head, BACK) }
    }
    bpf_list_front(head: *mut Head) {
        // SAFETY: as above.
        unsafe { (*head).ends[FRONT] }
    }
    bpf_list_back(head: *mut Head) {
        // SAFETY: as above.
        unsafe { (*head).ends[BACK] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kfunc::object::tests::object;

    fn node(object: u64) -> *mut Node {
        std::ptr::with_exposed_provenance_mut(object as usize + 8)
    }

    #[test]
    fn both_ends_agree() {
        let mut head = Head {
            ends: [std::ptr::null_mut(); 2],
        };
        let head = &raw mut head;
        let objects: Vec<u64> = (0..6).map(|_| object(32)).collect();
        // SAFETY: head and objects live, and one thread uses them.
        unsafe {
            for (at, &object) in objects.iter().enumerate() {
                let end = if at % 2 == 0 { FRONT } else { BACK };
                push(head, node(object), 8, end).unwrap();
            }
            // Front to back: 4 2 0 1 3 5.
            assert_eq!((*head).ends[FRONT], node(objects[4]));
            for (end, at) in [(FRONT, 4), (BACK, 5), (BACK, 3), (FRONT, 2)] {
                assert_eq!(pop(head, end), node(objects[at]));
                object::drop_reference(objects[at]);
            }
            let mut dropped = Vec::new();
            take_all(head.expose_provenance() as u64, 8, &mut dropped);
            assert_eq!(dropped, [objects[0], objects[1]]);
            assert!(pop(head, FRONT).is_null() && pop(head, BACK).is_null());
            assert!((*head).ends.iter().all(|end| end.is_null()));
            push(head, node(objects[0]), 8, BACK).unwrap();
            // The second push drops the reference that came with it.
            assert!(object::acquire(objects[0]));
            assert_eq!(push(head, node(objects[0]), 8, FRONT), Err(Errno::EINVAL));
            assert_eq!(pop(head, BACK), node(objects[0]));
            object::drop_reference(objects[0]);
            object::drop_reference(objects[1]);
        }
    }
}
