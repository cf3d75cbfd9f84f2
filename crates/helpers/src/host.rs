//! Programs of a host application: its own program type, context, helpers and kfuncs, as plain Rust functions.
//!
//! [`Host`] collects what is registered; `ring3_objects::System::for_host` makes a system of it; [`HostProgram`] runs a program of that
//! system. A helper is a function item (or closure without captures) of up to five registers: numbers, references to
//! [`HostStruct`](ring3_btf::host::HostStruct)s, the context, and bytes as `Vec<u8>` (pointer and size: two registers). From its types follow the
//! prototype that the verifier checks calls by, and the thunk that programs call.
//!
//! A kfunc is such a function under a name in the host's BTF instead of a number. It may also give objects away and take them back: an
//! `Arc<T>` that it returns is a reference that the program must give back (`KF_ACQUIRE`), an `Option<Arc<T>>` one that may be NULL, an
//! `Arc<T>` parameter takes one (`KF_RELEASE`).

use std::marker::PhantomData;
use std::sync::Arc;

use ring3_btf::host::{HostStruct, HostType, HostTypes};
use ring3_btf::{Btf, TypeId};
use ring3_runtime::{Entry, HelperFn, ProgObject, run_in_section};
use ring3_spec::host::HostContext;
use ring3_spec::kfunc::{KfuncFilter, KfuncFlags, KfuncHook, KfuncRow};
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
    kfuncs: Vec<(KfuncRow, HelperFn)>,
    error: Option<String>,
    context: PhantomData<fn(C)>,
}

