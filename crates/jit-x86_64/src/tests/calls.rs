//! Helper calls, callbacks, exceptions, packet loads, probing loads, arenas, inline lookups, veneers.

use ring3_isa::{Insn, InternalInsn, LoadMode, MemSize, Reg};
use ring3_os::map::{Prot, Region};
use ring3_runtime::{
    Arena, CallKind, CallTarget, CallbackRef, Clobbers, InlineCall, Linked, Site, Target,
};

use super::{MEMORY_BYTES, asm, compile_test, execute, linked_with, mix, variants};
use crate::{JitError, Options, compile};

fn site(slot: u32, target: Target) -> Site {
    Site { slot, target }
}

fn run_both(linked: &Linked, context: [u8; MEMORY_BYTES]) -> (u64, [u8; MEMORY_BYTES]) {
    let results = variants().map(|(_, options)| execute(&compile_test(linked, &options), context));
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    results[0]
}

/// `bpf_loop`-like: calls back with 0, 1, ... until it returns 1 or the count is reached.
unsafe extern "C" fn repeat(count: u64, callback: u64, ctx: u64, _: u64, _: u64) -> u64 {
    let callback = CallbackRef::from_reg(callback).expect("a callback");
    for index in 0..count {
        // SAFETY: tests pass the address of a function of the running program, which takes two numbers.
        if unsafe { callback.call([index, ctx, 0, 0, 0]) } == 1
            || ring3_runtime::exception::is_pending()
        {
            return index + 1;
        }
    }
    count
}

#[test]
fn helpers_call_functions_of_the_program() {
    let text = "
        r6 = r1
        r7 = 7
        r8 = 8
        r9 = 9
        r3 = r1
        r1 = 10
        r2 = func[step] ll
        call #181
        r0 += r7
        r0 += r8
        r0 += r9
        exit
    step:
        r6 = *(u64 *)(r2 +0)
        r6 += r1
        *(u64 *)(r2 +0) = r6
        r7 = 0
        r8 = 0
        r9 = 0
        r0 = 0
        if r1 != 6 goto +1
        r0 = 1
        exit";
    let call = CallTarget {
        kind: CallKind::TakesCallback,
        ..CallTarget::plain(repeat)
    };
    let linked = linked_with(&asm(text), &[0, 13], vec![site(8, Target::Call(call))]);
    let (r0, memory) = run_both(&linked, [0; MEMORY_BYTES]);
    assert_eq!(r0, 7 + 24);
    assert_eq!(memory[0], 1 + 2 + 3 + 4 + 5 + 6);
}

fn throw_site(slot: u32) -> Site {
    let call = CallTarget {
        kind: CallKind::Throw,
        ..CallTarget::plain(mix)
    };
    site(slot, Target::Call(call))
}

#[test]
fn an_exception_ends_the_program_from_a_subprogram() {
    let text = "
        r6 = 1
        r7 = r1
        call f
        r0 = 1
        exit
    f:  r6 = 5
        r7 = 6
        r8 = 7
        call g
        exit
    g:  r9 = 9
        r1 = 1234
        call #1
        exit";
    let linked = linked_with(&asm(text), &[0, 5, 10], vec![throw_site(12)]);
    let (r0, _) = run_both(&linked, [0; MEMORY_BYTES]);
    assert_eq!(r0, 1234);
    // With a callback, its result is the program's.
    let with_callback = format!("{text}\n r0 = r1\n r0 += 1\n exit");
    let mut linked = linked_with(&asm(&with_callback), &[0, 5, 10, 14], vec![throw_site(12)]);
    let mut program = (*linked.program).clone();
    program.exception_cb = Some(3);
    linked.program = std::sync::Arc::new(program);
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 1235);
}

