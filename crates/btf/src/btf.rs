//! `Btf`: a parsed blob, its index of types and names, and the questions that need only one type graph.
//!
//! Parsing walks the type section once: each type's offset goes to a table, each name into a hash chain whose links
//! are type ids, and chains of modifiers are shortcut to their end, which also makes cycles of modifiers harmless.
//! A split blob continues the ids and string offsets of its base.

use crate::raw::{self, as_str, str_at, u32_at};
use crate::{BtfError, Kind, Type, TypeId};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use ring3_uapi::Errno;

/// Most types of one blob and its base. Source: `BTF_MAX_TYPE`.
pub(crate) const TYPES_MAX: u32 = 0x000f_ffff;
/// Nested arrays and pointers that are followed. Source: `MAX_RESOLVE_DEPTH`.
const RESOLVE_DEPTH_MAX: usize = 32;
/// Bytes of a pointer on every BPF target.
const POINTER_BYTES: u32 = 8;

/// A parsed BTF blob; clones share it.
#[derive(Clone)]
pub struct Btf(Arc<Data>);

struct Data {
    base: Option<Btf>,
    bytes: Arc<[u8]>,
    strings: core::ops::Range<usize>,
    types: core::ops::Range<usize>,
    start_id: u32,
    start_str: u32,
    /// byte offset in `bytes` of type `start_id + i`
    offsets: Vec<u32>,
    /// type `start_id + i` without modifiers and typedefs
    stripped: Vec<u32>,
    names: NameIndex,
    /// declaration tags of this blob by what they belong to
    tags: Vec<Tag>,
}

/// A declaration tag: of which type, of which component, and its own id, in this order.
type Tag = (TypeId, i32, TypeId);

