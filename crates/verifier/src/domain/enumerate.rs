//! The domain at small widths, every abstract value against every concrete one.
//!
//! At `W = 4` there are 81 tnums, and ranges and halves enough to take every pair. At 64 bits random members of random
//! scalars stand in for all.

extern crate std;

use std::vec::Vec;

use ring3_isa::{AluOp, EndianOp, JmpOp, MemSize, Width};

use super::{CondOp, Scalar, ScalarN, Taken, Tnum, TnumN};

type Small = ScalarN<4, 2>;

const WORDS: u64 = 16;

fn tnums<const W: u32>() -> Vec<TnumN<W>> {
    (0..1u64 << W)
        .flat_map(|mask| {
            (0..1u64 << W)
                .filter(move |value| value & mask == 0)
                .map(move |value| TnumN { value, mask })
        })
        .collect()
}

fn members<const W: u32>(t: TnumN<W>) -> impl Iterator<Item = u64> {
    (0..1u64 << W).filter(move |&x| t.contains_value(x))
}

/// The tightest tnum of a set of words.
fn hull<const W: u32>(words: impl Iterator<Item = u64>) -> Option<TnumN<W>> {
    words.map(TnumN::constant).reduce(TnumN::union)
}

/// The synced scalars of all tnums with all signed or unsigned intervals cut by them, without the empty ones.
fn scalars() -> Vec<Small> {
    let mut all = Vec::new();
    for t in tnums::<4>() {
        for min in 0..WORDS {
            for max in min..WORDS {
                let unsigned = Small {
                    umin: min,
                    umax: max,
                    ..Small::from_tnum(t)
                };
                let signed = Small {
                    smin: min as i64 - 8,
                    smax: max as i64 - 8,
                    ..Small::from_tnum(t)
                };
                all.extend([unsigned, signed].map(Small::sync));
            }
        }
    }
    all.retain(|s| s.check_bounds().is_ok() && (0..WORDS).any(|x| s.contains_value(x)));
    all.sort_by_key(|s| {
        (
            s.var_off.value,
            s.var_off.mask,
            s.umin,
            s.umax,
            s.smin,
            s.smax,
            s.u32_min,
            s.u32_max,
        )
    });
    all.dedup();
    all
}

fn words(s: &Small) -> impl Iterator<Item = u64> + '_ {
    (0..WORDS).filter(|&x| s.contains_value(x))
}

/// Concrete semantics at 4 bits; `None` where the language leaves it to the verifier (shift amounts).
fn eval(op: AluOp, a: u64, b: u64, width: Width) -> Option<u64> {
    let (bits, a, b) = match width {
        Width::W64 => (4, a, b),
        Width::W32 => (2, a & 3, b & 3),
    };
    let signed = |x: u64| ((x << (64 - bits)) as i64) >> (64 - bits);
    let result = match op {
        AluOp::Add => a + b,
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a * b,
        AluOp::And => a & b,
        AluOp::Or => a | b,
        AluOp::Xor => a ^ b,
        AluOp::Mov => b,
        AluOp::Lsh if b < bits => a << b,
        AluOp::Rsh if b < bits => a >> b,
        AluOp::Arsh if b < bits => (signed(a) >> b) as u64,
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => return None,
        AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => return None,
    };
    Some(result & ((1 << bits) - 1))
}

const OPS: [AluOp; 10] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::And,
    AluOp::Or,
    AluOp::Xor,
    AluOp::Mov,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Arsh,
];

/// Every `step`-th pair of scalars, so that all of them meet but the test stays fast.
fn pairs(all: &[Small], step: usize) -> impl Iterator<Item = (Small, Small)> + '_ {
    (0..all.len() * all.len())
        .step_by(step)
        .map(|i| (all[i / all.len()], all[i % all.len()]))
}

