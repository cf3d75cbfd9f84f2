//! What the walk backwards looks for: [`BacktrackState`], the registers and slots wanted in each frame, how the log writes them, and
//! [`LinkedRegs`], which are wanted together because they share an id.

use core::fmt;

use ring3_isa::Reg;
use ring3_uapi::limits::CALL_FRAMES_MAX;

use super::walked::{Moment, Walked};
use crate::error::{Check, Violation};
use crate::state::JmpHistoryEntry;

/// Registers and slots wanted per frame; empty between calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BacktrackState {
    pub(super) frame: u8,
    pub(super) regs: [u32; CALL_FRAMES_MAX],
    pub(super) slots: [u64; CALL_FRAMES_MAX],
}

impl BacktrackState {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        // Asked at every step: nearly always the frame that is walked wants something.
        if self.reg_mask() != 0 || self.slot_mask() != 0 {
            return false;
        }
        // Frames above are left with nothing wanted.
        let callers = usize::from(self.frame);
        self.regs[..callers].iter().all(|&mask| mask == 0)
            && self.slots[..callers].iter().all(|&mask| mask == 0)
    }

    /// Of the frame that is walked, the registers for which a walk began here are wanted no more.
    #[inline]
    pub(super) fn drop_known(&mut self, walked: &Walked, moment: Moment) {
        let wanted = &mut self.regs[usize::from(self.frame)];
        *wanted = walked.without_known(*wanted, self.frame, moment);
    }

    #[inline]
    pub(crate) fn set_frame_reg(&mut self, frame: u8, reg: u8) {
        self.regs[frame as usize] |= 1 << reg;
    }

    #[inline]
    pub(crate) fn set_frame_slot(&mut self, frame: u8, spi: u32) {
        self.slots[frame as usize] |= 1 << (spi & 63);
    }

    pub(super) fn set(&mut self, reg: Reg) {
        self.regs[self.frame as usize] |= 1 << reg.number();
    }

    pub(super) fn clear(&mut self, reg: Reg) {
        self.regs[self.frame as usize] &= !(1 << reg.number());
    }

    pub(super) fn has(&self, reg: Reg) -> bool {
        self.regs[self.frame as usize] & 1 << reg.number() != 0
    }

    pub(super) fn reg_mask(&self) -> u32 {
        self.regs[self.frame as usize]
    }

    pub(super) fn slot_mask(&self) -> u64 {
        self.slots[self.frame as usize]
    }

    /// Backwards into a callee.
    pub(super) fn enter(&mut self) -> Check {
        if self.frame as usize >= CALL_FRAMES_MAX - 1 {
            return Err(Violation::bug("subprog enter from frame 7"));
        }
        self.frame += 1;
        Ok(())
    }

    /// Backwards out of a callee.
    pub(super) fn leave(&mut self) -> Check {
        if self.frame == 0 {
            return Err(Violation::bug("subprog exit from frame 0"));
        }
        self.frame -= 1;
        Ok(())
    }
}

/// A register or slot that shares an id with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkedReg {
    pub(crate) frame: u8,
    /// Register number or slot index.
    pub(crate) index: u8,
    pub(crate) is_reg: bool,
}

/// At most [`LinkedRegs::MAX`] registers and slots that share one id.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkedRegs {
    list: [LinkedReg; LinkedRegs::MAX],
    len: u8,
}

impl LinkedRegs {
    /// More are not kept. Source: `LINKED_REGS_MAX`.
    pub(crate) const MAX: usize = 6;

    /// Adds one; `false` if there is no place.
    pub(crate) fn push(&mut self, reg: LinkedReg) -> bool {
        match self.list.get_mut(self.len as usize) {
            Some(place) => {
                *place = reg;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn as_slice(&self) -> &[LinkedReg] {
        &self.list[..self.len as usize]
    }

    /// Ten bits an entry over four bits of length, for the history.
    pub(crate) fn pack(&self) -> u64 {
        let mut packed = 0;
        for reg in self.as_slice() {
            let bits = u64::from(reg.frame & 7)
                | u64::from(reg.index & 63) << 3
                | u64::from(reg.is_reg) << 9;
            packed = packed << 10 | bits;
        }
        packed << 4 | u64::from(self.len)
    }

    /// The reverse of [`Self::pack`].
    pub(crate) fn unpack(packed: u64) -> Self {
        let mut regs = LinkedRegs {
            len: (packed & 15).min(Self::MAX as u64) as u8,
            ..Self::default()
        };
        let mut bits = packed >> 4;
        for reg in regs.list[..regs.len as usize].iter_mut().rev() {
            *reg = LinkedReg {
                frame: (bits & 7) as u8,
                index: (bits >> 3 & 63) as u8,
                is_reg: bits >> 9 & 1 != 0,
            };
            bits >>= 10;
        }
        regs
    }
}

/// `r0,r1`
pub(super) struct RegMask(pub(super) u32);

impl fmt::Display for RegMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for number in 0..32 {
            if self.0 & 1 << number != 0 {
                write!(f, "{sep}r{number}")?;
                sep = ",";
            }
        }
        Ok(())
    }
}

/// `-8,-16`
pub(super) struct SlotMask(pub(super) u64);

impl fmt::Display for SlotMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for spi in 0..64i64 {
            if self.0 & 1 << spi != 0 {
                write!(f, "{sep}{}", -8 * (spi + 1))?;
                sep = ",";
            }
        }
        Ok(())
    }
}

/// If one of the linked registers is wanted, all are.
pub(super) fn sync_linked(bt: &mut BacktrackState, hist: Option<&JmpHistoryEntry>) {
    let Some(hist) = hist else { return };
    if hist.linked_regs == 0 {
        return;
    }
    let linked = LinkedRegs::unpack(hist.linked_regs);
    let wanted = linked.as_slice().iter().any(|r| {
        let f = r.frame as usize;
        if r.is_reg {
            bt.regs[f] & 1 << r.index != 0
        } else {
            bt.slots[f] & 1 << r.index != 0
        }
    });
    if !wanted {
        return;
    }
    for r in linked.as_slice() {
        if r.is_reg {
            bt.set_frame_reg(r.frame, r.index);
        } else {
            bt.set_frame_slot(r.frame, u32::from(r.index));
        }
    }
}
