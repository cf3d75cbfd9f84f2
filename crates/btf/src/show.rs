//! Values as `bpf_snprintf_btf` and `bpf_seq_printf_btf` write them: C initialisers with a cast before each value.
//!
//! ```text
//! (struct iphdr){.ihl = (__u8)0x5,.version = (__u8)0x4,.ttl = (__u8)64,(union){(struct){.saddr = (__be32)1,},},}
//! ```
//! What is zero is left out, but for the value itself; characters end at their NUL; bit fields are hexadecimal. Indented, each value has a line of
//! its own.
//!
//! Some of it is not what one would design, and all of it is what the kernel writes: a `const` before a type hides its name and its opening bracket,
//! elements of arrays have neither (until an array inside of an element has ended), and arrays of pointers repeat the first.
//!
//! Key types: [`Notation`], [`ShownMemory`], [`show_value`].
//!
//! # Source
//! Linux 6.18, by the output of `bpf_snprintf_btf` for all types of its BTF over random bytes.

use alloc::string::{String, ToString};
use core::fmt::{self, Write};

use crate::{Btf, IntEncoding, Kind, Type, TypeId};

/// Levels of nested types that are shown. Source: `MAX_RESOLVE_DEPTH`.
const DEPTH_MAX: usize = 32;
/// Typedefs, pointers and arrays that a name looks through.
const NAME_STEPS_MAX: usize = 16;
/// Bytes of a member's name, cast and bracket that are written. Source: `BTF_SHOW_NAME_SIZE`.
const NAME_BYTES_MAX: usize = 79;

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notation(u64);

impl Notation {
    /// On one line.
    pub const COMPACT: Notation = Notation(1);
    /// Neither names of members nor casts.
    pub const NO_NAMES: Notation = Notation(2);
    /// Pointers as they are, where they would be disguised.
    pub const RAW_POINTERS: Notation = Notation(4);
    /// Zeros too.
    pub const ZEROS: Notation = Notation(8);

    /// From `BTF_F_*`; `None` if there are others.
    pub fn from_flags(flags: u64) -> Option<Notation> {
        (flags <= 15).then_some(Notation(flags))
    }

    fn has(self, other: Notation) -> bool {
        self.0 & other.0 != 0
    }
}

/// The bytes of the value.
pub trait ShownMemory {
    /// Fills `into` with the bytes from `offset` on; `false` if they cannot be read.
    fn read(&self, offset: usize, into: &mut [u8]) -> bool;
}

impl ShownMemory for [u8] {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let bytes = self.get(offset..).and_then(|bytes| bytes.get(..into.len()));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}

/// Why a value was not shown to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowError {
    /// Its memory cannot be read; what comes before is written.
    Unreadable,
    /// The type is a variable, a section, or nothing.
    NoValue,
}

/// Writes the value of type `ty` that `memory` begins with. `out` does not fail.
///
/// # Errors
/// [`ShowError`].
pub fn show_value(
    btf: &Btf,
    ty: TypeId,
    memory: &(impl ShownMemory + ?Sized),
    notation: Notation,
    out: &mut dyn Write,
) -> Result<(), ShowError> {
    Show {
        btf,
        memory,
        notation,
        out,
        depth: 0,
        levels: 0,
        member: None,
        is_element: false,
        has_chars: false,
        chars_ended: false,
        search: Search::Off,
    }
    .value(ty, 0)
}

/// A look through a value for something that is not zero, before any of it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    Off,
    Running,
    Found,
}

/// The member whose value comes next.
#[derive(Clone, Copy)]
struct Named<'a> {
    name: &'a str,
    ty: TypeId,
}

struct Show<'a, M: ?Sized> {
    btf: &'a Btf,
    memory: &'a M,
    notation: Notation,
    out: &'a mut dyn Write,
    /// Brackets that are open.
    depth: usize,
    /// Types that are nested, brackets or not.
    levels: usize,
    member: Option<Named<'a>>,
    /// The next value is an element of an array.
    is_element: bool,
    /// The array's elements are characters,
    has_chars: bool,
    /// which have come to their NUL.
    chars_ended: bool,
    search: Search,
}

