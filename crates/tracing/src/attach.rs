//! Which target a program is attached to, and the rules of attaching there.
//!
//! A program is loaded for one target, which it holds until it is attached for the first time. After that a tracing program may go back to a function of the
//! host, but not of a program; an extension names a target every time, which must look like the first.

use std::sync::Arc;

use ring3_btf::{Kind, TypeId};
use ring3_objects::{Engine, Error, LinkObject, Program};
use ring3_runtime::{ProgObject, ProgRef};
use ring3_spec::AttachTarget;
use ring3_trampoline::{AttachError, ProgKind, Target};
use ring3_uapi::{AttachType, Errno, LinkType, ProgType};

use crate::{
    Tracing,
    links::{Held, TracingLink},
    program,
};

/// Where a program goes.
struct Place {
    target: Arc<Target>,
    /// The program whose function it is.
    prog: Option<Arc<Program>>,
    function: TypeId,
}

impl Tracing {
    /// Attaches a program to what it was loaded for (BPF_RAW_TRACEPOINT_OPEN without a name, BPF_LINK_CREATE without a target). `cookie` is what
    /// `bpf_get_attach_cookie` returns.
    ///
    /// # Errors
    /// EINVAL: a program of another type; or it was attached to a program before. ENOENT: the host does not offer the function. EBUSY: the program is attached
    /// there already; the function is replaced; for an extension, the function is traced or replaced, or its program is in a prog array. E2BIG: too many
    /// programs on the function.
    pub fn link(&self, prog: &Arc<Program>, cookie: u64) -> Result<Arc<LinkObject>, Error> {
        let kind = kind_of(prog)?;
        let place = match prog.load_target() {
            Some(target) => self.in_program(&target, prog.attr().attach_btf_id)?,
            None => self.in_kernel(prog)?,
        };
        self.link_at(prog, kind, place, cookie)
    }

    /// Attaches an extension to a function of a program, which need not be the one it was loaded for.
    ///
    /// # Errors
    /// As [`Tracing::link`]. EINVAL: not an extension, or one that would not have been accepted for this function.
    pub fn link_to(
        &self,
        prog: &Arc<Program>,
        target: &Arc<Program>,
        function: TypeId,
        cookie: u64,
    ) -> Result<Arc<LinkObject>, Error> {
        let kind = kind_of(prog)?;
        if kind.is_some() {
            return Err(refuse(
                prog,
                Errno::EINVAL,
                "only extensions take a new target",
            ));
        }
        let is_first = prog
            .load_target()
            .is_some_and(|known| Arc::ptr_eq(&known, target));
        if !is_first || function != prog.attr().attach_btf_id {
            prog.check_target(&self.system, target, function)?;
        }
        self.link_at(prog, kind, self.in_program(target, function)?, cookie)
    }

    /// The id of a function of a program by its name, for [`Tracing::link_to`].
    ///
    /// # Errors
    /// ENOENT: no such function in its BTF.
    pub fn function_id(prog: &Program, name: &str) -> Result<TypeId, Error> {
        let btf = prog.attr().btf.as_ref();
        btf.and_then(|btf| btf.find_by_name_kind(name, Kind::Func))
            .ok_or_else(|| refuse(prog, Errno::ENOENT, &format!("no function '{name}'")))
    }

    fn in_program(&self, target: &Arc<Program>, function: TypeId) -> Result<Place, Error> {
        Ok(Place {
            target: program::target_of(target, function)?,
            prog: Some(Arc::clone(target)),
            function,
        })
    }

