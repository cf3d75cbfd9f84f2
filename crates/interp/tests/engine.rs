//! What a program does beyond instructions: helpers, callbacks, tail calls, exceptions, packet loads, faulting loads, limits, traces.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ring3_interp::{Checks, Program, RunErrorKind, TraceStep, run_unverified};
use ring3_isa::{NoNames, RawInsn, format_asm, parse_asm};
use ring3_runtime::{
    Arena, CallKind, CallTarget, CallbackRef, Clobbers, GivenHelperFn, HelperFn, InlineCall,
    Linked, MemRegion, Permissions, Regions, Site, TailCallSite, TailCallTable, Target, exception,
    run,
};
use ring3_uapi::Errno;

/// Helper 1: r0 = r1 - 2 * r2 + 3 * r3 - 4 * r4 + 5 * r5.
unsafe extern "C" fn mix(a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
    let product = |value: u64, factor: i64| value.wrapping_mul(factor as u64);
    [product(b, -2), product(c, 3), product(d, -4), product(e, 5)]
        .into_iter()
        .fold(a, u64::wrapping_add)
}

/// Helper 2: calls the callback in r2 with (i, r3) for i in 0..r1, while it returns 0; the number of calls.
unsafe extern "C" fn repeat(count: u64, callback: u64, context: u64, _: u64, _: u64) -> u64 {
    let Some(callback) = CallbackRef::from_reg(callback) else {
        return u64::MAX;
    };
    for at in 0..count {
        // SAFETY: 1. the value came from the running program's `func[...]`.
        if unsafe { callback.call([at, context, 0, 0, 0]) } != 0 {
            return at + 1;
        }
    }
    count
}

/// Never called: the engine has its own `bpf_throw`.
unsafe extern "C" fn throw(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    unreachable!("the engine throws itself")
}

fn helpers(id: i32) -> Option<HelperFn> {
    match id {
        1 => Some(mix),
        2 => Some(repeat),
        3 => Some(throw),
        _ => None,
    }
}

/// Assembles and links; helper 2 takes callbacks, helper 3 throws, helper 4 is the tail call through `table`.
fn link(text: &str, table: Option<TailCallTable>) -> Linked {
    let insns = parse_asm(text, &NoNames)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
        .insns;
    let with_tail_call = |id| {
        if id == 4 {
            Some(mix as HelperFn)
        } else {
            helpers(id)
        }
    };
    let mut linked = Linked::unverified(insns, &with_tail_call)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let imms: Vec<i32> = linked
        .sites
        .iter()
        .map(|site| linked.program.insns[site.slot as usize].imm)
        .collect();
    for (site, imm) in linked.sites.iter_mut().zip(imms) {
        let kind = match imm {
            2 => CallKind::TakesCallback,
            3 => CallKind::Throw,
            _ => CallKind::Plain,
        };
        site.target = match (imm, table) {
            (4, Some(table)) => Target::TailCall(TailCallSite {
                table,
                const_index: None,
                hub: None,
            }),
            _ => Target::Call(CallTarget {
                code: helpers(imm).unwrap_or(mix),
                clobbers: Clobbers::All,
                kind,
            }),
        };
    }
    linked
}

fn start(linked: &Linked) -> Program {
    Program::load(linked).unwrap()
}

fn result(program: &Program, ctx: u64) -> u64 {
    // SAFETY: 1. the programs of this file touch only their stack and what they are linked to.
    unsafe { run(&program.entry(), ctx) }
}

fn run_text(text: &str) -> u64 {
    result(&start(&link(text, None)), 0)
}

#[test]
fn a_helper_is_given_its_word() {
    unsafe extern "C" fn sixth(a: u64, _: u64, _: u64, _: u64, e: u64, given: u64) -> u64 {
        a + e + given
    }
    let mut linked = link("r1 = 1\nr5 = 5\ncall #1\nexit", None);
    // SAFETY: calls of kind `Given` pass six.
    let code = unsafe { std::mem::transmute::<GivenHelperFn, HelperFn>(sixth) };
    linked.sites[0].target = Target::Call(CallTarget {
        kind: CallKind::Given(1 << 40),
        ..CallTarget::plain(code)
    });
    assert_eq!(result(&start(&linked), 0), (1 << 40) + 6);
}