impl<'a, M: ShownMemory + ?Sized> Show<'a, M> {
    fn value(&mut self, id: TypeId, at: usize) -> Result<(), ShowError> {
        let ty = self.btf.stripped(id).ok_or(ShowError::NoValue)?;
        if self.levels > DEPTH_MAX {
            return Ok(());
        }
        self.levels += 1;
        let shown = match ty.kind() {
            Kind::Int => self.int(id, ty, at),
            Kind::Ptr => self.pointer(id, at),
            Kind::Enum => self.enumerator(id, ty, at, 4),
            Kind::Enum64 => self.enumerator(id, ty, at, 8),
            Kind::Struct | Kind::Union | Kind::Array => self.aggregate(id, ty, at),
            Kind::Void | Kind::Var | Kind::Datasec => Err(ShowError::NoValue),
            other => {
                self.leaf_text(id, false, &|out| {
                    write!(out, "<unsupported kind:{}>", other as u32)
                });
                Ok(())
            }
        };
        self.levels -= 1;
        shown
    }

    /// `bytes` bytes as a little-endian number.
    fn number(&self, at: usize, bytes: usize) -> Result<u128, ShowError> {
        let mut word = [0; 16];
        match self.memory.read(at, &mut word[..bytes.min(16)]) {
            true => Ok(u128::from_le_bytes(word)),
            false => Err(ShowError::Unreadable),
        }
    }

    fn int(&mut self, id: TypeId, ty: Type<'_>, at: usize) -> Result<(), ShowError> {
        let bytes = ty.size() as usize;
        let Some(int) = ty.int() else {
            return Ok(());
        };
        let value = self.number(at, bytes)?;
        if self.has_chars && bytes == 1 {
            if self.chars_ended {
                return Ok(());
            }
            if value == 0 {
                self.chars_ended = true;
                return Ok(());
            }
            let byte = value as u8;
            if is_printable(byte) {
                self.leaf_bytes(id, false, &[b'\'', byte, b'\'']);
                return Ok(());
            }
        }
        let is_signed = int.encoding == IntEncoding::SIGNED;
        let high = (value >> 64) as u64;
        self.leaf_text(id, value == 0, &|out| match bytes {
            1..=8 if is_signed => write!(out, "{}", sign_extend(value as u64, bytes)),
            1..=8 => write!(out, "{value}"),
            _ if high == 0 => write!(out, "{value:#x}"),
            _ => write!(out, "{high:#x}{:016x}", value as u64),
        });
        Ok(())
    }

    fn pointer(&mut self, id: TypeId, at: usize) -> Result<(), ShowError> {
        let value = self.number(at, 8)?;
        // DIVERGES: a pointer that is not asked for as it is is no hash of it either: programs and host are one process.
        self.leaf_text(id, value == 0, &|out| write!(out, "0x{value:016x}"));
        Ok(())
    }

    fn enumerator(
        &mut self,
        id: TypeId,
        ty: Type<'_>,
        at: usize,
        bytes: usize,
    ) -> Result<(), ShowError> {
        let value = self.number(at, bytes)? as u64;
        let known = ty
            .enum_values()
            .find(|known| sign_extend(known.bits, bytes) == sign_extend(value, bytes));
        // A zero with a name is shown.
        self.leaf_text(id, value == 0 && known.is_none(), &|out| match known {
            Some(known) => out.write_str(known.name()),
            None if ty.kind_flag() => write!(out, "{}", sign_extend(value, bytes)),
            None => write!(out, "{value}"),
        });
        Ok(())
    }

    /// A bit field: hexadecimal, whatever its type.
    fn bit_field(&mut self, id: TypeId, bit_offset: usize, bits: u32) -> Result<(), ShowError> {
        let at = bit_offset / 8;
        let shift = (bit_offset % 8) as u32;
        let bytes = (shift + bits).div_ceil(8) as usize;
        let mask = 1u128.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
        let value = self.number(at, bytes)? >> shift & mask;
        self.leaf_text(id, value == 0, &|out| write!(out, "{value:#x}"));
        Ok(())
    }

