//! Binding bodies to prototypes: `implement!` makes, of a row of `ring3_spec::helpers` and a body, a C function that programs call.
//!
//! The prototype's argument tuple is taken from the five registers, and each [`Value`] is converted by [`FromValue`] to the parameter type that
//! the body names. A body with another number of arguments, or a parameter type that the argument's kind has no conversion to, does not
//! compile. Results go back the same way through [`IntoValue`].

use ring3_maps::Map;
use ring3_runtime::{Callback, CallbackRef};
use ring3_spec::kinds::{
    AllocSize, Any, Btf, ConstStr, Ctx, Dynptr, DynptrLocalOut, DynptrMem, DynptrRingbufOut,
    DynptrRingbufRelease, FixedMem, FixedMemInOut, FixedMemOut, Func, Int, Key, MapVal, MapValOut,
    MapValue, Mem, MemInOut, MemOut, OrNull, Released, RingbufMem, RingbufRecord, Size, SizeOrZero,
    SpinLockPtr, StackPtr, TimerPtr, Trusted, Value, Void,
};

use crate::dynptr::DynptrKern;
use crate::packet::{SkLookup, Skb, Sock, XdpBuff};

/// A parameter that a body can take for an argument of kind `K`.
pub(crate) trait FromValue<K> {
    /// Reads the register.
    ///
    /// # Safety
    /// The verifier established `K` for the register, and pointers are used only during the call.
    unsafe fn from_value(value: Value<K>) -> Self;
}

/// What a helper's implementation takes its context for: programs of other types must not reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// An [`Skb`].
    Skb,
    /// An [`XdpBuff`].
    Xdp,
    /// A [`SkLookup`].
    SkLookup,
    /// The frame of a trampoline.
    Frame,
}

impl Needs {
    /// What a helper with these parameters needs.
    pub(crate) const fn of(parameters: &[Needs]) -> Needs {
        let mut at = 0;
        while at < parameters.len() {
            if !matches!(parameters[at], Needs::Nothing) {
                return parameters[at];
            }
            at += 1;
        }
        Needs::Nothing
    }
}

/// A parameter type of a body.
pub(crate) trait Parameter {
    /// What the program's context must be.
    const NEEDS: Needs = Needs::Nothing;
}

macro_rules! parameters {
    ($($ty:ty $(: $needs:ident)?),* $(,)?) => {$(
        impl Parameter for $ty {
            $(const NEEDS: Needs = Needs::$needs;)?
        }
    )*};
}
parameters! {
    u64, i64, u32, i32, u16, *const u8, *mut u8, *mut u32, *mut u64, &Map, CallbackRef, AnyCtx, &DynptrKern, &mut DynptrKern,
    Option<&Sock>, &mut Skb: Skb, &mut XdpBuff: Xdp, &mut SkLookup: SkLookup, crate::traced::Frame: Frame,
    &mut crate::sysctl::SysctlCtx<'_>, &mut crate::sock_addr::SockAddrCtx<'_>
}

/// A result that stands for kind `K`.
pub(crate) trait IntoValue<K> {
    /// The register.
    fn into_value(self) -> Value<K>;
}

macro_rules! scalars {
    ($($ty:ty),*) => {$(
        impl FromValue<Any> for $ty {
            unsafe fn from_value(value: Value<Any>) -> Self {
                value.raw as $ty
            }
        }
    )*};
}
scalars!(u64, i64, u32, i32, u16);

macro_rules! sizes {
    ($($kind:ty),*) => {$(
        impl FromValue<$kind> for u32 {
            unsafe fn from_value(value: Value<$kind>) -> Self {
                value.raw as u32
            }
        }
    )*};
}
sizes!(Size, SizeOrZero, AllocSize);

macro_rules! pointers {
    ($($kind:ty => $ty:ty),*) => {$(
        impl FromValue<$kind> for $ty {
            unsafe fn from_value(value: Value<$kind>) -> Self {
                std::ptr::with_exposed_provenance_mut::<u8>(value.raw as usize) as $ty
            }
        }
    )*};
}
pointers! {
    Key => *const u8,
    MapVal => *const u8,
    MapValOut => *mut u8,
    Mem => *const u8,
    MemOut => *mut u8,
    MemInOut => *mut u8,
    OrNull<Mem> => *const u8,
    OrNull<MapVal> => *const u8,
    OrNull<MemInOut> => *mut u8,
    ConstStr => *const u8,
    SpinLockPtr => *mut u32,
    TimerPtr => *mut u64,
    Released<RingbufMem> => *mut u8
}

impl<const BYTES: u32> FromValue<FixedMemInOut<BYTES>> for *mut u8 {
    unsafe fn from_value(value: Value<FixedMemInOut<BYTES>>) -> Self {
        std::ptr::with_exposed_provenance_mut::<u8>(value.raw as usize)
    }
}

impl<const BYTES: u32> FromValue<FixedMem<BYTES>> for *const u8 {
    unsafe fn from_value(value: Value<FixedMem<BYTES>>) -> Self {
        std::ptr::with_exposed_provenance::<u8>(value.raw as usize)
    }
}

