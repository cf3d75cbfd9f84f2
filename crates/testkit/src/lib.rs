//! Test support: the corpus of recorded kernel verdicts, log comparison, fixtures and oracles.
//!
//! A development dependency only; nothing here is published.

#![forbid(unsafe_code)]

pub mod btf_fuzz;
#[cfg(feature = "engines")]
pub mod containment;
pub mod core_oracle;
pub mod corpus;
pub mod corpus_kernel;
#[cfg(feature = "engines")]
pub mod engine_fuzz;
#[cfg(feature = "engines")]
pub mod engines;
pub mod feature_kernel;
pub mod filetest;
pub mod fixture;
pub mod generate;
pub mod helper_oracle;
pub mod kernel;
pub mod kernel_request;
pub mod log_mask;
pub mod map_oracle;
pub mod memlock_kernel;
pub mod min_btf;
pub mod mprog_kernel;
pub mod mprog_oracle;
pub mod mutants;
pub mod net_kernel;
pub mod net_oracle;
pub mod parity;
pub mod shim_oracle;
#[cfg(feature = "engines")]
pub mod syscall_fuzz;
pub mod xlated;
