//! Each type by itself: sizes, flags, names, ids in range. Writes the listing of all types to the log.

use super::{Log, LogName, Strings, is_identifier, is_section_name, reject, type_line};
use crate::btf::TYPES_MAX;
use crate::raw::u32_at;
use crate::{Btf, Builder, Kind, Type, TypeId};
use core::fmt;
use ring3_uapi::Errno;

/// Bits of `info` that mean something. Source: `BTF_INFO_MASK`.
const INFO_MASK: u32 = 0x9f00_ffff;
/// Bits of an integer's word that mean something. Source: `BTF_INT_MASK`.
const INT_MASK: u32 = 0x0fff_ffff;
/// Widest integer.
const INT_BITS_MAX: u32 = 128;

/// Checks every type of the section, in order; the first gets the id `start_id`.
pub(super) fn check_all(
    types: &[u8],
    strings: &Strings<'_>,
    start_id: u32,
    log: &mut Log<'_>,
) -> Result<(), Errno> {
    // Views need a `Btf` behind them; nothing is looked up in it here.
    let nothing = Btf::parse(&Builder::new().finish()).map_err(|error| error.errno())?;
    let mut offset = 0;
    let mut id = start_id;
    while offset < types.len() {
        let bytes = check_type(&types[offset..], TypeId(id), &nothing, strings, log)?;
        if id >= TYPES_MAX {
            reject!(log, E2BIG, "Too many types");
        }
        offset += bytes;
        id += 1;
    }
    Ok(())
}

/// A type under check: logs lines about it.
struct Subject<'s, 'l, 'k> {
    ty: Type<'s>,
    strings: &'s Strings<'s>,
    log: &'l mut Log<'k>,
}

struct Line<'a, 's>(&'a Type<'s>, &'s Strings<'s>);

impl fmt::Display for Line<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        type_line(f, self.0, &|offset| LogName(offset, self.1.at(offset)))
    }
}

impl Subject<'_, '_, '_> {
    fn list(&mut self) {
        if self.log.is_on() {
            self.log
                .write(format_args!("{}\n", Line(&self.ty, self.strings)));
        }
    }

    fn reject(&mut self, message: fmt::Arguments<'_>) -> Errno {
        if self.log.is_on() {
            self.log
                .write(format_args!("{} {message}\n", Line(&self.ty, self.strings)));
        }
        Errno::EINVAL
    }

    /// A line about a type whose records are not there to be described.
    fn reject_basic(&mut self, message: fmt::Arguments<'_>) -> Errno {
        let name = LogName(self.ty.name_off(), self.strings.at(self.ty.name_off()));
        self.log.write(format_args!(
            "[{}] {} {name} {message}\n",
            self.ty.id(),
            self.ty.kind().name()
        ));
        Errno::EINVAL
    }

    fn name_is(&self, valid: fn(&[u8]) -> bool) -> bool {
        self.ty.name_off() != 0 && self.strings.at(self.ty.name_off()).is_some_and(valid)
    }

    fn no_vlen(&mut self) -> Result<(), Errno> {
        if self.ty.vlen() != 0 {
            Err(self.reject(format_args!("vlen != 0")))
        } else {
            Ok(())
        }
    }

    fn no_kind_flag(&mut self) -> Result<(), Errno> {
        if self.ty.kind_flag() {
            Err(self.reject(format_args!("Invalid btf_info kind_flag")))
        } else {
            Ok(())
        }
    }

    fn identifier(&mut self) -> Result<(), Errno> {
        if self.name_is(is_identifier) {
            Ok(())
        } else {
            Err(self.reject(format_args!("Invalid name")))
        }
    }

    fn identifier_or_none(&mut self) -> Result<(), Errno> {
        if self.ty.name_off() == 0 {
            Ok(())
        } else {
            self.identifier()
        }
    }

    fn no_name(&mut self) -> Result<(), Errno> {
        if self.ty.name_off() != 0 {
            Err(self.reject(format_args!("Invalid name")))
        } else {
            Ok(())
        }
    }
}

