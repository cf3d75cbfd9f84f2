//! From a filetest to a load: into ring3's verifier and into the running kernel. Neighbours: `filetest` (the format),
//! `kernel` (objects in the running kernel).

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use ring3_btf::TypeId;
use ring3_isa::RawInsn;
use ring3_os::bpf_load::{MapCreate, ProgLoad, map_create, prog_load};
use ring3_spec::{FdObject, LoadRequest, MapInfo, Registry};
use ring3_uapi::Errno;
use ring3_verifier::{Log, verify};

use super::{FileTest, Loader, TestMap, files, oracle_path};
use crate::{
    corpus_kernel::run_without_perfmon, fixture::Recorded, kernel::release, log_mask::mask_log,
};

/// Level of the log.
const LEVEL: u32 = 2;

/// Room for the log of a filetest.
const LOG_BYTES: usize = 1 << 22;

/// The argument with which the recorder starts itself without CAP_PERFMON and CAP_SYS_ADMIN.
pub const INSIDE: &str = "asm-no-perfmon";

/// Whether an instruction is a two-slot load that names a map by descriptor.
pub(super) fn names_map(insn: RawInsn) -> bool {
    insn.code == 0x18 && matches!(insn.src(), 1 | 2)
}

impl TestMap {
    /// Its name in logs.
    pub fn name(&self) -> String {
        format!("m{}", self.number)
    }

    fn info(&self, known: &BTreeMap<i32, Arc<MapInfo>>) -> MapInfo {
        MapInfo {
            id: self.number as u32 + 1,
            map_type: self.map_type,
            name: self.name(),
            key_size: self.key_size,
            value_size: self.value_size,
            max_entries: self.max_entries,
            map_flags: self.map_flags,
            map_extra: 0,
            frozen: false,
            contents: None,
            btf: None,
            key_type_id: TypeId(0),
            value_type_id: TypeId(0),
            record: None,
            inner: self.inner.and_then(|inner| known.get(&inner).cloned()),
        }
    }
}

impl FileTest {
    /// The load as the verifier takes it.
    pub fn request(&self) -> LoadRequest {
        let mut request = LoadRequest::new(self.prog_type, self.insns.clone());
        request.expected_attach_type = self.attach_type;
        request.flags = self.prog_flags;
        request.privilege = self.loader.privilege();
        let mut known = BTreeMap::new();
        for (at, map) in self.maps.iter().enumerate() {
            let info = Arc::new(map.info(&known));
            known.insert(map.number, info.clone());
            request.fds.insert(map.number, FdObject::Map(at));
            request.maps.push(info);
        }
        request
    }

    /// What ring3 answers: positive errno or 0, and the masked log.
    pub fn verify(&self, registry: &Registry) -> (i32, String) {
        let mut log = Log::new(LEVEL);
        let errno = match verify(&self.request(), registry, &mut log) {
            Ok(_) => 0,
            Err(error) => error.errno.raw(),
        };
        (errno, mask_log(&log.into_string(), &self.insns))
    }
}

/// What the running kernel answers.
///
/// # Errors
/// A map cannot be created, or the kernel's release cannot be read.
pub fn load(test: &FileTest) -> io::Result<Recorded> {
    let mut maps: BTreeMap<i32, OwnedFd> = BTreeMap::new();
    for map in &test.maps {
        let fd = create(map, &maps).map_err(|errno| {
            io::Error::other(format!("{}: map {}: {errno}", test.name, map.number))
        })?;
        maps.insert(map.number, fd);
    }
    let mut insns = test.insns.clone();
    for insn in insns.iter_mut().filter(|insn| names_map(**insn)) {
        if let Some(fd) = maps.get(&insn.imm) {
            insn.imm = fd.as_raw_fd();
        }
    }
    let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let (result, log) = prog_load(
        &ProgLoad {
            prog_type: test.prog_type.raw(),
            expected_attach_type: test.attach_type,
            prog_flags: test.prog_flags,
            insns: &bytes,
            license: "GPL",
            log_level: LEVEL,
            ..ProgLoad::default()
        },
        LOG_BYTES,
    );
    Ok(Recorded {
        kernel: release()?,
        level: LEVEL,
        errno: result.map_or_else(Errno::raw, |_| 0),
        log: mask_log(&log, &test.insns),
    })
}

fn create(map: &TestMap, known: &BTreeMap<i32, OwnedFd>) -> Result<OwnedFd, Errno> {
    map_create(&MapCreate {
        map_type: map.map_type.raw(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        map_flags: map.map_flags,
        name: &map.name(),
        inner: map
            .inner
            .and_then(|inner| known.get(&inner))
            .map(|fd| fd.as_fd()),
        ..MapCreate::default()
    })
}

/// Records the kernel's answers to every file; those without CAP_PERFMON by starting itself again under setpriv(1). Files
/// without any capability are left out: where `unprivileged_bpf_disabled` is set, the answer would be about that only.
///
/// # Errors
/// A file is wrong, an answer cannot be written, or setpriv(1) fails.
pub fn record() -> io::Result<usize> {
    let mut count = record_for(Loader::Full)?;
    if !run_without_perfmon(&[INSIDE.as_ref()])? {
        return Err(io::Error::other("without CAP_PERFMON"));
    }
    for path in files()? {
        count += usize::from(FileTest::read(&path)?.loader == Loader::NoPerfmon);
    }
    Ok(count)
}

/// Records the answers to the files with this loader.
///
/// # Errors
/// A file is wrong or an answer cannot be written.
pub fn record_for(loader: Loader) -> io::Result<usize> {
    let mut count = 0;
    for path in files()? {
        let test = FileTest::read(&path)?;
        if test.loader != loader {
            continue;
        }
        let recorded = load(&test)?;
        for wrong in test.check(recorded.errno, &recorded.log) {
            eprintln!("the kernel differs from the file: {wrong}");
        }
        let path = oracle_path(&test.name);
        fs::create_dir_all(path.parent().expect("below the fixtures"))?;
        fs::write(path, recorded.to_text())?;
        count += 1;
    }
    Ok(count)
}
