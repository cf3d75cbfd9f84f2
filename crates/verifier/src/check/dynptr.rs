//! Dynptrs on the stack: made, used and given back by helpers and kernel functions.
//!
//! A dynptr takes two slots; the higher one (`spi`, nearer to the frame pointer... the one the dynptr's end lies in) is its
//! first. Both hold a register of type `dynptr_ptr` with the dynptr's kind, one id for its slices, and the reference it
//! holds. Kernel counterpart: `process_dynptr_func`, `mark_stack_slots_dynptr`. Neighbours: `call::args`, `call::helper`,
//! `stack` (stores over a dynptr).

use ring3_isa::{LoadMode, MemSize, Reg};
use ring3_spec::{Arg, TypeFlags as ArgFlags};
use ring3_uapi::Errno;

use super::call::args::CallMeta;
use super::mem::{Access, MemAccess, check_mem_access};
use super::refs::{acquire_reference, invalidate, release_reference};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::state::{
    DynptrType, Extra, RegBase, RegState, RegType, SLOT_BYTES, SlotType, Stack, StackSlot,
    TypeFlags,
};

/// Slots of a dynptr.
const SLOTS: usize = 2;
/// Bytes of `struct bpf_dynptr`.
const BYTES: i32 = 16;

/// Where a stack pointer says that an object of `slots` slots lies: the slot of its last byte
/// (`stack_slot_obj_get_spi`).
///
/// # Errors
/// EINVAL: the place cannot hold one. ERANGE, without words: the stack has not grown that far.
pub(crate) fn object_spi(env: &Env<'_>, reg: &RegState, what: &str, slots: usize) -> Check<usize> {
    let Some(off) = reg.const_offset() else {
        reject!(EINVAL, "{what} has to be at a constant offset")
    };
    if off % SLOT_BYTES as i64 != 0 {
        reject!(EINVAL, "cannot pass in {what} at an offset={off}");
    }
    if off == 0 && slots == 1 {
        // No object lies there; the kernel only says that it is not what it should be.
        return Err(Violation::silent(Errno::ERANGE));
    }
    let spi = (-off - 1) / SLOT_BYTES as i64;
    let Some(spi) = usize::try_from(spi)
        .ok()
        .filter(|spi| spi + 1 >= slots && off < 0)
    else {
        reject!(EINVAL, "cannot pass in {what} at an offset={off}");
    };
    if spi >= env.frame_of(reg).stack.len() {
        return Err(Violation::silent(Errno::ERANGE));
    }
    Ok(spi)
}

fn dynptr_spi(env: &Env<'_>, reg: &RegState) -> Check<usize> {
    object_spi(env, reg, "dynptr", SLOTS)
}

/// A dynptr that a function or callback gets: it may be used, not changed.
pub(crate) fn const_dynptr(env: &mut Env<'_>, kind: DynptrType) -> RegState {
    RegState {
        id: env.new_id(),
        ..RegState::pointer(
            RegType::of(RegBase::ConstPtrToDynptr),
            Extra::Dynptr {
                ty: kind,
                first_slot: true,
            },
        )
    }
}

/// The state of an initialised dynptr that an argument is.
fn dynptr_state<'e>(env: &'e Env<'_>, reg: &'e RegState) -> Check<&'e RegState> {
    if reg.ty.is(RegBase::ConstPtrToDynptr) {
        return Ok(reg);
    }
    let spi = dynptr_spi(env, reg)?;
    Ok(env.frame_of(reg).stack[spi].spilled())
}

fn kind_of(reg: &RegState) -> DynptrType {
    match reg.extra {
        Extra::Dynptr { ty, .. } => ty,
        _ => DynptrType::Invalid,
    }
}

const fn is_refcounted(ty: DynptrType) -> bool {
    matches!(ty, DynptrType::Ringbuf)
}

/// What a call must know of a dynptr among its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DynptrFacts {
    pub(crate) kind: DynptrType,
    pub(crate) id: u32,
    pub(crate) ref_obj_id: u32,
}

