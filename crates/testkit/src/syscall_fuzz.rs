//! Sequences of bpf(2) calls, mostly sensible and partly not, against one system: every call must come back with an answer.
//!
//! A call is put together from a recipe of its command over what is open; then some fields are overwritten with small, extreme or stale numbers.
//! Every so many calls the caller goes and all objects with it: afterwards no id may be left.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use ring3::{
    System,
    net::Net,
    syscall_shim::{Caller, SUPPORT, Shim, VecMemory},
};
use ring3_uapi::{AttachType, Cmd, MapType, ProgType};

use crate::generate::Rng;

/// Calls of one caller.
const CALLS_PER_CALLER: u64 = 2000;
/// Bytes of a map at most: what is asked for is allocated.
const MAP_BYTES_MAX: u64 = 1 << 20;
/// Most runs of a test run.
const REPEAT_MAX: u32 = 16;
/// Bytes of an attribute block that calls may have.
const ATTR_BYTES: usize = 168;

/// What a run gives.
#[derive(Clone, Debug, Default)]
pub struct SyscallTally {
    /// Calls made.
    pub calls: u64,
    /// Calls and successes by command number.
    pub by_cmd: Vec<(u64, u64)>,
    /// The slowest call, and its command.
    pub slowest: (Duration, u32),
}

/// Makes calls.
///
/// # Errors
/// A call that panicked, or ids that stay: seed and call number.
pub fn fuzz_syscall(runs: u64, seed: u64) -> Result<SyscallTally, String> {
    let mut tally = SyscallTally {
        by_cmd: vec![(0, 0); SUPPORT.len()],
        ..SyscallTally::default()
    };
    let system = ring3::system();
    let net = std::sync::Arc::new(Net::new(&system));
    for name in ["eth0", "eth1"] {
        net.add_device(name).map_err(|error| error.to_string())?;
    }
    let shim = Shim::new(system).with_net(net);
    let mut round = 0;
    while tally.calls < runs {
        let calls = CALLS_PER_CALLER.min(runs - tally.calls);
        let mut session = Session::new(&shim, Rng::new(seed.wrapping_add(round)));
        for call in 0..calls {
            let step = catch_unwind(AssertUnwindSafe(|| session.step(&mut tally)));
            step.map_err(|_| format!("panic: seed {}, call {call}", seed.wrapping_add(round)))?;
        }
        drop(session);
        for name in ["/sys/fs/bpf/a", "/sys/fs/bpf/b"] {
            // Most rounds pin nothing.
            let _ = shim.bpffs().unlink(name);
        }
        detach_all(&shim);
        check_empty(shim.system())
            .map_err(|left| format!("{left}: seed {}", seed.wrapping_add(round)))?;
        tally.calls += calls;
        round += 1;
    }
    Ok(tally)
}

/// Takes off programs that were attached without a link: these outlive their caller, as in the kernel.
fn detach_all(shim: &Shim) {
    let caller = Caller::new();
    for device in shim.net().devices() {
        for attach_type in [AttachType::TcxIngress, AttachType::TcxEgress] {
            let mut attr = [0; ATTR_BYTES];
            put(&mut attr, 0, device.ifindex());
            put(&mut attr, 8, attach_type.raw());
            let detach = Cmd::ProgDetach.raw();
            let mut memory = VecMemory::new();
            while shim
                .bpf(&caller, detach, &mut attr[..32], &mut memory)
                .is_ok()
            {}
        }
    }
}

/// No object outlives its last user.
fn check_empty(system: &System) -> Result<(), String> {
    let left = [
        ("program", system.next_program_id(0)),
        ("map", system.next_map_id(0)),
        ("link", system.next_link_id(0)),
    ];
    match left.iter().find_map(|(kind, id)| Some((kind, (*id)?))) {
        Some((kind, id)) => Err(format!("{kind} {id} is left")),
        None => Ok(()),
    }
}

