//! The containment oracle: what a run of an accepted program holds in its registers and on its stack lies, at every instruction, in one
//! of the states that the verifier walked there.
//!
//! Key types: [`Subject`] (a loaded program with its recording), [`Contained`] (what came of a case), [`ContainmentHits`]. A program runs
//! in the interpreter's checked mode; `walk` compares each step, `place` knows where objects lie, `minimise` makes a failing program
//! small. Neighbours: `ring3_verifier::recording` (the states), `generate::proof` (the programs).

mod campaign;
mod minimise;
mod place;
#[cfg(feature = "plants")]
pub mod plants;
mod walk;

use std::{collections::BTreeMap, sync::Arc};

use ring3::{
    EngineKind, LoadError, Program, System, TestRun,
    interp::{Checks, RunErrorKind, watch},
    uapi::{Errno, ProgType},
    verifier::{Log, Recording, RejectKind, verify_recorded},
};
use ring3_spec::FuncProto;

pub use campaign::{Campaign, Finding};
pub use minimise::minimise;

use crate::{
    engines::{create_helper_maps, create_maps, prog_attr, run_once, run_over},
    generate::{Generated, proof::Input},
};

/// States of one program that are kept; longer explorations are left out.
const STATES_MAX: u32 = 30_000;
/// Steps of one run.
const STEPS_MAX: u64 = 200_000;

/// What came of one program.
#[derive(Debug)]
pub enum Contained {
    /// The verifier does not accept it.
    Rejected(Box<LoadError>),
    /// Accepted, but the exact walk is too long to be kept.
    TooLong,
    /// Every step of every run was in a recorded state.
    Yes,
    /// Some step was not, or made an access that its state does not permit.
    No(String),
}

/// What runs went through.
#[derive(Clone, Debug, Default)]
pub struct ContainmentHits {
    /// Steps by operation code.
    pub opcodes: BTreeMap<u8, u64>,
    /// Accesses by the kind of pointer.
    pub pointers: BTreeMap<&'static str, u64>,
    /// Calls by helper id.
    pub helpers: BTreeMap<i32, u64>,
    /// Steps compared.
    pub steps: u64,
    /// States recorded.
    pub states: u64,
}

/// A loaded program with what the verifier knew of it.
pub struct Subject<'a> {
    generated: &'a Generated,
    program: Arc<Program>,
    recording: Recording,
    /// Prototypes by helper number.
    protos: &'a BTreeMap<i32, FuncProto>,
    /// Key and value bytes of each map.
    map_bytes: Vec<(u64, u64)>,
    /// Stack bytes by function, where a fastcall pattern lost its spills less than the states say.
    stack_bytes: Vec<usize>,
}

/// Prototypes of all helpers by number.
pub fn helper_protos(system: &System) -> BTreeMap<i32, FuncProto> {
    let rows = system.registry().helper_rows();
    rows.map(|row| (row.id.raw() as i32, *row)).collect()
}

impl<'a> Subject<'a> {
    /// Loads a program into the checked interpreter and records the walk of the verifier.
    ///
    /// # Errors
    /// What there is to say instead of runs.
    pub fn load(
        system: &Arc<System>,
        generated: &'a Generated,
        protos: &'a BTreeMap<i32, FuncProto>,
    ) -> Result<Subject<'a>, Contained> {
        let mut maps = create_maps(system).map_err(Contained::Rejected)?;
        if generated.calls_helpers {
            maps.extend(create_helper_maps(system).map_err(Contained::Rejected)?);
        }
        let mut attr = prog_attr(generated, EngineKind::Watched, &maps);
        let (btf, func_info) = generated.btf();
        attr.btf = Some(btf);
        attr.func_info = func_info;
        let (request, objects) = attr.request(system);
        let program = Program::load(system, attr).map_err(Contained::Rejected)?;
        let mut log = Log::new(0);
        let recorded = verify_recorded(&request, system.registry(), &mut log, STATES_MAX);
        let recording = match recorded {
            Ok((_, recording)) => recording,
            Err(error) if error.errno == Errno::E2BIG && error.message.is_empty() => {
                return Err(Contained::TooLong);
            }
            Err(error) if error.kind == RejectKind::Rule && error.errno == Errno::E2BIG => {
                return Err(Contained::TooLong);
            }
            // A pruned path was not safe.
            Err(error) => {
                return Err(Contained::No(format!(
                    "accepted, but not when every path is walked: {error}"
                )));
            }
        };
        let map_bytes = objects.iter().map(|map| {
            let info = map.info();
            (u64::from(info.key_size), u64::from(info.value_size))
        });
        let map_bytes = map_bytes.collect();
        let verified = program.verified();
        let stack_bytes = (0..generated.functions.len()).map(|function| {
            let name = Generated::function_name(function);
            let facts = verified.subprogs.iter().find(|facts| facts.name == name);
            facts.map_or(512, |facts| facts.stack_bytes as usize)
        });
        let stack_bytes = stack_bytes.collect();
        Ok(Subject {
            generated,
            program,
            recording,
            protos,
            map_bytes,
            stack_bytes,
        })
    }

    /// Runs the program over an input and compares every step.
    ///
    /// # Errors
    /// What was not as the verifier knew it.
    pub fn run(&self, input: &Input, hits: &mut ContainmentHits) -> Result<(), String> {
        let mut trace = walk::Walk::new(self, hits);
        let permitted = trace.permitted();
        let mut checks = Checks::new(&permitted);
        checks.budget = STEPS_MAX;
        checks.trace = Some(&mut trace);
        let run = watch(checks, || {
            let run = test_run(self.generated.prog_type, input);
            run_once(&self.program, &run)
        });
        if let Some(found) = trace.found {
            return Err(found);
        }
        match run {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("the test run failed: {error}")),
            Err(error) if error.kind == RunErrorKind::Budget => Ok(()),
            Err(error) => Err(format!("{error}, at or after {}", trace.place())),
        }
    }
}

/// Metadata is what `struct xdp_md` says is before `data`.
fn test_run(prog_type: ProgType, input: &Input) -> TestRun {
    let mut run = run_over(prog_type, &[&input.metadata[..], &input.packet].concat());
    if !input.metadata.is_empty() {
        let fields = [input.metadata.len(), run.data_in.len(), 0, 0, 0, 0];
        let bytes = fields
            .iter()
            .flat_map(|&field| (field as u32).to_ne_bytes());
        run.ctx_in = bytes.collect();
    }
    run
}

/// Loads a program and runs it over each input.
pub fn check(
    system: &Arc<System>,
    generated: &Generated,
    inputs: &[Input],
    protos: &BTreeMap<i32, FuncProto>,
    hits: &mut ContainmentHits,
) -> Contained {
    let subject = match Subject::load(system, generated, protos) {
        Ok(subject) => subject,
        Err(instead) => return instead,
    };
    hits.states += subject.recording.states() as u64;
    for input in inputs {
        if let Err(found) = subject.run(input, hits) {
            return Contained::No(found);
        }
    }
    Contained::Yes
}