#[test]
fn helpers_take_five_arguments_and_keep_r6_to_r9() {
    let text = "r1 = 1\nr2 = 10\nr3 = 100\nr4 = 1000\nr5 = 10000\nr6 = 7\ncall #1\nr0 += r6\nexit";
    assert_eq!(run_text(text), 50000 - 4000 + 300 - 20 + 1 + 7);
}

#[test]
fn callbacks_run_in_frames_below_the_callers() {
    let text = "
        r6 = r10
        r6 += -8
        *(u64 *)(r10 -8) = 0
        r1 = 10
        r2 = func[add] ll
        r3 = r6
        call #2
        r6 = *(u64 *)(r10 -8)
        r0 *= 1000
        r0 += r6
        exit
    add:
        *(u64 *)(r10 -8) = r1
        r4 = *(u64 *)(r2 +0)
        r4 += r1
        *(u64 *)(r2 +0) = r4
        r0 = 0
        if r1 != 6 goto +1
        r0 = 1
        exit";
    assert_eq!(run_text(text), 7000 + (1..=6).sum::<u64>());
}

#[test]
fn a_callback_may_call_and_take_callbacks() {
    let text = "
        r1 = 3
        r2 = func[outer] ll
        r3 = r10
        r3 += -8
        *(u64 *)(r10 -8) = 0
        call #2
        r0 = *(u64 *)(r10 -8)
        exit
    outer:
        r3 = r2
        r1 = 5
        r2 = func[inner] ll
        call #2
        r0 = 0
        exit
    inner:
        r1 = r2
        call increment
        r0 = 0
        exit
    increment:
        r2 = 1
        lock *(u64 *)(r1 +0) += r2
        r0 = 0
        exit";
    assert_eq!(run_text(text), 15);
}

/// A prog array of this many slots, and its table.
fn table(slots: usize) -> (Vec<AtomicUsize>, TailCallTable) {
    let entries: Vec<AtomicUsize> = (0..slots).map(|_| AtomicUsize::new(0)).collect();
    let table = TailCallTable {
        entries: entries.as_ptr(),
        max_entries: slots as u32,
    };
    (entries, table)
}

const CALL_SLOT_0: &str = "r2 = 0\nr3 = 0\ncall #4\n";

#[test]
fn tail_calls_stop_at_33_and_fall_through_at_empty_slots() {
    let (entries, prog_array) = table(2);
    // Counts its runs in the word that the context points to, then calls itself.
    let text =
        format!("r6 = *(u64 *)(r1 +0)\nr6 += 1\n*(u64 *)(r1 +0) = r6\n{CALL_SLOT_0}r0 = r6\nexit");
    let program = start(&link(&text, Some(prog_array)));
    let runs = AtomicU64::new(0);
    let ctx = runs.as_ptr().expose_provenance() as u64;
    assert_eq!(result(&program, ctx), 1, "empty slot");
    entries[0].store(program.tail_target(), Ordering::Release);
    runs.store(0, Ordering::Relaxed);
    assert_eq!(result(&program, ctx), 34, "the first run and 33 tail calls");
    assert_eq!(runs.load(Ordering::Relaxed), 34);
    // Beyond the end of the array; the index is the low half of r3.
    for (index, expected) in [("2", 1), ("-1", 1), ("0x100000000 ll", 34)] {
        let text = text.replace("r3 = 0\n", &format!("r3 = {index}\n"));
        let program = start(&link(&text, Some(prog_array)));
        entries[0].store(program.tail_target(), Ordering::Release);
        runs.store(0, Ordering::Relaxed);
        assert_eq!(result(&program, ctx), expected, "{index}");
    }
}

#[test]
fn a_chain_of_33_reaches_its_end_and_one_of_34_does_not() {
    for length in [33usize, 34] {
        let (entries, _) = table(length);
        let mut programs = Vec::new();
        for at in 0..=length {
            // Program `at` calls the one in slot `at`; the last has nothing to call.
            let prog_array = TailCallTable {
                entries: entries.as_ptr(),
                max_entries: length as u32,
            };
            let text = format!("r3 = {at}\ncall #4\nr0 = {at}\nexit");
            programs.push(start(&link(&text, Some(prog_array))));
        }
        for (entry, program) in entries.iter().zip(&programs[1..]) {
            entry.store(program.tail_target(), Ordering::Release);
        }
        assert_eq!(result(&programs[0], 0), 33, "length {length}");
    }
}

