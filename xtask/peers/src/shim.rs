//! `bench shim`: nanoseconds of one BPF_MAP_LOOKUP_ELEM and BPF_MAP_UPDATE_ELEM of a hash map by each way to bpf(2), beside the kernel's.
//!
//! In process is the shim with descriptors of its own; preload finds a memfd by its inode, as `ring3_bpf` and the interposer do; run-client is a
//! process under seccomp user notification, measured by itself: this program is its own daemon and client.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, ExitCode},
    time::{Duration, Instant},
};

use ring3::syscall_shim::{Caller, GuestMemory, Shim};
use ring3_os::Errno;
use ring3_supervisor::{ClientOptions, Daemon, DaemonOptions, Dirs, run_client};

use crate::{
    Outcome, kernel,
    report::{Report, Row},
};

/// Verbs of the processes that this program starts.
const DAEMON: &str = "shim-daemon";
const CLIENT: &str = "shim-client";
const LOOP: &str = "shim-loop";

/// Calls in a sample, and samples; the minimum counts.
const CALLS: u32 = 2000;
const SAMPLES: u32 = 50;
const COMMANDS: [(&str, u32); 2] = [("lookup", 1), ("update", 2)];
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// bpf(2) by one way.
trait Way {
    fn bpf(&mut self, cmd: u32, attr: &mut [u8]) -> i64;
}

/// Nanoseconds of a look-up and an update.
fn measure(way: &mut dyn Way) -> Result<[f64; 2], String> {
    let mut create = [0; 72];
    for (at, value) in [(0, 1u32), (4, 4), (8, 8), (12, 1024)] {
        create[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let fd = way.bpf(0, &mut create);
    if fd < 0 {
        return Err(format!("BPF_MAP_CREATE: {fd}"));
    }
    let (key, mut value) = (7u32, 42u64);
    let mut elem = [0; 32];
    elem[..4].copy_from_slice(&(fd as u32).to_ne_bytes());
    for (at, address) in [
        (8, (&raw const key).expose_provenance()),
        (16, (&raw mut value).expose_provenance()),
    ] {
        elem[at..at + 8].copy_from_slice(&(address as u64).to_ne_bytes());
    }
    if way.bpf(2, &mut elem) != 0 {
        return Err("BPF_MAP_UPDATE_ELEM failed".to_owned());
    }
    let mut best = [f64::INFINITY; 2];
    for _ in 0..SAMPLES {
        for (best, (name, cmd)) in best.iter_mut().zip(COMMANDS) {
            let begin = Instant::now();
            for _ in 0..CALLS {
                if way.bpf(cmd, &mut elem) != 0 {
                    return Err(format!("{name} failed"));
                }
            }
            *best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(CALLS));
        }
    }
    if value != 42 {
        return Err(format!("looked up {value}"));
    }
    Ok(best)
}

/// Addresses of this process.
struct Own;

impl GuestMemory for Own {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let from = std::ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: 1. `measure` names its own locals only, of the sizes of the map.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let to = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: 1. as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }
}

struct InProcess {
    shim: Shim,
    caller: Caller,
}

impl Way for InProcess {
    fn bpf(&mut self, cmd: u32, attr: &mut [u8]) -> i64 {
        match self.shim.bpf(&self.caller, cmd, attr, &mut Own) {
            Ok(value) => value,
            Err(errno) => -i64::from(errno.raw()),
        }
    }
}

struct Preload;

impl Way for Preload {
    fn bpf(&mut self, cmd: u32, attr: &mut [u8]) -> i64 {
        // SAFETY: 1. the attributes are ours; 2. `measure` names its own locals only.
        match unsafe { ring3_preload::bpf(cmd, attr.as_mut_ptr(), attr.len() as u32) } {
            Ok(value) => value,
            Err(errno) => -i64::from(errno.raw()),
        }
    }
}

/// The system call: the kernel's answer, or the daemon's.
struct Call;

impl Way for Call {
    fn bpf(&mut self, cmd: u32, attr: &mut [u8]) -> i64 {
        // SAFETY: 1. the attributes are ours; 2. `measure` names its own locals only.
        unsafe { libc::syscall(libc::SYS_bpf, cmd, attr.as_mut_ptr(), attr.len()) }
    }
}

/// Runs the bench.
pub(crate) fn bench() -> Outcome<Report> {
    let mut report = Report::default();
    let kernel_ns = measure(&mut Call);
    let in_process = measure(&mut InProcess {
        shim: Shim::new(ring3::system()),
        caller: Caller::new(),
    })?;
    let preload = measure(&mut Preload)?;
    let mut ways = vec![("in process", in_process), ("preload", preload)];
    match run_client_ns() {
        Ok(ns) => ways.push(("run-client", ns)),
        Err(error) => report.note(format!("run-client is not measured: {error}")),
    }
    if let Err(error) = &kernel_ns {
        report.note(format!("the kernel is not measured: {error}"));
    }
    let reference = kernel_ns.unwrap_or([f64::NAN; 2]);
    for (way, ours) in ways {
        for (((name, _), ours_ns), reference_ns) in COMMANDS.iter().zip(ours).zip(reference) {
            report.rows.push(Row {
                name: format!("{name}, {way}"),
                ours_ns,
                reference: kernel::name(),
                reference_ns,
                per: "call",
            });
        }
    }
    Ok(report)
}

/// Ends with what uses it.
struct Started(Child, PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all(&self.1);
    }
}

fn run_client_ns() -> Result<[f64; 2], String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let dir = env::temp_dir().join(format!("ring3-bench-{}", std::process::id()));
    let start = |verb: &str| {
        let mut command = Command::new(&own);
        command.arg(verb).arg(&dir);
        command
    };
    let daemon = start(DAEMON).spawn().map_err(|error| error.to_string())?;
    let started = Started(daemon, dir.clone());
    let begin = Instant::now();
    while !Dirs::at(&dir).socket().exists() {
        if begin.elapsed() > START_TIMEOUT {
            return Err("the daemon has no socket".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = start(CLIENT).output().map_err(|error| error.to_string())?;
    drop(started);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
    numbers
        .try_into()
        .map_err(|_| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The processes that this program starts; `None` if it is not one of them.
pub(crate) fn child() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    let verb = args.next()?.into_string().ok()?;
    let dir = args.next().unwrap_or_default();
    let error = match verb.as_str() {
        DAEMON => Daemon::new(DaemonOptions::new(Dirs::at(dir)))
            .and_then(Daemon::run)
            .err()?
            .to_string(),
        CLIENT => {
            let options = ClientOptions {
                dirs: Dirs::at(dir),
                start_daemon: None,
                is_unprivileged: false,
                keeps_user: false,
            };
            let own = env::current_exe().ok()?.into_os_string();
            run_client(&options, &own, &[LOOP.into()]).to_string()
        }
        LOOP => match measure(&mut Call) {
            Ok([lookup, update]) => {
                println!("{lookup} {update}");
                return Some(ExitCode::SUCCESS);
            }
            Err(error) => error,
        },
        _ => return None,
    };
    eprintln!("{error}");
    Some(ExitCode::from(2))
}
