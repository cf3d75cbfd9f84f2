//! Natural alignment of types, with an answer kept for each struct. Structs nest, so they wait on a stack.

use crate::{Btf, Kind, TypeId};
use alloc::vec;
use alloc::vec::Vec;

const POINTER_BYTES: u32 = 8;
/// Modifiers and arrays around one type.
const WRAPPERS_MAX: usize = 64;

/// Alignments of structs and unions; 0 is "has none".
pub(super) struct Alignments<'a> {
    btf: &'a Btf,
    known: Vec<Option<u32>>,
    /// structs on the stack of the walk
    open: Vec<bool>,
}

impl<'a> Alignments<'a> {
    pub(super) fn new(btf: &'a Btf) -> Alignments<'a> {
        let count = btf.type_count() as usize;
        Alignments {
            btf,
            known: vec![None; count],
            open: vec![false; count],
        }
    }

    /// Bytes a value of this type is aligned to; 1 for a packed struct, 0 for a type without alignment.
    pub(super) fn of(&mut self, id: TypeId) -> u32 {
        // Each with the member to go on from.
        let mut open: Vec<(TypeId, u32)> = vec![(id, 0)];
        let mut answer = 0;
        while let Some(&(top, from)) = open.last() {
            match self.direct(top) {
                Ok(align) => {
                    answer = align;
                    open.pop();
                }
                Err(composite) => {
                    // Alignment of a struct once those of its members are known; a struct inside of itself has none.
                    let pending = self.pending_member(composite, from);
                    match pending {
                        Some((index, member)) if open.len() < self.known.len() => {
                            set(&mut self.open, composite, true);
                            if let Some(last) = open.last_mut() {
                                last.1 = index + 1;
                            }
                            open.push((member, 0));
                        }
                        _ => {
                            answer = self.finish(composite);
                            if let Some(slot) = self.known.get_mut(composite.0 as usize) {
                                *slot = Some(answer);
                            }
                            set(&mut self.open, composite, false);
                            open.pop();
                        }
                    }
                }
            }
        }
        answer
    }

    /// The alignment if no struct must be looked into, else that struct.
    fn direct(&self, id: TypeId) -> Result<u32, TypeId> {
        let mut id = id;
        for _ in 0..WRAPPERS_MAX {
            let Some(ty) = self.btf.stripped(id) else {
                return Ok(0);
            };
            return match ty.kind() {
                Kind::Int | Kind::Enum | Kind::Enum64 | Kind::Float => {
                    Ok(ty.size().min(POINTER_BYTES))
                }
                Kind::Ptr => Ok(POINTER_BYTES),
                Kind::Array => {
                    id = ty.array().map_or(TypeId::VOID, |array| array.elem);
                    continue;
                }
                Kind::Struct | Kind::Union => match self.known.get(ty.id().0 as usize) {
                    Some(Some(align)) => Ok(*align),
                    _ => Err(ty.id()),
                },
                _ => Ok(0),
            };
        }
        Ok(0)
    }

    /// The next member that is a struct without an answer, and not one of those that wait.
    fn pending_member(&self, composite: TypeId, from: u32) -> Option<(u32, TypeId)> {
        let ty = self.btf.type_by_id(composite)?;
        (from..ty.vlen()).find_map(|index| {
            let pending = self.direct(ty.member(index)?.ty).err()?;
            (!flag(&self.open, pending)).then_some((index, pending))
        })
    }

    fn finish(&self, composite: TypeId) -> u32 {
        let Some(ty) = self.btf.type_by_id(composite) else {
            return 0;
        };
        let mut max = 1;
        for member in ty.members() {
            let align = self.direct(member.ty).unwrap_or(0);
            if align == 0 {
                return 0;
            }
            max = max.max(align);
            if member.bitfield_bits == 0 && member.bit_offset % (8 * align) != 0 {
                return 1;
            }
        }
        if !ty.size().is_multiple_of(max) {
            1
        } else {
            max
        }
    }

    /// Must a struct be packed for its members to lie where they do?
    pub(super) fn is_packed(&mut self, id: TypeId) -> bool {
        let Some(ty) = self.btf.type_by_id(id) else {
            return false;
        };
        let mut max = 1;
        for member in ty.members() {
            let align = self.of(member.ty);
            if align != 0 && member.bitfield_bits == 0 && member.bit_offset % (8 * align) != 0 {
                return true;
            }
            max = max.max(align);
        }
        !ty.size().is_multiple_of(max)
    }
}

fn flag(flags: &[bool], id: TypeId) -> bool {
    flags.get(id.0 as usize).copied().unwrap_or(true)
}

fn set(flags: &mut [bool], id: TypeId, value: bool) {
    if let Some(slot) = flags.get_mut(id.0 as usize) {
        *slot = value;
    }
}
