//! Programs on programs: every fixture's packet programs and their functions, before and after; what is traced does what it does untraced.
#![cfg(feature = "engines")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ring3::{
    LoadOptions, LoadedObject, MapObject, ProgAttr, Program, System,
    helpers::packet::SKB_PROG_TYPES,
    isa::{NoNames, parse_asm},
    maps::{Access, MapAttr},
    net::{CaptureReader, run_frame},
    objects::{LinkObject, Object},
    runtime::ProgObject,
    tracing::Tracing,
    uapi::{AttachType, Errno, MapType, ProgType},
};
use ring3_btf::{FuncModel, TypeId};
use ring3_testkit::fixture::{elf_fixtures, fixtures_dir, kernel_btf};

/// Words of a watcher's map: runs, then what it saw at the last one.
const WORDS: usize = 8;

fn system() -> Arc<System> {
    let system = System::new();
    ring3::net::register(&system);
    system.set_kernel_btf(kernel_btf("6.18").unwrap());
    system
}

fn load(system: &Arc<System>, object: &Object) -> LoadedObject {
    let options = LoadOptions {
        keep_going: true,
        ..LoadOptions::default()
    };
    object.load_in(system, &options).unwrap()
}

fn load_fixture(system: &Arc<System>, path: &str) -> LoadedObject {
    load(system, &Object::open(fixtures_dir().join(path)).unwrap())
}

/// A program at a function, which counts its runs and keeps the arguments, and the result behind it.
struct Watcher {
    map: Arc<MapObject>,
    _link: Arc<LinkObject>,
}

fn watcher_program(
    system: &Arc<System>,
    target: &Arc<Program>,
    function: TypeId,
    attach_type: AttachType,
    words: usize,
) -> (Arc<MapObject>, Arc<Program>) {
    let attr = MapAttr::new(MapType::Array, 4, 8 * WORDS as u32, 1);
    let map = MapObject::create(system, &attr, None, None).unwrap();
    let mut text =
        "r6 = map[0]+0 ll\nr2 = *(u64 *)(r6 + 0)\nr2 += 1\n*(u64 *)(r6 + 0) = r2\n".to_owned();
    for word in 0..words {
        let (from, to) = (8 * word, 8 * word + 8);
        text += &format!("r2 = *(u64 *)(r1 + {from})\n*(u64 *)(r6 + {to}) = r2\n");
    }
    text += "r0 = 0\nexit\n";
    let insns = parse_asm(&text, &NoNames).unwrap().insns;
    let mut attr = ProgAttr::new(ProgType::Tracing, insns);
    attr.expected_attach_type = attach_type.raw();
    attr.maps.insert(0, Arc::clone(&map));
    attr.attach_prog = Some(Arc::clone(target));
    attr.attach_btf_id = function;
    let prog = Program::load(system, attr).unwrap_or_else(|error| {
        panic!(
            "{} on {}: {error}\n{}",
            attach_type.name(),
            target.name(),
            error.log
        )
    });
    (map, prog)
}

impl Watcher {
    fn new(
        tracing: &Tracing,
        target: &Arc<Program>,
        function: TypeId,
        attach_type: AttachType,
        words: usize,
    ) -> Watcher {
        let (map, prog) = watcher_program(tracing.system(), target, function, attach_type, words);
        let link = tracing.link(&prog, 0).unwrap();
        Watcher { map, _link: link }
    }

    fn saw(&self) -> [u64; WORDS] {
        let mut value = [0; 8 * WORDS];
        let map = self.map.map();
        map.sys_lookup(Access::ReadOnly, &[0; 4], &mut value, 0)
            .unwrap();
        std::array::from_fn(|word| {
            u64::from_ne_bytes(value[8 * word..8 * word + 8].try_into().unwrap())
        })
    }
}

/// Both watchers of one function, and how many arguments they see.
struct Watched {
    entry: Watcher,
    exit: Watcher,
    args: usize,
    is_main: bool,
}

