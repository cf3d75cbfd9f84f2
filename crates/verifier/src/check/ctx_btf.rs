//! Contexts typed by BTF: the arguments of the function, tracepoint, iterator or struct_ops member that the program
//! attaches to, each in 8 bytes, and for some the function's result behind them.
//!
//! Kernel counterpart: `btf_ctx_access`. Neighbours: `ctx`, `attach` (what the program attaches to).

use ring3_btf::{Btf, Kind, Type, TypeId};
use ring3_spec::ctx::table;
use ring3_uapi::{AttachType, ProgType};

use super::ctx::CtxField;
use super::mem::{Access, MemAccess};
use crate::env::Env;
use crate::error::{Check, Violation, unjudged};
use crate::log::vlog;
use crate::state::{BtfIdx, Extra, RegBase, RegType, TypeFlags};

/// Most arguments a context can have.
const ARGS_MAX: u32 = 12;
/// Arguments of a function whose BTF is not trusted: all are numbers.
const UNTYPED_ARGS: usize = 5;

/// What an iterator's argument at an offset is, beyond its BTF type.
#[derive(Clone, Copy, Debug)]
enum IterArg {
    /// A trusted object, NULL at the end of the iteration.
    Object,
    /// As `Object`, but without trust.
    Untrusted,
    /// Bytes of a size that the attached map tells, NULL at the end.
    Buf,
    /// As `Buf`, read-only.
    RdonlyBuf,
}

/// Typed arguments of iterators: target, offset in the context, kind.
///
/// # Source
/// First loads of the fields by iterator programs on Linux 6.18.
const ITER_ARGS: &[(&str, u32, IterArg)] = &[
    ("bpf_link", 8, IterArg::Untrusted),
    ("bpf_map", 8, IterArg::Object),
    ("bpf_map_elem", 16, IterArg::RdonlyBuf),
    ("bpf_map_elem", 24, IterArg::Buf),
    ("bpf_prog", 8, IterArg::Untrusted),
    ("bpf_sk_storage_map", 16, IterArg::Untrusted),
    ("bpf_sk_storage_map", 24, IterArg::Buf),
    ("cgroup", 8, IterArg::Object),
    ("dmabuf", 8, IterArg::Untrusted),
    ("ipv6_route", 8, IterArg::Untrusted),
    ("kmem_cache", 8, IterArg::Object),
    ("ksym", 8, IterArg::Untrusted),
    ("netlink", 8, IterArg::Untrusted),
    ("sockmap", 16, IterArg::RdonlyBuf),
    ("sockmap", 24, IterArg::Untrusted),
    ("task", 8, IterArg::Object),
    ("task_file", 8, IterArg::Untrusted),
    ("task_file", 24, IterArg::Untrusted),
    ("task_vma", 8, IterArg::Untrusted),
    ("task_vma", 16, IterArg::Untrusted),
    ("tcp", 8, IterArg::Object),
    ("udp", 8, IterArg::Object),
    ("unix", 8, IterArg::Untrusted),
];

