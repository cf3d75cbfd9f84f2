//! Tail calls: a jump into another program that uses this one's frame.
//!
//! ```text
//!         cmp   index, max_entries     ; not for a constant index that is in range
//!         jae   out
//!         cmp   r12d, 33               ; tail calls of this run so far
//!         jae   out
//!         mov   r11, [table + index*8] ; 0 for an empty slot
//!         test  r11, r11
//!         je    out
//!         inc   r12d
//!         jmp   r11                    ; behind the target's prologue: same frame, nothing popped or pushed
//!   out:
//! ```
//!
//! The slot is loaded once, so update and delete are atomic for running programs. A failed tail call goes on behind the call.

use ring3_isa::{MemSize, Width};
use ring3_runtime::{MAX_TAIL_CALLS, TailCallSite};

use crate::asm::{Arith, Cond, Mem};
use crate::emit::Emitter;
use crate::regs::{R9, R11, R12, RDX};

impl Emitter<'_> {
    pub(crate) fn tail_call(&mut self, site: TailCallSite) {
        let table = site.table.entries as usize as u64;
        let max_entries = site.table.max_entries;
        let asm = &mut self.asm;
        let mut outs = [None; 3];
        match site.const_index {
            Some(index) if index >= max_entries => return,
            Some(_) => {}
            None => {
                asm.arith_ri(Arith::Cmp, Width::W32, RDX, max_entries as i32);
                outs[0] = Some(asm.jcc8(Cond::Ae));
            }
        }
        asm.arith_ri(Arith::Cmp, Width::W32, R12, MAX_TAIL_CALLS as i32);
        outs[1] = Some(asm.jcc8(Cond::Ae));
        match site.const_index {
            Some(index) => {
                asm.mov_imm(R11, table + u64::from(index) * 8);
                asm.load(MemSize::Dw, R11, Mem::at(R11, 0));
            }
            None => {
                asm.mov_imm(R11, table);
                asm.mov_rr(Width::W32, R9, RDX);
                asm.load(MemSize::Dw, R11, Mem::indexed(R11, R9, 3, 0));
            }
        }
        asm.test_rr(Width::W64, R11, R11);
        outs[2] = Some(asm.jcc8(Cond::E));
        asm.step(Width::W32, R12, Arith::Add);
        asm.jmp_reg(R11);
        for out in outs.into_iter().flatten() {
            asm.bind8(out);
        }
    }
}
