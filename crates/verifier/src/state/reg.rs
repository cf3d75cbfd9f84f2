//! `RegState`: what is known of one register (or of a register spilled to the stack).
//!
//! A scalar is described by [`Scalar`]; a pointer is a base ([`RegType`], object in [`Extra`]) plus the fixed `off` plus the
//! variable part in `scalar`. `id` says that two registers hold the same value (scalars), the same variable part (packet
//! pointers), or the same possibly-null value (others). Neighbours: `log/state` prints it, `states/equal` compares it.

use core::fmt;

use ring3_btf::TypeId;

use crate::domain::Scalar;

/// What a register points to; the kernel's `base_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum RegBase {
    NotInit,
    Scalar,
    PtrToCtx,
    ConstPtrToMap,
    PtrToMapValue,
    PtrToMapKey,
    PtrToStack,
    PtrToPacketMeta,
    PtrToPacket,
    PtrToPacketEnd,
    PtrToFlowKeys,
    PtrToSocket,
    PtrToSockCommon,
    PtrToTcpSock,
    PtrToTpBuffer,
    PtrToXdpSock,
    PtrToBtfId,
    PtrToMem,
    PtrToArena,
    PtrToBuf,
    PtrToFunc,
    ConstPtrToDynptr,
}

/// Attributes of a register type; the kernel's `type_flag`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct TypeFlags(pub(crate) u32);

macro_rules! type_flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl TypeFlags {
            pub(crate) const NONE: TypeFlags = TypeFlags(0);
            $($(#[$doc])* pub(crate) const $name: TypeFlags = TypeFlags(1 << $bit);)*
        }
        impl fmt::Debug for TypeFlags {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut sep = "";
                $(if self.has(TypeFlags::$name) { write!(f, "{sep}{}", stringify!($name))?; sep = "|"; })*
                f.write_str(if sep.is_empty() { "-" } else { "" })
            }
        }
    };
}

type_flags! {
    PTR_MAYBE_NULL = 0;
    MEM_RDONLY = 1;
    MEM_RINGBUF = 2;
    MEM_USER = 3;
    MEM_PERCPU = 4;
    /// of arguments only
    OBJ_RELEASE = 5;
    PTR_UNTRUSTED = 6;
    /// of arguments only
    MEM_UNINIT = 7;
    DYNPTR_TYPE_LOCAL = 8;
    DYNPTR_TYPE_RINGBUF = 9;
    /// of arguments only
    MEM_FIXED_SIZE = 10;
    MEM_ALLOC = 11;
    PTR_TRUSTED = 12;
    MEM_RCU = 13;
    NON_OWN_REF = 14;
    DYNPTR_TYPE_SKB = 15;
    DYNPTR_TYPE_XDP = 16;
    /// of arguments only
    MEM_ALIGNED = 17;
    /// of arguments only
    MEM_WRITE = 18;
    DYNPTR_TYPE_SKB_META = 19;
}

impl TypeFlags {
    /// Whether any of `flags` is set.
    #[inline]
    pub(crate) const fn has(self, flags: TypeFlags) -> bool {
        self.0 & flags.0 != 0
    }

    #[inline]
    pub(crate) const fn with(self, flags: TypeFlags) -> TypeFlags {
        TypeFlags(self.0 | flags.0)
    }

    #[inline]
    pub(crate) const fn without(self, flags: TypeFlags) -> TypeFlags {
        TypeFlags(self.0 & !flags.0)
    }
}

/// Type of a register: base and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RegType {
    pub(crate) base: RegBase,
    pub(crate) flags: TypeFlags,
}

impl RegType {
    pub(crate) const NOT_INIT: RegType = RegType::of(RegBase::NotInit);
    pub(crate) const SCALAR: RegType = RegType::of(RegBase::Scalar);
    pub(crate) const CTX: RegType = RegType::of(RegBase::PtrToCtx);
    pub(crate) const STACK: RegType = RegType::of(RegBase::PtrToStack);
    pub(crate) const MAP_VALUE: RegType = RegType::of(RegBase::PtrToMapValue);
    pub(crate) const PACKET: RegType = RegType::of(RegBase::PtrToPacket);
    pub(crate) const PACKET_META: RegType = RegType::of(RegBase::PtrToPacketMeta);
    pub(crate) const PACKET_END: RegType = RegType::of(RegBase::PtrToPacketEnd);

    /// A type without flags.
    #[inline]
    pub(crate) const fn of(base: RegBase) -> RegType {
        RegType {
            base,
            flags: TypeFlags::NONE,
        }
    }

    #[inline]
    pub(crate) const fn with(self, flags: TypeFlags) -> RegType {
        RegType {
            base: self.base,
            flags: self.flags.with(flags),
        }
    }

