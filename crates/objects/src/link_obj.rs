//! `LinkObject`: a program held at a hook by an object of its own. The last reference detaches.
//!
//! What a link is attached to belongs to the floors above, which implement [`LinkOps`]. A link is made in two steps, as a hook needs its id
//! before it can hold it: [`LinkObject::create`] reserves the id, and only a link whose attach went well can be found under it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ring3_uapi::{Errno, LinkType};

use crate::{Error, Program, System};

/// What a hook does for its links. The program of a link is given; the link itself is locked while these run.
pub trait LinkOps: Send + Sync {
    /// Puts another program in the place of the link's.
    ///
    /// # Errors
    /// ENOLINK: the hook is gone. What else the hook refuses.
    fn update(&self, link: u32, from: &Arc<Program>, to: &Arc<Program>) -> Result<(), Error>;

    /// Takes the link off its hook. Cannot fail: a hook that is gone has nothing to do.
    fn detach(&self, link: u32, prog: &Arc<Program>);

    /// What BPF_OBJ_GET_INFO_BY_FD tells beyond id and program.
    fn info(&self) -> LinkDetail;

    /// The text that an iterator's program writes now; `None` for other links.
    fn iterate(&self, prog: &Arc<Program>) -> Option<Iteration> {
        let _ = prog;
        None
    }

    /// Whether bpf(2) neither updates nor detaches such links: they end with their last reference.
    fn is_fixed(&self) -> bool {
        false
    }
}

/// What an iterator wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iteration {
    /// The text of all objects, up to one that failed.
    pub text: Vec<u8>,
    /// EAGAIN: the program did not want an object now. E2BIG: an object's text was too long.
    pub error: Option<Errno>,
}

/// The part of `struct bpf_link_info` that differs by type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkDetail {
    /// Nothing but zeros.
    #[default]
    None,
    /// `xdp`
    Xdp {
        /// Device, 0 once it is detached.
        ifindex: u32,
    },
    /// `tcx`
    Tcx {
        /// Device, 0 once it is detached.
        ifindex: u32,
        /// Hook, raw.
        attach_type: u32,
    },
    /// `raw_tracepoint`
    RawTracepoint {
        /// Its name; the structure has the caller's address and room for it.
        name: String,
        /// `cookie`
        cookie: u64,
    },
    /// `tracing`
    Tracing {
        /// Hook, raw.
        attach_type: u32,
        /// Program of the function, or the BTF that names it.
        target_obj_id: u32,
        /// Function.
        target_btf_id: u32,
        /// `cookie`
        cookie: u64,
    },
    /// `iter`
    Iter {
        /// What it goes over; the structure has the caller's address and room for it.
        name: String,
        /// Map whose elements it goes over, 0 for none.
        map_id: u32,
    },
    /// `cgroup`
    Cgroup {
        /// Cgroup, 0 once it is detached.
        cgroup_id: u64,
        /// Hook, raw.
        attach_type: u32,
    },
}

impl LinkDetail {
    /// Offset of these bytes in `struct bpf_link_info`.
    pub const OFFSET: usize = 16;
    const BYTES: usize = 24;

    /// The bytes from [`LinkDetail::OFFSET`] on, in host order; a name's place and length are the caller's to fill in.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let halves = |word: u64| (word as u32, (word >> 32) as u32);
        let words = match *self {
            LinkDetail::None => [0; 6],
            LinkDetail::Xdp { ifindex } => [ifindex, 0, 0, 0, 0, 0],
            LinkDetail::Tcx {
                ifindex,
                attach_type,
            } => [ifindex, attach_type, 0, 0, 0, 0],
            LinkDetail::RawTracepoint { cookie, .. } => {
                let (low, high) = halves(cookie);
                [0, 0, 0, 0, low, high]
            }
            LinkDetail::Tracing {
                attach_type,
                target_obj_id,
                target_btf_id,
                cookie,
            } => {
                let (low, high) = halves(cookie);
                [attach_type, target_obj_id, target_btf_id, 0, low, high]
            }
            LinkDetail::Iter { map_id, .. } => [0, 0, 0, map_id, 0, 0],
            LinkDetail::Cgroup {
                cgroup_id,
                attach_type,
            } => {
                let (low, high) = halves(cgroup_id);
                [low, high, attach_type, 0, 0, 0]
            }
        };
        let mut bytes = [0; Self::BYTES];
        for (field, value) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// What is told of a link that was detached: the hook, but not where.
    fn detached(self) -> LinkDetail {
        match self {
            // These say where as long as they exist.
            LinkDetail::None
            | LinkDetail::RawTracepoint { .. }
            | LinkDetail::Tracing { .. }
            | LinkDetail::Iter { .. } => self,
            LinkDetail::Xdp { .. } => LinkDetail::Xdp { ifindex: 0 },
            LinkDetail::Tcx { attach_type, .. } => LinkDetail::Tcx {
                ifindex: 0,
                attach_type,
            },
            LinkDetail::Cgroup { attach_type, .. } => LinkDetail::Cgroup {
                cgroup_id: 0,
                attach_type,
            },
        }
    }
}

