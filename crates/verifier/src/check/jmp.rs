//! Conditional jumps: which ways are possible, and what each way teaches.
//!
//! ```text
//! decide     the comparison is the same for all values: one way only (the values must then be exact)
//! split      push the way that jumps, go on with the one that falls through
//! refine     numbers: ranges and bits on both ways, and those of linked registers
//!            pointers that may be null: null on one way, not null on the other
//!            packet pointers: bytes that may be read
//! ```
//!
//! Kernel counterpart: `check_cond_jmp_op`, `is_branch_taken`, `reg_set_min_max`. Neighbours: `domain::branch`, `linked`,
//! `nullness`, `pkt_cmp`, `sanitize` (ways that only speculation takes).

use ring3_isa::{Insn, JmpOp, Operand, Reg, Width};
use ring3_uapi::Errno;

use super::alu::settle_bounds;
use super::linked::{collect_linked_regs, sync_linked_regs};
use super::nullness::{Nullness, is_not_null, mark_ptr_not_null_reg, mark_ptr_or_null_regs};
use super::pkt_cmp::{pkt_branch_taken, try_match_pkt_pointers};
use super::regs::{RegArg, check_reg_arg};
use super::sanitize::push_mispredicted;
use crate::backtrack::{LinkedRegs, mark_chain_precision, push_jmp_history};
use crate::domain::{CondOp, Scalar, Taken};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::explore::{Speculation, push_path};
use crate::log::state::print_insn_state;
use crate::state::{HistFlags, RegBase, RegState, VerifierState};
use crate::states::widen::{find_prev_entry, widen_imprecise_scalars};

/// A conditional jump, taken apart.
pub(crate) struct Jump {
    pub(crate) width: Width,
    pub(crate) op: JmpOp,
    pub(crate) dst: Reg,
    pub(crate) src: Operand,
    /// Distance from the next instruction.
    pub(crate) off: i16,
}

