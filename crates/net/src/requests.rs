//! Requests of bpf(2) to attach: BPF_LINK_CREATE, BPF_PROG_ATTACH, BPF_PROG_DETACH and BPF_PROG_QUERY.
//!
//! They say numbers: [`Net::link_create`], [`Net::prog_attach`], [`Net::prog_detach`] and [`Net::prog_query`] take them as they are, judge them in the order of
//! the reference kernel and need of the caller only what its descriptors mean ([`CallerFds`]).
//!
//! # Source
//! Linux 6.18, observed on a veth device of a network namespace of its own.

use std::sync::Arc;

use ring3_mprog::{Anchor, Entry, Lookup, Query};
use ring3_objects::{Error, LinkObject, Program, System};
use ring3_runtime::ProgObject;
use ring3_uapi::{AttachType, Errno, ProgType, flags::mprog as bits};

use crate::{
    Net,
    attach::check_type,
    cgroup::{Cgroup, CgroupAttach, CgroupPlace},
    device::{Device, Direction},
    hook::{Held, refused},
    links,
    world::no_device,
    xdp_request::{XdpMode, default_mode, xdp_flags},
};

/// Where a request wants to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `target_ifindex`
    Device(u32),
    /// What `target_fd` of a cgroup means.
    Cgroup(Arc<Cgroup>),
}

/// What BPF_LINK_CREATE, BPF_PROG_ATTACH and BPF_PROG_DETACH say beside the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// Where.
    pub target: Target,
    /// Which hook of it.
    pub attach_type: AttachType,
    /// `attach_flags`, or `link_create.flags`.
    pub flags: u32,
    /// `relative_fd` or `relative_id`: which, and of what, say the flags.
    pub relative: u32,
    /// `replace_bpf_fd`; links have none.
    pub replace_fd: u32,
    /// Revision that the hook must have; 0 is any.
    pub expected_revision: u64,
}

impl AttachRequest {
    /// A request without a place.
    pub fn new(target: Target, attach_type: AttachType) -> AttachRequest {
        AttachRequest {
            target,
            attach_type,
            flags: 0,
            relative: 0,
            replace_fd: 0,
            expected_revision: 0,
        }
    }

    fn expected_revision(&self) -> Option<u64> {
        Some(self.expected_revision).filter(|revision| *revision != 0)
    }
}

/// What BPF_PROG_QUERY asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRequest {
    /// Where.
    pub target: Target,
    /// Which hook of it.
    pub attach_type: AttachType,
    /// `query_flags`
    pub query_flags: u32,
    /// `attach_flags`
    pub attach_flags: u32,
    /// Entries that the caller has room for; `None` where it gave no array of ids, or a count of 0.
    pub room: Option<u32>,
}

/// What BPF_PROG_QUERY gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryAnswer {
    /// `attach_flags`
    pub attach_flags: u32,
    /// `revision`
    pub revision: u64,
    /// `count`: of all entries, however many were given.
    pub count: u32,
    /// `prog_ids`
    pub prog_ids: Vec<u32>,
    /// `link_ids`; 0 where no link holds the program.
    pub link_ids: Vec<u32>,
    /// ENOSPC where not all fit; the rest is valid all the same.
    pub error: Option<Errno>,
}

/// What the caller's descriptors mean.
pub trait CallerFds {
    /// The program behind a descriptor.
    ///
    /// # Errors
    /// EBADF: not open. EINVAL: no program.
    fn program(&self, fd: u32) -> Result<Arc<Program>, Errno>;

    /// The link behind a descriptor.
    ///
    /// # Errors
    /// EBADF: not open. EINVAL: no link.
    fn link(&self, fd: u32) -> Result<Arc<LinkObject>, Errno>;
}

/// Descriptors and ids for the rules of a request.
struct Names<'a> {
    system: &'a System,
    fds: &'a dyn CallerFds,
    /// The type that programs must have; a detach by place takes any.
    wanted: Option<ProgType>,
}

impl Names<'_> {
    fn held(&self, prog: Arc<Program>) -> Result<Held, Errno> {
        match self.wanted {
            Some(wanted) if wanted != prog.prog_type() => Err(Errno::EINVAL),
            _ => Ok(Held(prog)),
        }
    }

    fn entry(&self, link: &Arc<LinkObject>) -> Result<Entry<Held, u32>, Errno> {
        Ok(Entry::link(self.held(link.program())?, link.id()))
    }
}

