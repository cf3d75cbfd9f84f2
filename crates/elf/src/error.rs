//! `ElfError`: why an object was refused, in one lower-case line that names the section or symbol and the value.

use std::fmt;

/// Why an object, program or relocation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfError {
    message: String,
}

impl ElfError {
    /// An error with this one-line message.
    pub fn new(message: impl Into<String>) -> ElfError {
        ElfError {
            message: message.into(),
        }
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ElfError {}

impl From<ring3_btf::BtfError> for ElfError {
    fn from(error: ring3_btf::BtfError) -> ElfError {
        ElfError::new(error.message())
    }
}

/// Returns an [`ElfError`] made from a format string.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::ElfError::new(format!($($arg)*)))
    };
}
pub(crate) use fail;
