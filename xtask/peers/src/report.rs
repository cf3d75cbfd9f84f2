//! What a bench prints: rows of ours beside one reference each, as a table or as JSON. Key types: [`Report`], [`Row`].

use serde_json::json;

/// Ours beside one reference.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) ours_ns: f64,
    pub(crate) reference: String,
    pub(crate) reference_ns: f64,
    /// What the nanoseconds are of: `run`, `insn`, `op`.
    pub(crate) per: &'static str,
}

impl Row {
    /// Below 1 we are faster.
    pub(crate) fn ratio(&self) -> f64 {
        self.ours_ns / self.reference_ns
    }
}

/// The rows of a bench, and what else is worth knowing.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Lines on standard error: what could not be measured and why, totals, means.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// One row per reference: the first of `minima` is ours.
    pub(crate) fn push(
        &mut self,
        name: &str,
        per: &'static str,
        contenders: &[crate::measure::Contender<'_>],
        minima: &[f64],
    ) {
        let [ours_ns, references @ ..] = minima else {
            return;
        };
        for (contender, &reference_ns) in contenders.iter().skip(1).zip(references) {
            self.rows.push(Row {
                name: name.to_owned(),
                ours_ns: *ours_ns,
                reference: contender.name.clone(),
                reference_ns,
                per,
            });
        }
    }

    /// Adds a line to the notes.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// The geometric mean of the ratios to a reference over the rows that `is_part` chooses; `None` without any.
    pub(crate) fn mean_ratio(
        &self,
        reference: &str,
        is_part: impl Fn(&Row) -> bool,
    ) -> Option<f64> {
        let logs: Vec<f64> = self
            .rows
            .iter()
            .filter(|row| row.reference == reference && is_part(row))
            .map(|row| row.ratio().ln())
            .collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    /// Rows on standard output, notes on standard error.
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            let rows: Vec<_> = self
                .rows
                .iter()
                .map(|row| {
                    json!({
                        "name": row.name,
                        "ours_ns": row.ours_ns,
                        "reference": row.reference,
                        "reference_ns": row.reference_ns,
                        "ratio": row.ratio(),
                        "per": row.per,
                    })
                })
                .collect();
            println!("{}", serde_json::Value::Array(rows));
        } else {
            self.print_table();
        }
        for note in &self.notes {
            eprintln!("{note}");
        }
    }

    fn print_table(&self) {
        let width = |of: fn(&Row) -> &str, head: &str| {
            let widths = self.rows.iter().map(|row| of(row).chars().count());
            widths.chain([head.len()]).max().unwrap_or_default()
        };
        let name = width(|row| &row.name, "name");
        let reference = width(|row| &row.reference, "reference");
        println!(
            "{:name$}  {:>12}  {:reference$}  {:>12}  {:>6}  per",
            "name", "ours_ns", "reference", "reference_ns", "ratio"
        );
        for row in &self.rows {
            println!(
                "{:name$}  {:>12.2}  {:reference$}  {:>12.2}  {:>6.3}  {}",
                row.name,
                row.ours_ns,
                row.reference,
                row.reference_ns,
                row.ratio(),
                row.per
            );
        }
    }
}
