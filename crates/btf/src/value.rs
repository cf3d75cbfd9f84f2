//! Values as text: bytes shown by their type, in the notation of `bpftool map dump` (JSON objects and arrays).
//!
//! Key type: [`ValueText`]. Nesting is followed to [`DEPTH_MAX`] levels and output stops at [`TEXT_BYTES_MAX`], so that hostile types cost
//! a bounded amount.

use crate::{Btf, Kind, Type, TypeId};
use core::fmt::{self, Write};

/// Levels of nested types that are shown.
const DEPTH_MAX: u32 = 32;
/// Bytes of text after which the rest is left out.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Bytes with their type, to be displayed.
///
/// ```
/// use ring3_btf::{Btf, Builder, IntEncoding, Kind, ValueText};
/// let mut builder = Builder::new();
/// let int = builder.add_int("int", 4, IntEncoding::SIGNED);
/// builder.add_struct("pair", 8, &[("a", int, 0), ("b", int, 32)]);
/// let btf = Btf::parse(&builder.finish()).unwrap();
/// let pair = btf.find_by_name_kind("pair", Kind::Struct).unwrap();
/// let text = ValueText::new(&btf, pair, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).to_string();
/// assert_eq!(text, r#"{"a": 1, "b": -1}"#);
/// ```
pub struct ValueText<'a> {
    btf: &'a Btf,
    ty: TypeId,
    bytes: &'a [u8],
}

impl<'a> ValueText<'a> {
    /// `bytes` as a value of `ty`; missing bytes are shown as `?`.
    pub fn new(btf: &'a Btf, ty: TypeId, bytes: &'a [u8]) -> Self {
        ValueText { btf, ty, bytes }
    }
}

impl fmt::Display for ValueText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Bounded {
            inner: f,
            left: TEXT_BYTES_MAX,
        };
        show(&mut out, self.btf, self.ty, self.bytes, 0)
    }
}

/// Lets a bounded number of bytes through.
struct Bounded<'a, 'f> {
    inner: &'a mut fmt::Formatter<'f>,
    left: usize,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.left == 0 {
            return Ok(());
        }
        if text.len() > self.left {
            self.left = 0;
            return self.inner.write_str("...");
        }
        self.left -= text.len();
        self.inner.write_str(text)
    }
}

impl Bounded<'_, '_> {
    fn is_full(&self) -> bool {
        self.left == 0
    }
}

fn show(out: &mut Bounded<'_, '_>, btf: &Btf, ty: TypeId, bytes: &[u8], depth: u32) -> fmt::Result {
    let Some(ty) = btf.stripped(ty) else {
        return out.write_str("?");
    };
    if depth > DEPTH_MAX || out.is_full() {
        return out.write_str("...");
    }
    match ty.kind() {
        Kind::Int => show_int(out, ty, bytes),
        Kind::Struct | Kind::Union => show_members(out, btf, ty, bytes, depth),
        Kind::Array => show_array(out, btf, ty, bytes, depth),
        Kind::Enum | Kind::Enum64 => show_enum(out, ty, bytes),
        Kind::Ptr => match unsigned(bytes, 8) {
            Some(0) => out.write_str("null"),
            Some(address) => write!(out, "{address:#x}"),
            None => out.write_str("?"),
        },
        Kind::Float | Kind::Fwd | Kind::Void | Kind::Func | Kind::FuncProto => show_hex(out, bytes),
        Kind::Var
        | Kind::Typedef
        | Kind::Volatile
        | Kind::Const
        | Kind::Restrict
        | Kind::TypeTag => show(out, btf, ty.type_id(), bytes, depth + 1),
        Kind::Datasec => show_section(out, btf, ty, bytes, depth),
        Kind::DeclTag => out.write_str("?"),
    }
}

/// The first `size` bytes, little-endian, zero-extended.
fn unsigned(bytes: &[u8], size: usize) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..size)?.copy_from_slice(bytes.get(..size)?);
    Some(u64::from_le_bytes(word))
}

fn sign_extend(value: u64, bits: u32) -> i64 {
    let shift = 64 - bits.clamp(1, 64);
    ((value << shift) as i64) >> shift
}

fn show_int(out: &mut Bounded<'_, '_>, ty: Type<'_>, bytes: &[u8]) -> fmt::Result {
    let size = ty.size() as usize;
    if size > 8 {
        return show_hex(out, bytes.get(..size).unwrap_or(bytes));
    }
    let (Some(int), Some(value)) = (ty.int(), unsigned(bytes, size)) else {
        return out.write_str("?");
    };
    show_number(
        out,
        value,
        size as u32 * 8,
        int.encoding.is_signed(),
        int.encoding.is_bool(),
    )
}

fn show_number(
    out: &mut Bounded<'_, '_>,
    value: u64,
    bits: u32,
    is_signed: bool,
    is_bool: bool,
) -> fmt::Result {
    if is_bool {
        out.write_str(if value != 0 { "true" } else { "false" })
    } else if is_signed {
        write!(out, "{}", sign_extend(value, bits))
    } else {
        write!(out, "{value}")
    }
}

fn show_hex(out: &mut Bounded<'_, '_>, bytes: &[u8]) -> fmt::Result {
    out.write_str("\"0x")?;
    for byte in bytes.iter().rev() {
        write!(out, "{byte:02x}")?;
    }
    out.write_str("\"")
}

