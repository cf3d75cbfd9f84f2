//! The checker of `BPF_BTF_LOAD`: verdict, errno and log text of Linux 6.18.
//!
//! Four steps: header and sections; `meta`, each type by itself, in the order of the file; `resolve`, each type's
//! references, sizes and members, depth first with a stack of 32; order of type tags and the records of structs with
//! special fields. The first fault ends it.
//!
//! Kernel counterpart: `btf_parse` and the per-kind operations behind it.

mod member;
mod meta;
mod resolve;

use crate::raw::{HEADER_BYTES, Header, MAGIC, VERSION, u32_at};
use crate::record::{KernelTypes, StructMetas};
use crate::{Btf, IntEncoding, Kind, Type, TypeId};
use alloc::sync::Arc;
use alloc::vec;
use core::fmt::{self, Write as _};
use ring3_uapi::Errno;

/// Largest blob. Source: `BTF_MAX_SIZE`.
pub const BTF_BYTES_MAX: usize = 16 << 20;
/// Largest offset of a name. Source: `BTF_MAX_NAME_OFFSET`.
const NAME_OFFSET_MAX: u32 = 0x00ff_ffff;
/// Longest name, its NUL included. Source: `KSYM_NAME_LEN`.
const NAME_BYTES_MAX: usize = 512;

/// A blob that was accepted.
#[derive(Clone, Debug)]
pub struct Checked {
    /// its types
    pub btf: Btf,
    /// records of structs that programs can allocate
    pub metas: StructMetas,
}

/// What a blob is checked against.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// the BTF it continues
    pub base: Option<&'a Btf>,
    /// kernel types that tagged pointers may refer to
    pub kernel: Option<KernelTypes<'a>>,
}

/// Checks a blob as `BPF_BTF_LOAD` does; `log` receives what the kernel writes at any log level but 0.
///
/// # Errors
/// E2BIG: too large, too many types, or nested too deeply. ENOTSUPP: another version, flags or integer encoding. EEXIST:
/// a loop. EINVAL: anything else that is malformed; ENOENT, ELOOP, EFAULT: struct records, see [`StructMetas::parse`].
pub fn check(
    bytes: &[u8],
    options: CheckOptions<'_>,
    log: Option<&mut dyn fmt::Write>,
) -> Result<Checked, Errno> {
    if bytes.len() > BTF_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    let mut log = Log { sink: log };
    let header = check_header(bytes, options.base.is_some(), &mut log)?;
    let body = bytes.get(header.hdr_len as usize..).ok_or(Errno::EINVAL)?;
    check_strings(body, &header, options.base.is_some(), &mut log)?;
    let types = type_section(body, &header, options.base.is_some(), &mut log)?;
    let strings = Strings {
        own: section(body, header.str_off, header.str_len),
        base: options.base,
    };
    meta::check_all(
        types,
        &strings,
        options.base.map_or(1, Btf::type_count),
        &mut log,
    )?;
    let btf = parse_checked(bytes, &header, options.base)?;
    resolve::check_all(&btf, &mut log)?;
    check_type_tags(&btf, &mut log)?;
    let metas = StructMetas::parse(&btf, options.kernel)?;
    Ok(Checked { btf, metas })
}

fn section(body: &[u8], offset: u32, len: u32) -> &[u8] {
    let start = offset as usize;
    body.get(start..start.saturating_add(len as usize))
        .unwrap_or(&[])
}

/// Where log text goes, if anywhere.
pub(crate) struct Log<'a> {
    sink: Option<&'a mut dyn fmt::Write>,
}

impl Log<'_> {
    pub(crate) fn write(&mut self, text: fmt::Arguments<'_>) {
        if let Some(sink) = &mut self.sink {
            // A sink that is full keeps what it has; the verdict does not depend on it.
            let _ = sink.write_fmt(text);
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.sink.is_some()
    }
}

/// Logs a line and gives an errno.
macro_rules! reject {
    ($log:expr, $errno:ident, $($arg:tt)*) => {{
        $log.write(format_args!($($arg)*));
        return Err(ring3_uapi::Errno::$errno)
    }};
}
pub(crate) use reject;

fn check_header(bytes: &[u8], is_split: bool, log: &mut Log<'_>) -> Result<Header, Errno> {
    let Some(hdr_len) = u32_at(bytes, 4) else {
        reject!(log, EINVAL, "hdr_len not found")
    };
    let Some(given) = bytes.get(..hdr_len as usize) else {
        reject!(log, EINVAL, "btf_header not found")
    };
    if given.iter().skip(HEADER_BYTES).any(|&byte| byte != 0) {
        reject!(log, E2BIG, "Unsupported btf_header");
    }
    // A shorter header reads as if zeroes followed.
    let mut padded = [0u8; HEADER_BYTES];
    let copied = given.len().min(HEADER_BYTES);
    padded[..copied].copy_from_slice(&given[..copied]);
    let header = Header::read(&padded).ok_or(Errno::EINVAL)?;
    log.write(format_args!(
        "magic: 0x{:x}\nversion: {}\nflags: 0x{:x}\nhdr_len: {}\ntype_off: {}\ntype_len: {}\nstr_off: {}\nstr_len: {}\nbtf_total_size: {}\n",
        header.magic,
        header.version,
        header.flags,
        header.hdr_len,
        header.type_off,
        header.type_len,
        header.str_off,
        header.str_len,
        bytes.len()
    ));
    if header.magic != MAGIC {
        reject!(log, EINVAL, "Invalid magic");
    }
    if header.version != VERSION {
        reject!(log, ENOTSUPP, "Unsupported version");
    }
    if header.flags != 0 {
        reject!(log, ENOTSUPP, "Unsupported flags");
    }
    if !is_split && bytes.len() == header.hdr_len as usize {
        reject!(log, EINVAL, "No data");
    }
    check_sections(&header, (bytes.len() - given.len()) as u64, log)?;
    Ok(header)
}