impl Lookup<Held, u32> for Names<'_> {
    fn prog_by_fd(&self, fd: u32) -> Result<Held, Errno> {
        self.held(self.fds.program(fd)?)
    }

    fn prog_by_id(&self, id: u32) -> Result<Held, Errno> {
        self.held(self.system.program_by_id(id).ok_or(Errno::ENOENT)?)
    }

    fn link_by_fd(&self, fd: u32) -> Result<Entry<Held, u32>, Errno> {
        self.entry(&self.fds.link(fd)?)
    }

    fn link_by_id(&self, id: u32) -> Result<Entry<Held, u32>, Errno> {
        self.entry(&self.system.link_by_id(id).ok_or(Errno::ENOENT)?)
    }
}

/// A hook that requests name by attach type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Xdp,
    Tcx(Direction),
    Cgroup(Direction),
}

impl Hook {
    fn of(attach_type: AttachType) -> Result<Hook, Error> {
        match attach_type {
            AttachType::Xdp => Ok(Hook::Xdp),
            AttachType::TcxIngress => Ok(Hook::Tcx(Direction::Ingress)),
            AttachType::TcxEgress => Ok(Hook::Tcx(Direction::Egress)),
            AttachType::CgroupInetIngress => Ok(Hook::Cgroup(Direction::Ingress)),
            AttachType::CgroupInetEgress => Ok(Hook::Cgroup(Direction::Egress)),
            other => {
                let message = format!("attach type {other}: no hook of the network model");
                Err(Error::new(Errno::ENOTSUPP, message))
            }
        }
    }
}

impl Net {
    /// Whether programs of this attach type are attached here.
    pub fn has_hook(attach_type: AttachType) -> bool {
        Hook::of(attach_type).is_ok()
    }

    /// BPF_LINK_CREATE: attaches a program through a link. The link's last reference detaches it.
    ///
    /// # Errors
    /// EINVAL: a program of another type, unknown flags, no such device for XDP. ENODEV: no such device for tcx. EOPNOTSUPP: XDP in the driver
    /// of `lo`. EBUSY: another XDP program is there. Else as [`ring3_mprog::Mprog::attach`]. ENOTSUPP: an attach type without a hook here.
    pub fn link_create(
        &self,
        request: &AttachRequest,
        prog: &Arc<Program>,
        fds: &dyn CallerFds,
    ) -> Result<Arc<LinkObject>, Error> {
        match Hook::of(request.attach_type)? {
            Hook::Xdp => {
                check_type(prog, ProgType::Xdp)?;
                let device = self
                    .request_device(&request.target)
                    .map_err(|error| Error::new(Errno::EINVAL, error.message))?;
                let mode = xdp_link_mode(&device, request.flags)?;
                links::link_xdp(self, &device, prog, mode)
            }
            Hook::Tcx(direction) => {
                check_type(prog, ProgType::SchedCls)?;
                let device = self.request_device(&request.target)?;
                let names = self.names(fds, Some(ProgType::SchedCls));
                let anchor = Anchor::from_link_request(request.flags, request.relative, &names);
                let revision = request.expected_revision();
                links::link_tcx(self, &device, direction, prog, &anchor, revision)
            }
            Hook::Cgroup(direction) => {
                check_type(prog, ProgType::CgroupSkb)?;
                // Links are always among many.
                let flags = request.flags | bits::ALLOW_MULTI;
                let how = self.cgroup_attach(
                    &AttachRequest {
                        flags,
                        ..request.clone()
                    },
                    fds,
                )?;
                self.link_cgroup(request_cgroup(&request.target)?, direction, prog, &how)
            }
        }
    }

