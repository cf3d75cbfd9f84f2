//! Legacy packet loads: implicit context in r6, result in r0, the path may end inside.

use ring3_isa::{Insn, Reg};

use super::call::subprog::leave_function;
use super::mem::check_ptr_off_reg;
use super::refs::{ExitScope, check_resource_leak};
use super::regs::{RegArg, check_reg_arg, clear_caller_saved, mark_reg_unknown};
use crate::env::Env;
use crate::error::{Check, reject};
use crate::explore::{Speculation, push_path};
use crate::state::RegBase;

/// Checks `BPF_LD_ABS` and `BPF_LD_IND`: `check_ld_abs`.
pub(crate) fn check_ld_abs(env: &mut Env<'_>, insn: &Insn) -> Check {
    if !env.registry.prog_type(env.facts.attach.prog_type).ld_abs {
        reject!(
            EINVAL,
            "BPF_LD_[ABS|IND] instructions not allowed for this program type"
        );
    }
    check_reg_arg(env, Reg::R6, RegArg::Src)?;
    check_resource_leak(env, ExitScope::Program, "BPF_LD_[ABS|IND]")?;
    if !env.cur.reg(Reg::R6).ty.is(RegBase::PtrToCtx) {
        reject!(EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb");
    }
    if let Insn::LoadInd { src, .. } = *insn {
        check_reg_arg(env, src, RegArg::Src)?;
    }
    let ctx = *env.cur.reg(Reg::R6);
    check_ptr_off_reg(&ctx, Reg::R6)?;
    clear_caller_saved(env);
    mark_reg_unknown(env, Reg::R0);
    let def = env.insn_idx + 1;
    env.cur.reg_mut(Reg::R0).subreg_def = def;
    if env.cur.curframe != 0 {
        return leave_with_zero(env);
    }
    Ok(())
}

/// Where the packet is too short, a subprogram returns 0 to its caller: this path; the other one goes on behind the load.
fn leave_with_zero(env: &mut Env<'_>) -> Check {
    let (next, here) = (env.insn_idx + 1, env.insn_idx);
    push_path(env, next, here, Speculation::No)?;
    let precise = !env.permits.bpf_capable;
    let r0 = env.cur.reg_mut(Reg::R0);
    r0.set_const_zero();
    r0.precise = precise;
    leave_function(env)?;
    env.mark_scratched(Reg::R0);
    // The caller of this function steps to the next instruction.
    env.insn_idx = env.insn_idx.wrapping_sub(1);
    Ok(())
}
