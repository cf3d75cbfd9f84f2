//! Round trips over every encodable instruction: slots to [`Insn`] and back, slots to assembler text and back.

use ring3_isa::{
    AluOp, AtomicOp, CallTarget, DecodeErrorKind, EndianOp, Field, Imm64, Insn, InternalInsn,
    JmpOp, LoadMode, MemSize, NoNames, Operand, RawInsn, Reg, Width, asm_text, decode,
    decode_xlated, disasm, format_asm, is_known_opcode, parse_asm, reserved_fields_text,
};

const OFFSETS: &[i16] = &[0, 1, 2, 5, 8, 16, 32, 64, -1, -8, i16::MIN, i16::MAX];
const IMMS: &[i32] = &[
    0,
    1,
    2,
    5,
    8,
    16,
    24,
    32,
    64,
    0x40,
    0x41,
    0x50,
    0x51,
    0xa0,
    0xa1,
    0xe1,
    0xf1,
    0xe0,
    0x100,
    0x110,
    0x10000,
    -1,
    i32::MIN,
    i32::MAX,
];

fn slots_of_every_opcode(mut each: impl FnMut(RawInsn)) {
    for code in 0..=u8::MAX {
        for dst in [0, 1, 2, 9, 10, 11, 12, 15] {
            for src in 0..16 {
                for &off in OFFSETS {
                    for &imm in IMMS {
                        each(RawInsn::new(code, dst, src, off, imm));
                    }
                }
            }
        }
    }
}

#[test]
fn what_decodes_encodes_to_the_same_slots_and_the_rest_names_its_field() {
    let mut accepted = [0u32; 256];
    slots_of_every_opcode(|raw| {
        let second = RawInsn::new(0, 0, 0, 0, raw.imm);
        let slots = [raw, second];
        match decode(&slots, 0) {
            Ok((insn, count)) => {
                accepted[usize::from(raw.code)] += 1;
                assert_eq!(count, insn.slots());
                let encoded = insn.encode().unwrap();
                assert_eq!(&encoded[..], &slots[..count], "{insn:?}");
                assert_eq!(decode_xlated(&slots, 0), Ok((insn, count)));
            }
            Err(error) => {
                assert_eq!((error.slot, error.code), (0, raw.code));
                let unknown = error.kind == DecodeErrorKind::UnknownOpcode;
                assert_eq!(unknown, !is_known_opcode(raw.code));
                if let DecodeErrorKind::Reserved { field, value } = error.kind {
                    assert_ne!(value, 0);
                    assert_ne!(field, Field::Opcode);
                    assert!(reserved_fields_text(raw.code).is_some());
                }
            }
        }
    });
    for code in 0..=u8::MAX {
        assert_eq!(
            accepted[usize::from(code)] > 0,
            is_known_opcode(code),
            "{code:#04x}"
        );
    }
    // 13 operations besides moves share 11 codes: 2 classes x 2 operands, then moves, negations, swaps, loads and stores.
    let known = (0..=u8::MAX).filter(|code| is_known_opcode(*code)).count();
    let alu = (14 - 2) * 2 * 2 + 2 + 3;
    let jmp = 11 * 2 * 2 + 5;
    let memory = 1 + 3 + 3 + 4 + 3 + 4 + 4 + 4;
    assert_eq!(known, alu + jmp + memory);
}

#[test]
fn assembler_text_reads_back_to_the_same_slots() {
    let mut texts = 0u32;
    for code in 0..=u8::MAX {
        for (dst, src) in [
            (0, 0),
            (1, 2),
            (10, 1),
            (2, 10),
            (11, 3),
            (0, 4),
            (0, 6),
            (5, 0),
            (3, 5),
            (15, 12),
        ] {
            for &off in OFFSETS {
                for &imm in IMMS {
                    let slots = [
                        RawInsn::new(code, dst, src, off, imm),
                        RawInsn::new(0, 0, 0, 0, !imm),
                    ];
                    let text = asm_text(&slots, &NoNames);
                    let count = text.slots();
                    let text = text.to_string();
                    let parsed =
                        parse_asm(&text, &NoNames).unwrap_or_else(|e| panic!("{text}: {e}"));
                    assert_eq!(parsed.insns, &slots[..count], "{text}");
                    texts += 1;
                }
            }
        }
    }
    assert_eq!(texts, 256 * 10 * OFFSETS.len() as u32 * IMMS.len() as u32);
}

