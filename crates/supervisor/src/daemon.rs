//! `Daemon`: owns the objects of one user and serves whoever connects to its socket.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ring3::{AuditEvent, LoadOptions, System, btf::Btf, net::Script};
use ring3_os::seccomp::Listener;
use ring3_spec::Privilege;
use ring3_syscall_shim::{ObjectFiles, Shim};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FlockOperation, flock},
    net::{SendFlags, send, sockopt::socket_peercred},
    time::Timespec,
};

use crate::{
    Dirs, console,
    dirs::own_uid,
    guest::TaskFiles,
    mappings::Mappings,
    netlink::Sockets,
    pins::Pins,
    session::{Limits, Session},
    wire,
};

/// How often closed files are looked for without an event.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a connection may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a daemon is told.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Where it is found.
    pub dirs: Dirs,
    /// A file that audit events are appended to.
    pub audit_log: Option<PathBuf>,
    /// BTF of the kernel, instead of the host's.
    pub kernel_btf: Option<PathBuf>,
    /// Devices that XDP and tcx programs can be attached to, by name.
    pub devices: Vec<String>,
    /// Open objects of one client.
    pub files_max: usize,
    /// Bytes of maps of one client.
    pub map_bytes_max: u64,
}

impl DaemonOptions {
    /// The user's daemon, with the usual limits.
    pub fn new(dirs: Dirs) -> DaemonOptions {
        DaemonOptions {
            dirs,
            audit_log: None,
            kernel_btf: None,
            devices: Vec::new(),
            files_max: 16 << 10,
            map_bytes_max: 4 << 30,
        }
    }
}

/// What sessions share.
pub(crate) struct Shared {
    pub(crate) shim: Shim,
    pub(crate) files: ObjectFiles,
    pub(crate) pins: Pins,
    pub(crate) mappings: Mappings,
    pub(crate) pins_path: PathBuf,
    /// Served instead of the host's.
    pub(crate) kernel_btf: Option<Vec<u8>>,
}

/// A daemon that has its socket and serves nobody yet.
pub struct Daemon {
    options: DaemonOptions,
    socket: UnixListener,
    shared: Arc<Shared>,
    monitors: Arc<Monitors>,
    /// Lines over the devices that clients attach to.
    console: Mutex<Script>,
    sessions: AtomicUsize,
    served: AtomicU64,
    /// Locked as long as the daemon lives, so that there is one.
    lock: File,
}

/// Who hears audit events.
#[derive(Default)]
struct Monitors {
    streams: Mutex<Vec<UnixStream>>,
    log: Option<Mutex<File>>,
}

impl Monitors {
    fn tell(&self, event: &AuditEvent) {
        let line = format!("{event}\n");
        if let Some(log) = &self.log {
            // A full disk loses events, not programs.
            let _ = log.lock().write_all(line.as_bytes());
        }
        // One that does not read, or is gone, is left out.
        self.streams.lock().retain(|stream| {
            let sent = send(stream, line.as_bytes(), SendFlags::NOSIGNAL);
            sent == Ok(line.len())
        });
    }
}

impl Daemon {
    /// Takes the socket and empties the folder of pins.
    ///
    /// # Errors
    /// Another daemon runs there, or the folder cannot be used.
    pub fn new(options: DaemonOptions) -> io::Result<Daemon> {
        options.dirs.create()?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(options.dirs.root().join("daemon.lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("a daemon runs in {}", options.dirs.root().display()),
            )
        })?;
        let pins_path = options.dirs.pins();
        let pins = Pins::new(&pins_path)?;
        let system = ring3::system();
        let kernel_btf = match &options.kernel_btf {
            Some(path) => Some(set_kernel_btf(&system, path)?),
            None => None,
        };
        let log = match &options.audit_log {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
            None => None,
        };
        let monitors = Arc::new(Monitors {
            streams: Mutex::default(),
            log: log.map(Mutex::new),
        });
        let teller = Arc::downgrade(&monitors);
        system.subscribe_audit(move |event| {
            if let Some(monitors) = teller.upgrade() {
                monitors.tell(event);
            }
        });
        let shim = Shim::new(system);
        for name in &options.devices {
            shim.net()
                .add_device(name)
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        let files = ObjectFiles::new().map_err(|errno| {
            io::Error::other(format!("no inotify instance for object files: {errno}"))
        })?;
        let console = Script::over(shim.net(), &LoadOptions::default(), options.dirs.root());
        let socket = listen(&options.dirs)?;
        Ok(Daemon {
            options,
            socket,
            shared: Arc::new(Shared {
                shim,
                files,
                pins,
                mappings: Mappings::default(),
                pins_path,
                kernel_btf,
            }),
            monitors,
            console: Mutex::new(console),
            sessions: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            lock,
        })
    }

