//! Programs that call helpers, made from the prototypes: every argument is given what its kind asks for.
//!
//! ```text
//! r6      context                         fp-64..fp      eight words of numbers
//! r7      result so far                   fp-256..fp-64  memory arguments: [`BUFFERS`] of 64 bytes
//! r8, r9  objects: socket, task, value
//! ```
//! Helpers whose arguments need more than their kind (a lock in a value, a record between reserving and submitting) have sequences of their own.
//! What a helper answers goes into the result, except where it is another at every run ([`VARIES`]).

use std::sync::OnceLock;

use ring3_btf::{Btf, Builder as BtfBuilder, IntEncoding, Kind, TypeId, VarLinkage};
use ring3_isa::{AluOp, Imm64, Insn, JmpOp, LoadMode, MemSize, Operand, Reg, Width};
use ring3_spec::{
    Arg, ArgBase, Caller, FuncProto, HelperLookup, Privilege, Registry, RetBase, TypeFlags,
};
use ring3_uapi::{AttachType, FuncId, MapType, ProgType};

use super::insns::{alu, mov, mov_imm};
use super::{Builder, Generated, PROG_ARRAY, RINGBUF, Rng, Subprog};

/// Program types that programs are made of: those with a test run that take calls, and security hooks over files ([`FILE_HOOK`]).
pub const PROG_TYPES: [ProgType; 10] = [
    ProgType::Xdp,
    ProgType::SchedCls,
    ProgType::SocketFilter,
    ProgType::CgroupSkb,
    ProgType::LwtXmit,
    ProgType::SkSkb,
    ProgType::RawTracepoint,
    ProgType::Syscall,
    ProgType::SkLookup,
    ProgType::Lsm,
];
/// The hook of programs of the type `lsm`.
pub const FILE_HOOK: &str = "bpf_lsm_file_open";

/// Maps beyond [`super::MAPS`], numbered on from them: type, key bytes, value bytes, entries, and the value's type in [`map_types`].
pub const HELPER_MAPS: &[(MapType, u32, u32, u32, &str)] = &[
    (MapType::PerfEventArray, 4, 4, 2, ""),
    (MapType::StackTrace, 4, 64, 16, ""),
    (MapType::Queue, 0, 8, 4, ""),
    (MapType::UserRingbuf, 0, 0, 4096, ""),
    (MapType::SkStorage, 4, 8, 0, "u64"),
    (MapType::TaskStorage, 4, 8, 0, "u64"),
    (MapType::CgrpStorage, 4, 8, 0, "u64"),
    (MapType::Array, 4, 16, 1, "locked"),
    (MapType::Array, 4, 24, 1, "timed"),
    (MapType::CgroupArray, 4, 4, 1, ""),
    (MapType::Devmap, 4, 4, 2, ""),
    (MapType::CgroupStorageDeprecated, 8, 8, 0, ""),
    (MapType::Array, 4, 64, 1, "texts"),
    (MapType::Array, 4, 16, 1, "pointed"),
    (MapType::InodeStorage, 4, 8, 0, "u64"),
];
const FIRST: i32 = super::MAPS.len() as i32;
const PERF: i32 = FIRST;
const STACKS: i32 = FIRST + 1;
const QUEUE: i32 = FIRST + 2;
const USER_RINGBUF: i32 = FIRST + 3;
const SK_STORAGE: i32 = FIRST + 4;
const TASK_STORAGE: i32 = FIRST + 5;
const CGRP_STORAGE: i32 = FIRST + 6;
pub(super) const LOCKED: i32 = FIRST + 7;
pub(super) const TIMED: i32 = FIRST + 8;
const CGROUPS: i32 = FIRST + 9;
const DEVICES: i32 = FIRST + 10;
const CGROUP_STORAGE: i32 = FIRST + 11;
/// The frozen array of constant strings; see [`TEXTS`].
pub const TEXTS_MAP: i32 = FIRST + 12;
/// Its values hold a pointer to a CPU mask, at [`MASK_OFFSET`].
pub(super) const POINTED: i32 = FIRST + 13;
pub(super) const MASK_OFFSET: i32 = 8;
const INODE_STORAGE: i32 = FIRST + 14;
/// What the frozen array holds: a format and a word, at 0 and 32.
pub const TEXTS: [&[u8]; 2] = [b"%d %5x|%s\0", b"-42\0"];

