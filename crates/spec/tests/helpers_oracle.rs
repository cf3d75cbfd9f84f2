//! The helper tables against what the running kernel answered (fixtures/oracle/spec/helpers.txt).

use std::collections::BTreeSet;

use ring3_spec::{Allowed, Caller, HelperLookup, Privilege, Registry, helpers};
use ring3_uapi::{FuncId, ProgType};

const RECORDED: &str = include_str!("../../../fixtures/oracle/spec/helpers.txt");

fn ids(text: &str) -> BTreeSet<u32> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| match part.split_once('-') {
            Some((low, high)) => low.parse().unwrap()..=high.parse().unwrap(),
            None => part.parse().unwrap()..=part.parse::<u32>().unwrap(),
        })
        .collect()
}

#[test]
fn grants_equal_the_kernels() {
    let registry = Registry::linux_6_18();
    let mut rows = 0;
    let mut different = Vec::new();
    for line in RECORDED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("gpl_only"))
    {
        let words: Vec<&str> = line.split(' ').collect();
        let [prog_type, attach, sleep, privilege, list] = words[..] else {
            panic!("{line}")
        };
        let caller = Caller {
            prog_type: ProgType::from_name(prog_type).unwrap(),
            expected_attach_type: attach.parse().unwrap(),
            sleepable: sleep == "sleepable",
            privilege: match privilege {
                "full" => Privilege::FULL,
                "no_perfmon" => Privilege {
                    perfmon: false,
                    sys_admin: false,
                    ..Privilege::FULL
                },
                other => panic!("{other}"),
            },
        };
        let kernel = ids(list);
        let ours: BTreeSet<u32> = (1..=211)
            // The recorded iterator is that of tasks.
            .filter(|&id| {
                matches!(registry.helper(caller, id as i32),
                    HelperLookup::Found(proto) if proto.allowed != Allowed::SocketIter)
            })
            .collect();
        rows += 1;
        for id in ours.symmetric_difference(&kernel) {
            let name = FuncId::from_raw(*id).unwrap().name();
            different.push(format!(
                "{prog_type} {attach} {privilege}: {name}, kernel {}",
                kernel.contains(id)
            ));
        }
    }
    assert!(rows > 80, "{rows} rows");
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn gpl_flags_equal_the_kernels() {
    let recorded = RECORDED
        .lines()
        .find_map(|line| line.strip_prefix("gpl_only "))
        .unwrap();
    // Not granted to any program that the oracle could load.
    let unasked = [
        FuncId::OverrideReturn,
        FuncId::ProbeWriteUser,
        FuncId::RcRepeat,
        FuncId::RcKeydown,
        FuncId::RcPointerRel,
    ];
    let ours: BTreeSet<u32> = helpers::ROWS
        .iter()
        .filter(|proto| proto.gpl_only)
        .filter_map(|proto| proto.func_id())
        .filter(|id| !unasked.contains(id))
        .map(FuncId::raw)
        .collect();
    assert_eq!(ours, ids(recorded));
}

#[test]
fn every_helper_is_granted_or_listed() {
    let registry = Registry::linux_6_18();
    for &id in FuncId::ALL {
        let granted = ring3_spec::PROG_TYPES.iter().any(|row| {
            row.helpers
                .iter()
                .copied()
                .flatten()
                .any(|grant| grant.proto.func_id() == Some(id))
        });
        let listed = ring3_spec::grants::UNGRANTED
            .iter()
            .any(|(other, _)| *other == id);
        assert!(granted != listed, "{id}");
    }
    assert!(registry.helper_rows().count() >= 211);
}
