//! Special fields of map values: timers and kernel pointers, for helpers, loads and stores; and per-CPU kernel variables.
//!
//! Kernel counterpart: `process_timer_func`, `process_kptr_func`. Neighbours: `call::args`, `call::ret`, `lock`.

use ring3_btf::{Field, FieldKind, FieldTarget, TypeId};
use ring3_isa::{Insn, LoadMode, Operand, Reg};
use ring3_spec::MapInfo;
use ring3_uapi::Errno;

use super::alloc_obj::record_of;
use super::btf_ptr::in_rcu_section;
use super::call::arg_type::struct_matches;
use super::call::args::CallMeta;
use super::mem::{Access, FixedOffset, MemAccess, check_ptr_off_reg_with};
use crate::env::{Env, Slot};
use crate::error::{Check, Violation, reject, unjudged};
use crate::log::state::TypeName;
use crate::state::{BtfIdx, Extra, RegBase, RegState, RegType, TypeFlags};

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
pub(crate) fn check_field(env: &Env<'_>, regno: Reg, reg: &RegState, kind: FieldKind) -> Check {
    let name = kind.name();
    let Some(var_off) = reg.scalar.const_value() else {
        reject!(
            EINVAL,
            "R{} doesn't have constant offset. {name} has to be at the constant offset",
            regno.number()
        );
    };
    let Some(map) = reg.map() else {
        return Err(Violation::bug("map value without map"));
    };
    let info = env.map(map);
    if info.btf.is_none() {
        reject!(
            EINVAL,
            "map '{}' has to have BTF in order to use {name}",
            info.name
        );
    }
    let Some(field) = info.record.as_ref().and_then(|record| record.first(kind)) else {
        reject!(EINVAL, "map '{}' has no valid {name}", info.name);
    };
    let off = (var_off as i64).wrapping_add(i64::from(reg.off));
    if off != i64::from(field.offset) {
        reject!(
            EINVAL,
            "off {off} doesn't point to 'struct {name}' that is at {}",
            field.offset
        );
    }
    Ok(())
}

/// Whether values of the map hold a lock.
pub(crate) fn has_lock(map: &MapInfo) -> bool {
    map.record
        .as_ref()
        .is_some_and(|record| record.has(FieldKind::SpinLock) || record.has(FieldKind::ResSpinLock))
}

/// The field of a map's value that holds a pointer, as the verifier sees it.
fn kptr_field(env: &Env<'_>, reg: &RegState, field: &Field) -> Check<KptrField> {
    let (btf, id) = match field.target {
        FieldTarget::Kernel(id) => (Some(BtfIdx(0)).filter(|_| env.req.kernel_btf.is_some()), id),
        FieldTarget::Local(id) => {
            let idx = match reg.map() {
                Some(map) => env
                    .map(map)
                    .btf
                    .as_ref()
                    .and_then(|btf| env.facts.btf_idx(btf)),
                None => reg.btf().map(|(btf, _)| btf),
            };
            (idx, id)
        }
        FieldTarget::None | FieldTarget::Graph { .. } => {
            return Err(Violation::bug("pointer field without target"));
        }
    };
    let Some(btf) = btf else {
        unjudged!("a kernel pointer of a BTF that the program does not use")
    };
    Ok(KptrField {
        kind: field.kind,
        btf,
        id,
    })
}

/// The place of a kernel pointer, to be exchanged.
pub(crate) fn process_kptr(env: &mut Env<'_>, regno: Reg, meta: &mut CallMeta) -> Check {
    let reg = *env.cur.reg(regno);
    let number = regno.number();
    if let Some(map) = reg.map() {
        let info = env.map(map);
        if info.btf.is_none() {
            reject!(
                EINVAL,
                "map '{}' has to have BTF in order to use bpf_kptr_xchg",
                info.name
            );
        }
        meta.map = Some((map, reg.map_uid()));
    }
    let Some(var_off) = reg.scalar.const_value() else {
        reject!(
            EINVAL,
            "R{number} doesn't have constant offset. kptr has to be at the constant offset"
        );
    };
    let is_kptr = |kind| {
        matches!(
            kind,
            FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu
        )
    };
    let record =
        record_of(env, &reg).filter(|record| record.fields.iter().any(|field| is_kptr(field.kind)));
    let Some(record) = record else {
        reject!(EINVAL, "R{number} has no valid kptr")
    };
    let off = (var_off as i64).wrapping_add(i64::from(reg.off));
    let field = u32::try_from(off)
        .ok()
        .and_then(|off| record.at(off))
        .filter(|field| is_kptr(field.kind));
    let Some(field) = field else {
        reject!(EACCES, "off={off} doesn't point to kptr")
    };
    if field.kind == FieldKind::KptrUnref {
        reject!(EACCES, "off={off} kptr isn't referenced kptr");
    }
    meta.kptr = Some(kptr_field(env, &reg, field)?);
    Ok(())
}

