//! `MapObject`: a map with its id, BTF and the description that the verifier reads.

use std::sync::{Arc, OnceLock, Weak};

use ring3_btf::{Btf, DESTRUCTIBLE_6_18, FieldMask, KernelTypes, Record, TypeId};
use ring3_maps::{Access, Map, MapAttr, fields::ValueRecord};
use ring3_spec::MapInfo;

use crate::{BtfObject, Error, System};

/// A map of a [`System`]. The last reference frees the id.
pub struct MapObject {
    id: u32,
    map: Arc<Map>,
    btf: Option<Btf>,
    record: Option<Arc<Record>>,
    inner: Option<Arc<MapInfo>>,
    btf_object: OnceLock<Arc<BtfObject>>,
    system: Weak<System>,
}

impl MapObject {
    /// Creates a map. `btf` is what the attributes' type ids refer to; `inner` is the template of a map of maps.
    ///
    /// # Errors
    /// As BPF_MAP_CREATE; EINVAL for special fields that the value type may not have.
    pub fn create(
        system: &Arc<System>,
        attr: &MapAttr,
        btf: Option<Btf>,
        inner: Option<&MapObject>,
    ) -> Result<Arc<MapObject>, Error> {
        let record = match &btf {
            Some(btf) if attr.btf_value_type_id != 0 => {
                let kernel_btf = system.kernel_btf();
                let kernel = kernel_btf.as_ref().map(|btf| KernelTypes {
                    btf,
                    destructible: DESTRUCTIBLE_6_18,
                });
                // A value type whose fields cannot be special (a number, two locks) makes a map without special fields, as in the kernel: programs
                // that need them are refused later.
                Record::parse(
                    btf,
                    TypeId(attr.btf_value_type_id),
                    FieldMask::MAP_VALUE,
                    attr.value_size,
                    kernel,
                )
                .ok()
                .flatten()
                .map(Arc::new)
            }
            _ => None,
        };
        let mut attr = attr.clone();
        let kernel = system.kernel_btf();
        attr.record = record
            .as_ref()
            .map(|record| Arc::new(value_record(record, kernel.as_ref())));
        attr.inner = inner.map(|inner| Arc::clone(&inner.map));
        let map = Map::create(&attr)?;
        let inner = inner.map(|inner| Arc::new(inner.info()));
        Ok(system.register_map(|id, system| {
            map.set_id(id);
            MapObject {
                id,
                map,
                btf,
                record,
                inner,
                btf_object: OnceLock::new(),
                system,
            }
        }))
    }

    /// Id, from 1.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The map itself.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Name, at most 15 bytes.
    pub fn name(&self) -> &str {
        &self.map.attr().name
    }

    /// BTF of key and value.
    pub fn btf(&self) -> Option<&Btf> {
        self.btf.as_ref()
    }

    /// Holds the object that its BTF came from, so that its id lives as long as the map; once only.
    pub fn hold_btf(&self, object: Arc<BtfObject>) {
        self.btf_object.get_or_init(|| object);
    }

    /// The object that its BTF came from, if it has an id.
    pub fn btf_object(&self) -> Option<&Arc<BtfObject>> {
        self.btf_object.get()
    }

    /// What the verifier may know of the map now: the value of a frozen, program-read-only array included.
    pub fn info(&self) -> MapInfo {
        let attr = self.map.attr();
        MapInfo {
            id: self.id,
            map_type: attr.map_type,
            name: attr.name.clone(),
            key_size: attr.key_size,
            value_size: attr.value_size,
            max_entries: attr.max_entries,
            map_flags: attr.map_flags,
            map_extra: attr.map_extra,
            frozen: self.map.is_frozen(),
            contents: self.constant_contents(),
            btf: self.btf.clone(),
            key_type_id: TypeId(attr.btf_key_type_id),
            value_type_id: TypeId(attr.btf_value_type_id),
            record: self.record.clone(),
            inner: self.inner.clone(),
        }
    }

    fn constant_contents(&self) -> Option<Arc<[u8]>> {
        if !self.map.is_constant() {
            return None;
        }
        let mut value = vec![0; self.map.sys_value_bytes()];
        let read = self
            .map
            .sys_lookup(Access::ReadOnly, &0u32.to_ne_bytes(), &mut value, 0);
        read.ok().map(|()| Arc::from(value))
    }
}

impl Drop for MapObject {
    fn drop(&mut self) {
        if let Some(system) = self.system.upgrade() {
            system.forget_map(self.id);
        }
    }
}

/// The map crate's view of a record: places only, no types.
fn value_record(record: &Record, kernel: Option<&Btf>) -> ValueRecord {
    use ring3_btf::FieldKind as Declared;
    use ring3_maps::fields::FieldKind;
    let kind = |kind| match kind {
        Declared::SpinLock => FieldKind::SpinLock,
        Declared::ResSpinLock => FieldKind::ResSpinLock,
        Declared::Timer => FieldKind::Timer,
        Declared::Workqueue => FieldKind::Workqueue,
        Declared::TaskWork => FieldKind::TaskWork,
        Declared::Refcount => FieldKind::Refcount,
        Declared::KptrUnref => FieldKind::KptrUnref,
        Declared::KptrRef => FieldKind::KptrRef,
        Declared::KptrPercpu => FieldKind::KptrPercpu,
        Declared::Uptr => FieldKind::Uptr,
        Declared::ListHead => FieldKind::ListHead,
        Declared::ListNode => FieldKind::ListNode,
        Declared::RbRoot => FieldKind::RbRoot,
        Declared::RbNode => FieldKind::RbNode,
    };
    let fields = record
        .fields
        .iter()
        .map(|field| ring3_maps::fields::Field {
            kind: kind(field.kind),
            offset: field.offset,
            size: field.size(),
        })
        .collect();
    let hooks = ring3_helpers::FieldHooks::new(record, kernel);
    ValueRecord::new(fields, Some(Arc::new(hooks)))
}
