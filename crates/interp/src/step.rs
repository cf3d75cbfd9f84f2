//! Running a program: one loop, one `match`. Generic over [`Guard`], which looks at each step and access: nothing in the unchecked mode, where
//! its calls vanish, everything in the checked mode.
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
//! What makes the accesses to steps, tables and registers sound stands in `predecode`; what makes the program's own accesses sound is the
//! verifier (unchecked) or the guard (checked).

use std::convert::Infallible;

use ring3_isa::{
    AluOp, Insn, InternalInsn, JmpOp, MemSize, Operand, eval_alu32, eval_alu64, eval_extend, eval_jmp32, eval_jmp64,
};
use ring3_runtime::{Access, Callback, HelperFn, MAX_TAIL_CALLS, exception, extable};

use crate::atomic::atomic;
use crate::op::{Op, Step};
use crate::program::{CallbackRecord, Inner};
use crate::stack::{FRAME_BYTES, RUN_FRAMES, RunFrames, Saved};

/// r0 to r11; 16 so that no index of 4 bits is out of bounds.
pub(crate) type Registers = [u64; 16];

/// Passes of one `may_goto` budget: those of one function call.
///
/// # Source
/// Linux 6.18, `BPF_MAX_LOOPS`.
const MAY_GOTO_PASSES: u32 = 8 * 1024 * 1024;

/// Where an exception stops and what the run's result is then.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// A program: its exception callback decides.
    Program,
    /// A callback: the exception stays pending for the helper's caller.
    Callback,
}

/// The place of a step, for messages.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) program: &'a Inner,
    pub(crate) pc: *const Step,
}

/// What watches a run.
pub(crate) trait Guard {
    /// Why a run ends early.
    type Stop;
    /// Whether new frames are filled with zeros.
    const CLEARS_FRAMES: bool;

