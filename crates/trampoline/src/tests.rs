//! Traced functions: arguments, return values, order, skipping, recursion, threads, detachment.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring3_btf::{ArgModel, FuncModel};
use ring3_runtime::{Entry, EntryCode, ProgObject, ProgRef};
use ring3_uapi::ProgType;

use crate::{AttachError, Certainty, ProgKind, Site, Target};

/// A program that is a Rust function.
struct Prog {
    id: u32,
    entry: Entry,
}

impl ProgObject for Prog {
    fn id(&self) -> u32 {
        self.id
    }
    fn entry(&self) -> Entry {
        self.entry
    }
    fn tail_target(&self) -> usize {
        0
    }
    fn prog_type(&self) -> ProgType {
        ProgType::Tracing
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn prog_with(code: EntryCode, data: usize) -> ProgRef {
    static NEXT: AtomicU64 = AtomicU64::new(1000);
    let id = NEXT.fetch_add(1, Ordering::Relaxed) as u32;
    Arc::new(Prog {
        id,
        entry: Entry {
            code,
            data: data as *const (),
        },
    })
}

fn model(args: &[u8]) -> FuncModel {
    let arg = |&size: &u8| ArgModel {
        size,
        is_struct: size > 8,
        is_signed: false,
    };
    FuncModel {
        args: args.iter().map(arg).collect(),
        ret: arg(&8),
    }
}

fn target(function: *const (), args: &[u8]) -> Arc<Target> {
    // SAFETY: tests pass functions made by `traceable`, with their arguments.
    unsafe {
        Target::new(
            Site::of_stub(function).expect("a site"),
            &model(args),
            Certainty::Certain,
        )
    }
}

thread_local! {
    /// What programs on this thread saw: tag, words.
    static SEEN: RefCell<Vec<(u64, Vec<u64>)>> = const { RefCell::new(Vec::new()) };
}

fn seen() -> Vec<(u64, Vec<u64>)> {
    SEEN.with(|seen| std::mem::take(&mut *seen.borrow_mut()))
}

/// Overwrites what a callee may, then records: data is tag * 256 + number of words to record.
unsafe extern "C" fn record(ctx: u64, data: *const ()) -> u64 {
    let (tag, words) = (data as u64 >> 8, data as usize & 255);
    let ctx: *const u64 = std::ptr::with_exposed_provenance(ctx as usize);
    // SAFETY: the array has as many words as tests ask for; the registers named are the callee's.
    unsafe {
        let values = (0..words).map(|at| *ctx.add(at)).collect();
        SEEN.with(|seen| seen.borrow_mut().push((tag, values)));
        std::arch::asm!(
            "mov edi, 1", "mov esi, 2", "mov edx, 3", "mov ecx, 4", "mov r8d, 5", "mov r9d, 6", "mov r10d, 7",
            "mov r11d, 8", "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm7, xmm7",
            out("rdi") _, out("rsi") _, out("rdx") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("xmm0") _, out("xmm1") _, out("xmm7") _,
        );
    }
    0
}

fn recorder(tag: usize, words: usize) -> ProgRef {
    prog_with(record, tag << 8 | words)
}

unsafe extern "C" fn nothing(_: u64, _: *const ()) -> u64 {
    0
}

unsafe extern "C" fn result(_: u64, data: *const ()) -> u64 {
    data as u64
}

macro_rules! sums {
    ($($name:ident($($arg:ident),*);)*) => {
        crate::traceable! {$(
            fn $name($($arg: u64),*) -> u64 {
                sum(&[$($arg),*])
            }
        )*}
    };
}

sums! {
    sum0();
    sum1(a);
    sum5(a, b, c, d, e);
    sum6(a, b, c, d, e, f);
    sum7(a, b, c, d, e, f, g);
    sum12(a, b, c, d, e, f, g, h, i, j, k, l);
    busy(a, b);
    skipped(a);
    ordered(a);
    recursive(a);
    many(a, b);
}

fn sum(args: &[u64]) -> u64 {
    args.iter()
        .fold(17u64, |sum, arg| sum.wrapping_mul(31).wrapping_add(*arg))
}

/// Calls with programs of every kind and compares with the untraced result.
fn check_shape(function: *const (), args: usize, call: &dyn Fn() -> u64, words: &[u64]) {
    let target = target(function, &vec![8; args]);
    let expected = sum(words);
    assert_eq!(call(), expected);
    for kinds in [
        &[ProgKind::Fentry][..],
        &[ProgKind::Fexit],
        &[ProgKind::FmodRet],
        &[ProgKind::Fentry, ProgKind::Fexit],
        &[ProgKind::FmodRet, ProgKind::Fexit, ProgKind::Fentry],
    ] {
        seen();
        let attachments: Vec<_> = kinds
            .iter()
            .map(|&kind| {
                let words = args + usize::from(kind == ProgKind::Fexit);
                target
                    .attach(kind, recorder(kind as usize, words), 0)
                    .expect("attachable")
            })
            .collect();
        assert_eq!(call(), expected, "{kinds:?}");
        let mut runs = kinds.to_vec();
        runs.sort();
        let saw = seen();
        assert_eq!(saw.len(), runs.len());
        for (kind, (tag, values)) in runs.into_iter().zip(saw) {
            assert_eq!(tag, kind as u64);
            assert_eq!(&values[..args], words);
            if kind == ProgKind::Fexit {
                assert_eq!(values[args], expected);
            }
        }
        drop(attachments);
        assert_eq!(call(), expected);
        assert_eq!(seen(), []);
    }
}

#[test]
fn programs_see_arguments_and_results_of_every_number() {
    check_shape(sum0 as *const (), 0, &|| sum0(), &[]);
    check_shape(sum1 as *const (), 1, &|| sum1(11), &[11]);
    check_shape(
        sum5 as *const (),
        5,
        &|| sum5(1, 2, 3, 4, 5),
        &[1, 2, 3, 4, 5],
    );
    check_shape(
        sum6 as *const (),
        6,
        &|| sum6(1, 2, 3, 4, 5, 6),
        &[1, 2, 3, 4, 5, 6],
    );
    check_shape(
        sum7 as *const (),
        7,
        &|| sum7(1, 2, 3, 4, 5, 6, 7),
        &[1, 2, 3, 4, 5, 6, 7],
    );
    let words: Vec<u64> = (1..=12).map(|word| word << 40 | 5).collect();
    let w = words.clone();
    let call = move || {
        sum12(
            w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11],
        )
    };
    check_shape(sum12 as *const (), 12, &call, &words);
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    a: u64,
    b: u64,
}

crate::traceable! {
    fn pairs(p: Pair, x: u32, q: Pair, y: u64, r: Pair, z: u64) -> Pair {
        Pair { a: p.a + q.a * 10 + r.a * 100 + u64::from(x) * 1000, b: p.b + q.b * 10 + r.b * 100 + y * 1000 + z * 10_000 }
    }
    fn float(a: f64, b: u64, c: f64) -> f64 {
        a * 2.0 + b as f64 + c * 100.0
    }
}

#[test]
fn structs_and_floats_pass_through() {
    let pair = |a, b| Pair { a, b };
    let call = || pairs(pair(1, 2), 3, pair(4, 5), 6, pair(7, 8), 9);
    let expected = call();
    let mut shape = model(&[16, 4, 16, 8, 16, 8]);
    shape.ret = shape.args[0];
    // SAFETY: `pairs` takes and returns what the model says.
    let traced = unsafe {
        let site = Site::of_stub(pairs as *const ()).unwrap();
        Target::new(site, &shape, Certainty::Certain)
    };
    let entry = traced.attach(ProgKind::Fentry, recorder(1, 9), 0).unwrap();
    let exit = traced.attach(ProgKind::Fexit, recorder(2, 9), 0).unwrap();
    assert_eq!(call(), expected);
    // rdi rsi, rdx, rcx r8, r9, memory, memory.
    let words: Vec<u64> = vec![1, 2, 3, 4, 5, 6, 7, 8, 9];
    for (_, mut values) in seen() {
        values[2] &= 0xffff_ffff;
        assert_eq!(values, words);
    }
    drop((entry, exit));

    // SAFETY: uncertain: everything is preserved.
    let traced = unsafe {
        let site = Site::of_stub(float as *const ()).unwrap();
        Target::new(site, &FuncModel::untyped(), Certainty::Uncertain)
    };
    let expected = float(1.5, 7, 2.5);
    for kind in [ProgKind::Fentry, ProgKind::Fexit, ProgKind::FmodRet] {
        let _attachment = traced.attach(kind, recorder(0, 5), 0).unwrap();
        assert_eq!(float(1.5, 7, 2.5), expected, "{kind:?}");
        assert_eq!(seen()[0].1[0], 7);
    }
}

#[test]
fn a_result_other_than_zero_skips_the_function() {
    let target = target(skipped as *const (), &[8]);
    let late = target
        .attach(ProgKind::FmodRet, prog_with(result, 77), 0)
        .unwrap();
    let exit = target.attach(ProgKind::Fexit, recorder(1, 2), 0).unwrap();
    assert_eq!(skipped(5), 77);
    assert_eq!(seen(), [(1, vec![5, 77])]);
    // A newer one runs first; 0 lets the next decide.
    let zero = target
        .attach(ProgKind::FmodRet, prog_with(result, 0), 0)
        .unwrap();
    assert_eq!(skipped(5), 77);
    let first = target
        .attach(ProgKind::FmodRet, prog_with(result, 88), 0)
        .unwrap();
    assert_eq!(skipped(5), 88);
    drop((late, first));
    assert_eq!(skipped(5), sum(&[5]));
    drop((zero, exit));
}

#[test]
fn newest_first_within_each_kind() {
    let target = target(ordered as *const (), &[8]);
    let mut attachments = Vec::new();
    for tag in 1..=3 {
        attachments.push(
            target
                .attach(ProgKind::Fexit, recorder(10 + tag, 0), 0)
                .unwrap(),
        );
        attachments.push(
            target
                .attach(ProgKind::Fentry, recorder(tag, 0), 0)
                .unwrap(),
        );
    }
    let tags = || {
        ordered(1);
        seen().into_iter().map(|(tag, _)| tag).collect::<Vec<_>>()
    };
    assert_eq!(tags(), [3, 2, 1, 13, 12, 11]);
    drop(attachments.remove(2));
    assert_eq!(tags(), [3, 2, 1, 13, 11]);
    drop(attachments.remove(0));
    assert_eq!(tags(), [3, 2, 1, 13]);
    attachments.push(target.attach(ProgKind::Fentry, recorder(9, 0), 0).unwrap());
    assert_eq!(tags(), [9, 3, 2, 1, 13]);
    assert_eq!(target.attached(), 5);
}

unsafe extern "C" fn call_again(_: u64, data: *const ()) -> u64 {
    // SAFETY: data is a counter that outlives the test.
    unsafe { (*data.cast::<AtomicU64>()).fetch_add(1, Ordering::SeqCst) };
    recursive(1);
    0
}

#[test]
fn a_program_does_not_run_inside_itself() {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let target = target(recursive as *const (), &[8]);
    let prog = prog_with(call_again, std::ptr::from_ref(&RUNS) as usize);
    let attachment = target.attach(ProgKind::Fentry, prog.clone(), 0).unwrap();
    assert_eq!(
        target.attach(ProgKind::Fentry, prog, 0).unwrap_err(),
        AttachError::AlreadyAttached
    );
    assert_eq!(recursive(4), sum(&[4]));
    assert_eq!(RUNS.load(Ordering::SeqCst), 1);
    assert_eq!(recursive(4), sum(&[4]));
    assert_eq!(RUNS.load(Ordering::SeqCst), 2);
    drop(attachment);
}

unsafe extern "C" fn read_words_below(ctx: u64, _: *const ()) -> u64 {
    let ctx: *const u64 = std::ptr::with_exposed_provenance(ctx as usize);
    // SAFETY: count, address and cookie lie below the array.
    let words = unsafe { vec![*ctx.sub(1), *ctx.sub(2), *ctx.sub(3)] };
    SEEN.with(|seen| seen.borrow_mut().push((0, words)));
    0
}

#[test]
fn many_programs_with_cookies_of_their_own() {
    let target = target(many as *const (), &[8, 8]);
    for count in [1usize, 5, 40, 64] {
        let attachments: Vec<_> = (0..count)
            .flat_map(|at| {
                let cookie = (at as u64) << 33 | 7;
                [ProgKind::Fentry, ProgKind::Fexit, ProgKind::FmodRet].map(|kind| {
                    target
                        .attach(kind, prog_with(read_words_below, 0), cookie)
                        .unwrap()
                })
            })
            .collect();
        seen();
        assert_eq!(many(1, 2), sum(&[1, 2]));
        let saw = seen();
        assert_eq!(saw.len(), 3 * count);
        for (at, (_, words)) in saw.iter().enumerate() {
            let newest_first = (count - 1 - at % count) as u64;
            assert_eq!(words, &[2, target.address() as u64, newest_first << 33 | 7]);
        }
        if count == 64 {
            let error = target
                .attach(ProgKind::Fentry, prog_with(nothing, 0), 0)
                .unwrap_err();
            assert_eq!(error, AttachError::TooMany);
        }
        drop(attachments);
        assert_eq!(many(1, 2), sum(&[1, 2]));
        assert_eq!(seen(), []);
    }
}

#[test]
fn compiled_programs_and_their_functions_are_targets() {
    // With a stack of its own, else the call would be replaced by the function's instructions.
    let text = "r6 = r1\n call f\n r0 += r6\n exit\n f: *(u64 *)(r10 -8) = r1\n r0 = 100\n r0 += r1\n exit";
    let program = ring3_isa::parse_asm(text, &ring3_isa::NoNames).unwrap();
    let linked = ring3_runtime::Linked::unverified(program.insns, &|_| None).unwrap();
    let compiled = Arc::new(
        ring3_jit_x86_64::compile(&linked, &ring3_jit_x86_64::Options::default()).unwrap(),
    );
    // SAFETY: the program touches no memory.
    let run = || unsafe { ring3_runtime::run(&compiled.entry(), 5) };
    assert_eq!(run(), 110);
    for function in 0..2 {
        let site = Site::of_program(compiled.clone(), function).unwrap();
        // SAFETY: BPF functions take up to five u64.
        let target = unsafe { Target::new(site, &model(&[8]), Certainty::Certain) };
        let entry = target.attach(ProgKind::Fentry, recorder(1, 1), 0).unwrap();
        let exit = target.attach(ProgKind::Fexit, recorder(2, 2), 0).unwrap();
        assert_eq!(run(), 110);
        assert_eq!(
            seen(),
            [
                (1, vec![5]),
                (2, vec![5, if function == 0 { 110 } else { 105 }])
            ]
        );
        assert!(
            Site::of_program(compiled.clone(), function).is_err(),
            "traced already"
        );
        drop((entry, exit));
        assert_eq!(run(), 110);
    }
    assert!(Site::of_program(compiled, 2).is_err());
}

#[test]
fn a_function_is_replaced_or_traced_but_not_both() {
    let compile = |text: &str| {
        let program = ring3_isa::parse_asm(text, &ring3_isa::NoNames).unwrap();
        let linked = ring3_runtime::Linked::unverified(program.insns, &|_| None).unwrap();
        Arc::new(ring3_jit_x86_64::compile(&linked, &ring3_jit_x86_64::Options::default()).unwrap())
    };
    let inlined = compile("r6 = 5\n call f\n r0 += r6\n exit\n f: r0 = 1\n exit");
    assert!(Site::of_program(inlined, 1).is_err(), "nobody enters it");
    let original =
        compile("r6 = 5\n call f\n r0 += r6\n exit\n f: *(u64 *)(r10 -8) = 1\n r0 = 1\n exit");
    let other = compile("r6 = 9\n r0 = 100\n exit");
    // SAFETY: the programs touch no memory.
    let run = || unsafe { ring3_runtime::run(&original.entry(), 0) };
    let site = Site::of_program(original.clone(), 1).unwrap();
    // SAFETY: BPF functions take up to five u64.
    let target = unsafe { Target::new(site, &model(&[8]), Certainty::Certain) };
    let prog: ProgRef = Arc::new(Prog {
        id: 1,
        entry: other.entry(),
    });
    let replacement = target.replace(prog.clone()).unwrap();
    assert_eq!(run(), 105);
    assert_eq!(
        target.replace(prog.clone()).unwrap_err(),
        AttachError::Occupied
    );
    let error = target
        .attach(ProgKind::Fentry, prog_with(nothing, 1), 0)
        .unwrap_err();
    assert_eq!(error, AttachError::Occupied);
    drop(replacement);
    assert_eq!(run(), 6);
    let attachment = target
        .attach(ProgKind::Fentry, prog_with(nothing, 1), 0)
        .unwrap();
    assert_eq!(target.replace(prog).unwrap_err(), AttachError::Occupied);
    drop(attachment);
    assert_eq!(run(), 6);
}

#[test]
fn threads_run_through_while_programs_come_and_go() {
    const CALLS_MIN: u64 = 1000;
    let target = target(busy as *const (), &[8, 8]);
    let done = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (done, calls) = (&done, &calls);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for at in 0..100 {
                        assert_eq!(busy(thread, at), sum(&[thread, at]));
                    }
                    calls.fetch_add(100, Ordering::Relaxed);
                }
            });
        }
        let mut attachments = std::collections::VecDeque::new();
        let mut random = 1u64;
        let end = std::time::Instant::now() + std::time::Duration::from_millis(1500);
        while std::time::Instant::now() < end || calls.load(Ordering::Relaxed) < CALLS_MIN {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let kind =
                [ProgKind::Fentry, ProgKind::Fexit, ProgKind::FmodRet][(random >> 40) as usize % 3];
            if attachments.len() < 6 && random >> 63 == 0 {
                attachments.push_back(target.attach(kind, prog_with(nothing, 0), 0).unwrap());
            } else {
                attachments.pop_front();
            }
        }
        drop(attachments);
        done.store(true, Ordering::Relaxed);
    });
    // Everything is released in the end.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while target.retired() != 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(target.retired(), 0);
    assert_eq!(target.attached(), 0);
}