/// What the context holds at `off`; none if the program may not access it.
pub(crate) fn find_argument(
    env: &mut Env<'_>,
    off: i32,
    access: MemAccess,
) -> Check<Option<CtxField>> {
    let bytes = access.size.bytes() as u32;
    let Some(off) = u32::try_from(off).ok().filter(|off| *off < ARGS_MAX * 8) else {
        return Ok(None);
    };
    if access.access == Access::Write || !off.is_multiple_of(bytes) {
        return Ok(None);
    }
    let facts = env.facts;
    let Some(target) = &facts.attach.target else {
        unjudged!("context of a program without target")
    };
    let btf = &target.btf;
    let name = target.name.as_str();
    if !off.is_multiple_of(8) {
        vlog!(env.log, "func '{name}' offset {off} is not multiple of 8\n");
        return Ok(None);
    }
    let proto = target.proto.and_then(|proto| btf.type_by_id(proto));
    let skipped = usize::from(target.is_tracepoint);
    let params = proto.map(|proto| proto.params().skip(skipped));
    let count = params.clone().map_or(UNTYPED_ARGS, |params| params.len());
    // The place is counted over all parameters, those that the program does not get included.
    let index = argument_index(btf, proto.map(|proto| proto.params()), off);
    let attach_type = AttachType::from_raw(facts.attach.expected_attach_type);
    if index > count {
        vlog!(
            env.log,
            "func '{name}' doesn't have {}-th argument\n",
            index + 1
        );
        return Ok(None);
    }
    let is_result = index == count;
    let mut field = CtxField::SCALAR;
    let mut ty = if is_result {
        match attach_type {
            Some(
                AttachType::LsmMac
                | AttachType::LsmCgroup
                | AttachType::TraceFexit
                | AttachType::ModifyReturn,
            ) if facts.attach.prog_type != ProgType::StructOps => {}
            _ => {
                vlog!(
                    env.log,
                    "func '{name}' doesn't have {}-th argument\n",
                    index + 1
                );
                return Ok(None);
            }
        }
        if attach_type == Some(AttachType::LsmMac) {
            field.range = result_range(proto, btf, name);
        }
        match proto {
            Some(proto) => proto.type_id(),
            None if attach_type == Some(AttachType::ModifyReturn) => return Ok(None),
            None => return Ok(Some(field)),
        }
    } else {
        match params.and_then(|mut params| params.nth(index)) {
            Some(param) => param.ty,
            None => return Ok(Some(field)),
        }
    };
    ty = btf.skip_mods(ty);
    if is_number(btf, ty) {
        return Ok(Some(field));
    }
    let Some(pointer) = btf.stripped(ty).filter(|ty| ty.kind() == Kind::Ptr) else {
        let (text, kind) = (btf.name(ty), btf.kind(ty).map_or("VOID", Kind::name));
        vlog!(
            env.log,
            "func '{name}' arg{index} '{text}' has type {kind}. Only pointer access is allowed\n"
        );
        return Ok(None);
    };
    if bytes != 8 {
        vlog!(env.log, "func '{name}' size {bytes} must be 8\n");
        return Ok(None);
    }
    let btf_idx = facts.btfs.iter().position(|other| other.is_same(btf));
    let Some(btf_idx) = btf_idx else {
        return Err(Violation::bug("target BTF"));
    };
    let btf_idx = BtfIdx(btf_idx as u16);
    let iter_arg = name
        .strip_prefix("bpf_iter_")
        .filter(|_| attach_type == Some(AttachType::TraceIter))
        .and_then(|iter| {
            ITER_ARGS
                .iter()
                .find(|(other, at, _)| *other == iter && *at == off)
                .map(|(_, _, arg)| *arg)
        });
    let null = TypeFlags::PTR_MAYBE_NULL;
    match iter_arg {
        Some(IterArg::Buf) => {
            field.pointer = Some((RegType::of(RegBase::PtrToBuf).with(null), Extra::None));
            return Ok(Some(field));
        }
        Some(IterArg::RdonlyBuf) => {
            let flags = null.with(TypeFlags::MEM_RDONLY);
            field.pointer = Some((RegType::of(RegBase::PtrToBuf).with(flags), Extra::None));
            return Ok(Some(field));
        }
        Some(IterArg::Object | IterArg::Untrusted) | None => {}
    }
    let pointee = pointer.type_id();
    let object = btf.skip_mods_and_typedefs(pointee);
    if !btf.kind(object).is_some_and(Kind::is_composite) {
        // Pointers to anything else are numbers to the program.
        return Ok(Some(field));
    }
    if let Some(prog_type) = target.prog_type {
        // Of a program's arguments only its context is an object: the kernel's structure behind it.
        field.pointer = kernel_ctx(env, prog_type, btf.name(object))?;
        return Ok(field.pointer.map(|_| field));
    }
    let mut flags = TypeFlags::NONE;
    match iter_arg {
        Some(IterArg::Object) => flags = null.with(TypeFlags::PTR_TRUSTED),
        Some(IterArg::Untrusted) => flags = null,
        Some(IterArg::Buf | IterArg::RdonlyBuf) | None => {
            if arguments_are_trusted(facts.attach.prog_type, attach_type, name) {
                flags = flags.with(TypeFlags::PTR_TRUSTED);
            }
            flags = flags.with(stub_flags(env, index)?);
            if let Some(tag) = btf
                .type_by_id(pointee)
                .filter(|ty| ty.kind() == Kind::TypeTag && !ty.kind_flag())
            {
                match tag.name() {
                    "user" => flags = flags.with(TypeFlags::MEM_USER),
                    "percpu" => flags = flags.with(TypeFlags::MEM_PERCPU),
                    _ => {}
                }
            }
            vlog!(
                env.log,
                "func '{name}' arg{index} has btf_id {} type {} '{}'\n",
                object.0,
                btf.kind(object).map_or("", Kind::name),
                btf.name(object)
            );
        }
    }
    // Congestion control only ever sees TCP sockets.
    let is_tcp_ops = facts.attach.prog_type == ProgType::StructOps
        && btf.name(env.req.attach_btf_id) == "tcp_congestion_ops";
    let id = match btf.find_by_name_kind("tcp_sock", Kind::Struct) {
        Some(tcp_sock) if is_tcp_ops && btf.name(object) == "sock" => tcp_sock,
        _ => object,
    };
    field.pointer = Some((
        RegType::of(RegBase::PtrToBtfId).with(flags),
        facts.object(btf_idx, id),
    ));
    Ok(Some(field))
}

