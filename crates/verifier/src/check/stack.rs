//! The stack: bounds, spills and fills of registers, plain bytes, offsets with a variable part.
//!
//! A store of a whole register keeps its state in the slot (a *spill*), a load of the same bytes gets it back (a *fill*); anything
//! else leaves bytes of some number, or zeros. Kernel counterpart: `check_stack_read`, `check_stack_write`. Neighbours:
//! `liveness/stack` (who reads which slot), `backtrack` (history entries name the slot of a spill or fill).

use core::ops::RangeInclusive;

use ring3_isa::{Insn, Operand, Reg};

use super::dynptr;
use super::mem::{Access, RawMem, TnumText, ZeroSize};
use super::regs::mark_reg_unknown;
use crate::backtrack::{mark_chain_precision, push_jmp_history};
use crate::env::{Env, Slot};
use crate::error::{Check, Violation, reject};
use crate::limits::VAR_OFF_MAX;
use crate::log::insn::log_source_line;
use crate::state::{
    BPF_ADD_CONST, FuncState, HistFlags, RegBase, RegState, SLOT_BYTES, SharedReg, SlotType,
    StackSlot,
};

const STACK_MAX: i64 = ring3_uapi::limits::STACK_BYTES_MAX as i64;

/// Slot and byte in it (index into `types`) of a stack offset below 0.
#[inline]
fn place(off: i32) -> (usize, usize) {
    let slot = (-off - 1) as usize;
    (slot / SLOT_BYTES, slot % SLOT_BYTES)
}

/// The reverse of [`place`].
fn offset_of(spi: usize, byte: usize) -> i32 {
    -((spi * SLOT_BYTES + byte) as i32) - 1
}

/// The whole access lies in the stack, which grows to hold it: `check_stack_access_within_bounds`.
pub(crate) fn check_within_bounds(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    access: Access,
) -> Check {
    let number = base.number();
    let what = match access {
        Access::Read => " read from",
        Access::Write => " write to",
    };
    let s = &reg.scalar;
    let (min_off, max_off) = match s.const_value() {
        Some(value) => {
            let min = (value as i64).wrapping_add(i64::from(off));
            (min, min.wrapping_add(i64::from(size)))
        }
        None => {
            if s.smax >= VAR_OFF_MAX || s.smin <= -VAR_OFF_MAX {
                reject!(
                    EACCES,
                    "invalid unbounded variable-offset{what} stack R{number}"
                );
            }
            (
                s.smin + i64::from(off),
                s.smax + i64::from(off) + i64::from(size),
            )
        }
    };
    let allocated = i64::from(env.frame_of(reg).allocated_stack());
    let lowest = if access == Access::Write || env.permits.allow_uninit_stack {
        -STACK_MAX
    } else {
        -allocated
    };
    let errno = if min_off < lowest || min_off > -1 {
        Some(ring3_uapi::Errno::EACCES)
    } else if max_off > 0 {
        Some(ring3_uapi::Errno::EINVAL)
    } else if size < 0 {
        Some(ring3_uapi::Errno::EFAULT)
    } else {
        None
    };
    if let Some(errno) = errno {
        let text = if s.is_const() {
            alloc::format!("invalid{what} stack R{number} off={min_off} size={size}")
        } else {
            alloc::format!(
                "invalid variable-offset{what} stack R{number} var_off={} off={off} size={size}",
                TnumText(s.var_off)
            )
        };
        return Err(Violation::new(errno, text));
    }
    grow(env, reg.frameno, -min_off as i32);
    Ok(())
}

/// Makes slots for `bytes` below a frame's pointer, and notes the function's need.
pub(crate) fn grow(env: &mut Env<'_>, frameno: u8, bytes: i32) {
    let frame = env.cur.frame(frameno);
    if frame.allocated_stack() >= bytes {
        return;
    }
    let subprog = frame.subprogno() as usize;
    let frame = env.cur.frame_mut(frameno);
    frame.grow_stack(bytes);
    let depth = frame.allocated_stack() as u16;
    let aux = &mut env.subprog_aux[subprog];
    aux.stack_depth = aux.stack_depth.max(depth);
}

