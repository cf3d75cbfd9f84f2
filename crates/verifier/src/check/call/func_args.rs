//! What a global function takes, by its BTF prototype and the declaration tags of its arguments (`arg:ctx`, `arg:trusted`, ...),
//! and what its registers hold when it is checked on its own.
//!
//! Key types: [`FuncArgs`]. Kernel counterpart: `btf_prepare_func_args`, `btf_validate_prog_ctx_type`. Neighbours: `subprog` (calls).

use alloc::sync::Arc;
use alloc::vec::Vec;

use ring3_btf::core_relo::essential_name;
use ring3_btf::{Btf, Kind, Type, TypeId};
use ring3_isa::Reg;
use ring3_spec::ctx::table;
use ring3_uapi::{AttachType, ProgType};

use crate::check::dynptr;
use crate::check::regs::mark_reg_unknown;
use crate::env::{Env, Linkage};
use crate::error::{Check, Violation, reject, unjudged};
use crate::state::{BtfIdx, DynptrType, Extra, RegBase, RegState, RegType, TypeFlags};

/// What a function takes, by its BTF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FuncArgs {
    pub(crate) args: Vec<FuncArg>,
}

/// One argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FuncArg {
    /// A number.
    Scalar,
    Ctx,
    /// A pointer to this many bytes.
    Mem {
        size: u32,
        nullable: bool,
    },
    /// Read-only memory that may not be there.
    UntrustedMem,
    /// An object of this type of the kernel.
    Object {
        id: TypeId,
        trust: Trust,
    },
    Dynptr,
    Arena,
}

/// What a function may rely on of an object it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Trusted,
    TrustedOrNull,
    Untrusted,
}

/// What a function takes, from its BTF; kept after the first time: `btf_prepare_func_args`.
///
/// # Errors
/// EINVAL, EFAULT, ENOTSUPP with the kernel's words; for static functions EINVAL mostly without.
pub(crate) fn prepare_func_args(env: &mut Env<'_>, subprog: u32) -> Check<Arc<FuncArgs>> {
    if let Some(args) = &env.subprog_aux[subprog as usize].args {
        return Ok(args.clone());
    }
    let args = Arc::new(func_args_of(env, subprog)?);
    env.subprog_aux[subprog as usize].args = Some(args.clone());
    Ok(args)
}

fn func_args_of(env: &Env<'_>, subprog: u32) -> Check<FuncArgs> {
    let info = &env.facts.subprogs[subprog as usize];
    let is_global = info.linkage == Linkage::Global;
    let Some(btf) = &env.facts.prog_btf else {
        return Err(Violation::bug("func_info undefined"));
    };
    if info.func_type_id.0 == 0 {
        if !is_global {
            reject!(EINVAL);
        }
        reject!(EFAULT, "Global functions need valid BTF");
    }
    let Some(func) = btf
        .type_by_id(info.func_type_id)
        .filter(|ty| ty.kind() == Kind::Func)
    else {
        reject!(EFAULT, "BTF of func#{subprog} doesn't point to KIND_FUNC");
    };
    let name = func.name();
    let Some(proto) = func.referent().filter(|ty| ty.kind() == Kind::FuncProto) else {
        reject!(EFAULT, "Invalid type of function {name}()");
    };
    let count = proto.params().len();
    if count > ring3_uapi::limits::FUNC_REG_ARGS_MAX {
        if !is_global {
            reject!(EINVAL);
        }
        reject!(
            EINVAL,
            "Global function {name}() with {count} > 5 args. Buggy compiler."
        );
    }
    if !btf.stripped(proto.type_id()).is_some_and(is_number) {
        if !is_global {
            reject!(EINVAL);
        }
        reject!(
            EINVAL,
            "Global function {name}() doesn't return scalar. Only those are supported."
        );
    }
    let mut args = Vec::new();
    for (index, param) in proto.params().enumerate() {
        args.push(func_arg_of(env, btf, &func, index, param.ty, is_global)?);
    }
    Ok(FuncArgs { args })
}

fn is_number(ty: Type<'_>) -> bool {
    ty.kind() == Kind::Int || ty.kind().is_any_enum()
}

