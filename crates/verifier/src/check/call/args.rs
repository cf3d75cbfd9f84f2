//! Arguments of helper calls: may this register be that argument, and what does it say about the call.
//!
//! Key types: [`CallMeta`], what the arguments of one call have said so far. [`check_func_arg`] takes them in order: the
//! register's type and offset must fit (`arg_type`), then each kind has checks of its own. Kernel counterpart:
//! `check_func_arg`, `check_mem_size_reg`. Neighbours: `helper` (the whole call), `ret` (the result), `mem` (memory that a
//! helper touches).

use ring3_btf::TypeId;
use ring3_isa::{MemSize, Reg};
use ring3_spec::{Arg, ArgBase, FuncProto, TypeFlags as ArgFlags};
use ring3_uapi::flags::map_create;
use ring3_uapi::{FuncId, MapType, ProgType};

use super::arg_type::{check_arg_offset, check_reg_type};
use crate::backtrack::{mark_chain_precision, mark_chain_precision_batch};
use crate::check::mem::{Access, RawMem, ZeroSize, check_helper_mem_access};
use crate::check::regs::{RegArg, check_reg_arg};
use crate::check::{ctx, dynptr, graph, lock, map_field, map_value, mem};
use crate::domain::Scalar;
use crate::env::Env;
use crate::error::{Check, Violation, reject, unjudged};
use crate::limits::VAR_SIZE_MAX;
use crate::state::{BtfIdx, MapIdx, RegBase, RegState, SLOT_BYTES, SlotType, TypeFlags};

/// What the arguments of one call have said.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallMeta {
    /// The helper, none for one of the embedder's.
    pub(crate) func: Option<FuncId>,
    /// Packet pointers may be memory arguments.
    pub(crate) pkt_access: bool,
    /// The map argument, or the map whose value holds the timer, with the tag of an inner map.
    pub(crate) map: Option<(MapIdx, u32)>,
    /// Stack that the helper fills.
    pub(crate) raw: RawMem,
    /// Register whose reference is given back.
    pub(crate) release_reg: Option<Reg>,
    /// The one reference among the arguments, 0 if none.
    pub(crate) ref_obj_id: u32,
    /// The dynptr among the arguments.
    pub(crate) dynptr_id: u32,
    /// The call may move the packet, as its arguments say.
    pub(crate) changes_pkt_data: bool,
    /// Bytes that an allocating helper is asked for.
    pub(crate) mem_size: u64,
    /// Greatest value of the size argument checked last.
    pub(crate) msize_max: u64,
    /// The key of an array look-up, if known.
    pub(crate) const_map_key: Option<u64>,
    /// Callback.
    pub(crate) subprog: u32,
    /// Object that the result points to.
    pub(crate) ret_btf: Option<(BtfIdx, TypeId)>,
    /// That object is the program's own, protected by RCU.
    pub(crate) is_rcu_object: bool,
    /// Field of a map value or object that holds a kernel pointer, and its type.
    pub(crate) kptr: Option<map_field::KptrField>,
}

/// Checks argument `index` (0 to 4) of a call of `proto`.
pub(crate) fn check_func_arg(
    env: &mut Env<'_>,
    proto: &FuncProto,
    index: usize,
    meta: &mut CallMeta,
) -> Check {
    let mut arg = proto.args[index];
    let Some(regno) = Reg::new(index as u8 + 1) else {
        return Err(Violation::bug("argument register"));
    };
    if arg.base == ArgBase::DontCare {
        return Ok(());
    }
    check_reg_arg(env, regno, RegArg::Src)?;
    let reg = *env.cur.reg(regno);
    if arg.base == ArgBase::Anything {
        if env.is_pointer_value(&reg) {
            reject!(
                EACCES,
                "R{} leaks addr into helper function",
                regno.number()
            );
        }
        return Ok(());
    }
    if reg.ty.is_pkt() && reg.ty.flags == TypeFlags::NONE && !may_pass_packet(env, meta) {
        reject!(EACCES, "helper access to the packet is not allowed");
    }
    if arg.base == ArgBase::PtrToMapValue {
        arg = resolve_map_arg_type(env, arg, meta)?;
    }
    if !(reg.is_null() && arg.has(ArgFlags::MAYBE_NULL)) {
        check_reg_type(env, regno, &reg, &arg, meta)?;
        check_arg_offset(&reg, regno, &arg)?;
    }
    if arg.has(ArgFlags::RELEASE) {
        check_released_arg(env, regno, &reg, &arg)?;
        if meta.release_reg.is_some() {
            return Err(Violation::bug("more than one release argument"));
        }
        meta.release_reg = Some(regno);
    }
    if reg.ref_obj_id != 0 && arg.base != ArgBase::KptrXchgDest {
        if meta.ref_obj_id != 0 {
            reject!(
                EACCES,
                "more than one arg with ref_obj_id R{} {} {}",
                regno.number(),
                reg.ref_obj_id,
                meta.ref_obj_id
            );
        }
        meta.ref_obj_id = reg.ref_obj_id;
    }
    check_by_kind(env, proto, index, regno, &reg, &arg, meta)
}

