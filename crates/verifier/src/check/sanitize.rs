//! Pointer arithmetic of loaders without privilege: the processor may speculate past a bounds check, so the rewritten
//! program clamps what is added to a pointer.
//!
//! The clamp (`alu_limit`) is the distance the pointer may move in its direction. It must be the same on all paths, as the
//! instruction has one rewrite. It is found in two steps: [`Sanitize::before`] takes the distance from the pointer to the
//! end of its object, [`Sanitize::after`] narrows it to how far the pointer moved at most. In between, the path that the
//! clamp itself creates (0 is added instead) is pushed for exploration.
//!
//! Kernel counterpart: `sanitize_ptr_alu`, `sanitize_check_bounds`. Neighbours: `ptr_arith`; `fixups` writes the clamp.

use ring3_isa::{AluOp, Insn, Operand, Reg};
use ring3_uapi::limits::STACK_BYTES_MAX;

use super::map_value::{AccessBy, check_map_access};
use super::mem::ZeroSize;
use crate::aux::Clamp;
use crate::env::{Env, Slot};
use crate::error::{Check, Violation, reject};
use crate::explore::{Speculation, push_path};
use crate::state::{RegBase, RegState};

/// The added register is clamped (`BPF_ALU_SANITIZE_SRC`).
pub(crate) const ALU_SANITIZE_SRC: u8 = 1;
/// As above where the pointer is the source operand (`BPF_ALU_SANITIZE_DST`).
pub(crate) const ALU_SANITIZE_DST: u8 = 1 << 1;
/// What is added is negative.
pub(crate) const ALU_NEG_VALUE: u8 = 1 << 2;
/// Both operands are numbers: no clamp, but no pointer may come here either.
pub(crate) const ALU_NON_POINTER: u8 = 1 << 3;
/// What is added is a known number.
pub(crate) const ALU_IMMEDIATE: u8 = 1 << 4;

/// Why the clamp cannot be found.
enum Reason {
    Bounds,
    Type,
    Paths,
    Limit,
    Stack,
}

/// An addition or subtraction on a pointer.
pub(crate) struct Sanitize {
    pub(crate) op: AluOp,
    pub(crate) dst: Reg,
    pub(crate) src: Operand,
    pub(crate) off: RegState,
    pub(crate) off_is_dst: bool,
}

/// What [`Sanitize::before`] found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    alu_state: u8,
    alu_limit: u32,
    mask_to_left: bool,
}

impl Sanitize {
    fn is_needed(&self, env: &Env<'_>) -> bool {
        matches!(self.op, AluOp::Add | AluOp::Sub) && !can_skip(env, self.src)
    }

    /// Before the pointer moves; `result` is the destination as far as it is known by now.
    pub(crate) fn before(
        &self,
        env: &mut Env<'_>,
        ptr: &RegState,
        result: &RegState,
    ) -> Check<Window> {
        let mut window = Window::default();
        if !self.is_needed(env) {
            return Ok(window);
        }
        let (off, off_is_imm) = (&self.off.scalar, self.off.scalar.is_const());
        let off_is_negative = off.smin < 0;
        if !env.cur.speculative {
            if !off_is_imm && (off.smin < 0) != (off.smax < 0) {
                return Err(self.violation(Reason::Bounds));
            }
            window.mask_to_left = off_is_negative == (self.op == AluOp::Add);
            window.alu_limit =
                pointer_limit(env, ptr, window.mask_to_left).map_err(|r| self.violation(r))?;
            window.alu_state = if off_is_negative { ALU_NEG_VALUE } else { 0 };
            window.alu_state |= if off_is_imm { ALU_IMMEDIATE } else { 0 };
            window.alu_state |= if self.off_is_dst {
                ALU_SANITIZE_DST
            } else {
                ALU_SANITIZE_SRC
            };
            if !off_is_imm {
                // Numbers are compared exactly from here on: other paths might need another clamp.
                env.explore_alu_limits = true;
            }
        }
        if off_is_imm {
            return Ok(window);
        }
        // Where the clamp works, the pointer does not move.
        let saved = *env.cur.reg(self.dst);
        *env.cur.reg_mut(self.dst) = if self.off_is_dst { *ptr } else { *result };
        let (next, here) = (env.insn_idx + 1, env.insn_idx);
        let pushed = push_path(env, next, here, Speculation::Yes).map(|_| ());
        *env.cur.reg_mut(self.dst) = saved;
        pushed.map_err(|_| self.violation(Reason::Stack))?;
        Ok(window)
    }

    /// After the pointer moved to `result`.
    pub(crate) fn after(&self, env: &mut Env<'_>, result: &RegState, window: Window) -> Check {
        if !self.is_needed(env) || env.cur.speculative {
            return Ok(());
        }
        let limit =
            pointer_limit(env, result, window.mask_to_left).map_err(|r| self.violation(r))?;
        let alu_limit = window.alu_limit.wrapping_sub(limit) as i32;
        let clamp = Clamp {
            state: window.alu_state,
            limit: alu_limit.unsigned_abs(),
        };
        update_state(env, clamp).map_err(|r| self.violation(r))
    }

    fn violation(&self, reason: Reason) -> alloc::boxed::Box<Violation> {
        let number = |operand: Operand| match operand {
            Operand::Reg(reg) => reg.number(),
            Operand::Imm(_) => 0,
        };
        let (dst, src) = (self.dst.number(), number(self.src));
        violation(self.op, dst, src, self.off_is_dst, reason)
    }
}

