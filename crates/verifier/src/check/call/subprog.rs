//! Calls of the program's own functions, and the way back.
//!
//! A static function is walked in place, in a frame of its own. A global function is checked once for all arguments that its
//! BTF prototype admits ([`FuncArgs`]); a call only checks that the arguments are such. Kernel counterpart:
//! `check_func_call`, `prepare_func_exit`. Neighbours: `func_args`, `callback`, `exit`, `states`.

use ring3_isa::Reg;
use ring3_uapi::Errno;

use super::arg_type::check_trusted_object;
use super::func_args::{FuncArg, FuncArgs, Trust, prepare_func_args};
use crate::backtrack::mark_chain_precision;
use crate::check::dynptr;
use crate::check::exit::{invalid_scalar, is_within};
use crate::check::mem::{
    Access, FixedOffset, ZeroSize, check_helper_mem_access, check_ptr_off_reg_with,
};
use crate::check::nullness::mark_ptr_not_null_reg;
use crate::check::regs::{clear_caller_saved, mark_reg_unknown};
use crate::env::{Env, InsnFlags, Linkage};
use crate::error::{Check, RejectKind, Violation, reject};
use crate::explore::log_violation;
use crate::log::state::print_full_state;
use crate::log::vlog;
use crate::state::{
    DEF_NOT_SUBREG, FrameKind, FuncState, RegBase, RegState, RegType, VerifierState,
};

/// Calls the function `distance` slots behind the next one.
pub(crate) fn check_func_call(env: &mut Env<'_>, distance: i32) -> Check {
    let callsite = env.insn_idx;
    let target = (callsite + 1).wrapping_add_signed(distance);
    let Some(subprog) = env.facts.subprog_at(target) else {
        return Err(Violation::bug(format_args!(
            "target of func call at insn {target} is not a program"
        )));
    };
    let matched = check_args_match(env, subprog);
    if let Err(violation) = &matched
        && (violation.errno == Errno::EFAULT || violation.kind == RejectKind::Unjudged)
    {
        return matched;
    }
    if env.facts.subprogs[subprog as usize].linkage == Linkage::Global {
        return call_global(env, subprog, matched);
    }
    if let Err(violation) = matched {
        log_violation(env, &violation);
    }
    let mut callee = new_frame(env, &env.cur, subprog, callsite)?;
    callee.regs[1..=5].clone_from_slice(&env.cur.cur_frame().regs[1..=5]);
    clear_caller_saved(env);
    env.cur.push_frame(callee);
    env.mark_all_scratched();
    env.insn_idx = target.wrapping_sub(1);
    if env.log.is_level() {
        vlog!(env.log, "caller:\n");
        print_full_state(env, env.cur.curframe - 1);
        vlog!(env.log, "callee:\n");
        print_full_state(env, env.cur.curframe);
    }
    Ok(())
}

/// The frame of a callee, before its arguments are set: `setup_func_entry`.
pub(super) fn new_frame(
    _env: &Env<'_>,
    state: &VerifierState,
    subprog: u32,
    callsite: u32,
) -> Check<FuncState> {
    if state.curframe as usize + 1 >= ring3_uapi::limits::CALL_FRAMES_MAX {
        reject!(
            E2BIG,
            "the call stack of {} frames is too deep",
            state.curframe + 2
        );
    }
    Ok(FuncState::new(callsite, state.curframe + 1, subprog))
}

