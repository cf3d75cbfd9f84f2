//! Stack, calls, jumps, and the distances that are filled in later; locked instructions.

use ring3_isa::Width;

use super::{Arith, Asm, Cond, LOCK, Mem, Op, Patch, op, op_0f};
use crate::regs::X;

impl Asm {
    pub(crate) fn push(&mut self, reg: X) {
        if reg.high() != 0 {
            self.put(0x41 | u64::from(0x50 | reg.low()) << 8, 2);
        } else {
            self.put(u64::from(0x50 | reg.low()), 1);
        }
    }

    pub(crate) fn pop(&mut self, reg: X) {
        if reg.high() != 0 {
            self.put(0x41 | u64::from(0x58 | reg.low()) << 8, 2);
        } else {
            self.put(u64::from(0x58 | reg.low()), 1);
        }
    }

    pub(crate) fn ret(&mut self) {
        self.put(0xc3, 1);
    }

    /// `call rel32` with the distance to be filled in.
    pub(crate) fn call(&mut self) -> Patch {
        self.put(0xe8, 5);
        Patch(self.pos as u32 - 4)
    }

    /// `jmp rel32` with the distance to be filled in.
    pub(crate) fn jmp32(&mut self) -> Patch {
        self.put(0xe9, 5);
        Patch(self.pos as u32 - 4)
    }

    /// `jmp rel8` with the distance to be filled in.
    pub(crate) fn jmp8(&mut self) -> Patch {
        self.put(0xeb, 2);
        Patch(self.pos as u32 - 1)
    }

    /// `jcc rel32` with the distance to be filled in.
    pub(crate) fn jcc32(&mut self, cond: Cond) -> Patch {
        self.put(0x0f | u64::from(0x80 | cond as u8) << 8, 6);
        Patch(self.pos as u32 - 4)
    }

    /// `jcc rel8` with the distance to be filled in.
    pub(crate) fn jcc8(&mut self, cond: Cond) -> Patch {
        self.put(u64::from(0x70 | cond as u8), 2);
        Patch(self.pos as u32 - 1)
    }

    /// Jumps to `target`, an offset before this one, in the shorter form that reaches.
    pub(crate) fn jump_back(&mut self, target: usize, cond: Option<Cond>) {
        let short = target as i64 - (self.pos as i64 + 2);
        if short >= -128 {
            let patch = match cond {
                Some(cond) => self.jcc8(cond),
                None => self.jmp8(),
            };
            self.set8(patch.0 as usize, short as u8);
        } else {
            let patch = match cond {
                Some(cond) => self.jcc32(cond),
                None => self.jmp32(),
            };
            self.bind32(patch, target);
        }
    }

    pub(crate) fn jmp_reg(&mut self, target: X) {
        self.head_reg(op(0xff, Width::W32), 4, target);
    }

    /// Lets a short forward jump end here.
    ///
    /// The caller knows that the distance is below 128: both ends are in one instruction's expansion.
    pub(crate) fn bind8(&mut self, patch: Patch) {
        let at = patch.0 as usize;
        let distance = self.pos - (at + 1);
        debug_assert!(
            distance < 128,
            "expansion of one instruction too long for a short jump"
        );
        self.set8(at, distance as u8);
    }

    /// Lets a near forward jump or call go to `target`, an offset in this buffer.
    pub(crate) fn bind32(&mut self, patch: Patch, target: usize) {
        let at = patch.0 as usize;
        self.set32(at, (target as i64 - (at as i64 + 4)) as u32);
    }

    /// `jmp [rip + 0]` followed by the address: reaches anywhere.
    pub(crate) fn far_jump(&mut self, target: u64) {
        self.put(0x25ff, 6);
        self.put(target, 8);
    }

    /// `sub qword fs:[offset], 1`
    pub(crate) fn step_thread_down(&mut self, offset: i32) {
        self.put(0x25_2c83_4864, 5);
        self.put(u64::from(offset as u32) | 1 << 32, 5);
    }

    /// `cmp dword fs:[offset], 0`
    pub(crate) fn compare_thread_with_zero(&mut self, offset: i32) {
        self.put(0x253c_8364, 4);
        self.put(u64::from(offset as u32), 5);
    }

    /// `lock arith [mem], src`
    pub(crate) fn lock_arith(&mut self, arith: Arith, width: Width, mem: Mem, src: X) {
        self.head_mem(
            Op {
                prefix: LOCK,
                ..op((arith as u8) << 3 | 1, width)
            },
            src.0,
            mem,
        );
    }

    pub(crate) fn lock_xadd(&mut self, width: Width, mem: Mem, src: X) {
        self.head_mem(
            Op {
                prefix: LOCK,
                ..op_0f(0xc1, width)
            },
            src.0,
            mem,
        );
    }

    pub(crate) fn lock_cmpxchg(&mut self, width: Width, mem: Mem, src: X) {
        self.head_mem(
            Op {
                prefix: LOCK,
                ..op_0f(0xb1, width)
            },
            src.0,
            mem,
        );
    }

    pub(crate) fn xchg_mem(&mut self, width: Width, mem: Mem, src: X) {
        self.head_mem(op(0x87, width), src.0, mem);
    }
}
