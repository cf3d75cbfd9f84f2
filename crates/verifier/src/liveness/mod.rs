//! Liveness of registers (before exploration) and of stack slots (during it).
pub(crate) mod regs;
pub(crate) mod stack;
