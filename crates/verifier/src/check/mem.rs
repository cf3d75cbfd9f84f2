//! Loads and stores: through what kind of pointer, at which offsets, with what alignment.
//!
//! [`check_mem_access`] sends each pointer kind to its own file. [`check_helper_mem_access`] asks the same for memory that a helper
//! reads or writes. Kernel counterpart: `check_mem_access`. Neighbours: `stack`, `map_value`, `packet`, `ctx`, `btf_ptr`.

use ring3_isa::{Insn, LoadMode, MemSize, Operand, Reg};

use super::regs::{RegArg, check_reg_arg, mark_reg_unknown};
use super::{ctx, map_value, packet, stack};
use crate::domain::Tnum;
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::limits::VAR_OFF_MAX;
use crate::log::insn::log_source_line;
use crate::log::state::TypeName;
use crate::state::{RegBase, RegState, RegType, TypeFlags};

/// Direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// One access by the current instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemAccess {
    pub(crate) access: Access,
    pub(crate) size: MemSize,
    pub(crate) mode: LoadMode,
    /// Register that is loaded or stored; none for immediates, atomics and memory of helpers.
    pub(crate) value: Option<Reg>,
    pub(crate) strict_alignment: bool,
}

/// A tnum as messages show it: a known one as a number.
pub(crate) struct TnumText(pub(crate) Tnum);

impl core::fmt::Display for TnumText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Tnum { value, mask } = self.0;
        match (mask, value) {
            (0, 0..=0xffff) => write!(f, "{value}"),
            (0, _) => write!(f, "{value:#x}"),
            _ => write!(f, "({value:#x}; {mask:#x})"),
        }
    }
}

/// `dst = *(size *)(src + off)`
pub(crate) fn check_load(env: &mut Env<'_>, insn: &Insn) -> Check {
    let Insn::Load {
        size,
        mode,
        dst,
        src,
        off,
    } = *insn
    else {
        return Err(Violation::bug("check_load"));
    };
    check_load_through(env, size, mode, dst, src, i32::from(off), false)
}

/// A load, or the load half of an atomic one (which is strictly aligned and must not mix trust).
pub(crate) fn check_load_through(
    env: &mut Env<'_>,
    size: MemSize,
    mode: LoadMode,
    dst: Reg,
    src: Reg,
    off: i32,
    atomic: bool,
) -> Check {
    check_reg_arg(env, src, RegArg::Src)?;
    check_reg_arg(env, dst, RegArg::DstNoMark)?;
    let src_type = env.cur.reg(src).ty;
    let access = MemAccess {
        access: Access::Read,
        size,
        mode,
        value: Some(dst),
        strict_alignment: atomic,
    };
    check_mem_access(env, src, off, access)?;
    save_ptr_type(
        env,
        src_type,
        if atomic {
            TrustMix::Refused
        } else {
            TrustMix::Allowed
        },
    )?;
    super::alu::check_reg_bounds(env, dst, if atomic { "atomic_load" } else { "ldx" })
}

/// `*(size *)(dst + off) = src`
pub(crate) fn check_store_reg(env: &mut Env<'_>, insn: &Insn) -> Check {
    let Insn::Store {
        size,
        dst,
        off,
        src: Operand::Reg(src),
    } = *insn
    else {
        return Err(Violation::bug("check_store_reg"));
    };
    check_store_through(env, size, dst, i32::from(off), src, false)
}

/// A store of a register, or the store half of an atomic one.
pub(crate) fn check_store_through(
    env: &mut Env<'_>,
    size: MemSize,
    dst: Reg,
    off: i32,
    src: Reg,
    atomic: bool,
) -> Check {
    check_reg_arg(env, src, RegArg::Src)?;
    check_reg_arg(env, dst, RegArg::Src)?;
    let dst_type = env.cur.reg(dst).ty;
    let access = MemAccess {
        access: Access::Write,
        size,
        mode: LoadMode::ZeroExtend,
        value: Some(src),
        strict_alignment: atomic,
    };
    check_mem_access(env, dst, off, access)?;
    save_ptr_type(env, dst_type, TrustMix::Refused)
}

