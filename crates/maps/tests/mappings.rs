//! Memory of maps that others see: arrays, ring buffers, arenas; what excludes what, and how long it lives.

use std::fs::File;
use std::sync::Arc;

use ring3_maps::MappingAccess::{Read, Write};
use ring3_maps::fd::NoFds;
use ring3_maps::{Access, Arena, Errno, Map, MapAttr, MapType, Mapping, MappingAccess, RingBuf};
use ring3_os::cpu::page_bytes;
use ring3_os::map::{Prot, Region};
use ring3_uapi::flags::map_create;

fn array() -> Arc<Map> {
    let attr = MapAttr::new(MapType::Array, 4, 8, 4).with_flags(map_create::MMAPABLE);
    Map::create(&attr).unwrap()
}

fn mmap(
    map: &Arc<Map>,
    pages: std::ops::Range<usize>,
    mode: MappingAccess,
) -> Result<Mapping, Errno> {
    let page = page_bytes();
    map.mmap(
        Access::ReadWrite,
        pages.start * page,
        pages.len() * page,
        mode,
    )
}

fn update(map: &Map, key: u32, value: u64) -> Result<(), Errno> {
    map.sys_update(
        Access::ReadWrite,
        &key.to_ne_bytes(),
        &value.to_ne_bytes(),
        0,
        &NoFds,
    )
}

fn lookup(map: &Map, key: u32) -> u64 {
    let mut value = [0; 8];
    map.sys_lookup(Access::ReadWrite, &key.to_ne_bytes(), &mut value, 0)
        .unwrap();
    u64::from_ne_bytes(value)
}

#[test]
fn freezing_waits_for_the_last_writable_mapping() {
    let map = array();
    let (first, second) = (
        mmap(&map, 0..1, Write).unwrap(),
        mmap(&map, 0..1, Write).unwrap(),
    );
    let reader = mmap(&map, 0..1, Read).unwrap();
    assert_eq!(map.sys_freeze(Access::ReadWrite), Err(Errno::EBUSY));
    drop(first);
    assert_eq!(map.sys_freeze(Access::ReadWrite), Err(Errno::EBUSY));
    drop(second);
    // Whoever only reads is not in the way.
    assert_eq!(map.sys_freeze(Access::ReadWrite), Ok(()));
    assert_eq!(mmap(&map, 0..1, Write).unwrap_err(), Errno::EPERM);
    assert!(mmap(&map, 0..1, Read).is_ok());
    assert_eq!(update(&map, 0, 1), Err(Errno::EPERM));
    drop(reader);
}

#[test]
fn a_system_call_that_writes_keeps_a_map_from_freezing() {
    let map = array();
    let writing = map.begin_write();
    assert_eq!(map.sys_freeze(Access::ReadWrite), Err(Errno::EBUSY));
    drop(writing);
    assert_eq!(map.sys_freeze(Access::ReadWrite), Ok(()));
}

#[test]
fn a_mapping_shows_the_map_and_keeps_its_memory() {
    let map = array();
    let mapping = mmap(&map, 0..1, Write).unwrap();
    let words = mapping.as_ptr().cast::<u64>();
    update(&map, 2, 77).unwrap();
    // SAFETY: a page is mapped.
    unsafe {
        assert_eq!(words.add(2).read_volatile(), 77);
        words.add(3).write_volatile(88);
    }
    assert_eq!(lookup(&map, 3), 88);
    let weak = Arc::downgrade(&map);
    drop(map);
    // SAFETY: as above.
    unsafe { words.add(1).write_volatile(99) };
    let map = weak.upgrade().expect("the mapping keeps the map");
    assert_eq!(
        (lookup(&map, 1), lookup(&map, 2), lookup(&map, 3)),
        (99, 77, 88)
    );
    drop((mapping, map));
    assert!(weak.upgrade().is_none());
}

#[test]
fn memory_outlives_the_map_in_those_who_map_its_descriptor() {
    let map = array();
    update(&map, 1, 5).unwrap();
    let fd = map.mmap_source().unwrap().memfd.try_clone_fd().unwrap();
    let region =
        Region::shared(std::os::fd::AsFd::as_fd(&fd), 0, page_bytes(), Prot::Read).unwrap();
    drop((map, fd));
    // SAFETY: a page is mapped.
    unsafe { assert_eq!(region.as_ptr().cast::<u64>().add(1).read_volatile(), 5) };
}

