//! A load request of our verifier, given to the running kernel: the same maps, BTF and instructions. Key type: [`KernelRequest`].
//!
//! Nothing is attached or pinned; a program is closed as soon as its load is timed.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ring3::{
    btf::Btf,
    spec::{FdObject, LoadRequest, MapInfo},
    uapi::Errno,
};
use ring3_os::bpf_load::{
    MapCreate, ProgLoad, btf_load, map_create, map_freeze, map_update, prog_load,
};
use ring3_os::time::thread_cpu_ns;

/// Source register of a two-slot load that names a map, or a map's value, by descriptor.
const PSEUDO_MAP: [u8; 2] = [1, 2];
/// The same by index of `fd_array`.
const PSEUDO_MAP_INDEX: [u8; 2] = [5, 6];

/// A request with its objects in the kernel.
pub(crate) struct KernelRequest<'a> {
    request: &'a LoadRequest,
    btf: Option<OwnedFd>,
    insns: Vec<u8>,
    _maps: Vec<OwnedFd>,
}

impl<'a> KernelRequest<'a> {
    /// Creates the objects.
    ///
    /// # Errors
    /// ENOTSUPP: the request attaches to a function or uses `fd_array`, which this does not pass on. Else what the kernel says.
    pub(crate) fn create(request: &'a LoadRequest) -> Result<KernelRequest<'a>, Errno> {
        let is_plain = request.attach_btf_id.0 == 0 && request.fd_array.is_none();
        if !is_plain {
            return Err(Errno::ENOTSUPP);
        }
        let btf = load_btf(request.btf.as_ref())?;
        let maps = request
            .maps
            .iter()
            .map(|map| create_map(map))
            .collect::<Result<Vec<_>, _>>()?;
        let mut insns = request.insns.clone();
        let mut at = 0;
        while let Some(insn) = insns.get_mut(at) {
            at += if insn.is_ld_imm64() { 2 } else { 1 };
            if !insn.is_ld_imm64() {
                continue;
            }
            if PSEUDO_MAP_INDEX.contains(&insn.src()) {
                return Err(Errno::ENOTSUPP);
            }
            if PSEUDO_MAP.contains(&insn.src()) {
                match request.fds.get(&insn.imm) {
                    Some(FdObject::Map(index)) => insn.imm = maps[*index].as_raw_fd(),
                    _ => return Err(Errno::EBADF),
                }
            }
        }
        Ok(KernelRequest {
            request,
            btf,
            insns: insns.iter().flat_map(|insn| insn.to_bytes()).collect(),
            _maps: maps,
        })
    }

    /// Nanoseconds of one load at log level 0.
    ///
    /// # Errors
    /// The kernel rejects it.
    pub(crate) fn load_ns(&self) -> Result<f64, Errno> {
        let request = self.request;
        let records = |info: &'a ring3::spec::InfoRecords| -> (u32, &'a [u8]) {
            match &self.btf {
                Some(_) if info.count != 0 => (info.rec_size, &info.bytes),
                _ => (0, &[]),
            }
        };
        let attr = ProgLoad {
            prog_type: request.prog_type.raw(),
            expected_attach_type: request.expected_attach_type,
            prog_flags: request.flags,
            insns: &self.insns,
            license: &request.license,
            name: &request.name,
            btf: self.btf.as_ref().map(|fd| fd.as_fd()),
            func_info: records(&request.func_info),
            line_info: records(&request.line_info),
            attach_btf_id: 0,
            log_level: 0,
        };
        let begin = thread_cpu_ns();
        let (loaded, _log) = prog_load(&attr, 0);
        let took = (thread_cpu_ns() - begin) as f64;
        loaded.map(|_prog| took)
    }
}

fn load_btf(btf: Option<&Btf>) -> Result<Option<OwnedFd>, Errno> {
    btf.map(|btf| btf_load(btf.bytes())).transpose()
}

fn create_map(map: &MapInfo) -> Result<OwnedFd, Errno> {
    let inner = match &map.inner {
        Some(inner) => Some(create_map(inner)?),
        None => None,
    };
    let has_types = map.key_type_id.0 != 0 || map.value_type_id.0 != 0;
    let btf = load_btf(map.btf.as_ref().filter(|_| has_types))?;
    let fd = map_create(&MapCreate {
        map_type: map.map_type.raw(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        map_flags: map.map_flags,
        map_extra: map.map_extra,
        name: &map.name,
        inner: inner.as_ref().map(|fd| fd.as_fd()),
        btf: btf
            .as_ref()
            .map(|fd| (fd.as_fd(), map.key_type_id.0, map.value_type_id.0)),
    })?;
    if let Some(contents) = map.contents.as_ref().filter(|_| map.max_entries == 1) {
        map_update(fd.as_fd(), &0u32.to_ne_bytes(), contents, 0)?;
    }
    if map.frozen {
        map_freeze(fd.as_fd())?;
    }
    Ok(fd)
}
