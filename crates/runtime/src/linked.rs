//! `Linked`: a program with nothing left to look up, the engines' only input.
//!
//! `objects` takes the verifier's output and resolves, per instruction slot that names something outside of the program, a [`Target`]: helper
//! and kfunc addresses, inline forms of map lookups, prog arrays, two-slot loads. Instructions stay as the verifier left them; a slot without
//! a [`Site`] needs none. Calls of the program's own functions and addresses of its functions stay relative: each engine knows where it
//! put them.
//!
//! [`Linked::unverified`] makes one of bare instructions, for conformance runners: it checks what an engine must rely on (encodings, jump
//! targets, function boundaries), and such programs run with checked memory only.

use std::sync::Arc;

use ring3_isa::{CallTarget as CallName, Imm64, Insn, RawInsn, Reg, decode, decode_xlated};
use ring3_spec::{InsnFacts, SubprogFacts, VerifiedProgram, VerifierStats};

use crate::{HelperFn, HubRef, LoadPacketFn, TailCallTable};

/// A program and the targets of its slots.
#[derive(Clone, Debug)]
pub struct Linked {
    /// The program after all rewrites.
    pub program: Arc<VerifiedProgram>,
    /// Resolved slots, ascending by `slot`, at most one per slot.
    pub sites: Vec<Site>,
    /// The program's arena, if it has one.
    pub arena: Option<Arena>,
    /// Bytes from one CPU's copy of a per-CPU variable to the next's, where the program names such variables by the address of the first copy.
    pub percpu_stride: Option<u32>,
    /// Where its runs may be stopped; `None` if they are never.
    pub stops: Option<crate::Stops>,
}

/// A slot that names something outside of the program.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Index of the instruction slot (the first of a two-slot load).
    pub slot: u32,
    /// What it names.
    pub target: Target,
}

/// What a slot stands for.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A two-slot load of a map, map value or variable: the value to load. Plain constants and addresses of the program's own functions
    /// need no site.
    Imm64(u64),
    /// A call of a helper or kfunc.
    Call(CallTarget),
    /// A call that engines may expand in place.
    Inline(InlineCall),
    /// A tail call, written as a helper call or as the internal instruction.
    TailCall(TailCallSite),
    /// What a legacy packet load calls.
    LoadPacket(LoadPacketFn),
}

/// A function outside of the program.
#[derive(Clone, Copy, Debug)]
pub struct CallTarget {
    /// Address.
    pub code: HelperFn,
    /// What the program may find changed.
    pub clobbers: Clobbers,
    /// What more the call may do.
    pub kind: CallKind,
}

impl CallTarget {
    /// A helper that clobbers all argument registers and calls nothing back.
    pub fn plain(code: HelperFn) -> Self {
        CallTarget {
            code,
            clobbers: Clobbers::All,
            kind: CallKind::Plain,
        }
    }
}

/// Registers that a call leaves undefined, r0 apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clobbers {
    /// r1 to r5.
    All,
    /// None: the program relies on r1 to r5 surviving (`bpf_fastcall` helpers whose spills the verifier removed).
    None,
}

/// What a call may do beside returning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Nothing.
    Plain,
    /// It runs callbacks of the program before it returns; in a program with exceptions one may be pending afterwards.
    TakesCallback,
    /// It takes a sixth argument, this word: `code` is a [`crate::GivenHelperFn`] by another type.
    Given(u64),
    /// `bpf_throw`: does not return.
    Throw,
}

