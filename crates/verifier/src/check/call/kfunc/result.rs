//! What a kernel function leaves in r0, and the reference that comes with it.
//!
//! Kernel counterpart: the second half of `check_kfunc_call`, `check_special_kfunc`. Neighbours: `args`, `alloc_obj`, `graph`.

use ring3_btf::{Kind, Type, TypeId};
use ring3_isa::Reg;
use ring3_spec::kfunc::KfuncFlags;

use super::params::is_scalar;
use super::{Call, Meta};
use crate::check::alloc_obj::is_scalar_struct;
use crate::check::ctx::kernel_ctx_type;
use crate::check::nullness::may_point_to_spin_lock;
use crate::check::refs::acquire_reference;
use crate::check::regs::mark_reg_unknown;
use crate::check::{ctx, dynptr, graph, iter};
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::state::{BtfIdx, DEF_NOT_SUBREG, Extra, RegBase, RegState, RegType, TypeFlags};

/// Most bytes of a per-CPU object. Source: `BPF_GLOBAL_PERCPU_MA_MAX_SIZE`.
const PERCPU_OBJ_BYTES_MAX: u32 = 512;

/// Functions that acquire what is no object of the kernel.
const ALLOCATORS: &[&str] = &[
    "bpf_obj_new_impl",
    "bpf_percpu_obj_new_impl",
    "bpf_refcount_acquire_impl",
];

/// Gives r0 its state.
pub(super) fn set_result(env: &mut Env<'_>, call: &Call<'_>, meta: &Meta) -> Check {
    let btf = call.btf;
    let Some(ty) = btf.stripped(call.proto.type_id()) else {
        return Err(Violation::bug("result type"));
    };
    let target = if ty.kind() == Kind::Ptr {
        btf.stripped(ty.type_id())
    } else {
        None
    };
    let gives_object = target.is_some_and(|target| target.kind().is_composite());
    if call.has(KfuncFlags::ACQUIRE) && !gives_object && !ALLOCATORS.contains(&call.name) {
        reject!(
            EINVAL,
            "acquire kernel function does not return PTR_TO_BTF_ID"
        );
    }
    match (ty.kind(), target) {
        (Kind::Void, _) => Ok(()),
        (Kind::Ptr, Some(target)) => set_pointer(env, call, meta, target),
        _ if is_scalar(ty) => {
            mark_reg_unknown(env, Reg::R0);
            if super::is_res_lock(call.name) {
                // The path on which the lock was not taken waits with an error in r0.
                let precise = env.cur.reg(Reg::R0).precise;
                let r0 = env.cur.reg_mut(Reg::R0);
                r0.set_const_zero();
                r0.precise = precise;
            }
            let def = if ty.size() == 8 {
                DEF_NOT_SUBREG
            } else {
                env.insn_idx + 1
            };
            env.cur.reg_mut(Reg::R0).subreg_def = def;
            Ok(())
        }
        _ => unjudged!("result of kernel function {}", call.name),
    }
}

fn set_pointer(env: &mut Env<'_>, call: &Call<'_>, meta: &Meta, target: Type<'_>) -> Check {
    let result = match special_result(env, call, meta, target)? {
        Some(reg) => Some(reg),
        // A pointer to nothing in particular is a number.
        None if target.kind() == Kind::Void => None,
        None if target.kind().is_composite() => Some(object_result(env, call, meta, target)),
        None => Some(memory_result(call, meta, target)?),
    };
    let Some(result) = result else {
        mark_reg_unknown(env, Reg::R0);
        env.cur.reg_mut(Reg::R0).subreg_def = DEF_NOT_SUBREG;
        return Ok(());
    };
    let mut reg = RegState {
        subreg_def: DEF_NOT_SUBREG,
        precise: env.cur.reg(Reg::R0).precise,
        ..result
    };
    // A second reference to what the caller owns always is one.
    let may_be_null = call.has(KfuncFlags::RET_NULL)
        && !(call.name == "bpf_refcount_acquire_impl" && meta.is_owning);
    if may_be_null {
        reg.ty = reg.ty.with(TypeFlags::PTR_MAYBE_NULL);
        reg.id = env.new_id();
    }
    if call.has(KfuncFlags::ACQUIRE) {
        let id = acquire_reference(env);
        if may_be_null {
            reg.id = id;
        }
        reg.ref_obj_id = id;
    } else if matches!(target.name(), "bpf_rb_node" | "bpf_list_node") {
        graph::set_non_owning(env, &mut reg)?;
    }
    if reg.id == 0 && may_point_to_spin_lock(env.facts, &reg) {
        reg.id = env.new_id();
    }
    *env.cur.reg_mut(Reg::R0) = reg;
    Ok(())
}

