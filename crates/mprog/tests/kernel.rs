//! The recorded histories of the running kernel's tcx, replayed: every errno, order and revision.

#[path = "../../testkit/src/mprog_oracle/mod.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "shared with the recorder, which generates histories"
)]
mod oracle;

use std::{fs, path::Path};

use oracle::{Action, Relative, Replace, Request, SLOTS, View};
use ring3_mprog::{Anchor, Entry, Lookup, Mprog, Pending, Query};
use ring3_uapi::{Errno, flags::mprog as bits};

/// Numbers that stand for descriptors and ids: programs from 100, links from 200.
const PROG: u32 = 100;
const LINK: u32 = 200;
const OTHER_TYPE: u32 = 300;
const NOT_OPEN: u32 = 400;

struct Link {
    prog: u8,
    is_attached: bool,
}

struct World {
    hook: Mprog<u8, u8>,
    links: [Option<Link>; SLOTS as usize],
    /// Whether the request at hand takes programs of any type.
    any_type: bool,
}

impl Lookup<u8, u8> for World {
    fn prog_by_fd(&self, fd: u32) -> Result<u8, Errno> {
        match fd {
            PROG..LINK => Ok((fd - PROG) as u8),
            OTHER_TYPE if self.any_type => Ok(u8::MAX),
            LINK..NOT_OPEN => Err(Errno::EINVAL),
            _ => Err(Errno::EBADF),
        }
    }

    fn prog_by_id(&self, id: u32) -> Result<u8, Errno> {
        match id {
            NOT_OPEN => Err(Errno::ENOENT),
            _ => self.prog_by_fd(id),
        }
    }

    fn link_by_fd(&self, fd: u32) -> Result<Entry<u8, u8>, Errno> {
        match fd {
            LINK..OTHER_TYPE => {
                let slot = (fd - LINK) as u8;
                let link = self.links[usize::from(slot)].as_ref().ok_or(Errno::EBADF)?;
                Ok(Entry::link(link.prog, slot))
            }
            PROG..NOT_OPEN => Err(Errno::EINVAL),
            _ => Err(Errno::EBADF),
        }
    }

    fn link_by_id(&self, id: u32) -> Result<Entry<u8, u8>, Errno> {
        match id {
            NOT_OPEN => Err(Errno::ENOENT),
            _ => self.link_by_fd(id),
        }
    }
}

fn flags_of(request: &Request) -> (u32, u32) {
    let mut flags = request.raw_flags;
    for (is_set, bit) in [
        (request.before, bits::BEFORE),
        (request.after, bits::AFTER),
        (
            !matches!(request.replace, Replace::None | Replace::FdOnly(_)),
            bits::REPLACE,
        ),
    ] {
        flags |= if is_set { bit } else { 0 };
    }
    let (number, relative_flags) = match request.relative {
        Relative::None => (0, 0),
        Relative::ProgFd(prog) => (PROG + u32::from(prog), 0),
        Relative::ProgId(prog) => (PROG + u32::from(prog), bits::ID),
        Relative::LinkFd(slot) => (LINK + u32::from(slot), bits::LINK),
        Relative::LinkId(slot) => (LINK + u32::from(slot), bits::LINK | bits::ID),
        Relative::OtherTypeFd => (OTHER_TYPE, 0),
        Relative::OtherTypeId => (OTHER_TYPE, bits::ID),
        Relative::BadFd => (NOT_OPEN, 0),
        Relative::BadProgId => (NOT_OPEN, bits::ID),
        Relative::BadLinkId => (NOT_OPEN, bits::LINK | bits::ID),
        Relative::LinkWithoutFd => (NOT_OPEN, bits::LINK),
        Relative::ProgFdAsLink(prog) => (PROG + u32::from(prog), bits::LINK),
        Relative::LinkFdAsProg(slot) => (LINK + u32::from(slot), 0),
    };
    (flags | relative_flags, number)
}

impl World {
    fn anchor(&self, request: &Request) -> Result<Anchor<u8, u8>, Errno> {
        let (flags, number) = flags_of(request);
        let replace = match request.replace {
            Replace::Prog(prog) => Some(Entry::program(prog)),
            _ => None,
        };
        Anchor::from_request(flags, number, replace, self)
    }

