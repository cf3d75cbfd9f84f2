//! Where walks backwards from the current path began since its last checkpoint. For a later one that comes
//! there, a register for which one began has nothing to mark any more: the marks of a path's checkpoints stay, and what is wanted for one
//! register does not depend on what else is wanted.

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

    /// Those of `wanted`, registers of a frame, for which no walk began here.
    #[inline]
    pub(super) fn without_known(&self, wanted: u32, frame: u8, moment: Moment) -> u32 {
        let (mut rest, mut left) = (wanted, wanted);
        while left != 0 {
            let register = left.trailing_zeros();
            if self.begins.get(register as usize) == Some(&(moment, frame)) {
                rest &= !(1 << register);
            }
            left &= left - 1;
        }
        rest
    }
}
