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
//! Kernel counterpart: `backtrack_insn`, `__mark_chain_precision`. Neighbours: `states` propagates marks when it prunes.

pub(crate) mod quick;

use core::fmt;

use ring3_isa::{AtomicOp, CallTarget, Insn, Operand, Reg};
use ring3_uapi::FuncId;
use ring3_uapi::limits::CALL_FRAMES_MAX;

use crate::env::{Env, Facts, InsnFlags, Linkage, Slot};
use crate::error::{Check, Violation};
use crate::log::insn::log_insn;
use crate::log::state::{Which, write_state};
use crate::log::{Log, vlog};
use crate::state::{HistFlags, JmpHistoryEntry, MAIN_CALLSITE, RegBase, VerifierState};
use crate::states::StateTable;

/// r1 to r5.
const ARGS: u32 = 0b11_1110;

/// Registers and slots wanted per frame; empty between calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BacktrackState {
    frame: u8,
    regs: [u32; CALL_FRAMES_MAX],
    slots: [u64; CALL_FRAMES_MAX],
}

impl BacktrackState {
    #[inline]
    fn is_empty(&self) -> bool {
        // Asked at every step: nearly always the frame that is walked wants something.
        if self.reg_mask() != 0 || self.slot_mask() != 0 {
            return false;
        }
        self.regs.iter().fold(0, |any, &m| any | m) == 0
            && self.slots.iter().fold(0, |any, &m| any | m) == 0
    }

    #[inline]
    pub(crate) fn set_frame_reg(&mut self, frame: u8, reg: u8) {
        self.regs[frame as usize] |= 1 << reg;
    }

    #[inline]
    pub(crate) fn set_frame_slot(&mut self, frame: u8, spi: u32) {
        self.slots[frame as usize] |= 1 << (spi & 63);
    }

    fn set(&mut self, reg: Reg) {
        self.regs[self.frame as usize] |= 1 << reg.number();
    }

    fn clear(&mut self, reg: Reg) {
        self.regs[self.frame as usize] &= !(1 << reg.number());
    }

    fn has(&self, reg: Reg) -> bool {
        self.regs[self.frame as usize] & 1 << reg.number() != 0
    }

    fn reg_mask(&self) -> u32 {
        self.regs[self.frame as usize]
    }

    fn slot_mask(&self) -> u64 {
        self.slots[self.frame as usize]
    }

    /// Backwards into a callee.
    fn enter(&mut self) -> Check {
        if self.frame as usize >= CALL_FRAMES_MAX - 1 {
            return Err(Violation::bug("subprog enter from frame 7"));
        }
        self.frame += 1;
        Ok(())
    }

    /// Backwards out of a callee.
    fn leave(&mut self) -> Check {
        if self.frame == 0 {
            return Err(Violation::bug("subprog exit from frame 0"));
        }
        self.frame -= 1;
        Ok(())
    }
}

/// A register or slot that shares an id with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkedReg {
    pub(crate) frame: u8,
    /// Register number or slot index.
    pub(crate) index: u8,
    pub(crate) is_reg: bool,
}

/// At most [`LinkedRegs::MAX`] registers and slots that share one id.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkedRegs {
    list: [LinkedReg; LinkedRegs::MAX],
    len: u8,
}

impl LinkedRegs {
    /// More are not kept. Source: `LINKED_REGS_MAX`.
    pub(crate) const MAX: usize = 6;

