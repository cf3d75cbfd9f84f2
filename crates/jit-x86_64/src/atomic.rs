//! Atomic operations. x86 orders loads and stores as acquire and release need; everything else is a locked instruction.

use ring3_isa::{AtomicOp, LoadMode, MemSize, Width};
use ring3_runtime::Access;

use crate::asm::{Arith, Cond, Mem};
use crate::emit::Emitter;
use crate::frame::Mode;
use crate::regs::{R9, R11, RAX, X};

impl Emitter<'_> {
    /// The operation on `mem` with the value (or, for a load, the destination) in `value`. Scratch: r9, r11.
    pub(crate) fn atomic(&mut self, op: AtomicOp, size: MemSize, mem: Mem, value: X) {
        let width = if size == MemSize::Dw {
            Width::W64
        } else {
            Width::W32
        };
        if self.mode == Mode::Checked {
            let access = if op == AtomicOp::LoadAcquire {
                Access::Read
            } else {
                Access::Write
            };
            self.check_atomic_access(mem, size, access);
        }
        let asm = &mut self.asm;
        match op {
            AtomicOp::Add { fetch: false } => asm.lock_arith(Arith::Add, width, mem, value),
            AtomicOp::Or { fetch: false } => asm.lock_arith(Arith::Or, width, mem, value),
            AtomicOp::And { fetch: false } => asm.lock_arith(Arith::And, width, mem, value),
            AtomicOp::Xor { fetch: false } => asm.lock_arith(Arith::Xor, width, mem, value),
            AtomicOp::Add { fetch: true } => asm.lock_xadd(width, mem, value),
            AtomicOp::Xchg => asm.xchg_mem(width, mem, value),
            AtomicOp::Or { fetch: true } => self.fetch_loop(Arith::Or, width, size, mem, value),
            AtomicOp::And { fetch: true } => self.fetch_loop(Arith::And, width, size, mem, value),
            AtomicOp::Xor { fetch: true } => self.fetch_loop(Arith::Xor, width, size, mem, value),
            AtomicOp::Cmpxchg => {
                asm.lock_cmpxchg(width, mem, value);
                if width == Width::W32 {
                    // Where the comparison succeeds, eax is not written and its upper half stays.
                    asm.mov_rr(Width::W32, RAX, RAX);
                }
            }
            AtomicOp::LoadAcquire => match LoadMode::ZeroExtend {
                LoadMode::ZeroExtend => asm.load(size, value, mem),
                LoadMode::SignExtend => asm.load_sx(size, value, mem),
            },
            AtomicOp::StoreRelease => asm.store(size, mem, value),
        }
    }

    /// x86 has no fetching or, and, xor: `rax = [mem]; do r11 = rax op value while !cmpxchg([mem], r11); value = rax`.
    fn fetch_loop(&mut self, arith: Arith, width: Width, size: MemSize, mem: Mem, value: X) {
        let asm = &mut self.asm;
        asm.copy(R9, RAX);
        // rax is taken: what names it is in r9 now.
        let moved = |register: X| if register == RAX { R9 } else { register };
        let mem = Mem {
            base: moved(mem.base),
            ..mem
        };
        asm.load(size, RAX, mem);
        let again = asm.pos();
        asm.mov_rr(width, R11, RAX);
        asm.arith_rr(arith, width, R11, moved(value));
        asm.lock_cmpxchg(width, mem, R11);
        let patch = asm.jcc8(Cond::Ne);
        asm.set8(
            patch.0 as usize,
            (again as i64 - (patch.0 as i64 + 1)) as u8,
        );
        if value != RAX {
            asm.mov_rr(width, value, RAX);
            asm.copy(RAX, R9);
        }
    }
}