/// The dynptr that an argument is, which [`use_dynptr`] has checked.
pub(crate) fn facts_of(env: &Env<'_>, regno: Reg) -> Check<DynptrFacts> {
    let state = dynptr_state(env, env.cur.reg(regno))?;
    Ok(DynptrFacts {
        kind: kind_of(state),
        id: state.id,
        ref_obj_id: state.ref_obj_id,
    })
}

/// The mark of a slice of such a dynptr.
pub(crate) const fn slice_flag(kind: DynptrType) -> TypeFlags {
    match kind {
        DynptrType::Invalid => TypeFlags::NONE,
        DynptrType::Local => TypeFlags::DYNPTR_TYPE_LOCAL,
        DynptrType::Ringbuf => TypeFlags::DYNPTR_TYPE_RINGBUF,
        DynptrType::Skb => TypeFlags::DYNPTR_TYPE_SKB,
        DynptrType::Xdp => TypeFlags::DYNPTR_TYPE_XDP,
        DynptrType::SkbMeta => TypeFlags::DYNPTR_TYPE_SKB_META,
    }
}

/// The kind that an argument asks for; none: any.
fn kind_of_arg(arg: &Arg) -> Option<DynptrType> {
    if arg.has(ArgFlags::DYNPTR_LOCAL) {
        Some(DynptrType::Local)
    } else if arg.has(ArgFlags::DYNPTR_RINGBUF) {
        Some(DynptrType::Ringbuf)
    } else {
        None
    }
}

/// An argument that is a dynptr, or becomes one.
pub(crate) fn process_dynptr_arg(
    env: &mut Env<'_>,
    regno: Reg,
    arg: &Arg,
    meta: &mut CallMeta,
) -> Check {
    let _ = &meta;
    if arg.has(ArgFlags::UNINIT) {
        let Some(kind) = kind_of_arg(arg) else {
            reject!(EINVAL)
        };
        return make_dynptr(env, regno, kind, 0);
    }
    let mutability = if arg.has(ArgFlags::RDONLY) {
        Mutability::Read
    } else {
        Mutability::Mutated
    };
    use_dynptr(env, regno, mutability, kind_of_arg(arg))
}

/// Whether the callee changes the dynptr itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutability {
    Read,
    Mutated,
}

/// The argument must be a place where a dynptr can be made; it is one of `kind` afterwards, holding the reference
/// `cloned_ref` (if not 0) or, for kinds that need it, a new one.
pub(crate) fn make_dynptr(
    env: &mut Env<'_>,
    regno: Reg,
    kind: DynptrType,
    cloned_ref: u32,
) -> Check {
    let reg = *env.cur.reg(regno);
    check_dynptr_reg(&reg, regno)?;
    let fits = if reg.ty.is(RegBase::ConstPtrToDynptr) {
        reject!(EINVAL, "Dynptr has to be an uninitialized dynptr")
    } else {
        dynptr_spi(env, &reg)
    };
    // A stack that has not grown yet does so with the stores below.
    if let Err(violation) = fits
        && violation.errno != Errno::ERANGE
    {
        return Err(violation
            .and_line("Dynptr has to be an uninitialized dynptr")
            .with_errno(Errno::EINVAL));
    }
    for off in (0..BYTES).step_by(SLOT_BYTES) {
        let access = MemAccess {
            access: Access::Write,
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            value: None,
            strict_alignment: false,
        };
        check_mem_access(env, regno, off, access)?;
    }
    mark_slots(env, &reg, kind, cloned_ref)
}

fn mark_slots(env: &mut Env<'_>, reg: &RegState, kind: DynptrType, cloned_ref: u32) -> Check {
    let spi = dynptr_spi(env, reg)?;
    let frameno = reg.frameno;
    destroy_if_dynptr(env, frameno, spi)?;
    destroy_if_dynptr(env, frameno, spi - 1)?;
    let id = env.new_id();
    let ref_obj_id = match (is_refcounted(kind), cloned_ref) {
        (false, _) => 0,
        (true, 0) => acquire_reference(env),
        (true, cloned) => cloned,
    };
    for (at, first_slot) in [(spi, true), (spi - 1, false)] {
        let state = RegState {
            id,
            ref_obj_id,
            ..RegState::pointer(
                RegType::of(RegBase::ConstPtrToDynptr),
                Extra::Dynptr {
                    ty: kind,
                    first_slot,
                },
            )
        };
        let slot = &mut env.cur.frame_mut(frameno).stack[at];
        slot.types = [SlotType::Dynptr; SLOT_BYTES];
        slot.set_spilled(state);
    }
    note_write(env, frameno, spi);
    Ok(())
}

