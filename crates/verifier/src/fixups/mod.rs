//! Rewrites of accepted programs, and the [`VerifiedProgram`] that comes out.
//!
//! Each pass sweeps once over a [`Draft`](patch::Draft), in the kernel's order, so that `xlated` reads as on Linux where it
//! is observable. What is ours: calls of helpers keep their number, with a [`CallFact`] that says which map and key they
//! get, and so do the kernel's inlined look-ups; `may_goto` and legacy packet loads stay instructions; pointers of maps stay
//! fds with a fact. 32-bit operations need no zero extension on x86-64.
//! Kernel counterpart: `fixups.c`. Neighbours: `pipeline`, `fastcall` and `stack_depth` (facts used here).

mod ctx_access;
mod dead_code;
mod loop_inline;
mod misc;
mod patch;
mod rnd_hi32;

use alloc::vec::Vec;

use ring3_btf::TypeId;
use ring3_isa::RawInsn;
use ring3_spec::{
    CallFact, InsnFacts, LoadRequest, ObjectType, Registry, SubprogFacts, VerifiedProgram,
    VerifierStats,
};
use ring3_uapi::flags::prog_load;
use ring3_uapi::{FuncId, MapType};

use crate::aux::{AuxTable, CallAux, MapArg, MapKey};
use crate::env::{Facts, LdImm64, Linkage, SubprogAux};
use crate::error::Check;
use crate::fastcall::RemovedSpills;
use crate::stack_depth::StackFacts;
use crate::state::BtfIdx;
use crate::subprogs::{CODE_JCOND, is_helper_call, is_kfunc_call, is_pseudo_call};
use patch::build::{ALU64, EXIT, MOV, R0, R1, alu_reg, ja};
use patch::{Draft, DraftSlot};

/// Stack of a function's `may_goto`s.
const MAY_GOTO_BYTES: u32 = 16;

/// What the rewrites read.
pub(crate) struct FixupInput<'a> {
    pub(crate) req: &'a LoadRequest,
    pub(crate) registry: &'a Registry,
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) aux: &'a AuxTable,
    /// One per function.
    pub(crate) subprog_aux: &'a [SubprogAux],
    /// One per function.
    pub(crate) stack: &'a [StackFacts],
    pub(crate) removed_spills: &'a RemovedSpills,
    pub(crate) bpf_capable: bool,
    /// Some path writes into the packet.
    pub(crate) direct_write: bool,
    /// Some path throws.
    pub(crate) seen_exception: bool,
    pub(crate) stop_points: Vec<ring3_spec::StopPoint>,
    pub(crate) outcome: Outcome,
}

/// What exploration says of the whole program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stats: VerifierStats,
    pub(crate) max_pkt_offset: u32,
    pub(crate) max_ctx_offset: u32,
    pub(crate) max_tp_access: u32,
    pub(crate) max_buf_access: ring3_spec::BufAccess,
    pub(crate) enforce_expected_attach_type: bool,
}

/// Rewrites an accepted program.
///
/// # Errors
/// EINVAL, ERANGE with the kernel's words; what we cannot convert is unjudged.
pub(crate) fn fixup(input: &FixupInput<'_>) -> Check<VerifiedProgram> {
    let facts = input.facts;
    let mut draft = Draft::new(&facts.raw, &facts.subprogs);
    for &nop in &input.removed_spills.nops {
        if let Some(slot) = draft.slots.get_mut(nop as usize) {
            slot.insn = ja(0);
            slot.target = nop + 1;
        }
    }
    let mut stack_bytes: Vec<u32> = input
        .removed_spills
        .stack_depth
        .iter()
        .map(|&bytes| u32::from(bytes))
        .collect();
    loop_inline::inline_loops(&mut draft, input.aux, &mut stack_bytes)?;
    let is_seen = |orig: u32| input.aux.get(orig).is_none_or(|aux| aux.seen != 0);
    if input.bpf_capable && !input.req.keeps_dead_code {
        dead_code::remove_dead_code(&mut draft, &is_seen)?;
    } else {
        dead_code::sanitize_dead_code(&mut draft, &is_seen);
    }
    convert_ctx(input, &mut draft)?;
    let object_types = object_types(input);
    misc::do_misc_fixups(&mut draft, &misc_input(input, &object_types))?;
    if input.seen_exception && facts.exception_cb.is_none() {
        // What nobody handles ends the program with the exception's cookie.
        draft.add_hidden_subprog(&[alu_reg(ALU64, MOV, R0, R1), EXIT]);
    }
    if input.req.flags & prog_load::TEST_RND_HI32 != 0 {
        rnd_hi32::poison_upper_halves(&mut draft, input.aux, input.req.seed)?;
    }
    rnd_hi32::extend_cmpxchg(&mut draft, input.aux)?;
    draft.check_functions()?;
    add_may_goto_stack(&draft, &mut stack_bytes);
    verified_program(input, &draft, &stack_bytes, &object_types)
}

