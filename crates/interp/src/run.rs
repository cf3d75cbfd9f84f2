//! A run: its state, what watches it ([`Guard`]), and the loop that gives control to the functions of `step`.
//!
//! ```text
//! registers  r0..r10, r11 in an array on the host's stack
//! pc         pointer into the program's steps
//! depth      calls of subprograms on top of this run's first frame; frame d is d * 512 bytes below the first
//! exit       depth 0: the run's result; else back behind the call, r6..r9 and r10 as they were
//! tail call  another program's first step in the same frame; at most 33 a run
//! throw      to the run's first frame, see `ring3_runtime::exception`
//! ```
//!
//! Threaded: a step's function does its work and calls the next step's in tail position, which compiles to a jump. Stable Rust does not
//! promise that, so each function takes `fuel`, one less for each step, and returns to the loop when it is used up: a build without tail
//! calls uses at most `QUANTUM` frames of the host's stack, one with them pays a decrement. (A loop around one `match` took 1.3 ns an
//! instruction where this takes 0.9.) The checked mode gives no fuel and so gets control back after each step.
//!
//! What every function of a step relies on (its `# Safety`), established by `predecode` for verified and unverified programs alike:
//! 1. `pc` points to a step of the program that `run` is in; a step that runs on has a step after it; distances lead to steps.
//! 2. Register numbers are below 12, indices into side tables inside them, addresses of functions those of a `HelperFn`.
//! 3. `registers` points to [`REGISTERS`] words, `run` to the run's state; nobody else uses them.
//!
//! What makes the program's own accesses sound is the verifier (unchecked) or the guard (checked).

use std::convert::Infallible;

use ring3_runtime::{Access, Callback, GivenHelperFn, HelperFn, exception};

use crate::op::Step;
use crate::program::{CallbackRecord, Inner};
use crate::stack::{FRAME_BYTES, RUN_FRAMES, RunFrames};

/// r0 to r11.
pub(crate) const REGISTERS: usize = 12;

/// Steps between two returns to the loop.
const QUANTUM: u64 = 1024;

/// Passes of one `may_goto` budget: those of one function call.
///
/// # Source
/// Linux 6.18, `BPF_MAX_LOOPS`.
pub(crate) const MAY_GOTO_PASSES: u32 = 8 * 1024 * 1024;

/// Does a step and, while there is fuel, those after it. Returns the step to go on with, or null when the run has an outcome.
pub(crate) type Handler<G> =
    unsafe extern "C" fn(*const Step, *mut u64, *mut Run<G>, u64) -> *const Step;

/// Where an exception stops and what the run's result is then.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// A program: its exception callback decides.
    Program,
    /// A callback: the exception stays pending for the helper's caller.
    Callback,
}

/// The state of a run beside its registers.
pub(crate) struct Run<G: Guard> {
    guard: *const G,
    /// The program that runs: tail calls change it.
    pub(crate) program: *const Inner,
    pub(crate) frames: RunFrames,
    pub(crate) depth: usize,
    pub(crate) tail_calls: u32,
    pub(crate) may_goto_left: u32,
    boundary: Boundary,
    in_exception_callback: bool,
    outcome: Option<Result<u64, G::Stop>>,
}

/// The place of a step, for messages.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) program: &'a Inner,
    pub(crate) pc: *const Step,
}

/// What watches a run.
pub(crate) trait Guard: Sized {
    /// Why a run ends early.
    type Stop;
    /// Whether new frames are filled with zeros.
    const CLEARS_FRAMES: bool;
    /// Steps between two calls of [`Guard::step`].
    const FUEL: u64;

    /// The function to call for a step in threaded order.
    fn handler(step: &Step) -> Handler<Self>;

    /// Whenever control is back at the loop; before each step if `FUEL` is 0.
    fn step(
        &self,
        at: At<'_>,
        depth: usize,
        registers: &[u64; REGISTERS],
    ) -> Result<(), Self::Stop>;

    /// Before each access to memory.
    fn access(
        &self,
        at: At<'_>,
        address: u64,
        bytes: u64,
        access: Access,
    ) -> Result<(), Self::Stop>;

    /// Before each atomic access.
    fn atomic_access(
        &self,
        at: At<'_>,
        address: u64,
        bytes: u64,
        access: Access,
    ) -> Result<(), Self::Stop>;