fn call_global(env: &mut Env<'_>, subprog: u32, matched: Check) -> Check {
    let facts = env.facts;
    let info = &facts.subprogs[subprog as usize];
    let refs = &env.cur.refs;
    if refs.active_locks != 0 {
        if let Err(violation) = matched {
            log_violation(env, &violation);
        }
        reject!(
            EINVAL,
            "global function calls are not allowed while holding a lock,\nuse static function instead"
        );
    }
    let no_sleep = refs.active_rcu_locks != 0
        || refs.active_preempt_locks != 0
        || refs.active_irq_id != 0
        || !env.in_sleepable();
    if info.might_sleep && no_sleep {
        if let Err(violation) = matched {
            log_violation(env, &violation);
        }
        reject!(
            EINVAL,
            "global functions that may sleep are not allowed in non-sleepable context,\n\
             i.e., in a RCU/IRQ/preempt-disabled section, or in\n\
             a non-sleepable BPF program context"
        );
    }
    if let Err(violation) = matched {
        return Err(violation.and_line(format_args!(
            "Caller passes invalid args into func#{subprog} ('{}')",
            info.name
        )));
    }
    if env.log.is_level() {
        vlog!(
            env.log,
            "Func#{subprog} ('{}') is global and assumed valid.\n",
            info.name
        );
    }
    if info.changes_pkt_data {
        clear_pkt_pointers(env);
    }
    env.subprog_aux[subprog as usize].called = true;
    clear_caller_saved(env);
    mark_reg_unknown(env, Reg::R0);
    env.cur.reg_mut(Reg::R0).subreg_def = DEF_NOT_SUBREG;
    Ok(())
}

/// Packet pointers lose their value when packet data may have moved: `clear_all_pkt_pointers`.
pub(crate) fn clear_pkt_pointers(env: &mut Env<'_>) {
    let (allow_leaks, precise) = (env.permits.allow_ptr_leaks, !env.permits.bpf_capable);
    env.cur.change_regs(
        |reg| reg.ty.is_pkt_any() || crate::check::dynptr::is_packet_slice(reg),
        |reg| {
            reg.set_unknown();
            reg.precise = precise;
            if !allow_leaks {
                reg.ty = RegType::NOT_INIT;
            }
        },
    );
}

/// Whether the arguments of a call are what BTF says; where they are not, BTF is not believed for the function any more.
pub(super) fn check_args_match(env: &mut Env<'_>, subprog: u32) -> Check {
    let facts = env.facts;
    if facts.prog_btf.is_none() || facts.subprogs[0].func_type_id.0 == 0 {
        reject!(EINVAL);
    }
    if facts.subprogs[subprog as usize].func_type_id.0 == 0 {
        reject!(EFAULT);
    }
    if env.subprog_aux[subprog as usize].unreliable {
        reject!(EINVAL);
    }
    let result = match prepare_func_args(env, subprog) {
        Ok(args) => match_args(env, &args),
        Err(violation) => Err(violation),
    };
    if result.is_err() {
        env.subprog_aux[subprog as usize].unreliable = true;
    }
    result
}

fn match_args(env: &mut Env<'_>, args: &FuncArgs) -> Check {
    for (index, arg) in args.args.iter().enumerate() {
        let Some(reg) = Reg::new(index as u8 + 1) else {
            break;
        };
        let state = *env.cur.reg(reg);
        let number = reg.number();
        match *arg {
            FuncArg::Scalar => {
                if state.ty != RegType::SCALAR {
                    reject!(EINVAL, "R{number} is not a scalar");
                }
            }
            FuncArg::UntrustedMem => {}
            FuncArg::Ctx => {
                check_func_arg_off(&state, reg)?;
                if !state.ty.is(RegBase::PtrToCtx) {
                    reject!(EINVAL, "arg#{index} expects pointer to ctx");
                }
            }
            FuncArg::Mem { size, nullable } => {
                check_func_arg_off(&state, reg)?;
                check_mem_reg(env, reg, size).map_err(|v| v.with_errno(Errno::EINVAL))?;
                if !nullable && state.ty.may_be_null() {
                    reject!(EINVAL, "arg#{index} is expected to be non-NULL");
                }
            }
            FuncArg::Arena => {
                if !state.ty.is(RegBase::PtrToArena) && state.ty != RegType::SCALAR {
                    reject!(EINVAL, "R{number} is not a pointer to arena or scalar.");
                }
            }
            FuncArg::Object {
                trust: Trust::Untrusted,
                ..
            } => {}
            FuncArg::Object { id, trust } => {
                let may_be_null = trust == Trust::TrustedOrNull;
                if !(may_be_null && state.is_null()) {
                    check_trusted_object(env, reg, &state, id, may_be_null)?;
                }
            }
            FuncArg::Dynptr => {
                check_func_arg_off(&state, reg)?;
                dynptr::use_dynptr(env, reg, dynptr::Mutability::Read, None)?;
            }
        }
    }
    Ok(())
}

