//! Hooks of functions: links that put fentry, fexit and fmod_ret programs on functions of the host and on BPF programs, freplace programs in the
//! place of global functions of a program, and programs on raw tracepoints that a host declares.
//!
//! [`Tracing`] belongs to one [`System`]. A host offers it functions ([`Tracing::offer`]), which from then on are in the kernel BTF of the system, and declares
//! tracepoints ([`Tracing::declare_tracepoint`]). Programs are attached by [`Tracing::link`], [`Tracing::link_to`] and [`Tracing::link_tracepoint`];
//! requests of bpf(2) come in as the same calls.
//!
//! Images and live patching are `ring3-trampoline`'s; the verifier judges what a program may do at its target. Here is who may be attached where, and how
//! long that lasts.
//!
//! # Source
//! The rules are those of Linux as its documentation, libbpf's and the kernel's own selftests tell them; the reference machine refuses to load such programs, so
//! none of them is recorded.
#![forbid(unsafe_code)]

pub mod agent;
mod attach;
mod host;
mod iterator;
mod links;
mod program;
mod tracepoint;

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use ring3_btf::{Btf, Builder, Kind, TypeId, layout::with_packet_types};
use ring3_objects::System;
use ring3_trampoline::Target;

pub use tracepoint::{Tracepoint, TracepointSpec};

/// The functions and tracepoints of one system.
pub struct Tracing {
    system: Arc<System>,
    /// What the host offers, by its function in the kernel BTF.
    functions: RwLock<HashMap<TypeId, Arc<Target>>>,
    tracepoints: RwLock<HashMap<String, Arc<Tracepoint>>>,
}

impl Tracing {
    /// No functions yet. Programs that are compiled from now on keep their functions apart, so that each can be traced. Where the kernel BTF lacks
    /// packets (`sk_buff`, `xdp_buff`), which programs on packet programs see, they are added to it.
    pub fn new(system: &Arc<System>) -> Tracing {
        system.keep_calls();
        let btf = system.kernel_btf();
        let old = btf.or_else(|| Btf::parse(&Builder::new().finish()).ok());
        let more = old.and_then(|old| Btf::parse(&with_packet_types(&old)?).ok());
        if let Some(more) = more {
            system.set_kernel_btf(more);
        }
        Tracing {
            system: Arc::clone(system),
            functions: RwLock::default(),
            tracepoints: RwLock::default(),
        }
    }

    /// Whether the host offers a function of this name.
    pub fn offers(&self, name: &str) -> bool {
        let btf = self.system.kernel_btf();
        let id = btf.and_then(|btf| btf.find_by_name_kind(name, Kind::Func));
        id.is_some_and(|id| self.functions.read().contains_key(&id))
    }

    /// The system it belongs to.
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }
}

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
