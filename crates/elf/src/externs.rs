//! Extern symbols: configuration values (`__kconfig`) and kernel symbols (`__ksym`).
//!
//! [`collect`] finds them through the symbol table and BTF and rewrites the BTF sections that back them, [`KernelConfig`]
//! gives configuration values, [`kconfig_map`] makes the map that holds them.

use crate::btf_fixup::{BtfEdit, Word, add_dummy_ksym, int_id};
use crate::error::fail;
use crate::file::ElfFile;
use crate::{ElfError, ExternKind, ExternSpec};
use goblin::elf::section_header::SHN_UNDEF;
use goblin::elf::sym::{STB_GLOBAL, STB_WEAK, STT_NOTYPE};
use ring3_btf::{Btf, FuncLinkage, Kind, Type, TypeId, VarLinkage};
use std::collections::BTreeMap;

/// What `__kconfig` externs are resolved from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelConfig {
    /// `LINUX_KERNEL_VERSION`: major, minor, patch
    pub version: (u8, u8, u8),
    /// `CONFIG_*` and its value as in a .config file: `y`, `m`, `n`, a number, or a string in double quotes
    pub options: BTreeMap<String, String>,
}

impl Default for KernelConfig {
    /// Linux 6.18.0 without options.
    fn default() -> Self {
        KernelConfig {
            version: (6, 18, 0),
            options: BTreeMap::new(),
        }
    }
}

impl KernelConfig {
    /// Reads the text of a .config file; lines that set nothing are skipped.
    pub fn parse_options(text: &str) -> BTreeMap<String, String> {
        text.lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_string(), value.trim_end().to_string()))
            .collect()
    }

    /// `LINUX_KERNEL_VERSION` as a number.
    pub fn version_code(&self) -> u32 {
        let (major, minor, patch) = self.version;
        u32::from(major) << 16 | u32::from(minor) << 8 | u32::from(patch)
    }
}

/// How a configuration value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueKind {
    Char,
    Bool,
    Int { signed: bool },
    Tristate,
    Text,
}

/// A configuration extern on its way to its place.
pub(crate) struct ConfigExtern {
    value_kind: ValueKind,
    align: u32,
    size: u32,
}

/// Finds all externs; the BTF returned is the one to load.
pub(crate) fn collect(
    file: &ElfFile<'_>,
    btf: Option<Btf>,
) -> Result<(Option<Btf>, Externs), ElfError> {
    let Some(btf) = btf else {
        if let Some(symbol) = extern_symbols(file).next() {
            fail!("symbol '{}': extern without BTF", symbol.name);
        }
        return Ok((None, Externs::default()));
    };
    let (btf, dummy) = add_dummy_ksym(btf)?;
    let index = ExternTypes::new(&btf);
    let mut externs = Vec::new();
    for symbol in extern_symbols(file) {
        let name = symbol.name;
        let Some(&id) = index.by_name.get(name) else {
            fail!("symbol '{name}': extern without BTF")
        };
        let section = index
            .section_of
            .get(&id)
            .map_or("", |&section| btf.name(section));
        let Some(ty) = btf.type_by_id(id) else {
            fail!("symbol '{name}': extern without BTF")
        };
        let (kind, config) = match section {
            ".kconfig" => config_extern(&btf, &ty)?,
            ".ksyms" => (symbol_kind(&btf, &ty), None),
            other => {
                fail!("symbol '{name}': extern in section '{other}', expected .kconfig or .ksyms")
            }
        };
        let spec = ExternSpec {
            name: name.to_string(),
            is_weak: symbol.bind == STB_WEAK,
            btf_id: id,
            kind,
        };
        externs.push((spec, config));
    }
    if externs.is_empty() {
        return Ok((Some(btf), Externs::default()));
    }
    sort(&mut externs);
    let mut offset = 0u32;
    for (spec, config) in &mut externs {
        let (
            ExternKind::Kconfig {
                offset: at, size, ..
            },
            Some(config),
        ) = (&mut spec.kind, config)
        else {
            continue;
        };
        let rounded = offset.checked_next_multiple_of(config.align.max(1));
        let end = rounded.and_then(|start| start.checked_add(config.size));
        let (Some(start), Some(end @ ..=CONFIG_BYTES_MAX)) = (rounded, end) else {
            fail!(
                "symbol '{}': .kconfig of more than {CONFIG_BYTES_MAX} bytes",
                spec.name
            )
        };
        (*at, *size, offset) = (start, config.size, end);
    }
    let externs = Externs {
        list: externs,
        config_bytes: offset,
    };
    let btf = rewrite_sections(btf, &externs, dummy)?;
    Ok((Some(btf), externs))
}

/// Most bytes of `.kconfig` values: far more than any configuration has, and little memory.
// DIVERGES: libbpf takes any size that it finds memory for.
const CONFIG_BYTES_MAX: u32 = 1 << 20;

