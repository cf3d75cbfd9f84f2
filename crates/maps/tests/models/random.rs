//! Numbers for the models: xorshift, the same from the same state.

pub(crate) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Bytes of a value, from a number.
pub(crate) fn bytes(number: u64, len: usize) -> Vec<u8> {
    number
        .to_ne_bytes()
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect()
}