/// `*(size *)(dst + off) = imm`
pub(crate) fn check_store_imm(env: &mut Env<'_>, insn: &Insn) -> Check {
    let Insn::Store { size, dst, off, .. } = *insn else {
        return Err(Violation::bug("check_store_imm"));
    };
    check_reg_arg(env, dst, RegArg::Src)?;
    let dst_type = env.cur.reg(dst).ty;
    let access = MemAccess {
        access: Access::Write,
        size,
        mode: LoadMode::ZeroExtend,
        value: None,
        strict_alignment: false,
    };
    check_mem_access(env, dst, i32::from(off), access)?;
    save_ptr_type(env, dst_type, TrustMix::Refused)
}

/// Whether an instruction may see trusted and untrusted objects on different paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrustMix {
    Refused,
    Allowed,
}

fn may_mix(ty: RegType) -> bool {
    match ty.base {
        RegBase::PtrToCtx
        | RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToXdpSock
        | RegBase::PtrToBtfId
        | RegBase::PtrToArena => false,
        RegBase::PtrToMem => !ty.has(TypeFlags::PTR_UNTRUSTED),
        _ => true,
    }
}

/// All paths to an instruction must agree on pointer kinds for which it will be rewritten: `save_aux_ptr_type`.
pub(crate) fn save_ptr_type(env: &mut Env<'_>, ty: RegType, mix: TrustMix) -> Check {
    let saved = &mut env.aux[env.insn_idx];
    let Some(prev) = saved.ptr_type() else {
        saved.set_ptr_type(ty);
        return Ok(());
    };
    if ty == prev || may_mix(ty) && may_mix(prev) {
        return Ok(());
    }
    let is_object = |ty: RegType| matches!(ty.base, RegBase::PtrToMem | RegBase::PtrToBtfId);
    if mix == TrustMix::Allowed && is_object(ty) && is_object(prev) {
        let is_mem = ty.base == RegBase::PtrToMem || prev.base == RegBase::PtrToMem;
        let mut merged = RegType::of(if is_mem {
            RegBase::PtrToMem
        } else {
            RegBase::PtrToBtfId
        });
        for flag in [TypeFlags::PTR_UNTRUSTED, TypeFlags::MEM_RDONLY] {
            if ty.has(flag) || prev.has(flag) {
                merged = merged.with(flag);
            }
        }
        saved.set_ptr_type(merged);
        return Ok(());
    }
    reject!(EINVAL, "same insn cannot be used with different pointers")
}

/// Offsets that the access size divides, where that is asked for: `check_ptr_alignment`.
pub(crate) fn check_alignment(
    env: &Env<'_>,
    reg: &RegState,
    off: i32,
    size: MemSize,
    strict_once: bool,
) -> Check {
    let mut strict = env.modes.strict_alignment || strict_once;
    let what = match (reg.ty.base, reg.ty.flags == TypeFlags::NONE) {
        (RegBase::PtrToPacket | RegBase::PtrToPacketMeta, true) => {
            // The Ethernet header starts two bytes behind an aligned address (NET_IP_ALIGN).
            if strict && !is_aligned(reg, off, 2, size) {
                reject!(
                    EACCES,
                    "misaligned packet access off 2+{}+{}+{off} size {}",
                    TnumText(reg.scalar.var_off),
                    reg.off,
                    size.bytes()
                );
            }
            return Ok(());
        }
        (RegBase::PtrToFlowKeys, true) => "flow keys ",
        (RegBase::PtrToMapKey, true) => "key ",
        (RegBase::PtrToMapValue, true) => "value ",
        (RegBase::PtrToCtx, true) => "context ",
        (RegBase::PtrToStack, true) => {
            strict = true;
            "stack "
        }
        (RegBase::PtrToSocket, true) => "sock ",
        (RegBase::PtrToSockCommon, true) => "sock_common ",
        (RegBase::PtrToTcpSock, true) => "tcp_sock ",
        (RegBase::PtrToXdpSock, true) => "xdp_sock ",
        (RegBase::PtrToArena, true) => return Ok(()),
        _ => "",
    };
    if strict && !is_aligned(reg, off, 0, size) {
        reject!(
            EACCES,
            "misaligned {what}access off {}+{}+{off} size {}",
            TnumText(reg.scalar.var_off),
            reg.off,
            size.bytes()
        );
    }
    Ok(())
}

