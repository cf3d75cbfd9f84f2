//! BPF_MAP_CREATE, BPF_MAP_*_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_MAP_FREEZE.
//!
//! The order of checks is what callers see: attributes, descriptor, access, flags, key, value. `ring3_maps::Map` repeats those of its own.

use ring3_btf::{Btf, Kind, TypeId};
use ring3_maps::{Access, Map, MapAttr, fields::FieldKind};
use ring3_objects::MapObject;
use ring3_uapi::{
    Errno, MapType,
    flags::{map_create, map_elem},
};

use crate::{
    GuestMemory, OpenFile, caller::MapFile, memory::Scratch, name::unchecked_name, shim::Call,
};

/// Byte offsets in the attributes of element commands.
const MAP_FD: usize = 0;
const KEY: usize = 8;
const VALUE: usize = 16;
const FLAGS: usize = 24;

/// BPF_MAP_CREATE.
pub(crate) fn create(call: &mut Call<'_>) -> Result<i64, Errno> {
    let attr = &call.attr;
    let mut flags = attr.u32(16);
    let (btf_fd, key_id, value_id, vmlinux_id) =
        (attr.fd(48), attr.u32(52), attr.u32(56), attr.u32(60));
    let map_type = MapType::from_raw(attr.u32(0));
    if vmlinux_id != 0 {
        if map_type != Some(MapType::StructOps) || key_id != 0 || value_id != 0 {
            return Err(Errno::EINVAL);
        }
    } else if key_id != 0 && value_id == 0 {
        return Err(Errno::EINVAL);
    }
    let access = Access::from_flags(flags)?;
    let map_type = map_type.ok_or(Errno::EINVAL)?;
    if flags & map_create::TOKEN_FD != 0 {
        // No command makes a token yet: nothing that is open is one.
        call.caller.file(attr.fd(76))?;
        return Err(Errno::EINVAL);
    }
    flags &= !map_create::TOKEN_FD;
    if attr.u32(44) != 0 {
        // Offload: there is no device that takes maps.
        return Err(Errno::EOPNOTSUPP);
    }
    if !call.caller.privilege().may_bpf() {
        return Err(Errno::EPERM);
    }
    if attr.u64(80) != 0 {
        // Maps for one program only (`excl_prog_hash`).
        return Err(Errno::ENOTSUPP);
    }
    if attr.u32(88) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut map = MapAttr::new(map_type, attr.u32(4), attr.u32(8), attr.u32(12))
        .with_flags(flags)
        .with_extra(attr.u64(64))
        .with_name(&unchecked_name(attr.array(28)));
    map.numa_node = attr.u32(24);
    let inner = match map_type {
        MapType::ArrayOfMaps | MapType::HashOfMaps => {
            // The shape is judged before the descriptor.
            let is_array = map_type == MapType::ArrayOfMaps;
            if map.value_size != 4 || (is_array && map.key_size != 4) {
                return Err(Errno::EINVAL);
            }
            Some(call.caller.map(attr.fd(20))?)
        }
        _ => None,
    };
    let btf = if key_id != 0 || value_id != 0 {
        let object = call.caller.btf(btf_fd)?;
        if value_id != 0 {
            check_btf(&map, object.btf(), TypeId(key_id), TypeId(value_id))?;
        }
        (map.btf_key_type_id, map.btf_value_type_id) = (key_id, value_id);
        Some(object)
    } else {
        None
    };
    map.btf_vmlinux_value_type_id = vmlinux_id;
    if is_struct_ops(&map) {
        // No type of the kernel's is one of struct_ops here.
        return Err(Errno::ENOTSUPP);
    }
    if let Some(host) = call.caller.host() {
        host.check_memory(bytes_at_once(&map))?;
    }
    let created = MapObject::create(
        call.system,
        &map,
        btf.as_ref().map(|object| object.btf().clone()),
        inner.as_ref().map(|inner| &**inner.object()),
    )
    .map_err(|error| error.errno)?;
    if let Some(btf) = btf {
        created.hold_btf(btf);
    }
    let fd = call
        .caller
        .open(OpenFile::Map(MapFile::new(created, access)))?;
    Ok(i64::from(fd))
}

