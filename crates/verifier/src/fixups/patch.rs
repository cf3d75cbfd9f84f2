//! `Draft`: a program while it is rewritten. Jumps and calls know the slot they lead to, not its distance, so that a pass
//! may put any number of instructions in the place of each one, in one sweep over the program.
//!
//! ```text
//! old slot:    0     1     2     3          a jump to an old slot leads to the first of what replaced it,
//! new slots:   0    1 2 3  -     4          or to what follows if nothing did
//! ```
//!
//! Jumps between the instructions of one replacement are written with their distance, as in the kernel's tables.
//! Kernel counterpart: `bpf_patch_insn_data`, `verifier_remove_insns`, which move the rest of the program each time.

use alloc::vec::Vec;

use ring3_isa::RawInsn;

use crate::env::Subprog;
use crate::error::{Check, reject};
use crate::subprogs::{
    CODE_CALL, CODE_EXIT, CODE_JAL, is_jump_class, is_pseudo_call, is_pseudo_func, jump_distance,
};

/// No target.
pub(super) const NONE: u32 = u32::MAX;

/// One slot of a draft.
#[derive(Clone, Copy, Debug)]
pub(super) struct DraftSlot {
    pub(super) insn: RawInsn,
    /// Slot of the program as loaded that this one comes from.
    pub(super) orig: u32,
    /// It stands for that slot, whose facts apply; others were added.
    pub(super) is_primary: bool,
    /// A division whose divisor was compared with zero before.
    pub(super) divisor_nonzero: bool,
    /// Slot of this draft that a jump, call or load of a function's address leads to, or [`NONE`].
    pub(super) target: u32,
    /// Within a sweep: `target` is a slot of the draft before it.
    pub(super) is_old_target: bool,
    /// A load of what describes an object type, by its place in the program's `object_types`.
    pub(super) object_type: Option<u32>,
}

/// A program being rewritten.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) slots: Vec<DraftSlot>,
    pub(super) subprogs: Vec<DraftSubprog>,
}

/// A function of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DraftSubprog {
    pub(super) start: u32,
    /// Its number in the program as loaded, [`NONE`] for an added one.
    pub(super) orig: u32,
}

impl Draft {
    /// The program as loaded.
    pub(super) fn new(insns: &[RawInsn], subprogs: &[Subprog]) -> Draft {
        let slot = |(at, &insn): (usize, &RawInsn)| DraftSlot {
            insn,
            orig: at as u32,
            is_primary: true,
            divisor_nonzero: false,
            target: target_of(insns, at),
            is_old_target: false,
            object_type: None,
        };
        let subprog = |(orig, subprog): (usize, &Subprog)| DraftSubprog {
            start: subprog.start,
            orig: orig as u32,
        };
        Draft {
            slots: insns.iter().enumerate().map(slot).collect(),
            subprogs: subprogs.iter().enumerate().map(subprog).collect(),
        }
    }

    /// Replaces each slot by what `replace` puts in the patch.
    pub(super) fn rewrite(
        &mut self,
        mut replace: impl FnMut(u32, DraftSlot, &mut Patch) -> Check,
    ) -> Check {
        let mut patch = Patch {
            slots: Vec::with_capacity(self.slots.len()),
            orig: 0,
        };
        let mut starts = Vec::with_capacity(self.slots.len() + 1);
        for (at, &slot) in self.slots.iter().enumerate() {
            starts.push(patch.slots.len() as u32);
            patch.orig = slot.orig;
            replace(at as u32, slot, &mut patch)?;
        }
        starts.push(patch.slots.len() as u32);
        // What lies behind the end keeps its distance to it.
        let end = self.slots.len() as u32;
        let moved = |old: u32| match starts.get(old as usize) {
            Some(&start) => start,
            None => starts[end as usize] + (old - end),
        };
        for slot in &mut patch.slots {
            if core::mem::take(&mut slot.is_old_target) {
                slot.target = moved(slot.target);
            }
        }
        self.slots = patch.slots;
        for subprog in &mut self.subprogs {
            subprog.start = moved(subprog.start);
        }
        // A function of which nothing is left is gone; the one behind it starts at the same slot.
        let end = self.slots.len() as u32;
        let ends: Vec<u32> = self
            .subprogs
            .iter()
            .skip(1)
            .map(|subprog| subprog.start)
            .chain([end])
            .collect();
        let mut ends = ends.into_iter();
        self.subprogs
            .retain(|subprog| ends.next().is_some_and(|end| subprog.start < end));
        Ok(())
    }