/// What each kind of argument asks for beyond its register's type.
fn check_by_kind(
    env: &mut Env<'_>,
    proto: &FuncProto,
    index: usize,
    regno: Reg,
    reg: &RegState,
    arg: &Arg,
    meta: &mut CallMeta,
) -> Check {
    let access = if arg.has(ArgFlags::WRITE) {
        Access::Write
    } else {
        Access::Read
    };
    match arg.base {
        ArgBase::ConstMapPtr => note_map(reg, meta),
        ArgBase::PtrToMapKey => check_map_key(env, regno, reg, meta),
        ArgBase::PtrToMapValue => {
            if arg.has(ArgFlags::MAYBE_NULL) && reg.is_null() {
                return Ok(());
            }
            let Some((map, _)) = meta.map else {
                return Err(Violation::bug("invalid map_ptr to access map->value"));
            };
            let value_size = env.map(map).value_size;
            meta.raw.raw_mode = arg.has(ArgFlags::UNINIT);
            check_helper_mem_access(
                env,
                regno,
                value_size as i32,
                access,
                ZeroSize::Refused,
                Some(&mut meta.raw),
            )
        }
        ArgBase::PtrToPercpuBtfId => {
            let Some((btf, id)) = reg.btf().filter(|(_, id)| !id.is_void()) else {
                reject!(EACCES, "Helper has invalid btf_id in R{}", regno.number());
            };
            meta.ret_btf = Some((btf, id));
            meta.is_rcu_object = reg.ty.has(TypeFlags::MEM_RCU);
            Ok(())
        }
        ArgBase::PtrToSpinLock => {
            if graph::in_tree_callback(env) {
                reject!(EACCES, "can't spin_{{lock,unlock}} in rbtree cb");
            }
            let is_lock = meta.func == Some(FuncId::SpinLock);
            lock::process_spin_lock(env, regno, lock::LockKind::Plain, is_lock)
        }
        ArgBase::PtrToTimer => map_field::process_timer(env, regno, meta),
        ArgBase::PtrToFunc => {
            let crate::state::Extra::Subprog(subprog) = reg.extra else {
                return Err(Violation::bug("function pointer without function"));
            };
            meta.subprog = subprog;
            Ok(())
        }
        ArgBase::PtrToMem => {
            meta.raw.raw_mode = arg.has(ArgFlags::UNINIT);
            if arg.has(ArgFlags::FIXED_SIZE) {
                let bytes = arg.mem_bytes as i32;
                check_helper_mem_access(
                    env,
                    regno,
                    bytes,
                    access,
                    ZeroSize::Refused,
                    Some(&mut meta.raw),
                )?;
                if arg.has(ArgFlags::ALIGNED) {
                    let size = if arg.mem_bytes == 4 {
                        MemSize::W
                    } else {
                        MemSize::Dw
                    };
                    mem::check_alignment(env, reg, 0, size, true)?;
                }
            }
            Ok(())
        }
        ArgBase::ConstSize | ArgBase::ConstSizeOrZero => {
            // Sizes follow the memory they are of.
            let of_written = index > 0 && proto.args[index - 1].has(ArgFlags::WRITE);
            let access = if of_written {
                Access::Write
            } else {
                Access::Read
            };
            let zero = if arg.base == ArgBase::ConstSizeOrZero {
                ZeroSize::Allowed
            } else {
                ZeroSize::Refused
            };
            meta.msize_max = reg.scalar.umax;
            check_mem_size_reg(env, regno, access, zero, Some(&mut meta.raw))
        }
        ArgBase::PtrToDynptr => dynptr::process_dynptr_arg(env, regno, arg, meta),
        ArgBase::ConstAllocSizeOrZero => {
            let Some(size) = reg.scalar.const_value() else {
                reject!(EACCES, "R{} is not a known constant'", regno.number());
            };
            meta.mem_size = size;
            mark_chain_precision(env, regno)
        }
        ArgBase::PtrToConstStr => check_const_str(env, regno, reg),
        ArgBase::KptrXchgDest => map_field::process_kptr(env, regno, meta),
        ArgBase::PtrToArena => unjudged!("arena argument"),
        ArgBase::PtrToCtx
        | ArgBase::PtrToSockCommon
        | ArgBase::PtrToSocket
        | ArgBase::PtrToBtfId
        | ArgBase::PtrToRingbufMem
        | ArgBase::PtrToBtfIdSockCommon
        | ArgBase::PtrToStack
        | ArgBase::DontCare
        | ArgBase::Anything => Ok(()),
    }
}

