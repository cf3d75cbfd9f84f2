//! Map definitions: variables of `.maps`, `struct bpf_map_def` of `maps`, and sections of global data.
//!
//! Where a symbol leads is remembered in [`Maps`]: a section and offset for a defined map, a section for global data.

use crate::error::fail;
use crate::file::{ElfFile, Section, Symbol};
use crate::map_def::{Depth, parse_definition};
use crate::spec::kernel_name;
use crate::{ElfError, MapOrigin, MapSpec, Pinning, SlotSpec};
use goblin::elf::section_header::{SHT_NOBITS, SHT_PROGBITS};
use goblin::elf::sym::{STT_FUNC, STT_OBJECT};
use ring3_btf::{Btf, Kind, Type, TypeId, VarLinkage};
use ring3_uapi::MapType;
use ring3_uapi::flags::map_create::{MMAPABLE, RDONLY_PROG};
use std::collections::BTreeMap;

/// Bytes of a name the kernel keeps, its NUL included.
const NAME_BYTES: usize = ring3_uapi::limits::OBJ_NAME_BYTES;

/// Map definitions and where symbols lead.
#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) specs: Vec<MapSpec>,
    /// (section, offset) of a defined map
    by_place: BTreeMap<(usize, u64), usize>,
    /// section of global data
    by_section: BTreeMap<usize, usize>,
    by_name: BTreeMap<String, usize>,
    /// the `.kconfig` map
    pub(crate) config: Option<usize>,
    /// arena map, and the section of its variables
    arena: Option<usize>,
    /// (section, offset, bytes, first slot) of `values` arrays
    values: Vec<Values>,
}

struct Values {
    map: usize,
    section: usize,
    first: u64,
    end: u64,
}

/// What an address in the object is.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// a map
    Map(usize),
    /// a byte of a map's first value
    Data(usize),
}

impl Maps {
    /// Collects all maps but those of `.struct_ops`, in libbpf's order.
    pub(crate) fn collect(
        file: &ElfFile<'_>,
        btf: Option<&Btf>,
        object: &str,
        config_bytes: u32,
    ) -> Result<Maps, ElfError> {
        let mut maps = Maps::default();
        if let Some(section) = file.section("maps") {
            maps.add_legacy(file, section)?;
        }
        if let Some(section) = file.section(".maps") {
            maps.add_btf_maps(file, section, btf)?;
        }
        maps.arena = maps
            .specs
            .iter()
            .position(|map| map.map_type == MapType::Arena.raw());
        for section in &file.sections {
            if let Some(origin) = global_data_origin(section) {
                maps.add_global_data(section.name, Some(section), origin, btf, object)?;
            } else if section.name.starts_with(".addr_space.1") && section.size > 0 {
                match maps.arena {
                    Some(arena) => drop(maps.by_section.insert(section.index, arena)),
                    None => fail!(
                        "section '{}': arena variables without an arena map",
                        section.name
                    ),
                }
            }
        }
        if config_bytes > 0 {
            maps.config = Some(maps.specs.len());
            maps.add_global_data(".kconfig", None, MapOrigin::Kconfig, btf, object)?;
            if let Some(spec) = maps.specs.last_mut() {
                spec.value_size = config_bytes;
            }
        }
        Ok(maps)
    }

    /// What a symbol's section and value lead to.
    pub(crate) fn place(&self, section: usize, value: u64) -> Option<Place> {
        match self.by_place.get(&(section, value)) {
            Some(&map) => Some(Place::Map(map)),
            None => self.by_section.get(&section).map(|&map| Place::Data(map)),
        }
    }

    /// Does this section hold map definitions?
    pub(crate) fn is_map_section(file: &ElfFile<'_>, section: usize) -> bool {
        file.sections
            .get(section)
            .is_some_and(|section| matches!(section.name, ".maps" | "maps"))
    }

