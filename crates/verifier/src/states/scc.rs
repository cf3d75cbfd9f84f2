//! Loops: strongly connected components of the program and the visits paths pay them.
//!
//! Inside a loop a checkpoint may be found to cover a path before all precision marks that the loop will need are known.
//! Such a path is kept as a *back-edge*: a copy of the state and the checkpoint it was covered by. A *visit* is one entry into a
//! component over one chain of calls; when the checkpoint that entered it has no open paths left, marks are carried over all its
//! back-edges until nothing changes. Until then checkpoints inside count as incomplete.
//!
//! Kernel counterpart: `maybe_enter_scc`, `maybe_exit_scc`, `propagate_backedges`.

use alloc::vec::Vec;
use core::fmt;

use ring3_uapi::limits::CALL_FRAMES_MAX;

use super::StateTable;
use crate::backtrack::{BacktrackState, mark_all_precise, mark_chain_precision_batch};
use crate::env::{Env, Facts};
use crate::error::{Check, Violation, reject};
use crate::log::{Log, vlog};
use crate::state::{StackSlot, StateId, VerifierState, bits};

/// Rounds over the back-edges after which all their scalars become precise. Source: `MAX_BACKEDGE_ITERS`.
const ROUNDS_MAX: u32 = 64;

/// Call sites outside of the component, then the component.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct SccChain {
    callsites: [u32; CALL_FRAMES_MAX],
    len: u8,
    scc: u32,
}

impl fmt::Display for SccChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        // The kernel's list of call sites ends at the first that is 0.
        for site in self.callsites[..self.len as usize]
            .iter()
            .take_while(|&&site| site != 0)
        {
            write!(f, "{site},")?;
        }
        write!(f, "{})", self.scc)
    }
}

/// A visit of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct VisitRef {
    scc: u32,
    index: u32,
}

struct SccVisit {
    chain: SccChain,
    entry: Option<StateId>,
    backedges: Vec<VerifierState>,
}

/// Visits of all components.
#[derive(Default)]
pub(super) struct SccTable {
    /// By component number.
    visits: Vec<Vec<SccVisit>>,
    /// Back-edges kept.
    pub(super) backedges: u32,
}

impl SccTable {
    pub(super) fn clear(&mut self) {
        self.visits.clear();
        self.backedges = 0;
    }

    fn visit(&self, at: VisitRef) -> &SccVisit {
        &self.visits[at.scc as usize][at.index as usize]
    }

    fn visit_mut(&mut self, at: VisitRef) -> &mut SccVisit {
        &mut self.visits[at.scc as usize][at.index as usize]
    }

    /// The visit of a chain, opened if there is none.
    fn enter(&mut self, chain: SccChain) -> VisitRef {
        let scc = chain.scc;
        if self.visits.len() <= scc as usize {
            self.visits.resize_with(scc as usize + 1, Vec::new);
        }
        let visits = &mut self.visits[scc as usize];
        let known = visits.iter().position(|v| v.chain == chain);
        let index = known.unwrap_or_else(|| {
            visits.push(SccVisit {
                chain,
                entry: None,
                backedges: Vec::new(),
            });
            visits.len() - 1
        }) as u32;
        VisitRef { scc, index }
    }
}

/// The outermost component that a state stands in.
fn chain_of(facts: &Facts, st: &VerifierState) -> Option<SccChain> {
    let mut chain = SccChain::default();
    for frameno in 0..=st.curframe {
        let insn_idx = st.frame_insn_idx(frameno);
        let scc = facts.scc_of(insn_idx);
        if scc != 0 {
            chain.scc = scc;
            return Some(chain);
        }
        if frameno < st.curframe {
            chain.callsites[frameno as usize] = insn_idx;
            chain.len += 1;
        }
    }
    None
}

/// A checkpoint inside of a component opens a visit, unless there is one.
pub(super) fn maybe_enter(env: &mut Env<'_>, id: StateId) {
    let Some(chain) = chain_of(env.facts, env.states.get(id)) else {
        return;
    };
    let at = env.states.scc.enter(chain);
    env.states.stored_mut(id).visit = Some(at);
    let visit = env.states.scc.visit_mut(at);
    if visit.entry.is_none() {
        visit.entry = Some(id);
        if env.log.is_level2() {
            vlog!(env.log, "SCC enter {chain}\n");
        }
    }
}

