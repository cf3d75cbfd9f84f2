//! Raw tracepoints: places in a host's code that it declares by name, and fires with arguments. Programs run in the order in which they came.
//!
//! A tracepoint that nobody listens to costs one load. Detaching publishes a shorter list and waits for nobody.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ring3_btf::{Btf, Builder, Prototype};
use ring3_helpers::plain_context::{
    RAW_TRACEPOINT_ARGS, TypedArgs, run_raw_tracepoint, run_typed_tracepoint,
};
use ring3_objects::{Error, LinkObject, Program};
use ring3_runtime::{RunContext, with_run_context};
use ring3_sync::RcuCell;
use ring3_uapi::{AttachType, Errno, LinkType, ProgType};

use crate::{Tracing, attach::refuse, links::TracepointLink};

/// What a host declares of a tracepoint.
#[derive(Debug)]
pub struct TracepointSpec {
    name: String,
    args: usize,
    typed: Option<(Prototype, TypedArgs)>,
}

impl TracepointSpec {
    /// A tracepoint of so many u64 arguments, at most 12.
    pub fn new(name: impl Into<String>, args: usize) -> TracepointSpec {
        TracepointSpec {
            name: name.into(),
            args,
            typed: None,
        }
    }

    /// A tracepoint whose arguments have the types of a prototype `void NAME(...)`, so that programs on `tp_btf/NAME` may follow them; `typed` is
    /// the promise that they have.
    ///
    /// # Errors
    /// EINVAL: not a prototype.
    pub fn typed(prototype: &str, typed: TypedArgs) -> Result<TracepointSpec, Error> {
        let prototype = Prototype::parse(prototype)
            .map_err(|error| Error::new(error.errno(), error.message()))?;
        Ok(TracepointSpec {
            name: prototype.name().to_owned(),
            args: prototype.param_count(),
            typed: Some((prototype, typed)),
        })
    }
}

/// A program on a tracepoint.
#[derive(Clone)]
struct Probe {
    key: u64,
    prog: Arc<Program>,
    cookie: u64,
}

/// A tracepoint.
pub struct Tracepoint {
    name: String,
    args: usize,
    typed: Option<TypedArgs>,
    is_watched: AtomicBool,
    probes: RcuCell<Vec<Probe>>,
    next_key: AtomicU64,
}

impl std::fmt::Debug for Tracepoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracepoint")
            .field("name", &self.name)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

impl Tracepoint {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether any program listens.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Runs every program over these arguments; those that are missing are 0, those that are too many are not seen.
    #[inline]
    pub fn fire(&self, args: &[u64]) {
        if self.is_watched() {
            self.run(args);
        }
    }

    #[cold]
    fn run(&self, args: &[u64]) {
        let mut words = [0; RAW_TRACEPOINT_ARGS];
        for (word, arg) in words.iter_mut().zip(args).take(self.args) {
            *word = *arg;
        }
        for probe in self.probes.load().iter() {
            let context = RunContext {
                attach_cookie: probe.cookie,
                ..RunContext::default()
            };
            // The program's type was checked when it was attached.
            let _ = with_run_context(&context, || match &self.typed {
                Some(typed) if probe.prog.prog_type() == ProgType::Tracing => {
                    run_typed_tracepoint(&*probe.prog, typed, &words)
                }
                _ => run_raw_tracepoint(&*probe.prog, &words),
            });
        }
    }

    fn add(&self, prog: &Arc<Program>, cookie: u64) -> u64 {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let probe = Probe {
            key,
            prog: Arc::clone(prog),
            cookie,
        };
        self.probes.update(|old| {
            let longer = old.iter().cloned().chain([probe]).collect();
            self.is_watched.store(true, Ordering::Release);
            (longer, ())
        });
        key
    }

    pub(crate) fn remove(&self, key: u64) {
        self.probes.update(|old| {
            let left: Vec<Probe> = old
                .iter()
                .filter(|probe| probe.key != key)
                .cloned()
                .collect();
            self.is_watched.store(!left.is_empty(), Ordering::Release);
            (left, ())
        });
    }
}

