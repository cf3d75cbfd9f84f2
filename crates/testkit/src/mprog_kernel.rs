//! The running kernel as multi-program oracle: histories at the tcx ingress hook of `lo` in a network namespace of its own.
//!
//! [`record`] starts this binary again below `unshare --net` and takes the histories from its output, so that no hook of the machine is
//! touched. Neighbour: `mprog_oracle`, the text of histories.

use std::{
    fmt::Write as _,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use ring3_os::{
    bpf::{self, Buffer},
    bpf_load::{ProgLoad, prog_load},
};
use ring3_uapi::{AttachType, Cmd, Errno, ProgType, flags::mprog as bits};

use crate::mprog_oracle::{
    Action, Generator, PROGS, Relative, Replace, Request, SLOTS, Seen, View,
};

/// Histories recorded.
const HISTORIES: u64 = 5000;
/// Histories in one file.
const PER_FILE: u64 = 1000;
/// Requests of a history.
const REQUESTS: usize = 10;
/// `lo` of a fresh network namespace.
const IFINDEX: u32 = 1;
/// More than can be attached here.
const QUERY_ROOM: u32 = 16;
/// Argument that says: this is the process inside the namespace.
pub const INSIDE: &str = "mprog-inside-namespace";

/// Records the histories below `folder`, and returns how many there are.
///
/// # Errors
/// Namespaces or tcx are not permitted here; files cannot be written.
pub fn record(folder: &Path) -> io::Result<usize> {
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(message));
    }
    let text = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    let histories: Vec<&str> = text.lines().collect();
    fs::create_dir_all(folder)?;
    let release = crate::kernel::release()?;
    for (index, chunk) in histories.chunks(PER_FILE as usize).enumerate() {
        let mut file =
            format!("# tcx of Linux {release}: histories of requests, see testkit::mprog_oracle\n");
        for history in chunk {
            let _ = writeln!(file, "{history}");
        }
        fs::write(folder.join(format!("tcx{index}.txt")), file)?;
    }
    Ok(histories.len())
}

/// The process inside the namespace: prints every history.
///
/// # Errors
/// A request that must work (loading, querying) does not.
pub fn run_inside() -> Result<(), Errno> {
    let mut out = String::new();
    for seed in 1..=HISTORIES {
        let mut hook = Hook::new()?;
        let mut generator = Generator::new(seed);
        let mut view = hook.view()?;
        let mut line = String::new();
        for at in 0..REQUESTS {
            let open = hook.links.each_ref().map(Option::is_some);
            let request = generator.request(&view, &open);
            let result = hook.apply(&request);
            let now = hook.view()?;
            if at > 0 {
                line.push_str("; ");
            }
            let _ = match (result, now == view) {
                (Ok(()), _) => write!(line, "{request} > 0 {now}"),
                (Err(errno), true) => write!(line, "{request} > {errno}"),
                (Err(errno), false) => write!(line, "{request} > {errno} {now}"),
            };
            view = now;
        }
        let _ = writeln!(out, "{line}");
        hook.clear()?;
    }
    print!("{out}");
    Ok(())
}

struct Attr(Vec<u8>);

