//! The format language of `bpf_trace_printk`, `bpf_trace_vprintk` and `bpf_snprintf`.
//!
//! ```text
//! %[0 +-]*[width] ( c | s | pks | pus | p | px | pK | ps | pS | pB | p{i,I}{4,6} | [l[l]]{d,i,u,x,X} )   %%
//! ```
//! A string is checked as a whole before anything is printed. Strings and numbers pass through a buffer of 512 bytes in the kernel, whose end is
//! an error here too.
//!
//! # Source
//! bpf-helpers(7); Documentation/core-api/printk-formats.rst.

use std::net::Ipv6Addr;

use ring3_runtime::extable;
use ring3_uapi::Errno;

use crate::memory::read_str;

/// Most values of one call. Source: `MAX_BPRINTF_VARARGS`.
const ARGS_MAX: usize = 12;
/// Bytes that the values of one call take up. Source: `MAX_BPRINTF_BIN_ARGS`.
const ARG_BYTES_MAX: usize = 512;
/// Source: `FIELD_WIDTH_MAX`.
const WIDTH_MAX: usize = (1 << 23) - 1;

/// The values of a call, from its array.
pub(crate) struct ArgWords {
    words: [u64; ARGS_MAX],
    count: usize,
}

impl ArgWords {
    /// `data` holds what could be read of the `len_bytes` that the program named.
    ///
    /// # Errors
    /// EINVAL: not whole words, more than twelve, or a length without memory.
    pub(crate) fn new(data: &[u8], len_bytes: u32) -> Result<Self, Errno> {
        let count = len_bytes as usize / 8;
        if !len_bytes.is_multiple_of(8) || count > ARGS_MAX || data.len() != len_bytes as usize {
            return Err(Errno::EINVAL);
        }
        let mut words = [0; ARGS_MAX];
        for (word, bytes) in words.iter_mut().zip(data.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(ArgWords { words, count })
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words[..self.count]
    }
}

/// A formatted text: its first bytes, and how long all of it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Formatted {
    /// The first bytes, as many as were asked for.
    pub(crate) kept: Vec<u8>,
    /// Bytes of the whole text.
    pub(crate) len: usize,
}

/// Counts all, keeps the first `limit` bytes: widths are the program's to choose.
struct Output {
    text: Formatted,
    limit: usize,
}

impl Output {
    fn fill(&mut self, byte: u8, count: usize) {
        let room = self.limit - self.text.kept.len();
        self.text
            .kept
            .extend(std::iter::repeat_n(byte, count.min(room)));
        self.text.len += count;
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = self.limit - self.text.kept.len();
        self.text
            .kept
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.text.len += bytes.len();
    }

    /// A prefix and a body in a field; zeroes go between the two.
    fn field(&mut self, spec: Spec, prefix: &[u8], body: &[u8]) {
        let pad = spec.width.saturating_sub(prefix.len() + body.len());
        if spec.is_left {
            self.put(prefix);
            self.put(body);
            self.fill(b' ', pad);
        } else if spec.is_zero_padded {
            self.put(prefix);
            self.fill(b'0', pad);
            self.put(body);
        } else {
            self.fill(b' ', pad);
            self.put(prefix);
            self.put(body);
        }
    }
}

/// Flags and width of a conversion.
#[derive(Clone, Copy, Default)]
struct Spec {
    is_zero_padded: bool,
    is_left: bool,
    has_plus: bool,
    has_space: bool,
    width: usize,
}

/// The kernel's buffer of values: how full it is.
#[derive(Default)]
struct ArgBuffer {
    used: usize,
}

impl ArgBuffer {
    /// Room for a number, aligned to four bytes.
    fn take(&mut self, bytes: usize) -> Result<(), Errno> {
        let end = self.used.next_multiple_of(4) + bytes;
        if end > ARG_BYTES_MAX {
            return Err(Errno::ENOSPC);
        }
        self.used = end;
        Ok(())
    }

    /// A string without its NUL; empty if its memory cannot be read.
    fn string(&mut self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut buffer = [0; ARG_BYTES_MAX];
        let room = &mut buffer[self.used..];
        if room.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let len = read_str(room, address).unwrap_or(1) as usize;
        self.used += len;
        Ok(room[..len.saturating_sub(1)].to_vec())
    }
}

/// A cursor over the format.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.0.get(ahead).copied().unwrap_or(0)
    }

    fn next_if(&mut self, accept: impl Fn(u8) -> bool) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        if !accept(first) {
            return None;
        }
        self.0 = rest;
        Some(first)
    }

    fn spec(&mut self) -> Spec {
        let mut spec = Spec::default();
        while let Some(flag) = self.next_if(|byte| b"0+- ".contains(&byte)) {
            match flag {
                b'0' => spec.is_zero_padded = true,
                b'+' => spec.has_plus = true,
                b'-' => spec.is_left = true,
                _ => spec.has_space = true,
            }
        }
        while let Some(digit) = self.next_if(|byte| byte.is_ascii_digit()) {
            spec.width = (spec.width * 10 + usize::from(digit - b'0')).min(WIDTH_MAX);
        }
        spec
    }
}

