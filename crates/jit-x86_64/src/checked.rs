//! Checked programs: compiled code for instructions that no verifier saw.
//!
//! Every load, store and atomic first calls a routine that asks [`Regions`]; every jump back and every call takes from a budget. A bad access
//! or an empty budget leaves the program from wherever it is, by resetting the stack pointer to what the entry saved: no frames but those of
//! compiled code are in between. The BPF stack is memory of the run, not of the host's stack.
//!
//! ```text
//! r12 -> State { saved rsp, stack pointer of the main function, r2, budget, lowest frame, outcome, run }
//! ```

use ring3_isa::{MemSize, Width};
use ring3_runtime::{
    Access, AccessViolation, Linked, MAX_CALL_FRAMES, MAX_STACK_BYTES, MemRegion, Permissions,
    Regions,
};

use crate::asm::{Arith, Cond, Mem, STATE};
use crate::compile::{emit, place};
use crate::emit::{Emitter, JitError, Options};
use crate::frame::Mode;
use crate::pack::Text;
use crate::regs::{R8, R9, R10, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::scratch;

/// Offsets of routines in the text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Routines {
    check: usize,
    out_of_budget: usize,
    out_of_stack: usize,
}

const SAVED_RSP: i32 = 0;
const STACK_TOP: i32 = 8;
const R2: i32 = 16;
const BUDGET: i32 = 24;
const LOWEST_FRAME: i32 = 32;
const OUTCOME: i32 = 40;

/// What compiled code and the run share; the constants above are its offsets.
#[repr(C)]
struct State<'a> {
    saved_rsp: u64,
    stack_top: u64,
    r2: u64,
    budget: i64,
    lowest_frame: u64,
    outcome: u64,
    stack_start: u64,
    regions: &'a Regions,
    violation: Option<AccessViolation>,
}

const WRITES: u32 = 256;
const IS_ATOMIC: u32 = 512;

const RETURNED: i32 = 0;
const BAD_ACCESS: i32 = 1;
const OUT_OF_BUDGET: i32 = 2;
const OUT_OF_STACK: i32 = 3;

/// Called by compiled code: 1 if the access is allowed. `what` is the size in bytes, plus [`WRITES`], plus [`IS_ATOMIC`]; `frame` the end of the innermost
/// function's stack: what lies below it is nobody's yet.
///
/// # Safety
/// `state` is the run's, exclusively ours for the call.
unsafe extern "C" fn allow(state: *mut State<'_>, address: u64, what: u32, frame: u64) -> u64 {
    // SAFETY: 1. compiled code passes the state it was entered with, and touches none of it during the call.
    let state = unsafe { &mut *state };
    let access = if what & WRITES != 0 {
        Access::Write
    } else {
        Access::Read
    };
    let size_bytes = u64::from(what & 255);
    let bottom = frame - u64::from(MAX_STACK_BYTES);
    let is_misaligned = what & IS_ATOMIC != 0 && !address.is_multiple_of(size_bytes);
    if is_misaligned || (state.stack_start..bottom).contains(&address) {
        state.violation = Some(AccessViolation {
            address,
            size_bytes,
            access,
            nearest: None,
        });
        return 0;
    }
    match state.regions.check(address, size_bytes, access) {
        Ok(()) => 1,
        Err(violation) => {
            state.violation = Some(violation);
            0
        }
    }
}

/// Why a checked run did not return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckedError {
    /// A bad access.
    Access(AccessViolation),
    /// The budget of jumps back and calls is used up.
    OutOfBudget,
    /// More than eight functions deep.
    OutOfStack,
    /// A region overlaps another.
    Overlap(String),
}

impl std::fmt::Display for CheckedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckedError::Access(violation) => violation.fmt(f),
            CheckedError::OutOfBudget => f.write_str("the program did not end within its budget"),
            CheckedError::OutOfStack => write!(f, "more than {MAX_CALL_FRAMES} functions deep"),
            CheckedError::Overlap(name) => write!(f, "region '{name}' overlaps another"),
        }
    }
}

