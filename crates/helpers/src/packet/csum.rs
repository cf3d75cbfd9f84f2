//! Internet checksums (RFC 1071) on 32-bit partial sums, in memory order as the kernel keeps them.
//!
//! Let `+'` be addition modulo 2^16 - 1 with both zeros. A partial sum `s` (32 bits) stands for the class of `s` under `+'` of its halves;
//! the checksum field of a header holds the complement of the sum of everything else.

/// One's complement addition of partial sums.
pub fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

/// One's complement subtraction of partial sums.
pub fn sub(a: u32, b: u32) -> u32 {
    add(a, !b)
}

/// The partial sum of bytes at an even offset, starting from `seed`.
pub fn partial(bytes: &[u8], seed: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = u64::from(seed);
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut tail = [0u8; 4];
    tail[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_ne_bytes(tail));
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// Folds to 16 bits without complement.
pub fn from32to16(sum: u32) -> u16 {
    ((sum.wrapping_add(sum.rotate_left(16))) >> 16) as u16
}

/// Folds and complements: the value of a checksum field.
pub fn fold(sum: u32) -> u16 {
    !from32to16(sum)
}

/// The new checksum field after 32 covered bits changed.
pub fn replace4(field: u16, from: u32, to: u32) -> u16 {
    fold(add(sub(!u32::from(field), from), to))
}

/// The new checksum field after 16 covered bits changed: RFC 1624, equation 3.
pub fn replace2(field: u16, from: u16, to: u16) -> u16 {
    let add16 = |a: u16, b: u16| {
        let (sum, carry) = a.overflowing_add(b);
        sum + u16::from(carry)
    };
    !add16(add16(!field, !from), to)
}

/// The new checksum field after covered bytes changed by a partial sum.
pub fn replace_by_diff(field: u16, diff: u32) -> u16 {
    fold(add(diff, !u32::from(field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_all_ones() {
        let mut header = *b"\x45\0\0\x73\0\0\x40\0\x40\x11\0\0\xc0\xa8\0\x01\xc0\xa8\0\xc7";
        let field = fold(partial(&header, 0)).to_ne_bytes();
        assert_eq!(field, [0xb8, 0x61]);
        header[10..12].copy_from_slice(&field);
        assert_eq!(from32to16(partial(&header, 0)), 0xffff);
        let old = u32::from_ne_bytes([192, 168, 0, 199]);
        let new = u32::from_ne_bytes([127, 0, 0, 2]);
        header[16..20].copy_from_slice(&new.to_ne_bytes());
        let replaced = replace4(u16::from_ne_bytes(field), old, new);
        header[10..12].copy_from_slice(&replaced.to_ne_bytes());
        assert_eq!(from32to16(partial(&header, 0)), 0xffff);
    }

    #[test]
    fn odd_lengths_are_padded_with_zero() {
        assert_eq!(partial(&[1, 2, 3], 0), partial(&[1, 2, 3, 0], 0));
    }
}