/// A host's registrations, checked.
pub struct HostRows {
    /// Rows of Linux and the host.
    pub registry: Registry,
    /// The host's types and kfuncs.
    pub btf: Btf,
    /// What runs of helpers, by number.
    pub helpers: Vec<(u32, HelperFn)>,
    /// What runs of kfuncs, by name.
    pub kfuncs: Vec<(&'static str, HelperFn)>,
}

impl<C: HostContext> Host<C> {
    /// A program type whose programs are in this ELF section, which may also be `SECTION/ANYTHING`.
    pub fn new(section: &'static str) -> Host<C> {
        Host {
            section,
            types: HostTypes::new().with::<C>(),
            btf: None,
            helpers: Vec::new(),
            kfuncs: Vec::new(),
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
        self.note_function::<F, A>("helper", name);
        let proto = FuncProto::custom(id, name, args, F::RET);
        self.helpers.push((proto, function.code()));
        self
    }

    /// Adds a kfunc, which programs declare as `extern ... NAME(...) __ksym`. References that it takes must be trusted.
    pub fn kfunc<F, A>(self, name: &'static str, function: F) -> Host<C>
    where
        F: HostFunction<A>,
    {
        self.kfunc_with(name, function, KfuncFlags::NONE)
    }

    /// As [`Host::kfunc`], with flags beyond those that follow from its types: [`KfuncFlags::SLEEPABLE`], [`KfuncFlags::RCU`].
    pub fn kfunc_with<F, A>(mut self, name: &'static str, function: F, flags: KfuncFlags) -> Host<C>
    where
        F: HostFunction<A>,
    {
        let (ret, params) = self.note_function::<F, A>("kfunc", name);
        if params.len() > 5 {
            self.error = Some(format!(
                "kfunc '{name}': {} registers, at most 5",
                params.len()
            ));
        }
        let number = |(at, (suffix, ty)): (usize, (&str, TypeId))| (format!("a{at}{suffix}"), ty);
        let params = params.into_iter().enumerate().map(number).collect();
        self.types.add_function(name, ret, params);
        let row = KfuncRow {
            name,
            flags: F::flags().or(flags),
            hooks: &[KfuncHook::Host],
            filter: KfuncFilter::Any,
        };
        self.kfuncs.push((row, function.code()));
        self
    }

    /// Adds the types of a function; what describes its result, and its registers.
    fn note_function<F, A>(
        &mut self,
        what: &str,
        name: &str,
    ) -> (TypeId, Vec<(&'static str, TypeId)>)
    where
        F: HostFunction<A>,
    {
        if let Some(other) = F::contexts().into_iter().find(|other| *other != C::NAME) {
            let own = C::NAME;
            self.error = Some(format!(
                "{what} '{name}': takes context '{other}', not '{own}'"
            ));
        }
        F::describe(&mut self.types)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// EINVAL: a helper or kfunc with too many registers or another context, a kfunc with a name that is taken, or BTF that says something else than the host's structs. EEXIST: two
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
                if self.kfuncs.is_empty() {
                    btf
                } else {
                    self.types.add_functions_to(&btf).map_err(btf_error)?
                }
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
        let mut kfuncs = Vec::new();
        for (row, code) in self.kfuncs {
            kfuncs.push((row.name, code));
            registry.register_kfunc(row).map_err(row_error)?;
        }
        Ok(HostRows {
            registry,
            btf,
            helpers,
            kfuncs,
        })
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

    /// Adds its types; a register each: the end of its name in BTF, and its type.
    fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)>;

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

            fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)> {
                vec![("", <$ty as HostType>::describe(types))]
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

    fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)> {
        vec![("", pointer_to::<T>(types))]
    }

    unsafe fn from_regs<'call>(regs: &mut Regs) -> &'call T::At<'call> {
        // SAFETY: 1. ARG_PTR_TO_BTF_ID with PTR_TRUSTED, or KF_TRUSTED_ARGS: a reference of the context to a struct of this name, an object that a
        // kfunc gave and the program has not given back, or a struct inside of one, with
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

    fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)> {
        vec![
            ("", types.add_pointer(TypeId(0))),
            ("__sz", <u32 as HostType>::describe(types)),
        ]
    }

    unsafe fn from_regs<'call>(regs: &mut Regs) -> Self::Item<'call> {
        let address = std::ptr::with_exposed_provenance(regs.take() as usize);
        let bytes = regs.take() as u32;
        // SAFETY: 1. the verifier checked the pair as memory and its size.
        unsafe { bind::bytes(address, bytes) }.to_vec()
    }
}

/// A pointer to a struct of the host.
fn pointer_to<T: HostType>(types: &mut HostTypes) -> TypeId {
    let to = T::describe(types);
    types.add_pointer(to)
}

/// A parameter of a kfunc: those of helpers, and references that are given back.
pub trait KfuncArg {
    /// The parameter as it lives during one call.
    type Item<'call>;
    /// What it says about the function.
    const FLAGS: KfuncFlags;

    /// The name of the context it is, if it is one.
    fn context() -> Option<&'static str>;

    /// As [`HostArg::params`].
    fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)>;

    /// Reads its registers.
    ///
    /// # Safety
    /// As [`HostArg::from_regs`], by the function's BTF and flags.
    unsafe fn from_regs<'call>(regs: &mut Regs) -> Self::Item<'call>;
}

impl<A: HostArg> KfuncArg for A {
    type Item<'call> = A::Item<'call>;
    const FLAGS: KfuncFlags = KfuncFlags::TRUSTED_ARGS;

    fn context() -> Option<&'static str> {
        A::context()
    }

    fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)> {
        A::params(types)
    }

    unsafe fn from_regs<'call>(regs: &mut Regs) -> A::Item<'call> {
        // SAFETY: 1. the caller's promise.
        unsafe { A::from_regs(regs) }
    }
}

/// A reference that the program gives back.
impl<T: HostStruct + Send + Sync + 'static> KfuncArg for Arc<T> {
    type Item<'call> = Arc<T>;
    const FLAGS: KfuncFlags = KfuncFlags::RELEASE;

    fn context() -> Option<&'static str> {
        None
    }

    fn params(types: &mut HostTypes) -> Vec<(&'static str, TypeId)> {
        vec![("", pointer_to::<T>(types))]
    }

    unsafe fn from_regs<'call>(regs: &mut Regs) -> Self::Item<'call> {
        // SAFETY: 1. KF_RELEASE: the program owns a reference of an object of this type, which only kfuncs of the host give, as `Arc`s; 2. it
        // cannot use it afterwards.
        unsafe { Arc::from_raw(std::ptr::with_exposed_provenance(regs.take() as usize)) }
    }
}

