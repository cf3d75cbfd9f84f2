//! Whole programs against Linux: the log at level 2, byte for byte, and the errno.
//!
//! `fixtures/oracle/alu_jmp/*.txt` hold programs, most of them random, over arithmetic, conditional jumps, stack, map value
//! and packet: each a line `== HEX ERRNO PRIVILEGE TYPE` (instruction bytes; errno of the load, 0 for accepted; `root` or
//! `bpf`, the latter with CAP_BPF and CAP_NET_ADMIN alone; number of the program type), followed by the kernel's log.
//!
//! `RING3_LOG_CASES=FILE` compares one more file, for runs over many random programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring3_btf::TypeId;
use ring3_isa::RawInsn;
use ring3_spec::{
    AttachTarget, FdObject, InfoRecords, LoadRequest, MapInfo, Privilege, Registry, TargetTraits,
};
use ring3_uapi::{MapType, ProgType};
use ring3_verifier::{Log, verify};

fn request(hex: &str, privilege: &str, prog_type: &str) -> LoadRequest {
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
        .collect();
    let insns = bytes
        .chunks_exact(8)
        .map(|slot| RawInsn::from_bytes(slot.try_into().expect("eight bytes")))
        .collect();
    LoadRequest {
        prog_type: ProgType::from_raw(prog_type.parse().expect("a number"))
            .expect("a program type"),
        expected_attach_type: 0,
        flags: 0,
        name: "domain".to_owned(),
        license: "GPL".to_owned(),
        kern_version: 0,
        insns,
        fds: BTreeMap::from([(0, FdObject::Map(0))]),
        fd_array: None,
        fd_array_is_counted: false,
        maps: vec![Arc::new(array())],
        btf: None,
        func_info: InfoRecords::default(),
        line_info: InfoRecords::default(),
        core_relos: InfoRecords::default(),
        kernel_btf: None,
        kernel_variables: false,
        keeps_dead_code: false,
        notes_held: false,
        attach_btf_id: TypeId(0),
        target_traits: TargetTraits::default(),
        attach: AttachTarget::default(),
        privilege: if privilege == "root" {
            Privilege::FULL
        } else {
            Privilege {
                bpf: true,
                perfmon: false,
                net_admin: true,
                sys_admin: false,
            }
        },
        seed: 0,
        nr_cpu_ids: 2,
    }
}

/// The one map that the programs may name: fd 0, an array with one value of 48 bytes.
fn array() -> MapInfo {
    MapInfo {
        id: 1,
        map_type: MapType::Array,
        name: String::new(),
        key_size: 4,
        value_size: 48,
        max_entries: 1,
        map_flags: 0,
        map_extra: 0,
        frozen: false,
        contents: None,
        btf: None,
        key_type_id: TypeId(0),
        value_type_id: TypeId(0),
        record: None,
        inner: None,
    }
}

/// Addresses of the kernel have no equal here.
fn masked(line: &str) -> String {
    match line.split_once(" = 0xffff8880") {
        Some((head, tail)) if line.contains("(18) r") => format!(
            "{head} = MAP{}",
            tail.trim_start_matches(char::is_alphanumeric)
        ),
        _ => line.to_owned(),
    }
}

fn is_compared(line: &str) -> bool {
    !line.starts_with("verification time") && !line.is_empty()
}

/// The place where two logs part, with a few lines before it.
fn difference(ours: &[String], theirs: &[String]) -> String {
    let at = ours
        .iter()
        .zip(theirs)
        .position(|(a, b)| a != b)
        .unwrap_or(ours.len().min(theirs.len()));
    let mut text = theirs[at.saturating_sub(6)..at].join("\n");
    for i in at..at + 2 {
        let line = |log: &[String]| log.get(i).map_or("(end)".to_owned(), String::clone);
        text += &format!("\nkernel {}\nours   {}", line(theirs), line(ours));
    }
    text
}

/// Compares one recorded program; `Err` says how ours differs.
fn compare(case: &str, registry: &Registry) -> Result<(), String> {
    let (head, theirs) = case.split_once('\n').ok_or("no head line")?;
    let [hex, errno, privilege, prog_type] = head.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("bad head line: {head}"));
    };
    let mut log = Log::new(2);
    let verdict = verify(&request(hex, privilege, prog_type), registry, &mut log);
    let our_errno = verdict
        .err()
        .map_or(0, |error| error.errno.raw())
        .to_string();
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| is_compared(line))
            .map(masked)
            .collect()
    };
    let (ours, theirs) = (lines(log.as_str()), lines(theirs));
    if our_errno != errno {
        return Err(format!(
            "errno {our_errno}, kernel {errno}\n{}",
            difference(&ours, &theirs)
        ));
    }
    if ours != theirs {
        return Err(difference(&ours, &theirs));
    }
    Ok(())
}

#[test]
fn every_log_equals_the_kernels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/alu_jmp");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.extend(std::env::var_os("RING3_LOG_CASES").map(PathBuf::from));
    let registry = Registry::linux_6_18();
    let (mut equal, mut differing) = (0, Vec::new());
    for file in &files {
        let text = format!("\n{}", std::fs::read_to_string(file).unwrap());
        for (i, case) in text.split("\n== ").skip(1).enumerate() {
            match compare(case, &registry) {
                Ok(()) => equal += 1,
                Err(how) => differing.push(format!("{} program {}: {how}", file.display(), i + 1)),
            }
        }
    }
    println!("{equal} logs equal, {} differ", differing.len());
    assert!(
        differing.is_empty(),
        "{}",
        differing[..differing.len().min(3)].join("\n\n")
    );
    assert!(equal >= 100, "too few programs: {equal}");
}