#[test]
fn a_tail_call_in_a_subprogram_returns_to_its_caller_and_counts_for_the_run() {
    let (entries, prog_array) = table(1);
    let target = start(&link("r0 = 5\nr6 = 99\nexit", None));
    entries[0].store(target.tail_target(), Ordering::Release);
    let text = format!(
        "r6 = 0\nr7 = 40\nagain: call sub\nr6 += r0\nr7 -= 1\nif r7 != 0 goto again\nr0 = r6\nexit\nsub: {CALL_SLOT_0}r0 = 1000\nexit"
    );
    let program = start(&link(&text, Some(prog_array)));
    // 33 calls reach the target, 7 fall through; r6 is restored each time.
    assert_eq!(result(&program, 0), 33 * 5 + 7 * 1000);
}

#[test]
fn tail_calls_from_subprograms_may_nest_deeper_than_eight_frames() {
    let (entries, prog_array) = table(1);
    // Descends seven calls, tail-calls itself in the last frame, and so on: 8 + 33 * 7 frames.
    let mut text = String::from("r6 = *(u64 *)(r1 +0)\n");
    text.push_str("r6 += 1\n*(u64 *)(r1 +0) = r6\ncall s1\nexit\n");
    for at in 1..7 {
        text.push_str(&format!(
            "s{at}: *(u64 *)(r10 -512) = {at}\ncall s{}\nr0 += 1\nexit\n",
            at + 1
        ));
    }
    text.push_str("s7: *(u64 *)(r10 -512) = 7\nr2 = 0\nr3 = 0\ncall #4\nr0 = 0\nexit\n");
    let program = start(&link(&text, Some(prog_array)));
    entries[0].store(program.tail_target(), Ordering::Release);
    let runs = AtomicU64::new(0);
    let ctx = runs.as_ptr().expose_provenance() as u64;
    assert_eq!(result(&program, ctx), 6 * 34);
    assert_eq!(runs.load(Ordering::Relaxed), 34);
}

fn with_exception_callback(text: &str, subprog: Option<u32>) -> u64 {
    let mut linked = link(text, None);
    Arc::get_mut(&mut linked.program).unwrap().exception_cb = subprog;
    let value = result(&start(&linked), 0);
    assert!(!exception::is_pending());
    value
}

#[test]
fn an_exception_ends_the_program_from_any_depth() {
    let text = "call f\nr0 = 1\nexit\nf: call g\nr0 = 2\nexit\ng: r1 = 77\ncall #3\nexit";
    assert_eq!(with_exception_callback(text, None), 77);
    let handled =
        format!("{text}\nhandler: r0 = r1\nr0 += 1000\nexit\nuse: r1 = func[handler] ll\nexit");
    // Functions: main, f, g, handler; `use` makes the handler a function of its own.
    assert_eq!(with_exception_callback(&handled, Some(3)), 1077);
}

#[test]
fn an_exception_in_a_callback_passes_through_the_helper() {
    let text = "
        r1 = 10
        r2 = func[cb] ll
        r3 = 0
        call #2
        r0 = 5
        exit
    cb:
        if r1 != 3 goto on
        call thrower
    on:
        r0 = 0
        exit
    thrower:
        r1 = 123
        call #3
        exit";
    assert_eq!(with_exception_callback(text, None), 123);
}

#[test]
fn an_exception_callback_that_throws_ends_the_program() {
    let text =
        "r1 = 1\ncall #3\nexit\nhandler: r1 += 1\ncall #3\nexit\nr1 = func[handler] ll\nexit";
    assert_eq!(with_exception_callback(text, Some(1)), 2);
}

/// Packet loads from the bytes that r6 points to; 16 of them.
unsafe extern "C" fn load_packet(ctx: u64, offset: i64, size: u64) -> i64 {
    let Ok(offset) = usize::try_from(offset) else {
        return -14;
    };
    if offset + size as usize > 16 {
        return -14;
    }
    let base = std::ptr::with_exposed_provenance::<u8>(ctx as usize);
    // SAFETY: 1. the context is an array of 16 bytes, and the range is inside.
    let bytes = unsafe { std::slice::from_raw_parts(base.add(offset), size as usize) };
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | i64::from(*byte))
}

