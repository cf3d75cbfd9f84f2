//! The first pass: one look at every slot, by its operation code alone, for what later code must know in advance.
//!
//! Per slot: whether a jump ends there, the estimated offset of its code. Per function: registers used, whether it calls, how deep its
//! stack goes. Everything here is a fact of the program; what follows from it is decided in `frame` and `emit`.
//!
//! Decoding is left to the second pass: what this one asks stands in a table of 256 rows, made once from `isa`, so that no branch
//! depends on what the instruction is unless it jumps, calls or touches the stack (a mispredicted branch costs as much as encoding).

use std::sync::LazyLock;

use ring3_isa::{
    AluOp, CallTarget as CallName, Insn, InternalInsn, Operand, RawInsn, Reg, RegSet, decode_xlated,
};
use ring3_runtime::{CallKind, Linked, Target};

use crate::emit::JitError;
use crate::live::{self, Effect, Fields, Turn};

/// What the first pass found.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Per slot, and one more for the end.
    pub(crate) slots: Vec<SlotPlan>,
    /// Functions in order.
    pub(crate) functions: Vec<Function>,
    /// The program throws or has an exception callback.
    pub(crate) has_exceptions: bool,
    /// Some function makes tail calls.
    pub(crate) has_tail_calls: bool,
    /// Jumps back: target and source, by source.
    back_jumps: Vec<(u32, u32)>,
}

/// What is known of one slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotPlan {
    /// Estimated offset of its code from the start, in bytes; only differences count.
    pub(crate) estimate: u32,
    /// The registers that are read from here on (`live`).
    pub(crate) live: u16,
    /// What the slot does to them.
    pub(crate) effect: Effect,
    /// Where control goes behind it.
    pub(crate) turn: Turn,
    /// Control may go elsewhere than to the next slot, or a jump back ends here.
    pub(crate) is_special: bool,
    /// A jump ends here.
    pub(crate) is_target: bool,
    /// A jump back ends here.
    pub(crate) is_back_target: bool,
}

/// What is known of one function.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Function {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Registers named; at least those read or written.
    pub(crate) used: RegSet,
    /// Calls anything.
    pub(crate) has_calls: bool,
    /// Contains a tail call.
    pub(crate) has_tail_call: bool,
    /// Contains `may_goto`.
    pub(crate) has_may_goto: bool,
    /// Contains an instruction whose expansion pushes.
    pub(crate) pushes: bool,
    /// Bytes of stack.
    pub(crate) stack_bytes: u32,
    /// Called back by helpers.
    pub(crate) is_callback: bool,
    /// No jumps, and one exit at the end.
    pub(crate) is_straight: bool,
    /// Some jump goes back.
    pub(crate) has_back_edge: bool,
    /// Calls of it are replaced by its instructions.
    pub(crate) is_inlined: bool,
}

/// What an operation code says.
#[derive(Clone, Copy)]
struct CodeRow {
    live: live::Row,
    /// A guess of the code's length without displacement that is seldom too small; a forward jump takes its short form if the guesses
    /// between say so.
    estimate: u8,
    marks: u8,
}

const LOADS: u8 = 1;
const STORES: u8 = 2;
const JUMPS: u8 = 4;
const CALLS: u8 = 8;
const ENDS: u8 = 16;
const DIVIDES: u8 = 32;
const TWO_SLOTS: u8 = 64;
const MAY_GOTO: u8 = 128;

static ROWS: LazyLock<[CodeRow; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| {
        // Some codes decode only with certain immediates or offsets: widths of swaps, atomic operations.
        let tries = [0, 16, 1, 0x100]
            .into_iter()
            .map(|imm| RawInsn::new(code as u8, 0, 0, 0, imm));
        let second = RawInsn::default();
        let insn = tries
            .into_iter()
            .find_map(|raw| decode_xlated(&[raw, second], 0).ok());
        CodeRow {
            live: live::row(code as u8),
            estimate: insn.map_or(0, |(insn, _)| estimated_bytes(&insn)),
            marks: insn.map_or(0, |(insn, _)| marks(&insn)),
        }
    })
});

