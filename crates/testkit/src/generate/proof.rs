//! Programs that the verifier has to reason about: numbers from the packet, from maps and helpers, narrowed by arithmetic and branches, then used
//! as offsets into stack, packet and map values; for the containment oracle.
//!
//! ```text
//! r0..r5  numbers, known in part          r7  packet, 32 bytes checked
//! r6      context                         r8  value of the map VALUES
//! r9      what a step needs               fp-8..fp-64 numbers, fp-96..fp-112 keys and values
//! ```
//!
//! [`inputs`] makes packets out of the program's own constants, so that runs meet the ends of ranges.

use ring3_isa::{AluOp, CallTarget, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width};
use ring3_uapi::{FuncId, ProgType};

use super::insns::{JMP_OPS, SCALARS, SIZES, alu, mov, mov_imm};
use super::{
    Builder, Generated, PACKET_BYTES, RINGBUF, Rng, SCRATCH, STACK_BYTES, Subprog, VALUES,
};

/// Bytes of a value of the map [`VALUES`].
const VALUE_BYTES: i32 = 64;
/// Where the eight numbers of a packet begin behind the link header that socket filters do not see.
const LINK_BYTES: usize = 14;
/// Packets that [`inputs`] makes.
const PACKETS: usize = 6;

/// One random program.
pub fn program(rng: &mut Rng) -> Generated {
    let prog_type = rng.pick(&[ProgType::Xdp, ProgType::SchedCls, ProgType::SocketFilter]);
    let mut builder = Builder::new(rng, prog_type);
    builder.proof_prologue();
    let steps = 2 + builder.rng.below(16);
    let mut branches = 0;
    for _ in 0..steps {
        builder.proof_step(&mut branches);
    }
    builder.epilogue();
    builder.subprogs();
    builder.finish()
}

/// What a program is run over.
#[derive(Clone, Debug)]
pub struct Input {
    /// Bytes before the packet; XDP only.
    pub metadata: Vec<u8>,
    /// The packet.
    pub packet: Vec<u8>,
}

/// Packets for a program: its constants and their neighbours, edges, and random words. Their first bytes stand where programs find
/// them at aligned offsets.
pub fn inputs(rng: &mut Rng, generated: &Generated) -> Vec<Input> {
    let mut pool = vec![
        0,
        1,
        u64::MAX,
        1 << 31,
        1 << 63,
        (1 << 31) - 1,
        0xffff_ffff,
        0x80,
        0x7f,
    ];
    for pair in generated.insns.windows(2) {
        let wide = u64::from(pair[0].imm as u32) | u64::from(pair[1].imm as u32) << 32;
        let imm = i64::from(pair[0].imm) as u64;
        pool.extend(if pair[0].is_ld_imm64() {
            [wide, !wide]
        } else {
            [imm, !imm]
        });
    }
    let skip = if generated.prog_type == ProgType::SocketFilter {
        LINK_BYTES
    } else {
        0
    };
    let packet = |rng: &mut Rng| {
        let mut bytes = vec![0; skip];
        while bytes.len() < skip + 64 {
            let near = (rng.below(3) as u64).wrapping_sub(1);
            let word = match rng.below(4) {
                0 => rng.word(),
                1 => rng.word() >> rng.below(64),
                _ => rng.pick(&pool).wrapping_add(near),
            };
            let word = if rng.one_in(8) { word << 32 } else { word };
            // Of one word each, of two, of four or of eight numbers.
            let count = rng.pick(&[8, 8, 4, 2, 1]);
            bytes.extend(&word.to_le_bytes()[..count]);
            while !(bytes.len() - skip).is_multiple_of(8) {
                let word = rng.pick(&pool).wrapping_add(near);
                bytes.extend(&word.to_le_bytes()[..count]);
            }
        }
        let tail = rng.below(40);
        bytes.extend((0..tail).map(|_| rng.word() as u8));
        if skip == 0 {
            // No IP packet: a test run refuses those with less than a header.
            bytes[12] &= 0x7f;
            bytes[13] &= 0xdd ^ 0xff;
        }
        let metadata = if generated.prog_type == ProgType::Xdp && rng.one_in(2) {
            rng.word().to_le_bytes().to_vec()
        } else {
            Vec::new()
        };
        Input {
            metadata,
            packet: bytes,
        }
    };
    (0..PACKETS).map(|_| packet(rng)).collect()
}

