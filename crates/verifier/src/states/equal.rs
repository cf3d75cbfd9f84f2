//! When a stored state covers another: every fact the old one may have relied on holds in the new one.
//!
//! Ids are renamed consistently: [`IdMap`] pairs old and new ids, and a pair once made must be kept in all registers,
//! slots and references. How much must agree is [`Exactness`].

use alloc::vec::Vec;

use super::listed::{Difference, Place};
use crate::env::Env;
use crate::state::{
    BPF_ADD_CONST, Extra, FuncState, REGS, RefKind, Refs, RegBase, RegState, SLOT_BYTES, SlotType,
    StackSlot, StateId,
};

/// How much must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// What was proved from the old state: imprecise scalars do not matter.
    NotExact,
    /// Everything (to find infinite loops).
    Exact,
    /// Values within the old ones' ranges, precise or not (loops whose marks are not complete).
    RangeWithin,
}

/// Pairs of an old and a new id.
#[derive(Default)]
pub(crate) struct IdMap {
    pairs: Vec<(u32, u32)>,
    fresh: u32,
}

/// More never occur: one per register and slot. Source: `BPF_ID_MAP_SIZE`.
const PAIRS_MAX: usize = (11 + 64) * 8;

impl IdMap {
    pub(super) fn reset(&mut self, last_id: u32) {
        self.pairs.clear();
        self.fresh = last_id;
    }

    /// Both without id, or the pair is new or known.
    #[inline]
    fn check(&mut self, old: u32, cur: u32) -> bool {
        if old == 0 || cur == 0 {
            return old == cur;
        }
        for &(o, c) in &self.pairs {
            if o == old {
                return c == cur;
            }
            if c == cur {
                return false;
            }
        }
        if self.pairs.len() >= PAIRS_MAX {
            return false;
        }
        self.pairs.push((old, cur));
        true
    }

    /// As [`Self::check`], but a scalar without id counts as one that nobody else has.
    #[inline]
    fn check_scalar(&mut self, old: u32, cur: u32) -> bool {
        let mut named = |id: u32| {
            if id != 0 {
                return id;
            }
            self.fresh += 1;
            self.fresh
        };
        let (old, cur) = (named(old), named(cur));
        self.check(old, cur)
    }
}

/// What the comparison depends on besides the two states.
#[derive(Clone, Copy)]
struct Rules {
    exactness: Exactness,
    allow_uninit_stack: bool,
    /// Clamps of pointer arithmetic were derived from exact numbers.
    explore_alu_limits: bool,
}

/// Whether checkpoint `id` covers the current state. `differed` is looked at first, and says afterwards what decided against it.
pub(super) fn states_equal(
    env: &mut Env<'_>,
    id: StateId,
    exactness: Exactness,
    differed: &mut Difference,
) -> bool {
    let mut map = core::mem::take(&mut env.scratch.id_map);
    map.reset(env.id_gen);
    let mut decided = Some(differed.place);
    let result = !differs_at(env, id, exactness, &mut map, differed.place) && {
        map.reset(env.id_gen);
        let covers = covers(env, id, exactness, &mut map);
        decided = covers.err().flatten();
        covers.is_ok()
    };
    if !result && let Some(place) = decided {
        *differed = Difference::at(env.states.get(id), place);
    }
    env.scratch.id_map = map;
    result
}

fn rules_of(env: &Env<'_>, exactness: Exactness) -> Rules {
    Rules {
        exactness,
        allow_uninit_stack: env.permits.allow_uninit_stack,
        explore_alu_limits: env.explore_alu_limits,
    }
}

/// Whether one place alone decides that the checkpoint does not cover the current state. What is paired elsewhere can only add to that.
fn differs_at(
    env: &Env<'_>,
    id: StateId,
    exactness: Exactness,
    map: &mut IdMap,
    place: Place,
) -> bool {
    let (old, cur) = (env.states.get(id), &env.cur);
    if old.curframe != cur.curframe || place.frame > old.curframe {
        return old.curframe != cur.curframe;
    }
    let (old_frame, cur_frame) = (old.frame(place.frame), cur.frame(place.frame));
    let rules = rules_of(env, exactness);
    match usize::from(place.index).checked_sub(REGS) {
        None => {
            let live_regs = env.facts.live_regs[old.frame_insn_idx(place.frame) as usize];
            let number = usize::from(place.index);
            live_regs & 1 << number != 0
                && !live_reg_covers(old_frame, cur_frame, number, rules, map)
        }
        Some(spi) => match old_frame.stack.get(spi) {
            Some(slot) => !slot_covers(slot, cur_frame.stack.get(spi), rules, map),
            None => false,
        },
    }
}