fn packet_program(text: &str) -> Linked {
    // Packet loads are for linked programs only, so a constant stands in their place while linking.
    let insns = parse_asm(text, &NoNames).unwrap().insns;
    let stand_ins = insns.iter().map(|insn| match insn.code & 0xe7 {
        0x20 | 0x40 => RawInsn::new(0xb7, 0, 0, 0, 0),
        _ => *insn,
    });
    let mut linked = Linked::unverified(stand_ins.collect(), &helpers).unwrap();
    let loads = insns
        .iter()
        .enumerate()
        .filter(|(_, insn)| matches!(insn.code & 0xe7, 0x20 | 0x40));
    linked.sites = loads
        .map(|(slot, _)| Site {
            slot: slot as u32,
            target: Target::LoadPacket(load_packet),
        })
        .collect();
    Arc::get_mut(&mut linked.program).unwrap().insns = insns;
    linked
}

#[test]
fn packet_loads_give_host_order_and_end_the_function_outside() {
    let packet: Vec<u8> = (1..=16).collect();
    let ctx = packet.as_ptr().expose_provenance() as u64;
    let run_packet = |text: &str| result(&start(&packet_program(text)), ctx);
    assert_eq!(run_packet("r6 = r1\nr0 = *(u8 *)skb[3]\nexit"), 4);
    assert_eq!(run_packet("r6 = r1\nr0 = *(u16 *)skb[3]\nexit"), 0x0405);
    assert_eq!(
        run_packet("r6 = r1\nr0 = *(u32 *)skb[12]\nexit"),
        0x0d0e_0f10
    );
    assert_eq!(
        run_packet("r6 = r1\nr2 = 0x500000002 ll\nr0 = *(u16 *)skb[r2 + 4]\nexit"),
        0x0708
    );
    assert_eq!(
        run_packet("r6 = r1\nr2 = -2\nr0 = *(u8 *)skb[r2 + 4]\nexit"),
        3
    );
    assert_eq!(run_packet("r6 = r1\nr0 = *(u32 *)skb[13]\nr0 = 9\nexit"), 0);
    assert_eq!(run_packet("r6 = r1\nr0 = *(u8 *)skb[-1]\nr0 = 9\nexit"), 0);
    // It leaves the function, not the program.
    assert_eq!(
        run_packet(
            "r6 = r1\nr1 = r6\ncall f\nr0 += 7\nexit\nf: r6 = r1\nr0 = *(u8 *)skb[99]\nr0 = 9\nexit"
        ),
        7
    );
}

#[test]
fn probe_loads_read_zero_where_they_fault() {
    let value = 0xfedc_ba98_7654_3210u64;
    let address = (&raw const value).expose_provenance() as u64;
    let run_probe = |text: &str, ctx: u64| {
        let insns = parse_asm(text, &NoNames).unwrap().insns;
        let plain = parse_asm(&text.replace("probe ", ""), &NoNames)
            .unwrap()
            .insns;
        let mut linked = Linked::unverified(plain, &helpers).unwrap();
        Arc::get_mut(&mut linked.program).unwrap().insns = insns;
        result(&start(&linked), ctx)
    };
    assert_eq!(
        run_probe("r0 = 5\nprobe r0 = *(u64 *)(r1 +0)\nexit", address),
        value
    );
    assert_eq!(
        run_probe("probe r0 = *(u16 *)(r1 +2)\nexit", address),
        0x7654
    );
    assert_eq!(
        run_probe("probe r0 = *(s32 *)(r1 +4)\nexit", address),
        0xffff_ffff_fedc_ba98
    );
    assert_eq!(run_probe("r0 = 5\nprobe r0 = *(u64 *)(r1 +8)\nexit", 0), 0);
    assert_eq!(
        run_probe(
            "r0 = 5\nprobe r0 = *(s8 *)(r1 +8)\nexit",
            0xffff_8000_0000_0000
        ),
        0
    );
    // The verifier may say it by a fact instead of the encoding.
    let mut linked = link("r0 = 5\nr0 = *(u64 *)(r1 +0)\nexit", None);
    let program = Arc::get_mut(&mut linked.program).unwrap();
    program.facts = vec![Default::default(); 3];
    program.facts[1].probe_mem = true;
    assert_eq!(result(&start(&linked), 0x10), 0);
}

