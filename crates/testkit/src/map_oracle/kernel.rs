//! The running kernel as a subject of the map oracle, by bpf(2). It creates maps, loads and test-runs small programs, attaches nothing.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ring3_os::bpf::{Buffer, call, open};
use ring3_os::map::{Prot, Region};
use ring3_uapi::{Cmd, MapType, ProgType};

use super::{Answer, Batch, BatchCall, Bytes, Create, Elem, Errno, Subject};

/// Bytes of the attributes that are passed; the rest of `bpf_attr` is zero.
const ATTR_BYTES: usize = 128;

struct KernelMap {
    fd: OwnedFd,
    id: u32,
    map_type: MapType,
    key_bytes: usize,
    value_bytes: usize,
    sys_value_bytes: usize,
    /// Where the last batch lookup stopped.
    batch_token: Vec<u8>,
}

/// The running kernel.
#[derive(Default)]
pub struct Kernel {
    maps: BTreeMap<String, KernelMap>,
    mappings: Vec<Region>,
    special: BTreeMap<&'static str, OwnedFd>,
    cpus: usize,
}

/// Attributes under construction.
struct Attr([u8; ATTR_BYTES]);

impl Attr {
    fn new() -> Self {
        Attr([0; ATTR_BYTES])
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn get_u32(&self, offset: usize) -> u32 {
        self.0[offset..]
            .first_chunk()
            .copied()
            .map_or(0, u32::from_ne_bytes)
    }
}

fn raw(errno: ring3_uapi::Errno) -> Errno {
    errno.raw()
}

impl Kernel {
    /// A subject without maps.
    pub fn new() -> Self {
        let mut special = BTreeMap::new();
        if let Ok(socket) = std::net::UdpSocket::bind("127.0.0.1:0") {
            special.insert("sock", OwnedFd::from(socket));
        }
        if let Ok(file) =
            ring3_os::memfd::Memfd::create("oracle", 4096, ring3_os::memfd::Seals::None)
                .and_then(|file| file.try_clone_fd())
        {
            special.insert("file", file);
        }
        if let Ok(this) = ring3_os::cpu::pidfd_self() {
            special.insert("self", this);
        }
        Kernel {
            cpus: ring3_os::cpu::possible_cpus(),
            special,
            ..Kernel::default()
        }
    }

    fn map(&self, name: &str) -> Result<&KernelMap, Errno> {
        self.maps.get(name).ok_or(ring3_uapi::Errno::EBADF.raw())
    }

    fn fd(&self, name: &str) -> u32 {
        let special = self.special.get(name).map(AsRawFd::as_raw_fd);
        let fd = special.or_else(|| self.maps.get(name).map(|map| map.fd.as_raw_fd()));
        fd.map_or(u32::MAX, |fd| fd as u32)
    }

    fn bytes(&self, bytes: &Bytes) -> Option<Vec<u8>> {
        match bytes {
            Bytes::Null => None,
            Bytes::Given(bytes) => Some(bytes.clone()),
            Bytes::PerCpu(bytes) => Some(bytes.repeat(self.cpus)),
            Bytes::Fd(name) => Some(
                name.as_ref()
                    .map_or(u32::MAX, |name| self.fd(name))
                    .to_ne_bytes()
                    .to_vec(),
            ),
        }
    }