impl Attr {
    fn new(words: &[u32]) -> Attr {
        Attr(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    fn call(mut self, cmd: Cmd) -> Result<(), Errno> {
        bpf::call(cmd.raw(), &mut self.0, &mut []).map(|_| ())
    }
}

struct Object {
    fd: OwnedFd,
    id: u32,
}

impl Object {
    fn of(fd: OwnedFd) -> Result<Object, Errno> {
        let mut info = [0u8; 16];
        let len = info.len() as u32;
        let mut attr = Attr::new(&[fd.as_raw_fd() as u32, len, 0, 0]);
        let buffer = Buffer {
            attr_offset: 8,
            bytes: &mut info,
        };
        bpf::call(Cmd::ObjGetInfoByFd.raw(), &mut attr.0, &mut [buffer])?;
        let id = u32::from_ne_bytes(std::array::from_fn(|i| info[4 + i]));
        Ok(Object { fd, id })
    }

    fn raw(&self) -> u32 {
        self.fd.as_fd().as_raw_fd() as u32
    }
}

fn load(prog_type: ProgType) -> Result<Object, Errno> {
    // r0 = 2; exit
    let insns = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let prog = ProgLoad {
        prog_type: prog_type.raw(),
        insns: &insns,
        license: "GPL",
        name: "mprog",
        ..ProgLoad::default()
    };
    Object::of(prog_load(&prog, 0).0?)
}

struct Hook {
    progs: Vec<Object>,
    other: Object,
    links: [Option<Object>; SLOTS as usize],
}

impl Hook {
    fn new() -> Result<Hook, Errno> {
        Ok(Hook {
            progs: (0..PROGS)
                .map(|_| load(ProgType::SchedCls))
                .collect::<Result<_, _>>()?,
            other: load(ProgType::Xdp)?,
            links: [const { None }; SLOTS as usize],
        })
    }

    fn prog(&self, prog: u8) -> &Object {
        &self.progs[usize::from(prog)]
    }

    fn link(&self, slot: u8) -> &Object {
        self.links[usize::from(slot)]
            .as_ref()
            .expect("requests name links that exist")
    }

    /// `relative_fd` with its flags.
    fn relative(&self, relative: Relative) -> (u32, u32) {
        const NO_FD: u32 = 9999;
        const NO_ID: u32 = 0x7fff_fff0;
        match relative {
            Relative::None => (0, 0),
            Relative::ProgFd(prog) => (self.prog(prog).raw(), 0),
            Relative::ProgId(prog) => (self.prog(prog).id, bits::ID),
            Relative::LinkFd(slot) => (self.link(slot).raw(), bits::LINK),
            Relative::LinkId(slot) => (self.link(slot).id, bits::LINK | bits::ID),
            Relative::OtherTypeFd => (self.other.raw(), 0),
            Relative::OtherTypeId => (self.other.id, bits::ID),
            Relative::BadFd => (NO_FD, 0),
            Relative::BadProgId => (NO_ID, bits::ID),
            Relative::BadLinkId => (NO_ID, bits::ID | bits::LINK),
            Relative::LinkWithoutFd => (NO_FD, bits::LINK),
            Relative::ProgFdAsLink(prog) => (self.prog(prog).raw(), bits::LINK),
            Relative::LinkFdAsProg(slot) => (self.link(slot).raw(), 0),
        }
    }

    fn replace(&self, replace: Replace) -> (u32, u32) {
        match replace {
            Replace::None => (0, 0),
            Replace::Prog(prog) => (self.prog(prog).raw(), bits::REPLACE),
            Replace::FlagOnly => (0, bits::REPLACE),
            Replace::OtherType => (self.other.raw(), bits::REPLACE),
            Replace::FdOnly(prog) => (self.prog(prog).raw(), 0),
        }
    }

    fn apply(&mut self, request: &Request) -> Result<(), Errno> {
        let (relative, relative_flags) = self.relative(request.relative);
        let (replace, replace_flags) = self.replace(request.replace);
        let mut flags = relative_flags | replace_flags | request.raw_flags;
        for (is_set, bit) in [(request.before, bits::BEFORE), (request.after, bits::AFTER)] {
            flags |= if is_set { bit } else { 0 };
        }
        let hook = AttachType::TcxIngress.raw();
        let (low, high) = (request.revision as u32, (request.revision >> 32) as u32);
        let at_hook =
            |prog: u32| Attr::new(&[IFINDEX, prog, hook, flags, replace, relative, low, high]);
        match request.action {
            Action::Attach { prog } => at_hook(self.prog(prog).raw()).call(Cmd::ProgAttach),
            Action::Detach { prog } => {
                let fd = prog.map_or(0, |prog| self.prog(prog).raw());
                at_hook(fd).call(Cmd::ProgDetach)
            }
            Action::LinkCreate { slot, prog } => {
                let prog = self.prog(prog).raw();
                let mut attr = Attr::new(&[prog, IFINDEX, hook, flags, relative, 0, low, high]);
                let link = bpf::open(Cmd::LinkCreate.raw(), &mut attr.0, &mut [])?;
                self.links[usize::from(slot)] = Some(Object::of(link)?);
                Ok(())
            }
            Action::LinkUpdate { slot, prog, old } => {
                let (old, flags) = match old {
                    Some(old) => (self.prog(old).raw(), bits::REPLACE),
                    None => (0, 0),
                };
                Attr::new(&[self.link(slot).raw(), self.prog(prog).raw(), flags, old])
                    .call(Cmd::LinkUpdate)
            }
            Action::LinkDetach { slot } => {
                Attr::new(&[self.link(slot).raw()]).call(Cmd::LinkDetach)
            }
            Action::LinkClose { slot } => {
                self.links[usize::from(slot)] = None;
                Ok(())
            }
            Action::Query { room } => query(room.unwrap_or(0), room.is_some())
                .1
                .map_or(Ok(()), Err),
        }
    }

    fn view(&self) -> Result<View, Errno> {
        let ((entries, _, revision), error) = query(QUERY_ROOM, true);
        if let Some(errno) = error {
            return Err(errno);
        }
        let position = |ids: &[u32], id: u32| ids.iter().position(|&known| known == id);
        let progs: Vec<u32> = self.progs.iter().map(|prog| prog.id).collect();
        let links: Vec<u32> = self
            .links
            .iter()
            .map(|link| link.as_ref().map_or(0, |link| link.id))
            .collect();
        let order: Vec<Seen> = entries
            .iter()
            .map(|&(prog, link)| {
                let prog = position(&progs, prog).expect("only our programs are attached");
                let slot = (link != 0)
                    .then(|| position(&links, link).expect("only our links are attached") as u8);
                (prog as u8, slot)
            })
            .collect();
        Ok(View { order, revision })
    }

    fn clear(&mut self) -> Result<(), Errno> {
        self.links = [const { None }; SLOTS as usize];
        for (prog, _) in self.view()?.order {
            self.apply(&Request::of(Action::Detach { prog: Some(prog) }))?;
        }
        Ok(())
    }
}

/// Program and link ids, count and revision; and the errno, which a short query has beside them.
type Answer = ((Vec<(u32, u32)>, u32, u64), Option<Errno>);

fn query(room: u32, with_ids: bool) -> Answer {
    let mut attr = Attr::new(&[0; 16]);
    attr.0[..4].copy_from_slice(&IFINDEX.to_ne_bytes());
    attr.0[4..8].copy_from_slice(&AttachType::TcxIngress.raw().to_ne_bytes());
    attr.0[24..28].copy_from_slice(&room.to_ne_bytes());
    let mut progs = vec![0u8; room as usize * 4];
    let mut links = vec![0u8; room as usize * 4];
    let mut buffers = Vec::new();
    if with_ids && room > 0 {
        for (attr_offset, bytes) in [(16, &mut progs), (40, &mut links)] {
            buffers.push(Buffer { attr_offset, bytes });
        }
    }
    let result = bpf::call(Cmd::ProgQuery.raw(), &mut attr.0, &mut buffers);
    let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let count = word(&attr.0, 24);
    let revision = u64::from(word(&attr.0, 56)) | u64::from(word(&attr.0, 60)) << 32;
    let entries = (0..count.min(room) as usize)
        .map(|at| (word(&progs, at * 4), word(&links, at * 4)))
        .collect();
    ((entries, count, revision), result.err())
}
