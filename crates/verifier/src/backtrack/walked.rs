//! Where walks backwards from the current path began since its last checkpoint. A later one that comes there with nothing else wanted has
//! nothing to mark any more: the marks of a path's checkpoints stay.

use super::wanted::BacktrackState;
use crate::state::REGS;

/// Between two instructions of a path since its last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The instruction that comes next.
    pub(super) insn_idx: u32,
    /// Entries of the history before it. One instruction has another count each time it runs: between stand the entries of jumps.
    pub(super) entries: u32,
}

/// Of each register: where the walk for it began last, in which frame.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    begins: [(Moment, u8); REGS],
}

const NEVER: Moment = Moment {
    insn_idx: u32::MAX,
    entries: u32::MAX,
};

impl Default for Walked {
    fn default() -> Self {
        Walked {
            begins: [(NEVER, 0); REGS],
        }
    }
}

impl Walked {
    /// Another path goes on, or there is a new checkpoint.
    pub(crate) fn forget(&mut self) {
        *self = Walked::default();
    }

    /// A walk for a register of a frame began here and came to its end.
    pub(super) fn note(&mut self, register: usize, frame: u8, moment: Moment) {
        if let Some(begin) = self.begins.get_mut(register) {
            *begin = (moment, frame);
        }
    }

    /// The instruction at which the walk for the first of `wanted` began last; no instruction's index if none did.
    #[inline]
    pub(super) fn begin_of(&self, wanted: u32) -> u32 {
        let begin = self.begins.get(wanted.trailing_zeros() as usize);
        begin.map_or(u32::MAX, |(moment, _)| moment.insn_idx)
    }

    /// Whether walks for all of `wanted`, registers of a frame, began here.
    #[inline]
    pub(super) fn covers(&self, mut wanted: u32, frame: u8, moment: Moment) -> bool {
        while wanted != 0 {
            let register = wanted.trailing_zeros() as usize;
            if self.begins.get(register) != Some(&(moment, frame)) {
                return false;
            }
            wanted &= wanted - 1;
        }
        true
    }

    /// As [`Self::covers`] for all that is wanted.
    pub(super) fn covers_all(&self, bt: &BacktrackState, moment: Moment) -> bool {
        bt.wants_only_registers() && self.covers(bt.reg_mask(), bt.frame, moment)
    }
}