/// Both sections lie side by side and fill what follows the header.
fn check_sections(header: &Header, body_bytes: u64, log: &mut Log<'_>) -> Result<(), Errno> {
    // The kernel orders them by the difference of offsets, then of lengths, as signed numbers.
    let mut sections = [
        (header.type_off, header.type_len),
        (header.str_off, header.str_len),
    ];
    let [first, second] = sections;
    let by_offset = first.0.wrapping_sub(second.0) as i32;
    let by_len = first.1.wrapping_sub(second.1) as i32;
    if by_offset > 0 || (by_offset == 0 && by_len > 0) {
        sections.swap(0, 1);
    }
    let mut total = 0u64;
    for (offset, len) in sections.map(|(offset, len)| (u64::from(offset), u64::from(len))) {
        if body_bytes < offset {
            reject!(log, EINVAL, "Invalid section offset");
        }
        if total < offset {
            reject!(log, EINVAL, "Unsupported section found");
        }
        if total > offset {
            reject!(log, EINVAL, "Section overlap found");
        }
        if body_bytes - total < len {
            reject!(log, EINVAL, "Total section length too long");
        }
        total += len;
    }
    if body_bytes != total {
        reject!(log, EINVAL, "Unsupported section found");
    }
    Ok(())
}

fn check_strings(
    body: &[u8],
    header: &Header,
    is_split: bool,
    log: &mut Log<'_>,
) -> Result<(), Errno> {
    let end = u64::from(header.str_off) + u64::from(header.str_len);
    if end != body.len() as u64 {
        reject!(log, EINVAL, "String section is not at the end");
    }
    match section(body, header.str_off, header.str_len) {
        [] if is_split => Ok(()),
        strings @ [first, .., 0]
            if (*first == 0 || is_split) && strings.len() - 1 <= NAME_OFFSET_MAX as usize =>
        {
            Ok(())
        }
        [0] => Ok(()),
        _ => reject!(log, EINVAL, "Invalid string section"),
    }
}

fn type_section<'a>(
    body: &'a [u8],
    header: &Header,
    is_split: bool,
    log: &mut Log<'_>,
) -> Result<&'a [u8], Errno> {
    if !header.type_off.is_multiple_of(4) {
        reject!(log, EINVAL, "Unaligned type_off");
    }
    if !is_split && header.type_len == 0 {
        reject!(log, EINVAL, "No type found");
    }
    Ok(section(body, header.type_off, header.type_len))
}

/// The types again, now indexed. A header shorter than ours is completed first.
fn parse_checked(bytes: &[u8], header: &Header, base: Option<&Btf>) -> Result<Btf, Errno> {
    let blob: Arc<[u8]> = if (header.hdr_len as usize) < HEADER_BYTES {
        let full = Header {
            hdr_len: HEADER_BYTES as u32,
            ..*header
        };
        let body = bytes.get(header.hdr_len as usize..).unwrap_or(&[]);
        full.to_bytes().iter().chain(body).copied().collect()
    } else {
        Arc::from(bytes)
    };
    Btf::parse_shared(blob, base.cloned()).map_err(|error| error.errno())
}

/// Strings of a blob that is not parsed yet, behind those of its base.
pub(crate) struct Strings<'a> {
    own: &'a [u8],
    base: Option<&'a Btf>,
}

impl<'a> Strings<'a> {
    /// The string at an offset, `None` outside of the section.
    pub(crate) fn at(&self, offset: u32) -> Option<&'a [u8]> {
        let start = self.base.map_or(0, |base| {
            base.start_str() + base.string_bytes().len() as u32
        });
        match offset.checked_sub(start) {
            Some(own) => crate::raw::str_at(self.own, own as usize),
            None => self.base.and_then(|base| base.str_bytes_by_offset(offset)),
        }
    }
}

/// A C identifier, or one with dots. Letters are those of Latin-1, as in the kernel's character table.
pub(crate) fn is_identifier(name: &[u8]) -> bool {
    let is_letter =
        |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..);
    let is_first = |byte: u8| is_letter(byte) || byte == b'_' || byte == b'.';
    match name {
        [] => false,
        [first, rest @ ..] => {
            let fits = name.len() <= NAME_BYTES_MAX;
            fits && is_first(*first)
                && rest
                    .iter()
                    .all(|&byte| is_first(byte) || byte.is_ascii_digit())
        }
    }
}

