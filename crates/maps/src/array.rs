//! Arrays: elements in one block, indexed by a u32 key; and per-CPU arrays, one block a CPU.
//!
//! An element exists from creation and cannot be deleted. With `BPF_F_MMAPABLE` the block is a sealed memfd.

use std::any::Any;
use std::ops::ControlFlow;

use ring3_os::cpu::{page_bytes, possible_cpus};
use ring3_os::map::{Prot, Region};
use ring3_os::memfd::{Memfd, Seals};
use ring3_sync::percpu::current_cpu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::Map;
use crate::attr::{MapAttr, MapError};
use crate::batch::BatchStyle;
use crate::fd::FdTable;
use crate::fields::{FieldKind, ValueCopy};
use crate::mem;
use crate::ops::{ArrayLayout, CopyFn, HelperFn, MapOps, MmapRule, MmapSource, Visit};

/// The largest per-CPU value. Source: `PCPU_MIN_UNIT_SIZE`.
pub(crate) const PERCPU_VALUE_BYTES_MAX: u32 = 32 << 10;

const ARRAY_FLAGS: u32 = map_create::NUMA_NODE
    | map_create::MMAPABLE
    | map_create::RDONLY
    | map_create::WRONLY
    | map_create::RDONLY_PROG
    | map_create::WRONLY_PROG
    | map_create::PRESERVE_ELEMS
    | map_create::INNER_MAP;

/// The checks that all array-like types share.
pub(crate) fn check_array(attr: &MapAttr) -> Result<(), MapError> {
    attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
    attr.require(attr.key_size == 4, "key_size", attr.key_size)?;
    attr.require(attr.value_size != 0, "value_size", attr.value_size)?;
    attr.check_flags(ARRAY_FLAGS)?;
    attr.check_prog_access()?;
    let percpu = attr.map_type == MapType::PercpuArray;
    let numa = attr.has_flag(map_create::NUMA_NODE) && attr.numa_node != u32::MAX;
    attr.require(
        !(percpu && numa),
        "numa_node of a per-CPU map",
        attr.numa_node,
    )?;
    let only_arrays = attr.has_flag(map_create::MMAPABLE | map_create::INNER_MAP);
    attr.require(
        attr.map_type == MapType::Array || !only_arrays,
        "map_flags",
        format_args!("{:#x}", attr.map_flags),
    )?;
    let only_perf = attr.has_flag(map_create::PRESERVE_ELEMS);
    attr.require(
        attr.map_type == MapType::PerfEventArray || !only_perf,
        "map_flags",
        format_args!("{:#x}", attr.map_flags),
    )?;
    attr.require_or(
        attr.value_size <= i32::MAX as u32,
        Errno::E2BIG,
        "value_size",
        attr.value_size,
    )?;
    if percpu {
        let rounded = mem::round_up_8(attr.value_size as usize);
        attr.require_or(
            rounded <= PERCPU_VALUE_BYTES_MAX as usize,
            Errno::E2BIG,
            "value_size",
            attr.value_size,
        )?;
    }
    Ok(())
}

/// One less than the next power of two of `max_entries`.
pub(crate) fn index_mask(max_entries: u32) -> u32 {
    (u64::from(max_entries).next_power_of_two() - 1) as u32
}

/// Reads a u32 key from anywhere.
///
/// # Safety
/// `key` is readable for 4 bytes.
#[inline]
pub(crate) unsafe fn read_index(key: *const u8) -> u32 {
    // SAFETY: 1. the caller's promise.
    unsafe { key.cast::<u32>().read_unaligned() }
}

/// A u32 key of a system call; the length was checked.
pub(crate) fn index_of(key: &[u8]) -> u32 {
    key.first_chunk()
        .copied()
        .map_or(u32::MAX, u32::from_ne_bytes)
}

/// The checks of arrays of objects, whose values are descriptors: programs cannot read or write the slots, so access flags for them are refused.
pub(crate) fn check_fd_array(attr: &MapAttr) -> Result<(), MapError> {
    attr.require(attr.value_size == 4, "value_size", attr.value_size)?;
    let prog_flags = map_create::RDONLY_PROG | map_create::WRONLY_PROG;
    attr.require(
        attr.map_flags & prog_flags == 0,
        "map_flags",
        format_args!("{:#x}", attr.map_flags),
    )?;
    check_array(attr)
}