    pub(crate) fn push(&mut self, spec: MapSpec, place: Option<(usize, u64)>) -> usize {
        let index = self.specs.len();
        if let Some(place) = place {
            self.by_place.entry(place).or_insert(index);
        }
        self.by_name.entry(spec.name.clone()).or_insert(index);
        self.specs.push(spec);
        index
    }

    /// First values of map slots that relocations of `.maps` give; `prog` finds an entry program by symbol.
    pub(crate) fn fill_slots(
        &mut self,
        file: &ElfFile<'_>,
        prog: impl Fn(&Symbol<'_>) -> Option<usize>,
    ) -> Result<(), ElfError> {
        let Some(section) = file.section(".maps") else {
            return Ok(());
        };
        self.values.sort_by_key(|values| values.first);
        for reloc in &section.relocs {
            let Some(symbol) = file.symbol(reloc) else {
                continue;
            };
            let at = self
                .values
                .partition_point(|values| values.first <= reloc.offset);
            let values = at.checked_sub(1).and_then(|at| self.values.get(at));
            let Some(values) = values
                .filter(|values| values.section == section.index && reloc.offset < values.end)
            else {
                fail!(
                    "section '.maps': relocation at {} is in no array of values",
                    reloc.offset
                )
            };
            let slot = match u32::try_from((reloc.offset - values.first) / 8) {
                Ok(slot) if (reloc.offset - values.first).is_multiple_of(8) => slot,
                _ => fail!(
                    "section '.maps': relocation at {} is not at a slot",
                    reloc.offset
                ),
            };
            let outer = &self.specs[values.map];
            let value = if outer.map_type == MapType::ProgArray.raw() {
                match prog(symbol).filter(|_| symbol.kind == STT_FUNC) {
                    Some(prog) => SlotSpec::Prog(prog),
                    None => fail!(
                        "map '{}': slot {slot} is no program: '{}'",
                        outer.name,
                        symbol.name
                    ),
                }
            } else {
                match self
                    .by_name
                    .get(symbol.name)
                    .filter(|_| symbol.section == section.index)
                {
                    Some(&inner) => SlotSpec::Map(inner),
                    None => fail!(
                        "map '{}': slot {slot} is no map: '{}'",
                        outer.name,
                        symbol.name
                    ),
                }
            };
            let slots = &mut self.specs[values.map].slots;
            slots.push((slot, value));
        }
        for spec in &mut self.specs {
            spec.slots.sort_by_key(|(slot, _)| *slot);
            spec.slots.dedup_by_key(|(slot, _)| *slot);
        }
        Ok(())
    }

    fn add_btf_maps(
        &mut self,
        file: &ElfFile<'_>,
        section: &Section<'_>,
        btf: Option<&Btf>,
    ) -> Result<(), ElfError> {
        let Some(btf) = btf else {
            fail!("section '.maps': map definitions without BTF")
        };
        let Some(datasec) = btf
            .find_by_name_kind(".maps", Kind::Datasec)
            .and_then(|id| btf.type_by_id(id))
        else {
            fail!("section '.maps': no such section in BTF")
        };
        for secinfo in datasec.vars() {
            let var = match btf.type_by_id(secinfo.ty) {
                Some(var) if var.kind() == Kind::Var => var,
                _ => fail!("section '.maps': type {} is not a variable", secinfo.ty),
            };
            let name = var.name();
            if name.is_empty() {
                fail!("section '.maps': map without a name at {}", secinfo.offset);
            }
            if u64::from(secinfo.offset) + u64::from(secinfo.size) > section.size {
                fail!(
                    "map '{name}': {} bytes at {} end outside of .maps",
                    secinfo.size,
                    secinfo.offset
                );
            }
            if var.var_linkage() != Some(VarLinkage::GlobalAllocated) {
                fail!(
                    "map '{name}': linkage {:?}, expected a global variable",
                    var.var_linkage()
                );
            }
            let def = match btf.stripped(var.type_id()) {
                Some(def) if def.kind() == Kind::Struct => def,
                Some(other) => fail!(
                    "map '{name}': definition is a {}, expected a STRUCT",
                    other.kind().name()
                ),
                None => fail!("map '{name}': definition of unknown type {}", var.type_id()),
            };
            if def.size() > secinfo.size {
                fail!(
                    "map '{name}': definition of {} bytes in a variable of {}",
                    def.size(),
                    secinfo.size
                );
            }
            let place = (section.index, u64::from(secinfo.offset));
            let (spec, values) = parse_definition(btf, name, &def, Depth::Outer)?;
            let map = self.push(spec, Some(place));
            if let Some(offset) = values {
                self.values.push(Values {
                    map,
                    section: section.index,
                    first: place.1 + u64::from(offset),
                    end: place.1 + u64::from(secinfo.size),
                });
            }
        }
        // A symbol that names no map would make every reference to it fail with a less clear message.
        for symbol in &file.symbols {
            let is_variable = symbol.section == section.index && symbol.kind == STT_OBJECT;
            if is_variable && !self.by_place.contains_key(&(section.index, symbol.value)) {
                fail!(
                    "section '.maps': symbol '{}' at {} is no map of BTF",
                    symbol.name,
                    symbol.value
                );
            }
        }
        Ok(())
    }

    /// `struct bpf_map_def`: five words, the same for every map of the section; more words must be zero.
    fn add_legacy(&mut self, file: &ElfFile<'_>, section: &Section<'_>) -> Result<(), ElfError> {
        let mut symbols: Vec<_> = file
            .symbols
            .iter()
            .filter(|symbol| {
                symbol.section == section.index
                    && !symbol.name.is_empty()
                    && symbol.kind != goblin::elf::sym::STT_SECTION
            })
            .collect();
        symbols.sort_by_key(|symbol| symbol.value);
        symbols.dedup_by_key(|symbol| symbol.value);
        if symbols.is_empty() {
            return Ok(());
        }
        let bytes = section.data.len() / symbols.len();
        if !section.data.len().is_multiple_of(symbols.len()) || bytes < 20 {
            fail!(
                "section 'maps': {} bytes for {} maps, expected at least 20 each",
                section.data.len(),
                symbols.len()
            );
        }
        for symbol in symbols {
            let definition = usize::try_from(symbol.value)
                .ok()
                .and_then(|start| section.data.get(start..start.checked_add(bytes)?));
            let Some(definition) = definition else {
                fail!(
                    "map '{}': definition at {} ends outside of maps",
                    symbol.name,
                    symbol.value
                )
            };
            let words: Vec<u32> = definition
                .chunks_exact(4)
                .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                .collect();
            if let Some(extra) = words.iter().skip(5).find(|&&word| word != 0) {
                fail!(
                    "map '{}': word {extra:#x} beyond the known definition",
                    symbol.name
                );
            }
            let mut spec = empty_map(symbol.name, section.name, MapOrigin::Legacy, words[0]);
            (
                spec.key_size,
                spec.value_size,
                spec.max_entries,
                spec.map_flags,
            ) = (words[1], words[2], words[3], words[4]);
            self.push(spec, Some((section.index, symbol.value)));
        }
        Ok(())
    }

    fn add_global_data(
        &mut self,
        name: &str,
        section: Option<&Section<'_>>,
        origin: MapOrigin,
        btf: Option<&Btf>,
        object: &str,
    ) -> Result<(), ElfError> {
        let mut spec = empty_map(
            &global_data_name(object, name),
            name,
            origin,
            MapType::Array.raw(),
        );
        spec.key_size = 4;
        spec.max_entries = 1;
        let datasec =
            btf.and_then(|btf| btf.type_by_id(btf.find_by_name_kind(name, Kind::Datasec)?));
        spec.value_type_id = datasec.map_or(TypeId::VOID, |datasec| datasec.id());
        if matches!(origin, MapOrigin::Rodata | MapOrigin::Kconfig) {
            spec.map_flags |= RDONLY_PROG;
        }
        let is_visible = |datasec: Type<'_>| {
            datasec.vars().any(|var| {
                btf.and_then(|btf| btf.type_by_id(var.ty))
                    .is_some_and(|var| {
                        var.kind() == Kind::Var && var.var_linkage() != Some(VarLinkage::Static)
                    })
            })
        };
        if datasec.is_some_and(is_visible) {
            spec.map_flags |= MMAPABLE;
        }
        if let Some(section) = section {
            spec.value_size = match u32::try_from(section.size) {
                Ok(size) => size,
                Err(_) => fail!(
                    "section '{name}': {} bytes, at most 4294967295",
                    section.size
                ),
            };
            spec.data = (section.sh_type != SHT_NOBITS).then(|| section.data.to_vec());
        }
        let map = self.push(spec, None);
        if let Some(section) = section {
            self.by_section.insert(section.index, map);
        }
        Ok(())
    }
}

