//! `Object`: an ELF file on its way to loaded programs and maps. Key types: [`Object`] (parsed), [`LoadedObject`].

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ring3_btf::{
    Btf, Kind, TypeId,
    check::CheckOptions,
    core_relo::{POISON_IMM, describe, explain_poison},
    ext::write_records,
};
use ring3_elf::{
    MapOrigin, MapSpec, ObjectSpec, ParseOptions, Pinning, ProgSpec, Resolver, SlotSpec, Target,
};
use ring3_isa::RawInsn;
use ring3_maps::{Access, Map, MapAttr, Plain, ProgSlot, TypedMap, fd::FdTable};
use ring3_runtime::Limit;
use ring3_spec::{InfoRecords, Privilege};
use ring3_uapi::{AttachType, Errno, MapType, ProgType, flags::map_create, flags::map_elem};

use crate::{
    EngineKind, Error, JitOptions, LoadError, MapObject, Observe, ProgAttr, Program, SharedMaps,
    System,
};

/// A parsed object file.
#[derive(Clone, Debug)]
pub struct Object {
    spec: ObjectSpec,
}

/// How an object is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Engine of its programs.
    pub engine: EngineKind,
    /// Level of the verifier's log.
    pub log_level: u32,
    /// Who loads.
    pub privilege: Privilege,
    /// Load only these programs, by name; `None` loads every program that is loaded by default.
    pub programs: Option<Vec<String>>,
    /// Go on when a program is rejected; the rejections are in [`LoadedObject::rejected`].
    pub keep_going: bool,
    /// Maps that files share by name; without, each object has its own.
    pub shared_maps: Option<SharedMaps>,
    /// What the object's tracing programs and extensions attach to, where that is a program.
    pub attach_to: Option<AttachTo>,
    /// How the compiler works.
    pub jit: JitOptions,
    /// After how many jumps back, or after what time, runs are stopped.
    pub limit: Limit,
    /// Who is told where compiled code is.
    pub observe: Observe,
}

/// A function of a loaded program: `bpf_program__set_attach_target` of libbpf.
#[derive(Clone)]
pub struct AttachTo {
    /// The program.
    pub program: Arc<Program>,
    /// Its function; `None` takes what the section says (`fentry/NAME`, `freplace/NAME`).
    pub function: Option<String>,
}

impl std::fmt::Debug for AttachTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttachTo")
            .field("program", &self.program.name())
            .field("function", &self.function)
            .finish()
    }
}

impl AttachTo {
    /// The id of the function in the target's BTF.
    ///
    /// # Errors
    /// EINVAL: no function named, or the target has no BTF. ESRCH: no such function.
    fn function_id(&self, prog: &ProgSpec) -> Result<TypeId, Error> {
        let fail = |errno, what: String| {
            Err(Error::new(
                errno,
                format!("program '{}': {what}", prog.name),
            ))
        };
        let Some(name) = self.function.as_deref().or(prog.attach_to.as_deref()) else {
            return fail(Errno::EINVAL, "no function to attach to".to_owned());
        };
        let target = self.program.name();
        let Some(btf) = &self.program.attr().btf else {
            return fail(Errno::EINVAL, format!("program '{target}' has no BTF"));
        };
        match btf.find_by_name_kind(name, Kind::Func) {
            Some(id) => Ok(id),
            None => fail(
                Errno::ESRCH,
                format!("program '{target}' has no function '{name}'"),
            ),
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            engine: EngineKind::default(),
            log_level: 0,
            privilege: Privilege::FULL,
            programs: None,
            keep_going: false,
            shared_maps: None,
            attach_to: None,
            jit: JitOptions::default(),
            limit: Limit::default(),
            observe: Observe::default(),
        }
    }
}

