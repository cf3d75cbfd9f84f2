//! `Program`: a verified, linked and compiled program, and the pipeline that makes one.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
    time::SystemTime,
};

use parking_lot::Mutex;
use ring3_btf::{Btf, Kind, TypeId};
use ring3_isa::RawInsn;
use ring3_maps::{OwnerKey, ProgSlot};
use ring3_runtime::{
    Entry, InArray, IteratorTarget, Limit, LimitedEntry, ProgObject, ProgRef, RunStats, Task,
    current_task,
};
use ring3_spec::{
    AttachTarget, CtxView, FdObject, InfoRecords, LoadRequest, Privilege, VerifiedProgram,
    ctx::CtxTable,
};
use ring3_uapi::{AttachType, Errno, ProgType, flags::prog_load, limits::TAG_BYTES};
use ring3_verifier::{Log, RejectKind, verify};

use crate::{
    AuditEvent, AuditOp, BtfObject, EngineKind, Error, JitOptions, LoadError, MapObject, Observe,
    System,
    engine::Engine,
    link::{Held, link},
    tag::compute_tag,
    target::{self, Extension},
};

/// What BPF_PROG_LOAD gets, with fds resolved.
#[derive(Clone)]
pub struct ProgAttr {
    /// Type.
    pub prog_type: ProgType,
    /// `expected_attach_type`, raw.
    pub expected_attach_type: u32,
    /// `prog_flags`
    pub flags: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// License text.
    pub license: String,
    /// Instruction slots.
    pub insns: Vec<RawInsn>,
    /// Maps by the number that instructions name them with.
    pub maps: BTreeMap<i32, Arc<MapObject>>,
    /// `fd_array`
    pub fd_array: Option<Vec<i32>>,
    /// `fd_array_cnt` was given: all of `fd_array` is checked at once.
    pub fd_array_is_counted: bool,
    /// BTF by the number that `fd_array` or instructions name it with.
    pub btf_fds: BTreeMap<i32, Btf>,
    /// Numbers that are open files, but neither maps nor BTF.
    pub other_fds: Vec<i32>,
    /// BTF of the program.
    pub btf: Option<Btf>,
    /// `func_info`
    pub func_info: InfoRecords,
    /// `line_info`
    pub line_info: InfoRecords,
    /// `core_relos`
    pub core_relos: InfoRecords,
    /// `attach_btf_id`
    pub attach_btf_id: TypeId,
    /// What `attach_btf_id` refers to.
    pub attach: AttachTarget,
    /// `attach_prog_fd`: the program that it refers to. It takes the place of `attach`.
    pub attach_prog: Option<Arc<Program>>,
    /// Who loads.
    pub privilege: Privilege,
    /// Level of the verifier's log: bits 1, 2, 4.
    pub log_level: u32,
    /// Which engine runs it.
    pub engine: EngineKind,
    /// How the compiler works, if it is the engine: blinding for programs that are not trusted.
    pub jit: JitOptions,
    /// After how many jumps back, or after what time, its runs are stopped; the compiler only.
    pub limit: Limit,
    /// Who is told where compiled code is.
    pub observe: Observe,
}

impl ProgAttr {
    /// A fully privileged GPL program without maps or BTF, for the JIT.
    pub fn new(prog_type: ProgType, insns: Vec<RawInsn>) -> ProgAttr {
        ProgAttr {
            prog_type,
            expected_attach_type: 0,
            flags: 0,
            name: String::new(),
            license: "GPL".to_owned(),
            insns,
            maps: BTreeMap::new(),
            fd_array: None,
            fd_array_is_counted: false,
            btf_fds: BTreeMap::new(),
            other_fds: Vec::new(),
            btf: None,
            func_info: InfoRecords::default(),
            line_info: InfoRecords::default(),
            core_relos: InfoRecords::default(),
            attach_btf_id: TypeId(0),
            attach: AttachTarget::Kernel,
            attach_prog: None,
            privilege: Privilege::FULL,
            log_level: 0,
            engine: EngineKind::default(),
            jit: JitOptions::default(),
            limit: Limit::default(),
            observe: Observe::default(),
        }
    }

