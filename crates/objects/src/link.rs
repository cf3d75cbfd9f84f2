//! Linking: the verifier's output becomes [`Linked`], with every slot that names something outside of the program resolved.

use std::sync::Arc;

use ring3_btf::{Btf, DESTRUCTIBLE_6_18, FieldMask, KernelTypes, Kind, Record, TypeId};
use ring3_helpers as helpers;
use ring3_helpers::Given;
use ring3_helpers::kernel_memory::{Place, variable};
use ring3_maps::Map;
use ring3_runtime::{
    CallKind, CallTarget, Clobbers, HubRef, InlineCall, Linked, Site, StopSite, Stops,
    TailCallSite, TailCallTable, Target,
};
use ring3_spec::{CallFact, ObjectType, StopPoint, VerifiedProgram};
use ring3_uapi::{AttachType, Errno, FuncId, MapType};

use crate::{Error, MapObject, ProgAttr, System};

const PSEUDO_BTF_ID: u8 = 3;
/// Where functions of the kernel are said to be: an address of no process.
const FUNCTION_ADDRESS: u64 = 0xffff_8000_0000_0000;

/// What a program's code names, as addresses, and so must live as long as it.
pub(crate) struct Held {
    _kinds: Vec<Arc<helpers::ObjectKind>>,
    /// The kernel's types, for helpers that are given them.
    _types: Option<Arc<Btf>>,
}

/// Resolves every slot of a verified program. `kernel` is the BTF that calls of kernel functions name them in.
///
/// # Errors
/// ENOTSUPP: a helper or kfunc without an implementation.
pub(crate) fn link(
    system: &System,
    attr: &ProgAttr,
    kernel: Option<&Btf>,
    program: &Arc<VerifiedProgram>,
    maps: &[Arc<MapObject>],
) -> Result<(Linked, Held), Error> {
    let kinds = object_kinds(program, kernel)?;
    let types = kernel.cloned().map(Arc::new);
    let mut sites = Vec::new();
    for (slot, (insn, fact)) in program.insns.iter().zip(&program.facts).enumerate() {
        let target = if insn.is_ld_imm64() {
            let kind = fact.object_type.and_then(|at| kinds.get(at as usize));
            match fact.map {
                None if kind.is_some() => kind.map(|kind| Target::Imm64(kind.program_ptr())),
                Some(map) => Some(Target::Imm64(map_address(
                    program,
                    slot,
                    map_at(maps, map)?,
                )?)),
                None if insn.src() == PSEUDO_BTF_ID => {
                    Some(Target::Imm64(kernel_symbol(system, attr, program, slot)?))
                }
                None => None,
            }
        } else if let Some(call) = fact.call {
            call_target(system, attr, types.as_ref(), call, maps)?
        } else if is_packet_load(insn.code) {
            Some(Target::LoadPacket(helpers::load_packet))
        } else {
            None
        };
        if let Some(target) = target {
            sites.push(Site {
                slot: slot as u32,
                target,
            });
        }
    }
    let linked = Linked {
        program: Arc::clone(program),
        sites,
        arena: None,
        percpu_stride: None,
        stops: attr
            .limit
            .is_some()
            .then(|| stops(attr, program))
            .transpose()?,
    };
    let held = Held {
        _kinds: kinds,
        _types: types,
    };
    Ok((linked, held))
}

/// What describes the program's object types to those who allocate and drop them.
fn object_kinds(
    program: &VerifiedProgram,
    kernel: Option<&Btf>,
) -> Result<Vec<Arc<helpers::ObjectKind>>, Error> {
    let types = kernel.map(|btf| KernelTypes {
        btf,
        destructible: DESTRUCTIBLE_6_18,
    });
    let kind = |object: &ObjectType| {
        let bytes = object.btf.type_by_id(object.id).map_or(0, |ty| ty.size());
        let mask = FieldMask::ALLOC_OBJ;
        let record =
            Record::parse(&object.btf, object.id, mask, bytes, types).map_err(|errno| {
                let name = object.btf.name(object.id);
                Error::new(errno, format!("struct '{name}': its special fields"))
            })?;
        Ok(helpers::ObjectKind::new(bytes, record.as_ref(), kernel))
    };
    program.object_types.iter().map(kind).collect()
}

