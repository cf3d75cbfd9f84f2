//! What the parameters of a kernel function ask for, by type and by the suffix of their names (`__sz`, `__k`, `__alloc`, ...).
//!
//! Key types: [`ArgKind`]. Kernel counterpart: `get_kfunc_ptr_arg_type`. Neighbours: `args`, which checks registers by it.

use ring3_btf::{Btf, Kind, Param, Type};
use ring3_isa::Reg;

use super::Call;
use crate::check::alloc_obj::is_scalar_struct;
use crate::check::call::func_args::is_prog_ctx_type;
use crate::env::Env;
use crate::error::{Check, reject};
use crate::state::{RegBase, RegState, RegType};

/// What a pointer parameter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArgKind {
    Ctx,
    /// NULL was given where it may be.
    Null,
    AllocObject,
    RefcountedObject,
    Dynptr,
    Iter,
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    ConstStr,
    Map,
    Workqueue,
    TaskWork,
    IrqFlag,
    ResSpinLock,
    /// An object of the kernel.
    Object,
    Callback,
    /// Memory of the parameter's type.
    Mem,
    /// Memory of the size that the next parameter gives.
    MemSize,
}

/// Whether a parameter's name ends so.
pub(super) fn has_suffix(param: &Param<'_>, suffix: &str) -> bool {
    param.name().ends_with(suffix)
}

/// Whether a type is a number.
pub(super) fn is_scalar(ty: Type<'_>) -> bool {
    ty.kind() == Kind::Int || ty.kind().is_any_enum()
}

/// Register types that stand for a type of the kernel.
pub(super) const fn kernel_view(base: RegBase) -> Option<&'static str> {
    match base {
        RegBase::PtrToSocket => Some("sock"),
        RegBase::PtrToSockCommon => Some("sock_common"),
        RegBase::PtrToTcpSock => Some("tcp_sock"),
        RegBase::ConstPtrToMap => Some("bpf_map"),
        _ => None,
    }
}

/// Whether the parameter is the size of the memory before it.
pub(super) fn is_mem_size(btf: &Btf, param: &Param<'_>, reg: &RegState) -> bool {
    btf.stripped(param.ty).is_some_and(is_scalar)
        && reg.ty == RegType::SCALAR
        && (has_suffix(param, "__sz") || has_suffix(param, "__szk"))
}

/// Types that by themselves say what a parameter is.
const BY_TYPE: &[(&str, ArgKind)] = &[
    ("bpf_dynptr", ArgKind::Dynptr),
    ("bpf_list_head", ArgKind::ListHead),
    ("bpf_list_node", ArgKind::ListNode),
    ("bpf_rb_root", ArgKind::RbRoot),
    ("bpf_rb_node", ArgKind::RbNode),
    ("bpf_wq", ArgKind::Workqueue),
    ("bpf_task_work", ArgKind::TaskWork),
    ("bpf_res_spin_lock", ArgKind::ResSpinLock),
];

/// What parameter `index`, a pointer to `target`, asks for, given the register.
pub(super) fn kind_of(
    env: &Env<'_>,
    call: &Call<'_>,
    index: usize,
    param: &Param<'_>,
    ptr: Type<'_>,
    target: Option<Type<'_>>,
) -> Check<ArgKind> {
    let Some(regno) = Reg::new(index as u8 + 1) else {
        reject!(EINVAL)
    };
    let reg = env.cur.reg(regno);
    let btf = call.btf;
    if call.name == "bpf_cast_to_kern_ctx" || is_prog_ctx_type(env, btf, &ptr) {
        return Ok(ArgKind::Ctx);
    }
    if has_suffix(param, "__nullable") && reg.is_null() {
        return Ok(ArgKind::Null);
    }
    for (suffix, kind) in [
        ("__alloc", ArgKind::AllocObject),
        ("__refcounted_kptr", ArgKind::RefcountedObject),
    ] {
        if has_suffix(param, suffix) {
            return Ok(kind);
        }
    }
    let name = target.map_or("", |target| target.name());
    let is_struct = target.is_some_and(|target| target.kind() == Kind::Struct);
    let by_type = BY_TYPE
        .iter()
        .find(|(other, _)| is_struct && *other == name);
    let is_first = |kind: ArgKind| kind == ArgKind::Dynptr;
    if let Some((_, kind)) = by_type.filter(|(_, kind)| is_first(*kind)) {
        return Ok(*kind);
    }
    if index == 0 && call.is_iter() {
        return Ok(ArgKind::Iter);
    }
    if let Some((_, kind)) = by_type {
        return Ok(*kind);
    }
    for (suffix, kind) in [
        ("__str", ArgKind::ConstStr),
        ("__map", ArgKind::Map),
        ("__irq_flag", ArgKind::IrqFlag),
    ] {
        if has_suffix(param, suffix) {
            return Ok(kind);
        }
    }
    let kind_name = target.map_or("UNKNOWN", |target| target.kind().name());
    if reg.ty.base == RegBase::PtrToBtfId || kernel_view(reg.ty.base).is_some() {
        if !target.is_some_and(|target| target.kind().is_composite()) {
            reject!(
                EINVAL,
                "kernel function {} args#{index} pointer type {kind_name} {name} is not supported",
                call.name
            );
        }
        return Ok(ArgKind::Object);
    }
    if target.is_some_and(|target| target.kind() == Kind::FuncProto) {
        return Ok(ArgKind::Callback);
    }
    let has_size = call.proto.params().nth(index + 1).is_some_and(|next| {
        Reg::new(regno.number() + 1)
            .filter(|reg| reg.number() <= 5)
            .is_some_and(|reg| is_mem_size(btf, &next, env.cur.reg(reg)))
    });
    let (kind_name, text) = (
        target.map_or("UNKNOWN", |target| target.kind().name()),
        "void, ",
    );
    let refusal = alloc::format!(
        "arg#{index} pointer type {kind_name} {name} must point to {}scalar, or struct with scalar",
        if has_size { text } else { "" }
    );
    let is_plain = match target {
        None => has_size,
        Some(target) if is_scalar(target) => true,
        Some(target) => is_scalar_struct(btf, target.id(), 0).map_err(|v| v.and_line(&refusal))?,
    };
    if !is_plain {
        reject!(EINVAL, "{refusal}");
    }
    Ok(if has_size {
        ArgKind::MemSize
    } else {
        ArgKind::Mem
    })
}
