//! `Linked` to `Program`: every instruction becomes one step, jumps become distances in steps, sites become addresses or indices.
//!
//! What `step` relies on without looking is established here, also for unverified programs: register numbers below 12, jumps and calls to
//! first slots of instructions, no end of the program that is not a jump or `exit`, indices inside their tables.

use std::fmt;
use std::sync::Arc;

use ring3_isa::{
    CallTarget as CallName, EndianOp, Imm64, Insn, InternalInsn, LoadMode, MemSize, Operand, Reg,
    RegSet, Width, decode_xlated,
};
use ring3_runtime::{
    CallKind, CallTarget, Callback, GivenHelperFn, HelperFn, InlineCall, Linked, Target,
};
use ring3_uapi::Errno;

use crate::op::{Op, Step, alu_op, jmp_op};
use crate::program::{AtomicSite, CallbackRecord, Inner, LookupSite, PacketSite, Program};
use crate::run::Unchecked;
use crate::step::handler;

/// Why a program cannot be interpreted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// `ENOTSUPP`: the interpreter cannot run it; `EINVAL`: it is not what a verifier gives.
    pub errno: Errno,
    /// The instruction slot.
    pub slot: usize,
    /// What about it.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "insn {}: {}", self.slot, self.message)
    }
}

impl std::error::Error for LoadError {}

fn invalid(slot: usize, message: impl Into<String>) -> LoadError {
    LoadError {
        errno: Errno::EINVAL,
        slot,
        message: message.into(),
    }
}

fn unsupported(slot: usize, message: impl Into<String>) -> LoadError {
    LoadError {
        errno: Errno::ENOTSUPP,
        slot,
        message: message.into(),
    }
}

impl Program {
    /// Prepares a program.
    ///
    /// # Errors
    /// [`LoadError`] with `ENOTSUPP` for a call that nothing was linked to and for atomic operations in an arena, with `EINVAL` for
    /// undecodable instructions and for jumps out of the program.
    pub fn load(linked: &Linked) -> Result<Program, LoadError> {
        let mut build = Build::new(linked)?;
        build.instructions()?;
        build.finish()
    }
}

/// A program in the making.
struct Build<'a> {
    linked: &'a Linked,
    /// Step of each slot; `None` for second slots.
    step_of_slot: Vec<Option<u32>>,
    slots: Vec<u32>,
    steps: Vec<Step>,
    atomics: Vec<AtomicSite>,
    lookups: Vec<LookupSite>,
    packet_loads: Vec<PacketSite>,
    tail_calls: Vec<ring3_runtime::TailCallTable>,
    given: Vec<(GivenHelperFn, u64)>,
    rare: Vec<Insn>,
    /// Whether functions leave r6 to r9 alone, as far as asked.
    keeps: Vec<Option<bool>>,
    /// First steps of the functions whose address is taken.
    callbacks: Vec<usize>,
    /// Steps that load a callback's address, with its index.
    callback_loads: Vec<(usize, usize)>,
}

impl<'a> Build<'a> {
    /// Finds where instructions begin.
    fn new(linked: &'a Linked) -> Result<Self, LoadError> {
        let insns = &linked.program.insns;
        let mut step_of_slot = vec![None; insns.len()];
        let mut slots = Vec::with_capacity(insns.len());
        let mut slot = 0;
        while slot < insns.len() {
            step_of_slot[slot] = Some(slots.len() as u32);
            slots.push(slot as u32);
            slot += if insns[slot].is_ld_imm64() { 2 } else { 1 };
        }
        if slots.is_empty() {
            return Err(invalid(0, "the program is empty"));
        }
        let steps = Vec::with_capacity(slots.len());
        Ok(Build {
            linked,
            step_of_slot,
            slots,
            steps,
            atomics: Vec::new(),
            lookups: Vec::new(),
            packet_loads: Vec::new(),
            tail_calls: Vec::new(),
            given: Vec::new(),
            rare: Vec::new(),
            keeps: Vec::new(),
            callbacks: Vec::new(),
            callback_loads: Vec::new(),
        })
    }

    fn instructions(&mut self) -> Result<(), LoadError> {
        for at in 0..self.slots.len() {
            let slot = self.slots[at] as usize;
            let (insn, _) = decode_xlated(&self.linked.program.insns, slot)
                .map_err(|cause| invalid(slot, cause.to_string()))?;
            let step = self.instruction(slot, insn)?;
            self.steps.push(step);
        }
        let last = self.steps.len() - 1;
        match self.steps[last].op {
            Op::Exit | Op::Jump | Op::Throw => Ok(()),
            _ => Err(invalid(
                self.slots[last] as usize,
                "the program does not end with exit or a jump",
            )),
        }
    }

