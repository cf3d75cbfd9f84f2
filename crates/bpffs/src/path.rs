//! Paths as path walks of Linux read them: components, `.` and `..`, limits. Key type: [`Walk`].

use ring3_uapi::Errno;

/// Bytes of a path, its NUL included. Source: `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// Bytes of a component. Source: `NAME_MAX`.
const NAME_BYTES_MAX: usize = 255;

/// The steps of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Walk<'a> {
    /// Components in order; `.` and empty ones are left out, `..` is kept.
    pub(crate) steps: Vec<&'a str>,
    /// It ends in `/` or `/.`: only a directory answers.
    pub(crate) wants_dir: bool,
}

impl<'a> Walk<'a> {
    /// Cuts an absolute path.
    ///
    /// # Errors
    /// ENOENT: empty or relative. ENAMETOOLONG: more than 4095 bytes, or a component of more than 255.
    pub(crate) fn parse(path: &'a str) -> Result<Walk<'a>, Errno> {
        if path.len() >= PATH_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if !path.starts_with('/') {
            return Err(Errno::ENOENT);
        }
        let steps: Vec<&str> = path
            .split('/')
            .filter(|step| !step.is_empty() && *step != ".")
            .collect();
        if steps.iter().any(|step| step.len() > NAME_BYTES_MAX) {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(Walk {
            steps,
            wants_dir: path.ends_with('/') || path.ends_with("/."),
        })
    }

    /// The same without its last component, and that component.
    pub(crate) fn split_last(mut self) -> Option<(Walk<'a>, &'a str)> {
        let last = self.steps.pop()?;
        Some((
            Walk {
                steps: self.steps,
                wants_dir: true,
            },
            last,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_cut_and_limited() {
        let walk = Walk::parse("//sys/./fs/bpf/../x/").unwrap();
        assert_eq!(walk.steps, ["sys", "fs", "bpf", "..", "x"]);
        assert!(walk.wants_dir);
        assert_eq!(Walk::parse("relative"), Err(Errno::ENOENT));
        assert_eq!(Walk::parse(""), Err(Errno::ENOENT));
        let long = format!("/{}", "a".repeat(256));
        assert_eq!(Walk::parse(&long), Err(Errno::ENAMETOOLONG));
        let long = "/a".repeat(2048);
        assert_eq!(Walk::parse(&long), Err(Errno::ENAMETOOLONG));
    }
}