/// The externs of an object, in libbpf's order.
#[derive(Default)]
pub(crate) struct Externs {
    list: Vec<(ExternSpec, Option<ConfigExtern>)>,
    config_bytes: u32,
}

impl Externs {
    /// Bytes of the `.kconfig` map, 0 if there is none.
    pub(crate) fn config_bytes(&self) -> u32 {
        self.config_bytes
    }

    pub(crate) fn specs(&self) -> impl Iterator<Item = &ExternSpec> {
        self.list.iter().map(|(spec, _)| spec)
    }

    /// Resolves configuration values: the bytes of the `.kconfig` map, and the externs with their state.
    pub(crate) fn resolve(
        self,
        config: &KernelConfig,
    ) -> Result<(Vec<u8>, Vec<ExternSpec>), ElfError> {
        let mut data = vec![0u8; self.config_bytes as usize];
        let mut specs = Vec::with_capacity(self.list.len());
        for (mut spec, config_extern) in self.list {
            if let (
                ExternKind::Kconfig {
                    offset,
                    size,
                    is_set,
                },
                Some(kind),
            ) = (&mut spec.kind, config_extern)
            {
                let (start, end) = (*offset as usize, *offset as usize + *size as usize);
                if let Some(slot) = data.get_mut(start..end) {
                    *is_set = set_value(&spec.name, slot, kind.value_kind, config)?;
                }
            }
            specs.push(spec);
        }
        Ok((data, specs))
    }
}

fn extern_symbols<'f, 'a>(
    file: &'f ElfFile<'a>,
) -> impl Iterator<Item = &'f crate::file::Symbol<'a>> {
    file.symbols.iter().filter(|symbol| {
        symbol.section == SHN_UNDEF as usize
            && matches!(symbol.bind, STB_GLOBAL | STB_WEAK)
            && symbol.kind == STT_NOTYPE
            && !symbol.name.is_empty()
    })
}

/// Extern variables and functions of a blob, and the data section of each.
struct ExternTypes<'a> {
    by_name: BTreeMap<&'a str, TypeId>,
    section_of: BTreeMap<TypeId, TypeId>,
}