/// Every typed instruction over all registers, and some operands.
fn typed_instructions(mut each: impl FnMut(Insn)) {
    let regs: Vec<Reg> = (0..12).filter_map(Reg::new).collect();
    let sizes = MemSize::ALL;
    let modes = [LoadMode::ZeroExtend, LoadMode::SignExtend];
    for &dst in &regs {
        for &src in &regs {
            let operands = [
                Operand::Reg(src),
                Operand::Imm(0),
                Operand::Imm(-1),
                Operand::Imm(i32::MAX),
            ];
            for width in [Width::W32, Width::W64] {
                for operand in operands {
                    for &op in AluOp::ALL {
                        each(Insn::Alu {
                            width,
                            op,
                            dst,
                            src: operand,
                        });
                    }
                    for &op in JmpOp::ALL {
                        each(Insn::Jmp {
                            width,
                            op,
                            dst,
                            src: operand,
                            off: -7,
                        });
                    }
                }
                each(Insn::Neg { width, dst });
                for &from in sizes {
                    each(Insn::Movsx {
                        width,
                        from,
                        dst,
                        src,
                    });
                }
            }
            for &op in EndianOp::ALL {
                for &size in sizes {
                    each(Insn::Endian { op, size, dst });
                }
            }
            each(Insn::AddrSpaceCast {
                dst,
                src,
                dst_as: 0,
                src_as: 1,
            });
            each(Insn::AddrSpaceCast {
                dst,
                src,
                dst_as: 0xffff,
                src_as: 0x8000,
            });
            each(InternalInsn::PercpuAddr { dst, src }.into());
            for &size in sizes {
                each(Insn::LoadAbs { size, imm: 14 });
                each(Insn::LoadInd { size, src, imm: -1 });
                for off in [0, -8, i16::MAX] {
                    for mode in modes {
                        each(Insn::Load {
                            size,
                            mode,
                            dst,
                            src,
                            off,
                        });
                        each(
                            InternalInsn::ProbeLoad {
                                size,
                                mode,
                                dst,
                                src,
                                off,
                            }
                            .into(),
                        );
                        each(
                            InternalInsn::ArenaLoad {
                                size,
                                mode,
                                dst,
                                src,
                                off,
                            }
                            .into(),
                        );
                    }
                    for operand in operands {
                        each(Insn::Store {
                            size,
                            dst,
                            off,
                            src: operand,
                        });
                        each(
                            InternalInsn::ArenaStore {
                                size,
                                dst,
                                off,
                                src: operand,
                            }
                            .into(),
                        );
                    }
                    for &op in AtomicOp::ALL {
                        each(Insn::Atomic {
                            op,
                            size,
                            dst,
                            src,
                            off,
                        });
                        each(
                            InternalInsn::ArenaAtomic {
                                op,
                                size,
                                dst,
                                src,
                                off,
                            }
                            .into(),
                        );
                    }
                }
            }
        }
        for value in [
            Imm64::Value(0),
            Imm64::Value(u64::MAX),
            Imm64::Value(0x1122_3344_5566_7788),
            Imm64::MapFd(-1),
            Imm64::MapValue {
                fd: 3,
                off: u32::MAX,
            },
            Imm64::BtfId { id: 7, btf_fd: 9 },
            Imm64::BtfId {
                id: u32::MAX,
                btf_fd: 0,
            },
            Imm64::Func(-2),
            Imm64::MapIdx(4),
            Imm64::MapIdxValue { idx: 4, off: 1 },
        ] {
            each(Insn::LoadImm64 { dst, value });
        }
    }
    for off in [0, 1, -1, i16::MIN, i16::MAX] {
        each(Insn::Ja { off });
        each(Insn::MayGoto { off });
        each(Insn::Jal {
            off: i32::from(off) << 16,
        });
        each(Insn::Call(CallTarget::Kfunc {
            id: 77,
            btf_idx: off,
        }));
        each(Insn::Call(CallTarget::Subprog(off.into())));
        each(Insn::Call(CallTarget::Helper(off.into())));
    }
    each(Insn::Exit);
    each(InternalInsn::Nospec.into());
    each(InternalInsn::TailCall.into());
}

