//! Views of types: `Type` borrows a `Btf` and reads kind, name and the records that follow a type in the blob.
//!
//! Every accessor answers something harmless for a kind that does not have what is asked (0, empty, `None`).

use crate::Btf;
use crate::raw::u32_at;
use core::fmt;

/// The id of a type; 0 is `void`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`
    pub const VOID: TypeId = TypeId(0);

    /// Is this `void`?
    pub const fn is_void(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! kinds {
    ($($name:ident = $value:literal, $text:literal, $rec:expr;)*) => {
        /// What a type is.
        ///
        /// # Source
        /// `BTF_KIND_*` of linux/btf.h, Linux 6.18.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $(#[doc = concat!("`BTF_KIND_", $text, "`")] $name = $value,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The kind with this number.
            pub const fn from_raw(raw: u32) -> Option<Kind> {
                match raw {
                    $($value => Some(Kind::$name),)*
                    _ => None,
                }
            }

            /// The word the kernel's log and `bpftool btf dump` print.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => $text,)*
                }
            }

            /// Bytes after the 12 bytes of a type: a fixed part and one record for each of `vlen`.
            pub(crate) const fn tail_bytes(self) -> (usize, usize) {
                match self {
                    $(Kind::$name => $rec,)*
                }
            }
        }
    };
}

kinds! {
    Void = 0, "UNKNOWN", (0, 0);
    Int = 1, "INT", (4, 0);
    Ptr = 2, "PTR", (0, 0);
    Array = 3, "ARRAY", (12, 0);
    Struct = 4, "STRUCT", (0, 12);
    Union = 5, "UNION", (0, 12);
    Enum = 6, "ENUM", (0, 8);
    Fwd = 7, "FWD", (0, 0);
    Typedef = 8, "TYPEDEF", (0, 0);
    Volatile = 9, "VOLATILE", (0, 0);
    Const = 10, "CONST", (0, 0);
    Restrict = 11, "RESTRICT", (0, 0);
    Func = 12, "FUNC", (0, 0);
    FuncProto = 13, "FUNC_PROTO", (0, 8);
    Var = 14, "VAR", (4, 0);
    Datasec = 15, "DATASEC", (0, 12);
    Float = 16, "FLOAT", (0, 0);
    DeclTag = 17, "DECL_TAG", (4, 0);
    TypeTag = 18, "TYPE_TAG", (0, 0);
    Enum64 = 19, "ENUM64", (0, 12);
}

impl Kind {
    /// The word people know: C's keyword where there is one.
    pub const fn c_word(self) -> &'static str {
        match self {
            Kind::Struct | Kind::Fwd => "struct",
            Kind::Union => "union",
            Kind::Enum | Kind::Enum64 => "enum",
            Kind::Typedef => "typedef",
            Kind::Func => "function",
            Kind::Var => "variable",
            Kind::Void
            | Kind::Int
            | Kind::Ptr
            | Kind::Array
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::FuncProto
            | Kind::Datasec
            | Kind::Float
            | Kind::DeclTag
            | Kind::TypeTag => "type",
        }
    }

    /// const, volatile, restrict, a type tag or a typedef: a type that only wraps another.
    pub const fn is_mod_or_typedef(self) -> bool {
        matches!(
            self,
            Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag
        )
    }

    /// const, volatile, restrict or a type tag.
    pub const fn is_mod(self) -> bool {
        matches!(
            self,
            Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag
        )
    }

    /// struct or union
    pub const fn is_composite(self) -> bool {
        matches!(self, Kind::Struct | Kind::Union)
    }

    /// enum or enum64
    pub const fn is_any_enum(self) -> bool {
        matches!(self, Kind::Enum | Kind::Enum64)
    }

    /// Does the third word hold a size (else it refers to a type, or is unused)?
    pub const fn has_size(self) -> bool {
        matches!(
            self,
            Kind::Int
                | Kind::Struct
                | Kind::Union
                | Kind::Enum
                | Kind::Enum64
                | Kind::Datasec
                | Kind::Float
        )
    }
}

