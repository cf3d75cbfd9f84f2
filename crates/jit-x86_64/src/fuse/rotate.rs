//! Rotations: two shifts of one value and an or.

use ring3_isa::{RawInsn, Width};

use super::{LSH32_IMM, LSH64_IMM, MOV64, OR32, OR64, RSH32_IMM, RSH64_IMM, Rule, x};
use crate::asm::Shift;
use crate::emit::Emitter;
use crate::regs::X;

impl Emitter<'_> {
    /// `t = x; t <<= k; x >>= w - k; x |= t` and its mirror images. The temporary ends as the shifted value, as it would.
    pub(super) fn rotate(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let [mov, one, two, or, ..] = *run else {
            return None;
        };
        if !matches!(or.code, OR64 | OR32) {
            return None;
        }
        let (bits, left, right, or_code, width) = match mov.code {
            MOV64 => (64, LSH64_IMM, RSH64_IMM, OR64, Width::W64),
            _ => (32, LSH32_IMM, RSH32_IMM, OR32, Width::W32),
        };
        let (temporary, value) = (mov.dst(), mov.src());
        let is_shift = |insn: RawInsn| {
            (insn.code == left || insn.code == right)
                && insn.off == 0
                && (1..bits).contains(&insn.imm)
        };
        let opposite = one.code != two.code
            && one.dst() != two.dst()
            && one.imm.checked_add(two.imm) == Some(bits);
        let both = [one.dst(), two.dst()];
        if temporary == value
            || !is_shift(one)
            || !is_shift(two)
            || !opposite
            || !both.contains(&temporary)
            || !both.contains(&value)
            || or.code != or_code
            || or.off != 0
            || ![(temporary, value), (value, temporary)].contains(&(or.dst(), or.src()))
        {
            return None;
        }
        // The register that is not the result keeps its shifted value; both shifts are of the value before.
        let (result_shift, other_shift) = if one.dst() == or.dst() {
            (one, two)
        } else {
            (two, one)
        };
        let rotation = Rotation {
            width,
            result: x(or.dst())?,
            other: x(or.src())?,
            source: x(value)?,
            right_count: right_count(result_shift, left, bits),
            other_shift: (
                if other_shift.code == left {
                    Shift::Shl
                } else {
                    Shift::Shr
                },
                other_shift.imm as u8,
            ),
            other_is_dead: self.is_dead(slot + 4, or.src()),
        };
        self.emit_rotation(&rotation);
        Some(4)
    }

    /// `t = x; t >>= w - k; d = x; d <<= k; d |= t` and its mirror image, x unchanged.
    pub(super) fn rotate_into(&mut self, slot: usize, run: &[RawInsn]) -> Option<usize> {
        let [first, one, second, two, or, ..] = *run else {
            return None;
        };
        if second.code != first.code || !matches!(or.code, OR64 | OR32) {
            return None;
        }
        let (bits, left, right, or_code, width) = match first.code {
            MOV64 => (64, LSH64_IMM, RSH64_IMM, OR64, Width::W64),
            _ => (32, LSH32_IMM, RSH32_IMM, OR32, Width::W32),
        };
        let is_shift = |insn: RawInsn, dst: u8| {
            (insn.code == left || insn.code == right)
                && insn.off == 0
                && insn.dst() == dst
                && (1..bits).contains(&insn.imm)
        };
        let (value, a, b) = (first.src(), first.dst(), second.dst());
        let is_rotation = second.off == 0
            && second.src() == value
            && a != b
            && a != value
            && b != value
            && is_shift(one, a)
            && is_shift(two, b)
            && one.code != two.code
            && one.imm.checked_add(two.imm) == Some(bits)
            && or.code == or_code
            && or.off == 0
            && [(a, b), (b, a)].contains(&(or.dst(), or.src()));
        if !is_rotation {
            return None;
        }
        let (result_shift, other_shift) = if or.dst() == a {
            (one, two)
        } else {
            (two, one)
        };
        let rotation = Rotation {
            width,
            result: x(or.dst())?,
            other: x(or.src())?,
            source: x(value)?,
            right_count: right_count(result_shift, left, bits),
            other_shift: (
                if other_shift.code == left {
                    Shift::Shl
                } else {
                    Shift::Shr
                },
                other_shift.imm as u8,
            ),
            other_is_dead: self.is_dead(slot + 5, or.src()),
        };
        self.emit_rotation(&rotation);
        Some(5)
    }

    fn emit_rotation(&mut self, rotation: &Rotation) {
        let Rotation {
            width,
            result,
            other,
            source,
            right_count,
            other_shift: (shift, count),
            other_is_dead,
        } = *rotation;
        let asm = &mut self.asm;
        // The source is the last to change: it may be the result or the other register.
        if other != source && !other_is_dead {
            asm.mov_rr(width, other, source);
            asm.shift_ri(shift, width, other, count);
        }
        if result == source {
            asm.shift_ri(Shift::Ror, width, result, right_count);
        } else if self.cpu.bmi2 {
            asm.rorx(width, result, source, right_count);
        } else {
            asm.mov_rr(width, result, source);
            asm.shift_ri(Shift::Ror, width, result, right_count);
        }
        if other == source && !other_is_dead {
            asm.shift_ri(shift, width, other, count);
        }
        self.hit(Rule::Rotate);
    }
}

/// What a rotation leaves: `result = source` rotated, `other = source` shifted unless nobody reads it.
#[derive(Clone, Copy)]
struct Rotation {
    width: Width,
    result: X,
    other: X,
    source: X,
    right_count: u8,
    other_shift: (Shift, u8),
    other_is_dead: bool,
}

/// The rotation to the right that the shift of the result is part of.
fn right_count(shift: RawInsn, left: u8, bits: i32) -> u8 {
    if shift.code == left {
        (bits - shift.imm) as u8
    } else {
        shift.imm as u8
    }
}
