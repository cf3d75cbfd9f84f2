//! What a path holds where a run may be stopped: before each jump back, and in the callers of what may be stopped.
//!
//! Noted only if the request asks for it. A reference counts for the outermost frame in which its address stands in a register that is read
//! later, or in a slot; so each is released once, by the function in whose frame it stands. Slots of checkpoints are then never forgotten, so
//! that a path that is covered has every slot where the path that covers it has it.
//!
//! Neighbours: `explore` (asks before each instruction), `check::refs` and `check::lock` (what is held).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ring3_isa::{CallTarget, Insn};
use ring3_spec::{Held, HeldPlace, StopPoint};
use ring3_uapi::FuncId;

use crate::env::{Env, Facts, Linkage, Slot};
use crate::state::{
    DynptrType, Extra, FrameKind, LockOwner, RefKind, RefState, RegBase, RegState, SlotType,
    TypeFlags, VerifierState,
};

/// r6 to r9: what a caller's registers keep over a call.
const KEPT: u16 = 0x3c0;

/// Points by instruction.
#[derive(Debug, Default)]
pub(crate) struct StopPoints {
    points: BTreeMap<u32, StopPoint>,
}

impl StopPoints {
    /// The points, ascending by instruction.
    pub(crate) fn list(&self) -> Vec<StopPoint> {
        self.points.values().cloned().collect()
    }

    fn add(&mut self, orig_idx: u32, calls_back: bool, held: Result<Vec<Held>, String>) {
        let Some(known) = self.points.get_mut(&orig_idx) else {
            let point = StopPoint {
                orig_idx,
                calls_back,
                held,
            };
            self.points.insert(orig_idx, point);
            return;
        };
        known.calls_back |= calls_back;
        match (&known.held, held) {
            (Err(_), _) => {}
            (Ok(_), Err(why)) => known.held = Err(why),
            (Ok(before), Ok(now)) if *before == now => {}
            (Ok(before), Ok(now)) => {
                known.held = Err(format!(
                    "insn {orig_idx}: paths disagree on what is held: {} or {}",
                    listed(before),
                    listed(&now)
                ));
            }
        }
    }
}

fn listed(held: &[Held]) -> String {
    if held.is_empty() {
        return "nothing".into();
    }
    let words: Vec<String> = held
        .iter()
        .map(|held| format!("{} for {}", held.place, held.release))
        .collect();
    words.join(", ")
}

/// The slot that a jump at `at` goes to.
fn jump_target(insn: &Insn, at: u32) -> Option<u32> {
    let distance = match *insn {
        Insn::Jmp { off, .. } | Insn::Ja { off } | Insn::MayGoto { off } => i32::from(off),
        Insn::Jal { off } => off,
        _ => return None,
    };
    Some((at + 1).wrapping_add_signed(distance))
}

/// Notes what the current path holds before the current instruction, if a run may be stopped there.
pub(crate) fn note(env: &mut Env<'_>) {
    let Some(points) = &mut env.stop_points else {
        return;
    };
    let (facts, state, at) = (env.facts, &env.cur, env.insn_idx);
    if state.speculative {
        return;
    }
    let live = |at: u32| facts.live_regs.get(at as usize).copied().unwrap_or(0);
    match &facts.slots[at as usize] {
        Slot::Insn(Insn::Call(CallTarget::Subprog(distance))) => {
            let start = (at + 1).wrapping_add_signed(*distance);
            let is_global = facts
                .subprog_at(start)
                .is_some_and(|subprog| facts.subprogs[subprog as usize].linkage == Linkage::Global);
            if is_global {
                note_state(points, facts, state, at, live(at + 1) & KEPT);
            }
        }
        Slot::Insn(insn) if jump_target(insn, at).is_some_and(|target| target <= at) => {
            note_state(points, facts, state, at, live(at));
        }
        _ => {}
    }
    let frame = state.cur_frame();
    if frame.kind == FrameKind::Callback && facts.subprogs[frame.subprogno() as usize].start == at {
        // A callback may be stopped before it begins.
        note_state(points, facts, state, at, live(at));
    }
}