#[test]
fn an_exception_in_a_callback_passes_through_the_helper() {
    let text = "
        r6 = r1
        r3 = r1
        r1 = 10
        r2 = func[step] ll
        call #181
        *(u64 *)(r6 +8) = 1
        r0 = 1
        exit
    step:
        *(u64 *)(r2 +0) = r1
        r0 = 0
        if r1 != 4 goto +2
        r1 = 99
        call #1
        exit";
    let call = CallTarget {
        kind: CallKind::TakesCallback,
        ..CallTarget::plain(repeat)
    };
    let mut linked = linked_with(
        &asm(text),
        &[0, 9],
        vec![site(5, Target::Call(call)), throw_site(13)],
    );
    let mut program = (*linked.program).clone();
    program.subprogs[1].is_callback = true;
    linked.program = std::sync::Arc::new(program);
    let (r0, memory) = run_both(&linked, [0; MEMORY_BYTES]);
    assert_eq!(r0, 99);
    assert_eq!(memory[0], 4);
    assert_eq!(memory[8], 0, "the main program did not go on");
    assert!(!ring3_runtime::exception::is_pending());
}

#[test]
fn calls_without_clobbers_keep_arguments() {
    let text = "r1 = 1\n r2 = 2\n r3 = 3\n r4 = 4\n r5 = 5\n call #1\n r0 = r1\n r0 += r2\n r0 += r3\n r0 += r4\n r0 += r5\n exit";
    let call = CallTarget {
        clobbers: Clobbers::None,
        ..CallTarget::plain(mix)
    };
    let linked = linked_with(&asm(text), &[0], vec![site(5, Target::Call(call))]);
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 15);
}

unsafe extern "C" fn load_packet(context: u64, offset: i64, size: u64) -> i64 {
    assert_eq!(context, 0x77);
    if !(0..=100).contains(&offset) {
        -14
    } else {
        offset * 10 + size as i64
    }
}

#[test]
fn packet_loads_call_out_and_end_on_failure() {
    let run = |text: &str, slot| {
        let linked = linked_with(
            &asm(text),
            &[0],
            vec![site(slot, Target::LoadPacket(load_packet))],
        );
        run_both(&linked, [0; MEMORY_BYTES]).0
    };
    assert_eq!(
        run("r6 = 0x77\n r0 = *(u16 *)skb[12]\n r0 += 1000\n exit", 1),
        1122
    );
    assert_eq!(
        run(
            "r6 = 0x77\n r7 = 4\n r0 = *(u32 *)skb[r7 + 5]\n r0 += 1000\n exit",
            2
        ),
        1094
    );
    assert_eq!(
        run(
            "r6 = 0x77\n r7 = -4\n r0 = *(u8 *)skb[r7 + 5]\n r0 += 1000\n exit",
            2
        ),
        1011
    );
    assert_eq!(
        run("r6 = 0x77\n r0 = *(u16 *)skb[101]\n r0 += 1000\n exit", 1),
        0
    );
    assert_eq!(
        run(
            "r6 = 0x77\n r7 = 4\n r0 = *(u32 *)skb[r7 - 5]\n r0 += 1000\n exit",
            2
        ),
        0
    );
}

#[test]
fn probing_loads_read_zero_where_they_fault() {
    let mut insns = asm("r0 = 55");
    for (number, size) in [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]
        .into_iter()
        .enumerate()
    {
        let dst = Reg::new(2 + number as u8).expect("a register");
        insns.extend(asm(&format!("r{} = -1", 2 + number)));
        insns.push(
            InternalInsn::ProbeLoad {
                size,
                mode: LoadMode::ZeroExtend,
                dst,
                src: Reg::R1,
                off: 8,
            }
            .into(),
        );
    }
    // Destination and base in one register.
    insns.extend(asm("r6 = r1"));
    insns.push(
        InternalInsn::ProbeLoad {
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            dst: Reg::R6,
            src: Reg::R6,
            off: 0,
        }
        .into(),
    );
    insns.extend(asm(
        "r0 = r2\n r0 += r3\n r0 += r4\n r0 += r5\n r0 += r6\n exit",
    ));
    let linked = linked_with(&insns, &[0], Vec::new());
    for (_, options) in variants() {
        let compiled = compile_test(&linked, &options);
        for bad in [0u64, 1 << 63, 0x1000, u64::MAX - 100] {
            // SAFETY: the program only probes.
            let r0 = unsafe { ring3_runtime::run(&compiled.entry(), bad) };
            assert_eq!(r0, 0, "{bad:#x}");
        }
        let mut memory = [0; MEMORY_BYTES];
        memory[8] = 3;
        assert_eq!(execute(&compiled, memory).0, 12);
    }
}

