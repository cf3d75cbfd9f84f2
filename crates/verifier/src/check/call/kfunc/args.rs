//! Arguments of kernel functions: may this register be that argument, and what does it say about the call.
//!
//! Kernel counterpart: `check_kfunc_args`. Neighbours: `params` (what is asked for), `result`, and the files of the objects:
//! `dynptr`, `iter`, `graph`, `irq`, `lock`, `map_field`.

use ring3_btf::{FieldKind, Kind, Param, Type};
use ring3_isa::Reg;
use ring3_spec::kfunc::KfuncFlags;
use ring3_spec::{Arg, ArgBase, TypeFlags as ArgFlags};

use super::params::{ArgKind, has_suffix, is_mem_size, is_scalar, kernel_view, kind_of};
use super::{Call, Meta};
use crate::backtrack::mark_chain_precision;
use crate::check::btf_ptr::mismatch_text;
use crate::check::call::arg_type::{check_arg_offset, struct_matches};
use crate::check::call::args::{check_const_str, check_mem_size_reg};
use crate::check::call::subprog::check_mem_reg;
use crate::check::irq::{IrqUse, process_irq_flag};
use crate::check::lock::{LockKind, process_spin_lock};
use crate::check::mem::{Access, ZeroSize};
use crate::check::nullness::{is_trusted, mark_ptr_not_null_reg};
use crate::check::{alloc_obj, dynptr, graph, iter, map_field};
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::log::state::TypeName;
use crate::log::vlog;
use crate::state::{BtfIdx, DynptrType, Extra, IrqClass, RegBase, RegState, RegType, TypeFlags};

/// Checks all arguments of a call.
pub(super) fn check_args(env: &mut Env<'_>, call: &Call<'_>) -> Check<Meta> {
    let mut meta = Meta::default();
    let mut is_size_of_last = false;
    for (index, param) in call.proto.params().enumerate() {
        let Some(regno) = Reg::new(index as u8 + 1).filter(|reg| reg.number() <= 5) else {
            unjudged!(
                "kernel function {} with more than five arguments",
                call.name
            );
        };
        if core::mem::take(&mut is_size_of_last) || has_suffix(&param, "__ign") {
            continue;
        }
        if has_suffix(&param, "__prog") {
            // The register is given the program by a rewrite.
            continue;
        }
        let Some(ty) = call.btf.stripped(param.ty) else {
            reject!(EINVAL)
        };
        if is_scalar(ty) {
            check_scalar(env, &param, regno, &mut meta)?;
            continue;
        }
        if ty.kind() != Kind::Ptr {
            reject!(EINVAL, "Unrecognized arg#{index} type {}", ty.kind().name());
        }
        is_size_of_last = check_pointer(env, call, index, &param, ty, regno, &mut meta)?;
    }
    if call.has(KfuncFlags::RELEASE) && meta.release_reg.is_none() {
        reject!(
            EINVAL,
            "release kernel function {} expects refcounted PTR_TO_BTF_ID",
            call.name
        );
    }
    Ok(meta)
}

fn check_scalar(env: &mut Env<'_>, param: &Param<'_>, regno: Reg, meta: &mut Meta) -> Check {
    let reg = *env.cur.reg(regno);
    let number = regno.number();
    if reg.ty != RegType::SCALAR {
        reject!(EINVAL, "R{number} is not a scalar");
    }
    if has_suffix(param, "__k") {
        let Some(value) = reg.scalar.const_value() else {
            reject!(EINVAL, "R{number} must be a known constant")
        };
        mark_chain_precision(env, regno)?;
        return note_constant(meta, value);
    }
    let is_rdonly = param.name() == "rdonly_buf_size";
    if !is_rdonly && param.name() != "rdwr_buf_size" {
        return Ok(());
    }
    if meta.r0_size.is_some() {
        reject!(
            EINVAL,
            "2 or more rdonly/rdwr_buf_size parameters for kfunc"
        );
    }
    let Some(value) = reg.scalar.const_value() else {
        reject!(EINVAL, "R{number} is not a const")
    };
    meta.r0_rdonly = is_rdonly;
    meta.r0_size = Some(value as u32).filter(|size| *size != 0);
    mark_chain_precision(env, regno)
}

