//! Values by their type: `bpf_snprintf_btf`, `bpf_seq_printf_btf`. Types are those of the program's system, which the linked program hands over.

use std::fmt::{self, Write};

use ring3_btf::{Btf, Notation, ShowError, ShownMemory, TypeId, show_value};
use ring3_runtime::extable;
use ring3_uapi::Errno;

use crate::bind::{bytes, bytes_mut, implement};
use crate::iterator::{OBJECT_BYTES_MAX, append_to_text};

/// Bytes of `struct btf_ptr`: address, type, flags that mean nothing yet.
const BTF_PTR_BYTES: usize = 16;
/// Bytes of a value that must be readable before any of it is written. Source: `BTF_SHOW_OBJ_SAFE_SIZE`.
const FIRST_BYTES: usize = 32;
/// What the kernel tells from other addresses that cannot be read.
const NULL_PAGE_BYTES: u64 = 4096;

/// The value that a `struct btf_ptr` names.
struct Shown<'a> {
    btf: &'a Btf,
    ty: TypeId,
    address: u64,
    notation: Notation,
}

impl ShownMemory for Shown<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let address = self.address.wrapping_add(offset as u64);
        // SAFETY: 1. the slice is writable for its length.
        unsafe { extable::probe_copy(into.as_mut_ptr(), address, into.len()) }
    }
}

impl<'a> Shown<'a> {
    /// # Errors
    /// EINVAL: unknown flags, another size than `struct btf_ptr`'s, no type, or no types at all. ENOENT: a type that is not there.
    fn of(btf: Option<&'a Btf>, btf_ptr: &[u8], flags: u64) -> Result<Shown<'a>, Errno> {
        let btf = btf.ok_or(Errno::EINVAL)?;
        let notation = Notation::from_flags(flags).ok_or(Errno::EINVAL)?;
        if btf_ptr.len() != BTF_PTR_BYTES {
            return Err(Errno::EINVAL);
        }
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| btf_ptr[at + byte]));
        let (address, ty) = (word(0), TypeId(word(8) as u32));
        if ty == TypeId(0) {
            return Err(Errno::EINVAL);
        }
        if btf.type_by_id(ty).is_none() {
            return Err(Errno::ENOENT);
        }
        Ok(Shown {
            btf,
            ty,
            address,
            notation,
        })
    }

    /// # Errors
    /// ERANGE, EFAULT: memory that cannot be read, in the first page and elsewhere; what comes before is written.
    fn write(&self, out: &mut dyn Write) -> Result<(), Errno> {
        // DIVERGES: a variable, a section or nothing as a type is EINVAL; Linux 6.18 dereferences a null pointer.
        let errno = |error| match error {
            ShowError::Unreadable if self.address < NULL_PAGE_BYTES => Errno::ERANGE,
            ShowError::Unreadable => Errno::EFAULT,
            ShowError::NoValue => Errno::EINVAL,
        };
        let bytes = self.btf.resolve_size(self.ty).unwrap_or(0) as usize;
        if !self.read(0, &mut [0; FIRST_BYTES][..bytes.min(FIRST_BYTES)]) {
            return Err(errno(ShowError::Unreadable));
        }
        show_value(self.btf, self.ty, self, self.notation, out).map_err(errno)
    }
}

/// Keeps what fits, with a NUL, and counts all. Characters are the bytes of their numbers.
struct Cut<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.out.len().saturating_sub(1);
        for byte in text.chars().map(|char| char as u32 as u8) {
            if self.len < room {
                self.out[self.len] = byte;
            }
            self.len += 1;
        }
        if let Some(end) = self.out.get_mut(self.len.min(room)) {
            *end = 0;
        }
        Ok(())
    }
}

/// The text for an iterator; of one that has too much, enough to see that.
struct Bytes(Vec<u8>);

impl Write for Bytes {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() <= OBJECT_BYTES_MAX {
            self.0.extend(text.chars().map(|char| char as u32 as u8));
        }
        Ok(())
    }
}

/// The bytes of the whole text, without its NUL.
fn snprintf(out: &mut [u8], btf: Option<&Btf>, btf_ptr: &[u8], flags: u64) -> Result<u64, Errno> {
    let shown = Shown::of(btf, btf_ptr, flags)?;
    let mut cut = Cut { out, len: 0 };
    shown.write(&mut cut)?;
    Ok(cut.len as u64)
}

/// # Errors
/// As [`Shown::of`] and [`Shown::write`]. EINVAL: no iterator runs. Too much text is no error of the call, but of reading the iterator.
fn seq_printf(btf: Option<&Btf>, btf_ptr: &[u8], flags: u64) -> Result<(), Errno> {
    let shown = Shown::of(btf, btf_ptr, flags)?;
    let mut text = Bytes(Vec::new());
    let shown = shown.write(&mut text);
    match append_to_text(&text.0) {
        Ok(()) | Err(Errno::EOVERFLOW) => shown,
        Err(errno) => Err(errno),
    }
}

