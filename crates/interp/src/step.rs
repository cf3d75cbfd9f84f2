//! The function behind every `Op`, one for each, all of one shape; `run` has the state, the loop, and what makes them sound.
//!
//! Generic over [`Guard`]: the unchecked mode's judgements vanish. Semantics are those of `ring3_isa`'s evaluation.

use ring3_isa::{AluOp, AtomicOp, Insn, InternalInsn, JmpOp, MemSize, Operand, eval_extend};
use ring3_runtime::{Access, MAX_TAIL_CALLS, exception, extable};

use crate::atomic::atomic;
use crate::op::{Op, Step};
use crate::program::Inner;
use crate::run::{Guard, Handler, MAY_GOTO_PASSES, Run, go, pointer, reg};
use crate::simple::{
    Alu32Imm, Alu32Reg, Alu64Imm, Alu64Reg, Jmp32Imm, Jmp32Reg, Jmp64Imm, Jmp64Reg, Load, Simple,
    single,
};

/// Ends the run with the guard's objection. For bodies of `steps!`.
macro_rules! allowed {
    ($run:ident, $judgement:expr) => {
        match $judgement {
            Ok(value) => value,
            Err(stop) => return (*$run).end(Err(stop)),
        }
    };
}

/// Defines functions of steps. The body gives the step to go on with; `next` is the one after this.
macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident $(<const $op:ident: u8>)? ($pc:ident, $step:ident, $next:ident, $registers:ident, $run:ident) $body:block)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As the module says.
        unsafe extern "C" fn $name<G: Guard $(, const $op: u8)?>(
            $pc: *const Step,
            $registers: *mut u64,
            $run: *mut Run<G>,
            fuel: u64,
        ) -> *const Step {
            // SAFETY: 1. of the module: `pc` is a step, and so is what the body goes on with; 2. and 3. for what the body uses; the program's
            // own accesses are the verifier's or the guard's word.
            unsafe {
                let $step = &*$pc;
                let $next = $pc.add(1);
                // Not every step has operands, not every one runs on.
                let _ = ($step, $next);
                let to: *const Step = $body;
                go(to, $registers, $run, fuel)
            }
        }
    )*};
}

