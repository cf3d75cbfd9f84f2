//! A system with everything in it, and [`Object`] on top of one.

use std::{path::Path, sync::Arc};

use ring3_btf::Btf;
use ring3_objects::{Error, LoadError, LoadOptions, LoadedObject, System, Verification};

/// A system that serves every program type ring3 has hooks for. Kernel types are the host's, where it shows them.
pub fn system() -> Arc<System> {
    let system = System::new();
    ring3_net::register(&system);
    if let Some(btf) = host_btf() {
        system.set_kernel_btf(btf);
    }
    system
}

/// The BTF of the running kernel; `None` where it has none or hides it.
pub fn host_btf() -> Option<Btf> {
    Btf::parse(&std::fs::read("/sys/kernel/btf/vmlinux").ok()?).ok()
}

/// An object file and the system it is loaded into.
pub struct Object {
    object: ring3_objects::Object,
    system: Arc<System>,
}

impl Object {
    /// Reads an object file; it gets a system of its own.
    ///
    /// # Errors
    /// The file cannot be read, or is no BPF object; the message names the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Object, Error> {
        Ok(Object {
            object: ring3_objects::Object::open(path)?,
            system: system(),
        })
    }

    /// An object that was read before, to be loaded into this system.
    pub fn with_system(object: ring3_objects::Object, system: Arc<System>) -> Object {
        Object { object, system }
    }

    /// Loads maps and programs with the default options.
    ///
    /// # Errors
    /// The first map or program that fails.
    pub fn load(&self) -> Result<LoadedObject, Box<LoadError>> {
        self.load_with(&LoadOptions::default())
    }

    /// Loads maps and programs.
    ///
    /// # Errors
    /// The first map or program that fails, unless the options say to keep going.
    pub fn load_with(&self, options: &LoadOptions) -> Result<LoadedObject, Box<LoadError>> {
        self.object.load_in(&self.system, options)
    }

    /// Verifies one program without loading it, with its level-2 log.
    ///
    /// # Errors
    /// ENOENT: no such program. Else what keeps the program or its maps from being put together.
    pub fn verify(&self, program: &str) -> Result<Verification, Error> {
        let options = LoadOptions {
            log_level: 2,
            programs: Some(vec![program.to_owned()]),
            ..LoadOptions::default()
        };
        let mut verified = self.object.verify_in(&self.system, &options)?;
        match verified.pop() {
            Some((_, verification)) => verification,
            None => {
                let names: Vec<_> = self
                    .object
                    .spec()
                    .progs
                    .iter()
                    .map(|prog| prog.name.as_str())
                    .collect();
                let message = format!("no program '{program}', there are: {}", names.join(", "));
                Err(Error::new(ring3_uapi::Errno::ENOENT, message))
            }
        }
    }

    /// What the file says.
    pub fn object(&self) -> &ring3_objects::Object {
        &self.object
    }

    /// The system programs are loaded into.
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }
}
