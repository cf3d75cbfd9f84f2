//! Per-thread rows of words that lists reach in one instruction from the thread pointer.
//!
//! A row is a u32: whether a program runs on this thread, against recursion. Arrays of rows are address space until touched; a thread
//! that ends leaves its array to the next one.

use std::cell::Cell;
use std::sync::{Mutex, OnceLock, PoisonError};

use ring3_os::map::{Prot, Region};
use ring3_sync::rcu;

/// Rows that exist at most.
pub(crate) const IDS_MAX: u32 = 1 << 16;
const ROW_BYTES: usize = size_of::<u32>();

thread_local! {
    static ROWS: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
    static OWNERSHIP: Ownership = const { Ownership };
}

/// Gives the array back when the thread ends.
struct Ownership;

impl Drop for Ownership {
    fn drop(&mut self) {
        let array = ROWS.replace(std::ptr::null_mut());
        if !array.is_null() {
            arrays().unowned.push(array.expose_provenance());
        }
    }
}

#[derive(Default)]
struct Arrays {
    all: Vec<Region>,
    unowned: Vec<usize>,
    free_ids: Vec<u32>,
    next_id: u32,
}

fn arrays() -> std::sync::MutexGuard<'static, Arrays> {
    static ARRAYS: OnceLock<Mutex<Arrays>> = OnceLock::new();
    ARRAYS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// C function for gates: gives the calling thread its array, and an RCU cell.
pub(crate) extern "C" fn register() {
    let mut arrays = arrays();
    let array = match arrays.unowned.pop() {
        Some(array) => std::ptr::with_exposed_provenance_mut(array),
        None => {
            let Ok(region) = Region::anonymous(IDS_MAX as usize * ROW_BYTES, Prot::ReadWrite)
            else {
                // A traced function cannot be left half-way, and there is no error to give to its caller.
                std::process::abort();
            };
            let array = region.as_ptr();
            array.expose_provenance();
            arrays.all.push(region);
            array
        }
    };
    drop(arrays);
    // Before our own destructor is registered: destructors run last registered first, so the cell outlives our use of it.
    rcu::thread();
    ROWS.set(array);
    let _ = OWNERSHIP.try_with(|_| ());
}

/// Offset of the array's address from the thread pointer; `None` where it is not the same in every thread (a library loaded later).
pub(crate) fn rows_tls_offset() -> Option<i32> {
    static OFFSET: OnceLock<Option<i32>> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        let here = offset_here();
        let elsewhere = std::thread::spawn(offset_here).join().ok()?;
        (here == elsewhere)
            .then(|| i32::try_from(here).ok())
            .flatten()
    })
}

fn offset_here() -> isize {
    let thread_pointer: isize;
    // SAFETY: 1. the x86-64 ABI keeps the thread pointer in the first word of the thread control block.
    unsafe {
        std::arch::asm!("mov {}, fs:[0]", out(reg) thread_pointer, options(nostack, readonly, preserves_flags));
    }
    ROWS.with(|cell| std::ptr::from_ref(cell) as isize) - thread_pointer
}

/// An id, unused by anybody else.
pub(crate) fn allocate_id() -> Option<u32> {
    let mut arrays = arrays();
    if let Some(id) = arrays.free_ids.pop() {
        return Some(id);
    }
    if arrays.next_id == IDS_MAX {
        return None;
    }
    arrays.next_id += 1;
    Some(arrays.next_id - 1)
}

/// Gives an id back that no code refers to any more.
pub(crate) fn free_id(id: u32) {
    arrays().free_ids.push(id);
}

/// Byte offset of an id's row in the array.
pub(crate) fn offset(id: u32) -> i32 {
    (id as usize * ROW_BYTES) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_finds_the_cell_in_every_thread() {
        let offset = rows_tls_offset().expect("static TLS in a test binary");
        let read = move || -> *mut u8 {
            let value: *mut u8;
            // SAFETY: reads the thread-local cell.
            unsafe {
                std::arch::asm!("mov {}, fs:[{}]", out(reg) value, in(reg) i64::from(offset))
            };
            value
        };
        for _ in 0..2 {
            std::thread::spawn(move || {
                assert!(read().is_null());
                register();
                assert!(!read().is_null());
                assert_eq!(read(), ROWS.get());
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn ids_are_reused() {
        let first = allocate_id().unwrap();
        let second = allocate_id().unwrap();
        assert_ne!(first, second);
        free_id(second);
        assert_eq!(allocate_id(), Some(second));
        free_id(second);
        free_id(first);
    }
}
