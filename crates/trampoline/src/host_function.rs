//! `HostFunction`: a function of this process that its host offers to tracing programs, with what the host says of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ring3_btf::{Btf, BtfError, FuncModel, Kind, Prototype, TypeId};
use ring3_spec::TargetTraits;
use ring3_uapi::Errno;

use crate::{Certainty, DiscoverError, PatchError, Patching, Site, Target, find_patchable};

/// How the dynamic linker's list names the executable.
const EXECUTABLE: &str = "/proc/self/exe";

/// A function on offer.
#[derive(Debug)]
pub struct HostFunction {
    site: Site,
    declared: Declared,
    certainty: Certainty,
    traits: TargetTraits,
}

/// Why a function of the executable is not on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindError {
    /// It was not found.
    Discover(DiscoverError),
    /// It is in a shared object, which may be unloaded.
    Elsewhere(PathBuf),
    /// Its entry cannot be patched.
    Patch(PatchError),
}

impl FindError {
    /// The errno of the attachment that fails by this.
    pub fn errno(&self) -> Errno {
        match self {
            FindError::Discover(DiscoverError::NoFunction(_)) => Errno::ENOENT,
            FindError::Discover(_) => Errno::EINVAL,
            FindError::Elsewhere(_) => Errno::ENOTSUPP,
            FindError::Patch(error) => error.errno(),
        }
    }
}

impl std::fmt::Display for FindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FindError::Discover(error) => error.fmt(f),
            FindError::Elsewhere(object) => write!(
                f,
                "the function is in {}, which may be unloaded",
                object.display()
            ),
            FindError::Patch(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FindError {}

/// Where the function's prototype is.
#[derive(Debug)]
enum Declared {
    Here(Prototype),
    /// In BTF, under this name.
    InBtf(String),
}

impl HostFunction {
    /// A function with its prototype in C, as [`Prototype::parse`] takes it.
    ///
    /// # Errors
    /// EINVAL: not a prototype.
    ///
    /// # Safety
    /// With [`Certainty::Certain`], the code at `site` takes and returns what the prototype says, down to what pointers point to, in terms of the
    /// BTF that the function is offered in.
    pub unsafe fn new(
        site: Site,
        prototype: &str,
        certainty: Certainty,
    ) -> Result<HostFunction, BtfError> {
        let declared = Declared::Here(Prototype::parse(prototype)?);
        Ok(HostFunction::with(site, declared, certainty))
    }

    /// A function whose prototype is in the BTF it is offered in, under its name.
    ///
    /// # Safety
    /// As [`HostFunction::new`], for that prototype.
    pub unsafe fn described(
        site: Site,
        name: impl Into<String>,
        certainty: Certainty,
    ) -> HostFunction {
        HostFunction::with(site, Declared::InBtf(name.into()), certainty)
    }

    /// A function of this process's executable that was compiled with a patchable entry, by its symbol. Nobody promises a prototype: its arguments are numbers.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn in_executable(name: &str) -> Result<HostFunction, FindError> {
        let found = find_patchable(name).map_err(FindError::Discover)?;
        if found.object != Path::new(EXECUTABLE) {
            return Err(FindError::Elsewhere(found.object));
        }
        // SAFETY: 1. the executable stays loaded to the end; 2. compilers let nothing jump between an entry's nops.
        let site = unsafe { found.site(Patching::Fastest) }.map_err(FindError::Patch)?;
        let prototype = Prototype::untyped(name);
        Ok(HostFunction::with(
            site,
            Declared::Here(prototype),
            Certainty::Uncertain,
        ))
    }

    fn with(site: Site, declared: Declared, certainty: Certainty) -> HostFunction {
        HostFunction {
            site,
            declared,
            certainty,
            traits: TargetTraits::default(),
        }
    }

    /// Lets fmod_ret programs decide its return value.
    pub fn modifiable(mut self) -> HostFunction {
        self.traits.modifiable = true;
        self
    }

    /// Lets programs on it sleep: it is not called where that is forbidden.
    pub fn sleepable(mut self) -> HostFunction {
        self.traits.sleepable = true;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match &self.declared {
            Declared::Here(prototype) => prototype.name(),
            Declared::InBtf(name) => name,
        }
    }

    /// The prototype that came with it.
    pub fn prototype(&self) -> Option<&Prototype> {
        match &self.declared {
            Declared::Here(prototype) => Some(prototype),
            Declared::InBtf(_) => None,
        }
    }

    /// The target, and what programs on it are told, given that `btf` describes it as `function`. Where that is not what came with the function, all
    /// its arguments are treated as u64.
    pub fn into_target(self, btf: &Btf, function: TypeId) -> (Arc<Target>, TargetTraits) {
        let described = btf
            .type_by_id(function)
            .filter(|ty| ty.kind() == Kind::Func && ty.name() == self.name());
        let is_same = self
            .prototype()
            .is_none_or(|prototype| prototype.is_of(btf, function));
        let model = described
            .filter(|_| is_same && self.certainty == Certainty::Certain)
            .and_then(|func| FuncModel::from_proto(btf, func.type_id(), self.name()).ok());
        let mut traits = self.traits;
        traits.unreliable = model.is_none();
        let target = match model {
            // SAFETY: 1. the function was made by a promise that its code follows the prototype that came with it, which is this one, or the one
            // that this BTF has under its name.
            Some(model) => unsafe { Target::new(self.site, &model, Certainty::Certain) },
            // SAFETY: 1. nothing is promised where it is uncertain.
            None => unsafe { Target::new(self.site, &FuncModel::untyped(), Certainty::Uncertain) },
        };
        (target, traits)
    }
}