/// A sum or difference of numbers: the same instruction must not meet a pointer on another path.
pub(crate) fn sanitize_scalar_alu(env: &mut Env<'_>, op: AluOp, dst: Reg, src: Operand) -> Check {
    if can_skip(env, src) {
        return Ok(());
    }
    let src = match src {
        Operand::Reg(reg) => reg.number(),
        Operand::Imm(_) => 0,
    };
    let clamp = Clamp {
        state: ALU_NON_POINTER,
        limit: 0,
    };
    update_state(env, clamp).map_err(|reason| violation(op, dst.number(), src, false, reason))
}

/// A pointer that moved must stay in its object, else no later clamp could be found.
pub(crate) fn check_sanitized_bounds(env: &mut Env<'_>, dst: Reg, reg: &RegState) -> Check {
    if env.permits.bypass_spec_v1 {
        return Ok(());
    }
    let number = dst.number();
    if reg.ty.is(RegBase::PtrToStack) {
        let off = i64::from(reg.off).wrapping_add(reg.scalar.var_off.value as i64) as i32;
        if !reg.scalar.is_const() {
            reject!(
                EACCES,
                "R{number} variable stack access prohibited for !root, var_off={} off={off}",
                reg.scalar.var_off
            );
        }
        if off >= 0 || off < -(STACK_BYTES_MAX as i32) {
            reject!(
                EACCES,
                "R{number} stack pointer arithmetic goes out of range, prohibited for !root; off={off}"
            );
        }
    } else if reg.ty.is(RegBase::PtrToMapValue) {
        check_map_access(env, reg, dst, reg.off, 1, ZeroSize::Refused, AccessBy::Helper).map_err(|violation| {
            violation
                .and_line(format_args!(
                    "R{number} pointer arithmetic of map value goes out of range, prohibited for !root"
                ))
                .with_errno(ring3_uapi::Errno::EACCES)
        })?;
    }
    Ok(())
}

/// Pushes the way that a conditional jump does not take, to be walked as speculation; the compared registers may hold
/// anything there.
pub(crate) fn push_mispredicted(env: &mut Env<'_>, next: u32) -> Check {
    let here = env.insn_idx;
    let slot = &env.facts.slots[here as usize];
    let compared = match slot {
        Slot::Insn(Insn::Jmp {
            dst,
            src: Operand::Reg(src),
            ..
        }) => [Some(*dst), Some(*src)],
        Slot::Insn(Insn::Jmp {
            dst,
            src: Operand::Imm(_),
            ..
        }) => [Some(*dst), None],
        _ => [None, None],
    };
    let precise = !env.permits.bpf_capable;
    let branch = push_path(env, next, here, Speculation::Yes)?;
    for reg in compared.into_iter().flatten() {
        let reg = branch.reg_mut(reg);
        reg.set_unknown();
        reg.precise = precise;
    }
    Ok(())
}

fn can_skip(env: &Env<'_>, src: Operand) -> bool {
    env.permits.bypass_spec_v1 || matches!(src, Operand::Imm(_)) || env.aux[env.insn_idx].nospec
}

/// How far a pointer may move to the left or right.
fn pointer_limit(env: &Env<'_>, ptr: &RegState, mask_to_left: bool) -> Result<u32, Reason> {
    let scalar = &ptr.scalar;
    let (max, limit) = if ptr.ty.is(RegBase::PtrToStack) {
        // One past the frame's end is where r10 stands.
        let max = STACK_BYTES_MAX as u32 + u32::from(mask_to_left);
        (
            max,
            (scalar.var_off.value as u32)
                .wrapping_add_signed(ptr.off)
                .wrapping_neg(),
        )
    } else if ptr.ty.is(RegBase::PtrToMapValue) {
        let max = ptr.map().map_or(0, |map| env.map(map).value_size);
        let reach = if mask_to_left {
            scalar.smin as u32
        } else {
            scalar.umax as u32
        };
        (max, reach.wrapping_add_signed(ptr.off))
    } else {
        return Err(Reason::Type);
    };
    if limit >= max {
        Err(Reason::Limit)
    } else {
        Ok(limit)
    }
}

/// Notes the clamp; it must agree with that of other paths.
fn update_state(env: &mut Env<'_>, clamp: Clamp) -> Result<(), Reason> {
    let aux = &mut env.aux[env.insn_idx];
    if aux.clamp().state != 0 && aux.clamp() != clamp {
        return Err(Reason::Paths);
    }
    aux.set_clamp(clamp);
    Ok(())
}

#[cold]
fn violation(
    op: AluOp,
    dst: u8,
    src: u8,
    off_is_dst: bool,
    reason: Reason,
) -> alloc::boxed::Box<Violation> {
    use ring3_uapi::Errno;
    let (off, ptr) = if off_is_dst { (dst, src) } else { (src, dst) };
    let verb = if op == AluOp::Add { "add" } else { "sub" };
    let what = match reason {
        Reason::Bounds => alloc::format!("R{off} has unknown scalar with mixed signed bounds"),
        Reason::Type => alloc::format!("R{ptr} has pointer with unsupported alu operation"),
        Reason::Paths => {
            alloc::format!("R{dst} tried to {verb} from different maps, paths or scalars")
        }
        Reason::Limit => alloc::format!("R{dst} tried to {verb} beyond pointer bounds"),
        Reason::Stack => alloc::format!("R{dst} could not be pushed for speculative verification"),
    };
    let errno = if matches!(reason, Reason::Stack) {
        Errno::ENOMEM
    } else {
        Errno::EACCES
    };
    Violation::new(
        errno,
        alloc::format!("{what}, pointer arithmetic with it prohibited for !root"),
    )
}
