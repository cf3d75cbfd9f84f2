//! Steps of generated programs that calculate, load, store and branch. Each keeps r0 to r5 scalars.

use ring3_isa::{AluOp, AtomicOp, EndianOp, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width};

use super::insns::{ALU_OPS, JMP_OPS, SCALARS, SIZES, alu, mov_imm};
use super::{Builder, PACKET_BYTES, STACK_BYTES};

impl Builder<'_> {
    pub(super) fn alu_step(&mut self) {
        let (width, dst) = (self.width(), self.scalar());
        let op = self.rng.pick(&ALU_OPS);
        let mut src = if self.rng.one_in(2) {
            Operand::Reg(self.scalar())
        } else {
            Operand::Imm(self.rng.imm())
        };
        if let Operand::Imm(imm) = &mut src {
            let bits = if width == Width::W32 { 31 } else { 63 };
            match op {
                AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => *imm &= bits,
                AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod if *imm == 0 => *imm = 7,
                _ => {}
            }
        }
        self.push(alu(width, op, dst, src));
    }

    pub(super) fn unary_step(&mut self) {
        let (width, dst, src) = (self.width(), self.scalar(), self.scalar());
        let insn = match self.rng.below(4) {
            0 => Insn::Neg { width, dst },
            1 => Insn::Endian {
                op: self
                    .rng
                    .pick(&[EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap]),
                size: self.rng.pick(&[MemSize::H, MemSize::W, MemSize::Dw]),
                dst,
            },
            2 if width == Width::W64 => Insn::Movsx {
                width,
                from: self.rng.pick(&[MemSize::B, MemSize::H, MemSize::W]),
                dst,
                src,
            },
            2 => Insn::Movsx {
                width,
                from: self.rng.pick(&[MemSize::B, MemSize::H]),
                dst,
                src,
            },
            _ if self.rng.one_in(3) => alu(width, AluOp::Mov, dst, Operand::Imm(self.rng.imm())),
            _ => alu(width, AluOp::Mov, dst, Operand::Reg(src)),
        };
        self.push(insn);
    }

    /// An aligned offset of the scalar slots.
    pub(super) fn stack_off(&mut self, size: MemSize) -> i16 {
        let units = STACK_BYTES as usize / size.bytes();
        -((1 + self.rng.below(units)) as i16) * size.bytes() as i16
    }

    /// A sign-extending load has no 8-byte form.
    pub(super) fn load_mode(&mut self, size: MemSize) -> LoadMode {
        if size != MemSize::Dw && self.rng.one_in(3) {
            LoadMode::SignExtend
        } else {
            LoadMode::ZeroExtend
        }
    }

    pub(super) fn stack_step(&mut self) {
        let size = self.rng.pick(&SIZES);
        let (off, reg) = (self.stack_off(size), self.scalar());
        let insn = match self.rng.below(3) {
            0 => Insn::Load {
                size,
                mode: self.load_mode(size),
                dst: reg,
                src: Reg::FP,
                off,
            },
            1 => Insn::Store {
                size,
                dst: Reg::FP,
                off,
                src: Operand::Reg(reg),
            },
            _ => Insn::Store {
                size,
                dst: Reg::FP,
                off,
                src: Operand::Imm(self.rng.imm()),
            },
        };
        self.push(insn);
    }

    pub(super) fn atomic_op(&mut self) -> AtomicOp {
        let fetch = self.rng.one_in(2);
        self.rng.pick(&[
            AtomicOp::Add { fetch },
            AtomicOp::Or { fetch },
            AtomicOp::And { fetch },
            AtomicOp::Xor { fetch },
            AtomicOp::Xchg,
            AtomicOp::Cmpxchg,
        ])
    }

    pub(super) fn atomic_step(&mut self) {
        let reg = self.rng.pick(&SCALARS[1..]);
        if self.rng.one_in(4) {
            let size = self.rng.pick(&SIZES);
            let off = self.stack_off(size);
            let insn = if self.rng.one_in(2) {
                Insn::Atomic {
                    op: AtomicOp::LoadAcquire,
                    size,
                    dst: reg,
                    src: Reg::FP,
                    off,
                }
            } else {
                Insn::Atomic {
                    op: AtomicOp::StoreRelease,
                    size,
                    dst: Reg::FP,
                    src: reg,
                    off,
                }
            };
            self.push(insn);
            return;
        }
        let size = self.rng.pick(&[MemSize::W, MemSize::Dw]);
        let (op, off) = (self.atomic_op(), self.stack_off(size));
        self.push(Insn::Atomic {
            op,
            size,
            dst: Reg::FP,
            src: reg,
            off,
        });
    }

    /// A condition over a few arithmetic steps.
    pub(super) fn branch_step(&mut self) {
        let (width, dst) = (self.width(), self.scalar());
        let src = if self.rng.one_in(2) {
            Operand::Reg(self.scalar())
        } else {
            Operand::Imm(self.rng.imm())
        };
        let at = self.insns.len();
        let form = self.rng.below(6);
        match form {
            0 => self.push(Insn::Ja { off: 0 }),
            1 => self.push(Insn::Jal { off: 0 }),
            _ => {
                let op = self.rng.pick(&JMP_OPS);
                self.push(Insn::Jmp {
                    width,
                    op,
                    dst,
                    src,
                    off: 0,
                });
            }
        }
        if form <= 1 {
            // An unconditional jump over code needs the code reachable: a branch into it.
            let op = self.rng.pick(&JMP_OPS);
            self.insns.truncate(at);
            self.push(Insn::Jmp {
                width,
                op,
                dst,
                src,
                off: 1,
            });
            self.push(if form == 0 {
                Insn::Ja { off: 0 }
            } else {
                Insn::Jal { off: 0 }
            });
        }
        let jump = self.insns.len() - 1;
        for _ in 0..1 + self.rng.below(3) {
            match self.rng.below(3) {
                0 => self.stack_step(),
                1 => self.unary_step(),
                _ => self.alu_step(),
            }
        }
        let distance = self.insns.len() - jump - 1;
        if form == 1 {
            self.insns[jump].imm = distance as i32;
        } else {
            self.insns[jump].off = distance as i16;
        }
    }

    /// A loop with a constant number of rounds, counted on the stack, or ended by may_goto.
    pub(super) fn loop_step(&mut self) {
        let rounds = 1 + self.rng.below(6) as i32;
        let counter = Reg::R9;
        self.push(mov_imm(counter, rounds));
        let top = self.insns.len();
        for _ in 0..1 + self.rng.below(3) {
            if self.rng.one_in(3) {
                self.stack_step()
            } else {
                self.alu_step()
            }
        }
        let may_goto = self.rng.one_in(4);
        if may_goto {
            // The budget is far above the rounds: it never decides, so that engines agree.
            self.push(Insn::MayGoto { off: 2 });
        }
        self.push(alu(Width::W64, AluOp::Sub, counter, Operand::Imm(1)));
        let back = top as i64 - self.insns.len() as i64 - 1;
        self.push(Insn::Jmp {
            width: Width::W64,
            op: JmpOp::Ne,
            dst: counter,
            src: Operand::Imm(0),
            off: back as i16,
        });
    }

    pub(super) fn packet_step(&mut self) {
        let size = self.rng.pick(&SIZES);
        let off = self.rng.below(PACKET_BYTES as usize - size.bytes() + 1) as i16;
        let reg = self.scalar();
        let insn = match self.rng.below(3) {
            0 => Insn::Load {
                size,
                mode: self.load_mode(size),
                dst: reg,
                src: Reg::R7,
                off,
            },
            1 => Insn::Store {
                size,
                dst: Reg::R7,
                off,
                src: Operand::Reg(reg),
            },
            _ => Insn::Store {
                size,
                dst: Reg::R7,
                off,
                src: Operand::Imm(self.rng.imm()),
            },
        };
        self.push(insn);
    }

    /// A load beyond the packet ends the program, so offsets stay inside.
    pub(super) fn legacy_load_step(&mut self) {
        let size = self.rng.pick(&[MemSize::B, MemSize::H, MemSize::W]);
        let imm = self.rng.below(24) as i32;
        if self.rng.one_in(2) {
            self.push(Insn::LoadAbs { size, imm });
        } else {
            let off = self.rng.below(8) as i32;
            self.push(mov_imm(Reg::R9, off));
            self.push(Insn::LoadInd {
                size,
                src: Reg::R9,
                imm,
            });
        }
        self.refill(&SCALARS[1..]);
    }
}