/// A load of `size` bytes at `off` (with the pointer's fixed part) into `dst`: `check_stack_read`.
pub(crate) fn check_read(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    dst: Option<Reg>,
) -> Check {
    match (reg.scalar.const_value(), dst) {
        (Some(value), _) => {
            check_read_fixed(env, reg.frameno, off.wrapping_add(value as i32), size, dst)
        }
        (None, None) => reject!(
            EACCES,
            "variable offset stack pointer cannot be passed into helper function; var_off={} off={off} size={size}",
            TnumText(reg.scalar.var_off)
        ),
        (None, Some(dst)) => {
            check_range_initialized(
                env,
                reg,
                base,
                off,
                size,
                Access::Read,
                ZeroSize::Refused,
                None,
            )?;
            let min_off = reg.scalar.smin as i32 + off;
            let max_off = reg.scalar.smax as i32 + off;
            read_bytes(env, reg.frameno, min_off, max_off + size, dst);
            note_fastcall(env, reg.frameno, min_off);
            Ok(())
        }
    }
}

/// An access outside of the pattern of a fastcall makes its spills real: `check_fastcall_stack_contract`.
fn note_fastcall(env: &mut Env<'_>, frameno: u8, off: i32) {
    let subprog = env.cur.frame(frameno).subprogno();
    if env
        .facts
        .fastcall
        .breaks_contract(subprog, env.insn_idx, off)
    {
        env.subprog_aux[subprog as usize].keep_fastcall_stack = true;
    }
}

fn check_read_fixed(
    env: &mut Env<'_>,
    frameno: u8,
    off: i32,
    size: i32,
    dst: Option<Reg>,
) -> Check {
    let (spi, byte) = place(off);
    env.mark_slot_scratched(spi as u32);
    // The contract is that of the function that runs, whosever stack it reads.
    note_fastcall(env, env.cur.curframe, off);
    env.stack_liveness
        .mark_read(env.facts, &env.cur, frameno, env.insn_idx, 1 << spi);
    let mut hist = HistFlags::stack(frameno, spi as u32);
    let Some(slot) = env.cur.frame(frameno).stack.get(spi) else {
        return Err(Violation::bug("stack slot beyond the stack"));
    };
    if slot.is_spilled_reg() {
        let spill_size = 1 + slot.types[..SLOT_BYTES - 1]
            .iter()
            .rev()
            .take_while(|&&ty| ty == SlotType::Spill)
            .count();
        let reg = *slot.spilled();
        if size as usize != SLOT_BYTES || spill_size != SLOT_BYTES {
            if !reg.ty.is_scalar() {
                log_source_line(env.log, env.facts, &mut env.prev_linfo, env.insn_idx, "; ");
                reject!(EACCES, "invalid size of register fill");
            }
            let Some(dst) = dst else { return Ok(()) };
            let width = 64 - reg.scalar.umax.leading_zeros();
            if size as usize <= spill_size && off % SLOT_BYTES as i32 == 0 {
                if env.permits.bpf_capable && size == 4 && spill_size == 4 && width <= 32 {
                    assign_slot_id(env, frameno, spi);
                }
                let reg = *env.cur.frame(frameno).stack[spi].spilled();
                let state = env.cur.reg_mut(dst);
                let subreg_def = state.subreg_def;
                *state = reg;
                state.subreg_def = subreg_def;
                if width > size as u32 * 8 {
                    state.id = 0;
                }
            } else {
                let (mut spilled, mut zeros) = (0, 0);
                for i in 0..size {
                    match slot.types[byte - i as usize] {
                        SlotType::Spill => spilled += 1,
                        SlotType::Misc => {}
                        SlotType::Zero => zeros += 1,
                        SlotType::Invalid if env.permits.allow_uninit_stack => {}
                        SlotType::Invalid
                        | SlotType::Dynptr
                        | SlotType::Iter
                        | SlotType::IrqFlag => {
                            reject!(EACCES, "invalid read from stack off {off}+{i} size {size}")
                        }
                    }
                }
                if spilled == size && reg.scalar.const_value() == Some(0) {
                    set_const_zero(env, dst);
                } else if zeros == size {
                    set_const_zero(env, dst);
                    hist = HistFlags::NONE;
                } else {
                    mark_reg_unknown(env, dst);
                    hist = HistFlags::NONE;
                }
            }
        } else if let Some(dst) = dst {
            if let Some(reg) = env.cur.frame(frameno).stack[spi].shared_spilled() {
                env.cur.share_reg(dst, reg);
            }
        } else if env.is_pointer_value(&reg) {
            reject!(EACCES, "leaking pointer from stack off {off}");
        }
    } else {
        for i in 0..size {
            match slot.types[byte - i as usize] {
                SlotType::Misc | SlotType::Zero => {}
                SlotType::Invalid if env.permits.allow_uninit_stack => {}
                SlotType::Invalid
                | SlotType::Spill
                | SlotType::Dynptr
                | SlotType::Iter
                | SlotType::IrqFlag => {
                    reject!(EACCES, "invalid read from stack off {off}+{i} size {size}")
                }
            }
        }
        if let Some(dst) = dst {
            read_bytes(env, frameno, off, off + size, dst);
        }
        hist = HistFlags::NONE;
    }
    if hist != HistFlags::NONE {
        push_jmp_history(env, hist, 0);
    }
    Ok(())
}

