//! A call of a helper: may this program make it, do its arguments fit, what is known afterwards.
//!
//! Kernel counterpart: `check_helper_call`. Neighbours: `args` (each argument), `ret` (r0 and references), `callback` (functions
//! that the helper calls), `ring3_spec::map_func` (which map types fit which helpers).

use ring3_isa::Reg;
use ring3_spec::{Allowed, Caller, FuncProto, HelperLookup, map_func};
use ring3_uapi::flags::map_create;
use ring3_uapi::{AttachType, FuncId, MapType, ProgType};

use super::args::{self, CallMeta, FuncName, check_func_arg};
use super::callback::{CallbackKind, push_callback_call};
use super::ret;
use super::subprog::{clear_pkt_pointers, leave_function};
use crate::aux::{MapArg, MapKey};
use crate::backtrack::mark_chain_precision;
use crate::check::regs::mark_reg_unknown;
use crate::check::{dynptr, map_field, refs, stack};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::explore::{Speculation, push_path};
use crate::log::state::TypeName;
use crate::log::vlog;
use crate::state::RegBase;

/// Checks the call of helper `imm` by the current instruction and gives r0 its state.
pub(crate) fn check_helper_call(env: &mut Env<'_>, imm: i32) -> Check {
    let registry = env.registry;
    let proto = find_proto(env, registry, imm)?;
    check_permitted(env, proto)?;
    check_context(env, proto)?;
    let func = proto.func_id();
    let mut meta = CallMeta {
        func,
        pkt_access: proto.pkt_access,
        ..CallMeta::default()
    };
    for index in 0..proto.args.len() {
        check_func_arg(env, proto, index, &mut meta)?;
    }
    record_map(env, &meta)?;
    record_key(env, &meta)?;
    write_raw_memory(env, &meta)?;
    release(env, proto, &meta)?;
    check_special(env, &mut meta)?;
    ret::set_result(env, proto, &meta)?;
    check_map_compatibility(env, &meta)?;
    match func {
        Some(FuncId::GetFuncIp) => check_get_func_ip(env)?,
        Some(FuncId::TailCall) => return after_tail_call(env),
        _ => {}
    }
    if proto.changes_pkt_data || meta.changes_pkt_data {
        clear_pkt_pointers(env);
    }
    Ok(())
}

fn find_proto<'r>(
    env: &Env<'_>,
    registry: &'r ring3_spec::Registry,
    imm: i32,
) -> Check<&'r FuncProto> {
    let attach = &env.facts.attach;
    let caller = Caller {
        prog_type: attach.prog_type,
        expected_attach_type: attach.expected_attach_type,
        sleepable: env.modes.sleepable,
        privilege: env.req.privilege,
    };
    match registry.helper(caller, imm) {
        HelperLookup::Unknown => reject!(EINVAL, "invalid func unknown#{imm}"),
        HelperLookup::NotForProgram(name) => {
            reject!(
                EINVAL,
                "program of this type cannot use helper bpf_{name}#{imm}"
            )
        }
        HelperLookup::Found(proto)
            if proto.allowed == Allowed::SocketIter && !is_socket_iter(env) =>
        {
            reject!(
                EINVAL,
                "program of this type cannot use helper bpf_{}#{imm}",
                proto.name
            )
        }
        HelperLookup::Found(proto) => Ok(proto),
    }
}

/// Iterators that hold the lock of the socket they are at.
fn is_socket_iter(env: &Env<'_>) -> bool {
    let target = env.facts.attach.target.as_ref();
    target.is_some_and(|target| matches!(target.name.as_str(), "bpf_iter_tcp" | "bpf_iter_unix"))
}

/// License, and rules beyond the program type.
fn check_permitted(env: &Env<'_>, proto: &FuncProto) -> Check {
    if proto.gpl_only && !env.facts.gpl_compatible {
        reject!(
            EINVAL,
            "cannot call GPL-restricted function from non-GPL compatible program"
        );
    }
    if !is_allowed(env, proto.allowed) {
        reject!(EINVAL, "helper call is not allowed in probe");
    }
    if proto.might_sleep && !env.in_sleepable() {
        reject!(EINVAL, "helper call might sleep in a non-sleepable prog");
    }
    Ok(())
}