impl Builder<'_> {
    fn jmp(&mut self, width: Width, op: JmpOp, dst: Reg, src: Operand, off: i16) {
        self.push(Insn::Jmp {
            width,
            op,
            dst,
            src,
            off,
        });
    }

    fn load(&mut self, size: MemSize, dst: Reg, src: Reg, off: i16) {
        self.push(Insn::Load {
            size,
            mode: LoadMode::ZeroExtend,
            dst,
            src,
            off,
        });
    }

    fn op_imm(&mut self, op: AluOp, dst: Reg, imm: i32) {
        self.push(alu(Width::W64, op, dst, Operand::Imm(imm)));
    }

    fn op_reg(&mut self, op: AluOp, dst: Reg, src: Reg) {
        self.push(alu(Width::W64, op, dst, Operand::Reg(src)));
    }

    /// Lets the jump at `at` lead here.
    fn land(&mut self, at: usize) {
        self.insns[at].off = (self.insns.len() - at - 1) as i16;
    }

    /// Leaves the program with 0 unless the jump before is taken.
    fn else_exit(&mut self) {
        self.push(mov_imm(Reg::R0, 0));
        self.push(Insn::Exit);
    }

    /// The context's offsets of data and data_end.
    fn data_fields(&self) -> (i16, i16) {
        if self.prog_type == ProgType::Xdp {
            (0, 4)
        } else {
            (76, 80)
        }
    }

    fn proof_prologue(&mut self) {
        self.push(mov(Reg::R6, Reg::R1));
        self.checked_packet();
        self.fill_stack();
        self.store_scratch(MemSize::W, SCRATCH, 0);
        self.load_map(Reg::R1, VALUES);
        self.pointer_to_scratch(Reg::R2, SCRATCH);
        self.helper(FuncId::MapLookupElem);
        self.jmp(Width::W64, JmpOp::Ne, Reg::R0, Operand::Imm(0), 2);
        self.else_exit();
        self.push(mov(Reg::R8, Reg::R0));
        self.numbers(&SCALARS);
    }

    /// r7 points to a packet of which so many bytes may be touched, or the program has ended.
    fn checked_packet(&mut self) {
        if !self.has_packet {
            return;
        }
        let (data, end) = self.data_fields();
        self.load(MemSize::W, Reg::R7, Reg::R6, data);
        self.load(MemSize::W, Reg::R3, Reg::R6, end);
        self.push(mov(Reg::R2, Reg::R7));
        self.op_imm(AluOp::Add, Reg::R2, i32::from(PACKET_BYTES));
        self.jmp(Width::W64, JmpOp::Le, Reg::R2, Operand::Reg(Reg::R3), 2);
        self.else_exit();
    }

    /// Eight slots of numbers: constants, or the packet's first bytes.
    fn fill_stack(&mut self) {
        if self.has_packet && self.rng.one_in(2) {
            for slot in 1..=STACK_BYTES / 8 {
                let imm = self.rng.imm();
                self.store_scratch(MemSize::Dw, -8 * slot, imm);
            }
            return;
        }
        let id = if self.prog_type == ProgType::Xdp {
            FuncId::XdpLoadBytes
        } else {
            FuncId::SkbLoadBytes
        };
        for slot in 1..=STACK_BYTES / 8 {
            self.store_scratch(MemSize::Dw, -8 * slot, 0);
        }
        self.push(mov(Reg::R1, Reg::R6));
        self.push(mov_imm(Reg::R2, 0));
        self.pointer_to_scratch(Reg::R3, -STACK_BYTES);
        self.push(mov_imm(Reg::R4, i32::from(STACK_BYTES)));
        self.helper(id);
    }

    /// Numbers of which little is known.
    fn numbers(&mut self, regs: &[Reg]) {
        for &reg in regs {
            match self.rng.below(8) {
                0 => self.refill(&[reg]),
                1 | 2 => {
                    let size = self.rng.pick(&SIZES);
                    let off = self.stack_off(size);
                    let mode = self.load_mode(size);
                    self.push(Insn::Load {
                        size,
                        mode,
                        dst: reg,
                        src: Reg::FP,
                        off,
                    });
                }
                3 => {
                    let size = self.rng.pick(&SIZES);
                    let units = VALUE_BYTES as usize / size.bytes();
                    let off = (self.rng.below(units) * size.bytes()) as i16;
                    self.load(size, reg, Reg::R8, off);
                }
                4 => {
                    let off = if self.prog_type == ProgType::Xdp {
                        self.rng.pick(&[12, 16])
                    } else {
                        self.rng.pick(&[0, 8, 16, 32])
                    };
                    self.load(MemSize::W, reg, Reg::R6, off);
                }
                _ if self.has_packet => {
                    let size = self
                        .rng
                        .pick(&[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]);
                    let units = PACKET_BYTES as usize / size.bytes();
                    let off = (self.rng.below(units) * size.bytes()) as i16;
                    let mode = self.load_mode(size);
                    self.push(Insn::Load {
                        size,
                        mode,
                        dst: reg,
                        src: Reg::R7,
                        off,
                    });
                }
                _ => {
                    let off = self.stack_off(MemSize::Dw);
                    self.load(MemSize::Dw, reg, Reg::FP, off);
                }
            }
        }
    }

    fn proof_step(&mut self, branches: &mut u32) {
        match self.rng.below(40) {
            0..=10 => self.alu_step(),
            11..=13 => self.unary_step(),
            14 | 15 => {
                let reg = self.scalar();
                self.numbers(&[reg]);
            }
            16..=20 if *branches < 7 => {
                *branches += 1;
                self.narrow_step();
            }
            16..=20 => self.mask_step(),
            21 | 22 => self.mask_step(),
            23 | 24 => self.stack_step(),
            25 => self.atomic_step(),
            26 | 27 => self.variable_stack_step(),
            28 | 29 => self.variable_value_step(),
            30 if self.has_packet => self.variable_packet_step(),
            30 => self.legacy_load_step(),
            31 => self.link_step(),
            32 => self.proof_loop_step(),
            33 => self.proof_call_step(),
            34 => self.proof_helper_step(),
            35 if *branches < 5 => {
                *branches += 2;
                self.branch_step();
            }
            36 if self.prog_type == ProgType::Xdp => self.metadata_step(),
            36 => self.ringbuf_step(),
            37 => self.fork_step(),
            38 if self.rng.one_in(4) => self.rare_step(),
            _ => self.alu_step(),
        }
    }

    /// A comparison; on the way that does not hold, the number becomes another.
    fn narrow_step(&mut self) {
        let (width, dst, op) = (self.width(), self.scalar(), self.rng.pick(&JMP_OPS));
        let src = if self.rng.one_in(3) {
            Operand::Reg(self.scalar())
        } else {
            Operand::Imm(self.rng.imm())
        };
        self.jmp(width, op, dst, src, 0);
        let at = self.insns.len() - 1;
        match self.rng.below(4) {
            0 => self.else_exit(),
            1 => self.alu_step(),
            2 => self.refill(&[dst]),
            _ => self.numbers(&[dst]),
        }
        self.land(at);
    }

    /// Less is known of the number's size than of its bits, or the other way round.
    fn mask_step(&mut self) {
        let (width, dst) = (self.width(), self.scalar());
        if self.rng.one_in(8) {
            // How compilers extend a half.
            let back = self.rng.pick(&[AluOp::Rsh, AluOp::Arsh]);
            self.op_imm(AluOp::Lsh, dst, 32);
            self.op_imm(back, dst, 32);
            return;
        }
        let (op, imm) = match self.rng.below(6) {
            0 => (AluOp::And, self.rng.imm()),
            1 => (AluOp::And, (1 << self.rng.below(12)) - 1),
            2 => (AluOp::Or, 1 << self.rng.below(12)),
            3 => (AluOp::Rsh, self.rng.below(31) as i32),
            4 => (AluOp::Arsh, self.rng.below(31) as i32),
            _ => (AluOp::Lsh, self.rng.below(31) as i32),
        };
        self.push(alu(width, op, dst, Operand::Imm(imm)));
    }

    /// A number of 0 to `most`, found by what the verifier has to understand; it is in `dst`, which was a number.
    fn bounded(&mut self, dst: Reg, most: i32) {
        let at = self.insns.len();
        match self.rng.below(7) {
            0 => {
                let mask = ((most + 1) as u32).next_power_of_two() as i32 / 2;
                self.op_imm(AluOp::And, dst, (mask.max(1) * 2 - 1).min(most));
                return;
            }
            1 => {
                self.jmp(Width::W64, JmpOp::Le, dst, Operand::Imm(most), 1);
            }
            2 => {
                self.push(alu(Width::W32, AluOp::Mov, dst, Operand::Reg(dst)));
                self.jmp(Width::W32, JmpOp::Lt, dst, Operand::Imm(most + 1), 1);
            }
            3 => {
                self.jmp(Width::W64, JmpOp::Slt, dst, Operand::Imm(0), 1);
                self.jmp(Width::W64, JmpOp::Sle, dst, Operand::Imm(most), 1);
                self.push(mov_imm(dst, most));
                return;
            }
            4 => {
                let shift = (most as u32).leading_zeros() as i32 + 1;
                self.push(alu(
                    Width::W32,
                    AluOp::Rsh,
                    dst,
                    Operand::Imm(shift.min(31)),
                ));
                return;
            }
            5 => {
                self.jmp(Width::W64, JmpOp::Gt, dst, Operand::Imm(most), 1);
                self.push(Insn::Ja { off: 1 });
            }
            _ => {
                self.push(alu(Width::W32, AluOp::Add, dst, Operand::Imm(most)));
                self.jmp(Width::W32, JmpOp::Le, dst, Operand::Imm(most), 1);
            }
        }
        let edge = self.rng.pick(&[0, most, most / 2]);
        self.push(mov_imm(dst, edge));
        debug_assert!(self.insns.len() > at);
    }

    /// Mostly 0; else a number that makes an access leave its object, unless the verifier knows better.
    fn excess(&mut self) -> i32 {
        if self.rng.one_in(12) {
            1 + self.rng.below(8) as i32
        } else {
            0
        }
    }

    /// An access at a place that a number decides, aligned to nothing.
    fn access(&mut self, size: MemSize, base: Reg, off: i16) {
        let reg = self.scalar();
        match self.rng.below(4) {
            0 | 1 => self.load(size, reg, base, off),
            2 => self.push(Insn::Store {
                size,
                dst: base,
                off,
                src: Operand::Reg(reg),
            }),
            _ => {
                let imm = self.rng.imm();
                self.push(Insn::Store {
                    size,
                    dst: base,
                    off,
                    src: Operand::Imm(imm),
                });
            }
        }
    }

    /// Brings `base` forward by what is in a number, in one of the orders that come to the same.
    fn advance(&mut self, base: Reg, by: Reg) {
        match self.rng.below(3) {
            0 => {
                self.push(mov(Reg::R9, by));
                self.op_reg(AluOp::Add, Reg::R9, base);
            }
            1 => {
                self.push(mov(Reg::R9, base));
                self.op_reg(AluOp::Add, Reg::R9, by);
            }
            _ => {
                self.push(mov(Reg::R9, base));
                self.op_imm(AluOp::Add, Reg::R9, 8);
                self.op_reg(AluOp::Add, Reg::R9, by);
                self.op_imm(AluOp::Add, Reg::R9, -8);
            }
        }
    }

    fn variable_stack_step(&mut self) {
        let (by, size) = (self.scalar(), self.rng.pick(&SIZES));
        let room = i32::from(STACK_BYTES) - size.bytes() as i32;
        let most = if self.rng.one_in(8) {
            0
        } else {
            self.rng.below(room as usize + 1) as i32
        };
        let excess = self.excess();
        self.bounded(by, most.max(1) + excess);
        let align = size.bytes() as i32;
        self.op_imm(AluOp::And, by, -align);
        self.advance(Reg::FP, by);
        let spare = (room - most.max(1)).max(0) / align;
        let off = -STACK_BYTES + (self.rng.below(spare as usize + 1) * size.bytes()) as i16;
        self.access(size, Reg::R9, off);
    }

    fn variable_value_step(&mut self) {
        let (by, size) = (self.scalar(), self.rng.pick(&SIZES));
        let most = VALUE_BYTES - size.bytes() as i32 + self.excess();
        self.bounded(by, most);
        self.advance(Reg::R8, by);
        if self.rng.one_in(4) && size.bytes() >= 4 {
            self.op_imm(AluOp::And, by, 0x38);
            self.push(mov(Reg::R9, Reg::R8));
            self.op_reg(AluOp::Add, Reg::R9, by);
            let (op, src) = (self.atomic_op(), self.rng.pick(&SCALARS[1..]));
            self.push(Insn::Atomic {
                op,
                size,
                dst: Reg::R9,
                src,
                off: 0,
            });
            return;
        }
        self.access(size, Reg::R9, 0);
    }

    fn variable_packet_step(&mut self) {
        let by = self.rng.pick(&SCALARS[2..]);
        let (_, end) = self.data_fields();
        let most = self.rng.pick(&[7, 15, 31, 63, 255]);
        self.bounded(by, most);
        self.advance(Reg::R7, by);
        let bytes = 8 + self.rng.below(24) as i32;
        self.push(mov(Reg::R0, Reg::R9));
        self.op_imm(AluOp::Add, Reg::R0, bytes);
        self.load(MemSize::W, Reg::R1, Reg::R6, end);
        let at = self.insns.len();
        match self.rng.below(4) {
            0 => self.jmp(Width::W64, JmpOp::Gt, Reg::R0, Operand::Reg(Reg::R1), 0),
            1 => self.jmp(Width::W64, JmpOp::Lt, Reg::R1, Operand::Reg(Reg::R0), 0),
            2 => self.jmp(Width::W64, JmpOp::Ge, Reg::R0, Operand::Reg(Reg::R1), 0),
            _ => self.jmp(Width::W64, JmpOp::Le, Reg::R1, Operand::Reg(Reg::R0), 0),
        }
        self.refill(&[Reg::R0, Reg::R1]);
        let size = self.rng.pick(&SIZES);
        let excess = self.excess() as i16;
        let off = self.rng.below(bytes as usize - size.bytes() + 1) as i16 + excess;
        self.access(size, Reg::R9, off);
        self.push(Insn::Ja { off: 0 });
        let over = self.insns.len() - 1;
        self.land(at);
        self.refill(&[Reg::R0, Reg::R1]);
        self.land(over);
    }

    /// Two registers with one number, then a comparison of one of them.
    fn link_step(&mut self) {
        let (a, b) = (self.scalar(), self.scalar());
        let width = self.width();
        self.push(alu(width, AluOp::Mov, a, Operand::Reg(b)));
        if self.rng.one_in(2) {
            let (width, imm) = (self.width(), self.rng.below(64) as i32 - 16);
            self.push(alu(width, AluOp::Add, a, Operand::Imm(imm)));
        }
        if self.rng.one_in(2) {
            let off = self.stack_off(MemSize::Dw);
            self.push(Insn::Store {
                size: MemSize::Dw,
                dst: Reg::FP,
                off,
                src: Operand::Reg(b),
            });
        }
        let (width, op, imm) = (self.width(), self.rng.pick(&JMP_OPS), self.rng.imm());
        let compared = self.rng.pick(&[a, b]);
        self.jmp(width, op, compared, Operand::Imm(imm), 0);
        let at = self.insns.len() - 1;
        self.mask_step();
        self.land(at);
    }

    /// 0 or -1, combined with a mask: the verifier walks both.
    fn fork_step(&mut self) {
        let (width, dst) = (self.width(), self.scalar());
        if self.rng.one_in(2) {
            self.jmp(Width::W32, JmpOp::Slt, dst, Operand::Imm(-1), 1);
            self.jmp(Width::W32, JmpOp::Sle, dst, Operand::Imm(0), 1);
            self.push(mov_imm(dst, -1));
        } else {
            let shift = if width == Width::W32 { 31 } else { 63 };
            self.push(alu(width, AluOp::Arsh, dst, Operand::Imm(shift)));
        }
        let (op, imm) = (self.rng.pick(&[AluOp::And, AluOp::Or]), self.rng.imm());
        self.push(alu(width, op, dst, Operand::Imm(imm)));
    }

    /// A loop whose number of turns nobody knows before.
    fn proof_loop_step(&mut self) {
        if self.rng.one_in(3) {
            return self.loop_step();
        }
        let turns = self.scalar();
        self.push(mov(Reg::R9, turns));
        self.op_imm(AluOp::And, Reg::R9, 3);
        let top = self.insns.len();
        let bounded_by_runtime = self.rng.one_in(2);
        if bounded_by_runtime {
            self.push(Insn::MayGoto { off: 0 });
        }
        self.jmp(Width::W64, JmpOp::Eq, Reg::R9, Operand::Imm(0), 0);
        let leaves = self.insns.len() - 1;
        match self.rng.below(3) {
            0 => self.stack_step(),
            1 => self.mask_step(),
            _ => self.alu_step(),
        }
        self.op_imm(AluOp::Sub, Reg::R9, 1);
        let back = top as i64 - self.insns.len() as i64 - 1;
        self.push(Insn::Ja { off: back as i16 });
        self.land(leaves);
        if bounded_by_runtime {
            self.land(top);
        }
    }

    fn proof_call_step(&mut self) {
        let id = match self.rng.below(4) {
            0 => return self.callback_step(),
            1 => FuncId::ForEachMapElem,
            2 => return self.pointer_call_step(),
            _ => return self.call_step(),
        };
        let map = self.rng.pick(&[VALUES, 1]);
        self.load_map(Reg::R1, map);
        self.calls.push((self.insns.len(), Subprog::Element));
        self.push(Insn::LoadImm64 {
            dst: Reg::R2,
            value: Imm64::Func(0),
        });
        self.pointer_to_scratch(Reg::R3, -STACK_BYTES);
        self.push(mov_imm(Reg::R4, 0));
        self.helper(id);
        self.numbers(&SCALARS[1..]);
    }

    /// A function that writes to its caller's stack.
    fn pointer_call_step(&mut self) {
        let slot = 1 + self.rng.below(STACK_BYTES as usize / 8) as i16;
        self.pointer_to_scratch(Reg::R1, -8 * slot);
        self.calls.push((self.insns.len(), Subprog::Writer));
        self.push(Insn::Call(CallTarget::Subprog(0)));
        self.numbers(&SCALARS[1..]);
    }

    fn proof_helper_step(&mut self) {
        match self.rng.below(5) {
            0 => {
                let id = self.rng.pick(&[
                    FuncId::KtimeGetNs,
                    FuncId::GetPrandomU32,
                    FuncId::GetSmpProcessorId,
                ]);
                self.helper(id);
            }
            1 => self.array_step(),
            2 => self.hash_step(),
            3 => return self.variable_length_step(),
            _ => self.packet_helper_step(),
        }
        self.numbers(&SCALARS[1..]);
    }

    /// A helper that writes as many bytes as a number says.
    fn variable_length_step(&mut self) {
        let len = self.rng.pick(&[Reg::R4, Reg::R5]);
        let most = 1 + self.rng.below(STACK_BYTES as usize) as i32 + self.excess();
        self.bounded(len, most);
        if len != Reg::R4 {
            self.push(mov(Reg::R4, len));
        }
        self.jmp(Width::W64, JmpOp::Ne, Reg::R4, Operand::Imm(0), 1);
        self.push(mov_imm(Reg::R4, 1));
        let off = self.rng.below(8) as i32;
        self.push(mov(Reg::R1, Reg::R6));
        self.push(mov_imm(Reg::R2, off));
        let into_value = self.rng.one_in(3) && most < VALUE_BYTES;
        if into_value {
            self.push(mov(Reg::R3, Reg::R8));
        } else {
            self.pointer_to_scratch(Reg::R3, -STACK_BYTES);
        }
        self.helper(if self.prog_type == ProgType::Xdp {
            FuncId::XdpLoadBytes
        } else {
            FuncId::SkbLoadBytes
        });
        self.numbers(&SCALARS[1..]);
    }

    /// The bytes before an XDP packet.
    fn metadata_step(&mut self) {
        self.load(MemSize::W, Reg::R9, Reg::R6, 8);
        self.load(MemSize::W, Reg::R1, Reg::R6, 0);
        self.push(mov(Reg::R2, Reg::R9));
        self.op_imm(AluOp::Add, Reg::R2, 4);
        let at = self.insns.len();
        self.jmp(Width::W64, JmpOp::Gt, Reg::R2, Operand::Reg(Reg::R1), 0);
        self.load(MemSize::W, Reg::R3, Reg::R9, 0);
        self.land(at);
        self.numbers(&[Reg::R1, Reg::R2]);
    }

    /// A record of the ring buffer, written at a place that a number decides.
    fn ringbuf_step(&mut self) {
        let by = Reg::R5;
        self.push(mov(Reg::R9, by));
        self.load_map(Reg::R1, RINGBUF);
        self.push(mov_imm(Reg::R2, 32));
        self.push(mov_imm(Reg::R3, 0));
        self.helper(FuncId::RingbufReserve);
        let at = self.insns.len();
        self.jmp(Width::W64, JmpOp::Eq, Reg::R0, Operand::Imm(0), 0);
        self.push(mov(Reg::R1, Reg::R9));
        let most = 24 + self.excess();
        self.bounded(Reg::R1, most);
        self.op_reg(AluOp::Add, Reg::R1, Reg::R0);
        self.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::R1,
            off: 0,
            src: Operand::Imm(7),
        });
        self.push(mov(Reg::R1, Reg::R0));
        self.push(mov_imm(Reg::R2, 0));
        let id = self
            .rng
            .pick(&[FuncId::RingbufSubmit, FuncId::RingbufDiscard]);
        self.helper(id);
        self.land(at);
        self.numbers(&SCALARS);
    }

    /// What ends a program's knowledge of its packet, or the program.
    fn rare_step(&mut self) {
        if self.rng.one_in(2) || !self.has_packet {
            self.tail_call_step();
            return;
        }
        if self.prog_type == ProgType::Xdp {
            let by = self.rng.pick(&[-8, 0, 4, 8]);
            self.push(mov(Reg::R1, Reg::R6));
            self.push(mov_imm(Reg::R2, by));
            self.helper(FuncId::XdpAdjustHead);
        } else {
            self.push(mov(Reg::R1, Reg::R6));
            self.push(mov_imm(Reg::R2, 64));
            self.helper(FuncId::SkbPullData);
        }
        self.checked_packet();
        self.numbers(&SCALARS);
    }
}
