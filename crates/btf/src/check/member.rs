//! Members of structs, when their types are resolved: does the member lie in the struct, may it be a bitfield?

use super::resolve::Resolver;
use super::{LogName, TypeLine};
use crate::{Btf, Int, Kind, Member, Type};
use core::fmt;
use ring3_uapi::Errno;

/// The line that describes a member, without message and line feed.
pub(super) struct MemberLine<'a> {
    pub(super) name: LogName<'a>,
    pub(super) member: &'a Member<'a>,
    pub(super) kind_flag: bool,
}

impl fmt::Display for MemberLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\t{} type_id={}", self.name, self.member.ty)?;
        if self.kind_flag {
            write!(f, " bitfield_size={}", self.member.bitfield_bits)?;
        }
        write!(f, " bits_offset={}", self.member.bit_offset)
    }
}

/// Logs a struct and one of its members with a message.
pub(super) fn reject_member(
    resolver: &mut Resolver<'_, '_, '_>,
    ty: &Type<'_>,
    member: &Member<'_>,
    message: &str,
) -> Errno {
    if resolver.log.is_on() {
        let name = LogName(member.name_off, ty.btf.str_bytes_by_offset(member.name_off));
        let line = MemberLine {
            name,
            member,
            kind_flag: ty.kind_flag(),
        };
        resolver
            .log
            .write(format_args!("{}\n{line} {message}\n", TypeLine(*ty)));
    }
    Errno::EINVAL
}

/// Is this an integer of 1, 2, 4, 8 or 16 whole bytes?
pub(super) fn is_regular_int(ty: &Type<'_>) -> bool {
    ty.int()
        .is_some_and(|int| int.bit_offset == 0 && matches!(int.bits, 8 | 16 | 32 | 64 | 128))
}

/// Checks one member of `ty` against the size of `ty`; `member_ty` is the member's type.
pub(super) fn check_member(
    resolver: &mut Resolver<'_, '_, '_>,
    ty: &Type<'_>,
    member: &Member<'_>,
    member_ty: &Type<'_>,
) -> Result<(), Errno> {
    let btf: &Btf = resolver.btf;
    // A modifier stands for what it was resolved to.
    let (resolved, resolved_id) = if member_ty.kind().is_mod_or_typedef() {
        match resolver
            .type_size(member.ty)
            .and_then(|(id, _)| Some((btf.type_by_id(id)?, id)))
        {
            Some(found) => found,
            None => return Err(reject_member(resolver, ty, member, "Invalid member")),
        }
    } else {
        (*member_ty, member.ty)
    };
    let member = &Member {
        ty: resolved_id,
        ..*member
    };
    let fault = if ty.kind_flag() {
        match resolved.kind() {
            Kind::Int => bitfield_int_fault(ty, member, resolved.int()),
            Kind::Enum | Kind::Enum64 => bitfield_enum_fault(ty, member),
            kind if !has_member_check(kind) => Some("Unsupported check_kflag_member"),
            _ if member.bitfield_bits != 0 => Some("Invalid member bitfield_size"),
            _ => plain_fault(resolver, ty, member, &resolved, resolved_id),
        }
    } else {
        plain_fault(resolver, ty, member, &resolved, resolved_id)
    };
    match fault {
        Some(message) => Err(reject_member(resolver, ty, member, message)),
        None => Ok(()),
    }
}

fn has_member_check(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Int
            | Kind::Enum
            | Kind::Enum64
            | Kind::Ptr
            | Kind::Array
            | Kind::Struct
            | Kind::Union
            | Kind::Float
    )
}

fn plain_fault(
    resolver: &Resolver<'_, '_, '_>,
    ty: &Type<'_>,
    member: &Member<'_>,
    member_ty: &Type<'_>,
    id: crate::TypeId,
) -> Option<&'static str> {
    let bytes = match member_ty.kind() {
        Kind::Int => return int_fault(ty, member, member_ty.int()),
        Kind::Float => return float_fault(ty, member, member_ty.size()),
        Kind::Ptr => 8,
        Kind::Enum | Kind::Enum64 | Kind::Struct | Kind::Union => member_ty.size(),
        Kind::Array => resolver.type_size(id).map_or(0, |(_, size)| size),
        _ => return Some("Unsupported check_member"),
    };
    if !member.bit_offset.is_multiple_of(8) {
        return Some("Member is not byte aligned");
    }
    // The offset lies in the struct: the first step has checked that.
    (ty.size().wrapping_sub(member.byte_offset()) < bytes).then_some("Member exceeds struct_size")
}

/// Bits are copied in whole bytes, at most 16.
fn copy_fault(ty: &Type<'_>, bit_offset: u32, bits: u32) -> Option<&'static str> {
    let copied = bits + bit_offset % 8;
    if copied > 128 {
        return Some("nr_copy_bits exceeds 128");
    }
    let start = bit_offset / 8;
    let fits = ty.size() >= start && ty.size() - start >= copied.div_ceil(8);
    (!fits).then_some("Member exceeds struct_size")
}

fn int_fault(ty: &Type<'_>, member: &Member<'_>, int: Option<Int>) -> Option<&'static str> {
    let int = int?;
    match member.bit_offset.checked_add(int.bit_offset) {
        Some(bit_offset) => copy_fault(ty, bit_offset, int.bits),
        None => Some("bits_offset exceeds U32_MAX"),
    }
}

fn bitfield_int_fault(
    ty: &Type<'_>,
    member: &Member<'_>,
    int: Option<Int>,
) -> Option<&'static str> {
    let int = int?;
    if int.bit_offset != 0 || !matches!(int.bits, 8 | 16 | 32 | 64 | 128) {
        return Some("Invalid member base type");
    }
    let bits = match member.bitfield_bits {
        0 if !member.bit_offset.is_multiple_of(8) => return Some("Invalid member offset"),
        0 => int.bits,
        bits if bits > int.bits => return Some("Invalid member bitfield_size"),
        bits => bits,
    };
    copy_fault(ty, member.bit_offset, bits)
}

fn bitfield_enum_fault(ty: &Type<'_>, member: &Member<'_>) -> Option<&'static str> {
    let bits = match member.bitfield_bits {
        0 if !member.bit_offset.is_multiple_of(8) => return Some("Member is not byte aligned"),
        0 => 32,
        bits if bits > 32 => return Some("Invalid member bitfield_size"),
        bits => bits,
    };
    let end = (member.bit_offset + bits).div_ceil(8);
    (ty.size() < end).then_some("Member exceeds struct_size")
}

fn float_fault(ty: &Type<'_>, member: &Member<'_>, bytes: u32) -> Option<&'static str> {
    let align_bits = bytes.min(8) * 8;
    if align_bits == 0 || !member.bit_offset.is_multiple_of(align_bits) {
        return Some("Member is not properly aligned");
    }
    let end = u64::from(member.byte_offset()) + u64::from(bytes);
    (end > u64::from(ty.size())).then_some("Member exceeds struct_size")
}
