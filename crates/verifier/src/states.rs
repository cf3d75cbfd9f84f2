//! Pruning: is what may happen from here covered by a path already walked?
//!
//! At prune points the current state is compared with the *checkpoints* stored for the instruction. A checkpoint whose
//! paths have all ended (`branches == 0`) covers the current state if everything it relied on holds ([`equal`]); one whose
//! paths have not ended means a loop, which only iterators, may_goto and callbacks may close. New checkpoints are added
//! sparingly: after two jumps and eight instructions, or where they are forced.
//!
//! ```text
//! StateTable   arena of checkpoints; a list per bucket (instruction, call site); figures
//! Listed       a checkpoint's misses and hits: useless ones leave the list, and are freed when their paths end
//! Stored       the checkpoint
//! ```
//!
//! Kernel counterpart: `is_state_visited`. Neighbours: `scc` (loops), `backtrack` (precision marks flow into the path that
//! was pruned), `liveness` (what is dead is forgotten), `explore`.

pub(crate) mod equal;
mod listed;
pub(crate) mod scc;
pub(crate) mod widen;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::backtrack::{mark_all_imprecise, push_jmp_history};
use crate::env::{Env, InsnFlags};
use crate::error::{Check, Violation};
use crate::limits::{JMP_HISTORY_SOFT_MAX, STATES_MAX};
use crate::log::insn::log_source_line;
use crate::log::state::{Which, write_state};
use crate::state::{
    Extra, FuncState, HistFlags, IterState, RegState, SharedReg, SlotType, StateId, VerifierState,
};

use equal::Exactness;
use listed::{Difference, List, Listed, Place};

/// A stored state.
struct Stored {
    state: VerifierState,
    /// No longer in its list; freed once its paths have ended.
    evicted: bool,
    /// All its scalars, and those of the checkpoints its path passed before, are precise.
    all_precise: bool,
    /// Of the loop it stands in.
    visit: Option<scc::VisitRef>,
}

/// All checkpoints, and the figures about them.
#[derive(Default)]
pub(crate) struct StateTable {
    arena: Vec<Option<Box<Stored>>>,
    /// Of each: paths that started there and have not ended. Asked of every checkpoint that is passed by, so they stand together.
    branches: Vec<u32>,
    /// Of each: its list.
    homes: Vec<u32>,
    free: Vec<u32>,
    /// Index into `lists`, plus one; 0 where no checkpoint was stored yet.
    buckets: Vec<u32>,
    lists: Vec<List>,
    scc: scc::SccTable,
    stored: u32,
    evicted: u32,
    pub(crate) total: u32,
    pub(crate) peak: u32,
    /// As `peak`, with the paths that wait.
    pub(crate) peak_held: u32,
    pub(crate) max_per_insn: u32,
}

impl StateTable {
    pub(crate) fn new(insn_count: usize) -> Self {
        StateTable {
            buckets: alloc::vec![0; insn_count.max(1)],
            ..StateTable::default()
        }
    }

    /// The checkpoint; ids come from this table and name live ones while a path refers to them.
    #[inline]
    pub(crate) fn get(&self, id: StateId) -> &VerifierState {
        &self.stored(id).state
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: StateId) -> &mut VerifierState {
        &mut self.stored_mut(id).state
    }

    /// Paths that started at a checkpoint and have not ended.
    #[inline]
    fn branches(&self, id: StateId) -> u32 {
        self.branches[id.index()]
    }

    /// One more path starts at a checkpoint.
    #[inline]
    pub(crate) fn add_branch(&mut self, id: StateId) {
        self.branches[id.index()] += 1;
    }

    /// All scalars of a checkpoint become precise, and of those before it; says whether they were made so before.
    pub(crate) fn note_all_precise(&mut self, id: StateId) -> bool {
        core::mem::replace(&mut self.stored_mut(id).all_precise, true)
    }

    #[inline]
    fn stored(&self, id: StateId) -> &Stored {
        match &self.arena[id.index()] {
            Some(stored) => stored,
            None => unreachable!("freed checkpoint {}", id.index()),
        }
    }

    #[inline]
    fn stored_mut(&mut self, id: StateId) -> &mut Stored {
        match &mut self.arena[id.index()] {
            Some(stored) => stored,
            None => unreachable!("freed checkpoint {}", id.index()),
        }
    }

