//! `LinkObject`: a program held at a hook by an object of its own. The last reference detaches.
//!
//! What a link is attached to belongs to the floors above, which implement [`LinkOps`]. A link is made in two steps, as a hook needs its id
//! before it can hold it: [`LinkObject::create`] gives the id, and only a link whose attach went well is seen by others.

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
}

/// The part of `struct bpf_link_info` that differs by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkDetail {
    /// Device, 0 for none.
    pub ifindex: u32,
    /// `attach_type`, raw.
    pub attach_type: u32,
}

/// What BPF_OBJ_GET_INFO_BY_FD tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// `type`
    pub link_type: LinkType,
    /// `id`
    pub id: u32,
    /// `prog_id`
    pub prog_id: u32,
    /// By type; all zero once the link is detached.
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

struct State {
    prog: Arc<Program>,
    is_attached: bool,
}

impl LinkObject {
    /// Makes a link and attaches it: `attach` gets its id. No link is left if that fails.
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
        let link = system.register_link(|id, system| LinkObject {
            id,
            link_type,
            ops,
            state: Mutex::new(State {
                prog: Arc::clone(prog),
                is_attached: false,
            }),
            system,
        });
        let mut state = link.state.lock();
        attach(link.id)?;
        state.is_attached = true;
        drop(state);
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
        let attached = self.ops.info();
        LinkInfo {
            link_type: self.link_type,
            id: self.id,
            prog_id: ring3_runtime::ProgObject::id(&*state.prog),
            detail: if state.is_attached {
                attached
            } else {
                LinkDetail {
                    ifindex: 0,
                    ..attached
                }
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