fn show_enum(out: &mut Bounded<'_, '_>, ty: Type<'_>, bytes: &[u8]) -> fmt::Result {
    let size = ty.size() as usize;
    let Some(value) = unsigned(bytes, size) else {
        return out.write_str("?");
    };
    let bits = size as u32 * 8;
    let same = |known: u64| sign_extend(known, bits) == sign_extend(value, bits);
    match ty.enum_values().find(|known| same(known.bits)) {
        Some(known) => write!(out, "\"{}\"", known.name()),
        None => show_number(out, value, bits, ty.kind_flag(), false),
    }
}

fn show_members(
    out: &mut Bounded<'_, '_>,
    btf: &Btf,
    ty: Type<'_>,
    bytes: &[u8],
    depth: u32,
) -> fmt::Result {
    out.write_str("{")?;
    let mut is_first = true;
    for member in ty.members() {
        if out.is_full() {
            break;
        }
        if !is_first {
            out.write_str(", ")?;
        }
        is_first = false;
        write!(
            out,
            "\"{}\": ",
            if member.name().is_empty() {
                "(anon)"
            } else {
                member.name()
            }
        )?;
        if member.bitfield_bits > 0 {
            show_bitfield(out, btf, &member, bytes)?;
        } else {
            let rest = bytes.get(member.byte_offset() as usize..).unwrap_or(&[]);
            show(out, btf, member.ty, rest, depth + 1)?;
        }
    }
    out.write_str("}")
}

fn show_bitfield(
    out: &mut Bounded<'_, '_>,
    btf: &Btf,
    member: &crate::Member<'_>,
    bytes: &[u8],
) -> fmt::Result {
    let bits = member.bitfield_bits.min(64);
    let mut value = 0u64;
    for bit in 0..bits {
        let at = member.bit_offset + bit;
        let Some(byte) = bytes.get(at as usize / 8) else {
            return out.write_str("?");
        };
        value |= u64::from(byte >> (at % 8) & 1) << bit;
    }
    let encoding = btf
        .stripped(member.ty)
        .and_then(|ty| ty.int())
        .map(|int| int.encoding);
    let is_signed = encoding.is_some_and(|encoding| encoding.is_signed());
    show_number(
        out,
        value,
        bits,
        is_signed,
        encoding.is_some_and(|encoding| encoding.is_bool()),
    )
}

fn show_array(
    out: &mut Bounded<'_, '_>,
    btf: &Btf,
    ty: Type<'_>,
    bytes: &[u8],
    depth: u32,
) -> fmt::Result {
    let (Some(array), Some(elem)) = (
        ty.array(),
        ty.array().and_then(|array| btf.stripped(array.elem)),
    ) else {
        return out.write_str("?");
    };
    let elem_bytes = btf.resolve_size(array.elem).unwrap_or(0) as usize;
    let is_text = elem.kind() == Kind::Int && elem_bytes == 1 && elem.name() == "char";
    if is_text && let Some(text) = text_of(bytes.get(..array.nelems as usize).unwrap_or(bytes)) {
        return write!(out, "{text:?}");
    }
    out.write_str("[")?;
    for index in 0..array.nelems as usize {
        if out.is_full() {
            break;
        }
        if index > 0 {
            out.write_str(", ")?;
        }
        let rest = index
            .checked_mul(elem_bytes)
            .and_then(|at| bytes.get(at..))
            .unwrap_or(&[]);
        show(out, btf, array.elem, rest, depth + 1)?;
    }
    out.write_str("]")
}

/// Printable ASCII up to the first NUL, with nothing but NULs after it.
fn text_of(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let is_padding = bytes[end..].iter().all(|&byte| byte == 0);
    let text = core::str::from_utf8(&bytes[..end]).ok()?;
    (is_padding && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))).then_some(text)
}

fn show_section(
    out: &mut Bounded<'_, '_>,
    btf: &Btf,
    ty: Type<'_>,
    bytes: &[u8],
    depth: u32,
) -> fmt::Result {
    out.write_str("{")?;
    for (index, var) in ty.vars().enumerate() {
        if out.is_full() {
            break;
        }
        if index > 0 {
            out.write_str(", ")?;
        }
        write!(out, "\"{}\": ", btf.name(var.ty))?;
        let rest = bytes.get(var.offset as usize..).unwrap_or(&[]);
        match btf.type_by_id(var.ty) {
            Some(declared) => show(out, btf, declared.type_id(), rest, depth + 1)?,
            None => out.write_str("?")?,
        }
    }
    out.write_str("}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, IntEncoding};
    use alloc::string::ToString;

    #[test]
    fn short_values_and_wide_types_are_shown_as_far_as_they_go() {
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        let truth = builder.add_int("_Bool", 1, IntEncoding::BOOL);
        builder.add_struct("s", 8, &[("a", int, 0), ("t", truth, 32)]);
        let btf = Btf::parse(&builder.finish()).unwrap();
        let ty = btf.find_by_name_kind("s", Kind::Struct).unwrap();
        assert_eq!(
            ValueText::new(&btf, ty, &[5, 0, 0, 0, 1, 0, 0, 0]).to_string(),
            r#"{"a": 5, "t": true}"#
        );
        assert_eq!(
            ValueText::new(&btf, ty, &[5, 0]).to_string(),
            r#"{"a": ?, "t": ?}"#
        );
        assert_eq!(ValueText::new(&btf, TypeId(99), &[]).to_string(), "?");
    }
}
