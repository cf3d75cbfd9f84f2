//! Frames: what a function pushes, where its stack is, how it begins and ends.
//!
//! ```text
//!             ordinary function                 function with tail calls: the shared frame
//!   entry     nop5                              nop5
//!                                               [ push r12; xor r12d,r12d; call inner; pop r12; ret      main program and callbacks
//!                                                 inner: ]
//!             push rbp           if r10 is used push rbp
//!             push rbx r13 r14 r15  those used  push rbx r13 r14 r15          always all
//!             mov rbp, rsp       if r10 is used mov rbp, rsp
//!             sub rsp, N         if needed      sub rsp, SHARED_BYTES         always the same
//!   body      ...                               body:  <- tail calls land here
//! ```
//!
//! Every function that makes tail calls has the same frame, so a tail call is a plain jump: nothing is popped and pushed, no stack grows.
//! A program that makes none keeps its small frame; a tail call reaches it through a stub that calls it and then ends the shared frame in its
//! place (`tail_entry`). r12d counts tail calls; it is zeroed where the host or a helper enters, lives through subprograms, and is restored
//! on the way out.
//!
//! Locals (the `may_goto` budget, an exception boundary) lie at the stack pointer, below the BPF stack.

use ring3_isa::Reg;

use crate::asm::{Arith, Asm, Mem};
use crate::emit::JitError;
use crate::plan::{Function, Plan};
use crate::regs::{R12, RAX, RBP, RCX, RSP, SAVED, X};
use ring3_isa::Width;

/// Stack of the shared frame: 512 bytes, the verifier's extra slots, locals; a multiple of 16 with five pushes and the return address.
const SHARED_BYTES: u32 = 544;
/// A leaf may use this much below the stack pointer (System V ABI, the red zone).
const RED_ZONE_BYTES: u32 = 128;
/// The `may_goto` budget.
pub(crate) const BUDGET_BYTES: u32 = 8;
/// `ring3_runtime::exception::Boundary` is three words.
pub(crate) const BOUNDARY_BYTES: u32 = 24;

/// The shape of one function's frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame {
    /// Which of [`SAVED`] are pushed, one bit each.
    saved: u8,
    /// rbp is pushed and points behind the BPF stack.
    has_fp: bool,
    /// rbp is pushed (it may be without pointing anywhere, in exception boundaries).
    pushes_fp: bool,
    /// Subtracted from the stack pointer.
    sub_bytes: u32,
    /// Shared frame, see above.
    pub(crate) is_shared: bool,
    /// Saves and zeroes the tail-call count.
    pub(crate) counts: bool,
    /// An exception stops here.
    pub(crate) is_boundary: bool,
    /// r10 (the x86 register) is free in the whole function.
    pub(crate) ax_is_free: bool,
}

/// How frames are made in this compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The BPF stack is in the native frame.
    Native,
    /// rbp points into a stack of the checked run; every access calls out.
    Checked,
}