/// Checks the type at the start of `rest` and returns its bytes.
fn check_type(
    rest: &[u8],
    id: TypeId,
    nothing: &Btf,
    strings: &Strings<'_>,
    log: &mut Log<'_>,
) -> Result<usize, Errno> {
    let (Some(name_off), Some(info), Some(size_or_type)) =
        (u32_at(rest, 0), u32_at(rest, 4), u32_at(rest, 8))
    else {
        reject!(
            log,
            EINVAL,
            "[{id}] meta_left:{} meta_needed:12",
            rest.len()
        );
    };
    if info & !INFO_MASK != 0 {
        reject!(log, EINVAL, "[{id}] Invalid btf_info:{info:x}");
    }
    let raw_kind = info >> 24 & 0x1f;
    let kind = match Kind::from_raw(raw_kind) {
        Some(kind) if kind != Kind::Void => kind,
        _ => reject!(log, EINVAL, "[{id}] Invalid kind:{raw_kind}"),
    };
    if strings.at(name_off).is_none() {
        reject!(log, EINVAL, "[{id}] Invalid name_offset:{name_off}");
    }
    let (fixed, per_record) = kind.tail_bytes();
    let needed = fixed + per_record * (info & 0xffff) as usize;
    let tail = rest.get(12..12 + needed);
    let ty = Type {
        btf: nothing,
        id,
        kind,
        name_off,
        info,
        size_or_type,
        tail: tail.unwrap_or(&[]),
    };
    let mut subject = Subject { ty, strings, log };
    if tail.is_none() {
        return Err(subject.reject_basic(format_args!(
            "meta_left:{} meta_needed:{needed}",
            rest.len() - 12
        )));
    }
    check_kind(&mut subject)?;
    Ok(12 + needed)
}

fn check_kind(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    match subject.ty.kind() {
        Kind::Int => check_int(subject),
        Kind::Ptr
        | Kind::Typedef
        | Kind::Volatile
        | Kind::Const
        | Kind::Restrict
        | Kind::TypeTag => check_reference(subject),
        Kind::Array => check_array(subject),
        Kind::Struct | Kind::Union => check_struct(subject),
        Kind::Enum | Kind::Enum64 => check_enum(subject),
        Kind::Fwd => {
            subject.no_vlen()?;
            if subject.ty.size_or_type() != 0 {
                return Err(subject.reject(format_args!("type != 0")));
            }
            subject.identifier()?;
            subject.list();
            Ok(())
        }
        Kind::Func => {
            subject.identifier()?;
            if subject.ty.vlen() > 1 {
                return Err(subject.reject(format_args!("Invalid func linkage")));
            }
            subject.no_kind_flag()?;
            subject.list();
            Ok(())
        }
        Kind::FuncProto => {
            subject.no_name()?;
            subject.no_kind_flag()?;
            subject.list();
            Ok(())
        }
        Kind::Var => check_var(subject),
        Kind::Datasec => check_datasec(subject),
        Kind::Float => {
            subject.no_vlen()?;
            subject.no_kind_flag()?;
            if !matches!(subject.ty.size(), 2 | 4 | 8 | 12 | 16) {
                return Err(subject.reject(format_args!("Invalid type_size")));
            }
            subject.list();
            Ok(())
        }
        Kind::DeclTag => check_decl_tag(subject),
        Kind::Void => Err(Errno::EINVAL),
    }
}

fn check_int(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    subject.no_vlen()?;
    subject.no_kind_flag()?;
    let word = u32_at(subject.ty.tail, 0).unwrap_or(0);
    if word & !INT_MASK != 0 {
        return Err(subject.reject_basic(format_args!("Invalid int_data:{word:x}")));
    }
    let int = crate::Int::from_word(word);
    let bits = int.bits + int.bit_offset;
    if bits > INT_BITS_MAX {
        return Err(subject.reject(format_args!("nr_bits exceeds {INT_BITS_MAX}")));
    }
    if bits.div_ceil(8) > subject.ty.size() {
        return Err(subject.reject(format_args!("nr_bits exceeds type_size")));
    }
    if !matches!(int.encoding.0, 0 | 1 | 2 | 4) {
        subject.reject(format_args!("Unsupported encoding"));
        return Err(Errno::ENOTSUPP);
    }
    subject.list();
    Ok(())
}

fn check_reference(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    let kind = subject.ty.kind();
    subject.no_vlen()?;
    if kind != Kind::TypeTag {
        subject.no_kind_flag()?;
    }
    if subject.ty.size_or_type() > TYPES_MAX {
        return Err(subject.reject(format_args!("Invalid type_id")));
    }
    match kind {
        Kind::Typedef => subject.identifier()?,
        Kind::TypeTag if subject.name_is(|name| !name.is_empty()) => {}
        Kind::TypeTag => return Err(subject.reject(format_args!("Invalid name"))),
        _ => subject.no_name()?,
    }
    subject.list();
    Ok(())
}

fn is_bad_id(id: TypeId) -> bool {
    id.is_void() || id.0 > TYPES_MAX
}

fn check_array(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    subject.no_name()?;
    subject.no_vlen()?;
    subject.no_kind_flag()?;
    if subject.ty.size_or_type() != 0 {
        return Err(subject.reject(format_args!("size != 0")));
    }
    let array = subject.ty.array().ok_or(Errno::EINVAL)?;
    if is_bad_id(array.elem) {
        return Err(subject.reject(format_args!("Invalid elem")));
    }
    if is_bad_id(array.index) {
        return Err(subject.reject(format_args!("Invalid index")));
    }
    subject.list();
    Ok(())
}

