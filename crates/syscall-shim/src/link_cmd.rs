//! Commands on links that exist: BPF_LINK_GET_FD_BY_ID, BPF_LINK_UPDATE, BPF_LINK_DETACH.

use ring3_uapi::{Errno, flags::mprog};

use crate::{OpenFile, id_cmd::check_admin, shim::Call};

/// `BPF_F_REPLACE`
const REPLACE: u32 = mprog::REPLACE;

/// BPF_LINK_GET_FD_BY_ID.
pub(crate) fn fd_by_id(call: &mut Call<'_>) -> Result<i64, Errno> {
    check_admin(call)?;
    let link = call.system.link_by_id(call.attr.u32(0));
    let fd = call
        .caller
        .open(OpenFile::Link(link.ok_or(Errno::ENOENT)?))?;
    Ok(i64::from(fd))
}

/// BPF_LINK_UPDATE.
pub(crate) fn update(call: &mut Call<'_>) -> Result<i64, Errno> {
    let flags = call.attr.u32(8);
    if flags & !REPLACE != 0 {
        return Err(Errno::EINVAL);
    }
    let link = call.caller.link(call.attr.fd(0))?;
    let new = call.caller.prog(call.attr.fd(4))?;
    let old_fd = call.attr.fd(12);
    let old = match flags & REPLACE {
        0 if old_fd != 0 => return Err(Errno::EINVAL),
        0 => None,
        _ => Some(call.caller.prog(old_fd)?),
    };
    link.update(&new, old.as_ref())
        .map_err(|error| error.errno)?;
    Ok(0)
}

/// BPF_LINK_DETACH.
pub(crate) fn detach(call: &mut Call<'_>) -> Result<i64, Errno> {
    let link = call.caller.link(call.attr.fd(0))?;
    if link.is_fixed() {
        return Err(Errno::EOPNOTSUPP);
    }
    link.detach();
    Ok(0)
}