    /// Adds one; `false` if there is no place.
    pub(crate) fn push(&mut self, reg: LinkedReg) -> bool {
        match self.list.get_mut(self.len as usize) {
            Some(place) => {
                *place = reg;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn as_slice(&self) -> &[LinkedReg] {
        &self.list[..self.len as usize]
    }

    /// Ten bits an entry over four bits of length, for the history.
    pub(crate) fn pack(&self) -> u64 {
        let mut packed = 0;
        for reg in self.as_slice() {
            let bits = u64::from(reg.frame & 7)
                | u64::from(reg.index & 63) << 3
                | u64::from(reg.is_reg) << 9;
            packed = packed << 10 | bits;
        }
        packed << 4 | u64::from(self.len)
    }

    /// The reverse of [`Self::pack`].
    pub(crate) fn unpack(packed: u64) -> Self {
        let mut regs = LinkedRegs {
            len: (packed & 15).min(Self::MAX as u64) as u8,
            ..Self::default()
        };
        let mut bits = packed >> 4;
        for reg in regs.list[..regs.len as usize].iter_mut().rev() {
            *reg = LinkedReg {
                frame: (bits & 7) as u8,
                index: (bits >> 3 & 63) as u8,
                is_reg: bits >> 9 & 1 != 0,
            };
            bits >>= 10;
        }
        regs
    }
}

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
    bt.frame = env.cur.curframe;
    bt.set(reg);
    walk(
        env.facts,
        env.log,
        &mut env.states,
        &mut env.scratch.backtrack,
        &env.cur,
    )
    .map(|_| ())
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
    walk(facts, log, states, bt, start)
}

/// What a step backwards came to.
enum Step {
    Done,
    /// The walk cannot follow.
    GiveUp,
}

fn walk(
    facts: &Facts,
    log: &mut Log,
    states: &mut StateTable,
    bt: &mut BacktrackState,
    start: &VerifierState,
) -> Check<bool> {
    let result = walk_inner(facts, log, states, bt, start);
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
) -> Check<bool> {
    let mut changed = false;
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
                    && root.subprogno > 0
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
                    root.subprogno,
                    bt.reg_mask(),
                    bt.slot_mask()
                )));
            }
            let mut i = last_idx as u32;
            let mut history = st.history.cursor();
            loop {
                let step = if skip_first {
                    skip_first = false;
                    Step::Done
                } else {
                    let hist = history.at(i);
                    let is_linked = hist.is_some_and(|hist| hist.linked_regs != 0);
                    match facts.quick_steps[i as usize].before(bt.reg_mask()) {
                        Some(wanted) if !is_linked && !log.is_level2() => {
                            bt.regs[bt.frame as usize] = wanted;
                            Step::Done
                        }
                        _ => backtrack_insn(facts, log, i, subseq_idx, hist.as_ref(), bt)?,
                    }
                };
                if let Step::GiveUp = step {
                    mark_all_precise(log, states, start);
                    return Ok(changed);
                }
                if bt.is_empty() {
                    return Ok(changed);
                }
                subseq_idx = i64::from(i);
                if i == st.first_insn_idx
                    && (history.len() == 0 || history.len() == 1 && history.at(i).is_some())
                {
                    break;
                }
                match history.at(i) {
                    Some(entry) => {
                        i = entry.prev_idx;
                        history.pop();
                    }
                    None => i = i.wrapping_sub(1),
                }
                if i as usize >= facts.raw.len() {
                    return Err(Violation::bug(format_args!(
                        "backtracking idx {}",
                        i as i32
                    )));
                }
            }
            st.parent
        };
        let Some(parent) = parent else { break };
        at = Some(parent);
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
        let st = states.get_mut(id);
        for frameno in 0..=st.curframe {
            let frame = st.frame(frameno);
            let misses = frame.regs[..10]
                .iter()
                .any(|r| r.ty.is_scalar() && !r.precise)
                || frame
                    .stack
                    .iter()
                    .any(|s| s.is_spilled_scalar() && !s.spilled().precise);
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
                .iter()
                .any(|s| s.is_spilled_scalar() && s.spilled().precise);
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

/// `r0,r1`
struct RegMask(u32);

impl fmt::Display for RegMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for number in 0..32 {
            if self.0 & 1 << number != 0 {
                write!(f, "{sep}r{number}")?;
                sep = ",";
            }
        }
        Ok(())
    }
}

/// `-8,-16`
struct SlotMask(u64);

impl fmt::Display for SlotMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for spi in 0..64i64 {
            if self.0 & 1 << spi != 0 {
                write!(f, "{sep}{}", -8 * (spi + 1))?;
                sep = ",";
            }
        }
        Ok(())
    }
}