/// Results by rules of their own.
fn special_result(
    env: &mut Env<'_>,
    call: &Call<'_>,
    meta: &Meta,
    target: Type<'_>,
) -> Check<Option<RegState>> {
    let allocated = RegType::of(RegBase::PtrToBtfId).with(TypeFlags::MEM_ALLOC);
    let untrusted = TypeFlags::PTR_UNTRUSTED;
    Ok(Some(match call.name {
        "bpf_obj_new_impl" => {
            let (btf, id) = check_new_object(env, meta)?;
            RegState::pointer(allocated, Extra::Btf { btf, id })
        }
        "bpf_percpu_obj_new_impl" => {
            let (btf, id) = check_new_object(env, meta)?;
            check_percpu_object(env, btf, id)?;
            RegState::pointer(
                allocated.with(TypeFlags::MEM_PERCPU),
                Extra::Btf { btf, id },
            )
        }
        "bpf_refcount_acquire_impl" => {
            let Some((btf, id)) = meta.object else {
                return Err(Violation::bug("reference without object"));
            };
            RegState::pointer(allocated, Extra::Btf { btf, id })
        }
        _ if matches!(target.name(), "bpf_rb_node" | "bpf_list_node") => match meta.root {
            Some(root) => graph::node_reg(root),
            None => return Err(Violation::bug("node without root")),
        },
        "bpf_cast_to_kern_ctx" => {
            let ty = RegType::of(RegBase::PtrToBtfId).with(TypeFlags::PTR_TRUSTED);
            let id = kernel_ctx_type(env)?;
            RegState::pointer(ty, Extra::Btf { btf: BtfIdx(0), id })
        }
        "bpf_rdonly_cast" => {
            let id = meta.constant.unwrap_or(0);
            let cast = u32::try_from(id)
                .ok()
                .and_then(|id| call.btf.type_by_id(TypeId(id)));
            match cast.map(|ty| (ty.kind(), ty.id())) {
                None => reject!(
                    EINVAL,
                    "Unknown type ID {id} passed to kfunc bpf_rdonly_cast"
                ),
                Some((Kind::Struct | Kind::Union, id)) => RegState::pointer(
                    RegType::of(RegBase::PtrToBtfId).with(untrusted),
                    Extra::Btf { btf: BtfIdx(0), id },
                ),
                Some((Kind::Void, _)) => RegState::pointer(
                    RegType::of(RegBase::PtrToMem)
                        .with(TypeFlags::MEM_RDONLY)
                        .with(untrusted),
                    Extra::Mem {
                        size: 0,
                        dynptr_id: 0,
                    },
                ),
                Some(_) => reject!(
                    EINVAL,
                    "kfunc bpf_rdonly_cast type ID argument must be of a struct or void"
                ),
            }
        }
        "bpf_dynptr_slice" | "bpf_dynptr_slice_rdwr" => {
            let (Some(size), Some(dynptr)) = (meta.constant, meta.dynptr) else {
                return Err(Violation::bug("slice without size or dynptr"));
            };
            let mut ty = RegType::of(RegBase::PtrToMem).with(dynptr::slice_flag(dynptr.kind));
            if call.name == "bpf_dynptr_slice" {
                ty = ty.with(TypeFlags::MEM_RDONLY);
            } else if !ctx::may_write_packet(env) {
                reject!(EINVAL, "the prog does not allow writes to packet data");
            }
            RegState::pointer(
                ty,
                Extra::Mem {
                    size: size as u32,
                    dynptr_id: dynptr.id,
                },
            )
        }
        _ => return Ok(None),
    }))
}

