//! Calls of kernel functions, by their BTF prototype and the flags of their row.
//!
//! Judged here: numbers and typed objects as arguments (trusted, under RCU, referenced as the row asks), numbers and objects
//! as results, open-coded iterators ([`iter`](super::super::iter)), RCU read sections, disabled preemption. Functions with rules of
//! their own (allocated objects, lists and trees, dynptrs, arenas, exceptions, saved flags, callbacks) are rejected as not
//! judged. Kernel counterpart: `check_kfunc_call`. Neighbours: `kfunc_calls` (which exist), `ring3_spec::kfunc` (rows).

use ring3_btf::{Btf, Kind, Param, Type, TypeId};
use ring3_isa::Reg;
use ring3_spec::kfunc::{KfuncFlags, KfuncRow, find};

use crate::check::btf_ptr::has_struct_at;
use crate::check::exit::{ExitKind, check_exit, check_return_code};
use crate::check::iter;
use crate::check::mem::{FixedOffset, check_ptr_off_reg_with};
use crate::check::nullness::is_trusted;
use crate::check::refs::{acquire_reference, release_reference};
use crate::check::regs::{clear_caller_saved, mark_reg_unknown};
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::explore::Next;
use crate::log::state::TypeName;
use crate::state::{BtfIdx, DEF_NOT_SUBREG, Extra, RegBase, RegState, RegType, TypeFlags};

/// Functions whose arguments or effects have rules of their own that are not judged here.
const SPECIAL: &[&str] = &[
    "bpf_arena_",
    "bpf_cast_to_kern_ctx",
    "bpf_copy_from_user",
    "bpf_crypto_",
    "bpf_ct_",
    "bpf_dynptr",
    "bpf_get_kmem_cache",
    "bpf_iter_bits_",
    "bpf_iter_css_task_new",
    "bpf_list_",
    "bpf_local_irq_",
    "bpf_lookup_",
    "bpf_map_sum_elem_count",
    "bpf_obj_",
    "bpf_path_d_path",
    "bpf_percpu_obj_",
    "bpf_probe_",
    "bpf_rbtree_",
    "bpf_rdonly_cast",
    "bpf_refcount_",
    "bpf_res_spin_",
    "bpf_session_",
    "bpf_skb_",
    "bpf_sock_",
    "bpf_sk_",
    "bpf_str",
    "bpf_task_work_",
    "bpf_wq_",
    "bpf_xdp_",
];

/// Whether a kernel function may be called while a spin lock is held: those of lists, trees and resilient locks, all special.
pub(crate) fn is_allowed_under_spin_lock(env: &Env<'_>, id: i32) -> bool {
    let name = env
        .req
        .kernel_btf
        .as_ref()
        .map_or("", |btf| btf.name(TypeId(id as u32)));
    [
        "bpf_list_",
        "bpf_rbtree_",
        "bpf_refcount_",
        "bpf_iter_num_",
        "bpf_res_spin_",
        "bpf_arena_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// One call.
struct Call<'a> {
    btf: &'a Btf,
    name: &'a str,
    proto: Type<'a>,
    row: &'static KfuncRow,
}

impl Call<'_> {
    fn has(&self, flag: KfuncFlags) -> bool {
        self.row.flags.contains(flag)
    }
}

