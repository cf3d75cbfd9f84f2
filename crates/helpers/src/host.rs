//! Programs of a host application: its own program type, context and helpers, as plain Rust functions.
//!
//! [`Host`] collects what is registered; `ring3_objects::System::for_host` makes a system of it; [`HostProgram`] runs a program of that
//! system. A helper is a function item (or closure without captures) of up to five registers: numbers, references to
//! [`HostStruct`](ring3_btf::host::HostStruct)s, the context, and bytes as `Vec<u8>` (pointer and size: two registers). From its types follow the
//! prototype that the verifier checks calls by, and the thunk that programs call.

use std::marker::PhantomData;

use ring3_btf::Btf;
use ring3_btf::host::{HostStruct, HostTypes};
use ring3_runtime::{Entry, HelperFn, ProgObject, run_in_section};
use ring3_spec::host::HostContext;
use ring3_spec::kinds::{Any, ArgKind, Int, Mem, RetKind, SizeOrZero, Void};
use ring3_spec::{
    Arg, ArgBase, CustomHelper, CustomProgType, FuncProto, ProgTypeRow, RegisterError, Registry,
    Ret, TypeFlags,
};
use ring3_sync::rcu;
use ring3_uapi::{Errno, ProgType};

use crate::bind;

/// What programs of a [`Host`] are.
pub const HOST_PROG_TYPE: ProgType = ProgType::Custom(Registry::FIRST_CUSTOM_ID);

/// A program type of a host application with the context `C`.
pub struct Host<C> {
    section: &'static str,
    types: HostTypes,
    btf: Option<Btf>,
    helpers: Vec<(FuncProto, HelperFn)>,
    error: Option<String>,
    context: PhantomData<fn(C)>,
}

/// A host's registrations, checked.
pub struct HostRows {
    registry: Registry,
    btf: Btf,
    helpers: Vec<(u32, HelperFn)>,
}

impl<C: HostContext> Host<C> {
    /// A program type whose programs are in this ELF section, which may also be `SECTION/ANYTHING`.
    pub fn new(section: &'static str) -> Host<C> {
        Host {
            section,
            types: HostTypes::new().with::<C>(),
            btf: None,
            helpers: Vec::new(),
            error: None,
            context: PhantomData,
        }
    }

    /// Takes types from BTF that the host has, such as its executable's own, instead of those that the context and helpers describe. Both must
    /// agree where both know a struct.
    pub fn with_btf(mut self, btf: Btf) -> Host<C> {
        self.btf = Some(btf);
        self
    }

    /// Adds a helper. The first has the number [`Registry::FIRST_CUSTOM_ID`] (0x10000), each next one the next.
    pub fn helper<F, A>(mut self, name: &'static str, function: F) -> Host<C>
    where
        F: HostHelper<A>,
    {
        let id = Registry::FIRST_CUSTOM_ID + self.helpers.len() as u32;
        let mut args = [Arg::NONE; 5];
        let given = F::args();
        if given.len() > args.len() {
            self.error = Some(format!(
                "helper '{name}': {} registers, at most 5",
                given.len()
            ));
        }
        for (slot, arg) in args.iter_mut().zip(given) {
            *slot = arg;
        }
        if let Some(other) = F::contexts().into_iter().find(|other| *other != C::NAME) {
            let own = C::NAME;
            self.error = Some(format!(
                "helper '{name}': takes context '{other}', not '{own}'"
            ));
        }
        F::describe(&mut self.types);
        let proto = FuncProto::custom(id, name, args, F::RET);
        self.helpers.push((proto, function.code()));
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// EINVAL: a helper with too many registers or another context, or BTF that says something else than the host's structs. EEXIST: two
    /// structs have one name.
    pub fn build(self) -> Result<HostRows, (Errno, String)> {
        if let Some(error) = self.error {
            return Err((Errno::EINVAL, error));
        }
        let btf_error = |error: ring3_btf::BtfError| (error.errno(), error.message().to_owned());
        let described = self.types.to_btf().map_err(btf_error)?;
        let btf = match self.btf {
            Some(btf) => {
                self.types.check_against(&btf).map_err(btf_error)?;
                btf
            }
            None => described,
        };
        let row_error = |error: RegisterError| (Errno::EINVAL, error.to_string());
        let mut registry = Registry::linux_6_18();
        let custom = CustomProgType {
            row: ProgTypeRow::custom(Registry::FIRST_CUSTOM_ID, C::TABLE),
            section: self.section,
        };
        registry.register_prog_type(custom).map_err(row_error)?;
        let mut helpers = Vec::new();
        for (proto, code) in self.helpers {
            helpers.push((proto.id.raw(), code));
            let helper = CustomHelper {
                proto,
                prog_types: vec![HOST_PROG_TYPE],
            };
            registry.register_helper(helper).map_err(row_error)?;
        }
        Ok(HostRows {
            registry,
            btf,
            helpers,
        })
    }
}

impl HostRows {
    /// Rows, types and implementations, for a system.
    pub fn into_parts(self) -> (Registry, Btf, Vec<(u32, HelperFn)>) {
        (self.registry, self.btf, self.helpers)
    }
}

/// A program whose context was checked to be `C`, ready to run many times.
#[derive(Clone, Copy)]
pub struct HostProgram<'p, C> {
    entry: Entry,
    alive: PhantomData<&'p dyn ProgObject>,
    context: PhantomData<fn(C)>,
}

impl<'p, C: HostContext> HostProgram<'p, C> {
    /// A program that runs over `C`.
    ///
    /// # Errors
    /// EINVAL: its context is something else, or it was verified with types that do not describe `C`.
    pub fn new(prog: &'p dyn ProgObject) -> Result<HostProgram<'p, C>, Errno> {
        let (table, btf) = prog.host_context().ok_or(Errno::EINVAL)?;
        let types = HostTypes::new().with::<C>();
        if table != C::TABLE || types.check_against(btf).is_err() {
            return Err(Errno::EINVAL);
        }
        Ok(HostProgram {
            entry: prog.entry(),
            alive: PhantomData,
            context: PhantomData,
        })
    }

    /// One run over a context; r0.
    #[inline]
    pub fn run(&self, context: &mut C) -> u64 {
        let address = std::ptr::from_mut(context).expose_provenance() as u64;
        let _section = rcu::read();
        // SAFETY: 1. the program is borrowed, so it is alive; 2. its context table is `C`'s, and the types it was verified with describe the
        // structs that `C` refers to; 3. the context is borrowed for the run; 4. a read section is active.
        unsafe { run_in_section(&self.entry, address) }
    }
}

/// Registers of a call that are still to be read.
pub struct Regs {
    regs: [u64; 5],
    next: usize,
}

impl Regs {
    fn take(&mut self) -> u64 {
        let reg = self.regs.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        reg
    }
}

/// A parameter of a helper.
pub trait HostArg {
    /// The parameter as it lives during one call.
    type Item<'call>;

