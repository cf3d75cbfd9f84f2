//! What the floors above agree on, as data: load requests, verified programs, map descriptions, program types, contexts,
//! helper prototypes and the registry of rows.
//!
//! No behaviour: the verifier reads these, `objects` fills them, the engines consume [`VerifiedProgram`]. The tables are
//! facts of Linux 6.18, each asked of the running kernel; tests compare them with what it answered.
//!
//! | table | rows |
//! |---|---|
//! | [`PROG_TYPES`] | program types: context, helpers, attach types, return values, privilege |
//! | [`helpers::ROWS`] | helpers: prototype and, from the same words, the Rust signature |
//! | [`grants`] | which program type may call which helper |
//! | [`map_func`] | which helper takes which map type |
//! | [`ctx`] | fields of contexts and sockets: valid accesses, what a load yields, the rewrite |
//! | [`kfunc`] | kernel functions: flags, programs that may call them |
//!
//! ```
//! use ring3_spec::{Caller, HelperLookup, Privilege, Registry};
//! use ring3_uapi::{FuncId, ProgType};
//!
//! let registry = Registry::linux_6_18();
//! let caller = Caller {
//!     prog_type: ProgType::Xdp,
//!     expected_attach_type: 0,
//!     sleepable: false,
//!     privilege: Privilege::FULL,
//! };
//! let HelperLookup::Found(proto) = registry.helper(caller, FuncId::XdpAdjustHead.raw() as i32) else { panic!() };
//! assert!(proto.changes_pkt_data);
//! assert!(matches!(
//!     registry.helper(caller, FuncId::SkbStoreBytes.raw() as i32),
//!     HelperLookup::NotForProgram("skb_store_bytes")
//! ));
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ctx;
mod func_proto;
pub mod grants;
pub mod helpers;
pub mod host;
pub mod kfunc;
pub mod kinds;
mod load_request;
pub mod map_func;
mod map_info;
mod prog_type;
mod registry;
mod verified_program;

/// What macros of this crate expand to.
#[doc(hidden)]
pub mod __private {
    pub use ring3_btf::host_struct;
}

pub use func_proto::{Allowed, Arg, ArgBase, FuncProto, HelperId, Ret, RetBase, TypeFlags};
pub use load_request::{
    AttachTarget, FdObject, InfoRecords, LoadRequest, Privilege, ProgTarget, ProgTargetSubprog,
    TargetTraits,
};
pub use map_info::MapInfo;
pub use prog_type::{
    AttachRule, CtxView, PktAccess, ProgTypeRow, ROWS as PROG_TYPES, RetRange, RetRule, Sleepable,
};
pub use registry::{Caller, CustomHelper, CustomProgType, HelperLookup, RegisterError, Registry};
pub use verified_program::{
    BufAccess, CallFact, Held, HeldPlace, InsnFacts, ObjectType, StopPoint, SubprogFacts,
    VerifiedProgram, VerifierStats,
};
