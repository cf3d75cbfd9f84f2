//! The helper ABI: five registers in, one out, as a C function; typed Rust functions become one by [`Helper`].
//!
//! A helper is a zero-size type; its argument tuple and result decide how registers are read: 32-bit arguments are the low half of
//! the register, as C would take them, and a 32-bit result is extended by its sign, as the kernel's `int` results are. The thunk is one
//! monomorphic function: no table, no allocation, usually inlined into one body with the helper.

/// What programs call: r1 to r5 in, r0 out.
///
/// # Safety
/// Calling it means that the arguments fit the helper's prototype, which the verifier establishes for programs.
pub type HelperFn = unsafe extern "C" fn(u64, u64, u64, u64, u64) -> u64;

/// A [`HelperFn`] of kind [`crate::CallKind::Given`]: behind r1 to r5, what the one who linked the program has put down for it.
///
/// # Safety
/// As [`HelperFn`]; the sixth is what the helper's table asks for, and lives as long as the program.
pub type GivenHelperFn = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;

/// What `LD_ABS` and `LD_IND` call: the context (r6), the signed offset and the size in bytes (1, 2, 4); the value in host byte order, or a
/// negative errno, which ends the function with 0.
///
/// # Safety
/// As [`HelperFn`].
pub type LoadPacketFn = unsafe extern "C" fn(u64, i64, u64) -> i64;

/// A type that one argument register carries.
pub trait AbiArg: Sized {
    /// The value of a register.
    fn from_reg(reg: u64) -> Self;
}

/// A type that r0 carries back.
pub trait AbiRet {
    /// The register of a value.
    fn into_reg(self) -> u64;
}

macro_rules! integers {
    ($($name:ty),*) => {$(
        impl AbiArg for $name {
            #[inline(always)]
            fn from_reg(reg: u64) -> Self {
                reg as $name
            }
        }
        impl AbiRet for $name {
            #[inline(always)]
            fn into_reg(self) -> u64 {
                self as u64
            }
        }
    )*};
}

// `as u64` extends signed values by their sign, unsigned by zeros.
integers!(u64, i64, u32, i32, u16, i16, u8, i8, usize, isize);

impl<T> AbiArg for *const T {
    #[inline(always)]
    fn from_reg(reg: u64) -> Self {
        std::ptr::with_exposed_provenance(reg as usize)
    }
}

impl<T> AbiArg for *mut T {
    #[inline(always)]
    fn from_reg(reg: u64) -> Self {
        std::ptr::with_exposed_provenance_mut(reg as usize)
    }
}

impl<T> AbiRet for *const T {
    #[inline(always)]
    fn into_reg(self) -> u64 {
        self.expose_provenance() as u64
    }
}

impl<T> AbiRet for *mut T {
    #[inline(always)]
    fn into_reg(self) -> u64 {
        self.expose_provenance() as u64
    }
}

/// A helper without a result leaves 0 in r0.
impl AbiRet for () {
    #[inline(always)]
    fn into_reg(self) -> u64 {
        0
    }
}

/// The arguments of a helper: a tuple of up to five [`AbiArg`].
pub trait AbiArgs {
    /// Takes the first registers.
    fn from_regs(regs: [u64; 5]) -> Self;
}

macro_rules! tuples {
    ($(($($name:ident $at:literal),*))*) => {$(
        impl<$($name: AbiArg),*> AbiArgs for ($($name,)*) {
            #[inline(always)]
            fn from_regs(_regs: [u64; 5]) -> Self {
                ($($name::from_reg(_regs[$at]),)*)
            }
        }
    )*};
}

impl AbiArgs for () {
    #[inline(always)]
    fn from_regs(_: [u64; 5]) -> Self {}
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
}

/// An implementation of a helper or kfunc, as a zero-size type.
pub trait Helper {
    /// Argument tuple.
    type Args: AbiArgs;
    /// Result.
    type Ret: AbiRet;

    /// Runs the helper.
    ///
    /// # Safety
    /// The arguments fit the prototype that the verifier checked: pointers are valid for the sizes it says, inside one RCU read section.
    unsafe fn call(args: Self::Args) -> Self::Ret;
}

/// The C function that runs `H`. A panic inside aborts: it may not unwind through a BPF frame.
pub const fn helper_fn<H: Helper>() -> HelperFn {
    unsafe extern "C" fn thunk<H: Helper>(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64) -> u64 {
        // SAFETY: 1. the caller's contract is the helper's own.
        unsafe { H::call(H::Args::from_regs([r1, r2, r3, r4, r5])) }.into_reg()
    }
    thunk::<H>
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Widths;
    impl Helper for Widths {
        type Args = (u8, i32, *const u32);
        type Ret = i32;
        unsafe fn call((byte, int, pointer): (u8, i32, *const u32)) -> i32 {
            // SAFETY: the test passes a pointer to a live u32.
            i32::from(byte) + int + unsafe { *pointer } as i32
        }
    }

    #[test]
    fn arguments_truncate_and_results_extend_by_sign() {
        let value = 7u32;
        let address = std::ptr::from_ref(&value).expose_provenance() as u64;
        // SAFETY: the third argument is the address of a live u32.
        let r0 = unsafe {
            helper_fn::<Widths>()(
                0xabc_de01,
                u64::from(-10i32 as u32) | 5 << 32,
                address,
                0,
                0,
            )
        };
        assert_eq!(r0, -2i64 as u64);
    }

    struct Nothing;
    impl Helper for Nothing {
        type Args = ();
        type Ret = ();
        unsafe fn call((): ()) {}
    }

    #[test]
    fn no_result_reads_zero() {
        // SAFETY: takes no arguments.
        assert_eq!(unsafe { helper_fn::<Nothing>()(1, 2, 3, 4, 5) }, 0);
    }
}