    /// The place of a request among a cgroup's programs.
    fn cgroup_attach(
        &self,
        request: &AttachRequest,
        fds: &dyn CallerFds,
    ) -> Result<CgroupAttach, Error> {
        const PLACES: u32 = bits::REPLACE | bits::BEFORE | bits::AFTER;
        let refuse = |errno: Errno| {
            let flags = request.flags;
            Error::new(errno, format!("cgroup attach flags {flags:#x}"))
        };
        let names = self.names(fds, Some(ProgType::CgroupSkb));
        let relative = || -> Result<Option<Arc<Program>>, Errno> {
            let by = request.relative;
            Ok(Some(match request.flags & (bits::ID | bits::LINK) {
                0 if by == 0 => return Ok(None),
                0 => names.prog_by_fd(by)?.0,
                bits::ID => names.prog_by_id(by)?.0,
                bits::LINK => names.link_by_fd(by)?.prog.0,
                _ => names.link_by_id(by)?.prog.0,
            }))
        };
        let place = match request.flags & PLACES {
            0 if request.relative != 0 => return Err(refuse(Errno::EINVAL)),
            0 => CgroupPlace::Last,
            bits::REPLACE => {
                CgroupPlace::Replace(names.prog_by_fd(request.replace_fd).map_err(refuse)?.0)
            }
            bits::BEFORE => match relative().map_err(refuse)? {
                Some(relative) => CgroupPlace::Before(relative),
                None => CgroupPlace::First,
            },
            bits::AFTER => match relative().map_err(refuse)? {
                Some(relative) => CgroupPlace::After(relative),
                None => CgroupPlace::Last,
            },
            _ => return Err(refuse(Errno::EINVAL)),
        };
        Ok(CgroupAttach {
            flags: request.flags & !(PLACES | bits::ID | bits::LINK),
            place,
            expected_revision: request.expected_revision(),
        })
    }

    /// BPF_PROG_ATTACH: attaches a program without a link, or puts it in the place of another (BPF_F_REPLACE).
    ///
    /// # Errors
    /// EINVAL: unknown flags, a program of another type, XDP. ENODEV: no such device. Else as [`ring3_mprog::Mprog::attach`]. ENOTSUPP: an attach
    /// type without a hook here.
    pub fn prog_attach(
        &self,
        request: &AttachRequest,
        prog: &Arc<Program>,
        fds: &dyn CallerFds,
    ) -> Result<(), Error> {
        if let Hook::Cgroup(direction) = Hook::of(request.attach_type)? {
            check_type(prog, ProgType::CgroupSkb)?;
            let how = self.cgroup_attach(request, fds)?;
            return request_cgroup(&request.target)?.attach(direction, prog, None, &how);
        }
        let direction = mprog_direction(request.attach_type)?;
        check_mprog_flags(request.flags)?;
        check_type(prog, ProgType::SchedCls)?;
        let device = self.request_device(&request.target)?;
        let names = self.names(fds, Some(ProgType::SchedCls));
        let refuse = |errno| refused(errno, "attach", Some(prog));
        let replace = match request.flags & bits::REPLACE {
            0 => None,
            _ => {
                let replaced = names.prog_by_fd(request.replace_fd).map_err(refuse)?;
                Some(Entry::program(replaced))
            }
        };
        let anchor = Anchor::from_request(request.flags, request.relative, replace, &names)
            .map_err(refuse)?;
        let hook = device.tcx(direction);
        hook.attach(prog, None, &anchor, request.expected_revision())
    }

    /// BPF_PROG_DETACH: takes a program off, or what stands at the request's place: the last, with BPF_F_BEFORE the first.
    ///
    /// # Errors
    /// As [`Net::prog_attach`], and as [`ring3_mprog::Mprog::detach`].
    pub fn prog_detach(
        &self,
        request: &AttachRequest,
        prog: Option<&Arc<Program>>,
        fds: &dyn CallerFds,
    ) -> Result<(), Error> {
        if let Hook::Cgroup(direction) = Hook::of(request.attach_type)? {
            let revision = request.expected_revision();
            return request_cgroup(&request.target)?.detach(direction, prog, None, revision);
        }
        let direction = mprog_direction(request.attach_type)?;
        check_mprog_flags(request.flags)?;
        if let Some(prog) = prog {
            check_type(prog, ProgType::SchedCls)?;
        }
        let device = self.request_device(&request.target)?;
        let names = self.names(fds, prog.map(|_| ProgType::SchedCls));
        // A detach replaces nothing: the flag alone is refused, whatever it names.
        let replace = (request.flags & bits::REPLACE != 0)
            .then(|| prog.cloned().or_else(|| first_program(&device, direction)))
            .flatten()
            .map(|prog| Entry::program(Held(prog)));
        if request.flags & bits::REPLACE != 0 && replace.is_none() {
            // Nothing is attached, which comes before the flag.
            return Err(refused(Errno::ENOENT, "detach", prog));
        }
        let anchor = Anchor::from_request(request.flags, request.relative, replace, &names)
            .map_err(|errno| refused(errno, "detach", prog))?;
        let hook = device.tcx(direction);
        hook.detach(prog, None, &anchor, request.expected_revision())
    }