    fn apply(&mut self, request: &Request) -> Result<(), Errno> {
        self.any_type = request.action == Action::Detach { prog: None };
        let revision = Some(request.revision).filter(|revision| *revision != 0);
        let commit = |pending: Pending<'_, u8, u8>| {
            pending.commit();
        };
        match request.action {
            Action::Attach { prog } => {
                let anchor = self.anchor(request)?;
                self.hook
                    .attach(Entry::program(prog), &anchor, revision)
                    .map(commit)
            }
            Action::Detach { prog } => {
                let anchor = self.anchor_of_detach(request)?;
                let wanted = prog.map(Entry::program);
                self.hook
                    .detach(wanted.as_ref(), &anchor, revision)
                    .map(commit)
            }
            Action::LinkCreate { slot, prog } => {
                let (flags, number) = flags_of(request);
                let anchor = Anchor::from_link_request(flags, number, self);
                self.hook
                    .attach(Entry::link(prog, slot), &anchor, revision)
                    .map(commit)?;
                self.links[usize::from(slot)] = Some(Link {
                    prog,
                    is_attached: true,
                });
                Ok(())
            }
            Action::LinkUpdate { slot, prog, old } => self.update(slot, prog, old),
            Action::LinkDetach { slot } => {
                self.detach_link(slot);
                Ok(())
            }
            Action::LinkClose { slot } => {
                self.detach_link(slot);
                self.links[usize::from(slot)] = None;
                Ok(())
            }
            Action::Query { room } => {
                let query = Query {
                    room,
                    ..Query::default()
                };
                self.hook.query(&query)?.error.map_or(Ok(()), Err)
            }
        }
    }

    fn anchor_of_detach(&self, request: &Request) -> Result<Anchor<u8, u8>, Errno> {
        let (flags, number) = flags_of(request);
        // What would be replaced is not looked at.
        Anchor::from_request(flags, number, Some(Entry::program(0)), self)
    }

    fn update(&mut self, slot: u8, prog: u8, old: Option<u8>) -> Result<(), Errno> {
        let link = self.links[usize::from(slot)]
            .as_mut()
            .expect("requests name links that exist");
        if !link.is_attached {
            return Err(Errno::ENOLINK);
        }
        if old.is_some_and(|old| old != link.prog) {
            return Err(Errno::EPERM);
        }
        if link.prog != prog {
            self.hook.update_link(slot, link.prog, prog)?.commit();
            link.prog = prog;
        }
        Ok(())
    }

    fn detach_link(&mut self, slot: u8) {
        let link = self.links[usize::from(slot)]
            .as_mut()
            .expect("requests name links that exist");
        if std::mem::take(&mut link.is_attached) {
            let entry = Entry::link(link.prog, slot);
            self.hook
                .detach(Some(&entry), &Anchor::none(), None)
                .expect("the link is attached")
                .commit();
        }
    }

    fn view(&self) -> View {
        View {
            order: self
                .hook
                .entries()
                .iter()
                .map(|entry| (entry.prog, entry.link))
                .collect(),
            revision: self.hook.revision(),
        }
    }
}

#[test]
fn every_recorded_history_replays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/mprog");
    let (mut histories, mut failures) = (0, Vec::new());
    for file in fs::read_dir(folder).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            if line.starts_with('#') {
                continue;
            }
            histories += 1;
            if let Err(failure) = replay(line) {
                failures.push(failure);
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {histories} histories differ:\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
    assert!(histories >= 5000, "{histories} histories");
}

fn replay(line: &str) -> Result<(), String> {
    let mut world = World {
        hook: Mprog::new(),
        links: [const { None }; SLOTS as usize],
        any_type: false,
    };
    for step in line.split("; ") {
        let (text, answer) = step.split_once(" > ").ok_or("no answer")?;
        let request = Request::parse(text).ok_or_else(|| format!("request '{text}'"))?;
        assert_eq!(
            request.to_string(),
            text,
            "requests are printed as they are read"
        );
        let before = world.view();
        let result = world.apply(&request);
        if world.hook.entries().is_empty() {
            // tcx forgets a hook that nothing is attached to, and its revision with it.
            world.hook = Mprog::new();
        }
        let ours = match result {
            Ok(()) => format!("0 {}", world.view()),
            Err(errno) if world.view() == before => errno.to_string(),
            Err(errno) => format!("{errno} {}", world.view()),
        };
        if ours != answer {
            return Err(format!("{before}: {text}: ours {ours}, kernel {answer}"));
        }
    }
    Ok(())
}