#[test]
fn arena_accesses_are_relative_and_faults_are_skipped() {
    let page = ring3_os::cpu::page_bytes();
    let region = Region::anonymous(2 * page, Prot::ReadWrite).expect("memory");
    region.protect(page, page, Prot::None).expect("protection");
    let base = region.as_ptr().expose_provenance() as u64;
    let load = |dst, src, off| {
        InternalInsn::ArenaLoad {
            size: MemSize::W,
            mode: LoadMode::ZeroExtend,
            dst,
            src,
            off,
        }
        .into()
    };
    let store = |dst, off, value| {
        InternalInsn::ArenaStore {
            size: MemSize::W,
            dst,
            off,
            src: ring3_isa::Operand::Imm(value),
        }
        .into()
    };
    let mut insns = asm(&format!("r1 = 0x7700000010 ll\n r2 = {page}"));
    insns.push(store(Reg::R1, 4, 41));
    insns.push(load(Reg::R0, Reg::R1, 4));
    insns.extend(asm("r3 = 5"));
    insns.push(store(Reg::R2, 0, 1));
    insns.push(load(Reg::R3, Reg::R2, 0));
    insns.extend(asm("r0 += r3\n r4 = 0x1234 ll"));
    insns.push(Insn::AddrSpaceCast {
        dst: Reg::R5,
        src: Reg::R4,
        dst_as: 1,
        src_as: 0,
    });
    insns.extend(asm("r5 >>= 32\n r0 += r5\n exit"));
    let mut linked = linked_with(&insns, &[0], Vec::new());
    linked.arena = Some(Arena {
        base,
        user_base: 0x5_0000_0000,
    });
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 41 + 5);
    linked.arena = None;
    let error = compile(&linked, &Options::default()).expect_err("no arena");
    assert!(matches!(error, JitError::Unsupported { .. }));
}

#[test]
fn lookups_in_place_agree_with_the_definition() {
    // With null checks behind: r0 dead or live where they go. What each gives for a missing element, and adds to an address.
    let call = "r2 = r1\n r1 = 0\n call #1\n ";
    let ends = [
        ("exit", 0, 0),
        (
            "if r0 == 0 goto +2\n r0 += 1\n exit\n r0 = 77\n exit",
            77,
            1,
        ),
        ("if r0 == 0 goto +1\n r0 += 1\n exit", 0, 1),
        (
            "if r0 != 0 goto +2\n r0 = 78\n exit\n r0 += 2\n exit",
            78,
            2,
        ),
        (
            "if r0 != 0 goto +2\n r0 += 79\n exit\n r0 += 2\n exit",
            79,
            2,
        ),
        // Somebody else jumps to the check.
        (
            "if r1 > 0 goto +0\n if r0 == 0 goto +1\n r0 += 1\n exit",
            0,
            1,
        ),
    ];
    for (stride, max_entries) in [(1u32, 5u32), (4, 7), (8, 3), (16, 9), (24, 200), (4096, 2)] {
        let base = 0x1_2345_6000u64;
        let inline = InlineCall::ArrayLookup {
            base,
            stride,
            max_entries,
            fallback: CallTarget::plain(mix),
        };
        for (end, missing, more) in ends {
            let linked = linked_with(
                &asm(&format!("{call}{end}")),
                &[0],
                vec![site(2, Target::Inline(inline))],
            );
            for key in [0, 1, max_entries - 1, max_entries, u32::MAX] {
                let mut memory = [0; MEMORY_BYTES];
                memory[..4].copy_from_slice(&key.to_le_bytes());
                let expected = if key < max_entries {
                    base + u64::from(key) * u64::from(stride) + more
                } else {
                    missing
                };
                assert_eq!(
                    run_both(&linked, memory).0,
                    expected,
                    "{stride} {max_entries} {key} {end}"
                );
            }
        }
    }
    let word = 0x1122_3344_5566u64;
    let address = std::ptr::from_ref(&word).expose_provenance() as u64;
    let fallback = CallTarget::plain(mix);
    for (inline, expected) in [
        (InlineCall::LoadU64 { address, fallback }, word),
        (InlineCall::ConstAddress { address, fallback }, address),
    ] {
        let linked = linked_with(
            &asm(&format!("{call}exit")),
            &[0],
            vec![site(2, Target::Inline(inline))],
        );
        assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, expected);
    }
}

