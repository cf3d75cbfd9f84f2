//! `ElfError`: why an object was refused, in one lower-case line that names the section or symbol and the value.

use ring3_uapi::Errno;
use std::fmt;

/// Why an object, program or relocation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfError {
    errno: Errno,
    message: String,
}

impl ElfError {
    /// EINVAL with this one-line message.
    pub fn new(message: impl Into<String>) -> ElfError {
        ElfError {
            errno: Errno::EINVAL,
            message: message.into(),
        }
    }

    /// ESRCH with this one-line message: the target does not have what the object needs.
    pub(crate) fn missing(message: impl Into<String>) -> ElfError {
        ElfError {
            errno: Errno::ESRCH,
            message: message.into(),
        }
    }

    /// The errno libbpf gives.
    pub fn errno(&self) -> Errno {
        self.errno
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
        ElfError {
            errno: error.errno(),
            message: error.message().to_owned(),
        }
    }
}

/// Returns an [`ElfError`] made from a format string.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::ElfError::new(format!($($arg)*)))
    };
}
pub(crate) use fail;
