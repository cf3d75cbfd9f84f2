//! Conformance vectors: small programs with inputs and the results that RFC 9669 asks for. One corpus for every engine.
//!
//! The files are `fixtures/asm/conformance/*.vectors`, text:
//!
//! ```text
//! # A comment.
//! vector add64_reg                  a program and its name
//!   r{d} = {a} ll                   lines of assembler text (ring3-isa), indented; {x} is replaced
//!   r{s} = {b} ll
//!   r{d} += r{s}
//!   r0 = r{d}
//!   exit
//! registers d s                     {d} and {s} stand for every ordered pair of r0..r9: the first case runs with each pair,
//!                                   a later case with one, so that all pairs and all cases occur
//! memory 01 02 03                   what r1 points to at the start; r2 is its length in bytes (none: empty)
//! case a=1 b=2 => 3                 values for {a} and {b}, then r0 at the end; numbers as in the assembler, negative for 64 bits too
//! case a=1 b=2 => 3 memory 01 03    and the memory at the end
//! case a=1 b=2 => error TEXT        the run fails with a message that contains TEXT; in a value, ~ stands for a space
//! ```
//!
//! Key types: [`Vector`] (one program to run), [`Expect`]. Neighbours: the engines' tests.

#![forbid(unsafe_code)]

use std::fmt;

use ring3_isa::{NoNames, RawInsn, parse_asm};

const FILES: &[(&str, &str)] = &[
    (
        "alu64",
        include_str!("../../../fixtures/asm/conformance/alu64.vectors"),
    ),
    (
        "alu32",
        include_str!("../../../fixtures/asm/conformance/alu32.vectors"),
    ),
    (
        "byte_order",
        include_str!("../../../fixtures/asm/conformance/byte_order.vectors"),
    ),
    (
        "jumps",
        include_str!("../../../fixtures/asm/conformance/jumps.vectors"),
    ),
    (
        "memory",
        include_str!("../../../fixtures/asm/conformance/memory.vectors"),
    ),
    (
        "atomics",
        include_str!("../../../fixtures/asm/conformance/atomics.vectors"),
    ),
    (
        "calls",
        include_str!("../../../fixtures/asm/conformance/calls.vectors"),
    ),
    (
        "invalid",
        include_str!("../../../fixtures/asm/conformance/invalid.vectors"),
    ),
];

/// Gives `check` every vector, with the place where it stands; returns how many there are.
///
/// # Panics
/// If a file cannot be read as vectors, or has none.
pub fn each(mut check: impl FnMut(&str, &Vector)) -> usize {
    let mut count = 0;
    for (file, text) in FILES {
        let vectors = parse_vectors(text).unwrap_or_else(|error| panic!("{file}.vectors: {error}"));
        assert!(!vectors.is_empty(), "{file}");
        for vector in &vectors {
            check(
                &format!("{file}.vectors:{}: {}", vector.line, vector.name),
                vector,
            );
            count += 1;
        }
    }
    count
}

/// The README's example, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// What a run of a vector must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// r0, and the memory at the end where the vector says so.
    Result {
        /// r0.
        r0: u64,
        /// Memory at the end.
        memory: Option<Vec<u8>>,
    },
    /// The run fails with a message that contains this.
    Error(String),
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    /// The vector's name and, after a slash, case and registers.
    pub name: String,
    /// Line of the case, from 1.
    pub line: usize,
    /// The program.
    pub insns: Vec<RawInsn>,
    /// What r1 points to.
    pub memory: Vec<u8>,
    /// What must come out.
    pub expect: Expect,
}

impl Vector {
    /// The program as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|insn| insn.to_bytes()).collect()
    }
}

/// What is wrong with a file of vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorError {
    /// Line, from 1.
    pub line: usize,
    /// What about it.
    pub message: String,
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for VectorError {}

/// A `vector` block while its cases are read.
#[derive(Default)]
struct Block<'a> {
    name: &'a str,
    code: Vec<&'a str>,
    registers: Vec<&'a str>,
    memory: Vec<u8>,
    cases: usize,
}

/// Reads a file of vectors and expands it to programs.
///
/// # Errors
/// [`VectorError`]: an unknown line, a case without program, a value that is missing, a program that does not assemble.
pub fn parse_vectors(text: &str) -> Result<Vec<Vector>, VectorError> {
    let mut vectors = Vec::new();
    let mut block = Block::default();
    for (at, line_text) in text.lines().enumerate() {
        let line = at + 1;
        let fail = |message: String| VectorError { line, message };
        let trimmed = line_text.trim();
        if trimmed.is_empty() || line_text.starts_with('#') {
            continue;
        }
        if line_text.starts_with(' ') {
            block.code.push(trimmed);
            continue;
        }
        let (word, rest) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        match word {
            "vector" => {
                block = Block {
                    name: rest.trim(),
                    ..Block::default()
                }
            }
            "registers" => block.registers = rest.split_whitespace().collect(),
            "memory" => block.memory = bytes(rest).map_err(fail)?,
            "case" => {
                let case = parse_case(rest).map_err(fail)?;
                for pair in pairs(block.registers.len(), block.cases) {
                    vectors.push(expand(&block, &case, pair, line)?);
                }
                block.cases += 1;
            }
            other => return Err(fail(format!("'{other}' begins no line of a vector"))),
        }
    }
    Ok(vectors)
}

