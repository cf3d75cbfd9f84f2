//! The first pass: decodes every instruction once and finds what later code must know in advance.
//!
//! Per slot: the instruction, whether a jump ends there, the estimated offset of its code. Per function: registers used, whether it calls,
//! how deep its stack goes. Everything here is a fact of the program; what follows from it is decided in `frame` and `emit`.

use ring3_isa::{AluOp, CallTarget as CallName, Flow, Insn, InternalInsn, Operand, Reg, RegSet, decode_xlated};
use ring3_runtime::{CallKind, Linked, Target};

use crate::emit::JitError;

/// What the first pass found.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One per slot; the second slot of a two-slot load repeats the first.
    pub(crate) insns: Vec<Insn>,
    /// Whether a jump ends at the slot.
    pub(crate) is_target: Vec<bool>,
    /// Estimated offset of each slot's code from the start, in bytes; only differences count.
    pub(crate) estimate: Vec<u32>,
    /// Functions in order.
    pub(crate) functions: Vec<Function>,
    /// The program throws or has an exception callback.
    pub(crate) has_exceptions: bool,
    /// Some function makes tail calls.
    pub(crate) has_tail_calls: bool,
}

/// What is known of one function.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Function {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Registers read or written.
    pub(crate) used: RegSet,
    /// Calls anything.
    pub(crate) has_calls: bool,
    /// Contains a tail call.
    pub(crate) has_tail_call: bool,
    /// Contains `may_goto`.
    pub(crate) has_may_goto: bool,
    /// Contains an instruction whose expansion pushes.
    pub(crate) pushes: bool,
    /// Bytes of stack.
    pub(crate) stack_bytes: u32,
    /// Called back by helpers.
    pub(crate) is_callback: bool,
}

/// Decodes and looks.
///
/// # Errors
/// [`JitError::Malformed`]: an undecodable instruction, a jump or call to no instruction.
pub(crate) fn make(linked: &Linked) -> Result<Plan, JitError> {
    let slots = &linked.program.insns;
    let malformed = |slot: usize, what: &str| JitError::Malformed { slot, what: what.to_owned() };
    if slots.is_empty() || linked.program.subprogs.is_empty() {
        return Err(malformed(0, "the program is empty"));
    }
    let mut plan = Plan {
        insns: Vec::with_capacity(slots.len()),
        is_target: vec![false; slots.len()],
        estimate: Vec::with_capacity(slots.len() + 1),
        functions: Vec::with_capacity(linked.program.subprogs.len()),
        has_exceptions: linked.program.exception_cb.is_some(),
        has_tail_calls: false,
    };
    let mut estimate = 0u32;
    for (index, facts) in linked.program.subprogs.iter().enumerate() {
        let range = linked.subprog_slots(index).unwrap_or(0..0);
        if range.is_empty() || range.start != plan.insns.len() || range.end > slots.len() {
            return Err(malformed(range.start, "function bounds do not cover the program in order"));
        }
        let mut function = Function {
            start: range.start,
            end: range.end,
            stack_bytes: facts.stack_bytes,
            is_callback: facts.is_callback || facts.is_async_callback,
            ..Function::default()
        };
        let mut ends = false;
        while plan.insns.len() < range.end {
            let slot = plan.insns.len();
            let (insn, slot_count) =
                decode_xlated(slots, slot).map_err(|cause| malformed(slot, &cause.to_string()))?;
            look(&insn, &mut function);
            if let Some(target) = insn.jump_target(slot) {
                match usize::try_from(target) {
                    Ok(target) if range.contains(&target) => plan.is_target[target] = true,
                    _ => return Err(malformed(slot, "jump out of the function")),
                }
            }
            if let Some(callee) = insn.subprog_target(slot) {
                let start = usize::try_from(callee).unwrap_or(usize::MAX);
                if linked.subprog_at(start).is_none() {
                    return Err(malformed(slot, "call or address of no function"));
                }
            }
            ends = matches!(insn.flow(), Flow::Goto(_) | Flow::Exit) || insn.may_not_return(linked, slot);
            for _ in 0..slot_count {
                plan.insns.push(insn);
                plan.estimate.push(estimate);
            }
            estimate += estimated_bytes(&insn);
        }
        if plan.insns.len() != range.end {
            return Err(malformed(range.end, "a function begins inside an instruction"));
        }
        if !ends {
            return Err(malformed(range.end - 1, "control runs off the end of the function"));
        }
        plan.has_tail_calls |= function.has_tail_call;
        plan.functions.push(function);
    }
    plan.estimate.push(estimate);
    for site in &linked.sites {
        plan.has_exceptions |=
            matches!(site.target, Target::Call(call) if call.kind == CallKind::Throw);
        if matches!(site.target, Target::TailCall(_)) {
            let slot = site.slot as usize;
            let function = plan.functions.iter_mut().find(|function| (function.start..function.end).contains(&slot));
            if let Some(function) = function {
                function.has_tail_call = true;
                plan.has_tail_calls = true;
            }
        }
    }
    // A jump into the second slot of a load lands inside an instruction.
    let mut slot = 0;
    while slot < slots.len() {
        if slots[slot].is_ld_imm64() {
            if plan.is_target.get(slot + 1).copied().unwrap_or(false) {
                return Err(malformed(slot + 1, "jump into an instruction"));
            }
            slot += 1;
        }
        slot += 1;
    }
    Ok(plan)
}

