//! Arithmetic and moves: `dst = dst op src`.
//!
//! This file decides what is permitted and what becomes of the register's type and id; `domain` computes numbers,
//! `ptr_arith` handles pointers. Kernel counterpart: `check_alu_op`, `adjust_reg_min_max_vals`.
//!
//! # Ids of scalars
//! Two scalars with one id hold one number, so that what a branch teaches about one holds for the other (`linked`). A move
//! gives both its registers an id. `dst += K` keeps the id and notes `K` (`BPF_ADD_CONST64`, or `BPF_ADD_CONST32` where the
//! sum is one of 32 bits), once; every other operation drops it.

use ring3_isa::{AluOp, EndianOp, Insn, MemSize, Operand, Reg, Width};
use ring3_uapi::MapType;

use super::ptr_arith::{PtrOperands, adjust_pointer};
use super::regs::{RegArg, assign_scalar_id, check_dst, check_reg_arg, mark_reg_unknown};
use super::sanitize::sanitize_scalar_alu;
use crate::backtrack::mark_chain_precision;
use crate::domain::{BoundsViolation, BrokenBounds, Scalar};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::explore::{Speculation, push_path};
use crate::log::vlog;
use crate::state::{
    BPF_ADD_CONST, BPF_ADD_CONST32, BPF_ADD_CONST64, DEF_NOT_SUBREG, RegBase, RegState, RegType,
};

/// An instruction of the arithmetic classes.
pub(crate) fn check_alu_op(env: &mut Env<'_>, insn: &Insn) -> Check {
    match *insn {
        Insn::Alu {
            width,
            op: AluOp::Mov,
            dst,
            src,
        } => check_mov(env, width, dst, src),
        Insn::Alu {
            width,
            op,
            dst,
            src,
        } => check_binary(env, width, op, dst, src),
        Insn::Neg { width, dst } => check_neg(env, width, dst),
        Insn::Movsx {
            width,
            from,
            dst,
            src,
        } => check_movsx(env, width, from, dst, src),
        Insn::Endian { op, size, dst } => check_endian(env, op, size, dst),
        Insn::AddrSpaceCast {
            dst,
            src,
            dst_as,
            src_as,
        } => check_addr_space_cast(env, dst, src, dst_as, src_as),
        Insn::LoadImm64 { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Load { .. }
        | Insn::Store { .. }
        | Insn::Atomic { .. }
        | Insn::Jmp { .. }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::MayGoto { .. }
        | Insn::Call(_)
        | Insn::Exit
        | Insn::Internal(_) => Err(Violation::bug("not an arithmetic instruction")),
    }
}

/// `dst = dst op src`
fn check_binary(env: &mut Env<'_>, width: Width, op: AluOp, dst: Reg, src: Operand) -> Check {
    if let Operand::Reg(src) = src {
        check_reg_arg(env, src, RegArg::Src)?;
    }
    check_reg_arg(env, dst, RegArg::Src)?;
    if let Operand::Imm(imm) = src {
        check_immediate(width, op, imm)?;
    }
    check_reg_arg(env, dst, RegArg::DstNoMark)?;
    adjust_reg(env, width, op, dst, src)?;
    check_reg_bounds(env, dst, "alu")
}

fn check_immediate(width: Width, op: AluOp, imm: i32) -> Check {
    if matches!(op, AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod) && imm == 0 {
        reject!(EINVAL, "div by zero");
    }
    let bits = match width {
        Width::W32 => 32,
        Width::W64 => 64,
    };
    if matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh) && !(0..bits).contains(&imm) {
        reject!(EINVAL, "invalid shift {imm}");
    }
    Ok(())
}

/// `dst = -dst`
fn check_neg(env: &mut Env<'_>, width: Width, dst: Reg) -> Check {
    check_unary(env, dst, |_, reg| {
        reg.scalar = reg.scalar.neg(width);
        clear_scalar_id(reg);
    })
}

/// `dst = le16 dst` and the like.
fn check_endian(env: &mut Env<'_>, op: EndianOp, size: MemSize, dst: Reg) -> Check {
    check_unary(env, dst, |_, reg| {
        reg.scalar = reg.scalar.endian(op, size);
        if (op, size) != (EndianOp::ToLe, MemSize::Dw) {
            clear_scalar_id(reg);
        }
    })
}

