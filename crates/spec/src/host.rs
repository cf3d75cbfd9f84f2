//! Contexts of a host application: a struct of its own becomes the context of a program type. Key types: [`HostContext`], which
//! [`host_context!`](crate::host_context) writes, and [`Writable`].

use ring3_btf::TypeId;
use ring3_btf::host::{HostStruct, HostType, HostTypes};

use crate::ctx::{CtxReg, CtxTable, Sizes};

/// A struct that programs of a host's program type get as their context. [`host_context!`](crate::host_context) implements it; an
/// implementation by hand promises that the table is the memory layout.
pub trait HostContext: HostStruct {
    /// Its fields, at their places.
    const TABLE: &'static CtxTable;
}

/// What programs may do with a field of a context, by its type.
pub trait ContextField: HostType {
    /// What a load yields.
    const REG: CtxReg;
    /// Loads.
    const READ: Sizes;
    /// Stores.
    const WRITE: Sizes = Sizes::NONE;
}

/// A number in a context that programs may also store to; any number must be a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Writable<T>(pub T);

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl ContextField for $ty {
            const REG: CtxReg = CtxReg::Scalar;
            const READ: Sizes = Sizes::between(1, size_of::<$ty>() as u8);
        }

        impl ContextField for Writable<$ty> {
            const REG: CtxReg = CtxReg::Scalar;
            const READ: Sizes = Sizes::between(1, size_of::<$ty>() as u8);
            const WRITE: Sizes = Sizes::between(1, size_of::<$ty>() as u8);
        }
    )*};
}
numbers!(u8, u16, u32, u64, i8, i16, i32, i64);

impl<T: HostType> HostType for Writable<T> {
    fn describe(types: &mut HostTypes) -> TypeId {
        T::describe(types)
    }
}

/// A reference is a typed pointer that programs may load from and hand to helpers.
impl<T: HostStruct> ContextField for &T {
    const REG: CtxReg = CtxReg::Trusted(T::NAME);
    const READ: Sizes = Sizes::whole(8);
}

/// Declares a struct with C's layout, describes it in BTF, and makes it a context: numbers can be loaded, [`Writable`] ones stored too,
/// references are typed pointers.
///
/// ```
/// use ring3_spec::{host_context, host::{HostContext, Writable}};
/// ring3_btf::host_struct! { pub struct Account { pub id: u32 } }
/// host_context! {
///     pub struct Request<'a> {
///         pub method: u32,
///         pub verdict: Writable<u32>,
///         pub account: &'a Account,
///     }
/// }
/// assert_eq!(Request::TABLE.bytes, 16);
/// ```
#[macro_export]
macro_rules! host_context {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::host_context!(@write [$(#[$meta])*] [$vis] $name [] [] { $($fields)* });
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident <$lt:lifetime> { $($fields:tt)* }) => {
        $crate::host_context!(@write [$(#[$meta])*] [$vis] $name [<$lt>] [<'x>] { $($fields)* });
    };
    (@write [$($meta:tt)*] [$vis:vis] $name:ident [$($lt:tt)*] [$($other:tt)*] {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $ty:ty),* $(,)?
    }) => {
        $crate::__private::host_struct! {
            @write true, [$($meta)*] [$vis] $name [$($lt)*] [$($other)*] {
                $($(#[$field_meta])* $field_vis $field: $ty),*
            }
        }

        impl $($lt)* $crate::host::HostContext for $name $($lt)* {
            const TABLE: &'static $crate::ctx::CtxTable = &$crate::ctx::CtxTable {
                view: None,
                uapi_struct: stringify!($name),
                kernel_struct: "",
                bytes: ::core::mem::size_of::<Self>() as u32,
                fields: &[$($crate::ctx::CtxField::plain(
                    stringify!($field),
                    ::core::mem::offset_of!(Self, $field) as u32,
                    ::core::mem::size_of::<$ty>() as u32,
                    <$ty as $crate::host::ContextField>::READ,
                    <$ty as $crate::host::ContextField>::WRITE,
                    <$ty as $crate::host::ContextField>::REG,
                )),*],
            };
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::AccessKind;

    ring3_btf::host_struct! {
        struct Object {
            value: u64,
        }
    }

    crate::host_context! {
        struct Sample<'a> {
            number: u32,
            answer: Writable<u16>,
            object: &'a Object,
        }
    }

    #[test]
    fn fields_are_where_the_compiler_put_them() {
        let table = Sample::TABLE;
        let find = |kind, offset, bytes| table.find(0, kind, offset, bytes).map(|field| field.name);
        assert_eq!(find(AccessKind::Load, 0, 4), Some("number"));
        assert_eq!(find(AccessKind::Load, 2, 2), Some("number"));
        assert_eq!(find(AccessKind::Store, 0, 4), None);
        assert_eq!(find(AccessKind::Store, 4, 2), Some("answer"));
        assert_eq!(find(AccessKind::Load, 6, 2), None);
        assert_eq!(find(AccessKind::Load, 8, 8), Some("object"));
        assert_eq!(find(AccessKind::Load, 8, 4), None);
        assert_eq!(table.fields[2].reg, CtxReg::Trusted("Object"));
    }
}