    /// Puts instructions before the program, in its main function; jumps to its first instruction still lead there. Added
    /// jumps may lead to the first slot behind what is added.
    pub(super) fn prepend(&mut self, insns: &[RawInsn]) {
        let added = insns.len() as u32;
        for slot in &mut self.slots {
            if slot.target != NONE {
                slot.target += added;
            }
        }
        for subprog in self.subprogs.iter_mut().skip(1) {
            subprog.start += added;
        }
        let mut patch = Patch {
            slots: Vec::with_capacity(insns.len()),
            orig: 0,
        };
        patch.push_all(insns);
        self.slots.splice(0..0, patch.slots);
    }

    /// The instructions, with distances.
    ///
    /// # Errors
    /// ERANGE: a jump of 16 bits does not reach its target any more.
    pub(super) fn encode(&self) -> Check<Vec<RawInsn>> {
        let mut insns = Vec::with_capacity(self.slots.len());
        for (at, slot) in self.slots.iter().enumerate() {
            let mut insn = slot.insn;
            if slot.target != NONE {
                let distance = i64::from(slot.target) - at as i64 - 1;
                if insn.code == CODE_JAL || insn.code == CODE_CALL || insn.is_ld_imm64() {
                    insn.imm = distance as i32;
                } else {
                    let Ok(off) = i16::try_from(distance) else {
                        reject!(
                            ERANGE,
                            "insn {} cannot be patched due to 16-bit range",
                            slot.orig
                        );
                    };
                    insn.off = off;
                }
            }
            insns.push(insn);
        }
        Ok(insns)
    }

    /// Adds a function that the program as loaded does not have.
    pub(super) fn add_hidden_subprog(&mut self, insns: &[RawInsn]) {
        let start = self.slots.len() as u32;
        self.subprogs.push(DraftSubprog { start, orig: NONE });
        self.slots.extend(insns.iter().map(|&insn| DraftSlot {
            insn,
            orig: NONE,
            is_primary: false,
            divisor_nonzero: false,
            target: NONE,
            is_old_target: false,
            object_type: None,
        }));
    }

    /// Calls and addresses of functions lead to functions; those of removed ones may stay where only the main program is left.
    ///
    /// # Errors
    /// EFAULT, as the kernel's JIT says it.
    pub(super) fn check_functions(&self) -> Check {
        if self.subprogs.len() < 2 {
            return Ok(());
        }
        for (at, slot) in self.slots.iter().enumerate() {
            let names_function = is_pseudo_call(slot.insn) || is_pseudo_func(slot.insn);
            if names_function && self.subprog_at(slot.target).is_none() {
                // DIVERGES: the kernel's number counts the slots of look-ups that it inlined, which stay one here.
                reject!(
                    EFAULT,
                    "verifier bug: No program to jit at insn {at} (subprog < 0)"
                );
            }
        }
        Ok(())
    }

    /// The number of the function that starts at a slot.
    pub(super) fn subprog_at(&self, start: u32) -> Option<u32> {
        self.subprogs
            .binary_search_by_key(&start, |subprog| subprog.start)
            .ok()
            .map(|idx| idx as u32)
    }
}

fn target_of(insns: &[RawInsn], at: usize) -> u32 {
    let insn = insns[at];
    let is_second_half = at > 0 && insns[at - 1].is_ld_imm64();
    let distance = if is_second_half {
        return NONE;
    } else if is_pseudo_call(insn) || is_pseudo_func(insn) {
        insn.imm
    } else if is_jump_class(insn) && insn.code != CODE_CALL && insn.code != CODE_EXIT {
        jump_distance(insn)
    } else {
        return NONE;
    };
    u32::try_from(at as i64 + 1 + i64::from(distance)).unwrap_or(NONE)
}

/// What replaces slots, growing from left to right.
pub(super) struct Patch {
    slots: Vec<DraftSlot>,
    orig: u32,
}

impl Patch {
    /// The slot itself.
    pub(super) fn keep(&mut self, slot: DraftSlot) {
        self.slots.push(DraftSlot {
            is_old_target: slot.target != NONE,
            ..slot
        });
    }

    /// Another instruction in the slot's place that its facts apply to.
    pub(super) fn keep_as(&mut self, slot: DraftSlot, insn: RawInsn) {
        self.keep(DraftSlot { insn, ..slot });
    }