#[inline]
fn is_aligned(reg: &RegState, off: i32, extra: i32, size: MemSize) -> bool {
    if size == MemSize::B {
        return true;
    }
    let fixed = i64::from(reg.off.wrapping_add(off).wrapping_add(extra)) as u64;
    let sum = reg.scalar.var_off.add(Tnum::constant(fixed));
    (sum.value | sum.mask) & (size.bytes() as u64 - 1) == 0
}

/// Checks one access by the current instruction through register `base` at `off`, and gives the loaded register its state.
pub(crate) fn check_mem_access(env: &mut Env<'_>, base: Reg, off: i32, access: MemAccess) -> Check {
    let reg = *env.cur.reg(base);
    check_alignment(env, &reg, off, access.size, access.strict_alignment)?;
    let off = off.wrapping_add(reg.off);
    let size = access.size.bytes() as i32;
    let number = base.number();
    let is_write = access.access == Access::Write;
    let may_leak = |env: &Env<'_>| {
        is_write
            && access
                .value
                .is_some_and(|value| env.is_pointer_value(env.cur.reg(value)))
    };
    let leak = |what: &str| -> Check {
        reject!(
            EACCES,
            "R{} leaks addr into {what}",
            access.value.map_or(0, Reg::number)
        )
    };
    let plain = reg.ty.flags == TypeFlags::NONE;
    // Whether a load gives a scalar of which only the size is known.
    let mut loads_unknown = !is_write;
    match reg.ty.base {
        RegBase::PtrToMapKey if plain => {
            if is_write {
                reject!(EACCES, "write to change key R{number} not allowed");
            }
            let key_size = reg.map().map_or(0, |map| env.map(map).key_size);
            check_mem_region(env, &reg, base, off, size, key_size, ZeroSize::Refused)?;
        }
        RegBase::PtrToMapValue if plain => {
            if may_leak(env) {
                return leak("map");
            }
            map_value::check_direct_access(env, &reg, base, off, access)?;
            loads_unknown = false;
        }
        RegBase::PtrToMem => {
            let rdonly = reg.ty.has(TypeFlags::MEM_RDONLY);
            if reg.ty.may_be_null() {
                reject!(
                    EACCES,
                    "R{number} invalid mem access '{}'",
                    TypeName(reg.ty)
                );
            }
            if is_write && rdonly {
                reject!(EACCES, "R{number} cannot write into {}", TypeName(reg.ty));
            }
            if may_leak(env) {
                return leak("mem");
            }
            if !(rdonly && reg.ty.has(TypeFlags::PTR_UNTRUSTED)) {
                check_mem_region(
                    env,
                    &reg,
                    base,
                    off,
                    size,
                    reg.mem_size(),
                    ZeroSize::Refused,
                )?;
            }
        }
        RegBase::PtrToCtx if plain => {
            if may_leak(env) {
                return leak("ctx");
            }
            check_ptr_off_reg(&reg, base)?;
            let result = ctx::check_ctx_access(env, off, access);
            let field = match result {
                Ok(field) => field,
                Err(violation) => {
                    // The source line follows what was said.
                    return Err(with_source_line(env, violation));
                }
            };
            if let (Access::Read, Some(value)) = (access.access, access.value) {
                ctx::load_field(env, value, &field);
            }
            loads_unknown = false;
        }
        RegBase::PtrToStack if plain => {
            stack::check_within_bounds(env, &reg, base, off, size, access.access)?;
            match access.access {
                Access::Read => stack::check_read(env, &reg, base, off, size, access.value)?,
                Access::Write => stack::check_write(env, &reg, base, off, size, access.value)?,
            }
            loads_unknown = false;
        }
        RegBase::PtrToPacket | RegBase::PtrToPacketMeta if plain => {
            if is_write && !packet::may_write_directly(env) {
                reject!(EACCES, "cannot write into packet");
            }
            if may_leak(env) {
                return leak("packet");
            }
            packet::check_packet_access(env, &reg, base, off, size, ZeroSize::Refused)?;
        }
        RegBase::PtrToFlowKeys if plain => {
            if may_leak(env) {
                return leak("flow keys");
            }
            if off < 0 || off + size > FLOW_KEYS_BYTES {
                reject!(EACCES, "invalid access to flow keys off={off} size={size}");
            }
        }
        RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToXdpSock
            if plain =>
        {
            if is_write {
                reject!(EACCES, "R{number} cannot write into {}", TypeName(reg.ty));
            }
            check_sock_access(env, &reg, base, off, access)?;
        }
        RegBase::PtrToTpBuffer if plain => {
            check_buffer("tracepoint", &reg, base, off, size)?;
            env.max_tp_access = env.max_tp_access.max((off + size) as u32);
        }
        RegBase::PtrToBtfId if !reg.ty.may_be_null() => {
            super::btf_ptr::check_btf_access(
                env,
                &reg,
                base,
                off,
                size,
                access.access,
                access.value,
            )?;
            loads_unknown = false;
        }
        RegBase::ConstPtrToMap if plain => {
            check_map_ptr_access(env, &reg, base, off, access)?;
            loads_unknown = false;
        }
        RegBase::PtrToBuf if !reg.ty.may_be_null() => {
            let rdonly = reg.ty.has(TypeFlags::MEM_RDONLY);
            if rdonly && is_write {
                reject!(EACCES, "R{number} cannot write into {}", TypeName(reg.ty));
            }
            check_buffer(
                if rdonly { "rdonly" } else { "rdwr" },
                &reg,
                base,
                off,
                size,
            )?;
            note_buf_access(env, rdonly, off, size);
        }
        RegBase::PtrToArena if plain => {}
        _ => reject!(
            EACCES,
            "R{number} invalid mem access '{}'",
            TypeName(reg.ty)
        ),
    }
    if let (Access::Read, Some(value)) = (access.access, access.value) {
        if loads_unknown {
            mark_reg_unknown(env, value);
        }
        if size < 8 && env.cur.reg(value).ty == RegType::SCALAR {
            let state = env.cur.reg_mut(value);
            state.scalar = match access.mode {
                LoadMode::ZeroExtend => state.scalar.coerce_to_size(access.size),
                LoadMode::SignExtend => state.scalar.sign_extend(access.size),
            };
        }
    }
    Ok(())
}

