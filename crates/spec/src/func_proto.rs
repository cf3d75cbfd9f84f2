//! What a helper takes and gives: argument kinds, result kinds, and the prototype the verifier checks calls against.
//!
//! Key types: [`FuncProto`], [`Arg`], [`Ret`]. The kernel's counterparts are `bpf_func_proto`, `bpf_arg_type` and
//! `bpf_return_type`. Rows are in [`crate::helpers`], typed by the markers of [`crate::kinds`].

use core::ops::BitOr;

use ring3_uapi::FuncId;

/// Which helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HelperId {
    /// One of the kernel's.
    Uapi(FuncId),
    /// One the embedder registered; the number is the call's immediate.
    Custom(u32),
}

impl HelperId {
    /// The immediate of the call instruction.
    pub const fn raw(self) -> u32 {
        match self {
            HelperId::Uapi(id) => id.raw(),
            HelperId::Custom(id) => id,
        }
    }
}

/// What an argument is, without its flags (`base_type` of `bpf_arg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArgBase {
    /// Not an argument of this helper: `ARG_DONTCARE`.
    DontCare,
    /// A map, known at load: `ARG_CONST_MAP_PTR`.
    ConstMapPtr,
    /// Memory of the map's key size: `ARG_PTR_TO_MAP_KEY`.
    PtrToMapKey,
    /// Memory of the map's value size: `ARG_PTR_TO_MAP_VALUE`.
    PtrToMapValue,
    /// Memory whose size is the next argument, or fixed: `ARG_PTR_TO_MEM`.
    PtrToMem,
    /// A pointer into an arena: `ARG_PTR_TO_ARENA`.
    PtrToArena,
    /// Size of the memory before, not 0: `ARG_CONST_SIZE`.
    ConstSize,
    /// Size of the memory before: `ARG_CONST_SIZE_OR_ZERO`.
    ConstSizeOrZero,
    /// The program's context: `ARG_PTR_TO_CTX`.
    PtrToCtx,
    /// Any initialised value: `ARG_ANYTHING`.
    Anything,
    /// A spin lock in a map value or allocated object: `ARG_PTR_TO_SPIN_LOCK`.
    PtrToSpinLock,
    /// A socket of some kind: `ARG_PTR_TO_SOCK_COMMON`.
    PtrToSockCommon,
    /// A full socket: `ARG_PTR_TO_SOCKET`.
    PtrToSocket,
    /// A kernel object of [`Arg::btf_type`]: `ARG_PTR_TO_BTF_ID`.
    PtrToBtfId,
    /// A reserved ring buffer record: `ARG_PTR_TO_RINGBUF_MEM`.
    PtrToRingbufMem,
    /// Bytes to allocate, known at load: `ARG_CONST_ALLOC_SIZE_OR_ZERO`.
    ConstAllocSizeOrZero,
    /// A socket as socket pointer or typed kernel pointer: `ARG_PTR_TO_BTF_ID_SOCK_COMMON`.
    PtrToBtfIdSockCommon,
    /// A per-CPU kernel object: `ARG_PTR_TO_PERCPU_BTF_ID`.
    PtrToPercpuBtfId,
    /// A subprogram called back: `ARG_PTR_TO_FUNC`.
    PtrToFunc,
    /// The caller's stack: `ARG_PTR_TO_STACK`.
    PtrToStack,
    /// A constant string in a read-only map: `ARG_PTR_TO_CONST_STR`.
    PtrToConstStr,
    /// A timer in a map value: `ARG_PTR_TO_TIMER`.
    PtrToTimer,
    /// Where a kernel object is exchanged: `ARG_KPTR_XCHG_DEST`.
    KptrXchgDest,
    /// A dynptr on the stack: `ARG_PTR_TO_DYNPTR`.
    PtrToDynptr,
}

/// Modifiers of arguments and results (`bpf_type_flag`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TypeFlags(u32);

