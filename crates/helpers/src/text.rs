//! Strings: numbers from text, comparison, `bpf_snprintf`.

use std::ffi::CStr;

use ring3_uapi::Errno;

use crate::bind::{bytes, bytes_mut, implement};
use crate::format::{ArgWords, format};

/// The base lies in the low five bits of `bpf_strtol`'s flags.
const BASE_MASK: u64 = 0x1f;
/// Characters of a number that are looked at. Source: `BPF_STRTOX`: a buffer of 64 with its NUL.
const NUMBER_BYTES_MAX: usize = 63;

/// A number in text: its sign, its magnitude, and the characters up to its end.
#[derive(Debug, PartialEq, Eq)]
struct Number {
    is_negative: bool,
    magnitude: u64,
    consumed: usize,
}

/// # Errors
/// EINVAL: an unknown base or flag, or no digit. ERANGE: more than 64 bits.
fn parse(text: &[u8], flags: u64) -> Result<Number, Errno> {
    let base = (flags & BASE_MASK) as u32;
    if flags & !BASE_MASK != 0 || !matches!(base, 0 | 8 | 10 | 16) {
        return Err(Errno::EINVAL);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | 9..=13 | 0xa0);
    let mut consumed = text.iter().take_while(|byte| is_space(byte)).count();
    let is_negative = text.get(consumed) == Some(&b'-');
    consumed += usize::from(is_negative);
    let rest = &text[consumed..];
    let rest = &rest[..rest.len().min(NUMBER_BYTES_MAX)];
    let (base, prefix) = base_and_prefix(rest, base);
    consumed += prefix;
    let mut magnitude = Some(0u64);
    let mut digits = 0;
    for &byte in &rest[prefix..] {
        let Some(digit) = char::from(byte).to_digit(base) else {
            break;
        };
        digits += 1;
        magnitude = magnitude
            .and_then(|value| value.checked_mul(u64::from(base)))
            .and_then(|value| value.checked_add(u64::from(digit)));
    }
    if digits == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Number {
        is_negative,
        magnitude: magnitude.ok_or(Errno::ERANGE)?,
        consumed: consumed + digits,
    })
}

/// Base 0 is told by the text: `0x` and a hexadecimal digit is 16, `0` is 8.
fn base_and_prefix(text: &[u8], base: u32) -> (u32, usize) {
    let has_0x = matches!(text, [b'0', b'x' | b'X', ..]);
    match base {
        0 if has_0x && text.get(2).is_some_and(u8::is_ascii_hexdigit) => (16, 2),
        0 if text.first() == Some(&b'0') => (8, 0),
        0 => (10, 0),
        16 if has_0x => (16, 2),
        _ => (base, 0),
    }
}

fn strtol(text: &[u8], flags: u64) -> Result<(i64, u64), Errno> {
    let number = parse(text, flags)?;
    let value = if number.is_negative {
        0i64.checked_sub_unsigned(number.magnitude)
    } else {
        i64::try_from(number.magnitude).ok()
    };
    Ok((value.ok_or(Errno::ERANGE)?, number.consumed as u64))
}

fn strtoul(text: &[u8], flags: u64) -> Result<(u64, u64), Errno> {
    let number = parse(text, flags)?;
    if number.is_negative {
        return Err(Errno::EINVAL);
    }
    Ok((number.magnitude, number.consumed as u64))
}

/// -1, 0 or 1 as the first differing byte decides; ends at a NUL.
fn strncmp(a: &[u8], b: &CStr) -> i64 {
    for (&a, &b) in a.iter().zip(b.to_bytes_with_nul()) {
        if a != b {
            return if a < b { -1 } else { 1 };
        }
        if a == 0 {
            break;
        }
    }
    0
}

/// The length of the whole text with its NUL.
fn snprintf(out: &mut [u8], fmt: &CStr, args: &[u64]) -> Result<u64, Errno> {
    let limit = out.len().saturating_sub(1);
    let text = format(fmt.to_bytes_with_nul(), args, limit)?;
    if !out.is_empty() {
        out[..text.kept.len()].copy_from_slice(&text.kept);
        out[text.kept.len()] = 0;
    }
    Ok(text.len as u64 + 1)
}

