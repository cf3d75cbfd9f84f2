//! Types of a host application as BTF: [`HostTypes`] collects descriptions, [`host_struct!`](crate::host_struct) writes them beside the struct.
//!
//! Offsets and sizes are the compiler's own, so that what programs are allowed to read is what is there.

use crate::{Btf, BtfError, Builder, FuncLinkage, IntEncoding, Kind, TypeId};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// A type of the host that BTF can describe.
pub trait HostType {
    /// Adds the type, unless it is there; its id.
    fn describe(types: &mut HostTypes) -> TypeId;
}

/// A struct of the host. [`host_struct!`](crate::host_struct) implements it; an implementation by hand promises that its description is the
/// memory layout, which programs are checked by and helpers rely on.
pub trait HostStruct: HostType {
    /// Its name in BTF.
    const NAME: &'static str;
    /// Whether it is the context of programs, which reach it by a pointer of another kind.
    const IS_CONTEXT: bool;
    /// The struct with another lifetime, if it has one: what helpers see of it lives for one call.
    type At<'x>: HostStruct + 'x;
}

/// A member on its way into a description: name, what describes its type, byte offset.
pub type HostMember = (&'static str, fn(&mut HostTypes) -> TypeId, usize);

/// Types of a host, collected to become BTF.
#[derive(Clone, Debug, Default)]
pub struct HostTypes {
    entries: Vec<Entry>,
    functions: Vec<HostFunction>,
    structs: BTreeMap<&'static str, (TypeId, &'static str)>,
    others: BTreeMap<Entry, TypeId>,
    conflict: Option<&'static str>,
}

/// A function of the host that programs may call.
#[derive(Clone, Debug)]
struct HostFunction {
    name: &'static str,
    ret: TypeId,
    params: Vec<(String, TypeId)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Int(&'static str, u32, u8),
    Ptr(TypeId),
    Array(TypeId, u32),
    Struct(&'static str, u32, Vec<(&'static str, TypeId, u32)>),
}

impl HostTypes {
    /// No types yet.
    pub fn new() -> HostTypes {
        HostTypes::default()
    }

    /// Adds a type and what it is made of.
    pub fn with<T: HostType>(mut self) -> HostTypes {
        T::describe(&mut self);
        self
    }

    /// Adds an integer.
    pub fn add_int(&mut self, name: &'static str, bytes: u32, encoding: IntEncoding) -> TypeId {
        self.add(Entry::Int(name, bytes, encoding.0))
    }

    /// Adds a pointer.
    pub fn add_pointer(&mut self, to: TypeId) -> TypeId {
        self.add(Entry::Ptr(to))
    }

    /// Adds an array.
    pub fn add_array(&mut self, elem: TypeId, nelems: u32) -> TypeId {
        self.add(Entry::Array(elem, nelems))
    }

    /// Adds a struct. `rust_name` tells apart two structs that have one name; members may refer to the struct itself.
    pub fn add_struct(
        &mut self,
        name: &'static str,
        rust_name: &'static str,
        bytes: usize,
        members: &[HostMember],
    ) -> TypeId {
        if let Some(&(id, known)) = self.structs.get(name) {
            if known != rust_name {
                self.conflict = Some(name);
            }
            return id;
        }
        let id = self.next_id();
        self.entries
            .push(Entry::Struct(name, bytes as u32, Vec::new()));
        self.structs.insert(name, (id, rust_name));
        let described = members
            .iter()
            .map(|&(name, describe, offset)| (name, describe(self), offset as u32 * 8))
            .collect();
        if let Some(Entry::Struct(_, _, members)) = self.entries.get_mut(id.0 as usize - 1) {
            *members = described;
        }
        id
    }

    /// Adds a function of parameters (name, type); `ret` is 0 for a function that gives nothing back.
    pub fn add_function(&mut self, name: &'static str, ret: TypeId, params: Vec<(String, TypeId)>) {
        self.functions.push(HostFunction { name, ret, params });
    }

    fn add(&mut self, entry: Entry) -> TypeId {
        if let Some(&id) = self.others.get(&entry) {
            return id;
        }
        let id = self.next_id();
        self.entries.push(entry.clone());
        self.others.insert(entry, id);
        id
    }