/// Calls with a known body. `r1`, the map, is not looked at. Every engine may also use `fallback`, which means the same.
#[derive(Clone, Copy, Debug)]
pub enum InlineCall {
    /// `bpf_map_lookup_elem` of an array: r2 points to a u32 key, r0 = key < max_entries ? base + key * stride : 0.
    ArrayLookup {
        /// Address of the first value.
        base: u64,
        /// Bytes from one value to the next.
        stride: u32,
        /// Number of values.
        max_entries: u32,
        /// The general function.
        fallback: CallTarget,
    },
    /// The same with a key that the verifier knows to be constant and in bounds: r0 = address.
    ConstAddress {
        /// Address of the value.
        address: u64,
        /// The general function.
        fallback: CallTarget,
    },
    /// `bpf_map_lookup_elem` of a per-CPU array: r0 = key < max_entries ? base + cpu * cpu_stride + key * stride : 0, where cpu is the read
    /// section's ([`ring3_sync::rcu::section_cpu`]).
    PercpuArrayLookup {
        /// Address of CPU 0's first value.
        base: u64,
        /// Bytes from one value to the next.
        stride: u32,
        /// Bytes from one CPU's copy to the next's.
        cpu_stride: u64,
        /// Number of values.
        max_entries: u32,
        /// The general function.
        fallback: CallTarget,
    },
    /// `bpf_get_smp_processor_id`: the read section's CPU.
    SmpProcessorId {
        /// The general function.
        fallback: CallTarget,
    },
    /// `bpf_get_current_pid_tgid`: [`ring3_sync::rcu::ThreadCell::task_ids`].
    CurrentPidTgid {
        /// The general function.
        fallback: CallTarget,
    },
    /// `bpf_get_prandom_u32`: [`ring3_sync::rcu::ThreadCell::next_random`].
    PrandomU32 {
        /// The general function.
        fallback: CallTarget,
    },
    /// `bpf_jiffies64`-like helpers: r0 = the u64 at an address.
    LoadU64 {
        /// Address of the word.
        address: u64,
        /// The general function.
        fallback: CallTarget,
    },
}

impl InlineCall {
    /// The function that means the same.
    pub fn fallback(&self) -> CallTarget {
        match self {
            InlineCall::ArrayLookup { fallback, .. }
            | InlineCall::ConstAddress { fallback, .. }
            | InlineCall::PercpuArrayLookup { fallback, .. }
            | InlineCall::SmpProcessorId { fallback }
            | InlineCall::CurrentPidTgid { fallback }
            | InlineCall::PrandomU32 { fallback }
            | InlineCall::LoadU64 { fallback, .. } => *fallback,
        }
    }
}

/// A tail call: r1 is the context, r3 the index; r2, the map, is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct TailCallSite {
    /// The prog array.
    pub table: TailCallTable,
    /// The index, where the verifier knows it.
    pub const_index: Option<u32>,
    /// Where a site with a known index may follow its slot; engines may also read the table.
    pub hub: Option<HubRef>,
}

/// The arena of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Address that offset 0 has on the host's side; the 4 GiB from here on are the arena or fault.
    pub base: u64,
    /// Address that offset 0 has on the user's side (`addr_space_cast` gives such addresses).
    pub user_base: u64,
}

/// Why bare instructions are no program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkError {
    /// Slot at fault.
    pub slot: usize,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "insn {}: {}", self.slot, self.message)
    }
}

impl std::error::Error for LinkError {}

impl Linked {
    /// The target of a slot.
    pub fn target(&self, slot: usize) -> Option<&Target> {
        let slot = u32::try_from(slot).ok()?;
        let at = self
            .sites
            .binary_search_by_key(&slot, |site| site.slot)
            .ok()?;
        Some(&self.sites[at].target)
    }

    /// Whether the slot, an address or call of a function, names one that the verifier removed because no path reaches it: a `bpf_loop` of no
    /// rounds leaves such slots. What they mean is never used. Source: Linux 6.18 runs such programs, with `call pc+0` in the expanded loop.
    pub fn names_removed_function(&self, slot: usize) -> bool {
        let fact = self.program.facts.get(slot);
        fact.is_some_and(|fact| fact.func.is_none() && fact.call.is_none())
    }

    /// What is known of a slot; nothing for unverified programs.
    pub fn fact(&self, slot: usize) -> InsnFacts {
        self.program.facts.get(slot).copied().unwrap_or_default()
    }

