//! Access through pointers to typed objects: which member is at an offset, and what a loaded pointer is worth.
//!
//! [`walk`] goes down the type: structs and unions inside of structs, elements of arrays. It ends at a number, at a pointer to a
//! struct (which stays typed), or at another pointer (memory that can only be read by probing). How much a loaded
//! pointer is trusted depends on what it was loaded through, on RCU, and on lists of members the kernel keeps for it
//! (types named `T__safe_trusted`, `T__safe_rcu`, ... in its BTF).
//!
//! Kernel counterpart: `check_ptr_to_btf_access`, `btf_struct_access`. Neighbours: `mem`, `nullness`.

use ring3_btf::{Btf, Kind, TypeId};
use ring3_isa::Reg;
use ring3_uapi::ProgType;

use super::mem::{Access, TnumText};
use super::nullness::is_trusted;
use super::regs::mark_reg_unknown;
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::state::{BtfIdx, Extra, RegBase, RegState, RegType, TypeFlags};

/// Flags of pointers the program may rely on. Source: `BPF_REG_TRUSTED_MODIFIERS` and `MEM_RCU`.
const TRUSTED_FLAGS: TypeFlags = TypeFlags(
    TypeFlags::MEM_ALLOC.0
        | TypeFlags::PTR_TRUSTED.0
        | TypeFlags::NON_OWN_REF.0
        | TypeFlags::MEM_RCU.0,
);

/// What is at an offset of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Number,
    /// A pointer to a struct: its type, flags by tags and unions, and the member's name.
    Pointer {
        id: TypeId,
        flags: TypeFlags,
        field: &'a str,
    },
    /// A pointer to something else.
    OtherPointer,
}

/// The member of type `id` that `size` bytes at `off` are: `btf_struct_walk` until it ends.
///
/// # Errors
/// EACCES, EINVAL, EFAULT with the kernel's words: no such member, or not all of it.
pub(crate) fn walk(btf: &Btf, id: TypeId, off: u32, size: u32) -> Check<Found<'_>> {
    let mut off = u64::from(off);
    let size = u64::from(size);
    let mut id = id;
    let mut flags = TypeFlags::NONE;
    // Each round goes into a smaller type, or into an element of a flexible array.
    'again: for _ in 0..64 {
        let Some(ty) = btf.stripped(id) else {
            reject!(EINVAL)
        };
        let name = shown(ty.name());
        if !ty.kind().is_composite() {
            reject!(EINVAL, "Type '{name}' is not a struct");
        }
        if ty.kind() == Kind::Union && ty.vlen() != 1 {
            flags = flags.with(TypeFlags::PTR_UNTRUSTED);
        }
        if off + size > u64::from(ty.size()) {
            let flexible = ty.members().next_back().and_then(|member| {
                let array = btf.stripped(member.ty)?.array()?;
                (array.nelems == 0 && off >= u64::from(member.byte_offset()))
                    .then_some((member, array))
            });
            let element =
                flexible.and_then(|(member, array)| Some((member, btf.stripped(array.elem)?)));
            match element {
                Some((_, elem)) if elem.kind() == Kind::Int => return Ok(Found::Number),
                Some((member, elem)) if elem.kind().is_composite() && elem.size() != 0 => {
                    off = (off - u64::from(member.byte_offset())) % u64::from(elem.size());
                    id = elem.id();
                    continue 'again;
                }
                _ => reject!(
                    EACCES,
                    "access beyond struct {name} at off {off} size {size}"
                ),
            }
        }
        for member in ty.members() {
            let mut moff = u64::from(member.byte_offset());
            if off + size <= moff {
                break;
            }
            if member.bitfield_bits != 0 {
                let end =
                    (u64::from(member.bit_offset) + u64::from(member.bitfield_bits)).div_ceil(8);
                if off <= moff && end <= off + size {
                    return Ok(Found::Number);
                }
                continue;
            }
            if off < moff {
                break;
            }
            let Some((element, msize, count)) = resolve(btf, member.ty) else {
                reject!(EFAULT, "field {} doesn't have size", shown(member.name()));
            };
            let end = moff + msize;
            if off >= end {
                continue;
            }
            let mut element_size = msize;
            if let Some(count) = count {
                if msize == 0 || count == 0 {
                    continue;
                }
                element_size = msize / count;
                if element_size == 0 {
                    continue;
                }
                moff += (off - moff) / element_size * element_size;
            }
            let Some(mtype) = btf.type_by_id(element) else {
                reject!(EINVAL)
            };
            if mtype.kind().is_composite() {
                off -= moff;
                id = element;
                continue 'again;
            }
            if mtype.kind() == Kind::Ptr {
                if element_size != size || off != moff {
                    reject!(
                        EACCES,
                        "cannot access ptr member {} with moff {moff} in struct {name} with off {off} size {size}",
                        shown(member.name())
                    );
                }
                let target = mtype.type_id();
                let tag = btf
                    .type_by_id(target)
                    .filter(|ty| ty.kind() == Kind::TypeTag && !ty.kind_flag());
                let tag_flags = match tag.map(|tag| tag.name()) {
                    Some("user") => TypeFlags::MEM_USER,
                    Some("percpu") => TypeFlags::MEM_PERCPU,
                    Some("rcu") => TypeFlags::MEM_RCU,
                    _ => TypeFlags::NONE,
                };
                let struct_id = btf.skip_mods_and_typedefs(target);
                if btf.kind(struct_id).is_some_and(Kind::is_composite) {
                    return Ok(Found::Pointer {
                        id: struct_id,
                        flags: flags.with(tag_flags),
                        field: member.name(),
                    });
                }
                return Ok(Found::OtherPointer);
            }
            if off + size > end && !flags.has(TypeFlags::PTR_UNTRUSTED) {
                reject!(
                    EACCES,
                    "access beyond the end of member {} (mend:{end}) in struct {name} with off {off} size {size}",
                    shown(member.name())
                );
            }
            return Ok(Found::Number);
        }
        reject!(
            EINVAL,
            "struct {name} doesn't have field at offset {}",
            off as i32
        );
    }
    Err(Violation::unjudged("a type nested deeper than 64 levels"))
}

