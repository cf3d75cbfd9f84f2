//! Arithmetic on pointers: `pointer += scalar`, `scalar += pointer`, `pointer -= scalar`.
//!
//! A pointer is an object plus a fixed offset (`off`) plus a variable part (the scalar). A known number is added to the
//! fixed offset, anything else to the variable part. Whether an address is in the object is decided at the access, not
//! here; but offsets stay below 2^29, so that no later sum wraps.
//!
//! Kernel counterpart: `adjust_ptr_min_max_vals`. Neighbours: `alu` (the caller), `sanitize` (loaders without privilege).

use ring3_isa::{AluOp, Operand, Reg, Width};

use super::alu::op_text;
use super::sanitize::{Sanitize, check_sanitized_bounds};
use crate::domain::{Range, Tnum};
use crate::env::Env;
use crate::error::{Check, reject};
use crate::limits::VAR_OFF_MAX;
use crate::log::state::TypeName;
use crate::state::{Extra, RegBase, RegState, RegType, TypeFlags};

/// The operands by their parts, whichever of them is the destination.
pub(crate) struct PtrOperands {
    pub(crate) ptr: RegState,
    pub(crate) off: RegState,
    pub(crate) ptr_is_dst: bool,
}

/// `dst = dst op src` where exactly one of the operands is a pointer.
pub(crate) fn adjust_pointer(
    env: &mut Env<'_>,
    width: Width,
    op: AluOp,
    dst: Reg,
    src: Operand,
    operands: PtrOperands,
) -> Check {
    let PtrOperands {
        ptr,
        off,
        ptr_is_dst,
    } = &operands;
    let number = dst.number();
    let full = off.scalar.full();
    if off.scalar.is_const() && !full.is_const() || full.is_empty() {
        // The number contradicts itself: no such path. Anything may be said of the result.
        return set_unknown(env, dst);
    }
    if width == Width::W32 {
        // 32-bit operations on pointers give (meaningless) numbers.
        if op == AluOp::Sub && env.permits.allow_ptr_leaks {
            return set_unknown(env, dst);
        }
        reject!(EACCES, "R{number} 32-bit pointer arithmetic prohibited");
    }
    if ptr.ty.may_be_null() {
        reject!(
            EACCES,
            "R{number} pointer arithmetic on {} prohibited, null-check it first",
            TypeName(ptr.ty)
        );
    }
    // Such memory is read by loads that may fault; its offsets need not be known.
    if ptr.ty.base == RegBase::PtrToMem && ptr.ty.has(TypeFlags::PTR_UNTRUSTED) {
        return Ok(());
    }
    if !permits_arithmetic(ptr.ty, off, op) {
        reject!(
            EACCES,
            "R{number} pointer arithmetic on {} prohibited",
            TypeName(ptr.ty)
        );
    }
    let mut result = if *ptr_is_dst {
        *ptr
    } else {
        RegState {
            ty: ptr.ty,
            id: ptr.id,
            ..*off
        }
    };
    check_sane_offset(off, ptr.ty)?;
    check_sane_offset(ptr, ptr.ty)?;
    // Pointers carry no bounds of the low half.
    result.scalar = result.scalar.with_half(Range::UNKNOWN);
    let sanitize = Sanitize {
        op,
        dst,
        src,
        off: *off,
        off_is_dst: !*ptr_is_dst,
    };
    let window = sanitize.before(env, ptr, &result)?;
    match op {
        AluOp::Add => add(env, ptr, off, &mut result),
        AluOp::Sub => {
            if !*ptr_is_dst {
                reject!(EACCES, "R{number} tried to subtract pointer from scalar");
            }
            // Engines need not cope with an arbitrary base below the frame.
            if ptr.ty.is(RegBase::PtrToStack) {
                reject!(
                    EACCES,
                    "R{number} subtraction from stack pointer prohibited"
                );
            }
            sub(env, ptr, off, &mut result);
        }
        AluOp::And | AluOp::Or | AluOp::Xor => {
            reject!(
                EACCES,
                "R{number} bitwise operator {} on pointer prohibited",
                op_text(op)
            );
        }
        AluOp::Mul
        | AluOp::Div
        | AluOp::Sdiv
        | AluOp::Mod
        | AluOp::Smod
        | AluOp::Lsh
        | AluOp::Rsh
        | AluOp::Arsh
        | AluOp::Mov => {
            reject!(
                EACCES,
                "R{number} pointer arithmetic with {} operator prohibited",
                op_text(op)
            );
        }
    }
    check_sane_offset(&result, ptr.ty)?;
    result.scalar = result.scalar.sync();
    *env.cur.reg_mut(dst) = result;
    check_sanitized_bounds(env, dst, &result)?;
    sanitize.after(env, &result, window)
}

/// The destination becomes a number of which nothing is known; its `subreg_def` stays.
fn set_unknown(env: &mut Env<'_>, dst: Reg) -> Check {
    super::regs::mark_reg_unknown(env, dst);
    Ok(())
}