/// Every function of a program that tracing programs may name.
fn functions(prog: &Program) -> Vec<(TypeId, usize, bool)> {
    let verified = prog.verified();
    let btf = prog.attr().btf.as_ref();
    let mut found = Vec::new();
    for (index, subprog) in verified.subprogs.iter().enumerate() {
        let id = TypeId(subprog.type_id);
        let Some(func) = btf.and_then(|btf| btf.type_by_id(id)) else {
            continue;
        };
        if id.is_void() || verified.exception_cb == Some(index as u32) {
            continue;
        }
        let args = match subprog.unreliable {
            true => 5,
            false => FuncModel::from_proto(btf.unwrap(), func.type_id(), "")
                .unwrap()
                .arg_slots(),
        };
        found.push((id, args, index == 0));
    }
    found
}

fn takes_packets(program: &Program) -> bool {
    program.prog_type() == ProgType::Xdp || SKB_PROG_TYPES.contains(&program.prog_type())
}

/// Whether what a program gives depends on the clock or on chance.
fn is_deterministic(program: &Program) -> bool {
    program.name() != "say"
}

#[test]
fn every_packet_program_and_its_functions_are_seen_and_left_alone() {
    let mut reader = CaptureReader::open(&fixtures_dir().join("pcap/loopback.pcap")).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet().unwrap() {
        packets.push(packet);
    }
    let (mut programs, mut subprograms, mut runs_of_subprograms) = (0, 0, 0);
    for fixture in elf_fixtures().unwrap() {
        let object = Object::open(&fixture.path).unwrap();
        let (plain_system, system) = (system(), system());
        let (plain, loaded) = (load(&plain_system, &object), {
            let loaded = Tracing::new(&system);
            (load(&system, &object), loaded)
        });
        let (loaded, tracing) = loaded;
        for (name, prog) in loaded.programs().filter(|(_, prog)| takes_packets(prog)) {
            let watched: Vec<Watched> = functions(prog)
                .into_iter()
                .map(|(id, args, is_main)| Watched {
                    entry: Watcher::new(&tracing, prog, id, AttachType::TraceFentry, args),
                    exit: Watcher::new(&tracing, prog, id, AttachType::TraceFexit, args + 1),
                    args,
                    is_main,
                })
                .collect();
            assert!(
                watched.iter().any(|watched| watched.is_main),
                "{}",
                fixture.name
            );
            programs += 1;
            subprograms += watched.len() - 1;
            for (packet, nth) in packets.iter().zip(1..) {
                let what = || format!("{} {name} packet {nth}", fixture.name);
                let expected = run_frame(plain.program(name).unwrap(), &packet.data).unwrap();
                let (retval, frame) = run_frame(prog, &packet.data).unwrap();
                let is_same = (retval, &frame) == (expected.0, &expected.1);
                assert!(is_same || !is_deterministic(prog), "{}", what());
                for Watched {
                    entry,
                    exit,
                    args,
                    is_main,
                } in &watched
                {
                    if name.starts_with("throws") {
                        // An exception leaves functions that have not come to their end.
                        continue;
                    }
                    // Callbacks of work queues run on another thread, and may be between the two.
                    let deadline = Instant::now() + Duration::from_secs(10);
                    let (entry, exit) = loop {
                        let seen = (entry.saw(), exit.saw());
                        if seen.0[0] == seen.1[0] || Instant::now() > deadline {
                            break seen;
                        }
                        std::thread::yield_now();
                    };
                    assert_eq!(entry[..=*args], exit[..=*args], "{}", what());
                    if *is_main {
                        assert_eq!(entry[0], nth, "{}", what());
                        assert!(entry[1] > 4096, "{}: a context at {:x}", what(), entry[1]);
                        assert_eq!(exit[*args + 1] as u32, retval, "{}", what());
                    }
                }
            }
            runs_of_subprograms += watched
                .iter()
                .filter(|watched| !watched.is_main)
                .map(|watched| watched.entry.saw()[0])
                .sum::<u64>();
        }
    }
    assert!(programs > 25, "{programs} programs");
    assert!(subprograms > 5, "{subprograms} subprograms");
    assert!(
        runs_of_subprograms > 100,
        "{runs_of_subprograms} runs of subprograms"
    );
}

