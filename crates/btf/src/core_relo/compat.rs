//! Which types of the target can stand for a local type: compatible (same shape down to names) and matching (every
//! local member has its like in the target).

use super::{essential_name, inval, kinds_are_compatible};
use crate::{Btf, BtfError, Kind, Type, TypeId};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// Nested types that are followed. Source: libbpf's `32`.
const DEPTH_MAX: u32 = 32;
/// Comparisons of one question; more is a blob made to take time.
const STEPS_MAX: u32 = 1 << 24;

fn types<'a>(btf: &'a Btf, id: TypeId) -> Result<Type<'a>, BtfError> {
    btf.stripped(id)
        .ok_or_else(|| inval(format!("no type {id}")))
}

fn is_whole_int(ty: &Type<'_>) -> bool {
    ty.int().is_some_and(|int| int.bit_offset == 0)
}

/// Can a field of the target be read as the local field was meant to be?
pub(super) fn fields_are_compatible(
    local_btf: &Btf,
    local: TypeId,
    target_btf: &Btf,
    target: TypeId,
) -> Result<bool, BtfError> {
    let (mut local, mut target) = (local, target);
    for _ in 0..DEPTH_MAX {
        let (a, b) = (types(local_btf, local)?, types(target_btf, target)?);
        if a.kind().is_composite() && b.kind().is_composite() {
            return Ok(true);
        }
        if !kinds_are_compatible(a.kind(), b.kind()) {
            return Ok(false);
        }
        match a.kind() {
            Kind::Ptr | Kind::Float => return Ok(true),
            Kind::Fwd | Kind::Enum | Kind::Enum64 => {
                let (a, b) = (essential_name(a.name()), essential_name(b.name()));
                return Ok(a.is_empty() || b.is_empty() || a == b);
            }
            Kind::Int => return Ok(is_whole_int(&a) && is_whole_int(&b)),
            Kind::Array => match (a.array(), b.array()) {
                (Some(a), Some(b)) => (local, target) = (a.elem, b.elem),
                _ => return Ok(false),
            },
            _ => return Ok(false),
        }
    }
    Err(inval(format!("type {local} nests too deeply")))
}