/// Formats `fmt` up to its NUL; keeps the first `limit` bytes.
///
/// # Errors
/// EINVAL: no terminating NUL, a byte that is neither printable ASCII nor white space, an unknown conversion, or more of them than
/// values. ENOSPC: the values take up more than 512 bytes.
pub(crate) fn format(fmt: &[u8], args: &[u64], limit: usize) -> Result<Formatted, Errno> {
    let nul = fmt.iter().position(|&byte| byte == 0);
    let mut fmt = Cursor(&fmt[..nul.ok_or(Errno::EINVAL)?]);
    let mut args = args.iter().copied();
    let mut buffer = ArgBuffer::default();
    let mut out = Output {
        text: Formatted {
            kept: Vec::new(),
            len: 0,
        },
        limit,
    };
    while let Some(byte) = fmt.next_if(|_| true) {
        if !byte.is_ascii_graphic() && !is_space(byte) {
            return Err(Errno::EINVAL);
        }
        if byte != b'%' {
            out.put(&[byte]);
            continue;
        }
        if fmt.next_if(|byte| byte == b'%').is_some() {
            out.put(b"%");
            continue;
        }
        let value = args.next().ok_or(Errno::EINVAL)?;
        conversion(&mut fmt, value, &mut buffer, &mut out)?;
    }
    Ok(out.text)
}

/// `isspace` of ASCII.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

