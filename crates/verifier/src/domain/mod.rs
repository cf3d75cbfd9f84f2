//! The abstract scalar domain: what the verifier knows about a 64-bit number.
//!
//! A [`Scalar`] is the reduced product of five facts about one register: a [`Tnum`] (known bits), and an unsigned and a
//! signed interval for the whole register and for its low half. Every transfer function computes each part from the
//! parts and then lets [`ScalarN::sync`] carry knowledge between them. The results are not merely sound: the verifier
//! log prints them, so each bound is the one that Linux 6.18 computes.
//!
//! Everything is generic over the width of the register, so that the tests can enumerate all abstract values at 4 bits
//! and compare with all concrete values; the verifier uses [`Tnum`] and [`Scalar`], the 64-bit instances.
//!
//! | file | decides |
//! |---|---|
//! | `tnum` | bits: which are known to be 0, known to be 1, or unknown |
//! | `range` | intervals: signed and unsigned at one width |
//! | `scalar` | the product and its reduction |
//! | `extend` | truncation, zero and sign extension |
//! | `alu` | the effect of an arithmetic operation |
//! | `branch` | which way a comparison goes, and what each way teaches |
//! | `plant` | faults for oracles, compiled in on demand |
//!
//! Kernel counterpart: `kernel/bpf/tnum.c` and the register-bounds part of `kernel/bpf/verifier.c`. Neighbours:
//! `state` wraps a `Scalar` in every register, `check/alu` and `check/jmp` call in here, `log` prints.

pub mod alu;
pub mod branch;
pub mod extend;
pub mod plant;
pub mod range;
pub mod scalar;
pub mod tnum;

#[cfg(test)]
mod enumerate;

pub use alu::SignMaskFork;
pub use branch::{CondOp, Taken};
pub use range::Range;
pub use scalar::{BoundsViolation, BrokenBounds, Scalar, ScalarN};
pub use tnum::{Tnum, TnumN};
