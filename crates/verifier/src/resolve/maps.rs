//! Maps in order of first use, and which program may use which map.
//!
//! Kernel counterpart: `add_used_map`, `check_map_prog_compatibility`.

use alloc::vec::Vec;

use ring3_btf::FieldKind;
use ring3_spec::{FdObject, LoadRequest, MapInfo};
use ring3_uapi::flags::prog_load;
use ring3_uapi::{MapType, ProgType, limits};

use crate::error::{Check, Violation, reject};
use crate::state::MapIdx;

/// Maps in order of first use.
pub(super) struct MapUses<'a> {
    pub(super) req: &'a LoadRequest,
    /// Of the target for an extension.
    pub(super) prog_type: ProgType,
    pub(super) used: Vec<MapIdx>,
}

impl MapUses<'_> {
    pub(super) fn add_fd(&mut self, fd: i32) -> Check<MapIdx> {
        match self.req.fds.get(&fd) {
            Some(&FdObject::Map(map)) => self.add(map),
            Some(FdObject::Btf(_) | FdObject::Other) => {
                reject!(EINVAL, "fd {fd} is not pointing to valid bpf_map")
            }
            None => reject!(EBADF, "fd {fd} is not pointing to valid bpf_map"),
        }
    }

    pub(super) fn add(&mut self, map: usize) -> Check<MapIdx> {
        let Some(info) = self.req.maps.get(map) else {
            return Err(Violation::bug("fd of a map that the request does not have"));
        };
        let idx = MapIdx(map as u32);
        if self.used.contains(&idx) {
            return Ok(idx);
        }
        if self.used.len() >= limits::USED_MAPS_MAX {
            reject!(
                E2BIG,
                "The total number of maps per program has reached the limit of {}",
                limits::USED_MAPS_MAX
            );
        }
        self.check_compatibility(info)?;
        self.used.push(idx);
        Ok(idx)
    }

    /// Whether a program of this type may use this map at all.
    fn check_compatibility(&self, map: &MapInfo) -> Check {
        let prog_type = self.prog_type;
        let is_tracing = is_tracing_prog_type(prog_type);
        let has = |kind| map.record.as_ref().is_some_and(|record| record.has(kind));
        if is_tracing && (has(FieldKind::ListHead) || has(FieldKind::RbRoot)) {
            reject!(
                EINVAL,
                "tracing progs cannot use bpf_{{list_head,rb_root}} yet"
            );
        }
        if has(FieldKind::SpinLock) || has(FieldKind::ResSpinLock) {
            if prog_type == ProgType::SocketFilter {
                reject!(EINVAL, "socket filter progs cannot use bpf_spin_lock yet");
            }
            if is_tracing {
                reject!(EINVAL, "tracing progs cannot use bpf_spin_lock yet");
            }
        }
        if is_tracing && has(FieldKind::Timer) {
            reject!(EINVAL, "tracing progs cannot use bpf_timer yet");
        }
        if is_tracing && has(FieldKind::Workqueue) {
            reject!(EINVAL, "tracing progs cannot use bpf_wq yet");
        }
        if map.map_type == MapType::StructOps {
            reject!(EINVAL, "bpf_struct_ops map cannot be used in prog");
        }
        if self.req.flags & prog_load::SLEEPABLE != 0 && !is_for_sleepable(map.map_type) {
            reject!(
                EINVAL,
                "Sleepable programs can only use array, hash, ringbuf and local storage maps"
            );
        }
        self.check_single(map)
    }

    /// Maps of which a program can have one.
    fn check_single(&self, map: &MapInfo) -> Check {
        let has_other = |is_like: &dyn Fn(&MapInfo) -> bool| {
            self.used.iter().any(|idx| {
                self.req
                    .maps
                    .get(idx.0 as usize)
                    .is_some_and(|other| is_like(other))
            })
        };
        let same_type = |other: &MapInfo| other.map_type == map.map_type;
        match map.map_type {
            MapType::CgroupStorageDeprecated | MapType::PercpuCgroupStorageDeprecated
                if has_other(&same_type) =>
            {
                reject!(EBUSY, "only one cgroup storage of each type is allowed")
            }
            MapType::Arena => {
                if has_other(&same_type) {
                    reject!(EBUSY, "Only one arena per program");
                }
                let privilege = self.req.privilege;
                if !privilege.may_bpf() || !privilege.may_perfmon() {
                    reject!(EPERM, "CAP_BPF and CAP_PERFMON are required to use arena");
                }
                // That the arena has an address in the loader's memory is the caller's to check: it maps arenas.
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Program types that may run anywhere, even where locks are held.
fn is_tracing_prog_type(prog_type: ProgType) -> bool {
    matches!(
        prog_type,
        ProgType::Kprobe
            | ProgType::Tracepoint
            | ProgType::PerfEvent
            | ProgType::RawTracepoint
            | ProgType::RawTracepointWritable
    )
}

fn is_for_sleepable(map_type: MapType) -> bool {
    matches!(
        map_type,
        MapType::Hash
            | MapType::LruHash
            | MapType::Array
            | MapType::PercpuHash
            | MapType::PercpuArray
            | MapType::LruPercpuHash
            | MapType::ArrayOfMaps
            | MapType::HashOfMaps
            | MapType::Ringbuf
            | MapType::UserRingbuf
            | MapType::InodeStorage
            | MapType::SkStorage
            | MapType::TaskStorage
            | MapType::CgrpStorage
            | MapType::Queue
            | MapType::Stack
            | MapType::Arena
    )
}