    fn instruction(&mut self, slot: usize, insn: Insn) -> Result<Step, LoadError> {
        let fact = self.linked.fact(slot);
        let step = match insn {
            Insn::Alu {
                width,
                op,
                dst,
                src,
            } => operands(alu_op(width, op, src), dst, src),
            Insn::Neg {
                width: Width::W64,
                dst,
            } => unary(Op::Neg64, dst),
            Insn::Neg {
                width: Width::W32,
                dst,
            } => unary(Op::Neg32, dst),
            Insn::Movsx {
                width,
                from,
                dst,
                src,
            } => {
                let op = match (width, from) {
                    (Width::W64, MemSize::B) => Op::Movsx8To64,
                    (Width::W64, MemSize::H) => Op::Movsx16To64,
                    (Width::W64, MemSize::W) => Op::Movsx32To64,
                    (Width::W32, MemSize::B) => Op::Movsx8To32,
                    (Width::W32, MemSize::H) => Op::Movsx16To32,
                    (Width::W32, MemSize::W) => Op::Mov32,
                    (_, MemSize::Dw) => Op::Mov64,
                };
                operands(op, dst, Operand::Reg(src))
            }
            Insn::Endian { op, size, dst } => unary(endian(op, size), dst),
            Insn::AddrSpaceCast {
                dst, src, dst_as, ..
            } => self.cast(slot, dst, src, dst_as)?,
            Insn::LoadImm64 { dst, value } => self.load_imm64(slot, dst, value)?,
            Insn::LoadAbs { size, imm } => self.packet_load(slot, size, None, imm)?,
            Insn::LoadInd { size, src, imm } => self.packet_load(slot, size, Some(src), imm)?,
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            } if fact.arena => self.rare(
                slot,
                InternalInsn::ArenaLoad {
                    size,
                    mode,
                    dst,
                    src,
                    off,
                },
            )?,
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            } if fact.probe_mem => self.rare(
                slot,
                InternalInsn::ProbeLoad {
                    size,
                    mode,
                    dst,
                    src,
                    off,
                },
            )?,
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            } => Step {
                off: off.into(),
                ..operands(load(size, mode), dst, Operand::Reg(src))
            },
            Insn::Store {
                size,
                dst,
                off,
                src,
            } if fact.arena => self.rare(
                slot,
                InternalInsn::ArenaStore {
                    size,
                    dst,
                    off,
                    src,
                },
            )?,
            Insn::Store {
                size,
                dst,
                off,
                src,
            } => Step {
                off: off.into(),
                ..operands(store(size, src), dst, src)
            },
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            } if fact.arena => self.rare(
                slot,
                InternalInsn::ArenaAtomic {
                    op,
                    size,
                    dst,
                    src,
                    off,
                },
            )?,
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            } => {
                self.atomics.push(AtomicSite { op, size });
                let imm = self.atomics.len() as u64 - 1;
                Step {
                    off: off.into(),
                    imm,
                    ..operands(Op::Atomic, dst, Operand::Reg(src))
                }
            }
            Insn::Jmp {
                width,
                op,
                dst,
                src,
                off,
            } => {
                let off = self.distance(slot, off.into())?;
                Step {
                    off,
                    ..operands(jmp_op(width, op, src), dst, src)
                }
            }
            Insn::Ja { off } => self.jump(Op::Jump, slot, off.into())?,
            Insn::Jal { off } => self.jump(Op::Jump, slot, off)?,
            Insn::MayGoto { off } => self.jump(Op::MayGoto, slot, off.into())?,
            Insn::Call(CallName::Subprog(distance)) => self.call_subprog(slot, distance)?,
            Insn::Call(CallName::Helper(id)) => self.call(slot, &format!("helper {id}"))?,
            Insn::Call(CallName::Kfunc { id, .. }) => {
                self.call(slot, &format!("kernel function with BTF id {id}"))?
            }
            Insn::Exit => unary(Op::Exit, Reg::R0),
            Insn::Internal(InternalInsn::TailCall) => self.call(slot, "tail call")?,
            Insn::Internal(InternalInsn::Nospec) => unary(Op::Nop, Reg::R0),
            Insn::Internal(insn) => self.rare(slot, insn)?,
        };
        Ok(step)
    }

    /// Steps from the step at `slot` to that at `slot + 1 + distance`.
    fn distance(&self, slot: usize, distance: i32) -> Result<i32, LoadError> {
        let target = self.target(slot, distance)?;
        let here = self.step_of_slot[slot].unwrap_or_default();
        Ok(target as i32 - here as i32)
    }

    fn target(&self, slot: usize, distance: i32) -> Result<u32, LoadError> {
        let target = slot as i64 + 1 + i64::from(distance);
        let step = usize::try_from(target)
            .ok()
            .and_then(|target| *self.step_of_slot.get(target)?);
        step.ok_or_else(|| {
            invalid(
                slot,
                format!("no instruction begins at {target}, the target of this one"),
            )
        })
    }

    fn jump(&self, op: Op, slot: usize, distance: i32) -> Result<Step, LoadError> {
        Ok(Step {
            off: self.distance(slot, distance)?,
            ..unary(op, Reg::R0)
        })
    }

    /// A call of a function of the program; `src` says whether it changes registers that its caller keeps.
    fn call_subprog(&mut self, slot: usize, distance: i32) -> Result<Step, LoadError> {
        let start = (slot as i64 + 1 + i64::from(distance)) as usize;
        if self.linked.subprog_at(start).is_none() && self.linked.names_removed_function(slot) {
            // No path gets here.
            return Ok(unary(Op::Exit, Reg::R0));
        }
        let keeps = match self.linked.subprog_at(start) {
            Some(subprog) => self.keeps_callee_saved(subprog),
            None => false,
        };
        let op = if keeps {
            Op::CallLeavingKept
        } else {
            Op::CallSubprog
        };
        self.jump(op, slot, distance)
    }

    /// Whether a function itself writes none of r6 to r9 (those it calls restore theirs) and tail-calls no program that may.
    fn keeps_callee_saved(&mut self, subprog: usize) -> bool {
        if let Some(known) = self.keeps.get(subprog).copied().flatten() {
            return known;
        }
        let slots = self.linked.subprog_slots(subprog).unwrap_or_default();
        let keeps = slots
            .filter(|slot| self.step_of_slot[*slot].is_some())
            .all(|slot| {
                let tail_call = matches!(self.linked.target(slot), Some(Target::TailCall(_)));
                let insn = decode_xlated(&self.linked.program.insns, slot);
                let kept = |insn: Insn| {
                    let written = insn.uses().writes.bits();
                    written & RegSet::CALLEE_SAVED.bits() == 0
                };
                !tail_call && insn.is_ok_and(|(insn, _)| kept(insn))
            });
        if self.keeps.len() <= subprog {
            self.keeps.resize(subprog + 1, None);
        }
        self.keeps[subprog] = Some(keeps);
        keeps
    }

    fn load_imm64(&mut self, slot: usize, dst: Reg, value: Imm64) -> Result<Step, LoadError> {
        let linked = match self.linked.target(slot) {
            Some(Target::Imm64(value)) => Some(*value),
            _ => None,
        };
        let value = match (value, linked) {
            (_, Some(value)) | (Imm64::Value(value), None) => value,
            (Imm64::Func(_), None) if self.linked.names_removed_function(slot) => 0,
            (Imm64::Func(distance), None) => {
                let start = self.target(slot, distance)? as usize;
                self.callbacks.push(start);
                self.callback_loads
                    .push((self.steps.len(), self.callbacks.len() - 1));
                0
            }
            (
                Imm64::MapFd(_)
                | Imm64::MapValue { .. }
                | Imm64::BtfId { .. }
                | Imm64::MapIdx(_)
                | Imm64::MapIdxValue { .. },
                None,
            ) => {
                return Err(unsupported(
                    slot,
                    "nothing is linked to this map or variable",
                ));
            }
        };
        Ok(Step {
            imm: value,
            ..unary(Op::Mov64Imm, dst)
        })
    }

    fn packet_load(
        &mut self,
        slot: usize,
        size: MemSize,
        src: Option<Reg>,
        imm: i32,
    ) -> Result<Step, LoadError> {
        let Some(Target::LoadPacket(code)) = self.linked.target(slot) else {
            return Err(unsupported(slot, "nothing is linked to this packet load"));
        };
        self.packet_loads.push(PacketSite {
            code: *code,
            size,
            indirect: src.is_some(),
            imm,
        });
        let index = self.packet_loads.len() as u64 - 1;
        Ok(Step {
            imm: index,
            ..operands(
                Op::LoadPacket,
                Reg::R0,
                Operand::Reg(src.unwrap_or(Reg::R0)),
            )
        })
    }

    fn call(&mut self, slot: usize, what: &str) -> Result<Step, LoadError> {
        match self.linked.target(slot) {
            Some(Target::Call(target)) => Ok(self.call_step(target)),
            Some(Target::Inline(inline)) => Ok(self.inline_call(inline)),
            Some(Target::TailCall(site)) => {
                self.tail_calls.push(site.table);
                Ok(Step {
                    imm: self.tail_calls.len() as u64 - 1,
                    ..unary(Op::TailCall, Reg::R0)
                })
            }
            Some(Target::Imm64(_) | Target::LoadPacket(_)) | None => Err(unsupported(
                slot,
                format!("nothing is linked to this call ({what})"),
            )),
        }
    }

    fn inline_call(&mut self, inline: &InlineCall) -> Step {
        match *inline {
            InlineCall::ArrayLookup {
                base,
                stride,
                max_entries,
                ..
            } => {
                self.lookups.push(LookupSite {
                    base,
                    stride,
                    max_entries,
                });
                Step {
                    imm: self.lookups.len() as u64 - 1,
                    ..unary(Op::ArrayLookup, Reg::R0)
                }
            }
            InlineCall::ConstAddress { address, .. } => Step {
                imm: address,
                ..unary(Op::Mov64Imm, Reg::R0)
            },
            InlineCall::LoadU64 { address, .. } => Step {
                imm: address,
                ..unary(Op::LoadU64, Reg::R0)
            },
            InlineCall::PercpuArrayLookup { fallback, .. }
            | InlineCall::SmpProcessorId { fallback }
            | InlineCall::CurrentPidTgid { fallback }
            | InlineCall::PrandomU32 { fallback } => self.call_step(&fallback),
        }
    }

    fn call_step(&mut self, target: &CallTarget) -> Step {
        let code: HelperFn = target.code;
        let op = match target.kind {
            CallKind::Plain => Op::CallHelper,
            CallKind::TakesCallback => Op::CallWithCallback,
            CallKind::Throw => Op::Throw,
            CallKind::Given(word) => {
                // SAFETY: 1. what a call of this kind names is such a function.
                let code = unsafe { std::mem::transmute::<HelperFn, GivenHelperFn>(code) };
                self.given.push((code, word));
                return Step {
                    imm: self.given.len() as u64 - 1,
                    ..unary(Op::CallGiven, Reg::R0)
                };
            }
        };
        Step {
            imm: (code as *const ()).expose_provenance() as u64,
            ..unary(op, Reg::R0)
        }
    }

    fn cast(&self, slot: usize, dst: Reg, src: Reg, dst_as: u16) -> Result<Step, LoadError> {
        let arena = self
            .linked
            .arena
            .ok_or_else(|| invalid(slot, "an address space cast without an arena"))?;
        if dst_as == 0 {
            // To the kernel's side: the offset alone, which arena accesses take.
            return Ok(operands(Op::Mov32, dst, Operand::Reg(src)));
        }
        Ok(Step {
            imm: arena.user_base & !0xffff_ffff,
            ..operands(Op::CastToUser, dst, Operand::Reg(src))
        })
    }

    fn rare(&mut self, slot: usize, insn: InternalInsn) -> Result<Step, LoadError> {
        let (op, dst, src) = match insn {
            InternalInsn::ProbeLoad { dst, src, .. } => (Op::ProbeLoad, dst, Operand::Reg(src)),
            InternalInsn::ArenaLoad { dst, src, .. } => (Op::ArenaLoad, dst, Operand::Reg(src)),
            InternalInsn::ArenaStore { dst, src, .. } => (Op::ArenaStore, dst, src),
            InternalInsn::ArenaAtomic { .. } => {
                return Err(unsupported(
                    slot,
                    "the interpreter has no atomic operations in arenas",
                ));
            }
            InternalInsn::PercpuAddr { dst, src } => {
                let stride = self.linked.percpu_stride.ok_or_else(|| {
                    unsupported(
                        slot,
                        "address of a per-CPU variable without a distance between copies",
                    )
                })?;
                return Ok(Step {
                    imm: stride.into(),
                    ..operands(Op::PercpuAddr, dst, Operand::Reg(src))
                });
            }
            InternalInsn::Nospec | InternalInsn::TailCall => {
                return Err(invalid(slot, "this internal instruction has no operands"));
            }
        };
        if op != Op::ProbeLoad && self.linked.arena.is_none() {
            return Err(invalid(
                slot,
                "an arena access in a program without an arena",
            ));
        }
        self.rare.push(insn.into());
        Ok(Step {
            imm: self.rare.len() as u64 - 1,
            ..operands(op, dst, src)
        })
    }

    fn finish(self) -> Result<Program, LoadError> {
        let linked = self.linked;
        let exception_callback = match linked.program.exception_cb {
            Some(subprog) => {
                let start = linked
                    .subprog_slots(subprog as usize)
                    .map(|slots| slots.start);
                let step = start.and_then(|slot| *self.step_of_slot.get(slot)?);
                Some(step.ok_or_else(|| {
                    invalid(0, "the exception callback is no function of the program")
                })? as usize)
            }
            None => None,
        };
        let mut steps = self.steps.into_boxed_slice();
        crate::fuse::fuse(&mut steps);
        let inner = Arc::new_cyclic(|weak: &std::sync::Weak<Inner>| {
            let record = |start: usize| CallbackRecord {
                head: Callback::new(crate::run::run_callback),
                program: weak.as_ptr(),
                start,
            };
            let callbacks: Box<[CallbackRecord]> =
                self.callbacks.iter().map(|start| record(*start)).collect();
            for (step, index) in self.callback_loads {
                steps[step].imm = (&raw const callbacks[index]).expose_provenance() as u64;
            }
            Inner {
                steps,
                slots: self.slots.into_boxed_slice(),
                atomics: self.atomics.into_boxed_slice(),
                lookups: self.lookups.into_boxed_slice(),
                packet_loads: self.packet_loads.into_boxed_slice(),
                tail_calls: self.tail_calls.into_boxed_slice(),
                given: self.given.into_boxed_slice(),
                rare: self.rare.into_boxed_slice(),
                callbacks,
                exception_callback,
                arena: linked.arena,
            }
        });
        Ok(Program { inner })
    }
}

