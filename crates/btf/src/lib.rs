//! BTF: types, parser, checker, CO-RE, function models, kernel layouts, C output.
//!
//! A [`Btf`] is a parsed blob behind an [`alloc::sync::Arc`]: types are indexed once, names stay where they lie in the
//! blob. What the kernel accepts on `BPF_BTF_LOAD` is decided by [`check`]; everything else here reads whatever
//! [`Btf::parse`] let through and never trusts it.
//!
//! Neighbours: `ring3-elf` reads objects with it, `ring3-verifier` reads types, records, function prototypes and
//! layouts, `ring3-objects` serves `BPF_BTF_LOAD`.
//!
//! ```
//! use ring3_btf::{Btf, Builder, Kind};
//! let mut builder = Builder::new();
//! let int = builder.add_int("int", 4, ring3_btf::IntEncoding::SIGNED);
//! builder.add_struct("pair", 8, &[("a", int, 0), ("b", int, 32)]);
//! let btf = Btf::parse(&builder.finish()).unwrap();
//! let pair = btf.find_by_name_kind("pair", Kind::Struct).unwrap();
//! assert_eq!(btf.resolve_size(pair), Some(8));
//! assert_eq!(btf.type_by_id(pair).unwrap().members().count(), 2);
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod btf;
mod build;
pub mod check;
pub mod core_relo;
pub mod dump;
mod error;
pub mod ext;
mod func_model;
pub mod host;
pub mod layout;
mod minimize;
mod prototype;
mod raw;
pub mod record;
mod show;
mod types;
mod value;

pub use btf::Btf;
pub use build::Builder;
pub use error::BtfError;
pub use ext::{BtfExt, CoreRelo, FuncInfo, LineInfo};
pub use func_model::{ArgModel, FUNC_ARGS_MAX, FuncModel};
pub use minimize::Minimizer;
pub use prototype::Prototype;
pub use raw::{HEADER_BYTES, Header, MAGIC, VERSION};
pub use record::{
    DESTRUCTIBLE_6_18, Field, FieldKind, FieldMask, FieldTarget, KernelTypes, Record, StructMetas,
};
pub use show::{Notation, ShowError, ShownMemory, show_value};
pub use types::{
    Array, EnumValue, FuncLinkage, Int, IntEncoding, Kind, Member, Param, Type, TypeId, VarLinkage,
    VarSecinfo,
};
pub use value::ValueText;
