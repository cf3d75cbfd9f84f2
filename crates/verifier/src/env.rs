//! `Facts`: what the passes found out about the program, immutable during exploration. `Env`: exploration's working context.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::OnceCell;

use ring3_btf::record::{DESTRUCTIBLE_6_18, KernelTypes, Record, StructMetas};
use ring3_btf::{Btf, TypeId};
use ring3_isa::{Insn, RawInsn, Reg};
use ring3_spec::{LoadRequest, MapInfo};
use ring3_uapi::flags::prog_load;

use crate::aux::AuxTable;
use crate::liveness::stack::StackLiveness;
use crate::log::Log;
use crate::state::{BtfIdx, Extra, MapIdx, RegBase, RegState, SharedReg, VerifierState};
use crate::states::StateTable;

/// An instruction slot, decoded once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    Insn(Insn),
    /// A two-slot load with its operand resolved.
    LoadImm64 {
        dst: Reg,
        value: LdImm64,
    },
    /// The second slot of a two-slot load.
    SecondHalf,
    /// An encoding the decoder refuses; rejected when (and only when) a path reaches it.
    Bad,
}

/// What a two-slot load loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LdImm64 {
    /// Low and high half.
    Value(u32, u32),
    Map(MapIdx),
    MapValue {
        map: MapIdx,
        off: u32,
    },
    /// A kernel variable of a BTF type, or (`mem_size`) memory.
    BtfVar {
        btf: BtfIdx,
        id: TypeId,
        percpu: bool,
    },
    KernelMem {
        size: u32,
    },
    /// Address of a subprogram.
    Func {
        subprog: u32,
    },
}

/// Properties of an instruction found before exploration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InsnFlags(pub(crate) u16);

impl InsnFlags {
    pub(crate) const PRUNE_POINT: InsnFlags = InsnFlags(1);
    pub(crate) const JMP_POINT: InsnFlags = InsnFlags(1 << 1);
    pub(crate) const FORCE_CHECKPOINT: InsnFlags = InsnFlags(1 << 2);
    pub(crate) const CALLS_CALLBACK: InsnFlags = InsnFlags(1 << 3);
    pub(crate) const ITER_NEXT: InsnFlags = InsnFlags(1 << 4);
    pub(crate) const MAY_GOTO: InsnFlags = InsnFlags(1 << 5);
    /// In some loop (`Facts::scc` is not 0).
    pub(crate) const IN_SCC: InsnFlags = InsnFlags(1 << 6);
    /// Reads all 64 bits of its operands.
    pub(crate) const READS_64: InsnFlags = InsnFlags(1 << 7);
    /// Reads all 64 bits of operands that are no scalars.
    pub(crate) const READS_POINTER: InsnFlags = InsnFlags(1 << 8);
    /// May write the stack, or leads into another frame.
    pub(crate) const MAY_WRITE_STACK: InsnFlags = InsnFlags(1 << 10);
    /// Writes all 64 bits of its destination.
    pub(crate) const WRITES_64: InsnFlags = InsnFlags(1 << 9);

    #[inline]
    pub(crate) const fn has(self, flag: InsnFlags) -> bool {
        self.0 & flag.0 != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, flag: InsnFlags) {
        self.0 |= flag.0;
    }

    #[inline]
    pub(crate) const fn with(self, flag: InsnFlags) -> InsnFlags {
        InsnFlags(self.0 | flag.0)
    }
}

/// A function of the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subprog {
    /// First slot.
    pub(crate) start: u32,
    /// One past the last slot.
    pub(crate) end: u32,
    /// Name from func_info, empty if none.
    pub(crate) name: String,
    /// Type id of the `FUNC` in the program's BTF, 0 if none.
    pub(crate) func_type_id: TypeId,
    pub(crate) linkage: Linkage,
    /// BTF and code disagree (`func_info_aux.unreliable`).
    pub(crate) unreliable: bool,
    pub(crate) has_tail_call: bool,
    pub(crate) has_ld_abs: bool,
    pub(crate) changes_pkt_data: bool,
    pub(crate) might_sleep: bool,
    /// Handler of exceptions.
    pub(crate) is_exception_cb: bool,
    /// First index of the function in `Facts::postorder`.
    pub(crate) postorder_start: u32,
}