#[test]
fn arena_accesses_are_offsets() {
    let mut arena = vec![0u64; 8];
    let base = arena.as_mut_ptr().expose_provenance() as u64;
    let text = "
        r1 = 0x700000000 ll
        r2 = 0x700000010 ll
        arena *(u64 *)(r2 +8) = -2
        arena *(u32 *)(r1 +4) = r2
        arena r0 = *(u32 *)(r2 +8)
        arena r3 = *(s32 *)(r2 +8)
        r0 += r3
        r4 = addr_space_cast(r2, 1, 0)
        *(u64 *)(r10 -8) = r4
        exit";
    let insns = parse_asm(text, &NoNames).unwrap().insns;
    let mut linked = link("r0 = 0\nexit", None);
    Arc::get_mut(&mut linked.program).unwrap().insns = insns;
    assert_eq!(
        Program::load(&linked).unwrap_err().errno,
        Errno::EINVAL,
        "no arena"
    );
    linked.arena = Some(Arena {
        base,
        user_base: 0x7000_0000_0000,
    });
    let program = start(&linked);
    assert_eq!(result(&program, 0), 0xffff_fffe - 2);
    assert_eq!(arena, [0x10 << 32, 0, 0, -2i64 as u64, 0, 0, 0, 0]);
}

#[test]
fn inline_lookups_mean_what_they_say() {
    let values: Vec<u64> = (0..10).map(|at| at * 11).collect();
    let base = values.as_ptr().expose_provenance() as u64;
    let text = "*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\ncall #1\nif r0 == 0 goto +1\nr0 = *(u64 *)(r0 +0)\nexit";
    let mut linked = link(text, None);
    let fallback = CallTarget::plain(mix);
    linked.sites[0].target = Target::Inline(InlineCall::ArrayLookup {
        base,
        stride: 8,
        max_entries: 10,
        fallback,
    });
    let program = start(&linked);
    assert_eq!(result(&program, 4), 44);
    assert_eq!(result(&program, 9), 99);
    assert_eq!(result(&program, 10), 0);
    assert_eq!(result(&program, 0xffff_ffff), 0);
    linked.sites[0].target = Target::Inline(InlineCall::ConstAddress {
        address: base + 16,
        fallback,
    });
    assert_eq!(result(&start(&linked), 0), 22);
    let word = base + 24;
    linked.sites[0].target = Target::Inline(InlineCall::LoadU64 {
        address: (&raw const word).expose_provenance() as u64,
        fallback,
    });
    assert_eq!(result(&start(&linked), 0), 33);
}

#[test]
fn what_is_not_linked_is_an_error_at_load() {
    let case = |text: &str| {
        let mut linked = link("r0 = 0\nexit", None);
        Arc::get_mut(&mut linked.program).unwrap().insns = parse_asm(text, &NoNames).unwrap().insns;
        let error = Program::load(&linked).unwrap_err();
        (error.errno, error.to_string())
    };
    let unsupported = |text: &str| (Errno::ENOTSUPP, text.to_string());
    let invalid = |text: &str| (Errno::EINVAL, text.to_string());
    assert_eq!(
        case("r0 = 0\ncall #7\nexit"),
        unsupported("insn 1: nothing is linked to this call (helper 7)")
    );
    assert_eq!(
        case("call btf[7]\nexit"),
        unsupported("insn 0: nothing is linked to this call (kernel function with BTF id 7)")
    );
    assert_eq!(
        case("r1 = map[3] ll\nexit"),
        unsupported("insn 0: nothing is linked to this map or variable")
    );
    assert_eq!(
        case("r0 = *(u8 *)skb[3]\nexit"),
        unsupported("insn 0: nothing is linked to this packet load")
    );
    assert_eq!(
        case("tail_call\nexit"),
        unsupported("insn 0: nothing is linked to this call (tail call)")
    );
    assert_eq!(
        case("r0 = &(void __percpu *)(r0)\nexit"),
        unsupported("insn 0: address of a per-CPU variable without a distance between copies")
    );
    assert_eq!(
        case("goto +9\nexit"),
        invalid("insn 0: no instruction begins at 10, the target of this one")
    );
    assert_eq!(
        case("r1 = 1 ll\nr0 = 0"),
        invalid("insn 2: the program does not end with exit or a jump")
    );
    assert_eq!(case(""), invalid("insn 0: the program is empty"));
}

