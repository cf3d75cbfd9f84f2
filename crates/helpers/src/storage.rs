//! Local storage of tasks. The owner of a value is the task's pid, which its modelled object holds.

use ring3_maps::{LocalStorage, Map, local_storage::GET_F_CREATE};
use ring3_uapi::Errno;

use crate::bind::implement;
use crate::task_object;

implement! { ROWS:
    TaskStorageGet(map: &Map, task: u64, value: *const u8, flags: u64) {
        match map.downcast::<LocalStorage>() {
            Some(storage) if task != 0 && flags & !GET_F_CREATE == 0 => {
                // SAFETY: 1. PTR_TO_BTF_ID task_struct: one of our objects; 2. `value` is null or of the map's value size; 3. the program's run
                // is a read section.
                unsafe { storage.get(task_object::pid_of(task), value, flags) }
            }
            _ => std::ptr::null_mut(),
        }
    }
    TaskStorageDelete(map: &Map, task: u64) {
        match map.downcast::<LocalStorage>() {
            // SAFETY: 1. PTR_TO_BTF_ID task_struct: one of our objects.
            Some(storage) if task != 0 => storage.remove(unsafe { task_object::pid_of(task) }),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::{MapAttr, MapType};
    use ring3_uapi::{FuncId, flags::map_create};

    #[test]
    fn a_task_has_a_value_from_its_creation_to_its_deletion() {
        let mut attr = MapAttr::new(MapType::TaskStorage, 4, 8, 0);
        attr.map_flags = map_create::NO_PREALLOC;
        attr.btf_key_type_id = 1;
        attr.btf_value_type_id = 1;
        let map = Map::create(&attr).unwrap();
        let [get, delete] =
            [FuncId::TaskStorageGet, FuncId::TaskStorageDelete].map(|id| crate::find(id).unwrap());
        let task = task_object::current();
        let initial = 42u64;
        let initial_ptr = (&raw const initial).expose_provenance() as u64;
        let map_ptr = map.program_ptr();
        let _section = ring3_sync::rcu::read();
        // SAFETY: map, task object and initial value live; the section is active.
        unsafe {
            assert_eq!(get(map_ptr, task, 0, 0, 0), 0);
            assert_eq!(get(map_ptr, 0, 0, GET_F_CREATE, 0), 0);
            assert_eq!(get(map_ptr, task, 0, 2, 0), 0);
            let value = get(map_ptr, task, initial_ptr, GET_F_CREATE, 0);
            let word = std::ptr::with_exposed_provenance_mut::<u64>(value as usize);
            assert_eq!(*word, 42);
            *word = 43;
            assert_eq!(get(map_ptr, task, 0, 0, 0), value);
            assert_eq!(delete(map_ptr, task, 0, 0, 0), 0);
            assert_eq!(
                delete(map_ptr, task, 0, 0, 0) as i64,
                Errno::ENOENT.negated()
            );
            assert_eq!(delete(map_ptr, 0, 0, 0, 0) as i64, Errno::EINVAL.negated());
        }
    }
}
