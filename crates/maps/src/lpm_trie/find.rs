//! Finding the longest prefix: a jump over the first bits, then the walk.

use std::sync::atomic::{AtomicPtr, Ordering};

use super::{LpmTrie, Node, word_of};

/// Bits of a key that the jump table takes at once.
pub(super) const JUMP_BITS: u32 = 12;

/// Where the walk of all keys with the same first bits goes on, and the longest prefix up to there.
#[repr(C)]
pub(super) struct Jump {
    best: AtomicPtr<Node>,
    next: AtomicPtr<Node>,
}

impl LpmTrie {
    /// The value of the longest prefix.
    ///
    /// # Safety
    /// `key` is readable for the key size; the caller is in a read section.
    #[inline(always)]
    pub(super) unsafe fn lookup_value(&self, key: *const u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        unsafe {
            let node = match self.words {
                1 => self.find::<1>(key),
                2 => self.find::<2>(key),
                _ => self.find::<32>(key),
            };
            if node.is_null() {
                std::ptr::null_mut()
            } else {
                self.value(node)
            }
        }
    }

    /// The node of the longest prefix, for keys of at most `W` words.
    #[inline(always)]
    unsafe fn find<const W: usize>(&self, key: *const u8) -> *const Node {
        // SAFETY: 1. the caller's promise; 2. reachable nodes are live for the caller's section.
        unsafe {
            let prefix_bits = key.cast::<u32>().read_unaligned();
            if prefix_bits > self.max_prefix_bits {
                return std::ptr::null();
            }
            let words = self.key_words::<W>(key);
            let (mut found, mut node) = match self.jump(words[0]) {
                // The first steps, taken at once.
                Some(jump) if prefix_bits >= JUMP_BITS => (
                    jump.best.load(Ordering::Acquire),
                    jump.next.load(Ordering::Acquire),
                ),
                _ => (std::ptr::null_mut(), self.root.load(Ordering::Acquire)),
            };
            while !node.is_null() {
                let length = (*node).prefix_bits;
                let mut common = prefix_bits;
                for (index, word) in words.iter().enumerate().take(self.words.min(W)) {
                    let differ = self.word(node, index) ^ word;
                    if differ != 0 {
                        common = common.min(index as u32 * 64 + differ.leading_zeros());
                        break;
                    }
                }
                if common < length {
                    break;
                }
                if (*node).intermediate.load(Ordering::Relaxed) == 0 {
                    found = node;
                }
                if length == self.max_prefix_bits {
                    break;
                }
                let bit = words[(length / 64) as usize % W] >> (63 - length % 64) & 1;
                node = (&(*node).children)[bit as usize].load(Ordering::Acquire);
            }
            found
        }
    }

    /// A key's data as words, most significant bit first.
    #[inline(always)]
    unsafe fn key_words<const W: usize>(&self, key: *const u8) -> [u64; W] {
        let mut words = [0; W];
        // SAFETY: 1. the caller's promise: 4 bytes and the data.
        unsafe {
            let data = key.add(4);
            match self.data_bytes {
                4 => words[0] = u64::from(u32::from_be(data.cast::<u32>().read_unaligned())) << 32,
                16 if W >= 2 => {
                    let pair = data.cast::<[u64; 2]>().read_unaligned();
                    words[0] = u64::from_be(pair[0]);
                    words[1] = u64::from_be(pair[1]);
                }
                _ => {
                    let data = std::slice::from_raw_parts(data, self.data_bytes);
                    for (index, word) in words.iter_mut().take(self.words).enumerate() {
                        *word = word_of(data, index);
                    }
                }
            }
        }
        words
    }

    /// The jump table's entry for keys that begin with these bits.
    #[inline(always)]
    fn jump(&self, first_word: u64) -> Option<&Jump> {
        let table = self.jumps.as_ref()?;
        // SAFETY: 1. the region holds 1 << JUMP_BITS entries; 2. zeroed memory is a valid one; 3. they are atomics.
        Some(unsafe {
            &*table
                .as_ptr()
                .cast::<Jump>()
                .add((first_word >> (64 - JUMP_BITS)) as usize)
        })
    }

    /// Takes the first steps again for all keys under a prefix whose nodes have changed. Under the lock.
    pub(super) unsafe fn refresh_jumps(&self, words: &[u64; 32], prefix_bits: u32) {
        if self.jumps.is_none() {
            return;
        }
        let free_bits = JUMP_BITS - prefix_bits.min(JUMP_BITS);
        let first = words[0] >> (64 - JUMP_BITS) >> free_bits << free_bits;
        for top in first..first + (1 << free_bits) {
            let word = top << (64 - JUMP_BITS);
            let Some(jump) = self.jump(word) else { return };
            let mut best: *mut Node = std::ptr::null_mut();
            let mut node = self.root.load(Ordering::Relaxed);
            // SAFETY: 1. the caller holds the lock: nodes do not change.
            unsafe {
                while !node.is_null() && (*node).prefix_bits <= JUMP_BITS {
                    let length = (*node).prefix_bits;
                    if (self.word(node, 0) ^ word).leading_zeros() < length {
                        // Nothing under this prefix.
                        node = std::ptr::null_mut();
                        break;
                    }
                    if (*node).intermediate.load(Ordering::Relaxed) == 0 {
                        best = node;
                    }
                    if length == JUMP_BITS {
                        break;
                    }
                    node = (&(*node).children)[(word >> (63 - length) & 1) as usize]
                        .load(Ordering::Relaxed);
                }
            }
            // A node of exactly these bits is where the walk goes on: which child it takes is the key's next bit.
            jump.best.store(best, Ordering::Release);
            jump.next.store(node, Ordering::Release);
        }
    }
}
