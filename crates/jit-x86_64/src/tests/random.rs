//! Random programs: arithmetic, memory, atomics, forward jumps, bounded loops, subprograms, helper calls.

use ring3_isa::{
    AluOp, AtomicOp, CallTarget, EndianOp, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, RawInsn,
    Reg, Width,
};

use super::{MEMORY_BYTES, Rng, assert_agrees, dump, reg, slots};

/// Bytes of stack that generated functions use below what `dump` needs.
const SCRATCH_AT: i16 = -96;
const SCRATCH_BYTES: usize = 64;

fn width(rng: &mut Rng) -> Width {
    rng.pick(&[Width::W32, Width::W64])
}

/// Data registers: r9 holds the context's address in the main program, r8 counts loops.
fn data(rng: &mut Rng) -> Reg {
    reg(rng.below(8))
}

fn operand(rng: &mut Rng) -> Operand {
    if rng.below(2) == 0 {
        Operand::Reg(data(rng))
    } else {
        Operand::Imm(rng.imm())
    }
}

/// Where memory may be touched: a base register and an offset for an access of this size.
fn place(rng: &mut Rng, size: MemSize, has_context: bool) -> (Reg, i16) {
    let bytes = size.bytes();
    if has_context && rng.below(2) == 0 {
        let off = 80 + rng.below((MEMORY_BYTES - 80) / bytes) * bytes;
        (Reg::R9, off as i16)
    } else {
        let off = rng.below(SCRATCH_BYTES / bytes) * bytes;
        (Reg::FP, SCRATCH_AT - SCRATCH_BYTES as i16 + off as i16)
    }
}

fn plain(rng: &mut Rng, has_context: bool) -> Insn {
    let size = rng.pick(&[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]);
    match rng.below(20) {
        0..=8 => Insn::Alu {
            width: width(rng),
            op: rng.pick(AluOp::ALL),
            dst: data(rng),
            src: operand(rng),
        },
        9 => Insn::Alu {
            width: width(rng),
            op: rng.pick(&[AluOp::Lsh, AluOp::Rsh, AluOp::Arsh, AluOp::Mov, AluOp::Or]),
            dst: data(rng),
            src: operand(rng),
        },
        10 => Insn::Neg {
            width: width(rng),
            dst: data(rng),
        },
        11 => Insn::Movsx {
            width: Width::W64,
            from: rng.pick(&[MemSize::B, MemSize::H, MemSize::W]),
            dst: data(rng),
            src: data(rng),
        },
        12 => Insn::Endian {
            op: rng.pick(EndianOp::ALL),
            size: rng.pick(&[MemSize::H, MemSize::W, MemSize::Dw]),
            dst: data(rng),
        },
        13 => Insn::LoadImm64 {
            dst: data(rng),
            value: Imm64::Value(rng.value()),
        },
        14 | 15 => {
            let (src, off) = place(rng, size, has_context);
            let mode = if size == MemSize::Dw {
                LoadMode::ZeroExtend
            } else {
                rng.pick(&[LoadMode::ZeroExtend, LoadMode::SignExtend])
            };
            Insn::Load {
                size,
                mode,
                dst: data(rng),
                src,
                off,
            }
        }
        16 | 17 => {
            let (dst, off) = place(rng, size, has_context);
            Insn::Store {
                size,
                dst,
                off,
                src: operand(rng),
            }
        }
        _ => {
            let op = rng.pick(AtomicOp::ALL);
            let size = rng.pick(op.sizes());
            let (base, off) = place(rng, size, has_context);
            let value = data(rng);
            let (dst, src) = if op == AtomicOp::LoadAcquire {
                (value, base)
            } else {
                (base, value)
            };
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            }
        }
    }
}

/// Slots that an instruction takes.
fn slot_count(insn: &Insn) -> i16 {
    if matches!(insn, Insn::LoadImm64 { .. }) {
        2
    } else {
        1
    }
}

