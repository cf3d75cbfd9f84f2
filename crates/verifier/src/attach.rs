//! What a program attaches to, where its type asks for a target at load time: kernel functions and tracepoints, functions
//! of other BPF programs, members of struct_ops, LSM hooks.
//!
//! Key types: [`AttachFacts`], the target that exploration sees: its prototype types the context, and an extension is
//! judged as a program of its target's type. Which kernel functions exist, are hooks or may sleep is decided by names in
//! the kernel's BTF and by the tables below; the reference kernel has no error injection, so that only listed functions
//! can be modified or traced by sleepable programs.
//! Kernel counterpart: `check_attach_btf_id`, `bpf_check_attach_target`, `check_struct_ops_btf_id`. Neighbours: `pipeline`,
//! `check::ctx` (typed contexts), ring3-btf (function models).

mod hooks;
mod prototypes;

use alloc::string::String;

use ring3_btf::{Btf, FuncModel, Kind, Type, TypeId};
use ring3_spec::{AttachTarget, LoadRequest, ProgTarget};
use ring3_uapi::flags::prog_load;
use ring3_uapi::{AttachType, Errno, ProgType};

use crate::error::{Check, Violation, reject, unjudged};
use hooks::{
    DISABLED_HOOKS, LSM_PREFIX, MODIFIABLE_FUNCS, NEVER_RETURNING, NEVER_TRACED, SLEEPABLE_HOOKS,
    SLEEPABLE_TEST_FUNCS,
};

/// The target, as exploration sees it.
#[derive(Clone, Debug)]
pub(crate) struct AttachFacts {
    /// The program's type; for an extension, its target's.
    pub(crate) prog_type: ProgType,
    /// The expected attach type, raw; for an extension, its target's.
    pub(crate) expected_attach_type: u32,
    /// What the program attaches to, if its type asks for it at load time.
    pub(crate) target: Option<AttachedFunc>,
}

/// A function (or tracepoint, or member of a struct of functions) that a program attaches to.
#[derive(Clone, Debug)]
pub(crate) struct AttachedFunc {
    /// Where `proto` is.
    pub(crate) btf: Btf,
    /// Its prototype; `None` if BTF and code of the target disagree, then all arguments are numbers.
    pub(crate) proto: Option<TypeId>,
    /// Its name, without prefix.
    pub(crate) name: String,
    /// The target is a program, of this type.
    pub(crate) prog_type: Option<ProgType>,
    /// Arguments are those of a tracepoint: the first of the prototype is not the program's.
    pub(crate) is_tracepoint: bool,
}

impl AttachFacts {
    fn untargeted(req: &LoadRequest) -> AttachFacts {
        AttachFacts {
            prog_type: req.prog_type,
            expected_attach_type: req.expected_attach_type,
            target: None,
        }
    }
}

/// What passes before this one found out about an extension, which must not do more than what it replaces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effects {
    pub(crate) changes_pkt_data: bool,
    pub(crate) might_sleep: bool,
}

/// The type and attach type by which a program is judged before its target was checked: helpers of an extension are its
/// target's.
pub(crate) fn resolved_prog_type(req: &LoadRequest) -> (ProgType, u32) {
    match (&req.attach, req.prog_type) {
        (AttachTarget::Prog(target), ProgType::Ext) => {
            (target.prog_type, target.expected_attach_type)
        }
        _ => (req.prog_type, req.expected_attach_type),
    }
}

/// Checks that the program may attach to what it names.
///
/// # Errors
/// EINVAL, ENOENT, ENOTSUPP with the kernel's words.
pub(crate) fn check_attach(req: &LoadRequest, effects: Effects) -> Check<AttachFacts> {
    let is_sleepable = req.flags & prog_load::SLEEPABLE != 0;
    if req.prog_type == ProgType::Syscall {
        if !is_sleepable {
            reject!(EINVAL, "Syscall programs can only be sleepable");
        }
        return Ok(AttachFacts::untargeted(req));
    }
    if is_sleepable && !may_be_sleepable(req) {
        reject!(
            EINVAL,
            "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable"
        );
    }
    match req.prog_type {
        ProgType::StructOps => check_struct_ops(req),
        ProgType::Tracing | ProgType::Lsm | ProgType::Ext => check_target(req, effects),
        _ => Ok(AttachFacts::untargeted(req)),
    }
}