    /// Runs a program that calls one helper on a map: the helper's result and the first bytes of the value it found.
    fn run_program(
        &self,
        name: &str,
        elem: Elem,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> Result<Answer, Errno> {
        let map = self.map(name)?;
        let results = Attr::new()
            .u32(0, MapType::Array.raw())
            .u32(4, 4)
            .u32(8, 16)
            .u32(12, 1);
        let mut results = results;
        let results = open(Cmd::MapCreate.raw(), &mut results.0, &mut []).map_err(raw)?;
        let insns = program(
            elem,
            map.fd.as_raw_fd(),
            results.as_raw_fd(),
            key,
            value,
            map.value_bytes,
            flags,
        );
        let mut insns: Vec<u8> = insns.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut license = *b"GPL\0";
        let mut load = Attr::new()
            .u32(0, ProgType::SchedCls.raw())
            .u32(4, (insns.len() / 8) as u32);
        let buffers = &mut [
            Buffer {
                attr_offset: 8,
                bytes: &mut insns,
            },
            Buffer {
                attr_offset: 16,
                bytes: &mut license,
            },
        ];
        let program = open(Cmd::ProgLoad.raw(), &mut load.0, buffers).map_err(raw)?;
        let mut packet = [0; 64];
        let mut run = Attr::new()
            .u32(0, program.as_raw_fd() as u32)
            .u32(8, packet.len() as u32)
            .u32(32, 1);
        call(
            Cmd::ProgTestRun.raw(),
            &mut run.0,
            &mut [Buffer {
                attr_offset: 16,
                bytes: &mut packet,
            }],
        )
        .map_err(raw)?;
        let (mut index, mut answer) = ([0; 4], [0; 16]);
        let mut look = Attr::new().u32(0, results.as_raw_fd() as u32);
        let buffers = &mut [
            Buffer {
                attr_offset: 8,
                bytes: &mut index,
            },
            Buffer {
                attr_offset: 16,
                bytes: &mut answer,
            },
        ];
        call(Cmd::MapLookupElem.raw(), &mut look.0, buffers).map_err(raw)?;
        let result = answer.first_chunk().copied().map_or(0, i64::from_ne_bytes);
        let has_value = match elem {
            Elem::ProgLookup => result != 0,
            Elem::ProgPop | Elem::ProgPeek => result == 0,
            _ => false,
        };
        let bytes = has_value.then(|| answer[8..8 + map.value_bytes.min(8)].to_vec());
        Ok(Answer {
            result,
            bytes,
            ..Answer::default()
        })
    }
}

/// Registers and opcodes of the little programs.
mod code {
    pub(super) const MOV64_IMM: u8 = 0xb7;
    pub(super) const MOV64_REG: u8 = 0xbf;
    pub(super) const ADD64_IMM: u8 = 0x07;
    pub(super) const ST_B: u8 = 0x72;
    pub(super) const LDX_B: u8 = 0x71;
    pub(super) const STX_B: u8 = 0x73;
    pub(super) const STX_DW: u8 = 0x7b;
    pub(super) const LD_IMM64: u8 = 0x18;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
    pub(super) const JEQ_IMM: u8 = 0x15;
    pub(super) const PSEUDO_MAP_FD: u8 = 1;
    pub(super) const PSEUDO_MAP_VALUE: u8 = 2;
}

fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
    u64::from(code)
        | u64::from(dst | src << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(imm as u32) << 32
}

/// The program: key and value on the stack, one helper, its result and what it found into the results map.
fn program(
    elem: Elem,
    map: i32,
    results: i32,
    key: &[u8],
    value: &[u8],
    value_bytes: usize,
    flags: u64,
) -> Vec<u64> {
    use code::*;
    let value_at = -(value_bytes.max(value.len()).next_multiple_of(8) as i16);
    let key_at = value_at - key.len().next_multiple_of(8) as i16;
    let mut insns = Vec::new();
    for (at, byte) in key.iter().enumerate() {
        insns.push(insn(ST_B, 10, 0, key_at + at as i16, i32::from(*byte)));
    }
    let filler = vec![0; value_bytes];
    for (at, byte) in (if value.is_empty() { &filler[..] } else { value })
        .iter()
        .enumerate()
    {
        insns.push(insn(ST_B, 10, 0, value_at + at as i16, i32::from(*byte)));
    }
    let load_map = |insns: &mut Vec<u64>, register, pseudo, fd| {
        insns.push(insn(LD_IMM64, register, pseudo, 0, fd));
        insns.push(0);
    };
    let stack = |insns: &mut Vec<u64>, register, at: i16| {
        insns.push(insn(MOV64_REG, register, 10, 0, 0));
        insns.push(insn(ADD64_IMM, register, 0, 0, i32::from(at)));
    };
    load_map(&mut insns, 6, PSEUDO_MAP_VALUE, results);
    load_map(&mut insns, 1, PSEUDO_MAP_FD, map);
    let helper = match elem {
        Elem::ProgUpdate => {
            stack(&mut insns, 2, key_at);
            stack(&mut insns, 3, value_at);
            insns.push(insn(LD_IMM64, 4, 0, 0, flags as i32));
            insns.push(flags >> 32 << 32);
            2
        }
        Elem::ProgDelete => {
            stack(&mut insns, 2, key_at);
            3
        }
        Elem::ProgPush => {
            stack(&mut insns, 2, value_at);
            insns.push(insn(LD_IMM64, 3, 0, 0, flags as i32));
            insns.push(flags >> 32 << 32);
            87
        }
        Elem::ProgPop => {
            stack(&mut insns, 2, value_at);
            88
        }
        Elem::ProgPeek => {
            stack(&mut insns, 2, value_at);
            89
        }
        _ => {
            stack(&mut insns, 2, key_at);
            1
        }
    };
    insns.push(insn(CALL, 0, 0, 0, helper));
    let shown = value_bytes.min(8) as i16;
    match elem {
        Elem::ProgLookup => {
            // Found: 1 and the value's first bytes; not found: 0.
            let body = 3 + 2 * shown;
            insns.push(insn(JEQ_IMM, 0, 0, body, 0));
            insns.push(insn(MOV64_REG, 7, 0, 0, 0));
            insns.push(insn(MOV64_IMM, 1, 0, 0, 1));
            insns.push(insn(STX_DW, 6, 1, 0, 0));
            for at in 0..shown {
                insns.push(insn(LDX_B, 1, 7, at, 0));
                insns.push(insn(STX_B, 6, 1, 8 + at, 0));
            }
        }
        Elem::ProgPop | Elem::ProgPeek => {
            insns.push(insn(STX_DW, 6, 0, 0, 0));
            for at in 0..shown {
                insns.push(insn(LDX_B, 1, 10, value_at + at, 0));
                insns.push(insn(STX_B, 6, 1, 8 + at, 0));
            }
        }
        _ => insns.push(insn(STX_DW, 6, 0, 0, 0)),
    }
    insns.push(insn(MOV64_IMM, 0, 0, 0, 0));
    insns.push(insn(EXIT, 0, 0, 0, 0));
    insns
}

/// BTF of two types: 1 an int of 4 bytes, 2 an array of as many as a value needs.
fn load_btf(value_bytes: u32) -> Result<OwnedFd, ring3_uapi::Errno> {
    let strings = b"\0int\0";
    let types: [u32; 10] = [
        1,
        1 << 24,
        4,
        32 | 1 << 24,
        0,
        3 << 24,
        0,
        1,
        1,
        value_bytes / 4,
    ];
    let type_bytes = size_of_val(&types) as u32;
    let mut blob = Vec::new();
    blob.extend(0xeb9f_u16.to_le_bytes());
    blob.extend([1, 0]);
    for word in [24, 0, type_bytes, type_bytes, strings.len() as u32]
        .iter()
        .chain(&types)
    {
        blob.extend(word.to_le_bytes());
    }
    blob.extend(strings);
    let mut attr = Attr::new().u32(16, blob.len() as u32);
    open(
        Cmd::BtfLoad.raw(),
        &mut attr.0[..28],
        &mut [Buffer {
            attr_offset: 0,
            bytes: &mut blob,
        }],
    )
}

impl Subject for Kernel {
    fn create(&mut self, name: &str, create: &Create) -> Result<(), Errno> {
        let map_type =
            MapType::from_name(&create.map_type).ok_or(ring3_uapi::Errno::EINVAL.raw())?;
        let inner = create.inner.as_ref().map_or(0, |inner| self.fd(inner));
        let mut attr = Attr::new()
            .u32(0, map_type.raw())
            .u32(4, create.key_size)
            .u32(8, create.value_size)
            .u32(12, create.max_entries)
            .u32(16, create.map_flags)
            .u32(20, inner)
            .u32(24, create.numa_node)
            .u64(64, create.map_extra);
        let text = create.name.as_bytes();
        attr.0[28..28 + text.len().min(16)].copy_from_slice(&text[..text.len().min(16)]);
        let btf = if create.btf {
            Some(load_btf(create.value_size).map_err(raw)?)
        } else {
            None
        };
        if let Some(btf) = &btf {
            attr = attr.u32(48, btf.as_raw_fd() as u32).u32(52, 1).u32(56, 2);
        }
        let fd = open(Cmd::MapCreate.raw(), &mut attr.0[..80], &mut []).map_err(raw)?;
        let mut info = [0; 80];
        let mut get = Attr::new()
            .u32(0, fd.as_raw_fd() as u32)
            .u32(4, info.len() as u32);
        call(
            Cmd::ObjGetInfoByFd.raw(),
            &mut get.0[..16],
            &mut [Buffer {
                attr_offset: 8,
                bytes: &mut info,
            }],
        )
        .map_err(raw)?;
        let id = info[4..]
            .first_chunk()
            .copied()
            .map_or(0, u32::from_ne_bytes);
        let value_bytes = create.value_size as usize;
        let sys_value_bytes = match map_type {
            MapType::PercpuArray
            | MapType::PercpuHash
            | MapType::LruPercpuHash
            | MapType::PercpuCgroupStorageDeprecated => value_bytes.next_multiple_of(8) * self.cpus,
            MapType::ProgArray
            | MapType::PerfEventArray
            | MapType::CgroupArray
            | MapType::ArrayOfMaps
            | MapType::HashOfMaps => 4,
            _ => value_bytes,
        };
        let key_bytes = create.key_size as usize;
        self.maps.insert(
            name.to_owned(),
            KernelMap {
                fd,
                id,
                map_type,
                key_bytes,
                value_bytes,
                sys_value_bytes,
                batch_token: Vec::new(),
            },
        );
        Ok(())
    }

