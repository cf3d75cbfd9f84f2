//! A diagnosis as text, in the form rustc gives its errors.

use alloc::string::{String, ToString};
use core::fmt::{self, Write};

use super::{Decision, Diagnosis, Place, SourceLine};

impl Diagnosis {
    /// The text, several lines with a line end each.
    ///
    /// ```text
    /// error[EACCES]: R0 invalid mem access 'map_value_or_null'
    ///   --> prog.c:23:12 in count()
    ///    |
    /// 23 |     return value->hits;
    ///    |            ^ insn 12: r0 = *(u64 *)(r0 +0)
    ///    = note: r0 is a pointer to a value of map 'hits' (8 bytes), or null
    ///    = help: ...
    /// ```
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let kind = if self.is_unjudged {
            "unjudged"
        } else {
            "error"
        };
        writeln!(out, "{kind}[{}]: {}", self.errno, self.message)?;
        let gutter = self.gutter();
        let pad = " ".repeat(gutter);
        if let Some(at) = &self.at {
            write_place(out, gutter, at, &format_insn(at))?;
        }
        for line in &self.details {
            writeln!(out, "{pad} = kernel: {line}")?;
        }
        for reg in &self.registers {
            writeln!(out, "{pad} = note: r{} is {}", reg.number, reg.words)?;
            if !reg.state.is_empty() {
                writeln!(out, "{pad}         {}", reg.state)?;
            }
        }
        for reg in &self.registers {
            if let Some(at) = &reg.set_at {
                writeln!(out, "note: r{} got its value here", reg.number)?;
                write_place(out, gutter, at, &format_insn(at))?;
            }
        }
        if !self.path.is_empty() {
            writeln!(out, "note: the way that led here")?;
            if self.path_is_cut {
                writeln!(out, "{pad} | ...")?;
            }
            self.write_path(out, gutter)?;
        }
        if let Some(help) = self.help {
            writeln!(out, "help: {help}")?;
        }
        Ok(())
    }

    /// Decisions, repeated ones told once.
    fn write_path(&self, out: &mut String, gutter: usize) -> fmt::Result {
        let mut i = 0;
        while i < self.path.len() {
            let same = |other: &&Decision| **other == self.path[i];
            let times = self.path[i..].iter().take_while(same).count();
            let decision = &self.path[i];
            i += times;
            let again = if times > 1 {
                alloc::format!(" ({times} times)")
            } else {
                String::new()
            };
            match (&decision.at.source, &decision.to.source) {
                (Some(from), to) => {
                    writeln!(out, "{:>gutter$} | {}", from.line, one_column_tabs(from))?;
                    let column = marker_column(from);
                    write!(out, "{:>gutter$} | {:>column$}", "", "^")?;
                    write!(out, " {}", way(decision))?;
                    match to {
                        Some(to) if to.line != from.line => write!(out, ", on to line {}", to.line),
                        _ => write!(out, ", on to insn {}", decision.to.insn_idx),
                    }?;
                }
                (None, _) => write!(
                    out,
                    "{:>gutter$} | {}: {} {}",
                    "",
                    format_insn(&decision.at),
                    way(decision),
                    decision.to.insn_idx
                )?,
            }
            writeln!(out, "{again}")?;
        }
        Ok(())
    }

    /// Width of the widest line number.
    fn gutter(&self) -> usize {
        let places = self
            .at
            .iter()
            .chain(self.registers.iter().filter_map(|reg| reg.set_at.as_ref()))
            .chain(self.path.iter().map(|decision| &decision.at));
        let lines = places.filter_map(|place| place.source.as_ref().map(|source| source.line));
        lines.max().unwrap_or(0).to_string().len()
    }
}

fn way(decision: &Decision) -> &'static str {
    match (decision.taken, decision.at.source.is_some()) {
        (true, true) => "jumps",
        (false, true) => "does not jump",
        (true, false) => "jumps to",
        (false, false) => "goes on to",
    }
}

/// Tabs count as one column, as in the compiler's.
fn one_column_tabs(source: &SourceLine) -> String {
    source.text.replace('\t', " ")
}

fn format_insn(at: &Place) -> String {
    alloc::format!("insn {}: {}", at.insn_idx, at.insn)
}

/// Column of a marker below the line, from 1.
fn marker_column(source: &SourceLine) -> usize {
    let indent = source.text.len() - source.text.trim_start().len();
    match source.column {
        0 => indent + 1,
        column => column as usize,
    }
}

fn write_place(out: &mut String, gutter: usize, at: &Place, label: &str) -> fmt::Result {
    let function = match at.function.as_str() {
        "" => String::new(),
        name => alloc::format!(" in {name}()"),
    };
    let Some(source) = &at.source else {
        return writeln!(out, "{:>gutter$}--> {label}{function}", "");
    };
    let SourceLine {
        file, line, column, ..
    } = source;
    writeln!(out, "{:>gutter$}--> {file}:{line}:{column}{function}", "")?;
    writeln!(out, "{:>gutter$} |", "")?;
    writeln!(out, "{line:>gutter$} | {}", one_column_tabs(source))?;
    let column = marker_column(source);
    writeln!(out, "{:>gutter$} | {:>column$} {label}", "", "^")
}
