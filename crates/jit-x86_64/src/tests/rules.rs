//! Each rule of `fuse` and of the templates: the code that it writes, and its result against the model on random values.

use ring3_isa::Insn;

use super::{
    Rng, around, asm, assert_agrees, compile_test, encoding::text_of, link, linked_with, slots,
};
use crate::{CpuFeatures, Options};

/// The code of the slots of `text` (without prologue and epilogue), one instruction a line, and the rules that were used.
fn code(text: &str, cpu: CpuFeatures) -> (String, Vec<&'static str>) {
    let body = asm(text);
    let len = slots(&body).len();
    let mut insns = body;
    // Everything is read afterwards, so that nothing is left out.
    super::store_all(&mut insns);
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
        if line.slot.is_some_and(|slot| (slot as usize) < len) {
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
fn values_used_once_are_operands() {
    let check = |before: &str, after: &str, rules: &[&str]| {
        let (text, used) = code(before, ALL);
        assert_eq!((text.as_str(), used.as_slice()), (after, rules), "{before}");
        let body = before.replace("r10 -", "r9 +");
        agrees(&format!("r9 = *(u64 *)(r10 -8)\n {body}\n r9 = 0"));
    };
    check(
        "r2 = *(u64 *)(r10 -8)\n r3 += r2\n r2 = 1",
        "add rdx,[rbp-8]; mov esi,1",
        &["load-operand"],
    );
    check(
        "r2 = *(u32 *)(r10 -8)\n w3 ^= w2\n r2 = 1",
        "xor edx,[rbp-8]; mov esi,1",
        &["load-operand"],
    );
    check(
        "r2 = *(u64 *)(r10 -8)\n r3 *= r2\n r2 = 1",
        "imul rdx,[rbp-8]; mov esi,1",
        &["load-operand"],
    );
    // Widths differ; the value is read again.
    check(
        "r2 = *(u32 *)(r10 -8)\n r3 += r2\n r2 = 1",
        "mov esi,[rbp-8]; add rdx,rsi; mov esi,1",
        &[],
    );
    check(
        "r2 = *(u64 *)(r10 -8)\n r3 += r2",
        "mov rsi,[rbp-8]; add rdx,rsi",
        &[],
    );
    check(
        "r2 = *(u8 *)(r10 -8)\n if r2 > 200 goto +1\n r4 += 2\n r2 = 1",
        "cmp byte ptr [rbp-8],0C8h; ja short 000000000000000Ah; add rcx,2; mov esi,1",
        &["load-operand"],
    );
    check(
        "r2 = *(u8 *)(r10 -8)\n if r2 s> 200 goto +1\n r4 += 2\n r2 = 1",
        "movzx esi,byte ptr [rbp-8]; cmp rsi,0C8h; jg short 000000000000000Dh; add rcx,2; mov esi,1",
        &[],
    );
    check(
        "r2 = *(u64 *)(r10 -8)\n if r2 s> r3 goto +1\n r4 += 2\n r2 = 1",
        "cmp [rbp-8],rdx; jg short 000000000000000Ah; add rcx,2; mov esi,1",
        &["load-operand"],
    );
    check(
        "r2 = *(u64 *)(r10 -8)\n if r3 > r2 goto +1\n r4 += 2\n r2 = 1",
        "cmp rdx,[rbp-8]; ja short 000000000000000Ah; add rcx,2; mov esi,1",
        &["load-operand"],
    );
    check(
        "r2 = *(u32 *)(r10 -8)\n if w2 == -5 goto +1\n r4 += 2\n r2 = 1",
        "cmp dword ptr [rbp-8],0FFFFFFFBh; je short 000000000000000Ah; add rcx,2; mov esi,1",
        &["load-operand"],
    );
}

#[test]
fn sums_used_once_are_addresses() {
    let check = |before: &str, after: &str, rules: &[&str]| {
        let (text, used) = code(before, ALL);
        assert_eq!((text.as_str(), used.as_slice()), (after, rules), "{before}");
        // r9 is the context, r3 a small number.
        agrees(&format!(
            "r9 = *(u64 *)(r10 -8)\n r3 = 16\n {}\n r9 = 0\n r2 = 0\n r3 = 0",
            before.replace("r7", "r9")
        ));
    };
    check(
        "r2 = r7\n r2 += r3\n r4 = *(u8 *)(r2 +1)\n r2 = 0",
        "movzx ecx,byte ptr [r13+rdx+1]; xor esi,esi",
        &["indexed"],
    );
    check(
        "r2 = r7\n r2 += r3\n r2 = *(u64 *)(r2 +0)",
        "mov rsi,[r13+rdx]",
        &["indexed"],
    );
    check(
        "r2 = r7\n r2 += r3\n *(u16 *)(r2 +2) = r4\n r2 = 0",
        "mov [r13+rdx+2],cx; xor esi,esi",
        &["indexed"],
    );
    check(
        "r2 = r7\n r2 += r3\n r4 = *(u8 *)(r2 +1)",
        "lea rsi,[r13+rdx]; movzx ecx,byte ptr [rsi+1]",
        &["lea"],
    );
    // The sum is stored: it is read.
    check(
        "r2 = r7\n r2 += r3\n *(u64 *)(r2 +2) = r2\n r2 = 0\n *(u64 *)(r7 +18) = r2",
        "lea rsi,[r13+rdx]; mov [rsi+2],rsi; xor esi,esi; mov [r13+12h],rsi",
        &["lea"],
    );
    check(
        "r3 += r7\n r4 = *(u32 *)(r3 +0)\n r3 = 0",
        "mov ecx,[rdx+r13]; xor edx,edx",
        &["indexed"],
    );
}

#[test]
fn low_bytes_compare_as_bytes() {
    let (text, used) = code("r1 &= 255\n if r1 > 9 goto +1\n r0 += 2\n r1 = 2", ALL);
    assert_eq!(
        (text.as_str(), used.as_slice()),
        (
            "cmp dil,9; ja short 000000000000000Ah; add rax,2; mov edi,2",
            &["byte-compare"][..]
        )
    );
    for op in ["==", "!=", ">", ">=", "<", "<=", "s>", "s<"] {
        for imm in [0, 9, 0x80, 0xff, 0x100, -1] {
            for register in ["r0", "r1", "r7"] {
                agrees(&format!(
                    "{register} &= 255\n if {register} {op} {imm} goto +1\n r3 = 1\n {register} = 2"
                ));
            }
        }
    }
}

#[test]
fn conditions_select() {
    expect(
        "if r1 > r2 goto +1\n r1 = r2",
        "cmp rdi,rsi; cmovbe rdi,rsi",
        &["select"],
    );
    expect(
        "r1 = 1\n if r2 == 5 goto +1\n r1 = 0",
        "xor edi,edi; cmp rsi,5; sete dil",
        &["set-condition"],
    );
    expect(
        "w7 = 0\n if w2 s< w3 goto +1\n w7 = 1",
        "xor r13d,r13d; cmp esi,edx; setge r13b",
        &["set-condition"],
    );
    // The value is compared.
    expect(
        "r1 = 1\n if r1 == 5 goto +1\n r1 = 0",
        "mov edi,1; xor r9d,r9d; cmp rdi,5; cmovne rdi,r9",
        &["select"],
    );
    expect(
        "if w1 s> 9 goto +1\n w2 = -1",
        "mov r9d,0FFFFFFFFh; cmp edi,9; cmovle rsi,r9",
        &["select"],
    );
    for op in ["==", "!=", ">", ">=", "<", "<=", "s>", "s>=", "s<", "s<="] {
        agrees(&format!("r2 = 7\n if r1 {op} r2 goto +1\n r1 = r2"));
        agrees(&format!("if w1 {op} w2 goto +1\n r3 = r2"));
        agrees(&format!("r3 = 1\n if r1 {op} 77 goto +1\n r3 = 0"));
        agrees(&format!(
            "r3 = r1\n w0 = 0\n if w1 {op} w3 goto +1\n w0 = 1"
        ));
    }
}

#[test]
fn what_nobody_reads_is_not_computed() {
    let text = |text: &str| {
        let mut insns = asm(text);
        insns.push(Insn::Exit);
        let compiled = compile_test(&link(&slots(&insns)), &Options::default());
        let lines = text_of(&compiled.text().bytes(), 0);
        let insns: Vec<_> = lines
            .lines()
            .filter_map(|line| line.trim().split_once("  "))
            .map(|(_, insn)| insn)
            .collect();
        let end = insns.iter().position(|insn| *insn == "ret").expect("ret");
        insns[1..end].join("; ")
    };
    assert_eq!(text("r1 = 5\n r0 = 7"), "mov eax,7");
    // A chain of computations, of which the last is not read.
    assert_eq!(
        text("r2 = 0x123456789a ll\n r2 += r1\n r2 /= 7\n r0 = 7"),
        "mov eax,7"
    );
    assert_eq!(
        text("r2 = 5\n if r1 == 3 goto +1\n r2 = 6\n r0 = 7"),
        "cmp rdi,3; je short 000000000000000Bh; mov eax,7"
    );
    // Read on the way back.
    assert_eq!(
        text("r2 = 5\n r3 = 9\n r0 = r2\n r2 += 1\n r1 += -1\n if r1 != 0 goto -4"),
        "mov esi,5; mov rax,rsi; inc rsi; dec rdi; jne short 000000000000000Ah"
    );
}

#[test]
fn small_leaves_stand_in_place_of_their_calls() {
    let text = "
        r1 = 3
        r2 = 4
        call f
        r6 = r0
        r1 = r6
        r2 = 10
        call f
        r0 += r6
        exit
    f:  r1 ^= r2
        r0 = r1
        r0 *= 5
        exit";
    let program = ring3_isa::parse_asm(text, &ring3_isa::NoNames)
        .expect("assembles")
        .insns;
    let linked = link(&program);
    let compiled = compile_test(&linked, &Options::default());
    assert!(compiled.is_inlined(1) && !compiled.is_inlined(0));
    let main = compiled.function_address(1) - compiled.function_address(0);
    let code = text_of(&compiled.text().bytes()[..main], 0);
    let tail_entry = code.matches("call").count();
    assert_eq!(tail_entry, 1, "{code}");
    let context = [0; super::MEMORY_BYTES];
    assert_eq!(
        super::execute(&compiled, context),
        super::model(&program, super::mix, context)
    );
    // A global function may be replaced, so it is called; so is one with a stack.
    let mut global = linked.clone();
    let mut verified = (*linked.program).clone();
    verified.subprogs[1].is_global = true;
    global.program = std::sync::Arc::new(verified);
    assert!(!compile_test(&global, &Options::default()).is_inlined(1));
    let with_stack = text.replace("r1 ^= r2", "*(u64 *)(r10 -8) = r1\n r1 ^= r2");
    let program = ring3_isa::parse_asm(&with_stack, &ring3_isa::NoNames)
        .expect("assembles")
        .insns;
    assert!(!compile_test(&link(&program), &Options::default()).is_inlined(1));
}

#[test]
fn jumps_to_the_end_of_a_loop_are_its_condition() {
    let text = "
        r0 = 0
        r2 = r1
        r1 = 10
    l:  if r1 & 1 goto odd
        r0 += 3
        goto next
    odd: r0 *= 5
    next: r1 += -1
        if r1 != 0 goto l
        exit";
    let program = ring3_isa::parse_asm(text, &ring3_isa::NoNames)
        .expect("assembles")
        .insns;
    let compiled = compile_test(&link(&program), &Options::default());
    let code = text_of(&compiled.text().bytes(), 0);
    assert_eq!(code.matches("dec rdi").count(), 2, "{code}");
    let context = [0; super::MEMORY_BYTES];
    assert_eq!(
        super::execute(&compiled, context),
        super::model(&program, super::mix, context)
    );
}

#[test]
fn a_jump_into_a_run_keeps_its_parts() {
    let (text, used) = code("if r1 & 5 goto +1\n r2 = r4\n r2 += -16", ALL);
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

#[test]
fn ends_of_a_range_are_one_comparison() {
    let (text, used) = code("if w1 < 97 goto +2\n if w1 > 122 goto +1\n r0 += 2", ALL);
    assert_eq!(
        (text.as_str(), used.as_slice()),
        (
            "lea r9d,[rdi-61h]; cmp r9d,19h; ja short 000000000000000Eh; add rax,2",
            &["range"][..]
        )
    );
    for (low, high) in [(0, 0), (5, 4), (5, 5), (9, 0x7fff_ffff), (0, -1), (-1, 7)] {
        for register in ["r0", "w0", "r1", "w7"] {
            agrees(&format!(
                "if {register} < {low} goto +2\n if {register} > {high} goto +1\n r3 = 1"
            ));
            agrees(&format!(
                "if {register} > {high} goto +2\n if {register} < {low} goto +1\n r3 = 1"
            ));
        }
    }
    // Two ways out.
    let (_, used) = code("if r1 < 97 goto +1\n if r1 > 122 goto +1\n r0 += 2", ALL);
    assert!(!used.contains(&"range"), "{used:?}");
}