/// A conditional jump or `may_goto`. Leaves in `env.insn_idx` the instruction before the one where the path goes on.
pub(crate) fn check_cond_jmp_op(env: &mut Env<'_>, insn: &Insn) -> Check {
    match *insn {
        Insn::MayGoto { off } => check_may_goto(env, off),
        Insn::Jmp {
            width,
            op,
            dst,
            src,
            off,
        } => check_jump(
            env,
            &Jump {
                width,
                op,
                dst,
                src,
                off,
            },
        ),
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Movsx { .. }
        | Insn::Endian { .. }
        | Insn::AddrSpaceCast { .. }
        | Insn::LoadImm64 { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Load { .. }
        | Insn::Store { .. }
        | Insn::Atomic { .. }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::Call(_)
        | Insn::Exit
        | Insn::Internal(_) => Err(Violation::bug("not a conditional jump")),
    }
}

/// `may_goto`: jumps once a budget of the runtime is used up. The path that jumps goes on; the other is a turn of a loop.
fn check_may_goto(env: &mut Env<'_>, off: i16) -> Check {
    let here = env.insn_idx;
    let earlier = find_prev_entry(env, here);
    push_path(env, here + 1, here, Speculation::No)
        .map_err(|violation| violation.with_errno(Errno::ENOMEM))?
        .may_goto_depth += 1;
    if let Some(earlier) = earlier
        && let Some(mut pending) = env.worklist.pop()
    {
        widen_imprecise_scalars(env, earlier, &mut pending.state);
        env.worklist.push(pending);
    }
    env.insn_idx = here.wrapping_add_signed(i32::from(off));
    Ok(())
}

fn check_jump(env: &mut Env<'_>, jump: &Jump) -> Check {
    let &Jump {
        width,
        op,
        dst,
        off,
        ..
    } = jump;
    check_operands(env, jump)?;
    let dst_state = env.cur.reg(dst);
    let (flags, taken) = match jump.src {
        Operand::Reg(src) => {
            let src_state = env.cur.reg(src);
            let flags = stack_operands(dst_state, src_state);
            (flags, branch_taken(dst_state, src_state, op, width))
        }
        Operand::Imm(imm) => {
            let src_state = RegState::known(i64::from(imm) as u64);
            let flags = stack_operands(dst_state, &src_state);
            (flags, branch_taken(dst_state, &src_state, op, width))
        }
    };
    if flags != HistFlags::NONE {
        push_jmp_history(env, flags, 0);
    }
    let here = env.insn_idx;
    let target = here.wrapping_add_signed(i32::from(off)).wrapping_add(1);
    match taken {
        Taken::Unknown => split(env, jump, target),
        taken => {
            mark_decided_operands(env, jump)?;
            let mispredicted = if taken == Taken::Always {
                here + 1
            } else {
                target
            };
            if !env.permits.bypass_spec_v1 {
                push_mispredicted(env, mispredicted)?;
            }
            print_state(env);
            if taken == Taken::Always {
                env.insn_idx = target.wrapping_sub(1);
            }
            Ok(())
        }
    }
}

/// Checks that both operands may be compared.
fn check_operands(env: &mut Env<'_>, jump: &Jump) -> Check {
    check_reg_arg(env, jump.dst, RegArg::Src)?;
    if let Operand::Reg(src) = jump.src {
        check_reg_arg(env, src, RegArg::Src)?;
        let (dst_state, src_state) = (env.cur.reg(jump.dst), env.cur.reg(src));
        let both_packet = dst_state.ty.is_pkt_any() && src_state.ty.is_pkt_any();
        if !both_packet && env.is_pointer_value(src_state) {
            reject!(EACCES, "R{} pointer comparison prohibited", src.number());
        }
    }
    Ok(())
}

/// Comparisons of stack pointers stand in the history, as their registers are not followed backwards as numbers.
fn stack_operands(dst: &RegState, src: &RegState) -> HistFlags {
    let mut flags = HistFlags::NONE;
    if src.ty.is(RegBase::PtrToStack) {
        flags = flags.with(HistFlags::SRC_REG_STACK);
    }
    if dst.ty.is(RegBase::PtrToStack) {
        flags = flags.with(HistFlags::DST_REG_STACK);
    }
    flags
}

/// A jump decided in advance relies on the numbers compared.
fn mark_decided_operands(env: &mut Env<'_>, jump: &Jump) -> Check {
    if env.cur.reg(jump.dst).ty.is_scalar() {
        mark_chain_precision(env, jump.dst)?;
    }
    if let Operand::Reg(src) = jump.src
        && env.cur.reg(src).ty.is_scalar()
    {
        mark_chain_precision(env, src)?;
    }
    Ok(())
}

/// Whether `dst op src` is the same for all values.
fn branch_taken(dst: &RegState, src: &RegState, op: JmpOp, width: Width) -> Taken {
    if dst.ty.is_pkt_any() && src.ty.is_pkt_any() && width == Width::W64 {
        return pkt_branch_taken(dst, src, op);
    }
    if dst.ty.is_scalar() && src.ty.is_scalar() {
        return Scalar::branch_taken(&dst.scalar, &src.scalar, CondOp::from(op), width);
    }
    // A pointer that is not null differs from 0; nothing else is known of its value.
    let is_zero =
        |reg: &RegState| reg.ty.is_scalar() && reg.scalar.const_value_at(width) == Some(0);
    let pointer = match (is_zero(src), is_zero(dst)) {
        (true, _) => dst,
        (false, true) => src,
        (false, false) => return Taken::Unknown,
    };
    if op == JmpOp::Eq && is_not_null(pointer) {
        Taken::Never
    } else if op == JmpOp::Ne && is_not_null(pointer) {
        Taken::Always
    } else {
        Taken::Unknown
    }
}

/// Both ways are possible: pushes the one that jumps and goes on with the one that falls through.
fn split(env: &mut Env<'_>, jump: &Jump, target: u32) -> Check {
    let mut linked = LinkedRegs::default();
    if let Operand::Reg(src) = jump.src {
        collect_links_of(env, src, &mut linked);
    }
    collect_links_of(env, jump.dst, &mut linked);
    if linked.as_slice().len() > 1 {
        // Before the split, so that both ways share the record.
        push_jmp_history(env, HistFlags::NONE, linked.pack());
    }
    let here = env.insn_idx;
    push_path(env, target, here, Speculation::No)?;
    let Some(mut pending) = env.worklist.pop() else {
        return Err(Violation::bug("worklist"));
    };
    let refined = refine(env, &mut pending.state, jump, &linked);
    env.worklist.push(pending);
    refined?;
    print_state(env);
    Ok(())
}

fn collect_links_of(env: &mut Env<'_>, reg: Reg, linked: &mut LinkedRegs) {
    let reg = env.cur.reg(reg);
    if reg.ty.is_scalar() && reg.id != 0 {
        let id = reg.id;
        collect_linked_regs(env, id, linked);
    }
}

/// Teaches both ways, `jumps` and `env.cur`, what the comparison says.
fn refine(env: &mut Env<'_>, jumps: &mut VerifierState, jump: &Jump, linked: &LinkedRegs) -> Check {
    refine_numbers(env, jumps, jump)?;
    if let Operand::Reg(src) = jump.src {
        sync_links_of(env, jumps, src, linked);
    }
    sync_links_of(env, jumps, jump.dst, linked);
    refine_equal_pointers(env, jumps, jump);
    refine_pointers(env, jumps, jump)
}

/// Narrows the numbers compared on both ways (`reg_set_min_max`).
fn refine_numbers(env: &mut Env<'_>, jumps: &mut VerifierState, jump: &Jump) -> Check {
    let &Jump {
        width, dst, src, ..
    } = jump;
    let lhs = env.cur.reg(dst);
    let rhs = match src {
        Operand::Reg(src) => env.cur.reg(src),
        Operand::Imm(_) => lhs,
    };
    if !lhs.ty.is_scalar() || !rhs.ty.is_scalar() {
        return Ok(());
    }
    let holds = CondOp::from(jump.op);
    let lhs = lhs.scalar;
    if src == Operand::Reg(dst) {
        return refine_by_itself(env, jumps, jump, lhs);
    }
    let rhs = match src {
        Operand::Reg(_) => rhs.scalar,
        Operand::Imm(imm) => Scalar::known(i64::from(imm) as u64),
    };
    let (mut falls_lhs, mut falls_rhs) = (lhs, rhs);
    Scalar::refine(&mut falls_lhs, &mut falls_rhs, holds.negate(), width);
    let (mut jumps_lhs, mut jumps_rhs) = (lhs, rhs);
    Scalar::refine(&mut jumps_lhs, &mut jumps_rhs, holds, width);
    settle_bounds(env, &mut jumps_lhs, "true_reg1")?;
    settle_bounds(env, &mut jumps_rhs, "true_reg2")?;
    settle_bounds(env, &mut falls_lhs, "false_reg1")?;
    settle_bounds(env, &mut falls_rhs, "false_reg2")?;
    learn(jumps, dst, &jumps_lhs);
    learn(&mut env.cur, dst, &falls_lhs);
    if let Operand::Reg(src) = src {
        learn(jumps, src, &jumps_rhs);
        learn(&mut env.cur, src, &falls_rhs);
    }
    Ok(())
}

/// Narrows a register; one of which nothing new is known stays shared with other states.
fn learn(state: &mut VerifierState, reg: Reg, known: &Scalar) {
    if state.reg(reg).scalar != *known {
        state.reg_mut(reg).scalar = *known;
    }
}

/// `if r1 < r1`
fn refine_by_itself(
    env: &mut Env<'_>,
    jumps: &mut VerifierState,
    jump: &Jump,
    scalar: Scalar,
) -> Check {
    let holds = CondOp::from(jump.op);
    let mut on_fall = scalar.refine_by_itself(holds.negate(), jump.width);
    let mut on_jump = scalar.refine_by_itself(holds, jump.width);
    // Both operands are looked at, though they are one.
    settle_bounds(env, &mut on_jump, "true_reg1")?;
    settle_bounds(env, &mut on_jump, "true_reg2")?;
    settle_bounds(env, &mut on_fall, "false_reg1")?;
    settle_bounds(env, &mut on_fall, "false_reg2")?;
    jumps.reg_mut(jump.dst).scalar = on_jump;
    env.cur.reg_mut(jump.dst).scalar = on_fall;
    Ok(())
}

fn sync_links_of(env: &mut Env<'_>, jumps: &mut VerifierState, reg: Reg, linked: &LinkedRegs) {
    let state = env.cur.reg(reg);
    if state.ty.is_scalar() && state.id != 0 && linked.as_slice().len() > 1 {
        sync_linked_regs(&mut env.cur, reg, linked);
        sync_linked_regs(jumps, reg, linked);
    }
}

/// A pointer that may be null is not null where it equals one that is not.
fn refine_equal_pointers(env: &mut Env<'_>, jumps: &mut VerifierState, jump: &Jump) {
    let &Jump {
        width: Width::W64,
        op,
        dst,
        src: Operand::Reg(src),
        ..
    } = jump
    else {
        return;
    };
    let (dst_ty, src_ty) = (env.cur.reg(dst).ty, env.cur.reg(src).ty);
    if dst_ty.is_scalar()
        || src_ty.is_scalar()
        || dst_ty.may_be_null() == src_ty.may_be_null()
        // A pointer to a kernel object may be null without being marked so.
        || dst_ty.base == RegBase::PtrToBtfId
        || src_ty.base == RegBase::PtrToBtfId
    {
        return;
    }
    let maybe_null = if src_ty.may_be_null() { src } else { dst };
    let equal = if op == JmpOp::Eq {
        jumps
    } else if op == JmpOp::Ne {
        &mut env.cur
    } else {
        return;
    };
    mark_ptr_not_null_reg(env.facts, equal.reg_mut(maybe_null));
}

fn refine_pointers(env: &mut Env<'_>, jumps: &mut VerifierState, jump: &Jump) -> Check {
    let &Jump {
        width,
        op,
        dst,
        src,
        ..
    } = jump;
    // A register that holds 0 tells nothing.
    let with_null = src == Operand::Imm(0);
    let dst_ty = env.cur.reg(dst).ty;
    if dst_ty.is_scalar() {
        return Ok(());
    }
    if matches!(op, JmpOp::Eq | JmpOp::Ne)
        && width == Width::W64
        && with_null
        && dst_ty.may_be_null()
    {
        let (on_fall, on_jump) = if op == JmpOp::Eq {
            (Nullness::NotNull, Nullness::Null)
        } else {
            (Nullness::Null, Nullness::NotNull)
        };
        mark_ptr_or_null_regs(env.facts, &mut env.cur, dst, on_fall);
        mark_ptr_or_null_regs(env.facts, jumps, dst, on_jump);
        return Ok(());
    }
    let dst_state = *env.cur.reg(dst);
    if !try_match_pkt_pointers(jump, &dst_state, &mut env.cur, jumps)
        && env.is_pointer_value(env.cur.reg(dst))
    {
        reject!(EACCES, "R{} pointer comparison prohibited", dst.number());
    }
    Ok(())
}

fn print_state(env: &mut Env<'_>) {
    if env.log.is_level() {
        let frame = env.cur.curframe;
        print_insn_state(env, frame);
    }
}