    /// The program type and expected attach type (raw) whose context and helpers the program has: those of its target for an extension.
    pub fn runs_as(&self) -> (ProgType, u32) {
        match (self.prog_type, &self.attach, &self.attach_prog) {
            (ProgType::Ext, _, Some(prog)) => prog.attr.runs_as(),
            (ProgType::Ext, AttachTarget::Prog(target), None) => {
                (target.prog_type, target.expected_attach_type)
            }
            _ => (self.prog_type, self.expected_attach_type),
        }
    }

    /// The verifier's view of the request, and the maps in the order it indexes them.
    pub fn request(&self, system: &System) -> (LoadRequest, Vec<Arc<MapObject>>) {
        let mut request = LoadRequest::new(self.prog_type, self.insns.clone());
        let mut maps: Vec<Arc<MapObject>> = Vec::new();
        for (&fd, map) in &self.maps {
            let index = maps
                .iter()
                .position(|known| Arc::ptr_eq(known, map))
                .unwrap_or_else(|| {
                    maps.push(Arc::clone(map));
                    request.maps.push(Arc::new(map.info()));
                    maps.len() - 1
                });
            request.fds.insert(fd, FdObject::Map(index));
        }
        request.expected_attach_type = self.expected_attach_type;
        request.flags = self.flags;
        request.name.clone_from(&self.name);
        request.license.clone_from(&self.license);
        for (&fd, btf) in &self.btf_fds {
            request.fds.insert(fd, FdObject::Btf(btf.clone()));
        }
        for &fd in &self.other_fds {
            request.fds.insert(fd, FdObject::Other);
        }
        request.fd_array.clone_from(&self.fd_array);
        request.fd_array_is_counted = self.fd_array_is_counted;
        request.btf.clone_from(&self.btf);
        request.func_info = self.func_info.clone();
        request.line_info = self.line_info.clone();
        request.core_relos = self.core_relos.clone();
        request.kernel_btf = system.kernel_btf();
        request.kernel_variables = system.has_kernel_variables();
        request.attach_btf_id = self.attach_btf_id;
        request.attach = match &self.attach_prog {
            Some(prog) => AttachTarget::Prog(Arc::new(prog.as_target())),
            None => self.attach.clone(),
        };
        if let AttachTarget::Kernel = request.attach {
            request.target_traits = system.target_traits(self.attach_btf_id);
        }
        request.privilege = self.privilege;
        request.notes_held = self.limit.is_some();
        request.keeps_dead_code = self.engine == EngineKind::Watched;
        (request, maps)
    }
}

/// A loaded program.
pub struct Program {
    id: u32,
    attr: ProgAttr,
    tag: [u8; TAG_BYTES],
    verified: Arc<VerifiedProgram>,
    engine: Engine,
    /// What hooks call instead of the engine's entry, for runs with a limit.
    limited: Option<Box<LimitedEntry>>,
    /// What the engine's code names by address.
    _held: Held,
    log: String,
    loaded_at: SystemTime,
    loaded_by: Task,
    run_stats: RunStats,
    /// Maps in the order the verifier indexes them.
    maps: Vec<Arc<MapObject>>,
    /// For a program of a host's type: its context, and the types it was verified with.
    host_context: Option<(&'static CtxTable, Btf)>,
    /// Name of the kernel function that it is for.
    hook: Option<String>,
    /// What prog arrays compare of the function it attaches to.
    attach_func_proto: u64,
    /// The program it was loaded to be attached to, until it is.
    pub(crate) target: Mutex<Option<Arc<Program>>>,
    /// Whether it may be extended.
    pub(crate) extension: Mutex<Extension>,
    /// See [`Program::traced`].
    pub(crate) traced: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// Maps that a caller tied to it beside those it uses.
    bound_maps: Mutex<Vec<Arc<MapObject>>>,
    btf_object: OnceLock<Arc<BtfObject>>,
    system: Weak<System>,
}

impl Program {
    /// Verifies, links and compiles a program.
    ///
    /// # Errors
    /// What the verifier says; ENOTSUPP where a helper has no implementation or an engine cannot run an instruction yet. Nothing is left
    /// behind.
    pub fn load(system: &Arc<System>, attr: ProgAttr) -> Result<Arc<Program>, Box<LoadError>> {
        let mut log = Log::new(attr.log_level);
        Self::load_logged(system, attr, &mut log)
    }