/// Checks a call; `Some` if the call ends the path.
pub(crate) fn check_kfunc_call(env: &mut Env<'_>, id: i32, btf_idx: i16) -> Check<Option<Next>> {
    let req = env.req;
    let (Some(btf), 0) = (&req.kernel_btf, btf_idx) else {
        unjudged!("a kernel function of a module")
    };
    if id == 0 {
        unjudged!("a kernel function that does not exist");
    }
    let Some(func) = btf
        .type_by_id(TypeId(id as u32))
        .filter(|ty| ty.kind() == Kind::Func)
    else {
        unjudged!("kernel function {id}");
    };
    let name = func.name();
    let attach = &env.facts.attach;
    let Some(row) = find(name) else {
        reject!(EACCES, "calling kernel function {name} is not allowed")
    };
    if !row.is_for(attach.prog_type, attach.expected_attach_type) {
        reject!(EACCES, "calling kernel function {name} is not allowed");
    }
    if SPECIAL.iter().any(|special| name.starts_with(special)) {
        unjudged!("kernel function {name}");
    }
    let Some(proto) = func.referent().filter(|ty| ty.kind() == Kind::FuncProto) else {
        unjudged!("kernel function {name} without prototype");
    };
    let call = Call {
        btf,
        name,
        proto,
        row,
    };
    check_sleep(env, &call)?;
    let checked = check_args(env, &call)?;
    check_sections(env, &call)?;
    if let Some(reg) = checked.release {
        let id = env.cur.reg(reg).ref_obj_id;
        release_reference(env, id).map_err(|v| {
            v.and_line(format_args!(
                "kfunc {name}#{} reference has not been acquired before",
                func.id().0
            ))
        })?;
    }
    let throws = name == "bpf_throw";
    if throws {
        env.seen_exception = true;
        if env.facts.exception_cb.is_none() {
            check_return_code(env, Reg::R1)?;
        }
    }
    clear_caller_saved(env);
    set_result(env, &call, &checked)?;
    if let Some(place) = checked.iter
        && call.has(KfuncFlags::ITER_NEXT)
    {
        iter::step(env, place)?;
    }
    if throws {
        return check_exit(env, ExitKind::Exception).map(Some);
    }
    Ok(None)
}

fn check_sleep(env: &Env<'_>, call: &Call<'_>) -> Check {
    if call.has(KfuncFlags::DESTRUCTIVE) {
        unjudged!("destructive kernel function {}", call.name);
    }
    if call.has(KfuncFlags::SLEEPABLE) && !env.in_sleepable() {
        reject!(
            EACCES,
            "program must be sleepable to call sleepable kfunc {}",
            call.name
        );
    }
    Ok(())
}

/// RCU read sections, disabled preemption, disabled interrupts: entered, left, and not to be slept in.
fn check_sections(env: &mut Env<'_>, call: &Call<'_>) -> Check {
    let name = call.name;
    let sleepable = call.has(KfuncFlags::SLEEPABLE);
    let (rcu_lock, rcu_unlock) = (name == "bpf_rcu_read_lock", name == "bpf_rcu_read_unlock");
    if rcu_lock && env.cur.refs.active_rcu_locks != 0 {
        // Stable updates of the reference kernel differ in whether sections nest.
        unjudged!("nested RCU read sections");
    }
    if rcu_lock {
        env.cur.refs.active_rcu_locks = 1;
    } else if rcu_unlock {
        if env.cur.refs.active_rcu_locks == 0 {
            reject!(EINVAL, "unmatched rcu read unlock (kernel function {name})");
        }
        env.cur.refs.active_rcu_locks = 0;
        env.cur.change_regs(
            |reg| reg.ty.has(TypeFlags::MEM_RCU),
            |reg| {
                reg.ty = reg
                    .ty
                    .without(TypeFlags::MEM_RCU)
                    .without(TypeFlags::PTR_MAYBE_NULL)
                    .with(TypeFlags::PTR_UNTRUSTED);
            },
        );
        iter::leave_rcu(env);
    } else if env.cur.refs.active_rcu_locks != 0 && sleepable {
        reject!(
            EACCES,
            "kernel func {name} is sleepable within rcu_read_lock region"
        );
    }
    match name {
        "bpf_preempt_disable" => env.cur.refs.active_preempt_locks += 1,
        "bpf_preempt_enable" => match env.cur.refs.active_preempt_locks.checked_sub(1) {
            Some(left) => env.cur.refs.active_preempt_locks = left,
            None => reject!(
                EINVAL,
                "unmatched attempt to enable preemption (kernel function {name})"
            ),
        },
        _ if sleepable && env.cur.refs.active_preempt_locks != 0 => {
            reject!(
                EACCES,
                "kernel func {name} is sleepable within non-preemptible region"
            )
        }
        _ => {}
    }
    if sleepable && env.cur.refs.active_irq_id != 0 {
        reject!(
            EACCES,
            "kernel func {name} is sleepable within IRQ-disabled region"
        );
    }
    Ok(())
}

/// What the arguments said.
#[derive(Default)]
struct Checked {
    release: Option<Reg>,
    ref_obj_id: u32,
    iter: Option<iter::Place>,
}