/// What BPF_OBJ_GET_INFO_BY_FD tells of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// `type`
    pub link_type: LinkType,
    /// `id`
    pub id: u32,
    /// `prog_id`
    pub prog_id: u32,
    /// By type; says no place once the link is detached.
    pub detail: LinkDetail,
}

/// A link.
pub struct LinkObject {
    id: u32,
    link_type: LinkType,
    ops: Arc<dyn LinkOps>,
    state: Mutex<State>,
    system: Weak<System>,
}

impl std::fmt::Debug for LinkObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkObject")
            .field("id", &self.id)
            .field("link_type", &self.link_type)
            .finish_non_exhaustive()
    }
}

struct State {
    prog: Arc<Program>,
    is_attached: bool,
}

impl LinkObject {
    /// Makes a link and attaches it: `attach` gets its id. While that runs nobody can find the link; if it fails, no link is left and the id
    /// is free.
    ///
    /// # Errors
    /// What `attach` refuses.
    pub fn create(
        system: &Arc<System>,
        link_type: LinkType,
        prog: &Arc<Program>,
        ops: Arc<dyn LinkOps>,
        attach: impl FnOnce(u32) -> Result<(), Error>,
    ) -> Result<Arc<LinkObject>, Error> {
        let id = system.reserve_link_id();
        attach(id).inspect_err(|_| system.forget_link(id))?;
        let link = Arc::new(LinkObject {
            id,
            link_type,
            ops,
            state: Mutex::new(State {
                prog: Arc::clone(prog),
                is_attached: true,
            }),
            system: Arc::downgrade(system),
        });
        system.publish_link(&link);
        Ok(link)
    }

    /// Id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Type.
    pub fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// The program it holds, also after it was detached.
    pub fn program(&self) -> Arc<Program> {
        Arc::clone(&self.state.lock().prog)
    }

    /// Whether it is at its hook.
    pub fn is_attached(&self) -> bool {
        self.state.lock().is_attached
    }

    /// Puts another program in the place of its own; with `expected`, only if it holds that one.
    ///
    /// # Errors
    /// ENOLINK: it was detached. EPERM: it does not hold `expected`. EINVAL: a program of another type. What the hook refuses.
    pub fn update(&self, new: &Arc<Program>, expected: Option<&Arc<Program>>) -> Result<(), Error> {
        let mut state = self.state.lock();
        let refuse = |errno, what: &str| {
            Err(Error::new(
                errno,
                format!("link {}: update: {what}", self.id),
            ))
        };
        if self.ops.is_fixed() {
            return refuse(Errno::EINVAL, "links of its type keep their program");
        }
        if !state.is_attached {
            return refuse(Errno::ENOLINK, "it is detached");
        }
        if expected.is_some_and(|expected| !Arc::ptr_eq(expected, &state.prog)) {
            return refuse(Errno::EPERM, "it holds another program than expected");
        }
        if new.prog_type() != state.prog.prog_type() {
            return refuse(Errno::EINVAL, "the new program is of another type");
        }
        if !Arc::ptr_eq(new, &state.prog) {
            self.ops.update(self.id, &state.prog, new)?;
            state.prog = Arc::clone(new);
        }
        Ok(())
    }

    /// The text that an iterator's program writes now; `None` for other links.
    pub fn iterate(&self) -> Option<Iteration> {
        let prog = self.program();
        self.ops.iterate(&prog)
    }

    /// See [`LinkOps::is_fixed`].
    pub fn is_fixed(&self) -> bool {
        self.ops.is_fixed()
    }

    /// Takes it off its hook. A link that is detached stays an object; detaching it again does nothing.
    pub fn detach(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_attached) {
            self.ops.detach(self.id, &state.prog);
        }
    }

    /// The hook is gone, a device for example: the link is detached without asking it.
    pub fn orphan(&self) {
        self.state.lock().is_attached = false;
    }

    /// What BPF_OBJ_GET_INFO_BY_FD tells.
    pub fn info(&self) -> LinkInfo {
        let state = self.state.lock();
        let detail = self.ops.info();
        LinkInfo {
            link_type: self.link_type,
            id: self.id,
            prog_id: ring3_runtime::ProgObject::id(&*state.prog),
            detail: if state.is_attached {
                detail
            } else {
                detail.detached()
            },
        }
    }
}

impl Drop for LinkObject {
    fn drop(&mut self) {
        self.detach();
        if let Some(system) = self.system.upgrade() {
            system.forget_link(self.id);
        }
    }
}