    /// A frame begins or ends: the lowest address of the live frames.
    fn frame(&self, bottom: u64);

    /// After each call of a helper, which may have run callbacks.
    fn after_call(&self) -> Result<(), Self::Stop>;

    /// A call would be the `depth`-th on top of the first frame. `Ok(Some(_))` ends the run with that result.
    fn call(&self, at: At<'_>, depth: usize) -> Result<Option<u64>, Self::Stop>;
}

/// No checks: for programs that the verifier accepted.
pub(crate) struct Unchecked;

impl Guard for Unchecked {
    type Stop = Infallible;
    const CLEARS_FRAMES: bool = false;
    const FUEL: u64 = QUANTUM;

    #[inline(always)]
    fn handler(step: &Step) -> Handler<Self> {
        step.handler
    }

    #[inline(always)]
    fn step(&self, _: At<'_>, _: usize, _: &[u64; REGISTERS]) -> Result<(), Infallible> {
        Ok(())
    }

    #[inline(always)]
    fn access(&self, _: At<'_>, _: u64, _: u64, _: Access) -> Result<(), Infallible> {
        Ok(())
    }

    #[inline(always)]
    fn atomic_access(&self, _: At<'_>, _: u64, _: u64, _: Access) -> Result<(), Infallible> {
        Ok(())
    }

    #[inline(always)]
    fn frame(&self, _: u64) {}

    #[inline(always)]
    fn after_call(&self) -> Result<(), Infallible> {
        Ok(())
    }

    /// The verifier allows eight frames; a program that gets here ends with 0 rather than write outside of the stack.
    #[inline(always)]
    fn call(&self, _: At<'_>, depth: usize) -> Result<Option<u64>, Infallible> {
        Ok((depth >= RUN_FRAMES).then_some(0))
    }
}

/// The C function behind [`crate::Program::entry`].
///
/// # Safety
/// `data` is an `Inner` that lives for the call and was verified; `ctx` is a context of its type; the thread is in a read section.
pub(crate) unsafe extern "C" fn run_entry(ctx: u64, data: *const ()) -> u64 {
    // SAFETY: 1. the caller's contract: a live `Inner`.
    let program = unsafe { &*data.cast::<Inner>() };
    // SAFETY: 1. step 0 begins the main function; 2. verified, and the rest as above.
    let Ok(result) =
        unsafe { execute(program, 0, [ctx, 0, 0, 0, 0], Boundary::Program, &Unchecked) };
    result
}

/// The C function in the head of every [`CallbackRecord`].
///
/// # Safety
/// `record` is the head of a `CallbackRecord` of a live, verified program; the arguments are what the verifier assumed.
pub(crate) unsafe extern "C" fn run_callback(
    r1: u64,
    r2: u64,
    r3: u64,
    r4: u64,
    r5: u64,
    record: *const Callback,
) -> u64 {
    let args = [r1, r2, r3, r4, r5];
    // SAFETY: 1. records with this code are heads of `CallbackRecord`s; 2. their program lives by the caller's contract.
    let (program, start) = unsafe {
        let record = &*record.cast::<CallbackRecord>();
        (&*record.program, record.start)
    };
    if let Some(result) = crate::checked::run_checked_callback(program, start, args) {
        return result;
    }
    // SAFETY: 1. `start` is a first step of a function; 2. verified by the caller's contract.
    let Ok(result) = unsafe { execute(program, start, args, Boundary::Callback, &Unchecked) };
    result
}

/// Runs a function of `program` from step `start` with `args` in r1 to r5.
///
/// # Safety
/// - `start` is the first step of a function;
/// - either the verifier accepted the program and `args` are what it assumed, or `guard` refuses accesses to memory that the program
///   may not touch;
/// - what the program was linked to is alive.
pub(crate) unsafe fn execute<G: Guard>(
    program: &Inner,
    start: usize,
    args: [u64; 5],
    boundary: Boundary,
    guard: &G,
) -> Result<u64, G::Stop> {
    let mut run = Run {
        guard,
        program,
        frames: RunFrames::take(),
        depth: 0,
        tail_calls: 0,
        may_goto_left: MAY_GOTO_PASSES,
        boundary,
        in_exception_callback: false,
        outcome: None,
    };
    let mut registers = [0; REGISTERS];
    registers[1..6].copy_from_slice(&args);
    registers[10] = run.frames.frame_pointer(0);
    if G::CLEARS_FRAMES {
        run.frames.clear(0);
    }
    guard.frame(registers[10] - FRAME_BYTES);
    let mut pc = program.steps[start..].as_ptr();
    loop {
        // SAFETY: 1. the program that runs is alive: this one, or one that a tail call entered in the caller's read section.
        let running = unsafe { &*run.program };
        let at = At {
            program: running,
            pc,
        };
        guard.step(at, run.depth, &registers)?;
        // SAFETY: 1. to 3. as the module says: `pc` began at a step and each function returns one.
        pc = unsafe { G::handler(&*pc)(pc, registers.as_mut_ptr(), &raw mut run, G::FUEL) };
        if pc.is_null()
            && let Some(outcome) = run.outcome.take()
        {
            return outcome;
        }
    }
}

/// Goes on with `pc`.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub(crate) unsafe fn go<G: Guard>(
    pc: *const Step,
    registers: *mut u64,
    run: *mut Run<G>,
    fuel: u64,
) -> *const Step {
    if G::FUEL == 0 || fuel == 0 {
        return pc;
    }
    // SAFETY: 1. to 3. of the module, from the caller.
    unsafe { G::handler(&*pc)(pc, registers, run, fuel - 1) }
}