/// A section that becomes a map.
fn global_data_origin(section: &Section<'_>) -> Option<MapOrigin> {
    let is = |prefix: &str| {
        section
            .name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if section.size == 0 || section.is_exec {
        return None;
    }
    match section.sh_type {
        SHT_PROGBITS if is(".data") => Some(MapOrigin::Data),
        SHT_PROGBITS if is(".rodata") => Some(MapOrigin::Rodata),
        SHT_NOBITS if is(".bss") => Some(MapOrigin::Bss),
        _ => None,
    }
}

/// The name of a global data map: a section with a second dot keeps its own, the others get the object's in front.
///
/// The suffix keeps at least 7 bytes, so that `.rodata` is never cut; characters a map name may not have become `_`.
fn global_data_name(object: &str, section: &str) -> String {
    if section.get(1..).is_some_and(|rest| rest.contains('.')) {
        return section.to_string();
    }
    let suffix_len = section.len().clamp(7, NAME_BYTES - 1);
    let prefix_len = object.len().min(NAME_BYTES - 1 - suffix_len);
    let bytes = object
        .bytes()
        .take(prefix_len)
        .chain(section.bytes().take(suffix_len));
    bytes
        .map(|byte| match byte {
            b'_' | b'.' => char::from(byte),
            _ if byte.is_ascii_alphanumeric() => char::from(byte),
            _ => '_',
        })
        .collect()
}

pub(crate) fn empty_map(name: &str, section: &str, origin: MapOrigin, map_type: u32) -> MapSpec {
    MapSpec {
        name: name.to_string(),
        section: section.to_string(),
        origin,
        map_type,
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        map_flags: 0,
        map_extra: 0,
        numa_node: 0,
        pinning: Pinning::None,
        key_type_id: TypeId::VOID,
        value_type_id: TypeId::VOID,
        data: None,
        inner: None,
        slots: Vec::new(),
        struct_ops: None,
    }
}

/// The object's name as libbpf makes it of a file name.
pub(crate) fn object_name(file_name: &str) -> &str {
    let base = file_name.rsplit('/').next().unwrap_or(file_name);
    kernel_name(base.split('.').next().unwrap_or(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_data_names_are_libbpfs() {
        assert_eq!(global_data_name("prog", ".bss"), "prog.bss");
        assert_eq!(
            global_data_name("test_global_data", ".rodata"),
            "test_glo.rodata"
        );
        assert_eq!(
            global_data_name("test_global_data", ".data"),
            "test_glo.data"
        );
        assert_eq!(
            global_data_name("test_global_data", ".kconfig"),
            "test_gl.kconfig"
        );
        assert_eq!(global_data_name("a-b", ".data"), "a_b.data");
        assert_eq!(
            global_data_name("x", ".data.very_long_section"),
            ".data.very_long_section"
        );
        assert_eq!(object_name("dir/prog.bpf.o"), "prog");
        assert_eq!(object_name("a_very_long_object_name.o"), "a_very_long_obj");
    }
}
