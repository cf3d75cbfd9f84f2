//! Precision: which scalars' exact values a proof depends on.
//!
//! Pruning ignores what is known of a scalar unless it is *precise*. When a check relies on a value (a bounds check, a branch
//! decided in advance, an access size), [`mark_chain_precision`] walks the path backwards, instruction by instruction and
//! checkpoint by checkpoint, and marks in every checkpoint the registers and slots that the value came from.
//!
//! Instruction `i` transforms the wanted set backwards: `dst = src` moves the mark, `dst += src` adds `src`, `dst = K` drops it,
//! a fill or spill moves it between register and slot (the history entry knows which slot), calls and exits move between
//! frames. Where the walk cannot follow, all scalars of all checkpoints become precise.
//!
//! Kernel counterpart: `__mark_chain_precision`. Within: `step` (one instruction), `quick` (what most of them do, from a table), `wanted` (the
//! set), `walked` (where walks began). Neighbours: `states` propagates marks when it prunes.

pub(crate) mod quick;
mod step;
mod walked;
mod wanted;

use ring3_isa::Reg;

use crate::env::{Env, Facts};
use crate::error::{Check, Violation};
use crate::log::state::{Which, write_state};
use crate::log::{Log, vlog};
use crate::state::{Cursor, HistFlags, JmpHistoryEntry, MAIN_CALLSITE, RegBase, VerifierState};
use crate::states::StateTable;
use quick::Noted;
use step::{ARGS, Step, backtrack_insn};
use walked::Moment;
pub(crate) use walked::Walked;
pub(crate) use wanted::{BacktrackState, LinkedReg, LinkedRegs};
use wanted::{RegMask, SlotMask};

/// Records the current instruction in the path's history, or adds to its record.
#[inline]
pub(crate) fn push_jmp_history(env: &mut Env<'_>, flags: HistFlags, linked_regs: u64) {
    if env.has_hist {
        env.cur.history.amend_last(flags, linked_regs);
        return;
    }
    env.has_hist = true;
    env.cur.history.push(JmpHistoryEntry {
        idx: env.insn_idx,
        prev_idx: env.prev_insn_idx,
        flags,
        linked_regs,
    });
}

/// The exact value of a scalar register of the current frame matters.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn mark_chain_precision(env: &mut Env<'_>, reg: Reg) -> Check {
    if !env.permits.bpf_capable {
        return Ok(());
    }
    if !env.cur.reg(reg).ty.is_scalar() {
        return Err(Violation::bug("backtracking misuse"));
    }
    let bt = &mut env.scratch.backtrack;
    let frame = env.cur.curframe;
    bt.frame = frame;
    bt.set(reg);
    let begin = Moment {
        insn_idx: env.cur.insn_idx,
        entries: env.cur.history.len() as u32 - u32::from(env.has_hist),
    };
    let walked = (!env.log.is_level2()).then_some(&env.walked);
    walk(env.facts, env.log, &mut env.states, bt, &env.cur, walked)?;
    env.walked.note(reg.index(), frame, begin);
    Ok(())
}

/// As [`mark_chain_precision`] for what the caller set in `bt` (`env.scratch.backtrack`), from `start`.
/// Says whether any mark is new.
pub(crate) fn mark_chain_precision_batch(
    facts: &Facts,
    log: &mut Log,
    states: &mut StateTable,
    bt: &mut BacktrackState,
    start: &VerifierState,
) -> Check<bool> {
    bt.frame = start.curframe;
    walk(facts, log, states, bt, start, None)
}

fn walk(
    facts: &Facts,
    log: &mut Log,
    states: &mut StateTable,
    bt: &mut BacktrackState,
    start: &VerifierState,
    walked: Option<&Walked>,
) -> Check<bool> {
    let result = walk_inner(facts, log, states, bt, start, walked);
    let frame = bt.frame;
    *bt = BacktrackState {
        frame,
        ..BacktrackState::default()
    };
    result
}