    #[inline]
    pub(crate) const fn without(self, flags: TypeFlags) -> RegType {
        RegType {
            base: self.base,
            flags: self.flags.without(flags),
        }
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub(crate) const fn has(self, flags: TypeFlags) -> bool {
        self.flags.has(flags)
    }

    /// `PTR_MAYBE_NULL` is set.
    #[inline]
    pub(crate) const fn may_be_null(self) -> bool {
        self.flags.has(TypeFlags::PTR_MAYBE_NULL)
    }

    /// Whether it is exactly this base, without flags.
    #[inline]
    pub(crate) const fn is(self, base: RegBase) -> bool {
        self.base as u8 == base as u8 && self.flags.0 == 0
    }

    #[inline]
    pub(crate) const fn is_scalar(self) -> bool {
        self.base as u8 == RegBase::Scalar as u8
    }

    #[inline]
    pub(crate) const fn is_init(self) -> bool {
        self.base as u8 != RegBase::NotInit as u8
    }

    /// `PTR_TO_PACKET` or `PTR_TO_PACKET_META`.
    #[inline]
    pub(crate) const fn is_pkt(self) -> bool {
        matches!(self.base, RegBase::PtrToPacket | RegBase::PtrToPacketMeta)
    }

    /// Any packet pointer, the end included.
    #[inline]
    pub(crate) const fn is_pkt_any(self) -> bool {
        matches!(
            self.base,
            RegBase::PtrToPacket | RegBase::PtrToPacketMeta | RegBase::PtrToPacketEnd
        )
    }

    /// A socket of the small `bpf_sock`-like views.
    #[inline]
    pub(crate) const fn is_sk(self) -> bool {
        matches!(
            self.base,
            RegBase::PtrToSocket
                | RegBase::PtrToSockCommon
                | RegBase::PtrToTcpSock
                | RegBase::PtrToXdpSock
        )
    }

    /// Whether a load through it may hand out a kernel pointer to a program without privilege, or whether sanitation
    /// knows its bounds: the kernel's `type_is_ptr_alloc_obj` and friends build on these.
    #[inline]
    pub(crate) const fn is_ptr_alloc_obj(self) -> bool {
        matches!(self.base, RegBase::PtrToBtfId) && self.flags.has(TypeFlags::MEM_ALLOC)
    }

    /// An object the program does not own (`NON_OWN_REF`).
    #[inline]
    pub(crate) const fn is_non_owning_ref(self) -> bool {
        self.is_ptr_alloc_obj() && self.flags.has(TypeFlags::NON_OWN_REF)
    }
}

/// Index into [`crate::env::Facts::maps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MapIdx(pub(crate) u32);

/// Index into [`crate::env::Facts::btfs`]; 0 is the kernel's BTF, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BtfIdx(pub(crate) u16);

/// Kind of a dynptr on the stack or in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DynptrType {
    Invalid,
    Local,
    Ringbuf,
    Skb,
    Xdp,
    SkbMeta,
}

/// State of an open-coded iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IterState {
    Invalid,
    Active,
    Drained,
}

/// Kind of function that saves and restores interrupt flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IrqClass {
    Native,
    Lock,
}

/// What belongs to a pointer type; the kernel's union.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Extra {
    None,
    /// Packet pointers: bytes known to be readable; negative: see `BEYOND_PKT_END`, `AT_PKT_END`.
    Range(i32),
    /// Map pointers, values and keys. `uid` tells inner maps of one look-up from those of another.
    Map {
        map: MapIdx,
        uid: u32,
    },
    /// BTF-typed objects.
    Btf {
        btf: BtfIdx,
        id: TypeId,
    },
    /// Memory of a size; slices of dynptrs know which.
    Mem {
        size: u32,
        dynptr_id: u32,
    },
    Dynptr {
        ty: DynptrType,
        first_slot: bool,
    },
    Iter {
        btf: BtfIdx,
        id: TypeId,
        state: IterState,
        depth: u32,
    },
    Subprog(u32),
    Irq(IrqClass),
}

/// `range` of a packet pointer that is beyond `data_end`.
pub(crate) const BEYOND_PKT_END: i32 = -2;
/// `range` of a packet pointer that is at `data_end`.
pub(crate) const AT_PKT_END: i32 = -1;

/// Bit of a scalar's `id`: the register is another with this id plus the constant `off`, in 64 bits.
pub(crate) const BPF_ADD_CONST64: u32 = 1 << 31;
/// Bit of a scalar's `id`: the register is another with this id plus the constant `off`, in 32 bits.
pub(crate) const BPF_ADD_CONST32: u32 = 1 << 30;
/// Bits of a scalar's `id` that are not part of the number.
pub(crate) const BPF_ADD_CONST: u32 = BPF_ADD_CONST64 | BPF_ADD_CONST32;

/// `subreg_def` of a register whose upper half was written.
pub(crate) const DEF_NOT_SUBREG: u32 = 0;

