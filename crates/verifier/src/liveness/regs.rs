//! Registers that may be read before they are written, before each instruction of the program.
//!
//! ```text
//! before(i) = reads(i) | (after(i) - writes(i))      after(i) = union of before(s) over successors s of i
//! ```
//!
//! Solved from below in postorder until nothing changes. Calls read as many arguments as the prototype has (all five of
//! a function of the program and of what is unknown) and write r0 to r5. What is not in the table reads everything:
//! legacy packet loads do. Exploration forgets registers that are dead here.
//! Kernel counterpart: `compute_live_registers`. Neighbours: `order` (postorder), `states` (pruning), `log`.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use ring3_isa::RawInsn;

use crate::call_traits::CallLookup;
use crate::cfg::successors;
use crate::subprogs::{is_helper_call, is_kfunc_call};

const R0: u16 = 1;
const CALLER_SAVED: u16 = 0x3f;
const ARGS: u16 = 0x3e;
const EVERYTHING: u16 = 0xffff;

struct ReadsWrites {
    reads: u16,
    writes: u16,
}

/// Bit per register, r0 the lowest, that is live before each slot.
pub(crate) fn compute_live_regs(
    insns: &[RawInsn],
    postorder: &[u32],
    calls: &CallLookup<'_>,
) -> Vec<u16> {
    let effects: Vec<ReadsWrites> = insns
        .iter()
        .map(|&insn| reads_writes(insn, calls))
        .collect();
    let mut live = vec![0u16; insns.len()];
    loop {
        let mut changed = false;
        for &at in postorder {
            let after =
                successors(insns, at).fold(0, |live_after, to| live_after | live[to as usize]);
            let effect = &effects[at as usize];
            let before = effect.reads | (after & !effect.writes);
            changed |= live[at as usize] != before;
            live[at as usize] = before;
        }
        if !changed {
            return live;
        }
    }
}

/// The block of the level-2 log; `write_insn` writes the instruction at a slot and its newline.
pub(crate) fn write_live_regs<W: fmt::Write>(
    out: &mut W,
    insns: &[RawInsn],
    live: &[u16],
    scc: &[u32],
    write_insn: &mut dyn FnMut(&mut W, u32) -> fmt::Result,
) -> fmt::Result {
    out.write_str("Live regs before insn:\n")?;
    let mut at = 0;
    while at < insns.len() {
        match scc.get(at).copied().unwrap_or(0) {
            0 => out.write_str("    ")?,
            scc => write!(out, "{scc:3} ")?,
        }
        write!(out, "{at:3}: ")?;
        for reg in 0..10u8 {
            if live[at] & (1 << reg) != 0 {
                out.write_char(char::from(b'0' + reg))?;
            } else {
                out.write_char('.')?;
            }
        }
        out.write_char(' ')?;
        write_insn(out, at as u32)?;
        at += if insns[at].is_ld_imm64() { 2 } else { 1 };
    }
    Ok(())
}

fn reads_writes(insn: RawInsn, calls: &CallLookup<'_>) -> ReadsWrites {
    let dst = 1u16 << insn.dst();
    let src = 1u16 << insn.src();
    let reg_operand = insn.code & 0x08 != 0;
    let (reads, writes) = match insn.class() {
        // LD
        0 if insn.is_ld_imm64() => (0, dst),
        // LDX, plain and sign-extending
        1 if matches!(insn.code & 0xe0, 0x60 | 0x80) => (src, dst),
        // ST
        2 if insn.code & 0xe0 == 0x60 => (dst, 0),
        // STX
        3 => match insn.code & 0xe0 {
            0x60 => (dst | src, 0),
            0xc0 => atomic(insn, dst, src),
            _ => (EVERYTHING, 0),
        },
        // ALU, ALU64
        4 | 7 => match insn.code & 0xf0 {
            0xd0 => (dst, dst),
            0xb0 => (if reg_operand { src } else { 0 }, dst),
            _ => (if reg_operand { dst | src } else { dst }, dst),
        },
        // JMP, JMP32
        5 | 6 => match insn.code & 0xf0 {
            0x00 | 0xe0 => (0, 0),
            0x90 => (R0, 0),
            0x80 => (call_reads(insn, calls), CALLER_SAVED),
            _ => (if reg_operand { dst | src } else { dst }, 0),
        },
        _ => (EVERYTHING, 0),
    };
    ReadsWrites { reads, writes }
}

