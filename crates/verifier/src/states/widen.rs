//! Loops that only a counter of the runtime bounds (iterators, `may_goto`): what changes from turn to turn becomes unknown.
//!
//! At the next turn of such a loop the state is compared with that of the turn before. A scalar that differs and whose value
//! nobody relied on is forgotten, so that the loop's states converge.
//!
//! Kernel counterpart: `find_prev_entry`, `widen_imprecise_scalars`. Neighbours: `check/jmp`, iterators.

use super::equal::{IdMap, regs_exact};
use crate::env::Env;
use crate::state::{RegState, StateId, VerifierState};

/// The newest checkpoint at `insn_idx` that the current path itself passed at a smaller depth of the loop.
pub(crate) fn find_prev_entry(env: &Env<'_>, insn_idx: u32) -> Option<StateId> {
    let parent = env.states.get(env.cur.parent?);
    let found = |id: &StateId| {
        let stored = env.states.get(*id);
        env.states.branches(*id) != 0
            && same_callsites(stored, parent)
            && stored.dfs_depth < parent.dfs_depth
    };
    let bucket = env.states.bucket(super::bucket_of(env, insn_idx));
    let here = bucket.iter().rev().filter(|l| l.insn_idx == insn_idx);
    here.map(|listed| listed.id).find(found)
}

fn same_callsites(a: &VerifierState, b: &VerifierState) -> bool {
    a.curframe == b.curframe
        && (0..=a.curframe).all(|frame| a.frame(frame).callsite == b.frame(frame).callsite)
}

/// Forgets the scalars of `cur` that differ from those of the checkpoint and matter to no proof.
pub(crate) fn widen_imprecise_scalars(env: &mut Env<'_>, old: StateId, cur: &mut VerifierState) {
    let mut map = core::mem::take(&mut env.scratch.id_map);
    map.reset(env.id_gen);
    let precise = !env.permits.bpf_capable;
    let old = env.states.get(old);
    for frameno in (0..=old.curframe).rev() {
        let old_frame = old.frame(frameno);
        let frame = cur.frame_mut(frameno);
        for (o, c) in old_frame.regs.iter().zip(&mut frame.regs) {
            if must_widen(o, c, &mut map) {
                forget(c, precise);
            }
        }
        for (spi, o) in old_frame.stack.iter().take(frame.stack.len()).enumerate() {
            let c = &frame.stack[spi];
            if o.is_spilled_reg()
                && c.is_spilled_reg()
                && must_widen(o.spilled(), c.spilled(), &mut map)
            {
                forget(frame.stack[spi].spilled_mut(), precise);
            }
        }
    }
    env.scratch.id_map = map;
}

fn must_widen(old: &RegState, cur: &RegState, map: &mut IdMap) -> bool {
    old.ty.is_scalar()
        && old.ty == cur.ty
        && !old.precise
        && !cur.precise
        && !regs_exact(old, cur, map)
}

fn forget(reg: &mut RegState, precise: bool) {
    reg.set_unknown();
    reg.precise = precise;
}
