//! BPF_OBJ_PIN and BPF_OBJ_GET.

use ring3_bpffs::Pinned;
use ring3_maps::Access;
use ring3_uapi::{Errno, flags::map_create};

use crate::{
    OpenFile,
    caller::{MapFile, PathAt},
    memory::read_str,
    shim::Call,
};

/// Byte offsets in the attributes.
const PATHNAME: usize = 0;
const BPF_FD: usize = 8;
const FILE_FLAGS: usize = 12;
const PATH_FD: usize = 16;

/// Bytes of a path, its NUL included. Source: `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;

/// BPF_OBJ_PIN.
pub(crate) fn pin(call: &mut Call<'_>) -> Result<i64, Errno> {
    check_flags(call, 0)?;
    // A descriptor of no kind that can be pinned is EINVAL, closed ones included.
    let pinned = match call.caller.file(call.attr.fd(BPF_FD)) {
        Ok(OpenFile::Map(map)) => Pinned::Map(map.object().clone()),
        Ok(OpenFile::Prog(prog)) => Pinned::Prog(prog),
        Ok(OpenFile::Link(link)) => Pinned::Link(link),
        Ok(_) | Err(_) => return Err(Errno::EINVAL),
    };
    let path = path(call)?;
    match call.caller.host() {
        Some(host) => host.pin(path_at(call, &path), pinned)?,
        None => call.bpffs.pin(text(&path)?, pinned)?,
    }
    Ok(0)
}

/// BPF_OBJ_GET.
pub(crate) fn get(call: &mut Call<'_>) -> Result<i64, Errno> {
    let access_flags = map_create::RDONLY | map_create::WRONLY;
    if call.attr.u32(BPF_FD) != 0 {
        return Err(Errno::EINVAL);
    }
    check_flags(call, access_flags)?;
    let access = Access::from_flags(call.attr.u32(FILE_FLAGS) & access_flags)?;
    let path = path(call)?;
    let found = match call.caller.host() {
        Some(host) => host.get(path_at(call, &path))?,
        None => call.bpffs.get(text(&path)?)?,
    };
    let file = match found {
        Pinned::Map(map) => OpenFile::Map(MapFile::new(map, access)),
        Pinned::Prog(prog) => OpenFile::Prog(prog),
        Pinned::Link(_) if access != Access::ReadWrite => return Err(Errno::EINVAL),
        Pinned::Link(link) => OpenFile::Link(link),
    };
    Ok(i64::from(call.caller.open(file)?))
}

fn check_flags(call: &Call<'_>, allowed: u32) -> Result<(), Errno> {
    let flags = call.attr.u32(FILE_FLAGS);
    if flags & !(allowed | map_create::PATH_FD) != 0 {
        return Err(Errno::EINVAL);
    }
    let has_path_fd = flags & map_create::PATH_FD != 0;
    if has_path_fd && call.caller.host().is_none() {
        // The tree here has no directories that could be open.
        call.caller.file(call.attr.fd(PATH_FD))?;
        return Err(Errno::ENOTDIR);
    }
    if !has_path_fd && call.attr.u32(PATH_FD) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn path_at<'a>(call: &Call<'_>, path: &'a [u8]) -> PathAt<'a> {
    let has_path_fd = call.attr.u32(FILE_FLAGS) & map_create::PATH_FD != 0;
    PathAt {
        dir: has_path_fd.then(|| call.attr.fd(PATH_FD)),
        path,
    }
}

fn path(call: &Call<'_>) -> Result<Vec<u8>, Errno> {
    let (bytes, is_whole) = read_str(call.memory, call.attr.u64(PATHNAME), PATH_BYTES_MAX)?;
    if !is_whole {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(bytes)
}

/// No name in the tree is anything but text, so no path that is not text leads anywhere.
fn text(path: &[u8]) -> Result<&str, Errno> {
    std::str::from_utf8(path).map_err(|_| Errno::ENOENT)
}
