//! Evaluation of what the operation tables do not cover alone: negation, sign extension, loads, atomic operations, and the
//! forms that take the width as a value. With the functions expanded from `table` this is the one semantics that the
//! interpreter, constant folding, branch pruning, the domain's tests and the JIT's tests share.
//!
//! A 32-bit result is returned zero-extended, as the register then holds it.

use crate::{
    AluOp, AtomicOp, JmpOp, LoadMode, MemSize, Width, eval_alu32, eval_alu64, eval_jmp32,
    eval_jmp64,
};

/// [`eval_alu64`] or [`eval_alu32`] on register values.
#[inline(always)]
pub const fn eval_alu(width: Width, op: AluOp, dst: u64, src: u64) -> u64 {
    match width {
        Width::W64 => eval_alu64(op, dst, src),
        Width::W32 => eval_alu32(op, dst as u32, src as u32) as u64,
    }
}

/// [`eval_jmp64`] or [`eval_jmp32`] on register values.
#[inline(always)]
pub const fn eval_jmp(width: Width, op: JmpOp, dst: u64, src: u64) -> bool {
    match width {
        Width::W64 => eval_jmp64(op, dst, src),
        Width::W32 => eval_jmp32(op, dst as u32, src as u32),
    }
}

/// Two's complement negation.
#[inline(always)]
pub const fn eval_neg(width: Width, value: u64) -> u64 {
    match width {
        Width::W64 => value.wrapping_neg(),
        Width::W32 => (value as u32).wrapping_neg() as u64,
    }
}

/// The low `from` bytes of `value`, sign-extended to `width`.
#[inline(always)]
pub const fn eval_movsx(width: Width, from: MemSize, value: u64) -> u64 {
    let wide = eval_extend(from, LoadMode::SignExtend, value);
    match width {
        Width::W64 => wide,
        Width::W32 => wide as u32 as u64,
    }
}

/// The low `size` bytes of `value`, extended to 64 bits as a load does.
#[inline(always)]
pub const fn eval_extend(size: MemSize, mode: LoadMode, value: u64) -> u64 {
    match (mode, size) {
        (_, MemSize::Dw) => value,
        (LoadMode::ZeroExtend, MemSize::B) => value as u8 as u64,
        (LoadMode::ZeroExtend, MemSize::H) => value as u16 as u64,
        (LoadMode::ZeroExtend, MemSize::W) => value as u32 as u64,
        (LoadMode::SignExtend, MemSize::B) => value as i8 as u64,
        (LoadMode::SignExtend, MemSize::H) => value as i16 as u64,
        (LoadMode::SignExtend, MemSize::W) => value as i32 as u64,
    }
}

/// What an atomic operation leaves in memory and in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicResult {
    /// The new content of memory, in the low `size` bytes; `None` where memory is not written.
    pub memory: Option<u64>,
    /// The value for the source register (fetching operations, exchange), r0 (compare-exchange) or the destination
    /// register (load-acquire), zero-extended.
    pub register: Option<u64>,
}