/// Whether a program that was accepted for one target may be attached to another, which the request names.
///
/// # Errors
/// As when the program is loaded for that target, with the kernel's words.
pub fn check_attach_target(
    req: &LoadRequest,
    changes_pkt_data: bool,
    might_sleep: bool,
) -> Result<(), (Errno, String)> {
    let effects = Effects {
        changes_pkt_data,
        might_sleep,
    };
    check_attach(req, effects)
        .map(drop)
        .map_err(|violation| (violation.errno, violation.text))
}

fn may_be_sleepable(req: &LoadRequest) -> bool {
    match req.prog_type {
        ProgType::Tracing => matches!(
            AttachType::from_raw(req.expected_attach_type),
            Some(
                AttachType::TraceFentry
                    | AttachType::TraceFexit
                    | AttachType::ModifyReturn
                    | AttachType::TraceIter
            )
        ),
        ProgType::Lsm | ProgType::Kprobe | ProgType::StructOps => true,
        _ => false,
    }
}

/// A target found: its function type, its name, and the program it belongs to.
struct Target<'a> {
    btf: &'a Btf,
    ty: Type<'a>,
    prog: Option<&'a ProgTarget>,
    /// BTF and code of the target program disagree.
    conservative: bool,
}

fn check_target(req: &LoadRequest, effects: Effects) -> Check<AttachFacts> {
    let target = find_target(req, effects)?;
    let attach_type = AttachType::from_raw(req.expected_attach_type);
    let id = req.attach_btf_id;
    let mut name = target.ty.name();
    let mut is_tracepoint = false;
    let is_ext = req.prog_type == ProgType::Ext;
    let proto = match attach_type {
        Some(AttachType::TraceRawTp) => {
            is_tracepoint = true;
            name = tracepoint_name(&target, id)?;
            tracepoint_proto(&target, name)?
        }
        Some(AttachType::TraceIter) => {
            let proto = func_proto(&target, id)?;
            distill(target.btf, proto.id(), name)?;
            proto
        }
        Some(
            AttachType::TraceFentry
            | AttachType::TraceFexit
            | AttachType::ModifyReturn
            | AttachType::LsmMac
            | AttachType::LsmCgroup,
        ) => check_function(req, &target, name)?,
        _ if is_ext => check_function(req, &target, name)?,
        _ => return Err(Violation::silent(Errno::EINVAL)),
    };
    check_denied(req, &target, name, attach_type)?;
    let facts = AttachedFunc {
        btf: target.btf.clone(),
        proto: if target.conservative {
            None
        } else {
            Some(proto.id())
        },
        name: name.into(),
        prog_type: target.prog.map(|prog| prog.prog_type),
        is_tracepoint,
    };
    let (prog_type, expected_attach_type) = resolved_prog_type(req);
    Ok(AttachFacts {
        prog_type,
        expected_attach_type,
        target: Some(facts),
    })
}

/// The type that `attach_btf_id` names, and whether its program may be attached to.
fn find_target(req: &LoadRequest, effects: Effects) -> Check<Target<'_>> {
    let id = req.attach_btf_id;
    if id.is_void() {
        reject!(EINVAL, "Tracing programs must provide btf_id");
    }
    let (btf, prog) = match &req.attach {
        AttachTarget::Kernel => (req.kernel_btf.as_ref(), None),
        AttachTarget::Btf(btf) => (Some(btf), None),
        AttachTarget::Prog(prog) => (prog.btf.as_ref(), Some(&**prog)),
    };
    let Some(btf) = btf else {
        reject!(
            EINVAL,
            "Tracing program can only be attached to another program annotated with BTF"
        );
    };
    let Some(ty) = btf.type_by_id(id) else {
        reject!(EINVAL, "attach_btf_id {id} is invalid");
    };
    if btf.str_by_offset(ty.name_off()).is_none() {
        reject!(EINVAL, "attach_btf_id {id} doesn't have a name");
    }
    let conservative = match prog {
        Some(prog) => check_target_prog(req, prog, ty, effects)?,
        None if req.prog_type == ProgType::Ext => {
            reject!(EINVAL, "Cannot replace kernel functions")
        }
        None => req.target_traits.unreliable,
    };
    Ok(Target {
        btf,
        ty,
        prog,
        conservative,
    })
}

