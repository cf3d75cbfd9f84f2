//! Strings at any address: `bpf_strcmp`, `bpf_strlen`, `bpf_strstr` and the like. The verifier does not look at their pointers, so that every byte is read
//! as `bpf_probe_read_kernel` reads.

use ring3_runtime::extable;
use ring3_uapi::Errno;

use super::{OrErrno, kfuncs};
use crate::memory::kernel_errno;

/// Longest string that is looked at. Source: `XATTR_SIZE_MAX`.
const BYTES_MAX: u64 = 65_536;
/// Bytes that are read at once; a piece lies in one page.
const PIECE_BYTES: u64 = 64;

/// A string that is read as far as it is looked at.
struct Text {
    address: u64,
    piece: [u8; PIECE_BYTES as usize],
    /// Address of the piece, 0 for none yet.
    piece_at: u64,
}

impl Text {
    /// # Errors
    /// As [`Text::at`]: the first byte is looked at whatever is asked.
    fn new(address: u64) -> Result<Text, Errno> {
        let mut text = Text {
            address,
            piece: [0; PIECE_BYTES as usize],
            piece_at: 0,
        };
        text.at(0)?;
        Ok(text)
    }

    /// # Errors
    /// EFAULT, ERANGE: the byte cannot be read.
    fn at(&mut self, index: u64) -> Result<u8, Errno> {
        let address = self.address.wrapping_add(index);
        let piece_at = address & !(PIECE_BYTES - 1);
        if piece_at == 0 {
            return Err(kernel_errno(address));
        }
        if piece_at != self.piece_at {
            // SAFETY: 1. the piece is writable for its length.
            let is_read =
                unsafe { extable::probe_copy(self.piece.as_mut_ptr(), piece_at, self.piece.len()) };
            if !is_read {
                self.piece_at = 0;
                return Err(kernel_errno(address));
            }
            self.piece_at = piece_at;
        }
        Ok(self.piece[(address - piece_at) as usize])
    }
}

/// -1, 0 or 1.
///
/// # Errors
/// As [`Text::at`]. E2BIG: equal up to the longest string.
fn compare(a: u64, b: u64, fold: fn(u8) -> u8) -> Result<u64, Errno> {
    let (mut a, mut b) = (Text::new(a)?, Text::new(b)?);
    for index in 0..BYTES_MAX {
        let (left, right) = (fold(a.at(index)?), fold(b.at(index)?));
        if left != right {
            return Ok(if left < right { -1i64 as u64 } else { 1 });
        }
        if left == 0 {
            return Ok(0);
        }
    }
    Err(Errno::E2BIG)
}

/// Bytes before the NUL, at most `count`.
fn length(text: u64, count: u64) -> Result<u64, Errno> {
    let mut text = Text::new(text)?;
    let end = count.min(BYTES_MAX);
    for index in 0..end {
        if text.at(index)? == 0 {
            return Ok(index);
        }
    }
    if end == BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    Ok(end)
}

/// Where a byte stands first among `count`; the NUL can be looked for.
fn find(text: u64, count: u64, wanted: u8) -> Result<u64, Errno> {
    let mut text = Text::new(text)?;
    let end = count.min(BYTES_MAX);
    for index in 0..end {
        match text.at(index)? {
            byte if byte == wanted => return Ok(index),
            0 => return Err(Errno::ENOENT),
            _ => {}
        }
    }
    Err(if end == BYTES_MAX {
        Errno::E2BIG
    } else {
        Errno::ENOENT
    })
}

fn find_or_end(text: u64, wanted: u8) -> Result<u64, Errno> {
    let mut text = Text::new(text)?;
    for index in 0..BYTES_MAX {
        let byte = text.at(index)?;
        if byte == wanted || byte == 0 {
            return Ok(index);
        }
    }
    Err(Errno::E2BIG)
}

fn find_last(text: u64, wanted: u8) -> Result<u64, Errno> {
    let mut text = Text::new(text)?;
    let mut last = Err(Errno::ENOENT);
    for index in 0..BYTES_MAX {
        let byte = text.at(index)?;
        if byte == wanted {
            last = Ok(index);
        }
        if byte == 0 {
            return last;
        }
    }
    Err(Errno::E2BIG)
}