    /// Before each step.
    fn step(&self, at: At<'_>, depth: usize, registers: &Registers) -> Result<(), Self::Stop>;

    /// Before each access to memory. `aligned`: the address must be a multiple of the size.
    fn access(&self, at: At<'_>, address: u64, bytes: u64, access: Access) -> Result<(), Self::Stop>;

    /// Before each atomic access.
    fn atomic_access(&self, at: At<'_>, address: u64, bytes: u64, access: Access) -> Result<(), Self::Stop>;

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

    #[inline(always)]
    fn step(&self, _: At<'_>, _: usize, _: &Registers) -> Result<(), Infallible> {
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
    // SAFETY: 1. the caller's contract: a live `Inner`, verified.
    let program = unsafe { &*data.cast::<Inner>() };
    // SAFETY: 1. step 0 begins the main function; 2. verified, and the rest as above.
    let Ok(result) = unsafe { execute(program, 0, [ctx, 0, 0, 0, 0], Boundary::Program, &Unchecked) };
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

fn pointer<T>(address: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Runs a function of `program` from step `start` with `args` in r1 to r5.
///
/// # Safety
/// 1. `start` is the first step of a function. 2. Either the verifier accepted the program and `args` are what it assumed, or `guard` refuses
/// accesses to memory that the program may not touch. 3. What the program was linked to is alive.
pub(crate) unsafe fn execute<G: Guard>(
    program: &Inner,
    start: usize,
    args: [u64; 5],
    boundary: Boundary,
    guard: &G,
) -> Result<u64, G::Stop> {
    let frames = RunFrames::take();
    let mut program = program;
    let mut registers: Registers = [0; 16];
    registers[1..6].copy_from_slice(&args);
    registers[10] = frames.frame_pointer(0);
    let mut depth = 0;
    let mut tail_calls = 0;
    let mut may_goto_left = MAY_GOTO_PASSES;
    let mut in_exception_callback = false;
    if G::CLEARS_FRAMES {
        frames.clear(0);
    }
    guard.frame(registers[10] - FRAME_BYTES);
    let mut pc = program.steps[start..].as_ptr();

    loop {
        // SAFETY: 1. `pc` points to a step of `program`: it began there, `predecode` put jumps and calls on steps and let no program end in
        // a step that runs on; saved places were such, and tail calls begin at the first step of a live program.
        let step = unsafe { *pc };
        // SAFETY: 1. as above: a step that runs on is not the last.
        let next = unsafe { pc.add(1) };
        guard.step(At { program, pc }, depth, &registers)?;

        // A register by the number in a step, which is below 12.
        macro_rules! reg {
            ($field:ident) => {
                registers[usize::from(step.$field & 15)]
            };
        }
        macro_rules! second {
            (reg) => {
                reg!(src)
            };
            (imm) => {
                step.imm
            };
        }
        macro_rules! alu {
            (64, $op:ident, $second:ident) => {{
                reg!(dst) = eval_alu64(AluOp::$op, reg!(dst), second!($second));
                next
            }};
            (32, $op:ident, $second:ident) => {{
                reg!(dst) = u64::from(eval_alu32(AluOp::$op, reg!(dst) as u32, second!($second) as u32));
                next
            }};
        }
        // SAFETY (of each use): 1. distances lead to steps of the same program, see `predecode`.
        macro_rules! target {
            () => {
                unsafe { pc.offset(step.off as isize) }
            };
        }
        macro_rules! jump {
            (64, $op:ident, $second:ident) => {
                if eval_jmp64(JmpOp::$op, reg!(dst), second!($second)) { target!() } else { next }
            };
            (32, $op:ident, $second:ident) => {
                if eval_jmp32(JmpOp::$op, reg!(dst) as u32, second!($second) as u32) { target!() } else { next }
            };
        }
        macro_rules! load {
            ($type:ty) => {{
                let address = reg!(src).wrapping_add(step.off as u64);
                guard.access(At { program, pc }, address, size_of::<$type>() as u64, Access::Read)?;
                // SAFETY: 1. the address is readable: the verifier's or the guard's word.
                reg!(dst) = unsafe { pointer::<$type>(address).read_unaligned() } as u64;
                next
            }};
        }
        macro_rules! store {
            ($type:ty, $second:ident) => {{
                let address = reg!(dst).wrapping_add(step.off as u64);
                guard.access(At { program, pc }, address, size_of::<$type>() as u64, Access::Write)?;
                // SAFETY: 1. the address is writable: the verifier's or the guard's word.
                unsafe { pointer::<$type>(address).write_unaligned(second!($second) as $type) };
                next
            }};
        }
        // Leaves the function with what is in r0.
        macro_rules! leave {
            () => {{
                if depth == 0 {
                    return Ok(registers[0]);
                }
                let saved = frames.saved(depth).get();
                depth -= 1;
                frames.set_depth(depth);
                registers[6..10].copy_from_slice(&saved.callee_saved);
                registers[10] = frames.frame_pointer(depth);
                may_goto_left = saved.may_goto_left;
                guard.frame(registers[10] - FRAME_BYTES);
                // SAFETY: 1. a program that called stays alive until the run ends: the caller's contract, and the read section for
                // those that a tail call entered.
                program = unsafe { &*saved.program };
                saved.pc
            }};
        }
        // Throws: to the exception callback, once, else out of the run.
        macro_rules! throw {
            ($cookie:expr) => {{
                let cookie = $cookie;
                if boundary == Boundary::Callback {
                    exception::set_pending(cookie);
                    return Ok(1);
                }
                let Some(start) = program.exception_callback.filter(|_| !in_exception_callback) else {
                    return Ok(cookie);
                };
                in_exception_callback = true;
                depth = 0;
                frames.set_depth(0);
                registers[1] = cookie;
                registers[10] = frames.frame_pointer(0);
                may_goto_left = MAY_GOTO_PASSES;
                guard.frame(registers[10] - FRAME_BYTES);
                program.steps[start..].as_ptr()
            }};
        }
        macro_rules! call {
            () => {{
                // SAFETY: 1. `predecode` put the address of a `HelperFn` here; 2. the arguments fit it: the verifier's word (helpers of
                // unverified programs are chosen by who links them).
                registers[0] = unsafe {
                    let code: HelperFn = std::mem::transmute::<*const (), HelperFn>(pointer::<()>(step.imm));
                    code(registers[1], registers[2], registers[3], registers[4], registers[5])
                };
                guard.after_call()?;
            }};
        }

        pc = match step.op {
            Op::Add64 => alu!(64, Add, reg),
            Op::Add64Imm => alu!(64, Add, imm),
            Op::Add32 => alu!(32, Add, reg),
            Op::Add32Imm => alu!(32, Add, imm),
            Op::Sub64 => alu!(64, Sub, reg),
            Op::Sub64Imm => alu!(64, Sub, imm),
            Op::Sub32 => alu!(32, Sub, reg),
            Op::Sub32Imm => alu!(32, Sub, imm),
            Op::Mul64 => alu!(64, Mul, reg),
            Op::Mul64Imm => alu!(64, Mul, imm),
            Op::Mul32 => alu!(32, Mul, reg),
            Op::Mul32Imm => alu!(32, Mul, imm),
            Op::Div64 => alu!(64, Div, reg),
            Op::Div64Imm => alu!(64, Div, imm),
            Op::Div32 => alu!(32, Div, reg),
            Op::Div32Imm => alu!(32, Div, imm),
            Op::Sdiv64 => alu!(64, Sdiv, reg),
            Op::Sdiv64Imm => alu!(64, Sdiv, imm),
            Op::Sdiv32 => alu!(32, Sdiv, reg),
            Op::Sdiv32Imm => alu!(32, Sdiv, imm),
            Op::Or64 => alu!(64, Or, reg),
            Op::Or64Imm => alu!(64, Or, imm),
            Op::Or32 => alu!(32, Or, reg),
            Op::Or32Imm => alu!(32, Or, imm),
            Op::And64 => alu!(64, And, reg),
            Op::And64Imm => alu!(64, And, imm),
            Op::And32 => alu!(32, And, reg),
            Op::And32Imm => alu!(32, And, imm),
            Op::Lsh64 => alu!(64, Lsh, reg),
            Op::Lsh64Imm => alu!(64, Lsh, imm),
            Op::Lsh32 => alu!(32, Lsh, reg),
            Op::Lsh32Imm => alu!(32, Lsh, imm),
            Op::Rsh64 => alu!(64, Rsh, reg),
            Op::Rsh64Imm => alu!(64, Rsh, imm),
            Op::Rsh32 => alu!(32, Rsh, reg),
            Op::Rsh32Imm => alu!(32, Rsh, imm),
            Op::Mod64 => alu!(64, Mod, reg),
            Op::Mod64Imm => alu!(64, Mod, imm),
            Op::Mod32 => alu!(32, Mod, reg),
            Op::Mod32Imm => alu!(32, Mod, imm),
            Op::Smod64 => alu!(64, Smod, reg),
            Op::Smod64Imm => alu!(64, Smod, imm),
            Op::Smod32 => alu!(32, Smod, reg),
            Op::Smod32Imm => alu!(32, Smod, imm),
            Op::Xor64 => alu!(64, Xor, reg),
            Op::Xor64Imm => alu!(64, Xor, imm),
            Op::Xor32 => alu!(32, Xor, reg),
            Op::Xor32Imm => alu!(32, Xor, imm),
            Op::Mov64 => alu!(64, Mov, reg),
            Op::Mov64Imm => alu!(64, Mov, imm),
            Op::Mov32 => alu!(32, Mov, reg),
            Op::Mov32Imm => alu!(32, Mov, imm),
            Op::Arsh64 => alu!(64, Arsh, reg),
            Op::Arsh64Imm => alu!(64, Arsh, imm),
            Op::Arsh32 => alu!(32, Arsh, reg),
            Op::Arsh32Imm => alu!(32, Arsh, imm),
            Op::JEq64 => jump!(64, Eq, reg),
            Op::JEq64Imm => jump!(64, Eq, imm),
            Op::JEq32 => jump!(32, Eq, reg),
            Op::JEq32Imm => jump!(32, Eq, imm),
            Op::JGt64 => jump!(64, Gt, reg),
            Op::JGt64Imm => jump!(64, Gt, imm),
            Op::JGt32 => jump!(32, Gt, reg),
            Op::JGt32Imm => jump!(32, Gt, imm),
            Op::JGe64 => jump!(64, Ge, reg),
            Op::JGe64Imm => jump!(64, Ge, imm),
            Op::JGe32 => jump!(32, Ge, reg),
            Op::JGe32Imm => jump!(32, Ge, imm),
            Op::JSet64 => jump!(64, Set, reg),
            Op::JSet64Imm => jump!(64, Set, imm),
            Op::JSet32 => jump!(32, Set, reg),
            Op::JSet32Imm => jump!(32, Set, imm),
            Op::JNe64 => jump!(64, Ne, reg),
            Op::JNe64Imm => jump!(64, Ne, imm),
            Op::JNe32 => jump!(32, Ne, reg),
            Op::JNe32Imm => jump!(32, Ne, imm),
            Op::JSgt64 => jump!(64, Sgt, reg),
            Op::JSgt64Imm => jump!(64, Sgt, imm),
            Op::JSgt32 => jump!(32, Sgt, reg),
            Op::JSgt32Imm => jump!(32, Sgt, imm),
            Op::JSge64 => jump!(64, Sge, reg),
            Op::JSge64Imm => jump!(64, Sge, imm),
            Op::JSge32 => jump!(32, Sge, reg),
            Op::JSge32Imm => jump!(32, Sge, imm),
            Op::JLt64 => jump!(64, Lt, reg),
            Op::JLt64Imm => jump!(64, Lt, imm),
            Op::JLt32 => jump!(32, Lt, reg),
            Op::JLt32Imm => jump!(32, Lt, imm),
            Op::JLe64 => jump!(64, Le, reg),
            Op::JLe64Imm => jump!(64, Le, imm),
            Op::JLe32 => jump!(32, Le, reg),
            Op::JLe32Imm => jump!(32, Le, imm),
            Op::JSlt64 => jump!(64, Slt, reg),
            Op::JSlt64Imm => jump!(64, Slt, imm),
            Op::JSlt32 => jump!(32, Slt, reg),
            Op::JSlt32Imm => jump!(32, Slt, imm),
            Op::JSle64 => jump!(64, Sle, reg),
            Op::JSle64Imm => jump!(64, Sle, imm),
            Op::JSle32 => jump!(32, Sle, reg),
            Op::JSle32Imm => jump!(32, Sle, imm),
            Op::Neg64 => {
                reg!(dst) = reg!(dst).wrapping_neg();
                next
            }
            Op::Neg32 => {
                reg!(dst) = u64::from((reg!(dst) as u32).wrapping_neg());
                next
            }
            Op::Movsx8To64 => {
                reg!(dst) = reg!(src) as i8 as u64;
                next
            }
            Op::Movsx16To64 => {
                reg!(dst) = reg!(src) as i16 as u64;
                next
            }
            Op::Movsx32To64 => {
                reg!(dst) = reg!(src) as i32 as u64;
                next
            }
            Op::Movsx8To32 => {
                reg!(dst) = u64::from(reg!(src) as i8 as u32);
                next
            }
            Op::Movsx16To32 => {
                reg!(dst) = u64::from(reg!(src) as i16 as u32);
                next
            }
            Op::Trunc16 => {
                reg!(dst) = u64::from(reg!(dst) as u16);
                next
            }
            Op::Trunc32 => {
                reg!(dst) = u64::from(reg!(dst) as u32);
                next
            }
            Op::Swap16 => {
                reg!(dst) = u64::from((reg!(dst) as u16).swap_bytes());
                next
            }
            Op::Swap32 => {
                reg!(dst) = u64::from((reg!(dst) as u32).swap_bytes());
                next
            }
            Op::Swap64 => {
                reg!(dst) = reg!(dst).swap_bytes();
                next
            }
            Op::Load8 => load!(u8),
            Op::Load16 => load!(u16),
            Op::Load32 => load!(u32),
            Op::Load64 => load!(u64),
            Op::LoadSx8 => load!(i8),
            Op::LoadSx16 => load!(i16),
            Op::LoadSx32 => load!(i32),
            Op::Store8 => store!(u8, reg),
            Op::Store16 => store!(u16, reg),
            Op::Store32 => store!(u32, reg),
            Op::Store64 => store!(u64, reg),
            Op::Store8Imm => store!(u8, imm),
            Op::Store16Imm => store!(u16, imm),
            Op::Store32Imm => store!(u32, imm),
            Op::Store64Imm => store!(u64, imm),
            Op::Atomic => {
                let site = program.atomics[step.imm as usize];
                let loads = site.op == ring3_isa::AtomicOp::LoadAcquire;
                let base = if loads { reg!(src) } else { reg!(dst) };
                let address = base.wrapping_add(step.off as u64);
                let access = if loads { Access::Read } else { Access::Write };
                guard.atomic_access(At { program, pc }, address, site.size.bytes() as u64, access)?;
                // SAFETY: 1. accessible and aligned: the verifier's or the guard's word.
                let result = unsafe { atomic(site, address, reg!(src), registers[0]) };
                match site.op {
                    ring3_isa::AtomicOp::Cmpxchg => registers[0] = result,
                    ring3_isa::AtomicOp::LoadAcquire => reg!(dst) = result,
                    ring3_isa::AtomicOp::Add { fetch: true }
                    | ring3_isa::AtomicOp::Or { fetch: true }
                    | ring3_isa::AtomicOp::And { fetch: true }
                    | ring3_isa::AtomicOp::Xor { fetch: true }
                    | ring3_isa::AtomicOp::Xchg => reg!(src) = result,
                    ring3_isa::AtomicOp::Add { fetch: false }
                    | ring3_isa::AtomicOp::Or { fetch: false }
                    | ring3_isa::AtomicOp::And { fetch: false }
                    | ring3_isa::AtomicOp::Xor { fetch: false }
                    | ring3_isa::AtomicOp::StoreRelease => {}
                }
                next
            }
            Op::ProbeLoad | Op::ArenaLoad => {
                reg!(dst) = rare_load(program, step, reg!(src));
                next
            }
            Op::ArenaStore => {
                rare_store(program, step, reg!(dst), reg!(src));
                next
            }
            Op::CastToUser => {
                let offset = u64::from(reg!(src) as u32);
                reg!(dst) = if offset == 0 { 0 } else { step.imm | offset };
                next
            }
            Op::LoadPacket => {
                let site = program.packet_loads[step.imm as usize];
                let variable = if site.indirect { reg!(src) as i32 } else { 0 };
                let offset = i64::from(variable.wrapping_add(site.imm));
                // SAFETY: 1. r6 is the context: the verifier's word; unverified programs have no packet loads.
                let value = unsafe { (site.code)(registers[6], offset, site.size.bytes() as u64) };
                if value < 0 {
                    registers[0] = 0;
                    leave!()
                } else {
                    registers[0] = value as u64;
                    next
                }
            }
            Op::Jump => target!(),
            Op::MayGoto => {
                if may_goto_left == 0 {
                    target!()
                } else {
                    may_goto_left -= 1;
                    next
                }
            }
            Op::CallHelper => {
                call!();
                next
            }
            Op::CallWithCallback => {
                call!();
                match exception::take_pending() {
                    Some(cookie) => throw!(cookie),
                    None => next,
                }
            }
            Op::Throw => throw!(registers[1]),
            Op::CallSubprog => {
                if let Some(result) = guard.call(At { program, pc }, depth + 1)? {
                    return Ok(result);
                }
                depth += 1;
                let mut callee_saved = [0; 4];
                callee_saved.copy_from_slice(&registers[6..10]);
                frames.saved(depth).set(Saved { pc: next, program, callee_saved, may_goto_left });
                frames.set_depth(depth);
                registers[10] = frames.frame_pointer(depth);
                may_goto_left = MAY_GOTO_PASSES;
                if G::CLEARS_FRAMES {
                    frames.clear(depth);
                }
                guard.frame(registers[10] - FRAME_BYTES);
                target!()
            }
            Op::TailCall => {
                let table = program.tail_calls[step.imm as usize];
                // SAFETY: 1. the program references the map, so the table lives.
                let target = unsafe { table.load(registers[3] as u32) };
                match target {
                    Some(word) if tail_calls < MAX_TAIL_CALLS => {
                        tail_calls += 1;
                        may_goto_left = MAY_GOTO_PASSES;
                        // SAFETY: 1. tables of interpreted programs hold `Program::tail_target` words (the owner key keeps compiled
                        // ones out); 2. the program lives to the end of the read section.
                        program = unsafe { &*std::ptr::with_exposed_provenance::<Inner>(word) };
                        program.steps.as_ptr()
                    }
                    _ => next,
                }
            }
            Op::ArrayLookup => {
                let site = program.lookups[step.imm as usize];
                guard.access(At { program, pc }, registers[2], 4, Access::Read)?;
                // SAFETY: 1. r2 points to a readable key of 4 bytes: the verifier's or the guard's word.
                let key = unsafe { pointer::<u32>(registers[2]).read_unaligned() };
                let offset = u64::from(key) * u64::from(site.stride);
                registers[0] = if key < site.max_entries { site.base + offset } else { 0 };
                next
            }
            Op::LoadU64 => {
                // SAFETY: 1. who linked the program gave the address of a live word.
                registers[0] = unsafe { pointer::<u64>(step.imm).read_unaligned() };
                next
            }
            Op::Exit => leave!(),
            Op::Nop => next,
        };
    }
}

/// A probe load or a load from the arena: 0 where it faults.
#[cold]
fn rare_load(program: &Inner, step: Step, base: u64) -> u64 {
    let (size, mode, address) = match program.rare[step.imm as usize] {
        Insn::Internal(InternalInsn::ProbeLoad { size, mode, off, .. }) => (size, mode, base.wrapping_add(off as u64)),
        Insn::Internal(InternalInsn::ArenaLoad { size, mode, off, .. }) => {
            (size, mode, arena_address(program, base, off))
        }
        _ => return 0,
    };
    eval_extend(size, mode, extable::probe_load(address, size))
}

/// A store to the arena: nothing where it faults.
#[cold]
fn rare_store(program: &Inner, step: Step, base: u64, src: u64) {
    let Insn::Internal(InternalInsn::ArenaStore { size, off, src: operand, .. }) = program.rare[step.imm as usize] else {
        return;
    };
    let value = match operand {
        Operand::Reg(_) => src,
        Operand::Imm(imm) => imm as u64,
    };
    store_or_skip(arena_address(program, base, off), size, value);
}

fn arena_address(program: &Inner, base: u64, off: i16) -> u64 {
    let arena = program.arena.map_or(0, |arena| arena.base);
    arena.wrapping_add(u64::from(base as u32)).wrapping_add(off as u64)
}

fn store_or_skip(address: u64, size: MemSize, value: u64) {
    let bytes = value.to_le_bytes();
    // SAFETY: 1. `bytes` holds 8; 2. the address is inside the arena's 4 GiB or its guard: only the program's own data is there.
    unsafe { extable::probe_store(address, bytes.as_ptr(), size.bytes()) };
}