/// Are two types the same down to pointers, arrays and prototypes, structs taken by name alone? The caller has compared
/// the names of the roots. Also what decides whether a kernel function is the one that a program declares.
///
/// # Errors
/// EINVAL: a type that does not exist, or nesting deeper than 32.
pub fn types_are_compatible(
    local_btf: &Btf,
    local: TypeId,
    target_btf: &Btf,
    target: TypeId,
) -> Result<bool, BtfError> {
    let roots = (local_btf.kind(local), target_btf.kind(target));
    let (Some(a), Some(b)) = roots else {
        return Err(inval(format!("no type {local} or {target}")));
    };
    if !kinds_are_compatible(a, b) {
        return Ok(false);
    }
    // All pairs must be compatible: the order does not matter, so a list of pairs with their depth is enough.
    let mut pairs = vec![(local, target, 0u32)];
    let mut steps = 0;
    while let Some((local, target, depth)) = pairs.pop() {
        steps += 1;
        if depth > DEPTH_MAX || steps > STEPS_MAX {
            return Err(inval(format!("type {local} nests too deeply")));
        }
        let (a, b) = (types(local_btf, local)?, types(target_btf, target)?);
        if !kinds_are_compatible(a.kind(), b.kind()) {
            return Ok(false);
        }
        match a.kind() {
            Kind::Void | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Fwd => {}
            Kind::Int => {
                if !is_whole_int(&a) || !is_whole_int(&b) {
                    return Ok(false);
                }
            }
            Kind::Ptr => pairs.push((a.type_id(), b.type_id(), depth + 1)),
            Kind::Array => {
                if let (Some(a), Some(b)) = (a.array(), b.array()) {
                    pairs.push((a.elem, b.elem, depth + 1));
                }
            }
            Kind::FuncProto => {
                if a.vlen() != b.vlen() {
                    return Ok(false);
                }
                pairs.push((a.type_id(), b.type_id(), depth + 1));
                pairs.extend(
                    a.params()
                        .zip(b.params())
                        .map(|(a, b)| (a.ty, b.ty, depth + 1)),
                );
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// A comparison that waits for the answer of another.
enum Frame {
    /// local member, and the member of the target it is being compared with
    Members {
        local: TypeId,
        target: TypeId,
        member: u32,
        other: u32,
    },
    /// the parameter being compared
    Params {
        local: TypeId,
        target: TypeId,
        param: u32,
        behind_ptr: bool,
    },
}

/// A comparison to make, or one that was made.
enum Next {
    Compare {
        local: TypeId,
        target: TypeId,
        behind_ptr: bool,
    },
    Answer(bool),
}

/// Does every member of the local type have its like in the target, all the way down?
pub(super) fn types_match(
    local_btf: &Btf,
    local: TypeId,
    target_btf: &Btf,
    target: TypeId,
) -> Result<bool, BtfError> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = Next::Compare {
        local,
        target,
        behind_ptr: false,
    };
    let mut steps = 0;
    loop {
        steps += 1;
        if frames.len() > DEPTH_MAX as usize || steps > STEPS_MAX {
            return Err(inval(format!("type {local} nests too deeply")));
        }
        next = match next {
            Next::Compare {
                local,
                target,
                behind_ptr,
            } => compare(
                local_btf,
                local,
                target_btf,
                target,
                behind_ptr,
                &mut frames,
            )?,
            Next::Answer(answer) => match frames.last_mut() {
                None => return Ok(answer),
                Some(frame) => match resume(local_btf, target_btf, frame, answer, &mut steps) {
                    Some(next) => next,
                    None => {
                        let end = finished(local_btf, target_btf, frames.pop(), answer);
                        end.unwrap_or(Next::Answer(answer))
                    }
                },
            },
        };
    }
}

/// What a frame leads to when it has no more parts of its own: a prototype still compares its return type.
fn finished(local_btf: &Btf, target_btf: &Btf, frame: Option<Frame>, answer: bool) -> Option<Next> {
    match frame? {
        Frame::Members { .. } => None,
        Frame::Params {
            local,
            target,
            behind_ptr,
            ..
        } => answer.then(|| Next::Compare {
            local: local_btf
                .type_by_id(local)
                .map_or(TypeId::VOID, |ty| ty.type_id()),
            target: target_btf
                .type_by_id(target)
                .map_or(TypeId::VOID, |ty| ty.type_id()),
            behind_ptr,
        }),
    }
}

/// The next comparison of a frame after an answer; `None` if the answer is the frame's own.
fn resume(
    local_btf: &Btf,
    target_btf: &Btf,
    frame: &mut Frame,
    answer: bool,
    steps: &mut u32,
) -> Option<Next> {
    match frame {
        Frame::Members {
            local,
            target,
            member,
            other,
        } => {
            if answer {
                (*member, *other) = (member.saturating_add(1), 0);
            } else {
                *other = other.saturating_add(1);
            }
            let local = local_btf.type_by_id(*local)?;
            let target = target_btf.type_by_id(*target)?;
            let wanted = local.member(*member)?;
            let name = essential_name(wanted.name());
            // Looking for a name costs as many steps as there are members.
            *steps = steps.saturating_add(target.vlen());
            let candidates = target.members().enumerate().skip(*other as usize);
            match candidates
                .into_iter()
                .find(|(_, candidate)| essential_name(candidate.name()) == name)
            {
                Some((index, candidate)) => {
                    *other = index as u32;
                    Some(Next::Compare {
                        local: wanted.ty,
                        target: candidate.ty,
                        behind_ptr: false,
                    })
                }
                None => {
                    // No like of this member: skip past all, so that the answer is the frame's.
                    *member = u32::MAX;
                    answer.then_some(Next::Answer(false))
                }
            }
        }
        Frame::Params {
            local,
            target,
            param,
            behind_ptr,
        } => {
            if !answer {
                return None;
            }
            let index = *param;
            *param = param.saturating_add(1);
            let a = local_btf.type_by_id(*local)?.param(index)?;
            let b = target_btf.type_by_id(*target)?.param(index)?;
            Some(Next::Compare {
                local: a.ty,
                target: b.ty,
                behind_ptr: *behind_ptr,
            })
        }
    }
}

/// Compares two types as far as it goes without parts; parts become a frame.
fn compare(
    local_btf: &Btf,
    local: TypeId,
    target_btf: &Btf,
    target: TypeId,
    behind_ptr: bool,
    frames: &mut Vec<Frame>,
) -> Result<Next, BtfError> {
    let (mut local, mut target, mut behind_ptr) = (local, target, behind_ptr);
    for _ in 0..DEPTH_MAX {
        let (a, b) = (types(local_btf, local)?, types(target_btf, target)?);
        if essential_name(a.name()) != essential_name(b.name()) {
            return Ok(Next::Answer(false));
        }
        let same_kind = a.kind() == b.kind();
        let answer = match a.kind() {
            Kind::Void => same_kind,
            Kind::Fwd if same_kind => a.kind_flag() == b.kind_flag(),
            Kind::Fwd => {
                behind_ptr
                    && b.kind()
                        == if a.kind_flag() {
                            Kind::Union
                        } else {
                            Kind::Struct
                        }
            }
            Kind::Enum | Kind::Enum64 => b.kind().is_any_enum() && values_match(&a, &b),
            Kind::Struct | Kind::Union if behind_ptr => {
                same_kind || (b.kind() == Kind::Fwd && (a.kind() == Kind::Union) == b.kind_flag())
            }
            Kind::Struct | Kind::Union => {
                if !same_kind || a.vlen() > b.vlen() {
                    return Ok(Next::Answer(false));
                }
                if a.vlen() == 0 {
                    return Ok(Next::Answer(true));
                }
                // The frame begins as if the member before the first had been found.
                frames.push(Frame::Members {
                    local: a.id(),
                    target: b.id(),
                    member: u32::MAX,
                    other: 0,
                });
                return Ok(start_members(local_btf, target_btf, frames));
            }
            Kind::Int => {
                let signed = |ty: &Type<'_>| ty.int().is_some_and(|int| int.encoding.is_signed());
                same_kind && a.size() == b.size() && signed(&a) == signed(&b)
            }
            Kind::Ptr => {
                if !same_kind {
                    return Ok(Next::Answer(false));
                }
                behind_ptr = true;
                (local, target) = (a.type_id(), b.type_id());
                continue;
            }
            Kind::Array => match (a.array(), b.array()) {
                (Some(a), Some(b)) if a.nelems == b.nelems => {
                    (local, target) = (a.elem, b.elem);
                    continue;
                }
                _ => false,
            },
            Kind::FuncProto => {
                if !same_kind || a.vlen() != b.vlen() {
                    return Ok(Next::Answer(false));
                }
                frames.push(Frame::Params {
                    local: a.id(),
                    target: b.id(),
                    param: 0,
                    behind_ptr,
                });
                return Ok(Next::Answer(true));
            }
            _ => false,
        };
        return Ok(Next::Answer(answer));
    }
    Err(inval(format!("type {local} nests too deeply")))
}

/// The first comparison of a struct's frame.
fn start_members(local_btf: &Btf, target_btf: &Btf, frames: &mut [Frame]) -> Next {
    let Some(Frame::Members {
        local,
        target,
        member,
        other,
    }) = frames.last_mut()
    else {
        return Next::Answer(false);
    };
    let wanted = local_btf.type_by_id(*local).and_then(|ty| ty.member(0));
    let (Some(wanted), Some(target)) = (wanted, target_btf.type_by_id(*target)) else {
        return Next::Answer(false);
    };
    let name = essential_name(wanted.name());
    match target
        .members()
        .enumerate()
        .find(|(_, candidate)| essential_name(candidate.name()) == name)
    {
        Some((index, candidate)) => {
            (*member, *other) = (0, index as u32);
            Next::Compare {
                local: wanted.ty,
                target: candidate.ty,
                behind_ptr: false,
            }
        }
        None => Next::Answer(false),
    }
}

/// Every local value has one of the same name.
fn values_match(local: &Type<'_>, target: &Type<'_>) -> bool {
    if local.vlen() > target.vlen() {
        return false;
    }
    let names: alloc::collections::BTreeSet<&str> = target
        .enum_values()
        .map(|value| essential_name(value.name()))
        .collect();
    local
        .enum_values()
        .all(|value| names.contains(essential_name(value.name())))
}
