//! A daemon of a test's own, and clients against it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const RING3: &str = env!("CARGO_BIN_EXE_ring3");

/// How long a client may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon of a test's own, and its folder.
pub(crate) struct Rig {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// The daemon.
    pub(crate) daemon: Child,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Rig {
    /// A daemon that listens, in a folder of this name.
    pub(crate) fn new(name: &str) -> Rig {
        Rig::with_args(name, &[])
    }

    /// The same with arguments of the daemon.
    pub(crate) fn with_args(name: &str, args: &[&str]) -> Rig {
        let dir = std::env::temp_dir().join(format!("ring3-{name}-{}", std::process::id()));
        let daemon = command(&dir, &[&["daemon"], args].concat())
            .spawn()
            .unwrap();
        let rig = Rig { dir, daemon };
        let begin = Instant::now();
        while !rig.dir.join("daemon.sock").exists() {
            assert!(begin.elapsed() < TIMEOUT, "the daemon has no socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        rig
    }

    /// Starts a client with its steps.
    pub(crate) fn start(&self, client: &Path, steps: &[&str]) -> Child {
        let client = client.to_str().unwrap();
        let args = [&["run-client", "--no-start", "--", client], steps].concat();
        command(&self.dir, &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What a client's steps print; it must succeed.
    pub(crate) fn run(&self, client: &Path, steps: &[&str]) -> String {
        let output = self.start(client, steps).wait_with_output().unwrap();
        assert!(output.status.success(), "{steps:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a verb of `ring3` prints; it must succeed.
    pub(crate) fn verb(&self, args: &[&str]) -> String {
        let output = command(&self.dir, args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The daemon's status line.
    pub(crate) fn status(&self) -> String {
        let output = command(&self.dir, &["daemon", "--status"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the daemon's status has a word.
    pub(crate) fn wait_for(&self, word: &str) {
        let begin = Instant::now();
        while !self.status().split_whitespace().any(|known| known == word) {
            assert!(begin.elapsed() < TIMEOUT, "{word}: {}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `ring3` with a folder of its own.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(RING3);
    command.args(args).env("RING3_RUNTIME_DIR", dir);
    command
}

/// Whether clients can run here, or why not.
pub(crate) fn can_run() -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("ring3-probe-{}", std::process::id()));
    let output = command(&dir, &["run-client", "--", "true"])
        .output()
        .map_err(|error| error.to_string())?;
    let stopped = command(&dir, &["daemon", "--stop"]).output();
    let _ = fs::remove_dir_all(&dir);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && stderr.is_empty() {
        stopped.map(drop).map_err(|error| error.to_string())
    } else {
        Err(stderr)
    }
}
