//! The Linux BPF subsystem as a library: verify, compile, run and attach BPF programs in user space, without kernel BPF and without root.
//!
//! This crate is a facade: it re-exports the crates below, which can be used by themselves, and assembles a [`System`] that knows every program
//! type they serve.
//!
//! ```no_run
//! use ring3::Object;
//!
//! let object = Object::open("flows.bpf.o")?.load()?;
//! let result = object.program("count_flows")?.test_run(&[0; 64])?;
//! println!("returned {}", result.retval);
//! let protocols = object.map::<u32, u64>("protocols")?;
//! println!("TCP packets: {:?}", protocols.get(&6));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod object;
#[cfg(feature = "testing")]
pub mod testing;

pub use object::{Object, host_btf, system};
pub use ring3_objects::{
    AuditEvent, AuditOp, EngineKind, Error, LoadError, LoadOptions, LoadedObject, MapObject,
    ProgAttr, Program, System, TestRun, TestRunResult, Verification,
};

/// What a host application registers: [`Host`](host::Host) for its program type, context and helpers, [`host_struct!`] and [`host_context!`] for
/// its structs.
pub mod host {
    pub use ring3_btf::host::*;
    pub use ring3_helpers::host::*;
    pub use ring3_spec::host::*;
}

pub use ring3_bpffs as bpffs;
pub use ring3_btf as btf;
pub use ring3_btf::host_struct;
pub use ring3_elf as elf;
pub use ring3_helpers as helpers;
pub use ring3_interp as interp;
pub use ring3_isa as isa;
pub use ring3_jit_x86_64 as jit_x86_64;
pub use ring3_maps as maps;
pub use ring3_mprog as mprog;
pub use ring3_net as net;
pub use ring3_objects as objects;
pub use ring3_runtime as runtime;
pub use ring3_spec as spec;
pub use ring3_spec::host_context;
pub use ring3_syscall_shim as syscall_shim;
pub use ring3_tracing as tracing;
pub use ring3_trampoline as trampoline;
pub use ring3_uapi as uapi;
pub use ring3_verifier as verifier;
