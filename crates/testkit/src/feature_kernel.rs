//! What `bpftool feature probe full` finds over the running kernel, from its call of bpf(2) on; what comes before is about the host.
//!
//! Some hosts refuse program types to everybody: those rows are recorded as they were printed, and named in a comment.

use std::{io, path::Path, process::Command};

use ring3_os::bpf::{Buffer, open};
use ring3_uapi::{AttachType, Cmd, Errno, ProgType};

use crate::kernel;

/// Where the rows begin that are about bpf(2).
const FIRST: &str = "Scanning system call availability...";

/// Asks anew and rewrites the file; how many lines.
///
/// # Errors
/// There is no bpftool, or it prints something else.
pub fn record(path: &Path) -> io::Result<usize> {
    let output = Command::new("bpftool")
        .args(["feature", "probe", "full"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = || io::Error::other("bpftool printed something else than its probes");
    let begin = text.find(FIRST).ok_or_else(wrong)?;
    let refused: Vec<_> = [
        ("tracing", ProgType::Tracing, AttachType::TraceFentry),
        ("ext", ProgType::Ext, AttachType::CgroupInetIngress),
        ("lsm", ProgType::Lsm, AttachType::LsmMac),
    ]
    .into_iter()
    .filter(|(_, prog_type, attach)| load(*prog_type, *attach) == Some(Errno::EPERM))
    .map(|(name, ..)| name)
    .collect();
    let text = format!(
        "# Linux {}\n# Refused by this host with EPERM: {}\n{}",
        kernel::release()?,
        refused.join(" "),
        &text[begin..]
    );
    std::fs::write(path, &text)?;
    Ok(text.lines().count())
}

/// The errno of a load as libbpf probes these types: attached to what is no function.
fn load(prog_type: ProgType, attach: AttachType) -> Option<Errno> {
    const EXPECTED_ATTACH_TYPE: usize = 68;
    const ATTACH_BTF_ID: usize = 108;
    let mut insns = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut license = *b"GPL\0";
    let mut attr = [0; 152];
    for (at, value) in [
        (0, prog_type.raw()),
        (4, 2),
        (EXPECTED_ATTACH_TYPE, attach.raw()),
        (ATTACH_BTF_ID, 1),
    ] {
        attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let mut buffers = [
        Buffer {
            attr_offset: 8,
            bytes: &mut insns,
        },
        Buffer {
            attr_offset: 16,
            bytes: &mut license,
        },
    ];
    open(Cmd::ProgLoad.raw(), &mut attr, &mut buffers).err()
}
