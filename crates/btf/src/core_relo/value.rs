//! The answer to a relocation: what the local type says, what the target says, and whether the instruction may be
//! checked against the former.

use super::access::Spec;
use super::{ReloKind, inval};
use crate::{BtfError, Kind, TypeId};
use alloc::format;
use ring3_uapi::Errno;

/// What to write to an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// what the instruction should hold now
    pub(super) orig: u64,
    /// what it will hold
    pub(super) new: u64,
    /// nothing answers: make the instruction one that the verifier refuses
    pub(super) is_poison: bool,
    /// refuse an instruction that does not hold `orig`
    pub(super) validate: bool,
    /// bytes of the field, locally and in the target, for loads and stores; 0 if it does not matter
    pub(super) orig_bytes: u32,
    pub(super) new_bytes: u32,
    /// the sizes differ, and a load of the other size would not read the same value
    pub(super) is_bad_resize: bool,
}

/// What one side says.
struct Side {
    value: u64,
    validate: bool,
    bytes: u32,
    ty: TypeId,
}

impl Side {
    fn plain(value: u64) -> Option<Side> {
        Some(Side {
            value,
            validate: true,
            bytes: 0,
            ty: TypeId::VOID,
        })
    }
}

impl Answer {
    /// A value that depends on nothing.
    pub(super) fn fixed(value: u64) -> Answer {
        Answer {
            orig: value,
            new: value,
            is_poison: false,
            validate: false,
            orig_bytes: 0,
            new_bytes: 0,
            is_bad_resize: false,
        }
    }

    /// Compares both sides; no target means that no candidate has the path.
    pub(super) fn compute(
        kind: ReloKind,
        local: &Spec<'_>,
        target: Option<&Spec<'_>>,
    ) -> Result<Answer, BtfError> {
        let (local_side, target_side) = (side(kind, Some(local))?, side(kind, target)?);
        let mut answer = Answer::fixed(0);
        let (Some(a), Some(b)) = (local_side, target_side) else {
            answer.is_poison = true;
            return Ok(answer);
        };
        (answer.orig, answer.new, answer.validate) = (a.value, b.value, a.validate);
        (answer.orig_bytes, answer.new_bytes) = (a.bytes, b.bytes);
        if a.bytes != b.bytes {
            answer.is_bad_resize =
                !target.is_some_and(|target| is_resizable(local, a.ty, target, b.ty));
        }
        Ok(answer)
    }
}

/// A pointer, or unsigned integers, can be loaded with another size.
fn is_resizable(local: &Spec<'_>, local_ty: TypeId, target: &Spec<'_>, target_ty: TypeId) -> bool {
    let (Some(a), Some(b)) = (
        local.btf.type_by_id(local_ty),
        target.btf.type_by_id(target_ty),
    ) else {
        return false;
    };
    if a.kind() == Kind::Ptr && b.kind() == Kind::Ptr {
        return true;
    }
    matches!((a.int(), b.int()), (Some(a), Some(b)) if a.encoding.0 != 1 && b.encoding.0 != 1)
}

/// What one BTF says; `None` asks for poison.
fn side(kind: ReloKind, spec: Option<&Spec<'_>>) -> Result<Option<Side>, BtfError> {
    let exists = Side::plain(u64::from(spec.is_some()));
    let Some(spec) = spec else {
        return Ok(match kind {
            ReloKind::FieldExists | ReloKind::EnumvalExists => exists,
            ReloKind::TypeIdLocal | ReloKind::TypeIdTarget => exists,
            ReloKind::TypeExists | ReloKind::TypeSize | ReloKind::TypeMatches => exists,
            ReloKind::FieldByteOffset | ReloKind::FieldByteSize | ReloKind::FieldSigned => None,
            ReloKind::FieldLshiftU64 | ReloKind::FieldRshiftU64 | ReloKind::EnumvalValue => None,
        });
    };
    match kind {
        ReloKind::FieldExists | ReloKind::EnumvalExists => Ok(exists),
        ReloKind::TypeExists | ReloKind::TypeMatches => Ok(exists),
        ReloKind::TypeIdLocal | ReloKind::TypeIdTarget => Ok(Side::plain(u64::from(spec.root.0))
            .map(|side| Side {
                validate: false,
                ..side
            })),
        ReloKind::TypeSize => size_of(spec, spec.root).map(|bytes| Side::plain(u64::from(bytes))),
        ReloKind::EnumvalValue => {
            let value = spec.steps.first().and_then(|step| {
                let ty = spec.btf.type_by_id(step.ty)?;
                let value = ty.enum_value(step.index)?;
                // 32-bit values are signed here whatever the enumeration says, as in libbpf.
                Some(if ty.kind() == Kind::Enum {
                    i64::from(value.bits as i32) as u64
                } else {
                    value.bits
                })
            });
            Ok(value.and_then(Side::plain))
        }
        ReloKind::FieldByteOffset
        | ReloKind::FieldByteSize
        | ReloKind::FieldSigned
        | ReloKind::FieldLshiftU64
        | ReloKind::FieldRshiftU64 => field(kind, spec).map(Some),
    }
}

