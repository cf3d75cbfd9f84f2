//! What must be given back before a path may leave: references, locks, saved flags, sections.

use alloc::format;
use alloc::string::String;

use ring3_isa::Reg;
use ring3_uapi::{Errno, ProgType};

use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::state::{LockOwner, RefKind, RefState, RegState, RegType, TypeFlags};

/// How far a path leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitScope {
    /// Out of a subprogram or callback: only what callers cannot see must be gone.
    Function,
    /// Out of the program.
    Program,
    /// Out of the program by an exception, through all frames.
    Exception,
}

/// Everything acquired was given back: `check_resource_leak`.
pub(crate) fn check_resource_leak(env: &Env<'_>, scope: ExitScope, what: &str) -> Check {
    let all = scope != ExitScope::Function;
    let refs = &env.cur.refs;
    if all && refs.active_locks != 0 {
        reject!(
            EINVAL,
            "{what} cannot be used inside bpf_spin_lock-ed region"
        );
    }
    let lingering = lingering_refs(env, scope);
    if !lingering.is_empty() {
        return Err(Violation::new(
            Errno::EINVAL,
            format!("{lingering}{what} would lead to reference leak"),
        ));
    }
    if all && refs.active_irq_id != 0 {
        reject!(
            EINVAL,
            "{what} cannot be used inside bpf_local_irq_save-ed region"
        );
    }
    if all && refs.active_rcu_locks != 0 {
        reject!(
            EINVAL,
            "{what} cannot be used inside bpf_rcu_read_lock-ed region"
        );
    }
    if all && refs.active_preempt_locks != 0 {
        reject!(
            EINVAL,
            "{what} cannot be used inside bpf_preempt_disable-ed region"
        );
    }
    Ok(())
}

/// A line for each reference still held: `check_reference_leak`.
fn lingering_refs(env: &Env<'_>, scope: ExitScope) -> String {
    let mut text = String::new();
    if scope != ExitScope::Exception && env.cur.curframe != 0 {
        return text;
    }
    let returned = env.cur.reg(Reg::R0).ref_obj_id;
    for r in &env.cur.refs.list {
        if r.kind != RefKind::PTR {
            continue;
        }
        // A struct_ops program may return an object to its caller; its type is checked with the return value.
        if env.facts.attach.prog_type == ProgType::StructOps
            && scope != ExitScope::Exception
            && returned == r.id
        {
            continue;
        }
        text.push_str(&format!(
            "Unreleased reference id={} alloc_insn={}\n",
            r.id, r.insn_idx
        ));
    }
    text
}

/// Acquires a reference at the current instruction; its id is new.
pub(crate) fn acquire_reference(env: &mut Env<'_>) -> u32 {
    let id = env.new_id();
    let insn_idx = env.insn_idx;
    env.cur.refs.list.push(RefState {
        kind: RefKind::PTR,
        id,
        insn_idx,
        owner: LockOwner::None,
    });
    id
}

/// Gives a reference back; every register that belongs to it loses its value.
///
/// # Errors
/// EINVAL: it is not held.
pub(crate) fn release_reference(env: &mut Env<'_>, id: u32) -> Check {
    let held = env
        .cur
        .refs
        .list
        .iter()
        .position(|held| held.kind == RefKind::PTR && held.id == id);
    let Some(index) = held else { reject!(EINVAL) };
    env.cur.refs.remove(index);
    let (leaks, precise) = (env.permits.allow_ptr_leaks, !env.permits.bpf_capable);
    env.cur.change_regs(
        |reg| reg.ref_obj_id == id,
        |reg| invalidate(reg, leaks, precise),
    );
    Ok(())
}

/// A register whose object is gone is a number, or nothing for programs that may not see addresses.
pub(crate) fn invalidate(reg: &mut RegState, leaks: bool, precise: bool) {
    reg.set_unknown();
    reg.precise = precise;
    if !leaks {
        reg.ty = RegType::NOT_INIT;
    }
}

/// Objects that the program does not own were only safe under the lock: `invalidate_non_owning_refs`.
pub(crate) fn invalidate_non_owning_refs(env: &mut Env<'_>) {
    let (leaks, precise) = (env.permits.allow_ptr_leaks, !env.permits.bpf_capable);
    env.cur.change_regs(
        |reg| reg.ty.has(TypeFlags::NON_OWN_REF),
        |reg| invalidate(reg, leaks, precise),
    );
}
