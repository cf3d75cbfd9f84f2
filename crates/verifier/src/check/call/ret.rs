//! What a helper leaves in r0, and the reference that comes with it.
//!
//! Kernel counterpart: the second half of `check_helper_call`, `do_refine_retval_range`. Neighbours: `helper`, `args`.

use ring3_btf::Kind;
use ring3_isa::Reg;
use ring3_spec::{FuncProto, RetBase, TypeFlags as RetFlags};
use ring3_uapi::{FuncId, MapType};

use super::args::{CallMeta, can_elide_value_nullness};
use crate::check::alu::check_reg_bounds;
use crate::check::regs::{clear_caller_saved, mark_reg_unknown};
use crate::check::{map_field, refs};
use crate::env::Env;
use crate::error::{Check, Violation, unjudged};
use crate::state::{BtfIdx, DEF_NOT_SUBREG, Extra, RegBase, RegState, RegType, TypeFlags};

/// Errors are at least this, as numbers below zero.
const MAX_ERRNO: i64 = 4095;

/// Forgets r1 to r5 and gives r0 its state.
pub(crate) fn set_result(env: &mut Env<'_>, proto: &FuncProto, meta: &CallMeta) -> Check {
    clear_caller_saved(env);
    let result = result_reg(env, proto, meta)?;
    match result {
        Some((ty, extra)) => set_pointer(env, ty, extra),
        None => {
            mark_reg_unknown(env, Reg::R0);
            if proto.ret.base == RetBase::Void {
                env.cur.reg_mut(Reg::R0).ty = RegType::NOT_INIT;
            }
        }
    }
    env.cur.reg_mut(Reg::R0).subreg_def = DEF_NOT_SUBREG;
    if env.cur.reg(Reg::R0).ty.may_be_null() || needs_lock_id(env) {
        let id = env.new_id();
        env.cur.reg_mut(Reg::R0).id = id;
    }
    set_reference(env, meta)?;
    refine_range(env, proto, meta)
}

fn set_pointer(env: &mut Env<'_>, ty: RegType, extra: Extra) {
    let precise = env.cur.reg(Reg::R0).precise;
    *env.cur.reg_mut(Reg::R0) = RegState {
        precise,
        ..RegState::pointer(ty, extra)
    };
}

/// A value with a lock is told from others by its id even when it cannot be NULL.
fn needs_lock_id(env: &Env<'_>) -> bool {
    let reg = env.cur.reg(Reg::R0);
    reg.ty.is(RegBase::PtrToMapValue)
        && reg
            .map()
            .is_some_and(|map| map_field::has_lock(env.map(map)))
}

/// The pointer that the helper returns; none for numbers and nothing.
fn result_reg(
    env: &mut Env<'_>,
    proto: &FuncProto,
    meta: &CallMeta,
) -> Check<Option<(RegType, Extra)>> {
    let mut flags = flags_of(proto.ret.flags);
    let of = |base: RegBase, flags: TypeFlags| RegType::of(base).with(flags);
    let result = match proto.ret.base {
        RetBase::Integer | RetBase::Void => return Ok(None),
        RetBase::PtrToMapValue => {
            let Some((map, uid)) = meta.map else {
                return Err(Violation::bug("unexpected null map_ptr"));
            };
            let info = env.map(map);
            let is_found = meta.func == Some(FuncId::MapLookupElem)
                && can_elide_value_nullness(info.map_type)
                && meta
                    .const_map_key
                    .is_some_and(|key| key < u64::from(info.max_entries));
            if is_found {
                flags = flags.without(TypeFlags::PTR_MAYBE_NULL);
            }
            (of(RegBase::PtrToMapValue, flags), Extra::Map { map, uid })
        }
        RetBase::PtrToSocket => (of(RegBase::PtrToSocket, flags), Extra::None),
        RetBase::PtrToTcpSock => (of(RegBase::PtrToTcpSock, flags), Extra::None),
        RetBase::PtrToSockCommon => (of(RegBase::PtrToSockCommon, flags), Extra::None),
        RetBase::PtrToMem | RetBase::PtrToDynptrMem => {
            (of(RegBase::PtrToMem, flags), mem_extra(meta))
        }
        RetBase::PtrToRingbufMem => (
            of(RegBase::PtrToMem, flags.with(TypeFlags::MEM_RINGBUF)),
            mem_extra(meta),
        ),
        RetBase::PtrToMemOrBtfId => return map_field::percpu_result(env, meta, flags).map(Some),
        RetBase::PtrToBtfId => match proto.ret.btf_type {
            Some(name) => {
                let id = env
                    .req
                    .kernel_btf
                    .as_ref()
                    .and_then(|btf| btf.find_by_name_kind(name, Kind::Struct));
                let Some(id) = id else {
                    unjudged!("struct {name} of the kernel: no kernel BTF was given")
                };
                (
                    of(RegBase::PtrToBtfId, flags),
                    Extra::Btf { btf: BtfIdx(0), id },
                )
            }
            None => return map_field::exchanged_result(env, meta, flags).map(Some),
        },
    };
    Ok(Some(result))
}

