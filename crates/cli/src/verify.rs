//! `ring3 verify`: veristat's table, logs, and reports for CI.

mod diagnosis;
mod report;

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use ring3::{
    LoadOptions,
    objects::Object,
    verifier::{Diagnosis, Log, RejectKind, diagnostics::advice_for, verify_explained},
};

use crate::{Failure, Outcome, source, target::Target};

/// Arguments of `ring3 verify`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ring3 verify *.bpf.o
  ring3 verify -o csv prog.bpf.o > verdicts.csv
  ring3 verify --explain prog.bpf.o
  ring3 verify -l 2 -f 'count_*' prog.bpf.o
  ring3 verify --btf vmlinux-6.12.btf prog.bpf.o")]
pub(crate) struct Args {
    /// Object files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Verifier log level: 1, 2, 4 or a sum of them
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=7))]
    log_level: u32,
    /// Only programs (or FILE/PROGRAM) that match this pattern; `*` matches anything, a leading `!` excludes
    #[arg(short, long)]
    filter: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// Why each program that is not accepted is not: the source line, what was known, the way that led there, what helps
    #[arg(long)]
    explain: bool,
    /// The same as `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Also write a JUnit report
    #[arg(long)]
    junit: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// What is told of one program.
pub(crate) struct Row {
    pub(crate) file: String,
    pub(crate) program: String,
    pub(crate) verdict: Verdict,
    pub(crate) duration: Duration,
    pub(crate) insns: u64,
    pub(crate) total_states: u32,
    pub(crate) peak_states: u32,
    pub(crate) max_states_per_insn: u32,
    pub(crate) size: usize,
    pub(crate) log: String,
    /// With `--explain`, of a program that is not accepted.
    pub(crate) diagnosis: Option<Diagnosis>,
}

/// Accepted, or the reason in one line with the source line it points at.
pub(crate) enum Verdict {
    Success,
    Failure {
        message: String,
        source: Option<String>,
        is_unjudged: bool,
    },
}

impl Verdict {
    /// veristat's words; `unjudged` is ours for a program that ring3 cannot judge yet.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Verdict::Success => "success",
            Verdict::Failure {
                is_unjudged: true, ..
            } => "unjudged",
            Verdict::Failure { .. } => "failure",
        }
    }
}

/// The verb.
pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let mut rows = Vec::new();
    for path in &args.files {
        verify_file(args, path, &mut rows)?;
    }
    let format = if args.json { Format::Json } else { args.output };
    match format {
        Format::Table => report::print_table(&rows, args.log_level > 0),
        Format::Csv => report::print_csv(&rows),
        Format::Json => report::print_json(&rows),
    }
    if let Some(path) = &args.junit {
        std::fs::write(path, report::junit(&rows))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let all_accepted = rows
        .iter()
        .all(|row| matches!(row.verdict, Verdict::Success));
    Ok(if all_accepted {
        Outcome::Done
    } else {
        Outcome::Rejected
    })
}

fn verify_file(args: &Args, path: &std::path::Path, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let object = Object::open_with(path, &args.target.parse_options()?)
        .map_err(|error| error.to_string())?;
    let file = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let names: Vec<String> = object
        .spec()
        .progs
        .iter()
        .map(|prog| prog.name.clone())
        .collect();
    let programs = names
        .into_iter()
        .filter(|name| is_wanted(&args.filter, &file, name))
        .collect();
    let system = args.target.system()?;
    let options = LoadOptions {
        log_level: args.log_level,
        programs: Some(programs),
        ..LoadOptions::default()
    };
    let verified = object
        .verify_in(&system, &options)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    for (program, verification) in verified {
        rows.push(match verification {
            Ok(mut verification) => {
                let prog = object.spec().prog(&program);
                if let Some(log) = prog.and_then(|prog| object.explain_log(prog, &verification.log))
                {
                    verification.log = log;
                }
                let diagnosis = match &verification.result {
                    Err(_) if args.explain => explain(&verification, &system),
                    _ => None,
                };
                Row {
                    diagnosis,
                    ..row_of(&file, verification)
                }
            }
            Err(error) => Row {
                file: file.clone(),
                program,
                verdict: Verdict::Failure {
                    message: error.to_string(),
                    source: None,
                    is_unjudged: false,
                },
                duration: Duration::ZERO,
                insns: 0,
                total_states: 0,
                peak_states: 0,
                max_states_per_insn: 0,
                size: 0,
                log: String::new(),
                diagnosis: None,
            },
        });
    }
    Ok(())
}

fn row_of(file: &str, verification: ring3::Verification) -> Row {
    let stats = match &verification.result {
        Ok(program) => program.stats,
        Err(_) => ring3::spec::VerifierStats::default(),
    };
    let verdict = match &verification.result {
        Ok(_) => Verdict::Success,
        Err(error) => {
            let lines = source::source_lines(&verification.request);
            let source = error
                .insn_idx
                .and_then(|idx| source::line_at(&lines, idx))
                .map(|line| {
                    format!(
                        "{}:{}:{}: {}",
                        line.file,
                        line.line,
                        line.column,
                        line.text.trim()
                    )
                });
            let explained = verification.explanation.as_deref();
            let message = explained.unwrap_or(error.last_words());
            Verdict::Failure {
                message: format!("{message} ({})", error.errno),
                source,
                is_unjudged: error.kind == RejectKind::Unjudged,
            }
        }
    };
    Row {
        file: file.to_owned(),
        program: verification.program,
        verdict,
        duration: verification.duration,
        insns: stats.insns_processed,
        total_states: stats.total_states,
        peak_states: stats.peak_states,
        max_states_per_insn: stats.max_states_per_insn,
        size: verification.request.insns.len(),
        log: verification.log,
        diagnosis: None,
    }
}

/// Verifies once more, with reasons.
fn explain(verification: &ring3::Verification, system: &ring3::System) -> Option<Diagnosis> {
    let (request, registry) = (&verification.request, system.registry());
    let (_, mut diagnosis) = verify_explained(request, registry, &mut Log::off()).err()?;
    if let Some(relocation) = &verification.explanation {
        let told = std::mem::replace(&mut diagnosis.message, relocation.clone());
        diagnosis.details.push(told);
        diagnosis.help = advice_for(relocation);
    }
    Some(*diagnosis)
}

/// Whether the filters let a program through: some positive one matches (or there is none), and no negative one does.
fn is_wanted(filters: &[String], file: &str, program: &str) -> bool {
    let full = format!("{file}/{program}");
    let matches = |pattern: &str| glob(pattern, program) || glob(pattern, &full);
    let mut positive = filters
        .iter()
        .filter(|filter| !filter.starts_with('!'))
        .peekable();
    let is_included = positive.peek().is_none() || positive.any(|filter| matches(filter));
    is_included
        && !filters
            .iter()
            .filter_map(|filter| filter.strip_prefix('!'))
            .any(matches)
}

/// Whether `text` matches a pattern in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_programs_and_files() {
        assert!(glob("count_*", "count_flows"));
        assert!(glob("*.o/pass", "a.o/pass"));
        assert!(glob("*a*a*", "banana"));
        assert!(!glob("count", "count_flows"));
        assert!(!glob("*x", "flows"));
        let filters = ["count_*".to_owned(), "!count_bytes".to_owned()];
        assert!(is_wanted(&filters, "a.o", "count_flows"));
        assert!(!is_wanted(&filters, "a.o", "count_bytes"));
        assert!(!is_wanted(&filters, "a.o", "other"));
        assert!(is_wanted(&[], "a.o", "other"));
    }
}
