//! Maps of maps: `array_of_maps` and `hash_of_maps`.
//!
//! System calls store descriptors and read ids; programs look inner maps up and get their program pointer. An inner map must look like the
//! template that the outer map was created with, because programs are verified against it.

use std::any::Any;
use std::sync::Arc;

use ring3_sync::rcu;
use ring3_uapi::flags::{map_create, map_elem};
use ring3_uapi::{Errno, MapType};

use crate::Map;
use crate::array::{check_fd_array, index_of, next_index, read_index};
use crate::attr::{MapAttr, MapError};
use crate::batch::{BatchItem, BatchStyle, BatchWalk};
use crate::fd::FdTable;
use crate::hash::check_hash;
use crate::hash::key::with_key;
use crate::hash::objects::ObjectTable;
use crate::hash::table::PLACES;
use crate::hash::walk::WALK_STEPS;
use crate::ops::MapOps;
use crate::slots::Slots;

/// What later inner maps are compared with; the map that served as the template is not kept.
#[derive(Debug)]
struct Template {
    attr: MapAttr,
    /// Elements of an array: engines inline its bounds, so they must be equal.
    array_entries: Option<u32>,
}

impl Template {
    /// # Errors
    /// `EINVAL`: no inner map; or itself a map of maps. `ENOTSUPP`: a type that cannot be inside.
    fn of(outer: &MapAttr) -> Result<Template, MapError> {
        let like = outer
            .inner
            .clone()
            .ok_or_else(|| outer.error(Errno::EINVAL, format_args!("no inner map")))?;
        let attr = like.attr().clone();
        let by_size = attr.map_flags & map_create::INNER_MAP == 0;
        let array_entries = like.ops().max_entries_of_array().filter(|_| by_size);
        let inner_type = attr.map_type;
        if matches!(inner_type, MapType::ArrayOfMaps | MapType::HashOfMaps) {
            return Err(outer.error(
                Errno::EINVAL,
                format_args!("inner map of type {inner_type}"),
            ));
        }
        if !can_be_inner(inner_type) {
            return Err(outer.error(
                Errno::ENOTSUPP,
                format_args!("inner map of type {inner_type}"),
            ));
        }
        Ok(Template {
            attr,
            array_entries,
        })
    }

    /// Whether programs that were verified against the template may use `map` in its place.
    fn accepts(&self, map: &Map) -> bool {
        let (ours, theirs) = (&self.attr, map.attr());
        let records = |attr: &MapAttr| {
            attr.record
                .as_ref()
                .map(|record| record.fields().to_vec())
                .unwrap_or_default()
        };
        ours.map_type == theirs.map_type
            && ours.key_size == theirs.key_size
            && ours.value_size == theirs.value_size
            && ours.map_flags == theirs.map_flags
            && records(ours) == records(theirs)
            && (self.array_entries.is_none()
                || self.array_entries == map.ops().max_entries_of_array())
    }

    fn resolve(&self, value: &[u8], fds: &dyn FdTable) -> Result<Arc<Map>, Errno> {
        let map = fds.map(index_of(value))?;
        if self.accepts(&map) {
            Ok(map)
        } else {
            Err(Errno::EINVAL)
        }
    }
}

/// Types that may lie inside a map of maps.
///
/// # Source
/// Probed on Linux 6.18: the others are refused with `ENOTSUPP`.
fn can_be_inner(map_type: MapType) -> bool {
    !matches!(
        map_type,
        MapType::ProgArray
            | MapType::StructOps
            | MapType::CgroupStorageDeprecated
            | MapType::PercpuCgroupStorageDeprecated
    )
}

/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
#[derive(Debug)]
pub(crate) struct ArrayOfMaps {
    slots: Slots<Map>,
    template: Template,
}

impl ArrayOfMaps {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_fd_array(attr)?;
        Ok(ArrayOfMaps {
            template: Template::of(attr)?,
            slots: Slots::new(attr)?,
        })
    }
}

impl MapOps for ArrayOfMaps {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // A map's program pointer is its address.
        // SAFETY: 1. the caller's promise.
        self.slots.address(unsafe { read_index(key) }).cast()
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let section = rcu::read();
        let map = self
            .slots
            .peek(index_of(key), &section)
            .ok_or(Errno::ENOENT)?;
        value.copy_from_slice(&map.id().to_ne_bytes());
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        self.slots
            .update(key, flags, || self.template.resolve(value, fds))
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.slots.delete(key)
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        next_index(self.slots.len(), key, next)
    }

    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Generic { delete: false }
    }

    fn mem_usage(&self) -> u64 {
        self.slots.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `BPF_MAP_TYPE_HASH_OF_MAPS`.
#[derive(Debug)]
pub(crate) struct HashOfMaps {
    maps: ObjectTable<Map>,
    template: Template,
}

impl HashOfMaps {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        attr.require(attr.value_size == 4, "value_size", attr.value_size)?;
        check_hash(attr)?;
        Ok(HashOfMaps {
            template: Template::of(attr)?,
            maps: ObjectTable::new(attr)?,
        })
    }
}

impl MapOps for HashOfMaps {
    unsafe fn lookup(&self, key: *const u8) -> *mut u8 {
        // A map's program pointer is its address.
        // SAFETY: 1. the caller's promise.
        unsafe { self.maps.address(key) }.cast()
    }

    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let section = rcu::read();
        let map = self.maps.peek(key, &section).ok_or(Errno::ENOENT)?;
        value.copy_from_slice(&map.id().to_ne_bytes());
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        let map = self.template.resolve(value, fds)?;
        if flags > map_elem::EXIST {
            return Err(Errno::EINVAL);
        }
        self.maps.set(key, map, flags)
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.maps.remove(key)
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let table = self.maps.table();
        with_key!(table, K => table.next_key::<K>(key, next))
    }

    fn batch_style(&self) -> BatchStyle {
        BatchStyle::Walk { delete: true }
    }

    fn batch_walk(&self, walk: &mut BatchWalk<'_>) -> Result<(), Errno> {
        let table = self.maps.table();
        if u64::from(walk.token) >= table.bucket_count() * WALK_STEPS {
            return Err(Errno::ENOENT);
        }
        let mut found = Vec::with_capacity(PLACES);
        let mut key = vec![0; table.key_bytes];
        while let Some(next) = table.walk_step(u64::from(walk.token), &mut found) {
            if found.len() > walk.room {
                return if walk.items.is_empty() {
                    Err(Errno::ENOSPC)
                } else {
                    Ok(())
                };
            }
            for idx in &found {
                table.copy_key(*idx, &mut key);
                let mut value = vec![0; 4];
                if self.sys_lookup(&key, &mut value, 0).is_ok() {
                    if walk.delete {
                        self.sys_delete(&key, &crate::fd::NoFds)?;
                    }
                    walk.items.push(BatchItem {
                        key: key.clone(),
                        value,
                    });
                    walk.room -= 1;
                }
            }
            walk.token = u32::try_from(next).unwrap_or(u32::MAX);
        }
        Err(Errno::ENOENT)
    }

    fn mem_usage(&self) -> u64 {
        self.maps.table().bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
