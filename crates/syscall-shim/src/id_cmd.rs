//! BPF_*_GET_NEXT_ID and BPF_*_GET_FD_BY_ID.

use ring3_maps::Access;
use ring3_objects::System;
use ring3_uapi::{Errno, flags::map_create};

use crate::{OpenFile, caller::MapFile, shim::Call};

/// Byte offsets in the attributes.
const ID: usize = 0;
const NEXT_ID: usize = 4;
const OPEN_FLAGS: usize = 8;
const TOKEN_FD: usize = 12;

fn next_id(call: &mut Call<'_>, next: fn(&System, u32) -> Option<u32>) -> Result<i64, Errno> {
    let start = call.attr.u32(ID);
    if start >= i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    check_admin(call)?;
    let id = next(call.system, start).ok_or(Errno::ENOENT)?;
    call.attr.put_u32(NEXT_ID, id);
    Ok(0)
}

pub(crate) fn check_admin(call: &Call<'_>) -> Result<(), Errno> {
    if call.caller.privilege().sys_admin {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// BPF_PROG_GET_NEXT_ID.
pub(crate) fn next_prog(call: &mut Call<'_>) -> Result<i64, Errno> {
    next_id(call, System::next_program_id)
}

/// BPF_MAP_GET_NEXT_ID.
pub(crate) fn next_map(call: &mut Call<'_>) -> Result<i64, Errno> {
    next_id(call, System::next_map_id)
}

/// BPF_BTF_GET_NEXT_ID.
pub(crate) fn next_btf(call: &mut Call<'_>) -> Result<i64, Errno> {
    next_id(call, System::next_btf_id)
}

/// BPF_LINK_GET_NEXT_ID.
pub(crate) fn next_link(call: &mut Call<'_>) -> Result<i64, Errno> {
    next_id(call, System::next_link_id)
}

/// BPF_PROG_GET_FD_BY_ID.
pub(crate) fn prog_fd(call: &mut Call<'_>) -> Result<i64, Errno> {
    check_admin(call)?;
    let prog = call.system.program_by_id(call.attr.u32(ID));
    let fd = call
        .caller
        .open(OpenFile::Prog(prog.ok_or(Errno::ENOENT)?))?;
    Ok(i64::from(fd))
}

/// BPF_MAP_GET_FD_BY_ID.
pub(crate) fn map_fd(call: &mut Call<'_>) -> Result<i64, Errno> {
    let flags = call.attr.u32(OPEN_FLAGS);
    if flags & !(map_create::RDONLY | map_create::WRONLY) != 0 {
        return Err(Errno::EINVAL);
    }
    check_admin(call)?;
    let access = Access::from_flags(flags)?;
    let map = call.system.map_by_id(call.attr.u32(ID));
    let file = MapFile::new(map.ok_or(Errno::ENOENT)?, access);
    Ok(i64::from(call.caller.open(OpenFile::Map(file))?))
}

/// BPF_BTF_GET_FD_BY_ID.
pub(crate) fn btf_fd(call: &mut Call<'_>) -> Result<i64, Errno> {
    let flags = call.attr.u32(OPEN_FLAGS);
    if flags & !map_create::TOKEN_FD != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & map_create::TOKEN_FD != 0 {
        // No command makes a token yet: nothing that is open is one.
        call.caller.file(call.attr.fd(TOKEN_FD))?;
        return Err(Errno::EINVAL);
    }
    check_admin(call)?;
    let btf = call.system.btf_by_id(call.attr.u32(ID));
    let fd = call.caller.open(OpenFile::Btf(btf.ok_or(Errno::ENOENT)?))?;
    Ok(i64::from(fd))
}
