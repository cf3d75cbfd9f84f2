//! Panics of traced functions, and C++ exceptions, leave them as if they were not traced.

mod library;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_btf::{ArgModel, FuncModel};
use ring3_trampoline::{Certainty, ProgKind, Site, Target};

use support::program;

static RUNS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn count(_: u64, _: *const ()) -> u64 {
    RUNS.fetch_add(1, Ordering::SeqCst);
    0
}

/// For the tests that count nothing: they run beside the one that does.
unsafe extern "C" fn nothing(_: u64, _: *const ()) -> u64 {
    0
}

/// Counts drops.
struct Dropped<'a>(&'a AtomicU64);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

static DROPS: AtomicU64 = AtomicU64::new(0);

ring3_trampoline::traceable! {
    fn halve(number: u64) -> u64 {
        let _dropped = Dropped(&DROPS);
        if !number.is_multiple_of(2) {
            std::panic::panic_any(number);
        }
        number / 2
    }
    fn deep(depth: u64) -> u64 {
        let _dropped = Dropped(&DROPS);
        if depth == 0 { halve(7) } else { deep(depth - 1) + 1 }
    }
}

fn target(function: *const ()) -> Arc<Target> {
    let model = FuncModel {
        args: vec![ArgModel::U64],
        ret: ArgModel::U64,
    };
    // SAFETY: the functions are declared by `traceable` and take a word.
    unsafe {
        let site = Site::of_stub(function).expect("a site");
        Target::new(site, &model, Certainty::Certain)
    }
}

/// The caller's own registers must survive: a local in every callee-saved register.
#[inline(never)]
fn call_with_locals(number: u64) -> (Result<u64, u64>, [u64; 6]) {
    let locals: [u64; 6] = std::hint::black_box([1, 2, 3, 4, 5, 6]);
    let [a, b, c, d, e, f] = locals;
    let result = catch_unwind(AssertUnwindSafe(|| halve(number)))
        .map_err(|payload| *payload.downcast::<u64>().expect("the number"));
    (result, [a, b, c, d, e, f])
}

#[test]
fn panics_pass_through_gates() {
    let (halve_target, deep_target) = (target(halve as *const ()), target(deep as *const ()));
    for kinds in [
        &[ProgKind::Fentry][..],
        &[ProgKind::Fexit],
        &[ProgKind::FmodRet],
        &[ProgKind::Fentry, ProgKind::FmodRet, ProgKind::Fexit],
    ] {
        let attachments: Vec<_> = [&halve_target, &deep_target]
            .into_iter()
            .flat_map(|target| {
                kinds
                    .iter()
                    .map(move |&kind| target.attach(kind, program(count, 0), 0))
            })
            .collect::<Result<_, _>>()
            .expect("attachable");
        for round in 0..3 {
            RUNS.store(0, Ordering::SeqCst);
            DROPS.store(0, Ordering::SeqCst);
            assert_eq!(
                call_with_locals(7),
                (Err(7), [1, 2, 3, 4, 5, 6]),
                "{kinds:?}"
            );
            // fexit programs do not run when the function does not return.
            let before = kinds
                .iter()
                .filter(|kind| **kind != ProgKind::Fexit)
                .count() as u64;
            assert_eq!(RUNS.load(Ordering::SeqCst), before, "{kinds:?} {round}");
            assert_eq!(call_with_locals(8), (Ok(4), [1, 2, 3, 4, 5, 6]));
            assert_eq!(DROPS.load(Ordering::SeqCst), 2);
            let payload = catch_unwind(|| deep(5)).expect_err("panics");
            assert_eq!(payload.downcast_ref::<u64>(), Some(&7));
            assert_eq!(DROPS.load(Ordering::SeqCst), 2 + 7, "every frame was left");
        }
        assert!(!ring3_sync::rcu::in_read_section());
        drop(attachments);
        assert_eq!(call_with_locals(7).0, Err(7));
    }
}

ring3_trampoline::traceable! {
    fn where_am_i(_unused: u64) -> u64 {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        u64::from(trace.contains("backtraces_lead_through_gates"))
    }
}

#[test]
fn backtraces_lead_through_gates() {
    assert_eq!(where_am_i(0), 1);
    let target = target(where_am_i as *const ());
    let _attachment = target
        .attach(ProgKind::Fexit, program(nothing, 0), 0)
        .expect("attachable");
    assert_eq!(where_am_i(0), 1);
}

/// A helper that fails.
struct Panics;

impl ring3_runtime::Helper for Panics {
    type Args = (u64,);
    type Ret = i64;
    unsafe fn call((number,): (u64,)) -> i64 {
        panic!("helper of {number}")
    }
}

unsafe extern "C" fn call_helper(_: u64, _: *const ()) -> u64 {
    // SAFETY: the helper reads no memory.
    unsafe { ring3_runtime::helper_fn::<Panics>()(7, 0, 0, 0, 0) }
}

#[test]
fn a_helper_that_panics_ends_the_process() {
    const CHILD: &str = "RING3_TEST_PANICKING_HELPER";
    if std::env::var_os(CHILD).is_some() {
        let target = target(halve as *const ());
        let _attachment = target.attach(ProgKind::Fexit, program(call_helper, 0), 0);
        let caught = catch_unwind(|| halve(8));
        // Not reached: nothing unwinds through a program.
        std::process::exit(i32::from(caught.is_err()));
    }
    let output = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args([
            "--exact",
            "a_helper_that_panics_ends_the_process",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .expect("starts");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(libc::SIGABRT), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("helper of 7"), "{message}");
}

#[test]
fn exceptions_of_cpp_pass_through_gates() {
    let source = r#"
        #include <stdint.h>
        extern "C" __attribute__((noipa)) uint64_t ring3_test_throws(uint64_t number) {
            if (number % 2) throw number;
            return number / 2;
        }
        extern "C" __attribute__((patchable_function_entry(0))) uint64_t ring3_test_catches(uint64_t number) {
            try { return ring3_test_throws(number); } catch (uint64_t thrown) { return thrown + 1000; }
        }"#;
    let flags = [
        "-x",
        "c++",
        "-O2",
        "-fpatchable-function-entry=5",
        "-lstdc++",
    ];
    let library = library::load_c("throws", source, &flags);
    // SAFETY: the source is above; the library stays mapped.
    let (catches, target) = unsafe {
        let catches: extern "C" fn(u64) -> u64 =
            std::mem::transmute(library.symbol("ring3_test_catches"));
        let site = Site::at(library.symbol("ring3_test_throws") as usize).expect("a site");
        let model = FuncModel {
            args: vec![ArgModel::U64],
            ret: ArgModel::U64,
        };
        (catches, Target::new(site, &model, Certainty::Certain))
    };
    for kind in [ProgKind::Fentry, ProgKind::FmodRet, ProgKind::Fexit] {
        let _attachment = target
            .attach(kind, program(nothing, 0), 0)
            .expect("attachable");
        assert_eq!((catches(7), catches(8)), (1007, 4), "{kind:?}");
    }
}