fn note_constant(meta: &mut Meta, value: u64) -> Check {
    if meta.constant.is_some() {
        return Err(Violation::bug("only one constant argument permitted"));
    }
    meta.constant = Some(value);
    Ok(())
}

/// A pointer; whether the next argument is its size.
fn check_pointer(
    env: &mut Env<'_>,
    call: &Call<'_>,
    index: usize,
    param: &Param<'_>,
    ptr: Type<'_>,
    regno: Reg,
    meta: &mut Meta,
) -> Check<bool> {
    let reg = *env.cur.reg(regno);
    let asks_trust = call.asks_trust();
    let may_be_null = reg.is_null() || reg.ty.may_be_null();
    if (asks_trust || call.has(KfuncFlags::RCU)) && may_be_null && !has_suffix(param, "__nullable")
    {
        reject!(EACCES, "Possibly NULL pointer passed to trusted arg{index}");
    }
    if reg.ref_obj_id != 0 {
        if call.has(KfuncFlags::RELEASE) && meta.ref_obj_id != 0 {
            return Err(Violation::bug(format_args!(
                "more than one arg with ref_obj_id R{} {} {}",
                regno.number(),
                reg.ref_obj_id,
                meta.ref_obj_id
            )));
        }
        meta.ref_obj_id = reg.ref_obj_id;
        if call.has(KfuncFlags::RELEASE) {
            meta.release_reg = Some(regno);
        }
    }
    let target = call
        .btf
        .stripped(ptr.type_id())
        .filter(|target| target.kind() != Kind::Void);
    let kind = kind_of(env, call, index, param, ptr, target)?;
    match kind {
        ArgKind::Null => return Ok(false),
        ArgKind::Map => note_map(env, &reg, regno, meta)?,
        _ => {}
    }
    let is_object = matches!(kind, ArgKind::Map | ArgKind::AllocObject | ArgKind::Object);
    if is_object && (asks_trust || call.has(KfuncFlags::RCU)) && !is_trusted(&reg) {
        if !call.has(KfuncFlags::RCU) {
            reject!(EINVAL, "R{} must be referenced or trusted", regno.number());
        }
        if !reg.ty.has(TypeFlags::MEM_RCU) {
            reject!(EINVAL, "R{} must be a rcu pointer", regno.number());
        }
    }
    let mut arg = Arg::of(ArgBase::DontCare);
    if call.has(KfuncFlags::RELEASE) && reg.ref_obj_id != 0 {
        arg.flags = ArgFlags::RELEASE;
    }
    check_arg_offset(&reg, regno, &arg)?;
    check_by_kind(env, call, kind, index, param, target, regno, meta)
}

fn note_map(env: &Env<'_>, reg: &RegState, regno: Reg, meta: &mut Meta) -> Check {
    let Some(map) = reg.map() else {
        // An object of the kernel that is a map is judged by its type.
        if reg.ty.base == RegBase::PtrToBtfId {
            return Ok(());
        }
        reject!(EINVAL, "pointer in R{} isn't map pointer", regno.number())
    };
    let uid = reg.map_uid();
    if let Some((other, other_uid)) = meta.map
        && let Some(record) = &env.map(map).record
        && (other != map || other_uid != uid)
    {
        if record.has(FieldKind::Workqueue) {
            reject!(
                EINVAL,
                "workqueue pointer in R1 map_uid={other_uid} doesn't match map pointer in R2 map_uid={uid}"
            );
        }
        if record.has(FieldKind::TaskWork) {
            reject!(
                EINVAL,
                "bpf_task_work pointer in R2 map_uid={other_uid} doesn't match map pointer in R3 map_uid={uid}"
            );
        }
    }
    meta.map = Some((map, uid));
    Ok(())
}