impl<const BYTES: u32> FromValue<FixedMemOut<BYTES>> for *mut u64 {
    unsafe fn from_value(value: Value<FixedMemOut<BYTES>>) -> Self {
        const { assert!(BYTES == 8) };
        std::ptr::with_exposed_provenance_mut(value.raw as usize)
    }
}

macro_rules! dynptrs {
    ($($kind:ty => $ty:ty),*) => {$(
        impl FromValue<$kind> for $ty {
            unsafe fn from_value(value: Value<$kind>) -> Self {
                // SAFETY: 1. the verifier checked a dynptr of 16 bytes, 8-aligned, which lies on a program's stack or in a helper's frame
                // below us; 2. any bytes are a `DynptrKern`; 3. the program is suspended in the call, so nothing else touches it.
                unsafe { &mut *std::ptr::with_exposed_provenance_mut(value.raw as usize) }
            }
        }
    )*};
}
dynptrs! {
    Dynptr => &DynptrKern,
    DynptrLocalOut => &mut DynptrKern,
    DynptrRingbufOut => &mut DynptrKern,
    DynptrRingbufRelease => &mut DynptrKern
}

impl FromValue<OrNull<StackPtr>> for u64 {
    unsafe fn from_value(value: Value<OrNull<StackPtr>>) -> Self {
        value.raw
    }
}

impl FromValue<Func> for CallbackRef {
    unsafe fn from_value(value: Value<Func>) -> Self {
        /// A function that no path reaches is removed from the program, and its address is 0 then (`bpf_loop` of no rounds).
        static REMOVED: Callback = Callback::new(removed);
        unsafe extern "C" fn removed(
            _: u64,
            _: u64,
            _: u64,
            _: u64,
            _: u64,
            _: *const Callback,
        ) -> u64 {
            0
        }
        CallbackRef::from_reg(value.raw).unwrap_or_else(|| CallbackRef::from_static(&REMOVED))
    }
}

impl FromValue<ring3_spec::kinds::Map> for &Map {
    unsafe fn from_value(value: Value<ring3_spec::kinds::Map>) -> Self {
        // SAFETY: 1. ARG_CONST_MAP_PTR: the register holds a map's program pointer; 2. the program keeps the map.
        unsafe { Map::from_program_ptr(value.raw) }
    }
}

impl FromValue<Ctx> for &mut Skb {
    unsafe fn from_value(value: Value<Ctx>) -> Self {
        // SAFETY: 1. rows with this parameter are found only for programs whose context is an skb; 2. such contexts are `Skb`s; 3. the
        // program is suspended in the call, so nothing else touches it.
        unsafe { &mut *std::ptr::with_exposed_provenance_mut(value.raw as usize) }
    }
}

impl FromValue<Ctx> for &mut XdpBuff {
    unsafe fn from_value(value: Value<Ctx>) -> Self {
        // SAFETY: as for skbs: only XDP programs find these rows, and their contexts are `XdpBuff`s.
        unsafe { &mut *std::ptr::with_exposed_provenance_mut(value.raw as usize) }
    }
}

impl FromValue<Ctx> for &mut SkLookup {
    unsafe fn from_value(value: Value<Ctx>) -> Self {
        // SAFETY: as for skbs: only programs of socket look-ups find these rows, and their contexts are `SkLookup`s.
        unsafe { &mut *std::ptr::with_exposed_provenance_mut(value.raw as usize) }
    }
}

/// The context where the body does not look at it.
pub(crate) struct AnyCtx;

impl FromValue<Ctx> for AnyCtx {
    unsafe fn from_value(_: Value<Ctx>) -> Self {
        AnyCtx
    }
}

impl FromValue<OrNull<Ctx>> for AnyCtx {
    unsafe fn from_value(_: Value<OrNull<Ctx>>) -> Self {
        AnyCtx
    }
}

impl<S> FromValue<Btf<S>> for u64 {
    unsafe fn from_value(value: Value<Btf<S>>) -> Self {
        value.raw
    }
}

impl<S> FromValue<OrNull<Btf<S>>> for u64 {
    unsafe fn from_value(value: Value<OrNull<Btf<S>>>) -> Self {
        value.raw
    }
}

impl<S> IntoValue<Trusted<S>> for u64 {
    fn into_value(self) -> Value<Trusted<S>> {
        Value::new(self)
    }
}

impl IntoValue<Int> for u64 {
    fn into_value(self) -> Value<Int> {
        Value::new(self)
    }
}

impl IntoValue<Int> for i64 {
    fn into_value(self) -> Value<Int> {
        Value::new(self as u64)
    }
}

/// A result or a negated errno.
impl IntoValue<Int> for Result<u64, ring3_uapi::Errno> {
    fn into_value(self) -> Value<Int> {
        Value::new(self.unwrap_or_else(|errno| errno.negated() as u64))
    }
}

/// 0 or a negated errno.
impl IntoValue<Int> for Result<(), ring3_uapi::Errno> {
    fn into_value(self) -> Value<Int> {
        self.map(|()| 0).into_value()
    }
}