/// Functions whose `struct path` arguments `d_path` may take from a plain probe.
const D_PATH_FUNCS: &[&str] = &[
    "security_file_permission",
    "security_inode_getattr",
    "security_file_open",
    "security_path_truncate",
    "vfs_truncate",
    "vfs_fallocate",
    "dentry_open",
    "vfs_getattr",
    "filp_close",
];

fn is_allowed(env: &Env<'_>, allowed: Allowed) -> bool {
    let attach = &env.facts.attach;
    let attach_type = AttachType::from_raw(attach.expected_attach_type);
    let target = attach.target.as_ref();
    let name = target.map_or("", |target| target.name.as_str());
    let is_tracing = attach.prog_type == ProgType::Tracing;
    let is_lsm = attach.prog_type == ProgType::Lsm;
    match allowed {
        // Iterators of other things were told that there is no such helper.
        Allowed::Always | Allowed::SocketIter => true,
        Allowed::SkStorageTracing => match attach_type {
            Some(AttachType::TraceIter | AttachType::TraceRawTp) => is_tracing,
            Some(AttachType::TraceFentry | AttachType::TraceFexit) => {
                is_tracing
                    && target.is_some_and(|target| target.prog_type.is_none())
                    && !name.starts_with("bpf_sk_storage")
            }
            _ => false,
        },
        Allowed::DPath => match attach_type {
            Some(AttachType::TraceIter) if is_tracing => true,
            // A sleepable program is attached to a hook that may sleep.
            _ if is_lsm => env.modes.sleepable,
            _ => D_PATH_FUNCS.contains(&name),
        },
        Allowed::ImaHash => env.modes.sleepable,
        Allowed::BprmOpts => name.ends_with("bprm_creds_for_exec"),
    }
}

/// Read-side sections, preemption and interrupts: a helper that may sleep is out of place there.
fn check_context(env: &mut Env<'_>, proto: &FuncProto) -> Check {
    let refs = &env.cur.refs;
    let (rcu, preempt, irq) = (
        refs.active_rcu_locks,
        refs.active_preempt_locks,
        refs.active_irq_id,
    );
    let imm = proto.id.raw();
    for (is_inside, place) in [
        (rcu != 0, "rcu_read_lock region"),
        (preempt != 0, "non-preemptible region"),
        (irq != 0, "IRQ-disabled region"),
    ] {
        if is_inside && proto.might_sleep {
            reject!(
                EINVAL,
                "sleepable helper bpf_{}#{imm} in {place}",
                proto.name
            );
        }
    }
    let is_atomic = rcu != 0 || env.in_sleepable() && (preempt != 0 || irq != 0);
    if is_atomic && proto.func_id().is_some_and(is_storage_get) {
        env.aux.call_mut(env.insn_idx).storage_get_atomic = true;
    }
    Ok(())
}

const fn is_storage_get(func: FuncId) -> bool {
    matches!(
        func,
        FuncId::SkStorageGet
            | FuncId::InodeStorageGet
            | FuncId::TaskStorageGet
            | FuncId::CgrpStorageGet
    )
}