    /// First slot and the slot after the last of a function; 0 is the main program.
    pub fn subprog_slots(&self, subprog: usize) -> Option<std::ops::Range<usize>> {
        let start = self.program.subprogs.get(subprog)?.start as usize;
        let end = match self.program.subprogs.get(subprog + 1) {
            Some(next) => next.start as usize,
            None => self.program.insns.len(),
        };
        Some(start..end)
    }

    /// The function that begins at a slot.
    pub fn subprog_at(&self, slot: usize) -> Option<usize> {
        let slot = u32::try_from(slot).ok()?;
        self.program
            .subprogs
            .binary_search_by_key(&slot, |subprog| subprog.start)
            .ok()
    }

    /// A program of bare instructions that no verifier saw. `helper` resolves helper ids.
    ///
    /// # Errors
    /// [`LinkError`]: an undecodable instruction, a jump or call to no instruction or across functions, a function that does not end, a write to
    /// r10, a two-slot load of an object, an unknown helper.
    pub fn unverified(
        insns: Vec<RawInsn>,
        helper: &dyn Fn(i32) -> Option<HelperFn>,
    ) -> Result<Linked, LinkError> {
        let mut sites = Vec::new();
        let starts = check_instructions(&insns, helper, &mut sites)?;
        check_jumps(&insns, &starts)?;
        let subprogs = starts
            .iter()
            .map(|&start| SubprogFacts {
                start: start as u32,
                stack_bytes: crate::MAX_STACK_BYTES,
                ..SubprogFacts::default()
            })
            .collect();
        let program = VerifiedProgram {
            insns,
            facts: Vec::new(),
            subprogs,
            used_maps: Vec::new(),
            object_types: Vec::new(),
            stats: VerifierStats::default(),
            changes_pkt_data: false,
            max_pkt_offset: 0,
            max_ctx_offset: 0,
            max_tp_access: 0,
            max_buf_access: ring3_spec::BufAccess::default(),
            exception_cb: None,
            enforce_expected_attach_type: false,
            stop_points: Vec::new(),
        };
        Ok(Linked {
            program: Arc::new(program),
            sites,
            arena: None,
            percpu_stride: None,
            stops: None,
        })
    }
}

fn error(slot: usize, message: impl Into<String>) -> LinkError {
    LinkError {
        slot,
        message: message.into(),
    }
}

/// `slot + 1 + distance`, if that is inside.
fn jump_target(slot: usize, distance: i64, len: usize) -> Option<usize> {
    let target = slot as i64 + 1 + distance;
    usize::try_from(target).ok().filter(|&target| target < len)
}

