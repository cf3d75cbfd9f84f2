//! Runs of instructions as compilers write them, which the compiler's rules know, and near misses of them.

use ring3_isa::{AluOp, EndianOp, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width};

use super::Builder;
use super::insns::{JMP_OPS, alu, mov, mov_imm};

/// Jumps that compare.
const COMPARISONS: [JmpOp; 10] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];

impl Builder<'_> {
    pub(super) fn phrase_step(&mut self) {
        match self.rng.below(13) {
            0 | 1 => self.rotation(),
            2 => self.extension(),
            3 => self.two_operands(),
            4 => self.swapped_load(),
            5 => self.zero_extension(),
            6 => self.loaded_operand(),
            7 => self.indexed(),
            8 => self.low_byte(),
            9 => self.selection(),
            10 => self.bit(),
            11 => self.range(),
            _ => self.loop_with_a_way_round(),
        }
    }

    /// Two different scalars.
    fn two_scalars(&mut self) -> (Reg, Reg) {
        let a = self.scalar();
        loop {
            let b = self.scalar();
            if b != a {
                return (a, b);
            }
        }
    }

    /// Mostly overwrites a register, so that its value is read no more.
    fn forget(&mut self, register: Reg) {
        if !self.rng.one_in(4) {
            let imm = self.rng.imm();
            self.push(mov_imm(register, imm));
        }
    }

    fn rotation(&mut self) {
        let (width, (a, b)) = (self.width(), self.two_scalars());
        let bits = if width == Width::W64 { 64 } else { 32 };
        let left = 1 + self.rng.below(bits as usize - 1) as i32;
        let right = bits - left;
        let (x, y) = if self.rng.one_in(2) { (a, b) } else { (b, a) };
        let (r, s) = if self.rng.one_in(2) { (a, b) } else { (b, a) };
        self.push(alu(width, AluOp::Mov, a, Operand::Reg(b)));
        self.push(alu(width, AluOp::Lsh, x, Operand::Imm(left)));
        self.push(alu(width, AluOp::Rsh, y, Operand::Imm(right)));
        self.push(alu(width, AluOp::Or, r, Operand::Reg(s)));
    }

    fn extension(&mut self) {
        let (a, b) = self.two_scalars();
        let count = self.rng.pick(&[32, 48, 56, 24]);
        if self.rng.one_in(2) {
            self.push(mov(a, b));
        }
        let right = self.rng.pick(&[AluOp::Rsh, AluOp::Arsh]);
        self.push(alu(Width::W64, AluOp::Lsh, a, Operand::Imm(count)));
        self.push(alu(Width::W64, right, a, Operand::Imm(count)));
    }

    fn two_operands(&mut self) {
        let (width, (a, b)) = (self.width(), self.two_scalars());
        let op = self.rng.pick(&[AluOp::Add, AluOp::Sub, AluOp::Mul]);
        let imm = self.rng.imm();
        let src = if self.rng.one_in(2) {
            Operand::Reg(self.scalar())
        } else {
            Operand::Imm(imm)
        };
        self.push(alu(width, AluOp::Mov, a, Operand::Reg(b)));
        self.push(alu(width, op, a, src));
    }

    fn stack_load(&mut self, size: MemSize, dst: Reg) {
        let off = self.stack_off(size);
        self.push(Insn::Load {
            size,
            mode: LoadMode::ZeroExtend,
            dst,
            src: Reg::FP,
            off,
        });
    }

    fn swapped_load(&mut self) {
        let (size, dst) = (
            self.rng.pick(&[MemSize::H, MemSize::W, MemSize::Dw]),
            self.scalar(),
        );
        self.stack_load(size, dst);
        let op = self.rng.pick(&[EndianOp::ToBe, EndianOp::Swap]);
        self.push(Insn::Endian { op, size, dst });
    }

    fn zero_extension(&mut self) {
        let (a, b) = self.two_scalars();
        if self.rng.one_in(3) {
            let size = self.rng.pick(&[MemSize::H, MemSize::W]);
            self.stack_load(size, a);
        } else {
            let op = self
                .rng
                .pick(&[AluOp::Add, AluOp::Sub, AluOp::Or, AluOp::And, AluOp::Xor]);
            self.push(alu(Width::W32, op, a, Operand::Reg(b)));
        }
        self.push(alu(Width::W32, AluOp::Mov, a, Operand::Reg(a)));
    }

    /// A condition over one move.
    fn condition(&mut self, width: Width, dst: Reg, src: Operand) {
        let op = self.rng.pick(&JMP_OPS);
        let (skipped, imm) = (self.scalar(), self.rng.imm());
        self.push(Insn::Jmp {
            width,
            op,
            dst,
            src,
            off: 1,
        });
        self.push(alu(width, AluOp::Add, skipped, Operand::Imm(imm)));
    }

    fn loaded_operand(&mut self) {
        let (a, b) = self.two_scalars();
        let (size, width) = self.rng.pick(&[
            (MemSize::W, Width::W32),
            (MemSize::Dw, Width::W64),
            (MemSize::B, Width::W64),
            (MemSize::W, Width::W64),
        ]);
        self.stack_load(size, a);
        match self.rng.below(4) {
            0 => self.condition(width, b, Operand::Reg(a)),
            1 => self.condition(width, a, Operand::Reg(b)),
            2 => {
                let imm = self.rng.below(256) as i32;
                self.condition(width, a, Operand::Imm(imm));
            }
            _ => {
                let op = self.rng.pick(&[
                    AluOp::Add,
                    AluOp::Sub,
                    AluOp::Mul,
                    AluOp::Or,
                    AluOp::And,
                    AluOp::Xor,
                ]);
                self.push(alu(width, op, b, Operand::Reg(a)));
            }
        }
        self.forget(a);
    }

    /// A sum of an address and a bounded number. The stack where there is no packet.
    fn indexed(&mut self) {
        let (index, value) = self.two_scalars();
        let size = self
            .rng
            .pick(&[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]);
        if !self.has_packet {
            return self.loaded_operand();
        }
        self.push(alu(Width::W64, AluOp::And, index, Operand::Imm(15)));
        self.push(mov(Reg::R9, Reg::R7));
        self.push(alu(Width::W64, AluOp::Add, Reg::R9, Operand::Reg(index)));
        let off = self.rng.below(9) as i16;
        // The bounds that were checked are those of r7.
        if self.rng.one_in(2) {
            self.push(Insn::Load {
                size,
                mode: LoadMode::ZeroExtend,
                dst: value,
                src: Reg::R9,
                off,
            });
        } else {
            self.push(Insn::Store {
                size,
                dst: Reg::R9,
                off,
                src: Operand::Reg(value),
            });
        }
        self.push(mov_imm(Reg::R9, 1));
    }

    fn low_byte(&mut self) {
        let (width, dst) = (self.width(), self.scalar());
        let mask = self.rng.pick(&[0xff, 0xff, 0x7f, 0xffff]);
        self.push(alu(width, AluOp::And, dst, Operand::Imm(mask)));
        let imm = self.rng.below(300) as i32 - 20;
        self.condition(width, dst, Operand::Imm(imm));
        self.forget(dst);
    }

    fn comparison(&mut self, off: i16) {
        let (width, (a, b)) = (self.width(), self.two_scalars());
        let imm = self.rng.imm();
        let src = if self.rng.one_in(2) {
            Operand::Reg(b)
        } else {
            Operand::Imm(imm)
        };
        let op = self.rng.pick(&COMPARISONS);
        self.push(Insn::Jmp {
            width,
            op,
            dst: a,
            src,
            off,
        });
    }

    fn selection(&mut self) {
        self.comparison(1);
        let (a, b) = self.two_scalars();
        if self.rng.one_in(2) {
            self.push(mov(a, b));
        } else {
            let imm = self.rng.imm();
            self.push(mov_imm(a, imm));
        }
    }

    fn bit(&mut self) {
        let dst = self.scalar();
        let bit = self.rng.below(2) as i32;
        self.push(mov_imm(dst, bit));
        self.comparison(1);
        self.push(mov_imm(dst, 1 - bit));
    }

    /// Comparisons with both ends of a range, mostly with one way out.
    fn range(&mut self) {
        let (width, (a, b)) = (self.width(), self.two_scalars());
        let below = (JmpOp::Lt, self.rng.below(200) as i32);
        let above = (JmpOp::Gt, self.rng.below(400) as i32);
        let (first, second) = if self.rng.one_in(2) {
            (below, above)
        } else {
            (above, below)
        };
        if self.rng.one_in(2) {
            self.push(alu(width, AluOp::And, a, Operand::Imm(511)));
        }
        let far = if self.rng.one_in(4) { 1 } else { 2 };
        for ((op, imm), off) in [(first, far), (second, 1)] {
            self.push(Insn::Jmp {
                width,
                op,
                dst: a,
                src: Operand::Imm(imm),
                off,
            });
        }
        self.push(alu(width, AluOp::Xor, b, Operand::Imm(77)));
    }

    /// A loop with an inner branch that jumps to its end.
    fn loop_with_a_way_round(&mut self) {
        let rounds = 2 + self.rng.below(4) as i32;
        self.push(mov_imm(Reg::R9, rounds));
        let top = self.insns.len();
        self.comparison(2);
        self.alu_step();
        self.push(Insn::Ja { off: 1 });
        self.alu_step();
        self.push(alu(Width::W64, AluOp::Add, Reg::R9, Operand::Imm(-1)));
        let back = top as i64 - self.insns.len() as i64 - 1;
        self.push(Insn::Jmp {
            width: Width::W64,
            op: JmpOp::Ne,
            dst: Reg::R9,
            src: Operand::Imm(0),
            off: back as i16,
        });
    }
}
