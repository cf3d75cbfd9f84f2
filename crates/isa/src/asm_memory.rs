//! The grammar of memory instructions in assembler text: stores, loads, packet loads, atomic operations. Neighbours: `asm_line`, which
//! decides that a line is one of these; `asm_cursor` (tokens).

use alloc::format;

use crate::asm::AsmError;
use crate::asm_cursor::{Cursor, longest};
use crate::{AtomicOp, Insn, LoadMode, MemSize, Operand, Reg};

/// `*(u32 *)(r1 +0) = value`
pub(crate) fn store(c: &mut Cursor<'_>) -> Result<Insn, AsmError> {
    c.expect("*")?;
    let start = c.at;
    let (mode, size) = c.cast()?;
    if mode == LoadMode::SignExtend {
        c.at = start;
        return Err(c.error("a store takes an unsigned type"));
    }
    let (dst, off) = c.address()?;
    c.expect("=")?;
    let src = if c.is_register() {
        Operand::Reg(c.wide_register()?)
    } else {
        Operand::Imm(c.imm32(size != MemSize::Dw)?)
    };
    Ok(Insn::Store {
        size,
        dst,
        off,
        src,
    })
}

/// After `lock`: `*(u32 *)(r1 +0) += r2`
pub(crate) fn locked(c: &mut Cursor<'_>) -> Result<Insn, AsmError> {
    c.expect("*")?;
    let (_, size) = c.cast()?;
    let (dst, off) = c.address()?;
    let plain = &[
        AtomicOp::Add { fetch: false },
        AtomicOp::Or { fetch: false },
        AtomicOp::And { fetch: false },
        AtomicOp::Xor { fetch: false },
    ];
    let op = longest(c, plain, AtomicOp::symbol)
        .ok_or_else(|| c.error("expected += or |= or &= or ^="))?;
    let src = c.wide_register()?;
    Ok(Insn::Atomic {
        op,
        size,
        dst,
        src,
        off,
    })
}

/// After `store_release`: `((u32 *)(r1 +0), r2)`
pub(crate) fn store_release(c: &mut Cursor<'_>) -> Result<Insn, AsmError> {
    c.expect("(")?;
    let (_, size) = c.cast()?;
    let (dst, off) = c.address()?;
    c.expect(",")?;
    let src = c.wide_register()?;
    c.expect(")")?;
    Ok(Insn::Atomic {
        op: AtomicOp::StoreRelease,
        size,
        dst,
        src,
        off,
    })
}

/// `*(u32 *)(r1 +0)` or `*(u8 *)skb[12]`
pub(crate) fn load(c: &mut Cursor<'_>, dst: Reg) -> Result<Insn, AsmError> {
    c.expect("*")?;
    let (mode, size) = c.cast()?;
    let start = c.at;
    if !c.take_word("skb") {
        let (src, off) = c.address()?;
        return Ok(Insn::Load {
            size,
            mode,
            dst,
            src,
            off,
        });
    }
    if dst != Reg::R0 || mode == LoadMode::SignExtend {
        c.at = start;
        return Err(c.error("a packet load is unsigned and goes to r0"));
    }
    c.expect("[")?;
    let insn = if c.is_register() {
        let src = c.wide_register()?;
        let imm = if c.rest().starts_with(['+', '-']) {
            sum(c)?
        } else {
            0
        };
        Insn::LoadInd { size, src, imm }
    } else {
        Insn::LoadAbs {
            size,
            imm: c.imm32(true)?,
        }
    };
    c.expect("]")?;
    Ok(insn)
}

/// `+ 12`, `- 12` or the kernel's `+ -12`.
fn sum(c: &mut Cursor<'_>) -> Result<i32, AsmError> {
    if c.rest().starts_with('+') {
        c.expect("+")?;
    }
    c.imm32(true)
}

/// After `r2 = atomic64_fetch_add`: `((u64 *)(r1 +0), r2)`; compare-exchange has r0 before the register.
pub(crate) fn atomic_result(c: &mut Cursor<'_>, result: Reg, name: &str) -> Result<Insn, AsmError> {
    let (wide, name) = match name.strip_prefix("64_") {
        Some(name) => (true, name),
        None => (false, name.strip_prefix('_').unwrap_or("")),
    };
    let named = |op: &&AtomicOp| {
        op.symbol() == name && !matches!(op, AtomicOp::LoadAcquire | AtomicOp::StoreRelease)
    };
    let Some(&op) = AtomicOp::ALL.iter().find(named) else {
        return Err(
            c.error("expected an atomic operation: fetch_add, fetch_or, xchg, cmpxchg, ...")
        );
    };
    c.expect("(")?;
    let (_, size) = c.cast()?;
    if wide != (size == MemSize::Dw) {
        return Err(c.error("'atomic64' goes with u64, 'atomic' with u32"));
    }
    let (dst, off) = c.address()?;
    c.expect(",")?;
    let mut written = Reg::R0;
    if op == AtomicOp::Cmpxchg {
        if c.wide_register()? != Reg::R0 {
            return Err(c.error("compare-exchange compares with r0"));
        }
        c.expect(",")?;
    }
    let src = c.wide_register()?;
    if op != AtomicOp::Cmpxchg {
        written = src;
    }
    c.expect(")")?;
    if written != result {
        return Err(c.error(format!("this operation's result goes to {written}")));
    }
    Ok(Insn::Atomic {
        op,
        size,
        dst,
        src,
        off,
    })
}
