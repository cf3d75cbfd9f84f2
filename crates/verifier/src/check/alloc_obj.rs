//! Objects of the program's own types that it allocated: their special fields, and loads and stores of the rest.
//!
//! Kernel counterpart: `reg_btf_record`, `btf_struct_access` for `MEM_ALLOC`. Neighbours: `graph` (lists and trees of them),
//! `lock`, `map_field` (pointers to them in map values), `call::kfunc` (who makes and drops them).

use ring3_btf::{Btf, Field, FieldKind, Record, TypeId};

use crate::env::Env;
use crate::error::{Check, reject};
use crate::state::{RegBase, RegState};

/// The special fields of the map value or allocated object behind a register.
pub(crate) fn record_of<'e>(env: &Env<'e>, reg: &RegState) -> Option<&'e Record> {
    let facts = env.facts;
    if reg.ty.base == RegBase::PtrToMapValue {
        return facts.map(reg.map()?).record.as_deref();
    }
    if !reg.ty.is_ptr_alloc_obj() {
        return None;
    }
    let (btf, id) = reg.btf()?;
    facts.struct_record(btf, id)
}

/// The field of a kind at an offset of the object behind a register.
pub(crate) fn field_at<'e>(
    env: &Env<'e>,
    reg: &RegState,
    off: i64,
    kind: FieldKind,
) -> Option<&'e Field> {
    let off = u32::try_from(off).ok()?;
    record_of(env, reg)?
        .at(off)
        .filter(|field| field.kind == kind)
}

/// Loads and stores of an allocated object go around its special fields.
pub(crate) fn check_special_fields(env: &Env<'_>, reg: &RegState, off: i32, size: i32) -> Check {
    let Some(record) = record_of(env, reg) else {
        return Ok(());
    };
    let (begin, end) = (i64::from(off), i64::from(off) + i64::from(size));
    for field in &record.fields {
        let (first, last) = (
            i64::from(field.offset),
            i64::from(field.offset) + i64::from(field.size()),
        );
        if begin < last && first < end {
            reject!(
                EACCES,
                "direct access to {} is disallowed",
                shown(field.kind).name()
            );
        }
    }
    Ok(())
}

/// Plain pointers go by one name in messages.
pub(crate) const fn shown(kind: FieldKind) -> FieldKind {
    match kind {
        FieldKind::KptrUnref => FieldKind::KptrRef,
        kind => kind,
    }
}

/// Whether a struct or union holds numbers only, nested ones included: `btf_type_is_scalar_struct`.
///
/// # Errors
/// EINVAL: nested too deeply to tell.
pub(crate) fn is_scalar_struct(btf: &Btf, id: TypeId, depth: u32) -> Check<bool> {
    let Some(ty) = btf.stripped(id).filter(|ty| ty.kind().is_composite()) else {
        return Ok(false);
    };
    for member in ty.members() {
        let Some(mut inner) = btf.stripped(member.ty) else {
            return Ok(false);
        };
        if inner.kind().is_composite() {
            if depth >= 3 {
                reject!(EINVAL, "max struct nesting depth exceeded");
            }
            if !is_scalar_struct(btf, inner.id(), depth + 1)? {
                return Ok(false);
            }
            continue;
        }
        if let Some(array) = inner.array() {
            // A flexible array has no fixed size.
            if array.nelems == 0 {
                return Ok(false);
            }
            let Some(elem) = btf.stripped(array.elem) else {
                return Ok(false);
            };
            inner = elem;
        }
        if inner.kind() != ring3_btf::Kind::Int && !inner.kind().is_any_enum() {
            return Ok(false);
        }
    }
    Ok(true)
}
