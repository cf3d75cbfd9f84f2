//! Calls of `bpf_loop` with one known callback and no flags become loops.
//!
//! The loop keeps its bound, counter and context in r6, r7 and r8, which it saves below the function's stack.
//! Kernel counterpart: `optimize_bpf_loop`.

use alloc::vec::Vec;

use ring3_isa::RawInsn;
use ring3_uapi::Errno;

use super::patch::Draft;
use super::patch::build::*;
use crate::aux::AuxTable;
use crate::error::Check;
use crate::subprogs::CODE_CALL;

/// Iterations that `bpf_loop` takes at most. Source: `BPF_MAX_LOOPS`.
const LOOPS_MAX: i32 = 8 * 1024 * 1024;
const SAVED_BYTES: u32 = 24;

/// Inlines loops; `stack_depth` (bytes, per function as loaded) grows by what they save.
pub(super) fn inline_loops(draft: &mut Draft, aux: &AuxTable, stack_depth: &mut [u32]) -> Check {
    if !aux
        .calls()
        .iter()
        .any(|call| call.loop_inline.fit_for_inline)
    {
        return Ok(());
    }
    let starts: Vec<u32> = draft.subprogs.iter().map(|subprog| subprog.start).collect();
    let before = stack_depth.to_vec();
    let mut subprog = 0;
    draft.rewrite(|at, slot, patch| {
        while starts.get(subprog + 1).is_some_and(|&start| start <= at) {
            subprog += 1;
        }
        let inline = aux.call(slot.orig).loop_inline;
        let callback = starts.get(inline.callback_subprogno as usize).copied();
        let (true, Some(callback), Some(&depth)) = (
            slot.is_primary && inline.fit_for_inline && slot.insn.code == CODE_CALL,
            callback,
            before.get(subprog),
        ) else {
            patch.keep(slot);
            return Ok(());
        };
        let depth = depth.next_multiple_of(8) + SAVED_BYTES;
        if let Some(stack_depth) = stack_depth.get_mut(subprog) {
            *stack_depth = depth;
        }
        let base = -(depth as i16);
        patch.push_all(&[
            jmp_imm(JMP, JLE, R1, LOOPS_MAX, 2),
            alu_imm(ALU, MOV, R0, -Errno::E2BIG.raw()),
            ja(16),
            store64(FP, R6, base),
            store64(FP, R7, base + 8),
            store64(FP, R8, base + 16),
            alu_reg(ALU64, MOV, R6, R1),
            alu_imm(ALU, MOV, R7, 0),
            alu_reg(ALU64, MOV, R8, R3),
            RawInsn {
                off: 5,
                ..alu_reg(JMP, JGE, R7, R6)
            },
            alu_reg(ALU64, MOV, R1, R7),
            alu_reg(ALU64, MOV, R2, R8),
        ]);
        patch.push_to(RawInsn::new(CODE_CALL, 0, 1, 0, 0), callback);
        patch.push_all(&[
            alu_imm(ALU64, ADD, R7, 1),
            jmp_imm(JMP, JEQ, R0, 0, -6),
            alu_reg(ALU64, MOV, R0, R7),
            load64(R6, FP, base),
            load64(R7, FP, base + 8),
            load64(R8, FP, base + 16),
        ]);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aux::LoopInline;
    use crate::env::Subprog;

    #[test]
    fn the_loop_calls_the_callback() {
        let call = RawInsn::new(CODE_CALL, 0, 0, 0, 181);
        let insns = [call, EXIT, alu_imm(ALU64, MOV, R0, 0), EXIT];
        let subprogs = [0, 2].map(|start| Subprog {
            start,
            ..Subprog::default()
        });
        let mut draft = Draft::new(&insns, &subprogs);
        let mut aux = AuxTable::new(4);
        aux.call_mut(0).loop_inline = LoopInline {
            initialized: true,
            fit_for_inline: true,
            callback_subprogno: 1,
        };
        let mut depth = [12, 0];
        inline_loops(&mut draft, &aux, &mut depth).unwrap();
        assert_eq!(depth, [40, 0]);
        let insns = draft.encode().unwrap();
        assert_eq!(insns.len(), 22);
        assert_eq!(insns[2], ja(16));
        assert_eq!(insns[12], RawInsn::new(CODE_CALL, 0, 1, 0, 7));
        assert_eq!(insns[14].off, -6);
    }
}