impl Btf {
    /// Parses a blob that stands alone. The bytes are copied once.
    ///
    /// This bounds every type and record; it does not judge (that is [`crate::check`]).
    ///
    /// # Errors
    /// EINVAL: bad header, section or type outside of the blob, unknown kind. E2BIG: too many types.
    pub fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
        Self::parse_shared(Arc::from(bytes), None)
    }

    /// Parses a blob whose ids and strings continue those of `base`.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn parse_split(base: &Btf, bytes: &[u8]) -> Result<Btf, BtfError> {
        Self::parse_shared(Arc::from(bytes), Some(base.clone()))
    }

    /// Parses bytes that are shared already.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn parse_shared(bytes: Arc<[u8]>, base: Option<Btf>) -> Result<Btf, BtfError> {
        let sections = raw::sections(&bytes, base.is_some())?;
        let (start_id, start_str) = match &base {
            Some(base) => (base.type_count(), base.strings_end()),
            None => (1, 0),
        };
        let (offsets, tags) = index_types(&bytes, sections.types.clone(), start_id)?;
        let mut data = Data {
            base,
            bytes,
            strings: sections.strings,
            types: sections.types,
            start_id,
            start_str,
            offsets,
            stripped: Vec::new(),
            names: NameIndex::default(),
            tags,
        };
        data.stripped = strip_modifiers(&data);
        data.names = NameIndex::build(&data);
        Ok(Btf(Arc::new(data)))
    }

    /// The bytes this was parsed from.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The type section.
    pub fn type_bytes(&self) -> &[u8] {
        self.0.bytes.get(self.0.types.clone()).unwrap_or(&[])
    }

    /// The string section.
    pub fn string_bytes(&self) -> &[u8] {
        self.0.strings()
    }

    /// The BTF this one continues.
    pub fn base(&self) -> Option<&Btf> {
        self.0.base.as_ref()
    }

    /// One more than the last type id, those of the base and `void` included.
    pub fn type_count(&self) -> u32 {
        self.0.start_id.saturating_add(self.0.offsets.len() as u32)
    }

    /// The first id that is not the base's.
    pub fn start_id(&self) -> TypeId {
        TypeId(self.0.start_id)
    }

    /// The first string offset that is not the base's.
    pub fn start_str(&self) -> u32 {
        self.0.start_str
    }

    /// Do both share one parsed blob?
    pub fn is_same(&self, other: &Btf) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn strings_end(&self) -> u32 {
        self.0.start_str.saturating_add(self.0.strings.len() as u32)
    }

    /// The type with this id; `void` for 0.
    pub fn type_by_id(&self, id: TypeId) -> Option<Type<'_>> {
        let mut btf = self;
        while id.0 < btf.0.start_id && id.0 != 0 {
            btf = btf.0.base.as_ref()?;
        }
        if id.0 == 0 {
            return Some(Type {
                btf,
                id,
                kind: Kind::Void,
                name_off: 0,
                info: 0,
                size_or_type: 0,
                tail: &[],
            });
        }
        let offset = *btf.0.offsets.get((id.0 - btf.0.start_id) as usize)?;
        let mut ty = btf.0.read(btf, offset as usize, id)?;
        // Ids and strings of the base are visible from here, those of the split part are not visible from the base.
        ty.btf = self;
        Some(ty)
    }

    /// The kind of a type.
    pub fn kind(&self, id: TypeId) -> Option<Kind> {
        self.type_by_id(id).map(|ty| ty.kind())
    }

    /// Byte offset in [`Btf::bytes`] of a type that is not the base's.
    pub fn type_offset(&self, id: TypeId) -> Option<usize> {
        let index = id.0.checked_sub(self.0.start_id)?;
        self.0
            .offsets
            .get(index as usize)
            .map(|&offset| offset as usize)
    }

    /// Every type but `void`, in order of ids, those of the base first.
    pub fn types(&self) -> impl Iterator<Item = Type<'_>> {
        (1..self.type_count()).filter_map(|id| self.type_by_id(TypeId(id)))
    }

    /// The types that are not the base's.
    pub fn own_types(&self) -> impl Iterator<Item = Type<'_>> {
        (self.0.start_id..self.type_count()).filter_map(|id| self.type_by_id(TypeId(id)))
    }

    /// The string at an offset (of name or line), its longest UTF-8 prefix.
    pub fn str_by_offset(&self, offset: u32) -> Option<&str> {
        self.str_bytes_by_offset(offset).map(as_str)
    }

    /// The bytes of the string at an offset.
    pub fn str_bytes_by_offset(&self, offset: u32) -> Option<&[u8]> {
        let mut btf = self;
        while offset < btf.0.start_str {
            btf = btf.0.base.as_ref()?;
        }
        str_at(btf.0.strings(), (offset - btf.0.start_str) as usize)
    }

    /// The name of a type, empty for an anonymous or unknown one.
    pub fn name(&self, id: TypeId) -> &str {
        self.type_by_id(id).map_or("", |ty| ty.name())
    }

    /// The lowest id with this name and kind, the base's first.
    pub fn find_by_name_kind(&self, name: &str, kind: Kind) -> Option<TypeId> {
        self.ids_by_name(name)
            .find(|&id| self.kind(id) == Some(kind))
    }

    /// The lowest id with this name, the base's first.
    pub fn find_by_name(&self, name: &str) -> Option<TypeId> {
        self.ids_by_name(name).next()
    }

    /// Every id with this name, ascending, the base's first. Cost grows with the number of bases and of equal hashes.
    pub fn ids_by_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = TypeId> + 'a {
        let hash = hash(name.as_bytes());
        let mut chain = Vec::new();
        let mut layer = Some(self);
        while let Some(btf) = layer {
            chain.push(btf);
            layer = btf.0.base.as_ref();
        }
        chain
            .into_iter()
            .rev()
            .flat_map(move |btf| btf.0.names.candidates(hash, btf.0.start_id))
            .filter(move |&id| {
                self.type_by_id(id)
                    .and_then(|ty| self.str_bytes_by_offset(ty.name_off))
                    .is_some_and(|found| !found.is_empty() && found == name.as_bytes())
            })
    }

    /// The id behind const, volatile, restrict, type tags and typedefs; `void` for a cycle of those.
    pub fn skip_mods_and_typedefs(&self, id: TypeId) -> TypeId {
        let mut btf = self;
        while id.0 < btf.0.start_id {
            match &btf.0.base {
                Some(base) => btf = base,
                None => return id,
            }
        }
        match btf.0.stripped.get((id.0 - btf.0.start_id) as usize) {
            Some(&stripped) => TypeId(stripped),
            None => id,
        }
    }

    /// The type behind const, volatile, restrict, type tags and typedefs.
    pub fn stripped(&self, id: TypeId) -> Option<Type<'_>> {
        self.type_by_id(self.skip_mods_and_typedefs(id))
    }

    /// The id behind const, volatile, restrict and type tags, typedefs kept; `void` after 32 of them.
    pub fn skip_mods(&self, id: TypeId) -> TypeId {
        let mut id = id;
        for _ in 0..RESOLVE_DEPTH_MAX {
            match self.type_by_id(id) {
                Some(ty) if ty.kind().is_mod() => id = ty.type_id(),
                _ => return id,
            }
        }
        TypeId::VOID
    }

    /// Bytes of a value of this type; `None` for types without a size (void, functions, forward declarations).
    pub fn resolve_size(&self, id: TypeId) -> Option<u32> {
        let mut id = id;
        let mut nelems = 1u32;
        for _ in 0..RESOLVE_DEPTH_MAX {
            let ty = self.stripped(id)?;
            let size = match ty.kind() {
                Kind::Int
                | Kind::Struct
                | Kind::Union
                | Kind::Enum
                | Kind::Enum64
                | Kind::Datasec
                | Kind::Float => ty.size(),
                Kind::Ptr => POINTER_BYTES,
                Kind::Var | Kind::DeclTag => {
                    id = ty.type_id();
                    continue;
                }
                Kind::Array => {
                    let array = ty.array()?;
                    nelems = nelems.checked_mul(array.nelems)?;
                    id = array.elem;
                    continue;
                }
                Kind::Void | Kind::Fwd | Kind::Func | Kind::FuncProto => return None,
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    return None;
                }
            };
            return nelems.checked_mul(size);
        }
        None
    }

    /// The declaration tags of a type, or of one of its members or parameters (`component`), in order.
    pub fn decl_tags(&self, of: TypeId, component: i32) -> impl Iterator<Item = &str> {
        let blobs = core::iter::successors(Some(self), |btf| btf.base());
        let mut tags: Vec<&[Tag]> = blobs.map(|btf| btf.own_tags(of, component)).collect();
        tags.reverse();
        tags.into_iter().flatten().map(|&(.., id)| self.name(id))
    }

    fn own_tags(&self, of: TypeId, component: i32) -> &[Tag] {
        let tags = &self.0.tags;
        let wanted = (of, component);
        let start = tags.partition_point(|&(of, component, _)| (of, component) < wanted);
        let end = tags.partition_point(|&(of, component, _)| (of, component) <= wanted);
        tags.get(start..end).unwrap_or(&[])
    }
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Btf({} types, {} bytes",
            self.0.offsets.len(),
            self.0.bytes.len()
        )?;
        if let Some(base) = &self.0.base {
            write!(f, ", on {base:?}")?;
        }
        f.write_str(")")
    }
}