#[test]
fn every_typed_instruction_survives_slots_and_text() {
    let (mut encodable, mut refused) = (0u32, 0u32);
    typed_instructions(|insn| match insn.encode() {
        Ok(slots) => {
            encodable += 1;
            assert_eq!(decode_xlated(&slots, 0), Ok((insn, slots.len())));
            let outside = decode(&slots, 0).is_ok();
            assert_eq!(outside, !matches!(insn, Insn::Internal(_)), "{insn:?}");
            let text = asm_text(&slots, &NoNames).to_string();
            let parsed = parse_asm(&text, &NoNames).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.insns, &slots[..], "{text}");
            // Without the prefix too: the text alone says everything.
            let bare = text
                .split_once(") ")
                .map_or(text.as_str(), |(_, bare)| bare);
            let parsed = parse_asm(bare, &NoNames).unwrap_or_else(|e| panic!("{bare}: {e}"));
            assert_eq!(parsed.insns, &slots[..], "{bare}");
        }
        Err(_) => refused += 1,
    });
    assert!(encodable > 40_000, "{encodable}");
    assert!(refused > 0);
}

#[test]
fn kernel_text_is_the_assembler_text_except_where_it_is_lossy() {
    let lossy = |insn: &Insn| {
        matches!(
            insn,
            Insn::LoadImm64 { .. }
                | Insn::Call(CallTarget::Helper(_) | CallTarget::Kfunc { .. })
                | Insn::Internal(_)
        )
    };
    typed_instructions(|insn| {
        if let Ok(slots) = insn.encode()
            && !lossy(&insn)
        {
            assert_eq!(
                disasm(&slots, &NoNames).to_string(),
                asm_text(&slots, &NoNames).to_string()
            );
        }
    });
}

/// Texts as the running 6.18 kernel prints them at log level 2.
#[test]
fn kernel_texts() {
    let cases: &[(RawInsn, &str)] = &[
        (RawInsn::new(0xb7, 1, 0, 0, 0), "(b7) r1 = 0"),
        (RawInsn::new(0x0f, 1, 2, 0, 0), "(0f) r1 += r2"),
        (
            RawInsn::new(0x61, 2, 1, 76, 0),
            "(61) r2 = *(u32 *)(r1 +76)",
        ),
        (
            RawInsn::new(0x7b, 10, 1, -8, 0),
            "(7b) *(u64 *)(r10 -8) = r1",
        ),
        (
            RawInsn::new(0x62, 10, 0, -4, 0),
            "(62) *(u32 *)(r10 -4) = 0",
        ),
        (RawInsn::new(0x85, 0, 1, 0, 3), "(85) call pc+3"),
        (RawInsn::new(0x85, 0, 0, 0, 9999), "(85) call unknown#9999"),
        (RawInsn::new(0x85, 0, 3, 0, 0), "(85) call unknown#0"),
        (RawInsn::new(0x95, 0, 0, 0, 0), "(95) exit"),
        (RawInsn::new(0x05, 0, 0, 3, 0), "(05) goto pc+3"),
        (RawInsn::new(0x06, 0, 0, 0, -3), "(06) gotol pc-3"),
        (RawInsn::new(0xe5, 0, 0, 4, 0), "(e5) may_goto pc+4"),
        (
            RawInsn::new(0xe5, 2, 1, 0, 0),
            "(e5) if r2 (null) 0x0 goto pc+0",
        ),
        (RawInsn::new(0xd7, 0, 0, 0, 32), "(d7) r0 = bswap32 r0"),
        (RawInsn::new(0xdc, 0, 0, 0, 16), "(dc) r0 = be16 r0"),
        (RawInsn::new(0xd4, 0, 0, 0, 64), "(d4) r0 = le64 r0"),
        (RawInsn::new(0x87, 3, 0, 0, 0), "(87) r3 = -r3"),
        (
            RawInsn::new(0xc3, 1, 2, 0, 0),
            "(c3) lock *(u32 *)(r1 +0) += r2",
        ),
        (
            RawInsn::new(0xdb, 1, 2, 8, 1),
            "(db) r2 = atomic64_fetch_add((u64 *)(r1 +8), r2)",
        ),
        (
            RawInsn::new(0xdb, 2, 1, 0, 0xf1),
            "(db) r0 = atomic64_cmpxchg((u64 *)(r2 +0), r0, r1)",
        ),
        (
            RawInsn::new(0xc3, 2, 1, 0, 0xe1),
            "(c3) r1 = atomic_xchg((u32 *)(r2 +0), r1)",
        ),
        (
            RawInsn::new(0xd3, 2, 1, 0, 0x100),
            "(d3) r2 = load_acquire((u8 *)(r1 +0))",
        ),
        (
            RawInsn::new(0xcb, 2, 1, 0, 0x110),
            "(cb) store_release((u16 *)(r2 +0), r1)",
        ),
        (RawInsn::new(0xdb, 2, 1, 0, 0x33), "BUG_db"),
        (
            RawInsn::new(0xbf, 1, 0, 1, 1),
            "(bf) r1 = addr_space_cast(r0, 0, 1)",
        ),
        (RawInsn::new(0xbf, 0, 1, 8, 0), "(bf) r0 = (s8)r1"),
        (RawInsn::new(0xbc, 0, 0, 16, 0), "(bc) w0 = (s16)w0"),
        (RawInsn::new(0x3f, 0, 1, 1, 0), "(3f) r0 s/= r1"),
        (RawInsn::new(0x94, 0, 0, 1, -2), "(94) w0 s%= -2"),
        (RawInsn::new(0xc7, 0, 0, 0, 32), "(c7) r0 s>>= 32"),
        (
            RawInsn::new(0x16, 1, 0, 1, 0),
            "(16) if w1 == 0x0 goto pc+1",
        ),
        (
            RawInsn::new(0xd5, 1, 0, -2, -1),
            "(d5) if r1 s<= 0xffffffff goto pc-2",
        ),
        (RawInsn::new(0x4d, 1, 2, 1, 0), "(4d) if r1 & r2 goto pc+1"),
        (RawInsn::new(0x30, 0, 0, 0, 12), "(30) r0 = *(u8 *)skb[12]"),
        (
            RawInsn::new(0x40, 0, 7, 0, -5),
            "(40) r0 = *(u32 *)skb[r7 + -5]",
        ),
        (
            RawInsn::new(0x91, 0, 10, -8, 0),
            "(91) r0 = *(s8 *)(r10 -8)",
        ),
        (RawInsn::new(0x18, 0, 0, 0, -1), "(18) r0 = 0xffffffff"),
    ];
    for (raw, text) in cases {
        assert_eq!(disasm(&[*raw], &NoNames).to_string(), *text);
    }
}

