//! The formats of `ring3 verify`: table, CSV, JSON, JUnit.

use super::{Row, Verdict, diagnosis};

/// What a column shows of a row.
type Column = fn(&Row) -> String;

/// veristat's columns: heading, value.
const COLUMNS: &[(&str, Column)] = &[
    ("File", |row| row.file.clone()),
    ("Program", |row| row.program.clone()),
    ("Verdict", |row| row.verdict.word().to_owned()),
    ("Duration (us)", |row| row.duration.as_micros().to_string()),
    ("Insns", |row| row.insns.to_string()),
    ("States", |row| row.total_states.to_string()),
    ("Peak states", |row| row.peak_states.to_string()),
    ("Max states per insn", |row| {
        row.max_states_per_insn.to_string()
    }),
    ("Program size", |row| row.size.to_string()),
];
/// Columns left of this one hold text, the rest numbers.
const TEXT_COLUMNS: usize = 3;

/// The table, logs and reasons before it, a summary behind it.
pub(crate) fn print_table(rows: &[Row], with_logs: bool) {
    for row in rows {
        if with_logs {
            println!("{}/{}:\n{}", row.file, row.program, row.log);
        }
        if let Some(diagnosis) = &row.diagnosis {
            println!("{}/{}:\n{}", row.file, row.program, diagnosis.render());
        }
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| COLUMNS.iter().map(|(_, value)| value(row)).collect())
        .collect();
    let widths: Vec<usize> = COLUMNS
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            cells
                .iter()
                .map(|cells| cells[i].len())
                .chain([name.len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| {
                if i < TEXT_COLUMNS {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(
        &COLUMNS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect::<Vec<_>>(),
    );
    line(
        &widths
            .iter()
            .map(|width| "-".repeat(*width))
            .collect::<Vec<_>>(),
    );
    for (row, cells) in rows.iter().zip(&cells) {
        line(cells);
        if let Verdict::Failure {
            message, source, ..
        } = &row.verdict
        {
            println!("    {message}");
            if let Some(source) = source {
                println!("    {source}");
            }
        }
    }
    let accepted = rows
        .iter()
        .filter(|row| matches!(row.verdict, Verdict::Success))
        .count();
    println!(
        "\nDone. Programs: {}, accepted: {accepted}, not accepted: {}.",
        rows.len(),
        rows.len() - accepted
    );
}

/// veristat's CSV: names in lower case with underscores.
pub(crate) fn print_csv(rows: &[Row]) {
    println!(
        "file_name,prog_name,verdict,duration_us,total_insns,total_states,peak_states,max_states_per_insn,prog_size"
    );
    for row in rows {
        let cells: Vec<String> = COLUMNS.iter().map(|(_, value)| value(row)).collect();
        println!("{}", cells.join(","));
    }
}

/// One object per program.
pub(crate) fn print_json(rows: &[Row]) {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let (message, source) = match &row.verdict {
                Verdict::Success => (None, None),
                Verdict::Failure {
                    message, source, ..
                } => (Some(message), source.as_ref()),
            };
            serde_json::json!({
                "file_name": row.file,
                "prog_name": row.program,
                "verdict": row.verdict.word(),
                "message": message,
                "source": source,
                "duration_us": row.duration.as_micros() as u64,
                "total_insns": row.insns,
                "total_states": row.total_states,
                "peak_states": row.peak_states,
                "max_states_per_insn": row.max_states_per_insn,
                "prog_size": row.size,
                "log": row.log,
                "diagnosis": row.diagnosis.as_ref().map(diagnosis::to_json),
            })
        })
        .collect();
    println!("{}", serde_json::Value::Array(rows));
}

/// A JUnit report: a test case per program, the file its class.
pub(crate) fn junit(rows: &[Row]) -> String {
    let failures = rows
        .iter()
        .filter(|row| !matches!(row.verdict, Verdict::Success))
        .count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"ring3 verify\" tests=\"{}\" failures=\"{failures}\">\n",
        rows.len()
    );
    for row in rows {
        out.push_str(&format!(
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.6}\"",
            escape(&row.file),
            escape(&row.program),
            row.duration.as_secs_f64()
        ));
        match &row.verdict {
            Verdict::Success => out.push_str("/>\n"),
            Verdict::Failure {
                message, source, ..
            } => out.push_str(&format!(
                ">\n    <failure message=\"{}\">{}</failure>\n  </testcase>\n",
                escape(message),
                escape(source.as_deref().unwrap_or_default())
            )),
        }
    }
    out.push_str("</testsuite>\n");
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_escape_what_xml_reserves() {
        assert_eq!(
            escape("R1 < \"x\" & y\u{1}"),
            "R1 &lt; &quot;x&quot; &amp; y"
        );
    }
}