/// What each kind of argument asks for; whether the next argument is its size.
#[expect(
    clippy::too_many_arguments,
    reason = "one call per argument, all of it facts about it"
)]
fn check_by_kind(
    env: &mut Env<'_>,
    call: &Call<'_>,
    kind: ArgKind,
    index: usize,
    param: &Param<'_>,
    target: Option<Type<'_>>,
    regno: Reg,
    meta: &mut Meta,
) -> Check<bool> {
    let reg = *env.cur.reg(regno);
    match kind {
        ArgKind::Null => {}
        ArgKind::Ctx => {
            if !reg.ty.is(RegBase::PtrToCtx) {
                reject!(
                    EINVAL,
                    "arg#{index} expected pointer to ctx, but got {}",
                    TypeName(reg.ty)
                );
            }
        }
        ArgKind::AllocObject => check_alloc_object(call, index, &reg, meta)?,
        ArgKind::RefcountedObject => {
            if !reg.ty.is_ptr_alloc_obj() {
                reject!(EINVAL, "arg#{index} is neither owning or non-owning ref");
            }
            if reg.const_offset() != Some(0) {
                unjudged!("a reference to the middle of an object");
            }
            meta.is_owning = !reg.ty.is_non_owning_ref();
            let record = alloc_obj::record_of(env, &reg);
            if !record.is_some_and(|record| record.has(FieldKind::Refcount)) {
                reject!(
                    EINVAL,
                    "arg#{index} doesn't point to a type with bpf_refcount field"
                );
            }
            meta.object = reg.btf();
        }
        ArgKind::Dynptr => check_dynptr(env, call, param, regno, &reg, meta)?,
        ArgKind::Iter => {
            let Some(target) = target else {
                reject!(EINVAL)
            };
            if call.name == "bpf_iter_css_task_new" && !may_iterate_css_tasks(env) {
                reject!(
                    EINVAL,
                    "css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs"
                );
            }
            meta.iter = iter::check_iter_arg(env, regno, target, call.name, call.iter_use())?;
            if let Some(place) = meta.iter {
                meta.ref_obj_id = iter::ref_obj_id(env, place);
            }
        }
        ArgKind::ListHead | ArgKind::RbRoot => {
            let is_object = reg.ty == ALLOCATED;
            if !reg.ty.is(RegBase::PtrToMapValue) && !is_object {
                reject!(
                    EINVAL,
                    "arg#{index} expected pointer to map value or allocated object"
                );
            }
            if is_object && reg.ref_obj_id == 0 {
                reject!(EINVAL, "allocated object must be referenced");
            }
            let field = if kind == ArgKind::ListHead {
                FieldKind::ListHead
            } else {
                FieldKind::RbRoot
            };
            meta.root = Some(graph::check_root(env, regno, field)?);
        }
        ArgKind::ListNode => {
            check_owned_node(index, &reg)?;
            check_node(env, regno, FieldKind::ListNode, &reg, meta)?;
        }
        ArgKind::RbNode => {
            if call.name == "bpf_rbtree_add_impl" {
                check_owned_node(index, &reg)?;
            } else {
                if !reg.ty.is_non_owning_ref() && reg.ref_obj_id == 0 {
                    reject!(
                        EINVAL,
                        "{} can only take non-owning or refcounted bpf_rb_node pointer",
                        call.name
                    );
                }
                if graph::in_tree_callback(env) {
                    reject!(EINVAL, "{} not allowed in rbtree cb", call.name);
                }
            }
            check_node(env, regno, FieldKind::RbNode, &reg, meta)?;
        }
        ArgKind::ConstStr => {
            if !reg.ty.is(RegBase::PtrToMapValue) {
                reject!(EINVAL, "arg#{index} doesn't point to a const string");
            }
            check_const_str(env, regno, &reg)?;
        }
        ArgKind::Workqueue | ArgKind::TaskWork => {
            if !reg.ty.is(RegBase::PtrToMapValue) {
                reject!(EINVAL, "arg#{index} doesn't point to a map value");
            }
            let field = if kind == ArgKind::Workqueue {
                FieldKind::Workqueue
            } else {
                FieldKind::TaskWork
            };
            map_field::check_field(env, regno, &reg, field)?;
            meta.map = reg.map().map(|map| (map, reg.map_uid()));
        }
        ArgKind::IrqFlag => {
            if !reg.ty.is(RegBase::PtrToStack) {
                reject!(EINVAL, "arg#{index} doesn't point to an irq flag on stack");
            }
            let (usage, class) = match call.name {
                "bpf_local_irq_save" => (IrqUse::Save, IrqClass::Native),
                "bpf_local_irq_restore" => (IrqUse::Restore, IrqClass::Native),
                "bpf_res_spin_lock_irqsave" => (IrqUse::Save, IrqClass::Lock),
                "bpf_res_spin_unlock_irqrestore" => (IrqUse::Restore, IrqClass::Lock),
                _ => unjudged!("interrupt flags of kernel function {}", call.name),
            };
            process_irq_flag(env, regno, usage, class)?;
        }
        ArgKind::ResSpinLock => {
            if !reg.ty.is(RegBase::PtrToMapValue) && reg.ty != ALLOCATED {
                reject!(
                    EINVAL,
                    "arg#{index} doesn't point to map value or allocated object"
                );
            }
            let lock = if call.name.contains("_irq") {
                LockKind::ResilientIrq
            } else {
                LockKind::Resilient
            };
            process_spin_lock(env, regno, lock, !call.name.contains("_unlock"))?;
        }
        ArgKind::Map | ArgKind::Object => check_object(env, call, kind, index, target, regno)?,
        ArgKind::Callback => {
            let Extra::Subprog(subprog) = reg.extra else {
                reject!(EINVAL, "arg{index} expected pointer to func")
            };
            meta.subprog = subprog;
        }
        ArgKind::Mem => check_mem(env, call, index, target, regno)?,
        ArgKind::MemSize => {
            check_mem_and_size(env, call, index, param, regno, meta)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// An object of the program's own, owned and not refined by anything else.
const ALLOCATED: RegType = RegType::of(RegBase::PtrToBtfId).with(TypeFlags::MEM_ALLOC);

fn check_alloc_object(call: &Call<'_>, index: usize, reg: &RegState, meta: &mut Meta) -> Check {
    let wanted = if reg.ty == ALLOCATED {
        "bpf_obj_drop_impl"
    } else if reg.ty == ALLOCATED.with(TypeFlags::MEM_PERCPU) {
        "bpf_percpu_obj_drop_impl"
    } else {
        reject!(EINVAL, "arg#{index} expected pointer to allocated object")
    };
    if call.name != wanted {
        reject!(EINVAL, "arg#{index} expected for {wanted}()");
    }
    if reg.ref_obj_id == 0 {
        reject!(EINVAL, "allocated object must be referenced");
    }
    meta.object = reg.btf();
    Ok(())
}

fn check_owned_node(index: usize, reg: &RegState) -> Check {
    if reg.ty != ALLOCATED {
        reject!(EINVAL, "arg#{index} expected pointer to allocated object");
    }
    if reg.ref_obj_id == 0 {
        reject!(EINVAL, "allocated object must be referenced");
    }
    Ok(())
}

fn check_node(
    env: &Env<'_>,
    regno: Reg,
    kind: FieldKind,
    reg: &RegState,
    meta: &mut Meta,
) -> Check {
    let Some(root) = meta.root else {
        return Err(Violation::bug("node without root"));
    };
    graph::check_node(env, regno, kind, root)?;
    meta.object = reg.btf();
    Ok(())
}

/// Programs that may take the lock of a cgroup's tasks.
fn may_iterate_css_tasks(env: &Env<'_>) -> bool {
    use ring3_uapi::{AttachType, ProgType};
    match env.facts.attach.prog_type {
        ProgType::Lsm => true,
        ProgType::Tracing
            if env.facts.attach.expected_attach_type == AttachType::TraceIter.raw() =>
        {
            true
        }
        _ => env.in_sleepable(),
    }
}

fn check_dynptr(
    env: &mut Env<'_>,
    call: &Call<'_>,
    param: &Param<'_>,
    regno: Reg,
    reg: &RegState,
    meta: &mut Meta,
) -> Check {
    if !has_suffix(param, "__uninit") {
        let mutability = if reg.ty.is(RegBase::ConstPtrToDynptr) {
            dynptr::Mutability::Read
        } else {
            dynptr::Mutability::Mutated
        };
        dynptr::use_dynptr(env, regno, mutability, None)?;
        meta.dynptr = Some(dynptr::facts_of(env, regno)?);
        return Ok(());
    }
    let (kind, cloned_ref) = match call.name {
        "bpf_dynptr_from_skb" => (DynptrType::Skb, 0),
        "bpf_dynptr_from_xdp" => (DynptrType::Xdp, 0),
        "bpf_dynptr_from_skb_meta" => (DynptrType::SkbMeta, 0),
        "bpf_dynptr_clone" => match meta.dynptr {
            Some(parent) => (parent.kind, parent.ref_obj_id),
            None => return Err(Violation::bug("no dynptr type for parent of clone")),
        },
        _ => unjudged!("a dynptr that kernel function {} makes", call.name),
    };
    dynptr::make_dynptr(env, regno, kind, cloned_ref)
}

/// An object of the kernel of the parameter's type.
fn check_object(
    env: &mut Env<'_>,
    call: &Call<'_>,
    kind: ArgKind,
    index: usize,
    target: Option<Type<'_>>,
    regno: Reg,
) -> Check {
    let reg = *env.cur.reg(regno);
    let ty = reg.ty;
    let trusted =
        TypeFlags(TypeFlags::MEM_ALLOC.0 | TypeFlags::PTR_TRUSTED.0 | TypeFlags::NON_OWN_REF.0);
    let is_unsafe = ty.flags.without(trusted) != TypeFlags::NONE && !ty.has(TypeFlags::MEM_RCU);
    let view = kernel_view(ty.base);
    if (ty.base != RegBase::PtrToBtfId || is_unsafe) && view.is_none() {
        let expected = RegType::of(ty.base).with(TypeFlags(ty.flags.0 & trusted.0));
        reject!(
            EINVAL,
            "arg#{index} is {} expected {} or socket",
            TypeName(ty),
            TypeName(expected)
        );
    }
    let facts = env.facts;
    let find = |name: &str| call.btf.find_by_name_kind(name, Kind::Struct);
    let (btf_idx, id) = match (reg.btf(), view) {
        (Some(object), _) => object,
        (None, Some(name)) => match find(name) {
            Some(id) => (BtfIdx(0), id),
            None => unjudged!("struct {name} is not in the kernel BTF"),
        },
        (None, None) => return Err(Violation::bug("typed argument without type")),
    };
    let wanted = if kind == ArgKind::Map {
        find("bpf_map")
    } else {
        target.map(|target| target.id())
    };
    let Some(wanted) = wanted else {
        unjudged!("argument {index} of kernel function {}", call.name)
    };
    let btf = facts.btf(btf_idx);
    let (name, wanted_name) = (btf.name(id), call.btf.name(wanted));
    let is_strict = call.has(KfuncFlags::ACQUIRE)
        || call.has(KfuncFlags::RELEASE) && reg.ref_obj_id != 0
        || is_init_alias(name, wanted_name);
    // A type of a module is its own; one that it has from the kernel was named so.
    let wanted_in = facts.btf_idx(call.btf).map(|of| facts.object(of, wanted));
    let same_btf = matches!(wanted_in, Some(Extra::Btf { btf, .. }) if btf == btf_idx);
    let is_same = same_btf && struct_matches(btf, id, reg.off, wanted, is_strict);
    let is_projection = matches!(
        (name, wanted_name),
        ("sk_buff", "__sk_buff") | ("xdp_buff", "xdp_md")
    );
    if !is_same
        && !is_strict
        && let Some(text) = mismatch_text(btf, id, reg.off)
    {
        vlog!(env.log, "{text}\n");
    }
    if !is_same && !is_projection {
        let kind = |btf: &ring3_btf::Btf, id| btf.kind(id).map_or("UNKNOWN", Kind::name);
        reject!(
            EINVAL,
            "kernel function {} args#{index} expected pointer to {} {wanted_name} but R{} has a pointer to {} {name}",
            call.name,
            kind(call.btf, wanted),
            regno.number(),
            kind(btf, id)
        );
    }
    Ok(())
}

/// `T` and `T___init`, an object that is not ready yet.
fn is_init_alias(a: &str, b: &str) -> bool {
    const SUFFIX: &str = "___init";
    match (a.strip_suffix(SUFFIX), b.strip_suffix(SUFFIX)) {
        (Some(stem), None) => stem == b,
        (None, Some(stem)) => stem == a,
        _ => false,
    }
}

/// Memory of the parameter's type.
fn check_mem(
    env: &mut Env<'_>,
    call: &Call<'_>,
    index: usize,
    target: Option<Type<'_>>,
    regno: Reg,
) -> Check {
    let Some(target) = target else {
        reject!(EINVAL)
    };
    let Some(size) = call.btf.resolve_size(target.id()) else {
        reject!(
            EINVAL,
            "arg#{index} reference type('{} {}') size cannot be determined: -22",
            target.kind().name(),
            target.name()
        )
    };
    check_mem_reg(env, regno, size)
}

/// Memory and its size, which the next argument is.
fn check_mem_and_size(
    env: &mut Env<'_>,
    call: &Call<'_>,
    index: usize,
    param: &Param<'_>,
    regno: Reg,
    meta: &mut Meta,
) -> Check {
    let Some(size_reg) = Reg::new(regno.number() + 1) else {
        return Err(Violation::bug("size register"));
    };
    let is_optional = has_suffix(param, "__opt");
    if !(is_optional && env.cur.reg(regno).is_null()) {
        check_mem_size(env, regno, size_reg).map_err(|violation| {
            violation.and_line(format_args!(
                "arg#{index} arg#{} memory, len pair leads to invalid memory access",
                index + 1
            ))
        })?;
    }
    let Some(size_param) = call.proto.params().nth(index + 1) else {
        return Err(Violation::bug("size parameter"));
    };
    if has_suffix(&size_param, "__szk") && is_mem_size(call.btf, &size_param, env.cur.reg(size_reg))
    {
        let Some(value) = env.cur.reg(size_reg).scalar.const_value() else {
            reject!(EINVAL, "R{} must be a known constant", size_reg.number())
        };
        note_constant(meta, value)?;
    }
    Ok(())
}

/// The memory may be read and written, as far as its size may reach: `check_kfunc_mem_size_reg`.
fn check_mem_size(env: &mut Env<'_>, mem: Reg, size: Reg) -> Check {
    let saved = *env.cur.reg(mem);
    if saved.ty.may_be_null() {
        let facts = env.facts;
        mark_ptr_not_null_reg(facts, env.cur.reg_mut(mem));
    }
    let mut result = check_mem_size_reg(env, size, Access::Read, ZeroSize::Allowed, None);
    if result.is_ok() {
        result = check_mem_size_reg(env, size, Access::Write, ZeroSize::Allowed, None);
    }
    if saved.ty.may_be_null() {
        *env.cur.reg_mut(mem) = saved;
    }
    result
}
