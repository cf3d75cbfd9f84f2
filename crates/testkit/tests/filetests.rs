//! Every filetest of the verifier: what the file says, and the recorded kernel's verdict and level-2 log to the byte.

use ring3_spec::Registry;
use ring3_testkit::{
    filetest::{FileTest, Loader, files, oracle_path},
    fixture::Recorded,
};

/// Files whose log is not the kernel's, with the cause. An entry that has become equal fails the test.
const DIFFERENT_LOGS: &[(&str, &str)] = &[];

fn all() -> Vec<FileTest> {
    let tests: Vec<_> = files()
        .unwrap()
        .iter()
        .map(|path| FileTest::read(path).unwrap_or_else(|error| panic!("{error}")))
        .collect();
    assert!(!tests.is_empty());
    tests
}

#[test]
fn files_hold_in_ring3() {
    let registry = Registry::linux_6_18();
    let mut wrong = Vec::new();
    for test in all() {
        let (errno, log) = test.verify(&registry);
        let found = test.check(errno, &log);
        if !found.is_empty() {
            wrong.push(format!("{}\n{log}", found.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_hold_in_the_recorded_kernel() {
    let mut wrong = Vec::new();
    for test in all() {
        let path = oracle_path(&test.name);
        // Without any capability the reference kernel loads nothing (unprivileged_bpf_disabled), so there is no answer.
        if test.loader == Loader::None {
            assert!(!path.exists(), "{}", path.display());
            continue;
        }
        let recorded = Recorded::read(&path).unwrap_or_else(|error| panic!("{error}"));
        wrong.extend(test.check(recorded.errno, &recorded.log));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn logs_are_the_kernels_to_the_byte() {
    let registry = Registry::linux_6_18();
    let mut wrong = Vec::new();
    for test in all().iter().filter(|test| test.loader != Loader::None) {
        let recorded = Recorded::read(&oracle_path(&test.name)).unwrap();
        let (errno, log) = test.verify(&registry);
        let is_equal = errno == recorded.errno && log == recorded.log;
        match DIFFERENT_LOGS.iter().find(|(name, _)| *name == test.name) {
            Some((name, cause)) => {
                assert!(!is_equal, "{name} is equal now; it was not because {cause}");
            }
            None if !is_equal => wrong.push(first_difference(&test.name, &recorded, errno, &log)),
            None => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn recorded_answers_have_their_file() {
    let tests = all();
    let folder = oracle_path("x");
    for entry in std::fs::read_dir(folder.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            tests.iter().any(|test| test.name == stem),
            "{}",
            path.display()
        );
    }
}

fn first_difference(name: &str, recorded: &Recorded, errno: i32, log: &str) -> String {
    let mut lines = recorded.log.lines().zip(log.lines()).enumerate();
    let head = format!("{name}: errno kernel {}, ring3 {errno}", recorded.errno);
    match lines.find(|(_, (kernel, ring3))| kernel != ring3) {
        Some((at, (kernel, ring3))) => {
            format!("{head}; line {}:\nkernel {kernel}\nring3  {ring3}", at + 1)
        }
        None => format!("{head}; one log is longer"),
    }
}
