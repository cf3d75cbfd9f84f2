//! Unmodified clients of bpf(2): the daemon that owns objects, and what starts clients.
//!
//! [`Daemon`] serves one user through a socket in the runtime directory ([`Dirs`]). [`run_client`] turns this process into a client: namespaces with
//! the pins at `/sys/fs/bpf`, one seccomp filter, then exec. From then on the daemon gets each picked system call (`calls::RULES`), reads and writes
//! the client's memory, gives it descriptors (`ring3_syscall_shim::ObjectFiles`) and answers.
//!
//! One thread of the daemon serves one client and what it starts (`session`); loads and test runs have threads of their own.
//!
//! Neighbours: `ring3-syscall-shim` knows what bpf(2) means; `ring3-os` has the host's calls. The command line stands above.

mod calls;
mod client;
mod console;
mod daemon;
mod dirs;
mod events;
mod guest;
mod host;
mod mappings;
mod memlock;
mod netlink;
mod pins;
mod proc_files;
mod rtnetlink;
mod session;
mod wire;

pub use client::{ClientOptions, StartDaemon, run_client};
pub use console::console;
pub use daemon::{Daemon, DaemonOptions};
pub use dirs::Dirs;
pub use wire::{monitor, status, stop};
