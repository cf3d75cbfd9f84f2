//! Why a program is rejected: [`Violation`] while it travels up inside the verifier, [`VerifierError`] at its boundary.
//!
//! A check function returns `Err(Box<Violation>)`; nothing is printed at that moment. The text is the kernel's, lines
//! separated by `\n`, the last one without it; `explore` prints it when the violation ends the path. A caller that adds a
//! line uses [`Violation::and_line`]. What the verifier cannot judge yet is [`Violation::unjudged`], never a silent accept.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use ring3_uapi::Errno;

/// Result of a check.
pub(crate) type Check<T = ()> = Result<T, Box<Violation>>;

/// Whether a rejection is the kernel's or ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectKind {
    /// The program breaks a rule of the kernel's verifier.
    Rule,
    /// This verifier cannot judge the program yet; the kernel might accept it.
    Unjudged,
    /// An invariant of this verifier broke.
    Bug,
}

/// A broken rule on its way up.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) errno: Errno,
    /// The kernel's lines; empty if the kernel says nothing.
    pub(crate) text: String,
    pub(crate) kind: RejectKind,
    /// The kernel ends this text without a newline; what follows stands in the same line.
    pub(crate) unterminated: bool,
}

impl Violation {
    /// A rule with its text.
    #[cold]
    pub(crate) fn new(errno: Errno, text: String) -> Box<Self> {
        Box::new(Violation {
            errno,
            text,
            kind: RejectKind::Rule,
            unterminated: false,
        })
    }

    /// As [`Self::new`]; far from where it is called the words are put together.
    #[cold]
    #[inline(never)]
    pub(crate) fn rule(errno: Errno, words: fmt::Arguments<'_>) -> Box<Self> {
        Self::new(errno, alloc::fmt::format(words))
    }

    /// A rule whose text the kernel does not end with a newline.
    #[cold]
    pub(crate) fn unterminated(errno: Errno, text: String) -> Box<Self> {
        let mut v = Self::new(errno, text);
        v.unterminated = true;
        v
    }

    /// A rule that the kernel enforces without a word.
    #[cold]
    pub(crate) fn silent(errno: Errno) -> Box<Self> {
        Self::new(errno, String::new())
    }

    /// Something this verifier does not know how to judge.
    #[cold]
    pub(crate) fn unjudged(what: impl fmt::Display) -> Box<Self> {
        let mut v = Self::new(Errno::ENOTSUPP, alloc::format!("not judged yet: {what}"));
        v.kind = RejectKind::Unjudged;
        v
    }

    /// A broken invariant of ours; the kernel has the same words for its own.
    #[cold]
    pub(crate) fn bug(what: impl fmt::Display) -> Box<Self> {
        let mut v = Self::new(Errno::EFAULT, alloc::format!("verifier bug: {what}"));
        v.kind = RejectKind::Bug;
        v
    }

    /// The same violation with one more line.
    #[cold]
    pub(crate) fn and_line(mut self: Box<Self>, line: impl fmt::Display) -> Box<Self> {
        use fmt::Write;
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{line}");
        self
    }

    /// The same violation with another errno.
    #[cold]
    pub(crate) fn with_errno(mut self: Box<Self>, errno: Errno) -> Box<Self> {
        self.errno = errno;
        self
    }
}

/// `return Err(...)` with an errno and the kernel's words.
macro_rules! reject {
    ($errno:ident) => {
        return Err($crate::error::Violation::silent(ring3_uapi::Errno::$errno))
    };
    ($errno:ident, $($fmt:tt)+) => {
        return Err($crate::error::Violation::rule(ring3_uapi::Errno::$errno, format_args!($($fmt)+)))
    };
}
pub(crate) use reject;

/// `return Err(...)`: not judged yet, because of what.
macro_rules! unjudged {
    ($($fmt:tt)+) => {
        return Err($crate::error::Violation::unjudged(format_args!($($fmt)+)))
    };
}
pub(crate) use unjudged;

/// A rejected program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierError {
    /// The errno of BPF_PROG_LOAD.
    pub errno: Errno,
    /// The last words of the verifier, without the statistics; may be several lines, may be empty.
    pub message: String,
    /// The instruction slot at which exploration stood, if it had begun.
    pub insn_idx: Option<u32>,
    /// Whose rule it is.
    pub kind: RejectKind,
}

impl VerifierError {
    /// The last line that says what is wrong; the kernel puts the source line behind some messages.
    pub fn last_words(&self) -> &str {
        let mut lines = self.message.lines().rev();
        lines
            .find(|line| !line.starts_with("; "))
            .unwrap_or("rejected")
    }
}

impl fmt::Display for VerifierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last_words();
        match self.insn_idx {
            Some(idx) => write!(f, "insn {idx}: {last} ({})", self.errno),
            None => write!(f, "{last} ({})", self.errno),
        }
    }
}

impl core::error::Error for VerifierError {}
