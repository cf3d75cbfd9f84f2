//! Stop points: where a run with a limit ends before its time ([`ring3_runtime::Limit`]).
//!
//! ```text
//!         sub   qword fs:[budget], 1   ; before each jump back, and where a callback begins
//!         js    stop
//!   on:
//!         call  function               ; or a helper that calls back
//!         cmp   dword fs:[stopped], 0
//!         jne   stopped
//!
//!   stop:                              ; behind the function
//!         call  confirm                ; keeps all registers
//!         je    on
//!   stopped:
//!         ...                          ; what this function holds here is released
//!         mov   eax, 0                 ; 1 from a callback: its helper calls it no more
//!         jmp   epilogue
//! ```
//!
//! What is held, and where its address is, is the verifier's knowledge of the instruction; `live` keeps it there.

use ring3_isa::{MemSize, RawInsn, Width};
use ring3_runtime::{HelperFn, Linked, StopSite};
use ring3_spec::HeldPlace;

use crate::asm::{Arith, Cond, Mem, Patch};
use crate::emit::{Emitter, JitError};
use crate::frame::Mode;
use crate::regs::{R8, R10, R11, RAX, RBP, RCX, RDI, RDX, RSI, RSP, X};

/// A check whose code behind the function is still to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingStop {
    patch: Patch,
    slot: usize,
    /// Where to go on if this run is not meant; `None` where a callee was stopped already.
    on: Option<u32>,
}

/// Whether the slot is a jump back.
pub(crate) fn jumps_back(raw: RawInsn) -> bool {
    matches!(raw.class(), 5 | 6)
        && !matches!(raw.code & 0xf0, 0x80 | 0x90)
        && raw.distance().is_some_and(|distance| distance < 0)
}

/// What is known of stopping at a slot.
fn site(linked: &Linked, slot: usize) -> Option<&StopSite> {
    linked.stops.as_ref()?.at(linked.fact(slot).orig_idx)
}

/// The registers that stopping at a slot reads.
pub(crate) fn reads(linked: &Linked, slot: usize) -> u16 {
    let raw = linked.program.insns[slot];
    if !matches!(raw.class(), 5 | 6) || linked.stops.is_none() {
        return 0;
    }
    let held = site(linked, slot).map_or(&[][..], |site| &site.held);
    held.iter().fold(0, |mask, (place, _)| match place {
        HeldPlace::Reg { reg, .. } => mask | 1 << reg,
        HeldPlace::Stack { .. } | HeldPlace::Frame { .. } => mask,
    })
}

impl Emitter<'_> {
    /// Counts the jump back at `slot`, or the begin of a callback.
    pub(crate) fn count_stop(&mut self, slot: usize) {
        let Some(layout) = self.stops else { return };
        self.asm.step_thread_down(layout.budget);
        let patch = self.asm.jcc32(Cond::S);
        let on = Some(self.asm.pos() as u32);
        self.pending_stops.push(PendingStop { patch, slot, on });
    }

    /// Behind a call at `slot` whose callee may have been stopped.
    pub(crate) fn look_for_stop(&mut self, slot: usize) {
        let Some(layout) = self.stops else { return };
        if self.mode != Mode::Native {
            return;
        }
        self.asm.compare_thread_with_zero(layout.stopped);
        let patch = self.asm.jcc32(Cond::Ne);
        self.pending_stops.push(PendingStop {
            patch,
            slot,
            on: None,
        });
    }

    /// The code behind a function.
    pub(crate) fn stop_stubs(&mut self) -> Result<(), JitError> {
        for stop in std::mem::take(&mut self.pending_stops) {
            let here = self.asm.pos();
            self.asm.bind32(stop.patch, here);
            if let Some(on) = stop.on {
                let confirm = self.asm.call();
                self.confirm_calls.push(confirm);
                let back = self.asm.jcc32(Cond::E);
                self.asm.bind32(back, on as usize);
            }
            let raw = self.linked.program.insns[stop.slot];
            if let Some(site) = site(self.linked, stop.slot)
                && !site.held.is_empty()
                && matches!(raw.class(), 5 | 6)
            {
                let is_helper_call = raw.code == 0x85 && raw.src() == 0;
                if site.calls_back && !is_helper_call {
                    return Err(JitError::Unsupported {
                        slot: stop.slot,
                        what: "a limit, as something is held while callbacks run in a loop in place of a call",
                    });
                }
                self.release(&site.held);
            }
            self.asm.mov_imm(RAX, u64::from(self.is_callback()));
            self.exit_here();
        }
        Ok(())
    }

    /// Calls what releases, in order. The first call may change the registers that hold the others.
    fn release(&mut self, held: &[(HeldPlace, HelperFn)]) {
        for (place, _) in held.iter().rev() {
            match *place {
                HeldPlace::Reg { reg, off: 0 } => self.asm.push(holder(reg)),
                HeldPlace::Reg { reg, off } => {
                    self.asm.lea(Width::W64, R11, Mem::at(holder(reg), off));
                    self.asm.push(R11);
                }
                HeldPlace::Stack { at, off } => {
                    self.asm.load(MemSize::Dw, R11, Mem::at(RBP, at));
                    if off != 0 {
                        self.asm.lea(Width::W64, R11, Mem::at(R11, off));
                    }
                    self.asm.push(R11);
                }
                HeldPlace::Frame { at } => {
                    self.asm.lea(Width::W64, R11, Mem::at(RBP, at));
                    self.asm.push(R11);
                }
            }
        }
        for (at, (_, release)) in held.iter().enumerate() {
            self.asm.pop(RDI);
            self.asm.mov_imm(RSI, 0);
            let is_odd = !(held.len() - 1 - at).is_multiple_of(2);
            // Null is a reservation that failed.
            self.asm.test_rr(Width::W64, RDI, RDI);
            let none = self.asm.jcc8(Cond::E);
            if is_odd {
                self.asm.push(RDI);
            }
            self.call_absolute(*release as *const () as usize);
            if is_odd {
                self.asm.pop(RDI);
            }
            self.asm.bind8(none);
        }
    }

    /// The routine that asks whether this run is meant: not zero if it is. Keeps all registers but flags and scratch.
    pub(crate) fn confirm_routine(&mut self) {
        if self.confirm_calls.is_empty() {
            return;
        }
        let here = self.asm.pos();
        for patch in std::mem::take(&mut self.confirm_calls) {
            self.asm.bind32(patch, here);
        }
        // Return address and seven registers: the stack pointer is a multiple of 16 again.
        let kept = [RAX, RDI, RSI, RDX, RCX, R8, R10];
        for reg in kept {
            self.asm.push(reg);
        }
        self.call_absolute(ring3_runtime::confirm_stop as *const () as usize);
        self.asm.arith_rr(Arith::Or, Width::W32, RAX, RAX);
        for reg in kept.into_iter().rev() {
            self.asm.pop(reg);
        }
        self.asm.ret();
    }
}

/// The register of a number that the verifier gave, r0 to r9.
fn holder(number: u8) -> X {
    ring3_isa::Reg::new(number).map_or(RSP, X::of)
}