#[test]
fn tail_calls_from_and_into_traced_programs_stop_at_the_limit() {
    let system = system();
    let tracing = Tracing::new(&system);
    let loaded = load_fixture(&system, "elf/tail/chain.o");
    loaded.set_tail_call("table", 1, "count_hops").unwrap();
    let watch = |name: &str| {
        let prog = loaded.program(name).unwrap();
        let (id, args, _) = functions(prog)[0];
        let of = |attach_type, words| Watcher::new(&tracing, prog, id, attach_type, words);
        [
            of(AttachType::TraceFentry, args),
            of(AttachType::TraceFexit, args + 1),
        ]
    };
    let [dispatched, returned] = watch("dispatch");
    let [hopped, hopped_back] = watch("count_hops");
    let (retval, _) = run_frame(loaded.program("dispatch").unwrap(), &[0; 64]).unwrap();
    assert_eq!(retval, 33);
    assert_eq!(
        (dispatched.saw()[0], returned.saw()[0], returned.saw()[2]),
        (1, 1, 33)
    );
    // A tail call enters behind the entry that is traced.
    assert_eq!((hopped.saw()[0], hopped_back.saw()[0]), (0, 0));
    let (retval, _) = run_frame(loaded.program("count_hops").unwrap(), &[0; 64]).unwrap();
    assert_eq!(retval, 33 + 34);
    assert_eq!((hopped.saw()[0], hopped_back.saw()[2]), (1, 33 + 34));
}

#[test]
fn a_traced_subprogram_keeps_the_count_of_tail_calls() {
    let system = system();
    let tracing = Tracing::new(&system);
    let loaded = load_fixture(&system, "elf/tail/with_subprog.o");
    loaded.set_tail_call("next", 0, "with_subprog").unwrap();
    let prog = loaded.program("with_subprog").unwrap();
    let plain_system = self::system();
    let plain = load_fixture(&plain_system, "elf/tail/with_subprog.o");
    plain.set_tail_call("next", 0, "with_subprog").unwrap();
    let (expected, _) = run_frame(plain.program("with_subprog").unwrap(), &[0; 64]).unwrap();
    let (id, args, _) = functions(prog)[1];
    let entry = Watcher::new(&tracing, prog, id, AttachType::TraceFentry, args);
    let exit = Watcher::new(&tracing, prog, id, AttachType::TraceFexit, args + 1);
    let (retval, _) = run_frame(prog, &[0; 64]).unwrap();
    assert_eq!(retval, expected);
    // `jump` runs in the first program and in the 33 that follow it.
    assert_eq!((entry.saw()[0], exit.saw()[0]), (34, 34));
}

/// An extension that returns a number, with its target's own BTF.
fn extension(
    system: &Arc<System>,
    target: &Arc<Program>,
    function: TypeId,
    value: i32,
) -> Result<Arc<Program>, Box<ring3::LoadError>> {
    let insns = parse_asm(&format!("r0 = {value}\nexit"), &NoNames)
        .unwrap()
        .insns;
    let mut attr = ProgAttr::new(ProgType::Ext, insns);
    attr.btf = target.attr().btf.clone();
    attr.func_info.rec_size = 8;
    attr.func_info.count = 1;
    attr.func_info.bytes = [0, function.0]
        .map(u32::to_le_bytes)
        .as_flattened()
        .to_vec();
    attr.attach_prog = Some(Arc::clone(target));
    attr.attach_btf_id = function;
    Program::load(system, attr)
}