    /// What the verifier checks of its registers.
    fn args() -> Vec<Arg>;

    /// The name of the context it is, if it is one.
    fn context() -> Option<&'static str> {
        None
    }

    /// Adds its types.
    fn describe(_types: &mut HostTypes) {}

    /// Reads its registers.
    ///
    /// # Safety
    /// The verifier checked the registers against [`HostArg::args`]; what is returned is used during the call only.
    unsafe fn from_regs<'call>(regs: &mut Regs) -> Self::Item<'call>;
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl HostArg for $ty {
            type Item<'call> = $ty;

            fn args() -> Vec<Arg> {
                vec![Any::ARG]
            }

            unsafe fn from_regs<'call>(regs: &mut Regs) -> Self::Item<'call> {
                regs.take() as $ty
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i8, i16, i32, i64);

/// An object of the host, or the context.
impl<T: HostStruct> HostArg for &T {
    type Item<'call> = &'call T::At<'call>;

    fn args() -> Vec<Arg> {
        if T::IS_CONTEXT {
            return vec![Arg::of(ArgBase::PtrToCtx)];
        }
        let object = Arg {
            btf_type: Some(T::NAME),
            ..Arg::of(ArgBase::PtrToBtfId)
        };
        vec![object.with(TypeFlags::TRUSTED)]
    }

    fn context() -> Option<&'static str> {
        T::IS_CONTEXT.then_some(T::NAME)
    }

    fn describe(types: &mut HostTypes) {
        T::describe(types);
    }

    unsafe fn from_regs<'call>(regs: &mut Regs) -> &'call T::At<'call> {
        // SAFETY: 1. ARG_PTR_TO_BTF_ID with PTR_TRUSTED: a reference of the context to a struct of this name, or a struct inside of one, with
        // the layout that `Host::build` compared with the compiler's; ARG_PTR_TO_CTX: the context, which `HostProgram::run` borrows;
        // 2. both outlive the run, and the program is suspended in the call; 3. programs store to neither objects nor, during the call, the
        // context.
        unsafe { &*std::ptr::with_exposed_provenance(regs.take() as usize) }
    }
}

/// A copy of memory that the program gave: pointer and size.
impl HostArg for Vec<u8> {
    type Item<'call> = Vec<u8>;

    fn args() -> Vec<Arg> {
        vec![Mem::ARG, SizeOrZero::ARG]
    }