/// What the stub of a struct_ops member says of an argument by its name: it may be NULL.
fn stub_flags(env: &Env<'_>, index: usize) -> Check<TypeFlags> {
    let attach = &env.facts.attach;
    let Some(target) = attach
        .target
        .as_ref()
        .filter(|_| attach.prog_type == ProgType::StructOps)
    else {
        return Ok(TypeFlags::NONE);
    };
    let ops = target.btf.name(env.req.attach_btf_id);
    let stub = alloc::format!("{ops}__{}", target.name);
    let func = target
        .btf
        .find_by_name_kind(&stub, Kind::Func)
        .and_then(|id| target.btf.type_by_id(id)?.referent());
    let Some(param) = func.and_then(|proto| proto.params().nth(index)) else {
        return Ok(TypeFlags::NONE);
    };
    if param.name().ends_with("__ref") {
        unjudged!("an argument that comes with a reference");
    }
    Ok(if param.name().ends_with("__nullable") {
        TypeFlags::PTR_MAYBE_NULL
    } else {
        TypeFlags::NONE
    })
}

/// The kernel's structure of the context of a program type, if `name` is that context; without it, no access.
fn kernel_ctx(env: &Env<'_>, prog_type: ProgType, name: &str) -> Check<Option<(RegType, Extra)>> {
    let Some(ctx) = table(env.registry.prog_type(prog_type).ctx)
        .filter(|ctx| ctx.uapi_struct == name && !ctx.kernel_struct.is_empty())
    else {
        return Ok(None);
    };
    let kernel = env.req.kernel_btf.as_ref();
    let Some(id) = kernel.and_then(|btf| btf.find_by_name_kind(ctx.kernel_struct, Kind::Struct))
    else {
        unjudged!(
            "struct {} of the kernel: no kernel BTF was given",
            ctx.kernel_struct
        )
    };
    Ok(Some((
        RegType::of(RegBase::PtrToBtfId),
        Extra::Btf { btf: BtfIdx(0), id },
    )))
}

/// The argument that 8 bytes belong to: a struct passed by value may take two places.
fn argument_index<'t>(
    btf: &Btf,
    params: Option<impl Iterator<Item = ring3_btf::Param<'t>>>,
    off: u32,
) -> usize {
    let Some(params) = params else {
        return (off / 8) as usize;
    };
    let mut end = 0u32;
    let mut count = 0;
    for param in params {
        let size = btf.resolve_size(param.ty).unwrap_or(8).max(1);
        end = end.saturating_add(size.next_multiple_of(8));
        if off < end {
            return count;
        }
        count += 1;
    }
    // The result has 8 bytes of its own.
    if off < end.saturating_add(8) {
        count
    } else {
        count + 1
    }
}

/// Integers of up to 8 bytes, enumerations, and structs passed by value.
fn is_number(btf: &Btf, id: TypeId) -> bool {
    let Some(ty) = btf.stripped(id) else {
        return false;
    };
    match ty.kind() {
        Kind::Int => ty.size() <= 8,
        kind => kind.is_any_enum() || kind == Kind::Struct,
    }
}

/// Bounds of what a security hook returns, as another of its programs sees it.
fn result_range(proto: Option<Type<'_>>, btf: &Btf, name: &str) -> Option<(i32, i32)> {
    let returns = proto.map(|proto| btf.skip_mods_and_typedefs(proto.type_id()))?;
    if returns.is_void() {
        return None;
    }
    match name.strip_prefix("bpf_lsm_") {
        Some(
            "inode_need_killpriv"
            | "getprocattr"
            | "setprocattr"
            | "ismaclabel"
            | "audit_rule_match",
        ) => None,
        _ => Some((-4095, 0)),
    }
}

/// Objects among the arguments are alive for the program's run, and may be handed to kernel functions.
fn arguments_are_trusted(prog_type: ProgType, attach_type: Option<AttachType>, name: &str) -> bool {
    match prog_type {
        ProgType::Tracing => matches!(
            attach_type,
            Some(AttachType::TraceRawTp | AttachType::TraceIter)
        ),
        ProgType::Lsm => !UNTRUSTED_HOOKS.contains(&name),
        ProgType::StructOps => true,
        _ => false,
    }
}

/// Security hooks that run while their objects come or go.
const UNTRUSTED_HOOKS: &[&str] = &[
    "bpf_lsm_bpf_map_free",
    "bpf_lsm_bpf_prog_free",
    "bpf_lsm_file_alloc_security",
    "bpf_lsm_file_free_security",
    "bpf_lsm_sk_alloc_security",
    "bpf_lsm_sk_free_security",
    "bpf_lsm_task_free",
];
