//! Liveness: which registers somebody still reads, per slot.
//!
//! ```text
//! live_in[s] = reads(s) + (live_out[s] - writes(s))      live_out[s] = union of live_in over the slots that may follow s
//! reads(s)   = nothing, if s only computes a value that nobody reads: the emitter leaves such an instruction out
//! ```
//!
//! The first pass notes for each slot what it does to the set ([`Effect`]), so that a look costs a dozen instructions, however often it is taken.
//! Swept backwards, loops until nothing changes: jumps back find what the sweep before found there, the first sweep "nothing". Calls are taken to
//! leave r1 to r5 alone, since some do; that only makes more live.

use std::sync::LazyLock;

use ring3_isa::{Insn, InternalInsn, RawInsn, Reg, RegSet, decode_xlated};
use ring3_runtime::{CallKind, InlineCall, Linked, Target};

use crate::plan::{Function, SlotPlan};

/// All registers, r11 included.
const ALL: u16 = 0xfff;
const FP: u16 = 1 << Reg::FP.number();
/// Live behind the end: r10 is live everywhere.
pub(crate) const BEHIND: u16 = FP;
const ARGS: u16 = RegSet::ARGS.bits();

/// What a slot does to the set of live registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effect {
    /// Registers read, if the slot has code.
    reads: u16,
    writes: u16,
    /// The slot has code if one of these is live behind it. r10 always is; what has no effect but on its destination has that alone.
    needed_by: u16,
}

impl Effect {
    /// Adds to the registers read.
    pub(crate) fn also_reads(&mut self, registers: u16) {
        self.reads |= registers;
    }

    /// Whether the slot only computes what nobody reads.
    #[inline(always)]
    pub(crate) fn is_unread(self, live_behind: u16) -> bool {
        self.needed_by & live_behind == 0
    }

    #[inline(always)]
    fn before(self, after: u16) -> u16 {
        let reads = if self.is_unread(after) { 0 } else { self.reads };
        (after & !self.writes) | reads
    }
}

/// Where control goes behind a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// To the next slot.
    #[default]
    On,
    /// To the next slot or the jump's target.
    Branch,
    /// To the jump's target.
    Jump,
    /// Nowhere.
    End,
}

/// The registers of a slot's fields: bit `n` for destination `n`, bit `16 + n` for source `n`.
#[derive(Clone, Copy)]
pub(crate) struct Fields(pub(crate) u32);

impl Fields {
    #[inline(always)]
    pub(crate) fn of(raw: RawInsn) -> Fields {
        const FIELDS: [u32; 256] = {
            let mut fields = [0; 256];
            let mut regs = 0;
            while regs < 256 {
                fields[regs] = 1 << (regs & 15) | 0x10000 << (regs >> 4);
                regs += 1;
            }
            fields
        };
        Fields(FIELDS[usize::from(raw.regs)])
    }
}

/// What an operation code says of its slots' effect, so that it costs no branch. Masks of fields have all bits set or none.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// The fields whose registers are read.
    reads_of: u32,
    /// The destination is written.
    writes_dst: u16,
    /// The destination is needed for the slot to have code.
    needs_dst: u16,
    /// Registers read whatever the fields say.
    reads: u16,
    /// r10 if the slot has code in any case.
    needs: u16,
    pub(crate) turn: Turn,
    /// Depends on more than the operation code ([`slow`]).
    pub(crate) is_slow: bool,
}

const YES: u16 = u16::MAX;

/// Rows of instructions that have code in any case and go on.
const PLAIN: Row = Row {
    reads_of: 0,
    writes_dst: 0,
    needs_dst: 0,
    reads: 0,
    needs: FP,
    turn: Turn::On,
    is_slow: false,
};

const SLOW: Row = Row {
    is_slow: true,
    ..PLAIN
};

static ROWS: LazyLock<[Row; 256]> = LazyLock::new(|| std::array::from_fn(|code| row(code as u8)));

const GOTO: u8 = 0x05;
const GOTO_LONG: u8 = 0x06;
const EXIT: u8 = 0x95;
const MAY_GOTO: u8 = 0xe5;

