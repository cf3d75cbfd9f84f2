//! `Minimizer`: cuts a big BTF (a kernel's) down to chosen types and what they are made of.
//!
//! Every type is in one of three states: left out, *named*, *whole*. A chosen type is whole; so is what it holds by value. What it only
//! points to is named: a struct or union becomes a forward declaration, other kinds are small and stay as they are. Ids are given anew, in
//! the old order, so that the lowest id with a name is that of the same type as before.

use crate::raw::u32_at;
use crate::{Btf, Builder, Kind, TypeId};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

/// Suffixes of the kernel's structs that list which fields of `T` can be trusted; they belong to `T`.
const TRUST_SUFFIXES: [&str; 5] = [
    "__safe_trusted",
    "__safe_trusted_or_null",
    "__safe_rcu",
    "__safe_rcu_or_null",
    "__safe_fields",
];

/// How much of a type is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Keep {
    Named,
    Whole,
}

/// Chooses types, then writes them.
#[derive(Debug)]
pub struct Minimizer<'a> {
    btf: &'a Btf,
    kept: BTreeMap<TypeId, Keep>,
    queue: Vec<(TypeId, Keep)>,
}

impl<'a> Minimizer<'a> {
    /// Nothing is chosen yet. The BTF must stand alone; types of a base stay out.
    pub fn new(btf: &'a Btf) -> Minimizer<'a> {
        Minimizer {
            btf,
            kept: BTreeMap::new(),
            queue: Vec::new(),
        }
    }

    /// Chooses a type. A function comes with its prototype, and structs that its parameters and result point to are whole.
    pub fn keep(&mut self, id: TypeId) {
        self.add(id, Keep::Whole);
        let proto = match self.btf.type_by_id(id) {
            Some(ty) if ty.kind() == Kind::Func => self.btf.type_by_id(ty.type_id()),
            Some(ty) if ty.kind() == Kind::FuncProto => Some(ty),
            // `btf_trace_*` is a typedef of a pointer to a prototype.
            Some(ty) if ty.kind() == Kind::Typedef => {
                let pointer = self.btf.stripped(id).filter(|ty| ty.kind() == Kind::Ptr);
                pointer.and_then(|pointer| self.btf.stripped(pointer.type_id()))
            }
            _ => None,
        };
        let Some(proto) = proto.filter(|ty| ty.kind() == Kind::FuncProto) else {
            return;
        };
        let types = proto.params().map(|param| param.ty);
        for ty in types.chain([proto.type_id()]) {
            let pointer = self.btf.stripped(ty).filter(|ty| ty.kind() == Kind::Ptr);
            if let Some(pointer) = pointer {
                self.add(
                    self.btf.skip_mods_and_typedefs(pointer.type_id()),
                    Keep::Whole,
                );
            }
        }
    }

    /// Chooses every type with this name.
    pub fn keep_name(&mut self, name: &str) {
        let ids: Vec<TypeId> = self.btf.ids_by_name(name).collect();
        for id in ids {
            self.keep(id);
        }
    }

    /// The blob, and the new id of every type in it by its old one.
    pub fn finish(mut self) -> (Vec<u8>, BTreeMap<TypeId, TypeId>) {
        self.close();
        let tags: Vec<TypeId> = self
            .btf
            .types()
            .filter(|ty| {
                ty.kind() == Kind::DeclTag && self.kept.get(&ty.type_id()) == Some(&Keep::Whole)
            })
            .map(|ty| ty.id())
            .collect();
        let sections = self.btf.types().filter(|ty| {
            ty.kind() == Kind::Datasec && ty.vars().any(|var| self.kept.contains_key(&var.ty))
        });
        let late: Vec<TypeId> = tags.into_iter().chain(sections.map(|ty| ty.id())).collect();
        self.kept
            .extend(late.into_iter().map(|id| (id, Keep::Whole)));
        let ids: BTreeMap<TypeId, TypeId> = self
            .kept
            .keys()
            .zip(1..)
            .map(|(&old, new)| (old, TypeId(new)))
            .collect();
        let mut builder = Builder::new();
        for (&id, &keep) in &self.kept {
            self.write(&mut builder, &ids, id, keep);
        }
        (builder.finish(), ids)
    }

    fn add(&mut self, id: TypeId, keep: Keep) {
        if id.is_void() || self.kept.get(&id).is_some_and(|known| *known >= keep) {
            return;
        }
        self.kept.insert(id, keep);
        self.queue.push((id, keep));
    }

    /// Chooses what the chosen types need.
    fn close(&mut self) {
        while let Some((id, keep)) = self.queue.pop() {
            let Some(ty) = self.btf.type_by_id(id) else {
                continue;
            };
            match ty.kind() {
                Kind::Struct | Kind::Union => {
                    // A type without a name cannot be declared without its members.
                    if keep == Keep::Named && !ty.name().is_empty() {
                        continue;
                    }
                    self.kept.insert(id, Keep::Whole);
                    for member in ty.members() {
                        self.add(member.ty, Keep::Whole);
                    }
                    for suffix in TRUST_SUFFIXES {
                        let listed = format!("{}{suffix}", ty.name());
                        if let Some(listed) = self.btf.find_by_name_kind(&listed, ty.kind()) {
                            self.add(listed, Keep::Whole);
                        }
                    }
                }
                Kind::Array => {
                    let array = ty.array().map(|array| [array.elem, array.index]);
                    for part in array.into_iter().flatten() {
                        self.add(part, Keep::Whole);
                    }
                }
                Kind::FuncProto => {
                    for param in ty.params() {
                        self.add(param.ty, Keep::Whole);
                    }
                    self.add(ty.type_id(), Keep::Whole);
                }
                Kind::Ptr => self.add(ty.type_id(), Keep::Named),
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    self.add(ty.type_id(), keep);
                }
                Kind::Func | Kind::Var | Kind::DeclTag => self.add(ty.type_id(), Keep::Whole),
                Kind::Void
                | Kind::Int
                | Kind::Enum
                | Kind::Enum64
                | Kind::Fwd
                | Kind::Float
                | Kind::Datasec => {}
            }
        }
    }

