//! Detaching does not allocate, whatever is left over; run statistics outlive attachments.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use ring3_btf::{ArgModel, FuncModel};
use ring3_runtime::{ProgRef, RunStats, StatsUser};
use ring3_trampoline::{Attachment, Certainty, Patching, ProgKind, Site, Target, attach_all};

use support::{SWITCH, program, program_with_id};

/// Counts the allocations of a thread.
struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

unsafe extern "C" fn nothing(_: u64, _: *const ()) -> u64 {
    0
}

/// Calls the function that it is attached to.
unsafe extern "C" fn again(_: u64, _: *const ()) -> u64 {
    timed(1)
}

/// The same.
unsafe extern "C" fn again_shared(_: u64, _: *const ()) -> u64 {
    shared(1)
}

ring3_trampoline::traceable! {
    fn stored(a: u64) -> u64 { std::hint::black_box(a) + 1 }
    fn trapped(a: u64) -> u64 { std::hint::black_box(a) + 1 }
    fn timed(a: u64) -> u64 { std::hint::black_box(a) }
    fn shared(a: u64) -> u64 { std::hint::black_box(a) }
    fn one(a: u64) -> u64 { std::hint::black_box(a) }
    fn two(a: u64) -> u64 { std::hint::black_box(a) }
}

fn target(function: extern "C-unwind" fn(u64) -> u64, patching: Patching) -> Arc<Target> {
    let model = FuncModel {
        args: vec![ArgModel::U64],
        ret: ArgModel::U64,
    };
    let nop = (function as *const () as usize).next_multiple_of(16);
    // SAFETY: the functions are declared by `traceable` and take a word.
    unsafe {
        let site = Site::of_function(nop, nop, patching).expect("a site");
        Target::new(site, &model, Certainty::Certain)
    }
}

#[test]
fn detaching_does_not_allocate() {
    for (function, patching) in [
        (stored as _, Patching::Fastest),
        (trapped as _, Patching::Trap),
    ] {
        let target = target(function, patching);
        let kinds = [ProgKind::Fentry, ProgKind::FmodRet, ProgKind::Fexit];
        for order in 0..6 {
            let programs: Vec<ProgRef> = (0..192).map(|_| program(nothing, 0)).collect();
            let mut attachments: Vec<Attachment> = programs
                .iter()
                .enumerate()
                .map(|(at, prog)| target.attach(kinds[at % 3], prog.clone(), at as u64))
                .collect::<Result<_, _>>()
                .expect("attachable");
            // Holders of the target and its programs go too, but for one that is last to see them.
            let keep = (target.clone(), programs);
            while !attachments.is_empty() {
                let at = match order {
                    0 => 0,
                    1 => attachments.len() - 1,
                    _ => (attachments.len() * order * 7 + 3) % attachments.len(),
                };
                let attachment = attachments.swap_remove(at);
                let before = ALLOCATIONS.get();
                drop(attachment);
                assert_eq!(ALLOCATIONS.get(), before, "{} left", attachments.len());
                if attachments.len() % 50 == 7 {
                    target.reap();
                }
            }
            assert_eq!(target.attached(), 0);
            drop(keep);
        }
        // The last attachment is the last to hold the target, and the program.
        let attachment = target
            .attach(ProgKind::Fexit, program(nothing, 0), 0)
            .expect("attachable");
        drop(target);
        let before = ALLOCATIONS.get();
        drop(attachment);
        assert_eq!(ALLOCATIONS.get(), before);
    }
}

#[test]
fn runs_are_counted_while_somebody_asks() {
    let target = target(timed, Patching::Fastest);
    let (before, after) = (program(nothing, 0), program(again, 0));
    let attachments = [
        target
            .attach(ProgKind::Fentry, before.clone(), 0)
            .expect("attachable"),
        target
            .attach(ProgKind::Fexit, after.clone(), 0)
            .expect("attachable"),
    ];
    // The program after the function calls it once more, and is skipped there.
    timed(1);
    let counted = |prog: &ProgRef| {
        let stats = prog.run_stats().expect("these programs have them");
        (stats.count(), stats.recursion_misses())
    };
    assert_eq!(counted(&before), (0, 0));
    assert_eq!(counted(&after), (0, 1));
    let counting = StatsUser::new(&SWITCH);
    for _ in 0..10 {
        assert_eq!(timed(7), 7);
    }
    std::thread::spawn(|| timed(1)).join().expect("no panic");
    drop(counting);
    timed(1);
    assert_eq!(counted(&before), (22, 0));
    assert_eq!(counted(&after), (11, 13));
    let timed_ns = after.run_stats().map_or(0, RunStats::time_ns);
    assert!(timed_ns >= 11, "a clock was read: {timed_ns} ns");
    drop(attachments);
    let _again = target
        .attach(ProgKind::Fentry, before.clone(), 0)
        .expect("attachable");
    // Another system's programs being counted says nothing of these.
    let other = Arc::default();
    let _other = StatsUser::new(&other);
    timed(1);
    assert_eq!(counted(&before), (22, 0));
    let _counting = StatsUser::new(&SWITCH);
    timed(1);
    assert_eq!(counted(&before), (23, 0));
}

#[test]
fn ids_of_two_systems_may_be_equal() {
    let target = target(shared, Patching::Fastest);
    let (before, after) = (
        program_with_id(7, nothing, 0),
        program_with_id(7, again_shared, 0),
    );
    let _attachments = [
        target
            .attach(ProgKind::Fentry, before.clone(), 0)
            .expect("attachable"),
        target
            .attach(ProgKind::Fexit, after.clone(), 0)
            .expect("attachable"),
    ];
    // While the program after the function runs, the one before it is another's and is not skipped.
    shared(1);
    let misses = |prog: &ProgRef| prog.run_stats().map(RunStats::recursion_misses);
    assert_eq!(misses(&before), Some(0));
    assert_eq!(misses(&after), Some(1));
}

#[test]
fn several_targets_are_attached_to_all_or_none() {
    let targets = [
        target(one, Patching::Fastest),
        target(two, Patching::Fastest),
    ];
    let prog = program(nothing, 0);
    let in_the_way = targets[1]
        .attach(ProgKind::Fentry, prog.clone(), 0)
        .expect("attachable");
    assert!(attach_all(&targets, ProgKind::Fentry, &prog, 0).is_err());
    assert_eq!([targets[0].attached(), targets[1].attached()], [0, 1]);
    drop(in_the_way);
    let all = attach_all(&targets, ProgKind::Fentry, &prog, 0).expect("attachable");
    assert_eq!([targets[0].attached(), targets[1].attached()], [1, 1]);
    drop(all);
    assert_eq!([targets[0].attached(), targets[1].attached()], [0, 0]);
}
