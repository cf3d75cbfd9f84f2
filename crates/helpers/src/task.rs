//! The current task.

use ring3_runtime::{RunContext, current_task};
use ring3_uapi::Errno;

use crate::bind::{AnyCtx, bytes_mut, implement};

implement! { ROWS:
    GetCurrentPidTgid() {
        let task = current_task();
        u64::from(task.tgid) << 32 | u64::from(task.pid)
    }
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
}