/// Whether a packet pointer may be handed to this helper.
fn may_pass_packet(env: &Env<'_>, meta: &CallMeta) -> bool {
    // The "packet" of a socket option program is the option's value, for every helper.
    ctx::may_read_packet(env)
        && (meta.pkt_access || env.facts.attach.prog_type == ProgType::CgroupSockopt)
}

/// Values of some maps are no memory: `resolve_map_arg_type`.
fn resolve_map_arg_type(env: &Env<'_>, arg: Arg, meta: &CallMeta) -> Check<Arg> {
    let Some((map, _)) = meta.map else {
        return Err(Violation::bug("invalid map_ptr to access map->type"));
    };
    match env.map(map).map_type {
        MapType::Sockmap | MapType::Sockhash => {
            if arg.flags != ArgFlags::NONE {
                reject!(EINVAL, "invalid arg_type for sockmap/sockhash");
            }
            Ok(Arg::of(ArgBase::PtrToBtfIdSockCommon))
        }
        // A look-up in a bloom filter reads the value it looks for.
        MapType::BloomFilter if meta.func == Some(FuncId::MapPeekElem) => {
            Ok(Arg::of(ArgBase::PtrToMapValue))
        }
        _ => Ok(arg),
    }
}

fn note_map(reg: &RegState, meta: &mut CallMeta) -> Check {
    let Some(map) = reg.map() else {
        return Err(Violation::bug("map pointer without map"));
    };
    let uid = reg.map_uid();
    if let Some((other, other_uid)) = meta.map
        && (other != map || other_uid != uid)
    {
        reject!(
            EINVAL,
            "timer pointer in R1 map_uid={other_uid} doesn't match map pointer in R2 map_uid={uid}"
        );
    }
    meta.map = Some((map, uid));
    Ok(())
}

fn check_map_key(env: &mut Env<'_>, regno: Reg, reg: &RegState, meta: &mut CallMeta) -> Check {
    let Some((map, _)) = meta.map else {
        return Err(Violation::bug("invalid map_ptr to access map->key"));
    };
    let (map_type, key_size) = (env.map(map).map_type, env.map(map).key_size);
    check_helper_mem_access(
        env,
        regno,
        key_size as i32,
        Access::Read,
        ZeroSize::Refused,
        None,
    )?;
    if can_elide_value_nullness(map_type) {
        meta.const_map_key = constant_map_key(env, reg, key_size)?;
    }
    Ok(())
}

/// Look-ups in these never fail for an index in bounds.
pub(crate) const fn can_elide_value_nullness(map_type: MapType) -> bool {
    matches!(map_type, MapType::Array | MapType::PercpuArray)
}

/// The key's value, if it lies on the stack and is known; the proof then depends on it (`get_constant_map_key`).
fn constant_map_key(env: &mut Env<'_>, key: &RegState, key_size: u32) -> Check<Option<u64>> {
    if !env.permits.bpf_capable || !key.ty.is(RegBase::PtrToStack) {
        return Ok(None);
    }
    let Some(off) = key.const_offset() else {
        return Ok(None);
    };
    let slot = (-off - 1) as usize;
    let (spi, first) = (slot / SLOT_BYTES, slot % SLOT_BYTES);
    let Some(stack_slot) = env.frame_of(key).stack.get(spi) else {
        return Ok(None);
    };
    let run_of = |ty: SlotType| {
        (0..=first)
            .rev()
            .take_while(|&byte| stack_slot.types[byte] == ty)
            .count() as u32
    };
    if run_of(SlotType::Zero) >= key_size {
        return Ok(Some(0));
    }
    if !stack_slot.is_spilled_scalar() || run_of(SlotType::Spill) != key_size {
        return Ok(None);
    }
    let Some(value) = stack_slot.spilled().scalar.const_value() else {
        return Ok(None);
    };
    env.scratch
        .backtrack
        .set_frame_slot(key.frameno, spi as u32);
    mark_chain_precision_batch(
        env.facts,
        env.log,
        &mut env.states,
        &mut env.scratch.backtrack,
        &env.cur,
    )?;
    Ok(Some(value))
}

