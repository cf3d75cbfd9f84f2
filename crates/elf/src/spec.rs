//! `ObjectSpec`: everything an object says, as plain owned data. It names no fd and no kernel object; maps are indices.
//!
//! `Display` prints all of it, in the order of the object, and nothing that differs between two runs.

use crate::{Attachable, SecDef};
use ring3_btf::{Btf, CoreRelo, FuncInfo, LineInfo, TypeId};
use ring3_isa::RawInsn;
use ring3_uapi::{MapType, ProgType};
use std::fmt;

/// An object file as libbpf would load it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSpec {
    /// the object's name: file name up to its first dot, at most 15 bytes
    pub name: String,
    /// text of the license section, empty if there is none
    pub license: String,
    /// number in the version section, 0 if there is none
    pub kern_version: u32,
    /// BTF as it would be loaded: section sizes, offsets and externs filled in
    pub btf: Option<Btf>,
    /// maps; programs name them by index
    pub maps: Vec<MapSpec>,
    /// entry programs, by section and offset; each carries the subprograms it calls
    pub progs: Vec<ProgSpec>,
    /// extern symbols
    pub externs: Vec<ExternSpec>,
}

/// Where a map's definition comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOrigin {
    /// a variable of `.maps`
    Btf,
    /// a `struct bpf_map_def` of `maps`
    Legacy,
    /// a `.data*` section
    Data,
    /// a `.rodata*` section
    Rodata,
    /// a `.bss*` section
    Bss,
    /// the values of `.kconfig` externs
    Kconfig,
    /// a variable of a `.struct_ops*` section
    StructOps,
}

impl MapOrigin {
    /// Is the map a section of the object, that programs address directly?
    pub const fn is_global_data(self) -> bool {
        matches!(
            self,
            MapOrigin::Data | MapOrigin::Rodata | MapOrigin::Bss | MapOrigin::Kconfig
        )
    }
}

/// Where a map is pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// nowhere
    #[default]
    None,
    /// under its name: an existing pin is reused
    ByName,
}

/// A map definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// full name; the kernel sees its first 15 bytes
    pub name: String,
    /// ELF section
    pub section: String,
    /// where the definition comes from
    pub origin: MapOrigin,
    /// `enum bpf_map_type`, as the object has it
    pub map_type: u32,
    /// bytes of a key
    pub key_size: u32,
    /// bytes of a value
    pub value_size: u32,
    /// capacity; 0 for a perf event array means one per CPU
    pub max_entries: u32,
    /// `map_flags`
    pub map_flags: u32,
    /// `map_extra`
    pub map_extra: u64,
    /// NUMA node
    pub numa_node: u32,
    /// where it is pinned
    pub pinning: Pinning,
    /// type of the key in the object's BTF, 0 if unknown
    pub key_type_id: TypeId,
    /// type of the value in the object's BTF, 0 if unknown
    pub value_type_id: TypeId,
    /// first value of global data; `None` is all zero
    pub data: Option<Vec<u8>>,
    /// template of inner maps
    pub inner: Option<Box<MapSpec>>,
    /// slots with a first value: key and what it holds
    pub slots: Vec<(u32, SlotSpec)>,
    /// what a struct_ops map holds
    pub struct_ops: Option<StructOpsSpec>,
}

/// The first value of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSpec {
    /// the map with this index
    Map(usize),
    /// the program with this index
    Prog(usize),
}

/// A struct of operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructOpsSpec {
    /// the struct's type in the object's BTF
    pub type_id: TypeId,
    /// the struct's name
    pub type_name: String,
    /// the struct's bytes
    pub data: Vec<u8>,
    /// members that are programs: index of the member, and of the program
    pub progs: Vec<(u32, usize)>,
    /// registered through a link
    pub is_link: bool,
}

impl MapSpec {
    /// The name the kernel sees.
    pub fn kernel_name(&self) -> &str {
        kernel_name(&self.name)
    }

    /// The map type, if 6.18 knows it.
    pub fn known_type(&self) -> Option<MapType> {
        MapType::from_raw(self.map_type)
    }

    /// Key and value type ids as libbpf gives them at creation: some map types take none.
    pub fn create_type_ids(&self) -> (TypeId, TypeId) {
        use MapType::*;
        match self.known_type() {
            Some(
                PerfEventArray | CgroupArray | StackTrace | ArrayOfMaps | HashOfMaps | Devmap
                | DevmapHash | Cpumap | Xskmap | Sockmap | Sockhash | Queue | Stack | Arena,
            ) => (TypeId::VOID, TypeId::VOID),
            _ => (self.key_type_id, self.value_type_id),
        }
    }
}

