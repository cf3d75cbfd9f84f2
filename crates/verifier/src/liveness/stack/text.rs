//! The lines of the level-2 log.

use core::fmt;

use super::chain::CallChain;
use crate::log::{Log, vlog};

/// `(CALLSITE,...,START)`
pub(super) struct ChainText<'a> {
    pub(super) chain: &'a CallChain,
    pub(super) start: u32,
}

impl fmt::Display for ChainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for callsite in &self.chain.callsites[..usize::from(self.chain.curframe)] {
            write!(f, "{callsite},")?;
        }
        write!(f, "{})", self.start)
    }
}

/// Changes of one instruction's sets.
pub(super) struct ChangeLine<'a> {
    pub(super) chain: &'a ChainText<'a>,
    pub(super) frame: usize,
    pub(super) at: u32,
}

impl ChangeLine<'_> {
    pub(super) fn write(&self, what: &str, before: u64, after: u64, log: &mut Log) {
        if before == after {
            return;
        }
        vlog!(log, "{} frame {} insn {} ", self.chain, self.frame, self.at);
        let (gained, lost) = (after & !before, before & !after);
        if gained != 0 {
            vlog!(log, "+{what} {} ", SlotsText(gained));
        }
        if lost != 0 {
            vlog!(log, "-{what} {}", SlotsText(lost));
        }
        vlog!(log, "\n");
    }
}

/// `-8,-16`
struct SlotsText(u64);

impl fmt::Display for SlotsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for spi in (0..64u32).filter(|&spi| self.0 >> spi & 1 != 0) {
            write!(f, "{separator}{}", -8 * (spi as i32 + 1))?;
            separator = ",";
        }
        Ok(())
    }
}