/// `BPF_MAP_GET_NEXT_KEY` of all array-like types: 0 for no key or one out of range, else the next index.
pub(crate) fn next_index(
    max_entries: u32,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> Result<(), Errno> {
    let index = match key.map(index_of) {
        None => 0,
        Some(index) if index >= max_entries => 0,
        Some(index) if index == max_entries - 1 => return Err(Errno::ENOENT),
        Some(index) => index + 1,
    };
    next.copy_from_slice(&index.to_ne_bytes());
    Ok(())
}

/// The order of flag checks of array updates.
fn check_update(index: u32, max_entries: u32, flags: u64, copy: &ValueCopy) -> Result<(), Errno> {
    if flags & !map_elem::LOCK > map_elem::EXIST {
        return Err(Errno::EINVAL);
    }
    if index >= max_entries {
        return Err(Errno::E2BIG);
    }
    if flags & map_elem::NOEXIST != 0 {
        return Err(Errno::EEXIST);
    }
    if flags & map_elem::LOCK != 0 && !copy.has(FieldKind::SpinLock) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The block of an array.
#[derive(Debug)]
enum Block {
    Private(Region),
    Mappable { region: Region, memfd: Memfd },
}

/// `BPF_MAP_TYPE_ARRAY`.
#[derive(Debug)]
pub(crate) struct ArrayMap {
    base: *mut u8,
    stride: usize,
    max_entries: u32,
    copy: ValueCopy,
    flags: u32,
    block: Block,
}

// SAFETY: 1. `base` points into the block that the map owns; 2. its bytes are accessed atomically or by programs.
unsafe impl Send for ArrayMap {}
// SAFETY: as above.
unsafe impl Sync for ArrayMap {}

impl ArrayMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_array(attr)?;
        let stride = mem::round_up_8(attr.value_size as usize);
        let bytes = (stride as u64)
            .checked_mul(u64::from(attr.max_entries))
            .filter(|bytes| *bytes < mem::host_memory_bytes());
        let bytes = bytes.ok_or_else(|| {
            attr.error(
                Errno::ENOMEM,
                format_args!("{} values of {stride} bytes", attr.max_entries),
            )
        })?;
        let bytes = (bytes as usize).next_multiple_of(page_bytes());
        let oom = |errno| attr.error(errno, format_args!("memory of {bytes} bytes"));
        let block = if attr.has_flag(map_create::MMAPABLE) {
            let memfd = Memfd::create("bpf-map", bytes, Seals::SizeOpen).map_err(oom)?;
            let region =
                Region::shared(std::os::fd::AsFd::as_fd(&memfd), 0, bytes, Prot::ReadWrite)
                    .map_err(oom)?;
            if attr.has_flag(map_create::RDONLY_PROG) {
                // The verifier folds its content once it is frozen: who has the descriptor writes by calls only.
                memfd.seal_future_writes().map_err(oom)?;
            }
            Block::Mappable { region, memfd }
        } else {
            Block::Private(Region::anonymous(bytes, Prot::ReadWrite).map_err(oom)?)
        };
        let base = match &block {
            Block::Private(region) | Block::Mappable { region, .. } => region.as_ptr(),
        };
        let copy = ValueCopy::new(attr.value_size as usize, attr.record.clone());
        Ok(ArrayMap {
            base,
            stride,
            max_entries: attr.max_entries,
            copy,
            flags: attr.map_flags,
            block,
        })
    }

    /// The element of an index in range.
    fn element(&self, index: u32) -> Option<*mut u8> {
        (index < self.max_entries).then(|| self.base.wrapping_add(index as usize * self.stride))
    }

    /// # Safety
    /// `value` is readable for the value size.
    unsafe fn store(&self, index: u32, value: *const u8, flags: u64) -> Result<(), Errno> {
        check_update(index, self.max_entries, flags, &self.copy)?;
        let element = self.element(index).ok_or(Errno::E2BIG)?;
        // SAFETY: 1. the element is in the block, 8-aligned; 2. `value` by the caller's promise; 3. F_LOCK only with a lock, checked above.
        unsafe {
            if flags & map_elem::LOCK != 0 {
                self.copy.copy_in_locked(element, value);
            } else {
                self.copy.copy_in(element, value);
            }
            self.copy.release_fields(element);
        }
        Ok(())
    }
}

impl Drop for ArrayMap {
    fn drop(&mut self) {
        if self.copy.has_fields() {
            for index in 0..self.max_entries {
                // SAFETY: 1. index in range; 2. nobody uses the map any more.
                unsafe {
                    self.copy
                        .release_fields(self.base.add(index as usize * self.stride))
                };
            }
        }
    }
}