/// Whether a map's content must be the same on both engines: stacks are not, and constants cannot change.
pub fn is_compared(map: i32) -> bool {
    map != STACKS && map != TEXTS_MAP
}

/// Stack below the numbers, in pieces of 64 bytes.
const BUFFERS: i16 = 3;
pub(super) const BUFFER_BYTES: i16 = 64;

/// Helpers whose answer or output is another at every run, or depends on where things lie.
const VARIES: &[FuncId] = &[
    FuncId::KtimeGetNs,
    FuncId::KtimeGetBootNs,
    FuncId::KtimeGetCoarseNs,
    FuncId::KtimeGetTaiNs,
    FuncId::Jiffies64,
    FuncId::GetSmpProcessorId,
    FuncId::GetNumaNodeId,
    FuncId::GetSocketCookie,
    FuncId::GetNetnsCookie,
    FuncId::GetCurrentTask,
    FuncId::GetCurrentTaskBtf,
    FuncId::GetStack,
    FuncId::GetStackid,
    FuncId::GetTaskStack,
    FuncId::GetFuncIp,
    FuncId::TcpRawGenSyncookieIpv4,
    FuncId::TcpRawGenSyncookieIpv6,
    FuncId::TcpRawCheckSyncookieIpv4,
    FuncId::TcpRawCheckSyncookieIpv6,
    FuncId::RingbufQuery,
    FuncId::PerfEventRead,
    FuncId::PerfEventReadValue,
    FuncId::GetHashRecalc,
    FuncId::TimerCancel,
    FuncId::TracePrintk,
    FuncId::TraceVprintk,
    FuncId::Snprintf,
    FuncId::TaskPtRegs,
    FuncId::FindVma,
    FuncId::ProbeRead,
    FuncId::ProbeReadStr,
    FuncId::ProbeReadKernel,
    FuncId::ProbeReadKernelStr,
    FuncId::ProbeReadUser,
    FuncId::ProbeReadUserStr,
    FuncId::CopyFromUser,
    FuncId::CopyFromUserTask,
    FuncId::PerCpuPtr,
    FuncId::ThisCpuPtr,
    FuncId::GetBranchSnapshot,
];

/// Helpers that only one of the types is given programs of: what an exchange of kernel pointers gives is let go by kernel functions, and those of
/// CPU masks are for programs of system calls; files and inodes come from a hook, whose programs call nothing else.
const ONLY_IN: &[(ProgType, &[FuncId])] = &[
    (ProgType::Syscall, &[FuncId::KptrXchg]),
    (
        ProgType::Lsm,
        &[
            FuncId::DPath,
            FuncId::InodeStorageGet,
            FuncId::InodeStorageDelete,
            FuncId::ImaInodeHash,
            FuncId::ImaFileHash,
            FuncId::SockFromFile,
            FuncId::GetAttachCookie,
        ],
    ),
];

/// Helpers that run and are in no generated program: what their programs need, and where they are called.
pub const NOT_GENERATED: &[(&str, &[FuncId])] = &[
    (
        "a packet of a traced function: crates/tracing/tests, examples/snoop",
        &[FuncId::SkbOutput, FuncId::XdpOutput],
    ),
    (
        "a function of the host: crates/tracing/tests, examples/traced",
        &[
            FuncId::GetFuncIp,
            FuncId::GetFuncArg,
            FuncId::GetFuncRet,
            FuncId::GetFuncArgCnt,
        ],
    ),
    (
        "a hook of cgroups without a test run: crates/helpers, crates/testkit/tests",
        &[FuncId::GetRetval, FuncId::SetRetval, FuncId::Getsockopt],
    ),
    (
        "an iterator: crates/helpers, crates/syscall-shim/tests",
        &[FuncId::SeqPrintf, FuncId::SeqPrintfBtf, FuncId::SeqWrite],
    ),
    (
        "a control of the host, which has no test run: crates/helpers, crates/objects",
        &[
            FuncId::SysctlGetName,
            FuncId::SysctlGetCurrentValue,
            FuncId::SysctlGetNewValue,
            FuncId::SysctlSetNewValue,
        ],
    ),
    (
        "a permit of the host: crates/helpers",
        &[FuncId::ProbeWriteUser],
    ),
];

