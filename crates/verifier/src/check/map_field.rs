//! Special fields of map values that helpers take: timers, kernel pointers; and per-CPU kernel variables.
//!
//! Kernel counterpart: `process_timer_func`, `process_kptr_func`. Neighbours: `call::args`, `call::ret`, `lock`.

use ring3_btf::{FieldKind, TypeId};
use ring3_isa::Reg;
use ring3_spec::MapInfo;

use super::call::args::CallMeta;
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::state::{BtfIdx, Extra, RegState, RegType, TypeFlags};

/// A kernel pointer in a map value: kind and type of its field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KptrField {
    pub(crate) kind: FieldKind,
    pub(crate) btf: BtfIdx,
    pub(crate) id: TypeId,
}

/// A timer in a map value.
pub(crate) fn process_timer(env: &mut Env<'_>, regno: Reg, meta: &mut CallMeta) -> Check {
    let reg = *env.cur.reg(regno);
    check_field(env, regno, &reg, FieldKind::Timer)?;
    if meta.map.is_some() {
        return Err(Violation::bug("Two map pointers in a timer helper"));
    }
    meta.map = reg.map().map(|map| (map, reg.map_uid()));
    Ok(())
}

/// A register must point to the one field of this kind in its map's value (`check_map_field_pointer`).
fn check_field(env: &Env<'_>, regno: Reg, reg: &RegState, kind: FieldKind) -> Check {
    let name = kind.name();
    let Some(var_off) = reg.scalar.const_value() else {
        reject!(
            EINVAL,
            "R{} doesn't have constant offset. {name} has to be at the constant offset",
            regno.number()
        );
    };
    let Some(map) = reg.map() else { return Err(Violation::bug("map value without map")) };
    let info = env.map(map);
    if info.btf.is_none() {
        reject!(EINVAL, "map '{}' has to have BTF in order to use {name}", info.name);
    }
    let Some(field) = info.record.as_ref().and_then(|record| record.first(kind)) else {
        reject!(EINVAL, "map '{}' has no valid {name}", info.name);
    };
    let off = (var_off as i64).wrapping_add(i64::from(reg.off));
    if off != i64::from(field.offset) {
        reject!(EINVAL, "off {off} doesn't point to 'struct {name}' that is at {}", field.offset);
    }
    Ok(())
}

/// Whether values of the map hold a lock.
pub(crate) fn has_lock(map: &MapInfo) -> bool {
    map.record
        .as_ref()
        .is_some_and(|record| record.has(FieldKind::SpinLock) || record.has(FieldKind::ResSpinLock))
}

/// The place of a kernel pointer, to be exchanged.
pub(crate) fn process_kptr(env: &mut Env<'_>, regno: Reg, meta: &mut CallMeta) -> Check {
    let reg = *env.cur.reg(regno);
    let number = regno.number();
    let Some(map) = reg.map() else { unjudged!("kernel pointer in an allocated object") };
    let info = env.map(map);
    if info.btf.is_none() {
        reject!(EINVAL, "map '{}' has to have BTF in order to use bpf_kptr_xchg", info.name);
    }
    let Some(var_off) = reg.scalar.const_value() else {
        reject!(EINVAL, "R{number} doesn't have constant offset. kptr has to be at the constant offset");
    };
    let has_pointer = info
        .record
        .as_ref()
        .is_some_and(|record| record.has(FieldKind::KptrRef) || record.has(FieldKind::KptrUnref));
    if !has_pointer {
        reject!(EINVAL, "map '{}' has no valid kptr", info.name);
    }
    let off = (var_off as i64).wrapping_add(i64::from(reg.off));
    let field = u32::try_from(off).ok().and_then(|off| info.record.as_ref()?.at(off));
    let Some(field) = field.filter(|field| field.kind.is_pointer()) else {
        reject!(EACCES, "off={off} doesn't point to kptr");
    };
    if !matches!(field.kind, FieldKind::KptrRef | FieldKind::KptrPercpu) {
        reject!(EACCES, "off={off} kptr isn't referenced kptr");
    }
    let _ = meta;
    unjudged!("exchange of a kernel pointer");
}

/// The object must be of the field's type.
pub(crate) fn check_kptr_match(env: &Env<'_>, reg: &RegState, regno: Reg, meta: &CallMeta) -> Check {
    let _ = (env, reg, meta);
    unjudged!("type of the kernel pointer in R{}", regno.number());
}

/// The exchanged object now belongs to the map.
pub(crate) fn release_exchanged(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    super::refs::release_reference(env, meta.ref_obj_id)
}

/// What the exchange gives back.
pub(crate) fn exchanged_result(env: &Env<'_>, meta: &CallMeta, flags: TypeFlags) -> Check<(RegType, Extra)> {
    let _ = (env, flags);
    match meta.kptr {
        Some(KptrField { kind, btf, id }) => {
            unjudged!("exchanged {} of type {} in BTF {}", kind.name(), id, btf.0)
        }
        None => Err(Violation::bug("exchange without a field")),
    }
}

/// A per-CPU variable's address in some CPU.
pub(crate) fn check_percpu_arg(env: &Env<'_>) -> Check {
    if env.cur.reg(Reg::R1).ty.has(TypeFlags::MEM_RCU) {
        unjudged!("per-CPU object under a read lock");
    }
    Ok(())
}

/// What `bpf_per_cpu_ptr` and `bpf_this_cpu_ptr` return: memory of a scalar's size, or a typed object.
pub(crate) fn percpu_result(env: &Env<'_>, meta: &CallMeta, flags: TypeFlags) -> Check<(RegType, Extra)> {
    use crate::state::RegBase;
    let Some((btf_idx, id)) = meta.ret_btf else { return Err(Violation::bug("per-CPU result without type")) };
    let btf = env.facts.btf(btf_idx);
    let id = btf.skip_mods_and_typedefs(id);
    let is_struct = btf.kind(id) == Some(ring3_btf::Kind::Struct);
    if is_struct {
        // Typed objects are read through their type, never written: the read-only flag is for memory.
        let flags = flags.without(TypeFlags::MEM_RDONLY);
        return Ok((RegType::of(RegBase::PtrToBtfId).with(flags), Extra::Btf { btf: btf_idx, id }));
    }
    let Some(size) = btf.resolve_size(id) else {
        reject!(EINVAL, "unable to resolve the size of type '{}'", btf.name(id));
    };
    Ok((RegType::of(RegBase::PtrToMem).with(flags), Extra::Mem { size, dynptr_id: 0 }))
}
