//! Marker types: what an argument or result of a helper is, as a type.
//!
//! A helper's row names one marker per argument; the row's prototype is computed from the markers, and [`Value`] of the
//! markers is the Rust signature that the implementation must have, so that the two cannot drift apart.

use core::marker::PhantomData;

use crate::{Arg, ArgBase, Ret, RetBase, TypeFlags};

/// A marker for an argument.
pub trait ArgKind {
    /// What the verifier checks.
    const ARG: Arg;
}

/// A marker for a result.
pub trait RetKind {
    /// What the verifier assumes after the call.
    const RET: Ret;
}

/// A marker for a kernel struct.
pub trait BtfStruct {
    /// Its name in the kernel's BTF.
    const NAME: &'static str;
}

/// A register's value at a call, tagged with what the verifier established about it.
#[repr(transparent)]
pub struct Value<K> {
    /// The register.
    pub raw: u64,
    kind: PhantomData<fn(K) -> K>,
}

impl<K> Value<K> {
    /// Tags a register's value.
    pub const fn new(raw: u64) -> Self {
        Value {
            raw,
            kind: PhantomData,
        }
    }
}

impl<K> Clone for Value<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Value<K> {}

impl<K> core::fmt::Debug for Value<K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.raw)
    }
}

macro_rules! arg_kinds {
    ($($(#[$meta:meta])* $name:ident = $base:ident $(| $flag:ident)*;)*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl ArgKind for $name {
                const ARG: Arg = Arg::of(ArgBase::$base)$(.with(TypeFlags::$flag))*;
            }
        )*
    };
}

arg_kinds! {
    /// Any initialised value.
    Any = Anything;
    /// The context.
    Ctx = PtrToCtx;
    /// A map.
    Map = ConstMapPtr;
    /// A key of the map.
    Key = PtrToMapKey;
    /// A value for the map.
    MapVal = PtrToMapValue;
    /// A value the helper fills in.
    MapValOut = PtrToMapValue | UNINIT | WRITE;
    /// Memory that is read.
    Mem = PtrToMem | RDONLY;
    /// Memory that is read, and written where the kernel does not say so in the prototype.
    MemPlain = PtrToMem;
    /// Initialised memory that is written.
    MemInOut = PtrToMem | WRITE;
    /// Memory that is filled.
    MemOut = PtrToMem | UNINIT | WRITE;
    /// Bytes of the memory before, not 0.
    Size = ConstSize;
    /// Bytes of the memory before.
    SizeOrZero = ConstSizeOrZero;
    /// Bytes to reserve.
    AllocSize = ConstAllocSizeOrZero;
    /// A lock.
    SpinLockPtr = PtrToSpinLock;
    /// A timer.
    TimerPtr = PtrToTimer;
    /// A socket pointer.
    SockCommonPtr = PtrToSockCommon;
    /// A full socket.
    SocketPtr = PtrToSocket;
    /// A socket pointer or a typed kernel socket.
    BtfSock = PtrToBtfIdSockCommon;
    /// A reserved record.
    RingbufMem = PtrToRingbufMem;
    /// A per-CPU kernel variable.
    PercpuVar = PtrToPercpuBtfId;
    /// A callback.
    Func = PtrToFunc;
    /// Context of a callback.
    StackPtr = PtrToStack;
    /// A constant string.
    ConstStr = PtrToConstStr;
    /// The place of a kernel pointer.
    KptrDest = KptrXchgDest;
    /// A dynptr that is read.
    Dynptr = PtrToDynptr | RDONLY;
    /// A dynptr over local memory that is made.
    DynptrLocalOut = PtrToDynptr | DYNPTR_LOCAL | UNINIT | WRITE;
    /// A dynptr over a ring buffer record that is made.
    DynptrRingbufOut = PtrToDynptr | DYNPTR_RINGBUF | UNINIT | WRITE;
    /// A dynptr over a ring buffer record that is given back.
    DynptrRingbufRelease = PtrToDynptr | DYNPTR_RINGBUF | RELEASE;
    /// A typed kernel object whose type another argument tells.
    AnyBtf = PtrToBtfId;
}

/// `K`, or NULL.
#[derive(Clone, Copy, Debug)]
pub struct OrNull<K>(PhantomData<K>);

impl<K: ArgKind> ArgKind for OrNull<K> {
    const ARG: Arg = K::ARG.with(TypeFlags::MAYBE_NULL);
}

impl<K: RetKind> RetKind for OrNull<K> {
    const RET: Ret = K::RET.with(TypeFlags::MAYBE_NULL);
}

/// `K`, whose reference the helper gives back.
#[derive(Clone, Copy, Debug)]
pub struct Released<K>(PhantomData<K>);

