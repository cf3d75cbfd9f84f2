//! Trampolines: what programs add to a call, in cycles over the untraced call of the same run, and what attaching and detaching takes.
//!
//! Programs are compiled ones that return 0, as in the figures of the kernel's trampolines. A cycle is what a link of a chain of dependent
//! additions takes, measured in turns with everything else.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use ring3::isa::{NoNames, parse_asm};
use ring3::jit_x86_64::{Compiled, Options, compile};
use ring3::runtime::{Entry, Linked, ProgObject, ProgRef};
use ring3::trampoline::{Attachment, Certainty, ProgKind, Site, Target, attach_all};
use ring3::uapi::ProgType;

use crate::Outcome;
use crate::measure::{Contender, minima};
use crate::report::{Report, Row};

const ROUNDS: usize = 400;
const CALLS: usize = 1000;
/// Functions that are attached to at once.
const FUNCTIONS: usize = 1000;

/// A compiled program.
struct Prog {
    id: u32,
    compiled: Compiled,
}

impl ProgObject for Prog {
    fn id(&self) -> u32 {
        self.id
    }
    fn entry(&self) -> Entry {
        self.compiled.entry()
    }
    fn tail_target(&self) -> usize {
        self.compiled.tail_target()
    }
    fn prog_type(&self) -> ProgType {
        ProgType::Tracing
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn program(id: u32) -> Outcome<ProgRef> {
    let text = parse_asm("r0 = 0\n exit", &NoNames).map_err(|error| format!("{error:?}"))?;
    let linked = Linked::unverified(text.insns, &|_| None).map_err(|error| error.to_string())?;
    let compiled = compile(&linked, &Options::default()).map_err(|error| error.to_string())?;
    Ok(Arc::new(Prog { id, compiled }))
}

macro_rules! subjects {
    ($($name:ident)*) => {
        ring3::trampoline::traceable! {$(
            fn $name(a: u64, b: u64) -> u64 {
                a ^ b
            }
        )*}
    };
}

subjects!(untraced fentry1 fentry2 fentry10 fentry40 fexit1 fexit2 fexit10 fexit40 both attached_alone);

type Subject = extern "C-unwind" fn(u64, u64) -> u64;

fn model() -> ring3::btf::FuncModel {
    ring3::btf::FuncModel {
        args: vec![ring3::btf::ArgModel::U64; 2],
        ret: ring3::btf::ArgModel::U64,
    }
}

fn target(function: Subject) -> Outcome<Arc<Target>> {
    // SAFETY: 1. every subject is declared by `traceable` and takes two words.
    Ok(unsafe {
        Target::new(
            Site::of_stub(function as *const ())?,
            &model(),
            Certainty::Certain,
        )
    })
}

/// Nanoseconds of one call out of many.
fn calls(function: Subject) -> f64 {
    let function = black_box(function);
    let begin = Instant::now();
    for at in 0..CALLS as u64 {
        black_box(function(at, 5));
    }
    begin.elapsed().as_nanos() as f64 / CALLS as f64
}

/// Nanoseconds of a cycle.
fn cycle() -> f64 {
    const LINKS: u64 = 16;
    const TURNS: u64 = 2000;
    let begin = Instant::now();
    let mut word = black_box(1u64);
    for _ in 0..TURNS {
        // SAFETY: 1. adds registers.
        unsafe {
            std::arch::asm!(
                "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3",
                "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3",
                "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3",
                "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3", "imul {0}, {0}, 3",
                inout(reg) word, options(nomem, nostack)
            );
        }
    }
    black_box(word);
    // A multiplication takes three cycles on every x86-64 processor since 2008.
    begin.elapsed().as_nanos() as f64 / (3 * LINKS * TURNS) as f64
}

/// Subject, programs before and after, goal in cycles.
const CASES: [(&str, Subject, usize, usize, f64); 9] = [
    ("fentry x1", fentry1, 1, 0, 10.0),
    ("fentry x2", fentry2, 2, 0, 16.0),
    ("fentry x10", fentry10, 10, 0, 64.0),
    ("fentry x40", fentry40, 40, 0, 220.0),
    ("fexit x1", fexit1, 0, 1, 13.0),
    ("fexit x2", fexit2, 0, 2, 19.0),
    ("fexit x10", fexit10, 0, 10, 67.0),
    ("fexit x40", fexit40, 0, 40, 220.0),
    ("fentry and fexit", both, 1, 1, 23.0),
];

/// `cargo xtask bench trampoline`
pub(crate) fn bench() -> Outcome<Report> {
    let mut report = Report::default();
    let programs = (1..=40).map(program).collect::<Outcome<Vec<_>>>()?;
    let mut attachments = Vec::new();
    for (_, subject, before, after, _) in CASES {
        let target = target(subject)?;
        for (kind, count) in [(ProgKind::Fentry, before), (ProgKind::Fexit, after)] {
            for program in &programs[..count] {
                attachments.push(target.attach(kind, program.clone(), 0)?);
            }
        }
    }
    let mut contenders = vec![
        Contender::sampled("cycle", cycle),
        Contender::sampled("untraced", || calls(untraced)),
    ];
    for (name, subject, ..) in CASES {
        contenders.push(Contender::sampled(name, move || calls(subject)));
    }
    let best = minima(ROUNDS, &mut contenders);
    let (cycle, untraced) = (best[0], best[1]);
    for ((name, _, _, _, goal), ns) in CASES.into_iter().zip(&best[2..]) {
        report.rows.push(Row {
            name: format!("{name}, over the untraced call"),
            ours_ns: ns - untraced,
            reference: format!("{goal} cycles"),
            reference_ns: goal * cycle,
            per: "call",
        });
        report.note(format!(
            "{name}: {:.1} cycles over the untraced call, goal {goal}",
            (ns - untraced) / cycle
        ));
    }
    report.note(format!(
        "untraced: {:.1} cycles of {cycle:.3} ns",
        untraced / cycle
    ));
    drop(attachments);
    one_function(&mut report, &programs[0])?;
    many_functions(&mut report, &programs[0])?;
    Ok(report)
}

/// Attaching to one function and detaching, which is timed alone.
fn one_function(report: &mut Report, program: &ProgRef) -> Outcome<()> {
    let target = target(attached_alone)?;
    let (mut attach, mut detach) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS * 10 {
        let begin = Instant::now();
        let attachment = target.attach(ProgKind::Fentry, program.clone(), 0)?;
        let between = Instant::now();
        drop(black_box(attachment));
        detach = detach.min(between.elapsed().as_nanos() as f64);
        attach = attach.min((between - begin).as_nanos() as f64);
    }
    for (name, ours_ns, reference_ns) in [("attach", attach, 1000.0), ("detach", detach, 100.0)] {
        report.rows.push(Row {
            name: format!("{name}, one function"),
            ours_ns,
            reference: format!("{reference_ns} ns"),
            reference_ns,
            per: "op",
        });
    }
    Ok(())
}

macro_rules! thousand {
    ($($a:ident)*) => { thousand!(@ [$($a)*] [A B C D E F G H I J]) };
    (@ [$($a:ident)*] $b:tt) => { [$(thousand!(# $a $b)),*] };
    (# $a:ident [$($b:ident)*]) => { [$(thousand!(% $a $b)),*] };
    (% $a:ident $b:ident) => {{
        mod one {
            ring3::trampoline::traceable! {
                pub(super) fn zero(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn one(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn two(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn three(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn four(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn five(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn six(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn seven(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn eight(a: u64, b: u64) -> u64 { a ^ b }
                pub(super) fn nine(a: u64, b: u64) -> u64 { a ^ b }
            }
        }
        [one::zero as Subject, one::one, one::two, one::three, one::four, one::five, one::six, one::seven, one::eight, one::nine]
    }};
}

/// Attaching to a thousand functions at once, and detaching from all.
fn many_functions(report: &mut Report, program: &ProgRef) -> Outcome<()> {
    let functions: [[[Subject; 10]; 10]; 10] = thousand!(a b c d e f g h i j);
    let targets = functions
        .into_iter()
        .flatten()
        .flatten()
        .map(target)
        .collect::<Outcome<Vec<_>>>()?;
    assert_eq!(targets.len(), FUNCTIONS);
    let (mut attach, mut detach) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..50 {
        let begin = Instant::now();
        let attachments: Vec<Attachment> = attach_all(&targets, ProgKind::Fentry, program, 0)?;
        let between = Instant::now();
        drop(black_box(attachments));
        detach = detach.min(between.elapsed().as_nanos() as f64);
        attach = attach.min((between - begin).as_nanos() as f64);
    }
    for (name, ours_ns, reference_ns) in [
        ("attach", attach, 1e6),
        ("detach", detach, 100.0 * FUNCTIONS as f64),
    ] {
        report.rows.push(Row {
            name: format!("{name}, {FUNCTIONS} functions"),
            ours_ns,
            reference: format!("{} us", reference_ns / 1000.0),
            reference_ns,
            per: "op",
        });
    }
    Ok(())
}
