//! Open-coded iterators on the stack: made, advanced, ended.
//!
//! An iterator occupies whole slots, which only its functions may touch. Advancing an active one splits the path: in one the
//! call gave an element (and the loop's state is widened, so that it converges), in the other the iterator is drained.
//! Kernel counterpart: `process_iter_arg`, `process_iter_next_call`. Neighbours: `call/kfunc`, `states` (loops).

use ring3_btf::Type;
use ring3_isa::{LoadMode, MemSize, Reg};
use ring3_uapi::Errno;

use super::btf_ptr::in_rcu_section;
use super::dynptr::object_spi;
use super::mem::{Access, MemAccess, check_mem_access};
use super::nullness::mark_ptr_not_null_reg;
use super::refs::{acquire_reference, release_reference};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::explore::{Speculation, push_path};
use crate::state::{
    BtfIdx, Extra, IterState, RegBase, RegState, RegType, SLOT_BYTES, SlotType, TypeFlags,
};
use crate::states::widen::{find_prev_entry, widen_imprecise_scalars};

/// What a call does with the iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    New { rcu_protected: bool },
    Next,
    Destroy,
}

/// The main slot of an iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    frame: u8,
    spi: u32,
}

/// Where the slots of an iterator begin; none beyond the allocated stack.
fn place_of(env: &Env<'_>, reg: &RegState, slots: u32) -> Check<Option<Place>> {
    match object_spi(env, reg, "iter", slots as usize) {
        Ok(spi) => Ok(Some(Place {
            frame: reg.frameno,
            spi: spi as u32,
        })),
        // DIVERGES: the kernel takes r10 itself for the slot below it, and its iterators then read and write memory above
        // the frame; ours is no iterator there, as where the kernel finds none in that slot.
        Err(violation) if violation.errno == Errno::ERANGE => Ok(None),
        Err(violation) => Err(violation),
    }
}

/// Checks the iterator argument of a call and does what the call does; gives the place of one that goes on.
pub(crate) fn check_iter_arg(
    env: &mut Env<'_>,
    base: Reg,
    ty: Type<'_>,
    func: &str,
    usage: Use,
) -> Check<Option<Place>> {
    let reg = *env.cur.reg(base);
    let number = base.number() - 1;
    if !reg.ty.is(RegBase::PtrToStack) {
        reject!(
            EINVAL,
            "arg#{number} expected pointer to an iterator on stack"
        );
    }
    let name = ty.name().strip_prefix("bpf_iter_").unwrap_or(ty.name());
    let slots = ty.size() / SLOT_BYTES as u32;
    if slots == 0 {
        return Err(Violation::bug("iterator without size"));
    }
    match usage {
        Use::New { rcu_protected } => {
            create(env, base, &reg, ty, name, slots, rcu_protected)?;
            Ok(None)
        }
        Use::Next | Use::Destroy => {
            let place = find_active(env, &reg, ty, slots).map_err(|v| expected(v, name, number))?;
            let Some(place) = place else {
                reject!(
                    EINVAL,
                    "expected an initialized iter_{name} as arg #{number}"
                );
            };
            let is_stale =
                slots_of(env, place, slots).any(|reg| reg.ty.has(TypeFlags::PTR_UNTRUSTED));
            if is_stale {
                reject!(EPROTO, "expected an RCU CS when using {func}");
            }
            for spi in place.spi + 1 - slots..=place.spi {
                env.mark_slot_scratched(spi);
                env.stack_liveness.mark_read(
                    env.facts,
                    &env.cur,
                    place.frame,
                    env.insn_idx,
                    1 << spi,
                );
            }
            if usage == Use::Destroy {
                destroy(env, place, slots)?;
                return Ok(None);
            }
            Ok(Some(place))
        }
    }
}

fn expected(
    v: alloc::boxed::Box<Violation>,
    name: &str,
    number: u8,
) -> alloc::boxed::Box<Violation> {
    v.and_line(format_args!(
        "expected an initialized iter_{name} as arg #{number}"
    ))
}

fn slots_of<'e>(
    env: &'e Env<'_>,
    place: Place,
    slots: u32,
) -> impl Iterator<Item = &'e RegState> + use<'e> {
    let frame = env.cur.frame(place.frame);
    (0..slots).filter_map(move |i| {
        frame
            .stack
            .get((place.spi - i) as usize)
            .map(|slot| slot.spilled())
    })
}

/// The place, if an iterator of the type is there.
fn find_active(env: &Env<'_>, reg: &RegState, ty: Type<'_>, slots: u32) -> Check<Option<Place>> {
    let Some(place) = place_of(env, reg, slots)? else {
        return Ok(None);
    };
    let frame = env.cur.frame(place.frame);
    let is_there = (0..slots).all(|i| {
        let Some(slot) = frame.stack.get((place.spi - i) as usize) else {
            return false;
        };
        let reg = slot.spilled();
        slot.types == [SlotType::Iter; SLOT_BYTES]
            && (i == 0) == (reg.ref_obj_id != 0)
            && matches!(reg.extra, Extra::Iter { btf: BtfIdx(0), id, .. } if id == ty.id())
    });
    Ok(is_there.then_some(place))
}

