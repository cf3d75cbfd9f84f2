//! From the bytes of an object to an [`ObjectSpec`]: the steps, in the order libbpf takes them.

use crate::btf_fixup;
use crate::error::fail;
use crate::externs::{self, KernelConfig};
use crate::file::{ElfFile, Symbol};
use crate::funcs::Funcs;
use crate::link::{Linker, SlotBudget, join};
use crate::maps::{Maps, object_name};
use crate::struct_ops;
use crate::{ElfError, ObjectSpec};
use ring3_btf::{Btf, BtfExt, FuncLinkage, Kind};
use std::collections::BTreeMap;

/// Bytes of a license that libbpf keeps.
const LICENSE_BYTES_MAX: usize = 63;

/// What parsing may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// values of `__kconfig` externs
    pub config: KernelConfig,
}

impl ObjectSpec {
    /// Parses an object; `file_name` gives its maps' prefix. Configuration externs see Linux 6.18.0 without options.
    ///
    /// # Errors
    /// One line that names the section or symbol and the value: not a BPF object, or one that libbpf refuses.
    pub fn parse(bytes: &[u8], file_name: &str) -> Result<ObjectSpec, ElfError> {
        Self::parse_with(bytes, file_name, &ParseOptions::default())
    }

    /// Parses an object with options.
    ///
    /// # Errors
    /// As [`ObjectSpec::parse`].
    pub fn parse_with(
        bytes: &[u8],
        file_name: &str,
        options: &ParseOptions,
    ) -> Result<ObjectSpec, ElfError> {
        let file = ElfFile::parse(bytes)?;
        let name = object_name(file_name);
        let (license, kern_version) = (license(&file)?, version(&file)?);
        let raw_btf = match file.section(".BTF") {
            Some(section) => Some(Btf::parse(section.data)?),
            None => None,
        };
        let ext = match (file.section(".BTF.ext"), &raw_btf) {
            (Some(section), Some(btf)) => BtfExt::parse(section.data, btf)?,
            _ => BtfExt::default(),
        };
        let mut funcs = Funcs::collect(&file)?;
        let (btf, externs) = externs::collect(&file, raw_btf)?;
        let btf = btf.map(|btf| finish_btf(btf, &file, &funcs)).transpose()?;
        let mut maps = Maps::collect(&file, btf.as_ref(), name, externs.config_bytes())?;
        let (config_data, externs) = externs.resolve(&options.config)?;
        if let Some(map) = maps.config.and_then(|index| maps.specs.get_mut(index)) {
            map.data = Some(config_data);
        }
        funcs.add_debug_records(&ext)?;
        funcs.add_relocs(&file, &maps, &externs)?;

        let entries: Vec<usize> = (0..funcs.list.len())
            .filter(|&index| !funcs.list[index].is_text)
            .collect();
        let prog_by_name: BTreeMap<&str, usize> = entries
            .iter()
            .enumerate()
            .map(|(prog, &func)| (funcs.list[func].name, prog))
            .collect();
        let prog_of = |symbol: &Symbol<'_>| prog_by_name.get(symbol.name).copied();
        maps.fill_slots(&file, prog_of)?;
        struct_ops::add_maps(&mut maps, &file, btf.as_ref(), prog_of)?;

        let callbacks = exception_callbacks(btf.as_ref(), &funcs)?;
        let mut linker = Linker {
            funcs: &funcs,
            externs: &externs,
            config_map: maps.config,
            budget: SlotBudget::new(&funcs),
        };
        let mut progs = Vec::with_capacity(entries.len());
        for entry in entries {
            let callback = callbacks.get(funcs.list[entry].name).copied();
            progs.push(join(&mut linker, entry, callback)?);
        }
        Ok(ObjectSpec {
            name: name.to_string(),
            license,
            kern_version,
            btf,
            maps: maps.specs,
            progs,
            externs,
        })
    }
}

/// The types in the `.BTF` section of any ELF file, such as a kernel image or a host application's own executable.
///
/// # Errors
/// No ELF file, no such section, or no BTF in it.
pub fn read_btf(bytes: &[u8]) -> Result<Btf, ElfError> {
    let elf = goblin::elf::Elf::parse(bytes)
        .map_err(|error| ElfError::new(format!("no ELF file: {error}")))?;
    let section = elf
        .section_headers
        .iter()
        .find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(".BTF"))
        .and_then(|header| header.file_range());
    match section.and_then(|range| bytes.get(range)) {
        Some(data) => Ok(Btf::parse(data)?),
        None => fail!("section '.BTF': not in the file"),
    }
}

fn license(file: &ElfFile<'_>) -> Result<String, ElfError> {
    let Some(section) = file.section("license") else {
        return Ok(String::new());
    };
    let text = section.data.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let text = &text[..text.len().min(LICENSE_BYTES_MAX)];
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => fail!("section 'license': not UTF-8"),
    }
}

fn version(file: &ElfFile<'_>) -> Result<u32, ElfError> {
    match file.section("version").map(|section| section.data) {
        None => Ok(0),
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        Some(data) => fail!("section 'version': {} bytes, expected 4", data.len()),
    }
}

fn finish_btf(btf: Btf, file: &ElfFile<'_>, funcs: &Funcs<'_>) -> Result<Btf, ElfError> {
    let btf = btf_fixup::fix_datasecs(btf, file)?;
    let hidden: Vec<&str> = funcs
        .list
        .iter()
        .filter(|func| func.is_text && func.is_restricted)
        .map(|func| func.name)
        .collect();
    match hidden.is_empty() {
        true => Ok(btf),
        false => btf_fixup::mark_static(btf, hidden.into_iter()),
    }
}

/// The exception callback of each program that a declaration tag `exception_callback:NAME` names; none for a program
/// with two, which the verifier refuses.
fn exception_callbacks<'a>(
    btf: Option<&'a Btf>,
    funcs: &Funcs<'_>,
) -> Result<BTreeMap<&'a str, usize>, ElfError> {
    let mut callbacks: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    let by_name = funcs.by_name();
    for tag in btf
        .iter()
        .flat_map(|btf| btf.types())
        .filter(|ty| ty.component_idx() == Some(-1))
    {
        let Some(callback) = tag.name().strip_prefix("exception_callback:") else {
            continue;
        };
        let Some(func) = tag.referent().filter(|ty| ty.kind() == Kind::Func) else {
            fail!("tag '{}': not on a function", tag.name())
        };
        if func.func_linkage() != Some(FuncLinkage::Global) {
            fail!(
                "tag '{}': function '{}' is not global",
                tag.name(),
                func.name()
            );
        }
        let found = by_name
            .get(callback)
            .copied()
            .filter(|&index| funcs.list[index].is_text);
        match found {
            Some(index) if !funcs.list[index].is_restricted => {
                let slot = callbacks.entry(func.name()).or_insert(Some(index));
                if *slot != Some(index) {
                    *slot = None;
                }
            }
            Some(_) => fail!(
                "exception callback '{callback}' of '{}' is hidden",
                func.name()
            ),
            None => fail!(
                "exception callback '{callback}' of '{}': no such function in .text",
                func.name()
            ),
        }
    }
    Ok(callbacks
        .into_iter()
        .filter_map(|(name, callback)| Some((name, callback?)))
        .collect())
}
