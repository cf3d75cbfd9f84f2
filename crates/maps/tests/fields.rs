//! Special fields of values: a user's bytes never reach them, nobody reads them, what they own is released when its value goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_maps::fd::{FdTable, NoFds, StorageKind};
use ring3_maps::fields::{Field, FieldHooks, FieldKind, ValueRecord};
use ring3_maps::{Access, Errno, LocalStorage, Map, MapAttr, MapType, abi};
use ring3_os::cpu::possible_cpus;
use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};

/// Where the field lies; 8 bytes of data stand before it and behind it.
const AT: usize = 8;
/// Kinds that own something, with their sizes.
const OWNING: &[(FieldKind, usize)] = &[
    (FieldKind::Timer, 16),
    (FieldKind::Workqueue, 16),
    (FieldKind::TaskWork, 8),
    (FieldKind::KptrRef, 8),
    (FieldKind::KptrPercpu, 8),
    (FieldKind::Uptr, 8),
    (FieldKind::ListHead, 16),
    (FieldKind::RbRoot, 16),
];
/// Kinds that own nothing.
const PLAIN: &[(FieldKind, usize)] = &[
    (FieldKind::SpinLock, 8),
    (FieldKind::ResSpinLock, 8),
    (FieldKind::KptrUnref, 8),
    (FieldKind::ListNode, 24),
    (FieldKind::RbNode, 32),
    (FieldKind::Refcount, 8),
];
const TYPES: &[(MapType, u32)] = &[
    (MapType::Hash, 0),
    (MapType::Hash, map_create::NO_PREALLOC),
    (MapType::PercpuHash, 0),
    (MapType::LruHash, 0),
    (MapType::LruPercpuHash, 0),
    (MapType::Array, 0),
    (MapType::PercpuArray, 0),
    (MapType::TaskStorage, map_create::NO_PREALLOC),
];
const ENTRIES: u32 = 4;

/// Adds up what was released.
#[derive(Default)]
struct Counter(AtomicU64);

