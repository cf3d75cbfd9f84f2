//! Finding special fields: a walk over a struct or data section, its nested structs and their arrays.

use super::{DEPTH_MAX, FIELDS_MAX, FieldKind, FieldMask, FieldTarget, KernelTypes};
use crate::{Btf, Kind, Type, TypeId};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// Declaration tags `contains:...` by what they belong to: found once for all structs of a blob.
pub(super) struct Contains<'a>(BTreeMap<(TypeId, i32), Vec<&'a str>>);

impl<'a> Contains<'a> {
    pub(super) fn new(btf: &'a Btf) -> Contains<'a> {
        let mut tags: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ty in btf.types().filter(|ty| ty.kind() == Kind::DeclTag) {
            if let (Some(component), Some(value)) =
                (ty.component_idx(), ty.name().strip_prefix("contains:"))
            {
                tags.entry((ty.type_id(), component))
                    .or_default()
                    .push(value);
            }
        }
        Contains(tags)
    }
}

pub(super) struct Found {
    pub(super) kind: FieldKind,
    pub(super) offset: u32,
    pub(super) raw: RawTarget,
}

#[derive(Clone)]
pub(super) enum RawTarget {
    None,
    Pointer(TypeId),
    Root {
        value: TypeId,
        node: alloc::string::String,
    },
}

/// A struct being walked: it stands `nelems` times from byte `base` on.
struct Frame<'a> {
    ty: Type<'a>,
    next_member: u32,
    base: u32,
    nelems: u32,
    first_found: usize,
    seen: FieldMask,
}