unsafe extern "C" fn task_ids(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    ring3_sync::rcu::thread().task_ids()
}

#[test]
fn the_cpu_and_the_ids_are_those_of_the_read_section() {
    let fallback = CallTarget::plain(mix);
    let section = ring3_sync::rcu::read();
    let cpu = section.cpu() as u64;
    let linked = linked_with(
        &asm("r0 = 9\n call #8\n exit"),
        &[0],
        vec![site(
            1,
            Target::Inline(InlineCall::SmpProcessorId { fallback }),
        )],
    );
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, cpu);
    let cell = ring3_sync::rcu::thread();
    let own = cell.replace_task_ids(7 << 32 | 9);
    let linked = linked_with(
        &asm("r0 = 9\n call #14\n exit"),
        &[0],
        vec![site(
            1,
            Target::Inline(InlineCall::CurrentPidTgid {
                fallback: CallTarget::plain(task_ids),
            }),
        )],
    );
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 7 << 32 | 9);
    cell.replace_task_ids(own);
    let (base, stride, cpu_stride, max_entries) = (0x7000_1234_0000u64, 24u32, 4096u64, 11u32);
    let inline = InlineCall::PercpuArrayLookup {
        base,
        stride,
        cpu_stride,
        max_entries,
        fallback,
    };
    let linked = linked_with(
        &asm("r2 = r1\n r1 = 0\n call #1\n exit"),
        &[0],
        vec![site(2, Target::Inline(inline))],
    );
    for key in [0, 1, max_entries - 1, max_entries, u32::MAX] {
        let mut memory = [0; MEMORY_BYTES];
        memory[..4].copy_from_slice(&key.to_le_bytes());
        let inside = base + cpu * cpu_stride + u64::from(key) * u64::from(stride);
        let expected = if key < max_entries { inside } else { 0 };
        assert_eq!(run_both(&linked, memory).0, expected, "per_cpu {key}");
    }
}

#[test]
fn two_slot_loads_of_objects_take_their_site() {
    let linked = linked_with(
        &asm("r0 = map[3] ll\n exit"),
        &[0],
        vec![site(0, Target::Imm64(0xabc_0000_0001))],
    );
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 0xabc_0000_0001);
    let linked = linked_with(&asm("r0 = map[3] ll\n exit"), &[0], Vec::new());
    let error = compile(&linked, &Options::default()).expect_err("unresolved");
    assert_eq!(error, JitError::Unresolved { slot: 0 });
}

#[test]
fn malformed_programs_are_errors() {
    let cases = [
        ("r0 = 0", "runs off"),
        ("goto +5\n exit", "jump out"),
        ("if r0 == 1 goto -3\n exit", "jump out"),
    ];
    for (text, expected) in cases {
        let linked = linked_with(&asm(text), &[0], Vec::new());
        let error = compile(&linked, &Options::default()).expect_err(text);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn may_goto_ends_loops() {
    let text = "r0 = 0\n may_goto +2\n r0 += 1\n goto -3\n exit";
    let linked = linked_with(&asm(text), &[0], Vec::new());
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 8 << 20);
}

#[test]
fn planted_faults_in_calls_are_found() {
    let fallback = CallTarget::plain(mix);
    let word = 0x77u64;
    let address = std::ptr::from_ref(&word).expose_provenance() as u64;
    let _section = ring3_sync::rcu::read();
    let inlines = [
        (
            "array-lookup",
            InlineCall::ArrayLookup {
                base: 0x1000,
                stride: 16,
                max_entries: 1,
                fallback,
            },
        ),
        (
            "const-lookup",
            InlineCall::ConstAddress { address, fallback },
        ),
        ("section-cpu", InlineCall::SmpProcessorId { fallback }),
        ("random", InlineCall::PrandomU32 { fallback }),
    ];
    for (rule, inline) in inlines {
        let linked = linked_with(
            &asm("r2 = r1\n r1 = 0\n r0 = 0\n call #1\n exit"),
            &[0],
            vec![site(3, Target::Inline(inline))],
        );
        let memory = [0; MEMORY_BYTES];
        let set_random = || ring3_sync::rcu::thread().set_random_state(5);
        set_random();
        let right = execute(&compile_test(&linked, &Options::default()), memory);
        let options = Options {
            planted_fault: Some(rule),
            ..Options::default()
        };
        let compiled = compile_test(&linked, &options);
        let hits = compiled.rule_hits();
        assert!(hits.iter().any(|(name, hits)| *name == rule && *hits == 1));
        set_random();
        let wrong = execute(&compiled, memory);
        assert_ne!(right, wrong, "{rule}");
    }
}

#[test]
fn per_cpu_addresses_are_those_of_the_section() {
    let insns = [
        asm("r3 = 0x70000 ll"),
        vec![
            InternalInsn::PercpuAddr {
                dst: Reg::R0,
                src: Reg::R3,
            }
            .into(),
        ],
        asm("exit"),
    ]
    .concat();
    let mut linked = linked_with(&insns, &[0], Vec::new());
    let error = compile(&linked, &Options::default()).expect_err("no stride");
    assert_eq!(error.errno(), ring3_uapi::Errno::ENOTSUPP);
    linked.percpu_stride = Some(4096);
    let section = ring3_sync::rcu::read();
    let expected = 0x70000 + section.cpu() as u64 * 4096;
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, expected);
}

