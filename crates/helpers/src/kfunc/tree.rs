//! Red-black trees of objects: `bpf_rbtree_*`. A root owns one reference of each object in it, ordered by the program's own comparison.
//!
//! ```text
//! bpf_rb_root: top node | first node in order
//! bpf_rb_node: parent, and in bit 0 black | left | right | owner     owner: the root, 0 when in no tree
//! ```
//! Invariants: no red node has a red parent; every way from a node down passes as many black nodes. A missing node counts as black. Directions are
//! indices, so that each case stands once for both sides. As in `list`, the lock is held and only `owner` is contended.
//!
//! # Source
//! Cormen, Leiserson, Rivest, Stein: Introduction to Algorithms, chapter 13; a removed node with two children is replaced by its successor.

use std::sync::atomic::{AtomicU64, Ordering};

use ring3_runtime::CallbackRef;
use ring3_uapi::Errno;

use super::{kfuncs, object, zero_or};

/// `struct bpf_rb_root`
#[repr(C)]
struct Root {
    top: *mut Node,
    first: *mut Node,
}

/// `struct bpf_rb_node`
#[repr(C)]
struct Node {
    parent_and_black: *mut Node,
    child: [*mut Node; 2],
    owner: AtomicU64,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;
const NONE: *mut Node = std::ptr::null_mut();

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Red,
    Black,
}

/// # Safety
/// `node` is null or in a tree whose lock is held; so for all functions down to `erase`.
unsafe fn colour(node: *mut Node) -> Colour {
    // SAFETY: 1. the caller's promise.
    if node.is_null() || unsafe { (*node).parent_and_black }.addr() & 1 != 0 {
        Colour::Black
    } else {
        Colour::Red
    }
}

unsafe fn parent(node: *mut Node) -> *mut Node {
    // SAFETY: 1. the caller's promise.
    unsafe { (*node).parent_and_black }.map_addr(|address| address & !1)
}

unsafe fn set_colour(node: *mut Node, colour: Colour) {
    let black = usize::from(colour == Colour::Black);
    // SAFETY: 1. the caller's promise.
    unsafe {
        (*node).parent_and_black = parent(node).map_addr(|address| address | black);
    }
}

unsafe fn set_parent(node: *mut Node, parent: *mut Node) {
    // SAFETY: 1. the caller's promise.
    unsafe {
        let black = (*node).parent_and_black.addr() & 1;
        (*node).parent_and_black = parent.map_addr(|address| address | black);
    }
}

/// On which side of its parent a node is.
unsafe fn side(node: *mut Node) -> usize {
    // SAFETY: 1. the caller's promise; the node has a parent.
    unsafe { usize::from((*parent(node)).child[RIGHT] == node) }
}

/// Puts `new`, which may be null, in the place of `old` under its parent.
unsafe fn replace(root: *mut Root, old: *mut Node, new: *mut Node) {
    // SAFETY: 1. the caller's promise.
    unsafe {
        let above = parent(old);
        if above.is_null() {
            (*root).top = new;
        } else {
            (*above).child[side(old)] = new;
        }
        if !new.is_null() {
            set_parent(new, above);
        }
    }
}

/// Moves a node down to `side`; its child of the other side, which there is, comes up.
unsafe fn rotate(root: *mut Root, node: *mut Node, side: usize) {
    // SAFETY: 1. the caller's promise.
    unsafe {
        let up = (*node).child[1 - side];
        let moved = (*up).child[side];
        replace(root, node, up);
        (*node).child[1 - side] = moved;
        if !moved.is_null() {
            set_parent(moved, node);
        }
        (*up).child[side] = node;
        set_parent(node, up);
    }
}

/// The outermost node of a side below a node.
unsafe fn outermost(mut node: *mut Node, side: usize) -> *mut Node {
    // SAFETY: 1. the caller's promise.
    unsafe {
        while !(*node).child[side].is_null() {
            node = (*node).child[side];
        }
    }
    node
}

