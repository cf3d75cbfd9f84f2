//! Test support: the corpus of recorded kernel verdicts, log comparison, fixtures and oracles.
//!
//! A development dependency only; nothing here is published.

pub mod corpus;
pub mod log_mask;
pub mod parity;