/// If one of the linked registers is wanted, all are.
fn sync_linked(bt: &mut BacktrackState, hist: Option<&JmpHistoryEntry>) {
    let Some(hist) = hist else { return };
    if hist.linked_regs == 0 {
        return;
    }
    let linked = LinkedRegs::unpack(hist.linked_regs);
    let wanted = linked.as_slice().iter().any(|r| {
        let f = r.frame as usize;
        if r.is_reg {
            bt.regs[f] & 1 << r.index != 0
        } else {
            bt.slots[f] & 1 << r.index != 0
        }
    });
    if !wanted {
        return;
    }
    for r in linked.as_slice() {
        if r.is_reg {
            bt.set_frame_reg(r.frame, r.index);
        } else {
            bt.set_frame_slot(r.frame, u32::from(r.index));
        }
    }
}

/// Transforms the wanted set backwards over one instruction.
fn backtrack_insn(
    facts: &Facts,
    log: &mut Log,
    idx: u32,
    subseq_idx: i64,
    hist: Option<&JmpHistoryEntry>,
    bt: &mut BacktrackState,
) -> Check<Step> {
    let slot = &facts.slots[idx as usize];
    if let Slot::SecondHalf = slot {
        return Ok(Step::Done);
    }
    if log.is_level2() {
        vlog!(
            log,
            "mark_precise: frame{}: regs={} stack={} before {idx}: ",
            bt.frame,
            RegMask(bt.reg_mask()),
            SlotMask(bt.slot_mask())
        );
        log_insn(log, facts, idx);
    }
    sync_linked(bt, hist);
    let insn = match slot {
        Slot::Insn(insn) => insn,
        Slot::LoadImm64 { dst, .. } => {
            bt.clear(*dst);
            sync_linked(bt, hist);
            return Ok(Step::Done);
        }
        Slot::SecondHalf | Slot::Bad => return Ok(Step::Done),
    };
    let stack_access = hist
        .filter(|h| h.flags.has(HistFlags::STACK_ACCESS))
        .map(|h| h.flags);
    match insn {
        Insn::Alu { op, dst, src, .. } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            if *op == ring3_isa::AluOp::Mov {
                bt.clear(*dst);
            }
            if let Operand::Reg(src) = src
                && *src != Reg::FP
            {
                bt.set(*src);
            }
        }
        Insn::Movsx { dst, src, .. } | Insn::AddrSpaceCast { dst, src, .. } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            bt.clear(*dst);
            if *src != Reg::FP {
                bt.set(*src);
            }
        }
        Insn::Neg { dst, .. } | Insn::Endian { dst, .. } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            return Ok(Step::Done);
        }
        Insn::Load { dst, .. }
        | Insn::Atomic {
            op: AtomicOp::LoadAcquire,
            dst,
            ..
        } => {
            if !bt.has(*dst) {
                return Ok(Step::Done);
            }
            bt.clear(*dst);
            let Some(flags) = stack_access else {
                return Ok(Step::Done);
            };
            bt.set_frame_slot(flags.frame(), flags.spi());
        }
        Insn::Store { dst, .. } | Insn::Atomic { dst, .. } => {
            if bt.has(*dst) {
                return Ok(Step::GiveUp);
            }
            let Some(flags) = stack_access else {
                return Ok(Step::Done);
            };
            let (frame, bit) = (flags.frame() as usize, 1u64 << flags.spi());
            if bt.slots[frame] & bit == 0 {
                return Ok(Step::Done);
            }
            bt.slots[frame] &= !bit;
            match insn {
                Insn::Store {
                    src: Operand::Reg(src),
                    ..
                }
                | Insn::Atomic { src, .. } => bt.set(*src),
                _ => {}
            }
        }
        Insn::Call(CallTarget::Subprog(distance)) => {
            let entry = (idx + 1).wrapping_add_signed(*distance);
            let Some(subprog) = facts.subprog_at(entry) else {
                return Err(Violation::bug("backtracking: call of no subprog"));
            };
            if facts.subprogs[subprog as usize].linkage == Linkage::Global {
                if bt.reg_mask() & ARGS != 0 {
                    return Err(Violation::bug(format_args!(
                        "global subprog unexpected regs {:x}",
                        bt.reg_mask()
                    )));
                }
                bt.clear(Reg::R0);
                return Ok(Step::Done);
            }
            if bt.reg_mask() & !ARGS != 0 {
                return Err(Violation::bug(format_args!(
                    "static subprog unexpected regs {:x}",
                    bt.reg_mask()
                )));
            }
            if bt.slot_mask() != 0 {
                return Err(Violation::bug(format_args!(
                    "static subprog leftover stack slots {:x}",
                    bt.slot_mask()
                )));
            }
            let args = bt.reg_mask();
            bt.regs[bt.frame as usize] = 0;
            bt.leave()?;
            bt.regs[bt.frame as usize] |= args;
            return Ok(Step::Done);
        }
        Insn::Call(target) => {
            if facts.has_flag(idx, InsnFlags::CALLS_CALLBACK) && i64::from(idx) != subseq_idx - 1 {
                if bt.reg_mask() & !ARGS != 0 {
                    return Err(Violation::bug(format_args!(
                        "callback unexpected regs {:x}",
                        bt.reg_mask()
                    )));
                }
                if bt.slot_mask() != 0 {
                    return Err(Violation::bug(format_args!(
                        "callback leftover stack slots {:x}",
                        bt.slot_mask()
                    )));
                }
                bt.regs[bt.frame as usize] = 0;
                bt.leave()?;
                return Ok(Step::Done);
            }
            if let CallTarget::Kfunc { id: 0, .. } = target {
                return Ok(Step::GiveUp);
            }
            bt.clear(Reg::R0);
            if bt.reg_mask() & ARGS != 0 {
                return Err(Violation::bug(format_args!(
                    "backtracking call unexpected regs {:x}",
                    bt.reg_mask()
                )));
            }
            if let CallTarget::Helper(id) = target
                && *id == FuncId::TailCall.raw() as i32
                && subseq_idx - i64::from(idx) != 1
            {
                bt.enter()?;
            }
        }
        Insn::Exit => {
            let subseq = u32::try_from(subseq_idx).ok();
            if subseq.is_some_and(|next| facts.has_flag(next, InsnFlags::CALLS_CALLBACK)) {
                bt.regs[bt.frame as usize] &= !ARGS;
            }
            if bt.reg_mask() & ARGS != 0 {
                return Err(Violation::bug(format_args!(
                    "backtracking exit unexpected regs {:x}",
                    bt.reg_mask()
                )));
            }
            let from_subprog = subseq
                .and_then(|next| next.checked_sub(1))
                .is_some_and(|call| {
                    matches!(
                        facts.slots[call as usize],
                        Slot::Insn(Insn::Call(CallTarget::Subprog(_)))
                    )
                });
            let r0_precise = from_subprog && bt.has(Reg::R0);
            bt.clear(Reg::R0);
            bt.enter()?;
            if r0_precise {
                bt.set(Reg::R0);
            }
            return Ok(Step::Done);
        }
        Insn::Jmp {
            dst,
            src: Operand::Reg(src),
            ..
        } => {
            if !bt.has(*dst) && !bt.has(*src) {
                return Ok(Step::Done);
            }
            let flags = hist.map_or(HistFlags::NONE, |h| h.flags);
            if !flags.has(HistFlags::SRC_REG_STACK) {
                bt.set(*src);
            }
            if !flags.has(HistFlags::DST_REG_STACK) {
                bt.set(*dst);
            }
        }
        Insn::Jmp {
            src: Operand::Imm(_),
            ..
        }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::MayGoto { .. } => {}
        Insn::LoadImm64 { dst, .. } => bt.clear(*dst),
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => {
            if !bt.has(Reg::R0) {
                return Ok(Step::Done);
            }
            bt.clear(Reg::R0);
            return Ok(Step::GiveUp);
        }
        Insn::Internal(_) => {}
    }
    sync_linked(bt, hist);
    Ok(Step::Done)
}