impl<K: ArgKind> ArgKind for Released<K> {
    const ARG: Arg = K::ARG.with(TypeFlags::RELEASE);
}

/// `BYTES` bytes of memory that are read.
#[derive(Clone, Copy, Debug)]
pub enum FixedMem<const BYTES: u32> {}

impl<const BYTES: u32> ArgKind for FixedMem<BYTES> {
    const ARG: Arg = Arg {
        mem_bytes: BYTES,
        ..Arg::of(ArgBase::PtrToMem)
            .with(TypeFlags::FIXED_SIZE)
            .with(TypeFlags::RDONLY)
    };
}

/// `BYTES` bytes, aligned, that are filled.
#[derive(Clone, Copy, Debug)]
pub enum FixedMemOut<const BYTES: u32> {}

impl<const BYTES: u32> ArgKind for FixedMemOut<BYTES> {
    const ARG: Arg = Arg {
        mem_bytes: BYTES,
        ..Arg::of(ArgBase::PtrToMem)
            .with(TypeFlags::FIXED_SIZE)
            .with(TypeFlags::UNINIT)
            .with(TypeFlags::WRITE)
            .with(TypeFlags::ALIGNED)
    };
}

/// `BYTES` bytes, aligned and initialised, that are written.
#[derive(Clone, Copy, Debug)]
pub enum FixedMemInOut<const BYTES: u32> {}

impl<const BYTES: u32> ArgKind for FixedMemInOut<BYTES> {
    const ARG: Arg = Arg {
        mem_bytes: BYTES,
        ..Arg::of(ArgBase::PtrToMem)
            .with(TypeFlags::FIXED_SIZE)
            .with(TypeFlags::WRITE)
            .with(TypeFlags::ALIGNED)
    };
}

/// A kernel object of type `S`.
#[derive(Clone, Copy, Debug)]
pub struct Btf<S>(PhantomData<S>);

impl<S: BtfStruct> ArgKind for Btf<S> {
    const ARG: Arg = Arg {
        btf_type: Some(S::NAME),
        ..Arg::of(ArgBase::PtrToBtfId)
    };
}

impl<S: BtfStruct> RetKind for Btf<S> {
    const RET: Ret = Ret {
        btf_type: Some(S::NAME),
        ..Ret::of(RetBase::PtrToBtfId)
    };
}

/// A trusted kernel object of type `S`.
#[derive(Clone, Copy, Debug)]
pub struct Trusted<S>(PhantomData<S>);

impl<S: BtfStruct> RetKind for Trusted<S> {
    const RET: Ret = <Btf<S> as RetKind>::RET.with(TypeFlags::TRUSTED);
}

macro_rules! ret_kinds {
    ($($(#[$meta:meta])* $name:ident = $base:ident $(| $flag:ident)*;)*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl RetKind for $name {
                const RET: Ret = Ret::of(RetBase::$base)$(.with(TypeFlags::$flag))*;
            }
        )*
    };
}

ret_kinds! {
    /// A number.
    Int = Integer;
    /// Nothing.
    Void = Void;
    /// A value of the map.
    MapValue = PtrToMapValue;
    /// A full socket.
    Socket = PtrToSocket;
    /// A TCP socket.
    TcpSocket = PtrToTcpSock;
    /// A socket of some kind.
    SockCommonRet = PtrToSockCommon;
    /// A reserved record.
    RingbufRecord = PtrToRingbufMem;
    /// A slice of a dynptr.
    DynptrMem = PtrToDynptrMem;
    /// Memory or a typed object, read-only.
    MemOrBtf = PtrToMemOrBtfId | RDONLY;
    /// The kernel object that an argument's type tells.
    ExchangedBtf = PtrToBtfId;
}

macro_rules! btf_structs {
    ($($name:ident = $text:literal;)*) => {
        $(
            #[doc = concat!("`struct ", $text, "`")]
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl BtfStruct for $name {
                const NAME: &'static str = $text;
            }
        )*
    };
}

btf_structs! {
    Cgroup = "cgroup";
    File = "file";
    Inode = "inode";
    LinuxBinprm = "linux_binprm";
    MptcpSock = "mptcp_sock";
    Path = "path";
    PtRegs = "pt_regs";
    SeqFile = "seq_file";
    SkBuff = "sk_buff";
    SockCommon = "sock_common";
    SocketStruct = "socket";
    TaskStruct = "task_struct";
    Tcp6Sock = "tcp6_sock";
    TcpRequestSock = "tcp_request_sock";
    TcpSock = "tcp_sock";
    TcpTimewaitSock = "tcp_timewait_sock";
    Udp6Sock = "udp6_sock";
    UnixSock = "unix_sock";
    XdpBuff = "xdp_buff";
}