/// What is said of an object that does not match another type: why the walk down to the place failed, if it did.
pub(crate) fn mismatch_text(btf: &Btf, id: TypeId, off: i32) -> Option<alloc::string::String> {
    let violation = walk(btf, id, u32::try_from(off).ok()?, 1).err()?;
    Some(violation.text).filter(|text| !text.is_empty())
}

/// Names as the kernel prints them.
fn shown(name: &str) -> &str {
    if name.is_empty() { "(anon)" } else { name }
}

/// The element type behind arrays, the size of the whole, and for arrays the number of elements of all dimensions.
fn resolve(btf: &Btf, id: TypeId) -> Option<(TypeId, u64, Option<u64>)> {
    let mut count: Option<u64> = None;
    let mut id = btf.skip_mods_and_typedefs(id);
    for _ in 0..32 {
        let ty = btf.type_by_id(id)?;
        let Some(array) = ty.array() else {
            let size = u64::from(btf.resolve_size(id)?);
            return Some((id, size.checked_mul(count.unwrap_or(1))?, count));
        };
        count = Some(count.unwrap_or(1).checked_mul(u64::from(array.nelems))?);
        id = btf.skip_mods_and_typedefs(array.elem);
    }
    None
}

/// An access through a pointer to a typed object: `check_ptr_to_btf_access`.
pub(crate) fn check_btf_access(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    access: Access,
    value: Option<Reg>,
) -> Check {
    let facts = env.facts;
    let number = base.number();
    let Some((btf_idx, id)) = reg.btf() else {
        return Err(Violation::bug("typed pointer without type"));
    };
    let btf = facts.btf(btf_idx);
    let name = btf.name(id);
    let is_kernel = env
        .req
        .kernel_btf
        .as_ref()
        .is_some_and(|kernel| kernel.is_same(btf))
        || btf.base().is_some();
    if !env.permits.allow_ptr_leaks {
        reject!(
            EPERM,
            "'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN"
        );
    }
    // The licence is the kernel's condition; a host application's objects are its own.
    let is_host = matches!(facts.attach.prog_type, ProgType::Custom(_));
    if !facts.gpl_compatible && is_kernel && !is_host {
        reject!(
            EINVAL,
            "Cannot access kernel 'struct {name}' from non-GPL compatible program"
        );
    }
    if off < 0 {
        reject!(
            EACCES,
            "R{number} is ptr_{name} invalid negative access: off={off}"
        );
    }
    if reg.scalar.const_value() != Some(0) {
        reject!(
            EACCES,
            "R{number} is ptr_{name} invalid variable offset: off={off}, var_off={}",
            TnumText(reg.scalar.var_off)
        );
    }
    if reg.ty.has(TypeFlags::MEM_USER) {
        reject!(
            EACCES,
            "R{number} is ptr_{name} access user memory: off={off}"
        );
    }
    if reg.ty.has(TypeFlags::MEM_PERCPU) {
        reject!(
            EACCES,
            "R{number} is ptr_{name} access percpu memory: off={off}"
        );
    }
    if reg.ty.is_ptr_alloc_obj() {
        let is_held =
            reg.ref_obj_id != 0 || reg.ty.has(TypeFlags::MEM_RCU) || reg.ty.is_non_owning_ref();
        if !is_held {
            return Err(Violation::bug(
                "ref_obj_id for allocated object must be non-zero",
            ));
        }
        super::alloc_obj::check_special_fields(env, reg, off, size)?;
        walk(btf, id, off as u32, size as u32)?;
        // Pointers in it are the program's own numbers.
        if let Some(value) = value.filter(|_| access == Access::Read) {
            mark_reg_unknown(env, value);
        }
        return Ok(());
    }
    if access == Access::Write {
        return super::kernel_store::check_store(env, btf, id, off as u32, size as u32);
    }
    let found = walk(btf, id, off as u32, size as u32)?;
    let Some(value) = value else { return Ok(()) };
    load(env, reg, btf_idx, btf, id, found, value);
    Ok(())
}

