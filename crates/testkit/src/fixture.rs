//! The ELF fixtures and what a kernel said of them. Key types: [`Fixture`], [`Recorded`].
//!
//! `fixtures/elf/AREA/NAME.o` is compiled from the source beside it; `fixtures/oracle/elf/AREA/NAME.PROG.txt` has the kernel's verdict and
//! level-2 log of each of its programs, addresses masked; `fixtures/oracle/elf-no-perfmon` the same without CAP_PERFMON and CAP_SYS_ADMIN.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ring3_btf::Btf;
use ring3_elf::ObjectSpec;

use crate::filetest::Loader;

/// Longest log that is kept.
pub const LOG_BYTES_MAX: usize = 1 << 20;

/// One object file.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// `AREA/NAME`
    pub name: String,
    /// The object.
    pub path: PathBuf,
}

/// A kernel's answer to one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Release of the kernel.
    pub kernel: String,
    /// Level of the log: 2, or 4 (statistics only) where level 2 says more than [`LOG_BYTES_MAX`].
    pub level: u32,
    /// Positive errno, 0 if accepted.
    pub errno: i32,
    /// Log, masked.
    pub log: String,
}

/// The fixtures folder of the checkout this was built from.
pub fn fixtures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The part of a kernel's BTF that the fixtures need (`cargo xtask fixtures --btf RELEASE=FILE` cuts it out).
///
/// # Errors
/// There is none of this release, such as `6.18`.
pub fn kernel_btf(release: &str) -> io::Result<Btf> {
    let path = fixtures_dir().join(format!("btf/vmlinux-{release}.btf"));
    let bytes = fs::read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Btf::parse(&bytes).map_err(io::Error::other)
}

/// Every ELF fixture, sorted by name.
///
/// # Errors
/// The folder cannot be read.
pub fn elf_fixtures() -> io::Result<Vec<Fixture>> {
    let root = fixtures_dir().join("elf");
    let mut fixtures = Vec::new();
    for area in fs::read_dir(&root)? {
        let area = area?.path();
        if !area.is_dir() {
            continue;
        }
        for file in fs::read_dir(&area)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "o") {
                let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("");
                fixtures.push(Fixture {
                    name: name.display().to_string(),
                    path,
                });
            }
        }
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fixtures)
}

impl Fixture {
    /// The parsed object.
    ///
    /// # Errors
    /// The file cannot be read, or is no BPF object.
    pub fn spec(&self) -> io::Result<ObjectSpec> {
        let stem = self
            .path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        ObjectSpec::parse(&fs::read(&self.path)?, &stem).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", self.path.display()),
            )
        })
    }

    /// Where the kernel's answer to a program is kept.
    pub fn oracle_path(&self, program: &str) -> PathBuf {
        self.oracle_path_for(Loader::Full, program)
    }

    /// Where the kernel's answer to a loader's program is kept. The kernel was asked for every loader but those without capabilities.
    pub fn oracle_path_for(&self, loader: Loader, program: &str) -> PathBuf {
        let folder = match loader {
            Loader::Full => "oracle/elf",
            Loader::NoPerfmon => "oracle/elf-no-perfmon",
            Loader::None => "oracle/elf-no-capability",
        };
        fixtures_dir()
            .join(folder)
            .join(format!("{}.{program}.txt", self.name))
    }
}

impl Recorded {
    /// Reads a recorded answer.
    ///
    /// # Errors
    /// The file cannot be read or is not in the format of [`Recorded::to_text`].
    pub fn read(path: &Path) -> io::Result<Recorded> {
        let text = fs::read_to_string(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        Recorded::parse(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: no recorded answer", path.display()),
            )
        })
    }

    fn parse(text: &str) -> Option<Recorded> {
        let (kernel, rest) = text.strip_prefix("kernel ")?.split_once('\n')?;
        let (level, rest) = rest.strip_prefix("level ")?.split_once('\n')?;
        let (errno, log) = rest.strip_prefix("errno ")?.split_once('\n')?;
        Some(Recorded {
            kernel: kernel.to_owned(),
            level: level.parse().ok()?,
            errno: errno.parse().ok()?,
            log: log.to_owned(),
        })
    }

    /// Three header lines, then the log.
    pub fn to_text(&self) -> String {
        format!(
            "kernel {}\nlevel {}\nerrno {}\n{}",
            self.kernel, self.level, self.errno, self.log
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_read_back() {
        let recorded = Recorded {
            kernel: "6.18.44".into(),
            level: 2,
            errno: 13,
            log: "0: R1=ctx()\nbad\n".into(),
        };
        assert_eq!(Recorded::parse(&recorded.to_text()), Some(recorded));
        assert_eq!(Recorded::parse("kernel 6.18"), None);
    }
}
