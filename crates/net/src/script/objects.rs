//! The object files of a script: each line that names one loads it anew, as tc does; maps that are pinned by name are shared between them.

use std::{path::Path, sync::Arc};

use ring3_objects::{Error, Object, Program};
use ring3_runtime::ProgObject;
use ring3_uapi::Errno;

use super::{Loaded, Result, Script, parse::Words};

impl Script {
    /// The program of `FILE sec SEC`, and what tc calls it.
    pub(super) fn object_program(
        &mut self,
        words: &mut Words<'_>,
    ) -> Result<(Arc<Program>, String)> {
        let file = words.value("obj")?;
        words.expect("sec")?;
        let section = words.value("sec")?;
        let path = self.folder.join(file);
        if !self.files.contains_key(&path) {
            let object = Object::open(&path)?;
            self.files.insert(path.clone(), object);
        }
        let object = &self.files[&path];
        let progs = &object.spec().progs;
        let Some(spec) = progs.iter().find(|prog| prog.section == section) else {
            let sections: Vec<_> = progs.iter().map(|prog| prog.section.as_str()).collect();
            let message = format!(
                "{file}: no section '{section}', there are: {}",
                sections.join(", ")
            );
            return Err(Error::new(Errno::ENOENT, message));
        };
        // A tail-called program lies in the same file, so all of them are loaded; only the one that is named must be accepted.
        let loaded = object
            .load_in(self.net.system(), &self.options)
            .map_err(|error| Error::new(error.error.errno, error.to_string()))?;
        if let Some((_, error)) = loaded.rejected().find(|(name, _)| *name == spec.name) {
            return Err(Error::new(error.error.errno, error.to_string()));
        }
        let name = Path::new(file)
            .file_name()
            .map_or_else(|| file.into(), |name| name.to_string_lossy());
        let label = format!("{name}:[{section}]");
        let program = Arc::clone(loaded.program(&spec.name)?);
        self.loaded.push(Loaded {
            prog_id: program.id(),
            _object: loaded,
        });
        Ok((program, label))
    }
}
