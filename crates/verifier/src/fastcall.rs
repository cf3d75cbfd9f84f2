//! Spills around calls that keep their registers: pairs of a store before and a load after a call, which are dropped from
//! the accepted program if the call is inlined and keeps the registers, and if nobody else touches their slots.
//!
//! ```text
//! *(u64 *)(r10 - X)       = rA     the farthest stores at the bottom of the function's stack,
//! *(u64 *)(r10 - (X - 8)) = rB     innermost pair at the lowest offset,
//! call helper                      registers that neither hold arguments nor the result
//! rB = *(u64 *)(r10 - (X - 8))
//! rA = *(u64 *)(r10 - X)
//! ```
//! (the pair next to the call is at the lowest offset of the function, the next pair 8 bytes above it, and so on.)
//!
//! An access below the topmost slot of the patterns by anyone else breaks the contract of the whole function
//! ([`FastcallFacts::breaks_contract`]), which then keeps all its spills. A call that looks like one of a pattern but is
//! not inlined makes its function keep the depth of its stack.
//! Kernel counterpart: `mark_fastcall_patterns`, `check_fastcall_stack_contract`, `remove_fastcall_spills_fills`.
//! Neighbours: `check::stack` (contract), `stack_depth`, `fixups` (removal).

use alloc::vec;
use alloc::vec::Vec;

use ring3_isa::RawInsn;

use crate::call_traits::CallLookup;
use crate::env::Subprog;
use crate::subprogs::CODE_CALL;

const CODE_SPILL: u8 = 0x7b;
const CODE_FILL: u8 = 0x79;
const FP: u8 = 10;
const CALLER_SAVED: u16 = 0x3f;

/// Patterns found before exploration.
#[derive(Clone, Debug, Default)]
pub(crate) struct FastcallFacts {
    /// Slot is a spill or fill of a pattern.
    pattern: Vec<bool>,
    /// For a call: pairs around it that may go.
    spills: Vec<u8>,
    /// Per function: where the part of the stack that only patterns may use ends, at most 0.
    stack_off: Vec<i16>,
    /// Per function: has a pattern around a call that is not inlined.
    keeps_stack: Vec<bool>,
}

impl FastcallFacts {
    /// Whether an access of the stack at `off` from the frame pointer by an instruction of a function reaches slots that
    /// belong to patterns, and is not part of one: then the function keeps all its spills.
    #[inline]
    pub(crate) fn breaks_contract(&self, subprog: u32, insn_idx: u32, off: i32) -> bool {
        let Some(&lowest) = self.stack_off.get(subprog as usize) else {
            return false;
        };
        i32::from(lowest) > off
            && !self
                .pattern
                .get(insn_idx as usize)
                .copied()
                .unwrap_or(false)
    }

    /// Pairs around a call that may go, unless the function's contract was broken.
    fn removable(&self, call_idx: u32) -> u8 {
        self.spills.get(call_idx as usize).copied().unwrap_or(0)
    }
}

/// Finds patterns.
pub(crate) fn mark_fastcall_patterns(
    insns: &[RawInsn],
    subprogs: &[Subprog],
    calls: &CallLookup<'_>,
) -> FastcallFacts {
    let mut facts = FastcallFacts {
        pattern: vec![false; insns.len()],
        spills: vec![0; insns.len()],
        stack_off: vec![0; subprogs.len()],
        keeps_stack: vec![false; subprogs.len()],
    };
    for (number, subprog) in subprogs.iter().enumerate() {
        let body = subprog.start as usize..subprog.end as usize;
        let lowest = insns[body.clone()]
            .iter()
            .filter(|insn| insn.code == CODE_SPILL && insn.dst() == FP)
            .map(|insn| insn.off)
            .fold(0, i16::min);
        for at in body.filter(|&at| insns[at].code == CODE_CALL) {
            mark_around_call(insns, at, lowest, calls, number, &mut facts);
        }
    }
    facts
}

fn mark_around_call(
    insns: &[RawInsn],
    at: usize,
    lowest: i16,
    calls: &CallLookup<'_>,
    subprog: usize,
    facts: &mut FastcallFacts,
) {
    if !matches!(insns[at].src(), 0 | 2) {
        return;
    }
    let Some(summary) = calls(insns[at]).summary else {
        return;
    };
    let args = ((1u16 << summary.params.min(5)) - 1) << 1;
    let clobbered = args | if summary.is_void { 0 } else { 1 };
    let mut expected = CALLER_SAVED & !clobbered;
    let mut off = lowest;
    let mut pairs = 0u8;
    for distance in 1..=6usize {
        let (Some(before), Some(after)) = (
            at.checked_sub(distance),
            Some(at + distance).filter(|&to| to < insns.len()),
        ) else {
            break;
        };
        let (spill, fill) = (insns[before], insns[after]);
        let is_pair = spill.code == CODE_SPILL
            && fill.code == CODE_FILL
            && spill.dst() == FP
            && fill.src() == FP
            && spill.src() == fill.dst()
            && expected & (1 << spill.src()) != 0
            && spill.off == off
            && fill.off == off;
        if !is_pair {
            break;
        }
        expected &= !(1 << spill.src());
        facts.pattern[before] = true;
        facts.pattern[after] = true;
        pairs += 1;
        off = off.wrapping_add(8);
    }
    if pairs == 0 {
        return;
    }
    facts.stack_off[subprog] = facts.stack_off[subprog].min(off);
    if summary.fastcall {
        facts.spills[at] = pairs;
    } else {
        facts.keeps_stack[subprog] = true;
    }
}