/// `struct bpf_flow_keys`
const FLOW_KEYS_BYTES: i32 = 56;

/// The violation, and behind it the source line it stands at.
pub(crate) fn with_source_line(
    env: &mut Env<'_>,
    violation: alloc::boxed::Box<Violation>,
) -> alloc::boxed::Box<Violation> {
    let mut log = crate::log::Log::new(env.log.level().max(1));
    log_source_line(&mut log, env.facts, &mut env.prev_linfo, env.insn_idx, "; ");
    let line = log.as_str().trim_end_matches('\n');
    if line.is_empty() {
        violation
    } else {
        violation.and_line(line)
    }
}

/// Whether an access of no bytes is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroSize {
    Refused,
    Allowed,
}

/// A fixed range inside of an object: `__check_mem_access`.
pub(crate) fn check_fixed_region(
    reg: &RegState,
    base: Reg,
    off: i64,
    size: i32,
    mem_size: u32,
    zero: ZeroSize,
) -> Check {
    let off = off as i32;
    let size_ok = size > 0 || size == 0 && zero == ZeroSize::Allowed;
    if off >= 0 && size_ok && off as u64 + size as u64 <= u64::from(mem_size) {
        return Ok(());
    }
    match reg.ty.base {
        RegBase::PtrToMapKey => {
            reject!(
                EACCES,
                "invalid access to map key, key_size={} off={off} size={size}",
                mem_size as i32
            )
        }
        RegBase::PtrToMapValue => {
            reject!(
                EACCES,
                "invalid access to map value, value_size={} off={off} size={size}",
                mem_size as i32
            )
        }
        RegBase::PtrToPacket | RegBase::PtrToPacketMeta | RegBase::PtrToPacketEnd => reject!(
            EACCES,
            "invalid access to packet, off={off} size={size}, R{}(id={},off={off},r={})",
            base.number(),
            reg.id,
            mem_size as i32
        ),
        _ => reject!(
            EACCES,
            "invalid access to memory, mem_size={mem_size} off={off} size={size}"
        ),
    }
}

