//! Queues and stacks: values without keys, pushed, popped and peeked.
//!
//! One ring of `max_entries + 1` values under one lock, as in the kernel. A push with `BPF_EXIST` on a full map drops the oldest value.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};

use ring3_os::map::{Prot, Region};
use ring3_sync::spin::OwnedSpin;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::mem;
use crate::ops::MapOps;

const FLAGS: u32 = map_create::NUMA_NODE
    | map_create::RDONLY
    | map_create::WRONLY
    | map_create::RDONLY_PROG
    | map_create::WRONLY_PROG;
/// The largest allocation of the kernel's allocator.
pub(crate) const KMALLOC_BYTES_MAX: u32 = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    FirstIn,
    LastIn,
}

/// `BPF_MAP_TYPE_QUEUE` and `BPF_MAP_TYPE_STACK`.
#[derive(Debug)]
pub(crate) struct QueueStack {
    order: Order,
    lock: OwnedSpin,
    /// Next place to write, and the oldest value; equal when empty.
    head: AtomicU32,
    tail: AtomicU32,
    /// Places: one more than values fit.
    places: u32,
    value_bytes: usize,
    stride: usize,
    memory: Region,
}

impl QueueStack {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.max_entries != 0, "max_entries", attr.max_entries)?;
        attr.require(attr.key_size == 0, "key_size", attr.key_size)?;
        attr.require(attr.value_size != 0, "value_size", attr.value_size)?;
        attr.check_flags(FLAGS)?;
        attr.check_prog_access()?;
        attr.require_or(
            attr.value_size <= KMALLOC_BYTES_MAX,
            Errno::E2BIG,
            "value_size",
            attr.value_size,
        )?;
        let stride = mem::round_up_8(attr.value_size as usize);
        let oom = || {
            attr.error(
                Errno::ENOMEM,
                format_args!("{} values of {stride} bytes", attr.max_entries),
            )
        };
        let places = attr.max_entries.checked_add(1).ok_or_else(oom)?;
        let bytes = u64::from(places) * stride as u64;
        if bytes >= mem::host_memory_bytes() {
            return Err(oom());
        }
        let memory = Region::anonymous(bytes as usize, Prot::ReadWrite).map_err(|_| oom())?;
        let order = if attr.map_type == MapType::Queue {
            Order::FirstIn
        } else {
            Order::LastIn
        };
        let (head, tail) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(QueueStack {
            order,
            lock: OwnedSpin::new(),
            head,
            tail,
            places,
            value_bytes: attr.value_size as usize,
            stride,
            memory,
        })
    }

    fn place(&self, index: u32) -> *mut u8 {
        self.memory
            .as_ptr()
            .wrapping_add(index as usize * self.stride)
    }

    fn after(&self, index: u32) -> u32 {
        if index + 1 >= self.places {
            0
        } else {
            index + 1
        }
    }

    /// # Safety
    /// `value` is writable for the value size.
    unsafe fn get(&self, value: *mut u8, delete: bool) -> Result<(), Errno> {
        let _lock = self.lock.lock().map_err(|_| Errno::EBUSY)?;
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: 1. places are inside the memory; 2. the caller's promise.
        unsafe {
            if head == tail {
                mem::zero_bytes(value, self.value_bytes);
                return Err(Errno::ENOENT);
            }
            let newest = if head == 0 { self.places - 1 } else { head - 1 };
            let from = match self.order {
                Order::FirstIn => tail,
                Order::LastIn => newest,
            };
            mem::copy_bytes(value, self.place(from), self.value_bytes);
        }
        if delete {
            match self.order {
                Order::FirstIn => self.tail.store(self.after(tail), Ordering::Relaxed),
                Order::LastIn => self.head.store(
                    if head == 0 { self.places - 1 } else { head - 1 },
                    Ordering::Relaxed,
                ),
            }
        }
        Ok(())
    }
}

impl MapOps for QueueStack {
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags & map_elem::NOEXIST != 0 || flags > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        let _lock = self.lock.lock().map_err(|_| Errno::EBUSY)?;
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        if self.after(head) == tail {
            if flags & map_elem::EXIST == 0 {
                return Err(Errno::E2BIG);
            }
            self.tail.store(self.after(tail), Ordering::Relaxed);
        }
        // SAFETY: 1. the place is inside the memory; 2. the caller's promise.
        unsafe { mem::copy_words(self.place(head), value, self.value_bytes) };
        self.head.store(self.after(head), Ordering::Relaxed);
        Ok(())
    }

    unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.get(value, true) }
    }

    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: 1. the caller's promise.
        unsafe { self.get(value, false) }
    }

    unsafe fn update(&self, _key: *const u8, _value: *const u8, _flags: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    unsafe fn delete(&self, _key: *const u8) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_lookup(&self, _key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the value's size.
        unsafe { self.get(value.as_mut_ptr(), false) }
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
        Err(Errno::EINVAL)
    }

    fn sys_next_key(&self, _key: Option<&[u8]>, _next: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn sys_lookup_and_delete(
        &self,
        _key: &[u8],
        value: &mut [u8],
        _flags: u64,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the value's size.
        unsafe { self.get(value.as_mut_ptr(), true) }
    }

    fn mem_usage(&self) -> u64 {
        self.memory.len_bytes() as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
