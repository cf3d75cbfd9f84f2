//! The two engines beside each other: the same program, packet and maps must give the same result, packet and map contents.
//!
//! Key types: [`Compared`], [`Hits`]. The oracle proves itself with [`Plant`]: one engine gets a program with one operation exchanged, and the
//! difference must be seen.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use ring3::{
    EngineKind, Error, LoadError, MapObject, ProgAttr, Program, System, TestRun, TestRunResult,
    helpers::{
        FileObject,
        packet::{
            NetDevice, PacketWorld, RouteAnswer, RouteQuery, Sock, SockQuery, SockSpec, WorldGuard,
            sock_family, sock_state,
        },
        plain_context::run_file_open,
    },
    maps::{Access, MapAttr, fd::NoFds},
    objects::set_program,
    uapi::{
        Errno, FuncId, MapType, ProgType,
        flags::{map_create, prog_load},
    },
};
use ring3_isa::{CallTarget, Insn, RawInsn, decode};

use crate::generate::helpers::{HELPER_MAPS, TEXTS, kernel_types, map_types, sleeps, target};
use crate::generate::{Generated, MAPS, PROG_ARRAY, tail_target};

/// Which engine is given a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// None: the two must agree.
    Nothing,
    /// The machine code's program has a fault.
    Jit,
    /// The interpreter's program has a fault.
    Interp,
    /// The code of this rule of the compiler is wrong.
    Rule(&'static str),
}

/// What came of a program.
#[derive(Debug)]
pub enum Compared {
    /// The verifier does not accept it.
    Rejected(Box<LoadError>),
    /// Both engines agree.
    Equal,
    /// They differ; what and how.
    Different(String),
}

/// How often opcodes and helpers were in accepted programs.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    /// By operation code.
    pub opcodes: BTreeMap<u8, u64>,
    /// By helper.
    pub helpers: BTreeMap<FuncId, u64>,
}

impl Hits {
    /// Counts the instructions of a program.
    pub fn add(&mut self, insns: &[RawInsn]) {
        let mut at = 0;
        while let Ok((insn, slots)) = decode(insns, at) {
            *self.opcodes.entry(insns[at].code).or_default() += 1;
            if let Insn::Call(CallTarget::Helper(id)) = insn
                && let Some(id) = FuncId::from_raw(id as u32)
            {
                *self.helpers.entry(id).or_default() += 1;
            }
            at += slots;
        }
    }
}

/// A program with its own maps, on one engine.
struct Loaded {
    maps: Vec<Arc<MapObject>>,
    program: Arc<Program>,
    /// Held by the prog array.
    _target: Arc<Program>,
}

/// The maps of generated programs, in the order of their numbers.
///
/// # Errors
/// A map cannot be created.
pub(crate) fn create_maps(system: &Arc<System>) -> Result<Vec<Arc<MapObject>>, Box<LoadError>> {
    let create = |&(map_type, key, value, entries): &(MapType, u32, u32, u32)| {
        let attr = MapAttr::new(map_type, key, value, entries);
        MapObject::create(system, &attr, None, None)
    };
    MAPS.iter()
        .map(create)
        .collect::<Result<_, _>>()
        .map_err(setup_error)
}

/// A system for generated programs.
pub(crate) fn new_system() -> Arc<System> {
    let system = ring3::system();
    system.set_kernel_btf(kernel_types().btf.clone());
    system.set_kernel_variables(true);
    system
}

/// The maps beyond those of [`create_maps`] that programs which call helpers name.
///
/// # Errors
/// A map cannot be created.
pub(crate) fn create_helper_maps(
    system: &Arc<System>,
) -> Result<Vec<Arc<MapObject>>, Box<LoadError>> {
    let (btf, type_id) = map_types();
    let create = |&(map_type, key, value, entries, type_name): &(MapType, u32, u32, u32, &str)| {
        let mut attr = MapAttr::new(map_type, key, value, entries);
        if map_type.name().ends_with("_storage") && !type_name.is_empty() {
            attr.map_flags = map_create::NO_PREALLOC;
        }
        if type_name == "texts" {
            attr.map_flags = map_create::RDONLY_PROG;
        }
        if type_name.is_empty() {
            return MapObject::create(system, &attr, None, None);
        }
        attr.btf_key_type_id = type_id("int").0;
        attr.btf_value_type_id = type_id(type_name).0;
        let object = MapObject::create(system, &attr, Some(btf.clone()), None)?;
        if type_name == "texts" {
            let mut value = vec![0; 64];
            for (at, text) in [0, 32].into_iter().zip(TEXTS) {
                value[at..at + text.len()].copy_from_slice(text);
            }
            let map = object.map();
            map.sys_update(Access::ReadWrite, &[0; 4], &value, 0, &NoFds)
                .and_then(|()| map.sys_freeze(Access::ReadWrite))
                .map_err(|errno| Error::new(errno, "the map of constant strings"))?;
        }
        Ok(object)
    };
    HELPER_MAPS
        .iter()
        .map(create)
        .collect::<Result<_, _>>()
        .map_err(setup_error)
}