/// The implementation of a kernel function: the kernel's own, or the host's.
fn kfunc_target(
    system: &System,
    attr: &ProgAttr,
    kernel: Option<&Btf>,
    id: u32,
    btf_idx: i16,
) -> Result<Target, Error> {
    let missing = |message: String| Err(Error::new(Errno::ENOTSUPP, message));
    let func = kernel
        .filter(|_| btf_idx == 0)
        .and_then(|btf| btf.type_by_id(TypeId(id)));
    let Some(func) = func else {
        return missing(format!(
            "kernel function {id}: functions of modules do not run"
        ));
    };
    let name = func.name();
    if let Some(code) = system.host_kfunc(name) {
        return Ok(Target::Call(CallTarget::plain(code)));
    }
    let Some(row) = helpers::kfunc::find_for(attr.prog_type, name) else {
        return missing(format!("kernel function {name}: no implementation"));
    };
    let params = func.referent().map_or(0, |proto| proto.params().len());
    if params != row.params {
        let expected = row.params;
        return missing(format!(
            "kernel function {name}: {params} parameters in this kernel's BTF, implemented with {expected}"
        ));
    }
    Ok(Target::Call(CallTarget {
        kind: row.kind,
        ..CallTarget::plain(row.code)
    }))
}

/// Where runs with a limit may be stopped.
///
/// # Errors
/// ENOTSUPP: what is held at some point cannot be told, or not be released.
fn stops(attr: &ProgAttr, program: &VerifiedProgram) -> Result<Stops, Error> {
    let attach_type = AttachType::from_raw(attr.expected_attach_type);
    let refuse = |why: String| {
        let text = format!("program '{}': runs cannot have a limit: {why}", attr.name);
        Error::new(Errno::ENOTSUPP, text)
    };
    let site = |point: &StopPoint| {
        let held = point.held.as_ref().map_err(|why| refuse(why.clone()))?;
        let held = held.iter().map(|held| {
            let code = helpers::find_for(attr.prog_type, attach_type, held.release);
            let missing = || {
                refuse(format!(
                    "insn {}: {} has no implementation",
                    point.orig_idx, held.release
                ))
            };
            Ok((held.place, code.ok_or_else(missing)?))
        });
        Ok(StopSite {
            orig_idx: point.orig_idx,
            calls_back: point.calls_back,
            held: held.collect::<Result<_, Error>>()?,
        })
    };
    let sites = program.stop_points.iter().map(site);
    sites.collect::<Result<_, _>>().map(Stops)
}

fn map_at(maps: &[Arc<MapObject>], index: u32) -> Result<&Arc<Map>, Error> {
    maps.get(index as usize)
        .map(|object| object.map())
        .ok_or_else(|| {
            Error::new(
                Errno::EFAULT,
                format!("verifier bug: map index {index} of {}", maps.len()),
            )
        })
}

/// The value of a two-slot load of a map, or of an address in its value.
fn map_address(program: &VerifiedProgram, slot: usize, map: &Map) -> Result<u64, Error> {
    if !program.facts[slot].is_map_value {
        return Ok(map.program_ptr());
    }
    let offset = program
        .insns
        .get(slot + 1)
        .map_or(0, |second| second.imm as u32);
    map.direct_value_addr(offset).map_err(|errno| {
        Error::new(
            errno,
            format!(
                "map '{}': no direct value at offset {offset}",
                map.attr().name
            ),
        )
    })
}

/// The address of a symbol of the kernel: zeros for a variable, nothing readable for a function.
fn kernel_symbol(
    system: &System,
    attr: &ProgAttr,
    program: &VerifiedProgram,
    slot: usize,
) -> Result<u64, Error> {
    let fd = program.insns.get(slot + 1).map_or(0, |second| second.imm);
    let btf = match fd {
        0 => system.kernel_btf(),
        fd => attr.btf_fds.get(&fd).cloned(),
    };
    let id = TypeId(program.insns[slot].imm as u32);
    let symbol = btf
        .as_ref()
        .and_then(|btf| Some((btf, btf.type_by_id(id)?)));
    let Some((btf, symbol)) = symbol else {
        let text = format!("verifier bug: kernel symbol {id:?} has no type");
        return Err(Error::new(Errno::EFAULT, text));
    };
    if symbol.kind() != Kind::Var {
        return Ok(FUNCTION_ADDRESS);
    }
    let is_percpu = btf
        .find_by_name_kind(".data..percpu", Kind::Datasec)
        .and_then(|section| btf.type_by_id(section))
        .is_some_and(|section| section.vars().any(|var| var.ty == id));
    let place = if is_percpu {
        Place::PerCpu
    } else {
        Place::Shared
    };
    let bytes = btf.resolve_size(symbol.type_id()).unwrap_or(0) as usize;
    variable(symbol.name(), bytes, place).map_err(|errno| {
        let text = format!(
            "kernel variable '{}' of {bytes} bytes: no room",
            symbol.name()
        );
        Error::new(errno, text)
    })
}

/// `LD_ABS` and `LD_IND` of any size.
fn is_packet_load(code: u8) -> bool {
    const CLASS_LD: u8 = 0;
    const MODE_ABS: u8 = 0x20;
    const MODE_IND: u8 = 0x40;
    code & 0x07 == CLASS_LD && matches!(code & 0xe0, MODE_ABS | MODE_IND)
}