/// A range with a variable part inside of an object: `check_mem_region_access`.
pub(crate) fn check_mem_region(
    _env: &Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    mem_size: u32,
    zero: ZeroSize,
) -> Check {
    let number = base.number();
    let s = &reg.scalar;
    let low = i64::from(off).wrapping_add(s.smin);
    if s.smin < 0 && (s.smin == i64::MIN || low != i64::from(low as i32) || low < 0) {
        reject!(
            EACCES,
            "R{number} min value is negative, either use unsigned index or do a if (index >=0) check."
        );
    }
    check_fixed_region(reg, base, low, size, mem_size, zero).map_err(|v| {
        v.and_line(format_args!(
            "R{number} min value is outside of the allowed memory range"
        ))
    })?;
    if s.umax >= VAR_OFF_MAX as u64 {
        reject!(
            EACCES,
            "R{number} unbounded memory access, make sure to bounds check any such access"
        );
    }
    check_fixed_region(
        reg,
        base,
        (s.umax as i64).wrapping_add(i64::from(off)),
        size,
        mem_size,
        zero,
    )
    .map_err(|v| {
        v.and_line(format_args!(
            "R{number} max value is outside of the allowed memory range"
        ))
    })
}

/// A pointer in its original, unmodified form: `check_ptr_off_reg`.
pub(crate) fn check_ptr_off_reg(reg: &RegState, base: Reg) -> Check {
    check_ptr_off_reg_with(reg, base, FixedOffset::Refused)
}

/// Whether a fixed offset leaves a pointer in its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FixedOffset {
    Refused,
    Allowed,
}

/// As [`check_ptr_off_reg`]: `__check_ptr_off_reg`.
pub(crate) fn check_ptr_off_reg_with(reg: &RegState, base: Reg, fixed: FixedOffset) -> Check {
    let number = base.number();
    if reg.off < 0 {
        reject!(
            EACCES,
            "negative offset {} ptr R{number} off={} disallowed",
            TypeName(reg.ty),
            reg.off
        );
    }
    if fixed == FixedOffset::Refused && reg.off != 0 {
        reject!(
            EACCES,
            "dereference of modified {} ptr R{number} off={} disallowed",
            TypeName(reg.ty),
            reg.off
        );
    }
    if reg.scalar.const_value() != Some(0) {
        reject!(
            EACCES,
            "variable {} access var_off={} disallowed",
            TypeName(reg.ty),
            TnumText(reg.scalar.var_off)
        );
    }
    Ok(())
}

fn check_buffer(what: &str, reg: &RegState, base: Reg, off: i32, size: i32) -> Check {
    let number = base.number();
    if off < 0 {
        reject!(
            EACCES,
            "R{number} invalid {what} buffer access: off={off}, size={size}"
        );
    }
    if reg.scalar.const_value() != Some(0) {
        reject!(
            EACCES,
            "R{number} invalid variable buffer offset: off={off}, var_off={}",
            TnumText(reg.scalar.var_off)
        );
    }
    Ok(())
}

/// What links of iterators compare with the sizes of a map.
fn note_buf_access(env: &mut Env<'_>, rdonly: bool, off: i32, size: i32) {
    let access = &mut env.max_buf_access;
    let most = match rdonly {
        true => &mut access.rdonly,
        false => &mut access.rdwr,
    };
    *most = (*most).max(off.saturating_add(size) as u32);
}

fn check_sock_access(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    access: MemAccess,
) -> Check {
    let number = base.number();
    if reg.scalar.smin < 0 {
        reject!(
            EACCES,
            "R{number} min value is negative, either use unsigned index or do a if (index >=0) check."
        );
    }
    match ctx::check_sock_field(env, reg.ty.base, off, access) {
        Some(field_size) => {
            env.aux[env.insn_idx].ctx_field_size = field_size;
            Ok(())
        }
        None => reject!(
            EACCES,
            "R{number} invalid {} access off={off} size={}",
            TypeName(reg.ty),
            access.size.bytes()
        ),
    }
}