    /// A struct, union or array: looked through first, where zeros are left out.
    fn aggregate(&mut self, id: TypeId, ty: Type<'a>, at: usize) -> Result<(), ShowError> {
        let is_looked_through =
            self.depth > 0 && !self.notation.has(Notation::ZEROS) && self.search == Search::Off;
        if is_looked_through {
            let member = self.member;
            self.search = Search::Running;
            let looked = self.parts(id, ty, at);
            let found = core::mem::replace(&mut self.search, Search::Off);
            self.member = member;
            looked?;
            if found != Search::Found {
                return Ok(());
            }
        }
        self.parts(id, ty, at)
    }

    fn parts(&mut self, id: TypeId, ty: Type<'a>, at: usize) -> Result<(), ShowError> {
        if let Some(array) = ty.array() {
            let element = self.btf.stripped(array.elem);
            let size = |ty: Type<'_>| {
                let is_sized = matches!(
                    ty.kind(),
                    Kind::Int
                        | Kind::Struct
                        | Kind::Union
                        | Kind::Enum
                        | Kind::Enum64
                        | Kind::Float
                );
                if is_sized { ty.size() as usize } else { 0 }
            };
            let bytes = element.map_or(0, size);
            self.open(id);
            self.has_chars = bytes == 1 && element.is_some_and(|ty| ty.kind() == Kind::Int);
            self.chars_ended = false;
            for index in 0..array.nelems as usize {
                (self.is_element, self.member) = (true, None);
                self.value(array.elem, at + index * bytes)?;
                self.is_element = false;
                if self.chars_ended {
                    break;
                }
            }
            self.has_chars = false;
            self.chars_ended = false;
            self.close("]");
            return Ok(());
        }
        self.open(id);
        for member in ty.members() {
            let name = member.name();
            self.member = Some(Named {
                name,
                ty: member.ty,
            });
            if member.bitfield_bits > 0 {
                let bit_offset = at * 8 + member.bit_offset as usize;
                self.bit_field(member.ty, bit_offset, member.bitfield_bits)?;
            } else {
                self.value(member.ty, at + member.byte_offset() as usize)?;
            }
            self.member = None;
        }
        self.close("}");
        Ok(())
    }

    fn open(&mut self, id: TypeId) {
        self.begin(id);
        self.line();
        self.depth += 1;
    }

    fn close(&mut self, bracket: &str) {
        self.depth -= 1;
        if self.search == Search::Off {
            self.indent();
            self.write(bracket);
            self.end();
        }
    }

    fn leaf_text(
        &mut self,
        id: TypeId,
        is_zero: bool,
        text: &dyn Fn(&mut dyn Write) -> fmt::Result,
    ) {
        if self.is_written(is_zero) {
            self.begin(id);
            let _ = text(self.out);
            self.end();
        }
    }

    /// As [`Show::leaf_text`], for bytes that may be no text; each is given on as the character of its number.
    fn leaf_bytes(&mut self, id: TypeId, is_zero: bool, bytes: &[u8]) {
        self.leaf_text(id, is_zero, &|out| {
            bytes
                .iter()
                .try_for_each(|&byte| out.write_char(char::from(byte)))
        });
    }

    /// Whether a value is written now; what is found while searching is noted.
    fn is_written(&mut self, is_zero: bool) -> bool {
        if self.search != Search::Off {
            if !is_zero {
                self.search = Search::Found;
            }
            return false;
        }
        !is_zero || self.depth == 0 || self.notation.has(Notation::ZEROS)
    }

    fn begin(&mut self, id: TypeId) {
        if self.search == Search::Off {
            self.indent();
            let text = self.name(id);
            self.write(&text);
        }
    }

    fn end(&mut self) {
        if self.depth > 0 {
            self.write(",");
        }
        self.line();
    }

    fn indent(&mut self) {
        if !self.notation.has(Notation::COMPACT) {
            for _ in 0..self.depth {
                self.write(" ");
            }
        }
    }

    fn line(&mut self) {
        if self.search == Search::Off && !self.notation.has(Notation::COMPACT) {
            self.write("\n");
        }
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_str(text);
    }

    /// `.member = (type){`
    fn name(&self, id: TypeId) -> String {
        if self.is_element {
            return String::new();
        }
        let (member, mut id) = match self.member {
            Some(named) => (named.name, named.ty),
            None => ("", id),
        };
        let (mut name, mut stars, mut arrays) = ("", String::new(), String::new());
        let mut last = None;
        for step in 0..NAME_STEPS_MAX {
            let id_now = if step == 0 {
                id
            } else {
                self.btf.skip_mods(id)
            };
            last = self.btf.type_by_id(id_now);
            let Some(ty) = last else {
                break;
            };
            match ty.kind() {
                Kind::Typedef => {
                    if name.is_empty() {
                        name = ty.name();
                    }
                    id = ty.type_id();
                }
                Kind::Array => {
                    arrays.push_str("[]");
                    id = ty.array().map_or(TypeId(0), |array| array.elem);
                }
                Kind::Ptr => {
                    stars.push('*');
                    id = ty.type_id();
                }
                _ => break,
            }
        }
        let kind = last.map(|ty| ty.kind());
        let is_struct = matches!(kind, Some(Kind::Struct | Kind::Union));
        let bracket = match (stars.is_empty(), arrays.is_empty()) {
            (true, false) => "[",
            (true, true) if is_struct => "{",
            _ => "",
        };
        if self.notation.has(Notation::NO_NAMES) {
            return bracket.to_string();
        }
        let mut text = String::new();
        if !member.is_empty() {
            text.push('.');
            text.push_str(member);
            text.push_str(" = ");
        }
        text.push('(');
        if name.is_empty() {
            let keyword = match kind {
                Some(Kind::Struct) => "struct",
                Some(Kind::Union) => "union",
                Some(Kind::Enum | Kind::Enum64) => "enum",
                _ => "",
            };
            text.push_str(keyword);
            name = last.map_or("", |ty| ty.name());
            if !keyword.is_empty() && !name.is_empty() {
                text.push(' ');
            }
        }
        text.push_str(name);
        if !stars.is_empty() {
            text.push(' ');
            text.push_str(&stars);
        }
        text.push_str(&arrays);
        text.push(')');
        text.push_str(bracket);
        let end = text.floor_char_boundary(NAME_BYTES_MAX);
        text.truncate(end);
        text
    }
}