fn check_target_prog(
    req: &LoadRequest,
    prog: &ProgTarget,
    func: Type<'_>,
    effects: Effects,
) -> Check<bool> {
    let is_ext = req.prog_type == ProgType::Ext;
    let Some(subprog) = prog
        .subprogs
        .iter()
        .find(|subprog| subprog.type_id == func.id())
    else {
        reject!(EINVAL, "Subprog {} doesn't exist", func.name());
    };
    if subprog.is_exception_cb {
        let who = if is_ext { "Extension" } else { "Tracing" };
        reject!(EINVAL, "{who} programs cannot attach to exception callback");
    }
    if is_ext {
        if subprog.unreliable {
            reject!(EINVAL, "Cannot replace static functions");
        }
        if effects.changes_pkt_data && !subprog.changes_pkt_data {
            reject!(
                EINVAL,
                "Extension program changes packet data, while original does not"
            );
        }
        if effects.might_sleep && !subprog.might_sleep {
            reject!(
                EINVAL,
                "Extension program may sleep, while original does not"
            );
        }
    }
    if !prog.jited {
        reject!(EINVAL, "Can attach to only JITed progs");
    }
    if req.prog_type == ProgType::Tracing {
        if prog.attaches_to_prog {
            reject!(EINVAL, "Cannot nest tracing program attach more than once");
        }
    } else if prog.prog_type == req.prog_type {
        reject!(EINVAL, "Cannot recursively attach");
    }
    let target_type = AttachType::from_raw(prog.expected_attach_type);
    if is_ext
        && prog.prog_type == ProgType::Tracing
        && matches!(
            target_type,
            Some(AttachType::TraceFentry | AttachType::TraceFexit)
        )
    {
        reject!(EINVAL, "Cannot extend fentry/fexit");
    }
    Ok(subprog.unreliable)
}

const TRACEPOINT_PREFIX: &str = "btf_trace_";

fn tracepoint_name<'a>(target: &Target<'a>, id: TypeId) -> Check<&'a str> {
    if target.prog.is_some() {
        reject!(
            EINVAL,
            "Only FENTRY/FEXIT progs are attachable to another BPF prog"
        );
    }
    if target.ty.kind() != Kind::Typedef {
        reject!(EINVAL, "attach_btf_id {id} is not a typedef");
    }
    match target.ty.name().strip_prefix(TRACEPOINT_PREFIX) {
        Some(name) => Ok(name),
        None => reject!(
            EINVAL,
            "attach_btf_id {id} points to wrong type name {}",
            target.ty.name()
        ),
    }
}

/// The prototype of the function that the tracepoint calls for BPF, with names of arguments; else that of the typedef.
fn tracepoint_proto<'a>(target: &Target<'a>, name: &str) -> Check<Type<'a>> {
    let traced = target
        .btf
        .find_by_name_kind(&alloc::format!("__bpf_trace_{name}"), Kind::Func);
    let proto = match traced.and_then(|id| target.btf.type_by_id(id)) {
        Some(func) => func.referent(),
        None => target
            .ty
            .referent()
            .filter(|ptr| ptr.kind() == Kind::Ptr)
            .and_then(|ptr| ptr.referent()),
    };
    match proto.filter(|proto| proto.kind() == Kind::FuncProto) {
        Some(proto) => Ok(proto),
        None => Err(Violation::silent(Errno::EINVAL)),
    }
}

fn func_proto<'a>(target: &Target<'a>, id: TypeId) -> Check<Type<'a>> {
    if target.ty.kind() != Kind::Func {
        reject!(EINVAL, "attach_btf_id {id} is not a function");
    }
    match target
        .ty
        .referent()
        .filter(|proto| proto.kind() == Kind::FuncProto)
    {
        Some(proto) => Ok(proto),
        None => Err(Violation::silent(Errno::EINVAL)),
    }
}

fn distill(btf: &Btf, proto: TypeId, name: &str) -> Check {
    match FuncModel::from_proto(btf, proto, name) {
        Ok(_) => Ok(()),
        Err(error) => Err(Violation::new(error.errno(), error.message().into())),
    }
}

