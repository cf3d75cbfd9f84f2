//! The first pass: one look at every slot, from the last to the first, by its operation code alone, for what later code must know in advance.
//!
//! Per slot: whether a jump ends there, the estimated length of the code from there on, the registers that are live (`live`). Per function:
//! registers used, whether it calls, how deep its stack goes. Everything here is a fact of the program; what follows from it is decided in `frame` and `emit`.
//!
//! Decoding is left to the second pass: what this one asks stands in a table of 256 rows, made once from `isa`, so that no branch
//! depends on what the instruction is unless it jumps, calls or touches the stack (a mispredicted branch costs as much as encoding).

use std::sync::LazyLock;

use ring3_isa::{
    AluOp, CallTarget as CallName, Insn, InternalInsn, Operand, RawInsn, Reg, RegSet, decode_xlated,
};
use ring3_runtime::{CallKind, Linked, Target};

use crate::emit::JitError;
use crate::live::{self, Effect, FieldMask, Fields, Loops, Turn};
use crate::targets::Targets;

/// What the first pass found.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Per slot, one more for the end, and what longer programs left behind that.
    pub(crate) slots: Vec<SlotPlan>,
    /// The slots where jumps end.
    pub(crate) targets: Targets,
    /// Functions in order.
    pub(crate) functions: Vec<Function>,
    /// The program throws or has an exception callback.
    pub(crate) has_exceptions: bool,
    /// Some function makes tail calls.
    pub(crate) has_tail_calls: bool,
    /// Of the function that is looked at.
    loops: Loops,
}

/// What is known of one slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotPlan {
    /// What the slot does to live registers, and which are live (`live`).
    pub(crate) effect: Effect,
    /// Estimated bytes of code from here to the end; only differences count.
    pub(crate) estimate: u32,
    /// Where control goes behind it.
    pub(crate) turn: Turn,
    pub(crate) place: Place,
}

/// Where a slot stands among jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Control goes on to the next slot, and no jump back ends here.
    #[default]
    Plain,
    /// Control may go elsewhere.
    Turn,
    /// A jump back ends here.
    Head,
}

