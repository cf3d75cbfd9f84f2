//! What no path reached: branches that always go one way become jumps, code behind them goes, jumps to the next instruction
//! go. For a loader without CAP_BPF dead code stays, as a trap: another walk of the same program could have taken longer,
//! and nobody shall learn from the program's length where the verifier stopped.
//!
//! Kernel counterpart: `opt_hard_wire_dead_code_branches`, `opt_remove_dead_code`, `opt_remove_nops`, `sanitize_dead_code`.

use alloc::vec;
use alloc::vec::Vec;

use ring3_isa::RawInsn;

use super::patch::build::ja;
use super::patch::{Draft, DraftSlot};
use crate::error::Check;
use crate::subprogs::{CODE_JCOND, is_jump_class};

const NOP: RawInsn = ja(0);
const MAY_GOTO_NOP: RawInsn = RawInsn::new(CODE_JCOND, 0, 0, 0, 0);

/// Removes dead code; `is_seen` says whether a path reached a slot of the program as loaded.
pub(super) fn remove_dead_code(draft: &mut Draft, is_seen: &dyn Fn(u32) -> bool) -> Check {
    hard_wire_branches(draft, is_seen);
    move_dead_targets(draft, is_seen);
    draft.rewrite(|_, slot, patch| {
        if is_seen(slot.orig) {
            patch.keep(slot);
        }
        Ok(())
    })?;
    remove_nops(draft)
}

/// Makes dead code harmless.
pub(super) fn sanitize_dead_code(draft: &mut Draft, is_seen: &dyn Fn(u32) -> bool) {
    for (at, slot) in draft.slots.iter_mut().enumerate() {
        if !is_seen(slot.orig) {
            slot.insn = ja(-1);
            slot.target = at as u32;
        }
    }
}

fn is_branch(insn: RawInsn) -> bool {
    is_jump_class(insn) && !matches!(insn.code & 0xf0, 0x00 | 0x80 | 0x90)
}

fn hard_wire_branches(draft: &mut Draft, is_seen: &dyn Fn(u32) -> bool) {
    let is_live = |slots: &[DraftSlot], at: u32| {
        slots
            .get(at as usize)
            .is_some_and(|slot| is_seen(slot.orig))
    };
    for at in 0..draft.slots.len() {
        let slot = draft.slots[at];
        if !is_branch(slot.insn) {
            continue;
        }
        let next = at as u32 + 1;
        let target = if !is_live(&draft.slots, next) {
            slot.target
        } else if !is_live(&draft.slots, slot.target) {
            next
        } else {
            continue;
        };
        draft.slots[at].insn = ja(0);
        draft.slots[at].target = target;
    }
}

/// The address of a function that is removed keeps its number of slots from the program's start: it names what comes to stand there.
fn move_dead_targets(draft: &mut Draft, is_seen: &dyn Fn(u32) -> bool) {
    let is_dead: Vec<bool> = draft.slots.iter().map(|slot| !is_seen(slot.orig)).collect();
    let is_at_dead = |at: u32| is_dead.get(at as usize) == Some(&true);
    for slot in draft.slots.iter_mut() {
        if !is_seen(slot.orig) || !is_at_dead(slot.target) {
            continue;
        }
        let mut target = slot.target as usize;
        let mut begin = target;
        while begin != 0 && is_dead[begin - 1] {
            begin -= 1;
        }
        // Each run of dead slots goes at once; what it held then lies behind it, perhaps in another run.
        while let Some(run) = is_dead
            .get(begin..)
            .filter(|rest| rest.first() == Some(&true))
        {
            let len = run.iter().take_while(|dead| **dead).count();
            if !(begin..begin + len).contains(&target) {
                break;
            }
            target += len;
            begin += len;
            begin += is_dead[begin..].iter().take_while(|dead| !**dead).count();
        }
        slot.target = target as u32;
    }
}

