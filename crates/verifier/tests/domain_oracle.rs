//! The scalar domain against Linux: transfers that a kernel's verifier log recorded, recomputed.
//!
//! `fixtures/oracle/domain/*.txt` hold one transfer a line, registers in the log's own words:
//!
//! ```text
//! alu  INSN | DST | SRC or - | DST after
//! fill INSN | - | spilled register | loaded register
//! jmp  INSN | DST | SRC or - | DST & SRC where it falls through, or - | DST & SRC where it jumps, or -
//! broken INSN | DST | SRC or - | complaint & complaint
//! ```
//!
//! `RING3_DOMAIN_CASES=FILE` compares one more file, for runs over many random cases.

use ring3_isa::{Insn, Operand, RawInsn, Width, decode};
use ring3_verifier::domain::{BrokenBounds, CondOp, Scalar, Taken, Tnum};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Reads a number of the log: decimal, negative decimal or hexadecimal.
fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None if text.starts_with('-') => text.parse::<i64>().unwrap() as u64,
        None => text.parse().unwrap(),
    }
}

/// Reads a register of the log: a number, or `scalar(smin=umin=1,...,var_off=(0x0; 0xff))`.
fn register(text: &str) -> Scalar {
    let Some(fields) = text
        .strip_prefix("scalar(")
        .and_then(|rest| rest.strip_suffix(')'))
    else {
        return Scalar::known(number(text));
    };
    let mut scalar = Scalar::UNKNOWN;
    for field in fields.split(',').filter(|field| !field.is_empty()) {
        if let Some(parts) = field.strip_prefix("var_off=(") {
            let (value, mask) = parts.trim_end_matches(')').split_once("; ").unwrap();
            scalar.var_off = Tnum {
                value: number(value),
                mask: number(mask),
            };
            continue;
        }
        let (names, value) = field.rsplit_once('=').unwrap();
        let value = number(value);
        for name in names.split('=') {
            match name {
                "smin" => scalar.smin = value as i64,
                "smax" => scalar.smax = value as i64,
                "umin" => scalar.umin = value,
                "umax" => scalar.umax = value,
                "smin32" => scalar.s32_min = value as i32,
                "smax32" => scalar.s32_max = value as i32,
                "umin32" => scalar.u32_min = value as u32,
                "umax32" => scalar.u32_max = value as u32,
                _ => panic!("unknown field {name} in {text}"),
            }
        }
    }
    scalar
}

/// Whether the log would print `ours` as `text`. Of a number it prints no ranges, so these are not compared then.
fn prints_as(ours: Scalar, text: &str) -> bool {
    let theirs = register(text);
    if theirs.is_const() {
        ours.var_off == theirs.var_off
    } else {
        ours == theirs
    }
}

fn instruction(hex: &str) -> Insn {
    let bytes: Vec<u8> = (0..8)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    decode(&[RawInsn::from_bytes(bytes.try_into().unwrap())], 0)
        .unwrap()
        .0
}

/// What the verifier does with a register whose parts contradict each other.
fn settled(scalar: Scalar) -> Scalar {
    if scalar.check_bounds().is_err() {
        scalar.with_ranges_unknown()
    } else {
        scalar
    }
}

fn source(operand: Operand, src: Option<Scalar>) -> Scalar {
    match operand {
        Operand::Reg(_) => src.expect("a register operand has a state"),
        Operand::Imm(imm) => Scalar::known(i64::from(imm) as u64),
    }
}

fn alu(insn: Insn, dst: Scalar, src: Option<Scalar>) -> (String, Scalar) {
    let (name, result) = match insn {
        Insn::Alu {
            width,
            op,
            src: operand,
            ..
        } => {
            let src = source(operand, src);
            let dst = dst
                .fork_of_sign_mask(op, &src)
                .map_or(dst, |fork| fork.ones);
            (format!("{op:?} {width:?}"), dst.alu(op, &src, width))
        }
        Insn::Neg { width, .. } => (format!("Neg {width:?}"), dst.neg(width)),
        Insn::Movsx { width, from, .. } => {
            let src = src.expect("movsx has a source");
            let result = match width {
                Width::W64 => src.sign_extend(from),
                Width::W32 => src.sign_extend_half(from),
            };
            (format!("Movsx {width:?} {from:?}"), result)
        }
        Insn::Endian { op, size, .. } => (format!("{op:?} {size:?}"), dst.endian(op, size)),
        other => panic!("not arithmetic: {other:?}"),
    };
    (name, settled(result))
}

fn fill(insn: Insn, spilled: Scalar) -> (String, Scalar) {
    let Insn::Load { size, mode, .. } = insn else {
        panic!("not a load: {insn:?}")
    };
    let result = match mode {
        ring3_isa::LoadMode::ZeroExtend => spilled.coerce_to_size(size),
        ring3_isa::LoadMode::SignExtend => spilled.sign_extend(size),
    };
    (format!("fill {mode:?} {size:?}"), result)
}