fn marks(insn: &Insn) -> u8 {
    match insn {
        Insn::Load { .. } | Insn::Internal(InternalInsn::ProbeLoad { .. }) => LOADS,
        Insn::Store { .. } | Insn::Atomic { .. } => STORES,
        Insn::Jmp { .. } => JUMPS,
        Insn::Ja { .. } | Insn::Jal { .. } => JUMPS | ENDS,
        Insn::MayGoto { .. } => JUMPS | MAY_GOTO,
        Insn::Call(_)
        | Insn::Internal(InternalInsn::TailCall)
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. } => CALLS,
        Insn::Exit => ENDS,
        Insn::LoadImm64 { .. } => TWO_SLOTS,
        Insn::Alu {
            op: AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod,
            ..
        } => DIVIDES,
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Movsx { .. }
        | Insn::Endian { .. }
        | Insn::AddrSpaceCast { .. }
        | Insn::Internal(_) => 0,
    }
}

fn estimated_bytes(insn: &Insn) -> u8 {
    match *insn {
        Insn::Alu { op, src, .. } => match (op, src) {
            (AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod, _) => 44,
            (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Reg(_)) => 12,
            (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Imm(_)) => 4,
            (_, Operand::Reg(_)) => 3,
            (_, Operand::Imm(_)) => 6,
        },
        Insn::Neg { .. } | Insn::Movsx { .. } => 4,
        Insn::Endian { .. } => 7,
        Insn::AddrSpaceCast { .. } => 24,
        Insn::LoadImm64 { .. } => 10,
        Insn::Load { .. } | Insn::Internal(InternalInsn::ProbeLoad { .. }) => 4,
        Insn::Store {
            src: Operand::Imm(_),
            ..
        } => 8,
        Insn::Store {
            src: Operand::Reg(_),
            ..
        } => 4,
        Insn::Atomic { .. } => 20,
        Insn::Jmp {
            src: Operand::Imm(_),
            ..
        } => 7,
        Insn::Jmp {
            src: Operand::Reg(_),
            ..
        } => 6,
        Insn::Ja { .. } | Insn::Jal { .. } => 4,
        Insn::MayGoto { .. } => 12,
        Insn::Call(CallName::Subprog(_) | CallName::Helper(_) | CallName::Kfunc { .. }) => 8,
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => 34,
        Insn::Exit => 8,
        Insn::Internal(InternalInsn::Nospec) => 0,
        Insn::Internal(InternalInsn::ArenaLoad { .. } | InternalInsn::ArenaStore { .. }) => 26,
        Insn::Internal(InternalInsn::ArenaAtomic { .. }) => 50,
        Insn::Internal(InternalInsn::PercpuAddr { .. }) => 24,
        Insn::Internal(InternalInsn::TailCall) => 60,
    }
}

fn malformed(slot: usize, what: &str) -> JitError {
    JitError::Malformed {
        slot,
        what: what.to_owned(),
    }
}

/// How much a plan finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What any compilation needs.
    Basic,
    /// What the rules of optimisation need too.
    Full,
}

/// Looks at everything once, and at what is live where; `plan` may hold what is known of another program.
///
/// # Errors
/// [`JitError::Malformed`]: a jump or call to no instruction, a function that does not end.
pub(crate) fn make(
    plan: &mut Plan,
    linked: &Linked,
    depth: Depth,
    keeps_calls: bool,
) -> Result<(), JitError> {
    let slots = &linked.program.insns;
    if slots.is_empty() || linked.program.subprogs.is_empty() {
        return Err(malformed(0, "the program is empty"));
    }
    plan.slots.clear();
    plan.slots.resize(
        slots.len() + 1,
        SlotPlan {
            live: if depth == Depth::Full { 0 } else { u16::MAX },
            ..SlotPlan::default()
        },
    );
    plan.functions.clear();
    plan.back_jumps.clear();
    plan.has_exceptions = linked.program.exception_cb.is_some();
    plan.has_tail_calls = false;
    let mut progress = Progress::default();
    let mut at = 0;
    for (index, facts) in linked.program.subprogs.iter().enumerate() {
        let range = linked.subprog_slots(index).unwrap_or(0..0);
        if range.is_empty() || range.start != at || range.end > slots.len() {
            return Err(malformed(
                range.start,
                "function bounds do not cover the program in order",
            ));
        }
        let mut function = Function {
            start: range.start,
            end: range.end,
            stack_bytes: facts.stack_bytes,
            is_callback: facts.is_callback || facts.is_async_callback,
            ..Function::default()
        };
        at = look_at_function(linked, &mut function, plan, &mut progress)?;
        plan.functions.push(function);
    }
    if at != slots.len() {
        return Err(malformed(
            at,
            "function bounds do not cover the program in order",
        ));
    }
    plan.slots[slots.len()].estimate = progress.estimate;
    for site in &linked.sites {
        match site.target {
            Target::Call(call) => plan.has_exceptions |= call.kind == CallKind::Throw,
            Target::TailCall(_) => {
                let slot = site.slot as usize;
                let holds =
                    |function: &&mut Function| (function.start..function.end).contains(&slot);
                if let Some(function) = plan.functions.iter_mut().find(holds) {
                    function.has_tail_call = true;
                    plan.has_tail_calls = true;
                }
            }
            Target::Imm64(_) | Target::Inline(_) | Target::LoadPacket(_) => {}
        }
    }
    if depth == Depth::Full {
        plan.slots[slots.len()].live = live::BEHIND;
        for (function, facts) in plan.functions.iter_mut().zip(&linked.program.subprogs) {
            let begin = plan
                .back_jumps
                .partition_point(|jump| (jump.1 as usize) < function.start);
            let end = plan
                .back_jumps
                .partition_point(|jump| (jump.1 as usize) < function.end);
            live::find(
                linked,
                function,
                &plan.back_jumps[begin..end],
                &mut plan.slots,
            );
            function.is_inlined = !keeps_calls && !facts.is_global && is_small_leaf(function);
        }
        if plan.functions.iter().any(|function| function.is_inlined) {
            estimate_inlined(linked, plan);
        }
    }
    Ok(())
}

