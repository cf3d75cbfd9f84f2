//! Maps as text: every element, by BTF where the map has it, else in hex; as `bpftool map dump` shows them.

use ring3::{
    MapObject,
    btf::ValueText,
    maps::Access,
    uapi::{Errno, MapType},
};

/// Elements of one map that are shown.
const ELEMENTS_MAX: usize = 64;

/// Prints a map's elements under a heading. Arrays show only elements that are not all zero.
pub(crate) fn print_map(name: &str, map: &MapObject) {
    let attr = map.map().attr();
    println!(
        "{}: {name}  key {}B  value {}B  max_entries {}",
        attr.map_type, attr.key_size, attr.value_size, attr.max_entries
    );
    match elements(map) {
        Ok(elements) => {
            for (key, value) in elements.iter().take(ELEMENTS_MAX) {
                println!(
                    "    key: {}  value: {}",
                    show(map, attr.btf_key_type_id, key),
                    show_value(map, value)
                );
            }
            match elements.len() {
                0 => println!("    (empty)"),
                shown if shown > ELEMENTS_MAX => println!("    ... {} more", shown - ELEMENTS_MAX),
                _ => {}
            }
        }
        Err(errno) => println!("    (elements cannot be read: {errno})"),
    }
}

/// Key and value bytes.
type Element = (Vec<u8>, Vec<u8>);

fn elements(map: &MapObject) -> Result<Vec<Element>, Errno> {
    let map = map.map();
    let attr = map.attr();
    let is_array = matches!(attr.map_type, MapType::Array | MapType::PercpuArray);
    let mut elements = Vec::new();
    let mut key: Option<Vec<u8>> = None;
    loop {
        let mut next = vec![0; attr.key_size as usize];
        match map.sys_next_key(Access::ReadOnly, key.as_deref(), &mut next) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(elements),
            Err(errno) => return Err(errno),
        }
        let mut value = vec![0; map.sys_value_bytes()];
        match map.sys_lookup(Access::ReadOnly, &next, &mut value, 0) {
            Ok(()) if is_array && value.iter().all(|&byte| byte == 0) => {}
            Ok(()) => elements.push((next.clone(), value)),
            // A slot of a prog array without a program, or an element that was deleted meanwhile.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        key = Some(next);
    }
}

/// Per-CPU values as a list, one entry per CPU.
fn show_value(map: &MapObject, value: &[u8]) -> String {
    let attr = map.map().attr();
    let is_percpu = matches!(
        attr.map_type,
        MapType::PercpuArray
            | MapType::PercpuHash
            | MapType::LruPercpuHash
            | MapType::PercpuCgroupStorageDeprecated
    );
    if !is_percpu {
        return show(map, attr.btf_value_type_id, value);
    }
    let stride = (attr.value_size as usize).next_multiple_of(8);
    let size = attr.value_size as usize;
    let per_cpu: Vec<String> = value
        .chunks_exact(stride)
        .map(|copy| show(map, attr.btf_value_type_id, &copy[..size]))
        .collect();
    format!("[{}]", per_cpu.join(", "))
}

fn show(map: &MapObject, type_id: u32, bytes: &[u8]) -> String {
    match map.btf() {
        Some(btf) if type_id != 0 => {
            ValueText::new(btf, ring3::btf::TypeId(type_id), bytes).to_string()
        }
        _ => bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}
