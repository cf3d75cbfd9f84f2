//! The trie against a model: prefixes in an ordered map.

use super::*;
use crate::fd::NoFds;
use crate::{Access, MapType};
use std::collections::BTreeMap;

fn matches(prefix: (u32, u128), key: u128, bits: u32) -> bool {
    prefix.0 <= bits && (prefix.0 == 0 || (prefix.1 ^ key) >> (128 - prefix.0) == 0)
}

fn run(data_bytes: usize, seed: u64) {
    let attr = MapAttr::new(MapType::LpmTrie, 4 + data_bytes as u32, 8, 60)
        .with_flags(map_create::NO_PREALLOC);
    let map = Map::create(&attr).unwrap();
    // The model: raw prefixes, by their significant bits.
    let mut model: BTreeMap<(u32, u128), u64> = BTreeMap::new();
    let mut random = seed;
    for step in 0..20_000u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Few distinct bits near the top, so that prefixes nest.
        let data = u128::from(random & 0x0f0f) << 112
            | u128::from(random >> 20 & 3) << (128 - data_bytes as u32 * 8);
        let bits = (random >> 32) as u32 % (data_bytes as u32 * 8 + 2);
        let mut key = bits.to_ne_bytes().to_vec();
        key.extend(&data.to_be_bytes()[..data_bytes]);
        let fits = bits <= data_bytes as u32 * 8;
        let masked = if bits == 0 {
            0
        } else {
            data >> (128 - bits.min(128)) << (128 - bits.min(128))
        };
        let id = (bits, masked);
        match random >> 48 & 3 {
            0 => {
                let flags = (random >> 50) % 3;
                let answer =
                    map.sys_update(Access::ReadWrite, &key, &step.to_ne_bytes(), flags, &NoFds);
                let expected = match (fits, flags, model.contains_key(&id)) {
                    (false, ..) => Err(Errno::EINVAL),
                    (_, map_elem::NOEXIST, true) => Err(Errno::EEXIST),
                    (_, map_elem::EXIST, false) => Err(Errno::ENOENT),
                    (_, _, false) if model.len() == 60 => Err(Errno::ENOSPC),
                    _ => Ok(()),
                };
                assert_eq!(answer, expected, "step {step}");
                if answer.is_ok() {
                    model.insert(id, step);
                }
            }
            1 => {
                let answer = map.sys_delete(Access::ReadWrite, &key, &NoFds);
                let expected = match fits {
                    false => Err(Errno::EINVAL),
                    true => model.remove(&id).map(drop).ok_or(Errno::ENOENT),
                };
                assert_eq!(answer, expected, "step {step}");
            }
            2 => {
                let mut value = [0; 8];
                let answer = map
                    .sys_lookup(Access::ReadWrite, &key, &mut value, 0)
                    .ok()
                    .map(|()| u64::from_ne_bytes(value));
                let expected = model
                    .iter()
                    .filter(|(prefix, _)| fits && matches(**prefix, data, bits))
                    .max_by_key(|(prefix, _)| prefix.0);
                assert_eq!(answer, expected.map(|(_, value)| *value), "step {step}");
            }
            _ if step % 40 == 0 => {
                let mut last: Option<Vec<u8>> = None;
                let mut seen = 0;
                let mut next = vec![0; key.len()];
                while map
                    .sys_next_key(Access::ReadWrite, last.as_deref(), &mut next)
                    .is_ok()
                {
                    seen += 1;
                    assert!(seen <= model.len(), "step {step}");
                    last = Some(next.clone());
                }
                assert_eq!(seen, model.len(), "step {step}");
            }
            _ => {}
        }
    }
}

#[test]
fn the_trie_follows_the_model() {
    run(4, 0x1234_5678_9abc);
    run(1, 0x7777_1234_1111);
    run(16, 0x4242_4242_4243);
    run(9, 0x9999_8888_7777);
}