/// Fixed and variable offsets that an argument of a function may have: `check_func_arg_reg_off` for plain arguments.
fn check_func_arg_off(reg: &RegState, base: Reg) -> Check {
    match reg.ty.base {
        RegBase::PtrToStack
        | RegBase::PtrToPacket
        | RegBase::PtrToPacketMeta
        | RegBase::PtrToMapKey
        | RegBase::PtrToMapValue
        | RegBase::PtrToMem
        | RegBase::PtrToBuf
        | RegBase::Scalar
        | RegBase::PtrToArena => Ok(()),
        RegBase::PtrToBtfId => check_ptr_off_reg_with(reg, base, FixedOffset::Allowed),
        _ => check_ptr_off_reg_with(reg, base, FixedOffset::Refused),
    }
}

/// `size` bytes behind a register may be read and written: `check_mem_reg`.
pub(crate) fn check_mem_reg(env: &mut Env<'_>, reg: Reg, size: u32) -> Check {
    let saved = *env.cur.reg(reg);
    if saved.is_null() {
        return Ok(());
    }
    if saved.ty.may_be_null() {
        let facts = env.facts;
        mark_ptr_not_null_reg(facts, env.cur.reg_mut(reg));
    }
    let size = size as i32;
    let mut result = check_helper_mem_access(env, reg, size, Access::Read, ZeroSize::Allowed, None);
    if result.is_ok() {
        result = check_helper_mem_access(env, reg, size, Access::Write, ZeroSize::Allowed, None);
    }
    if saved.ty.may_be_null() {
        *env.cur.reg_mut(reg) = saved;
    }
    result
}

/// Leaves the innermost function, or a callback, for its caller: `prepare_func_exit`.
pub(crate) fn leave_function(env: &mut Env<'_>) -> Check {
    env.stack_liveness.update(env.log, env.facts, &env.cur);
    let frame = env.cur.cur_frame();
    let r0 = *frame.reg(Reg::R0);
    let (in_callback, callsite, range) = (
        frame.kind == FrameKind::Callback,
        frame.callsite,
        frame.kind.result_range(),
    );
    if r0.ty.is(RegBase::PtrToStack) {
        reject!(EINVAL, "cannot return stack pointer to the caller");
    }
    let caller = env.cur.curframe - 1;
    if in_callback {
        if r0.ty != RegType::SCALAR {
            reject!(EACCES, "R0 not a scalar value");
        }
        mark_chain_precision(env, Reg::R0)?;
        if !is_within(range, &r0, false) {
            return Err(invalid_scalar(&r0, range, "At callback return", "R0"));
        }
        if !env.facts.has_flag(callsite, InsnFlags::CALLS_CALLBACK) {
            return Err(Violation::bug(format_args!(
                "in callback, callsite {callsite} !calls_callback"
            )));
        }
        env.insn_idx = callsite;
    } else {
        *env.cur.frame_mut(caller).reg_mut(Reg::R0) = r0;
        env.insn_idx = callsite + 1;
    }
    if env.log.is_level() {
        vlog!(env.log, "returning from callee:\n");
        print_full_state(env, env.cur.curframe);
        vlog!(env.log, "to caller at {}:\n", env.insn_idx);
        print_full_state(env, caller);
    }
    env.cur.pop_frame();
    if in_callback {
        crate::states::widen_from_previous_entry(env);
    }
    Ok(())
}
