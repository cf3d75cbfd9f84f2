//! What `ring3 verify --explain` says of every rejected ELF fixture: a snapshot each, and points that must hold in all.

use ring3::{
    LoadOptions,
    objects::Object,
    verifier::{Diagnosis, Log, VerifierError, verify_explained},
};
use ring3_testkit::fixture::{elf_fixtures, kernel_btf};

/// Name and diagnosis of every program that is rejected.
fn rejected() -> Vec<(String, Diagnosis)> {
    let system = ring3::system();
    system.set_kernel_btf(kernel_btf("6.18").unwrap());
    let mut all = Vec::new();
    for fixture in elf_fixtures().unwrap() {
        let object = Object::open(&fixture.path).unwrap();
        for (program, verification) in object.verify_in(&system, &LoadOptions::default()).unwrap() {
            let verification = verification.unwrap();
            let explained =
                verify_explained(&verification.request, system.registry(), &mut Log::off());
            let error = explained.as_ref().err().map(|(error, _)| error);
            // The source line behind the message is looked up for those who read it.
            let plain = verification.result.as_ref().err();
            let compared = |error: &VerifierError| {
                let message = error.message.lines().next().map(str::to_owned);
                (error.errno, error.insn_idx, error.kind, message)
            };
            assert_eq!(plain.map(compared), error.map(compared), "{program}");
            if let Err((_, diagnosis)) = explained {
                all.push((format!("{}.{program}", fixture.name), *diagnosis));
            }
        }
    }
    assert!(all.len() >= 15, "{} rejected fixtures", all.len());
    all
}

/// Replaces the numbers of kernel functions, ids of types in this part of the kernel's BTF, by `*`.
fn mask_kfuncs(rendered: &str) -> String {
    const LAST_HELPER: u32 = 211;
    let mut parts = rendered.split('#');
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_at(
            part.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len()),
        );
        let is_kfunc =
            !masked.ends_with("unknown") && number.parse().is_ok_and(|id: u32| id > LAST_HELPER);
        masked.push('#');
        masked.push_str(if is_kfunc { "*" } else { number });
        masked.push_str(rest);
    }
    masked
}

#[test]
fn rejected_fixtures_are_explained() {
    for (name, diagnosis) in rejected() {
        insta::assert_snapshot!(name.replace('/', "__"), mask_kfuncs(&diagnosis.render()));
    }
}

#[test]
fn the_usual_mistakes_have_a_line_and_a_remedy() {
    let mut lines = 0;
    for (name, diagnosis) in rejected() {
        if name.starts_with("reject/") {
            assert!(diagnosis.help.is_some(), "{name}: {}", diagnosis.message);
        }
        let source = diagnosis.at.as_ref().and_then(|at| at.source.as_ref());
        if let Some(source) = source {
            assert!(source.line > 0 && !source.text.is_empty(), "{name}");
            lines += 1;
        }
        for step in &diagnosis.path {
            let goes_on = step.to.insn_idx == step.at.insn_idx + 1;
            assert_eq!(step.taken, !goes_on, "{name}");
        }
    }
    assert!(lines >= 15, "{lines} diagnoses name a line");
}

#[test]
fn a_null_check_that_is_missing_is_told_with_the_call_it_belongs_to() {
    let all = rejected();
    let (_, diagnosis) = all
        .iter()
        .find(|(name, _)| name.starts_with("reject/unchecked_lookup"))
        .unwrap();
    let reg = &diagnosis.registers[0];
    assert!(reg.words.ends_with("or null"), "{}", reg.words);
    let set_at = reg.set_at.as_ref().unwrap();
    assert!(
        set_at.insn.contains("bpf_map_lookup_elem"),
        "{}",
        set_at.insn
    );
}