/// Gives a spilled scalar that is no constant an id, so that the register filled from it is linked to it.
fn assign_slot_id(env: &mut Env<'_>, frameno: u8, spi: usize) {
    let reg = env.cur.frame(frameno).stack[spi].spilled();
    if !reg.ty.is_scalar() {
        return;
    }
    let drops_sum = reg.id & BPF_ADD_CONST != 0;
    let needs_id = (reg.id == 0 || drops_sum) && !reg.scalar.is_const();
    if !drops_sum && !needs_id {
        return;
    }
    let id = if needs_id { env.new_id() } else { 0 };
    let reg = env.cur.frame_mut(frameno).stack[spi].spilled_mut();
    if drops_sum {
        reg.off = 0;
    }
    reg.id = id;
}

fn set_const_zero(env: &mut Env<'_>, dst: Reg) {
    let precise = !env.permits.bpf_capable;
    let reg = env.cur.reg_mut(dst);
    reg.set_const_zero();
    reg.precise = precise;
}

/// Bytes `min_off..max_off` of some frame into a register: zero if all are, else some number: `mark_reg_stack_read`.
fn read_bytes(env: &mut Env<'_>, frameno: u8, min_off: i32, max_off: i32, dst: Reg) {
    let mut all_zero = true;
    for off in min_off..max_off {
        let (spi, byte) = place(off);
        env.mark_slot_scratched(spi as u32);
        let ty = env
            .cur
            .frame(frameno)
            .stack
            .get(spi)
            .map(|slot| slot.types[byte]);
        if ty != Some(SlotType::Zero) {
            all_zero = false;
            break;
        }
    }
    if all_zero {
        set_const_zero(env, dst);
    } else {
        mark_reg_unknown(env, dst);
    }
}

/// A store of `size` bytes: `check_stack_write`.
pub(crate) fn check_write(
    env: &mut Env<'_>,
    reg: &RegState,
    _base: Reg,
    off: i32,
    size: i32,
    value: Option<Reg>,
) -> Check {
    match reg.scalar.const_value() {
        Some(fixed) => check_write_fixed(
            env,
            reg.frameno,
            off.wrapping_add(fixed as i32),
            size,
            value,
        ),
        None => check_write_var(env, reg, off, size, value),
    }
}

/// Pointers that keep their state in a slot.
fn is_spillable(reg: &RegState) -> bool {
    match reg.ty.base {
        RegBase::PtrToMapValue
        | RegBase::PtrToStack
        | RegBase::PtrToCtx
        | RegBase::PtrToPacket
        | RegBase::PtrToPacketMeta
        | RegBase::PtrToPacketEnd
        | RegBase::PtrToFlowKeys
        | RegBase::ConstPtrToMap
        | RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToXdpSock
        | RegBase::PtrToBtfId
        | RegBase::PtrToBuf
        | RegBase::PtrToMem
        | RegBase::PtrToFunc
        | RegBase::PtrToMapKey
        | RegBase::PtrToArena => true,
        RegBase::NotInit | RegBase::Scalar | RegBase::PtrToTpBuffer | RegBase::ConstPtrToDynptr => {
            false
        }
    }
}

/// The immediate of a store of an immediate, if the current instruction is one.
fn stored_imm(env: &Env<'_>) -> Option<i32> {
    match env.facts.slots[env.insn_idx as usize] {
        Slot::Insn(Insn::Store {
            src: Operand::Imm(imm),
            ..
        }) => Some(imm),
        _ => None,
    }
}