fn check_args(env: &mut Env<'_>, call: &Call<'_>) -> Check<Checked> {
    let mut checked = Checked::default();
    for (index, param) in call.proto.params().enumerate() {
        let Some(reg) = Reg::new(index as u8 + 1).filter(|reg| reg.number() <= 5) else {
            unjudged!(
                "kernel function {} with more than five arguments",
                call.name
            );
        };
        check_arg(env, call, index, &param, reg, &mut checked)?;
    }
    if call.has(KfuncFlags::RELEASE) && checked.release.is_none() {
        reject!(
            EINVAL,
            "release kernel function {} expects refcounted PTR_TO_BTF_ID",
            call.name
        );
    }
    Ok(checked)
}

fn check_arg(
    env: &mut Env<'_>,
    call: &Call<'_>,
    index: usize,
    param: &Param<'_>,
    reg: Reg,
    checked: &mut Checked,
) -> Check {
    let btf = call.btf;
    let name = param.name();
    if name.contains("__") {
        // Suffixes give an argument another meaning.
        unjudged!("argument {name} of kernel function {}", call.name);
    }
    let number = reg.number();
    let state = *env.cur.reg(reg);
    let Some(ty) = btf.stripped(param.ty) else {
        unjudged!("argument of kernel function {}", call.name)
    };
    if ty.kind() == Kind::Int || ty.kind().is_any_enum() {
        if state.ty != RegType::SCALAR {
            reject!(EINVAL, "R{number} is not a scalar");
        }
        return Ok(());
    }
    if ty.kind() != Kind::Ptr {
        unjudged!("argument of kernel function {}", call.name);
    }
    let asks_trust = call.has(KfuncFlags::TRUSTED_ARGS) || call.has(KfuncFlags::RCU);
    if asks_trust && (state.is_null() || state.ty.may_be_null()) {
        reject!(EACCES, "Possibly NULL pointer passed to trusted arg{index}");
    }
    if state.ref_obj_id != 0 {
        if call.has(KfuncFlags::RELEASE) && checked.ref_obj_id != 0 {
            unjudged!("two references for one release");
        }
        checked.ref_obj_id = state.ref_obj_id;
        if call.has(KfuncFlags::RELEASE) {
            checked.release = Some(reg);
        }
    }
    let Some(target) = btf
        .stripped(ty.type_id())
        .filter(|target| target.kind() == Kind::Struct)
    else {
        unjudged!("memory argument of kernel function {}", call.name);
    };
    let is_iter = call.has(KfuncFlags::ITER_NEW)
        || call.has(KfuncFlags::ITER_NEXT)
        || call.has(KfuncFlags::ITER_DESTROY);
    if is_iter && index == 0 {
        let kind = if call.has(KfuncFlags::ITER_NEW) {
            iter::Use::New {
                rcu_protected: call.has(KfuncFlags::RCU_PROTECTED),
            }
        } else if call.has(KfuncFlags::ITER_NEXT) {
            iter::Use::Next
        } else {
            iter::Use::Destroy
        };
        checked.iter = iter::check_iter_arg(env, reg, target, call.name, kind)?;
        return Ok(());
    }
    check_object(call, index, target, reg, &state, asks_trust)
}

/// A kernel object as an argument.
fn check_object(
    call: &Call<'_>,
    index: usize,
    target: Type<'_>,
    reg: Reg,
    state: &RegState,
    asks_trust: bool,
) -> Check {
    let number = reg.number();
    let (Some((btf_idx, id)), RegBase::PtrToBtfId) = (state.btf(), state.ty.base) else {
        unjudged!(
            "argument {index} of kernel function {} that is no typed object",
            call.name
        );
    };
    if asks_trust && !is_trusted(state) {
        if !call.has(KfuncFlags::RCU) {
            reject!(EINVAL, "R{number} must be referenced or trusted");
        }
        if !state.ty.has(TypeFlags::MEM_RCU) {
            reject!(EINVAL, "R{number} must be a rcu pointer");
        }
    }
    let unsafe_flags = [
        TypeFlags::PTR_MAYBE_NULL,
        TypeFlags::PTR_UNTRUSTED,
        TypeFlags::MEM_ALLOC,
        TypeFlags::MEM_PERCPU,
        TypeFlags::MEM_USER,
        TypeFlags::NON_OWN_REF,
    ];
    if unsafe_flags.iter().any(|&flag| state.ty.has(flag)) && !state.ty.has(TypeFlags::MEM_RCU) {
        if state.ty.has(TypeFlags::PTR_UNTRUSTED) || state.ty.may_be_null() {
            reject!(
                EINVAL,
                "arg#{index} is {} expected {} or socket",
                TypeName(state.ty),
                TypeName(
                    RegType::of(state.ty.base)
                        .with(TypeFlags(state.ty.flags.0 & TypeFlags::PTR_TRUSTED.0))
                )
            );
        }
        unjudged!("this object for kernel function {}", call.name);
    }
    check_ptr_off_reg_with(state, reg, FixedOffset::Allowed)?;
    let is_strict = call.has(KfuncFlags::ACQUIRE) || call.has(KfuncFlags::RELEASE);
    let same = btf_idx == BtfIdx(0)
        && if is_strict {
            id == target.id() && state.off == 0
        } else {
            u32::try_from(state.off).is_ok_and(|off| has_struct_at(call.btf, id, off, target.id()))
        };
    if !same {
        // Members at the start of other types, and equal names, are matched by rules not judged here.
        unjudged!(
            "an object of another type or offset for kernel function {}",
            call.name
        );
    }
    Ok(())
}

