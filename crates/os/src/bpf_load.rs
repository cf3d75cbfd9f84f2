//! Loading into the host's kernel: typed bpf(2) commands for oracles.
//!
//! # Source
//! `union bpf_attr` of linux/bpf.h, Linux 6.18; offsets in the comments of each call.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::{
    Errno,
    bpf::{Buffer, call, open},
};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const TEST_RUN: u32 = 10;
const BTF_LOAD: u32 = 18;
const MAP_FREEZE: u32 = 22;

/// Attribute bytes under construction.
struct Attr(Vec<u8>);

impl Attr {
    fn new(size: usize) -> Attr {
        Attr(vec![0; size])
    }

    fn put32(&mut self, at: usize, value: u32) -> &mut Attr {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn put64(&mut self, at: usize, value: u64) -> &mut Attr {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }
}

/// Copies a name into its 16-byte field, cut to 15 bytes.
fn put_name(attr: &mut Attr, at: usize, name: &str) {
    let len = name.len().min(15);
    attr.0[at..at + len].copy_from_slice(&name.as_bytes()[..len]);
}

/// What BPF_MAP_CREATE takes.
#[derive(Clone, Debug, Default)]
pub struct MapCreate<'a> {
    /// `map_type`
    pub map_type: u32,
    /// `key_size`
    pub key_size: u32,
    /// `value_size`
    pub value_size: u32,
    /// `max_entries`
    pub max_entries: u32,
    /// `map_flags`
    pub map_flags: u32,
    /// `map_extra`
    pub map_extra: u64,
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// Template of a map of maps.
    pub inner: Option<BorrowedFd<'a>>,
    /// BTF of key and value, with the two type ids.
    pub btf: Option<(BorrowedFd<'a>, u32, u32)>,
}

/// BPF_MAP_CREATE.
///
/// # Errors
/// The errno of the call.
pub fn map_create(map: &MapCreate<'_>) -> Result<OwnedFd, Errno> {
    let mut attr = Attr::new(92);
    attr.put32(0, map.map_type)
        .put32(4, map.key_size)
        .put32(8, map.value_size)
        .put32(12, map.max_entries);
    attr.put32(16, map.map_flags)
        .put32(20, map.inner.map_or(0, |fd| fd.as_raw_fd() as u32));
    put_name(&mut attr, 28, map.name);
    if let Some((fd, key, value)) = map.btf {
        attr.put32(48, fd.as_raw_fd() as u32)
            .put32(52, key)
            .put32(56, value);
    }
    attr.put64(64, map.map_extra);
    open(MAP_CREATE, &mut attr.0, &mut [])
}

/// BPF_MAP_UPDATE_ELEM of a key and value given as bytes; they must have the map's sizes.
///
/// # Errors
/// The errno of the call.
pub fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
    let mut attr = Attr::new(32);
    attr.put32(0, map.as_raw_fd() as u32).put64(24, flags);
    let (mut key, mut value) = (key.to_owned(), value.to_owned());
    let buffers = &mut [
        Buffer {
            attr_offset: 8,
            bytes: &mut key,
        },
        Buffer {
            attr_offset: 16,
            bytes: &mut value,
        },
    ];
    call(MAP_UPDATE_ELEM, &mut attr.0, buffers).map(|_| ())
}

/// BPF_MAP_LOOKUP_ELEM into `value`, which has the map's value size.
///
/// # Errors
/// The errno of the call.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
    let mut attr = Attr::new(32);
    attr.put32(0, map.as_raw_fd() as u32);
    let mut key = key.to_owned();
    let buffers = &mut [
        Buffer {
            attr_offset: 8,
            bytes: &mut key,
        },
        Buffer {
            attr_offset: 16,
            bytes: value,
        },
    ];
    call(MAP_LOOKUP_ELEM, &mut attr.0, buffers).map(|_| ())
}

/// BPF_MAP_FREEZE.
///
/// # Errors
/// The errno of the call.
pub fn map_freeze(map: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attr::new(4);
    attr.put32(0, map.as_raw_fd() as u32);
    call(MAP_FREEZE, &mut attr.0, &mut []).map(|_| ())
}

/// BPF_BTF_LOAD.
///
/// # Errors
/// The errno of the call.
pub fn btf_load(btf: &[u8]) -> Result<OwnedFd, Errno> {
    let mut attr = Attr::new(28);
    attr.put32(16, btf.len() as u32);
    open(
        BTF_LOAD,
        &mut attr.0,
        &mut [Buffer {
            attr_offset: 0,
            bytes: &mut btf.to_owned(),
        }],
    )
}

