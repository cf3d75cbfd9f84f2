//! The tag of a program: the first 8 bytes of the SHA-1 of its instructions, map operands cleared.

use ring3_isa::RawInsn;
use ring3_uapi::limits::TAG_BYTES;
use sha1::{Digest, Sha1};

/// Source-register values of a two-slot load that name a map by fd or fd_array index.
const MAP_SOURCES: [u8; 4] = [1, 2, 5, 6];

/// The tag of a program as loaded.
///
/// # Source
/// The running kernel: tags of programs that differ in map fds only are equal, and the recorded corpus.
pub(crate) fn compute_tag(insns: &[RawInsn]) -> [u8; TAG_BYTES] {
    let mut hash = Sha1::new();
    let mut is_second_slot = false;
    for insn in insns {
        let mut cleared = *insn;
        if is_second_slot {
            cleared.imm = 0;
            is_second_slot = false;
        } else if insn.is_ld_imm64() && MAP_SOURCES.contains(&insn.src()) {
            cleared.imm = 0;
            is_second_slot = true;
        }
        hash.update(cleared.to_bytes());
    }
    let digest = hash.finalize();
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_fds_do_not_count() {
        let program = |fd| {
            [
                RawInsn::new(0x18, 1, 1, 0, fd),
                RawInsn::default(),
                RawInsn::new(0xb7, 0, 0, 0, 0),
                RawInsn::new(0x95, 0, 0, 0, 0),
            ]
        };
        assert_eq!(compute_tag(&program(3)), compute_tag(&program(9)));
        // `r0 = 0; exit`: the tag every kernel gives it.
        let empty = [
            RawInsn::new(0xb7, 0, 0, 0, 0),
            RawInsn::new(0x95, 0, 0, 0, 0),
        ];
        assert_eq!(
            compute_tag(&empty),
            [0xa0, 0x4f, 0x5e, 0xef, 0x06, 0xa7, 0xf5, 0x55]
        );
    }
}