implement! { ROWS:
    Strtol(buf: *const u8, len: u32, flags: u64, result: *mut u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let parsed = strtol(unsafe { bytes(buf, len) }, flags);
        // SAFETY: 1. ARG_PTR_TO_FIXED_SIZE_MEM of 8 bytes, aligned.
        unsafe { result.write(parsed.map_or(0, |(value, _)| value as u64)) };
        parsed.map(|(_, consumed)| consumed)
    }
    Strtoul(buf: *const u8, len: u32, flags: u64, result: *mut u64) {
        // SAFETY: as above.
        let parsed = strtoul(unsafe { bytes(buf, len) }, flags);
        // SAFETY: as above.
        unsafe { result.write(parsed.map_or(0, |(value, _)| value)) };
        parsed.map(|(_, consumed)| consumed)
    }
    Strncmp(s1: *const u8, size: u32, s2: *const u8) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size; 2. ARG_PTR_TO_CONST_STR: a string in a frozen map.
        unsafe { strncmp(bytes(s1, size), CStr::from_ptr(s2.cast())) }
    }
    Snprintf(out: *mut u8, size: u32, fmt: *const u8, data: *const u8, data_len: u32) {
        // SAFETY: 1. memory arguments with their sizes; 2. ARG_PTR_TO_CONST_STR: a string in a frozen map.
        let (out, fmt, data) = unsafe { (bytes_mut(out, size), CStr::from_ptr(fmt.cast()), bytes(data, data_len)) };
        ArgWords::new(data, data_len).and_then(|args| snprintf(out, fmt, args.words()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::FuncId;

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for (text, flags, expected) in [
            (&b"123"[..], 0, Ok((123, 3))),
            (b" \t-42xyz", 10, Ok((-42, 5))),
            (b"0x1fg", 0, Ok((31, 4))),
            (b"0X1f", 16, Ok((31, 4))),
            (b"017 ", 0, Ok((15, 3))),
            (b"08", 0, Ok((0, 1))),
            (b"0x", 0, Ok((0, 1))),
            (b"0x", 16, Err(Errno::EINVAL)),
            (b"-9223372036854775808", 0, Ok((i64::MIN, 20))),
            (b"-9223372036854775809", 0, Err(Errno::ERANGE)),
            (b"9223372036854775808", 0, Err(Errno::ERANGE)),
            (b"99999999999999999999", 0, Err(Errno::ERANGE)),
            (b"+1", 0, Err(Errno::EINVAL)),
            (b"- 1", 0, Err(Errno::EINVAL)),
            (b"   ", 0, Err(Errno::EINVAL)),
            (b"1", 2, Err(Errno::EINVAL)),
            (b"1", 32, Err(Errno::EINVAL)),
        ] {
            assert_eq!(strtol(text, flags), expected, "{text:?} {flags}");
        }
        assert_eq!(strtoul(b"18446744073709551615", 10), Ok((u64::MAX, 20)));
        assert_eq!(strtoul(b"-1", 10), Err(Errno::EINVAL));
    }

    #[test]
    fn errors_zero_the_result() {
        let code = crate::find(FuncId::Strtoul).unwrap();
        let text = b"x";
        let mut result = 7u64;
        let text_ptr = text.as_ptr().expose_provenance() as u64;
        let result_ptr = (&raw mut result).expose_provenance() as u64;
        // SAFETY: one byte of text and the result live.
        let ret = unsafe { code(text_ptr, 1, 0, result_ptr, 0) };
        assert_eq!((ret as i64, result), (Errno::EINVAL.negated(), 0));
    }

    #[test]
    fn comparison_ends_at_nul_or_size() {
        for (a, b, expected) in [
            (&b"abc"[..], c"abc", 0),
            (b"abc\0", c"abcd", -1),
            (b"ab", c"abcd", 0),
            (b"b", c"abc", 1),
            (b"abc\0x", c"abc", 0),
            (b"\xff", c"a", 1),
        ] {
            assert_eq!(strncmp(a, b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn snprintf_cuts_and_tells_the_whole_length() {
        let mut out = [9u8; 6];
        assert_eq!(snprintf(&mut out, c"%d-%d", &[123, 456]), Ok(8));
        assert_eq!(&out, b"123-4\0");
        assert_eq!(snprintf(&mut [], c"%d", &[12]), Ok(3));
        assert_eq!(snprintf(&mut out, c"%d", &[]), Err(Errno::EINVAL));
    }
}