/// An atomic operation on values: `old` is the content of memory, `src` the source register, `r0` register 0 (the
/// comparand of compare-exchange). Only the low `size` bytes of each count.
///
/// # Source
/// RFC 9669 section 5.3; Linux 6.18 for load-acquire and store-release.
pub const fn eval_atomic(op: AtomicOp, size: MemSize, old: u64, src: u64, r0: u64) -> AtomicResult {
    let old = eval_extend(size, LoadMode::ZeroExtend, old);
    let src = eval_extend(size, LoadMode::ZeroExtend, src);
    let r0 = eval_extend(size, LoadMode::ZeroExtend, r0);
    let (memory, fetch) = match op {
        AtomicOp::Add { fetch } => (Some(old.wrapping_add(src)), fetch),
        AtomicOp::Or { fetch } => (Some(old | src), fetch),
        AtomicOp::And { fetch } => (Some(old & src), fetch),
        AtomicOp::Xor { fetch } => (Some(old ^ src), fetch),
        AtomicOp::Xchg => (Some(src), true),
        AtomicOp::Cmpxchg if old == r0 => (Some(src), true),
        AtomicOp::Cmpxchg | AtomicOp::LoadAcquire => (None, true),
        AtomicOp::StoreRelease => (Some(src), false),
    };
    let memory = match memory {
        Some(value) => Some(eval_extend(size, LoadMode::ZeroExtend, value)),
        None => None,
    };
    AtomicResult {
        memory,
        register: if fetch { Some(old) } else { None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EndianOp, eval_endian};

    #[test]
    fn division_by_zero_and_overflow_follow_the_rfc() {
        let min = i64::MIN as u64;
        assert_eq!(eval_alu64(AluOp::Div, 7, 0), 0);
        assert_eq!(eval_alu64(AluOp::Sdiv, 7, 0), 0);
        assert_eq!(eval_alu64(AluOp::Mod, 7, 0), 7);
        assert_eq!(eval_alu64(AluOp::Smod, 7, 0), 7);
        assert_eq!(eval_alu64(AluOp::Sdiv, min, u64::MAX), min);
        assert_eq!(eval_alu64(AluOp::Smod, min, u64::MAX), 0);
        assert_eq!(eval_alu32(AluOp::Sdiv, 0x8000_0000, u32::MAX), 0x8000_0000);
        assert_eq!(eval_alu32(AluOp::Smod, 0x8000_0000, u32::MAX), 0);
        // A 32-bit remainder by zero keeps the low half and clears the upper.
        assert_eq!(
            eval_alu(Width::W32, AluOp::Mod, 0xffff_ffff_0000_0005, 0),
            5
        );
        // The sign of a remainder is the dividend's (truncated division).
        assert_eq!(eval_alu64(AluOp::Smod, -13i64 as u64, 3), -1i64 as u64);
        assert_eq!(eval_alu64(AluOp::Smod, 13, -3i64 as u64), 1);
    }

    #[test]
    fn shifts_take_the_count_modulo_the_width() {
        assert_eq!(eval_alu64(AluOp::Lsh, 1, 65), 2);
        assert_eq!(eval_alu32(AluOp::Lsh, 1, 33), 2);
        assert_eq!(eval_alu64(AluOp::Rsh, 1 << 63, 127), 1);
        assert_eq!(eval_alu64(AluOp::Arsh, 1 << 63, 63), u64::MAX);
        assert_eq!(eval_alu32(AluOp::Arsh, 1 << 31, 31), u32::MAX);
        assert_eq!(eval_alu64(AluOp::Lsh, 1, 1 << 32), 1);
    }

    #[test]
    fn byte_order_truncates_and_swaps() {
        let value = 0x0102_0304_0506_0708;
        assert_eq!(eval_endian(EndianOp::ToLe, MemSize::H, value), 0x0708);
        assert_eq!(eval_endian(EndianOp::ToLe, MemSize::Dw, value), value);
        assert_eq!(eval_endian(EndianOp::ToBe, MemSize::H, value), 0x0807);
        assert_eq!(eval_endian(EndianOp::ToBe, MemSize::W, value), 0x0807_0605);
        assert_eq!(
            eval_endian(EndianOp::Swap, MemSize::Dw, value),
            0x0807_0605_0403_0201
        );
    }

    #[test]
    fn sign_extension_stops_at_the_width() {
        assert_eq!(eval_movsx(Width::W32, MemSize::B, 0x80), 0xffff_ff80);
        assert_eq!(
            eval_movsx(Width::W64, MemSize::B, 0x80),
            0xffff_ffff_ffff_ff80
        );
        assert_eq!(eval_movsx(Width::W64, MemSize::W, 0x7fff_ffff), 0x7fff_ffff);
        assert_eq!(
            eval_extend(MemSize::H, LoadMode::SignExtend, 0xf_8000),
            -0x8000i64 as u64
        );
    }

    #[test]
    fn every_condition_is_the_opposite_of_its_negation() {
        let edges = [
            0,
            1,
            2,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 32,
            1 << 63,
            (1 << 63) - 1,
            u64::MAX,
        ];
        for &op in JmpOp::ALL {
            let Some(not) = op.negated() else {
                assert_eq!(op, JmpOp::Set);
                continue;
            };
            for a in edges {
                for b in edges {
                    for width in [Width::W32, Width::W64] {
                        assert_ne!(eval_jmp(width, op, a, b), eval_jmp(width, not, a, b));
                    }
                }
            }
        }
        assert!(eval_jmp32(JmpOp::Slt, 0x8000_0000, 0));
        assert!(!eval_jmp64(JmpOp::Slt, 0x8000_0000, 0));
        assert!(eval_jmp64(JmpOp::Set, 6, 2) && !eval_jmp64(JmpOp::Set, 4, 2));
    }

    #[test]
    fn atomics_return_the_old_value_zero_extended() {
        let add = eval_atomic(
            AtomicOp::Add { fetch: true },
            MemSize::W,
            0x1_ffff_ffff,
            2,
            0,
        );
        assert_eq!(
            add,
            AtomicResult {
                memory: Some(1),
                register: Some(0xffff_ffff)
            }
        );
        let miss = eval_atomic(AtomicOp::Cmpxchg, MemSize::Dw, 5, 9, 6);
        assert_eq!(
            miss,
            AtomicResult {
                memory: None,
                register: Some(5)
            }
        );
        let hit = eval_atomic(AtomicOp::Cmpxchg, MemSize::W, 5, 9, 0x7_0000_0005);
        assert_eq!(
            hit,
            AtomicResult {
                memory: Some(9),
                register: Some(5)
            }
        );
        let plain = eval_atomic(AtomicOp::Xor { fetch: false }, MemSize::Dw, 5, 1, 0);
        assert_eq!(
            plain,
            AtomicResult {
                memory: Some(4),
                register: None
            }
        );
    }
}
