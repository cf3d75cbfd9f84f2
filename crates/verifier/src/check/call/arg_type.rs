//! Register types that an argument of a helper takes: the list for each kind, the type of a typed object, the offset a
//! pointer may have.
//!
//! Kernel counterpart: `check_reg_type`, `check_func_arg_reg_off`, `btf_struct_ids_match`. Neighbours: `args`, which asks
//! first for the type and then for what the kind says beyond it.

use alloc::string::String;
use core::fmt::Write;

use ring3_btf::{Kind, TypeId};
use ring3_isa::Reg;
use ring3_spec::{Arg, ArgBase, TypeFlags as ArgFlags};
use ring3_uapi::FuncId;

use super::args::CallMeta;
use crate::check::btf_ptr::mismatch_text;
use crate::check::map_field;
use crate::check::mem::{FixedOffset, check_ptr_off_reg_with};
use crate::check::nullness::is_trusted;
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::log::state::TypeName;
use crate::state::{BtfIdx, RegBase, RegState, RegType, TypeFlags};

const fn plain(base: RegBase) -> RegType {
    RegType::of(base)
}

const BTF: RegType = plain(RegBase::PtrToBtfId);
const TRUSTED: RegType = BTF.with(TypeFlags::PTR_TRUSTED);
const PERCPU: RegType = BTF.with(TypeFlags::MEM_PERCPU);

const MEM_TYPES: &[RegType] = &[
    plain(RegBase::PtrToStack),
    plain(RegBase::PtrToPacket),
    plain(RegBase::PtrToPacketMeta),
    plain(RegBase::PtrToMapKey),
    plain(RegBase::PtrToMapValue),
    plain(RegBase::PtrToMem),
    plain(RegBase::PtrToMem).with(TypeFlags::MEM_RINGBUF),
    plain(RegBase::PtrToBuf),
    TRUSTED,
];
const SOCK_TYPES: &[RegType] = &[
    plain(RegBase::PtrToSockCommon),
    plain(RegBase::PtrToSocket),
    plain(RegBase::PtrToTcpSock),
    plain(RegBase::PtrToXdpSock),
];
const BTF_SOCK_TYPES: &[RegType] = &[
    plain(RegBase::PtrToSockCommon),
    plain(RegBase::PtrToSocket),
    plain(RegBase::PtrToTcpSock),
    plain(RegBase::PtrToXdpSock),
    BTF,
    TRUSTED,
];

macro_rules! type_lists {
    ($($name:ident = [$($ty:expr),*];)*) => {
        $(const $name: &[RegType] = &[$($ty),*];)*
    };
}

type_lists! {
    SCALAR_TYPES = [RegType::SCALAR];
    MAP_PTR_TYPES = [plain(RegBase::ConstPtrToMap)];
    CTX_TYPES = [plain(RegBase::PtrToCtx)];
    SOCKET_TYPES = [plain(RegBase::PtrToSocket)];
    OBJECT_TYPES = [BTF, TRUSTED, BTF.with(TypeFlags::MEM_RCU)];
    LOCK_TYPES = [plain(RegBase::PtrToMapValue), BTF.with(TypeFlags::MEM_ALLOC)];
    RECORD_TYPES = [plain(RegBase::PtrToMem).with(TypeFlags::MEM_RINGBUF)];
    PERCPU_TYPES = [PERCPU, PERCPU.with(TypeFlags::MEM_RCU), PERCPU.with(TypeFlags::PTR_TRUSTED)];
    FUNC_TYPES = [plain(RegBase::PtrToFunc)];
    STACK_TYPES = [plain(RegBase::PtrToStack)];
    VALUE_TYPES = [plain(RegBase::PtrToMapValue)];
    DYNPTR_TYPES = [plain(RegBase::PtrToStack), plain(RegBase::ConstPtrToDynptr)];
    ARENA_TYPES = [plain(RegBase::PtrToArena)];
}

/// Register types that an argument kind takes, in the order in which a message lists them.
pub(crate) const fn compatible_types(base: ArgBase) -> &'static [RegType] {
    match base {
        ArgBase::PtrToMapKey | ArgBase::PtrToMapValue | ArgBase::PtrToMem => MEM_TYPES,
        ArgBase::ConstSize | ArgBase::ConstSizeOrZero | ArgBase::ConstAllocSizeOrZero => {
            SCALAR_TYPES
        }
        ArgBase::ConstMapPtr => MAP_PTR_TYPES,
        ArgBase::PtrToCtx => CTX_TYPES,
        ArgBase::PtrToSockCommon => SOCK_TYPES,
        ArgBase::PtrToBtfIdSockCommon => BTF_SOCK_TYPES,
        ArgBase::PtrToSocket => SOCKET_TYPES,
        ArgBase::PtrToBtfId => OBJECT_TYPES,
        ArgBase::PtrToSpinLock | ArgBase::KptrXchgDest => LOCK_TYPES,
        ArgBase::PtrToRingbufMem => RECORD_TYPES,
        ArgBase::PtrToPercpuBtfId => PERCPU_TYPES,
        ArgBase::PtrToFunc => FUNC_TYPES,
        ArgBase::PtrToStack => STACK_TYPES,
        ArgBase::PtrToConstStr | ArgBase::PtrToTimer => VALUE_TYPES,
        ArgBase::PtrToDynptr => DYNPTR_TYPES,
        ArgBase::PtrToArena => ARENA_TYPES,
        ArgBase::DontCare | ArgBase::Anything => &[],
    }
}

