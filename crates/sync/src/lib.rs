//! Synchronisation for memory that BPF programs see: RCU, per-CPU cells, id tables, spin locks, sequence counters.
//!
//! [`rcu`] is the only scheme for memory that programs see: a read section is plain stores to the thread's own cell and the
//! writer pays with membarrier(2); [`pair::RcuPair`] keeps a value that hooks read so. [`epoch::RcuCell`] (crossbeam-epoch) serves host-side structures that no program sees.
//! Never both for one object. Neighbours: `os` below; `maps`, `runtime`, `helpers`, `objects` above.
//!
//! ```
//! use ring3_sync::rcu;
//! let guard = rcu::read();
//! // memory retired from now on stays valid until the guard is gone
//! drop(guard);
//! rcu::synchronize().unwrap();
//! ```

pub mod epoch;
pub mod idr;
pub mod interleave;
pub mod pair;
pub mod percpu;
pub mod random;
pub mod rcu;
pub mod seqcount;
pub mod spin;

pub use epoch::RcuCell;
pub use idr::Idr;
pub use pair::RcuPair;
pub use percpu::PerCpu;