struct Session<'a> {
    shim: &'a Shim,
    caller: Caller,
    memory: VecMemory,
    rng: Rng,
    fds: Vec<i32>,
    /// Addresses of buffers that calls read and write.
    scratch: u64,
    numbers: u64,
    license: u64,
    paths: Vec<u64>,
    progs: Vec<(u64, u32)>,
    btf: (u64, u32),
}

/// `r0 = 0; exit`, a packet pointer checked, a loop without end, garbage.
const PROGRAMS: &[&[u64]] = &[
    &[0xb7, 0x95],
    &[0x2_0000_00b7, 0x95],
    &[0x05_0061_1161, 0xb7, 0x95],
    &[0xffff_0005, 0x95],
    &[0x0123_4567_89ab_cdef, 0x95],
];

/// BTF with one `int`.
const BTF: &[u8] = &[
    0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0,
    0, 0, 1, 4, 0, 0, 0, 32, 0, 0, 1, 0, b'i', b'n', b't', 0,
];

impl<'a> Session<'a> {
    fn new(shim: &'a Shim, rng: Rng) -> Session<'a> {
        let mut memory = VecMemory::new();
        let progs = PROGRAMS
            .iter()
            .map(|insns| {
                let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_ne_bytes()).collect();
                (memory.add(&bytes), insns.len() as u32)
            })
            .collect();
        let paths = [
            "/sys/fs/bpf/a",
            "/sys/fs/bpf/b",
            "/sys/fs/bpf/no/c",
            "/tmp/x",
            "",
        ];
        let paths = paths.map(|path| memory.add(format!("{path}\0").as_bytes()));
        let numbers: Vec<u8> = (0..64u32).flat_map(|n| (n % 6).to_ne_bytes()).collect();
        Session {
            shim,
            caller: Caller::new().with_fds_max(48),
            rng,
            fds: Vec::new(),
            scratch: memory.add(&[0; 8192]),
            numbers: memory.add(&numbers),
            license: memory.add(b"GPL\0"),
            paths: paths.to_vec(),
            progs,
            btf: (memory.add(BTF), BTF.len() as u32),
            memory,
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.rng.below(bound as usize) as u32
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    fn fd(&mut self) -> u32 {
        if self.fds.is_empty() || self.below(20) == 0 {
            return self.pick(&[0, 3, 4, 9999, u32::MAX]);
        }
        let fds = std::mem::take(&mut self.fds);
        let fd = self.pick(&fds);
        self.fds = fds;
        fd as u32
    }

    /// One call, and now and then a close.
    fn step(&mut self, tally: &mut SyscallTally) {
        if self.fds.len() > 30 || (!self.fds.is_empty() && self.below(8) == 0) {
            let at = self.below(self.fds.len() as u32) as usize;
            // Its number may have been closed before.
            let _ = self.caller.close(self.fds.swap_remove(at));
        }
        let row = &SUPPORT[self.below(SUPPORT.len() as u32) as usize];
        let mut attr = [0; ATTR_BYTES];
        self.fill(row.cmd, &mut attr);
        if self.below(3) == 0 {
            for _ in 0..=self.below(3) {
                let at = self.below(ATTR_BYTES as u32 / 4) as usize * 4;
                let address = self.scratch as u32;
                let value = self.pick(&[0, 1, 2, 4, 7, 64, 4095, 0x10000, 1 << 31, !0, address]);
                put(&mut attr, at, value);
            }
        }
        bound(row.cmd, &mut attr);
        let size = match self.below(12) {
            0 => self.below(ATTR_BYTES as u32 + 1) as usize,
            _ => row.attr_bytes,
        };
        let cmd = row.cmd.raw();
        let begin = Instant::now();
        let result = self
            .shim
            .bpf(&self.caller, cmd, &mut attr[..size], &mut self.memory);
        let took = begin.elapsed();
        if took > tally.slowest.0 {
            tally.slowest = (took, cmd);
        }
        let counts = &mut tally.by_cmd[cmd as usize];
        counts.0 += 1;
        if let Ok(value) = result {
            counts.1 += 1;
            if makes_fd(row.cmd) {
                self.fds.push(value as i32);
            }
        }
    }

    /// What a sensible caller would say.
    fn fill(&mut self, cmd: Cmd, attr: &mut [u8; ATTR_BYTES]) {
        match cmd {
            Cmd::MapCreate => {
                let map_type = self.pick(MapType::ALL);
                let ring = matches!(map_type, MapType::Ringbuf | MapType::UserRingbuf);
                let sizes: [u32; 3] = match map_type {
                    MapType::Ringbuf | MapType::UserRingbuf => [0, 0, 4096],
                    MapType::Queue | MapType::Stack | MapType::BloomFilter => [0, 8, 8],
                    MapType::LpmTrie => [8, 8, 8],
                    _ => [4, self.pick(&[4, 8, 16]), self.pick(&[1, 4, 64])],
                };
                put(attr, 0, map_type.raw());
                for (at, size) in [4, 8, 12].into_iter().zip(sizes) {
                    put(attr, at, size);
                }
                if !ring {
                    let flags = [0, 0, 0, 1, 1, 8, 1 << 10, 1 << 7];
                    put(attr, 16, self.pick(&flags));
                }
                put(attr, 20, self.fd());
            }
            Cmd::ProgLoad => {
                let (insns, count) = {
                    let progs = std::mem::take(&mut self.progs);
                    let prog = self.pick(&progs);
                    self.progs = progs;
                    prog
                };
                let types = [ProgType::SocketFilter, ProgType::Xdp, ProgType::SchedCls];
                put(attr, 0, self.pick(&types).raw());
                put(attr, 4, count);
                put_u64(attr, 8, insns);
                put_u64(attr, 16, self.license);
                if self.below(3) == 0 {
                    put(attr, 24, 2);
                    put(attr, 28, 4096);
                    put_u64(attr, 32, self.scratch);
                }
            }
            Cmd::BtfLoad => {
                put_u64(attr, 0, self.btf.0);
                put(attr, 16, self.btf.1);
            }
            Cmd::ObjPin | Cmd::ObjGet => {
                let paths = std::mem::take(&mut self.paths);
                put_u64(attr, 0, self.pick(&paths));
                self.paths = paths;
                if cmd == Cmd::ObjPin {
                    put(attr, 8, self.fd());
                }
            }
            Cmd::ProgTestRun => {
                put(attr, 0, self.fd());
                put(attr, 8, self.pick(&[14, 64, 200]));
                put(attr, 12, 256);
                put_u64(attr, 16, self.scratch);
                put_u64(attr, 24, self.scratch + 4096);
                put(attr, 32, self.below(4));
            }
            Cmd::MapLookupBatch
            | Cmd::MapLookupAndDeleteBatch
            | Cmd::MapUpdateBatch
            | Cmd::MapDeleteBatch => {
                put_u64(attr, 8, self.scratch);
                put_u64(
                    attr,
                    16,
                    if self.below(2) == 0 {
                        self.numbers
                    } else {
                        self.scratch
                    },
                );
                put_u64(attr, 24, self.scratch + 2048);
                put(attr, 32, self.below(6));
                put(attr, 36, self.fd());
            }
            Cmd::ObjGetInfoByFd => {
                put(attr, 0, self.fd());
                put(attr, 4, self.pick(&[16, 32, 64, 104, 232]));
                // Zeros: no lists are asked for.
                put_u64(attr, 8, self.scratch + 6000);
            }
            Cmd::LinkCreate => {
                put(attr, 0, self.fd());
                put(attr, 4, self.pick(&[1, 2, 3]));
                put(attr, 8, self.pick(&[37, 46, 47]));
            }
            Cmd::ProgAttach | Cmd::ProgDetach => {
                put(attr, 0, self.pick(&[1, 2, 3]));
                put(attr, 4, self.fd());
                put(attr, 8, self.pick(&[46, 47]));
            }
            Cmd::ProgQuery => {
                put(attr, 0, self.pick(&[1, 2, 3]));
                put(attr, 4, self.pick(&[0, 46, 47]));
                put_u64(attr, 16, self.scratch);
                put(attr, 24, 8);
            }
            Cmd::ProgStreamReadByFd => {
                put(attr, 12, self.pick(&[1, 2]));
                put(attr, 16, self.fd());
            }
            Cmd::ProgGetNextId | Cmd::MapGetNextId | Cmd::BtfGetNextId | Cmd::LinkGetNextId => {
                put(attr, 0, self.below(4));
            }
            Cmd::ProgGetFdById | Cmd::MapGetFdById | Cmd::BtfGetFdById | Cmd::LinkGetFdById => {
                let first = match cmd {
                    Cmd::ProgGetFdById => self.shim.system().next_program_id(0),
                    Cmd::MapGetFdById => self.shim.system().next_map_id(0),
                    Cmd::BtfGetFdById => self.shim.system().next_btf_id(0),
                    _ => self.shim.system().next_link_id(0),
                };
                put(attr, 0, first.unwrap_or(1));
            }
            _ => {
                // Elements, and commands of two descriptors.
                put(attr, 0, self.fd());
                put(
                    attr,
                    4,
                    if cmd == Cmd::ProgBindMap || cmd == Cmd::LinkUpdate {
                        self.fd()
                    } else {
                        0
                    },
                );
                if matches!(
                    cmd,
                    Cmd::MapLookupElem
                        | Cmd::MapUpdateElem
                        | Cmd::MapDeleteElem
                        | Cmd::MapGetNextKey
                        | Cmd::MapLookupAndDeleteElem
                ) {
                    let key = self.numbers + u64::from(self.below(2)) * 4;
                    put_u64(attr, 8, if self.below(3) == 0 { 0 } else { key });
                    if cmd != Cmd::MapDeleteElem {
                        put_u64(attr, 16, self.scratch + 128);
                    }
                }
            }
        }
    }
}

fn put(attr: &mut [u8; ATTR_BYTES], at: usize, value: u32) {
    attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn put_u64(attr: &mut [u8; ATTR_BYTES], at: usize, value: u64) {
    attr[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

/// Keeps the memory and time of a call small; all else is left as it is.
fn bound(cmd: Cmd, attr: &mut [u8; ATTR_BYTES]) {
    let word = |attr: &[u8; ATTR_BYTES], at: usize| {
        u32::from_ne_bytes(std::array::from_fn(|i| attr[at + i]))
    };
    if cmd == Cmd::MapCreate {
        let bytes = u64::from(word(attr, 4)) + u64::from(word(attr, 8)) + 64;
        if bytes.saturating_mul(u64::from(word(attr, 12))) > MAP_BYTES_MAX {
            put(attr, 12, (MAP_BYTES_MAX / bytes).min(64) as u32);
        }
    }
    if cmd == Cmd::ProgTestRun && word(attr, 32) > REPEAT_MAX {
        put(attr, 32, REPEAT_MAX);
    }
}

fn makes_fd(cmd: Cmd) -> bool {
    matches!(
        cmd,
        Cmd::MapCreate
            | Cmd::ProgLoad
            | Cmd::BtfLoad
            | Cmd::ObjGet
            | Cmd::ProgGetFdById
            | Cmd::MapGetFdById
            | Cmd::BtfGetFdById
            | Cmd::LinkGetFdById
            | Cmd::LinkCreate
    )
}

/// Commands that no sensible call can succeed at yet, with the reason in `SUPPORT`.
pub const NEVER_SUCCEED: &[Cmd] = &[
    Cmd::RawTracepointOpen,
    Cmd::TaskFdQuery,
    Cmd::IterCreate,
    Cmd::TokenCreate,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_can_succeed_does() {
        let tally = fuzz_syscall(40_000, 1).unwrap();
        for (row, (calls, successes)) in SUPPORT.iter().zip(&tally.by_cmd) {
            assert!(*calls > 0, "{}", row.cmd);
            let may = !NEVER_SUCCEED.contains(&row.cmd);
            assert_eq!(*successes > 0, may, "{}: {successes} of {calls}", row.cmd);
        }
    }
}
