//! `ring3 trace` end to end: a C program and a Rust program run, records of their functions are printed, and they go on undisturbed.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

#[path = "../../../examples/traced/src/program.rs"]
mod program;

/// Says to this test binary that it is the Rust program.
const ROLE: &str = "RING3_TEST_TRACED";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn object() -> PathBuf {
    root().join("examples/traced/bpf/traced.o")
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ring3-trace-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A program that runs until it is told to end.
struct Traced {
    child: Child,
    socket: PathBuf,
    /// Open, so that it may print.
    _stdout: BufReader<ChildStdout>,
}

impl Traced {
    /// Starts it and waits until its agent listens.
    fn start(mut command: Command, socket: PathBuf) -> Traced {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = stdout.by_ref().lines().map_while(Result::ok);
        // The test harness may say something first.
        assert!(
            lines.any(|line| line.ends_with("listening")),
            "{:?}",
            child.wait()
        );
        Traced {
            child,
            socket,
            _stdout: stdout,
        }
    }

    fn trace(&self, object: &Path, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ring3"))
            .arg("trace")
            .arg("--socket")
            .arg(&self.socket)
            .args(args)
            .arg(object)
            .output()
            .unwrap()
    }

    /// Ends its standard input; whether it was content.
    fn end(mut self) -> bool {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().success()
    }
}

/// Traces a program twice: each time its records are those of calls in a row, and it goes on.
fn check(traced: Traced, how: &str) {
    for _ in 0..2 {
        let output = traced.trace(&object(), &["--count", "5", "--format", "u64"]);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{how}: {stderr}");
        let attached: Vec<&str> = stderr.lines().collect();
        let expected = [
            "attached before trace_fentry handle_request",
            "attached after trace_fexit handle_request",
        ];
        assert_eq!(attached, expected, "{how}");
        let calls: Vec<[u64; 3]> = stdout
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                assert_eq!(words.next(), Some("requests"), "{how}: {line}");
                let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
                numbers.try_into().unwrap()
            })
            .collect();
        assert_eq!(calls.len(), 5, "{how}: {stdout}");
        for (call, nth) in calls.iter().zip(0..) {
            let [id, bytes, result] = *call;
            assert_eq!(id, calls[0][0] + nth, "{how}: {stdout}");
            assert_eq!(
                (bytes, result),
                (64 + id % 8, id * 1000 + bytes),
                "{how}: {stdout}"
            );
        }
    }
    let hex = traced.trace(&object(), &["-n1"]);
    let line = String::from_utf8_lossy(&hex.stdout).into_owned();
    assert_eq!(line.trim_end().split(' ').count(), 1 + 24, "{how}: {line}");
    // An object for functions that this program does not have.
    let other = root().join("fixtures/elf/typed/fentry.o");
    let refused = traced.trace(&other, &[]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{how}: {stderr}");
    assert!(stderr.contains("vfs_open"), "{how}: {stderr}");
    assert!(traced.end(), "{how}: the program went on as before");
}

#[test]
fn a_rust_program_is_traced() {
    if let Some(socket) = std::env::var_os(ROLE) {
        assert!(program::run(PathBuf::from(socket)).is_ok());
        return;
    }
    let socket = folder("rust").join("agent.sock");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_rust_program_is_traced", "--nocapture"])
        .env(ROLE, &socket);
    check(Traced::start(command, socket), "Rust");
}

#[test]
fn a_c_program_is_traced() {
    let folder = folder("c");
    let (socket, program) = (folder.join("agent.sock"), folder.join("traced"));
    // Built with this test, which depends on it.
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    assert!(
        deps.join("libring3_preload.so").is_file(),
        "{}",
        deps.display()
    );
    let compiled = Command::new("gcc")
        .args(["-O2", "-Wall", "-Werror", "-fpatchable-function-entry=5"])
        .arg("-I")
        .arg(root().join("crates/preload/include"))
        .arg(root().join("examples/traced/c/traced.c"))
        .arg("-L")
        .arg(&deps)
        .arg(format!("-Wl,-rpath,{}", deps.display()))
        .arg("-lring3_preload")
        .arg("-o")
        .arg(&program)
        .output()
        .expect("the test of a C program needs gcc");
    let stderr = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{stderr}");
    let mut command = Command::new(&program);
    command.arg(&socket);
    check(Traced::start(command, socket), "C");
}

#[test]
fn nobody_to_trace_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_ring3"))
        .args(["trace", "--socket", "/nowhere/agent.sock"])
        .arg(object())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/nowhere/agent.sock"), "{stderr}");
}