    fn elem(
        &mut self,
        name: &str,
        elem: Elem,
        key: &Bytes,
        value: &Bytes,
        flags: u64,
    ) -> Result<Answer, Errno> {
        let map = self.map(name)?;
        let mut key = self.bytes(key);
        let given = self.bytes(value);
        let command = match elem {
            Elem::Lookup => Cmd::MapLookupElem,
            Elem::Update => Cmd::MapUpdateElem,
            Elem::Delete => Cmd::MapDeleteElem,
            Elem::NextKey => Cmd::MapGetNextKey,
            Elem::LookupAndDelete => Cmd::MapLookupAndDeleteElem,
            _ => {
                return self.run_program(
                    name,
                    elem,
                    key.as_deref().unwrap_or_default(),
                    given.as_deref().unwrap_or_default(),
                    flags,
                );
            }
        };
        let returns = matches!(elem, Elem::Lookup | Elem::NextKey | Elem::LookupAndDelete);
        let out_bytes = if elem == Elem::NextKey {
            map.key_bytes
        } else {
            map.sys_value_bytes
        };
        let mut bytes = given
            .clone()
            .unwrap_or_else(|| vec![0; if returns { out_bytes } else { 0 }]);
        let mut attr = Attr::new().u32(0, map.fd.as_raw_fd() as u32).u64(24, flags);
        let mut buffers = Vec::new();
        if let Some(key) = &mut key {
            buffers.push(Buffer {
                attr_offset: 8,
                bytes: key,
            });
        }
        if returns || given.is_some() {
            buffers.push(Buffer {
                attr_offset: 16,
                bytes: &mut bytes,
            });
        }
        call(command.raw(), &mut attr.0[..32], &mut buffers).map_err(raw)?;
        let mut answer = Answer::default();
        if returns {
            let is_id = elem != Elem::NextKey
                && matches!(map.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps);
            let id = bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes);
            if is_id {
                let named = self.maps.iter().find(|(_, map)| map.id == id);
                answer.id_of = Some(named.map_or("unknown".to_owned(), |(name, _)| name.clone()));
            } else {
                answer.bytes = Some(bytes);
            }
        }
        Ok(answer)
    }

