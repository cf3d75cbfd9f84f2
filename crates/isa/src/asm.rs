//! The assembler: text to slots. It reads what `text` writes, the kernel's own text where that is unambiguous, and, for
//! people, labels, comments, and instructions without their `(op)` prefix.
//!
//! A line holds any number of labels (`name:`), then at most one instruction, then a comment (`;` or `//`). An instruction
//! may begin with its opcode in parentheses, which must then be the one that the text encodes to. Places of jumps and calls
//! are labels or distances in slots (`pc+3`, `+3`). Numbers are decimal or `0x` hexadecimal.
//!
//! ```text
//! start:  r2 = r10                       r1 = map[0] ll            w1 s>>= 3
//!         *(u32 *)(r10 -4) = 0           r1 = 0x1122334455 ll      if w1 s> -5 goto start
//!         r3 = (s8)r2                    r0 = be16 r0              call bpf_map_lookup_elem#1
//!         lock *(u64 *)(r1 +8) += r2     r1 = func[start] ll       call #1        call start
//!         r0 = *(u8 *)skb[r1 + 12]       .slot 0x85 0 3 0 1        call btf[120]  may_goto +2
//! ```
//!
//! Key types: [`Assembly`], [`AsmError`]. Neighbours: `asm_line` (one instruction), `asm_cursor` (its tokens), `text` (the other direction).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::asm_cursor::{Cursor, Place};
use crate::asm_line::instruction;
use crate::uses::DistanceField;
use crate::{AsmNames, RawInsn};

/// Resolves names that stand in the text without their number.
pub trait AsmResolve {
    /// The helper of this name: `bpf_map_lookup_elem`.
    fn helper_id(&self, name: &str) -> Option<i32> {
        let _ = name;
        None
    }

    /// The number for a name in `map[name]`.
    fn map(&self, name: &str) -> Option<i32> {
        let _ = name;
        None
    }

    /// The BTF id for a name in `btf[name]`.
    fn btf_id(&self, name: &str) -> Option<i32> {
        let _ = name;
        None
    }
}

impl AsmResolve for crate::NoNames {}

/// An assembled program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    /// The slots.
    pub insns: Vec<RawInsn>,
    /// For each slot the line of the text it came from, from 1.
    pub lines: Vec<u32>,
    /// Labels with the slot they name, in the order of the text.
    pub labels: Vec<(String, usize)>,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsmError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What was expected or is wrong.
    pub message: String,
}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )
    }
}

impl core::error::Error for AsmError {}

/// A jump or call whose place is a label.
struct Pending<'a> {
    slot: usize,
    name: &'a str,
    line: u32,
    column: u32,
}

/// Assembles a program.
///
/// # Errors
/// The first fault in the text: bad syntax, a number out of its field's range, a prefix that is not the instruction's
/// opcode, an unknown or twice defined label, a distance that does not fit.
///
/// ```
/// use ring3_isa::{NoNames, RawInsn, parse_asm};
/// let program = parse_asm("r0 = 1\nif r1 != 0 goto out\nr0 = 2\nout: exit", &NoNames)?;
/// assert_eq!(program.insns[1], RawInsn::new(0x55, 1, 0, 1, 0));
/// let error = parse_asm("r0 = 1\nr0 += r12", &NoNames).unwrap_err();
/// assert_eq!(error.to_string(), "line 2, column 7: r12 is not a register: there are r0 to r11");
/// # Ok::<(), ring3_isa::AsmError>(())
/// ```
pub fn parse_asm(text: &str, names: &impl AsmResolve) -> Result<Assembly, AsmError> {
    let mut program = Assembly::default();
    let mut pending = Vec::new();
    for (at, line_text) in text.lines().enumerate() {
        let line = at as u32 + 1;
        let mut cursor = Cursor::new(line_text, line);
        parse_line(&mut cursor, names, &mut program, &mut pending)?;
    }
    let mut sorted: Vec<(&str, usize)> = program
        .labels
        .iter()
        .map(|(name, slot)| (name.as_str(), *slot))
        .collect();
    sorted.sort_unstable();
    for item in &pending {
        resolve(item, &sorted, &mut program.insns)?;
    }
    check_labels(text, &sorted)?;
    Ok(program)
}

