//! Verifying without loading: what `ring3 verify` and snapshot tests need. Key type: [`Verification`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ring3_spec::{LoadRequest, VerifiedProgram};
use ring3_verifier::{Log, VerifierError, verify};

use crate::{Error, LoadOptions, Object, Program, System};

/// What the verifier said of one program.
#[derive(Clone, Debug)]
pub struct Verification {
    /// Name of the program.
    pub program: String,
    /// ELF section, empty for programs that came from elsewhere.
    pub section: String,
    /// What was verified.
    pub request: LoadRequest,
    /// The program after rewrites, or why it was rejected.
    pub result: Result<Arc<VerifiedProgram>, VerifierError>,
    /// The log at the level asked for, in the kernel's words.
    pub log: String,
    /// What libbpf says where the program was rejected at an instruction that it poisoned: the relocation that the kernel's types do not
    /// answer.
    pub explanation: Option<String>,
    /// Time the verifier took.
    pub duration: Duration,
}

/// A program's name, and what came of it.
pub type NamedVerification = (String, Result<Verification, Error>);

impl Verification {
    fn run(
        program: &str,
        section: &str,
        request: LoadRequest,
        system: &System,
        log_level: u32,
    ) -> Verification {
        let mut log = Log::new(log_level);
        let begin = Instant::now();
        let result = verify(&request, system.registry(), &mut log).map(Arc::new);
        Verification {
            program: program.to_owned(),
            section: section.to_owned(),
            request,
            result,
            log: log.into_string(),
            explanation: None,
            duration: begin.elapsed(),
        }
    }
}

impl Object {
    /// Verifies the programs of the object, each by itself; maps are created for the time of it. A program that cannot even be put together (an
    /// unknown section, an unresolved extern) is an error in its place.
    ///
    /// # Errors
    /// A map cannot be created.
    pub fn verify_in(
        &self,
        system: &Arc<System>,
        options: &LoadOptions,
    ) -> Result<Vec<NamedVerification>, Error> {
        let maps = self.create_maps(system, None)?;
        let is_wanted = |name: &String| {
            options
                .programs
                .as_ref()
                .is_none_or(|names| names.contains(name))
        };
        let progs = self
            .spec()
            .progs
            .iter()
            .filter(|prog| is_wanted(&prog.name));
        let kernel_btf = system.kernel_btf();
        let mut resolver = self.resolver(kernel_btf.as_ref());
        Ok(progs
            .map(|prog| {
                let attr = self.prog_attr(system, &mut resolver, prog, &maps, options);
                let verified = attr.map(|attr| {
                    let (request, _maps) = attr.request(system);
                    let mut verification = Verification::run(
                        &prog.name,
                        &prog.section,
                        request,
                        system,
                        options.log_level,
                    );
                    let slot = verification.result.as_ref().err();
                    verification.explanation =
                        slot.and_then(|error| error.insn_idx).and_then(|slot| {
                            self.explain_slot(prog, &verification.request.insns, slot)
                        });
                    verification
                });
                (prog.name.clone(), verified)
            })
            .collect())
    }
}

impl Program {
    /// Verifies the program once more, for its log at another level. `None` if its system is gone.
    pub fn verify_again(&self, log_level: u32) -> Option<Verification> {
        let system = self.system()?;
        let (request, _maps) = self.attr().request(&system);
        Some(Verification::run(
            self.name(),
            "",
            request,
            &system,
            log_level,
        ))
    }
}