fn jump_over(rng: &mut Rng, body: &[Insn]) -> Insn {
    let off = body.iter().map(slot_count).sum();
    if rng.below(6) == 0 {
        return if rng.below(2) == 0 {
            Insn::Ja { off }
        } else {
            Insn::Jal { off: off.into() }
        };
    }
    Insn::Jmp {
        width: width(rng),
        op: rng.pick(JmpOp::ALL),
        dst: data(rng),
        src: operand(rng),
        off,
    }
}

/// The runs that compilers write and `fuse` knows, and near misses of them.
fn phrase(rng: &mut Rng, body: &mut Vec<Insn>, has_context: bool) {
    let width = width(rng);
    let (a, b) = (data(rng), data(rng));
    let alu = |op, dst, src| Insn::Alu {
        width,
        op,
        dst,
        src,
    };
    let mov = alu(AluOp::Mov, a, Operand::Reg(b));
    match rng.below(13) {
        12 => {
            // The ends of a range, mostly with one way out.
            let (low, high) = (rng.below(200) as i32, rng.below(400) as i32);
            let (below, above) = ((JmpOp::Lt, low), (JmpOp::Gt, high));
            let (first, second) = if rng.below(2) == 0 {
                (below, above)
            } else {
                (above, below)
            };
            let far = 1 + i16::from(rng.below(4) != 0);
            for ((op, imm), off) in [(first, far), (second, 1)] {
                body.push(Insn::Jmp {
                    width,
                    op,
                    dst: a,
                    src: Operand::Imm(imm),
                    off,
                });
            }
            body.push(alu(AluOp::Add, b, Operand::Imm(77)));
        }
        0 => {
            let left = 1 + rng.below(width.bits() as usize - 1) as i32;
            let right = width.bits() as i32 - left + i32::from(rng.below(8) == 0);
            let (x, y) = if rng.below(2) == 0 { (a, b) } else { (b, a) };
            let (p, q) = if rng.below(2) == 0 {
                (AluOp::Lsh, AluOp::Rsh)
            } else {
                (AluOp::Rsh, AluOp::Lsh)
            };
            let (i, j) = if p == AluOp::Lsh {
                (left, right)
            } else {
                (right, left)
            };
            let (r, s) = if rng.below(2) == 0 { (a, b) } else { (b, a) };
            let parts = [
                mov,
                alu(p, x, Operand::Imm(i)),
                alu(q, y, Operand::Imm(j)),
                alu(AluOp::Or, r, Operand::Reg(s)),
            ];
            body.extend(parts);
            let c = data(rng);
            let again = alu(AluOp::Mov, c, Operand::Reg(b));
            let (r, s) = if rng.below(2) == 0 { (a, c) } else { (c, a) };
            body.extend([
                mov,
                alu(p, a, Operand::Imm(i)),
                again,
                alu(q, c, Operand::Imm(j)),
                alu(AluOp::Or, r, Operand::Reg(s)),
            ]);
        }
        1 => {
            let count = rng.pick(&[32, 48, 56, 24]);
            if rng.below(2) == 0 {
                body.push(mov);
            }
            let right = rng.pick(&[AluOp::Rsh, AluOp::Arsh]);
            body.extend([
                alu(AluOp::Lsh, a, Operand::Imm(count)),
                alu(right, a, Operand::Imm(count)),
            ]);
        }
        2 => {
            let op = rng.pick(&[AluOp::Add, AluOp::Sub, AluOp::Mul]);
            body.extend([mov, alu(op, a, operand(rng))]);
        }
        3 => {
            let size = rng.pick(&[MemSize::H, MemSize::W, MemSize::Dw]);
            let (src, off) = place(rng, size, has_context);
            body.push(Insn::Load {
                size,
                mode: LoadMode::ZeroExtend,
                dst: a,
                src,
                off,
            });
            body.push(Insn::Endian {
                op: rng.pick(EndianOp::ALL),
                size: rng.pick(&[MemSize::H, size]),
                dst: a,
            });
        }
        4 => {
            body.push(alu(rng.pick(AluOp::ALL), a, operand(rng)));
            body.push(Insn::Alu {
                width: Width::W32,
                op: AluOp::Mov,
                dst: a,
                src: Operand::Reg(a),
            });
        }
        5 => {
            // A loaded value that is used once, mostly.
            let size = rng.pick(&[MemSize::B, MemSize::W, MemSize::Dw]);
            let (src, off) = place(rng, size, has_context);
            body.push(Insn::Load {
                size,
                mode: LoadMode::ZeroExtend,
                dst: a,
                src,
                off,
            });
            if rng.below(2) == 0 {
                let ops = [
                    AluOp::Add,
                    AluOp::Sub,
                    AluOp::Mul,
                    AluOp::Or,
                    AluOp::And,
                    AluOp::Xor,
                ];
                body.push(alu(rng.pick(&ops), b, Operand::Reg(a)));
            } else {
                let other = operand(rng);
                let (dst, src) = match other {
                    Operand::Reg(reg) if rng.below(2) == 0 => (reg, Operand::Reg(a)),
                    other => (a, other),
                };
                compare(rng, body, width, dst, src, has_context);
            }
            forget(rng, body, a);
        }
        6 => {
            // A sum that is an address once.
            let size = rng.pick(&[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]);
            let (base, off) = place(rng, size, has_context);
            let index = data(rng);
            let wide = |op, dst, src| Insn::Alu {
                width: Width::W64,
                op,
                dst,
                src,
            };
            body.push(wide(AluOp::Mov, index, Operand::Imm(8)));
            if a == index {
                return;
            }
            body.push(wide(AluOp::Mov, a, Operand::Reg(base)));
            body.push(wide(AluOp::Add, a, Operand::Reg(index)));
            let off = off - 8;
            body.push(if rng.below(2) == 0 {
                Insn::Load {
                    size,
                    mode: LoadMode::ZeroExtend,
                    dst: b,
                    src: a,
                    off,
                }
            } else {
                Insn::Store {
                    size,
                    dst: a,
                    off,
                    // An address of the host is no result to compare.
                    src: Operand::Reg(if b == a { index } else { b }),
                }
            });
            body.push(wide(AluOp::Mov, a, Operand::Imm(3)));
        }
        7 => {
            let mask = rng.pick(&[0xff, 0xff, 0x7f, 0xffff]);
            body.push(alu(AluOp::And, a, Operand::Imm(mask)));
            let imm = Operand::Imm(rng.below(300) as i32 - 20);
            compare(rng, body, width, a, imm, has_context);
            forget(rng, body, a);
        }
        8 => {
            let src = operand(rng);
            let op = rng.pick(JmpOp::ALL);
            body.push(Insn::Jmp {
                width,
                op,
                dst: b,
                src,
                off: 1,
            });
            body.push(Insn::Alu {
                width: Width::W64,
                op: AluOp::Mov,
                dst: a,
                src: Operand::Reg(data(rng)),
            });
        }
        9 => {
            let bit = rng.below(2) as i32;
            body.push(alu(AluOp::Mov, a, Operand::Imm(bit)));
            let src = operand(rng);
            let op = rng.pick(JmpOp::ALL);
            body.push(Insn::Jmp {
                width,
                op,
                dst: b,
                src,
                off: 1,
            });
            body.push(alu(AluOp::Mov, a, Operand::Imm(1 - bit)));
        }
        10 => {
            // Computed and overwritten.
            body.push(alu(rng.pick(AluOp::ALL), a, operand(rng)));
            body.push(alu(AluOp::Mov, a, Operand::Imm(rng.imm())));
        }
        _ => {
            let skipped = plain(rng, has_context);
            body.push(alu(rng.pick(AluOp::ALL), a, operand(rng)));
            let op = rng.pick(&[JmpOp::Eq, JmpOp::Ne, JmpOp::Slt]);
            body.push(Insn::Jmp {
                width,
                op,
                dst: a,
                src: Operand::Imm(0),
                off: slot_count(&skipped),
            });
            body.push(skipped);
        }
    }
}