impl<'a> ExternTypes<'a> {
    fn new(btf: &'a Btf) -> ExternTypes<'a> {
        let mut index = ExternTypes {
            by_name: BTreeMap::new(),
            section_of: BTreeMap::new(),
        };
        for ty in btf.types() {
            let is_extern = ty.var_linkage() == Some(VarLinkage::GlobalExtern)
                || ty.func_linkage() == Some(FuncLinkage::Extern);
            if is_extern {
                index.by_name.entry(ty.name()).or_insert(ty.id());
            }
            for var in ty.vars() {
                index.section_of.entry(var.ty).or_insert(ty.id());
            }
        }
        index
    }
}

fn symbol_kind(btf: &Btf, ty: &Type<'_>) -> ExternKind {
    match ty.kind() {
        Kind::Func => ExternKind::Func(ty.type_id()),
        _ => match btf.skip_mods_and_typedefs(ty.type_id()) {
            TypeId::VOID => ExternKind::Symbol,
            id => ExternKind::Var(id),
        },
    }
}

fn config_extern(btf: &Btf, ty: &Type<'_>) -> Result<(ExternKind, Option<ConfigExtern>), ElfError> {
    let (name, id) = (ty.name(), ty.type_id());
    let size = match btf.resolve_size(id) {
        Some(size) if size > 0 && ty.kind() == Kind::Var => size,
        _ => fail!("symbol '{name}': extern of unknown size in .kconfig"),
    };
    let Some((value_kind, align)) = value_kind(btf, id) else {
        fail!("symbol '{name}': type {id} is not one of a configuration value");
    };
    let kind = ExternKind::Kconfig {
        offset: 0,
        size,
        is_set: false,
    };
    Ok((
        kind,
        Some(ConfigExtern {
            value_kind,
            align,
            size,
        }),
    ))
}

fn value_kind(btf: &Btf, id: TypeId) -> Option<(ValueKind, u32)> {
    let name = btf.name(btf.skip_mods(id));
    let ty = btf.stripped(id)?;
    let (kind, size) = match ty.kind() {
        Kind::Int => {
            let encoding = ty.int()?.encoding;
            let kind = match ty.size() {
                1 if encoding.is_bool() => ValueKind::Bool,
                1 => ValueKind::Char,
                2 | 4 | 8 if !encoding.is_bool() => ValueKind::Int {
                    signed: encoding.is_signed(),
                },
                _ => return None,
            };
            (kind, ty.size())
        }
        Kind::Enum
            if ty.size() == 4 && (ty.name() == "libbpf_tristate" || name == "libbpf_tristate") =>
        {
            (ValueKind::Tristate, 4)
        }
        Kind::Array => {
            let array = ty.array()?;
            let elem = btf.stripped(array.elem)?;
            let is_char =
                elem.kind() == Kind::Int && elem.size() == 1 && !elem.int()?.encoding.is_bool();
            if array.nelems == 0 || !is_char {
                return None;
            }
            (ValueKind::Text, 1)
        }
        _ => return None,
    };
    Some((kind, size.min(8)))
}

/// Configuration values first, by falling alignment, size and name; then symbols by name.
fn sort(externs: &mut [(ExternSpec, Option<ConfigExtern>)]) {
    externs.sort_by(|(a, a_config), (b, b_config)| {
        let key = |config: &Option<ConfigExtern>| match config {
            Some(config) => (0, std::cmp::Reverse(config.align), config.size),
            None => (1, std::cmp::Reverse(0), 0),
        };
        key(a_config)
            .cmp(&key(b_config))
            .then_with(|| a.name.as_bytes().cmp(b.name.as_bytes()))
    });
}

/// `.kconfig` gets the offsets of its map; variables of `.ksyms` become integers, functions the dummy variable.
fn rewrite_sections(btf: Btf, externs: &Externs, dummy: Option<TypeId>) -> Result<Btf, ElfError> {
    let offsets: BTreeMap<&str, u32> = externs
        .specs()
        .filter_map(|spec| match spec.kind {
            ExternKind::Kconfig { offset, .. } => Some((spec.name.as_str(), offset)),
            _ => None,
        })
        .collect();
    let known: BTreeMap<&str, TypeId> = externs
        .specs()
        .map(|spec| (spec.name.as_str(), spec.btf_id))
        .collect();
    let mut edit = BtfEdit::new(btf.clone());
    let has = |config: bool| {
        externs
            .specs()
            .any(|spec| matches!(spec.kind, ExternKind::Kconfig { .. }) == config)
    };
    if let (Some(section), true) = (btf.find_by_name_kind(".kconfig", Kind::Datasec), has(true)) {
        edit.set(section, Word::SizeOrType, externs.config_bytes());
        for (index, var) in btf
            .type_by_id(section)
            .iter()
            .flat_map(|section| section.vars())
            .enumerate()
        {
            let Some(&offset) = offsets.get(btf.name(var.ty)) else {
                fail!(
                    "btf: section '.kconfig': no symbol for variable '{}'",
                    btf.name(var.ty)
                )
            };
            edit.set(var.ty, Word::Tail(0), VarLinkage::GlobalAllocated.raw());
            edit.set(section, Word::Tail(index as u32 * 3 + 1), offset);
        }
    }
    if let (Some(section), true) = (btf.find_by_name_kind(".ksyms", Kind::Datasec), has(false)) {
        let int = int_id(&btf);
        let dummy_name = dummy
            .and_then(|dummy| btf.type_by_id(dummy))
            .map_or(0, |dummy| dummy.name_off());
        let mut bytes = 0u32;
        for (index, var) in btf
            .type_by_id(section)
            .iter()
            .flat_map(|section| section.vars())
            .enumerate()
        {
            let Some(ty) = btf
                .type_by_id(var.ty)
                .filter(|ty| known.get(ty.name()) == Some(&ty.id()))
            else {
                fail!(
                    "btf: section '.ksyms': no symbol for '{}'",
                    btf.name(var.ty)
                )
            };
            let at = index as u32 * 3;
            if ty.kind() == Kind::Func {
                name_params(&mut edit, ty.type_id(), dummy_name);
                edit.set(section, Word::Tail(at), dummy.unwrap_or(TypeId::VOID).0);
                edit.set(
                    ty.id(),
                    Word::Info,
                    (Kind::Func as u32) << 24 | FuncLinkage::Global as u32,
                );
            } else {
                edit.set(ty.id(), Word::Tail(0), VarLinkage::GlobalAllocated.raw());
                edit.set(ty.id(), Word::SizeOrType, int.0);
            }
            edit.set(section, Word::Tail(at + 1), bytes);
            edit.set(section, Word::Tail(at + 2), 4);
            bytes = bytes.saturating_add(4);
        }
        edit.set(section, Word::SizeOrType, bytes);
    }
    edit.finish()
}

/// Parameters of a global function need names: those without get the dummy's.
fn name_params(edit: &mut BtfEdit, proto: TypeId, name_off: u32) {
    let btf = edit.btf().clone();
    for (index, param) in btf
        .type_by_id(proto)
        .iter()
        .flat_map(|proto| proto.params())
        .enumerate()
    {
        if !param.ty.is_void() && param.name_off == 0 {
            edit.set(proto, Word::Tail(index as u32 * 2), name_off);
        }
    }
}

/// Writes the value of a configuration extern; is there one?
fn set_value(
    name: &str,
    slot: &mut [u8],
    kind: ValueKind,
    config: &KernelConfig,
) -> Result<bool, ElfError> {
    let number = match name {
        "LINUX_KERNEL_VERSION" => u64::from(config.version_code()),
        // Both are facts of 6.18 on x86-64.
        "LINUX_HAS_BPF_COOKIE" | "LINUX_HAS_SYSCALL_WRAPPER" => 1,
        _ => {
            let Some(text) = config.options.get(name) else {
                return Ok(false);
            };
            return set_option(name, slot, kind, text).map(|()| true);
        }
    };
    let fits = match kind {
        ValueKind::Int { .. } => set_number(slot, number, false),
        ValueKind::Bool => set_number(slot, number, false),
        ValueKind::Char | ValueKind::Tristate | ValueKind::Text => false,
    };
    if !fits {
        fail!("symbol '{name}': value {number} does not fit its type");
    }
    Ok(true)
}

fn set_option(name: &str, slot: &mut [u8], kind: ValueKind, text: &str) -> Result<(), ElfError> {
    let mismatch = || {
        ElfError::new(format!(
            "symbol '{name}': value {text} does not fit its type"
        ))
    };
    match (text, kind) {
        ("y" | "n" | "m", _) => {
            let value = match (kind, text) {
                (ValueKind::Bool, "y") | (ValueKind::Tristate, "y") => 1,
                (ValueKind::Bool, "n") | (ValueKind::Tristate, "n") => 0,
                (ValueKind::Tristate, _) => 2,
                (ValueKind::Char, _) => u64::from(text.as_bytes()[0]),
                _ => return Err(mismatch()),
            };
            set_number(slot, value, false)
                .then_some(())
                .ok_or_else(mismatch)
        }
        (_, ValueKind::Text) => {
            let inner = text
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                .ok_or_else(mismatch)?;
            let len = inner.len().min(slot.len() - 1);
            slot[..len].copy_from_slice(&inner.as_bytes()[..len]);
            Ok(())
        }
        (_, ValueKind::Int { signed }) => {
            let (negative, digits) = match text.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, text),
            };
            let value = match digits
                .strip_prefix("0x")
                .or_else(|| digits.strip_prefix("0X"))
            {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => digits.parse(),
            }
            .map_err(|_| mismatch())?;
            if negative && !signed {
                return Err(mismatch());
            }
            let value = if negative {
                value.wrapping_neg()
            } else {
                value
            };
            set_number(slot, value, signed)
                .then_some(())
                .ok_or_else(mismatch)
        }
        _ => Err(mismatch()),
    }
}

