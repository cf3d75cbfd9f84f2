//! Programs as targets of other programs: what the verifier is told of them, who may extend them, what traces them.
//!
//! # Source
//! A program that is extended cannot enter prog arrays and the other way round (`EBUSY`), since Linux 6.13: through both, a tail call could come back to
//! where it began without being counted.

use std::{any::Any, sync::Arc};

use ring3_btf::TypeId;
use ring3_runtime::{InArray, ProgObject};
use ring3_spec::{AttachTarget, LoadRequest, ProgTarget, ProgTargetSubprog};
use ring3_uapi::{Errno, ProgType, flags::prog_load};
use ring3_verifier::check_attach_target;

use crate::{EngineKind, Error, Program, System};

/// Whether a program is extended, or how many slots of prog arrays hold it: never both.
#[derive(Debug, Default)]
pub(crate) struct Extension {
    in_arrays: u32,
    /// Functions that are replaced.
    extended: u32,
}

impl Extension {
    /// # Errors
    /// EBUSY: entering an array while extended.
    pub(crate) fn in_array(&mut self, change: InArray) -> Result<(), Errno> {
        match change {
            InArray::Added if self.extended != 0 => return Err(Errno::EBUSY),
            InArray::Added => self.in_arrays += 1,
            InArray::Removed => self.in_arrays = self.in_arrays.saturating_sub(1),
        }
        Ok(())
    }
}

impl Program {
    /// What the verifier is told of the program when another names it as `attach_prog_fd`.
    pub fn as_target(&self) -> ProgTarget {
        let attr = self.attr();
        let exception_cb = self.verified().exception_cb;
        let subprogs = self.verified().subprogs.iter().zip(0..);
        ProgTarget {
            prog_type: attr.prog_type,
            expected_attach_type: attr.expected_attach_type,
            btf: attr.btf.clone(),
            sleepable: attr.flags & prog_load::SLEEPABLE != 0,
            jited: attr.engine == EngineKind::Jit,
            // One level of tracing a tracing program is allowed.
            attaches_to_prog: attr.prog_type == ProgType::Tracing
                && matches!(&attr.attach, AttachTarget::Prog(target) if target.prog_type == ProgType::Tracing),
            subprogs: subprogs
                .map(|(subprog, index)| ProgTargetSubprog {
                    type_id: TypeId(subprog.type_id),
                    is_global: subprog.is_global,
                    is_exception_cb: exception_cb == Some(index),
                    unreliable: subprog.unreliable,
                    changes_pkt_data: subprog.changes_pkt_data,
                    might_sleep: subprog.might_sleep,
                })
                .collect(),
            dev_bound: attr.flags & prog_load::XDP_DEV_BOUND_ONLY != 0,
        }
    }

    /// Whether the program may be attached to a function of another program than the one it was loaded for.
    ///
    /// # Errors
    /// EINVAL: as when it is loaded for that one, with the verifier's words; or that one is of another program type.
    pub fn check_target(
        &self,
        system: &System,
        target: &Arc<Program>,
        function: TypeId,
    ) -> Result<(), Error> {
        let mut attr = self.attr().clone();
        (attr.attach_prog, attr.attach_btf_id) = (Some(Arc::clone(target)), function);
        let refuse = |what: &str| {
            let (own, target) = (self.name(), target.name());
            Error::new(
                Errno::EINVAL,
                format!("program '{own}' on '{target}': {what}"),
            )
        };
        if attr.runs_as() != self.attr().runs_as() {
            return Err(refuse("was loaded for another type of program"));
        }
        let (request, _) = attr.request(system);
        let main = self.verified().subprogs.first();
        let changes = main.is_some_and(|main| main.changes_pkt_data);
        let sleeps = main.is_some_and(|main| main.might_sleep);
        check_attach_target(&request, changes, sleeps).map_err(|(_, text)| refuse(&text))
    }

    /// The program it was loaded to be attached to; `None` once it was.
    pub fn load_target(&self) -> Option<Arc<Program>> {
        self.target.lock().clone()
    }

    /// Forgets it: the program was attached.
    pub fn forget_load_target(&self) {
        // The last reference may go here, so not under the lock.
        let target = self.target.lock().take();
        drop(target);
    }

    /// Counts one more function of the program as replaced.
    ///
    /// # Errors
    /// EBUSY: it is in a prog array.
    pub fn begin_extension(&self) -> Result<(), Errno> {
        let mut extension = self.extension.lock();
        if extension.in_arrays != 0 {
            return Err(Errno::EBUSY);
        }
        extension.extended += 1;
        Ok(())
    }

    /// One less.
    pub fn end_extension(&self) {
        let mut extension = self.extension.lock();
        extension.extended = extension.extended.saturating_sub(1);
    }

    /// What the floor that traces programs keeps with this one, made at the first call; it lives as long as the program.
    pub fn traced<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let kept = self.traced.get_or_init(|| Arc::new(make()));
        Arc::clone(kept).downcast().ok()
    }
}

/// A number that is equal for programs on functions of one prototype: of the same program, or of the same BTF.
pub(crate) fn func_proto(request: &LoadRequest, target: Option<&Program>) -> u64 {
    if request.attach_btf_id.is_void() {
        return 0;
    }
    let btf = match &request.attach {
        AttachTarget::Kernel => request.kernel_btf.as_ref(),
        AttachTarget::Btf(btf) => Some(btf),
        AttachTarget::Prog(prog) => prog.btf.as_ref(),
    };
    let function = btf.and_then(|btf| btf.type_by_id(request.attach_btf_id));
    let proto = function.map_or(0, |function| u64::from(function.type_id().0));
    u64::from(target.map_or(0, |prog| prog.id())) << 32 | proto
}