/// A condition over one instruction.
fn compare(
    rng: &mut Rng,
    body: &mut Vec<Insn>,
    width: Width,
    dst: Reg,
    src: Operand,
    has_context: bool,
) {
    let skipped = plain(rng, has_context);
    body.push(Insn::Jmp {
        width,
        op: rng.pick(JmpOp::ALL),
        dst,
        src,
        off: slot_count(&skipped),
    });
    body.push(skipped);
}

/// Mostly overwrites the register.
fn forget(rng: &mut Rng, body: &mut Vec<Insn>, register: Reg) {
    if rng.below(4) != 0 {
        body.push(Insn::Alu {
            width: Width::W64,
            op: AluOp::Mov,
            dst: register,
            src: Operand::Imm(rng.imm()),
        });
    }
}

/// A run of instructions without calls: straight, skipped on a condition, or repeated.
fn block(rng: &mut Rng, insns: &mut Vec<Insn>, has_context: bool) {
    let count = 1 + rng.below(8);
    let mut body: Vec<Insn> = (0..count).map(|_| plain(rng, has_context)).collect();
    if rng.below(2) == 0 {
        phrase(rng, &mut body, has_context);
    }
    // Long skips: some beyond the reach of a short jump.
    if rng.below(40) == 0 {
        for _ in 0..60 {
            body.push(plain(rng, has_context));
        }
    }
    match rng.below(4) {
        0 => {
            insns.push(jump_over(rng, &body));
            insns.extend(body);
        }
        1 => {
            let times = 1 + rng.below(3) as i32;
            insns.push(Insn::Alu {
                width: Width::W64,
                op: AluOp::Mov,
                dst: Reg::R8,
                src: Operand::Imm(times),
            });
            if rng.below(2) == 0 {
                // A way round: a jump to the end of the loop.
                let (a, b) = (plain(rng, has_context), plain(rng, has_context));
                body.push(Insn::Jmp {
                    width: width(rng),
                    op: rng.pick(JmpOp::ALL),
                    dst: data(rng),
                    src: operand(rng),
                    off: slot_count(&a) + 1,
                });
                let over = slot_count(&b);
                body.extend([a, Insn::Ja { off: over }, b]);
            }
            let back: i16 = body.iter().map(slot_count).sum();
            insns.extend(body);
            insns.push(Insn::Alu {
                width: Width::W64,
                op: AluOp::Sub,
                dst: Reg::R8,
                src: Operand::Imm(1),
            });
            insns.push(Insn::Jmp {
                width: Width::W64,
                op: JmpOp::Ne,
                dst: Reg::R8,
                src: Operand::Imm(0),
                off: -(back + 2),
            });
        }
        _ => insns.extend(body),
    }
}

