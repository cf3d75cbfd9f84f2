//! Programs for the two engines beside each other: a prologue (context to r6, packet bounds to r7 and r8, scalars to r0..r5, eight stack
//! slots), a random body, and an epilogue that folds everything into r0, so that any difference shows in the result.

use ring3_isa::{AluOp, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width};
use ring3_uapi::ProgType;

use super::insns::{SCALARS, alu, mov, mov_imm};
use super::{Builder, Generated, PACKET_BYTES, Rng, STACK_BYTES};

/// One random program.
pub fn program(rng: &mut Rng) -> Generated {
    let prog_type = rng.pick(&[ProgType::Xdp, ProgType::SchedCls, ProgType::SocketFilter]);
    let mut builder = Builder::new(rng, prog_type);
    builder.prologue();
    let steps = 1 + builder.rng.below(24);
    for _ in 0..steps {
        builder.step();
    }
    builder.epilogue();
    builder.subprogs();
    builder.finish()
}

impl Builder<'_> {
    fn prologue(&mut self) {
        self.push(mov(Reg::R6, Reg::R1));
        if self.has_packet {
            let (data, end) = if self.prog_type == ProgType::Xdp {
                (0, 4)
            } else {
                (76, 80)
            };
            for (dst, off) in [(Reg::R7, data), (Reg::R8, end)] {
                self.push(Insn::Load {
                    size: MemSize::W,
                    mode: LoadMode::ZeroExtend,
                    dst,
                    src: Reg::R1,
                    off,
                });
            }
            self.push(mov(Reg::R2, Reg::R7));
            self.push(alu(
                Width::W64,
                AluOp::Add,
                Reg::R2,
                Operand::Imm(i32::from(PACKET_BYTES)),
            ));
            self.push(Insn::Jmp {
                width: Width::W64,
                op: JmpOp::Le,
                dst: Reg::R2,
                src: Operand::Reg(Reg::R8),
                off: 2,
            });
            self.push(mov_imm(Reg::R0, 1));
            self.push(Insn::Exit);
        }
        self.refill(&SCALARS);
        for slot in 1..=STACK_BYTES / 8 {
            let imm = self.rng.imm();
            self.push(Insn::Store {
                size: MemSize::Dw,
                dst: Reg::FP,
                off: -8 * slot,
                src: Operand::Imm(imm),
            });
        }
    }

    pub(super) fn epilogue(&mut self) {
        for reg in &SCALARS[1..] {
            self.push(alu(Width::W64, AluOp::Mul, Reg::R0, Operand::Imm(31)));
            self.push(alu(Width::W64, AluOp::Xor, Reg::R0, Operand::Reg(*reg)));
        }
        for slot in 1..=STACK_BYTES / 8 {
            self.push(Insn::Load {
                size: MemSize::Dw,
                mode: LoadMode::ZeroExtend,
                dst: Reg::R1,
                src: Reg::FP,
                off: -8 * slot,
            });
            self.push(alu(Width::W64, AluOp::Mul, Reg::R0, Operand::Imm(31)));
            self.push(alu(Width::W64, AluOp::Xor, Reg::R0, Operand::Reg(Reg::R1)));
        }
        // r0 is 32 bits wide to the outside: fold the upper half in.
        self.push(mov(Reg::R1, Reg::R0));
        self.push(alu(Width::W64, AluOp::Rsh, Reg::R1, Operand::Imm(32)));
        self.push(alu(Width::W32, AluOp::Xor, Reg::R0, Operand::Reg(Reg::R1)));
        self.push(Insn::Exit);
    }

    fn step(&mut self) {
        match self.rng.below(25) {
            20..=24 => self.phrase_step(),
            0..=4 => self.alu_step(),
            5 => self.unary_step(),
            6..=8 => self.stack_step(),
            9 => self.atomic_step(),
            10 | 11 => self.branch_step(),
            12 => self.loop_step(),
            13 if self.has_packet => self.packet_step(),
            13 => self.legacy_load_step(),
            14 => self.array_step(),
            15 => self.hash_step(),
            16 => self.call_step(),
            17 => self.helper_step(),
            18 if self.rng.one_in(3) => self.tail_call_step(),
            _ => self.packet_helper_step(),
        }
    }
}