/// The kernel's types that these programs are verified with, and a per-CPU variable in them.
pub struct KernelTypes {
    /// Types.
    pub btf: Btf,
    percpu_var: u32,
}

/// The kernel types of the fixtures, with a per-CPU variable and a socket if they have none.
pub fn kernel_types() -> &'static KernelTypes {
    static TYPES: OnceLock<KernelTypes> = OnceLock::new();
    TYPES.get_or_init(|| {
        let btf = crate::fixture::kernel_btf("6.18").expect("the fixtures' kernel types");
        let mut builder = BtfBuilder::extend(&btf);
        if btf.find_by_name_kind("socket", Kind::Struct).is_none() {
            builder.add_struct("socket", 128, &[]);
        }
        let section = btf.find_by_name_kind(".data..percpu", Kind::Datasec);
        let known = section.and_then(|section| btf.type_by_id(section)?.vars().next());
        let percpu_var = match known {
            Some(known) => known.ty,
            None => {
                let word = builder.add_int("ring3_word", 8, IntEncoding::NONE);
                let var = builder.add_var("ring3_percpu", word, VarLinkage::GlobalAllocated);
                builder.add_datasec(".data..percpu", 8, &[(var, 0, 8)]);
                var
            }
        };
        let bytes = builder.finish();
        KernelTypes {
            btf: Btf::parse(&bytes).expect("built BTF parses"),
            percpu_var: percpu_var.0,
        }
    })
}

/// Types of the values of [`HELPER_MAPS`]: the BTF, and key and value type by name.
pub fn map_types() -> (Btf, impl Fn(&str) -> TypeId) {
    let mut builder = BtfBuilder::new();
    let int = builder.add_int("int", 4, IntEncoding::SIGNED);
    let word = builder.add_int("u64", 8, IntEncoding::NONE);
    let lock = builder.add_struct("bpf_spin_lock", 4, &[("val", int, 0)]);
    builder.add_struct("locked", 16, &[("lock", lock, 0), ("number", word, 64)]);
    let timer = builder.add_struct("bpf_timer", 16, &[("a", word, 0), ("b", word, 64)]);
    builder.add_struct("timed", 24, &[("timer", timer, 0), ("fired", word, 128)]);
    let mask = builder.add_struct("bpf_cpumask", 0, &[]);
    let kptr = builder.add_ref(Kind::TypeTag, "kptr", mask);
    let mask = builder.add_ref(Kind::Ptr, "", kptr);
    let place = 8 * MASK_OFFSET as u32;
    builder.add_struct("pointed", 16, &[("number", word, 0), ("mask", mask, place)]);
    let bytes = builder.add_array(word, int, 8);
    builder.add_struct("texts", 64, &[("text", bytes, 0)]);
    let btf = Btf::parse(&builder.finish()).expect("built BTF parses");
    let copy = btf.clone();
    let find = move |name: &str| {
        let kind = if matches!(name, "int" | "u64") {
            Kind::Int
        } else {
            Kind::Struct
        };
        copy.find_by_name_kind(name, kind).unwrap_or(TypeId(0))
    };
    (btf, find)
}

/// Whether syscall programs' flag is needed: they sleep.
pub fn sleeps(prog_type: ProgType) -> bool {
    matches!(prog_type, ProgType::Syscall | ProgType::Lsm)
}

/// What a program of a type names as its target: attach type, and function of the kernel BTF.
pub fn target(prog_type: ProgType) -> (AttachType, TypeId) {
    let function = || kernel_types().btf.find_by_name_kind(FILE_HOOK, Kind::Func);
    match prog_type {
        ProgType::Lsm => (AttachType::LsmMac, function().unwrap_or(TypeId(0))),
        ProgType::SkLookup => (AttachType::SkLookup, TypeId(0)),
        _ => (AttachType::CgroupInetIngress, TypeId(0)),
    }
}

/// The helpers that run in programs of a type, with the prototype in force.
pub fn callable(prog_type: ProgType) -> Vec<FuncProto> {
    let registry = Registry::linux_6_18();
    let (attach_type, _) = target(prog_type);
    let caller = Caller {
        prog_type,
        expected_attach_type: attach_type.raw(),
        sleepable: sleeps(prog_type),
        privilege: Privilege::FULL,
    };
    let found = FuncId::ALL.iter().filter_map(|&id| {
        let attach_type = (prog_type == ProgType::Lsm).then_some(attach_type);
        let runs = id == FuncId::TailCall
            || ring3::helpers::find_for(prog_type, attach_type, id).is_some();
        match registry.helper(caller, id.raw() as i32) {
            HelperLookup::Found(proto) if runs && is_generated(prog_type, id) => Some(*proto),
            _ => None,
        }
    });
    found.collect()
}

