//! `Record`: the special fields of a map value or of an allocated object (locks, timers, kernel pointers, lists, trees).
//!
//! [`Record::parse`] walks a struct or data section, nested structs and arrays of them included, and finds members whose
//! type has a reserved name, or that are pointers with a type tag. [`StructMetas`] does so for every struct of a blob
//! that a program could allocate; a blob for which that fails is not loaded.
//!
//! Kernel counterpart: `btf_parse_fields`, `btf_parse_struct_metas`. Neighbours: `check` calls it at the end, map
//! creation and the verifier read the result.

use crate::{Btf, Kind, Type, TypeId};
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ring3_uapi::{Errno, MapType};

/// Most fields of one record. Source: `BTF_FIELDS_MAX`.
pub const FIELDS_MAX: usize = 11;
/// Nested structs and arrays. Source: `MAX_RESOLVE_DEPTH`.
const DEPTH_MAX: usize = 32;
/// Bytes a user pointer may pin.
const PAGE_BYTES: u32 = 4096;

macro_rules! field_kinds {
    ($($name:ident = $mask:literal, $text:literal, $size:literal, $align:literal;)*) => {
        /// A kind of special field.
        ///
        /// # Source
        /// `enum btf_field_type`, sizes and alignments of the types in linux/bpf.h, Linux 6.18.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum FieldKind {
            $(#[doc = concat!("`", $text, "`")] $name = $mask,)*
        }

        impl FieldKind {
            /// Every kind.
            pub const ALL: &'static [FieldKind] = &[$(FieldKind::$name),*];

            /// The type's name, or the type tag of a pointer.
            pub const fn name(self) -> &'static str {
                match self { $(FieldKind::$name => $text,)* }
            }

            /// Bytes of a field.
            pub const fn size(self) -> u32 {
                match self { $(FieldKind::$name => $size,)* }
            }

            /// Alignment; a field elsewhere is no special field.
            pub const fn align(self) -> u32 {
                match self { $(FieldKind::$name => $align,)* }
            }
        }
    };
}

field_kinds! {
    SpinLock = 0x1, "bpf_spin_lock", 4, 4;
    Timer = 0x2, "bpf_timer", 16, 8;
    KptrUnref = 0x4, "kptr_untrusted", 8, 8;
    KptrRef = 0x8, "kptr", 8, 8;
    KptrPercpu = 0x10, "percpu_kptr", 8, 8;
    ListHead = 0x20, "bpf_list_head", 16, 8;
    ListNode = 0x40, "bpf_list_node", 24, 8;
    RbRoot = 0x80, "bpf_rb_root", 16, 8;
    RbNode = 0x100, "bpf_rb_node", 32, 8;
    Refcount = 0x200, "bpf_refcount", 4, 4;
    Workqueue = 0x400, "bpf_wq", 16, 8;
    Uptr = 0x800, "uptr", 8, 8;
    ResSpinLock = 0x1000, "bpf_res_spin_lock", 4, 4;
    TaskWork = 0x2000, "bpf_task_work", 8, 8;
}

impl FieldKind {
    /// A pointer stored in a map value.
    pub const fn is_pointer(self) -> bool {
        matches!(self, FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Uptr)
    }

    /// A list head or tree root: it owns objects.
    pub const fn is_graph_root(self) -> bool {
        matches!(self, FieldKind::ListHead | FieldKind::RbRoot)
    }

    /// A list or tree node: it can be owned.
    pub const fn is_graph_node(self) -> bool {
        matches!(self, FieldKind::ListNode | FieldKind::RbNode)
    }

    /// At most one of these per struct.
    const fn is_unique(self) -> bool {
        matches!(
            self,
            FieldKind::SpinLock
                | FieldKind::ResSpinLock
                | FieldKind::Timer
                | FieldKind::Workqueue
                | FieldKind::TaskWork
        )
    }

    /// May stand in an array, or in a struct that does.
    const fn is_repeatable(self) -> bool {
        self.is_pointer() || self.is_graph_root()
    }
}

/// A set of [`FieldKind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldMask(pub u32);