/// What the loaded register is.
fn load(
    env: &mut Env<'_>,
    reg: &RegState,
    btf_idx: BtfIdx,
    btf: &Btf,
    id: TypeId,
    found: Found<'_>,
    value: Reg,
) {
    match found {
        Found::Number => mark_reg_unknown(env, value),
        Found::OtherPointer => set_loaded(
            env,
            value,
            RegType::of(RegBase::PtrToMem)
                .with(TypeFlags::MEM_RDONLY)
                .with(TypeFlags::PTR_UNTRUSTED),
            Extra::Mem {
                size: 0,
                dynptr_id: 0,
            },
        ),
        Found::Pointer {
            id: target,
            flags,
            field,
        } => {
            let flags = trust_of(env, reg, btf, id, target, flags, field);
            set_loaded(
                env,
                value,
                RegType::of(RegBase::PtrToBtfId).with(flags),
                env.facts.object(btf_idx, target),
            );
        }
    }
}

/// `mark_btf_ld_reg` for pointers.
fn set_loaded(env: &mut Env<'_>, value: Reg, ty: RegType, extra: Extra) {
    let id = if ty.may_be_null() { env.new_id() } else { 0 };
    let state = env.cur.reg_mut(value);
    let (subreg_def, precise) = (state.subreg_def, state.precise);
    *state = RegState {
        id,
        subreg_def,
        precise,
        ..RegState::pointer(ty, extra)
    };
}

