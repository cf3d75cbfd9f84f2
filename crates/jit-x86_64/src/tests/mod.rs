//! Tests of whole programs: a model that evaluates instructions by `isa`, generators, and the comparison of both with compiled code.
//!
//! Every comparison runs with all optional CPU features, with none, and with blinding.

mod calls;
mod checked;
mod conformance;
mod encoding;
mod random;
mod rules;
mod single;
mod tail_calls;

use ring3_isa::{
    AtomicOp, CallTarget, Imm64, Insn, LoadMode, MemSize, Operand, RawInsn, Reg, encode, eval_alu,
    eval_atomic, eval_endian, eval_extend, eval_jmp, eval_movsx, eval_neg,
};
use ring3_runtime::{HelperFn, Linked, run};

use crate::{Compiled, CpuFeatures, Options, compile};

/// Bytes of memory that test programs get as context.
pub(super) const MEMORY_BYTES: usize = 256;

/// Deterministic random numbers (splitmix64).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A value with edges more often than chance gives.
    pub(super) fn value(&mut self) -> u64 {
        let edges = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 32,
        ];
        match self.below(4) {
            0 => self.pick(&edges),
            1 => (self.pick(&edges) as i64).wrapping_neg() as u64,
            2 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }

    pub(super) fn imm(&mut self) -> i32 {
        self.value() as i32
    }
}

/// The register of a number.
pub(super) fn reg(number: usize) -> Reg {
    Reg::new(number as u8).expect("register number")
}

/// Slots of a list of instructions.
pub(super) fn slots(insns: &[Insn]) -> Vec<RawInsn> {
    insns
        .iter()
        .flat_map(|insn| encode(insn).expect("encodable").to_vec())
        .collect()
}

/// What the model needs of memory: two ranges at made-up addresses.
struct Memory {
    context: [u8; MEMORY_BYTES],
    stack: Vec<u8>,
}

const CONTEXT_AT: u64 = 0x1000_0000;
const STACK_AT: u64 = 0x2000_0000;
const STACK_BYTES: usize = 512 * 8;

impl Memory {
    fn bytes(&mut self, address: u64, len: usize) -> &mut [u8] {
        let (range, offset) = if address >= STACK_AT {
            (&mut self.stack[..], address - STACK_AT)
        } else {
            (&mut self.context[..], address - CONTEXT_AT)
        };
        &mut range[offset as usize..offset as usize + len]
    }

    fn load(&mut self, address: u64, size: MemSize) -> u64 {
        let mut value = [0; 8];
        value[..size.bytes()].copy_from_slice(self.bytes(address, size.bytes()));
        u64::from_le_bytes(value)
    }

    fn store(&mut self, address: u64, size: MemSize, value: u64) {
        let bytes = value.to_le_bytes();
        self.bytes(address, size.bytes())
            .copy_from_slice(&bytes[..size.bytes()]);
    }
}