impl Object {
    /// Reads an object file.
    ///
    /// # Errors
    /// The file cannot be read, or is no BPF object; the message names the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Object, Error> {
        Object::open_with(path, &ParseOptions::default())
    }

    /// Reads an object file; the options give the values of configuration externs.
    ///
    /// # Errors
    /// As [`Object::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &ParseOptions) -> Result<Object, Error> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Error::new(errno, format!("{}: {error}", path.display()))
        })?;
        let name = path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Object::parse_with(&bytes, &name, options).map_err(|error| {
            Error::new(
                error.errno,
                format!("{}: {}", path.display(), error.message),
            )
        })
    }

    /// Parses an object file's bytes; `name` becomes the prefix of global data maps.
    ///
    /// # Errors
    /// EINVAL: no BPF object.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Object, Error> {
        Object::parse_with(bytes, name, &ParseOptions::default())
    }

    /// Parses an object file's bytes; the options give the values of configuration externs.
    ///
    /// # Errors
    /// As [`Object::parse`].
    pub fn parse_with(bytes: &[u8], name: &str, options: &ParseOptions) -> Result<Object, Error> {
        let mut spec = ObjectSpec::parse_with(bytes, name, options)?;
        drop_refused_btf(&mut spec)?;
        Ok(Object { spec })
    }

    /// What the file says.
    pub fn spec(&self) -> &ObjectSpec {
        &self.spec
    }

    /// Creates the maps and loads the programs in `system`.
    ///
    /// # Errors
    /// The first map or program that fails, unless the options say to keep going; nothing stays loaded then.
    pub fn load_in(
        &self,
        system: &Arc<System>,
        options: &LoadOptions,
    ) -> Result<LoadedObject, Box<LoadError>> {
        let map_error = |error: Error| {
            Box::new(LoadError {
                program: String::new(),
                error,
                log: String::new(),
                insn_idx: None,
                is_unjudged: false,
            })
        };
        let maps = self
            .create_maps(system, options.shared_maps.as_ref())
            .map_err(map_error)?;
        let mut loaded = LoadedObject {
            maps,
            programs: Vec::new(),
            rejected: Vec::new(),
        };
        let kernel_btf = system.kernel_btf();
        let mut resolver = self.resolver(kernel_btf.as_ref());
        let mut by_index = BTreeMap::new();
        for (index, prog) in self.spec.progs.iter().enumerate() {
            let is_wanted = match &options.programs {
                Some(names) => names.contains(&prog.name),
                None => prog.autoload,
            };
            if !is_wanted {
                continue;
            }
            match self.load_program(system, &mut resolver, prog, &loaded.maps, options) {
                Ok(program) => {
                    by_index.insert(index, Arc::clone(&program));
                    loaded.programs.push((prog.name.clone(), program));
                }
                Err(error) if options.keep_going => {
                    loaded.rejected.push((prog.name.clone(), *error))
                }
                Err(error) => return Err(error),
            }
        }
        self.fill_prog_arrays(&loaded, &by_index)
            .map_err(map_error)?;
        Ok(loaded)
    }

    pub(crate) fn create_maps(
        &self,
        system: &Arc<System>,
        shared: Option<&SharedMaps>,
    ) -> Result<Vec<(String, Arc<MapObject>)>, Error> {
        let mut maps: Vec<(String, Arc<MapObject>)> = Vec::new();
        for spec in &self.spec.maps {
            let create = || self.create_map(system, spec);
            let map = match shared {
                Some(shared) if spec.pinning == Pinning::ByName => {
                    shared.get_or_create(spec, create)?
                }
                _ => create()?,
            };
            if spec.origin.is_global_data() {
                fill_global_data(map.map(), spec)?;
            }
            maps.push((spec.name.clone(), map));
        }
        for (spec, (_, map)) in self.spec.maps.iter().zip(&maps) {
            for (key, slot) in &spec.slots {
                if let SlotSpec::Map(inner) = slot {
                    let inner = maps.get(*inner).map(|(_, inner)| Arc::clone(inner.map()));
                    update_slot(
                        map.map(),
                        *key,
                        &OneFd {
                            map: inner,
                            prog: None,
                        },
                    )?;
                }
            }
        }
        Ok(maps)
    }

    fn create_map(&self, system: &Arc<System>, spec: &MapSpec) -> Result<Arc<MapObject>, Error> {
        let map_type = spec.known_type().ok_or_else(|| {
            Error::new(
                Errno::EINVAL,
                format!("map '{}': unknown map type {}", spec.name, spec.map_type),
            )
        })?;
        let inner = match &spec.inner {
            Some(inner) => Some(self.create_map(system, inner)?),
            None => None,
        };
        let mut attr = MapAttr::new(map_type, spec.key_size, spec.value_size, spec.max_entries)
            .with_flags(spec.map_flags)
            .with_extra(spec.map_extra)
            .with_name(spec.kernel_name());
        attr.numa_node = spec.numa_node;
        if map_type == MapType::PerfEventArray && spec.max_entries == 0 {
            attr.max_entries = ring3_os::cpu::possible_cpus() as u32;
        }
        if self.spec.btf.is_some() {
            let (key, value) = spec.create_type_ids();
            (attr.btf_key_type_id, attr.btf_value_type_id) = (key.0, value.0);
        }
        MapObject::create(system, &attr, self.spec.btf.clone(), inner.as_deref())
    }

    /// Fits programs of this object to the types of a kernel; one for all of them, since it remembers what it found.
    pub fn resolver<'a>(&'a self, kernel_btf: Option<&'a Btf>) -> Resolver<'a> {
        Resolver::new(
            &self.spec,
            Target {
                btf: kernel_btf,
                symbols: None,
            },
        )
    }

    /// What BPF_PROG_LOAD would get for a program of this object with these maps: CO-RE relocations applied, externs and the attach target
    /// looked up, its type by its section (a host's own sections first).
    ///
    /// # Errors
    /// EINVAL: the section name is unknown, or a relocation cannot be applied. ESRCH: the kernel's types lack what the program attaches to
    /// or an extern, or there are none; the message names them.
    pub fn prog_attr(
        &self,
        system: &System,
        resolver: &mut Resolver<'_>,
        prog: &ProgSpec,
        maps: &[(String, Arc<MapObject>)],
        options: &LoadOptions,
    ) -> Result<ProgAttr, Error> {
        let custom = system.registry().prog_type_of_section(&prog.section);
        let prog_type = custom.unwrap_or(prog.prog_type);
        if prog_type == ProgType::Unspec {
            return Err(Error::new(
                Errno::EINVAL,
                format!(
                    "program '{}': section '{}' names no program type",
                    prog.name, prog.section
                ),
            ));
        }
        let mut attr = ProgAttr::new(prog_type, resolver.insns(prog)?);
        attr.expected_attach_type = prog.expected_attach_type;
        match &options.attach_to {
            Some(target) if may_attach_to_programs(prog) => {
                attr.attach_btf_id = target.function_id(prog)?;
                attr.attach_prog = Some(Arc::clone(&target.program));
            }
            _ => {
                if let Some(id) = resolver.attach_btf_id(prog)? {
                    attr.attach_btf_id = id;
                }
            }
        }
        if prog.prog_type == ProgType::StructOps
            && let Some((id, member)) = resolver.struct_ops_member(prog)?
        {
            (attr.attach_btf_id, attr.expected_attach_type) = (id, member);
        }
        attr.flags = prog.prog_flags;
        attr.name = prog.kernel_name().to_owned();
        attr.license.clone_from(&self.spec.license);
        attr.privilege = options.privilege;
        attr.log_level = options.log_level;
        attr.engine = options.engine;
        attr.jit = options.jit;
        attr.limit = options.limit;
        attr.observe = options.observe;
        for reference in &prog.map_refs {
            if let Some((_, map)) = maps.get(reference.map) {
                attr.maps.insert(reference.map as i32, Arc::clone(map));
            }
        }
        if let Some(btf) = &self.spec.btf {
            attr.btf = Some(btf.clone());
            attr.func_info = records(8, prog.func_info.len(), write_records(&prog.func_info));
            attr.line_info = records(16, prog.line_info.len(), write_records(&prog.line_info));
        }
        Ok(attr)
    }

    /// The log of a rejected program in libbpf's words: one that ends at a poisoned instruction names the relocation. `None` for any other.
    pub fn explain_log(&self, prog: &ProgSpec, log: &str) -> Option<String> {
        let relo_at = |slot| {
            let relo = prog.core_relos.iter().find(|relo| relo.insn_off == slot);
            relo.copied()
        };
        explain_poison(self.spec.btf.as_ref()?, log, relo_at)
    }

    /// Why a slot is poisoned, if it is: a relocation that the kernel's types do not answer.
    pub(crate) fn explain_slot(
        &self,
        prog: &ProgSpec,
        insns: &[RawInsn],
        slot: u32,
    ) -> Option<String> {
        const CALL: u8 = 0x85;
        let insn = insns.get(slot as usize)?;
        let relo = prog.core_relos.iter().find(|relo| relo.insn_off == slot)?;
        if insn.code != CALL || insn.src() != 0 || insn.imm != POISON_IMM {
            return None;
        }
        let text = describe(self.spec.btf.as_ref()?, relo)?;
        Some(format!("failed to resolve CO-RE relocation {text}"))
    }

    fn load_program(
        &self,
        system: &Arc<System>,
        resolver: &mut Resolver<'_>,
        prog: &ProgSpec,
        maps: &[(String, Arc<MapObject>)],
        options: &LoadOptions,
    ) -> Result<Arc<Program>, Box<LoadError>> {
        let attr = self
            .prog_attr(system, resolver, prog, maps, options)
            .map_err(|error| {
                Box::new(LoadError {
                    program: prog.name.clone(),
                    error,
                    log: String::new(),
                    insn_idx: None,
                    is_unjudged: false,
                })
            })?;
        let insns = attr.insns.clone();
        Program::load(system, attr).map_err(|mut error| {
            error.program.clone_from(&prog.name);
            if let Some(explained) = error
                .insn_idx
                .and_then(|slot| self.explain_slot(prog, &insns, slot))
            {
                error.error.message = explained;
            }
            if let Some(log) = self.explain_log(prog, &error.log) {
                error.log = log;
            }
            error
        })
    }

    fn fill_prog_arrays(
        &self,
        loaded: &LoadedObject,
        programs: &BTreeMap<usize, Arc<Program>>,
    ) -> Result<(), Error> {
        for (spec, (_, map)) in self.spec.maps.iter().zip(&loaded.maps) {
            for (key, slot) in &spec.slots {
                let SlotSpec::Prog(index) = slot else {
                    continue;
                };
                if let Some(program) = programs.get(index) {
                    set_program(map, *key, program)?;
                }
            }
        }
        Ok(())
    }
}