/// Functions with a `may_goto` keep its count and start time on their stack.
fn add_may_goto_stack(draft: &Draft, stack_bytes: &mut [u32]) {
    for (idx, subprog) in draft.subprogs.iter().enumerate() {
        let end = draft
            .subprogs
            .get(idx + 1)
            .map_or(draft.slots.len(), |next| next.start as usize);
        let has_may_goto = draft.slots[subprog.start as usize..end]
            .iter()
            .any(|slot| slot.insn.code == CODE_JCOND);
        if has_may_goto && let Some(bytes) = stack_bytes.get_mut(subprog.orig as usize) {
            *bytes += MAY_GOTO_BYTES;
        }
    }
}

fn convert_ctx(input: &FixupInput<'_>, draft: &mut Draft) -> Check {
    let attach = &input.facts.attach;
    let row = input.registry.prog_type(attach.prog_type);
    ctx_access::convert_ctx_accesses(
        draft,
        &ctx_access::CtxInput {
            aux: input.aux,
            ctx: ring3_spec::ctx::table(row.ctx),
            attach_type: row.effective_attach_type(attach.expected_attach_type),
            prog_type: attach.prog_type,
            kernel_btf: input.req.kernel_btf.as_ref(),
            direct_write: input.direct_write,
        },
    )
}

/// Types of allocated objects in the order in which calls name them, and their sizes.
fn object_types(input: &FixupInput<'_>) -> Vec<(BtfIdx, TypeId, u32)> {
    let mut types: Vec<(BtfIdx, TypeId, u32)> = Vec::new();
    for object in input.aux.calls().iter().filter_map(|call| call.object) {
        if types
            .iter()
            .all(|(btf, id, _)| (*btf, *id) != (object.btf, object.id))
        {
            let ty = input.facts.btf(object.btf).type_by_id(object.id);
            types.push((object.btf, object.id, ty.map_or(0, |ty| ty.size())));
        }
    }
    types
}

fn misc_input<'a>(
    input: &FixupInput<'a>,
    object_types: &'a [(BtfIdx, TypeId, u32)],
) -> misc::MiscInput<'a> {
    let attach = &input.facts.attach;
    let arena = input
        .facts
        .used_maps
        .iter()
        .find(|&&map| input.facts.map(map).map_type == MapType::Arena);
    misc::MiscInput {
        req: input.req,
        aux: input.aux,
        prog_type: attach.prog_type,
        attach_type: attach.expected_attach_type,
        sleepable: input.req.flags & prog_load::SLEEPABLE != 0,
        arena_flags: arena.map(|&map| input.facts.map(map).map_flags),
        object_types,
    }
}

fn verified_program(
    input: &FixupInput<'_>,
    draft: &Draft,
    stack_bytes: &[u32],
    object_types: &[(BtfIdx, TypeId, u32)],
) -> Check<VerifiedProgram> {
    let facts = input.facts;
    let insns = draft.encode()?;
    let insn_facts = draft
        .slots
        .iter()
        .map(|slot| insn_facts(input, draft, slot))
        .collect();
    let subprogs: Vec<SubprogFacts> = draft
        .subprogs
        .iter()
        .map(|subprog| subprog_facts(input, subprog.orig as usize, subprog.start, stack_bytes))
        .collect();
    let handler = facts.exception_cb.unwrap_or(patch::NONE);
    let exception_cb = draft
        .subprogs
        .iter()
        .position(|subprog| subprog.orig == handler);
    Ok(VerifiedProgram {
        insns,
        facts: insn_facts,
        changes_pkt_data: facts
            .subprogs
            .first()
            .is_some_and(|main| main.changes_pkt_data),
        subprogs,
        used_maps: facts.used_maps.iter().map(|map| map.0 as usize).collect(),
        object_types: object_types
            .iter()
            .map(|&(btf, id, _)| ObjectType {
                btf: facts.btf(btf).clone(),
                id,
            })
            .collect(),
        stats: input.outcome.stats,
        max_pkt_offset: input.outcome.max_pkt_offset,
        max_ctx_offset: input.outcome.max_ctx_offset,
        max_tp_access: input.outcome.max_tp_access,
        max_buf_access: input.outcome.max_buf_access,
        exception_cb: exception_cb.map(|cb| cb as u32),
        enforce_expected_attach_type: input.outcome.enforce_expected_attach_type,
        stop_points: input.stop_points.clone(),
    })
}