/// Calls that end the function although the instruction set says they return.
trait MayNotReturn {
    fn may_not_return(&self, linked: &Linked, slot: usize) -> bool;
}

impl MayNotReturn for Insn {
    fn may_not_return(&self, linked: &Linked, slot: usize) -> bool {
        matches!(self, Insn::Call(_))
            && matches!(linked.target(slot), Some(Target::Call(call)) if call.kind == CallKind::Throw)
    }
}

fn look(insn: &Insn, function: &mut Function) {
    let uses = insn.uses();
    function.used = function.used.union(uses.reads).union(uses.writes);
    let mut touch_stack = |base: Reg, off: i16| {
        if base == Reg::FP && off < 0 {
            function.stack_bytes = function.stack_bytes.max(-i32::from(off) as u32);
        }
    };
    match *insn {
        Insn::Call(_) | Insn::LoadAbs { .. } | Insn::LoadInd { .. } => function.has_calls = true,
        Insn::Internal(InternalInsn::TailCall) => function.has_tail_call = true,
        Insn::MayGoto { .. } => function.has_may_goto = true,
        Insn::Alu { op: AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod, .. } => function.pushes = true,
        Insn::Load { src, off, .. } | Insn::Internal(InternalInsn::ProbeLoad { src, off, .. }) => touch_stack(src, off),
        Insn::Store { dst, off, .. } => touch_stack(dst, off),
        Insn::Atomic { dst, off, .. } => touch_stack(dst, off),
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Movsx { .. }
        | Insn::Endian { .. }
        | Insn::AddrSpaceCast { .. }
        | Insn::LoadImm64 { .. }
        | Insn::Jmp { .. }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::Exit
        | Insn::Internal(_) => {}
    }
}

/// A guess of the code's length that is seldom too small; a forward jump takes its short form if the guess between says so.
fn estimated_bytes(insn: &Insn) -> u32 {
    match *insn {
        Insn::Alu { op, src, .. } => match (op, src) {
            (AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod, _) => 44,
            (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Reg(_)) => 12,
            (_, Operand::Reg(_)) => 4,
            (AluOp::Mul, Operand::Imm(_)) => 7,
            (_, Operand::Imm(imm)) if i32::from(imm as i8) == imm => 5,
            (_, Operand::Imm(_)) => 7,
        },
        Insn::Neg { .. } | Insn::Movsx { .. } => 4,
        Insn::Endian { .. } => 8,
        Insn::AddrSpaceCast { .. } => 24,
        Insn::LoadImm64 { .. } => 10,
        Insn::Load { off, .. } | Insn::Internal(InternalInsn::ProbeLoad { off, .. }) => displaced(off, 4),
        Insn::Store { off, src, .. } => displaced(off, 4) + if matches!(src, Operand::Imm(_)) { 4 } else { 0 },
        Insn::Atomic { .. } => 36,
        Insn::Jmp { src, .. } => 9 + if matches!(src, Operand::Imm(_)) { 1 } else { 0 },
        Insn::Ja { .. } | Insn::Jal { .. } => 5,
        Insn::MayGoto { .. } => 16,
        Insn::Call(CallName::Subprog(_)) => 5,
        Insn::Call(CallName::Helper(_) | CallName::Kfunc { .. }) => 36,
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => 44,
        Insn::Exit => 12,
        Insn::Internal(InternalInsn::Nospec) => 0,
        Insn::Internal(InternalInsn::ArenaLoad { .. } | InternalInsn::ArenaStore { .. }) => 26,
        Insn::Internal(InternalInsn::ArenaAtomic { .. }) => 50,
        Insn::Internal(InternalInsn::PercpuAddr { .. }) => 24,
        Insn::Internal(InternalInsn::TailCall) => 60,
    }
}

fn displaced(off: i16, head: u32) -> u32 {
    if off == 0 {
        head
    } else if i16::from(off as i8) == off {
        head + 1
    } else {
        head + 4
    }
}