fn walk_inner(
    facts: &Facts,
    log: &mut Log,
    states: &mut StateTable,
    bt: &mut BacktrackState,
    start: &VerifierState,
    walked: Option<&Walked>,
) -> Check<bool> {
    let mut changed = false;
    let mut walked = walked;
    if bt.is_empty() {
        return Ok(false);
    }
    let mut first_idx = start.first_insn_idx;
    let mut last_idx = start.insn_idx as i64;
    let mut subseq_idx: i64 = -1;
    let mut skip_first = true;
    let mut at: Option<crate::state::StateId> = None;
    loop {
        if log.is_level2() {
            vlog!(
                log,
                "mark_precise: frame{}: last_idx {last_idx} first_idx {first_idx} subseq_idx {subseq_idx} \n",
                bt.frame
            );
        }
        let parent = {
            let st = match at {
                Some(id) => states.get(id),
                None => start,
            };
            if last_idx < 0 {
                let root = st.frame(0);
                if st.curframe == 0
                    && root.subprogno() > 0
                    && root.callsite == MAIN_CALLSITE
                    && bt.slot_mask() == 0
                    && bt.reg_mask() & !ARGS == 0
                {
                    let mask = bt.reg_mask();
                    bt.regs[bt.frame as usize] = 0;
                    if let Some(id) = at {
                        let root = states.get_mut(id).frame_mut(0);
                        for (number, reg) in root.regs.iter_mut().enumerate() {
                            if mask & 1 << number != 0 && reg.ty.is_scalar() {
                                reg.precise = true;
                                changed = true;
                            }
                        }
                    }
                    return Ok(changed);
                }
                return Err(Violation::bug(format_args!(
                    "backtracking func entry subprog {} reg_mask {:x} stack_mask {:x}",
                    root.subprogno(),
                    bt.reg_mask(),
                    bt.slot_mask()
                )));
            }
            let mut history = st.history.cursor();
            let mut way = Way {
                idx: last_idx as u32,
                subseq_idx,
                first_idx: st.first_insn_idx,
            };
            loop {
                let step = if skip_first {
                    skip_first = false;
                    Step::Done
                } else {
                    if !log.is_level2() && way.take_quick_steps(facts, &mut history, bt, walked)? {
                        break;
                    }
                    let hist = history.at(way.idx);
                    backtrack_insn(facts, log, way.idx, way.subseq_idx, hist.as_ref(), bt)?
                };
                if let Step::GiveUp = step {
                    mark_all_precise(log, states, start);
                    return Ok(changed);
                }
                if let Some(walked) = walked {
                    bt.drop_known(walked, way.moment(&history));
                }
                if bt.is_empty() {
                    return Ok(changed);
                }
                if way.is_at_begin(&history) {
                    break;
                }
                way.step_back(facts, &mut history)?;
            }
            if bt.is_empty() {
                return Ok(changed);
            }
            st.parent
        };
        let Some(parent) = parent else { break };
        at = Some(parent);
        walked = None;
        changed |= mark_parent(facts, log, states, bt, parent)?;
        if bt.is_empty() {
            return Ok(changed);
        }
        let st = states.get(parent);
        subseq_idx = i64::from(first_idx);
        last_idx = i64::from(st.last_insn_idx as i32);
        first_idx = st.first_insn_idx;
    }
    mark_all_precise(log, states, start);
    Ok(changed)
}

/// Where a walk backwards through the history of one state stands.
struct Way {
    idx: u32,
    /// The instruction walked before, which runs after `idx`.
    subseq_idx: i64,
    /// The first instruction of the state.
    first_idx: u32,
}

impl Way {
    #[inline]
    fn is_at_begin(&self, history: &Cursor<'_>) -> bool {
        self.idx == self.first_idx
            && (history.len() == 0 || history.len() == 1 && history.newest_idx() == self.idx)
    }

    /// Before the instruction, whose entry the history has still if there is one.
    #[inline]
    fn moment(&self, history: &Cursor<'_>) -> Moment {
        let has_own_entry = history.newest_idx() == self.idx;
        Moment {
            insn_idx: self.idx,
            entries: history.len() as u32 - u32::from(has_own_entry),
        }
    }