impl IntoValue<Void> for () {
    fn into_value(self) -> Value<Void> {
        Value::new(0)
    }
}

macro_rules! pointer_results {
    ($($kind:ty),*) => {$(
        impl IntoValue<$kind> for *mut u8 {
            fn into_value(self) -> Value<$kind> {
                Value::new(self.expose_provenance() as u64)
            }
        }
    )*};
}
pointer_results!(
    OrNull<MapValue>,
    MapValue,
    OrNull<RingbufRecord>,
    OrNull<DynptrMem>
);

/// An argument tuple taken from the registers.
pub(crate) trait FromRegs {
    /// The first registers, tagged.
    fn from_regs(regs: [u64; 5]) -> Self;
}

impl FromRegs for () {
    fn from_regs(_: [u64; 5]) -> Self {}
}

macro_rules! tuples {
    ($(($($kind:ident $at:literal),*))*) => {$(
        impl<$($kind),*> FromRegs for ($(Value<$kind>,)*) {
            #[inline(always)]
            fn from_regs(regs: [u64; 5]) -> Self {
                ($(Value::<$kind>::new(regs[$at]),)*)
            }
        }
    )*};
}
tuples! { (A 0) (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3) (A 0, B 1, C 2, D 3, E 4) }

/// `implement! { NAME: Row(arg: Type, ...) { body } ... }`: a table `NAME` of the bound rows. The body runs in an unsafe function: it may
/// rely on what the prototype says of its arguments. `Row[regs](...)` gives the body the registers too, for helpers that read more than
/// their prototype names; `Row{given}(...)` gives it the word that who linked the program put
/// down ([`crate::Given`]); `Row<frame>(...)` gives it the address of the helper's own frame (caller's rbp, return address), for those that
/// walk the stack.
macro_rules! implement {
    ($table:ident: $($(#[$meta:meta])* $row:ident $([$regs:ident])? $(<$frame:ident>)? $({$given:ident})? ($($arg:ident: $ty:ty),*) $body:block)*) => {
        pub(crate) const $table: &[$crate::Row] = &[$({
            $(#[$meta])*
            unsafe extern "C" fn thunk(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64 $(, $frame: u64)? $(, $given: u64)?) -> u64 {
                use $crate::bind::{FromRegs, IntoValue};
                type Declared = ring3_spec::helpers::$row;
                $(let $regs = [r1, r2, r3, r4, r5];)?
                let ($($arg,)*): <Declared as ring3_spec::helpers::Helper>::Args = FromRegs::from_regs([r1, r2, r3, r4, r5]);
                // SAFETY: 1. the verifier checked the call against the prototype these kinds come from.
                $(let $arg: $ty = unsafe { $crate::bind::FromValue::from_value($arg) };)*
                let result: <Declared as ring3_spec::helpers::Helper>::Ret = IntoValue::into_value($body);
                result.raw
            }
            $crate::Row {
                needs: const { $crate::bind::Needs::of(&[$(<$ty as $crate::bind::Parameter>::NEEDS),*]) },
                given: $crate::bind::implement!(@given $($given)?),
                ..$crate::Row::of::<ring3_spec::helpers::$row>($crate::bind::implement!(@code thunk $($frame)? $({$given})?))
            }
        }),*];
    };
    (@given) => { $crate::Given::Nothing };
    (@given $given:ident) => { $crate::Given::KernelTypes };
    (@code $thunk:ident) => { $thunk };
    (@code $thunk:ident {$given:ident}) => {
        // SAFETY: 1. functions of both types have one representation; 2. `Row::given` says which it is, and who links calls it as that.
        unsafe { std::mem::transmute::<ring3_runtime::GivenHelperFn, ring3_runtime::HelperFn>($thunk) }
    };
    (@code $thunk:ident $frame:ident) => {{
        /// Makes a frame that [`crate::stack`] begins at, and passes its address as the sixth argument.
        #[unsafe(naked)]
        unsafe extern "C" fn framed(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64) -> u64 {
            core::arch::naked_asm!("push rbp", "mov rbp, rsp", "mov r9, rsp", "call {}", "pop rbp", "ret", sym $thunk)
        }
        framed
    }};
}
pub(crate) use implement;

/// Memory that the program gave to read.
///
/// # Safety
/// `ptr` and `len` are a memory argument and its size as the verifier checked them; null only with 0.
pub(crate) unsafe fn bytes<'a>(ptr: *const u8, len: u32) -> &'a [u8] {
    if ptr.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: 1. the verifier checked `len` readable bytes; 2. the program is suspended while the helper reads. Concurrent writers of
    // map values exist, as in the kernel; bytes are copied out before they are interpreted.
    unsafe { std::slice::from_raw_parts(ptr, len as usize) }
}

/// Memory that the program gave to fill.
///
/// # Safety
/// As [`bytes`], for writing.
pub(crate) unsafe fn bytes_mut<'a>(ptr: *mut u8, len: u32) -> &'a mut [u8] {
    if ptr.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: 1. the verifier checked `len` writable bytes; 2. the program is suspended while the helper writes.
    unsafe { std::slice::from_raw_parts_mut(ptr, len as usize) }
}