/// # Errors
/// The checkpoint does not cover the current state; the place says so, if it is one.
fn covers(
    env: &Env<'_>,
    id: StateId,
    exactness: Exactness,
    map: &mut IdMap,
) -> Result<(), Option<Place>> {
    let (old, cur) = (env.states.get(id), &env.cur);
    if old.curframe != cur.curframe
        || old.speculative && !cur.speculative
        || old.in_sleepable != cur.in_sleepable
        || !refs_cover(&old.refs, &cur.refs, map)
    {
        return Err(None);
    }
    let rules = rules_of(env, exactness);
    for frame in 0..=old.curframe {
        let (old_frame, cur_frame) = (old.frame(frame), cur.frame(frame));
        let live_regs = env.facts.live_regs[old.frame_insn_idx(frame) as usize];
        if old_frame.callsite != cur_frame.callsite
            || old_frame.stack.callbacks().depth > cur_frame.stack.callbacks().depth
        {
            return Err(None);
        }
        if let Some(index) = difference(old_frame, cur_frame, live_regs, rules, map) {
            return Err(Some(Place { frame, index }));
        }
    }
    Ok(())
}

fn refs_cover(old: &Refs, cur: &Refs, map: &mut IdMap) -> bool {
    if *old == Refs::default() && *cur == Refs::default() {
        return true;
    }
    if old.list.len() != cur.list.len()
        || old.active_locks != cur.active_locks
        || old.active_preempt_locks != cur.active_preempt_locks
        || old.active_rcu_locks != cur.active_rcu_locks
        || !map.check(old.active_irq_id, cur.active_irq_id)
        || !map.check(old.active_lock_id, cur.active_lock_id)
        || old.active_lock_owner != cur.active_lock_owner
    {
        return false;
    }
    old.list.iter().zip(&cur.list).all(|(o, c)| {
        map.check(o.id, c.id)
            && o.kind == c.kind
            && (!o.kind.has(RefKind::LOCK_MASK) || o.owner == c.owner)
    })
}

/// What decides against a frame, as an index of [`Place`]; `None` if it is covered.
fn difference(
    old: &FuncState,
    cur: &FuncState,
    live_regs: u16,
    rules: Rules,
    map: &mut IdMap,
) -> Option<u8> {
    for number in 0..REGS {
        if live_regs & 1 << number != 0 && !live_reg_covers(old, cur, number, rules, map) {
            return Some(number as u8);
        }
    }
    let covers = |o: &StackSlot, c: Option<&StackSlot>| slot_covers(o, c, rules, map);
    let spi = old.stack.first_without(&cur.stack, covers)?;
    Some((REGS + spi) as u8)
}

#[inline]
fn live_reg_covers(
    old: &FuncState,
    cur: &FuncState,
    number: usize,
    rules: Rules,
    map: &mut IdMap,
) -> bool {
    let (o, c) = (&old.regs[number], &cur.regs[number]);
    o.is_same(c) && o.is_unrelated() || reg_covers(o, c, rules, map)
}

/// Type, offset, object, variable part and bounds are the same.
#[inline]
fn same_value(old: &RegState, cur: &RegState) -> bool {
    same_pointer(old, cur) && old.scalar == cur.scalar
}

/// Type, offset and object are the same.
#[inline]
fn same_pointer(old: &RegState, cur: &RegState) -> bool {
    old.ty == cur.ty && old.off == cur.off && old.extra == cur.extra
}

#[inline]
pub(super) fn regs_exact(old: &RegState, cur: &RegState, map: &mut IdMap) -> bool {
    same_value(old, cur) && map.check(old.id, cur.id) && map.check(old.ref_obj_id, cur.ref_obj_id)
}

