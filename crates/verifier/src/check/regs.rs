//! Registers as operands: may they be read, what becomes of them when written.

use ring3_isa::{AtomicOp, CallTarget, EndianOp, Insn, LoadMode, MemSize, Reg, Width};

use crate::env::{Env, Slot};
use crate::error::{Check, reject};
use crate::state::{DEF_NOT_SUBREG, RegBase, RegState};

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

/// Whether the current instruction uses all 64 bits of a register: `is_reg64`.
fn uses_64_bits(env: &Env<'_>, reg: &RegState, arg: RegArg) -> bool {
    let reads = arg == RegArg::Src;
    let insn = match &env.facts.slots[env.insn_idx as usize] {
        Slot::Insn(insn) => insn,
        Slot::LoadImm64 { .. } | Slot::SecondHalf | Slot::Bad => return true,
    };
    match insn {
        Insn::Alu { width, .. } | Insn::Neg { width, .. } | Insn::Movsx { width, .. } => {
            *width == Width::W64
        }
        Insn::AddrSpaceCast { .. } | Insn::LoadImm64 { .. } => true,
        // `bswap16` and `bswap32` are of the 64-bit class, `le`/`be` of the 32-bit one.
        Insn::Endian { size, op, .. } => *op == EndianOp::Swap || *size == MemSize::Dw,
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => reads,
        Insn::Load { size, mode, .. } => {
            reads || *size == MemSize::Dw || *mode == LoadMode::SignExtend
        }
        Insn::Atomic { size, op, .. } => {
            if reads && reg.ty.base != RegBase::Scalar {
                return true;
            }
            let _: &AtomicOp = op;
            *size == MemSize::Dw
        }
        Insn::Store { size, src, .. } => match src {
            ring3_isa::Operand::Imm(_) => true,
            ring3_isa::Operand::Reg(_) => {
                reads && reg.ty.base != RegBase::Scalar || *size == MemSize::Dw
            }
        },
        Insn::Jmp { width, .. } => *width == Width::W64,
        Insn::Ja { .. } | Insn::MayGoto { .. } | Insn::Exit => true,
        Insn::Jal { .. } => false,
        Insn::Call(CallTarget::Subprog(_)) => false,
        Insn::Call(_) => reads,
        Insn::Internal(_) => true,
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
pub(crate) fn check_reg_arg(env: &mut Env<'_>, reg: Reg, arg: RegArg) -> Check {
    env.mark_scratched(reg);
    if reg.number() > 10 {
        reject!(EINVAL, "R{} is invalid", reg.number());
    }
    let state = env.cur.reg(reg);
    match arg {
        RegArg::Src => {
            if state.ty.base == RegBase::NotInit {
                reject!(EACCES, "R{} !read_ok", reg.number());
            }
            if reg == Reg::FP || state.subreg_def == DEF_NOT_SUBREG {
                return Ok(());
            }
            if uses_64_bits(env, state, arg) {
                mark_insn_zext(env, reg);
            }
        }
        RegArg::Dst | RegArg::DstNoMark => {
            if reg == Reg::FP {
                reject!(EACCES, "frame pointer is read only");
            }
            let def = if uses_64_bits(env, state, arg) {
                DEF_NOT_SUBREG
            } else {
                env.insn_idx + 1
            };
            let precise = !env.permits.bpf_capable;
            let state = env.cur.reg_mut(reg);
            state.subreg_def = def;
            if arg == RegArg::Dst {
                state.set_unknown();
                state.precise = precise;
            }
        }
    }
    Ok(())
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