struct Case<'a> {
    values: Vec<(&'a str, &'a str)>,
    expect: Expect,
}

fn parse_case(text: &str) -> Result<Case<'_>, String> {
    let (values, expect) = text.split_once("=>").ok_or("a case needs '=>'")?;
    let pair = |word| str::split_once(word, '=').ok_or(format!("'{word}' is not name=value"));
    let values = values
        .split_whitespace()
        .map(pair)
        .collect::<Result<_, _>>()?;
    let expect = expect.trim();
    let expect = match expect.strip_prefix("error ") {
        Some(message) => Expect::Error(message.trim().to_string()),
        None => {
            let (r0, memory) = match expect.split_once(" memory ") {
                Some((r0, memory)) => (r0, Some(bytes(memory)?)),
                None => (expect, None),
            };
            Expect::Result {
                r0: number(r0)?,
                memory,
            }
        }
    };
    Ok(Case { values, expect })
}

fn number(text: &str) -> Result<u64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|_| format!("'{text}' is not a number of 64 bits"))?;
    Ok(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let byte = |word| u8::from_str_radix(word, 16).map_err(|_| format!("'{word}' is not a byte"));
    text.split_whitespace().map(byte).collect()
}

/// The register pairs with which a case runs; one pair of no meaning for a vector without registers.
fn pairs(names: usize, case: usize) -> Vec<(u8, u8)> {
    let all: Vec<(u8, u8)> = match names {
        0 => return vec![(0, 0)],
        1 => (0..10).map(|register| (register, register)).collect(),
        _ => (0..10)
            .flat_map(|d| (0..10).filter(move |s| *s != d).map(move |s| (d, s)))
            .collect(),
    };
    if case == 0 {
        all
    } else {
        vec![all[(case * 7) % all.len()]]
    }
}

fn expand(
    block: &Block<'_>,
    case: &Case<'_>,
    (first, second): (u8, u8),
    line: usize,
) -> Result<Vector, VectorError> {
    let mut text = block.code.join("\n");
    for (name, value) in &case.values {
        text = text.replace(&format!("{{{name}}}"), &value.replace('~', " "));
    }
    let mut name = format!("{}/{}", block.name, block.cases);
    for (placeholder, register) in block.registers.iter().zip([first, second]) {
        text = text.replace(&format!("{{{placeholder}}}"), &register.to_string());
        name.push_str(&format!(" {placeholder}=r{register}"));
    }
    let program = parse_asm(&text, &NoNames).map_err(|error| VectorError {
        line,
        message: format!("{name}: {error}"),
    })?;
    Ok(Vector {
        name,
        line,
        insns: program.insns,
        memory: block.memory.clone(),
        expect: case.expect.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_expands_to_all_pairs_once_and_one_pair_per_further_case() {
        let text = "# two registers\nvector v\n  r{d} = {a}\n  exit\nregisters d s\nmemory 0a ff\ncase a=1 => -1\ncase a=2 => 0x10 memory 00 01\ncase a=3 => error no\n";
        let vectors = parse_vectors(text).unwrap();
        assert_eq!(vectors.len(), 90 + 2);
        assert_eq!(vectors[0].name, "v/0 d=r0 s=r1");
        assert_eq!(vectors[0].memory, [0x0a, 0xff]);
        assert_eq!(
            vectors[0].expect,
            Expect::Result {
                r0: u64::MAX,
                memory: None
            }
        );
        let memory = Some(vec![0, 1]);
        assert_eq!(vectors[90].expect, Expect::Result { r0: 16, memory });
        assert_eq!(vectors[91].expect, Expect::Error("no".into()));
    }

    #[test]
    fn errors_name_the_line() {
        let case = |text: &str| parse_vectors(text).unwrap_err().to_string();
        assert_eq!(
            case("vector v\nfoo\n"),
            "line 2: 'foo' begins no line of a vector"
        );
        assert_eq!(
            case("vector v\n  r0 = {x}\ncase => 1\n"),
            "line 3: v/0: line 1, column 6: expected a register, a number, a load or a named value"
        );
        assert_eq!(case("case a => 1"), "line 1: 'a' is not name=value");
        assert_eq!(case("case a=1"), "line 1: a case needs '=>'");
        assert_eq!(case("memory 100"), "line 1: '100' is not a byte");
    }
}
