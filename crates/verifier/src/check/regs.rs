//! Registers as operands: may they be read, what becomes of them when written.

use alloc::boxed::Box;

use ring3_isa::{CallTarget, EndianOp, Insn, LoadMode, MemSize, Operand, Reg, Width};
use ring3_uapi::Errno;

use crate::env::{Env, InsnFlags, Slot};
use crate::error::{Check, Violation, reject};
use crate::state::{DEF_NOT_SUBREG, RegState};

/// How an instruction uses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegArg {
    /// Reads it.
    Src,
    /// Writes it; it becomes an unknown scalar.
    Dst,
    /// Writes it; the caller says what it becomes.
    DstNoMark,
}

/// What exploration asks of an instruction each time it comes there.
pub(crate) fn uses_of(slot: &Slot) -> InsnFlags {
    let may_write_stack = matches!(
        slot,
        Slot::Insn(Insn::Store { .. } | Insn::Atomic { .. } | Insn::Call(_) | Insn::Exit)
    );
    let widths = widths_of(slot);
    if may_write_stack {
        widths.with(InsnFlags::MAY_WRITE_STACK)
    } else {
        widths
    }
}

/// Which registers an instruction uses with all 64 bits: `is_reg64`.
fn widths_of(slot: &Slot) -> InsnFlags {
    const BOTH: InsnFlags = InsnFlags::READS_64.with(InsnFlags::WRITES_64);
    const NONE: InsnFlags = InsnFlags(0);
    let both_if = |is_wide: bool| if is_wide { BOTH } else { NONE };
    let insn = match slot {
        Slot::Insn(insn) => insn,
        Slot::LoadImm64 { .. } | Slot::SecondHalf | Slot::Bad => return BOTH,
    };
    match insn {
        Insn::Alu { width, .. }
        | Insn::Neg { width, .. }
        | Insn::Movsx { width, .. }
        | Insn::Jmp { width, .. } => both_if(*width == Width::W64),
        // `bswap16` and `bswap32` are of the 64-bit class, `le`/`be` of the 32-bit one.
        Insn::Endian { size, op, .. } => both_if(*op == EndianOp::Swap || *size == MemSize::Dw),
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => InsnFlags::READS_64,
        Insn::Load { size, mode, .. } => {
            if *size == MemSize::Dw || *mode == LoadMode::SignExtend {
                BOTH
            } else {
                InsnFlags::READS_64
            }
        }
        Insn::Store {
            src: Operand::Imm(_),
            ..
        } => BOTH,
        Insn::Atomic { size, .. } | Insn::Store { size, .. } => {
            both_if(*size == MemSize::Dw).with(InsnFlags::READS_POINTER)
        }
        Insn::AddrSpaceCast { .. }
        | Insn::LoadImm64 { .. }
        | Insn::Ja { .. }
        | Insn::MayGoto { .. }
        | Insn::Exit
        | Insn::Internal(_) => BOTH,
        Insn::Jal { .. } | Insn::Call(CallTarget::Subprog(_)) => NONE,
        Insn::Call(_) => InsnFlags::READS_64,
    }
}

/// The upper half of what `reg` holds is used: the instruction that defined the low half must clear it.
#[inline]
pub(crate) fn mark_insn_zext(env: &mut Env<'_>, reg: Reg) {
    let def = env.cur.reg(reg).subreg_def;
    if def == DEF_NOT_SUBREG {
        return;
    }
    if let Some(aux) = env.aux.get_mut(def - 1) {
        aux.zext_dst = true;
    }
    env.cur.reg_mut(reg).subreg_def = DEF_NOT_SUBREG;
}

/// Checks the use of a register by the current instruction: `check_reg_arg`.
///
/// # Errors
/// EACCES: it has no value, or is the frame pointer and would be written.
#[inline(always)]
pub(crate) fn check_reg_arg(env: &mut Env<'_>, reg: Reg, arg: RegArg) -> Check {
    match arg {
        RegArg::Src => return check_src(env, reg),
        RegArg::Dst => {
            let subreg_def = check_dst(env, reg)?;
            let precise = !env.permits.bpf_capable;
            let unknown = RegState {
                subreg_def,
                precise,
                ..RegState::UNKNOWN_SCALAR
            };
            env.cur.set_reg(reg, unknown);
        }
        RegArg::DstNoMark => {
            let subreg_def = check_dst(env, reg)?;
            if env.cur.reg(reg).subreg_def != subreg_def {
                env.cur.reg_mut(reg).subreg_def = subreg_def;
            }
        }
    }
    Ok(())
}

