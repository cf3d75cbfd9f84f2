//! Both engines on everything there is: every accepted fixture over the capture, and generated programs.
#![cfg(feature = "engines")]

use std::time::{Duration, Instant};

use ring3::{
    EngineKind, LoadOptions, LoadedObject, Program,
    helpers::packet::SKB_PROG_TYPES,
    maps::Access,
    net::{CaptureReader, CapturedPacket, run_frame},
    objects::Object,
    uapi::{Errno, MapType, ProgType},
};
use ring3_testkit::{
    engines::{Compared, Hits, Plant, compare},
    fixture::{elf_fixtures, fixtures_dir, kernel_btf},
    generate::{Generated, Rng, program},
};

fn capture() -> Vec<CapturedPacket> {
    let mut reader = CaptureReader::open(&fixtures_dir().join("pcap/loopback.pcap")).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet().unwrap() {
        packets.push(packet);
    }
    packets
}

/// Keys and values.
type Elements = Vec<(Vec<u8>, Vec<u8>)>;

/// Elements of every map, sorted, per-CPU values summed: engines may run on different CPUs.
fn contents(loaded: &LoadedObject) -> Vec<(String, Elements)> {
    loaded
        .maps()
        .map(|(name, map)| {
            let map = map.map();
            let is_percpu = matches!(map.map_type(), MapType::PercpuArray | MapType::PercpuHash);
            let mut elements = Vec::new();
            let mut key: Option<Vec<u8>> = None;
            loop {
                let mut next = vec![0; map.key_size() as usize];
                match map.sys_next_key(Access::ReadOnly, key.as_deref(), &mut next) {
                    Ok(()) => {}
                    Err(Errno::ENOENT) => break,
                    // Queues, rings and local storage have no keys to walk.
                    Err(errno) => {
                        assert!(key.is_none(), "map '{name}': {errno}");
                        break;
                    }
                }
                let mut value = vec![0; map.sys_value_bytes()];
                if map
                    .sys_lookup(Access::ReadOnly, &next, &mut value, 0)
                    .is_ok()
                {
                    if is_percpu {
                        let words = value
                            .chunks_exact(8)
                            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
                        value = words.sum::<u64>().to_ne_bytes().to_vec();
                    }
                    elements.push((next.clone(), value));
                }
                key = Some(next);
            }
            elements.sort();
            (name.to_owned(), elements)
        })
        .collect()
}

/// Loads what can be loaded, with the fixtures' own kernel types.
fn load(object: &Object, engine: EngineKind) -> LoadedObject {
    let options = LoadOptions {
        engine,
        keep_going: true,
        ..LoadOptions::default()
    };
    let system = ring3::system();
    system.set_kernel_btf(kernel_btf("6.18").unwrap());
    object.load_in(&system, &options).unwrap()
}

/// Whether a program's context is a packet.
fn takes_packets(program: &Program) -> bool {
    program.prog_type() == ProgType::Xdp || SKB_PROG_TYPES.contains(&program.prog_type())
}

/// Whether what a program gives depends on the clock or on chance.
fn is_deterministic(program: &Program) -> bool {
    program.name() != "say"
}

#[test]
fn fixtures_give_the_same_on_both_engines() {
    let packets = capture();
    let mut ran = 0;
    for fixture in elf_fixtures().unwrap() {
        let object = Object::open(&fixture.path).unwrap();
        let (jit, interp) = (
            load(&object, EngineKind::Jit),
            load(&object, EngineKind::Interp),
        );
        for (name, program) in jit.programs().filter(|(_, prog)| takes_packets(prog)) {
            let other = interp.program(name).unwrap();
            for packet in &packets {
                let (a, b) = (
                    run_frame(program, &packet.data).unwrap(),
                    run_frame(other, &packet.data).unwrap(),
                );
                assert!(
                    a == b || !is_deterministic(program),
                    "{} {name}: {a:02x?} {b:02x?}",
                    fixture.name
                );
                ran += 1;
            }
        }
        if fixture.name == "helpers/nested" {
            // From the second packet on it walks two elements, in the order of each map's own seed; `tests/helpers.rs` compares the first run.
            continue;
        }
        // Work queues run their callbacks on a thread of their own.
        let deadline = Instant::now() + Duration::from_secs(10);
        while contents(&jit) != contents(&interp) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(contents(&jit), contents(&interp), "{}", fixture.name);
    }
    assert!(ran > 3000, "{ran} runs");
}