/// Extensions, and programs on entries and exits of functions.
fn may_attach_to_programs(prog: &ProgSpec) -> bool {
    let attach_type = AttachType::from_raw(prog.expected_attach_type);
    match prog.prog_type {
        ProgType::Ext => true,
        ProgType::Tracing => matches!(
            attach_type,
            Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn)
        ),
        _ => false,
    }
}

/// BTF that BPF_BTF_LOAD refuses is left out where nothing needs it, as libbpf does.
fn drop_refused_btf(spec: &mut ObjectSpec) -> Result<(), Error> {
    let Some(btf) = &spec.btf else { return Ok(()) };
    if let Err(errno) = ring3_btf::check::check(btf.bytes(), CheckOptions::default(), None) {
        if spec.needs_btf() {
            return Err(Error::new(
                errno,
                format!("object '{}': BTF is refused", spec.name),
            ));
        }
        spec.btf = None;
    }
    Ok(())
}

fn records(rec_size: u32, count: usize, bytes: Vec<u8>) -> InfoRecords {
    InfoRecords {
        rec_size,
        count: count as u32,
        bytes,
    }
}

/// First value of a global data map; read-only ones are frozen.
fn fill_global_data(map: &Arc<Map>, spec: &MapSpec) -> Result<(), Error> {
    let named = |errno| Error::new(errno, format!("map '{}': first value", spec.name));
    if let Some(data) = &spec.data {
        map.sys_update(
            Access::ReadWrite,
            &0u32.to_ne_bytes(),
            data,
            map_elem::ANY,
            &ring3_maps::fd::NoFds,
        )
        .map_err(named)?;
    }
    let is_constant = matches!(spec.origin, MapOrigin::Rodata | MapOrigin::Kconfig);
    if is_constant && spec.map_flags & map_create::RDONLY_PROG != 0 {
        map.sys_freeze(Access::ReadWrite).map_err(named)?;
    }
    Ok(())
}