fn atomic(insn: RawInsn, dst: u16, src: u16) -> (u16, u16) {
    match insn.imm {
        // cmpxchg
        0xf1 => (R0 | dst | src, R0),
        // load_acquire
        0x100 => (src, dst),
        // store_release
        0x110 => (dst | src, 0),
        imm if imm & 1 != 0 => (dst | src, src),
        _ => (dst | src, 0),
    }
}

fn call_reads(insn: RawInsn, calls: &CallLookup<'_>) -> u16 {
    if !is_helper_call(insn) && !is_kfunc_call(insn) {
        return ARGS;
    }
    match calls(insn).summary {
        Some(summary) => ((1u16 << summary.params.min(5)) - 1) << 1,
        None => ARGS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_traits::{CallSummary, CallTraits};
    use crate::env::Subprog;
    use alloc::string::String;

    fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> RawInsn {
        RawInsn::new(code, dst, src, off, imm)
    }

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);

    fn live(insns: &[RawInsn], params: Option<u8>) -> Vec<u16> {
        let mut subprogs = [Subprog {
            start: 0,
            end: insns.len() as u32,
            ..Subprog::default()
        }];
        let postorder = crate::order::compute_postorder(insns, &mut subprogs);
        let calls = move |_| CallTraits {
            summary: params.map(|params| CallSummary {
                params,
                ..CallSummary::default()
            }),
            ..CallTraits::default()
        };
        compute_live_regs(insns, &postorder, &calls)
    }

    #[test]
    fn a_call_reads_its_arguments() {
        let program = [insn(0x85, 0, 0, 0, 1), EXIT];
        assert_eq!(live(&program, Some(2)), [0b110, 1]);
        assert_eq!(live(&program, None), [0b11_1110, 1]);
        assert_eq!(live(&program, Some(0)), [0, 1]);
    }

    #[test]
    fn packet_loads_read_everything() {
        let program = [insn(0xbf, 6, 1, 0, 0), insn(0x30, 0, 0, 0, 0), EXIT];
        assert_eq!(live(&program, None)[1], 0xffff);
        assert_eq!(live(&program, None)[0], !(1 << 6));
    }

    #[test]
    fn loops_reach_a_fixpoint() {
        // r1 -= 1; if r1 != r2 goto 0; r0 = 0; exit
        let program = [
            insn(0x17, 1, 0, 0, 1),
            insn(0x5d, 1, 2, -2, 0),
            insn(0xb7, 0, 0, 0, 0),
            EXIT,
        ];
        assert_eq!(live(&program, None), [0b110, 0b110, 0, 1]);
    }

    #[test]
    fn the_block_reads_as_the_kernel_s() {
        let program = [
            insn(0x18, 3, 0, 0, 0),
            insn(0, 0, 0, 0, 0),
            insn(0xbf, 0, 3, 0, 0),
            EXIT,
        ];
        let mut out = String::new();
        let live = live(&program, None);
        write_live_regs(
            &mut out,
            &program,
            &live,
            &[0, 0, 7, 0],
            &mut |out: &mut String, at| {
                use core::fmt::Write;
                writeln!(out, "<{at}>")
            },
        )
        .unwrap();
        assert_eq!(
            out,
            "Live regs before insn:\n      0: .......... <0>\n  7   2: ...3...... <2>\n      3: 0......... <3>\n"
        );
    }
}