/// Bytes at the beginning that are all in the set (`inside`), or all not.
fn span(text: u64, set: u64, inside: bool) -> Result<u64, Errno> {
    let (mut text, mut set) = (Text::new(text)?, Text::new(set)?);
    for index in 0..BYTES_MAX {
        let byte = text.at(index)?;
        if byte == 0 {
            return Ok(index);
        }
        let mut is_member = false;
        for member in 0.. {
            if member == BYTES_MAX {
                return Err(Errno::E2BIG);
            }
            match set.at(member)? {
                0 => break,
                other if other == byte => {
                    is_member = true;
                    break;
                }
                _ => {}
            }
        }
        if is_member != inside {
            return Ok(index);
        }
    }
    Err(Errno::E2BIG)
}

/// Where `needle` begins first in the first `count` bytes.
fn find_text(text: u64, needle: u64, count: u64) -> Result<u64, Errno> {
    let (mut text, mut needle) = (Text::new(text)?, Text::new(needle)?);
    for start in 0..BYTES_MAX {
        for index in 0.. {
            if index == BYTES_MAX {
                return Err(Errno::E2BIG);
            }
            let wanted = needle.at(index)?;
            if wanted == 0 {
                return Ok(start);
            }
            // What is needed of the text lies behind its end.
            if start.saturating_add(index) >= count {
                return Err(Errno::ENOENT);
            }
            let byte = text.at(start + index)?;
            if byte == 0 {
                return Err(Errno::ENOENT);
            }
            if byte != wanted {
                break;
            }
        }
    }
    Err(Errno::E2BIG)
}

kfuncs! { ROWS(Plain):
    bpf_strcmp(a: u64, b: u64) { OrErrno(compare(a, b, |byte| byte)) }
    bpf_strcasecmp(a: u64, b: u64) { OrErrno(compare(a, b, |byte| byte.to_ascii_lowercase())) }
    bpf_strlen(text: u64) { OrErrno(length(text, u64::MAX)) }
    bpf_strnlen(text: u64, count: u64) { OrErrno(length(text, count)) }
    bpf_strchr(text: u64, wanted: u8) { OrErrno(find(text, u64::MAX, wanted)) }
    bpf_strnchr(text: u64, count: u64, wanted: u8) { OrErrno(find(text, count, wanted)) }
    bpf_strchrnul(text: u64, wanted: u8) { OrErrno(find_or_end(text, wanted)) }
    bpf_strrchr(text: u64, wanted: u8) { OrErrno(find_last(text, wanted)) }
    bpf_strspn(text: u64, accepted: u64) { OrErrno(span(text, accepted, true)) }
    bpf_strcspn(text: u64, rejected: u64) { OrErrno(span(text, rejected, false)) }
    bpf_strstr(text: u64, needle: u64) { OrErrno(find_text(text, needle, u64::MAX)) }
    bpf_strnstr(text: u64, needle: u64, count: u64) { OrErrno(find_text(text, needle, count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &[u8]) -> u64 {
        text.as_ptr().expose_provenance() as u64
    }

    #[test]
    fn texts_are_read_as_far_as_needed() {
        let long = [vec![b'a'; 70_000], vec![0]].concat();
        let long = address(&long);
        assert_eq!(length(long, u64::MAX), Err(Errno::E2BIG));
        assert_eq!(length(long, 100), Ok(100));
        assert_eq!(compare(long, long, |byte| byte), Err(Errno::E2BIG));
        assert_eq!(find(long, u64::MAX, b'b'), Err(Errno::E2BIG));
        assert_eq!(find(long, 9, b'b'), Err(Errno::ENOENT));
        assert_eq!(find_or_end(long, b'b'), Err(Errno::E2BIG));
        assert_eq!(find_last(long, b'b'), Err(Errno::E2BIG));
        assert_eq!(compare(8, long, |byte| byte), Err(Errno::ERANGE));
        assert_eq!(length(u64::MAX - 4096, 1), Err(Errno::EFAULT));
        assert_eq!(find_text(address(b"abcabd\0"), address(b"abd\0"), 6), Ok(3));
        assert_eq!(
            find_text(address(b"abcabd\0"), address(b"abd\0"), 5),
            Err(Errno::ENOENT)
        );
    }
}