/// The next node in order.
unsafe fn next(mut node: *mut Node) -> *mut Node {
    // SAFETY: 1. the caller's promise.
    unsafe {
        if !(*node).child[RIGHT].is_null() {
            return outermost((*node).child[RIGHT], LEFT);
        }
        loop {
            let above = parent(node);
            if above.is_null() || side(node) == LEFT {
                return above;
            }
            node = above;
        }
    }
}

/// Links a node under `above` (null: as the top) and colours the tree anew.
unsafe fn insert(root: *mut Root, node: *mut Node, above: *mut Node, at: usize) {
    // SAFETY: 1. the caller's promise; 2. a red node has a parent, which is not the top, so that grandparents exist.
    unsafe {
        (*node).parent_and_black = above;
        (*node).child = [NONE; 2];
        if above.is_null() {
            (*root).top = node;
            (*root).first = node;
        } else {
            (*above).child[at] = node;
            if at == LEFT && above == (*root).first {
                (*root).first = node;
            }
        }
        let mut node = node;
        loop {
            let mut above = parent(node);
            if above.is_null() || colour(above) == Colour::Black {
                break;
            }
            let grand = parent(above);
            let above_side = side(above);
            let uncle = (*grand).child[1 - above_side];
            if colour(uncle) == Colour::Red {
                set_colour(above, Colour::Black);
                set_colour(uncle, Colour::Black);
                set_colour(grand, Colour::Red);
                node = grand;
                continue;
            }
            if side(node) != above_side {
                rotate(root, above, above_side);
                above = node;
            }
            set_colour(above, Colour::Black);
            set_colour(grand, Colour::Red);
            rotate(root, grand, 1 - above_side);
            break;
        }
        set_colour((*root).top, Colour::Black);
    }
}

/// Unlinks a node.
unsafe fn erase(root: *mut Root, node: *mut Node) {
    // SAFETY: 1. the caller's promise: the node is in this tree.
    unsafe {
        if (*root).first == node {
            (*root).first = next(node);
        }
        let [left, right] = (*node).child;
        // What left its place, what came there, and under whom.
        let (lost, filler, above);
        if left.is_null() || right.is_null() {
            filler = if left.is_null() { right } else { left };
            above = parent(node);
            lost = colour(node);
            replace(root, node, filler);
        } else {
            let heir = outermost(right, LEFT);
            lost = colour(heir);
            filler = (*heir).child[RIGHT];
            if parent(heir) == node {
                above = heir;
            } else {
                above = parent(heir);
                replace(root, heir, filler);
                (*heir).child[RIGHT] = right;
                set_parent(right, heir);
            }
            replace(root, node, heir);
            (*heir).child[LEFT] = left;
            set_parent(left, heir);
            set_colour(heir, colour(node));
        }
        if lost == Colour::Black {
            restore(root, filler, above);
        }
    }
}

/// The ways through `node`, a child of `above` that may be null, lack a black node.
unsafe fn restore(root: *mut Root, mut node: *mut Node, mut above: *mut Node) {
    // SAFETY: 1. the caller's promise; 2. where a black node is lacking the sibling's side has one, so the sibling exists.
    unsafe {
        while !above.is_null() && colour(node) == Colour::Black {
            let at = usize::from((*above).child[LEFT] != node);
            let mut sibling = (*above).child[1 - at];
            if colour(sibling) == Colour::Red {
                set_colour(sibling, Colour::Black);
                set_colour(above, Colour::Red);
                rotate(root, above, at);
                sibling = (*above).child[1 - at];
            }
            let [near, far] = [(*sibling).child[at], (*sibling).child[1 - at]];
            if colour(near) == Colour::Black && colour(far) == Colour::Black {
                set_colour(sibling, Colour::Red);
                node = above;
                above = parent(node);
                continue;
            }
            if colour(far) == Colour::Black {
                set_colour(near, Colour::Black);
                set_colour(sibling, Colour::Red);
                rotate(root, sibling, 1 - at);
                sibling = near;
            }
            set_colour(sibling, colour(above));
            set_colour(above, Colour::Black);
            set_colour((*sibling).child[1 - at], Colour::Black);
            rotate(root, above, at);
            return;
        }
        if !node.is_null() {
            set_colour(node, Colour::Black);
        }
    }
}