fn note_write(env: &mut Env<'_>, frameno: u8, spi: usize) {
    env.stack_liveness
        .mark_write(frameno, 1 << spi | 1 << (spi - 1));
}

fn check_dynptr_reg(reg: &RegState, regno: Reg) -> Check {
    if !reg.ty.is(RegBase::PtrToStack) && !reg.ty.is(RegBase::ConstPtrToDynptr) {
        reject!(
            EINVAL,
            "arg#{} expected pointer to stack or const struct bpf_dynptr",
            regno.number() - 1
        );
    }
    Ok(())
}

/// The argument must be a dynptr, of this kind if one is given.
pub(crate) fn use_dynptr(
    env: &mut Env<'_>,
    regno: Reg,
    mutability: Mutability,
    kind: Option<DynptrType>,
) -> Check {
    let reg = *env.cur.reg(regno);
    let index = regno.number() - 1;
    check_dynptr_reg(&reg, regno)?;
    let is_const = reg.ty.is(RegBase::ConstPtrToDynptr);
    if is_const && mutability == Mutability::Mutated {
        reject!(
            EINVAL,
            "cannot pass pointer to const bpf_dynptr, the helper mutates it"
        );
    }
    let place = if is_const {
        Ok(None)
    } else {
        dynptr_spi(env, &reg).map(Some)
    };
    let spi = match place {
        Ok(Some(spi)) if !is_whole(&env.frame_of(&reg).stack, spi) => {
            reject!(EINVAL, "Expected an initialized dynptr as arg #{index}")
        }
        Ok(spi) => spi,
        Err(violation) => {
            let violation = violation.with_errno(Errno::EINVAL);
            return Err(violation.and_line(format_args!(
                "Expected an initialized dynptr as arg #{index}"
            )));
        }
    };
    if let Some(kind) = kind
        && kind_of(dynptr_state(env, &reg)?) != kind
    {
        reject!(
            EINVAL,
            "Expected a dynptr of type {} as arg #{index}",
            crate::log::state::dynptr_name(kind)
        );
    }
    if let Some(spi) = spi {
        let slots = 1 << spi | 1 << (spi - 1);
        env.stack_liveness
            .mark_read(env.facts, &env.cur, reg.frameno, env.insn_idx, slots);
        env.mark_slot_scratched(spi as u32);
        env.mark_slot_scratched(spi as u32 - 1);
    }
    Ok(())
}

fn is_whole(stack: &Stack, spi: usize) -> bool {
    let is_first = matches!(
        stack[spi].spilled().extra,
        Extra::Dynptr {
            first_slot: true,
            ..
        }
    );
    let is_dynptr = |slot: &StackSlot| slot.types.iter().all(|ty| *ty == SlotType::Dynptr);
    is_first && is_dynptr(&stack[spi]) && is_dynptr(&stack[spi - 1])
}

/// A dynptr that is given back must hold a reference.
pub(crate) fn check_released(env: &Env<'_>, regno: Reg, reg: &RegState) -> Check {
    if !reg.ty.is(RegBase::PtrToStack) {
        reject!(EINVAL, "cannot release unowned const bpf_dynptr");
    }
    let held = dynptr_spi(env, reg).map(|spi| env.frame_of(reg).stack[spi].spilled().ref_obj_id);
    let text = format_args!("arg {} is an unacquired reference", regno.number());
    match held {
        Ok(0) => reject!(EINVAL, "{text}"),
        Ok(_) => Ok(()),
        Err(violation) => Err(violation.with_errno(Errno::EINVAL).and_line(text)),
    }
}

