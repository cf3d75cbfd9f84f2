//! `Insn`: the typed meaning of an instruction, one variant per shape. Neighbours: `raw` (the slot), `table` (the operations
//! and how the two forms relate), and every consumer of programs, which matches on these enums without `_` arms.

use crate::{AluOp, EndianOp, JmpOp};

/// A register: r0..r10, and r11, which only rewrites by the verifier may use (the kernel's `BPF_REG_AX`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// Return value.
    pub const R0: Reg = Reg(0);
    /// First argument; the context at entry.
    pub const R1: Reg = Reg(1);
    /// Second argument.
    pub const R2: Reg = Reg(2);
    /// Third argument.
    pub const R3: Reg = Reg(3);
    /// Fourth argument.
    pub const R4: Reg = Reg(4);
    /// Fifth argument.
    pub const R5: Reg = Reg(5);
    /// First callee-saved register.
    pub const R6: Reg = Reg(6);
    /// Callee-saved.
    pub const R7: Reg = Reg(7);
    /// Callee-saved.
    pub const R8: Reg = Reg(8);
    /// Callee-saved.
    pub const R9: Reg = Reg(9);
    /// Frame pointer, read-only.
    pub const FP: Reg = Reg(10);
    /// Scratch register of rewrites; never in a program from outside.
    pub const AX: Reg = Reg(11);

    /// The register with this number, 0..=11.
    pub const fn new(number: u8) -> Option<Reg> {
        if number <= 11 {
            Some(Reg(number))
        } else {
            None
        }
    }

    /// 0..=11.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// 0..=11, for indexing.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Debug for Reg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl core::fmt::Display for Reg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// Operation width: `W32` works on the low half and clears the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 32 bits.
    W32,
    /// 64 bits.
    W64,
}

/// Access size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemSize {
    /// One byte.
    B = 1,
    /// Two bytes.
    H = 2,
    /// Four bytes.
    W = 4,
    /// Eight bytes.
    Dw = 8,
}

impl MemSize {
    /// 1, 2, 4 or 8.
    pub const fn bytes(self) -> usize {
        self as usize
    }
}

/// Second operand: a register or a sign-extended 32-bit immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// An immediate.
    Imm(i32),
}

/// Whether a load extends with zeros or the sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadMode {
    /// `BPF_MEM`
    ZeroExtend,
    /// `BPF_MEMSX`
    SignExtend,
}

/// Atomic memory operations; `fetch` returns the old value in the source register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomicOp {
    /// Add.
    Add {
        /// Old value into the source register.
        fetch: bool,
    },
    /// Or.
    Or {
        /// Old value into the source register.
        fetch: bool,
    },
    /// And.
    And {
        /// Old value into the source register.
        fetch: bool,
    },
    /// Exclusive or.
    Xor {
        /// Old value into the source register.
        fetch: bool,
    },
    /// Exchange.
    Xchg,
    /// Compare with r0, store the source register if equal; r0 gets the old value.
    Cmpxchg,
    /// `dst = load_acquire(src + off)`
    LoadAcquire,
    /// `store_release(dst + off, src)`
    StoreRelease,
}

/// The value of a two-slot load, by its source-register variant. Fields are as encoded; a loader gives them meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Imm64 {
    /// A 64-bit constant.
    Value(u64),
    /// Map by fd.
    MapFd(i32),
    /// Address in the value of a single-entry map, by fd.
    MapValue {
        /// Map fd.
        fd: i32,
        /// Byte offset in the value.
        off: u32,
    },
    /// Kernel variable by BTF type id.
    BtfId {
        /// Type id of the variable.
        id: u32,
        /// Module BTF fd, 0 for vmlinux.
        btf_fd: u32,
    },
    /// Subprogram address; slots relative to the next slot of the first half.
    Func(i32),
    /// Map by index into fd_array.
    MapIdx(i32),
    /// Address in a map value, by index into fd_array.
    MapIdxValue {
        /// Index into fd_array.
        idx: i32,
        /// Byte offset in the value.
        off: u32,
    },
}

/// What a call instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallTarget {
    /// Helper by id.
    Helper(i32),
    /// Subprogram; slots relative to the next slot.
    Subprog(i32),
    /// Kernel function by BTF id.
    Kfunc {
        /// BTF type id of the function.
        id: i32,
        /// Index into fd_array of the module BTF; 0 is vmlinux.
        btf_idx: i16,
    },
}

