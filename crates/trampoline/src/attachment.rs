//! What attaching gives: [`Attachment`] and [`Replacement`], which end by being dropped, or an [`AttachError`].

use std::sync::Arc;

use ring3_runtime::ProgRef;
use ring3_uapi::Errno;

use crate::list::Attached;
use crate::site::PatchError;
use crate::target::{PROGS_PER_TARGET, ProgKind, Target};

/// Why a program was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The program is attached to this target already.
    AlreadyAttached,
    /// The function is replaced, or, for a replacement, traced or replaced.
    Occupied,
    /// [`PROGS_PER_TARGET`] programs are.
    TooMany,
    /// The site.
    Patch(PatchError),
    /// The host.
    Host(Errno),
}

impl AttachError {
    /// The errno of the link that fails by this.
    pub fn errno(&self) -> Errno {
        match self {
            AttachError::AlreadyAttached | AttachError::Occupied => Errno::EBUSY,
            AttachError::TooMany => Errno::E2BIG,
            AttachError::Patch(cause) => cause.errno(),
            AttachError::Host(errno) => *errno,
        }
    }
}

impl std::fmt::Display for AttachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AttachError::AlreadyAttached => {
                f.write_str("the program is attached to this function already")
            }
            AttachError::Occupied => f.write_str("the function is replaced or traced already"),
            AttachError::TooMany => {
                write!(f, "the function has {PROGS_PER_TARGET} programs already")
            }
            AttachError::Patch(cause) => cause.fmt(f),
            AttachError::Host(errno) => write!(f, "generating the image: {errno}"),
        }
    }
}

impl std::error::Error for AttachError {}

/// Attaches a program to several targets: to all or to none.
///
/// # Errors
/// The first [`AttachError`]; what was attached before it is detached again.
pub fn attach_all(
    targets: &[Arc<Target>],
    kind: ProgKind,
    prog: &ProgRef,
    cookie: u64,
) -> Result<Vec<Attachment>, AttachError> {
    let mut attachments = Vec::with_capacity(targets.len());
    for target in targets {
        attachments.push(target.attach(kind, prog.clone(), cookie)?);
    }
    Ok(attachments)
}

/// A program on a target; dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    target: Arc<Target>,
    key: u64,
}

impl Attachment {
    pub(crate) fn new(target: Arc<Target>, key: u64) -> Attachment {
        Attachment { target, key }
    }

    /// The target.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.target.detach(self.key);
    }
}

/// A replaced function; dropping it brings the function back.
pub struct Replacement {
    target: Arc<Target>,
    /// Taken on drop.
    prog: Option<Attached>,
}

impl Replacement {
    pub(crate) fn new(target: Arc<Target>, prog: Attached) -> Replacement {
        Replacement {
            target,
            prog: Some(prog),
        }
    }
}

impl std::fmt::Debug for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replacement")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(prog) = self.prog.take() {
            self.target.restore(prog);
        }
    }
}
