//! `Prototype`: the prototype of a host's function, written as C, on its way into BTF.
//!
//! Integers are C's and the usual short names (`u64`, `__u32`, `int32_t`, `size_t`; Rust's too); structs, unions, enums and typedefs are those of
//! the BTF the function is added to, where pointers may name structs that it does not have.

use crate::{Btf, BtfError, Builder, FuncLinkage, IntEncoding, Kind, TypeId};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// A function's name, result and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prototype {
    name: String,
    ret: CType,
    params: Vec<(String, CType)>,
}

/// A type: what is pointed to, through how many pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CType {
    base: Base,
    pointers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Base {
    Void,
    Bool,
    Int {
        bytes: u32,
        is_signed: bool,
    },
    /// Of the BTF: a struct, union, enum or typedef.
    Named {
        kind: Kind,
        name: String,
    },
}

/// Names of integers with sizes and signs.
const INTS: &[(&[&str], u32, bool)] = &[
    (&["s8", "__s8", "int8_t", "i8"], 1, true),
    (&["u8", "__u8", "uint8_t"], 1, false),
    (&["s16", "__s16", "int16_t", "i16"], 2, true),
    (&["u16", "__u16", "uint16_t", "__be16"], 2, false),
    (&["s32", "__s32", "int32_t", "i32"], 4, true),
    (&["u32", "__u32", "uint32_t", "__be32"], 4, false),
    (&["s64", "__s64", "int64_t", "i64"], 8, true),
    (&["u64", "__u64", "uint64_t", "__be64"], 8, false),
    (&["size_t", "uintptr_t", "usize"], 8, false),
    (&["ssize_t", "intptr_t", "isize"], 8, true),
];

/// What compilers call integers in BTF: gcc's name, then clang's.
const BTF_INTS: &[(u32, bool, [&str; 2])] = &[
    (1, true, ["char", "signed char"]),
    (1, false, ["unsigned char", "unsigned char"]),
    (2, true, ["short int", "short"]),
    (2, false, ["short unsigned int", "unsigned short"]),
    (4, true, ["int", "int"]),
    (4, false, ["unsigned int", "unsigned int"]),
    (8, true, ["long int", "long"]),
    (8, false, ["long unsigned int", "unsigned long"]),
];

/// Words of C that make up integers.
const INT_WORDS: &[&str] = &["char", "short", "int", "long", "signed", "unsigned"];
const QUALIFIERS: &[&str] = &["const", "volatile", "restrict", "extern", "static"];

impl Prototype {
    /// Reads `TYPE NAME(TYPE NAME, ...)`; names of parameters may be left out.
    ///
    /// # Errors
    /// EINVAL: not of this form; the message says where.
    pub fn parse(text: &str) -> Result<Prototype, BtfError> {
        let fail = |what: &str| {
            let message = format!("prototype '{text}': {what}");
            Err(BtfError::new(Errno::EINVAL, message))
        };
        let text_trimmed = text.trim().trim_end_matches(';').trim_end();
        let Some((head, params)) = text_trimmed.split_once('(') else {
            return fail("no parameters");
        };
        let Some(params) = params.strip_suffix(')') else {
            return fail("nothing may follow the parameters");
        };
        let (ret, name) = match declaration(head) {
            Ok((ret, Some(name))) => (ret, name),
            Ok((_, None)) => return fail("no name"),
            Err(what) => return fail(&what),
        };
        let mut parsed = Vec::new();
        let is_empty = matches!(params.trim(), "" | "void");
        for (index, param) in params.split(',').enumerate().filter(|_| !is_empty) {
            match declaration(param) {
                Ok((ty, name)) if ty.base != Base::Void || ty.pointers != 0 => {
                    parsed.push((name.unwrap_or_else(|| format!("arg{index}")), ty));
                }
                Ok(_) => return fail("a parameter of type void"),
                Err(what) => return fail(&what),
            }
        }
        Ok(Prototype {
            name,
            ret,
            params: parsed,
        })
    }

