//! `parity DIR [--set NAME] [--subset NAME] [--filter TEXT] [--show PATH] [--json] [--list COLUMN] [--xlated]`: ring3's verifier
//! beside the recorded kernel; with `--xlated`, the rewritten programs of those that both accept.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ring3_spec::Registry;
use ring3_testkit::{
    corpus::{Corpus, Row, registry},
    log_mask::mask_log,
    parity::{Tally, compare, judge},
    xlated::{self, Alike},
};
use ring3_verifier::{Log, verify};

struct Options {
    dir: PathBuf,
    set: Option<String>,
    subset: Option<String>,
    filter: Option<String>,
    show: Option<String>,
    list: Option<String>,
    json: bool,
    xlated: bool,
}

fn parse_args() -> Result<Options, String> {
    let mut args = std::env::args().skip(1);
    let mut options = Options {
        dir: PathBuf::new(),
        set: None,
        subset: None,
        filter: None,
        show: None,
        list: None,
        json: false,
        xlated: false,
    };
    while let Some(arg) = args.next() {
        let mut value = || {
            args.next()
                .ok_or_else(|| format!("{arg}: a value is missing"))
        };
        match arg.as_str() {
            "--set" => options.set = Some(value()?),
            "--subset" => options.subset = Some(value()?),
            "--filter" => options.filter = Some(value()?),
            "--show" => options.show = Some(value()?),
            "--list" => options.list = Some(value()?),
            "--json" => options.json = true,
            "--xlated" => options.xlated = true,
            _ if options.dir.as_os_str().is_empty() && !arg.starts_with('-') => {
                options.dir = PathBuf::from(arg)
            }
            _ => return Err(format!("unknown argument '{arg}'")),
        }
    }
    if options.dir.as_os_str().is_empty() {
        return Err("usage: parity DIR [--set NAME] [--subset NAME] [--filter TEXT] [--show PATH] [--list COLUMN] [--json] [--xlated]".into());
    }
    if let Some(list) = &options.list
        && !Tally::COLUMNS.contains(&list.as_str())
        && list != "unjudged"
        && list != "xlated"
    {
        return Err(format!(
            "--list: '{list}' is none of {:?} or unjudged",
            Tally::COLUMNS
        ));
    }
    Ok(options)
}

