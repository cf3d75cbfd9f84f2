//! Each rule of `fuse` and of the templates: the code that it writes, and its result against the model on random values.

use ring3_isa::Insn;

use super::{
    Rng, around, asm, assert_agrees, compile_test, encoding::text_of, link, linked_with, slots,
};
use crate::{CpuFeatures, Options};

/// The code of the slots of `text` (without prologue and epilogue), one instruction a line, and the rules that were used.
fn code(text: &str, cpu: CpuFeatures) -> (String, Vec<&'static str>) {
    let mut insns = asm(text);
    insns.push(Insn::Exit);
    let program = slots(&insns);
    let compiled = compile_test(
        &link(&program),
        &Options {
            cpu,
            ..Options::default()
        },
    );
    let mut lines = Vec::new();
    for line in compiled.listing().lines {
        if line
            .slot
            .is_some_and(|slot| (slot as usize) < program.len() - 1)
        {
            let text = text_of(&line.bytes, 0);
            lines.extend(text.lines().map(|line| {
                line.trim()
                    .split_once("  ")
                    .map_or("", |(_, insn)| insn)
                    .to_owned()
            }));
        }
    }
    let used = compiled
        .rule_hits()
        .into_iter()
        .filter(|(_, hits)| *hits != 0)
        .map(|(name, _)| name)
        .collect();
    (lines.join("; "), used)
}

const ALL: CpuFeatures = CpuFeatures {
    bmi2: true,
    movbe: true,
};

/// Before, after with all features, rules.
#[track_caller]
fn expect(before: &str, after: &str, rules: &[&str]) {
    let (text, used) = code(before, ALL);
    assert_eq!(text, after, "{before}");
    assert_eq!(used, rules, "{before}");
    agrees(before);
}

/// The result is the model's, for many values of all registers.
fn agrees(body: &str) {
    let mut rng = Rng(body.len() as u64);
    for _ in 0..20 {
        let values = std::array::from_fn(|_| rng.value());
        let context = std::array::from_fn(|_| rng.next() as u8);
        assert_agrees(&around(&values, &asm(body)), context, &|| {
            format!("{body} on {values:x?}")
        });
    }
}

#[test]
fn move_and_addition_are_one_lea() {
    expect("r2 = r4\n r2 += -16", "lea rsi,[rcx-10h]", &["lea"]);
    expect("r2 = r4\n r2 -= 300", "lea rsi,[rcx-12Ch]", &["lea"]);
    expect("w2 = w7\n w2 += 5", "lea esi,[r13+5]", &["lea"]);
    expect("r2 = r1\n r2 += r3", "lea rsi,[rdi+rdx]", &["lea"]);
    expect("r2 = r7\n r2 += r7", "lea rsi,[r13+r13]", &["lea"]);
    // The sum's own register as addend is the moved value.
    expect("r2 = r1\n r2 += r2", "mov rsi,rdi; add rsi,rsi", &[]);
}

#[test]
fn move_and_multiplication_are_one() {
    expect("r2 = r1\n r2 *= 10", "imul rsi,rdi,0Ah", &["multiply-into"]);
    expect(
        "w2 = w1\n w2 *= 1000",
        "imul esi,edi,3E8h",
        &["multiply-into"],
    );
    expect("r2 = r1\n r2 *= 8", "mov rsi,rdi; shl rsi,3", &[]);
}

#[test]
fn pairs_of_shifts_are_extensions() {
    expect("r1 <<= 32\n r1 >>= 32", "mov edi,edi", &["extend"]);
    expect("r1 <<= 32\n r1 s>>= 32", "movsxd rdi,edi", &["extend"]);
    expect("r1 <<= 48\n r1 >>= 48", "movzx edi,di", &["extend"]);
    expect("r1 <<= 56\n r1 s>>= 56", "movsx rdi,dil", &["extend"]);
    expect(
        "r2 = r1\n r2 <<= 32\n r2 >>= 32",
        "mov esi,edi",
        &["extend"],
    );
    expect("r1 <<= 31\n r1 >>= 31", "shl rdi,1Fh; shr rdi,1Fh", &[]);
}

