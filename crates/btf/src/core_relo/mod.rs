//! CO-RE: instructions that depend on the layout of the running kernel's types, adjusted to a target BTF.
//!
//! A relocation names a local type, an access path and a question (offset, size, existence, ...). The answer is computed
//! twice, for the local type (what the compiler put there) and for each candidate of the target (types of the same
//! name, flavours `___x` ignored); all candidates must agree. If nothing answers, the instruction is poisoned: a call of
//! a helper that does not exist, which the verifier refuses only if it is reachable.
//!
//! Counterpart: libbpf's `relo_core`. Files: `access` reads and matches paths, `compat` compares types, `value` computes
//! answers, `patch` writes them, `text` names them. Nothing recurses; depths are bounded as in libbpf.

mod access;
mod compat;
mod patch;
mod text;
mod value;

pub use compat::types_are_compatible;
pub use text::{describe, explain_poison};

use crate::{Btf, BtfError, CoreRelo, Kind, TypeId};
use access::Spec;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ring3_isa::RawInsn;
use ring3_uapi::Errno;
use value::Answer;

/// Immediate of the call that stands for a relocation without answer: reads "bad relo" in hexadecimal digits.
pub const POISON_IMM: i32 = 0x0bad_2310;

macro_rules! relo_kinds {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// What a relocation asks.
        ///
        /// # Source
        /// `enum bpf_core_relo_kind` of linux/bpf.h.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ReloKind {
            $(#[doc = concat!("`", $text, "`")] $name = $value,)*
        }

        impl ReloKind {
            /// The kind with this number.
            pub const fn from_raw(raw: u32) -> Option<ReloKind> {
                match raw { $($value => Some(ReloKind::$name),)* _ => None }
            }

            /// libbpf's word for it.
            pub const fn name(self) -> &'static str {
                match self { $(ReloKind::$name => $text,)* }
            }
        }
    };
}

relo_kinds! {
    FieldByteOffset = 0, "byte_off";
    FieldByteSize = 1, "byte_sz";
    FieldExists = 2, "field_exists";
    FieldSigned = 3, "signed";
    FieldLshiftU64 = 4, "lshift_u64";
    FieldRshiftU64 = 5, "rshift_u64";
    TypeIdLocal = 6, "local_type_id";
    TypeIdTarget = 7, "target_type_id";
    TypeExists = 8, "type_exists";
    TypeSize = 9, "type_size";
    EnumvalExists = 10, "enumval_exists";
    EnumvalValue = 11, "enumval_value";
    TypeMatches = 12, "type_matches";
}

impl ReloKind {
    pub(crate) const fn is_field(self) -> bool {
        (self as u32) < 6
    }

    pub(crate) const fn is_enumval(self) -> bool {
        matches!(self, ReloKind::EnumvalExists | ReloKind::EnumvalValue)
    }
}

/// What stands before the flavour `___x` of a name.
pub fn essential_name(name: &str) -> &str {
    let bytes = name.as_bytes();
    // The flavour needs a name before it and text after it that is no underscore.
    for at in (1..bytes.len().saturating_sub(3)).rev() {
        if &bytes[at..at + 3] == b"___" && bytes[at - 1] != b'_' && bytes[at + 3] != b'_' {
            return &name[..at];
        }
    }
    name
}

/// Relocates the programs of one object against one target.
pub struct Relocator<'a> {
    local: &'a Btf,
    target: &'a Btf,
    /// candidates of local root types, narrowed by each relocation that some of them answer
    candidates: BTreeMap<TypeId, Vec<TypeId>>,
    /// types of the target whose name has a flavour, by essential name
    flavoured: Option<BTreeMap<&'a str, Vec<TypeId>>>,
}

