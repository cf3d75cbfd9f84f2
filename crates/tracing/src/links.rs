//! Links of functions and tracepoints: what [`ring3_objects::LinkObject`] asks of them.
//!
//! bpf(2) neither updates nor detaches them: they end with their last reference.

use std::sync::Arc;

use parking_lot::Mutex;
use ring3_btf::TypeId;
use ring3_objects::{Error, LinkDetail, LinkOps, Program};
use ring3_trampoline::{Attachment, Replacement};
use ring3_uapi::Errno;

use crate::tracepoint::Tracepoint;

/// What keeps a program at a function. Dropping it detaches.
pub(crate) enum Held {
    /// It runs before or after the function.
    Attached {
        attachment: Attachment,
        /// The program whose function it is.
        target: Option<Arc<Program>>,
    },
    /// It runs instead.
    Replaced {
        replacement: Replacement,
        target: Arc<Program>,
    },
}

pub(crate) struct TracingLink {
    held: Mutex<Option<Held>>,
    attach_type: u32,
    /// Id of the program or BTF, and of the function in it.
    function: (u32, TypeId),
    cookie: u64,
}

impl TracingLink {
    pub(crate) fn new(
        held: Held,
        attach_type: u32,
        function: (u32, TypeId),
        cookie: u64,
    ) -> TracingLink {
        TracingLink {
            held: Mutex::new(Some(held)),
            attach_type,
            function,
            cookie,
        }
    }
}

fn is_fixed_error(link: u32) -> Error {
    Error::new(
        Errno::EINVAL,
        format!("link {link}: keeps the program it was made for"),
    )
}

impl LinkOps for TracingLink {
    fn update(&self, link: u32, _from: &Arc<Program>, _to: &Arc<Program>) -> Result<(), Error> {
        Err(is_fixed_error(link))
    }

    fn detach(&self, _link: u32, _prog: &Arc<Program>) {
        let held = self.held.lock().take();
        match held {
            // The function first, then the program that it belongs to.
            Some(Held::Attached { attachment, target }) => {
                drop(attachment);
                drop(target);
            }
            Some(Held::Replaced {
                replacement,
                target,
            }) => {
                drop(replacement);
                target.end_extension();
            }
            None => {}
        }
    }

    fn info(&self) -> LinkDetail {
        LinkDetail::Tracing {
            attach_type: self.attach_type,
            target_obj_id: self.function.0,
            target_btf_id: self.function.1.0,
            cookie: self.cookie,
        }
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

/// A program on a raw tracepoint.
pub(crate) struct TracepointLink {
    pub(crate) tracepoint: Arc<Tracepoint>,
    /// Names its probe.
    pub(crate) key: u64,
    pub(crate) cookie: u64,
}

impl LinkOps for TracepointLink {
    fn update(&self, link: u32, _from: &Arc<Program>, _to: &Arc<Program>) -> Result<(), Error> {
        Err(is_fixed_error(link))
    }

    fn detach(&self, _link: u32, _prog: &Arc<Program>) {
        self.tracepoint.remove(self.key);
    }

    fn info(&self) -> LinkDetail {
        LinkDetail::RawTracepoint {
            name: self.tracepoint.name().to_owned(),
            cookie: self.cookie,
        }
    }

    fn is_fixed(&self) -> bool {
        true
    }
}
