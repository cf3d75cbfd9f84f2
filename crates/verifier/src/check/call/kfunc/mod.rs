//! Calls of kernel functions, by their BTF prototype and the flags of their row.
//!
//! A call is found ([`Call`]), its arguments are checked (`args`, by the kinds of `params`), what it does beyond them is done
//! here (sections of RCU, preemption and locks, callbacks, references), and r0 gets its state (`result`). Kernel
//! counterpart: `check_kfunc_call`. Neighbours: `kfunc_calls` (which exist), `ring3_spec::kfunc` (rows).

mod args;
mod params;
mod result;

use ring3_btf::{Btf, Kind, Type, TypeId};
use ring3_isa::Reg;
use ring3_spec::kfunc::{KfuncFlags, KfuncRow};

use super::callback::{CallbackKind, push_callback_call};
use super::subprog::clear_pkt_pointers;
use crate::aux::ObjectArg;
use crate::check::dynptr::DynptrFacts;
use crate::check::exit::{ExitKind, check_exit, check_return_code};
use crate::check::graph::{self, Root};
use crate::check::iter;
use crate::check::refs::release_reference;
use crate::check::regs::clear_caller_saved;
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::explore::{Next, Speculation, push_path};
use crate::state::{BtfIdx, MapIdx, RegState, TypeFlags};

/// Functions that need what is not judged here.
const UNJUDGED: &[&str] = &["bpf_session_", "bpf_xdp_metadata_"];

/// Functions that may be called while a lock is held, by how their names begin.
const UNDER_LOCK: &[&str] = &[
    "bpf_list_",
    "bpf_rbtree_",
    "bpf_refcount_",
    "bpf_iter_num_",
    "bpf_res_spin_",
    "bpf_arena_",
];

/// Whether a kernel function may be called while a spin lock is held: those of lists, trees and resilient locks, all special.
pub(crate) fn is_allowed_under_spin_lock(env: &Env<'_>, id: i32) -> bool {
    let kernel = env.req.kernel_btf.as_ref();
    let name = kernel.map_or("", |btf| btf.name(TypeId(id as u32)));
    UNDER_LOCK.iter().any(|prefix| name.starts_with(prefix))
}

/// One call.
struct Call<'a> {
    btf: &'a Btf,
    btf_idx: BtfIdx,
    id: TypeId,
    name: &'a str,
    proto: Type<'a>,
    row: &'a KfuncRow,
}

impl Call<'_> {
    fn has(&self, flag: KfuncFlags) -> bool {
        self.row.flags.contains(flag)
    }

    /// Objects must be trusted; what is given back always must.
    fn asks_trust(&self) -> bool {
        self.has(KfuncFlags::TRUSTED_ARGS) || self.has(KfuncFlags::RELEASE)
    }

    fn is_iter(&self) -> bool {
        self.has(KfuncFlags::ITER_NEW)
            || self.has(KfuncFlags::ITER_NEXT)
            || self.has(KfuncFlags::ITER_DESTROY)
    }

    fn iter_use(&self) -> iter::Use {
        if self.has(KfuncFlags::ITER_NEW) {
            iter::Use::New {
                rcu_protected: self.has(KfuncFlags::RCU_PROTECTED),
            }
        } else if self.has(KfuncFlags::ITER_NEXT) {
            iter::Use::Next
        } else {
            iter::Use::Destroy
        }
    }

    /// Adds an object to a list or tree.
    fn is_insertion(&self) -> bool {
        matches!(
            self.name,
            "bpf_list_push_front_impl" | "bpf_list_push_back_impl" | "bpf_rbtree_add_impl"
        )
    }
}

/// What the arguments of a call said.
#[derive(Clone, Debug, Default)]
struct Meta {
    release_reg: Option<Reg>,
    /// The reference among the arguments, 0 if none.
    ref_obj_id: u32,
    /// The one constant argument.
    constant: Option<u64>,
    /// Bytes of the memory that is returned.
    r0_size: Option<u32>,
    r0_rdonly: bool,
    map: Option<(MapIdx, u32)>,
    /// The allocated object among the arguments.
    object: Option<(BtfIdx, TypeId)>,
    /// That object belongs to the caller.
    is_owning: bool,
    root: Option<Root>,
    dynptr: Option<DynptrFacts>,
    iter: Option<iter::Place>,
    subprog: u32,
}