/// A function that a trampoline is put on.
fn check_function<'a>(req: &LoadRequest, target: &Target<'a>, name: &str) -> Check<Type<'a>> {
    let proto = func_proto(target, req.attach_btf_id)?;
    if req.prog_type == ProgType::Ext {
        check_same_prototype(req, target)?;
    }
    if !target.conservative {
        distill(target.btf, proto.id(), name)?;
    }
    if req.flags & prog_load::SLEEPABLE != 0 {
        let may_sleep = match req.prog_type {
            ProgType::Tracing => {
                SLEEPABLE_TEST_FUNCS.contains(&name) || req.target_traits.sleepable
            }
            ProgType::Lsm => name
                .strip_prefix(LSM_PREFIX)
                .is_some_and(|hook| SLEEPABLE_HOOKS.contains(&hook)),
            _ => false,
        };
        if !may_sleep {
            reject!(EINVAL, "{name} is not sleepable");
        }
    } else if AttachType::from_raw(req.expected_attach_type) == Some(AttachType::ModifyReturn) {
        if target.prog.is_some() {
            reject!(EINVAL, "can't modify return codes of BPF programs");
        }
        if !name.starts_with("security_")
            && !MODIFIABLE_FUNCS.contains(&name)
            && !req.target_traits.modifiable
        {
            reject!(EINVAL, "{name}() is not modifiable");
        }
    }
    Ok(proto)
}

/// An extension has the signature of what it replaces.
fn check_same_prototype(req: &LoadRequest, target: &Target<'_>) -> Check {
    let (Some(btf), Some(own)) = (req.btf.as_ref(), own_func(req)) else {
        reject!(EINVAL, "Program extension requires BTF");
    };
    match prototypes::check_func_match(btf, own, target.btf, target.ty) {
        Ok(()) => Ok(()),
        Err(text) => Err(Violation::new(Errno::EINVAL, text)),
    }
}

/// The type of the program's main function, from its first `func_info` record.
fn own_func(req: &LoadRequest) -> Option<Type<'_>> {
    let bytes = req.func_info.bytes.get(4..8)?;
    let id = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    req.btf
        .as_ref()?
        .type_by_id(TypeId(id))
        .filter(|ty| ty.kind() == Kind::Func)
}

fn check_denied(
    req: &LoadRequest,
    target: &Target<'_>,
    name: &str,
    attach_type: Option<AttachType>,
) -> Check {
    if matches!(
        attach_type,
        Some(AttachType::TraceRawTp | AttachType::TraceIter)
    ) || target.prog.is_some()
    {
        return Ok(());
    }
    if req.prog_type == ProgType::Lsm {
        if !req.is_gpl_compatible() {
            reject!(EINVAL, "LSM programs must have a GPL compatible license");
        }
        let Some(hook) = name.strip_prefix(LSM_PREFIX) else {
            reject!(
                EINVAL,
                "attach_btf_id {} points to wrong type name {name}",
                req.attach_btf_id
            );
        };
        if DISABLED_HOOKS.contains(&hook) {
            reject!(
                EINVAL,
                "attach_btf_id {} points to disabled hook {name}",
                req.attach_btf_id
            );
        }
    } else if req.prog_type == ProgType::Tracing && NEVER_TRACED.contains(&name) {
        reject!(
            EINVAL,
            "Attaching tracing programs to function '{name}' is rejected."
        );
    } else if matches!(
        attach_type,
        Some(AttachType::TraceFexit | AttachType::ModifyReturn)
    ) && NEVER_RETURNING.contains(&name)
    {
        reject!(
            EINVAL,
            "Attaching fexit/fmod_ret to __noreturn function '{name}' is rejected."
        );
    }
    Ok(())
}

