//! Errors of this floor: an errno with a one-line message that names the object and the value.

use std::fmt;

use ring3_uapi::Errno;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What bpf(2) returns.
    pub errno: Errno,
    /// Lower-case, one line.
    pub message: String,
}

impl Error {
    /// An error with its message.
    pub fn new(errno: Errno, message: impl Into<String>) -> Error {
        Error {
            errno,
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.errno)
    }
}

impl std::error::Error for Error {}

impl From<ring3_sync::rcu::InReadSection> for Error {
    fn from(error: ring3_sync::rcu::InReadSection) -> Error {
        Error::new(Errno::EBUSY, error.to_string())
    }
}

impl From<ring3_maps::MapError> for Error {
    fn from(error: ring3_maps::MapError) -> Error {
        Error::new(error.errno, error.message)
    }
}

impl From<ring3_elf::ElfError> for Error {
    fn from(error: ring3_elf::ElfError) -> Error {
        Error::new(error.errno(), error.message())
    }
}

/// Why a program was not loaded, with what the verifier said.
#[derive(Clone, Debug)]
pub struct LoadError {
    /// Name of the program.
    pub program: String,
    /// Errno and last words.
    pub error: Error,
    /// The verifier's log, empty at level 0.
    pub log: String,
    /// Instruction slot at which the verifier stopped.
    pub insn_idx: Option<u32>,
    /// Rejected because ring3 cannot judge the program yet, not because of a rule of the kernel.
    pub is_unjudged: bool,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program '{}': {}", self.program, self.error)
    }
}

impl std::error::Error for LoadError {}

impl From<LoadError> for Error {
    fn from(load: LoadError) -> Error {
        Error::new(
            load.error.errno,
            format!("program '{}': {}", load.program, load.error.message),
        )
    }
}