/// One type of a [`Btf`].
#[derive(Clone, Copy)]
pub struct Type<'a> {
    pub(crate) btf: &'a Btf,
    pub(crate) id: TypeId,
    pub(crate) kind: Kind,
    pub(crate) name_off: u32,
    pub(crate) info: u32,
    pub(crate) size_or_type: u32,
    pub(crate) tail: &'a [u8],
}

impl<'a> Type<'a> {
    /// The id.
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name, empty for an anonymous type.
    pub fn name(&self) -> &'a str {
        self.btf.str_by_offset(self.name_off).unwrap_or("")
    }

    /// The name's offset in the string section.
    pub fn name_off(&self) -> u32 {
        self.name_off
    }

    /// The second word, undecoded.
    pub fn info(&self) -> u32 {
        self.info
    }

    /// Number of records: members, enum values, parameters, variables; a function's linkage.
    pub fn vlen(&self) -> u32 {
        self.info & 0xffff
    }

    /// The kind flag: members carry bitfield sizes, an enum is signed, a forward declaration is of a union.
    pub fn kind_flag(&self) -> bool {
        self.info >> 31 != 0
    }

    /// The third word, undecoded.
    pub fn size_or_type(&self) -> u32 {
        self.size_or_type
    }

    /// The size in bytes that the type itself states, 0 for kinds that have none (see [`Btf::resolve_size`]).
    pub fn size(&self) -> u32 {
        if self.kind.has_size() {
            self.size_or_type
        } else {
            0
        }
    }

    /// What a pointer, typedef, modifier, function, variable or tag refers to; a prototype's return type.
    pub fn type_id(&self) -> TypeId {
        if self.kind.has_size() {
            TypeId::VOID
        } else {
            TypeId(self.size_or_type)
        }
    }

    /// The integer's encoding.
    pub fn int(&self) -> Option<Int> {
        if self.kind != Kind::Int {
            return None;
        }
        Some(Int::from_word(u32_at(self.tail, 0)?))
    }

    /// The array's element and index types and length.
    pub fn array(&self) -> Option<Array> {
        if self.kind != Kind::Array {
            return None;
        }
        Some(Array {
            elem: TypeId(u32_at(self.tail, 0)?),
            index: TypeId(u32_at(self.tail, 4)?),
            nelems: u32_at(self.tail, 8)?,
        })
    }

    /// Members of a struct or union, in order.
    pub fn members(
        &self,
    ) -> impl ExactSizeIterator<Item = Member<'a>> + DoubleEndedIterator + Clone + use<'a> {
        let ty = *self;
        self.records(self.kind.is_composite(), 12)
            .map(move |rec| ty.read_member(rec))
    }

    /// The member with this index.
    pub fn member(&self, index: u32) -> Option<Member<'a>> {
        self.record(self.kind.is_composite(), 12, index)
            .map(|rec| self.read_member(rec))
    }

    fn read_member(&self, rec: &[u8]) -> Member<'a> {
        let offset = word(rec, 2);
        let (bit_offset, bitfield_bits) = if self.kind_flag() {
            (offset & 0xff_ffff, offset >> 24)
        } else {
            (offset, 0)
        };
        Member {
            btf: self.btf,
            name_off: word(rec, 0),
            ty: TypeId(word(rec, 1)),
            bit_offset,
            bitfield_bits,
        }
    }

    /// Values of an enum or enum64, in order.
    pub fn enum_values(&self) -> impl ExactSizeIterator<Item = EnumValue<'a>> + Clone + use<'a> {
        let ty = *self;
        self.records(self.kind.is_any_enum(), self.kind.tail_bytes().1)
            .map(move |rec| ty.read_enum_value(rec))
    }

    /// The enumeration value with this index.
    pub fn enum_value(&self, index: u32) -> Option<EnumValue<'a>> {
        self.record(self.kind.is_any_enum(), self.kind.tail_bytes().1, index)
            .map(|rec| self.read_enum_value(rec))
    }

    fn read_enum_value(&self, rec: &[u8]) -> EnumValue<'a> {
        let (low, signed) = (word(rec, 1), self.kind_flag());
        let bits = match (self.kind == Kind::Enum64, signed) {
            (true, _) => u64::from(word(rec, 2)) << 32 | u64::from(low),
            (false, true) => i64::from(low as i32) as u64,
            (false, false) => u64::from(low),
        };
        EnumValue {
            btf: self.btf,
            name_off: word(rec, 0),
            bits,
            signed,
        }
    }

    /// Parameters of a function prototype, in order; a last one without name and type means `...`.
    pub fn params(
        &self,
    ) -> impl ExactSizeIterator<Item = Param<'a>> + DoubleEndedIterator + Clone + use<'a> {
        let ty = *self;
        self.records(self.kind == Kind::FuncProto, 8)
            .map(move |rec| ty.read_param(rec))
    }

    /// The parameter with this index.
    pub fn param(&self, index: u32) -> Option<Param<'a>> {
        self.record(self.kind == Kind::FuncProto, 8, index)
            .map(|rec| self.read_param(rec))
    }

    fn read_param(&self, rec: &[u8]) -> Param<'a> {
        Param {
            btf: self.btf,
            name_off: word(rec, 0),
            ty: TypeId(word(rec, 1)),
        }
    }

    /// Variables of a data section, in order.
    pub fn vars(&self) -> impl ExactSizeIterator<Item = VarSecinfo> + Clone + use<'a> {
        self.records(self.kind == Kind::Datasec, 12)
            .map(|rec| VarSecinfo {
                ty: TypeId(word(rec, 0)),
                offset: word(rec, 1),
                size: word(rec, 2),
            })
    }

    /// The linkage of a variable.
    pub fn var_linkage(&self) -> Option<VarLinkage> {
        if self.kind != Kind::Var {
            return None;
        }
        VarLinkage::from_raw(u32_at(self.tail, 0)?)
    }

    /// The linkage of a function.
    pub fn func_linkage(&self) -> Option<FuncLinkage> {
        if self.kind != Kind::Func {
            return None;
        }
        FuncLinkage::from_raw(self.vlen())
    }

    /// The member or parameter a declaration tag belongs to, -1 for the whole type.
    pub fn component_idx(&self) -> Option<i32> {
        if self.kind != Kind::DeclTag {
            return None;
        }
        Some(u32_at(self.tail, 0)? as i32)
    }

    /// The type this one refers to.
    pub fn referent(&self) -> Option<Type<'a>> {
        if self.kind.has_size() || matches!(self.kind, Kind::Array | Kind::Fwd | Kind::Void) {
            return None;
        }
        self.btf.type_by_id(self.type_id())
    }

    fn records(
        &self,
        applies: bool,
        bytes: usize,
    ) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        let tail: &'a [u8] = if applies { self.tail } else { &[] };
        tail.chunks_exact(bytes.max(1))
    }

    fn record(&self, applies: bool, bytes: usize, index: u32) -> Option<&'a [u8]> {
        let start = (index as usize).checked_mul(bytes)?;
        self.tail
            .get(start..start.checked_add(bytes)?)
            .filter(|_| applies)
    }
}

