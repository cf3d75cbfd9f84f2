//! Every ELF fixture beside the recorded kernel: verdict, errno, and the level-2 log to the byte; and its snapshot.

use ring3::{
    LoadOptions,
    objects::Object,
    verifier::{Log, verify},
};
use ring3_testkit::{
    filetest::Loader,
    fixture::{Recorded, elf_fixtures, fixtures_dir, kernel_btf},
    log_mask::mask_log,
};

/// Programs whose log is not the kernel's yet, with the cause. An entry that has become equal fails the test.
const DIFFERENT_LOGS: &[(&str, &str)] = &[
    ("core/type_ids.ask", OTHER_IDS),
    ("helpers/shown.structs", OTHER_IDS),
    ("helpers/shown.pointers_and_arrays", OTHER_IDS),
    ("helpers/shown.enumerators", OTHER_IDS),
    ("helpers/shown.cut", OTHER_IDS),
    ("helpers/shown.refused", OTHER_IDS),
];
const OTHER_IDS: &str = "a type has another id in a part of the kernel's BTF";

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
    /// Without CAP_PERFMON and CAP_SYS_ADMIN, beside the kernel's answer to such a loader.
    no_perfmon: Option<((i32, String), Recorded)>,
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
            let path = fixture.oracle_path_for(Loader::NoPerfmon, &prog.name);
            assert_eq!(path.exists(), is_recorded, "{}", path.display());
            let no_perfmon = is_recorded.then(|| {
                let recorded = Recorded::read(&path).unwrap();
                let mut request = verification.request.clone();
                request.privilege = Loader::NoPerfmon.privilege();
                let mut log = Log::new(recorded.level);
                let errno = match verify(&request, system.registry(), &mut log) {
                    Ok(_) => 0,
                    Err(error) => error.errno.raw(),
                };
                let log = mask_log(&log.into_string(), &request.insns);
                ((errno, log), recorded)
            });
            all.push(Ours {
                name,
                errno: verification
                    .result
                    .as_ref()
                    .map_or_else(|error| error.errno.raw(), |_| 0),
                log: mask_log(&verification.log, &verification.request.insns),
                recorded,
                no_perfmon,
            });
        }
    }
    all
}

#[test]
fn answers_without_perfmon_are_the_kernels() {
    let mut compared = 0;
    for ours in verify_fixtures() {
        let Some(((errno, log), recorded)) = &ours.no_perfmon else {
            continue;
        };
        compared += 1;
        assert_eq!(*errno, recorded.errno, "{}", ours.name);
        let knows_types = DIFFERENT_LOGS.iter().any(|(name, _)| *name == ours.name);
        assert!(
            knows_types || *log == recorded.log,
            "{}",
            first_difference(&ours.name, log, recorded)
        );
    }
    assert!(compared > 100, "{compared} programs");
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
                first_difference(&ours.name, &ours.log, recorded)
            ),
        }
    }
}

fn first_difference(name: &str, log: &str, recorded: &Recorded) -> String {
    let mut lines = recorded.log.lines().zip(log.lines()).enumerate();
    match lines.find(|(_, (kernel, ring3))| kernel != ring3) {
        Some((at, (kernel, ring3))) => {
            format!("{name} line {}:\nkernel {kernel}\nring3  {ring3}", at + 1)
        }
        None => format!("{name}: one log is longer"),
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
