//! The corpus asked again of the running kernel with other privileges: a folder in the corpus format comes out, for parity.
//!
//! Only rows whose call needs nothing but maps and the program's own BTF are asked; what cannot be set up is counted and named. Nothing is
//! attached or run. Neighbours: `corpus` (the format), `kernel_request` (the calls), `parity` (the comparison).

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    corpus::{Corpus, Row},
    kernel::release,
    kernel_request::{Answer, KernelRequest},
    parity::{last_message, stats_of},
};

/// The argument with which the recorder starts itself without CAP_PERFMON and CAP_SYS_ADMIN.
pub const INSIDE: &str = "corpus-no-perfmon";

/// Prefix of the recorded sets' names.
const PREFIX: &str = "noperfmon-";

/// Records every eligible row of the folder `corpus` into the folder `out`, without CAP_PERFMON and CAP_SYS_ADMIN: by starting itself
/// again under setpriv(1).
///
/// # Errors
/// setpriv(1) fails.
pub fn record(corpus: &Path, out: &Path) -> io::Result<()> {
    if run_without_perfmon(&[INSIDE.as_ref(), corpus.as_ref(), out.as_ref()])? {
        Ok(())
    } else {
        Err(io::Error::other("without CAP_PERFMON"))
    }
}

/// Starts this program again under setpriv(1), without CAP_PERFMON and CAP_SYS_ADMIN: whether it succeeds.
///
/// # Errors
/// setpriv(1) cannot be started.
pub fn run_without_perfmon(args: &[&OsStr]) -> io::Result<bool> {
    let status = Command::new("setpriv")
        .args(["--bounding-set", "-perfmon,-sys_admin"])
        .args(["--inh-caps", "-perfmon,-sys_admin"])
        .arg(std::env::current_exe()?)
        .args(args)
        .status()?;
    Ok(status.success())
}

/// Records with the privileges that this process has.
///
/// # Errors
/// A file cannot be read or written.
pub fn record_inside(dir: &Path, out: &Path) -> io::Result<()> {
    let corpus = Corpus::open(dir);
    fs::create_dir_all(out.join("btf"))?;
    for blob in fs::read_dir(dir.join("btf"))? {
        let blob = blob?;
        fs::copy(blob.path(), out.join("btf").join(blob.file_name()))?;
    }
    let mut verdicts = File::create(out.join("verdicts.jsonl"))?;
    let (mut recorded, mut left_out) = (0u32, BTreeMap::<String, u32>::new());
    for row in corpus.rows()? {
        if !row.set.ends_with("-6.18") || row.subset != "untyped" {
            continue;
        }
        let request = corpus.request(&row)?;
        match KernelRequest::create(&request).map(|kernel| kernel.load(&request)) {
            Ok(Answer { errno, log, is_cut }) => {
                let set = format!("{PREFIX}{}", row.set);
                let path = format!("{PREFIX}{}", row.path);
                let place = out.join(&path);
                fs::create_dir_all(place.parent().unwrap_or(out))?;
                let mut call: Value =
                    serde_json::from_slice(&fs::read(dir.join(format!("{}.json", row.path)))?)?;
                if let Some(call) = call.as_object_mut() {
                    call.remove("xlated");
                }
                fs::write(file(&place, "json"), call.to_string())?;
                if !is_cut {
                    fs::write(file(&place, "log"), &log)?;
                }
                writeln!(verdicts, "{}", verdict(&row, &set, &path, errno, &log)?)?;
                recorded += 1;
            }
            Err(why) => *left_out.entry(why).or_default() += 1,
        }
    }
    println!("{recorded} programs recorded");
    for (why, count) in left_out {
        println!("{count} left out: {why}");
    }
    Ok(())
}

/// Paths of rows contain dots.
fn file(place: &Path, extension: &str) -> std::path::PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn verdict(row: &Row, set: &str, path: &str, errno: i32, log: &str) -> io::Result<Value> {
    let [processed, max_states, total, peak] = stats_of(log).unwrap_or_default();
    Ok(json!({
        "set": set,
        "path": path,
        "subset": row.subset,
        "kernel": release()?,
        "errno": errno,
        "msg": if errno == 0 { "" } else { last_message(log) },
        "processed": processed,
        "max_states_per_insn": max_states,
        "total_states": total,
        "peak_states": peak,
    }))
}
