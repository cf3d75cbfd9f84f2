//! The engines beside each other over millions of programs: `cargo xtask fuzz engines`. Key types: [`Fuzz`], [`Counts`].
//!
//! One [`Fuzz`] a thread, bound to a CPU so that per-CPU values of both engines are those of one CPU. Maps are made once and emptied between
//! programs; each program runs over several packets on both engines, whose results, packets and, at the end, maps must be equal. The compiler
//! works with all optional CPU features, with none, or blinded, in turns.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring3::maps::{Access, fd::NoFds};
use ring3::objects::{Engine, JitOptions, set_program};
use ring3::uapi::MapType;
use ring3::{
    EngineKind, Error, LoadError, MapObject, ProgAttr, Program, System, TestRunResult,
    jit_x86_64::CpuFeatures,
};
use ring3_uapi::ProgType;

use crate::engines::{
    Compared, Hits, contents, create_helper_maps, create_maps, new_system, prog_attr, run_once,
    run_over, setup_error,
};
use crate::generate::{Generated, PROG_ARRAY, Rng, helpers, program, tail_target};

/// Packets that each program runs over.
pub const PACKETS: usize = 4;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Programs that ran, equal on both engines.
    pub programs: u64,
    /// Programs that the verifier refused.
    pub rejected: u64,
    /// Runs of a program over a packet, on both engines.
    pub inputs: u64,
    /// Programs by how they were compiled: all CPU features, none, blinded.
    pub variants: [u64; 3],
    /// Operation codes and helpers of accepted programs.
    pub hits: Hits,
    /// Uses of the compiler's rules.
    pub rules: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Counts) {
        self.programs += other.programs;
        self.rejected += other.rejected;
        self.inputs += other.inputs;
        for (mine, more) in self.variants.iter_mut().zip(other.variants) {
            *mine += more;
        }
        for (&code, count) in &other.hits.opcodes {
            *self.hits.opcodes.entry(code).or_default() += count;
        }
        for (&id, count) in &other.hits.helpers {
            *self.hits.helpers.entry(id).or_default() += count;
        }
        for (&rule, count) in &other.rules {
            *self.rules.entry(rule).or_default() += count;
        }
    }
}

/// Maps of one engine, for programs of one type.
struct Side {
    maps: Vec<Arc<MapObject>>,
    /// Held by the prog array.
    _target: Arc<Program>,
}

/// A difference, with the seed that shows it again.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Seed of the program and its packets.
    pub seed: u64,
    /// What differs.
    pub how: String,
}

/// What came of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Both engines agree.
    Equal,
    /// It was not loaded, and why.
    Rejected(String),
    /// How they differ.
    Different(String),
}

/// A thread's programs.
pub struct Fuzz {
    system: Arc<System>,
    sides: BTreeMap<(u32, bool), Side>,
    /// The rule whose code is to be wrong.
    plant: Option<&'static str>,
    /// What was done so far.
    pub counts: Counts,
}

fn attr(generated: &Generated, engine: EngineKind, maps: &[Arc<MapObject>]) -> ProgAttr {
    let mut attr = prog_attr(generated, engine, maps);
    if generated.functions.len() > 1 {
        let (btf, func_info) = generated.btf();
        attr.btf = Some(btf);
        attr.func_info = func_info;
    }
    attr
}

/// The program of a seed, whose random numbers go on in `rng`: every fourth calls helpers by their prototypes.
pub fn program_of(seed: u64, rng: &mut Rng) -> Generated {
    if seed.is_multiple_of(4) {
        helpers::program(rng, seed / 4)
    } else {
        program(rng)
    }
}

/// Empties hash tables, zeroes arrays.
fn reset(map: &MapObject) -> Result<(), String> {
    let map = map.map();
    let attr = map.attr();
    let failed = |errno| format!("map of type {}: emptying: {errno}", attr.map_type);
    match attr.map_type {
        MapType::Array | MapType::PercpuArray => {
            let zero = vec![0; map.sys_value_bytes()];
            for key in 0..attr.max_entries {
                map.sys_update(Access::ReadWrite, &key.to_ne_bytes(), &zero, 0, &NoFds)
                    .map_err(failed)?;
            }
        }
        MapType::Hash | MapType::PercpuHash => {
            let mut key = vec![0; attr.key_size as usize];
            while map.sys_next_key(Access::ReadOnly, None, &mut key).is_ok() {
                map.sys_delete(Access::ReadWrite, &key, &NoFds)
                    .map_err(failed)?;
            }
        }
        _ => {}
    }
    Ok(())
}

impl Fuzz {
    /// A thread's state; `plant` names a rule whose code is to be wrong.
    pub fn new(plant: Option<&'static str>) -> Fuzz {
        Fuzz {
            system: new_system(),
            sides: BTreeMap::new(),
            plant,
            counts: Counts::default(),
        }
    }

    fn maps(
        &mut self,
        prog_type: ProgType,
        engine: EngineKind,
    ) -> Result<Vec<Arc<MapObject>>, Box<LoadError>> {
        let key = (prog_type.raw(), engine == EngineKind::Jit);
        if let Some(side) = self.sides.get(&key) {
            return Ok(side.maps.clone());
        }
        let mut maps = create_maps(&self.system)?;
        maps.extend(create_helper_maps(&self.system)?);
        let target = attr(&tail_target(prog_type), engine, &maps);
        let target = Program::load(&self.system, target)?;
        set_program(&maps[PROG_ARRAY as usize], 1, &target).map_err(setup_error)?;
        let side = Side {
            maps: maps.clone(),
            _target: target,
        };
        self.sides.insert(key, side);
        Ok(maps)
    }

