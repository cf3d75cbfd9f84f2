//! Why a program was rejected, for people: the place, what was known of the registers it names, the way that led there, and what
//! usually helps. Key types: [`Diagnosis`] (data), [`Diagnosis::render`] (text as rustc writes it).
//!
//! Everything is read from the path that was walked when the rule broke; nothing is kept while programs are accepted.
//! Neighbours: `trace` walks the path backwards, `words` puts registers into words, `advice` is the table of remedies.

mod advice;
mod render;
mod trace;
mod words;

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ring3_isa::{Insn, Operand, Reg, disasm};
use ring3_uapi::Errno;

use crate::env::{Env, Facts, Slot};
use crate::error::{RejectKind, Violation};
use crate::log::insn::{ProgramNames, find_line_info};
use crate::log::state::write_reg;

pub use advice::advice_for;

/// A line of the program's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// As the compiler was given it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1; 0 if it is not known.
    pub column: u32,
    /// The line itself, indentation included.
    pub text: String,
}

/// An instruction and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Instruction slot.
    pub insn_idx: u32,
    /// The instruction as the log shows it, without the opcode.
    pub insn: String,
    /// Function that holds it; empty if it has no name.
    pub function: String,
    /// From the program's line information, if it has any.
    pub source: Option<SourceLine>,
}

/// What was known of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterNote {
    /// 0 to 10.
    pub number: u8,
    /// In words: `a pointer to a value of map 'counts', or null`.
    pub words: String,
    /// In the kernel's notation: `map_value_or_null(id=1,map=counts,ks=4,vs=8)`; empty if that says no more.
    pub state: String,
    /// The instruction of the same function that gave it this value; none for arguments.
    pub set_at: Option<Place>,
}

/// A conditional jump on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The jump.
    pub at: Place,
    /// It jumped; else the path went on with the next instruction.
    pub taken: bool,
    /// Where the path went on.
    pub to: Place,
}

/// Why a program was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The errno of BPF_PROG_LOAD.
    pub errno: Errno,
    /// The rule that broke, in the kernel's words.
    pub message: String,
    /// What else the kernel said of it.
    pub details: Vec<String>,
    /// The program breaks no rule that is known: this verifier cannot judge it yet.
    pub is_unjudged: bool,
    /// Where the path stood; none if the program was refused before it was walked.
    pub at: Option<Place>,
    /// Registers that the message or the instruction names.
    pub registers: Vec<RegisterNote>,
    /// The last decisions on the way, oldest first.
    pub path: Vec<Decision>,
    /// There were decisions before those.
    pub path_is_cut: bool,
    /// What usually helps.
    pub help: Option<&'static str>,
}

/// Decisions that are told.
const DECISIONS_MAX: usize = 12;

/// Of a program that was refused before it was walked.
pub(crate) fn of_early(errno: Errno, text: &str, kind: RejectKind) -> Diagnosis {
    let (message, details) = split_message(text);
    Diagnosis {
        errno,
        help: advice_for(text),
        message,
        details,
        is_unjudged: kind == RejectKind::Unjudged,
        at: None,
        registers: Vec::new(),
        path: Vec::new(),
        path_is_cut: false,
    }
}

/// Of the path in `env`, on which a rule broke.
pub(crate) fn of_path(env: &Env<'_>, violation: &Violation) -> Diagnosis {
    let facts = env.facts;
    let at = env.cur.insn_idx;
    let trace = trace::Trace::of(env, DECISIONS_MAX);
    let registers = named_registers(facts, at, &violation.text);
    let registers = registers.into_iter().filter_map(|number| {
        let reg = &env.cur.cur_frame().regs[usize::from(number)];
        let mut state = String::new();
        if reg.ty.is_init() && !reg.is_const() {
            // Writing to a String cannot fail.
            let _ = write_reg(&mut state, facts, env.cur.curframe, reg);
        }
        Some(RegisterNote {
            number,
            words: words::of_reg(facts, reg),
            state,
            set_at: trace.set_at(Reg::new(number)?).map(|at| place(facts, at)),
        })
    });
    let decision = |step: &trace::Step| Decision {
        at: place(facts, step.at),
        taken: step.to != step.at + 1,
        to: place(facts, step.to),
    };
    Diagnosis {
        at: Some(place(facts, at)),
        registers: registers.collect(),
        path: trace.decisions.iter().rev().map(decision).collect(),
        path_is_cut: trace.is_cut,
        ..of_early(violation.errno, &violation.text, violation.kind)
    }
}

