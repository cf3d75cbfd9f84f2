//! `ElfFile`: header, sections, symbols and relocations of a BPF object, bounded and borrowed. goblin reads the
//! structures; this file decides which files are BPF objects.

use crate::ElfError;
use crate::error::fail;
use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_BPF, EM_NONE, ET_REL};
use goblin::elf::section_header::{SHF_EXECINSTR, SHT_NOBITS, SHT_REL, SHT_RELA, SHT_SYMTAB};
use goblin::elf::{Elf, RelocSection, SectionHeader, Symtab};

/// Longest section or symbol name.
const NAME_BYTES_MAX: usize = 4096;
/// Largest section without bytes in the file; the kernel's maps could not be larger.
const NOBITS_BYTES_MAX: u64 = 1 << 30;

/// A BPF object file.
pub(crate) struct ElfFile<'a> {
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol<'a>>,
}

/// A section; index 0 is the null section.
pub(crate) struct Section<'a> {
    pub(crate) index: usize,
    pub(crate) name: &'a str,
    pub(crate) sh_type: u32,
    pub(crate) is_exec: bool,
    /// bytes in memory
    pub(crate) size: u64,
    /// bytes in the file, empty for a section without bits
    pub(crate) data: &'a [u8],
    /// relocations that apply to this section, in the order of the file
    pub(crate) relocs: Vec<Reloc>,
}

/// A symbol; index 0 is the null symbol.
#[derive(Clone, Copy)]
pub(crate) struct Symbol<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: u64,
    pub(crate) size: u64,
    pub(crate) section: usize,
    pub(crate) bind: u8,
    pub(crate) kind: u8,
    pub(crate) visibility: u8,
}

/// A relocation without addend (what LLVM writes for BPF).
#[derive(Clone, Copy)]
pub(crate) struct Reloc {
    pub(crate) offset: u64,
    pub(crate) symbol: usize,
}

impl Symbol<'_> {
    /// A global or weak symbol whose visibility is hidden or internal.
    pub(crate) fn is_restricted(&self) -> bool {
        use goblin::elf::sym::{STB_LOCAL, STV_HIDDEN, STV_INTERNAL};
        self.bind != STB_LOCAL && matches!(self.visibility, STV_HIDDEN | STV_INTERNAL)
    }
}

impl<'a> ElfFile<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<ElfFile<'a>, ElfError> {
        let header = match Elf::parse_header(bytes) {
            Ok(header) => header,
            Err(error) => fail!("elf: {error}"),
        };
        if header.e_ident[EI_CLASS] != ELFCLASS64 {
            fail!("elf: class {}, expected 64-bit", header.e_ident[EI_CLASS]);
        }
        if header.e_ident[EI_DATA] != ELFDATA2LSB {
            fail!(
                "elf: data encoding {}, expected little-endian",
                header.e_ident[EI_DATA]
            );
        }
        if header.e_type != ET_REL {
            fail!(
                "elf: type {}, expected a relocatable object ({ET_REL})",
                header.e_type
            );
        }
        if header.e_machine != EM_BPF && header.e_machine != EM_NONE {
            fail!("elf: machine {}, expected BPF ({EM_BPF})", header.e_machine);
        }
        let ctx = Ctx::new(Container::Big, Endian::Little);
        let count = usize::from(header.e_shnum);
        if header.e_shoff == 0 || count == 0 {
            fail!("elf: no section headers");
        }
        if usize::from(header.e_shentsize) != SectionHeader::size(ctx) {
            fail!(
                "elf: section headers of {} bytes, expected {}",
                header.e_shentsize,
                SectionHeader::size(ctx)
            );
        }
        let table_end = usize::try_from(header.e_shoff)
            .ok()
            .and_then(|start| start.checked_add(count.checked_mul(SectionHeader::size(ctx))?));
        if table_end.is_none_or(|end| end > bytes.len()) {
            fail!(
                "elf: {count} section headers at {} end outside of the file",
                header.e_shoff
            );
        }
        let headers = match SectionHeader::parse(bytes, header.e_shoff as usize, count, ctx) {
            Ok(headers) => headers,
            Err(error) => fail!("elf: section headers: {error}"),
        };
        let names = match headers.get(usize::from(header.e_shstrndx)) {
            Some(names) => section_data(bytes, names, "section names")?,
            None => fail!(
                "elf: section name table {} of {count} sections",
                header.e_shstrndx
            ),
        };
        let mut sections = Vec::with_capacity(headers.len());
        for (index, header) in headers.iter().enumerate() {
            let name = string(names, header.sh_name).ok_or_else(|| {
                ElfError::new(format!("section {index}: no name at {}", header.sh_name))
            })?;
            let data = match header.sh_type {
                goblin::elf::section_header::SHT_NULL => &[],
                SHT_NOBITS if header.sh_size > NOBITS_BYTES_MAX => {
                    fail!(
                        "section '{name}': {} bytes, at most {NOBITS_BYTES_MAX}",
                        header.sh_size
                    )
                }
                SHT_NOBITS => &[],
                _ => section_data(bytes, header, name)?,
            };
            sections.push(Section {
                index,
                name,
                sh_type: header.sh_type,
                is_exec: header.sh_flags & u64::from(SHF_EXECINSTR) != 0,
                size: header.sh_size,
                data,
                relocs: Vec::new(),
            });
        }
        // What follows copies sections; overlapping ones could multiply the size of the file.
        let held = sections.iter().fold(0usize, |sum, section| {
            sum.saturating_add(section.data.len())
        });
        if held > bytes.len() {
            fail!(
                "elf: sections overlap: they hold {held} bytes in a file of {}",
                bytes.len()
            );
        }
        let symbols = parse_symbols(bytes, &headers, &sections, ctx)?;
        parse_relocs(bytes, &headers, &mut sections, symbols.len(), ctx)?;
        Ok(ElfFile { sections, symbols })
    }

    /// The first section with this name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections
            .iter()
            .skip(1)
            .find(|section| section.name == name)
    }

    /// The symbol of a relocation.
    pub(crate) fn symbol(&self, reloc: &Reloc) -> Option<&Symbol<'a>> {
        self.symbols.get(reloc.symbol)
    }
}

