//! `InsnAux`: what exploration learns about one instruction over all paths, in an [`AuxTable`]. The rewrites read it after acceptance.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use ring3_btf::TypeId;

use crate::state::{BtfIdx, MapIdx, RegType};

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
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InsnAux {
    /// Pass number (1, 2, ...: main program and each global function) that saw it last; 0: never executed.
    pub(crate) seen: u16,
    /// Bytes of the context field that is accessed.
    pub(crate) ctx_field_size: u8,
    /// The defined register's upper half is read later.
    pub(crate) zext_dst: bool,
    /// Arena: this operation needs a zero extension of the user address.
    pub(crate) needs_zext: bool,
    /// Barrier before / after the instruction.
    pub(crate) nospec: bool,
    pub(crate) nospec_result: bool,
    /// Of pointer arithmetic: bits of `alu_state`.
    clamp_state: u8,
    by_kind: ByKind,
}

const _: () = assert!(size_of::<InsnAux>() == 16);

/// What only one kind of instruction has.
#[derive(Clone, Copy, Debug, Default)]
enum ByKind {
    #[default]
    Nothing,
    /// A load or store: type of the pointer it goes through.
    Access(RegType),
    /// Pointer arithmetic: how far the pointer may move.
    Arithmetic(u32),
    /// A call: place in [`AuxTable::calls`].
    Call(u32),
}

/// Sanitation of pointer arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clamp {
    /// Bits of `alu_state`; 0: none.
    pub(crate) state: u8,
    /// How far the pointer may move.
    pub(crate) limit: u32,
}

impl InsnAux {
    /// Type of the pointer a load or store goes through; all paths must agree on kinds that are rewritten.
    #[inline]
    pub(crate) fn ptr_type(&self) -> Option<RegType> {
        match self.by_kind {
            ByKind::Access(ty) => Some(ty),
            ByKind::Nothing | ByKind::Arithmetic(_) | ByKind::Call(_) => None,
        }
    }

    #[inline]
    pub(crate) fn set_ptr_type(&mut self, ty: RegType) {
        self.by_kind = ByKind::Access(ty);
    }

    pub(crate) fn clamp(&self) -> Clamp {
        match self.by_kind {
            ByKind::Arithmetic(limit) => Clamp {
                state: self.clamp_state,
                limit,
            },
            ByKind::Nothing | ByKind::Access(_) | ByKind::Call(_) => Clamp::default(),
        }
    }

    pub(crate) fn set_clamp(&mut self, clamp: Clamp) {
        self.clamp_state = clamp.state;
        self.by_kind = ByKind::Arithmetic(clamp.limit);
    }

    /// A barrier stands before the arithmetic instead.
    pub(crate) fn forget_clamp(&mut self) {
        if matches!(self.by_kind, ByKind::Arithmetic(_)) {
            self.by_kind = ByKind::Nothing;
        }
    }
}

/// What exploration learned of one call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallAux {
    pub(crate) map_arg: MapArg,
    pub(crate) map_key: MapKey,
    /// `storage_get` allocates atomically.
    pub(crate) storage_get_atomic: bool,
    /// Loop callback (`bpf_loop` flags argument zero, subprogram) for inlining.
    pub(crate) loop_inline: LoopInline,
    /// A kernel function of allocated objects: which type it gets.
    pub(crate) object: Option<ObjectArg>,
}

/// The type of the objects that a call of a kernel function is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectArg {
    pub(crate) btf: BtfIdx,
    pub(crate) id: TypeId,
    /// Where the node lies by which a list or tree links them.
    pub(crate) node_offset: u32,
}

/// What exploration learned of every slot; most are no calls, hence two tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuxTable {
    slots: Vec<InsnAux>,
    calls: Vec<CallAux>,
}

impl AuxTable {
    /// Nothing is known of `count` slots.
    pub(crate) fn new(count: usize) -> AuxTable {
        AuxTable {
            slots: vec![InsnAux::default(); count],
            calls: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, at: u32) -> Option<&InsnAux> {
        self.slots.get(at as usize)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut InsnAux> {
        self.slots.get_mut(at as usize)
    }

    /// Of a call; nothing for other slots.
    pub(crate) fn call(&self, at: u32) -> CallAux {
        match self.get(at).map(|aux| aux.by_kind) {
            Some(ByKind::Call(place)) => self.calls[place as usize],
            Some(ByKind::Nothing | ByKind::Access(_) | ByKind::Arithmetic(_)) | None => {
                CallAux::default()
            }
        }
    }

    /// Of a call, for a change.
    pub(crate) fn call_mut(&mut self, at: u32) -> &mut CallAux {
        let kind = &mut self.slots[at as usize].by_kind;
        let place = match *kind {
            ByKind::Call(place) => place,
            ByKind::Nothing | ByKind::Access(_) | ByKind::Arithmetic(_) => {
                let place = self.calls.len() as u32;
                self.calls.push(CallAux::default());
                *kind = ByKind::Call(place);
                place
            }
        };
        &mut self.calls[place as usize]
    }

    /// All calls that something was noted of.
    pub(crate) fn calls(&self) -> &[CallAux] {
        &self.calls
    }
}

impl Index<u32> for AuxTable {
    type Output = InsnAux;

    #[inline]
    fn index(&self, at: u32) -> &InsnAux {
        &self.slots[at as usize]
    }
}

impl IndexMut<u32> for AuxTable {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut InsnAux {
        &mut self.slots[at as usize]
    }
}

/// Whether a call of `bpf_loop` can be inlined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoopInline {
    pub(crate) initialized: bool,
    pub(crate) fit_for_inline: bool,
    pub(crate) callback_subprogno: u32,
}
