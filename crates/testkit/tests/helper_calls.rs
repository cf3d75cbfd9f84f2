//! Generated calls: each helper that runs is in a program that the verifier accepts and both engines run alike.
#![cfg(feature = "engines")]

use std::collections::{BTreeMap, BTreeSet};

use ring3_testkit::engine_fuzz::{CallOutcome, Fuzz};
use ring3_testkit::generate::{Rng, helpers};

/// Programs of one helper before it counts as never accepted.
const TRIES: u64 = 60;

#[test]
fn every_helper_that_runs_is_called_on_both_engines() {
    let mut fuzz = Fuzz::new(None);
    let mut called = BTreeSet::new();
    let mut rejections = BTreeMap::new();
    for prog_type in helpers::PROG_TYPES {
        for proto in helpers::callable(prog_type) {
            for seed in 0..TRIES {
                if called.contains(proto.name) {
                    break;
                }
                let generated = helpers::program_of(&mut Rng::new(seed), prog_type, &proto);
                match fuzz.call(&generated, seed) {
                    CallOutcome::Equal => {
                        called.insert(proto.name);
                    }
                    CallOutcome::Rejected(why) => {
                        rejections.insert(proto.name, why);
                    }
                    CallOutcome::Different(how) => panic!("{prog_type} {}: {how}", proto.name),
                }
            }
        }
    }
    rejections.retain(|name, _| !called.contains(name));
    assert!(rejections.is_empty(), "{rejections:#?}");
    let left_out = helpers::NOT_GENERATED.iter().flat_map(|(_, ids)| *ids);
    assert_eq!(called.len() + left_out.count(), helpers::running().count());
}