/// Gives values to registers and the scratch stack.
fn set_up(rng: &mut Rng, insns: &mut Vec<Insn>, registers: std::ops::Range<usize>) {
    for number in registers {
        insns.push(Insn::LoadImm64 {
            dst: reg(number),
            value: Imm64::Value(rng.value()),
        });
    }
    for word in 0..SCRATCH_BYTES as i16 / 8 {
        let off = SCRATCH_AT - SCRATCH_BYTES as i16 + 8 * word;
        insns.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::FP,
            off,
            src: Operand::Reg(Reg::R7),
        });
    }
}

/// A few instructions on r0 to r5.
fn leaf(rng: &mut Rng) -> Vec<Insn> {
    let mut insns = vec![Insn::Alu {
        width: Width::W64,
        op: AluOp::Mov,
        dst: Reg::R0,
        src: Operand::Imm(rng.imm()),
    }];
    for _ in 0..1 + rng.below(6) {
        let src = if rng.below(2) == 0 {
            Operand::Reg(reg(rng.below(6)))
        } else {
            Operand::Imm(rng.imm())
        };
        insns.push(Insn::Alu {
            width: width(rng),
            op: rng.pick(AluOp::ALL),
            dst: reg(rng.below(6)),
            src,
        });
    }
    insns.push(Insn::Exit);
    insns
}

