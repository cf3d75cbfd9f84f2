//! Functions of executable sections, each with its instructions, relocations and debug records, before they are joined
//! to programs (`link`).

use crate::error::fail;
use crate::file::{ElfFile, Section, Symbol};
use crate::maps::{Maps, Place};
use crate::{ElfError, ExternSpec};
use goblin::elf::section_header::SHT_PROGBITS;
use goblin::elf::sym::{STB_GLOBAL, STB_LOCAL, STB_WEAK, STT_FUNC, STT_NOTYPE, STT_SECTION};
use ring3_btf::{BtfExt, CoreRelo, FuncInfo, LineInfo};
use ring3_isa::RawInsn;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of an instruction slot.
const SLOT_BYTES: u64 = 8;
/// `call` of a relative function: opcode and source register.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
/// Source register of a 64-bit load of a function's address.
pub(crate) const PSEUDO_FUNC: u8 = 4;

/// A function: a symbol of an executable section.
pub(crate) struct Func<'a> {
    pub(crate) name: &'a str,
    pub(crate) section: &'a str,
    pub(crate) is_text: bool,
    /// a global symbol with restricted visibility
    pub(crate) is_restricted: bool,
    /// instruction slots in its section
    pub(crate) slots: Range<usize>,
    pub(crate) insns: Vec<RawInsn>,
    /// by instruction
    pub(crate) relos: Vec<Relo>,
    /// records; offsets are slots in the section
    pub(crate) func_info: Vec<FuncInfo>,
    pub(crate) line_info: Vec<LineInfo>,
    pub(crate) core_relos: Vec<CoreRelo>,
}

/// A relocation of one instruction of a function.
#[derive(Clone, Copy)]
pub(crate) struct Relo {
    /// slot in the function
    pub(crate) insn: usize,
    pub(crate) target: Target,
}

/// What a relocation leads to.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Map(usize),
    /// byte of a map's first value, to which the instruction adds its immediate
    Data {
        map: usize,
        offset: u64,
    },
    ExternAddr(usize),
    ExternCall(usize),
    /// call into `.text`: slot of the symbol
    Call {
        base: u64,
    },
    /// address of a function of `.text`: byte of the symbol
    FuncAddr {
        offset: u64,
    },
}

/// All functions, those of one section together, by offset.
pub(crate) struct Funcs<'a> {
    pub(crate) list: Vec<Func<'a>>,
    text: Range<usize>,
}

impl<'a> Funcs<'a> {
    pub(crate) fn collect(file: &ElfFile<'a>) -> Result<Funcs<'a>, ElfError> {
        let mut by_section: BTreeMap<usize, Vec<&Symbol<'a>>> = BTreeMap::new();
        for symbol in file.symbols.iter().filter(|symbol| symbol.kind == STT_FUNC) {
            by_section.entry(symbol.section).or_default().push(symbol);
        }
        let mut funcs = Funcs {
            list: Vec::new(),
            text: 0..0,
        };
        for section in &file.sections {
            if section.sh_type != SHT_PROGBITS || !section.is_exec || section.size == 0 {
                continue;
            }
            let first = funcs.list.len();
            let mut symbols = by_section.remove(&section.index).unwrap_or_default();
            symbols.sort_by_key(|symbol| symbol.value);
            for symbol in symbols {
                let func = read_function(section, symbol)?;
                match funcs.list.last().filter(|_| funcs.list.len() > first) {
                    Some(last) if last.slots.end > func.slots.start => {
                        fail!(
                            "section '{}': '{}' overlaps '{}'",
                            section.name,
                            func.name,
                            last.name
                        )
                    }
                    _ => funcs.list.push(func),
                }
            }
            if section.name == ".text" {
                funcs.text = first..funcs.list.len();
            }
        }
        Ok(funcs)
    }

    /// The function of `.text` that holds this slot of the section.
    pub(crate) fn in_text(&self, slot: u64) -> Option<usize> {
        let text = self.list.get(self.text.clone())?;
        let slot = usize::try_from(slot).ok()?;
        let at = text
            .partition_point(|func| func.slots.start <= slot)
            .checked_sub(1)?;
        text[at]
            .slots
            .contains(&slot)
            .then_some(self.text.start + at)
    }

    /// The function with this name.
    pub(crate) fn by_name(&self) -> BTreeMap<&'a str, usize> {
        self.list
            .iter()
            .enumerate()
            .map(|(index, func)| (func.name, index))
            .collect()
    }