/// How a function may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Linkage {
    #[default]
    Static,
    Global,
    Extern,
}

/// A `line_info` record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineInfo {
    pub(crate) insn_off: u32,
    pub(crate) file_name_off: u32,
    pub(crate) line_off: u32,
    /// Line in the upper 22 bits, column in the lower 10.
    pub(crate) line_col: u32,
}

/// What the passes found out; immutable during exploration.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// Instructions as given (fds of maps included).
    pub(crate) raw: Cow<'a, [RawInsn]>,
    pub(crate) slots: Vec<Slot>,
    /// First slots of two-slot loads, ascending, and what they load.
    pub(crate) loads: Vec<(u32, LdImm64)>,
    pub(crate) flags: Vec<InsnFlags>,
    pub(crate) quick_steps: Vec<crate::backtrack::quick::QuickStep>,
    /// Registers that may be read before they are written, bit per register, before each slot.
    pub(crate) live_regs: Vec<u16>,
    /// Strongly connected component of each slot, 0 if it is in no loop; empty if none is.
    pub(crate) scc: Vec<u32>,
    /// Slots in postorder, one function after the other.
    pub(crate) postorder: Vec<u32>,
    pub(crate) subprogs: Vec<Subprog>,
    /// Maps of the request in its order, then the templates of inner maps.
    pub(crate) maps: Vec<Arc<MapInfo>>,
    /// Template of a map's inner maps.
    pub(crate) inner_map: Vec<Option<MapIdx>>,
    /// Maps that the instructions name, in order of their first use.
    pub(crate) used_maps: Vec<MapIdx>,
    /// 0: the kernel's (if any), then the program's, then others in order of first use.
    pub(crate) btfs: Vec<Btf>,
    /// Whether the first of them is the kernel's.
    pub(crate) has_kernel_btf: bool,
    /// Special fields of the structs of each, found when first asked for.
    pub(crate) struct_metas: Vec<OnceCell<StructMetas>>,
    pub(crate) line_info: Vec<LineInfo>,
    pub(crate) prog_btf: Option<Btf>,
    /// fastcall pattern marks: (slot of the call's pattern start ...), see `fastcall`.
    pub(crate) fastcall: crate::fastcall::FastcallFacts,
    /// Whether the program's file_info names a GPL-compatible licence.
    pub(crate) gpl_compatible: bool,
    /// Whether the log must not show addresses (no CAP_PERFMON).
    pub(crate) hides_pointers: bool,
    /// Subprogram that handles exceptions.
    pub(crate) exception_cb: Option<u32>,
    /// Whether the program's attach target could be resolved, and how.
    pub(crate) attach: crate::attach::AttachFacts,
}

