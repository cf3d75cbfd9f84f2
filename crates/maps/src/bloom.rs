//! Bloom filters: values without keys, pushed; a peek says "surely not" (`ENOENT`) or "perhaps".
//!
//! `m` bits, `k` hash functions (`map_extra`, 5 by default), `n` = `max_entries`: the kernel takes the least power of two of at least
//! `n * k / ln 2` bits (7/5 stands for 1/ln 2).

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_uapi::Errno;
use ring3_uapi::flags::{map_create, map_elem};

use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::hash::key::{Key, KeyAny, mix, random_seed};
use crate::ops::MapOps;
use crate::queue_stack::KMALLOC_BYTES_MAX;

const FLAGS: u32 = map_create::NUMA_NODE
    | map_create::ZERO_SEED
    | map_create::RDONLY
    | map_create::WRONLY
    | map_create::RDONLY_PROG
    | map_create::WRONLY_PROG;
const HASHES_DEFAULT: u64 = 5;

/// `BPF_MAP_TYPE_BLOOM_FILTER`.
#[derive(Debug)]
pub(crate) struct BloomFilter {
    bits: Box<[AtomicU64]>,
    mask: u64,
    hashes: u64,
    seed: u64,
    value_bytes: usize,
}

impl BloomFilter {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.key_size == 0, "key_size", attr.key_size)?;
        attr.require(attr.value_size != 0, "value_size", attr.value_size)?;
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.check_flags(FLAGS)?;
        attr.check_prog_access()?;
        attr.require(
            attr.map_extra & !0xf == 0,
            "map_extra",
            format_args!("{:#x}", attr.map_extra),
        )?;
        attr.require_or(
            attr.value_size <= KMALLOC_BYTES_MAX,
            Errno::E2BIG,
            "value_size",
            attr.value_size,
        )?;
        let hashes = if attr.map_extra == 0 {
            HASHES_DEFAULT
        } else {
            attr.map_extra
        };
        let wanted = u64::from(attr.max_entries) * hashes / 5 * 7;
        let bits = wanted.clamp(64, 1 << 32).next_power_of_two();
        let words = (bits / 64) as usize;
        let mut memory = Vec::new();
        let oom = || attr.error(Errno::ENOMEM, format_args!("{bits} bits"));
        memory.try_reserve_exact(words).map_err(|_| oom())?;
        memory.resize_with(words, AtomicU64::default);
        let seed = if attr.has_flag(map_create::ZERO_SEED) {
            0
        } else {
            random_seed()
        };
        Ok(BloomFilter {
            bits: memory.into_boxed_slice(),
            mask: bits - 1,
            hashes,
            seed,
            value_bytes: attr.value_size as usize,
        })
    }

    /// The bits of a value.
    ///
    /// # Safety
    /// `value` is readable for the value size.
    unsafe fn bits_of(&self, value: *const u8) -> impl Iterator<Item = (usize, u64)> + '_ {
        // Two hashes make as many as are needed: h1 + i * h2. The second is made of the first: with another seed it would follow it.
        // SAFETY: 1. the caller's promise.
        let first = unsafe { KeyAny::hash(KeyAny::load(value, self.value_bytes), self.seed) };
        let second = mix(first) | 1;
        (0..self.hashes).map(move |turn| {
            let bit = first.wrapping_add(turn.wrapping_mul(second)) & self.mask;
            ((bit / 64) as usize, 1u64 << (bit % 64))
        })
    }
}

impl MapOps for BloomFilter {
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags != map_elem::ANY {
            return Err(Errno::EINVAL);
        }
        // SAFETY: 1. the caller's promise.
        for (word, bit) in unsafe { self.bits_of(value) } {
            self.bits[word].fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        let all = unsafe { self.bits_of(value) }
            .all(|(word, bit)| self.bits[word].load(Ordering::Relaxed) & bit != 0);
        if all { Ok(()) } else { Err(Errno::ENOENT) }
    }

    unsafe fn pop(&self, _value: *mut u8) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    unsafe fn update(&self, _key: *const u8, _value: *const u8, _flags: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn delete(&self, _key: *const u8) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn sys_lookup(&self, _key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the value's size.
        unsafe { self.peek(value.as_mut_ptr()) }
    }

    fn sys_update(
        &self,
        _key: &[u8],
        value: &[u8],
        flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the value's size.
        unsafe { self.push(value.as_ptr(), flags) }
    }

    fn sys_delete(&self, _key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn sys_next_key(&self, _key: Option<&[u8]>, _next: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn mem_usage(&self) -> u64 {
        self.bits.len() as u64 * 8
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
