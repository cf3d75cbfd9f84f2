//! The host's calls, safely wrapped: each module owns one family and returns [`Errno`] on failure.
//!
//! Nothing here knows about BPF except [`mod@bpf`], the raw system call that oracles use. Neighbours: `sync` (membarrier),
//! `maps` (memory, memfd, eventfd), `jit-x86_64` (twice-mapped text).
//!
//! ```
//! let region = ring3_os::map::Region::anonymous(4096, ring3_os::map::Prot::ReadWrite)?;
//! assert_eq!(region.len_bytes(), 4096);
//! # Ok::<(), ring3_uapi::Errno>(())
//! ```

pub mod bpf;
pub mod bpf_load;
pub mod cpu;
pub mod eventfd;
pub mod fork;
pub mod icmp;
pub mod loaded;
pub mod map;
pub mod membarrier;
pub mod memfd;
pub mod packet_socket;
pub mod patch;
pub mod pipe;
pub mod process;
pub mod random;
pub mod rtnetlink;
pub mod seccomp;
pub mod signal;
pub mod tap;
pub mod task;
pub mod time;
pub mod unwind;

pub use ring3_uapi::Errno;

/// The error of the libc call that just failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_raw(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// Turns a libc result of -1 into the errno.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}