/// The line that names the rule, and the others.
fn split_message(text: &str) -> (String, Vec<String>) {
    // Source lines in between are told with the place.
    let lines = text.lines().filter(|line| !line.starts_with("; "));
    let mut lines: Vec<String> = lines.map(ToString::to_string).collect();
    // The states behind this line belong to it.
    let is_first = text.starts_with("infinite loop");
    let message = match lines.len() {
        0 => "the kernel refuses this without a message".to_string(),
        _ if is_first => lines.remove(0),
        last => lines.remove(last - 1),
    };
    (message, lines)
}

/// Registers that the message names (`R3`, `arg#0`), else those that the instruction reads; the frame pointer says nothing.
fn named_registers(facts: &Facts, at: u32, message: &str) -> BTreeSet<u8> {
    let mut named = BTreeSet::new();
    for (begin, mark) in [("R", 0), ("arg#", 1)] {
        for (found, _) in message.match_indices(begin) {
            let is_word = !message[..found].ends_with(|c: char| c.is_ascii_alphanumeric());
            let digits = message[found + begin.len()..]
                .split(|c: char| !c.is_ascii_digit())
                .next();
            if let Some(number) = digits.and_then(|digits| digits.parse::<u8>().ok())
                && is_word
                && number + mark < 10
            {
                named.insert(number + mark);
            }
        }
    }
    if named.is_empty()
        && let Some(Slot::Insn(insn)) = facts.slots.get(at as usize)
    {
        named.extend(read_registers(insn).into_iter().flatten());
    }
    named.remove(&Reg::FP.number());
    named
}

fn read_registers(insn: &Insn) -> [Option<u8>; 2] {
    let number = |reg: &Reg| Some(reg.number());
    let operand = |src: &Operand| match src {
        Operand::Reg(src) => Some(src.number()),
        Operand::Imm(_) => None,
    };
    match insn {
        Insn::Alu { dst, src, .. } | Insn::Jmp { dst, src, .. } | Insn::Store { dst, src, .. } => {
            [number(dst), operand(src)]
        }
        Insn::Atomic { dst, src, .. } => [number(dst), number(src)],
        Insn::Load { src, .. } | Insn::Movsx { src, .. } | Insn::AddrSpaceCast { src, .. } => {
            [number(src), None]
        }
        Insn::Neg { dst, .. } | Insn::Endian { dst, .. } => [number(dst), None],
        Insn::Exit => [Some(0), None],
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => [Some(6), None],
        Insn::LoadImm64 { .. }
        | Insn::Ja { .. }
        | Insn::Jal { .. }
        | Insn::MayGoto { .. }
        | Insn::Call(_)
        | Insn::Internal(_) => [None, None],
    }
}

fn place(facts: &Facts, insn_idx: u32) -> Place {
    let names = ProgramNames { facts, insn_idx };
    let slots = facts.raw.get(insn_idx as usize..).unwrap_or_default();
    let holds = |subprog: &&crate::env::Subprog| (subprog.start..subprog.end).contains(&insn_idx);
    Place {
        insn_idx,
        insn: if slots.is_empty() {
            String::new()
        } else {
            let text = disasm(slots, &names).to_string();
            // Without the opcode in front, which means little to people.
            match text.split_once(") ") {
                Some((code, insn)) if code.starts_with('(') => insn.to_string(),
                _ => text,
            }
        },
        function: facts
            .subprogs
            .iter()
            .find(holds)
            .map_or_else(String::new, |subprog| subprog.name.clone()),
        source: source_line(facts, insn_idx),
    }
}

fn source_line(facts: &Facts, insn_idx: u32) -> Option<SourceLine> {
    let (_, info) = find_line_info(facts, insn_idx)?;
    let btf = facts.prog_btf.as_ref()?;
    let text = |off| btf.str_by_offset(off).unwrap_or_default();
    Some(SourceLine {
        file: text(info.file_name_off).to_string(),
        line: info.line_col >> 10,
        column: info.line_col & 0x3ff,
        text: text(info.line_off).trim_end().to_string(),
    })
}