fn reg_covers(old: &RegState, cur: &RegState, rules: Rules, map: &mut IdMap) -> bool {
    if rules.exactness == Exactness::Exact {
        return regs_exact(old, cur, map);
    }
    if old.ty.base == RegBase::NotInit
        && (rules.exactness == Exactness::NotExact || cur.ty.base == RegBase::NotInit)
    {
        return true;
    }
    if old.ty != cur.ty {
        return false;
    }
    match old.ty.base {
        RegBase::Scalar => {
            if rules.explore_alu_limits {
                return same_value(old, cur) && map.check_scalar(old.id, cur.id);
            }
            if !old.precise && rules.exactness == Exactness::NotExact {
                return true;
            }
            if !old.scalar.contains(&cur.scalar) {
                return false;
            }
            // A register that was linked to no other may be linked now.
            if old.id == 0 {
                return true;
            }
            (old.id ^ cur.id) & BPF_ADD_CONST == 0
                && (old.id & BPF_ADD_CONST == 0 || old.off == cur.off)
                && map.check_scalar(old.id, cur.id)
        }
        RegBase::PtrToMapKey
        | RegBase::PtrToMapValue
        | RegBase::PtrToMem
        | RegBase::PtrToBuf
        | RegBase::PtrToTpBuffer => {
            same_pointer(old, cur)
                && old.scalar.contains(&cur.scalar)
                && map.check(old.id, cur.id)
                && map.check(old.ref_obj_id, cur.ref_obj_id)
        }
        RegBase::PtrToPacketMeta | RegBase::PtrToPacket => {
            let (old_range, cur_range) = (old.range(), cur.range());
            let range_ok = if old_range < 0 || cur_range < 0 {
                old_range == cur_range
            } else {
                old_range <= cur_range
            };
            range_ok
                && old.off == cur.off
                && map.check(old.id, cur.id)
                && old.scalar.contains(&cur.scalar)
        }
        RegBase::PtrToStack => regs_exact(old, cur, map) && old.frameno == cur.frameno,
        RegBase::PtrToArena => true,
        RegBase::NotInit
        | RegBase::PtrToCtx
        | RegBase::ConstPtrToMap
        | RegBase::PtrToPacketEnd
        | RegBase::PtrToFlowKeys
        | RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToXdpSock
        | RegBase::PtrToBtfId
        | RegBase::PtrToFunc
        | RegBase::ConstPtrToDynptr => regs_exact(old, cur, map),
    }
}

static UNKNOWN: RegState = RegState::UNKNOWN_SCALAR;

/// A slot as the scalar that an 8-byte load of it gives: a spilled scalar, or any number where all bytes are some number.
#[inline]
fn scalar_of(slot: &StackSlot, rules: Rules) -> Option<&RegState> {
    if slot.is_spilled_scalar64() {
        return Some(slot.spilled());
    }
    if slot.is_all(SlotType::Misc) {
        return Some(&UNKNOWN);
    }
    if !rules.allow_uninit_stack {
        return None;
    }
    let all_misc = slot
        .types
        .iter()
        .all(|&ty| ty == SlotType::Misc || ty == SlotType::Invalid);
    if all_misc { Some(&UNKNOWN) } else { None }
}

fn slot_covers(o: &StackSlot, c: Option<&StackSlot>, rules: Rules, map: &mut IdMap) -> bool {
    if rules.exactness == Exactness::NotExact && o.is_all(SlotType::Invalid) {
        return true;
    }
    if let Some(c) = c
        && o.has_types_of(c)
    {
        if o.is_all(SlotType::Spill) {
            if o.shares_spilled(c) && o.spilled().is_unrelated() {
                return true;
            }
            return reg_covers(o.spilled(), c.spilled(), rules, map);
        }
        if !o.holds_register() && !c.holds_register() {
            return true;
        }
    }
    // Byte by byte, as bytes of one slot may differ in what they hold.
    for byte in 0..SLOT_BYTES {
        let old_ty = o.types[byte];
        if rules.exactness != Exactness::NotExact && c.is_none_or(|c| c.types[byte] != old_ty) {
            return false;
        }
        if old_ty == SlotType::Invalid || rules.allow_uninit_stack && old_ty == SlotType::Misc {
            continue;
        }
        let Some(c) = c else { return false };
        if let (Some(old_reg), Some(cur_reg)) = (scalar_of(o, rules), scalar_of(c, rules)) {
            // The rest of the slot is decided with it, as the kernel jumps eight bytes ahead from here.
            return reg_covers(old_reg, cur_reg, rules, map);
        }
        let cur_ty = c.types[byte];
        if old_ty == SlotType::Misc && cur_ty == SlotType::Zero {
            continue;
        }
        if old_ty != cur_ty {
            return false;
        }
        if byte != SLOT_BYTES - 1 {
            continue;
        }
        let (old_reg, cur_reg) = (o.spilled(), c.spilled());
        let same = match old_ty {
            SlotType::Spill => reg_covers(old_reg, cur_reg, rules, map),
            SlotType::Dynptr => {
                old_reg.extra == cur_reg.extra && map.check(old_reg.ref_obj_id, cur_reg.ref_obj_id)
            }
            SlotType::Iter => {
                let without_depth = |extra: Extra| match extra {
                    Extra::Iter { btf, id, state, .. } => Some((btf, id, state)),
                    _ => None,
                };
                without_depth(old_reg.extra) == without_depth(cur_reg.extra)
                    && map.check(old_reg.ref_obj_id, cur_reg.ref_obj_id)
            }
            SlotType::IrqFlag => {
                map.check(old_reg.ref_obj_id, cur_reg.ref_obj_id) && old_reg.extra == cur_reg.extra
            }
            SlotType::Misc | SlotType::Zero | SlotType::Invalid => true,
        };
        if !same {
            return false;
        }
    }
    true
}
