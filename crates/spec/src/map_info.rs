//! `MapInfo`: what the verifier must know of a map.

use alloc::{string::String, sync::Arc};

use ring3_btf::{Btf, Record, TypeId};
use ring3_uapi::MapType;
use ring3_uapi::flags::map_create;

/// A map as the verifier sees it.
#[derive(Clone, Debug)]
pub struct MapInfo {
    /// Id of the map object, for `map[id:N]` in dumps and for telling maps apart.
    pub id: u32,
    /// Map type.
    pub map_type: MapType,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `map_flags`, see [`ring3_uapi::flags::map_create`].
    pub map_flags: u32,
    /// `map_extra`.
    pub map_extra: u64,
    /// Whether the syscall side is frozen.
    pub frozen: bool,
    /// The value of a frozen, program-read-only array, from which constant loads are folded.
    pub contents: Option<Arc<[u8]>>,
    /// BTF of key and value.
    pub btf: Option<Btf>,
    /// Type of the key, 0 if none.
    pub key_type_id: TypeId,
    /// Type of the value, 0 if none.
    pub value_type_id: TypeId,
    /// Special fields of the value (spin lock, timer, kptr, ...).
    pub record: Option<Arc<Record>>,
    /// Template of the inner map, for maps of maps.
    pub inner: Option<Arc<MapInfo>>,
}

impl MapInfo {
    /// `map_flags` as programs meet them: values of device maps are read-only to them, whatever the creator said.
    pub fn program_flags(&self) -> u32 {
        match self.map_type {
            MapType::Devmap | MapType::DevmapHash => self.map_flags | map_create::RDONLY_PROG,
            _ => self.map_flags,
        }
    }
}
