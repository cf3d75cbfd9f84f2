//! Liveness: which registers somebody still reads, per slot.
//!
//! ```text
//! live_in[s] = reads(s) + (live_out[s] - writes(s))      live_out[s] = union of live_in over the slots that may follow s
//! reads(s)   = nothing, if s only computes a value that nobody reads: the emitter leaves such an instruction out
//! ```
//!
//! The first pass goes through a function backwards, so that it finds liveness on its way: only what is live at the target of a jump back is
//! not known yet. It takes that to be nothing; where it comes to such a target, the head of a loop, [`Loops::settle`] looks at the slots of the loop again
//! until nothing changes. What a slot does to the set was noted ([`Effect`]), so that such a look costs a dozen instructions. Calls are taken to
//! leave r1 to r5 alone, since some do; that only makes more live.

use std::sync::LazyLock;

use ring3_isa::{Insn, InternalInsn, RawInsn, Reg, RegSet, decode_xlated};
use ring3_runtime::{CallKind, InlineCall, Linked, Target};

use crate::plan::{Place, SlotPlan};

/// All registers, r11 included.
pub(crate) const ALL: u16 = 0xfff;
const FP: u16 = 1 << Reg::FP.number();
const ARGS: u16 = RegSet::ARGS.bits();

/// What a slot does to the set of live registers, and what is live before it, in four lanes of 16 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effect(u64);

/// The registers read, if the slot has code.
const READS: u32 = 0;
/// The registers live before the slot; until they are known, those that the source field adds to the registers read.
const LIVE: u32 = 16;
/// The registers not written.
const KEEPS: u32 = 32;
/// The slot has code if one of these is live behind it. r10 always is; what has no effect but on its destination has that alone.
const NEEDED_BY: u32 = 48;

impl Effect {
    const fn new(reads: u16, writes: u16, needed_by: u16) -> Effect {
        Effect(
            (reads as u64) << READS | (!writes as u64) << KEEPS | (needed_by as u64) << NEEDED_BY,
        )
    }

    /// Nothing behind the end.
    pub(crate) const END: Effect = Effect::new(0, 0, FP).with_live(FP);

    /// The registers read or written, as if they were those of fields.
    pub(crate) fn named(self) -> Fields {
        Fields(u64::from(self.0 as u16 | !((self.0 >> KEEPS) as u16)))
    }

    /// Adds to the registers read.
    pub(crate) fn also_reads(&mut self, registers: u16) {
        self.0 |= u64::from(registers) << READS;
    }

    /// The registers that are read from here on.
    #[inline(always)]
    pub(crate) const fn live(self) -> u16 {
        (self.0 >> LIVE) as u16
    }

    #[inline(always)]
    pub(crate) const fn with_live(self, live: u16) -> Effect {
        Effect(self.0 & !(0xffff << LIVE) | (live as u64) << LIVE)
    }

    /// Whether the slot only computes what nobody reads.
    #[inline(always)]
    pub(crate) fn is_unread(self, live_behind: u16) -> bool {
        self.0 >> NEEDED_BY & u64::from(live_behind) == 0
    }

    /// The same with what is live before the slot, if that is what is live behind it.
    #[inline(always)]
    pub(crate) fn before(self, behind: u16) -> Effect {
        let reads = if self.is_unread(behind) {
            0
        } else {
            self.0 as u16
        };
        self.with_live((behind & (self.0 >> KEEPS) as u16) | reads)
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

/// The registers of a slot's fields in the lanes of an [`Effect`]: destination, source, destination, destination.
#[derive(Clone, Copy)]
pub(crate) struct Fields(u64);

impl Fields {
    #[inline(always)]
    pub(crate) fn of(raw: RawInsn) -> Fields {
        const FIELDS: [u64; 256] = {
            let mut fields = [0; 256];
            let mut regs = 0;
            while regs < 256 {
                let (dst, src) = (1 << (regs & 15), 1 << (regs >> 4));
                fields[regs] = dst << READS | src << LIVE | dst << KEEPS | dst << NEEDED_BY;
                regs += 1;
            }
            fields
        };
        Fields(FIELDS[usize::from(raw.regs)])
    }

    /// None.
    pub(crate) const NONE: Fields = Fields(0);

    #[inline(always)]
    pub(crate) fn and(self, other: Fields) -> Fields {
        Fields(self.0 | other.0)
    }

    /// Whether one of them is in the mask.
    #[inline(always)]
    pub(crate) fn are_in(self, mask: FieldMask) -> bool {
        self.0 as u32 & mask.0 != 0
    }

    fn all(self) -> u16 {
        (self.0 >> READS | self.0 >> LIVE | self.0 >> KEEPS) as u16
    }

    pub(crate) fn registers(self) -> RegSet {
        RegSet::from_bits(self.all())
    }

    /// Whether all numbers are those of registers.
    pub(crate) fn are_registers(self) -> bool {
        self.all() & !ALL == 0
    }
}

/// Registers as destination and as source.
#[derive(Clone, Copy)]
pub(crate) struct FieldMask(u32);

impl FieldMask {
    pub(crate) const NONE: FieldMask = FieldMask(0);

    pub(crate) const fn only(reg: Reg) -> FieldMask {
        FieldMask((1 << READS | 1 << LIVE) << reg.number())
    }
}

/// What an operation code says of its slots' effect, so that it costs no branch.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// The lanes of the fields that count, all bits set.
    of_fields: u64,
    /// What the bits of fields change.
    always: u64,
    pub(crate) turn: Turn,
    /// Depends on more than the operation code ([`slow`]).
    pub(crate) is_slow: bool,
}

/// Rows of instructions that have code in any case and go on.
const PLAIN: Row = Row {
    of_fields: 0,
    always: Effect::new(0, 0, FP).0,
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
                always: Effect::new(1, 0, FP).0,
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
    let lane = |at: u32, is_set: bool| if is_set { 0xffff << at } else { 0 };
    Row {
        of_fields: lane(READS, uses.reads.contains(dst))
            | lane(LIVE, uses.reads.contains(src))
            | lane(KEEPS, uses.writes.contains(dst))
            | lane(NEEDED_BY, is_pure),
        always: Effect::new(0, 0, if is_pure { 0 } else { FP }).0,
        turn,
        ..PLAIN
    }
}

/// How often on average a slot may be looked at again before everything is taken to be live; loops of C need one or two looks.
const LOOKS: usize = 8;

/// The loops of a function, as far as it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    /// Jumps back: head and source, by descending source.
    back_jumps: Vec<(u32, u32)>,
    looks_left: usize,
    /// The next head that the pass comes to.
    next_head: Option<usize>,
}

