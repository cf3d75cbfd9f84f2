//! BPF objects: programs, maps and BTF with ids and references, the load pipeline, test runs, audit events.
//!
//! A [`System`] is one BPF subsystem: its id tables, registry and hooks. [`Program::load`] is the pipeline of BPF_PROG_LOAD: verify, link,
//! compile. [`Object`] loads a whole ELF file. What programs are attached to belongs to the floors above, which register a
//! [`ProgTypeOps`] per program type.
#![forbid(unsafe_code)]

mod audit;
mod btf_obj;
mod engine;
mod error;
mod link;
mod link_obj;
mod map;
mod object;
mod plain_runs;
mod prog;
mod sha256;
mod shared_maps;
mod system;
mod tag;
mod target;
mod test_run;
mod verification;

pub use audit::{AuditEvent, AuditOp};
pub use btf_obj::BtfObject;
pub use engine::{Engine, EngineKind, JitOptions, Observe};
pub use error::{Error, LoadError};
pub use link_obj::{Iteration, LinkDetail, LinkInfo, LinkObject, LinkOps};
pub use map::MapObject;
pub use object::{AttachTo, LoadOptions, LoadedObject, Object, set_program};
pub use prog::{ProgAttr, Program};
pub use shared_maps::SharedMaps;
pub use system::System;
pub use test_run::{Cancel, ProgTypeOps, TestRun, TestRunResult};
pub use verification::{NamedVerification, Verification};
