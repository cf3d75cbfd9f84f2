//! The raw listing: one line a type, one indented line a record.

use crate::raw::u32_at;
use crate::{Btf, Kind, Type, TypeId};
use core::fmt;

/// Lists all types of a blob, those of its base not included.
///
/// # Errors
/// Those of the sink.
pub fn raw(btf: &Btf, out: &mut dyn fmt::Write) -> fmt::Result {
    btf.own_types().try_for_each(|ty| line(btf, &ty, out))
}

fn name(btf: &Btf, offset: u32) -> &str {
    match offset {
        0 => "(anon)",
        _ => btf.str_by_offset(offset).unwrap_or("(invalid)"),
    }
}

fn linkage(number: u32) -> &'static str {
    match number {
        0 => "static",
        1 => "global",
        2 => "extern",
        _ => "(unknown)",
    }
}

fn line(btf: &Btf, ty: &Type<'_>, out: &mut dyn fmt::Write) -> fmt::Result {
    write!(
        out,
        "[{}] {} '{}'",
        ty.id(),
        ty.kind().name(),
        name(btf, ty.name_off())
    )?;
    match ty.kind() {
        Kind::Void => writeln!(out),
        Kind::Int => {
            let int = ty.int().unwrap_or(crate::Int::from_word(0));
            writeln!(
                out,
                " size={} bits_offset={} nr_bits={} encoding={}",
                ty.size(),
                int.bit_offset,
                int.bits,
                int.encoding.name()
            )
        }
        Kind::Ptr
        | Kind::Typedef
        | Kind::Volatile
        | Kind::Const
        | Kind::Restrict
        | Kind::TypeTag => {
            writeln!(out, " type_id={}", ty.type_id())
        }
        Kind::Array => {
            let word = |index: usize| u32_at(ty.tail, index * 4).unwrap_or(0);
            writeln!(
                out,
                " type_id={} index_type_id={} nr_elems={}",
                word(0),
                word(1),
                word(2)
            )
        }
        Kind::Struct | Kind::Union => {
            writeln!(out, " size={} vlen={}", ty.size(), ty.vlen())?;
            ty.members().try_for_each(|member| {
                write!(
                    out,
                    "\t'{}' type_id={} bits_offset={}",
                    name(btf, member.name_off),
                    member.ty,
                    member.bit_offset
                )?;
                match member.bitfield_bits {
                    0 => writeln!(out),
                    bits => writeln!(out, " bitfield_size={bits}"),
                }
            })
        }
        Kind::Enum | Kind::Enum64 => {
            let encoding = if ty.kind_flag() { "SIGNED" } else { "UNSIGNED" };
            writeln!(
                out,
                " encoding={encoding} size={} vlen={}",
                ty.size(),
                ty.vlen()
            )?;
            let wide = ty.kind() == Kind::Enum64;
            ty.enum_values().try_for_each(|value| {
                write!(out, "\t'{}' val=", name(btf, value.name_off))?;
                match (value.signed, wide) {
                    (true, false) => writeln!(out, "{}", value.bits as i64),
                    (true, true) => writeln!(out, "{}LL", value.bits as i64),
                    (false, false) => writeln!(out, "{}", value.bits),
                    (false, true) => writeln!(out, "{}ULL", value.bits),
                }
            })
        }
        Kind::Fwd => writeln!(
            out,
            " fwd_kind={}",
            if ty.kind_flag() { "union" } else { "struct" }
        ),
        Kind::Func => writeln!(
            out,
            " type_id={} linkage={}",
            ty.type_id(),
            linkage(ty.vlen())
        ),
        Kind::FuncProto => {
            writeln!(out, " ret_type_id={} vlen={}", ty.type_id(), ty.vlen())?;
            ty.params().try_for_each(|param| {
                writeln!(
                    out,
                    "\t'{}' type_id={}",
                    name(btf, param.name_off),
                    param.ty
                )
            })
        }
        Kind::Var => {
            let number = u32_at(ty.tail, 0).unwrap_or(u32::MAX);
            writeln!(
                out,
                " type_id={}, linkage={}",
                ty.type_id(),
                linkage(number)
            )
        }
        Kind::Datasec => {
            writeln!(out, " size={} vlen={}", ty.size(), ty.vlen())?;
            ty.vars().try_for_each(|var| {
                write!(
                    out,
                    "\ttype_id={} offset={} size={}",
                    var.ty, var.offset, var.size
                )?;
                target(btf, var.ty, out)
            })
        }
        Kind::Float => writeln!(out, " size={}", ty.size()),
        Kind::DeclTag => {
            writeln!(
                out,
                " type_id={} component_idx={}",
                ty.type_id(),
                ty.component_idx().unwrap_or(-1)
            )
        }
    }
}

/// What a record of a data section refers to.
fn target(btf: &Btf, id: TypeId, out: &mut dyn fmt::Write) -> fmt::Result {
    match btf.type_by_id(id) {
        Some(ty) if !id.is_void() => writeln!(
            out,
            " ({} '{}')",
            ty.kind().name(),
            name(btf, ty.name_off())
        ),
        _ => writeln!(out),
    }
}
