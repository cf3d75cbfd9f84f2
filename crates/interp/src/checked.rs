//! The checked mode: every access is compared with the memory that a run may touch, every step counts against a budget and may be looked
//! at. It runs conformance programs that no verifier saw, and the containment oracle's runs of programs that one did.
//!
//! Key types: [`Checks`] (what to check), [`RunError`] (why a run ended), [`watch`] (programs that hooks run are checked as well).
//! Neighbours: `step` (the run), `ring3_runtime::Regions`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{ControlFlow, Range};

use ring3_isa::RawInsn;
use ring3_runtime::{
    Access, AccessViolation, HelperFn, LinkError, Linked, MAX_CALL_FRAMES, MemRegion, Permissions,
    Regions,
};

use crate::op::Step;
use crate::predecode::LoadError;
use crate::program::{Inner, Program};
use crate::run::{At, Boundary, Guard, Handler, REGISTERS, execute};
use crate::stack::{FRAME_BYTES, RUN_FRAMES};
use crate::step::handler;

/// Which memory, apart from its own stack, a checked run may touch.
pub trait MemoryPolicy {
    /// Judges an access of `size_bytes` bytes.
    ///
    /// # Errors
    /// [`AccessViolation`]: the run ends.
    fn check(&self, address: u64, size_bytes: u64, access: Access) -> Result<(), AccessViolation>;
}

impl MemoryPolicy for Regions {
    fn check(&self, address: u64, size_bytes: u64, access: Access) -> Result<(), AccessViolation> {
        Regions::check(self, address, size_bytes, access)
    }
}

/// The state before one step of a checked run.
#[derive(Clone, Copy, Debug)]
pub struct TraceStep<'a> {
    /// Instruction slot.
    pub slot: u32,
    /// [`Program::tail_target`] of the program it is in: tail calls change it.
    pub program: usize,
    /// Runs around this one: a callback runs inside of the run whose helper calls it.
    pub nesting: usize,
    /// Calls of subprograms on top of the run's first frame.
    pub depth: usize,
    /// r0 to r10.
    pub registers: &'a [u64; 11],
    /// Addresses of the live frames of each run.
    stacks: &'a [Range<u64>],
}

impl<'a> TraceStep<'a> {
    /// The live frames of a run, the outermost run being 0: the frame at depth d ends `d * 512` bytes before the end.
    pub fn stack(&self, nesting: usize) -> Option<&'a [u8]> {
        let range = self.stacks.get(nesting)?;
        let bytes = std::ptr::with_exposed_provenance::<u8>(range.start as usize);
        // SAFETY: 1. the range is the live frames of a run on this thread, initialised memory; 2. no program runs while a trace looks.
        Some(unsafe { std::slice::from_raw_parts(bytes, (range.end - range.start) as usize) })
    }

    /// Address behind the frame at depth 0 of a run.
    pub fn stack_end(&self, nesting: usize) -> Option<u64> {
        self.stacks.get(nesting).map(|range| range.end)
    }
}

/// Sees every step of a checked run.
pub trait Trace {
    /// Before a step. `Break` ends the run with [`RunErrorKind::Stopped`].
    fn step(&mut self, step: TraceStep<'_>) -> ControlFlow<()>;
}

impl<F: FnMut(TraceStep<'_>)> Trace for F {
    fn step(&mut self, step: TraceStep<'_>) -> ControlFlow<()> {
        self(step);
        ControlFlow::Continue(())
    }
}

/// What a checked run is held to.
pub struct Checks<'a> {
    /// Memory beside the program's own stack.
    pub memory: &'a dyn MemoryPolicy,
    /// Steps before the run ends with [`RunErrorKind::Budget`].
    pub budget: u64,
    /// Nested frames, the first included; more end the run. Programs with tail calls in subprograms may need more than eight.
    pub frames_max: usize,
    /// Looks at every step.
    pub trace: Option<&'a mut dyn Trace>,
}