impl<'a> Relocator<'a> {
    /// For programs whose types are in `local`, to run where types are those of `target`.
    pub fn new(local: &'a Btf, target: &'a Btf) -> Relocator<'a> {
        Relocator {
            local,
            target,
            candidates: BTreeMap::new(),
            flavoured: None,
        }
    }

    /// Adjusts the instructions of a program; offsets of the records are instruction slots.
    ///
    /// # Errors
    /// EINVAL and others as libbpf gives them: a record or instruction of unexpected form, candidates that disagree.
    pub fn relocate(
        &mut self,
        prog: &str,
        insns: &mut [RawInsn],
        relos: &[CoreRelo],
    ) -> Result<(), BtfError> {
        for (index, relo) in relos.iter().enumerate() {
            let answer = self.answer(relo).and_then(|answer| {
                patch::patch(insns, relo.insn_off as usize, &answer).map(|()| answer)
            });
            if let Err(error) = answer {
                return Err(BtfError::new(
                    error.errno(),
                    format!(
                        "program '{prog}' core relocation {index} at instruction {}: {}",
                        relo.insn_off,
                        error.message()
                    ),
                ));
            }
        }
        Ok(())
    }

    fn answer(&mut self, relo: &CoreRelo) -> Result<Answer, BtfError> {
        let Some(kind) = ReloKind::from_raw(relo.kind) else {
            return Err(inval(format!("unknown kind {}", relo.kind)));
        };
        let local = Spec::parse(self.local, kind, relo)?;
        if kind == ReloKind::TypeIdLocal {
            return Ok(Answer::fixed(u64::from(relo.type_id.0)));
        }
        let root = self
            .local
            .type_by_id(relo.type_id)
            .ok_or_else(|| inval(format!("no type {}", relo.type_id)))?;
        if root.name().is_empty() {
            return Err(BtfError::new(
                Errno::ENOTSUP,
                format!("type {} has no name", relo.type_id),
            ));
        }
        let candidates = match self.candidates.get(&relo.type_id) {
            Some(known) => known.clone(),
            None => {
                let found = self.find_candidates(root.kind(), essential_name(root.name()));
                self.candidates.insert(relo.type_id, found.clone());
                found
            }
        };
        let mut chosen: Option<(Spec<'_>, Answer)> = None;
        let mut matching = Vec::new();
        for candidate in candidates {
            let Some(spec) = local.find_in(self.target, candidate)? else {
                continue;
            };
            let answer = Answer::compute(kind, &local, Some(&spec))?;
            if let Some((first_spec, first)) = &chosen {
                if first_spec.bit_offset != spec.bit_offset {
                    return Err(inval(format!(
                        "candidates disagree on the offset: {} and {}",
                        first_spec.bit_offset, spec.bit_offset
                    )));
                }
                if first.is_poison != answer.is_poison || first.new != answer.new {
                    return Err(inval(format!(
                        "candidates disagree: {} and {}",
                        first.new, answer.new
                    )));
                }
            } else {
                chosen = Some((spec, answer));
            }
            matching.push(candidate);
        }
        match chosen {
            Some((_, answer)) => {
                self.candidates.insert(relo.type_id, matching);
                Ok(answer)
            }
            None => Answer::compute(kind, &local, None),
        }
    }

    /// The types of the target that a relocation is matched with, ascending; none for a local type without a name.
    pub fn candidates(&mut self, relo: &CoreRelo) -> Vec<TypeId> {
        match self.local.type_by_id(relo.type_id) {
            Some(root) if !root.name().is_empty() => {
                self.find_candidates(root.kind(), essential_name(root.name()))
            }
            _ => Vec::new(),
        }
    }

    /// Types of the target with this essential name and a compatible kind, ascending.
    fn find_candidates(&mut self, kind: Kind, name: &str) -> Vec<TypeId> {
        let target = self.target;
        let flavoured = self.flavoured.get_or_insert_with(|| {
            let mut index: BTreeMap<&str, Vec<TypeId>> = BTreeMap::new();
            for ty in target.types() {
                let name = ty.name();
                let essential = essential_name(name);
                if essential.len() != name.len() {
                    index.entry(essential).or_default().push(ty.id());
                }
            }
            index
        });
        let mut found: Vec<TypeId> = target.ids_by_name(name).collect();
        found.extend(flavoured.get(name).into_iter().flatten());
        found.retain(|&id| {
            target
                .kind(id)
                .is_some_and(|other| kinds_are_compatible(kind, other))
        });
        found.sort_unstable();
        found
    }
}

/// Equal, or both enumerations.
pub(crate) fn kinds_are_compatible(a: Kind, b: Kind) -> bool {
    a == b || (a.is_any_enum() && b.is_any_enum())
}

pub(crate) fn inval(message: String) -> BtfError {
    BtfError::new(Errno::EINVAL, message)
}

#[cfg(test)]
mod tests;