fn size_of(spec: &Spec<'_>, ty: TypeId) -> Result<u32, BtfError> {
    spec.btf
        .resolve_size(ty)
        .ok_or_else(|| inval(format!("type {ty} has no size")))
}

/// Bytes of an element of an array of arrays, or of the type itself.
fn element_size(spec: &Spec<'_>, ty: TypeId) -> Result<u32, BtfError> {
    let mut id = spec.btf.skip_mods_and_typedefs(ty);
    for _ in 0..32 {
        match spec.btf.type_by_id(id).and_then(|ty| ty.array()) {
            Some(array) => id = spec.btf.skip_mods_and_typedefs(array.elem),
            None => break,
        }
    }
    size_of(spec, id)
}

fn field(kind: ReloKind, spec: &Spec<'_>) -> Result<Side, BtfError> {
    let step = spec
        .steps
        .last()
        .ok_or_else(|| inval("empty access".into()))?;
    if step.name.is_none() {
        return match kind {
            ReloKind::FieldByteOffset => Ok(Side {
                value: u64::from(spec.bit_offset / 8),
                validate: true,
                bytes: element_size(spec, step.ty)?,
                ty: step.ty,
            }),
            ReloKind::FieldByteSize => Ok(Side {
                value: u64::from(size_of(spec, step.ty)?),
                validate: true,
                bytes: 0,
                ty: TypeId::VOID,
            }),
            _ => Err(inval(format!("{} of an array element", kind.name()))),
        };
    }
    let member = spec
        .btf
        .type_by_id(step.ty)
        .and_then(|ty| ty.member(step.index))
        .ok_or_else(|| inval(format!("no member {} of type {}", step.index, step.ty)))?;
    let field_id = spec.btf.skip_mods_and_typedefs(member.ty);
    let field_ty = spec
        .btf
        .type_by_id(field_id)
        .ok_or_else(|| inval(format!("no type {field_id}")))?;
    let is_bitfield = member.bitfield_bits > 0;
    let place = if is_bitfield {
        bitfield_place(spec.bit_offset, member.bitfield_bits, field_ty.size())?
    } else {
        let bytes = size_of(spec, field_id)?;
        Place {
            byte: u64::from(spec.bit_offset / 8),
            bytes: u64::from(bytes),
            bits: u64::from(bytes) * 8,
        }
    };
    let plain = |value: u64, validate: bool| {
        Ok(Side {
            value,
            validate,
            bytes: 0,
            ty: TypeId::VOID,
        })
    };
    match kind {
        ReloKind::FieldByteOffset if is_bitfield => plain(place.byte, false),
        ReloKind::FieldByteOffset => Ok(Side {
            value: place.byte,
            validate: true,
            bytes: element_size(spec, field_id)?,
            ty: field_id,
        }),
        ReloKind::FieldByteSize => plain(place.bytes, !is_bitfield),
        ReloKind::FieldSigned => {
            let signed = match field_ty.int() {
                Some(int) => int.encoding.is_signed(),
                None => field_ty.kind().is_any_enum() && field_ty.kind_flag(),
            };
            plain(u64::from(signed), true)
        }
        ReloKind::FieldLshiftU64 => {
            let end = u64::from(spec.bit_offset) + place.bits;
            plain(
                64u64.wrapping_sub(end.wrapping_sub(place.byte * 8)) & 0xffff_ffff,
                !is_bitfield,
            )
        }
        ReloKind::FieldRshiftU64 => plain(64u64.wrapping_sub(place.bits) & 0xffff_ffff, true),
        _ => Err(inval(format!("{} of a field", kind.name()))),
    }
}

/// What must be loaded to read a field.
struct Place {
    byte: u64,
    bytes: u64,
    bits: u64,
}

/// The smallest aligned load, of the declared type's size or more, that holds all bits of a bitfield.
fn bitfield_place(bit_offset: u32, bits: u32, declared_bytes: u32) -> Result<Place, BtfError> {
    let (bit_offset, bits) = (u64::from(bit_offset), u64::from(bits));
    let mut bytes = u64::from(declared_bytes);
    if bytes == 0 {
        return Err(inval("bitfield of a type without size".into()));
    }
    loop {
        let byte = bit_offset / 8 / bytes * bytes;
        if bit_offset + bits - byte * 8 <= bytes * 8 {
            return Ok(Place { byte, bytes, bits });
        }
        if bytes >= 8 {
            return Err(BtfError::new(
                Errno::E2BIG,
                "bitfield does not fit a 64-bit load",
            ));
        }
        bytes *= 2;
    }
}