    #[inline]
    fn step_back(&mut self, facts: &Facts, history: &mut Cursor<'_>) -> Check {
        self.subseq_idx = i64::from(self.idx);
        self.idx = match history.at(self.idx) {
            Some(entry) => {
                history.pop();
                entry.prev_idx
            }
            None => self.idx.wrapping_sub(1),
        };
        if self.idx as usize >= facts.raw.len() {
            return Err(Violation::bug(format_args!(
                "backtracking idx {}",
                self.idx as i32
            )));
        }
        Ok(())
    }

    /// Goes back over instructions that change nothing, as far as one only has to count down: to the newest entry of the history, the begin
    /// of the state, or where a walk for what is wanted began.
    #[inline]
    fn skip_idle_steps(
        &mut self,
        facts: &Facts,
        history: &Cursor<'_>,
        wanted: u32,
        walked: Option<&Walked>,
    ) {
        let known = walked.map_or(u32::MAX, |walked| walked.begin_of(wanted));
        let (first, newest) = (self.first_idx, history.newest_idx());
        let mut idx = self.idx;
        while idx != newest && idx != first && idx != known && idx != 0 {
            match facts.quick_steps.get(idx as usize) {
                Some(step) if step.is_idle(wanted) => idx -= 1,
                Some(_) | None => break,
            }
        }
        if idx != self.idx {
            self.idx = idx;
            self.subseq_idx = i64::from(idx) + 1;
        }
    }

    /// Goes on as long as steps need nothing but the wanted registers of the frame. `true`: at the begin of the state, or nothing is
    /// wanted any more; else `idx` is an instruction whose whole rule must say.
    fn take_quick_steps(
        &mut self,
        facts: &Facts,
        history: &mut Cursor<'_>,
        bt: &mut BacktrackState,
        walked: Option<&Walked>,
    ) -> Check<bool> {
        let frame = usize::from(bt.frame);
        let mut wanted = bt.regs[frame];
        // Quick steps leave the rest of the set alone.
        bt.regs[frame] = 0;
        let is_rest_empty = bt.is_empty();
        let is_end = loop {
            self.skip_idle_steps(facts, history, wanted, walked);
            let mut noted = Noted::Nothing;
            if history.newest_idx() == self.idx {
                if history.newest_is_linked() {
                    break false;
                }
                noted = if is_rest_empty {
                    Noted::OfNoSlot
                } else {
                    Noted::Something
                };
            }
            match facts.quick_steps[self.idx as usize].before(wanted, noted) {
                Some(before) => wanted = before,
                None => break false,
            }
            if let Some(walked) = walked {
                wanted = walked.without_known(wanted, bt.frame, self.moment(history));
            }
            if wanted == 0 && is_rest_empty || self.is_at_begin(history) {
                break true;
            }
            self.step_back(facts, history)?;
        };
        bt.regs[frame] = wanted;
        Ok(is_end)
    }
}

