//! The walk over the control-flow graph: every instruction is reachable, nobody jumps into the middle of a two-slot load,
//! loops are for those who may have them; and where exploration must look for a known state.
//!
//! Depth first, the next instruction before the jump target, functions called after what follows the call:
//!
//! ```text
//! state of an instruction:  unseen -> discovered (on the stack) -> explored
//! edge to an instruction that is:  unseen: tree edge; discovered: back edge (a loop); explored: forward or cross edge
//! ```
//!
//! An edge leaves marks at its ends: *prune points*, where a state is compared with earlier ones; *jump points*, where
//! the history notes that control came from elsewhere; *forced checkpoints*. Marks are set on whoever is visited, errors
//! stop the walk, so the order of visits decides which error is seen.
//! Effects of calls (packet data, sleeping) flow from callee to caller as the walk leaves the call.
//! Kernel counterpart: `check_cfg`. Neighbours: `subprogs` (bounds of jumps), `order`, `explore` and `states`.

use alloc::vec;
use alloc::vec::Vec;

use ring3_isa::RawInsn;

use crate::call_traits::{CallLookup, CallsBack};
use crate::env::{InsnFlags, Subprog};
use crate::error::{Check, Violation, reject};
use crate::subprogs::{
    CODE_JA, CODE_JAL, CODE_JCOND, is_helper_call, is_jump_class, is_kfunc_call, is_pseudo_call,
    is_pseudo_func, jump_distance, slot_count,
};

/// What the walk needs.
pub(crate) struct CfgInput<'a> {
    pub(crate) insns: &'a [RawInsn],
    pub(crate) exception_cb: Option<u32>,
    pub(crate) calls: &'a CallLookup<'a>,
    pub(crate) bpf_capable: bool,
}

/// A loop in a program whose loader may not have one; the log shows the source lines of both ends before the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CfgNote {
    /// `back-edge from insn {from} to {to}`
    BackEdge { from: u32, to: u32 },
}

/// Walks the graph; gives the flags of every slot, and marks the effects of functions in `subprogs`.
///
/// # Errors
/// EINVAL: an unreachable instruction, a jump into a two-slot load, a loop without CAP_BPF.
pub(crate) fn check_cfg(
    input: &CfgInput<'_>,
    subprogs: &mut [Subprog],
    note: &mut Option<CfgNote>,
) -> Check<Vec<InsnFlags>> {
    let count = input.insns.len();
    let mut walk = Walk {
        input,
        subprogs,
        note,
        flags: vec![InsnFlags::default(); count],
        state: vec![UNSEEN; count],
        stack: Vec::new(),
    };
    walk.run(0)?;
    if let Some(start) = input
        .exception_cb
        .and_then(|cb| walk.subprogs.get(cb as usize))
        .map(|subprog| subprog.start)
    {
        walk.run(start)?;
    }
    walk.check_all_reached()?;
    Ok(walk.flags)
}

const UNSEEN: u8 = 0;
const DISCOVERED: u8 = 0x10;
const EXPLORED: u8 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Edge {
    Next = 1,
    Branch = 2,
}

/// What became of a visit or an edge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    /// Nothing new behind this edge (or instruction).
    Done,
    /// Another instruction is on top of the stack now; come back later.
    Deeper,
}

struct Walk<'a> {
    input: &'a CfgInput<'a>,
    subprogs: &'a mut [Subprog],
    note: &'a mut Option<CfgNote>,
    flags: Vec<InsnFlags>,
    /// `UNSEEN`, `EXPLORED`, or `DISCOVERED` plus the last edge that was taken.
    state: Vec<u8>,
    stack: Vec<u32>,
}