    fn next_id(&self) -> TypeId {
        TypeId(self.entries.len() as u32 + 1)
    }

    /// The types as BTF.
    ///
    /// # Errors
    /// EEXIST: two structs have one name.
    pub fn to_btf(&self) -> Result<Btf, BtfError> {
        if let Some(name) = self.conflict {
            let message = format!("struct '{name}': two types of the host have this name");
            return Err(BtfError::new(Errno::EEXIST, message));
        }
        let mut builder = Builder::new();
        // Arrays are indexed by a type that BTF names; the first integer does, one of its own if there is none.
        let first_int = (1..)
            .zip(&self.entries)
            .find_map(|(id, entry)| match entry {
                Entry::Int(..) => Some(TypeId(id)),
                Entry::Ptr(_) | Entry::Array(..) | Entry::Struct(..) => None,
            });
        let index = first_int.unwrap_or(self.next_id());
        for entry in &self.entries {
            match entry {
                Entry::Int(name, bytes, encoding) => {
                    builder.add_int(name, *bytes, IntEncoding(*encoding))
                }
                Entry::Ptr(to) => builder.add_ref(Kind::Ptr, "", *to),
                Entry::Array(elem, nelems) => builder.add_array(*elem, index, *nelems),
                Entry::Struct(name, bytes, members) => builder.add_struct(name, *bytes, members),
            };
        }
        if first_int.is_none() {
            builder.add_int("unsigned int", 4, IntEncoding::NONE);
        }
        for function in &self.functions {
            write_function(&mut builder, function, |id| id);
        }
        Btf::parse(&builder.finish())
    }

    /// Another BTF, which says the same of the structs collected here, with the functions.
    ///
    /// # Errors
    /// EINVAL: a function has a type that the other BTF has not.
    pub fn add_functions_to(&self, other: &Btf) -> Result<Btf, BtfError> {
        let mut builder = Builder::extend(other);
        let mut ids = BTreeMap::from([(TypeId(0), TypeId(0))]);
        for function in &self.functions {
            let types = function.params.iter().map(|(_, ty)| *ty);
            for ty in types.chain([function.ret]) {
                self.find_in(other, &mut builder, &mut ids, ty)?;
            }
            write_function(&mut builder, function, |id| ids[&id]);
        }
        Btf::parse(&builder.finish())
    }

    /// Notes which id a type collected here has in another BTF; numbers and pointers are added.
    fn find_in(
        &self,
        other: &Btf,
        builder: &mut Builder,
        ids: &mut BTreeMap<TypeId, TypeId>,
        id: TypeId,
    ) -> Result<(), BtfError> {
        if ids.contains_key(&id) {
            return Ok(());
        }
        let entry = self.entries.get((id.0 as usize).wrapping_sub(1));
        let found = match entry {
            Some(Entry::Int(name, bytes, encoding)) => {
                Some(builder.add_int(name, *bytes, IntEncoding(*encoding)))
            }
            // Parameters point to structs or to nothing in particular: no recursion beyond that.
            Some(Entry::Ptr(to)) => {
                self.find_in(other, builder, ids, *to)?;
                Some(builder.add_ref(Kind::Ptr, "", ids[to]))
            }
            Some(Entry::Struct(name, ..)) => other.find_by_name_kind(name, Kind::Struct),
            Some(Entry::Array(..)) | None => None,
        };
        let Some(found) = found else {
            let message = format!("type {}: a function of the host takes it by value", id.0);
            return Err(BtfError::new(Errno::EINVAL, message));
        };
        ids.insert(id, found);
        Ok(())
    }

