//! `memlock` in a map's fdinfo: memory as Linux 6.18 counts it, on x86-64.

use ring3_maps::{Access, Map};
use ring3_uapi::{MapType, flags::map_create};

const PAGE_BYTES: u64 = 4096;
/// Header of a hash table's element, and of a trie's node.
const HASH_ELEM_BYTES: u64 = 48;
const TRIE_NODE_BYTES: u64 = 24;
/// Link of an element that is allocated when it is needed.
const LIST_NODE_BYTES: u64 = 8;
/// Elements that are counted by walking over them; a client cannot make a call longer than this.
const COUNTED_MAX: u64 = 1 << 20;

/// Bytes of a map on a machine with `cpus` CPUs; 0 for types that say nothing.
///
/// # Source
/// Fitted to what Linux 6.18.44 showed in `/proc/self/fdinfo` for 189 maps (2 CPUs).
pub(crate) fn memlock(map: &Map, cpus: u64) -> u64 {
    let round_up_8 = |bytes: u64| bytes.next_multiple_of(8);
    let (key, value) = (u64::from(map.key_size()), u64::from(map.value_size()));
    let (key_8, value_8) = (round_up_8(key), round_up_8(value));
    let entries = u64::from(map.max_entries());
    let buckets = entries.next_power_of_two();
    let is_prealloc = map.map_flags() & map_create::NO_PREALLOC == 0;
    let hash = |elem: u64, spare: u64, pointers: u64| {
        let base = 896 + 16 * buckets;
        if is_prealloc {
            base + elem * (entries + spare) + pointers
        } else {
            base + (elem + LIST_NODE_BYTES) * count(map)
        }
    };
    let plain = HASH_ELEM_BYTES + key_8 + value_8;
    let per_cpu = HASH_ELEM_BYTES + key_8 + 8 + value_8 * cpus;
    match map.map_type() {
        MapType::Hash => hash(plain, cpus, 8 * cpus),
        MapType::LruHash => hash(plain, 0, 0),
        MapType::PercpuHash | MapType::LruPercpuHash => hash(per_cpu, 0, 0),
        MapType::HashOfMaps => hash(HASH_ELEM_BYTES + key_8 + 8, 0, 8 * cpus),
        MapType::Array if map.map_flags() & map_create::MMAPABLE != 0 => {
            PAGE_BYTES + (entries * value_8).next_multiple_of(PAGE_BYTES)
        }
        MapType::Array => 312 + entries * value_8,
        MapType::PercpuArray => 312 + entries * (8 + value_8 * cpus),
        MapType::Queue | MapType::Stack => 312 + (entries + 1) * value,
        MapType::Ringbuf | MapType::UserRingbuf => {
            let pages = entries / PAGE_BYTES;
            304 + 3 * PAGE_BYTES + entries + 8 * (3 + 2 * pages)
        }
        MapType::LpmTrie => (TRIE_NODE_BYTES + key - 4 + value) * count(map),
        MapType::BloomFilter => {
            let hashes = match map.attr().map_extra & 0xf {
                0 => 5,
                hashes => hashes,
            };
            let bits = (entries * hashes * 7 / 5).max(1).next_power_of_two();
            312 + (bits / 8).max(8)
        }
        MapType::ProgArray
        | MapType::PerfEventArray
        | MapType::CgroupArray
        | MapType::ArrayOfMaps => 312 + 8 * entries,
        MapType::ReuseportSockarray => 296 + 8 * entries,
        MapType::Devmap => 344 + 8 * entries,
        MapType::DevmapHash => 344 + 8 * buckets,
        MapType::Cpumap | MapType::Xskmap => 304 + 8 * entries,
        MapType::Sockmap => 376 + 8 * entries,
        MapType::Sockhash => 384 + 16 * buckets,
        MapType::StackTrace => 320 + 8 * buckets + entries * (value + 16),
        _ => map.mem_usage(),
    }
}

/// Elements of a map.
fn count(map: &Map) -> u64 {
    let mut key: Option<Vec<u8>> = None;
    let mut next = vec![0; map.key_size() as usize];
    let mut count = 0;
    while count < COUNTED_MAX
        && map
            .sys_next_key(Access::ReadWrite, key.as_deref(), &mut next)
            .is_ok()
    {
        count += 1;
        key = Some(next.clone());
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_maps::MapAttr;

    /// `TYPE KEY VALUE ENTRIES FLAGS MEMLOCK` per line.
    const RECORDED: &str = include_str!("../../../fixtures/oracle/memlock.txt");

    #[test]
    fn every_recorded_map_is_counted_as_the_kernel_did() {
        let (mut rows, mut wrong) = (0, Vec::new());
        for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, numbers @ ..] = &words[..] else {
                continue;
            };
            let numbers: Vec<u32> = numbers.iter().map(|word| word.parse().unwrap()).collect();
            let &[key, value, entries, flags, memlock_bytes] = &numbers[..] else {
                panic!("'{line}'");
            };
            let map_type = MapType::ALL.iter().find(|known| known.name() == *name);
            let mut attr = MapAttr::new(*map_type.unwrap(), key, value, entries).with_flags(flags);
            if name.ends_with("_of_maps") {
                attr.inner = Some(Map::create(&MapAttr::new(MapType::Array, 4, 4, 2)).unwrap());
            }
            let ours = memlock(&Map::create(&attr).unwrap(), 2);
            rows += 1;
            if ours != u64::from(memlock_bytes) {
                wrong.push(format!("{line}: {ours}"));
            }
        }
        assert!(rows > 150, "{rows} rows");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn elements_that_are_allocated_when_needed_are_counted() {
        let attr = MapAttr::new(MapType::LpmTrie, 8, 4, 9).with_flags(map_create::NO_PREALLOC);
        let map = Map::create(&attr).unwrap();
        for prefix in [8u32, 24] {
            let key: Vec<u8> = prefix
                .to_ne_bytes()
                .into_iter()
                .chain([10, 1, 2, 0])
                .collect();
            map.sys_update(Access::ReadWrite, &key, &[0; 4], 0, &ring3_maps::fd::NoFds)
                .unwrap();
        }
        // As the kernel showed for the same two prefixes.
        assert_eq!(memlock(&map, 2), 64);
    }
}
