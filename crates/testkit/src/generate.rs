//! Random programs that the verifier mostly accepts, for differential tests. Key types: [`Rng`], [`Generated`].
//!
//! A program is a prologue (context to r6, packet bounds to r7 and r8, scalars to r0..r5, eight stack slots), a random body whose steps keep
//! r0..r5 scalars, and an epilogue that folds everything into r0, so that any difference shows in the result. Maps are named by the
//! numbers of [`MAPS`].

use ring3_btf::{Btf, FuncLinkage, IntEncoding, Kind, TypeId};
use ring3_isa::{
    AluOp, AtomicOp, CallTarget, EndianOp, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, RawInsn,
    Reg, Width, encode,
};
use ring3_spec::InfoRecords;
use ring3_uapi::{FuncId, MapType, ProgType};

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// An immediate that likes edges.
    pub fn imm(&mut self) -> i32 {
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => -1,
            3 => i32::MIN,
            4 => i32::MAX,
            5 => self.word() as i8 as i32,
            6 => 1 << self.below(31),
            _ => self.word() as i32,
        }
    }
}

/// Maps that generated programs use, by number: type, key bytes, value bytes, entries.
pub const MAPS: &[(MapType, u32, u32, u32)] = &[
    (MapType::Array, 4, 16, 4),
    (MapType::Hash, 4, 16, 4),
    (MapType::PercpuArray, 4, 8, 2),
    (MapType::Hash, 8, 8, 8),
    (MapType::ProgArray, 4, 4, 2),
    (MapType::PercpuHash, 4, 8, 4),
];
/// The prog array among [`MAPS`]; slot 1 is for [`tail_target`].
pub const PROG_ARRAY: i32 = 4;

/// Bytes of packet that programs check for and touch.
const PACKET_BYTES: i16 = 32;
/// Stack bytes with scalars, below r10.
const STACK_BYTES: i16 = 64;
/// Where keys and values for helpers are put, below the scalars.
const SCRATCH: i16 = -96;

/// A generated program.
#[derive(Clone, Debug)]
pub struct Generated {
    /// XDP, tc classifier or socket filter.
    pub prog_type: ProgType,
    /// Instructions.
    pub insns: Vec<RawInsn>,
    /// First slots of the functions, the main program's 0 first.
    pub functions: Vec<u32>,
}

impl Generated {
    /// BTF with a function per subprogram, and its `func_info`: callbacks need them.
    pub fn btf(&self) -> (Btf, InfoRecords) {
        let mut builder = ring3_btf::Builder::new();
        let number = builder.add_int("long", 8, IntEncoding::SIGNED);
        let pointer = builder.add_ref(Kind::Ptr, "", TypeId(0));
        let mut bytes = Vec::new();
        for (at, start) in self.functions.iter().enumerate() {
            let (name, linkage) = if at == 0 {
                ("main_prog".to_owned(), FuncLinkage::Global)
            } else {
                (format!("sub{at}"), FuncLinkage::Static)
            };
            let proto = builder.add_func_proto(number, &[("ctx", pointer)]);
            let func = builder.add_func(&name, proto, linkage);
            bytes.extend(start.to_le_bytes());
            bytes.extend(func.0.to_le_bytes());
        }
        let btf = Btf::parse(&builder.finish()).expect("built BTF parses");
        (
            btf,
            InfoRecords {
                rec_size: 8,
                count: self.functions.len() as u32,
                bytes,
            },
        )
    }
}

struct Builder<'a> {
    rng: &'a mut Rng,
    insns: Vec<RawInsn>,
    prog_type: ProgType,
    has_packet: bool,
    functions: Vec<u32>,
    /// Calls whose distance is filled in when subprograms are appended: slot and which.
    calls: Vec<(usize, Subprog)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Subprog {
    Mix,
    LoopBody,
}

/// One random program.
pub fn program(rng: &mut Rng) -> Generated {
    let prog_type = rng.pick(&[ProgType::Xdp, ProgType::SchedCls, ProgType::SocketFilter]);
    let has_packet = prog_type != ProgType::SocketFilter;
    let mut builder = Builder {
        rng,
        insns: Vec::new(),
        prog_type,
        has_packet,
        functions: vec![0],
        calls: Vec::new(),
    };
    builder.prologue();
    let steps = 1 + builder.rng.below(24);
    for _ in 0..steps {
        builder.step();
    }
    builder.epilogue();
    builder.subprogs();
    Generated {
        prog_type,
        insns: builder.insns,
        functions: builder.functions,
    }
}

/// What slot 1 of the prog array holds: a constant, so that a tail call shows in the result.
pub fn tail_target(prog_type: ProgType) -> Generated {
    let body = [mov_imm(Reg::R0, 0x7a11), Insn::Exit];
    Generated {
        prog_type,
        insns: body.iter().flat_map(slots).collect(),
        functions: vec![0],
    }
}

fn slots(insn: &Insn) -> Vec<RawInsn> {
    encode(insn)
        .unwrap_or_else(|error| panic!("generated {insn:?}: {error}"))
        .to_vec()
}

fn alu(width: Width, op: AluOp, dst: Reg, src: Operand) -> Insn {
    Insn::Alu {
        width,
        op,
        dst,
        src,
    }
}

fn mov_imm(dst: Reg, imm: i32) -> Insn {
    alu(Width::W64, AluOp::Mov, dst, Operand::Imm(imm))
}