/// A descriptor table with one entry, for updates that take a map or program.
struct OneFd {
    map: Option<Arc<Map>>,
    prog: Option<ProgSlot>,
}

impl FdTable for OneFd {
    fn prog(&self, _fd: u32) -> Result<ProgSlot, Errno> {
        self.prog.clone().ok_or(Errno::EBADF)
    }

    fn map(&self, _fd: u32) -> Result<Arc<Map>, Errno> {
        self.map.clone().ok_or(Errno::EBADF)
    }
}

fn update_slot(map: &Arc<Map>, key: u32, fds: &OneFd) -> Result<(), Error> {
    map.sys_update(
        Access::ReadWrite,
        &key.to_ne_bytes(),
        &0u32.to_ne_bytes(),
        map_elem::ANY,
        fds,
    )
    .map_err(|errno| Error::new(errno, format!("map '{}': slot {key}", map.attr().name)))
}

/// Stores a program in a slot of a prog array.
///
/// # Errors
/// EINVAL: no prog array, or it belongs to programs of another kind. E2BIG: no such slot.
pub fn set_program(map: &MapObject, key: u32, program: &Arc<Program>) -> Result<(), Error> {
    update_slot(
        map.map(),
        key,
        &OneFd {
            map: None,
            prog: Some(program.array_slot()),
        },
    )
}

