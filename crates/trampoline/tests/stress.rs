//! Two threads call traced functions while a third attaches and detaches at random: no wrong argument or result, no crash, no text left behind.
//!
//! Freed text is filled with int3, so a thread that runs any dies by SIGTRAP. `RING3_STRESS_SECONDS` makes it long (`cargo xtask stress trampoline`).

mod library;
mod support;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ring3_btf::{ArgModel, FuncModel};
use ring3_runtime::{ProgRef, StatsUser};
use ring3_trampoline::{Attachment, Certainty, Patching, ProgKind, Site, Target};

use support::{SWITCH, program};

fn sum(a: u64, b: u64) -> u64 {
    a.wrapping_mul(31).rotate_left(7) ^ b
}

ring3_trampoline::traceable! {
    fn stored(a: u64, b: u64) -> u64 { sum(a, b) }
    fn trapped(a: u64, b: u64) -> u64 { sum(a, b) }
    /// Calls another traced function.
    fn nested(a: u64, b: u64) -> u64 { stored(a, b) }
    /// Is in the function when its programs go.
    fn sleeping(a: u64, b: u64) -> u64 {
        if a.is_multiple_of(64) { std::thread::sleep(Duration::from_micros(200)); }
        sum(a, b)
    }
    /// Leaves by a panic now and then.
    fn panicking(a: u64, b: u64) -> u64 {
        if a.is_multiple_of(16) { std::panic::resume_unwind(Box::new(())) }
        sum(a, b)
    }
}

extern "C-unwind" fn caught(a: u64, b: u64) -> u64 {
    std::panic::catch_unwind(|| panicking(a, b)).unwrap_or_else(|_| sum(a, b))
}

thread_local! {
    /// Arguments of the call in progress.
    static ARGS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

static RUNS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Checks arguments and, with data 1, the result. Overwrites what a callee may.
unsafe extern "C" fn check(ctx: u64, data: *const ()) -> u64 {
    let ctx: *const u64 = std::ptr::with_exposed_provenance(ctx as usize);
    let (a, b) = ARGS.get();
    // SAFETY: two arguments, and behind them the result.
    let [x, y, result] = unsafe { [*ctx, *ctx.add(1), *ctx.add(2)] };
    let is_result_right = data as usize == 0 || result == sum(a, b);
    if (x, y) != (a, b) || !is_result_right {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
    RUNS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the registers named are the callee's.
    unsafe {
        std::arch::asm!("mov edi, 1", "mov esi, 2", "mov edx, 3", "mov r11d, 8",
            out("rdi") _, out("rsi") _, out("rdx") _, out("r11") _);
    }
    0
}

type Subject = extern "C-unwind" fn(u64, u64) -> u64;

fn random(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as usize % below
}

/// One attachment more or less, somewhere.
fn change(
    state: &mut u64,
    targets: &[Arc<Target>],
    programs: &[[ProgRef; 3]],
    attachments: &mut Vec<Attachment>,
) {
    const KINDS: [ProgKind; 3] = [ProgKind::Fentry, ProgKind::FmodRet, ProgKind::Fexit];
    if attachments.len() < 24 && random(state, 2) == 0 {
        let kind = random(state, 3);
        let prog = programs[random(state, programs.len())][kind].clone();
        let target = &targets[random(state, targets.len())];
        let cookie = random(state, 3) as u64;
        // Fails where the program is attached already.
        attachments.extend(target.attach(KINDS[kind], prog, cookie));
    } else if !attachments.is_empty() {
        let at = random(state, attachments.len());
        drop(attachments.swap_remove(at));
    }
}

/// Waits until text in use is what it was.
fn wait_for_text(bytes: usize, targets: &[Arc<Target>]) -> usize {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        for target in targets {
            target.reap();
        }
        let _ = ring3_sync::rcu::barrier();
        let used = ring3_jit_x86_64::pack::used_bytes();
        let is_clean = targets.iter().all(|target| target.retired() == 0);
        if is_clean && used <= bytes || Instant::now() > end {
            return used;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn threads_call_while_programs_come_and_go() {
    let seconds: f64 = std::env::var("RING3_STRESS_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(2.0);
    let source = "
        typedef unsigned long u64;
        u64 ring3_test_byte(u64 a, u64 b) { a *= 31; return (a << 7 | a >> 57) ^ b; }";
    let library = library::load_c("stress", source, &["-O2", "-fpatchable-function-entry=5"]);
    let byte = library.symbol("ring3_test_byte");
    let model = FuncModel {
        args: vec![ArgModel::U64; 2],
        ret: ArgModel::U64,
    };
    // SAFETY: all subjects take two words; the library stays mapped.
    let (byte, targets) = unsafe {
        let trapped = (trapped as *const () as usize).next_multiple_of(16);
        let stub = |function: Subject| Site::of_stub(function as *const ()).expect("a site");
        let sites = vec![
            stub(stored),
            stub(nested),
            stub(sleeping),
            stub(panicking),
            Site::of_function(trapped, trapped, Patching::Trap).expect("a site"),
            Site::at(byte as usize).expect("a site"),
        ];
        let target = |site| Target::new(site, &model, Certainty::Certain);
        let byte: Subject = std::mem::transmute(byte);
        (byte, sites.into_iter().map(target).collect::<Vec<_>>())
    };
    let subjects: [Subject; 6] = [stored, nested, sleeping, caught, trapped, byte];
    let programs: Vec<[ProgRef; 3]> = (0..6)
        .map(|_| [0, 0, 1].map(|data| program(check, data)))
        .collect();

    let before = wait_for_text(usize::MAX, &targets);
    let done = AtomicBool::new(false);
    let (mut changes, calls) = (0u64, AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (done, calls) = (&done, &calls);
            scope.spawn(move || {
                let mut state = 0x1234_5678_9abc_def1 + thread;
                while !done.load(Ordering::Relaxed) {
                    for _ in 0..256 {
                        let (a, b) = (random(&mut state, 1 << 40) as u64, state);
                        ARGS.set((a, b));
                        let subject = subjects[random(&mut state, subjects.len())];
                        assert_eq!(subject(a, b), sum(a, b));
                    }
                    calls.fetch_add(256, Ordering::Relaxed);
                }
            });
        }
        let mut state = 0xfeed_5eed_u64;
        let mut attachments = Vec::new();
        let mut stats = None;
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            for _ in 0..32 {
                change(&mut state, &targets, &programs, &mut attachments);
                changes += 1;
            }
            if random(&mut state, 16) == 0 {
                stats = if stats.is_none() {
                    Some(StatsUser::new(&SWITCH))
                } else {
                    None
                };
            }
        }
        drop(attachments);
        done.store(true, Ordering::Relaxed);
    });
    let calls = calls.into_inner();
    let runs = RUNS.load(Ordering::Relaxed);
    println!("{changes} changes, {calls} calls, {runs} runs of programs in {seconds} s");
    assert_eq!(
        WRONG.load(Ordering::Relaxed),
        0,
        "programs saw wrong arguments or results"
    );
    assert!(calls > 1000 && changes > 1000 && runs > 1000);
    let after = wait_for_text(before, &targets);
    assert!(
        after <= before,
        "text in use: {before} bytes before, {after} after"
    );
    assert!(
        targets
            .iter()
            .all(|target| target.attached() == 0 && target.retired() == 0)
    );
}