/// Functions that take a resilient lock, and may fail to.
fn is_res_lock(name: &str) -> bool {
    matches!(name, "bpf_res_spin_lock" | "bpf_res_spin_lock_irqsave")
}

/// Checks a call; `Some` if the call ends the path.
pub(crate) fn check_kfunc_call(env: &mut Env<'_>, id: i32, btf_idx: i16) -> Check<Option<Next>> {
    // A function that the loader did not find: an error only if the call is left after dead code is removed.
    if id == 0 && btf_idx == 0 {
        return Ok(None);
    }
    let call = find_call(env, id, btf_idx)?;
    if is_res_lock(call.name) {
        push_failed_lock(env)?;
    }
    if call.name == "__bpf_trap" {
        reject!(
            EFAULT,
            "unexpected __bpf_trap() due to uninitialized variable?"
        );
    }
    check_sleep(env, &call)?;
    let meta = args::check_args(env, &call)?;
    push_callbacks(env, &call, &meta)?;
    check_sections(env, &call)?;
    give_back(env, &call, &meta)?;
    let throws = call.name == "bpf_throw";
    if throws {
        env.seen_exception = true;
        if env.facts.exception_cb.is_none() {
            check_return_code(env, Reg::R1)?;
        }
    }
    clear_caller_saved(env);
    result::set_result(env, &call, &meta)?;
    note_object(env, &call, &meta)?;
    if call.name == "bpf_xdp_pull_data" {
        clear_pkt_pointers(env);
    }
    if let Some(place) = meta.iter
        && call.has(KfuncFlags::ITER_NEXT)
    {
        iter::step(env, place)?;
    }
    if throws {
        return check_exit(env, ExitKind::Exception).map(Some);
    }
    Ok(None)
}

/// Remembers the type of the objects that the call is about, for the rewrite that hands it over.
fn note_object(env: &mut Env<'_>, call: &Call<'_>, meta: &Meta) -> Check {
    let object = match (call.name, meta.root) {
        ("bpf_obj_new_impl" | "bpf_percpu_obj_new_impl", _) => env.cur.reg(Reg::R0).btf(),
        ("bpf_obj_drop_impl" | "bpf_percpu_obj_drop_impl" | "bpf_refcount_acquire_impl", _) => {
            meta.object
        }
        (_, Some(root)) if call.is_insertion() => Some((root.btf, root.value)),
        _ => return Ok(()),
    };
    let Some((btf, id)) = object else {
        return Err(Violation::bug("allocated object without type"));
    };
    let object = ObjectArg {
        btf,
        id,
        node_offset: meta.root.map_or(0, |root| root.node_offset),
    };
    let noted = &mut env.aux.call_mut(env.insn_idx).object;
    // What gives an object back finds its type in the object.
    let takes_type = call.is_insertion() || call.name.ends_with("obj_new_impl");
    if takes_type && noted.is_some_and(|noted| noted != object) {
        unjudged!("{} with objects of two types at one place", call.name);
    }
    *noted = Some(object);
    Ok(())
}

fn find_call<'a>(env: &Env<'a>, id: i32, btf_idx: i16) -> Check<Call<'a>> {
    let Some((btf, btf_idx)) = env.facts.kfunc_btf(env.req, btf_idx) else {
        return Err(Violation::bug("BTF of a kernel function"));
    };
    let func = btf
        .type_by_id(TypeId(id as u32))
        .filter(|ty| ty.kind() == Kind::Func);
    let Some((func, proto)) = func.and_then(|func| Some((func, func.referent()?))) else {
        return Err(Violation::bug(format_args!("kernel function {id}")));
    };
    let name = func.name();
    let attach = &env.facts.attach;
    let row = env
        .registry
        .kfunc(name)
        .filter(|row| row.is_for(attach.prog_type, attach.expected_attach_type));
    let Some(row) = row else {
        reject!(EACCES, "calling kernel function {name} is not allowed")
    };
    if UNJUDGED.iter().any(|prefix| name.starts_with(prefix)) {
        unjudged!("kernel function {name}");
    }
    Ok(Call {
        btf,
        btf_idx,
        id: func.id(),
        name,
        proto,
        row,
    })
}