steps! {
    neg64(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = dst.wrapping_neg();
        next
    }
    neg32(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = u64::from((*dst as u32).wrapping_neg());
        next
    }
    movsx_8_to_64(pc, step, next, registers, run) {
        *reg(registers, step.dst) = *reg(registers, step.src) as i8 as u64;
        next
    }
    movsx_16_to_64(pc, step, next, registers, run) {
        *reg(registers, step.dst) = *reg(registers, step.src) as i16 as u64;
        next
    }
    movsx_32_to_64(pc, step, next, registers, run) {
        *reg(registers, step.dst) = *reg(registers, step.src) as i32 as u64;
        next
    }
    movsx_8_to_32(pc, step, next, registers, run) {
        *reg(registers, step.dst) = u64::from(*reg(registers, step.src) as i8 as u32);
        next
    }
    movsx_16_to_32(pc, step, next, registers, run) {
        *reg(registers, step.dst) = u64::from(*reg(registers, step.src) as i16 as u32);
        next
    }
    truncate_16(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = u64::from(*dst as u16);
        next
    }
    truncate_32(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = u64::from(*dst as u32);
        next
    }
    swap_16(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = u64::from((*dst as u16).swap_bytes());
        next
    }
    swap_32(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = u64::from((*dst as u32).swap_bytes());
        next
    }
    swap_64(pc, step, next, registers, run) {
        let dst = reg(registers, step.dst);
        *dst = dst.swap_bytes();
        next
    }
    atomic_op(pc, step, next, registers, run) {
        let (guard, at) = (*run).at(pc);
        let site = at.program.atomics[step.imm as usize];
        let loads = site.op == AtomicOp::LoadAcquire;
        let base = if loads { step.src } else { step.dst };
        let address = reg(registers, base).wrapping_add(step.off as u64);
        let access = if loads { Access::Read } else { Access::Write };
        allowed!(run, guard.atomic_access(at, address, site.size.bytes() as u64, access));
        let result = atomic(site, address, *reg(registers, step.src), *registers);
        match site.op {
            AtomicOp::Cmpxchg => *registers = result,
            AtomicOp::LoadAcquire => *reg(registers, step.dst) = result,
            AtomicOp::Add { fetch: true }
            | AtomicOp::Or { fetch: true }
            | AtomicOp::And { fetch: true }
            | AtomicOp::Xor { fetch: true }
            | AtomicOp::Xchg => *reg(registers, step.src) = result,
            AtomicOp::Add { fetch: false }
            | AtomicOp::Or { fetch: false }
            | AtomicOp::And { fetch: false }
            | AtomicOp::Xor { fetch: false }
            | AtomicOp::StoreRelease => {}
        }
        next
    }
    rare_load(pc, step, next, registers, run) {
        let (_, at) = (*run).at(pc);
        *reg(registers, step.dst) = load_or_zero(at.program, step, *reg(registers, step.src));
        next
    }
    rare_store(pc, step, next, registers, run) {
        let (_, at) = (*run).at(pc);
        store_or_skip(at.program, step, *reg(registers, step.dst), *reg(registers, step.src));
        next
    }
    cast_to_user(pc, step, next, registers, run) {
        let offset = u64::from(*reg(registers, step.src) as u32);
        *reg(registers, step.dst) = if offset == 0 { 0 } else { step.imm | offset };
        next
    }
    load_packet(pc, step, next, registers, run) {
        let (_, at) = (*run).at(pc);
        let site = at.program.packet_loads[step.imm as usize];
        let variable = if site.indirect { *reg(registers, step.src) as i32 } else { 0 };
        let offset = i64::from(variable.wrapping_add(site.imm));
        // r6 is the context: the verifier's word; unverified programs have no packet loads.
        let value = (site.code)(*registers.add(6), offset, site.size.bytes() as u64);
        if value >= 0 {
            *registers = value as u64;
            next
        } else {
            *registers = 0;
            let back = (*run).leave(registers);
            if back.is_null() {
                return back;
            }
            back
        }
    }
    jump(pc, step, next, registers, run) {
        pc.offset(step.off as isize)
    }
    may_goto(pc, step, next, registers, run) {
        let left = &raw mut (*run).may_goto_left;
        if *left == 0 {
            pc.offset(step.off as isize)
        } else {
            *left -= 1;
            next
        }
    }
    call_helper(pc, step, next, registers, run) {
        allowed!(run, (*run).call_helper(step, registers));
        next
    }
    call_with_callback(pc, step, next, registers, run) {
        allowed!(run, (*run).call_helper(step, registers));
        match exception::take_pending() {
            None => next,
            Some(cookie) => {
                let handler = (*run).throw(registers, cookie);
                if handler.is_null() {
                    return handler;
                }
                handler
            }
        }
    }
    call_given(pc, step, next, registers, run) {
        let (_, at) = (*run).at(pc);
        let given = at.program.given[step.imm as usize];
        allowed!(run, (*run).call_given(given, registers));
        next
    }
    throw(pc, step, next, registers, run) {
        let handler = (*run).throw(registers, *registers.add(1));
        if handler.is_null() {
            return handler;
        }
        handler
    }
    call_subprog(pc, step, next, registers, run) {
        if !(*run).enter(pc, next, registers, true) {
            return std::ptr::null();
        }
        pc.offset(step.off as isize)
    }
    call_leaving_kept(pc, step, next, registers, run) {
        if !(*run).enter(pc, next, registers, false) {
            return std::ptr::null();
        }
        pc.offset(step.off as isize)
    }
    tail_call(pc, step, next, registers, run) {
        let (_, at) = (*run).at(pc);
        let table = at.program.tail_calls[step.imm as usize];
        // The program references the map, so the table lives.
        match table.load(*registers.add(3) as u32) {
            Some(word) if (*run).tail_calls < MAX_TAIL_CALLS => {
                let run = &mut *run;
                run.tail_calls += 1;
                run.may_goto_left = MAY_GOTO_PASSES;
                // Tables of interpreted programs hold `Program::tail_target` words (the owner key keeps compiled ones out), and the
                // program lives to the end of the read section.
                run.program = std::ptr::with_exposed_provenance::<Inner>(word);
                (*run.program).steps.as_ptr()
            }
            _ => next,
        }
    }
    array_lookup(pc, step, next, registers, run) {
        let (guard, at) = (*run).at(pc);
        let site = at.program.lookups[step.imm as usize];
        let key = *registers.add(2);
        allowed!(run, guard.access(at, key, 4, Access::Read));
        let key = pointer::<u32>(key).read_unaligned();
        let offset = u64::from(key) * u64::from(site.stride);
        *registers = if key < site.max_entries { site.base + offset } else { 0 };
        next
    }
    percpu_addr(pc, step, next, registers, run) {
        let cpu = ring3_sync::percpu::current_cpu() as u64;
        *reg(registers, step.dst) = reg(registers, step.src).wrapping_add(cpu.wrapping_mul(step.imm));
        next
    }
    load_u64(pc, step, next, registers, run) {
        // Who linked the program gave the address of a live word.
        *registers = pointer::<u64>(step.imm).read_unaligned();
        next
    }
    exit(pc, step, next, registers, run) {
        let back = (*run).leave(registers);
        if back.is_null() {
            return back;
        }
        back
    }
    nop(pc, step, next, registers, run) {
        next
    }
}