fn main() -> ExitCode {
    match parse_args().and_then(|options| run(&options)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("parity: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let corpus = Corpus::open(&options.dir);
    let rows = corpus.rows().map_err(|error| error.to_string())?;
    if let Some(path) = &options.show {
        let row = rows
            .iter()
            .find(|row| row.path.contains(path.as_str()))
            .ok_or(format!("no row has '{path}'"))?;
        return show(&corpus, row);
    }
    let is_wanted = |row: &&Row| {
        options.set.as_ref().is_none_or(|set| row.set == *set)
            && options
                .subset
                .as_ref()
                .is_none_or(|subset| row.subset == *subset)
            && options
                .filter
                .as_ref()
                .is_none_or(|text| row.path.contains(text.as_str()))
    };
    let rows: Vec<&Row> = rows.iter().filter(is_wanted).collect();
    if options.xlated {
        return compare_xlated(&corpus, &rows, options.list.is_some());
    }
    // Panics are counted and named in the table; their backtraces would drown it.
    std::panic::set_hook(Box::new(|_| ()));
    let report = compare_all(options, &rows)?;
    if options.json {
        print_json(&report)
    } else {
        print_table(&report)
    }
    let clean = report.sets.values().all(|tally| tally.panics.is_empty());
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// What the rewritten programs of a set have in common with the kernel's.
#[derive(Default)]
struct XlatedTally {
    programs: u64,
    equal: u64,
    /// Equal but for rewrites that ring3 leaves to its engines.
    but: u64,
    /// Which, and in how many programs.
    left_to_engines: BTreeMap<&'static str, u64>,
    /// The others, by path.
    unexplained: Vec<String>,
}

/// `lists`: names every program that differs for no known cause.
fn compare_xlated(corpus: &Corpus, rows: &[&Row], lists: bool) -> Result<ExitCode, String> {
    let registry = registry();
    let mut sets: BTreeMap<&str, XlatedTally> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| row.errno == 0 && row.set.ends_with("6.18"))
    {
        let kernel = corpus.xlated(row).map_err(|error| error.to_string())?;
        let request = corpus.request(row).map_err(|error| error.to_string())?;
        let Ok(ours) = verify(&request, &registry, &mut Log::off()) else {
            continue;
        };
        if kernel.is_empty() {
            continue;
        }
        let tally = sets.entry(&row.set).or_default();
        tally.programs += 1;
        match xlated::compare(&kernel, &ours.insns) {
            Alike::Equal => tally.equal += 1,
            Alike::But(causes) => {
                tally.but += 1;
                for cause in causes {
                    *tally.left_to_engines.entry(cause).or_default() += 1;
                }
            }
            Alike::No(found) => tally.unexplained.push(format!(
                "{} slot {}: kernel '{}', ring3 '{}'",
                row.path, found.at, found.kernel, found.ours
            )),
        }
    }
    for (set, tally) in &sets {
        println!(
            "{set:44} {:>6} accepted by both, {:>6} equal, {:>6} equal but for what engines do, {:>6} other",
            tally.programs,
            tally.equal,
            tally.but,
            tally.unexplained.len()
        );
        for (cause, count) in &tally.left_to_engines {
            println!("    {count:>6} {cause}");
        }
        let shown = if lists { usize::MAX } else { 3 };
        for line in tally.unexplained.iter().take(shown) {
            println!("    {line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tallies by set, `(set)` rows that do not bind apart, and the first differing line per set.
#[derive(Default)]
struct Report {
    sets: BTreeMap<String, Tally>,
    first_difference: BTreeMap<String, String>,
    listed: Vec<String>,
}

fn compare_all(options: &Options, rows: &[&Row]) -> Result<Report, String> {
    let next = AtomicUsize::new(0);
    let report = Mutex::new(Report::default());
    let failure = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let worker = || {
                let corpus = Corpus::open(&options.dir);
                let registry = registry();
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = compare_one(options, &corpus, &registry, row, &report) {
                        *failure.lock().unwrap() = Some(format!("{}: {error}", row.path));
                    }
                }
            };
            std::thread::Builder::new()
                .stack_size(16 << 20)
                .spawn_scoped(scope, worker)
                .expect("a worker thread");
        }
    });
    match failure.into_inner().unwrap() {
        Some(message) => Err(message),
        None => Ok(report.into_inner().unwrap()),
    }
}

fn compare_one(
    options: &Options,
    corpus: &Corpus,
    registry: &Registry,
    row: &Row,
    report: &Mutex<Report>,
) -> std::io::Result<()> {
    let request = corpus.request(row)?;
    let outcome = judge(&request, registry);
    let kernel_log = corpus.log(row);
    let equal = compare(row, kernel_log.as_deref(), &outcome, &request);
    let set = match &row.reference {
        Some(reference) => format!("{} ({reference}, does not count)", row.set),
        None => row.set.clone(),
    };
    let mut report = report.lock().unwrap();
    if let Some(list) = &options.list {
        let columns = [
            equal.verdict,
            equal.errno,
            equal.message,
            equal.processed,
            equal.states,
            equal.log,
        ];
        let differs = Tally::COLUMNS
            .iter()
            .zip(columns)
            .any(|(name, is_equal)| name == list && !is_equal);
        if differs && !outcome.unjudged || list == "unjudged" && outcome.unjudged {
            let ours = ring3_testkit::parity::last_message(&outcome.log);
            report.listed.push(format!(
                "{} kernel {} '{}' ring3 {} '{}'{}",
                row.path,
                row.errno,
                row.msg,
                outcome.errno,
                ours,
                outcome
                    .panic
                    .as_ref()
                    .map_or(String::new(), |panic| format!(" panic: {panic}"))
            ));
        }
    }
    if !equal.log && !outcome.unjudged && !report.first_difference.contains_key(&set) {
        let kernel = mask_log(kernel_log.as_deref().unwrap_or_default(), &request.insns);
        let ours = mask_log(&outcome.log, &request.insns);
        let difference = kernel
            .lines()
            .zip(ours.lines())
            .enumerate()
            .find(|(_, (a, b))| a != b);
        if let Some((line_idx, (theirs, ours))) = difference {
            report.first_difference.insert(
                set.clone(),
                format!(
                    "{} line {}:\n    kernel {theirs}\n    ring3  {ours}",
                    row.path,
                    line_idx + 1
                ),
            );
        }
    }
    report
        .sets
        .entry(set)
        .or_default()
        .add(row, &outcome, equal);
    Ok(())
}

fn print_table(report: &Report) {
    for line in &report.listed {
        println!("{line}");
    }
    print!("{:44} {:>8}", "set", "programs");
    for column in Tally::COLUMNS {
        print!(" {column:>15}");
    }
    println!(" {:>9} {:>7} {:>7}", "unjudged", "unsafe", "panics");
    for (set, tally) in &report.sets {
        print!("{set:44} {:>8}", tally.programs);
        for count in tally.equal {
            print!(
                " {count:>7} {:>6.2}%",
                100.0 * count as f64 / tally.programs.max(1) as f64
            );
        }
        println!(
            " {:>9} {:>7} {:>7}",
            tally.unjudged,
            tally.unsafe_accepts.len(),
            tally.panics.len()
        );
    }
    for (set, difference) in &report.first_difference {
        println!("first difference in {set}: {difference}");
    }
    for tally in report.sets.values() {
        for path in &tally.unsafe_accepts {
            println!("unsafe: {path}");
        }
        for panic in &tally.panics {
            println!("panic: {panic}");
        }
    }
}

fn print_json(report: &Report) {
    let sets: Vec<_> = report
        .sets
        .iter()
        .filter(|(set, _)| !set.ends_with("does not count)"))
        .map(|(set, tally)| {
            let mut object = serde_json::json!({
                "set": set,
                "programs": tally.programs,
                "unjudged": tally.unjudged,
                "unsafe": tally.unsafe_accepts,
            });
            for (name, count) in Tally::COLUMNS.iter().zip(tally.equal) {
                object[*name] = count.into();
            }
            object
        })
        .collect();
    println!("{}", serde_json::Value::Array(sets));
}

fn show(corpus: &Corpus, row: &Row) -> Result<ExitCode, String> {
    let request = corpus.request(row).map_err(|error| error.to_string())?;
    let outcome = judge(&request, &registry());
    let kernel = mask_log(&corpus.log(row).unwrap_or_default(), &request.insns);
    let ours = mask_log(&outcome.log, &request.insns);
    println!(
        "{}: kernel errno {}, ring3 errno {}{}",
        row.path,
        row.errno,
        outcome.errno,
        if outcome.unjudged { " (unjudged)" } else { "" }
    );
    if let Some(panic) = &outcome.panic {
        println!("panic: {panic}");
    }
    let (kernel, ours): (Vec<_>, Vec<_>) = (kernel.lines().collect(), ours.lines().collect());
    let first = kernel
        .iter()
        .zip(&ours)
        .position(|(a, b)| a != b)
        .unwrap_or(kernel.len().min(ours.len()));
    if kernel.len() == ours.len() && first == kernel.len() {
        println!("logs are equal: {} lines", kernel.len());
        return Ok(ExitCode::SUCCESS);
    }
    for line in &kernel[first.saturating_sub(12)..first] {
        println!("        {line}");
    }
    for line_idx in first..(first + 12).min(kernel.len().max(ours.len())) {
        println!("kernel: {}", kernel.get(line_idx).unwrap_or(&"<end>"));
        println!("ring3:  {}", ours.get(line_idx).unwrap_or(&"<end>"));
    }
    Ok(ExitCode::SUCCESS)
}
