//! Values of maps: bounds, what the map permits programs, special fields, and contents known in advance.

use ring3_btf::FieldKind;
use ring3_isa::{LoadMode, Reg};
use ring3_uapi::MapType;
use ring3_uapi::flags::map_create;

use super::mem::{Access, MemAccess, ZeroSize, check_mem_region};
use super::regs::mark_reg_unknown;
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::state::{RegState, RegType};

/// Who touches the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessBy {
    Insn,
    Helper,
}

/// What the map's flags permit programs: `check_map_access_type`.
pub(crate) fn check_access_type(
    env: &Env<'_>,
    reg: &RegState,
    off: i32,
    size: i32,
    access: Access,
) -> Check {
    let Some(map) = reg.map() else {
        return Err(Violation::bug("map value without map"));
    };
    let map = env.map(map);
    let (verb, refused) = match access {
        Access::Write => ("write into", map_create::RDONLY_PROG),
        Access::Read => ("read from", map_create::WRONLY_PROG),
    };
    if map.program_flags() & refused != 0 {
        reject!(
            EACCES,
            "{verb} map forbidden, value_size={} off={off} size={size}",
            map.value_size
        );
    }
    Ok(())
}

/// Bounds and special fields: `check_map_access`.
pub(crate) fn check_map_access(
    env: &Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    zero: ZeroSize,
    by: AccessBy,
) -> Check {
    let Some(map) = reg.map() else {
        return Err(Violation::bug("map value without map"));
    };
    let map = env.map(map);
    check_mem_region(env, reg, base, off, size, map.value_size, zero)?;
    let Some(record) = &map.record else {
        return Ok(());
    };
    let first = reg.scalar.smin.wrapping_add(i64::from(off));
    let last = (reg.scalar.umax as i64)
        .wrapping_add(i64::from(off))
        .wrapping_add(i64::from(size));
    for field in &record.fields {
        let (begin, end) = (
            i64::from(field.offset),
            i64::from(field.offset) + i64::from(field.size()),
        );
        if first >= end || begin >= last {
            continue;
        }
        // Both plain pointers go by one name here.
        let name = match field.kind {
            FieldKind::KptrUnref => FieldKind::KptrRef.name(),
            kind => kind.name(),
        };
        match field.kind {
            FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Uptr => {
                if by != AccessBy::Insn {
                    reject!(EACCES, "{name} cannot be accessed indirectly by helper");
                }
                let Some(value) = reg.scalar.const_value() else {
                    reject!(EACCES, "{name} access cannot have variable offset");
                };
                let at = i64::from(off).wrapping_add(value as i64);
                if begin != at {
                    reject!(
                        EACCES,
                        "{name} access misaligned expected={begin} off={}",
                        at as u64
                    );
                }
                if size != 8 {
                    reject!(EACCES, "{name} access size must be BPF_DW");
                }
            }
            _ => reject!(EACCES, "{name} cannot be accessed directly by load/store"),
        }
    }
    Ok(())
}

/// A load or store of a map's value.
pub(crate) fn check_direct_access(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    access: MemAccess,
) -> Check {
    let size = access.size.bytes() as i32;
    check_access_type(env, reg, off, size, access.access)?;
    check_map_access(env, reg, base, off, size, ZeroSize::Refused, AccessBy::Insn)?;
    let Some(map_idx) = reg.map() else {
        return Err(Violation::bug("map value without map"));
    };
    let map = env.map(map_idx);
    let at = reg
        .scalar
        .const_value()
        .map(|value| i64::from(off).wrapping_add(value as i64));
    if let (Some(at), Some(record)) = (at, &map.record)
        && let Some(field) = u32::try_from(at).ok().and_then(|at| record.at(at))
        && matches!(
            field.kind,
            FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Uptr
        )
    {
        return super::map_field::check_kptr_access(env, reg, field, access);
    }
    let (Access::Read, Some(dst)) = (access.access, access.value) else {
        return Ok(());
    };
    let is_constant = map.map_flags & map_create::RDONLY_PROG != 0 && map.frozen;
    if let (Some(at), Some(contents), true) = (at, &map.contents, is_constant)
        && let Some(bytes) = usize::try_from(at)
            .ok()
            .and_then(|at| contents.get(at..at + size as usize))
    {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let raw = u64::from_le_bytes(word);
        let value = match access.mode {
            LoadMode::ZeroExtend => raw,
            LoadMode::SignExtend => {
                let unused = 64 - 8 * bytes.len() as u32;
                ((raw << unused) as i64 >> unused) as u64
            }
        };
        let state = env.cur.reg_mut(dst);
        state.set_known(value);
        state.ty = RegType::SCALAR;
    } else {
        mark_reg_unknown(env, dst);
    }
    Ok(())
}

/// The kernel's structure behind a map pointer, by map type.
pub(crate) fn kernel_struct_of(map_type: MapType) -> Option<&'static str> {
    Some(match map_type {
        MapType::Hash
        | MapType::PercpuHash
        | MapType::LruHash
        | MapType::LruPercpuHash
        | MapType::HashOfMaps => "bpf_htab",
        MapType::Array
        | MapType::PercpuArray
        | MapType::ProgArray
        | MapType::PerfEventArray
        | MapType::CgroupArray
        | MapType::ArrayOfMaps => "bpf_array",
        MapType::LpmTrie => "lpm_trie",
        MapType::Queue | MapType::Stack => "bpf_queue_stack",
        MapType::StackTrace => "bpf_stack_map",
        MapType::Devmap | MapType::DevmapHash => "bpf_dtab",
        MapType::Cpumap => "bpf_cpu_map",
        MapType::Xskmap => "xsk_map",
        MapType::Sockmap => "bpf_stab",
        MapType::Sockhash => "bpf_shtab",
        MapType::CgroupStorageDeprecated | MapType::PercpuCgroupStorageDeprecated => {
            "bpf_cgroup_storage_map"
        }
        MapType::ReuseportSockarray => "reuseport_array",
        MapType::SkStorage
        | MapType::InodeStorage
        | MapType::TaskStorage
        | MapType::CgrpStorage => "bpf_local_storage_map",
        MapType::StructOps => "bpf_struct_ops_map",
        MapType::Ringbuf | MapType::UserRingbuf => "bpf_ringbuf_map",
        MapType::BloomFilter => "bpf_bloom_filter",
        MapType::Arena => "bpf_arena",
        MapType::Unspec => return None,
    })
}