impl TypeFlags {
    /// No modifier.
    pub const NONE: TypeFlags = TypeFlags(0);
    /// May be NULL: `PTR_MAYBE_NULL`.
    pub const MAYBE_NULL: TypeFlags = TypeFlags(1 << 0);
    /// Only read: `MEM_RDONLY`.
    pub const RDONLY: TypeFlags = TypeFlags(1 << 1);
    /// Need not be initialised, is after the call: `MEM_UNINIT`.
    pub const UNINIT: TypeFlags = TypeFlags(1 << 2);
    /// The helper writes: `MEM_WRITE`.
    pub const WRITE: TypeFlags = TypeFlags(1 << 3);
    /// Size is [`Arg::mem_bytes`]: `MEM_FIXED_SIZE`.
    pub const FIXED_SIZE: TypeFlags = TypeFlags(1 << 4);
    /// Must be aligned to its size: `MEM_ALIGNED`.
    pub const ALIGNED: TypeFlags = TypeFlags(1 << 5);
    /// The helper gives the reference back: `OBJ_RELEASE`.
    pub const RELEASE: TypeFlags = TypeFlags(1 << 6);
    /// Trusted kernel object: `PTR_TRUSTED`.
    pub const TRUSTED: TypeFlags = TypeFlags(1 << 7);
    /// Dynptr over local memory: `DYNPTR_TYPE_LOCAL`.
    pub const DYNPTR_LOCAL: TypeFlags = TypeFlags(1 << 8);
    /// Dynptr over a ring buffer record: `DYNPTR_TYPE_RINGBUF`.
    pub const DYNPTR_RINGBUF: TypeFlags = TypeFlags(1 << 9);
    /// Per-CPU memory: `MEM_PERCPU`.
    pub const PERCPU: TypeFlags = TypeFlags(1 << 10);

    /// Both sets.
    pub const fn or(self, other: TypeFlags) -> TypeFlags {
        TypeFlags(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: TypeFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for TypeFlags {
    type Output = TypeFlags;

    fn bitor(self, other: TypeFlags) -> TypeFlags {
        self.or(other)
    }
}

/// One argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// What it is.
    pub base: ArgBase,
    /// Modifiers.
    pub flags: TypeFlags,
    /// Kernel struct of [`ArgBase::PtrToBtfId`], or `bpf_dynptr`-like objects none.
    pub btf_type: Option<&'static str>,
    /// Bytes of fixed-size memory, 0 else.
    pub mem_bytes: u32,
}

impl Arg {
    /// No argument.
    pub const NONE: Arg = Arg::of(ArgBase::DontCare);

    /// An argument without modifiers.
    pub const fn of(base: ArgBase) -> Arg {
        Arg {
            base,
            flags: TypeFlags::NONE,
            btf_type: None,
            mem_bytes: 0,
        }
    }

    /// The same with these flags added.
    pub const fn with(self, flags: TypeFlags) -> Arg {
        Arg {
            flags: self.flags.or(flags),
            ..self
        }
    }

    /// Whether this flag is set.
    pub const fn has(&self, flag: TypeFlags) -> bool {
        self.flags.contains(flag)
    }
}

/// What a helper returns, without flags (`base_type` of `bpf_return_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetBase {
    /// A scalar: `RET_INTEGER`.
    Integer,
    /// Nothing: `RET_VOID`.
    Void,
    /// A value of the map argument: `RET_PTR_TO_MAP_VALUE`.
    PtrToMapValue,
    /// `RET_PTR_TO_SOCKET`
    PtrToSocket,
    /// `RET_PTR_TO_TCP_SOCK`
    PtrToTcpSock,
    /// `RET_PTR_TO_SOCK_COMMON`
    PtrToSockCommon,
    /// Memory whose size an argument gave: `RET_PTR_TO_MEM`.
    PtrToMem,
    /// Memory or a typed object, by the argument: `RET_PTR_TO_MEM_OR_BTF_ID`.
    PtrToMemOrBtfId,
    /// A kernel object of [`Ret::btf_type`]: `RET_PTR_TO_BTF_ID`.
    PtrToBtfId,
    /// A reserved ring buffer record: `RET_PTR_TO_MEM | MEM_RINGBUF`.
    PtrToRingbufMem,
    /// Memory of a dynptr: `RET_PTR_TO_DYNPTR_MEM`.
    PtrToDynptrMem,
}

/// A result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ret {
    /// What it is.
    pub base: RetBase,
    /// Modifiers.
    pub flags: TypeFlags,
    /// Kernel struct of [`RetBase::PtrToBtfId`]; none where the argument decides (`kptr_xchg`).
    pub btf_type: Option<&'static str>,
}

impl Ret {
    /// A result without modifiers.
    pub const fn of(base: RetBase) -> Ret {
        Ret {
            base,
            flags: TypeFlags::NONE,
            btf_type: None,
        }
    }

    /// The same with these flags added.
    pub const fn with(self, flags: TypeFlags) -> Ret {
        Ret {
            flags: self.flags.or(flags),
            ..self
        }
    }

