//! Exceptions in compiled code: the records of boundary frames, and where an exception arrives. The rules are those of
//! [`ring3_runtime::exception`].

use ring3_isa::{MemSize, Width};

use crate::asm::{Mem, Patch};
use crate::emit::{Emitter, JitError};
use crate::regs::{R11, RAX, RSP};

impl Emitter<'_> {
    /// Links the boundary record at the stack pointer; returns the immediate that takes the landing's address.
    pub(crate) fn enter_boundary(&mut self) -> Patch {
        use crate::regs::{R8, RCX, RDI, RDX, RSI};
        self.asm.store(MemSize::Dw, Mem::at(RSP, 8), RSP);
        let landing = self.asm.mov_imm64(R11, 0);
        self.asm.store(MemSize::Dw, Mem::at(RSP, 16), R11);
        let args = [RDI, RSI, RDX, RCX, R8];
        self.asm.lea(Width::W64, R11, Mem::at(RSP, 0));
        for reg in args {
            self.asm.push(reg);
        }
        self.asm.push(RAX);
        self.asm.copy(RDI, R11);
        self.call_absolute(ring3_runtime::exception::enter as *const () as usize);
        self.asm.pop(RAX);
        for reg in args.into_iter().rev() {
            self.asm.pop(reg);
        }
        landing
    }

    /// Unlinks the boundary record; rax survives.
    pub(crate) fn leave_boundary(&mut self) {
        use crate::regs::{RDI, RSI};
        self.asm.lea(Width::W64, RDI, Mem::at(RSP, 0));
        self.asm.copy(RSI, RAX);
        self.call_absolute(ring3_runtime::exception::leave as *const () as usize);
    }

    /// Where an exception arrives: rsp is this frame's.
    pub(crate) fn land(&mut self, index: usize, landing: Patch) -> Result<(), JitError> {
        use crate::regs::RDI;
        let here = self.asm.pos() as u32;
        self.addresses.push((landing, here));
        if index == 0 {
            self.call_absolute(ring3_runtime::exception::arrive as *const () as usize);
            if let Some(callback) = self.linked.program.exception_cb {
                if callback as usize >= self.plan.functions.len() {
                    return Err(JitError::Malformed {
                        slot: 0,
                        what: "exception callback is no function".to_owned(),
                    });
                }
                self.asm.copy(RDI, RAX);
                self.call_function(callback as usize);
            }
        } else {
            // A callback that threw tells its caller to stop.
            self.asm.mov_imm(RAX, 1);
        }
        self.leave_boundary();
        self.frame.epilogue(&mut self.asm);
        Ok(())
    }
}