    /// An instruction that leads to a slot of the draft before the sweep.
    pub(super) fn push_to(&mut self, insn: RawInsn, old_target: u32) {
        self.slots.push(DraftSlot {
            target: old_target,
            is_old_target: true,
            ..self.added(insn)
        });
    }

    /// An added instruction; a jump's distance counts added instructions.
    pub(super) fn push(&mut self, insn: RawInsn) {
        let is_jump = is_jump_class(insn) && !matches!(insn.code & 0xf0, 0x80 | 0x90 | 0xf0);
        let target = if is_jump {
            (self.slots.len() as i64 + 1 + i64::from(insn.off)) as u32
        } else {
            NONE
        };
        self.slots.push(DraftSlot {
            target,
            ..self.added(insn)
        });
    }

    /// Added instructions.
    pub(super) fn push_all(&mut self, insns: &[RawInsn]) {
        for &insn in insns {
            self.push(insn);
        }
    }

    fn added(&self, insn: RawInsn) -> DraftSlot {
        DraftSlot {
            insn,
            orig: self.orig,
            is_primary: false,
            divisor_nonzero: false,
            target: NONE,
            is_old_target: false,
            object_type: None,
        }
    }

    /// An added load of what describes an object type.
    pub(super) fn push_object_type(&mut self, dst: u8, object_type: u32) {
        let first = DraftSlot {
            object_type: Some(object_type),
            ..self.added(RawInsn::new(0x18, dst, 0, 0, 0))
        };
        self.slots.push(first);
        self.push(RawInsn::new(0, 0, 0, 0, 0));
    }
}

/// Instructions of rewrites, by their names in the kernel's macros.
pub(super) mod build {
    use ring3_isa::RawInsn;

    pub(in crate::fixups) const R0: u8 = 0;
    pub(in crate::fixups) const R1: u8 = 1;
    pub(in crate::fixups) const R2: u8 = 2;
    pub(in crate::fixups) const R3: u8 = 3;
    pub(in crate::fixups) const R4: u8 = 4;
    pub(in crate::fixups) const R5: u8 = 5;
    pub(in crate::fixups) const R6: u8 = 6;
    pub(in crate::fixups) const R7: u8 = 7;
    pub(in crate::fixups) const R8: u8 = 8;
    pub(in crate::fixups) const R9: u8 = 9;
    pub(in crate::fixups) const FP: u8 = 10;
    pub(in crate::fixups) const AX: u8 = 11;

    pub(in crate::fixups) const ALU: u8 = 4;
    pub(in crate::fixups) const ALU64: u8 = 7;
    pub(in crate::fixups) const JMP: u8 = 5;
    pub(in crate::fixups) const JMP32: u8 = 6;
    pub(in crate::fixups) const X: u8 = 8;

    pub(in crate::fixups) const ADD: u8 = 0x00;
    pub(in crate::fixups) const SUB: u8 = 0x10;
    pub(in crate::fixups) const MUL: u8 = 0x20;
    pub(in crate::fixups) const OR: u8 = 0x40;
    pub(in crate::fixups) const AND: u8 = 0x50;
    pub(in crate::fixups) const LSH: u8 = 0x60;
    pub(in crate::fixups) const RSH: u8 = 0x70;
    pub(in crate::fixups) const NEG: u8 = 0x80;
    pub(in crate::fixups) const XOR: u8 = 0xa0;
    pub(in crate::fixups) const MOV: u8 = 0xb0;
    pub(in crate::fixups) const ARSH: u8 = 0xc0;

    pub(in crate::fixups) const JA: u8 = 0x00;
    pub(in crate::fixups) const JEQ: u8 = 0x10;
    pub(in crate::fixups) const JGT: u8 = 0x20;
    pub(in crate::fixups) const JGE: u8 = 0x30;
    pub(in crate::fixups) const JNE: u8 = 0x50;
    pub(in crate::fixups) const JLE: u8 = 0xb0;

    /// `dst op= imm`, or a comparison with an immediate.
    pub(in crate::fixups) const fn alu_imm(class: u8, op: u8, dst: u8, imm: i32) -> RawInsn {
        RawInsn::new(class | op, dst, 0, 0, imm)
    }

    /// `dst op= src`
    pub(in crate::fixups) const fn alu_reg(class: u8, op: u8, dst: u8, src: u8) -> RawInsn {
        RawInsn::new(class | op | X, dst, src, 0, 0)
    }

    /// `if dst op imm goto +off`
    pub(in crate::fixups) const fn jmp_imm(
        class: u8,
        op: u8,
        dst: u8,
        imm: i32,
        off: i16,
    ) -> RawInsn {
        RawInsn::new(class | op, dst, 0, off, imm)
    }