/// The object exchanged for what the field holds must be of the field's type.
pub(crate) fn check_kptr_match(
    env: &Env<'_>,
    reg: &RegState,
    regno: Reg,
    meta: &CallMeta,
) -> Check {
    let Some(field) = meta.kptr else {
        return Err(Violation::bug("exchange without a field"));
    };
    check_match(env, field, reg, regno).map_err(|violation| violation.with_errno(Errno::EACCES))
}

/// Whether a pointer may be stored in a field: `map_kptr_match_type`.
fn check_match(env: &Env<'_>, field: KptrField, reg: &RegState, regno: Reg) -> Check {
    let is_kernel = |btf: BtfIdx| btf == BtfIdx(0) && env.req.kernel_btf.is_some();
    let mut permitted = TypeFlags::PTR_MAYBE_NULL;
    let object = reg.btf().filter(|_| reg.ty.base == RegBase::PtrToBtfId);
    if object.is_none_or(|(btf, _)| is_kernel(btf)) {
        permitted = permitted
            .with(TypeFlags::PTR_TRUSTED)
            .with(TypeFlags::MEM_RCU);
        if field.kind == FieldKind::KptrUnref {
            permitted = permitted.with(TypeFlags::PTR_UNTRUSTED);
        }
    } else {
        permitted = permitted.with(TypeFlags::MEM_ALLOC);
        if field.kind == FieldKind::KptrPercpu {
            permitted = permitted.with(TypeFlags::MEM_PERCPU);
        }
    }
    let mut name = "";
    if let Some((btf, id)) = object.filter(|_| reg.ty.flags.without(permitted) == TypeFlags::NONE) {
        name = env.facts.btf(btf).name(id);
        check_ptr_off_reg_with(reg, regno, FixedOffset::Allowed)?;
        let is_strict = field.kind != FieldKind::KptrUnref;
        if btf == field.btf && struct_matches(env.facts.btf(btf), id, reg.off, field.id, is_strict)
        {
            return Ok(());
        }
    }
    let wanted = env.facts.btf(field.btf).name(field.id);
    let plain = TypeName(RegType::of(RegBase::PtrToBtfId));
    let number = regno.number();
    if field.kind == FieldKind::KptrUnref {
        let untrusted = TypeName(RegType::of(RegBase::PtrToBtfId).with(TypeFlags::PTR_UNTRUSTED));
        reject!(
            EINVAL,
            "invalid kptr access, R{number} type={}{name} expected={plain}{wanted} or {untrusted}{wanted}",
            TypeName(reg.ty)
        );
    }
    reject!(
        EINVAL,
        "invalid kptr access, R{number} type={}{name} expected={plain}{wanted}",
        TypeName(reg.ty)
    )
}

/// A load or store of a field that holds a pointer: `check_map_kptr_access`. Its bounds, size and constant offset are
/// checked before.
pub(crate) fn check_kptr_access(
    env: &mut Env<'_>,
    reg: &RegState,
    field: &Field,
    access: MemAccess,
) -> Check {
    let facts = env.facts;
    let (value, is_plain) = match &facts.slots[env.insn_idx as usize] {
        Slot::Insn(Insn::Store {
            src: Operand::Imm(imm),
            ..
        }) => (Some(*imm), true),
        Slot::Insn(
            Insn::Load {
                mode: LoadMode::ZeroExtend,
                ..
            }
            | Insn::Store { .. },
        ) => (None, true),
        _ => (None, false),
    };
    if !is_plain {
        reject!(
            EACCES,
            "kptr in map can only be accessed using BPF_MEM instruction mode"
        );
    }
    let is_load = access.access == Access::Read;
    if !is_load && matches!(field.kind, FieldKind::KptrRef | FieldKind::KptrPercpu) {
        reject!(EACCES, "store to referenced kptr disallowed");
    }
    if !is_load && field.kind == FieldKind::Uptr {
        reject!(EACCES, "store to uptr disallowed");
    }
    if field.kind == FieldKind::Uptr {
        unjudged!("a user pointer in a map value");
    }
    let offset = field.offset;
    let field = kptr_field(env, reg, field)?;
    if is_load {
        let Some(dst) = access.value else {
            return Ok(());
        };
        let ty = RegType::of(RegBase::PtrToBtfId).with(loaded_flags(env, field));
        let id = env.new_id();
        let state = env.cur.reg_mut(dst);
        let (subreg_def, precise) = (state.subreg_def, state.precise);
        let extra = Extra::Btf {
            btf: field.btf,
            id: field.id,
        };
        *state = RegState {
            id,
            subreg_def,
            precise,
            ..RegState::pointer(ty, extra)
        };
        return Ok(());
    }
    match (access.value, value) {
        (Some(src), _) => {
            let reg = *env.cur.reg(src);
            if reg.is_null() {
                return Ok(());
            }
            check_match(env, field, &reg, src)
                .map_err(|violation| violation.with_errno(Errno::EACCES))
        }
        (None, Some(0)) => Ok(()),
        (None, _) => reject!(
            EACCES,
            "BPF_ST imm must be 0 when storing to kptr at off={offset}"
        ),
    }
}

