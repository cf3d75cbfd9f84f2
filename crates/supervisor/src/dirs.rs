//! Where a user's daemon is found: [`Dirs`].

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// The folder of one user's daemon, mode 0700.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    root: PathBuf,
}

impl Dirs {
    /// `$RING3_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/ring3`, else `/tmp/ring3-UID`.
    pub fn of_user() -> Dirs {
        let from_env = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = if let Some(root) = from_env("RING3_RUNTIME_DIR") {
            PathBuf::from(root)
        } else if let Some(runtime) = from_env("XDG_RUNTIME_DIR") {
            PathBuf::from(runtime).join("ring3")
        } else {
            PathBuf::from(format!("/tmp/ring3-{}", own_uid()))
        };
        Dirs { root }
    }

    /// A folder of the caller's choice.
    pub fn at(root: impl Into<PathBuf>) -> Dirs {
        Dirs { root: root.into() }
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// It cannot be made, or belongs to another user, or others may write to it.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)?;
        let meta = fs::symlink_metadata(&self.root)?;
        if !meta.is_dir() || meta.uid() != own_uid() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} is not a folder of this user alone", self.root.display()),
            ));
        }
        Ok(())
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("daemon.sock")
    }

    /// What clients see as `/sys/fs/bpf`.
    pub fn pins(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// What a daemon that was started for a client writes to.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Effective user.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