unsafe extern "C" fn array_lookup(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: 1. engines pass a live map of this type and a readable key (verifier: ARG_CONST_MAP_PTR, ARG_PTR_TO_MAP_KEY).
    unsafe {
        let array = &*Map::from_program_ptr(map).hot().cast::<ArrayMap>();
        let index = read_index(key as *const u8);
        if index < array.max_entries {
            array.base.add(index as usize * array.stride) as u64
        } else {
            0
        }
    }
}

unsafe fn array_copy(hot: *const (), key: *const u8, out: *mut u8) -> bool {
    // SAFETY: 1. the hot pointer of an array is its ArrayMap; 2. the caller passes a key and room for a value.
    unsafe {
        let array = &*hot.cast::<ArrayMap>();
        let Some(element) = array.element(read_index(key)) else {
            return false;
        };
        array.copy.copy_out(out, element);
    }
    true
}

impl MapOps for ArrayMap {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        self.element(unsafe { read_index(key) })
            .unwrap_or(std::ptr::null_mut())
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.store(read_index(key), value, flags) }
    }

    unsafe fn delete(&self, _key: *const u8) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn release_user_refs(&self) {
        if self.copy.has_callbacks() {
            for index in 0..self.max_entries {
                // SAFETY: 1. index in range.
                unsafe {
                    self.copy
                        .release_callbacks(self.base.add(index as usize * self.stride));
                }
            }
        }
    }

    fn key_of_value(&self, value: *const u8, index: &mut u32) -> *const u8 {
        let offset = value.addr().wrapping_sub(self.base.addr());
        if !offset.is_multiple_of(self.stride) || offset / self.stride >= self.max_entries as usize
        {
            return std::ptr::null();
        }
        *index = (offset / self.stride) as u32;
        (&raw const *index).cast()
    }

    unsafe fn for_each(&self, visit: &mut Visit<'_>) -> Result<u32, Errno> {
        let mut visited = 0;
        for index in 0..self.max_entries {
            visited += 1;
            let element = self.base.wrapping_add(index as usize * self.stride);
            if let ControlFlow::Break(()) = visit((&raw const index).cast(), element) {
                break;
            }
        }
        Ok(visited)
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let element = self.element(index_of(key)).ok_or(Errno::ENOENT)?;
        // SAFETY: 1. the element is in the block; 2. the slice has the value's size.
        unsafe {
            if flags & map_elem::LOCK != 0 {
                self.copy.copy_out_locked(value.as_mut_ptr(), element);
            } else {
                self.copy.copy_out(value.as_mut_ptr(), element);
            }
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
        // SAFETY: 1. the slice has the value's size.
        unsafe { self.store(index_of(key), value.as_ptr(), flags) }
    }

    fn sys_delete(&self, _key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        next_index(self.max_entries, key, next)
    }

    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Generic { delete: false }
    }

    fn lookup_fn(&self) -> HelperFn {
        array_lookup
    }

    fn copy_fn(&self) -> Option<CopyFn> {
        Some(array_copy)
    }

    fn hot(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    fn array_layout(&self) -> Option<ArrayLayout> {
        // An inner map with this flag may be replaced by one of another size: nothing may be baked in.
        if self.flags & map_create::INNER_MAP != 0 {
            return None;
        }
        Some(ArrayLayout {
            base: self.base as u64,
            stride: self.stride as u32,
            max_entries: self.max_entries,
            index_mask: index_mask(self.max_entries),
            cpu_stride: 0,
        })
    }

    fn mmap_source(&self) -> Option<MmapSource<'_>> {
        match &self.block {
            Block::Private(_) => None,
            Block::Mappable { region, memfd } => Some(MmapSource {
                memfd,
                len_bytes: region.len_bytes(),
                again: None,
                rule: MmapRule::Any,
            }),
        }
    }

    fn mem_usage(&self) -> u64 {
        self.stride as u64 * u64::from(self.max_entries)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn max_entries_of_array(&self) -> Option<u32> {
        Some(self.max_entries)
    }
}

/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
#[derive(Debug)]
pub(crate) struct PercpuArrayMap {
    base: *mut u8,
    stride: usize,
    cpu_stride: usize,
    max_entries: u32,
    cpus: usize,
    copy: ValueCopy,
    /// Owns the memory behind `base`.
    region: Region,
}

// SAFETY: as `ArrayMap`.
unsafe impl Send for PercpuArrayMap {}
// SAFETY: as `ArrayMap`.
unsafe impl Sync for PercpuArrayMap {}

