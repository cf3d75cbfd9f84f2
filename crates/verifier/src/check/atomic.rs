//! Atomic operations: what may be modified atomically, and what comes back.

use ring3_isa::{AtomicOp, Insn, LoadMode, MemSize, Reg};

use super::mem::{
    Access, MemAccess, TrustMix, check_load_through, check_mem_access, check_store_through,
    save_ptr_type,
};
use super::regs::{RegArg, check_reg_arg};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::log::state::TypeName;
use crate::state::{RegBase, RegType};

/// Checks an atomic instruction: `check_atomic`.
pub(crate) fn check_atomic(env: &mut Env<'_>, insn: &Insn) -> Check {
    let Insn::Atomic {
        op,
        size,
        dst,
        src,
        off,
    } = *insn
    else {
        return Err(Violation::bug("check_atomic"));
    };
    let off = i32::from(off);
    match op {
        AtomicOp::LoadAcquire => {
            check_load_through(env, size, LoadMode::ZeroExtend, dst, src, off, true)?;
            if !is_allowed(env, src) {
                let ty = env.cur.reg(src).ty;
                reject!(
                    EACCES,
                    "BPF_ATOMIC loads from R{} {} is not allowed",
                    src.number(),
                    TypeName(ty)
                );
            }
            Ok(())
        }
        AtomicOp::StoreRelease => {
            check_store_through(env, size, dst, off, src, true)?;
            if !is_allowed(env, dst) {
                return Err(refused_store(env, dst));
            }
            Ok(())
        }
        AtomicOp::Add { fetch }
        | AtomicOp::Or { fetch }
        | AtomicOp::And { fetch }
        | AtomicOp::Xor { fetch } => check_modify(
            env,
            size,
            dst,
            src,
            off,
            if fetch { Some(src) } else { None },
        ),
        AtomicOp::Xchg => check_modify(env, size, dst, src, off, Some(src)),
        AtomicOp::Cmpxchg => check_modify(env, size, dst, src, off, Some(Reg::R0)),
    }
}

#[cold]
fn refused_store(env: &Env<'_>, base: Reg) -> alloc::boxed::Box<Violation> {
    let ty = env.cur.reg(base).ty;
    Violation::new(
        ring3_uapi::Errno::EACCES,
        alloc::format!(
            "BPF_ATOMIC stores into R{} {} is not allowed",
            base.number(),
            TypeName(ty)
        ),
    )
}

/// `fetched`: the register that gets the old value.
fn check_modify(
    env: &mut Env<'_>,
    size: MemSize,
    dst: Reg,
    src: Reg,
    off: i32,
    fetched: Option<Reg>,
) -> Check {
    if !matches!(size, MemSize::W | MemSize::Dw) {
        reject!(EINVAL, "invalid atomic operand size");
    }
    check_reg_arg(env, src, RegArg::Src)?;
    check_reg_arg(env, dst, RegArg::Src)?;
    if fetched == Some(Reg::R0) && is_cmpxchg(env) {
        check_reg_arg(env, Reg::R0, RegArg::Src)?;
        if env.is_pointer_value(env.cur.reg(Reg::R0)) {
            reject!(EACCES, "R0 leaks addr into mem");
        }
    }
    if env.is_pointer_value(env.cur.reg(src)) {
        reject!(EACCES, "R{} leaks addr into mem", src.number());
    }
    if !is_allowed(env, dst) {
        return Err(refused_store(env, dst));
    }
    if let Some(fetched) = fetched {
        check_reg_arg(env, fetched, RegArg::Dst)?;
    }
    let access = MemAccess {
        access: Access::Read,
        size,
        mode: LoadMode::ZeroExtend,
        value: None,
        strict_alignment: true,
    };
    let dst_type = env.cur.reg(dst).ty;
    check_mem_access(env, dst, off, access)?;
    if fetched.is_some() {
        check_mem_access(
            env,
            dst,
            off,
            MemAccess {
                value: fetched,
                ..access
            },
        )?;
    }
    if env.cur.reg(dst).ty.is(RegBase::PtrToArena) {
        save_ptr_type(env, RegType::of(RegBase::PtrToArena), TrustMix::Refused)?;
    }
    check_mem_access(
        env,
        dst,
        off,
        MemAccess {
            access: Access::Write,
            ..access
        },
    )?;
    save_ptr_type(env, dst_type, TrustMix::Refused)
}

fn is_cmpxchg(env: &Env<'_>) -> bool {
    matches!(
        env.facts.slots[env.insn_idx as usize],
        crate::env::Slot::Insn(Insn::Atomic {
            op: AtomicOp::Cmpxchg,
            ..
        })
    )
}

/// Pointer kinds that atomic operations may go through: `atomic_ptr_type_ok`.
fn is_allowed(env: &Env<'_>, base: Reg) -> bool {
    let ty = env.cur.reg(base).ty;
    !(ty.is(RegBase::PtrToCtx)
        || ty.is(RegBase::PtrToPacket)
        || ty.is(RegBase::PtrToPacketMeta)
        || ty.is(RegBase::PtrToFlowKeys)
        || ty.is_sk())
}
