//! `VerifiedProgram`: the verifier's output, which both engines consume without knowing the verifier.
//!
//! Instructions are in UAPI encoding after all rewrites (context accesses are loads from kernel object layouts, dead code is
//! gone); what the encoding cannot say stands in [`InsnFacts`], one per slot.

use alloc::{string::String, vec::Vec};

use ring3_btf::{Btf, TypeId};
use ring3_isa::RawInsn;
use ring3_uapi::FuncId;

/// An accepted program.
#[derive(Clone, Debug)]
pub struct VerifiedProgram {
    /// Instruction slots after rewrites.
    pub insns: Vec<RawInsn>,
    /// One entry per slot of `insns`.
    pub facts: Vec<InsnFacts>,
    /// Subprograms in order of their first slot; 0 is the main program.
    pub subprogs: Vec<SubprogFacts>,
    /// Maps used, as indices into `LoadRequest::maps`, in order of first use.
    pub used_maps: Vec<usize>,
    /// Types of objects that the program allocates or hands to lists and trees, as [`InsnFacts::object_type`] names them.
    pub object_types: Vec<ObjectType>,
    /// Statistics of the run.
    pub stats: VerifierStats,
    /// Whether any helper that changes packet data is called.
    pub changes_pkt_data: bool,
    /// Highest packet offset the program may touch, in bytes.
    pub max_pkt_offset: u32,
    /// Highest context offset the program accesses, in bytes.
    pub max_ctx_offset: u32,
    /// Highest offset of the read-write buffer of a raw tracepoint, in bytes.
    pub max_tp_access: u32,
    /// Highest offsets of an iterator's read-only buffer (a key) and its read-write buffer (a value), in bytes.
    pub max_buf_access: BufAccess,
    /// Subprogram that handles exceptions, if any.
    pub exception_cb: Option<u32>,
    /// Whether the attach type is enforced on links.
    pub enforce_expected_attach_type: bool,
    /// What is held where a run may be stopped, ascending by instruction; empty unless [`crate::LoadRequest::notes_held`].
    pub stop_points: Vec<StopPoint>,
}

/// How far a program reaches into the buffers of an iterator, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufAccess {
    /// The key.
    pub rdonly: u32,
    /// The value.
    pub rdwr: u32,
}

/// An instruction at which a run may be stopped: a jump back, or a call whose callee may be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopPoint {
    /// Slot in the program as loaded.
    pub orig_idx: u32,
    /// The callee is a callback that a helper calls.
    pub calls_back: bool,
    /// What this function has to release, the newest first; or why that cannot be told, naming instructions.
    pub held: Result<Vec<Held>, String>,
}

/// Something held, and how to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where its address is.
    pub place: HeldPlace,
    /// The helper that takes the address and, where it takes a second argument, 0.
    pub release: FuncId,
}

/// Where an address is before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldPlace {
    /// In a register, `off` bytes away.
    Reg {
        /// Number.
        reg: u8,
        /// What is to be added.
        off: i32,
    },
    /// In the eight bytes of stack at `r10 + at`, `off` bytes away.
    Stack {
        /// Negative offset from the frame pointer.
        at: i32,
        /// What is to be added.
        off: i32,
    },
    /// It is the address `r10 + at` itself.
    Frame {
        /// Negative offset from the frame pointer.
        at: i32,
    },
}

impl core::fmt::Display for HeldPlace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            HeldPlace::Reg { reg, .. } => write!(f, "r{reg}"),
            HeldPlace::Stack { at, .. } => write!(f, "*(r10 {at})"),
            HeldPlace::Frame { at } => write!(f, "r10 {at}"),
        }
    }
}

/// What is known of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InsnFacts {
    /// Slot in the program as loaded that this one comes from.
    pub orig_idx: u32,
    /// This slot was executed by some path the verifier walked.
    pub seen: bool,
    /// A load whose fault yields 0 (`BPF_PROBE_MEM`).
    pub probe_mem: bool,
    /// The upper half of the defined register is known to be unused or zero; no zero extension is needed.
    pub zext_not_needed: bool,
    /// Divisor of a division known to be non-zero.
    pub divisor_nonzero: bool,
    /// For a two-slot load of a map: index into `LoadRequest::maps`; the immediate is then a byte offset in the value
    /// (`is_map_value`) or unused.
    pub map: Option<u32>,
    /// The two-slot load yields an address in the map's value.
    pub is_map_value: bool,
    /// The two-slot load yields the address of this subprogram.
    pub func: Option<u32>,
    /// Insert a speculation barrier before this instruction (`BPF_ST | BPF_NOSPEC`).
    pub nospec: bool,
    /// Speculation barrier after this instruction.
    pub nospec_result: bool,
    /// Arena access (address relative to the arena's user base).
    pub arena: bool,
    /// What a call instruction calls.
    pub call: Option<CallFact>,
    /// The two-slot load yields what describes this object type (an index into [`VerifiedProgram::object_types`]) to a kernel function.
    pub object_type: Option<u32>,
}

/// A struct of a program's own BTF that it makes objects of.
#[derive(Clone, Debug)]
pub struct ObjectType {
    /// The BTF.
    pub btf: Btf,
    /// The struct.
    pub id: TypeId,
}

/// What a call instruction calls, and what is known of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFact {
    /// A helper.
    Helper {
        /// Which.
        id: FuncId,
        /// The one map its map argument always is, as an index into `LoadRequest::maps`.
        map: Option<u32>,
        /// The constant key (array index, prog array slot) it is always called with.
        const_key: Option<u32>,
    },
    /// A helper that a host application registered, by its number.
    HostHelper(u32),
    /// A subprogram of this program.
    Subprog(u32),
    /// A kernel function by BTF id and fd_array index.
    Kfunc {
        /// BTF type id.
        id: u32,
        /// Module index, 0 for the kernel BTF.
        btf_idx: i16,
    },
}

/// One function of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubprogFacts {
    /// First slot.
    pub start: u32,
    /// Bytes of stack used, a multiple of 8 is not guaranteed; at most 512.
    pub stack_bytes: u32,
    /// Name from BTF, empty if none.
    pub name: String,
    /// A tail call is reachable from here.
    pub tail_call_reachable: bool,
    /// Contains a tail call itself.
    pub has_tail_call: bool,
    /// Contains a legacy packet load.
    pub has_ld_abs: bool,
    /// Called as a callback by a helper.
    pub is_callback: bool,
    /// Called as an asynchronous callback (timer, workqueue).
    pub is_async_callback: bool,
    /// Global function, verified on its own.
    pub is_global: bool,
    /// Arguments taken in registers, when known from BTF.
    pub arg_count: Option<u8>,
    /// BTF id of the function, 0 if none.
    pub type_id: u32,
    /// BTF and code disagree.
    pub unreliable: bool,
    /// May change packet data.
    pub changes_pkt_data: bool,
    /// May sleep.
    pub might_sleep: bool,
}

/// The figures of the log's last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifierStats {
    /// Instructions processed over all paths.
    pub insns_processed: u64,
    /// Largest number of states kept at one instruction.
    pub max_states_per_insn: u32,
    /// States kept in total.
    pub total_states: u32,
    /// States alive at the same time, at most.
    pub peak_states: u32,
    /// Longest mark_read walk; 0 since 6.18 no longer walks.
    pub mark_read: u32,
    /// States kept and paths that wait to be walked at the same time, at most; the kernel counts only the former.
    pub peak_held: u32,
}
