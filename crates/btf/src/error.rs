//! The boundary error of this crate: an errno and a lower-case message that names the object and the value.

use alloc::string::String;
use core::fmt;
use ring3_uapi::Errno;

/// Why a BTF blob, extension section, record or relocation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtfError {
    errno: Errno,
    message: String,
}

impl BtfError {
    /// An error with the errno the kernel (or libbpf) gives and a one-line message.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        BtfError {
            errno,
            message: message.into(),
        }
    }

    /// The errno.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The one-line message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for BtfError {}