impl Frame {
    /// The frame that a function needs.
    ///
    /// # Errors
    /// [`JitError::Unsupported`]: tail calls and exceptions in one program; more stack than the shared frame has.
    pub(crate) fn of(plan: &Plan, index: usize, mode: Mode) -> Result<Frame, JitError> {
        let function: &Function = &plan.functions[index];
        let unsupported = |what: &'static str| JitError::Unsupported {
            slot: function.start,
            what,
        };
        if plan.has_exceptions && plan.has_tail_calls {
            return Err(unsupported("tail calls in a program with exceptions"));
        }
        let is_entry = index == 0 || function.is_callback;
        let mut frame = Frame {
            is_shared: function.has_tail_call,
            counts: plan.has_tail_calls && is_entry,
            is_boundary: plan.has_exceptions && is_entry,
            ax_is_free: !function.used.contains(Reg::AX),
            ..Frame::default()
        };
        let mut locals = if function.has_may_goto {
            BUDGET_BYTES
        } else {
            0
        };
        if frame.is_boundary {
            locals += BOUNDARY_BYTES;
        }
        let uses_fp = function.used.contains(Reg::FP);
        let mut stack_bytes = if uses_fp {
            function.stack_bytes.next_multiple_of(8)
        } else {
            0
        };
        if mode == Mode::Checked {
            stack_bytes = 0;
        }
        if frame.is_shared {
            if stack_bytes + locals > SHARED_BYTES {
                return Err(unsupported(
                    "more than 512 bytes of stack in a function with tail calls",
                ));
            }
            return Ok(Frame {
                saved: 0b1111,
                has_fp: true,
                pushes_fp: true,
                sub_bytes: SHARED_BYTES,
                ..frame
            });
        }
        frame.has_fp = uses_fp && mode == Mode::Native;
        frame.pushes_fp = frame.has_fp || frame.is_boundary;
        for (bit, reg) in [Reg::R6, Reg::R7, Reg::R8, Reg::R9].into_iter().enumerate() {
            if function.used.contains(reg) || frame.is_boundary {
                frame.saved |= 1 << bit;
            }
        }
        let calls = function.has_calls || frame.is_boundary || mode == Mode::Checked;
        let pushes = function.pushes && !frame.ax_is_free;
        if !calls && !pushes && locals == 0 && stack_bytes <= RED_ZONE_BYTES {
            return Ok(frame);
        }
        // Return address and pushes, then as much as makes the stack pointer a multiple of 16 at calls.
        let above = 8 + 8 * frame.pushed();
        let below = (stack_bytes + locals).next_multiple_of(8);
        frame.sub_bytes = if calls {
            (above + below).next_multiple_of(16) - above
        } else {
            below
        };
        Ok(frame)
    }

    fn pushed(&self) -> u32 {
        self.saved.count_ones() + u32::from(self.pushes_fp)
    }

    /// Upper bound of what the epilogue takes, in bytes.
    pub(crate) fn epilogue_bytes(&self) -> usize {
        let sub = match self.sub_bytes {
            0 => 0,
            8 => 1,
            _ => 7,
        };
        sub + 2 * self.saved.count_ones() as usize + usize::from(self.pushes_fp) + 1
    }

    /// Everything up to the body, from behind the nop. Returns the offset of `inner`: where callers go that have set up the tail-call count.
    pub(crate) fn prologue(&self, asm: &mut Asm) -> usize {
        if self.counts {
            asm.push(R12);
            asm.arith_rr(Arith::Xor, Width::W32, R12, R12);
            let inner = asm.call();
            asm.pop(R12);
            asm.ret();
            let here = asm.pos();
            asm.bind32(inner, here);
        }
        let inner = asm.pos();
        if self.pushes_fp {
            asm.push(RBP);
        }
        for reg in self.saved_registers() {
            asm.push(reg);
        }
        if self.has_fp {
            asm.copy(RBP, RSP);
        }
        match self.sub_bytes {
            0 => {}
            // One byte instead of four.
            8 => asm.push(RAX),
            bytes => asm.arith_ri(Arith::Sub, Width::W64, RSP, bytes as i32),
        }
        inner
    }

    /// Ends the function; r0 is in rax.
    pub(crate) fn epilogue(&self, asm: &mut Asm) {
        match self.sub_bytes {
            0 => {}
            // r4 means nothing to a caller.
            8 => asm.pop(RCX),
            // -128 is one byte where 128 is four.
            128 => asm.arith_ri(Arith::Sub, Width::W64, RSP, -128),
            bytes => asm.arith_ri(Arith::Add, Width::W64, RSP, bytes as i32),
        }
        let mut saved = [None; 4];
        for (slot, reg) in saved.iter_mut().zip(self.saved_registers()) {
            *slot = Some(reg);
        }
        for reg in saved.into_iter().rev().flatten() {
            asm.pop(reg);
        }
        if self.pushes_fp {
            asm.pop(RBP);
        }
        asm.ret();
    }

    fn saved_registers(&self) -> impl Iterator<Item = X> + use<> {
        let saved = self.saved;
        SAVED
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| saved >> bit & 1 != 0)
            .map(|(_, reg)| reg)
    }

    /// The `may_goto` budget.
    pub(crate) fn budget(&self) -> Mem {
        let offset = if self.is_boundary { BOUNDARY_BYTES } else { 0 };
        Mem::at(RSP, offset as i32)
    }

    /// The shared frame, whose end a stub writes for programs without it.
    pub(crate) fn shared() -> Frame {
        Frame {
            saved: 0b1111,
            has_fp: true,
            pushes_fp: true,
            sub_bytes: SHARED_BYTES,
            is_shared: true,
            ..Frame::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_frame_keeps_the_stack_aligned() {
        let frame = Frame::shared();
        assert_eq!((8 + 8 * frame.pushed() + frame.sub_bytes) % 16, 0);
    }
}