    /// Whether this flag is set.
    pub const fn has(&self, flag: TypeFlags) -> bool {
        self.flags.contains(flag)
    }
}

/// Programs that may call a helper, beyond what the program type's list says (`bpf_func_proto::allowed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// All.
    Always,
    /// Raw tracepoints, iterators, and functions not of socket storage itself.
    SkStorageTracing,
    /// Iterators of TCP and unix sockets; to others the helper is unknown.
    SocketIter,
    /// Iterators, sleepable LSM hooks, and functions of a list.
    DPath,
    /// LSM hooks on which the file or inode is at hand.
    ImaHash,
    /// LSM hook `bprm_creds_for_exec`.
    BprmOpts,
}

/// A helper's prototype, one row per helper and variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuncProto {
    /// Which helper.
    pub id: HelperId,
    /// Name after `bpf_`.
    pub name: &'static str,
    /// Arguments, [`Arg::NONE`] after the last.
    pub args: [Arg; 5],
    /// Result.
    pub ret: Ret,
    /// Only for GPL-compatible programs.
    pub gpl_only: bool,
    /// Packet pointers may be passed as memory.
    pub pkt_access: bool,
    /// Packet pointers are invalid after the call.
    pub changes_pkt_data: bool,
    /// Only in sleepable programs.
    pub might_sleep: bool,
    /// May be called under the no-spill contract (`bpf_fastcall`).
    pub allow_fastcall: bool,
    /// Which programs, beyond the program type.
    pub allowed: Allowed,
}

impl FuncProto {
    /// A prototype without attributes.
    pub const fn new(id: FuncId, args: [Arg; 5], ret: Ret) -> FuncProto {
        FuncProto::build(HelperId::Uapi(id), id.name(), args, ret)
    }

    /// The prototype of a helper that the embedder registers under this immediate.
    pub const fn custom(id: u32, name: &'static str, args: [Arg; 5], ret: Ret) -> FuncProto {
        FuncProto::build(HelperId::Custom(id), name, args, ret)
    }

    const fn build(id: HelperId, name: &'static str, args: [Arg; 5], ret: Ret) -> FuncProto {
        FuncProto {
            id,
            name,
            args,
            ret,
            gpl_only: false,
            pkt_access: false,
            changes_pkt_data: false,
            might_sleep: false,
            allow_fastcall: false,
            allowed: Allowed::Always,
        }
    }

    /// Only for GPL-compatible programs.
    pub const fn gpl(self) -> FuncProto {
        FuncProto {
            gpl_only: true,
            ..self
        }
    }

    /// Packet pointers may be passed as memory.
    pub const fn pkt(self) -> FuncProto {
        FuncProto {
            pkt_access: true,
            ..self
        }
    }

    /// Packet pointers are invalid after the call.
    pub const fn changes_pkt(self) -> FuncProto {
        FuncProto {
            changes_pkt_data: true,
            ..self
        }
    }

    /// Only in sleepable programs.
    pub const fn sleeps(self) -> FuncProto {
        FuncProto {
            might_sleep: true,
            ..self
        }
    }

    /// May be called under the no-spill contract.
    pub const fn fastcall(self) -> FuncProto {
        FuncProto {
            allow_fastcall: true,
            ..self
        }
    }

    /// Socket storage from tracing programs.
    pub const fn sk_storage_tracing(self) -> FuncProto {
        FuncProto {
            allowed: Allowed::SkStorageTracing,
            ..self
        }
    }

    /// Options of the socket that an iterator is at.
    pub const fn socket_iter(self) -> FuncProto {
        FuncProto {
            allowed: Allowed::SocketIter,
            ..self
        }
    }

    /// Where `d_path` may be called.
    pub const fn d_path(self) -> FuncProto {
        FuncProto {
            allowed: Allowed::DPath,
            ..self
        }
    }

    /// Where hashes of files may be asked.
    pub const fn ima(self) -> FuncProto {
        FuncProto {
            allowed: Allowed::ImaHash,
            ..self
        }
    }

    /// Where options of an execve may be set.
    pub const fn bprm(self) -> FuncProto {
        FuncProto {
            allowed: Allowed::BprmOpts,
            ..self
        }
    }

    /// The UAPI id, none for a custom helper.
    pub const fn func_id(&self) -> Option<FuncId> {
        match self.id {
            HelperId::Uapi(id) => Some(id),
            HelperId::Custom(_) => None,
        }
    }
}