impl PercpuArrayMap {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_array(attr)?;
        let stride = mem::round_up_8(attr.value_size as usize);
        let cpus = possible_cpus();
        let too_big = || {
            attr.error(
                Errno::ENOMEM,
                format_args!(
                    "{} values of {stride} bytes for {cpus} CPUs",
                    attr.max_entries
                ),
            )
        };
        let one_cpu = stride as u64 * u64::from(attr.max_entries);
        // CPUs never share a page, so neither a cache line.
        let cpu_stride = one_cpu.next_multiple_of(page_bytes() as u64);
        let total = cpu_stride
            .checked_mul(cpus as u64)
            .filter(|total| *total < mem::host_memory_bytes())
            .ok_or_else(too_big)?;
        let region = Region::anonymous(total as usize, Prot::ReadWrite).map_err(|_| too_big())?;
        let copy = ValueCopy::new(attr.value_size as usize, attr.record.clone());
        let cpu_stride = cpu_stride as usize;
        Ok(PercpuArrayMap {
            base: region.as_ptr(),
            stride,
            cpu_stride,
            max_entries: attr.max_entries,
            cpus,
            copy,
            region,
        })
    }

    #[inline]
    fn element(&self, index: u32, cpu: usize) -> *mut u8 {
        if index >= self.max_entries || cpu >= self.cpus {
            return std::ptr::null_mut();
        }
        self.base
            .wrapping_add(cpu * self.cpu_stride + index as usize * self.stride)
    }
}

impl Drop for PercpuArrayMap {
    fn drop(&mut self) {
        if self.copy.has_fields() {
            for index in 0..self.max_entries {
                for cpu in 0..self.cpus {
                    // SAFETY: 1. index and CPU in range; 2. nobody uses the map any more.
                    unsafe { self.copy.release_fields(self.element(index, cpu)) };
                }
            }
        }
    }
}

unsafe extern "C" fn percpu_array_lookup(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: 1. engines pass a live map of this type and a readable key (verifier: ARG_CONST_MAP_PTR, ARG_PTR_TO_MAP_KEY).
    unsafe {
        let array = &*Map::from_program_ptr(map).hot().cast::<PercpuArrayMap>();
        array.element(read_index(key as *const u8), current_cpu()) as u64
    }
}

impl MapOps for PercpuArrayMap {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        self.element(unsafe { read_index(key) }, current_cpu())
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise; 2. the element was checked to be in range.
        unsafe {
            let index = read_index(key);
            check_update(index, self.max_entries, flags, &self.copy)?;
            let element = self.element(index, current_cpu() % self.cpus);
            self.copy.copy_in(element, value);
            self.copy.release_fields(element);
        }
        Ok(())
    }

    unsafe fn delete(&self, _key: *const u8) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn lookup_percpu(&self, key: *const u8, cpu: u32) -> *mut u8 {
        // SAFETY: 1. the caller's promise.
        self.element(unsafe { read_index(key) }, cpu as usize)
    }

    unsafe fn for_each(&self, visit: &mut Visit<'_>) -> Result<u32, Errno> {
        let mut visited = 0;
        let cpu = current_cpu() % self.cpus;
        for index in 0..self.max_entries {
            visited += 1;
            if let ControlFlow::Break(()) =
                visit((&raw const index).cast(), self.element(index, cpu))
            {
                break;
            }
        }
        Ok(visited)
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let index = index_of(key);
        if index >= self.max_entries {
            return Err(Errno::ENOENT);
        }
        for (cpu, chunk) in value.chunks_exact_mut(self.stride).enumerate() {
            chunk.fill(0);
            // SAFETY: 1. index and CPU in range; 2. the chunk is at least the value's size.
            unsafe {
                self.copy
                    .copy_out(chunk.as_mut_ptr(), self.element(index, cpu))
            };
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
        if flags > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        let index = index_of(key);
        check_update(index, self.max_entries, flags, &self.copy)?;
        for (cpu, chunk) in value.chunks_exact(self.stride).enumerate() {
            let element = self.element(index, cpu);
            // SAFETY: 1. index and CPU in range; 2. the chunk is at least the value's size.
            unsafe {
                self.copy.copy_in(element, chunk.as_ptr());
                self.copy.release_fields(element);
            }
        }
        Ok(())
    }

    fn sys_delete(&self, _key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        next_index(self.max_entries, key, next)
    }

    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Generic { delete: false }
    }

    fn lookup_fn(&self) -> HelperFn {
        percpu_array_lookup
    }

    fn hot(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    fn array_layout(&self) -> Option<ArrayLayout> {
        Some(ArrayLayout {
            base: self.base as u64,
            stride: self.stride as u32,
            max_entries: self.max_entries,
            index_mask: index_mask(self.max_entries),
            cpu_stride: self.cpu_stride as u64,
        })
    }

    fn mem_usage(&self) -> u64 {
        self.region.len_bytes() as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
