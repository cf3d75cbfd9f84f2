//! Upper halves of registers: poisoned where nobody reads them, if the loader asks (`BPF_F_TEST_RND_HI32`), and cleared
//! after a 32-bit compare-exchange, which leaves them alone on x86-64 when the comparison fails.
//!
//! Kernel counterpart: `opt_subreg_zext_lo32_rnd_hi32`.

use ring3_isa::{RawInsn, Reg, decode_xlated};

use super::patch::build::*;
use super::patch::{Draft, DraftSlot};
use crate::aux::AuxTable;
use crate::error::Check;
use crate::state::RegBase;

const CODE_ATOMIC32: u8 = 0xc3;
const CMPXCHG: i32 = 0xf1;

/// Clears the upper half of r0 after 32-bit compare-exchanges whose result is read whole.
pub(super) fn extend_cmpxchg(draft: &mut Draft, aux: &AuxTable) -> Check {
    let is_cmpxchg = |slot: &DraftSlot| slot.insn.code == CODE_ATOMIC32 && slot.insn.imm == CMPXCHG;
    if !draft.slots.iter().any(is_cmpxchg) {
        return Ok(());
    }
    draft.rewrite(|_, slot, patch| {
        patch.keep(slot);
        if is_cmpxchg(&slot)
            && slot.is_primary
            && aux.get(slot.orig).is_some_and(|aux| aux.zext_dst)
        {
            // DIVERGES: the kernel marks this move with an immediate of 1, which no program may carry; ours is a plain move, so that
            // rewritten programs decode by the rules of all others.
            patch.push(alu_reg(ALU, MOV, R0, R0));
        }
        Ok(())
    })
}

/// Fills upper halves that a 32-bit operation defines and nobody reads with numbers.
pub(super) fn poison_upper_halves(draft: &mut Draft, aux: &AuxTable, seed: u64) -> Check {
    let mut random = seed | 1;
    draft.rewrite(|_, slot, patch| {
        patch.keep(slot);
        let Some(aux) = aux.get(slot.orig).filter(|_| slot.is_primary) else {
            return Ok(());
        };
        let is_ctx_load = slot.insn.class() == 1
            && aux
                .ptr_type()
                .is_some_and(|ty| ty.base == RegBase::PtrToCtx);
        let Some(dst) = defined_half(slot.insn).filter(|_| !aux.zext_dst && !is_ctx_load) else {
            return Ok(());
        };
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        patch.push_all(&[
            alu_imm(ALU64, MOV, AX, (random >> 32) as i32),
            alu_imm(ALU64, LSH, AX, 32),
            alu_reg(ALU64, OR, dst, AX),
        ]);
        Ok(())
    })
}

/// The register of which the instruction defines the lower half, the upper one becoming zero.
fn defined_half(insn: RawInsn) -> Option<u8> {
    let (decoded, slots) = decode_xlated(&[insn, RawInsn::default()], 0).ok()?;
    if slots != 1 || !matches!(insn.class(), 1 | 3 | 4) {
        return None;
    }
    let mut written = decoded.uses().writes_low.iter();
    written.next().map(Reg::number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Subprog;

    fn poisoned(insns: &[RawInsn], zext_dst: bool) -> usize {
        let mut draft = Draft::new(insns, &[Subprog::default()]);
        let mut aux = AuxTable::new(insns.len());
        (0..insns.len() as u32).for_each(|at| aux[at].zext_dst = zext_dst);
        poison_upper_halves(&mut draft, &aux, 1).unwrap();
        draft.encode().unwrap().len()
    }

    #[test]
    fn halves_that_nobody_reads_are_poisoned() {
        assert_eq!(poisoned(&[alu_imm(ALU, MOV, R1, 5)], false), 4);
        assert_eq!(poisoned(&[alu_imm(ALU, MOV, R1, 5)], true), 1);
        assert_eq!(poisoned(&[alu_imm(ALU64, MOV, R1, 5)], false), 1);
    }

    #[test]
    fn compare_exchange_clears_the_upper_half() {
        let insn = RawInsn::new(CODE_ATOMIC32, FP, R1, -4, CMPXCHG);
        let mut draft = Draft::new(&[insn], &[Subprog::default()]);
        let mut aux = AuxTable::new(1);
        aux[0].zext_dst = true;
        extend_cmpxchg(&mut draft, &aux).unwrap();
        let extension = alu_reg(ALU, MOV, R0, R0);
        assert_eq!(draft.encode().unwrap(), [insn, extension]);
    }
}
