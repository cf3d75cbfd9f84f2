//! Calls: helpers, functions of the program, legacy packet loads, and the lookups that are expanded in place.
//!
//! Arguments and result are where the C ABI has them, so a call is one `call rel32` (through a veneer where the target is out of reach).

use std::sync::atomic::AtomicU64;

use ring3_isa::{JmpOp, MemSize, Width};
use ring3_runtime::{CallKind, CallTarget, Clobbers, InlineCall, LoadPacketFn, Target};

use crate::asm::{Arith, Cond, Mem, Patch, Shift, Unary};
use crate::emit::{Emitter, JitError};
use crate::frame::Mode;
use crate::regs::{R8, R9, R11, RAX, RBX, RCX, RDI, RDX, RSI, RSP, X};

/// Values one behind the other.
struct Array {
    base: u64,
    stride: u32,
    max_entries: u32,
}

/// What a lookup does about a key that is not there.
enum Miss {
    /// It has jumped where the null check behind it would go.
    Jumped,
    /// It goes on behind the null check; the others go to `target`.
    Falls { beyond: Patch, target: usize },
    /// r0 becomes 0.
    Null(Patch),
}

impl Emitter<'_> {
    /// A call of something outside of the program, as its site says.
    pub(crate) fn call(&mut self, slot: usize) -> Result<(), JitError> {
        match self.target(slot) {
            Some(Target::Call(target)) => {
                self.call_target(target);
                if target.kind == CallKind::TakesCallback {
                    self.look_for_stop(slot);
                }
            }
            Some(Target::Inline(inline)) => self.inline_call(slot, inline),
            Some(Target::TailCall(site)) => {
                if self.mode == Mode::Checked {
                    return Err(JitError::Unsupported {
                        slot,
                        what: "tail call in a checked program",
                    });
                }
                self.tail_call(site);
            }
            Some(Target::Imm64(_) | Target::LoadPacket(_)) | None => {
                return Err(JitError::Unresolved { slot });
            }
        }
        Ok(())
    }

    fn call_target(&mut self, target: CallTarget) {
        if target.kind == CallKind::Throw {
            self.call_absolute(ring3_runtime::exception::raise as *const () as usize);
            return self.go_to_boundary();
        }
        match target.clobbers {
            Clobbers::All => {
                if let CallKind::Given(word) = target.kind {
                    self.asm.mov_imm(R9, word);
                }
                self.call_absolute(target.code as *const () as usize);
            }
            Clobbers::None => {
                let args = [RDI, RSI, RDX, RCX, R8];
                for reg in args {
                    self.asm.push(reg);
                }
                self.asm.push(R8);
                self.call_absolute(target.code as *const () as usize);
                self.asm.pop(R8);
                for reg in args.into_iter().rev() {
                    self.asm.pop(reg);
                }
            }
        }
        if target.kind == CallKind::TakesCallback && self.plan.has_exceptions {
            // r0 twice, for alignment; pop changes no flags.
            self.asm.push(RAX);
            self.asm.push(RAX);
            self.call_absolute(ring3_runtime::exception::pending as *const () as usize);
            self.asm.test_rr(Width::W32, RAX, RAX);
            self.asm.pop(RAX);
            self.asm.pop(RAX);
            let none = self.asm.jcc8(Cond::E);
            self.call_absolute(ring3_runtime::exception::rethrow as *const () as usize);
            self.go_to_boundary();
            self.asm.bind8(none);
        }
    }

    /// Goes to the landing in rdx with the stack pointer in rax.
    fn go_to_boundary(&mut self) {
        self.asm.copy(RSP, RAX);
        self.asm.jmp_reg(RDX);
    }

    pub(crate) fn call_subprog(&mut self, slot: usize, distance: i32) -> Result<(), JitError> {
        let start = (slot as i64 + 1 + i64::from(distance)) as usize;
        let Some(function) = self.linked.subprog_at(start) else {
            if !self.linked.names_removed_function(slot) {
                return Err(JitError::Unresolved { slot });
            }
            // No path gets here.
            self.asm.trap();
            return Ok(());
        };
        match self.mode {
            Mode::Native if self.plan.functions[function].is_inlined => {
                self.inline_function(function)?;
            }
            Mode::Native => {
                self.call_function(function);
                self.look_for_stop(slot);
            }
            Mode::Checked => self.checked_call(function),
        }
        Ok(())
    }

    fn inline_call(&mut self, slot: usize, inline: InlineCall) {
        match inline {
            InlineCall::ArrayLookup {
                base,
                stride,
                max_entries,
                ..
            } if self.mode == Mode::Native => {
                let array = Array {
                    base,
                    stride,
                    max_entries,
                };
                self.array_lookup(slot, &array);
            }
            InlineCall::ConstAddress { address, .. } => {
                let rule = crate::fuse::Rule::ConstLookup;
                self.count_hit(rule);
                let address = if self.is_planted(rule) {
                    planted_value()
                } else {
                    address
                };
                self.asm.mov_imm(RAX, address);
            }
            InlineCall::LoadU64 { address, .. } => {
                self.asm.mov_imm(RAX, address);
                self.asm.load(MemSize::Dw, RAX, Mem::at(RAX, 0));
            }
            InlineCall::SmpProcessorId { fallback } => match ring3_sync::rcu::cpu_tls_offset() {
                Some(offset) => self.section_cpu(RAX, offset),
                None => self.call_target(fallback),
            },
            InlineCall::PrandomU32 { fallback } => match ring3_sync::rcu::cell_tls_offset() {
                Some(cell) => self.next_random(cell),
                None => self.call_target(fallback),
            },
            InlineCall::CurrentPidTgid { fallback } => match ring3_sync::rcu::cell_tls_offset() {
                Some(cell) => {
                    let ids = ring3_sync::rcu::section_layout().task_ids_offset as i32;
                    self.asm.load_thread(Width::W64, RAX, cell);
                    self.asm.load(MemSize::Dw, RAX, Mem::at(RAX, ids));
                }
                None => self.call_target(fallback),
            },
            InlineCall::PercpuArrayLookup {
                base,
                stride,
                cpu_stride,
                max_entries,
                fallback,
            } => match (ring3_sync::rcu::cpu_tls_offset(), i32::try_from(cpu_stride)) {
                (Some(offset), Ok(cpu_stride)) if self.mode == Mode::Native => {
                    let array = Array {
                        base,
                        stride,
                        max_entries,
                    };
                    self.percpu_lookup(slot, &array, cpu_stride, offset);
                }
                _ => self.call_target(fallback),
            },
            InlineCall::ArrayLookup { fallback, .. } => self.call_target(fallback),
        }
    }

    /// `dst` = the copy of this CPU of the per-CPU variable whose first copy is at `src`.
    pub(crate) fn percpu_address(&mut self, slot: usize, dst: X, src: X) -> Result<(), JitError> {
        let unsupported = JitError::Unsupported {
            slot,
            what: "address of a per-CPU variable without a distance between copies",
        };
        let (Some(stride), Some(offset)) =
            (self.linked.percpu_stride, ring3_sync::rcu::cpu_tls_offset())
        else {
            return Err(unsupported);
        };
        let Ok(stride) = i32::try_from(stride) else {
            return Err(unsupported);
        };
        self.section_cpu(R11, offset);
        self.asm.imul_rri(Width::W64, R11, R11, stride);
        self.asm.copy(dst, src);
        self.asm.arith_rr(Arith::Add, Width::W64, dst, R11);
        Ok(())
    }

    /// r0 = the next number of the thread, whose cell is at `cell` from the thread pointer: the state takes a step, and its product with another
    /// constant's image of it is folded ([`ring3_sync::random`]). r3 is overwritten.
    fn next_random(&mut self, cell: i32) {
        use ring3_sync::random::{MASK, STEP};
        let state = ring3_sync::rcu::section_layout().random_offset as i32;
        let asm = &mut self.asm;
        asm.load_thread(Width::W64, RAX, cell);
        asm.mov_imm(RDX, STEP);
        asm.arith_rm(Arith::Add, Width::W64, RDX, Mem::at(RAX, state));
        asm.store(MemSize::Dw, Mem::at(RAX, state), RDX);
        asm.mov_imm(RAX, MASK);
        asm.arith_rr(Arith::Xor, Width::W64, RAX, RDX);
        asm.unary(Unary::Mul, Width::W64, RDX);
        asm.arith_rr(Arith::Xor, Width::W32, RAX, RDX);
        self.hit(crate::fuse::Rule::Random);
    }

    /// `dst` = CPU of the read section that the program runs in, whose word is at `offset` from the thread pointer.
    fn section_cpu(&mut self, dst: X, offset: i32) {
        self.asm.load_thread(Width::W32, dst, offset);
        self.hit(crate::fuse::Rule::SectionCpu);
    }

    /// r0 = *(u32 *)r2 < max_entries ? base + cpu * cpu_stride + key * stride : 0; r1 to r5 survive. With the null check that follows.
    fn percpu_lookup(&mut self, slot: usize, array: &Array, cpu_stride: i32, offset: i32) {
        let miss = self.begin_lookup(slot, array.max_entries);
        scale(&mut self.asm, array.stride);
        self.section_cpu(R11, offset);
        self.asm.imul_rri(Width::W64, R11, R11, cpu_stride);
        self.asm.arith_rr(Arith::Add, Width::W64, RAX, R11);
        self.asm.mov_imm(R11, array.base);
        self.asm.arith_rr(Arith::Add, Width::W64, RAX, R11);
        self.end_lookup(slot, miss);
    }

    /// r0 = *(u32 *)r2 < max_entries ? base + key * stride : 0; r1 to r5 survive. With the null check that follows.
    fn array_lookup(&mut self, slot: usize, array: &Array) {
        let rule = crate::fuse::Rule::ArrayLookup;
        // A planted fault: the last element is not there.
        let entries = array.max_entries - u32::from(self.is_planted(rule));
        let miss = self.begin_lookup(slot, entries);
        let asm = &mut self.asm;
        asm.mov_imm(R11, array.base);
        match array.stride {
            1 => asm.arith_rr(Arith::Add, Width::W64, RAX, R11),
            2 | 4 | 8 => asm.lea(
                Width::W64,
                RAX,
                Mem::indexed(R11, RAX, array.stride.trailing_zeros() as u8, 0),
            ),
            _ => {
                scale(asm, array.stride);
                asm.arith_rr(Arith::Add, Width::W64, RAX, R11);
            }
        }
        self.end_lookup(slot, miss);
        self.count_hit(rule);
    }

    /// The key to rax; beyond the last one, what [`Miss`] says.
    fn begin_lookup(&mut self, slot: usize, max_entries: u32) -> Miss {
        self.asm.load(MemSize::W, RAX, Mem::at(RSI, 0));
        // max_entries may exceed i32: compared as the unsigned 32-bit number it is.
        self.asm
            .arith_ri(Arith::Cmp, Width::W32, RAX, max_entries as i32);
        match self.null_check(slot + 1) {
            Some((JmpOp::Eq, target)) if self.is_dead(target, 0) => {
                self.jump_to(slot + 1, target, Some(Cond::Ae));
                Miss::Jumped
            }
            Some((JmpOp::Ne, target)) if self.is_dead(slot + 2, 0) => {
                let beyond = self.asm.jcc32(Cond::Ae);
                Miss::Falls { beyond, target }
            }
            _ => Miss::Null(self.asm.jcc8(Cond::Ae)),
        }
    }

    fn end_lookup(&mut self, slot: usize, miss: Miss) {
        match miss {
            Miss::Jumped => self.consume_next(slot),
            Miss::Falls { beyond, target } => {
                self.jump_to(slot + 1, target, None);
                let here = self.asm.pos();
                self.asm.bind32(beyond, here);
                self.consume_next(slot);
            }
            Miss::Null(beyond) => {
                let end = self.asm.jmp8();
                self.asm.bind8(beyond);
                self.asm.arith_rr(Arith::Xor, Width::W32, RAX, RAX);
                self.asm.bind8(end);
            }
        }
    }

    /// If the slot compares r0 with 0, and is reached from the one before only: how, and where it goes.
    fn null_check(&self, slot: usize) -> Option<(JmpOp, usize)> {
        const JEQ: u8 = 0x15;
        const JNE: u8 = 0x55;
        let raw = self.insns.get(slot)?;
        let op = match raw.code {
            JEQ => JmpOp::Eq,
            JNE => JmpOp::Ne,
            _ => return None,
        };
        let is_plain = self.is_quick() && !self.plan.targets.contains(slot);
        let is_null_check = raw.dst() == 0 && raw.imm == 0 && raw.off > 0;
        let target = (slot as i64 + 1 + i64::from(raw.off)) as usize;
        (is_plain && is_null_check).then_some((op, target))
    }

    /// A legacy packet load: r6 is the context; a negative result ends the function with 0.
    pub(crate) fn load_packet(
        &mut self,
        slot: usize,
        size: MemSize,
        src: Option<X>,
        imm: i32,
    ) -> Result<(), JitError> {
        let Some(Target::LoadPacket(code)) = self.target(slot) else {
            return Err(JitError::Unresolved { slot });
        };
        match src {
            None => self.asm.mov_imm(RSI, i64::from(imm) as u64),
            Some(src) => {
                // 32-bit sum, then as the signed number it is.
                self.asm.lea(Width::W32, RSI, Mem::at(src, imm));
                self.asm.movsx_rr(MemSize::W, Width::W64, RSI, RSI);
            }
        }
        let call = self.asm.call();
        self.packet_calls.push((call, size, code));
        if let Some(failed) = self.packet_failed {
            self.asm.jump_back(failed, Some(Cond::S));
            return Ok(());
        }
        let good = self.asm.jcc8(Cond::Ns);
        self.packet_failed = Some(self.asm.pos());
        self.asm.arith_rr(Arith::Xor, Width::W32, RAX, RAX);
        self.exit_here();
        self.asm.bind8(good);
        Ok(())
    }

    /// The routines that packet loads call: offset in rsi; the sign flag says whether the result is an error.
    pub(crate) fn packet_routines(&mut self) {
        let calls = std::mem::take(&mut self.packet_calls);
        let mut made: Vec<(MemSize, LoadPacketFn, usize)> = Vec::new();
        for (patch, size, code) in calls {
            let known = made
                .iter()
                .find(|(of, to, _)| *of == size && std::ptr::fn_addr_eq(*to, code));
            let routine = match known {
                Some(&(_, _, routine)) => routine,
                None => {
                    let here = self.asm.pos();
                    self.asm.copy(RDI, RBX);
                    self.asm.mov_imm(RDX, size.bytes() as u64);
                    // The return address has made the stack pointer odd.
                    self.asm.push(RDX);
                    self.call_absolute(code as *const () as usize);
                    self.asm.pop(RDX);
                    self.asm.test_rr(Width::W64, RAX, RAX);
                    self.asm.ret();
                    made.push((size, code, here));
                    here
                }
            };
            self.asm.bind32(patch, routine);
        }
    }
}