fn parse_line<'a>(
    cursor: &mut Cursor<'a>,
    names: &impl AsmResolve,
    program: &mut Assembly,
    pending: &mut Vec<Pending<'a>>,
) -> Result<(), AsmError> {
    let line = cursor.line();
    while let Some(label) = cursor.label() {
        program.labels.push((label.into(), program.insns.len()));
    }
    if cursor.at_end() {
        return Ok(());
    }
    let slot = program.insns.len();
    let prefix = cursor.opcode_prefix()?;
    let start = cursor.column();
    let parsed = instruction(cursor, names)?;
    if !cursor.at_end() {
        return Err(cursor.error("expected the end of the instruction"));
    }
    let code = parsed.slots().first().map_or(0, |first| first.code);
    if let Some(prefix) = prefix
        && prefix != code
    {
        let message =
            alloc::format!("the prefix is ({prefix:02x}), but this is opcode ({code:02x})");
        return Err(AsmError {
            line,
            column: start,
            message,
        });
    }
    program.insns.extend_from_slice(parsed.slots());
    program.lines.resize(program.insns.len(), line);
    if let Some(Place { name, column }) = parsed.place {
        pending.push(Pending {
            slot,
            name,
            line,
            column,
        });
    }
    Ok(())
}

fn resolve(
    item: &Pending<'_>,
    labels: &[(&str, usize)],
    insns: &mut [RawInsn],
) -> Result<(), AsmError> {
    let fail = |message| AsmError {
        line: item.line,
        column: item.column,
        message,
    };
    let first = labels.partition_point(|(name, _)| *name < item.name);
    let Some((_, target)) = labels.get(first).filter(|(name, _)| *name == item.name) else {
        return Err(fail(alloc::format!("no label '{}'", item.name)));
    };
    let distance = *target as i64 - item.slot as i64 - 1;
    let insn = &mut insns[item.slot];
    let moved = i32::try_from(distance)
        .ok()
        .and_then(|distance| insn.with_distance(distance));
    *insn = moved.ok_or_else(|| {
        let field = match insn.distance_field() {
            Some(DistanceField::Offset) => "16 bits",
            Some(DistanceField::Immediate) | None => "32 bits",
        };
        let name = item.name;
        fail(alloc::format!(
            "label '{name}' is {distance} slots away, more than {field} hold"
        ))
    })?;
    Ok(())
}

/// A label that is defined twice is an error at its second place.
fn check_labels(text: &str, sorted: &[(&str, usize)]) -> Result<(), AsmError> {
    let Some(twice) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) else {
        return Ok(());
    };
    let name = twice[0].0;
    let mut seen = false;
    for (at, line_text) in text.lines().enumerate() {
        let mut cursor = Cursor::new(line_text, at as u32 + 1);
        let mut column = cursor.column();
        while let Some(label) = cursor.label() {
            if label == name && seen {
                let message = alloc::format!("label '{name}' is defined twice");
                return Err(AsmError {
                    line: at as u32 + 1,
                    column,
                    message,
                });
            }
            seen |= label == name;
            column = cursor.column();
        }
    }
    Ok(())
}

/// The assembler's text of a whole program, a line an instruction.
///
/// ```
/// use ring3_isa::{NoNames, format_asm, parse_asm};
/// let text = "(b7) r0 = 1\n(95) exit\n";
/// let program = parse_asm(text, &NoNames)?;
/// assert_eq!(format_asm(&program.insns, &NoNames), text);
/// # Ok::<(), ring3_isa::AsmError>(())
/// ```
pub fn format_asm(insns: &[RawInsn], names: &impl AsmNames) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < insns.len() {
        let text = crate::asm_text(&insns[at..], names);
        // Writing to a String does not fail.
        let _ = fmt::Write::write_fmt(&mut out, format_args!("{text}\n"));
        at += text.slots().max(1);
    }
    out
}