impl CallMeta {
    /// The helper's name as messages have it.
    pub(crate) fn func_name(&self) -> FuncName {
        FuncName(self.func)
    }
}

/// `bpf_map_lookup_elem`
pub(crate) struct FuncName(pub(crate) Option<FuncId>);

impl core::fmt::Display for FuncName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(func) => write!(f, "bpf_{}", func.name()),
            None => f.write_str("unknown"),
        }
    }
}

fn check_released_arg(env: &Env<'_>, regno: Reg, reg: &RegState, arg: &Arg) -> Check {
    if arg.base == ArgBase::PtrToDynptr {
        return dynptr::check_released(env, regno, reg);
    }
    if reg.ref_obj_id == 0 && !reg.is_null() {
        reject!(
            EINVAL,
            "R{} must be referenced when passed to release function",
            regno.number()
        );
    }
    Ok(())
}

/// A size and the memory in the register before it: `check_mem_size_reg`.
pub(crate) fn check_mem_size_reg(
    env: &mut Env<'_>,
    regno: Reg,
    access: Access,
    zero: ZeroSize,
    raw: Option<&mut RawMem>,
) -> Check {
    let reg = *env.cur.reg(regno);
    let number = regno.number();
    let Scalar {
        smin, umin, umax, ..
    } = reg.scalar;
    // A helper may fill only a part of memory of unknown size, which must then hold something before.
    let raw = raw.filter(|_| reg.scalar.is_const());
    if smin < 0 {
        reject!(
            EACCES,
            "R{number} min value is negative, either use unsigned or 'var &= const'"
        );
    }
    if umin == 0 && zero == ZeroSize::Refused {
        reject!(
            EACCES,
            "R{number} invalid zero-sized read: u64=[{},{}]",
            umin as i64,
            umax as i64
        );
    }
    if umax >= VAR_SIZE_MAX {
        reject!(
            EACCES,
            "R{number} unbounded memory access, use 'var &= const' or 'if (var < const)'"
        );
    }
    let Some(base) = Reg::new(number - 1) else {
        return Err(Violation::bug("size without memory"));
    };
    check_helper_mem_access(env, base, umax as i32, access, zero, raw)?;
    mark_chain_precision(env, regno)
}

/// A string that ends, in memory that never changes: `check_reg_const_str`.
pub(crate) fn check_const_str(env: &mut Env<'_>, regno: Reg, reg: &RegState) -> Check {
    let number = regno.number();
    let Some(map) = reg.map().filter(|_| reg.ty.is(RegBase::PtrToMapValue)) else {
        reject!(EINVAL)
    };
    let info = env.map(map);
    if info.map_flags & map_create::RDONLY_PROG == 0 || !info.frozen {
        reject!(EACCES, "R{number} does not point to a readonly map'");
    }
    let Some(var_off) = reg.scalar.const_value() else {
        reject!(EACCES, "R{number} is not a constant address'");
    };
    if !has_direct_values(info.map_type) {
        reject!(EACCES, "no direct value access support for this map type");
    }
    let size = (info.value_size as i32).wrapping_sub(reg.off);
    map_value::check_map_access(
        env,
        reg,
        regno,
        reg.off,
        size,
        ZeroSize::Refused,
        map_value::AccessBy::Helper,
    )?;
    let Some(text) = const_bytes(env, map, i64::from(reg.off).wrapping_add(var_off as i64)) else {
        reject!(EINVAL, "direct value access on string failed");
    };
    if !text.contains(&0) {
        reject!(EINVAL, "string is not zero-terminated");
    }
    Ok(())
}

/// Maps whose value lies at a fixed address.
pub(crate) const fn has_direct_values(map_type: MapType) -> bool {
    matches!(map_type, MapType::Array | MapType::Arena)
}

/// The bytes of a read-only map's value from an offset on.
pub(crate) fn const_bytes<'a>(env: &Env<'a>, map: MapIdx, off: i64) -> Option<&'a [u8]> {
    let info = env.map(map);
    if info.max_entries != 1 {
        return None;
    }
    info.contents.as_deref()?.get(usize::try_from(off).ok()?..)
}
