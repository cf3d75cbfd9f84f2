//! Memory from mmap(2): anonymous regions, memfd windows, regions mapped twice, the ring buffer's layout.
//!
//! Each type owns its address range and unmaps it on drop; what lies in the range is the owner's business, so access is by
//! raw pointer.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::Errno;
use crate::memfd::{Memfd, Seals};

/// How a mapping may be used. There is no writable and executable one, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// No access: address space only.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExec,
}

impl Prot {
    fn bits(self) -> libc::c_int {
        match self {
            Prot::None => libc::PROT_NONE,
            Prot::Read => libc::PROT_READ,
            Prot::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Prot::ReadExec => libc::PROT_READ | libc::PROT_EXEC,
        }
    }
}

/// An owned range of address space.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: 1. a region is an address range, owned by nobody's thread; 2. access to its bytes is by raw pointer, where the
// user proves the absence of races.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

fn mmap(
    at: Option<NonNull<u8>>,
    len_bytes: usize,
    prot: Prot,
    flags: libc::c_int,
    fd: i32,
    offset_bytes: usize,
) -> Result<NonNull<u8>, Errno> {
    let (hint, fixed) = match at {
        Some(at) => (at.as_ptr().cast(), libc::MAP_FIXED),
        None => (std::ptr::null_mut(), 0),
    };
    let offset = libc::off_t::try_from(offset_bytes).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: 1. without `at`, a new mapping overlaps nothing; 2. with it, the callers below pass ranges inside a reservation of
    // their own that nobody has a pointer into yet.
    let address = unsafe { libc::mmap(hint, len_bytes, prot.bits(), flags | fixed, fd, offset) };
    if address == libc::MAP_FAILED {
        return Err(crate::last_errno());
    }
    NonNull::new(address.cast()).ok_or(Errno::ENOMEM)
}

/// Maps a descriptor's memory over a mapping that exists.
///
/// # Safety
/// `address` is page-aligned, `len_bytes` are mapped there and stay so for ever or belong to the caller, and the descriptor's memory holds the same
/// bytes.
pub(crate) unsafe fn map_over(
    address: usize,
    fd: BorrowedFd<'_>,
    len_bytes: usize,
    prot: Prot,
) -> Result<(), Errno> {
    let at = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).ok_or(Errno::EINVAL)?;
    mmap(
        Some(at),
        len_bytes,
        prot,
        libc::MAP_SHARED,
        fd.as_raw_fd(),
        0,
    )
    .map(drop)
}

