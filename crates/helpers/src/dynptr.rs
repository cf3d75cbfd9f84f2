//! Dynptrs: `struct bpf_dynptr_kern`, and the helpers that make, read, write and slice one over plain memory and ring buffer records.
//!
//! ```text
//! data pointer u64 | size word u32: size 0..24, type 28..31, read-only 31 | offset u32
//! ```
//! Dynptrs over packets are made by kfuncs, which are not here yet.

use ring3_maps::{Map, RingBuf};
use ring3_uapi::Errno;

use crate::bind::{bytes, bytes_mut, implement};

/// Largest size. Source: `DYNPTR_MAX_SIZE`.
pub(crate) const SIZE_MAX: u32 = (1 << 24) - 1;
const TYPE_SHIFT: u32 = 28;
const TYPE_MASK: u32 = 0b111;
const RDONLY: u32 = 1 << 31;
/// `BPF_DYNPTR_TYPE_LOCAL`
const TYPE_LOCAL: u32 = 1;
/// `BPF_DYNPTR_TYPE_RINGBUF`
const TYPE_RINGBUF: u32 = 2;

/// `struct bpf_dynptr_kern`
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DynptrKern {
    data: u64,
    size_word: u32,
    offset: u32,
}

impl DynptrKern {
    /// A dynptr over local memory of at most [`SIZE_MAX`] bytes.
    pub(crate) fn local(data: *const u8, size: u32) -> Self {
        DynptrKern {
            data: data.expose_provenance() as u64,
            size_word: size | TYPE_LOCAL << TYPE_SHIFT,
            offset: 0,
        }
    }

    fn size(&self) -> u32 {
        self.size_word & SIZE_MAX
    }