/// Two values are equal if their bytes and those of their bases are.
impl PartialEq for Btf {
    fn eq(&self, other: &Btf) -> bool {
        self.is_same(other) || (self.0.bytes == other.0.bytes && self.0.base == other.0.base)
    }
}

impl Eq for Btf {}

impl Data {
    fn strings(&self) -> &[u8] {
        self.bytes.get(self.strings.clone()).unwrap_or(&[])
    }

    fn read<'a>(&'a self, btf: &'a Btf, offset: usize, id: TypeId) -> Option<Type<'a>> {
        let fixed = self.bytes.get(offset..offset.checked_add(12)?)?;
        let info = u32_at(fixed, 4)?;
        let kind = Kind::from_raw(info >> 24 & 0x1f)?;
        let start = offset.checked_add(12)?;
        let tail = self
            .bytes
            .get(start..start.checked_add(tail_len(kind, info))?)?;
        Some(Type {
            btf,
            id,
            kind,
            name_off: u32_at(fixed, 0)?,
            info,
            size_or_type: u32_at(fixed, 8)?,
            tail,
        })
    }
}

fn tail_len(kind: Kind, info: u32) -> usize {
    let (fixed, per_record) = kind.tail_bytes();
    fixed + per_record * (info & 0xffff) as usize
}

/// The offset of every type in the section, or where it leaves the section; and the declaration tags, sorted.
fn index_types(
    bytes: &[u8],
    section: core::ops::Range<usize>,
    start_id: u32,
) -> Result<(Vec<u32>, Vec<Tag>), BtfError> {
    let end = section.end;
    if u32::try_from(end).is_err() {
        return Err(BtfError::new(
            Errno::E2BIG,
            format!("btf: blob of {} bytes", bytes.len()),
        ));
    }
    let mut offsets = Vec::with_capacity(section.len() / 24);
    let mut tags = Vec::new();
    let mut offset = section.start;
    while offset < end {
        let id = start_id as usize + offsets.len();
        if id > TYPES_MAX as usize {
            return Err(BtfError::new(
                Errno::E2BIG,
                format!("btf: more than {TYPES_MAX} types"),
            ));
        }
        let info = u32_at(&bytes[..end], offset + 4);
        let (Some(info), true) = (info, offset + 12 <= end) else {
            return Err(BtfError::new(
                Errno::EINVAL,
                format!("btf: type [{id}] ends outside of the type section"),
            ));
        };
        let raw_kind = info >> 24 & 0x1f;
        let kind = match Kind::from_raw(raw_kind) {
            Some(kind) if kind != Kind::Void => kind,
            _ => {
                return Err(BtfError::new(
                    Errno::EINVAL,
                    format!("btf: type [{id}] has unknown kind {raw_kind}"),
                ));
            }
        };
        let next = offset + 12 + tail_len(kind, info);
        if next > end {
            return Err(BtfError::new(
                Errno::EINVAL,
                format!(
                    "btf: type [{id}] {} with {} records ends outside of the type section",
                    kind.name(),
                    info & 0xffff
                ),
            ));
        }
        if kind == Kind::DeclTag {
            let word = |at| u32_at(bytes, offset + at).unwrap_or(0);
            tags.push((TypeId(word(8)), word(12) as i32, TypeId(id as u32)));
        }
        offsets.push(offset as u32);
        offset = next;
    }
    tags.sort_unstable();
    Ok((offsets, tags))
}

