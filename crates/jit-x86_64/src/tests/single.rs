//! Every instruction form with every register and the edges of immediates, one at a time, all registers compared afterwards.

use ring3_isa::{
    AluOp, AtomicOp, EndianOp, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width,
};

use super::{MEMORY_BYTES, Rng, around, assert_agrees, reg};

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const IMMS: [i32; 28] = [
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    8,
    9,
    10,
    31,
    32,
    33,
    63,
    64,
    100,
    127,
    128,
    -128,
    -129,
    255,
    256,
    641,
    65535,
    65536,
    1_000_000_007,
    i32::MAX,
    i32::MIN,
];
const SIZES: [MemSize; 4] = [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw];

fn values(rng: &mut Rng) -> [u64; 10] {
    std::array::from_fn(|_| rng.value())
}

/// Many bodies in one program each; each gets fresh register values.
fn check(rng: &mut Rng, body: &[Insn]) {
    let values = values(rng);
    let mut context = [0; MEMORY_BYTES];
    for byte in &mut context {
        *byte = rng.next() as u8;
    }
    assert_agrees(&around(&values, body), context, &|| {
        format!("{body:?} on {values:x?}")
    });
}

#[test]
fn arithmetic_with_registers() {
    let mut rng = Rng(1);
    for &op in AluOp::ALL {
        for width in WIDTHS {
            for dst in 0..10 {
                for src in 0..10 {
                    check(
                        &mut rng,
                        &[Insn::Alu {
                            width,
                            op,
                            dst: reg(dst),
                            src: Operand::Reg(reg(src)),
                        }],
                    );
                }
            }
        }
    }
}

#[test]
fn arithmetic_with_immediates() {
    let mut rng = Rng(2);
    for &op in AluOp::ALL {
        for width in WIDTHS {
            for imm in IMMS {
                for dst in [0, 1, 3, 4, 5, 6, 7, rng.below(10)] {
                    check(
                        &mut rng,
                        &[Insn::Alu {
                            width,
                            op,
                            dst: reg(dst),
                            src: Operand::Imm(imm),
                        }],
                    );
                }
            }
        }
    }
}

#[test]
fn division_at_the_edges() {
    let mut rng = Rng(3);
    let edges = [
        0,
        1,
        u64::MAX,
        1 << 31,
        1 << 63,
        (1 << 31) | (5 << 32),
        u64::from(u32::MAX),
        7,
    ];
    for op in [AluOp::Div, AluOp::Sdiv, AluOp::Mod, AluOp::Smod] {
        for width in WIDTHS {
            for a in edges {
                for b in edges {
                    let (dst, src) = rng.pick(&[(0, 3), (3, 0), (1, 2), (6, 4), (5, 3)]);
                    let body = [
                        Insn::LoadImm64 {
                            dst: reg(dst),
                            value: Imm64::Value(a),
                        },
                        Insn::LoadImm64 {
                            dst: reg(src),
                            value: Imm64::Value(b),
                        },
                        Insn::Alu {
                            width,
                            op,
                            dst: reg(dst),
                            src: Operand::Reg(reg(src)),
                        },
                    ];
                    check(&mut rng, &body);
                }
            }
        }
    }
}

#[test]
fn negation_extension_and_byte_order() {
    let mut rng = Rng(4);
    for dst in 0..10 {
        for width in WIDTHS {
            check(
                &mut rng,
                &[Insn::Neg {
                    width,
                    dst: reg(dst),
                }],
            );
            for src in 0..10 {
                for from in [MemSize::B, MemSize::H, MemSize::W] {
                    if (width, from) == (Width::W32, MemSize::W) {
                        continue;
                    }
                    check(
                        &mut rng,
                        &[Insn::Movsx {
                            width,
                            from,
                            dst: reg(dst),
                            src: reg(src),
                        }],
                    );
                }
            }
        }
        for &op in EndianOp::ALL {
            for size in [MemSize::H, MemSize::W, MemSize::Dw] {
                check(
                    &mut rng,
                    &[Insn::Endian {
                        op,
                        size,
                        dst: reg(dst),
                    }],
                );
            }
        }
    }
}

/// `base` = the context's address, from where `around` keeps it.
fn base(register: usize) -> Insn {
    Insn::Load {
        size: MemSize::Dw,
        mode: LoadMode::ZeroExtend,
        dst: reg(register),
        src: Reg::FP,
        off: -8,
    }
}