impl FieldHooks for Counter {
    unsafe fn release(&self, field: &Field, field_ptr: *mut u8) {
        assert!(OWNING.iter().any(|(kind, _)| *kind == field.kind));
        // SAFETY: fields begin with a word.
        let word = unsafe { AtomicU64::from_ptr(field_ptr.cast()) };
        self.0
            .fetch_add(word.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Every descriptor is an owner.
struct Owners;

impl FdTable for Owners {
    fn storage_owner(&self, _kind: StorageKind, fd: u32) -> Result<u64, Errno> {
        Ok(u64::from(fd) * 64)
    }
}

/// A map whose values have one field.
struct Case {
    map: Arc<Map>,
    released: Arc<Counter>,
    value_bytes: usize,
    name: String,
}

impl Case {
    fn new(map_type: MapType, flags: u32, kind: FieldKind, size: usize) -> Case {
        let released = Arc::new(Counter::default());
        let (offset, size_u32) = (AT as u32, size as u32);
        let field = Field {
            kind,
            offset,
            size: size_u32,
        };
        let record = ValueRecord::new(vec![field], Some(released.clone()));
        let value_bytes = AT + size + 8;
        let entries = if map_type == MapType::TaskStorage {
            0
        } else {
            ENTRIES
        };
        let mut attr = MapAttr::new(map_type, 4, value_bytes as u32, entries).with_flags(flags);
        (attr.btf_key_type_id, attr.btf_value_type_id) = (1, 2);
        Case {
            map: Map::create(&attr.with_record(Arc::new(record))).unwrap(),
            released,
            value_bytes,
            name: format!("{map_type} flags {flags:#x}, {kind:?}"),
        }
    }

    fn is_percpu(&self) -> bool {
        self.map.sys_value_bytes() != self.value_bytes
    }

    fn is_array(&self) -> bool {
        matches!(self.map.map_type(), MapType::Array | MapType::PercpuArray)
    }

    fn update(&self, key: u32, byte: u8, flags: u64) -> Result<(), Errno> {
        let value = vec![byte; self.map.sys_value_bytes()];
        self.map.sys_update(
            Access::ReadWrite,
            &key.to_ne_bytes(),
            &value,
            flags,
            &Owners,
        )
    }

    /// The field's first word in the value that a program sees.
    fn word(&self, key: u32) -> &AtomicU64 {
        let _run = rcu::read();
        // SAFETY: keys of 4 bytes; the field begins with a word, and the map lives.
        unsafe {
            let value = match self.map.downcast::<LocalStorage>() {
                Some(storage) => storage.get(u64::from(key) * 64, std::ptr::null(), 0),
                None => {
                    let key = (&raw const key) as u64;
                    abi::lookup_elem(self.map.program_ptr(), key, 0, 0, 0) as *mut u8
                }
            };
            assert!(!value.is_null(), "{}", self.name);
            AtomicU64::from_ptr(value.add(AT).cast())
        }
    }

    fn released(&self) -> u64 {
        self.released.0.swap(0, Ordering::Relaxed)
    }

    /// What a system call reads: data as written, the field as zero.
    fn check_hidden(&self, key: u32, byte: u8) {
        let mut values = vec![0xff; self.map.sys_value_bytes()];
        self.map
            .sys_lookup_with(
                Access::ReadWrite,
                &key.to_ne_bytes(),
                &mut values,
                0,
                &Owners,
            )
            .unwrap();
        let cpus = if self.is_percpu() { possible_cpus() } else { 1 };
        for value in values.chunks(values.len() / cpus) {
            let (end, data) = (self.value_bytes - 8, [byte; 8]);
            assert_eq!(value[..AT], data, "{}", self.name);
            assert!(
                value[AT..end].iter().all(|byte| *byte == 0),
                "{}",
                self.name
            );
            assert_eq!(value[end..end + 8], data, "{}", self.name);
        }
    }
}

#[test]
fn what_fields_own_is_released_when_its_value_goes() {
    for &(kind, size) in OWNING {
        for &(map_type, flags) in TYPES {
            let case = Case::new(map_type, flags, kind, size);
            let name = &case.name;
            case.update(1, 0xaa, 0).unwrap();
            assert_eq!(case.word(1).load(Ordering::Relaxed), 0, "{name}");
            case.word(1).store(5, Ordering::Relaxed);
            case.check_hidden(1, 0xaa);
            assert_eq!(case.released(), 0, "{name}");

            // Replaced.
            case.update(1, 0xbb, 0).unwrap();
            assert_eq!(case.released(), 5, "{name}");
            assert_eq!(case.word(1).load(Ordering::Relaxed), 0, "{name}");
            case.check_hidden(1, 0xbb);

            if !case.is_array() {
                // Deleted, and deleted with a look at it.
                case.word(1).store(7, Ordering::Relaxed);
                let key = 1u32.to_ne_bytes();
                case.map
                    .sys_delete(Access::ReadWrite, &key, &Owners)
                    .unwrap();
                assert_eq!(case.released(), 7, "{name}");
                case.update(1, 0xcc, map_elem::NOEXIST).unwrap();
                assert_eq!(case.word(1).load(Ordering::Relaxed), 0, "{name}");
            }
            if !case.is_array() && map_type != MapType::TaskStorage {
                case.word(1).store(9, Ordering::Relaxed);
                let mut value = vec![0; case.map.sys_value_bytes()];
                let key = 1u32.to_ne_bytes();
                case.map
                    .sys_lookup_and_delete(Access::ReadWrite, &key, &mut value, 0)
                    .unwrap();
                assert_eq!(case.released(), 9, "{name}");
                assert!(value[AT..AT + size].iter().all(|byte| *byte == 0), "{name}");
                case.update(1, 0xcc, 0).unwrap();
            }
            if matches!(map_type, MapType::LruHash | MapType::LruPercpuHash) {
                // Driven out by others.
                case.word(1).store(3, Ordering::Relaxed);
                for key in 10..10 + 4 * ENTRIES {
                    case.update(key, 0xdd, 0).unwrap();
                }
                assert_eq!(case.released(), 3, "{name}");
                case.update(1, 0xcc, 0).unwrap();
            }
            // Gone with the map.
            case.word(1).store(11, Ordering::Relaxed);
            let released = case.released.clone();
            drop(case);
            rcu::barrier().unwrap();
            assert_eq!(released.0.load(Ordering::Relaxed), 11);
        }
    }
}

#[test]
fn fields_that_own_nothing_are_hidden_too() {
    for &(kind, size) in PLAIN {
        for &(map_type, flags) in TYPES {
            let case = Case::new(map_type, flags, kind, size);
            case.update(1, 0xaa, 0).unwrap();
            assert_eq!(case.word(1).load(Ordering::Relaxed), 0, "{}", case.name);
            case.check_hidden(1, 0xaa);
            case.update(1, 0xbb, 0).unwrap();
            case.check_hidden(1, 0xbb);
            assert_eq!(case.released(), 0, "{}", case.name);
        }
    }
}

#[test]
fn an_update_under_the_values_lock_keeps_what_a_hash_owns_and_not_what_an_array_does() {
    for (map_type, flags) in [
        (MapType::Hash, 0),
        (MapType::Hash, map_create::NO_PREALLOC),
        (MapType::TaskStorage, map_create::NO_PREALLOC),
        (MapType::Array, 0),
    ] {
        let released = Arc::new(Counter::default());
        let field = |kind, offset, size| Field { kind, offset, size };
        let fields = vec![
            field(FieldKind::KptrRef, AT as u32, 8),
            field(FieldKind::SpinLock, 4, 4),
        ];
        let record = Arc::new(ValueRecord::new(fields, Some(released.clone())));
        let entries = if map_type == MapType::TaskStorage {
            0
        } else {
            ENTRIES
        };
        let mut attr = MapAttr::new(map_type, 4, 24, entries).with_flags(flags);
        (attr.btf_key_type_id, attr.btf_value_type_id) = (1, 2);
        let case = Case {
            map: Map::create(&attr.with_record(record)).unwrap(),
            released,
            value_bytes: 24,
            name: format!("{map_type} flags {flags:#x}"),
        };
        case.update(1, 0xaa, 0).unwrap();
        case.word(1).store(5, Ordering::Relaxed);
        case.update(1, 0xbb, map_elem::LOCK).unwrap();
        let mut value = [0xff; 24];
        case.map
            .sys_lookup_with(
                Access::ReadWrite,
                &1u32.to_ne_bytes(),
                &mut value,
                map_elem::LOCK,
                &Owners,
            )
            .unwrap();
        assert_eq!(
            (&value[..4], &value[4..16], &value[16..]),
            (&[0xbb; 4][..], &[0; 12][..], &[0xbb; 8][..]),
            "{}",
            case.name
        );
        let (kept, released) = if case.is_array() { (0, 5) } else { (5, 0) };
        assert_eq!(case.word(1).load(Ordering::Relaxed), kept, "{}", case.name);
        assert_eq!(case.released(), released, "{}", case.name);
    }
}

#[test]
fn maps_whose_values_own_something_are_neither_frozen_nor_mapped() {
    let case = Case::new(MapType::Array, map_create::MMAPABLE, FieldKind::KptrRef, 8);
    assert_eq!(case.map.sys_freeze(Access::ReadWrite), Err(Errno::ENOTSUPP));
    let mapping = case
        .map
        .mmap(Access::ReadWrite, 0, 4096, ring3_maps::MappingAccess::Read);
    assert_eq!(mapping.unwrap_err(), Errno::ENOTSUPP);
    assert_eq!(
        case.map.sys_delete(Access::ReadWrite, &[0; 4], &NoFds),
        Err(Errno::EINVAL)
    );
}
