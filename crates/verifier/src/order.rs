//! Orders of instructions: postorder of each function, and strongly connected components (loops).
//!
//! Both walk the graph of one function at a time: a call is an instruction like others, its callee is not entered.
//! Postorder is the order in which liveness is computed (and logged). A component has a number (1, 2, ...) if it has two
//! instructions, or jumps to itself; other instructions have 0. A call of a callback, which may run any number of times,
//! is no loop here. Numbers follow the completion of components, so a later loop of the program often has a smaller one.
//! Kernel counterpart: `compute_postorder`, `compute_scc` (Tarjan's algorithm). Neighbours: `cfg`, `liveness`, `states::scc`.

use alloc::vec;
use alloc::vec::Vec;

use ring3_isa::RawInsn;

use crate::cfg::successors;
use crate::env::{InsnFlags, Subprog};

/// Slots in postorder, one function after the other; sets `postorder_start` of each.
pub(crate) fn compute_postorder(insns: &[RawInsn], subprogs: &mut [Subprog]) -> Vec<u32> {
    let mut order = Vec::with_capacity(insns.len());
    let mut discovered = vec![false; insns.len()];
    let mut expanded = vec![false; insns.len()];
    let mut stack = Vec::new();
    for subprog in subprogs {
        subprog.postorder_start = order.len() as u32;
        if discovered
            .get(subprog.start as usize)
            .is_none_or(|&seen| seen)
        {
            continue;
        }
        discovered[subprog.start as usize] = true;
        stack.push(subprog.start);
        while let Some(&top) = stack.last() {
            if expanded[top as usize] {
                order.push(top);
                stack.pop();
                continue;
            }
            expanded[top as usize] = true;
            for to in successors(insns, top) {
                if !discovered[to as usize] {
                    discovered[to as usize] = true;
                    stack.push(to);
                }
            }
        }
    }
    order
}

/// The number of each slot's component, 0 for none; sets [`InsnFlags::IN_SCC`]. Empty for a program that never goes back.
pub(crate) fn compute_scc(insns: &[RawInsn], flags: &mut [InsnFlags]) -> Vec<u32> {
    let goes_back = |at: u32| successors(insns, at).any(|to| to <= at);
    if !(0..insns.len() as u32).any(goes_back) {
        return Vec::new();
    }
    const DONE: u32 = u32::MAX;
    let mut scc = vec![0; insns.len()];
    // Number of discovery, 0 before; smallest number on the stack that can be reached, `DONE` once off the stack.
    let mut number = vec![0u32; insns.len()];
    let mut lowest = vec![0u32; insns.len()];
    let mut stack: Vec<u32> = Vec::new();
    let mut path: Vec<u32> = Vec::new();
    let mut last_number = 0;
    let mut last_scc = 0;
    for start in 0..insns.len() as u32 {
        // The second slot of a load is no instruction.
        if number[start as usize] != 0 || (start > 0 && insns[start as usize - 1].is_ld_imm64()) {
            continue;
        }
        path.push(start);
        while let Some(&at) = path.last() {
            let idx = at as usize;
            if number[idx] == 0 {
                last_number += 1;
                number[idx] = last_number;
                lowest[idx] = last_number;
                stack.push(at);
            }
            let mut unseen = None;
            for to in successors(insns, at) {
                if number[to as usize] == 0 {
                    unseen = Some(to);
                    break;
                }
                lowest[idx] = lowest[idx].min(lowest[to as usize]);
            }
            if let Some(to) = unseen {
                path.push(to);
                continue;
            }
            path.pop();
            if lowest[idx] < number[idx] {
                continue;
            }
            let is_loop = stack.last() != Some(&at) || successors(insns, at).any(|to| to == at);
            if is_loop {
                last_scc += 1;
            }
            while let Some(member) = stack.pop() {
                lowest[member as usize] = DONE;
                if is_loop {
                    scc[member as usize] = last_scc;
                    flags[member as usize].set(InsnFlags::IN_SCC);
                }
                if member == at {
                    break;
                }
            }
        }
    }
    scc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(code: u8, off: i16) -> RawInsn {
        RawInsn::new(code, 0, 0, off, 0)
    }

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);
    const MOV: RawInsn = RawInsn::new(0xb7, 0, 0, 0, 0);

    fn scc_of(insns: &[RawInsn]) -> Vec<u32> {
        compute_scc(insns, &mut vec![InsnFlags::default(); insns.len()])
    }

    #[test]
    fn postorder_takes_the_jump_target_first() {
        let insns = [jump(0x15, 1), MOV, EXIT];
        let mut subprogs = [Subprog {
            start: 0,
            end: 3,
            ..Subprog::default()
        }];
        assert_eq!(compute_postorder(&insns, &mut subprogs), [2, 1, 0]);
        let insns = [jump(0x15, 2), MOV, EXIT, MOV, EXIT];
        let mut subprogs = [Subprog {
            start: 0,
            end: 5,
            ..Subprog::default()
        }];
        assert_eq!(compute_postorder(&insns, &mut subprogs), [4, 3, 2, 1, 0]);
    }

    #[test]
    fn postorder_starts_anew_in_each_function() {
        let insns = [MOV, EXIT, MOV, EXIT];
        let mut subprogs = [
            Subprog {
                start: 0,
                end: 2,
                ..Subprog::default()
            },
            Subprog {
                start: 2,
                end: 4,
                ..Subprog::default()
            },
        ];
        assert_eq!(compute_postorder(&insns, &mut subprogs), [1, 0, 3, 2]);
        assert_eq!(subprogs[1].postorder_start, 2);
    }

    #[test]
    fn straight_code_has_no_component() {
        assert!(scc_of(&[MOV, MOV, EXIT]).is_empty());
    }

    #[test]
    fn loops_are_numbered_as_they_complete() {
        // 0: self loop; 1-2: loop; 3: exit
        assert_eq!(
            scc_of(&[jump(0x15, -1), MOV, jump(0x15, -2), EXIT]),
            [2, 1, 1, 0]
        );
    }

    #[test]
    fn nested_loops_are_one_component() {
        assert_eq!(
            scc_of(&[MOV, MOV, jump(0x15, -2), jump(0x15, -4), EXIT]),
            [1, 1, 1, 1, 0]
        );
    }
}