#[test]
fn errors_name_instruction_and_field() {
    let case = |raw: RawInsn| {
        decode(&[RawInsn::default(), raw], 1)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        case(RawInsn::new(0x0f, 0, 0, 5, 0)),
        "insn 1: opcode 0x0f: reserved offset 5 must be zero"
    );
    assert_eq!(
        case(RawInsn::new(0x8d, 0, 0, 0, 0)),
        "insn 1: opcode 0x8d: unknown opcode"
    );
    assert_eq!(
        case(RawInsn::new(0xbf, 12, 0, 0, 0)),
        "insn 1: opcode 0xbf: destination register r12 does not exist"
    );
    assert_eq!(
        case(RawInsn::new(0xd7, 0, 0, 0, 24)),
        "insn 1: opcode 0xd7: immediate 24 (0x18) names no variant of this opcode"
    );
    assert_eq!(
        case(RawInsn::new(0x18, 0, 0, 0, 0)),
        "insn 1: opcode 0x18: a 64-bit immediate needs two slots, and the program ends here"
    );
    assert_eq!(
        case(RawInsn::new(0xd3, 1, 2, 0, 0)),
        "insn 1: opcode 0xd3: this atomic operation needs a size of 4 or 8 bytes"
    );
    assert_eq!(
        decode(&[], 0).unwrap_err().to_string(),
        "insn 0: the program has no such instruction"
    );
    // The verifier's rewrites are not for programs from outside.
    assert_eq!(
        case(RawInsn::new(0xc2, 0, 0, 0, 0)),
        "insn 1: opcode 0xc2: unknown opcode"
    );
}