/// The struct of the program that is to be allocated.
fn check_new_object(env: &Env<'_>, meta: &Meta) -> Check<(BtfIdx, TypeId)> {
    let id = meta.constant.unwrap_or(0);
    let Ok(id) = u32::try_from(id) else {
        reject!(
            EINVAL,
            "local type ID argument must be in range [0, U32_MAX]"
        )
    };
    let btf = env.facts.prog_btf.as_ref();
    let Some((btf, btf_idx)) = btf.and_then(|btf| Some((btf, env.facts.btf_idx(btf)?))) else {
        reject!(EINVAL, "bpf_obj_new/bpf_percpu_obj_new requires prog BTF")
    };
    if btf.kind(TypeId(id)) != Some(Kind::Struct) {
        reject!(
            EINVAL,
            "bpf_obj_new/bpf_percpu_obj_new type ID argument must be of a struct"
        );
    }
    Ok((btf_idx, TypeId(id)))
}

fn check_percpu_object(env: &Env<'_>, btf_idx: BtfIdx, id: TypeId) -> Check {
    let btf = env.facts.btf(btf_idx);
    let size = btf.type_by_id(id).map_or(0, |ty| ty.size());
    if size > PERCPU_OBJ_BYTES_MAX {
        reject!(
            EINVAL,
            "bpf_percpu_obj_new type size ({size}) is greater than {PERCPU_OBJ_BYTES_MAX}"
        );
    }
    const NO_SCALARS: &str = "bpf_percpu_obj_new type ID argument must be of a struct of scalars";
    if !is_scalar_struct(btf, id, 0).map_err(|v| v.and_line(NO_SCALARS))? {
        reject!(EINVAL, "{NO_SCALARS}");
    }
    if env.facts.struct_record(btf_idx, id).is_some() {
        reject!(
            EINVAL,
            "bpf_percpu_obj_new type ID argument must not contain special fields"
        );
    }
    Ok(())
}

/// An object of the kernel.
fn object_result(env: &Env<'_>, call: &Call<'_>, meta: &Meta, target: Type<'_>) -> RegState {
    let mut ty = RegType::of(RegBase::PtrToBtfId);
    if call.name == "bpf_get_kmem_cache" {
        ty = ty.with(TypeFlags::PTR_UNTRUSTED);
    } else if call.has(KfuncFlags::RCU_PROTECTED) {
        ty = ty.with(TypeFlags::MEM_RCU);
    }
    if let Some(place) = meta.iter
        && call.has(KfuncFlags::ITER_NEXT)
    {
        ty = ty.with(if iter::is_rcu(env, place) {
            TypeFlags::MEM_RCU
        } else {
            TypeFlags::PTR_TRUSTED
        });
    }
    RegState::pointer(ty, env.facts.object(call.btf_idx, target.id()))
}

/// Memory of the size that an argument or the type says.
fn memory_result(call: &Call<'_>, meta: &Meta, target: Type<'_>) -> Check<RegState> {
    let (size, is_rdonly) = match meta.r0_size {
        Some(size) => (size, meta.r0_rdonly),
        None => match call.btf.resolve_size(target.id()).filter(|size| *size != 0) {
            Some(size) => (size, true),
            None => reject!(
                EINVAL,
                "kernel function {} returns pointer type {} {} is not supported",
                call.name,
                target.kind().name(),
                target.name()
            ),
        },
    };
    let mut ty = RegType::of(RegBase::PtrToMem);
    if is_rdonly {
        ty = ty.with(TypeFlags::MEM_RDONLY);
    }
    if call.has(KfuncFlags::RCU_PROTECTED) {
        ty = ty.with(TypeFlags::MEM_RCU);
    }
    Ok(RegState {
        ref_obj_id: meta.ref_obj_id,
        ..RegState::pointer(ty, Extra::Mem { size, dynptr_id: 0 })
    })
}
