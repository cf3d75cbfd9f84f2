//! A plugin of the public bpf_conformance runner: program bytes in hex on standard input, memory in hex as first argument, r0 in hex on
//! standard output.
//!
//! Programs are not verified: r1 is the memory, r2 its length, and every access is checked against memory and stack, by the interpreter
//! (`--interpret`, the default) as by the machine code (`--jit`). What cannot be decoded or does a bad access exits with status 1 and a
//! message.

#![forbid(unsafe_code)]

use std::{io::Read, process::ExitCode};

use ring3::{
    interp::run_unverified,
    isa::RawInsn,
    jit_x86_64::{Options, compile_checked},
    runtime::Linked,
};

/// Jumps back and calls after which a program is taken to have no end.
const BUDGET: i64 = 100_000_000;

#[derive(Clone, Copy)]
enum Mode {
    Interpret,
    Jit,
}

fn main() -> ExitCode {
    match run() {
        Ok(r0) => {
            println!("{r0:x}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("ring3-conformance: {message}");
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<u64, String> {
    let mut mode = Mode::Interpret;
    let mut memory = None;
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--jit" => mode = Mode::Jit,
            "--interpret" => mode = Mode::Interpret,
            _ if memory.is_none() && !arg.starts_with("--") => memory = Some(arg),
            _ => {
                return Err(format!(
                    "unknown argument '{arg}'; usage: ring3-conformance [MEMORY] [--jit|--interpret]"
                ));
            }
        }
    }
    let mut memory =
        bytes_of(&memory.unwrap_or_default()).map_err(|error| format!("memory: {error}"))?;
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("standard input: {error}"))?;
    let program = bytes_of(&text).map_err(|error| format!("program: {error}"))?;
    match mode {
        Mode::Interpret => run_unverified(&program, &mut memory).map_err(|error| error.to_string()),
        Mode::Jit => run_jit(&program, &mut memory),
    }
}

fn run_jit(program: &[u8], memory: &mut [u8]) -> Result<u64, String> {
    let (slots, rest) = program.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(format!(
            "a program of {} bytes, which is no multiple of 8",
            program.len()
        ));
    }
    let insns = slots
        .iter()
        .map(|slot| RawInsn::from_bytes(*slot))
        .collect();
    let linked = Linked::unverified(insns, &|_| None).map_err(|error| error.to_string())?;
    let compiled =
        compile_checked(&linked, &Options::default()).map_err(|error| error.to_string())?;
    compiled
        .run(memory, BUDGET)
        .map_err(|error| error.to_string())
}

/// Bytes of hex digits, white space between them allowed.
fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| {
            c.to_digit(16)
                .map(|digit| digit as u8)
                .ok_or(format!("'{c}' is no hex digit"))
        })
        .collect::<Result<_, _>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("an odd number of hex digits".to_owned());
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