/// The registers of a loop took too long to find.
pub(crate) struct Unsettled;

impl Loops {
    /// None, in a function of that many slots.
    pub(crate) fn clear(&mut self, slot_count: usize) {
        self.back_jumps.clear();
        self.looks_left = LOOKS * slot_count;
        self.next_head = None;
    }

    /// Whether there is no jump back.
    pub(crate) fn is_empty(&self) -> bool {
        self.back_jumps.is_empty()
    }

    /// Notes a jump back.
    pub(crate) fn push(&mut self, head: usize, source: usize) {
        self.back_jumps.push((head as u32, source as u32));
        self.next_head = self.next_head.max(Some(head));
    }

    #[inline(always)]
    pub(crate) fn next_head(&self) -> Option<usize> {
        self.next_head
    }

    /// The last slot from which a jump goes back to `head`.
    fn source_of(&self, head: usize) -> Option<usize> {
        let mut jumps = self.back_jumps.iter();
        jumps
            .find(|jump| jump.0 as usize == head)
            .map(|jump| jump.1 as usize)
    }

    /// Looks at the slots from the next head on until what is live there is what its jumps back were told. `insns` and `slots` end where the
    /// function does.
    pub(crate) fn settle(
        &mut self,
        insns: &[RawInsn],
        slots: &mut [SlotPlan],
    ) -> Result<(), Unsettled> {
        let Some(begin) = self.next_head else {
            return Ok(());
        };
        let heads = self.back_jumps.iter().map(|jump| jump.0 as usize);
        self.next_head = heads.filter(|head| *head < begin).max();
        let mut head = begin;
        loop {
            // What was looked at since the last jump back is looked at again.
            let Some(source) = self.source_of(head) else {
                return Ok(());
            };
            let end = source + 1;
            self.looks_left = self.looks_left.saturating_sub(end - head);
            if self.looks_left == 0 {
                return Err(Unsettled);
            }
            match look_again(insns, slots, begin..end) {
                Some(changed) => head = changed,
                None => return Ok(()),
            }
        }
    }
}

/// Goes through slots backwards up to a head of a loop at which more is live than before, which it returns.
fn look_again(
    insns: &[RawInsn],
    slots: &mut [SlotPlan],
    range: std::ops::Range<usize>,
) -> Option<usize> {
    // Control does not run off the end.
    let mut behind = slots.get(range.end).map_or(FP, |next| next.effect.live());
    let mut slot = range.end;
    while slot > range.start {
        slot -= 1;
        let plan = &mut slots[slot];
        if plan.place == Place::Plain {
            plan.effect = plan.effect.before(behind);
            behind = plan.effect.live();
            continue;
        }
        let SlotPlan {
            effect,
            turn,
            place,
            ..
        } = *plan;
        let target = match turn {
            Turn::Branch | Turn::Jump => target(slots, slot, insns[slot]),
            Turn::On | Turn::End => 0,
        };
        let now = effect.before(turn.behind(behind, target));
        behind = now.live();
        slots[slot].effect = now;
        if place == Place::Head && effect.live() != behind {
            return Some(slot);
        }
    }
    None
}

impl Turn {
    /// What is live behind a slot if `next` is at the next one and `target` where it jumps to.
    #[inline(always)]
    pub(crate) fn behind(self, next: u16, target: u16) -> u16 {
        match self {
            Turn::On => next,
            Turn::Branch => next | target,
            Turn::Jump => FP | target,
            Turn::End => FP,
        }
    }
}

/// The slot that a jump goes to.
#[inline(always)]
pub(crate) fn jump_target(slot: usize, raw: RawInsn) -> usize {
    let distance = if raw.code == GOTO_LONG {
        raw.imm as isize
    } else {
        raw.off.into()
    };
    slot.wrapping_add_signed(distance + 1)
}

/// What is live at a jump's target.
#[inline(always)]
fn target(slots: &[SlotPlan], slot: usize, raw: RawInsn) -> u16 {
    let target = slots.get(jump_target(slot, raw));
    target.map_or(ALL, |target| target.effect.live())
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
    let effect = |reads, writes| Effect::new(reads, writes, FP);
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
    /// The fields that say something.
    #[inline(always)]
    pub(crate) fn named(&self, fields: Fields) -> Fields {
        Fields(fields.0 & self.of_fields)
    }

    /// What a slot of this row does, by those fields.
    #[inline(always)]
    pub(crate) fn effect(&self, named: Fields) -> Effect {
        let all = named.0 ^ self.always;
        Effect(all | all >> (LIVE - READS) & 0xffff)
    }
}

/// Whether slots of the code compute a register and do nothing else.
pub(crate) fn is_pure(code: u8) -> bool {
    ROWS[usize::from(code)].always == Effect::new(0, 0, 0).0
}