impl<'a> Checks<'a> {
    /// Only this memory, 100 million steps, eight frames, no trace.
    pub fn new(memory: &'a dyn MemoryPolicy) -> Self {
        Checks {
            memory,
            budget: 100_000_000,
            frames_max: MAX_CALL_FRAMES,
            trace: None,
        }
    }
}

/// Why a checked run ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError {
    /// The instruction slot.
    pub slot: u32,
    /// What it did.
    pub kind: RunErrorKind,
}

/// What ends a checked run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunErrorKind {
    /// An access outside of the allowed memory.
    Access(AccessViolation),
    /// An atomic access at an address that is no multiple of its size.
    Misaligned {
        /// The address.
        address: u64,
        /// Size in bytes.
        size_bytes: u64,
    },
    /// The budget of steps is used up.
    Budget,
    /// Too many nested calls.
    CallDepth {
        /// Frames allowed.
        frames_max: usize,
    },
    /// The trace ended the run.
    Stopped,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "insn {}: ", self.slot)?;
        match &self.kind {
            RunErrorKind::Access(violation) => violation.fmt(f),
            RunErrorKind::Misaligned {
                address,
                size_bytes,
            } => {
                write!(
                    f,
                    "atomic access of {size_bytes} bytes at {address:#x}, which is no multiple of them"
                )
            }
            RunErrorKind::Budget => f.write_str("the budget of instructions is used up"),
            RunErrorKind::CallDepth { frames_max } => {
                write!(f, "more than {frames_max} nested calls")
            }
            RunErrorKind::Stopped => f.write_str("stopped by the trace"),
        }
    }
}

impl std::error::Error for RunError {}

/// The guard of a checked run, its callbacks included.
struct Checked<'a> {
    memory: &'a dyn MemoryPolicy,
    budget_left: Cell<u64>,
    frames_max: usize,
    trace: Option<RefCell<&'a mut dyn Trace>>,
    /// The live frames of this run; a callback's lie below on the same stack, or on another.
    frames: RefCell<Vec<Range<u64>>>,
    /// Why a callback ended early; the step that called the helper ends the run with it.
    failed: RefCell<Option<RunError>>,
}

thread_local! {
    /// The guard of the innermost checked run on this thread.
    static CURRENT: Cell<*const Checked<'static>> = const { Cell::new(std::ptr::null()) };
}

/// Puts the guard around it back, also when the run unwinds.
struct Restore(*const Checked<'static>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl<'a> Checked<'a> {
    fn new(checks: Checks<'a>) -> Self {
        Checked {
            memory: checks.memory,
            budget_left: Cell::new(checks.budget),
            frames_max: checks.frames_max,
            trace: checks.trace.map(RefCell::new),
            frames: RefCell::new(Vec::new()),
            failed: RefCell::new(None),
        }
    }

    fn error(&self, at: At<'_>, kind: RunErrorKind) -> RunError {
        RunError {
            slot: at.program.slot_of(at.pc),
            kind,
        }
    }

    /// Runs a function with its frames registered.
    fn run(
        &self,
        program: &Inner,
        start: usize,
        args: [u64; 5],
        boundary: Boundary,
    ) -> Result<u64, RunError> {
        self.frames.borrow_mut().push(0..0);
        // SAFETY: 1. `start` is the first step of a function; 2. this guard refuses accesses that the policy does not allow; 3. the
        // linker of the program vouches for what it was linked to.
        let result = unsafe { execute(program, start, args, boundary, self) };
        self.frames.borrow_mut().pop();
        result
    }
}