/// Flags of a pointer loaded from member `field` of the object behind `reg`.
fn trust_of(
    env: &Env<'_>,
    reg: &RegState,
    btf: &Btf,
    id: TypeId,
    target: TypeId,
    flags: TypeFlags,
    field: &str,
) -> TypeFlags {
    if reg.ty.has(TypeFlags::PTR_UNTRUSTED) {
        return TypeFlags::PTR_UNTRUSTED;
    }
    if !is_trusted(reg) && !reg.ty.has(TypeFlags::MEM_RCU) {
        return flags.without(TRUSTED_FLAGS);
    }
    let is_listed = |suffix: &str| is_listed(btf, id, target, field, suffix);
    if is_listed("__safe_trusted") {
        return flags.with(TypeFlags::PTR_TRUSTED);
    }
    if is_listed("__safe_trusted_or_null") {
        return flags
            .with(TypeFlags::PTR_TRUSTED)
            .with(TypeFlags::PTR_MAYBE_NULL);
    }
    if !in_rcu_section(env) || reg.ty.may_be_null() {
        return TypeFlags::PTR_UNTRUSTED;
    }
    if is_listed("__safe_rcu") {
        return flags.with(TypeFlags::MEM_RCU);
    }
    let rcu_or_null = is_listed("__safe_rcu_or_null");
    if flags.has(TypeFlags::MEM_RCU) || rcu_or_null {
        let flags = flags
            .with(TypeFlags::MEM_RCU)
            .with(TypeFlags::PTR_MAYBE_NULL);
        return if rcu_or_null {
            flags.without(TypeFlags::PTR_UNTRUSTED)
        } else {
            flags
        };
    }
    if flags.has(TypeFlags::MEM_PERCPU) || flags.has(TypeFlags::MEM_USER) {
        return flags;
    }
    flags.without(TRUSTED_FLAGS)
}

/// Whether the path is protected by RCU here: `in_rcu_cs`.
pub(crate) fn in_rcu_section(env: &Env<'_>) -> bool {
    env.cur.refs.active_rcu_locks != 0 || env.cur.refs.active_locks != 0 || !env.in_sleepable()
}

/// Whether the kernel lists the member in the type with this suffix: `btf_nested_type_is_trusted`.
fn is_listed(btf: &Btf, id: TypeId, target: TypeId, field: &str, suffix: &str) -> bool {
    let Some(ty) = btf.type_by_id(id) else {
        return false;
    };
    let name = alloc::format!("{}{suffix}", ty.name());
    let Some(list) = btf
        .find_by_name_kind(&name, ty.kind())
        .and_then(|list| btf.type_by_id(list))
    else {
        return false;
    };
    list.members().any(|member| {
        member.name() == field
            && btf
                .type_by_id(member.ty)
                .filter(|ptr| ptr.kind() == Kind::Ptr)
                .is_some_and(|ptr| btf.skip_mods_and_typedefs(ptr.type_id()) == target)
    })
}

/// A load from the kernel's structure behind a map pointer; bounds and rights are the caller's.
pub(crate) fn check_map_struct(
    env: &mut Env<'_>,
    name: &str,
    off: i32,
    size: i32,
    value: Option<Reg>,
) -> Check {
    let facts = env.facts;
    let btf_idx = BtfIdx(0);
    let Some(btf) = &env.req.kernel_btf else {
        unjudged!("map structures without kernel BTF")
    };
    let Some(id) = btf.find_by_name_kind(name, Kind::Struct) else {
        unjudged!("struct {name} is not in BTF")
    };
    let found = walk(btf, id, off as u32, size as u32)?;
    let Some(value) = value else { return Ok(()) };
    let plain = RegState::pointer(
        RegType::of(RegBase::PtrToBtfId),
        Extra::Btf { btf: btf_idx, id },
    );
    match found {
        // As it was found: no trust is derived from a map pointer.
        Found::Pointer {
            id: target, flags, ..
        } => set_loaded(
            env,
            value,
            RegType::of(RegBase::PtrToBtfId).with(flags),
            Extra::Btf {
                btf: btf_idx,
                id: target,
            },
        ),
        Found::Number | Found::OtherPointer => {
            load(env, &plain, btf_idx, facts.btf(btf_idx), id, found, value);
        }
    }
    Ok(())
}
