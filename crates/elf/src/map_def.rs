//! BTF-defined maps: the members of a definition, where a number is the length of an array behind a pointer and a type
//! is what a pointer points to.

use crate::error::fail;
use crate::maps::empty_map;
use crate::{ElfError, MapOrigin, MapSpec, Pinning};
use ring3_btf::{Btf, Kind, Type, TypeId};
use ring3_uapi::MapType;

/// Bytes of a page; ring buffers hold a power of two of them.
const PAGE_BYTES: u32 = 4096;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Depth {
    Outer,
    Inner,
}

/// Reads the members of a map definition; also the byte offset of its `values`, if it has them.
pub(crate) fn parse_definition(
    btf: &Btf,
    name: &str,
    def: &Type<'_>,
    depth: Depth,
) -> Result<(MapSpec, Option<u32>), ElfError> {
    let mut spec = empty_map(name, ".maps", MapOrigin::Btf, 0);
    let mut values = None;
    let mut seen_type = false;
    let count = def.members().len();
    for (index, member) in def.members().enumerate() {
        let field = member.name();
        let number = || number(btf, name, field, member.ty);
        match field {
            "" => fail!("map '{name}': member {index} without a name"),
            "type" => {
                spec.map_type = number()?;
                seen_type = true;
            }
            "max_entries" => spec.max_entries = number()?,
            "map_flags" => spec.map_flags = number()?,
            "numa_node" => spec.numa_node = number()?,
            "map_extra" => spec.map_extra = wide_number(btf, name, field, member.ty)?,
            "key_size" => set_size(name, field, &mut spec.key_size, number()?)?,
            "value_size" => set_size(name, field, &mut spec.value_size, number()?)?,
            "key" | "value" => {
                let pointee = pointee(btf, name, field, member.ty)?;
                let Some(size) = btf.resolve_size(pointee) else {
                    fail!("map '{name}': type {pointee} of its {field} has no size")
                };
                if field == "key" {
                    set_size(name, field, &mut spec.key_size, size)?;
                    spec.key_type_id = pointee;
                } else {
                    set_size(name, field, &mut spec.value_size, size)?;
                    spec.value_type_id = pointee;
                }
            }
            "pinning" if depth == Depth::Inner => {
                fail!("map '{name}': an inner map cannot be pinned")
            }
            "pinning" => {
                spec.pinning = match number()? {
                    0 => Pinning::None,
                    1 => Pinning::ByName,
                    other => fail!("map '{name}': pinning {other}, expected 0 or 1"),
                }
            }
            "values" => {
                if depth == Depth::Inner {
                    fail!("map '{name}': an inner map cannot have values");
                }
                if index + 1 != count {
                    fail!("map '{name}': values must be the last member");
                }
                set_size(name, "values", &mut spec.value_size, 4)?;
                parse_values(btf, name, member.ty, &mut spec)?;
                values = Some(member.byte_offset());
            }
            other => fail!("map '{name}': unknown field '{other}'"),
        }
    }
    if !seen_type || spec.map_type == 0 {
        fail!("map '{name}': no type");
    }
    if matches!(
        spec.known_type(),
        Some(MapType::Ringbuf | MapType::UserRingbuf)
    ) {
        spec.max_entries = ring_buffer_bytes(spec.max_entries);
    }
    Ok((spec, values))
}

/// A wide number may also be the only value of an enumeration (`__ulong`).
fn wide_number(btf: &Btf, map: &str, field: &str, ty: TypeId) -> Result<u64, ElfError> {
    let ty_view = btf.stripped(ty);
    match ty_view
        .filter(|ty| ty.kind().is_any_enum())
        .and_then(|ty| ty.enum_values().next())
    {
        Some(value) => Ok(value.bits),
        None => number(btf, map, field, ty).map(u64::from),
    }
}

/// A number is the length of an array behind a pointer.
fn number(btf: &Btf, map: &str, field: &str, ty: TypeId) -> Result<u32, ElfError> {
    let array = btf
        .stripped(ty)
        .filter(|ty| ty.kind() == Kind::Ptr)
        .and_then(|pointer| btf.type_by_id(pointer.type_id()))
        .and_then(|pointee| pointee.array());
    match array {
        Some(array) => Ok(array.nelems),
        None => fail!("map '{map}': {field} is not a number (a pointer to an array)"),
    }
}

fn pointee(btf: &Btf, map: &str, field: &str, ty: TypeId) -> Result<TypeId, ElfError> {
    match btf.type_by_id(ty).filter(|ty| ty.kind() == Kind::Ptr) {
        Some(pointer) => Ok(pointer.type_id()),
        None => fail!("map '{map}': {field} is not a pointer to its type"),
    }
}

fn set_size(map: &str, field: &str, slot: &mut u32, size: u32) -> Result<(), ElfError> {
    if *slot != 0 && *slot != size {
        fail!("map '{map}': {field} of {size} bytes, {slot} bytes stated before");
    }
    *slot = size;
    Ok(())
}

/// `values`: an array of pointers to an inner map's definition, or to functions.
fn parse_values(btf: &Btf, name: &str, ty: TypeId, spec: &mut MapSpec) -> Result<(), ElfError> {
    let elem = btf
        .type_by_id(ty)
        .and_then(|ty| ty.array())
        .filter(|array| array.nelems == 0)
        .and_then(|array| btf.stripped(array.elem))
        .filter(|elem| elem.kind() == Kind::Ptr);
    let Some(elem) = elem else {
        fail!("map '{name}': values is not a zero-sized array of pointers")
    };
    let target = btf.stripped(elem.type_id());
    match (spec.known_type(), target) {
        (Some(MapType::ArrayOfMaps | MapType::HashOfMaps), Some(target))
            if target.kind() == Kind::Struct =>
        {
            let (inner, _) =
                parse_definition(btf, &format!("{name}.inner"), &target, Depth::Inner)?;
            spec.inner = Some(Box::new(inner));
            Ok(())
        }
        (Some(MapType::ProgArray), Some(target)) if target.kind() == Kind::FuncProto => Ok(()),
        (Some(MapType::ArrayOfMaps | MapType::HashOfMaps), _) => {
            fail!("map '{name}': values do not point to a map definition")
        }
        (Some(MapType::ProgArray), _) => fail!("map '{name}': values do not point to functions"),
        _ => fail!(
            "map '{name}': values, but its type {} is neither of maps nor of programs",
            spec.map_type
        ),
    }
}

/// The next power of two of pages, unchanged if there is none.
fn ring_buffer_bytes(bytes: u32) -> u32 {
    let pages = bytes.div_ceil(PAGE_BYTES);
    match pages
        .checked_next_power_of_two()
        .and_then(|pages| pages.checked_mul(PAGE_BYTES))
    {
        Some(rounded) if bytes > 0 => rounded,
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_buffers_are_rounded_up() {
        for (asked, given) in [
            (0, 0),
            (1, 4096),
            (4096, 4096),
            (4097, 8192),
            (3 << 20, 4 << 20),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(ring_buffer_bytes(asked), given);
        }
    }
}
