//! The walk over the slots of a function: what an instruction is, and which way it goes to its code.
//!
//! A slot is left out if nobody needs it, else given to a rule that may begin there (`fuse`), else to the table of common instructions (`quick`), else
//! decoded and given to the file of its kind.

use ring3_isa::{
    CallTarget as CallName, EndianOp, Insn, InternalInsn, MemSize, RawInsn, Reg, Width,
    decode_xlated,
};

use super::{Emitter, JitError, SHORT_BELOW_AGAIN};
use crate::asm::Mem;
use crate::regs::X;

impl Emitter<'_> {
    /// The slots of a function. A function of its own, since all that is common happens in its loop.
    #[inline(never)]
    pub(super) fn slots(&mut self, range: std::ops::Range<usize>) -> Result<(), JitError> {
        let mut slot = range.start;
        while slot < range.end {
            slot += self.slot(slot)?;
        }
        Ok(())
    }

    /// The instruction at `slot` and those fused with it; returns the slots consumed.
    #[inline(always)]
    fn slot(&mut self, slot: usize) -> Result<usize, JitError> {
        self.slot_offsets[slot] = self.asm.pos() as u32;
        let (insns, slots) = (self.insns, self.slots);
        let raw = insns[slot];
        if self.stops.is_some() && crate::stop::jumps_back(raw) {
            self.count_stop(slot);
        }
        if self.is_quick
            && let (Some([raw, next]), Some([here, behind])) =
                (insns[slot..].first_chunk(), slots[slot..].first_chunk())
        {
            if here.effect.is_unread(behind.effect.live())
                && let Some(count) = self.unread(slot, *raw)
            {
                return Ok(count);
            }
            if crate::fuse::may_begin(*raw, *next)
                && let Some(count) = self.fused(slot)
            {
                let here = self.asm.pos() as u32;
                self.slot_offsets[slot + 1..slot + count].fill(here);
                return Ok(count);
            }
            if self.quick(slot, *raw) {
                return Ok(1);
            }
        }
        self.rare_slot(slot, raw)
    }

    /// An instruction that goes the long way; returns the slots consumed.
    #[inline(never)]
    fn rare_slot(&mut self, slot: usize, raw: RawInsn) -> Result<usize, JitError> {
        if raw.is_ld_imm64() {
            if self.plan.targets.contains(slot + 1) {
                let what = "jump into an instruction".to_owned();
                return Err(JitError::Malformed {
                    slot: slot + 1,
                    what,
                });
            }
            self.load_imm64(slot, raw)?;
            self.slot_offsets[slot + 1] = self.slot_offsets[slot];
            return Ok(2);
        }
        if self.control(slot, raw)? {
            return Ok(1 + usize::from(std::mem::take(&mut self.has_consumed_next)));
        }
        // By reference: moving an instruction would read in one piece what the decoder has just written in several.
        match &decode_xlated(self.insns, slot) {
            Ok((insn, _)) => self.insn(slot, insn)?,
            Err(cause) => {
                return Err(JitError::Malformed {
                    slot,
                    what: cause.to_string(),
                });
            }
        }
        Ok(1 + usize::from(std::mem::take(&mut self.has_consumed_next)))
    }

    /// Calls, jumps and exits, if their other fields are empty: half of what goes the long way, without the decoder.
    fn control(&mut self, slot: usize, raw: RawInsn) -> Result<bool, JitError> {
        const GOTO: u8 = 0x05;
        const CALL: u8 = 0x85;
        const EXIT: u8 = 0x95;
        const OF_PROGRAM: u8 = 0x10;
        match (raw.code, raw.regs) {
            (GOTO, 0) if raw.imm == 0 => self.goto(slot, raw.off.into()),
            (CALL, 0) if raw.off == 0 => self.call(slot)?,
            (CALL, OF_PROGRAM) if raw.off == 0 => self.call_subprog(slot, raw.imm)?,
            (EXIT, 0) if raw.off == 0 && raw.imm == 0 => self.exit(slot),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The slot behind `slot` needs no code of its own.
    pub(crate) fn consume_next(&mut self, slot: usize) {
        self.slot_offsets[slot + 1] = self.asm.pos() as u32;
        self.has_consumed_next = true;
    }

    /// The code of `slot` once more, as part of that of `origin`.
    pub(crate) fn slot_from(&mut self, slot: usize, origin: usize) -> Result<usize, JitError> {
        let before = (self.origin.replace(origin), self.short_below);
        self.short_below = self.short_below.min(SHORT_BELOW_AGAIN);
        let result = self.slot(slot);
        (self.origin, self.short_below) = before;
        result
    }

    /// Leaves out an instruction that only computes what nobody reads; returns the slots consumed. What is live at the second slot of a load is
    /// what is live behind it.
    fn unread(&mut self, slot: usize, raw: RawInsn) -> Option<usize> {
        let count = if raw.is_ld_imm64() { 2 } else { 1 };
        if count == 2 && self.plan.targets.contains(slot + 1) {
            return None;
        }
        self.slot_offsets[slot + count - 1] = self.slot_offsets[slot];
        self.hit(crate::fuse::Rule::Unread);
        Some(count)
    }

    /// The instructions of a small function in place of its call.
    pub(crate) fn inline_function(&mut self, function: usize) -> Result<(), JitError> {
        let function = self.plan.functions[function];
        let (begin, exit) = (function.start, function.end - 1);
        // The slots have, or will have, code of their own.
        let offsets = self.slot_offsets(begin..function.end).to_vec();
        let next_site = self.next_site;
        self.next_site = self
            .linked
            .sites
            .partition_point(|site| (site.slot as usize) < begin);
        let mut slot = begin;
        while slot < exit {
            slot += self.slot(slot)?;
        }
        self.next_site = next_site;
        self.set_slot_offsets(begin, &offsets);
        self.hit(crate::fuse::Rule::InlineLeaf);
        Ok(())
    }

    fn insn(&mut self, slot: usize, insn: &Insn) -> Result<(), JitError> {
        match *insn {
            Insn::Alu {
                width,
                op,
                dst,
                src,
            } => {
                let src = self.operand(src);
                self.alu(slot, width, op, X::of(dst), src);
            }
            Insn::Neg { width, dst } => self.neg(width, X::of(dst)),
            Insn::Movsx {
                width,
                from,
                dst,
                src,
            } => self.asm.movsx_rr(from, width, X::of(dst), X::of(src)),
            Insn::Endian { op, size, dst } => self.endian(op, size, X::of(dst)),
            Insn::AddrSpaceCast {
                dst, src, dst_as, ..
            } => self.addr_space_cast(slot, X::of(dst), X::of(src), dst_as)?,
            // Two slots: `slot` has taken it.
            Insn::LoadImm64 { .. } => return Err(JitError::Unresolved { slot }),
            Insn::LoadAbs { size, imm } => self.load_packet(slot, size, None, imm)?,
            Insn::LoadInd { size, src, imm } => {
                self.load_packet(slot, size, Some(X::of(src)), imm)?
            }
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            } => {
                if self
                    .linked
                    .program
                    .facts
                    .get(slot)
                    .is_some_and(|facts| facts.probe_mem)
                {
                    self.probe_load(size, mode, X::of(dst), X::of(src), off);
                } else {
                    self.load(size, mode, X::of(dst), Mem::at(X::of(src), off.into()));
                }
            }
            Insn::Store {
                size,
                dst,
                off,
                src,
            } => self.store(size, Mem::at(X::of(dst), off.into()), src),
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            } => {
                let (base, value) = atomic_operands(op, dst, src);
                self.atomic(op, size, Mem::at(base, off.into()), value);
            }
            Insn::Jmp {
                width,
                op,
                dst,
                src,
                off,
            } => {
                let src = self.operand(src);
                self.jmp(slot, width, op, X::of(dst), src, off);
            }
            Insn::Ja { off } => self.goto(slot, off.into()),
            Insn::Jal { off } => self.goto(slot, off),
            Insn::MayGoto { off } => self.may_goto(slot, off),
            Insn::Call(CallName::Subprog(distance)) => self.call_subprog(slot, distance)?,
            Insn::Call(CallName::Helper(_) | CallName::Kfunc { .. }) => self.call(slot)?,
            Insn::Exit => self.exit(slot),
            Insn::Internal(insn) => self.internal(slot, insn)?,
        }
        Ok(())
    }

    fn internal(&mut self, slot: usize, insn: InternalInsn) -> Result<(), JitError> {
        match insn {
            // Programs run with the rights of their process: there is no boundary for speculation to cross.
            InternalInsn::Nospec => {}
            InternalInsn::ProbeLoad {
                size,
                mode,
                dst,
                src,
                off,
            } => {
                self.probe_load(size, mode, X::of(dst), X::of(src), off);
            }
            InternalInsn::ArenaLoad {
                size,
                mode,
                dst,
                src,
                off,
            } => {
                self.arena_load(slot, size, mode, X::of(dst), X::of(src), off)?;
            }
            InternalInsn::ArenaStore {
                size,
                dst,
                off,
                src,
            } => self.arena_store(slot, size, X::of(dst), off, src)?,
            InternalInsn::ArenaAtomic {
                op,
                size,
                dst,
                src,
                off,
            } => {
                let (base, value) = atomic_operands(op, dst, src);
                self.arena_atomic(slot, op, size, base, off, value)?;
            }
            InternalInsn::PercpuAddr { dst, src } => {
                self.percpu_address(slot, X::of(dst), X::of(src))?;
            }
            InternalInsn::TailCall => self.call(slot)?,
        }
        Ok(())
    }

    fn endian(&mut self, op: EndianOp, size: MemSize, dst: X) {
        match (op, size) {
            (EndianOp::ToLe, MemSize::H) => self.asm.movzx_rr(MemSize::H, dst, dst),
            (EndianOp::ToLe, MemSize::W) => self.asm.mov_rr(Width::W32, dst, dst),
            (EndianOp::ToLe, MemSize::Dw) => {}
            (EndianOp::ToBe | EndianOp::Swap, MemSize::H) => {
                self.asm.swap16(dst);
                self.asm.movzx_rr(MemSize::H, dst, dst);
            }
            (EndianOp::ToBe | EndianOp::Swap, MemSize::W) => self.asm.bswap(Width::W32, dst),
            (EndianOp::ToBe | EndianOp::Swap, MemSize::Dw) => self.asm.bswap(Width::W64, dst),
            // The decoder knows no swap of one byte.
            (_, MemSize::B) => self.asm.movzx_rr(MemSize::B, dst, dst),
        }
    }
}

/// Base and value registers of an atomic instruction: a load has them the other way round.
fn atomic_operands(op: ring3_isa::AtomicOp, dst: Reg, src: Reg) -> (X, X) {
    match op {
        ring3_isa::AtomicOp::LoadAcquire => (X::of(src), X::of(dst)),
        _ => (X::of(dst), X::of(src)),
    }
}
