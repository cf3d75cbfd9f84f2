//! Steps that take those after them along: the sequences that programs are made of, done by one function without going to the next in between.
//! Only the unchecked mode calls them; every step keeps its own `op`, so jumps into a sequence and the checked mode find what they expect.
//!
//! A going on costs as much as the work of a simple step. Which sequences: those most frequent in compiled programs, and those around which
//! loops over bytes are built. Neighbours: `simple` has the steps, `predecode` applies this.

use crate::op::{Op, Step};
use crate::run::{Handler, Run, Unchecked, go};
use crate::simple::*;

/// Two steps, of which the first goes on to the second.
///
/// # Safety
/// As that of `run`; behind `pc` are the steps of these kinds.
unsafe extern "C" fn two<A: Simple, B: Simple>(
    pc: *const Step,
    registers: *mut u64,
    run: *mut Run<Unchecked>,
    fuel: u64,
) -> *const Step {
    // SAFETY: 1. to 3. of `run`, from the caller; a step behind one that goes on is a step.
    unsafe {
        A::apply(pc, registers);
        let to = B::apply(pc.add(1), registers);
        go(to, registers, run, fuel)
    }
}

/// The same of three.
///
/// # Safety
/// As above.
unsafe extern "C" fn three<A: Simple, B: Simple, C: Simple>(
    pc: *const Step,
    registers: *mut u64,
    run: *mut Run<Unchecked>,
    fuel: u64,
) -> *const Step {
    // SAFETY: as above.
    unsafe {
        A::apply(pc, registers);
        B::apply(pc.add(1), registers);
        let to = C::apply(pc.add(2), registers);
        go(to, registers, run, fuel)
    }
}

/// Defines [`fused`] by the names of operations.
macro_rules! sequences {
    ($([$($two:ident)*])* ; $([$($three:ident)*])*) => {
        /// What does the first of these steps and one or two after it.
        fn fused(ops: [Op; 3]) -> Option<Handler<Unchecked>> {
            match ops {
                $([$(Op::$three),*] => Some(three::<$($three),*>),)*
                $([$(Op::$two),*, _] => Some(two::<$($two),*>),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const SEQUENCES: &[&[Op]] = &[$(&[$(Op::$three),*],)* $(&[$(Op::$two),*],)*];
    };
}

sequences! {
        [Mov64 Add64Imm] [Mov64 Add64] [Mov64 Mov64] [Mov64 Mov64Imm] [Mov64Imm Mov64] [Mov64Imm Mov64Imm] [Mov64 Mov32]
        [Mov32 Mov64] [Mov32 Mov32] [Mov32 Add32Imm] [Mov32 JGt32Imm] [Mov64 JNe64Imm] [Mov32Imm Add32] [Mov64Imm Add32Imm]
        [Mov64Imm JEq32Imm] [Mov64Imm Or32Imm] [Or32Imm JLt32Imm] [Add32 Mov64Imm] [Add32Imm JNe32Imm] [Add64Imm JNe64Imm]
        [Add64 Load8] [Add64 Load16] [Add64 Load32] [Add64 Load64] [Load64 Load64] [Load32 Load32] [Load8 JNe64Imm]
        [And32Imm JGt32Imm] [And32Imm JNe32Imm] [Lsh64Imm Or64] [Lsh64Imm Rsh64Imm] [Xor64 Xor64] [Add64 Xor64]
        ;
        [Mov64 Add64 Load8] [Mov64 Add64 Load16] [Mov64 Add64 Load32] [Mov32 Add32Imm JNe32Imm] [Add32Imm And32Imm JGt32Imm]
        [Mov64 Mov32 JGt32Imm]
}

/// Lets steps take along what follows them.
pub(crate) fn fuse(steps: &mut [Step]) {
    for at in 0..steps.len() {
        // The last step ends the program, and no sequence goes beyond.
        let op = |distance: usize| steps.get(at + distance).map_or(Op::Exit, |step| step.op);
        if let Some(handler) = fused([op(0), op(1), op(2)]) {
            steps[at].handler = handler;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::REGISTERS;
    use crate::step::handler;

    /// The function of one step. Loads of the checked mode's kind would ask a run that there is not.
    fn alone(op: Op) -> Handler<Unchecked> {
        match op {
            Op::Load8 => single::<Unchecked, Load8>,
            Op::Load16 => single::<Unchecked, Load16>,
            Op::Load32 => single::<Unchecked, Load32>,
            Op::Load64 => single::<Unchecked, Load64>,
            op => handler(op),
        }
    }

    /// xorshift64*
    fn random(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// A step of the kind: sums and copies that loads take as addresses are those of registers 1, 3 and 4.
    fn step(op: Op, has_load: bool, state: &mut u64) -> Step {
        const EDGES: [u64; 8] = [0, 1, 3, 31, 63, 0x80, 0x7fff_ffff, u64::MAX];
        let mut number = |from: u64| (from + random(state) % (10 - from)) as u8;
        let (dst, src) = match op {
            Op::Mov64 if has_load => (3, 1),
            Op::Add64 if has_load => (3, 4),
            Op::Load8 | Op::Load16 | Op::Load32 | Op::Load64 => (number(5), 3),
            _ if has_load => (number(5), number(5)),
            _ => (number(0), number(0)),
        };
        Step {
            handler: alone(op),
            imm: EDGES[(random(state) % 8) as usize],
            off: match op {
                Op::Load8 | Op::Load16 | Op::Load32 | Op::Load64 => 0,
                _ => 2 + (random(state) % 4) as i32,
            },
            dst,
            src,
            op,
        }
    }

    #[test]
    fn sequences_do_what_their_steps_do() {
        let memory: [u64; 4] = std::array::from_fn(|at| 0x0123_4567_89ab_cdef << at);
        let address = memory.as_ptr().expose_provenance() as u64;
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for sequence in SEQUENCES {
            let is_load = |op: &Op| matches!(op, Op::Load8 | Op::Load16 | Op::Load32 | Op::Load64);
            let has_load = sequence.iter().any(is_load);
            for _ in 0..500 {
                let mut steps: Vec<Step> = sequence
                    .iter()
                    .map(|op| step(*op, has_load, &mut state))
                    .collect();
                // Room for jumps, whose targets are not read.
                steps.resize(12, step(Op::Exit, false, &mut state));
                let before: [u64; REGISTERS] = std::array::from_fn(|number| match number {
                    1 | 3 if has_load => address,
                    4 if has_load => random(&mut state) % 16,
                    _ => random(&mut state) << 8 >> (random(&mut state) % 60),
                });
                let run = std::ptr::null_mut();
                let mut one_by_one = before;
                let mut pc = steps.as_ptr();
                for step in &steps[..sequence.len()] {
                    assert_eq!(pc, &raw const *step, "{sequence:?} goes on");
                    // SAFETY: 1. a step among steps; 2. register numbers are below 10; 3. simple steps do not look at the run, and without fuel
                    // nothing follows them; addresses are those of `memory`.
                    pc = unsafe { (step.handler)(pc, one_by_one.as_mut_ptr(), run, 0) };
                }
                let mut at_once = before;
                fuse(&mut steps);
                let first = &steps[0];
                let plain = alone(first.op);
                assert!(!std::ptr::fn_addr_eq(first.handler, plain), "{sequence:?}");
                // SAFETY: as above.
                let to = unsafe { (first.handler)(first, at_once.as_mut_ptr(), run, 0) };
                assert_eq!((to, at_once), (pc, one_by_one), "{sequence:?}: {steps:?}");
            }
        }
    }
}
