//! `InsnAux`: what exploration learns about one instruction over all paths. The rewrites read it after acceptance.

use crate::state::{MapIdx, RegType};

/// The map (or its absence) that a helper call always gets as its map argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MapArg {
    /// No path came here yet.
    #[default]
    Unseen,
    /// Always this map.
    One { map: MapIdx, unpriv: bool },
    /// More than one.
    Poison { unpriv: bool },
}

/// The constant key that a look-up or tail call always gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MapKey {
    #[default]
    Unseen,
    One(u64),
    Poison,
}

/// What exploration learned of one instruction slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct InsnAux {
    /// Pass number (1, 2, ...: main program and each global function) that saw it last; 0: never executed.
    pub(crate) seen: u32,
    /// Type of the pointer a load or store goes through; all paths must agree on kinds that are rewritten.
    pub(crate) ptr_type: Option<RegType>,
    pub(crate) map_arg: MapArg,
    pub(crate) map_key: MapKey,
    /// Sanitation of pointer arithmetic, bits of `alu_state`, and its limit.
    pub(crate) alu_state: u32,
    pub(crate) alu_limit: u32,
    /// Bytes of the context field that is accessed.
    pub(crate) ctx_field_size: u8,
    /// The defined register's upper half is read later.
    pub(crate) zext_dst: bool,
    /// Arena: this operation needs a zero extension of the user address.
    pub(crate) needs_zext: bool,
    /// Barrier before / after the instruction.
    pub(crate) nospec: bool,
    pub(crate) nospec_result: bool,
    /// `storage_get` allocates atomically.
    pub(crate) storage_get_atomic: bool,
    /// Loop callback (`bpf_loop` flags argument zero, subprogram) for inlining: `Some(subprog)` while fit.
    pub(crate) loop_inline: LoopInline,
}

/// Whether a call of `bpf_loop` can be inlined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoopInline {
    pub(crate) initialized: bool,
    pub(crate) fit_for_inline: bool,
    pub(crate) callback_subprogno: u32,
}