impl Walk<'_> {
    fn run(&mut self, start: u32) -> Check {
        self.state[start as usize] = DISCOVERED;
        self.stack.push(start);
        while let Some(&top) = self.stack.last() {
            if self.visit(top)? == Visit::Done {
                self.state[top as usize] = EXPLORED;
                self.stack.pop();
            }
        }
        Ok(())
    }

    fn mark(&mut self, at: u32, flag: InsnFlags) {
        if let Some(flags) = self.flags.get_mut(at as usize) {
            flags.set(flag);
        }
    }

    fn visit(&mut self, at: u32) -> Check<Visit> {
        let insn = self.input.insns[at as usize];
        if is_pseudo_func(insn) {
            return self.visit_call(at, insn, true);
        }
        if !is_jump_class(insn) {
            return self.push(at, at + slot_count(insn), Edge::Next);
        }
        match insn.code & 0xf0 {
            0x90 => Ok(Visit::Done),
            0x80 => {
                self.mark_call(at, insn);
                self.visit_call(at, insn, is_pseudo_call(insn))
            }
            _ if matches!(insn.code, CODE_JA | CODE_JAL) => {
                let target = target(at, insn);
                if self.push(at, target, Edge::Next)? == Visit::Deeper {
                    return Ok(Visit::Deeper);
                }
                self.mark(target, InsnFlags::PRUNE_POINT);
                self.mark(target, InsnFlags::JMP_POINT);
                Ok(Visit::Done)
            }
            0x00 => Err(Violation::silent(ring3_uapi::Errno::EINVAL)),
            _ => {
                self.mark(at, InsnFlags::PRUNE_POINT);
                if insn.code == CODE_JCOND && insn.src() == 0 {
                    self.mark(at, InsnFlags::MAY_GOTO);
                    self.mark(at, InsnFlags::FORCE_CHECKPOINT);
                }
                if self.push(at, at + 1, Edge::Next)? == Visit::Deeper {
                    return Ok(Visit::Deeper);
                }
                self.push(at, target(at, insn), Edge::Branch)
            }
        }
    }

    /// Marks what kind of call this is, on it and on its function.
    fn mark_call(&mut self, at: u32, insn: RawInsn) {
        if !is_helper_call(insn) && !is_kfunc_call(insn) {
            return;
        }
        let traits = (self.input.calls)(insn);
        match traits.calls_back {
            CallsBack::Never => {}
            CallsBack::Async => self.mark(at, InsnFlags::PRUNE_POINT),
            CallsBack::Sync => {
                self.mark(at, InsnFlags::CALLS_CALLBACK);
                self.mark(at, InsnFlags::FORCE_CHECKPOINT);
                self.mark(at, InsnFlags::PRUNE_POINT);
                self.mark(at, InsnFlags::JMP_POINT);
            }
        }
        if traits.iter_next {
            self.mark(at, InsnFlags::ITER_NEXT);
            self.mark(at, InsnFlags::PRUNE_POINT);
            self.mark(at, InsnFlags::FORCE_CHECKPOINT);
        }
        let caller = self.subprog_of(at);
        self.subprogs[caller].might_sleep |= traits.might_sleep;
        self.subprogs[caller].changes_pkt_data |= traits.changes_pkt_data;
    }

    /// What follows a call (or a load of a function's address), then the callee.
    fn visit_call(&mut self, at: u32, insn: RawInsn, visit_callee: bool) -> Check<Visit> {
        let next = at + slot_count(insn);
        if self.push(at, next, Edge::Next)? == Visit::Deeper {
            return Ok(Visit::Deeper);
        }
        self.mark(next, InsnFlags::PRUNE_POINT);
        self.mark(next, InsnFlags::JMP_POINT);
        if !visit_callee {
            return Ok(Visit::Done);
        }
        self.mark(at, InsnFlags::PRUNE_POINT);
        let callee_start = (i64::from(at) + i64::from(insn.imm) + 1) as u32;
        if let Ok(callee) = self
            .subprogs
            .binary_search_by_key(&callee_start, |subprog| subprog.start)
        {
            let caller = self.subprog_of(at);
            self.subprogs[caller].changes_pkt_data |= self.subprogs[callee].changes_pkt_data;
            self.subprogs[caller].might_sleep |= self.subprogs[callee].might_sleep;
        }
        self.push(at, callee_start, Edge::Branch)
    }

    fn subprog_of(&self, at: u32) -> usize {
        self.subprogs
            .partition_point(|subprog| subprog.start <= at)
            .saturating_sub(1)
    }

    /// Follows the edge `from -> to`.
    fn push(&mut self, from: u32, to: u32, edge: Edge) -> Check<Visit> {
        if self.state[from as usize] >= DISCOVERED | edge as u8 {
            return Ok(Visit::Done);
        }
        if to as usize >= self.input.insns.len() {
            reject!(
                EINVAL,
                "jump out of range from insn {from} to {}",
                to as i32
            );
        }
        if edge == Edge::Branch {
            self.mark(to, InsnFlags::PRUNE_POINT);
            self.mark(to, InsnFlags::JMP_POINT);
        }
        match self.state[to as usize] {
            UNSEEN => {
                self.state[from as usize] = DISCOVERED | edge as u8;
                self.state[to as usize] = DISCOVERED;
                self.stack.push(to);
                Ok(Visit::Deeper)
            }
            EXPLORED => {
                self.state[from as usize] = DISCOVERED | edge as u8;
                Ok(Visit::Done)
            }
            _ if self.input.bpf_capable => Ok(Visit::Done),
            _ => {
                *self.note = Some(CfgNote::BackEdge { from, to });
                reject!(EINVAL, "back-edge from insn {from} to {to}");
            }
        }
    }

    fn check_all_reached(&self) -> Check {
        let mut at = 0;
        while at < self.input.insns.len() {
            if self.state[at] != EXPLORED {
                reject!(EINVAL, "unreachable insn {at}");
            }
            if self.input.insns[at].is_ld_imm64() {
                if self.state.get(at + 1).is_some_and(|&state| state != UNSEEN) {
                    reject!(EINVAL, "jump into the middle of ldimm64 insn {at}");
                }
                at += 1;
            }
            at += 1;
        }
        Ok(())
    }
}

