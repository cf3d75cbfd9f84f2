//! Pointers that may be null, once a comparison has told.
//!
//! Kernel counterpart: `mark_ptr_or_null_regs`, `mark_ptr_not_null_reg`, `reg_not_null`. Neighbours: `jmp`.

use ring3_btf::{FieldKind, Record};
use ring3_isa::Reg;
use ring3_spec::MapInfo;
use ring3_uapi::MapType;

use crate::env::Facts;
use crate::state::{Extra, RefKind, RegBase, RegState, RegType, TypeFlags, VerifierState};

/// On which way of a comparison with null a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nullness {
    Null,
    NotNull,
}

/// Every register and slot with the id of `reg` (of the innermost frame) is null, or is not.
pub(crate) fn mark_ptr_or_null_regs(
    facts: &Facts,
    state: &mut VerifierState,
    reg: Reg,
    nullness: Nullness,
) {
    let (id, ref_obj_id) = (state.reg(reg).id, state.reg(reg).ref_obj_id);
    if ref_obj_id != 0 && ref_obj_id == id && nullness == Nullness::Null {
        // There was nothing to acquire; nobody can have released it before the comparison.
        if let Some(index) = state
            .refs
            .list
            .iter()
            .position(|r| r.kind == RefKind::PTR && r.id == id)
        {
            state.refs.remove(index);
        }
    }
    state.change_regs(
        |reg| reg.ty.may_be_null() && reg.id == id && id != 0,
        |reg| mark_ptr_or_null_reg(facts, reg, nullness),
    );
}

fn mark_ptr_or_null_reg(facts: &Facts, reg: &mut RegState, nullness: Nullness) {
    // A pointer that may be null has no offset, but for objects at an offset in what the program allocated.
    let has_offset =
        !reg.scalar.var_off.equals_const(0) || reg.scalar.smin != 0 || reg.scalar.smax != 0;
    if has_offset || reg.off != 0 && !reg.ty.is_ptr_alloc_obj() {
        return;
    }
    match nullness {
        Nullness::Null => {
            reg.ty = RegType::SCALAR;
            reg.extra = Extra::None;
            reg.id = 0;
            reg.ref_obj_id = 0;
        }
        Nullness::NotNull => {
            mark_ptr_not_null_reg(facts, reg);
            if !may_point_to_spin_lock(facts, reg) {
                reg.id = 0;
            }
        }
    }
}

/// The pointer is not null; that of a look-up in a map of maps is an inner map, of sockets a socket.
pub(crate) fn mark_ptr_not_null_reg(facts: &Facts, reg: &mut RegState) {
    if reg.ty.base != RegBase::PtrToMapValue {
        reg.ty = reg.ty.without(TypeFlags::PTR_MAYBE_NULL);
        return;
    }
    let Some(map) = reg.map() else { return };
    if let Some(inner) = facts.inner_map.get(map.0 as usize).copied().flatten() {
        // The look-up's id tells inner maps with timers and the like apart.
        let uid = if has_async_field(facts.map(inner)) {
            reg.id
        } else {
            reg.map_uid()
        };
        reg.ty = RegType::of(RegBase::ConstPtrToMap);
        reg.extra = Extra::Map { map: inner, uid };
        return;
    }
    reg.ty = match facts.map(map).map_type {
        MapType::Xskmap => RegType::of(RegBase::PtrToXdpSock),
        MapType::Sockmap | MapType::Sockhash => RegType::of(RegBase::PtrToSocket),
        _ => RegType::of(RegBase::PtrToMapValue),
    };
}

/// Whether values of the map hold fields that the kernel ties to one map.
fn has_async_field(map: &MapInfo) -> bool {
    map.record.as_ref().is_some_and(|record| {
        record.has(FieldKind::Timer)
            || record.has(FieldKind::Workqueue)
            || record.has(FieldKind::TaskWork)
    })
}

/// Whether the object may hold a lock: locks are told apart by the id of the pointer to their object.
pub(crate) fn may_point_to_spin_lock(facts: &Facts, reg: &RegState) -> bool {
    let has_lock =
        |record: &Record| record.has(FieldKind::SpinLock) || record.has(FieldKind::ResSpinLock);
    if reg.ty.base == RegBase::PtrToMapValue {
        return reg
            .map()
            .and_then(|map| facts.map(map).record.as_deref())
            .is_some_and(has_lock);
    }
    if !reg.ty.is_ptr_alloc_obj() {
        return false;
    }
    let Some((btf, id)) = reg.btf() else {
        return false;
    };
    facts.struct_record(btf, id).is_some_and(has_lock)
}

/// Whether a pointer certainly is not null: a comparison with 0 is decided.
pub(crate) fn is_not_null(reg: &RegState) -> bool {
    if reg.ty.may_be_null() {
        return false;
    }
    match reg.ty.base {
        RegBase::PtrToSocket
        | RegBase::PtrToTcpSock
        | RegBase::PtrToMapValue
        | RegBase::PtrToMapKey
        | RegBase::PtrToSockCommon
        | RegBase::ConstPtrToMap => true,
        RegBase::PtrToBtfId => is_trusted(reg),
        RegBase::PtrToMem => !reg.ty.has(TypeFlags::PTR_UNTRUSTED),
        RegBase::NotInit
        | RegBase::Scalar
        | RegBase::PtrToCtx
        | RegBase::PtrToStack
        | RegBase::PtrToPacketMeta
        | RegBase::PtrToPacket
        | RegBase::PtrToPacketEnd
        | RegBase::PtrToFlowKeys
        | RegBase::PtrToTpBuffer
        | RegBase::PtrToXdpSock
        | RegBase::PtrToArena
        | RegBase::PtrToBuf
        | RegBase::PtrToFunc
        | RegBase::ConstPtrToDynptr => false,
    }
}

/// Flags that make a typed pointer one the kernel vouches for.
const TRUSTED: TypeFlags = TypeFlags::MEM_ALLOC
    .with(TypeFlags::PTR_TRUSTED)
    .with(TypeFlags::NON_OWN_REF);

/// Whether a typed pointer certainly points to a live object.
pub(crate) fn is_trusted(reg: &RegState) -> bool {
    if reg.ref_obj_id != 0 {
        return true;
    }
    let flags = reg.ty.flags;
    let is_unsafe = flags.without(TRUSTED) != TypeFlags::NONE;
    let is_kernel_view = matches!(
        reg.ty.base,
        RegBase::PtrToSocket
            | RegBase::PtrToSockCommon
            | RegBase::PtrToTcpSock
            | RegBase::ConstPtrToMap
    );
    !is_unsafe && (is_kernel_view || flags.has(TRUSTED))
}