/// A result of a kfunc: those of helpers, and references.
pub trait KfuncRet {
    /// What it says about the function.
    const FLAGS: KfuncFlags;

    /// Adds its type; 0 for no result.
    fn describe(types: &mut HostTypes) -> TypeId;

    /// The register.
    fn into_reg(self) -> u64;
}

impl<R: HostRet> KfuncRet for R {
    const FLAGS: KfuncFlags = KfuncFlags::NONE;

    fn describe(types: &mut HostTypes) -> TypeId {
        R::describe(types)
    }

    fn into_reg(self) -> u64 {
        HostRet::into_reg(self)
    }
}

impl<T: HostStruct + Send + Sync + 'static> KfuncRet for Arc<T> {
    const FLAGS: KfuncFlags = KfuncFlags::ACQUIRE;

    fn describe(types: &mut HostTypes) -> TypeId {
        pointer_to::<T>(types)
    }

    fn into_reg(self) -> u64 {
        Arc::into_raw(self).expose_provenance() as u64
    }
}

impl<T: HostStruct + Send + Sync + 'static> KfuncRet for Option<Arc<T>> {
    const FLAGS: KfuncFlags = KfuncFlags::ACQUIRE.or(KfuncFlags::RET_NULL);

    fn describe(types: &mut HostTypes) -> TypeId {
        pointer_to::<T>(types)
    }

    fn into_reg(self) -> u64 {
        self.map_or(0, KfuncRet::into_reg)
    }
}

/// A result of a helper.
pub trait HostRet {
    /// What the verifier assumes of it.
    const RET: Ret;

    /// Adds its type; 0 for no result.
    fn describe(types: &mut HostTypes) -> TypeId;

    /// The register.
    fn into_reg(self) -> u64;
}

macro_rules! results {
    ($($ty:ty),*) => {$(
        impl HostRet for $ty {
            const RET: Ret = <Int as RetKind>::RET;

            fn describe(types: &mut HostTypes) -> TypeId {
                <$ty as HostType>::describe(types)
            }

            fn into_reg(self) -> u64 {
                self as u64
            }
        }
    )*};
}
results!(u8, u16, u32, u64, i8, i16, i32, i64, bool);

impl HostRet for () {
    const RET: Ret = <Void as RetKind>::RET;

    fn describe(_types: &mut HostTypes) -> TypeId {
        TypeId(0)
    }

    fn into_reg(self) -> u64 {
        0
    }
}