    /// The function of the host that a program was loaded for.
    fn in_kernel(&self, prog: &Program) -> Result<Place, Error> {
        let function = prog.attr().attach_btf_id;
        if !matches!(prog.attr().attach, AttachTarget::Kernel) || function.is_void() {
            return Err(refuse(prog, Errno::EINVAL, "has no target any more"));
        }
        // DIVERGES: a function that has BTF but no code here is ENOENT when it is attached to; the kernel says so when the program is loaded.
        let target = self.functions.read().get(&function).cloned();
        let target = target.ok_or_else(|| {
            let btf = self.system.kernel_btf();
            let name = btf.as_ref().map_or("", |btf| btf.name(function));
            refuse(
                prog,
                Errno::ENOENT,
                &format!("the host does not offer '{name}'"),
            )
        })?;
        Ok(Place {
            target,
            prog: None,
            function,
        })
    }

    fn link_at(
        &self,
        prog: &Arc<Program>,
        kind: Option<ProgKind>,
        place: Place,
        cookie: u64,
    ) -> Result<Arc<LinkObject>, Error> {
        let object = match &place.prog {
            Some(target) => target.id(),
            None => self.system.kernel_btf_id().unwrap_or(0),
        };
        let held = match kind {
            Some(kind) => attach(prog, kind, &place, cookie),
            None => replace(prog, &place),
        };
        let ops = Arc::new(TracingLink::new(
            held?,
            prog.attr().expected_attach_type,
            (object, place.function),
            cookie,
        ));
        let link = LinkObject::create(&self.system, LinkType::Tracing, prog, ops, |_| Ok(()))?;
        prog.forget_load_target();
        Ok(link)
    }
}

/// When the program runs; `None` for an extension, which runs instead.
///
/// # Errors
/// EINVAL: a program that is not attached to functions.
fn kind_of(prog: &Program) -> Result<Option<ProgKind>, Error> {
    let attach_type = AttachType::from_raw(prog.attr().expected_attach_type);
    match (prog.prog_type(), attach_type) {
        (ProgType::Tracing, Some(AttachType::TraceFentry)) => Ok(Some(ProgKind::Fentry)),
        (ProgType::Tracing, Some(AttachType::TraceFexit)) => Ok(Some(ProgKind::Fexit)),
        (ProgType::Tracing, Some(AttachType::ModifyReturn))
        | (ProgType::Lsm, Some(AttachType::LsmMac)) => Ok(Some(ProgKind::FmodRet)),
        (ProgType::Ext, _) if prog.attr().expected_attach_type == 0 => Ok(None),
        _ => Err(refuse(prog, Errno::EINVAL, "is not attached to functions")),
    }
}

fn attach(prog: &Arc<Program>, kind: ProgKind, place: &Place, cookie: u64) -> Result<Held, Error> {
    let attachment = place
        .target
        .attach(kind, Arc::clone(prog) as ProgRef, cookie)
        .map_err(|error| refused(prog, &error))?;
    Ok(Held::Attached {
        attachment,
        target: place.prog.clone(),
    })
}

fn replace(prog: &Arc<Program>, place: &Place) -> Result<Held, Error> {
    let Some(target) = &place.prog else {
        return Err(refuse(
            prog,
            Errno::EINVAL,
            "functions of the host cannot be replaced",
        ));
    };
    if !matches!(prog.engine(), Engine::Jit(_)) {
        return Err(refuse(
            prog,
            Errno::EINVAL,
            "only a compiled program replaces another's function",
        ));
    }
    target.begin_extension().map_err(|errno| {
        let what = format!("program '{}' is in a prog array", target.name());
        refuse(prog, errno, &what)
    })?;
    match place.target.replace(Arc::clone(prog) as ProgRef) {
        Ok(replacement) => Ok(Held::Replaced {
            replacement,
            target: Arc::clone(target),
        }),
        Err(error) => {
            target.end_extension();
            Err(refused(prog, &error))
        }
    }
}

fn refused(prog: &Program, error: &AttachError) -> Error {
    refuse(prog, error.errno(), &error.to_string())
}

pub(crate) fn refuse(prog: &Program, errno: Errno, what: &str) -> Error {
    Error::new(errno, format!("program '{}': {what}", prog.name()))
}
