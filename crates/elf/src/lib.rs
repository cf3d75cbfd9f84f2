//! BPF ELF objects read as libbpf reads them.
//!
//! [`ObjectSpec::parse`] turns the bytes of an object into plain data: programs with their subprograms appended and
//! relocated, maps, global data, externs, and the BTF that would be loaded. Nothing is opened or loaded here.
//! [`SEC_DEFS`] is the table of section names.
//!
//! Neighbours: `ring3-btf` reads types and applies CO-RE relocations, `ring3-objects` creates maps and loads programs.
//!
//! ```
//! use ring3_elf::ObjectSpec;
//! let error = ObjectSpec::parse(b"not an object", "x.o").unwrap_err();
//! assert!(error.message().starts_with("elf: "));
//! ```
#![forbid(unsafe_code)]

mod btf_fixup;
mod error;
mod externs;
mod file;
mod funcs;
mod link;
mod map_def;
mod maps;
mod parse;
mod resolve;
mod sections;
mod spec;
mod struct_ops;

pub use error::ElfError;
pub use externs::KernelConfig;
pub use parse::{ParseOptions, read_btf};
pub use resolve::{Resolver, Symbols, Target};
pub use sections::{Attachable, SEC_DEFS, SecDef, SecTraits};
pub use spec::{
    ExternKind, ExternRef, ExternSpec, FunctionSpec, MapOrigin, MapRef, MapSpec, ObjectSpec,
    Pinning, ProgSpec, SlotSpec, StructOpsSpec,
};

#[cfg(test)]
mod tests;
