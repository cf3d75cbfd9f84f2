//! Checked programs: the same results, and no access beyond stack and memory.

use ring3_isa::NoNames;

use super::{MEMORY_BYTES, Rng, link, mix, model, random};
use crate::{CheckedError, CheckedProgram, Options, compile_checked};

fn program(text: &str) -> CheckedProgram {
    let program = ring3_isa::parse_asm(text, &NoNames).expect("assembles");
    compile_checked(&link(&program.insns), &Options::default()).expect("compiles")
}

fn run(text: &str, memory: &mut [u8]) -> Result<u64, CheckedError> {
    program(text).run(memory, 1000)
}

#[test]
fn accesses_inside_memory_and_stack_work() {
    let mut memory = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(
        run("r0 = *(u32 *)(r1 +4)\n exit", &mut memory),
        Ok(0x0807_0605)
    );
    assert_eq!(run("r0 = r2\n exit", &mut memory), Ok(8));
    assert_eq!(
        run(
            "*(u64 *)(r10 -512) = 9\n r0 = *(u64 *)(r10 -512)\n exit",
            &mut memory
        ),
        Ok(9)
    );
    assert_eq!(
        run("*(u8 *)(r1 +7) = 9\n r0 = 0\n exit", &mut memory),
        Ok(0)
    );
    assert_eq!(memory[7], 9);
    assert_eq!(run("r0 = r1\n exit", &mut []), Ok(0));
}

#[test]
fn bad_accesses_end_the_run() {
    let mut memory = [0; 8];
    for text in [
        "r0 = *(u32 *)(r1 +5)\n exit",
        "r0 = *(u8 *)(r1 -1)\n exit",
        "r0 = *(u64 *)(r10 +0)\n exit",
        "*(u8 *)(r1 +8) = 1\n exit",
        "*(u64 *)(r10 -4) = 1\n exit",
        "r3 = 0\n r0 = *(u8 *)(r3 +0)\n exit",
        "r3 = -1\n *(u64 *)(r3 +0) = r3\n exit",
        "r2 = 1\n lock *(u64 *)(r1 +4) += r2\n exit",
    ] {
        assert!(
            matches!(run(text, &mut memory), Err(CheckedError::Access(_))),
            "{text}"
        );
    }
    let error = run("r0 = *(u16 *)(r1 +7)\n exit", &mut memory).expect_err("out of bounds");
    assert!(
        error.to_string().contains("invalid load of 2 bytes"),
        "{error}"
    );
    assert!(error.to_string().contains("(memory+0x7)"), "{error}");
}

#[test]
fn runs_end() {
    assert_eq!(
        run("goto -1\n exit", &mut []),
        Err(CheckedError::OutOfBudget)
    );
    assert_eq!(
        run("r0 = 1\n if r0 == 1 goto -2\n exit", &mut []),
        Err(CheckedError::OutOfBudget)
    );
    assert_eq!(
        run("f: call f\n exit", &mut []),
        Err(CheckedError::OutOfStack)
    );
    assert_eq!(
        run("may_goto +1\n goto -2\n exit", &mut []),
        Err(CheckedError::OutOfBudget)
    );
    assert_eq!(
        run("r0 = 0\n r0 += 1\n if r0 != 999 goto -2\n exit", &mut []),
        Ok(999)
    );
}

#[test]
fn functions_have_stacks_of_their_own() {
    let text = "
        *(u64 *)(r10 -8) = 5
        r1 = r10
        call f
        r1 = *(u64 *)(r10 -8)
        r0 += r1
        exit
    f:  *(u64 *)(r10 -8) = 7
        r0 = *(u64 *)(r1 -8)
        exit";
    assert_eq!(run(text, &mut []), Ok(10));
}

#[test]
fn random_programs_agree_with_the_model() {
    for seed in 0..400 {
        let mut rng = Rng(seed * 104_729 + 3);
        let program = random::program(&mut rng);
        let mut context = [0; MEMORY_BYTES];
        for byte in &mut context {
            *byte = rng.next() as u8;
        }
        let expected = model(&program, mix, context);
        let compiled = compile_checked(&link(&program), &Options::default()).expect("compiles");
        let mut memory = context;
        let r0 = compiled.run(&mut memory, 1_000_000);
        assert_eq!((r0, memory), (Ok(expected.0), expected.1), "seed {seed}");
    }
}
