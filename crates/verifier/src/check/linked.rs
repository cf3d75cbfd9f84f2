//! Scalars that hold one number, or numbers with a constant difference: what a branch teaches of one holds for all.
//!
//! Kernel counterpart: `collect_linked_regs`, `sync_linked_regs`. Neighbours: `alu` gives the ids, `jmp` uses them,
//! `backtrack` follows the links when values must be exact.

use ring3_isa::{AluOp, Reg, Width};

use crate::backtrack::{LinkedReg, LinkedRegs};
use crate::domain::Scalar;
use crate::env::Env;
use crate::state::{BPF_ADD_CONST, BPF_ADD_CONST32, RegState, StackSlot, VerifierState, bits};

/// Adds to `linked` every live register and every spilled one with this id; those for which there is no place lose it.
pub(crate) fn collect_linked_regs(env: &mut Env<'_>, id: u32, linked: &mut LinkedRegs) {
    let id = id & !BPF_ADD_CONST;
    let equals = |reg: &RegState| reg.ty.is_scalar() && reg.id & !BPF_ADD_CONST == id;
    for frameno in (0..=env.cur.curframe).rev() {
        let live = env.facts.live_regs[env.cur.frame_insn_idx(frameno) as usize];
        for number in 0..Reg::FP.index() {
            if live & 1 << number != 0 && equals(&env.cur.frame(frameno).regs[number]) {
                let entry = LinkedReg {
                    frame: frameno,
                    index: number as u8,
                    is_reg: true,
                };
                if !linked.push(entry) {
                    env.cur.frame_mut(frameno).regs[number].id = 0;
                }
            }
        }
        let stack = &env.cur.frame(frameno).stack;
        let is_linked = |slot: &StackSlot| slot.is_spilled_reg() && equals(slot.spilled());
        for spi in bits(stack.written_with(is_linked)) {
            let entry = LinkedReg {
                frame: frameno,
                index: spi as u8,
                is_reg: false,
            };
            if !linked.push(entry) {
                env.cur.frame_mut(frameno).stack[spi].spilled_mut().id = 0;
            }
        }
    }
}

/// Gives every linked register of a path what is known of `known`, a register of its innermost frame.
pub(crate) fn sync_linked_regs(state: &mut VerifierState, known: Reg, linked: &LinkedRegs) {
    let source = *state.reg(known);
    for entry in linked.as_slice() {
        if entry.is_reg
            && entry.frame == state.curframe
            && usize::from(entry.index) == known.index()
        {
            continue;
        }
        let frame = state.frame_mut(entry.frame);
        if entry.is_reg {
            sync_one(&mut frame.regs[usize::from(entry.index)], &source);
        } else if let Some(slot) = frame.stack.get_mut(usize::from(entry.index)) {
            sync_one(slot.spilled_mut(), &source);
        }
    }
}

fn sync_one(reg: &mut RegState, known: &RegState) {
    if !reg.ty.is_scalar() || (reg.id ^ known.id) & !BPF_ADD_CONST != 0 {
        return;
    }
    // A difference in 32 bits says nothing about one in 64 bits.
    if (reg.id ^ known.id) & BPF_ADD_CONST == BPF_ADD_CONST {
        return;
    }
    let (off, id, subreg_def) = (reg.off, reg.id, reg.subreg_def);
    let is_sum = (id | known.id) & BPF_ADD_CONST != 0;
    *reg = RegState {
        subreg_def,
        ..*known
    };
    if !is_sum || off == known.off {
        return;
    }
    reg.off = off;
    reg.id = id;
    let delta = i64::from(off) - i64::from(known.off);
    let width = if (id | known.id) & BPF_ADD_CONST32 != 0 {
        Width::W32
    } else {
        Width::W64
    };
    reg.scalar = reg
        .scalar
        .alu(AluOp::Add, &Scalar::known(delta as u64), width);
}