fn mem_extra(meta: &CallMeta) -> Extra {
    Extra::Mem {
        size: meta.mem_size as u32,
        dynptr_id: meta.dynptr_id,
    }
}

fn flags_of(flags: RetFlags) -> TypeFlags {
    [
        (RetFlags::MAYBE_NULL, TypeFlags::PTR_MAYBE_NULL),
        (RetFlags::RDONLY, TypeFlags::MEM_RDONLY),
        (RetFlags::TRUSTED, TypeFlags::PTR_TRUSTED),
        (RetFlags::PERCPU, TypeFlags::MEM_PERCPU),
    ]
    .into_iter()
    .filter(|(from, _)| flags.contains(*from))
    .fold(TypeFlags::NONE, |all, (_, to)| all.with(to))
}

/// Helpers whose result is their argument in another guise, with its reference.
const fn is_cast(func: FuncId) -> bool {
    matches!(
        func,
        FuncId::TcpSock
            | FuncId::SkFullsock
            | FuncId::SkcToTcpSock
            | FuncId::SkcToTcp6Sock
            | FuncId::SkcToUdp6Sock
            | FuncId::SkcToMptcpSock
            | FuncId::SkcToTcpTimewaitSock
            | FuncId::SkcToTcpRequestSock
    )
}

fn is_acquire(env: &Env<'_>, meta: &CallMeta, func: FuncId) -> bool {
    let is_socket_map = || {
        meta.map.is_some_and(|(map, _)| {
            matches!(env.map(map).map_type, MapType::Sockmap | MapType::Sockhash)
        })
    };
    match func {
        FuncId::SkLookupTcp
        | FuncId::SkLookupUdp
        | FuncId::SkcLookupTcp
        | FuncId::RingbufReserve
        | FuncId::KptrXchg => true,
        FuncId::MapLookupElem => is_socket_map(),
        _ => false,
    }
}

fn set_reference(env: &mut Env<'_>, meta: &CallMeta) -> Check {
    let Some(func) = meta.func else { return Ok(()) };
    if is_cast(func) || func == FuncId::DynptrData {
        env.cur.reg_mut(Reg::R0).ref_obj_id = meta.ref_obj_id;
    } else if is_acquire(env, meta, func) {
        let id = refs::acquire_reference(env);
        let reg = env.cur.reg_mut(Reg::R0);
        reg.id = id;
        reg.ref_obj_id = id;
    }
    Ok(())
}

/// Bounds of numbers that some helpers return (`do_refine_retval_range`).
fn refine_range(env: &mut Env<'_>, proto: &FuncProto, meta: &CallMeta) -> Check {
    if proto.ret.base != RetBase::Integer {
        return Ok(());
    }
    match meta.func {
        Some(
            FuncId::GetStack
            | FuncId::GetTaskStack
            | FuncId::ProbeReadStr
            | FuncId::ProbeReadKernelStr
            | FuncId::ProbeReadUserStr,
        ) => {
            let scalar = &mut env.cur.reg_mut(Reg::R0).scalar;
            scalar.smax = meta.msize_max as i64;
            scalar.s32_max = meta.msize_max as i32;
            scalar.smin = -MAX_ERRNO;
            scalar.s32_min = -MAX_ERRNO as i32;
            *scalar = scalar.sync();
        }
        Some(FuncId::GetSmpProcessorId) => {
            let last = env.req.nr_cpu_ids.max(1) - 1;
            let scalar = &mut env.cur.reg_mut(Reg::R0).scalar;
            scalar.umax = u64::from(last);
            scalar.u32_max = last;
            scalar.smax = i64::from(last);
            scalar.s32_max = last as i32;
            scalar.umin = 0;
            scalar.u32_min = 0;
            scalar.smin = 0;
            scalar.s32_min = 0;
            *scalar = scalar.sync();
        }
        _ => {}
    }
    check_reg_bounds(env, Reg::R0, "retval")
}
