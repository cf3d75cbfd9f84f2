//! What the floors above agree on, as data: load requests, verified programs, map descriptions, program types, contexts,
//! helper prototypes and the registry of rows.
//!
//! No behaviour: the verifier reads these, `objects` fills them, the engines consume [`VerifiedProgram`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod load_request;
mod map_info;
mod verified_program;

pub use load_request::{
    AttachTarget, FdObject, InfoRecords, LoadRequest, Privilege, ProgTarget, ProgTargetSubprog,
};
pub use map_info::MapInfo;
pub use verified_program::{CallFact, InsnFacts, SubprogFacts, VerifiedProgram, VerifierStats};
