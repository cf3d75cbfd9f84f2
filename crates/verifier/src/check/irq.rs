//! Saved interrupt flags on the stack: a slot that only the functions which save and restore them may touch.
//!
//! Sections nest; they are left in the order in which they were entered. Kernel counterpart: `process_irq_flag`.
//! Neighbours: `refs` (what a path holds), `lock` (locks that disable interrupts), `dynptr` (the other objects on the stack).

use ring3_isa::{LoadMode, MemSize, Reg};
use ring3_uapi::Errno;

use super::dynptr::object_spi;
use super::mem::{Access, MemAccess, check_mem_access};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::state::{
    Extra, IrqClass, LockOwner, RefKind, RefState, RegState, RegType, SLOT_BYTES, SlotType,
};

/// What a call does with the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IrqUse {
    Save,
    Restore,
}

fn spi_of(env: &Env<'_>, reg: &RegState) -> Check<Option<usize>> {
    match object_spi(env, reg, "irq_flag", 1) {
        Ok(spi) => Ok(Some(spi)),
        Err(violation) if violation.errno == Errno::ERANGE => Ok(None),
        Err(violation) => Err(violation),
    }
}

/// Checks the flag argument of a call and does what the call does.
pub(crate) fn process_irq_flag(
    env: &mut Env<'_>,
    regno: Reg,
    usage: IrqUse,
    class: IrqClass,
) -> Check {
    match usage {
        IrqUse::Save => save(env, regno, class),
        IrqUse::Restore => restore(env, regno, class),
    }
}

fn save(env: &mut Env<'_>, regno: Reg, class: IrqClass) -> Check {
    let reg = *env.cur.reg(regno);
    let text = format_args!(
        "expected uninitialized irq flag as arg#{}",
        regno.number() - 1
    );
    match spi_of(env, &reg) {
        Ok(Some(spi)) => {
            let slot = &env.frame_of(&reg).stack[spi];
            if slot.types.contains(&SlotType::IrqFlag) {
                reject!(EINVAL, "{text}");
            }
        }
        Ok(None) => {}
        Err(violation) => return Err(violation.and_line(text)),
    }
    let access = MemAccess {
        access: Access::Write,
        size: MemSize::Dw,
        mode: LoadMode::ZeroExtend,
        value: None,
        strict_alignment: false,
    };
    check_mem_access(env, regno, 0, access)?;
    let Some(spi) = spi_of(env, &reg)? else {
        return Err(Violation::bug("saved flags beyond the stack"));
    };
    let id = env.new_id();
    let insn_idx = env.insn_idx;
    env.cur.refs.list.push(RefState {
        kind: RefKind::IRQ,
        id,
        insn_idx,
        owner: LockOwner::None,
    });
    env.cur.refs.active_irq_id = id;
    let slot = &mut env.cur.frame_mut(reg.frameno).stack[spi];
    slot.set_spilled(RegState {
        ref_obj_id: id,
        ..RegState::pointer(RegType::STACK, Extra::Irq(class))
    });
    slot.types = [SlotType::IrqFlag; SLOT_BYTES];
    env.stack_liveness.mark_write(reg.frameno, 1 << spi);
    env.mark_slot_scratched(spi as u32);
    Ok(())
}

fn restore(env: &mut Env<'_>, regno: Reg, class: IrqClass) -> Check {
    let reg = *env.cur.reg(regno);
    let text = format_args!(
        "expected an initialized irq flag as arg#{}",
        regno.number() - 1
    );
    let spi = match spi_of(env, &reg) {
        Ok(Some(spi)) => spi,
        Ok(None) => reject!(EINVAL, "{text}"),
        Err(violation) => return Err(violation.and_line(text)),
    };
    let slot = &env.frame_of(&reg).stack[spi];
    let saved = *slot.spilled();
    let (true, Extra::Irq(saved_by)) = (slot.types == [SlotType::IrqFlag; SLOT_BYTES], saved.extra)
    else {
        reject!(EINVAL, "{text}")
    };
    env.stack_liveness
        .mark_read(env.facts, &env.cur, reg.frameno, env.insn_idx, 1 << spi);
    env.mark_slot_scratched(spi as u32);
    if saved_by != class {
        let (by, with) = match saved_by {
            IrqClass::Native => ("bpf_local_irq_save", "bpf_res_spin_unlock_irqrestore"),
            IrqClass::Lock => ("bpf_res_spin_lock_irqsave", "bpf_local_irq_restore"),
        };
        reject!(
            EINVAL,
            "irq flag acquired by {by} cannot be restored with {with}"
        );
    }
    leave_section(env, saved.ref_obj_id)?;
    let slot = &mut env.cur.frame_mut(reg.frameno).stack[spi];
    slot.clear_spilled();
    slot.types = [SlotType::Invalid; SLOT_BYTES];
    env.stack_liveness.mark_write(reg.frameno, 1 << spi);
    Ok(())
}

fn leave_section(env: &mut Env<'_>, id: u32) -> Check {
    let refs = &mut env.cur.refs;
    let position = |id: u32| move |held: &RefState| held.kind == RefKind::IRQ && held.id == id;
    if id != refs.active_irq_id {
        let acquired = refs
            .list
            .iter()
            .find(|held| position(refs.active_irq_id)(held))
            .map_or(0, |held| held.insn_idx);
        reject!(
            EACCES,
            "cannot restore irq state out of order, expected id={} acquired at insn_idx={acquired}",
            refs.active_irq_id
        );
    }
    let Some(index) = refs.list.iter().position(position(id)) else {
        return Err(Violation::bug("saved flags without entry"));
    };
    refs.remove(index);
    refs.active_irq_id = refs
        .list
        .iter()
        .rev()
        .find(|held| held.kind == RefKind::IRQ)
        .map_or(0, |held| held.id);
    Ok(())
}
