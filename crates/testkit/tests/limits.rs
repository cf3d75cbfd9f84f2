//! Runs with a limit: stopped at a jump back, with everything they hold given back.
#![cfg(feature = "engines")]

use std::sync::{Arc, mpsc};
use std::time::Duration;

use ring3::maps::{MapAttr, RingBuf};
use ring3::objects::Object;
use ring3::runtime::Limit;
use ring3::uapi::{Errno, MapType, ProgType};
use ring3::{EngineKind, LoadError, LoadOptions, MapObject, ProgAttr, Program, System};
use ring3_isa::parse_asm;
use ring3_testkit::filetest::HelperNames;
use ring3_testkit::fixture::fixtures_dir;

const PACKET: [u8; 64] = [0; 64];

fn limit(jumps_back: u64) -> Limit {
    Limit {
        jumps_back: Some(jumps_back),
        time: None,
    }
}

/// A tc program over maps by number.
fn load(
    system: &Arc<System>,
    text: &str,
    maps: &[&Arc<MapObject>],
    limit: Limit,
) -> Result<Arc<Program>, Box<LoadError>> {
    let insns = parse_asm(text, &HelperNames).unwrap().insns;
    let mut attr = ProgAttr::new(ProgType::SchedCls, insns);
    attr.limit = limit;
    for (fd, map) in maps.iter().enumerate() {
        attr.maps.insert(fd as i32, Arc::clone(map));
    }
    Program::load(system, attr)
}

fn ring(system: &Arc<System>) -> Arc<MapObject> {
    MapObject::create(
        system,
        &MapAttr::new(MapType::Ringbuf, 0, 0, 4096),
        None,
        None,
    )
    .unwrap()
}

/// Whether no record before the last one is still being written: then the consumer gets past all of them.
fn is_drained(ring: &MapObject) -> bool {
    let ring: &RingBuf = ring.map().downcast().unwrap();
    ring.consume(|_| {});
    !ring.has_data()
}

fn is_stopped(program: &Program) -> bool {
    let before = program.stopped_runs();
    match program.test_run(&PACKET) {
        Ok(_) => {
            assert_eq!(program.stopped_runs(), before);
            false
        }
        Err(error) => {
            assert_eq!(error.errno, Errno::ETIME, "{error}");
            assert_eq!(program.stopped_runs(), before + 1);
            true
        }
    }
}

/// Loops until `may_goto` ends it, after 8 million rounds.
const LOOP: &str = "
again:  may_goto out
        goto again
out:    r0 = 7
        exit";

#[test]
fn a_budget_stops_a_loop_and_no_other() {
    let system = ring3::system();
    let counted = "
        r1 = 100
again:  r1 += -1
        if r1 != 0 goto again
        r0 = 7
        exit";
    // More than the portion that is counted at once.
    let long = counted.replace("100", "20000");
    for (text, budget, stops) in [
        (counted, 100, false),
        (counted, 99, true),
        (&long, 20_000, false),
        (&long, 19_999, true),
        (LOOP, 1000, true),
        (LOOP, 10_000_000, false),
        ("r0 = 7\n exit", 0, false),
    ] {
        let program = load(&system, text, &[], limit(budget)).unwrap();
        for _ in 0..3 {
            assert_eq!(is_stopped(&program), stops, "{budget}: {text}");
        }
        if !stops {
            assert_eq!(program.test_run(&PACKET).unwrap().retval, 7);
        }
    }
}

#[test]
fn a_watchdog_stops_a_long_run() {
    let system = ring3::system();
    // Far more rounds than anyone waits for.
    let text = "
        r6 = 0
outer:  may_goto out
        r7 = 0
inner:  r7 += 1
        if r7 < 4000 goto inner
        goto outer
out:    r0 = 7
        exit";
    let time = Limit {
        jumps_back: None,
        time: Some(Duration::from_millis(2)),
    };
    let program = load(&system, text, &[], time).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(program.test_run(&PACKET).unwrap_err().errno, Errno::ETIME);
                }
            });
        }
    });
    assert_eq!(program.stopped_runs(), 6);
    let short = load(&system, "r0 = 7\n exit", &[], time).unwrap();
    assert!(!is_stopped(&short));
}

