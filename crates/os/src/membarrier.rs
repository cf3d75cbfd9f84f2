//! Barriers on every running thread of this process: the writer's side of `sync::rcu` and of code patching.

use crate::Errno;

fn membarrier(command: libc::c_int) -> Result<(), Errno> {
    // SAFETY: 1. membarrier touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0u32, 0i32) };
    crate::check(result).map(drop)
}

/// Registers this process for [`private_expedited`]. Once is enough; threads started later are covered.
///
/// # Errors
/// `ENOSYS`, `EPERM`: the host has no membarrier(2) or a filter refuses it.
pub fn register_private_expedited() -> Result<(), Errno> {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// A full memory barrier on every running thread of this process.
///
/// # Errors
/// `EPERM`: not registered.
pub fn private_expedited() -> Result<(), Errno> {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

/// Registers this process for [`sync_core`].
///
/// # Errors
/// `ENOSYS`, `EINVAL`, `EPERM`: the host cannot.
pub fn register_sync_core() -> Result<(), Errno> {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE)
}

/// A full memory barrier and an instruction-stream serialisation on every running thread of this process.
///
/// # Errors
/// `EPERM`: not registered.
pub fn sync_core() -> Result<(), Errno> {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_work_once_registered() {
        if register_private_expedited().is_ok() {
            assert_eq!(private_expedited(), Ok(()));
        }
        if register_sync_core().is_ok() {
            assert_eq!(sync_core(), Ok(()));
        }
    }
}
