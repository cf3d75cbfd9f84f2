//! The bytes of a BTF blob: header fields, words, NUL-terminated strings. Nothing is interpreted here.
//!
//! Numbers are little-endian; a blob of the other byte order is refused by its magic.

use crate::BtfError;
use alloc::format;
use ring3_uapi::Errno;

/// The first two bytes of every BTF blob, as a number.
pub const MAGIC: u16 = 0xeb9f;
/// The only version there is.
pub const VERSION: u8 = 1;
/// Bytes of the header of Linux 6.18.
pub const HEADER_BYTES: usize = 24;

/// The header of a blob; offsets count from the end of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`]
    pub magic: u16,
    /// [`VERSION`]
    pub version: u8,
    /// zero
    pub flags: u8,
    /// bytes of the header
    pub hdr_len: u32,
    /// offset of the type section
    pub type_off: u32,
    /// bytes of the type section
    pub type_len: u32,
    /// offset of the string section
    pub str_off: u32,
    /// bytes of the string section
    pub str_len: u32,
}

impl Header {
    /// Reads the 24 bytes of the header.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let magic = u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]);
        Some(Header {
            magic,
            version: *bytes.get(2)?,
            flags: *bytes.get(3)?,
            hdr_len: u32_at(bytes, 4)?,
            type_off: u32_at(bytes, 8)?,
            type_len: u32_at(bytes, 12)?,
            str_off: u32_at(bytes, 16)?,
            str_len: u32_at(bytes, 20)?,
        })
    }

    /// The bytes of this header.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..2].copy_from_slice(&self.magic.to_le_bytes());
        out[2] = self.version;
        out[3] = self.flags;
        for (slot, word) in [
            self.hdr_len,
            self.type_off,
            self.type_len,
            self.str_off,
            self.str_len,
        ]
        .into_iter()
        .enumerate()
        {
            out[4 + slot * 4..8 + slot * 4].copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

/// The little-endian word at byte `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// The string at byte `offset`, without its NUL; `None` outside of the section or without a NUL.
pub(crate) fn str_at(strings: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = strings.get(offset..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(&rest[..end])
}

/// The longest UTF-8 prefix of `bytes`.
pub(crate) fn as_str(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    }
}

/// The two sections of a blob as byte ranges of it.
pub(crate) struct Sections {
    pub(crate) types: core::ops::Range<usize>,
    pub(crate) strings: core::ops::Range<usize>,
}

/// Reads the header and bounds both sections, as loosely as a reader of object files may.
///
/// A split blob may have an empty string section.
pub(crate) fn sections(bytes: &[u8], is_split: bool) -> Result<Sections, BtfError> {
    let inval = |message| Err(BtfError::new(Errno::EINVAL, message));
    let Some(header) = Header::read(bytes) else {
        return inval(format!(
            "btf: {} bytes, a header has {HEADER_BYTES}",
            bytes.len()
        ));
    };
    if header.magic == MAGIC.swap_bytes() {
        return Err(BtfError::new(
            Errno::ENOTSUPP,
            "btf: big-endian blob on a little-endian target",
        ));
    }
    if header.magic != MAGIC {
        return inval(format!(
            "btf: magic {:#x}, expected {MAGIC:#x}",
            header.magic
        ));
    }
    if header.version != VERSION {
        return inval(format!(
            "btf: version {}, expected {VERSION}",
            header.version
        ));
    }
    if header.flags != 0 {
        return inval(format!("btf: flags {:#x}, expected 0", header.flags));
    }
    let hdr_len = header.hdr_len as usize;
    if hdr_len < HEADER_BYTES || hdr_len > bytes.len() {
        return inval(format!(
            "btf: header length {hdr_len} in a blob of {} bytes",
            bytes.len()
        ));
    }
    let range = |what: &str, offset: u32, len: u32| {
        let start = hdr_len.checked_add(offset as usize);
        let end = start.and_then(|start| start.checked_add(len as usize));
        match (start, end) {
            (Some(start), Some(end)) if end <= bytes.len() => Ok(start..end),
            _ => Err(BtfError::new(
                Errno::EINVAL,
                format!("btf: {what} section at {offset} of {len} bytes ends outside of the blob"),
            )),
        }
    };
    let types = range("type", header.type_off, header.type_len)?;
    let strings = range("string", header.str_off, header.str_len)?;
    if header.type_off % 4 != 0 {
        return inval(format!(
            "btf: type section at {}, expected a multiple of 4",
            header.type_off
        ));
    }
    match &bytes[strings.clone()] {
        [] if is_split => {}
        [first, .., last] if (*first == 0 || is_split) && *last == 0 => {}
        [0] => {}
        _ => {
            return inval(format!(
                "btf: string section of {} bytes does not begin and end with NUL",
                header.str_len
            ));
        }
    }
    Ok(Sections { types, strings })
}