/// Defines loads and stores of a type.
macro_rules! accesses {
    ($($load:ident $store:ident $store_imm:ident $unsigned:ty;)*) => {
        steps! {$(
            $load(pc, step, next, registers, run) {
                let address = reg(registers, step.src).wrapping_add(step.off as u64);
                let (guard, at) = (*run).at(pc);
                allowed!(run, guard.access(at, address, size_of::<$unsigned>() as u64, Access::Read));
                Load::<$unsigned>::apply(pc, registers)
            }
            $store(pc, step, next, registers, run) {
                let address = reg(registers, step.dst).wrapping_add(step.off as u64);
                let (guard, at) = (*run).at(pc);
                allowed!(run, guard.access(at, address, size_of::<$unsigned>() as u64, Access::Write));
                pointer::<$unsigned>(address).write_unaligned(*reg(registers, step.src) as $unsigned);
                next
            }
            $store_imm(pc, step, next, registers, run) {
                let address = reg(registers, step.dst).wrapping_add(step.off as u64);
                let (guard, at) = (*run).at(pc);
                allowed!(run, guard.access(at, address, size_of::<$unsigned>() as u64, Access::Write));
                pointer::<$unsigned>(address).write_unaligned(step.imm as $unsigned);
                next
            }
        )*}
    };
}

/// Defines sign-extending loads of a type.
macro_rules! signed_loads {
    ($($load:ident $signed:ty;)*) => {
        steps! {$(
            $load(pc, step, next, registers, run) {
                let address = reg(registers, step.src).wrapping_add(step.off as u64);
                let (guard, at) = (*run).at(pc);
                allowed!(run, guard.access(at, address, size_of::<$signed>() as u64, Access::Read));
                *reg(registers, step.dst) = pointer::<$signed>(address).read_unaligned() as u64;
                next
            }
        )*}
    };
}

accesses! {
    load_8 store_8 store_8_imm u8;
    load_16 store_16 store_16_imm u16;
    load_32 store_32 store_32_imm u32;
    load_64 store_64 store_64_imm u64;
}
signed_loads! {
    load_sx_8 i8;
    load_sx_16 i16;
    load_sx_32 i32;
}

