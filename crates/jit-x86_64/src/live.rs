//! Liveness: which registers somebody still reads, per slot.
//!
//! ```text
//! live_in[s] = reads(s) + (live_out[s] - writes(s))      live_out[s] = union of live_in over the slots that may follow s
//! reads(s)   = nothing, if s only computes a value that nobody reads: the emitter leaves such an instruction out
//! ```
//!
//! Swept backwards, loops until nothing changes: jumps back find what the sweep before found there, the first sweep "nothing". Calls are taken to
//! leave r1 to r5 alone, since some do; that only makes more live.

use std::sync::LazyLock;

use ring3_isa::{Insn, InternalInsn, RawInsn, Reg, RegSet, decode_xlated};
use ring3_runtime::{CallKind, InlineCall, Linked, Target};

use crate::plan::{Function, SlotPlan};

/// All registers, r11 included.
const ALL: u16 = 0xfff;
const FP: u16 = 1 << Reg::FP.number();
const ARGS: u16 = RegSet::ARGS.bits();

/// What an operation code says, so that a slot of most codes costs no branch. Masks have all bits set or none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    /// The registers of the fields are read.
    reads_dst: u16,
    reads_src: u16,
    writes_dst: u16,
    /// Control may go on behind.
    goes_on: u16,
    /// Control may go to the distance in `off`.
    jumps: u16,
    /// Registers read whatever the fields say.
    reads: u16,
    /// Has no effect but on its destination.
    is_pure: bool,
    /// Depends on more than the operation code.
    is_slow: bool,
}

const SLOW: Row = Row {
    reads_dst: 0,
    reads_src: 0,
    writes_dst: 0,
    goes_on: 0,
    jumps: 0,
    reads: 0,
    is_pure: false,
    is_slow: true,
};

const YES: u16 = u16::MAX;

static ROWS: LazyLock<[Row; 256]> = LazyLock::new(|| std::array::from_fn(|code| row(code as u8)));

/// One row per operation code.
pub(crate) fn rows() -> &'static [Row; 256] {
    &ROWS
}

fn row(code: u8) -> Row {
    if code == 0 {
        // Second slot of a load of 64 bits.
        return Row {
            goes_on: YES,
            ..Row::default()
        };
    }
    let (dst, src) = (Reg::R1, Reg::R2);
    let zero = RawInsn::new(code, dst.number(), 0, 0, 0);
    let is_jump = matches!(zero.class(), 5 | 6);
    match (zero.class(), code & 0xf0) {
        (0, _) if !zero.is_ld_imm64() => return SLOW,
        (5, 0x00) => {
            return Row {
                jumps: YES,
                ..Row::default()
            };
        }
        (5 | 6, 0x90) => {
            return Row {
                reads: 1,
                ..Row::default()
            };
        }
        // `gotol` has its distance elsewhere, calls ask their site, `may_goto` is no comparison.
        (6, 0x00) | (5 | 6, 0x80 | 0xe0) => return SLOW,
        _ => {}
    }
    // Some codes decode with certain immediates, or with no second register.
    let tries = [
        RawInsn::new(code, dst.number(), src.number(), 0, 0),
        zero,
        RawInsn::new(code, dst.number(), 0, 0, 16),
    ];
    let tries = if zero.is_ld_imm64() { [zero; 3] } else { tries };
    let found = tries
        .into_iter()
        .find_map(|raw| decode_xlated(&[raw, RawInsn::default()], 0).ok());
    let Some((insn, _)) = found else {
        return SLOW;
    };
    let is_pure = match insn {
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Movsx { .. }
        | Insn::Endian { .. }
        | Insn::LoadImm64 { .. } => true,
        Insn::Load { .. } | Insn::Store { .. } | Insn::Jmp { .. } => false,
        _ => return SLOW,
    };
    let uses = insn.uses();
    let mask = |is_set: bool| if is_set { YES } else { 0 };
    Row {
        reads_dst: mask(uses.reads.contains(dst)),
        reads_src: mask(uses.reads.contains(src)),
        writes_dst: mask(uses.writes.contains(dst)),
        goes_on: YES,
        jumps: mask(is_jump),
        reads: 0,
        is_pure,
        is_slow: false,
    }
}

/// How often on average a slot may be looked at before everything is taken to be live; loops of C need two or three.
const LOOKS: usize = 8;