impl Guard for Checked<'_> {
    type Stop = RunError;
    const CLEARS_FRAMES: bool = true;
    const FUEL: u64 = 0;

    fn handler(step: &Step) -> Handler<Self> {
        handler::<Self>(step.op)
    }

    fn step(&self, at: At<'_>, depth: usize, registers: &[u64; REGISTERS]) -> Result<(), RunError> {
        let left = self.budget_left.get();
        if left == 0 {
            return Err(self.error(at, RunErrorKind::Budget));
        }
        self.budget_left.set(left - 1);
        if let Some(trace) = &self.trace {
            let mut visible = [0; 11];
            visible.copy_from_slice(&registers[..11]);
            let program = std::ptr::from_ref(at.program).expose_provenance();
            let stacks = self.frames.borrow();
            let step = TraceStep {
                slot: at.program.slot_of(at.pc),
                program,
                nesting: stacks.len().saturating_sub(1),
                depth,
                registers: &visible,
                stacks: &stacks,
            };
            if trace.borrow_mut().step(step).is_break() {
                return Err(self.error(at, RunErrorKind::Stopped));
            }
        }
        Ok(())
    }

    fn access(&self, at: At<'_>, address: u64, bytes: u64, access: Access) -> Result<(), RunError> {
        let on_stack =
            |frames: &Range<u64>| frames.contains(&address) && bytes <= frames.end - address;
        if self.frames.borrow().iter().any(on_stack) {
            return Ok(());
        }
        self.memory
            .check(address, bytes, access)
            .map_err(|violation| self.error(at, RunErrorKind::Access(violation)))
    }

    fn atomic_access(
        &self,
        at: At<'_>,
        address: u64,
        bytes: u64,
        access: Access,
    ) -> Result<(), RunError> {
        if !address.is_multiple_of(bytes) {
            return Err(self.error(
                at,
                RunErrorKind::Misaligned {
                    address,
                    size_bytes: bytes,
                },
            ));
        }
        self.access(at, address, bytes, access)
    }

    fn frame(&self, bottom: u64) {
        if let Some(frames) = self.frames.borrow_mut().last_mut() {
            if frames.end == 0 {
                frames.end = bottom + FRAME_BYTES;
            }
            frames.start = bottom;
        }
    }

    fn after_call(&self) -> Result<(), RunError> {
        match self.failed.borrow_mut().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn call(&self, at: At<'_>, depth: usize) -> Result<Option<u64>, RunError> {
        if depth >= self.frames_max.min(RUN_FRAMES) {
            return Err(self.error(
                at,
                RunErrorKind::CallDepth {
                    frames_max: self.frames_max,
                },
            ));
        }
        Ok(None)
    }
}

/// A callback of a checked run is checked too. `None`: no checked run is going on here.
pub(crate) fn run_checked_callback(program: &Inner, start: usize, args: [u64; 5]) -> Option<u64> {
    // 1 ends the loops of helpers.
    run_by_current(program, start, args, Boundary::Callback, 1)
}

/// A run by the guard of this thread; `None` if there is none.
fn run_by_current(
    program: &Inner,
    start: usize,
    args: [u64; 5],
    boundary: Boundary,
    after_error: u64,
) -> Option<u64> {
    let current = CURRENT.get();
    // SAFETY: 1. set by `run_checked` and `watch` for the length of a borrow of the guard, and unset before that ends; 2. shared access
    // only.
    let guard = unsafe { current.as_ref() }?;
    match guard.run(program, start, args, boundary) {
        Ok(result) => Some(result),
        Err(error) => {
            guard.failed.borrow_mut().get_or_insert(error);
            Some(after_error)
        }
    }
}

/// The C function behind [`Program::watched_entry`].
///
/// # Safety
/// As for the unchecked entry: `data` is a live `Inner` of a verified program, `ctx` a context of its type, in a read section.
pub(crate) unsafe extern "C" fn run_watched(ctx: u64, data: *const ()) -> u64 {
    // SAFETY: 1. the caller's contract: a live `Inner`.
    let program = unsafe { &*data.cast::<Inner>() };
    let args = [ctx, 0, 0, 0, 0];
    run_by_current(program, 0, args, Boundary::Program, 0).unwrap_or_else(|| {
        // SAFETY: 1. the caller's contract is that of the unchecked entry.
        unsafe { crate::run::run_entry(ctx, data) }
    })
}