/// For every own type, the id at the end of its chain of modifiers and typedefs. Each type is stepped over once.
fn strip_modifiers(data: &Data) -> Vec<u32> {
    const UNKNOWN: u32 = u32::MAX;
    const ON_PATH: u32 = u32::MAX - 1;
    let mut stripped = vec![UNKNOWN; data.offsets.len()];
    let mut path = Vec::new();
    for first in 0..data.offsets.len() {
        let mut index = first;
        let target = loop {
            match stripped[index] {
                UNKNOWN => {}
                ON_PATH => break 0,
                known => break known,
            }
            let offset = data.offsets[index] as usize;
            let kind =
                u32_at(&data.bytes, offset + 4).and_then(|info| Kind::from_raw(info >> 24 & 0x1f));
            let id = data.start_id + index as u32;
            if !kind.is_some_and(Kind::is_mod_or_typedef) {
                stripped[index] = id;
                break id;
            }
            stripped[index] = ON_PATH;
            path.push(index);
            let next = u32_at(&data.bytes, offset + 8).unwrap_or(0);
            if next < data.start_id {
                break match &data.base {
                    Some(base) => base.skip_mods_and_typedefs(TypeId(next)).0,
                    None => next,
                };
            }
            index = (next - data.start_id) as usize;
            if index >= data.offsets.len() {
                // A dangling reference: keep it, so that looking it up says so.
                break next.min(TYPES_MAX);
            }
        };
        for index in path.drain(..) {
            stripped[index] = target;
        }
    }
    stripped
}

/// Hash chains through type ids, lowest id first.
#[derive(Default)]
struct NameIndex {
    /// first own index + 1 of each bucket, 0 if empty; a power of two long
    heads: Vec<u32>,
    /// next own index + 1 with the same bucket, and the full hash
    links: Vec<(u32, u32)>,
}

impl NameIndex {
    fn build(data: &Data) -> NameIndex {
        let count = data.offsets.len();
        let mask = count.next_power_of_two().max(1) - 1;
        let mut heads = vec![0u32; mask + 1];
        let mut links = vec![(0u32, 0u32); count];
        let strings = data.strings();
        for index in (0..count).rev() {
            let Some(name_off) = u32_at(&data.bytes, data.offsets[index] as usize) else {
                continue;
            };
            let name = match name_off.checked_sub(data.start_str) {
                Some(0) if data.start_str == 0 => continue,
                Some(own) => hash_at(strings, own as usize),
                None => data
                    .base
                    .as_ref()
                    .and_then(|base| base.str_bytes_by_offset(name_off))
                    .map(hash),
            };
            let Some(hash) = name else { continue };
            let head = &mut heads[hash as usize & mask];
            links[index] = (*head, hash);
            *head = index as u32 + 1;
        }
        NameIndex { heads, links }
    }

    fn candidates(&self, hash: u32, start_id: u32) -> impl Iterator<Item = TypeId> + '_ {
        let mut next = match self.heads.len() {
            0 => 0,
            len => self.heads[hash as usize & (len - 1)],
        };
        core::iter::from_fn(move || {
            loop {
                let index = next.checked_sub(1)? as usize;
                let (after, found) = *self.links.get(index)?;
                next = after;
                if found == hash {
                    return Some(TypeId(start_id + index as u32));
                }
            }
        })
    }
}

/// Bytes of a name that are hashed; bounds the work on a blob whose types all begin inside one long string.
const HASHED_BYTES: usize = 256;
const HASH_START: u32 = 0x811c_9dc5;

fn hash_step(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// The high bits of the multiplication are the good ones; bring them down once at the end.
fn hash_end(hash: u32) -> u32 {
    hash ^ hash >> 15
}

fn hash(name: &[u8]) -> u32 {
    hash_end(
        name.iter()
            .take(HASHED_BYTES)
            .fold(HASH_START, |hash, &byte| hash_step(hash, byte)),
    )
}

/// The hash of the NUL-terminated string at `offset`.
fn hash_at(strings: &[u8], offset: usize) -> Option<u32> {
    let mut hash = HASH_START;
    for &byte in strings.get(offset..)?.iter().take(HASHED_BYTES) {
        if byte == 0 {
            return Some(hash_end(hash));
        }
        hash = hash_step(hash, byte);
    }
    Some(hash_end(hash))
}