/// The dynptr behind a register is gone, with its reference, its clones and all slices (`unmark_stack_slots_dynptr`).
pub(crate) fn unmark_stack_slots(env: &mut Env<'_>, regno: Reg) -> Check {
    let reg = *env.cur.reg(regno);
    let spi = dynptr_spi(env, &reg)?;
    let state = *env.frame_of(&reg).stack[spi].spilled();
    if !is_refcounted(kind_of(&state)) {
        invalidate_slots(env, reg.frameno, spi);
        return Ok(());
    }
    release_reference(env, state.ref_obj_id)?;
    for at in 1..env.frame_of(&reg).stack.len() {
        let slot = &env.frame_of(&reg).stack[at];
        let is_clone = slot.types[0] == SlotType::Dynptr
            && slot.spilled().ref_obj_id == state.ref_obj_id
            && matches!(
                slot.spilled().extra,
                Extra::Dynptr {
                    first_slot: true,
                    ..
                }
            );
        if is_clone {
            invalidate_slots(env, reg.frameno, at);
        }
    }
    Ok(())
}

fn invalidate_slots(env: &mut Env<'_>, frameno: u8, spi: usize) {
    for at in [spi, spi - 1] {
        let slot = &mut env.cur.frame_mut(frameno).stack[at];
        slot.types = [SlotType::Invalid; SLOT_BYTES];
        slot.clear_spilled();
    }
    note_write(env, frameno, spi);
}

/// A store into a dynptr destroys it, and with it its slices (`destroy_if_dynptr_stack_slot`).
///
/// # Errors
/// EINVAL: it holds a reference.
pub(crate) fn destroy_if_dynptr(env: &mut Env<'_>, frameno: u8, spi: usize) -> Check {
    let Some(slot) = env.cur.frame(frameno).stack.get(spi) else {
        return Ok(());
    };
    if slot.types[0] != SlotType::Dynptr {
        return Ok(());
    }
    let is_first = matches!(
        slot.spilled().extra,
        Extra::Dynptr {
            first_slot: true,
            ..
        }
    );
    let spi = if is_first { spi } else { spi + 1 };
    let state = *env.cur.frame(frameno).stack[spi].spilled();
    if is_refcounted(kind_of(&state)) {
        reject!(EINVAL, "cannot overwrite referenced dynptr");
    }
    if frameno == env.cur.curframe {
        env.mark_slot_scratched(spi as u32);
        env.mark_slot_scratched(spi as u32 - 1);
    }
    invalidate_slots(env, frameno, spi);
    let (leaks, precise) = (env.permits.allow_ptr_leaks, !env.permits.bpf_capable);
    let null = TypeFlags::PTR_MAYBE_NULL;
    let is_slice = |reg: &RegState| {
        reg.ty.without(null).is(RegBase::PtrToMem)
            && matches!(reg.extra, Extra::Mem { dynptr_id, .. } if dynptr_id == state.id)
    };
    env.cur
        .change_regs(is_slice, |reg| invalidate(reg, leaks, precise));
    Ok(())
}

/// A slice of the dynptr in r1 is asked for: the result belongs to it.
pub(crate) fn note_data_arg(env: &Env<'_>, meta: &mut CallMeta) -> Check {
    let state = dynptr_state(env, env.cur.reg(Reg::R1))?;
    meta.dynptr_id = state.id;
    meta.ref_obj_id = state.ref_obj_id;
    Ok(())
}

/// Whether a store through the dynptr in r1 may move a packet.
pub(crate) fn writes_packet(env: &Env<'_>) -> Check<bool> {
    let state = dynptr_state(env, env.cur.reg(Reg::R1))?;
    match kind_of(state) {
        DynptrType::Invalid => reject!(EFAULT),
        kind => Ok(matches!(kind, DynptrType::Skb | DynptrType::SkbMeta)),
    }
}

/// Memory that is a slice of a packet.
pub(crate) fn is_packet_slice(reg: &RegState) -> bool {
    let packet = TypeFlags::DYNPTR_TYPE_SKB.with(TypeFlags::DYNPTR_TYPE_XDP);
    reg.ty.base == RegBase::PtrToMem && reg.ty.has(packet)
}
