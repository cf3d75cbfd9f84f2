//! Loads and stores: plain, probing (0 where the address faults), arena.
//!
//! In checked mode every access first calls the check routine, which does not return from a bad one.

use ring3_isa::{LoadMode, MemSize, Operand, Width};
use ring3_runtime::Access;
use ring3_runtime::extable::{FaultEntry, Register};

use crate::asm::{Arith, Cond, Mem};
use crate::emit::{Emitter, JitError, Src};
use crate::frame::Mode;
use crate::regs::{R9, R11, X};

impl Emitter<'_> {
    /// `dst = *(size *)mem`
    pub(crate) fn load(&mut self, size: MemSize, mode: LoadMode, dst: X, mem: Mem) {
        if self.mode == Mode::Checked {
            self.check_access(mem, size, Access::Read);
        }
        self.plain_load(size, mode, dst, mem);
    }

    fn plain_load(&mut self, size: MemSize, mode: LoadMode, dst: X, mem: Mem) {
        match mode {
            LoadMode::ZeroExtend => self.asm.load(size, dst, mem),
            LoadMode::SignExtend => self.asm.load_sx(size, dst, mem),
        }
    }

    /// `*(size *)mem = src`
    pub(crate) fn store(&mut self, size: MemSize, mem: Mem, src: Operand) {
        if self.mode == Mode::Checked {
            self.check_access(mem, size, Access::Write);
        }
        match self.operand(src) {
            Src::Reg(src) => self.asm.store(size, mem, src),
            Src::Imm(imm) => self.asm.store_imm(size, mem, imm),
        }
    }

    /// A load that reads 0 where it faults.
    pub(crate) fn probe_load(&mut self, size: MemSize, mode: LoadMode, dst: X, src: X, off: i16) {
        self.faulting_load(size, mode, dst, Mem::at(src, off.into()));
    }

    fn faulting_load(&mut self, size: MemSize, mode: LoadMode, dst: X, mem: Mem) {
        if self.mode == Mode::Checked {
            self.check_access(mem, size, Access::Read);
        }
        let before = self.asm.pos();
        self.plain_load(size, mode, dst, mem);
        self.note_fault(before, Some(dst));
    }

    /// The instruction from `before` to here may fault.
    fn note_fault(&mut self, before: usize, clear: Option<X>) {
        self.faults.push(FaultEntry {
            insn_offset: before as u32,
            resume_offset: self.asm.pos() as u32,
            clear: clear.and_then(|register| Register::new(register.0)),
        });
    }

    fn arena_base(&mut self, slot: usize) -> Result<(), JitError> {
        let arena = self.linked.arena.ok_or(JitError::Unsupported {
            slot,
            what: "arena access without an arena",
        })?;
        self.asm.mov_imm(R11, arena.base);
        Ok(())
    }

    /// The address `arena base + low half of offset + off` as an operand. Scratch: r9, r11.
    fn arena_operand(&mut self, slot: usize, offset: X, off: i16) -> Result<Mem, JitError> {
        self.arena_base(slot)?;
        self.asm.mov_rr(Width::W32, R9, offset);
        Ok(Mem::indexed(R11, R9, 0, off.into()))
    }

    pub(crate) fn arena_load(
        &mut self,
        slot: usize,
        size: MemSize,
        mode: LoadMode,
        dst: X,
        src: X,
        off: i16,
    ) -> Result<(), JitError> {
        let mem = self.arena_operand(slot, src, off)?;
        self.faulting_load(size, mode, dst, mem);
        Ok(())
    }

    pub(crate) fn arena_store(
        &mut self,
        slot: usize,
        size: MemSize,
        dst: X,
        off: i16,
        src: Operand,
    ) -> Result<(), JitError> {
        let mem = self.arena_operand(slot, dst, off)?;
        let before = self.asm.pos();
        // Not blinded: both scratch registers are taken, and the verifier's own stores are few.
        match src {
            Operand::Reg(src) => self.asm.store(size, mem, X::of(src)),
            Operand::Imm(imm) => self.asm.store_imm(size, mem, imm),
        }
        self.note_fault(before, None);
        Ok(())
    }

    pub(crate) fn arena_atomic(
        &mut self,
        slot: usize,
        op: ring3_isa::AtomicOp,
        size: MemSize,
        base: X,
        off: i16,
        value: X,
    ) -> Result<(), JitError> {
        // The loops of fetching operations use r9 and r11, so the address goes to r10, which a program with arena atomics must leave free.
        if !self.frame.ax_is_free {
            return Err(JitError::Unsupported {
                slot,
                what: "arena atomics beside rewrites that use r11",
            });
        }
        let mem = self.arena_operand(slot, base, off)?;
        self.asm.lea(Width::W64, crate::regs::R10, mem);
        // DIVERGES: Linux skips an arena atomic that faults; here it is a fault of the process, as pages of an arena that the host touches are
        // always mapped by then.
        self.atomic(op, size, Mem::at(crate::regs::R10, 0), value);
        Ok(())
    }

    /// `addr_space_cast`: into the user's view of the arena (null stays null), or to the low half.
    pub(crate) fn addr_space_cast(
        &mut self,
        slot: usize,
        dst: X,
        src: X,
        dst_as: u16,
    ) -> Result<(), JitError> {
        if dst_as == 0 {
            self.asm.mov_rr(Width::W32, dst, src);
            return Ok(());
        }
        let arena = self.linked.arena.ok_or(JitError::Unsupported {
            slot,
            what: "address space cast without an arena",
        })?;
        self.asm.mov_rr(Width::W32, dst, src);
        self.asm.mov_imm(R11, arena.user_base & !0xffff_ffff);
        self.asm.test_rr(Width::W32, dst, dst);
        let null = self.asm.jcc8(Cond::E);
        self.asm.arith_rr(Arith::Or, Width::W64, dst, R11);
        self.asm.bind8(null);
        Ok(())
    }
}