#[test]
fn a_checked_run_shows_every_step() {
    let linked = link("r1 = 2\nr2 = 1 ll\ncall f\nexit\nf: r0 = r1\nexit", None);
    let program = start(&linked);
    let mut seen = Vec::new();
    let mut trace = |step: TraceStep<'_>| seen.push((step.slot, step.depth, step.registers[1]));
    let regions = Regions::new();
    let mut checks = Checks::new(&regions);
    checks.trace = Some(&mut trace);
    // SAFETY: 1. no memory is allowed.
    let value = unsafe { program.run_checked([9, 0, 0, 0, 0], checks) };
    assert_eq!(value, Ok(2));
    assert_eq!(
        seen,
        [
            (0, 0, 9),
            (1, 0, 2),
            (3, 0, 2),
            (5, 1, 2),
            (6, 1, 2),
            (4, 0, 2)
        ]
    );
}

#[test]
fn callbacks_of_checked_runs_are_checked() {
    let text = "
        r1 = 10
        r2 = func[cb] ll
        r3 = r10
        r3 += -8
        *(u64 *)(r10 -8) = 0
        call #2
        r0 = *(u64 *)(r10 -8)
        exit
    cb:
        r3 = *(u64 *)(r2 +0)
        r3 += 1
        *(u64 *)(r2 +0) = r3
        r4 = *(u64 *)(r2 {off})
        r0 = 0
        exit";
    let regions = Regions::new();
    let run_at = |off: &str| {
        let program = start(&link(&text.replace("{off}", off), None));
        // SAFETY: 1. no memory is allowed; 2. helper 2 calls what the program gives it.
        unsafe { program.run_checked([0; 5], Checks::new(&regions)) }
    };
    assert_eq!(run_at("+0"), Ok(10));
    // -520 is the callback's own frame, 8 above the main program's.
    assert_eq!(run_at("-520"), Ok(10));
    let error = run_at("+8").unwrap_err();
    assert_eq!(error.slot, 12);
    assert!(matches!(error.kind, RunErrorKind::Access(_)), "{error}");
}

#[test]
fn regions_have_permissions() {
    let mut data = [1u8, 2, 3, 4, 5, 6, 7, 8];
    let address = data.as_mut_ptr().expose_provenance() as u64;
    let mut regions = Regions::new();
    let region = MemRegion {
        start: address,
        len_bytes: 8,
        permissions: Permissions::Read,
        name: "value".into(),
    };
    regions.add(region).unwrap();
    let program = start(&link("r0 = *(u8 *)(r1 +3)\n*(u8 *)(r1 +3) = 9\nexit", None));
    // SAFETY: 1. the region is `data`.
    let error =
        unsafe { program.run_checked([address, 0, 0, 0, 0], Checks::new(&regions)) }.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "insn 1: invalid store of 1 bytes at {:#x} (value+0x3)",
            address + 3
        )
    );
    assert_eq!(data[3], 4);
}

/// Threaded code must not lean on the compiler's tail calls: the host's stack stays small without them too.
#[test]
fn a_long_run_needs_little_of_the_hosts_stack() {
    let loops =
        "r0 = 0\nr9 = 1000000\nagain: r0 += r9\nr0 ^= 5\nr9 -= 1\nif r9 != 0 goto again\nexit";
    let mut straight = "r0 = 0\n".to_string();
    (0..100_000).for_each(|_| straight.push_str("r0 += 1\n"));
    straight.push_str("exit");
    let run_in_small_stack = |text: String| {
        let thread = std::thread::Builder::new().stack_size(512 * 1024);
        thread
            .spawn(move || run_text(&text))
            .unwrap()
            .join()
            .unwrap()
    };
    assert_eq!(run_in_small_stack(straight), 100_000);
    let expected = (1..=1_000_000u64)
        .rev()
        .fold(0u64, |sum, value| sum.wrapping_add(value) ^ 5);
    assert_eq!(run_in_small_stack(loops.to_string()), expected);
}