/// Removes jumps to the next instruction, in order; a jump that becomes one only by this stays. After a `may_goto` the
/// instruction before it is looked at again.
fn remove_nops(draft: &mut Draft) -> Check {
    let slots = &draft.slots;
    let mut removed = vec![false; slots.len()];
    let mut kept: Vec<usize> = Vec::with_capacity(slots.len());
    let with_no_distance = |slot: &DraftSlot| RawInsn {
        off: 0,
        ..slot.insn
    };
    for at in 0..slots.len() {
        let mut looked_at = Some(at);
        let next = at as u32 + 1;
        let mut is_kept = true;
        while let Some(idx) = looked_at {
            let (candidate, insn) = (&slots[idx], with_no_distance(&slots[idx]));
            let is_may_goto = insn == MAY_GOTO_NOP;
            if candidate.target != next || !(is_may_goto || insn == NOP) {
                break;
            }
            removed[idx] = true;
            if idx == at {
                is_kept = false;
            } else {
                kept.pop();
            }
            looked_at = if is_may_goto {
                kept.last().copied()
            } else {
                None
            };
        }
        if is_kept {
            kept.push(at);
        }
    }
    draft.rewrite(|at, slot, patch| {
        if !removed[at as usize] {
            patch.keep(slot);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::super::patch::build::*;
    use super::*;
    use crate::env::Subprog;

    const MOV0: RawInsn = alu_imm(ALU64, MOV, R0, 0);

    fn removed(insns: &[RawInsn], dead: &[u32]) -> Vec<RawInsn> {
        let mut draft = Draft::new(insns, &[Subprog::default()]);
        remove_dead_code(&mut draft, &|orig| !dead.contains(&orig)).unwrap();
        draft.encode().unwrap()
    }

    fn may_goto(off: i16) -> RawInsn {
        RawInsn::new(CODE_JCOND, 0, 0, off, 0)
    }

    #[test]
    fn branches_never_taken_go() {
        let program = [jmp_imm(JMP, JEQ, R1, 0, 1), MOV0, EXIT, EXIT];
        assert_eq!(
            removed(&[program[0], MOV0, MOV0, EXIT], &[]),
            [program[0], MOV0, MOV0, EXIT]
        );
        // The target is dead: the branch becomes nothing.
        assert_eq!(
            removed(&[jmp_imm(JMP, JEQ, R1, 0, 2), MOV0, EXIT, EXIT], &[3]),
            [MOV0, EXIT]
        );
        // The next is dead: a jump to what follows it stays as the kernel leaves it: over nothing.
        assert_eq!(
            removed(&[jmp_imm(JMP, JEQ, R1, 0, 1), MOV0, EXIT], &[1]),
            [EXIT]
        );
    }

    #[test]
    fn jumps_over_removed_jumps_stay() {
        assert_eq!(removed(&[ja(1), ja(0), EXIT], &[]), [ja(0), EXIT]);
        assert_eq!(removed(&[may_goto(1), may_goto(0), EXIT], &[]), [EXIT]);
    }

    #[test]
    fn addresses_of_removed_functions_name_what_comes_there() {
        let address = |imm| RawInsn::new(0x18, 1, 4, 0, imm);
        let second = RawInsn::new(0, 0, 0, 0, 0);
        let functions = |starts: &[u32]| -> Vec<Subprog> {
            let subprog = |&start| Subprog {
                start,
                ..Subprog::default()
            };
            starts.iter().map(subprog).collect()
        };
        let removed = |insns: &[RawInsn], starts: &[u32], dead: &[u32]| {
            let mut draft = Draft::new(insns, &functions(starts));
            remove_dead_code(&mut draft, &|orig| !dead.contains(&orig)).unwrap();
            (draft.slots[0].target, draft.check_functions().is_ok())
        };
        let program = [address(3), second, EXIT, EXIT, MOV0, EXIT, EXIT];
        // The last function: behind the end, which is nothing if another function is left.
        assert_eq!(removed(&program, &[0, 3, 4], &[4, 5, 6]), (4, false));
        assert_eq!(removed(&program[..6], &[0, 4], &[4, 5]), (4, true));
        // The function behind it.
        assert_eq!(removed(&program, &[0, 4, 6], &[4, 5]), (4, true));
        // Not the first removed slot: one into what stands behind the run.
        assert_eq!(removed(&program, &[0, 4, 6], &[3, 4, 5]), (4, false));
    }

    #[test]
    fn without_privilege_dead_code_traps() {
        let mut draft = Draft::new(&[ja(1), MOV0, EXIT], &[Subprog::default()]);
        sanitize_dead_code(&mut draft, &|orig| orig != 1);
        assert_eq!(draft.encode().unwrap(), [ja(1), ja(-1), EXIT]);
    }
}