impl FieldMask {
    /// What map values may hold.
    pub const MAP_VALUE: FieldMask = FieldMask(0x1 | 0x1000 | 0x2 | 0x1c | 0x20 | 0x80 | 0x200 | 0x400 | 0x800 | 0x2000);
    /// What objects that a program allocates may hold.
    pub const ALLOC_OBJ: FieldMask = FieldMask(0x1 | 0x1000 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x1c);

    /// Does the set hold this kind?
    pub const fn has(self, kind: FieldKind) -> bool {
        self.0 & kind as u32 != 0
    }

    fn insert(&mut self, kind: FieldKind) {
        self.0 |= kind as u32;
    }
}

/// What a pointer or root refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldTarget {
    /// nothing
    None,
    /// a struct of the kernel's BTF
    Kernel(TypeId),
    /// a struct of the program's own BTF
    Local(TypeId),
    /// objects of this struct of the program's own BTF, linked through the node at this byte offset
    Graph {
        /// the struct
        value: TypeId,
        /// byte offset of its node
        node_offset: u32,
    },
}

/// One special field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// what it is
    pub kind: FieldKind,
    /// byte offset in the value
    pub offset: u32,
    /// what it refers to
    pub target: FieldTarget,
}

impl Field {
    /// Bytes of the field.
    pub fn size(&self) -> u32 {
        self.kind.size()
    }
}

/// The special fields of one type, by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// the fields, by offset
    pub fields: Vec<Field>,
    /// their kinds
    pub mask: FieldMask,
}

/// The kernel types that pointer fields may refer to, and which of them have a destructor.
#[derive(Clone, Copy)]
pub struct KernelTypes<'a> {
    /// the kernel's BTF
    pub btf: &'a Btf,
    /// names of kernel structs that a `kptr` may own
    pub destructible: &'a [&'a str],
}

/// Kernel structs with a destructor in Linux 6.18.
pub const DESTRUCTIBLE_6_18: &[&str] =
    &["task_struct", "cgroup", "bpf_cpumask", "bpf_crypto_ctx", "prog_test_ref_kfunc", "prog_test_member"];

impl Record {
    /// Finds the special fields of the kinds in `mask` in a struct or data section; `None` if there are none.
    ///
    /// `value_bytes` is the size of the value, which the fields must not leave. Without `kernel`, pointers refer to the
    /// program's own types.
    ///
    /// # Errors
    /// E2BIG: two of a kind that may stand once, or more than [`FIELDS_MAX`] fields. EEXIST: overlapping fields. ENOENT:
    /// a type, node or destructor is missing. EINVAL: not a struct, a bad tag, a root without a lock.
    pub fn parse(
        btf: &Btf,
        ty: TypeId,
        mask: FieldMask,
        value_bytes: u32,
        kernel: Option<KernelTypes<'_>>,
    ) -> Result<Option<Record>, Errno> {
        let Some(ty) = btf.type_by_id(ty) else { return Err(Errno::EINVAL) };
        let mut found = find_fields(btf, ty, mask)?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut record = Record::default();
        let mut next_offset = 0u32;
        for field in &mut found {
            let end = field.offset.checked_add(field.kind.size()).ok_or(Errno::EFAULT)?;
            if end > value_bytes {
                return Err(Errno::EFAULT);
            }
            if field.offset < next_offset {
                return Err(Errno::EEXIST);
            }
            next_offset = end;
            record.mask.insert(field.kind);
            let target = match &field.raw {
                RawTarget::None => FieldTarget::None,
                RawTarget::Pointer(id) => pointer_target(btf, field.kind, *id, kernel)?,
                RawTarget::Root { value, node } => FieldTarget::Graph {
                    value: *value,
                    node_offset: node_offset(btf, *value, node, field.kind)?,
                },
            };
            record.fields.push(Field { kind: field.kind, offset: field.offset, target });
        }
        let has_lock = record.has(FieldKind::SpinLock) || record.has(FieldKind::ResSpinLock);
        if record.has(FieldKind::SpinLock) && record.has(FieldKind::ResSpinLock) {
            return Err(Errno::EINVAL);
        }
        if (record.has(FieldKind::ListHead) || record.has(FieldKind::RbRoot)) && !has_lock {
            return Err(Errno::EINVAL);
        }
        if !record.has(FieldKind::Refcount) && record.has(FieldKind::ListNode) && record.has(FieldKind::RbNode) {
            return Err(Errno::EINVAL);
        }
        record.fields.sort_by_key(|field| field.offset);
        Ok(Some(record))
    }