fn mov(dst: Reg, src: Reg) -> Insn {
    alu(Width::W64, AluOp::Mov, dst, Operand::Reg(src))
}

const SCALARS: [Reg; 6] = [Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5];
const SIZES: [MemSize; 4] = [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw];
const ALU_OPS: [AluOp; 13] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Sdiv,
    AluOp::Or,
    AluOp::And,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Mod,
    AluOp::Smod,
    AluOp::Xor,
    AluOp::Arsh,
];
const JMP_OPS: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Set,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];

impl Builder<'_> {
    fn push(&mut self, insn: Insn) {
        self.insns.extend(slots(&insn));
    }

    fn scalar(&mut self) -> Reg {
        self.rng.pick(&SCALARS)
    }

    fn width(&mut self) -> Width {
        self.rng.pick(&[Width::W32, Width::W64])
    }

    /// Random scalars where a call left nothing.
    fn refill(&mut self, regs: &[Reg]) {
        for &reg in regs {
            if self.rng.one_in(4) {
                let value = self.rng.word();
                self.push(Insn::LoadImm64 {
                    dst: reg,
                    value: Imm64::Value(value),
                });
            } else {
                let imm = self.rng.imm();
                self.push(mov_imm(reg, imm));
            }
        }
    }

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

    fn epilogue(&mut self) {
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
        match self.rng.below(20) {
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

    fn alu_step(&mut self) {
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

    fn unary_step(&mut self) {
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
    fn stack_off(&mut self, size: MemSize) -> i16 {
        let units = STACK_BYTES as usize / size.bytes();
        -((1 + self.rng.below(units)) as i16) * size.bytes() as i16
    }

    /// A sign-extending load has no 8-byte form.
    fn load_mode(&mut self, size: MemSize) -> LoadMode {
        if size != MemSize::Dw && self.rng.one_in(3) {
            LoadMode::SignExtend
        } else {
            LoadMode::ZeroExtend
        }
    }

    fn stack_step(&mut self) {
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

    fn atomic_op(&mut self) -> AtomicOp {
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

    fn atomic_step(&mut self) {
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
    fn branch_step(&mut self) {
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
    fn loop_step(&mut self) {
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

    fn packet_step(&mut self) {
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
    fn legacy_load_step(&mut self) {
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

    fn load_map(&mut self, dst: Reg, map: i32) {
        self.push(Insn::LoadImm64 {
            dst,
            value: Imm64::MapFd(map),
        });
    }

    fn helper(&mut self, id: FuncId) {
        self.push(Insn::Call(CallTarget::Helper(id.raw() as i32)));
    }

    fn pointer_to_scratch(&mut self, dst: Reg, off: i16) {
        self.push(mov(dst, Reg::FP));
        self.push(alu(
            Width::W64,
            AluOp::Add,
            dst,
            Operand::Imm(i32::from(off)),
        ));
    }

    fn store_scratch(&mut self, size: MemSize, off: i16, imm: i32) {
        self.push(Insn::Store {
            size,
            dst: Reg::FP,
            off,
            src: Operand::Imm(imm),
        });
    }

    /// Looks an element up and, if it is there, changes it.
    fn lookup(&mut self, map: i32, key_size: MemSize, key: i32, value_bytes: i16) {
        self.store_scratch(key_size, SCRATCH, key);
        self.load_map(Reg::R1, map);
        self.pointer_to_scratch(Reg::R2, SCRATCH);
        self.helper(FuncId::MapLookupElem);
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

    fn array_step(&mut self) {
        let (map, entries) = self.rng.pick(&[(0, 5), (2, 3)]);
        let key = self.rng.below(entries) as i32;
        self.lookup(map, MemSize::W, key, MAPS[map as usize].2 as i16);
    }

    fn hash_step(&mut self) {
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

    fn call_step(&mut self) {
        if self.rng.one_in(4) {
            return self.callback_step();
        }
        self.calls.push((self.insns.len(), Subprog::Mix));
        self.push(Insn::Call(CallTarget::Subprog(0)));
        self.refill(&SCALARS[1..]);
    }

    /// `bpf_loop` over a callback that adds to a stack slot.
    fn callback_step(&mut self) {
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
    fn helper_step(&mut self) {
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

    fn packet_helper_step(&mut self) {
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

    fn tail_call_step(&mut self) {
        self.push(mov(Reg::R1, Reg::R6));
        self.load_map(Reg::R2, PROG_ARRAY);
        let slot = self.rng.below(3) as i32;
        self.push(mov_imm(Reg::R3, slot));
        self.helper(FuncId::TailCall);
        // A tail call does not come back, or leaves r0 undefined.
        self.refill(&SCALARS);
    }

    fn subprogs(&mut self) {
        for subprog in [Subprog::Mix, Subprog::LoopBody] {
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
            }
            self.push(Insn::Exit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_program() {
        let make = |seed| program(&mut Rng::new(seed)).insns;
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }

    #[test]
    fn generated_instructions_decode() {
        let mut rng = Rng::new(1);
        for _ in 0..200 {
            let insns = program(&mut rng).insns;
            let mut at = 0;
            while at < insns.len() {
                let (_, len) = ring3_isa::decode(&insns, at).unwrap();
                at += len;
            }
        }
    }
}
