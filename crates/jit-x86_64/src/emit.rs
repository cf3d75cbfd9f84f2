//! The second pass: walks the plan, writes code, notes what can be filled in only when the place of the code is known.
//!
//! Key types: [`Options`], [`JitError`], `Emitter` (the state of the pass; the files of instruction kinds are `impl` blocks of it),
//! `Code` (the result before placement).

mod walk;

use ring3_isa::{Imm64, Insn, MemSize, Operand, RawInsn, Reg, Width, decode_xlated};
use ring3_runtime::extable::FaultEntry;
use ring3_runtime::{Linked, LoadPacketFn, StopLayout, Target};
use ring3_uapi::Errno;

use crate::asm::{Arith, Asm, Cond, Patch};
use crate::cpu::CpuFeatures;
use crate::frame::{Frame, Mode};
use crate::plan::{Plan, SlotPlan};
use crate::regs::{R11, RAX, X};
use crate::scratch::Scratch;

/// How to compile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Hide immediates of the program behind random values, so that its author cannot place chosen bytes in executable memory. The value
    /// seeds the randomness.
    pub blinding_seed: Option<u64>,
    /// Optional instructions to use.
    pub cpu: CpuFeatures,
    /// Calls of functions stay calls, so that every function can be traced.
    pub keeps_calls: bool,
    /// Makes the code of the rule of this name ([`crate::Compiled::rule_hits`]) wrong on purpose: a differential test that does not notice is
    /// worthless.
    pub planted_fault: Option<&'static str>,
}

/// Why a program was not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JitError {
    /// The program is not one that a verifier or linker may hand over.
    Malformed {
        /// Instruction slot.
        slot: usize,
        /// What is wrong.
        what: String,
    },
    /// Something this compiler does not do (`ENOTSUPP`).
    Unsupported {
        /// Instruction slot.
        slot: usize,
        /// What.
        what: &'static str,
    },
    /// A slot that names a map, helper or variable has no target.
    Unresolved {
        /// Instruction slot.
        slot: usize,
    },
    /// The host gives no executable memory or no fault handler.
    Memory(Errno),
}

impl std::fmt::Display for JitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JitError::Malformed { slot, what } => write!(f, "insn {slot}: {what}"),
            JitError::Unsupported { slot, what } => {
                write!(f, "insn {slot}: {what}: not supported by the compiler")
            }
            JitError::Unresolved { slot } => {
                write!(f, "insn {slot}: names an object that was not linked")
            }
            JitError::Memory(errno) => write!(f, "executable memory: {errno}"),
        }
    }
}

impl std::error::Error for JitError {}

impl JitError {
    /// The errno of the load that fails by this.
    pub fn errno(&self) -> Errno {
        match self {
            JitError::Malformed { .. } | JitError::Unresolved { .. } => Errno::EINVAL,
            JitError::Unsupported { .. } => Errno::ENOTSUPP,
            JitError::Memory(errno) => *errno,
        }
    }
}

/// Code before it has a place.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) asm: Asm,
    /// Offset of each slot's code; for the second slot of a two-slot load that of the first. One more at the end.
    pub(crate) slot_offsets: Vec<u32>,
    /// In order.
    pub(crate) functions: Vec<FunctionPlace>,
    /// Where a tail call enters.
    pub(crate) tail_entry: u32,
    /// The rel32 jump to the pack's end of the shared frame.
    pub(crate) shared_end: Option<Patch>,
    /// rel32 calls and jumps to absolute addresses.
    pub(crate) far: Vec<(Patch, u64)>,
    /// 64-bit immediates that take the address of a function's callback record.
    pub(crate) callbacks: Vec<(Patch, u32)>,
    /// 64-bit immediates that take the address of an offset in this code.
    pub(crate) addresses: Vec<(Patch, u32)>,
    pub(crate) faults: Vec<FaultEntry>,
    /// Tail calls that their prog array patches.
    pub(crate) direct: Vec<crate::tail_call::DirectSite>,
    /// Fusions applied, by rule.
    pub(crate) rule_hits: [u32; crate::fuse::RULES],
}