/// What a generated program is loaded with.
pub(crate) fn prog_attr(
    generated: &Generated,
    engine: EngineKind,
    maps: &[Arc<MapObject>],
) -> ProgAttr {
    let mut attr = ProgAttr::new(generated.prog_type, generated.insns.clone());
    attr.engine = engine;
    if sleeps(generated.prog_type) {
        attr.flags = prog_load::SLEEPABLE;
    }
    let (attach_type, function) = target(generated.prog_type);
    attr.expected_attach_type = attach_type.raw();
    attr.attach_btf_id = function;
    attr.maps = (0..).zip(maps.iter().map(Arc::clone)).collect();
    attr
}

/// A network with nothing but a listener for every second port that asks.
struct Listeners;

impl PacketWorld for Listeners {
    fn device(&self, _: u32) -> Option<Arc<NetDevice>> {
        None
    }

    fn peer(&self, _: u32) -> Option<u32> {
        None
    }

    fn route(&self, _: &RouteQuery) -> RouteAnswer {
        RouteAnswer::NoDevice
    }

    fn send_clone(&self, _: &[u8], _: u32, _: bool) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn find_socket(&self, query: &SockQuery) -> Option<Arc<Sock>> {
        static LISTENER: LazyLock<Arc<Sock>> = LazyLock::new(|| {
            let any = ([0; 16], 0);
            Sock::new(SockSpec::tcp(
                sock_family::INET,
                sock_state::LISTEN,
                any,
                any,
            ))
        });
        query
            .source
            .1
            .is_multiple_of(2)
            .then(|| Arc::clone(&LISTENER))
    }
}

/// Runs a program once: a test run, or for security hooks over files, which have none, the opening of a file.
pub(crate) fn run_once(program: &Program, run: &TestRun) -> Result<TestRunResult, Error> {
    static FILE: LazyLock<FileObject> = LazyLock::new(|| FileObject::new("/usr/share/ring3", 77));
    static WORLD: LazyLock<Arc<Listeners>> = LazyLock::new(|| Arc::new(Listeners));
    if program.attr().prog_type != ProgType::Lsm {
        let _world = WorldGuard::enter(WORLD.clone());
        return program.test_run_with(run);
    }
    let verdict = run_file_open(program, &FILE)
        .map_err(|errno| Error::new(errno, "no program of the hook file_open"))?;
    Ok(TestRunResult {
        retval: verdict as u32,
        ..TestRunResult::default()
    })
}

/// A test run over a packet, or over its first bytes where the context is plain memory.
pub(crate) fn run_over(prog_type: ProgType, packet: &[u8]) -> TestRun {
    const CTX_BYTES: usize = 64;
    if matches!(prog_type, ProgType::RawTracepoint | ProgType::Syscall) {
        return TestRun {
            ctx_in: packet[..packet.len().min(CTX_BYTES)].to_owned(),
            ..TestRun::default()
        };
    }
    if prog_type == ProgType::SkLookup {
        // An IPv4 question from the first bytes; fields that must be 0 are.
        const FAMILY: usize = 8;
        const PROTOCOL: usize = 12;
        const LOCAL_PORT: usize = 60;
        const BYTES: usize = 72;
        let mut ctx_in = vec![0; BYTES];
        ctx_in[FAMILY] = 2;
        let given = packet.len().min(LOCAL_PORT + 2 - PROTOCOL);
        ctx_in[PROTOCOL..PROTOCOL + given].copy_from_slice(&packet[..given]);
        return TestRun {
            ctx_in,
            ..TestRun::default()
        };
    }
    TestRun::packet(packet)
}

/// What surrounds a program could not be made.
pub(crate) fn setup_error(error: Error) -> Box<LoadError> {
    Box::new(LoadError {
        program: "maps".into(),
        error,
        log: String::new(),
        insn_idx: None,
        is_unjudged: false,
    })
}