/// The register's type must be one that the argument takes.
pub(super) fn check_reg_type(
    env: &Env<'_>,
    regno: Reg,
    reg: &RegState,
    arg: &Arg,
    meta: &CallMeta,
) -> Check {
    let compatible = compatible_types(arg.base);
    let mut ty = reg.ty;
    if arg.has(ArgFlags::RDONLY) {
        ty = ty.without(TypeFlags::MEM_RDONLY);
    }
    if arg.has(ArgFlags::MAYBE_NULL) {
        ty = ty.without(TypeFlags::PTR_MAYBE_NULL);
    }
    if arg.base == ArgBase::PtrToMem {
        ty = ty.without(DYNPTR_FLAGS);
    }
    let is_xchg = meta.func == Some(FuncId::KptrXchg);
    if is_xchg && ty.has(TypeFlags::MEM_ALLOC) && regno == Reg::R2 {
        ty = ty
            .without(TypeFlags::MEM_ALLOC)
            .without(TypeFlags::MEM_PERCPU);
    }
    if !compatible.contains(&ty) {
        return Err(wrong_type(regno, reg, compatible));
    }
    if reg.ty.base != RegBase::PtrToBtfId {
        return Ok(());
    }
    if compatible.len() == MEM_TYPES.len() && compatible == MEM_TYPES {
        if !arg.has(ArgFlags::RDONLY) {
            reject!(
                EACCES,
                "{}() may write into memory pointed by R{} type={}",
                meta.func_name(),
                regno.number(),
                TypeName(reg.ty)
            );
        }
        return Ok(());
    }
    check_object_type(env, regno, reg, arg, meta)
}

#[cold]
fn wrong_type(regno: Reg, reg: &RegState, compatible: &[RegType]) -> alloc::boxed::Box<Violation> {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "R{} type={} expected=",
        regno.number(),
        TypeName(reg.ty)
    );
    for (i, expected) in compatible.iter().enumerate() {
        let _ = write!(
            text,
            "{}{}",
            if i == 0 { "" } else { ", " },
            TypeName(*expected)
        );
    }
    Violation::new(ring3_uapi::Errno::EACCES, text)
}

/// An object of the kernel's type `wanted` that a function of the program gets.
pub(super) fn check_trusted_object(
    env: &Env<'_>,
    regno: Reg,
    reg: &RegState,
    wanted: TypeId,
    may_be_null: bool,
) -> Check {
    let mut ty = reg.ty;
    if may_be_null {
        ty = ty.without(TypeFlags::PTR_MAYBE_NULL);
    }
    if !OBJECT_TYPES.contains(&ty) {
        return Err(wrong_type(regno, reg, OBJECT_TYPES));
    }
    let Some(kernel) = &env.req.kernel_btf else {
        return Err(Violation::bug("kernel type without kernel BTF"));
    };
    check_ptr_off_reg_with(reg, regno, FixedOffset::Allowed)?;
    check_object_is(env, regno, reg, wanted, kernel.name(wanted), false)
}

const DYNPTR_FLAGS: TypeFlags = TypeFlags(
    TypeFlags::DYNPTR_TYPE_LOCAL.0
        | TypeFlags::DYNPTR_TYPE_RINGBUF.0
        | TypeFlags::DYNPTR_TYPE_SKB.0
        | TypeFlags::DYNPTR_TYPE_XDP.0
        | TypeFlags::DYNPTR_TYPE_SKB_META.0,
);

/// A typed object must be of the type that the argument names.
fn check_object_type(
    env: &Env<'_>,
    regno: Reg,
    reg: &RegState,
    arg: &Arg,
    meta: &CallMeta,
) -> Check {
    // No helper of the kernel asks for it; those of a host application take references.
    if arg.has(ArgFlags::TRUSTED) && !is_trusted(reg) {
        reject!(EINVAL, "R{} must be referenced or trusted", regno.number());
    }
    if reg.ty.has(TypeFlags::MEM_ALLOC) {
        let permitted = matches!(
            meta.func,
            Some(FuncId::SpinLock | FuncId::SpinUnlock | FuncId::KptrXchg)
        );
        if !permitted {
            return Err(Violation::bug("unimplemented handling of MEM_ALLOC"));
        }
        if meta.func == Some(FuncId::KptrXchg) && regno == Reg::R2 {
            return map_field::check_kptr_match(env, reg, regno, meta);
        }
        return Ok(());
    }
    if reg.ty.has(TypeFlags::MEM_PERCPU) {
        // Which per-CPU object it is, the result tells.
        return Ok(());
    }
    if reg.ty.may_be_null() && (!arg.has(ArgFlags::MAYBE_NULL) || arg.has(ArgFlags::RELEASE)) {
        reject!(
            EACCES,
            "Possibly NULL pointer passed to helper arg{}",
            regno.number()
        );
    }
    if meta.func == Some(FuncId::KptrXchg) {
        return map_field::check_kptr_match(env, reg, regno, meta);
    }
    check_ptr_off_reg_with(reg, regno, FixedOffset::Allowed)?;
    let wanted = match arg.base {
        ArgBase::PtrToBtfIdSockCommon => Some("sock_common"),
        _ => arg.btf_type,
    };
    let Some(wanted) = wanted else {
        return Err(Violation::bug("typed argument without type"));
    };
    let Some(kernel) = &env.req.kernel_btf else {
        unjudged!("struct {wanted}: no kernel BTF was given")
    };
    let Some(wanted_id) = kernel.find_by_name_kind(wanted, Kind::Struct) else {
        unjudged!("struct {wanted} is not in the kernel BTF");
    };
    let is_strict = arg.has(ArgFlags::RELEASE) && meta.func != Some(FuncId::SkRelease);
    check_object_is(env, regno, reg, wanted_id, wanted, is_strict)
}

