//! The agent's side: one thread that listens, one for each client, and one that waits for the client's end.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ring3_maps::{Map, RingBuf};
use ring3_objects::{Error, LinkObject, LoadOptions, LoadedObject, Object, Program};
use ring3_trampoline::HostFunction;
use ring3_uapi::{AttachType, Errno, ProgType};

use super::{ATTACHED, ERROR, GOING, OBJECT, RECORD, receive, send};
use crate::{Tracing, tracepoint::is_tracepoint_program};

/// How long a record may lie in its ring before it is sent.
const EVERY: Duration = Duration::from_millis(2);

/// A socket where clients are served, as long as this lives.
#[derive(Debug)]
pub struct Agent {
    path: PathBuf,
    is_over: Arc<AtomicBool>,
}

impl Agent {
    /// Listens at `path`, which only this user may connect to; whatever is there is removed if nobody listens to it.
    ///
    /// # Errors
    /// The socket's. AddrInUse: somebody listens there.
    pub fn start(tracing: &Arc<Tracing>, path: &Path) -> io::Result<Agent> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let agent = Agent {
            path: path.to_owned(),
            is_over: Arc::default(),
        };
        let (tracing, is_over) = (Arc::clone(tracing), Arc::clone(&agent.is_over));
        std::thread::Builder::new()
            .name("ring3-agent".to_owned())
            .spawn(move || listen(&listener, &tracing, &is_over))?;
        Ok(agent)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes the thread that listens.
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(listener: &UnixListener, tracing: &Arc<Tracing>, is_over: &AtomicBool) {
    // A client that goes must not take the program with it; threads made here inherit this.
    ring3_os::pipe::ignore_closed_pipes_in_this_thread();
    for stream in listener.incoming() {
        if is_over.load(Ordering::Acquire) {
            return;
        }
        let (Ok(stream), tracing) = (stream, Arc::clone(tracing)) else {
            continue;
        };
        // A host without threads to give has no time for tracing either.
        let _ = std::thread::Builder::new()
            .name("ring3-traced".to_owned())
            .spawn(move || {
                // Whatever ends the conversation, the client sees its end.
                let _ = serve(stream, &tracing);
            });
    }
}

fn serve(mut stream: UnixStream, tracing: &Tracing) -> io::Result<()> {
    let Some((OBJECT, bytes)) = receive(&mut stream)? else {
        return send(&mut stream, ERROR, &[b"expected an object file"]);
    };
    let traced = match attach(tracing, &bytes) {
        Ok(traced) => traced,
        Err(error) => return send(&mut stream, ERROR, &[error.to_string().as_bytes()]),
    };
    for link in &traced.links {
        let place = traced.describe(tracing, link);
        send(&mut stream, ATTACHED, &[place.as_bytes()])?;
    }
    send(&mut stream, GOING, &[])?;
    let is_gone = Arc::new(AtomicBool::new(false));
    let mut waiting = (stream.try_clone()?, Arc::clone(&is_gone));
    std::thread::Builder::new().spawn(move || {
        // The client has nothing more to say: this returns when it is gone.
        let _ = receive(&mut waiting.0);
        waiting.1.store(true, Ordering::Release);
    })?;
    while !is_gone.load(Ordering::Acquire) {
        if traced.forward(&mut stream)? == 0 {
            std::thread::sleep(EVERY);
        }
    }
    Ok(())
}

/// An object at work. The links go first.
struct Traced {
    links: Vec<Arc<LinkObject>>,
    loaded: LoadedObject,
}

/// All or nothing.
fn attach(tracing: &Tracing, bytes: &[u8]) -> Result<Traced, Error> {
    let object = Object::parse(bytes, "trace")?;
    for prog in &object.spec().progs {
        let attach_type = AttachType::from_raw(prog.expected_attach_type);
        let is_function = matches!(
            attach_type,
            Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn)
        );
        if let (ProgType::Tracing, true, Some(name)) =
            (prog.prog_type, is_function, prog.attach_to.as_deref())
            && !tracing.offers(name)
        {
            let function = HostFunction::in_executable(name)
                .map_err(|error| Error::new(error.errno(), error.to_string()))?;
            match tracing.offer([function]) {
                // Another client was quicker.
                Err(error) if error.errno == Errno::EEXIST => {}
                other => other?,
            }
        }
    }
    let loaded = object
        .load_in(tracing.system(), &LoadOptions::default())
        .map_err(|error| {
            let text = format!("{error}\n{}", error.log);
            Error::new(error.error.errno, text.trim_end())
        })?;
    let mut links = Vec::new();
    for (name, prog) in loaded.programs() {
        let spec = object.spec().progs.iter().find(|spec| spec.name == name);
        let target = spec.and_then(|spec| spec.attach_to.as_deref());
        links.push(link(tracing, prog, target)?);
    }
    Ok(Traced { links, loaded })
}

fn link(
    tracing: &Tracing,
    prog: &Arc<Program>,
    target: Option<&str>,
) -> Result<Arc<LinkObject>, Error> {
    match prog.prog_type() {
        ProgType::RawTracepoint => tracing.link_tracepoint(prog, target, 0),
        ProgType::Tracing if is_tracepoint_program(prog) => tracing.link_tracepoint(prog, None, 0),
        ProgType::Tracing => tracing.link(prog, 0),
        other => Err(Error::new(
            Errno::EINVAL,
            format!(
                "program '{}': of type {other}, which traces nothing",
                prog.name()
            ),
        )),
    }
}

impl Traced {
    fn describe(&self, tracing: &Tracing, link: &LinkObject) -> String {
        let prog = link.program();
        let btf = tracing.system().kernel_btf();
        let function = prog.attr().attach_btf_id;
        let name = btf.as_ref().map_or("", |btf| btf.name(function));
        let how = AttachType::from_raw(prog.attr().expected_attach_type)
            .filter(|_| prog.prog_type() == ProgType::Tracing)
            .map_or("raw_tracepoint", AttachType::name);
        format!("{} {how} {name}", prog.name())
            .trim_end()
            .to_owned()
    }

    /// Sends what is in the rings; the number of records.
    fn forward(&self, stream: &mut UnixStream) -> io::Result<usize> {
        let mut sent = 0;
        for (name, map) in self.loaded.maps() {
            let map: &Arc<Map> = map.map();
            let Some(ring) = map.downcast::<RingBuf>() else {
                continue;
            };
            let mut result = Ok(());
            sent += ring.consume(|data| {
                if result.is_ok() {
                    result = send(stream, RECORD, &[name.as_bytes(), b"\0", data]);
                }
            });
            result?;
        }
        Ok(sent)
    }
}