/// What a loaded pointer may be used for: `btf_ld_kptr_type`.
fn loaded_flags(env: &Env<'_>, field: KptrField) -> TypeFlags {
    let is_kernel = field.btf == BtfIdx(0) && env.req.kernel_btf.is_some();
    let name = env.facts.btf(field.btf).name(field.id);
    let is_rcu_safe = match field.kind {
        FieldKind::KptrPercpu => true,
        FieldKind::KptrRef => !is_kernel || RCU_PROTECTED.contains(&name),
        _ => false,
    };
    let null = TypeFlags::PTR_MAYBE_NULL;
    if !is_rcu_safe || !in_rcu_section(env) {
        return null.with(TypeFlags::PTR_UNTRUSTED);
    }
    let flags = null.with(TypeFlags::MEM_RCU);
    let mut flags = flags;
    if field.kind == FieldKind::KptrPercpu {
        flags = flags.with(TypeFlags::MEM_PERCPU);
    } else if !is_kernel {
        flags = flags.with(TypeFlags::MEM_ALLOC);
    }
    let record = env.facts.struct_record(field.btf, field.id);
    if record.is_some_and(|record| record.fields.iter().any(|field| field.kind.is_graph_node())) {
        flags = flags.with(TypeFlags::NON_OWN_REF);
    }
    flags
}

/// Kernel objects that are freed only after a grace period.
const RCU_PROTECTED: &[&str] = &[
    "prog_test_ref_kfunc",
    "cgroup",
    "bpf_cpumask",
    "task_struct",
    "bpf_crypto_ctx",
];

/// The exchanged object now belongs to the map; under a read lock a per-CPU object stays usable.
pub(crate) fn release_exchanged(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    let id = meta.ref_obj_id;
    if in_rcu_section(env) {
        let stays = |reg: &RegState| {
            reg.ref_obj_id == id
                && reg.ty.has(TypeFlags::MEM_ALLOC)
                && reg.ty.has(TypeFlags::MEM_PERCPU)
        };
        env.cur.change_regs(stays, |reg| {
            reg.ref_obj_id = 0;
            reg.ty = reg
                .ty
                .without(TypeFlags::MEM_ALLOC)
                .with(TypeFlags::MEM_RCU);
        });
    }
    super::refs::release_reference(env, id)
}

/// What the exchange gives back: what the field held.
pub(crate) fn exchanged_result(
    env: &Env<'_>,
    meta: &CallMeta,
    flags: TypeFlags,
) -> Check<(RegType, Extra)> {
    let Some(field) = meta.kptr else {
        return Err(Violation::bug("exchange without a field"));
    };
    let mut ty = RegType::of(RegBase::PtrToBtfId).with(flags);
    if field.btf != BtfIdx(0) || env.req.kernel_btf.is_none() {
        ty = ty.with(TypeFlags::MEM_ALLOC);
        if field.kind == FieldKind::KptrPercpu {
            ty = ty.with(TypeFlags::MEM_PERCPU);
        }
    }
    Ok((
        ty,
        Extra::Btf {
            btf: field.btf,
            id: field.id,
        },
    ))
}

/// What `bpf_per_cpu_ptr` and `bpf_this_cpu_ptr` return: memory of a scalar's size, or a typed object.
pub(crate) fn percpu_result(
    env: &Env<'_>,
    meta: &CallMeta,
    flags: TypeFlags,
) -> Check<(RegType, Extra)> {
    let Some((btf_idx, id)) = meta.ret_btf else {
        return Err(Violation::bug("per-CPU result without type"));
    };
    if meta.is_rcu_object {
        // One CPU's part of an object of the program, alive as long as the read section.
        let ty = RegType::of(RegBase::PtrToBtfId)
            .with(TypeFlags::MEM_ALLOC)
            .with(TypeFlags::MEM_RCU);
        return Ok((ty, Extra::Btf { btf: btf_idx, id }));
    }
    let btf = env.facts.btf(btf_idx);
    let id = btf.skip_mods_and_typedefs(id);
    let is_struct = btf.kind(id) == Some(ring3_btf::Kind::Struct);
    if is_struct {
        // Typed objects are read through their type, never written: the read-only flag is for memory.
        let flags = flags.without(TypeFlags::MEM_RDONLY);
        return Ok((
            RegType::of(RegBase::PtrToBtfId).with(flags),
            Extra::Btf { btf: btf_idx, id },
        ));
    }
    let Some(size) = btf.resolve_size(id) else {
        reject!(
            EINVAL,
            "unable to resolve the size of type '{}'",
            btf.name(id)
        );
    };
    Ok((
        RegType::of(RegBase::PtrToMem).with(flags),
        Extra::Mem { size, dynptr_id: 0 },
    ))
}