/// Whether the call is made after all: then it reads what calls read.
pub(crate) fn falls_back(inline: &InlineCall) -> bool {
    match inline {
        InlineCall::SmpProcessorId { .. }
        | InlineCall::CurrentPidTgid { .. }
        | InlineCall::PrandomU32 { .. } => ring3_sync::rcu::cell_tls_offset().is_none(),
        InlineCall::PercpuArrayLookup { cpu_stride, .. } => {
            ring3_sync::rcu::cell_tls_offset().is_none() || i32::try_from(*cpu_stride).is_err()
        }
        InlineCall::ArrayLookup { .. }
        | InlineCall::ConstAddress { .. }
        | InlineCall::LoadU64 { .. } => false,
    }
}

/// Memory in place of a map's value, where the rule is to be wrong: a value's neighbours may be anything.
fn planted_value() -> u64 {
    static VALUE: [AtomicU64; 8192] = [const { AtomicU64::new(0) }; 8192];
    VALUE.as_ptr().expose_provenance() as u64
}

/// rax *= stride. Scratch: r9.
fn scale(asm: &mut crate::asm::Asm, stride: u32) {
    if stride.is_power_of_two() {
        asm.shift_ri(Shift::Shl, Width::W64, RAX, stride.trailing_zeros() as u8);
    } else if let Ok(stride) = i32::try_from(stride) {
        asm.imul_rri(Width::W64, RAX, RAX, stride);
    } else {
        asm.mov_imm(R9, stride.into());
        asm.imul_rr(Width::W64, RAX, R9);
    }
}