    /// Gives each function the records of its slots.
    pub(crate) fn add_debug_records(&mut self, ext: &BtfExt) -> Result<(), ElfError> {
        let mut by_section: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, func) in self.list.iter().enumerate() {
            by_section.entry(func.section).or_default().push(index);
        }
        let list = &mut self.list;
        for section in &ext.func_info {
            spread(
                &by_section,
                list,
                section,
                |record| &mut record.insn_off,
                |func| &mut func.func_info,
            )?;
        }
        for section in &ext.line_info {
            spread(
                &by_section,
                list,
                section,
                |record| &mut record.insn_off,
                |func| &mut func.line_info,
            )?;
        }
        for section in &ext.core_relo {
            spread(
                &by_section,
                list,
                section,
                |record| &mut record.insn_off,
                |func| &mut func.core_relos,
            )?;
        }
        Ok(())
    }

    /// Resolves the relocations of every function.
    pub(crate) fn add_relocs(
        &mut self,
        file: &ElfFile<'_>,
        maps: &Maps,
        externs: &[ExternSpec],
    ) -> Result<(), ElfError> {
        let extern_index: BTreeMap<&str, usize> = externs
            .iter()
            .enumerate()
            .map(|(index, spec)| (spec.name.as_str(), index))
            .collect();
        let text = file.section(".text").map(|section| section.index);
        let mut by_section: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, func) in self.list.iter().enumerate() {
            by_section.entry(func.section).or_default().push(index);
        }
        for section in file.sections.iter().filter(|section| section.is_exec) {
            for reloc in &section.relocs {
                let Some(symbol) = file.symbol(reloc) else {
                    continue;
                };
                if !reloc.offset.is_multiple_of(SLOT_BYTES) {
                    fail!(
                        "section '{}': relocation at {} is not at an instruction",
                        section.name,
                        reloc.offset
                    );
                }
                let slot = (reloc.offset / SLOT_BYTES) as usize;
                let holder = by_section
                    .get(section.name)
                    .and_then(|list| find_slot(&self.list, list, slot));
                let Some(func) = holder.map(|index| &mut self.list[index]) else {
                    fail!(
                        "section '{}': relocation at {} is in no function",
                        section.name,
                        reloc.offset
                    )
                };
                let insn = slot - func.slots.start;
                let target = resolve(file, maps, &extern_index, text, symbol, &func.insns[insn])
                    .map_err(|error| {
                        ElfError::new(format!(
                            "function '{}' instruction {insn}: {error}",
                            func.name
                        ))
                    })?;
                func.relos.push(Relo { insn, target });
            }
        }
        for func in &mut self.list {
            func.relos.sort_by_key(|relo| relo.insn);
            func.relos.dedup_by_key(|relo| relo.insn);
        }
        Ok(())
    }
}

fn read_function<'a>(section: &Section<'a>, symbol: &Symbol<'a>) -> Result<Func<'a>, ElfError> {
    let (name, start) = (symbol.name, symbol.value);
    let Some(end) = start
        .checked_add(symbol.size)
        .filter(|&end| end <= section.data.len() as u64)
    else {
        fail!(
            "section '{}': function '{name}' at {start} of {} bytes ends outside",
            section.name,
            symbol.size
        )
    };
    if !start.is_multiple_of(SLOT_BYTES)
        || !symbol.size.is_multiple_of(SLOT_BYTES)
        || symbol.size == 0
    {
        fail!(
            "section '{}': function '{name}' at {start} of {} bytes",
            section.name,
            symbol.size
        );
    }
    let is_text = section.name == ".text";
    if !is_text && symbol.bind == STB_LOCAL {
        fail!(
            "section '{}': program '{name}' is static and not supported",
            section.name
        );
    }
    if name.is_empty() {
        fail!(
            "section '{}': function without a name at {start}",
            section.name
        );
    }
    let bytes = &section.data[start as usize..end as usize];
    let insns = bytes
        .chunks_exact(8)
        .map(|slot| {
            RawInsn::from_bytes([
                slot[0], slot[1], slot[2], slot[3], slot[4], slot[5], slot[6], slot[7],
            ])
        })
        .collect();
    Ok(Func {
        name,
        section: section.name,
        is_text,
        is_restricted: symbol.is_restricted(),
        slots: (start / SLOT_BYTES) as usize..(end / SLOT_BYTES) as usize,
        insns,
        relos: Vec::new(),
        func_info: Vec::new(),
        line_info: Vec::new(),
        core_relos: Vec::new(),
    })
}

