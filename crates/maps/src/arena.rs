//! Arenas: up to 4 GiB of sparse memory that programs and clients share.
//!
//! A pointer in an arena is 32 bits of offset; `addr_space_cast` adds the base. The base is aligned to 4 GiB, with a guard on both sides for the
//! 16-bit offsets of loads and stores. A page exists once it is allocated by a program (`bpf_arena_alloc_pages`) or touched by a client;
//! programs that touch another read zero through the fault table.
//!
//! All pages lie in one memfd, so that clients map the same memory.

use std::any::Any;

use ring3_os::cpu::page_bytes;
use ring3_os::map::{Prot, Region};
use ring3_os::memfd::{Memfd, Seals};
use ring3_sync::spin::OwnedMutex;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_create;

use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::ops::{MapOps, MmapRule, MmapSource};

const FLAGS: u32 = map_create::SEGV_ON_FAULT | map_create::MMAPABLE | map_create::NO_USER_CONV;
/// Bytes that an arena's pointers can reach.
const SPACE_BYTES: usize = 1 << 32;
/// Guard below and above: an instruction's offset reaches 32 KiB.
const GUARD_BYTES: usize = 1 << 16;

/// `BPF_MAP_TYPE_ARENA`.
#[derive(Debug)]
pub struct Arena {
    memfd: Memfd,
    pages: usize,
    user_vm_start: u64,
    /// Address of offset 0.
    base: usize,
    /// Knows its owner: a program that interrupts a change of the same thread gets no pages.
    inner: OwnedMutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Guard, space, guard.
    view: Region,
    /// A bit for each page: allocated.
    used: Vec<u64>,
}

impl Arena {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.key_size == 0, "key_size", attr.key_size)?;
        attr.require(attr.value_size == 0, "value_size", attr.value_size)?;
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(
            attr.has_flag(map_create::MMAPABLE),
            "map_flags without BPF_F_MMAPABLE:",
            format_args!("{:#x}", attr.map_flags),
        )?;
        attr.check_flags(FLAGS)?;
        let page = page_bytes();
        attr.require(
            attr.map_extra.is_multiple_of(page as u64),
            "map_extra",
            format_args!("{:#x}", attr.map_extra),
        )?;
        let bytes = u64::from(attr.max_entries) * page as u64;
        attr.require_or(
            bytes <= SPACE_BYTES as u64,
            Errno::E2BIG,
            "max_entries",
            attr.max_entries,
        )?;
        // The whole range must lie in one 4 GiB window of the client's address space.
        let last = attr.map_extra.wrapping_add(bytes - 1);
        attr.require_or(
            attr.map_extra >> 32 == last >> 32,
            Errno::ERANGE,
            "map_extra",
            format_args!("{:#x}", attr.map_extra),
        )?;
        let oom = |errno| attr.error(errno, format_args!("address space of an arena"));
        let memfd = Memfd::create("bpf-map", bytes as usize, Seals::Size).map_err(oom)?;
        // Aligned so that the space itself is: the lower guard is a full alignment away from the start.
        let view =
            Region::reserve_aligned(2 * SPACE_BYTES + GUARD_BYTES, SPACE_BYTES).map_err(oom)?;
        let pages = attr.max_entries as usize;
        let used = vec![0; pages.div_ceil(64)];
        Ok(Arena {
            memfd,
            pages,
            user_vm_start: attr.map_extra,
            base: view.as_ptr() as usize + SPACE_BYTES,
            inner: OwnedMutex::new(Inner { view, used }),
        })
    }

    /// The address of offset 0 for programs; a multiple of 4 GiB.
    pub fn base(&self) -> u64 {
        self.base as u64
    }

    /// Where clients map it: `map_extra`, 0 if they choose.
    pub fn user_vm_start(&self) -> u64 {
        self.user_vm_start
    }

    /// Whether an address (guards included) belongs to the arena: faults there read as zero.
    pub fn contains(&self, address: usize) -> bool {
        let end = self.base + SPACE_BYTES + GUARD_BYTES;
        (self.base - GUARD_BYTES..end).contains(&address)
    }

    /// `bpf_arena_alloc_pages`: `count` pages at `offset` (a page boundary) or anywhere; the offset of the first, `None` without room.
    pub fn alloc_pages(&self, offset: Option<u32>, count: u32) -> Option<u32> {
        let page = page_bytes();
        let count = count as usize;
        if count == 0 || count > self.pages {
            return None;
        }
        let mut inner = self.inner.lock().ok()?;
        let first = match offset {
            Some(offset) => {
                let first = offset as usize / page;
                let fits = (offset as usize).is_multiple_of(page) && first + count <= self.pages;
                (fits && (first..first + count).all(|at| !inner.is_used(at))).then_some(first)?
            }
            None => inner.find_free(self.pages, count)?,
        };
        let fd = std::os::fd::AsFd::as_fd(&self.memfd);
        inner
            .view
            .overlay(
                SPACE_BYTES + first * page,
                fd,
                first * page,
                count * page,
                Prot::ReadWrite,
            )
            .ok()?;
        (first..first + count).for_each(|at| inner.set_used(at, true));
        u32::try_from(first * page).ok()
    }

    /// `bpf_arena_free_pages`: the pages read as zero for programs from now on; their content is dropped.
    pub fn free_pages(&self, offset: u32, count: u32) {
        let page = page_bytes();
        let first = offset as usize / page;
        let last = first.saturating_add(count as usize).min(self.pages);
        if !(offset as usize).is_multiple_of(page) || first >= last {
            return;
        }
        // Refused inside of a change: the pages stay until the arena goes.
        let Ok(mut inner) = self.inner.lock() else {
            return;
        };
        let _ = inner.view.overlay_anonymous(
            SPACE_BYTES + first * page,
            (last - first) * page,
            Prot::None,
        );
        (first..last).for_each(|at| inner.set_used(at, false));
        let _ = self.memfd.punch_hole(first * page, (last - first) * page);
    }

    /// Pages allocated; 0 inside of a change by the same thread.
    pub fn used_pages(&self) -> usize {
        let ones = |inner: &Inner| {
            inner
                .used
                .iter()
                .map(|word| word.count_ones() as usize)
                .sum()
        };
        self.inner.lock().map_or(0, |inner| ones(&inner))
    }
}