    /// What is assumed of a function that nobody describes: five u64 arguments, a u64 result.
    pub fn untyped(name: &str) -> Prototype {
        let number = CType {
            base: Base::Int {
                bytes: 8,
                is_signed: false,
            },
            pointers: 0,
        };
        let params = ["a", "b", "c", "d", "e"].map(|param| (param.to_string(), number.clone()));
        Prototype {
            name: name.to_string(),
            ret: number,
            params: params.to_vec(),
        }
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a function of the BTF has the same prototype, as far as code can tell: sizes of numbers, and what pointers point to.
    pub fn is_of(&self, btf: &Btf, function: TypeId) -> bool {
        let Some(proto) = btf.type_by_id(function).and_then(|func| func.referent()) else {
            return false;
        };
        let same = |ty: &CType, id| {
            ty.describe(btf)
                .is_some_and(|text| text == describe(btf, id))
        };
        proto.params().len() == self.params.len()
            && same(&self.ret, proto.type_id())
            && self
                .params
                .iter()
                .zip(proto.params())
                .all(|((_, ty), param)| same(ty, param.ty))
    }

    /// Adds the function to a copy of `btf` under construction ([`Builder::extend`]); its id.
    ///
    /// # Errors
    /// ENOENT: `btf` lacks a type that is passed by value, or a typedef.
    pub fn add_to(&self, btf: &Btf, builder: &mut Builder) -> Result<TypeId, BtfError> {
        let ret = self.add_type(&self.ret, btf, builder)?;
        let mut params = Vec::with_capacity(self.params.len());
        for (name, ty) in &self.params {
            params.push((name.as_str(), self.add_type(ty, btf, builder)?));
        }
        let proto = builder.add_func_proto(ret, &params);
        Ok(builder.add_func(&self.name, proto, FuncLinkage::Global))
    }

    /// Adds a raw tracepoint of these parameters: the typedef that programs on `tp_btf` name; its id.
    ///
    /// # Errors
    /// As [`Prototype::add_to`].
    pub fn add_tracepoint_to(&self, btf: &Btf, builder: &mut Builder) -> Result<TypeId, BtfError> {
        let data = builder.add_ref(Kind::Ptr, "", TypeId::VOID);
        let mut params = vec![("__data", data)];
        for (name, ty) in &self.params {
            params.push((name.as_str(), self.add_type(ty, btf, builder)?));
        }
        let proto = builder.add_func_proto(TypeId::VOID, &params);
        let pointer = builder.add_ref(Kind::Ptr, "", proto);
        Ok(builder.add_ref(Kind::Typedef, &format!("btf_trace_{}", self.name), pointer))
    }

    /// Number of parameters.
    pub fn param_count(&self) -> usize {
        self.params.len()
    }

    fn add_type(&self, ty: &CType, btf: &Btf, builder: &mut Builder) -> Result<TypeId, BtfError> {
        let mut id = match &ty.base {
            Base::Void => TypeId::VOID,
            Base::Bool => {
                let known = btf.find_by_name_kind("_Bool", Kind::Int);
                known.unwrap_or_else(|| builder.add_int("_Bool", 1, IntEncoding::BOOL))
            }
            Base::Int { bytes, is_signed } => find_int(btf, *bytes, *is_signed)
                .unwrap_or_else(|| add_int(builder, *bytes, *is_signed)),
            Base::Named { kind, name } => match btf.find_by_name_kind(name, *kind) {
                Some(id) => id,
                None if ty.pointers != 0 && matches!(kind, Kind::Struct | Kind::Union) => {
                    builder.add(Kind::Fwd, name, 0, *kind == Kind::Union, 0, &[])
                }
                None => {
                    let what = match kind {
                        Kind::Typedef => "type",
                        _ => kind.c_word(),
                    };
                    let message = format!("function '{}': no {what} '{name}'", self.name);
                    return Err(BtfError::new(Errno::ENOENT, message));
                }
            },
        };
        for _ in 0..ty.pointers {
            id = builder.add_ref(Kind::Ptr, "", id);
        }
        Ok(id)
    }
}

impl CType {
    /// As [`describe`]; `None` for a type that the BTF does not have.
    fn describe(&self, btf: &Btf) -> Option<String> {
        let base = match &self.base {
            Base::Void => describe(btf, TypeId::VOID),
            Base::Bool => "1".to_string(),
            Base::Int { bytes, .. } => bytes.to_string(),
            Base::Named { kind, name } => match btf.find_by_name_kind(name, *kind) {
                Some(id) => describe(btf, id),
                None if self.pointers != 0 => tagged(name),
                None => return None,
            },
        };
        Some("*".repeat(self.pointers as usize) + &base)
    }
}

fn tagged(name: &str) -> String {
    format!("struct {name}")
}

/// A type without what code cannot tell: modifiers, names of numbers, signs.
fn describe(btf: &Btf, mut id: TypeId) -> String {
    let mut text = String::new();
    loop {
        let Some(ty) = btf.stripped(id).filter(|_| !id.is_void()) else {
            text.push_str("void");
            return text;
        };
        match ty.kind() {
            Kind::Ptr if text.len() < 16 => {
                text.push('*');
                id = ty.type_id();
            }
            Kind::Int | Kind::Enum | Kind::Enum64 => return text + &ty.size().to_string(),
            Kind::Struct | Kind::Union | Kind::Fwd => return text + &tagged(ty.name()),
            Kind::Void => return text + "void",
            other => return text + other.name(),
        }
    }
}

fn find_int(btf: &Btf, bytes: u32, is_signed: bool) -> Option<TypeId> {
    let (_, _, names) = BTF_INTS
        .iter()
        .find(|row| (row.0, row.1) == (bytes, is_signed))?;
    names.iter().find_map(|name| {
        let id = btf.find_by_name_kind(name, Kind::Int)?;
        (btf.type_by_id(id)?.size() == bytes).then_some(id)
    })
}

fn add_int(builder: &mut Builder, bytes: u32, is_signed: bool) -> TypeId {
    let row = BTF_INTS
        .iter()
        .find(|row| (row.0, row.1) == (bytes, is_signed));
    let name = row.map_or("int", |row| row.2[0]);
    let encoding = if is_signed {
        IntEncoding::SIGNED
    } else {
        IntEncoding::NONE
    };
    builder.add_int(name, bytes, encoding)
}

/// A type, and the name declared with it if there is one.
fn declaration(text: &str) -> Result<(CType, Option<String>), String> {
    let spaced = text.replace('*', " * ");
    let mut words = spaced
        .split_whitespace()
        .filter(|word| !QUALIFIERS.contains(word))
        .peekable();
    let is_name = |word: &str| {
        word.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
            && !word.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut ints = Vec::new();
    while let Some(word) = words.next_if(|word| INT_WORDS.contains(word)) {
        ints.push(word);
    }
    let base = if ints.is_empty() {
        let first = words.next().ok_or("an empty declaration")?;
        match first {
            "void" => Base::Void,
            "bool" | "_Bool" => Base::Bool,
            "struct" | "union" | "enum" => {
                let name = words.next().filter(|name| is_name(name));
                let name = name.ok_or_else(|| format!("a {first} without a name"))?;
                let kind = match first {
                    "struct" => Kind::Struct,
                    "union" => Kind::Union,
                    _ => Kind::Enum,
                };
                Base::Named {
                    kind,
                    name: name.to_string(),
                }
            }
            word if is_name(word) => match INTS.iter().find(|row| row.0.contains(&word)) {
                Some(&(_, bytes, is_signed)) => Base::Int { bytes, is_signed },
                None => Base::Named {
                    kind: Kind::Typedef,
                    name: word.to_string(),
                },
            },
            word => return Err(format!("'{word}' is no type")),
        }
    } else {
        let bytes = match () {
            () if ints.contains(&"char") => 1,
            () if ints.contains(&"short") => 2,
            () if ints.contains(&"long") => 8,
            () => 4,
        };
        Base::Int {
            bytes,
            is_signed: !ints.contains(&"unsigned"),
        }
    };
    let mut pointers = 0;
    while words.next_if(|word| *word == "*").is_some() {
        pointers += 1;
    }
    let name = match words.next() {
        None => None,
        Some(word) if is_name(word) => Some(word.to_string()),
        Some(word) => return Err(format!("'{word}' is not understood")),
    };
    match words.next() {
        None => Ok((CType { base, pointers }, name)),
        Some(word) => Err(format!("'{word}' is not understood")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FuncModel;

    fn base() -> Btf {
        let mut b = Builder::new();
        let int = b.add_int("int", 4, IntEncoding::SIGNED);
        b.add_int("long unsigned int", 8, IntEncoding::NONE);
        b.add_struct("pair", 16, &[("a", int, 0), ("b", int, 64)]);
        b.add_ref(Kind::Typedef, "handle_t", int);
        Btf::parse(&b.finish()).unwrap()
    }

    fn add(text: &str) -> (Btf, TypeId, Prototype) {
        let base = base();
        let prototype = Prototype::parse(text).unwrap();
        let mut builder = Builder::extend(&base);
        let id = prototype.add_to(&base, &mut builder).unwrap();
        (Btf::parse(&builder.finish()).unwrap(), id, prototype)
    }

    #[test]
    fn prototypes_become_functions() {
        let (btf, id, prototype) = add(
            "extern unsigned long walk(const struct pair *p, struct pair q, char **names, handle_t h, u16, struct other *o, bool b)",
        );
        let func = btf.type_by_id(id).unwrap();
        assert_eq!((func.name(), prototype.name()), ("walk", "walk"));
        let model = FuncModel::from_proto(&btf, func.type_id(), "walk").unwrap();
        let sizes: Vec<u8> = model.args.iter().map(|arg| arg.size).collect();
        assert_eq!(sizes, [8, 16, 8, 4, 2, 8, 1]);
        assert_eq!(model.ret.size, 8);
        assert!(prototype.is_of(&btf, id));
        // The sign does not matter, the size and what pointers point to do.
        let other = |text| Prototype::parse(text).unwrap().is_of(&btf, id);
        assert!(other(
            "long walk(struct pair *, struct pair, char **, int, short, struct other *, u8)"
        ));
        for text in [
            "int walk(struct pair *, struct pair, char **, int, short, struct other *, u8)",
            "long walk(struct other *, struct pair, char **, int, short, struct other *, u8)",
            "long walk(struct pair *, struct pair, char *, int, short, struct other *, u8)",
            "long walk(struct pair *, struct pair, char **, int, short, struct other *)",
        ] {
            assert!(!other(text), "{text}");
        }
    }

    #[test]
    fn what_is_there_is_used() {
        let (btf, id, _) = add("int f(void)");
        let func = btf.type_by_id(id).unwrap();
        let proto = func.referent().unwrap();
        assert_eq!((proto.vlen(), btf.name(proto.type_id())), (0, "int"));
        assert_eq!(btf.type_count(), base().type_count() + 2);
    }

    #[test]
    fn bad_prototypes_are_named() {
        for (text, message) in [
            ("int f", "no parameters"),
            ("int (int a)", "no name"),
            ("int f(void a)", "a parameter of type void"),
            ("int f(int a) x", "nothing may follow the parameters"),
            ("int f(struct)", "a struct without a name"),
            ("int f(int a[4])", "'a[4]' is not understood"),
            ("int f(int a, ...)", "'...' is no type"),
            ("int f(int a b)", "'b' is not understood"),
            ("int f(,)", "an empty declaration"),
        ] {
            let error = Prototype::parse(text).unwrap_err();
            assert_eq!(error.message(), format!("prototype '{text}': {message}"));
        }
        let base = base();
        for text in ["int f(struct other o)", "int f(other_t *o)"] {
            let prototype = Prototype::parse(text).unwrap();
            let error = prototype
                .add_to(&base, &mut Builder::extend(&base))
                .unwrap_err();
            assert_eq!(error.errno(), Errno::ENOENT);
        }
        let texts = vec!["int f()", " int f ( ) ; "];
        for text in texts {
            assert!(Prototype::parse(text).is_ok(), "{text}");
        }
    }
}