/// Adds an object where `less` puts it, behind its equals, or drops it where it is in a tree already.
///
/// # Errors
/// EINVAL: the node is in a tree.
///
/// # Safety
/// As `list::push`; `less` compares two nodes of the tree.
unsafe fn add(
    root: *mut Root,
    node: *mut Node,
    less: CallbackRef,
    node_offset: u64,
) -> Result<(), Errno> {
    let address = root.expose_provenance() as u64;
    let new = node.expose_provenance() as u64;
    // SAFETY: 1. the caller's promise: root and node are live, the lock makes all but `owner` ours; 2. callbacks take two nodes; 3. a program runs
    // in a read section.
    unsafe {
        let owner = &(*node).owner;
        if owner
            .compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            object::drop_reference(new - node_offset);
            return Err(Errno::EINVAL);
        }
        let (mut above, mut at) = (NONE, LEFT);
        let mut below = (*root).top;
        while !below.is_null() {
            above = below;
            let is_less = less.call([new, below.expose_provenance() as u64, 0, 0, 0]) & 1 != 0;
            at = if is_less { LEFT } else { RIGHT };
            below = (*above).child[at];
        }
        insert(root, node, above, at);
    }
    Ok(())
}

/// Unlinks a node; null if it is not in this tree.
///
/// # Safety
/// As [`add`].
unsafe fn remove(root: *mut Root, node: *mut Node) -> *mut Node {
    let address = root.expose_provenance() as u64;
    // SAFETY: 1. the caller's promise.
    unsafe {
        if (*node).owner.load(Ordering::Acquire) != address {
            return NONE;
        }
        erase(root, node);
        (*node).owner.store(0, Ordering::Release);
    }
    node
}

/// Empties a tree; the objects' references go to `dropped`.
///
/// # Safety
/// As [`add`], for the root at this address; its nodes lie at `node_offset`.
pub(super) unsafe fn take_all(root: u64, node_offset: u32, dropped: &mut Vec<u64>) {
    let root = std::ptr::with_exposed_provenance_mut::<Root>(root as usize);
    // SAFETY: 1. the caller's promise.
    unsafe {
        while !(*root).first.is_null() {
            let node = remove(root, (*root).first);
            dropped.push(node.expose_provenance() as u64 - u64::from(node_offset));
        }
    }
}

/// The child of a node of this tree; null for a node of no or another tree.
///
/// # Safety
/// As [`add`].
unsafe fn child(root: *mut Root, node: *mut Node, side: usize) -> *mut Node {
    let address = root.expose_provenance() as u64;
    // SAFETY: 1. the caller's promise.
    unsafe {
        if (*node).owner.load(Ordering::Acquire) == address {
            (*node).child[side]
        } else {
            NONE
        }
    }
}

kfuncs! { CALLING_ROWS(TakesCallback):
    bpf_rbtree_add_impl(root: *mut Root, node: *mut Node, less: u64, _kind: u64, node_offset: u64) {
        let less = CallbackRef::from_reg(less).expect("the verifier passes function addresses only");
        // SAFETY: 1. the verifier checked a root whose lock is held, the node of an object that the program owns, and walked the callback with two
        // nodes; 2. the rewrites give the node's offset.
        zero_or(unsafe { add(root, node, less, node_offset) })
    }
}

