//! Memory of maps as the running kernel counts it: `memlock` of `/proc/self/fdinfo` for every row of `fixtures/oracle/memlock.txt`, which is
//! `TYPE KEY_SIZE VALUE_SIZE MAX_ENTRIES MAP_FLAGS MEMLOCK`.

use std::{
    fmt::Write as _,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use ring3_os::bpf::open;
use ring3_uapi::{Cmd, MapType};

use crate::kernel;

/// Asks for every row anew and rewrites the file; how many rows.
///
/// # Errors
/// A row that is none, or a map that the kernel refuses.
pub fn record(path: &Path) -> io::Result<usize> {
    let old = fs::read_to_string(path)?;
    let cpus = ring3_os::cpu::possible_cpus();
    let release = kernel::release()?;
    let mut text = format!(
        "# Linux {release}, {cpus} CPUs: type, key_size, value_size, max_entries, map_flags, memlock in /proc/self/fdinfo of an empty map\n"
    );
    let mut count = 0;
    for line in old.lines().filter(|line| !line.starts_with('#')) {
        let wrong = || io::Error::other(format!("{}: '{line}'", path.display()));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, key, value, entries, flags, _] = &words[..] else {
            return Err(wrong());
        };
        let map_type = MapType::ALL.iter().find(|known| known.name() == *name);
        let map_type = map_type.ok_or_else(wrong)?;
        let mut numbers = [0; 4];
        for (number, word) in numbers.iter_mut().zip([key, value, entries, flags]) {
            *number = word.parse().map_err(|_| wrong())?;
        }
        let inner = match map_type {
            MapType::ArrayOfMaps | MapType::HashOfMaps => {
                Some(create(MapType::Array, [4, 4, 2, 0], None)?)
            }
            _ => None,
        };
        let map = create(*map_type, numbers, inner.as_ref())?;
        let _ = writeln!(
            text,
            "{name} {key} {value} {entries} {flags} {}",
            memlock(&map)?
        );
        count += 1;
    }
    fs::write(path, text)?;
    Ok(count)
}

/// BPF_MAP_CREATE; key size, value size, entries and flags in this order.
fn create(map_type: MapType, numbers: [u32; 4], inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    const INNER_MAP_FD: usize = 20;
    let mut attr = [0; 92];
    let words = std::iter::once(map_type.raw()).chain(numbers);
    for (field, word) in attr.chunks_exact_mut(4).zip(words) {
        field.copy_from_slice(&word.to_ne_bytes());
    }
    if let Some(inner) = inner {
        attr[INNER_MAP_FD..INNER_MAP_FD + 4].copy_from_slice(&inner.as_raw_fd().to_ne_bytes());
    }
    open(Cmd::MapCreate.raw(), &mut attr, &mut [])
        .map_err(|errno| io::Error::other(format!("{} {numbers:?}: {errno}", map_type.name())))
}

fn memlock(map: &OwnedFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    value
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no memlock in fdinfo"))
}
