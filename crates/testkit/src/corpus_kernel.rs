//! The corpus asked again of the running kernel with other privileges: a folder in the corpus format comes out, for parity.
//!
//! Only rows whose call needs nothing but maps and the program's own BTF are asked; what cannot be set up is counted and named. Nothing is
//! attached or run. Neighbours: `corpus` (the format), `parity` (the comparison).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use ring3_os::bpf_load::{
    MapCreate, ProgLoad, btf_load, map_create, map_freeze, map_update, prog_load,
};
use ring3_spec::{FdObject, InfoRecords, LoadRequest, MapInfo};
use ring3_uapi::{Errno, MapType, flags::map_create as map_create_flags};
use serde_json::{Value, json};

use crate::{
    corpus::{Corpus, Row},
    kernel::release,
    parity::{LOG_LEVEL, last_message, stats_of},
};

/// The argument with which the recorder starts itself without CAP_PERFMON and CAP_SYS_ADMIN.
pub const INSIDE: &str = "corpus-no-perfmon";

/// Prefix of the recorded sets' names.
const PREFIX: &str = "noperfmon-";

/// `BPF_LOG_STATS`
const LOG_LEVEL_STATS: u32 = 4;

/// Room for a log.
const LOG_BYTES: usize = 1 << 24;

/// Records every eligible row of the folder `corpus` into the folder `out`, without CAP_PERFMON and CAP_SYS_ADMIN: by starting itself
/// again under setpriv(1).
///
/// # Errors
/// setpriv(1) fails.
pub fn record(corpus: &Path, out: &Path) -> io::Result<()> {
    let status = Command::new("setpriv")
        .args(["--bounding-set", "-perfmon,-sys_admin"])
        .args(["--inh-caps", "-perfmon,-sys_admin"])
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .args([corpus, out])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("setpriv: {status}")))
    }
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
        match ask(&request) {
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

/// The kernel's answer.
struct Answer {
    /// Positive, or 0.
    errno: i32,
    log: String,
    /// The whole log was too long: this one is at level 4.
    is_cut: bool,
}

fn ask(request: &LoadRequest) -> Result<Answer, String> {
    if request.attach_btf_id.0 != 0 || request.fd_array.is_some() {
        return Err("needs an attach target or an fd_array".to_owned());
    }
    let mut maps: Vec<OwnedFd> = Vec::new();
    for map in &request.maps {
        let fd = create(map)
            .map_err(|errno| format!("a map of type {} cannot be made: {errno}", map.map_type))?;
        maps.push(fd);
    }
    let other = File::open("/dev/null").map_err(|error| error.to_string())?;
    let mut insns = request.insns.clone();
    for insn in &mut insns {
        if insn.is_ld_imm64() && matches!(insn.src(), 1 | 2) {
            insn.imm = match request.fds.get(&insn.imm) {
                Some(FdObject::Map(index)) => maps[*index].as_raw_fd(),
                Some(FdObject::Btf(_) | FdObject::Other) => other.as_raw_fd(),
                None => -1,
            };
        }
    }
    let btf = match &request.btf {
        Some(btf) => Some(btf_load(btf.bytes()).map_err(|errno| format!("BTF: {errno}"))?),
        None => None,
    };
    let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let info = |records: &InfoRecords| (records.rec_size, records.bytes.clone());
    let (func_info, line_info) = (info(&request.func_info), info(&request.line_info));
    let load = |log_level: u32| {
        prog_load(
            &ProgLoad {
                prog_type: request.prog_type.raw(),
                expected_attach_type: request.expected_attach_type,
                prog_flags: request.flags,
                insns: &bytes,
                license: &request.license,
                name: &request.name,
                btf: btf.as_ref().map(|fd| fd.as_fd()),
                func_info: (func_info.0, &func_info.1),
                line_info: (line_info.0, &line_info.1),
                log_level,
                ..ProgLoad::default()
            },
            LOG_BYTES,
        )
    };
    let (mut result, mut log) = load(LOG_LEVEL);
    let is_cut = matches!(result, Err(Errno::ENOSPC));
    if is_cut {
        (result, log) = load(LOG_LEVEL_STATS);
    }
    Ok(Answer {
        errno: result.map_or_else(Errno::raw, |_| 0),
        log,
        is_cut,
    })
}

/// The flags of a call were read from a map that existed: the kernel adds read-only values to those of devmaps, and refuses to be asked
/// for them.
fn created_flags(map: &MapInfo) -> u32 {
    match map.map_type {
        MapType::Devmap | MapType::DevmapHash => map.map_flags & !map_create_flags::RDONLY_PROG,
        _ => map.map_flags,
    }
}

fn create(map: &MapInfo) -> Result<OwnedFd, Errno> {
    let inner = match &map.inner {
        Some(inner) => Some(create(inner)?),
        None => None,
    };
    let btf = match &map.btf {
        Some(btf) if map.key_type_id.0 != 0 || map.value_type_id.0 != 0 => {
            Some(btf_load(btf.bytes())?)
        }
        Some(_) | None => None,
    };
    let fd = map_create(&MapCreate {
        map_type: map.map_type.raw(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        map_flags: created_flags(map),
        map_extra: map.map_extra,
        name: &map.name,
        inner: inner.as_ref().map(AsFd::as_fd),
        btf: btf
            .as_ref()
            .map(|fd| (fd.as_fd(), map.key_type_id.0, map.value_type_id.0)),
    })?;
    if let Some(contents) = &map.contents {
        map_update(fd.as_fd(), &0u32.to_ne_bytes(), contents, 0)?;
    }
    if map.frozen {
        map_freeze(fd.as_fd())?;
    }
    Ok(fd)
}