#[test]
fn tnum_operations_are_sound_and_where_possible_optimal() {
    let all = tnums::<4>();
    for &a in &all {
        assert_eq!(
            TnumN::neg(a),
            hull(members(a).map(|x| x.wrapping_neg() & 15)).unwrap(),
            "-{a}"
        );
        for shift in 0..4 {
            assert_eq!(
                a.lshift(shift),
                hull(members(a).map(|x| x << shift)).unwrap()
            );
            assert_eq!(
                a.rshift(shift),
                hull(members(a).map(|x| x >> shift)).unwrap()
            );
            let signed = |x: u64| (((x << 60) as i64) >> 60 >> shift) as u64 & 15;
            assert_eq!(a.arshift(shift), hull(members(a).map(signed)).unwrap());
        }
        for &b in &all {
            let optimal = |op: fn(u64, u64) -> u64| {
                hull::<4>(members(a).flat_map(|x| members(b).map(move |y| op(x, y) & 15))).unwrap()
            };
            assert_eq!(a.add(b), optimal(u64::wrapping_add), "{a} + {b}");
            assert_eq!(a.sub(b), optimal(u64::wrapping_sub), "{a} - {b}");
            assert_eq!(a.and(b), optimal(|x, y| x & y), "{a} & {b}");
            assert_eq!(a.or(b), optimal(|x, y| x | y), "{a} | {b}");
            assert_eq!(a.xor(b), optimal(|x, y| x ^ y), "{a} ^ {b}");
            assert!(a.mul(b).contains(optimal(u64::wrapping_mul)), "{a} * {b}");
            assert_eq!(a.union(b), hull(members(a).chain(members(b))).unwrap());
            let common: Option<TnumN<4>> = hull(members(a).filter(|&x| b.contains_value(x)));
            assert_eq!(a.overlaps(b), common.is_some());
            if let Some(common) = common {
                assert_eq!(a.intersect(b), common);
            }
            assert_eq!(a.contains(b), members(b).all(|x| a.contains_value(x)));
        }
    }
}

#[test]
fn tnum_operations_on_halves_are_optimal() {
    for a in tnums::<4>() {
        let half = |x: u64| ((x << 62) as i64) >> 62;
        for shift in 0..2 {
            let shifted = members(a).map(|x| (half(x) >> shift) as u64 & 3);
            assert_eq!(
                a.arshift_half(shift),
                hull(shifted).unwrap(),
                "{a} s>> {shift}"
            );
        }
        assert_eq!(a.subreg(), hull(members(a).map(|x| x & 3)).unwrap());
        assert_eq!(a.clear_subreg(), hull(members(a).map(|x| x & 12)).unwrap());
        for bits in 1..=4 {
            let low = members(a).map(|x| x & ((1 << bits) - 1));
            assert_eq!(a.truncate_bits(bits), hull(low).unwrap(), "{a} to {bits}");
        }
        for value in 0..4 {
            let placed = hull(members(a).map(|x| x & 12 | value)).unwrap();
            assert_eq!(a.const_subreg(value), placed, "{a} over {value}");
        }
        for b in tnums::<4>() {
            let placed = members(a).flat_map(|x| members(b).map(move |y| x & 12 | y & 3));
            assert_eq!(a.with_subreg(b), hull(placed).unwrap(), "{a} over {b}");
        }
    }
}

/// Products are as tight as the kernel's, not optimal: the order of operands matters, and every known pair is exact.
#[test]
fn tnum_products_of_numbers_and_powers_of_two_are_exact() {
    for a in tnums::<5>() {
        for shift in 0..5 {
            let exact = hull::<5>(members(a).map(|x| x << shift & 31)).unwrap();
            assert_eq!(TnumN::constant(1 << shift).mul(a), exact, "2^{shift} * {a}");
        }
        for b in tnums::<5>() {
            let product = a.mul(b);
            for (x, y) in members(a).flat_map(|x| members(b).map(move |y| (x, y))) {
                assert!(product.contains_value((x * y) & 31), "{a} * {b}: {x} * {y}");
            }
        }
    }
}