/// The instruction of each frame, the innermost one's being `at` with `live` registers.
fn note_state(points: &mut StopPoints, facts: &Facts, state: &VerifierState, at: u32, live: u16) {
    let mut by_frame = alloc::vec![Ok(Vec::new()); usize::from(state.curframe) + 1];
    let refs = &*state.refs;
    if refs.active_preempt_locks != 0 || refs.active_rcu_locks != 0 || refs.active_irq_id != 0 {
        let why =
            format!("insn {at}: inside a section without preemption, interrupts or grace periods");
        by_frame.fill(Err(why));
    }
    for held in refs.list.iter().rev() {
        let found = (0..=state.curframe).find_map(|frame| {
            let live = if frame == state.curframe {
                live
            } else {
                let callsite = state.frame(frame + 1).callsite;
                facts
                    .live_regs
                    .get(callsite as usize + 1)
                    .copied()
                    .unwrap_or(0)
                    & KEPT
            };
            Some((frame, place_of(facts, state, frame, live, held)?))
        });
        let innermost = usize::from(state.curframe);
        match found {
            Some((frame, found)) => {
                if let Ok(list) = &mut by_frame[usize::from(frame)] {
                    list.push(found);
                }
            }
            None => {
                by_frame[innermost] = Err(format!(
                    "insn {at}: what insn {} acquired cannot be released here",
                    held.insn_idx
                ));
            }
        }
    }
    for (frame, held) in by_frame.into_iter().enumerate() {
        let callee = (frame < usize::from(state.curframe)).then(|| state.frame(frame as u8 + 1));
        match callee {
            Some(callee) => points.add(callee.callsite, callee.kind == FrameKind::Callback, held),
            None => points.add(at, false, held),
        }
    }
}

/// Where a frame has the address of what is held, and what releases it.
fn place_of(
    facts: &Facts,
    state: &VerifierState,
    frame: u8,
    live: u16,
    held: &RefState,
) -> Option<Held> {
    let frame = state.frame(frame);
    for number in 0..10u8 {
        let reg = &frame.regs[usize::from(number)];
        if live >> number & 1 != 0
            && let Some((release, off)) = release_of(facts, reg, held)
        {
            let place = HeldPlace::Reg { reg: number, off };
            return Some(Held { place, release });
        }
    }
    frame.stack.iter().enumerate().find_map(|(spi, slot)| {
        let at = -8 * (spi as i32 + 1);
        let reg = slot.spilled();
        if slot.types[0] == SlotType::Dynptr {
            let is_first = Extra::Dynptr {
                ty: DynptrType::Ringbuf,
                first_slot: true,
            };
            let is_held = held.kind == RefKind::PTR && reg.ref_obj_id == held.id;
            return (is_held && reg.extra == is_first).then_some(Held {
                place: HeldPlace::Frame { at },
                release: FuncId::RingbufDiscardDynptr,
            });
        }
        if slot.types.iter().any(|ty| *ty != SlotType::Spill) {
            return None;
        }
        let (release, off) = release_of(facts, reg, held)?;
        let place = HeldPlace::Stack { at, off };
        Some(Held { place, release })
    })
}

/// If the register belongs to what is held: what releases it, and what is to be added to the register for that.
fn release_of(facts: &Facts, reg: &RegState, held: &RefState) -> Option<(FuncId, i32)> {
    let off = i32::try_from(reg.const_offset()?).ok()?;
    if held.kind == RefKind::LOCK {
        let LockOwner::Map(map) = held.owner else {
            return None;
        };
        let is_lock = reg.ty.base == RegBase::PtrToMapValue
            && !reg.ty.may_be_null()
            && reg.map() == Some(map)
            && reg.id == held.id;
        let record = facts.map(map).record.as_ref()?;
        let field = record.first(ring3_btf::FieldKind::SpinLock)?;
        return is_lock.then_some((FuncId::SpinUnlock, field.offset as i32 - off));
    }
    if held.kind != RefKind::PTR || reg.ref_obj_id != held.id {
        return None;
    }
    match reg.ty.base {
        RegBase::PtrToMem if reg.ty.has(TypeFlags::MEM_RINGBUF) => {
            Some((FuncId::RingbufDiscard, -off))
        }
        RegBase::PtrToSocket | RegBase::PtrToSockCommon | RegBase::PtrToTcpSock => {
            Some((FuncId::SkRelease, -off))
        }
        _ => None,
    }
}
