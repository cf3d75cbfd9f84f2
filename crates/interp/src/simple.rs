//! The simple steps: arithmetic, conditional jumps, and loads whose address is the verifier's word. Each is a type, so that a function can do
//! one ([`single`]) or several in a row (`fuse`).

use std::marker::PhantomData;

use ring3_isa::{AluOp, JmpOp, eval_alu32, eval_alu64, eval_jmp32, eval_jmp64};

use crate::op::Step;
use crate::run::{Guard, Run, go, pointer, reg};

/// A step that neither ends a run nor asks the guard.
pub(crate) trait Simple {
    /// Does the step at `pc`; returns the one to go on with.
    ///
    /// # Safety
    /// `pc` is a step of this kind; the rest as `run` says.
    unsafe fn apply(pc: *const Step, registers: *mut u64) -> *const Step;
}

/// The function of one simple step.
///
/// # Safety
/// As `run` says.
pub(crate) unsafe extern "C" fn single<G: Guard, S: Simple>(
    pc: *const Step,
    registers: *mut u64,
    run: *mut Run<G>,
    fuel: u64,
) -> *const Step {
    // SAFETY: 1. to 3. of `run`, from the caller.
    unsafe { go(S::apply(pc, registers), registers, run, fuel) }
}

/// Defines kinds of simple steps. The body gives the step to go on with; `next` is the one after this.
macro_rules! simple {
    ($($(#[$doc:meta])* $name:ident<$op:ident> ($pc:ident, $step:ident, $next:ident, $registers:ident) $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name<const $op: u8>;

        impl<const $op: u8> Simple for $name<$op> {
            #[inline(always)]
            unsafe fn apply($pc: *const Step, $registers: *mut u64) -> *const Step {
                // SAFETY: 1. `pc` is a step, and so is what the body goes on with; 2. its register numbers are below 12.
                unsafe {
                    let $step = &*$pc;
                    let $next = $pc.add(1);
                    $body
                }
            }
        }
    )*};
}

simple! {
    /// `dst op= src`
    Alu64Reg<OP>(pc, step, next, registers) {
        let src = *reg(registers, step.src);
        let dst = reg(registers, step.dst);
        *dst = eval_alu64(AluOp::ALL[OP as usize], *dst, src);
        next
    }
    Alu64Imm<OP>(pc, step, next, registers) {
        let dst = reg(registers, step.dst);
        *dst = eval_alu64(AluOp::ALL[OP as usize], *dst, step.imm);
        next
    }
    Alu32Reg<OP>(pc, step, next, registers) {
        let src = *reg(registers, step.src);
        let dst = reg(registers, step.dst);
        *dst = u64::from(eval_alu32(AluOp::ALL[OP as usize], *dst as u32, src as u32));
        next
    }
    Alu32Imm<OP>(pc, step, next, registers) {
        let dst = reg(registers, step.dst);
        *dst = u64::from(eval_alu32(AluOp::ALL[OP as usize], *dst as u32, step.imm as u32));
        next
    }
    /// `if dst op src goto off`
    Jmp64Reg<OP>(pc, step, next, registers) {
        let taken = eval_jmp64(JmpOp::ALL[OP as usize], *reg(registers, step.dst), *reg(registers, step.src));
        if taken { pc.offset(step.off as isize) } else { next }
    }
    Jmp64Imm<OP>(pc, step, next, registers) {
        let taken = eval_jmp64(JmpOp::ALL[OP as usize], *reg(registers, step.dst), step.imm);
        if taken { pc.offset(step.off as isize) } else { next }
    }
    Jmp32Reg<OP>(pc, step, next, registers) {
        let (dst, src) = (*reg(registers, step.dst) as u32, *reg(registers, step.src) as u32);
        if eval_jmp32(JmpOp::ALL[OP as usize], dst, src) { pc.offset(step.off as isize) } else { next }
    }
    Jmp32Imm<OP>(pc, step, next, registers) {
        let taken = eval_jmp32(JmpOp::ALL[OP as usize], *reg(registers, step.dst) as u32, step.imm as u32);
        if taken { pc.offset(step.off as isize) } else { next }
    }
}

/// `dst = *(T *)(src + off)`, zero-extended. Whoever does it knows that the address is good.
pub(crate) struct Load<T>(PhantomData<T>);

impl<T: Into<u64>> Simple for Load<T> {
    #[inline(always)]
    unsafe fn apply(pc: *const Step, registers: *mut u64) -> *const Step {
        // SAFETY: 1. `pc` is a step, and so is the one behind it; 2. its register numbers are below 12; 3. the address is the verifier's or the
        // guard's word.
        unsafe {
            let step = &*pc;
            let address = reg(registers, step.src).wrapping_add(step.off as u64);
            *reg(registers, step.dst) = pointer::<T>(address).read_unaligned().into();
            pc.add(1)
        }
    }
}

// The names of `Op`, for sequences.
pub(crate) type Add32 = Alu32Reg<{ AluOp::Add as u8 }>;
pub(crate) type Add32Imm = Alu32Imm<{ AluOp::Add as u8 }>;
pub(crate) type Add64 = Alu64Reg<{ AluOp::Add as u8 }>;
pub(crate) type Add64Imm = Alu64Imm<{ AluOp::Add as u8 }>;
pub(crate) type And32Imm = Alu32Imm<{ AluOp::And as u8 }>;
pub(crate) type JEq32Imm = Jmp32Imm<{ JmpOp::Eq as u8 }>;
pub(crate) type JGt32Imm = Jmp32Imm<{ JmpOp::Gt as u8 }>;
pub(crate) type JLt32Imm = Jmp32Imm<{ JmpOp::Lt as u8 }>;
pub(crate) type JNe32Imm = Jmp32Imm<{ JmpOp::Ne as u8 }>;
pub(crate) type JNe64Imm = Jmp64Imm<{ JmpOp::Ne as u8 }>;
pub(crate) type Load16 = Load<u16>;
pub(crate) type Load32 = Load<u32>;
pub(crate) type Load64 = Load<u64>;
pub(crate) type Load8 = Load<u8>;
pub(crate) type Lsh64Imm = Alu64Imm<{ AluOp::Lsh as u8 }>;
pub(crate) type Mov32 = Alu32Reg<{ AluOp::Mov as u8 }>;
pub(crate) type Mov32Imm = Alu32Imm<{ AluOp::Mov as u8 }>;
pub(crate) type Mov64 = Alu64Reg<{ AluOp::Mov as u8 }>;
pub(crate) type Mov64Imm = Alu64Imm<{ AluOp::Mov as u8 }>;
pub(crate) type Or32Imm = Alu32Imm<{ AluOp::Or as u8 }>;
pub(crate) type Or64 = Alu64Reg<{ AluOp::Or as u8 }>;
pub(crate) type Rsh64Imm = Alu64Imm<{ AluOp::Rsh as u8 }>;
pub(crate) type Xor64 = Alu64Reg<{ AluOp::Xor as u8 }>;