    /// As [`Self::load`], with a log of the caller's, at its level, that may keep only a part.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_logged(
        system: &Arc<System>,
        mut attr: ProgAttr,
        log: &mut Log,
    ) -> Result<Arc<Program>, Box<LoadError>> {
        let (request, maps) = attr.request(system);
        attr.attach = request.attach.clone();
        attr.jit.keeps_calls |= system.keeps_calls();
        let target = attr.attach_prog.take();
        let verified = match verify(&request, system.registry(), log) {
            Ok(verified) => Arc::new(verified),
            Err(error) => {
                return Err(Box::new(LoadError {
                    program: attr.name,
                    error: Error::new(error.errno, error.last_words()),
                    log: log.as_str().to_owned(),
                    insn_idx: error.insn_idx,
                    is_unjudged: error.kind == RejectKind::Unjudged,
                }));
            }
        };
        let log = log.as_str().to_owned();
        let kernel = request.kernel_btf.as_ref();
        let engine = link(system, &attr, kernel, &verified, &maps).and_then(|(linked, held)| {
            let engine = Engine::compile(attr.engine, &attr.jit, linked)?;
            announce(&attr, &verified, &engine)?;
            Ok((limited(&attr, &engine)?, engine, held))
        });
        let (limited, engine, held) = match engine {
            Ok(made) => made,
            Err(error) => {
                return Err(Box::new(LoadError {
                    program: attr.name,
                    error,
                    log,
                    insn_idx: None,
                    is_unjudged: false,
                }));
            }
        };
        let tag = compute_tag(&attr.insns);
        let attach_func_proto = target::func_proto(&request, target.as_deref());
        let host_context = match system.registry().prog_type(attr.runs_as().0).ctx {
            CtxView::Custom(table) => request.kernel_btf.clone().map(|btf| (table, btf)),
            _ => None,
        };
        let hook = hook_name(&attr, target.as_deref(), request.kernel_btf.as_ref());
        let loaded_by = current_task();
        let run_stats = RunStats::new(system.stats_switch());
        let program = system.register_program(|id, system| Program {
            id,
            attr,
            tag,
            verified,
            engine,
            limited,
            _held: held,
            log,
            loaded_at: SystemTime::now(),
            loaded_by,
            run_stats,
            maps,
            host_context,
            hook,
            attach_func_proto,
            target: Mutex::new(target),
            extension: Mutex::default(),
            traced: OnceLock::new(),
            bound_maps: Mutex::default(),
            btf_object: OnceLock::new(),
            system,
        });
        if let Err(error) = program.claim_prog_arrays() {
            return Err(Box::new(LoadError {
                program: program.name().to_owned(),
                error,
                log: program.log.clone(),
                insn_idx: None,
                is_unjudged: false,
            }));
        }
        let owner: Weak<dyn Any + Send + Sync> = Arc::downgrade(&program) as _;
        program.engine.set_owner(&owner);
        system.audit(&program.audit_event(AuditOp::Load));
        Ok(program)
    }

    /// The first program that uses a prog array decides who may enter it.
    fn claim_prog_arrays(&self) -> Result<(), Error> {
        for map in self.used_maps() {
            if let Some(array) = map.map().downcast::<ring3_maps::ProgArray>() {
                array.claim(&self.array_key()).map_err(|errno| {
                    Error::new(
                        errno,
                        format!("map '{}': belongs to programs of another kind", map.name()),
                    )
                })?;
            }
        }
        Ok(())
    }

