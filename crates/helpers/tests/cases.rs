//! Success, bounds and errors of helpers that no recorded program calls.

use std::sync::Arc;

use ring3_helpers::packet::{NetDevice, Skb, Sock, SockSpec};
use ring3_helpers::{PerfCounter, PerfValue, Permissions, find, find_for, set_permissions};
use ring3_maps::fd::{FdTable, Object};
use ring3_maps::{Access, Map, MapAttr, MapType, PerfEventArray};
use ring3_runtime::{RunContext, Task, current_task, with_run_context};
use ring3_sync::rcu;
use ring3_uapi::{Errno, FuncId, ProgType};

struct Fds;

impl FdTable for Fds {
    fn cgroup(&self, fd: u32) -> Result<(u64, Object), Errno> {
        Ok((u64::from(fd), Arc::new(())))
    }

    fn net_device(&self, ifindex: u32) -> Result<Object, Errno> {
        match ifindex {
            7 => Ok(Arc::new(())),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn call(id: FuncId, args: [u64; 5]) -> i64 {
    let code = find(id).unwrap();
    let [a, b, c, d, e] = args;
    let _section = rcu::read();
    // SAFETY: the callers below give what the prototypes ask for.
    unsafe { code(a, b, c, d, e) as i64 }
}

fn map(map_type: MapType, key: u32, value: u32, entries: u32) -> Arc<Map> {
    Map::create(&MapAttr::new(map_type, key, value, entries)).unwrap()
}

fn put(map: &Map, key: u32, value: u32) {
    let (key, value) = (key.to_ne_bytes(), value.to_ne_bytes());
    map.sys_update(Access::ReadWrite, &key, &value, 0, &Fds)
        .unwrap();
}

fn packet() -> Box<Skb> {
    let mut frame = [0u8; 64];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    Skb::received(&frame, &NetDevice::new(1, "lo", 1500)).unwrap()
}

#[test]
fn the_current_task_is_the_modelled_one() {
    let context = RunContext {
        task: Some(Task {
            uid: 3,
            gid: 4,
            cgroup_id: 55,
            ..current_task()
        }),
        ..RunContext::default()
    };
    with_run_context(&context, || {
        assert_eq!(call(FuncId::GetCurrentUidGid, [0; 5]), 4 << 32 | 3);
        assert_eq!(call(FuncId::GetCurrentCgroupId, [0; 5]), 55);
    });
}

#[test]
fn counters_are_read_from_their_slots() {
    let map = map(MapType::PerfEventArray, 4, 4, 2);
    let counter = PerfCounter::new(Box::new(|| PerfValue {
        counter: 42,
        ..PerfValue::default()
    }));
    let events = map.downcast::<PerfEventArray>().unwrap();
    events.set(0, Arc::new(counter)).unwrap();
    let read = |flags| call(FuncId::PerfEventRead, [map.program_ptr(), flags, 0, 0, 0]);
    assert_eq!(read(0), 42);
    assert_eq!(read(1), Errno::ENOENT.negated());
    assert_eq!(read(2), Errno::E2BIG.negated());
    assert_eq!(read(1 << 32), Errno::EINVAL.negated());
}

#[test]
fn packets_know_the_cgroups_of_their_socket() {
    let groups = map(MapType::CgroupArray, 4, 4, 3);
    put(&groups, 0, 20);
    put(&groups, 1, 21);
    let mut skb = packet();
    let under = |skb: &mut Skb, slot| {
        call(
            FuncId::SkbUnderCgroup,
            [skb.program_ptr(), groups.program_ptr(), slot, 0, 0],
        )
    };
    let ancestor = |skb: &mut Skb, level| {
        call(
            FuncId::SkbAncestorCgroupId,
            [skb.program_ptr(), level, 0, 0, 0],
        )
    };
    assert_eq!(
        call(FuncId::SkbCgroupId, [skb.program_ptr(), 0, 0, 0, 0]),
        0
    );
    assert_eq!((under(&mut skb, 0), ancestor(&mut skb, 0)), (0, 0));
    let spec = SockSpec {
        cgroups: vec![1, 20],
        ..SockSpec::default()
    };
    skb.set_socket(Some(Sock::new(spec)));
    assert_eq!(
        call(FuncId::SkbCgroupId, [skb.program_ptr(), 0, 0, 0, 0]),
        20
    );
    let levels = [0, 1, 2, u64::MAX].map(|level| ancestor(&mut skb, level));
    assert_eq!(levels, [1, 20, 0, 0]);
    let slots = [0, 1, 2, 3].map(|slot| under(&mut skb, slot));
    assert_eq!(
        slots,
        [1, 0, Errno::EAGAIN.negated(), Errno::E2BIG.negated()]
    );
}

#[test]
fn a_packets_hash_is_kept_until_it_is_set() {
    let mut skb = packet();
    let hash = call(FuncId::GetHashRecalc, [skb.program_ptr(), 0, 0, 0, 0]);
    assert_eq!(
        call(FuncId::GetHashRecalc, [skb.program_ptr(), 0, 0, 0, 0]),
        hash
    );
    assert_eq!(call(FuncId::SetHash, [skb.program_ptr(), 5, 0, 0, 0]), 0);
    assert_eq!(
        call(FuncId::GetHashRecalc, [skb.program_ptr(), 0, 0, 0, 0]),
        5
    );
}

#[test]
fn redirects_through_a_map_need_a_device_in_it() {
    const XDP_REDIRECT: i64 = 4;
    let devices = map(MapType::Devmap, 4, 4, 2);
    put(&devices, 0, 7);
    let code = find_for(ProgType::Xdp, None, FuncId::RedirectMap).unwrap();
    let redirect = |slot, flags| {
        let _section = rcu::read();
        // SAFETY: the map lives.
        unsafe { code(devices.program_ptr(), slot, flags, 0, 0) as i64 }
    };
    assert_eq!(redirect(0, 0), XDP_REDIRECT);
    assert_eq!([redirect(1, 2), redirect(9, 1), redirect(1, 0)], [2, 1, 0]);
    assert_eq!(redirect(0, 1 << 40), 0);
}

#[test]
fn storage_of_an_attachment_is_there_without_one_too() {
    let storage = map(MapType::CgroupStorageDeprecated, 8, 8, 0);
    let get = || call(FuncId::GetLocalStorage, [storage.program_ptr(), 0, 0, 0, 0]);
    let value = get();
    assert_ne!(value, 0);
    assert_eq!(get(), value);
}

#[test]
fn threads_are_signalled_where_the_host_permits_it() {
    let signal = |number| call(FuncId::SendSignalThread, [number, 0, 0, 0, 0]);
    assert_eq!(signal(0), Errno::EPERM.negated());
    assert_eq!(signal(65), Errno::EINVAL.negated());
    set_permissions(Permissions {
        signals: true,
        user_writes: false,
    });
    assert_eq!(signal(0), 0);
    set_permissions(Permissions::default());
}