/// Finds `live` for one function: per slot, the registers that are read from there on, bit `n` for register `n`.
///
/// One sweep from the end; where a jump back ends at a slot that has just changed, the sweep goes on from the last such jump. `back_jumps` holds
/// target and source.
pub(crate) fn find(
    linked: &Linked,
    function: &Function,
    back_jumps: &[(u32, u32)],
    slots: &mut [SlotPlan],
) {
    let rows = rows();
    let insns = &linked.program.insns[..function.end];
    let has_stops = linked.stops.is_some();
    let mut looks_left = LOOKS * (function.end - function.start);
    // Control does not run off the end.
    let mut after = FP;
    let mut slot = function.end;
    while slot > function.start {
        slot -= 1;
        let raw = insns[slot];
        let row = rows[usize::from(raw.code)];
        let (dst, src) = (1u16 << (raw.dst() & 15), 1u16 << (raw.src() & 15));
        let before = if row.is_slow {
            slow(linked, slot, after, slots)
        } else {
            // Jumps were found to stay in the function; other codes look at themselves.
            let distance = (raw.off & row.jumps as i16) as isize;
            let target = slots[slot.wrapping_add_signed(distance + 1)].live;
            let out = (after & row.goes_on) | (target & row.jumps);
            let is_unread = row.is_pure & (out & dst == 0);
            let reads = (row.reads_dst & dst) | (row.reads_src & src);
            let reads = if is_unread { 0 } else { reads };
            (out & !(row.writes_dst & dst)) | reads | row.reads
        };
        after = before | FP;
        if has_stops {
            after |= crate::stop::reads(linked, slot);
        }
        let plan = &mut slots[slot];
        let goes_again = plan.is_back_target & (plan.live != after);
        plan.live = after;
        if goes_again {
            let of_target = back_jumps.iter().filter(|jump| jump.0 as usize == slot);
            let Some(source) = of_target.map(|jump| jump.1 as usize).max() else {
                continue;
            };
            // What was looked at since the last jump back is looked at again.
            looks_left = looks_left.saturating_sub(source + 1 - slot);
            if looks_left == 0 {
                break;
            }
            slot = source + 1;
            after = match slots.get(slot) {
                Some(next) if slot < function.end => next.live,
                _ => FP,
            };
        }
    }
    if looks_left == 0 {
        for slot in &mut slots[function.start..function.end] {
            slot.live = ALL;
        }
    }
}

/// What is live at a jump's target.
fn target(slots: &[SlotPlan], slot: usize, distance: i64) -> u16 {
    let target = slot as i64 + 1 + distance;
    usize::try_from(target)
        .ok()
        .and_then(|target| slots.get(target))
        .map_or(ALL, |target| target.live)
}

/// The registers that a call's code reads.
pub(crate) fn call_reads(target: Option<&Target>) -> u16 {
    match target {
        Some(Target::Inline(inline)) if !crate::call::falls_back(inline) => match inline {
            InlineCall::ArrayLookup { .. } | InlineCall::PercpuArrayLookup { .. } => 1 << 2,
            InlineCall::ConstAddress { .. }
            | InlineCall::LoadU64 { .. }
            | InlineCall::SmpProcessorId { .. } => 0,
        },
        Some(Target::TailCall(site)) => match site.const_index {
            Some(_) => 1 << 1,
            None => 1 << 1 | 1 << 3,
        },
        Some(Target::Call(call)) if call.kind == CallKind::Throw => 1 << 1,
        _ => ARGS,
    }
}

fn slow(linked: &Linked, slot: usize, after: u16, slots: &[SlotPlan]) -> u16 {
    let insns = &linked.program.insns;
    let Ok((insn, _)) = decode_xlated(insns, slot) else {
        return ALL;
    };
    let uses = insn.uses();
    let (out, writes, reads) = match insn {
        Insn::MayGoto { off } => (after | target(slots, slot, off.into()), 0, 0),
        Insn::Jal { off } => (target(slots, slot, off.into()), 0, 0),
        Insn::Call(_) | Insn::Internal(InternalInsn::TailCall) => {
            (after, 1, call_reads(linked.target(slot)))
        }
        // What a packet load leaves undefined was not read before it either.
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => (after, 1, uses.reads.bits()),
        _ => (after, uses.writes.bits(), uses.reads.bits()),
    };
    (out & !writes) | reads
}

impl Row {
    /// Whether the slot computes a register, which then nobody reads, and does nothing else.
    #[inline(always)]
    pub(crate) fn is_unread(&self, raw: RawInsn, live_behind: u16) -> bool {
        self.is_pure & (live_behind >> (raw.dst() & 15) & 1 == 0)
    }

    /// Whether the slot computes a register and does nothing else.
    pub(crate) fn is_pure(&self) -> bool {
        self.is_pure
    }
}
