//! What a map is made of: `MapAttr`, the resolved form of the `BPF_MAP_CREATE` attributes, and its error.

use std::fmt;
use std::sync::Arc;

use ring3_uapi::flags::map_create;
use ring3_uapi::{Errno, MapType};

use crate::Map;
use crate::fields::ValueRecord;

/// The attributes of `BPF_MAP_CREATE` with file descriptors resolved.
#[derive(Clone, Debug)]
pub struct MapAttr {
    /// The type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value, of one CPU's for per-CPU types.
    pub value_size: u32,
    /// Elements, or bytes for ring buffers.
    pub max_entries: u32,
    /// `BPF_F_*` of map creation.
    pub map_flags: u32,
    /// Type-specific: hash functions of a bloom filter, address of an arena.
    pub map_extra: u64,
    /// With `BPF_F_NUMA_NODE`.
    pub numa_node: u32,
    /// What `inner_map_fd` named, for maps of maps.
    pub inner: Option<Arc<Map>>,
    /// Special fields of the value type.
    pub record: Option<Arc<ValueRecord>>,
    /// Whether `btf_value_type_id` (or `btf_vmlinux_value_type_id`) was given: some types demand it.
    pub btf_value_type_id: u32,
    /// `btf_key_type_id`.
    pub btf_key_type_id: u32,
    /// `btf_vmlinux_value_type_id`.
    pub btf_vmlinux_value_type_id: u32,
    /// The name that tools show.
    pub name: String,
}

impl MapAttr {
    /// Attributes without flags, name or BTF.
    pub fn new(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Self {
        MapAttr {
            map_type,
            key_size,
            value_size,
            max_entries,
            map_flags: 0,
            map_extra: 0,
            numa_node: 0,
            inner: None,
            record: None,
            btf_value_type_id: 0,
            btf_key_type_id: 0,
            btf_vmlinux_value_type_id: 0,
            name: String::new(),
        }
    }

    /// The same with these flags.
    pub fn with_flags(mut self, map_flags: u32) -> Self {
        self.map_flags = map_flags;
        self
    }

    /// The same with this `map_extra`.
    pub fn with_extra(mut self, map_extra: u64) -> Self {
        self.map_extra = map_extra;
        self
    }

    /// The same with this name.
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The same with an inner map template.
    pub fn with_inner(mut self, inner: Arc<Map>) -> Self {
        self.inner = Some(inner);
        self
    }

    /// The same with special value fields.
    pub fn with_record(mut self, record: Arc<ValueRecord>) -> Self {
        self.record = Some(record);
        self
    }

    pub(crate) fn has_flag(&self, flag: u32) -> bool {
        self.map_flags & flag != 0
    }

    /// `EINVAL` with a flag outside of `allowed`.
    pub(crate) fn check_flags(&self, allowed: u32) -> Result<(), MapError> {
        match self.map_flags & !allowed {
            0 => Ok(()),
            _ => Err(self.error(
                Errno::EINVAL,
                format_args!("map_flags {:#x}, allowed {allowed:#x}", self.map_flags),
            )),
        }
    }

    /// `EINVAL` when programs may neither read nor write.
    pub(crate) fn check_prog_access(&self) -> Result<(), MapError> {
        if self.has_flag(map_create::RDONLY_PROG) && self.has_flag(map_create::WRONLY_PROG) {
            return Err(self.error(
                Errno::EINVAL,
                format_args!("both BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG"),
            ));
        }
        Ok(())
    }

    /// `EINVAL` unless `ok`; names the attribute and its value.
    pub(crate) fn require(
        &self,
        ok: bool,
        attribute: &str,
        value: impl fmt::Display,
    ) -> Result<(), MapError> {
        self.require_or(ok, Errno::EINVAL, attribute, value)
    }

    /// `errno` unless `ok`; names the attribute and its value.
    pub(crate) fn require_or(
        &self,
        ok: bool,
        errno: Errno,
        attribute: &str,
        value: impl fmt::Display,
    ) -> Result<(), MapError> {
        if ok {
            Ok(())
        } else {
            Err(self.error(errno, format_args!("{attribute} {value}")))
        }
    }

    pub(crate) fn error(&self, errno: Errno, what: fmt::Arguments<'_>) -> MapError {
        MapError {
            errno,
            message: format!("map '{}' ({}): {what}", self.name, self.map_type),
        }
    }
}

/// Why a map was not created or a view of it is not possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapError {
    /// What bpf(2) would leave in `errno`.
    pub errno: Errno,
    /// The object, the attribute and its value.
    pub message: String,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.errno)
    }
}

impl std::error::Error for MapError {}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Errno {
        error.errno
    }
}

impl From<Errno> for MapError {
    fn from(errno: Errno) -> MapError {
        MapError {
            errno,
            message: "map operation".to_owned(),
        }
    }
}
