//! The order of `BPF_MAP_GET_NEXT_KEY`: children before parents, left before right.

use std::sync::atomic::Ordering;

use super::{LpmTrie, Node};

impl LpmTrie {
    pub(super) fn copy_key(&self, node: *const Node, out: &mut [u8]) {
        // SAFETY: 1. callers pass live nodes.
        unsafe {
            out[..4].copy_from_slice(&(*node).prefix_bits.to_ne_bytes());
            for (index, chunk) in out[4..].chunks_mut(8).enumerate() {
                let bytes = self.word(node, index).to_be_bytes();
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            }
        }
    }

    /// The first node of a subtree in the order of `next_key`: the leftmost, deepest one with a value.
    pub(super) unsafe fn leftmost(&self, from: *const Node) -> *const Node {
        let mut found = std::ptr::null();
        let mut node = from;
        // SAFETY: 1. reachable nodes are live for the caller's section.
        unsafe {
            while !node.is_null() {
                let left = (&(*node).children)[0].load(Ordering::Acquire);
                if (*node).intermediate.load(Ordering::Relaxed) != 0 {
                    node = left;
                } else {
                    found = node;
                    node = if left.is_null() {
                        (&(*node).children)[1].load(Ordering::Acquire)
                    } else {
                        left
                    };
                }
            }
        }
        found
    }

    /// The node after a key's: children before parents, left before right. From the start if the key is not there.
    pub(super) unsafe fn node_after(&self, key: &[u8]) -> *const Node {
        // SAFETY: 1. the slice has the key's size; 2. reachable nodes are live for the caller's section.
        unsafe {
            let root = self.root.load(Ordering::Acquire);
            let needle = self.needle(key.as_ptr());
            let mut path: Vec<*const Node> = Vec::new();
            let mut node: *const Node = root;
            let mut common = 0;
            while !node.is_null() {
                common = self.common_bits(node, &needle);
                path.push(node);
                if (*node).prefix_bits != common || common == needle.prefix_bits {
                    break;
                }
                node =
                    (&(*node).children)[Self::bit(&needle.words, common)].load(Ordering::Acquire);
            }
            let is_it = !node.is_null()
                && (*node).prefix_bits == needle.prefix_bits
                && common == needle.prefix_bits;
            if needle.prefix_bits > self.max_prefix_bits
                || !is_it
                || (*node).intermediate.load(Ordering::Relaxed) != 0
            {
                return self.leftmost(root);
            }
            path.pop();
            while let Some(parent) = path.pop() {
                if std::ptr::eq((&(*parent).children)[0].load(Ordering::Acquire), node) {
                    let right = (&(*parent).children)[1].load(Ordering::Acquire);
                    if !right.is_null() {
                        return self.leftmost(right);
                    }
                }
                if (*parent).intermediate.load(Ordering::Relaxed) == 0 {
                    return parent;
                }
                node = parent;
            }
        }
        std::ptr::null()
    }
}