/// Marks what is wanted in a checkpoint; what is marked already, or is no scalar, is wanted no more.
fn mark_parent(
    facts: &Facts,
    log: &mut Log,
    states: &mut StateTable,
    bt: &mut BacktrackState,
    id: crate::state::StateId,
) -> Check<bool> {
    let mut changed = false;
    let st = states.get_mut(id);
    for frameno in (0..=bt.frame).rev() {
        let f = frameno as usize;
        let Some(frame) = st.get_frame(frameno) else {
            return Err(Violation::bug(format_args!(
                "backtracking frame {frameno} of a shorter state"
            )));
        };
        let (mut new_regs, mut new_slots) = (0u32, 0u64);
        let mut mask = bt.regs[f];
        while mask != 0 {
            let number = mask.trailing_zeros();
            mask &= mask - 1;
            let wants = frame
                .regs
                .get(number as usize)
                .is_some_and(|r| r.ty.is_scalar() && !r.precise);
            if wants {
                new_regs |= 1 << number;
            }
        }
        bt.regs[f] = new_regs;
        let mut mask = bt.slots[f];
        while mask != 0 {
            let spi = mask.trailing_zeros();
            mask &= mask - 1;
            let Some(slot) = frame.stack.get(spi as usize) else {
                return Err(Violation::bug(format_args!(
                    "stack slot {spi}, total slots {}",
                    frame.stack.len()
                )));
            };
            if slot.is_spilled_scalar() && !slot.spilled().precise {
                new_slots |= 1 << spi;
            }
        }
        bt.slots[f] = new_slots;
        if new_regs != 0 || new_slots != 0 {
            changed = true;
            let frame = st.frame_mut(frameno);
            for (number, reg) in frame.regs.iter_mut().enumerate() {
                if new_regs & 1 << number != 0 {
                    reg.precise = true;
                }
            }
            let mut mask = new_slots;
            while mask != 0 {
                let spi = mask.trailing_zeros();
                mask &= mask - 1;
                frame.stack[spi as usize].spilled_mut().precise = true;
            }
        }
        if log.is_level2() {
            vlog!(
                log,
                "mark_precise: frame{frameno}: parent state regs={} stack={}: ",
                RegMask(bt.regs[f]),
                SlotMask(bt.slots[f])
            );
            // Writing to the sink cannot fail.
            let _ = write_state(log, facts, st, frameno, Which::All);
        }
    }
    Ok(changed)
}

/// All scalars of all checkpoints of a path become precise.
pub(crate) fn mark_all_precise(log: &mut Log, states: &mut StateTable, start: &VerifierState) {
    if log.is_level2() {
        vlog!(
            log,
            "mark_precise: frame{}: falling back to forcing all scalars precise\n",
            start.curframe
        );
    }
    let mut at = start.parent;
    while let Some(id) = at {
        if states.note_all_precise(id) {
            // Those before it were marked with it.
            return;
        }
        let st = states.get_mut(id);
        for frameno in 0..=st.curframe {
            let frame = st.frame(frameno);
            let misses = frame.regs[..10]
                .iter()
                .any(|r| r.ty.is_scalar() && !r.precise)
                || frame
                    .stack
                    .any_written(|s| s.is_spilled_scalar() && !s.spilled().precise);
            if !misses {
                continue;
            }
            let frame = st.frame_mut(frameno);
            for (number, reg) in frame.regs[..10].iter_mut().enumerate() {
                if reg.ty.is_scalar() && !reg.precise {
                    reg.precise = true;
                    if log.is_level2() {
                        vlog!(
                            log,
                            "force_precise: frame{frameno}: forcing r{number} to be precise\n"
                        );
                    }
                }
            }
            frame.stack.change(
                |slot| slot.is_spilled_scalar() && !slot.spilled().precise,
                |spi, slot| {
                    slot.spilled_mut().precise = true;
                    if log.is_level2() {
                        let off = -(8 * (spi as i64 + 1));
                        vlog!(
                            log,
                            "force_precise: frame{frameno}: forcing fp{off} to be precise\n"
                        );
                    }
                },
            );
        }
        at = st.parent;
    }
}

/// Makes all scalars of a path's frames imprecise again: a checkpoint starts afresh.
pub(crate) fn mark_all_imprecise(st: &mut VerifierState) {
    for frameno in 0..=st.curframe {
        let frame = st.frame(frameno);
        let any = frame.regs[..10]
            .iter()
            .any(|r| r.ty.is_scalar() && r.precise)
            || frame
                .stack
                .any_written(|s| s.is_spilled_scalar() && s.spilled().precise);
        if !any {
            continue;
        }
        let frame = st.frame_mut(frameno);
        for reg in &mut frame.regs[..10] {
            if reg.ty.base == RegBase::Scalar && reg.precise {
                reg.precise = false;
            }
        }
        frame.stack.change(
            |slot| slot.is_spilled_scalar() && slot.spilled().precise,
            |_, slot| slot.spilled_mut().precise = false,
        );
    }
}
