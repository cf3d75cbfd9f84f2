//! Memory as an operand: a loaded value that is used once, a sum that is an address once, a byte that is compared once.

use ring3_isa::{JmpOp, MemSize, RawInsn, Reg, Width};

use super::{LDX_B, LDX_DW, LDX_H, LDX_W, Rule, x};
use crate::asm::{Arith, Mem};
use crate::emit::Emitter;
use crate::jmp::condition;

/// Conditional jumps that compare, by immediate: `jset` has no comparison.
pub(super) const COMPARE_IMM: &[u8] = &[
    0x15, 0x25, 0x35, 0x55, 0x65, 0x75, 0xa5, 0xb5, 0xc5, 0xd5, 0x16, 0x26, 0x36, 0x56, 0x66, 0x76,
    0xa6, 0xb6, 0xc6, 0xd6,
];
/// The same by register.
pub(super) const COMPARE_REG: &[u8] = &[
    0x1d, 0x2d, 0x3d, 0x5d, 0x6d, 0x7d, 0xad, 0xbd, 0xcd, 0xdd, 0x1e, 0x2e, 0x3e, 0x5e, 0x6e, 0x7e,
    0xae, 0xbe, 0xce, 0xde,
];

/// Width and operation of one of the jumps above.
pub(crate) fn comparison(raw: RawInsn) -> Option<(Width, JmpOp)> {
    let width = match raw.class() {
        5 => Width::W64,
        6 => Width::W32,
        _ => return None,
    };
    let op = match raw.code & 0xf0 {
        0x10 => JmpOp::Eq,
        0x20 => JmpOp::Gt,
        0x30 => JmpOp::Ge,
        0x50 => JmpOp::Ne,
        0x60 => JmpOp::Sgt,
        0x70 => JmpOp::Sge,
        0xa0 => JmpOp::Lt,
        0xb0 => JmpOp::Le,
        0xc0 => JmpOp::Slt,
        0xd0 => JmpOp::Sle,
        _ => return None,
    };
    Some((width, op))
}

/// Whether zero-extended bytes compare as bytes do.
fn is_unsigned(op: JmpOp) -> bool {
    !matches!(op, JmpOp::Sgt | JmpOp::Sge | JmpOp::Slt | JmpOp::Sle)
}

/// The slot that a jump at `slot` goes to.
fn target(slot: usize, jump: RawInsn) -> usize {
    (slot as i64 + 1 + i64::from(jump.off)) as usize
}