#[test]
fn what_is_held_at_the_jump_back_is_released() {
    let system = ring3::system();
    let in_register = "
        r1 = map[0] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        if r0 == 0 goto none
        r6 = r0
again:  may_goto out
        goto again
out:    r1 = r6
        r2 = 0
        call bpf_ringbuf_submit
none:   r0 = 7
        exit";
    let in_slot = "
        r1 = map[0] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        if r0 == 0 goto none
        *(u64 *)(r10 -16) = r0
again:  may_goto out
        goto again
out:    r1 = *(u64 *)(r10 -16)
        r2 = 0
        call bpf_ringbuf_submit
none:   r0 = 7
        exit";
    let dynptr = "
        r1 = map[0] ll
        r2 = 8
        r3 = 0
        r4 = r10
        r4 += -16
        call bpf_ringbuf_reserve_dynptr
again:  may_goto out
        goto again
out:    r1 = r10
        r1 += -16
        r2 = 0
        call bpf_ringbuf_submit_dynptr
        r0 = 7
        exit";
    // Moved pointers, two of them, and the caller's beside the callee's.
    let two_frames = "
        r1 = map[0] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        if r0 == 0 goto none
        r6 = r0
        r6 += 4
        call waits
        r6 += -4
        r1 = r6
        r2 = 0
        call bpf_ringbuf_submit
none:   r0 = 7
        exit
waits:  r1 = map[0] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        r6 = r0
        r1 = map[0] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        if r6 == 0 goto second
        if r0 == 0 goto first
        r7 = r0
again:  may_goto out
        goto again
out:    r1 = r7
        r2 = 0
        call bpf_ringbuf_submit
first:  r1 = r6
        r2 = 0
        call bpf_ringbuf_submit
        r0 = 0
        exit
second: if r0 == 0 goto neither
        r1 = r0
        r2 = 0
        call bpf_ringbuf_submit
neither: r0 = 0
        exit";
    for text in [in_register, in_slot, dynptr, two_frames] {
        let ring = ring(&system);
        let program = load(&system, text, &[&ring], limit(1000)).unwrap();
        for _ in 0..3 {
            assert!(is_stopped(&program), "{text}");
            assert!(is_drained(&ring), "{text}");
        }
        // Without a limit the same run keeps its record: what the consumer finds is no accident.
        let unlimited = load(&system, text, &[&ring], Limit::default()).unwrap();
        assert_eq!(unlimited.test_run(&PACKET).unwrap().retval, 7);
        let records: &RingBuf = ring.map().downcast().unwrap();
        assert!(records.consume(|_| {}) > 0, "{text}");
    }
}

#[test]
fn a_lock_is_given_back() {
    let system = ring3::system();
    let file = fixtures_dir().join("elf/helpers/loops.o");
    let object = Object::open(&file).unwrap();
    let loaded = object.load_in(&system, &LoadOptions::default()).unwrap();
    let (_, values) = loaded.maps().find(|(name, _)| *name == "values").unwrap();
    let text = "
        *(u32 *)(r10 -4) = 0
        r1 = map[0] ll
        r2 = r10
        r2 += -4
        call bpf_map_lookup_elem
        if r0 == 0 goto none
        r6 = r0
        r1 = r6
        call bpf_spin_lock
again:  may_goto out
        goto again
out:    r1 = r6
        call bpf_spin_unlock
none:   r0 = 7
        exit";
    let program = load(&system, text, &[values], limit(1000)).unwrap();
    assert!(is_stopped(&program));
    // Who finds the lock taken waits for ever: in a thread of its own.
    let (done, waits) = mpsc::channel();
    let locks = Arc::clone(loaded.program("locks").unwrap());
    std::thread::spawn(move || done.send(locks.test_run(&PACKET).unwrap().retval));
    assert_eq!(waits.recv_timeout(Duration::from_secs(20)), Ok(0));
}

#[test]
fn callbacks_count_and_stop_their_callers() {
    let system = ring3::system();
    let file = fixtures_dir().join("elf/helpers/loops.o");
    let object = Object::open(&file).unwrap();
    for (budget, stops) in [(50, true), (1000, false)] {
        let options = LoadOptions {
            limit: limit(budget),
            programs: Some(vec!["rounds".to_owned()]),
            ..LoadOptions::default()
        };
        let loaded = object.load_in(&system, &options).unwrap();
        let program = loaded.program("rounds").unwrap();
        assert_eq!(is_stopped(program), stops, "{budget}");
    }
}

#[test]
fn what_cannot_be_told_is_refused_by_name() {
    let system = ring3::system();
    let ring = ring(&system);
    let disagree = "
        r6 = 0
        r7 = *(u32 *)(r1 +0)
        if r7 > 100 goto again
        r1 = map[0] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        r6 = r0
again:  may_goto out
        goto again
out:    if r6 == 0 goto none
        r1 = r6
        r2 = 0
        call bpf_ringbuf_submit
none:   r0 = 7
        exit";
    let refused = load(&system, disagree, &[&ring], limit(1000))
        .err()
        .unwrap();
    assert_eq!(refused.error.errno, Errno::ENOTSUPP);
    let text = refused.error.to_string();
    assert!(
        text.contains("insn 10: paths disagree on what is held"),
        "{text}"
    );
    assert!(text.contains("r6 for ringbuf_discard"), "{text}");
    load(&system, disagree, &[&ring], Limit::default()).unwrap();

    let insns = parse_asm(LOOP, &HelperNames).unwrap().insns;
    let mut attr = ProgAttr::new(ProgType::SchedCls, insns);
    attr.engine = EngineKind::Interp;
    attr.limit = limit(5);
    let refused = Program::load(&system, attr).err().unwrap();
    assert_eq!(refused.error.errno, Errno::ENOTSUPP);
}