/// At most 15 bytes of a name, not splitting a character.
pub(crate) fn kernel_name(name: &str) -> &str {
    let mut end = name.len().min(ring3_uapi::limits::OBJ_NAME_BYTES - 1);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// An entry program with its subprograms behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgSpec {
    /// symbol name
    pub name: String,
    /// section name, without a leading `?`
    pub section: String,
    /// the row of the `SEC()` table
    pub sec_def: Option<&'static SecDef>,
    /// program type, `Unspec` if the section name is unknown
    pub prog_type: ProgType,
    /// `expected_attach_type`
    pub expected_attach_type: u32,
    /// `prog_flags`
    pub prog_flags: u32,
    /// what the section name says after its `/`
    pub attach_to: Option<String>,
    /// loaded unless told otherwise
    pub autoload: bool,
    /// instructions of the program, then of each subprogram; map operands are indices of [`ObjectSpec::maps`]
    pub insns: Vec<RawInsn>,
    /// functions in `insns`, the program itself first
    pub functions: Vec<FunctionSpec>,
    /// instructions whose immediate is a map index
    pub map_refs: Vec<MapRef>,
    /// instructions that name an extern
    pub extern_refs: Vec<ExternRef>,
    /// where functions begin, in instruction slots
    pub func_info: Vec<FuncInfo>,
    /// where source lines begin, in instruction slots
    pub line_info: Vec<LineInfo>,
    /// what depends on the target's types, in instruction slots
    pub core_relos: Vec<CoreRelo>,
    /// index in `functions` of the exception callback that a declaration tag names
    pub exception_callback: Option<usize>,
}

/// A function in a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpec {
    /// symbol name
    pub name: String,
    /// first instruction slot
    pub insn_off: u32,
    /// instruction slots
    pub insn_cnt: u32,
}

/// A 64-bit immediate load of a map or of an address in its first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRef {
    /// the instruction slot
    pub insn_idx: u32,
    /// index of the map
    pub map: usize,
}

/// An instruction that names an extern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternRef {
    /// the instruction slot
    pub insn_idx: u32,
    /// index of the extern
    pub ext: usize,
    /// a call, else an address
    pub is_call: bool,
}

impl ProgSpec {
    /// The name the kernel sees.
    pub fn kernel_name(&self) -> &str {
        kernel_name(&self.name)
    }

    /// The instructions as bytes.
    pub fn insn_bytes(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|insn| insn.to_bytes()).collect()
    }
}

/// An extern symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternSpec {
    /// symbol name
    pub name: String,
    /// may stay unresolved
    pub is_weak: bool,
    /// variable or function in the object's BTF
    pub btf_id: TypeId,
    /// what it is
    pub kind: ExternKind,
}

impl ExternSpec {
    /// The name looked up in the kernel: what stands before `___`, the flavour.
    pub fn essential_name(&self) -> &str {
        match self.name.find("___") {
            Some(at) if at > 0 => &self.name[..at],
            _ => &self.name,
        }
    }
}

/// Kinds of externs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternKind {
    /// a configuration value in the `.kconfig` map
    Kconfig {
        /// byte offset in the map
        offset: u32,
        /// bytes
        size: u32,
        /// a value was found
        is_set: bool,
    },
    /// a kernel symbol without a type: its address is wanted
    Symbol,
    /// a kernel variable of this type
    Var(TypeId),
    /// a kernel function of this prototype
    Func(TypeId),
}

impl ObjectSpec {
    /// The program with this name.
    pub fn prog(&self, name: &str) -> Option<&ProgSpec> {
        self.progs.iter().find(|prog| prog.name == name)
    }

    /// Does anything here fail without BTF? libbpf loads other objects without their BTF where the kernel refuses it.
    pub fn needs_btf(&self) -> bool {
        let is_declared =
            |map: &MapSpec| matches!(map.origin, MapOrigin::Btf | MapOrigin::StructOps);
        !self.externs.is_empty() || self.maps.iter().any(is_declared)
    }

    /// The map with this name.
    pub fn map(&self, name: &str) -> Option<&MapSpec> {
        self.maps.iter().find(|map| map.name == name)
    }
}