impl std::error::Error for CheckedError {}

/// A program compiled with checks.
#[derive(Debug)]
pub struct CheckedProgram {
    text: Text,
}

/// Compiles a program that need not be verified ([`Linked::unverified`]).
///
/// # Errors
/// [`JitError`]: also for tail calls, exceptions and arenas, which checked programs do not have.
pub fn compile_checked(linked: &Linked, options: &Options) -> Result<CheckedProgram, JitError> {
    if linked.program.exception_cb.is_some() || linked.arena.is_some() {
        return Err(JitError::Unsupported {
            slot: 0,
            what: "exceptions or an arena in a checked program",
        });
    }
    scratch::with(|scratch| {
        let mut code = emit(linked, options, Mode::Checked, scratch)?;
        if !code.callbacks.is_empty() || !code.addresses.is_empty() {
            return Err(JitError::Unsupported {
                slot: 0,
                what: "callbacks in a checked program",
            });
        }
        let text = place(&mut code)?;
        text.write(0, code.asm.code());
        scratch.code = code.asm.into_buffer();
        Ok(CheckedProgram { text })
    })
}

impl CheckedProgram {
    /// Runs on `memory` (r1 is its address, r2 its length) with a fresh stack; `budget` bounds jumps back and calls.
    ///
    /// # Errors
    /// [`CheckedError`].
    pub fn run(&self, memory: &mut [u8], budget: i64) -> Result<u64, CheckedError> {
        let mut stack = vec![0u64; MAX_CALL_FRAMES * MAX_STACK_BYTES as usize / 8];
        let stack_start = stack.as_mut_ptr().expose_provenance() as u64;
        let stack_bytes = (stack.len() * 8) as u64;
        let memory_start = memory.as_mut_ptr().expose_provenance() as u64;
        let mut regions = Regions::new();
        let mut add = |start, len_bytes, name: &str| {
            let region = MemRegion {
                start,
                len_bytes,
                permissions: Permissions::ReadWrite,
                name: name.to_owned(),
            };
            regions
                .add(region)
                .map_err(|region| CheckedError::Overlap(region.name))
        };
        add(stack_start, stack_bytes, "stack")?;
        add(memory_start, memory.len() as u64, "memory")?;
        let r1 = if memory.is_empty() { 0 } else { memory_start };
        let mut state = State {
            saved_rsp: 0,
            stack_top: stack_start + stack_bytes,
            r2: memory.len() as u64,
            budget,
            lowest_frame: stack_start + u64::from(MAX_STACK_BYTES),
            outcome: RETURNED as u64,
            stack_start,
            regions: &regions,
            violation: None,
        };
        let _section = ring3_sync::rcu::read();
        // SAFETY: 1. the text begins with the checked entry, a C function of these two arguments; 2. the program touches only what
        // `regions` allows: the stack and the memory, both alive here; 3. it ends by budget.
        let r0 = unsafe {
            let entry: unsafe extern "C" fn(u64, *mut State<'_>) -> u64 =
                std::mem::transmute(self.text.address() as *const ());
            entry(r1, &mut state)
        };
        match state.outcome as i32 {
            RETURNED => Ok(r0),
            OUT_OF_BUDGET => Err(CheckedError::OutOfBudget),
            OUT_OF_STACK => Err(CheckedError::OutOfStack),
            _ => match state.violation {
                Some(violation) => Err(CheckedError::Access(violation)),
                None => Err(CheckedError::OutOfBudget),
            },
        }
    }
}

impl Emitter<'_> {
    /// The entry and the routines, at the start of the text.
    pub(crate) fn checked_entry(&mut self) {
        let saved = [RBP, RBX, R12, R13, R14, R15];
        let asm = &mut self.asm;
        for reg in saved {
            asm.push(reg);
        }
        asm.push(RAX);
        asm.copy(R12, RSI);
        asm.store(MemSize::Dw, Mem::at(STATE, SAVED_RSP), RSP);
        asm.load(MemSize::Dw, RBP, Mem::at(STATE, STACK_TOP));
        asm.load(MemSize::Dw, RSI, Mem::at(STATE, R2));
        // What a program did not set reads 0, so that runs do not depend on the host.
        for reg in [RAX, RDX, RCX, R8, RBX, R13, R14, R15, R10] {
            asm.mov_imm(reg, 0);
        }
        self.call_function(0);
        let asm = &mut self.asm;
        let leave = asm.pos();
        asm.pop(RCX);
        for reg in saved.into_iter().rev() {
            asm.pop(reg);
        }
        asm.ret();
        let mut give_up = |outcome: i32| {
            let here = asm.pos();
            asm.store_imm(MemSize::Dw, Mem::at(STATE, OUTCOME), outcome);
            asm.load(MemSize::Dw, RSP, Mem::at(STATE, SAVED_RSP));
            let patch = asm.jmp32();
            asm.bind32(patch, leave);
            here
        };
        let bad_access = give_up(BAD_ACCESS);
        self.routines.out_of_budget = give_up(OUT_OF_BUDGET);
        self.routines.out_of_stack = give_up(OUT_OF_STACK);
        self.routines.check = self.asm.pos();
        // Called with rsp a multiple of 16: eight bytes of return address and seven pushes keep it one.
        let volatile = [RAX, RDI, RSI, RDX, RCX, R8, R10];
        for reg in volatile {
            self.asm.push(reg);
        }
        self.asm.copy(RDI, STATE);
        self.asm.copy(RSI, R11);
        self.asm.copy(RDX, R9);
        self.asm.copy(RCX, RBP);
        self.call_absolute(allow as *const () as usize);
        self.asm.test_rr(Width::W32, RAX, RAX);
        for reg in volatile.into_iter().rev() {
            self.asm.pop(reg);
        }
        let patch = self.asm.jcc32(Cond::E);
        self.asm.bind32(patch, bad_access);
        self.asm.ret();
    }