    /// BPF_PROG_QUERY.
    ///
    /// # Errors
    /// EINVAL: XDP, or flags that are not 0. ENODEV: no such device. ENOTSUPP: an attach type without a hook here. A short array is no error: see
    /// [`QueryAnswer::error`].
    pub fn prog_query(&self, request: &QueryRequest) -> Result<QueryAnswer, Error> {
        if let Hook::Cgroup(direction) = Hook::of(request.attach_type)? {
            let cgroup = request_cgroup(&request.target)?;
            return cgroup.query(direction, request.query_flags, request.room);
        }
        let direction = mprog_direction(request.attach_type)?;
        let device = self.request_device(&request.target)?;
        let query = Query {
            query_flags: request.query_flags,
            attach_flags: request.attach_flags,
            room: request.room,
        };
        let result = device
            .tcx(direction)
            .query(&query)
            .map_err(|errno| refused(errno, "query", None))?;
        let ids = |entry: &Entry<Held, u32>| (entry.prog.0.id(), entry.link.unwrap_or(0));
        let (prog_ids, link_ids) = result.entries.iter().map(ids).unzip();
        Ok(QueryAnswer {
            attach_flags: 0,
            revision: result.revision,
            count: result.count,
            prog_ids,
            link_ids,
            error: result.error,
        })
    }

    fn names<'a>(&'a self, fds: &'a dyn CallerFds, wanted: Option<ProgType>) -> Names<'a> {
        Names {
            system: self.system(),
            fds,
            wanted,
        }
    }

    fn request_device(&self, target: &Target) -> Result<Arc<Device>, Error> {
        match *target {
            Target::Device(ifindex) => self.device(ifindex).ok_or_else(|| no_device(ifindex)),
            Target::Cgroup(_) => Err(no_device(0)),
        }
    }
}

fn request_cgroup(target: &Target) -> Result<&Arc<Cgroup>, Error> {
    match target {
        Target::Cgroup(cgroup) => Ok(cgroup),
        Target::Device(ifindex) => {
            let message = format!("device {ifindex}: expected a cgroup");
            Err(Error::new(Errno::EBADF, message))
        }
    }
}

fn first_program(device: &Device, direction: Direction) -> Option<Arc<Program>> {
    let slots = device.tcx(direction).slots();
    slots.first().map(|slot| Arc::clone(&slot.prog))
}

/// The hook of a request that several programs may share.
fn mprog_direction(attach_type: AttachType) -> Result<Direction, Error> {
    match Hook::of(attach_type)? {
        Hook::Tcx(direction) => Ok(direction),
        Hook::Xdp | Hook::Cgroup(_) => {
            let message = "xdp: programs are attached by links or netlink only";
            Err(Error::new(Errno::EINVAL, message))
        }
    }
}

fn check_mprog_flags(flags: u32) -> Result<(), Error> {
    let known = bits::REPLACE | bits::BEFORE | bits::AFTER | bits::ID | bits::LINK;
    if flags & !known == 0 {
        return Ok(());
    }
    let message = format!("attach flags {flags:#x}, known are {known:#x}");
    Err(Error::new(Errno::EINVAL, message))
}

/// One mode at most, of those that a link may name.
fn xdp_link_mode(device: &Device, flags: u32) -> Result<XdpMode, Error> {
    match flags {
        0 => Ok(default_mode(device)),
        xdp_flags::SKB_MODE => Ok(XdpMode::Generic),
        xdp_flags::DRV_MODE if default_mode(device) == XdpMode::Driver => Ok(XdpMode::Driver),
        xdp_flags::DRV_MODE => {
            let message = format!("device '{}': no XDP in its driver", device.name());
            Err(Error::new(Errno::EOPNOTSUPP, message))
        }
        _ => {
            let message = format!("XDP link flags {flags:#x}, expected 0, 2 or 4");
            Err(Error::new(Errno::EINVAL, message))
        }
    }
}