kfuncs! { ROWS(Plain):
    bpf_rbtree_remove(root: *mut Root, node: *mut Node) {
        // SAFETY: 1. the verifier checked a root whose lock is held, and the node of an object that is protected by it or owned.
        unsafe { remove(root, node) }
    }
    bpf_rbtree_first(root: *mut Root) {
        // SAFETY: as above.
        unsafe { (*root).first }
    }
    bpf_rbtree_root(root: *mut Root) {
        // SAFETY: as above.
        unsafe { (*root).top }
    }
    bpf_rbtree_left(root: *mut Root, node: *mut Node) {
        // SAFETY: as above.
        unsafe { child(root, node, LEFT) }
    }
    bpf_rbtree_right(root: *mut Root, node: *mut Node) {
        // SAFETY: as above.
        unsafe { child(root, node, RIGHT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kfunc::object::tests::object;
    use ring3_runtime::Callback;

    /// Offset of the node in an object whose first word is its key.
    const NODE: u64 = 8;

    unsafe extern "C" fn less(a: u64, b: u64, _: u64, _: u64, _: u64, _: *const Callback) -> u64 {
        u64::from(key(a) < key(b))
    }

    fn key(node: u64) -> u64 {
        // SAFETY: nodes of live objects.
        unsafe { *std::ptr::with_exposed_provenance::<u64>((node - NODE) as usize) }
    }

    /// Black nodes on every way down; checks colours, order and parents.
    fn check(node: *mut Node, above: *mut Node, keys: &mut Vec<u64>) -> u32 {
        if node.is_null() {
            return 1;
        }
        // SAFETY: a node of the tree.
        unsafe {
            assert_eq!(parent(node), above);
            let is_red = colour(node) == Colour::Red;
            assert!(!is_red || colour(above) == Colour::Black);
            let left = check((*node).child[LEFT], node, keys);
            keys.push(key(node.expose_provenance() as u64));
            assert_eq!(check((*node).child[RIGHT], node, keys), left);
            left + u32::from(!is_red)
        }
    }

    #[test]
    fn trees_stay_balanced_and_ordered() {
        let callback = Callback::new(less);
        let less = CallbackRef::from_reg(std::ptr::from_ref(&callback).expose_provenance() as u64);
        let less = less.unwrap();
        let mut root = Root {
            top: NONE,
            first: NONE,
        };
        let root = &raw mut root;
        let objects: Vec<u64> = (0..64).map(|_| object(48)).collect();
        let mut seed = 7u64;
        let mut inside = std::collections::BTreeMap::new();
        for step in 0..4000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let object = objects[(seed >> 40) as usize % objects.len()];
            let node = std::ptr::with_exposed_provenance_mut::<Node>((object + NODE) as usize);
            // SAFETY: objects and root live, and one thread uses them; a pushed reference comes back with the node.
            unsafe {
                if inside.remove(&object).is_some() {
                    assert_eq!(remove(root, node), node);
                    assert!(remove(root, node).is_null());
                } else {
                    let key = seed >> 50;
                    *std::ptr::with_exposed_provenance_mut::<u64>(object as usize) = key;
                    add(root, node, less, NODE).unwrap();
                    inside.insert(object, key);
                }
                let mut keys = Vec::new();
                check((*root).top, NONE, &mut keys);
                let mut wanted: Vec<u64> = inside.values().copied().collect();
                wanted.sort_unstable();
                assert_eq!(keys, wanted, "step {step}");
                let first = (*root).first;
                let first_key = (!first.is_null()).then(|| key(first.expose_provenance() as u64));
                assert_eq!(first_key, wanted.first().copied());
            }
        }
        let mut dropped = Vec::new();
        // SAFETY: as above.
        unsafe { take_all(root.expose_provenance() as u64, NODE as u32, &mut dropped) };
        assert_eq!(dropped.len(), inside.len());
        for object in objects {
            // SAFETY: the test owns every object now.
            unsafe { object::drop_reference(object) };
        }
    }
}