/// The types that a call was given.
///
/// # Safety
/// The word is of kind `Given::KernelTypes`.
unsafe fn types<'a>(word: u64) -> Option<&'a Btf> {
    // SAFETY: 1. null, or a `Btf` that outlives the program's run.
    unsafe { std::ptr::with_exposed_provenance::<Btf>(word as usize).as_ref() }
}

implement! { ROWS:
    SnprintfBtf{given}(out: *mut u8, size: u32, ptr: *const u8, ptr_size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size, twice; 2. who linked the program gave the types.
        let (out, ptr, types) = unsafe { (bytes_mut(out, size), bytes(ptr, ptr_size), types(given)) };
        snprintf(out, types, ptr, flags)
    }
    SeqPrintfBtf{given}(_seq: u64, ptr: *const u8, ptr_size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size; 2. who linked the program gave the types.
        let (ptr, types) = unsafe { (bytes(ptr, ptr_size), types(given)) };
        seq_printf(types, ptr, flags)
    }
}

#[cfg(test)]
mod tests {
    use ring3_btf::{Builder, IntEncoding, Kind};

    use super::*;

    fn types() -> Btf {
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        builder.add_struct("pair", 8, &[("a", int, 0), ("b", int, 32)]);
        Btf::parse(&builder.finish()).unwrap()
    }

    fn btf_ptr(address: u64, ty: TypeId) -> [u8; BTF_PTR_BYTES] {
        let mut bytes = [0; BTF_PTR_BYTES];
        bytes[..8].copy_from_slice(&address.to_ne_bytes());
        bytes[8..12].copy_from_slice(&ty.0.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_value_is_cut_to_its_buffer_and_counted_whole() {
        let btf = types();
        let pair = btf.find_by_name_kind("pair", Kind::Struct).unwrap();
        let value = [7i32, -1];
        let ptr = btf_ptr(value.as_ptr().expose_provenance() as u64, pair);
        let text = b"(struct pair){.a = (int)7,.b = (int)-1,}";
        let mut out = [0xaa; 64];
        let len = snprintf(&mut out, Some(&btf), &ptr, 1);
        assert_eq!(len, Ok(text.len() as u64));
        assert_eq!(&out[..=text.len()], [&text[..], b"\0"].concat());
        assert_eq!(out[text.len() + 1], 0xaa);
        let mut out = [0xaa; 8];
        let len = snprintf(&mut out[..5], Some(&btf), &ptr, 1);
        assert_eq!(len, Ok(text.len() as u64));
        assert_eq!(&out, b"(str\0\xaa\xaa\xaa");
    }

    #[test]
    fn what_names_no_value_is_refused_and_writes_nothing() {
        let btf = types();
        let pair = btf.find_by_name_kind("pair", Kind::Struct).unwrap();
        let value = 7u64;
        let address = std::ptr::from_ref(&value).expose_provenance() as u64;
        let ptr = btf_ptr(address, TypeId(1));
        let answer = |btf: Option<&Btf>, ptr: &[u8], flags| {
            let mut out = [0xaa; 16];
            let errno = snprintf(&mut out, btf, ptr, flags).unwrap_err();
            assert_eq!(out, [0xaa; 16]);
            errno
        };
        assert_eq!(answer(None, &ptr, 0), Errno::EINVAL);
        assert_eq!(answer(Some(&btf), &ptr, 16), Errno::EINVAL);
        assert_eq!(answer(Some(&btf), &ptr[..8], 0), Errno::EINVAL);
        let of = |address, ty| btf_ptr(address, TypeId(ty));
        assert_eq!(answer(Some(&btf), &of(address, 0), 0), Errno::EINVAL);
        assert_eq!(answer(Some(&btf), &of(address, 99), 0), Errno::ENOENT);
        assert_eq!(answer(Some(&btf), &of(0, 1), 0), Errno::ERANGE);
        assert_eq!(answer(Some(&btf), &of(1 << 63, 1), 0), Errno::EFAULT);
        assert_eq!(answer(Some(&btf), &of(1 << 63, pair.0), 0), Errno::EFAULT);
    }

    #[test]
    fn without_an_iterator_there_is_no_text() {
        let btf = types();
        let value = 7u64;
        let ptr = btf_ptr(
            std::ptr::from_ref(&value).expose_provenance() as u64,
            TypeId(1),
        );
        assert_eq!(seq_printf(Some(&btf), &ptr, 0), Err(Errno::EINVAL));
    }
}