/// A path has ended inside of a component: some checkpoint opened a visit there.
///
/// # Errors
/// EFAULT where none did: a path may end at a call of `bpf_throw` in a loop before it came to a checkpoint of it. Speculative paths end anywhere.
pub(super) fn check_visited(env: &Env<'_>) -> Check {
    let chain = chain_of(env.facts, &env.cur);
    let Some(chain) = chain.filter(|_| !env.cur.speculative) else {
        return Ok(());
    };
    let visits = env.states.scc.visits.get(chain.scc as usize);
    let is_open = |visits: &Vec<SccVisit>| visits.iter().any(|visit| visit.chain == chain);
    if visits.is_some_and(is_open) {
        return Ok(());
    }
    reject!(
        EFAULT,
        "verifier bug: scc exit: no visit info for call chain {chain}"
    );
}

/// A checkpoint's paths have ended: if it opened a visit, the visit ends.
pub(super) fn maybe_exit(env: &mut Env<'_>, id: StateId) -> Check {
    let Some(at) = env.states.stored(id).visit else {
        return Ok(());
    };
    let visit = env.states.scc.visit_mut(at);
    if visit.entry != Some(id) {
        return Ok(());
    }
    if env.log.is_level2() {
        vlog!(env.log, "SCC exit {}\n", visit.chain);
    }
    visit.entry = None;
    let mut backedges = core::mem::take(&mut visit.backedges);
    // Newest first, as the kernel's list.
    backedges.reverse();
    env.states.scc.backedges -= backedges.len() as u32;
    env.states.update_peak();
    propagate_backedges(env, &backedges)
}

fn propagate_backedges(env: &mut Env<'_>, backedges: &[VerifierState]) -> Check {
    let mut rounds = 0;
    loop {
        rounds += 1;
        if rounds > ROUNDS_MAX {
            if env.log.is_level2() {
                vlog!(env.log, "propagate_backedges: too many iterations\n");
            }
            for state in backedges {
                mark_all_precise(env.log, &mut env.states, state);
            }
            return Ok(());
        }
        let mut changed = false;
        for state in backedges {
            let Some(equal) = state.equal_state else {
                continue;
            };
            changed |= propagate_precision(
                env.facts,
                env.log,
                &mut env.states,
                &mut env.scratch.backtrack,
                equal,
                state,
            )?;
        }
        if !changed {
            return Ok(());
        }
    }
}

/// Keeps a path that a checkpoint inside of an open visit covers.
pub(super) fn add_backedge(env: &mut Env<'_>, covered_by: StateId, state: VerifierState) -> Check {
    let Some(at) = env.states.stored(covered_by).visit else {
        return Err(Violation::bug("add backedge: no SCC in verification path"));
    };
    let visit = env.states.scc.visit_mut(at);
    if env.log.is_level2() {
        vlog!(env.log, "SCC backedge {}\n", visit.chain);
    }
    visit.backedges.push(state);
    env.states.scc.backedges += 1;
    env.states.update_peak();
    Ok(())
}

/// Whether marks of a checkpoint may still grow: its component's visit is open or has back-edges.
pub(super) fn has_open_backedges(states: &StateTable, id: StateId) -> bool {
    let visit = states.stored(id).visit;
    visit.is_some_and(|at| !states.scc.visit(at).backedges.is_empty())
}

/// What checkpoint `from` relies on, the path of `to` relies on. Says whether any mark is new.
pub(super) fn propagate_precision(
    facts: &Facts,
    log: &mut Log,
    states: &mut StateTable,
    bt: &mut BacktrackState,
    from: StateId,
    to: &VerifierState,
) -> Check<bool> {
    let old = states.get(from);
    for frameno in (0..=old.curframe).rev() {
        let frame = old.frame(frameno);
        let mut sep = "";
        let precise_regs = frame.regs[..10]
            .iter()
            .enumerate()
            .filter(|(_, r)| r.ty.is_scalar() && r.precise);
        for (number, _) in precise_regs {
            if log.is_level2() {
                if sep.is_empty() {
                    vlog!(log, "frame {frameno}: propagating r{number}");
                } else {
                    vlog!(log, ",r{number}");
                }
            }
            bt.set_frame_reg(frameno, number as u8);
            sep = ",";
        }
        let is_precise = |s: &StackSlot| s.is_spilled_scalar() && s.spilled().precise;
        for spi in bits(frame.stack.written_with(is_precise)) {
            if log.is_level2() {
                let off = -8 * (spi as i64 + 1);
                if sep.is_empty() {
                    vlog!(log, "frame {frameno}: propagating fp{off}");
                } else {
                    vlog!(log, ",fp{off}");
                }
            }
            bt.set_frame_slot(frameno, spi as u32);
            sep = ",";
        }
        if !sep.is_empty() && log.is_level2() {
            vlog!(log, "\n");
        }
    }
    mark_chain_precision_batch(facts, log, states, bt, to)
}