/// Where a jump goes; out of the program as a number that no slot has.
fn target(at: u32, insn: RawInsn) -> u32 {
    (i64::from(at) + i64::from(jump_distance(insn)) + 1) as u32
}

/// Slots that may run after the one at `at`, within its function: the next one first. The second is a jump's target.
pub(crate) fn successors(
    insns: &[RawInsn],
    at: u32,
) -> impl DoubleEndedIterator<Item = u32> + use<> {
    let insn = insns[at as usize];
    let next = Some(at + slot_count(insn));
    let (next, jump) = if !is_jump_class(insn) {
        (next, None)
    } else {
        match insn.code & 0xf0 {
            0x90 => (None, None),
            0x80 => (next, None),
            0x00 => (None, Some(target(at, insn))),
            _ => (next, Some(target(at, insn))),
        }
    };
    let count = insns.len() as u32;
    [next, jump]
        .into_iter()
        .flatten()
        .filter(move |&to| to < count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_traits::CallTraits;
    use crate::subprogs::{CODE_CALL, CODE_EXIT};
    use alloc::string::String;

    fn insn(code: u8, src: u8, off: i16, imm: i32) -> RawInsn {
        RawInsn::new(code, 0, src, off, imm)
    }

    const EXIT: RawInsn = RawInsn::new(CODE_EXIT, 0, 0, 0, 0);
    const MOV: RawInsn = RawInsn::new(0xb7, 0, 0, 0, 0);
    const JEQ: u8 = 0x15;

    fn run_with(
        insns: &[RawInsn],
        bpf_capable: bool,
        starts: &[u32],
        traits: CallTraits,
    ) -> Result<(Vec<InsnFlags>, Vec<Subprog>), String> {
        let mut subprogs: Vec<Subprog> = starts
            .iter()
            .map(|&start| Subprog {
                start,
                ..Subprog::default()
            })
            .collect();
        let calls = |_| traits;
        let input = CfgInput {
            insns,
            exception_cb: None,
            calls: &calls,
            bpf_capable,
        };
        let flags =
            check_cfg(&input, &mut subprogs, &mut None).map_err(|violation| violation.text)?;
        Ok((flags, subprogs))
    }

    fn run(insns: &[RawInsn], bpf_capable: bool) -> Result<Vec<InsnFlags>, String> {
        run_with(insns, bpf_capable, &[0], CallTraits::default()).map(|(flags, _)| flags)
    }

    fn marked(flags: &[InsnFlags], flag: InsnFlags) -> Vec<usize> {
        flags
            .iter()
            .enumerate()
            .filter(|(_, flags)| flags.has(flag))
            .map(|(at, _)| at)
            .collect()
    }

    #[test]
    fn every_instruction_is_reached() {
        assert_eq!(
            run(&[EXIT, MOV, EXIT], true).unwrap_err(),
            "unreachable insn 1"
        );
        assert!(run(&[insn(JEQ, 0, 1, 0), EXIT, EXIT], true).is_ok());
    }

    #[test]
    fn loops_need_the_capability() {
        let program = [MOV, insn(JEQ, 0, -2, 0), EXIT];
        assert_eq!(
            run(&program, false).unwrap_err(),
            "back-edge from insn 1 to 0"
        );
        assert!(run(&program, true).is_ok());
    }

    #[test]
    fn two_slot_loads_are_entered_at_their_start() {
        let load = insn(0x18, 0, 0, 7);
        let half = insn(0, 0, 0, 0);
        assert!(run(&[load, half, EXIT], true).is_ok());
        assert_eq!(
            run(&[insn(JEQ, 0, 1, 0), load, half, EXIT], true).unwrap_err(),
            "jump into the middle of ldimm64 insn 1"
        );
    }

    #[test]
    fn branches_are_prune_points_and_their_targets_jump_points() {
        let flags = run(&[MOV, insn(JEQ, 0, 1, 0), MOV, EXIT], true).unwrap();
        assert_eq!(marked(&flags, InsnFlags::PRUNE_POINT), [1, 3]);
        assert_eq!(marked(&flags, InsnFlags::JMP_POINT), [3]);
        let flags = run(
            &[insn(CODE_JA, 0, 0, 0), insn(CODE_JCOND, 0, 0, 0), EXIT],
            true,
        )
        .unwrap();
        assert_eq!(marked(&flags, InsnFlags::PRUNE_POINT), [1, 2]);
        assert_eq!(marked(&flags, InsnFlags::FORCE_CHECKPOINT), [1]);
    }

    #[test]
    fn callbacks_force_checkpoints() {
        let traits = CallTraits {
            calls_back: CallsBack::Sync,
            ..CallTraits::default()
        };
        let (flags, _) =
            run_with(&[MOV, insn(CODE_CALL, 0, 0, 181), EXIT], true, &[0], traits).unwrap();
        assert_eq!(marked(&flags, InsnFlags::CALLS_CALLBACK), [1]);
        assert_eq!(marked(&flags, InsnFlags::FORCE_CHECKPOINT), [1]);
        assert_eq!(marked(&flags, InsnFlags::PRUNE_POINT), [1, 2]);
    }

    #[test]
    fn effects_of_callees_reach_their_callers() {
        let traits = CallTraits {
            changes_pkt_data: true,
            ..CallTraits::default()
        };
        // main calls f at 2, which calls a helper
        let program = [
            insn(CODE_CALL, 1, 0, 1),
            EXIT,
            insn(CODE_CALL, 0, 0, 44),
            EXIT,
        ];
        let (_, subprogs) = run_with(&program, true, &[0, 2], traits).unwrap();
        assert!(subprogs[0].changes_pkt_data && subprogs[1].changes_pkt_data);
        assert!(!subprogs[0].might_sleep);
    }

    #[test]
    fn deep_programs_do_not_recurse() {
        let mut program = vec![MOV; 1_000_000];
        program.push(EXIT);
        assert!(run(&program, true).is_ok());
    }
}