impl Facts<'_> {
    /// Strongly connected component of a slot, 0 if it is in no loop.
    #[inline]
    pub(crate) fn scc_of(&self, insn_idx: u32) -> u32 {
        self.scc.get(insn_idx as usize).copied().unwrap_or(0)
    }

    /// Frees what only exploration reads.
    pub(crate) fn end_exploration(&mut self) {
        self.slots = Vec::new();
        self.flags = Vec::new();
        self.quick_steps = Vec::new();
        self.live_regs = Vec::new();
        self.scc = Vec::new();
        self.postorder = Vec::new();
        self.line_info = Vec::new();
    }

    /// The map.
    #[inline]
    pub(crate) fn map(&self, idx: MapIdx) -> &Arc<MapInfo> {
        &self.maps[idx.0 as usize]
    }

    /// The BTF.
    #[inline]
    pub(crate) fn btf(&self, idx: BtfIdx) -> &Btf {
        &self.btfs[idx.0 as usize]
    }

    /// Index of a BTF that the program uses.
    pub(crate) fn btf_idx(&self, btf: &Btf) -> Option<BtfIdx> {
        let idx = self.btfs.iter().position(|other| other.is_same(btf))?;
        Some(BtfIdx(idx as u16))
    }

    /// The special fields of a struct of a program's BTF; of the kernel's and its modules' structs none are known.
    pub(crate) fn struct_record(&self, btf: BtfIdx, id: TypeId) -> Option<&Record> {
        if self.has_kernel_btf && (btf == BtfIdx(0) || self.btf(btf).base().is_some()) {
            return None;
        }
        let metas = self.struct_metas.get(btf.0 as usize)?.get_or_init(|| {
            let kernel = self.has_kernel_btf.then(|| KernelTypes {
                btf: &self.btfs[0],
                destructible: DESTRUCTIBLE_6_18,
            });
            // BTF with fields that cannot be parsed is refused when it is loaded.
            StructMetas::parse(self.btf(btf), kernel).unwrap_or_default()
        });
        metas.record(id).map(|record| &**record)
    }

    /// The BTF of a kernel function by the `off` of its call: the kernel's, or a module's in `fd_array`.
    pub(crate) fn kfunc_btf<'a>(
        &self,
        req: &'a LoadRequest,
        off: i16,
    ) -> Option<(&'a Btf, BtfIdx)> {
        let btf = crate::kfunc_calls::btf_of(req, off)?;
        Some((btf, self.btf_idx(btf)?))
    }

    /// An object of a type: one that a module's BTF has from the kernel's is the kernel's.
    pub(crate) fn object(&self, btf: BtfIdx, id: TypeId) -> Extra {
        let is_of_base = |of: &Btf| {
            id < of.start_id() && of.base().is_some_and(|base| base.is_same(&self.btfs[0]))
        };
        if is_of_base(self.btf(btf)) {
            Extra::Btf { btf: BtfIdx(0), id }
        } else {
            Extra::Btf { btf, id }
        }
    }

    /// The function that starts at a slot.
    #[inline]
    pub(crate) fn subprog_at(&self, insn_idx: u32) -> Option<u32> {
        self.subprogs
            .binary_search_by_key(&insn_idx, |s| s.start)
            .ok()
            .map(|i| i as u32)
    }

    #[inline]
    pub(crate) fn has_flag(&self, insn_idx: u32, flag: InsnFlags) -> bool {
        self.flags[insn_idx as usize].has(flag)
    }
}

/// What the loader's privilege permits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permits {
    /// CAP_BPF.
    pub(crate) bpf_capable: bool,
    pub(crate) allow_ptr_leaks: bool,
    pub(crate) allow_uninit_stack: bool,
    pub(crate) bypass_spec_v1: bool,
    pub(crate) bypass_spec_v4: bool,
}

/// Flags of the load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modes {
    pub(crate) strict_alignment: bool,
    pub(crate) test_state_freq: bool,
    pub(crate) test_reg_invariants: bool,
    pub(crate) sleepable: bool,
}

/// A path that waits to be walked.
pub(crate) struct Pending {
    pub(crate) state: VerifierState,
    pub(crate) insn_idx: u32,
    pub(crate) prev_insn_idx: u32,
    pub(crate) log_position: u64,
}

/// What exploration may change about a function while it walks.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubprogAux {
    pub(crate) stack_depth: u16,
    pub(crate) is_cb: bool,
    pub(crate) is_async_cb: bool,
    /// Called by verified code (global functions are verified only then).
    pub(crate) called: bool,
    pub(crate) verified: bool,
    /// Whether stores of fastcall patterns must stay (`keep_fastcall_stack`).
    pub(crate) keep_fastcall_stack: bool,
    pub(crate) unreliable: bool,
    pub(crate) args: Option<Arc<crate::check::call::func_args::FuncArgs>>,
}