/// Printable, as section names are.
pub(crate) fn is_section_name(name: &[u8]) -> bool {
    let is_print = |byte: u8| matches!(byte, 0x20..=0x7e | 0xa0..);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.iter().all(|&byte| is_print(byte))
}

/// A name as the log prints it.
pub(crate) struct LogName<'a>(pub(crate) u32, pub(crate) Option<&'a [u8]>);

impl fmt::Display for LogName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (0, _) => f.write_str("(anon)"),
            (_, None) => f.write_str("(invalid-name-offset)"),
            (_, Some(bytes)) => match core::str::from_utf8(bytes) {
                Ok(text) => f.write_str(text),
                // DIVERGES: the kernel writes such bytes as they are; our log is text, so they are read as Latin-1.
                Err(_) => bytes
                    .iter()
                    .try_for_each(|&byte| f.write_char(char::from(byte))),
            },
        }
    }
}

/// The line that describes a type: `[1] INT int size=4 ...`, without message and line feed.
pub(crate) struct TypeLine<'a>(pub(crate) Type<'a>);

impl fmt::Display for TypeLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = &self.0;
        let name = |offset: u32| LogName(offset, ty.btf.str_bytes_by_offset(offset));
        type_line(f, ty, &name)
    }
}

/// Writes the line of a type whose names are found by `name`.
pub(crate) fn type_line<'n>(
    f: &mut fmt::Formatter<'_>,
    ty: &Type<'_>,
    name: &dyn Fn(u32) -> LogName<'n>,
) -> fmt::Result {
    write!(
        f,
        "[{}] {} {} ",
        ty.id(),
        ty.kind().name(),
        name(ty.name_off())
    )?;
    let word = |index: usize| u32_at(ty.tail, index * 4).unwrap_or(0);
    match ty.kind() {
        Kind::Int => {
            let int = crate::Int::from_word(word(0));
            let encoding = IntEncoding(int.encoding.0).name();
            write!(
                f,
                "size={} bits_offset={} nr_bits={} encoding={encoding}",
                ty.size(),
                int.bit_offset,
                int.bits
            )
        }
        Kind::Array => write!(
            f,
            "type_id={} index_type_id={} nr_elems={}",
            word(0),
            word(1),
            word(2)
        ),
        Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Datasec => {
            write!(f, "size={} vlen={}", ty.size(), ty.vlen())
        }
        Kind::Fwd => f.write_str(if ty.kind_flag() { "union" } else { "struct" }),
        Kind::FuncProto => {
            write!(f, "return={} args=(", ty.type_id())?;
            let count = ty.params().len();
            match count {
                0 => f.write_str("void")?,
                1 if ty.params().all(|param| param.ty.is_void()) => f.write_str("vararg")?,
                _ => {
                    for (index, param) in ty.params().enumerate() {
                        let comma = if index == 0 { "" } else { ", " };
                        if index > 0 && index + 1 == count && param.ty.is_void() {
                            f.write_str(", vararg")?;
                        } else {
                            write!(f, "{comma}{} {}", param.ty, name(param.name_off))?;
                        }
                    }
                }
            }
            f.write_str(")")
        }
        Kind::Var => write!(f, "type_id={} linkage={}", ty.type_id(), word(0)),
        Kind::Float => write!(f, "size={}", ty.size()),
        Kind::DeclTag => write!(f, "type={} component_idx={}", ty.type_id(), word(0) as i32),
        Kind::Ptr
        | Kind::Typedef
        | Kind::Volatile
        | Kind::Const
        | Kind::Restrict
        | Kind::Func
        | Kind::TypeTag => {
            write!(f, "type_id={}", ty.type_id())
        }
        Kind::Void => Ok(()),
    }
}

/// Type tags stand in front of modifiers: no modifier may lead to a type tag. Chains are acyclic by now.
fn check_type_tags(btf: &Btf, log: &mut Log<'_>) -> Result<(), Errno> {
    let first = btf.start_id().0;
    let count = (btf.type_count() - first) as usize;
    // For each own modifier: does its chain, itself included, hold a type tag? 0 unknown, 1 no, 2 yes.
    let mut holds_tag = vec![0u8; count];
    let own = |id: TypeId| {
        id.0.checked_sub(first)
            .map(|index| index as usize)
            .filter(|&index| index < count)
    };
    let mut path = vec![];
    for start in 0..count {
        let mut id = TypeId(first + start as u32);
        let mut known = 1u8;
        while let Some(ty) = btf
            .type_by_id(id)
            .filter(|ty| ty.kind().is_mod_or_typedef())
        {
            let answer = own(id).map_or(0, |index| holds_tag[index]);
            if answer != 0 {
                known = answer;
                break;
            }
            path.push((id, ty.kind()));
            id = ty.type_id();
        }
        while let Some((id, kind)) = path.pop() {
            if kind == Kind::TypeTag {
                known = 2;
            } else if known == 2 {
                reject!(log, EINVAL, "Type tags don't precede modifiers");
            }
            if let Some(index) = own(id) {
                holds_tag[index] = known;
            }
        }
    }
    Ok(())
}
