//! Functions of this process that were compiled with `-fpatchable-function-entry=5`, found by name or all of an object.
//!
//! The compiler lists their nops in the section `__patchable_function_entries`, which the dynamic linker relocates in memory; names are those of
//! the file's symbol tables.

use std::path::{Path, PathBuf};

use goblin::elf::{Elf, Sym, section_header::SHF_ALLOC, sym};
use ring3_os::loaded::{self, LoadedObject};

use crate::site::{PatchError, Patching, Site};

const SECTION: &str = "__patchable_function_entries";
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// A function with a patchable entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patchable {
    /// Its symbol; `None` in a stripped object.
    pub name: Option<String>,
    /// Its address in this process.
    pub function: usize,
    /// Address of its nops.
    pub nop: usize,
    /// The file it is in.
    pub object: PathBuf,
}

/// Why a function was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverError {
    /// No object of this process has a function of this name.
    NoFunction(String),
    /// The function is there, compiled without `-fpatchable-function-entry=5`.
    NotPatchable {
        /// The function.
        name: String,
        /// The file it is in.
        object: PathBuf,
    },
    /// Several functions have this name (static ones of several files).
    Ambiguous {
        /// The name.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// The object's file cannot be read.
    File {
        /// The file.
        object: PathBuf,
        /// What reading it said.
        message: String,
    },
    /// The object's file is not an ELF file for this machine, or not the one that was loaded.
    BadObject {
        /// The file.
        object: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl std::fmt::Display for DiscoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiscoverError::NoFunction(name) => {
                write!(f, "function '{name}': no object of this process has it")
            }
            DiscoverError::NotPatchable { name, object } => write!(
                f,
                "function '{name}' of {}: compiled without -fpatchable-function-entry=5",
                object.display()
            ),
            DiscoverError::Ambiguous { name, count } => {
                write!(f, "function '{name}': {count} functions have this name")
            }
            DiscoverError::File { object, message }
            | DiscoverError::BadObject { object, message } => {
                write!(f, "{}: {message}", object.display())
            }
        }
    }
}

impl std::error::Error for DiscoverError {}

impl Patchable {
    /// The function's site.
    ///
    /// # Errors
    /// [`PatchError`].
    ///
    /// # Safety
    /// The object stays loaded; nothing jumps behind the function's first nop.
    pub unsafe fn site(&self, patching: Patching) -> Result<Site, PatchError> {
        // SAFETY: 1. the compiler listed the nops; 2. the caller's contract.
        unsafe { Site::of_function(self.function, self.nop, patching) }
    }
}

/// The function with this symbol name, in any object of this process.
///
/// # Errors
/// [`DiscoverError`].
pub fn find_patchable(name: &str) -> Result<Patchable, DiscoverError> {
    let mut found = Vec::new();
    let mut unpatchable = None;
    for object in loaded::objects() {
        // A file that is gone or replaced does not hide the function of another.
        let Ok(view) = View::of(&object) else {
            continue;
        };
        let (mut with, without) = view.named(name)?;
        found.append(&mut with);
        if without {
            unpatchable.get_or_insert(object.path);
        }
    }
    match (found.pop(), unpatchable) {
        (Some(function), _) if found.is_empty() => Ok(function),
        (Some(_), _) => Err(DiscoverError::Ambiguous {
            name: name.to_owned(),
            count: found.len() + 1,
        }),
        (None, Some(object)) => Err(DiscoverError::NotPatchable {
            name: name.to_owned(),
            object,
        }),
        (None, None) => Err(DiscoverError::NoFunction(name.to_owned())),
    }
}

/// All functions with patchable entries of an object of this process, in the order of the section.
///
/// # Errors
/// [`DiscoverError::File`], [`DiscoverError::BadObject`].
pub fn patchable_functions(object: &LoadedObject) -> Result<Vec<Patchable>, DiscoverError> {
    let view = View::of(object)?;
    view.with_elf(|elf| {
        let mut symbols = functions_of(elf);
        symbols.sort_unstable_by_key(|(_, symbol)| symbol.st_value);
        let name_at = |function: usize| {
            let value = function.wrapping_sub(object.base) as u64;
            let at = symbols.partition_point(|(_, symbol)| symbol.st_value < value);
            let (name, symbol) = symbols.get(at)?;
            (symbol.st_value == value).then(|| (*name).to_owned())
        };
        let functions = view.nops(elf)?.into_iter().map(|nop| {
            let function = view.function_of(nop);
            Patchable {
                name: name_at(function),
                function,
                nop,
                object: object.path.clone(),
            }
        });
        Ok(functions.collect())
    })
}

/// An object's file beside its memory.
struct View<'a> {
    object: &'a LoadedObject,
    bytes: Vec<u8>,
}