#[test]
fn rotations_are_rotates() {
    expect(
        "r2 = r1\n r2 <<= 13\n r1 >>= 51\n r1 |= r2",
        "mov rsi,rdi; shl rsi,0Dh; ror rdi,33h",
        &["rotate"],
    );
    expect(
        "r2 = r1\n r1 <<= 13\n r2 >>= 51\n r1 |= r2",
        "mov rsi,rdi; shr rsi,33h; ror rdi,33h",
        &["rotate"],
    );
    expect(
        "r2 = r1\n r1 <<= 13\n r2 >>= 51\n r2 |= r1",
        "rorx rsi,rdi,33h; shl rdi,0Dh",
        &["rotate"],
    );
    expect(
        "w2 = w1\n w2 <<= 5\n w1 >>= 27\n w2 |= w1",
        "rorx esi,edi,1Bh; shr edi,1Bh",
        &["rotate"],
    );
    expect(
        "r3 = r1\n r3 >>= 51\n r2 = r1\n r2 <<= 13\n r2 |= r3",
        "mov rdx,rdi; shr rdx,33h; rorx rsi,rdi,33h",
        &["rotate"],
    );
    // The temporary is overwritten: nobody reads the shifted value.
    expect(
        "w3 = w1\n w3 >>= 27\n w2 = w1\n w2 <<= 5\n w2 |= w3\n r3 = 7",
        "rorx esi,edi,1Bh; mov edx,7",
        &["rotate"],
    );
    expect(
        "r2 = r1\n r1 <<= 13\n r2 >>= 51\n r1 |= r2\n r2 = 7",
        "ror rdi,33h; mov esi,7",
        &["rotate"],
    );
    // Counts that do not add up to the width.
    expect(
        "r2 = r1\n r2 <<= 13\n r1 >>= 50\n r1 |= r2",
        "mov rsi,rdi; shl rsi,0Dh; shr rdi,32h; or rdi,rsi",
        &[],
    );
}

#[test]
fn loads_are_swapped_as_they_load() {
    let check = |before: &str, after: &str, rules: &[&str]| {
        let (text, used) = code(before, ALL);
        assert_eq!((text.as_str(), used.as_slice()), (after, rules));
        let body = format!(
            "r2 = *(u64 *)(r10 -8)\n {}\n r2 = 0",
            before.replace("r10 -8", "r2 +8")
        );
        agrees(&body);
    };
    check(
        "r1 = *(u32 *)(r10 -8)\n r1 = be32 r1",
        "movbe edi,[rbp-8]",
        &["swap-load"],
    );
    check(
        "r1 = *(u64 *)(r10 -8)\n r1 = bswap64 r1",
        "movbe rdi,[rbp-8]",
        &["swap-load"],
    );
    check(
        "r1 = *(u16 *)(r10 -8)\n r1 = be16 r1",
        "movzx edi,word ptr [rbp-8]; rol di,8",
        &["swap-load"],
    );
    check(
        "r1 = *(u32 *)(r10 -8)\n w1 = w1",
        "mov edi,[rbp-8]",
        &["drop-zext"],
    );
    check(
        "r1 = *(u32 *)(r10 -8)\n r1 = be16 r1",
        "mov edi,[rbp-8]; rol di,8; movzx edi,di",
        &[],
    );
    let (text, used) = code(
        "r1 = *(u32 *)(r10 -8)\n r1 = be32 r1",
        CpuFeatures::BASELINE,
    );
    assert_eq!(
        (text.as_str(), used.len()),
        ("mov edi,[rbp-8]; bswap edi", 0)
    );
}

#[test]
fn extensions_of_what_is_extended_are_dropped() {
    expect("w1 += w2\n w1 = w1", "add edi,esi", &["drop-zext"]);
    expect("r1 += r2\n w1 = w1", "add rdi,rsi; mov edi,edi", &[]);
}

