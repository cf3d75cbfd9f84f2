//! The conformance vectors on the interpreter's checked mode, and those that succeed on the unchecked mode too.

use ring3_interp::{Program, run_unverified};
use ring3_runtime::{Linked, run};
use ring3_vectors::{Expect, each};

#[test]
fn checked_mode_gives_what_the_vectors_say() {
    let mut seen = [false; 256];
    let count = each(|place, vector| {
        let mut memory = vector.memory.clone();
        let result = run_unverified(&vector.bytes(), &mut memory);
        match (&vector.expect, result) {
            (Expect::Result { r0, memory: after }, Ok(value)) => {
                assert_eq!(value, *r0, "{place}: {value:#x}, expected {r0:#x}");
                assert_eq!(&memory, after.as_ref().unwrap_or(&vector.memory), "{place}");
                vector
                    .insns
                    .iter()
                    .for_each(|insn| seen[usize::from(insn.code)] = true);
            }
            (Expect::Error(text), Err(error)) => {
                let message = error.to_string();
                assert!(
                    message.starts_with("insn ") && message.contains(text),
                    "{place}: {message}"
                );
            }
            (expected, result) => panic!("{place}: {result:?}, expected {expected:?}"),
        }
    });
    assert!(count > 15_000, "{count}");
    // Every opcode that a program without packet, maps and kernel functions can have.
    let packet_loads = [0x20, 0x28, 0x30, 0x40, 0x48, 0x50];
    for code in 0..=u8::MAX {
        let expected = ring3_isa::is_known_opcode(code) && !packet_loads.contains(&code);
        assert!(
            seen[usize::from(code)] || !expected,
            "no vector runs opcode {code:#04x}"
        );
    }
}

#[test]
fn unchecked_mode_gives_the_same() {
    let mut runs = 0;
    each(|place, vector| {
        let Expect::Result { r0, memory: after } = &vector.expect else {
            return;
        };
        // The checked mode clears the stack, the unchecked one does not; memory length is an argument of unverified programs only.
        if vector.name.starts_with("stack_is_zero") || vector.name.starts_with("memory_length") {
            return;
        }
        let linked = Linked::unverified(vector.insns.clone(), &|_| None).unwrap();
        let program = Program::load(&linked).unwrap();
        let mut memory = vector.memory.clone();
        let address = memory.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: 1. `checked_mode_gives_what_the_vectors_say` runs the same program on the same input with every access checked.
        let value = unsafe { run(&program.entry(), address) };
        assert_eq!(value, *r0, "{place}");
        assert_eq!(&memory, after.as_ref().unwrap_or(&vector.memory), "{place}");
        runs += 1;
    });
    assert!(runs > 15_000, "{runs}");
}