/// The row of an operation code.
pub(crate) fn row(code: u8) -> Row {
    let turn = |turn| Row { turn, ..PLAIN };
    let (dst, src) = (Reg::R1, Reg::R2);
    let zero = RawInsn::new(code, dst.number(), 0, 0, 0);
    match (code, zero.class(), code & 0xf0) {
        // Second slot of a load of 64 bits.
        (0, ..) => return PLAIN,
        (GOTO | GOTO_LONG, ..) => return turn(Turn::Jump),
        (MAY_GOTO, ..) => return turn(Turn::Branch),
        (EXIT, ..) => {
            return Row {
                reads: 1,
                ..turn(Turn::End)
            };
        }
        (_, 0, _) if !zero.is_ld_imm64() => return SLOW,
        // Calls ask their site; what is left is no comparison.
        (_, 5 | 6, 0 | 0x80 | 0x90 | 0xe0) => return SLOW,
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
    let (is_pure, turn) = match insn {
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Movsx { .. }
        | Insn::Endian { .. }
        | Insn::LoadImm64 { .. } => (true, Turn::On),
        Insn::Load { .. } | Insn::Store { .. } => (false, Turn::On),
        Insn::Jmp { .. } => (false, Turn::Branch),
        _ => return SLOW,
    };
    let uses = insn.uses();
    let mask = |is_set: bool| if is_set { YES } else { 0 };
    Row {
        reads_of: u32::from(mask(uses.reads.contains(dst)))
            | u32::from(mask(uses.reads.contains(src))) << 16,
        writes_dst: mask(uses.writes.contains(dst)),
        needs_dst: mask(is_pure),
        needs: if is_pure { 0 } else { FP },
        turn,
        ..PLAIN
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
    let insns = &linked.program.insns[..function.end];
    let slots = &mut slots[..function.end];
    let mut looks_left = LOOKS * (function.end - function.start);
    // Control does not run off the end.
    let mut after = FP;
    let mut slot = function.end;
    while slot > function.start {
        slot -= 1;
        let plan = &mut slots[slot];
        if !plan.is_special {
            after = plan.effect.before(after);
            plan.live = after;
            continue;
        }
        let SlotPlan {
            effect,
            is_back_target,
            live,
            turn,
            ..
        } = *plan;
        let mut out = if matches!(turn, Turn::On | Turn::Branch) {
            after
        } else {
            FP
        };
        if matches!(turn, Turn::Branch | Turn::Jump) {
            out |= target(slots, slot, insns[slot]);
        }
        after = effect.before(out);
        slots[slot].live = after;
        if is_back_target && live != after {
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
            after = slots.get(slot).map_or(FP, |next| next.live);
        }
    }
    if looks_left == 0 {
        for slot in &mut slots[function.start..] {
            slot.live = ALL;
        }
    }
}

/// What is live at a jump's target.
#[inline(always)]
fn target(slots: &[SlotPlan], slot: usize, raw: RawInsn) -> u16 {
    let distance = if raw.code == GOTO_LONG {
        raw.imm as isize
    } else {
        raw.off.into()
    };
    let target = slot.wrapping_add_signed(distance + 1);
    slots.get(target).map_or(ALL, |target| target.live)
}

/// The registers that a call's code reads.
pub(crate) fn call_reads(target: Option<&Target>) -> u16 {
    match target {
        Some(Target::Inline(inline)) if !crate::call::falls_back(inline) => match inline {
            InlineCall::ArrayLookup { .. } | InlineCall::PercpuArrayLookup { .. } => 1 << 2,
            InlineCall::ConstAddress { .. }
            | InlineCall::LoadU64 { .. }
            | InlineCall::SmpProcessorId { .. }
            | InlineCall::CurrentPidTgid { .. }
            | InlineCall::PrandomU32 { .. } => 0,
        },
        Some(Target::TailCall(site)) => match site.const_index {
            Some(_) => 1 << 1,
            None => 1 << 1 | 1 << 3,
        },
        Some(Target::Call(call)) if call.kind == CallKind::Throw => 1 << 1,
        _ => ARGS,
    }
}

/// What a slot does whose row is slow; `site` is that of a call.
pub(crate) fn slow(linked: &Linked, slot: usize, site: Option<&Target>) -> Effect {
    let effect = |reads, writes| Effect {
        reads,
        writes,
        needed_by: FP,
    };
    const CALL: u8 = 0x85;
    if linked.program.insns[slot].code == CALL {
        return effect(call_reads(site), 1);
    }
    let Ok((insn, _)) = decode_xlated(&linked.program.insns, slot) else {
        return effect(ALL, 0);
    };
    let uses = insn.uses();
    match insn {
        // What a packet load leaves undefined was not read before it either.
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => effect(uses.reads.bits(), 1),
        Insn::Internal(InternalInsn::TailCall) => effect(call_reads(site), 1),
        _ => effect(uses.reads.bits(), uses.writes.bits()),
    }
}

impl Row {
    /// What a slot of this row does.
    #[inline(always)]
    pub(crate) fn effect(&self, fields: Fields) -> Effect {
        let (reads, dst) = (fields.0 & self.reads_of, fields.0 as u16);
        Effect {
            reads: (reads | reads >> 16) as u16 | self.reads,
            writes: self.writes_dst & dst,
            needed_by: (self.needs_dst & dst) | self.needs,
        }
    }
}

/// Whether slots of the code compute a register and do nothing else.
pub(crate) fn is_pure(code: u8) -> bool {
    ROWS[usize::from(code)].needs == 0
}
