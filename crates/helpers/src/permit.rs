//! Helpers that reach out of the program into the host's process: signals to the current task, writes to user memory. A host that wants them says so;
//! until then they answer EPERM, as the kernel answers for tasks it protects. Key type: [`Permissions`].

use std::sync::atomic::{AtomicBool, Ordering};

use ring3_os::task;
use ring3_uapi::Errno;

use crate::bind::{bytes, implement};

/// Largest signal number. Source: `_NSIG`.
const SIGNAL_MAX: u32 = 64;

static SIGNALS: AtomicBool = AtomicBool::new(false);
static USER_WRITES: AtomicBool = AtomicBool::new(false);

/// What programs may do to the process they run in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// `bpf_send_signal` and `bpf_send_signal_thread` reach this process.
    pub signals: bool,
    /// `bpf_probe_write_user` writes to this process's memory.
    pub user_writes: bool,
}

/// Sets what programs of this process may do from now on; nothing, at the start.
pub fn set_permissions(permissions: Permissions) {
    SIGNALS.store(permissions.signals, Ordering::Relaxed);
    USER_WRITES.store(permissions.user_writes, Ordering::Relaxed);
}

/// # Errors
/// EINVAL: no such signal. EPERM: not permitted by the host.
fn check_signal(signal: u32) -> Result<(), Errno> {
    if signal > SIGNAL_MAX {
        Err(Errno::EINVAL)
    } else if !SIGNALS.load(Ordering::Relaxed) {
        Err(Errno::EPERM)
    } else {
        Ok(())
    }
}

implement! { ROWS:
    SendSignal(signal: u32) { check_signal(signal).and_then(|()| task::signal_process(signal)) }
    SendSignalThread(signal: u32) { check_signal(signal).and_then(|()| task::signal_thread(signal)) }
    ProbeWriteUser(dst: u64, src: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let bytes = unsafe { bytes(src, size) };
        if USER_WRITES.load(Ordering::Relaxed) {
            ring3_os::task::write_own_memory(dst, bytes)
        } else {
            Err(Errno::EPERM)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::FuncId;

    /// One test, as the permissions are the process's.
    #[test]
    fn nothing_is_permitted_until_the_host_says_so() {
        let [signal, write] =
            [FuncId::SendSignal, FuncId::ProbeWriteUser].map(|id| crate::find(id).unwrap());
        let mut word = 1u64;
        let source = 7u64;
        let [dst, src] = [
            (&raw mut word).expose_provenance(),
            (&raw const source).expose_provenance(),
        ]
        .map(|address| address as u64);
        // SAFETY: the words live; signal 0 only asks.
        unsafe {
            assert_eq!(signal(0, 0, 0, 0, 0) as i64, Errno::EPERM.negated());
            assert_eq!(signal(65, 0, 0, 0, 0) as i64, Errno::EINVAL.negated());
            assert_eq!(write(dst, src, 8, 0, 0) as i64, Errno::EPERM.negated());
            set_permissions(Permissions {
                signals: true,
                user_writes: true,
            });
            assert_eq!(signal(0, 0, 0, 0, 0), 0);
            assert_eq!(write(dst, src, 8, 0, 0), 0);
            assert_eq!((&raw const word).read_volatile(), 7);
            assert_eq!(write(8, src, 8, 0, 0) as i64, Errno::EFAULT.negated());
        }
        set_permissions(Permissions::default());
    }
}