fn set_result(env: &mut Env<'_>, call: &Call<'_>, checked: &Checked) -> Check {
    let btf = call.btf;
    let ret = btf.skip_mods_and_typedefs(call.proto.type_id());
    let Some(ty) = btf.type_by_id(ret) else {
        unjudged!("result of kernel function {}", call.name)
    };
    match ty.kind() {
        Kind::Void => Ok(()),
        Kind::Int | Kind::Enum | Kind::Enum64 => {
            if call.has(KfuncFlags::ACQUIRE) {
                reject!(
                    EINVAL,
                    "acquire kernel function does not return PTR_TO_BTF_ID"
                );
            }
            mark_reg_unknown(env, Reg::R0);
            let def = if btf.resolve_size(ret) == Some(8) {
                DEF_NOT_SUBREG
            } else {
                env.insn_idx + 1
            };
            env.cur.reg_mut(Reg::R0).subreg_def = def;
            Ok(())
        }
        Kind::Ptr => set_pointer_result(env, call, checked, ty),
        _ => unjudged!("result of kernel function {}", call.name),
    }
}

fn set_pointer_result(
    env: &mut Env<'_>,
    call: &Call<'_>,
    checked: &Checked,
    ptr: Type<'_>,
) -> Check {
    let btf = call.btf;
    let id = btf.skip_mods_and_typedefs(ptr.type_id());
    let Some(target) = btf.type_by_id(id) else {
        return Err(Violation::bug("result type"));
    };
    let reg = if target.kind().is_composite() {
        let mut ty = RegType::of(RegBase::PtrToBtfId);
        if call.has(KfuncFlags::RCU_PROTECTED) {
            ty = ty.with(TypeFlags::MEM_RCU);
        }
        if let Some(place) = checked.iter
            && call.has(KfuncFlags::ITER_NEXT)
        {
            ty = ty.with(if iter::is_rcu(env, place) {
                TypeFlags::MEM_RCU
            } else {
                TypeFlags::PTR_TRUSTED
            });
        }
        RegState::pointer(ty, Extra::Btf { btf: BtfIdx(0), id })
    } else if let Some(size) = btf
        .resolve_size(id)
        .filter(|_| !call.has(KfuncFlags::ACQUIRE))
    {
        let mut ty = RegType::of(RegBase::PtrToMem).with(TypeFlags::MEM_RDONLY);
        if call.has(KfuncFlags::RCU_PROTECTED) {
            ty = ty.with(TypeFlags::MEM_RCU);
        }
        RegState {
            ref_obj_id: checked.ref_obj_id,
            ..RegState::pointer(ty, Extra::Mem { size, dynptr_id: 0 })
        }
    } else {
        unjudged!("result of kernel function {}", call.name);
    };
    let mut reg = RegState {
        subreg_def: DEF_NOT_SUBREG,
        precise: env.cur.reg(Reg::R0).precise,
        ..reg
    };
    if call.has(KfuncFlags::RET_NULL) {
        reg.ty = reg.ty.with(TypeFlags::PTR_MAYBE_NULL);
        reg.id = env.new_id();
    }
    if call.has(KfuncFlags::ACQUIRE) {
        let id = acquire_reference(env);
        if call.has(KfuncFlags::RET_NULL) {
            reg.id = id;
        }
        reg.ref_obj_id = id;
    }
    *env.cur.reg_mut(Reg::R0) = reg;
    Ok(())
}
