//! `Log`: where the kernel's text goes.
//!
//! The sink is a growing string. The kernel's user buffer (its size, the rolling tail, ENOSPC) is the caller's business;
//! [`Log::with_cap`] only bounds memory by dropping the oldest bytes. At level 0 nothing is formatted: use [`vlog!`],
//! which asks first.

use alloc::string::String;
use core::fmt;

/// Level bit 1: the path that leads to the verdict.
pub(crate) const LEVEL1: u32 = 1;
/// Level bit 2: every path, with all states.
pub(crate) const LEVEL2: u32 = 2;
/// Level bit 4: statistics.
pub(crate) const STATS: u32 = 4;

/// The verifier's log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    level: u32,
    buf: String,
    cap: Option<usize>,
    /// Bytes dropped from the front because of the cap.
    dropped: u64,
}

impl Log {
    /// A log at a level (bits 1, 2, 4; 0 for none).
    pub fn new(level: u32) -> Self {
        Log {
            level,
            ..Log::default()
        }
    }

    /// A log that keeps about the last `cap` bytes (at least `cap`, at most twice as many).
    pub fn with_cap(level: u32, cap: usize) -> Self {
        Log {
            level,
            cap: Some(cap),
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

    /// The text so far (its tail, with a cap).
    pub fn as_str(&self) -> &str {
        &self.buf
    }

    /// Takes the text.
    pub fn into_string(self) -> String {
        self.buf
    }

    /// Bytes written in total: where the next byte goes.
    #[inline]
    pub fn position(&self) -> u64 {
        self.dropped + self.buf.len() as u64
    }

    /// Forgets what was written after `position`.
    pub(crate) fn reset_to(&mut self, position: u64) {
        let keep = position.saturating_sub(self.dropped) as usize;
        if keep < self.buf.len() {
            self.buf.truncate(keep);
        }
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        if self.level == 0 {
            return;
        }
        self.buf.push_str(text);
        if let Some(cap) = self.cap
            && self.buf.len() > cap.saturating_mul(2)
        {
            let mut cut = self.buf.len() - cap;
            while !self.buf.is_char_boundary(cut) {
                cut += 1;
            }
            self.buf.drain(..cut);
            self.dropped += cut as u64;
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