fn check_struct(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    subject.identifier_or_none()?;
    subject.list();
    let is_union = subject.ty.kind() == Kind::Union;
    let kind_flag = subject.ty.kind_flag();
    let mut last_offset = 0;
    for member in subject.ty.members() {
        let name = subject.strings.at(member.name_off);
        let fault = if name.is_none() {
            Some(Fault::NameOffset(member.name_off))
        } else if member.name_off != 0 && !name.is_some_and(is_identifier) {
            Some(Fault::Text("Invalid name"))
        } else if is_bad_id(member.ty) {
            Some(Fault::Text("Invalid type_id"))
        } else if (is_union && member.bit_offset != 0) || last_offset > member.bit_offset {
            Some(Fault::Text("Invalid member bits_offset"))
        } else if member.bit_offset.div_ceil(8) > subject.ty.size() {
            Some(Fault::Text("Member bits_offset exceeds its struct size"))
        } else {
            None
        };
        if subject.log.is_on() {
            let name = LogName(member.name_off, name);
            let line = super::member::MemberLine {
                name,
                member: &member,
                kind_flag,
            };
            match &fault {
                Some(fault) => subject.log.write(format_args!("{line} {fault}\n")),
                None => subject.log.write(format_args!("{line}\n")),
            }
        }
        if fault.is_some() {
            return Err(Errno::EINVAL);
        }
        last_offset = member.bit_offset;
    }
    Ok(())
}

enum Fault {
    Text(&'static str),
    NameOffset(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Text(text) => f.write_str(text),
            Fault::NameOffset(offset) => write!(f, "Invalid member name_offset:{offset}"),
        }
    }
}

fn check_enum(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    let size = subject.ty.size();
    if size > 8 || !size.is_power_of_two() {
        return Err(subject.reject(format_args!("Unexpected size")));
    }
    subject.identifier_or_none()?;
    subject.list();
    let wide = subject.ty.kind() == Kind::Enum64;
    for value in subject.ty.enum_values() {
        let Some(name) = subject.strings.at(value.name_off) else {
            subject
                .log
                .write(format_args!("\tInvalid name_offset:{}", value.name_off));
            return Err(Errno::EINVAL);
        };
        if value.name_off == 0 || !is_identifier(name) {
            return Err(subject.reject(format_args!("Invalid name")));
        }
        if subject.log.is_on() {
            let name = LogName(value.name_off, Some(name));
            match (wide, value.signed) {
                (_, true) => subject
                    .log
                    .write(format_args!("\t{name} val={}\n", value.bits as i64)),
                (_, false) => subject
                    .log
                    .write(format_args!("\t{name} val={}\n", value.bits)),
            }
        }
    }
    Ok(())
}

fn check_var(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    subject.no_vlen()?;
    subject.no_kind_flag()?;
    subject.identifier()?;
    if is_bad_id(subject.ty.type_id()) {
        return Err(subject.reject(format_args!("Invalid type_id")));
    }
    if !matches!(u32_at(subject.ty.tail, 0), Some(0 | 1)) {
        return Err(subject.reject(format_args!("Linkage not supported")));
    }
    subject.list();
    Ok(())
}

fn check_datasec(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    let size = subject.ty.size();
    if size == 0 {
        return Err(subject.reject(format_args!("size == 0")));
    }
    subject.no_kind_flag()?;
    if !subject.name_is(is_section_name) {
        return Err(subject.reject(format_args!("Invalid name")));
    }
    subject.list();
    let (mut last_end, mut sum) = (0u64, 0u64);
    for var in subject.ty.vars() {
        let end = u64::from(var.offset) + u64::from(var.size);
        let fault = if is_bad_id(var.ty) {
            " Invalid type_id"
        } else if u64::from(var.offset) < last_end || var.offset >= size {
            " Invalid offset"
        } else if var.size == 0 || var.size > size {
            " Invalid size"
        } else if end > u64::from(size) {
            " Invalid offset+size"
        } else {
            ""
        };
        subject.log.write(format_args!(
            "\t type_id={} offset={} size={}{fault}\n",
            var.ty, var.offset, var.size
        ));
        if !fault.is_empty() {
            return Err(Errno::EINVAL);
        }
        last_end = end;
        sum += u64::from(var.size);
    }
    if u64::from(size) < sum {
        return Err(subject.reject(format_args!("Invalid btf_info size")));
    }
    Ok(())
}

fn check_decl_tag(subject: &mut Subject<'_, '_, '_>) -> Result<(), Errno> {
    if !subject.name_is(|name| !name.is_empty()) {
        return Err(subject.reject(format_args!("Invalid value")));
    }
    subject.no_vlen()?;
    if subject
        .ty
        .component_idx()
        .is_none_or(|component| component < -1)
    {
        return Err(subject.reject(format_args!("Invalid component_idx")));
    }
    subject.list();
    Ok(())
}