/// What is known of one function.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Function {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Registers read or written.
    pub(crate) used: RegSet,
    /// All of them are registers.
    pub(crate) has_registers_only: bool,
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
    /// More has to be asked than the operation code.
    is_special: bool,
    /// The fields by which an access is one of the stack; none if it is no access.
    stack: FieldMask,
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
        let live = live::row(code as u8);
        let marks = insn.map_or(0, |(insn, _)| marks(&insn));
        let is_special = marks & !(LOADS | STORES) != 0 || live.is_slow;
        CodeRow {
            live,
            estimate: insn.map_or(0, |(insn, _)| estimated_bytes(&insn)),
            marks,
            is_special,
            stack: if marks & (LOADS | STORES) != 0 {
                FieldMask::only(Reg::FP)
            } else {
                FieldMask::NONE
            },
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

/// Looks at everything once; `plan` may hold what is known of another program.
///
/// # Errors
/// [`JitError::Malformed`]: a jump or call to no instruction, a function that does not end.
pub(crate) fn make(
    plan: &mut Plan,
    linked: &Linked,
    depth: Depth,
    keeps_calls: bool,
) -> Result<(), JitError> {
    let slot_count = linked.program.insns.len();
    if slot_count == 0 || linked.program.subprogs.is_empty() {
        return Err(malformed(0, "the program is empty"));
    }
    // Each is written before it is read.
    if plan.slots.len() <= slot_count {
        plan.slots.resize(slot_count + 1, SlotPlan::default());
    }
    plan.targets.clear(slot_count);
    plan.has_exceptions = linked.program.exception_cb.is_some();
    plan.has_tail_calls = false;
    find_functions(plan, linked)?;
    let mut progress = Progress {
        estimate: 0,
        sites_left: linked.sites.len(),
    };
    plan.slots[slot_count] = SlotPlan {
        effect: Effect::END,
        ..SlotPlan::default()
    };
    for index in (0..plan.functions.len()).rev() {
        look_at_function(linked, index, plan, &mut progress)?;
    }
    look_at_sites(plan, linked);
    if depth == Depth::Full && !keeps_calls {
        for (function, facts) in plan.functions.iter_mut().zip(&linked.program.subprogs) {
            function.is_inlined = !facts.is_global && is_small_leaf(function);
        }
        if plan.functions.iter().any(|function| function.is_inlined) {
            estimate_inlined(linked, plan);
        }
    }
    Ok(())
}

/// The functions by what the verifier says of them.
fn find_functions(plan: &mut Plan, linked: &Linked) -> Result<(), JitError> {
    let slot_count = linked.program.insns.len();
    plan.functions.clear();
    let mut at = 0;
    for (index, facts) in linked.program.subprogs.iter().enumerate() {
        let range = linked.subprog_slots(index).unwrap_or(0..0);
        if range.is_empty() || range.start != at || range.end > slot_count {
            return Err(malformed(
                range.start,
                "function bounds do not cover the program in order",
            ));
        }
        at = range.end;
        plan.functions.push(Function {
            start: range.start,
            end: range.end,
            stack_bytes: facts.stack_bytes,
            is_callback: facts.is_callback || facts.is_async_callback,
            ..Function::default()
        });
    }
    if at != slot_count {
        return Err(malformed(
            at,
            "function bounds do not cover the program in order",
        ));
    }
    Ok(())
}

/// What the targets of calls say of functions.
fn look_at_sites(plan: &mut Plan, linked: &Linked) {
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
}

/// Slots of a function that is cheaper in place than called, `exit` included.
const INLINED_SLOTS: usize = 12;

/// Straight code on r0 to r5 that ends with its only exit: in place of a call it changes what the call may change.
fn is_small_leaf(function: &Function) -> bool {
    const CALLER_SAVED: u16 = RegSet::CALLER_SAVED.bits();
    function.is_straight
        && function.has_registers_only
        && !function.has_calls
        && function.used.bits() & !CALLER_SAVED == 0
        && function.end - function.start <= INLINED_SLOTS
}

/// Makes room in the estimate for functions in place of their calls.
fn estimate_inlined(linked: &Linked, plan: &mut Plan) {
    let mut more = 0;
    for (slot, raw) in linked.program.insns.iter().enumerate().rev() {
        if let Some(callee) = called_function(linked, slot, *raw)
            && let Some(function) = plan
                .functions
                .get(callee)
                .filter(|callee| callee.is_inlined)
        {
            // Differences inside a function are right whether or not it was looked at before.
            more += plan.slots[function.start].estimate - plan.slots[function.end].estimate;
        }
        plan.slots[slot].estimate += more;
    }
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
struct Progress {
    /// Bytes of code behind.
    estimate: u32,
    /// The sites before the slot, and at it.
    sites_left: usize,
}

impl Progress {
    /// The target of a slot; slots are asked in descending order.
    fn site<'a>(&mut self, linked: &'a Linked, slot: usize) -> Option<&'a Target> {
        while let Some(before) = self.sites_left.checked_sub(1) {
            let site = &linked.sites[before];
            if site.slot as usize <= slot {
                return (site.slot as usize == slot).then_some(&site.target);
            }
            self.sites_left = before;
        }
        None
    }
}

/// What the slots behind say.
#[derive(Clone, Copy)]
struct Sweep {
    /// The registers live at the next slot.
    live: u16,
    /// Registers named.
    named: Fields,
    /// Bytes of code.
    estimate: u32,
    /// The least offset of an access by r10, if below it.
    lowest: i16,
}

impl Sweep {
    /// One slot back: what its code says of it.
    #[inline(always)]
    fn step(&mut self, raw: RawInsn, row: &CodeRow) -> Effect {
        let named = row.live.named(Fields::of(raw));
        // Displacements take up to four bytes more; a zero one takes none.
        self.estimate += u32::from(row.estimate)
            + u32::from(raw.off != 0)
            + 3 * u32::from(raw.off as i8 as i16 != raw.off);
        self.see(raw, row, named);
        row.live.effect(named)
    }

    /// Notes registers and depth of the stack.
    #[inline(always)]
    fn see(&mut self, raw: RawInsn, row: &CodeRow, named: Fields) {
        self.named = self.named.and(named);
        let is_stack = named.are_in(row.stack);
        self.lowest = self.lowest.min(if is_stack { raw.off } else { 0 });
    }

    /// Looks at slots until one is special; returns how many are left. A function of its own, so that all of it is in registers.
    #[inline(never)]
    fn plain(&mut self, rows: &[CodeRow; 256], insns: &[RawInsn], slots: &mut [SlotPlan]) -> usize {
        let mut sweep = *self;
        let mut left = insns.len().min(slots.len());
        while left > 0 {
            let raw = insns[left - 1];
            let row = &rows[raw.code as usize];
            if row.is_special {
                break;
            }
            let effect = sweep.step(raw, row).before(sweep.live);
            sweep.live = effect.live();
            slots[left - 1] = SlotPlan {
                effect,
                estimate: sweep.estimate,
                turn: Turn::On,
                place: Place::Plain,
            };
            left -= 1;
        }
        *self = sweep;
        left
    }
}