impl Inner {
    fn is_used(&self, at: usize) -> bool {
        self.used
            .get(at / 64)
            .is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    fn set_used(&mut self, at: usize, used: bool) {
        if let Some(word) = self.used.get_mut(at / 64) {
            *word = *word & !(1 << (at % 64)) | u64::from(used) << (at % 64);
        }
    }

    /// The first run of `count` free pages.
    fn find_free(&self, pages: usize, count: usize) -> Option<usize> {
        let mut run = 0;
        for at in 0..pages {
            run = if self.is_used(at) { 0 } else { run + 1 };
            if run == count {
                return Some(at + 1 - count);
            }
        }
        None
    }
}

impl MapOps for Arena {
    fn sys_lookup(&self, _key: &[u8], _value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_update(
        &self,
        _key: &[u8],
        _value: &[u8],
        _flags: u64,
        _fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn sys_delete(&self, _key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn sys_next_key(&self, _key: Option<&[u8]>, _next: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUP)
    }

    fn mmap_source(&self) -> Option<MmapSource<'_>> {
        Some(MmapSource {
            memfd: &self.memfd,
            len_bytes: self.memfd.len_bytes(),
            again: None,
            rule: MmapRule::Any,
        })
    }

    fn mem_usage(&self) -> u64 {
        (self.used_pages() * page_bytes()) as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, MapType, MappingAccess};

    #[test]
    fn pages_are_shared_with_clients_and_come_back_empty() {
        let attr = MapAttr::new(MapType::Arena, 0, 0, 10).with_flags(map_create::MMAPABLE);
        let map = Map::create(&attr).unwrap();
        let arena = map.downcast::<Arena>().unwrap();
        assert!(arena.base().is_multiple_of(1 << 32));
        let page = page_bytes() as u32;
        assert_eq!(arena.alloc_pages(Some(page * 2), 2), Some(page * 2));
        assert_eq!(arena.alloc_pages(Some(page * 3), 1), None);
        assert_eq!(arena.alloc_pages(None, 3), Some(page * 4));
        assert_eq!(arena.alloc_pages(None, 2), Some(0));
        assert_eq!(arena.alloc_pages(None, 4), None);
        let client = map
            .mmap(
                crate::Access::ReadWrite,
                0,
                10 * page as usize,
                MappingAccess::Write,
            )
            .unwrap();
        // SAFETY: page 2 is allocated, and mapped by the client.
        unsafe {
            ((arena.base() + u64::from(page) * 2) as *mut u64).write_volatile(77);
            assert_eq!(
                client
                    .as_ptr()
                    .add(page as usize * 2)
                    .cast::<u64>()
                    .read_volatile(),
                77
            );
            arena.free_pages(page * 2, 1);
            assert_eq!(
                client
                    .as_ptr()
                    .add(page as usize * 2)
                    .cast::<u64>()
                    .read_volatile(),
                0
            );
        }
        assert_eq!(arena.used_pages(), 6);
        assert_eq!(arena.alloc_pages(None, 1), Some(page * 2));
    }
}
