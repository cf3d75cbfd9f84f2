//! `.struct_ops` sections: each variable is a struct of operations and becomes a map; relocations say which programs its
//! members are.

use crate::error::fail;
use crate::file::{ElfFile, Section, Symbol};
use crate::maps::{Maps, empty_map};
use crate::{ElfError, MapOrigin, StructOpsSpec};
use ring3_btf::{Btf, Kind};
use ring3_uapi::MapType;
use ring3_uapi::flags::map_create::LINK;

const SECTIONS: [&str; 4] = [
    ".struct_ops",
    ".struct_ops.link",
    "?.struct_ops",
    "?.struct_ops.link",
];

/// Adds a map for every variable of the sections; `prog` finds an entry program by symbol.
pub(crate) fn add_maps(
    maps: &mut Maps,
    file: &ElfFile<'_>,
    btf: Option<&Btf>,
    prog: impl Fn(&Symbol<'_>) -> Option<usize>,
) -> Result<(), ElfError> {
    for name in SECTIONS {
        let Some(section) = file.section(name).filter(|section| section.size > 0) else {
            continue;
        };
        let Some(btf) = btf else {
            fail!("section '{name}': structs of operations without BTF")
        };
        add_section(maps, file, section, btf, &prog)?;
    }
    Ok(())
}

fn add_section(
    maps: &mut Maps,
    file: &ElfFile<'_>,
    section: &Section<'_>,
    btf: &Btf,
    prog: &impl Fn(&Symbol<'_>) -> Option<usize>,
) -> Result<(), ElfError> {
    let name = section.name;
    let Some(datasec) = btf
        .find_by_name_kind(name, Kind::Datasec)
        .and_then(|id| btf.type_by_id(id))
    else {
        fail!("section '{name}': no such section in BTF")
    };
    let is_link = name.ends_with(".link");
    let first = maps.specs.len();
    let mut ranges = Vec::new();
    for secinfo in datasec.vars() {
        let var_name = btf.name(secinfo.ty);
        let ty = btf
            .type_by_id(secinfo.ty)
            .filter(|var| var.kind() == Kind::Var)
            .and_then(|var| btf.stripped(var.type_id()))
            .filter(|ty| ty.kind() == Kind::Struct && !ty.name().is_empty());
        let Some(ty) = ty else {
            fail!("section '{name}': variable '{var_name}' is no named struct")
        };
        let (start, end) = (
            secinfo.offset as usize,
            secinfo.offset as usize + secinfo.size as usize,
        );
        let Some(data) = section.data.get(start..end) else {
            fail!(
                "section '{name}': variable '{var_name}' at {start} of {} bytes ends outside",
                secinfo.size
            )
        };
        if ty.size() > secinfo.size {
            fail!(
                "section '{name}': variable '{var_name}' of {} bytes, its type has {}",
                secinfo.size,
                ty.size()
            );
        }
        let mut spec = empty_map(
            var_name,
            name,
            MapOrigin::StructOps,
            MapType::StructOps.raw(),
        );
        (spec.key_size, spec.value_size, spec.max_entries) = (4, ty.size(), 1);
        spec.map_flags = if is_link { LINK } else { 0 };
        spec.struct_ops = Some(StructOpsSpec {
            type_id: ty.id(),
            type_name: ty.name().to_string(),
            data: data.to_vec(),
            progs: Vec::new(),
            is_link,
        });
        maps.push(spec, None);
        ranges.push((start, end, ty.id()));
    }
    for reloc in &section.relocs {
        let Some(symbol) = file.symbol(reloc) else {
            continue;
        };
        let at = usize::try_from(reloc.offset).unwrap_or(usize::MAX);
        let index = ranges
            .partition_point(|&(start, ..)| start <= at)
            .checked_sub(1);
        let found = index
            .and_then(|index| Some((index, ranges.get(index)?)))
            .filter(|(_, range)| at < range.1);
        let Some((index, &(start, _, ty))) = found else {
            fail!(
                "section '{name}': relocation at {} is in no variable",
                reloc.offset
            )
        };
        let bits = (at - start) as u64 * 8;
        let member = btf.type_by_id(ty).and_then(|ty| {
            ty.members()
                .position(|member| u64::from(member.bit_offset) == bits)
                .map(|index| index as u32)
        });
        let Some(member) = member else {
            fail!(
                "section '{name}': relocation at {} is at no member",
                reloc.offset
            )
        };
        let Some(prog) = prog(symbol) else {
            fail!(
                "section '{name}': member at {} is no program: '{}'",
                reloc.offset,
                symbol.name
            )
        };
        if let Some(ops) = maps
            .specs
            .get_mut(first + index)
            .and_then(|map| map.struct_ops.as_mut())
        {
            ops.progs.push((member, prog));
        }
    }
    Ok(())
}