/// One instruction. Offsets of jumps count slots from the following slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Insn {
    /// Arithmetic, move included.
    Alu {
        /// Width of the operation.
        width: Width,
        /// Operation.
        op: AluOp,
        /// Destination and first operand.
        dst: Reg,
        /// Second operand.
        src: Operand,
    },
    /// `dst = -dst`
    Neg {
        /// Width of the operation.
        width: Width,
        /// Operand.
        dst: Reg,
    },
    /// Sign-extending move of the low 8, 16 or (64-bit only) 32 bits.
    Movsx {
        /// Width of the result.
        width: Width,
        /// Size of what is extended: `B`, `H`, `W`.
        from: MemSize,
        /// Destination.
        dst: Reg,
        /// Source.
        src: Reg,
    },
    /// Byte-order operation on 16, 32 or 64 bits: `H`, `W`, `Dw`.
    Endian {
        /// Operation.
        op: EndianOp,
        /// Width of the value.
        size: MemSize,
        /// Operand.
        dst: Reg,
    },
    /// `dst = addr_space_cast(src, dst_as, src_as)`
    AddrSpaceCast {
        /// Destination.
        dst: Reg,
        /// Source.
        src: Reg,
        /// Address space of the result.
        dst_as: u16,
        /// Address space of the source.
        src_as: u16,
    },
    /// Two-slot load.
    LoadImm64 {
        /// Destination.
        dst: Reg,
        /// Value.
        value: Imm64,
    },
    /// Legacy packet load at a constant offset into r0.
    LoadAbs {
        /// Size, at most 4 bytes.
        size: MemSize,
        /// Offset.
        imm: i32,
    },
    /// Legacy packet load at `src + imm` into r0.
    LoadInd {
        /// Size, at most 4 bytes.
        size: MemSize,
        /// Variable part of the offset.
        src: Reg,
        /// Constant part of the offset.
        imm: i32,
    },
    /// `dst = *(size *)(src + off)`
    Load {
        /// Size; not `Dw` with sign extension.
        size: MemSize,
        /// Extension.
        mode: LoadMode,
        /// Destination.
        dst: Reg,
        /// Base.
        src: Reg,
        /// Displacement in bytes.
        off: i16,
    },
    /// `*(size *)(dst + off) = src`
    Store {
        /// Size.
        size: MemSize,
        /// Base.
        dst: Reg,
        /// Displacement in bytes.
        off: i16,
        /// Value.
        src: Operand,
    },
    /// Atomic operation.
    Atomic {
        /// Operation.
        op: AtomicOp,
        /// `W` or `Dw`; load-acquire and store-release take any.
        size: MemSize,
        /// Base (load-acquire: destination).
        dst: Reg,
        /// Value (load-acquire: base).
        src: Reg,
        /// Displacement in bytes.
        off: i16,
    },
    /// Conditional jump.
    Jmp {
        /// Width of the comparison.
        width: Width,
        /// Condition.
        op: JmpOp,
        /// First operand.
        dst: Reg,
        /// Second operand.
        src: Operand,
        /// Distance.
        off: i16,
    },
    /// Unconditional jump (`goto`, 16 bits).
    Ja {
        /// Distance.
        off: i16,
    },
    /// Unconditional jump (`gotol`, 32 bits).
    Jal {
        /// Distance.
        off: i32,
    },
    /// `may_goto`: jump when the budget is used up.
    MayGoto {
        /// Distance.
        off: i16,
    },
    /// Call.
    Call(CallTarget),
    /// Return.
    Exit,
    /// A form that only rewrites of accepted programs contain.
    Internal(InternalInsn),
}

/// Instructions that never come from outside: the verifier's rewrites write them, engines run them.
/// [`decode`](crate::decode) refuses them, [`decode_xlated`](crate::decode_xlated) reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InternalInsn {
    /// Speculation barrier; no effect on values.
    Nospec,
    /// A load that reads 0 where the address faults (`BPF_PROBE_MEM`, `BPF_PROBE_MEMSX`).
    ProbeLoad {
        /// Size; not `Dw` with sign extension.
        size: MemSize,
        /// Extension.
        mode: LoadMode,
        /// Destination.
        dst: Reg,
        /// Base.
        src: Reg,
        /// Displacement in bytes.
        off: i16,
    },
    /// A load from the program's arena at the low half of `src`; 0 where it faults (`BPF_PROBE_MEM32`).
    ArenaLoad {
        /// Size.
        size: MemSize,
        /// Extension.
        mode: LoadMode,
        /// Destination.
        dst: Reg,
        /// Arena offset.
        src: Reg,
        /// Displacement in bytes.
        off: i16,
    },
    /// A store to the program's arena at the low half of `dst`; skipped where it faults.
    ArenaStore {
        /// Size.
        size: MemSize,
        /// Arena offset.
        dst: Reg,
        /// Displacement in bytes.
        off: i16,
        /// Value.
        src: Operand,
    },
    /// An atomic operation on the arena (`BPF_PROBE_ATOMIC`).
    ArenaAtomic {
        /// Operation.
        op: AtomicOp,
        /// As in [`Insn::Atomic`].
        size: MemSize,
        /// Arena offset (load-acquire: destination).
        dst: Reg,
        /// Value (load-acquire: arena offset).
        src: Reg,
        /// Displacement in bytes.
        off: i16,
    },
    /// `dst` = address of this CPU's copy of the per-CPU variable at `src`.
    PercpuAddr {
        /// Destination.
        dst: Reg,
        /// Source.
        src: Reg,
    },
    /// Tail call through the map in r2 at the index in r3.
    TailCall,
}

impl From<InternalInsn> for Insn {
    fn from(insn: InternalInsn) -> Insn {
        Insn::Internal(insn)
    }
}