#[test]
fn functions_that_were_removed_are_named_without_harm() {
    // What a `bpf_loop` of no rounds leaves: the address and the call of a function that is not there.
    let text = "r2 = func[gone] ll\n r0 = 5\n if r1 != 0 goto +1\n call gone\n exit\n gone: exit";
    let mut linked = linked_with(&asm(text), &[0], Vec::new());
    let error = compile(&linked, &Options::default()).expect_err("no function");
    assert!(error.to_string().contains("no function"), "{error}");
    let mut program = (*linked.program).clone();
    program.facts = vec![ring3_spec::InsnFacts::default(); program.insns.len()];
    linked.program = std::sync::Arc::new(program);
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, 5);
}

unsafe extern "C" fn next_random(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    ring3_sync::rcu::thread().next_random().into()
}

#[test]
fn random_numbers_are_the_next_of_the_thread() {
    let fallback = CallTarget::plain(next_random);
    let linked = linked_with(
        &asm("call #7\n r6 = r0\n call #7\n r6 <<= 32\n r0 |= r6\n exit"),
        &[0],
        vec![
            site(0, Target::Inline(InlineCall::PrandomU32 { fallback })),
            site(2, Target::Inline(InlineCall::PrandomU32 { fallback })),
        ],
    );
    let compiled = compile_test(&linked, &Options::default());
    assert!(compiled.rule_hits().contains(&("random", 2)));
    let thread = ring3_sync::rcu::thread();
    let mut rng = super::Rng(7);
    for _ in 0..1000 {
        let state = rng.value();
        thread.set_random_state(state);
        let (ours, _) = execute(&compiled, [0; MEMORY_BYTES]);
        let after = thread.next_random();
        thread.set_random_state(state);
        let [first, second, third] = [(); 3].map(|()| thread.next_random());
        assert_eq!(ours, u64::from(first) << 32 | u64::from(second));
        assert_eq!(after, third);
    }
}

unsafe extern "C" fn sixth(a: u64, _: u64, _: u64, _: u64, e: u64, given: u64) -> u64 {
    a + e + given
}

#[test]
fn a_helper_is_given_its_word() {
    // SAFETY: calls of kind `Given` pass six.
    let code = unsafe {
        std::mem::transmute::<ring3_runtime::GivenHelperFn, ring3_runtime::HelperFn>(sixth)
    };
    let word = 0x1234_5678_9abc_0000;
    let target = CallTarget {
        kind: CallKind::Given(word),
        ..CallTarget::plain(code)
    };
    let linked = linked_with(
        &asm("r1 = 1\n r5 = 5\n call #149\n exit"),
        &[0],
        vec![site(2, Target::Call(target))],
    );
    assert_eq!(run_both(&linked, [0; MEMORY_BYTES]).0, word + 6);
}