#[test]
fn a_fork_of_a_sign_mask_holds_both_ways() {
    for a in scalars() {
        for op in [AluOp::And, AluOp::Or] {
            for y in 0..WORDS {
                let Some(fork) = a.fork_of_sign_mask(op, &Small::known(y)) else {
                    continue;
                };
                for x in words(&a) {
                    assert!(
                        fork.ones.contains_value(x) || fork.zero.contains_value(x),
                        "{a:?} lost {x}: {fork:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn tnum_of_a_range_is_the_tightest() {
    for min in 0..WORDS {
        for max in min..WORDS {
            assert_eq!(TnumN::<4>::range(min, max), hull(min..=max).unwrap());
        }
    }
}

#[test]
fn least_member_from_agrees_with_a_search() {
    for t in tnums::<6>() {
        for x in 0..64 {
            assert_eq!(
                t.least_member_from(x),
                members(t).find(|&m| m >= x),
                "{t} from {x}"
            );
        }
    }
}

#[test]
fn sync_loses_no_member_and_leaves_no_contradiction() {
    for t in tnums::<4>() {
        for min in 0..WORDS {
            for max in min..WORDS {
                for smin in -8..8 {
                    let before = Small {
                        var_off: t,
                        umin: min,
                        umax: max,
                        smin,
                        smax: 7,
                        ..Small::UNKNOWN
                    };
                    let after = before.sync();
                    let mut inhabited = false;
                    for x in words(&before) {
                        inhabited = true;
                        assert!(after.contains_value(x), "{before:?} lost {x}: {after:?}");
                    }
                    if inhabited {
                        assert_eq!(after.check_bounds(), Ok(()), "{before:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_result_of_arithmetic_is_a_member() {
    let all = scalars();
    assert!(all.len() > 500, "{}", all.len());
    for (a, b) in pairs(&all, 97) {
        for op in OPS {
            for width in [Width::W32, Width::W64] {
                let result = a.alu(op, &b, width);
                for (x, y) in words(&a).flat_map(|x| words(&b).map(move |y| (x, y))) {
                    if let Some(z) = eval(op, x, y, width) {
                        assert!(
                            result.contains_value(z),
                            "{a:?} {op:?} {b:?} {width:?}: {x}, {y} -> {z}, {result:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_result_of_a_unary_operation_is_a_member() {
    for a in scalars() {
        for x in words(&a) {
            assert!(
                a.neg(Width::W64).contains_value(x.wrapping_neg() & 15),
                "-{a:?}"
            );
            assert!(
                a.neg(Width::W32).contains_value(x.wrapping_neg() & 3),
                "w -{a:?}"
            );
            assert!(a.zero_extend().contains_value(x & 3), "{a:?}");
            for bits in 1..=2 {
                assert!(
                    a.coerce_to_bits(bits).contains_value(x & ((1 << bits) - 1)),
                    "{a:?} to {bits}"
                );
                let extended = (((x << (64 - bits)) as i64) >> (64 - bits)) as u64;
                assert!(
                    a.sign_extend_bits(bits).contains_value(extended & 15),
                    "{a:?} from {bits}"
                );
                if bits < 2 {
                    assert!(
                        a.sign_extend_half_bits(bits).contains_value(extended & 3),
                        "{a:?} from {bits}"
                    );
                }
            }
        }
    }
}

fn holds(op: CondOp, a: u64, b: u64, width: Width) -> bool {
    let bits = if width == Width::W64 { 4 } else { 2 };
    let (a, b) = (a & ((1 << bits) - 1), b & ((1 << bits) - 1));
    let signed = |x: u64| ((x << (64 - bits)) as i64) >> (64 - bits);
    match op {
        CondOp::Eq => a == b,
        CondOp::Ne => a != b,
        CondOp::Set => a & b != 0,
        CondOp::Clear => a & b == 0,
        CondOp::Gt => a > b,
        CondOp::Ge => a >= b,
        CondOp::Lt => a < b,
        CondOp::Le => a <= b,
        CondOp::Sgt => signed(a) > signed(b),
        CondOp::Sge => signed(a) >= signed(b),
        CondOp::Slt => signed(a) < signed(b),
        CondOp::Sle => signed(a) <= signed(b),
    }
}

const CONDITIONS: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Set,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];

#[test]
fn a_comparison_is_decided_and_refined_soundly() {
    let all = scalars();
    for (a, b) in pairs(&all, 97) {
        for op in CONDITIONS
            .map(CondOp::from)
            .into_iter()
            .flat_map(|op| [op, op.negate()])
        {
            for width in [Width::W32, Width::W64] {
                let taken = Small::branch_taken(&a, &b, op, width);
                let (mut lhs, mut rhs) = (a, b);
                Small::refine(&mut lhs, &mut rhs, op, width);
                for (x, y) in words(&a).flat_map(|x| words(&b).map(move |y| (x, y))) {
                    let holds = holds(op, x, y, width);
                    assert!(
                        taken != if holds { Taken::Never } else { Taken::Always },
                        "{a:?} {op:?} {b:?} {width:?}"
                    );
                    if holds {
                        assert!(
                            lhs.contains_value(x),
                            "{a:?} {op:?} {b:?} {width:?} lost {x} of {x}, {y}: {lhs:?}"
                        );
                        assert!(
                            rhs.contains_value(y),
                            "{a:?} {op:?} {b:?} {width:?} lost {y} of {x}, {y}: {rhs:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_register_compared_with_itself_keeps_what_it_may_be() {
    for a in scalars() {
        for op in CONDITIONS
            .map(CondOp::from)
            .into_iter()
            .flat_map(|op| [op, op.negate()])
        {
            for width in [Width::W32, Width::W64] {
                let refined = a.refine_by_itself(op, width);
                for x in words(&a).filter(|&x| holds(op, x, x, width)) {
                    assert!(
                        refined.contains_value(x),
                        "{a:?} {op:?} itself lost {x}: {refined:?}"
                    );
                }
            }
        }
    }
}

/// A reproducible stream of words with long runs of equal bits.
struct Words(u64);

impl Words {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        match self.0 & 3 {
            0 => self.0,
            1 => ((self.0 as i64) >> (self.0 >> 58)) as u64,
            2 => self.0 >> (self.0 >> 58 & 63),
            _ => 1u64
                .rotate_left((self.0 >> 50) as u32)
                .wrapping_sub(self.0 >> 48 & 1),
        }
    }

    /// A scalar and a member of it.
    fn scalar(&mut self) -> (Scalar, u64) {
        let member = self.next();
        let mut scalar = Scalar::from_tnum(Tnum::new(member, self.next()));
        for _ in 0..3 {
            let mut bound = Scalar::known(self.next());
            let op = CondOp::from(CONDITIONS[self.next() as usize % CONDITIONS.len()]);
            let width = if self.next() & 1 == 0 {
                Width::W32
            } else {
                Width::W64
            };
            let value = bound.var_off.value;
            let op = if concrete_holds(op, member, value, width) {
                op
            } else {
                op.negate()
            };
            Scalar::refine(&mut scalar, &mut bound, op, width);
        }
        (scalar, member)
    }
}

fn concrete_holds(op: CondOp, a: u64, b: u64, width: Width) -> bool {
    let sides = [a, b].map(|x| {
        if width == Width::W32 {
            x & 0xffff_ffff
        } else {
            x
        }
    });
    Scalar::branch_taken(
        &Scalar::known(sides[0]),
        &Scalar::known(sides[1]),
        op,
        width,
    ) == Taken::Always
}

#[test]
fn random_members_at_64_bits_stay_members() {
    let mut words = Words(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000 {
        let ((a, x), (b, y)) = (words.scalar(), words.scalar());
        assert!(a.contains_value(x), "round {round}: {a:?} lost {x:#x}");
        assert_eq!(a.check_bounds(), Ok(()), "round {round}: {a:?}");
        for op in OPS {
            if matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh) {
                let amount = y & 63;
                let z = ring3_isa::eval_alu64(op, x, amount);
                assert!(
                    a.alu(op, &Scalar::known(amount), Width::W64)
                        .contains_value(z),
                    "{a:?} {op:?} {amount}"
                );
                continue;
            }
            let z = ring3_isa::eval_alu64(op, x, y);
            assert!(
                a.alu(op, &b, Width::W64).contains_value(z),
                "round {round}: {a:?} {op:?} {b:?}, {x:#x} {y:#x}"
            );
            let z = u64::from(ring3_isa::eval_alu32(op, x as u32, y as u32));
            assert!(
                a.alu(op, &b, Width::W32).contains_value(z),
                "round {round}: {a:?} {op:?} {b:?}, {x:#x} {y:#x}"
            );
        }
        for (op, size, z) in [
            (EndianOp::ToLe, MemSize::H, u64::from(x as u16)),
            (EndianOp::ToLe, MemSize::W, u64::from(x as u32)),
            (
                EndianOp::ToBe,
                MemSize::H,
                u64::from((x as u16).swap_bytes()),
            ),
            (
                EndianOp::Swap,
                MemSize::W,
                u64::from((x as u32).swap_bytes()),
            ),
            (EndianOp::Swap, MemSize::Dw, x.swap_bytes()),
        ] {
            assert!(
                a.endian(op, size).contains_value(z),
                "round {round}: {a:?} {op:?} {size:?}"
            );
        }
        for (from, extended) in [(MemSize::B, x as i8 as u32), (MemSize::H, x as i16 as u32)] {
            assert!(
                a.sign_extend_half(from).contains_value(u64::from(extended)),
                "round {round}: {a:?} half {from:?}"
            );
        }
        assert!(
            a.neg(Width::W64).contains_value(x.wrapping_neg()),
            "round {round}: -{a:?}"
        );
        let negated = u64::from((x as u32).wrapping_neg());
        assert!(
            a.neg(Width::W32).contains_value(negated),
            "round {round}: w -{a:?}"
        );
        let amount = y & 31;
        for op in [AluOp::Lsh, AluOp::Rsh, AluOp::Arsh] {
            let z = u64::from(ring3_isa::eval_alu32(op, x as u32, amount as u32));
            assert!(
                a.alu(op, &Scalar::known(amount), Width::W32)
                    .contains_value(z),
                "round {round}: {a:?} w {op:?} {amount}"
            );
        }
        for (size, extended) in [
            (MemSize::B, x as i8 as u64),
            (MemSize::H, x as i16 as u64),
            (MemSize::W, x as i32 as u64),
        ] {
            assert!(
                a.sign_extend(size).contains_value(extended),
                "round {round}: {a:?} {size:?}"
            );
            let mask = u64::MAX >> (64 - 8 * size.bytes());
            assert!(
                a.coerce_to_size(size).contains_value(x & mask),
                "round {round}: {a:?} {size:?}"
            );
        }
    }
}