    /// Makes, runs and compares the program of a seed.
    ///
    /// # Errors
    /// The engines differ, or a program ran on one only.
    pub fn seed(&mut self, seed: u64) -> Result<(), Difference> {
        let mut rng = Rng::new(seed);
        let generated = program_of(seed, &mut rng);
        let packets: [Vec<u8>; PACKETS] = std::array::from_fn(|_| random_packet(&mut rng));
        let variant = (seed % 8) as usize;
        match self.compare(&generated, &packets, variant) {
            Compared::Equal => Ok(()),
            Compared::Rejected(_) => {
                self.counts.rejected += 1;
                Ok(())
            }
            Compared::Different(how) => Err(Difference { seed, how }),
        }
    }

    /// Runs a program over packets that follow from a seed, on both engines.
    pub fn call(&mut self, generated: &Generated, seed: u64) -> CallOutcome {
        let mut rng = Rng::new(seed);
        let packets: [Vec<u8>; PACKETS] = std::array::from_fn(|_| random_packet(&mut rng));
        match self.compare(generated, &packets, (seed % 8) as usize) {
            Compared::Equal => CallOutcome::Equal,
            Compared::Rejected(error) => CallOutcome::Rejected(error.to_string()),
            Compared::Different(how) => CallOutcome::Different(how),
        }
    }

    fn jit_options(&mut self, variant: usize) -> JitOptions {
        // Blinding leaves the rules out: seldom.
        let (at, options) = match variant {
            7 => (
                2,
                JitOptions {
                    blinding_seed: Some(0x51ed_270b),
                    ..JitOptions::default()
                },
            ),
            4..=6 => (
                1,
                JitOptions {
                    cpu: CpuFeatures::BASELINE,
                    ..JitOptions::default()
                },
            ),
            _ => (0, JitOptions::default()),
        };
        self.counts.variants[at] += 1;
        JitOptions {
            planted_fault: self.plant,
            ..options
        }
    }

    fn compare(&mut self, generated: &Generated, packets: &[Vec<u8>], variant: usize) -> Compared {
        let mut loaded = Vec::new();
        for engine in [EngineKind::Jit, EngineKind::Interp] {
            let maps = match self.maps(generated.prog_type, engine) {
                Ok(maps) => maps,
                Err(error) => return Compared::Rejected(error),
            };
            let mut attr = attr(generated, engine, &maps);
            if engine == EngineKind::Jit {
                attr.jit = self.jit_options(variant);
            }
            match Program::load(&self.system, attr) {
                Ok(program) => loaded.push((maps, program)),
                Err(error) if engine == EngineKind::Interp => {
                    return Compared::Different(format!("interp refuses: {error}"));
                }
                Err(error) => return Compared::Rejected(error),
            }
        }
        let [(jit_maps, jit), (interp_maps, interp)] = &loaded[..] else {
            return Compared::Different("two engines".into());
        };
        self.counts.hits.add(&generated.insns);
        if let Engine::Jit(compiled) = jit.engine() {
            for (rule, count) in compiled.rule_hits() {
                *self.counts.rules.entry(rule).or_default() += u64::from(count);
            }
        }
        for packet in packets {
            let run = run_over(generated.prog_type, packet);
            let [a, b] = [jit, interp].map(|program| {
                // Both take the same random numbers.
                ring3_sync::rcu::thread().set_random_state(seed_of(packet));
                run_once(program, &run)
            });
            if let Some(how) = difference(&a, &b) {
                return Compared::Different(how);
            }
            self.counts.inputs += 1;
        }
        for (number, (a, b)) in jit_maps.iter().zip(interp_maps).enumerate() {
            if !uses_map(generated, number as i32) || !helpers::is_compared(number as i32) {
                continue;
            }
            let (in_jit, in_interp) = (contents(a), contents(b));
            if in_jit != in_interp {
                return Compared::Different(format!(
                    "map {number}: jit {in_jit:02x?}, interp {in_interp:02x?}"
                ));
            }
            if let Err(error) = reset(a).and_then(|()| reset(b)) {
                return Compared::Different(error);
            }
        }
        self.counts.programs += 1;
        Compared::Equal
    }
}

fn seed_of(packet: &[u8]) -> u64 {
    packet.iter().fold(1, |seed, &byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Whether a load of the map's address is in the program.
fn uses_map(generated: &Generated, map: i32) -> bool {
    let names =
        |insn: &ring3_isa::RawInsn| insn.is_ld_imm64() && insn.src() == 1 && insn.imm == map;
    generated.insns.iter().any(names)
}

fn difference(
    jit: &Result<TestRunResult, Error>,
    interp: &Result<TestRunResult, Error>,
) -> Option<String> {
    match (jit, interp) {
        (Ok(a), Ok(b)) if a.retval != b.retval => Some(format!(
            "result: jit {:#x}, interp {:#x}",
            a.retval, b.retval
        )),
        (Ok(a), Ok(b)) if a.data_out != b.data_out => Some(format!(
            "packet: jit {:02x?}, interp {:02x?}",
            a.data_out, b.data_out
        )),
        (Ok(_), Ok(_)) => None,
        (a, b) => Some(format!("run: jit {a:?}, interp {b:?}")),
    }
}

/// A packet that test runs take.
pub fn random_packet(rng: &mut Rng) -> Vec<u8> {
    // A test run refuses packets shorter than their IP header.
    let len = 64 + rng.below(200);
    (0..len).map(|_| rng.word() as u8).collect()
}