/// What BPF_PROG_LOAD takes.
#[derive(Clone, Debug, Default)]
pub struct ProgLoad<'a> {
    /// `prog_type`
    pub prog_type: u32,
    /// `expected_attach_type`
    pub expected_attach_type: u32,
    /// `prog_flags`
    pub prog_flags: u32,
    /// Instructions, 8 bytes each.
    pub insns: &'a [u8],
    /// License text.
    pub license: &'a str,
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// BTF of the program.
    pub btf: Option<BorrowedFd<'a>>,
    /// Record size and records of `func_info`.
    pub func_info: (u32, &'a [u8]),
    /// Record size and records of `line_info`.
    pub line_info: (u32, &'a [u8]),
    /// `attach_btf_id`, in the kernel's BTF; 0 for none.
    pub attach_btf_id: u32,
    /// `log_level`; 0 asks for no log.
    pub log_level: u32,
}

/// BPF_PROG_LOAD with a log buffer of `log_bytes`; the log is returned beside the result.
pub fn prog_load(prog: &ProgLoad<'_>, log_bytes: usize) -> (Result<OwnedFd, Errno>, String) {
    let mut insns = prog.insns.to_owned();
    let mut license = [prog.license.as_bytes(), b"\0"].concat();
    let mut log = vec![0u8; if prog.log_level == 0 { 0 } else { log_bytes }];
    let (mut func_info, mut line_info) = (prog.func_info.1.to_owned(), prog.line_info.1.to_owned());
    let mut attr = Attr::new(168);
    attr.put32(0, prog.prog_type)
        .put32(4, (insns.len() / 8) as u32);
    attr.put32(24, prog.log_level)
        .put32(28, log.len() as u32)
        .put32(44, prog.prog_flags);
    put_name(&mut attr, 48, prog.name);
    attr.put32(68, prog.expected_attach_type)
        .put32(72, prog.btf.map_or(0, |fd| fd.as_raw_fd() as u32));
    attr.put32(108, prog.attach_btf_id);
    let mut buffers = vec![
        Buffer {
            attr_offset: 8,
            bytes: &mut insns,
        },
        Buffer {
            attr_offset: 16,
            bytes: &mut license,
        },
    ];
    if !log.is_empty() {
        buffers.push(Buffer {
            attr_offset: 32,
            bytes: &mut log,
        });
    }
    if prog.func_info.0 != 0 {
        attr.put32(76, prog.func_info.0)
            .put32(88, func_info.len() as u32 / prog.func_info.0);
        buffers.push(Buffer {
            attr_offset: 80,
            bytes: &mut func_info,
        });
    }
    if prog.line_info.0 != 0 {
        attr.put32(92, prog.line_info.0)
            .put32(104, line_info.len() as u32 / prog.line_info.0);
        buffers.push(Buffer {
            attr_offset: 96,
            bytes: &mut line_info,
        });
    }
    let result = open(PROG_LOAD, &mut attr.0, &mut buffers);
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    (result, String::from_utf8_lossy(&log[..end]).into_owned())
}

/// What a test run gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestRunOut {
    /// Return value of the program.
    pub retval: u32,
    /// Mean nanoseconds.
    pub duration_ns: u32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// The context afterwards.
    pub ctx: Vec<u8>,
}

/// BPF_PROG_TEST_RUN.
///
/// # Errors
/// The errno of the call.
pub fn prog_test_run(
    prog: BorrowedFd<'_>,
    data: &[u8],
    ctx: &[u8],
    repeat: u32,
) -> Result<TestRunOut, Errno> {
    /// Room for what programs put in front of or behind a packet.
    const DATA_OUT_BYTES: usize = 1 << 17;
    let (mut data_in, mut ctx_in) = (data.to_owned(), ctx.to_owned());
    let mut data_out = vec![0u8; if data.is_empty() { 0 } else { DATA_OUT_BYTES }];
    let mut ctx_out = vec![0u8; ctx.len()];
    let mut attr = Attr::new(80);
    attr.put32(0, prog.as_raw_fd() as u32)
        .put32(8, data.len() as u32)
        .put32(12, data_out.len() as u32);
    attr.put32(32, repeat)
        .put32(40, ctx.len() as u32)
        .put32(44, ctx_out.len() as u32);
    let mut buffers = Vec::new();
    for (attr_offset, bytes) in [
        (16, &mut data_in),
        (24, &mut data_out),
        (48, &mut ctx_in),
        (56, &mut ctx_out),
    ] {
        if !bytes.is_empty() {
            buffers.push(Buffer { attr_offset, bytes });
        }
    }
    call(TEST_RUN, &mut attr.0, &mut buffers)?;
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| attr.0[at + i]));
    data_out.truncate(word(12) as usize);
    ctx_out.truncate(word(44) as usize);
    Ok(TestRunOut {
        retval: word(4),
        duration_ns: word(36),
        data: data_out,
        ctx: ctx_out,
    })
}

/// BPF_PROG_TEST_RUN of a program whose context is plain memory (syscall programs, raw tracepoints): its return value. Syscall programs
/// may change `ctx`.
///
/// # Errors
/// The errno of the call.
pub fn prog_test_run_ctx(prog: BorrowedFd<'_>, ctx: &mut [u8]) -> Result<u32, Errno> {
    let mut attr = Attr::new(80);
    attr.put32(0, prog.as_raw_fd() as u32)
        .put32(40, ctx.len() as u32);
    let buffers = &mut [Buffer {
        attr_offset: 48,
        bytes: ctx,
    }];
    call(TEST_RUN, &mut attr.0, buffers)?;
    Ok(u32::from_ne_bytes(std::array::from_fn(|i| attr.0[4 + i])))
}
