//! LPM tries: values under prefixes of bit strings; a look-up finds the longest prefix of its key.
//!
//! ```text
//! key       | prefix length u32 | data, most significant bit first |
//! ```
//!
//! A binary trie with compressed paths. A node holds a prefix; an intermediate one has no value and two children. Readers walk without a lock; writers take
//! one, replace nodes instead of changing them, and free the old ones a grace period later.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use ring3_os::map::{Prot, Region};
use ring3_sync::rcu;
use ring3_sync::spin::OwnedSpin;
use ring3_uapi::Errno;
use ring3_uapi::flags::{map_create, map_elem};

use crate::Map;
use crate::attr::{MapAttr, MapError};
use crate::batch::BatchStyle;
use crate::fd::FdTable;
use crate::fields::ValueCopy;
use crate::mem;
use crate::ops::{HelperFn, MapOps};
use crate::queue_stack::KMALLOC_BYTES_MAX;

mod find;
mod walk;

use find::{JUMP_BITS, Jump};

const FLAGS: u32 = map_create::NO_PREALLOC
    | map_create::NUMA_NODE
    | map_create::RDONLY
    | map_create::WRONLY
    | map_create::RDONLY_PROG
    | map_create::WRONLY_PROG;
/// Bytes of data of a key: at least one, at most 256, after the 4 of the length.
const KEY_BYTES: std::ops::RangeInclusive<u32> = 5..=260;
/// Bytes of the kernel's node before its data.
const KERNEL_NODE_BYTES: u32 = 40;

/// A node: this header, then the prefix as words whose most significant bit comes first, then the value.
#[repr(C)]
struct Node {
    children: [AtomicPtr<Node>; 2],
    prefix_bits: u32,
    intermediate: AtomicU32,
}

const NODE_BYTES: usize = size_of::<Node>();

/// A key in hand: its data as words, most significant bit first.
#[derive(Clone, Copy)]
struct Needle {
    prefix_bits: u32,
    words: [u64; 32],
}

/// `BPF_MAP_TYPE_LPM_TRIE`.
#[derive(Debug)]
pub(crate) struct LpmTrie {
    root: AtomicPtr<Node>,
    data_bytes: usize,
    words: usize,
    max_prefix_bits: u32,
    max_entries: u32,
    entries: AtomicU32,
    /// For keys of at least 16 bits.
    jumps: Option<Region>,
    lock: OwnedSpin,
    copy: ValueCopy,
}

/// The word at `index` of big-endian bytes, zero-padded.
fn word_of(data: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    let part = data.get(index * 8..).unwrap_or_default();
    let len = part.len().min(8);
    bytes[..len].copy_from_slice(&part[..len]);
    u64::from_be_bytes(bytes)
}

