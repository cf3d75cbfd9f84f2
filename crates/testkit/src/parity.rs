//! Agreement of ring3's verifier with a recorded kernel: per program what is equal, per set the counts.
//!
//! Key types: [`Outcome`] (one program judged by us), [`Equal`] (the comparison), [`Tally`] (a set).

use std::panic::{AssertUnwindSafe, catch_unwind};

use ring3_spec::{LoadRequest, Registry};
use ring3_verifier::{Log, RejectKind, verify};

use crate::{corpus::Row, log_mask::mask_log};

/// What ring3 said of one program.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Positive errno, 0 if accepted.
    pub errno: i32,
    /// Rejected because ring3 cannot judge it yet.
    pub unjudged: bool,
    /// Whole log.
    pub log: String,
    /// A panic's message.
    pub panic: Option<String>,
}

/// Level at which the corpus was recorded: `BPF_LOG_LEVEL2 | BPF_LOG_STATS`.
pub const LOG_LEVEL: u32 = 2 | 4;

/// Judges one request; a panic is an outcome of its own.
pub fn judge(request: &LoadRequest, registry: &Registry) -> Outcome {
    let mut log = Log::new(LOG_LEVEL);
    let result = catch_unwind(AssertUnwindSafe(|| verify(request, registry, &mut log)));
    let (errno, unjudged, panic) = match &result {
        Ok(Ok(_)) => (0, false, None),
        Ok(Err(error)) => (error.errno.raw(), error.kind == RejectKind::Unjudged, None),
        Err(payload) => {
            let message = payload.downcast_ref::<String>().cloned().or_else(|| {
                payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
            });
            (
                -1,
                false,
                Some(message.unwrap_or_else(|| "panic".to_owned())),
            )
        }
    };
    Outcome {
        errno,
        unjudged,
        log: log.into_string(),
        panic,
    }
}

/// What of a program's outcome equals the kernel's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Equal {
    /// Accepted or rejected alike.
    pub verdict: bool,
    /// Same errno.
    pub errno: bool,
    /// Same last message.
    pub message: bool,
    /// Same number of instructions processed.
    pub processed: bool,
    /// Same three state counts.
    pub states: bool,
    /// Same masked log, to the byte.
    pub log: bool,
}

/// Compares an outcome with the recorded row; `kernel_log` is `None` where it was not kept.
pub fn compare(
    row: &Row,
    kernel_log: Option<&str>,
    outcome: &Outcome,
    request: &LoadRequest,
) -> Equal {
    let judged = !outcome.unjudged && outcome.panic.is_none();
    let stats = stats_of(&outcome.log);
    Equal {
        verdict: judged && (row.errno == 0) == (outcome.errno == 0),
        errno: judged && row.errno == outcome.errno,
        message: judged && same_message(row, outcome, request),
        processed: judged && stats.is_some_and(|stats| stats[0] == row.processed)
            || judged && stats.is_none() && row.processed == 0,
        states: judged && stats.is_some_and(|stats| stats[1..4] == row.states)
            || judged && stats.is_none() && row.states == [0; 3],
        log: judged
            && kernel_log.is_none_or(|kernel| {
                mask_log(kernel, &request.insns) == mask_log(&outcome.log, &request.insns)
            }),
    }
}

fn same_message(row: &Row, outcome: &Outcome, request: &LoadRequest) -> bool {
    let ours = last_message(&outcome.log);
    row.errno == 0 && outcome.errno == 0
        || row.errno != 0 && mask_log(&row.msg, &request.insns) == mask_log(ours, &request.insns)
}

/// The last line before the statistics; empty if there is none.
pub fn last_message(log: &str) -> &str {
    log.lines()
        .rev()
        .find(|line| {
            !line.starts_with("processed ")
                && !line.starts_with("stack depth ")
                && !line.starts_with("verification time ")
                && !line.is_empty()
        })
        .unwrap_or_default()
}

/// `processed`, `max_states_per_insn`, `total_states`, `peak_states` of the statistics line.
pub fn stats_of(log: &str) -> Option<[u64; 4]> {
    let line = log
        .lines()
        .rev()
        .find(|line| line.starts_with("processed "))?;
    let after = |word: &str| {
        line.split_once(word)
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .and_then(|n| n.parse().ok())
    };
    Some([
        after("processed ")?,
        after("max_states_per_insn ")?,
        after("total_states ")?,
        after("peak_states ")?,
    ])
}

/// Counts over a set.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Programs compared.
    pub programs: u64,
    /// Equal verdicts, errnos, messages, processed counts, state counts, logs.
    pub equal: [u64; 6],
    /// Programs rejected as not judged yet.
    pub unjudged: u64,
    /// Programs on which ring3 panicked.
    pub panics: Vec<String>,
    /// Programs that the kernel rejects and ring3 accepts.
    pub unsafe_accepts: Vec<String>,
}

impl Tally {
    /// Column names of [`Tally::equal`].
    pub const COLUMNS: [&'static str; 6] =
        ["verdict", "errno", "message", "processed", "states", "log"];

    /// Counts one program.
    pub fn add(&mut self, row: &Row, outcome: &Outcome, equal: Equal) {
        self.programs += 1;
        let columns = [
            equal.verdict,
            equal.errno,
            equal.message,
            equal.processed,
            equal.states,
            equal.log,
        ];
        for (count, is_equal) in self.equal.iter_mut().zip(columns) {
            *count += u64::from(is_equal);
        }
        self.unjudged += u64::from(outcome.unjudged);
        if let Some(message) = &outcome.panic {
            self.panics.push(format!("{}: {message}", row.path));
        }
        if row.errno != 0 && outcome.errno == 0 {
            self.unsafe_accepts.push(row.path.clone());
        }
    }

    /// Adds another tally of the same set.
    pub fn merge(&mut self, other: Tally) {
        self.programs += other.programs;
        for (count, more) in self.equal.iter_mut().zip(other.equal) {
            *count += more;
        }
        self.unjudged += other.unjudged;
        self.panics.extend(other.panics);
        self.unsafe_accepts.extend(other.unsafe_accepts);
    }
}
