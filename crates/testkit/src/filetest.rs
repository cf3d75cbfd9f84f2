//! Filetests: a program in assembler text that names its commands and carries its expectations on the offending instruction.
//!
//! A file is read by [`FileTest::parse`], run by [`FileTest::verify`] or, in the running kernel, by [`run::load`], and
//! judged by [`FileTest::check`]. The format is in `docs/verifier-filetests.md`. Neighbours: `run` (from a file to a load),
//! `fixture` (recorded answers), `ring3_isa::parse_asm` (the text of the program).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use ring3_isa::{AsmResolve, Assembly, RawInsn, parse_asm};
use ring3_spec::Privilege;
use ring3_uapi::{AttachType, Errno, FuncId, MapType, ProgType};

use crate::fixture::fixtures_dir;

pub mod run;

/// A map of a filetest; its number is what `map[N]` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestMap {
    /// N of `map[N]`.
    pub number: i32,
    /// Type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `map_flags`
    pub map_flags: u32,
    /// Number of the map that is the template of a map of maps.
    pub inner: Option<i32>,
}

/// Who loads the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loader {
    /// Every capability.
    #[default]
    Full,
    /// No capability. A kernel with `unprivileged_bpf_disabled` answers nothing about these.
    None,
    /// Everything but CAP_PERFMON and CAP_SYS_ADMIN.
    NoPerfmon,
}

impl Loader {
    /// The capabilities.
    pub const fn privilege(self) -> Privilege {
        match self {
            Loader::Full => Privilege::FULL,
            Loader::None => Privilege::NONE,
            Loader::NoPerfmon => Privilege {
                perfmon: false,
                sys_admin: false,
                ..Privilege::FULL
            },
        }
    }
}

/// A message that must be said at an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Line of the file, from 1.
    pub line: u32,
    /// Slot of the instruction.
    pub slot: usize,
    /// Part of a line of the log.
    pub message: String,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct FileTest {
    /// Name of the file, without extension.
    pub name: String,
    /// `;! prog_type`
    pub prog_type: ProgType,
    /// `;! attach_type`
    pub attach_type: u32,
    /// `;! prog_flags`
    pub prog_flags: u32,
    /// `;! privilege`
    pub loader: Loader,
    /// `;! map`, in the order of the file.
    pub maps: Vec<TestMap>,
    /// `;! verdict`: what the load answers; `None` is accepted.
    pub verdict: Option<Errno>,
    /// `;! log`: line and substring.
    pub log: Vec<(u32, String)>,
    /// `; ! message` behind an instruction.
    pub expectations: Vec<Expectation>,
    /// The program.
    pub insns: Vec<RawInsn>,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTestError {
    /// File as given.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// What was expected or is wrong.
    pub message: String,
}

impl fmt::Display for FileTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for FileTestError {}

/// Helpers may be called by name in assembler text: `call bpf_map_lookup_elem`.
pub struct HelperNames;

impl AsmResolve for HelperNames {
    fn helper_id(&self, name: &str) -> Option<i32> {
        let id = FuncId::from_name(name.strip_prefix("bpf_")?)?;
        i32::try_from(id.raw()).ok()
    }
}

/// The files of every filetest of the verifier, sorted by name.
///
/// # Errors
/// The folder cannot be read.
pub fn files() -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in fs::read_dir(fixtures_dir().join("asm/verifier"))? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "bpf") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Where the kernel's answer to a filetest is kept.
pub fn oracle_path(name: &str) -> PathBuf {
    fixtures_dir()
        .join("oracle/asm/verifier")
        .join(format!("{name}.txt"))
}

/// Header commands as they are found.
#[derive(Default)]
struct Header {
    prog_type: Option<ProgType>,
    attach_type: Option<u32>,
    prog_flags: Option<u32>,
    loader: Option<Loader>,
    maps: Vec<TestMap>,
    verdict: Option<Option<Errno>>,
    log: Vec<(u32, String)>,
}

