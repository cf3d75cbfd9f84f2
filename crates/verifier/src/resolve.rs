//! Objects behind instructions: maps, kernel variables and functions that two-slot loads name; opcodes that exist.
//!
//! Key types: [`Resolved`], [`MapUse`]. [`resolve_ld_imm64`] walks the program once, in order; whatever is wrong first
//! is what the loader hears. A map is judged when it is named first: not every program type may use every map.
//! Kernel counterpart: `resolve_pseudo_ldimm64`, `check_map_prog_compatibility`, `check_pseudo_btf_id`.
//! Neighbours: `env` ([`LdImm64`], slots), `check::ld_imm64` (types of the results), `fixups` (operands of accepted programs).

mod maps;

use alloc::vec::Vec;

use ring3_btf::{Btf, Kind, TypeId};
use ring3_isa::{RawInsn, is_known_opcode};
use ring3_spec::{FdObject, LoadRequest, MapInfo};
use ring3_uapi::{Errno, MapType, ProgType};

use crate::env::{LdImm64, Subprog};
use crate::error::{Check, Violation, reject};
use crate::limits::VAR_OFF_MAX;
use crate::state::{BtfIdx, MapIdx};
use maps::MapUses;

/// Operands of two-slot loads, and the objects that the program uses.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// First slots of two-slot loads, ascending, and what they load.
    pub(crate) loads: Vec<(u32, LdImm64)>,
    /// Maps in order of first use.
    pub(crate) used_maps: Vec<MapIdx>,
    /// BTFs of kernel variables, numbered on from those given.
    pub(crate) btfs: Vec<Btf>,
}

/// What resolving needs.
pub(crate) struct ResolveInput<'a> {
    pub(crate) req: &'a LoadRequest,
    /// Instructions, relocated.
    pub(crate) insns: &'a [RawInsn],
    pub(crate) subprogs: &'a [Subprog],
    /// 0: the kernel's (if there is one), then the program's.
    pub(crate) btfs: &'a [Btf],
    /// Program type; of the target for an extension.
    pub(crate) prog_type: ProgType,
}

/// Maps that fd_array announces by its count, before the program is looked at.
///
/// # Errors
/// As for maps that instructions name; EBADF or EINVAL for what is neither a map nor a BTF.
pub(crate) fn process_fd_array(req: &LoadRequest, prog_type: ProgType) -> Check<Vec<MapIdx>> {
    let mut uses = MapUses {
        req,
        prog_type,
        used: Vec::new(),
    };
    let (Some(fds), true) = (&req.fd_array, req.fd_array_is_counted) else {
        return Ok(uses.used);
    };
    for &fd in fds {
        match req.fds.get(&fd) {
            Some(&FdObject::Map(map)) => {
                uses.add(map)?;
            }
            Some(FdObject::Btf(_)) => {}
            Some(FdObject::Other) => {
                reject!(EINVAL, "fd {fd} is not pointing to valid bpf_map or btf")
            }
            None => reject!(EBADF, "fd {fd} is not pointing to valid bpf_map or btf"),
        }
    }
    Ok(uses.used)
}

/// Resolves the operands of two-slot loads and refuses opcodes that do not exist; `used_maps` is what fd_array announced.
///
/// # Errors
/// EINVAL, EBADF, ENOENT, EPROTO, EFAULT, E2BIG, EBUSY, EPERM with the kernel's words.
pub(crate) fn resolve_ld_imm64(
    input: &ResolveInput<'_>,
    used_maps: Vec<MapIdx>,
) -> Check<Resolved> {
    let insns = input.insns;
    let mut maps = MapUses {
        req: input.req,
        prog_type: input.prog_type,
        used: used_maps,
    };
    let mut btfs = input.btfs.to_vec();
    let mut loads = Vec::new();
    let mut at = 0;
    while at < insns.len() {
        let insn = insns[at];
        check_load_fields(insn)?;
        if insn.is_ld_imm64() {
            let load = resolve_load(at, input, &mut maps, &mut btfs)?;
            loads.push((at as u32, load));
            at += 2;
            continue;
        }
        if !is_known_opcode(insn.code) {
            reject!(EINVAL, "unknown opcode {:02x}", insn.code);
        }
        at += 1;
    }
    Ok(Resolved {
        loads,
        used_maps: maps.used,
        btfs,
    })
}

/// Loads from memory have no immediate, and only two modes.
fn check_load_fields(insn: RawInsn) -> Check {
    if insn.class() == 1 && (!matches!(insn.code & 0xe0, 0x60 | 0x80) || insn.imm != 0) {
        reject!(EINVAL, "BPF_LDX uses reserved fields");
    }
    Ok(())
}

