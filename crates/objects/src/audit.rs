//! Audit events: one at each successful load and unload of a program, as the kernel's audit record has them.

use std::fmt;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditOp {
    /// A program was loaded.
    Load,
    /// The last reference to a program went.
    Unload,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Id of the program.
    pub prog_id: u32,
    /// What happened.
    pub op: AuditOp,
    /// Process of the caller; 0 where no caller asked (an unload by the last reference).
    pub pid: u32,
    /// User of the caller.
    pub uid: u32,
    /// Name of the caller.
    pub comm: String,
}

/// As the record's text: `prog-id=7 op=LOAD`, the caller behind it.
impl fmt::Display for AuditEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            AuditOp::Load => "LOAD",
            AuditOp::Unload => "UNLOAD",
        };
        write!(
            f,
            "prog-id={} op={op} pid={} uid={} comm=\"{}\"",
            self.prog_id, self.pid, self.uid, self.comm
        )
    }
}