impl fmt::Debug for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {} {:?}", self.id, self.kind.name(), self.name())
    }
}

/// The record is at least 12 or 8 bytes long, the index below 3 or 2.
fn word(record: &[u8], index: usize) -> u32 {
    u32_at(record, index * 4).unwrap_or(0)
}

/// How the bits of an integer are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntEncoding(pub u8);

impl IntEncoding {
    /// no attribute
    pub const NONE: IntEncoding = IntEncoding(0);
    /// two's complement
    pub const SIGNED: IntEncoding = IntEncoding(1);
    /// a character
    pub const CHAR: IntEncoding = IntEncoding(2);
    /// a truth value
    pub const BOOL: IntEncoding = IntEncoding(4);

    /// Is the signed bit set?
    pub const fn is_signed(self) -> bool {
        self.0 & 1 != 0
    }

    /// Is the bool bit set?
    pub const fn is_bool(self) -> bool {
        self.0 & 4 != 0
    }

    /// The kernel's word for the encoding.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "(none)",
            1 => "SIGNED",
            2 => "CHAR",
            4 => "BOOL",
            _ => "UNKN",
        }
    }
}

/// An integer: its encoding, and which bits of its bytes it occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int {
    /// the encoding
    pub encoding: IntEncoding,
    /// first bit
    pub bit_offset: u32,
    /// number of bits
    pub bits: u32,
}