/// Fills in a function of `plan` and its slots, from the last to the first.
fn look_at_function(
    linked: &Linked,
    index: usize,
    plan: &mut Plan,
    progress: &mut Progress,
) -> Result<(), JitError> {
    let rows = &*ROWS;
    let has_stops = linked.stops.is_some();
    let Plan {
        slots,
        functions,
        targets,
        loops,
        ..
    } = plan;
    let function = &mut functions[index];
    let insns = &linked.program.insns[..function.end];
    let slots = &mut slots[..function.end];
    loops.clear(function.end - function.start);
    let mut is_settled = true;
    let mut all_marks = 0u8;
    let mut ends = 0u32;
    let mut sweep = Sweep {
        // Control does not run off the end.
        live: Effect::END.live(),
        named: Fields::NONE,
        estimate: progress.estimate,
        lowest: 0,
    };
    let mut behind = function.end;
    loop {
        let begin = loops.next_head().map_or(function.start, |head| head + 1);
        behind = begin + sweep.plain(rows, &insns[begin..behind], &mut slots[begin..behind]);
        let Some(slot) = behind.checked_sub(1).filter(|slot| *slot >= function.start) else {
            break;
        };
        behind = slot;
        let raw = insns[slot];
        let row = &rows[raw.code as usize];
        let mut effect = sweep.step(raw, row);
        all_marks |= row.marks;
        if row.live.is_slow {
            let site = match row.marks & CALLS {
                0 => None,
                _ => progress.site(linked, slot),
            };
            effect = live::slow(linked, slot, site);
            sweep.see(raw, row, effect.named());
        }
        if has_stops && row.is_special {
            effect.also_reads(crate::stop::reads(linked, slot));
        }
        ends += u32::from(row.marks & ENDS != 0);
        let mut live_at_target = 0;
        if row.marks & JUMPS != 0 {
            let target = live::jump_target(slot, raw);
            if !(function.start..function.end).contains(&target) {
                return Err(malformed(slot, "jump out of the function"));
            }
            targets.insert(target);
            if target > slot {
                live_at_target = slots[target].effect.live();
            } else {
                loops.push(target, slot);
                // What may stop a run stands before the jump: no rule continues into it.
                if has_stops {
                    targets.insert(slot);
                }
            }
        } else if row.marks & (CALLS | TWO_SLOTS) != 0 {
            if let Some(distance) = raw.distance() {
                let start =
                    usize::try_from(slot as i64 + 1 + i64::from(distance)).unwrap_or(usize::MAX);
                if linked.subprog_at(start).is_none() && !linked.names_removed_function(slot) {
                    return Err(malformed(slot, "call or address of no function"));
                }
            }
            if row.marks & TWO_SLOTS != 0
                && insns.get(slot + 1).is_none_or(|second| second.code != 0)
            {
                return Err(malformed(slot, "an instruction lacks its second slot"));
            }
        }
        let is_head = loops.next_head() == Some(slot);
        let turn = row.live.turn;
        let effect = effect.before(turn.behind(sweep.live, live_at_target));
        slots[slot] = SlotPlan {
            effect,
            estimate: sweep.estimate,
            turn,
            place: match (is_head, turn) {
                (true, _) => Place::Head,
                (false, Turn::On) => Place::Plain,
                (false, _) => Place::Turn,
            },
        };
        if is_head {
            is_settled &= loops.settle(insns, slots).is_ok();
        }
        sweep.live = slots[slot].effect.live();
    }
    let last = insns[function.end - 1];
    if rows[last.code as usize].marks & ENDS == 0 && !never_returns(linked, function.end - 1) {
        return Err(malformed(
            function.end - 1,
            "control runs off the end of the function",
        ));
    }
    if !is_settled {
        for slot in &mut slots[function.start..] {
            slot.effect = slot.effect.with_live(live::ALL);
        }
    }
    progress.estimate = sweep.estimate;
    function.is_straight = all_marks & JUMPS == 0 && ends == 1;
    function.used = sweep.named.registers();
    function.has_registers_only = sweep.named.are_registers();
    // Stopping calls what confirms and releases.
    function.has_back_edge = !loops.is_empty();
    let may_stop = has_stops && (function.has_back_edge || function.is_callback);
    function.has_calls = all_marks & CALLS != 0 || may_stop;
    function.has_may_goto = all_marks & MAY_GOTO != 0;
    function.pushes = all_marks & DIVIDES != 0;
    let lowest = u32::from(sweep.lowest.unsigned_abs());
    function.stack_bytes = function.stack_bytes.max(lowest);
    Ok(())
}

/// Calls that end the function although the instruction set says they return.
fn never_returns(linked: &Linked, slot: usize) -> bool {
    matches!(linked.target(slot), Some(Target::Call(call)) if call.kind == CallKind::Throw)
}