/// A Rust function that programs can call; `A` is the tuple of its parameters.
pub trait HostFunction<A>: Copy + Send + Sync + 'static {
    /// The names of contexts among its parameters.
    fn contexts() -> Vec<&'static str>;

    /// What its types say of it as a kfunc.
    fn flags() -> KfuncFlags;

    /// Adds its types: of the result, and of each register.
    fn describe(types: &mut HostTypes) -> (TypeId, Vec<(&'static str, TypeId)>);

    /// What programs call.
    fn code(self) -> HelperFn;
}

/// One that can be a helper.
pub trait HostHelper<A>: HostFunction<A> {
    /// What the verifier assumes of its result.
    const RET: Ret;

    /// What the verifier checks of its registers.
    fn args() -> Vec<Arg>;
}

macro_rules! functions {
    ($(($($arg:ident),*))*) => {$(
        impl<F, R: HostRet, $($arg: HostArg),*> HostHelper<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> R
                + for<'call> Fn($(<$arg as KfuncArg>::Item<'call>),*) -> R
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
        }

        impl<F, R: KfuncRet, $($arg: KfuncArg),*> HostFunction<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> R
                + for<'call> Fn($($arg::Item<'call>),*) -> R
                + Copy
                + Send
                + Sync
                + 'static,
        {
            fn contexts() -> Vec<&'static str> {
                let contexts: Vec<Option<&'static str>> =
                    vec![$(<$arg as KfuncArg>::context()),*];
                contexts.into_iter().flatten().collect()
            }

            fn flags() -> KfuncFlags {
                R::FLAGS$(.or($arg::FLAGS))*
            }

            fn describe(types: &mut HostTypes) -> (TypeId, Vec<(&'static str, TypeId)>) {
                let ret = R::describe(types);
                let params: Vec<Vec<(&'static str, TypeId)>> =
                    vec![$(<$arg as KfuncArg>::params(types)),*];
                (ret, params.concat())
            }

            fn code(self) -> HelperFn {
                unsafe extern "C" fn thunk<F, R: KfuncRet, $($arg: KfuncArg),*>(
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
                    // SAFETY: 1. the verifier checked the call against the prototype that follows from the types, in the same order; 2. nothing
                    // that is read outlives the call: the function takes parameters of any lifetime.
                    function($(unsafe { <$arg as KfuncArg>::from_regs(&mut _regs) }),*).into_reg()
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

    ring3_btf::host_struct! {
        struct Counter {
            value: u64,
        }
    }

    ring3_spec::host_context! {
        struct Event<'a> {
            counter: &'a Counter,
        }
    }

    fn find(value: u64) -> Option<Arc<Counter>> {
        (value != 0).then(|| Arc::new(Counter { value }))
    }

    fn put(counter: Arc<Counter>) -> u64 {
        counter.value
    }

    fn peek(_event: &Event<'_>, counter: &Counter, bytes: Vec<u8>) -> u64 {
        counter.value + bytes.len() as u64
    }

    #[test]
    fn kfuncs_say_in_btf_and_flags_what_their_types_say() {
        let host = Host::<Event<'_>>::new("event")
            .kfunc("find", find)
            .kfunc("put", put)
            .kfunc_with("peek", peek, KfuncFlags::SLEEPABLE);
        let rows = host.build().map_err(|(_, text)| text).unwrap();
        let proto = |name| {
            let id = rows.btf.find_by_name_kind(name, ring3_btf::Kind::Func);
            rows.btf
                .type_by_id(id.unwrap())
                .unwrap()
                .referent()
                .unwrap()
        };
        let names: Vec<&str> = proto("peek").params().map(|param| param.name()).collect();
        assert_eq!(names, ["a0", "a1", "a2", "a3__sz"]);
        let flags = |name| rows.registry.kfunc(name).unwrap().flags;
        let [trusted, none] = [KfuncFlags::TRUSTED_ARGS, KfuncFlags::NONE];
        let gives = KfuncFlags::ACQUIRE.or(KfuncFlags::RET_NULL);
        assert_eq!(flags("find"), trusted.or(gives));
        assert_eq!(flags("put"), none.or(KfuncFlags::RELEASE));
        assert_eq!(flags("peek"), trusted.or(KfuncFlags::SLEEPABLE));
        let row = rows.registry.kfunc("find").unwrap();
        assert!(row.is_for(HOST_PROG_TYPE, 0) && !row.is_for(ProgType::Xdp, 0));
        let code = |name| {
            rows.kfuncs
                .iter()
                .find(|(other, _)| *other == name)
                .unwrap()
                .1
        };
        // SAFETY: numbers, and a reference that `find` gave.
        unsafe {
            assert_eq!(code("find")(0, 0, 0, 0, 0), 0);
            let counter = code("find")(7, 0, 0, 0, 0);
            assert_eq!(code("put")(counter, 0, 0, 0, 0), 7);
        }
    }

    #[test]
    fn kfuncs_have_names_of_their_own_and_five_registers() {
        let taken = Host::<Event<'_>>::new("event").kfunc("bpf_throw", put);
        let (errno, text) = taken.build().err().unwrap();
        assert_eq!(errno, Errno::EINVAL);
        assert!(text.contains("bpf_throw"), "{text}");
        let many = |_: Vec<u8>, _: Vec<u8>, _: Vec<u8>| 0u64;
        let (_, text) = Host::<Event<'_>>::new("event")
            .kfunc("many", many)
            .build()
            .err()
            .unwrap();
        assert!(text.contains("6 registers"), "{text}");
    }
}