/// Declaration tags `arg:...` of an argument.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Tags(u8);

impl Tags {
    const CTX: u8 = 1;
    const NONNULL: u8 = 2;
    const TRUSTED: u8 = 4;
    const UNTRUSTED: u8 = 8;
    const NULLABLE: u8 = 16;
    const ARENA: u8 = 32;

    fn has(self, tag: u8) -> bool {
        self.0 & tag != 0
    }
}

fn arg_tags(btf: &Btf, func: &Type<'_>, index: usize, is_global: bool) -> Check<Tags> {
    let mut tags = Tags::default();
    for tag in btf.decl_tags(func.id(), index as i32) {
        let Some(tag) = tag.strip_prefix("arg:") else {
            continue;
        };
        if !is_global {
            reject!(
                EOPNOTSUPP,
                "arg#{index} type tag is not supported in static functions"
            );
        }
        tags.0 |= match tag {
            "ctx" => Tags::CTX,
            "trusted" => Tags::TRUSTED,
            "untrusted" => Tags::UNTRUSTED,
            "nonnull" => Tags::NONNULL,
            "nullable" => Tags::NULLABLE,
            "arena" => Tags::ARENA,
            _ => reject!(EOPNOTSUPP, "arg#{index} has unsupported set of tags"),
        };
    }
    Ok(tags)
}

fn func_arg_of(
    env: &Env<'_>,
    btf: &Btf,
    func: &Type<'_>,
    index: usize,
    ty: TypeId,
    is_global: bool,
) -> Check<FuncArg> {
    let tags = arg_tags(btf, func, index, is_global)?;
    let Some(ty) = btf.stripped(ty) else {
        reject!(EINVAL)
    };
    if ty.kind() != Kind::Ptr {
        if tags != Tags::default() {
            reject!(
                EINVAL,
                "arg#{index} has pointer tag, but is not a pointer type"
            );
        }
        if is_number(ty) {
            return Ok(FuncArg::Scalar);
        }
        if !is_global {
            reject!(EINVAL);
        }
        reject!(
            EINVAL,
            "Arg#{index} type {} in {}() is not supported yet.",
            ty.kind().name(),
            func.name()
        );
    }
    let is_ctx = is_prog_ctx_type(env, btf, &ty);
    if tags.has(Tags::CTX) || is_ctx {
        if tags.0 & !Tags::CTX != 0 {
            return Err(bad_tags(index));
        }
        if tags.has(Tags::CTX) {
            check_tagged_ctx(env, btf, &ty, index)?;
        }
        return Ok(FuncArg::Ctx);
    }
    let target = btf.stripped(ty.type_id());
    if target.is_some_and(|t| t.kind() == Kind::Struct && t.name() == "bpf_dynptr") {
        if tags != Tags::default() {
            return Err(bad_tags(index));
        }
        return Ok(FuncArg::Dynptr);
    }
    if tags.has(Tags::TRUSTED) {
        if tags.has(Tags::NONNULL) {
            return Err(bad_tags(index));
        }
        let trust = if tags.has(Tags::NULLABLE) {
            Trust::TrustedOrNull
        } else {
            Trust::Trusted
        };
        let id = kernel_type_of(env, btf, &ty, index)?;
        return Ok(FuncArg::Object { id, trust });
    }
    if tags.has(Tags::UNTRUSTED) {
        if tags.0 != Tags::UNTRUSTED {
            reject!(
                EINVAL,
                "arg#{index} untrusted cannot be combined with any other tags"
            );
        }
        if target.is_none_or(|t| t.kind() == Kind::Void || is_number(t)) {
            return Ok(FuncArg::UntrustedMem);
        }
        let id = kernel_type_of(env, btf, &ty, index)?;
        return Ok(FuncArg::Object {
            id,
            trust: Trust::Untrusted,
        });
    }
    if tags.has(Tags::ARENA) {
        if tags.0 & !Tags::ARENA != 0 {
            reject!(
                EINVAL,
                "arg#{index} arena cannot be combined with any other tags"
            );
        }
        return Ok(FuncArg::Arena);
    }
    if !is_global {
        if tags != Tags::default() {
            reject!(
                EINVAL,
                "arg#{index} has pointer tag, but is not a pointer type"
            );
        }
        reject!(EINVAL);
    }
    if tags.has(Tags::NULLABLE) {
        return Err(bad_tags(index));
    }
    let stripped = btf.skip_mods_and_typedefs(ty.type_id());
    let Some(size) = btf.resolve_size(stripped) else {
        let (kind, name) = btf
            .type_by_id(stripped)
            .map_or(("UNKNOWN", ""), |t| (t.kind().name(), t.name()));
        reject!(
            EINVAL,
            "arg#{index} reference type('{kind} {name}') size cannot be determined: -22"
        );
    };
    Ok(FuncArg::Mem {
        size,
        nullable: !tags.has(Tags::NONNULL),
    })
}