fn conversion(
    fmt: &mut Cursor<'_>,
    value: u64,
    buffer: &mut ArgBuffer,
    out: &mut Output,
) -> Result<(), Errno> {
    let spec = fmt.spec();
    // Text is padded with spaces.
    let text_spec = Spec {
        is_zero_padded: false,
        ..spec
    };
    let mut longs = 0;
    while longs < 2 && fmt.next_if(|byte| byte == b'l').is_some() {
        longs += 1;
    }
    let what = fmt.next_if(|_| true).ok_or(Errno::EINVAL)?;
    match what {
        b's' if longs == 0 => out.field(text_spec, b"", &buffer.string(value)?),
        b'p' if longs == 0 => pointer(fmt, spec, value, buffer, out)?,
        b'c' if longs == 0 => {
            buffer.take(4)?;
            out.field(text_spec, b"", &[value as u8]);
        }
        b'd' | b'i' | b'u' | b'x' | b'X' => {
            buffer.take(if longs == 2 || longs == 1 { 8 } else { 4 })?;
            number(spec, what, longs > 0, value, out);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn number(spec: Spec, what: u8, is_long: bool, value: u64, out: &mut Output) {
    let (unsigned, signed) = if is_long {
        (value, value as i64)
    } else {
        (u64::from(value as u32), i64::from(value as i32))
    };
    let (sign, digits): (&[u8], String) = match what {
        b'd' | b'i' => {
            let sign: &[u8] = match spec {
                _ if signed < 0 => b"-",
                Spec { has_plus: true, .. } => b"+",
                Spec {
                    has_space: true, ..
                } => b" ",
                _ => b"",
            };
            (sign, signed.unsigned_abs().to_string())
        }
        b'u' => (b"", unsigned.to_string()),
        b'x' => (b"", format!("{unsigned:x}")),
        _ => (b"", format!("{unsigned:X}")),
    };
    out.field(spec, sign, digits.as_bytes());
}

/// What follows `%p`.
// DIVERGES: plain `%p` prints the address, not a hash of it: programs and host are one process, so there is nothing to hide.
fn pointer(
    fmt: &mut Cursor<'_>,
    spec: Spec,
    value: u64,
    buffer: &mut ArgBuffer,
    out: &mut Output,
) -> Result<(), Errno> {
    let text_spec = Spec {
        is_zero_padded: false,
        ..spec
    };
    match (fmt.peek(0), fmt.peek(1)) {
        (b'k' | b'u', b's') => {
            fmt.0 = &fmt.0[2..];
            out.field(text_spec, b"", &buffer.string(value)?);
            return Ok(());
        }
        (kind @ (b'i' | b'I'), version @ (b'4' | b'6')) => {
            let text = ip_address(kind, version, value, fmt.peek(2));
            buffer.take(text.len().next_multiple_of(4))?;
            out.field(text_spec, b"", text.as_bytes());
        }
        // Symbols: addresses of this process have no kernel symbol, and print as such.
        (b's' | b'S' | b'B', _) => {
            buffer.take(8)?;
            out.field(text_spec, b"", format!("{value:#x}").as_bytes());
        }
        (next, _)
            if next == 0
                || is_space(next)
                || next.is_ascii_punctuation()
                || matches!(next, b'x' | b'K') =>
        {
            buffer.take(8)?;
            let text = if spec.width == 0 {
                format!("{value:016x}")
            } else {
                format!("{value:x}")
            };
            out.field(spec, b"", text.as_bytes());
        }
        _ => return Err(Errno::EINVAL),
    }
    // Letters and digits behind a pointer belong to it.
    while fmt.next_if(|byte| byte.is_ascii_alphanumeric()).is_some() {}
    Ok(())
}

/// `%pI4 %pi4 %pI6 %pi6 %pI6c`; memory that cannot be read is zero.
fn ip_address(kind: u8, version: u8, address: u64, suffix: u8) -> String {
    let len = if version == b'4' { 4 } else { 16 };
    let mut octets = [0u8; 16];
    // SAFETY: 1. the array has 16 bytes.
    if !unsafe { extable::probe_copy(octets.as_mut_ptr(), address, len) } {
        octets.fill(0);
    }
    if version == b'4' {
        let [mut a, mut b, mut c, mut d] = [octets[0], octets[1], octets[2], octets[3]];
        if matches!(suffix, b'h' | b'l') {
            (a, b, c, d) = (d, c, b, a);
        }
        return if kind == b'I' {
            format!("{a}.{b}.{c}.{d}")
        } else {
            format!("{a:03}.{b:03}.{c:03}.{d:03}")
        };
    }
    if kind == b'I' && suffix == b'c' {
        return Ipv6Addr::from(octets).to_string();
    }
    let groups: Vec<String> = octets
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[high, low]| format!("{high:02x}{low:02x}"))
        .collect();
    groups.join(if kind == b'I' { ":" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fmt: &[u8], args: &[u64]) -> Result<String, Errno> {
        format(fmt, args, 256).map(|text| String::from_utf8(text.kept).unwrap())
    }

    fn address(bytes: &[u8]) -> u64 {
        bytes.as_ptr().expose_provenance() as u64
    }

    #[test]
    fn conversions_are_the_kernels() {
        let minus = -3i64 as u64;
        let string = address(b"text\0");
        let ipv4 = address(&[192, 168, 0, 1]);
        let ipv6 = address(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        for (fmt, args, expected) in [
            (&b"len %d cpu %u\0"[..], &[minus, 7][..], "len -3 cpu 7"),
            (
                b"%llx %08x %%\0",
                &[u64::MAX, 0xbeef],
                "ffffffffffffffff 0000beef %",
            ),
            (b"%d %lu\0", &[1 << 32 | 5, 1 << 32], "5 4294967296"),
            (
                b"[%5d|%-5d|%05d]\0",
                &[minus, minus, minus],
                "[   -3|-3   |-0003]",
            ),
            (b"%+d % d %+u %X\0", &[4, 4, 4, 0xab], "+4  4 4 AB"),
            (b"%c%6s|%-6s|\0", &[0x41, string, string], "A  text|text  |"),
            (b"%pks %pus %s\0", &[string, string, 8], "text text "),
            (b"%px,%ps\0", &[0x1000, 0x1000], "0000000000001000,0x1000"),
            (b"%pI4 %pi4\0", &[ipv4, ipv4], "192.168.0.1 192.168.000.001"),
            (b"%pI6c\0", &[ipv6], "2001:db8::1"),
            (
                b"%pI6\0",
                &[ipv6],
                "2001:0db8:0000:0000:0000:0000:0000:0001",
            ),
            (b"%pi6\0", &[ipv6], "20010db8000000000000000000000001"),
        ] {
            assert_eq!(text(fmt, args).unwrap(), expected);
        }
    }

    #[test]
    fn formats_that_make_no_sense_are_refused() {
        for (fmt, args) in [
            (&b"%d %d\0"[..], &[0][..]),
            (b"%z\0", &[0]),
            (b"%\0", &[0]),
            (b"%.3d\0", &[0]),
            (b"%ls\0", &[0]),
            (b"%lld%lll\0", &[0, 0]),
            (b"%pz\0", &[0]),
            (b"%pI5\0", &[0]),
            (b"no end", &[]),
            (b"\x01\0", &[]),
            (b"\xc3\xa4\0", &[]),
        ] {
            assert_eq!(text(fmt, args), Err(Errno::EINVAL), "{fmt:?}");
        }
    }

    #[test]
    fn widths_and_values_are_bounded() {
        let wide = format(b"%99999999d\0", &[1], 100).unwrap();
        assert_eq!((wide.kept.len(), wide.len), (100, WIDTH_MAX));
        let long = [b'a'; 600];
        let cut = format(b"%s\0", &[address(&long)], 1000).unwrap();
        assert_eq!(cut.len, ARG_BYTES_MAX - 1);
        assert_eq!(
            format(b"%s%d\0", &[address(&long), 1], 1000),
            Err(Errno::ENOSPC)
        );
        assert!(ArgWords::new(&[0; 96], 96).is_ok());
        assert!(ArgWords::new(&[], 8).is_err());
    }
}
