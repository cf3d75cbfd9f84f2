//! The current task.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use ring3_runtime::{RunContext, current_ids, current_task};
use ring3_uapi::Errno;

use crate::bind::{AnyCtx, bytes_mut, implement};
use crate::task_object;

/// Id of the root of the cgroup hierarchy.
pub(crate) const ROOT_CGROUP: u64 = 1;

/// Device and inode of this process's PID namespace, as stat(2) of `/proc/self/ns/pid` gives them.
fn pid_namespace() -> Option<(u64, u64)> {
    static NAMESPACE: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    *NAMESPACE.get_or_init(|| {
        let meta = std::fs::metadata("/proc/self/ns/pid").ok()?;
        Some((meta.dev(), meta.ino()))
    })
}

/// `struct bpf_pidns_info`: pid and tgid.
fn pidns_info(dev: u64, ino: u64, size: usize) -> Result<[u8; 8], Errno> {
    if size != 8 || pid_namespace() != Some((dev, ino)) {
        return Err(Errno::EINVAL);
    }
    let task = current_task();
    Ok((u64::from(task.tgid) << 32 | u64::from(task.pid)).to_ne_bytes())
}

/// The ancestor at a level; 0 beyond the cgroup itself.
// DIVERGES: the hierarchy above a task's cgroup is not modelled; every cgroup is a child of the root.
fn ancestor_cgroup_id(cgroup: u64, level: i32) -> u64 {
    match level {
        0 => ROOT_CGROUP,
        1 if cgroup != ROOT_CGROUP => cgroup,
        _ => 0,
    }
}

implement! { ROWS:
    GetCurrentPidTgid() { current_ids() }
    GetCurrentUidGid() {
        let task = current_task();
        u64::from(task.gid) << 32 | u64::from(task.uid)
    }
    GetCurrentComm(buf: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(buf, size) };
        let comm = current_task().comm;
        let len = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len()).min(out.len().saturating_sub(1));
        out.fill(0);
        out[..len].copy_from_slice(&comm[..len]);
        Ok::<(), Errno>(())
    }
    GetCurrentCgroupId() { current_task().cgroup_id }
    GetAttachCookie(_ctx: AnyCtx) { RunContext::current_attach_cookie() }
    GetCurrentAncestorCgroupId(level: i32) { ancestor_cgroup_id(current_task().cgroup_id, level) }
    GetNsCurrentPidTgid(dev: u64, ino: u64, nsdata: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(nsdata, size) };
        let info = pidns_info(dev, ino, out.len());
        match info {
            Ok(info) => out.copy_from_slice(&info),
            Err(_) => out.fill(0),
        }
        info.map(drop)
    }
    GetCurrentTask() { task_object::current() }
    GetCurrentTaskBtf() { task_object::current() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_answers_and_others_do_not() {
        let (dev, ino) = pid_namespace().unwrap();
        let info = u64::from_ne_bytes(pidns_info(dev, ino, 8).unwrap());
        assert_eq!(info >> 32, u64::from(std::process::id()));
        for (dev, ino, size) in [(dev + 1, ino, 8), (dev, ino + 1, 8), (dev, ino, 16)] {
            assert_eq!(pidns_info(dev, ino, size), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn ancestors_end_at_the_cgroup() {
        assert_eq!(
            [0, 1, 2, -1].map(|level| ancestor_cgroup_id(77, level)),
            [1, 77, 0, 0]
        );
        assert_eq!([0, 1].map(|level| ancestor_cgroup_id(1, level)), [1, 0]);
    }
}