/// Random slots, most of them of the program's own language, through the whole unverified path.
#[test]
fn random_programs_end_without_harm() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let known: Vec<u8> = (0..=u8::MAX)
        .filter(|code| ring3_isa::is_known_opcode(*code))
        .collect();
    let (mut ran, mut stopped, mut refused) = (0, 0, 0);
    for round in 0..60_000 {
        let length = 2 + next() as usize % 12;
        let mut slots = Vec::new();
        while slots.len() < length {
            let code = known[next() as usize % known.len()];
            let off = if next() % 3 == 0 {
                (next() % 9) as i16 - 4
            } else {
                0
            };
            let imm = if next() % 4 == 0 {
                [0, 1, 16, 32, 64, -8][next() as usize % 6]
            } else {
                0
            };
            let (dst, src) = (
                (next() % 10) as u8,
                if next() % 2 == 0 {
                    0
                } else {
                    (next() % 11) as u8
                },
            );
            let slot = RawInsn::new(code, dst, src, off, imm);
            // One in ten programs may be anything; the others have instructions only, and no calls of helpers.
            let instruction = ring3_isa::decode(&[slot], 0).is_ok() && (code, src) != (0x85, 0);
            if round % 10 == 0 || instruction {
                slots.push(slot);
            }
        }
        slots.push(RawInsn::new(0x95, 0, 0, 0, 0));
        let mut memory = [0x5a; 24];
        let regions = {
            let mut regions = Regions::new();
            let start = memory.as_mut_ptr().expose_provenance() as u64;
            let region = MemRegion {
                start,
                len_bytes: 24,
                permissions: Permissions::ReadWrite,
                name: "memory".into(),
            };
            regions.add(region).unwrap();
            regions
        };
        let Ok(linked) = Linked::unverified(slots.clone(), &|_| None) else {
            refused += 1;
            continue;
        };
        let program = Program::load(&linked)
            .unwrap_or_else(|error| panic!("{error}\n{}", format_asm(&slots, &NoNames)));
        let address = memory.as_mut_ptr().expose_provenance() as u64;
        let mut checks = Checks::new(&regions);
        checks.budget = 1000;
        // SAFETY: 1. the region is `memory`; 2. no helpers.
        match unsafe { program.run_checked([address, 24, 0, 0, 0], checks) } {
            Ok(_) => ran += 1,
            Err(_) => stopped += 1,
        }
    }
    assert!(
        ran > 3000 && stopped > 1000 && refused > 1000,
        "{ran} ran, {stopped} stopped, {refused} refused"
    );
}

#[test]
fn a_program_of_odd_length_is_none() {
    let error = run_unverified(&[0x95, 0, 0], &mut [])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "a program of 3 bytes, which is no multiple of 8");
    assert!(run_unverified(&[], &mut []).is_err());
}

#[test]
fn per_cpu_addresses_are_those_of_the_section() {
    let mut linked = link("r0 = r1\nexit", None);
    let mut program = (*linked.program).clone();
    // The internal form of a move, which only rewrites make.
    program.insns[0].off = -1;
    linked.program = Arc::new(program);
    linked.percpu_stride = Some(4096);
    let program = start(&linked);
    let section = ring3_sync::rcu::read();
    let expected = 0x7000 + section.cpu() as u64 * 4096;
    assert_eq!(result(&program, 0x7000), expected);
}

#[test]
fn functions_that_were_removed_are_named_without_harm() {
    let text = "r2 = func[gone] ll\n r0 = 5\n if r1 != 0 goto out\n r0 = 6\n if r1 == 0 goto out\n call gone\nout: exit\ngone: exit";
    let mut linked = link(text, None);
    let mut program = (*linked.program).clone();
    program.subprogs.truncate(1);
    program.facts = vec![ring3_spec::InsnFacts::default(); program.insns.len()];
    linked.program = Arc::new(program);
    assert_eq!(result(&start(&linked), 0), 6);
    assert_eq!(result(&start(&linked), 1), 5);
}