fn load(
    system: &Arc<System>,
    generated: &Generated,
    engine: EngineKind,
) -> Result<Loaded, Box<LoadError>> {
    let maps = create_maps(system)?;
    let attr = |generated: &Generated| {
        let mut attr = ProgAttr::new(generated.prog_type, generated.insns.clone());
        attr.engine = engine;
        let (btf, func_info) = generated.btf();
        attr.btf = Some(btf);
        attr.func_info = func_info;
        attr.maps = maps
            .iter()
            .enumerate()
            .map(|(fd, map)| (fd as i32, Arc::clone(map)))
            .collect();
        attr
    };
    let program = Program::load(system, attr(generated))?;
    let target = Program::load(system, attr(&tail_target(generated.prog_type)))?;
    set_program(&maps[PROG_ARRAY as usize], 1, &target).map_err(setup_error)?;
    Ok(Loaded {
        maps,
        program,
        _target: target,
    })
}

/// Exchanges the last exclusive or of registers for an or.
fn planted(generated: &Generated) -> Option<Generated> {
    const XOR_REG: u8 = 0xaf;
    const OR_REG: u8 = 0x4f;
    let mut faulty = generated.clone();
    let at = faulty.insns.iter().rposition(|insn| insn.code == XOR_REG)?;
    faulty.insns[at].code = OR_REG;
    Some(faulty)
}

/// Key and value bytes.
pub(crate) type Element = (Vec<u8>, Vec<u8>);

/// Everything an element-wise comparison needs of a map: keys and values, sorted.
pub(crate) fn contents(map: &MapObject) -> Result<Vec<Element>, Errno> {
    let map = map.map();
    let attr = map.attr();
    if attr.map_type == MapType::ProgArray {
        return Ok(Vec::new());
    }
    let mut elements = Vec::new();
    let mut key: Option<Vec<u8>> = None;
    loop {
        let mut next = vec![0; attr.key_size as usize];
        match map.sys_next_key(Access::ReadOnly, key.as_deref(), &mut next) {
            Ok(()) => {}
            Err(Errno::ENOENT) => break,
            Err(errno) => return Err(errno),
        }
        let mut value = vec![0; map.sys_value_bytes()];
        map.sys_lookup(Access::ReadOnly, &next, &mut value, 0)?;
        if attr.map_type == MapType::PercpuArray || attr.map_type == MapType::PercpuHash {
            // The two engines may have run on different CPUs: what counts is the sum over them.
            let sum = value.chunks_exact(8).fold(0u64, |sum, copy| {
                sum.wrapping_add(u64::from_ne_bytes(std::array::from_fn(|i| copy[i])))
            });
            value = sum.to_ne_bytes().to_vec();
        }
        elements.push((next.clone(), value));
        key = Some(next);
    }
    elements.sort();
    Ok(elements)
}

/// Runs a program on both engines over a packet.
pub fn compare(
    system: &Arc<System>,
    generated: &Generated,
    packet: &[u8],
    plant: Plant,
    hits: &mut Hits,
) -> Compared {
    let faulty = planted(generated);
    let for_engine = |engine| match (&faulty, plant, engine) {
        (Some(faulty), Plant::Jit, EngineKind::Jit)
        | (Some(faulty), Plant::Interp, EngineKind::Interp) => faulty,
        _ => generated,
    };
    let mut results: Vec<(Loaded, Result<TestRunResult, Error>)> = Vec::new();
    for engine in [EngineKind::Jit, EngineKind::Interp] {
        let loaded = match load(system, for_engine(engine), engine) {
            Ok(loaded) => loaded,
            Err(error) => return Compared::Rejected(error),
        };
        let result = loaded.program.test_run_with(&TestRun::packet(packet));
        results.push((loaded, result));
    }
    hits.add(&generated.insns);
    let [(jit, jit_result), (interp, interp_result)] = &results[..] else {
        unreachable!("two engines")
    };
    match (jit_result, interp_result) {
        (Ok(a), Ok(b)) if a.retval != b.retval => {
            return Compared::Different(format!(
                "result: jit {:#x}, interp {:#x}",
                a.retval, b.retval
            ));
        }
        (Ok(a), Ok(b)) if a.data_out != b.data_out => {
            return Compared::Different(format!(
                "packet: jit {:02x?}, interp {:02x?}",
                a.data_out, b.data_out
            ));
        }
        (Ok(_), Ok(_)) => {}
        (a, b) => return Compared::Different(format!("run: jit {a:?}, interp {b:?}")),
    }
    for (number, (a, b)) in jit.maps.iter().zip(&interp.maps).enumerate() {
        let (a, b) = (contents(a), contents(b));
        if a != b {
            return Compared::Different(format!("map {number}: jit {a:02x?}, interp {b:02x?}"));
        }
    }
    Compared::Equal
}