#[test]
fn tail_calls_stop_at_the_limit() {
    for engine in [EngineKind::Jit, EngineKind::Interp] {
        let object = Object::open(fixtures_dir().join("elf/tail/chain.o")).unwrap();
        let loaded = load(&object, engine);
        loaded.set_tail_call("table", 1, "count_hops").unwrap();
        let (retval, _) = run_frame(loaded.program("dispatch").unwrap(), &[0; 64]).unwrap();
        // 33 tail calls: the dispatcher's, then 32 of the target to itself; the 34th falls through.
        assert_eq!(retval, 33, "{engine:?}");
        let (retval, _) = run_frame(loaded.program("count_hops").unwrap(), &[0; 64]).unwrap();
        assert_eq!(
            retval,
            33 + 34,
            "{engine:?}: the first run plus 33 tail calls"
        );
    }
}

#[test]
fn generated_programs_give_the_same_on_both_engines() {
    let system = ring3::system();
    let mut hits = Hits::default();
    let mut equal = 0;
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let generated = program(&mut rng);
        match compare(
            &system,
            &generated,
            &[seed as u8; 64],
            Plant::Nothing,
            &mut hits,
        ) {
            Compared::Equal => equal += 1,
            Compared::Rejected(_) => {}
            Compared::Different(how) => panic!("seed {seed}: {how}"),
        }
    }
    assert!(equal > 200, "{equal} of 300 were accepted");
}

#[test]
fn a_planted_fault_is_found_in_either_engine() {
    let system = ring3::system();
    for plant in [Plant::Jit, Plant::Interp] {
        let found = (0..50).any(|seed| {
            let generated = program(&mut Rng::new(seed));
            let compared = compare(&system, &generated, &[1; 64], plant, &mut Hits::default());
            matches!(compared, Compared::Different(_))
        });
        assert!(found, "{plant:?}");
    }
}

/// `bpf_loop` of no rounds: its callback is dead code, and what is left names it (seen on Linux 6.18: such a program runs).
#[test]
fn a_loop_of_no_rounds_runs_on_both_engines() {
    let text = "
        *(u64 *)(r10 -8) = 3
        r1 = 0
        r2 = func[step] ll
        r3 = r10
        r3 += -8
        r4 = 0
        call #181
        r0 = *(u64 *)(r10 -8)
        exit
    step:
        r0 = 0
        exit";
    let insns = ring3::isa::parse_asm(text, &ring3::isa::NoNames)
        .unwrap()
        .insns;
    let start = insns.len() as u32 - 2;
    let generated = Generated {
        prog_type: ProgType::Xdp,
        insns,
        functions: vec![0, start],
        calls_helpers: false,
    };
    let system = ring3::system();
    let packet = [0; 64];
    let mut hits = Hits::default();
    let compared = compare(&system, &generated, &packet, Plant::Nothing, &mut hits);
    assert!(matches!(compared, Compared::Equal), "{compared:?}");
}

/// Prog arrays take programs of one engine and one type; slots change under running threads.
#[test]
fn slots_of_prog_arrays_change_under_two_threads_and_refuse_strangers() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    /// Changes that are made at least, and until both kinds of run were seen at most.
    const ROUNDS_MIN: u32 = 200;
    const ROUNDS_MAX: u32 = 1_000_000;
    for engine in [EngineKind::Jit, EngineKind::Interp] {
        let object = Object::open(fixtures_dir().join("elf/tail/chain.o")).unwrap();
        let loaded = load(&object, engine);
        let other = match engine {
            EngineKind::Jit => EngineKind::Interp,
            _ => EngineKind::Jit,
        };
        let stranger = load(&object, other);
        let table = loaded.maps().find(|(name, _)| *name == "table").unwrap().1;
        let target = loaded.program("count_hops").unwrap();
        let error = ring3::objects::set_program(table, 1, stranger.program("count_hops").unwrap())
            .unwrap_err();
        assert_eq!(error.errno, Errno::EINVAL, "{engine:?}");
        let dispatch = loaded.program("dispatch").unwrap();
        let without = run_frame(dispatch, &[0; 64]).unwrap().0;
        let done = AtomicBool::new(false);
        // Runs through the empty slot, and through the filled one.
        let seen = [const { AtomicU64::new(0) }; 2];
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let (retval, _) = run_frame(dispatch, &[0; 64]).unwrap();
                        seen[usize::from(retval != without)].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let all_seen = || seen.iter().all(|runs| runs.load(Ordering::Relaxed) != 0);
            for round in 0.. {
                if round >= ROUNDS_MIN && (all_seen() || round == ROUNDS_MAX) {
                    break;
                }
                ring3::objects::set_program(table, 1, target).unwrap();
                std::thread::yield_now();
                ring3::objects::set_program(table, 1, target).unwrap();
                table
                    .map()
                    .sys_delete(
                        Access::ReadWrite,
                        &1u32.to_ne_bytes(),
                        &ring3::maps::fd::NoFds,
                    )
                    .unwrap();
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            assert!(all_seen(), "{engine:?}: {seen:?}");
        });
        assert_eq!(run_frame(dispatch, &[0; 64]).unwrap().0, without);
    }
}