/// Whether a request is one for a map of struct_ops, well put together.
fn is_struct_ops(map: &MapAttr) -> bool {
    const FLAGS: u32 = map_create::LINK | map_create::VTYPE_BTF_OBJ_FD;
    map.map_type == MapType::StructOps
        && map.key_size == 4
        && map.max_entries == 1
        && map.map_flags & !FLAGS == 0
        && map.btf_vmlinux_value_type_id != 0
}

/// Bytes that a map takes when it is made, about.
fn bytes_at_once(map: &MapAttr) -> u64 {
    let (key, value) = (u64::from(map.key_size), u64::from(map.value_size));
    let entries = u64::from(map.max_entries);
    match map.map_type {
        MapType::Ringbuf | MapType::UserRingbuf => 2 * entries,
        _ if map.map_flags & map_create::NO_PREALLOC != 0 => 0,
        MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash => {
            let cpus = ring3_os::cpu::possible_cpus() as u64;
            entries.saturating_mul(key + value.saturating_mul(cpus))
        }
        _ => entries.saturating_mul(key + value),
    }
}

/// Key and value types must have the sizes of the map; an array's key is an integer of 32 bits.
fn check_btf(map: &MapAttr, btf: &Btf, key: TypeId, value: TypeId) -> Result<(), Errno> {
    let is_array = matches!(map.map_type, MapType::Array | MapType::PercpuArray);
    if key.0 == 0 {
        let is_data = map.map_type == MapType::Array
            && map.max_entries == 1
            && btf.kind(value) == Some(Kind::Datasec);
        let is_keyless = is_data || map.key_size == 0;
        if !is_keyless {
            return Err(Errno::EINVAL);
        }
    } else {
        let is_int = btf.kind(btf.skip_mods_and_typedefs(key)) == Some(Kind::Int);
        if btf.resolve_size(key) != Some(map.key_size) || (is_array && !is_int) {
            return Err(Errno::EINVAL);
        }
    }
    if btf.resolve_size(value) != Some(map.value_size) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// EPERM unless the descriptor allows look-ups.
fn check_read(file: &MapFile) -> Result<(), Errno> {
    if file.access() == Access::WriteOnly {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// EPERM unless the descriptor allows updates and the map is not frozen.
fn check_write(file: &MapFile) -> Result<(), Errno> {
    if file.access() == Access::ReadOnly || file.object().map().is_frozen() {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// EINVAL for `BPF_F_LOCK` on a map without a lock.
fn check_lock(map: &Map, flags: u64) -> Result<(), Errno> {
    let record = map.attr().record.as_ref();
    let has_lock = record.is_some_and(|record| record.find(FieldKind::SpinLock).is_some());
    if flags & map_elem::LOCK != 0 && !has_lock {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The key at an address. Maps without keys want no address.
fn read_key<'a>(
    memory: &dyn GuestMemory,
    map: &Map,
    address: u64,
    room: &'a mut Scratch,
) -> Result<&'a [u8], Errno> {
    if map.key_size() == 0 && address != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(room.read(memory, address, map.key_size() as usize)?)
}

/// BPF_MAP_LOOKUP_ELEM.
pub(crate) fn lookup(call: &mut Call<'_>) -> Result<i64, Errno> {
    let flags = call.attr.u64(FLAGS);
    if flags & !map_elem::LOCK != 0 {
        return Err(Errno::EINVAL);
    }
    let (caller, attr, memory) = (call.caller, &call.attr, &mut *call.memory);
    caller.with_map(attr.fd(MAP_FD), |file| {
        let map = file.object().map();
        check_read(file)?;
        check_lock(map, flags)?;
        let (mut key, mut value) = (Scratch::new(), Scratch::new());
        let key = read_key(memory, map, attr.u64(KEY), &mut key)?;
        let address = attr.u64(VALUE);
        let value = if map.map_type() == MapType::BloomFilter {
            // The value is what is looked for.
            value.read(memory, address, map.sys_value_bytes())?
        } else {
            value.zeroed(map.sys_value_bytes())?
        };
        map.sys_lookup_with(file.access(), key, value, flags, caller)?;
        memory.write(address, value)?;
        Ok(0)
    })
}

/// BPF_MAP_UPDATE_ELEM.
pub(crate) fn update(call: &mut Call<'_>) -> Result<i64, Errno> {
    let (caller, attr, memory) = (call.caller, &call.attr, &*call.memory);
    let flags = attr.u64(FLAGS);
    caller.with_map(attr.fd(MAP_FD), |file| {
        let map = file.object().map();
        check_write(file)?;
        check_lock(map, flags)?;
        let (mut key, mut value) = (Scratch::new(), Scratch::new());
        let key = read_key(memory, map, attr.u64(KEY), &mut key)?;
        let value = value.read(memory, attr.u64(VALUE), map.sys_value_bytes())?;
        map.sys_update(file.access(), key, value, flags, caller)?;
        Ok(0)
    })
}

/// BPF_MAP_DELETE_ELEM.
pub(crate) fn delete(call: &mut Call<'_>) -> Result<i64, Errno> {
    let (caller, attr, memory) = (call.caller, &call.attr, &*call.memory);
    caller.with_map(attr.fd(MAP_FD), |file| {
        let map = file.object().map();
        check_write(file)?;
        let mut key = Scratch::new();
        let key = read_key(memory, map, attr.u64(KEY), &mut key)?;
        map.sys_delete(file.access(), key, caller)?;
        Ok(0)
    })
}

/// BPF_MAP_GET_NEXT_KEY.
pub(crate) fn next_key(call: &mut Call<'_>) -> Result<i64, Errno> {
    let (caller, attr, memory) = (call.caller, &call.attr, &mut *call.memory);
    caller.with_map(attr.fd(MAP_FD), |file| {
        let map = file.object().map();
        check_read(file)?;
        let (mut key, mut next) = (Scratch::new(), Scratch::new());
        let key = match attr.u64(KEY) {
            0 => None,
            address => Some(read_key(memory, map, address, &mut key)?),
        };
        let next = next.zeroed(map.key_size() as usize)?;
        map.sys_next_key(file.access(), key, next)?;
        memory.write(attr.u64(VALUE), next)?;
        Ok(0)
    })
}

/// BPF_MAP_LOOKUP_AND_DELETE_ELEM.
pub(crate) fn lookup_and_delete(call: &mut Call<'_>) -> Result<i64, Errno> {
    let flags = call.attr.u64(FLAGS);
    if flags & !map_elem::LOCK != 0 {
        return Err(Errno::EINVAL);
    }
    let (caller, attr, memory) = (call.caller, &call.attr, &mut *call.memory);
    caller.with_map(attr.fd(MAP_FD), |file| {
        let map = file.object().map();
        check_read(file)?;
        check_write(file)?;
        if flags != 0 && matches!(map.map_type(), MapType::Queue | MapType::Stack) {
            return Err(Errno::EINVAL);
        }
        check_lock(map, flags)?;
        let (mut key, mut value) = (Scratch::new(), Scratch::new());
        let key = read_key(memory, map, attr.u64(KEY), &mut key)?;
        let value = value.zeroed(map.sys_value_bytes())?;
        map.sys_lookup_and_delete(file.access(), key, value, flags)?;
        memory.write(attr.u64(VALUE), value)?;
        Ok(0)
    })
}

/// BPF_MAP_FREEZE.
pub(crate) fn freeze(call: &mut Call<'_>) -> Result<i64, Errno> {
    let file = call.caller.map(call.attr.fd(MAP_FD))?;
    let map = file.object().map();
    let is_mapped = call
        .caller
        .host()
        .is_some_and(|host| host.is_mapped_writable(map));
    let _mapping = is_mapped.then(|| map.begin_write());
    map.sys_freeze(file.access())?;
    if let Some(source) = map.mmap_source() {
        source.seal();
    }
    Ok(0)
}