/// What is removed from the accepted program.
#[derive(Clone, Debug, Default)]
pub(crate) struct RemovedSpills {
    /// Slots that become `goto +0`.
    pub(crate) nops: Vec<u32>,
    /// Bytes of stack of each function, afterwards.
    pub(crate) stack_depth: Vec<u16>,
}

/// Decides what goes, after exploration. Per function: `is_broken`, an access broke the contract; `stack_depth`, the bytes
/// that exploration measured.
pub(crate) fn remove_fastcall_spills_fills(
    facts: &FastcallFacts,
    is_broken: &dyn Fn(usize) -> bool,
    subprogs: &[Subprog],
    stack_depth: &[u16],
) -> RemovedSpills {
    let mut removed = RemovedSpills {
        nops: Vec::new(),
        stack_depth: stack_depth.to_vec(),
    };
    for (number, subprog) in subprogs.iter().enumerate() {
        if is_broken(number) {
            continue;
        }
        let found = removed.nops.len();
        for at in subprog.start..subprog.end {
            let pairs = u32::from(facts.removable(at));
            for distance in 1..=pairs {
                removed
                    .nops
                    .extend([at.saturating_sub(distance), at + distance]);
            }
        }
        if removed.nops.len() > found
            && !facts.keeps_stack[number]
            && let Some(depth) = removed.stack_depth.get_mut(number)
        {
            *depth = facts.stack_off[number].unsigned_abs();
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_traits::{CallSummary, CallTraits};

    const CALL: RawInsn = RawInsn::new(CODE_CALL, 0, 0, 0, 8);
    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);

    fn spill(reg: u8, off: i16) -> RawInsn {
        RawInsn::new(CODE_SPILL, FP, reg, off, 0)
    }

    fn fill(reg: u8, off: i16) -> RawInsn {
        RawInsn::new(CODE_FILL, reg, FP, off, 0)
    }

    fn find(insns: &[RawInsn], summary: CallSummary) -> (FastcallFacts, [Subprog; 1]) {
        let subprogs = [Subprog {
            start: 0,
            end: insns.len() as u32,
            ..Subprog::default()
        }];
        let calls = move |_| CallTraits {
            summary: Some(summary),
            ..CallTraits::default()
        };
        (mark_fastcall_patterns(insns, &subprogs, &calls), subprogs)
    }

    const NO_ARGS: CallSummary = CallSummary {
        params: 0,
        is_void: false,
        fastcall: true,
    };

    #[test]
    fn pairs_around_a_call_go() {
        let program = [
            spill(2, -8),
            spill(1, -16),
            CALL,
            fill(1, -16),
            fill(2, -8),
            EXIT,
        ];
        let (facts, subprogs) = find(&program, NO_ARGS);
        let removed = remove_fastcall_spills_fills(&facts, &|_| false, &subprogs, &[16]);
        assert_eq!(removed.nops, [1, 3, 0, 4]);
        assert_eq!(removed.stack_depth, [0]);
    }

    #[test]
    fn argument_registers_are_not_kept_by_a_call() {
        let program = [spill(1, -8), CALL, fill(1, -8), EXIT];
        let (facts, subprogs) = find(
            &program,
            CallSummary {
                params: 1,
                ..NO_ARGS
            },
        );
        let removed = remove_fastcall_spills_fills(&facts, &|_| false, &subprogs, &[8]);
        assert!(removed.nops.is_empty());
    }

    #[test]
    fn pairs_start_at_the_lowest_spill() {
        let program = [spill(6, -24), spill(1, -16), CALL, fill(1, -16), EXIT];
        let (facts, _) = find(&program, NO_ARGS);
        assert_eq!(facts.spills[2], 0);
    }

    #[test]
    fn an_access_below_breaks_the_contract() {
        let program = [spill(1, -16), CALL, fill(1, -16), EXIT];
        let (facts, subprogs) = find(&program, NO_ARGS);
        assert!(!facts.breaks_contract(0, 0, -16) && !facts.breaks_contract(0, 3, -8));
        assert!(facts.breaks_contract(0, 3, -16));
        assert!(
            remove_fastcall_spills_fills(&facts, &|_| true, &subprogs, &[16])
                .nops
                .is_empty()
        );
        assert_eq!(
            remove_fastcall_spills_fills(&facts, &|_| false, &subprogs, &[16]).stack_depth,
            [8]
        );
    }

    #[test]
    fn a_call_that_is_not_inlined_keeps_the_stack() {
        let program = [spill(1, -8), CALL, fill(1, -8), EXIT];
        let (facts, _) = find(
            &program,
            CallSummary {
                fastcall: false,
                ..NO_ARGS
            },
        );
        assert!(facts.keeps_stack[0] && facts.spills[1] == 0);
    }
}