/// Runs a program by the definitions in `isa`; r0 and the memory.
pub(super) fn model(
    program: &[RawInsn],
    helper: HelperFn,
    context: [u8; MEMORY_BYTES],
) -> (u64, [u8; MEMORY_BYTES]) {
    let mut memory = Memory {
        context,
        stack: vec![0; STACK_BYTES],
    };
    let mut regs = [0u64; 12];
    regs[1] = CONTEXT_AT;
    regs[10] = STACK_AT + STACK_BYTES as u64;
    let mut frames: Vec<(usize, [u64; 5])> = Vec::new();
    let mut pc = 0usize;
    for _ in 0..1_000_000 {
        let (insn, count) = ring3_isa::decode(program, pc).expect("decodable");
        let value = |regs: &[u64; 12], src: Operand| match src {
            Operand::Reg(reg) => regs[reg.index()],
            Operand::Imm(imm) => i64::from(imm) as u64,
        };
        let mut next = pc + count;
        let jump = |off: i64| (pc as i64 + 1 + off) as usize;
        match insn {
            Insn::Alu {
                width,
                op,
                dst,
                src,
            } => {
                regs[dst.index()] = eval_alu(width, op, regs[dst.index()], value(&regs, src));
            }
            Insn::Neg { width, dst } => regs[dst.index()] = eval_neg(width, regs[dst.index()]),
            Insn::Movsx {
                width,
                from,
                dst,
                src,
            } => regs[dst.index()] = eval_movsx(width, from, regs[src.index()]),
            Insn::Endian { op, size, dst } => {
                regs[dst.index()] = eval_endian(op, size, regs[dst.index()])
            }
            Insn::LoadImm64 {
                dst,
                value: Imm64::Value(value),
            } => regs[dst.index()] = value,
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            } => {
                let loaded = memory.load(regs[src.index()].wrapping_add(off as u64), size);
                regs[dst.index()] = eval_extend(size, mode, loaded);
            }
            Insn::Store {
                size,
                dst,
                off,
                src,
            } => {
                memory.store(
                    regs[dst.index()].wrapping_add(off as u64),
                    size,
                    value(&regs, src),
                );
            }
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            } => {
                let (base, operand) = if op == AtomicOp::LoadAcquire {
                    (src, dst)
                } else {
                    (dst, src)
                };
                let address = regs[base.index()].wrapping_add(off as u64);
                let old = memory.load(address, size);
                let result = eval_atomic(op, size, old, regs[operand.index()], regs[0]);
                if let Some(stored) = result.memory {
                    memory.store(address, size, stored);
                }
                if let Some(loaded) = result.register {
                    let into = if op == AtomicOp::Cmpxchg {
                        Reg::R0
                    } else {
                        operand
                    };
                    regs[into.index()] = loaded;
                }
            }
            Insn::Jmp {
                width,
                op,
                dst,
                src,
                off,
            } => {
                if eval_jmp(width, op, regs[dst.index()], value(&regs, src)) {
                    next = jump(off.into());
                }
            }
            Insn::Ja { off } => next = jump(off.into()),
            Insn::Jal { off } => next = jump(off.into()),
            Insn::Call(CallTarget::Helper(_)) => {
                // SAFETY: test helpers take any numbers.
                regs[0] = unsafe { helper(regs[1], regs[2], regs[3], regs[4], regs[5]) };
            }
            Insn::Call(CallTarget::Subprog(distance)) => {
                frames.push((next, [regs[6], regs[7], regs[8], regs[9], regs[10]]));
                regs[10] -= 512;
                next = jump(distance.into());
            }
            Insn::Exit => match frames.pop() {
                Some((back, saved)) => {
                    regs[6..11].copy_from_slice(&saved);
                    next = back;
                }
                None => return (regs[0], memory.context),
            },
            other => panic!("the model does not know {other:?}"),
        }
        pc = next;
    }
    panic!("the program does not end");
}

