//! A fuzz campaign of the containment oracle: programs, inputs, figures. Key type: [`Campaign`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ring3::System;
use ring3_isa::{AsmNames, RawInsn, format_asm, is_known_opcode};
use ring3_spec::FuncProto;

use super::{Contained, ContainmentHits, check, helper_protos, minimise};
use crate::engines::new_system;
use crate::generate::{
    Generated, MAPS, Rng, helpers,
    proof::{Input, inputs, program},
};

/// Operation codes that no generated program has: `callx`, which no kernel accepts.
const NOT_GENERATED: &[u8] = &[0x8d];
/// Kinds of pointers that programs go through.
const POINTERS: &[&str] = &[
    "ctx",
    "fp",
    "pkt",
    "pkt_meta",
    "map_ptr",
    "map_value",
    "map_key",
    "mem",
];
/// A campaign.
pub struct Campaign {
    system: Arc<System>,
    protos: BTreeMap<i32, FuncProto>,
    seed: u64,
    /// What runs went through so far.
    pub hits: ContainmentHits,
    /// Programs generated.
    pub programs: u64,
    /// Programs accepted.
    pub accepted: u64,
    /// Accepted programs whose exact walk was too long.
    pub too_long: u64,
    first_rejection: Option<String>,
}

/// Names of helpers by number.
struct HelperNames(BTreeMap<i32, String>);

impl AsmNames for HelperNames {
    fn helper(&self, id: i32) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }
}

/// A violation, and the program that shows it.
pub struct Finding {
    /// Number of the program in the campaign.
    pub run: u64,
    /// What was not as the verifier knew it, by the small program.
    pub what: String,
    /// The program as assembler text.
    pub text: String,
}

impl Campaign {
    /// A campaign of the programs that follow from a seed.
    pub fn new(seed: u64) -> Campaign {
        let system = new_system();
        Campaign {
            protos: helper_protos(&system),
            system,
            seed,
            hits: ContainmentHits::default(),
            programs: 0,
            accepted: 0,
            too_long: 0,
            first_rejection: None,
        }
    }

    /// Runs programs until the time is over or something is found.
    pub fn run(&mut self, time: Duration) -> Option<Finding> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            if let Some(finding) = self.one() {
                return Some(finding);
            }
        }
        None
    }

    /// As [`Campaign::run`], without making the program small.
    pub fn run_until_found(&mut self, time: Duration) -> Option<String> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            if let Some(what) = self.violation_of_next() {
                return Some(what);
            }
        }
        None
    }

    /// Generates, loads and runs one program: what is wrong, if anything.
    pub fn violation_of_next(&mut self) -> Option<String> {
        self.check_next().map(|(what, ..)| what)
    }

    /// Generates, loads and runs one program.
    pub fn one(&mut self) -> Option<Finding> {
        let run = self.programs;
        let (what, generated, inputs) = self.check_next()?;
        Some(self.finding(run, what, &generated, &inputs))
    }

    fn check_next(&mut self) -> Option<(String, Generated, Vec<Input>)> {
        let run = self.programs;
        let mut rng = Rng::new(self.seed.wrapping_mul(0x1_0000_0001).wrapping_add(run));
        let generated = if run.is_multiple_of(4) {
            helpers::program(&mut rng, run / 4)
        } else {
            program(&mut rng)
        };
        let inputs = inputs(&mut rng, &generated);
        self.programs += 1;
        let system = Arc::clone(&self.system);
        match check(&system, &generated, &inputs, &self.protos, &mut self.hits) {
            Contained::Yes => self.accepted += 1,
            Contained::TooLong => {
                self.accepted += 1;
                self.too_long += 1;
            }
            Contained::Rejected(error) => {
                self.first_rejection
                    .get_or_insert_with(|| format!("program {run}: {error}"));
            }
            Contained::No(what) => return Some((what, generated, inputs)),
        }
        None
    }

    fn finding(
        &self,
        run: u64,
        mut what: String,
        generated: &Generated,
        inputs: &[Input],
    ) -> Finding {
        let small = minimise(generated, &mut |candidate| {
            let mut hits = ContainmentHits::default();
            let checked = check(&self.system, candidate, inputs, &self.protos, &mut hits);
            match checked {
                Contained::No(found) => {
                    what = found;
                    true
                }
                Contained::Yes | Contained::TooLong | Contained::Rejected(_) => false,
            }
        });
        Finding {
            run,
            what,
            text: self.text_of(&small),
        }
    }

    /// As the body of a filetest.
    fn text_of(&self, generated: &Generated) -> String {
        let names = HelperNames(
            self.protos
                .iter()
                .map(|(id, proto)| (*id, format!("bpf_{}", proto.name)))
                .collect(),
        );
        let mut text = format!(";! prog_type {}\n", generated.prog_type);
        for (number, (map_type, key, value, entries)) in MAPS.iter().enumerate() {
            let is_named = |insn: &RawInsn| insn.is_ld_imm64() && insn.src() == 1;
            let mut named = generated.insns.iter().filter(|insn| is_named(insn));
            if named.any(|insn| insn.imm == number as i32) {
                text += &format!(";! map {number} {map_type} {key} {value} {entries}\n");
            }
        }
        text += &format_asm(&generated.insns, &names);
        text
    }

    /// Prints the figures.
    ///
    /// # Errors
    /// What no program went through, or too few were accepted.
    pub fn report(&self) -> Result<(), String> {
        let percent = 100.0 * self.accepted as f64 / self.programs.max(1) as f64;
        println!(
            "{} programs, {} accepted ({percent:.1} %), {} too long to record; {} states, {} steps compared",
            self.programs, self.accepted, self.too_long, self.hits.states, self.hits.steps
        );
        if let Some(rejection) = &self.first_rejection {
            println!("first rejection: {rejection}");
        }
        let mut missing = Vec::new();
        let known = (0..=u8::MAX).filter(|code| is_known_opcode(*code));
        for code in known.filter(|code| !NOT_GENERATED.contains(code)) {
            let count = self.hits.opcodes.get(&code).copied().unwrap_or(0);
            print!("{code:02x}:{count} ");
            if count == 0 {
                missing.push(format!("opcode {code:#04x}"));
            }
        }
        println!();
        for kind in POINTERS {
            let count = self.hits.pointers.get(kind).copied().unwrap_or(0);
            print!("{kind}:{count} ");
            if count == 0 {
                missing.push(format!("pointer {kind}"));
            }
        }
        println!();
        missing.extend(helpers::report(|id| {
            let id = id.raw() as i32;
            self.hits.helpers.get(&id).copied().unwrap_or(0)
        }));
        if percent < 30.0 {
            missing.push(format!("only {percent:.1} % of the programs were accepted"));
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("never run: {}", missing.join(", ")))
        }
    }
}
