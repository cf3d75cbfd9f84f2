//! The start of a map as programs see it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32};

/// The start of a map as programs see it: `struct bpf_map` (and the tail of `struct bpf_array`) of the reference kernel.
///
/// # Source
/// BTF of Linux 6.18 x86-64: `bpf_map` 296 bytes, `bpf_array` 312. Fields without a meaning here are zero.
#[repr(C, align(64))]
pub(super) struct MapHeader {
    pub(super) sha: [u8; 32],
    pub(super) excl: u32,
    pub(super) _pad0: u32,
    pub(super) ops: u64,
    pub(super) inner_map_meta: u64,
    pub(super) security: u64,
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_extra: u64,
    pub(super) map_flags: u32,
    pub(super) id: AtomicU32,
    pub(super) record: u64,
    pub(super) numa_node: i32,
    pub(super) btf_key_type_id: u32,
    pub(super) btf_value_type_id: u32,
    pub(super) btf_vmlinux_value_type_id: u32,
    pub(super) btf: u64,
    pub(super) objcg: u64,
    pub(super) name: [u8; 16],
    pub(super) _freeze_mutex_to_rcu: [u64; 10],
    pub(super) writecnt: AtomicI64,
    pub(super) _owner: [u64; 2],
    pub(super) bypass_spec_v1: u8,
    pub(super) frozen: AtomicBool,
    pub(super) _to_end: [u8; 38],
    pub(super) elem_size: u32,
    pub(super) index_mask: u32,
    pub(super) _aux: u64,
}

const _: () = {
    assert!(std::mem::offset_of!(MapHeader, map_type) == 64);
    assert!(std::mem::offset_of!(MapHeader, id) == 92);
    assert!(std::mem::offset_of!(MapHeader, numa_node) == 104);
    assert!(std::mem::offset_of!(MapHeader, name) == 136);
    assert!(std::mem::offset_of!(MapHeader, writecnt) == 232);
    assert!(std::mem::offset_of!(MapHeader, frozen) == 257);
    assert!(std::mem::offset_of!(MapHeader, elem_size) == 296);
    assert!(std::mem::offset_of!(MapHeader, _aux) == 304);
};
