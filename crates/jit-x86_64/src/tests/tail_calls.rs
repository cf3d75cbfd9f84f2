//! Tail calls: limits, counts shared with subprograms, fallthrough, frames, updates under running threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::sync::Arc;

use ring3_runtime::{HubRef, Linked, Site, TailCallHub, TailCallSite, TailCallTable, Target};

use super::{MEMORY_BYTES, asm, compile_test, execute, linked_with, variants};
use crate::{Compiled, Options};

/// A prog array with those who follow it.
struct Followed<const N: usize> {
    table: [AtomicUsize; N],
    hub: Arc<TailCallHub>,
}

impl<const N: usize> Followed<N> {
    fn new() -> Self {
        Followed {
            table: table(),
            hub: Arc::default(),
        }
    }

    fn set(&self, index: usize, word: usize) {
        self.table[index].store(word, Ordering::SeqCst);
        self.hub.changed(index as u32, &self.table[index]);
    }

    /// A program whose tail call at `slot` has a constant index.
    fn caller(&self, text: &str, starts: &[u32], slot: u32, index: u32) -> Linked {
        let mut linked = with_tail_calls(text, starts, &[slot], &self.table, Some(index));
        let Target::TailCall(site) = &mut linked.sites[0].target else {
            unreachable!("the only site");
        };
        site.hub = Some(HubRef::new(&self.hub));
        linked
    }
}

/// A program whose `call #12` at these slots go through `table`.
fn with_tail_calls(
    text: &str,
    starts: &[u32],
    calls: &[u32],
    table: &[AtomicUsize],
    const_index: Option<u32>,
) -> Linked {
    let site = TailCallSite {
        table: TailCallTable {
            entries: table.as_ptr(),
            max_entries: table.len() as u32,
        },
        const_index,
        hub: None,
    };
    let sites = calls
        .iter()
        .map(|&slot| Site {
            slot,
            target: Target::TailCall(site),
        })
        .collect();
    linked_with(&asm(text), starts, sites)
}

fn table<const N: usize>() -> [AtomicUsize; N] {
    std::array::from_fn(|_| AtomicUsize::new(0))
}

fn context() -> [u8; MEMORY_BYTES] {
    [0; MEMORY_BYTES]
}

