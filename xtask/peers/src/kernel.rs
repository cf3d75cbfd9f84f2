//! The running kernel as a peer: loads without a log, as fast as bpf(2) takes them, and timed test runs. Key type: [`KernelObject`].
//!
//! Beside `ring3_testkit::kernel`, which asks for logs: here only time counts, and programs stay loaded to be run. Nothing is attached or
//! pinned.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Instant,
};

use ring3::{
    btf::ext::write_records,
    uapi::{Errno, flags::map_create as map_flags},
};
use ring3_elf::{MapOrigin, MapSpec, ObjectSpec, ProgSpec};
use ring3_os::bpf_load::{
    MapCreate, ProgLoad, btf_load, map_create, map_freeze, map_update, prog_load, prog_test_run,
};
use ring3_testkit::kernel::release;

pub(crate) use ring3_testkit::kernel::is_permitted;

/// `kernel RELEASE`, as references are called.
pub(crate) fn name() -> String {
    format!("kernel {}", release().unwrap_or_default())
}

/// An object with its maps in the kernel.
pub(crate) struct KernelObject<'a> {
    spec: &'a ObjectSpec,
    btf: Option<OwnedFd>,
    maps: Vec<OwnedFd>,
}

/// A program with everything that its load needs at hand.
pub(crate) struct Prepared<'a> {
    object: &'a KernelObject<'a>,
    prog: &'a ProgSpec,
    insns: Vec<u8>,
    func_info: Vec<u8>,
    line_info: Vec<u8>,
}

impl<'a> KernelObject<'a> {
    /// Creates the maps, with the first values of global data.
    pub(crate) fn create(spec: &'a ObjectSpec) -> Result<KernelObject<'a>, Errno> {
        let btf = match &spec.btf {
            Some(btf) => match btf_load(btf.bytes()) {
                Err(errno) if spec.needs_btf() => return Err(errno),
                loaded => loaded.ok(),
            },
            None => None,
        };
        let mut object = KernelObject {
            spec,
            btf,
            maps: Vec::new(),
        };
        for map in &spec.maps {
            let fd = object.create_map(map)?;
            if let Some(data) = &map.data {
                map_update(fd.as_fd(), &0u32.to_ne_bytes(), data, 0)?;
            }
            let is_constant = matches!(map.origin, MapOrigin::Rodata | MapOrigin::Kconfig);
            if is_constant && map.map_flags & map_flags::RDONLY_PROG != 0 {
                map_freeze(fd.as_fd())?;
            }
            object.maps.push(fd);
        }
        Ok(object)
    }

    fn create_map(&self, map: &MapSpec) -> Result<OwnedFd, Errno> {
        let inner = match &map.inner {
            Some(inner) => Some(self.create_map(inner)?),
            None => None,
        };
        let (key, value) = map.create_type_ids();
        let btf = self
            .btf
            .as_ref()
            .filter(|_| key.0 != 0 || value.0 != 0)
            .map(|fd| (fd.as_fd(), key.0, value.0));
        map_create(&MapCreate {
            map_type: map.map_type,
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            map_flags: map.map_flags,
            map_extra: map.map_extra,
            name: map.kernel_name(),
            inner: inner.as_ref().map(|fd| fd.as_fd()),
            btf,
        })
    }

    /// Sets an element of a map.
    pub(crate) fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        let index = self
            .spec
            .maps
            .iter()
            .position(|spec| spec.name == map)
            .ok_or(Errno::ENOENT)?;
        map_update(self.maps[index].as_fd(), key, value, 0)
    }

    /// Stores a program in a prog array.
    pub(crate) fn update_prog(&self, map: &str, slot: u32, prog: &OwnedFd) -> Result<(), Errno> {
        self.update(
            map,
            &slot.to_ne_bytes(),
            &(prog.as_raw_fd() as u32).to_ne_bytes(),
        )
    }

    /// Puts a program's load together.
    pub(crate) fn prepare(&'a self, prog: &'a ProgSpec) -> Prepared<'a> {
        let mut insns = prog.insns.clone();
        for reference in &prog.map_refs {
            if let (Some(insn), Some(map)) = (
                insns.get_mut(reference.insn_idx as usize),
                self.maps.get(reference.map),
            ) {
                insn.imm = map.as_raw_fd();
            }
        }
        Prepared {
            object: self,
            prog,
            insns: insns.iter().flat_map(|insn| insn.to_bytes()).collect(),
            func_info: write_records(&prog.func_info),
            line_info: write_records(&prog.line_info),
        }
    }

    /// Loads the program with this name.
    pub(crate) fn load(&self, name: &str) -> Result<OwnedFd, Errno> {
        let prog = self.spec.progs.iter().find(|prog| prog.name == name);
        self.prepare(prog.ok_or(Errno::ENOENT)?).load()
    }
}

impl Prepared<'_> {
    /// BPF_PROG_LOAD at log level 0.
    pub(crate) fn load(&self) -> Result<OwnedFd, Errno> {
        let has_btf = self.object.btf.is_some();
        let (result, _log) = prog_load(
            &ProgLoad {
                prog_type: self.prog.prog_type.raw(),
                expected_attach_type: self.prog.expected_attach_type,
                prog_flags: self.prog.prog_flags,
                insns: &self.insns,
                license: &self.object.spec.license,
                name: self.prog.kernel_name(),
                btf: self.object.btf.as_ref().map(|fd| fd.as_fd()),
                func_info: if has_btf {
                    (8, &self.func_info)
                } else {
                    (0, &[])
                },
                line_info: if has_btf {
                    (16, &self.line_info)
                } else {
                    (0, &[])
                },
                log_level: 0,
            },
            0,
        );
        result
    }

    /// Nanoseconds of one load; infinity if it fails.
    pub(crate) fn load_ns(&self) -> f64 {
        let begin = Instant::now();
        let loaded = self.load();
        let took = begin.elapsed().as_nanos() as f64;
        if loaded.is_ok() { took } else { f64::INFINITY }
    }
}

/// A program in the kernel that test runs measure.
pub(crate) struct KernelProgram {
    prog: OwnedFd,
    packet: Vec<u8>,
    repeat: u32,
}

impl KernelProgram {
    /// Chooses the repetitions of a sample after one short run; also says what the program returns.
    pub(crate) fn new(prog: OwnedFd, packet: &[u8]) -> Result<(KernelProgram, u32), Errno> {
        const SAMPLE_NS: u32 = 300_000;
        let first = prog_test_run(prog.as_fd(), packet, &[], 1)?;
        let short = prog_test_run(prog.as_fd(), packet, &[], 100)?;
        let program = KernelProgram {
            prog,
            packet: packet.to_owned(),
            repeat: (SAMPLE_NS / short.duration_ns.max(1)).clamp(10, 20_000),
        };
        Ok((program, first.retval))
    }

    /// Mean nanoseconds of a run, with what the kernel does around one.
    pub(crate) fn sample_ns(&self) -> f64 {
        prog_test_run(self.prog.as_fd(), &self.packet, &[], self.repeat)
            .map_or(f64::INFINITY, |run| f64::from(run.duration_ns))
    }
}
