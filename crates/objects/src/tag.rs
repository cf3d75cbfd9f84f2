//! The tag of a program: the first 8 bytes of the SHA-256 of its instructions, map operands cleared.

use ring3_isa::RawInsn;
use ring3_uapi::limits::TAG_BYTES;

use crate::sha256::sha256;

/// Source-register values of a two-slot load that name a map by fd or fd_array index.
const MAP_SOURCES: [u8; 4] = [1, 2, 5, 6];

/// The tag of a program as loaded.
///
/// # Source
/// Linux 6.18, recorded in fixtures/oracle/syscall/objects.txt (kernels before 6.18 used SHA-1): tags of programs that differ in map fds only are equal, and the recorded corpus.
pub(crate) fn compute_tag(insns: &[RawInsn]) -> [u8; TAG_BYTES] {
    let mut bytes = Vec::with_capacity(insns.len() * 8);
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
        bytes.extend_from_slice(&cleared.to_bytes());
    }
    let digest = sha256(&bytes);
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
        // `r0 = 0; exit`: the tag that Linux 6.18 gives it.
        let empty = [
            RawInsn::new(0xb7, 0, 0, 0, 0),
            RawInsn::new(0x95, 0, 0, 0, 0),
        ];
        assert_eq!(
            compute_tag(&empty),
            [0x59, 0xf4, 0xa9, 0x31, 0x74, 0x4d, 0xcd, 0xc6]
        );
    }
}