/// Slots of a function that is cheaper in place than called, `exit` included.
const INLINED_SLOTS: usize = 12;

/// Straight code on r0 to r5 that ends with its only exit: in place of a call it changes what the call may change.
fn is_small_leaf(function: &Function) -> bool {
    const CALLER_SAVED: u16 = RegSet::CALLER_SAVED.bits();
    function.is_straight
        && !function.has_calls
        && function.used.bits() & !CALLER_SAVED == 0
        && function.end - function.start <= INLINED_SLOTS
}

/// Makes room in the estimate for functions in place of their calls.
fn estimate_inlined(linked: &Linked, plan: &mut Plan) {
    let mut more = 0;
    for (slot, raw) in linked.program.insns.iter().enumerate() {
        plan.slots[slot].estimate += more;
        if let Some(callee) = called_function(linked, slot, *raw)
            && let Some(function) = plan
                .functions
                .get(callee)
                .filter(|callee| callee.is_inlined)
        {
            // Differences inside a function are right whether or not it was looked at before.
            more += plan.slots[function.end].estimate - plan.slots[function.start].estimate;
        }
    }
    plan.slots[linked.program.insns.len()].estimate += more;
}

/// The function that the slot calls, if it calls one of the program.
pub(crate) fn called_function(linked: &Linked, slot: usize, raw: RawInsn) -> Option<usize> {
    const CALL: u8 = 0x85;
    const PSEUDO_CALL: u8 = 1;
    if raw.code != CALL || raw.src() != PSEUDO_CALL {
        return None;
    }
    let start = slot as i64 + 1 + i64::from(raw.imm);
    linked.subprog_at(usize::try_from(start).ok()?)
}

/// How far the look at all functions has come.
#[derive(Default)]
struct Progress {
    /// Bytes of code.
    estimate: u32,
    /// Index of the first site at or behind the slot.
    next_site: usize,
}

impl Progress {
    /// The target of a slot; slots are asked in ascending order.
    fn site<'a>(&mut self, linked: &'a Linked, slot: usize) -> Option<&'a Target> {
        while let Some(site) = linked.sites.get(self.next_site) {
            if site.slot as usize >= slot {
                return (site.slot as usize == slot).then_some(&site.target);
            }
            self.next_site += 1;
        }
        None
    }
}