fn is_generated(prog_type: ProgType, id: FuncId) -> bool {
    if NOT_GENERATED.iter().any(|(_, ids)| ids.contains(&id)) {
        return false;
    }
    match ONLY_IN.iter().find(|(_, ids)| ids.contains(&id)) {
        Some((wanted, _)) => *wanted == prog_type,
        None => prog_type != ProgType::Lsm,
    }
}

/// Every helper that runs.
pub fn running() -> impl Iterator<Item = FuncId> {
    let attach_types = || AttachType::ALL.iter().copied().map(Some).chain([None]);
    FuncId::ALL.iter().copied().filter(move |&id| {
        id == FuncId::TailCall
            || ProgType::ALL.iter().any(|&prog_type| {
                attach_types()
                    .any(|attach| ring3::helpers::find_for(prog_type, attach, id).is_some())
            })
    })
}

/// Prints how often each helper that runs was called, and says which was not and should have been.
pub fn report(count: impl Fn(FuncId) -> u64) -> Vec<String> {
    let is_left_out = |id| NOT_GENERATED.iter().any(|(_, ids)| ids.contains(&id));
    let mut missing = Vec::new();
    for id in running().filter(|&id| !is_left_out(id)) {
        print!("{id}:{} ", count(id));
        if count(id) == 0 {
            missing.push(format!("helper {id}"));
        }
    }
    println!();
    for (why, ids) in NOT_GENERATED {
        let names: Vec<_> = ids.iter().map(|id| id.name()).collect();
        println!("not generated, as it takes {why}: {}", names.join(", "));
    }
    missing
}

fn id_of(proto: &FuncProto) -> FuncId {
    FuncId::from_raw(proto.id.raw()).unwrap_or(FuncId::Unspec)
}