/// Stores a number of the slot's width, if it fits.
fn set_number(slot: &mut [u8], value: u64, signed: bool) -> bool {
    let bits = slot.len() as u32 * 8;
    let fits = match (bits, signed) {
        (64.., _) => bits == 64,
        (_, false) => value >> bits == 0,
        (_, true) => {
            let value = value as i64;
            value >> (bits - 1) == 0 || value >> (bits - 1) == -1
        }
    };
    if fits {
        slot.copy_from_slice(&value.to_le_bytes()[..slot.len()]);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_fit_their_type_or_are_refused() {
        let mut slot = [0u8; 4];
        assert!(set_option("C", &mut slot, ValueKind::Tristate, "m").is_ok());
        assert_eq!(slot, [2, 0, 0, 0]);
        assert!(set_option("C", &mut slot[..1], ValueKind::Bool, "m").is_err());
        assert!(set_option("C", &mut slot, ValueKind::Int { signed: true }, "-2").is_ok());
        assert_eq!(slot, [0xfe, 0xff, 0xff, 0xff]);
        assert!(set_option("C", &mut slot, ValueKind::Int { signed: false }, "-2").is_err());
        assert!(
            set_option(
                "C",
                &mut slot[..2],
                ValueKind::Int { signed: false },
                "65536"
            )
            .is_err()
        );
        assert!(
            set_option(
                "C",
                &mut slot[..2],
                ValueKind::Int { signed: false },
                "0xffff"
            )
            .is_ok()
        );
        let mut text = [0u8; 4];
        assert!(set_option("C", &mut text, ValueKind::Text, "\"abcdef\"").is_ok());
        assert_eq!(&text, b"abc\0");
        assert!(set_option("C", &mut text, ValueKind::Text, "12").is_err());
    }

    #[test]
    fn config_text_is_read() {
        let options = KernelConfig::parse_options(
            "# no\nCONFIG_HZ=1000\nCONFIG_X=y\n# CONFIG_Y is not set\n",
        );
        assert_eq!(options.get("CONFIG_HZ").map(String::as_str), Some("1000"));
        assert_eq!(options.len(), 2);
        assert_eq!(KernelConfig::default().version_code(), 0x061200);
    }
}
