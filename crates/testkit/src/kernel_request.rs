//! A load request handed to the running kernel: its maps and BTF are made once, then it is loaded as often as wanted, also with other
//! instructions. Key types: [`KernelRequest`], [`Answer`]. Neighbours: `corpus_kernel`, `mutants` (who ask); `cargo xtask bench verifier` times loads.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::Rc,
};

use ring3_btf::Btf;
use ring3_os::bpf_load::{
    MapCreate, ProgLoad, btf_load, map_create, map_freeze, map_update, prog_load,
};
use ring3_os::time::thread_cpu_ns;
use ring3_spec::{FdObject, InfoRecords, LoadRequest, MapInfo};
use ring3_uapi::{Errno, MapType, flags::map_create as map_create_flags};

use crate::parity::{LOG_LEVEL, stats_of};

/// `BPF_LOG_STATS`
pub const LOG_LEVEL_STATS: u32 = 4;

/// Room for a log.
const LOG_BYTES: usize = 1 << 24;

/// The kernel's answer.
pub struct Answer {
    /// Positive, or 0.
    pub errno: i32,
    /// As the kernel wrote it.
    pub log: String,
    /// The whole log was too long: this one is at [`LOG_LEVEL_STATS`].
    pub is_cut: bool,
}

/// What a request names, in the running kernel.
pub struct KernelRequest {
    maps: Vec<OwnedFd>,
    btf: Option<Rc<OwnedFd>>,
    /// A descriptor that is no map.
    other: File,
}

impl KernelRequest {
    /// Creates the maps and loads the BTF of a request.
    ///
    /// # Errors
    /// What cannot be set up.
    pub fn create(request: &LoadRequest) -> Result<KernelRequest, String> {
        if request.attach_btf_id.0 != 0 || request.fd_array.is_some() {
            return Err("needs an attach target or an fd_array".to_owned());
        }
        let mut btfs = Btfs::default();
        let mut maps: Vec<OwnedFd> = Vec::new();
        for map in &request.maps {
            let fd = create(map, &mut btfs).map_err(|errno| {
                format!("a map of type {} cannot be made: {errno}", map.map_type)
            })?;
            maps.push(fd);
        }
        let btf = match &request.btf {
            Some(btf) => Some(btfs.load(btf).map_err(|errno| format!("BTF: {errno}"))?),
            None => None,
        };
        Ok(KernelRequest {
            maps,
            btf,
            other: File::open("/dev/null").map_err(|error| error.to_string())?,
        })
    }

    /// Loads a request that names the same objects as the one this was created for. A program that is accepted is closed again.
    pub fn load(&self, request: &LoadRequest) -> Answer {
        self.load_up_to(request, u64::MAX)
    }

    /// As [`KernelRequest::load`]; for a program that takes more than so many instructions, the log has the statistics only: the kernel
    /// needs minutes for the longest logs.
    pub fn load_up_to(&self, request: &LoadRequest, processed_max: u64) -> Answer {
        if processed_max != u64::MAX {
            let (result, log) = self.load_at(request, LOG_LEVEL_STATS);
            if stats_of(&log).is_some_and(|[processed, ..]| processed > processed_max) {
                return Answer {
                    errno: result.map_or_else(Errno::raw, |_| 0),
                    log,
                    is_cut: true,
                };
            }
        }
        let (mut result, mut log) = self.load_at(request, LOG_LEVEL);
        let is_cut = matches!(result, Err(Errno::ENOSPC));
        if is_cut {
            (result, log) = self.load_at(request, LOG_LEVEL_STATS);
        }
        Answer {
            errno: result.map_or_else(Errno::raw, |_| 0),
            log,
            is_cut,
        }
    }

