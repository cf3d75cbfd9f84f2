//! Scripts of raw bpf(2) calls: one row a call, with the answer a kernel gave. Key types: [`Subject`] (who is asked), [`run`].
//!
//! A row is `[LABEL:] CMD SIZE ITEM... [=> ANSWER]`; `#` begins a comment. `CMD` is a name of `enum bpf_cmd` in lower case or a number, `SIZE` the bytes
//! of the attributes. Items:
//!
//! | item | meaning |
//! |---|---|
//! | `@OFF=VALUE`, `@OFF:8=VALUE` | 4 (or 8) bytes of the attributes; a value is a number, `$LABEL` (descriptor of that row) or `#LABEL` (id of its object) |
//! | `@OFF=&hex:BYTES`, `&str:TEXT`, `&zero:N`, `&ff:N`, `&fd:LABEL` | a buffer, its address in the attributes; text ends in a NUL |
//! | `~OFF+LEN`, `~OFF:AT+LEN` | bytes of the attributes, or of the buffer at OFF, that are not compared |
//!
//! The answer is `ok`, `fd` or an errno, then what changed: ` @OFF=` the 4 bytes of the attributes there, ` &OFF=` the buffer as runs of hex.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::Path};

use ring3_os::bpf::{Buffer, call};
use ring3_uapi::{Cmd, Errno};