/// The function of an operation.
pub(crate) fn handler<G: Guard>(op: Op) -> Handler<G> {
    match op {
        Op::Add64 => single::<G, Alu64Reg<{ AluOp::Add as u8 }>>,
        Op::Add64Imm => single::<G, Alu64Imm<{ AluOp::Add as u8 }>>,
        Op::Add32 => single::<G, Alu32Reg<{ AluOp::Add as u8 }>>,
        Op::Add32Imm => single::<G, Alu32Imm<{ AluOp::Add as u8 }>>,
        Op::Sub64 => single::<G, Alu64Reg<{ AluOp::Sub as u8 }>>,
        Op::Sub64Imm => single::<G, Alu64Imm<{ AluOp::Sub as u8 }>>,
        Op::Sub32 => single::<G, Alu32Reg<{ AluOp::Sub as u8 }>>,
        Op::Sub32Imm => single::<G, Alu32Imm<{ AluOp::Sub as u8 }>>,
        Op::Mul64 => single::<G, Alu64Reg<{ AluOp::Mul as u8 }>>,
        Op::Mul64Imm => single::<G, Alu64Imm<{ AluOp::Mul as u8 }>>,
        Op::Mul32 => single::<G, Alu32Reg<{ AluOp::Mul as u8 }>>,
        Op::Mul32Imm => single::<G, Alu32Imm<{ AluOp::Mul as u8 }>>,
        Op::Div64 => single::<G, Alu64Reg<{ AluOp::Div as u8 }>>,
        Op::Div64Imm => single::<G, Alu64Imm<{ AluOp::Div as u8 }>>,
        Op::Div32 => single::<G, Alu32Reg<{ AluOp::Div as u8 }>>,
        Op::Div32Imm => single::<G, Alu32Imm<{ AluOp::Div as u8 }>>,
        Op::Sdiv64 => single::<G, Alu64Reg<{ AluOp::Sdiv as u8 }>>,
        Op::Sdiv64Imm => single::<G, Alu64Imm<{ AluOp::Sdiv as u8 }>>,
        Op::Sdiv32 => single::<G, Alu32Reg<{ AluOp::Sdiv as u8 }>>,
        Op::Sdiv32Imm => single::<G, Alu32Imm<{ AluOp::Sdiv as u8 }>>,
        Op::Or64 => single::<G, Alu64Reg<{ AluOp::Or as u8 }>>,
        Op::Or64Imm => single::<G, Alu64Imm<{ AluOp::Or as u8 }>>,
        Op::Or32 => single::<G, Alu32Reg<{ AluOp::Or as u8 }>>,
        Op::Or32Imm => single::<G, Alu32Imm<{ AluOp::Or as u8 }>>,
        Op::And64 => single::<G, Alu64Reg<{ AluOp::And as u8 }>>,
        Op::And64Imm => single::<G, Alu64Imm<{ AluOp::And as u8 }>>,
        Op::And32 => single::<G, Alu32Reg<{ AluOp::And as u8 }>>,
        Op::And32Imm => single::<G, Alu32Imm<{ AluOp::And as u8 }>>,
        Op::Lsh64 => single::<G, Alu64Reg<{ AluOp::Lsh as u8 }>>,
        Op::Lsh64Imm => single::<G, Alu64Imm<{ AluOp::Lsh as u8 }>>,
        Op::Lsh32 => single::<G, Alu32Reg<{ AluOp::Lsh as u8 }>>,
        Op::Lsh32Imm => single::<G, Alu32Imm<{ AluOp::Lsh as u8 }>>,
        Op::Rsh64 => single::<G, Alu64Reg<{ AluOp::Rsh as u8 }>>,
        Op::Rsh64Imm => single::<G, Alu64Imm<{ AluOp::Rsh as u8 }>>,
        Op::Rsh32 => single::<G, Alu32Reg<{ AluOp::Rsh as u8 }>>,
        Op::Rsh32Imm => single::<G, Alu32Imm<{ AluOp::Rsh as u8 }>>,
        Op::Mod64 => single::<G, Alu64Reg<{ AluOp::Mod as u8 }>>,
        Op::Mod64Imm => single::<G, Alu64Imm<{ AluOp::Mod as u8 }>>,
        Op::Mod32 => single::<G, Alu32Reg<{ AluOp::Mod as u8 }>>,
        Op::Mod32Imm => single::<G, Alu32Imm<{ AluOp::Mod as u8 }>>,
        Op::Smod64 => single::<G, Alu64Reg<{ AluOp::Smod as u8 }>>,
        Op::Smod64Imm => single::<G, Alu64Imm<{ AluOp::Smod as u8 }>>,
        Op::Smod32 => single::<G, Alu32Reg<{ AluOp::Smod as u8 }>>,
        Op::Smod32Imm => single::<G, Alu32Imm<{ AluOp::Smod as u8 }>>,
        Op::Xor64 => single::<G, Alu64Reg<{ AluOp::Xor as u8 }>>,
        Op::Xor64Imm => single::<G, Alu64Imm<{ AluOp::Xor as u8 }>>,
        Op::Xor32 => single::<G, Alu32Reg<{ AluOp::Xor as u8 }>>,
        Op::Xor32Imm => single::<G, Alu32Imm<{ AluOp::Xor as u8 }>>,
        Op::Mov64 => single::<G, Alu64Reg<{ AluOp::Mov as u8 }>>,
        Op::Mov64Imm => single::<G, Alu64Imm<{ AluOp::Mov as u8 }>>,
        Op::Mov32 => single::<G, Alu32Reg<{ AluOp::Mov as u8 }>>,
        Op::Mov32Imm => single::<G, Alu32Imm<{ AluOp::Mov as u8 }>>,
        Op::Arsh64 => single::<G, Alu64Reg<{ AluOp::Arsh as u8 }>>,
        Op::Arsh64Imm => single::<G, Alu64Imm<{ AluOp::Arsh as u8 }>>,
        Op::Arsh32 => single::<G, Alu32Reg<{ AluOp::Arsh as u8 }>>,
        Op::Arsh32Imm => single::<G, Alu32Imm<{ AluOp::Arsh as u8 }>>,
        Op::JEq64 => single::<G, Jmp64Reg<{ JmpOp::Eq as u8 }>>,
        Op::JEq64Imm => single::<G, Jmp64Imm<{ JmpOp::Eq as u8 }>>,
        Op::JEq32 => single::<G, Jmp32Reg<{ JmpOp::Eq as u8 }>>,
        Op::JEq32Imm => single::<G, Jmp32Imm<{ JmpOp::Eq as u8 }>>,
        Op::JGt64 => single::<G, Jmp64Reg<{ JmpOp::Gt as u8 }>>,
        Op::JGt64Imm => single::<G, Jmp64Imm<{ JmpOp::Gt as u8 }>>,
        Op::JGt32 => single::<G, Jmp32Reg<{ JmpOp::Gt as u8 }>>,
        Op::JGt32Imm => single::<G, Jmp32Imm<{ JmpOp::Gt as u8 }>>,
        Op::JGe64 => single::<G, Jmp64Reg<{ JmpOp::Ge as u8 }>>,
        Op::JGe64Imm => single::<G, Jmp64Imm<{ JmpOp::Ge as u8 }>>,
        Op::JGe32 => single::<G, Jmp32Reg<{ JmpOp::Ge as u8 }>>,
        Op::JGe32Imm => single::<G, Jmp32Imm<{ JmpOp::Ge as u8 }>>,
        Op::JSet64 => single::<G, Jmp64Reg<{ JmpOp::Set as u8 }>>,
        Op::JSet64Imm => single::<G, Jmp64Imm<{ JmpOp::Set as u8 }>>,
        Op::JSet32 => single::<G, Jmp32Reg<{ JmpOp::Set as u8 }>>,
        Op::JSet32Imm => single::<G, Jmp32Imm<{ JmpOp::Set as u8 }>>,
        Op::JNe64 => single::<G, Jmp64Reg<{ JmpOp::Ne as u8 }>>,
        Op::JNe64Imm => single::<G, Jmp64Imm<{ JmpOp::Ne as u8 }>>,
        Op::JNe32 => single::<G, Jmp32Reg<{ JmpOp::Ne as u8 }>>,
        Op::JNe32Imm => single::<G, Jmp32Imm<{ JmpOp::Ne as u8 }>>,
        Op::JSgt64 => single::<G, Jmp64Reg<{ JmpOp::Sgt as u8 }>>,
        Op::JSgt64Imm => single::<G, Jmp64Imm<{ JmpOp::Sgt as u8 }>>,
        Op::JSgt32 => single::<G, Jmp32Reg<{ JmpOp::Sgt as u8 }>>,
        Op::JSgt32Imm => single::<G, Jmp32Imm<{ JmpOp::Sgt as u8 }>>,
        Op::JSge64 => single::<G, Jmp64Reg<{ JmpOp::Sge as u8 }>>,
        Op::JSge64Imm => single::<G, Jmp64Imm<{ JmpOp::Sge as u8 }>>,
        Op::JSge32 => single::<G, Jmp32Reg<{ JmpOp::Sge as u8 }>>,
        Op::JSge32Imm => single::<G, Jmp32Imm<{ JmpOp::Sge as u8 }>>,
        Op::JLt64 => single::<G, Jmp64Reg<{ JmpOp::Lt as u8 }>>,
        Op::JLt64Imm => single::<G, Jmp64Imm<{ JmpOp::Lt as u8 }>>,
        Op::JLt32 => single::<G, Jmp32Reg<{ JmpOp::Lt as u8 }>>,
        Op::JLt32Imm => single::<G, Jmp32Imm<{ JmpOp::Lt as u8 }>>,
        Op::JLe64 => single::<G, Jmp64Reg<{ JmpOp::Le as u8 }>>,
        Op::JLe64Imm => single::<G, Jmp64Imm<{ JmpOp::Le as u8 }>>,
        Op::JLe32 => single::<G, Jmp32Reg<{ JmpOp::Le as u8 }>>,
        Op::JLe32Imm => single::<G, Jmp32Imm<{ JmpOp::Le as u8 }>>,
        Op::JSlt64 => single::<G, Jmp64Reg<{ JmpOp::Slt as u8 }>>,
        Op::JSlt64Imm => single::<G, Jmp64Imm<{ JmpOp::Slt as u8 }>>,
        Op::JSlt32 => single::<G, Jmp32Reg<{ JmpOp::Slt as u8 }>>,
        Op::JSlt32Imm => single::<G, Jmp32Imm<{ JmpOp::Slt as u8 }>>,
        Op::JSle64 => single::<G, Jmp64Reg<{ JmpOp::Sle as u8 }>>,
        Op::JSle64Imm => single::<G, Jmp64Imm<{ JmpOp::Sle as u8 }>>,
        Op::JSle32 => single::<G, Jmp32Reg<{ JmpOp::Sle as u8 }>>,
        Op::JSle32Imm => single::<G, Jmp32Imm<{ JmpOp::Sle as u8 }>>,
        Op::Neg64 => neg64,
        Op::Neg32 => neg32,
        Op::Movsx8To64 => movsx_8_to_64,
        Op::Movsx16To64 => movsx_16_to_64,
        Op::Movsx32To64 => movsx_32_to_64,
        Op::Movsx8To32 => movsx_8_to_32,
        Op::Movsx16To32 => movsx_16_to_32,
        Op::Trunc16 => truncate_16,
        Op::Trunc32 => truncate_32,
        Op::Swap16 => swap_16,
        Op::Swap32 => swap_32,
        Op::Swap64 => swap_64,
        Op::Load8 => load_8,
        Op::Load16 => load_16,
        Op::Load32 => load_32,
        Op::Load64 => load_64,
        Op::LoadSx8 => load_sx_8,
        Op::LoadSx16 => load_sx_16,
        Op::LoadSx32 => load_sx_32,
        Op::Store8 => store_8,
        Op::Store16 => store_16,
        Op::Store32 => store_32,
        Op::Store64 => store_64,
        Op::Store8Imm => store_8_imm,
        Op::Store16Imm => store_16_imm,
        Op::Store32Imm => store_32_imm,
        Op::Store64Imm => store_64_imm,
        Op::Atomic => atomic_op,
        Op::ProbeLoad | Op::ArenaLoad => rare_load,
        Op::ArenaStore => rare_store,
        Op::CastToUser => cast_to_user,
        Op::LoadPacket => load_packet,
        Op::Jump => jump,
        Op::MayGoto => may_goto,
        Op::CallHelper => call_helper,
        Op::CallWithCallback => call_with_callback,
        Op::CallGiven => call_given,
        Op::Throw => throw,
        Op::CallSubprog => call_subprog,
        Op::CallLeavingKept => call_leaving_kept,
        Op::TailCall => tail_call,
        Op::ArrayLookup => array_lookup,
        Op::PercpuAddr => percpu_addr,
        Op::LoadU64 => load_u64,
        Op::Exit => exit,
        Op::Nop => nop,
    }
}

