//! What objects are fitted to: the BTF that kernel types come from, and configuration values.

use std::{path::PathBuf, sync::Arc};

use ring3::{
    Object, System,
    btf::Btf,
    elf::{KernelConfig, ParseOptions},
};

use crate::Failure;

/// Arguments of the verbs that load objects.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// BTF (or an ELF file with a .BTF section) that kernel types are looked up in, instead of the host's
    #[arg(long)]
    btf: Option<PathBuf>,
    /// Kernel configuration (.config) that `__kconfig` externs are read from; default: Linux 6.18.0 without options
    #[arg(long)]
    kconfig: Option<PathBuf>,
}

impl Target {
    /// A system with the types asked for.
    pub(crate) fn system(&self) -> Result<Arc<System>, Failure> {
        let system = ring3::system();
        if let Some(path) = &self.btf {
            let bytes =
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let btf = if bytes.starts_with(b"\x7fELF") {
                ring3::elf::read_btf(&bytes).map_err(|error| error.message().to_owned())
            } else {
                Btf::parse(&bytes).map_err(|error| error.message().to_owned())
            };
            let btf = btf.map_err(|message| format!("{}: {message}", path.display()))?;
            system.set_kernel_btf(btf);
        }
        Ok(system)
    }

    /// How objects are read.
    pub(crate) fn parse_options(&self) -> Result<ParseOptions, Failure> {
        let mut options = ParseOptions::default();
        if let Some(path) = &self.kconfig {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            options.config.options = KernelConfig::parse_options(&text);
        }
        Ok(options)
    }

    /// An object in a system of its own.
    pub(crate) fn open(&self, path: &std::path::Path) -> Result<Object, Failure> {
        let object = ring3::objects::Object::open_with(path, &self.parse_options()?)
            .map_err(|error| error.to_string())?;
        Ok(Object::with_system(object, self.system()?))
    }
}
