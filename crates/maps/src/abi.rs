//! What programs call: helpers over maps as C functions of five words.
//!
//! The first argument is the map's program pointer ([`crate::Map::program_ptr`]). Results are as the kernel's helpers return them: an address or 0,
//! 0 or a negative errno. The verifier has checked the arguments' types and sizes; a program run is an RCU read section.

use ring3_uapi::Errno;

use crate::{Map, RingBuf};

/// A helper's result word.
#[inline]
pub fn result_of(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.negated() as u64,
    }
}

/// Declares helpers whose safety comment is the same.
macro_rules! helpers {
    ($($(#[$doc:meta])* fn $name:ident($map:ident, $a:ident, $b:ident, $c:ident) $body:block)*) => {
        $($(#[$doc])*
        ///
        /// # Safety
        /// The arguments are what the verifier demands of this helper, the map is live, the caller is in an RCU read section.
        #[inline]
        pub unsafe extern "C" fn $name(map: u64, $a: u64, $b: u64, $c: u64, _: u64) -> u64 {
            // SAFETY: 1. the caller's promise: a live map, memory of the sizes that the map demands.
            unsafe {
                let $map = Map::from_program_ptr(map);
                $body
            }
        })*
    };
}

helpers! {
    /// `bpf_map_lookup_elem(map, key)`: the value's address or 0.
    fn lookup_elem(map, key, _b, _c) { (map.monomorphic_lookup())(map.program_ptr(), key, 0, 0, 0) }

    /// `bpf_map_update_elem(map, key, value, flags)`.
    fn update_elem(map, key, value, flags) { (map.monomorphic_update())(map.program_ptr(), key, value, flags, 0) }

    /// `bpf_map_delete_elem(map, key)`.
    fn delete_elem(map, key, _b, _c) { (map.monomorphic_delete())(map.program_ptr(), key, 0, 0, 0) }

    /// `bpf_map_push_elem(map, value, flags)`.
    fn push_elem(map, value, flags, _c) { result_of(map.ops().push(value as *const u8, flags)) }

    /// `bpf_map_pop_elem(map, value)`.
    fn pop_elem(map, value, _b, _c) { result_of(map.ops().pop(value as *mut u8)) }

    /// `bpf_map_peek_elem(map, value)`.
    fn peek_elem(map, value, _b, _c) { result_of(map.ops().peek(value as *mut u8)) }

    /// `bpf_map_lookup_percpu_elem(map, key, cpu)`: the value's address or 0.
    fn lookup_percpu_elem(map, key, cpu, _c) { map.ops().lookup_percpu(key as *const u8, cpu as u32) as u64 }

    /// `bpf_map_lookup_elem` through the type's table of operations.
    fn dyn_lookup(map, key, _b, _c) { map.ops().lookup(key as *const u8) as u64 }

    /// `bpf_map_update_elem` through the type's table of operations.
    fn dyn_update(map, key, value, flags) { result_of(map.ops().update(key as *const u8, value as *const u8, flags)) }

    /// `bpf_map_delete_elem` through the type's table of operations.
    fn dyn_delete(map, key, _b, _c) { result_of(map.ops().delete(key as *const u8)) }

    /// `bpf_ringbuf_output(map, data, size, flags)`.
    fn ringbuf_output(map, data, size, flags) {
        let Some(ring) = RingBuf::of(map) else { return Errno::EINVAL.negated() as u64 };
        result_of(ring.output(data as *const u8, size, flags))
    }

    /// `bpf_ringbuf_reserve(map, size, flags)`: the record's address or 0.
    fn ringbuf_reserve(map, size, flags, _c) { RingBuf::of(map).map_or(0, |ring| ring.reserve(size, flags)) }

    /// `bpf_ringbuf_query(map, what)`.
    fn ringbuf_query(map, what, _b, _c) { RingBuf::of(map).map_or(0, |ring| ring.query(what)) }
}

/// `bpf_ringbuf_submit(sample, flags)`.
///
/// # Safety
/// `sample` is a record that the program reserved and did not yet end (verifier: a referenced record).
pub unsafe extern "C" fn ringbuf_submit(sample: u64, flags: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: 1. the caller's promise.
    unsafe { RingBuf::submit(sample, flags) };
    0
}

/// `bpf_ringbuf_discard(sample, flags)`.
///
/// # Safety
/// As [`ringbuf_submit`].
pub unsafe extern "C" fn ringbuf_discard(sample: u64, flags: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: 1. the caller's promise.
    unsafe { RingBuf::discard(sample, flags) };
    0
}
