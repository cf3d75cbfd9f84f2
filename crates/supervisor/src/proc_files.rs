//! Files that are served instead of the host's: `/proc/*/fdinfo` of objects, mount tables with the pins as a BPF file system, and the kernel's
//! BTF where the daemon has another, and pins of iterators, whose text is made when they are opened.

use std::{fmt::Write as _, io::Write as _, os::fd::OwnedFd, sync::Arc};

use ring3_bpffs::Pinned;
use ring3_objects::Program;
use ring3_runtime::ProgObject;
use ring3_syscall_shim::{FileId, OpenFile, PathAt, iterated};
use ring3_uapi::{Errno, LinkType};
use rustix::fs::{MemfdFlags, OFlags, SeekFrom, memfd_create, seek};

use crate::{
    client::BPFFS_PATH,
    guest::TaskMemory,
    host::TaskHost,
    pins::errno,
    session::{Answer, read_path},
};

/// Tools look for BPF file systems here.
const MOUNT_TABLES: &[&[u8]] = &[b"/proc/mounts", b"/proc/self/mounts", b"/etc/mtab"];
/// Settings of the kernel's compiler, which only root may read: their values on a fresh system.
const JIT_SETTINGS: &[(&[u8], &[u8])] = &[
    (b"/proc/sys/net/core/bpf_jit_enable", b"1\n"),
    (b"/proc/sys/net/core/bpf_jit_harden", b"0\n"),
    (b"/proc/sys/net/core/bpf_jit_kallsyms", b"1\n"),
    (b"/proc/sys/net/core/bpf_jit_limit", b"528482304\n"),
];
const KERNEL_BTF: &[u8] = b"/sys/kernel/btf/vmlinux";

/// open(2) and openat(2) for reading.
pub(crate) fn open(
    host: &TaskHost,
    memory: &TaskMemory<'_>,
    dir: Option<i32>,
    address: u64,
) -> Answer {
    let Ok(path) = read_path(memory, address) else {
        return Answer::Pass;
    };
    match pinned_text(host, dir, &path) {
        Some(Ok(text)) => return give(host, &text),
        Some(Err(errno)) => return Answer::Result(Err(errno)),
        None => {}
    }
    let setting = JIT_SETTINGS.iter().find(|(name, _)| *name == path);
    let served = if let Some((_, value)) = setting {
        Some(value.to_vec())
    } else if MOUNT_TABLES.contains(&&path[..]) {
        mounts(host)
    } else if path == KERNEL_BTF {
        host.session
            .daemon
            .kernel_btf
            .as_deref()
            .map(<[u8]>::to_vec)
    } else {
        fd_info(host, &path)
    };
    match served {
        Some(bytes) => give(host, &bytes),
        None => Answer::Pass,
    }
}

fn give(host: &TaskHost, bytes: &[u8]) -> Answer {
    Answer::Result(
        file_with(bytes)
            .and_then(|fd| host.give(&fd))
            .map(i64::from),
    )
}

/// What the iterator writes whose pin is opened; `None` if the path is anything else.
fn pinned_text(host: &TaskHost, dir: Option<i32>, path: &[u8]) -> Option<Result<Arc<[u8]>, Errno>> {
    const AT_FDCWD: i32 = -100;
    let pins = &host.session.daemon.pins;
    if !pins.has_iterators() {
        return None;
    }
    let dir = dir.filter(|&dir| dir != AT_FDCWD);
    let file = host.open_path(PathAt { dir, path }, OFlags::PATH).ok()?;
    match pins.get(FileId::of(&file).ok()?)? {
        Pinned::Link(link) if link.link_type() == LinkType::Iter => Some(iterated(&link)),
        _ => None,
    }
}

fn file_with(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let memfd = memfd_create("ring3", MemfdFlags::CLOEXEC).map_err(errno)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(bytes).map_err(|_| Errno::ENOMEM)?;
    seek(&file, SeekFrom::Start(0)).map_err(errno)?;
    Ok(file.into())
}

/// The mounts of the client, its pins under the type that tools know; `None` if it has no mount of them.
fn mounts(host: &TaskHost) -> Option<Vec<u8>> {
    let table = std::fs::read_to_string(format!("/proc/{}/mounts", host.tid)).ok()?;
    if host.session.mount_id == 0 {
        return None;
    }
    let place = format!(" {BPFFS_PATH} ");
    let lines = table.lines().map(|line| {
        if line.contains(&place) {
            format!("bpf {BPFFS_PATH} bpf rw,relatime,mode=700 0 0\n")
        } else {
            format!("{line}\n")
        }
    });
    Some(lines.collect::<String>().into_bytes())
}

/// `/proc/PID/fdinfo/N` of an object.
fn fd_info(host: &TaskHost, path: &[u8]) -> Option<Vec<u8>> {
    let path = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
    let (process, rest) = path.split_once('/')?;
    let fd = rest.rsplit_once("fdinfo/")?.1.parse().ok()?;
    let tid = match process {
        "self" | "thread-self" => host.tid,
        number => number.parse().ok()?,
    };
    let id = host.session.task_files.id(tid, fd).ok()?;
    let file = host.session.daemon.files.find(id)?;
    describe(&file, id).map(String::into_bytes)
}

/// The kernel's words for an object's descriptor.
fn describe(file: &OpenFile, id: FileId) -> Option<String> {
    let mut text = format!("pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t{}\n", id.ino);
    let _ = match file {
        OpenFile::Map(map) => {
            let (object, map) = (map.object(), map.object().map());
            write!(
                text,
                "map_type:\t{}\nkey_size:\t{}\nvalue_size:\t{}\nmax_entries:\t{}\nmap_flags:\t{:#x}\nmap_extra:\t{:#x}\nmemlock:\t{}\nmap_id:\t{}\nfrozen:\t{}\n",
                map.map_type().raw(),
                map.key_size(),
                map.value_size(),
                map.max_entries(),
                map.map_flags(),
                map.attr().map_extra,
                crate::memlock::memlock(map, ring3_os::cpu::possible_cpus() as u64),
                object.id(),
                u32::from(map.is_frozen()),
            )
        }
        OpenFile::Prog(prog) => write!(
            text,
            "prog_type:\t{}\nprog_jited:\t{}\nprog_tag:\t{}\nmemlock:\t{}\nprog_id:\t{}\nrun_time_ns:\t{}\nrun_cnt:\t{}\nrecursion_misses:\t{}\nverified_insns:\t{}\n",
            prog.prog_type().raw(),
            u32::from(prog.engine().listing().is_some()),
            tag(prog),
            memlock(prog),
            prog.id(),
            prog.runs().time_ns(),
            prog.runs().count(),
            prog.runs().recursion_misses(),
            prog.verified().stats.insns_processed,
        ),
        OpenFile::Link(link) => {
            let info = link.info();
            writeln!(
                text,
                "link_type:\t{}\nlink_id:\t{}\nprog_id:\t{}",
                info.link_type, info.id, info.prog_id
            )
        }
        OpenFile::Btf(btf) => writeln!(text, "btf_id:\t{}", btf.id()),
        OpenFile::Iter(_) | OpenFile::Stats(_) | OpenFile::PerfEvent { .. } | OpenFile::Other => {
            return None;
        }
    };
    Some(text)
}

fn tag(prog: &Program) -> String {
    prog.tag().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Memory of the program's instructions, in whole pages, as the kernel counts it.
fn memlock(prog: &Program) -> usize {
    const HEADER_BYTES: usize = 56;
    let bytes = HEADER_BYTES + prog.verified().insns.len() * 8;
    bytes.next_multiple_of(ring3_os::cpu::page_bytes())
}