impl Region {
    /// Zeroed private memory, committed page by page when first touched.
    ///
    /// # Errors
    /// `EINVAL`: no bytes asked for. `ENOMEM`: no address space.
    pub fn anonymous(len_bytes: usize, prot: Prot) -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let base = mmap(None, len_bytes, prot, flags, -1, 0)?;
        Ok(Region { base, len_bytes })
    }

    /// A shared window of `len_bytes` of a descriptor's memory, from `offset_bytes`.
    ///
    /// # Errors
    /// `EINVAL`: offset not a multiple of the page, or no bytes. `EPERM`: sealed against this access. `ENOMEM`.
    pub fn shared(
        fd: BorrowedFd<'_>,
        offset_bytes: usize,
        len_bytes: usize,
        prot: Prot,
    ) -> Result<Self, Errno> {
        let base = mmap(
            None,
            len_bytes,
            prot,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            offset_bytes,
        )?;
        Ok(Region { base, len_bytes })
    }

    /// Reserves address space, `len_bytes` long and aligned to `align_bytes` (a power of two), without access.
    ///
    /// # Errors
    /// `EINVAL`: alignment is no power of two. `ENOMEM`: no address space.
    pub fn reserve_aligned(len_bytes: usize, align_bytes: usize) -> Result<Self, Errno> {
        if !align_bytes.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        let page = crate::cpu::page_bytes();
        let len_bytes = len_bytes
            .checked_next_multiple_of(page)
            .ok_or(Errno::ENOMEM)?;
        if align_bytes <= page {
            return Region::anonymous(len_bytes, Prot::None);
        }
        let total = len_bytes.checked_add(align_bytes).ok_or(Errno::ENOMEM)?;
        let whole = Region::anonymous(total, Prot::None)?;
        let start = whole.base.as_ptr() as usize;
        let aligned = start.next_multiple_of(align_bytes);
        let head = aligned - start;
        let tail = total - head - len_bytes;
        std::mem::forget(whole);
        // SAFETY: 1. both ends lie in the reservation just made, which nobody else knows; 2. the aligned middle is not null.
        unsafe {
            if head != 0 {
                libc::munmap(start as *mut _, head);
            }
            if tail != 0 {
                libc::munmap((aligned + len_bytes) as *mut _, tail);
            }
            Ok(Region {
                base: NonNull::new_unchecked(aligned as *mut u8),
                len_bytes,
            })
        }
    }

    /// As [`Region::reserve_aligned`], with every byte less than `reach_bytes` from `near`: tries places outward from there.
    ///
    /// # Errors
    /// `EINVAL`: alignment is no power of two or below the page. `ENOMEM`: no room in reach.
    pub fn reserve_near(
        len_bytes: usize,
        align_bytes: usize,
        near: usize,
        reach_bytes: usize,
    ) -> Result<Self, Errno> {
        let page = crate::cpu::page_bytes();
        if !align_bytes.is_power_of_two() || align_bytes < page {
            return Err(Errno::EINVAL);
        }
        let len_bytes = len_bytes
            .checked_next_multiple_of(page)
            .ok_or(Errno::ENOMEM)?;
        let step = align_bytes
            .max(reach_bytes / 1024)
            .next_multiple_of(align_bytes);
        let centre = near & !(align_bytes - 1);
        for distance in (step..reach_bytes.saturating_sub(len_bytes)).step_by(step) {
            let candidates = [centre.checked_sub(distance), centre.checked_add(distance)];
            for at in candidates.into_iter().flatten() {
                if let Ok(region) = Region::reserve_at(len_bytes, at) {
                    return Ok(region);
                }
            }
        }
        Err(Errno::ENOMEM)
    }

    /// Reserves address space at `address`, without access.
    ///
    /// # Errors
    /// `EEXIST`: something is mapped there. `EINVAL`: not a multiple of the page. `ENOMEM`, `EPERM`.
    pub fn reserve_at(len_bytes: usize, address: usize) -> Result<Self, Errno> {
        let at = NonNull::new(address as *mut u8).ok_or(Errno::EINVAL)?;
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE
            | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: 1. MAP_FIXED_NOREPLACE maps nothing over a mapping that exists.
        let address =
            unsafe { libc::mmap(at.as_ptr().cast(), len_bytes, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(crate::last_errno());
        }
        let region = Region {
            base: NonNull::new(address.cast()).ok_or(Errno::ENOMEM)?,
            len_bytes,
        };
        // Kernels before 4.17 take the address as a hint only.
        if region.base == at {
            Ok(region)
        } else {
            Err(Errno::EEXIST)
        }
    }

    /// Replaces `len_bytes` of this region from `at_bytes` by a shared window of a descriptor's memory.
    ///
    /// # Errors
    /// `EINVAL`: out of the region or not page aligned. `EPERM`, `ENOMEM` as mmap(2).
    pub fn overlay(
        &mut self,
        at_bytes: usize,
        fd: BorrowedFd<'_>,
        offset_bytes: usize,
        len_bytes: usize,
        prot: Prot,
    ) -> Result<(), Errno> {
        let end = at_bytes.checked_add(len_bytes).ok_or(Errno::EINVAL)?;
        if end > self.len_bytes || !at_bytes.is_multiple_of(crate::cpu::page_bytes()) {
            return Err(Errno::EINVAL);
        }
        // SAFETY: 1. at_bytes is inside the region by the check above.
        let at = unsafe { self.base.add(at_bytes) };
        mmap(
            Some(at),
            len_bytes,
            prot,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            offset_bytes,
        )
        .map(drop)
    }

    /// Replaces `len_bytes` from `at_bytes` by fresh zeroed private memory (or, with [`Prot::None`], by a hole).
    ///
    /// # Errors
    /// `EINVAL`: out of the region or not page aligned. `ENOMEM`.
    pub fn overlay_anonymous(
        &mut self,
        at_bytes: usize,
        len_bytes: usize,
        prot: Prot,
    ) -> Result<(), Errno> {
        let end = at_bytes.checked_add(len_bytes).ok_or(Errno::EINVAL)?;
        if end > self.len_bytes || !at_bytes.is_multiple_of(crate::cpu::page_bytes()) {
            return Err(Errno::EINVAL);
        }
        // SAFETY: 1. at_bytes is inside the region by the check above.
        let at = unsafe { self.base.add(at_bytes) };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        mmap(Some(at), len_bytes, prot, flags, -1, 0).map(drop)
    }

    /// Changes the access of `len_bytes` from `at_bytes`.
    ///
    /// # Errors
    /// `EINVAL`: out of the region or not page aligned. `EACCES`, `ENOMEM` as mprotect(2).
    pub fn protect(&self, at_bytes: usize, len_bytes: usize, prot: Prot) -> Result<(), Errno> {
        let end = at_bytes.checked_add(len_bytes).ok_or(Errno::EINVAL)?;
        if end > self.len_bytes {
            return Err(Errno::EINVAL);
        }
        // SAFETY: 1. the range is inside our own region; 2. whoever accesses it afterwards against `prot` faults, which is
        // memory safe.
        let result = unsafe {
            libc::mprotect(
                self.base.as_ptr().add(at_bytes).cast(),
                len_bytes,
                prot.bits(),
            )
        };
        crate::check(result.into()).map(drop)
    }

    /// Asks for huge pages where the host grants them; a hint without failure.
    pub fn advise_huge(&self) {
        // SAFETY: 1. advice on our own range changes no content.
        let _ = unsafe {
            libc::madvise(
                self.base.as_ptr().cast(),
                self.len_bytes,
                libc::MADV_HUGEPAGE,
            )
        };
    }

    /// Makes pages writable now that the first write would make later; a hint, for hosts before Linux 5.14 know no such advice.
    ///
    /// # Errors
    /// `ENOMEM`: the host has no memory for them.
    fn populate(&self, at_bytes: usize, len_bytes: usize) -> Result<(), Errno> {
        // SAFETY: 1. populating our own range changes no content.
        let result = unsafe {
            libc::madvise(
                self.base.as_ptr().add(at_bytes).cast(),
                len_bytes,
                libc::MADV_POPULATE_WRITE,
            )
        };
        match crate::check(result.into()) {
            Err(Errno::ENOMEM) => Err(Errno::ENOMEM),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The first byte.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes of the region.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether `address` lies inside.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base.as_ptr() as usize) < self.len_bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: 1. the range is ours and mapped once; 2. who shares its addresses has promised to be gone (RCU for memory that
        // programs see).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// One memory at two addresses: a writable and an executable view. A child of fork(2) gets its own ([`crate::fork`]).
#[derive(Debug)]
pub struct TwinRegion {
    write: Region,
    exec: Region,
}

impl TwinRegion {
    /// Maps `len_bytes` of fresh memory twice; the executable view is aligned to `align_bytes`.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM`, `EMFILE`; `EACCES` where the host forbids executable memory.
    pub fn create(name: &str, len_bytes: usize, align_bytes: usize) -> Result<Self, Errno> {
        let len_bytes = len_bytes
            .checked_next_multiple_of(crate::cpu::page_bytes())
            .ok_or(Errno::ENOMEM)?;
        let memfd = Memfd::create(name, len_bytes, Seals::Size)?;
        let fd = std::os::fd::AsFd::as_fd(&memfd);
        let write = Region::shared(fd, 0, len_bytes, Prot::ReadWrite)?;
        let mut exec = Region::reserve_aligned(len_bytes, align_bytes)?;
        exec.overlay(0, fd, 0, len_bytes, Prot::ReadExec)?;
        Ok(TwinRegion::of(memfd, write, exec))
    }

    /// As [`TwinRegion::create`], with the executable view less than `reach_bytes` from `near`.
    ///
    /// # Errors
    /// As [`TwinRegion::create`]; `ENOMEM` if there is no room in reach.
    pub fn create_near(
        name: &str,
        len_bytes: usize,
        align_bytes: usize,
        near: usize,
        reach_bytes: usize,
    ) -> Result<Self, Errno> {
        let len_bytes = len_bytes
            .checked_next_multiple_of(crate::cpu::page_bytes())
            .ok_or(Errno::ENOMEM)?;
        let memfd = Memfd::create(name, len_bytes, Seals::Size)?;
        let fd = std::os::fd::AsFd::as_fd(&memfd);
        let write = Region::shared(fd, 0, len_bytes, Prot::ReadWrite)?;
        let mut exec = Region::reserve_near(len_bytes, align_bytes, near, reach_bytes)?;
        exec.overlay(0, fd, 0, len_bytes, Prot::ReadExec)?;
        Ok(TwinRegion::of(memfd, write, exec))
    }

    /// As [`TwinRegion::create`], with the executable view at `address`.
    ///
    /// # Errors
    /// As [`TwinRegion::create`]; `EINVAL`: not a multiple of the page; `EEXIST`: something is mapped there.
    pub fn create_at(name: &str, len_bytes: usize, address: usize) -> Result<Self, Errno> {
        let len_bytes = len_bytes
            .checked_next_multiple_of(crate::cpu::page_bytes())
            .ok_or(Errno::ENOMEM)?;
        let mut exec = Region::reserve_at(len_bytes, address)?;
        let memfd = Memfd::create(name, len_bytes, Seals::Size)?;
        let fd = std::os::fd::AsFd::as_fd(&memfd);
        let write = Region::shared(fd, 0, len_bytes, Prot::ReadWrite)?;
        exec.overlay(0, fd, 0, len_bytes, Prot::ReadExec)?;
        Ok(TwinRegion::of(memfd, write, exec))
    }

    fn of(memfd: Memfd, write: Region, exec: Region) -> Self {
        let (writable, executable) = (write.as_ptr(), exec.as_ptr());
        let addresses = (writable.expose_provenance(), executable.expose_provenance());
        crate::fork::register(memfd, addresses.0, addresses.1, write.len_bytes());
        TwinRegion { write, exec }
    }

    /// The writable view.
    pub fn write_view(&self) -> &Region {
        &self.write
    }

    /// The executable view.
    pub fn exec_view(&self) -> &Region {
        &self.exec
    }
}

impl Drop for TwinRegion {
    fn drop(&mut self) {
        crate::fork::forget(self.write.as_ptr() as usize);
    }
}

/// The ring buffer's memory: `private page, consumer page, producer page, data, data again`.
///
/// The private page belongs to the owner; the memfd holds `consumer page, producer page, data, mirror`, which is also what a process maps that
/// sees nothing but a file. As in the kernel, the page of a record, counted from the private one, leads from the record to its owner.
///
/// No file can show the same bytes at two offsets, so the mirror is memory of its own. Who produces here sees data twice and copies the end of a
/// record that crosses the border into the mirror ([`RingRegion::fill_mirror`]); what others produce crosses into the mirror itself.
#[derive(Debug)]
pub struct RingRegion {
    view: Region,
    mirror: Option<Region>,
    memfd: Memfd,
    data_bytes: usize,
}

/// The largest data area whose memory is taken at creation: a record in a page that is not there costs a fault.
const POPULATED_BYTES_MAX: usize = 64 << 20;

/// Who writes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingProducer {
    /// The owner: data is seen twice here.
    Owner,
    /// Others: the mirror follows the data.
    Others,
}

impl RingRegion {
    /// A ring of `data_bytes`, a power of two and a multiple of the page. What the owner produces into has its memory from the beginning, as in
    /// the kernel, unless it is more than [`POPULATED_BYTES_MAX`].
    ///
    /// # Errors
    /// `EINVAL`: size. `ENOMEM`, `EMFILE`.
    pub fn create(name: &str, data_bytes: usize, producer: RingProducer) -> Result<Self, Errno> {
        let page = crate::cpu::page_bytes();
        if !data_bytes.is_power_of_two() || !data_bytes.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        let once = data_bytes.checked_add(2 * page).ok_or(Errno::ENOMEM)?;
        let total = once.checked_add(data_bytes + page).ok_or(Errno::ENOMEM)?;
        let memfd = Memfd::create(name, once + data_bytes, Seals::Size)?;
        let fd = std::os::fd::AsFd::as_fd(&memfd);
        let mut view = Region::reserve_aligned(total, page)?;
        view.overlay_anonymous(0, page, Prot::ReadWrite)?;
        view.overlay(page, fd, 0, once, Prot::ReadWrite)?;
        let (again, mirror) = match producer {
            RingProducer::Owner => {
                let mirror = Region::shared(fd, once, data_bytes, Prot::ReadWrite)?;
                (2 * page, Some(mirror))
            }
            RingProducer::Others => (once, None),
        };
        view.overlay(page + once, fd, again, data_bytes, Prot::ReadWrite)?;
        if producer == RingProducer::Owner && data_bytes <= POPULATED_BYTES_MAX {
            view.populate(page, total - page)?;
        }
        Ok(RingRegion {
            view,
            mirror,
            memfd,
            data_bytes,
        })
    }

    /// Shows the first `len_bytes` of the data to those who read it behind its end; for the owner that produces.
    ///
    /// # Safety
    /// `len_bytes` is at most the data's; nobody here writes those bytes meanwhile.
    pub unsafe fn fill_mirror(&self, len_bytes: usize) {
        debug_assert!(len_bytes <= self.data_bytes);
        if let Some(mirror) = &self.mirror {
            // SAFETY: 1. both are as long as the data and do not overlap; 2. the caller's promise.
            unsafe { std::ptr::copy_nonoverlapping(self.data(), mirror.as_ptr(), len_bytes) };
        }
    }

    /// The owner's page, zeroed, right before the consumer page.
    pub fn private_page(&self) -> *mut u8 {
        self.view.as_ptr()
    }

    /// The page whose first word is the consumer's position.
    pub fn consumer_page(&self) -> *mut u8 {
        self.view.as_ptr().wrapping_add(crate::cpu::page_bytes())
    }

    /// The page whose first word is the producer's position.
    pub fn producer_page(&self) -> *mut u8 {
        self.view
            .as_ptr()
            .wrapping_add(2 * crate::cpu::page_bytes())
    }

    /// The data, followed by itself.
    pub fn data(&self) -> *mut u8 {
        self.view
            .as_ptr()
            .wrapping_add(3 * crate::cpu::page_bytes())
    }

    /// Bytes of the data area, once.
    pub fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// The memory itself, for consumers that map it.
    pub fn memfd(&self) -> &Memfd {
        &self.memfd
    }

    /// Whether `address` lies in the data area (either copy).
    pub fn data_contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.data() as usize) < 2 * self.data_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twin_views_show_the_same_bytes() {
        let twin = TwinRegion::create("twin", 4096, 1 << 21).unwrap();
        assert_eq!(twin.exec_view().as_ptr() as usize % (1 << 21), 0);
        // SAFETY: both views map 4096 bytes of ours.
        unsafe {
            twin.write_view().as_ptr().write_volatile(0xc3);
            assert_eq!(twin.exec_view().as_ptr().read_volatile(), 0xc3);
        }
    }

    #[test]
    fn ring_data_wraps_by_mapping() {
        let ring = RingRegion::create("ring", 8192, RingProducer::Owner).unwrap();
        let fd = std::os::fd::AsFd::as_fd(ring.memfd());
        let file = Region::shared(fd, 8192, 16384, Prot::Read).unwrap();
        // SAFETY: the data area is mapped twice, 16384 bytes.
        unsafe {
            ring.data().write_volatile(7);
            assert_eq!(ring.data().add(8192).read_volatile(), 7);
            ring.data().add(8192 + 5).write_volatile(9);
            assert_eq!(ring.data().add(5).read_volatile(), 9);
            assert_eq!(file.as_ptr().add(8192 + 5).read_volatile(), 0);
            ring.fill_mirror(6);
            assert_eq!(file.as_ptr().add(8192 + 5).read_volatile(), 9);
        }
        let ring = RingRegion::create("ring", 8192, RingProducer::Others).unwrap();
        let fd = std::os::fd::AsFd::as_fd(ring.memfd());
        let file = Region::shared(fd, 8192, 16384, Prot::ReadWrite).unwrap();
        // SAFETY: both map data and mirror, 16384 bytes.
        unsafe {
            file.as_ptr().add(8192 + 5).write_volatile(9);
            assert_eq!(ring.data().add(8192 + 5).read_volatile(), 9);
        }
        assert_eq!(
            RingRegion::create("ring", 12288, RingProducer::Owner).unwrap_err(),
            Errno::EINVAL
        );
    }

    #[test]
    fn reservations_are_aligned_and_overlays_bounded() {
        let mut region = Region::reserve_aligned(8192, 1 << 16).unwrap();
        assert_eq!(region.as_ptr() as usize % (1 << 16), 0);
        assert_eq!(
            region.overlay_anonymous(4096, 8192, Prot::ReadWrite),
            Err(Errno::EINVAL)
        );
        region
            .overlay_anonymous(4096, 4096, Prot::ReadWrite)
            .unwrap();
        // SAFETY: the second page was just made writable.
        unsafe { region.as_ptr().add(4096).write_volatile(1) };
        assert!(region.contains(region.as_ptr() as usize + 8191));
        assert!(!region.contains(region.as_ptr() as usize + 8192));
    }

    #[test]
    fn a_shared_window_sees_other_windows() {
        let memfd = Memfd::create("window", 4096, Seals::SizeOpen).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&memfd);
        let one = Region::shared(fd, 0, 4096, Prot::ReadWrite).unwrap();
        let two = Region::shared(fd, 0, 4096, Prot::Read).unwrap();
        // SAFETY: both map one page of ours.
        unsafe {
            one.as_ptr().write_volatile(3);
            assert_eq!(two.as_ptr().read_volatile(), 3);
        }
        assert_eq!(memfd.seal_writes(), Err(Errno::EBUSY));
        // A readable shared mapping of a writable descriptor may become writable, so it counts too.
        drop(one);
        assert_eq!(memfd.seal_writes(), Err(Errno::EBUSY));
        drop(two);
        assert_eq!(memfd.seal_writes(), Ok(()));
        assert_eq!(
            Region::shared(fd, 0, 4096, Prot::ReadWrite).unwrap_err(),
            Errno::EPERM
        );
    }
}