/// A random program of one to three calls, the first of them by `number`: all helpers of all types come in turn.
pub fn program(rng: &mut Rng, number: u64) -> Generated {
    static CALLABLE: OnceLock<Vec<(ProgType, Vec<FuncProto>)>> = OnceLock::new();
    let all = CALLABLE.get_or_init(|| PROG_TYPES.map(|ty| (ty, callable(ty))).into());
    let count: usize = all.iter().map(|(_, protos)| protos.len()).sum();
    // Neighbours in the tables are far apart in time: a stride that shares no factor with the count.
    let stride = (count / 2..).find(|stride| gcd(*stride, count) == 1);
    let mut place = (number % count as u64) as usize * stride.unwrap_or(1) % count;
    let mut chosen = &all[0];
    for of_type in all {
        chosen = of_type;
        if place < of_type.1.len() {
            break;
        }
        place -= of_type.1.len();
    }
    let (prog_type, protos) = chosen;
    let more = (0..rng.below(3)).map(|_| protos[rng.below(protos.len())]);
    let calls: Vec<FuncProto> = std::iter::once(protos[place]).chain(more).collect();
    of_calls(rng, *prog_type, &calls)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A random program of one call.
pub fn program_of(rng: &mut Rng, prog_type: ProgType, proto: &FuncProto) -> Generated {
    of_calls(rng, prog_type, std::slice::from_ref(proto))
}

fn of_calls(rng: &mut Rng, prog_type: ProgType, calls: &[FuncProto]) -> Generated {
    let mut builder = Builder::new(rng, prog_type);
    builder.has_packet = false;
    builder.helpers_prologue();
    for proto in calls {
        builder.one_call(proto);
    }
    builder.push(alu(Width::W64, AluOp::And, Reg::R7, Operand::Imm(1)));
    if prog_type == ProgType::Lsm {
        // 0 or an error.
        builder.push(mov_imm(Reg::R0, 0));
        builder.push(alu(Width::W64, AluOp::Sub, Reg::R0, Operand::Reg(Reg::R7)));
    } else {
        builder.push(mov(Reg::R0, Reg::R7));
    }
    builder.push(Insn::Exit);
    builder.subprogs();
    let mut generated = builder.finish();
    generated.calls_helpers = true;
    generated
}

/// Whether an argument is given as null: a socket that there need not be.
fn is_no_socket(arg: &Arg) -> bool {
    arg.base == ArgBase::PtrToSocket && arg.flags.contains(TypeFlags::MAYBE_NULL)
}

impl Builder<'_> {
    fn helpers_prologue(&mut self) {
        self.push(mov(Reg::R6, Reg::R1));
        for slot in 1..=(BUFFERS + 1) * BUFFER_BYTES / 8 {
            let imm = self.rng.imm();
            self.store_scratch(MemSize::Dw, -8 * slot, imm);
        }
        let imm = self.rng.imm();
        self.push(mov_imm(Reg::R7, imm));
    }

    /// Where the memory of argument `number` lies.
    pub(super) fn buffer(number: usize) -> i16 {
        -BUFFER_BYTES * (2 + number as i16 % BUFFERS)
    }

    /// The answer becomes part of the result.
    pub(super) fn keep_answer(&mut self, id: FuncId) {
        if !VARIES.contains(&id) {
            self.push(alu(Width::W64, AluOp::Mul, Reg::R7, Operand::Imm(31)));
            self.push(alu(Width::W64, AluOp::Xor, Reg::R7, Operand::Reg(Reg::R0)));
            // r0 is one bit wide where hooks want it so: everything is folded into that.
            self.fold(Reg::R7);
        }
    }

    fn fold(&mut self, reg: Reg) {
        for bits in [32, 16, 8, 4, 2, 1] {
            self.push(mov(Reg::R0, reg));
            self.push(alu(Width::W64, AluOp::Rsh, Reg::R0, Operand::Imm(bits)));
            self.push(alu(Width::W64, AluOp::Xor, reg, Operand::Reg(Reg::R0)));
        }
    }

    /// The words that a helper filled become part of the result.
    pub(super) fn keep_buffers(&mut self, id: FuncId) {
        if VARIES.contains(&id) {
            // What it wrote is forgotten.
            for slot in BUFFER_BYTES / 8 + 1..=(BUFFERS + 1) * BUFFER_BYTES / 8 {
                self.store_scratch(MemSize::Dw, -8 * slot, 5);
            }
            return;
        }
        for slot in [9, 16, 17, 24, 25] {
            self.push(Insn::Load {
                size: MemSize::Dw,
                mode: LoadMode::ZeroExtend,
                dst: Reg::R0,
                src: Reg::FP,
                off: -8 * slot,
            });
            self.push(alu(Width::W64, AluOp::Xor, Reg::R7, Operand::Reg(Reg::R0)));
        }
        self.fold(Reg::R7);
    }

    pub(super) fn jump_if_zero(&mut self, reg: Reg) -> usize {
        self.push(Insn::Jmp {
            width: Width::W64,
            op: JmpOp::Eq,
            dst: reg,
            src: Operand::Imm(0),
            off: 0,
        });
        self.insns.len() - 1
    }

    pub(super) fn land_here(&mut self, jump: usize) {
        self.insns[jump].off = (self.insns.len() - jump - 1) as i16;
    }

    pub(super) fn load_word(&mut self, dst: Reg, src: Reg, off: i16) {
        self.push(Insn::Load {
            size: MemSize::Dw,
            mode: LoadMode::ZeroExtend,
            dst,
            src,
            off,
        });
    }

    /// r9 is the value of an array's first element; the jump where there is none.
    pub(super) fn first_value(&mut self, map: i32) -> usize {
        self.store_scratch(MemSize::W, -BUFFER_BYTES, 0);
        self.load_map(Reg::R1, map);
        self.pointer_to_scratch(Reg::R2, -BUFFER_BYTES);
        self.helper(FuncId::MapLookupElem);
        self.push(mov(Reg::R9, Reg::R0));
        self.jump_if_zero(Reg::R9)
    }

    pub(super) fn callback(&mut self, dst: Reg, subprog: Subprog) {
        self.calls.push((self.insns.len(), subprog));
        self.push(Insn::LoadImm64 {
            dst,
            value: Imm64::Func(0),
        });
    }

    pub(super) fn flag(&mut self, dst: Reg) {
        let value = if self.rng.one_in(3) {
            self.rng.imm()
        } else {
            0
        };
        self.push(mov_imm(dst, value));
    }

    fn one_call(&mut self, proto: &FuncProto) {
        let id = id_of(proto);
        if self.sequence(id) {
            return;
        }
        let mut nulls = Vec::new();
        // Objects first: getting them takes calls.
        let mut needed = proto.args.iter().filter(|arg| !is_no_socket(arg));
        let object = needed.find_map(|arg| match arg.base {
            ArgBase::PtrToSockCommon | ArgBase::PtrToSocket | ArgBase::PtrToBtfIdSockCommon => {
                Some("sock")
            }
            ArgBase::PtrToBtfId => arg.btf_type,
            _ => None,
        });
        match object {
            Some("sock") => {
                // `sk` of `struct bpf_sk_lookup` and of `struct __sk_buff`.
                let offset = match self.prog_type {
                    ProgType::SkLookup => 0,
                    _ => 168,
                };
                self.load_word(Reg::R8, Reg::R6, offset);
                nulls.push(self.jump_if_zero(Reg::R8));
                if matches!(
                    id,
                    FuncId::SkStorageGet
                        | FuncId::SkStorageDelete
                        | FuncId::SkCgroupId
                        | FuncId::SkAncestorCgroupId
                ) {
                    self.push(mov(Reg::R1, Reg::R8));
                    self.helper(FuncId::SkFullsock);
                    self.push(mov(Reg::R8, Reg::R0));
                    nulls.push(self.jump_if_zero(Reg::R8));
                }
            }
            Some(object @ ("file" | "path" | "inode")) => {
                self.load_word(Reg::R8, Reg::R6, 0);
                let field = |path| {
                    let place = ring3_btf::layout::field(Some(&kernel_types().btf), "file", path);
                    place.map_or(0, |place| place.offset as i16)
                };
                match object {
                    "path" => {
                        let offset = Operand::Imm(field("f_path").into());
                        self.push(alu(Width::W64, AluOp::Add, Reg::R8, offset));
                    }
                    "inode" => self.load_word(Reg::R8, Reg::R8, field("f_inode")),
                    _ => {}
                }
            }
            Some("task_struct" | "cgroup") => {
                self.helper(FuncId::GetCurrentTaskBtf);
                self.push(mov(Reg::R8, Reg::R0));
                if object == Some("cgroup") {
                    let at = |of, path| {
                        let place = ring3_btf::layout::field(Some(&kernel_types().btf), of, path);
                        place.map_or(0, |place| place.offset as i16)
                    };
                    self.load_word(Reg::R8, Reg::R8, at("task_struct", "cgroups"));
                    nulls.push(self.jump_if_zero(Reg::R8));
                    self.load_word(Reg::R8, Reg::R8, at("css_set", "dfl_cgrp"));
                    nulls.push(self.jump_if_zero(Reg::R8));
                }
            }
            _ => {}
        }
        let args = [Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5];
        let mut len = 8;
        for (number, (arg, reg)) in proto.args.iter().zip(args).enumerate() {
            let is_null = arg.flags.contains(TypeFlags::MAYBE_NULL) && self.rng.one_in(4);
            match arg.base {
                ArgBase::DontCare => break,
                ArgBase::PtrToCtx => self.push(mov(reg, Reg::R6)),
                ArgBase::ConstMapPtr => {
                    let map = self.map_for(id);
                    self.load_map(reg, map);
                }
                ArgBase::PtrToMapKey => {
                    let key = self.rng.below(6) as i32;
                    self.store_scratch(MemSize::Dw, -BUFFER_BYTES, key);
                    self.pointer_to_scratch(reg, -BUFFER_BYTES);
                }
                ArgBase::PtrToMem | ArgBase::PtrToMapValue | ArgBase::PtrToStack if is_null => {
                    self.push(mov_imm(reg, 0));
                    len = 0;
                }
                ArgBase::PtrToMem | ArgBase::PtrToMapValue | ArgBase::PtrToStack => {
                    self.pointer_to_scratch(reg, Self::buffer(number));
                    // Whole words are what most of them take.
                    len = if self.rng.one_in(4) {
                        1 + self.rng.below(BUFFER_BYTES as usize) as i32
                    } else {
                        self.rng.pick(&[4, 8, 12, 16, 20, 32, 36, 64])
                    };
                }
                ArgBase::ConstSize | ArgBase::ConstSizeOrZero => {
                    let zero = arg.base == ArgBase::ConstSizeOrZero && self.rng.one_in(8);
                    self.push(mov_imm(reg, if zero { 0 } else { len }));
                }
                ArgBase::PtrToSocket if is_no_socket(arg) => self.push(mov_imm(reg, 0)),
                ArgBase::PtrToBtfId
                | ArgBase::PtrToSockCommon
                | ArgBase::PtrToSocket
                | ArgBase::PtrToBtfIdSockCommon => {
                    self.push(mov(reg, Reg::R8));
                }
                ArgBase::PtrToFunc => self.callback(reg, Subprog::Nothing),
                ArgBase::PtrToConstStr => self.push(Insn::LoadImm64 {
                    dst: reg,
                    value: Imm64::MapValue {
                        fd: TEXTS_MAP,
                        off: 0,
                    },
                }),
                ArgBase::PtrToPercpuBtfId => self.push(Insn::LoadImm64 {
                    dst: reg,
                    value: Imm64::BtfId {
                        id: kernel_types().percpu_var,
                        btf_fd: 0,
                    },
                }),
                ArgBase::Anything => self.any(id, number, reg),
                _ => self.push(mov_imm(reg, 0)),
            }
        }
        self.helper(id);
        match proto.ret.base {
            RetBase::Integer => self.keep_answer(id),
            RetBase::PtrToMapValue if id != FuncId::GetLocalStorage => {
                let none = self.jump_if_zero(Reg::R0);
                self.load_word(Reg::R0, Reg::R0, 0);
                self.keep_answer(id);
                self.land_here(none);
            }
            _ => {}
        }
        self.keep_buffers(id);
        for null in nulls {
            self.land_here(null);
        }
    }

    /// An argument that may be anything: mostly what helpers take.
    fn any(&mut self, id: FuncId, number: usize, reg: Reg) {
        let reads = matches!(
            id,
            FuncId::ProbeRead
                | FuncId::ProbeReadStr
                | FuncId::ProbeReadKernel
                | FuncId::ProbeReadKernelStr
                | FuncId::ProbeReadUser
                | FuncId::ProbeReadUserStr
                | FuncId::CopyFromUser
                | FuncId::CopyFromUserTask
        );
        if reads && number == 2 && self.rng.one_in(2) {
            return self.push(mov(reg, Reg::FP));
        }
        if matches!(
            id,
            FuncId::SkLookupTcp | FuncId::SkLookupUdp | FuncId::SkcLookupTcp
        ) && number == 3
        {
            return self.push(mov_imm(reg, -1));
        }
        let value = match self.rng.below(4) {
            0 if !reads => self.rng.imm(),
            1 => self.rng.below(64) as i32,
            _ => 0,
        };
        self.push(mov_imm(reg, value));
    }

    fn map_for(&mut self, id: FuncId) -> i32 {
        match id {
            FuncId::TailCall => PROG_ARRAY,
            FuncId::PerfEventOutput | FuncId::PerfEventRead | FuncId::PerfEventReadValue => PERF,
            FuncId::GetStackid => STACKS,
            FuncId::MapPushElem | FuncId::MapPopElem | FuncId::MapPeekElem => QUEUE,
            FuncId::UserRingbufDrain => USER_RINGBUF,
            FuncId::SkStorageGet | FuncId::SkStorageDelete => SK_STORAGE,
            FuncId::TaskStorageGet | FuncId::TaskStorageDelete => TASK_STORAGE,
            FuncId::CgrpStorageGet | FuncId::CgrpStorageDelete => CGRP_STORAGE,
            FuncId::InodeStorageGet | FuncId::InodeStorageDelete => INODE_STORAGE,
            FuncId::SkbUnderCgroup | FuncId::CurrentTaskUnderCgroup => CGROUPS,
            FuncId::RedirectMap => DEVICES,
            FuncId::GetLocalStorage => CGROUP_STORAGE,
            FuncId::RingbufOutput
            | FuncId::RingbufQuery
            | FuncId::RingbufReserve
            | FuncId::RingbufReserveDynptr => RINGBUF,
            FuncId::MapLookupPercpuElem => self.rng.pick(&[2, 5]),
            FuncId::ForEachMapElem => self.rng.pick(&[0, 1, 6]),
            _ => self.rng.pick(&[0, 1, 3]),
        }
    }
}
