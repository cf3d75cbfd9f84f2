//! Nanoseconds per instruction of the unchecked interpreter on loops of a few kinds: `cargo run --release -p ring3-interp --example speed`.

use std::time::Instant;

use ring3_interp::Program;
use ring3_isa::{NoNames, parse_asm};
use ring3_runtime::{Linked, run};

/// Programs that loop `r9` times; memory at r1.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "alu chain",
        "r0 = 1\nr9 = 10000\nl: r0 += 7\nr0 *= 3\nr0 ^= r9\nr0 <<= 1\nr0 >>= 2\nr9 -= 1\nif r9 != 0 goto l\nexit",
    ),
    (
        "alu parallel",
        "r0 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\nr9 = 10000\nl: r0 += r9\nr2 ^= r9\nr3 -= r9\nr4 |= r9\nr5 += 3\nr9 += -1\nif r9 != 0 goto l\nexit",
    ),
    (
        "murmur 32",
        "w0 = 17\nr9 = 10000\nl: w2 = w9\nw2 *= -862048943\nw3 = w2\nw2 <<= 15\nw3 >>= 17\nw2 |= w3\nw2 *= 461845907\nw0 ^= w2\nw3 = w0\nw0 <<= 13\nw3 >>= 19\nw0 |= w3\nw0 *= 5\nw0 += -430675100\nr9 += -1\nif r9 != 0 goto l\nexit",
    ),
    (
        "checksum",
        "r0 = 0\nr2 = r1\nr9 = 750\nl: r3 = *(u16 *)(r2 +0)\nr0 += r3\nr2 += 2\nr9 += -1\nif r9 != 0 goto l\nexit",
    ),
    (
        "stack",
        "r0 = 0\nr9 = 10000\nl: *(u64 *)(r10 -8) = r9\nr3 = *(u64 *)(r10 -8)\nr0 += r3\n*(u32 *)(r10 -12) = r0\nr9 += -1\nif r9 != 0 goto l\nexit",
    ),
    (
        "state machine",
        "r0 = 0\nr2 = r1\nr9 = 1400\nl: r3 = *(u8 *)(r2 +0)\nif r0 == 0 goto a\nif r0 == 1 goto b\nif r3 != 3 goto n\nr0 = 0\ngoto n\na: if r3 == 7 goto s\ngoto n\ns: r0 = 1\ngoto n\nb: if r3 s< 2 goto z\nr0 = 2\ngoto n\nz: r0 = 0\nn: r2 += 1\nr9 += -1\nif r9 != 0 goto l\nexit",
    ),
    (
        "calls",
        "r0 = 0\nr9 = 3000\nl: r1 = r9\ncall f\nr9 += -1\nif r9 != 0 goto l\nexit\nf: r0 = r1\nr0 += 1\nexit",
    ),
];

fn main() {
    let memory: Vec<u8> = (0..4096u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 29) as u8)
        .collect();
    let address = memory.as_ptr().expose_provenance() as u64;
    let mut product = 1.0f64;
    for (name, text) in PROGRAMS {
        let insns = parse_asm(text, &NoNames)
            .expect("the programs above assemble")
            .insns;
        let linked = Linked::unverified(insns, &|_| None).expect("and link");
        let program = Program::load(&linked).expect("and load");
        let regions = AllMemory;
        let mut steps = 0u64;
        let mut count = |_: ring3_interp::TraceStep<'_>| steps += 1;
        let mut checks = ring3_interp::Checks::new(&regions);
        checks.trace = Some(&mut count);
        // SAFETY: 1. the programs touch only their stack and the first bytes of `memory`.
        unsafe { program.run_checked([address, 4096, 0, 0, 0], checks) }.expect("and run");
        let entry = program.entry();
        let mut best = f64::MAX;
        for _ in 0..4000 {
            let begin = Instant::now();
            // SAFETY: 1. as above; the program lives.
            std::hint::black_box(unsafe { run(&entry, address) });
            best = best.min(begin.elapsed().as_nanos() as f64);
        }
        let per_insn = best / steps as f64;
        product *= per_insn;
        println!("{name:14} {steps:8} insns  {per_insn:.3} ns per insn");
    }
    println!(
        "geometric mean {:.3} ns per insn",
        product.powf(1.0 / PROGRAMS.len() as f64)
    );
}

struct AllMemory;

impl ring3_interp::MemoryPolicy for AllMemory {
    fn check(
        &self,
        _: u64,
        _: u64,
        _: ring3_runtime::Access,
    ) -> Result<(), ring3_runtime::AccessViolation> {
        Ok(())
    }
}
