//! The random numbers of programs: a sequence per thread, not for secrets.
//!
//! ```text
//! s       state of a thread, seeded from the host (again in the child of a fork, and for a thread that takes over a cell)
//! next    s += STEP; p = s * (s ^ MASK), 128 bits; the low half of (high(p) ^ low(p))
//! ```
//!
//! This is wyrand (Wang Yi), of which the low 32 bits are taken. The product hangs on no earlier product, so the distance of two numbers is one
//! addition in memory. Generated code does the same in place ([`crate::rcu::SectionLayout::random_offset`]).

/// What the state grows by: odd, so that all states follow each other.
pub const STEP: u64 = 0xa076_1d64_78bd_642f;
/// What makes the second factor of the first.
pub const MASK: u64 = 0xe703_7ed1_a0b4_28db;

/// The number of a state.
#[inline]
pub fn mix(state: u64) -> u32 {
    let product = u128::from(state) * u128::from(state ^ MASK);
    (product >> 64) as u32 ^ product as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chi-square of the bytes of a million numbers, 255 degrees of freedom: far beyond 400 with a probability below 1e-7.
    #[test]
    fn bytes_are_uniform_from_any_seed() {
        const NUMBERS: u64 = 1 << 18;
        for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut counts = [[0u64; 256]; 4];
            for turn in 1..=NUMBERS {
                let number = mix(STEP.wrapping_mul(turn).wrapping_add(seed));
                for (counts, byte) in counts.iter_mut().zip(number.to_le_bytes()) {
                    counts[usize::from(byte)] += 1;
                }
            }
            let expected = (NUMBERS / 256) as f64;
            for counts in counts {
                let chi: f64 = counts
                    .iter()
                    .map(|&count| (count as f64 - expected).powi(2) / expected)
                    .sum();
                assert!((150.0..400.0).contains(&chi), "seed {seed:#x}: {chi}");
            }
        }
    }

    /// Each bit of the state changes about half of the bits of the number.
    #[test]
    fn every_bit_of_the_state_matters() {
        const STATES: u64 = 4096;
        for bit in 0..64 {
            let changed: u64 = (0..STATES)
                .map(|turn| {
                    let state = STEP.wrapping_mul(turn + 1);
                    u64::from((mix(state) ^ mix(state ^ 1 << bit)).count_ones())
                })
                .sum();
            let mean = changed as f64 / STATES as f64;
            assert!((12.0..20.0).contains(&mean), "bit {bit}: {mean}");
        }
    }

    #[test]
    fn threads_have_sequences_of_their_own() {
        let sequence = || {
            let _section = crate::rcu::read();
            [(); 4].map(|()| crate::rcu::thread().next_random())
        };
        let other = std::thread::spawn(sequence).join().unwrap();
        let (own, next) = (sequence(), sequence());
        assert!(own != other && own != next && next != other);
    }
}