fn insn_facts(input: &FixupInput<'_>, draft: &Draft, slot: &DraftSlot) -> InsnFacts {
    let insn = slot.insn;
    let aux = input.aux.get(slot.orig);
    let mode = insn.code & 0xe0;
    let mut facts = InsnFacts {
        orig_idx: slot.orig,
        seen: aux.is_some_and(|aux| aux.seen != 0),
        divisor_nonzero: slot.divisor_nonzero,
        probe_mem: insn.class() == 1 && matches!(mode, 0x20 | 0x40),
        arena: matches!((insn.class(), mode), (1..=3, 0xa0) | (1, 0xc0) | (3, 0xe0)),
        call: call_fact(draft, slot, &|| {
            if slot.is_primary {
                input.aux.call(slot.orig)
            } else {
                CallAux::default()
            }
        }),
        object_type: slot.object_type,
        ..InsnFacts::default()
    };
    if insn.is_ld_imm64()
        && let loads = &input.facts.loads
        && let Ok(place) = loads.binary_search_by_key(&slot.orig, |(first, _)| *first)
    {
        match loads[place].1 {
            LdImm64::Map(map) => facts.map = Some(map.0),
            LdImm64::MapValue { map, .. } => {
                facts.map = Some(map.0);
                facts.is_map_value = true;
            }
            LdImm64::Func { .. } => facts.func = draft.subprog_at(slot.target),
            LdImm64::Value(..) | LdImm64::BtfVar { .. } | LdImm64::KernelMem { .. } => {}
        }
    }
    facts
}

fn call_fact(draft: &Draft, slot: &DraftSlot, aux: &dyn Fn() -> CallAux) -> Option<CallFact> {
    let insn: RawInsn = slot.insn;
    if is_pseudo_call(insn) {
        return draft.subprog_at(slot.target).map(CallFact::Subprog);
    }
    if is_kfunc_call(insn) {
        return Some(CallFact::Kfunc {
            id: insn.imm as u32,
            btf_idx: insn.off,
        });
    }
    let id = if is_helper_call(insn) {
        let raw = insn.imm as u32;
        match FuncId::from_raw(raw) {
            Some(id) => id,
            None if raw >= Registry::FIRST_CUSTOM_ID => return Some(CallFact::HostHelper(raw)),
            None => return None,
        }
    } else if insn.code == misc::CODE_TAIL_CALL {
        FuncId::TailCall
    } else {
        return None;
    };
    let aux = aux();
    let map = match aux.map_arg {
        MapArg::One { map, .. } => Some(map.0),
        MapArg::Unseen | MapArg::Poison { .. } => None,
    };
    let const_key = match aux.map_key {
        MapKey::One(key) => u32::try_from(key).ok(),
        MapKey::Unseen | MapKey::Poison => None,
    };
    Some(CallFact::Helper { id, map, const_key })
}

fn subprog_facts(
    input: &FixupInput<'_>,
    orig: usize,
    start: u32,
    stack_bytes: &[u32],
) -> SubprogFacts {
    let Some(subprog) = input.facts.subprogs.get(orig) else {
        // Added by the rewrites: it handles exceptions.
        return SubprogFacts {
            start,
            is_callback: true,
            is_async_callback: true,
            ..SubprogFacts::default()
        };
    };
    let aux = input.subprog_aux.get(orig);
    SubprogFacts {
        start,
        stack_bytes: stack_bytes.get(orig).copied().unwrap_or(0),
        name: subprog.name.clone(),
        tail_call_reachable: input
            .stack
            .get(orig)
            .is_some_and(|stack| stack.tail_call_reachable),
        has_tail_call: subprog.has_tail_call,
        has_ld_abs: subprog.has_ld_abs,
        is_callback: aux.is_some_and(|aux| aux.is_cb),
        is_async_callback: aux.is_some_and(|aux| aux.is_async_cb),
        is_global: subprog.linkage == Linkage::Global,
        arg_count: None,
        type_id: subprog.func_type_id.0,
        unreliable: subprog.unreliable || aux.is_some_and(|aux| aux.unreliable),
        changes_pkt_data: subprog.changes_pkt_data,
        might_sleep: subprog.might_sleep,
    }
}
