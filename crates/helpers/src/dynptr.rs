//! Dynptrs: `struct bpf_dynptr_kern`, and the helpers that make, read, write and slice one over plain memory and ring buffer records.
//!
//! ```text
//! data pointer u64 | size word u32: size 0..24, type 28..31, read-only 31 | offset u32
//! ```
//! Over a packet the data pointer is that of the packet object: bytes are looked for at each use. Such dynptrs are made by `kfunc::dynptr`.

use ring3_maps::{Map, RingBuf};
use ring3_uapi::Errno;

use crate::bind::{bytes, bytes_mut, implement};
use crate::packet::{Skb, XdpBuff};

/// Largest size. Source: `DYNPTR_MAX_SIZE`.
pub(crate) const SIZE_MAX: u32 = (1 << 24) - 1;
const TYPE_SHIFT: u32 = 28;
const TYPE_MASK: u32 = 0b111;
const RDONLY: u32 = 1 << 31;
/// `BPF_DYNPTR_TYPE_LOCAL`
const TYPE_LOCAL: u32 = 1;
/// `BPF_DYNPTR_TYPE_RINGBUF`
const TYPE_RINGBUF: u32 = 2;
/// `BPF_DYNPTR_TYPE_SKB`
const TYPE_SKB: u32 = 3;
/// `BPF_DYNPTR_TYPE_XDP`
const TYPE_XDP: u32 = 4;
/// Flags of writes into an skb: `BPF_F_RECOMPUTE_CSUM`, `BPF_F_INVALIDATE_HASH`.
const SKB_WRITE_FLAGS: u64 = 3;
const INVALIDATE_HASH: u64 = 2;

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

    /// A dynptr over the bytes of an skb.
    ///
    /// # Errors
    /// EINVAL: flags.
    pub(crate) fn skb(skb: &Skb, flags: u64) -> Result<Self, Errno> {
        let data = std::ptr::from_ref(skb).expose_provenance() as u64;
        DynptrKern::packet(data, skb.data().len(), TYPE_SKB, flags)
    }

    /// A dynptr over a frame, its fragments included.
    ///
    /// # Errors
    /// EINVAL: flags.
    pub(crate) fn xdp(xdp: &XdpBuff, flags: u64) -> Result<Self, Errno> {
        let data = std::ptr::from_ref(xdp).expose_provenance() as u64;
        DynptrKern::packet(data, xdp.len_bytes(), TYPE_XDP, flags)
    }

    fn packet(data: u64, bytes: usize, kind: u32, flags: u64) -> Result<Self, Errno> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(DynptrKern {
            data,
            size_word: (bytes as u32).min(SIZE_MAX) | kind << TYPE_SHIFT,
            offset: 0,
        })
    }

    /// The same, for programs that may only read it.
    pub(crate) fn rdonly(self) -> Self {
        DynptrKern {
            size_word: self.size_word | RDONLY,
            ..self
        }
    }

    /// Bytes from its offset on.
    pub(crate) fn size(&self) -> u32 {
        self.size_word & SIZE_MAX
    }

    /// Whether it may only be read; a null one may be neither.
    pub(crate) fn is_rdonly(&self) -> bool {
        self.size_word & RDONLY != 0
    }

    /// Whether it refers to nothing.
    pub(crate) fn is_null(&self) -> bool {
        self.data == 0
    }

    fn kind(&self) -> u32 {
        self.size_word >> TYPE_SHIFT & TYPE_MASK
    }

    /// The frame it refers to.
    ///
    /// # Safety
    /// Its kind is [`TYPE_XDP`].
    #[expect(clippy::mut_from_ref, reason = "the frame is no part of the dynptr")]
    unsafe fn frame(&self) -> &mut XdpBuff {
        // SAFETY: 1. the program's context, which lives as long as the program runs, and the dynptr on its stack; 2. the program is suspended in
        // the call.
        unsafe { &mut *std::ptr::with_exposed_provenance_mut(self.data as usize) }
    }

    /// # Errors
    /// E2BIG: not all of `len` bytes at `offset` are in it.
    fn check_range(&self, offset: u32, len: u32) -> Result<(), Errno> {
        if len > self.size() || offset > self.size() - len {
            return Err(Errno::E2BIG);
        }
        Ok(())
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Errors
    /// E2BIG: not all of them are in the dynptr. EFAULT: its bytes do not lie in one piece of memory, or the packet became shorter.
    fn slice(&self, offset: u32, len: u32) -> Result<*mut u8, Errno> {
        self.check_range(offset, len)?;
        let from = u64::from(self.offset) + u64::from(offset);
        let range = from as usize..from as usize + len as usize;
        let piece = match self.kind() {
            TYPE_LOCAL | TYPE_RINGBUF => {
                return Ok(std::ptr::with_exposed_provenance_mut(
                    (self.data + from) as usize,
                ));
            }
            TYPE_SKB => {
                let skb = std::ptr::with_exposed_provenance_mut::<Skb>(self.data as usize);
                // SAFETY: 1. as for frames.
                unsafe { (*skb).data_mut() }.get_mut(range)
            }
            // SAFETY: 1. it is a frame.
            TYPE_XDP => unsafe { self.frame() }.data_mut().get_mut(range),
            _ => None,
        };
        let piece = piece.ok_or(Errno::EFAULT)?;
        Ok(std::ptr::with_exposed_provenance_mut(
            piece.as_mut_ptr().expose_provenance(),
        ))
    }

    /// Where `len` bytes lie in a frame that is not in one piece.
    ///
    /// # Errors
    /// EFAULT: they are not all there.
    fn scattered(&self, offset: u32, len: u32) -> Result<usize, Errno> {
        let from = self.offset as usize + offset as usize;
        // SAFETY: 1. it is a frame, if the first condition holds.
        if self.kind() == TYPE_XDP && from + len as usize <= unsafe { self.frame() }.len_bytes() {
            return Ok(from);
        }
        Err(Errno::EFAULT)
    }

    /// The address of `len` bytes, copied to `buffer` where they lie scattered; null where that is null, or they are not all there.
    ///
    /// # Safety
    /// `buffer` is null or writable for `len` bytes.
    pub(crate) unsafe fn slice_or_copy(&self, offset: u32, buffer: *mut u8, len: u32) -> *mut u8 {
        if self.is_null() {
            return std::ptr::null_mut();
        }
        match self.slice(offset, len) {
            Ok(address) => address,
            Err(Errno::EFAULT) if !buffer.is_null() => {
                // SAFETY: 1. the caller's promise.
                match self.load(offset, unsafe { bytes_mut(buffer, len) }) {
                    Ok(()) => buffer,
                    Err(_) => std::ptr::null_mut(),
                }
            }
            Err(_) => std::ptr::null_mut(),
        }
    }

    /// # Errors
    /// E2BIG: beyond its end. EFAULT: the packet became shorter.
    fn load(&self, offset: u32, dst: &mut [u8]) -> Result<(), Errno> {
        match self.slice(offset, dst.len() as u32) {
            Ok(from) => {
                // SAFETY: 1. the slice lies in the dynptr's memory, which the verifier keeps alive as long as the dynptr; 2. the ranges may
                // overlap.
                unsafe { std::ptr::copy(from, dst.as_mut_ptr(), dst.len()) };
                Ok(())
            }
            Err(Errno::EFAULT) => {
                let from = self.scattered(offset, dst.len() as u32)?;
                // SAFETY: 1. it is a frame.
                unsafe { self.frame() }.load(from, dst);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// # Errors
    /// As [`DynptrKern::load`].
    fn store(&self, offset: u32, src: &[u8]) -> Result<(), Errno> {
        match self.slice(offset, src.len() as u32) {
            Ok(to) => {
                // SAFETY: as in `load`; the memory is writable, because the dynptr is not read-only.
                unsafe { std::ptr::copy(src.as_ptr(), to, src.len()) };
                Ok(())
            }
            Err(Errno::EFAULT) => {
                let to = self.scattered(offset, src.len() as u32)?;
                // SAFETY: 1. it is a frame.
                unsafe { self.frame() }.store(to, src);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// Lets `write` set `len` bytes.
    ///
    /// # Errors
    /// EINVAL: read-only. As [`DynptrKern::load`], and what `write` answers.
    pub(crate) fn fill(
        &self,
        offset: u32,
        len: u32,
        write: impl FnOnce(&mut [u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        if self.is_rdonly() {
            return Err(Errno::EINVAL);
        }
        self.check_range(offset, len)?;
        if self.is_null() {
            return Ok(());
        }
        match self.slice(offset, len) {
            // SAFETY: 1. as in `store`.
            Ok(to) => write(unsafe { bytes_mut(to, len) }),
            Err(_) => {
                let mut bytes = vec![0; len as usize];
                self.load(offset, &mut bytes)?;
                write(&mut bytes)?;
                self.store(offset, &bytes)
            }
        }
    }

    /// Cuts it to the bytes from `start` to before `end`.
    ///
    /// # Errors
    /// EINVAL: null, or the end is before the start. ERANGE: beyond its end.
    pub(crate) fn adjust(&mut self, start: u32, end: u32) -> Result<(), Errno> {
        if self.is_null() || start > end {
            return Err(Errno::EINVAL);
        }
        if end > self.size() {
            return Err(Errno::ERANGE);
        }
        self.offset += start;
        self.size_word = self.size_word & !SIZE_MAX | (end - start);
        Ok(())
    }

    /// Copies bytes of another one, which may overlap.
    ///
    /// # Errors
    /// EINVAL: one is null, or this one read-only. E2BIG: beyond the end of one.
    pub(crate) fn copy_from(
        &self,
        offset: u32,
        src: &DynptrKern,
        src_offset: u32,
        len: u32,
    ) -> Result<(), Errno> {
        let mut bytes = vec![0; len.min(src.size()) as usize];
        let can_store = !self.is_null() && !self.is_rdonly();
        let can_load = !src.is_null() && src.check_range(src_offset, len).is_ok();
        let can_store = can_store && self.check_range(offset, len).is_ok();
        if !can_load && !can_store {
            return Err(Errno::E2BIG);
        }
        if src.is_null() {
            return Err(Errno::EINVAL);
        }
        src.check_range(src_offset, len)?;
        src.load(src_offset, &mut bytes)?;
        write(self, offset, &bytes, 0)
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
pub(crate) fn make(out: &mut DynptrKern, made: Result<DynptrKern, Errno>) -> Result<(), Errno> {
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
    if src.is_null() || flags != 0 {
        return Err(Errno::EINVAL);
    }
    src.load(offset, dst)
}

fn write(dst: &DynptrKern, offset: u32, src: &[u8], flags: u64) -> Result<(), Errno> {
    if dst.is_null() || dst.is_rdonly() {
        return Err(Errno::EINVAL);
    }
    dst.check_range(offset, src.len() as u32)?;
    if dst.kind() == TYPE_SKB {
        if flags & !SKB_WRITE_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & INVALIDATE_HASH != 0 {
            let skb = std::ptr::with_exposed_provenance_mut::<Skb>(dst.data as usize);
            // SAFETY: 1. as for frames.
            unsafe { (*skb).clear_hash() };
        }
    } else if flags != 0 {
        return Err(Errno::EINVAL);
    }
    dst.store(offset, src)
}

fn data(ptr: &DynptrKern, offset: u32, len: u32) -> *mut u8 {
    let is_memory = matches!(ptr.kind(), TYPE_LOCAL | TYPE_RINGBUF);
    if ptr.is_null() || ptr.is_rdonly() || !is_memory {
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
