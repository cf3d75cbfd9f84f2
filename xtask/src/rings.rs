//! `cargo xtask rings [--record]`: libbpf's consumer and producer of ring buffers as a client of ring3.
//!
//! libbpf (a workspace of its own, `xtask/libbpf`) loads `fixtures/elf/maps/rings.o` under `ring3 run-client` and prints what it took from one ring and
//! what programs took from the other; that is compared with what it printed on a kernel, recorded in `fixtures/oracle/rings.txt`.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::process::{cargo, root, run as run_command};

/// How long the daemon may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let is_recording = match args {
        [] => false,
        [flag] if flag == "--record" => true,
        _ => return Err("usage: cargo xtask rings [--record]".to_owned()),
    };
    let client = crate::core::build_libbpf()?;
    let object = root().join("fixtures/elf/maps/rings.o");
    let record = root().join("fixtures/oracle/rings.txt");
    if is_recording {
        let mut command = Command::new(&client);
        let text = output(command.arg("rings").arg(&object))?;
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let text = format!("# Linux {}\n{text}", release.trim());
        fs::write(&record, text).map_err(|error| format!("{}: {error}", record.display()))?;
        println!("wrote {}", record.display());
        return Ok(());
    }
    run_command(&mut cargo(&["build", "--quiet", "--package", "ring3-cli"]))?;
    let daemon = Daemon::start()?;
    let mut command = daemon.ring3(&["run-client", "--no-start", "--"]);
    let ours = output(command.arg(&client).arg("rings").arg(&object))?;
    drop(daemon);
    let known = fs::read_to_string(&record)
        .map_err(|error| format!("{}: {error}; record it first", record.display()))?;
    let known: Vec<&str> = known
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let lines: Vec<&str> = ours.lines().collect();
    let different = known.iter().zip(&lines).find(|(known, ours)| known != ours);
    match different {
        Some((known, ours)) => Err(format!("the kernel: {known}\nours:       {ours}")),
        None if known.len() == lines.len() => {
            println!("{} lines as on the kernel", known.len());
            Ok(())
        }
        None => Err(format!(
            "{} lines, the kernel had {}",
            lines.len(),
            known.len()
        )),
    }
}

/// A daemon of this run; ended when dropped.
struct Daemon {
    folder: PathBuf,
    process: Option<Child>,
}

impl Daemon {
    fn start() -> Result<Daemon, String> {
        let folder = std::env::temp_dir().join(format!("ring3-rings-{}", std::process::id()));
        let mut daemon = Daemon {
            folder,
            process: None,
        };
        let process = daemon.ring3(&["daemon"]).spawn();
        daemon.process = Some(process.map_err(|error| format!("ring3 daemon: {error}"))?);
        let begin = Instant::now();
        while !daemon.folder.join("daemon.sock").exists() {
            if begin.elapsed() > PATIENCE {
                return Err("the daemon has no socket".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// The command line program, with this daemon.
    fn ring3(&self, args: &[&str]) -> Command {
        let mut command = Command::new(root().join("target/debug/ring3"));
        command.args(args).env("RING3_RUNTIME_DIR", &self.folder);
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended on its own.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a command that succeeds prints.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{stderr}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