/// The maps and programs of an object, alive as long as this value or who took them.
pub struct LoadedObject {
    maps: Vec<(String, Arc<MapObject>)>,
    programs: Vec<(String, Arc<Program>)>,
    rejected: Vec<(String, LoadError)>,
}

impl LoadedObject {
    /// The program with this name.
    ///
    /// # Errors
    /// ENOENT, with the names there are.
    pub fn program(&self, name: &str) -> Result<&Arc<Program>, Error> {
        self.programs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, program)| program)
            .ok_or_else(|| {
                let names: Vec<_> = self
                    .programs
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .collect();
                Error::new(
                    Errno::ENOENT,
                    format!("no program '{name}', there are: {}", names.join(", ")),
                )
            })
    }

    /// The map with this name.
    ///
    /// # Errors
    /// ENOENT, with the names there are.
    pub fn map_object(&self, name: &str) -> Result<&Arc<MapObject>, Error> {
        self.maps
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, map)| map)
            .ok_or_else(|| {
                let names: Vec<_> = self.maps.iter().map(|(name, _)| name.as_str()).collect();
                Error::new(
                    Errno::ENOENT,
                    format!("no map '{name}', there are: {}", names.join(", ")),
                )
            })
    }

    /// A typed view of the map with this name.
    ///
    /// # Errors
    /// ENOENT: no such map. EINVAL: key or value have another size.
    pub fn map<K: Plain, V: Plain>(&self, name: &str) -> Result<TypedMap<K, V>, Error> {
        Ok(TypedMap::new(Arc::clone(self.map_object(name)?.map()))?)
    }

    /// Every program, in the object's order.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Arc<Program>)> {
        self.programs
            .iter()
            .map(|(name, program)| (name.as_str(), program))
    }

    /// Every map, in the object's order.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Arc<MapObject>)> {
        self.maps.iter().map(|(name, map)| (name.as_str(), map))
    }

    /// Programs that were not loaded, with the reason.
    pub fn rejected(&self) -> impl Iterator<Item = (&str, &LoadError)> {
        self.rejected
            .iter()
            .map(|(name, error)| (name.as_str(), error))
    }

    /// Stores a program of the object in a slot of a prog array.
    ///
    /// # Errors
    /// ENOENT: no such map or program. EINVAL: the array belongs to programs of another kind. E2BIG: no such slot.
    pub fn set_tail_call(&self, map: &str, slot: u32, program: &str) -> Result<(), Error> {
        set_program(self.map_object(map)?, slot, self.program(program)?)
    }
}