/// The register with this number.
///
/// # Safety
/// 2. and 3. of the module.
#[inline(always)]
pub(crate) unsafe fn reg<'a>(registers: *mut u64, number: u8) -> &'a mut u64 {
    // SAFETY: 1. the number is below 12; 2. nobody else uses the registers.
    unsafe { &mut *registers.add(usize::from(number)) }
}

/// Four words, read one by one: a wide load of what narrow stores wrote just before waits for them, which made a call twice as slow.
///
/// # Safety
/// `words` points to four words.
#[inline(always)]
pub(crate) unsafe fn four_words(words: *const u64) -> [u64; 4] {
    // SAFETY: 1. the caller's word.
    unsafe {
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    }
}

pub(crate) fn pointer<T>(address: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

impl<G: Guard> Run<G> {
    /// Ends the run.
    pub(crate) fn end(&mut self, outcome: Result<u64, G::Stop>) -> *const Step {
        self.outcome = Some(outcome);
        std::ptr::null()
    }

    /// The guard, the program and the place of a step.
    ///
    /// # Safety
    /// `pc` is a step of the program that runs.
    #[inline(always)]
    pub(crate) unsafe fn at<'a>(&self, pc: *const Step) -> (&'a G, At<'a>) {
        // SAFETY: 1. `execute` borrows the guard for the run; 2. the program lives, see there.
        unsafe {
            (
                &*self.guard,
                At {
                    program: &*self.program,
                    pc,
                },
            )
        }
    }

    /// Opens a frame for a function that returns to `back`: false if the run ends instead.
    ///
    /// # Safety
    /// 1. and 3. of the module.
    #[inline(always)]
    pub(crate) unsafe fn enter(
        &mut self,
        pc: *const Step,
        back: *const Step,
        registers: *mut u64,
        restores: bool,
    ) -> bool {
        // SAFETY: 1. of the module.
        let (guard, at) = unsafe { self.at(pc) };
        let depth = self.depth + 1;
        match guard.call(at, depth) {
            Ok(None) => {}
            Ok(Some(result)) => {
                self.end(Ok(result));
                return false;
            }
            Err(stop) => {
                self.end(Err(stop));
                return false;
            }
        }
        self.depth = depth;
        // SAFETY: 1. the guard lets no run nest deeper than RUN_FRAMES.
        let saved = unsafe { self.frames.saved(depth) };
        saved.pc = back;
        saved.program = self.program;
        saved.may_goto_left = self.may_goto_left;
        saved.restores = restores;
        if restores {
            // SAFETY: 1. r6 to r9 are inside the registers.
            saved.callee_saved = unsafe { four_words(registers.add(6)) };
        }
        self.frames.set_depth(depth);
        self.may_goto_left = MAY_GOTO_PASSES;
        if G::CLEARS_FRAMES {
            self.frames.clear(depth);
        }
        let frame_pointer = self.frames.frame_pointer(depth);
        // SAFETY: 1. r10 is inside the registers.
        unsafe { registers.add(10).write(frame_pointer) };
        guard.frame(frame_pointer - FRAME_BYTES);
        true
    }

    /// Leaves the function with what is in r0: the step to go on with, or null.
    ///
    /// # Safety
    /// 3. of the module.
    #[inline(always)]
    pub(crate) unsafe fn leave(&mut self, registers: *mut u64) -> *const Step {
        if self.depth == 0 {
            // SAFETY: 1. of this function.
            return self.end(Ok(unsafe { *registers }));
        }
        // SAFETY: 1. `enter` saved at this depth.
        let saved = unsafe { self.frames.saved(self.depth) };
        let (to, program, restores) = (saved.pc, saved.program, saved.restores);
        self.may_goto_left = saved.may_goto_left;
        if restores {
            // SAFETY: 1. r6 to r9 are inside the registers.
            unsafe {
                let kept = four_words(saved.callee_saved.as_ptr());
                registers.add(6).cast::<[u64; 4]>().write(kept);
            }
        }
        self.depth -= 1;
        self.frames.set_depth(self.depth);
        self.program = program;
        let frame_pointer = self.frames.frame_pointer(self.depth);
        // SAFETY: 1. r10 is inside the registers; 2. the guard lives.
        unsafe {
            registers.add(10).write(frame_pointer);
            (*self.guard).frame(frame_pointer - FRAME_BYTES);
        }
        to
    }

    /// Throws: to the exception callback, once, else out of the run.
    ///
    /// # Safety
    /// 3. of the module.
    pub(crate) unsafe fn throw(&mut self, registers: *mut u64, cookie: u64) -> *const Step {
        if self.boundary == Boundary::Callback {
            exception::set_pending(cookie);
            return self.end(Ok(1));
        }
        // SAFETY: 1. the program lives, see `execute`.
        let program = unsafe { &*self.program };
        let Some(start) = program
            .exception_callback
            .filter(|_| !self.in_exception_callback)
        else {
            return self.end(Ok(cookie));
        };
        self.in_exception_callback = true;
        self.depth = 0;
        self.frames.set_depth(0);
        self.may_goto_left = MAY_GOTO_PASSES;
        let frame_pointer = self.frames.frame_pointer(0);
        // SAFETY: 1. r1 and r10 are inside the registers; 2. the guard lives.
        unsafe {
            registers.add(1).write(cookie);
            registers.add(10).write(frame_pointer);
            (*self.guard).frame(frame_pointer - FRAME_BYTES);
        }
        program.steps[start..].as_ptr()
    }

    /// Calls the helper of a step.
    ///
    /// # Safety
    /// 1. to 3. of the module; the registers hold what the helper takes.
    #[inline(always)]
    pub(crate) unsafe fn call_helper(
        &mut self,
        step: &Step,
        registers: *mut u64,
    ) -> Result<(), G::Stop> {
        // SAFETY: 1. `imm` is the address of a `HelperFn`; 2. the arguments fit it: the verifier's word (helpers of unverified programs
        // are chosen by who links them); 3. the guard lives.
        unsafe {
            let code = std::mem::transmute::<*const (), HelperFn>(pointer::<()>(step.imm));
            let argument = |number: usize| *registers.add(number);
            *registers = code(
                argument(1),
                argument(2),
                argument(3),
                argument(4),
                argument(5),
            );
            (*self.guard).after_call()
        }
    }

    /// Calls a helper with r1 to r5 and the word that is put down for it.
    ///
    /// # Safety
    /// As [`Run::call_helper`].
    pub(crate) unsafe fn call_given(
        &mut self,
        (code, word): (GivenHelperFn, u64),
        registers: *mut u64,
    ) -> Result<(), G::Stop> {
        // SAFETY: 1. as in `call_helper`; 2. the word is what the helper takes.
        unsafe {
            let [a, b, c, d, e] = std::array::from_fn(|number| *registers.add(1 + number));
            *registers = code(a, b, c, d, e, word);
            (*self.guard).after_call()
        }
    }
}
