//! The two engines behind one face: a linked program becomes something that can be called.

use std::{
    any::Any,
    str::FromStr,
    sync::{Arc, Weak},
};

use ring3_interp as interp;
use ring3_jit_x86_64 as jit;
pub use ring3_jit_x86_64::{Observe, Options as JitOptions};
use ring3_runtime::{Entry, Linked};
use ring3_uapi::Errno;

use crate::Error;

/// Which engine runs a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// Compiled to machine code.
    #[default]
    Jit,
    /// Interpreted.
    Interp,
    /// Interpreted, and checked inside of [`ring3_interp::watch`]: for oracles.
    Watched,
}

impl FromStr for EngineKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<EngineKind, Error> {
        match text {
            "jit" => Ok(EngineKind::Jit),
            "interp" => Ok(EngineKind::Interp),
            _ => Err(Error::new(
                Errno::EINVAL,
                format!("engine '{text}' is neither jit nor interp"),
            )),
        }
    }
}

/// A program in the form its engine runs.
pub enum Engine {
    /// Machine code.
    Jit(Arc<jit::Compiled>),
    /// Pre-decoded steps.
    Interp(interp::Program),
    /// Pre-decoded steps whose runs may be watched.
    Watched(interp::Program),
}

impl Engine {
    /// Prepares a linked program.
    ///
    /// # Errors
    /// ENOTSUPP: the engine cannot run an instruction yet; ENOMEM: no room for code.
    pub(crate) fn compile(
        kind: EngineKind,
        options: &JitOptions,
        linked: Linked,
    ) -> Result<Engine, Error> {
        match kind {
            EngineKind::Jit => jit::compile(&linked, options)
                .map(|compiled| Engine::Jit(Arc::new(compiled)))
                .map_err(|error| Error::new(error.errno(), error.to_string())),
            EngineKind::Interp => interp::Program::load(&linked)
                .map(Engine::Interp)
                .map_err(|error| Error::new(Errno::ENOTSUPP, error.to_string())),
            EngineKind::Watched => interp::Program::load(&linked)
                .map(Engine::Watched)
                .map_err(|error| Error::new(Errno::ENOTSUPP, error.to_string())),
        }
    }

    /// How to call it.
    pub(crate) fn entry(&self) -> Entry {
        match self {
            Engine::Jit(program) => program.entry(),
            Engine::Interp(program) => program.entry(),
            Engine::Watched(program) => program.watched_entry(),
        }
    }

    /// Says who keeps it alive, for callbacks that run after the program's run.
    pub(crate) fn set_owner(&self, owner: &Weak<dyn Any + Send + Sync>) {
        match self {
            Engine::Jit(program) => program.set_owner(owner),
            Engine::Interp(program) | Engine::Watched(program) => program.set_owner(owner),
        }
    }

    /// What a prog array holds for it.
    pub(crate) fn tail_target(&self) -> usize {
        match self {
            Engine::Jit(program) => program.tail_target(),
            Engine::Interp(program) | Engine::Watched(program) => program.tail_target(),
        }
    }

    /// The machine code, cut at instructions; `None` for the interpreter.
    pub fn listing(&self) -> Option<jit::Listing> {
        match self {
            Engine::Jit(program) => Some(program.listing()),
            Engine::Interp(_) | Engine::Watched(_) => None,
        }
    }
}