#[test]
fn clients_cannot_change_the_size_of_the_memory() {
    let arena = MapAttr::new(MapType::Arena, 0, 0, 10).with_flags(map_create::MMAPABLE);
    let ring = |map_type| MapAttr::new(map_type, 0, 0, 4096);
    for map in [
        array(),
        Map::create(&arena).unwrap(),
        Map::create(&ring(MapType::Ringbuf)).unwrap(),
        Map::create(&ring(MapType::UserRingbuf)).unwrap(),
    ] {
        let memfd = map.mmap_source().unwrap().memfd;
        let file = File::from(memfd.try_clone_fd().unwrap());
        let before = file.metadata().unwrap().len();
        for len in [0, before / 2, before + 4096] {
            let refused = file.set_len(len).unwrap_err();
            assert_eq!(
                refused.raw_os_error(),
                Some(Errno::EPERM.raw()),
                "{:?}",
                map.map_type()
            );
        }
        // Nor may they seal it, which would stop the map itself from writing.
        let sealed = memfd.seal_writes();
        assert!(
            matches!(sealed, Err(Errno::EPERM | Errno::EBUSY)),
            "{sealed:?}"
        );
        assert_eq!(file.metadata().unwrap().len(), before);
    }
}

#[test]
fn a_ring_is_written_where_its_producer_is_and_nowhere_else() {
    // Pages: consumer, producer, data, data again.
    let ring = |map_type| Map::create(&MapAttr::new(map_type, 0, 0, 4096)).unwrap();
    let kernel = ring(MapType::Ringbuf);
    assert!(mmap(&kernel, 0..1, Write).is_ok());
    for pages in [0..2, 1..2, 1..4, 2..3] {
        assert_eq!(
            mmap(&kernel, pages.clone(), Write).unwrap_err(),
            Errno::EPERM,
            "{pages:?}"
        );
        assert!(mmap(&kernel, pages, Read).is_ok());
    }
    let user = ring(MapType::UserRingbuf);
    assert_eq!(mmap(&user, 0..1, Write).unwrap_err(), Errno::EPERM);
    assert!(mmap(&user, 0..1, Read).is_ok());
    assert!(mmap(&user, 1..4, Write).is_ok());
    assert_eq!(mmap(&user, 1..5, Write).unwrap_err(), Errno::EINVAL);
}

#[test]
fn a_record_across_the_end_is_read_in_one_piece_through_a_mapping() {
    let map = Map::create(&MapAttr::new(MapType::Ringbuf, 0, 0, 4096)).unwrap();
    let ring = map.downcast::<RingBuf>().unwrap();
    let (consumer, rest) = (
        mmap(&map, 0..1, Write).unwrap(),
        mmap(&map, 1..4, Read).unwrap(),
    );
    let position = consumer.as_ptr().cast::<u64>();
    let data = rest.as_ptr().wrapping_add(page_bytes());
    let mut at = 0u64;
    for round in 0..50u8 {
        let record = [round; 1000];
        // SAFETY: the record is readable; the mappings hold the ring: consumer, then producer, data and data again.
        unsafe {
            ring.output(record.as_ptr(), 1000, 0).unwrap();
            let header = data.add((at & 4095) as usize).cast::<u32>().read_volatile();
            assert_eq!(header, 1000);
            let bytes = std::slice::from_raw_parts(data.add((at & 4095) as usize + 8), 1000);
            assert!(bytes.iter().all(|byte| *byte == round), "round {round}");
            at += 1008;
            position.write_volatile(at);
        }
    }
    assert_eq!(ring.consume(|_| panic!("the client took it")), 0);
}

#[test]
fn a_read_only_descriptor_and_plain_arrays_have_no_mappings() {
    let map = array();
    let page = page_bytes();
    assert_eq!(
        map.mmap(Access::ReadOnly, 0, page, Write).unwrap_err(),
        Errno::EACCES
    );
    assert_eq!(
        map.mmap(Access::ReadOnly, 0, page, Read).unwrap_err(),
        Errno::EINVAL
    );
    assert_eq!(
        map.mmap(Access::WriteOnly, 0, page, Read).unwrap_err(),
        Errno::EACCES
    );
    assert_eq!(
        map.mmap(Access::ReadWrite, 1, page, Read).unwrap_err(),
        Errno::EINVAL
    );
    assert_eq!(mmap(&map, 0..2, Read).unwrap_err(), Errno::EINVAL);
    let plain = Map::create(&MapAttr::new(MapType::Array, 4, 8, 4)).unwrap();
    assert_eq!(mmap(&plain, 0..1, Read).unwrap_err(), Errno::EINVAL);
    let flags = map_create::MMAPABLE | map_create::RDONLY_PROG;
    let constant = MapAttr::new(MapType::Array, 4, 8, 4).with_flags(flags);
    let constant = Map::create(&constant).unwrap();
    assert_eq!(mmap(&constant, 0..1, Write).unwrap_err(), Errno::EACCES);
}

#[test]
fn pages_of_an_arena_are_there_for_clients_as_programs_get_them() {
    let attr = MapAttr::new(MapType::Arena, 0, 0, 4).with_flags(map_create::MMAPABLE);
    let map = Map::create(&attr).unwrap();
    let arena = map.downcast::<Arena>().unwrap();
    let client = mmap(&map, 0..4, Write).unwrap();
    assert_eq!(arena.alloc_pages(None, 1), Some(0));
    // SAFETY: both are mapped.
    unsafe {
        (arena.base() as *mut u64).write_volatile(3);
        assert_eq!(client.as_ptr().cast::<u64>().read_volatile(), 3);
    }
}
