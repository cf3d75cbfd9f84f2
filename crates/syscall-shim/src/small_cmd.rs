//! Commands of one step: BPF_PROG_BIND_MAP, BPF_TOKEN_CREATE, BPF_ITER_CREATE, BPF_TASK_FD_QUERY, BPF_ENABLE_STATS, BPF_PROG_STREAM_READ_BY_FD.

use std::sync::Arc;

use ring3_objects::{Iteration, LinkObject};
use ring3_uapi::Errno;

use crate::{OpenFile, shim::Call};

/// Numbers of a program's output streams.
const STREAMS: [u32; 2] = [1, 2];
/// `BPF_STATS_RUN_TIME`
const STATS_RUN_TIME: u32 = 0;

/// BPF_PROG_BIND_MAP.
pub(crate) fn prog_bind_map(call: &mut Call<'_>) -> Result<i64, Errno> {
    if call.attr.u32(8) != 0 {
        return Err(Errno::EINVAL);
    }
    let prog = call.caller.prog(call.attr.fd(0))?;
    let map = call.caller.map(call.attr.fd(4))?;
    prog.bind_map(map.object());
    Ok(0)
}

/// BPF_TOKEN_CREATE: as where no tree of pins delegates anything.
pub(crate) fn token_create(call: &mut Call<'_>) -> Result<i64, Errno> {
    if call.attr.u32(0) != 0 {
        return Err(Errno::EINVAL);
    }
    match call.caller.file(call.attr.fd(4))? {
        OpenFile::Other => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// BPF_ITER_CREATE: the program runs now, over what there is now.
pub(crate) fn iter_create(call: &mut Call<'_>) -> Result<i64, Errno> {
    if call.attr.u32(4) != 0 {
        return Err(Errno::EINVAL);
    }
    let link = call.caller.link(call.attr.fd(0))?;
    let text = iterated(&link)?;
    Ok(i64::from(call.caller.open(OpenFile::Iter(text))?))
}

/// What an iterator's program writes now, up to an object that fails.
///
/// # Errors
/// EINVAL: no link of an iterator. What the first object fails with: EAGAIN, E2BIG.
pub fn iterated(link: &LinkObject) -> Result<Arc<[u8]>, Errno> {
    let Iteration { text, error } = link.iterate().ok_or(Errno::EINVAL)?;
    match error {
        Some(errno) if text.is_empty() => Err(errno),
        _ => Ok(text.into()),
    }
}

/// BPF_TASK_FD_QUERY: nothing that is open is a probe.
pub(crate) fn task_fd_query(call: &mut Call<'_>) -> Result<i64, Errno> {
    if !call.caller.privilege().sys_admin {
        return Err(Errno::EPERM);
    }
    if call.attr.u32(8) != 0 {
        return Err(Errno::EINVAL);
    }
    if call.attr.u32(0) == 0 {
        // No process has this number.
        return Err(Errno::ENOENT);
    }
    call.caller.file(call.attr.fd(4))?;
    Err(Errno::ENOTSUPP)
}

/// BPF_ENABLE_STATS: runs are counted as long as the descriptor is open.
pub(crate) fn enable_stats(call: &mut Call<'_>) -> Result<i64, Errno> {
    if !call.caller.privilege().sys_admin {
        return Err(Errno::EPERM);
    }
    if call.attr.u32(0) != STATS_RUN_TIME {
        return Err(Errno::EINVAL);
    }
    let file = OpenFile::Stats(Arc::new(call.system.enable_stats()));
    Ok(i64::from(call.caller.open(file)?))
}

/// BPF_PROG_STREAM_READ_BY_FD: no kfunc that writes to a stream runs, so streams are empty.
pub(crate) fn stream_read(call: &mut Call<'_>) -> Result<i64, Errno> {
    call.caller.prog(call.attr.fd(16))?;
    if !STREAMS.contains(&call.attr.u32(12)) {
        return Err(Errno::ENOENT);
    }
    Ok(0)
}