/// Notes the map that the call gets, for inlining (`record_func_map`).
fn record_map(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    let Some(func) = meta.func else { return Ok(()) };
    if !matches!(
        func,
        FuncId::TailCall
            | FuncId::MapLookupElem
            | FuncId::MapUpdateElem
            | FuncId::MapDeleteElem
            | FuncId::MapPushElem
            | FuncId::MapPopElem
            | FuncId::MapPeekElem
            | FuncId::ForEachMapElem
            | FuncId::RedirectMap
            | FuncId::MapLookupPercpuElem
    ) {
        return Ok(());
    }
    let Some((map, _)) = meta.map else {
        return Err(Violation::bug("expected map for helper call"));
    };
    let writes = matches!(
        func,
        FuncId::MapDeleteElem | FuncId::MapUpdateElem | FuncId::MapPushElem | FuncId::MapPopElem
    );
    if writes && env.map(map).program_flags() & map_create::RDONLY_PROG != 0 {
        reject!(EACCES, "write into map forbidden");
    }
    let is_unpriv = !env.permits.bypass_spec_v1;
    let arg = &mut env.aux.call_mut(env.insn_idx).map_arg;
    *arg = match *arg {
        MapArg::Unseen => MapArg::One {
            map,
            unpriv: is_unpriv,
        },
        MapArg::One { map: other, unpriv } if other == map => MapArg::One { map, unpriv },
        MapArg::One { unpriv, .. } | MapArg::Poison { unpriv } => MapArg::Poison {
            unpriv: unpriv || is_unpriv,
        },
    };
    Ok(())
}

/// Notes the slot that a tail call always takes, or the element that a look-up in an array always finds; the proof then depends on it.
fn record_key(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    let known = match meta.func {
        Some(FuncId::TailCall) => tail_call_slot(env, meta)?,
        // Known for arrays only, and marked precise where it was found.
        Some(FuncId::MapLookupElem) => meta.const_map_key,
        _ => return Ok(()),
    };
    let slot = &mut env.aux.call_mut(env.insn_idx).map_key;
    *slot = match (*slot, known) {
        (MapKey::Unseen, Some(key)) => MapKey::One(key),
        (MapKey::One(other), Some(key)) if other == key => MapKey::One(key),
        (MapKey::Unseen | MapKey::One(_) | MapKey::Poison, _) => MapKey::Poison,
    };
    Ok(())
}

/// The slot that a tail call takes, if it is known (`record_func_key`).
fn tail_call_slot(env: &mut Env<'_>, meta: &CallMeta) -> Check<Option<u64>> {
    let map = meta.map.map(|(map, _)| env.map(map));
    let Some(map) = map.filter(|map| map.map_type == MapType::ProgArray) else {
        // The kernel's line has no end.
        vlog!(env.log, "expected prog array map for tail call");
        reject!(EINVAL);
    };
    let max = u64::from(map.max_entries);
    let key = env.cur.reg(Reg::R3);
    let known = if key.ty.is_scalar() {
        key.scalar.const_value().filter(|value| *value < max)
    } else {
        None
    };
    if known.is_some() {
        mark_chain_precision(env, Reg::R3)?;
    }
    Ok(known)
}

/// The stack that the helper fills holds some numbers afterwards.
fn write_raw_memory(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    let Some(base) = meta.raw.reg else {
        return Ok(());
    };
    let reg = *env.cur.reg(base);
    stack::write_bytes(env, &reg, meta.raw.access_size)
}

/// Gives back what the call releases.
fn release(env: &mut Env<'_>, proto: &FuncProto, meta: &CallMeta) -> Check {
    let Some(regno) = meta.release_reg else {
        return Ok(());
    };
    let is_dynptr = proto.args[regno.index() - 1].base == ring3_spec::ArgBase::PtrToDynptr;
    let released = if is_dynptr {
        dynptr::unmark_stack_slots(env, regno)
    } else if meta.func == Some(FuncId::KptrXchg) && meta.ref_obj_id != 0 {
        map_field::release_exchanged(env, meta)
    } else if meta.ref_obj_id != 0 {
        refs::release_reference(env, meta.ref_obj_id)
    } else if env.cur.reg(regno).is_null() {
        Ok(())
    } else {
        reject_release()
    };
    released.map_err(|violation| {
        violation.and_line(format_args!(
            "func bpf_{}#{} reference has not been acquired before",
            proto.name,
            proto.id.raw()
        ))
    })
}

fn reject_release() -> Check {
    reject!(EINVAL)
}

