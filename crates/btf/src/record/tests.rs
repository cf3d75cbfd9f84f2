//! Tests of special fields: which are found, where, and in which maps.

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
    let seen: Vec<_> = record
        .fields
        .iter()
        .map(|field| (field.kind, field.offset))
        .collect();
    assert_eq!(
        seen,
        [
            (FieldKind::SpinLock, 0),
            (FieldKind::KptrRef, 16),
            (FieldKind::KptrRef, 32)
        ]
    );
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
    assert!(matches!(
        record.fields[1].target,
        FieldTarget::Graph { node_offset: 0, .. }
    ));
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
    let a = b.add_struct(
        "a",
        48,
        &[("lock", lock, 0), ("head", head, 64), ("n", node, 192)],
    );
    b.add_decl_tag("contains:a:n", a, 1);
    let btf = Btf::parse(&b.finish()).unwrap();
    assert_eq!(StructMetas::parse(&btf, None), Err(Errno::ELOOP));
}

/// As BPF_MAP_CREATE of Linux 6.18.44 answers, for a value with one such field (and the lock that a root needs).
#[test]
fn map_types_take_the_fields_that_linux_takes() {
    use MapType::*;
    let types = [
        Hash,
        Array,
        PercpuHash,
        PercpuArray,
        LruHash,
        LruPercpuHash,
        SkStorage,
        InodeStorage,
        TaskStorage,
        CgrpStorage,
    ];
    for (mask, allowed) in [
        (0x1, "11....1111"),
        (0x1000, "11....1111"),
        (0x2, "11..1....."),
        (0x400, "11..1....."),
        (0x2000, "11..1....."),
        (0x4, "1111111111"),
        (0x8, "1111111111"),
        (0x10, "1111111111"),
        (0x800, "........1."),
        (0x21, "11........"),
        (0x81, "11........"),
        (0x200, "1111111111"),
    ] {
        let record = Record {
            fields: Vec::new(),
            mask: FieldMask(mask),
        };
        for (map_type, expected) in types.iter().zip(allowed.chars()) {
            let verdict = record.check_map_type(*map_type);
            assert_eq!(verdict.is_ok(), expected == '1', "{mask:#x} {map_type}");
        }
    }
}