impl Int {
    /// Decodes the word that follows an integer type.
    pub fn from_word(word: u32) -> Int {
        Int {
            encoding: IntEncoding((word >> 24 & 0xf) as u8),
            bit_offset: word >> 16 & 0xff,
            bits: word & 0xff,
        }
    }
}

/// An array: element type, index type, length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array {
    /// type of an element
    pub elem: TypeId,
    /// type of an index
    pub index: TypeId,
    /// number of elements
    pub nelems: u32,
}

/// A member of a struct or union.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    pub(crate) btf: &'a Btf,
    /// offset of the name in the string section
    pub name_off: u32,
    /// the member's type
    pub ty: TypeId,
    /// offset from the start of the struct, in bits
    pub bit_offset: u32,
    /// bits of a bitfield, 0 for an ordinary member
    pub bitfield_bits: u32,
}

impl<'a> Member<'a> {
    /// The name, empty for an anonymous member.
    pub fn name(&self) -> &'a str {
        self.btf.str_by_offset(self.name_off).unwrap_or("")
    }

    /// Offset in whole bytes.
    pub fn byte_offset(&self) -> u32 {
        self.bit_offset / 8
    }
}

/// A value of an enumeration.
#[derive(Clone, Copy)]
pub struct EnumValue<'a> {
    btf: &'a Btf,
    /// offset of the name in the string section
    pub name_off: u32,
    /// the value, sign-extended to 64 bits if the enumeration is signed
    pub bits: u64,
    /// does the enumeration say that its values are signed?
    pub signed: bool,
}

impl<'a> EnumValue<'a> {
    /// The name.
    pub fn name(&self) -> &'a str {
        self.btf.str_by_offset(self.name_off).unwrap_or("")
    }
}

/// A parameter of a function prototype.
#[derive(Clone, Copy)]
pub struct Param<'a> {
    btf: &'a Btf,
    /// offset of the name in the string section
    pub name_off: u32,
    /// the parameter's type
    pub ty: TypeId,
}

impl<'a> Param<'a> {
    /// The name, empty if it has none.
    pub fn name(&self) -> &'a str {
        self.btf.str_by_offset(self.name_off).unwrap_or("")
    }
}

/// A variable in a data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VarSecinfo {
    /// the variable (or, in `.ksyms`, a function)
    pub ty: TypeId,
    /// offset in the section, in bytes
    pub offset: u32,
    /// size in bytes
    pub size: u32,
}

/// Linkage of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarLinkage {
    /// not visible outside of the object
    Static,
    /// defined here, visible
    GlobalAllocated,
    /// defined elsewhere
    GlobalExtern,
}

impl VarLinkage {
    /// The linkage with this number.
    pub const fn from_raw(raw: u32) -> Option<VarLinkage> {
        match raw {
            0 => Some(VarLinkage::Static),
            1 => Some(VarLinkage::GlobalAllocated),
            2 => Some(VarLinkage::GlobalExtern),
            _ => None,
        }
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// Linkage of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuncLinkage {
    /// not visible outside of the object: verified with its callers
    Static,
    /// visible: verified on its own
    Global,
    /// defined elsewhere
    Extern,
}

impl FuncLinkage {
    /// The linkage with this number.
    pub const fn from_raw(raw: u32) -> Option<FuncLinkage> {
        match raw {
            0 => Some(FuncLinkage::Static),
            1 => Some(FuncLinkage::Global),
            2 => Some(FuncLinkage::Extern),
            _ => None,
        }
    }
}
