//! Layouts of kernel objects that programs see, by struct name and field path.
//!
//! [`field`] asks the BTF in use, else the built-in table of Linux 6.18 (`table`). Context rewrites, typed access and
//! the runtime's objects all ask here, so that one answer holds everywhere.
//!
//! A path names members, separated by dots: `sk_buff` `len`, `sock` `__sk_common.skc_family`. Members of anonymous
//! structs and unions are named as if they stood in their parent, as in C.

mod describe;
mod table;

pub use describe::with_packet_types;

use crate::{Btf, Kind, TypeId};
use alloc::vec;
use alloc::vec::Vec;

/// Where a field lies in its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLoc {
    /// first byte; of a bitfield, of the byte that holds its first bit
    pub offset: u32,
    /// bytes of the field's type
    pub size: u32,
    /// first bit, from the start of the struct
    pub bit_offset: u32,
    /// bits of a bitfield, 0 for an ordinary field
    pub bits: u32,
}

pub(crate) struct StructRow {
    name: &'static str,
    size: u32,
    fields: &'static [FieldRow],
}

pub(crate) struct FieldRow {
    name: &'static str,
    bit_offset: u32,
    bits: u32,
    size: u32,
    of: &'static str,
}

/// Anonymous structs nested in one struct that are searched.
const ANONYMOUS_MAX: usize = 4096;

/// Where the field with this path lies, by `btf` if it knows the struct, else by the table of Linux 6.18.
///
/// ```
/// let len = ring3_btf::layout::field(None, "sk_buff", "len").unwrap();
/// assert_eq!((len.offset, len.size), (112, 4));
/// ```
pub fn field(btf: Option<&Btf>, struct_name: &str, path: &str) -> Option<FieldLoc> {
    match btf.and_then(|btf| Some((btf, btf.find_by_name_kind(struct_name, Kind::Struct)?))) {
        Some((btf, id)) => field_of(btf, id, path),
        None => builtin_field(struct_name, path),
    }
}

/// Where the field with this path lies in a struct or union of `btf`.
pub fn field_of(btf: &Btf, ty: TypeId, path: &str) -> Option<FieldLoc> {
    let mut ty = ty;
    let mut base = 0u32;
    let mut found = None;
    for name in path.split('.') {
        let (bit_offset, bits, member_ty) = find_member(btf, btf.skip_mods_and_typedefs(ty), name)?;
        base = base.checked_add(bit_offset)?;
        ty = member_ty;
        found = Some(FieldLoc {
            offset: base / 8,
            size: btf.resolve_size(ty)?,
            bit_offset: base,
            bits,
        });
    }
    found
}

/// Bytes of a kernel struct, by `btf` if it knows it, else by the table of Linux 6.18.
pub fn struct_size(btf: Option<&Btf>, struct_name: &str) -> Option<u32> {
    match btf.and_then(|btf| btf.type_by_id(btf.find_by_name_kind(struct_name, Kind::Struct)?)) {
        Some(ty) => Some(ty.size()),
        None => builtin_struct(struct_name).map(|row| row.size),
    }
}

/// Every field of a struct in the built-in table: name, place, and the name of the struct it is (else empty).
pub fn builtin_fields(
    struct_name: &str,
) -> impl Iterator<Item = (&'static str, FieldLoc, &'static str)> {
    builtin_struct(struct_name)
        .map_or(&[][..], |row| row.fields)
        .iter()
        .map(|row| (row.name, row.loc(0), row.of))
}

/// Names of the structs in the built-in table.
pub fn builtin_structs() -> impl Iterator<Item = &'static str> {
    table::STRUCTS.iter().map(|row| row.name)
}

impl FieldRow {
    fn loc(&self, base: u32) -> FieldLoc {
        let bit_offset = base + self.bit_offset;
        FieldLoc {
            offset: bit_offset / 8,
            size: self.size,
            bit_offset,
            bits: self.bits,
        }
    }
}

fn builtin_struct(name: &str) -> Option<&'static StructRow> {
    let index = table::STRUCTS
        .binary_search_by(|row| row.name.cmp(name))
        .ok()?;
    table::STRUCTS.get(index)
}

fn builtin_field(struct_name: &str, path: &str) -> Option<FieldLoc> {
    let mut layout = builtin_struct(struct_name)?;
    let mut base = 0;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let row = layout.fields.iter().find(|row| row.name == name)?;
        if names.peek().is_none() {
            return Some(row.loc(base));
        }
        base += row.bit_offset;
        layout = builtin_struct(row.of)?;
    }
    None
}

/// The member's bit offset, bitfield bits and type; anonymous structs and unions are searched as parts of `ty`.
fn find_member(btf: &Btf, ty: TypeId, name: &str) -> Option<(u32, u32, TypeId)> {
    let mut todo: Vec<(TypeId, u32)> = vec![(ty, 0)];
    let mut searched = 0;
    while let Some((id, base)) = todo.pop() {
        searched += 1;
        if searched > ANONYMOUS_MAX {
            return None;
        }
        for member in btf.type_by_id(id)?.members() {
            let bit_offset = base.checked_add(member.bit_offset)?;
            if member.name() == name {
                return Some((bit_offset, member.bitfield_bits, member.ty));
            }
            if member.name_off == 0 {
                todo.push((btf.skip_mods_and_typedefs(member.ty), bit_offset));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, IntEncoding};

    #[test]
    fn table_is_sorted_and_its_fields_lie_inside() {
        assert!(
            table::STRUCTS
                .windows(2)
                .all(|pair| pair[0].name < pair[1].name)
        );
        for row in table::STRUCTS {
            for field in row.fields {
                let bits = if field.bits == 0 {
                    field.size * 8
                } else {
                    field.bits
                };
                assert!(
                    field.bit_offset + bits <= row.size * 8,
                    "{}.{}",
                    row.name,
                    field.name
                );
                let nested = field.of.is_empty()
                    || builtin_struct(field.of).is_none_or(|of| of.size == field.size);
                assert!(nested, "{}.{}", row.name, field.name);
            }
        }
    }

    #[test]
    fn nested_paths_add_up() {
        let family = builtin_field("sock", "__sk_common.skc_family").unwrap();
        assert_eq!(Some(family), builtin_field("sock_common", "skc_family"));
        let clone = builtin_field("sk_buff", "cloned").unwrap();
        assert_eq!(clone.bits, 1);
        assert_eq!(builtin_field("sk_buff", "no_such"), None);
        assert_eq!(builtin_field("sk_buff", "len.x"), None);
    }

    #[test]
    fn btf_answers_before_the_table() {
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        let inner = builder.add_struct("", 8, &[("x", int, 0), ("len", int, 32)]);
        let named = builder.add_struct("n", 4, &[("deep", int, 0)]);
        builder.add_struct(
            "sk_buff",
            16,
            &[("head", int, 0), ("", inner, 32), ("n", named, 96)],
        );
        let btf = Btf::parse(&builder.finish()).unwrap();
        assert_eq!(field(Some(&btf), "sk_buff", "len").unwrap().offset, 8);
        assert_eq!(field(Some(&btf), "sk_buff", "n.deep").unwrap().offset, 12);
        assert_eq!(field(Some(&btf), "sk_buff", "mark"), None);
        assert_eq!(field(Some(&btf), "xdp_buff", "data").unwrap().size, 8);
        assert_eq!(struct_size(Some(&btf), "sk_buff"), Some(16));
    }
}
