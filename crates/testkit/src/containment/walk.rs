//! One run beside the recorded states: every step must be in one of them, and touch no memory that it does not permit.
//!
//! Instructions of the rewritten program lead back to those as loaded; a step is compared where the first instruction of a replacement
//! begins. Of outer frames, r6 to r9 are compared: what was in them when the call began.

use std::cell::RefCell;
use std::fmt::Write;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;

use ring3::interp::{MemoryPolicy, Trace, TraceStep};
use ring3::runtime::{Access, AccessViolation, ProgObject};
use ring3_isa::{AtomicOp, CallTarget, Insn, Reg, decode};
use ring3_spec::{ArgBase, FuncProto, TypeFlags};
use ring3_verifier::recording::{Known, StateView, Target};

use super::place::{FrameAt, Places, Seen};
use super::{ContainmentHits, Subject};

/// Bytes of a frame's stack.
const FRAME_BYTES: usize = 512;

/// Memory beside the stack that the current instruction may touch; `None`: any.
#[derive(Clone, Default)]
pub(super) struct Permitted(Rc<RefCell<Option<Vec<Range<u64>>>>>);

impl MemoryPolicy for Permitted {
    fn check(&self, address: u64, size_bytes: u64, access: Access) -> Result<(), AccessViolation> {
        let is_inside = |range: &Range<u64>| {
            range.start <= address
                && address
                    .checked_add(size_bytes)
                    .is_some_and(|end| end <= range.end)
        };
        match &*self.0.borrow() {
            Some(ranges) if !ranges.iter().any(is_inside) => Err(AccessViolation {
                address,
                size_bytes,
                access,
                nearest: None,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// The walk of one run.
pub(super) struct Walk<'a> {
    subject: &'a Subject<'a>,
    tail_target: usize,
    hits: &'a mut ContainmentHits,
    frames: Vec<FrameAt>,
    places: Places,
    permitted: Permitted,
    /// Instruction as loaded that was compared last.
    last: Option<u32>,
    /// What was not contained.
    pub(super) found: Option<String>,
}

/// Why a state does not hold a step.
struct Mismatch {
    what: String,
    value: u64,
    known: Known,
}

impl<'a> Walk<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, hits: &'a mut ContainmentHits) -> Self {
        Walk {
            subject,
            tail_target: subject.program.tail_target(),
            hits,
            frames: Vec::new(),
            places: Places::default(),
            permitted: Permitted::default(),
            last: None,
            found: None,
        }
    }

    pub(super) fn permitted(&self) -> Permitted {
        self.permitted.clone()
    }

    /// Where the run stands.
    pub(super) fn place(&self) -> String {
        match self.last {
            Some(insn) => format!("instruction {insn}"),
            None => "the start".to_owned(),
        }
    }

    /// Brings the frames up to the step's.
    fn follow_calls(&mut self, step: &TraceStep<'_>) {
        let key = (step.nesting, step.depth);
        while self.frames.last().is_some_and(|frame| frame.key > key) {
            self.frames.pop();
        }
        let end = step.stack_end(step.nesting).unwrap_or(0) - (step.depth * FRAME_BYTES) as u64;
        match self.frames.last_mut() {
            Some(frame) if frame.key == key => frame.regs = *step.registers,
            _ => self.frames.push(FrameAt {
                key,
                callsite: self.last,
                regs: *step.registers,
                end,
            }),
        }
    }

    fn compare(&mut self, step: &TraceStep<'_>, orig: u32) -> Result<(), String> {
        let recording = &self.subject.recording;
        let mut mismatches = Vec::new();
        for state in recording.states_at(orig) {
            let depth = state.frames();
            let is_whole = depth == self.frames.len();
            // A global function was walked by itself.
            let is_suffix = depth < self.frames.len() && state.subprog(0) != 0;
            if !is_whole && !is_suffix {
                continue;
            }
            let frames = &self.frames[self.frames.len() - depth..];
            if (1..depth).any(|frame| state.callsite(frame) != frames[frame].callsite) {
                continue;
            }
            let mut places = self.places.clone();
            match self.holds(&state, frames, &mut places, step, orig) {
                Ok(()) => {
                    self.places = places;
                    self.permit(&state, orig);
                    return self.check_call(&state, orig);
                }
                Err(mismatch) => mismatches.push(mismatch),
            }
        }
        let mut text = format!("instruction {orig}: in none of {} states", mismatches.len());
        for mismatch in mismatches.iter().take(4) {
            let _ = write!(
                text,
                "\n  {} is {:#x}, known: {:?}",
                mismatch.what, mismatch.value, mismatch.known
            );
        }
        Err(text)
    }

    fn holds(
        &self,
        state: &StateView<'_>,
        frames: &[FrameAt],
        places: &mut Places,
        step: &TraceStep<'_>,
        orig: u32,
    ) -> Result<(), Mismatch> {
        let seen_fresh_r0 = self
            .last
            .is_some_and(|last| self.is_helper_call(last).is_some());
        let is_entry = |at: u32| self.subject.generated.functions.contains(&at);
        let is_callback_entry =
            is_entry(orig) && frames.last().is_some_and(|frame| frame.key.0 > 0);
        for (frameno, frame) in frames.iter().enumerate() {
            let is_innermost = frameno + 1 == frames.len();
            let numbers = if is_innermost { 0..11 } else { 6..10 };
            for number in numbers {
                let (known, value) = (state.reg(frameno, number), frame.regs[number]);
                let seen = if is_innermost && (number == 0 && seen_fresh_r0 || is_callback_entry) {
                    Seen::Fresh
                } else {
                    Seen::Elsewhere
                };
                if !places.admits(&known, value, frames, seen) {
                    return Err(Mismatch {
                        what: format!("r{number} of frame {frameno}"),
                        value,
                        known,
                    });
                }
            }
            self.stack_holds(state, frameno, frames, places, step)?;
        }
        Ok(())
    }

    fn stack_holds(
        &self,
        state: &StateView<'_>,
        frameno: usize,
        frames: &[FrameAt],
        places: &mut Places,
        step: &TraceStep<'_>,
    ) -> Result<(), Mismatch> {
        let frame = &frames[frameno];
        let Some(stack) = step.stack(frame.key.0) else {
            return Ok(());
        };
        let Some(end) = stack.len().checked_sub(frame.key.1 * FRAME_BYTES) else {
            return Ok(());
        };
        let function = state.subprog(frameno) as usize;
        let used = self.subject.stack_bytes.get(function).copied();
        for (spi, slot) in state.slots(frameno).enumerate() {
            let below = 8 * (spi + 1);
            // Spills of a removed fastcall pattern are not there.
            if below > FRAME_BYTES || used.is_some_and(|used| below > used) {
                break;
            }
            let bytes: [u8; 8] = std::array::from_fn(|byte| stack[end - below + byte]);
            let nonzero = (0..8).find(|&byte| slot.zero[byte] && bytes[byte] != 0);
            if let Some(byte) = nonzero {
                return Err(Mismatch {
                    what: format!(
                        "byte fp-{} of frame {frameno}, known to be 0,",
                        below - byte
                    ),
                    value: u64::from(bytes[byte]),
                    known: Known::Nothing,
                });
            }
            if let Some((known, count)) = slot.spilled {
                let keep = u64::MAX >> (64 - 8 * count);
                let value = u64::from_le_bytes(bytes) & keep;
                if !places.admits(&known, value, frames, Seen::Elsewhere) {
                    return Err(Mismatch {
                        what: format!("slot fp-{below} of frame {frameno}"),
                        value,
                        known,
                    });
                }
            }
        }
        Ok(())
    }

    fn insn(&self, orig: u32) -> Option<Insn> {
        let insns = &self.subject.generated.insns;
        decode(insns, orig as usize).ok().map(|(insn, _)| insn)
    }

    fn is_helper_call(&self, orig: u32) -> Option<&FuncProto> {
        match self.insn(orig)? {
            Insn::Call(CallTarget::Helper(id)) => self.subject.protos.get(&id),
            _ => None,
        }
    }

    /// The memory that the instruction may touch in this state.
    fn permit(&mut self, state: &StateView<'_>, orig: u32) {
        let base = match self.insn(orig) {
            Some(Insn::Load { src, .. }) => Some(src),
            Some(Insn::Store { dst, .. }) => Some(dst),
            Some(Insn::Atomic { op, dst, src, .. }) => {
                let is_load = op == AtomicOp::LoadAcquire;
                Some(if is_load { src } else { dst })
            }
            _ => None,
        };
        let innermost = state.frames() - 1;
        let known = base.map(|base| state.reg(innermost, base.index()));
        // r10 is no register that liveness counts.
        let is_frame = base == Some(Reg::FP);
        let frames = &self.frames[self.frames.len() - state.frames()..];
        if is_frame {
            *self.hits.pointers.entry("fp").or_default() += 1;
        }
        let ranges = known.and_then(|known| {
            if let Known::Pointer(pointer) = &known {
                *self.hits.pointers.entry(pointer.target.kind()).or_default() += 1;
            }
            let map_bytes = &self.subject.map_bytes;
            self.places.memory_of(&known, frames, map_bytes)
        });
        *self.permitted.0.borrow_mut() = ranges;
    }

    /// The memory that a helper is given is inside of the objects it is said to be in.
    fn check_call(&mut self, state: &StateView<'_>, orig: u32) -> Result<(), String> {
        let Some(proto) = self.is_helper_call(orig).copied() else {
            return Ok(());
        };
        *self.hits.helpers.entry(proto.id.raw() as i32).or_default() += 1;
        let innermost = state.frames() - 1;
        let frames = &self.frames[self.frames.len() - state.frames()..];
        let regs = &frames[innermost].regs;
        let mut map = None;
        for (at, arg) in proto.args.iter().enumerate() {
            let number = at + 1;
            let known = state.reg(innermost, number);
            if let Known::Pointer(pointer) = &known {
                *self.hits.pointers.entry(pointer.target.kind()).or_default() += 1;
                if let Target::Map(index) = pointer.target {
                    map = self.subject.map_bytes.get(index as usize).copied();
                }
            }
            let len = match arg.base {
                ArgBase::PtrToMapKey => map.map(|(key, _)| key),
                ArgBase::PtrToMapValue => map.map(|(_, value)| value),
                ArgBase::PtrToMem if arg.has(TypeFlags::FIXED_SIZE) => {
                    Some(u64::from(arg.mem_bytes))
                }
                ArgBase::PtrToMem => proto.args.get(number).and_then(|next| {
                    let is_size =
                        matches!(next.base, ArgBase::ConstSize | ArgBase::ConstSizeOrZero);
                    is_size.then(|| regs[number + 1])
                }),
                _ => None,
            };
            let Some(len) = len.filter(|&len| len > 0) else {
                continue;
            };
            let memory = self
                .places
                .memory_of(&known, frames, &self.subject.map_bytes);
            let start = regs[number];
            let fits = |range: &Range<u64>| {
                range.start <= start && start.checked_add(len).is_some_and(|end| end <= range.end)
            };
            if let Some(ranges) = memory
                && !ranges.iter().any(fits)
            {
                return Err(format!(
                    "instruction {orig}: {} gets {len} bytes at {start:#x} in r{number}, beyond its object: {known:?}",
                    proto.name
                ));
            }
        }
        Ok(())
    }
}

impl Trace for Walk<'_> {
    fn step(&mut self, step: TraceStep<'_>) -> ControlFlow<()> {
        if step.program != self.tail_target {
            *self.permitted.0.borrow_mut() = None;
            return ControlFlow::Continue(());
        }
        let facts = &self.subject.program.verified().facts;
        let slot = step.slot as usize;
        let Some(fact) = facts.get(slot) else {
            return ControlFlow::Continue(());
        };
        let orig = fact.orig_idx;
        if self.frames.is_empty() {
            self.places.ctx = step.registers[1];
        }
        let begins = slot == 0 || facts[slot - 1].orig_idx != orig;
        if !begins {
            // The frames of calls that a replacement makes are followed where their code begins.
            return ControlFlow::Continue(());
        }
        self.follow_calls(&step);
        if let Some(last) = self.last
            && self
                .is_helper_call(last)
                .is_some_and(|proto| proto.changes_pkt_data)
        {
            self.places.forget_packet();
        }
        self.hits.steps += 1;
        let code = self.subject.generated.insns[orig as usize].code;
        *self.hits.opcodes.entry(code).or_default() += 1;
        let result = self.compare(&step, orig);
        self.last = Some(orig);
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(found) => {
                self.found = Some(found);
                ControlFlow::Break(())
            }
        }
    }
}
