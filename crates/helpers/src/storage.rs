//! Local storage of tasks, sockets, cgroups and inodes. The owner of a value is a number that its modelled object holds: a task's pid, a cgroup's id, an
//! inode's number, and for sockets one that no other ever has.

use ring3_maps::{LocalStorage, Map, local_storage::GET_F_CREATE};
use ring3_uapi::Errno;

use crate::bind::implement;
use crate::file_object;
use crate::packet::Sock;
use crate::task_object;

/// The owner's value; null without an owner, for unknown flags, or where there is no value and none is to be made.
///
/// # Safety
/// `initial` is null or of the map's value size, and the caller is in a read section for as long as it uses the result.
unsafe fn get(map: &Map, owner: Option<u64>, initial: *const u8, flags: u64) -> *mut u8 {
    match (map.downcast::<LocalStorage>(), owner) {
        (Some(storage), Some(owner)) if flags & !GET_F_CREATE == 0 => {
            // SAFETY: 1. the caller's promise.
            unsafe { storage.get(owner, initial, flags) }
        }
        _ => std::ptr::null_mut(),
    }
}

/// # Errors
/// EINVAL: no owner. ENOENT: it has no value.
fn delete(map: &Map, owner: Option<u64>) -> Result<(), Errno> {
    match (map.downcast::<LocalStorage>(), owner) {
        (Some(storage), Some(owner)) => storage.remove(owner),
        _ => Err(Errno::EINVAL),
    }
}

/// # Safety
/// 0 or a task object.
unsafe fn task_owner(task: u64) -> Option<u64> {
    // SAFETY: 1. the caller's promise.
    (task != 0).then(|| unsafe { task_object::pid_of(task) })
}

/// Only full sockets own values.
fn sock_owner(sock: Option<&Sock>) -> Option<u64> {
    sock.filter(|sock| sock.is_full()).map(Sock::storage_owner)
}

