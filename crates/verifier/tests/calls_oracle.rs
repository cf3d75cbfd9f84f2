//! Helper calls and context accesses against what the running kernel said of them (fixtures/oracle/spec/calls.txt).

use std::sync::Arc;

use ring3_isa::RawInsn;
use ring3_spec::{FdObject, LoadRequest, MapInfo, Privilege, Registry};
use ring3_uapi::flags::prog_load;
use ring3_uapi::{MapType, ProgType};
use ring3_verifier::{Log, verify};

const RECORDED: &str = include_str!("../../../fixtures/oracle/spec/calls.txt");

fn map(id: u32, words: &str) -> Arc<MapInfo> {
    let numbers: Vec<u32> = words.split(' ').map(|word| word.parse().unwrap()).collect();
    let [map_type, key_size, value_size, max_entries, map_flags] = numbers[..] else {
        panic!("{words}")
    };
    Arc::new(MapInfo {
        id,
        map_type: MapType::from_raw(map_type).unwrap(),
        name: String::new(),
        key_size,
        value_size,
        max_entries,
        map_flags,
        map_extra: 0,
        frozen: false,
        contents: None,
        btf: None,
        key_type_id: Default::default(),
        value_type_id: Default::default(),
        record: None,
        inner: None,
    })
}

fn insns(hex: &str) -> Vec<RawInsn> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len())
        .step_by(16)
        .map(|at| RawInsn::from_bytes(std::array::from_fn(|i| byte(at + 2 * i))))
        .collect()
}

#[test]
fn verdicts_and_messages_equal_the_kernels() {
    let registry = Registry::linux_6_18();
    let maps: Vec<_> = RECORDED
        .lines()
        .filter_map(|line| line.strip_prefix("map "))
        .zip(1..)
        .map(|(words, id)| map(id, words))
        .collect();
    let mut asked = 0;
    let mut different = Vec::new();
    for line in RECORDED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("map "))
    {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let prog_type = ProgType::from_name(words[1]).unwrap();
        let mut request = LoadRequest::new(prog_type, insns(words[4]));
        request.expected_attach_type = words[2].parse().unwrap();
        request.fds = (0..maps.len())
            .map(|at| (at as i32, FdObject::Map(at)))
            .collect();
        request.maps = maps.clone();
        if prog_type == ProgType::Syscall {
            request.flags |= prog_load::SLEEPABLE;
        }
        if words[0] == "no_perfmon" {
            request.privilege = Privilege {
                perfmon: false,
                sys_admin: false,
                ..Privilege::FULL
            };
        }
        let kernel = (
            words[3].parse::<i32>().unwrap(),
            words.get(5).copied().unwrap_or_default(),
        );
        let result = verify(&request, &registry, &mut Log::new(1));
        let (errno, message) = match &result {
            Ok(_) => (0, ""),
            Err(error) => (
                error.errno.raw(),
                error.message.lines().last().unwrap_or_default(),
            ),
        };
        asked += 1;
        if (errno, message) != kernel {
            different.push(format!("{line}\n    ring3: {errno} {message}"));
        }
    }
    assert!(asked > 1000, "{asked}");
    assert!(
        different.is_empty(),
        "{} of {asked}:\n{}",
        different.len(),
        different[..different.len().min(10)].join("\n")
    );
}