#[test]
fn comparisons_use_the_flags_that_are_there() {
    let (text, used) = code("r1 &= 7\n if r1 == 0 goto +1\n r0 = 1", ALL);
    assert_eq!(
        (text.as_str(), used.as_slice()),
        (
            "and edi,7; je short 000000000000000Ah; mov eax,1",
            &["flags"][..]
        )
    );
    for body in [
        "r1 &= 7",
        "r1 -= 1",
        "w1 -= r2",
        "r1 ^= r2",
        "r1 += 255",
        "r1 &= 255",
        "r1 |= 0",
    ] {
        for test in ["r1 == 0", "r1 != 0"] {
            let wide = !body.starts_with('w');
            let (body, test) = if wide {
                (body.to_owned(), test.to_owned())
            } else {
                ("w1 -= w2".into(), test.replace('r', "w"))
            };
            agrees(&format!("r2 = r1\n {body}\n if {test} goto +1\n r0 = 1"));
            agrees(&format!("r1 = 1\n {body}\n if {test} goto +1\n r0 = 1"));
        }
    }
}

#[test]
fn a_jump_into_a_run_keeps_its_parts() {
    let (text, used) = code("if r1 == 5 goto +1\n r2 = r4\n r2 += -16", ALL);
    assert!(
        text.ends_with("mov rsi,rcx; add rsi,0FFFFFFFFFFFFFFF0h"),
        "{text}"
    );
    assert!(used.is_empty());
}

#[test]
fn constants_divide_by_multiplication() {
    let (text, used) = code("w1 /= 10", ALL);
    assert_eq!(
        text,
        "mov edi,edi; mov r9d,0CCCCCCCDh; imul r9,rdi; shr r9,23h; mov edi,r9d"
    );
    assert_eq!(used, ["constant-divisor"]);
    let (text, _) = code("r1 /= 10", ALL);
    assert!(text.contains("mulx") && !text.contains("div"), "{text}");
    let (text, _) = code("r1 %= 1000", ALL);
    assert!(
        text.contains("shr rdx,3; mulx") && !text.contains("div"),
        "{text}"
    );
    let (text, _) = code("r1 /= 7", ALL);
    assert!(text.contains("mulx") && !text.contains("div"), "{text}");
    let mut rng = Rng(77);
    for _ in 0..150 {
        let divisor = (rng.next() >> (33 + rng.below(30))) as i32;
        let multiple = (rng.next() / (divisor.max(1) as u64))
            .wrapping_mul(divisor as u64)
            .wrapping_sub(rng.below(2) as u64);
        agrees(&format!(
            "r1 /= {divisor}\n w2 /= {divisor}\n r3 %= {divisor}\n w4 %= {divisor}"
        ));
        agrees(&format!(
            "r1 = {multiple:#x} ll\n r3 = r1\n r2 = r1\n r1 /= {divisor}\n r3 %= {divisor}\n w2 /= {divisor}"
        ));
    }
    let (text, _) = code("r1 %= 16", ALL);
    assert_eq!(text, "and edi,0Fh");
}

#[test]
fn frames_are_as_small_as_the_function() {
    let text = |body: &str| {
        let linked = linked_with(&asm(&format!("{body}\n exit")), &[0], Vec::new());
        let compiled = compile_test(
            &linked,
            &Options {
                cpu: ALL,
                ..Options::default()
            },
        );
        let lines = text_of(&compiled.text().bytes(), 0);
        let insns: Vec<_> = lines
            .lines()
            .filter_map(|line| line.trim().split_once("  "))
            .map(|(_, insn)| insn)
            .collect();
        let end = insns
            .iter()
            .position(|insn| *insn == "ret")
            .expect("a return");
        insns[1..=end].join("; ")
    };
    assert_eq!(text("r0 = 1"), "mov eax,1; ret");
    assert_eq!(
        text("r6 = 1\n r0 = r6"),
        "push rbx; mov ebx,1; mov rax,rbx; pop rbx; ret"
    );
    // A leaf's stack is the red zone.
    assert_eq!(
        text("*(u64 *)(r10 -8) = 1\n r0 = 1"),
        "push rbp; mov rbp,rsp; mov qword ptr [rbp-8],1; mov eax,1; pop rbp; ret"
    );
}