fn check_write_fixed(
    env: &mut Env<'_>,
    frameno: u8,
    off: i32,
    size: i32,
    value: Option<Reg>,
) -> Check {
    let (spi, byte) = place(off);
    let permits = env.permits;
    let Some(slot) = env.cur.frame(frameno).stack.get(spi) else {
        return Err(Violation::bug("stack slot beyond the stack"));
    };
    if !permits.allow_ptr_leaks
        && slot.is_spilled_reg()
        && !slot.is_spilled_scalar()
        && size as usize != SLOT_BYTES
    {
        reject!(EACCES, "attempt to corrupt spilled pointer on stack");
    }
    let reg = value.map(|value| *env.cur.reg(value));
    if !permits.bypass_spec_v4 {
        let sanitize = reg.as_ref().is_some_and(is_spillable)
            || needs_barrier(&slot.types[byte + 1 - size as usize..=byte]);
        if sanitize {
            env.aux[env.insn_idx].nospec_result = true;
        }
    }
    dynptr::destroy_if_dynptr(env, frameno, spi)?;
    note_fastcall(env, frameno, off);
    env.mark_slot_scratched(spi as u32);
    let aligned = off % SLOT_BYTES as i32 == 0;
    if aligned && size as usize == SLOT_BYTES {
        env.stack_liveness.mark_write(frameno, 1 << spi);
    }
    let mut hist = HistFlags::stack(frameno, spi as u32);
    match (&reg, value) {
        (Some(reg), Some(value))
            if aligned && reg.ty.base == RegBase::Scalar && permits.bpf_capable =>
        {
            let fits = 64 - reg.scalar.umax.leading_zeros() <= size as u32 * 8;
            if fits {
                super::regs::assign_scalar_id(env, value);
            }
            let mut spilled = env.cur.shared_reg(value);
            if !fits && spilled.id != 0 {
                spilled.id = 0;
            }
            spill(env, frameno, spi, spilled, size);
        }
        (None, _) if aligned && permits.bpf_capable && stored_imm(env).is_some() => {
            let imm = stored_imm(env).unwrap_or(0);
            spill(
                env,
                frameno,
                spi,
                SharedReg::new(RegState::known(i64::from(imm) as u64)),
                size,
            );
        }
        (Some(reg), Some(value)) if is_spillable(reg) => {
            if size as usize != SLOT_BYTES {
                log_source_line(env.log, env.facts, &mut env.prev_linfo, env.insn_idx, "; ");
                reject!(EACCES, "invalid size of register spill");
            }
            if frameno != env.cur.curframe && reg.ty.is(RegBase::PtrToStack) {
                reject!(
                    EINVAL,
                    "cannot spill pointers to stack into stack frame of the caller"
                );
            }
            let spilled = env.cur.shared_reg(value);
            spill(env, frameno, spi, spilled, size);
        }
        _ => {
            let zero = match (&reg, stored_imm(env)) {
                (Some(reg), _) => reg.is_null(),
                (None, imm) => imm == Some(0),
            };
            let mut ty = SlotType::Misc;
            if zero {
                if let Some(value) = value {
                    mark_chain_precision(env, value)?;
                }
                ty = SlotType::Zero;
            }
            store_plain(env, frameno, spi, byte + 1 - size as usize..=byte, ty);
            hist = HistFlags::NONE;
        }
    }
    if hist != HistFlags::NONE {
        push_jmp_history(env, hist, 0);
    }
    Ok(())
}

/// A helper fills `size` bytes where a pointer with a fixed offset points to: as that many stores of one byte, all of them known to be in
/// bounds.
pub(crate) fn write_bytes(env: &mut Env<'_>, reg: &RegState, size: i32) -> Check {
    let Some(fixed) = reg.const_offset() else {
        return Err(Violation::bug("raw memory at a variable offset"));
    };
    let begin = fixed as i32;
    let frameno = reg.frameno;
    let permits = env.permits;
    for (spi, bytes) in slots_of(begin, begin + size) {
        let Some(slot) = env.cur.frame(frameno).stack.get(spi) else {
            return Err(Violation::bug("stack slot beyond the stack"));
        };
        if !permits.allow_ptr_leaks && slot.is_spilled_reg() && !slot.is_spilled_scalar() {
            reject!(EACCES, "attempt to corrupt spilled pointer on stack");
        }
        if !permits.bypass_spec_v4 && needs_barrier(&slot.types[bytes.clone()]) {
            env.aux[env.insn_idx].nospec_result = true;
        }
        dynptr::destroy_if_dynptr(env, frameno, spi)?;
        note_fastcall(env, frameno, begin);
        env.mark_slot_scratched(spi as u32);
        store_plain(env, frameno, spi, bytes, SlotType::Misc);
    }
    Ok(())
}