/// A probe load or a load from the arena: 0 where it faults.
#[cold]
fn load_or_zero(program: &Inner, step: &Step, base: u64) -> u64 {
    let (size, mode, address) = match program.rare[step.imm as usize] {
        Insn::Internal(InternalInsn::ProbeLoad {
            size, mode, off, ..
        }) => (size, mode, base.wrapping_add(off as u64)),
        Insn::Internal(InternalInsn::ArenaLoad {
            size, mode, off, ..
        }) => (size, mode, arena_address(program, base, off)),
        _ => return 0,
    };
    eval_extend(size, mode, extable::probe_load(address, size))
}

/// A store to the arena: nothing where it faults.
#[cold]
fn store_or_skip(program: &Inner, step: &Step, base: u64, src: u64) {
    let Insn::Internal(InternalInsn::ArenaStore {
        size,
        off,
        src: operand,
        ..
    }) = program.rare[step.imm as usize]
    else {
        return;
    };
    let value = match operand {
        Operand::Reg(_) => src,
        Operand::Imm(imm) => imm as u64,
    };
    let bytes = value.to_le_bytes();
    let address = arena_address(program, base, off);
    let size: MemSize = size;
    // SAFETY: 1. `bytes` holds 8; 2. the address is inside the arena's 4 GiB or its guard: only the program's own data is there.
    unsafe { extable::probe_store(address, bytes.as_ptr(), size.bytes()) };
}

fn arena_address(program: &Inner, base: u64, off: i16) -> u64 {
    let arena = program.arena.map_or(0, |arena| arena.base);
    arena
        .wrapping_add(u64::from(base as u32))
        .wrapping_add(off as u64)
}