impl fmt::Display for ObjectSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "object {} license {:?} version {:#x}",
            self.name, self.license, self.kern_version
        )?;
        match &self.btf {
            Some(btf) => writeln!(
                f,
                "btf {} types, {} bytes",
                btf.type_count() - 1,
                btf.bytes().len()
            )?,
            None => writeln!(f, "btf none")?,
        }
        for (index, ext) in self.externs.iter().enumerate() {
            let weak = if ext.is_weak { " weak" } else { "" };
            writeln!(
                f,
                "extern[{index}] {}{weak} btf {} {:?}",
                ext.name, ext.btf_id, ext.kind
            )?;
        }
        for (index, map) in self.maps.iter().enumerate() {
            write!(f, "map[{index}] {map}")?;
        }
        for prog in &self.progs {
            write!(f, "{prog}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MapSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let type_name = self.known_type().map_or("unknown", MapType::name);
        write!(
            f,
            "{} section {} type {} ({type_name})",
            self.name, self.section, self.map_type
        )?;
        write!(
            f,
            " key {} (btf {}) value {} (btf {}) entries {} flags {:#x}",
            self.key_size,
            self.key_type_id,
            self.value_size,
            self.value_type_id,
            self.max_entries,
            self.map_flags
        )?;
        writeln!(
            f,
            " extra {:#x} numa {} pinning {:?}",
            self.map_extra, self.numa_node, self.pinning
        )?;
        if let Some(data) = &self.data {
            writeln!(f, "  data {}", Hex(data))?;
        }
        for (key, slot) in &self.slots {
            match slot {
                SlotSpec::Map(map) => writeln!(f, "  slot {key} map[{map}]")?,
                SlotSpec::Prog(prog) => writeln!(f, "  slot {key} prog {prog}")?,
            }
        }
        if let Some(ops) = &self.struct_ops {
            writeln!(
                f,
                "  struct_ops {} btf {} link {}",
                ops.type_name, ops.type_id, ops.is_link
            )?;
            writeln!(f, "  data {}", Hex(&ops.data))?;
            for (member, prog) in &ops.progs {
                writeln!(f, "  member {member} prog {prog}")?;
            }
        }
        // Inner maps do not nest: the parser refuses an inner map of maps.
        if let Some(inner) = &self.inner {
            write!(f, "  inner {inner}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ProgSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "prog {} section {} type {}",
            self.name, self.section, self.prog_type
        )?;
        write!(
            f,
            " attach_type {} flags {:#x}",
            self.expected_attach_type, self.prog_flags
        )?;
        if let Some(target) = &self.attach_to {
            write!(f, " attach_to {target}")?;
        }
        if self
            .sec_def
            .is_some_and(|def| def.traits.attachable == Attachable::Yes)
        {
            f.write_str(" attachable")?;
        }
        writeln!(f, "{}", if self.autoload { "" } else { " no-autoload" })?;
        for (index, function) in self.functions.iter().enumerate() {
            let exception = if self.exception_callback == Some(index) {
                " exception-callback"
            } else {
                ""
            };
            writeln!(
                f,
                "  func {} at {} insns {}{exception}",
                function.name, function.insn_off, function.insn_cnt
            )?;
        }
        let (mut maps, mut externs) = (
            self.map_refs.iter().peekable(),
            self.extern_refs.iter().peekable(),
        );
        for (index, insn) in self.insns.iter().enumerate() {
            write!(f, "  {index:4}: {}", Hex(&insn.to_bytes()))?;
            while let Some(map) = maps.next_if(|map| map.insn_idx as usize <= index) {
                write!(f, " map[{}]", map.map)?;
            }
            while let Some(ext) = externs.next_if(|ext| ext.insn_idx as usize <= index) {
                write!(
                    f,
                    " extern[{}]{}",
                    ext.ext,
                    if ext.is_call { " call" } else { "" }
                )?;
            }
            writeln!(f)?;
        }
        for info in &self.func_info {
            writeln!(f, "  func_info {} type {}", info.insn_off, info.type_id)?;
        }
        for info in &self.line_info {
            writeln!(
                f,
                "  line_info {} file {} line {} {}:{}",
                info.insn_off,
                info.file_name_off,
                info.line_off,
                info.line(),
                info.column()
            )?;
        }
        for relo in &self.core_relos {
            writeln!(
                f,
                "  core_relo {} type {} access {} kind {}",
                relo.insn_off, relo.type_id, relo.access_str_off, relo.kind
            )?;
        }
        Ok(())
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
