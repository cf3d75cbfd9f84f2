//! `Builder`: writes a BTF blob type by type. Strings are shared when equal as a whole, as libbpf shares them.
//!
//! It checks nothing: a test can write what no compiler would.

use crate::raw::{HEADER_BYTES, Header, MAGIC, VERSION, str_at};
use crate::{Btf, FuncLinkage, IntEncoding, Kind, TypeId, VarLinkage};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// A blob under construction.
#[derive(Clone, Debug)]
pub struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    known: BTreeMap<Vec<u8>, u32>,
    start_str: u32,
    next_id: u32,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty blob; the first type gets id 1.
    pub fn new() -> Builder {
        Builder {
            types: Vec::new(),
            strings: vec![0],
            known: BTreeMap::from([(Vec::new(), 0)]),
            start_str: 0,
            next_id: 1,
        }
    }

    /// An empty blob that continues `base`.
    pub fn on_base(base: &Btf) -> Builder {
        let end = base
            .start_str()
            .saturating_add(base.string_bytes().len() as u32);
        Builder {
            types: Vec::new(),
            strings: Vec::new(),
            known: BTreeMap::from([(Vec::new(), 0)]),
            start_str: end,
            next_id: base.type_count(),
        }
    }

    /// A copy of a blob to which types can be added; ids and string offsets of what is there stay.
    pub fn extend(btf: &Btf) -> Builder {
        let strings = btf.string_bytes();
        let mut known = BTreeMap::from([(Vec::new(), 0)]);
        let mut offset = 0;
        while let Some(name) = str_at(strings, offset) {
            let at = btf.start_str().saturating_add(offset as u32);
            known.entry(name.to_vec()).or_insert(at);
            offset += name.len() + 1;
        }
        Builder {
            types: btf.type_bytes().to_vec(),
            strings: strings.to_vec(),
            known,
            start_str: btf.start_str(),
            next_id: btf.type_count(),
        }
    }

    /// The offset of a string, added if it is not there.
    pub fn string(&mut self, text: &str) -> u32 {
        if let Some(&offset) = self.known.get(text.as_bytes()) {
            return offset;
        }
        let offset = self.start_str.saturating_add(self.strings.len() as u32);
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        self.known.insert(text.as_bytes().to_vec(), offset);
        offset
    }

    /// The id the next type gets.
    pub fn next_id(&self) -> TypeId {
        TypeId(self.next_id)
    }

    /// Adds a type as raw words: name offset, info, size or type, and what follows.
    pub fn add_raw(&mut self, name_off: u32, info: u32, size_or_type: u32, tail: &[u32]) -> TypeId {
        for word in [name_off, info, size_or_type].iter().chain(tail) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        TypeId(id)
    }

    /// Adds a type of a kind; `vlen` is taken modulo 65536.
    pub fn add(
        &mut self,
        kind: Kind,
        name: &str,
        vlen: usize,
        flag: bool,
        size_or_type: u32,
        tail: &[u32],
    ) -> TypeId {
        let name_off = self.string(name);
        let info = u32::from(flag) << 31 | (kind as u32) << 24 | (vlen as u32 & 0xffff);
        self.add_raw(name_off, info, size_or_type, tail)
    }

    /// Adds an integer of whole bytes.
    pub fn add_int(&mut self, name: &str, bytes: u32, encoding: IntEncoding) -> TypeId {
        let word = u32::from(encoding.0) << 24 | bytes.saturating_mul(8) & 0xff;
        self.add(Kind::Int, name, 0, false, bytes, &[word])
    }

    /// Adds a pointer, typedef, modifier or type tag.
    pub fn add_ref(&mut self, kind: Kind, name: &str, to: TypeId) -> TypeId {
        self.add(kind, name, 0, false, to.0, &[])
    }

    /// Adds an array.
    pub fn add_array(&mut self, elem: TypeId, index: TypeId, nelems: u32) -> TypeId {
        self.add(Kind::Array, "", 0, false, 0, &[elem.0, index.0, nelems])
    }

    /// Adds a struct of members (name, type, bit offset).
    pub fn add_struct(
        &mut self,
        name: &str,
        bytes: u32,
        members: &[(&str, TypeId, u32)],
    ) -> TypeId {
        self.add_composite(Kind::Struct, name, bytes, members)
    }

    /// Adds a union of members (name, type, bit offset).
    pub fn add_union(&mut self, name: &str, bytes: u32, members: &[(&str, TypeId, u32)]) -> TypeId {
        self.add_composite(Kind::Union, name, bytes, members)
    }

    fn add_composite(
        &mut self,
        kind: Kind,
        name: &str,
        bytes: u32,
        members: &[(&str, TypeId, u32)],
    ) -> TypeId {
        let tail: Vec<u32> = members
            .iter()
            .flat_map(|&(name, ty, bit_offset)| [self.string(name), ty.0, bit_offset])
            .collect();
        self.add(kind, name, members.len(), false, bytes, &tail)
    }

    /// Adds an enum of signed 32-bit values.
    pub fn add_enum(&mut self, name: &str, values: &[(&str, i32)]) -> TypeId {
        let tail: Vec<u32> = values
            .iter()
            .flat_map(|&(name, value)| [self.string(name), value as u32])
            .collect();
        self.add(Kind::Enum, name, values.len(), true, 4, &tail)
    }

    /// Adds a function prototype of parameters (name, type).
    pub fn add_func_proto(&mut self, ret: TypeId, params: &[(&str, TypeId)]) -> TypeId {
        let tail: Vec<u32> = params
            .iter()
            .flat_map(|&(name, ty)| [self.string(name), ty.0])
            .collect();
        self.add(Kind::FuncProto, "", params.len(), false, ret.0, &tail)
    }

    /// Adds a function.
    pub fn add_func(&mut self, name: &str, proto: TypeId, linkage: FuncLinkage) -> TypeId {
        self.add(Kind::Func, name, linkage as usize, false, proto.0, &[])
    }

    /// Adds a variable.
    pub fn add_var(&mut self, name: &str, ty: TypeId, linkage: VarLinkage) -> TypeId {
        self.add(Kind::Var, name, 0, false, ty.0, &[linkage.raw()])
    }

    /// Adds a data section of variables (id, offset, size).
    pub fn add_datasec(&mut self, name: &str, bytes: u32, vars: &[(TypeId, u32, u32)]) -> TypeId {
        let tail: Vec<u32> = vars
            .iter()
            .flat_map(|&(id, offset, size)| [id.0, offset, size])
            .collect();
        self.add(Kind::Datasec, name, vars.len(), false, bytes, &tail)
    }

    /// Adds a declaration tag.
    pub fn add_decl_tag(&mut self, text: &str, of: TypeId, component: i32) -> TypeId {
        self.add(Kind::DeclTag, text, 0, false, of.0, &[component as u32])
    }

    /// The blob.
    pub fn finish(&self) -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            flags: 0,
            hdr_len: HEADER_BYTES as u32,
            type_off: 0,
            type_len: self.types.len() as u32,
            str_off: self.types.len() as u32,
            str_len: self.strings.len() as u32,
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + self.types.len() + self.strings.len());
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}
