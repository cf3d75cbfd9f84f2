//! `Log`: where the kernel's text goes.
//!
//! The sink is a growing string, or as much of the text as its reader will look at ([`LogKeep`]): the last bytes or the first ones.
//! The rest of what the kernel's user buffer does (ENOSPC, the NUL) is the caller's business. At level 0 nothing is
//! formatted: use [`vlog!`], which asks first.

use alloc::string::String;
use core::fmt;

/// Level bit 1: the path that leads to the verdict.
pub(crate) const LEVEL1: u32 = 1;
/// Level bit 2: every path, with all states.
pub(crate) const LEVEL2: u32 = 2;
/// Level bit 4: statistics.
pub(crate) const STATS: u32 = 4;

/// How much of the text is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogKeep {
    /// All of it.
    #[default]
    All,
    /// At least so many of the last bytes, at most twice as many.
    Last(usize),
    /// So many of the first bytes, down to a whole character.
    First(usize),
}

/// The verifier's log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    level: u32,
    buf: String,
    keep: LogKeep,
    /// Bytes that were written before those in `buf` and are not kept.
    dropped: u64,
    /// Bytes that were written behind those in `buf` and are not kept.
    cut: u64,
}

impl Log {
    /// A log at a level (bits 1, 2, 4; 0 for none).
    pub fn new(level: u32) -> Self {
        Log {
            level,
            ..Log::default()
        }
    }

    /// A log that keeps part of its text.
    pub fn keeping(level: u32, keep: LogKeep) -> Self {
        Log {
            level,
            keep,
            ..Log::default()
        }
    }

    /// No log.
    pub fn off() -> Self {
        Log::default()
    }

    /// The level bits.
    #[inline]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Whether anything is logged at all.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.level != 0
    }

    /// Whether instructions and states are logged (level 1 or 2).
    #[inline]
    pub fn is_level(&self) -> bool {
        self.level & (LEVEL1 | LEVEL2) != 0
    }

    /// Whether every path is logged.
    #[inline]
    pub fn is_level2(&self) -> bool {
        self.level & LEVEL2 != 0
    }

    /// Whether statistics are logged.
    #[inline]
    pub fn is_stats(&self) -> bool {
        self.level & STATS != 0
    }

    /// The text so far, or what is kept of it.
    pub fn as_str(&self) -> &str {
        &self.buf
    }

    /// Takes the text.
    pub fn into_string(self) -> String {
        self.buf
    }

    /// Bytes of the whole text: where the next byte goes.
    #[inline]
    pub fn position(&self) -> u64 {
        self.dropped + self.buf.len() as u64 + self.cut
    }

    /// Forgets what was written after `position`.
    pub(crate) fn reset_to(&mut self, position: u64) {
        let keep = position.saturating_sub(self.dropped);
        self.cut = keep.saturating_sub(self.buf.len() as u64).min(self.cut);
        if keep < self.buf.len() as u64 {
            self.buf.truncate(keep as usize);
        }
        self.dropped = self.dropped.min(position);
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        if self.level == 0 {
            return;
        }
        match self.keep {
            LogKeep::All => self.buf.push_str(text),
            LogKeep::Last(bytes) => {
                self.buf.push_str(text);
                if self.buf.len() > bytes.saturating_mul(2) {
                    let cut = self.buf.ceil_char_boundary(self.buf.len() - bytes);
                    self.buf.drain(..cut);
                    self.dropped += cut as u64;
                }
            }
            LogKeep::First(bytes) => {
                // Behind a gap nothing is kept.
                let room = match self.cut {
                    0 => bytes.saturating_sub(self.buf.len()),
                    _ => 0,
                };
                let kept = text.floor_char_boundary(room);
                self.buf.push_str(&text[..kept]);
                self.cut += (text.len() - kept) as u64;
            }
        }
    }

    /// The sink as a string to write to; ask [`Log::is_on`] first.
    pub(crate) fn out(&mut self) -> &mut Self {
        self
    }
}

impl fmt::Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text);
        Ok(())
    }
}

/// Writes to the log if it is on: `vlog!(env.log, "R{} ...\n", 1)`. The newline is the caller's.
macro_rules! vlog {
    ($log:expr, $($fmt:tt)+) => {
        if $log.is_on() {
            use core::fmt::Write as _;
            // Writing to the sink cannot fail.
            let _ = write!($log.out(), $($fmt)+);
        }
    };
}
pub(crate) use vlog;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_keeps_its_end_is_bounded_and_counts_everything() {
        let mut log = Log::keeping(2, LogKeep::Last(100));
        for i in 0..10_000 {
            vlog!(log, "line {i:05}\n");
            assert!(log.as_str().len() <= 200);
        }
        assert_eq!(log.position(), 110_000);
        assert!(log.as_str().len() >= 100 && log.as_str().ends_with("line 09999\n"));
    }

    #[test]
    fn a_log_that_keeps_its_start_keeps_nothing_behind_a_gap() {
        let mut log = Log::keeping(2, LogKeep::First(5));
        for text in ["abc", "dé", "x", "yz"] {
            log.push_str(text);
        }
        assert_eq!((log.as_str(), log.position()), ("abcd", 9));
        log.reset_to(7);
        log.push_str("!");
        assert_eq!((log.as_str(), log.position()), ("abcd", 8));
        log.reset_to(2);
        log.push_str("!");
        assert_eq!((log.as_str(), log.position()), ("ab!", 3));
    }

    #[test]
    fn going_back_behind_what_was_dropped_starts_afresh() {
        let mut log = Log::keeping(1, LogKeep::Last(4));
        log.push_str("0123456789");
        log.reset_to(3);
        log.push_str("ab");
        assert_eq!((log.as_str(), log.position()), ("ab", 5));
    }
}