    /// Whether another BTF (one that came from the host's executable) says the same of every struct collected here: size, and each member's
    /// name, place and size.
    ///
    /// # Errors
    /// EINVAL: names the struct or member that differs. As [`HostTypes::to_btf`].
    pub fn check_against(&self, other: &Btf) -> Result<(), BtfError> {
        let own = self.to_btf()?;
        for (name, (id, _)) in &self.structs {
            let wrong = |what: &str| {
                let message = format!("struct '{name}' of the host: {what} in the BTF given");
                Err(BtfError::new(Errno::EINVAL, message))
            };
            let ours = own.type_by_id(*id);
            let theirs = other.find_by_name_kind(name, Kind::Struct);
            let (Some(ours), Some(theirs)) = (ours, theirs.and_then(|id| other.type_by_id(id)))
            else {
                return wrong("is not");
            };
            if ours.size() != theirs.size() || ours.vlen() != theirs.vlen() {
                return wrong("has another size");
            }
            for (our, their) in ours.members().zip(theirs.members()) {
                let same = our.name() == their.name()
                    && our.bit_offset == their.bit_offset
                    && their.bitfield_bits == 0
                    && own.resolve_size(our.ty) == other.resolve_size(their.ty)
                    && pointee(&own, our.ty) == pointee(other, their.ty);
                if !same {
                    return wrong(&format!("has another member '{}'", our.name()));
                }
            }
        }
        Ok(())
    }
}

/// The struct that a pointer points to: `Some("")` for a pointer to anything else, `None` for other types.
fn pointee(btf: &Btf, id: TypeId) -> Option<&str> {
    let pointer = btf.stripped(id).filter(|ty| ty.kind() == Kind::Ptr)?;
    let target = btf.stripped(pointer.type_id());
    Some(
        target
            .filter(|ty| ty.kind() == Kind::Struct)
            .map_or("", |ty| ty.name()),
    )
}

fn write_function(builder: &mut Builder, function: &HostFunction, id: impl Fn(TypeId) -> TypeId) {
    let params: Vec<(&str, TypeId)> = function
        .params
        .iter()
        .map(|(name, ty)| (name.as_str(), id(*ty)))
        .collect();
    let proto = builder.add_func_proto(id(function.ret), &params);
    builder.add_func(function.name, proto, FuncLinkage::Static);
}

macro_rules! integers {
    ($($ty:ty = $name:literal, $encoding:ident;)*) => {$(
        impl HostType for $ty {
            fn describe(types: &mut HostTypes) -> TypeId {
                types.add_int($name, size_of::<$ty>() as u32, IntEncoding::$encoding)
            }
        }
    )*};
}
integers! {
    u8 = "unsigned char", NONE;
    u16 = "unsigned short", NONE;
    u32 = "unsigned int", NONE;
    u64 = "unsigned long", NONE;
    usize = "unsigned long", NONE;
    i8 = "signed char", SIGNED;
    i16 = "short", SIGNED;
    i32 = "int", SIGNED;
    i64 = "long", SIGNED;
    bool = "_Bool", BOOL;
}

macro_rules! pointers {
    ($($ty:ty),*) => {$(
        impl<T: HostType> HostType for $ty {
            fn describe(types: &mut HostTypes) -> TypeId {
                let to = T::describe(types);
                types.add_pointer(to)
            }
        }
    )*};
}
pointers!(&T, Option<&T>, *const T, *mut T);

impl<T: HostType, const N: usize> HostType for [T; N] {
    fn describe(types: &mut HostTypes) -> TypeId {
        let elem = T::describe(types);
        types.add_array(elem, N as u32)
    }
}