    /// Nanoseconds of this thread's CPU time for one load without a log, as [`KernelRequest::load`].
    ///
    /// # Errors
    /// The kernel rejects it.
    pub fn load_ns(&self, request: &LoadRequest) -> Result<u64, Errno> {
        self.with_attr(request, 0, |attr| {
            let begin = thread_cpu_ns();
            let (loaded, _log) = prog_load(attr, 0);
            let took = thread_cpu_ns() - begin;
            loaded.map(|_prog| took)
        })
    }

    fn load_at(&self, request: &LoadRequest, log_level: u32) -> (Result<OwnedFd, Errno>, String) {
        self.with_attr(request, log_level, |attr| prog_load(attr, LOG_BYTES))
    }

    fn with_attr<R>(
        &self,
        request: &LoadRequest,
        log_level: u32,
        load: impl FnOnce(&ProgLoad<'_>) -> R,
    ) -> R {
        let mut insns = request.insns.clone();
        let mut is_second = false;
        for insn in &mut insns {
            // The second slot of a wide instruction is no instruction.
            let is_first = !is_second && insn.is_ld_imm64();
            is_second = is_first;
            if is_first && matches!(insn.src(), 1 | 2) {
                insn.imm = match request.fds.get(&insn.imm) {
                    Some(FdObject::Map(index)) => self.maps[*index].as_raw_fd(),
                    Some(FdObject::Btf(_) | FdObject::Other) => self.other.as_raw_fd(),
                    None => -1,
                };
            }
        }
        let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        let info = |records: &InfoRecords| (records.rec_size, records.bytes.clone());
        let (func_info, line_info) = (info(&request.func_info), info(&request.line_info));
        load(&ProgLoad {
            prog_type: request.prog_type.raw(),
            expected_attach_type: request.expected_attach_type,
            prog_flags: request.flags,
            insns: &bytes,
            license: &request.license,
            name: &request.name,
            btf: self.btf.as_ref().map(|fd| fd.as_fd()),
            func_info: (func_info.0, &func_info.1),
            line_info: (line_info.0, &line_info.1),
            log_level,
            ..ProgLoad::default()
        })
    }
}

/// The flags of a call were read from a map that existed: the kernel adds read-only values to those of devmaps, and refuses to be asked
/// for them.
fn created_flags(map: &MapInfo) -> u32 {
    match map.map_type {
        MapType::Devmap | MapType::DevmapHash => map.map_flags & !map_create_flags::RDONLY_PROG,
        _ => map.map_flags,
    }
}

/// BTF that was loaded: of maps and program it is one object where the request has one.
#[derive(Default)]
struct Btfs(Vec<(Btf, Rc<OwnedFd>)>);

impl Btfs {
    fn load(&mut self, btf: &Btf) -> Result<Rc<OwnedFd>, Errno> {
        if let Some((_, fd)) = self.0.iter().find(|(known, _)| known.is_same(btf)) {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(btf_load(btf.bytes())?);
        self.0.push((btf.clone(), Rc::clone(&fd)));
        Ok(fd)
    }
}

fn create(map: &MapInfo, btfs: &mut Btfs) -> Result<OwnedFd, Errno> {
    let inner = match &map.inner {
        Some(inner) => Some(create(inner, btfs)?),
        None => None,
    };
    let btf = match &map.btf {
        Some(btf) if map.key_type_id.0 != 0 || map.value_type_id.0 != 0 => Some(btfs.load(btf)?),
        Some(_) | None => None,
    };
    let fd = map_create(&MapCreate {
        map_type: map.map_type.raw(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        map_flags: created_flags(map),
        map_extra: map.map_extra,
        name: &map.name,
        inner: inner.as_ref().map(AsFd::as_fd),
        btf: btf
            .as_ref()
            .map(|fd| (fd.as_fd(), map.key_type_id.0, map.value_type_id.0)),
    })?;
    if let Some(contents) = &map.contents {
        map_update(fd.as_fd(), &0u32.to_ne_bytes(), contents, 0)?;
    }
    if map.frozen {
        map_freeze(fd.as_fd())?;
    }
    Ok(fd)
}