/// Whether a number may be added to (or taken from) a pointer of this type at all.
fn permits_arithmetic(ty: RegType, off: &RegState, op: AluOp) -> bool {
    let known = off.scalar.is_const();
    let adds_zero = known && off.scalar.smin == 0 && op == AluOp::Add;
    match ty.base {
        RegBase::PtrToCtx
        | RegBase::PtrToMapValue
        | RegBase::PtrToMapKey
        | RegBase::PtrToStack
        | RegBase::PtrToPacketMeta
        | RegBase::PtrToPacket
        | RegBase::PtrToTpBuffer
        | RegBase::PtrToBtfId
        | RegBase::PtrToMem
        | RegBase::PtrToBuf
        | RegBase::PtrToFunc
        | RegBase::ConstPtrToDynptr => true,
        RegBase::PtrToFlowKeys => known,
        RegBase::ConstPtrToMap => adds_zero,
        RegBase::NotInit
        | RegBase::Scalar
        | RegBase::PtrToPacketEnd
        | RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToXdpSock
        | RegBase::PtrToArena => false,
    }
}

/// `ptr + off`
fn add(env: &mut Env<'_>, ptr: &RegState, off: &RegState, result: &mut RegState) {
    if let Some(sum) = fixed_offset(ptr, off, i64::checked_add) {
        keep_variable_part(ptr, sum, result);
        return;
    }
    let (base, added) = (ptr.scalar.full(), off.scalar.full());
    let mut range = base.add(added);
    // Unlike a number's, a pointer's unsigned bounds do not survive a wrap of both ends.
    if base.umin.checked_add(added.umin).is_none() || base.umax.checked_add(added.umax).is_none() {
        range = range.with_unsigned_unknown();
    }
    set_variable_part(
        ptr,
        range,
        ptr.scalar.var_off.add(off.scalar.var_off),
        result,
    );
    if ptr.ty.is_pkt() {
        result.id = env.new_id();
        result.extra = Extra::Range(0);
    }
}

/// `ptr - off`
fn sub(env: &mut Env<'_>, ptr: &RegState, off: &RegState, result: &mut RegState) {
    if let Some(difference) = fixed_offset(ptr, off, i64::checked_sub) {
        keep_variable_part(ptr, difference, result);
        return;
    }
    let (base, taken) = (ptr.scalar.full(), off.scalar.full());
    let mut range = base.sub(taken);
    if base.umin < taken.umax {
        range = range.with_unsigned_unknown();
    }
    set_variable_part(
        ptr,
        range,
        ptr.scalar.var_off.sub(off.scalar.var_off),
        result,
    );
    if ptr.ty.is_pkt() {
        result.id = env.new_id();
        // Taking away what is not negative keeps the readable bytes behind the pointer readable.
        if taken.smin < 0 {
            result.extra = Extra::Range(0);
        }
    }
}

/// The fixed offset after a known number was applied, if it fits.
fn fixed_offset(ptr: &RegState, off: &RegState, apply: fn(i64, i64) -> Option<i64>) -> Option<i32> {
    if !off.scalar.is_const() {
        return None;
    }
    i32::try_from(apply(i64::from(ptr.off), off.scalar.smin)?).ok()
}

fn keep_variable_part(ptr: &RegState, off: i32, result: &mut RegState) {
    set_variable_part(ptr, ptr.scalar.full(), ptr.scalar.var_off, result);
    result.off = off;
}

fn set_variable_part(ptr: &RegState, range: Range<64>, var_off: Tnum, result: &mut RegState) {
    result.scalar = result.scalar.with_full(range).with_var_off(var_off);
    result.off = ptr.off;
    result.extra = ptr.extra;
    // DIVERGES: Linux leaves the frame number of a scalar in `scalar += fp`, which turns r10 of a callee into a pointer
    // into the main frame. The program would write to a place the verifier does not mean.
    result.frameno = ptr.frameno;
}

/// Offsets of pointers, and what is added to them, stay small (`check_reg_sane_offset`).
fn check_sane_offset(reg: &RegState, ty: RegType) -> Check {
    let (value, smin) = (reg.scalar.var_off.value as i64, reg.scalar.smin);
    let is_large = |number: i64| number >= VAR_OFF_MAX || number <= -VAR_OFF_MAX;
    if reg.scalar.is_const() && is_large(value) {
        reject!(
            EINVAL,
            "math between {} pointer and {value} is not allowed",
            TypeName(ty)
        );
    }
    if is_large(i64::from(reg.off)) {
        reject!(
            EINVAL,
            "{} pointer offset {} is not allowed",
            TypeName(ty),
            reg.off
        );
    }
    if smin == i64::MIN {
        reject!(
            EINVAL,
            "math between {} pointer and register with unbounded min value is not allowed",
            TypeName(ty)
        );
    }
    if is_large(smin) {
        reject!(
            EINVAL,
            "value {smin} makes {} pointer be out of bounds",
            TypeName(ty)
        );
    }
    Ok(())
}