    /// Leaves the program unless `size` bytes at `mem` may be accessed. Scratch: r9, r11.
    pub(crate) fn check_access(&mut self, mem: Mem, size: MemSize, access: Access) {
        self.check(mem, size, access, 0);
    }

    /// The same for an atomic operation, whose address must be a multiple of its size.
    pub(crate) fn check_atomic_access(&mut self, mem: Mem, size: MemSize, access: Access) {
        self.check(mem, size, access, IS_ATOMIC);
    }

    fn check(&mut self, mem: Mem, size: MemSize, access: Access, more: u32) {
        let write = if access == Access::Write { WRITES } else { 0 };
        self.asm.lea(Width::W64, R11, mem);
        self.asm.mov_imm32(R9, size.bytes() as u32 | write | more);
        let patch = self.asm.call();
        self.asm.bind32(patch, self.routines.check);
    }

    /// Takes one from the budget.
    pub(crate) fn check_budget(&mut self) {
        self.asm
            .arith_mi(Arith::Sub, Width::W64, Mem::at(STATE, BUDGET), 1);
        let patch = self.asm.jcc32(Cond::S);
        self.asm.bind32(patch, self.routines.out_of_budget);
    }

    /// Calls a function of the program with a stack frame of its own.
    pub(crate) fn checked_call(&mut self, function: usize) {
        self.check_budget();
        self.asm
            .arith_rm(Arith::Cmp, Width::W64, RBP, Mem::at(STATE, LOWEST_FRAME));
        let patch = self.asm.jcc32(Cond::Be);
        self.asm.bind32(patch, self.routines.out_of_stack);
        self.asm
            .arith_ri(Arith::Sub, Width::W64, RBP, MAX_STACK_BYTES as i32);
        self.call_function(function);
        self.asm
            .arith_ri(Arith::Add, Width::W64, RBP, MAX_STACK_BYTES as i32);
    }
}