/// Calls `body`; runs that begin in it on this thread through a [`Program::watched_entry`] are held to `checks`, all to one budget. A run
/// that breaks them ends with 0.
///
/// # Errors
/// The first [`RunError`] of these runs.
pub fn watch<T>(checks: Checks<'_>, body: impl FnOnce() -> T) -> Result<T, RunError> {
    let guard = Checked::new(checks);
    let _restore = Restore(CURRENT.replace((&raw const guard).cast()));
    let result = body();
    match guard.failed.borrow_mut().take() {
        Some(error) => Err(error),
        None => Ok(result),
    }
}

impl Program {
    /// Runs the program with `args` in r1 to r5, every access checked.
    ///
    /// # Errors
    /// [`RunError`]: an access that `checks` does not allow, the budget, nested calls. What the program did before stands.
    ///
    /// # Safety
    /// The memory that `checks` allows is valid for such accesses during the run, and what the program was linked to is alive. A program that
    /// calls helpers was verified: helpers are called with whatever the registers hold.
    pub unsafe fn run_checked(&self, args: [u64; 5], checks: Checks<'_>) -> Result<u64, RunError> {
        let guard = Checked::new(checks);
        let _restore = Restore(CURRENT.replace((&raw const guard).cast()));
        guard.run(&self.inner, 0, args, Boundary::Program)
    }
}

/// Why an unverified program gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnverifiedError {
    /// The text is no whole number of slots.
    Length {
        /// Its bytes.
        bytes: usize,
    },
    /// Not a program.
    Link(LinkError),
    /// Not one that the interpreter runs.
    Load(LoadError),
    /// It did something that it may not.
    Run(RunError),
}

impl fmt::Display for UnverifiedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnverifiedError::Length { bytes } => {
                write!(f, "a program of {bytes} bytes, which is no multiple of 8")
            }
            UnverifiedError::Link(error) => error.fmt(f),
            UnverifiedError::Load(error) => error.fmt(f),
            UnverifiedError::Run(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UnverifiedError {}

/// Runs a program that no verifier saw: r1 is the address of `memory`, r2 its length in bytes. It may touch `memory` and its own stack, and
/// calls no helpers.
///
/// # Errors
/// [`UnverifiedError`]: not a program, or an access outside of memory and stack, or no end within 100 million steps.
///
/// ```
/// use ring3_interp::run_unverified;
/// // r0 = *(u8 *)(r1 +1); exit
/// let program = [0x71, 0x10, 1, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// assert_eq!(run_unverified(&program, &mut [7, 8, 9]), Ok(8));
/// let error = run_unverified(&program, &mut [7]).unwrap_err().to_string();
/// assert!(error.starts_with("insn 0: invalid load of 1 bytes at "), "{error}");
/// ```
pub fn run_unverified(program: &[u8], memory: &mut [u8]) -> Result<u64, UnverifiedError> {
    run_unverified_with(program, memory, &|_| None)
}

/// As [`run_unverified`], with helpers.
///
/// # Errors
/// As [`run_unverified`].
pub fn run_unverified_with(
    program: &[u8],
    memory: &mut [u8],
    helper: &dyn Fn(i32) -> Option<HelperFn>,
) -> Result<u64, UnverifiedError> {
    let (slots, rest) = program.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(UnverifiedError::Length {
            bytes: program.len(),
        });
    }
    let insns: Vec<RawInsn> = slots
        .iter()
        .map(|slot| RawInsn::from_bytes(*slot))
        .collect();
    let linked = Linked::unverified(insns, helper).map_err(UnverifiedError::Link)?;
    let program = Program::load(&linked).map_err(UnverifiedError::Load)?;
    let start = memory.as_mut_ptr().expose_provenance() as u64;
    let len_bytes = memory.len() as u64;
    let mut regions = Regions::new();
    let region = MemRegion {
        start,
        len_bytes,
        permissions: Permissions::ReadWrite,
        name: "memory".into(),
    };
    // The only region: it overlaps none, and a slice does not wrap around.
    let _ = regions.add(region);
    // SAFETY: 1. the region is the borrowed slice; 2. the program is linked to nothing but the caller's helpers, which take any numbers.
    unsafe { program.run_checked([start, len_bytes, 0, 0, 0], Checks::new(&regions)) }
        .map_err(UnverifiedError::Run)
}