#[test]
fn assembler_errors_name_line_and_column() {
    let case = |text: &str| parse_asm(text, &NoNames).unwrap_err().to_string();
    assert_eq!(
        case("exit\n  r1 = 0x100000000"),
        "line 2, column 8: 4294967296 does not fit a sign-extended 32-bit immediate (64-bit values: 'r1 = 4294967296 ll')"
    );
    assert_eq!(
        case("r1 = 0xffffffff"),
        "line 1, column 6: 4294967295 does not fit a sign-extended 32-bit immediate (64-bit values: 'r1 = 4294967295 ll')"
    );
    assert_eq!(
        case("(07) r1 -= 1"),
        "line 1, column 6: the prefix is (07), but this is opcode (17)"
    );
    assert_eq!(case("goto nowhere"), "line 1, column 6: no label 'nowhere'");
    assert_eq!(
        case("a: exit\nb: a: exit"),
        "line 2, column 4: label 'a' is defined twice"
    );
    assert_eq!(
        case("r1 += w2"),
        "line 1, column 7: expected a register 'rN', of this instruction's width"
    );
    assert_eq!(
        case("r1 = r2 r3"),
        "line 1, column 9: expected the end of the instruction"
    );
    assert_eq!(
        case("goto pc+40000"),
        "line 1, column 6: 40000 does not fit a distance of 16 bits"
    );
    assert_eq!(
        case("frobnicate r1"),
        "line 1, column 1: 'frobnicate' begins no instruction"
    );
    assert_eq!(
        case("*(s8 *)(r1 +0) = r2"),
        "line 1, column 2: a store takes an unsigned type"
    );
    assert_eq!(
        case("w0 = (s32)w1"),
        "line 1, column 1: a sign-extending move takes 8, 16 or, at 64 bits, 32 bits"
    );
}

#[test]
fn labels_comments_and_lines() {
    let text = "\
; a loop
  r0 = 10            // counter
loop: r0 -= 1
  r1 = func[sub] ll
  if r0 s> 0 goto loop ; R0=scalar
  call sub
done: exit
sub:
  exit";
    let program = parse_asm(text, &NoNames).unwrap();
    let expected = "(b7) r0 = 10\n(17) r0 -= 1\n(18) r1 = func[+4] ll\n(65) if r0 s> 0x0 goto pc-4\n(85) call pc+1\n(95) exit\n(95) exit\n";
    assert_eq!(format_asm(&program.insns, &NoNames), expected);
    assert_eq!(program.lines, [2, 3, 4, 4, 5, 6, 7, 9]);
    assert_eq!(
        program.labels,
        [("loop".into(), 1), ("done".into(), 6), ("sub".into(), 7)]
    );
}

/// Texts out of all pieces of the language, in random order: never a panic, and what assembles reads back.
#[test]
fn random_text_never_panics() {
    let pieces = [
        "r0",
        "r10",
        "w3",
        "r99",
        "=",
        "+=",
        "s>>=",
        "-",
        "-5",
        "0x",
        "0xffffffffffffffff",
        "*",
        "(u32 *)",
        "(s8)",
        "(r1 +8)",
        "(r1",
        ")",
        "skb[",
        "]",
        "if",
        "goto",
        "pc+1",
        "lab",
        "lab:",
        "ll",
        "map[",
        "btf[3",
        ", ",
        "call",
        "#1",
        "lock",
        "be16",
        "atomic64_fetch_add((u64 *)(r1 +0), ",
        "store_release(",
        "load_acquire(",
        "(07)",
        "(é",
        "é",
        ";",
        "//",
        "\n",
        ".slot",
        "255 1 2 3 4",
        "probe",
        "arena",
        "&(void __percpu *)",
        "func[",
        "exit",
        "18446744073709551616",
        "s32",
        "addr_space_cast(r1, 0, 1)",
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let mut assembled = 0;
    for _ in 0..200_000 {
        let mut text = String::new();
        for _ in 0..1 + next(7) {
            text.push_str(pieces[next(pieces.len())]);
            if next(3) != 0 {
                text.push(' ');
            }
        }
        if let Ok(program) = parse_asm(&text, &NoNames) {
            let again = parse_asm(&format_asm(&program.insns, &NoNames), &NoNames).unwrap();
            assert_eq!(again.insns, program.insns, "{text}");
            assembled += usize::from(!program.insns.is_empty());
        }
    }
    assert!(assembled > 500, "{assembled}");
}
