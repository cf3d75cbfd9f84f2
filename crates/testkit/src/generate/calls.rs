//! Steps of generated programs that call: helpers, subprograms, callbacks, tail calls; and the functions that are called.

use ring3_isa::{AluOp, CallTarget, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width};
use ring3_uapi::{FuncId, ProgType};

use super::insns::{ALU_OPS, JMP_OPS, SCALARS, SIZES, alu, mov, mov_imm};
use super::{Builder, MAPS, PROG_ARRAY, SCRATCH, STACK_BYTES, Subprog};

impl Builder<'_> {
    /// Looks an element up and, if it is there, changes it.
    pub(super) fn lookup(&mut self, map: i32, key_size: MemSize, key: i32, value_bytes: i16) {
        if key_size == MemSize::W && self.rng.one_in(2) {
            self.variable_key();
        } else {
            self.store_scratch(key_size, SCRATCH, key);
        }
        self.load_map(Reg::R1, map);
        self.pointer_to_scratch(Reg::R2, SCRATCH);
        self.helper(FuncId::MapLookupElem);
        if self.rng.one_in(2) {
            return self.checked_at_once(value_bytes);
        }
        self.push(mov(Reg::R9, Reg::R0));
        self.refill(&SCALARS);
        let skip = self.insns.len();
        self.push(Insn::Jmp {
            width: Width::W64,
            op: JmpOp::Eq,
            dst: Reg::R9,
            src: Operand::Imm(0),
            off: 0,
        });
        let size = self.rng.pick(&[MemSize::W, MemSize::Dw]);
        let off = self.rng.below(value_bytes as usize / size.bytes()) as i16 * size.bytes() as i16;
        let reg = self.rng.pick(&SCALARS[1..]);
        match self.rng.below(3) {
            0 => self.push(Insn::Load {
                size,
                mode: LoadMode::ZeroExtend,
                dst: reg,
                src: Reg::R9,
                off,
            }),
            1 => self.push(Insn::Store {
                size,
                dst: Reg::R9,
                off,
                src: Operand::Reg(reg),
            }),
            _ => {
                let op = self.atomic_op();
                self.push(Insn::Atomic {
                    op,
                    size,
                    dst: Reg::R9,
                    src: reg,
                    off,
                });
            }
        }
        self.insns[skip].off = (self.insns.len() - skip - 1) as i16;
    }

    /// A key of 32 bits that is not known before the run.
    fn variable_key(&mut self) {
        let src = self.rng.pick(&SCALARS[1..]);
        self.push(alu(Width::W64, AluOp::And, src, Operand::Imm(7)));
        self.push(Insn::Store {
            size: MemSize::W,
            dst: Reg::FP,
            off: SCRATCH,
            src: Operand::Reg(src),
        });
    }

    /// The null check right behind the look-up, by either jump; r0 is read behind it, or not.
    fn checked_at_once(&mut self, value_bytes: i16) {
        let skip = self.insns.len();
        let jumps_if_found = self.rng.one_in(2);
        self.push(Insn::Jmp {
            width: Width::W64,
            op: if jumps_if_found { JmpOp::Ne } else { JmpOp::Eq },
            dst: Reg::R0,
            src: Operand::Imm(0),
            off: i16::from(jumps_if_found),
        });
        if jumps_if_found {
            self.push(Insn::Ja { off: 0 });
        }
        let skip = skip + usize::from(jumps_if_found);
        let off = 8 * self.rng.below(value_bytes as usize / 8) as i16;
        let imm = self.rng.imm();
        self.push(Insn::Load {
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            dst: Reg::R1,
            src: Reg::R0,
            off,
        });
        self.push(alu(Width::W64, AluOp::Mul, Reg::R1, Operand::Imm(imm | 1)));
        self.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::R0,
            off,
            src: Operand::Reg(Reg::R1),
        });
        self.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::FP,
            off: -8,
            src: Operand::Reg(Reg::R1),
        });
        self.push(mov_imm(Reg::R0, imm));
        self.insns[skip].off = (self.insns.len() - skip - 1) as i16;
        let is_read = self.rng.one_in(2);
        self.refill(&SCALARS[usize::from(is_read)..]);
    }

    pub(super) fn array_step(&mut self) {
        let (map, entries) = self.rng.pick(&[(0, 5), (2, 3)]);
        let key = self.rng.below(entries) as i32;
        self.lookup(map, MemSize::W, key, MAPS[map as usize].2 as i16);
    }

    pub(super) fn hash_step(&mut self) {
        let map = self.rng.pick(&[1, 3, 5]);
        let (_, key_bytes, value_bytes, _) = MAPS[map as usize];
        let key_size = if key_bytes == 8 {
            MemSize::Dw
        } else {
            MemSize::W
        };
        let key = self.rng.below(6) as i32;
        match self.rng.below(3) {
            0 => return self.lookup(map, key_size, key, value_bytes as i16),
            1 => {
                self.store_scratch(key_size, SCRATCH, key);
                for word in 0..value_bytes as i16 / 8 {
                    let imm = self.rng.imm();
                    self.store_scratch(MemSize::Dw, SCRATCH + 8 + 8 * word, imm);
                }
                self.load_map(Reg::R1, map);
                self.pointer_to_scratch(Reg::R2, SCRATCH);
                self.pointer_to_scratch(Reg::R3, SCRATCH + 8);
                let flags = self.rng.below(3) as i32;
                self.push(mov_imm(Reg::R4, flags));
                self.helper(FuncId::MapUpdateElem);
            }
            _ => {
                self.store_scratch(key_size, SCRATCH, key);
                self.load_map(Reg::R1, map);
                self.pointer_to_scratch(Reg::R2, SCRATCH);
                self.helper(FuncId::MapDeleteElem);
            }
        }
        self.refill(&SCALARS[1..]);
    }

    pub(super) fn call_step(&mut self) {
        if self.rng.one_in(4) {
            return self.callback_step();
        }
        self.calls.push((self.insns.len(), Subprog::Mix));
        self.push(Insn::Call(CallTarget::Subprog(0)));
        self.refill(&SCALARS[1..]);
    }

    /// `bpf_loop` over a callback that adds to a stack slot.
    pub(super) fn callback_step(&mut self) {
        self.store_scratch(MemSize::Dw, SCRATCH, 3);
        let rounds = self.rng.below(5) as i32;
        self.push(mov_imm(Reg::R1, rounds));
        self.calls.push((self.insns.len(), Subprog::LoopBody));
        self.push(Insn::LoadImm64 {
            dst: Reg::R2,
            value: Imm64::Func(0),
        });
        self.pointer_to_scratch(Reg::R3, SCRATCH);
        self.push(mov_imm(Reg::R4, 0));
        self.helper(FuncId::Loop);
        self.push(Insn::Load {
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            dst: Reg::R1,
            src: Reg::FP,
            off: SCRATCH,
        });
        self.refill(&SCALARS[2..]);
    }

    /// Helpers whose result differs from run to run are called, and their result forgotten.
    pub(super) fn helper_step(&mut self) {
        match self.rng.below(5) {
            0 => {
                let id = self.rng.pick(&[
                    FuncId::KtimeGetNs,
                    FuncId::GetPrandomU32,
                    FuncId::GetSmpProcessorId,
                ]);
                self.helper(id);
                self.refill(&[Reg::R0]);
            }
            1 if self.has_packet => {
                let len = 4 * (1 + self.rng.below(4) as i32);
                self.push(mov(Reg::R1, Reg::FP));
                self.push(alu(
                    Width::W64,
                    AluOp::Add,
                    Reg::R1,
                    Operand::Imm(-i32::from(STACK_BYTES)),
                ));
                self.push(mov_imm(Reg::R2, len));
                self.push(mov_imm(Reg::R3, 0));
                self.push(mov_imm(Reg::R4, 0));
                let seed = self.rng.imm();
                self.push(mov_imm(Reg::R5, seed));
                self.helper(FuncId::CsumDiff);
            }
            _ => return self.alu_step(),
        }
        self.refill(&SCALARS[1..]);
    }

    pub(super) fn packet_helper_step(&mut self) {
        let len = 1 + self.rng.below(16) as i32;
        let off = self.rng.below(20) as i32;
        let is_store = self.has_packet && self.rng.one_in(2);
        let id = match (self.prog_type, is_store) {
            (ProgType::Xdp, false) => FuncId::XdpLoadBytes,
            (ProgType::Xdp, true) => FuncId::XdpStoreBytes,
            (_, false) => FuncId::SkbLoadBytes,
            (_, true) => FuncId::SkbStoreBytes,
        };
        self.push(mov(Reg::R1, Reg::R6));
        self.push(mov_imm(Reg::R2, off));
        self.pointer_to_scratch(Reg::R3, -STACK_BYTES);
        self.push(mov_imm(Reg::R4, len));
        self.push(mov_imm(Reg::R5, 0));
        self.helper(id);
        self.refill(&SCALARS[1..]);
        if id == FuncId::SkbStoreBytes {
            // The helper invalidates packet pointers: no packet steps from here on.
            self.has_packet = false;
        }
    }

    pub(super) fn tail_call_step(&mut self) {
        self.push(mov(Reg::R1, Reg::R6));
        self.load_map(Reg::R2, PROG_ARRAY);
        let slot = self.rng.below(3) as i32;
        self.push(mov_imm(Reg::R3, slot));
        self.helper(FuncId::TailCall);
        // A tail call does not come back, or leaves r0 undefined.
        self.refill(&SCALARS);
    }

    pub(super) fn subprogs(&mut self) {
        for subprog in [
            Subprog::Mix,
            Subprog::LoopBody,
            Subprog::Element,
            Subprog::Writer,
            Subprog::Nothing,
        ] {
            let callers: Vec<usize> = self
                .calls
                .iter()
                .filter(|(_, called)| *called == subprog)
                .map(|(slot, _)| *slot)
                .collect();
            if callers.is_empty() {
                continue;
            }
            let start = self.insns.len();
            self.functions.push(start as u32);
            for slot in callers {
                self.insns[slot].imm = (start - slot - 1) as i32;
            }
            match subprog {
                Subprog::Mix => {
                    self.push(mov(Reg::R0, Reg::R1));
                    for _ in 0..1 + self.rng.below(4) {
                        let (width, op, src) = (
                            self.width(),
                            self.rng.pick(&ALU_OPS),
                            self.rng.pick(&[Reg::R2, Reg::R3, Reg::R4, Reg::R5]),
                        );
                        self.push(alu(width, op, Reg::R0, Operand::Reg(src)));
                    }
                    // Without a stack it is a small leaf.
                    if self.rng.one_in(2) {
                        self.push(Insn::Store {
                            size: MemSize::Dw,
                            dst: Reg::FP,
                            off: -8,
                            src: Operand::Reg(Reg::R0),
                        });
                        self.push(Insn::Load {
                            size: MemSize::W,
                            mode: LoadMode::ZeroExtend,
                            dst: Reg::R1,
                            src: Reg::FP,
                            off: -8,
                        });
                        self.push(alu(Width::W64, AluOp::Xor, Reg::R0, Operand::Reg(Reg::R1)));
                    }
                }
                Subprog::LoopBody => {
                    self.push(Insn::Load {
                        size: MemSize::Dw,
                        mode: LoadMode::ZeroExtend,
                        dst: Reg::R3,
                        src: Reg::R2,
                        off: 0,
                    });
                    self.push(alu(Width::W64, AluOp::Mul, Reg::R3, Operand::Imm(33)));
                    self.push(alu(Width::W64, AluOp::Xor, Reg::R3, Operand::Reg(Reg::R1)));
                    self.push(Insn::Store {
                        size: MemSize::Dw,
                        dst: Reg::R2,
                        off: 0,
                        src: Operand::Reg(Reg::R3),
                    });
                    self.push(mov_imm(Reg::R0, 0));
                }
                Subprog::Element => self.element_body(),
                Subprog::Writer => self.writer_body(),
                Subprog::Nothing => self.push(mov_imm(Reg::R0, 0)),
            }
            self.push(Insn::Exit);
        }
    }

    /// r1 map, r2 key, r3 value, r4 what the caller gave: eight numbers of its stack.
    fn element_body(&mut self) {
        self.push(Insn::Load {
            size: MemSize::W,
            mode: LoadMode::ZeroExtend,
            dst: Reg::R1,
            src: Reg::R2,
            off: 0,
        });
        self.push(Insn::Load {
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            dst: Reg::R0,
            src: Reg::R3,
            off: 8,
        });
        self.push(alu(Width::W64, AluOp::Add, Reg::R0, Operand::Reg(Reg::R1)));
        self.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::R4,
            off: 8,
            src: Operand::Reg(Reg::R0),
        });
        self.push(mov_imm(Reg::R0, 0));
    }

    fn writer_body(&mut self) {
        let size = self.rng.pick(&SIZES);
        self.push(Insn::Load {
            size,
            mode: LoadMode::ZeroExtend,
            dst: Reg::R0,
            src: Reg::R1,
            off: 0,
        });
        let (width, op, imm) = (self.width(), self.rng.pick(&JMP_OPS), self.rng.imm());
        self.push(Insn::Jmp {
            width,
            op,
            dst: Reg::R0,
            src: Operand::Imm(imm),
            off: 1,
        });
        self.push(mov_imm(Reg::R0, imm));
        let size = self.rng.pick(&SIZES);
        self.push(Insn::Store {
            size,
            dst: Reg::R1,
            off: 0,
            src: Operand::Reg(Reg::R0),
        });
    }
}