    /// What prog arrays compare.
    pub(crate) fn array_key(&self) -> OwnerKey {
        let (prog_type, attach_type) = self.attr.runs_as();
        let mut key = OwnerKey::new(prog_type, self.attr.engine == EngineKind::Jit);
        key.xdp_has_frags = self.attr.flags & prog_load::XDP_HAS_FRAGS != 0;
        key.expected_attach_type = AttachType::from_raw(attach_type);
        key.attach_func_proto = self.attach_func_proto;
        key
    }

    fn audit_event(&self, op: AuditOp) -> AuditEvent {
        let comm = String::from_utf8_lossy(&self.loaded_by.comm);
        AuditEvent {
            prog_id: self.id,
            op,
            pid: self.loaded_by.tgid,
            uid: self.loaded_by.uid,
            comm: comm.trim_end_matches('\0').to_owned(),
        }
    }

    /// The maps it uses, in the order in which it named them first.
    pub fn used_maps(&self) -> impl Iterator<Item = &Arc<MapObject>> {
        let used = self.verified.used_maps.iter();
        used.filter_map(|&index| self.maps.get(index))
    }

    /// Ties a map to the program, which holds it from now on; once is enough.
    pub fn bind_map(&self, map: &Arc<MapObject>) {
        let mut bound = self.bound_maps.lock();
        let is_known = self
            .used_maps()
            .chain(bound.iter())
            .any(|known| Arc::ptr_eq(known, map));
        if !is_known {
            bound.push(Arc::clone(map));
        }
    }

    /// Ids of the maps it uses, then of those tied to it.
    pub fn map_ids(&self) -> Vec<u32> {
        let bound = self.bound_maps.lock();
        self.used_maps()
            .chain(bound.iter())
            .map(|map| map.id())
            .collect()
    }

    /// The map that instruction facts name with this index.
    pub fn map_by_index(&self, index: u32) -> Option<&Arc<MapObject>> {
        self.maps.get(index as usize)
    }

    /// The program as a prog array stores it.
    pub fn array_slot(self: &Arc<Self>) -> ProgSlot {
        ProgSlot {
            entry: self.tail_target(),
            id: self.id,
            owner_key: self.array_key(),
            keep: Arc::clone(self) as ProgRef,
        }
    }

    /// Holds the object that its BTF came from, so that its id lives as long as the program; once only.
    pub fn hold_btf(&self, object: Arc<BtfObject>) {
        self.btf_object.get_or_init(|| object);
    }

    /// The object that its BTF came from, if it has an id.
    pub fn btf_object(&self) -> Option<&Arc<BtfObject>> {
        self.btf_object.get()
    }

    /// The task that loaded it.
    pub fn loaded_by(&self) -> &Task {
        &self.loaded_by
    }

    /// Name, at most 15 bytes.
    pub fn name(&self) -> &str {
        &self.attr.name
    }

    /// Type.
    pub fn prog_type(&self) -> ProgType {
        self.attr.prog_type
    }

    /// What it was loaded from.
    pub fn attr(&self) -> &ProgAttr {
        &self.attr
    }

    /// Tag: hash of the instructions.
    pub fn tag(&self) -> [u8; TAG_BYTES] {
        self.tag
    }

    /// When it was loaded.
    pub fn loaded_at(&self) -> SystemTime {
        self.loaded_at
    }

    /// What it ran, at hooks and on traced functions, while somebody held [`System::enable_stats`].
    pub fn runs(&self) -> &RunStats {
        &self.run_stats
    }

    /// The verifier's output.
    pub fn verified(&self) -> &Arc<VerifiedProgram> {
        &self.verified
    }

    /// The verifier's log at the level asked for.
    pub fn verifier_log(&self) -> &str {
        &self.log
    }

    /// Which engine runs it, and its code.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs that its limit ended; each returned 0.
    pub fn stopped_runs(&self) -> u64 {
        let limited = self.limited.as_ref();
        limited.map_or(0, |limited| limited.stopped_runs())
    }