/// Decodes everything, resolves helpers, returns the starts of functions in ascending order.
fn check_instructions(
    insns: &[RawInsn],
    helper: &dyn Fn(i32) -> Option<HelperFn>,
    sites: &mut Vec<Site>,
) -> Result<Vec<usize>, LinkError> {
    let mut starts = vec![0];
    let mut slot = 0;
    while slot < insns.len() {
        let (insn, slot_count) =
            decode(insns, slot).map_err(|cause| error(slot, cause.kind_text()))?;
        let raw = insns[slot];
        // The source field of a two-slot load names a variant, not a register.
        let names_ax =
            raw.dst() == Reg::AX.number() || (slot_count == 1 && raw.src() == Reg::AX.number());
        if names_ax {
            return Err(error(slot, "register r11 does not exist for programs"));
        }
        if defined_register(&insn) == Some(Reg::FP) {
            return Err(error(slot, "r10 is read-only"));
        }
        match insn {
            Insn::Call(CallName::Helper(id)) => {
                let code = helper(id).ok_or_else(|| error(slot, format!("unknown helper {id}")))?;
                sites.push(Site {
                    slot: slot as u32,
                    target: Target::Call(CallTarget::plain(code)),
                });
            }
            Insn::Call(CallName::Kfunc { id, .. }) => {
                return Err(error(
                    slot,
                    format!("kernel function {id} in a program without a verifier"),
                ));
            }
            Insn::Call(CallName::Subprog(distance)) => {
                let start = jump_target(slot, distance.into(), insns.len())
                    .ok_or_else(|| error(slot, "call out of the program"))?;
                starts.push(start);
            }
            Insn::LoadImm64 {
                value: Imm64::Func(distance),
                ..
            } => {
                let start = jump_target(slot, distance.into(), insns.len())
                    .ok_or_else(|| error(slot, "function address out of the program"))?;
                starts.push(start);
            }
            Insn::LoadImm64 {
                value: Imm64::Value(_),
                ..
            } => {}
            Insn::LoadImm64 { .. } => {
                return Err(error(
                    slot,
                    "a map or variable in a program without a verifier",
                ));
            }
            Insn::LoadAbs { .. } | Insn::LoadInd { .. } => {
                return Err(error(slot, "a packet load in a program without a packet"));
            }
            Insn::AddrSpaceCast { .. } => {
                return Err(error(slot, "an address space cast without an arena"));
            }
            _ => {}
        }
        slot += slot_count;
    }
    if insns.is_empty() {
        return Err(error(0, "the program is empty"));
    }
    starts.sort_unstable();
    starts.dedup();
    Ok(starts)
}

/// Jumps end at instructions of their own function, functions begin at instructions and do not run into the next.
fn check_jumps(insns: &[RawInsn], starts: &[usize]) -> Result<(), LinkError> {
    let mut is_start_of_insn = vec![false; insns.len()];
    let mut slot = 0;
    while slot < insns.len() {
        is_start_of_insn[slot] = true;
        slot += if insns[slot].is_ld_imm64() { 2 } else { 1 };
    }
    for (at, &start) in starts.iter().enumerate() {
        if !is_start_of_insn[start] {
            return Err(error(start, "a function begins inside an instruction"));
        }
        let end = starts.get(at + 1).copied().unwrap_or(insns.len());
        let mut slot = start;
        let mut falls_through = true;
        while slot < end {
            let (insn, slot_count) =
                decode_xlated(insns, slot).map_err(|cause| error(slot, cause.kind_text()))?;
            let distance = match insn {
                Insn::Jmp { off, .. } | Insn::Ja { off } | Insn::MayGoto { off } => {
                    Some(i64::from(off))
                }
                Insn::Jal { off } => Some(i64::from(off)),
                _ => None,
            };
            if let Some(distance) = distance {
                let target = jump_target(slot, distance, insns.len())
                    .filter(|target| (start..end).contains(target) && is_start_of_insn[*target]);
                if target.is_none() {
                    return Err(error(slot, "jump to no instruction of this function"));
                }
            }
            falls_through = !matches!(insn, Insn::Exit | Insn::Ja { .. } | Insn::Jal { .. });
            slot += slot_count;
        }
        if falls_through {
            return Err(error(
                end - 1,
                "the function does not end with exit or a jump",
            ));
        }
    }
    Ok(())
}

/// The register that an instruction sets, calls apart.
fn defined_register(insn: &Insn) -> Option<Reg> {
    use ring3_isa::AtomicOp::*;
    match *insn {
        Insn::Alu { dst, .. }
        | Insn::Neg { dst, .. }
        | Insn::Movsx { dst, .. }
        | Insn::Endian { dst, .. }
        | Insn::AddrSpaceCast { dst, .. }
        | Insn::LoadImm64 { dst, .. }
        | Insn::Load { dst, .. } => Some(dst),
        Insn::Atomic { op, dst, src, .. } => match op {
            Add { fetch: true }
            | Or { fetch: true }
            | And { fetch: true }
            | Xor { fetch: true }
            | Xchg => Some(src),
            LoadAcquire => Some(dst),
            Add { fetch: false }
            | Or { fetch: false }
            | And { fetch: false }
            | Xor { fetch: false } => None,
            Cmpxchg => Some(Reg::R0),
            StoreRelease => None,
        },
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => Some(Reg::R0),
        Insn::Store { .. }
        | Insn::Jmp { .. }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::MayGoto { .. }
        | Insn::Call(_)
        | Insn::Exit
        | Insn::Internal(_) => None,
    }
}

