//! The objects that the dynamic linker has mapped into this process: the main executable and shared objects.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A mapped object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedObject {
    /// The file; `/proc/self/exe` for the main executable.
    pub path: PathBuf,
    /// What is added to the addresses in the file.
    pub base: usize,
    /// Ranges of addresses, end excluded, that are mapped from the file.
    pub segments: Vec<(usize, usize)>,
}

/// All of them, the main executable first. Objects without a file (the vDSO) are left out.
pub fn objects() -> Vec<LoadedObject> {
    let mut found: Vec<LoadedObject> = Vec::new();
    // SAFETY: 1. the callback gets back the vector that lives for the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut found).cast()) };
    found.retain(|object| object.path.is_absolute());
    found
}

unsafe extern "C" fn collect(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: 1. the linker passes a valid record with a name and `dlpi_phnum` headers; 2. `found` is the vector of `objects`.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<LoadedObject>>()) };
    let name = if info.dlpi_name.is_null() {
        &[]
    } else {
        // SAFETY: as above.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()
    };
    let path = if found.is_empty() && name.is_empty() {
        PathBuf::from("/proc/self/exe")
    } else {
        PathBuf::from(OsStr::from_bytes(name))
    };
    // SAFETY: as above.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let segments = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD)
        .map(|header| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            (start, start.wrapping_add(header.p_memsz as usize))
        })
        .collect();
    found.push(LoadedObject {
        path,
        base,
        segments,
    });
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_and_the_c_library_are_found_with_their_code() {
        let objects = objects();
        let holds = |object: &LoadedObject, address: usize| {
            object
                .segments
                .iter()
                .any(|&(start, end)| (start..end).contains(&address))
        };
        assert_eq!(objects[0].path, PathBuf::from("/proc/self/exe"));
        assert!(holds(&objects[0], super::objects as *const () as usize));
        assert!(
            objects
                .iter()
                .any(|object| holds(object, libc::getpid as *const () as usize))
        );
    }
}