pub(super) fn find_fields(
    btf: &Btf,
    tags: &Contains<'_>,
    ty: Type<'_>,
    mask: FieldMask,
) -> Result<Vec<Found>, Errno> {
    let mut found = Vec::new();
    match ty.kind() {
        Kind::Struct => walk_struct(btf, tags, ty, mask, &mut found)?,
        Kind::Datasec => {
            let mut seen = FieldMask::default();
            for secinfo in ty.vars() {
                let Some(var) = btf.type_by_id(secinfo.ty) else {
                    continue;
                };
                let place = Place {
                    holder: secinfo.ty,
                    component: -1,
                    offset: secinfo.offset,
                    bytes: secinfo.size,
                };
                if let Some((nested, nelems)) = find_one(
                    btf,
                    tags,
                    var.type_id(),
                    &place,
                    mask,
                    &mut seen,
                    &mut found,
                )? {
                    let first = found.len();
                    walk_struct(btf, tags, nested, mask, &mut found)?;
                    place_nested(&mut found, first, secinfo.offset, nelems, nested.size())?;
                }
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(found)
}

fn walk_struct<'a>(
    btf: &'a Btf,
    tags: &Contains<'_>,
    root: Type<'a>,
    mask: FieldMask,
    found: &mut Vec<Found>,
) -> Result<(), Errno> {
    let frame = |ty, base, nelems, first_found| Frame {
        ty,
        next_member: 0,
        base,
        nelems,
        first_found,
        seen: FieldMask::default(),
    };
    let mut stack: Vec<Frame<'a>> = alloc::vec![frame(root, 0, 1, found.len())];
    // A wide struct nested 32 deep would be walked exponentially often: bound the steps as well as the depth.
    let mut steps = 0u32;
    while let Some(top) = stack.last_mut() {
        steps += 1;
        if steps > 1 << 20 {
            return Err(Errno::E2BIG);
        }
        let Some(member) = top.ty.member(top.next_member) else {
            let (base, nelems, first, size) =
                (top.base, top.nelems, top.first_found, top.ty.size());
            stack.pop();
            place_nested(found, first, base, nelems, size)?;
            continue;
        };
        let component = top.next_member as i32;
        top.next_member += 1;
        if member.bit_offset % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let place = Place {
            holder: top.ty.id(),
            component,
            offset: member.byte_offset(),
            bytes: 0,
        };
        if let Some((nested, nelems)) =
            find_one(btf, tags, member.ty, &place, mask, &mut top.seen, found)?
        {
            if stack.len() >= DEPTH_MAX {
                return Err(Errno::E2BIG);
            }
            let first = found.len();
            stack.push(frame(nested, member.byte_offset(), nelems, first));
        }
    }
    Ok(())
}

/// Moves the fields of a nested struct to where it stands and repeats them for each element of an array of it.
fn place_nested(
    found: &mut Vec<Found>,
    first: usize,
    base: u32,
    nelems: u32,
    size: u32,
) -> Result<(), Errno> {
    for field in &mut found[first..] {
        field.offset = field.offset.checked_add(base).ok_or(Errno::EINVAL)?;
    }
    if nelems > 1 && found.len() > first {
        repeat(found, first, nelems, size)?;
    }
    Ok(())
}

fn repeat(found: &mut Vec<Found>, first: usize, nelems: u32, size: u32) -> Result<(), Errno> {
    let count = found.len() - first;
    if found[first..]
        .iter()
        .any(|field| !field.kind.is_repeatable())
    {
        return Err(Errno::EINVAL);
    }
    let total = (nelems as usize).checked_mul(count).ok_or(Errno::E2BIG)?;
    if first + total > FIELDS_MAX {
        return Err(Errno::E2BIG);
    }
    for index in 1..nelems {
        for at in first..first + count {
            let shift = index.checked_mul(size).ok_or(Errno::E2BIG)?;
            let offset = found[at].offset.checked_add(shift).ok_or(Errno::E2BIG)?;
            found.push(Found {
                kind: found[at].kind,
                offset,
                raw: found[at].raw.clone(),
            });
        }
    }
    Ok(())
}

/// Where a member or variable stands: its declaration tags belong to `holder` and `component`.
struct Place {
    holder: TypeId,
    component: i32,
    offset: u32,
    /// size that a data section states, 0 for a member
    bytes: u32,
}

/// Looks at one member or variable: a special field goes to `found`, a struct to walk is returned with how many.
fn find_one<'a>(
    btf: &'a Btf,
    tags: &Contains<'_>,
    ty: TypeId,
    place: &Place,
    mask: FieldMask,
    seen: &mut FieldMask,
    found: &mut Vec<Found>,
) -> Result<Option<(Type<'a>, u32)>, Errno> {
    let mut nelems = 1u32;
    let mut ty = btf.type_by_id(ty).ok_or(Errno::EINVAL)?;
    let mut depth = 0;
    while let Some(array) = ty.array() {
        if depth == DEPTH_MAX - 1 {
            return Err(Errno::E2BIG);
        }
        depth += 1;
        nelems = nelems.wrapping_mul(array.nelems);
        ty = btf.type_by_id(array.elem).ok_or(Errno::EINVAL)?;
    }
    if nelems == 0 {
        return Ok(None);
    }
    let is_struct = ty.kind() == Kind::Struct;
    let named = FieldKind::ALL.iter().copied().find(|&kind| {
        is_struct && !kind.is_pointer() && mask.has(kind) && kind.name() == ty.name()
    });
    let fits = |size: u32| place.bytes == 0 || size.checked_mul(nelems) == Some(place.bytes);
    let Some(kind) = named else {
        if is_struct {
            return Ok(fits(ty.size()).then_some((ty, nelems)));
        }
        if mask.0 & 0x81c == 0 || !fits(8) || !place.offset.is_multiple_of(8) {
            return Ok(None);
        }
        let Some((kind, target)) = kernel_pointer(btf, ty, mask)? else {
            return Ok(None);
        };
        push(
            found,
            kind,
            place.offset,
            RawTarget::Pointer(target),
            nelems,
        )?;
        return Ok(None);
    };
    if kind.is_unique() {
        if seen.has(kind) {
            return Err(Errno::E2BIG);
        }
        seen.insert(kind);
    }
    if !fits(kind.size()) || !place.offset.is_multiple_of(kind.align()) || ty.size() != kind.size()
    {
        return Ok(None);
    }
    let raw = if kind.is_graph_root() {
        contained(btf, tags, place)?
    } else {
        RawTarget::None
    };
    push(found, kind, place.offset, raw, nelems)?;
    Ok(None)
}

fn push(
    found: &mut Vec<Found>,
    kind: FieldKind,
    offset: u32,
    raw: RawTarget,
    nelems: u32,
) -> Result<(), Errno> {
    if found.len() >= FIELDS_MAX {
        return Err(Errno::E2BIG);
    }
    let first = found.len();
    found.push(Found { kind, offset, raw });
    if nelems > 1 {
        repeat(found, first, nelems, kind.size())
    } else {
        Ok(())
    }
}

/// A pointer with a type tag: which kind, and the struct behind it.
pub(super) fn kernel_pointer(
    btf: &Btf,
    ty: Type<'_>,
    mask: FieldMask,
) -> Result<Option<(FieldKind, TypeId)>, Errno> {
    let follow = |ty: Type<'_>| ty.type_id();
    let pointer = match ty.kind() {
        Kind::Volatile => btf.type_by_id(follow(ty)).ok_or(Errno::EINVAL)?,
        _ => ty,
    };
    if pointer.kind() != Kind::Ptr {
        return Ok(None);
    }
    let tag = btf.type_by_id(follow(pointer)).ok_or(Errno::EINVAL)?;
    if tag.kind() != Kind::TypeTag || tag.kind_flag() {
        return Ok(None);
    }
    if btf.kind(tag.type_id()) == Some(Kind::TypeTag) {
        return Err(Errno::EINVAL);
    }
    let kind = match tag.name() {
        "kptr_untrusted" => FieldKind::KptrUnref,
        "kptr" => FieldKind::KptrRef,
        "percpu_kptr" => FieldKind::KptrPercpu,
        "uptr" => FieldKind::Uptr,
        _ => return Err(Errno::EINVAL),
    };
    if !mask.has(kind) {
        return Ok(None);
    }
    let target = btf.skip_mods_and_typedefs(tag.type_id());
    if btf.kind(target) != Some(Kind::Struct) {
        return Err(Errno::EINVAL);
    }
    Ok(Some((kind, target)))
}

/// What a root contains: the one declaration tag `contains:STRUCT:NODE`.
fn contained(btf: &Btf, tags: &Contains<'_>, place: &Place) -> Result<RawTarget, Errno> {
    let mut values = tags
        .0
        .get(&(place.holder, place.component))
        .into_iter()
        .flatten();
    let value = values.next().ok_or(Errno::EINVAL)?;
    if values.next().is_some() {
        return Err(Errno::EINVAL);
    }
    let (name, node) = value.split_once(':').ok_or(Errno::EINVAL)?;
    let value = btf
        .find_by_name_kind(name, Kind::Struct)
        .ok_or(Errno::ENOENT)?;
    if node.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(RawTarget::Root {
        value,
        node: node.into(),
    })
}

pub(super) fn node_offset(
    btf: &Btf,
    value: TypeId,
    node: &str,
    root: FieldKind,
) -> Result<u32, Errno> {
    let expected = if root == FieldKind::RbRoot {
        FieldKind::RbNode
    } else {
        FieldKind::ListNode
    };
    let value = btf.type_by_id(value).ok_or(Errno::EINVAL)?;
    let mut offset = None;
    for member in value.members().filter(|member| member.name() == node) {
        let is_node = btf
            .type_by_id(member.ty)
            .is_some_and(|ty| ty.kind() == Kind::Struct && ty.name() == expected.name());
        if offset.is_some() || !is_node || member.bit_offset % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        if !member.byte_offset().is_multiple_of(expected.align()) {
            return Err(Errno::EINVAL);
        }
        offset = Some(member.byte_offset());
    }
    offset.ok_or(Errno::ENOENT)
}

pub(super) fn pointer_target(
    btf: &Btf,
    kind: FieldKind,
    id: TypeId,
    kernel: Option<KernelTypes<'_>>,
) -> Result<FieldTarget, Errno> {
    let name = btf.name(id);
    let Some(kernel) = kernel else {
        return Ok(FieldTarget::Local(id));
    };
    let Some(found) = kernel.btf.find_by_name_kind(name, Kind::Struct) else {
        return Ok(FieldTarget::Local(id));
    };
    if kind == FieldKind::KptrRef && !kernel.destructible.contains(&name) {
        return Err(Errno::ENOENT);
    }
    Ok(FieldTarget::Kernel(found))
}
