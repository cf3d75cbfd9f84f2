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
//!
//! Where map and index are constant and the map says who changes, the jump itself follows the slot:
//!
//! ```text
//!         cmp   r12d, 33
//!         jae   out
//!         inc   r12d
//!         jmp   target                 ; patched by the prog array in one store; a nop while the slot is empty
//!         dec   r12d
//!   out:                               ; behind the program, for targets out of reach:  jmp [rip+0]; address
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ring3_isa::{MemSize, Width};
use ring3_runtime::{DirectJump, Follower, HubRef, MAX_TAIL_CALLS, TailCallSite};

use crate::asm::{Arith, Cond, Mem};
use crate::emit::Emitter;
use crate::frame::Mode;
use crate::fuse::Rule;
use crate::pack::Text;
use crate::regs::{R9, R11, R12, RDX};

/// A patched jump, before its code has a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirectSite {
    /// Offset of the five bytes, which lie in one aligned quadword.
    offset: u32,
    /// Offset of the jump that reaches anywhere; its address is in the aligned quadword after its six bytes.
    far: u32,
    index: u32,
    entry: *const AtomicUsize,
    hub: HubRef,
}

const JMP: u64 = 0xe9;
const NOP5: u64 = 0x00_0044_1f0f;
const LOW5: u64 = 0xff_ffff_ffff;
/// `jmp [rip + 0]`
const FAR_JUMP_BYTES: usize = 6;

/// The jump in the text.
struct PatchedJump {
    text: Arc<Text>,
    site: DirectSite,
}

// SAFETY: 1. `entry` is not used through this; 2. the rest is shared data.
unsafe impl Send for PatchedJump {}
// SAFETY: as above.
unsafe impl Sync for PatchedJump {}

impl PatchedJump {
    fn write(&self, offset: usize, mask: u64, value: u64) {
        let (word, shift) = (offset & !7, 8 * (offset & 7));
        let old = self.text.quadword(word);
        let new = old & !(mask << shift) | value << shift;
        // The hub's lock is held: nobody else writes this quadword.
        let _ = self.text.patch_quadword(word, old, new);
    }
}

impl DirectJump for PatchedJump {
    fn set(&self, target: usize) {
        let offset = self.site.offset as usize;
        let jump = |to: usize| {
            let distance = to as i64 - (self.text.address() + offset + 5) as i64;
            let distance = i32::try_from(distance).ok()?;
            Some(JMP | u64::from(distance as u32) << 8)
        };
        let insn = match target {
            0 => NOP5,
            target => jump(target).unwrap_or_else(|| {
                let far = self.site.far as usize;
                self.write(far + FAR_JUMP_BYTES, u64::MAX, target as u64);
                // Inside the text: in reach.
                jump(self.text.address() + far).unwrap_or(NOP5)
            }),
        };
        self.write(offset, LOW5, insn);
    }
}

/// Lets the sites of placed and written code follow their slots.
pub(crate) fn follow(text: &Arc<Text>, sites: &[DirectSite]) -> Vec<Follower> {
    sites
        .iter()
        .map(|site| {
            let jump = PatchedJump {
                text: Arc::clone(text),
                site: *site,
            };
            // SAFETY: 1. whoever compiles holds the map of a site, and with it hub and table.
            unsafe {
                site.hub
                    .upgrade()
                    .attach(site.index, &*site.entry, Box::new(jump))
            }
        })
        .collect()
}

impl Emitter<'_> {
    pub(crate) fn tail_call(&mut self, site: TailCallSite) {
        if let (Some(index), Some(hub), Mode::Native) = (site.const_index, site.hub, self.mode) {
            return self.direct_tail_call(site, index, hub);
        }
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

    fn direct_tail_call(&mut self, site: TailCallSite, index: u32, hub: HubRef) {
        if index >= site.table.max_entries {
            return;
        }
        self.hit(Rule::DirectTailCall);
        let asm = &mut self.asm;
        asm.arith_ri(Arith::Cmp, Width::W32, R12, MAX_TAIL_CALLS as i32);
        let out = asm.jcc8(Cond::Ae);
        asm.step(Width::W32, R12, Arith::Add);
        let into_word = asm.pos() % 8;
        if into_word > 3 {
            asm.nop(8 - into_word);
        }
        let offset = asm.pos() as u32;
        asm.nop5();
        asm.step(Width::W32, R12, Arith::Sub);
        asm.bind8(out);
        // A planted fault: a jump that follows nothing.
        if !self.is_planted(Rule::DirectTailCall) {
            self.direct.push(DirectSite {
                offset,
                far: 0,
                index,
                entry: site.table.entries.wrapping_add(index as usize),
                hub,
            });
        }
    }

    /// The jumps for targets out of reach, behind everything else.
    pub(crate) fn far_jumps(&mut self) {
        for at in 0..self.direct.len() {
            while self.asm.pos() % 8 != 8 - FAR_JUMP_BYTES {
                self.asm.trap();
            }
            self.direct[at].far = self.asm.pos() as u32;
            self.asm.far_jump(0);
        }
    }
}