    fn batch(&mut self, name: &str, given: &BatchCall) -> (Answer, Result<(), Errno>) {
        let BatchCall {
            batch,
            continues,
            count,
            ref keys,
            ref values,
            elem_flags: flags,
        } = *given;
        let (fd, key_bytes, value_bytes, mut token) = match self.map(name) {
            Ok(map) => (
                map.fd.as_raw_fd() as u32,
                map.key_bytes,
                map.sys_value_bytes,
                map.batch_token.clone(),
            ),
            Err(errno) => return (Answer::default(), Err(errno)),
        };
        let (command, reads) = match batch {
            Batch::Lookup => (Cmd::MapLookupBatch, true),
            Batch::LookupAndDelete => (Cmd::MapLookupAndDeleteBatch, true),
            Batch::Update => (Cmd::MapUpdateBatch, false),
            Batch::Delete => (Cmd::MapDeleteBatch, false),
        };
        let mut keys = if reads {
            vec![0; key_bytes * count as usize]
        } else {
            keys.to_vec()
        };
        let mut values = if reads {
            vec![0; value_bytes * count as usize]
        } else {
            values.to_vec()
        };
        let mut out_token = vec![0; key_bytes.max(4)];
        // 77 shows where the kernel leaves the count alone.
        let mut attr = Attr::new().u32(32, count).u32(36, fd).u64(40, flags);
        let mut buffers = vec![
            Buffer {
                attr_offset: 16,
                bytes: &mut keys,
            },
            Buffer {
                attr_offset: 24,
                bytes: &mut values,
            },
        ];
        if reads {
            if continues {
                buffers.push(Buffer {
                    attr_offset: 0,
                    bytes: &mut token,
                });
            }
            buffers.push(Buffer {
                attr_offset: 8,
                bytes: &mut out_token,
            });
        }
        let outcome = call(command.raw(), &mut attr.0[..56], &mut buffers)
            .map(drop)
            .map_err(raw);
        let done = attr.get_u32(32);
        let mut answer = Answer {
            count: Some(done),
            ..Answer::default()
        };
        if reads {
            let taken = if matches!(outcome, Ok(()) | Err(2)) {
                done as usize
            } else {
                0
            };
            keys.truncate(taken * key_bytes);
            values.truncate(taken * value_bytes);
            if matches!(
                self.maps.get(name).map(|map| map.map_type),
                Some(MapType::ArrayOfMaps | MapType::HashOfMaps)
            ) {
                // Ids differ from run to run.
                values.fill(0);
            }
            answer.batch = Some((keys, values));
            if let Some(map) = self.maps.get_mut(name) {
                map.batch_token = out_token;
            }
        }
        (answer, outcome)
    }