impl Emitter<'_> {
    /// Whether nobody reads the register after the jump at `slot`, wherever it goes.
    fn is_dead_after(&self, slot: usize, jump: RawInsn, register: u8) -> bool {
        self.is_dead(slot + 1, register) && self.is_dead(target(slot, jump), register)
    }

    /// `t = [mem]; d op= t` with `t` read by nobody else: `op d, [mem]`; also comparisons.
    pub(super) fn load_operand(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let (load, next) = (run[0], *run.get(1)?);
        if self.is_probe(slot) {
            return None;
        }
        let mem = Mem::at(x(load.src())?, load.off.into());
        let temporary = load.dst();
        if let Some((width, op)) = comparison(next) {
            return self.compare_memory(slot, load, mem, (width, op));
        }
        let width = match (load.code, next.class()) {
            (LDX_W, 4) => Width::W32,
            (LDX_DW, 7) => Width::W64,
            _ => return None,
        };
        if next.src() != temporary
            || next.dst() == temporary
            || next.off != 0
            || !self.is_dead(slot + 2, temporary)
        {
            return None;
        }
        let dst = x(next.dst())?;
        let arith = match next.code & 0xf8 {
            0x08 => Arith::Add,
            0x18 => Arith::Sub,
            0x28 => {
                self.asm.imul_rm(width, dst, mem);
                self.hit(Rule::LoadOperand);
                return Some(2);
            }
            0x48 => Arith::Or,
            0x58 => Arith::And,
            0xa8 => Arith::Xor,
            _ => return None,
        };
        self.asm.arith_rm(arith, width, dst, mem);
        self.hit(Rule::LoadOperand);
        Some(2)
    }

    fn compare_memory(
        &mut self,
        slot: usize,
        load: RawInsn,
        mem: Mem,
        (width, op): (Width, JmpOp),
    ) -> Option<usize> {
        let jump = self.insns[slot + 1];
        let temporary = load.dst();
        let is_register = jump.code & 8 != 0;
        let fits = match load.code {
            LDX_W => width == Width::W32,
            LDX_DW => width == Width::W64,
            // Zero extended: as a byte if the other side is one too.
            LDX_B => !is_register && is_unsigned(op) && (0..256).contains(&jump.imm),
            _ => false,
        };
        let (dst, src) = (jump.dst(), jump.src());
        if !fits
            || jump.off == 0
            || (dst != temporary && !(is_register && src == temporary))
            || (is_register && dst == src)
            || !self.is_dead_after(slot + 1, jump, temporary)
        {
            return None;
        }
        self.hit(Rule::LoadOperand);
        match (is_register, dst == temporary) {
            (false, _) if load.code == LDX_B => self.asm.cmp_byte_mi(mem, jump.imm as u8),
            (false, _) => self.asm.arith_mi(Arith::Cmp, width, mem, jump.imm),
            (true, true) => self.asm.arith_mr(Arith::Cmp, width, mem, x(src)?),
            (true, false) => self.asm.arith_rm(Arith::Cmp, width, x(dst)?, mem),
        }
        self.jump_to(slot + 1, target(slot + 1, jump), Some(condition(op)));
        Some(2)
    }

    /// `t = a; t += c; x = *(t + off)` with `t` read by nobody else, or without the move (`a` is `t`); stores too. `before` is 1 with the move.
    pub(super) fn indexed(
        &mut self,
        slot: usize,
        base: u8,
        run: &[RawInsn],
        before: usize,
    ) -> Option<usize> {
        let (add, access) = (run[before], *run.get(before + 1)?);
        let (sum, index) = (add.dst(), add.src());
        if add.off != 0 || index == sum || self.is_probe(slot + before + 1) {
            return None;
        }
        let size = match access.code & 0x18 {
            0x00 => MemSize::W,
            0x08 => MemSize::H,
            0x10 => MemSize::B,
            _ => MemSize::Dw,
        };
        let is_load = matches!(access.code, LDX_B | LDX_H | LDX_W | LDX_DW);
        let is_store = matches!(access.code, 0x63 | 0x6b | 0x73 | 0x7b);
        let (address, value) = if is_load {
            (access.src(), access.dst())
        } else {
            (access.dst(), access.src())
        };
        let covered = before + 2;
        let is_last = self.is_dead(slot + covered, sum) || (is_load && value == sum);
        if !(is_load || is_store) || address != sum || (is_store && value == sum) || !is_last {
            return None;
        }
        let mem = Mem::indexed(x(base)?, x(index)?, 0, access.off.into());
        if is_load {
            self.asm.load(size, x(value)?, mem);
        } else {
            self.asm.store(size, mem, x(value)?);
        }
        self.hit(Rule::Indexed);
        Some(covered)
    }

    /// `t &= 255; if t op imm` with `t` read by nobody else: a comparison of the low byte.
    pub(super) fn byte_compare(
        &mut self,
        slot: usize,
        and: RawInsn,
        jump: RawInsn,
    ) -> Option<usize> {
        let (_, op) = comparison(jump)?;
        if jump.code & 8 != 0
            || and.imm != 0xff
            || and.dst() != jump.dst()
            || jump.off == 0
            || !is_unsigned(op)
            || !(0..256).contains(&jump.imm)
            || !self.is_dead_after(slot + 1, jump, and.dst())
        {
            return None;
        }
        let register = x(Reg::new(and.dst())?.number())?;
        self.hit(Rule::ByteCompare);
        self.asm.cmp_byte_ri(register, jump.imm as u8);
        self.jump_to(slot + 1, target(slot + 1, jump), Some(condition(op)));
        Some(2)
    }
}
