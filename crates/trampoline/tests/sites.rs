//! Entries of every kind are patched while threads run through: nops across quadwords and pages, gcc's five nops, entries that cannot be patched.

mod library;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring3_btf::{ArgModel, FuncModel};
use ring3_trampoline::{Certainty, PatchError, ProgKind, Site, Target};

use library::{Library, load_c};
use support::program;

static RUNS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn count(_: u64, _: *const ()) -> u64 {
    RUNS.fetch_add(1, Ordering::Relaxed);
    0
}

unsafe extern "C" fn ignore(_: u64, _: *const ()) -> u64 {
    0
}

type Subject = extern "C" fn(u64, u64) -> u64;

fn subject(library: &Library, name: &str) -> (Subject, Result<Arc<Target>, PatchError>) {
    let address = library.symbol(name);
    let model = FuncModel {
        args: vec![ArgModel::U64; 2],
        ret: ArgModel::U64,
    };
    // SAFETY: the sources below define functions of two words; libraries stay mapped.
    unsafe {
        let site = Site::at(address as usize);
        let target = site.map(|site| Target::new(site, &model, Certainty::Certain));
        (
            std::mem::transmute::<*mut libc::c_void, Subject>(address),
            target,
        )
    }
}

/// A function with a nop at `offset` from a page's begin; returns the sum of its arguments.
fn asm_function(name: &str, offset: usize, nop: &str) -> String {
    let pad = offset % 4096;
    format!(
        "asm(\".text\\n.p2align 12\\n.skip {pad}, 0x90\\n.globl {name}\\n.type {name}, @function\\n{name}:\\n{nop}\\n\"
             \"lea (%rdi,%rsi), %rax\\nret\\n.size {name}, .-{name}\\n\");\n"
    )
}

#[test]
fn nops_across_borders_are_patched_under_running_threads() {
    const CLANG: &str = ".byte 0x0f, 0x1f, 0x44, 0x00, 0x08";
    const GNU: &str = ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00";
    const FIVE: &str = ".byte 0x90, 0x90, 0x90, 0x90, 0x90";
    let places = [
        ("aligned", 64, CLANG),
        ("quadword", 133, GNU),
        ("line", 61, CLANG),
        ("page", 4094, GNU),
        ("five", 80, FIVE),
        ("five_line", 62, FIVE),
        ("five_page", 4093, FIVE),
    ];
    let source: String = places
        .iter()
        .map(|(name, offset, nop)| asm_function(&format!("ring3_test_{name}"), *offset, nop))
        .collect();
    let library = load_c("sites", &source, &[]);
    for (name, offset, _) in places {
        let (call, target) = subject(&library, &format!("ring3_test_{name}"));
        assert_eq!(call as usize % 4096, offset % 4096);
        let target = target.expect(name);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        for at in 0..500 {
                            assert_eq!(call(at, thread), at + thread, "{name}");
                        }
                    }
                });
            }
            for round in 0..300 {
                let kind = [ProgKind::Fentry, ProgKind::Fexit, ProgKind::FmodRet][round % 3];
                let first = target.attach(kind, program(count, 0), 0).expect(name);
                let second = target
                    .attach(ProgKind::Fexit, program(count, 0), 0)
                    .expect(name);
                // Patched from one jump to another, too.
                drop(first);
                drop(second);
            }
            done.store(true, Ordering::Relaxed);
        });
        // Here, on this thread, attached means seen.
        for kind in [ProgKind::Fentry, ProgKind::Fexit] {
            let before = RUNS.load(Ordering::Relaxed);
            let attachment = target.attach(kind, program(count, 0), 0).expect(name);
            assert_eq!(call(1, 2), 3);
            assert_eq!(RUNS.load(Ordering::Relaxed), before + 1, "{name}");
            drop(attachment);
            assert_eq!(call(1, 2), 3);
            assert_eq!(RUNS.load(Ordering::Relaxed), before + 1, "{name}");
        }
    }
}

#[test]
fn a_function_has_one_tracer() {
    let places = [
        ("store", 64, ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"),
        ("trap", 133, ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"),
        ("byte", 80, ".byte 0x90, 0x90, 0x90, 0x90, 0x90"),
    ];
    let source: String = places
        .iter()
        .map(|(name, offset, nop)| asm_function(&format!("ring3_test_one_{name}"), *offset, nop))
        .collect();
    let library = load_c("tracers", &source, &[]);
    for (name, ..) in places {
        let name = format!("ring3_test_one_{name}");
        let (call, first) = subject(&library, &name);
        let (_, second) = subject(&library, &name);
        let (first, second) = (first.expect(&name), second.expect(&name));
        let attachment = first
            .attach(ProgKind::Fentry, program(ignore, 0), 0)
            .expect(&name);
        for kind in [ProgKind::Fentry, ProgKind::Fexit] {
            let error = second.attach(kind, program(ignore, 0), 0).unwrap_err();
            assert_eq!(error.errno(), ring3_uapi::Errno::EBUSY, "{name}");
        }
        assert_eq!(call(1, 2), 3);
        drop(attachment);
        let attachment = second
            .attach(ProgKind::Fexit, program(ignore, 0), 0)
            .expect(&name);
        assert_eq!(call(1, 2), 3);
        drop(attachment);
    }
}

#[test]
fn entries_that_cannot_be_patched_say_why() {
    let source = asm_function("ring3_test_no_nop", 16, "add $0, %rdi")
        + &asm_function("ring3_test_taken", 16, ".byte 0x90, 0x90, 0x90, 0x90, 0x90");
    let library = load_c("refused", &source, &[]);
    let (_, target) = subject(&library, "ring3_test_no_nop");
    assert_eq!(target.unwrap_err(), PatchError::NoSite);
    // Something lies where the jump over five nops would lead.
    let nop = library.symbol("ring3_test_taken") as usize;
    let page = (nop + 5 - 0x6f6f_6f70) & !4095;
    // SAFETY: maps nothing over a mapping that exists.
    let taken = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        libc::mmap(page as *mut _, 4096, libc::PROT_NONE, flags, -1, 0)
    };
    assert_eq!(taken as usize, page);
    let (call, target) = subject(&library, "ring3_test_taken");
    let error = target.unwrap_err();
    assert_eq!(error, PatchError::NoRoom);
    assert_eq!(error.errno(), ring3_uapi::Errno::ENOTSUPP);
    assert_eq!(call(1, 2), 3);
    // SAFETY: the page is this test's.
    unsafe { libc::munmap(taken, 4096) };
    let (_, target) = subject(&library, "ring3_test_taken");
    assert!(target.is_ok());
}