fn sign_extend(value: u64, bytes: usize) -> i64 {
    let shift = 64 - 8 * bytes.clamp(1, 8) as u32;
    ((value << shift) as i64) >> shift
}

/// ASCII and the upper half of ISO 8859-1, as the kernel's `isprint`.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e | 0xa0..=0xff)
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;
    use crate::Builder;

    fn shown(btf: &Btf, ty: TypeId, bytes: &[u8], notation: Notation) -> String {
        let mut text = String::new();
        show_value(btf, ty, bytes, notation, &mut text).unwrap();
        text
    }

    #[test]
    fn quirks_are_the_kernels() {
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        let wide = builder.add_int("__int128", 16, IntEncoding::SIGNED);
        let char = builder.add_int("char", 1, IntEncoding::NONE);
        let pointer = builder.add_ref(Kind::Ptr, "", int);
        let constant = builder.add_ref(Kind::Const, "", int);
        let ints = builder.add_array(int, int, 2);
        let pointers = builder.add_array(pointer, int, 2);
        let chars = builder.add_array(char, int, 4);
        let nested = builder.add_struct("nested", 12, &[("list", ints, 0), ("last", int, 64)]);
        let both = builder.add_array(nested, int, 2);
        let hidden = builder.add_struct("hidden", 8, &[("a", constant, 0), ("b", int, 32)]);
        let long_name = "n".repeat(90);
        let long = builder.add_struct(&long_name, 4, &[("a", int, 0)]);
        let btf = Btf::parse(&builder.finish()).unwrap();
        let words = |words: &[i32]| -> alloc::vec::Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let one_line = |ty, bytes: &[u8]| shown(&btf, ty, bytes, Notation::COMPACT);
        assert_eq!(one_line(int, &words(&[-3])), "(int)-3");
        assert_eq!(one_line(constant, &words(&[-3])), "()-3");
        let value = words(&[1, 0, 2, 0]);
        assert_eq!(one_line(wide, &value), "(__int128)0x20000000000000001");
        assert_eq!(
            one_line(hidden, &words(&[4, 5])),
            "(struct hidden){.a = ()4,.b = (int)5,}"
        );
        // Zeros are left out, even all of them.
        assert_eq!(one_line(ints, &words(&[0, 9])), "(int[])[9,]");
        assert_eq!(one_line(ints, &words(&[0, 0])), "(int[])[]");
        let zeros = Notation::from_flags(9).unwrap();
        assert_eq!(shown(&btf, ints, &words(&[0, 9]), zeros), "(int[])[0,9,]");
        // Characters end at their NUL; what cannot be printed is a number.
        assert_eq!(one_line(chars, b"a\x07\0b"), "(char[])['a',7,]");
        assert_eq!(one_line(chars, b"\0abc"), "(char[])[]");
        // All elements are the first.
        let value = [words(&[1, 0]), words(&[2, 0])].concat();
        let text = "(int *[])0x0000000000000001,0x0000000000000001,]";
        assert_eq!(one_line(pointers, &value), text);
        // Names of an element come back once an array in it has ended.
        let value = words(&[1, 2, 3, 4, 5, 6]);
        let element =
            |a, b, c| format!("(struct nested){{.list = (int[])[{a},{b},],.last = (int){c},}},");
        let text = format!(
            "(struct nested[])[{}{}]",
            element(1, 2, 3),
            element(4, 5, 6)
        );
        assert_eq!(one_line(both, &value), text);
        let text = one_line(long, &words(&[7]));
        assert_eq!(text, format!("(struct {}.a = (int)7,}}", &long_name[..71]));
        assert_eq!(
            shown(&btf, hidden, &words(&[4, 5]), Notation::NO_NAMES),
            "{\n 4,\n 5,\n}\n"
        );
    }

    #[test]
    fn memory_that_ends_and_types_without_values_are_errors() {
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        let pair = builder.add_struct("pair", 8, &[("a", int, 0), ("b", int, 32)]);
        let variable = builder.add_var("v", int, crate::VarLinkage::Static);
        let btf = Btf::parse(&builder.finish()).unwrap();
        let mut text = String::new();
        let shown = show_value(
            &btf,
            pair,
            &[1, 0, 0, 0, 2][..],
            Notation::COMPACT,
            &mut text,
        );
        assert_eq!(shown, Err(ShowError::Unreadable));
        assert_eq!(text, "(struct pair){.a = (int)1,");
        let shown = show_value(&btf, variable, &[0; 8][..], Notation::COMPACT, &mut text);
        assert_eq!(shown, Err(ShowError::NoValue));
    }

    /// Ones, wherever one looks.
    struct Ones;

    impl ShownMemory for Ones {
        fn read(&self, _: usize, into: &mut [u8]) -> bool {
            into.fill(0xff);
            true
        }
    }

    #[test]
    fn bit_fields_lie_far_away_too() {
        const STRUCT_OF_ONE: u32 = 1 << 31 | 4 << 24 | 1;
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        // Three bits of a gigabyte, twice: more bits away than 32 bits count.
        let sparse = builder.add_raw(0, STRUCT_OF_ONE, 1 << 30, &[0, int.0, 3 << 24]);
        let list = builder.add_array(sparse, int, 2);
        let btf = Btf::parse(&builder.finish()).unwrap();
        let mut text = String::new();
        assert_eq!(
            show_value(&btf, list, &Ones, Notation::COMPACT, &mut text),
            Ok(())
        );
        assert_eq!(text, "(struct[])[0x7,},0x7,},]");
    }
}