#[test]
fn extensions_replace_global_functions_and_exclude_what_they_must() {
    let system = system();
    let tracing = Tracing::new(&system);
    let loaded = load_fixture(&system, "elf/tail/chain.o");
    let (dispatch, other) = (
        loaded.program("dispatch").unwrap(),
        loaded.program("count_hops").unwrap(),
    );
    let main = functions(dispatch)[0].0;
    let run = || run_frame(dispatch, &[0; 64]).unwrap().0;
    assert_eq!(run(), 2);
    let ext = extension(&system, dispatch, main, 7).unwrap_or_else(|e| panic!("{e}\n{}", e.log));
    assert_eq!(ext.prog_type(), ProgType::Ext);
    let errno = |result: Result<Arc<LinkObject>, ring3::Error>| result.unwrap_err().errno;
    // Traced: not replaced.
    let watcher = Watcher::new(&tracing, dispatch, main, AttachType::TraceFentry, 1);
    assert_eq!(errno(tracing.link(&ext, 0)), Errno::EBUSY);
    drop(watcher);
    // In a prog array: not replaced.
    loaded.set_tail_call("table", 2, "dispatch").unwrap();
    assert_eq!(errno(tracing.link(&ext, 0)), Errno::EBUSY);
    let table = loaded.map_object("table").unwrap().map();
    table
        .sys_delete(
            Access::ReadWrite,
            &2u32.to_ne_bytes(),
            &ring3::maps::fd::NoFds,
        )
        .unwrap();
    let link = tracing.link(&ext, 0).unwrap();
    assert_eq!(run(), 7);
    // Replaced: not traced, not replaced, not put into prog arrays.
    let (_, fentry) = watcher_program(&system, dispatch, main, AttachType::TraceFentry, 1);
    assert_eq!(errno(tracing.link(&fentry, 0)), Errno::EBUSY);
    let second = extension(&system, dispatch, main, 8).unwrap();
    assert_eq!(errno(tracing.link(&second, 0)), Errno::EBUSY);
    let refused = loaded.set_tail_call("table", 2, "dispatch").unwrap_err();
    assert_eq!(refused.errno, Errno::EBUSY);
    // It was attached once: now it names its target.
    assert_eq!(errno(tracing.link(&ext, 0)), Errno::EINVAL);
    let elsewhere = functions(other)[0].0;
    let both = tracing.link_to(&ext, other, elsewhere, 0).unwrap();
    assert_eq!(run_frame(other, &[0; 64]).unwrap().0, 7);
    drop(both);
    assert_eq!(run_frame(other, &[0; 64]).unwrap().0, 1);
    let detail = format!("{:?}", link.info());
    assert!(
        detail.contains(&format!("target_obj_id: {}", dispatch.id())),
        "{detail}"
    );
    drop(link);
    assert_eq!(run(), 2);
    loaded.set_tail_call("table", 2, "dispatch").unwrap();
    let target = Arc::clone(dispatch);
    let kept = Arc::downgrade(&ext);
    drop((ext, second, loaded));
    ring3_sync_barrier();
    assert!(kept.upgrade().is_none(), "nothing holds the extension");
    drop(target);
}

/// Lets everything that waits for readers go.
fn ring3_sync_barrier() {
    // The reaper looks a hundred times a second.
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn links_are_refused_as_their_targets_say() {
    let system = system();
    let tracing = Tracing::new(&system);
    let loaded = load_fixture(&system, "elf/xdp/pass.o");
    let (_, prog) = loaded.programs().next().unwrap();
    let main = functions(prog)[0].0;
    let errno = |result: Result<Arc<LinkObject>, ring3::Error>| result.unwrap_err().errno;
    // Not a program of functions.
    assert_eq!(errno(tracing.link(prog, 0)), Errno::EINVAL);
    let (_, fentry) = watcher_program(&system, prog, main, AttachType::TraceFentry, 1);
    // A new target is for extensions.
    assert_eq!(
        errno(tracing.link_to(&fentry, prog, main, 0)),
        Errno::EINVAL
    );
    let link = tracing.link(&fentry, 0).unwrap();
    // Once attached to a program, never again.
    assert_eq!(errno(tracing.link(&fentry, 0)), Errno::EINVAL);
    assert_eq!(link.update(&fentry, None).unwrap_err().errno, Errno::EINVAL);
    assert!(link.is_fixed());
    // A tracing program may be traced, but what traces it may not.
    let load = |target: &Arc<Program>| {
        let mut attr = fentry.attr().clone();
        attr.attach_prog = Some(Arc::clone(target));
        attr.attach_btf_id = main;
        attr.btf = prog.attr().btf.clone();
        attr.func_info.rec_size = 8;
        attr.func_info.count = 1;
        attr.func_info.bytes = [0, main.0].map(u32::to_le_bytes).as_flattened().to_vec();
        Program::load(&system, attr)
    };
    let first = load(prog).unwrap_or_else(|error| panic!("{error}"));
    let second = load(&first).unwrap_or_else(|error| panic!("{error}\n{}", error.log));
    let third = load(&second).err().unwrap();
    assert_eq!(third.error.errno, Errno::EINVAL);
    assert!(
        third
            .error
            .message
            .contains("Cannot nest tracing program attach more than once")
    );
    let _first = tracing.link(&first, 0).unwrap();
    let _second = tracing.link(&second, 0).unwrap();
    run_frame(prog, &[0; 64]).unwrap();
}