fn unary(op: Op, dst: Reg) -> Step {
    Step {
        handler: handler::<Unchecked>(op),
        imm: 0,
        off: 0,
        dst: dst.number(),
        src: 0,
        op,
    }
}

fn operands(op: Op, dst: Reg, src: Operand) -> Step {
    match src {
        Operand::Reg(src) => Step {
            src: src.number(),
            ..unary(op, dst)
        },
        Operand::Imm(imm) => Step {
            imm: imm as u64,
            ..unary(op, dst)
        },
    }
}

fn endian(op: EndianOp, size: MemSize) -> Op {
    // The host is little-endian, so `le` truncates and `be` and `bswap` are the same.
    match (op, size) {
        (EndianOp::ToLe, MemSize::Dw) | (_, MemSize::B) => Op::Nop,
        (EndianOp::ToLe, MemSize::H) => Op::Trunc16,
        (EndianOp::ToLe, MemSize::W) => Op::Trunc32,
        (EndianOp::ToBe | EndianOp::Swap, MemSize::H) => Op::Swap16,
        (EndianOp::ToBe | EndianOp::Swap, MemSize::W) => Op::Swap32,
        (EndianOp::ToBe | EndianOp::Swap, MemSize::Dw) => Op::Swap64,
    }
}

fn load(size: MemSize, mode: LoadMode) -> Op {
    match (mode, size) {
        (LoadMode::ZeroExtend, MemSize::B) => Op::Load8,
        (LoadMode::ZeroExtend, MemSize::H) => Op::Load16,
        (LoadMode::ZeroExtend, MemSize::W) => Op::Load32,
        (LoadMode::SignExtend, MemSize::B) => Op::LoadSx8,
        (LoadMode::SignExtend, MemSize::H) => Op::LoadSx16,
        (LoadMode::SignExtend, MemSize::W) => Op::LoadSx32,
        (_, MemSize::Dw) => Op::Load64,
    }
}

fn store(size: MemSize, src: Operand) -> Op {
    match (src, size) {
        (Operand::Reg(_), MemSize::B) => Op::Store8,
        (Operand::Reg(_), MemSize::H) => Op::Store16,
        (Operand::Reg(_), MemSize::W) => Op::Store32,
        (Operand::Reg(_), MemSize::Dw) => Op::Store64,
        (Operand::Imm(_), MemSize::B) => Op::Store8Imm,
        (Operand::Imm(_), MemSize::H) => Op::Store16Imm,
        (Operand::Imm(_), MemSize::W) => Op::Store32Imm,
        (Operand::Imm(_), MemSize::Dw) => Op::Store64Imm,
    }
}