fn check_unary(
    env: &mut Env<'_>,
    dst: Reg,
    change: impl FnOnce(&mut Env<'_>, &mut RegState),
) -> Check {
    check_reg_arg(env, dst, RegArg::Src)?;
    if env.is_pointer_value(env.cur.reg(dst)) {
        reject!(EACCES, "R{} pointer arithmetic prohibited", dst.number());
    }
    if !env.cur.reg(dst).ty.is_scalar() {
        return check_reg_arg(env, dst, RegArg::Dst);
    }
    check_reg_arg(env, dst, RegArg::DstNoMark)?;
    let mut reg = *env.cur.reg(dst);
    change(env, &mut reg);
    *env.cur.reg_mut(dst) = reg;
    check_reg_bounds(env, dst, "alu")
}

fn check_mov(env: &mut Env<'_>, width: Width, dst: Reg, src: Operand) -> Check {
    if let Operand::Reg(src) = src {
        check_reg_arg(env, src, RegArg::Src)?;
    }
    let subreg_def = check_dst(env, dst)?;
    match (src, width) {
        (Operand::Imm(imm), _) => {
            let value = match width {
                Width::W64 => i64::from(imm) as u64,
                Width::W32 => u64::from(imm as u32),
            };
            let precise = !env.permits.bpf_capable;
            let known = RegState {
                subreg_def,
                precise,
                ..RegState::known(value)
            };
            env.cur.set_reg(dst, known);
            return Ok(());
        }
        (Operand::Reg(src), Width::W64) => {
            assign_scalar_id(env, src);
            // Its upper half was asked for: the source is a whole register.
            let reg = env.cur.shared_reg(src);
            env.cur.share_reg(dst, reg);
        }
        (Operand::Reg(src), Width::W32) => mov_subreg(env, dst, src)?,
    }
    check_reg_bounds(env, dst, "alu")
}

/// `w_dst = w_src`
fn mov_subreg(env: &mut Env<'_>, dst: Reg, src: Reg) -> Check {
    let source = env.cur.reg(src);
    if env.is_pointer_value(source) {
        reject!(EACCES, "R{} partial copy of pointer", src.number());
    }
    if !source.ty.is_scalar() {
        mark_reg_unknown(env, dst);
        let subreg_def = env.insn_idx + 1;
        let reg = env.cur.reg_mut(dst);
        reg.scalar = reg.scalar.zero_extend();
        reg.subreg_def = subreg_def;
        return Ok(());
    }
    let fits = source.scalar.umax <= u64::from(u32::MAX);
    let mut reg = copy_scalar_for_mov(env, src, fits);
    reg.scalar = reg.scalar.zero_extend();
    reg.subreg_def = env.insn_idx + 1;
    env.cur.set_reg(dst, reg);
    Ok(())
}

/// `dst = (s8)src` and the like.
fn check_movsx(env: &mut Env<'_>, width: Width, from: MemSize, dst: Reg, src: Reg) -> Check {
    check_reg_arg(env, src, RegArg::Src)?;
    check_reg_arg(env, dst, RegArg::DstNoMark)?;
    let source = env.cur.reg(src);
    if env.is_pointer_value(source) {
        match width {
            Width::W64 => reject!(EACCES, "R{} sign-extension part of pointer", src.number()),
            Width::W32 => reject!(EACCES, "R{} partial copy of pointer", src.number()),
        }
    }
    if !source.ty.is_scalar() {
        mark_reg_unknown(env, dst);
        if width == Width::W32 {
            let reg = env.cur.reg_mut(dst);
            reg.scalar = reg.scalar.zero_extend();
        }
        return check_reg_bounds(env, dst, "alu");
    }
    // A number below the sign bit of the narrow width is not changed: the registers stay linked.
    let unchanged = source.scalar.umax < 1 << (from.bytes() * 8 - 1);
    let mut reg = copy_scalar_for_mov(env, src, unchanged);
    match width {
        Width::W64 => {
            reg.scalar = reg.scalar.sign_extend(from);
            reg.subreg_def = DEF_NOT_SUBREG;
        }
        Width::W32 => {
            reg.scalar = reg.scalar.sign_extend_half(from);
            reg.subreg_def = env.insn_idx + 1;
        }
    }
    *env.cur.reg_mut(dst) = reg;
    check_reg_bounds(env, dst, "alu")
}

/// A copy of the scalar in `src`; if the move keeps the number, both get one id, else the copy has none.
fn copy_scalar_for_mov(env: &mut Env<'_>, src: Reg, keeps_number: bool) -> RegState {
    if keeps_number {
        assign_scalar_id(env, src);
    }
    let mut reg = *env.cur.reg(src);
    if !keeps_number {
        clear_scalar_id(&mut reg);
    }
    reg
}

/// `dst = addr_space_cast(src, dst_as, src_as)`
fn check_addr_space_cast(env: &mut Env<'_>, dst: Reg, src: Reg, dst_as: u16, src_as: u16) -> Check {
    if !matches!((dst_as, src_as), (0, 1) | (1, 0)) {
        reject!(
            EINVAL,
            "addr_space_cast insn can only convert between address space 1 and 0"
        );
    }
    if !env
        .facts
        .used_maps
        .iter()
        .any(|&map| env.facts.map(map).map_type == MapType::Arena)
    {
        reject!(
            EINVAL,
            "addr_space_cast insn can only be used in a program that has an associated arena"
        );
    }
    check_reg_arg(env, src, RegArg::Src)?;
    check_reg_arg(env, dst, RegArg::DstNoMark)?;
    mark_reg_unknown(env, dst);
    if src_as == 1 {
        let subreg_def = env.insn_idx + 1;
        let reg = env.cur.reg_mut(dst);
        reg.ty = RegType::of(RegBase::PtrToArena);
        // An arena pointer is 32 bits wide.
        reg.subreg_def = subreg_def;
    }
    check_reg_bounds(env, dst, "alu")
}

/// The scalar equals no other any more.
#[inline]
pub(crate) fn clear_scalar_id(reg: &mut RegState) {
    reg.id = 0;
    reg.off = 0;
}

/// `dst = dst op src` where both have values: pointers, then numbers.
fn adjust_reg(env: &mut Env<'_>, width: Width, op: AluOp, dst: Reg, src: Operand) -> Check {
    let dst_reg = env.cur.reg(dst);
    let (dst_ty, dst_is_precise) = (dst_reg.ty, dst_reg.precise);
    if dst_ty.is(RegBase::PtrToArena) {
        // Any arithmetic is allowed on arena pointers; they are 32 bits wide.
        if width == Width::W64 {
            env.aux[env.insn_idx].needs_zext = true;
        }
        return Ok(());
    }
    if dst_ty.is_scalar() {
        match src {
            Operand::Imm(imm) => {
                let imm = Scalar::known(i64::from(imm) as u64);
                return adjust_scalars(env, width, op, dst, src, &imm);
            }
            Operand::Reg(number) if env.cur.reg(number).ty.is_scalar() => {
                if dst_is_precise {
                    mark_chain_precision(env, number)?;
                }
                let src_scalar = env.cur.reg(number).scalar;
                return adjust_scalars(env, width, op, dst, src, &src_scalar);
            }
            Operand::Reg(_) => {}
        }
    }
    adjust_with_pointer(env, width, op, dst, src)
}

/// As [`adjust_reg`] where at least one operand is a pointer.
fn adjust_with_pointer(
    env: &mut Env<'_>,
    width: Width,
    op: AluOp,
    dst: Reg,
    src: Operand,
) -> Check {
    let dst_reg = *env.cur.reg(dst);
    let src_reg = match src {
        Operand::Reg(src) => *env.cur.reg(src),
        Operand::Imm(imm) => RegState::known(i64::from(imm) as u64),
    };
    if dst_reg.ty.is_scalar() {
        mark_chain_precision(env, dst)?;
        let operands = PtrOperands {
            ptr: src_reg,
            off: dst_reg,
            ptr_is_dst: false,
        };
        return adjust_pointer(env, width, op, dst, src, operands);
    }
    if !src_reg.ty.is_scalar() {
        // Two pointers give no pointer; only their distance means anything.
        if op == AluOp::Sub && env.permits.allow_ptr_leaks {
            mark_reg_unknown(env, dst);
            return Ok(());
        }
        reject!(
            EACCES,
            "R{} pointer {} pointer prohibited",
            dst.number(),
            op_text(op)
        );
    }
    if let Operand::Reg(src) = src {
        mark_chain_precision(env, src)?;
    }
    let operands = PtrOperands {
        ptr: dst_reg,
        off: src_reg,
        ptr_is_dst: true,
    };
    adjust_pointer(env, width, op, dst, src, operands)
}

fn adjust_scalars(
    env: &mut Env<'_>,
    width: Width,
    op: AluOp,
    dst: Reg,
    src: Operand,
    src_scalar: &Scalar,
) -> Check {
    if !Scalar::is_alu_computable(op, src_scalar, width) {
        mark_reg_unknown(env, dst);
        return Ok(());
    }
    if matches!(op, AluOp::Add | AluOp::Sub) {
        sanitize_scalar_alu(env, op, dst, src)?;
    }
    let before = env.cur.reg(dst).scalar;
    let mut scalar = before;
    if let Some(fork) = before.fork_of_sign_mask(op, src_scalar) {
        let here = env.insn_idx;
        let other = push_path(env, here, here, Speculation::No)?;
        other.reg_mut(dst).scalar = fork.zero;
        scalar = fork.ones;
    }
    scalar = scalar.alu(op, src_scalar, width);
    let may_link = env.permits.bpf_capable && src != Operand::Reg(dst);
    let reg = env.cur.reg_mut(dst);
    reg.scalar = scalar;
    if reg.id != 0 {
        match linked_sum(width, op, reg, &before, src_scalar) {
            Some((id, off)) if may_link => (reg.id, reg.off) = (id, off),
            Some(_) | None => clear_scalar_id(reg),
        }
    }
    Ok(())
}

/// Id and offset of `dst += K` and `dst -= K`: the link to the registers that `dst` equalled stays, as "plus `K`".
fn linked_sum(
    width: Width,
    op: AluOp,
    reg: &RegState,
    before: &Scalar,
    src: &Scalar,
) -> Option<(u32, i32)> {
    if !matches!(op, AluOp::Add | AluOp::Sub) || reg.id & BPF_ADD_CONST != 0 {
        return None;
    }
    let kind = match width {
        Width::W64 => BPF_ADD_CONST64,
        // A sum of 32 bits is linked to a number of 32 bits.
        Width::W32 if before.umax <= u64::from(u32::MAX) => BPF_ADD_CONST32,
        Width::W32 => return None,
    };
    Some((reg.id | kind, added_constant(width, op, src)?))
}

/// What `op` adds, if it is known and fits the register's `off`.
fn added_constant(width: Width, op: AluOp, src: &Scalar) -> Option<i32> {
    let value = src.const_value_at(width)?;
    let value = match width {
        Width::W64 => i32::try_from(value as i64).ok()?,
        Width::W32 => value as u32 as i32,
    };
    if op == AluOp::Sub {
        value.checked_neg()
    } else {
        Some(value)
    }
}

/// The log's sign for an operation; it has one for signed and unsigned division.
pub(crate) fn op_text(op: AluOp) -> &'static str {
    match op {
        AluOp::Sdiv => AluOp::Div.symbol(),
        AluOp::Smod => AluOp::Mod.symbol(),
        other => other.symbol(),
    }
}