/// The base register holds a pointer, which the dump must not show.
fn hide(register: usize) -> Insn {
    Insn::Alu {
        width: Width::W64,
        op: AluOp::Mov,
        dst: reg(register),
        src: Operand::Imm(77),
    }
}

#[test]
fn loads_and_stores() {
    let mut rng = Rng(5);
    for size in SIZES {
        for at in 0..10 {
            for other in 0..10 {
                for off in [0i16, 8, 100, 200] {
                    for mode in [LoadMode::ZeroExtend, LoadMode::SignExtend] {
                        if (size, mode) == (MemSize::Dw, LoadMode::SignExtend) {
                            continue;
                        }
                        let mut body = vec![
                            base(at),
                            Insn::Load {
                                size,
                                mode,
                                dst: reg(other),
                                src: reg(at),
                                off,
                            },
                        ];
                        if at != other {
                            body.push(hide(at));
                        }
                        check(&mut rng, &body);
                    }
                    if at != other {
                        let src = Operand::Reg(reg(other));
                        check(
                            &mut rng,
                            &[
                                base(at),
                                Insn::Store {
                                    size,
                                    dst: reg(at),
                                    off,
                                    src,
                                },
                                hide(at),
                            ],
                        );
                    }
                }
            }
            let src = Operand::Imm(rng.imm());
            check(
                &mut rng,
                &[
                    base(at),
                    Insn::Store {
                        size,
                        dst: reg(at),
                        off: 160,
                        src,
                    },
                    hide(at),
                ],
            );
        }
    }
}

#[test]
fn atomics() {
    let mut rng = Rng(6);
    for &op in AtomicOp::ALL {
        for &size in op.sizes() {
            for at in 0..10 {
                for other in 0..10 {
                    if at == other || (op == AtomicOp::Cmpxchg && at == 0) {
                        continue;
                    }
                    let off = rng.pick(&[0i16, 8, 136]);
                    let (dst, src) = if op == AtomicOp::LoadAcquire {
                        (other, at)
                    } else {
                        (at, other)
                    };
                    let atomic = Insn::Atomic {
                        op,
                        size,
                        dst: reg(dst),
                        src: reg(src),
                        off,
                    };
                    let mut body = vec![base(at), atomic];
                    if op == AtomicOp::Cmpxchg && rng.below(2) == 0 {
                        // Make the comparison succeed.
                        let mode = LoadMode::ZeroExtend;
                        body.insert(
                            1,
                            Insn::Load {
                                size,
                                mode,
                                dst: Reg::R0,
                                src: reg(at),
                                off,
                            },
                        );
                    }
                    body.push(hide(at));
                    check(&mut rng, &body);
                }
            }
        }
    }
}

#[test]
fn jumps_with_every_condition() {
    let mut rng = Rng(7);
    for &op in JmpOp::ALL {
        for width in WIDTHS {
            for dst in 0..10 {
                for case in 0..30 {
                    let src = if case < 12 {
                        Operand::Reg(reg(rng.below(10)))
                    } else {
                        Operand::Imm(rng.pick(&IMMS))
                    };
                    let mut body = Vec::new();
                    // Equal and neighbouring operands, which random values never are.
                    if let (Operand::Imm(imm), true) = (src, case % 2 == 0) {
                        let near = (i64::from(imm) + rng.below(3) as i64 - 1) as u64;
                        body.push(Insn::LoadImm64 {
                            dst: reg(dst),
                            value: Imm64::Value(near),
                        });
                    }
                    body.push(Insn::Jmp {
                        width,
                        op,
                        dst: reg(dst),
                        src,
                        off: 1,
                    });
                    body.push(Insn::Alu {
                        width: Width::W64,
                        op: AluOp::Xor,
                        dst: reg(rng.below(10)),
                        src: Operand::Imm(0x55),
                    });
                    check(&mut rng, &body);
                }
            }
        }
    }
}

#[test]
fn constants_of_every_shape() {
    let mut rng = Rng(8);
    for dst in 0..10 {
        for value in [
            0,
            1,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 32,
            u64::MAX,
            i32::MIN as i64 as u64,
            1 << 63,
        ] {
            check(
                &mut rng,
                &[Insn::LoadImm64 {
                    dst: reg(dst),
                    value: Imm64::Value(value),
                }],
            );
        }
    }
}
