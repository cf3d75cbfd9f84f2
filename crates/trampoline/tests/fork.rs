//! A child of fork(2) has text of its own: it attaches and detaches right after the fork, and neither process sees the other's patches.
//!
//! One test: a fork of a process with running tests would copy locks that they hold.

mod library;
mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use ring3_btf::{ArgModel, FuncModel};
use ring3_trampoline::{Certainty, Patching, ProgKind, Site, Target};

use support::program;

static RUNS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn count(_: u64, _: *const ()) -> u64 {
    RUNS.fetch_add(1, Ordering::SeqCst);
    0
}

ring3_trampoline::traceable! {
    fn first(a: u64) -> u64 { std::hint::black_box(a) + 1 }
    fn second(a: u64) -> u64 { std::hint::black_box(a) + 2 }
}

/// Runs of `f` by one call.
fn runs_of(call: &dyn Fn() -> u64, expected: u64) -> u64 {
    RUNS.store(0, Ordering::SeqCst);
    assert_eq!(call(), expected);
    RUNS.load(Ordering::SeqCst)
}

/// Runs `body` in a child; whether it came to its end.
fn in_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `body` and exits at once.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork");
        if pid == 0 {
            let is_good =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(false);
            libc::_exit(if is_good { 0 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        status == 0
    }
}

#[test]
fn parent_and_child_patch_each_for_itself() {
    let source = "unsigned long ring3_test_forked(unsigned long a) { return a + 3; }";
    let library = library::load_c("forked", source, &["-O2", "-fpatchable-function-entry=5"]);
    let model = FuncModel {
        args: vec![ArgModel::U64],
        ret: ArgModel::U64,
    };
    // SAFETY: the functions take a word; the library stays mapped.
    let (third, targets) = unsafe {
        let address = library.symbol("ring3_test_forked");
        let third: extern "C" fn(u64) -> u64 = std::mem::transmute(address);
        let stub = |function: *const ()| Site::of_stub(function).expect("a site");
        let nop = (second as *const () as usize).next_multiple_of(16);
        let sites = [
            stub(first as *const ()),
            Site::of_function(nop, nop, Patching::Trap).expect("a site"),
            Site::at(address as usize).expect("a site"),
        ];
        (
            third,
            sites.map(|site| Target::new(site, &model, Certainty::Certain)),
        )
    };
    let calls: [&dyn Fn() -> u64; 3] = [&|| first(1), &|| second(1), &|| third(1)];
    for (at, (target, call)) in targets.iter().zip(calls).enumerate() {
        let result = 2 + at as u64;
        let runs = || runs_of(call, result);
        let attach = |kind| {
            target
                .attach(kind, program(count, 0), 0)
                .expect("attachable")
        };
        // The child of an untraced parent attaches and detaches; the parent stays untraced.
        assert!(in_child(|| {
            let entry = attach(ProgKind::Fentry);
            let exit = attach(ProgKind::Fexit);
            let both = runs();
            drop(entry);
            let one = runs();
            drop(exit);
            (both, one, runs()) == (2, 1, 0)
        }));
        assert_eq!(runs(), 0, "target {at}");
        // The child of a traced parent detaches; the parent stays traced.
        let attachment = attach(ProgKind::Fexit);
        let attachment = std::cell::Cell::new(Some(attachment));
        assert!(in_child(|| {
            let before = runs();
            drop(attachment.take());
            (before, runs()) == (1, 0)
        }));
        assert_eq!(runs(), 1, "target {at}");
        drop(attachment);
        assert_eq!(runs(), 0);
        // A child's child, too.
        assert!(in_child(|| {
            let _entry = attach(ProgKind::Fentry);
            in_child(|| {
                let _exit = attach(ProgKind::Fexit);
                runs() == 2
            }) && runs() == 1
        }));
    }
    // A thread of the parent in a read section is no thread of the child, whose writers do not wait for it.
    let (entered, release) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _section = ring3_sync::rcu::read();
            entered.wait();
            release.wait();
        });
        entered.wait();
        assert!(in_child(|| ring3_sync::rcu::synchronize().is_ok()));
        release.wait();
    });
    // Parent and child take other random numbers.
    let thread = ring3_sync::rcu::thread();
    thread.set_random_state(5);
    assert!(in_child(|| {
        let child = [(); 4].map(|()| thread.next_random());
        thread.set_random_state(5);
        child != [(); 4].map(|()| thread.next_random())
    }));
    // Without the C library's handlers, text is the parent's: nothing is written.
    assert!(!ring3_os::fork::is_text_shared());
    // SAFETY: the child makes no call of the C library that needs its locks.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        let is_shared = ring3_os::fork::is_text_shared();
        let is_refused = targets[0]
            .attach(ProgKind::Fentry, program(count, 0), 0)
            .is_err();
        // SAFETY: ends the child.
        unsafe { libc::_exit(if is_shared && is_refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    unsafe { libc::waitpid(pid as i32, &mut status, 0) };
    assert_eq!(status, 0);
}
