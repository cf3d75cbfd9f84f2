//! Generated calls: each helper that runs is in a program that the verifier accepts and both engines run alike.
#![cfg(feature = "engines")]

use std::collections::BTreeMap;

use ring3_testkit::engine_fuzz::{CallOutcome, Fuzz};
use ring3_testkit::generate::{Rng, helpers};

/// Programs of one helper before it counts as never accepted.
const TRIES: u64 = 60;

#[test]
fn every_helper_that_runs_is_called_on_both_engines() {
    let mut fuzz = Fuzz::new(None);
    let mut missing = BTreeMap::new();
    for prog_type in helpers::PROG_TYPES {
        for proto in helpers::callable(prog_type) {
            let mut rejection = String::new();
            let is_called = (0..TRIES).any(|seed| {
                let generated = helpers::program_of(&mut Rng::new(seed), prog_type, &proto);
                match fuzz.call(&generated, seed) {
                    CallOutcome::Equal => true,
                    CallOutcome::Rejected(why) => {
                        rejection = why;
                        false
                    }
                    CallOutcome::Different(how) => panic!("{prog_type} {}: {how}", proto.name),
                }
            });
            if !is_called {
                missing.insert(format!("{prog_type} {}", proto.name), rejection);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
