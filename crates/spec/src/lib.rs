//! What the floors above agree on, as data: load requests, verified programs, map descriptions, program types, contexts,
//! helper prototypes and the registry of rows.
//!
//! No behaviour: the verifier reads these, `objects` fills them, the engines consume [`VerifiedProgram`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ctx;
mod func_proto;
pub mod grants;
pub mod helpers;
pub mod kfunc;
pub mod kinds;
mod load_request;
pub mod map_func;
mod map_info;
mod prog_type;
mod registry;
mod verified_program;

pub use func_proto::{Allowed, Arg, ArgBase, FuncProto, HelperId, Ret, RetBase, TypeFlags};
pub use load_request::{
    AttachTarget, FdObject, InfoRecords, LoadRequest, Privilege, ProgTarget, ProgTargetSubprog,
};
pub use map_info::MapInfo;
pub use prog_type::{
    AttachRule, CtxView, PktAccess, ProgTypeRow, ROWS as PROG_TYPES, RetRange, RetRule, Sleepable,
};
pub use registry::{Caller, CustomHelper, HelperLookup, RegisterError, Registry};
pub use verified_program::{CallFact, InsnFacts, SubprogFacts, VerifiedProgram, VerifierStats};
