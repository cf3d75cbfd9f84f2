//! The map oracle: scripts of map operations with the reference kernel's answers, and how to run them.
//!
//! A script is a text file for one map type under `fixtures/oracle/maps`. Each line is an operation, ` -> ` and its answer:
//!
//! ```text
//! create m hash key=4 value=8 max=2 -> ok
//! update m 01000000 1100000000000000 -> ok
//! lookup m 01000000 -> ok 1100000000000000
//! delete m 02000000 -> ENOENT
//! ```
//!
//! [`run`] executes the operations of a script on a [`Subject`] and returns the script with that subject's answers, so recording and comparing
//! are the same walk. The kernel is one subject ([`kernel`]); ring3's maps are another, in the tests of `maps`, which includes this file.
//!
//! Operations: `create NAME TYPE key= value= max= [flags= extra= inner= numa= btf=]`, `update lookup lookdel delete NAME KEY [VALUE] [flags=]`,
//! `next NAME KEY`, `keys NAME` (all keys, sorted), `freeze NAME`, `mmap NAME PAGE PAGES ro|rw`, `munmap`, `batch-lookup batch-lookdel NAME IN COUNT`,
//! `batch-update NAME COUNT KEYS VALUES`, `batch-delete NAME COUNT KEYS`, `close NAME`, and from a program: `prog-lookup prog-delete NAME KEY`,
//! `prog-update NAME KEY VALUE`, `prog-push NAME VALUE`, `prog-pop prog-peek NAME`. Bytes are hexadecimal; `-` is a null pointer; `cpus:HEX`
//! is the bytes once for each possible CPU; `fd:NAME` a map's descriptor, or that of a UDP socket (`sock`), of a file (`file`) or of this
//! process (`self`); `fd:-1` a bad one.

use std::fmt::Write;

pub mod kernel;

/// An errno by number.
pub type Errno = i32;

/// The attributes of a `create` line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Short name of the map type.
    pub map_type: String,
    /// `key_size`
    pub key_size: u32,
    /// `value_size`
    pub value_size: u32,
    /// `max_entries`
    pub max_entries: u32,
    /// `map_flags`
    pub map_flags: u32,
    /// `map_extra`
    pub map_extra: u64,
    /// `numa_node`
    pub numa_node: u32,
    /// Name of the inner map.
    pub inner: Option<String>,
    /// Whether BTF types of the right sizes come along: an int for the key, an array of ints for the value.
    pub btf: bool,
    /// `map_name`
    pub name: String,
}

/// What bytes an operation passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// A null pointer.
    Null,
    /// These.
    Given(Vec<u8>),
    /// These, once for each possible CPU.
    PerCpu(Vec<u8>),
    /// A map's descriptor as u32; `None` is a descriptor that is not open.
    Fd(Option<String>),
}