    fn insert(&mut self, bucket: usize, state: VerifierState) -> StateId {
        let insn_idx = state.insn_idx;
        let stored = Some(Box::new(Stored {
            state,
            evicted: false,
            all_precise: false,
            visit: None,
        }));
        let place = &mut self.buckets[bucket];
        if *place == 0 {
            self.lists.push(List::default());
            *place = self.lists.len() as u32;
        }
        let home = *place - 1;
        let id = match self.free.pop() {
            Some(index) => {
                self.arena[index as usize] = stored;
                self.branches[index as usize] = 1;
                self.homes[index as usize] = home;
                StateId::at(index)
            }
            None => {
                self.arena.push(stored);
                self.branches.push(1);
                self.homes.push(home);
                StateId::at(self.arena.len() as u32 - 1)
            }
        };
        self.lists[home as usize].push(Listed {
            id,
            insn_idx,
            misses: 0,
            hits: 0,
            differed: Difference::default(),
            cleaned: false,
        });
        id
    }

    /// Index of a bucket's list, if there is one.
    #[inline]
    fn list_of(&self, bucket: usize) -> Option<usize> {
        self.buckets[bucket]
            .checked_sub(1)
            .map(|list| list as usize)
    }

    /// The checkpoints of a bucket, oldest first.
    #[inline]
    fn bucket(&self, bucket: usize) -> &[Listed] {
        match self.list_of(bucket) {
            None => &[],
            Some(list) => &self.lists[list].entries,
        }
    }

    /// Takes a useless checkpoint from its list; it is freed once its paths have ended.
    fn evict(&mut self, list: usize, index: usize) {
        let listed = self.lists[list].entries.remove(index);
        if self.branches(listed.id) == 0 && !listed.cleaned {
            self.lists[list].to_clean -= 1;
        }
        self.stored_mut(listed.id).evicted = true;
        self.evicted += 1;
        self.stored -= 1;
        self.free_if_done(listed.id);
    }

    /// A path that started at a checkpoint has ended; `true` if it was the last one.
    fn end_branch(&mut self, id: StateId) -> bool {
        let branches = &mut self.branches[id.index()];
        let was_last = *branches == 1;
        *branches = branches.saturating_sub(1);
        let has_ended = *branches == 0;
        if was_last && !self.stored(id).evicted {
            self.lists[self.homes[id.index()] as usize].to_clean += 1;
        }
        has_ended
    }

    fn kept(&self) -> u32 {
        self.stored + self.evicted + self.scc.backedges
    }

    fn update_peak(&mut self) {
        self.peak = self.peak.max(self.kept());
        self.peak_held = self.peak_held.max(self.peak);
    }

    /// So many paths wait.
    #[inline]
    pub(crate) fn note_waiting(&mut self, paths: u32) {
        self.peak_held = self.peak_held.max(self.kept() + paths);
    }

    fn free_if_done(&mut self, id: StateId) {
        // Back-edges may still refer to it.
        if self.stored(id).evicted && self.branches(id) == 0 && !scc::has_open_backedges(self, id) {
            self.arena[id.index()] = None;
            self.free.push(id.index() as u32);
            self.evicted -= 1;
        }
    }

    /// Forgets all checkpoints: the next function is explored afresh. The figures stay.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.branches.clear();
        self.homes.clear();
        self.free.clear();
        self.buckets.fill(0);
        self.lists.clear();
        self.scc.clear();
    }
}

/// Whether the current path goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    Continue,
    /// A stored state covers it.
    Pruned,
}

fn bucket_of(env: &Env<'_>, insn_idx: u32) -> usize {
    // Programs have at most a million instructions: a division of 32 bits does.
    let count = env.facts.raw.len().max(1) as u32;
    ((insn_idx ^ env.cur.cur_frame().callsite) % count) as usize
}