impl Tracing {
    /// Declares a tracepoint. A typed one comes into the kernel BTF, so declare before a [`ring3_objects::BtfObject`] is made of it.
    ///
    /// # Errors
    /// EINVAL: more than 12 arguments. EEXIST: there is one of this name. ENOENT: a type in the prototype that the BTF does not have.
    pub fn declare_tracepoint(&self, spec: TracepointSpec) -> Result<Arc<Tracepoint>, Error> {
        let TracepointSpec { name, args, typed } = spec;
        let fail =
            |errno, what: &str| Err(Error::new(errno, format!("tracepoint '{name}': {what}")));
        if args > RAW_TRACEPOINT_ARGS {
            return fail(Errno::EINVAL, "more than 12 arguments");
        }
        let mut known = self.tracepoints.write();
        if known.contains_key(&name) {
            return fail(Errno::EEXIST, "was declared before");
        }
        let typed = match typed {
            Some((prototype, typed)) => {
                self.describe(&prototype)?;
                Some(typed)
            }
            None => None,
        };
        let tracepoint = Arc::new(Tracepoint {
            name: name.clone(),
            args,
            typed,
            is_watched: AtomicBool::new(false),
            probes: RcuCell::new(Vec::new()),
            next_key: AtomicU64::new(1),
        });
        known.insert(name, Arc::clone(&tracepoint));
        Ok(tracepoint)
    }

    fn describe(&self, prototype: &Prototype) -> Result<(), Error> {
        let from = |error: ring3_btf::BtfError| Error::new(error.errno(), error.message());
        let old = match self.system.kernel_btf() {
            Some(btf) => btf,
            None => Btf::parse(&Builder::new().finish()).map_err(from)?,
        };
        let mut builder = Builder::extend(&old);
        prototype
            .add_tracepoint_to(&old, &mut builder)
            .map_err(from)?;
        self.system
            .set_kernel_btf(Btf::parse(&builder.finish()).map_err(from)?);
        Ok(())
    }

    /// Attaches a program to a raw tracepoint (BPF_RAW_TRACEPOINT_OPEN): by name, or where it was loaded for (`tp_btf`).
    ///
    /// # Errors
    /// EINVAL: a program of another type, a name for one that was loaded for its tracepoint, none for others, or a program that reads more arguments than there
    /// are. ENOENT: no such tracepoint. ENOTSUPP: a program that writes to the tracepoint's buffer.
    pub fn link_tracepoint(
        &self,
        prog: &Arc<Program>,
        name: Option<&str>,
        cookie: u64,
    ) -> Result<Arc<LinkObject>, Error> {
        let btf = self.system.kernel_btf();
        let tracepoint = match (prog.prog_type(), name) {
            (ProgType::RawTracepoint | ProgType::RawTracepointWritable, Some(name)) => {
                self.find(prog, name)?
            }
            (ProgType::Tracing, None) if is_tracepoint_program(prog) => {
                let full = btf
                    .as_ref()
                    .map_or("", |btf| btf.name(prog.attr().attach_btf_id));
                let found = self.find(prog, full.strip_prefix("btf_trace_").unwrap_or(full))?;
                if found.typed.is_none() {
                    return Err(refuse(
                        prog,
                        Errno::EINVAL,
                        "the tracepoint's arguments have no types",
                    ));
                }
                found
            }
            _ => {
                return Err(refuse(
                    prog,
                    Errno::EINVAL,
                    "is not attached to raw tracepoints",
                ));
            }
        };
        let verified = prog.verified();
        if verified.max_ctx_offset as usize > tracepoint.args * 8 || verified.max_tp_access > 0 {
            let what = format!("reads more than the {} arguments", tracepoint.args);
            return Err(refuse(prog, Errno::EINVAL, &what));
        }
        if prog.prog_type() == ProgType::RawTracepointWritable {
            return Err(refuse(
                prog,
                Errno::ENOTSUPP,
                "tracepoints have no buffer to write to",
            ));
        }
        let key = tracepoint.add(prog, cookie);
        let ops = Arc::new(TracepointLink {
            tracepoint,
            key,
            cookie,
        });
        LinkObject::create(&self.system, LinkType::RawTracepoint, prog, ops, |_| Ok(()))
    }

    fn find(&self, prog: &Program, name: &str) -> Result<Arc<Tracepoint>, Error> {
        let found = self.tracepoints.read().get(name).cloned();
        found.ok_or_else(|| refuse(prog, Errno::ENOENT, &format!("no tracepoint '{name}'")))
    }
}

/// Whether the program was loaded for a raw tracepoint of the kernel BTF.
pub(crate) fn is_tracepoint_program(prog: &Program) -> bool {
    let attach_type = AttachType::from_raw(prog.attr().expected_attach_type);
    prog.prog_type() == ProgType::Tracing && attach_type == Some(AttachType::TraceRawTp)
}
