//! The running kernel as oracle: an object's maps and programs are loaded, nothing is attached. Key type: [`KernelObject`].

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use ring3_btf::{Btf, ext::write_records};
use ring3_elf::{MapOrigin, MapSpec, ObjectSpec, ProgSpec, Resolver, Target};
use ring3_os::bpf_load::{
    MapCreate, ProgLoad, btf_load, map_create, map_freeze, map_update, prog_load,
};
use ring3_uapi::{Errno, flags::map_create as map_flags};

use crate::{
    fixture::{LOG_BYTES_MAX, Recorded},
    log_mask::mask_log,
};

/// Room for the log of any fixture.
const LOG_BYTES: usize = 1 << 24;

/// Maps of an object, created in the running kernel.
pub struct KernelObject<'a> {
    spec: &'a ObjectSpec,
    btf: Option<OwnedFd>,
    maps: Vec<OwnedFd>,
    /// The kernel's own types.
    types: Option<Btf>,
}

/// The running kernel's release, as `uname -r` prints it up to the first dash.
///
/// # Errors
/// /proc is not mounted.
pub fn release() -> io::Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release
        .trim()
        .split('-')
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// Whether bpf(2) is permitted here.
pub fn is_permitted() -> bool {
    let attr = MapCreate {
        map_type: 2,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..MapCreate::default()
    };
    map_create(&attr).is_ok()
}

impl<'a> KernelObject<'a> {
    /// Loads BTF and creates the maps.
    ///
    /// # Errors
    /// The errno of the first call that fails.
    pub fn create(spec: &'a ObjectSpec) -> Result<KernelObject<'a>, Errno> {
        let btf = match &spec.btf {
            // libbpf goes on without BTF that the kernel refuses, unless something in the object needs it.
            Some(btf) => match btf_load(btf.bytes()) {
                Err(errno) if spec.needs_btf() => return Err(errno),
                loaded => loaded.ok(),
            },
            None => None,
        };
        let mut object = KernelObject {
            spec,
            btf,
            maps: Vec::new(),
            types: std::fs::read("/sys/kernel/btf/vmlinux")
                .ok()
                .and_then(|bytes| Btf::parse(&bytes).ok()),
        };
        for map in &spec.maps {
            let fd = object.create_map(map)?;
            if let Some(data) = &map.data {
                map_update(fd.as_fd(), &0u32.to_ne_bytes(), data, 0)?;
            }
            let is_constant = matches!(map.origin, MapOrigin::Rodata | MapOrigin::Kconfig);
            if is_constant && map.map_flags & map_flags::RDONLY_PROG != 0 {
                map_freeze(fd.as_fd())?;
            }
            object.maps.push(fd);
        }
        Ok(object)
    }

    /// The map with this index in the object.
    ///
    /// # Panics
    /// The object has fewer maps.
    pub fn map(&self, index: usize) -> BorrowedFd<'_> {
        self.maps[index].as_fd()
    }

    fn create_map(&self, map: &MapSpec) -> Result<OwnedFd, Errno> {
        let inner = match &map.inner {
            Some(inner) => Some(self.create_map(inner)?),
            None => None,
        };
        let (key, value) = map.create_type_ids();
        let btf = self
            .btf
            .as_ref()
            .filter(|_| key.0 != 0 || value.0 != 0)
            .map(|fd| (fd.as_fd(), key.0, value.0));
        map_create(&MapCreate {
            map_type: map.map_type,
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            map_flags: map.map_flags,
            map_extra: map.map_extra,
            name: map.kernel_name(),
            inner: inner.as_ref().map(|fd| fd.as_fd()),
            btf,
        })
    }

    /// Loads a program: the descriptor, if it was accepted, and the answer at level 2, or at level 4 where level 2 says too much to keep.
    ///
    /// # Errors
    /// The kernel's release cannot be read.
    pub fn load(&self, prog: &ProgSpec) -> io::Result<(Option<OwnedFd>, Recorded)> {
        let (fd, recorded) = self.load_at(prog, 2)?;
        if recorded.log.len() > LOG_BYTES_MAX {
            self.load_at(prog, 4)
        } else {
            Ok((fd, recorded))
        }
    }

    fn load_at(&self, prog: &ProgSpec, level: u32) -> io::Result<(Option<OwnedFd>, Recorded)> {
        use std::os::fd::AsRawFd;
        let mut resolver = Resolver::new(
            self.spec,
            Target {
                btf: self.types.as_ref(),
                symbols: None,
            },
        );
        let resolved = resolver.insns(prog).map_err(io::Error::other)?;
        let attach_to = resolver.attach_btf_id(prog).map_err(io::Error::other)?;
        let mut insns = resolved.clone();
        for reference in &prog.map_refs {
            if let (Some(insn), Some(map)) = (
                insns.get_mut(reference.insn_idx as usize),
                self.maps.get(reference.map),
            ) {
                insn.imm = map.as_raw_fd();
            }
        }
        let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        let func_info = write_records(&prog.func_info);
        let line_info = write_records(&prog.line_info);
        let has_btf = self.btf.is_some();
        let (result, log) = prog_load(
            &ProgLoad {
                prog_type: prog.prog_type.raw(),
                expected_attach_type: prog.expected_attach_type,
                prog_flags: prog.prog_flags,
                insns: &bytes,
                license: &self.spec.license,
                name: prog.kernel_name(),
                btf: self.btf.as_ref().map(|fd| fd.as_fd()),
                func_info: if has_btf { (8, &func_info) } else { (0, &[]) },
                line_info: if has_btf { (16, &line_info) } else { (0, &[]) },
                attach_btf_id: attach_to.map_or(0, |id| id.0),
                log_level: level,
            },
            LOG_BYTES,
        );
        let (fd, errno) = match result {
            Ok(fd) => (Some(fd), 0),
            Err(errno) => (None, errno.raw()),
        };
        Ok((
            fd,
            Recorded {
                kernel: release()?,
                level,
                errno,
                log: mask_log(&log, &resolved),
            },
        ))
    }
}