#[cold]
fn bad_tags(index: usize) -> alloc::boxed::Box<Violation> {
    Violation::new(
        ring3_uapi::Errno::EINVAL,
        alloc::format!("arg#{index} has invalid combination of tags"),
    )
}

/// The kernel's type that a pointer of the program refers to, by name: `btf_get_ptr_to_btf_id`.
fn kernel_type_of(env: &Env<'_>, btf: &Btf, ptr: &Type<'_>, index: usize) -> Check<TypeId> {
    let Some(local) = btf
        .stripped(ptr.type_id())
        .filter(|t| t.kind() != Kind::Void)
    else {
        reject!(EINVAL)
    };
    let (kind, name) = (local.kind().name(), essential_name(local.name()));
    if name.is_empty() {
        reject!(
            EINVAL,
            "arg#{index} reference type('{kind} (anon)') candidate matching error: -22"
        );
    }
    let Some(kernel) = &env.req.kernel_btf else {
        unjudged!("{kind} {name}: no kernel BTF was given")
    };
    let mut found = kernel
        .ids_by_name(name)
        .filter(|id| kernel.kind(*id) == Some(local.kind()));
    match (found.next(), found.next()) {
        (None, _) => reject!(
            ENOENT,
            "arg#{index} reference type('{kind} {}') has no matches",
            local.name()
        ),
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => unjudged!("{kind} {name}, of which the kernel has several"),
    }
}