/// Whether a store to these bytes must be done before anything behind it is: a load could see what they were.
fn needs_barrier(bytes: &[SlotType]) -> bool {
    bytes
        .iter()
        .any(|ty| !matches!(ty, SlotType::Misc | SlotType::Zero))
}

/// Bytes of a slot become some number or zero; what the slot held is lost.
fn store_plain(
    env: &mut Env<'_>,
    frameno: u8,
    spi: usize,
    bytes: RangeInclusive<usize>,
    ty: SlotType,
) {
    // A slot that holds this already stays shared with other states.
    let slot = &env.cur.frame(frameno).stack[spi];
    if slot.holds_register() || slot.types[bytes.clone()].iter().any(|&old| old != ty) {
        let slot = &mut env.cur.frame_mut(frameno).stack[spi];
        if slot.is_spilled_reg() || slot.is_special() {
            // Its bytes are some numbers.
            for byte in 0..SLOT_BYTES {
                slot.scrub(byte);
            }
        }
        slot.clear_spilled();
        slot.types[bytes].fill(ty);
    }
}

/// The slots that stack offsets `begin..end` lie in, lowest offset first, and which bytes of each (indices into `types`).
fn slots_of(begin: i32, end: i32) -> impl Iterator<Item = (usize, RangeInclusive<usize>)> {
    let mut at = begin;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (spi, first) = place(at);
        let next = end.min(-((spi * SLOT_BYTES) as i32));
        let (_, last) = place(next - 1);
        at = next;
        Some((spi, last..=first))
    })
}

/// `save_register_state`
fn spill(env: &mut Env<'_>, frameno: u8, spi: usize, reg: SharedReg, size: i32) {
    let slot = &mut env.cur.frame_mut(frameno).stack[spi];
    slot.share_spilled(reg);
    let low = SLOT_BYTES - size as usize;
    for ty in &mut slot.types[low..] {
        *ty = SlotType::Spill;
    }
    for byte in 0..low {
        slot.mark_misc(byte);
    }
}

/// A store at an offset with a variable part: any of the bytes may change.
fn check_write_var(
    env: &mut Env<'_>,
    ptr: &RegState,
    off: i32,
    size: i32,
    value: Option<Reg>,
) -> Check {
    let insn_idx = env.insn_idx;
    let frameno = ptr.frameno;
    let min_off = ptr.scalar.smin as i32 + off;
    let max_off = ptr.scalar.smax as i32 + off + size;
    let writing_zero = match value {
        Some(value) => env.cur.reg(value).is_null(),
        None => stored_imm(env) == Some(0),
    };
    for i in min_off..max_off {
        dynptr::destroy_if_dynptr(env, frameno, place(i).0)?;
    }
    note_fastcall(env, frameno, min_off);
    let permits = env.permits;
    let mut zero_used = false;
    for i in min_off..max_off {
        let (spi, byte) = place(i);
        env.mark_slot_scratched(spi as u32);
        let slot = &mut env.cur.frame_mut(frameno).stack[spi];
        let ty = slot.types[byte];
        if !permits.allow_ptr_leaks && ty != SlotType::Misc && ty != SlotType::Zero {
            reject!(
                EINVAL,
                "spilled ptr in range of var-offset stack write; insn {insn_idx}, ptr off: {i}"
            );
        }
        if writing_zero
            && ty == SlotType::Spill
            && slot.is_spilled_scalar()
            && slot.spilled().scalar.const_value() == Some(0)
        {
            zero_used = true;
            continue;
        }
        if slot.is_spilled_reg() {
            for byte in 0..SLOT_BYTES {
                slot.scrub(byte);
            }
        }
        slot.clear_spilled();
        let mut new_ty = SlotType::Misc;
        if writing_zero && ty == SlotType::Zero {
            new_ty = SlotType::Zero;
            zero_used = true;
        }
        if ty == SlotType::Invalid && !permits.allow_uninit_stack {
            reject!(
                EINVAL,
                "uninit stack in range of var-offset write prohibited for !root; insn {insn_idx}, off: {i}"
            );
        }
        slot.types[byte] = new_ty;
    }
    if zero_used && let Some(value) = value {
        mark_chain_precision(env, value)?;
    }
    Ok(())
}