const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;
const PSEUDO_BTF_ID: u8 = 3;
const PSEUDO_FUNC: u8 = 4;
const PSEUDO_MAP_IDX: u8 = 5;
const PSEUDO_MAP_IDX_VALUE: u8 = 6;

fn resolve_load(
    at: usize,
    input: &ResolveInput<'_>,
    maps: &mut MapUses<'_>,
    btfs: &mut Vec<Btf>,
) -> Check<LdImm64> {
    let first = input.insns[at];
    let Some(&second) = input
        .insns
        .get(at + 1)
        .filter(|second| second.code == 0 && second.regs == 0 && second.off == 0)
    else {
        reject!(EINVAL, "invalid bpf_ld_imm64 insn");
    };
    match first.src() {
        0 => {
            return Ok(LdImm64::Value(first.imm as u32, second.imm as u32));
        }
        PSEUDO_BTF_ID => return resolve_kernel_symbol(input, first, second, btfs),
        PSEUDO_FUNC => return resolve_func(input, at, first),
        PSEUDO_MAP_VALUE | PSEUDO_MAP_IDX_VALUE => {}
        PSEUDO_MAP_FD | PSEUDO_MAP_IDX if second.imm == 0 => {}
        _ => reject!(EINVAL, "unrecognized bpf_ld_imm64 insn"),
    }
    let fd = match first.src() {
        PSEUDO_MAP_IDX | PSEUDO_MAP_IDX_VALUE => fd_of_index(input.req, first.imm)?,
        _ => first.imm,
    };
    let map = maps.add_fd(fd)?;
    if matches!(first.src(), PSEUDO_MAP_FD | PSEUDO_MAP_IDX) {
        return Ok(LdImm64::Map(map));
    }
    let off = second.imm as u32;
    if i64::from(off) >= VAR_OFF_MAX {
        reject!(EINVAL, "direct value offset of {off} is not allowed");
    }
    check_direct_value(&input.req.maps[map.0 as usize], off)?;
    Ok(LdImm64::MapValue { map, off })
}

fn fd_of_index(req: &LoadRequest, idx: i32) -> Check<i32> {
    let Some(fds) = &req.fd_array else {
        reject!(EPROTO, "fd_idx without fd_array is invalid");
    };
    match usize::try_from(idx).ok().and_then(|idx| fds.get(idx)) {
        Some(&fd) => Ok(fd),
        None => Err(Violation::silent(Errno::EFAULT)),
    }
}

fn resolve_func(input: &ResolveInput<'_>, at: usize, insn: RawInsn) -> Check<LdImm64> {
    let target = at as i64 + i64::from(insn.imm) + 1;
    let subprog = u32::try_from(target).ok().and_then(|target| {
        input
            .subprogs
            .binary_search_by_key(&target, |subprog| subprog.start)
            .ok()
    });
    match subprog {
        Some(subprog) => Ok(LdImm64::Func {
            subprog: subprog as u32,
        }),
        None => Err(Violation::bug("address of no function")),
    }
}

/// Whether the map's value has an address that programs may use, `off` bytes from its start.
fn check_direct_value(map: &MapInfo, off: u32) -> Check {
    let errno = match map.map_type {
        MapType::Array if map.max_entries != 1 => Errno::ENOTSUPP,
        MapType::Array if off >= map.value_size => Errno::EINVAL,
        MapType::Arena if u64::from(off) > u64::from(map.max_entries) << 12 => Errno::ERANGE,
        MapType::Array | MapType::Arena => return Ok(()),
        _ => reject!(EINVAL, "no direct value access support for this map type"),
    };
    Err(Violation::new(
        errno,
        alloc::format!(
            "invalid access to map value pointer, value_size={} off={off}",
            map.value_size
        ),
    ))
}

fn resolve_kernel_symbol(
    input: &ResolveInput<'_>,
    first: RawInsn,
    second: RawInsn,
    btfs: &mut Vec<Btf>,
) -> Check<LdImm64> {
    let req = input.req;
    let btf = if second.imm != 0 {
        match req.fds.get(&second.imm) {
            Some(FdObject::Btf(btf)) => btf,
            Some(FdObject::Map(_) | FdObject::Other) | None => {
                reject!(EINVAL, "invalid module BTF object FD specified.")
            }
        }
    } else {
        match &req.kernel_btf {
            Some(btf) => btf,
            None => reject!(
                EINVAL,
                "kernel is missing BTF, make sure CONFIG_DEBUG_INFO_BTF=y is specified in Kconfig."
            ),
        }
    };
    let id = first.imm;
    let Some(symbol) = u32::try_from(id)
        .ok()
        .and_then(|id| btf.type_by_id(TypeId(id)))
    else {
        reject!(ENOENT, "ldimm64 insn specifies invalid btf_id {id}.");
    };
    match symbol.kind() {
        // The address of a function: memory of no size.
        Kind::Func => Ok(LdImm64::KernelMem { size: 0 }),
        Kind::Var => {
            if !req.kernel_variables {
                reject!(
                    ENOENT,
                    "ldimm64 failed to find the address for kernel symbol '{}'.",
                    symbol.name()
                );
            }
            resolve_kernel_variable(btf, TypeId(id as u32), symbol.type_id(), btfs)
        }
        _ => reject!(
            EINVAL,
            "pseudo btf_id {id} in ldimm64 isn't KIND_VAR or KIND_FUNC"
        ),
    }
}