impl LpmTrie {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(
            attr.has_flag(map_create::NO_PREALLOC),
            "map_flags without BPF_F_NO_PREALLOC:",
            format_args!("{:#x}", attr.map_flags),
        )?;
        attr.check_flags(FLAGS)?;
        attr.check_prog_access()?;
        attr.require(
            KEY_BYTES.contains(&attr.key_size),
            "key_size",
            attr.key_size,
        )?;
        let value_max = KMALLOC_BYTES_MAX - 256 - KERNEL_NODE_BYTES;
        attr.require(
            (1..=value_max).contains(&attr.value_size),
            "value_size",
            attr.value_size,
        )?;
        let data_bytes = attr.key_size as usize - 4;
        let jumps = if data_bytes >= 2 {
            let bytes = size_of::<Jump>() << JUMP_BITS;
            let region = Region::anonymous(bytes, Prot::ReadWrite);
            Some(
                region
                    .map_err(|errno| attr.error(errno, format_args!("memory of {bytes} bytes")))?,
            )
        } else {
            None
        };
        Ok(LpmTrie {
            jumps,
            root: AtomicPtr::default(),
            data_bytes,
            words: data_bytes.div_ceil(8),
            max_prefix_bits: data_bytes as u32 * 8,
            max_entries: attr.max_entries,
            entries: AtomicU32::new(0),
            lock: OwnedSpin::new(),
            copy: ValueCopy::new(attr.value_size as usize, attr.record.clone()),
        })
    }

    /// # Safety
    /// `key` is readable for the key size.
    unsafe fn needle(&self, key: *const u8) -> Needle {
        let mut needle = Needle {
            prefix_bits: 0,
            words: [0; 32],
        };
        // SAFETY: 1. the caller's promise: 4 bytes and the data.
        unsafe {
            needle.prefix_bits = key.cast::<u32>().read_unaligned();
            let data = std::slice::from_raw_parts(key.add(4), self.data_bytes);
            for (index, word) in needle.words.iter_mut().take(self.words).enumerate() {
                *word = word_of(data, index);
            }
        }
        needle
    }

    fn layout(&self) -> Layout {
        let bytes = NODE_BYTES + self.words * 8 + mem::round_up_8(self.copy.value_bytes);
        // A node of a creatable map is far below isize::MAX.
        Layout::from_size_align(bytes, 8).unwrap_or(Layout::new::<Node>())
    }

    /// A word of a node's prefix.
    #[inline(always)]
    unsafe fn word(&self, node: *const Node, index: usize) -> u64 {
        // SAFETY: 1. nodes hold `words` words behind the header, written before they are published and never after.
        unsafe {
            node.cast::<u8>()
                .add(NODE_BYTES)
                .cast::<u64>()
                .add(index)
                .read()
        }
    }

    fn value(&self, node: *const Node) -> *mut u8 {
        node.cast_mut()
            .cast::<u8>()
            .wrapping_add(NODE_BYTES + self.words * 8)
    }

    /// Bits that the node's prefix and the key have in common, at most the shorter one's.
    #[inline(always)]
    unsafe fn common_bits(&self, node: *const Node, needle: &Needle) -> u32 {
        // SAFETY: 1. the caller passes a live node.
        unsafe {
            let limit = (*node).prefix_bits.min(needle.prefix_bits);
            for index in 0..self.words {
                let differ = self.word(node, index) ^ needle.words[index];
                if differ != 0 {
                    return limit.min(index as u32 * 64 + differ.leading_zeros());
                }
            }
            limit
        }
    }

    /// Bit of the key right behind a prefix.
    #[inline(always)]
    fn bit(words: &[u64; 32], at: u32) -> usize {
        (words[(at / 64) as usize & 31] >> (63 - at % 64) & 1) as usize
    }

    fn new_node(
        &self,
        words: &[u64; 32],
        prefix_bits: u32,
        intermediate: bool,
    ) -> Result<*mut Node, Errno> {
        // SAFETY: 1. the layout is not empty; 2. zeroed memory is a valid header; 3. the words lie behind it.
        unsafe {
            let node = alloc_zeroed(self.layout()).cast::<Node>();
            if node.is_null() {
                return Err(Errno::ENOMEM);
            }
            (&raw mut (*node).prefix_bits).write(prefix_bits);
            (*node)
                .intermediate
                .store(intermediate.into(), Ordering::Relaxed);
            let at = node.cast::<u8>().add(NODE_BYTES).cast::<u64>();
            for (index, word) in words.iter().take(self.words).enumerate() {
                at.add(index).write(*word);
            }
            Ok(node)
        }
    }

    /// Frees an unlinked node after a grace period.
    fn retire(&self, node: *mut Node) {
        let layout = self.layout();
        let copy = self.copy.clone();
        let (address, value) = (node as usize, self.value(node) as usize);
        rcu::call_rcu(move || {
            // SAFETY: 1. allocated with this layout; 2. unlinked, and no section that could have seen it runs.
            unsafe {
                copy.release_fields(value as *mut u8);
                dealloc(address as *mut u8, layout);
            }
        });
    }

    /// # Safety
    /// `key` and `value` are readable for their sizes.
    unsafe fn store(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        // SAFETY: 1. the caller's promise; 2. nodes are changed under the lock only; 3. new nodes are ours until published.
        unsafe {
            let needle = self.needle(key);
            if needle.prefix_bits > self.max_prefix_bits {
                return Err(Errno::EINVAL);
            }
            let new = self.new_node(&needle.words, needle.prefix_bits, false)?;
            self.copy.init(self.value(new), value);
            let linked = match self.lock.lock() {
                Ok(_lock) => self.link(new, &needle, flags).map(|(old, bits)| {
                    self.refresh_jumps(&needle.words, bits);
                    old
                }),
                Err(_) => Err(Errno::EBUSY),
            };
            match linked {
                Ok(Some(old)) => self.retire(old),
                Ok(None) => {}
                Err(errno) => {
                    dealloc(new.cast(), self.layout());
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Counts a new entry.
    fn admit(&self, flags: u64) -> Result<(), Errno> {
        if flags == map_elem::EXIST {
            return Err(Errno::ENOENT);
        }
        let entries = self.entries.load(Ordering::Relaxed);
        if entries == self.max_entries {
            return Err(Errno::ENOSPC);
        }
        self.entries.store(entries + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a node where it belongs; returns the one that it replaces and the length of the shortest prefix whose walk has changed. Under the lock.
    unsafe fn link(
        &self,
        new: *mut Node,
        needle: &Needle,
        flags: u64,
    ) -> Result<(Option<*mut Node>, u32), Errno> {
        // SAFETY: 1. the caller holds the lock: nodes do not change; 2. `new` is not published yet.
        unsafe {
            let mut slot = &self.root;
            let mut node = slot.load(Ordering::Relaxed);
            let mut common = 0;
            while !node.is_null() {
                common = self.common_bits(node, needle);
                if (*node).prefix_bits != common || common == needle.prefix_bits {
                    break;
                }
                slot = &(&(*node).children)[Self::bit(&needle.words, common)];
                node = slot.load(Ordering::Relaxed);
            }
            if node.is_null() {
                self.admit(flags)?;
                slot.store(new, Ordering::Release);
                return Ok((None, needle.prefix_bits));
            }
            if (*node).prefix_bits == common {
                // The same prefix, since the loop ended here.
                if (*node).intermediate.load(Ordering::Relaxed) != 0 {
                    self.admit(flags)?;
                } else if flags == map_elem::NOEXIST {
                    return Err(Errno::EEXIST);
                }
                for side in 0..2 {
                    let child = (&(*node).children)[side].load(Ordering::Relaxed);
                    (&(*new).children)[side].store(child, Ordering::Relaxed);
                }
                slot.store(new, Ordering::Release);
                return Ok((Some(node), needle.prefix_bits));
            }
            self.admit(flags)?;
            let side_of_node =
                (self.word(node, (common / 64) as usize) >> (63 - common % 64) & 1) as usize;
            if common == needle.prefix_bits {
                (&(*new).children)[side_of_node].store(node, Ordering::Relaxed);
                slot.store(new, Ordering::Release);
                return Ok((None, needle.prefix_bits));
            }
            let fork = self
                .new_node(&needle.words, common, true)
                .inspect_err(|_| {
                    self.entries.fetch_sub(1, Ordering::Relaxed);
                })?;
            (&(*fork).children)[side_of_node].store(node, Ordering::Relaxed);
            (&(*fork).children)[1 - side_of_node].store(new, Ordering::Relaxed);
            slot.store(fork, Ordering::Release);
            Ok((None, common))
        }
    }

    /// # Safety
    /// `key` is readable for the key size.
    unsafe fn remove(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        let unlinked = unsafe { self.unlink(key)? };
        // Only now, without the lock: freeing may wait for readers, and a reader may wait for the lock.
        unlinked
            .into_iter()
            .flatten()
            .for_each(|node| self.retire(node));
        Ok(())
    }

    /// Takes a key's node out of the trie, and its parent if that was a mere fork.
    ///
    /// # Safety
    /// `key` is readable for the key size.
    unsafe fn unlink(&self, key: *const u8) -> Result<[Option<*mut Node>; 2], Errno> {
        // SAFETY: 1. the caller's promise; 2. nodes are changed under the lock only.
        unsafe {
            let needle = self.needle(key);
            if needle.prefix_bits > self.max_prefix_bits {
                return Err(Errno::EINVAL);
            }
            let _lock = self.lock.lock().map_err(|_| Errno::EBUSY)?;
            let mut parent_slot = None;
            let mut parent: *mut Node = std::ptr::null_mut();
            let mut slot = &self.root;
            let mut node = slot.load(Ordering::Relaxed);
            let mut common = 0;
            while !node.is_null() {
                common = self.common_bits(node, &needle);
                if (*node).prefix_bits != common || common == needle.prefix_bits {
                    break;
                }
                parent_slot = Some(slot);
                parent = node;
                slot = &(&(*node).children)[Self::bit(&needle.words, common)];
                node = slot.load(Ordering::Relaxed);
            }
            let is_it = !node.is_null()
                && (*node).prefix_bits == needle.prefix_bits
                && common == needle.prefix_bits;
            if !is_it || (*node).intermediate.load(Ordering::Relaxed) != 0 {
                return Err(Errno::ENOENT);
            }
            self.entries.fetch_sub(1, Ordering::Relaxed);
            let children =
                [0, 1].map(|side: usize| (&(*node).children)[side].load(Ordering::Relaxed));
            if !children[0].is_null() && !children[1].is_null() {
                // It stays as a fork; its value is gone.
                (*node).intermediate.store(1, Ordering::Relaxed);
                self.refresh_jumps(&needle.words, needle.prefix_bits);
                return Ok([None, None]);
            }
            let is_leaf = children.iter().all(|child| child.is_null());
            if let Some(parent_slot) = parent_slot
                && is_leaf
                && (*parent).intermediate.load(Ordering::Relaxed) != 0
            {
                // A fork with one arm is none: the other child takes its place.
                let on_left = (&(*parent).children)[0].load(Ordering::Relaxed) == node;
                let other = (&(*parent).children)[usize::from(on_left)].load(Ordering::Relaxed);
                parent_slot.store(other, Ordering::Release);
                self.refresh_jumps(&needle.words, (*parent).prefix_bits);
                return Ok([Some(parent), Some(node)]);
            }
            let only = if children[0].is_null() {
                children[1]
            } else {
                children[0]
            };
            slot.store(only, Ordering::Release);
            self.refresh_jumps(&needle.words, needle.prefix_bits);
            Ok([Some(node), None])
        }
    }
}

unsafe extern "C" fn trie_lookup(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: 1. engines pass a live map of this type and a readable key (verifier: ARG_CONST_MAP_PTR, ARG_PTR_TO_MAP_KEY), inside a program run.
    unsafe {
        (*Map::from_program_ptr(map).hot().cast::<LpmTrie>()).lookup_value(key as *const u8) as u64
    }
}

impl MapOps for LpmTrie {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        unsafe { self.lookup_value(key) }
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.store(key, value, flags) }
    }

    unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.remove(key) }
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the slices have the sizes of key and value; 2. the caller is in a section.
        unsafe {
            let found = self.lookup_value(key.as_ptr());
            if found.is_null() {
                return Err(Errno::ENOENT);
            }
            self.copy.copy_out(value.as_mut_ptr(), found);
        }
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the slices have the sizes of key and value.
        unsafe { self.store(key.as_ptr(), value.as_ptr(), flags) }
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the key's size.
        unsafe { self.remove(key.as_ptr()) }
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: 1. the caller is in a section.
        let node = unsafe {
            match key {
                Some(key) => self.node_after(key),
                None => self.leftmost(self.root.load(Ordering::Acquire)),
            }
        };
        if node.is_null() {
            return Err(Errno::ENOENT);
        }
        self.copy_key(node, next);
        Ok(())
    }

    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Generic { delete: true }
    }

    fn lookup_fn(&self) -> HelperFn {
        trie_lookup
    }

    fn hot(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    fn mem_usage(&self) -> u64 {
        self.layout().size() as u64 * u64::from(self.entries.load(Ordering::Relaxed))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for LpmTrie {
    fn drop(&mut self) {
        // Depth is at most 2049, but a stack is as simple.
        let mut pending = vec![*self.root.get_mut()];
        let layout = self.layout();
        while let Some(node) = pending.pop() {
            if node.is_null() {
                continue;
            }
            // SAFETY: 1. `&mut self`: nobody else reads the trie; 2. every node is reached once.
            unsafe {
                pending.extend(
                    (*node)
                        .children
                        .each_ref()
                        .map(|child| child.load(Ordering::Relaxed)),
                );
                self.copy.release_fields(self.value(node));
                dealloc(node.cast(), layout);
            }
        }
    }
}

#[cfg(test)]
mod tests;