    /// Is there a field of this kind?
    pub fn has(&self, kind: FieldKind) -> bool {
        self.mask.has(kind)
    }

    /// The field at exactly this byte offset.
    pub fn at(&self, offset: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.offset == offset)
    }

    /// The first field of this kind.
    pub fn first(&self, kind: FieldKind) -> Option<&Field> {
        self.fields.iter().find(|field| field.kind == kind)
    }

    /// May a map of this type hold values with these fields?
    ///
    /// # Errors
    /// ENOTSUP: it may not.
    pub fn check_map_type(&self, map_type: MapType) -> Result<(), Errno> {
        use MapType::*;
        let local_storage = matches!(map_type, SkStorage | InodeStorage | TaskStorage | CgrpStorage);
        for &kind in FieldKind::ALL.iter().filter(|&&kind| self.has(kind)) {
            let allowed = match kind {
                FieldKind::SpinLock | FieldKind::ResSpinLock => {
                    local_storage || matches!(map_type, Hash | Array | CgroupStorageDeprecated)
                }
                FieldKind::Timer | FieldKind::Workqueue | FieldKind::TaskWork => {
                    matches!(map_type, Hash | LruHash | Array)
                }
                FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Refcount => {
                    local_storage
                        || matches!(map_type, Hash | PercpuHash | LruHash | LruPercpuHash | Array | PercpuArray)
                }
                FieldKind::Uptr => map_type == TaskStorage,
                FieldKind::ListHead | FieldKind::RbRoot => matches!(map_type, Hash | LruHash | Array),
                FieldKind::ListNode | FieldKind::RbNode => false,
            };
            if !allowed {
                return Err(Errno::ENOTSUP);
            }
        }
        Ok(())
    }

    /// Checks what fields own: user pointers fit a page and are no kernel type; roots own structs of `metas` and, in a
    /// struct that can itself be owned, none that own others.
    ///
    /// # Errors
    /// EINVAL, E2BIG: user pointers. EFAULT: a root of a struct without record. ELOOP: ownership could form a cycle.
    pub fn check_ownership(&self, btf: &Btf, metas: &StructMetas) -> Result<(), Errno> {
        for field in &self.fields {
            match (&field.target, field.kind) {
                (FieldTarget::Kernel(_), FieldKind::Uptr) => return Err(Errno::EINVAL),
                (FieldTarget::Local(id), FieldKind::Uptr) => match btf.type_by_id(*id).map_or(0, |ty| ty.size()) {
                    0 => return Err(Errno::EINVAL),
                    size if size > PAGE_BYTES => return Err(Errno::E2BIG),
                    _ => {}
                },
                (FieldTarget::Graph { value, .. }, _) => {
                    let owned = metas.record(*value).ok_or(Errno::EFAULT)?;
                    let can_be_owned = self.has(FieldKind::ListNode) || self.has(FieldKind::RbNode);
                    let owns = owned.has(FieldKind::ListHead) || owned.has(FieldKind::RbRoot);
                    if can_be_owned && owns {
                        return Err(Errno::ELOOP);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The records of all structs of a blob that hold special fields, by ascending id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StructMetas {
    records: Vec<(TypeId, Arc<Record>)>,
}

impl StructMetas {
    /// Finds every struct with a member of a special type and parses its record.
    ///
    /// # Errors
    /// Those of [`Record::parse`] and [`Record::check_ownership`].
    pub fn parse(btf: &Btf, kernel: Option<KernelTypes<'_>>) -> Result<StructMetas, Errno> {
        // A resilient lock alone makes no struct an object.
        let mut special: BTreeSet<TypeId> = FieldKind::ALL
            .iter()
            .filter(|&&kind| FieldMask::ALLOC_OBJ.has(kind)
                    && !kind.is_pointer()
                    && kind != FieldKind::ResSpinLock)
            .filter_map(|kind| btf.find_by_name_kind(kind.name(), Kind::Struct))
            .collect();
        let kptrs = FieldMask(0x1c);
        let is_kptr = |ty: &Type<'_>| matches!(kernel_pointer(btf, *ty, kptrs), Ok(Some(_)));
        special.extend(btf.own_types().filter(is_kptr).map(|ty| ty.id()));
        let mut metas = StructMetas::default();
        if special.is_empty() {
            return Ok(metas);
        }
        for ty in btf.own_types().filter(|ty| ty.kind() == Kind::Struct) {
            if !ty.members().any(|member| special.contains(&member.ty)) {
                continue;
            }
            let record =
                Record::parse(btf, ty.id(), FieldMask::ALLOC_OBJ, ty.size(), kernel)?.ok_or(Errno::EFAULT)?;
            metas.records.push((ty.id(), Arc::new(record)));
        }
        for (_, record) in &metas.records {
            record.check_ownership(btf, &metas)?;
        }
        Ok(metas)
    }

    /// The record of a struct.
    pub fn record(&self, ty: TypeId) -> Option<&Arc<Record>> {
        let index = self.records.binary_search_by_key(&ty, |(id, _)| *id).ok()?;
        Some(&self.records[index].1)
    }

    /// All of them, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Arc<Record>)> {
        self.records.iter().map(|(id, record)| (*id, record))
    }
}

struct Found {
    kind: FieldKind,
    offset: u32,
    raw: RawTarget,
}

#[derive(Clone)]
enum RawTarget {
    None,
    Pointer(TypeId),
    Root { value: TypeId, node: alloc::string::String },
}

/// A struct being walked: it stands `nelems` times from byte `base` on.
struct Frame<'a> {
    ty: Type<'a>,
    next_member: u32,
    base: u32,
    nelems: u32,
    first_found: usize,
    seen: FieldMask,
}

fn find_fields(btf: &Btf, ty: Type<'_>, mask: FieldMask) -> Result<Vec<Found>, Errno> {
    let mut found = Vec::new();
    match ty.kind() {
        Kind::Struct => walk_struct(btf, ty, mask, &mut found)?,
        Kind::Datasec => {
            let mut seen = FieldMask::default();
            for secinfo in ty.vars() {
                let Some(var) = btf.type_by_id(secinfo.ty) else { continue };
                let place = Place { holder: secinfo.ty, component: -1, offset: secinfo.offset, bytes: secinfo.size };
                if let Some((nested, nelems)) = find_one(btf, var.type_id(), &place, mask, &mut seen, &mut found)? {
                    let first = found.len();
                    walk_struct(btf, nested, mask, &mut found)?;
                    place_nested(&mut found, first, secinfo.offset, nelems, nested.size())?;
                }
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(found)
}

fn walk_struct<'a>(btf: &'a Btf, root: Type<'a>, mask: FieldMask, found: &mut Vec<Found>) -> Result<(), Errno> {
    let frame = |ty, base, nelems, first_found| Frame {
        ty,
        next_member: 0,
        base,
        nelems,
        first_found,
        seen: FieldMask::default(),
    };
    let mut stack: Vec<Frame<'a>> = alloc::vec![frame(root, 0, 1, found.len())];
    // A wide struct nested 32 deep would be walked exponentially often: bound the steps as well as the depth.
    let mut steps = 0u32;
    while let Some(top) = stack.last_mut() {
        steps += 1;
        if steps > 1 << 20 {
            return Err(Errno::E2BIG);
        }
        let Some(member) = top.ty.member(top.next_member) else {
            let (base, nelems, first, size) = (top.base, top.nelems, top.first_found, top.ty.size());
            stack.pop();
            place_nested(found, first, base, nelems, size)?;
            continue;
        };
        let component = top.next_member as i32;
        top.next_member += 1;
        if member.bit_offset % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let place = Place { holder: top.ty.id(), component, offset: member.byte_offset(), bytes: 0 };
        if let Some((nested, nelems)) = find_one(btf, member.ty, &place, mask, &mut top.seen, found)? {
            if stack.len() >= DEPTH_MAX {
                return Err(Errno::E2BIG);
            }
            let first = found.len();
            stack.push(frame(nested, member.byte_offset(), nelems, first));
        }
    }
    Ok(())
}

/// Moves the fields of a nested struct to where it stands and repeats them for each element of an array of it.
fn place_nested(found: &mut Vec<Found>, first: usize, base: u32, nelems: u32, size: u32) -> Result<(), Errno> {
    for field in &mut found[first..] {
        field.offset = field.offset.checked_add(base).ok_or(Errno::EINVAL)?;
    }
    if nelems > 1 && found.len() > first {
        repeat(found, first, nelems, size)?;
    }
    Ok(())
}

fn repeat(found: &mut Vec<Found>, first: usize, nelems: u32, size: u32) -> Result<(), Errno> {
    let count = found.len() - first;
    if found[first..].iter().any(|field| !field.kind.is_repeatable()) {
        return Err(Errno::EINVAL);
    }
    let total = (nelems as usize).checked_mul(count).ok_or(Errno::E2BIG)?;
    if first + total > FIELDS_MAX {
        return Err(Errno::E2BIG);
    }
    for index in 1..nelems {
        for at in first..first + count {
            let shift = index.checked_mul(size).ok_or(Errno::E2BIG)?;
            let offset = found[at].offset.checked_add(shift).ok_or(Errno::E2BIG)?;
            found.push(Found { kind: found[at].kind, offset, raw: found[at].raw.clone() });
        }
    }
    Ok(())
}

/// Where a member or variable stands: its declaration tags belong to `holder` and `component`.
struct Place {
    holder: TypeId,
    component: i32,
    offset: u32,
    /// size that a data section states, 0 for a member
    bytes: u32,
}

/// Looks at one member or variable: a special field goes to `found`, a struct to walk is returned with how many.
fn find_one<'a>(
    btf: &'a Btf,
    ty: TypeId,
    place: &Place,
    mask: FieldMask,
    seen: &mut FieldMask,
    found: &mut Vec<Found>,
) -> Result<Option<(Type<'a>, u32)>, Errno> {
    let mut nelems = 1u32;
    let mut ty = btf.type_by_id(ty).ok_or(Errno::EINVAL)?;
    let mut depth = 0;
    while let Some(array) = ty.array() {
        if depth == DEPTH_MAX - 1 {
            return Err(Errno::E2BIG);
        }
        depth += 1;
        nelems = nelems.wrapping_mul(array.nelems);
        ty = btf.type_by_id(array.elem).ok_or(Errno::EINVAL)?;
    }
    if nelems == 0 {
        return Ok(None);
    }
    let is_struct = ty.kind() == Kind::Struct;
    let named = FieldKind::ALL
        .iter()
        .copied()
        .find(|&kind| is_struct && !kind.is_pointer() && mask.has(kind) && kind.name() == ty.name());
    let fits = |size: u32| place.bytes == 0 || size.checked_mul(nelems) == Some(place.bytes);
    let Some(kind) = named else {
        if is_struct {
            return Ok(fits(ty.size()).then_some((ty, nelems)));
        }
        if mask.0 & 0x81c == 0 || !fits(8) || !place.offset.is_multiple_of(8) {
            return Ok(None);
        }
        let Some((kind, target)) = kernel_pointer(btf, ty, mask)? else { return Ok(None) };
        push(found, kind, place.offset, RawTarget::Pointer(target), nelems)?;
        return Ok(None);
    };
    if kind.is_unique() {
        if seen.has(kind) {
            return Err(Errno::E2BIG);
        }
        seen.insert(kind);
    }
    if !fits(kind.size()) || !place.offset.is_multiple_of(kind.align()) || ty.size() != kind.size() {
        return Ok(None);
    }
    let raw = if kind.is_graph_root() { contained(btf, place)? } else { RawTarget::None };
    push(found, kind, place.offset, raw, nelems)?;
    Ok(None)
}

fn push(found: &mut Vec<Found>, kind: FieldKind, offset: u32, raw: RawTarget, nelems: u32) -> Result<(), Errno> {
    if found.len() >= FIELDS_MAX {
        return Err(Errno::E2BIG);
    }
    let first = found.len();
    found.push(Found { kind, offset, raw });
    if nelems > 1 { repeat(found, first, nelems, kind.size()) } else { Ok(()) }
}

/// A pointer with a type tag: which kind, and the struct behind it.
fn kernel_pointer(btf: &Btf, ty: Type<'_>, mask: FieldMask) -> Result<Option<(FieldKind, TypeId)>, Errno> {
    let follow = |ty: Type<'_>| ty.type_id();
    let pointer = match ty.kind() {
        Kind::Volatile => btf.type_by_id(follow(ty)).ok_or(Errno::EINVAL)?,
        _ => ty,
    };
    if pointer.kind() != Kind::Ptr {
        return Ok(None);
    }
    let tag = btf.type_by_id(follow(pointer)).ok_or(Errno::EINVAL)?;
    if tag.kind() != Kind::TypeTag || tag.kind_flag() {
        return Ok(None);
    }
    if btf.kind(tag.type_id()) == Some(Kind::TypeTag) {
        return Err(Errno::EINVAL);
    }
    let kind = match tag.name() {
        "kptr_untrusted" => FieldKind::KptrUnref,
        "kptr" => FieldKind::KptrRef,
        "percpu_kptr" => FieldKind::KptrPercpu,
        "uptr" => FieldKind::Uptr,
        _ => return Err(Errno::EINVAL),
    };
    if !mask.has(kind) {
        return Ok(None);
    }
    let target = btf.skip_mods_and_typedefs(tag.type_id());
    if btf.kind(target) != Some(Kind::Struct) {
        return Err(Errno::EINVAL);
    }
    Ok(Some((kind, target)))
}

/// What a root contains: the one declaration tag `contains:STRUCT:NODE`.
fn contained(btf: &Btf, place: &Place) -> Result<RawTarget, Errno> {
    let mut values =
        btf.decl_tags(place.holder, place.component).filter_map(|tag| tag.strip_prefix("contains:"));
    let value = values.next().ok_or(Errno::EINVAL)?;
    if values.next().is_some() {
        return Err(Errno::EINVAL);
    }
    let (name, node) = value.split_once(':').ok_or(Errno::EINVAL)?;
    let value = btf.find_by_name_kind(name, Kind::Struct).ok_or(Errno::ENOENT)?;
    if node.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(RawTarget::Root { value, node: node.into() })
}

fn node_offset(btf: &Btf, value: TypeId, node: &str, root: FieldKind) -> Result<u32, Errno> {
    let expected = if root == FieldKind::RbRoot { FieldKind::RbNode } else { FieldKind::ListNode };
    let value = btf.type_by_id(value).ok_or(Errno::EINVAL)?;
    let mut offset = None;
    for member in value.members().filter(|member| member.name() == node) {
        let is_node =
            btf.type_by_id(member.ty).is_some_and(|ty| ty.kind() == Kind::Struct && ty.name() == expected.name());
        if offset.is_some() || !is_node || member.bit_offset % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        if !member.byte_offset().is_multiple_of(expected.align()) {
            return Err(Errno::EINVAL);
        }
        offset = Some(member.byte_offset());
    }
    offset.ok_or(Errno::ENOENT)
}

fn pointer_target(
    btf: &Btf,
    kind: FieldKind,
    id: TypeId,
    kernel: Option<KernelTypes<'_>>,
) -> Result<FieldTarget, Errno> {
    let name = btf.name(id);
    let Some(kernel) = kernel else { return Ok(FieldTarget::Local(id)) };
    let Some(found) = kernel.btf.find_by_name_kind(name, Kind::Struct) else { return Ok(FieldTarget::Local(id)) };
    if kind == FieldKind::KptrRef && !kernel.destructible.contains(&name) {
        return Err(Errno::ENOENT);
    }
    Ok(FieldTarget::Kernel(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, IntEncoding};

    fn parse(builder: &Builder, name: &str, mask: FieldMask) -> Result<Option<Record>, Errno> {
        let btf = Btf::parse(&builder.finish()).unwrap();
        let id = btf.find_by_name(name).unwrap();
        Record::parse(&btf, id, mask, btf.resolve_size(id).unwrap(), None)
    }

    fn base() -> (Builder, TypeId, TypeId) {
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        let lock = builder.add_struct("bpf_spin_lock", 4, &[("val", int, 0)]);
        (builder, int, lock)
    }

    #[test]
    fn lock_and_kptr_in_nested_struct_have_their_offsets() {
        let (mut b, int, lock) = base();
        let task = b.add_struct("task_struct", 4, &[("x", int, 0)]);
        let tag = b.add_ref(Kind::TypeTag, "kptr", task);
        let ptr = b.add_ref(Kind::Ptr, "", tag);
        let inner = b.add_struct("inner", 16, &[("n", int, 0), ("p", ptr, 64)]);
        let two = b.add_array(inner, int, 2);
        b.add_struct("value", 40, &[("lock", lock, 0), ("in", two, 64)]);
        let record = parse(&b, "value", FieldMask::MAP_VALUE).unwrap().unwrap();
        let seen: Vec<_> = record.fields.iter().map(|field| (field.kind, field.offset)).collect();
        assert_eq!(seen, [(FieldKind::SpinLock, 0), (FieldKind::KptrRef, 16), (FieldKind::KptrRef, 32)]);
    }

    #[test]
    fn two_locks_are_too_big() {
        let (mut b, _, lock) = base();
        b.add_struct("value", 8, &[("a", lock, 0), ("b", lock, 32)]);
        assert_eq!(parse(&b, "value", FieldMask::MAP_VALUE), Err(Errno::E2BIG));
    }

    #[test]
    fn list_head_needs_a_lock_and_contains() {
        let (mut b, int, lock) = base();
        let head = b.add(Kind::Struct, "bpf_list_head", 0, false, 16, &[]);
        let node = b.add(Kind::Struct, "bpf_list_node", 0, false, 24, &[]);
        b.add_struct("elem", 32, &[("n", node, 0), ("data", int, 192)]);
        let value = b.add_struct("value", 24, &[("lock", lock, 0), ("head", head, 64)]);
        let bare = b.add_struct("bare", 16, &[("head", head, 0)]);
        assert_eq!(parse(&b, "value", FieldMask::MAP_VALUE), Err(Errno::EINVAL));
        b.add_decl_tag("contains:elem:n", value, 1);
        b.add_decl_tag("contains:elem:n", bare, 0);
        let record = parse(&b, "value", FieldMask::MAP_VALUE).unwrap().unwrap();
        assert!(matches!(record.fields[1].target, FieldTarget::Graph { node_offset: 0, .. }));
        assert_eq!(parse(&b, "bare", FieldMask::MAP_VALUE), Err(Errno::EINVAL));
        assert_eq!(record.check_map_type(MapType::Queue), Err(Errno::ENOTSUP));
        assert_eq!(record.check_map_type(MapType::Array), Ok(()));
        let btf = Btf::parse(&b.finish()).unwrap();
        let metas = StructMetas::parse(&btf, None);
        assert_eq!(metas, Err(Errno::EINVAL), "bare has no lock");
    }

    #[test]
    fn ownership_cycles_are_loops() {
        let (mut b, _, lock) = base();
        let head = b.add(Kind::Struct, "bpf_list_head", 0, false, 16, &[]);
        let node = b.add(Kind::Struct, "bpf_list_node", 0, false, 24, &[]);
        let a = b.add_struct("a", 48, &[("lock", lock, 0), ("head", head, 64), ("n", node, 192)]);
        b.add_decl_tag("contains:a:n", a, 1);
        let btf = Btf::parse(&b.finish()).unwrap();
        assert_eq!(StructMetas::parse(&btf, None), Err(Errno::ELOOP));
    }
}