fn find_slot(funcs: &[Func<'_>], of_section: &[usize], slot: usize) -> Option<usize> {
    let at = of_section
        .partition_point(|&index| funcs[index].slots.start <= slot)
        .checked_sub(1)?;
    funcs[of_section[at]]
        .slots
        .contains(&slot)
        .then_some(of_section[at])
}

/// Hands the records of a section to its functions; records of no function (of a weak one that lost) are dropped.
fn spread<T: Copy>(
    by_section: &BTreeMap<&str, Vec<usize>>,
    funcs: &mut [Func<'_>],
    records: &ring3_btf::ext::SectionRecords<T>,
    offset: fn(&mut T) -> &mut u32,
    list: for<'f, 'a> fn(&'f mut Func<'a>) -> &'f mut Vec<T>,
) -> Result<(), ElfError> {
    let Some(of_section) = by_section.get(records.section.as_str()) else {
        return Ok(());
    };
    let mut sorted = records.records.clone();
    for record in &mut sorted {
        let bytes = offset(record);
        if !bytes.is_multiple_of(8) {
            fail!(
                ".BTF.ext: section '{}' has a record at byte {bytes}",
                records.section
            );
        }
        *bytes /= 8;
    }
    sorted.sort_by_key(|record| *offset(&mut record.clone()));
    for mut record in sorted {
        let slot = *offset(&mut record) as usize;
        if let Some(index) = find_slot(funcs, of_section, slot) {
            list(&mut funcs[index]).push(record);
        }
    }
    Ok(())
}

/// What the symbol of a relocation is to the instruction it stands on.
fn resolve(
    file: &ElfFile<'_>,
    maps: &Maps,
    externs: &BTreeMap<&str, usize>,
    text: Option<usize>,
    symbol: &Symbol<'_>,
    insn: &RawInsn,
) -> Result<Target, ElfError> {
    let name = match symbol.name {
        "" => file
            .sections
            .get(symbol.section)
            .map_or("", |section| section.name),
        name => name,
    };
    let is_call = insn.code == CALL;
    if !is_call && !insn.is_ld_imm64() {
        fail!("relocation against '{name}' on opcode {:#x}", insn.code);
    }
    if symbol.section == 0 {
        let is_extern = symbol.kind == STT_NOTYPE && matches!(symbol.bind, STB_GLOBAL | STB_WEAK);
        return match externs.get(symbol.name).filter(|_| is_extern) {
            Some(&ext) if is_call => Ok(Target::ExternCall(ext)),
            Some(&ext) => Ok(Target::ExternAddr(ext)),
            None => fail!("extern '{name}' is not declared in BTF"),
        };
    }
    if symbol.section >= file.sections.len() {
        fail!("symbol '{name}' in section {:#x}", symbol.section);
    }
    let in_text = Some(symbol.section) == text;
    if is_call {
        if insn.src() != PSEUDO_CALL {
            fail!(
                "call of '{name}' with source register {}, expected {PSEUDO_CALL}",
                insn.src()
            );
        }
        if !in_text {
            fail!(
                "call of '{name}' in section '{}', expected .text",
                file.sections[symbol.section].name
            );
        }
        if !symbol.value.is_multiple_of(SLOT_BYTES) {
            fail!("call of '{name}' at byte {}", symbol.value);
        }
        return Ok(Target::Call {
            base: symbol.value / SLOT_BYTES,
        });
    }
    let is_subprog = in_text && matches!(symbol.kind, STT_SECTION | STT_FUNC);
    if is_subprog {
        if !symbol.value.is_multiple_of(SLOT_BYTES)
            || !insn.imm.unsigned_abs().is_multiple_of(SLOT_BYTES as u32)
        {
            fail!(
                "address of '{name}' at byte {} + {}",
                symbol.value,
                insn.imm
            );
        }
        return Ok(Target::FuncAddr {
            offset: symbol.value,
        });
    }
    match maps.place(symbol.section, symbol.value) {
        Some(Place::Map(map)) => Ok(Target::Map(map)),
        Some(Place::Data(map)) => Ok(Target::Data {
            map,
            offset: symbol.value,
        }),
        None if Maps::is_map_section(file, symbol.section) => {
            fail!(
                "'{name}' at {} is no map of section '{}'",
                symbol.value,
                file.sections[symbol.section].name
            )
        }
        None => fail!(
            "'{name}' in section '{}', which is neither maps nor data",
            file.sections[symbol.section].name
        ),
    }
}
