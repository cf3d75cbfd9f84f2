//! Clocks.

use ring3_os::time;

use crate::bind::implement;

implement! { ROWS:
    KtimeGetNs() { time::monotonic_ns() }
    KtimeGetBootNs() { time::boot_ns() }
    KtimeGetCoarseNs() { time::monotonic_coarse_ns() }
    KtimeGetTaiNs() { time::tai_ns() }
    /// Jiffies of a kernel with HZ=250, counted from INITIAL_JIFFIES at boot as far as a process can tell: the monotonic clock.
    Jiffies64() { time::monotonic_coarse_ns() / 4_000_000 }
}