fn check_map_ptr_access(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    access: MemAccess,
) -> Check {
    let number = base.number();
    let Some(map) = reg.map() else {
        return Err(Violation::bug("map pointer without map"));
    };
    let map = env.map(map);
    if env.req.kernel_btf.is_none() {
        reject!(
            ENOTSUPP,
            "map_ptr access not supported without CONFIG_DEBUG_INFO_BTF"
        );
    }
    let Some(name) = map_value::kernel_struct_of(map.map_type) else {
        reject!(
            ENOTSUPP,
            "map_ptr access not supported for map type {}",
            map.map_type.raw()
        );
    };
    if !env.permits.allow_ptr_leaks {
        reject!(
            EPERM,
            "'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN"
        );
    }
    if off < 0 {
        reject!(
            EACCES,
            "R{number} is {name} invalid negative access: off={off}"
        );
    }
    if access.access == Access::Write {
        reject!(EACCES, "only read from {name} is supported");
    }
    super::btf_ptr::check_map_struct(env, name, off, access.size.bytes() as i32, access.value)
}

/// What a helper that writes without reading asks for: filled in by [`check_helper_mem_access`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawMem {
    /// The memory need not have been written before.
    pub(crate) raw_mode: bool,
    pub(crate) access_size: i32,
    pub(crate) reg: Option<Reg>,
}

/// `access_size` bytes behind a register, read or written by a helper: `check_helper_mem_access`.
pub(crate) fn check_helper_mem_access(
    env: &mut Env<'_>,
    base: Reg,
    access_size: i32,
    access: Access,
    zero: ZeroSize,
    raw: Option<&mut RawMem>,
) -> Check {
    let reg = *env.cur.reg(base);
    let number = base.number();
    let is_write = access == Access::Write;
    match reg.ty.base {
        RegBase::PtrToPacket | RegBase::PtrToPacketMeta => {
            packet::check_packet_access(env, &reg, base, reg.off, access_size, zero)
        }
        RegBase::PtrToMapKey => {
            if is_write {
                reject!(EACCES, "R{number} cannot write into {}", TypeName(reg.ty));
            }
            let key_size = reg.map().map_or(0, |map| env.map(map).key_size);
            check_mem_region(
                env,
                &reg,
                base,
                reg.off,
                access_size,
                key_size,
                ZeroSize::Refused,
            )
        }
        RegBase::PtrToMapValue => {
            map_value::check_access_type(env, &reg, reg.off, access_size, access)?;
            map_value::check_map_access(
                env,
                &reg,
                base,
                reg.off,
                access_size,
                zero,
                map_value::AccessBy::Helper,
            )
        }
        RegBase::PtrToMem => {
            if reg.ty.has(TypeFlags::MEM_RDONLY) && is_write {
                reject!(EACCES, "R{number} cannot write into {}", TypeName(reg.ty));
            }
            check_mem_region(env, &reg, base, reg.off, access_size, reg.mem_size(), zero)
        }
        RegBase::PtrToBuf => {
            let rdonly = reg.ty.has(TypeFlags::MEM_RDONLY);
            if rdonly && is_write {
                reject!(EACCES, "R{number} cannot write into {}", TypeName(reg.ty));
            }
            check_buffer(
                if rdonly { "rdonly" } else { "rdwr" },
                &reg,
                base,
                reg.off,
                access_size,
            )?;
            note_buf_access(env, rdonly, reg.off, access_size);
            Ok(())
        }
        RegBase::PtrToStack => {
            stack::check_range_initialized(env, &reg, base, reg.off, access_size, access, zero, raw)
        }
        RegBase::PtrToBtfId => {
            super::btf_ptr::check_btf_access(env, &reg, base, reg.off, access_size, access, None)
        }
        RegBase::PtrToCtx if ctx::is_plain_memory(env) => {
            if access_size == 0 {
                if zero == ZeroSize::Allowed {
                    return Ok(());
                }
                reject!(EACCES);
            }
            let access = MemAccess {
                access,
                size: MemSize::B,
                mode: LoadMode::ZeroExtend,
                value: None,
                strict_alignment: false,
            };
            check_mem_access(env, base, access_size - 1, access)
        }
        _ => {
            if zero == ZeroSize::Allowed && access_size == 0 && reg.is_null() {
                return Ok(());
            }
            reject!(
                EACCES,
                "R{number} type={} expected={}",
                TypeName(reg.ty),
                TypeName(RegType::STACK)
            )
        }
    }
}
