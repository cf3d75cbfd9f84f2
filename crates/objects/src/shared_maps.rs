//! `SharedMaps`: maps that objects share by name, where their files say so (`LIBBPF_PIN_BY_NAME`): the first object makes the map, the others get it.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use ring3_elf::MapSpec;
use ring3_uapi::Errno;

use crate::{Error, MapObject};

/// Maps by the name they are shared by; clones are the same set.
#[derive(Clone, Default)]
pub struct SharedMaps(Arc<Mutex<BTreeMap<String, Arc<MapObject>>>>);

impl std::fmt::Debug for SharedMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}

impl SharedMaps {
    /// Names and maps, by name.
    pub fn all(&self) -> Vec<(String, Arc<MapObject>)> {
        let maps = self.0.lock();
        let copy = |(name, map): (&String, &Arc<MapObject>)| (name.clone(), Arc::clone(map));
        maps.iter().map(copy).collect()
    }

    /// The map with this name; without one, what `create` makes becomes it.
    ///
    /// # Errors
    /// EINVAL: the map with this name is of another kind or size. What `create` refuses.
    pub(crate) fn get_or_create(
        &self,
        spec: &MapSpec,
        create: impl FnOnce() -> Result<Arc<MapObject>, Error>,
    ) -> Result<Arc<MapObject>, Error> {
        let mut maps = self.0.lock();
        if let Some(known) = maps.get(&spec.name) {
            check_fits(known, spec)?;
            return Ok(Arc::clone(known));
        }
        let map = create()?;
        maps.insert(spec.name.clone(), Arc::clone(&map));
        Ok(map)
    }
}

fn check_fits(object: &MapObject, spec: &MapSpec) -> Result<(), Error> {
    let map = object.map();
    let fields = [
        ("type", map.map_type().raw(), spec.map_type),
        ("key_size", map.key_size(), spec.key_size),
        ("value_size", map.value_size(), spec.value_size),
        ("max_entries", map.max_entries(), spec.max_entries),
        ("map_flags", map.map_flags(), spec.map_flags),
    ];
    match fields.iter().find(|(_, known, wanted)| known != wanted) {
        None => Ok(()),
        Some((field, known, wanted)) => {
            let name = &spec.name;
            let message =
                format!("map '{name}': the shared one has {field} {known}, this file {wanted}");
            Err(Error::new(Errno::EINVAL, message))
        }
    }
}
