//! `Record`: the special fields of a map value or of an allocated object (locks, timers, kernel pointers, lists, trees).
//!
//! [`Record::parse`] walks a struct or data section, nested structs and arrays of them included, and finds members whose
//! type has a reserved name, or that are pointers with a type tag. [`StructMetas`] does so for every struct of a blob
//! that a program could allocate; a blob for which that fails is not loaded.
//!
//! Kernel counterpart: `btf_parse_fields`, `btf_parse_struct_metas`. Neighbours: `check` calls it at the end, map
//! creation and the verifier read the result.

mod find;
mod kind;

pub use kind::{FieldKind, FieldMask};

use crate::{Btf, Kind, Type, TypeId};
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use find::{Contains, RawTarget, find_fields, kernel_pointer, node_offset, pointer_target};
use ring3_uapi::{Errno, MapType};

/// Most fields of one record. Source: `BTF_FIELDS_MAX`.
pub const FIELDS_MAX: usize = 11;
/// Nested structs and arrays. Source: `MAX_RESOLVE_DEPTH`.
const DEPTH_MAX: usize = 32;
/// Bytes a user pointer may pin.
const PAGE_BYTES: u32 = 4096;

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
pub const DESTRUCTIBLE_6_18: &[&str] = &[
    "task_struct",
    "cgroup",
    "bpf_cpumask",
    "bpf_crypto_ctx",
    "prog_test_ref_kfunc",
    "prog_test_member",
];

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
        let Some(ty) = btf.type_by_id(ty) else {
            return Err(Errno::EINVAL);
        };
        Self::parse_tagged(btf, &Contains::new(btf), ty, mask, value_bytes, kernel)
    }

    fn parse_tagged(
        btf: &Btf,
        tags: &Contains<'_>,
        ty: Type<'_>,
        mask: FieldMask,
        value_bytes: u32,
        kernel: Option<KernelTypes<'_>>,
    ) -> Result<Option<Record>, Errno> {
        let mut found = find_fields(btf, tags, ty, mask)?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut record = Record::default();
        let mut next_offset = 0u32;
        for field in &mut found {
            let end = field
                .offset
                .checked_add(field.kind.size())
                .ok_or(Errno::EFAULT)?;
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
            record.fields.push(Field {
                kind: field.kind,
                offset: field.offset,
                target,
            });
        }
        let has_lock = record.has(FieldKind::SpinLock) || record.has(FieldKind::ResSpinLock);
        if record.has(FieldKind::SpinLock) && record.has(FieldKind::ResSpinLock) {
            return Err(Errno::EINVAL);
        }
        if (record.has(FieldKind::ListHead) || record.has(FieldKind::RbRoot)) && !has_lock {
            return Err(Errno::EINVAL);
        }
        if !record.has(FieldKind::Refcount)
            && record.has(FieldKind::ListNode)
            && record.has(FieldKind::RbNode)
        {
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
        let local_storage = matches!(
            map_type,
            SkStorage | InodeStorage | TaskStorage | CgrpStorage
        );
        for &kind in FieldKind::ALL.iter().filter(|&&kind| self.has(kind)) {
            let allowed = match kind {
                FieldKind::SpinLock | FieldKind::ResSpinLock => {
                    local_storage || matches!(map_type, Hash | Array | CgroupStorageDeprecated)
                }
                FieldKind::Timer | FieldKind::Workqueue | FieldKind::TaskWork => {
                    matches!(map_type, Hash | LruHash | Array)
                }
                FieldKind::KptrUnref
                | FieldKind::KptrRef
                | FieldKind::KptrPercpu
                | FieldKind::Refcount => {
                    local_storage
                        || matches!(
                            map_type,
                            Hash | PercpuHash | LruHash | LruPercpuHash | Array | PercpuArray
                        )
                }
                FieldKind::Uptr => map_type == TaskStorage,
                FieldKind::ListHead | FieldKind::RbRoot => {
                    matches!(map_type, Hash | LruHash | Array)
                }
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
                (FieldTarget::Local(id), FieldKind::Uptr) => {
                    match btf.type_by_id(*id).map_or(0, |ty| ty.size()) {
                        0 => return Err(Errno::EINVAL),
                        size if size > PAGE_BYTES => return Err(Errno::E2BIG),
                        _ => {}
                    }
                }
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
            .filter(|&&kind| {
                FieldMask::ALLOC_OBJ.has(kind)
                    && !kind.is_pointer()
                    && kind != FieldKind::ResSpinLock
            })
            .filter_map(|kind| btf.find_by_name_kind(kind.name(), Kind::Struct))
            .collect();
        let kptrs = FieldMask(0x1c);
        let is_kptr = |ty: &Type<'_>| matches!(kernel_pointer(btf, *ty, kptrs), Ok(Some(_)));
        special.extend(btf.own_types().filter(is_kptr).map(|ty| ty.id()));
        let tags = Contains::new(btf);
        let mut metas = StructMetas::default();
        if special.is_empty() {
            return Ok(metas);
        }
        for ty in btf.own_types().filter(|ty| ty.kind() == Kind::Struct) {
            if !ty.members().any(|member| special.contains(&member.ty)) {
                continue;
            }
            let size = ty.size();
            let record = Record::parse_tagged(btf, &tags, ty, FieldMask::ALLOC_OBJ, size, kernel)?
                .ok_or(Errno::EFAULT)?;
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

#[cfg(test)]
mod tests;