impl FileTest {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// The file cannot be read, or [`FileTest::parse`] refuses it.
    pub fn read(path: &Path) -> io::Result<FileTest> {
        let text = fs::read_to_string(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        FileTest::parse(&path.display().to_string(), &text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// An unknown, repeated or malformed command, a fault of the assembler text, a map that is not declared, an
    /// expectation without an instruction, and a file that expects nothing.
    pub fn parse(file: &str, text: &str) -> Result<FileTest, FileTestError> {
        let fail = |line: u32, message: String| FileTestError {
            file: file.to_owned(),
            line,
            message,
        };
        let mut header = Header::default();
        for (at, line_text) in text.lines().enumerate() {
            let line = at as u32 + 1;
            if let Some(command) = line_text.trim_start().strip_prefix(";!") {
                header
                    .command(line, command.trim())
                    .map_err(|message| fail(line, message))?;
            }
        }
        let assembly = parse_asm(text, &HelperNames).map_err(|error| {
            let column = error.column;
            fail(error.line, format!("column {column}: {}", error.message))
        })?;
        if assembly.insns.is_empty() {
            return Err(fail(1, "no instruction".to_owned()));
        }
        check_maps(&assembly, &header.maps).map_err(|(line, message)| fail(line, message))?;
        let expectations =
            expectations(text, &assembly).map_err(|(line, message)| fail(line, message))?;
        let missing = |command: &str| fail(1, format!("no ';! {command}'"));
        let verdict = header.verdict.ok_or_else(|| missing("verdict"))?;
        if verdict.is_some() && header.log.is_empty() && expectations.is_empty() {
            let message = "a rejection without a message expects nothing: '; ! message' behind the instruction, or ';! log'";
            return Err(fail(1, message.to_owned()));
        }
        let stem = Path::new(file).file_stem().unwrap_or_default();
        Ok(FileTest {
            name: stem.to_string_lossy().into_owned(),
            prog_type: header.prog_type.ok_or_else(|| missing("prog_type"))?,
            attach_type: header.attach_type.unwrap_or(0),
            prog_flags: header.prog_flags.unwrap_or(0),
            loader: header.loader.unwrap_or_default(),
            maps: header.maps,
            verdict,
            log: header.log,
            expectations,
            insns: assembly.insns,
        })
    }

    /// What of an answer is not as the file says, a line each.
    pub fn check(&self, errno: i32, log: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let name = &self.name;
        let wanted = self.verdict.map_or(0, Errno::raw);
        if errno != wanted {
            let text = |errno: i32| match errno {
                0 => "accept".to_owned(),
                _ => format!("reject {}", Errno::from_raw(errno)),
            };
            wrong.push(format!(
                "{name}: verdict {}, expected {}",
                text(errno),
                text(wanted)
            ));
        }
        for (line, substring) in &self.log {
            if !log.lines().any(|said| said.contains(substring.as_str())) {
                wrong.push(format!("{name}:{line}: the log does not say '{substring}'"));
            }
        }
        for expected in &self.expectations {
            if !is_said_at(log, expected.slot, &expected.message) {
                wrong.push(format!(
                    "{name}:{}: instruction {} does not say '{}'",
                    expected.line, expected.slot, expected.message
                ));
            }
        }
        wrong
    }
}

impl Header {
    fn command(&mut self, line: u32, command: &str) -> Result<(), String> {
        let (word, rest) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let rest = rest.trim();
        match word {
            "prog_type" => {
                let value = ProgType::from_name(rest)
                    .ok_or_else(|| format!("'{rest}' is no program type"))?;
                once(&mut self.prog_type, value, word)
            }
            "attach_type" => {
                let value = AttachType::from_name(rest)
                    .ok_or_else(|| format!("'{rest}' is no attach type"))?;
                once(&mut self.attach_type, value.raw(), word)
            }
            "prog_flags" => once(&mut self.prog_flags, number(rest)?, word),
            "privilege" => {
                let value = match rest {
                    "full" => Loader::Full,
                    "none" => Loader::None,
                    "no-perfmon" => Loader::NoPerfmon,
                    _ => return Err(format!("privilege '{rest}': full, none or no-perfmon")),
                };
                once(&mut self.loader, value, word)
            }
            "verdict" => once(&mut self.verdict, verdict(rest)?, word),
            "map" => {
                let map = test_map(rest)?;
                if self.maps.iter().any(|known| known.number == map.number) {
                    return Err(format!("map {} is declared twice", map.number));
                }
                if let Some(inner) = map.inner
                    && !self.maps.iter().any(|known| known.number == inner)
                {
                    return Err(format!("inner map {inner} is not declared above"));
                }
                self.maps.push(map);
                Ok(())
            }
            "log" if rest.is_empty() => Err("log: which text?".to_owned()),
            "log" => {
                self.log.push((line, rest.to_owned()));
                Ok(())
            }
            _ => Err(format!("'{word}' is no command")),
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T, word: &str) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{word} is given twice")),
    }
}

fn number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no number of 32 bits"))
}

/// `accept` or `reject ERRNO`
fn verdict(text: &str) -> Result<Option<Errno>, String> {
    if text == "accept" {
        return Ok(None);
    }
    let name = text
        .strip_prefix("reject ")
        .ok_or_else(|| format!("verdict '{text}': accept, or reject and an errno"))?
        .trim();
    (1..256)
        .map(Errno::from_raw)
        .find(|errno| errno.name() == Some(name))
        .map(Some)
        .ok_or_else(|| format!("'{name}' is no errno"))
}

/// `NUMBER TYPE KEY VALUE ENTRIES [flags N] [inner NUMBER]`
fn test_map(text: &str) -> Result<TestMap, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (&[at, kind, key, value, entries], options) = words
        .split_first_chunk()
        .ok_or_else(|| "map: number, type, bytes of a key, bytes of a value, entries".to_owned())?;
    let small = |text: &str| {
        i32::try_from(number(text)?).map_err(|_| format!("'{text}' is too large for a map"))
    };
    let mut map = TestMap {
        number: small(at)?,
        map_type: MapType::from_name(kind).ok_or_else(|| format!("'{kind}' is no map type"))?,
        key_size: number(key)?,
        value_size: number(value)?,
        max_entries: number(entries)?,
        map_flags: 0,
        inner: None,
    };
    for option in options.chunks(2) {
        match *option {
            ["flags", flags] => map.map_flags = number(flags)?,
            ["inner", inner] => map.inner = Some(small(inner)?),
            _ => return Err(format!("map: '{}' is no option", option.join(" "))),
        }
    }
    Ok(map)
}

/// A map that an instruction names must be declared. Second halves of two-slot loads have opcode 0 and name none.
fn check_maps(assembly: &Assembly, maps: &[TestMap]) -> Result<(), (u32, String)> {
    for (insn, line) in assembly.insns.iter().zip(&assembly.lines) {
        if run::names_map(*insn) && !maps.iter().any(|map| map.number == insn.imm) {
            return Err((*line, format!("map {} is not declared", insn.imm)));
        }
    }
    Ok(())
}

/// The messages behind `; !`.
fn expectations(text: &str, assembly: &Assembly) -> Result<Vec<Expectation>, (u32, String)> {
    let mut all = Vec::new();
    for (at, line_text) in text.lines().enumerate() {
        let line = at as u32 + 1;
        let Some((_, message)) = line_text.split_once("; !") else {
            continue;
        };
        let message = message.trim();
        if message.is_empty() {
            return Err((line, "'; !' without a message".to_owned()));
        }
        let slot = assembly.lines.iter().position(|&from| from == line);
        let slot = slot.ok_or_else(|| {
            (
                line,
                "'; !' behind a line without an instruction".to_owned(),
            )
        })?;
        all.push(Expectation {
            line,
            slot,
            message: message.to_owned(),
        });
    }
    Ok(all)
}

/// Whether a line says `message` while the verifier is at `slot`: the line of the instruction itself and those after it, up
/// to the next instruction's.
fn is_said_at(log: &str, slot: usize, message: &str) -> bool {
    let mut current = None;
    log.lines().any(|line| {
        current = insn_of(line).or(current);
        current == Some(slot) && line.contains(message)
    })
}

/// The instruction that a line announces: `12: (b7) ...`, `12: R1=...`, `from 3 to 12: ...`.
fn insn_of(line: &str) -> Option<usize> {
    let rest = match line.strip_prefix("from ") {
        Some(jump) => jump.split_once(" to ")?.1,
        None => line,
    };
    let (digits, rest) = rest.split_once(':')?;
    (rest.is_empty() || rest.starts_with(' '))
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = ";! prog_type xdp
;! map 0 array 4 16 4
;! map 7 array_of_maps 4 4 1 inner 0
;! privilege no-perfmon
;! verdict reject EACCES
;! log R0 !read_ok
start: r1 = map[7] ll
exit ; ! R0 !read_ok
";

    fn error(text: &str) -> String {
        FileTest::parse("a/b.bpf", text).unwrap_err().to_string()
    }

    fn replaced(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        error(&GOOD.replace(from, to))
    }

    #[test]
    fn a_file_is_read_whole() {
        let test = FileTest::parse("a/b.bpf", GOOD).unwrap();
        assert_eq!(test.name, "b");
        assert_eq!(test.prog_type, ProgType::Xdp);
        assert_eq!(test.loader, Loader::NoPerfmon);
        assert_eq!(test.maps[1].inner, Some(0));
        assert_eq!(test.verdict, Some(Errno::EACCES));
        assert_eq!(test.log, [(6, "R0 !read_ok".to_owned())]);
        assert_eq!(test.expectations[0].slot, 2);
        assert_eq!(test.insns.len(), 3);
    }

    #[test]
    fn helpers_are_known_by_name() {
        let text = ";! prog_type xdp\n;! verdict accept\ncall bpf_ktime_get_ns\nexit";
        let test = FileTest::parse("x.bpf", text).unwrap();
        assert_eq!(test.insns[0], RawInsn::new(0x85, 0, 0, 0, 5));
    }

    #[test]
    fn errors_name_file_and_line() {
        assert_eq!(
            replaced("EACCES", "EWHAT"),
            "a/b.bpf:5: 'EWHAT' is no errno"
        );
        assert_eq!(
            replaced("type xdp", "type xpd"),
            "a/b.bpf:1: 'xpd' is no program type"
        );
        assert_eq!(
            replaced("map 7", "map 0"),
            "a/b.bpf:3: map 0 is declared twice"
        );
        assert_eq!(
            replaced("inner 0", "inner 5"),
            "a/b.bpf:3: inner map 5 is not declared above"
        );
        assert_eq!(
            replaced("inner 0", "inner"),
            "a/b.bpf:3: map: 'inner' is no option"
        );
        assert_eq!(
            replaced("map[7]", "map[8]"),
            "a/b.bpf:7: map 8 is not declared"
        );
        assert_eq!(
            replaced("privilege no-perfmon", "prvilege"),
            "a/b.bpf:4: 'prvilege' is no command"
        );
        assert_eq!(
            replaced("privilege no-perfmon", "prog_type xdp"),
            "a/b.bpf:4: prog_type is given twice"
        );
        assert_eq!(
            replaced("start: r1", "start: r12"),
            "a/b.bpf:7: column 8: r12 is not a register: there are r0 to r11"
        );
        assert_eq!(
            replaced("exit ; ! R0 !read_ok", "exit ; !"),
            "a/b.bpf:8: '; !' without a message"
        );
        assert_eq!(
            error(&format!("{GOOD}; ! late")),
            "a/b.bpf:9: '; !' behind a line without an instruction"
        );
        assert_eq!(
            replaced("log R0 !read_ok", "log"),
            "a/b.bpf:6: log: which text?"
        );
        assert_eq!(
            replaced("map 0 array 4 16 4", "map 0 array 4 16"),
            "a/b.bpf:2: map: number, type, bytes of a key, bytes of a value, entries"
        );
    }

    #[test]
    fn a_file_that_expects_nothing_is_an_error() {
        assert_eq!(
            error(";! prog_type xdp\nr0 = 0\nexit"),
            "a/b.bpf:1: no ';! verdict'"
        );
        assert_eq!(
            error(";! verdict accept\nr0 = 0\nexit"),
            "a/b.bpf:1: no ';! prog_type'"
        );
        assert!(
            error(";! prog_type xdp\n;! verdict reject EACCES\nexit").contains("expects nothing")
        );
        assert_eq!(
            error(";! prog_type xdp\n;! verdict accept"),
            "a/b.bpf:1: no instruction"
        );
    }

    #[test]
    fn what_differs_is_said() {
        let test = FileTest::parse("a/b.bpf", GOOD).unwrap();
        let log = "0: R1=ctx()\n0: (18) r1 = 0x0\n2: (95) exit\nR0 !read_ok\nprocessed 2 insns\n";
        assert_eq!(test.check(13, log), Vec::<String>::new());
        assert_eq!(
            test.check(0, log),
            ["b: verdict accept, expected reject EACCES"]
        );
        let elsewhere = "0: (18) r1 = 0x0\nR0 !read_ok\n2: (95) exit\n";
        assert_eq!(
            test.check(13, elsewhere),
            ["b:8: instruction 2 does not say 'R0 !read_ok'"]
        );
        assert_eq!(test.check(13, "").len(), 2);
    }

    #[test]
    fn instructions_are_found_in_a_log() {
        assert_eq!(insn_of("12: (b7) r0 = 0"), Some(12));
        assert_eq!(insn_of("from 3 to 12: R0=1"), Some(12));
        assert_eq!(insn_of("  12: .1... (b7) r0 = 0"), None);
        assert_eq!(insn_of("mark_precise: frame0: x"), None);
        assert_eq!(insn_of("R0 !read_ok"), None);
    }
}