    fn is_rdonly(&self) -> bool {
        self.size_word & RDONLY != 0
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Errors
    /// E2BIG: not all of them are in the dynptr. EFAULT: its bytes do not lie in one piece of memory.
    fn slice(&self, offset: u32, len: u32) -> Result<*mut u8, Errno> {
        if len > self.size() || offset > self.size() - len {
            return Err(Errno::E2BIG);
        }
        match self.size_word >> TYPE_SHIFT & TYPE_MASK {
            TYPE_LOCAL | TYPE_RINGBUF => {
                let at = self.data + u64::from(self.offset) + u64::from(offset);
                Ok(std::ptr::with_exposed_provenance_mut(at as usize))
            }
            _ => Err(Errno::EFAULT),
        }
    }
}

fn check_size(size: u32) -> Result<(), Errno> {
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// A dynptr over a fresh record.
///
/// # Errors
/// EINVAL: flags, or no room. E2BIG: too large.
fn reserve(map: &Map, size: u32, flags: u64) -> Result<DynptrKern, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    check_size(size)?;
    let ring = map.downcast::<RingBuf>().ok_or(Errno::EINVAL)?;
    match ring.reserve(u64::from(size), 0) {
        0 => Err(Errno::EINVAL),
        data => Ok(DynptrKern {
            data,
            size_word: size | TYPE_RINGBUF << TYPE_SHIFT,
            offset: 0,
        }),
    }
}

/// Fills in a new dynptr, or a null one with the error.
fn make(out: &mut DynptrKern, made: Result<DynptrKern, Errno>) -> Result<(), Errno> {
    *out = made.unwrap_or_default();
    made.map(drop)
}

fn local(data: *const u8, size: u32, flags: u64) -> Result<DynptrKern, Errno> {
    check_size(size)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(DynptrKern::local(data, size))
}

fn read(src: &DynptrKern, offset: u32, dst: &mut [u8], flags: u64) -> Result<(), Errno> {
    if src.data == 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let from = src.slice(offset, dst.len() as u32)?;
    // SAFETY: 1. the slice lies in the dynptr's memory, which the verifier keeps alive as long as the dynptr; 2. the ranges may overlap.
    unsafe { std::ptr::copy(from, dst.as_mut_ptr(), dst.len()) };
    Ok(())
}

fn write(dst: &DynptrKern, offset: u32, src: &[u8], flags: u64) -> Result<(), Errno> {
    if dst.data == 0 || dst.is_rdonly() {
        return Err(Errno::EINVAL);
    }
    let to = dst.slice(offset, src.len() as u32)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: as in `read`; the memory is writable, because the dynptr is not read-only.
    unsafe { std::ptr::copy(src.as_ptr(), to, src.len()) };
    Ok(())
}

fn data(ptr: &DynptrKern, offset: u32, len: u32) -> *mut u8 {
    if ptr.data == 0 || ptr.is_rdonly() {
        return std::ptr::null_mut();
    }
    ptr.slice(offset, len).unwrap_or(std::ptr::null_mut())
}

implement! { ROWS:
    DynptrFromMem(data: *mut u8, size: u32, flags: u64, ptr: &mut DynptrKern) {
        make(ptr, local(data, size, flags))
    }
    DynptrRead(dst: *mut u8, len: u32, src: &DynptrKern, offset: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        read(src, offset, unsafe { bytes_mut(dst, len) }, flags)
    }
    DynptrWrite(dst: &DynptrKern, offset: u32, src: *const u8, len: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        write(dst, offset, unsafe { bytes(src, len) }, flags)
    }
    DynptrData(ptr: &DynptrKern, offset: u32, len: u32) { data(ptr, offset, len) }
    RingbufReserveDynptr(map: &Map, size: u32, flags: u64, ptr: &mut DynptrKern) {
        make(ptr, reserve(map, size, flags))
    }
    RingbufSubmitDynptr(ptr: &mut DynptrKern, flags: u64) {
        let record = std::mem::take(ptr);
        if record.data != 0 {
            // SAFETY: 1. a referenced dynptr over a ring buffer record, given back once: it is null from here.
            unsafe { RingBuf::submit(record.data, flags) };
        }
    }
    RingbufDiscardDynptr(ptr: &mut DynptrKern, flags: u64) {
        let record = std::mem::take(ptr);
        if record.data != 0 {
            // SAFETY: as above.
            unsafe { RingBuf::discard(record.data, flags) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{MapAttr, MapType};
    use ring3_uapi::FuncId;

    #[test]
    fn local_memory_is_read_and_written_within_bounds() {
        let mut memory = *b"0123456789";
        let mut ptr = DynptrKern::default();
        make(&mut ptr, local(memory.as_mut_ptr(), 10, 0)).unwrap();
        let mut out = [0; 4];
        assert_eq!(read(&ptr, 6, &mut out, 0), Ok(()));
        assert_eq!(&out, b"6789");
        assert_eq!(read(&ptr, 7, &mut out, 0), Err(Errno::E2BIG));
        assert_eq!(read(&ptr, u32::MAX, &mut out, 0), Err(Errno::E2BIG));
        assert_eq!(read(&ptr, 0, &mut out, 1), Err(Errno::EINVAL));
        assert_eq!(write(&ptr, 0, b"ab", 1), Err(Errno::EINVAL));
        assert_eq!(write(&ptr, 9, b"ab", 1), Err(Errno::E2BIG));
        assert_eq!(write(&ptr, 8, b"ab", 0), Ok(()));
        assert_eq!(&memory, b"01234567ab");
        assert_eq!(data(&ptr, 2, 8), memory.as_mut_ptr().wrapping_add(2));
        assert!(data(&ptr, 3, 8).is_null());
        let rdonly = DynptrKern {
            size_word: ptr.size_word | RDONLY,
            ..ptr
        };
        assert_eq!(write(&rdonly, 0, b"ab", 0), Err(Errno::EINVAL));
        assert!(data(&rdonly, 0, 1).is_null());
        assert_eq!(read(&rdonly, 0, &mut out, 0), Ok(()));
    }

    #[test]
    fn an_error_leaves_a_null_dynptr() {
        let mut ptr = DynptrKern::local([0u8; 4].as_ptr(), 4);
        assert_eq!(
            make(&mut ptr, local(std::ptr::null(), 1 << 24, 1)),
            Err(Errno::E2BIG)
        );
        assert_eq!(ptr, DynptrKern::default());
        assert_eq!(local(std::ptr::null(), 4, 1), Err(Errno::EINVAL));
        assert_eq!(read(&ptr, 0, &mut [], 0), Err(Errno::EINVAL));
        assert_eq!(write(&ptr, 0, &[], 0), Err(Errno::EINVAL));
        assert!(data(&ptr, 0, 0).is_null());
    }

    #[test]
    fn records_are_submitted_and_discarded_through_dynptrs() {
        let map = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
        let ring = map.downcast::<RingBuf>().unwrap();
        assert_eq!(reserve(&map, 8, 1), Err(Errno::EINVAL));
        assert_eq!(reserve(&map, 1 << 24, 0), Err(Errno::E2BIG));
        assert_eq!(reserve(&map, 4096, 0), Err(Errno::EINVAL));
        for id in [FuncId::RingbufSubmitDynptr, FuncId::RingbufDiscardDynptr] {
            let mut ptr = reserve(&map, 8, 0).unwrap();
            write(&ptr, 4, b"tail", 0).unwrap();
            let end = crate::find(id).unwrap();
            let address = (&raw mut ptr).expose_provenance() as u64;
            for _ in 0..2 {
                // SAFETY: a dynptr of 16 bytes; the second call finds it null.
                unsafe { end(address, 0, 0, 0, 0) };
            }
            assert_eq!(ptr, DynptrKern::default());
        }
        let mut records = Vec::new();
        ring.consume(|record| records.push(record[4..].to_vec()));
        assert_eq!(records, [b"tail"]);
    }
}