implement! { ROWS:
    TaskStorageGet(map: &Map, task: u64, value: *const u8, flags: u64) {
        // SAFETY: 1. PTR_TO_BTF_ID task_struct: one of our objects; 2. `value` is null or of the map's value size; 3. the program's run is a
        // read section.
        unsafe { get(map, task_owner(task), value, flags) }
    }
    TaskStorageDelete(map: &Map, task: u64) {
        // SAFETY: 1. PTR_TO_BTF_ID task_struct: one of our objects.
        delete(map, unsafe { task_owner(task) })
    }
    SkStorageGet(map: &Map, sock: Option<&Sock>, value: *const u8, flags: u64) {
        // SAFETY: 1. `value` is null or of the map's value size; 2. the program's run is a read section.
        unsafe { get(map, sock_owner(sock), value, flags) }
    }
    SkStorageDelete(map: &Map, sock: Option<&Sock>) { delete(map, sock_owner(sock)) }
    CgrpStorageGet(map: &Map, cgroup: u64, value: *const u8, flags: u64) {
        // SAFETY: 1. PTR_TO_BTF_ID cgroup: one of our objects; 2. and 3. as for tasks.
        unsafe { get(map, task_object::cgroup_id_of(cgroup), value, flags) }
    }
    CgrpStorageDelete(map: &Map, cgroup: u64) {
        // SAFETY: 1. PTR_TO_BTF_ID cgroup: one of our objects.
        delete(map, unsafe { task_object::cgroup_id_of(cgroup) })
    }
    InodeStorageGet(map: &Map, inode: u64, value: *const u8, flags: u64) {
        // SAFETY: 1. PTR_TO_BTF_ID inode: one of our objects; 2. and 3. as for tasks.
        unsafe { get(map, file_object::inode_number(inode), value, flags) }
    }
    InodeStorageDelete(map: &Map, inode: u64) {
        // SAFETY: 1. PTR_TO_BTF_ID inode: one of our objects.
        delete(map, unsafe { file_object::inode_number(inode) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::file_object::FileObject;
    use crate::packet::{SockSpec, sock_state};
    use ring3_maps::{MapAttr, MapType};
    use ring3_uapi::{FuncId, flags::map_create};

    fn storage_map(map_type: MapType) -> Arc<Map> {
        let mut attr = MapAttr::new(map_type, 4, 8, 0);
        attr.map_flags = map_create::NO_PREALLOC;
        attr.btf_key_type_id = 1;
        attr.btf_value_type_id = 1;
        Map::create(&attr).unwrap()
    }

    /// A value lives from its creation to its deletion, and is nobody else's.
    fn check(map_type: MapType, [get, delete]: [FuncId; 2], [owner, other]: [u64; 2]) {
        let map = storage_map(map_type);
        let [get, delete] = [get, delete].map(|id| crate::find(id).unwrap());
        let initial = 42u64;
        let initial_ptr = (&raw const initial).expose_provenance() as u64;
        let map_ptr = map.program_ptr();
        let _section = ring3_sync::rcu::read();
        // SAFETY: map, owners and initial value live; the section is active.
        unsafe {
            assert_eq!(get(map_ptr, owner, 0, 0, 0), 0);
            assert_eq!(get(map_ptr, 0, 0, GET_F_CREATE, 0), 0);
            assert_eq!(get(map_ptr, owner, 0, 2, 0), 0);
            let value = get(map_ptr, owner, initial_ptr, GET_F_CREATE, 0);
            let word = std::ptr::with_exposed_provenance_mut::<u64>(value as usize);
            assert_eq!(*word, 42, "{map_type}");
            *word = 43;
            assert_eq!(get(map_ptr, owner, 0, 0, 0), value);
            assert_eq!(get(map_ptr, other, 0, 0, 0), 0);
            let zeroed = get(map_ptr, other, 0, GET_F_CREATE, 0);
            assert_eq!(
                *std::ptr::with_exposed_provenance::<u64>(zeroed as usize),
                0
            );
            assert_eq!(delete(map_ptr, owner, 0, 0, 0), 0);
            assert_eq!(
                delete(map_ptr, owner, 0, 0, 0) as i64,
                Errno::ENOENT.negated()
            );
            assert_eq!(delete(map_ptr, 0, 0, 0, 0) as i64, Errno::EINVAL.negated());
        }
    }

    #[test]
    fn every_kind_of_owner_has_its_value() {
        let task = task_object::current();
        let root = task_object::current_cgroup();
        let (stranger, group) = std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                let modelled = ring3_runtime::RunContext {
                    task: Some(ring3_runtime::Task {
                        pid: 0x7fff_fff0,
                        cgroup_id: 77,
                        ..ring3_runtime::current_task()
                    }),
                    ..ring3_runtime::RunContext::default()
                };
                ring3_runtime::with_run_context(&modelled, || {
                    let pair = (task_object::current(), task_object::current_cgroup());
                    sender.send(pair).unwrap();
                    // The objects are this thread's: it waits until they are done with.
                    wait.recv().unwrap();
                });
            });
            let (stranger, group) = receiver.recv().unwrap();
            check(
                MapType::TaskStorage,
                [FuncId::TaskStorageGet, FuncId::TaskStorageDelete],
                [task, stranger],
            );
            check(
                MapType::CgrpStorage,
                [FuncId::CgrpStorageGet, FuncId::CgrpStorageDelete],
                [root, group],
            );
            done.send(()).unwrap();
            (stranger, group)
        });
        assert!(stranger != task && group != root);
        let socks = [(); 2].map(|()| Sock::new(SockSpec::default()));
        check(
            MapType::SkStorage,
            [FuncId::SkStorageGet, FuncId::SkStorageDelete],
            [socks[0].program_ptr(), socks[1].program_ptr()],
        );
        let files = [("/a", 5), ("/b", 6)].map(|(path, number)| FileObject::new(path, number));
        check(
            MapType::InodeStorage,
            [FuncId::InodeStorageGet, FuncId::InodeStorageDelete],
            [files[0].inode_ptr(), files[1].inode_ptr()],
        );
    }

    #[test]
    fn values_go_with_their_socket_and_requests_have_none() {
        let map = storage_map(MapType::SkStorage);
        let get = crate::find(FuncId::SkStorageGet).unwrap();
        let sock = Sock::new(SockSpec::default());
        let request = Sock::new(SockSpec {
            state: sock_state::NEW_SYN_RECV,
            ..SockSpec::default()
        });
        let owner = sock.storage_owner();
        {
            let _section = ring3_sync::rcu::read();
            // SAFETY: map and sockets live; the section is active.
            unsafe {
                assert_ne!(
                    get(map.program_ptr(), sock.program_ptr(), 0, GET_F_CREATE, 0),
                    0
                );
                assert_eq!(
                    get(map.program_ptr(), request.program_ptr(), 0, GET_F_CREATE, 0),
                    0
                );
            }
        }
        drop(sock);
        let storage = map.downcast::<LocalStorage>().unwrap();
        assert_eq!(storage.remove(owner), Err(Errno::ENOENT));
    }
}