    unsafe fn from_regs<'call>(regs: &mut Regs) -> Self::Item<'call> {
        let address = std::ptr::with_exposed_provenance(regs.take() as usize);
        let bytes = regs.take() as u32;
        // SAFETY: 1. the verifier checked the pair as memory and its size.
        unsafe { bind::bytes(address, bytes) }.to_vec()
    }
}

/// A result of a helper.
pub trait HostRet {
    /// What the verifier assumes of it.
    const RET: Ret;

    /// The register.
    fn into_reg(self) -> u64;
}

macro_rules! results {
    ($($ty:ty),*) => {$(
        impl HostRet for $ty {
            const RET: Ret = <Int as RetKind>::RET;

            fn into_reg(self) -> u64 {
                self as u64
            }
        }
    )*};
}
results!(u8, u16, u32, u64, i8, i16, i32, i64, bool);

impl HostRet for () {
    const RET: Ret = <Void as RetKind>::RET;

    fn into_reg(self) -> u64 {
        0
    }
}

/// A Rust function that programs can call; `A` is the tuple of its parameters.
pub trait HostHelper<A>: Copy + Send + Sync + 'static {
    /// What the verifier assumes of its result.
    const RET: Ret;

    /// What the verifier checks of its registers.
    fn args() -> Vec<Arg>;

    /// The names of contexts among its parameters.
    fn contexts() -> Vec<&'static str>;

    /// Adds the types of its parameters.
    fn describe(types: &mut HostTypes);

    /// What programs call.
    fn code(self) -> HelperFn;
}

macro_rules! functions {
    ($(($($arg:ident),*))*) => {$(
        impl<F, R: HostRet, $($arg: HostArg),*> HostHelper<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> R
                + for<'call> Fn($($arg::Item<'call>),*) -> R
                + Copy
                + Send
                + Sync
                + 'static,
        {
            const RET: Ret = R::RET;

            fn args() -> Vec<Arg> {
                let args: Vec<Vec<Arg>> = vec![$($arg::args()),*];
                args.concat()
            }

            fn contexts() -> Vec<&'static str> {
                let contexts: Vec<Option<&'static str>> = vec![$($arg::context()),*];
                contexts.into_iter().flatten().collect()
            }

            fn describe(_types: &mut HostTypes) {
                $($arg::describe(_types);)*
            }

            fn code(self) -> HelperFn {
                unsafe extern "C" fn thunk<F, R: HostRet, $($arg: HostArg),*>(
                    r1: u64,
                    r2: u64,
                    r3: u64,
                    r4: u64,
                    r5: u64,
                ) -> u64
                where
                    F: for<'call> Fn($($arg::Item<'call>),*) -> R + Copy + Send + Sync + 'static,
                {
                    let mut _regs = Regs {
                        regs: [r1, r2, r3, r4, r5],
                        next: 0,
                    };
                    const { assert!(size_of::<F>() == 0, "a helper captures nothing") };
                    // SAFETY: 1. `F` has no bytes, so any aligned address holds it; 2. the thunk is only named by `code`, which was given a
                    // value of `F`, and `F` is `Copy`: another one may exist, on any thread.
                    let function = unsafe { std::ptr::NonNull::<F>::dangling().as_ref() };
                    // SAFETY: 1. the verifier checked the call against `args`, in the same order; 2. nothing that is read outlives the call:
                    // the function takes parameters of any lifetime.
                    function($(unsafe { $arg::from_regs(&mut _regs) }),*).into_reg()
                }
                thunk::<F, R, $($arg),*>
            }
        }
    )*};
}
functions! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) }

#[cfg(test)]
mod tests {
    use super::*;

    ring3_btf::host_struct! {
        struct Object<'a> {
            name: &'a u64,
        }
    }

    fn name_of(object: &Object<'_>, plus: u32) -> u64 {
        *object.name + u64::from(plus)
    }

    fn proto<F: HostHelper<A>, A>(function: F) -> (Vec<Arg>, HelperFn) {
        (F::args(), function.code())
    }

    #[test]
    fn functions_become_prototypes_and_thunks() {
        let (args, code) = proto(name_of);
        assert_eq!(args.len(), 2);
        assert_eq!(args[0].btf_type, Some("Object"));
        assert!(args[0].has(TypeFlags::TRUSTED));
        let name = 40;
        let object = Object { name: &name };
        let address = std::ptr::from_ref(&object).expose_provenance() as u64;
        // SAFETY: the first register is the address of a live `Object`, the second a number.
        assert_eq!(unsafe { code(address, 2, 0, 0, 0) }, 42);
    }

    #[test]
    fn bytes_take_two_registers() {
        let (args, code) =
            proto(|bytes: Vec<u8>| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        assert_eq!(args.len(), 2);
        let bytes = [1u8, 2, 3];
        let address = bytes.as_ptr().expose_provenance() as u64;
        // SAFETY: the registers are the address of three bytes, and their number.
        assert_eq!(unsafe { code(address, 3, 0, 0, 0) }, 6);
    }
}