/// Exploration's working context.
pub(crate) struct Env<'a> {
    pub(crate) req: &'a LoadRequest,
    pub(crate) registry: &'a ring3_spec::Registry,
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) log: &'a mut Log,
    pub(crate) permits: Permits,
    pub(crate) modes: Modes,
    /// The path being walked.
    pub(crate) cur: VerifierState,
    pub(crate) insn_idx: u32,
    pub(crate) prev_insn_idx: u32,
    /// The slot of the state line printed last.
    pub(crate) prev_linfo: Option<u32>,
    #[expect(
        clippy::vec_box,
        reason = "thousands may wait: growing moves pointers, and nothing is reserved for states that never come"
    )]
    pub(crate) worklist: Vec<Box<Pending>>,
    pub(crate) states: StateTable,
    pub(crate) aux: AuxTable,
    pub(crate) subprog_aux: Vec<SubprogAux>,
    pub(crate) stack_liveness: StackLiveness,
    /// The newest entry of the path's history is of the current instruction.
    pub(crate) has_hist: bool,
    /// Last id given out.
    pub(crate) id_gen: u32,
    /// Registers and slots to print after the instruction.
    pub(crate) scratched_regs: u32,
    pub(crate) scratched_slots: u64,
    /// Counters.
    pub(crate) insn_processed: u32,
    pub(crate) prev_insn_processed: u32,
    pub(crate) jmps_processed: u32,
    pub(crate) prev_jmps_processed: u32,
    /// Pass number, see [`crate::aux::InsnAux::seen`].
    pub(crate) pass_cnt: u32,
    /// Bytes of the instruction line printed last, and where the log stood after it.
    pub(crate) prev_insn_print_bytes: u64,
    pub(crate) prev_log_position: u64,
    pub(crate) max_ctx_offset: u32,
    pub(crate) max_pkt_offset: u32,
    pub(crate) max_tp_access: u32,
    pub(crate) max_buf_access: ring3_spec::BufAccess,
    pub(crate) seen_direct_write: bool,
    pub(crate) seen_exception: bool,
    /// Clamps of pointer arithmetic depend on exact numbers: pruning must not take ranges for one another.
    pub(crate) explore_alu_limits: bool,
    /// The attach type binds links of the program.
    pub(crate) enforce_expected_attach_type: bool,
    pub(crate) scratch: Scratch,
    /// Of the current path.
    pub(crate) walked: crate::backtrack::Walked,
    /// A register without a value, shared by all that have none.
    pub(crate) no_reg: SharedReg,
    /// Keeps every state, if asked for.
    pub(crate) recording: Option<crate::recording::Recording>,
    /// What is held where a run may be stopped, if asked for.
    pub(crate) stop_points: Option<crate::stop_points::StopPoints>,
}

/// Buffers reused between calls; they carry nothing from one to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) id_map: crate::states::equal::IdMap,
    pub(crate) backtrack: crate::backtrack::BacktrackState,
}

impl<'a> Env<'a> {
    /// Marks a register for printing after the instruction.
    #[inline]
    pub(crate) fn mark_scratched(&mut self, reg: Reg) {
        self.scratched_regs |= 1 << reg.number();
    }

    /// Marks a stack slot of the current frame for printing after the instruction.
    #[inline]
    pub(crate) fn mark_slot_scratched(&mut self, spi: u32) {
        self.scratched_slots |= 1u64.checked_shl(spi).unwrap_or(0);
    }

    /// Marks everything for printing.
    #[inline]
    pub(crate) fn mark_all_scratched(&mut self) {
        self.scratched_regs = !0;
        self.scratched_slots = !0;
    }

    /// A fresh id.
    #[inline]
    pub(crate) fn new_id(&mut self) -> u32 {
        self.id_gen += 1;
        self.id_gen
    }

    /// The map.
    #[inline]
    pub(crate) fn map(&self, idx: MapIdx) -> &'a MapInfo {
        self.facts.map(idx)
    }

    /// The frame a stack pointer points into.
    #[inline]
    pub(crate) fn frame_of(&self, reg: &RegState) -> &crate::state::FuncState {
        self.cur.frame(reg.frameno)
    }

    /// Flag of the load request.
    #[inline]
    pub(crate) fn has_prog_flag(&self, flag: u32) -> bool {
        self.req.flags & flag != 0
    }

    /// Whether the current path may sleep.
    #[inline]
    pub(crate) fn in_sleepable(&self) -> bool {
        self.has_prog_flag(prog_load::SLEEPABLE) || self.cur.in_sleepable
    }

    /// Whether a register is a pointer whose value must not leak to the loader: `__is_pointer_value`.
    #[inline]
    pub(crate) fn is_pointer_value(&self, reg: &RegState) -> bool {
        !self.permits.allow_ptr_leaks && reg.ty.base != RegBase::Scalar
    }
}