/// A function and its code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionPlace {
    /// First slot.
    pub(crate) start: u32,
    /// Offset of its nop.
    pub(crate) offset: u32,
    /// Its calls were replaced by its instructions.
    pub(crate) is_inlined: bool,
}

/// Forward jumps may be short where the estimate says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jumps {
    /// By estimate; emission may fail with `TooFar`.
    Estimated,
    /// Forward jumps are near.
    Near,
}

/// A short jump did not reach: compile again with [`Jumps::Near`].
pub(crate) struct TooFar;

/// The second operand of an instruction as the hardware takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Src {
    Reg(X),
    Imm(i32),
}

/// A jump whose target's place is not known yet.
#[derive(Clone, Copy)]
pub(crate) struct PendingJump {
    patch: Patch,
    is_short: bool,
    target: u32,
}

/// Estimates are seldom too small.
const SHORT_BELOW: u32 = 121;
/// Where slots are written a second time, other code stands between too.
const SHORT_BELOW_AGAIN: u32 = 91;

/// The state of the pass.
pub(crate) struct Emitter<'a> {
    pub(crate) asm: Asm,
    pub(crate) linked: &'a Linked,
    pub(crate) plan: &'a Plan,
    pub(crate) insns: &'a [RawInsn],
    /// What the plan knows of them.
    pub(crate) slots: &'a [SlotPlan],
    pub(crate) cpu: CpuFeatures,
    pub(crate) mode: Mode,
    pub(crate) frame: Frame,
    /// Rules apply, and instructions may go the short way (`quick`), where a function allows it.
    is_optimised: bool,
    /// So it is in the current function.
    is_quick: bool,
    /// Forward jumps over fewer estimated bytes are short.
    short_below: u32,
    /// The rule whose code is to be wrong.
    planted_fault: Option<usize>,
    /// Slots up to this one have their final offsets; it is the current slot, except where slots are written a second time.
    origin: Option<usize>,
    /// The function being written.
    current: usize,
    /// Index into `linked.sites` of the first site at or after the current slot.
    next_site: usize,
    /// State of the blinding generator.
    blinding: Option<u64>,
    slot_offsets: Vec<u32>,
    functions: Vec<FunctionPlace>,
    pending: &'a mut Vec<PendingJump>,
    pending_calls: Vec<(Patch, u32)>,
    shared_end: Option<Patch>,
    pub(crate) far: Vec<(Patch, u64)>,
    pub(crate) callbacks: Vec<(Patch, u32)>,
    pub(crate) addresses: Vec<(Patch, u32)>,
    pub(crate) faults: Vec<FaultEntry>,
    pub(crate) direct: Vec<crate::tail_call::DirectSite>,
    pub(crate) rule_hits: [u32; crate::fuse::RULES],
    /// Offset of an epilogue of the current function, once there is one.
    epilogue: Option<usize>,
    /// The words of runs with a limit.
    pub(crate) stops: Option<StopLayout>,
    pub(crate) pending_stops: Vec<crate::stop::PendingStop>,
    pub(crate) confirm_calls: Vec<Patch>,
    /// Calls of packet loads, whose routines follow the program.
    pub(crate) packet_calls: Vec<(Patch, MemSize, LoadPacketFn)>,
    /// Where the current function goes when a packet load fails, once there is such a place.
    pub(crate) packet_failed: Option<usize>,
    /// The instruction just written covers the next one too.
    has_consumed_next: bool,
    /// Offsets of the checked mode's routines.
    pub(crate) routines: crate::checked::Routines,
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(
        linked: &'a Linked,
        scratch: &'a mut Scratch,
        options: &Options,
        mode: Mode,
        jumps: Jumps,
    ) -> Self {
        let slot_count = linked.program.insns.len();
        let Scratch {
            plan,
            code,
            pending,
        } = scratch;
        pending.clear();
        Emitter {
            asm: Asm::in_buffer(std::mem::take(code), slot_count * 5 + 256),
            linked,
            plan,
            insns: &linked.program.insns,
            slots: &plan.slots[..slot_count + 1],
            cpu: options.cpu,
            mode,
            frame: Frame::default(),
            planted_fault: options
                .planted_fault
                .and_then(|name| crate::fuse::NAMES.iter().position(|rule| *rule == name)),
            is_optimised: mode == Mode::Native && options.blinding_seed.is_none(),
            is_quick: false,
            short_below: match (jumps, mode, options.blinding_seed) {
                (Jumps::Estimated, Mode::Native, None) => SHORT_BELOW,
                _ => 0,
            },
            origin: None,
            current: 0,
            next_site: 0,
            blinding: options.blinding_seed.map(|seed| seed | 1),
            // Not `vec![]`: memory that the allocator clears does not come from the thread's cache.
            slot_offsets: std::iter::repeat_n(0, slot_count + 1).collect(),
            functions: Vec::with_capacity(plan.functions.len()),
            pending,
            pending_calls: Vec::new(),
            shared_end: None,
            far: Vec::new(),
            callbacks: Vec::new(),
            addresses: Vec::new(),
            faults: Vec::new(),
            direct: Vec::new(),
            rule_hits: [0; crate::fuse::RULES],
            epilogue: None,
            stops: linked
                .stops
                .as_ref()
                .and_then(|_| ring3_runtime::stop_layout()),
            pending_stops: Vec::new(),
            confirm_calls: Vec::new(),
            packet_calls: Vec::new(),
            packet_failed: None,
            has_consumed_next: false,
            routines: crate::checked::Routines::default(),
        }
    }

    /// Emits every function.
    pub(crate) fn program(mut self) -> Result<Result<Code, TooFar>, JitError> {
        if self.mode == Mode::Checked {
            self.checked_entry();
        }
        let mut tail_entry = 0;
        for index in 0..self.plan.functions.len() {
            let inner = self.function(index)?;
            if index == 0 && self.mode == Mode::Native {
                tail_entry = self.tail_entry(inner);
            }
        }
        let end = self.insns.len();
        self.slot_offsets[end] = self.asm.pos() as u32;
        self.confirm_routine();
        self.packet_routines();
        self.far_jumps();
        for &(patch, function) in &self.pending_calls {
            self.asm
                .bind32(patch, self.functions[function as usize].offset as usize);
        }
        for jump in self.pending.iter() {
            let target = self.slot_offsets[jump.target as usize] as usize;
            if !jump.is_short {
                self.asm.bind32(jump.patch, target);
                continue;
            }
            let distance = target as i64 - (i64::from(jump.patch.0) + 1);
            match i8::try_from(distance) {
                Ok(distance) => self.asm.set8(jump.patch.0 as usize, distance as u8),
                Err(_) => return Ok(Err(TooFar)),
            }
        }
        Ok(Ok(Code {
            asm: self.asm,
            slot_offsets: self.slot_offsets,
            functions: self.functions,
            tail_entry,
            shared_end: self.shared_end,
            far: self.far,
            callbacks: self.callbacks,
            addresses: self.addresses,
            faults: self.faults,
            direct: self.direct,
            rule_hits: self.rule_hits,
        }))
    }

    /// One function; returns what [`Frame::prologue`] does.
    fn function(&mut self, index: usize) -> Result<usize, JitError> {
        let function = self.plan.functions[index];
        self.current = index;
        self.frame = Frame::of(self.plan, index, self.mode)?;
        self.is_quick = self.is_optimised && function.has_registers_only;
        self.epilogue = None;
        self.packet_failed = None;
        // The nop lies in one aligned quadword.
        self.asm.align_with_traps(8);
        self.functions.push(FunctionPlace {
            start: function.start as u32,
            offset: self.asm.pos() as u32,
            is_inlined: function.is_inlined,
        });
        if self.mode == Mode::Native {
            self.asm.nop5();
        }
        let inner = self.frame.prologue(&mut self.asm);
        let body = self.asm.pos();
        if function.has_may_goto {
            // The kernel's BPF_MAX_LOOPS.
            self.asm
                .store_imm(MemSize::Dw, self.frame.budget(), 8 << 20);
        }
        let landing = if self.frame.is_boundary {
            Some(self.enter_boundary())
        } else {
            None
        };
        if function.is_callback {
            self.count_stop(function.start);
        }
        self.slots(function.start..function.end)?;
        if let Some(landing) = landing {
            self.land(index, landing)?;
        }
        self.stop_stubs()?;
        Ok(if self.frame.is_shared { body } else { inner })
    }

    pub(crate) fn slot_offsets(&self, slots: std::ops::Range<usize>) -> &[u32] {
        &self.slot_offsets[slots]
    }

    pub(crate) fn set_slot_offsets(&mut self, from: usize, offsets: &[u32]) {
        self.slot_offsets[from..from + offsets.len()].copy_from_slice(offsets);
    }

    /// Whether helpers call the function being written.
    pub(crate) fn is_callback(&self) -> bool {
        self.plan.functions[self.current].is_callback
    }

    /// Whether the rules apply.
    pub(crate) fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// The slot behind the function being written, if `slot` is in it.
    pub(crate) fn function_end(&self, slot: usize) -> Option<usize> {
        let function = &self.plan.functions[self.current];
        (function.start..function.end)
            .contains(&slot)
            .then_some(function.end)
    }

    fn decode(&self, slot: usize) -> Result<Insn, JitError> {
        match decode_xlated(self.insns, slot) {
            Ok((insn, _)) => Ok(insn),
            Err(cause) => Err(JitError::Malformed {
                slot,
                what: cause.to_string(),
            }),
        }
    }

    /// Whether the code of the rule is to be wrong.
    pub(crate) fn is_planted(&self, rule: crate::fuse::Rule) -> bool {
        self.planted_fault == Some(rule as usize)
    }

    /// Counts a use of a rule.
    pub(crate) fn hit(&mut self, rule: crate::fuse::Rule) {
        self.count_hit(rule);
        if self.is_planted(rule) {
            self.asm.step(Width::W64, RAX, Arith::Add);
        }
    }

    /// Counts a use of a rule that has a fault of its own to plant.
    pub(crate) fn count_hit(&mut self, rule: crate::fuse::Rule) {
        self.rule_hits[rule as usize] += 1;
    }

    /// The target of the current slot. Slots are asked in ascending order.
    pub(crate) fn target(&mut self, slot: usize) -> Option<Target> {
        let sites = &self.linked.sites;
        while sites
            .get(self.next_site)
            .is_some_and(|site| (site.slot as usize) < slot)
        {
            self.next_site += 1;
        }
        let site = sites.get(self.next_site)?;
        (site.slot as usize == slot).then_some(site.target)
    }

    /// The operand as the hardware takes it; a blinded immediate comes in r11.
    pub(crate) fn operand(&mut self, src: Operand) -> Src {
        match src {
            Operand::Reg(reg) => Src::Reg(X::of(reg)),
            Operand::Imm(imm) if self.blinding.is_some() => {
                let mask = self.random() as i32;
                self.asm.mov_imm(R11, i64::from(imm ^ mask) as u64);
                self.asm.arith_ri(Arith::Xor, Width::W64, R11, mask);
                Src::Reg(R11)
            }
            Operand::Imm(imm) => Src::Imm(imm),
        }
    }

    pub(crate) fn is_blinding(&self) -> bool {
        self.blinding.is_some()
    }

    /// xorshift64*: the values only have to be unknown to the program's author.
    fn random(&mut self) -> u64 {
        let Some(mut state) = self.blinding else {
            return 0;
        };
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.blinding = Some(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// The value of a load of 64 bits whose other fields are empty, without the decoder.
    fn plain_value(&self, slot: usize, raw: RawInsn) -> Option<u64> {
        let next = self.insns.get(slot + 1)?;
        let is_plain = (raw.src(), raw.off, next.code, next.regs, next.off) == (0, 0, 0, 0, 0);
        is_plain.then(|| u64::from(raw.imm as u32) | u64::from(next.imm as u32) << 32)
    }

    fn load_imm64(&mut self, slot: usize, raw: RawInsn) -> Result<(), JitError> {
        // Rewrites may keep in the slots what describes the object; with a site only the destination counts.
        if let Some(target) = self.target(slot) {
            let (Target::Imm64(value), Some(dst)) = (target, Reg::new(raw.dst())) else {
                return Err(JitError::Unresolved { slot });
            };
            self.asm.mov_imm(X::of(dst), value);
            return Ok(());
        }
        if let (Some(value), Some(dst)) = (self.plain_value(slot, raw), Reg::new(raw.dst()))
            && !self.is_blinding()
        {
            self.asm.mov_imm(X::of(dst), value);
            return Ok(());
        }
        let Insn::LoadImm64 { dst, value } = self.decode(slot)? else {
            return Err(JitError::Unresolved { slot });
        };
        let dst = X::of(dst);
        match value {
            Imm64::Value(value) if self.is_blinding() => {
                let mask = self.random() ^ self.random() << 32;
                self.asm.mov_imm64(dst, value ^ mask);
                self.asm.mov_imm64(R11, mask);
                self.asm.arith_rr(Arith::Xor, Width::W64, dst, R11);
            }
            Imm64::Value(value) => self.asm.mov_imm(dst, value),
            Imm64::Func(distance) => {
                let start = (slot as i64 + 1 + i64::from(distance)) as usize;
                let Some(function) = self.linked.subprog_at(start) else {
                    // `plan` let it pass: a function that no path reaches.
                    self.asm.mov_imm(dst, 0);
                    return Ok(());
                };
                let patch = self.asm.mov_imm64(dst, 0);
                self.callbacks.push((patch, function as u32));
            }
            Imm64::MapFd(_)
            | Imm64::MapValue { .. }
            | Imm64::BtfId { .. }
            | Imm64::MapIdx(_)
            | Imm64::MapIdxValue { .. } => return Err(JitError::Unresolved { slot }),
        }
        Ok(())
    }

    /// Ends the function: an epilogue in place, or a jump back to one where that is shorter.
    fn exit(&mut self, _slot: usize) {
        if let Some(epilogue) = self.epilogue {
            let distance = epilogue as i64 - (self.asm.pos() as i64 + 2);
            let size = self.frame.epilogue_bytes() + if self.frame.is_boundary { 32 } else { 0 };
            if (distance >= -128 && size > 2) || size > 5 + 4 {
                return self.asm.jump_back(epilogue, None);
            }
        }
        self.epilogue = Some(self.asm.pos());
        if self.frame.is_boundary {
            self.leave_boundary();
        }
        self.frame.epilogue(&mut self.asm);
    }

    /// Ends the function from inside an instruction, with r0 in rax.
    pub(crate) fn exit_here(&mut self) {
        self.exit(0);
    }

    // Jumps to slots.

    /// Jumps to `target`, on a condition or always.
    pub(crate) fn jump_to(&mut self, slot: usize, target: usize, cond: Option<Cond>) {
        let slot = self.origin.unwrap_or(slot);
        if target <= slot {
            let there = self.slot_offsets[target] as usize;
            return self.asm.jump_back(there, cond);
        }
        let between = self.slots[(slot + 1).min(target)].estimate - self.slots[target].estimate;
        let is_short = between < self.short_below;
        let patch = match (is_short, cond) {
            (true, Some(cond)) => self.asm.jcc8(cond),
            (true, None) => self.asm.jmp8(),
            (false, Some(cond)) => self.asm.jcc32(cond),
            (false, None) => self.asm.jmp32(),
        };
        self.pending.push(PendingJump {
            patch,
            is_short,
            target: target as u32,
        });
    }

    /// `call rel32` of a function of this program.
    pub(crate) fn call_function(&mut self, function: usize) {
        let patch = self.asm.call();
        self.pending_calls.push((patch, function as u32));
    }

    /// `call rel32` of an absolute address.
    pub(crate) fn call_absolute(&mut self, address: usize) {
        let patch = self.asm.call();
        self.far.push((patch, address as u64));
    }

    /// The stub through which a tail call enters; `inner` is what [`Emitter::function`] gave for the main program.
    fn tail_entry(&mut self, inner: usize) -> u32 {
        if self.frame.is_shared {
            return inner as u32;
        }
        let here = self.asm.pos();
        let patch = self.asm.call();
        self.asm.bind32(patch, inner);
        let patch = self.asm.jmp32();
        self.shared_end = Some(patch);
        here as u32
    }
}