/// Looks for a checkpoint at the current instruction that covers the current state; else maybe stores one.
pub(crate) fn check_state_visited(env: &mut Env<'_>) -> Check<Visit> {
    let insn_idx = env.insn_idx;
    let facts = env.facts;
    let force_checkpoint = facts.has_flag(insn_idx, InsnFlags::FORCE_CHECKPOINT);
    let force_new = env.modes.test_state_freq
        || force_checkpoint
        || env.cur.history.len() > JMP_HISTORY_SOFT_MAX;
    let jmps = env.jmps_processed - env.prev_jmps_processed;
    let insns = env.insn_processed - env.prev_insn_processed;
    let mut add_new = force_new || jmps >= 2 && insns >= 8;

    let bucket = bucket_of(env, insn_idx);
    if env.recording.is_none() && env.stop_points.is_none() {
        clean_live_states(env, bucket, insn_idx);
    }

    let mut count = 0;
    if let Some(list) = env.states.list_of(bucket) {
        let mut in_loop = false;
        for index in (0..env.states.lists[list].entries.len()).rev() {
            let listed = env.states.lists[list].entries[index];
            count += 1;
            if listed.insn_idx != insn_idx {
                continue;
            }
            let mut differed = listed.differed;
            let found = compare(env, listed.id, insn_idx, &mut in_loop, &mut differed)?;
            let is_open = env.states.branches(listed.id) > 0;
            let entry = &mut env.states.lists[list].entries[index];
            entry.differed = differed;
            match found {
                Found::Covers => {
                    entry.hits += 1;
                    hit(env, listed.id, insn_idx, in_loop)?;
                    return Ok(Visit::Pruned);
                }
                Found::Looping => {
                    if !force_new && jmps < 20 && insns < 100 {
                        add_new = false;
                    }
                }
                Found::Differs => {}
            }
            if add_new {
                entry.misses += 1;
            }
            let patience = if force_checkpoint && is_open { 64 } else { 3 };
            if entry.misses > entry.hits * patience + patience {
                env.states.evict(list, index);
            }
        }
    }
    env.states.max_per_insn = env.states.max_per_insn.max(count);
    if !env.permits.bpf_capable && count > STATES_MAX || !add_new {
        return Ok(Visit::Continue);
    }
    add_checkpoint(env, bucket, insn_idx)?;
    Ok(Visit::Continue)
}

fn add_checkpoint(env: &mut Env<'_>, bucket: usize, insn_idx: u32) -> Check {
    env.states.total += 1;
    env.states.stored += 1;
    env.states.update_peak();
    env.prev_jmps_processed = env.jmps_processed;
    env.prev_insn_processed = env.insn_processed;
    if env.permits.bpf_capable {
        mark_all_imprecise(&mut env.cur);
    }
    // The history up to here belongs to the checkpoint.
    let history = env.cur.history.take();
    let mut state = env.cur.clone();
    state.history = history;
    state.insn_idx = insn_idx;
    let dfs_depth = state.dfs_depth;
    let id = env.states.insert(bucket, state);
    scc::maybe_enter(env, id);
    env.cur.parent = Some(id);
    env.walked.forget();
    env.cur.first_insn_idx = insn_idx;
    env.cur.dfs_depth = dfs_depth + 1;
    Ok(())
}

/// What a checkpoint says of the current state.
enum Found {
    Covers,
    /// Its paths have not ended.
    Looping,
    Differs,
}

/// `in_loop`: whether the covering checkpoint's marks may still grow; kept from one checkpoint to the next, as calls of
/// callbacks do not set it.
fn compare(
    env: &mut Env<'_>,
    id: StateId,
    insn_idx: u32,
    in_loop: &mut bool,
    differed: &mut Difference,
) -> Check<Found> {
    let facts = env.facts;
    if env.states.branches(id) == 0 {
        if differed.tells(env, false) {
            if facts.has_flag(insn_idx, InsnFlags::CALLS_CALLBACK) {
                *in_loop = scc::has_open_backedges(&env.states, id);
            }
            return Ok(Found::Differs);
        }
        *in_loop = scc::has_open_backedges(&env.states, id);
        let exactness = if *in_loop || env.recording.is_some() {
            Exactness::RangeWithin
        } else {
            Exactness::NotExact
        };
        return Ok(if equal::states_equal(env, id, exactness, differed) {
            Found::Covers
        } else {
            Found::Differs
        });
    }
    // It covers the current state in none of these ways.
    if differed.tells(env, true) {
        return Ok(Found::Looping);
    }
    let frame = env.states.get(id).cur_frame();
    let async_entries = |frame: &FuncState| frame.stack.callbacks().async_entries;
    if frame.kind.is_async() && async_entries(frame) != async_entries(env.cur.cur_frame()) {
        return Ok(Found::Looping);
    }
    if facts.has_flag(insn_idx, InsnFlags::ITER_NEXT) {
        if equal::states_equal(env, id, Exactness::RangeWithin, differed)
            && current_iter_is_active(env)
        {
            *in_loop = true;
            return Ok(Found::Covers);
        }
        return Ok(Found::Looping);
    }
    if facts.has_flag(insn_idx, InsnFlags::MAY_GOTO)
        && env.states.get(id).may_goto_depth != env.cur.may_goto_depth
        && equal::states_equal(env, id, Exactness::RangeWithin, differed)
    {
        *in_loop = true;
        return Ok(Found::Covers);
    }
    if facts.has_flag(insn_idx, InsnFlags::CALLS_CALLBACK) {
        if equal::states_equal(env, id, Exactness::RangeWithin, differed) {
            return Ok(Found::Covers);
        }
        return Ok(Found::Looping);
    }
    let old = env.states.get(id);
    if !may_be_looping(old, &env.cur, facts.live_regs[insn_idx as usize], differed) {
        return Ok(Found::Looping);
    }
    if equal::states_equal(env, id, Exactness::Exact, differed)
        && !iter_depths_differ(env.states.get(id), &env.cur)
        && env.states.get(id).may_goto_depth == env.cur.may_goto_depth
        && env.states.get(id).callback_unroll_depth == env.cur.callback_unroll_depth
    {
        return Err(infinite_loop(env, id, insn_idx));
    }
    Ok(Found::Looping)
}