/// Fills in `function` and its slots of `plan`; returns the slot behind it.
fn look_at_function(
    linked: &Linked,
    function: &mut Function,
    plan: &mut Plan,
    progress: &mut Progress,
) -> Result<usize, JitError> {
    const FP_FIELDS: u32 = 0x10001 << Reg::FP.number();
    const SRC_FIELD: u32 = 0xffff_0000;
    let insns = linked.program.insns.as_slice();
    let rows = &*ROWS;
    let has_stops = linked.stops.is_some();
    let Plan {
        slots, back_jumps, ..
    } = plan;
    let slots = slots.as_mut_slice();
    let mut estimate = progress.estimate;
    let mut used = 0;
    let mut all_marks = 0u8;
    let mut lowest = 0i16;
    let mut last = 0u8;
    let mut ends = 0u32;
    let mut slot = function.start;
    while slot < function.end {
        let raw = insns[slot];
        let row = &rows[raw.code as usize];
        let fields = Fields::of(raw);
        let slot_plan = &mut slots[slot];
        slot_plan.estimate = estimate;
        slot_plan.effect = row.live.effect(fields);
        // Displacements take up to four bytes more; a zero one takes none.
        estimate += u32::from(row.estimate)
            + u32::from(raw.off != 0)
            + 3 * u32::from(raw.off as i8 as i16 != raw.off);
        let used_before = used;
        used |= fields.0;
        last = row.marks;
        all_marks |= row.marks;
        // A load-acquire has its base in the source field.
        if row.marks & (LOADS | STORES) != 0 && fields.0 & FP_FIELDS != 0 {
            lowest = lowest.min(raw.off);
        }
        slot += 1;
        if row.marks & (JUMPS | CALLS | TWO_SLOTS | ENDS) == 0 && !row.live.is_slow {
            continue;
        }
        let at = slot - 1;
        slot_plan.turn = row.live.turn;
        slot_plan.is_special |= row.live.turn != Turn::On;
        if row.live.is_slow {
            let site = match row.marks & CALLS {
                0 => None,
                _ => progress.site(linked, at),
            };
            slot_plan.effect = live::slow(linked, at, site);
        }
        if has_stops {
            slot_plan.effect.also_reads(crate::stop::reads(linked, at));
        }
        ends += u32::from(row.marks & ENDS != 0);
        if row.marks & JUMPS != 0 {
            let target = at as i64 + 1 + i64::from(raw.distance().unwrap_or(0));
            let target = match usize::try_from(target) {
                Ok(target) if (function.start..function.end).contains(&target) => target,
                _ => return Err(malformed(at, "jump out of the function")),
            };
            slots[target].is_target = true;
            if target <= at {
                slots[target].is_back_target = true;
                slots[target].is_special = true;
                function.has_back_edge = true;
                back_jumps.push((target as u32, at as u32));
                // What may stop a run stands before the jump: no rule continues into it.
                slots[at].is_target |= has_stops;
            }
        } else if row.marks & (CALLS | TWO_SLOTS) != 0 {
            // The source field is a variant, or the index register of a packet load, which also reads r6.
            if is_packet_load(raw) {
                used |= 1 << Reg::R6.number();
            } else {
                used = used_before | (fields.0 & !SRC_FIELD);
            }
            if let Some(distance) = raw.distance() {
                let start =
                    usize::try_from(at as i64 + 1 + i64::from(distance)).unwrap_or(usize::MAX);
                if linked.subprog_at(start).is_none() && !linked.names_removed_function(at) {
                    return Err(malformed(at, "call or address of no function"));
                }
            }
            if row.marks & TWO_SLOTS != 0 {
                if slot < function.end {
                    slots[slot].estimate = estimate;
                }
                slot += 1;
            }
        }
    }
    if slot != function.end {
        return Err(malformed(
            function.end,
            "a function begins inside an instruction",
        ));
    }
    if last & ENDS == 0 && !never_returns(linked, slot - 1) {
        return Err(malformed(
            slot - 1,
            "control runs off the end of the function",
        ));
    }
    progress.estimate = estimate;
    function.is_straight = all_marks & (JUMPS | MAY_GOTO) == 0 && ends == 1;
    function.used = RegSet::from_bits((used | used >> 16) as u16);
    // Stopping calls what confirms and releases.
    let may_stop = linked.stops.is_some() && (function.has_back_edge || function.is_callback);
    function.has_calls = all_marks & CALLS != 0 || may_stop;
    function.has_may_goto = all_marks & MAY_GOTO != 0;
    function.pushes = all_marks & DIVIDES != 0;
    function.stack_bytes = function.stack_bytes.max(u32::from(lowest.unsigned_abs()));
    Ok(slot)
}

/// Whether the slot is LD_ABS or LD_IND.
fn is_packet_load(raw: RawInsn) -> bool {
    raw.class() == 0 && !raw.is_ld_imm64()
}

/// Calls that end the function although the instruction set says they return.
fn never_returns(linked: &Linked, slot: usize) -> bool {
    matches!(linked.target(slot), Some(Target::Call(call)) if call.kind == CallKind::Throw)
}