    /// `goto +off`
    pub(in crate::fixups) const fn ja(off: i16) -> RawInsn {
        RawInsn::new(JMP | JA, 0, 0, off, 0)
    }

    /// `dst = *(u64 *)(base + off)`
    pub(in crate::fixups) const fn load64(dst: u8, base: u8, off: i16) -> RawInsn {
        RawInsn::new(0x79, dst, base, off, 0)
    }

    /// `*(u64 *)(base + off) = src`
    pub(in crate::fixups) const fn store64(base: u8, src: u8, off: i16) -> RawInsn {
        RawInsn::new(0x7b, base, src, off, 0)
    }

    /// Speculation barrier.
    pub(in crate::fixups) const NOSPEC: RawInsn = RawInsn::new(0xc2, 0, 0, 0, 0);
    /// `exit`
    pub(in crate::fixups) const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::build::*;
    use super::*;
    use alloc::vec;

    fn subprogs(starts: &[u32]) -> Vec<Subprog> {
        starts
            .iter()
            .map(|&start| Subprog {
                start,
                ..Subprog::default()
            })
            .collect()
    }

    const MOV0: RawInsn = alu_imm(ALU64, MOV, R0, 0);

    #[test]
    fn jumps_follow_their_targets() {
        // 0: if r1 == 0 goto 3; 1: r0 = 0; 2: goto 0; 3: exit
        let insns = [jmp_imm(JMP, JEQ, R1, 0, 2), MOV0, ja(-3), EXIT];
        let mut draft = Draft::new(&insns, &subprogs(&[0]));
        assert_eq!(draft.encode().unwrap(), insns);
        draft
            .rewrite(|at, slot, patch| {
                if at == 1 {
                    patch.push_all(&[jmp_imm(JMP, JNE, R2, 0, 1), MOV0]);
                }
                patch.keep(slot);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            draft.encode().unwrap(),
            [
                jmp_imm(JMP, JEQ, R1, 0, 4),
                jmp_imm(JMP, JNE, R2, 0, 1),
                MOV0,
                MOV0,
                ja(-5),
                EXIT
            ]
        );
    }

    #[test]
    fn functions_move_with_their_calls() {
        let call = RawInsn::new(CODE_CALL, 0, 1, 0, 1);
        let mut draft = Draft::new(&[call, EXIT, MOV0, EXIT], &subprogs(&[0, 2]));
        draft
            .rewrite(|at, slot, patch| {
                if at == 2 {
                    patch.push(NOSPEC);
                }
                patch.keep(slot);
                patch.push(MOV0);
                Ok(())
            })
            .unwrap();
        let insns = draft.encode().unwrap();
        assert_eq!(insns[0].imm, 3);
        assert_eq!(insns[4], NOSPEC);
        assert_eq!(draft.subprog_at(4), Some(1));
    }

    #[test]
    fn a_prologue_runs_once() {
        let mut draft = Draft::new(&[MOV0, ja(-2)], &subprogs(&[0]));
        draft.prepend(&[jmp_imm(JMP, JEQ, R1, 0, 1), MOV0]);
        assert_eq!(
            draft.encode().unwrap(),
            [jmp_imm(JMP, JEQ, R1, 0, 1), MOV0, MOV0, ja(-2)]
        );
    }

    #[test]
    fn empty_functions_vanish() {
        let mut draft = Draft::new(&[MOV0, EXIT, MOV0, EXIT, MOV0, EXIT], &subprogs(&[0, 2, 4]));
        draft
            .rewrite(|at, slot, patch| {
                if !(2..4).contains(&at) {
                    patch.keep(slot);
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(
            draft.subprogs,
            [
                DraftSubprog { start: 0, orig: 0 },
                DraftSubprog { start: 2, orig: 2 }
            ]
        );
    }

    #[test]
    fn jumps_that_cannot_reach_are_refused() {
        let mut insns = vec![jmp_imm(JMP, JEQ, R1, 0, 30_000)];
        insns.resize(30_001, MOV0);
        insns.push(EXIT);
        let mut draft = Draft::new(&insns, &subprogs(&[0]));
        draft
            .rewrite(|_, slot, patch| {
                patch.keep(slot);
                patch.push(MOV0);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            draft.encode().unwrap_err().text,
            "insn 0 cannot be patched due to 16-bit range"
        );
    }
}