/// The registers on both ways of a conditional jump, in the words of a case's last two fields.
fn jmp(insn: Insn, dst: Scalar, src: Option<Scalar>) -> (String, [Option<(Scalar, Scalar)>; 2]) {
    let Insn::Jmp {
        width,
        op,
        src: operand,
        dst: dst_reg,
        ..
    } = insn
    else {
        panic!("not a jump: {insn:?}")
    };
    let rhs = source(operand, src);
    let name = format!(
        "{op:?} {width:?}{}",
        if src.is_some() { " reg" } else { "" }
    );
    let holds = CondOp::from(op);
    let way = |op: CondOp| {
        if operand == Operand::Reg(dst_reg) {
            let narrowed = settled(dst.refine_by_itself(op, width));
            return Some((narrowed, narrowed));
        }
        let (mut lhs, mut rhs) = (dst, rhs);
        Scalar::refine(&mut lhs, &mut rhs, op, width);
        Some((settled(lhs), settled(rhs)))
    };
    let ways = match Scalar::branch_taken(&dst, &rhs, holds, width) {
        Taken::Always => [None, Some((dst, rhs))],
        Taken::Never => [Some((dst, rhs)), None],
        Taken::Unknown => [way(holds.negate()), way(holds)],
    };
    (name, ways)
}

/// The kernel's complaints about the registers on both ways of a conditional jump: the way that jumps first.
fn broken(insn: Insn, dst: Scalar, src: Option<Scalar>) -> (String, String) {
    let Insn::Jmp {
        width,
        op,
        src: operand,
        dst: dst_reg,
        ..
    } = insn
    else {
        panic!("not a jump: {insn:?}")
    };
    let holds = CondOp::from(op);
    let mut complaints = Vec::new();
    for (way, op) in [("true", holds), ("false", holds.negate())] {
        let (mut lhs, mut rhs) = (dst, source(operand, src));
        if operand == Operand::Reg(dst_reg) {
            lhs = lhs.refine_by_itself(op, width);
            rhs = lhs;
        } else {
            Scalar::refine(&mut lhs, &mut rhs, op, width);
        }
        for place in ["reg1", "reg2"] {
            let scalar = if place == "reg1" { lhs } else { rhs };
            if let Err(violation) = scalar.check_bounds() {
                complaints.push(format!(
                    "({way}_{place}): {}",
                    BrokenBounds { violation, scalar }
                ));
                if operand == Operand::Reg(dst_reg) {
                    rhs = settled(scalar);
                }
            }
        }
    }
    ("broken".to_owned(), complaints.join(" & "))
}

#[derive(Default)]
struct Tally {
    equal: BTreeMap<String, usize>,
    differing: BTreeMap<String, Vec<String>>,
}

impl Tally {
    fn count(&mut self, name: String, line: &str, ours: String, equal: bool) {
        if equal {
            *self.equal.entry(name).or_default() += 1;
        } else {
            self.differing
                .entry(name)
                .or_default()
                .push(format!("{line}\n     ours {ours}"));
        }
    }
}

fn compare_file(path: &Path, tally: &mut Tally) {
    let text = std::fs::read_to_string(path).unwrap();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let fields: Vec<&str> = line.split(" | ").collect();
        let (kind, hex) = fields[0].split_once(' ').unwrap();
        let insn = instruction(hex);
        if ["ctx", "fp0", "c"]
            .iter()
            .any(|pointer| fields.contains(pointer))
            && fields[1] != "c"
        {
            continue;
        }
        let dst = if fields[1] == "-" || fields[1] == "c" {
            Scalar::UNKNOWN
        } else {
            register(fields[1])
        };
        let src = (fields[2] != "-").then(|| register(fields[2]));
        match kind {
            "alu" => {
                let (name, ours) = alu(insn, dst, src);
                tally.count(name, line, format!("{ours:?}"), prints_as(ours, fields[3]));
            }
            "fill" => {
                let (name, ours) = fill(insn, src.unwrap());
                tally.count(name, line, format!("{ours:?}"), prints_as(ours, fields[3]));
            }
            "broken" => {
                let (name, ours) = broken(insn, dst, src);
                let equal = ours == fields[3];
                tally.count(name, line, ours, equal);
            }
            "jmp" => {
                let (name, ours) = jmp(insn, dst, src);
                let equal = ours.iter().zip(&fields[3..5]).all(|(ours, theirs)| {
                    match (ours, theirs.split_once(" & ")) {
                        (None, None) => true,
                        (Some((dst, src)), Some((their_dst, their_src))) => {
                            prints_as(*dst, their_dst)
                                && (their_src == "-" || prints_as(*src, their_src))
                        }
                        _ => false,
                    }
                });
                tally.count(name, line, format!("{ours:?}"), equal);
            }
            _ => panic!("unknown kind {kind}"),
        }
    }
}

#[test]
fn every_transfer_equals_the_kernels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/domain");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.extend(std::env::var_os("RING3_DOMAIN_CASES").map(PathBuf::from));
    let mut tally = Tally::default();
    for file in &files {
        compare_file(file, &mut tally);
    }
    for (name, count) in &tally.equal {
        println!("{name}: {count} equal");
    }
    for (name, cases) in &tally.differing {
        println!("{name}: {} DIFFER", cases.len());
        for case in cases.iter().take(3) {
            println!("   {case}");
        }
    }
    let equal: usize = tally.equal.values().sum();
    println!("{equal} equal in {} files", files.len());
    assert!(
        tally.differing.is_empty(),
        "the domain differs from the kernel"
    );
    assert!(equal > 500, "too few cases: {equal}");
}