/// The cause of a decoding error without its slot, which `LinkError` carries.
trait KindText {
    fn kind_text(&self) -> String;
}

impl KindText for ring3_isa::DecodeError {
    fn kind_text(&self) -> String {
        let text = self.to_string();
        match text.split_once(": ") {
            Some((_, rest)) => rest.to_owned(),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(bytes: &[[u8; 8]]) -> Result<Linked, LinkError> {
        Linked::unverified(
            bytes
                .iter()
                .map(|&slot| RawInsn::from_bytes(slot))
                .collect(),
            &|_| None,
        )
    }

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    const NOP: [u8; 8] = [0xb7, 0, 0, 0, 1, 0, 0, 0];

    fn message(bytes: &[[u8; 8]]) -> String {
        link(bytes).unwrap_err().to_string()
    }

    #[test]
    fn functions_are_found_from_calls() {
        let call_next = [0x85, 0x10, 0, 0, 1, 0, 0, 0];
        let linked = link(&[call_next, EXIT, NOP, EXIT]).unwrap();
        assert_eq!(linked.program.subprogs.len(), 2);
        assert_eq!(linked.subprog_slots(0), Some(0..2));
        assert_eq!(linked.subprog_slots(1), Some(2..4));
        assert_eq!(linked.subprog_at(2), Some(1));
        assert_eq!(linked.subprog_at(3), None);
    }

    #[test]
    fn programs_that_an_engine_could_run_out_of_are_refused() {
        assert_eq!(message(&[]), "insn 0: the program is empty");
        assert!(message(&[NOP]).contains("does not end"));
        assert!(message(&[[0x05, 0, 1, 0, 0, 0, 0, 0], EXIT]).contains("jump to no instruction"));
        assert!(
            message(&[[0x05, 0, 0xfd, 0xff, 0, 0, 0, 0], EXIT]).contains("jump to no instruction")
        );
        assert!(message(&[[0xb7, 0x0a, 0, 0, 0, 0, 0, 0], EXIT]).contains("r10 is read-only"));
        assert!(message(&[[0xb7, 0x0b, 0, 0, 0, 0, 0, 0], EXIT]).contains("r11"));
        assert!(message(&[[0xff; 8], EXIT]).starts_with("insn 0: "));
        assert!(message(&[[0x85, 0, 0, 0, 99, 0, 0, 0], EXIT]).contains("unknown helper 99"));
        // A jump into the second slot of a load, and one into another function.
        let ld = [0x18, 0, 0, 0, 0, 0, 0, 0];
        assert!(
            message(&[[0x05, 0, 1, 0, 0, 0, 0, 0], ld, [0; 8], EXIT])
                .contains("jump to no instruction")
        );
        let call = [0x85, 0x10, 0, 0, 2, 0, 0, 0];
        assert!(
            message(&[call, [0x05, 0, 2, 0, 0, 0, 0, 0], EXIT, NOP, EXIT])
                .contains("jump to no instruction")
        );
    }

    #[test]
    fn targets_are_found_by_slot() {
        unsafe extern "C" fn helper(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
            0
        }
        let call = [0x85, 0, 0, 0, 7, 0, 0, 0];
        let insns = [NOP, call, EXIT].map(RawInsn::from_bytes).to_vec();
        let linked =
            Linked::unverified(insns, &|id| (id == 7).then_some(helper as HelperFn)).unwrap();
        assert!(matches!(linked.target(1), Some(Target::Call(_))));
        assert!(linked.target(0).is_none());
    }
}