    /// The system it belongs to, if that is still alive.
    pub fn system(&self) -> Option<Arc<System>> {
        self.system.upgrade()
    }
}

/// Tells perf and debuggers, if asked to, in the kernel's names.
fn announce(attr: &ProgAttr, verified: &VerifiedProgram, engine: &Engine) -> Result<(), Error> {
    let Engine::Jit(compiled) = engine else {
        return Ok(());
    };
    if attr.observe == Observe::default() {
        return Ok(());
    }
    let tag: String = compute_tag(&attr.insns)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let names: Vec<String> = verified
        .subprogs
        .iter()
        .enumerate()
        .map(|(index, subprog)| match (index, subprog.name.as_str()) {
            (0, "") => format!("bpf_prog_{tag}_{}", attr.name),
            (_, "") => format!("bpf_prog_{tag}_F{index}"),
            (_, name) => format!("bpf_prog_{tag}_{name}"),
        })
        .collect();
    compiled
        .announce(&names, attr.observe)
        .map_err(|error| Error::new(Errno::EIO, format!("map file for perf: {error}")))
}

/// The entry for runs with a limit, if they have one.
fn limited(attr: &ProgAttr, engine: &Engine) -> Result<Option<Box<LimitedEntry>>, Error> {
    if !attr.limit.is_some() {
        return Ok(None);
    }
    if attr.engine != EngineKind::Jit {
        return Err(Error::new(
            Errno::ENOTSUPP,
            format!(
                "program '{}': the interpreter's runs have no limit",
                attr.name
            ),
        ));
    }
    LimitedEntry::new(engine.entry(), attr.limit)
        .map(Some)
        .map_err(|errno| Error::new(errno, "no thread for the watchdog"))
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(system) = self.system.upgrade() {
            system.forget_program(self.id);
            system.audit(&self.audit_event(AuditOp::Unload));
        }
    }
}

/// The kernel function that `attach_btf_id` names.
fn hook_name(attr: &ProgAttr, target: Option<&Program>, kernel: Option<&Btf>) -> Option<String> {
    let names_function = matches!(attr.prog_type, ProgType::Tracing | ProgType::Lsm);
    let is_kernel = target.is_none() && matches!(attr.attach, AttachTarget::Kernel);
    let ty = kernel?.type_by_id(attr.attach_btf_id)?;
    (names_function && is_kernel && ty.kind() == Kind::Func).then(|| ty.name().to_owned())
}

impl ProgObject for Program {
    fn id(&self) -> u32 {
        self.id
    }

    fn entry(&self) -> Entry {
        match &self.limited {
            Some(limited) => limited.entry(),
            None => self.engine.entry(),
        }
    }

    fn tail_target(&self) -> usize {
        self.engine.tail_target()
    }

    fn prog_type(&self) -> ProgType {
        self.attr.prog_type
    }

    fn host_context(&self) -> Option<(&'static CtxTable, &Btf)> {
        self.host_context.as_ref().map(|(table, btf)| (*table, btf))
    }

    fn iterates(&self) -> Option<IteratorTarget> {
        let attach_type = AttachType::from_raw(self.attr.expected_attach_type);
        if self.attr.prog_type != ProgType::Tracing || attach_type != Some(AttachType::TraceIter) {
            return None;
        }
        let btf = self.system()?.kernel_btf()?;
        let name = btf.name(self.attr.attach_btf_id);
        let name = name.strip_prefix("bpf_iter_")?.to_owned();
        Some(IteratorTarget {
            name,
            access: self.verified.max_buf_access,
            btf,
        })
    }

    fn hook(&self) -> Option<&str> {
        self.hook.as_deref()
    }

    fn is_sleepable(&self) -> bool {
        self.attr.flags & prog_load::SLEEPABLE != 0
    }

    fn run_stats(&self) -> Option<&RunStats> {
        Some(&self.run_stats)
    }

    fn in_array(&self, change: InArray) -> Result<(), Errno> {
        self.extension.lock().in_array(change)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