/// What is known of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegState {
    /// The value of a scalar, the variable part of a pointer.
    pub(crate) scalar: Scalar,
    pub(crate) ty: RegType,
    pub(crate) extra: Extra,
    /// Fixed offset of a pointer; with [`BPF_ADD_CONST`] in `id`, of a scalar.
    pub(crate) off: i32,
    pub(crate) id: u32,
    /// The acquired reference this is, or belongs to.
    pub(crate) ref_obj_id: u32,
    /// Instruction + 1 that defined the low half only; [`DEF_NOT_SUBREG`] else.
    pub(crate) subreg_def: u32,
    /// Frame a stack pointer points into.
    pub(crate) frameno: u8,
    /// Its exact value matters to what was proved.
    pub(crate) precise: bool,
}

impl RegState {
    /// A register without a value.
    pub(crate) const NOT_INIT: RegState = RegState {
        scalar: Scalar::UNKNOWN,
        ty: RegType::NOT_INIT,
        extra: Extra::None,
        off: 0,
        id: 0,
        ref_obj_id: 0,
        subreg_def: DEF_NOT_SUBREG,
        frameno: 0,
        precise: false,
    };

    /// A scalar of which nothing is known.
    pub(crate) const UNKNOWN_SCALAR: RegState = RegState {
        ty: RegType::SCALAR,
        ..RegState::NOT_INIT
    };

    /// The number `value`.
    #[inline]
    pub(crate) fn known(value: u64) -> RegState {
        RegState {
            scalar: Scalar::known(value),
            ..RegState::UNKNOWN_SCALAR
        }
    }

    /// A pointer with offset 0.
    #[inline]
    pub(crate) fn pointer(ty: RegType, extra: Extra) -> RegState {
        RegState {
            scalar: Scalar::ZERO,
            ty,
            extra,
            ..RegState::NOT_INIT
        }
    }

    /// Becomes a scalar of which nothing is known (`__mark_reg_unknown_imprecise`); `subreg_def` stays.
    #[inline]
    pub(crate) fn set_unknown(&mut self) {
        *self = RegState {
            subreg_def: self.subreg_def,
            ..RegState::UNKNOWN_SCALAR
        };
    }

    /// As `__mark_reg_known`: the number becomes `value`, and id, reference, offset and object are forgotten; type stays.
    #[inline]
    pub(crate) fn set_known(&mut self, value: u64) {
        self.scalar = Scalar::known(value);
        self.off = 0;
        self.id = 0;
        self.ref_obj_id = 0;
        self.extra = Extra::None;
    }

    /// As `__mark_reg_const_zero`: the number 0.
    #[inline]
    pub(crate) fn set_const_zero(&mut self) {
        self.set_known(0);
        self.ty = RegType::SCALAR;
        self.precise = false;
    }

    #[inline]
    pub(crate) fn is_const(&self) -> bool {
        self.ty.base == RegBase::Scalar && self.scalar.is_const()
    }

    /// Is it the number 0?
    #[inline]
    pub(crate) fn is_null(&self) -> bool {
        self.is_const() && self.scalar.var_off.value == 0
    }

    /// A value of `off + var_off`, if the variable part is known.
    #[inline]
    pub(crate) fn const_offset(&self) -> Option<i64> {
        self.scalar
            .const_value()
            .map(|value| (value as i64).wrapping_add(i64::from(self.off)))
    }

    /// Bytes readable behind a packet pointer; 0 for anything else.
    #[inline]
    pub(crate) fn range(&self) -> i32 {
        match self.extra {
            Extra::Range(range) => range,
            _ => 0,
        }
    }

    /// Whether no other register can have its id or reference.
    #[inline]
    pub(crate) fn is_unrelated(&self) -> bool {
        self.id == 0 && self.ref_obj_id == 0
    }

    /// The map of a map pointer, value or key.
    #[inline]
    pub(crate) fn map(&self) -> Option<MapIdx> {
        match self.extra {
            Extra::Map { map, .. } => Some(map),
            _ => None,
        }
    }

    /// The inner-map tag of a map pointer or value, 0 if none.
    #[inline]
    pub(crate) fn map_uid(&self) -> u32 {
        match self.extra {
            Extra::Map { uid, .. } => uid,
            _ => 0,
        }
    }

    /// BTF and type of a typed object.
    #[inline]
    pub(crate) fn btf(&self) -> Option<(BtfIdx, TypeId)> {
        match self.extra {
            Extra::Btf { btf, id } => Some((btf, id)),
            _ => None,
        }
    }

    /// Bytes of a memory object.
    #[inline]
    pub(crate) fn mem_size(&self) -> u32 {
        match self.extra {
            Extra::Mem { size, .. } => size,
            _ => 0,
        }
    }
}
