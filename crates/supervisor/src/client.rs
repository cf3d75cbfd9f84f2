//! `run_client`: this process becomes a client.

use std::{
    ffi::{CString, OsString},
    fs::{self, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ring3_os::{
    process::{Leave, bind_mount, keep_mounts_private, leave_namespaces},
    seccomp::Filter,
};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::{Dirs, calls, dirs::own_uid, wire};

/// Where clients expect pins.
pub(crate) const BPFFS_PATH: &str = "/sys/fs/bpf";
/// How long a daemon that was just started may take.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How a client is started.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Whose daemon.
    pub dirs: Dirs,
    /// What starts a daemon if none runs; `None`: one must run.
    pub start_daemon: Option<StartDaemon>,
    /// bpf(2) answers as to a user without capabilities.
    pub is_unprivileged: bool,
    /// The client sees its own user number instead of root's.
    pub keeps_user: bool,
}

/// A command that starts a daemon.
#[derive(Clone, Debug)]
pub struct StartDaemon {
    /// Program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Starts a program in place of this one, as a client of a daemon. Returns only if that failed. The process must have one thread.
///
/// # Errors
/// No daemon, no permission for a filter, or no such program; the message says which.
pub fn run_client(options: &ClientOptions, program: &OsString, args: &[OsString]) -> io::Error {
    match start(options, program, args) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

enum Never {}

fn to_io(errno: ring3_uapi::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw())
}

fn start(options: &ClientOptions, program: &OsString, args: &[OsString]) -> io::Result<Never> {
    let stream = connect_or_start(&options.dirs, options.start_daemon.as_ref())?;
    let privilege = if options.is_unprivileged {
        "unprivileged"
    } else {
        "full"
    };
    let pins = wire::ask(&stream, &format!("{} {privilege}", wire::RUN), None)?;
    let mount = mount_pins(Path::new(&pins), options.keeps_user);
    if let Err(error) = &mount {
        eprintln!("ring3: pins are not at {BPFFS_PATH}, only at {pins}: {error}");
    }
    let mount_id = mount.unwrap_or(0);
    let filter = Filter::new(calls::RULES).map_err(to_io)?;
    let listener = filter.install().map_err(|errno| {
        io::Error::other(format!(
            "seccomp user notification is not permitted: {errno}"
        ))
    })?;
    wire::ask(
        &stream,
        &format!("{} {mount_id}", wire::LISTEN),
        Some(listener.as_fd()),
    )?;
    drop((stream, listener));
    let error = Command::new(program).args(args).exec();
    Err(io::Error::new(
        error.kind(),
        format!("{}: {error}", program.display()),
    ))
}

/// A connection to the user's daemon, which is started if none runs.
///
/// # Errors
/// None runs and none may be started, or it ends at once.
pub(crate) fn connect_or_start(dirs: &Dirs, start: Option<&StartDaemon>) -> io::Result<UnixStream> {
    let socket = dirs.socket();
    let failed = match UnixStream::connect(&socket) {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let Some(start) = start else {
        return Err(io::Error::new(
            failed.kind(),
            format!("{}: {failed}; is `ring3 daemon` running?", socket.display()),
        ));
    };
    dirs.create()?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dirs.log())?;
    // A process group of its own: keys that end the client do not end the daemon.
    let mut daemon = Command::new(&start.program)
        .args(&start.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    let begin = Instant::now();
    loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > START_TIMEOUT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        // One that lost a race for the socket has ended; the winner answers.
        if let Ok(Some(status)) = daemon.try_wait()
            && !status.success()
        {
            return UnixStream::connect(&socket).map_err(|_| {
                let log = dirs.log();
                io::Error::other(format!(
                    "the daemon ended with {status}, see {}",
                    log.display()
                ))
            });
        }
    }
}

/// Shows the pins at their usual place to this process and what it starts; the number of the mount.
fn mount_pins(pins: &Path, keeps_user: bool) -> io::Result<u64> {
    let (uid, gid) = (own_uid(), rustix::process::getegid().as_raw());
    if leave_namespaces(Leave::Mounts).is_err() {
        leave_namespaces(Leave::UsersAndMounts).map_err(|errno| {
            io::Error::other(format!("namespaces for users are not permitted: {errno}"))
        })?;
        let (inner_uid, inner_gid) = if keeps_user { (uid, gid) } else { (0, 0) };
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{inner_uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{inner_gid} {gid} 1"))?;
    }
    keep_mounts_private().map_err(to_io)?;
    let from = CString::new(pins.as_os_str().as_bytes())?;
    let to = CString::new(BPFFS_PATH)?;
    bind_mount(&from, &to).map_err(to_io)?;
    let stat = statx(CWD, BPFFS_PATH, AtFlags::empty(), StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}