fn create(
    env: &mut Env<'_>,
    base: Reg,
    reg: &RegState,
    ty: Type<'_>,
    name: &str,
    slots: u32,
    rcu_protected: bool,
) -> Check {
    let number = base.number() - 1;
    let refused = |v: alloc::boxed::Box<Violation>| {
        v.and_line(format_args!(
            "expected uninitialized iter_{name} as arg #{number}"
        ))
    };
    if let Some(place) = place_of(env, reg, slots).map_err(refused)? {
        let frame = env.cur.frame(place.frame);
        let is_taken = (0..slots).any(|i| {
            frame
                .stack
                .get((place.spi - i) as usize)
                .is_some_and(|slot| slot.types.contains(&SlotType::Iter))
        });
        if is_taken {
            reject!(
                EINVAL,
                "expected uninitialized iter_{name} as arg #{number}"
            );
        }
    }
    for i in 0..slots as i32 {
        let access = MemAccess {
            access: Access::Write,
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            value: None,
            strict_alignment: false,
        };
        check_mem_access(env, base, i * SLOT_BYTES as i32, access)?;
    }
    let Some(place) = place_of(env, reg, slots)? else {
        return Err(Violation::bug("iterator beyond the stack"));
    };
    let in_rcu = in_rcu_section(env);
    let ref_obj_id = acquire_reference(env);
    let mut reg_type = RegType::STACK;
    if rcu_protected {
        reg_type = reg_type.with(if in_rcu {
            TypeFlags::MEM_RCU
        } else {
            TypeFlags::PTR_UNTRUSTED
        });
    }
    let extra = Extra::Iter {
        btf: BtfIdx(0),
        id: ty.id(),
        state: IterState::Active,
        depth: 0,
    };
    for i in 0..slots {
        let spi = place.spi - i;
        let slot = &mut env.cur.frame_mut(place.frame).stack[spi as usize];
        slot.set_spilled(RegState {
            ref_obj_id: if i == 0 { ref_obj_id } else { 0 },
            ..RegState::pointer(reg_type, extra)
        });
        slot.types = [SlotType::Iter; SLOT_BYTES];
        env.stack_liveness.mark_write(place.frame, 1 << spi);
        env.mark_slot_scratched(spi);
    }
    Ok(())
}

fn destroy(env: &mut Env<'_>, place: Place, slots: u32) -> Check {
    let id = env.cur.frame(place.frame).stack[place.spi as usize]
        .spilled()
        .ref_obj_id;
    for i in 0..slots {
        let spi = place.spi - i;
        let slot = &mut env.cur.frame_mut(place.frame).stack[spi as usize];
        slot.clear_spilled();
        slot.types = [SlotType::Invalid; SLOT_BYTES];
        env.stack_liveness.mark_write(place.frame, 1 << spi);
        env.mark_slot_scratched(spi);
    }
    release_reference(env, id)
}

/// The reference that the iterator holds.
pub(crate) fn ref_obj_id(env: &Env<'_>, place: Place) -> u32 {
    let slot = env.cur.frame(place.frame).stack.get(place.spi as usize);
    slot.map_or(0, |slot| slot.spilled().ref_obj_id)
}

/// Whether elements are valid only in the read section the iterator was made in.
pub(crate) fn is_rcu(env: &Env<'_>, place: Place) -> bool {
    env.cur
        .frame(place.frame)
        .stack
        .get(place.spi as usize)
        .is_some_and(|slot| slot.spilled().ty.has(TypeFlags::MEM_RCU))
}

/// An RCU read section ends: its iterators are stale.
pub(crate) fn leave_rcu(env: &mut Env<'_>) {
    for frameno in 0..=env.cur.curframe {
        let is_hit = |slot: &crate::state::StackSlot| {
            slot.types[SLOT_BYTES - 1] == SlotType::Iter
                && slot.spilled().ty.has(TypeFlags::MEM_RCU)
        };
        if !env.cur.frame(frameno).stack.iter().any(is_hit) {
            continue;
        }
        env.cur.frame_mut(frameno).stack.change(is_hit, |_, slot| {
            let reg = slot.spilled_mut();
            reg.ty = reg
                .ty
                .without(TypeFlags::MEM_RCU)
                .with(TypeFlags::PTR_UNTRUSTED);
        });
    }
}

/// Advances: pushes the path with an element; the current one has drained the iterator.
pub(crate) fn step(env: &mut Env<'_>, place: Place) -> Check {
    let here = env.insn_idx;
    let state_of = |reg: &RegState| match reg.extra {
        Extra::Iter { state, .. } => state,
        _ => IterState::Invalid,
    };
    let slot = &env.cur.frame(place.frame).stack[place.spi as usize];
    if state_of(slot.spilled()) == IterState::Active {
        let earlier = find_prev_entry(env, here);
        let facts = env.facts;
        push_path(env, here + 1, here, Speculation::No)?;
        let Some(mut pending) = env.worklist.pop() else {
            return Err(Violation::bug("worklist"));
        };
        let reg = pending.state.frame_mut(place.frame).stack[place.spi as usize].spilled_mut();
        if let Extra::Iter { depth, .. } = &mut reg.extra {
            *depth += 1;
        }
        if let Some(earlier) = earlier {
            widen_imprecise_scalars(env, earlier, &mut pending.state);
        }
        mark_ptr_not_null_reg(facts, pending.state.reg_mut(Reg::R0));
        env.worklist.push(pending);
    }
    let reg = env.cur.frame_mut(place.frame).stack[place.spi as usize].spilled_mut();
    if let Extra::Iter { state, .. } = &mut reg.extra {
        *state = IterState::Drained;
    }
    let precise = !env.permits.bpf_capable;
    let r0 = env.cur.reg_mut(Reg::R0);
    r0.set_const_zero();
    r0.precise = precise;
    Ok(())
}