fn word(memory: &[u8; MEMORY_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(memory[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
}

const COUNT_AND_CALL: &str = "
    r6 = r1
    r2 = 1
    lock *(u64 *)(r1 +0) += r2
    r3 = *(u64 *)(r1 +8)
    call #12
    r0 = *(u64 *)(r6 +0)
    exit";

#[test]
fn a_program_that_calls_itself_runs_34_times() {
    for (name, options) in variants() {
        for const_index in [None, Some(0)] {
            let table = table::<1>();
            let linked = with_tail_calls(COUNT_AND_CALL, &[0], &[4], &table, const_index);
            let compiled = compile_test(&linked, &options);
            table[0].store(compiled.tail_target(), Ordering::SeqCst);
            let (r0, memory) = execute(&compiled, context());
            assert_eq!((r0, word(&memory, 0)), (34, 34), "{name}");
            // Every run counts from zero.
            assert_eq!(execute(&compiled, context()).0, 34);
        }
    }
}

#[test]
fn empty_slots_and_bad_indices_fall_through() {
    let table = table::<4>();
    let compiled = compile_test(
        &with_tail_calls(COUNT_AND_CALL, &[0], &[4], &table, None),
        &Options::default(),
    );
    for index in [0u64, 3, 4, 1 << 31, u64::from(u32::MAX)] {
        let mut memory = context();
        memory[8..16].copy_from_slice(&index.to_le_bytes());
        assert_eq!(execute(&compiled, memory).0, 1, "{index}");
    }
    // Only the low half of the index counts.
    table[0].store(compiled.tail_target(), Ordering::SeqCst);
    let mut memory = context();
    memory[8..16].copy_from_slice(&(1u64 << 32).to_le_bytes());
    assert_eq!(execute(&compiled, memory).0, 34);
    let beyond = with_tail_calls(COUNT_AND_CALL, &[0], &[4], &table, Some(4));
    assert_eq!(
        execute(&compile_test(&beyond, &Options::default()), context()).0,
        1
    );
}

/// A program without tail calls that uses every register and returns the context's address plus a constant.
const LEAF: &str = "
    r6 = 1
    r7 = 2
    r8 = 3
    r9 = 4
    *(u64 *)(r10 -512) = 5
    r2 = *(u64 *)(r1 +16)
    r2 += 1
    *(u64 *)(r1 +16) = r2
    r0 = 77
    exit";

#[test]
fn a_chain_of_33_is_run_to_its_end_and_one_of_34_is_not() {
    for links in [1usize, 2, 32, 33, 34] {
        let table = table::<40>();
        let callers: Vec<Compiled> = (0..links)
            .map(|at| {
                let text = format!(
                    "r6 = r1\n r2 = 1\n lock *(u64 *)(r1 +0) += r2\n r3 = {}\n call #12\n r0 = 1000\n exit",
                    at + 1
                );
                compile_test(&with_tail_calls(&text, &[0], &[4], &table, None), &Options::default())
            })
            .collect();
        let leaf = compile_test(
            &linked_with(&asm(LEAF), &[0], Vec::new()),
            &Options::default(),
        );
        for (at, caller) in callers.iter().enumerate() {
            table[at].store(caller.tail_target(), Ordering::SeqCst);
        }
        table[links].store(leaf.tail_target(), Ordering::SeqCst);
        let (r0, memory) = execute(&callers[0], context());
        let reached = links <= 33;
        assert_eq!(r0, if reached { 77 } else { 1000 }, "{links}");
        assert_eq!(word(&memory, 0), links as u64);
        assert_eq!(word(&memory, 2), u64::from(reached));
    }
}

#[test]
fn subprograms_share_the_count_and_get_control_back() {
    // main: calls f three times; f counts and tail-calls itself; every call after the first finds the count used up.
    let text = "
        r6 = r1
        r7 = 11
        r8 = 22
        r9 = 33
        call f
        r1 = r6
        call f
        r1 = r6
        call f
        r0 = r7
        r0 += r8
        r0 += r9
        r2 = *(u64 *)(r6 +0)
        *(u64 *)(r6 +24) = r2
        exit
    f:  r2 = 1
        lock *(u64 *)(r1 +0) += r2
        r7 = 0
        r3 = 0
        call #12
        r0 = 5
        exit";
    for (name, options) in variants() {
        let table = table::<1>();
        let linked = with_tail_calls(text, &[0, 15], &[19], &table, None);
        let compiled = compile_test(&linked, &options);
        // The target counts at +0 too and calls the same slot again.
        let target = "
            r6 = r1
            r2 = 1
            lock *(u64 *)(r1 +0) += r2
            r3 = 0
            call #12
            r0 = 6
            exit";
        let target = compile_test(&with_tail_calls(target, &[0], &[4], &table, None), &options);
        table[0].store(target.tail_target(), Ordering::SeqCst);
        let (r0, memory) = execute(&compiled, context());
        assert_eq!(r0, 66, "{name}");
        // 3 calls of f and 33 tail calls in all.
        assert_eq!(word(&memory, 3), 36, "{name}");
    }
}

#[test]
fn a_target_that_only_calls_keeps_the_count() {
    // The target has no tail call in its main function but one in a function it calls: it is entered behind the wrapper that zeroes.
    let caller =
        "r6 = r1\n r2 = 1\n lock *(u64 *)(r1 +0) += r2\n r3 = 0\n call #12\n r0 = 1\n exit";
    let middle = "
        r6 = r1
        call f
        r0 += 100
        exit
    f:  r6 = r1
        r2 = 1
        lock *(u64 *)(r1 +8) += r2
        r3 = 0
        call #12
        r0 = 1
        exit";
    let table = table::<1>();
    let caller = compile_test(
        &with_tail_calls(caller, &[0], &[4], &table, None),
        &Options::default(),
    );
    let middle = compile_test(
        &with_tail_calls(middle, &[0, 4], &[8], &table, None),
        &Options::default(),
    );
    table[0].store(middle.tail_target(), Ordering::SeqCst);
    // caller -> middle -> f -> middle -> f ...: 33 tail calls, each but the first from f, and every level adds 100.
    let (r0, memory) = execute(&caller, context());
    assert_eq!(word(&memory, 0), 1);
    assert_eq!(word(&memory, 1), 33);
    assert_eq!(r0, 1 + 3300);
}

#[test]
fn slots_change_under_running_threads() {
    let followed = Followed::<1>::new();
    let caller = with_tail_calls(CALLER, &[0], &[2], &followed.table, Some(0));
    changes_are_seen(&compile_test(&caller, &Options::default()), &followed);
    let caller = followed.caller(CALLER, &[0], 2, 0);
    changes_are_seen(&compile_test(&caller, &Options::default()), &followed);
}

const CALLER: &str = "r6 = r1\n r3 = 0\n call #12\n r0 = 1\n exit";

/// Two threads run through the slot while it is set, replaced and emptied: each run ends in one of the programs or falls through.
fn changes_are_seen(caller: &Compiled, followed: &Followed<1>) {
    let leaf = compile_test(
        &linked_with(&asm("r0 = 2\n exit"), &[0], Vec::new()),
        &Options::default(),
    );
    let leaf_two = compile_test(
        &linked_with(&asm("r6 = r10\n r0 = 3\n exit"), &[0], Vec::new()),
        &Options::default(),
    );
    let done = AtomicBool::new(false);
    let seen: [AtomicUsize; 4] = std::array::from_fn(|_| AtomicUsize::new(0));
    let saw_all = || {
        seen[1..]
            .iter()
            .all(|count| count.load(Ordering::Relaxed) >= 100)
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    seen[execute(caller, context()).0 as usize].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut round = 0;
        while !saw_all() && std::time::Instant::now() < deadline {
            for _ in 0..100 {
                round += 1;
                let word = [0, leaf.tail_target(), leaf_two.tail_target()][round % 3];
                followed.set(0, word);
            }
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    // The programs end with this function.
    followed.set(0, 0);
    assert!(saw_all(), "{seen:?}");
    assert_eq!(seen[0].load(Ordering::Relaxed), 0);
}

#[test]
fn a_constant_slot_is_a_jump_that_follows_it() {
    let followed = Followed::<2>::new();
    let compiled = compile_test(&followed.caller(CALLER, &[0], 2, 1), &Options::default());
    let code = super::encoding::text_of(&compiled.text().bytes(), 0);
    assert!(!code.contains("jmp r11"), "{code}");
    assert_eq!(compiled.text().address() % 8, 0);
    assert_eq!(execute(&compiled, context()).0, 1);
    let leaf = compile_test(
        &linked_with(&asm(LEAF), &[0], Vec::new()),
        &Options::default(),
    );
    followed.set(1, leaf.tail_target());
    assert_eq!(execute(&compiled, context()).0, 77);
    // The other slot is somebody else's.
    followed.set(0, compiled.tail_target());
    assert_eq!(execute(&compiled, context()).0, 77);
    followed.set(1, 0);
    assert_eq!(execute(&compiled, context()).0, 1);
    // Compiled while the slot is full.
    followed.set(1, leaf.tail_target());
    let late = compile_test(&followed.caller(CALLER, &[0], 2, 1), &Options::default());
    assert_eq!(execute(&late, context()).0, 77);
    drop(late);
    followed.set(1, 0);
    assert_eq!(execute(&compiled, context()).0, 1);
}

#[test]
fn a_direct_loop_ends_at_the_limit() {
    for (name, options) in variants() {
        let followed = Followed::<1>::new();
        let compiled = compile_test(&followed.caller(COUNT_AND_CALL, &[0], 4, 0), &options);
        followed.set(0, compiled.tail_target());
        let (r0, memory) = execute(&compiled, context());
        assert_eq!((r0, word(&memory, 0)), (34, 34), "{name}");
        assert_eq!(execute(&compiled, context()).0, 34, "{name}");
    }
}

#[test]
fn a_direct_chain_of_33_is_run_to_its_end_and_one_of_34_is_not() {
    for links in [32usize, 33, 34] {
        let followed = Followed::<40>::new();
        let callers: Vec<Compiled> = (0..links)
            .map(|at| {
                let text = "r6 = r1\n r2 = 1\n lock *(u64 *)(r1 +0) += r2\n r3 = 9\n call #12\n r0 = 1000\n exit";
                let linked = followed.caller(text, &[0], 4, at as u32 + 1);
                compile_test(&linked, &Options::default())
            })
            .collect();
        let leaf = compile_test(
            &linked_with(&asm(LEAF), &[0], Vec::new()),
            &Options::default(),
        );
        for (at, caller) in callers.iter().enumerate() {
            followed.set(at, caller.tail_target());
        }
        followed.set(links, leaf.tail_target());
        let (r0, memory) = execute(&callers[0], context());
        assert_eq!(r0, if links <= 33 { 77 } else { 1000 }, "{links}");
        assert_eq!(word(&memory, 0), links as u64);
    }
}

/// Code anywhere: what a slot of a pack out of reach holds.
#[test]
fn targets_out_of_reach_are_jumped_to() {
    let followed = Followed::<1>::new();
    let compiled = compile_test(&followed.caller(CALLER, &[0], 2, 0), &Options::default());
    let leaf = compile_test(
        &linked_with(&asm(LEAF), &[0], Vec::new()),
        &Options::default(),
    );
    // mov r11, target; jmp r11: at an address that no rel32 reaches.
    let here = compiled.text().address();
    let far = ring3_os::map::TwinRegion::create_near(
        "far",
        4096,
        4096,
        here.wrapping_add(64 << 30) & !0xfff,
        1 << 30,
    );
    let Ok(far) = far else {
        panic!("no memory 64 GiB away");
    };
    let mut code = vec![0x49, 0xbb];
    code.extend((leaf.tail_target() as u64).to_le_bytes());
    code.extend([0x41, 0xff, 0xe3]);
    // SAFETY: 1. the view is writable and larger; 2. nobody runs it yet.
    unsafe {
        far.write_view()
            .as_ptr()
            .copy_from_nonoverlapping(code.as_ptr(), code.len());
    }
    let address = far.exec_view().as_ptr().expose_provenance();
    assert!(address.abs_diff(here) > 1 << 31);
    followed.set(0, address);
    assert_eq!(execute(&compiled, context()).0, 77);
    followed.set(0, 0);
    assert_eq!(execute(&compiled, context()).0, 1);
}

#[test]
fn a_planted_fault_in_a_direct_tail_call_is_found() {
    let options = Options {
        planted_fault: Some("direct-tail-call"),
        ..Options::default()
    };
    let followed = Followed::<1>::new();
    let leaf = compile_test(
        &linked_with(&asm(LEAF), &[0], Vec::new()),
        &Options::default(),
    );
    followed.set(0, leaf.tail_target());
    let linked = followed.caller(CALLER, &[0], 2, 0);
    let right = compile_test(&linked, &Options::default());
    assert_eq!(execute(&right, context()).0, 77);
    assert_eq!(execute(&compile_test(&linked, &options), context()).0, 1);
}
