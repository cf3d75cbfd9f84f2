//! The conformance vectors on compiled code: with checks, and those that succeed without, in every variant.

use ring3_runtime::{Linked, run};
use ring3_vectors::{Expect, Vector, each};

use super::variants;
use crate::{CheckedProgram, Options, compile, compile_checked};

fn checked(vector: &Vector) -> Result<CheckedProgram, String> {
    let linked =
        Linked::unverified(vector.insns.clone(), &|_| None).map_err(|error| error.to_string())?;
    compile_checked(&linked, &Options::default()).map_err(|error| error.to_string())
}

#[test]
fn checked_code_gives_what_the_vectors_say() {
    let count = each(|place, vector| {
        let mut memory = vector.memory.clone();
        let result = checked(vector).and_then(|program| {
            let r0 = program.run(&mut memory, 100_000_000);
            r0.map_err(|error| error.to_string())
        });
        match (&vector.expect, result) {
            (Expect::Result { r0, memory: after }, Ok(value)) => {
                assert_eq!(value, *r0, "{place}: {value:#x}, expected {r0:#x}");
                assert_eq!(&memory, after.as_ref().unwrap_or(&vector.memory), "{place}");
            }
            // The text is the interpreter's.
            (Expect::Error(_), Err(_)) => {}
            (expected, result) => panic!("{place}: {result:?}, expected {expected:?}"),
        }
    });
    assert!(count > 15_000, "{count}");
}

#[test]
fn unchecked_code_gives_the_same_in_every_variant() {
    let mut runs = 0;
    each(|place, vector| {
        let Expect::Result { r0, memory: after } = &vector.expect else {
            return;
        };
        // The checked mode clears registers and the stack and has the memory's length in r2; no verifier accepts a program that reads what a
        // function left in its argument registers, so that is not kept.
        let only_checked = [
            "stack_is_zero",
            "memory_length",
            "callee_sees_the_callers_registers",
        ];
        if only_checked
            .iter()
            .any(|name| vector.name.starts_with(name))
        {
            return;
        }
        let linked = Linked::unverified(vector.insns.clone(), &|_| None).expect("linked above");
        for (name, options) in variants() {
            let compiled = compile(&linked, &options).expect("compilable");
            let mut memory = vector.memory.clone();
            let address = memory.as_mut_ptr().expose_provenance() as u64;
            // SAFETY: 1. `checked_code_gives_what_the_vectors_say` runs the same program on the same input with every access checked.
            let value = unsafe { run(&compiled.entry(), address) };
            assert_eq!(value, *r0, "{name}: {place}");
            let after = after.as_ref().unwrap_or(&vector.memory);
            assert_eq!(&memory, after, "{name}: {place}");
        }
        runs += 1;
    });
    assert!(runs > 15_000, "{runs}");
}