fn section_data<'a>(
    bytes: &'a [u8],
    header: &SectionHeader,
    name: &str,
) -> Result<&'a [u8], ElfError> {
    let range = || {
        let start = usize::try_from(header.sh_offset).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(header.sh_size).ok()?)?)
    };
    range().ok_or_else(|| {
        ElfError::new(format!(
            "section '{name}': {} bytes at {} end outside of the file",
            header.sh_size, header.sh_offset
        ))
    })
}

fn string(table: &[u8], offset: usize) -> Option<&str> {
    let rest = table.get(offset..)?;
    let rest = &rest[..rest.len().min(NAME_BYTES_MAX)];
    let end = rest.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn parse_symbols<'a>(
    bytes: &'a [u8],
    headers: &[SectionHeader],
    sections: &[Section<'a>],
    ctx: Ctx,
) -> Result<Vec<Symbol<'a>>, ElfError> {
    let mut tables = headers
        .iter()
        .enumerate()
        .filter(|(_, header)| header.sh_type == SHT_SYMTAB);
    let Some((index, header)) = tables.next() else {
        fail!("elf: no symbol table")
    };
    if let Some((second, _)) = tables.next() {
        fail!("elf: symbol tables in sections {index} and {second}, expected one");
    }
    let Some(strings) = sections.get(header.sh_link as usize) else {
        fail!(
            "section '{}': string table {} of {} sections",
            sections[index].name,
            header.sh_link,
            sections.len()
        );
    };
    let count = sections[index].data.len() / 24;
    let table = match Symtab::parse(bytes, header.sh_offset as usize, count, ctx) {
        Ok(table) => table,
        Err(error) => fail!("section '{}': {error}", sections[index].name),
    };
    let mut symbols = Vec::with_capacity(count);
    for sym in table.iter() {
        let kind = sym.st_type();
        let section = sym.st_shndx;
        let name = match string(strings.data, sym.st_name) {
            Some(name) => name,
            None => fail!("symbol {}: no name at {}", symbols.len(), sym.st_name),
        };
        symbols.push(Symbol {
            name,
            value: sym.st_value,
            size: sym.st_size,
            section,
            bind: sym.st_bind(),
            kind,
            visibility: sym.st_visibility(),
        });
    }
    Ok(symbols)
}

fn parse_relocs(
    bytes: &[u8],
    headers: &[SectionHeader],
    sections: &mut [Section<'_>],
    symbols: usize,
    ctx: Ctx,
) -> Result<(), ElfError> {
    // Each relocation section is read once, and debug information's is not read at all.
    for (index, header) in headers.iter().enumerate() {
        if header.sh_type != SHT_REL && header.sh_type != SHT_RELA {
            continue;
        }
        let target = header.sh_info as usize;
        let name = sections[index].name;
        if target == 0 || target >= sections.len() {
            fail!(
                "section '{name}': relocates section {target} of {}",
                sections.len()
            );
        }
        if sections[target].name.starts_with(".debug_") || sections[target].name.starts_with(".BTF")
        {
            continue;
        }
        if header.sh_type == SHT_RELA {
            if sections[target].is_exec {
                fail!("section '{name}': relocations with addends are not supported");
            }
            continue;
        }
        if !sections[index].data.len().is_multiple_of(16) {
            fail!(
                "section '{name}': {} bytes, expected relocations of 16 bytes",
                sections[index].data.len()
            );
        }
        let table = match RelocSection::parse(
            bytes,
            header.sh_offset as usize,
            header.sh_size as usize,
            false,
            ctx,
        ) {
            Ok(table) => table,
            Err(error) => fail!("section '{name}': {error}"),
        };
        for reloc in table.iter() {
            if reloc.r_sym >= symbols {
                fail!(
                    "section '{name}': relocation at {} names symbol {} of {symbols}",
                    reloc.r_offset,
                    reloc.r_sym
                );
            }
            sections[target].relocs.push(Reloc {
                offset: reloc.r_offset,
                symbol: reloc.r_sym,
            });
        }
    }
    Ok(())
}