    fn write(&self, builder: &mut Builder, ids: &BTreeMap<TypeId, TypeId>, id: TypeId, keep: Keep) {
        let Some(ty) = self.btf.type_by_id(id) else {
            return;
        };
        let new = |old: TypeId| ids.get(&old).map_or(0, |id| id.0);
        let name = |builder: &mut Builder, offset: u32| {
            builder.string(self.btf.str_by_offset(offset).unwrap_or(""))
        };
        let name_off = name(builder, ty.name_off());
        if ty.kind().is_composite() && keep == Keep::Named {
            let is_union = u32::from(ty.kind() == Kind::Union);
            builder.add_raw(name_off, is_union << 31 | (Kind::Fwd as u32) << 24, 0, &[]);
            return;
        }
        let words = |ty: &crate::Type<'_>| -> Vec<u32> {
            (0..ty.tail.len() / 4)
                .filter_map(|at| u32_at(ty.tail, at * 4))
                .collect()
        };
        let mut tail = words(&ty);
        let mut info = ty.info();
        match ty.kind() {
            Kind::Struct | Kind::Union => {
                for record in tail.chunks_exact_mut(3) {
                    record[0] = name(builder, record[0]);
                    record[1] = new(TypeId(record[1]));
                }
            }
            Kind::FuncProto => {
                for record in tail.chunks_exact_mut(2) {
                    record[0] = name(builder, record[0]);
                    record[1] = new(TypeId(record[1]));
                }
            }
            Kind::Enum => {
                for record in tail.chunks_exact_mut(2) {
                    record[0] = name(builder, record[0]);
                }
            }
            Kind::Enum64 => {
                for record in tail.chunks_exact_mut(3) {
                    record[0] = name(builder, record[0]);
                }
            }
            Kind::Array => {
                for part in tail.iter_mut().take(2) {
                    *part = new(TypeId(*part));
                }
            }
            Kind::Datasec => {
                tail = ty
                    .vars()
                    .filter(|var| ids.contains_key(&var.ty))
                    .flat_map(|var| [new(var.ty), var.offset, var.size])
                    .collect();
                info = info & !0xffff | (tail.len() / 3) as u32;
            }
            Kind::Void
            | Kind::Int
            | Kind::Ptr
            | Kind::Fwd
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Func
            | Kind::Var
            | Kind::Float
            | Kind::DeclTag
            | Kind::TypeTag => {}
        }
        let size_or_type = match ty.kind() {
            kind if kind.has_size() => ty.size_or_type(),
            _ => new(ty.type_id()),
        };
        builder.add_raw(name_off, info, size_or_type, &tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FuncLinkage, IntEncoding};