/// Checks that the current instruction may read a register.
#[inline]
fn check_src(env: &mut Env<'_>, reg: Reg) -> Check {
    env.mark_scratched(reg);
    let frame = env.cur.cur_frame();
    let Some(state) = frame.regs.get(reg.index()) else {
        return Err(no_such_register(reg));
    };
    if !state.ty.is_init() {
        reject!(EACCES, "R{} !read_ok", reg.number());
    }
    // The frame pointer's is never set.
    if state.subreg_def != DEF_NOT_SUBREG {
        let flags = env.facts.flags[env.insn_idx as usize];
        if flags.has(InsnFlags::READS_64)
            || flags.has(InsnFlags::READS_POINTER) && !state.ty.is_scalar()
        {
            mark_insn_zext(env, reg);
        }
    }
    Ok(())
}

#[cold]
fn no_such_register(reg: Reg) -> Box<Violation> {
    Violation::rule(Errno::EINVAL, format_args!("R{} is invalid", reg.number()))
}

/// Checks that the current instruction may write a register; gives its `subreg_def`.
///
/// # Errors
/// EACCES: it is the frame pointer.
#[inline]
pub(crate) fn check_dst(env: &mut Env<'_>, reg: Reg) -> Check<u32> {
    env.mark_scratched(reg);
    if reg.number() > Reg::FP.number() {
        return Err(no_such_register(reg));
    }
    if reg == Reg::FP {
        reject!(EACCES, "frame pointer is read only");
    }
    let flags = env.facts.flags[env.insn_idx as usize];
    Ok(if flags.has(InsnFlags::WRITES_64) {
        DEF_NOT_SUBREG
    } else {
        env.insn_idx + 1
    })
}

/// A register of the current frame becomes a scalar of which nothing is known: `mark_reg_unknown`.
#[inline]
pub(crate) fn mark_reg_unknown(env: &mut Env<'_>, reg: Reg) {
    let precise = !env.permits.bpf_capable;
    let state = env.cur.reg_mut(reg);
    state.set_unknown();
    state.precise = precise;
}

/// A register becomes one without a value: `mark_reg_not_init`.
#[inline]
pub(crate) fn mark_reg_not_init(env: &mut Env<'_>, reg: Reg) {
    mark_reg_unknown(env, reg);
    env.cur.reg_mut(reg).ty = crate::state::RegType::NOT_INIT;
}

/// r0 to r5 lose their values at a call: `clear_caller_saved_regs`.
pub(crate) fn clear_caller_saved(env: &mut Env<'_>) {
    mark_reg_not_init(env, Reg::R0);
    // As a write of the low half only (`is_reg64`).
    env.cur.reg_mut(Reg::R0).subreg_def = env.insn_idx + 1;
    env.scratched_regs |= 0b11_1111;
    // Nothing of these is looked at before they are written again: all share one.
    let frame = env.cur.cur_frame_mut();
    for reg in &mut frame.regs[1..=5] {
        *reg = env.no_reg.clone();
    }
}

/// Scalars with one id stay linked only while the id has another holder; gives the register an id if it has none and is
/// no constant: `assign_scalar_id_before_mov`.
#[inline]
pub(crate) fn assign_scalar_id(env: &mut Env<'_>, reg: Reg) {
    let fresh = env.id_gen + 1;
    let state = env.cur.reg(reg);
    if !state.ty.is_scalar() {
        return;
    }
    let drops_sum = state.id & crate::state::BPF_ADD_CONST != 0;
    let needs_id = (state.id == 0 || drops_sum) && !state.scalar.is_const();
    if drops_sum || needs_id {
        let state = env.cur.reg_mut(reg);
        if drops_sum {
            // The register may have an offset from another; from here on it is one of its own.
            state.id = 0;
            state.off = 0;
        }
        if needs_id {
            state.id = fresh;
            env.id_gen = fresh;
        }
    }
}
