//! Format strings of `bpf_snprintf`, which must be right before the program runs.
//!
//! Kernel counterpart: `bpf_bprintf_prepare`. Neighbours: `helper`.

use ring3_uapi::Errno;

/// Checks a format (without its final 0) that is given `values` numbers.
///
/// # Errors
/// EINVAL: a character that is no text, a conversion that is not supported, more conversions than values.
pub(crate) fn check_format(format: &[u8], values: u64) -> Result<(), Errno> {
    let mut rest = format;
    let mut used = 0;
    while let Some((&byte, tail)) = rest.split_first() {
        if !is_text(byte) {
            return Err(Errno::EINVAL);
        }
        rest = tail;
        if byte != b'%' {
            continue;
        }
        if let [b'%', tail @ ..] = rest {
            rest = tail;
            continue;
        }
        if used >= values {
            return Err(Errno::EINVAL);
        }
        used += 1;
        rest = skip_conversion(skip_width(rest)).ok_or(Errno::EINVAL)?;
    }
    Ok(())
}

fn is_text(byte: u8) -> bool {
    byte.is_ascii_graphic() || is_space(byte)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Whether a conversion that takes what follows for modifiers ends here.
fn ends_word(rest: &[u8]) -> bool {
    rest.first()
        .is_none_or(|&byte| is_space(byte) || byte.is_ascii_punctuation())
}

/// `[0 +-]*` and a number that does not start with 0.
fn skip_width(rest: &[u8]) -> &[u8] {
    let flags = rest
        .iter()
        .take_while(|byte| matches!(byte, b'0' | b'+' | b'-' | b' '))
        .count();
    let rest = &rest[flags..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // A leading 0 was a flag.
    &rest[digits..]
}

/// What follows a supported conversion.
fn skip_conversion(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [b'p', b'k' | b'u', b's', tail @ ..] => ends_word(tail).then_some(tail),
        [b'p', tail] if is_space(*tail) || tail.is_ascii_punctuation() => Some(&rest[1..]),
        [b'p', tail @ ..] if ends_word(tail) => Some(tail),
        [b'p', b'K' | b'x' | b's' | b'S', ..] => Some(&rest[1..]),
        [b'p', b'B', tail @ ..] => Some(tail),
        [b'p', b'i' | b'I', b'4' | b'6', tail @ ..] => Some(tail),
        [b's', tail @ ..] => ends_word(tail).then_some(tail),
        [b'c', tail @ ..] => Some(tail),
        [b'l', b'l', b'i' | b'd' | b'u' | b'x' | b'X', tail @ ..]
        | [b'l', b'i' | b'd' | b'u' | b'x' | b'X', tail @ ..]
        | [b'i' | b'd' | b'u' | b'x' | b'X', tail @ ..] => Some(tail),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_take_one_value_each() {
        assert_eq!(check_format(b"%d %u %x %li %llx %%", 5), Ok(()));
        assert_eq!(check_format(b"%d %u %x %li %llx %%", 4), Err(Errno::EINVAL));
        assert_eq!(
            check_format(b"%-10s|%+5d %p %pK %pS %pi4 %pI6 %pB %pks", 9),
            Ok(())
        );
    }

    #[test]
    fn unsupported_ones_are_refused() {
        for format in [
            b"%f".as_slice(),
            b"%pX",
            b"%h",
            b"%",
            b"%lll",
            b"%sa",
            b"%pi5",
            b"\x80",
            b"%zu",
            b"%10",
        ] {
            assert_eq!(check_format(format, 9), Err(Errno::EINVAL), "{format:?}");
        }
    }
}