fn check_struct_ops(req: &LoadRequest) -> Check<AttachFacts> {
    if !req.is_gpl_compatible() {
        reject!(
            EINVAL,
            "struct ops programs must have a GPL compatible license"
        );
    }
    if req.attach_btf_id.is_void() {
        return Err(Violation::silent(Errno::ENOTSUPP));
    }
    let btf = match &req.attach {
        AttachTarget::Kernel | AttachTarget::Prog(_) => req.kernel_btf.as_ref(),
        AttachTarget::Btf(btf) => Some(btf),
    };
    let Some(btf) = btf else {
        unjudged!("struct_ops without the kernel's BTF")
    };
    let id = req.attach_btf_id;
    let ops = btf.type_by_id(id).filter(|ty| ty.kind() == Kind::Struct);
    // Each struct of operations has a struct of this name that the kernel wraps its values in.
    let ops = ops.filter(|ops| {
        btf.find_by_name_kind(
            &alloc::format!("bpf_struct_ops_{}", ops.name()),
            Kind::Struct,
        )
        .is_some()
    });
    let Some(ops) = ops else {
        reject!(ENOTSUPP, "attach_btf_id {id} is not a supported struct");
    };
    let idx = req.expected_attach_type;
    let Some(member) = ops.member(idx) else {
        reject!(
            EINVAL,
            "attach to invalid member idx {idx} of struct {}",
            ops.name()
        );
    };
    let proto = btf
        .stripped(member.ty)
        .filter(|ptr| ptr.kind() == Kind::Ptr)
        .and_then(|ptr| btf.stripped(ptr.type_id()))
        .filter(|proto| proto.kind() == Kind::FuncProto);
    let Some(proto) = proto else {
        reject!(
            EINVAL,
            "attach to invalid member {}(@idx {idx}) of struct {}",
            member.name(),
            ops.name()
        );
    };
    if let Some(errno) = unsupported_member(
        ops.name(),
        member.name(),
        req.flags & prog_load::SLEEPABLE != 0,
    ) {
        return Err(Violation::new(
            errno,
            alloc::format!(
                "attach to unsupported member {} of struct {}",
                member.name(),
                ops.name()
            ),
        ));
    }
    let target = AttachedFunc {
        btf: btf.clone(),
        proto: Some(proto.id()),
        name: member.name().into(),
        prog_type: None,
        is_tracepoint: false,
    };
    Ok(AttachFacts {
        target: Some(target),
        ..AttachFacts::untargeted(req)
    })
}

/// Members that the kernel's owner of the struct does not want implemented.
fn unsupported_member(ops: &str, member: &str, is_sleepable: bool) -> Option<Errno> {
    match (ops, member) {
        ("tcp_congestion_ops", "get_info") => Some(Errno::ENOTSUPP),
        ("bpf_testmod_ops", "unsupported_ops") => Some(Errno::ENOTSUPP),
        ("bpf_dummy_ops", "test_sleepable") => None,
        ("bpf_dummy_ops", _) if is_sleepable => Some(Errno::EINVAL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn check(
        prog_type: ProgType,
        attach_type: AttachType,
        flags: u32,
    ) -> Result<AttachFacts, String> {
        let mut req = LoadRequest::new(prog_type, vec![]);
        req.expected_attach_type = attach_type.raw();
        req.flags = flags;
        check_attach(&req, Effects::default()).map_err(|violation| violation.text)
    }

    #[test]
    fn tracing_needs_a_target() {
        assert_eq!(
            check(ProgType::Tracing, AttachType::TraceFentry, 0).unwrap_err(),
            "Tracing programs must provide btf_id"
        );
        assert!(
            check(ProgType::Xdp, AttachType::Xdp, 0)
                .unwrap()
                .target
                .is_none()
        );
    }

    #[test]
    fn few_types_may_sleep() {
        assert_eq!(
            check(ProgType::Xdp, AttachType::Xdp, prog_load::SLEEPABLE).unwrap_err(),
            "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable"
        );
        assert_eq!(
            check(ProgType::Syscall, AttachType::Xdp, 0).unwrap_err(),
            "Syscall programs can only be sleepable"
        );
        assert!(check(ProgType::Kprobe, AttachType::Xdp, prog_load::SLEEPABLE).is_ok());
    }

    #[test]
    fn struct_ops_are_gpl() {
        let mut req = LoadRequest::new(ProgType::StructOps, vec![]);
        req.license = "MIT".into();
        assert_eq!(
            check_attach(&req, Effects::default()).unwrap_err().text,
            "struct ops programs must have a GPL compatible license"
        );
    }
}
