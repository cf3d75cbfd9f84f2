//! Compares this verifier's logs with recorded ones: `cargo run -p ring3-verifier --example log_diff FILE [shown]`.
//!
//! The file holds programs, each a line `== HEX ERRNO PRIVILEGE TYPE` (instruction bytes; errno of the load, 0 for accepted;
//! `root` or `bpf`, the latter with CAP_BPF and CAP_NET_ADMIN alone; number of the program type), followed by its log at
//! level 2. Prints the number of equal logs, and for the first few that differ the place.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring3_btf::TypeId;
use ring3_isa::RawInsn;
use ring3_spec::{AttachTarget, FdObject, InfoRecords, LoadRequest, MapInfo, Privilege, Registry};
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
        attach_btf_id: TypeId(0),
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

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("a file of recorded logs");
    let shown: usize = args.next().map_or(3, |n| n.parse().expect("a number"));
    let text = std::fs::read_to_string(path).expect("a readable file");
    let registry = Registry::linux_6_18();
    let (mut equal, mut verdicts, mut total) = (0, 0, 0);
    let mut differing = 0;
    for case in format!("\n{text}").split("\n== ").skip(1) {
        let (head, theirs) = case.split_once('\n').expect("a head line");
        let head: Vec<&str> = head.split(' ').collect();
        let mut log = Log::new(2);
        let verdict = verify(&request(head[0], head[2], head[3]), &registry, &mut log);
        let errno = verdict.as_ref().err().map_or(0, |error| error.errno.raw());
        total += 1;
        verdicts += usize::from(errno.to_string() == head[1]);
        let ours: Vec<String> = log
            .as_str()
            .lines()
            .filter(|line| is_compared(line))
            .map(masked)
            .collect();
        let theirs: Vec<String> = theirs
            .lines()
            .filter(|line| is_compared(line))
            .map(str::to_owned)
            .collect();
        if ours == theirs && errno.to_string() == head[1] {
            equal += 1;
            continue;
        }
        differing += 1;
        if differing > shown {
            continue;
        }
        let at = ours
            .iter()
            .zip(&theirs)
            .position(|(a, b)| a != b)
            .unwrap_or(ours.len().min(theirs.len()));
        println!(
            "---- program {total}: errno {errno} for {}, line {at}",
            head[1]
        );
        for line in &theirs[at.saturating_sub(6)..at] {
            println!("       {line}");
        }
        for i in at..(at + 2).max(at) {
            println!("kernel {}", theirs.get(i).map_or("(end)", String::as_str));
            println!("ours   {}", ours.get(i).map_or("(end)", String::as_str));
        }
    }
    println!("{total} programs, {verdicts} verdicts equal, {equal} logs equal");
}
