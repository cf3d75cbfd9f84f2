//! Every ELF fixture beside the recorded kernel: verdict, errno, and the level-2 log to the byte; and its snapshot.

use ring3::{LoadOptions, objects::Object};
use ring3_testkit::{
    fixture::{Recorded, elf_fixtures, fixtures_dir, kernel_btf},
    log_mask::mask_log,
};

/// Programs whose log is not the kernel's yet, with the cause. An entry that has become equal fails the test.
const DIFFERENT_LOGS: &[(&str, &str)] = &[(
    "core/type_ids.ask",
    "a type has another id in a part of the kernel's BTF",
)];

/// Programs that the recording kernel was not permitted to judge, with the errno Linux 6.18 documents for them.
const NOT_RECORDED: &[(&str, i32)] = &[
    ("typed/fentry.on_open", 0),
    ("typed/fentry.after_open", 0),
    ("typed/fentry.bad_result", 22),
    ("typed/lsm.small_files_only", 0),
    ("typed/lsm.positive", 22),
];

/// What ring3 says of a fixture's program.
struct Ours {
    name: String,
    errno: i32,
    log: String,
    recorded: Option<Recorded>,
}

fn verify_fixtures() -> Vec<Ours> {
    let system = ring3::system();
    system.set_kernel_btf(kernel_btf("6.18").unwrap());
    let mut all = Vec::new();
    for fixture in elf_fixtures().unwrap() {
        let object = Object::open(&fixture.path).unwrap();
        for prog in &object.spec().progs {
            let name = format!("{}.{}", fixture.name, prog.name);
            let is_recorded = !NOT_RECORDED.iter().any(|(other, _)| *other == name);
            let path = fixture.oracle_path(&prog.name);
            assert_eq!(path.exists(), is_recorded, "{name}");
            let recorded = is_recorded.then(|| Recorded::read(&path).unwrap());
            let options = LoadOptions {
                log_level: recorded.as_ref().map_or(2, |recorded| recorded.level),
                programs: Some(vec![prog.name.clone()]),
                ..LoadOptions::default()
            };
            let (_, verification) = object.verify_in(&system, &options).unwrap().pop().unwrap();
            let verification = verification.unwrap();
            all.push(Ours {
                name,
                errno: verification
                    .result
                    .as_ref()
                    .map_or_else(|error| error.errno.raw(), |_| 0),
                log: mask_log(&verification.log, &verification.request.insns),
                recorded,
            });
        }
    }
    all
}

#[test]
fn verdicts_are_the_kernels() {
    let different: Vec<_> = verify_fixtures()
        .iter()
        .filter_map(|ours| {
            let expected = match &ours.recorded {
                Some(recorded) => recorded.errno,
                None => {
                    let known = NOT_RECORDED.iter().find(|(name, _)| *name == ours.name);
                    known.map(|(_, errno)| *errno)?
                }
            };
            (ours.errno != expected)
                .then(|| format!("{}: kernel {expected}, ring3 {}", ours.name, ours.errno))
        })
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn logs_are_the_kernels_to_the_byte() {
    for ours in verify_fixtures() {
        let Some(recorded) = &ours.recorded else {
            continue;
        };
        let known = DIFFERENT_LOGS.iter().find(|(name, _)| *name == ours.name);
        match known {
            Some((name, cause)) => assert_ne!(
                ours.log, recorded.log,
                "{name} is equal now; it was not because {cause}"
            ),
            None => assert!(
                ours.log == recorded.log,
                "{}",
                first_difference(&ours, recorded)
            ),
        }
    }
}

fn first_difference(ours: &Ours, recorded: &Recorded) -> String {
    let mut lines = recorded.log.lines().zip(ours.log.lines()).enumerate();
    match lines.find(|(_, (kernel, ring3))| kernel != ring3) {
        Some((at, (kernel, ring3))) => format!(
            "{} line {}:\nkernel {kernel}\nring3  {ring3}",
            ours.name,
            at + 1
        ),
        None => format!("{}: one log is longer", ours.name),
    }
}

#[test]
fn logs_are_snapshots() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(fixtures_dir().canonicalize().unwrap().join("snapshots/elf"));
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for ours in verify_fixtures() {
            insta::assert_snapshot!(ours.name.replace('/', "__"), ours.log);
        }
    });
}