/// Every byte of the range may be read (`Read`), or will be written by a helper (`Write`): `check_stack_range_initialized`.
#[expect(clippy::too_many_arguments, reason = "the facts of one access")]
pub(crate) fn check_range_initialized(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    access: Access,
    zero: ZeroSize,
    raw: Option<&mut RawMem>,
) -> Check {
    let number = base.number();
    if size == 0 && zero == ZeroSize::Refused {
        reject!(EACCES, "invalid zero-sized read");
    }
    check_within_bounds(env, reg, base, off, size, access)?;
    let mut raw = raw.filter(|raw| raw.raw_mode);
    let (min_off, max_off) = match reg.scalar.const_value() {
        Some(value) => {
            let at = off.wrapping_add(value as i32);
            (at, at)
        }
        None => {
            if !env.permits.bypass_spec_v1 {
                reject!(
                    EACCES,
                    "R{number} variable offset stack access prohibited for !root, var_off={}",
                    TnumText(reg.scalar.var_off)
                );
            }
            raw = None;
            (reg.scalar.smin as i32 + off, reg.scalar.smax as i32 + off)
        }
    };
    if let Some(raw) = raw {
        let stack = &env.cur.frame(reg.frameno).stack;
        for (spi, bytes) in slots_of(min_off, max_off + size) {
            let is_dynptr = |byte: usize| {
                let slot = stack.get(spi);
                slot.is_some_and(|slot| slot.types[byte] == SlotType::Dynptr)
            };
            if let Some(byte) = bytes.rev().find(|&byte| is_dynptr(byte)) {
                let off = offset_of(spi, byte);
                reject!(EACCES, "potential write to dynptr at off={off} disallowed");
            }
        }
        raw.access_size = size;
        raw.reg = Some(base);
        return Ok(());
    }
    let permits = env.permits;
    let frameno = reg.frameno;
    let clobbers = access == Access::Write;
    for (spi, bytes) in slots_of(min_off, max_off + size) {
        let Some(slot) = env.cur.frame(frameno).stack.get(spi) else {
            return Err(Violation::bug("allocated_stack too small"));
        };
        let is_number = slot.is_spilled_reg()
            && (slot.spilled().ty == crate::state::RegType::SCALAR || permits.allow_ptr_leaks);
        let is_readable = |&ty: &SlotType| match ty {
            SlotType::Misc | SlotType::Zero => true,
            SlotType::Invalid => permits.allow_uninit_stack || is_number,
            SlotType::Spill | SlotType::Dynptr | SlotType::Iter | SlotType::IrqFlag => is_number,
        };
        let stays = !clobbers || slot.is_all(SlotType::Misc);
        if stays && slot.types[bytes.clone()].iter().all(is_readable) {
            env.stack_liveness
                .mark_read(env.facts, &env.cur, frameno, env.insn_idx, 1 << spi);
            continue;
        }
        let mut is_noted = false;
        for byte in bytes.rev() {
            let Some(slot) = env.cur.frame(frameno).stack.get(spi) else {
                return Err(Violation::bug("allocated_stack too small"));
            };
            let ty = slot.types[byte];
            if ty == SlotType::Misc {
            } else if ty == SlotType::Zero || ty == SlotType::Invalid && permits.allow_uninit_stack
            {
                if clobbers {
                    env.cur.frame_mut(frameno).stack[spi].types[byte] = SlotType::Misc;
                }
            } else if slot.is_spilled_reg()
                && (slot.spilled().ty == crate::state::RegType::SCALAR || permits.allow_ptr_leaks)
            {
                if clobbers {
                    forget_spill(env.cur.frame_mut(frameno), spi, !permits.bpf_capable);
                }
            } else {
                let at = offset_of(spi, byte) - min_off;
                if reg.scalar.is_const() {
                    reject!(
                        EACCES,
                        "invalid read from stack R{number} off {min_off}+{at} size {size}"
                    );
                }
                reject!(
                    EACCES,
                    "invalid read from stack R{number} var_off {}+{at} size {size}",
                    TnumText(reg.scalar.var_off)
                );
            }
            if !is_noted {
                env.stack_liveness
                    .mark_read(env.facts, &env.cur, frameno, env.insn_idx, 1 << spi);
                is_noted = true;
            }
        }
    }
    Ok(())
}

/// A helper may have written over a spilled register.
fn forget_spill(frame: &mut FuncState, spi: usize, precise: bool) {
    let slot: &mut StackSlot = &mut frame.stack[spi];
    let reg = slot.spilled_mut();
    reg.set_unknown();
    reg.precise = precise;
    for byte in 0..SLOT_BYTES {
        slot.scrub(byte);
    }
}