/// Who answers calls.
pub trait Subject {
    /// One call; pointers of `buffers` are put into `attr` first.
    ///
    /// # Errors
    /// The errno of the call.
    fn bpf(&mut self, cmd: u32, attr: &mut [u8], buffers: &mut [Buffer<'_>]) -> Result<i64, Errno>;
}

/// The running kernel.
pub struct Kernel;

impl Subject for Kernel {
    fn bpf(&mut self, cmd: u32, attr: &mut [u8], buffers: &mut [Buffer<'_>]) -> Result<i64, Errno> {
        call(cmd, attr, buffers)
    }
}

/// Commands whose result is a descriptor.
const MAKES_FD: &[Cmd] = &[
    Cmd::MapCreate,
    Cmd::ProgLoad,
    Cmd::BtfLoad,
    Cmd::ObjGet,
    Cmd::ProgGetFdById,
    Cmd::MapGetFdById,
    Cmd::BtfGetFdById,
    Cmd::LinkGetFdById,
    Cmd::EnableStats,
];

/// First line of a recorded script: which kernel answered.
const RELEASE: &str = "# Linux ";

/// Descriptors of a script: number, and id of the object where it has one.
type Labels = BTreeMap<String, (i64, u32)>;

/// A row's call, ready to be made.
#[derive(Default)]
struct Request {
    label: Option<String>,
    cmd: u32,
    attr: Vec<u8>,
    buffers: Vec<(usize, Vec<u8>)>,
    attr_masks: Vec<(usize, usize)>,
    buffer_masks: Vec<(usize, usize, usize)>,
}

/// Runs a script; its lines with the subject's answers.
///
/// # Errors
/// A row that cannot be read, with its line.
pub fn run(script: &str, subject: &mut dyn Subject) -> Result<String, String> {
    let mut labels = Labels::new();
    let mut out = String::new();
    for line in script.lines() {
        let row = line.split(" => ").next().unwrap_or_default().trim_end();
        if row.is_empty() || row.starts_with('#') {
            let _ = writeln!(out, "{row}");
            continue;
        }
        let answer = parse(row, &labels)
            .map(|request| ask(request, subject, &mut labels))
            .map_err(|error| format!("{row}: {error}"))?;
        let _ = writeln!(out, "{row} => {answer}");
    }
    Ok(out)
}

/// Asks the running kernel every row of every script of a folder and rewrites the answers; how many.
///
/// # Errors
/// A script cannot be read, understood or written.
pub fn record(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for path in scripts(folder)? {
        let script = fs::read_to_string(&path)?;
        let mut lines = script.lines().peekable();
        lines.next_if(|line| line.starts_with(RELEASE));
        let rows = lines.collect::<Vec<_>>().join("\n");
        let script = format!("{RELEASE}{}\n{rows}\n", crate::kernel::release()?);
        let answered = run(&script, &mut Kernel).map_err(io::Error::other)?;
        count += answered
            .lines()
            .filter(|line| line.contains(" => "))
            .count();
        fs::write(&path, answered)?;
    }
    Ok(count)
}

/// The scripts of a folder, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn scripts(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn ask(mut request: Request, subject: &mut dyn Subject, labels: &mut Labels) -> String {
    let mut attr = request.attr.clone();
    let before = request.buffers.clone();
    let result = {
        let buffers = request.buffers.iter_mut();
        let mut buffers: Vec<_> = buffers
            .map(|(at, bytes)| Buffer {
                attr_offset: *at,
                bytes,
            })
            .collect();
        subject.bpf(request.cmd, &mut attr, &mut buffers)
    };
    let makes_fd = MAKES_FD.iter().any(|cmd| cmd.raw() == request.cmd);
    let mut answer = match result {
        Ok(_) if makes_fd => "fd".to_owned(),
        Ok(0) => "ok".to_owned(),
        Ok(value) => value.to_string(),
        Err(errno) => errno.to_string(),
    };
    if let (Ok(fd), Some(label)) = (result, &request.label) {
        let id = if makes_fd {
            object_id(request.cmd, fd, subject)
        } else {
            0
        };
        labels.insert(label.clone(), (fd, id));
    }
    describe(&request, &before, &attr, &mut answer);
    answer
}

/// What the call changed.
fn describe(request: &Request, before: &[(usize, Vec<u8>)], attr: &[u8], answer: &mut String) {
    let is_pointer = |at: usize| {
        request
            .buffers
            .iter()
            .any(|(start, _)| (*start..start + 8).contains(&at))
    };
    let is_masked = |at: usize| {
        request
            .attr_masks
            .iter()
            .any(|(start, len)| (*start..start + len).contains(&at))
    };
    for at in (0..attr.len() / 4 * 4).step_by(4) {
        let (before, after) = (&request.attr[at..at + 4], &attr[at..at + 4]);
        if before != after && !is_pointer(at) && !is_masked(at) {
            let value = u32::from_ne_bytes(std::array::from_fn(|i| after[i]));
            let _ = write!(answer, " @{at}={value}");
        }
    }
    for ((at, bytes), (_, unchanged)) in request.buffers.iter().zip(before) {
        if bytes == unchanged {
            continue;
        }
        let masks = request
            .buffer_masks
            .iter()
            .filter(|(buffer, ..)| buffer == at);
        let mut masked = vec![false; bytes.len()];
        for (_, start, len) in masks {
            for mask in masked.iter_mut().skip(*start).take(*len) {
                *mask = true;
            }
        }
        let _ = write!(answer, " &{at}={}", runs(bytes, &masked));
    }
}

/// Bytes in hex; runs of at least 4 equal ones as `BYTExCOUNT`, masked ones as `..`.
fn runs(bytes: &[u8], masked: &[bool]) -> String {
    let mut text = String::new();
    let shown: Vec<Option<u8>> = bytes
        .iter()
        .zip(masked)
        .map(|(byte, masked)| (!masked).then_some(*byte))
        .collect();
    for run in shown.chunk_by(|a, b| a == b) {
        let byte = run[0].map_or("..".to_owned(), |byte| format!("{byte:02x}"));
        if run.len() >= 4 {
            let _ = write!(text, "[{byte}x{}]", run.len());
        } else {
            text.push_str(&byte.repeat(run.len()));
        }
    }
    text
}

/// The id of the object behind a descriptor, 0 if it has none.
fn object_id(cmd: u32, fd: i64, subject: &mut dyn Subject) -> u32 {
    let is_btf = [Cmd::BtfLoad.raw(), Cmd::BtfGetFdById.raw()].contains(&cmd);
    let mut info = vec![0; if is_btf { 32 } else { 8 }];
    let mut attr = vec![0; 16];
    attr[..4].copy_from_slice(&(fd as u32).to_ne_bytes());
    attr[4..8].copy_from_slice(&(info.len() as u32).to_ne_bytes());
    let mut buffers = [Buffer {
        attr_offset: 8,
        bytes: &mut info,
    }];
    if subject
        .bpf(Cmd::ObjGetInfoByFd.raw(), &mut attr, &mut buffers)
        .is_err()
    {
        return 0;
    }
    let at = if is_btf { 12 } else { 4 };
    u32::from_ne_bytes(std::array::from_fn(|i| info[at + i]))
}

fn parse(row: &str, labels: &Labels) -> Result<Request, String> {
    let mut words = row.split_whitespace().peekable();
    let mut request = Request::default();
    if let Some(label) = words.peek().and_then(|word| word.strip_suffix(':')) {
        request.label = Some(label.to_owned());
        words.next();
    }
    let cmd = words.next().ok_or("no command")?;
    request.cmd = match Cmd::from_name(cmd) {
        Some(cmd) => cmd.raw(),
        None => number(cmd)? as u32,
    };
    let size = number(words.next().ok_or("no size")?)? as usize;
    request.attr = vec![0; size];
    for word in words {
        item(word, &mut request, labels).map_err(|error| format!("'{word}': {error}"))?;
    }
    Ok(request)
}

fn item(word: &str, request: &mut Request, labels: &Labels) -> Result<(), String> {
    if let Some(mask) = word.strip_prefix('~') {
        let (place, len) = mask.split_once('+').ok_or("no length")?;
        let len = number(len)? as usize;
        match place.split_once(':') {
            Some((buffer, at)) => {
                let (buffer, at) = (number(buffer)? as usize, number(at)? as usize);
                request.buffer_masks.push((buffer, at, len));
            }
            None => request.attr_masks.push((number(place)? as usize, len)),
        }
        return Ok(());
    }
    let (place, value) = word
        .strip_prefix('@')
        .and_then(|word| word.split_once('='))
        .ok_or("no @OFF=VALUE")?;
    let (at, width) = match place.split_once(':') {
        Some((at, width)) => (number(at)? as usize, number(width)? as usize),
        None => (number(place)? as usize, 4),
    };
    if let Some(buffer) = value.strip_prefix('&') {
        request.buffers.push((at, buffer_bytes(buffer, labels)?));
        return Ok(());
    }
    let value = if let Some(label) = value.strip_prefix('$') {
        labels.get(label).ok_or("no such label")?.0
    } else if let Some(label) = value.strip_prefix('#') {
        i64::from(labels.get(label).ok_or("no such label")?.1)
    } else {
        number(value)?
    };
    let field = request
        .attr
        .get_mut(at..at + width)
        .ok_or("outside of the attributes")?;
    field.copy_from_slice(value.to_ne_bytes().get(..width).ok_or("too wide")?);
    Ok(())
}

fn buffer_bytes(text: &str, labels: &Labels) -> Result<Vec<u8>, String> {
    let (kind, rest) = text.split_once(':').ok_or("no kind of buffer")?;
    match kind {
        "str" => Ok([rest.as_bytes(), b"\0"].concat()),
        "zero" => Ok(vec![0; number(rest)? as usize]),
        "ff" => Ok(vec![0xff; number(rest)? as usize]),
        "fd" => Ok((labels.get(rest).ok_or("no such label")?.0 as u32)
            .to_ne_bytes()
            .to_vec()),
        // Instructions in hex, one with the descriptor of a map: `insns:LABEL:HEX`, where `MMMMMMMM` stands for it.
        "insns" => {
            let (label, hex) = rest.split_once(':').ok_or("no instructions")?;
            let fd = labels.get(label).ok_or("no such label")?.0 as u32;
            let fd: String = fd
                .to_le_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            hex_bytes(&hex.replace("MMMMMMMM", &fd))
        }
        "hex" => hex_bytes(rest),
        _ => Err("unknown kind of buffer".to_owned()),
    }
}

fn hex_bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = hex
        .chars()
        .filter(|c| *c != '_')
        .map(|c| c.to_digit(16).ok_or("no hex digit"))
        .collect::<Result<_, _>>()?;
    Ok(digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8))
        .collect())
}

fn number(text: &str) -> Result<i64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(|value| value as i64),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no number"))
}