/// Declares a struct with C's layout, and describes it in BTF under its own name.
///
/// ```
/// use ring3_btf::{host_struct, Kind, host::HostTypes};
/// host_struct! {
///     /// A client.
///     pub struct Account {
///         pub id: u32,
///         pub quota: u64,
///     }
/// }
/// let btf = HostTypes::new().with::<Account>().to_btf().unwrap();
/// let account = btf.find_by_name_kind("Account", Kind::Struct).unwrap();
/// assert_eq!(btf.resolve_size(account), Some(16));
/// ```
#[macro_export]
macro_rules! host_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::host_struct!(@write false, [$(#[$meta])*] [$vis] $name [] [] { $($fields)* });
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident <$lt:lifetime> { $($fields:tt)* }) => {
        $crate::host_struct!(@write false, [$(#[$meta])*] [$vis] $name [<$lt>] [<'x>] { $($fields)* });
    };
    (@write $is_context:literal, [$($meta:tt)*] [$vis:vis] $name:ident [$($lt:tt)*] [$($other:tt)*] {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $ty:ty),* $(,)?
    }) => {
        $($meta)*
        #[repr(C)]
        $vis struct $name $($lt)* {
            $($(#[$field_meta])* $field_vis $field: $ty),*
        }

        impl $($lt)* $crate::host::HostType for $name $($lt)* {
            fn describe(types: &mut $crate::host::HostTypes) -> $crate::TypeId {
                types.add_struct(
                    stringify!($name),
                    ::core::any::type_name::<Self>(),
                    ::core::mem::size_of::<Self>(),
                    &[$((
                        stringify!($field),
                        <$ty as $crate::host::HostType>::describe,
                        ::core::mem::offset_of!(Self, $field),
                    )),*],
                )
            }
        }

        impl $($lt)* $crate::host::HostStruct for $name $($lt)* {
            const NAME: &'static str = stringify!($name);
            const IS_CONTEXT: bool = $is_context;
            type At<'x> = $name $($other)*;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    host_struct! {
        struct Node<'a> {
            value: i16,
            flags: [u8; 3],
            next: Option<&'a Node<'a>>,
        }
    }

    mod other {
        host_struct! {
            pub(super) struct Node {
                value: u64,
            }
        }
    }

    fn described() -> HostTypes {
        HostTypes::new().with::<Node<'_>>()
    }

    #[test]
    fn structs_may_point_to_themselves() {
        let btf = described().to_btf().unwrap();
        let node = btf.find_by_name_kind("Node", Kind::Struct).unwrap();
        let members: Vec<_> = btf
            .type_by_id(node)
            .unwrap()
            .members()
            .map(|member| (member.name(), member.byte_offset()))
            .collect();
        assert_eq!(members, [("value", 0), ("flags", 2), ("next", 8)]);
        assert_eq!(btf.resolve_size(node), Some(16));
        assert!(crate::check::check(btf.bytes(), Default::default(), None).is_ok());
        assert!(described().check_against(&btf).is_ok());
    }

    #[test]
    fn functions_are_added_to_another_blob() {
        let mut types = described();
        let [number, nothing] = [u32::describe(&mut types), types.add_pointer(TypeId(0))];
        let node = types.structs["Node"].0;
        let node = types.add_pointer(node);
        let params = [("node", node), ("bytes", nothing), ("bytes__sz", number)];
        let params = params.map(|(name, ty)| (String::from(name), ty)).to_vec();
        types.add_function("weigh", number, params);
        let own = types.to_btf().unwrap();
        let other = types
            .add_functions_to(&described().to_btf().unwrap())
            .unwrap();
        for btf in [&own, &other] {
            let func = btf.find_by_name_kind("weigh", Kind::Func).unwrap();
            let proto = btf.type_by_id(func).unwrap().referent().unwrap();
            let names: Vec<_> = proto.params().map(|param| param.name()).collect();
            assert_eq!(names, ["node", "bytes", "bytes__sz"]);
            let first = proto.params().next().unwrap();
            assert_eq!(pointee(btf, first.ty), Some("Node"));
            assert_eq!(btf.name(proto.type_id()), "unsigned int");
            assert!(crate::check::check(btf.bytes(), Default::default(), None).is_ok());
        }
        let by_value = types.structs["Node"].0;
        let array = types.add_array(by_value, 2);
        types.add_function("bad", array, Vec::new());
        let error = types.add_functions_to(&own).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL);
    }

    #[test]
    fn two_structs_of_one_name_are_refused() {
        let types = described().with::<other::Node>();
        assert_eq!(types.to_btf().unwrap_err().errno(), Errno::EEXIST);
    }

    #[test]
    fn another_layout_is_named() {
        let mut builder = Builder::new();
        let short = builder.add_int("short", 2, IntEncoding::SIGNED);
        builder.add_struct(
            "Node",
            16,
            &[("value", short, 8), ("a", short, 16), ("b", short, 64)],
        );
        let wrong = Btf::parse(&builder.finish()).unwrap();
        let error = described().check_against(&wrong).unwrap_err();
        assert!(
            error.message().contains("another member 'value'"),
            "{error}"
        );
    }
}