/// The path on which a resilient lock could not be taken: an error in r0.
fn push_failed_lock(env: &mut Env<'_>) -> Check {
    let here = env.insn_idx;
    push_path(env, here + 1, here, Speculation::No)?;
    let precise = !env.permits.bpf_capable;
    let Some(pending) = env.worklist.last_mut() else {
        return Err(Violation::bug("worklist"));
    };
    let frame = pending.state.cur_frame_mut();
    for reg in &mut frame.regs[1..=5] {
        **reg = RegState::NOT_INIT;
    }
    let r0 = frame.reg_mut(Reg::R0);
    *r0 = RegState {
        precise,
        subreg_def: here + 1,
        ..RegState::UNKNOWN_SCALAR
    };
    let scalar = &mut r0.scalar;
    scalar.s32_min = scalar.s32_min.max(-4095);
    scalar.s32_max = scalar.s32_max.min(-1);
    scalar.smin = scalar.smin.max(-4095);
    scalar.smax = scalar.smax.min(-1);
    *scalar = scalar.sync();
    Ok(())
}

fn check_sleep(env: &Env<'_>, call: &Call<'_>) -> Check {
    if call.has(KfuncFlags::DESTRUCTIVE) && !env.req.privilege.sys_admin {
        reject!(
            EACCES,
            "destructive kfunc calls require CAP_SYS_BOOT capability"
        );
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

fn push_callbacks(env: &mut Env<'_>, call: &Call<'_>, meta: &Meta) -> Check {
    let kind = match (call.name, meta.root) {
        ("bpf_rbtree_add_impl", Some(root)) => CallbackKind::TreeLess(root),
        ("bpf_wq_set_callback_impl", _) => CallbackKind::Workqueue,
        ("bpf_task_work_schedule_signal_impl" | "bpf_task_work_schedule_resume_impl", _) => {
            let Some((map, uid)) = meta.map else {
                return Err(Violation::bug("task work without map"));
            };
            CallbackKind::TaskWork { map, uid }
        }
        _ => return Ok(()),
    };
    push_callback_call(env, meta.subprog, kind).map_err(|violation| {
        violation.and_line(format_args!(
            "kfunc {}#{} failed callback verification",
            call.name, call.id.0
        ))
    })
}

/// RCU read sections, disabled preemption, disabled interrupts: entered, left, and not to be slept in.
fn check_sections(env: &mut Env<'_>, call: &Call<'_>) -> Check {
    let name = call.name;
    let sleepable = call.has(KfuncFlags::SLEEPABLE);
    let (rcu_lock, rcu_unlock) = (name == "bpf_rcu_read_lock", name == "bpf_rcu_read_unlock");
    if rcu_lock && env.cur.refs.active_rcu_locks != 0 {
        reject!(EINVAL, "nested rcu read lock (kernel function {name})");
    }
    if (rcu_lock || rcu_unlock) && graph::in_tree_callback(env) {
        reject!(
            EACCES,
            "Calling bpf_rcu_read_{{lock,unlock}} in unnecessary rbtree callback"
        );
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

/// References that the call gives back, and objects that it gives to a list or tree.
fn give_back(env: &mut Env<'_>, call: &Call<'_>, meta: &Meta) -> Check {
    let not_acquired = |violation: alloc::boxed::Box<Violation>| {
        violation.and_line(format_args!(
            "kfunc {}#{} reference has not been acquired before",
            call.name, call.id.0
        ))
    };
    if let Some(reg) = meta.release_reg {
        let id = env.cur.reg(reg).ref_obj_id;
        release_reference(env, id).map_err(not_acquired)?;
    }
    if call.is_insertion() {
        let id = env.cur.reg(Reg::R2).ref_obj_id;
        graph::give_to_root(env, id)?;
        release_reference(env, id).map_err(not_acquired)?;
    }
    Ok(())
}