fn call_target(
    system: &System,
    attr: &ProgAttr,
    kernel: Option<&Arc<Btf>>,
    call: CallFact,
    maps: &[Arc<MapObject>],
) -> Result<Option<Target>, Error> {
    let (id, map, const_key) = match call {
        CallFact::Subprog(_) => return Ok(None),
        CallFact::HostHelper(id) => {
            let code = system.host_helper(id).ok_or_else(|| {
                Error::new(
                    Errno::ENOTSUPP,
                    format!("helper #{id} of the host: registered without an implementation"),
                )
            })?;
            return Ok(Some(Target::Call(CallTarget {
                code,
                clobbers: Clobbers::All,
                kind: CallKind::Plain,
            })));
        }
        CallFact::Kfunc { id, btf_idx } => {
            return kfunc_target(system, attr, kernel.map(Arc::as_ref), id, btf_idx).map(Some);
        }
        CallFact::Helper { id, map, const_key } => (id, map, const_key),
    };
    let map = map.map(|index| map_at(maps, index)).transpose()?;
    if id == FuncId::TailCall {
        let map = map.ok_or_else(|| {
            Error::new(
                Errno::ENOTSUPP,
                "tail call through a map that is not constant",
            )
        })?;
        return tail_call(map, const_key).map(Some);
    }
    let (prog_type, attach_type) = attr.runs_as();
    let found = helpers::find_row_for(prog_type, AttachType::from_raw(attach_type), id);
    let code = match (id, map) {
        (FuncId::MapLookupElem, Some(map)) => map.monomorphic_lookup(),
        (FuncId::MapUpdateElem, Some(map)) => map.monomorphic_update(),
        (FuncId::MapDeleteElem, Some(map)) => map.monomorphic_delete(),
        _ => found.map(|row| row.code).ok_or_else(|| {
            Error::new(
                Errno::ENOTSUPP,
                format!("helper bpf_{id}#{}: no implementation yet", id.raw()),
            )
        })?,
    };
    let given = found.map_or(Given::Nothing, |row| row.given);
    let kind = match id {
        _ if given == Given::KernelTypes => {
            let types = kernel.map_or(std::ptr::null(), Arc::as_ptr);
            CallKind::Given(types.expose_provenance() as u64)
        }
        FuncId::Loop | FuncId::ForEachMapElem | FuncId::FindVma | FuncId::UserRingbufDrain => {
            CallKind::TakesCallback
        }
        _ => CallKind::Plain,
    };
    let target = CallTarget {
        code,
        clobbers: Clobbers::All,
        kind,
    };
    Ok(Some(match (id, map) {
        (FuncId::MapLookupElem, Some(map)) => lookup_target(map, const_key, target),
        (FuncId::GetSmpProcessorId, _) => {
            Target::Inline(InlineCall::SmpProcessorId { fallback: target })
        }
        (FuncId::GetCurrentPidTgid, _) => {
            Target::Inline(InlineCall::CurrentPidTgid { fallback: target })
        }
        (FuncId::GetPrandomU32, _) => Target::Inline(InlineCall::PrandomU32 { fallback: target }),
        _ => Target::Call(target),
    }))
}

/// A look-up in a map whose values lie in an array needs no call.
fn lookup_target(map: &Map, const_key: Option<u32>, fallback: CallTarget) -> Target {
    let Some(layout) = map.array_layout() else {
        return Target::Call(fallback);
    };
    Target::Inline(match (map.map_type(), const_key) {
        (MapType::Array, Some(key)) if key < layout.max_entries => InlineCall::ConstAddress {
            address: layout.base + u64::from(key) * u64::from(layout.stride),
            fallback,
        },
        (MapType::Array, _) => InlineCall::ArrayLookup {
            base: layout.base,
            stride: layout.stride,
            max_entries: layout.max_entries,
            fallback,
        },
        (MapType::PercpuArray, _) => InlineCall::PercpuArrayLookup {
            base: layout.base,
            stride: layout.stride,
            cpu_stride: layout.cpu_stride,
            max_entries: layout.max_entries,
            fallback,
        },
        _ => return Target::Call(fallback),
    })
}

fn tail_call(map: &Arc<Map>, const_key: Option<u32>) -> Result<Target, Error> {
    let array = map.downcast::<ring3_maps::ProgArray>().ok_or_else(|| {
        Error::new(
            Errno::EFAULT,
            format!("verifier bug: map '{}' is no prog array", map.attr().name),
        )
    })?;
    let table = TailCallTable {
        entries: array.table_ptr(),
        max_entries: map.max_entries(),
    };
    Ok(Target::TailCall(TailCallSite {
        table,
        const_index: const_key,
        hub: Some(HubRef::new(array.hub())),
    }))
}