impl<'a> View<'a> {
    fn of(object: &'a LoadedObject) -> Result<View<'a>, DiscoverError> {
        let bytes = std::fs::read(&object.path).map_err(|error| DiscoverError::File {
            object: object.path.clone(),
            message: error.to_string(),
        })?;
        Ok(View { object, bytes })
    }

    fn with_elf<R>(
        &self,
        body: impl FnOnce(&Elf<'_>) -> Result<R, DiscoverError>,
    ) -> Result<R, DiscoverError> {
        let path: &Path = &self.object.path;
        let bad = |message: String| DiscoverError::BadObject {
            object: path.to_owned(),
            message,
        };
        let elf = Elf::parse(&self.bytes).map_err(|error| bad(error.to_string()))?;
        let loads = elf
            .program_headers
            .iter()
            .filter(|header| header.p_type == 1);
        let starts = loads.map(|header| self.object.base.wrapping_add(header.p_vaddr as usize));
        if !elf.is_64 || !starts.eq(self.object.segments.iter().map(|segment| segment.0)) {
            return Err(bad("the file is not the one that was loaded".to_owned()));
        }
        body(&elf)
    }

    /// The functions of this name that are patchable, and whether there is one that is not.
    fn named(&self, name: &str) -> Result<(Vec<Patchable>, bool), DiscoverError> {
        // Whatever is wrong with the file was wrong before somebody asked for this name.
        let looked = self.with_elf(|elf| {
            let mut addresses: Vec<usize> = functions_of(elf)
                .into_iter()
                .filter(|(symbol_name, _)| *symbol_name == name)
                .map(|(_, symbol)| self.object.base.wrapping_add(symbol.st_value as usize))
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() {
                return Ok((Vec::new(), false));
            }
            let nops = self.nops(elf)?;
            let functions: Vec<usize> = nops.iter().map(|&nop| self.function_of(nop)).collect();
            let mut found = Vec::new();
            let mut is_missing = false;
            for address in addresses {
                match functions.iter().position(|&function| function == address) {
                    Some(at) => found.push(Patchable {
                        name: Some(name.to_owned()),
                        function: address,
                        nop: nops[at],
                        object: self.object.path.clone(),
                    }),
                    None => is_missing = true,
                }
            }
            Ok((found, is_missing))
        });
        match looked {
            Err(DiscoverError::BadObject { .. }) => Ok((Vec::new(), false)),
            other => other,
        }
    }

    /// Addresses of the nops, as relocated in memory.
    fn nops(&self, elf: &Elf<'_>) -> Result<Vec<usize>, DiscoverError> {
        let mut nops = Vec::new();
        for section in &elf.section_headers {
            let is_it = elf.shdr_strtab.get_at(section.sh_name) == Some(SECTION);
            if !is_it || section.sh_flags & u64::from(SHF_ALLOC) == 0 {
                continue;
            }
            let start = self.object.base.wrapping_add(section.sh_addr as usize);
            let count = section.sh_size as usize / 8;
            if !self.holds(start, count * 8) {
                return Err(DiscoverError::BadObject {
                    object: self.object.path.clone(),
                    message: format!("section {SECTION} is not in memory"),
                });
            }
            let words: *const u64 = std::ptr::with_exposed_provenance(start);
            for at in 0..count {
                // SAFETY: 1. inside a mapped segment of the object by the check above; sections that are allocated are readable.
                let nop = unsafe { words.add(at).read_unaligned() } as usize;
                // What the linker has dropped is 0, and what somebody has overwritten leads anywhere.
                if self.holds(nop.wrapping_sub(4), 9) {
                    nops.push(nop);
                }
            }
        }
        Ok(nops)
    }

    /// The function's address: `endbr64` may stand before its nops.
    fn function_of(&self, nop: usize) -> usize {
        let before: *const [u8; 4] = std::ptr::with_exposed_provenance(nop - 4);
        // SAFETY: 1. inside a segment of the object (`nops`), which is text.
        if unsafe { before.read_volatile() } == ENDBR64 {
            nop - 4
        } else {
            nop
        }
    }

    fn holds(&self, start: usize, len_bytes: usize) -> bool {
        let segments = self.object.segments.iter();
        start.checked_add(len_bytes).is_some_and(|end| {
            segments
                .copied()
                .any(|(from, to)| from <= start && end <= to)
        })
    }
}

/// Function symbols that the object defines, of the full table or, in a stripped object, of the dynamic one.
fn functions_of<'e>(elf: &Elf<'e>) -> Vec<(&'e str, Sym)> {
    let (table, names) = if elf.syms.is_empty() {
        (&elf.dynsyms, &elf.dynstrtab)
    } else {
        (&elf.syms, &elf.strtab)
    };
    table
        .iter()
        .filter(|symbol| symbol.st_type() == sym::STT_FUNC && symbol.st_shndx != 0)
        .filter_map(|symbol| Some((names.get_at(symbol.st_name)?, symbol)))
        .collect()
}
