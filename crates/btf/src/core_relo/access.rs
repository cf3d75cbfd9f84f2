//! Access paths: `0:1:2` of a local type as a list of steps, and the same steps by name in a type of the target.

use super::compat::{fields_are_compatible, types_are_compatible, types_match};
use super::{ReloKind, essential_name, inval};
use crate::{Array, Btf, BtfError, CoreRelo, TypeId};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// Most numbers of a path. Source: `BPF_CORE_SPEC_MAX_LEN`.
const PATH_MAX: usize = 64;
/// Members of anonymous structs that are looked at for one step.
const MEMBERS_MAX: usize = 1 << 20;

/// A path in one BTF.
#[derive(Clone)]
pub(crate) struct Spec<'a> {
    pub(crate) btf: &'a Btf,
    pub(crate) kind: ReloKind,
    pub(crate) root: TypeId,
    pub(crate) steps: Vec<Step<'a>>,
    /// bits from the start of the root to the field
    pub(crate) bit_offset: u32,
}

/// A named member (or enumeration value), or an array element.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    /// the struct, enumeration or element type
    pub(crate) ty: TypeId,
    pub(crate) index: u32,
    /// `None` for an element
    pub(crate) name: Option<&'a str>,
}

impl<'a> Spec<'a> {
    /// Reads the path of a relocation.
    pub(crate) fn parse(
        btf: &'a Btf,
        kind: ReloKind,
        relo: &CoreRelo,
    ) -> Result<Spec<'a>, BtfError> {
        let text = btf
            .str_by_offset(relo.access_str_off)
            .ok_or_else(|| inval(format!("no access string at {}", relo.access_str_off)))?;
        let bad = || {
            inval(format!(
                "access '{text}' of type {} '{}'",
                relo.type_id,
                btf.name(relo.type_id)
            ))
        };
        if text.len() > PATH_MAX * 11 {
            return Err(inval(format!("access of {} bytes", text.len())));
        }
        let path: Vec<u32> = text
            .split(':')
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()
            .ok_or_else(bad)?;
        if path.len() > PATH_MAX {
            return Err(BtfError::new(
                Errno::E2BIG,
                format!("access of {} steps, at most {PATH_MAX}", path.len()),
            ));
        }
        let mut spec = Spec {
            btf,
            kind,
            root: relo.type_id,
            steps: Vec::new(),
            bit_offset: 0,
        };
        if kind.is_field() {
            spec.read_fields(&path).ok_or_else(bad)?;
        } else if kind.is_enumval() {
            let ty = btf
                .stripped(relo.type_id)
                .filter(|ty| ty.kind().is_any_enum())
                .ok_or_else(bad)?;
            let value = ty
                .enum_value(path[0])
                .filter(|_| path.len() == 1)
                .ok_or_else(bad)?;
            spec.steps.push(Step {
                ty: ty.id(),
                index: path[0],
                name: Some(value.name()),
            });
        } else if path != [0] || btf.type_by_id(relo.type_id).is_none() {
            return Err(bad());
        }
        Ok(spec)
    }

    fn read_fields(&mut self, path: &[u32]) -> Option<()> {
        let btf = self.btf;
        let mut id = btf.skip_mods_and_typedefs(self.root);
        let first = *path.first()?;
        self.steps.push(Step {
            ty: id,
            index: first,
            name: None,
        });
        self.add_elements(id, first)?;
        for &index in path.get(1..)? {
            id = btf.skip_mods_and_typedefs(id);
            let ty = btf.type_by_id(id)?;
            if ty.kind().is_composite() {
                let member = ty.member(index)?;
                self.bit_offset = self.bit_offset.checked_add(member.bit_offset)?;
                if member.name_off != 0 {
                    self.steps.push(Step {
                        ty: id,
                        index,
                        name: Some(member.name()),
                    });
                }
                id = member.ty;
            } else {
                let array = ty.array()?;
                if !is_flexible(btf, self.steps.last(), &array) && index >= array.nelems {
                    return None;
                }
                id = btf.skip_mods_and_typedefs(array.elem);
                self.steps.push(Step {
                    ty: id,
                    index,
                    name: None,
                });
                self.add_elements(id, index)?;
            }
        }
        Some(())
    }

    fn add_elements(&mut self, ty: TypeId, count: u32) -> Option<()> {
        let bits = self
            .btf
            .resolve_size(ty)?
            .checked_mul(count)?
            .checked_mul(8)?;
        self.bit_offset = self.bit_offset.checked_add(bits)?;
        Some(())
    }

    /// The same path from `candidate` of `target`; `None` if it does not exist there.
    pub(crate) fn find_in<'t>(
        &self,
        target: &'t Btf,
        candidate: TypeId,
    ) -> Result<Option<Spec<'t>>, BtfError> {
        let mut found = Spec {
            btf: target,
            kind: self.kind,
            root: candidate,
            steps: Vec::new(),
            bit_offset: 0,
        };
        if self.kind.is_enumval() {
            return Ok(self.find_value(&mut found).map(|()| found));
        }
        if !self.kind.is_field() {
            let matches = match self.kind {
                ReloKind::TypeMatches => types_match(self.btf, self.root, target, candidate)?,
                _ => types_are_compatible(self.btf, self.root, target, candidate)?,
            };
            return Ok(matches.then_some(found));
        }
        let mut id = candidate;
        for (at, step) in self.steps.iter().enumerate() {
            id = target.skip_mods_and_typedefs(id);
            match step.name {
                Some(name) => match self.find_member(step, name, &mut found, id)? {
                    Some(next) => id = next,
                    None => return Ok(None),
                },
                None => {
                    if at > 0 {
                        let Some(array) = target.type_by_id(id).and_then(|ty| ty.array()) else {
                            return Ok(None);
                        };
                        if !is_flexible(target, found.steps.last(), &array)
                            && step.index >= array.nelems
                        {
                            return Ok(None);
                        }
                        id = target.skip_mods_and_typedefs(array.elem);
                    }
                    found.steps.push(Step {
                        ty: id,
                        index: step.index,
                        name: None,
                    });
                    found
                        .add_elements(id, step.index)
                        .ok_or_else(|| inval(format!("type {id} of the target has no size")))?;
                }
            }
        }
        Ok(Some(found))
    }

    fn find_value<'t>(&self, found: &mut Spec<'t>) -> Option<()> {
        let name = essential_name(self.steps.first()?.name?);
        let ty = found
            .btf
            .stripped(found.root)
            .filter(|ty| ty.kind().is_any_enum())?;
        let (index, value) = ty
            .enum_values()
            .enumerate()
            .find(|(_, value)| essential_name(value.name()) == name)?;
        found.steps.push(Step {
            ty: ty.id(),
            index: index as u32,
            name: Some(value.name()),
        });
        Some(())
    }

    /// Finds a member by name in a struct or union and, in order, in the anonymous ones it holds; the first with the
    /// name decides. Returns the member's type.
    fn find_member<'t>(
        &self,
        step: &Step<'_>,
        name: &str,
        found: &mut Spec<'t>,
        id: TypeId,
    ) -> Result<Option<TypeId>, BtfError> {
        let target = found.btf;
        let local_ty = self
            .btf
            .type_by_id(step.ty)
            .and_then(|ty| ty.member(step.index))
            .map(|member| member.ty)
            .ok_or_else(|| inval(format!("no member {} of type {}", step.index, step.ty)))?;
        // Frames of structs being searched: type, next member, bit offset.
        let mut frames = vec![(id, 0u32, found.bit_offset)];
        let mut looked_at = 0;
        while let Some((id, next, base)) = frames.last_mut() {
            let (id, base) = (*id, *base);
            let member = target
                .type_by_id(id)
                .filter(|ty| ty.kind().is_composite())
                .and_then(|ty| ty.member(*next));
            let Some(member) = member else {
                frames.pop();
                continue;
            };
            let index = *next;
            *next += 1;
            looked_at += 1;
            if frames.len() + found.steps.len() > PATH_MAX || looked_at > MEMBERS_MAX {
                return Err(BtfError::new(
                    Errno::E2BIG,
                    format!("type {id} of the target nests too deeply"),
                ));
            }
            let bit_offset = base
                .checked_add(member.bit_offset)
                .ok_or_else(|| inval(format!("member {index} of type {id} is too far away")))?;
            if member.name_off == 0 {
                frames.push((target.skip_mods_and_typedefs(member.ty), 0, bit_offset));
            } else if member.name() == name {
                if !fields_are_compatible(self.btf, local_ty, target, member.ty)? {
                    return Ok(None);
                }
                found.steps.push(Step {
                    ty: id,
                    index,
                    name: Some(member.name()),
                });
                found.bit_offset = bit_offset;
                return Ok(Some(member.ty));
            }
        }
        Ok(None)
    }
}

/// An array of no elements at the end of a struct.
fn is_flexible(btf: &Btf, step: Option<&Step<'_>>, array: &Array) -> bool {
    let is_last = |step: &Step<'_>| {
        step.name.is_some()
            && btf
                .type_by_id(step.ty)
                .is_some_and(|ty| step.index.checked_add(1) == Some(ty.vlen()))
    };
    array.nelems == 0 && step.is_some_and(is_last)
}
