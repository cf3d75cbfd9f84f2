//! Freezing a map, writing to it, mapping its memory: what excludes what.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ring3_os::map::{Prot, Region};
use ring3_uapi::flags::map_create;
use ring3_uapi::{Errno, MapType};

use super::{Access, Map};
use crate::ops::{self, MmapRule};

impl Map {
    /// `BPF_MAP_FREEZE`: system calls may not write any more; programs still may.
    ///
    /// # Errors
    /// `ENOTSUPP`: the type or its values cannot be frozen. `EPERM`: descriptor without write access, or frozen. `EBUSY`: a writable mapping exists.
    pub fn sys_freeze(&self, access: Access) -> Result<(), Errno> {
        if self.attr.map_type == MapType::StructOps
            || self
                .attr
                .record
                .as_ref()
                .is_some_and(|record| !record.fields().is_empty())
        {
            return Err(Errno::ENOTSUPP);
        }
        self.check_write(access)?;
        let _freeze = self.freeze.lock();
        if self.header.writecnt.load(Ordering::Acquire) != 0 || self.is_frozen() {
            return Err(Errno::EBUSY);
        }
        self.header.frozen.store(true, Ordering::Release);
        // Typed updates look at the flag inside a read section: those that began before are over when this returns.
        let _ = ring3_sync::rcu::synchronize();
        Ok(())
    }

    /// Whether system calls may not write any more.
    pub fn is_frozen(&self) -> bool {
        self.header.frozen.load(Ordering::Acquire)
    }

    /// Whether the verifier may take the content as constant: frozen and read-only to programs.
    pub fn is_constant(&self) -> bool {
        self.attr.has_flag(map_create::RDONLY_PROG)
            && self.is_frozen()
            && self.header.writecnt.load(Ordering::Acquire) == 0
    }

    /// A system call that writes is running: freezing and constant folding wait (`map->writecnt`).
    pub fn begin_write(&self) -> WriteActive<'_> {
        self.header.writecnt.fetch_add(1, Ordering::AcqRel);
        WriteActive(self)
    }

    /// Counts a shared mapping of another process; [`Map::count_unmap`] takes it back.
    ///
    /// # Errors
    /// `EACCES`: by the descriptor's access, or read-only to programs (writable). `EINVAL`: a read-only descriptor, or out of the map. `ENOTSUPP`: the type
    /// has no mappings. `EPERM`: frozen (writable).
    pub fn count_mmap(
        &self,
        access: Access,
        offset_bytes: usize,
        len_bytes: usize,
        mode: MappingAccess,
    ) -> Result<(), Errno> {
        // Source: mmap(2), before the map is asked.
        if !access.can_read() || (mode == MappingAccess::Write && !access.can_write()) {
            return Err(Errno::EACCES);
        }
        if self
            .attr
            .record
            .as_ref()
            .is_some_and(|record| !record.fields().is_empty())
        {
            return Err(Errno::ENOTSUPP);
        }
        let source = match self.ops.mmap_source() {
            Some(source) => source,
            // Arrays can be mapped, but only with the flag.
            None if self.attr.map_type == MapType::Array => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOTSUPP),
        };
        // A shared mapping of a read-only descriptor is not quite a shared one to the kernel.
        if access == Access::ReadOnly {
            return Err(Errno::EINVAL);
        }
        let page = ring3_os::cpu::page_bytes();
        if !offset_bytes.is_multiple_of(page) || len_bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let _freeze = self.freeze.lock();
        if mode == MappingAccess::Write {
            if self.is_frozen() {
                return Err(Errno::EPERM);
            }
            // Programs may only read: the verifier may have folded the content, so nobody maps it for writing.
            if self.attr.has_flag(map_create::RDONLY_PROG) {
                return Err(Errno::EACCES);
            }
            match source.rule {
                MmapRule::Any => {}
                MmapRule::ConsumerPageOnly if offset_bytes == 0 && len_bytes == page => {}
                MmapRule::AllButFirstPage if offset_bytes != 0 => {}
                MmapRule::ConsumerPageOnly | MmapRule::AllButFirstPage => return Err(Errno::EPERM),
            }
        }
        let end = offset_bytes
            .checked_add(len_bytes.next_multiple_of(page))
            .ok_or(Errno::EINVAL)?;
        if end > source.len_bytes {
            return Err(Errno::EINVAL);
        }
        if mode == MappingAccess::Write {
            self.header.writecnt.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Ends a mapping that [`Map::count_mmap`] counted.
    pub fn count_unmap(&self, mode: MappingAccess) {
        if mode == MappingAccess::Write {
            self.header.writecnt.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// As [`Map::mmap_source`], for descriptors that clients get as a whole, to read, write and map: not where values hold what only programs may touch.
    pub fn client_memory(&self) -> Option<ops::MmapSource<'_>> {
        let record = self.attr.record.as_ref();
        if record.is_some_and(|record| !record.fields().is_empty()) {
            return None;
        }
        self.ops.mmap_source()
    }

    /// The descriptor whose memory a mapping of this map shows, for transports that hand it to a client.
    pub fn mmap_source(&self) -> Option<ops::MmapSource<'_>> {
        self.ops.mmap_source()
    }

    /// Maps the map's memory into this process, shared.
    ///
    /// # Errors
    /// As [`Map::count_mmap`]; `ENOMEM`.
    pub fn mmap(
        self: &Arc<Map>,
        access: Access,
        offset_bytes: usize,
        len_bytes: usize,
        mode: MappingAccess,
    ) -> Result<Mapping, Errno> {
        self.count_mmap(access, offset_bytes, len_bytes, mode)?;
        // From here on, the mapping gives the count back on every path.
        let mut mapping = Mapping {
            region: None,
            map: self.clone(),
            mode,
        };
        let source = self.ops.mmap_source().ok_or(Errno::ENOTSUPP)?;
        let prot = match mode {
            MappingAccess::Read => Prot::Read,
            MappingAccess::Write => Prot::ReadWrite,
        };
        mapping.region = Some(source.map(offset_bytes, len_bytes, prot)?);
        Ok(mapping)
    }
}

/// A system call that writes; see [`Map::begin_write`].
#[derive(Debug)]
pub struct WriteActive<'map>(&'map Map);

impl Drop for WriteActive<'_> {
    fn drop(&mut self) {
        self.0.header.writecnt.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingAccess {
    /// `PROT_READ`
    Read,
    /// `PROT_READ | PROT_WRITE`
    Write,
}

/// Memory of a map, mapped into this process; keeps the map alive.
#[derive(Debug)]
pub struct Mapping {
    region: Option<Region>,
    map: Arc<Map>,
    mode: MappingAccess,
}

impl Mapping {
    /// The first byte. Programs and other mappings may write at any time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.region
            .as_ref()
            .map_or(std::ptr::null_mut(), Region::as_ptr)
    }

    /// Bytes.
    pub fn len_bytes(&self) -> usize {
        self.region.as_ref().map_or(0, Region::len_bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.region = None;
        self.map.count_unmap(self.mode);
    }
}