/// Names of context types other than the one of `ctx::table`.
fn canonical_ctx(env: &Env<'_>) -> Option<&'static str> {
    match env.facts.attach.prog_type {
        ProgType::RawTracepoint | ProgType::RawTracepointWritable => {
            Some("bpf_raw_tracepoint_args")
        }
        ProgType::PerfEvent => Some("bpf_perf_event_data"),
        ProgType::Kprobe => Some("pt_regs"),
        prog_type => table(env.registry.prog_type(prog_type).ctx)
            .map(|table| table.uapi_struct)
            .filter(|name| !name.is_empty()),
    }
}

/// An argument tagged as context must be of a type that the program's context has: `btf_validate_prog_ctx_type`.
fn check_tagged_ctx(env: &Env<'_>, btf: &Btf, ptr: &Type<'_>, index: usize) -> Check {
    let attach = &env.facts.attach;
    let attach_type = AttachType::from_raw(attach.expected_attach_type);
    let target = btf.stripped(ptr.type_id());
    let Some(target) = target.filter(|t| t.kind() != Kind::Void) else {
        return Ok(());
    };
    let typedef = btf
        .type_by_id(btf.skip_mods(ptr.type_id()))
        .filter(|t| t.kind() == Kind::Typedef)
        .map_or("", |t| t.name());
    let struct_name = if target.kind() == Kind::Struct {
        target.name()
    } else {
        ""
    };
    let is_u64 = target.kind() == Kind::Int && target.size() == 8;
    let fits = match attach.prog_type {
        ProgType::Kprobe => typedef == "bpf_user_pt_regs_t" || struct_name == "pt_regs",
        ProgType::PerfEvent => struct_name == "pt_regs",
        ProgType::RawTracepoint | ProgType::RawTracepointWritable => is_u64,
        ProgType::Tracing => match attach_type {
            Some(AttachType::TraceRawTp) => is_u64 || struct_name == "bpf_raw_tracepoint_args",
            Some(AttachType::TraceIter) => struct_name.starts_with("bpf_iter__"),
            Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn) => {
                is_u64
            }
            _ => false,
        },
        ProgType::Lsm | ProgType::StructOps => is_u64,
        ProgType::Tracepoint | ProgType::Syscall | ProgType::Ext => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    match canonical_ctx(env) {
        None => reject!(EINVAL, "arg#{index} should be void pointer"),
        Some(name) if name == struct_name => Ok(()),
        Some(name) => reject!(EINVAL, "arg#{index} should be `struct {name} *`"),
    }
}

/// Whether a pointer type is the context of the program's type, by name: `btf_is_prog_ctx_type`.
pub(super) fn is_prog_ctx_type(env: &Env<'_>, btf: &Btf, ptr: &Type<'_>) -> bool {
    let prog_type = env.facts.attach.prog_type;
    if prog_type == ProgType::Kprobe
        && btf
            .type_by_id(btf.skip_mods(ptr.type_id()))
            .is_some_and(|t| t.kind() == Kind::Typedef && t.name() == "bpf_user_pt_regs_t")
    {
        return true;
    }
    let Some(target) = btf
        .stripped(ptr.type_id())
        .filter(|t| t.kind() == Kind::Struct)
    else {
        return false;
    };
    let name = target.name();
    let Some(expected) = table(env.registry.prog_type(prog_type).ctx).map(|t| t.uapi_struct) else {
        return false;
    };
    if expected.is_empty() || name.is_empty() {
        return false;
    }
    // The kernel's own struct of the same data is taken for the program's view of it.
    expected == name
        || matches!(
            (expected, name),
            ("__sk_buff", "sk_buff") | ("xdp_md", "xdp_buff")
        )
}

/// Registers at the entry of a global function: the arguments its prototype promises.
pub(crate) fn set_global_args(env: &mut Env<'_>, args: &FuncArgs) -> Check {
    for (index, arg) in args.args.iter().enumerate() {
        let Some(reg) = Reg::new(index as u8 + 1) else {
            break;
        };
        let id = match *arg {
            FuncArg::Mem { nullable: true, .. } => env.new_id(),
            _ => 0,
        };
        let state = match *arg {
            FuncArg::Scalar | FuncArg::Arena => {
                mark_reg_unknown(env, reg);
                continue;
            }
            FuncArg::Ctx => RegState::pointer(RegType::CTX, Extra::None),
            FuncArg::Mem { size, nullable } => {
                let flags = if nullable {
                    TypeFlags::PTR_MAYBE_NULL
                } else {
                    TypeFlags::NONE
                };
                let ty = RegType::of(RegBase::PtrToMem).with(flags);
                RegState {
                    id,
                    ..RegState::pointer(ty, Extra::Mem { size, dynptr_id: 0 })
                }
            }
            FuncArg::UntrustedMem => RegState::pointer(
                RegType::of(RegBase::PtrToMem)
                    .with(TypeFlags::MEM_RDONLY)
                    .with(TypeFlags::PTR_UNTRUSTED),
                Extra::Mem {
                    size: 0,
                    dynptr_id: 0,
                },
            ),
            FuncArg::Object { id: type_id, trust } => {
                let flags = match trust {
                    Trust::Trusted => TypeFlags::PTR_TRUSTED,
                    Trust::TrustedOrNull => TypeFlags::PTR_TRUSTED.with(TypeFlags::PTR_MAYBE_NULL),
                    Trust::Untrusted => TypeFlags::PTR_UNTRUSTED,
                };
                let ty = RegType::of(RegBase::PtrToBtfId).with(flags);
                let extra = Extra::Btf {
                    btf: BtfIdx(0),
                    id: type_id,
                };
                RegState {
                    id: env.new_id(),
                    ..RegState::pointer(ty, extra)
                }
            }
            FuncArg::Dynptr => dynptr::const_dynptr(env, DynptrType::Local),
        };
        *env.cur.reg_mut(reg) = state;
    }
    Ok(())
}