    fn freeze(&mut self, name: &str) -> Result<(), Errno> {
        let mut attr = Attr::new().u32(0, self.map(name)?.fd.as_raw_fd() as u32);
        call(Cmd::MapFreeze.raw(), &mut attr.0[..4], &mut [])
            .map(drop)
            .map_err(raw)
    }

    fn mmap(
        &mut self,
        name: &str,
        page: usize,
        pages: usize,
        writable: bool,
    ) -> Result<Answer, Errno> {
        let bytes = ring3_os::cpu::page_bytes();
        let prot = if writable {
            Prot::ReadWrite
        } else {
            Prot::Read
        };
        let region = Region::shared(
            self.map(name)?.fd.as_fd(),
            page * bytes,
            pages * bytes,
            prot,
        )
        .map_err(raw)?;
        self.mappings.push(region);
        Ok(Answer::default())
    }

    fn munmap(&mut self) {
        self.mappings.clear();
    }

    fn close(&mut self, name: &str) {
        self.maps.remove(name);
    }

    fn sizes(&self, name: &str) -> (usize, usize) {
        self.maps
            .get(name)
            .map_or((0, 0), |map| (map.key_bytes, map.sys_value_bytes))
    }
}

/// Records every script of a folder anew: the answers of the running kernel.
///
/// # Errors
/// A file that cannot be read or written, a line that is not understood, or bpf(2) not being permitted: then nothing is changed.
pub fn record(folder: &std::path::Path) -> Result<Vec<String>, String> {
    // Per-CPU values are told apart by CPU.
    ring3_os::cpu::bind_to_cpu(0).map_err(|errno| format!("cannot stay on CPU 0: {errno}"))?;
    let mut probe = Kernel::new();
    let array = Create {
        map_type: "array".to_owned(),
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..Create::default()
    };
    probe
        .create("probe", &array)
        .map_err(|errno| format!("bpf(2) is not permitted here: {}", super::errno_name(errno)))?;
    let mut recorded = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
    {
        let script = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut kernel = Kernel::new();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned();
        let body: String = script
            .lines()
            .filter(|line| !line.starts_with("# kernel "))
            .flat_map(|line| [line, "\n"])
            .collect();
        let cpus = kernel.cpus;
        let answers = super::run(&body, &mut kernel, cpus)
            .map_err(|what| format!("{}: {what}", path.display()))?;
        std::fs::write(path, format!("# kernel {release}\n{answers}"))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        recorded.push(
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        );
    }
    Ok(recorded)
}