fn resolve_kernel_variable(
    btf: &Btf,
    var: TypeId,
    ty: TypeId,
    btfs: &mut Vec<Btf>,
) -> Check<LdImm64> {
    let percpu = btf
        .find_by_name_kind(".data..percpu", Kind::Datasec)
        .and_then(|section| btf.type_by_id(section))
        .is_some_and(|section| section.vars().any(|info| info.ty == var));
    let stripped = btf.stripped(ty);
    if percpu || stripped.is_some_and(|ty| ty.kind().is_composite()) {
        return Ok(LdImm64::BtfVar {
            btf: btf_idx(btf, btfs),
            id: ty,
            percpu,
        });
    }
    match stripped.and_then(|ty| btf.resolve_size(ty.id())) {
        Some(size) => Ok(LdImm64::KernelMem { size }),
        None => {
            let name = stripped.map_or("", |ty| ty.name());
            reject!(
                EINVAL,
                "ldimm64 unable to resolve the size of type '{name}': -22"
            )
        }
    }
}

/// The number of a BTF, a new one if it has none.
fn btf_idx(btf: &Btf, btfs: &mut Vec<Btf>) -> BtfIdx {
    let idx = btfs
        .iter()
        .position(|other| other.is_same(btf))
        .unwrap_or_else(|| {
            btfs.push(btf.clone());
            btfs.len() - 1
        });
    BtfIdx(idx as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::sync::Arc;
    use alloc::vec;
    use ring3_btf::FieldKind;
    use ring3_btf::Record;
    use ring3_uapi::flags::prog_load;

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);

    fn map(map_type: MapType) -> MapInfo {
        MapInfo {
            id: 1,
            map_type,
            name: String::from("m"),
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            map_flags: 0,
            map_extra: 0,
            frozen: false,
            contents: None,
            btf: None,
            key_type_id: TypeId(0),
            value_type_id: TypeId(0),
            record: None,
            inner: None,
        }
    }

    fn request(prog_type: ProgType, maps: Vec<MapInfo>, load: [RawInsn; 2]) -> LoadRequest {
        let mut req = LoadRequest::new(prog_type, vec![load[0], load[1], EXIT]);
        for (idx, map) in maps.into_iter().enumerate() {
            req.fds.insert(idx as i32 + 3, FdObject::Map(idx));
            req.maps.push(Arc::new(map));
        }
        req
    }

    fn load(src: u8, low: i32, high: i32) -> [RawInsn; 2] {
        [
            RawInsn::new(0x18, 1, src, 0, low),
            RawInsn::new(0, 0, 0, 0, high),
        ]
    }

    fn run(req: &LoadRequest) -> Result<Resolved, (Errno, String)> {
        let input = ResolveInput {
            req,
            insns: &req.insns,
            subprogs: &[],
            btfs: &[],
            prog_type: req.prog_type,
        };
        process_fd_array(req, req.prog_type)
            .and_then(|used| resolve_ld_imm64(&input, used))
            .map_err(|violation| (violation.errno, violation.text))
    }

    fn error(req: &LoadRequest) -> (Errno, String) {
        run(req).unwrap_err()
    }

    #[test]
    fn maps_are_used_in_order_of_first_use() {
        let mut req = request(
            ProgType::Xdp,
            vec![map(MapType::Hash), map(MapType::Array)],
            load(1, 4, 0),
        );
        req.insns.splice(2..2, load(2, 4, 7));
        req.insns.splice(2..2, load(1, 3, 0));
        let resolved = run(&req).unwrap();
        assert_eq!(resolved.used_maps, [MapIdx(1), MapIdx(0)]);
        assert_eq!(
            resolved.loads[2],
            (
                4,
                LdImm64::MapValue {
                    map: MapIdx(1),
                    off: 7
                }
            )
        );
    }

    #[test]
    fn bad_fds_are_named() {
        let mut req = request(ProgType::Xdp, vec![], load(1, 3, 0));
        assert_eq!(
            error(&req),
            (Errno::EBADF, "fd 3 is not pointing to valid bpf_map".into())
        );
        req.fds.insert(3, FdObject::Other);
        assert_eq!(
            error(&req),
            (
                Errno::EINVAL,
                "fd 3 is not pointing to valid bpf_map".into()
            )
        );
        let req = request(ProgType::Xdp, vec![], load(5, 0, 0));
        assert_eq!(
            error(&req),
            (Errno::EPROTO, "fd_idx without fd_array is invalid".into())
        );
    }

    #[test]
    fn malformed_loads_are_refused() {
        let mut req = request(ProgType::Xdp, vec![], load(0, 0, 0));
        req.insns[1].off = 1;
        assert_eq!(error(&req).1, "invalid bpf_ld_imm64 insn");
        assert_eq!(
            error(&request(ProgType::Xdp, vec![], load(9, 0, 0))).1,
            "unrecognized bpf_ld_imm64 insn"
        );
        assert_eq!(
            error(&request(ProgType::Xdp, vec![], load(1, 3, 1))).1,
            "unrecognized bpf_ld_imm64 insn"
        );
        let mut req = request(ProgType::Xdp, vec![], load(0, 0, 0));
        req.insns[2] = RawInsn::new(0x79, 0, 1, 0, 1);
        assert_eq!(error(&req).1, "BPF_LDX uses reserved fields");
        req.insns[2] = RawInsn::new(0xff, 0, 1, 0, 1);
        assert_eq!(error(&req).1, "unknown opcode ff");
    }

    #[test]
    fn values_are_addressed_within_their_size() {
        let array = || vec![map(MapType::Array)];
        assert!(run(&request(ProgType::Xdp, array(), load(2, 3, 7))).is_ok());
        assert_eq!(
            error(&request(ProgType::Xdp, array(), load(2, 3, 8))).1,
            "invalid access to map value pointer, value_size=8 off=8"
        );
        assert_eq!(
            error(&request(ProgType::Xdp, array(), load(2, 3, 1 << 29))).1,
            "direct value offset of 536870912 is not allowed"
        );
        assert_eq!(
            error(&request(
                ProgType::Xdp,
                vec![map(MapType::Hash)],
                load(2, 3, 0)
            ))
            .1,
            "no direct value access support for this map type"
        );
        let mut two = map(MapType::Array);
        two.max_entries = 2;
        assert_eq!(
            error(&request(ProgType::Xdp, vec![two], load(2, 3, 0))).0,
            Errno::ENOTSUPP
        );
    }

    #[test]
    fn some_maps_are_not_for_every_program() {
        let mut locked = map(MapType::Array);
        let mut record = Record::default();
        record.mask.0 |= FieldKind::SpinLock as u32;
        locked.record = Some(Arc::new(record));
        assert_eq!(
            error(&request(
                ProgType::Kprobe,
                vec![locked.clone()],
                load(1, 3, 0)
            ))
            .1,
            "tracing progs cannot use bpf_spin_lock yet"
        );
        assert_eq!(
            error(&request(
                ProgType::SocketFilter,
                vec![locked.clone()],
                load(1, 3, 0)
            ))
            .1,
            "socket filter progs cannot use bpf_spin_lock yet"
        );
        assert!(run(&request(ProgType::Xdp, vec![locked], load(1, 3, 0))).is_ok());
        let mut req = request(
            ProgType::Syscall,
            vec![map(MapType::ProgArray)],
            load(1, 3, 0),
        );
        req.flags = prog_load::SLEEPABLE;
        assert_eq!(
            error(&req).1,
            "Sleepable programs can only use array, hash, ringbuf and local storage maps"
        );
    }

    #[test]
    fn counted_fd_arrays_are_checked_first() {
        let mut req = request(ProgType::Xdp, vec![map(MapType::Hash)], load(0, 0, 0));
        req.fd_array = Some(vec![3]);
        assert!(run(&req).unwrap().used_maps.is_empty());
        req.fd_array_is_counted = true;
        assert_eq!(run(&req).unwrap().used_maps, [MapIdx(0)]);
        req.fd_array = Some(vec![3, 9]);
        assert_eq!(error(&req).0, Errno::EBADF);
    }

    #[test]
    fn at_most_64_maps() {
        let maps = (0..65).map(|_| map(MapType::Hash)).collect();
        let mut req = request(ProgType::Xdp, maps, load(1, 3, 0));
        for fd in 4..68 {
            req.insns.splice(0..0, load(1, fd, 0));
        }
        assert_eq!(
            error(&req),
            (
                Errno::E2BIG,
                "The total number of maps per program has reached the limit of 64".into()
            )
        );
    }
}