/// The ways in which programs are compiled.
pub(super) fn variants() -> [(&'static str, Options); 3] {
    [
        (
            "all features",
            Options {
                cpu: CpuFeatures::detect(),
                ..Options::default()
            },
        ),
        (
            "no features",
            Options {
                cpu: CpuFeatures::BASELINE,
                ..Options::default()
            },
        ),
        (
            "blinded",
            Options {
                blinding_seed: Some(0x1234_5678_9abc),
                ..Options::default()
            },
        ),
    ]
}

/// Mixes its arguments; clobbers what a helper may.
pub(super) unsafe extern "C" fn mix(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64) -> u64 {
    let mut out = 0xcbf2_9ce4_8422_2325u64;
    for arg in [r1, r2, r3, r4, r5] {
        out = (out ^ arg).wrapping_mul(0x100_0000_01b3).rotate_left(17);
    }
    // SAFETY: writes only registers that the C ABI lets a callee change.
    unsafe {
        std::arch::asm!(
            "mov edi, 11", "mov esi, 12", "mov edx, 13", "mov ecx, 14", "mov r8d, 15", "mov r9d, 16", "mov r10d, 17",
            "mov r11d, 18",
            out("rdi") _, out("rsi") _, out("rdx") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    out
}

pub(super) fn link(program: &[RawInsn]) -> Linked {
    Linked::unverified(program.to_vec(), &|id| (id == 1).then_some(mix as HelperFn))
        .expect("linkable")
}

pub(super) fn compile_test(linked: &Linked, options: &Options) -> Compiled {
    compile(linked, options).expect("compilable")
}

/// Runs compiled code on a copy of the memory.
pub(super) fn execute(
    compiled: &Compiled,
    context: [u8; MEMORY_BYTES],
) -> (u64, [u8; MEMORY_BYTES]) {
    let mut memory = context;
    // SAFETY: the context is writable memory of the size that test programs know.
    let r0 = unsafe {
        run(
            &compiled.entry(),
            memory.as_mut_ptr().expose_provenance() as u64,
        )
    };
    (r0, memory)
}

/// Compares compiled code with the model, in every variant.
pub(super) fn assert_agrees(
    program: &[RawInsn],
    context: [u8; MEMORY_BYTES],
    what: &dyn Fn() -> String,
) {
    let expected = model(program, mix, context);
    let linked = link(program);
    for (name, options) in variants() {
        let compiled = compile_test(&linked, &options);
        encoding::assert_decodes(&compiled, what);
        let actual = execute(&compiled, context);
        if actual != expected {
            panic!(
                "{name}: {}\nexpected r0 {:#x}, got {:#x}\nexpected {:x?}\ngot      {:x?}\n{}\n{}",
                what(),
                expected.0,
                actual.0,
                words(&expected.1),
                words(&actual.1),
                ring3_isa::disasm(program, &ring3_isa::NoNames),
                encoding::text_of(&compiled.text().bytes(), 0)
            );
        }
    }
}

fn words(memory: &[u8; MEMORY_BYTES]) -> Vec<u64> {
    memory
        .chunks(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect()
}

/// Instructions that set every register but the given ones, run `body`, and dump r0 to r9 into the context.
pub(super) fn around(values: &[u64; 10], body: &[Insn]) -> Vec<RawInsn> {
    let mut insns = vec![Insn::Store {
        size: MemSize::Dw,
        dst: Reg::FP,
        off: -8,
        src: Operand::Reg(Reg::R1),
    }];
    for (number, &value) in values.iter().enumerate() {
        insns.push(Insn::LoadImm64 {
            dst: reg(number),
            value: Imm64::Value(value),
        });
    }
    insns.extend_from_slice(body);
    dump(&mut insns);
    insns.push(Insn::Exit);
    slots(&insns)
}

/// Stores r0 to r9 at the start of the context, whose address is at `r10 - 8`. Leaves r1 and r2 changed.
pub(super) fn dump(insns: &mut Vec<Insn>) {
    store_all(insns);
    let load = |dst, src, off| Insn::Load {
        size: MemSize::Dw,
        mode: LoadMode::ZeroExtend,
        dst,
        src,
        off,
    };
    insns.push(load(Reg::R1, Reg::FP, -8));
    for number in 0..10i16 {
        insns.push(load(Reg::R2, Reg::FP, -16 - 8 * number));
        insns.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::R1,
            off: 8 * number,
            src: Operand::Reg(Reg::R2),
        });
    }
}

/// Stores r0 to r9 to the stack, so that each is read.
pub(super) fn store_all(insns: &mut Vec<Insn>) {
    for number in 0..10 {
        insns.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::FP,
            off: -16 - 8 * number as i16,
            src: Operand::Reg(reg(number)),
        });
    }
}

/// A linked program from assembler text and sites, as the object layer would make it: internal instructions allowed.
pub(super) fn linked_with(
    insns: &[Insn],
    starts: &[u32],
    sites: Vec<ring3_runtime::Site>,
) -> Linked {
    let exit = link(&slots(&[Insn::Exit]));
    let mut program = (*exit.program).clone();
    program.insns = slots(insns);
    program.subprogs = starts
        .iter()
        .map(|&start| ring3_spec::SubprogFacts {
            start,
            ..ring3_spec::SubprogFacts::default()
        })
        .collect();
    Linked {
        program: std::sync::Arc::new(program),
        sites,
        arena: None,
        percpu_stride: None,
        stops: None,
    }
}

/// The instructions of an assembler text.
pub(super) fn asm(text: &str) -> Vec<Insn> {
    let program = ring3_isa::parse_asm(text, &ring3_isa::NoNames)
        .expect("assembles")
        .insns;
    let mut insns = Vec::new();
    let mut at = 0;
    while at < program.len() {
        let (insn, count) = ring3_isa::decode_xlated(&program, at).expect("decodable");
        insns.push(insn);
        at += count;
    }
    insns
}