/// Operations on one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// `BPF_MAP_LOOKUP_ELEM`
    Lookup,
    /// `BPF_MAP_UPDATE_ELEM`
    Update,
    /// `BPF_MAP_DELETE_ELEM`
    Delete,
    /// `BPF_MAP_GET_NEXT_KEY`
    NextKey,
    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`
    LookupAndDelete,
    /// `bpf_map_lookup_elem`
    ProgLookup,
    /// `bpf_map_update_elem`
    ProgUpdate,
    /// `bpf_map_delete_elem`
    ProgDelete,
    /// `bpf_map_push_elem`
    ProgPush,
    /// `bpf_map_pop_elem`
    ProgPop,
    /// `bpf_map_peek_elem`
    ProgPeek,
}

/// Batch commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// `BPF_MAP_LOOKUP_BATCH`
    Lookup,
    /// `BPF_MAP_LOOKUP_AND_DELETE_BATCH`
    LookupAndDelete,
    /// `BPF_MAP_UPDATE_BATCH`
    Update,
    /// `BPF_MAP_DELETE_BATCH`
    Delete,
}

/// The arguments of a batch.
#[derive(Clone, Debug)]
pub struct BatchCall {
    /// Which one.
    pub batch: Batch,
    /// Whether to go on where the last lookup stopped.
    pub continues: bool,
    /// `count`
    pub count: u32,
    /// Keys given.
    pub keys: Vec<u8>,
    /// Values given.
    pub values: Vec<u8>,
    /// `elem_flags`
    pub elem_flags: u64,
}

/// What an operation returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0, or a helper's result.
    pub result: i64,
    /// Bytes that came back: a value or key.
    pub bytes: Option<Vec<u8>>,
    /// `count` of a batch.
    pub count: Option<u32>,
    /// The map whose id came back instead of bytes.
    pub id_of: Option<String>,
    /// Keys of a batch, then values.
    pub batch: Option<(Vec<u8>, Vec<u8>)>,
}

/// Something that has maps.
pub trait Subject {
    /// Creates a map under a name.
    ///
    /// # Errors
    /// The errno.
    fn create(&mut self, name: &str, create: &Create) -> Result<(), Errno>;

    /// One operation on one element.
    ///
    /// # Errors
    /// The errno of a system call; helpers answer with their result instead.
    fn elem(
        &mut self,
        name: &str,
        elem: Elem,
        key: &Bytes,
        value: &Bytes,
        flags: u64,
    ) -> Result<Answer, Errno>;

    /// A batch: what was done, and the outcome.
    fn batch(&mut self, name: &str, call: &BatchCall) -> (Answer, Result<(), Errno>);

    /// Freezes.
    ///
    /// # Errors
    /// The errno.
    fn freeze(&mut self, name: &str) -> Result<(), Errno>;

    /// Maps pages and keeps the mapping; the first 8 bytes come back.
    ///
    /// # Errors
    /// The errno.
    fn mmap(
        &mut self,
        name: &str,
        page: usize,
        pages: usize,
        writable: bool,
    ) -> Result<Answer, Errno>;

    /// Drops all mappings.
    fn munmap(&mut self);

    /// Closes the descriptor.
    fn close(&mut self, name: &str);

    /// Bytes of a key and of a value in system calls.
    fn sizes(&self, name: &str) -> (usize, usize);
}

/// Runs a script on a subject: the same text with this subject's answers.
///
/// # Errors
/// A line that is not understood.
pub fn run(script: &str, subject: &mut dyn Subject, cpus: usize) -> Result<String, String> {
    let mut out = String::new();
    for (number, line) in script.lines().enumerate() {
        let operation = line.split(" -> ").next().unwrap_or_default().trim();
        if operation.is_empty() || operation.starts_with('#') {
            out.push_str(line);
        } else {
            let answer = run_line(operation, subject, cpus)
                .map_err(|what| format!("line {}: {what}: {operation}", number + 1))?;
            let _ = write!(out, "{operation} -> {answer}");
        }
        out.push('\n');
    }
    Ok(out)
}

fn run_line(operation: &str, subject: &mut dyn Subject, cpus: usize) -> Result<String, String> {
    let mut words = operation.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    let (options, plain): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('='));
    let option = |key: &str| {
        options
            .iter()
            .find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| option(key).map_or(Ok(0), parse_number);
    let at = |index: usize| plain.get(index).copied().unwrap_or("-");
    let flags = number("flags")?;
    let elem =
        |subject: &mut dyn Subject, elem, key: &str, value: &str| -> Result<String, String> {
            let answer = subject.elem(name, elem, &parse_bytes(key)?, &parse_bytes(value)?, flags);
            Ok(show(answer, cpus))
        };
    match verb {
        "create" => {
            let create = Create {
                map_type: at(0).to_owned(),
                key_size: number("key")? as u32,
                value_size: number("value")? as u32,
                max_entries: number("max")? as u32,
                map_flags: flags as u32,
                map_extra: number("extra")?,
                numa_node: number("numa")? as u32,
                inner: option("inner").map(str::to_owned),
                btf: number("btf")? != 0,
                name: option("name").unwrap_or_default().to_owned(),
            };
            Ok(show(
                subject.create(name, &create).map(|()| Answer::default()),
                cpus,
            ))
        }
        "lookup" => elem(subject, Elem::Lookup, at(0), at(1)),
        "update" => elem(subject, Elem::Update, at(0), at(1)),
        "delete" => elem(subject, Elem::Delete, at(0), "-"),
        "lookdel" => elem(subject, Elem::LookupAndDelete, at(0), "-"),
        "next" => elem(subject, Elem::NextKey, at(0), "-"),
        "prog-lookup" => elem(subject, Elem::ProgLookup, at(0), "-"),
        "prog-update" => elem(subject, Elem::ProgUpdate, at(0), at(1)),
        "prog-delete" => elem(subject, Elem::ProgDelete, at(0), "-"),
        "prog-push" => elem(subject, Elem::ProgPush, "-", at(0)),
        "prog-pop" => elem(subject, Elem::ProgPop, "-", "-"),
        "prog-peek" => elem(subject, Elem::ProgPeek, "-", "-"),
        "keys" => Ok(all_keys(subject, name)),
        "freeze" => Ok(show(subject.freeze(name).map(|()| Answer::default()), cpus)),
        "mmap" => {
            let (page, pages) = (parse_number(at(0))? as usize, parse_number(at(1))? as usize);
            Ok(show(subject.mmap(name, page, pages, at(2) == "rw"), cpus))
        }
        "munmap" => {
            subject.munmap();
            Ok("ok".to_owned())
        }
        "close" => {
            subject.close(name);
            Ok("ok".to_owned())
        }
        "batch-lookup" | "batch-lookdel" => {
            let batch = if verb == "batch-lookup" {
                Batch::Lookup
            } else {
                Batch::LookupAndDelete
            };
            let (count, continues) = (parse_number(at(1))? as u32, at(0) == "more");
            let (key_bytes, value_bytes) = subject.sizes(name);
            let call = BatchCall {
                batch,
                continues,
                count,
                keys: Vec::new(),
                values: Vec::new(),
                elem_flags: flags,
            };
            let (answer, outcome) = subject.batch(name, &call);
            Ok(show_batch(&answer, outcome, key_bytes, value_bytes))
        }
        "batch-update" | "batch-delete" => {
            let batch = if verb == "batch-update" {
                Batch::Update
            } else {
                Batch::Delete
            };
            let count = parse_number(at(0))? as u32;
            let (keys, values) = (parse_given(at(1), cpus)?, parse_given(at(2), cpus)?);
            let call = BatchCall {
                batch,
                continues: false,
                count,
                keys,
                values,
                elem_flags: flags,
            };
            let (answer, outcome) = subject.batch(name, &call);
            Ok(show_batch(&answer, outcome, 0, 0))
        }
        _ => Err(format!("unknown operation '{verb}'")),
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is not a number"))
}

fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(format!("'{text}' has an odd number of digits"));
    }
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    digits
        .chunks(2)
        .map(byte)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("'{text}' is not hexadecimal"))
}

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    Ok(match text.split_once(':') {
        None if text == "-" => Bytes::Null,
        None => Bytes::Given(parse_hex(text)?),
        Some(("cpus", hex)) => Bytes::PerCpu(parse_hex(hex)?),
        Some(("fd", "-1")) => Bytes::Fd(None),
        Some(("fd", name)) => Bytes::Fd(Some(name.to_owned())),
        Some(_) => return Err(format!("'{text}' is not understood")),
    })
}

fn parse_given(text: &str, cpus: usize) -> Result<Vec<u8>, String> {
    Ok(match parse_bytes(text)? {
        Bytes::Given(bytes) => bytes,
        Bytes::PerCpu(bytes) => bytes.repeat(cpus),
        Bytes::Null | Bytes::Fd(_) => Vec::new(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Long values are all the same byte, or shown by their length and ends.
fn hex_short(bytes: &[u8], cpus: usize) -> String {
    let one = bytes.len() / cpus.max(1);
    if cpus > 1
        && one > 0
        && one.is_multiple_of(8)
        && bytes.len() == one * cpus
        && bytes.chunks(one).all(|chunk| chunk == &bytes[..one])
    {
        return format!("cpus:{}", hex(&bytes[..one]));
    }
    hex(bytes)
}

/// `errno(3)` names that answers use; others by number.
#[must_use]
pub fn errno_name(errno: Errno) -> String {
    match ring3_uapi::Errno::from_raw(errno).name() {
        Some(name) => name.to_owned(),
        None => errno.to_string(),
    }
}

fn show(answer: Result<Answer, Errno>, cpus: usize) -> String {
    match answer {
        Err(errno) => errno_name(errno),
        Ok(answer) => {
            let mut text = match answer.result {
                0 => "ok".to_owned(),
                negative if (-4095..0).contains(&negative) => errno_name(-negative as i32),
                other => other.to_string(),
            };
            if let Some(bytes) = &answer.bytes {
                let _ = write!(text, " {}", hex_short(bytes, cpus));
            }
            if let Some(name) = &answer.id_of {
                let _ = write!(text, " id:{name}");
            }
            text
        }
    }
}

/// Elements of a batch are sorted: the order of a hash table is not part of the answer.
fn show_batch(
    answer: &Answer,
    outcome: Result<(), Errno>,
    key_bytes: usize,
    value_bytes: usize,
) -> String {
    let mut text = outcome.map_or_else(errno_name, |()| "ok".to_owned());
    if let Some(count) = answer.count {
        let _ = write!(text, " count={count}");
    }
    if let Some((keys, values)) = &answer.batch {
        let pairs = keys
            .chunks_exact(key_bytes.max(1))
            .zip(values.chunks_exact(value_bytes.max(1)));
        let mut pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{}={}", hex(key), hex(value)))
            .collect();
        pairs.sort();
        for pair in pairs {
            let _ = write!(text, " {pair}");
        }
    }
    text
}

/// Walks all keys; sorted, because the order of a hash table is not part of the answer.
fn all_keys(subject: &mut dyn Subject, name: &str) -> String {
    let mut keys = Vec::new();
    let mut last = Bytes::Null;
    while keys.len() < 10_000 {
        match subject.elem(name, Elem::NextKey, &last, &Bytes::Null, 0) {
            Ok(Answer {
                bytes: Some(key), ..
            }) => {
                keys.push(hex(&key));
                last = Bytes::Given(key);
            }
            Ok(_) => break,
            Err(errno) => {
                keys.sort();
                return format!(
                    "{} keys {} then {}",
                    keys.len(),
                    keys.join(" "),
                    errno_name(errno)
                )
                .replace("  ", " ");
            }
        }
    }
    "endless".to_owned()
}
