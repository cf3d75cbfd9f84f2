//! The running kernel as a peer: a bench object's maps and programs, and timed test runs. Key types: [`KernelObject`], [`KernelProgram`].
//!
//! Beside `ring3_testkit::kernel`, which asks for logs: here programs stay loaded to be run. Nothing is attached or pinned.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ring3::{btf::ext::write_records, uapi::Errno};
use ring3_elf::{MapSpec, ObjectSpec};
use ring3_os::bpf_load::{
    MapCreate, ProgLoad, btf_load, map_create, map_update, prog_load, prog_test_run,
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

impl<'a> KernelObject<'a> {
    /// Creates the maps. The bench programs have no global data and no maps of maps.
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
            object.maps.push(fd);
        }
        Ok(object)
    }

    fn create_map(&self, map: &MapSpec) -> Result<OwnedFd, Errno> {
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
            inner: None,
            btf,
        })
    }

    /// Sets an element of a map.
    pub(crate) fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        let index = self.index(map)?;
        map_update(self.maps[index].as_fd(), key, value, 0)
    }

    /// Bytes of memory that the kernel accounts to a map.
    pub(crate) fn mem_usage(&self, map: &str) -> Result<u64, Errno> {
        let index = self.index(map)?;
        let fd = self.maps[index].as_raw_fd();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
            .map_err(|_| Errno::ENOENT)?;
        text.lines()
            .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
            .ok_or(Errno::ENOENT)
    }

    fn index(&self, map: &str) -> Result<usize, Errno> {
        self.spec
            .maps
            .iter()
            .position(|spec| spec.name == map)
            .ok_or(Errno::ENOENT)
    }

    /// Stores a program in a prog array.
    pub(crate) fn update_prog(&self, map: &str, slot: u32, prog: &OwnedFd) -> Result<(), Errno> {
        self.update(
            map,
            &slot.to_ne_bytes(),
            &(prog.as_raw_fd() as u32).to_ne_bytes(),
        )
    }

    /// Loads the program with this name, at log level 0.
    pub(crate) fn load(&self, name: &str) -> Result<OwnedFd, Errno> {
        let prog = self.spec.progs.iter().find(|prog| prog.name == name);
        let prog = prog.ok_or(Errno::ENOENT)?;
        let mut insns = prog.insns.clone();
        for reference in &prog.map_refs {
            if let (Some(insn), Some(map)) = (
                insns.get_mut(reference.insn_idx as usize),
                self.maps.get(reference.map),
            ) {
                insn.imm = map.as_raw_fd();
            }
        }
        let insns: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        let func_info = write_records(&prog.func_info);
        let (result, _log) = prog_load(
            &ProgLoad {
                prog_type: prog.prog_type.raw(),
                expected_attach_type: prog.expected_attach_type,
                prog_flags: prog.prog_flags,
                insns: &insns,
                license: &self.spec.license,
                name: prog.kernel_name(),
                btf: self.btf.as_ref().map(|fd| fd.as_fd()),
                func_info: match &self.btf {
                    Some(_) => (8, &func_info),
                    None => (0, &[]),
                },
                ..ProgLoad::default()
            },
            0,
        );
        result
    }
}

/// Runs before a sample of programs whose memory has to be near.
pub(crate) const WARM_RUNS: u32 = 3;

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

    /// The same with short samples: more of them are undisturbed on a busy machine.
    pub(crate) fn with_short_samples(mut self) -> Self {
        self.repeat = (self.repeat / 8).max(4);
        self
    }

    /// [`KernelProgram::sample_ns`] after some runs that are not counted.
    pub(crate) fn warm_sample_ns(&self) -> f64 {
        // A failure shows in the sample.
        let _ = prog_test_run(self.prog.as_fd(), &self.packet, &[], WARM_RUNS);
        self.sample_ns()
    }

    /// The same with so many runs a sample.
    pub(crate) fn with_repeat(mut self, repeat: u32) -> Self {
        self.repeat = repeat;
        self
    }

    /// Mean nanoseconds of a run, with what the kernel does around one.
    pub(crate) fn sample_ns(&self) -> f64 {
        prog_test_run(self.prog.as_fd(), &self.packet, &[], self.repeat)
            .map_or(f64::INFINITY, |run| f64::from(run.duration_ns))
    }
}