fn check_object_is(
    env: &Env<'_>,
    regno: Reg,
    reg: &RegState,
    wanted_id: TypeId,
    wanted: &str,
    is_strict: bool,
) -> Check {
    let Some((btf_idx, id)) = reg.btf() else {
        return Err(Violation::bug("typed argument without type"));
    };
    let btf = env.facts.btf(btf_idx);
    let matches = btf_idx == BtfIdx(0) && struct_matches(btf, id, reg.off, wanted_id, is_strict);
    if !matches {
        let refusal = alloc::format!(
            "R{} is of type {} but {wanted} is expected",
            regno.number(),
            btf.name(id)
        );
        return Err(
            match mismatch_text(btf, id, reg.off).filter(|_| !is_strict) {
                Some(text) => Violation::new(ring3_uapi::Errno::EACCES, text).and_line(refusal),
                None => Violation::new(ring3_uapi::Errno::EACCES, refusal),
            },
        );
    }
    Ok(())
}

/// Whether a `wanted` is found at `off` in struct `id`: itself, or (unless strict) a struct embedded there
/// (`btf_struct_ids_match`).
pub(crate) fn struct_matches(
    btf: &ring3_btf::Btf,
    id: TypeId,
    off: i32,
    wanted: TypeId,
    is_strict: bool,
) -> bool {
    let Ok(mut off) = u32::try_from(off) else {
        return false;
    };
    let mut id = id;
    // Each step goes into a smaller type; the bound only guards against BTF that is not one.
    for _ in 0..64 {
        if off == 0 && id == wanted {
            return true;
        }
        if is_strict {
            return false;
        }
        let Some(ty) = btf.type_by_id(id) else {
            return false;
        };
        let member = ty.members().find_map(|member| {
            let start = member.byte_offset();
            let inner = btf.skip_mods_and_typedefs(member.ty);
            let size = btf.resolve_size(inner)?;
            (off >= start && off - start < size).then_some((inner, off - start))
        });
        let Some((mut inner, mut rest)) = member else {
            return false;
        };
        while let Some(array) = btf.type_by_id(inner).and_then(|ty| ty.array()) {
            let Some(size) = btf.resolve_size(array.elem).filter(|size| *size != 0) else {
                return false;
            };
            rest %= size;
            inner = btf.skip_mods_and_typedefs(array.elem);
        }
        if !btf.kind(inner).is_some_and(Kind::is_composite) {
            return false;
        }
        (id, off) = (inner, rest);
    }
    false
}

/// Offsets that a pointer may have as this argument: `check_func_arg_reg_off`.
pub(super) fn check_arg_offset(reg: &RegState, regno: Reg, arg: &Arg) -> Check {
    if arg.has(ArgFlags::RELEASE) {
        // The dynptr is only the handle of what is given back.
        if arg.base == ArgBase::PtrToDynptr && reg.ty.is(RegBase::PtrToStack) {
            return Ok(());
        }
        if reg.off != 0 {
            reject!(
                EINVAL,
                "R{} must have zero offset when passed to release func or trusted arg to kfunc",
                regno.number()
            );
        }
        return check_ptr_off_reg_with(reg, regno, FixedOffset::Refused);
    }
    match reg.ty.base {
        RegBase::PtrToStack
        | RegBase::PtrToPacket
        | RegBase::PtrToPacketMeta
        | RegBase::PtrToMapKey
        | RegBase::PtrToMapValue
        | RegBase::PtrToMem
        | RegBase::PtrToBuf
        | RegBase::PtrToArena
        | RegBase::Scalar
            if !reg.ty.may_be_null() =>
        {
            Ok(())
        }
        RegBase::PtrToBtfId if !reg.ty.may_be_null() && !reg.ty.has(TypeFlags::MEM_PERCPU) => {
            check_ptr_off_reg_with(reg, regno, FixedOffset::Allowed)
        }
        _ => check_ptr_off_reg_with(reg, regno, FixedOffset::Refused),
    }
}
