//! The containment oracle: runs lie in the states that were walked, and a fault of the domain is seen. One test, as faults are planted for
//! the whole process.

#![cfg(feature = "plants")]

use ring3_testkit::containment::{Campaign, plants};

#[test]
fn runs_lie_in_the_walked_states_and_planted_faults_do_not_pass() {
    let mut campaign = Campaign::new(7);
    for _ in 0..150 {
        if let Some(finding) = campaign.one() {
            panic!(
                "program {}: {}\n{}",
                finding.run, finding.what, finding.text
            );
        }
    }
    assert!(campaign.accepted * 100 >= campaign.programs * 30);
    assert!(campaign.hits.steps > 10_000, "{}", campaign.hits.steps);
    for name in [
        "tnum_mul",
        "range32_sub",
        "sync_sign_extended",
        "refine_sle64",
        "coerce",
    ] {
        plants::plant(name).unwrap();
        let mut campaign = Campaign::new(7);
        let found = (0..400).any(|_| campaign.violation_of_next().is_some());
        assert!(found, "{name} was not found");
    }
}