    /// struct far {}; struct inner { int x; }; struct s { struct inner i; struct far *f; }; void fn(struct s *);
    fn sample() -> Btf {
        let mut b = Builder::new();
        let unused = b.add_int("unused", 8, IntEncoding::NONE);
        let int = b.add_int("int", 4, IntEncoding::SIGNED);
        let far = b.add_struct("far", 8, &[("u", unused, 0)]);
        let inner = b.add_struct("inner", 4, &[("x", int, 0)]);
        let pointer = b.add_ref(Kind::Ptr, "", far);
        let s = b.add_struct("s", 16, &[("i", inner, 0), ("f", pointer, 64)]);
        let arg = b.add_ref(Kind::Ptr, "", s);
        let proto = b.add_func_proto(TypeId::VOID, &[("s", arg)]);
        let func = b.add_func("fn", proto, FuncLinkage::Static);
        b.add_decl_tag("bpf_kfunc", func, -1);
        Btf::parse(&b.finish()).unwrap()
    }

    #[test]
    fn what_is_pointed_to_is_declared_and_what_is_held_is_whole() {
        let btf = sample();
        let mut minimizer = Minimizer::new(&btf);
        minimizer.keep_name("fn");
        let (bytes, ids) = minimizer.finish();
        let small = Btf::parse(&bytes).unwrap();
        assert_eq!(small.find_by_name("unused"), None);
        assert!(small.find_by_name_kind("far", Kind::Fwd).is_some());
        let s = small.find_by_name_kind("s", Kind::Struct).unwrap();
        assert_eq!(ids[&btf.find_by_name("s").unwrap()], s);
        let inner = small.type_by_id(s).unwrap().member(0).unwrap();
        assert_eq!(small.resolve_size(inner.ty), Some(4));
        let func = small.find_by_name_kind("fn", Kind::Func).unwrap();
        assert!(small.decl_tags(func, -1).eq(["bpf_kfunc"]));
        assert!(small.decl_tags(func, 0).eq(core::iter::empty::<&str>()));
        let mut split = crate::Builder::on_base(&small);
        split.add_decl_tag("more", func, -1);
        split.add_decl_tag("arg:ctx", func, 0);
        let split = Btf::parse_split(&small, &split.finish()).unwrap();
        assert!(split.decl_tags(func, -1).eq(["bpf_kfunc", "more"]));
        assert!(split.decl_tags(func, 0).eq(["arg:ctx"]));
        assert!(crate::check::check(&bytes, Default::default(), None).is_ok());
    }

    #[test]
    fn a_struct_alone_leaves_functions_out() {
        let btf = sample();
        let mut minimizer = Minimizer::new(&btf);
        minimizer.keep_name("s");
        let small = Btf::parse(&minimizer.finish().0).unwrap();
        assert_eq!(small.find_by_name("fn"), None);
        assert!(small.types().all(|ty| ty.kind() != Kind::DeclTag));
    }
}
