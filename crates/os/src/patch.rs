//! Making existing text patchable: a second, writable view of the pages that hold a function's entry.
//!
//! The page is copied to a memfd, the memfd is mapped executable over the page and writable elsewhere. Nobody executing the page notices: the
//! kernel replaces the mapping as a whole, and the bytes are the same. No mapping is ever writable and executable.
//!
//! A child of fork(2) gets pages of its own ([`crate::fork`]).

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::Errno;
use crate::map::{Prot, Region};
use crate::memfd::{Memfd, Seals};

/// Writable views by page number.
fn views() -> &'static Mutex<HashMap<usize, Region>> {
    static VIEWS: OnceLock<Mutex<HashMap<usize, Region>>> = OnceLock::new();
    VIEWS.get_or_init(Mutex::default)
}

/// The writable address of the byte at `address`, valid for the life of the process, and with it of all bytes of its page.
///
/// # Errors
/// `ENOTSUPP`: text is shared with the parent process. `ENOMEM`, `EMFILE`, `EACCES`: the host does not let text be mapped anew.
///
/// # Safety
/// `address` lies in executable, readable text of this process that stays mapped for ever.
pub unsafe fn writable(address: usize) -> Result<*mut u8, Errno> {
    if crate::fork::is_text_shared() {
        return Err(Errno::ENOTSUPP);
    }
    let page_bytes = crate::cpu::page_bytes();
    let (page, offset) = (address / page_bytes, address % page_bytes);
    let mut views = views().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(view) = views.get(&page) {
        return Ok(view.as_ptr().wrapping_add(offset));
    }
    let memfd = Memfd::create("ring3-patch", page_bytes, Seals::Size)?;
    let view = Region::shared(memfd.as_fd(), 0, page_bytes, Prot::ReadWrite)?;
    let text: *const u8 = std::ptr::with_exposed_provenance(page * page_bytes);
    // SAFETY: 1. the page is readable text by the caller's contract; 2. the view is a page of ours.
    unsafe {
        view.as_ptr().copy_from_nonoverlapping(text, page_bytes);
        crate::map::map_over(page * page_bytes, memfd.as_fd(), page_bytes, Prot::ReadExec)?;
    }
    let writable = view.as_ptr().expose_provenance();
    crate::fork::register(memfd, writable, page * page_bytes, page_bytes);
    let byte = view.as_ptr().wrapping_add(offset);
    views.insert(page, view);
    Ok(byte)
}

/// As [`writable`], for the aligned quadword at `address`.
///
/// # Errors
/// As [`writable`]; `EINVAL`: not a multiple of 8.
///
/// # Safety
/// As [`writable`].
pub unsafe fn writable_quadword(address: usize) -> Result<*mut u64, Errno> {
    if !address.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: 1. the caller's contract.
    unsafe { writable(address) }.map(<*mut u8>::cast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    extern "C" fn answer() -> u32 {
        std::hint::black_box(42)
    }

    #[test]
    fn text_reads_and_runs_the_same_after_it_became_patchable() {
        let address = (answer as *const () as usize) & !7;
        // SAFETY: the test binary's text stays mapped.
        let quadword = unsafe { writable_quadword(address) }.unwrap();
        let text: *const u64 = std::ptr::with_exposed_provenance(address);
        // SAFETY: both views are mapped and aligned.
        unsafe {
            assert_eq!(quadword.read_volatile(), text.read_volatile());
        }
        assert_eq!(answer(), 42);
        // SAFETY: as above.
        let again = unsafe { writable_quadword(address) };
        assert_eq!(again, Ok(quadword));
        // SAFETY: never dereferenced.
        let odd = unsafe { writable_quadword(address + 1) };
        assert_eq!(odd, Err(Errno::EINVAL));
    }
}