/// Looks for contradictions in a register of the current frame (`reg_bounds_sanity_check`).
#[inline]
pub(crate) fn check_reg_bounds(env: &mut Env<'_>, reg: Reg, place: &str) -> Check {
    if env.cur.reg(reg).scalar.check_bounds().is_ok() {
        return Ok(());
    }
    let mut scalar = env.cur.reg(reg).scalar;
    settle_bounds(env, &mut scalar, place)?;
    env.cur.reg_mut(reg).scalar = scalar;
    Ok(())
}

/// If the register's bounds contradict each other, says so and forgets them (`reg_bounds_sanity_check`).
///
/// # Errors
/// EFAULT if the loader asked for it (`BPF_F_TEST_REG_INVARIANTS`).
#[inline]
pub(crate) fn settle_bounds(env: &mut Env<'_>, scalar: &mut Scalar, place: &str) -> Check {
    match scalar.check_bounds() {
        Ok(()) => Ok(()),
        Err(violation) => forget_bounds(env, scalar, violation, place),
    }
}

#[cold]
fn forget_bounds(
    env: &mut Env<'_>,
    scalar: &mut Scalar,
    violation: BoundsViolation,
    place: &str,
) -> Check {
    let broken = BrokenBounds {
        violation,
        scalar: *scalar,
    };
    vlog!(
        env.log,
        "verifier bug: REG INVARIANTS VIOLATION ({place}): {broken}\n"
    );
    if env.modes.test_reg_invariants {
        reject!(EFAULT);
    }
    *scalar = scalar.with_ranges_unknown();
    Ok(())
}