#[cold]
fn infinite_loop(env: &mut Env<'_>, id: StateId, insn_idx: u32) -> Box<Violation> {
    use core::fmt::Write;
    log_source_line(env.log, env.facts, &mut env.prev_linfo, insn_idx, "; ");
    let mut text = alloc::format!("infinite loop detected at insn {insn_idx}\ncur state:");
    // Writing to a String cannot fail.
    let _ = write_state(&mut text, env.facts, &env.cur, env.cur.curframe, Which::All);
    let _ = write!(text, "old state:");
    let _ = write_state(
        &mut text,
        env.facts,
        env.states.get(id),
        env.cur.curframe,
        Which::All,
    );
    let trimmed = text.trim_end_matches('\n').len();
    text.truncate(trimmed);
    Violation::new(ring3_uapi::Errno::EINVAL, text)
}

/// The iterator that r1 of an `iter_next` call points to.
fn current_iter_is_active(env: &Env<'_>) -> bool {
    let reg = env.cur.reg(ring3_isa::Reg::R1);
    let Some(off) = reg.const_offset() else {
        return false;
    };
    let Ok(spi) = usize::try_from((-off - 1) / 8) else {
        return false;
    };
    let Some(frame) = env.cur.get_frame(reg.frameno) else {
        return false;
    };
    matches!(
        frame.stack.get(spi).map(|slot| slot.spilled().extra),
        Some(Extra::Iter {
            state: IterState::Active,
            ..
        })
    )
}

/// Whether the registers of the innermost frame are the same, ids included. If a live one is not, `differed` says which.
fn may_be_looping(
    old: &VerifierState,
    cur: &VerifierState,
    live_regs: u16,
    differed: &mut Difference,
) -> bool {
    let same = |a: &RegState, b: &RegState| {
        a.ty == b.ty
            && a.off == b.off
            && a.extra == b.extra
            && a.scalar == b.scalar
            && a.id == b.id
            && a.ref_obj_id == b.ref_obj_id
    };
    let frame = old.curframe;
    if frame != cur.curframe {
        return false;
    }
    let mut all_same = true;
    let pairs = old.cur_frame().regs.iter().zip(&cur.cur_frame().regs);
    for (number, (a, b)) in pairs.enumerate() {
        if a.is_same(b) || same(a, b) {
            continue;
        }
        all_same = false;
        if live_regs & 1 << number != 0 {
            let index = number as u8;
            *differed = Difference::at(old, Place { frame, index });
            break;
        }
    }
    all_same
}

fn iter_depths_differ(old: &VerifierState, cur: &VerifierState) -> bool {
    (0..=old.curframe).rev().any(|frameno| {
        old.frame(frameno)
            .stack
            .iter()
            .enumerate()
            .any(|(spi, slot)| {
                if slot.types[0] != SlotType::Iter {
                    return false;
                }
                let Extra::Iter {
                    state: IterState::Active,
                    depth,
                    ..
                } = slot.spilled().extra
                else {
                    return false;
                };
                match cur
                    .frame(frameno)
                    .stack
                    .get(spi)
                    .map(|slot| slot.spilled().extra)
                {
                    Some(Extra::Iter { depth: other, .. }) => other != depth,
                    _ => true,
                }
            })
    })
}