/// A main program and up to two functions, which it calls and the first of which calls the second; the last is sometimes a small leaf.
pub(super) fn program(rng: &mut Rng) -> Vec<RawInsn> {
    let function_count = rng.below(3);
    let mut functions: Vec<Vec<Insn>> = vec![Vec::new(); 1 + function_count];
    // Calls carry the function's index as distance until the layout is known.
    for (index, insns) in functions.iter_mut().enumerate() {
        let is_main = index == 0;
        if index == function_count && !is_main && rng.below(2) == 0 {
            *insns = leaf(rng);
            continue;
        }
        if is_main {
            insns.push(Insn::Store {
                size: MemSize::Dw,
                dst: Reg::FP,
                off: -8,
                src: Operand::Reg(Reg::R1),
            });
            insns.push(Insn::Alu {
                width: Width::W64,
                op: AluOp::Mov,
                dst: Reg::R9,
                src: Operand::Reg(Reg::R1),
            });
            set_up(rng, insns, 0..9);
        } else {
            // r1 to r5 are arguments.
            insns.push(Insn::LoadImm64 {
                dst: Reg::R0,
                value: Imm64::Value(rng.value()),
            });
            set_up(rng, insns, 6..9);
        }
        for _ in 0..1 + rng.below(8) {
            block(rng, insns, is_main);
            let callee = index + 1;
            match rng.below(6) {
                0 => insns.push(Insn::Call(CallTarget::Helper(1))),
                1 if callee <= function_count => {
                    insns.push(Insn::Call(CallTarget::Subprog(callee as i32)))
                }
                _ => continue,
            }
            for number in 1..6 {
                insns.push(Insn::LoadImm64 {
                    dst: reg(number),
                    value: Imm64::Value(rng.value()),
                });
            }
        }
        if is_main {
            insns.push(Insn::Alu {
                width: Width::W64,
                op: AluOp::Mov,
                dst: Reg::R9,
                src: Operand::Imm(0),
            });
            dump(insns);
        }
        insns.push(Insn::Exit);
    }
    let mut starts = Vec::new();
    let mut at = 0i32;
    for insns in &functions {
        starts.push(at);
        at += insns
            .iter()
            .map(|insn| i32::from(slot_count(insn)))
            .sum::<i32>();
    }
    let mut at = 0i32;
    for insns in &mut functions {
        for insn in insns {
            if let Insn::Call(CallTarget::Subprog(callee)) = insn {
                *callee = starts[*callee as usize] - (at + 1);
            }
            at += i32::from(slot_count(insn));
        }
    }
    // Functions that nobody calls are no functions to the linker; their code would be unreachable and control would seem to run into
    // it, which `exit` before it prevents.
    slots(&functions.concat())
}

/// Rules of calls that have sites, which the programs here do not: tested, faults included, in `calls` and `tail_calls`.
fn has_sites(rule: &str) -> bool {
    [
        "array-lookup",
        "const-lookup",
        "section-cpu",
        "random",
        "direct-tail-call",
    ]
    .contains(&rule)
}

#[test]
fn random_programs_agree_with_the_model() {
    let mut hits = std::collections::BTreeMap::new();
    for seed in 0..3000 {
        let mut rng = Rng(seed * 7919 + 17);
        let program = program(&mut rng);
        let mut context = [0; MEMORY_BYTES];
        for byte in &mut context {
            *byte = rng.next() as u8;
        }
        assert_agrees(&program, context, &|| format!("seed {seed}"));
        for (rule, count) in
            super::compile_test(&super::link(&program), &crate::Options::default()).rule_hits()
        {
            *hits.entry(rule).or_insert(0) += count;
        }
    }
    hits.retain(|rule, _| !has_sites(rule));
    assert!(hits.values().all(|&count| count > 10), "{hits:?}");
}

#[test]
fn a_planted_fault_in_any_rule_is_found() {
    for rule in crate::fuse::NAMES {
        if has_sites(rule) {
            continue;
        }
        let options = crate::Options {
            planted_fault: Some(rule),
            ..crate::Options::default()
        };
        let is_found = (0..300).any(|seed| {
            let program = program(&mut Rng(seed * 31 + 5));
            let context = [seed as u8; MEMORY_BYTES];
            let compiled = super::compile_test(&super::link(&program), &options);
            // A fault may keep a loop from ending only through its counter, which no rule writes alone.
            super::execute(&compiled, context) != super::model(&program, super::mix, context)
        });
        assert!(is_found, "{rule}");
    }
}
