//! What compilers leave open in an object's BTF and libbpf fills in before loading it: sizes and variable offsets of
//! data sections (from the symbol table), linkage of hidden symbols, `.kconfig` and `.ksyms` sections.
//!
//! `BtfEdit` patches words of a blob in place; ids and string offsets stay, so that `.BTF.ext` stays valid.

use crate::ElfError;
use crate::error::fail;
use crate::file::ElfFile;
use goblin::elf::sym::{STB_GLOBAL, STB_WEAK, STT_OBJECT};
use ring3_btf::{Btf, Builder, FuncLinkage, Kind, TypeId, VarLinkage};
use std::collections::BTreeMap;

/// A blob being changed: words of types, and types added at the end.
pub(crate) struct BtfEdit {
    bytes: Vec<u8>,
    btf: Btf,
}

/// Words of a type.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    Info,
    SizeOrType,
    /// word `index` of what follows the type's first three words
    Tail(u32),
}

impl BtfEdit {
    pub(crate) fn new(btf: Btf) -> BtfEdit {
        BtfEdit {
            bytes: btf.bytes().to_vec(),
            btf,
        }
    }

    /// The blob before the changes: ids and names are those of the result.
    pub(crate) fn btf(&self) -> &Btf {
        &self.btf
    }

    pub(crate) fn set(&mut self, id: TypeId, word: Word, value: u32) {
        let index = match word {
            Word::Info => 1,
            Word::SizeOrType => 2,
            Word::Tail(index) => 3 + index as usize,
        };
        let Some(start) = self.btf.type_offset(id) else {
            return;
        };
        if let Some(slot) = self.bytes.get_mut(start + index * 4..start + index * 4 + 4) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(crate) fn finish(self) -> Result<Btf, ElfError> {
        Ok(Btf::parse_shared(self.bytes.into(), None)?)
    }
}

/// Adds `dummy_ksym`, the variable that stands for extern functions in `.ksyms`, if there are such functions.
pub(crate) fn add_dummy_ksym(btf: Btf) -> Result<(Btf, Option<TypeId>), ElfError> {
    let Some(section) = btf.find_by_name_kind(".ksyms", Kind::Datasec) else {
        return Ok((btf, None));
    };
    let has_func = btf.type_by_id(section).is_some_and(|section| {
        section
            .vars()
            .any(|var| btf.kind(var.ty) == Some(Kind::Func))
    });
    if !has_func {
        return Ok((btf, None));
    }
    let int = int_id(&btf);
    let mut builder = Builder::extend(&btf);
    let dummy = builder.add_var("dummy_ksym", int, VarLinkage::GlobalAllocated);
    Ok((Btf::parse(&builder.finish())?, Some(dummy)))
}

/// The first integer of 32 bits, which typeless externs get.
pub(crate) fn int_id(btf: &Btf) -> TypeId {
    btf.types()
        .find(|ty| ty.int().is_some_and(|int| int.bits == 32))
        .map_or(TypeId::VOID, |ty| ty.id())
}

/// Fills in sizes of data sections and offsets of their variables, and sorts the variables.
pub(crate) fn fix_datasecs(btf: Btf, file: &ElfFile<'_>) -> Result<Btf, ElfError> {
    if !btf.types().any(|ty| ty.kind() == Kind::Datasec) {
        return Ok(btf);
    }
    let mut objects = BTreeMap::new();
    for symbol in &file.symbols {
        if symbol.kind == STT_OBJECT && matches!(symbol.bind, STB_GLOBAL | STB_WEAK) {
            objects.entry(symbol.name).or_insert(symbol);
        }
    }
    let mut edit = BtfEdit::new(btf.clone());
    for section in btf.types().filter(|ty| ty.kind() == Kind::Datasec) {
        let name = section.name();
        let mut vars: Vec<_> = section.vars().collect();
        if name != ".kconfig" && name != ".ksyms" {
            let fix_offsets = section.size() == 0;
            if fix_offsets {
                let size = file.section(name).map_or(0, |section| section.size);
                match u32::try_from(size) {
                    Ok(size) if size != 0 => edit.set(section.id(), Word::SizeOrType, size),
                    _ => fail!(
                        "btf: section '{name}': {size} bytes in the object, expected 1..=4294967295"
                    ),
                }
            }
            for secinfo in &mut vars {
                let var = match btf.type_by_id(secinfo.ty) {
                    Some(var) if var.kind() == Kind::Var => var,
                    _ => fail!(
                        "btf: section '{name}': type {} is not a variable",
                        secinfo.ty
                    ),
                };
                if var.var_linkage() != Some(VarLinkage::GlobalAllocated) {
                    continue;
                }
                let Some(symbol) = objects.get(var.name()) else {
                    fail!(
                        "btf: section '{name}': no symbol for variable '{}'",
                        var.name()
                    )
                };
                if fix_offsets {
                    secinfo.offset = symbol.value as u32;
                }
                if symbol.is_restricted() {
                    edit.set(var.id(), Word::Tail(0), VarLinkage::Static.raw());
                }
            }
        }
        vars.sort_by_key(|var| var.offset);
        for (index, var) in vars.iter().enumerate() {
            for (word, value) in [var.ty.0, var.offset, var.size].into_iter().enumerate() {
                edit.set(section.id(), Word::Tail((index * 3 + word) as u32), value);
            }
        }
    }
    edit.finish()
}

/// Marks functions static whose symbols are hidden: they are then verified with their callers.
pub(crate) fn mark_static<'a>(
    btf: Btf,
    hidden: impl Iterator<Item = &'a str>,
) -> Result<Btf, ElfError> {
    let mut edit = BtfEdit::new(btf.clone());
    for name in hidden {
        if let Some(func) = btf.find_by_name_kind(name, Kind::Func) {
            edit.set(
                func,
                Word::Info,
                (Kind::Func as u32) << 24 | FuncLinkage::Static as u32,
            );
        }
    }
    edit.finish()
}