/// What single helpers ask for beyond their arguments' kinds.
fn check_special(env: &mut Env<'_>, meta: &mut CallMeta) -> Check {
    let Some(func) = meta.func else { return Ok(()) };
    match func {
        FuncId::TailCall => refs::check_resource_leak(env, refs::ExitScope::Program, "tail_call"),
        FuncId::GetLocalStorage => {
            if !env.cur.reg(Reg::R2).is_null() {
                reject!(EINVAL, "get_local_storage() doesn't support non-zero flags");
            }
            Ok(())
        }
        FuncId::ForEachMapElem => push_callback_call(env, meta.subprog, CallbackKind::MapElem),
        FuncId::TimerSetCallback => push_callback_call(env, meta.subprog, CallbackKind::Timer),
        FuncId::FindVma => push_callback_call(env, meta.subprog, CallbackKind::FindVma),
        FuncId::UserRingbufDrain => {
            push_callback_call(env, meta.subprog, CallbackKind::UserRingbuf)
        }
        FuncId::Snprintf => check_snprintf(env),
        FuncId::Loop => check_loop(env, meta),
        FuncId::DynptrFromMem => {
            let ty = env.cur.reg(Reg::R1).ty;
            if !ty.is(RegBase::PtrToMapValue) {
                reject!(
                    EACCES,
                    "Unsupported reg type {} for bpf_dynptr_from_mem data",
                    TypeName(ty)
                );
            }
            Ok(())
        }
        FuncId::SetRetval => check_set_retval(env),
        FuncId::DynptrData => dynptr::note_data_arg(env, meta),
        FuncId::DynptrWrite => {
            meta.changes_pkt_data = dynptr::writes_packet(env)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A loop's callback is walked until the number of iterations is reached, if that is known.
fn check_loop(env: &mut Env<'_>, meta: &mut CallMeta) -> Check {
    update_loop_inline(env, meta.subprog)?;
    mark_chain_precision(env, Reg::R1)?;
    let iterations = env.cur.reg(Reg::R1).scalar.umax;
    if u64::from(env.cur.cur_frame().stack.callbacks().depth) < iterations {
        return push_callback_call(env, meta.subprog, CallbackKind::Loop);
    }
    env.cur.end_callbacks();
    if env.log.is_level2() {
        vlog!(
            env.log,
            "frame{} bpf_loop iteration limit reached\n",
            env.cur.curframe
        );
    }
    Ok(())
}

/// A loop becomes instructions if it always has the same callback and no flags.
fn update_loop_inline(env: &mut Env<'_>, subprog: u32) -> Check {
    let insn_idx = env.insn_idx;
    let seen = env.aux.call(insn_idx).loop_inline;
    if seen.initialized && !seen.fit_for_inline {
        return Ok(());
    }
    let no_flags = env.cur.reg(Reg::R4).is_null();
    if no_flags {
        mark_chain_precision(env, Reg::R4)?;
    }
    let inline = &mut env.aux.call_mut(insn_idx).loop_inline;
    if seen.initialized {
        inline.fit_for_inline = no_flags && seen.callback_subprogno == subprog;
    } else {
        inline.initialized = true;
        inline.fit_for_inline = no_flags;
        inline.callback_subprogno = subprog;
    }
    Ok(())
}

fn check_set_retval(env: &Env<'_>) -> Check {
    let attach = &env.facts.attach;
    let is_lsm_cgroup = attach.prog_type == ProgType::Lsm
        && attach.expected_attach_type == AttachType::LsmCgroup.raw();
    let returns_void = attach.target.as_ref().is_some_and(|target| {
        let proto = target.proto.and_then(|proto| target.btf.type_by_id(proto));
        proto.is_some_and(|proto| proto.type_id().is_void())
    });
    if is_lsm_cgroup && returns_void {
        reject!(
            EINVAL,
            "BPF_LSM_CGROUP that attach to void LSM hooks can't modify return value!"
        );
    }
    Ok(())
}

/// The format is known; its specifiers must fit the number of values (`check_bpf_snprintf_call`).
fn check_snprintf(env: &Env<'_>) -> Check {
    let bytes = env.cur.reg(Reg::R5).scalar.var_off.value;
    if !bytes.is_multiple_of(8) {
        reject!(EINVAL);
    }
    let fmt = env.cur.reg(Reg::R3);
    let text = fmt
        .map()
        .zip(fmt.const_offset())
        .and_then(|(map, off)| args::const_bytes(env, map, off));
    let Some(text) = text else {
        return Err(Violation::bug("failed to retrieve map value address"));
    };
    let end = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    super::format::check_format(&text[..end], bytes / 8)
        .map_err(|errno| Violation::new(errno, "Invalid format string".into()))
}

/// `cannot pass map_type N into func F#M` (`check_map_func_compatibility`).
fn check_map_compatibility(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    let (Some((map, _)), Some(func)) = (meta.map, meta.func) else {
        return Ok(());
    };
    let map_type = env.map(map).map_type;
    let is_socket_map = matches!(map_type, MapType::Sockmap | MapType::Sockhash);
    let mut fits = map_func::map_takes(map_type, func);
    if !fits && is_socket_map {
        fits = may_update_sockmap(env, func);
    }
    if fits && map_func::helper_takes(func, map_type) {
        return Ok(());
    }
    reject!(
        EINVAL,
        "cannot pass map_type {} into func {}#{}",
        map_type.raw(),
        FuncName(Some(func)),
        func.raw()
    )
}

/// Sockets may be put into and taken out of a map only where no socket can be locked (`may_update_sockmap`).
fn may_update_sockmap(env: &mut Env<'_>, func: FuncId) -> bool {
    if !matches!(func, FuncId::MapUpdateElem | FuncId::MapDeleteElem) {
        return false;
    }
    let attach = &env.facts.attach;
    let may = match attach.prog_type {
        ProgType::Tracing => attach.expected_attach_type == AttachType::TraceIter.raw(),
        ProgType::SockOps => func == FuncId::MapDeleteElem,
        ProgType::SocketFilter
        | ProgType::SchedCls
        | ProgType::SchedAct
        | ProgType::Xdp
        | ProgType::SkReuseport
        | ProgType::FlowDissector
        | ProgType::SkLookup => true,
        _ => false,
    };
    if !may {
        vlog!(env.log, "cannot update sockmap in this context\n");
    }
    may
}

fn check_get_func_ip(env: &Env<'_>) -> Check {
    let attach = &env.facts.attach;
    let func = FuncId::GetFuncIp;
    let has_trampoline = matches!(
        AttachType::from_raw(attach.expected_attach_type),
        Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn)
    );
    match attach.prog_type {
        ProgType::Tracing if has_trampoline => Ok(()),
        ProgType::Tracing => reject!(
            ENOTSUPP,
            "func {}#{} supported only for fentry/fexit/fmod_ret programs",
            FuncName(Some(func)),
            func.raw()
        ),
        ProgType::Kprobe => Ok(()),
        other => reject!(
            ENOTSUPP,
            "func {}#{} not supported for program type {}",
            FuncName(Some(func)),
            func.raw(),
            other.raw()
        ),
    }
}

/// After a tail call from the main program, only its failure goes on, and nothing has changed. From a function, both its
/// failure and the callee's return go on; packet data may have changed.
fn after_tail_call(env: &mut Env<'_>) -> Check {
    if env.cur.curframe == 0 {
        return Ok(());
    }
    env.mark_scratched(Reg::R0);
    let (next, here) = (env.insn_idx + 1, env.insn_idx);
    push_path(env, next, here, Speculation::No)?;
    clear_pkt_pointers(env);
    mark_reg_unknown(env, Reg::R0);
    leave_function(env)?;
    // The caller of this function steps to the next instruction.
    env.insn_idx = env.insn_idx.wrapping_sub(1);
    clear_pkt_pointers(env);
    Ok(())
}