/// The current path is covered: what the checkpoint relies on, the path relies on as well.
fn hit(env: &mut Env<'_>, id: StateId, insn_idx: u32, in_loop: bool) -> Check {
    if env.facts.has_flag(insn_idx, InsnFlags::JMP_POINT) {
        push_jmp_history(env, HistFlags::NONE, 0);
    }
    scc::propagate_precision(
        env.facts,
        env.log,
        &mut env.states,
        &mut env.scratch.backtrack,
        id,
        &env.cur,
    )?;
    if in_loop {
        let mut state = env.cur.clone();
        state.equal_state = Some(id);
        state.insn_idx = insn_idx;
        scc::add_backedge(env, id, state)?;
    }
    Ok(())
}

/// Forgets, in the checkpoints of an instruction, registers and slots that nobody will read.
fn clean_live_states(env: &mut Env<'_>, bucket: usize, insn_idx: u32) {
    let Some(list) = env.states.list_of(bucket) else {
        return;
    };
    for index in (0..env.states.lists[list].entries.len()).rev() {
        if env.states.lists[list].to_clean == 0 {
            return;
        }
        let listed = env.states.lists[list].entries[index];
        if listed.cleaned || listed.insn_idx != insn_idx {
            continue;
        }
        if env.states.branches(listed.id) != 0
            || !same_callsites(env.states.get(listed.id), &env.cur)
            || scc::has_open_backedges(&env.states, listed.id)
        {
            continue;
        }
        let list = &mut env.states.lists[list];
        list.to_clean -= 1;
        list.entries[index].cleaned = true;
        // What differed may be forgotten now.
        list.entries[index].differed = Difference::default();
        let st = env.states.get_mut(listed.id);
        clean_state(env.facts, &mut env.stack_liveness, &env.no_reg, st);
    }
}

fn same_callsites(a: &VerifierState, b: &VerifierState) -> bool {
    a.curframe == b.curframe
        && (0..=a.curframe)
            .rev()
            .all(|f| a.frame(f).callsite == b.frame(f).callsite)
}

fn clean_state(
    facts: &crate::env::Facts,
    liveness: &mut crate::liveness::stack::StackLiveness,
    no_reg: &SharedReg,
    st: &mut VerifierState,
) {
    liveness.begin_query(st);
    for frameno in 0..=st.curframe {
        let live_regs = facts.live_regs[st.frame_insn_idx(frameno) as usize];
        let frame = st.frame(frameno);
        let dead_slots = frame.stack.written_slots() & !liveness.live_slots(facts, frameno);
        let any_dead_reg = frame.regs[..10]
            .iter()
            .enumerate()
            .any(|(n, reg)| reg.ty.is_init() && live_regs & 1 << n == 0);
        if dead_slots == 0 && !any_dead_reg {
            continue;
        }
        let frame = st.frame_mut(frameno);
        for (number, reg) in frame.regs[..10].iter_mut().enumerate() {
            if live_regs & 1 << number == 0 {
                *reg = no_reg.clone();
            }
        }
        frame.stack.forget(dead_slots);
    }
}

/// A path has ended: its checkpoints have one path less.
pub(crate) fn update_branch_counts(env: &mut Env<'_>) -> Check {
    scc::check_visited(env)?;
    let mut at = env.cur.parent;
    while let Some(id) = at {
        if !env.states.end_branch(id) {
            break;
        }
        at = env.states.get(id).parent;
        scc::maybe_exit(env, id)?;
        env.states.free_if_done(id);
    }
    Ok(())
}

/// After a callback returned: scalars that differ from the last time the loop stood here, and whose values nobody relied on, are
/// forgotten, so that the loop converges (`find_prev_entry`, `widen_imprecise_scalars`).
pub(crate) fn widen_from_previous_entry(env: &mut Env<'_>) {
    let insn_idx = env.insn_idx;
    let bucket = bucket_of(env, insn_idx);
    let found = |listed: &&Listed| {
        let st = env.states.get(listed.id);
        listed.insn_idx == insn_idx
            && env.states.branches(listed.id) != 0
            && same_callsites(st, &env.cur)
            && st.dfs_depth < env.cur.dfs_depth
    };
    let previous = env.states.bucket(bucket).iter().rev().find(found);
    if let Some(id) = previous.map(|listed| listed.id) {
        let mut cur = env.cur.clone();
        widen::widen_imprecise_scalars(env, id, &mut cur);
        env.cur = cur;
    }
}
