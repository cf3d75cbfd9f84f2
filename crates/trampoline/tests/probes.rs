//! Static probes: off they change nothing, on programs see their values, at every place that the compiler made of them.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use ring3_trampoline::{Probe, ProgKind};

use support::program;

static SEEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static COMPUTED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn see(ctx: u64, _: *const ()) -> u64 {
    let ctx: *const u64 = std::ptr::with_exposed_provenance(ctx as usize);
    // SAFETY: the probe has two values.
    let [first, second] = unsafe { [*ctx, *ctx.add(1)] };
    SEEN[0].store(first, Ordering::SeqCst);
    SEEN[1].store(second & 0xffff_ffff, Ordering::SeqCst);
    SEEN[2].fetch_add(1, Ordering::SeqCst);
    0
}

fn compute(number: u64) -> u64 {
    COMPUTED.fetch_add(1, Ordering::SeqCst);
    number * 2
}

#[inline(always)]
fn step(number: u64) -> u64 {
    ring3_trampoline::probe!(stepped(number: u64 = compute(number), half: i32 = -(number as i32) / 2));
    number + 1
}

#[inline(never)]
fn walk(from: u64) -> u64 {
    step(step(from)) + step(from)
}

#[inline(never)]
fn other(number: u64) -> u64 {
    ring3_trampoline::probe!(walked());
    step(number)
}

fn probe(name: &str) -> &'static Probe {
    let probes = ring3_trampoline::probes!().expect("patchable");
    probes
        .into_iter()
        .find(|probe| probe.name() == name)
        .expect("declared")
}

#[test]
fn values_are_computed_and_seen_while_it_is_on() {
    assert_eq!(walk(std::hint::black_box(5)), 13);
    assert_eq!(COMPUTED.load(Ordering::SeqCst), 0);
    let stepped = probe("stepped");
    assert_eq!(stepped.module(), "probes");
    assert!(stepped.places() >= 1);
    assert_eq!(probe("walked").model().args, []);
    let sizes: Vec<_> = stepped
        .model()
        .args
        .iter()
        .map(|arg| (arg.size, arg.is_signed))
        .collect();
    assert_eq!(sizes, [(8, false), (4, true)]);

    let target = stepped.target().expect("a target");
    let attachment = target
        .attach(ProgKind::Fentry, program(see, 0), 0)
        .expect("attachable");
    assert_eq!(walk(std::hint::black_box(5)), 13);
    assert_eq!(SEEN[2].load(Ordering::SeqCst), 0, "off");
    let enabled = stepped.enable().expect("patchable");
    let again = stepped.enable().expect("patchable");
    drop(enabled);
    assert_eq!(walk(std::hint::black_box(5)), 13);
    assert_eq!(SEEN[2].load(Ordering::SeqCst), 3);
    assert_eq!(other(std::hint::black_box(8)), 9);
    let seen = SEEN.each_ref().map(|word| word.load(Ordering::SeqCst));
    assert_eq!(seen, [16, u64::from(-4i32 as u32), 4]);
    let computed = COMPUTED.load(Ordering::SeqCst);
    assert_eq!(computed, 4);
    drop(again);
    assert_eq!(walk(std::hint::black_box(5)), 13);
    assert_eq!(COMPUTED.load(Ordering::SeqCst), computed);
    drop(attachment);
}