    /// The system whose objects it owns.
    pub fn system(&self) -> &Arc<System> {
        self.shared.shim.system()
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn run(self) -> io::Result<()> {
        let daemon = Arc::new(self);
        let shared = Arc::downgrade(&daemon.shared);
        thread::Builder::new()
            .name("ring3-reaper".to_owned())
            .spawn(move || reap(&shared))?;
        loop {
            let (stream, _) = daemon.socket.accept()?;
            let own = Arc::clone(&daemon);
            // A connection that finds no thread is closed: its other side hears of it.
            let _ = thread::Builder::new()
                .name("ring3-client".to_owned())
                .spawn(move || own.serve(stream));
        }
    }

    fn serve(&self, stream: UnixStream) {
        let result = self
            .check_user(&stream)
            .and_then(|()| self.request(&stream));
        if let Err(error) = result {
            let text = error.to_string().replace('\n', " ");
            // The other side may be gone, which may be the error.
            let _ = wire::send(&stream, &format!("{} {text}", wire::ERROR), None);
        }
    }

    /// The socket's folder keeps others out; this does as well.
    fn check_user(&self, stream: &UnixStream) -> io::Result<()> {
        let peer = socket_peercred(stream)?.uid.as_raw();
        if peer != own_uid() && peer != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("user {peer} is not the daemon's"),
            ));
        }
        Ok(())
    }

    fn request(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        let Some((line, _)) = wire::receive(stream)? else {
            return Ok(());
        };
        if let Some(request) = line.strip_prefix(wire::CONSOLE) {
            return console::serve(&self.console, stream, request);
        }
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            wire::RUN => self.run_session(stream, argument),
            wire::MONITOR => {
                wire::send(stream, wire::OK, None)?;
                let stream = stream.try_clone()?;
                stream.set_nonblocking(true)?;
                self.monitors.streams.lock().push(stream);
                Ok(())
            }
            wire::STATUS => wire::send(stream, &format!("{} {}", wire::OK, self.status()), None),
            wire::STOP => {
                // The socket goes first, then the lock, so that a client that comes now, or after the answer, starts another daemon.
                let _ = fs::remove_file(self.options.dirs.socket());
                let _ = flock(&self.lock, FlockOperation::Unlock);
                wire::send(stream, wire::OK, None)?;
                std::process::exit(0);
            }
            _ => Err(io::Error::other(format!("unknown request '{verb}'"))),
        }
    }

    fn status(&self) -> String {
        format!(
            "pid={} clients={} served={} files={} pins={}",
            std::process::id(),
            self.sessions.load(Ordering::Relaxed),
            self.served.load(Ordering::Relaxed),
            self.shared.files.len(),
            self.shared.pins.len(),
        )
    }

    fn run_session(&self, stream: &UnixStream, privilege: &str) -> io::Result<()> {
        let privilege = match privilege {
            "full" => Privilege::FULL,
            "unprivileged" => Privilege::NONE,
            _ => return Err(io::Error::other(format!("unknown privilege '{privilege}'"))),
        };
        let pins = self.shared.pins_path.display();
        wire::send(stream, &format!("{} {pins}", wire::OK), None)?;
        let Some((line, fd)) = wire::receive(stream)? else {
            return Ok(());
        };
        let mount_id = line
            .strip_prefix(wire::LISTEN)
            .and_then(|rest| rest.trim().parse().ok())
            .ok_or_else(|| io::Error::other("a listener was expected"))?;
        let listener = fd.ok_or_else(|| io::Error::other("no listener came with the request"))?;
        let session = Arc::new(Session {
            daemon: Arc::clone(&self.shared),
            privilege,
            limits: Limits {
                files_max: self.options.files_max,
                map_bytes_max: self.options.map_bytes_max,
            },
            mount_id,
            task_files: TaskFiles::default(),
            netlink: Sockets::default(),
            open_files: AtomicUsize::new(0),
            map_bytes: AtomicU64::new(0),
        });
        wire::send(stream, wire::OK, None)?;
        self.sessions.fetch_add(1, Ordering::Relaxed);
        session.serve(&Arc::new(Listener::from(listener)));
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A socket that appears when it listens, in the place of one that an earlier daemon left.
fn listen(dirs: &Dirs) -> io::Result<UnixListener> {
    let new = dirs.root().join("daemon.sock.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, dirs.socket())?;
    Ok(socket)
}

fn set_kernel_btf(system: &System, path: &PathBuf) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let btf = Btf::parse(&bytes)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    system.set_kernel_btf(btf);
    Ok(bytes)
}

/// Lets go of objects that no client and no pin holds any more.
fn reap(shared: &Weak<Shared>) {
    let interval = Timespec {
        tv_sec: SWEEP_INTERVAL.as_secs() as i64,
        tv_nsec: 0,
    };
    while let Some(shared) = shared.upgrade() {
        let mut ready = [
            PollFd::from_borrowed_fd(shared.files.closes(), PollFlags::IN),
            PollFd::from_borrowed_fd(shared.pins.removals(), PollFlags::IN),
        ];
        let is_timeout = poll(&mut ready, Some(&interval)) == Ok(0);
        shared.files.release_closed();
        shared.pins.release_unnamed();
        if is_timeout {
            shared.files.sweep();
        }
    }
}
